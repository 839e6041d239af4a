//! RDMSR and WRMSR: which model-specific registers there are and what may be written to them (SDM vol. 4).
//!
//! An MSR that the model does not have raises #GP(0), with one warning each.

mod efer;
mod machine_check;
mod mtrr;
#[cfg(test)]
mod tests;
mod time;

use x86::{Exception, Gpr, Seg, msr};

use crate::Vcpu;
use crate::control::{canonical_base, edx_eax, low32, privileged, recheck_events, set_edx_eax};
use crate::cpuid::Feature;

/// More warnings than this would say nothing new, and a guest could fill the host's memory with them.
const MAX_WARNINGS: usize = 256;

// Numbers that only this table needs.
const P5_MC_ADDR: u32 = 0;
const P5_MC_TYPE: u32 = 1;
const EBL_CR_POWERON: u32 = 0x2a;
const SMI_COUNT: u32 = 0x34;
const FSB_FREQ: u32 = 0xcd;
const PLATFORM_INFO: u32 = 0xce;
const BBL_CR_CTL3: u32 = 0x11e;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const PERF_STATUS: u32 = 0x198;
const PERF_CTL: u32 = 0x199;
const LASTBRANCH_TOS: u32 = 0x1c9;
const LAST_BRANCH_FIRST: u32 = 0x1db;
const LAST_BRANCH_LAST: u32 = 0x1de;

/// Bits of IA32_MISC_ENABLE.
mod misc_enable {
    /// Fast strings.
    pub const FAST_STRINGS: u64 = 1 << 0;
    /// Branch trace storage and precise sampling are unavailable (read-only).
    pub const UNAVAILABLE: u64 = 1 << 11 | 1 << 12;
    /// MONITOR/MWAIT (read-only here: it follows the model).
    pub const MONITOR: u64 = 1 << 18;
    /// Limit CPUID's highest leaf.
    pub const LIMIT_CPUID: u64 = 1 << 22;
    /// EFER.NXE and its CPUID bit are gone.
    pub const XD_DISABLE: u64 = 1 << 34;
    /// What software may change: also thermal control, hardware prefetcher, ferr multiplexing, SpeedStep and its
    /// lock, adjacent line prefetch, xTPR, DCU and IP prefetchers, turbo.
    pub const WRITABLE: u64 = FAST_STRINGS
        | LIMIT_CPUID
        | XD_DISABLE
        | 1 << 3
        | 1 << 9
        | 1 << 10
        | 1 << 16
        | 1 << 19
        | 1 << 20
        | 1 << 23
        | 1 << 37
        | 1 << 38
        | 1 << 39;
}

/// Why an access fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// The MSR isn't there.
    Unknown,
    /// The MSR is there, but not for this access or value.
    Value,
}

type Read = Result<u64, Refused>;
type Write = Result<(), Refused>;

/// The MSR exists only with a feature.
fn needs(v: &Vcpu, feature: Feature) -> Write {
    if v.model.has(feature) {
        Ok(())
    } else {
        Err(Refused::Unknown)
    }
}

/// The value is acceptable.
fn check(valid: bool) -> Write {
    if valid { Ok(()) } else { Err(Refused::Value) }
}

/// AMD's own range. Kernels try some of these on every CPU, expecting #GP on Intel's: no news.
const AMD_RANGE: std::ops::RangeInclusive<u32> = 0xc001_0000..=0xc001_ffff;

fn refuse(v: &mut Vcpu, number: u32, refused: Refused, written: Option<u64>) -> Exception {
    if refused == Refused::Unknown
        && !AMD_RANGE.contains(&number)
        && v.warned.len() < MAX_WARNINGS
        && v.warned.insert(number)
    {
        match written {
            None => {
                tracing::warn!("the guest reads MSR {number:#x}, which this CPU does not have: #GP")
            }
            Some(value) => {
                tracing::warn!(
                    "the guest writes {value:#x} to MSR {number:#x}, which this CPU does not have: #GP"
                );
            }
        }
    }
    Exception::GP0
}

/// RDMSR.
pub fn rdmsr(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    let value = read_msr(v, low32(v, Gpr::Rcx))?;
    set_edx_eax(v, value);
    Ok(0)
}

/// WRMSR.
pub fn wrmsr(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    let value = edx_eax(v);
    write_msr(v, low32(v, Gpr::Rcx), value)?;
    Ok(0)
}

/// The value of an MSR, without a look at the privilege level (`exec`, debuggers).
pub fn read_msr(v: &mut Vcpu, number: u32) -> Result<u64, Exception> {
    read(v, number).map_err(|refused| refuse(v, number, refused, None))
}

/// Writes an MSR as WRMSR at privilege level 0 does.
pub fn write_msr(v: &mut Vcpu, number: u32, value: u64) -> Result<(), Exception> {
    write(v, number, value).map_err(|refused| refuse(v, number, refused, Some(value)))
}

fn read(v: &Vcpu, number: u32) -> Read {
    let m = &v.st.msr;
    let with = |feature, value| needs(v, feature).map(|()| value);
    // Ratios are in units of 100 MHz.
    let clock_ratio = (v.platform.tsc_hz() / 100_000_000).min(0xff) << 8;
    match number {
        msr::TSC | msr::TSC_ADJUST | msr::TSC_DEADLINE => time::read(v, number),
        msr::APIC_BASE => {
            needs(v, Feature::Apic)?;
            v.platform
                .apic_msr_read(v.index, number)
                .map_err(|_| Refused::Value)
        }
        msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
            needs(v, Feature::X2apic)?;
            v.platform
                .apic_msr_read(v.index, number)
                .map_err(|_| Refused::Value)
        }
        msr::SYSENTER_CS => with(Feature::Sep, m.sysenter_cs),
        msr::SYSENTER_ESP => with(Feature::Sep, m.sysenter_esp),
        msr::SYSENTER_EIP => with(Feature::Sep, m.sysenter_eip),
        msr::EFER if v.model.efer() != 0 => Ok(v.st.efer),
        msr::STAR => with(Feature::Syscall, m.star),
        msr::LSTAR => with(Feature::Syscall, m.lstar),
        msr::CSTAR => with(Feature::Syscall, m.cstar),
        msr::FMASK => with(Feature::Syscall, m.fmask),
        msr::FS_BASE => with(Feature::Lm, v.seg(Seg::Fs).base),
        msr::GS_BASE => with(Feature::Lm, v.seg(Seg::Gs).base),
        msr::KERNEL_GS_BASE => with(Feature::Lm, m.kernel_gs_base),
        msr::TSC_AUX if v.model.has(Feature::Rdtscp) || v.model.has(Feature::Rdpid) => {
            Ok(m.tsc_aux)
        }
        msr::SPEC_CTRL => with(Feature::SpecCtrl, m.spec_ctrl),
        // Write-only.
        msr::PRED_CMD if v.model.has(Feature::SpecCtrl) => Err(Refused::Value),
        msr::FLUSH_CMD if v.model.has(Feature::FlushL1d) => Err(Refused::Value),
        msr::BIOS_UPDT_TRIG => Err(Refused::Value),
        msr::ARCH_CAPABILITIES => with(Feature::ArchCapabilities, v.model.arch_capabilities()),
        msr::XSS => with(Feature::Xsaves, m.xss),
        msr::MISC_ENABLE => {
            let monitor = if v.model.has(Feature::Monitor) {
                misc_enable::MONITOR
            } else {
                0
            };
            Ok(m.misc_enable & misc_enable::WRITABLE | misc_enable::UNAVAILABLE | monitor)
        }
        msr::DEBUGCTL => Ok(m.debugctl),
        msr::PLATFORM_ID => Ok(0),
        msr::BIOS_SIGN_ID => Ok(m.bios_sign_id),
        // Locked, nothing enabled.
        msr::FEATURE_CONTROL => Ok(1),
        PLATFORM_INFO | PERF_STATUS | PERF_CTL => Ok(clock_ratio),
        P5_MC_ADDR | P5_MC_TYPE | EBL_CR_POWERON | SMI_COUNT | FSB_FREQ | BBL_CR_CTL3 => Ok(0),
        MISC_FEATURES_ENABLES | LASTBRANCH_TOS | LAST_BRANCH_FIRST..=LAST_BRANCH_LAST => Ok(0),
        _ => match mtrr::read(v, number) {
            Err(Refused::Unknown) => machine_check::read(v, number),
            known => known,
        },
    }
}

fn write(v: &mut Vcpu, number: u32, value: u64) -> Write {
    match number {
        msr::TSC | msr::TSC_ADJUST | msr::TSC_DEADLINE => return time::write(v, number, value),
        msr::EFER if v.model.efer() != 0 => return efer::write(v, value),
        msr::APIC_BASE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
            needs(
                v,
                if number == msr::APIC_BASE {
                    Feature::Apic
                } else {
                    Feature::X2apic
                },
            )?;
            v.platform
                .apic_msr_write(v.index, number, value)
                .map_err(|_| Refused::Value)?;
            recheck_events(v);
        }
        msr::SYSENTER_CS => {
            needs(v, Feature::Sep)?;
            v.st.msr.sysenter_cs = value & 0xffff_ffff;
        }
        msr::SYSENTER_ESP | msr::SYSENTER_EIP => {
            needs(v, Feature::Sep)?;
            check(canonical_base(v, value))?;
            let m = &mut v.st.msr;
            *(if number == msr::SYSENTER_ESP {
                &mut m.sysenter_esp
            } else {
                &mut m.sysenter_eip
            }) = value;
        }
        msr::STAR => {
            needs(v, Feature::Syscall)?;
            v.st.msr.star = value;
        }
        msr::FMASK => {
            needs(v, Feature::Syscall)?;
            v.st.msr.fmask = value & 0xffff_ffff;
        }
        msr::LSTAR | msr::CSTAR => {
            needs(v, Feature::Syscall)?;
            check(canonical_base(v, value))?;
            let m = &mut v.st.msr;
            *(if number == msr::LSTAR {
                &mut m.lstar
            } else {
                &mut m.cstar
            }) = value;
        }
        msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE => {
            needs(v, Feature::Lm)?;
            check(canonical_base(v, value))?;
            let st = &mut v.st;
            *(match number {
                msr::FS_BASE => &mut st.seg[Seg::Fs as usize].base,
                msr::GS_BASE => &mut st.seg[Seg::Gs as usize].base,
                _ => &mut st.msr.kernel_gs_base,
            }) = value;
        }
        msr::TSC_AUX if v.model.has(Feature::Rdtscp) || v.model.has(Feature::Rdpid) => {
            check(value >> 32 == 0)?;
            v.st.msr.tsc_aux = value;
        }
        msr::SPEC_CTRL => {
            needs(v, Feature::SpecCtrl)?;
            let mut allowed = 1;
            for (feature, bit) in [
                (Feature::Stibp, 2),
                (Feature::Ssbd, 4),
                (Feature::BhiCtrl, 1 << 10),
            ] {
                if v.model.has(feature) {
                    allowed |= bit;
                }
            }
            check(value & !allowed == 0)?;
            v.st.msr.spec_ctrl = value;
        }
        // Commands without an effect that a guest could see.
        msr::PRED_CMD => {
            needs(v, Feature::SpecCtrl)?;
            check(value & !1 == 0)?;
        }
        msr::FLUSH_CMD => {
            needs(v, Feature::FlushL1d)?;
            check(value & !1 == 0)?;
        }
        msr::XSS => {
            needs(v, Feature::Xsaves)?;
            check(value & !v.model.xss() == 0)?;
            v.st.msr.xss = value;
        }
        msr::MISC_ENABLE => {
            let read_only = misc_enable::UNAVAILABLE | misc_enable::MONITOR | 1 << 7;
            check(value & !(misc_enable::WRITABLE | read_only) == 0)?;
            check(value & misc_enable::XD_DISABLE == 0 || v.model.has(Feature::Nx))?;
            v.st.msr.misc_enable = value & misc_enable::WRITABLE;
        }
        // Last-branch recording and single-step on branches are accepted; nothing is recorded.
        msr::DEBUGCTL => {
            check(value & !3 == 0)?;
            v.st.msr.debugctl = value;
        }
        msr::BIOS_SIGN_ID => v.st.msr.bios_sign_id = value,
        // An update that changes nothing.
        msr::BIOS_UPDT_TRIG => {}
        PERF_CTL | BBL_CR_CTL3 | EBL_CR_POWERON => {}
        MISC_FEATURES_ENABLES | LASTBRANCH_TOS | LAST_BRANCH_FIRST..=LAST_BRANCH_LAST => {
            check(value == 0)?
        }
        msr::ARCH_CAPABILITIES
        | msr::PLATFORM_ID
        | msr::FEATURE_CONTROL
        | P5_MC_ADDR
        | P5_MC_TYPE
        | PLATFORM_INFO
        | PERF_STATUS
        | SMI_COUNT
        | FSB_FREQ => return Err(Refused::Value),
        _ => {
            return match mtrr::write(v, number, value) {
                Err(Refused::Unknown) => machine_check::write(v, number, value),
                known => known,
            };
        }
    }
    Ok(())
}
