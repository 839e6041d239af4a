//! Tests: every x87, MMX and SSE instruction as it is lowered against the same instruction by crate `portable`.

use frontend_x86::{Features, Limits, Mode};
use iced_x86::{Code, Encoder, Instruction, OpCodeOperandKind as K, OpKind, Register};
use system::Vcpu;
use system::testing::{Machine, START};
use x86::{CpuState, Exception, Gpr, LinAddr, PhysAddr};

use crate::block::{Block, Key};
use crate::code::{LOp, REST, continued, exit, word};
use crate::host::{self, Stubs};
use crate::lower::lower_by;

/// The page with the memory operand; the next one is mapped too.
const DATA: u64 = 0x3_0000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// Bits of a float with `exponent` bits and `fraction` bits: often special, or near one.
    fn float(&mut self, exponent: u32, fraction: u32) -> u64 {
        let top = (1 << exponent) - 1;
        let e = match self.below(8) {
            0 => 0,
            1 => top,
            2 => self.below(top + 1),
            _ => (top / 2 + self.below(40)).wrapping_sub(20) & top,
        };
        let f = self.fraction(fraction);
        self.below(2) << (exponent + fraction) | e << fraction | f
    }

    fn fraction(&mut self, bits: u32) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => (1 << bits) - 1,
            2 => 1 << (bits - 1),
            _ => self.next() & ((1 << bits) - 1),
        }
    }

    /// A register: any format, and now and then what another has.
    fn extended(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let high = self.float(15, 2) >> 2;
        let mut low = self.fraction(63) | 1 << 63;
        if high & 0x7fff == 0 || self.below(16) == 0 {
            low &= !(1 << 63);
        }
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..10].copy_from_slice(&(high as u16).to_le_bytes());
        bytes
    }

    /// Sixteen bytes that are integers or floats.
    fn lanes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let kind = self.below(3);
        for half in bytes.chunks_exact_mut(8) {
            let value = match kind {
                0 => self.next() & self.next() << self.below(64),
                1 => self.float(11, 52),
                _ => self.float(8, 23) | self.float(8, 23) << 32,
            };
            half.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }
}

/// The instruction with random registers and, with `memory`, `[rbx + 10h]` or `[rbx + rsi * 2 + 10h]` where it can
/// have it.
fn instruction(
    code: Code,
    bitness: u32,
    memory: bool,
    index: bool,
    r: &mut Random,
) -> Option<Vec<u8>> {
    let mut insn = Instruction::default();
    insn.set_code(code);
    let info = code.op_code();
    let mut used = false;
    for n in 0..info.op_count() {
        let kind = info.op_kind(n);
        let mut take = |insn: &mut Instruction| {
            let (base, other) = match bitness {
                64 => (Register::RBX, Register::RSI),
                _ => (Register::EBX, Register::ESI),
            };
            insn.set_op_kind(n, OpKind::Memory);
            insn.set_memory_base(base);
            if index {
                insn.set_memory_index(other);
                insn.set_memory_index_scale(2);
            }
            insn.set_memory_displacement64(0x10);
            insn.set_memory_displ_size(1);
            used = true;
        };
        let register = match kind {
            K::mem => {
                take(&mut insn);
                continue;
            }
            K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
                if memory =>
            {
                take(&mut insn);
                continue;
            }
            K::imm8 => {
                insn.set_op_kind(n, OpKind::Immediate8);
                insn.set_immediate8(r.next() as u8);
                continue;
            }
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
                Register::XMM0 + r.below(6) as u32
            }
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
                Register::YMM0 + r.below(6) as u32
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + r.below(8) as u32,
            K::r32_or_mem | K::r32_reg | K::r32_rm => Register::ECX + r.below(2) as u32,
            K::r64_or_mem | K::r64_reg | K::r64_rm => Register::RCX + r.below(2) as u32,
            K::r16_or_mem | K::r16_rm | K::r16_reg => Register::CX + r.below(2) as u32,
            K::r8_or_mem => Register::CL + r.below(2) as u32,
            K::sti_opcode => Register::ST0 + r.below(8) as u32,
            K::st0 => Register::ST0,
            _ => Register::AX,
        };
        insn.set_op_kind(n, OpKind::Register);
        insn.set_op_register(n, register);
    }
    if memory && !used {
        return None;
    }
    let mut encoder = Encoder::new(bitness);
    encoder.encode(&insn, START).ok()?;
    Some(encoder.take_buffer())
}

fn block(v: &Vcpu, bytes: &[u8], stubs: &mut Stubs, exact: bool) -> Box<Block> {
    let mode = Mode::of(&v.st);
    let features = Features::new(&v.model.features_iced());
    let limits = Limits {
        max_insns: 1,
        page: 4096,
        branches: 0,
    };
    let mut padded = bytes.to_vec();
    padded.extend([0x90; 16]);
    let mut block =
        frontend_x86::lift_into(ir::Builder::new(), &padded, &limits, mode, &features).block;
    ir::opt::run(&mut block, ir::opt::Switches::ALL);
    let lowered = lower_by(&block, mode, stubs, exact).expect("one instruction can be lowered");
    Block::new(
        Key {
            phys: START,
            mode: mode.bits(),
        },
        lowered,
        0,
        mode,
        bytes,
    )
}

/// What an instruction left behind.
#[derive(Debug, PartialEq)]
struct After {
    code: u32,
    exception: Option<Exception>,
    state: CpuState,
    memory: [u8; 64],
}

fn run(
    m: &mut Machine,
    block: &Block,
    rest: &mut [LOp; REST],
    state: &CpuState,
    memory: &[u8; 64],
    at: u64,
) -> After {
    let v = &mut *m.v;
    v.load_state(state.clone());
    v.ip = 0;
    m.ram
        .write(PhysAddr(at), memory)
        .expect("the operand is in RAM");
    // The pages are in the TLB, for both kinds of access.
    for page in [DATA, DATA + 0x1000] {
        let byte = v.mmu.load8(LinAddr(page)).expect("mapped");
        v.mmu.store8(LinAddr(page), byte).expect("mapped");
    }
    v.budget = 1000;
    v.engine[word::END] = v.retired + 1000;
    v.engine[word::REST] = rest.as_mut_ptr().addr() as u64;
    host::fetch_mxcsr_flags(v);
    v.st.mxcsr = state.mxcsr;
    crate::x87::enter(v);
    let mut op = block.entry();
    let code = loop {
        let code = (op.run)(v, op);
        if code != exit::CONTINUE {
            break code;
        }
        op = continued(v);
    };
    host::fetch_mxcsr_flags(v);
    v.sync_flags();
    let mut left = [0; 64];
    m.ram
        .read(PhysAddr(at), &mut left)
        .expect("the operand is in RAM");
    After {
        code,
        exception: m.v.exception.take(),
        state: m.v.st.clone(),
        memory: left,
    }
}

/// A random state: x87 mostly at ease, sometimes full, empty or with unmasked exceptions.
fn state(base: &CpuState, r: &mut Random) -> CpuState {
    let mut st = base.clone();
    for gpr in &mut st.gpr {
        *gpr = r.next() >> r.below(64);
    }
    let masks = if r.below(6) == 0 {
        r.next() as u16 & 0x3f
    } else {
        0x3f
    };
    let control = if r.below(2) == 0 {
        0x300
    } else {
        r.next() as u16 & 0xf00
    };
    st.fpu.fcw = control | masks | 0x40;
    let flags = if r.below(2) == 0 {
        0
    } else {
        r.next() as u16 & masks
    };
    st.fpu.fsw = r.next() as u16 & 0x7f00 | flags;
    if r.below(16) == 0 && masks != 0x3f {
        st.fpu.fsw |= !masks & 0x3f | 0x8080;
    }
    let top = u32::from(st.fpu.fsw >> 11 & 7);
    st.fpu.ftw = match r.below(8) {
        0 => r.next() as u8,
        1 => 0xff,
        _ => 0x7f_u8.rotate_left(top),
    };
    for register in &mut st.fpu.regs {
        *register = r.extended();
    }
    if r.below(4) == 0 {
        st.fpu.regs[(top as usize + 1) & 7] = st.fpu.regs[top as usize];
    }
    for vector in &mut st.vec {
        let lanes = r.lanes();
        vector[..16].copy_from_slice(&lanes);
        let lanes = r.lanes();
        vector[16..32].copy_from_slice(&lanes);
    }
    st.mxcsr = match r.below(8) {
        0 => 0x1f80 | r.next() as u32 & 0xe07f,
        _ => 0x1f80 | r.next() as u32 & 0x3f,
    };
    st.rflags = x86::flags::FIXED | r.next() & x86::flags::STATUS;
    st
}

/// Runs `rounds` states through the instruction, both ways.
fn check(m: &mut Machine, code: Code, rounds: u32, r: &mut Random, wrong: &mut Vec<String>) {
    let mut base = m.v.st.clone();
    base.cr4 |= x86::cr4::OSFXSR | x86::cr4::OSXMMEXCPT | x86::cr4::OSXSAVE;
    base.xcr0 = x86::xcr0::X87 | x86::xcr0::SSE | x86::xcr0::AVX;
    m.v.model = std::sync::Arc::new(system::CpuModel::parse("max").expect("a model"));
    let mut rest = Box::new([LOp::FILL; REST]);
    let mut stubs = Stubs::default();
    let bitness = if base.code64() { 64 } else { 32 };
    for form in 0..8 {
        m.v.load_state(base.clone());
        let Some(bytes) = instruction(code, bitness, form & 1 != 0, form & 2 != 0, r) else {
            continue;
        };
        let (exact, fast) = (
            block(&m.v, &bytes, &mut stubs, true),
            block(&m.v, &bytes, &mut stubs, false),
        );
        for _ in 0..rounds {
            let mut before = state(&base, r);
            // Mostly aligned, sometimes not, sometimes across the end of a page.
            let at = DATA
                + match r.below(16) {
                    0 => r.below(64),
                    1 => 0x1000 - r.below(16),
                    _ => 64,
                };
            let index = r.below(100);
            before.gpr[Gpr::Rsi as usize] = index;
            before.gpr[Gpr::Rbx as usize] = at - 0x10 - if form & 2 == 0 { 0 } else { 2 * index };
            if bitness == 32 {
                for gpr in &mut before.gpr {
                    *gpr &= 0xffff_ffff;
                }
            }
            let mut memory = [0; 64];
            for part in memory.chunks_exact_mut(16) {
                part.copy_from_slice(&if r.below(2) == 0 {
                    r.lanes()
                } else {
                    r.extended()
                });
            }
            if code == Code::Fldcw_m2byte && r.below(2) == 0 {
                memory[0] |= 0x3f;
            }
            let a = run(m, &exact, &mut rest, &before, &memory, at);
            let b = run(m, &fast, &mut rest, &before, &memory, at);
            if a != b {
                wrong.push(describe(code, &bytes, &before, &memory, &a, &b));
                return;
            }
        }
    }
}

fn describe(
    code: Code,
    bytes: &[u8],
    before: &CpuState,
    memory: &[u8],
    a: &After,
    b: &After,
) -> String {
    let fpu = |st: &CpuState| {
        let f = &st.fpu;
        let regs: Vec<_> = f
            .regs
            .iter()
            .map(|r| format!("{:020x}", u128::from_le_bytes(*r)))
            .collect();
        format!(
            "cw {:04x} sw {:04x} tw {:02x} ip {:x} dp {:x} {regs:?}",
            f.fcw, f.fsw, f.ftw, f.fip, f.fdp
        )
    };
    let sse = |st: &CpuState| {
        let regs: Vec<_> = st.vec[..6]
            .iter()
            .map(|r| format!("{:02x?}", &r[..32]))
            .collect();
        format!(
            "mxcsr {:04x} flags {:x} cx {:x} dx {:x} {regs:?}",
            st.mxcsr, st.rflags, st.gpr[1], st.gpr[2]
        )
    };
    let x87 = a.state.fpu != b.state.fpu;
    let show = |st: &CpuState| if x87 { fpu(st) } else { sse(st) };
    format!(
        "{code:?} {bytes:02x?} memory {:02x?}\n before {}\n exact {} {:?} {}\n fast  {} {:?} {}\n exact memory {:02x?}\n fast memory  {:02x?}",
        &memory[..32],
        show(before),
        a.code,
        a.exception,
        show(&a.state),
        b.code,
        b.exception,
        show(&b.state),
        &a.memory[..32],
        &b.memory[..32],
    )
}

fn all(which: impl Fn(Code) -> bool, rounds: u32, seed: u64) -> usize {
    let mut r = Random(seed);
    let mut wrong = Vec::new();
    let mut n = 0;
    for mut m in [Machine::long(0, true), Machine::protected(0)] {
        for code in Code::values().filter(|c| which(*c)) {
            n += 1;
            check(&mut m, code, rounds, &mut r, &mut wrong);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {n}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    n
}

const ROUNDS: u32 = if cfg!(debug_assertions) { 100 } else { 1000 };

#[test]
fn x87_is_as_portable_has_it() {
    use crate::x87::{from_memory, register, to_memory};
    let fast = |c| register(c).is_some() || from_memory(c).is_some() || to_memory(c).is_some();
    let n = all(fast, ROUNDS, 0x1234_5678_9abc_def1);
    assert!(cfg!(not(target_arch = "x86_64")) || n > 200, "{n}");
}

#[test]
fn vector_instructions_are_as_portable_has_them() {
    use iced_x86::CpuidFeature as F;
    let sse = |c: Code| {
        let listed = c.cpuid_features().iter().all(|f| {
            matches!(
                f,
                F::MMX
                    | F::SSE
                    | F::SSE2
                    | F::X64
                    | F::SSE3
                    | F::SSSE3
                    | F::SSE4_1
                    | F::SSE4_2
                    | F::PCLMULQDQ
                    | F::SHA
                    | F::AES
                    | F::GFNI
                    | F::AVX
                    | F::AVX2
                    | F::FMA
                    | F::F16C
                    | F::VAES
                    | F::VPCLMULQDQ
            )
        });
        let name = format!("{c:?}");
        let vector = name.contains("mm") || name.contains("Vzero");
        // RCPPS and RSQRTPS are approximations that differ between CPUs.
        let exact = !name.contains("rcp") && !name.contains("rsqrt");
        listed && vector && exact && !name.starts_with("Rcp") && !name.starts_with("Rsqrt")
    };
    let n = all(sse, ROUNDS / 4, 0x0fed_cba9_8765_4321);
    assert!(n > 2000, "{n}");
}
