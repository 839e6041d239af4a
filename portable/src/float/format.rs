//! The formats: binary16, binary32, binary64 and the x87's 80-bit one, taken apart and put together.

use std::fmt::Debug;

/// Width of a format: result precision in bits and the exponents of its normal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Significand bits, the leading one included.
    pub precision: u32,
    /// Exponent of the smallest normal number.
    pub emin: i32,
    /// Exponent of the largest finite number.
    pub emax: i32,
}

/// What kind of value an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Positive or negative zero.
    Zero,
    /// Normal or denormal number.
    Finite,
    /// Infinity.
    Infinite,
    /// Quiet NaN.
    Quiet,
    /// Signalling NaN.
    Signalling,
    /// An encoding that the x87 no longer supports: unnormal, pseudo-infinity, pseudo-NaN (SDM 1, 8.2.2).
    Unsupported,
}

/// An operand taken apart, of whatever format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// What it is.
    pub class: Class,
    /// Sign bit.
    pub sign: bool,
    /// It was encoded as a denormal (or pseudo-denormal).
    pub denormal: bool,
    /// Exponent of the leading bit, for finite numbers.
    pub exp: i32,
    /// Significand, its leading bit at bit 63: the value of a finite number is `sig * 2^(exp - 63)`. For a NaN bit 63
    /// is set and the fraction follows.
    pub sig: u64,
}

impl Unpacked {
    /// A zero.
    #[inline]
    pub const fn zero(sign: bool) -> Self {
        Self {
            class: Class::Zero,
            sign,
            denormal: false,
            exp: 0,
            sig: 0,
        }
    }

    /// Quiet or signalling NaN.
    #[inline]
    pub fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling)
    }

    /// Zero, finite or infinite.
    #[inline]
    pub fn is_number(&self) -> bool {
        self.class <= Class::Infinite
    }

    /// The same with the other sign.
    #[inline]
    #[must_use]
    pub fn negated(mut self) -> Self {
        self.sign = !self.sign;
        self
    }

    /// From sign, biased exponent and left-aligned fraction (bit 62 its first bit) of a format with a hidden bit.
    #[inline]
    fn from_fields(format: Format, sign: bool, biased: i32, fraction: u64) -> Self {
        let special = 2 * format.emax + 1;
        let top = 1 << 63;
        if biased == special {
            let class = match fraction {
                0 => Class::Infinite,
                f if f & (1 << 62) != 0 => Class::Quiet,
                _ => Class::Signalling,
            };
            return Self {
                class,
                sign,
                denormal: false,
                exp: 0,
                sig: top | fraction,
            };
        }
        if biased != 0 {
            return Self {
                class: Class::Finite,
                sign,
                denormal: false,
                exp: biased - format.emax,
                sig: top | fraction,
            };
        }
        if fraction == 0 {
            return Self::zero(sign);
        }
        let shift = fraction.leading_zeros();
        Self {
            class: Class::Finite,
            sign,
            denormal: true,
            exp: format.emin - shift as i32,
            sig: fraction << shift,
        }
    }
}

/// A floating-point format as raw bits.
pub trait Float: Copy + Eq + Debug {
    /// Precision and exponent range.
    const FORMAT: Format;
    /// The "real indefinite": the negative quiet NaN with an otherwise empty fraction.
    const DEFAULT_NAN: Self;
    /// Whether results obey the x87's precision control and get a biased exponent at an unmasked overflow.
    const EXTENDED: bool = false;
    /// Takes the value apart.
    fn unpack(self) -> Unpacked;
    /// Puts a finite number together: `sig` is left-aligned at exponent `exp`, or has bit 63 clear and `exp = emin`.
    /// `exp` is within the format.
    fn from_parts(sign: bool, exp: i32, sig: u64) -> Self;
    /// A quiet NaN of sign and significand; the quiet bit is added, bits that have no room fall off.
    fn nan(sign: bool, sig: u64) -> Self;
    /// An infinity.
    fn infinity(sign: bool) -> Self;
    /// A zero.
    #[inline]
    fn zero(sign: bool) -> Self {
        Self::from_parts(sign, Self::FORMAT.emin, 0)
    }
}

macro_rules! ieee {
    ($(#[$doc:meta])* $name:ident, $bits:ty, $precision:literal, $emax:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct $name(pub $bits);

        impl $name {
            const FRACTION: u32 = $precision - 1;
            const SIGN: u32 = <$bits>::BITS - 1;
        }

        impl Float for $name {
            const FORMAT: Format = Format { precision: $precision, emin: 1 - $emax, emax: $emax };
            const DEFAULT_NAN: Self = Self((<$bits>::MAX >> (Self::FRACTION - 1)) << (Self::FRACTION - 1));

            #[inline]
            fn unpack(self) -> Unpacked {
                let sign = self.0 >> Self::SIGN != 0;
                let biased = (self.0 >> Self::FRACTION) as i32 & (2 * $emax + 1);
                let fraction = (u64::from(self.0) << (64 - $precision)) & (u64::MAX >> 1);
                Unpacked::from_fields(Self::FORMAT, sign, biased, fraction)
            }

            #[inline]
            fn from_parts(sign: bool, exp: i32, sig: u64) -> Self {
                let biased = if sig >> 63 == 0 { 0 } else { (exp + $emax) as $bits };
                let fraction = (sig << 1 >> (65 - $precision)) as $bits;
                Self(<$bits>::from(sign) << Self::SIGN | biased << Self::FRACTION | fraction)
            }

            #[inline]
            fn nan(sign: bool, sig: u64) -> Self {
                let fraction = ((sig | 1 << 62) << 1 >> (65 - $precision)) as $bits;
                Self(<$bits>::from(sign) << Self::SIGN | (2 * $emax + 1) << Self::FRACTION | fraction)
            }

            #[inline]
            fn infinity(sign: bool) -> Self {
                Self(<$bits>::from(sign) << Self::SIGN | (2 * $emax + 1) << Self::FRACTION)
            }
        }
    };
}

ieee!(
    /// binary16; converted only.
    F16, u16, 11, 15
);
ieee!(
    /// binary32.
    F32, u32, 24, 127
);
ieee!(
    /// binary64.
    F64, u64, 53, 1023
);

/// The x87's double extended format: 15-bit exponent, explicit leading bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct F80 {
    /// Sign in bit 15, biased exponent (bias 16383) below.
    pub se: u16,
    /// Significand; bit 63 is the integer bit.
    pub sig: u64,
}

impl F80 {
    /// Positive one.
    pub const ONE: Self = Self {
        se: 0x3FFF,
        sig: 1 << 63,
    };

    /// From sign-and-exponent and significand.
    pub const fn new(se: u16, sig: u64) -> Self {
        Self { se, sig }
    }

    /// From the ten bytes in memory.
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let value = bytes
            .iter()
            .rev()
            .fold(0u128, |value, &byte| value << 8 | u128::from(byte));
        Self {
            se: (value >> 64) as u16,
            sig: value as u64,
        }
    }

    /// As ten bytes in memory.
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.sig.to_le_bytes());
        bytes[8..].copy_from_slice(&self.se.to_le_bytes());
        bytes
    }

    /// Sign bit.
    pub fn sign(self) -> bool {
        self.se >> 15 != 0
    }
}

impl Float for F80 {
    const FORMAT: Format = Format {
        precision: 64,
        emin: -16382,
        emax: 16383,
    };
    const DEFAULT_NAN: Self = Self {
        se: 0xFFFF,
        sig: 3 << 62,
    };
    const EXTENDED: bool = true;

    #[inline]
    fn unpack(self) -> Unpacked {
        let sign = self.sign();
        let biased = i32::from(self.se & 0x7FFF);
        let integer = self.sig >> 63 != 0;
        let unsupported = Unpacked {
            class: Class::Unsupported,
            sign,
            denormal: false,
            exp: 0,
            sig: self.sig,
        };
        match biased {
            0 if self.sig == 0 => Unpacked::zero(sign),
            0 => {
                // A pseudo-denormal (integer bit set) has the exponent of the smallest normal number too.
                let shift = self.sig.leading_zeros();
                Unpacked {
                    class: Class::Finite,
                    sign,
                    denormal: true,
                    exp: -16382 - shift as i32,
                    sig: self.sig << shift,
                }
            }
            _ if !integer => unsupported,
            0x7FFF => Unpacked::from_fields(Self::FORMAT, sign, biased, self.sig & (u64::MAX >> 1)),
            _ => Unpacked {
                class: Class::Finite,
                sign,
                denormal: false,
                exp: biased - 16383,
                sig: self.sig,
            },
        }
    }

    #[inline]
    fn from_parts(sign: bool, exp: i32, sig: u64) -> Self {
        let biased = if sig >> 63 == 0 {
            0
        } else {
            (exp + 16383) as u16
        };
        Self {
            se: u16::from(sign) << 15 | biased,
            sig,
        }
    }

    #[inline]
    fn nan(sign: bool, sig: u64) -> Self {
        Self {
            se: u16::from(sign) << 15 | 0x7FFF,
            sig: sig | 3 << 62,
        }
    }

    #[inline]
    fn infinity(sign: bool) -> Self {
        Self {
            se: u16::from(sign) << 15 | 0x7FFF,
            sig: 1 << 63,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_have_their_bits() {
        assert_eq!(F16::DEFAULT_NAN.0, 0xFE00);
        assert_eq!(F32::DEFAULT_NAN.0, 0xFFC0_0000);
        assert_eq!(F64::DEFAULT_NAN.0, 0xFFF8 << 48);
        assert_eq!(F32::infinity(true).0, 0xFF80_0000);
        assert_eq!(F64::zero(true).0, 1 << 63);
        assert_eq!(F80::zero(true), F80::new(0x8000, 0));
    }

    #[test]
    fn every_half_survives_unpacking() {
        for bits in 0..=u16::MAX {
            let u = F16(bits).unpack();
            let back = match u.class {
                Class::Zero => F16::zero(u.sign),
                Class::Infinite => F16::infinity(u.sign),
                Class::Finite if u.denormal => F16::from_parts(u.sign, -14, u.sig >> (-14 - u.exp)),
                Class::Finite => F16::from_parts(u.sign, u.exp, u.sig),
                _ => F16::nan(u.sign, u.sig),
            };
            let quieted = if u.class == Class::Signalling {
                bits | 0x200
            } else {
                bits
            };
            assert_eq!(back.0, quieted);
        }
    }

    #[test]
    fn extended_classes() {
        let class = |se, sig| F80::new(se, sig).unpack().class;
        assert_eq!(class(0x7FFF, 1 << 63), Class::Infinite);
        assert_eq!(class(0x7FFF, 0), Class::Unsupported);
        assert_eq!(class(0x7FFF, 1), Class::Unsupported);
        assert_eq!(class(0x7FFF, 1 << 63 | 1), Class::Signalling);
        assert_eq!(class(0x7FFF, 3 << 62), Class::Quiet);
        assert_eq!(class(0x3FFF, 1), Class::Unsupported);
        let pseudo = F80::new(0, 1 << 63).unpack();
        assert!(pseudo.denormal);
        assert_eq!(pseudo.exp, -16382);
    }
}
