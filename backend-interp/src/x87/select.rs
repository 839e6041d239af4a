//! Which instruction has which fast handler.

use iced_x86::Code;

use crate::code::Handler;

/// The handler of an instruction without a memory operand.
#[cfg(target_arch = "x86_64")]
pub fn register(code: Code) -> Option<Handler> {
    use super::handlers::register as run;
    use super::host::{Add, Div, DivR, Mul, Sub, SubR};
    use super::traits::{
        Compare, CompareFlags, Constant, Examine, Exchange, Free, LoadSti, Move, Rotate, Round,
        Sign, Sqrt, StatusToAx, StoreSti, Test, ToSti, ToTop,
    };
    Some(match code {
        Code::Fadd_st0_sti => run::<ToTop<Add>>,
        Code::Fmul_st0_sti => run::<ToTop<Mul>>,
        Code::Fsub_st0_sti => run::<ToTop<Sub>>,
        Code::Fsubr_st0_sti => run::<ToTop<SubR>>,
        Code::Fdiv_st0_sti => run::<ToTop<Div>>,
        Code::Fdivr_st0_sti => run::<ToTop<DivR>>,
        Code::Fadd_sti_st0 => run::<ToSti<Add, false>>,
        Code::Fmul_sti_st0 => run::<ToSti<Mul, false>>,
        Code::Fsub_sti_st0 => run::<ToSti<Sub, false>>,
        Code::Fsubr_sti_st0 => run::<ToSti<SubR, false>>,
        Code::Fdiv_sti_st0 => run::<ToSti<Div, false>>,
        Code::Fdivr_sti_st0 => run::<ToSti<DivR, false>>,
        Code::Faddp_sti_st0 => run::<ToSti<Add, true>>,
        Code::Fmulp_sti_st0 => run::<ToSti<Mul, true>>,
        Code::Fsubp_sti_st0 => run::<ToSti<Sub, true>>,
        Code::Fsubrp_sti_st0 => run::<ToSti<SubR, true>>,
        Code::Fdivp_sti_st0 => run::<ToSti<Div, true>>,
        Code::Fdivrp_sti_st0 => run::<ToSti<DivR, true>>,
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => run::<Compare<true, 0>>,
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => {
            run::<Compare<true, 1>>
        }
        Code::Fcompp => run::<Compare<true, 2>>,
        Code::Fucom_st0_sti => run::<Compare<false, 0>>,
        Code::Fucomp_st0_sti => run::<Compare<false, 1>>,
        Code::Fucompp => run::<Compare<false, 2>>,
        Code::Fcomi_st0_sti => run::<CompareFlags<true, false>>,
        Code::Fcomip_st0_sti => run::<CompareFlags<true, true>>,
        Code::Fucomi_st0_sti => run::<CompareFlags<false, false>>,
        Code::Fucomip_st0_sti => run::<CompareFlags<false, true>>,
        Code::Ftst => run::<Test>,
        Code::Fxam => run::<Examine>,
        Code::Fsqrt => run::<Sqrt>,
        Code::Frndint => run::<Round>,
        Code::Fchs => run::<Sign<true>>,
        Code::Fabs => run::<Sign<false>>,
        Code::Fld_sti => run::<LoadSti>,
        Code::Fst_sti => run::<StoreSti<false>>,
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => run::<StoreSti<true>>,
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => run::<Exchange>,
        Code::Fcmovb_st0_sti => run::<Move<2>>,
        Code::Fcmovnb_st0_sti => run::<Move<3>>,
        Code::Fcmove_st0_sti => run::<Move<4>>,
        Code::Fcmovne_st0_sti => run::<Move<5>>,
        Code::Fcmovbe_st0_sti => run::<Move<6>>,
        Code::Fcmovnbe_st0_sti => run::<Move<7>>,
        Code::Fcmovu_st0_sti => run::<Move<10>>,
        Code::Fcmovnu_st0_sti => run::<Move<11>>,
        Code::Fld1 => run::<Constant<0x3fff, 0x8000_0000_0000_0000>>,
        Code::Fldz => run::<Constant<0, 0>>,
        Code::Fldl2t => run::<Constant<0x4000, 0xd49a_784b_cd1b_8afe>>,
        Code::Fldl2e => run::<Constant<0x3fff, 0xb8aa_3b29_5c17_f0bc>>,
        Code::Fldpi => run::<Constant<0x4000, 0xc90f_daa2_2168_c235>>,
        Code::Fldlg2 => run::<Constant<0x3ffd, 0x9a20_9a84_fbcf_f799>>,
        Code::Fldln2 => run::<Constant<0x3ffe, 0xb172_17f7_d1cf_79ac>>,
        Code::Fincstp => run::<Rotate<1>>,
        Code::Fdecstp => run::<Rotate<7>>,
        Code::Ffree_sti => run::<Free<false>>,
        Code::Ffreep_sti => run::<Free<true>>,
        Code::Fnstsw_AX => run::<StatusToAx>,
        _ => return None,
    })
}

/// The handler of an instruction that reads memory.
#[cfg(target_arch = "x86_64")]
pub fn from_memory(code: Code) -> Option<Handler> {
    use super::handlers::{from_memory as run, load_control};
    use super::host::{Add, Div, DivR, Mul, Sub, SubR};
    use super::traits::{
        ArithI16, ArithI32, ArithM32, ArithM64, CompareI16, CompareI32, CompareM32, CompareM64,
        LoadI16, LoadI32, LoadI64, LoadM32, LoadM64, LoadM80,
    };
    Some(match code {
        Code::Fadd_m32fp => run::<ArithM32<Add>>,
        Code::Fmul_m32fp => run::<ArithM32<Mul>>,
        Code::Fsub_m32fp => run::<ArithM32<Sub>>,
        Code::Fsubr_m32fp => run::<ArithM32<SubR>>,
        Code::Fdiv_m32fp => run::<ArithM32<Div>>,
        Code::Fdivr_m32fp => run::<ArithM32<DivR>>,
        Code::Fadd_m64fp => run::<ArithM64<Add>>,
        Code::Fmul_m64fp => run::<ArithM64<Mul>>,
        Code::Fsub_m64fp => run::<ArithM64<Sub>>,
        Code::Fsubr_m64fp => run::<ArithM64<SubR>>,
        Code::Fdiv_m64fp => run::<ArithM64<Div>>,
        Code::Fdivr_m64fp => run::<ArithM64<DivR>>,
        Code::Fiadd_m16int => run::<ArithI16<Add>>,
        Code::Fimul_m16int => run::<ArithI16<Mul>>,
        Code::Fisub_m16int => run::<ArithI16<Sub>>,
        Code::Fisubr_m16int => run::<ArithI16<SubR>>,
        Code::Fidiv_m16int => run::<ArithI16<Div>>,
        Code::Fidivr_m16int => run::<ArithI16<DivR>>,
        Code::Fiadd_m32int => run::<ArithI32<Add>>,
        Code::Fimul_m32int => run::<ArithI32<Mul>>,
        Code::Fisub_m32int => run::<ArithI32<Sub>>,
        Code::Fisubr_m32int => run::<ArithI32<SubR>>,
        Code::Fidiv_m32int => run::<ArithI32<Div>>,
        Code::Fidivr_m32int => run::<ArithI32<DivR>>,
        Code::Fcom_m32fp => run::<CompareM32<false>>,
        Code::Fcomp_m32fp => run::<CompareM32<true>>,
        Code::Fcom_m64fp => run::<CompareM64<false>>,
        Code::Fcomp_m64fp => run::<CompareM64<true>>,
        Code::Ficom_m16int => run::<CompareI16<false>>,
        Code::Ficomp_m16int => run::<CompareI16<true>>,
        Code::Ficom_m32int => run::<CompareI32<false>>,
        Code::Ficomp_m32int => run::<CompareI32<true>>,
        Code::Fld_m32fp => run::<LoadM32>,
        Code::Fld_m64fp => run::<LoadM64>,
        Code::Fld_m80fp => run::<LoadM80>,
        Code::Fild_m16int => run::<LoadI16>,
        Code::Fild_m32int => run::<LoadI32>,
        Code::Fild_m64int => run::<LoadI64>,
        Code::Fldcw_m2byte => load_control,
        _ => return None,
    })
}

/// The handler of an instruction that stores.
#[cfg(target_arch = "x86_64")]
pub fn to_memory(code: Code) -> Option<Handler> {
    use super::handlers::{store_control, store_status, to_memory as run};
    use super::traits::{
        ChopI16, ChopI32, ChopI64, StoreI16, StoreI32, StoreI64, StoreM32, StoreM64, StoreM80,
    };
    Some(match code {
        Code::Fst_m32fp => run::<StoreM32<false>>,
        Code::Fstp_m32fp => run::<StoreM32<true>>,
        Code::Fst_m64fp => run::<StoreM64<false>>,
        Code::Fstp_m64fp => run::<StoreM64<true>>,
        Code::Fstp_m80fp => run::<StoreM80<true>>,
        Code::Fist_m16int => run::<StoreI16<false>>,
        Code::Fistp_m16int => run::<StoreI16<true>>,
        Code::Fist_m32int => run::<StoreI32<false>>,
        Code::Fistp_m32int => run::<StoreI32<true>>,
        Code::Fistp_m64int => run::<StoreI64<true>>,
        Code::Fisttp_m16int if is_x86_feature_detected!("sse3") => run::<ChopI16<true>>,
        Code::Fisttp_m32int if is_x86_feature_detected!("sse3") => run::<ChopI32<true>>,
        Code::Fisttp_m64int if is_x86_feature_detected!("sse3") => run::<ChopI64<true>>,
        Code::Fnstcw_m2byte => store_control,
        Code::Fnstsw_m2byte => store_status,
        _ => return None,
    })
}

/// There is none on other hosts.
#[cfg(not(target_arch = "x86_64"))]
pub fn register(_code: Code) -> Option<Handler> {
    None
}

/// There is none on other hosts.
#[cfg(not(target_arch = "x86_64"))]
pub fn from_memory(_code: Code) -> Option<Handler> {
    None
}

/// There is none on other hosts.
#[cfg(not(target_arch = "x86_64"))]
pub fn to_memory(_code: Code) -> Option<Handler> {
    None
}
