//! Lanes to other places: pack, unpack, shuffle, blend, align, extend, insert, extract.

use iced_x86::Code as C;

use super::lanes::{Lane, blocks, map1};
use super::{Kernel, Table};

/// Packs lanes of `a`, then of `b`, to half their size.
fn pack<S: Lane, D: Lane>(d: &mut [u8], a: &[u8], b: &[u8], f: impl Fn(S) -> D) {
    blocks(d, a, b, |d, a, b| {
        let half = d.len() / S::SIZE;
        for i in 0..half {
            f(S::get(a, i)).put(d, i);
            f(S::get(b, i)).put(d, half + i);
        }
    });
}

/// Interleaves the lower or upper halves.
fn unpack<T: Lane>(d: &mut [u8], a: &[u8], b: &[u8], high: bool) {
    blocks(d, a, b, |d, a, b| {
        let half = d.len() / T::SIZE / 2;
        let from = if high { half } else { 0 };
        for i in 0..half {
            T::get(a, from + i).put(d, 2 * i);
            T::get(b, from + i).put(d, 2 * i + 1);
        }
    });
}

/// The immediate's field `i` of `bits` bits.
fn field(imm: u8, i: usize, bits: u32) -> usize {
    usize::from(imm >> ((i as u32 * bits) & 7)) & ((1 << bits) - 1)
}

/// PSHUFD and PSHUFW: four lanes chosen by two bits each.
pub(super) fn shuffle<T: Lane>(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    blocks(d, a, b, |d, _, b| {
        for i in 0..d.len() / T::SIZE {
            T::get(b, field(imm, i, 2)).put(d, i);
        }
    });
}

/// PSHUFLW and PSHUFHW: one half is shuffled, the other copied.
fn shuffle_half(d: &mut [u8], a: &[u8], b: &[u8], imm: u8, high: bool) {
    blocks(d, a, b, |d, _, b| {
        d.copy_from_slice(b);
        let at = if high { 4 } else { 0 };
        for i in 0..4 {
            u16::get(b, at + field(imm, i, 2)).put(d, at + i);
        }
    });
}

/// PSHUFB: each byte chosen by the low bits of an index whose top bit means zero.
fn shuffle_bytes(d: &mut [u8], a: &[u8], b: &[u8]) {
    blocks(d, a, b, |d, a, b| {
        let mask = d.len() - 1;
        for (d, &index) in d.iter_mut().zip(b) {
            *d = if index & 0x80 != 0 {
                0
            } else {
                a[usize::from(index) & mask]
            };
        }
    });
}

/// PALIGNR: bytes from `imm` on of `a` above `b`.
fn align(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    blocks(d, a, b, |d, a, b| {
        let len = d.len();
        for (i, d) in d.iter_mut().enumerate() {
            let from = i + usize::from(imm);
            *d = match from {
                from if from < len => b[from],
                from if from < 2 * len => a[from - len],
                _ => 0,
            };
        }
    });
}

/// SHUFPS and SHUFPD: the lower half of the lanes from `a`, the upper from `b`. The immediate has a field for each lane,
/// those of SHUFPS again for the next 128 bits.
fn shuffle_two<T: Lane>(d: &mut [u8], a: &[u8], b: &[u8], imm: u8, bits: u32) {
    let lanes = 16 / T::SIZE;
    let parts = d.chunks_mut(16).zip(a.chunks(16)).zip(b.chunks(16));
    for (part, ((d, a), b)) in parts.enumerate() {
        for i in 0..lanes {
            let source = if i < lanes / 2 { a } else { b };
            T::get(source, field(imm, part * lanes + i, bits)).put(d, i);
        }
    }
}

/// Lane i from `b` where bit i of the immediate is set.
pub(super) fn blend<T: Lane>(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    for i in 0..d.len() / T::SIZE {
        let source = if imm >> (i & 7) & 1 != 0 { b } else { a };
        T::get(source, i).put(d, i);
    }
}

/// Lane i from `b` where the mask's lane i has its top bit set.
fn blend_by<T: Lane>(len: usize, d: &mut [u8], b: &[u8], mask: &[u8]) {
    for i in 0..len / T::SIZE {
        if mask[(i + 1) * T::SIZE - 1] & 0x80 != 0 {
            T::get(b, i).put(d, i);
        }
    }
}

pub(super) fn rows(t: &mut Table) {
    packs(t);
    shuffles(t);
    extensions(t);
    insertions(t);
}

fn packs(t: &mut Table) {
    let sswb = Kernel::Two(|d, a, b| pack(d, a, b, |x: i16| x.clamp(-128, 127) as i8));
    let uswb = Kernel::Two(|d, a, b| pack(d, a, b, |x: i16| x.clamp(0, 255) as u8));
    let ssdw = Kernel::Two(|d, a, b| pack(d, a, b, |x: i32| x.clamp(-32768, 32767) as i16));
    let usdw = Kernel::Two(|d, a, b| pack(d, a, b, |x: i32| x.clamp(0, 65535) as u16));
    t.both(C::Packsswb_mm_mmm64, C::Packsswb_xmm_xmmm128, sswb);
    t.both(C::Packuswb_mm_mmm64, C::Packuswb_xmm_xmmm128, uswb);
    t.both(C::Packssdw_mm_mmm64, C::Packssdw_xmm_xmmm128, ssdw);
    t.xmm(C::Packusdw_xmm_xmmm128, usdw);
    let (lbw, hbw) = (
        Kernel::Two(|d, a, b| unpack::<u8>(d, a, b, false)),
        Kernel::Two(|d, a, b| unpack::<u8>(d, a, b, true)),
    );
    let (lwd, hwd) = (
        Kernel::Two(|d, a, b| unpack::<u16>(d, a, b, false)),
        Kernel::Two(|d, a, b| unpack::<u16>(d, a, b, true)),
    );
    let (ldq, hdq) = (
        Kernel::Two(|d, a, b| unpack::<u32>(d, a, b, false)),
        Kernel::Two(|d, a, b| unpack::<u32>(d, a, b, true)),
    );
    let (lqdq, hqdq) = (
        Kernel::Two(|d, a, b| unpack::<u64>(d, a, b, false)),
        Kernel::Two(|d, a, b| unpack::<u64>(d, a, b, true)),
    );
    t.both(C::Punpcklbw_mm_mmm32, C::Punpcklbw_xmm_xmmm128, lbw);
    t.both(C::Punpckhbw_mm_mmm64, C::Punpckhbw_xmm_xmmm128, hbw);
    t.both(C::Punpcklwd_mm_mmm32, C::Punpcklwd_xmm_xmmm128, lwd);
    t.both(C::Punpckhwd_mm_mmm64, C::Punpckhwd_xmm_xmmm128, hwd);
    t.both(C::Punpckldq_mm_mmm32, C::Punpckldq_xmm_xmmm128, ldq);
    t.both(C::Punpckhdq_mm_mmm64, C::Punpckhdq_xmm_xmmm128, hdq);
    t.xmm(C::Punpcklqdq_xmm_xmmm128, lqdq);
    t.xmm(C::Punpckhqdq_xmm_xmmm128, hqdq);
    t.xmm(C::Unpcklps_xmm_xmmm128, ldq);
    t.xmm(C::Unpckhps_xmm_xmmm128, hdq);
    t.xmm(C::Unpcklpd_xmm_xmmm128, lqdq);
    t.xmm(C::Unpckhpd_xmm_xmmm128, hqdq);
}

fn shuffles(t: &mut Table) {
    t.mm(C::Pshufw_mm_mmm64_imm8, Kernel::Imm(shuffle::<u16>));
    t.xmm(C::Pshufd_xmm_xmmm128_imm8, Kernel::Imm(shuffle::<u32>));
    t.xmm(
        C::Pshuflw_xmm_xmmm128_imm8,
        Kernel::Imm(|d, a, b, imm| shuffle_half(d, a, b, imm, false)),
    );
    t.xmm(
        C::Pshufhw_xmm_xmmm128_imm8,
        Kernel::Imm(|d, a, b, imm| shuffle_half(d, a, b, imm, true)),
    );
    t.both(
        C::Pshufb_mm_mmm64,
        C::Pshufb_xmm_xmmm128,
        Kernel::Two(shuffle_bytes),
    );
    t.both(
        C::Palignr_mm_mmm64_imm8,
        C::Palignr_xmm_xmmm128_imm8,
        Kernel::Imm(align),
    );
    t.xmm(
        C::Shufps_xmm_xmmm128_imm8,
        Kernel::Imm(|d, a, b, imm| shuffle_two::<u32>(d, a, b, imm, 2)),
    );
    t.xmm(
        C::Shufpd_xmm_xmmm128_imm8,
        Kernel::Imm(|d, a, b, imm| shuffle_two::<u64>(d, a, b, imm, 1)),
    );
    t.xmm(C::Blendps_xmm_xmmm128_imm8, Kernel::Imm(blend::<u32>));
    t.xmm(C::Blendpd_xmm_xmmm128_imm8, Kernel::Imm(blend::<u64>));
    t.xmm(C::Pblendw_xmm_xmmm128_imm8, Kernel::Imm(blend::<u16>));
    t.xmm(
        C::Pblendvb_xmm_xmmm128,
        Kernel::Special(|ops| blend_by::<u8>(ops.len, &mut ops.dst, &ops.src1, &ops.xmm0)),
    );
    t.xmm(
        C::Blendvps_xmm_xmmm128,
        Kernel::Special(|ops| blend_by::<u32>(ops.len, &mut ops.dst, &ops.src1, &ops.xmm0)),
    );
    t.xmm(
        C::Blendvpd_xmm_xmmm128,
        Kernel::Special(|ops| blend_by::<u64>(ops.len, &mut ops.dst, &ops.src1, &ops.xmm0)),
    );
}

fn extensions(t: &mut Table) {
    t.xmm(
        C::Pmovsxbw_xmm_xmmm64,
        Kernel::Two(|d, _, b| map1(d, b, |x: i8| i16::from(x))),
    );
    t.xmm(
        C::Pmovsxbd_xmm_xmmm32,
        Kernel::Two(|d, _, b| map1(d, b, |x: i8| i32::from(x))),
    );
    t.xmm(
        C::Pmovsxbq_xmm_xmmm16,
        Kernel::Two(|d, _, b| map1(d, b, |x: i8| i64::from(x))),
    );
    t.xmm(
        C::Pmovsxwd_xmm_xmmm64,
        Kernel::Two(|d, _, b| map1(d, b, |x: i16| i32::from(x))),
    );
    t.xmm(
        C::Pmovsxwq_xmm_xmmm32,
        Kernel::Two(|d, _, b| map1(d, b, |x: i16| i64::from(x))),
    );
    t.xmm(
        C::Pmovsxdq_xmm_xmmm64,
        Kernel::Two(|d, _, b| map1(d, b, |x: i32| i64::from(x))),
    );
    t.xmm(
        C::Pmovzxbw_xmm_xmmm64,
        Kernel::Two(|d, _, b| map1(d, b, |x: u8| u16::from(x))),
    );
    t.xmm(
        C::Pmovzxbd_xmm_xmmm32,
        Kernel::Two(|d, _, b| map1(d, b, |x: u8| u32::from(x))),
    );
    t.xmm(
        C::Pmovzxbq_xmm_xmmm16,
        Kernel::Two(|d, _, b| map1(d, b, |x: u8| u64::from(x))),
    );
    t.xmm(
        C::Pmovzxwd_xmm_xmmm64,
        Kernel::Two(|d, _, b| map1(d, b, |x: u16| u32::from(x))),
    );
    t.xmm(
        C::Pmovzxwq_xmm_xmmm32,
        Kernel::Two(|d, _, b| map1(d, b, |x: u16| u64::from(x))),
    );
    t.xmm(
        C::Pmovzxdq_xmm_xmmm64,
        Kernel::Two(|d, _, b| map1(d, b, |x: u32| u64::from(x))),
    );
}

fn insertions(t: &mut Table) {
    let insert_word_mm =
        Kernel::Special(|ops| (ops.gpr_in as u16).put(&mut ops.dst, usize::from(ops.imm & 3)));
    let insert_byte =
        Kernel::Special(|ops| (ops.gpr_in as u8).put(&mut ops.dst, usize::from(ops.imm & 15)));
    let insert_word =
        Kernel::Special(|ops| (ops.gpr_in as u16).put(&mut ops.dst, usize::from(ops.imm & 7)));
    let insert_dword =
        Kernel::Special(|ops| (ops.gpr_in as u32).put(&mut ops.dst, usize::from(ops.imm & 3)));
    let insert_qword =
        Kernel::Special(|ops| ops.gpr_in.put(&mut ops.dst, usize::from(ops.imm & 1)));
    let extract_word_mm =
        Kernel::Special(|ops| ops.gpr_out = u16::get(&ops.src1, usize::from(ops.imm & 3)).into());
    let extract_byte =
        Kernel::Special(|ops| ops.gpr_out = u8::get(&ops.src1, usize::from(ops.imm & 15)).into());
    let extract_word =
        Kernel::Special(|ops| ops.gpr_out = u16::get(&ops.src1, usize::from(ops.imm & 7)).into());
    let extract_dword =
        Kernel::Special(|ops| ops.gpr_out = u32::get(&ops.src1, usize::from(ops.imm & 3)).into());
    let extract_qword =
        Kernel::Special(|ops| ops.gpr_out = u64::get(&ops.src1, usize::from(ops.imm & 1)));
    for (code, kernel) in [
        (C::Pinsrw_mm_r32m16_imm8, insert_word_mm),
        (C::Pinsrw_mm_r64m16_imm8, insert_word_mm),
        (C::Pinsrw_xmm_r32m16_imm8, insert_word),
        (C::Pinsrw_xmm_r64m16_imm8, insert_word),
        (C::Pinsrb_xmm_r32m8_imm8, insert_byte),
        (C::Pinsrb_xmm_r64m8_imm8, insert_byte),
        (C::Pinsrd_xmm_rm32_imm8, insert_dword),
        (C::Pinsrq_xmm_rm64_imm8, insert_qword),
        (C::Pextrw_r32_mm_imm8, extract_word_mm),
        (C::Pextrw_r64_mm_imm8, extract_word_mm),
        (C::Pextrw_r32_xmm_imm8, extract_word),
        (C::Pextrw_r64_xmm_imm8, extract_word),
        (C::Pextrw_r32m16_xmm_imm8, extract_word),
        (C::Pextrw_r64m16_xmm_imm8, extract_word),
        (C::Pextrb_r32m8_xmm_imm8, extract_byte),
        (C::Pextrb_r64m8_xmm_imm8, extract_byte),
        (C::Pextrd_rm32_xmm_imm8, extract_dword),
        (C::Pextrq_rm64_xmm_imm8, extract_qword),
        (C::Extractps_rm32_xmm_imm8, extract_dword),
        (C::Extractps_r64m32_xmm_imm8, extract_dword),
    ] {
        t.xmm(code, kernel);
    }
    t.xmm(
        C::Insertps_xmm_xmmm32_imm8,
        Kernel::Special(|ops| {
            let from = if ops.src_is_mem {
                0
            } else {
                usize::from(ops.imm >> 6)
            };
            u32::get(&ops.src1, from).put(&mut ops.dst, usize::from(ops.imm >> 4 & 3));
            for i in 0..4 {
                if ops.imm >> i & 1 != 0 {
                    0u32.put(&mut ops.dst, i);
                }
            }
        }),
    );
    // The caller stores only the bytes of `dst` that the mask names.
    let masked_mm = Kernel::Special(|ops| {
        ops.gpr_out = (0..8).fold(0, |mask, i| mask | u64::from(ops.src2[i] >> 7) << i);
        ops.dst[..8].copy_from_slice(&ops.src1[..8]);
    });
    let masked_xmm = Kernel::Special(|ops| {
        ops.gpr_out = (0..16).fold(0, |mask, i| mask | u64::from(ops.src2[i] >> 7) << i);
        ops.dst[..16].copy_from_slice(&ops.src1[..16]);
    });
    t.mm(C::Maskmovq_rDI_mm_mm, masked_mm);
    t.xmm(C::Maskmovdqu_rDI_xmm_xmm, masked_xmm);
}
