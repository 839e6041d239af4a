//! Segment register loads by MOV, POP, LDS and their kin (SDM vol. 2, MOV; vol. 3, 5.7).

use x86::{Exception, Seg, Segment, Shadow, attr};

use super::descriptor::{error_code, is_null, null_segment, real_segment, rpl, vm86_segment};
use crate::Vcpu;

/// Loads segment register `a` with selector `b`. `c` is 1 for MOV and POP: into SS they cast a shadow on interrupts.
pub fn load_seg(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let seg = match Seg::from_index(a as usize) {
        Some(Seg::Cs) | None => return Err(Exception::UD),
        Some(seg) => seg,
    };
    let segment = v.check_load(seg, b as u16)?;
    v.st.seg[seg as usize] = segment;
    if seg == Seg::Ss && c == 1 {
        v.st.shadow = Shadow::MovSs;
    }
    Ok(0)
}

/// The selector in segment register `a`.
pub fn read_seg(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    Seg::from_index(a as usize)
        .map(|seg| u64::from(v.seg(seg).selector))
        .ok_or(Exception::UD)
}

impl Vcpu {
    /// What a data or stack segment register holds once `selector` is loaded, checks made and the accessed bit set.
    fn check_load(&mut self, seg: Seg, selector: u16) -> Result<Segment, Exception> {
        if self.st.real_mode() {
            return Ok(real_segment(self.seg(seg), selector));
        }
        if self.st.vm86() {
            return Ok(vm86_segment(selector));
        }
        if seg == Seg::Ss {
            return self.check_load_stack(selector);
        }
        if is_null(selector) {
            return Ok(null_segment(selector, 0));
        }
        let gp = Exception::gp(error_code(selector));
        let descriptor = self.descriptor(selector)?.ok_or(gp)?;
        if !descriptor.is_readable() {
            return Err(gp);
        }
        if !descriptor.is_conforming()
            && (rpl(selector) > descriptor.dpl() || self.st.cpl() > descriptor.dpl())
        {
            return Err(gp);
        }
        if !descriptor.present() {
            return Err(Exception::np(error_code(selector)));
        }
        self.mark_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// The descriptor in the GDT that a segment register was loaded from (0 for a null selector), where loading it from there
    /// once more, at the same level, would change nothing. Protected mode's data segments.
    pub fn loaded_from(&mut self, seg: Seg) -> Option<u64> {
        let segment = *self.seg(seg);
        if is_null(segment.selector) {
            return (segment == null_segment(segment.selector, 0)).then_some(0);
        }
        let descriptor = self.descriptor(segment.selector).ok()??;
        let same = segment.selector & 4 == 0
            && descriptor.has(attr::S | attr::P | attr::ACCESSED)
            && descriptor.segment(segment.selector) == segment;
        same.then_some(descriptor.raw)
    }

    fn check_load_stack(&mut self, selector: u16) -> Result<Segment, Exception> {
        let cpl = self.st.cpl();
        if is_null(selector) {
            if self.st.code64() && cpl < 3 && rpl(selector) == cpl {
                return Ok(null_segment(selector, cpl));
            }
            return Err(Exception::GP0);
        }
        let gp = Exception::gp(error_code(selector));
        let descriptor = self.descriptor(selector)?.ok_or(gp)?;
        if rpl(selector) != cpl || !descriptor.is_writable_data() || descriptor.dpl() != cpl {
            return Err(gp);
        }
        if !descriptor.present() {
            return Err(Exception::ss(error_code(selector)));
        }
        self.mark_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }
}
