//! Conversions between single, double and integers, packed and scalar.

use iced_x86::Code as C;

use super::lanes::Lane;
use super::{Kernel, Table, VecOperands};
use crate::float::{self, Env, F32, F64, Float, IntKind, Rounding, from_i64, to_int};

/// From one floating-point lane type to another; as many lanes as fill `d`.
fn between<S: Float + Lane, D: Float + Lane>(env: &Env, d: &mut [u8], b: &[u8]) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / D::SIZE {
        let out = float::convert::<D>(env, env.load(S::get(b, i)));
        raised |= out.flags;
        out.value.put(d, i);
    }
    raised
}

/// From 32-bit integers.
fn from_dwords<D: Float + Lane>(env: &Env, d: &mut [u8], b: &[u8]) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / D::SIZE {
        let out = from_i64::<D>(env, i32::get(b, i).into());
        raised |= out.flags;
        out.value.put(d, i);
    }
    raised
}

pub(super) fn direction(env: &Env, truncate: bool) -> Rounding {
    if truncate {
        Rounding::Zero
    } else {
        env.rounding
    }
}

/// To 32-bit integers.
fn to_dwords<S: Float + Lane>(env: &Env, d: &mut [u8], b: &[u8], truncate: bool) -> u8 {
    let mut raised = 0;
    for i in 0..d.len() / 4 {
        let out = to_int(
            &env.load(S::get(b, i)),
            direction(env, truncate),
            IntKind::I32,
        );
        raised |= out.flags;
        (out.value as u32).put(d, i);
    }
    raised
}

/// To a general register.
pub(super) fn to_gpr<S: Float + Lane>(
    env: &Env,
    ops: &mut VecOperands,
    truncate: bool,
    kind: IntKind,
) -> u8 {
    let out = to_int(
        &env.load(S::get(&ops.src1, 0)),
        direction(env, truncate),
        kind,
    );
    ops.gpr_out = out.value;
    out.flags
}

/// From a general register, to the low lane.
fn from_gpr<D: Float + Lane>(env: &Env, ops: &mut VecOperands, value: i64) -> u8 {
    let out = from_i64::<D>(env, value);
    out.value.put(&mut ops.dst, 0);
    out.flags
}

pub(super) fn rows(t: &mut Table) {
    let widen = Kernel::Float(|env, d, _, b, _| between::<F32, F64>(env, d, b));
    let narrow = Kernel::Float(|env, d, _, b, _| between::<F64, F32>(env, d, b));
    t.xmm(C::Cvtps2pd_xmm_xmmm64, widen);
    t.low(C::Cvtss2sd_xmm_xmmm32, 8, widen);
    t.low_zero(C::Cvtpd2ps_xmm_xmmm128, 8, narrow);
    t.low(C::Cvtsd2ss_xmm_xmmm64, 4, narrow);

    let to_single = Kernel::Float(|env, d, _, b, _| from_dwords::<F32>(env, d, b));
    let to_double = Kernel::Float(|env, d, _, b, _| from_dwords::<F64>(env, d, b));
    t.xmm(C::Cvtdq2ps_xmm_xmmm128, to_single);
    t.xmm(C::Cvtdq2pd_xmm_xmmm64, to_double);
    t.low(C::Cvtpi2ps_xmm_mmm64, 8, to_single);
    t.xmm(C::Cvtpi2pd_xmm_mmm64, to_double);

    let single = Kernel::Float(|env, d, _, b, _| to_dwords::<F32>(env, d, b, false));
    let single_truncated = Kernel::Float(|env, d, _, b, _| to_dwords::<F32>(env, d, b, true));
    let double = Kernel::Float(|env, d, _, b, _| to_dwords::<F64>(env, d, b, false));
    let double_truncated = Kernel::Float(|env, d, _, b, _| to_dwords::<F64>(env, d, b, true));
    t.xmm(C::Cvtps2dq_xmm_xmmm128, single);
    t.xmm(C::Cvttps2dq_xmm_xmmm128, single_truncated);
    t.low_zero(C::Cvtpd2dq_xmm_xmmm128, 8, double);
    t.low_zero(C::Cvttpd2dq_xmm_xmmm128, 8, double_truncated);
    // The source is an XMM register though the destination is an MMX one.
    t.low(C::Cvtps2pi_mm_xmmm64, 8, single);
    t.low(C::Cvttps2pi_mm_xmmm64, 8, single_truncated);
    t.low(C::Cvtpd2pi_mm_xmmm128, 8, double);
    t.low(C::Cvttpd2pi_mm_xmmm128, 8, double_truncated);

    macro_rules! special {
        ($($code:ident => $f:expr;)*) => {
            $(t.xmm(C::$code, Kernel::SpecialFloat($f));)*
        };
    }
    special! {
        Cvtss2si_r32_xmmm32 => |env, ops| to_gpr::<F32>(env, ops, false, IntKind::I32);
        Cvtss2si_r64_xmmm32 => |env, ops| to_gpr::<F32>(env, ops, false, IntKind::I64);
        Cvtsd2si_r32_xmmm64 => |env, ops| to_gpr::<F64>(env, ops, false, IntKind::I32);
        Cvtsd2si_r64_xmmm64 => |env, ops| to_gpr::<F64>(env, ops, false, IntKind::I64);
        Cvttss2si_r32_xmmm32 => |env, ops| to_gpr::<F32>(env, ops, true, IntKind::I32);
        Cvttss2si_r64_xmmm32 => |env, ops| to_gpr::<F32>(env, ops, true, IntKind::I64);
        Cvttsd2si_r32_xmmm64 => |env, ops| to_gpr::<F64>(env, ops, true, IntKind::I32);
        Cvttsd2si_r64_xmmm64 => |env, ops| to_gpr::<F64>(env, ops, true, IntKind::I64);
        Cvtsi2ss_xmm_rm32 => |env, ops| from_gpr::<F32>(env, ops, i64::from(ops.gpr_in as i32));
        Cvtsi2ss_xmm_rm64 => |env, ops| from_gpr::<F32>(env, ops, ops.gpr_in as i64);
        Cvtsi2sd_xmm_rm32 => |env, ops| from_gpr::<F64>(env, ops, i64::from(ops.gpr_in as i32));
        Cvtsi2sd_xmm_rm64 => |env, ops| from_gpr::<F64>(env, ops, ops.gpr_in as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_dwords_clear_the_rest() {
        let mut ops = VecOperands {
            dst: [0xAA; 64],
            ..VecOperands::default()
        };
        ops.src1[..8].copy_from_slice(&2.5f64.to_le_bytes());
        ops.src1[8..16].copy_from_slice(&(-7.0f64).to_le_bytes());
        let mut mxcsr = 0x1F80;
        super::super::execute(C::Cvtpd2dq_xmm_xmmm128, &mut ops, &mut mxcsr).unwrap();
        assert_eq!(
            (
                i32::get(&ops.dst, 0),
                i32::get(&ops.dst, 1),
                u64::get(&ops.dst, 1)
            ),
            (2, -7, 0)
        );
        assert_eq!(mxcsr, 0x1FA0);
    }
}
