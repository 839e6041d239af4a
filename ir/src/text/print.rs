//! Writes blocks as text.

use std::fmt::{self, Display, Formatter};

use super::{CONDS, GPRS, HIGHS, SEGS, max_args, natural_width};
use crate::block::{Block, MARKS, Op, PART};
use crate::evex::VecInsn;
use crate::helper::{Exit, HelperId, Hint, Jump, Rep, StringOp};
use crate::operand::{Access, Mem, Operand, SegBase, Width};
use crate::ops::{MemUse, OpCode, Sub};

impl Display for Block {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "block temps={} vtemps={}", self.temps, self.vec_temps)?;
        let (len, insns) = counted(&self.ops);
        if self.len != len {
            write!(f, " len={}", self.len)?;
        }
        if self.insns != insns {
            write!(f, " insns={}", self.insns)?;
        }
        writeln!(f)?;
        for op in &self.ops {
            writeln!(f, "  {op}")?;
        }
        Ok(())
    }
}

/// The block's length and number of instructions as its markers say.
pub(super) fn counted(ops: &[Op]) -> (u32, u32) {
    let mut insns = 0;
    let mut len = 0;
    for op in ops {
        if op.code == OpCode::Insn {
            insns += 1;
            if let Operand::Imm(delta) = op.a {
                len = (delta as u32).wrapping_add(op.sub & !MARKS);
            }
        }
    }
    (len, insns)
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let info = self.code.info();
        if self.dst2.is_some() {
            write!(f, "{}, {} = ", self.dst, self.dst2)?;
        } else if self.dst.is_some() {
            write!(f, "{} = ", self.dst)?;
        }
        f.write_str(info.name)?;
        if natural_width(self.code, self.sub) != Some(self.width) {
            write!(f, ".{}", self.width.bits())?;
        }
        if self.code == OpCode::Insn {
            let part = match self.sub & MARKS {
                0 => "",
                PART => " part",
                _ => " part guarded",
            };
            let len = self.sub & !MARKS;
            let Operand::Imm(delta) = self.a else {
                return write!(f, " {} len={len}{part}", self.a);
            };
            return write!(f, " {delta:+} len={len}{part}");
        }
        sub(self, f)?;
        let mut separator = " ";
        if let Some(mem) = &self.mem {
            write!(f, " {mem}")?;
            separator = ", ";
        } else if info.mem != MemUse::None {
            f.write_str(" (no memory operand)")?;
        }
        let args = [self.a, self.b, self.c];
        let given = args
            .iter()
            .rposition(|a| a.is_some())
            .map_or(0, |last| last + 1);
        debug_assert!(
            given <= max_args(self),
            "{} with {given} arguments",
            info.name
        );
        for arg in &args[..given] {
            write!(f, "{separator}{arg}")?;
            separator = ", ";
        }
        if !self.flags.is_empty() {
            write!(f, " {{{:?}}}", self.flags)?;
        }
        Ok(())
    }
}

/// What the `sub` field says, with a space before it.
fn sub(op: &Op, f: &mut Formatter<'_>) -> fmt::Result {
    let n = op.sub;
    let index = n as usize;
    let name = match op.code.info().sub {
        Sub::None => return Ok(()),
        Sub::Cond => CONDS.get(index).copied(),
        Sub::Width => match Width::ALL.get(index) {
            Some(width) => return write!(f, " from.{}", width.bits()),
            None => None,
        },
        Sub::Alu => OpCode::from_index(n).map(|c| c.info().name),
        Sub::Helper => HelperId::from_index(n).map(HelperId::name),
        Sub::Code => match VecInsn::decode(n) {
            Some(insn) => {
                write!(f, " {:?}", insn.code)?;
                return insn
                    .suffixes()
                    .iter()
                    .try_for_each(|suffix| write!(f, "/{suffix}"));
            }
            None => None,
        },
        Sub::Seg => SEGS.get(index).map(|s| s.0),
        Sub::Exit => Exit::from_index(n).map(Exit::name),
        Sub::Jump => Jump::from_index(n).map(Jump::name),
        Sub::Hint => Hint::from_index(n).map(Hint::name),
        Sub::String => match StringOp::decode(n) {
            Some(op) => return string(op, f),
            None => None,
        },
        Sub::Number if n < 256 => return write!(f, " #{n}"),
        Sub::Number => return write!(f, " #{n:#x}"),
    };
    match name {
        Some(name) => write!(f, " {name}"),
        None => write!(f, " (sub {n:#x})"),
    }
}

fn string(op: StringOp, f: &mut Formatter<'_>) -> fmt::Result {
    if op.rep != Rep::None {
        write!(f, " {}", op.rep.name())?;
    }
    write!(f, " {}.{}", op.kind.name(), op.width.bits())?;
    if op.addr != Width::B64 {
        write!(f, " a{}", op.addr.bits())?;
    }
    write!(f, " {} len={}", SEGS[usize::from(op.seg)].0, op.len)
}

/// A number: decimal below ten, else hexadecimal.
struct Number(u64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 < 10 {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:#x}", self.0)
        }
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => f.write_str("_"),
            Self::Reg(g) => f.write_str(GPRS[g as usize]),
            Self::High(g) => match HIGHS.get(g as usize) {
                Some(name) => f.write_str(name),
                None => write!(f, "(bits 15:8 of {})", GPRS[g as usize]),
            },
            Self::Temp(t) => write!(f, "%{}", t.0),
            Self::Imm(n) if n < 0 => write!(f, "-{}", Number(n.unsigned_abs())),
            Self::Imm(n) => write!(f, "{}", Number(n.unsigned_abs())),
            Self::Pc(n) => write!(f, "pc{n:+}"),
            Self::Vec(n) => write!(f, "v{n}"),
            Self::Mmx(n) => write!(f, "mm{n}"),
            Self::Mask(n) => write!(f, "k{n}"),
            Self::VecTemp(t) => write!(f, "%v{}", t.0),
        }
    }
}

impl Display for Mem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (set, word) in [
            (self.lock, "lock "),
            (self.stack, "stack "),
            (self.access == Access::User, "user "),
            (self.access == Access::System, "system "),
        ] {
            if set {
                f.write_str(word)?;
            }
        }
        if self.addr != Width::B64 {
            write!(f, "a{} ", self.addr.bits())?;
        }
        if self.align != 1 {
            write!(f, "align={} ", self.align)?;
        }
        f.write_str(match self.seg {
            SegBase::None => "[",
            SegBase::Fs => "[fs:",
            SegBase::Gs => "[gs:",
        })?;
        let mut plus = "";
        if self.base.is_some() {
            write!(f, "{}", self.base)?;
            plus = "+";
        }
        if self.index.is_some() {
            // A factor beyond 8 is shown as its exponent, which the verifier refuses and the parser doesn't know.
            match self.scale {
                0..=3 => write!(f, "{plus}{}*{}", self.index, 1 << self.scale)?,
                scale => write!(f, "{plus}{}<<{scale}", self.index)?,
            }
            plus = "+";
        }
        if self.disp < 0 {
            write!(f, "-{}", Number(self.disp.unsigned_abs().into()))?;
        } else if self.disp > 0 || plus.is_empty() {
            write!(f, "{plus}{}", Number(self.disp.unsigned_abs().into()))?;
        }
        f.write_str("]")
    }
}
