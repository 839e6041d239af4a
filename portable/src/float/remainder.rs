//! FPREM and FPREM1: the exact remainder, in steps where the exponents are far apart.

use super::arith::{denormal, propagate};
use super::round::{Exact, finish_at};
use super::{Class, Env, F80, Float, Out, Unpacked};

/// What FPREM and FPREM1 give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The remainder, or the partial one.
    pub value: F80,
    /// Low bits of the quotient (three are used), zero where the reduction is partial; `None` where an operand doesn't
    /// let one be formed.
    pub quotient: Option<u64>,
    /// The reduction isn't complete (C2): go on with `value`.
    pub partial: bool,
}

/// The remainder of `a / b`, its quotient truncated (FPREM) or, with `nearest`, rounded to nearest even (FPREM1).
pub fn remainder(env: &Env, a: Unpacked, b: Unpacked, nearest: bool) -> Out<Remainder> {
    let whole = |value| Remainder {
        value,
        quotient: None,
        partial: false,
    };
    if let Some(nan) = propagate(env, &a, &b) {
        return nan.map(whole);
    }
    let de = denormal(&[&a, &b]);
    match (a.class, b.class) {
        (Class::Infinite, _) | (_, Class::Zero) => return Out::invalid().map(whole),
        (Class::Zero, _) => {
            return Out::new(
                Remainder {
                    quotient: Some(0),
                    ..whole(F80::zero(a.sign))
                },
                de,
            );
        }
        _ => {}
    }
    let difference = if b.class == Class::Infinite {
        i32::MIN
    } else {
        a.exp - b.exp
    };
    let (numerator, divisor) = (u128::from(a.sig), u128::from(b.sig));
    let deliver = |sign, exp, rest: u128, quotient, partial| {
        let quotient = Some(quotient);
        // An integer `rest` in units of 2^(exp - 63).
        let exact = if rest == 0 {
            return Out::new(
                Remainder {
                    value: F80::zero(a.sign),
                    quotient,
                    partial,
                },
                de,
            );
        } else {
            Exact {
                sign,
                exp: exp + 64,
                sig: rest,
            }
        };
        finish_at::<F80>(env, 64, exact)
            .map(|value| Remainder {
                value,
                quotient,
                partial,
            })
            .with(de)
    };
    if difference >= 64 {
        // A step takes N of the D bits, 32 <= N <= 63 (SDM 2, FPREM): Intel's choice leaves a multiple of 32.
        let step = (difference & 31) | 32;
        let rest = (numerator << step) % divisor;
        return deliver(a.sign, b.exp + difference - step, rest, 0, true);
    }
    if difference < -1 || difference < 0 && !nearest {
        return deliver(a.sign, a.exp, numerator, 0, false);
    }
    if difference == -1 {
        // The quotient is below one: nearest is one where a > b / 2.
        return if numerator > divisor {
            deliver(!a.sign, a.exp, 2 * divisor - numerator, 1, false)
        } else {
            deliver(a.sign, a.exp, numerator, 0, false)
        };
    }
    let shifted = numerator << difference;
    let (quotient, rest) = ((shifted / divisor) as u64, shifted % divisor);
    if nearest && (2 * rest > divisor || 2 * rest == divisor && quotient & 1 != 0) {
        return deliver(
            !a.sign,
            b.exp,
            divisor - rest,
            quotient.wrapping_add(1),
            false,
        );
    }
    deliver(a.sign, b.exp, rest, quotient, false)
}

#[cfg(test)]
mod tests {
    use super::super::F64;
    use super::*;

    fn rem(a: f64, b: f64, nearest: bool) -> (f64, u64) {
        let env = Env::from_cw(0x37F);
        let out = remainder(
            &env,
            F64(a.to_bits()).unpack(),
            F64(b.to_bits()).unpack(),
            nearest,
        );
        assert!(!out.value.partial);
        let value = super::super::convert::<F64>(&env, out.value.value.unpack()).value;
        (f64::from_bits(value.0), out.value.quotient.unwrap() & 7)
    }

    #[test]
    fn small_remainders() {
        assert_eq!(rem(7.0, 2.0, false), (1.0, 3));
        assert_eq!(rem(7.0, 2.0, true), (-1.0, 4));
        assert_eq!(rem(5.0, 2.0, true), (1.0, 2));
        assert_eq!(rem(-7.5, 4.0, false), (-3.5, 1));
        assert_eq!(rem(3.0, 4.0, true), (-1.0, 1));
        assert_eq!(rem(2.0, 4.0, true), (2.0, 0));
        assert_eq!(rem(1.0, 4.0, true), (1.0, 0));
        assert_eq!(rem(8.0, f64::INFINITY, true), (8.0, 0));
    }

    #[test]
    fn far_exponents_take_several_steps() {
        let env = Env::from_cw(0x37F);
        let b = F80::new(0x3FFF, 0xC000_0000_0000_0000).unpack();
        let mut a = F80::new(0x3FFF + 1000, 1 << 63).unpack();
        let mut steps = 0;
        loop {
            let out = remainder(&env, a, b, false);
            steps += 1;
            if !out.value.partial {
                // 2^1000 mod 3/2 = (2^1001 mod 3) / 2.
                assert_eq!(out.value.value, F80::ONE);
                break;
            }
            a = out.value.value.unpack();
        }
        assert!(steps > 10 && steps < 40);
    }
}
