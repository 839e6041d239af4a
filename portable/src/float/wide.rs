//! 128-bit significands for the transcendental instructions: about 2^-120 of relative error where 2^-64 is wanted.

use super::Unpacked;
use super::round::Exact;

/// `±sig * 2^(exp - 127)` with bit 127 of `sig` set, or zero. Operations truncate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wide {
    pub neg: bool,
    pub exp: i32,
    pub sig: u128,
}

/// The upper half of the 256-bit product.
#[inline]
pub(crate) fn mul_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let middle1 = a1 * b0 + ((a0 * b0) >> 64);
    let middle2 = a0 * b1 + (middle1 & LOW);
    a1 * b1 + (middle1 >> 64) + (middle2 >> 64)
}

/// `high * 2^128 / divisor` and no remainder, for `high < divisor` with the divisor's top bit set: two digits of base
/// 2^64, each guessed from the divisor's upper half and corrected (Knuth, 4.3.1, algorithm D).
fn div_wide(high: u128, divisor: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (d1, d0) = (divisor >> 64, divisor & LOW);
    let digit = |rest: u128| -> (u128, u128) {
        // rest * 2^64 / divisor, rest < divisor.
        let mut guess = (rest / d1).min(LOW);
        let mut partial = rest - guess * d1;
        while partial <= LOW && guess * d0 > partial << 64 {
            guess -= 1;
            partial += d1;
        }
        (
            guess,
            (rest << 64).wrapping_sub(guess.wrapping_mul(divisor)),
        )
    };
    let (first, rest) = digit(high);
    let (second, _) = digit(rest);
    first << 64 | second
}

impl Wide {
    pub const ZERO: Self = Self {
        neg: false,
        exp: 0,
        sig: 0,
    };
    pub const ONE: Self = Self {
        neg: false,
        exp: 0,
        sig: 1 << 127,
    };
    pub const TWO: Self = Self {
        neg: false,
        exp: 1,
        sig: 1 << 127,
    };
    pub const PI: Self = Self {
        neg: false,
        exp: 1,
        sig: 0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1,
    };
    pub const LN2: Self = Self {
        neg: false,
        exp: -1,
        sig: 0xB172_17F7_D1CF_79AB_C9E3_B398_03F2_F6AF,
    };
    pub const LOG2_E: Self = Self {
        neg: false,
        exp: 0,
        sig: 0xB8AA_3B29_5C17_F0BB_BE87_FED0_691D_3E88,
    };

    /// A finite operand or zero.
    pub fn new(a: &Unpacked) -> Self {
        Self {
            neg: a.sign,
            exp: a.exp,
            sig: u128::from(a.sig) << 64,
        }
    }

    /// `sig * 2^(exp - 127)`, normalised.
    pub fn normal(neg: bool, exp: i32, sig: u128) -> Self {
        if sig == 0 {
            return Self::ZERO;
        }
        let shift = sig.leading_zeros();
        Self {
            neg,
            exp: exp - shift as i32,
            sig: sig << shift,
        }
    }

    /// A small integer.
    pub fn integer(value: i32) -> Self {
        Self::normal(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    #[must_use]
    pub fn negated(self) -> Self {
        Self {
            neg: !self.neg,
            ..self
        }
    }

    #[must_use]
    pub fn abs(self) -> Self {
        Self { neg: false, ..self }
    }

    /// Times a power of two.
    #[must_use]
    pub fn shifted(self, by: i32) -> Self {
        Self {
            exp: self.exp + by,
            ..self
        }
    }

    #[must_use]
    pub fn mul(self, other: Self) -> Self {
        Self::normal(
            self.neg != other.neg,
            self.exp + other.exp + 1,
            mul_high(self.sig, other.sig),
        )
    }

    /// `self / other`; `other` is not zero.
    #[must_use]
    pub fn div(self, other: Self) -> Self {
        if self.sig == 0 {
            return self;
        }
        // Halved, the dividend is below the divisor.
        let quotient = div_wide(self.sig >> 1, other.sig);
        Self::normal(self.neg != other.neg, self.exp - other.exp, quotient)
    }

    #[must_use]
    pub fn add(self, other: Self) -> Self {
        let (a, b) = match () {
            () if self.sig == 0 => return other,
            () if other.sig == 0 => return self,
            () if (self.exp, self.sig) >= (other.exp, other.sig) => (self, other),
            () => (other, self),
        };
        let distance = (a.exp - b.exp) as u32;
        let low = if distance < 127 {
            b.sig >> 1 >> distance
        } else {
            0
        };
        let high = a.sig >> 1;
        let sum = if a.neg == b.neg {
            high + low
        } else {
            high - low
        };
        Self::normal(a.neg, a.exp + 1, sum)
    }

    #[must_use]
    pub fn sub(self, other: Self) -> Self {
        self.add(other.negated())
    }

    /// The magnitude, below one, in units of 2^-128.
    pub fn fraction(self) -> u128 {
        debug_assert!(self.exp < 0 || self.sig == 0);
        let shift = (-1 - self.exp) as u32;
        if shift < 128 { self.sig >> shift } else { 0 }
    }

    /// For rounding, as a value that is certainly inexact.
    pub fn inexact(self) -> Exact {
        Exact {
            sign: self.neg,
            exp: self.exp,
            sig: self.sig | 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_undoes_multiplication() {
        let mut seed = 0x1234_5678_9ABC_DEF0_u128;
        for _ in 0..10_000 {
            let mut next = || {
                seed = seed
                    .wrapping_mul(0xDA94_2042_E4DD_58B5_0000_0000_0000_0BAD)
                    .wrapping_add(0x1405_7B7E_F767_814F);
                Wide {
                    neg: false,
                    exp: 0,
                    sig: (seed ^ seed >> 61) | 1 << 127,
                }
            };
            let (a, b) = (next(), next());
            let back = a.div(b).mul(b);
            let off = a.sub(back);
            assert!(off.sig == 0 || off.exp < -124, "{a:?} {b:?} {off:?}");
        }
        let extreme = Wide {
            neg: false,
            exp: 0,
            sig: u128::MAX << 1,
        };
        assert_eq!(extreme.div(extreme), Wide::ONE);
    }

    #[test]
    fn sums_cancel_exactly() {
        let a = Wide::integer(5);
        assert_eq!(a.sub(Wide::integer(3)), Wide::TWO);
        assert_eq!(a.add(Wide::integer(-5)), Wide::ZERO);
        assert_eq!(
            Wide::ONE
                .sub(Wide::ONE.shifted(-60))
                .add(Wide::ONE.shifted(-60)),
            Wide::ONE
        );
    }
}
