//! Packed and scalar floating-point arithmetic.

use std::cmp::Ordering;

use iced_x86::Code as C;

use super::lanes::{Lane, blocks};
use super::{Kernel, Table, VecOperands, settle};
use crate::float::flags::PE;
use crate::float::{self, Class, Env, F32, F64, Float, Out, Rounding, Unpacked, compare};

/// `d[i] = f(a[i], b[i])`; returns what any lane raised.
pub(super) fn map2<F: Float + Lane>(
    env: &Env,
    d: &mut [u8],
    a: &[u8],
    b: &[u8],
    f: impl Fn(&Env, Unpacked, Unpacked) -> Out<F>,
) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / F::SIZE {
        let out = f(env, env.load(F::get(a, i)), env.load(F::get(b, i)));
        raised |= out.flags;
        out.value.put(d, i);
    }
    raised
}

/// The same on values as they are.
fn map2_raw<F: Float + Lane>(
    env: &Env,
    d: &mut [u8],
    a: &[u8],
    b: &[u8],
    f: impl Fn(&Env, F, F) -> Out<F>,
) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / F::SIZE {
        let out = f(env, F::get(a, i), F::get(b, i));
        raised |= out.flags;
        out.value.put(d, i);
    }
    raised
}

/// HADDPx and HSUBPx: pairs of `a`, then pairs of `b`.
fn horizontal<F: Float + Lane>(
    env: &Env,
    d: &mut [u8],
    a: &[u8],
    b: &[u8],
    f: impl Fn(&Env, Unpacked, Unpacked) -> Out<F>,
) -> u8 {
    let raised = std::cell::Cell::new(0);
    blocks(d, a, b, |d, a, b| {
        let half = d.len() / F::SIZE / 2;
        for (source, at) in [(a, 0), (b, half)] {
            for i in 0..half {
                let out = f(
                    env,
                    env.load(F::get(source, 2 * i)),
                    env.load(F::get(source, 2 * i + 1)),
                );
                raised.set(raised.get() | out.flags);
                out.value.put(d, at + i);
            }
        }
    });
    raised.get()
}

/// ADDSUBPx: odd lanes add, even ones subtract.
fn add_subtract<F: Float + Lane>(env: &Env, d: &mut [u8], a: &[u8], b: &[u8]) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / F::SIZE {
        let (x, y) = (env.load(F::get(a, i)), env.load(F::get(b, i)));
        let out: Out<F> = if i & 1 != 0 {
            float::add(env, x, y)
        } else {
            float::sub(env, x, y)
        };
        raised |= out.flags;
        out.value.put(d, i);
    }
    raised
}

/// Whether predicate `p` (0-31, as in VCMPPS) holds for `order`.
fn predicate(p: u8, order: Option<Ordering>) -> bool {
    let (less, equal) = (
        order == Some(Ordering::Less),
        order == Some(Ordering::Equal),
    );
    let unordered = order.is_none();
    match p & 15 {
        0 => equal,
        1 => less,
        2 => less || equal,
        3 => unordered,
        4 => !equal,
        5 => !less,
        6 => !(less || equal),
        7 => !unordered,
        8 => equal || unordered,
        9 => less || unordered,
        10 => less || equal || unordered,
        11 => false,
        12 => !equal && !unordered,
        13 => !less && !unordered,
        14 => !(less || equal || unordered),
        _ => true,
    }
}

/// Whether predicate `p` is one to which a quiet NaN is invalid.
fn signals(p: u8) -> bool {
    matches!(p & 15, 1 | 2 | 5 | 6 | 9 | 10 | 13 | 14) != (p & 16 != 0)
}

/// CMPxx: all ones where the predicate holds.
pub(super) fn compare_lanes<F: Float + Lane>(
    env: &Env,
    d: &mut [u8],
    a: &[u8],
    b: &[u8],
    p: u8,
) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / F::SIZE {
        let (order, flags) = compare(&env.load(F::get(a, i)), &env.load(F::get(b, i)), signals(p));
        raised |= flags;
        d[i * F::SIZE..(i + 1) * F::SIZE].fill(if predicate(p, order) { 0xFF } else { 0 });
    }
    raised
}

/// COMISx and UCOMISx: the order as ZF, PF and CF.
fn compare_to_flags<F: Float + Lane>(env: &Env, ops: &mut VecOperands, signalling: bool) -> u8 {
    let (a, b) = (
        env.load(F::get(&ops.dst, 0)),
        env.load(F::get(&ops.src1, 0)),
    );
    let (order, flags) = compare(&a, &b, signalling);
    ops.flags_out = Some(match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => 1,
        Some(Ordering::Equal) => 0x40,
        None => 0x45,
    });
    flags
}

/// ROUNDxx: bit 2 of the immediate chooses MXCSR's direction, bit 3 keeps PE quiet.
fn round<F: Float + Lane>(env: &Env, d: &mut [u8], b: &[u8], imm: u8) -> u8 {
    let direction = if imm & 4 != 0 {
        env.rounding
    } else {
        Rounding::from_bits(imm.into())
    };
    let mut raised = 0;
    for i in 0..d.len() / F::SIZE {
        let out: Out<F> = float::round_to_int(env.load(F::get(b, i)), direction);
        raised |= out.flags;
        out.value.put(d, i);
    }
    if imm & 8 != 0 { raised & !PE } else { raised }
}

/// DPPS and DPPD: products of the lanes that the immediate's upper half names, summed in pairs, to the lanes that its
/// lower half names; each 128 bits by themselves. An unmasked exception of one step keeps the next from taking place.
fn dot_product<F: Float + Lane>(env: &Env, d: &mut [u8], a: &[u8], b: &[u8], imm: u8) -> u8 {
    let lanes = 16 / F::SIZE;
    let mut raised = 0;
    let mut values = [F::zero(false); 16];
    let all = d.len() / F::SIZE;
    for (i, value) in values.iter_mut().enumerate().take(all) {
        if imm >> (4 + i % lanes) & 1 != 0 {
            let out: Out<F> = float::mul(env, env.load(F::get(a, i)), env.load(F::get(b, i)));
            raised |= out.flags;
            *value = out.value;
        }
    }
    raised = settle(env, raised);
    let mut count = lanes;
    while count > 1 && env.masked(raised) {
        let mut added = 0;
        for part in (0..all).step_by(lanes) {
            for i in 0..count / 2 {
                let (x, y) = (values[part + 2 * i], values[part + 2 * i + 1]);
                let out: Out<F> = float::add(env, env.load(x), env.load(y));
                added |= out.flags;
                values[part + i] = out.value;
            }
        }
        raised |= settle(env, added);
        count /= 2;
    }
    for i in 0..all {
        let value = if imm >> (i % lanes) & 1 != 0 {
            values[i / lanes * lanes]
        } else {
            F::zero(false)
        };
        value.put(d, i);
    }
    raised
}

/// Significand bits that the approximations deliver; the SDM wants an error below 1.5 * 2^-12.
const APPROXIMATE: u32 = 14;

/// Operands that the approximations treat alike: NaNs, and denormals as zeros.
fn approximate(x: F32, f: impl Fn(Unpacked) -> F32) -> F32 {
    let u = x.unpack();
    match u.class {
        Class::Quiet | Class::Signalling => F32::nan(u.sign, u.sig),
        _ if u.denormal => f(Unpacked::zero(u.sign)),
        _ => f(u),
    }
}

/// RCPxx: 1/x without exceptions; tiny results become zero.
fn reciprocal(x: F32) -> F32 {
    approximate(x, |u| match u.class {
        Class::Zero => F32::infinity(u.sign),
        Class::Infinite => F32::zero(u.sign),
        _ => {
            // 2^127 / sig is in (2^63, 2^64].
            let quotient = ((1u128 << 127) / u128::from(u.sig)) as u64;
            let (sig, exp) = if u.sig == 1 << 63 {
                (1 << 63, -u.exp)
            } else {
                (quotient, -u.exp - 1)
            };
            if exp < F32::FORMAT.emin {
                return F32::zero(u.sign);
            }
            F32::from_parts(u.sign, exp, sig & u64::MAX << (64 - APPROXIMATE))
        }
    })
}

/// RSQRTxx: 1/sqrt(x) without exceptions.
fn reciprocal_root(x: F32) -> F32 {
    approximate(x, |u| match u.class {
        Class::Zero => F32::infinity(u.sign),
        _ if u.sign => F32::DEFAULT_NAN,
        Class::Infinite => F32::zero(false),
        _ => {
            // x = m * 2^(2k) with m in [1, 4), here in units of 2^-63: the root of 2^126 / m is in (2^62, 2^63].
            let k = u.exp.div_euclid(2);
            let m = u128::from(u.sig) << (u.exp - 2 * k);
            let root = (((1u128 << 127) / m) << 62).isqrt();
            let shift = root.leading_zeros() - 64;
            let sig = (root as u64) << shift;
            F32::from_parts(
                false,
                -k - shift as i32,
                sig & u64::MAX << (64 - APPROXIMATE),
            )
        }
    })
}

/// VRCP14xx: 1/x, to 14 bits or more; denormals count, tiny results become denormal.
pub(super) fn reciprocal_of<F: Float>(x: &Unpacked) -> F {
    match x.class {
        Class::Quiet | Class::Signalling => F::nan(x.sign, x.sig),
        Class::Zero => F::infinity(x.sign),
        Class::Infinite => F::zero(x.sign),
        _ => {
            // 2^127 / sig is in (2^63, 2^64].
            let quotient = ((1u128 << 127) / u128::from(x.sig)) as u64;
            let (sig, exp) = if x.sig == 1 << 63 {
                (1 << 63, -x.exp)
            } else {
                (quotient, -x.exp - 1)
            };
            rounded(x.sign, exp, sig)
        }
    }
}

/// VRSQRT14xx: 1/sqrt(x) likewise.
pub(super) fn reciprocal_root_of<F: Float>(x: &Unpacked) -> F {
    match x.class {
        Class::Quiet | Class::Signalling => F::nan(x.sign, x.sig),
        Class::Zero => F::infinity(x.sign),
        _ if x.sign => F::DEFAULT_NAN,
        Class::Infinite => F::zero(false),
        _ => {
            // As in `reciprocal_root`.
            let k = x.exp.div_euclid(2);
            let m = u128::from(x.sig) << (x.exp - 2 * k);
            let root = (((1u128 << 127) / m) << 62).isqrt();
            let shift = root.leading_zeros() - 64;
            rounded(false, -k - shift as i32, (root as u64) << shift)
        }
    }
}

/// A number cut to the bits of approximations, within the format.
fn rounded<F: Float>(sign: bool, exp: i32, sig: u64) -> F {
    let unpacked = Unpacked {
        class: Class::Finite,
        sign,
        denormal: false,
        exp,
        sig: sig & u64::MAX << (64 - APPROXIMATE - 2),
    };
    /// To nearest, everything masked.
    const MXCSR: u32 = 0x1F80;
    float::convert::<F>(&Env::from_mxcsr(MXCSR), unpacked).value
}

fn approximate_lanes(d: &mut [u8], b: &[u8], f: impl Fn(F32) -> F32) {
    for i in 0..d.len() / 4 {
        f(F32::get(b, i)).put(d, i);
    }
}

/// PS, SS, PD and SD forms of one kernel given as a function of the lane type.
macro_rules! forms {
    ($t:ident, $ps:ident, $ss:ident, $pd:ident, $sd:ident, $kernel:ident($($f:path)?)) => {
        let single = Kernel::Float(|env, d, a, b, _| $kernel::<F32>(env, d, a, b, $($f)?));
        let double = Kernel::Float(|env, d, a, b, _| $kernel::<F64>(env, d, a, b, $($f)?));
        $t.xmm(C::$ps, single);
        $t.low(C::$ss, 4, single);
        $t.xmm(C::$pd, double);
        $t.low(C::$sd, 8, double);
    };
}

fn sqrt<F: Float + Lane>(env: &Env, d: &mut [u8], _: &[u8], b: &[u8]) -> u8 {
    map2::<F>(env, d, b, b, |env, x, _| float::sqrt(env, x))
}

pub(super) fn rows(t: &mut Table) {
    forms!(
        t,
        Addps_xmm_xmmm128,
        Addss_xmm_xmmm32,
        Addpd_xmm_xmmm128,
        Addsd_xmm_xmmm64,
        map2(float::add)
    );
    forms!(
        t,
        Subps_xmm_xmmm128,
        Subss_xmm_xmmm32,
        Subpd_xmm_xmmm128,
        Subsd_xmm_xmmm64,
        map2(float::sub)
    );
    forms!(
        t,
        Mulps_xmm_xmmm128,
        Mulss_xmm_xmmm32,
        Mulpd_xmm_xmmm128,
        Mulsd_xmm_xmmm64,
        map2(float::mul)
    );
    forms!(
        t,
        Divps_xmm_xmmm128,
        Divss_xmm_xmmm32,
        Divpd_xmm_xmmm128,
        Divsd_xmm_xmmm64,
        map2(float::div)
    );
    forms!(
        t,
        Minps_xmm_xmmm128,
        Minss_xmm_xmmm32,
        Minpd_xmm_xmmm128,
        Minsd_xmm_xmmm64,
        map2_raw(float::min)
    );
    forms!(
        t,
        Maxps_xmm_xmmm128,
        Maxss_xmm_xmmm32,
        Maxpd_xmm_xmmm128,
        Maxsd_xmm_xmmm64,
        map2_raw(float::max)
    );
    forms!(
        t,
        Sqrtps_xmm_xmmm128,
        Sqrtss_xmm_xmmm32,
        Sqrtpd_xmm_xmmm128,
        Sqrtsd_xmm_xmmm64,
        sqrt()
    );
    t.xmm(
        C::Haddps_xmm_xmmm128,
        Kernel::Float(|env, d, a, b, _| horizontal::<F32>(env, d, a, b, float::add)),
    );
    t.xmm(
        C::Haddpd_xmm_xmmm128,
        Kernel::Float(|env, d, a, b, _| horizontal::<F64>(env, d, a, b, float::add)),
    );
    t.xmm(
        C::Hsubps_xmm_xmmm128,
        Kernel::Float(|env, d, a, b, _| horizontal::<F32>(env, d, a, b, float::sub)),
    );
    t.xmm(
        C::Hsubpd_xmm_xmmm128,
        Kernel::Float(|env, d, a, b, _| horizontal::<F64>(env, d, a, b, float::sub)),
    );
    t.xmm(
        C::Addsubps_xmm_xmmm128,
        Kernel::Float(|env, d, a, b, _| add_subtract::<F32>(env, d, a, b)),
    );
    t.xmm(
        C::Addsubpd_xmm_xmmm128,
        Kernel::Float(|env, d, a, b, _| add_subtract::<F64>(env, d, a, b)),
    );
    t.xmm(C::Dpps_xmm_xmmm128_imm8, Kernel::Staged(dot_product::<F32>));
    t.xmm(C::Dppd_xmm_xmmm128_imm8, Kernel::Staged(dot_product::<F64>));

    // Legacy encodings have three bits of predicate.
    let single = Kernel::Float(|env, d, a, b, imm| compare_lanes::<F32>(env, d, a, b, imm & 7));
    let double = Kernel::Float(|env, d, a, b, imm| compare_lanes::<F64>(env, d, a, b, imm & 7));
    t.xmm(C::Cmpps_xmm_xmmm128_imm8, single);
    t.low(C::Cmpss_xmm_xmmm32_imm8, 4, single);
    t.xmm(C::Cmppd_xmm_xmmm128_imm8, double);
    t.low(C::Cmpsd_xmm_xmmm64_imm8, 8, double);
    t.xmm(
        C::Comiss_xmm_xmmm32,
        Kernel::SpecialFloat(|env, ops| compare_to_flags::<F32>(env, ops, true)),
    );
    t.xmm(
        C::Comisd_xmm_xmmm64,
        Kernel::SpecialFloat(|env, ops| compare_to_flags::<F64>(env, ops, true)),
    );
    t.xmm(
        C::Ucomiss_xmm_xmmm32,
        Kernel::SpecialFloat(|env, ops| compare_to_flags::<F32>(env, ops, false)),
    );
    t.xmm(
        C::Ucomisd_xmm_xmmm64,
        Kernel::SpecialFloat(|env, ops| compare_to_flags::<F64>(env, ops, false)),
    );
    let single = Kernel::Float(|env, d, _, b, imm| round::<F32>(env, d, b, imm));
    let double = Kernel::Float(|env, d, _, b, imm| round::<F64>(env, d, b, imm));
    t.xmm(C::Roundps_xmm_xmmm128_imm8, single);
    t.low(C::Roundss_xmm_xmmm32_imm8, 4, single);
    t.xmm(C::Roundpd_xmm_xmmm128_imm8, double);
    t.low(C::Roundsd_xmm_xmmm64_imm8, 8, double);
    let rcp = Kernel::Two(|d, _, b| approximate_lanes(d, b, reciprocal));
    let rsqrt = Kernel::Two(|d, _, b| approximate_lanes(d, b, reciprocal_root));
    t.xmm(C::Rcpps_xmm_xmmm128, rcp);
    t.low(C::Rcpss_xmm_xmmm32, 4, rcp);
    t.xmm(C::Rsqrtps_xmm_xmmm128, rsqrt);
    t.low(C::Rsqrtss_xmm_xmmm32, 4, rsqrt);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approximations_stay_within_the_sdm() {
        let mut x = 1.0e-30f32;
        while x < 1.0e30 {
            let r = f32::from_bits(reciprocal(F32(x.to_bits())).0);
            let s = f32::from_bits(reciprocal_root(F32(x.to_bits())).0);
            let limit = 1.5 / 4096.0;
            assert!(
                (f64::from(r) * f64::from(x) - 1.0).abs() <= limit,
                "1/{x} = {r}"
            );
            assert!(
                (f64::from(s) * f64::from(x).sqrt() - 1.0).abs() <= limit,
                "1/sqrt({x}) = {s}"
            );
            x *= 1.0137;
        }
        assert_eq!(reciprocal(F32(0x3F80_0000)).0, 0x3F80_0000);
        assert_eq!(reciprocal_root(F32(0x4080_0000)).0, 0x3F00_0000);
    }

    #[test]
    fn predicates_of_vcmp() {
        let orders = [
            Some(Ordering::Less),
            Some(Ordering::Equal),
            Some(Ordering::Greater),
            None,
        ];
        for p in 0..32u8 {
            for order in orders {
                // Negated predicates are four (or, with the exchanged ones, eight and four) apart.
                if p & 15 < 4 {
                    assert_ne!(predicate(p, order), predicate(p + 4, order));
                }
            }
        }
        assert!(signals(1) && !signals(0) && signals(16) && !signals(17));
    }
}
