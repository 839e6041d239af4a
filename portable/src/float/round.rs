//! From an exact result to a format: rounding, overflow, underflow after rounding, flush to zero.

use super::flags::{OE, PE, UE};
use super::{Env, Float, Out, Rounding};

/// What the x87 adds to or takes from the exponent at an unmasked underflow or overflow (SDM 1, 8.5.4-8.5.5).
const BIAS_ADJUST: i32 = 24576;

/// An exact nonzero result: `sig * 2^(exp - 127)`; bit 0 of `sig` may stand for a nonzero rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exact {
    pub sign: bool,
    pub exp: i32,
    pub sig: u128,
}

/// Shifts right; bits that fall off are remembered in bit 0.
#[inline]
pub(crate) fn shr_jam(value: u128, count: u32) -> u128 {
    match count {
        0 => value,
        1..128 => value >> count | u128::from(value << (128 - count) != 0),
        _ => u128::from(value != 0),
    }
}

/// What rounding to some of the top 64 bits gave.
#[derive(Clone, Copy)]
pub(crate) struct Rounded {
    /// The kept bits, left-aligned; the leading one of a carry out is put back.
    pub sig: u64,
    /// Rounding carried out: the exponent is one more.
    pub carry: bool,
    pub inexact: bool,
    /// The magnitude was increased.
    pub up: bool,
}

/// Rounds to the upper `bits` (1 to 64) of `sig`.
#[inline]
pub(crate) fn round_bits(sig: u128, bits: u32, rounding: Rounding, sign: bool) -> Rounded {
    let dropped = 128 - bits;
    let rest = sig & (u128::MAX >> bits);
    let unit = 1u64 << (64 - bits);
    let kept = (sig >> 64) as u64 & unit.wrapping_neg();
    let inexact = rest != 0;
    let up = inexact
        && match rounding {
            Rounding::Nearest => {
                let half = 1u128 << (dropped - 1);
                rest > half || rest == half && kept & unit != 0
            }
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
    if !up {
        return Rounded {
            sig: kept,
            carry: false,
            inexact,
            up,
        };
    }
    let (sig, carry) = kept.overflowing_add(unit);
    Rounded {
        sig: if carry { 1 << 63 } else { sig },
        carry,
        inexact,
        up,
    }
}

/// Rounds to format `F` (an [`super::F80`] to the environment's precision).
#[inline]
pub(crate) fn finish<F: Float>(env: &Env, exact: Exact) -> Out<F> {
    let precision = if F::EXTENDED {
        env.precision
    } else {
        F::FORMAT.precision
    };
    finish_at(env, precision, exact)
}

/// Rounds to format `F` with `precision` bits of significand.
pub(crate) fn finish_at<F: Float>(env: &Env, precision: u32, exact: Exact) -> Out<F> {
    let sign = exact.sign;
    if exact.sig == 0 {
        return Out::new(F::zero(sign), 0);
    }
    let shift = exact.sig.leading_zeros();
    let sig = exact.sig << shift;
    let exp = exact.exp - shift as i32;
    let r = round_bits(sig, precision, env.rounding, sign);
    let rounded_exp = exp + i32::from(r.carry);
    let inexact = if r.inexact { PE } else { 0 };
    if rounded_exp > F::FORMAT.emax {
        if env.masks & OE == 0 {
            return adjusted(sign, rounded_exp - BIAS_ADJUST, r, OE | inexact);
        }
        let to_infinity = match env.rounding {
            Rounding::Nearest => true,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
        let value = if to_infinity {
            F::infinity(sign)
        } else {
            F::from_parts(sign, F::FORMAT.emax, u64::MAX << (64 - precision))
        };
        return Out {
            value,
            flags: OE | PE,
            up: to_infinity,
        };
    }
    if rounded_exp >= F::FORMAT.emin {
        return Out {
            value: F::from_parts(sign, rounded_exp, r.sig),
            flags: inexact,
            up: r.up,
        };
    }
    if env.masks & UE == 0 {
        return adjusted(sign, rounded_exp + BIAS_ADJUST, r, UE | inexact);
    }
    if env.ftz {
        return Out::new(F::zero(sign), UE | PE);
    }
    let r = round_bits(
        shr_jam(sig, (F::FORMAT.emin - exp) as u32),
        precision,
        env.rounding,
        sign,
    );
    let flags = if r.inexact { UE | PE } else { 0 };
    Out {
        value: F::from_parts(sign, F::FORMAT.emin, r.sig),
        flags,
        up: r.up,
    }
}

/// The response to an unmasked overflow or underflow. SSE discards it; FSCALE can exceed even the adjusted range and
/// then delivers an infinity or zero (SDM 1, 8.5.4), which is inexact.
fn adjusted<F: Float>(sign: bool, exp: i32, r: Rounded, flags: u8) -> Out<F> {
    if !F::EXTENDED {
        Out::new(F::zero(sign), flags)
    } else if exp < F::FORMAT.emin {
        Out::new(F::zero(sign), flags | PE)
    } else if exp > F::FORMAT.emax {
        Out {
            value: F::infinity(sign),
            flags: flags | PE,
            up: true,
        }
    } else {
        Out {
            value: F::from_parts(sign, exp, r.sig),
            flags,
            up: r.up,
        }
    }
}
