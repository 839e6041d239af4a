//! Conversions between formats and to and from integers.

use super::arith::{denormal, propagate1};
use super::flags::{IE, PE};
use super::round::{Exact, finish, round_bits, shr_jam};
use super::{Class, Env, Float, Out, Rounding, Unpacked};

/// Converts to format `F`; a signalling NaN becomes quiet with IE. DE is among the flags for a denormal operand:
/// FST and the half-precision conversions, which don't report it, leave it out.
pub fn convert<F: Float>(env: &Env, a: Unpacked) -> Out<F> {
    if let Some(nan) = propagate1(&a) {
        return nan;
    }
    match a.class {
        Class::Zero => Out::new(F::zero(a.sign), 0),
        Class::Infinite => Out::new(F::infinity(a.sign), 0),
        _ => {
            let exact = Exact {
                sign: a.sign,
                exp: a.exp,
                sig: u128::from(a.sig) << 64,
            };
            finish(env, exact).with(denormal(&[&a]))
        }
    }
}

/// From a signed integer.
pub fn from_i64<F: Float>(env: &Env, value: i64) -> Out<F> {
    from_magnitude(env, value < 0, value.unsigned_abs())
}

/// From an unsigned integer.
pub fn from_u64<F: Float>(env: &Env, value: u64) -> Out<F> {
    from_magnitude(env, false, value)
}

fn from_magnitude<F: Float>(env: &Env, sign: bool, magnitude: u64) -> Out<F> {
    finish(
        env,
        Exact {
            sign,
            exp: 63,
            sig: u128::from(magnitude) << 64,
        },
    )
}

/// The integer that a conversion is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntKind {
    /// 16, 32 or 64.
    pub bits: u32,
    /// Two's complement.
    pub signed: bool,
}

impl IntKind {
    /// Signed, 16 bits.
    pub const I16: Self = Self {
        bits: 16,
        signed: true,
    };
    /// Signed, 32 bits.
    pub const I32: Self = Self {
        bits: 32,
        signed: true,
    };
    /// Signed, 64 bits.
    pub const I64: Self = Self {
        bits: 64,
        signed: true,
    };
    /// Unsigned, 32 bits.
    pub const U32: Self = Self {
        bits: 32,
        signed: false,
    };
    /// Unsigned, 64 bits.
    pub const U64: Self = Self {
        bits: 64,
        signed: false,
    };

    /// The integer indefinite: 80..00h for signed kinds, all ones for unsigned ones.
    pub fn indefinite(self) -> u64 {
        if self.signed {
            1 << (self.bits - 1)
        } else {
            u64::MAX >> (64 - self.bits)
        }
    }
}

/// Rounds to an integer, its two's complement in the low bits of the result. Out of range, an infinity or a NaN: the
/// indefinite and IE.
pub fn to_int(a: &Unpacked, rounding: Rounding, kind: IntKind) -> Out<u64> {
    let invalid = Out::new(kind.indefinite(), IE);
    match a.class {
        Class::Zero => return Out::new(0, 0),
        Class::Finite => {}
        _ => return invalid,
    }
    if a.exp > 63 {
        return invalid;
    }
    // The integer bit at 64 of 128, so that a fraction of 64 bits and a carry have room.
    let fixed = shr_jam(u128::from(a.sig) << 64, (63 - a.exp) as u32);
    let r = round_bits(fixed, 64, rounding, a.sign);
    let magnitude = if r.carry { 1 << 64 } else { u128::from(r.sig) };
    let limit = match (kind.signed, a.sign) {
        (true, false) => (1 << (kind.bits - 1)) - 1,
        (true, true) => 1 << (kind.bits - 1),
        (false, false) => (1u128 << kind.bits) - 1,
        (false, true) => 0,
    };
    if magnitude > limit {
        return invalid;
    }
    let value = magnitude as u64;
    let value = if a.sign {
        value.wrapping_neg() & u64::MAX >> (64 - kind.bits)
    } else {
        value
    };
    Out {
        value,
        flags: if r.inexact { PE } else { 0 },
        up: r.up,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{F16, F32, F64, F80};
    use super::*;

    #[test]
    fn limits_of_the_integers() {
        let int =
            |value: f64, kind| to_int(&F64(value.to_bits()).unpack(), Rounding::Nearest, kind);
        assert_eq!(int(32767.5, IntKind::I16), Out::new(0x8000, IE));
        assert_eq!(int(32767.4, IntKind::I16), Out::new(0x7FFF, PE));
        assert_eq!(int(-32768.5, IntKind::I16), Out::new(0x8000, PE));
        assert_eq!(
            int(-9223372036854775808.0, IntKind::I64),
            Out::new(1 << 63, 0)
        );
        assert_eq!(
            int(9223372036854775808.0, IntKind::I64),
            Out::new(1 << 63, IE)
        );
        assert_eq!(
            int(9223372036854775808.0, IntKind::U64),
            Out::new(1 << 63, 0)
        );
        assert_eq!(int(-0.5, IntKind::U32), Out::new(0, PE));
        assert_eq!(int(-1.0, IntKind::U32), Out::new(0xFFFF_FFFF, IE));
        assert_eq!(int(f64::NAN, IntKind::I32), Out::new(0x8000_0000, IE));
    }

    #[test]
    fn integers_arrive_exactly_in_80_bits() {
        let env = Env::from_cw(0x37F);
        for value in [0, 1, -1, i64::MAX, i64::MIN, 0x1234_5678_9ABC_DEF1] {
            let x = from_i64::<F80>(&env, value);
            assert_eq!(x.flags, 0);
            assert_eq!(
                to_int(&x.value.unpack(), Rounding::Zero, IntKind::I64).value as i64,
                value
            );
        }
    }

    #[test]
    fn halves_convert_both_ways() {
        let env = Env::from_mxcsr(0x1F80);
        for bits in 0..=u16::MAX {
            let half = F16(bits);
            let wide = convert::<F32>(&env, half.unpack());
            let back = convert::<F16>(&env, wide.value.unpack());
            let quiet = if half.unpack().class == Class::Signalling {
                bits | 0x200
            } else {
                bits
            };
            assert_eq!(back.value.0, quiet);
        }
    }
}
