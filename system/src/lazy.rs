//! Lazy status flags: what the last flag-writing op computed on, from which any flag follows when it is asked for.

use ir::{Cond, Width};
use x86::flags::{AF, CF, OF, PF, SF, STATUS, ZF};

/// What kind of op left [`LazyFlags`]; with the width it forms [`LazyFlags::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FlagOp {
    /// The flags are in RFLAGS as they stand.
    Known,
    /// a + b.
    Add,
    /// a + b + c.
    Adc,
    /// a - b.
    Sub,
    /// a - b - c.
    Sbb,
    /// The result is a; CF, OF and AF are clear.
    Logic,
    /// The result is a, one more than before; CF is c.
    Inc,
    /// The result is a, one less than before; CF is c.
    Dec,
    /// a << b, with b in 1..=63.
    Shl,
    /// a >> b logically, with b in 1..=63.
    Shr,
    /// a >> b arithmetically, with b in 1..=63.
    Sar,
    /// The low result is a; CF and OF are c.
    Mul,
    /// The flags stand in a, as RFLAGS has them.
    Image,
    /// All but OF stand in bits 7:0 of a, as LAHF has them; OF is bit 24.
    Lahf,
}

const OPS: [FlagOp; 14] = [
    FlagOp::Known,
    FlagOp::Add,
    FlagOp::Adc,
    FlagOp::Sub,
    FlagOp::Sbb,
    FlagOp::Logic,
    FlagOp::Inc,
    FlagOp::Dec,
    FlagOp::Shl,
    FlagOp::Shr,
    FlagOp::Sar,
    FlagOp::Mul,
    FlagOp::Image,
    FlagOp::Lahf,
];

/// The operands of the last flag-writing op, zero-extended from its width.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LazyFlags {
    /// [`FlagOp`] * 4 + [`Width`].
    pub kind: u32,
    /// Carry in, or what the op says; 0 or 1.
    pub c: u32,
    /// First operand or result.
    pub a: u64,
    /// Second operand.
    pub b: u64,
}

/// The value of [`LazyFlags::kind`] for an op of a width.
pub const fn flag_kind(op: FlagOp, width: Width) -> u32 {
    (op as u32) << 2 | width as u32
}

/// The status flags that depend on a result alone: SF, ZF, PF.
pub const fn result_flags(result: u64, width: Width) -> u64 {
    let result = result & width.mask();
    let mut flags = 0;
    if result == 0 {
        flags |= ZF;
    }
    if result >> (width.bits() - 1) & 1 != 0 {
        flags |= SF;
    }
    if (result as u8).count_ones() & 1 == 0 {
        flags |= PF;
    }
    flags
}

const fn bit(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

/// The flags of a + b + carry.
pub const fn add_flags(a: u64, b: u64, carry: bool, width: Width) -> u64 {
    let (a, b) = (a & width.mask(), b & width.mask());
    let r = a.wrapping_add(b).wrapping_add(carry as u64) & width.mask();
    let overflow = (a ^ r) & (b ^ r);
    result_flags(r, width)
        | bit(r < a || (carry && r == a), CF)
        | ((a ^ b ^ r) & AF)
        | bit(overflow >> (width.bits() - 1) & 1 != 0, OF)
}

/// The flags of a - b - borrow.
pub const fn sub_flags(a: u64, b: u64, borrow: bool, width: Width) -> u64 {
    let (a, b) = (a & width.mask(), b & width.mask());
    let r = a.wrapping_sub(b).wrapping_sub(borrow as u64) & width.mask();
    let overflow = (a ^ b) & (a ^ r);
    result_flags(r, width)
        | bit(a < b || (borrow && a == b), CF)
        | ((a ^ b ^ r) & AF)
        | bit(overflow >> (width.bits() - 1) & 1 != 0, OF)
}

/// The flags of a << count (1..=63). OF beyond a count of 1 is undefined: it is as for 1.
pub const fn shl_flags(a: u64, count: u64, width: Width) -> u64 {
    let r = if count >= 64 { 0 } else { a << count };
    let carry = count <= width.bits() as u64 && a >> (width.bits() as u64 - count) & 1 != 0;
    let sign = r >> (width.bits() - 1) & 1 != 0;
    result_flags(r, width) | bit(carry, CF) | bit(sign != carry, OF)
}

/// The flags of a >> count (1..=63), zeros shifted in. OF is the operand's sign.
pub const fn shr_flags(a: u64, count: u64, width: Width) -> u64 {
    let a = a & width.mask();
    result_flags(a >> count, width)
        | bit(a >> (count - 1) & 1 != 0, CF)
        | bit(count == 1 && a >> (width.bits() - 1) & 1 != 0, OF)
}

/// The flags of a >> count (1..=63), sign bits shifted in.
pub const fn sar_flags(a: u64, count: u64, width: Width) -> u64 {
    let shift = 64 - width.bits();
    let a = (a << shift).cast_signed() >> shift;
    result_flags((a >> count).cast_unsigned(), width) | bit((a >> (count - 1)) & 1 != 0, CF)
}

impl LazyFlags {
    /// Flags that stand in RFLAGS.
    pub const KNOWN: Self = Self {
        kind: FlagOp::Known as u32,
        c: 0,
        a: 0,
        b: 0,
    };

    /// The op and width that left the flags.
    #[inline]
    pub fn op(&self) -> (FlagOp, Width) {
        (
            OPS[(self.kind >> 2) as usize % OPS.len()],
            Width::ALL[(self.kind & 3) as usize],
        )
    }

    /// The six status flags, given what RFLAGS holds.
    pub fn status(&self, rflags: u64) -> u64 {
        let (op, width) = self.op();
        let Self { a, b, c, .. } = *self;
        let carry = c != 0;
        match op {
            FlagOp::Known => rflags & STATUS,
            FlagOp::Add => add_flags(a, b, false, width),
            FlagOp::Adc => add_flags(a, b, carry, width),
            FlagOp::Sub => sub_flags(a, b, false, width),
            FlagOp::Sbb => sub_flags(a, b, carry, width),
            FlagOp::Logic => result_flags(a, width),
            FlagOp::Inc => {
                let min = 1 << (width.bits() - 1);
                result_flags(a, width) | bit(carry, CF) | bit(a & 15 == 0, AF) | bit(a == min, OF)
            }
            FlagOp::Dec => {
                let max = width.mask() >> 1;
                result_flags(a, width) | bit(carry, CF) | bit(a & 15 == 15, AF) | bit(a == max, OF)
            }
            FlagOp::Shl => shl_flags(a, b, width),
            FlagOp::Shr => shr_flags(a, b, width),
            FlagOp::Sar => sar_flags(a, b, width),
            FlagOp::Mul => result_flags(a, width) | bit(carry, CF | OF),
            FlagOp::Image => a & STATUS,
            FlagOp::Lahf => a & STATUS & 0xff | bit(a >> 24 & 1 != 0, OF),
        }
    }

    /// CF alone: what ADC, INC and their kin ask for most.
    #[inline]
    pub fn carry(&self, rflags: u64) -> bool {
        let (op, width) = self.op();
        let Self { a, b, c, .. } = *self;
        match op {
            FlagOp::Add => a.wrapping_add(b) & width.mask() < a,
            FlagOp::Sub => a < b,
            FlagOp::Logic => false,
            FlagOp::Inc | FlagOp::Dec | FlagOp::Mul => c != 0,
            _ => self.status(rflags) & CF != 0,
        }
    }

    /// Whether a condition holds.
    #[inline]
    pub fn cond(&self, cond: Cond, rflags: u64) -> bool {
        let (op, width) = self.op();
        let shift = 64 - width.bits();
        let signed = |v: u64| (v << shift).cast_signed();
        let (a, b) = (self.a, self.b);
        match (op, cond) {
            (FlagOp::Sub, Cond::E) => a == b,
            (FlagOp::Sub, Cond::Ne) => a != b,
            (FlagOp::Sub, Cond::B) => a < b,
            (FlagOp::Sub, Cond::Ae) => a >= b,
            (FlagOp::Sub, Cond::Be) => a <= b,
            (FlagOp::Sub, Cond::A) => a > b,
            (FlagOp::Sub, Cond::L) => signed(a) < signed(b),
            (FlagOp::Sub, Cond::Ge) => signed(a) >= signed(b),
            (FlagOp::Sub, Cond::Le) => signed(a) <= signed(b),
            (FlagOp::Sub, Cond::G) => signed(a) > signed(b),
            (FlagOp::Logic, Cond::E | Cond::Be) => a == 0,
            (FlagOp::Logic, Cond::Ne | Cond::A) => a != 0,
            (FlagOp::Logic, Cond::S | Cond::L) => signed(a) < 0,
            (FlagOp::Logic, Cond::Ns | Cond::Ge) => signed(a) >= 0,
            _ => holds(cond, self.status(rflags)),
        }
    }
}

/// Whether a condition holds for flags as RFLAGS bits (SDM vol. 1, appendix B).
pub const fn holds(cond: Cond, flags: u64) -> bool {
    let sign_differs = (flags & SF != 0) != (flags & OF != 0);
    let yes = match cond as u8 >> 1 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => sign_differs,
        _ => flags & ZF != 0 || sign_differs,
    };
    yes != (cond as u8 & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::{FlagOp, LazyFlags, flag_kind, holds};
    use ir::{Cond, Width};
    use x86::flags::{AF, CF, OF, PF, SF, ZF};

    fn lazy(op: FlagOp, width: Width, a: u64, b: u64, c: u32) -> LazyFlags {
        LazyFlags {
            kind: flag_kind(op, width),
            c,
            a,
            b,
        }
    }

    #[test]
    fn known_cases() {
        let cases = [
            (FlagOp::Add, Width::B8, 0xff, 1, 0, CF | ZF | AF | PF),
            (
                FlagOp::Add,
                Width::B32,
                0x7fff_ffff,
                1,
                0,
                SF | OF | AF | PF,
            ),
            (FlagOp::Adc, Width::B64, u64::MAX, 0, 1, CF | ZF | AF | PF),
            (FlagOp::Sub, Width::B16, 0, 1, 0, CF | SF | AF | PF),
            (FlagOp::Sub, Width::B64, 1 << 63, 1, 0, OF | AF | PF),
            (FlagOp::Sbb, Width::B8, 5, 5, 1, CF | SF | AF | PF),
            (FlagOp::Logic, Width::B32, 0, 0, 0, ZF | PF),
            (FlagOp::Inc, Width::B8, 0x80, 0, 1, CF | SF | OF | AF),
            (FlagOp::Dec, Width::B16, 0x7fff, 0, 0, OF | AF | PF),
            (FlagOp::Shl, Width::B8, 0x81, 1, 0, CF | OF),
            (FlagOp::Shr, Width::B32, 3, 1, 0, CF),
            (FlagOp::Sar, Width::B8, 0x81, 1, 0, CF | SF | PF),
            (FlagOp::Mul, Width::B32, 0, 0, 1, CF | OF | ZF | PF),
            (FlagOp::Image, Width::B64, 0x202 | OF | SF, 0, 0, OF | SF),
            (
                FlagOp::Lahf,
                Width::B64,
                1 << 24 | 2 | CF | AF,
                0,
                0,
                OF | CF | AF,
            ),
        ];
        for (op, width, a, b, c, expected) in cases {
            assert_eq!(
                lazy(op, width, a, b, c).status(0),
                expected,
                "{op:?} {width:?} {a:#x} {b:#x}"
            );
        }
    }

    #[test]
    fn quick_answers_agree_with_the_flags() {
        let values = [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0x7fff_ffff,
            0x8000_0000,
            1 << 63,
            u64::MAX,
        ];
        for op in super::OPS.into_iter().skip(1) {
            for width in Width::ALL {
                for a in values.map(|v| v & width.mask()) {
                    for b in values.map(|v| v & width.mask()) {
                        let b = if matches!(op, FlagOp::Shl | FlagOp::Shr | FlagOp::Sar) {
                            1 + b % 31
                        } else {
                            b
                        };
                        for c in [0, 1] {
                            let lazy = lazy(op, width, a, b, c);
                            let flags = lazy.status(0);
                            assert_eq!(lazy.carry(0), flags & CF != 0, "{lazy:?}");
                            for cond in Cond::ALL {
                                assert_eq!(
                                    lazy.cond(cond, 0),
                                    holds(cond, flags),
                                    "{lazy:?} {cond:?}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
