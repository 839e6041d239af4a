//! What JMP and CALL share: checks of the target code segment, of call gates, and of tasks (SDM vol. 3, 5.8).

use x86::{Exception, Seg, Segment, attr};

use crate::Vcpu;
use crate::segments::descriptor::{kind, rpl};
use crate::segments::{Descriptor, error_code, is_null};

/// The offset bits of an operand size in bytes.
pub(crate) fn opsize_mask(size: u64) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// A code segment that passed its checks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeTarget {
    pub(crate) descriptor: Descriptor,
    /// As CS will hold it.
    pub(crate) segment: Segment,
}

impl CodeTarget {
    /// The target entered at privilege level `cpl`, which becomes CS's RPL.
    pub(crate) fn at(descriptor: Descriptor, cpl: u8) -> Self {
        let selector = descriptor.selector & !3 | u16::from(cpl);
        Self {
            descriptor,
            segment: descriptor.segment(selector),
        }
    }
}

/// What a call gate leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateTarget {
    pub(crate) code: Descriptor,
    pub(crate) offset: u64,
    /// Parameters to copy to an inner stack.
    pub(crate) count: usize,
    /// Bytes in each push: 2, 4 or 8.
    pub(crate) size: u32,
}

/// What a far JMP or CALL in protected mode names.
pub(crate) enum FarTarget {
    Code(CodeTarget),
    Gate(GateTarget),
    /// An available TSS.
    Task(Descriptor),
}

impl Vcpu {
    /// Looks up and checks the operand of a far JMP or CALL in protected mode.
    pub(super) fn far_target(&mut self, selector: u16) -> Result<FarTarget, Exception> {
        if is_null(selector) {
            return Err(Exception::GP0);
        }
        let gp = Exception::gp(error_code(selector));
        let descriptor = self.descriptor(selector)?.ok_or(gp)?;
        if descriptor.is_code() {
            return self.direct_target(descriptor).map(FarTarget::Code);
        }
        if !descriptor.is_system() {
            return Err(gp);
        }
        match (descriptor.kind(), self.st.long_mode()) {
            (kind::CALL, _) | (kind::CALL16, false) => {
                self.gate_target(&descriptor).map(FarTarget::Gate)
            }
            (kind::TASK_GATE, false) => {
                self.check_visible(&descriptor)?;
                if !descriptor.present() {
                    return Err(Exception::np(error_code(selector)));
                }
                self.task_gate_target(&descriptor).map(FarTarget::Task)
            }
            (kind::TSS16 | kind::TSS, false) => {
                self.check_visible(&descriptor)?;
                if !descriptor.present() {
                    return Err(Exception::np(error_code(selector)));
                }
                if selector & 4 != 0 {
                    Err(gp)
                } else {
                    Ok(FarTarget::Task(descriptor))
                }
            }
            _ => Err(gp),
        }
    }

    /// A code segment named directly: entered at the current privilege level only.
    fn direct_target(&self, descriptor: Descriptor) -> Result<CodeTarget, Exception> {
        let error = error_code(descriptor.selector);
        let cpl = self.st.cpl();
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= cpl
        } else {
            rpl(descriptor.selector) <= cpl && descriptor.dpl() == cpl
        };
        if !allowed || (self.st.long_mode() && descriptor.has(attr::L | attr::DB)) {
            return Err(Exception::gp(error));
        }
        if !descriptor.present() {
            return Err(Exception::np(error));
        }
        Ok(CodeTarget::at(descriptor, cpl))
    }

    /// A gate or TSS can be used by those whose CPL and RPL its DPL admits.
    fn check_visible(&self, descriptor: &Descriptor) -> Result<(), Exception> {
        if descriptor.dpl() < self.st.cpl().max(rpl(descriptor.selector)) {
            return Err(Exception::gp(error_code(descriptor.selector)));
        }
        Ok(())
    }

    /// A call gate and the code segment behind it, which may be conforming or of an inner level.
    fn gate_target(&mut self, gate: &Descriptor) -> Result<GateTarget, Exception> {
        self.check_visible(gate)?;
        if !gate.present() {
            return Err(Exception::np(error_code(gate.selector)));
        }
        let gate_error = Exception::gp(error_code(gate.selector));
        let mut offset = gate.raw & 0xffff;
        let long = self.st.long_mode();
        if long {
            let high = self.descriptor_high(gate)?.ok_or(gate_error)?;
            if high >> 40 & 0x1f != 0 {
                return Err(gate_error);
            }
            offset |= high << 32;
        }
        if gate.kind() == kind::CALL {
            offset |= gate.raw >> 48 << 16;
        }
        let selector = (gate.raw >> 16) as u16;
        if is_null(selector) {
            return Err(Exception::GP0);
        }
        let gp = Exception::gp(error_code(selector));
        let code = self.descriptor(selector)?.ok_or(gp)?;
        if !code.is_code() || code.dpl() > self.st.cpl() {
            return Err(gp);
        }
        if long && (!code.has(attr::L) || code.has(attr::DB)) {
            return Err(gp);
        }
        if !code.present() {
            return Err(Exception::np(error_code(selector)));
        }
        let size = match (long, gate.kind()) {
            (true, _) => 8,
            (false, kind::CALL) => 4,
            (false, _) => 2,
        };
        Ok(GateTarget {
            code,
            offset,
            count: (gate.raw >> 32 & 0x1f) as usize,
            size,
        })
    }

    /// The available TSS that a task gate names.
    pub(crate) fn task_gate_target(&mut self, gate: &Descriptor) -> Result<Descriptor, Exception> {
        let selector = (gate.raw >> 16) as u16;
        let gp = Exception::gp(error_code(selector));
        if selector & 4 != 0 {
            return Err(gp);
        }
        let tss = self.descriptor(selector)?.ok_or(gp)?;
        if !tss.is_tss() || tss.is_busy() {
            return Err(gp);
        }
        if !tss.present() {
            return Err(Exception::np(error_code(selector)));
        }
        Ok(tss)
    }

    /// #GP(0) unless `offset` can be fetched from a code segment.
    pub(crate) fn check_offset(&self, cs: &Segment, offset: u64) -> Result<(), Exception> {
        let inside = if self.st.long_mode() && cs.has(attr::L) {
            self.is_canonical(offset)
        } else {
            offset <= u64::from(cs.limit)
        };
        if inside { Ok(()) } else { Err(Exception::GP0) }
    }

    /// Commits CS and RIP.
    pub(crate) fn transfer(&mut self, cs: Segment, rip: u64) {
        self.st.seg[Seg::Cs as usize] = cs;
        self.st.rip = rip;
    }
}
