//! Floating-point operations that AVX-512 has and AVX2 has not: parts of numbers, ranges, scaling, fix-ups, conversions of
//! quadwords and unsigned integers, approximations of 14 bits (SDM vol. 2).

use std::cmp::Ordering;

use iced_x86::OpCodeOperandKind as K;

use super::super::convert::{direction, to_gpr};
use super::super::float::{map2, reciprocal_of, reciprocal_root_of};
use super::super::lanes::Lane;
use super::super::{Form, Kernel, VecOperands};
use super::Spec;
use crate::float::flags::{DE, IE, PE, UE, ZE};
use crate::float::{
    self, Class, Env, F32, F64, Float, IntKind, Out, Rounding, Unpacked, from_i64, from_u64, to_int,
};

/// The denormal flag of operands.
fn denormal(list: &[&Unpacked]) -> u8 {
    if list.iter().any(|u| u.denormal) {
        DE
    } else {
        0
    }
}

/// A NaN as a result: quiet, IE if it was not.
fn quieted<F: Float>(u: &Unpacked) -> Out<F> {
    let flags = if u.class == Class::Signalling { IE } else { 0 };
    Out::new(F::nan(u.sign, u.sig), flags)
}

/// `d[i] = f(b[i])`.
fn map1<F: Float + Lane>(
    env: &Env,
    d: &mut [u8],
    b: &[u8],
    f: impl Fn(&Env, Unpacked) -> Out<F>,
) -> u8 {
    map2(env, d, b, b, |env, x, _| f(env, x))
}

/// One, with a sign.
fn one<F: Float>(sign: bool) -> F {
    F::from_parts(sign, 0, 1 << 63)
}

/// VGETEXPxx: the exponent.
fn exponent<F: Float>(env: &Env, x: Unpacked) -> Out<F> {
    match x.class {
        Class::Zero => Out::new(F::infinity(true), 0),
        Class::Infinite => Out::new(F::infinity(false), 0),
        Class::Finite => from_i64::<F>(env, x.exp.into()).with(denormal(&[&x])),
        _ => quieted(&x),
    }
}

/// VGETMANTxx: the significand in one of four intervals.
fn mantissa<F: Float>(x: Unpacked, imm: u8) -> Out<F> {
    let sign = x.sign && imm & 4 == 0;
    if x.is_nan() {
        return quieted(&x);
    }
    if x.class == Class::Zero {
        return Out::new(one(sign), 0);
    }
    if x.sign && imm & 8 != 0 {
        return Out::invalid();
    }
    if x.class == Class::Infinite {
        return Out::new(one(sign), 0);
    }
    let below_one = match imm & 3 {
        0 => false,
        1 => x.exp & 1 != 0,
        2 => true,
        _ => x.sig & 1 << 62 != 0,
    };
    let exp = if below_one { -1 } else { 0 };
    Out::new(F::from_parts(sign, exp, x.sig), denormal(&[&x]))
}

/// The direction that an immediate gives, or MXCSR's.
fn direction_of(env: &Env, imm: u8) -> Rounding {
    if imm & 4 != 0 {
        env.rounding
    } else {
        Rounding::from_bits(imm.into())
    }
}

/// Rounds to as many fraction bits as the immediate's upper half says.
fn round_scaled<F: Float>(env: &Env, x: Unpacked, imm: u8) -> Out<F> {
    let bits = i32::from(imm >> 4);
    let scaled = Unpacked {
        exp: x.exp + bits,
        ..x
    };
    if x.class != Class::Finite {
        return float::round_to_int(x, direction_of(env, imm));
    }
    if scaled.exp >= F::FORMAT.precision as i32 - 1 {
        // It has no more fraction bits than that.
        return Out::new(F::from_parts(x.sign, x.exp, x.sig), 0);
    }
    let out: Out<F> = float::round_to_int(scaled, direction_of(env, imm));
    let whole = out.value.unpack();
    if whole.class == Class::Zero {
        return out;
    }
    Out {
        value: F::from_parts(whole.sign, whole.exp - bits, whole.sig),
        ..out
    }
}

/// Without PE, where the immediate says so.
fn quiet(raised: u8, imm: u8) -> u8 {
    if imm & 8 != 0 { raised & !PE } else { raised }
}

/// VREDUCExx: what rounding to some fraction bits takes away.
fn reduce<F: Float>(env: &Env, x: Unpacked, imm: u8) -> Out<F> {
    if x.is_nan() {
        return quieted(&x);
    }
    let nothing = F::zero(direction_of(env, imm) == Rounding::Down);
    match x.class {
        Class::Infinite => return Out::new(F::zero(false), 0),
        Class::Finite => {}
        _ => return Out::new(nothing, 0),
    }
    let rounded = round_scaled::<F>(env, x, imm);
    // The subtraction raises nothing but PE, though underflow counts where it is masked.
    let own = Env {
        rounding: direction_of(env, imm),
        ftz: env.ftz && env.masked(UE),
        masks: u8::MAX,
        ..*env
    };
    let rest: Out<F> = float::sub(&own, x, rounded.value.unpack());
    if rest.value.unpack().class == Class::Zero && rest.flags == 0 {
        return Out::new(nothing, 0);
    }
    Out::new(rest.value, rest.flags & PE)
}

/// VRANGExx: the smaller or larger of two, perhaps by magnitude, with a sign of the immediate's choice.
fn range<F: Float + Lane>(env: &Env, a: F, b: F, imm: u8) -> Out<F> {
    let (x, y) = (env.load(a), env.load(b));
    for u in [&x, &y] {
        if u.class == Class::Signalling {
            return quieted(u);
        }
    }
    let mut flags = 0;
    if x.denormal && !y.is_nan() || y.denormal && !x.is_nan() {
        flags |= DE;
    }
    let chosen = if y.is_nan() {
        x
    } else if x.is_nan() {
        y
    } else {
        let magnitude = |u: Unpacked| Unpacked { sign: false, ..u };
        let order = if imm & 2 == 0 {
            float::compare(&x, &y, false).0
        } else {
            float::compare(&magnitude(x), &magnitude(y), false).0
        };
        let first = match order {
            Some(Ordering::Less) => true,
            Some(Ordering::Greater) => false,
            // Equal but for their signs: the negative one is the smaller.
            _ => x.sign || !y.sign,
        };
        if first == (imm & 1 == 0) { x } else { y }
    };
    let sign = match imm >> 2 & 3 {
        0 => x.sign,
        1 => chosen.sign,
        2 => false,
        _ => true,
    };
    let value = match chosen.class {
        Class::Zero => F::zero(sign),
        Class::Infinite => F::infinity(sign),
        Class::Finite => {
            let exact: Out<F> = float::convert(
                &Env {
                    ftz: false,
                    masks: 63,
                    ..*env
                },
                Unpacked { sign, ..chosen },
            );
            exact.value
        }
        _ => F::nan(sign, chosen.sig),
    };
    Out::new(value, flags)
}

/// VSCALEFxx: a times two to the whole part of b, which may be denormal without a flag.
fn scale<F: Float>(env: &Env, a: Unpacked, b: Unpacked) -> Out<F> {
    let invalid = [&a, &b].iter().any(|u| u.class == Class::Signalling);
    let flags = if invalid { IE } else { 0 };
    if a.is_nan() {
        if a.class == Class::Quiet && b.class == Class::Infinite {
            return Out::new(
                if b.sign {
                    F::zero(false)
                } else {
                    F::infinity(false)
                },
                0,
            );
        }
        return Out::new(F::nan(a.sign, a.sig), flags);
    }
    if b.is_nan() {
        return Out::new(F::nan(b.sign, b.sig), flags);
    }
    match (a.class, b.class) {
        (Class::Infinite, Class::Infinite) if b.sign => return Out::invalid(),
        (Class::Zero, Class::Infinite) if !b.sign => return Out::invalid(),
        (Class::Infinite, _) => return Out::new(F::infinity(a.sign), 0),
        (Class::Zero, _) => return Out::new(F::zero(a.sign), 0),
        (_, Class::Infinite) if b.sign => return Out::new(F::zero(a.sign), denormal(&[&a])),
        (_, Class::Infinite) => return Out::new(F::infinity(a.sign), denormal(&[&a])),
        _ => {}
    }
    let whole = to_int(&b, Rounding::Down, IntKind::I32);
    let by = if whole.flags & IE == 0 {
        (whole.value as i32).clamp(-0x8000, 0x7FFF)
    } else if b.sign {
        -0x8000
    } else {
        0x7FFF
    };
    let scaled = Unpacked {
        exp: a.exp + by,
        denormal: false,
        ..a
    };
    float::convert::<F>(env, scaled).with(denormal(&[&a]))
}

/// VFPCLASSxx: whether the number is of a class that the immediate names.
fn is_of_class(x: &Unpacked, imm: u8) -> bool {
    let bit = |n: u8| imm >> n & 1 != 0;
    match x.class {
        Class::Quiet => bit(0),
        Class::Signalling | Class::Unsupported => bit(7),
        Class::Zero => bit(1 + u8::from(x.sign)),
        Class::Infinite => bit(3 + u8::from(x.sign)),
        Class::Finite => x.denormal && bit(5) || x.sign && bit(6),
    }
}

fn classes<F: Float + Lane>(env: &Env, d: &mut [u8], b: &[u8], imm: u8) -> u8 {
    for i in 0..d.len() / F::SIZE {
        let holds = is_of_class(&env.load(F::get(b, i)), imm);
        d[i * F::SIZE..(i + 1) * F::SIZE].fill(if holds { 0xFF } else { 0 });
    }
    0
}

/// VFIXUPIMMxx: for each kind of number a replacement, four bits of a table.
fn fix_up<F: Float + Lane>(env: &Env, ops: &mut VecOperands) -> u8 {
    let mut raised = 0;
    if ops.active == F::SIZE {
        // Scalars take the rest from the first source.
        ops.dst[F::SIZE..16].copy_from_slice(&ops.src1[F::SIZE..16]);
    }
    for i in (0..ops.active / F::SIZE).filter(|i| ops.mask >> i & 1 != 0) {
        let raw = F::get(&ops.src1, i);
        let x = env.load(raw);
        let table = u32::get(&ops.src2, i * F::SIZE / 4);
        let is_one = x.class == Class::Finite && !x.sign && x.exp == 0 && x.sig == 1 << 63;
        let kind = match x.class {
            Class::Quiet => 0,
            Class::Signalling | Class::Unsupported => 1,
            Class::Zero => 2,
            Class::Infinite => 5 - u32::from(x.sign),
            Class::Finite if is_one => 3,
            Class::Finite => 7 - u32::from(x.sign),
        };
        let report = |bit: u8, flag: u8| if ops.imm >> bit & 1 != 0 { flag } else { 0 };
        raised |= match kind {
            1 => report(4, IE),
            2 => report(0, ZE) | report(1, IE),
            3 => report(2, ZE) | report(3, IE),
            4 => report(5, IE),
            5 => report(7, IE),
            6 => report(6, IE),
            _ => 0,
        };
        let zero = x.class == Class::Zero;
        let value = match table >> (4 * kind) & 15 {
            0 => continue,
            1 if zero => F::zero(x.sign),
            1 => raw,
            2 if x.is_nan() => F::nan(x.sign, x.sig),
            // What is no number yet keeps its sign and fraction.
            2 => F::nan(x.sign, fraction::<F>(raw, &x)),
            3 => F::DEFAULT_NAN,
            4 => F::infinity(true),
            5 => F::infinity(false),
            6 => F::infinity(x.sign),
            7 => F::zero(true),
            8 => F::zero(false),
            9 => one(true),
            10 => one(false),
            11 => F::from_parts(false, -1, 1 << 63),
            // 90, pi / 2, the largest numbers.
            12 => F::from_parts(false, 6, 0xB400_0000_0000_0000),
            13 => F::from_parts(false, 0, half_pi::<F>()),
            14 => F::from_parts(false, F::FORMAT.emax, u64::MAX),
            _ => F::from_parts(true, F::FORMAT.emax, u64::MAX),
        };
        value.put(&mut ops.dst, i);
    }
    raised
}

/// The fraction of a number as a NaN's significand.
fn fraction<F: Float + Lane>(raw: F, x: &Unpacked) -> u64 {
    if x.class != Class::Finite {
        return 1 << 63;
    }
    let mut bytes = [0; 8];
    raw.put(&mut bytes, 0);
    // The encoding's fraction bits, left-aligned below bit 63.
    u64::from_le_bytes(bytes) << (64 - F::FORMAT.precision) & u64::MAX >> 1 | 1 << 63
}

/// pi / 2 as a significand, rounded to the format.
fn half_pi<F: Float>() -> u64 {
    const EXACT: u64 = 0xC90F_DAA2_2168_C235;
    let unit = 1 << (64 - F::FORMAT.precision);
    (EXACT + unit / 2) & !(unit - 1)
}

/// To integers of `BYTES`.
fn to_integers<S: Float + Lane, const BYTES: usize>(
    env: &Env,
    d: &mut [u8],
    b: &[u8],
    truncate: bool,
    signed: bool,
) -> u8 {
    let mut raised = 0;
    let kind = IntKind {
        bits: 8 * BYTES as u32,
        signed,
    };
    for i in 0..d.len() / BYTES {
        let out = to_int(&env.load(S::get(b, i)), direction(env, truncate), kind);
        raised |= out.flags;
        d[i * BYTES..(i + 1) * BYTES].copy_from_slice(&out.value.to_le_bytes()[..BYTES]);
    }
    raised
}

/// From integers.
fn from_integers<D: Float + Lane, S: Lane>(d: &mut [u8], b: &[u8], f: impl Fn(S) -> Out<D>) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / D::SIZE {
        let out = f(S::get(b, i));
        raised |= out.flags;
        out.value.put(d, i);
    }
    raised
}

fn from_register<D: Float + Lane>(env: &Env, ops: &mut VecOperands, value: u64) -> u8 {
    let out = from_u64::<D>(env, value);
    out.value.put(&mut ops.dst, 0);
    out.flags
}

/// Conversions; the bytes written are given where they are fewer than the vector's.
fn conversion(name: &str) -> Option<Spec> {
    macro_rules! to {
        ($source:ty, $bytes:literal, $truncate:literal, $signed:literal) => {
            Kernel::Float(|env, d, _, b, _| {
                to_integers::<$source, $bytes>(env, d, b, $truncate, $signed)
            })
        };
    }
    macro_rules! from {
        ($to:ty, $source:ty, $f:expr) => {
            Kernel::Float(|env, d, _, b, _| {
                from_integers::<$to, $source>(d, b, |x| $f(env, x.into()))
            })
        };
    }
    let kernel = match name {
        "vcvtps2udq" => to!(F32, 4, false, false),
        "vcvttps2udq" => to!(F32, 4, true, false),
        "vcvtps2qq" => to!(F32, 8, false, true),
        "vcvttps2qq" => to!(F32, 8, true, true),
        "vcvtps2uqq" => to!(F32, 8, false, false),
        "vcvttps2uqq" => to!(F32, 8, true, false),
        "vcvtpd2udq" => to!(F64, 4, false, false),
        "vcvttpd2udq" => to!(F64, 4, true, false),
        "vcvtpd2qq" => to!(F64, 8, false, true),
        "vcvttpd2qq" => to!(F64, 8, true, true),
        "vcvtpd2uqq" => to!(F64, 8, false, false),
        "vcvttpd2uqq" => to!(F64, 8, true, false),
        "vcvtudq2ps" => from!(F32, u32, from_u64),
        "vcvtudq2pd" => from!(F64, u32, from_u64),
        "vcvtqq2ps" => from!(F32, i64, from_i64),
        "vcvtqq2pd" => from!(F64, i64, from_i64),
        "vcvtuqq2ps" => from!(F32, u64, from_u64),
        "vcvtuqq2pd" => from!(F64, u64, from_u64),
        _ => return None,
    };
    Spec::new(Form::Vex, kernel)
}

/// Conversions from and to general registers, unsigned.
fn registers(name: &str, kinds: &[K]) -> Option<Spec> {
    let wide = kinds
        .iter()
        .any(|k| matches!(k, K::r64_reg | K::r64_or_mem));
    macro_rules! to {
        ($source:ty, $truncate:literal) => {
            if wide {
                Kernel::SpecialFloat(|env, ops| {
                    to_gpr::<$source>(env, ops, $truncate, IntKind::U64)
                })
            } else {
                Kernel::SpecialFloat(|env, ops| {
                    to_gpr::<$source>(env, ops, $truncate, IntKind::U32)
                })
            }
        };
    }
    macro_rules! from {
        ($to:ty) => {
            if wide {
                Kernel::SpecialFloat(|env, ops| from_register::<$to>(env, ops, ops.gpr_in))
            } else {
                Kernel::SpecialFloat(|env, ops| {
                    from_register::<$to>(env, ops, u64::from(ops.gpr_in as u32))
                })
            }
        };
    }
    let (form, kernel) = match name {
        "vcvtss2usi" => (Form::Vex, to!(F32, false)),
        "vcvttss2usi" => (Form::Vex, to!(F32, true)),
        "vcvtsd2usi" => (Form::Vex, to!(F64, false)),
        "vcvttsd2usi" => (Form::Vex, to!(F64, true)),
        "vcvtusi2ss" => (Form::VexOwn, from!(F32)),
        "vcvtusi2sd" => (Form::VexOwn, from!(F64)),
        _ => return None,
    };
    Spec::new(form, kernel)
}

pub(super) fn kernel(name: &str, kinds: &[K]) -> Option<Spec> {
    if let Some(spec) = registers(name, kinds) {
        return Some(spec);
    }
    if let Some(mut spec) = conversion(name) {
        let len = super::length(kinds);
        if name.contains("pd2") && name.ends_with("dq") || name.ends_with("qq2ps") {
            spec.part = Some((len / 2, true));
        }
        return Some(spec);
    }
    /// A kernel for both formats.
    macro_rules! both {
        ($single:expr, $double:expr) => {
            if name.ends_with('s') && (name.ends_with("ps") || name.ends_with("ss")) {
                $single
            } else {
                $double
            }
        };
    }
    macro_rules! generic {
        ($f:expr, $g:expr) => {
            both!(Kernel::Float($f), Kernel::Float($g))
        };
    }
    let stem = &name[..name.len().saturating_sub(2)];
    // Scalar forms take the rest of the destination from the first source.
    let own = kinds
        .iter()
        .any(|k| matches!(k, K::xmm_vvvv | K::ymm_vvvv | K::zmm_vvvv));
    let kernel = match stem {
        "vgetexp" => generic!(
            |env, d, _, b, _| map1::<F32>(env, d, b, exponent),
            |env, d, _, b, _| map1::<F64>(env, d, b, exponent)
        ),
        "vgetmant" => generic!(
            |env, d, _, b, imm| map1::<F32>(env, d, b, |_, x| mantissa(x, imm)),
            |env, d, _, b, imm| map1::<F64>(env, d, b, |_, x| mantissa(x, imm))
        ),
        "vrndscale" => generic!(
            |env, d, _, b, imm| quiet(
                map1::<F32>(env, d, b, |env, x| round_scaled(env, x, imm)),
                imm
            ),
            |env, d, _, b, imm| quiet(
                map1::<F64>(env, d, b, |env, x| round_scaled(env, x, imm)),
                imm
            )
        ),
        "vreduce" => generic!(
            |env, d, _, b, imm| quiet(map1::<F32>(env, d, b, |env, x| reduce(env, x, imm)), imm),
            |env, d, _, b, imm| quiet(map1::<F64>(env, d, b, |env, x| reduce(env, x, imm)), imm)
        ),
        "vrange" => generic!(ranges::<F32>, ranges::<F64>),
        "vscalef" => generic!(
            |env, d, a, b, _| map2::<F32>(env, d, a, b, scale),
            |env, d, a, b, _| map2::<F64>(env, d, a, b, scale)
        ),
        "vfpclass" => generic!(
            |env, d, _, b, imm| classes::<F32>(env, d, b, imm),
            |env, d, _, b, imm| classes::<F64>(env, d, b, imm)
        ),
        "vrcp14" => generic!(
            |env, d, _, b, _| map1::<F32>(env, d, b, |_, x| Out::new(reciprocal_of(&x), 0)),
            |env, d, _, b, _| map1::<F64>(env, d, b, |_, x| Out::new(reciprocal_of(&x), 0))
        ),
        "vrsqrt14" => generic!(
            |env, d, _, b, _| map1::<F32>(env, d, b, |_, x| Out::new(reciprocal_root_of(&x), 0)),
            |env, d, _, b, _| map1::<F64>(env, d, b, |_, x| Out::new(reciprocal_root_of(&x), 0))
        ),
        "vfixupimm" => {
            let kernel = both!(
                Kernel::SpecialFloat(fix_up::<F32>),
                Kernel::SpecialFloat(fix_up::<F64>)
            );
            // Its tables are no numbers, and it looks at the mask itself.
            return Spec::new(Form::Vex, kernel);
        }
        _ => return None,
    };
    Spec::new(if own { Form::VexOwn } else { Form::Vex }, kernel)
}

fn ranges<F: Float + Lane>(env: &Env, d: &mut [u8], a: &[u8], b: &[u8], imm: u8) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / F::SIZE {
        let out = range(env, F::get(a, i), F::get(b, i), imm);
        raised |= out.flags;
        out.value.put(d, i);
    }
    raised
}
