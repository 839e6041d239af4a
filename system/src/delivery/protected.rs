//! Delivery in protected and virtual-8086 mode (SDM vol. 2, INT n, "PROTECTED-MODE"; vol. 3, 6.12 and 21.3.1).

use x86::{Exception, Seg};

use super::Event;
use super::idt::Gate;
use crate::Vcpu;
use crate::far::task::TaskSwitch;
use crate::far::{CodeTarget, Frame, Stack};
use crate::segments::descriptor::kind;
use crate::segments::{Descriptor, error_code, is_null, null_segment};

impl Vcpu {
    pub(super) fn deliver_protected(&mut self, event: &Event) -> Result<(), Exception> {
        let gate = self.gate(event)?;
        if gate.kind == kind::TASK_GATE {
            let tss = self.task_gate_target(&gate.raw)?;
            let cause = TaskSwitch::Event {
                error: event.error,
                resume: event.resume,
            };
            return self.switch_task(&tss, cause, event.ip);
        }
        let code = self.handler_code(&gate)?;
        let cpl = self.st.cpl();
        let vm86 = self.st.vm86();
        if !code.is_conforming() && code.dpl() < cpl {
            if vm86 && code.dpl() != 0 {
                return Err(Exception::gp(error_code(gate.selector)));
            }
            self.deliver_inner(event, &gate, code)
        } else if vm86 {
            Err(Exception::gp(error_code(gate.selector)))
        } else {
            self.deliver_same(event, &gate, code)
        }
    }

    /// The code segment of an interrupt or trap gate, at the current or an inner level.
    pub(super) fn handler_code(&mut self, gate: &Gate) -> Result<Descriptor, Exception> {
        if is_null(gate.selector) {
            return Err(Exception::GP0);
        }
        let gp = Exception::gp(error_code(gate.selector));
        let code = self.descriptor(gate.selector)?.ok_or(gp)?;
        if !code.is_code() || code.dpl() > self.st.cpl() {
            return Err(gp);
        }
        if !code.present() {
            return Err(Exception::np(error_code(gate.selector)));
        }
        Ok(code)
    }

    /// On the current stack.
    fn deliver_same(
        &mut self,
        event: &Event,
        gate: &Gate,
        code: Descriptor,
    ) -> Result<(), Exception> {
        let target = CodeTarget::at(code, self.st.cpl());
        let mut frame = Frame::new(Stack::current(self), gate.size());
        self.push_return(&mut frame, event)?;
        self.check_offset(&target.segment, gate.offset)?;
        self.mark_accessed(&target.descriptor)?;
        self.st.gpr[4] = frame.store(self)?;
        self.transfer(target.segment, gate.offset);
        self.enter_handler(gate.is_trap());
        Ok(())
    }

    /// On the stack that the TSS holds for the inner level; from virtual-8086 mode with all segment registers.
    fn deliver_inner(
        &mut self,
        event: &Event,
        gate: &Gate,
        code: Descriptor,
    ) -> Result<(), Exception> {
        let cpl = code.dpl();
        let target = CodeTarget::at(code, cpl);
        let (stack, ss, esp) = self.tss_stack(cpl)?;
        let no_room = Exception::ss(error_code(ss.selector));
        let mut frame = Frame::new(Stack::inner(ss, esp, cpl, no_room), gate.size());
        let vm86 = self.st.vm86();
        if vm86 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                frame.push(self, u64::from(self.seg(seg).selector))?;
            }
        }
        frame.push(self, u64::from(self.seg(Seg::Ss).selector))?;
        frame.push(self, self.st.gpr[4])?;
        self.push_return(&mut frame, event)?;
        self.check_offset(&target.segment, gate.offset)?;
        self.mark_accessed(&target.descriptor)?;
        self.mark_accessed(&stack)?;
        let rsp = frame.store(self)?;
        self.st.gpr[4] = rsp;
        self.st.seg[Seg::Ss as usize] = ss;
        if vm86 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                self.st.seg[seg as usize] = null_segment(0, 0);
            }
        }
        self.transfer(target.segment, gate.offset);
        self.enter_handler(gate.is_trap());
        Ok(())
    }

    /// RFLAGS, CS, RIP and the error code.
    pub(super) fn push_return(&self, frame: &mut Frame, event: &Event) -> Result<(), Exception> {
        frame.push(self, event.flags(self))?;
        frame.push(self, u64::from(self.seg(Seg::Cs).selector))?;
        frame.push(self, event.ip)?;
        if let Some(error) = event.error {
            frame.push(self, u64::from(error))?;
        }
        Ok(())
    }
}
