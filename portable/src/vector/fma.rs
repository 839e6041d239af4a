//! FMA3: products and sums with one rounding, in three orders of operands and six pairs of signs.

use iced_x86::Code as C;

use super::lanes::Lane;
use super::vex::Vex;
use super::{Form, Kernel, Table, VecOperands};
use crate::float::{self, Env, F32, F64, Float, Out, Unpacked};

/// `a * b + c`.
const ADD: u8 = 0;
/// `a * b - c`.
const SUB: u8 = 1;
/// `-(a * b) + c`.
const NEG_ADD: u8 = 2;
/// `-(a * b) - c`.
const NEG_SUB: u8 = 3;
/// Odd lanes add, even ones subtract.
const ADD_SUB: u8 = 4;
/// Odd lanes subtract, even ones add.
const SUB_ADD: u8 = 5;

/// The opposite; NaNs keep their sign.
fn negate(mut x: Unpacked, negative: bool) -> Unpacked {
    if !x.is_nan() {
        x.sign ^= negative;
    }
    x
}

/// Operands 1 (the destination), 2 and 3: `ORDER` names the factors, then the summand, as the mnemonic does.
fn fma<F: Float + Lane, const ORDER: u16, const SIGNS: u8>(env: &Env, ops: &mut VecOperands) -> u8 {
    let mut raised = 0;
    for i in 0..ops.active / F::SIZE {
        let lane = |digit: u16| {
            env.load(F::get(
                match digit {
                    1 => &ops.dst,
                    2 => &ops.src1,
                    _ => &ops.src2,
                },
                i,
            ))
        };
        // 132 multiplies the first and the third, 213 the second and the first, 231 the second and the third.
        let (a, b, c) = (lane(ORDER / 100), lane(ORDER / 10 % 10), lane(ORDER % 10));
        let (product, sum) = match SIGNS {
            ADD => (false, false),
            SUB => (false, true),
            NEG_ADD => (true, false),
            NEG_SUB => (true, true),
            ADD_SUB => (false, i & 1 == 0),
            _ => (false, i & 1 != 0),
        };
        let out: Out<F> = float::fma(env, negate(a, product), b, negate(c, sum));
        raised |= out.flags;
        out.value.put(&mut ops.dst, i);
    }
    raised
}

macro_rules! packed {
    ($t:ident, $signs:ident, $order:literal, $ps:ident $ps256:ident $pd:ident $pd256:ident) => {
        let single = Kernel::SpecialFloat(fma::<F32, $order, $signs>);
        let double = Kernel::SpecialFloat(fma::<F64, $order, $signs>);
        $t.vex(C::$ps, 16, 16, Form::Vex, single);
        $t.vex(C::$ps256, 32, 32, Form::Vex, single);
        $t.vex(C::$pd, 16, 16, Form::Vex, double);
        $t.vex(C::$pd256, 32, 32, Form::Vex, double);
    };
}

macro_rules! scalar {
    ($t:ident, $signs:ident, $order:literal, $ss:ident $sd:ident) => {
        $t.vex(
            C::$ss,
            16,
            4,
            Form::Vex,
            Kernel::SpecialFloat(fma::<F32, $order, $signs>),
        );
        $t.vex(
            C::$sd,
            16,
            8,
            Form::Vex,
            Kernel::SpecialFloat(fma::<F64, $order, $signs>),
        );
    };
}

pub(super) fn rows(t: &mut Table) {
    alternating(t);
    packed!(t, ADD, 132, VEX_Vfmadd132ps_xmm_xmm_xmmm128 VEX_Vfmadd132ps_ymm_ymm_ymmm256 VEX_Vfmadd132pd_xmm_xmm_xmmm128 VEX_Vfmadd132pd_ymm_ymm_ymmm256);
    scalar!(t, ADD, 132, VEX_Vfmadd132ss_xmm_xmm_xmmm32 VEX_Vfmadd132sd_xmm_xmm_xmmm64);
    packed!(t, ADD, 213, VEX_Vfmadd213ps_xmm_xmm_xmmm128 VEX_Vfmadd213ps_ymm_ymm_ymmm256 VEX_Vfmadd213pd_xmm_xmm_xmmm128 VEX_Vfmadd213pd_ymm_ymm_ymmm256);
    scalar!(t, ADD, 213, VEX_Vfmadd213ss_xmm_xmm_xmmm32 VEX_Vfmadd213sd_xmm_xmm_xmmm64);
    packed!(t, ADD, 231, VEX_Vfmadd231ps_xmm_xmm_xmmm128 VEX_Vfmadd231ps_ymm_ymm_ymmm256 VEX_Vfmadd231pd_xmm_xmm_xmmm128 VEX_Vfmadd231pd_ymm_ymm_ymmm256);
    scalar!(t, ADD, 231, VEX_Vfmadd231ss_xmm_xmm_xmmm32 VEX_Vfmadd231sd_xmm_xmm_xmmm64);
    packed!(t, SUB, 132, VEX_Vfmsub132ps_xmm_xmm_xmmm128 VEX_Vfmsub132ps_ymm_ymm_ymmm256 VEX_Vfmsub132pd_xmm_xmm_xmmm128 VEX_Vfmsub132pd_ymm_ymm_ymmm256);
    scalar!(t, SUB, 132, VEX_Vfmsub132ss_xmm_xmm_xmmm32 VEX_Vfmsub132sd_xmm_xmm_xmmm64);
    packed!(t, SUB, 213, VEX_Vfmsub213ps_xmm_xmm_xmmm128 VEX_Vfmsub213ps_ymm_ymm_ymmm256 VEX_Vfmsub213pd_xmm_xmm_xmmm128 VEX_Vfmsub213pd_ymm_ymm_ymmm256);
    scalar!(t, SUB, 213, VEX_Vfmsub213ss_xmm_xmm_xmmm32 VEX_Vfmsub213sd_xmm_xmm_xmmm64);
    packed!(t, SUB, 231, VEX_Vfmsub231ps_xmm_xmm_xmmm128 VEX_Vfmsub231ps_ymm_ymm_ymmm256 VEX_Vfmsub231pd_xmm_xmm_xmmm128 VEX_Vfmsub231pd_ymm_ymm_ymmm256);
    scalar!(t, SUB, 231, VEX_Vfmsub231ss_xmm_xmm_xmmm32 VEX_Vfmsub231sd_xmm_xmm_xmmm64);
    packed!(t, NEG_ADD, 132, VEX_Vfnmadd132ps_xmm_xmm_xmmm128 VEX_Vfnmadd132ps_ymm_ymm_ymmm256 VEX_Vfnmadd132pd_xmm_xmm_xmmm128 VEX_Vfnmadd132pd_ymm_ymm_ymmm256);
    scalar!(t, NEG_ADD, 132, VEX_Vfnmadd132ss_xmm_xmm_xmmm32 VEX_Vfnmadd132sd_xmm_xmm_xmmm64);
    packed!(t, NEG_ADD, 213, VEX_Vfnmadd213ps_xmm_xmm_xmmm128 VEX_Vfnmadd213ps_ymm_ymm_ymmm256 VEX_Vfnmadd213pd_xmm_xmm_xmmm128 VEX_Vfnmadd213pd_ymm_ymm_ymmm256);
    scalar!(t, NEG_ADD, 213, VEX_Vfnmadd213ss_xmm_xmm_xmmm32 VEX_Vfnmadd213sd_xmm_xmm_xmmm64);
    packed!(t, NEG_ADD, 231, VEX_Vfnmadd231ps_xmm_xmm_xmmm128 VEX_Vfnmadd231ps_ymm_ymm_ymmm256 VEX_Vfnmadd231pd_xmm_xmm_xmmm128 VEX_Vfnmadd231pd_ymm_ymm_ymmm256);
    scalar!(t, NEG_ADD, 231, VEX_Vfnmadd231ss_xmm_xmm_xmmm32 VEX_Vfnmadd231sd_xmm_xmm_xmmm64);
    packed!(t, NEG_SUB, 132, VEX_Vfnmsub132ps_xmm_xmm_xmmm128 VEX_Vfnmsub132ps_ymm_ymm_ymmm256 VEX_Vfnmsub132pd_xmm_xmm_xmmm128 VEX_Vfnmsub132pd_ymm_ymm_ymmm256);
    scalar!(t, NEG_SUB, 132, VEX_Vfnmsub132ss_xmm_xmm_xmmm32 VEX_Vfnmsub132sd_xmm_xmm_xmmm64);
    packed!(t, NEG_SUB, 213, VEX_Vfnmsub213ps_xmm_xmm_xmmm128 VEX_Vfnmsub213ps_ymm_ymm_ymmm256 VEX_Vfnmsub213pd_xmm_xmm_xmmm128 VEX_Vfnmsub213pd_ymm_ymm_ymmm256);
    scalar!(t, NEG_SUB, 213, VEX_Vfnmsub213ss_xmm_xmm_xmmm32 VEX_Vfnmsub213sd_xmm_xmm_xmmm64);
    packed!(t, NEG_SUB, 231, VEX_Vfnmsub231ps_xmm_xmm_xmmm128 VEX_Vfnmsub231ps_ymm_ymm_ymmm256 VEX_Vfnmsub231pd_xmm_xmm_xmmm128 VEX_Vfnmsub231pd_ymm_ymm_ymmm256);
    scalar!(t, NEG_SUB, 231, VEX_Vfnmsub231ss_xmm_xmm_xmmm32 VEX_Vfnmsub231sd_xmm_xmm_xmmm64);
}

fn alternating(t: &mut Table) {
    packed!(t, ADD_SUB, 132, VEX_Vfmaddsub132ps_xmm_xmm_xmmm128 VEX_Vfmaddsub132ps_ymm_ymm_ymmm256 VEX_Vfmaddsub132pd_xmm_xmm_xmmm128 VEX_Vfmaddsub132pd_ymm_ymm_ymmm256);
    packed!(t, ADD_SUB, 213, VEX_Vfmaddsub213ps_xmm_xmm_xmmm128 VEX_Vfmaddsub213ps_ymm_ymm_ymmm256 VEX_Vfmaddsub213pd_xmm_xmm_xmmm128 VEX_Vfmaddsub213pd_ymm_ymm_ymmm256);
    packed!(t, ADD_SUB, 231, VEX_Vfmaddsub231ps_xmm_xmm_xmmm128 VEX_Vfmaddsub231ps_ymm_ymm_ymmm256 VEX_Vfmaddsub231pd_xmm_xmm_xmmm128 VEX_Vfmaddsub231pd_ymm_ymm_ymmm256);
    packed!(t, SUB_ADD, 132, VEX_Vfmsubadd132ps_xmm_xmm_xmmm128 VEX_Vfmsubadd132ps_ymm_ymm_ymmm256 VEX_Vfmsubadd132pd_xmm_xmm_xmmm128 VEX_Vfmsubadd132pd_ymm_ymm_ymmm256);
    packed!(t, SUB_ADD, 213, VEX_Vfmsubadd213ps_xmm_xmm_xmmm128 VEX_Vfmsubadd213ps_ymm_ymm_ymmm256 VEX_Vfmsubadd213pd_xmm_xmm_xmmm128 VEX_Vfmsubadd213pd_ymm_ymm_ymmm256);
    packed!(t, SUB_ADD, 231, VEX_Vfmsubadd231ps_xmm_xmm_xmmm128 VEX_Vfmsubadd231ps_ymm_ymm_ymmm256 VEX_Vfmsubadd231pd_xmm_xmm_xmmm128 VEX_Vfmsubadd231pd_ymm_ymm_ymmm256);
}

#[cfg(test)]
mod tests {
    use super::super::{VecOperands, execute};
    use iced_x86::Code as C;

    #[test]
    fn orders_and_signs() {
        let run = |code| {
            let mut ops = VecOperands::default();
            ops.dst[..8].copy_from_slice(&3.0f64.to_le_bytes());
            ops.src1[..8].copy_from_slice(&5.0f64.to_le_bytes());
            ops.src2[..8].copy_from_slice(&7.0f64.to_le_bytes());
            ops.dst[8..].fill(1);
            let mut mxcsr = 0x1F80;
            execute(code, &mut ops, &mut mxcsr).unwrap();
            assert_eq!(ops.dst[8..16], [1; 8]);
            assert_eq!(ops.dst[16..], [0; 48]);
            f64::from_le_bytes(ops.dst[..8].try_into().unwrap())
        };
        assert_eq!(run(C::VEX_Vfmadd132sd_xmm_xmm_xmmm64), 26.0);
        assert_eq!(run(C::VEX_Vfmsub213sd_xmm_xmm_xmmm64), 8.0);
        assert_eq!(run(C::VEX_Vfnmadd231sd_xmm_xmm_xmmm64), -32.0);
        assert_eq!(run(C::VEX_Vfnmsub132sd_xmm_xmm_xmmm64), -26.0);
    }
}
