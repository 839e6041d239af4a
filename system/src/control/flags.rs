//! The flags that need privilege: CLI, STI, PUSHF, POPF with VM86's and PVI's virtual interrupts, CLAC, STAC.

use x86::flags::{AC, DF, FIXED, ID, IF, IOPL, IOPL_SHIFT, NT, RF, STATUS, TF, VIF, VIP, VM};
use x86::{Exception, Shadow, cr4};

use super::recheck_events;
use crate::Vcpu;

/// RFLAGS.IOPL.
pub(crate) fn iopl(v: &Vcpu) -> u8 {
    ((v.st.rflags & IOPL) >> IOPL_SHIFT) as u8
}

/// Which interrupt flag CLI and STI act on (SDM vol. 2, CLI and STI).
enum Target {
    Real,
    Virtual,
}

fn target(v: &Vcpu) -> Result<Target, Exception> {
    let cpl = v.st.cpl();
    // In VM86 the level is 3, and IOPL 3 is what it takes.
    if v.st.real_mode() || iopl(v) >= cpl {
        return Ok(Target::Real);
    }
    let extension = if v.st.vm86() { cr4::VME } else { cr4::PVI };
    if cpl == 3 && v.st.cr4 & extension != 0 {
        Ok(Target::Virtual)
    } else {
        Err(Exception::GP0)
    }
}

/// CLI.
pub fn cli(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    match target(v)? {
        Target::Real => v.st.rflags &= !IF,
        Target::Virtual => v.st.rflags &= !VIF,
    }
    Ok(0)
}

/// STI. When it sets IF, interrupts wait for one more instruction.
pub fn sti(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    match target(v)? {
        Target::Real => {
            if v.st.rflags & IF == 0 {
                v.st.rflags |= IF;
                v.st.shadow = Shadow::Sti;
                recheck_events(v);
            }
        }
        Target::Virtual => {
            if v.st.rflags & VIP != 0 {
                return Err(Exception::GP0);
            }
            v.st.rflags |= VIF;
        }
    }
    Ok(0)
}

/// What PUSHF of `c` bytes pushes.
pub fn pushf_image(v: &mut Vcpu, _a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let mut image = v.rflags() & !(VM | RF);
    if v.st.vm86() && iopl(v) < 3 {
        if c != 2 || v.st.cr4 & cr4::VME == 0 {
            return Err(Exception::GP0);
        }
        image = (image & !IF) | IOPL | if image & VIF != 0 { IF } else { 0 };
    }
    Ok(image & (u64::MAX >> (64 - 8 * c.clamp(2, 8))))
}

/// POPF of `c` bytes: image `a` (SDM vol. 2, POPF).
pub fn popf(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let old = v.rflags();
    let mut mask = STATUS | TF | DF | NT;
    let mut image = a;
    if v.st.vm86() && iopl(v) < 3 {
        let blocked = image & IF != 0 && old & VIP != 0;
        if c != 2 || v.st.cr4 & cr4::VME == 0 || blocked || image & TF != 0 {
            return Err(Exception::GP0);
        }
        image = (image & !VIF) | if image & IF != 0 { VIF } else { 0 };
        mask |= VIF;
    } else {
        let cpl = v.st.cpl();
        if v.st.real_mode() || iopl(v) >= cpl {
            mask |= IF;
        }
        if cpl == 0 {
            mask |= IOPL;
        }
        if c != 2 {
            mask |= AC | ID;
        }
    }
    v.set_rflags((old & !mask & !RF) | (image & mask) | FIXED);
    recheck_events(v);
    Ok(0)
}

/// STAC (`a` = 1) and CLAC (`a` = 0).
pub fn set_ac(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cpl() != 0 {
        return Err(Exception::UD);
    }
    if a == 0 {
        v.st.rflags &= !AC;
    } else {
        v.st.rflags |= AC;
    }
    v.mmu.set_ac(a != 0);
    Ok(0)
}
