//! Which instruction-set extensions the guest's CPU has: an instruction of any other raises #UD.

use iced_x86::{Code, CpuidFeature};

/// A set of the decoder's CPUID features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Features([u64; 4]);

/// What every x86-64 CPU has.
const BASE: &[CpuidFeature] = {
    use CpuidFeature as F;
    &[
        F::INTEL8086,
        F::INTEL8086_ONLY,
        F::INTEL186,
        F::INTEL286,
        F::INTEL386,
        F::INTEL486,
        F::FPU,
        F::FPU287,
        F::FPU387,
        F::X64,
        F::CPUID,
        F::CX8,
        F::CMOV,
        F::MSR,
        F::TSC,
        F::RDPMC,
        F::MMX,
        F::FXSR,
        F::SSE,
        F::SSE2,
        F::CLFSH,
        F::SEP,
        F::SYSCALL,
        F::PAUSE,
        F::MULTIBYTENOP,
        F::PREFETCHW,
        F::PREFETCHWT1,
        F::CLDEMOTE,
        F::WBNOINVD,
        F::PREFETCHITI,
    ]
};

/// What the default model adds.
const V2_PLUS: &[CpuidFeature] = {
    use CpuidFeature as F;
    &[
        F::SSE3,
        F::SSSE3,
        F::SSE4_1,
        F::SSE4_2,
        F::POPCNT,
        F::CMPXCHG16B,
        F::BMI1,
        F::BMI2,
        F::LZCNT,
        F::ADX,
        F::MOVBE,
        F::RDRAND,
        F::RDSEED,
        F::RDPID,
        F::RDTSCP,
        F::FSGSBASE,
        F::XSAVE,
        F::XSAVEOPT,
        F::XSAVEC,
        F::XSAVES,
        F::AES,
        F::PCLMULQDQ,
        F::SHA,
        F::PKU,
        F::INVPCID,
        F::SMAP,
        F::CLFLUSHOPT,
        F::CLWB,
        F::MONITOR,
    ]
};

/// What x86-64-v3 adds to that, and vector extensions of its size.
const V3_PLUS: &[CpuidFeature] = {
    use CpuidFeature as F;
    &[
        F::AVX,
        F::AVX2,
        F::FMA,
        F::F16C,
        F::VAES,
        F::VPCLMULQDQ,
        F::GFNI,
    ]
};

/// What x86-64-v4 adds to that, and what else of AVX-512 the lifter lifts.
const V4_PLUS: &[CpuidFeature] = {
    use CpuidFeature as F;
    &[
        F::AVX512F,
        F::AVX512BW,
        F::AVX512CD,
        F::AVX512DQ,
        F::AVX512VL,
        F::AVX512_VBMI,
        F::AVX512_VBMI2,
        F::AVX512_IFMA,
        F::AVX512_VNNI,
        F::AVX512_BITALG,
        F::AVX512_VPOPCNTDQ,
    ]
};

impl Features {
    /// The set of the features in a list, beside what every x86-64 CPU has.
    pub fn new(list: &[CpuidFeature]) -> Self {
        let mut set = Self::default();
        for &feature in BASE.iter().chain(list) {
            set.set(feature, true);
        }
        set
    }

    /// x86-64-v2 plus BMI1/2, LZCNT, ADX, MOVBE, RDRAND/RDSEED, CMPXCHG16B, RDPID, FSGSBASE, the XSAVE family, AES,
    /// PCLMUL, SHA, PKU, INVPCID, SMAP, CLFLUSHOPT, CLWB, MONITOR.
    pub fn v2_plus() -> Self {
        Self::new(V2_PLUS)
    }

    /// That and AVX, AVX2, FMA, F16C, VAES, VPCLMULQDQ, GFNI.
    pub fn v3_plus() -> Self {
        let mut set = Self::v2_plus();
        for &feature in V3_PLUS {
            set.set(feature, true);
        }
        set
    }

    /// That and AVX-512.
    pub fn v4_plus() -> Self {
        let mut set = Self::v3_plus();
        for &feature in V4_PLUS {
            set.set(feature, true);
        }
        set
    }

    /// Adds or removes a feature.
    pub fn set(&mut self, feature: CpuidFeature, on: bool) {
        let (word, bit) = (feature as usize / 64, feature as usize % 64);
        if on {
            self.0[word] |= 1 << bit;
        } else {
            self.0[word] &= !(1 << bit);
        }
    }

    /// Whether the feature is there.
    pub fn has(&self, feature: CpuidFeature) -> bool {
        self.0[feature as usize / 64] >> (feature as usize % 64) & 1 != 0
    }

    /// Whether all that an instruction needs is there.
    pub fn allow(&self, code: Code) -> bool {
        code.cpuid_features().iter().all(|&f| self.has(f))
    }
}

#[cfg(test)]
mod tests {
    use super::Features;
    use iced_x86::{Code, CpuidFeature};

    #[test]
    fn every_feature_has_a_bit() {
        let last = CpuidFeature::values().last().expect("there are features");
        assert!((last as usize) < 256);
        let mut set = Features::default();
        for feature in CpuidFeature::values() {
            assert!(!set.has(feature));
            set.set(feature, true);
            assert!(set.has(feature));
            set.set(feature, false);
        }
        assert_eq!(set, Features::default());
    }

    #[test]
    fn v2_allows_sse_and_refuses_avx() {
        let features = Features::v2_plus();
        assert!(features.allow(Code::Pcmpestri_xmm_xmmm128_imm8));
        assert!(features.allow(Code::VEX_Pdep_r64_r64_rm64));
        assert!(!features.allow(Code::VEX_Vaddps_ymm_ymm_ymmm256));
        assert!(Features::v3_plus().allow(Code::VEX_Vaddps_ymm_ymm_ymmm256));
        assert!(!features.allow(Code::Vmcall));
        assert!(!features.allow(Code::Rsm));
    }
}
