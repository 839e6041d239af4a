//! What ops read and write beyond what their rows say: asked by the verifier and by the passes.

use iced_x86::Code;
use x86::Gpr;

use crate::block::{GUARD, Op};
use crate::helper::HelperId;
use crate::operand::{FlagSet, Operand, Width};
use crate::ops::{MemUse, OpCode};

/// The flags whose earlier values are surely gone once `op` has run.
///
/// An op that wants no flag writes none; one that wants some gives up the others that it defines too.
#[inline]
pub fn kills(op: &Op) -> FlagSet {
    if op.flags.is_empty() || !op.surely_defines() {
        FlagSet::NONE
    } else {
        op.defines()
    }
}

/// Whether the op may read and write architectural registers that are not among its operands.
#[inline]
pub(crate) fn implicit_registers(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Call | OpCode::String | OpCode::CmpxchgPair | OpCode::Vec | OpCode::X87
    )
}

/// How many low bits of argument `slot` (0: a, 1: b, 2: c) the op may look at.
pub(crate) fn arg_width(op: &Op, slot: usize) -> Width {
    let sub = || {
        Width::ALL
            .get(op.sub as usize)
            .copied()
            .unwrap_or(Width::B64)
    };
    match (op.code, slot) {
        (OpCode::Zext | OpCode::Sext, _) | (OpCode::Crc32, 1) => sub(),
        (OpCode::Crc32, _) => Width::B32,
        (OpCode::CheckPc, 1)
        | (OpCode::Call | OpCode::SetFlags | OpCode::Vec | OpCode::X87 | OpCode::VecStore, _) => {
            Width::B64
        }
        _ => op.width,
    }
}

/// A general register's bit in a set of registers.
pub(crate) const fn bit(gpr: Gpr) -> u16 {
    1 << gpr as u16
}

/// The general register that an operand names, whole or in part.
pub(crate) fn gpr(operand: Operand) -> Option<Gpr> {
    match operand {
        Operand::Reg(g) | Operand::High(g) => Some(g),
        _ => None,
    }
}

/// Everything an op reads through its operands: arguments, then its address's base and index.
#[inline]
pub fn reads(op: &Op) -> [Operand; 5] {
    let (base, index) = op
        .mem
        .map_or((Operand::None, Operand::None), |m| (m.base, m.index));
    [op.a, op.b, op.c, base, index]
}

/// Whether the operand is an architectural register.
pub(crate) fn architectural(operand: Operand) -> bool {
    match operand {
        Operand::Reg(_)
        | Operand::High(_)
        | Operand::Vec(_)
        | Operand::Mmx(_)
        | Operand::Mask(_) => true,
        Operand::None
        | Operand::Temp(_)
        | Operand::Imm(_)
        | Operand::Pc(_)
        | Operand::VecTemp(_) => false,
    }
}

/// Whether the helper leaves registers, flags, memory and devices as they are: another op may fault after it.
fn only_looks(helper: HelperId) -> bool {
    use HelperId as H;
    matches!(
        helper,
        H::ReadSeg
            | H::Sgdt
            | H::Sidt
            | H::Sldt
            | H::Str
            | H::Smsw
            | H::ReadCr
            | H::ReadDr
            | H::Rdpid
            | H::ReadSegBase
            | H::PushfImage
            | H::Bound
            | H::FpuCheck
            | H::Stmxcsr
    )
}

/// Whether the x87 instruction only stores a control register's value.
fn x87_only_looks(sub: u32) -> bool {
    [
        Code::Fnstcw_m2byte,
        Code::Fstcw_m2byte,
        Code::Fnstsw_m2byte,
        Code::Fstsw_m2byte,
    ]
    .iter()
    .any(|c| *c as u32 == sub)
}

/// Whether the op, having run, has changed what the program can see: an instruction may not fault after it.
pub(crate) fn commits(op: &Op) -> bool {
    let registers = architectural(op.dst) || architectural(op.dst2);
    match op.code {
        OpCode::Insn | OpCode::ProbeWrite => false,
        OpCode::Call => registers || !HelperId::from_index(op.sub).is_some_and(only_looks),
        OpCode::X87 => registers || !x87_only_looks(op.sub),
        OpCode::Vec => registers,
        OpCode::String | OpCode::SetDf => true,
        _ => {
            registers
                || !op.flags.is_empty()
                || matches!(op.code.info().mem, MemUse::Write | MemUse::ReadWrite)
        }
    }
}

/// Whether the op may write to memory.
pub fn may_store(op: &Op) -> bool {
    match op.code {
        OpCode::Call | OpCode::String => true,
        OpCode::ProbeWrite => false,
        _ => matches!(op.code.info().mem, MemUse::Write | MemUse::ReadWrite),
    }
}

/// Whether the block may be left before the instruction of `marker`, though no op says so: behind an instruction that
/// stores, since that may be the code that follows (`ops` are all before it), and before a guarded part of a trace.
pub(crate) fn may_be_left(ops: &[Op], marker: &Op) -> bool {
    let mut last = ops.iter().rev().take_while(|op| op.code != OpCode::Insn);
    marker.code == OpCode::Insn && (marker.sub & GUARD != 0 || last.any(may_store))
}

#[cfg(test)]
mod tests {
    use super::kills;
    use crate::{FlagSet, Op, OpCode, Operand, Width};

    #[test]
    fn a_variable_shift_kills_nothing() {
        let shift = |count| Op {
            dst: Operand::Reg(x86::Gpr::Rax),
            a: Operand::Reg(x86::Gpr::Rax),
            b: count,
            ..Op::new(OpCode::Shl, Width::B32)
        };
        assert_eq!(kills(&shift(Operand::Reg(x86::Gpr::Rcx))), FlagSet::NONE);
        assert_eq!(kills(&shift(Operand::Imm(32))), FlagSet::NONE);
        assert_eq!(kills(&shift(Operand::Imm(33))), FlagSet::ALL);
        let sahf = Op {
            sub: 0xd5,
            ..Op::new(OpCode::SetFlags, Width::B64)
        };
        assert_eq!(kills(&sahf), FlagSet::ALL.without(FlagSet::O));
    }
}
