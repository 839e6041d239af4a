//! RET far, and what it shares with IRET: return to the same or an outer level (SDM vol. 2, RET).

use x86::{Exception, Seg, Segment, attr};

use super::gate::CodeTarget;
use super::stack::{Stack, StackWidth};
use crate::Vcpu;
use crate::segments::descriptor::rpl;
use crate::segments::{Descriptor, error_code, is_null, null_segment};

/// RET far: a = bytes to release, c = opsize.
pub fn far_ret(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let size = (c & 0xff) as u32;
    let mut stack = Stack::current(v);
    let rip = stack.pop(v, size)?;
    let selector = stack.pop(v, size)? as u16;
    if v.st.real_mode() || v.st.vm86() {
        let cs = v.real_code(selector);
        v.check_offset(&cs, rip)?;
        stack.skip(a);
        v.st.gpr[4] = stack.rsp();
        v.transfer(cs, rip);
        return Ok(0);
    }
    let target = v.return_code(selector)?;
    stack.skip(a);
    if rpl(selector) == v.st.cpl() {
        v.check_offset(&target.segment, rip)?;
        v.mark_accessed(&target.descriptor)?;
        v.st.gpr[4] = stack.rsp();
        v.transfer(target.segment, rip);
        return Ok(0);
    }
    let rsp = stack.pop(v, size)?;
    let ss = stack.pop(v, size)? as u16;
    let outer = v.return_stack(ss, &target.segment)?;
    v.check_offset(&target.segment, rip)?;
    v.mark_returned(&target, &outer)?;
    v.enter_outer(&target, &outer, rip, rsp.wrapping_add(a));
    v.sync_mmu();
    Ok(0)
}

/// The stack segment of a return that changes SS; a null one has no descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReturnStack {
    descriptor: Option<Descriptor>,
    pub(super) segment: Segment,
}

impl Vcpu {
    /// The code segment that a return goes to: never to an inner level.
    pub(super) fn return_code(&mut self, selector: u16) -> Result<CodeTarget, Exception> {
        if is_null(selector) {
            return Err(Exception::GP0);
        }
        let gp = Exception::gp(error_code(selector));
        let code = self.descriptor(selector)?.ok_or(gp)?;
        let level = rpl(selector);
        let matches = if code.is_conforming() {
            code.dpl() <= level
        } else {
            code.dpl() == level
        };
        if !code.is_code() || level < self.st.cpl() || !matches {
            return Err(gp);
        }
        if self.st.long_mode() && code.has(attr::L | attr::DB) {
            return Err(gp);
        }
        if !code.present() {
            return Err(Exception::np(error_code(selector)));
        }
        Ok(CodeTarget::at(code, level))
    }

    /// The stack segment that goes with a return's CS. It may be null in 64-bit mode below level 3.
    pub(super) fn return_stack(
        &mut self,
        selector: u16,
        cs: &Segment,
    ) -> Result<ReturnStack, Exception> {
        let level = rpl(cs.selector);
        if is_null(selector) {
            if self.st.long_mode() && cs.has(attr::L) && level != 3 {
                return Ok(ReturnStack {
                    descriptor: None,
                    segment: null_segment(selector, level),
                });
            }
            return Err(Exception::GP0);
        }
        let gp = Exception::gp(error_code(selector));
        let descriptor = self.descriptor(selector)?.ok_or(gp)?;
        if rpl(selector) != level || !descriptor.is_writable_data() || descriptor.dpl() != level {
            return Err(gp);
        }
        if !descriptor.present() {
            return Err(Exception::ss(error_code(selector)));
        }
        Ok(ReturnStack {
            descriptor: Some(descriptor),
            segment: descriptor.segment(selector),
        })
    }

    /// Sets the accessed bits of a return's two segments.
    pub(super) fn mark_returned(
        &mut self,
        target: &CodeTarget,
        stack: &ReturnStack,
    ) -> Result<(), Exception> {
        self.mark_accessed(&target.descriptor)?;
        stack
            .descriptor
            .map_or(Ok(()), |descriptor| self.mark_accessed(&descriptor))
    }

    /// Commits a return that loads SS and RSP. Where SS is 16 bits wide only SP is loaded.
    pub(super) fn enter_outer(
        &mut self,
        target: &CodeTarget,
        stack: &ReturnStack,
        rip: u64,
        rsp: u64,
    ) {
        let old = self.st.cpl();
        let width = if self.st.long_mode() && target.segment.has(attr::L) {
            StackWidth::Rsp64
        } else {
            StackWidth::of(&stack.segment)
        };
        self.st.gpr[4] = width.merge(self.st.gpr[4], rsp);
        self.st.seg[Seg::Ss as usize] = stack.segment;
        self.transfer(target.segment, rip);
        let cpl = rpl(target.segment.selector);
        if cpl > old {
            self.drop_inner_segments(cpl);
        }
    }

    /// Nulls the data segment registers that the outer level may not hold. Their bases stay.
    fn drop_inner_segments(&mut self, cpl: u8) {
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let segment = &mut self.st.seg[seg as usize];
            let conforming = segment.has(attr::CODE | attr::DC);
            if segment.attr & attr::UNUSABLE == 0 && !conforming && segment.dpl() < cpl {
                segment.selector = 0;
                segment.attr = attr::UNUSABLE;
            }
        }
    }
}
