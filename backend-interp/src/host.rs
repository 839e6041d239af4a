//! What the interpreter takes from the host CPU: 128-by-64 division, MXCSR's sticky flags, and stubs that run one
//! vector instruction on the context's registers.
#![expect(
    unsafe_code,
    reason = "machine code is written, made executable and called"
)]
// UNSAFETY: there is no safe way to execute a vector instruction that is known only when the guest is.

use std::collections::HashMap;
use std::mem::offset_of;

use iced_x86::{
    Code, Encoder, EncodingKind, Instruction, MemoryOperand, Mnemonic, OpKind, Register,
    RoundingControl,
};
use ir::{Operand, Rounding, VecInsn};
use system::{LazyFlags, Vcpu, offset};

use crate::code::{Handler, LOp};

/// Host code for one vector instruction: takes the context, returns RFLAGS if the instruction writes them.
pub type Stub = extern "sysv64" fn(*mut Vcpu) -> u64;

/// high:low / by, for high < by.
#[inline(always)]
pub fn div128(high: u64, low: u64, by: u64) -> (u64, u64) {
    debug_assert!(high < by);
    #[cfg(target_arch = "x86_64")]
    {
        let (quotient, remainder);
        // SAFETY: high < by, so that the quotient fits and DIV does not fault.
        unsafe {
            std::arch::asm!("div {}", in(reg) by, inout("rax") low => quotient, inout("rdx") high => remainder,
                options(pure, nomem, nostack));
        }
        (quotient, remainder)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let dividend = u128::from(high) << 64 | u128::from(low);
        (
            (dividend / u128::from(by)) as u64,
            (dividend % u128::from(by)) as u64,
        )
    }
}

/// Moves the sticky exception flags of the host's MXCSR to the guest's. Stubs run with the host's own controls (which
/// the guest's equal then), so that the flags they raise gather there.
pub fn fetch_mxcsr_flags(v: &mut Vcpu) {
    v.st.mxcsr |= take_mxcsr_flags();
}

/// Clears the host's sticky flags without looking at them: behind Rust code that may have raised some, be it that the
/// compiler has made floating-point instructions of a loop of shifts.
pub fn drop_mxcsr_flags() {
    take_mxcsr_flags();
}

/// The sticky flags of the host's MXCSR, which are clear then.
fn take_mxcsr_flags() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut mxcsr = 0u32;
        let at = &raw mut mxcsr;
        // SAFETY: STMXCSR writes the four bytes of `mxcsr`.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) at, options(nostack)) };
        if mxcsr & 0x3f != 0 {
            let cleared = mxcsr & !0x3f;
            let at = &raw const cleared;
            // SAFETY: LDMXCSR reads the four bytes of `cleared`, which holds the host's own controls.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) at, options(nostack, readonly)) };
        }
        mxcsr & 0x3f
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Stubs are handlers that jump to the next one, as compiled ones do in builds without debug assertions.
const CHAIN: bool = !cfg!(debug_assertions);

/// The stub as the handler that it is; `None` in builds whose stubs return.
pub fn as_handler(stub: Stub) -> Option<Handler> {
    // SAFETY: `assemble` made it with a handler's signature: context and op in, exit code out of the last one.
    CHAIN.then(|| unsafe { std::mem::transmute::<Stub, Handler>(stub) })
}

/// Runs a stub.
#[inline(always)]
pub fn call(stub: Stub, v: &mut Vcpu) -> u64 {
    stub(v)
}

/// The stubs made so far, in one executable arena.
pub struct Stubs {
    arena: Option<Arena>,
    made: HashMap<Key, Option<Stub>>,
}

type Key = (VecInsn, Operand, [Operand; 3], [u16; 4]);

struct Arena {
    base: *mut u8,
    used: usize,
    size: usize,
}

// SAFETY: the mapping belongs to the arena alone, whichever thread holds it.
unsafe impl Send for Arena {}

const ARENA: usize = 8 << 20;

impl Default for Stubs {
    fn default() -> Self {
        Self {
            arena: Arena::new(),
            made: HashMap::new(),
        }
    }
}

impl Stubs {
    /// The stub for an instruction with these operands; `None` where the host cannot run it (another architecture, a
    /// feature that it lacks, no executable memory).
    /// With `fp`, the stub needs MXCSR's controls as the host has them.
    pub fn get(
        &mut self,
        insn: VecInsn,
        dst: Operand,
        args: [Operand; 3],
        fields: [u16; 4],
        fp: bool,
    ) -> Option<Stub> {
        let key = (insn, dst, args, fields);
        if let Some(stub) = self.made.get(&key) {
            return *stub;
        }
        let stub = self.arena.as_mut().and_then(|arena| {
            let (bytes, entry) = assemble(insn, dst, args, fields, fp)?;
            arena.add(&bytes, entry)
        });
        self.made.insert(key, stub);
        stub
    }
}

impl Arena {
    fn new() -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), ARENA, prot, kind, -1, 0) };
        (base != libc::MAP_FAILED).then(|| Self {
            base: base.cast(),
            used: 0,
            size: ARENA,
        })
    }

    /// Never writable and executable at once. Only the vCPU that owns the arena runs its code.
    fn protect(&self, prot: i32) -> bool {
        // SAFETY: the range is the arena's own mapping.
        unsafe { libc::mprotect(self.base.cast(), self.size, prot) == 0 }
    }

    fn add(&mut self, bytes: &[u8], entry: usize) -> Option<Stub> {
        let at = self.used.next_multiple_of(16);
        if at + bytes.len() > self.size {
            return None;
        }
        let to = self.base.wrapping_add(at);
        if !self.protect(libc::PROT_READ | libc::PROT_WRITE) {
            return None;
        }
        // SAFETY: the range lies inside the arena, behind everything that was added before.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        self.used = at + bytes.len();
        if !self.protect(libc::PROT_READ | libc::PROT_EXEC) {
            return None;
        }
        // SAFETY: the bytes are a whole function of the `Stub` type, made by `assemble`.
        Some(unsafe { std::mem::transmute::<*mut u8, Stub>(to.wrapping_add(entry)) })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `base` and `size` are those of the mapping made in `new`, and no stub outlives the engine.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

/// Whether the instruction writes status flags.
pub fn writes_flags(code: Code) -> bool {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    instruction.rflags_modified() & (iced_x86::RflagsBits::CF | iced_x86::RflagsBits::ZF) != 0
}

/// Whether the host has what the instruction needs.
pub fn host_has(code: Code) -> bool {
    use iced_x86::CpuidFeature as F;
    #[cfg(target_arch = "x86_64")]
    {
        code.cpuid_features().iter().all(|f| match f {
            F::MMX | F::SSE | F::SSE2 | F::X64 => true,
            F::SSE3 => is_x86_feature_detected!("sse3"),
            F::SSSE3 => is_x86_feature_detected!("ssse3"),
            F::SSE4_1 => is_x86_feature_detected!("sse4.1"),
            F::SSE4_2 => is_x86_feature_detected!("sse4.2"),
            F::AES => is_x86_feature_detected!("aes"),
            F::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
            F::SHA => is_x86_feature_detected!("sha"),
            F::ADX => is_x86_feature_detected!("adx"),
            F::GFNI => is_x86_feature_detected!("gfni"),
            F::AVX => is_x86_feature_detected!("avx"),
            F::AVX2 => is_x86_feature_detected!("avx2"),
            F::FMA => is_x86_feature_detected!("fma"),
            F::F16C => is_x86_feature_detected!("f16c"),
            F::VAES => is_x86_feature_detected!("vaes"),
            F::VPCLMULQDQ => is_x86_feature_detected!("vpclmulqdq"),
            F::AVX512F => avx512(),
            F::AVX512BW => avx512() && is_x86_feature_detected!("avx512bw"),
            F::AVX512DQ => avx512() && is_x86_feature_detected!("avx512dq"),
            F::AVX512VL => avx512() && is_x86_feature_detected!("avx512vl"),
            F::AVX512CD => avx512() && is_x86_feature_detected!("avx512cd"),
            F::AVX512_VBMI => avx512() && is_x86_feature_detected!("avx512vbmi"),
            F::AVX512_VBMI2 => avx512() && is_x86_feature_detected!("avx512vbmi2"),
            F::AVX512_IFMA => avx512() && is_x86_feature_detected!("avx512ifma"),
            F::AVX512_VNNI => avx512() && is_x86_feature_detected!("avx512vnni"),
            F::AVX512_BITALG => avx512() && is_x86_feature_detected!("avx512bitalg"),
            F::AVX512_VPOPCNTDQ => avx512() && is_x86_feature_detected!("avx512vpopcntdq"),
            _ => false,
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (code, F::SSE);
        false
    }
}

/// Whether the host has AVX-512 as stubs use it: with 64-bit masks.
#[cfg(target_arch = "x86_64")]
pub fn avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Whether the host has AVX-512 as stubs use it: with 64-bit masks.
#[cfg(not(target_arch = "x86_64"))]
pub fn avx512() -> bool {
    false
}

const CTX: Register = Register::RDI;
/// The opmask in stubs.
const OPMASK: Register = Register::K7;

/// The store of a whole vector register of which everything beyond bytes 31:0 is zero.
fn store_cleared(after: &mut Vec<Instruction>, at: MemoryOperand, slot: u32) -> Option<()> {
    if avx512() {
        let store = Code::EVEX_Vmovups_zmmm512_k1z_zmm;
        after.push(Instruction::with2(store, at, Register::ZMM0 + slot).ok()?);
        return Some(());
    }
    let ymm = Register::YMM0 + slot;
    let store = Code::VEX_Vmovups_ymmm256_ymm;
    after.push(Instruction::with2(store, at, ymm).ok()?);
    // The rest by a register that has served.
    let xor = Code::VEX_Vxorps_ymm_ymm_ymmm256;
    after.push(Instruction::with3(xor, ymm, ymm, ymm).ok()?);
    let upper = MemoryOperand::with_base_displ(CTX, at.displacement + 32);
    after.push(Instruction::with2(store, upper, ymm).ok()?);
    Some(())
}

fn field(at: usize) -> MemoryOperand {
    MemoryOperand::with_base_displ(CTX, at as i64)
}

/// The instruction with its operands in xmm1-xmm4 (xmm0 is the guest's, for instructions that imply it), ymm1-ymm4,
/// zmm1-zmm4, k1-k4, mm1-mm4 or r8-r11, the opmask in k7, between loads and stores of the context's fields. VEX and EVEX
/// instructions write all 64 bytes of theirs. Returns the code and where in it the entry is.
fn assemble(
    insn: VecInsn,
    dst: Operand,
    args: [Operand; 3],
    fields: [u16; 4],
    fp: bool,
) -> Option<(Vec<u8>, usize)> {
    let code = insn.code;
    if !host_has(code) {
        return None;
    }
    let flags = writes_flags(code);
    let operands = [dst, args[0], args[1], args[2]];
    let mut main = Instruction::default();
    main.set_code(code);
    let info = code.op_code();
    let count = info.op_count();
    let mut before = Vec::new();
    let mut after = Vec::new();
    let gprs32 = [Register::R8D, Register::R9D, Register::R10D, Register::R11D];
    let gprs64 = [Register::R8, Register::R9, Register::R10, Register::R11];
    let xmms = [
        Register::XMM1,
        Register::XMM2,
        Register::XMM3,
        Register::XMM4,
    ];
    let ymms = [
        Register::YMM1,
        Register::YMM2,
        Register::YMM3,
        Register::YMM4,
    ];
    let evex = info.encoding() == EncodingKind::EVEX;
    let vex = evex || info.encoding() == EncodingKind::VEX;
    let reads = evex || vex && reads_first(code);
    let mms = [Register::MM1, Register::MM2, Register::MM3, Register::MM4];
    let mut next_operand = 0;
    let (mut mmx, mut dirty) = (false, false);
    for n in 0..count {
        use iced_x86::OpCodeOperandKind as K;
        let kind = info.op_kind(n);
        let mut operand = operands[next_operand];
        if n == 0 && operand == Operand::None {
            // An instruction without a destination (PTEST, COMISS, PCMPxSTRx): its operands start at the first source.
            next_operand = 1;
            operand = operands[1];
        }
        let slot = next_operand;
        next_operand += 1;
        // These do something else with a register than with memory.
        let by_memory = matches!(
            code,
            Code::Movss_xmm_xmmm32
                | Code::Movsd_xmm_xmmm64
                | Code::Insertps_xmm_xmmm32_imm8
                | Code::VEX_Vinsertps_xmm_xmm_xmmm32_imm8
                | Code::EVEX_Vinsertps_xmm_xmm_xmmm32_imm8
        ) || insn.broadcast;
        let either = matches!(kind, K::xmm_or_mem | K::ymm_or_mem | K::zmm_or_mem);
        let memory_only = matches!(kind, K::mem | K::mem_mpx | K::mem_mib) || (by_memory && either);
        let written = n == 0 && dst != Operand::None && !(vex && only_reads_first(code));
        match operand {
            Operand::Imm(value) => {
                main.set_op_kind(n, OpKind::Immediate8);
                main.set_immediate8(value as u8);
            }
            Operand::VecTemp(_) if memory_only => {
                main.set_op_kind(n, OpKind::Memory);
                main.set_memory_base(CTX);
                main.set_memory_displacement64(u64::from(fields[slot]));
                main.set_memory_displ_size(8);
                main.set_is_broadcast(insn.broadcast);
            }
            Operand::Temp(_) if matches!(kind, K::mem | K::k_or_mem) => {
                main.set_op_kind(n, OpKind::Memory);
                main.set_memory_base(CTX);
                main.set_memory_displacement64(u64::from(fields[slot]));
                main.set_memory_displ_size(8);
            }
            Operand::Mask(k) => {
                let register = Register::K1 + slot as u32;
                let at = field(offset::mask(k.into()));
                main.set_op_kind(n, OpKind::Register);
                main.set_op_register(n, register);
                if n > 0 || only_reads_first(code) {
                    before.push(Instruction::with2(Code::VEX_Kmovq_kr_km64, register, at).ok()?);
                }
                if written {
                    after.push(Instruction::with2(Code::VEX_Kmovq_m64_kr, at, register).ok()?);
                }
            }
            Operand::Vec(_) | Operand::VecTemp(_)
                if matches!(kind, K::mm_or_mem | K::mm_reg | K::mm_rm) =>
            {
                // An MMX instruction's memory operand, loaded already.
                mmx = true;
                main.set_op_kind(n, OpKind::Register);
                main.set_op_register(n, mms[slot]);
                before.push(
                    Instruction::with2(Code::Movq_mm_mmm64, mms[slot], field(fields[slot].into()))
                        .ok()?,
                );
                if written {
                    after.push(
                        Instruction::with2(
                            Code::Movq_mmm64_mm,
                            field(fields[slot].into()),
                            mms[slot],
                        )
                        .ok()?,
                    );
                }
            }
            Operand::Vec(_) | Operand::VecTemp(_) => {
                let at = match operand {
                    Operand::Vec(r) => offset::vec(r.into()),
                    _ => fields[slot].into(),
                };
                main.set_op_kind(n, OpKind::Register);
                if evex {
                    let at = field(at);
                    let register = match kind {
                        K::zmm_reg | K::zmm_vvvv | K::zmm_or_mem | K::zmm_rm => Register::ZMM1,
                        K::ymm_reg | K::ymm_vvvv | K::ymm_or_mem | K::ymm_rm => Register::YMM1,
                        K::xmm_reg | K::xmm_vvvv | K::xmm_or_mem | K::xmm_rm => Register::XMM1,
                        // A store of its first operand.
                        _ => return None,
                    };
                    let whole = Register::ZMM1 + slot as u32;
                    main.set_op_register(n, register + slot as u32);
                    dirty = true;
                    let load = Code::EVEX_Vmovups_zmm_k1z_zmmm512;
                    before.push(Instruction::with2(load, whole, at).ok()?);
                    if written {
                        let store = Code::EVEX_Vmovups_zmmm512_k1z_zmm;
                        after.push(Instruction::with2(store, at, whole).ok()?);
                    }
                    continue;
                }
                if vex {
                    let at = field(at);
                    let wide = matches!(
                        kind,
                        K::ymm_reg | K::ymm_vvvv | K::ymm_or_mem | K::ymm_rm | K::ymm_is4
                    );
                    let (register, load) = if wide {
                        (ymms[slot], Code::VEX_Vmovups_ymm_ymmm256)
                    } else {
                        (xmms[slot], Code::VEX_Vmovups_xmm_xmmm128)
                    };
                    main.set_op_register(n, register);
                    dirty |= wide;
                    if n > 0 || reads {
                        before.push(Instruction::with2(load, register, at).ok()?);
                    }
                    if written {
                        store_cleared(&mut after, at, slot as u32 + 1)?;
                    }
                    continue;
                }
                main.set_op_register(n, xmms[slot]);
                if n > 0 || !overwrites(code) {
                    before.push(
                        Instruction::with2(Code::Movups_xmm_xmmm128, xmms[slot], field(at)).ok()?,
                    );
                }
                if written {
                    after.push(
                        Instruction::with2(Code::Movups_xmmm128_xmm, field(at), xmms[slot]).ok()?,
                    );
                }
            }
            Operand::Mmx(r) => {
                mmx = true;
                let at = host_mmx(r);
                main.set_op_kind(n, OpKind::Register);
                main.set_op_register(n, mms[slot]);
                before.push(Instruction::with2(Code::Movq_mm_mmm64, mms[slot], field(at)).ok()?);
                if written {
                    after.push(Instruction::with2(Code::Movq_mmm64_mm, field(at), mms[slot]).ok()?);
                }
            }
            Operand::Reg(_) | Operand::Temp(_) => {
                let wide = matches!(kind, K::r64_or_mem | K::r64_reg | K::r64_rm);
                let small = matches!(
                    kind,
                    K::r32_or_mem
                        | K::r32_reg
                        | K::r32_rm
                        | K::r16_or_mem
                        | K::r8_or_mem
                        | K::r16_rm
                );
                if !wide && !small {
                    return None;
                }
                main.set_op_kind(n, OpKind::Register);
                main.set_op_register(n, if wide { gprs64[slot] } else { gprs32[slot] });
                let at = field(fields[slot].into());
                before.push(Instruction::with2(Code::Mov_r64_rm64, gprs64[slot], at).ok()?);
                if written {
                    after.push(Instruction::with2(Code::Mov_rm64_r64, at, gprs64[slot]).ok()?);
                }
            }
            Operand::None => return None,
            Operand::High(_) | Operand::Pc(_) => return None,
        }
    }
    if next_operand < 4 && operands[next_operand..].iter().any(|o| o.is_some()) {
        return None;
    }
    if insn.mask != 0 {
        let at = field(offset::mask(insn.mask.into()));
        before.push(Instruction::with2(Code::VEX_Kmovq_kr_km64, OPMASK, at).ok()?);
        main.set_op_mask(OPMASK);
        main.set_zeroing_masking(insn.zeroing && written_by(&main));
    }
    main.set_rounding_control(match insn.rounding {
        Rounding::Mxcsr | Rounding::Suppress => RoundingControl::None,
        Rounding::Nearest => RoundingControl::RoundToNearest,
        Rounding::Down => RoundingControl::RoundDown,
        Rounding::Up => RoundingControl::RoundUp,
        Rounding::Zero => RoundingControl::RoundTowardZero,
    });
    main.set_suppress_all_exceptions(insn.rounding == Rounding::Suppress);
    implied(code, &mut before, &mut after)?;
    if by_guest_mxcsr(code) {
        let mxcsr = field(offset_of!(Vcpu, st) + offset_of!(x86::CpuState, mxcsr));
        let own = field(offset::SINK);
        before.push(Instruction::with1(Code::VEX_Vstmxcsr_m32, own).ok()?);
        before.push(Instruction::with1(Code::VEX_Vldmxcsr_m32, mxcsr).ok()?);
        after.push(Instruction::with1(Code::VEX_Vldmxcsr_m32, own).ok()?);
    }
    if dirty {
        // Upper halves in use make the SSE instructions of other stubs, and of Rust, slow on some CPUs.
        after.push(Instruction::with(Code::VEX_Vzeroupper));
    }
    if operands.iter().any(|o| matches!(o, Operand::Mmx(_))) {
        enter_mmx(code, dst, &mut after)?;
    }
    let mut encoder = Encoder::new(64);
    let mut entry = 0;
    if CHAIN && fp {
        // The way out lies before the entry: its distance is known.
        let slow = crate::handlers::system::vec_portable as Handler as usize as u64;
        encoder
            .encode(
                &Instruction::with2(Code::Mov_r64_imm64, Register::RAX, slow).ok()?,
                0,
            )
            .ok()?;
        encoder
            .encode(&Instruction::with1(Code::Jmp_rm64, Register::RAX).ok()?, 0)
            .ok()?;
        let mut bytes = encoder.take_buffer();
        entry = bytes.len();
        let mxcsr = field(offset_of!(Vcpu, st) + offset_of!(x86::CpuState, mxcsr));
        encoder
            .encode(
                &Instruction::with2(Code::Mov_r32_rm32, Register::EAX, mxcsr).ok()?,
                0,
            )
            .ok()?;
        encoder
            .encode(
                &Instruction::with2(Code::And_rm32_imm8, Register::EAX, !0x3f_i32).ok()?,
                0,
            )
            .ok()?;
        encoder
            .encode(
                &Instruction::with2(Code::Cmp_EAX_imm32, Register::EAX, x86::MXCSR_RESET).ok()?,
                0,
            )
            .ok()?;
        bytes.extend(encoder.take_buffer());
        encoder
            .encode(
                &Instruction::with_branch(Code::Jne_rel32_64, 0).ok()?,
                bytes.len() as u64,
            )
            .ok()?;
        bytes.extend(encoder.take_buffer());
        encoder.set_buffer(bytes);
    }
    for i in &before {
        encoder.encode(i, 0).ok()?;
    }
    encoder.encode(&main, 0).ok()?;
    if mmx || uses_mmx(code) {
        after.push(Instruction::with(Code::Emms));
    }
    if CHAIN {
        if flags {
            keep_flags(&mut after)?;
        }
        // `next!`.
        let step = size_of::<LOp>() as i32;
        after.push(Instruction::with2(Code::Add_rm64_imm8, Register::RSI, step).ok()?);
        let run = offset_of!(LOp, run) as i64;
        after.push(
            Instruction::with1(
                Code::Jmp_rm64,
                MemoryOperand::with_base_displ(Register::RSI, run),
            )
            .ok()?,
        );
    } else {
        // The moves behind the instruction leave RFLAGS alone. PUSHF is slow: only where somebody wants it.
        if flags {
            after.push(Instruction::with(Code::Pushfq));
            after.push(Instruction::with1(Code::Pop_r64, Register::RAX).ok()?);
        }
        after.push(Instruction::with(Code::Retnq));
    }
    for i in &after {
        encoder.encode(i, 0).ok()?;
    }
    Some((encoder.take_buffer(), entry))
}

/// Whether the destination is no mask: those are zeroed anyhow.
fn written_by(main: &Instruction) -> bool {
    !main.op0_register().is_k()
}

/// Approximations that MXCSR.DAZ and MXCSR.FTZ bear on: no other unit than the host's gives the same bits, so that they
/// run there whatever MXCSR holds. They raise nothing.
fn by_guest_mxcsr(code: Code) -> bool {
    use Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Vrcp14ps
            | M::Vrcp14pd
            | M::Vrcp14ss
            | M::Vrcp14sd
            | M::Vrsqrt14ps
            | M::Vrsqrt14pd
            | M::Vrsqrt14ss
            | M::Vrsqrt14sd
    )
}

/// Takes the status flags over into the context; RAX and RCX are lost.
fn keep_flags(after: &mut Vec<Instruction>) -> Option<()> {
    let rflags = field(offset_of!(Vcpu, st) + offset_of!(x86::CpuState, rflags));
    let kind = field(offset_of!(Vcpu, flags) + offset_of!(LazyFlags, kind));
    let status = x86::flags::STATUS as i32;
    // Nothing so far has changed them: they must be read first.
    after.insert(0, Instruction::with(Code::Pushfq));
    after.push(Instruction::with1(Code::Pop_r64, Register::RAX).ok()?);
    after.push(Instruction::with2(Code::And_rm32_imm32, Register::EAX, status).ok()?);
    after.push(Instruction::with2(Code::Mov_r64_rm64, Register::RCX, rflags).ok()?);
    after.push(Instruction::with2(Code::And_rm64_imm32, Register::RCX, !status).ok()?);
    after.push(Instruction::with2(Code::Or_r64_rm64, Register::RCX, Register::RAX).ok()?);
    after.push(Instruction::with2(Code::Mov_rm64_r64, rflags, Register::RCX).ok()?);
    after.push(Instruction::with2(Code::Mov_rm32_imm32, kind, LazyFlags::KNOWN.kind).ok()?);
    Some(())
}

/// What an MMX instruction does to the x87's state: TOP = 0, no register empty, ones in the exponent of what it writes.
fn enter_mmx(code: Code, dst: Operand, after: &mut Vec<Instruction>) -> Option<()> {
    let fpu = offset_of!(Vcpu, st) + offset_of!(x86::CpuState, fpu);
    if let Operand::Mmx(r) = dst
        && !matches!(code, Code::Movntq_m64_mm | Code::Maskmovq_rDI_mm_mm)
    {
        after.push(
            Instruction::with2(Code::Mov_rm16_imm16, field(host_mmx(r) + 8), 0xffff_u32).ok()?,
        );
    }
    let fsw = field(fpu + offset_of!(x86::Fpu, fsw));
    let ftw = field(fpu + offset_of!(x86::Fpu, ftw));
    after.push(Instruction::with2(Code::And_rm16_imm16, fsw, u32::from(!0x3800_u16)).ok()?);
    after.push(Instruction::with2(Code::Mov_rm8_imm8, ftw, 0xff_u32).ok()?);
    Some(())
}

/// Whether the first operand, an XMM register, is only written.
fn overwrites(code: Code) -> bool {
    matches!(
        code,
        Code::Movaps_xmm_xmmm128
            | Code::Movups_xmm_xmmm128
            | Code::Movapd_xmm_xmmm128
            | Code::Movupd_xmm_xmmm128
            | Code::Movdqa_xmm_xmmm128
            | Code::Movdqu_xmm_xmmm128
            | Code::Movq_xmm_xmmm64
            | Code::Movd_xmm_rm32
            | Code::Movq_xmm_rm64
            | Code::Pshufd_xmm_xmmm128_imm8
    )
}

/// Whether a VEX instruction reads its first operand and does not write it.
fn only_reads_first(code: Code) -> bool {
    use Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Vptest
            | M::Vtestps
            | M::Vtestpd
            | M::Vcomiss
            | M::Vcomisd
            | M::Vucomiss
            | M::Vucomisd
            | M::Vpcmpestri
            | M::Vpcmpestri64
            | M::Vpcmpestrm
            | M::Vpcmpestrm64
            | M::Vpcmpistri
            | M::Vpcmpistrm
            | M::Kortestb
            | M::Kortestw
            | M::Kortestd
            | M::Kortestq
            | M::Ktestb
            | M::Ktestw
            | M::Ktestd
            | M::Ktestq
    )
}

/// Whether a VEX instruction reads its first operand: comparisons, and FMA's accumulator.
fn reads_first(code: Code) -> bool {
    let fma = code.cpuid_features() == [iced_x86::CpuidFeature::FMA];
    fma || only_reads_first(code)
}

fn uses_mmx(code: Code) -> bool {
    use iced_x86::OpCodeOperandKind as K;
    let info = code.op_code();
    (0..info.op_count()).any(|n| matches!(info.op_kind(n), K::mm_or_mem | K::mm_reg | K::mm_rm))
}

/// Byte offset of MMX register `r`.
pub fn host_mmx(r: u8) -> usize {
    offset_of!(Vcpu, st)
        + offset_of!(x86::CpuState, fpu)
        + offset_of!(x86::Fpu, regs)
        + usize::from(r & 7) * size_of::<[u8; 16]>()
}

/// Registers that the instruction uses without naming them.
fn implied(code: Code, before: &mut Vec<Instruction>, after: &mut Vec<Instruction>) -> Option<()> {
    let xmm0 = field(offset::vec(0));
    let gpr = |r: x86::Gpr| field(offset::gpr(r));
    let load_lengths = |before: &mut Vec<Instruction>| -> Option<()> {
        before
            .push(Instruction::with2(Code::Mov_r64_rm64, Register::RAX, gpr(x86::Gpr::Rax)).ok()?);
        before
            .push(Instruction::with2(Code::Mov_r64_rm64, Register::RDX, gpr(x86::Gpr::Rdx)).ok()?);
        Some(())
    };
    use Mnemonic as M;
    match code.mnemonic() {
        M::Pblendvb | M::Blendvps | M::Blendvpd | M::Sha256rnds2 => {
            before.push(Instruction::with2(Code::Movups_xmm_xmmm128, Register::XMM0, xmm0).ok()?);
        }
        M::Pcmpestri | M::Pcmpestri64 | M::Vpcmpestri | M::Vpcmpestri64 => {
            load_lengths(before)?;
            after.push(
                Instruction::with2(Code::Mov_rm64_r64, gpr(x86::Gpr::Rcx), Register::RCX).ok()?,
            );
        }
        M::Pcmpistri | M::Vpcmpistri => {
            after.push(
                Instruction::with2(Code::Mov_rm64_r64, gpr(x86::Gpr::Rcx), Register::RCX).ok()?,
            );
        }
        M::Pcmpestrm | M::Pcmpestrm64 => {
            load_lengths(before)?;
            after.push(Instruction::with2(Code::Movups_xmmm128_xmm, xmm0, Register::XMM0).ok()?);
        }
        M::Pcmpistrm => {
            after.push(Instruction::with2(Code::Movups_xmmm128_xmm, xmm0, Register::XMM0).ok()?);
        }
        M::Vpcmpestrm | M::Vpcmpestrm64 | M::Vpcmpistrm => {
            if code.mnemonic() != M::Vpcmpistrm {
                load_lengths(before)?;
            }
            store_cleared(after, xmm0, 0)?;
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Mnemonic, OpCodeOperandKind as K};
    use ir::{Operand, Temp, VecInsn, VecTemp};

    use super::{assemble, host_has};

    fn mask_move(code: Code) -> bool {
        format!("{:?}", code.mnemonic()).starts_with("Kmov")
    }

    /// Operands of an instruction: registers, with the last that may be in memory loaded to a temporary if so wished.
    fn operands(code: Code, memory: bool) -> Option<[Operand; 4]> {
        let mut list = [Operand::None; 4];
        let mut loaded = false;
        for (slot, kind) in list.iter_mut().zip(code.op_code().op_kinds()) {
            let either = matches!(kind, K::xmm_or_mem | K::ymm_or_mem | K::zmm_or_mem | K::mem);
            let scalar = mask_move(code);
            *slot = match kind {
                K::imm8 => Operand::Imm(1),
                K::mem | K::k_or_mem if scalar && (memory || *kind == K::mem) => {
                    loaded = true;
                    Operand::Temp(Temp(0))
                }
                K::k_reg | K::k_rm | K::k_vvvv | K::k_or_mem => Operand::Mask(1),
                _ if either && (memory || *kind == K::mem) => {
                    loaded = true;
                    Operand::VecTemp(VecTemp(0))
                }
                K::mm_reg | K::mm_rm | K::mm_or_mem => Operand::Mmx(1),
                K::xmm_reg | K::xmm_rm | K::xmm_or_mem | K::xmm_vvvv | K::xmm_is4 => {
                    Operand::Vec(1)
                }
                K::ymm_reg | K::ymm_rm | K::ymm_or_mem | K::ymm_vvvv | K::ymm_is4 => {
                    Operand::Vec(2)
                }
                K::zmm_reg | K::zmm_rm | K::zmm_or_mem | K::zmm_vvvv => Operand::Vec(3),
                K::seg_rDI => return None,
                _ => Operand::Reg(x86::Gpr::Rax),
            };
        }
        (loaded || !memory).then_some(list)
    }

    #[test]
    fn the_host_runs_all_that_it_can() {
        let mut made = 0;
        let mut missing = Vec::new();
        let known = |c: &Code| portable::vector::covers(*c) || portable::vector::covers_evex(*c);
        let vector = |c: &Code| known(c) && c.mnemonic() != Mnemonic::Crc32;
        for code in Code::values().filter(|c| vector(c) && host_has(*c)) {
            for memory in [false, true] {
                let Some([dst, a, b, c]) = operands(code, memory) else {
                    continue;
                };
                match assemble(
                    VecInsn::plain(code),
                    dst,
                    [a, b, c],
                    [0x100, 0x200, 0x300, 0x400],
                    false,
                ) {
                    Some(_) => made += 1,
                    None => missing.push((code, memory)),
                }
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
        assert!(made > 500 || cfg!(not(target_arch = "x86_64")), "{made}");
    }
}
