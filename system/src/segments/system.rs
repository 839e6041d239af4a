//! LDTR and TR: LLDT, LTR, SLDT, STR (SDM vol. 2; 16-byte descriptors vol. 3, 3.5.2 and 8.2.3).

use x86::{Exception, Segment, cr4};

use super::descriptor::{Descriptor, error_code, is_null, kind, null_segment};
use crate::Vcpu;

/// LLDT: a = selector.
pub fn lldt(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    v.check_system_load()?;
    let selector = a as u16;
    if is_null(selector) {
        v.st.ldtr = null_segment(selector, 0);
        return Ok(0);
    }
    let gp = Exception::gp(error_code(selector));
    let descriptor = v.gdt_descriptor(selector, gp)?;
    if !descriptor.is_system() || descriptor.kind() != kind::LDT {
        return Err(gp);
    }
    let segment = v.system_segment(&descriptor, gp)?;
    if !descriptor.present() {
        return Err(Exception::np(error_code(selector)));
    }
    v.st.ldtr = segment;
    Ok(0)
}

/// LTR: a = selector. The TSS descriptor becomes busy.
pub fn ltr(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    v.check_system_load()?;
    let selector = a as u16;
    if is_null(selector) {
        return Err(Exception::GP0);
    }
    let gp = Exception::gp(error_code(selector));
    let descriptor = v.gdt_descriptor(selector, gp)?;
    let small = descriptor.kind() == kind::TSS16 && !v.st.long_mode();
    if !descriptor.is_system() || !(small || descriptor.kind() == kind::TSS) {
        return Err(gp);
    }
    let segment = v.system_segment(&descriptor, gp)?;
    if !descriptor.present() {
        return Err(Exception::np(error_code(selector)));
    }
    v.mark_busy(descriptor.lin, true)?;
    v.st.tr = Segment {
        attr: segment.attr | kind::BUSY,
        ..segment
    };
    Ok(0)
}

/// SLDT: the LDTR's selector.
pub fn sldt(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    v.check_store_selector()?;
    Ok(u64::from(v.st.ldtr.selector))
}

/// STR: the TR's selector.
pub fn str(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    v.check_store_selector()?;
    Ok(u64::from(v.st.tr.selector))
}

impl Vcpu {
    /// #UD outside protected mode.
    pub(super) fn check_protected(&self) -> Result<(), Exception> {
        if self.st.real_mode() || self.st.vm86() {
            Err(Exception::UD)
        } else {
            Ok(())
        }
    }

    fn check_system_load(&self) -> Result<(), Exception> {
        self.check_protected()?;
        if self.st.cpl() == 0 {
            Ok(())
        } else {
            Err(Exception::GP0)
        }
    }

    fn check_store_selector(&self) -> Result<(), Exception> {
        self.check_protected()?;
        if self.st.cr4 & cr4::UMIP != 0 && self.st.cpl() != 0 {
            Err(Exception::GP0)
        } else {
            Ok(())
        }
    }

    /// A descriptor that must be in the GDT.
    fn gdt_descriptor(&mut self, selector: u16, error: Exception) -> Result<Descriptor, Exception> {
        if selector & 4 != 0 {
            return Err(error);
        }
        self.descriptor(selector)?.ok_or(error)
    }

    /// The register that an LDT or TSS descriptor fills, its base 64 bits wide in 64-bit mode.
    fn system_segment(
        &mut self,
        descriptor: &Descriptor,
        error: Exception,
    ) -> Result<Segment, Exception> {
        let segment = descriptor.segment(descriptor.selector);
        if !self.st.code64() {
            return Ok(segment);
        }
        let high = self.descriptor_high(descriptor)?.ok_or(error)?;
        let base = segment.base | high << 32;
        // Bits 12:8 of the last double word are where a type would stand if this were a descriptor of its own.
        if high >> 40 & 0x1f != 0 || !self.is_canonical(base) {
            return Err(error);
        }
        Ok(Segment { base, ..segment })
    }

    /// Whether a linear address is canonical for the paging levels in use.
    #[inline]
    pub fn is_canonical(&self, lin: u64) -> bool {
        softmmu::is_canonical(lin, self.st.cr4 & cr4::LA57 != 0)
    }
}
