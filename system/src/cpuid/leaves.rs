//! CPUID's leaves, computed from the model and the few bits that change while a vCPU runs (SDM vol. 2, CPUID).

use x86::{cr4, msr, xcr0};

use super::{CpuModel, Feature, Word};
use crate::Vcpu;
use crate::images::layout;

/// The highest basic leaf.
const MAX_BASIC: u32 = 0x1f;
/// The highest extended leaf.
const MAX_EXTENDED: u32 = 0x8000_0008;
/// The highest hypervisor leaf.
const MAX_HYPERVISOR: u32 = 0x4000_0010;
/// Bytes of a cache line.
const LINE: u32 = 64;

/// What CPUID depends on beside the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dynamic {
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// CR4.PKE.
    pub ospke: bool,
    /// IA32_APIC_BASE.EN.
    pub apic_enabled: bool,
    /// 64-bit code asks: only then Intel reports SYSCALL.
    pub code64: bool,
    /// IA32_MISC_ENABLE's "XD bit disable" is set.
    pub xd_disabled: bool,
    /// IA32_MISC_ENABLE's "limit CPUID maxval" is set.
    pub limited: bool,
    /// The vCPU's x2APIC id.
    pub apic_id: u32,
    /// XCR0 as it is now.
    pub xcr0: u64,
    /// IA32_XSS as it is now.
    pub xss: u64,
}

impl Dynamic {
    /// What the vCPU's state says.
    pub fn of(v: &Vcpu) -> Self {
        let base = v
            .platform
            .apic_msr_read(v.index, msr::APIC_BASE)
            .unwrap_or(0);
        Self {
            osxsave: v.st.cr4 & cr4::OSXSAVE != 0,
            ospke: v.st.cr4 & cr4::PKE != 0,
            apic_enabled: base & 1 << 11 != 0,
            code64: v.st.code64(),
            xd_disabled: v.st.msr.misc_enable & 1 << 34 != 0,
            limited: v.st.msr.misc_enable & 1 << 22 != 0,
            apic_id: v.index as u32,
            xcr0: v.st.xcr0,
            xss: v.st.msr.xss,
        }
    }
}

/// The TSC's rate as a multiple of the crystal's: numerator and denominator.
///
/// Guests compute crystal kHz * numerator in 32 bits (Linux), which bounds the denominator.
pub fn ratio(tsc_hz: u64, crystal_hz: u64) -> (u32, u32) {
    let (tsc, crystal) = (u128::from(tsc_hz), u128::from(crystal_hz.max(1)));
    let limit = (u128::from(u32::MAX) / (tsc / 1000 + 1)).clamp(1, 4096) as u32;
    let candidate = |denominator: u32| {
        let exact = tsc * u128::from(denominator);
        let numerator = (exact + crystal / 2) / crystal;
        // The error in Hz, scaled so that different denominators compare.
        let error = (numerator * crystal).abs_diff(exact) * 1_000_000 / u128::from(denominator);
        (
            error,
            denominator,
            u32::try_from(numerator).unwrap_or(u32::MAX),
        )
    };
    let (_, denominator, numerator) = (1..=limit).map(candidate).min().unwrap_or((0, 1, 1));
    (numerator, denominator)
}

/// Four registers from a text of 16 bytes.
fn text(bytes: &[u8; 16]) -> [u32; 4] {
    std::array::from_fn(|i| {
        u32::from_le_bytes([
            bytes[i * 4],
            bytes[i * 4 + 1],
            bytes[i * 4 + 2],
            bytes[i * 4 + 3],
        ])
    })
}

const BRAND: &[u8; 48] =
    b"Doppel Virtual CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A cache as leaf 4 describes it; `sharing` is how many APIC ids share it.
fn cache(kind: u32, level: u32, ways: u32, sets: u32, sharing: u32, ids: u32) -> [u32; 4] {
    let eax =
        kind | level << 5 | 1 << 8 | (sharing - 1).min(0xfff) << 14 | (ids - 1).min(0x3f) << 26;
    let inclusive = u32::from(level == 3) << 1;
    [eax, (ways - 1) << 22 | (LINE - 1), sets - 1, inclusive]
}

impl CpuModel {
    /// EAX, EBX, ECX, EDX of a leaf. A leaf beyond the last is the last basic one, as on Intel's.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, dynamic: &Dynamic) -> [u32; 4] {
        match leaf {
            0x8000_0000..=MAX_EXTENDED => self.extended(leaf, dynamic),
            0x4000_0000..=MAX_HYPERVISOR if self.has(Feature::Hypervisor) => self.hypervisor(leaf),
            0..=MAX_BASIC => self.basic(leaf, subleaf, dynamic),
            _ => self.basic(MAX_BASIC, subleaf, dynamic),
        }
    }

    fn word(&self, word: Word) -> u32 {
        self.features().word(word) as u32
    }

    /// APIC ids that the package needs: the next power of two.
    fn ids(&self) -> u32 {
        self.cpus().checked_next_power_of_two().unwrap_or(1 << 31)
    }

    fn basic(&self, leaf: u32, subleaf: u32, dynamic: &Dynamic) -> [u32; 4] {
        match leaf {
            0 => {
                let max = if dynamic.limited { 2 } else { MAX_BASIC };
                let [a, b, c, _] = text(b"GenuineIntel\0\0\0\0");
                [max, a, c, b]
            }
            1 => self.version(dynamic),
            // One round; all caches are told in leaf 4.
            2 => [0xff01, 0, 0, 0],
            4 => match subleaf {
                0 => cache(1, 1, 8, 64, 1, self.ids()),
                1 => cache(2, 1, 8, 64, 1, self.ids()),
                2 => cache(3, 2, 8, 2048, 1, self.ids()),
                3 => cache(3, 3, 16, 16384, self.ids(), self.ids()),
                _ => [0; 4],
            },
            5 if self.has(Feature::Monitor) => [LINE, LINE, 3, 0],
            6 => [self.word(Word::L6Eax), 0, 0, 0],
            7 => match subleaf {
                0 => {
                    let max = if self.word(Word::L7s2Edx) != 0 {
                        2
                    } else {
                        u32::from(self.word(Word::L7s1Eax) != 0)
                    };
                    let ospke = u32::from(dynamic.ospke) << 4;
                    [
                        max,
                        self.word(Word::L7Ebx),
                        self.word(Word::L7Ecx) | ospke,
                        self.word(Word::L7Edx),
                    ]
                }
                1 => [self.word(Word::L7s1Eax), 0, 0, 0],
                2 => [0, 0, 0, self.word(Word::L7s2Edx)],
                _ => [0; 4],
            },
            0xb | 0x1f => {
                let bits = self.ids().trailing_zeros();
                match subleaf {
                    0 => [0, 1, 1 << 8, dynamic.apic_id],
                    1 => [bits, self.cpus() & 0xffff, 1 | 2 << 8, dynamic.apic_id],
                    n => [0, 0, n & 0xff, dynamic.apic_id],
                }
            }
            0xd if self.has(Feature::Xsave) => self.xstate(subleaf, dynamic),
            0x15 => {
                let (numerator, denominator) = self.ratio;
                [
                    denominator,
                    numerator,
                    u32::try_from(self.crystal_hz).unwrap_or(u32::MAX),
                    0,
                ]
            }
            0x16 => {
                let mhz = u32::try_from((self.tsc_hz + 500_000) / 1_000_000)
                    .unwrap_or(0xffff)
                    .min(0xffff);
                [mhz, mhz, 100, 0]
            }
            _ => [0; 4],
        }
    }

    fn version(&self, dynamic: &Dynamic) -> [u32; 4] {
        let ids = self.ids().min(0xff);
        let ebx = (LINE / 8) << 8 | ids << 16 | (dynamic.apic_id & 0xff) << 24;
        let ecx = self.word(Word::L1Ecx) | u32::from(dynamic.osxsave) << 27;
        let mut edx = self.word(Word::L1Edx) | u32::from(self.cpus() > 1) << 28;
        if !dynamic.apic_enabled {
            edx &= !(1 << 9);
        }
        [self.signature(), ebx, ecx, edx]
    }

    fn xstate(&self, subleaf: u32, dynamic: &Dynamic) -> [u32; 4] {
        let halves = |bits: u64| (bits as u32, (bits >> 32) as u32);
        match subleaf {
            0 => {
                let (low, high) = halves(self.xcr0());
                [
                    low,
                    layout::standard_size(dynamic.xcr0),
                    layout::standard_size(self.xcr0()),
                    high,
                ]
            }
            1 => {
                let (low, high) = halves(self.xss());
                let size = if self.has(Feature::Xsavec) {
                    layout::compacted_size((dynamic.xcr0 | dynamic.xss) & !(xcr0::X87 | xcr0::SSE))
                } else {
                    0
                };
                [self.word(Word::LDs1Eax), size, low, high]
            }
            n => match layout::by_number(n).filter(|c| (self.xcr0() | self.xss()) & c.bit() != 0) {
                Some(c) => {
                    let supervisor = u32::from(self.xss() & c.bit() != 0);
                    [
                        c.size,
                        if supervisor != 0 { 0 } else { c.offset },
                        supervisor | u32::from(c.aligned) << 1,
                        0,
                    ]
                }
                None => [0; 4],
            },
        }
    }

    fn hypervisor(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x4000_0000 => {
                let [a, b, c, _] = text(b"DoppelDoppel\0\0\0\0");
                [MAX_HYPERVISOR, a, b, c]
            }
            // The convention that several hypervisors share: TSC and APIC timer in kHz.
            MAX_HYPERVISOR => {
                let khz = |hz: u64| u32::try_from(hz / 1000).unwrap_or(u32::MAX);
                [khz(self.tsc_hz), khz(self.crystal_hz), 0, 0]
            }
            _ => [0; 4],
        }
    }

    fn extended(&self, leaf: u32, dynamic: &Dynamic) -> [u32; 4] {
        match leaf {
            0x8000_0000 => [MAX_EXTENDED, 0, 0, 0],
            0x8000_0001 => {
                let mut edx = self.word(Word::E1Edx);
                if !dynamic.code64 {
                    edx &= !(1 << 11);
                }
                if dynamic.xd_disabled {
                    edx &= !(1 << 20);
                }
                [0, 0, self.word(Word::E1Ecx), edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf - 0x8000_0002) as usize * 16;
                text(&std::array::from_fn(|i| BRAND[at + i]))
            }
            // L2: 1 MiB, 8 ways.
            0x8000_0006 => [0, 0, 1024 << 16 | 6 << 12 | LINE, 0],
            0x8000_0007 => [0, 0, 0, self.word(Word::E7Edx)],
            0x8000_0008 => {
                let linear = if !self.has(Feature::Lm) {
                    32
                } else if self.has(Feature::La57) {
                    57
                } else {
                    48
                };
                [u32::from(self.maxphyaddr()) | linear << 8, 0, 0, 0]
            }
            _ => [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Dynamic, ratio};
    use crate::cpuid::CpuModel;

    fn leaf(model: &CpuModel, leaf: u32, subleaf: u32) -> [u32; 4] {
        model.cpuid(
            leaf,
            subleaf,
            &Dynamic {
                apic_enabled: true,
                xcr0: 3,
                ..Dynamic::default()
            },
        )
    }

    fn ascii(regs: &[u32]) -> String {
        regs.iter()
            .flat_map(|r| r.to_le_bytes())
            .map(char::from)
            .filter(|c| *c != '\0')
            .collect()
    }

    #[test]
    fn vendor_and_brand() {
        let m = CpuModel::default();
        let [max, b, c, d] = leaf(&m, 0, 0);
        assert_eq!((max, ascii(&[b, d, c]).as_str()), (0x1f, "GenuineIntel"));
        assert_eq!(ascii(&leaf(&m, 0x4000_0000, 0)[1..]), "DoppelDoppel");
        let brand: Vec<u32> = (2..5).flat_map(|n| leaf(&m, 0x8000_0000 + n, 0)).collect();
        assert_eq!(ascii(&brand), "Doppel Virtual CPU");
    }

    #[test]
    fn version_and_features() {
        let m = CpuModel::default().with_cpus(3);
        let id = |d: Dynamic| m.cpuid(1, 0, &d);
        let [a, b, c, d] = id(Dynamic {
            apic_id: 2,
            apic_enabled: true,
            osxsave: true,
            ..Dynamic::default()
        });
        assert_eq!((a, b), (0xf06f0, 0x0204_0800));
        // SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES XSAVE OSXSAVE AVX F16C RDRAND
        // HV.
        assert_eq!(c, 0xfffa_3203);
        // All but PSN, DS, ACPI, SS's neighbours; HT because there are three.
        assert_eq!(d, 0x1f8b_fbff);
        let [_, _, c, d] = id(Dynamic::default());
        assert_eq!(c >> 27 & 1, 0);
        assert_eq!(d >> 9 & 1, 0);
        assert_eq!(leaf(&CpuModel::default(), 1, 0)[3] >> 28 & 1, 0);
    }

    #[test]
    fn structured_features() {
        let m = CpuModel::parse("default,-avx512f,+pku,+la57").expect("all exist");
        let [a, b, c, d] = m.cpuid(
            7,
            0,
            &Dynamic {
                ospke: true,
                ..Dynamic::default()
            },
        );
        // FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID FCS/FDS RDSEED ADX SMAP CLFLUSHOPT CLWB SHA.
        assert_eq!((a, b), (2, 0x219c_27ab));
        // UMIP PKU OSPKE GFNI VAES VPCLMULQDQ LA57 RDPID.
        assert_eq!(c, 0x0041_071c);
        let wide = CpuModel::parse(
            "v4,+avx512ifma,+avx512vbmi,+avx512vbmi2,+avx512vnni,+avx512bitalg,+avx512-vpopcntdq",
        )
        .expect("all exist");
        let [_, wide_b, wide_c, _] = leaf(&wide, 7, 0);
        // F DQ IFMA CD BW VL; VBMI VBMI2 VNNI BITALG VPOPCNTDQ.
        assert_eq!(wide_b & !b, 0xd023_0000);
        assert_eq!(wide_c & !c, 0x5842);
        // FSRM IBRS STIBP FLUSH_CMD ARCH_CAPABILITIES SSBD.
        assert_eq!(d, 0xbc00_0010);
        // BHI_CTRL.
        assert_eq!(leaf(&m, 7, 2), [0, 0, 0, 0x10]);
        assert_eq!(leaf(&m, 0x8000_0008, 0)[0], 0x392e);
        assert_eq!(leaf(&CpuModel::default(), 0x8000_0008, 0)[0], 0x302e);
        assert_eq!(
            leaf(&m, 0x8000_0001, 0),
            [0, 0, 0x121, 0x2c10_0000 & !0x800]
        );
        let long = Dynamic {
            code64: true,
            xd_disabled: true,
            ..Dynamic::default()
        };
        assert_eq!(m.cpuid(0x8000_0001, 0, &long)[3], 0x2c00_0800);
    }

    #[test]
    fn topology() {
        let m = CpuModel::default().with_cpus(6);
        for n in [0xb, 0x1f] {
            let at = |sub| {
                m.cpuid(
                    n,
                    sub,
                    &Dynamic {
                        apic_id: 5,
                        ..Dynamic::default()
                    },
                )
            };
            assert_eq!(at(0), [0, 1, 0x100, 5]);
            assert_eq!(at(1), [3, 6, 0x201, 5]);
            assert_eq!(at(2), [0, 0, 2, 5]);
        }
        // L3: unified, 8 ids share it, 8 ids in the package, 16 ways of 64 bytes, 16384 sets: 16 MiB.
        assert_eq!(
            leaf(&m, 4, 3),
            [
                3 | 3 << 5 | 1 << 8 | 7 << 14 | 7 << 26,
                15 << 22 | 63,
                16383,
                2
            ]
        );
        assert_eq!(leaf(&m, 4, 4), [0; 4]);
    }

    #[test]
    fn extended_state() {
        let m = CpuModel::parse("default,-avx512f,+pku").expect("both exist");
        let at = |sub, xcr0| {
            m.cpuid(
                0xd,
                sub,
                &Dynamic {
                    xcr0,
                    ..Dynamic::default()
                },
            )
        };
        assert_eq!(at(0, 1), [0x207, 576, 2696, 0]);
        assert_eq!(at(0, 7), [0x207, 832, 2696, 0]);
        assert_eq!(at(0, 0x203), [0x207, 2696, 2696, 0]);
        assert_eq!(at(1, 0x203), [15, 584, 0, 0]);
        assert_eq!(at(1, 0x207), [15, 840, 0, 0]);
        assert_eq!(at(9, 3), [8, 2688, 0, 0]);
        assert_eq!(at(2, 3), [256, 576, 0, 0]);
        assert_eq!(at(5, 3), [0; 4]);
        let v4 = CpuModel::parse("v4").expect("v4 exists");
        let wide = Dynamic {
            xcr0: 0xe7,
            ..Dynamic::default()
        };
        assert_eq!(v4.cpuid(0xd, 0, &wide), [0xe7, 2688, 2688, 0]);
        assert_eq!(v4.cpuid(0xd, 1, &wide), [15, 576 + 1856, 0, 0]);
        assert_eq!(leaf(&v4, 0xd, 5), [64, 1088, 0, 0]);
        assert_eq!(leaf(&v4, 0xd, 6), [512, 1152, 0, 0]);
        assert_eq!(leaf(&v4, 0xd, 7), [1024, 1664, 0, 0]);
        let v2 = CpuModel::parse("v2").expect("v2 exists");
        assert_eq!(leaf(&v2, 0xd, 0), [3, 576, 576, 0]);
        assert_eq!(leaf(&v2, 0xd, 2), [0; 4]);
        let none = CpuModel::parse("default,-xsave").expect("xsave exists");
        assert_eq!(leaf(&none, 0xd, 0), [0; 4]);
    }

    #[test]
    fn clocks() {
        let m = CpuModel::default().with_clock(2_400_000_000, 25_000_000);
        assert_eq!(leaf(&m, 0x15, 0), [1, 96, 25_000_000, 0]);
        assert_eq!(leaf(&m, 0x16, 0), [2400, 2400, 100, 0]);
        assert_eq!(leaf(&m, 0x4000_0010, 0), [2_400_000, 25_000, 0, 0]);
        for hz in [
            1_000_000_000u64,
            2_445_406_123,
            3_692_999_777,
            799_999_999,
            5_800_000_001,
        ] {
            let (n, d) = ratio(hz, 25_000_000);
            assert!(25_000u64 * u64::from(n) <= u64::from(u32::MAX), "{hz}");
            let told = 25_000_000.0 * f64::from(n) / f64::from(d);
            assert!((told / hz as f64 - 1.0).abs() < 10e-6, "{hz}: {told}");
        }
        assert_eq!(ratio(0, 0), (0, 1));
    }

    #[test]
    fn leaves_beyond_the_last() {
        let m = CpuModel::default();
        assert_eq!(leaf(&m, 0x20, 1), leaf(&m, 0x1f, 1));
        assert_eq!(leaf(&m, 0x8000_0009, 0), leaf(&m, 0x1f, 0));
        let limited = Dynamic {
            limited: true,
            ..Dynamic::default()
        };
        assert_eq!(m.cpuid(0, 0, &limited)[0], 2);
    }
}
