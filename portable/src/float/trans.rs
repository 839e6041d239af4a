//! F2XM1, FYL2X, FYL2XP1, FPATAN, FPTAN, FSIN, FCOS, FSINCOS.
//!
//! Each reduces its argument exactly where it can, sums a power series in 128-bit fixed point and rounds once to 64 bits
//! (precision control doesn't apply): results are those of correct rounding but for about one in 2^55. Sines and
//! tangents reduce with the 66-bit pi that Intel documents (SDM 1, 8.3.8), cosine and sine of huge arguments included.

use super::arith::{denormal, propagate, propagate1};
use super::flags::{DE, PE, UE, ZE};
use super::round::{Exact, finish_at};
use super::wide::{Wide, mul_high};
use super::{Class, Env, F80, Float, Out, Unpacked};

/// 1 in the fixed point of the series: 127 fraction bits.
const ONE: u128 = 1 << 127;

/// Coefficients `1 / (2k + odd)!`.
const fn factorials(odd: u128) -> [u128; 18] {
    let mut table = [ONE; 18];
    let mut k = 1;
    while k < 18 {
        let n = 2 * k as u128 + odd;
        table[k] = table[k - 1] / (n * (n - 1));
        k += 1;
    }
    table
}

/// Coefficients `1 / (2k + 1)`.
const fn odd_reciprocals() -> [u128; 27] {
    let mut table = [ONE; 27];
    let mut k = 0;
    while k < 27 {
        table[k] = ONE / (2 * k as u128 + 1);
        k += 1;
    }
    table
}

/// Coefficients `1 / (k + 1)!`.
const fn exponential() -> [u128; 34] {
    let mut table = [ONE; 34];
    let mut k = 1;
    while k < 34 {
        table[k] = table[k - 1] / (k as u128 + 1);
        k += 1;
    }
    table
}

static SIN: [u128; 18] = factorials(1);
static COS: [u128; 18] = factorials(0);
static ODD: [u128; 27] = odd_reciprocals();
static EXP: [u128; 34] = exponential();
/// `atan(i / 32)` in units of 2^-128.
static ATAN: [u128; 33] = arctangents();

/// Each from the one before: `atan(i/32) = atan((i-1)/32) + atan(32 / (1024 + i(i-1)))`.
const fn arctangents() -> [u128; 33] {
    let mut table = [0; 33];
    let mut i = 1;
    while i <= 32 {
        let d = 1024 + (i as u128) * (i as u128 - 1);
        // The power is kept as power * 2^127 and shrinks by (32 / d)^2.
        let mut power = (ONE / d) * 32;
        let mut sum = power;
        let mut n = 3;
        while power > 0 {
            power = power / d * 32 / d * 32;
            if n % 4 == 3 {
                sum -= power / n;
            } else {
                sum += power / n;
            }
            n += 2;
        }
        table[i] = table[i - 1] + 2 * sum;
        i += 1;
    }
    table
}

/// `c0 - c1 z + c2 z^2 - ...`, `z` in units of 2^-128, at least one unit below `c0`: the sum is never the rounded-up one.
fn alternating(coefficients: &[u128], z: u128) -> Wide {
    let mut sum = 0;
    for &c in coefficients[1..].iter().rev() {
        sum = c - mul_high(z, sum);
    }
    Wide::normal(false, 0, coefficients[0] - mul_high(z, sum).max(1))
}

/// `c0 + c1 z + c2 z^2 + ...`.
fn rising(coefficients: &[u128], z: u128) -> Wide {
    Wide::normal(
        false,
        0,
        coefficients
            .iter()
            .rev()
            .fold(0, |sum, &c| c + mul_high(z, sum)),
    )
}

/// Rounds an inexact result.
fn round(env: &Env, value: Wide) -> Out<F80> {
    finish_at(env, 64, value.inexact())
}

/// F2XM1: `2^a - 1`, for -1 <= a <= 1. Beyond, where the SDM leaves the result undefined, `a` itself.
pub fn f2xm1(env: &Env, a: Unpacked) -> Out<F80> {
    if let Some(nan) = propagate1(&a) {
        return nan;
    }
    match a.class {
        Class::Zero => return Out::new(F80::zero(a.sign), 0),
        Class::Infinite if a.sign => return Out::new(F80::from_parts(true, 0, 1 << 63), 0),
        Class::Infinite => return Out::new(F80::infinity(false), 0),
        _ => {}
    }
    if a.exp >= 0 {
        // 2^-1 - 1 is half of -1; 2^1 - 1 is the operand like everything beyond.
        let exp = if a.sign && a.exp == 0 && a.sig == 1 << 63 {
            -1
        } else {
            a.exp
        };
        return Out::new(F80::from_parts(a.sign, exp, a.sig), PE);
    }
    let t = Wide::new(&a).mul(Wide::LN2);
    let z = t.fraction();
    // e^t - 1 = t (1 + t/2! + t^2/3! + ...), whose partial sums are positive for either sign of t.
    let sum = EXP.iter().rev().fold(0, |sum, &c| {
        let term = mul_high(z, sum);
        // Halved: the sum may exceed two.
        if t.neg { c / 2 - term } else { c / 2 + term }
    });
    round(env, t.mul(Wide::normal(false, 1, sum))).with(denormal(&[&a]))
}

/// `log2(m)` of a positive number, and whether it is exact.
fn log2(x: Wide) -> (Wide, bool) {
    // m = x / 2^k between sqrt(1/2) and sqrt(2).
    let upper = x.sig >> 64 > 0xB504_F333_F9DE_6484;
    let k = x.exp + i32::from(upper);
    let m = x.shifted(-k);
    if x.sig == 1 << 127 {
        return (Wide::integer(k), true);
    }
    let s = m.sub(Wide::ONE).div(m.add(Wide::ONE));
    (Wide::integer(k).add(log2_of_ratio(s)), false)
}

/// `log2((1 + s) / (1 - s))` for |s| <= 0.172.
fn log2_of_ratio(s: Wide) -> Wide {
    let z = s.mul(s);
    s.mul(rising(&ODD, z.fraction()))
        .mul(Wide::LOG2_E)
        .shifted(1)
}

/// FYL2X: `y * log2(x)`; x is ST(0), y is ST(1).
pub fn fyl2x(env: &Env, x: Unpacked, y: Unpacked) -> Out<F80> {
    if let Some(nan) = propagate(env, &x, &y) {
        return nan;
    }
    let de = denormal(&[&x, &y]);
    let one = x.class == Class::Finite && x.exp == 0 && x.sig == 1 << 63 && !x.sign;
    // log2(x) is negative.
    let below_one = x.class == Class::Zero || x.class == Class::Finite && x.exp < 0;
    match (x.class, y.class) {
        (Class::Finite | Class::Infinite, _) if x.sign => Out::invalid(),
        (Class::Zero, Class::Zero) | (Class::Infinite, Class::Zero) => Out::invalid(),
        (Class::Zero, Class::Finite) => Out::new(F80::infinity(!y.sign), ZE),
        _ if one && y.class == Class::Infinite => Out::invalid(),
        _ if one => Out::new(F80::zero(y.sign), de),
        (_, Class::Infinite) | (Class::Infinite, _) => {
            Out::new(F80::infinity(y.sign != below_one), de)
        }
        (_, Class::Zero) => Out::new(F80::zero(y.sign != below_one), de),
        _ => times_log(env, y, log2(Wide::new(&x))).with(de),
    }
}

/// The product with a logarithm that isn't zero.
fn times_log(env: &Env, y: Unpacked, (log, exact): (Wide, bool)) -> Out<F80> {
    if exact {
        // At most 16 bits of logarithm: the product is exact, though CPUs raise PE here too.
        let sig = u128::from(y.sig) * (log.sig >> 64);
        let product = Exact {
            sign: y.sign != log.neg,
            exp: y.exp + log.exp + 1,
            sig,
        };
        let out: Out<F80> = finish_at(env, 64, product);
        let tiny = out.value.unpack().denormal;
        return out.with(if tiny { UE | PE } else { PE });
    }
    round(env, log.mul(Wide::new(&y)))
}

/// FYL2XP1: `y * log2(x + 1)`; x is ST(0), y is ST(1). The SDM defines it for |x| < 1 - sqrt(1/2); above,
/// the formula holds all the same.
pub fn fyl2xp1(env: &Env, x: Unpacked, y: Unpacked) -> Out<F80> {
    if let Some(nan) = propagate(env, &x, &y) {
        return nan;
    }
    let de = denormal(&[&x, &y]);
    match (x.class, y.class) {
        (Class::Infinite, _) if x.sign => Out::invalid(),
        (Class::Zero, Class::Infinite) | (Class::Infinite, Class::Zero) => Out::invalid(),
        (_, Class::Infinite) | (Class::Infinite, _) => {
            Out::new(F80::infinity(x.sign != y.sign), de)
        }
        (Class::Zero, _) | (_, Class::Zero) => Out::new(F80::zero(x.sign != y.sign), de),
        // Undefined by the SDM: the operand comes back.
        _ if x.sign && x.exp >= 0 => Out::new(F80::from_parts(true, x.exp, x.sig), PE | de),
        _ => {
            let wide = Wide::new(&x);
            let log = if x.exp < -2 {
                (log2_of_ratio(wide.div(wide.add(Wide::TWO))), false)
            } else {
                log2(wide.add(Wide::ONE))
            };
            times_log(env, y, log).with(de)
        }
    }
}

/// `atan(y / x)` for 0 < y <= x.
fn atan_ratio(y: Wide, x: Wide) -> Wide {
    // i / 32 nearest to y / x.
    let ratio = y.div(x);
    let i = if ratio.exp >= 0 {
        32
    } else if ratio.exp < -6 {
        0
    } else {
        ((ratio.fraction() >> 122) + 1) >> 1
    };
    if i == 0 {
        let z = ratio.mul(ratio);
        return ratio.mul(alternating(&ODD[..13], z.fraction()));
    }
    let step = Wide::integer(i as i32);
    let u = y
        .shifted(5)
        .sub(x.mul(step))
        .div(x.shifted(5).add(y.mul(step)));
    let z = u.mul(u);
    let rest = u.mul(alternating(&ODD[..13], z.fraction()));
    Wide::normal(false, -1, ATAN[i as usize]).add(rest)
}

/// FPATAN: the angle of the point (x, y); x is ST(0), y is ST(1).
pub fn fpatan(env: &Env, x: Unpacked, y: Unpacked) -> Out<F80> {
    if let Some(nan) = propagate(env, &x, &y) {
        return nan;
    }
    let de = denormal(&[&x, &y]);
    let half = Wide::PI.shifted(-1);
    let angle = match (y.class, x.class) {
        (Class::Infinite, Class::Infinite) if x.sign => half.add(Wide::PI.shifted(-2)),
        (Class::Infinite, Class::Infinite) => Wide::PI.shifted(-2),
        (Class::Infinite, _) => half,
        (Class::Zero, _) | (_, Class::Infinite) if x.sign => Wide::PI,
        (Class::Zero, _) | (_, Class::Infinite) => return Out::new(F80::zero(y.sign), de),
        (_, Class::Zero) => half,
        _ => {
            let (wy, wx) = (Wide::new(&y).abs(), Wide::new(&x).abs());
            let steep = (wy.exp, wy.sig) > (wx.exp, wx.sig);
            let acute = if steep {
                half.sub(atan_ratio(wx, wy))
            } else {
                atan_ratio(wy, wx)
            };
            if x.sign { Wide::PI.sub(acute) } else { acute }
        }
    };
    round(
        env,
        Wide {
            neg: y.sign,
            ..angle
        },
    )
    .with(de)
}

/// The angle less the nearest multiple of pi/2, with the low two bits of that multiple; `None` for |a| >= 2^63.
fn reduce(a: &Unpacked) -> Option<(Wide, u32)> {
    /// pi/2 in units of 2^-65: the 66 bits that the hardware has.
    const HALF_PI: u128 = 0x3_243F_6A88_85A3_08D3;
    if a.exp >= 63 {
        return None;
    }
    let wide = Wide::new(a);
    if a.exp < -1 {
        return Some((wide, 0));
    }
    // Exact: the operand in units of 2^-65 is an integer of at most 128 bits (the shift is from 1 to 64).
    let fixed = u128::from(a.sig) << (a.exp + 2);
    let (mut quotient, mut rest) = ((fixed / HALF_PI) as u64, fixed % HALF_PI);
    let flip = rest > HALF_PI / 2;
    if flip {
        quotient += 1;
        rest = HALF_PI - rest;
    }
    let quadrant = if a.sign {
        quotient.wrapping_neg()
    } else {
        quotient
    };
    Some((Wide::normal(a.sign != flip, 62, rest), quadrant as u32 & 3))
}

/// Sine and cosine of an angle of up to pi/4.
fn sin_cos(r: Wide) -> (Wide, Wide) {
    let z = r.mul(r).fraction();
    (r.mul(alternating(&SIN, z)), alternating(&COS, z))
}

/// Sine and cosine of a finite, nonzero angle.
fn circular(a: &Unpacked) -> Option<(Wide, Wide)> {
    let (r, quadrant) = reduce(a)?;
    let (s, c) = sin_cos(r);
    Some(match quadrant {
        0 => (s, c),
        1 => (c, s.negated()),
        2 => (s.negated(), c.negated()),
        _ => (c.negated(), s),
    })
}

/// FSIN; `None` where |a| >= 2^63 (C2 is set and nothing else happens).
pub fn fsin(env: &Env, a: Unpacked) -> Option<Out<F80>> {
    match a.class {
        Class::Zero => Some(Out::new(F80::zero(a.sign), 0)),
        Class::Infinite => Some(Out::invalid()),
        Class::Finite => Some(round(env, circular(&a)?.0).with(denormal(&[&a]))),
        _ => propagate1(&a),
    }
}

/// FCOS; `None` as for [`fsin`].
pub fn fcos(env: &Env, a: Unpacked) -> Option<Out<F80>> {
    match a.class {
        Class::Zero => Some(Out::new(F80::ONE, 0)),
        Class::Infinite => Some(Out::invalid()),
        Class::Finite => Some(round(env, circular(&a)?.1).with(denormal(&[&a]))),
        _ => propagate1(&a),
    }
}

/// What FSINCOS gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinCos {
    /// Goes to ST(0), which becomes ST(1).
    pub sin: F80,
    /// Is pushed.
    pub cos: F80,
}

/// FSINCOS; `None` as for [`fsin`].
pub fn fsincos(env: &Env, a: Unpacked) -> Option<Out<SinCos>> {
    match a.class {
        Class::Zero => Some(Out::new(
            SinCos {
                sin: F80::zero(a.sign),
                cos: F80::ONE,
            },
            0,
        )),
        Class::Infinite => Some(Out::invalid().map(|nan| SinCos { sin: nan, cos: nan })),
        Class::Finite => {
            let (s, c) = circular(&a)?;
            let (sin, cos) = (round(env, s), round(env, c));
            let flags = sin.flags | cos.flags | if a.denormal { DE } else { 0 };
            Some(Out {
                value: SinCos {
                    sin: sin.value,
                    cos: cos.value,
                },
                flags,
                up: cos.up,
            })
        }
        _ => propagate1(&a).map(|nan: Out<F80>| nan.map(|nan| SinCos { sin: nan, cos: nan })),
    }
}

/// FPTAN's tangent (the 1.0 that it pushes is the caller's); `None` as for [`fsin`].
pub fn fptan(env: &Env, a: Unpacked) -> Option<Out<F80>> {
    match a.class {
        Class::Zero => Some(Out::new(F80::zero(a.sign), 0)),
        Class::Infinite => Some(Out::invalid()),
        Class::Finite => {
            let (s, c) = circular(&a)?;
            Some(round(env, s.div(c)).with(denormal(&[&a])))
        }
        _ => propagate1(&a),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{F64, convert};
    use super::*;

    fn check(name: &str, got: Out<F80>, expected: f64) {
        let env = Env::from_cw(0x37F);
        let got = f64::from_bits(convert::<F64>(&env, got.value.unpack()).value.0);
        assert!(
            (got - expected).abs() <= expected.abs() * 4.0 * f64::EPSILON,
            "{name}: {got} {expected}"
        );
    }

    #[test]
    fn against_the_host_library() {
        let env = Env::from_cw(0x37F);
        let un = |v: f64| F64(v.to_bits()).unpack();
        let mut v = 1e-9f64;
        while v < 0.999 {
            for x in [v, -v] {
                check(
                    "f2xm1",
                    f2xm1(&env, un(x)),
                    (x * std::f64::consts::LN_2).exp_m1(),
                );
                check("sin", fsin(&env, un(x)).unwrap(), x.sin());
                check("cos", fcos(&env, un(x)).unwrap(), x.cos());
                check("tan", fptan(&env, un(x)).unwrap(), x.tan());
                check(
                    "fyl2xp1",
                    fyl2xp1(&env, un(x), un(1.0)),
                    x.ln_1p() * std::f64::consts::LOG2_E,
                );
                for y in [1.0, -3.0, 0.3, 1e30] {
                    check("fpatan", fpatan(&env, un(x), un(y)), y.atan2(x));
                }
            }
            check("fyl2x", fyl2x(&env, un(v), un(1.0)), v.log2());
            check("fyl2x", fyl2x(&env, un(1.0 / v), un(1.0)), (1.0 / v).log2());
            v *= 1.07;
        }
    }

    #[test]
    fn exact_cases_are_exact() {
        let env = Env::from_cw(0x37F);
        let un = |v: f64| F64(v.to_bits()).unpack();
        let inexact = |se, sig| Out::new(F80::new(se, sig), PE);
        assert_eq!(
            fyl2x(&env, un(8.0), un(1.5)),
            inexact(0x4001, 0x9000_0000_0000_0000)
        );
        assert_eq!(f2xm1(&env, un(-1.0)), inexact(0xBFFE, 1 << 63));
        assert_eq!(f2xm1(&env, un(1.0)), inexact(0x3FFF, 1 << 63));
        assert!(fsin(&env, un(9.3e18)).is_none());
        assert!(fsin(&env, un(9.2e18)).is_some());
    }
}
