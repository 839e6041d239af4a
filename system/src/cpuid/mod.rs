//! The CPU that guests see: a model is a set of features, and CPUID's leaves follow from it.

mod feature;
mod leaves;
mod parse;

use iced_x86::CpuidFeature;
use x86::{cr4, efer, xcr0};

pub use feature::{Feature, Features, Group, Row, Word};
pub use leaves::Dynamic;
pub use parse::ModelError;

/// What a guest finds when it asks for CPUID: fixed at start, the same on all software engines and all vCPUs.
#[derive(Clone, Debug)]
pub struct CpuModel {
    features: Features,
    maxphyaddr: u8,
    cpus: u32,
    tsc_hz: u64,
    crystal_hz: u64,
    /// TSC : crystal as numerator and denominator (CPUID 15h EBX, EAX).
    ratio: (u32, u32),
}

impl Default for CpuModel {
    /// The default model: `max`, all that engines implement and the host does fast.
    fn default() -> Self {
        let mut groups = vec![Group::Base, Group::V2, Group::V3, Group::Ext];
        if host_has_avx512() {
            groups.extend([Group::V4, Group::Ext4]);
        }
        Self::of_groups(&groups)
    }
}

/// Whether the host has all of AVX-512 that engines implement. Elsewhere crate `portable` runs it, so slowly that guests
/// are better off without: their libraries prefer it as soon as CPUID has it.
fn host_has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bitalg")
            && is_x86_feature_detected!("avx512vpopcntdq")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl CpuModel {
    /// The features of some groups; one CPU, a TSC of 1 GHz and a crystal of 25 MHz.
    fn of_groups(groups: &[Group]) -> Self {
        let mut features = Features::default();
        for row in Feature::TABLE
            .iter()
            .filter(|row| groups.contains(&row.group))
        {
            features.insert(row.feature);
        }
        let model = Self {
            features,
            maxphyaddr: 46,
            cpus: 1,
            tsc_hz: 0,
            crystal_hz: 0,
            ratio: (0, 0),
        };
        model.with_clock(1_000_000_000, 25_000_000)
    }

    /// The model that `--cpu` names: `MODEL,+feature,-feature...`, MODEL being `max` (also called `default`),
    /// `v1`, `v2`, `v3` or `v4`.
    /// A feature brings what it needs; without one, those that need it are gone too.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        parse::parse(text)
    }

    /// The same model in a machine of `cpus` logical processors (one thread a core, one package).
    #[must_use]
    pub fn with_cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus.max(1);
        self
    }

    /// The same model with the board's clocks: TSC and core crystal (also the APIC timer's input) in Hz.
    #[must_use]
    pub fn with_clock(mut self, tsc_hz: u64, crystal_hz: u64) -> Self {
        self.tsc_hz = tsc_hz;
        self.crystal_hz = crystal_hz;
        self.ratio = leaves::ratio(tsc_hz, crystal_hz);
        self
    }

    /// Whether the model has a feature.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// All features of the model.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// What the decoder calls the instruction-set extensions of this model; an instruction that needs another is #UD.
    pub fn features_iced(&self) -> Vec<CpuidFeature> {
        use CpuidFeature::{
            CPUID, INTEL186, INTEL286, INTEL386, INTEL486, INTEL8086, MULTIBYTENOP, PAUSE, RDPMC,
        };
        let always = [
            INTEL8086,
            INTEL186,
            INTEL286,
            INTEL386,
            INTEL486,
            CPUID,
            MULTIBYTENOP,
            PAUSE,
            RDPMC,
        ];
        let mut list = always.to_vec();
        list.extend(
            self.features
                .iter()
                .flat_map(|f| f.row().iced.iter().copied()),
        );
        list
    }

    /// Leaf 1 EAX: type, family, model, stepping; also EDX after RESET.
    pub fn signature(&self) -> u32 {
        x86::RESET_SIGNATURE as u32
    }

    /// Bits of a physical address.
    pub fn maxphyaddr(&self) -> u8 {
        self.maxphyaddr
    }

    /// Whether page-directory-pointer entries may map 1 GiB.
    pub fn gib_pages(&self) -> bool {
        self.has(Feature::Pdpe1gb)
    }

    /// Logical processors of the machine.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// IA32_ARCH_CAPABILITIES.
    pub fn arch_capabilities(&self) -> u64 {
        self.features.word(Word::ArchCap)
    }

    /// The bits that XCR0 may have.
    pub fn xcr0(&self) -> u64 {
        if !self.has(Feature::Xsave) {
            return 0;
        }
        let mut bits = xcr0::X87 | xcr0::SSE;
        if self.has(Feature::Avx) {
            bits |= xcr0::AVX;
        }
        if self.has(Feature::Avx512f) {
            bits |= xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM;
        }
        if self.has(Feature::Pku) {
            bits |= xcr0::PKRU;
        }
        bits
    }

    /// The bits that IA32_XSS may have.
    pub fn xss(&self) -> u64 {
        0
    }

    /// The bits that CR4 may have (SDM vol. 3, 2.5): those whose feature is there.
    pub fn cr4(&self) -> u64 {
        let pairs = [
            (Feature::Vme, cr4::VME | cr4::PVI),
            (Feature::Tsc, cr4::TSD),
            (Feature::De, cr4::DE),
            (Feature::Pse, cr4::PSE),
            (Feature::Pae, cr4::PAE),
            (Feature::Mce, cr4::MCE),
            (Feature::Pge, cr4::PGE),
            (Feature::Fxsr, cr4::OSFXSR),
            (Feature::Sse, cr4::OSXMMEXCPT),
            (Feature::Umip, cr4::UMIP),
            (Feature::La57, cr4::LA57),
            (Feature::Fsgsbase, cr4::FSGSBASE),
            (Feature::Pcid, cr4::PCIDE),
            (Feature::Xsave, cr4::OSXSAVE),
            (Feature::Smep, cr4::SMEP),
            (Feature::Smap, cr4::SMAP),
            (Feature::Pku, cr4::PKE),
        ];
        pairs
            .into_iter()
            .filter(|(f, _)| self.has(*f))
            .fold(cr4::PCE, |bits, (_, bit)| bits | bit)
    }

    /// The bits that EFER may have, LMA (read-only) included.
    pub fn efer(&self) -> u64 {
        let pairs = [
            (Feature::Syscall, efer::SCE),
            (Feature::Lm, efer::LME | efer::LMA),
            (Feature::Nx, efer::NXE),
        ];
        pairs
            .into_iter()
            .filter(|(f, _)| self.has(*f))
            .fold(0, |bits, (_, bit)| bits | bit)
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuModel, Feature};
    use iced_x86::CpuidFeature;

    #[test]
    fn the_default_model_is_v3_and_a_little_more() {
        let wide = CpuModel::default();
        assert_eq!(wide.has(Feature::Avx512f), super::host_has_avx512());
        assert_eq!(wide.has(Feature::Avx512vbmi2), wide.has(Feature::Avx512f));
        assert_eq!(
            wide.features_iced().contains(&CpuidFeature::AVX512F),
            wide.has(Feature::Avx512f)
        );
        let model = CpuModel::parse("default,-avx512f").expect("it exists");
        for f in [
            Feature::Sse42,
            Feature::Bmi2,
            Feature::Avx2,
            Feature::Fma,
            Feature::F16c,
            Feature::Vaes,
            Feature::Xsaves,
            Feature::Fsrm,
            Feature::Hypervisor,
            Feature::Invtsc,
        ] {
            assert!(model.has(f), "{f:?}");
        }
        for f in [
            Feature::Pku,
            Feature::La57,
            Feature::Avx512f,
            Feature::Monitor,
        ] {
            assert!(!model.has(f), "{f:?}");
        }
        let iced = model.features_iced();
        for f in [
            CpuidFeature::AES,
            CpuidFeature::X64,
            CpuidFeature::RDPID,
            CpuidFeature::INTEL386,
        ] {
            assert!(iced.contains(&f), "{f:?}");
        }
        assert!(iced.contains(&CpuidFeature::AVX));
        assert!(!iced.contains(&CpuidFeature::AVX512F));
        assert!(!iced.contains(&CpuidFeature::PKU));
    }

    #[test]
    fn control_registers_follow_the_features() {
        let model = CpuModel::parse("default,-avx512f").expect("it exists");
        assert_eq!(model.cr4(), 0x0037_0fff);
        assert_eq!(model.efer(), 0xd01);
        assert_eq!(model.xcr0(), 7);
        let all = CpuModel::parse("default,+avx512f,+pku,+la57").expect("all exist");
        assert_eq!(all.cr4(), 0x0077_1fff);
        assert_eq!(all.xcr0(), 0x2e7);
        let old = CpuModel::parse("default,-lm,-nx").expect("both exist");
        assert_eq!(old.efer(), 0);
        assert_eq!(old.cr4() & (x86::cr4::PCIDE | x86::cr4::FSGSBASE), 0);
    }

    #[test]
    fn linux_finds_no_hole() {
        // RDCL, IBRS, L1DFL, SSB, MDS, PSCHANGE, TAA, SBDR, FBSDP, PSDP, BHI, PBRSB, GDS, RFDS, ITS.
        assert_eq!(
            CpuModel::default().arch_capabilities(),
            0x4000_0000_0d10_e17b
        );
    }
}
