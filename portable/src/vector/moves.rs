//! Moves: whole registers, halves, single elements, between register files.

use iced_x86::Code as C;

use super::lanes::{Lane, blocks};
use super::{Kernel, Table};

/// Copies `b`, as many bytes as `d` has.
fn copy(d: &mut [u8], _: &[u8], b: &[u8]) {
    d.copy_from_slice(&b[..d.len()]);
}

/// MOVSLDUP and MOVSHDUP: each pair gets its even or odd element.
fn duplicate(d: &mut [u8], a: &[u8], b: &[u8], odd: usize) {
    blocks(d, a, b, |d, _, b| {
        for i in 0..d.len() / 4 {
            u32::get(b, i & !1 | odd).put(d, i);
        }
    });
}

pub(super) fn rows(t: &mut Table) {
    let whole = Kernel::Two(copy);
    for code in [
        C::Movups_xmm_xmmm128,
        C::Movups_xmmm128_xmm,
        C::Movupd_xmm_xmmm128,
        C::Movupd_xmmm128_xmm,
        C::Movaps_xmm_xmmm128,
        C::Movaps_xmmm128_xmm,
        C::Movapd_xmm_xmmm128,
        C::Movapd_xmmm128_xmm,
        C::Movdqa_xmm_xmmm128,
        C::Movdqa_xmmm128_xmm,
        C::Movdqu_xmm_xmmm128,
        C::Movdqu_xmmm128_xmm,
        C::Lddqu_xmm_m128,
        C::Movntdqa_xmm_m128,
        C::Movntps_m128_xmm,
        C::Movntpd_m128_xmm,
        C::Movntdq_m128_xmm,
    ] {
        t.xmm(code, whole);
    }
    for code in [
        C::Movq_mm_mmm64,
        C::Movq_mmm64_mm,
        C::Movntq_m64_mm,
        C::Movdq2q_mm_xmm,
    ] {
        t.mm(code, whole);
    }
    for code in [C::Movq_xmm_xmmm64, C::Movq_xmmm64_xmm, C::Movq2dq_xmm_mm] {
        t.low_zero(code, 8, whole);
    }
    // Loads and stores of one half leave the other.
    for code in [
        C::Movlps_xmm_m64,
        C::Movlpd_xmm_m64,
        C::Movlps_m64_xmm,
        C::Movlpd_m64_xmm,
    ] {
        t.low(code, 8, whole);
    }
    let load_high = Kernel::Special(|ops| u64::get(&ops.src1, 0).put(&mut ops.dst, 1));
    let store_high = Kernel::Two(|d, _, b| u64::get(b, 1).put(d, 0));
    t.xmm(C::Movhps_xmm_m64, load_high);
    t.xmm(C::Movhpd_xmm_m64, load_high);
    t.xmm(C::Movlhps_xmm_xmm, load_high);
    t.low(C::Movhps_m64_xmm, 8, store_high);
    t.low(C::Movhpd_m64_xmm, 8, store_high);
    t.low(C::Movhlps_xmm_xmm, 8, store_high);
    // A scalar from memory clears the rest, one from a register doesn't.
    let load32 = Kernel::Special(|ops| {
        if ops.src_is_mem {
            ops.dst[..16].fill(0);
        }
        u32::get(&ops.src1, 0).put(&mut ops.dst, 0);
    });
    let load64 = Kernel::Special(|ops| {
        if ops.src_is_mem {
            ops.dst[..16].fill(0);
        }
        u64::get(&ops.src1, 0).put(&mut ops.dst, 0);
    });
    t.xmm(C::Movss_xmm_xmmm32, load32);
    t.xmm(C::Movsd_xmm_xmmm64, load64);
    t.low(C::Movss_xmmm32_xmm, 4, whole);
    t.low(C::Movsd_xmmm64_xmm, 8, whole);
    t.xmm(
        C::Movsldup_xmm_xmmm128,
        Kernel::Two(|d, a, b| duplicate(d, a, b, 0)),
    );
    t.xmm(
        C::Movshdup_xmm_xmmm128,
        Kernel::Two(|d, a, b| duplicate(d, a, b, 1)),
    );
    let twice = Kernel::Two(|d, a, b| {
        blocks(d, a, b, |d, _, b| {
            u64::get(b, 0).put(d, 0);
            u64::get(b, 0).put(d, 1);
        });
    });
    t.xmm(C::Movddup_xmm_xmmm64, twice);
    // From and to general registers.
    let from_gpr = |t: &mut Table, code, kernel| {
        t.put(
            code,
            super::Row {
                len: 16,
                active: 8,
                zero_rest: true,
                form: super::Form::Legacy,
                kernel,
            },
        )
    };
    let from32 = Kernel::Special(|ops| u64::from(ops.gpr_in as u32).put(&mut ops.dst, 0));
    let from64 = Kernel::Special(|ops| ops.gpr_in.put(&mut ops.dst, 0));
    t.mm(C::Movd_mm_rm32, from32);
    t.mm(C::Movq_mm_rm64, from64);
    from_gpr(t, C::Movd_xmm_rm32, from32);
    from_gpr(t, C::Movq_xmm_rm64, from64);
    let to32 = Kernel::Special(|ops| ops.gpr_out = u32::get(&ops.src1, 0).into());
    let to64 = Kernel::Special(|ops| ops.gpr_out = u64::get(&ops.src1, 0));
    t.xmm(C::Movd_rm32_mm, to32);
    t.xmm(C::Movq_rm64_mm, to64);
    t.xmm(C::Movd_rm32_xmm, to32);
    t.xmm(C::Movq_rm64_xmm, to64);
}
