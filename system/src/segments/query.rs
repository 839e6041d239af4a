//! Instructions that ask about a selector without loading it: LAR, LSL, VERR, VERW, ARPL (SDM vol. 2).

use x86::{Exception, flags};

use super::descriptor::{Descriptor, is_null, kind, rpl};
use crate::Vcpu;

/// LAR: a = selector, b = old destination, c = opsize. Returns the new destination; writes ZF.
pub fn lar(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let long = v.st.long_mode();
    let rights = v.queried(a as u16)?.filter(|d| {
        let named = match d.kind() {
            kind::TSS16 | kind::TSS16_BUSY | kind::CALL16 | kind::TASK_GATE => !long,
            kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL => true,
            _ => false,
        };
        !d.is_system() || named
    });
    Ok(v.answer(rights.map(|d| d.raw >> 32 & 0x00ff_ff00), b, c))
}

/// LSL: a = selector, b = old destination, c = opsize. Returns the new destination; writes ZF.
pub fn lsl(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let long = v.st.long_mode();
    let limited = v.queried(a as u16)?.filter(|d| {
        let named = match d.kind() {
            kind::TSS16 | kind::TSS16_BUSY => !long,
            kind::LDT | kind::TSS | kind::TSS_BUSY => true,
            _ => false,
        };
        !d.is_system() || named
    });
    Ok(v.answer(limited.map(|d| u64::from(d.limit())), b, c))
}

/// VERR (c = 0) and VERW (c = 1): a = selector; writes ZF.
pub fn verify(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let descriptor = v.queried(a as u16)?;
    let allowed = descriptor.is_some_and(|d| {
        if c == 0 {
            d.is_readable()
        } else {
            d.is_writable_data()
        }
    });
    v.set_status(flags::ZF, if allowed { flags::ZF } else { 0 });
    Ok(0)
}

/// ARPL: a = destination selector, b = source selector. Returns the new destination; writes ZF.
pub fn arpl(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    v.check_protected()?;
    let lower = a & 3 < b & 3;
    v.set_status(flags::ZF, if lower { flags::ZF } else { 0 });
    Ok(if lower { a & !3 | b & 3 } else { a })
}

impl Vcpu {
    /// The descriptor that a selector names, if it exists and is visible at CPL and RPL.
    fn queried(&mut self, selector: u16) -> Result<Option<Descriptor>, Exception> {
        self.check_protected()?;
        if is_null(selector) {
            return Ok(None);
        }
        let cpl = self.st.cpl();
        let visible = |d: &Descriptor| d.is_conforming() || d.dpl() >= cpl.max(rpl(selector));
        Ok(self.descriptor(selector)?.filter(visible))
    }

    /// Sets ZF and merges an answer into the destination, or leaves that alone.
    fn answer(&mut self, value: Option<u64>, old: u64, opsize: u64) -> u64 {
        self.set_status(flags::ZF, if value.is_some() { flags::ZF } else { 0 });
        match value {
            Some(value) if opsize == 2 => old & !0xffff | value & 0xffff,
            Some(value) => value,
            None => old,
        }
    }
}
