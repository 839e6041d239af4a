//! IEEE 754 arithmetic in integers with x86's exceptions, for SSE and x87 alike.
//!
//! ```text
//! F32 | F64 | F80 | F16 --unpack--> Unpacked --arith--> exact 128-bit result --finish--> Out<F>
//! ```
//! Every operation takes unpacked operands (any mix of formats) and an [`Env`] (rounding, masks, DAZ, FTZ, x87
//! precision control, NaN rule) and returns the rounded result with the exceptions it raised. Nothing here keeps
//! state, and no host floating point is used: exact flags in all rounding modes need integers.
//!
//! Sources: Intel SDM volume 1, chapter 4.8-4.9 (formats, exceptions), 8 (x87), 11 (SSE).

mod arith;
mod bcd;
mod convert;
mod format;
mod remainder;
mod round;
mod scale;
mod trans;
mod wide;

pub use arith::{add, compare, div, fma, max, min, mul, round_to_int, sqrt, sub};
pub use bcd::{BCD_INDEFINITE, bcd_load, bcd_store};
pub use convert::{IntKind, convert, from_i64, from_u64, to_int};
pub use format::{Class, F16, F32, F64, F80, Float, Format, Unpacked};
pub use remainder::{Remainder, remainder};
pub use scale::{extract, scale};
pub use trans::{SinCos, f2xm1, fcos, fpatan, fptan, fsin, fsincos, fyl2x, fyl2xp1};

/// Exception flags, at their places in MXCSR and in the x87 status word (SDM 1, 8.1.3.3 and 10.2.3).
pub mod flags {
    /// Invalid operation.
    pub const IE: u8 = 1;
    /// Denormal operand.
    pub const DE: u8 = 2;
    /// Division by zero.
    pub const ZE: u8 = 4;
    /// Overflow.
    pub const OE: u8 = 8;
    /// Underflow.
    pub const UE: u8 = 16;
    /// Precision: the result is inexact.
    pub const PE: u8 = 32;
    /// What is detected before the result is computed; unmasked, these suppress the others.
    pub const PRE: u8 = IE | DE | ZE;
    /// All six.
    pub const ALL: u8 = 63;
}

/// Rounding direction; the discriminants are the RC field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest = 0,
    /// Toward minus infinity.
    Down = 1,
    /// Toward plus infinity.
    Up = 2,
    /// Toward zero.
    Zero = 3,
}

impl Rounding {
    /// From the two bits of an RC field; higher bits are ignored.
    pub fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// Which NaN comes out where two go in (SDM 1, table 4-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NanRule {
    /// SSE: the first operand if it is a NaN, else the second.
    First,
    /// x87: a quiet one before a signalling one, then the larger significand, then the positive one.
    Larger,
}

/// What an operation needs to know of MXCSR or of the x87 control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Env {
    /// Rounding direction.
    pub rounding: Rounding,
    /// Denormal operands count as zeros (MXCSR.DAZ).
    pub daz: bool,
    /// Tiny results become zeros where underflow is masked (MXCSR.FTZ).
    pub ftz: bool,
    /// Masked exceptions: [`flags`] bits, 1 = masked.
    pub masks: u8,
    /// Significand bits of an [`F80`] result: 24, 53 or 64 (x87 precision control).
    pub precision: u32,
    /// NaN propagation.
    pub nan: NanRule,
}

impl Env {
    /// The environment of SSE instructions under `mxcsr`.
    pub fn from_mxcsr(mxcsr: u32) -> Self {
        Self {
            rounding: Rounding::from_bits(mxcsr >> 13),
            daz: mxcsr & (1 << 6) != 0,
            ftz: mxcsr & (1 << 15) != 0,
            masks: (mxcsr >> 7) as u8 & flags::ALL,
            precision: 64,
            nan: NanRule::First,
        }
    }

    /// The environment of x87 instructions under control word `cw`. The reserved precision control 01 counts as 64.
    pub fn from_cw(cw: u16) -> Self {
        Self {
            rounding: Rounding::from_bits(u32::from(cw) >> 10),
            daz: false,
            ftz: false,
            masks: cw as u8 & flags::ALL,
            precision: match (cw >> 8) & 3 {
                0 => 24,
                2 => 53,
                _ => 64,
            },
            nan: NanRule::Larger,
        }
    }

    /// Unpacks an operand, a denormal as zero where DAZ says so.
    #[inline]
    pub fn load<F: Float>(&self, value: F) -> Unpacked {
        let unpacked = value.unpack();
        if self.daz && unpacked.denormal {
            Unpacked::zero(unpacked.sign)
        } else {
            unpacked
        }
    }

    /// Whether every one of `raised` is masked.
    pub fn masked(&self, raised: u8) -> bool {
        raised & !self.masks == 0
    }
}

/// A result with what its computation raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out<T> {
    /// The result: the masked response, or the bias-adjusted one for an unmasked overflow or underflow of an [`F80`].
    pub value: T,
    /// [`flags`] raised, masked or not.
    pub flags: u8,
    /// The magnitude was rounded up (the x87's C1).
    pub up: bool,
}

impl<T> Out<T> {
    /// An exact result that raised `flags`.
    #[inline]
    pub fn new(value: T, flags: u8) -> Self {
        Self {
            value,
            flags,
            up: false,
        }
    }

    /// The same with more flags.
    #[inline]
    #[must_use]
    pub fn with(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    /// The same outcome with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Out<U> {
        Out {
            value: f(self.value),
            flags: self.flags,
            up: self.up,
        }
    }
}

impl<F: Float> Out<F> {
    /// The masked response to an invalid operation.
    #[inline]
    pub fn invalid() -> Self {
        Self::new(F::DEFAULT_NAN, flags::IE)
    }
}
