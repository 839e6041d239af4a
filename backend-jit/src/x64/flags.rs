//! Where the guest's status flags are, between instructions of translated code.
//!
//! Host flags hold them only until the next instruction that needs the host's for itself. Then they follow from a
//! *description*: the operation that made them and where its operands still are. Nothing is stored as long as that lasts;
//! a fault finds the description in the side table.

use ir::Width;
use system::{FlagOp, LazyFlags, Vcpu, flag_kind};
use x86::Gpr;

/// Where an operand of the last flag-writing operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    /// In a guest register.
    Reg(Gpr),
    /// A constant.
    Imm(i32),
    /// The register less the other operand.
    Minus(Gpr),
    /// The register plus the other operand.
    Plus(Gpr),
}

/// An operation and its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desc {
    /// Add, Sub, Logic; Inc and Dec, whose carry is in the frame's `flags`; Adc and Sbb, whose carry before is there.
    pub op: FlagOp,
    pub width: Width,
    pub a: Src,
    /// `Reg` or `Imm`.
    pub b: Src,
}

/// What is left of an operation with memory, or of a register that it replaced: host flags are saved by its operands, as
/// long as they are there: that is cheaper than to take them from the host.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// Any but Adc, Sbb, Inc, Dec, Mul.
    pub op: FlagOp,
    pub width: Width,
    /// The first operand, or the result of Logic.
    pub a: Left,
    /// The second operand; a register is one that the host has too.
    pub b: Left,
    /// `a` is the result of Add or Sub: the operand follows from it and the other one.
    pub result: bool,
    /// When r11 was written: see `Asm::moment_r11`.
    pub moment: u32,
}

/// Where an operand was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// In r11, zero-extended.
    Scratch,
    /// In a guest register that the host has too.
    Reg(Gpr),
    /// A constant.
    Imm(i32),
}

impl Compared {
    /// Whether it reads a register.
    pub fn uses(&self, g: Gpr) -> bool {
        [self.a, self.b].contains(&Left::Reg(g))
    }
}

/// Where the flags are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the frame's `flags`.
    Memory,
    /// In the host's RFLAGS and nowhere else.
    Host,
    /// They follow from registers.
    Desc(Desc),
}

impl Desc {
    /// Whether it reads a register.
    pub fn uses(&self, g: Gpr) -> bool {
        [self.a, self.b]
            .iter()
            .any(|src| matches!(src, Src::Reg(r) | Src::Minus(r) | Src::Plus(r) if *r == g))
    }

    /// One word that tells it from all others; never 0.
    pub fn pack(&self) -> u64 {
        let (form, reg, imm_a) = match self.a {
            Src::Reg(g) => (0, g as u64, None),
            Src::Imm(n) => (1, 0, Some(n)),
            Src::Minus(g) => (2, g as u64, None),
            Src::Plus(g) => (3, g as u64, None),
        };
        let (form_b, reg_b, imm_b) = match self.b {
            Src::Imm(n) => (1, 0, n),
            Src::Reg(g) | Src::Minus(g) | Src::Plus(g) => (0, g as u64, 0),
        };
        let imm = imm_a.unwrap_or(imm_b).cast_unsigned();
        1 | (self.op as u64) << 1
            | (self.width as u64) << 6
            | form << 8
            | reg << 10
            | form_b << 14
            | reg_b << 15
            | u64::from(imm) << 32
    }

    /// What was packed; `None` for 0.
    pub fn unpack(packed: u64) -> Option<Self> {
        if packed & 1 == 0 {
            return None;
        }
        let ops = [
            FlagOp::Add,
            FlagOp::Sub,
            FlagOp::Inc,
            FlagOp::Dec,
            FlagOp::Adc,
            FlagOp::Sbb,
        ];
        let op = *ops
            .iter()
            .find(|op| **op as u64 == packed >> 1 & 31)
            .unwrap_or(&FlagOp::Logic);
        let imm = ((packed >> 32) as u32).cast_signed();
        let reg = |shift: u32| Gpr::ALL[(packed >> shift & 15) as usize];
        Some(Self {
            op,
            width: Width::ALL[(packed >> 6 & 3) as usize],
            a: match packed >> 8 & 3 {
                0 => Src::Reg(reg(10)),
                1 => Src::Imm(imm),
                2 => Src::Minus(reg(10)),
                _ => Src::Plus(reg(10)),
            },
            b: if packed >> 14 & 1 != 0 {
                Src::Imm(imm)
            } else {
                Src::Reg(reg(15))
            },
        })
    }

    /// The flags as the context keeps them, from its registers.
    pub fn evaluate(&self, v: &Vcpu) -> LazyFlags {
        let gpr = |g: Gpr| v.st.gpr[g as usize];
        let b = match self.b {
            Src::Reg(g) | Src::Minus(g) | Src::Plus(g) => gpr(g),
            Src::Imm(n) => i64::from(n).cast_unsigned(),
        };
        let carry = match self.op {
            FlagOp::Adc | FlagOp::Sbb => u64::from(v.flags.c),
            _ => 0,
        };
        let a = match self.a {
            Src::Reg(g) => gpr(g),
            Src::Imm(n) => i64::from(n).cast_unsigned(),
            Src::Minus(g) => gpr(g).wrapping_sub(b).wrapping_sub(carry),
            Src::Plus(g) => gpr(g).wrapping_add(b).wrapping_add(carry),
        };
        LazyFlags {
            kind: flag_kind(self.op, self.width),
            c: match self.op {
                FlagOp::Inc | FlagOp::Dec | FlagOp::Adc | FlagOp::Sbb => v.flags.c,
                _ => 0,
            },
            a: a & self.width.mask(),
            b: b & self.width.mask(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Desc, Src};
    use ir::Width;
    use system::FlagOp;
    use x86::Gpr;

    #[test]
    fn descriptions_survive_packing() {
        let sources = [
            Src::Reg(Gpr::R14),
            Src::Imm(-5),
            Src::Minus(Gpr::Rsp),
            Src::Plus(Gpr::R9),
        ];
        for op in [
            FlagOp::Add,
            FlagOp::Sub,
            FlagOp::Logic,
            FlagOp::Inc,
            FlagOp::Dec,
            FlagOp::Adc,
            FlagOp::Sbb,
        ] {
            for width in Width::ALL {
                for a in sources {
                    for b in [Src::Reg(Gpr::Rdi), Src::Imm(7)] {
                        if matches!((a, b), (Src::Imm(_), Src::Imm(_))) {
                            // Folded before it gets here: one constant has room.
                            continue;
                        }
                        let desc = Desc { op, width, a, b };
                        assert_ne!(desc.pack(), 0);
                        assert_eq!(Desc::unpack(desc.pack()), Some(desc));
                    }
                }
            }
        }
        assert_eq!(Desc::unpack(0), None);
    }
}
