//! Add, multiply, divide, square root, fused multiply-add, comparison, minimum, maximum, rounding to an integer.

use std::cmp::Ordering;

use super::flags::{DE, IE, PE, ZE};
use super::round::{Exact, finish, round_bits, shr_jam};
use super::{Class, Env, Float, NanRule, Out, Rounding, Unpacked};

/// DE where an operand is denormal.
#[inline]
pub(crate) fn denormal(operands: &[&Unpacked]) -> u8 {
    if operands.iter().any(|u| u.denormal) {
        DE
    } else {
        0
    }
}

/// The result where an operand is a NaN or unsupported.
#[inline]
pub(crate) fn propagate<F: Float>(env: &Env, a: &Unpacked, b: &Unpacked) -> Option<Out<F>> {
    if a.is_number() && b.is_number() {
        None
    } else {
        Some(propagate_slow(env, a, b))
    }
}

#[cold]
fn propagate_slow<F: Float>(env: &Env, a: &Unpacked, b: &Unpacked) -> Out<F> {
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        return Out::invalid();
    }
    let signalling = a.class == Class::Signalling || b.class == Class::Signalling;
    let first = match env.nan {
        _ if !b.is_nan() => true,
        _ if !a.is_nan() => false,
        NanRule::First => true,
        // Quiet before signalling, then the larger significand (signalling ones as they are), then the positive one.
        NanRule::Larger if a.class != b.class => a.class == Class::Quiet,
        NanRule::Larger => match a.sig.cmp(&b.sig) {
            Ordering::Equal => !a.sign,
            order => order == Ordering::Greater,
        },
    };
    let nan = if first { a } else { b };
    Out::new(F::nan(nan.sign, nan.sig), if signalling { IE } else { 0 })
}

/// The same for one operand.
#[inline]
pub(crate) fn propagate1<F: Float>(a: &Unpacked) -> Option<Out<F>> {
    match a.class {
        Class::Zero | Class::Finite | Class::Infinite => None,
        Class::Quiet => Some(Out::new(F::nan(a.sign, a.sig), 0)),
        Class::Signalling => Some(Out::new(F::nan(a.sign, a.sig), IE)),
        Class::Unsupported => Some(Out::invalid()),
    }
}

/// Sum of two finite numbers with 128-bit significands whose top bit is 126 and whose low bits leave room for a sticky
/// bit; `None` for an exact zero.
fn add_exact(a: Exact, b: Exact) -> Option<Exact> {
    let (high, low) = if a.exp >= b.exp { (a, b) } else { (b, a) };
    let shifted = shr_jam(low.sig, (high.exp - low.exp) as u32);
    if high.sign == low.sign {
        return Some(Exact {
            sign: high.sign,
            exp: high.exp,
            sig: high.sig + shifted,
        });
    }
    match high.sig.cmp(&shifted) {
        Ordering::Equal => None,
        Ordering::Greater => Some(Exact {
            sign: high.sign,
            exp: high.exp,
            sig: high.sig - shifted,
        }),
        Ordering::Less => Some(Exact {
            sign: low.sign,
            exp: high.exp,
            sig: shifted - high.sig,
        }),
    }
}

/// A finite operand with its leading bit at bit 126.
fn widen(a: &Unpacked) -> Exact {
    Exact {
        sign: a.sign,
        exp: a.exp + 1,
        sig: u128::from(a.sig) << 63,
    }
}

/// `a + b`.
pub fn add<F: Float>(env: &Env, a: Unpacked, b: Unpacked) -> Out<F> {
    if let Some(nan) = propagate(env, &a, &b) {
        return nan;
    }
    let de = denormal(&[&a, &b]);
    let exact_zero = F::zero(env.rounding == Rounding::Down);
    match (a.class, b.class) {
        (Class::Infinite, Class::Infinite) if a.sign != b.sign => Out::invalid(),
        (Class::Infinite, _) => Out::new(F::infinity(a.sign), de),
        (_, Class::Infinite) => Out::new(F::infinity(b.sign), de),
        (Class::Zero, Class::Zero) if a.sign == b.sign => Out::new(F::zero(a.sign), 0),
        (Class::Zero, Class::Zero) => Out::new(exact_zero, 0),
        (Class::Zero, _) => finish(env, widen(&b)).with(de),
        (_, Class::Zero) => finish(env, widen(&a)).with(de),
        _ => match add_exact(widen(&a), widen(&b)) {
            Some(sum) => finish(env, sum).with(de),
            None => Out::new(exact_zero, de),
        },
    }
}

/// `a - b`. A NaN keeps its sign.
pub fn sub<F: Float>(env: &Env, a: Unpacked, b: Unpacked) -> Out<F> {
    match propagate(env, &a, &b) {
        Some(nan) => nan,
        None => add(env, a, b.negated()),
    }
}

/// `a * b`.
pub fn mul<F: Float>(env: &Env, a: Unpacked, b: Unpacked) -> Out<F> {
    if let Some(nan) = propagate(env, &a, &b) {
        return nan;
    }
    let de = denormal(&[&a, &b]);
    let sign = a.sign != b.sign;
    match (a.class, b.class) {
        (Class::Infinite, Class::Zero) | (Class::Zero, Class::Infinite) => Out::invalid(),
        (Class::Infinite, _) | (_, Class::Infinite) => Out::new(F::infinity(sign), de),
        (Class::Zero, _) | (_, Class::Zero) => Out::new(F::zero(sign), de),
        _ => finish(env, product(&a, &b)).with(de),
    }
}

/// The exact product of two finite numbers.
fn product(a: &Unpacked, b: &Unpacked) -> Exact {
    Exact {
        sign: a.sign != b.sign,
        exp: a.exp + b.exp + 1,
        sig: u128::from(a.sig) * u128::from(b.sig),
    }
}

/// `a / b`.
pub fn div<F: Float>(env: &Env, a: Unpacked, b: Unpacked) -> Out<F> {
    if let Some(nan) = propagate(env, &a, &b) {
        return nan;
    }
    let de = denormal(&[&a, &b]);
    let sign = a.sign != b.sign;
    match (a.class, b.class) {
        (Class::Infinite, Class::Infinite) | (Class::Zero, Class::Zero) => Out::invalid(),
        (Class::Infinite, _) => Out::new(F::infinity(sign), de),
        (_, Class::Infinite) | (Class::Zero, _) => Out::new(F::zero(sign), de),
        (_, Class::Zero) => Out::new(F::infinity(sign), ZE),
        _ => {
            // Two digits of base 2^64 of the quotient, the first of 63 or 64 bits, and a sticky bit.
            let divisor = u128::from(b.sig);
            let numerator = u128::from(a.sig) << 63;
            let (first, rest) = (numerator / divisor, numerator % divisor);
            let sig = if F::FORMAT.precision < 60 {
                first << 64 | u128::from(rest != 0)
            } else {
                let second = (rest << 64) / divisor;
                first << 64 | second | u128::from((rest << 64) % divisor != 0)
            };
            finish(
                env,
                Exact {
                    sign,
                    exp: a.exp - b.exp,
                    sig,
                },
            )
            .with(de)
        }
    }
}

/// Square root.
pub fn sqrt<F: Float>(env: &Env, a: Unpacked) -> Out<F> {
    if let Some(nan) = propagate1(&a) {
        return nan;
    }
    match a.class {
        Class::Zero => Out::new(F::zero(a.sign), 0),
        _ if a.sign => Out::invalid(),
        Class::Infinite => Out::new(F::infinity(false), 0),
        _ => {
            // The radicand as an integer of 127 or 128 bits with an even exponent has a root of 64 bits.
            let odd = a.exp & 1;
            let radicand = u128::from(a.sig) << (63 + odd);
            let root = radicand.isqrt();
            let rest = radicand - root * root;
            // (root + 1/2)^2 = root^2 + root + 1/4 is never an integer: above half means rest > root.
            let sig = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
            finish(
                env,
                Exact {
                    sign: false,
                    exp: (a.exp - odd) / 2,
                    sig,
                },
            )
            .with(denormal(&[&a]))
        }
    }
}

/// `a * b + c` with one rounding. Of NaNs the first in this order comes out; a NaN `c` beside infinity times zero is no
/// invalid operation of its own.
pub fn fma<F: Float>(env: &Env, a: Unpacked, b: Unpacked, c: Unpacked) -> Out<F> {
    let signalling = [&a, &b, &c].iter().any(|u| u.class == Class::Signalling);
    if let Some(nan) = [&a, &b, &c].into_iter().find(|u| u.is_nan()) {
        return Out::new(F::nan(nan.sign, nan.sig), if signalling { IE } else { 0 });
    }
    let de = denormal(&[&a, &b, &c]);
    let sign = a.sign != b.sign;
    match (a.class, b.class) {
        (Class::Infinite, Class::Zero) | (Class::Zero, Class::Infinite) => return Out::invalid(),
        (Class::Infinite, _) | (_, Class::Infinite) => {
            return match c.class {
                Class::Infinite if c.sign != sign => Out::invalid(),
                _ => Out::new(F::infinity(sign), de),
            };
        }
        (Class::Zero, _) | (_, Class::Zero) => {
            return add::<F>(env, Unpacked::zero(sign), c).with(de);
        }
        _ => {}
    }
    let mut ab = product(&a, &b);
    match c.class {
        Class::Infinite => Out::new(F::infinity(c.sign), de),
        Class::Zero => finish(env, ab).with(de),
        _ => {
            // The significands of both formats leave at least 22 zero bits at the product's low end.
            let shift = ab.sig.leading_zeros();
            ab.sig = ab.sig << shift >> 1;
            ab.exp += 1 - shift as i32;
            match add_exact(ab, widen(&c)) {
                Some(sum) => finish(env, sum).with(de),
                None => Out::new(F::zero(env.rounding == Rounding::Down), de),
            }
        }
    }
}

/// Compares; `None` is unordered. A quiet NaN is invalid only to a `signalling` comparison.
pub fn compare(a: &Unpacked, b: &Unpacked, signalling: bool) -> (Option<Ordering>, u8) {
    if !a.is_number() || !b.is_number() {
        let quiet = |u: &Unpacked| u.is_number() || u.class == Class::Quiet;
        let invalid = signalling || !quiet(a) || !quiet(b);
        return (None, if invalid { IE } else { 0 });
    }
    let magnitude = |u: &Unpacked| match u.class {
        Class::Zero => (i32::MIN, 0),
        Class::Infinite => (i32::MAX, 0),
        _ => (u.exp, u.sig),
    };
    let order = match (a.sign, b.sign) {
        _ if a.class == Class::Zero && b.class == Class::Zero => Ordering::Equal,
        (false, false) => magnitude(a).cmp(&magnitude(b)),
        (true, true) => magnitude(b).cmp(&magnitude(a)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    };
    (Some(order), denormal(&[a, b]))
}

/// MINxx: the smaller; the second where one is a NaN or both are zeros.
pub fn min<F: Float>(env: &Env, a: F, b: F) -> Out<F> {
    choose(env, a, b, Ordering::Less)
}

/// MAXxx: the larger; the second where one is a NaN or both are zeros.
pub fn max<F: Float>(env: &Env, a: F, b: F) -> Out<F> {
    choose(env, a, b, Ordering::Greater)
}

fn choose<F: Float>(env: &Env, a: F, b: F, wanted: Ordering) -> Out<F> {
    let (ua, ub) = (env.load(a), env.load(b));
    let (order, flags) = compare(&ua, &ub, true);
    let (chosen, unpacked) = if order == Some(wanted) {
        (a, ua)
    } else {
        (b, ub)
    };
    // A denormal that DAZ took for a zero comes out as that zero.
    let value = if unpacked.class == Class::Zero {
        F::zero(unpacked.sign)
    } else {
        chosen
    };
    Out::new(value, flags)
}

/// Rounds to an integral value of the same format, in any direction. PE is raised where the value changes; denormal
/// operands raise nothing (the x87 adds DE itself).
pub fn round_to_int<F: Float>(a: Unpacked, rounding: Rounding) -> Out<F> {
    if let Some(nan) = propagate1(&a) {
        return nan;
    }
    match a.class {
        Class::Zero => return Out::new(F::zero(a.sign), 0),
        Class::Infinite => return Out::new(F::infinity(a.sign), 0),
        _ => {}
    }
    if a.exp >= F::FORMAT.precision as i32 - 1 {
        return Out::new(F::from_parts(a.sign, a.exp, a.sig), 0);
    }
    if a.exp < 0 {
        // Below one: half is at -1, everything smaller is the same nonzero rest.
        let sig = if a.exp == -1 {
            u128::from(a.sig) << 63
        } else {
            1
        };
        let r = round_bits(sig, 1, rounding, a.sign);
        let value = if r.sig == 0 {
            F::zero(a.sign)
        } else {
            F::from_parts(a.sign, 0, 1 << 63)
        };
        return Out {
            value,
            flags: PE,
            up: r.up,
        };
    }
    let r = round_bits(u128::from(a.sig) << 64, a.exp as u32 + 1, rounding, a.sign);
    let value = F::from_parts(a.sign, a.exp + i32::from(r.carry), r.sig);
    Out {
        value,
        flags: if r.inexact { PE } else { 0 },
        up: r.up,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{F32, F64};
    use super::*;

    fn env(mxcsr: u32) -> Env {
        Env::from_mxcsr(mxcsr)
    }

    #[test]
    fn a_third_in_four_directions() {
        let expected = [0x3EAA_AAAB, 0x3EAA_AAAA, 0x3EAA_AAAB, 0x3EAA_AAAA];
        for (rc, bits) in expected.into_iter().enumerate() {
            let e = env(0x1F80 | (rc as u32) << 13);
            let out = div::<F32>(&e, F32(0x3F80_0000).unpack(), F32(0x4040_0000).unpack());
            assert_eq!((out.value.0, out.flags), (bits, PE), "RC {rc}");
        }
    }

    #[test]
    fn fused_keeps_the_low_product() {
        let e = env(0x1F80);
        let x = F64((1f64 + f64::EPSILON).to_bits()).unpack();
        let minus = F64((-1f64 - 2.0 * f64::EPSILON).to_bits()).unpack();
        let out = fma::<F64>(&e, x, x, minus);
        assert_eq!(f64::from_bits(out.value.0), f64::EPSILON * f64::EPSILON);
        assert_eq!(out.flags, 0);
    }

    #[test]
    fn half_rounds_to_even() {
        for (value, rounded) in [
            (0.5, 0.0),
            (1.5, 2.0),
            (2.5, 2.0),
            (-0.5, -0.0),
            (0.25, 0.0),
            (4503599627370497.5, 4503599627370498.0),
        ] {
            let out = round_to_int::<F64>(F64(f64::to_bits(value)).unpack(), Rounding::Nearest);
            assert_eq!(out.value.0, f64::to_bits(rounded), "{value}");
        }
    }
}
