//! What AVX, AVX2 and F16C have and SSE has not: broadcasts, permutations across 128 bits, variable shifts, half floats.

use iced_x86::Code as C;

use super::float::compare_lanes;
use super::lanes::{Lane, map2};
use super::shuffle::{blend, shuffle};
use super::vex::Vex;
use super::{Form, Kernel, Table, VecOperands};
use crate::float::flags::DE;
use crate::float::{self, Env, F16, F32, F64, Float, Rounding};

/// Every lane is the source's first.
fn broadcast<T: Lane>(d: &mut [u8], _: &[u8], b: &[u8]) {
    let value = T::get(b, 0);
    for i in 0..d.len() / T::SIZE {
        value.put(d, i);
    }
}

/// VPERMILPS and VPERMILPD by a register: within each 128 bits, bit `SHIFT` upwards of the index's lane.
fn within<T: Lane, I: Lane + Into<u64>, const SHIFT: u32>(d: &mut [u8], a: &[u8], b: &[u8]) {
    let lanes = 16 / T::SIZE;
    for i in 0..d.len() / T::SIZE {
        let index: u64 = I::get(b, i).into();
        let from = i / lanes * lanes + (index >> SHIFT) as usize % lanes;
        T::get(a, from).put(d, i);
    }
}

/// VPERMILPD by an immediate: a bit for each lane.
fn within_by_bits(d: &mut [u8], _: &[u8], b: &[u8], imm: u8) {
    for i in 0..d.len() / 8 {
        u64::get(b, i & !1 | usize::from(imm >> i & 1)).put(d, i);
    }
}

/// VPERMD and VPERMPS: lanes of `b` chosen by those of `a`.
fn across(d: &mut [u8], a: &[u8], b: &[u8]) {
    let lanes = d.len() / 4;
    for i in 0..lanes {
        u32::get(b, u32::get(a, i) as usize % lanes).put(d, i);
    }
}

/// VPERMQ and VPERMPD: of each four quadwords, four chosen by two bits each.
fn quadwords(d: &mut [u8], _: &[u8], b: &[u8], imm: u8) {
    for i in 0..d.len() / 8 {
        u64::get(b, i & !3 | usize::from(imm >> (2 * (i & 3)) & 3)).put(d, i);
    }
}

/// VPERM2F128 and VPERM2I128: each half is one of four, or zero.
fn halves(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    for i in 0..2 {
        let choice = imm >> (4 * i);
        let source = if choice & 2 == 0 { a } else { b };
        let value = match choice & 8 {
            0 => u128::get(source, usize::from(choice & 1)),
            _ => 0,
        };
        value.put(d, i);
    }
}

fn insert_half(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    d.copy_from_slice(a);
    u128::get(b, 0).put(d, usize::from(imm & 1));
}

fn extract_half(d: &mut [u8], _: &[u8], b: &[u8], imm: u8) {
    let from = 16 * usize::from(imm & 1);
    d.copy_from_slice(&b[from..from + 16]);
}

/// VTESTPS and VTESTPD: as PTEST, of the lanes' sign bits.
fn test_signs<T: Lane>(ops: &mut VecOperands) {
    let (mut none, mut all) = (true, true);
    for at in (T::SIZE - 1..ops.len).step_by(T::SIZE) {
        none &= ops.dst[at] & ops.src1[at] & 0x80 == 0;
        all &= !ops.dst[at] & ops.src1[at] & 0x80 == 0;
    }
    ops.flags_out = Some(u32::from(none) << 6 | u32::from(all));
}

/// VCVTPH2PS: denormals are neither zeros nor reported.
fn from_half(env: &Env, d: &mut [u8], b: &[u8]) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / 4 {
        let half = F16(u16::get(b, i)).unpack();
        let out = float::convert::<F32>(env, half);
        raised |= out.flags & !DE;
        out.value.put(d, i);
    }
    raised
}

/// VCVTPS2PH: tiny results stay whatever MXCSR.FTZ says; the immediate may give the direction.
fn to_half(env: &Env, d: &mut [u8], b: &[u8], imm: u8) -> u8 {
    let rounding = if imm & 4 != 0 {
        env.rounding
    } else {
        Rounding::from_bits(imm.into())
    };
    let without = Env {
        rounding,
        ftz: false,
        ..*env
    };
    let mut raised = 0;
    for i in 0..d.len() / 2 {
        let out = float::convert::<F16>(&without, env.load(F32::get(b, i)));
        raised |= out.flags;
        out.value.0.put(d, i);
    }
    raised
}

pub(super) fn rows(t: &mut Table) {
    broadcasts(t);
    permutations(t);
    shifts(t);
    use Form::{Vex, VexOwn, VexReads};
    for (code, len) in [
        (C::VEX_Vpblendd_xmm_xmm_xmmm128_imm8, 16),
        (C::VEX_Vpblendd_ymm_ymm_ymmm256_imm8, 32),
    ] {
        t.vex(code, len, len, VexOwn, Kernel::Imm(blend::<u32>));
    }
    for (code, len, kernel) in [
        (
            C::VEX_Vtestps_xmm_xmmm128,
            16,
            test_signs::<u32> as fn(&mut VecOperands),
        ),
        (C::VEX_Vtestps_ymm_ymmm256, 32, test_signs::<u32>),
        (C::VEX_Vtestpd_xmm_xmmm128, 16, test_signs::<u64>),
        (C::VEX_Vtestpd_ymm_ymmm256, 32, test_signs::<u64>),
    ] {
        t.vex(code, len, len, VexReads, Kernel::Special(kernel));
    }
    // Five bits of predicate, where legacy encodings have three.
    let single = Kernel::Float(compare_lanes::<F32>);
    let double = Kernel::Float(compare_lanes::<F64>);
    t.vex(C::VEX_Vcmpps_xmm_xmm_xmmm128_imm8, 16, 16, VexOwn, single);
    t.vex(C::VEX_Vcmpps_ymm_ymm_ymmm256_imm8, 32, 32, VexOwn, single);
    t.vex(C::VEX_Vcmpss_xmm_xmm_xmmm32_imm8, 16, 4, VexOwn, single);
    t.vex(C::VEX_Vcmppd_xmm_xmm_xmmm128_imm8, 16, 16, VexOwn, double);
    t.vex(C::VEX_Vcmppd_ymm_ymm_ymmm256_imm8, 32, 32, VexOwn, double);
    t.vex(C::VEX_Vcmpsd_xmm_xmm_xmmm64_imm8, 16, 8, VexOwn, double);

    let widen = Kernel::Float(|env, d, _, b, _| from_half(env, d, b));
    t.vex(C::VEX_Vcvtph2ps_xmm_xmmm64, 16, 16, Vex, widen);
    t.vex(C::VEX_Vcvtph2ps_ymm_xmmm128, 32, 32, Vex, widen);
    let narrow = Kernel::Float(|env, d, _, b, imm| to_half(env, d, b, imm));
    for (code, len) in [
        (C::VEX_Vcvtps2ph_xmmm64_xmm_imm8, 16),
        (C::VEX_Vcvtps2ph_xmmm128_ymm_imm8, 32),
    ] {
        t.vex_zero(code, len, len / 2, narrow);
    }
}

fn broadcasts(t: &mut Table) {
    let (byte, word, dword, qword, half) = (
        Kernel::Two(broadcast::<u8>),
        Kernel::Two(broadcast::<u16>),
        Kernel::Two(broadcast::<u32>),
        Kernel::Two(broadcast::<u64>),
        Kernel::Two(broadcast::<u128>),
    );
    for (code, len, kernel) in [
        (C::VEX_Vbroadcastss_xmm_m32, 16, dword),
        (C::VEX_Vbroadcastss_ymm_m32, 32, dword),
        (C::VEX_Vbroadcastss_xmm_xmm, 16, dword),
        (C::VEX_Vbroadcastss_ymm_xmm, 32, dword),
        (C::VEX_Vbroadcastsd_ymm_m64, 32, qword),
        (C::VEX_Vbroadcastsd_ymm_xmm, 32, qword),
        (C::VEX_Vbroadcastf128_ymm_m128, 32, half),
        (C::VEX_Vbroadcasti128_ymm_m128, 32, half),
        (C::VEX_Vpbroadcastb_xmm_xmmm8, 16, byte),
        (C::VEX_Vpbroadcastb_ymm_xmmm8, 32, byte),
        (C::VEX_Vpbroadcastw_xmm_xmmm16, 16, word),
        (C::VEX_Vpbroadcastw_ymm_xmmm16, 32, word),
        (C::VEX_Vpbroadcastd_xmm_xmmm32, 16, dword),
        (C::VEX_Vpbroadcastd_ymm_xmmm32, 32, dword),
        (C::VEX_Vpbroadcastq_xmm_xmmm64, 16, qword),
        (C::VEX_Vpbroadcastq_ymm_xmmm64, 32, qword),
    ] {
        t.vex(code, len, len, Form::Vex, kernel);
    }
}

fn permutations(t: &mut Table) {
    use Form::{Vex, VexOwn};
    let ps = Kernel::Two(within::<u32, u32, 0>);
    let pd = Kernel::Two(within::<u64, u64, 1>);
    let ps_imm = Kernel::Imm(shuffle::<u32>);
    let pd_imm = Kernel::Imm(within_by_bits);
    for (code, len, form, kernel) in [
        (C::VEX_Vpermilps_xmm_xmm_xmmm128, 16, VexOwn, ps),
        (C::VEX_Vpermilps_ymm_ymm_ymmm256, 32, VexOwn, ps),
        (C::VEX_Vpermilpd_xmm_xmm_xmmm128, 16, VexOwn, pd),
        (C::VEX_Vpermilpd_ymm_ymm_ymmm256, 32, VexOwn, pd),
        (C::VEX_Vpermilps_xmm_xmmm128_imm8, 16, Vex, ps_imm),
        (C::VEX_Vpermilps_ymm_ymmm256_imm8, 32, Vex, ps_imm),
        (C::VEX_Vpermilpd_xmm_xmmm128_imm8, 16, Vex, pd_imm),
        (C::VEX_Vpermilpd_ymm_ymmm256_imm8, 32, Vex, pd_imm),
        (
            C::VEX_Vpermd_ymm_ymm_ymmm256,
            32,
            VexOwn,
            Kernel::Two(across),
        ),
        (
            C::VEX_Vpermps_ymm_ymm_ymmm256,
            32,
            VexOwn,
            Kernel::Two(across),
        ),
        (
            C::VEX_Vpermq_ymm_ymmm256_imm8,
            32,
            Vex,
            Kernel::Imm(quadwords),
        ),
        (
            C::VEX_Vpermpd_ymm_ymmm256_imm8,
            32,
            Vex,
            Kernel::Imm(quadwords),
        ),
        (
            C::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8,
            32,
            VexOwn,
            Kernel::Imm(halves),
        ),
        (
            C::VEX_Vperm2i128_ymm_ymm_ymmm256_imm8,
            32,
            VexOwn,
            Kernel::Imm(halves),
        ),
        (
            C::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8,
            32,
            VexOwn,
            Kernel::Imm(insert_half),
        ),
        (
            C::VEX_Vinserti128_ymm_ymm_xmmm128_imm8,
            32,
            VexOwn,
            Kernel::Imm(insert_half),
        ),
    ] {
        t.vex(code, len, len, form, kernel);
    }
    for code in [
        C::VEX_Vextractf128_xmmm128_ymm_imm8,
        C::VEX_Vextracti128_xmmm128_ymm_imm8,
    ] {
        t.vex_zero(code, 32, 16, Kernel::Imm(extract_half));
    }
}

/// A shift of each lane by the other operand's: counts beyond the lane give zeros, or copies of the sign.
macro_rules! variable {
    ($type:ty, $f:expr) => {
        Kernel::Two(|d, a, b| map2::<$type>(d, a, b, $f))
    };
}

fn shifts(t: &mut Table) {
    let sllvd = variable!(u32, |x, n| x.checked_shl(n).unwrap_or(0));
    let srlvd = variable!(u32, |x, n| x.checked_shr(n).unwrap_or(0));
    let sravd = variable!(u32, |x, n| (x as i32 >> n.min(31)) as u32);
    let sllvq = variable!(u64, |x, n| if n < 64 { x << n } else { 0 });
    let srlvq = variable!(u64, |x, n| if n < 64 { x >> n } else { 0 });
    for (xmm, ymm, kernel) in [
        (
            C::VEX_Vpsllvd_xmm_xmm_xmmm128,
            C::VEX_Vpsllvd_ymm_ymm_ymmm256,
            sllvd,
        ),
        (
            C::VEX_Vpsrlvd_xmm_xmm_xmmm128,
            C::VEX_Vpsrlvd_ymm_ymm_ymmm256,
            srlvd,
        ),
        (
            C::VEX_Vpsravd_xmm_xmm_xmmm128,
            C::VEX_Vpsravd_ymm_ymm_ymmm256,
            sravd,
        ),
        (
            C::VEX_Vpsllvq_xmm_xmm_xmmm128,
            C::VEX_Vpsllvq_ymm_ymm_ymmm256,
            sllvq,
        ),
        (
            C::VEX_Vpsrlvq_xmm_xmm_xmmm128,
            C::VEX_Vpsrlvq_ymm_ymm_ymmm256,
            srlvq,
        ),
    ] {
        t.vex(xmm, 16, 16, Form::VexOwn, kernel);
        t.vex(ymm, 32, 32, Form::VexOwn, kernel);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VecOperands, execute};
    use super::C;

    #[test]
    fn halves_cross() {
        let mut ops = VecOperands {
            src1: std::array::from_fn(|i| i as u8),
            src2: [0xBB; 64],
            imm: 0x21,
            ..VecOperands::default()
        };
        let mut mxcsr = 0x1F80;
        execute(C::VEX_Vperm2i128_ymm_ymm_ymmm256_imm8, &mut ops, &mut mxcsr).unwrap();
        assert_eq!(
            (ops.dst[0], ops.dst[15], ops.dst[16], ops.dst[32]),
            (16, 31, 0xBB, 0)
        );
    }

    #[test]
    fn half_floats_round_as_the_immediate_says() {
        // 1 + 2^-11 lies between two halves.
        let convert = |imm| {
            let mut ops = VecOperands {
                imm,
                dst: [0xAA; 64],
                ..VecOperands::default()
            };
            ops.src1[..4].copy_from_slice(&(1.0f32 + 0.5 / 1024.0).to_le_bytes());
            let mut mxcsr = 0x1F80;
            execute(C::VEX_Vcvtps2ph_xmmm64_xmm_imm8, &mut ops, &mut mxcsr).unwrap();
            assert_eq!((ops.dst[8], mxcsr), (0, 0x1FA0));
            u16::from_le_bytes([ops.dst[0], ops.dst[1]])
        };
        assert_eq!((convert(0), convert(2)), (0x3C00, 0x3C01));
    }
}
