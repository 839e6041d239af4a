//! The feature table: every CPUID feature bit that Doppel knows, its place, its models and what it needs.

use iced_x86::CpuidFeature;

/// Where a feature's bit is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "leaf, subleaf and register are in the names")]
pub enum Word {
    L1Edx,
    L1Ecx,
    L6Eax,
    L7Ebx,
    L7Ecx,
    L7Edx,
    L7s1Eax,
    L7s2Edx,
    LDs1Eax,
    E1Ecx,
    E1Edx,
    E7Edx,
    /// IA32_ARCH_CAPABILITIES (MSR 10Ah).
    ArchCap,
}

/// Which models have a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// All: the x86-64 baseline and what only system software sees.
    Base,
    /// `v2` and better.
    V2,
    /// `v3` and better.
    V3,
    /// The largest model, `max`, which is the default.
    Ext,
    /// `v4`; `max` where the host has all of AVX-512 that is here.
    V4,
    /// `max` where it has `V4`.
    Ext4,
    /// None; `+name` switches it on.
    Off,
    /// None: it isn't built yet.
    Later,
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// The feature.
    pub feature: Feature,
    /// Its name on the command line; `-`, `_` and `.` don't count when names are compared.
    pub name: &'static str,
    /// Other names that Linux or qemu have for it.
    pub aliases: &'static [&'static str],
    /// Where it is reported.
    pub word: Word,
    /// Which bit.
    pub bit: u32,
    /// Which models have it.
    pub group: Group,
    /// What it can't be without.
    pub needs: &'static [Feature],
    /// What the decoder calls it.
    pub iced: &'static [CpuidFeature],
}

macro_rules! features {
    ($( $feature:ident $name:literal $(/ $alias:literal)* : $word:ident $bit:literal $group:ident
        $(needs $($need:ident)+)? $(; $($iced:ident)+)? ,)*) => {
        /// A CPUID feature (SDM vol. 2, CPUID) or a bit of IA32_ARCH_CAPABILITIES.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are the manual's")]
        pub enum Feature { $( $feature, )* }

        impl Feature {
            /// The table, in the order of the features.
            pub const TABLE: &'static [Row] = &[$(
                Row {
                    feature: Feature::$feature,
                    name: $name,
                    aliases: &[$($alias),*],
                    word: Word::$word,
                    bit: $bit,
                    group: Group::$group,
                    needs: &[$($(Feature::$need),+)?],
                    iced: &[$($(CpuidFeature::$iced),+)?],
                },
            )*];
        }
    };
}

features! {
    Fpu "fpu": L1Edx 0 Base; FPU FPU287 FPU387,
    Vme "vme": L1Edx 1 Base,
    De "de": L1Edx 2 Base,
    Pse "pse": L1Edx 3 Base,
    Tsc "tsc": L1Edx 4 Base; TSC,
    Msr "msr": L1Edx 5 Base; MSR,
    Pae "pae": L1Edx 6 Base,
    Mce "mce": L1Edx 7 Base,
    Cx8 "cx8": L1Edx 8 Base; CX8,
    Apic "apic": L1Edx 9 Base needs Msr,
    Sep "sep": L1Edx 11 Base needs Msr; SEP,
    Mtrr "mtrr": L1Edx 12 Base needs Msr,
    Pge "pge": L1Edx 13 Base,
    Mca "mca": L1Edx 14 Base needs Msr Mce,
    Cmov "cmov": L1Edx 15 Base; CMOV,
    Pat "pat": L1Edx 16 Base needs Msr,
    Pse36 "pse36": L1Edx 17 Base needs Pse,
    Clflush "clflush" / "clfsh": L1Edx 19 Base; CLFSH,
    Mmx "mmx": L1Edx 23 Base needs Fpu; MMX,
    Fxsr "fxsr": L1Edx 24 Base needs Fpu; FXSR,
    Sse "sse": L1Edx 25 Base needs Fxsr Mmx; SSE,
    Sse2 "sse2": L1Edx 26 Base needs Sse; SSE2,
    SelfSnoop "ss" / "selfsnoop": L1Edx 27 Base,

    Sse3 "sse3" / "pni": L1Ecx 0 V2 needs Sse2; SSE3,
    Pclmulqdq "pclmulqdq" / "pclmul": L1Ecx 1 Ext needs Sse2; PCLMULQDQ,
    Monitor "monitor" / "mwait": L1Ecx 3 Off; MONITOR,
    Ssse3 "ssse3": L1Ecx 9 V2 needs Sse3; SSSE3,
    Fma "fma": L1Ecx 12 V3 needs Avx; FMA,
    Cx16 "cx16" / "cmpxchg16b": L1Ecx 13 V2 needs Lm; CMPXCHG16B,
    Pcid "pcid": L1Ecx 17 Base needs Lm,
    Sse41 "sse4_1": L1Ecx 19 V2 needs Ssse3; SSE4_1,
    Sse42 "sse4_2": L1Ecx 20 V2 needs Sse41; SSE4_2,
    X2apic "x2apic": L1Ecx 21 Base needs Apic,
    Movbe "movbe": L1Ecx 22 V3; MOVBE,
    Popcnt "popcnt": L1Ecx 23 V2; POPCNT,
    TscDeadline "tsc-deadline" / "tsc_deadline_timer": L1Ecx 24 Base needs Apic Tsc,
    Aes "aes": L1Ecx 25 Ext needs Sse2; AES,
    Xsave "xsave": L1Ecx 26 Base needs Fxsr; XSAVE,
    Avx "avx": L1Ecx 28 V3 needs Xsave Sse42; AVX,
    F16c "f16c": L1Ecx 29 V3 needs Avx; F16C,
    Rdrand "rdrand" / "rdrnd": L1Ecx 30 Ext; RDRAND,
    Hypervisor "hypervisor": L1Ecx 31 Base,

    Arat "arat": L6Eax 2 Base needs Apic,

    Fsgsbase "fsgsbase": L7Ebx 0 Base needs Lm; FSGSBASE,
    TscAdjust "tsc_adjust": L7Ebx 1 Base needs Tsc Msr,
    Bmi1 "bmi1": L7Ebx 3 V3; BMI1,
    Avx2 "avx2": L7Ebx 5 V3 needs Avx; AVX2,
    Smep "smep": L7Ebx 7 Base,
    Bmi2 "bmi2": L7Ebx 8 V3; BMI2,
    Erms "erms": L7Ebx 9 Base,
    Invpcid "invpcid": L7Ebx 10 Base; INVPCID,
    ZeroFcsFds "zero-fcs-fds" / "fcs_fds_deprecated": L7Ebx 13 Base,
    Avx512f "avx512f": L7Ebx 16 V4 needs Avx2 Fma F16c; AVX512F,
    Avx512dq "avx512dq": L7Ebx 17 V4 needs Avx512f; AVX512DQ,
    Rdseed "rdseed": L7Ebx 18 Ext; RDSEED,
    Adx "adx": L7Ebx 19 Ext; ADX,
    Smap "smap": L7Ebx 20 Base; SMAP,
    Avx512ifma "avx512ifma": L7Ebx 21 Ext4 needs Avx512f; AVX512_IFMA,
    Clflushopt "clflushopt": L7Ebx 23 Base; CLFLUSHOPT,
    Clwb "clwb": L7Ebx 24 Base; CLWB,
    Avx512cd "avx512cd": L7Ebx 28 V4 needs Avx512f; AVX512CD,
    Sha "sha-ni" / "sha": L7Ebx 29 Ext needs Sse2; SHA,
    Avx512bw "avx512bw": L7Ebx 30 V4 needs Avx512f; AVX512BW,
    Avx512vl "avx512vl": L7Ebx 31 V4 needs Avx512f; AVX512VL,

    Avx512vbmi "avx512vbmi": L7Ecx 1 Ext4 needs Avx512bw; AVX512_VBMI,
    Umip "umip": L7Ecx 2 Base,
    Pku "pku": L7Ecx 3 Off needs Lm Xsave; PKU,
    Avx512vbmi2 "avx512vbmi2": L7Ecx 6 Ext4 needs Avx512bw; AVX512_VBMI2,
    Gfni "gfni": L7Ecx 8 Ext needs Sse2; GFNI,
    Vaes "vaes": L7Ecx 9 Ext needs Avx2 Aes; VAES,
    Vpclmulqdq "vpclmulqdq": L7Ecx 10 Ext needs Avx2 Pclmulqdq; VPCLMULQDQ,
    Avx512vnni "avx512vnni": L7Ecx 11 Ext4 needs Avx512f; AVX512_VNNI,
    Avx512bitalg "avx512bitalg": L7Ecx 12 Ext4 needs Avx512bw; AVX512_BITALG,
    Avx512vpopcntdq "avx512-vpopcntdq": L7Ecx 14 Ext4 needs Avx512f; AVX512_VPOPCNTDQ,
    La57 "la57": L7Ecx 16 Off needs Lm,
    Rdpid "rdpid": L7Ecx 22 Ext; RDPID,

    Fsrm "fsrm": L7Edx 4 Base needs Erms,
    Avx512vp2intersect "avx512-vp2intersect": L7Edx 8 Later needs Avx512f; AVX512_VP2INTERSECT,
    SpecCtrl "spec-ctrl" / "ibrs" / "ibpb": L7Edx 26 Base needs Msr,
    Stibp "stibp" / "intel-stibp": L7Edx 27 Base needs SpecCtrl,
    FlushL1d "flush-l1d": L7Edx 28 Base needs Msr,
    ArchCapabilities "arch-capabilities": L7Edx 29 Base needs Msr,
    Ssbd "ssbd": L7Edx 31 Base needs SpecCtrl,
    BhiCtrl "bhi-ctrl": L7s2Edx 4 Base needs SpecCtrl,

    AvxVnni "avx-vnni": L7s1Eax 4 Later needs Avx2; AVX_VNNI,
    Avx512Bf16 "avx512-bf16": L7s1Eax 5 Later needs Avx512bw; AVX512_BF16,

    Xsaveopt "xsaveopt": LDs1Eax 0 Base needs Xsave; XSAVEOPT,
    Xsavec "xsavec": LDs1Eax 1 Base needs Xsave; XSAVEC,
    Xgetbv1 "xgetbv1": LDs1Eax 2 Base needs Xsave,
    Xsaves "xsaves": LDs1Eax 3 Base needs Xsavec Msr; XSAVES,

    LahfLm "lahf-lm": E1Ecx 0 V2 needs Lm,
    Lzcnt "lzcnt" / "abm": E1Ecx 5 V3; LZCNT,
    Prefetchw "prefetchw" / "3dnowprefetch": E1Ecx 8 Base; PREFETCHW,
    Syscall "syscall": E1Edx 11 Base needs Lm; SYSCALL,
    Nx "nx" / "xd": E1Edx 20 Base needs Pae Msr,
    Pdpe1gb "pdpe1gb" / "1gb-pages": E1Edx 26 Base needs Lm,
    Rdtscp "rdtscp": E1Edx 27 Base needs Tsc Msr; RDTSCP,
    Lm "lm": E1Edx 29 Base needs Pae Msr Tsc Cx8 Cmov Sse2 Pge; X64,
    Invtsc "invtsc" / "nonstop_tsc" / "constant_tsc": E7Edx 8 Base needs Tsc,

    RdclNo "rdctl-no": ArchCap 0 Base needs ArchCapabilities,
    IbrsAll "ibrs-all": ArchCap 1 Base needs ArchCapabilities SpecCtrl,
    SkipL1dfl "skip-l1dfl-vmentry": ArchCap 3 Base needs ArchCapabilities,
    SsbNo "ssb-no": ArchCap 4 Base needs ArchCapabilities,
    MdsNo "mds-no": ArchCap 5 Base needs ArchCapabilities,
    PschangeMcNo "pschange-mc-no": ArchCap 6 Base needs ArchCapabilities,
    TaaNo "taa-no": ArchCap 8 Base needs ArchCapabilities,
    SbdrSsdpNo "sbdr-ssdp-no": ArchCap 13 Base needs ArchCapabilities,
    FbsdpNo "fbsdp-no": ArchCap 14 Base needs ArchCapabilities,
    PsdpNo "psdp-no": ArchCap 15 Base needs ArchCapabilities,
    BhiNo "bhi-no": ArchCap 20 Base needs ArchCapabilities,
    PbrsbNo "pbrsb-no": ArchCap 24 Base needs ArchCapabilities,
    GdsNo "gds-no": ArchCap 26 Base needs ArchCapabilities,
    RfdsNo "rfds-no": ArchCap 27 Base needs ArchCapabilities,
    ItsNo "its-no": ArchCap 62 Base needs ArchCapabilities,
}

impl Feature {
    /// Its row.
    pub fn row(self) -> &'static Row {
        &Self::TABLE[self as usize]
    }
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features([u64; 4]);

const _: () = assert!(Feature::TABLE.len() <= 256);

impl Features {
    /// Whether the feature is in the set.
    pub fn has(&self, feature: Feature) -> bool {
        self.0[feature as usize / 64] >> (feature as usize % 64) & 1 != 0
    }

    /// Puts a feature and what it needs into the set.
    pub fn insert(&mut self, feature: Feature) {
        if !self.has(feature) {
            self.0[feature as usize / 64] |= 1 << (feature as usize % 64);
            for need in feature.row().needs {
                self.insert(*need);
            }
        }
    }

    /// Takes a feature and all that need it out of the set.
    pub fn remove(&mut self, feature: Feature) {
        if self.has(feature) {
            self.0[feature as usize / 64] &= !(1 << (feature as usize % 64));
            for row in Feature::TABLE
                .iter()
                .filter(|row| row.needs.contains(&feature))
            {
                self.remove(row.feature);
            }
        }
    }

    /// The features in table order.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        Feature::TABLE
            .iter()
            .map(|row| row.feature)
            .filter(|f| self.has(*f))
    }

    /// The bits that the set's features have in a word.
    pub fn word(&self, word: Word) -> u64 {
        self.iter()
            .map(Feature::row)
            .filter(|row| row.word == word)
            .fold(0, |bits, row| bits | 1 << row.bit)
    }
}

impl std::fmt::Debug for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|feature| feature.row().name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Feature, Features, Group};
    use std::collections::HashSet;

    #[test]
    fn rows_are_in_order_and_unique() {
        let mut names = HashSet::new();
        let mut places = HashSet::new();
        for (i, row) in Feature::TABLE.iter().enumerate() {
            assert_eq!(row.feature as usize, i);
            for name in row.aliases.iter().chain([&row.name]) {
                assert!(names.insert(*name), "{name}");
            }
            assert!(
                places.insert(format!("{:?} {}", row.word, row.bit)),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn a_model_holds_what_its_features_need() {
        let rank = |group| match group {
            Group::Base => 0,
            Group::V2 => 1,
            Group::V3 => 2,
            Group::V4 => 3,
            Group::Ext => 4,
            Group::Ext4 => 5,
            Group::Off => 6,
            Group::Later => 7,
        };
        for row in Feature::TABLE {
            for need in row.needs {
                assert!(
                    rank(need.row().group) <= rank(row.group),
                    "{} needs {need:?}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn needs_are_followed_both_ways() {
        let mut set = Features::default();
        set.insert(Feature::Xsaves);
        for f in [
            Feature::Xsaves,
            Feature::Xsavec,
            Feature::Xsave,
            Feature::Fxsr,
            Feature::Fpu,
            Feature::Msr,
        ] {
            assert!(set.has(f), "{f:?}");
        }
        assert_eq!(set.iter().count(), 6);
        set.remove(Feature::Fpu);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Feature::Msr]);
    }
}
