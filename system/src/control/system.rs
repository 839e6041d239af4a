//! CPUID, time, TLB control, protection keys, HLT and PAUSE.

use x86::{Activity, Exception, Gpr, LinAddr, cr4};

use super::{canonical_base, edx_eax, low32, privileged, set_edx_eax};
use crate::Vcpu;
use crate::cpuid::Dynamic;

/// PAUSE instructions after which a vCPU gives its core away.
const PAUSES: u32 = 8;

/// What IA32_BIOS_SIGN_ID holds after CPUID: microcode revision 1.
pub(crate) const MICROCODE: u64 = 1 << 32;

/// CPUID.
pub fn cpuid(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    let (leaf, subleaf) = (low32(v, Gpr::Rax), low32(v, Gpr::Rcx));
    let values = v.model.cpuid(leaf, subleaf, &Dynamic::of(v));
    if leaf == 1 {
        // SDM vol. 3, 10.11.7.1: the way to ask for the microcode's revision.
        v.st.msr.bios_sign_id = MICROCODE;
    }
    for (register, value) in [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx]
        .into_iter()
        .zip(values)
    {
        v.st.gpr[register as usize] = u64::from(value);
    }
    Ok(0)
}

/// RDTSC, and RDTSCP (`a` = 1).
pub fn rdtsc(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cr4 & cr4::TSD != 0 {
        privileged(v)?;
    }
    let tsc = v.tsc();
    set_edx_eax(v, tsc);
    if a != 0 {
        v.st.gpr[Gpr::Rcx as usize] = v.st.msr.tsc_aux & 0xffff_ffff;
    }
    Ok(0)
}

/// RDPMC: there are no counters (CPUID Ah), so that every number is wrong.
pub fn rdpmc(_v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    Err(Exception::GP0)
}

/// RDPID: IA32_TSC_AUX.
pub fn rdpid(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    Ok(v.st.msr.tsc_aux)
}

/// RDPKRU.
pub fn rdpkru(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cr4 & cr4::PKE == 0 {
        return Err(Exception::UD);
    }
    if low32(v, Gpr::Rcx) != 0 {
        return Err(Exception::GP0);
    }
    let pkru = u64::from(v.st.pkru);
    set_edx_eax(v, pkru);
    Ok(0)
}

/// WRPKRU.
pub fn wrpkru(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cr4 & cr4::PKE == 0 {
        return Err(Exception::UD);
    }
    if low32(v, Gpr::Rcx) != 0 || edx_eax(v) >> 32 != 0 {
        return Err(Exception::GP0);
    }
    set_pkru(v, low32(v, Gpr::Rax));
    Ok(0)
}

/// Replaces PKRU and tells the MMU.
pub(crate) fn set_pkru(v: &mut Vcpu, value: u32) {
    v.st.pkru = value;
    v.mmu.set_pkru(value);
}

/// INVLPG: linear address `a`. A non-canonical one is no error and no page.
pub fn invlpg(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    if v.is_canonical(a) {
        v.mmu.invlpg(LinAddr(a));
    }
    Ok(0)
}

/// INVPCID: type `a`, descriptor at linear address `b` (SDM vol. 2, INVPCID).
pub fn invpcid(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    let mut descriptor = [0; 16];
    v.read_bytes(b, &mut descriptor)?;
    let [low, high] =
        [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| descriptor[at + i])));
    let pcid = (low & 0xfff) as u16;
    let pcide = v.st.cr4 & cr4::PCIDE != 0;
    if a > 3
        || low >> 12 != 0
        || (a < 2 && !pcide && pcid != 0)
        || (a == 0 && !canonical_base(v, high))
    {
        return Err(Exception::GP0);
    }
    match a {
        0 => v.mmu.invpcid_address(pcid, LinAddr(high)),
        1 => v.mmu.invpcid_context(pcid),
        2 => v.mmu.invpcid_all(),
        _ => v.mmu.invpcid_all_non_global(),
    }
    Ok(0)
}

/// INVD, WBINVD: caches are always coherent here.
pub fn wbinvd(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    Ok(0)
}

/// HLT: the engine sees the activity at the instruction's end.
pub fn hlt(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    v.st.activity = Activity::Halted;
    Ok(0)
}

/// MONITOR: the linear address `a` is accessed as by a load; nothing is armed, since MWAIT does not wait for it.
pub fn monitor(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cpl() != 0 {
        return Err(Exception::UD);
    }
    if low32(v, Gpr::Rcx) != 0 {
        return Err(Exception::GP0);
    }
    v.read(a, 1)?;
    Ok(0)
}

/// MWAIT may end for reasons of the implementation: it gives the core away once and goes on.
pub fn mwait(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cpl() != 0 {
        return Err(Exception::UD);
    }
    if low32(v, Gpr::Rcx) > 1 {
        return Err(Exception::GP0);
    }
    std::thread::yield_now();
    Ok(0)
}

/// PAUSE: several in a row mean that another vCPU is waited for, which may need this core.
pub fn pause(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    v.pauses += 1;
    if v.pauses >= PAUSES {
        v.pauses = 0;
        std::thread::yield_now();
    }
    Ok(0)
}
