//! FSCALE and FXTRACT.

use super::arith::{denormal, propagate, propagate1};
use super::flags::ZE;
use super::round::{Exact, finish_at};
use super::{Class, Env, F80, Float, Out, Unpacked, from_i64};

/// FSCALE: `a * 2^trunc(b)`, rounded to 64 bits whatever the precision control says.
pub fn scale(env: &Env, a: Unpacked, b: Unpacked) -> Out<F80> {
    if let Some(nan) = propagate(env, &a, &b) {
        return nan;
    }
    let de = denormal(&[&a, &b]);
    match (a.class, b.class) {
        (Class::Infinite, Class::Infinite) if b.sign => Out::invalid(),
        (Class::Zero, Class::Infinite) if !b.sign => Out::invalid(),
        (Class::Infinite, _) => Out::new(F80::infinity(a.sign), de),
        (Class::Zero, _) => Out::new(F80::zero(a.sign), de),
        (_, Class::Infinite) if b.sign => Out::new(F80::zero(a.sign), de),
        (_, Class::Infinite) => Out::new(F80::infinity(a.sign), de),
        _ => {
            let amount = match b.class {
                Class::Zero => 0,
                _ if b.exp < 0 => 0,
                // Beyond any result's range, but not beyond i32's.
                _ if b.exp > 16 => 1 << 17,
                _ => (b.sig >> (63 - b.exp)) as i32,
            };
            let amount = if b.sign { -amount } else { amount };
            let exact = Exact {
                sign: a.sign,
                exp: a.exp + amount,
                sig: u128::from(a.sig) << 64,
            };
            finish_at(env, 64, exact).with(de)
        }
    }
}

/// FXTRACT: (exponent, significand); always exact.
pub fn extract(env: &Env, a: Unpacked) -> Out<(F80, F80)> {
    if let Some(nan) = propagate1::<F80>(&a) {
        return nan.map(|nan| (nan, nan));
    }
    match a.class {
        Class::Zero => Out::new((F80::infinity(true), F80::zero(a.sign)), ZE),
        Class::Infinite => Out::new((F80::infinity(false), F80::infinity(a.sign)), 0),
        _ => {
            let exponent = from_i64::<F80>(
                &Env {
                    precision: 64,
                    ..*env
                },
                i64::from(a.exp),
            )
            .value;
            Out::new(
                (exponent, F80::from_parts(a.sign, 0, a.sig)),
                denormal(&[&a]),
            )
        }
    }
}
