//! A few instructions in a row: engines fuse neighbours, drop flags that nobody reads, and keep values between them.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic as M, OpKind, Register as R};

use super::{Encoding, Generator};
use crate::Case;
use crate::case::CODE_BYTES;
use crate::layout::{self, ALIASES, CODE, sel};
use crate::random::Lanes;

/// Instructions that leave no flag but AF undefined, and that have no other trap in them. RBX and RSP stay as they are
/// but for pushes and pops: memory operands lie there.
const POOL: &[M] = &[
    M::Add,
    M::Adc,
    M::Sub,
    M::Sbb,
    M::And,
    M::Or,
    M::Xor,
    M::Cmp,
    M::Test,
    M::Inc,
    M::Dec,
    M::Neg,
    M::Not,
    M::Mov,
    M::Movzx,
    M::Movsx,
    M::Movsxd,
    M::Lea,
    M::Push,
    M::Pop,
    M::Xchg,
    M::Xadd,
    M::Cmpxchg,
    M::Bswap,
    M::Cdq,
    M::Cqo,
    M::Cwde,
    M::Cdqe,
    M::Adcx,
    M::Adox,
    M::Popcnt,
    M::Clc,
    M::Stc,
    M::Cmc,
    M::Rorx,
    M::Shlx,
    M::Sarx,
    M::Shrx,
    M::Movaps,
    M::Movups,
    M::Movd,
    M::Movq,
    M::Movss,
    M::Movsd,
    M::Addps,
    M::Addsd,
    M::Mulsd,
    M::Subss,
    M::Cvtsi2sd,
    M::Cvttsd2si,
    M::Ucomisd,
    M::Comiss,
    M::Paddd,
    M::Pxor,
    M::Pshufd,
    M::Pcmpeqb,
    M::Pmovmskb,
    M::Vmovaps,
    M::Vmovups,
    M::Vmovss,
    M::Vmovq,
    M::Vaddps,
    M::Vmulsd,
    M::Vfmadd213sd,
    M::Vfnmadd231ps,
    M::Vpaddd,
    M::Vpxor,
    M::Vpshufd,
    M::Vpbroadcastd,
    M::Vinserti128,
    M::Vextracti128,
    M::Vpmovmskb,
    M::Vptest,
    M::Vucomisd,
    M::Vzeroupper,
    M::Fld,
    M::Fstp,
    M::Fxch,
    M::Fadd,
    M::Fmul,
    M::Fild,
    M::Fistp,
    M::Sete,
    M::Setb,
    M::Setg,
    M::Seto,
    M::Sets,
    M::Setp,
    M::Setbe,
    M::Cmove,
    M::Cmovb,
    M::Cmovl,
    M::Cmovno,
    M::Cmova,
];

/// Conditional branches: more often than one in [`POOL`].
const BRANCHES: &[M] = &[
    M::Je,
    M::Jne,
    M::Jb,
    M::Jae,
    M::Jbe,
    M::Ja,
    M::Jl,
    M::Jge,
    M::Jle,
    M::Jg,
    M::Js,
    M::Jns,
    M::Jo,
    M::Jno,
    M::Jp,
    M::Jnp,
];

/// What sequences are made of.
pub(super) fn pool() -> (Vec<Code>, Vec<Code>) {
    let simple = |code: &Code| {
        let info = code.op_code();
        info.is_instruction() && !info.fwait() && !matches!(code.mnemonic(), M::INVALID)
    };
    let of = |list: &[M]| {
        Code::values()
            .filter(simple)
            .filter(|c| list.contains(&c.mnemonic()))
            .collect()
    };
    (of(POOL), of(BRANCHES))
}

impl Generator {
    /// Between two and six instructions.
    pub fn sequence(&mut self, bits: u8) -> Option<Encoding> {
        let r = &mut self.random;
        let offset = 0x800 + r.below(0x400);
        let (cs, start) = if bits == 64 {
            (sel::CODE64, r.pick(&CODE) + offset)
        } else {
            (sel::CODE32, CODE[0] + offset)
        };
        let count = 2 + r.below(5);
        let mut bytes = Vec::new();
        self.simple = true;
        for n in 0..count {
            for _ in 0..20 {
                let branch = n > 0 && self.random.one_in(4);
                let list = if branch { &self.branches } else { &self.pool };
                let code = self.random.pick(list);
                let ip = start + bytes.len() as u64;
                let part = self
                    .build(code, bits, ip)
                    .and_then(|part| self.accept(part, bits, cs, ip));
                if let Some(part) = part.filter(|p| self.harmless(p, start)) {
                    if bytes.len() + part.bytes.len() <= CODE_BYTES {
                        bytes.extend(part.bytes);
                    }
                    break;
                }
            }
        }
        self.simple = false;
        let insn = crate::codes::decode(&bytes, bits, start);
        (bytes.len() > insn.len()).then_some(Encoding {
            bytes,
            insn,
            bits,
            cs,
            ip: start,
        })
    }

    fn harmless(&self, part: &Encoding, start: u64) -> bool {
        let insn = &part.insn;
        if insn.flow_control() == FlowControl::ConditionalBranch {
            // Backwards, into INT3s.
            let target = insn.near_branch_target();
            return insn.op0_kind() != OpKind::NearBranch16
                && (start - 0x400..start - 4).contains(&target);
        }
        let fixed = |r: R| matches!(r.full_register(), R::RBX | R::RSP) || r.is_segment_register();
        let written = |insn: &Instruction| {
            (0..insn.op_count())
                .any(|n| insn.op_kind(n) == OpKind::Register && fixed(insn.op_register(n)))
        };
        let elsewhere = (0..insn.op_count()).any(|n| match insn.op_kind(n) {
            OpKind::Register => false,
            OpKind::Memory => insn.memory_base() == R::None,
            kind => format!("{kind:?}").starts_with("Memory"),
        });
        !elsewhere
            && !insn.is_invalid()
            && insn.flow_control() == FlowControl::Next
            && !insn.has_lock_prefix()
            && !written(insn)
    }

    /// A state for a sequence: RBX and RSP point into the arena's middle.
    pub fn sequence_case(&mut self, encoding: &Encoding) -> Case {
        let mut case = Case::new(encoding.bits, &encoding.bytes);
        (case.seg[1], case.ip) = (encoding.cs, encoding.ip);
        let r = &mut self.random;
        for gpr in &mut case.gpr {
            *gpr = r.integer();
        }
        if r.one_in(2) {
            // Equal and nearly equal values, for comparisons.
            let same = case.gpr[0];
            for n in [1, 2, 6, 7] {
                case.gpr[n] = same.wrapping_add(r.below(3)).wrapping_sub(1);
            }
        }
        case.rflags |= r.next() & 0x8d5;
        for n in 0..case.registers() {
            let bytes = self.random.vector(Lanes::F64);
            case.fx.xmm_mut(n).copy_from_slice(&bytes);
            if self.avx {
                case.uppers[n] = self.random.vector(Lanes::F64);
            }
        }
        self.wide(&mut case, Lanes::F64);
        self.fpu(&mut case);
        let mxcsr = self.mxcsr();
        case.fx.set_mxcsr(mxcsr);
        let aliases = if encoding.bits == 64 {
            &ALIASES[1..]
        } else {
            &ALIASES[1..3]
        };
        for n in [3, 4] {
            let at = (0x100 + self.random.below(0x1d00)) & !15;
            case.gpr[n] = self.random.pick(aliases) + at;
            let bytes: Vec<u8> = (0..16)
                .flat_map(|_| self.random.integer().to_le_bytes())
                .collect();
            case.lay(at as usize, &bytes);
        }
        debug_assert!(layout::arena_offset(case.gpr[4]).is_some());
        case
    }

    /// The address of a memory operand in a sequence.
    pub(super) fn simple_memory(&mut self, i: &mut Instruction, n: u32, bits: u8) {
        i.set_op_kind(n, OpKind::Memory);
        let base = match (bits, self.random.one_in(4)) {
            (64, false) => R::RBX,
            (64, true) => R::RSP,
            (_, false) => R::EBX,
            (_, true) => R::ESP,
        };
        i.set_memory_base(base);
        let disp = if self.random.one_in(2) {
            self.random.below(7) * 16
        } else {
            self.random.below(0x78)
        };
        i.set_memory_displ_size(1);
        i.set_memory_displacement64(disp);
    }
}
