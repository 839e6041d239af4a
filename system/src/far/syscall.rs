//! SYSCALL, SYSRET, SYSENTER, SYSEXIT as Intel's CPUs do them (SDM vol. 2): SYSCALL and SYSRET in 64-bit mode only.

use x86::flags::{FIXED, IF, RF, TF, VM};
use x86::{Exception, Gpr, Seg, Segment, attr, efer};

use crate::Vcpu;
use crate::boundary::{NO_STEP, dr6};

/// RFLAGS bits that SYSRET takes from R11.
pub const SYSRET_FLAGS: u64 = 0x3c_7fd7;

/// The flat code segment that these instructions load; exactly one of L and D is set.
pub fn fast_code(selector: u16, dpl: u8, long: bool) -> Segment {
    let size = if long { attr::L } else { attr::DB };
    flat(selector, dpl, attr::CODE | attr::RW | attr::ACCESSED | size)
}

/// The flat stack segment that these instructions load.
pub fn fast_stack(selector: u16, dpl: u8) -> Segment {
    flat(selector, dpl, attr::RW | attr::ACCESSED | attr::DB)
}

fn flat(selector: u16, dpl: u8, kind: u32) -> Segment {
    let attr = kind | attr::S | attr::P | attr::G | u32::from(dpl) << attr::DPL_SHIFT;
    Segment {
        base: 0,
        limit: u32::MAX,
        attr,
        selector,
    }
}

/// SYSCALL. Outside 64-bit mode it is #UD.
pub fn syscall(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if !v.st.code64() || v.st.efer & efer::SCE == 0 {
        return Err(Exception::UD);
    }
    let image = v.rflags();
    v.st.gpr[Gpr::Rcx as usize] = v.next_ip;
    v.st.gpr[Gpr::R11 as usize] = image;
    let base = (v.st.msr.star >> 32) as u16;
    v.enter(
        fast_code(base & 0xfffc, 0, true),
        fast_stack(base.wrapping_add(8), 0),
        v.st.msr.lstar,
    );
    v.set_rflags(image & !v.st.msr.fmask & !RF);
    // TF counts as it is after SYSCALL: masked by IA32_FMASK it makes no trap.
    if v.st.rflags & TF == 0 {
        v.mask_step(image);
    }
    Ok(0)
}

/// SYSRET: c = opsize.
pub fn sysret(v: &mut Vcpu, _a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    if !v.st.code64() || v.st.efer & efer::SCE == 0 {
        return Err(Exception::UD);
    }
    if v.st.cpl() != 0 {
        return Err(Exception::GP0);
    }
    let long = c & 0xff == 8;
    let target = v.st.gpr[Gpr::Rcx as usize];
    if long && !v.is_canonical(target) {
        return Err(Exception::GP0);
    }
    let base = (v.st.msr.star >> 48) as u16;
    let cs = base.wrapping_add(if long { 16 } else { 0 }) | 3;
    let rip = if long { target } else { target & 0xffff_ffff };
    v.enter(
        fast_code(cs, 3, long),
        fast_stack(base.wrapping_add(8) | 3, 3),
        rip,
    );
    let old = v.rflags();
    v.set_rflags(v.st.gpr[Gpr::R11 as usize] & SYSRET_FLAGS | FIXED);
    if v.st.rflags & TF != 0 {
        // A TF that SYSRET sets traps before the first instruction at level 3.
        v.pending_debug |= dr6::BS;
    } else {
        v.mask_step(old);
    }
    Ok(0)
}

/// SYSENTER.
pub fn sysenter(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    let selector = v.st.msr.sysenter_cs as u16 & 0xfffc;
    if v.st.real_mode() || selector == 0 {
        return Err(Exception::GP0);
    }
    let long = v.st.long_mode();
    let width = if long { u64::MAX } else { 0xffff_ffff };
    v.st.gpr[Gpr::Rsp as usize] = v.st.msr.sysenter_esp & width;
    v.enter(
        fast_code(selector, 0, long),
        fast_stack(selector.wrapping_add(8), 0),
        v.st.msr.sysenter_eip & width,
    );
    let image = v.rflags();
    v.set_rflags(image & !(VM | IF | RF));
    Ok(0)
}

/// SYSEXIT: c = opsize.
pub fn sysexit(v: &mut Vcpu, _a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let base = v.st.msr.sysenter_cs as u16 & 0xfffc;
    if v.st.real_mode() || base == 0 || v.st.cpl() != 0 {
        return Err(Exception::GP0);
    }
    let long = c & 0xff == 8;
    let (rsp, rip) = (v.st.gpr[Gpr::Rcx as usize], v.st.gpr[Gpr::Rdx as usize]);
    if long && !(v.is_canonical(rsp) && v.is_canonical(rip)) {
        return Err(Exception::GP0);
    }
    let width = if long { u64::MAX } else { 0xffff_ffff };
    let cs = base.wrapping_add(if long { 32 } else { 16 });
    v.st.gpr[Gpr::Rsp as usize] = rsp & width;
    v.enter(
        fast_code(cs | 3, 3, long),
        fast_stack(cs.wrapping_add(8) | 3, 3),
        rip & width,
    );
    v.sync_mmu();
    Ok(0)
}

impl Vcpu {
    /// Commits fixed CS and SS and RIP; the caller tells the MMU.
    fn enter(&mut self, cs: Segment, ss: Segment, rip: u64) {
        self.st.seg[Seg::Ss as usize] = ss;
        self.transfer(cs, rip);
    }

    /// No single-step trap at the end of this instruction, should TF have been set in `before`.
    pub(crate) fn mask_step(&mut self, before: u64) {
        if before & TF != 0 {
            self.pending_debug |= NO_STEP;
        }
    }
}
