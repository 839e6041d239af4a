//! System instructions: control registers, RFLAGS' privileged bits, TLB control, time, HLT (SDM vol. 2).

mod flags;
mod registers;
mod system;
#[cfg(test)]
mod tests;

use x86::{Exception, Gpr};

use crate::Vcpu;
use crate::cpuid::Feature;

pub(crate) use flags::iopl;
pub use flags::{cli, popf, pushf_image, set_ac, sti};
pub use registers::{
    clts, lgdt, lidt, lmsw, read_cr, read_seg_base, set_cr0, sgdt, sidt, smsw, swapgs, write_cr,
    write_seg_base, xgetbv, xsetbv,
};
pub(crate) use system::set_pkru;
pub use system::{
    cpuid, hlt, invlpg, invpcid, monitor, mwait, pause, rdpid, rdpkru, rdpmc, rdtsc, wbinvd, wrpkru,
};

/// #GP(0) unless the current privilege level is 0 (in VM86 it is 3).
pub(crate) fn privileged(v: &Vcpu) -> Result<(), Exception> {
    if v.st.cpl() == 0 {
        Ok(())
    } else {
        Err(Exception::GP0)
    }
}

/// Whether an address may go to a base register or an address MSR. This depends on what the model can do, not on
/// CR4.LA57: software prepares 5-level paging before it switches it on.
pub(crate) fn canonical_base(v: &Vcpu, address: u64) -> bool {
    softmmu::is_canonical(address, v.model.has(Feature::La57))
}

/// The low 32 bits of a register.
pub(crate) fn low32(v: &Vcpu, register: Gpr) -> u32 {
    v.st.gpr[register as usize] as u32
}

/// Writes EDX:EAX, clearing the upper halves.
pub(crate) fn set_edx_eax(v: &mut Vcpu, value: u64) {
    v.st.gpr[Gpr::Rax as usize] = value & 0xffff_ffff;
    v.st.gpr[Gpr::Rdx as usize] = value >> 32;
}

/// EDX:EAX.
pub(crate) fn edx_eax(v: &Vcpu) -> u64 {
    u64::from(low32(v, Gpr::Rdx)) << 32 | u64::from(low32(v, Gpr::Rax))
}

/// Makes the engine look at the event word at the next boundary: an interrupt may have become acceptable.
pub(crate) fn recheck_events(v: &mut Vcpu) {
    v.event_mask = u32::MAX;
}
