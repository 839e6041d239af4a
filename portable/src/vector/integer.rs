//! Packed integers: add, subtract, multiply, compare, minimum, shift, sum.

use iced_x86::Code as C;

use super::lanes::{Lane, blocks, map1, map2};
use super::{Kernel, Table, VecOperands};

/// A kernel that maps pairs of lanes.
macro_rules! two {
    ($type:ty, $f:expr) => {
        Kernel::Two(|d, a, b| map2::<$type>(d, a, b, $f))
    };
}

/// A comparison: all ones where it holds.
macro_rules! compare {
    ($type:ty, $op:tt) => {
        Kernel::Two(|d, a, b| map2::<$type>(d, a, b, |x, y| if x $op y { !0 } else { 0 }))
    };
}

/// A shift by the low 64 bits of the second operand, and one by an immediate.
macro_rules! shift {
    ($type:ty, $f:expr) => {
        (
            Kernel::Two(|d, a, b| {
                let count = u64::get(b, 0);
                map1::<$type, $type>(d, a, |x| $f(x, count));
            }),
            Kernel::Imm(|d, a, _, imm| map1::<$type, $type>(d, a, |x| $f(x, u64::from(imm)))),
        )
    };
}

/// Horizontal: pairs of `a`, then pairs of `b`.
fn horizontal<T: Lane>(d: &mut [u8], a: &[u8], b: &[u8], f: impl Fn(T, T) -> T) {
    blocks(d, a, b, |d, a, b| {
        let half = d.len() / T::SIZE / 2;
        for i in 0..half {
            f(T::get(a, 2 * i), T::get(a, 2 * i + 1)).put(d, i);
            f(T::get(b, 2 * i), T::get(b, 2 * i + 1)).put(d, half + i);
        }
    });
}

/// `d[i] = f(a[2i], a[2i+1], b[2i], b[2i+1])` from narrower lanes.
fn pairs<A: Lane, B: Lane, D: Lane>(d: &mut [u8], a: &[u8], b: &[u8], f: impl Fn(A, A, B, B) -> D) {
    for i in 0..d.len() / D::SIZE {
        f(
            A::get(a, 2 * i),
            A::get(a, 2 * i + 1),
            B::get(b, 2 * i),
            B::get(b, 2 * i + 1),
        )
        .put(d, i);
    }
}

/// PMULUDQ and PMULDQ: the low halves of 64-bit lanes.
fn mul_low_halves(d: &mut [u8], a: &[u8], b: &[u8], f: impl Fn(u32, u32) -> u64) {
    map2::<u64>(d, a, b, |x, y| f(x as u32, y as u32));
}

/// Saturation of sums to a lane's range.
fn saturate<T: TryFrom<i32>>(value: i32, min: T, max: T) -> T {
    T::try_from(value).unwrap_or(if value < 0 { min } else { max })
}

fn absolute_difference(x: u8, y: u8) -> u16 {
    x.abs_diff(y).into()
}

/// PSADBW: a 16-bit sum in each 64-bit lane.
fn sum_of_differences(d: &mut [u8], a: &[u8], b: &[u8]) {
    for i in 0..d.len() / 8 {
        let sum: u16 = (8 * i..8 * i + 8)
            .map(|k| absolute_difference(a[k], b[k]))
            .sum();
        u64::from(sum).put(d, i);
    }
}

/// MPSADBW: eight sums of four differences, from blocks that the immediate chooses, three bits for each 128 bits.
fn multiple_sums(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    let parts = d.chunks_mut(16).zip(a.chunks(16)).zip(b.chunks(16));
    for (part, ((d, a), b)) in parts.enumerate() {
        let imm = imm >> (3 * part);
        let (from_a, from_b) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
        for i in 0..8 {
            let sum: u16 = (0..4)
                .map(|k| absolute_difference(a[from_a + i + k], b[from_b + k]))
                .sum();
            sum.put(d, i);
        }
    }
}

/// PHMINPOSUW: the smallest word and its place.
fn minimum_position(d: &mut [u8], b: &[u8]) {
    let (place, value) = (0..8)
        .map(|i| (i as u16, u16::get(b, i)))
        .min_by_key(|&(_, v)| v)
        .unwrap_or_default();
    d.fill(0);
    value.put(d, 0);
    place.put(d, 1);
}

/// PTEST: ZF for no common bits, CF for all of the source's bits.
fn test_bits(ops: &mut VecOperands) {
    let lanes = || ops.dst[..ops.len].iter().zip(&ops.src1[..ops.len]);
    let none = lanes().all(|(a, b)| a & b == 0);
    let all = lanes().all(|(a, b)| !a & b == 0);
    ops.flags_out = Some(u32::from(none) << 6 | u32::from(all));
}

/// The sign bits of `lanes` lanes of `T`'s size.
fn sign_mask<T: Lane>(bytes: &[u8]) -> u64 {
    (0..bytes.len() / T::SIZE).fold(0, |mask, i| {
        mask | u64::from(bytes[(i + 1) * T::SIZE - 1] >> 7) << i
    })
}

/// PSLLDQ and PSRLDQ.
fn shift_bytes(x: u128, count: u8, left: bool) -> u128 {
    match (count, left) {
        (16.., _) => 0,
        (_, true) => x << (8 * count),
        (_, false) => x >> (8 * count),
    }
}

pub(super) fn rows(t: &mut Table) {
    add_and_subtract(t);
    multiply(t);
    compare_and_choose(t);
    logic_and_shift(t);
    horizontals(t);
}

fn add_and_subtract(t: &mut Table) {
    t.both(
        C::Paddb_mm_mmm64,
        C::Paddb_xmm_xmmm128,
        two!(u8, u8::wrapping_add),
    );
    t.both(
        C::Paddw_mm_mmm64,
        C::Paddw_xmm_xmmm128,
        two!(u16, u16::wrapping_add),
    );
    t.both(
        C::Paddd_mm_mmm64,
        C::Paddd_xmm_xmmm128,
        two!(u32, u32::wrapping_add),
    );
    t.both(
        C::Paddq_mm_mmm64,
        C::Paddq_xmm_xmmm128,
        two!(u64, u64::wrapping_add),
    );
    t.both(
        C::Psubb_mm_mmm64,
        C::Psubb_xmm_xmmm128,
        two!(u8, u8::wrapping_sub),
    );
    t.both(
        C::Psubw_mm_mmm64,
        C::Psubw_xmm_xmmm128,
        two!(u16, u16::wrapping_sub),
    );
    t.both(
        C::Psubd_mm_mmm64,
        C::Psubd_xmm_xmmm128,
        two!(u32, u32::wrapping_sub),
    );
    t.both(
        C::Psubq_mm_mmm64,
        C::Psubq_xmm_xmmm128,
        two!(u64, u64::wrapping_sub),
    );
    t.both(
        C::Paddsb_mm_mmm64,
        C::Paddsb_xmm_xmmm128,
        two!(i8, i8::saturating_add),
    );
    t.both(
        C::Paddsw_mm_mmm64,
        C::Paddsw_xmm_xmmm128,
        two!(i16, i16::saturating_add),
    );
    t.both(
        C::Paddusb_mm_mmm64,
        C::Paddusb_xmm_xmmm128,
        two!(u8, u8::saturating_add),
    );
    t.both(
        C::Paddusw_mm_mmm64,
        C::Paddusw_xmm_xmmm128,
        two!(u16, u16::saturating_add),
    );
    t.both(
        C::Psubsb_mm_mmm64,
        C::Psubsb_xmm_xmmm128,
        two!(i8, i8::saturating_sub),
    );
    t.both(
        C::Psubsw_mm_mmm64,
        C::Psubsw_xmm_xmmm128,
        two!(i16, i16::saturating_sub),
    );
    t.both(
        C::Psubusb_mm_mmm64,
        C::Psubusb_xmm_xmmm128,
        two!(u8, u8::saturating_sub),
    );
    t.both(
        C::Psubusw_mm_mmm64,
        C::Psubusw_xmm_xmmm128,
        two!(u16, u16::saturating_sub),
    );
    let average8 = two!(u8, |x, y| (u16::from(x) + u16::from(y)).div_ceil(2) as u8);
    let average16 = two!(u16, |x, y| (u32::from(x) + u32::from(y)).div_ceil(2) as u16);
    t.both(C::Pavgb_mm_mmm64, C::Pavgb_xmm_xmmm128, average8);
    t.both(C::Pavgw_mm_mmm64, C::Pavgw_xmm_xmmm128, average16);
    let sign8 = two!(i8, |x, y| x.wrapping_mul(y.signum()));
    let sign16 = two!(i16, |x, y| x.wrapping_mul(y.signum()));
    let sign32 = two!(i32, |x, y| x.wrapping_mul(y.signum()));
    t.both(C::Psignb_mm_mmm64, C::Psignb_xmm_xmmm128, sign8);
    t.both(C::Psignw_mm_mmm64, C::Psignw_xmm_xmmm128, sign16);
    t.both(C::Psignd_mm_mmm64, C::Psignd_xmm_xmmm128, sign32);
    t.both(
        C::Pabsb_mm_mmm64,
        C::Pabsb_xmm_xmmm128,
        two!(i8, |_, y| y.wrapping_abs()),
    );
    t.both(
        C::Pabsw_mm_mmm64,
        C::Pabsw_xmm_xmmm128,
        two!(i16, |_, y| y.wrapping_abs()),
    );
    t.both(
        C::Pabsd_mm_mmm64,
        C::Pabsd_xmm_xmmm128,
        two!(i32, |_, y| y.wrapping_abs()),
    );
}

fn multiply(t: &mut Table) {
    let high = two!(i16, |x, y| ((i32::from(x) * i32::from(y)) >> 16) as i16);
    let high_unsigned = two!(u16, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16);
    let rounded = two!(
        i16,
        |x, y| ((((i32::from(x) * i32::from(y)) >> 14) + 1) >> 1) as i16
    );
    t.both(
        C::Pmullw_mm_mmm64,
        C::Pmullw_xmm_xmmm128,
        two!(i16, i16::wrapping_mul),
    );
    t.both(C::Pmulhw_mm_mmm64, C::Pmulhw_xmm_xmmm128, high);
    t.both(C::Pmulhuw_mm_mmm64, C::Pmulhuw_xmm_xmmm128, high_unsigned);
    t.both(C::Pmulhrsw_mm_mmm64, C::Pmulhrsw_xmm_xmmm128, rounded);
    t.xmm(C::Pmulld_xmm_xmmm128, two!(i32, i32::wrapping_mul));
    let unsigned =
        Kernel::Two(|d, a, b| mul_low_halves(d, a, b, |x, y| u64::from(x) * u64::from(y)));
    let signed = Kernel::Two(|d, a, b| {
        mul_low_halves(d, a, b, |x, y| {
            (i64::from(x as i32) * i64::from(y as i32)) as u64
        });
    });
    t.both(C::Pmuludq_mm_mmm64, C::Pmuludq_xmm_xmmm128, unsigned);
    t.xmm(C::Pmuldq_xmm_xmmm128, signed);
    let add_words = Kernel::Two(|d, a, b| {
        pairs::<i16, i16, i32>(d, a, b, |a0, a1, b0, b1| {
            // Only 8000h four times overflows.
            (i32::from(a0) * i32::from(b0)).wrapping_add(i32::from(a1) * i32::from(b1))
        });
    });
    let add_bytes = Kernel::Two(|d, a, b| {
        pairs::<u8, i8, i16>(d, a, b, |a0, a1, b0, b1| {
            let sum = i32::from(a0) * i32::from(b0) + i32::from(a1) * i32::from(b1);
            saturate(sum, i16::MIN, i16::MAX)
        });
    });
    t.both(C::Pmaddwd_mm_mmm64, C::Pmaddwd_xmm_xmmm128, add_words);
    t.both(C::Pmaddubsw_mm_mmm64, C::Pmaddubsw_xmm_xmmm128, add_bytes);
    t.both(
        C::Psadbw_mm_mmm64,
        C::Psadbw_xmm_xmmm128,
        Kernel::Two(sum_of_differences),
    );
    t.xmm(C::Mpsadbw_xmm_xmmm128_imm8, Kernel::Imm(multiple_sums));
}

fn compare_and_choose(t: &mut Table) {
    t.both(
        C::Pcmpeqb_mm_mmm64,
        C::Pcmpeqb_xmm_xmmm128,
        compare!(u8, ==),
    );
    t.both(
        C::Pcmpeqw_mm_mmm64,
        C::Pcmpeqw_xmm_xmmm128,
        compare!(u16, ==),
    );
    t.both(
        C::Pcmpeqd_mm_mmm64,
        C::Pcmpeqd_xmm_xmmm128,
        compare!(u32, ==),
    );
    t.xmm(C::Pcmpeqq_xmm_xmmm128, compare!(u64, ==));
    t.both(C::Pcmpgtb_mm_mmm64, C::Pcmpgtb_xmm_xmmm128, compare!(i8, >));
    t.both(
        C::Pcmpgtw_mm_mmm64,
        C::Pcmpgtw_xmm_xmmm128,
        compare!(i16, >),
    );
    t.both(
        C::Pcmpgtd_mm_mmm64,
        C::Pcmpgtd_xmm_xmmm128,
        compare!(i32, >),
    );
    t.xmm(C::Pcmpgtq_xmm_xmmm128, compare!(i64, >));
    t.both(
        C::Pminub_mm_mmm64,
        C::Pminub_xmm_xmmm128,
        two!(u8, |x, y| x.min(y)),
    );
    t.both(
        C::Pmaxub_mm_mmm64,
        C::Pmaxub_xmm_xmmm128,
        two!(u8, |x, y| x.max(y)),
    );
    t.both(
        C::Pminsw_mm_mmm64,
        C::Pminsw_xmm_xmmm128,
        two!(i16, |x, y| x.min(y)),
    );
    t.both(
        C::Pmaxsw_mm_mmm64,
        C::Pmaxsw_xmm_xmmm128,
        two!(i16, |x, y| x.max(y)),
    );
    t.xmm(C::Pminsb_xmm_xmmm128, two!(i8, |x, y| x.min(y)));
    t.xmm(C::Pmaxsb_xmm_xmmm128, two!(i8, |x, y| x.max(y)));
    t.xmm(C::Pminuw_xmm_xmmm128, two!(u16, |x, y| x.min(y)));
    t.xmm(C::Pmaxuw_xmm_xmmm128, two!(u16, |x, y| x.max(y)));
    t.xmm(C::Pminsd_xmm_xmmm128, two!(i32, |x, y| x.min(y)));
    t.xmm(C::Pmaxsd_xmm_xmmm128, two!(i32, |x, y| x.max(y)));
    t.xmm(C::Pminud_xmm_xmmm128, two!(u32, |x, y| x.min(y)));
    t.xmm(C::Pmaxud_xmm_xmmm128, two!(u32, |x, y| x.max(y)));
    t.xmm(
        C::Phminposuw_xmm_xmmm128,
        Kernel::Two(|d, _, b| minimum_position(d, b)),
    );
    t.xmm(C::Ptest_xmm_xmmm128, Kernel::Special(test_bits));
}

fn logic_and_shift(t: &mut Table) {
    let and = two!(u64, |x, y| x & y);
    let andn = two!(u64, |x, y| !x & y);
    let or = two!(u64, |x, y| x | y);
    let xor = two!(u64, |x, y| x ^ y);
    t.both(C::Pand_mm_mmm64, C::Pand_xmm_xmmm128, and);
    t.both(C::Pandn_mm_mmm64, C::Pandn_xmm_xmmm128, andn);
    t.both(C::Por_mm_mmm64, C::Por_xmm_xmmm128, or);
    t.both(C::Pxor_mm_mmm64, C::Pxor_xmm_xmmm128, xor);
    for (ps, pd, kernel) in [
        (C::Andps_xmm_xmmm128, C::Andpd_xmm_xmmm128, and),
        (C::Andnps_xmm_xmmm128, C::Andnpd_xmm_xmmm128, andn),
        (C::Orps_xmm_xmmm128, C::Orpd_xmm_xmmm128, or),
        (C::Xorps_xmm_xmmm128, C::Xorpd_xmm_xmmm128, xor),
    ] {
        t.xmm(ps, kernel);
        t.xmm(pd, kernel);
    }

    // Counts beyond the lane give zeros, or copies of the sign.
    let (psllw, psllw_imm) = shift!(u16, |x: u16, n: u64| if n < 16 { x << n } else { 0 });
    let (pslld, pslld_imm) = shift!(u32, |x: u32, n: u64| if n < 32 { x << n } else { 0 });
    let (psllq, psllq_imm) = shift!(u64, |x: u64, n: u64| if n < 64 { x << n } else { 0 });
    let (psrlw, psrlw_imm) = shift!(u16, |x: u16, n: u64| if n < 16 { x >> n } else { 0 });
    let (psrld, psrld_imm) = shift!(u32, |x: u32, n: u64| if n < 32 { x >> n } else { 0 });
    let (psrlq, psrlq_imm) = shift!(u64, |x: u64, n: u64| if n < 64 { x >> n } else { 0 });
    let (psraw, psraw_imm) = shift!(i16, |x: i16, n: u64| x >> n.min(15));
    let (psrad, psrad_imm) = shift!(i32, |x: i32, n: u64| x >> n.min(31));
    t.both(C::Psllw_mm_mmm64, C::Psllw_xmm_xmmm128, psllw);
    t.both(C::Pslld_mm_mmm64, C::Pslld_xmm_xmmm128, pslld);
    t.both(C::Psllq_mm_mmm64, C::Psllq_xmm_xmmm128, psllq);
    t.both(C::Psrlw_mm_mmm64, C::Psrlw_xmm_xmmm128, psrlw);
    t.both(C::Psrld_mm_mmm64, C::Psrld_xmm_xmmm128, psrld);
    t.both(C::Psrlq_mm_mmm64, C::Psrlq_xmm_xmmm128, psrlq);
    t.both(C::Psraw_mm_mmm64, C::Psraw_xmm_xmmm128, psraw);
    t.both(C::Psrad_mm_mmm64, C::Psrad_xmm_xmmm128, psrad);
    t.both(C::Psllw_mm_imm8, C::Psllw_xmm_imm8, psllw_imm);
    t.both(C::Pslld_mm_imm8, C::Pslld_xmm_imm8, pslld_imm);
    t.both(C::Psllq_mm_imm8, C::Psllq_xmm_imm8, psllq_imm);
    t.both(C::Psrlw_mm_imm8, C::Psrlw_xmm_imm8, psrlw_imm);
    t.both(C::Psrld_mm_imm8, C::Psrld_xmm_imm8, psrld_imm);
    t.both(C::Psrlq_mm_imm8, C::Psrlq_xmm_imm8, psrlq_imm);
    t.both(C::Psraw_mm_imm8, C::Psraw_xmm_imm8, psraw_imm);
    t.both(C::Psrad_mm_imm8, C::Psrad_xmm_imm8, psrad_imm);
    t.xmm(
        C::Pslldq_xmm_imm8,
        Kernel::Imm(|d, a, _, imm| map1::<u128, u128>(d, a, |x| shift_bytes(x, imm, true))),
    );
    t.xmm(
        C::Psrldq_xmm_imm8,
        Kernel::Imm(|d, a, _, imm| map1::<u128, u128>(d, a, |x| shift_bytes(x, imm, false))),
    );
}

fn horizontals(t: &mut Table) {
    let add16 = Kernel::Two(|d, a, b| horizontal(d, a, b, i16::wrapping_add));
    let add32 = Kernel::Two(|d, a, b| horizontal(d, a, b, i32::wrapping_add));
    let adds = Kernel::Two(|d, a, b| horizontal(d, a, b, i16::saturating_add));
    let sub16 = Kernel::Two(|d, a, b| horizontal(d, a, b, i16::wrapping_sub));
    let sub32 = Kernel::Two(|d, a, b| horizontal(d, a, b, i32::wrapping_sub));
    let subs = Kernel::Two(|d, a, b| horizontal(d, a, b, i16::saturating_sub));
    t.both(C::Phaddw_mm_mmm64, C::Phaddw_xmm_xmmm128, add16);
    t.both(C::Phaddd_mm_mmm64, C::Phaddd_xmm_xmmm128, add32);
    t.both(C::Phaddsw_mm_mmm64, C::Phaddsw_xmm_xmmm128, adds);
    t.both(C::Phsubw_mm_mmm64, C::Phsubw_xmm_xmmm128, sub16);
    t.both(C::Phsubd_mm_mmm64, C::Phsubd_xmm_xmmm128, sub32);
    t.both(C::Phsubsw_mm_mmm64, C::Phsubsw_xmm_xmmm128, subs);

    let mask_mm = Kernel::Special(|ops| ops.gpr_out = sign_mask::<u8>(&ops.src1[..8]));
    let mask_xmm = Kernel::Special(|ops| ops.gpr_out = sign_mask::<u8>(&ops.src1[..ops.len]));
    let mask_ps = Kernel::Special(|ops| ops.gpr_out = sign_mask::<u32>(&ops.src1[..ops.len]));
    let mask_pd = Kernel::Special(|ops| ops.gpr_out = sign_mask::<u64>(&ops.src1[..ops.len]));
    for (code, kernel) in [
        (C::Pmovmskb_r32_mm, mask_mm),
        (C::Pmovmskb_r64_mm, mask_mm),
        (C::Pmovmskb_r32_xmm, mask_xmm),
        (C::Pmovmskb_r64_xmm, mask_xmm),
        (C::Movmskps_r32_xmm, mask_ps),
        (C::Movmskps_r64_xmm, mask_ps),
        (C::Movmskpd_r32_xmm, mask_pd),
        (C::Movmskpd_r64_xmm, mask_pd),
    ] {
        t.xmm(code, kernel);
    }
}
