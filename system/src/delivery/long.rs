//! Delivery in long mode: 64-bit gates, interrupt stacks, an aligned frame of five (SDM vol. 3, 6.14).

use x86::{Exception, Seg, attr};

use super::Event;
use crate::Vcpu;
use crate::far::{CodeTarget, Frame, Stack};
use crate::segments::{error_code, null_segment};

impl Vcpu {
    pub(super) fn deliver_long(&mut self, event: &Event) -> Result<(), Exception> {
        let gate = self.gate(event)?;
        let code = self.handler_code(&gate)?;
        if !code.has(attr::L) || code.has(attr::DB) {
            return Err(Exception::gp(error_code(gate.selector)));
        }
        let old = self.st.cpl();
        let inner = !code.is_conforming() && code.dpl() < old;
        let cpl = if inner { code.dpl() } else { old };
        let target = CodeTarget::at(code, cpl);
        let ss = if inner {
            null_segment(u16::from(cpl), cpl)
        } else {
            *self.seg(Seg::Ss)
        };
        let rsp = if gate.ist != 0 {
            self.tss_ist(gate.ist)?
        } else if inner {
            self.tss_rsp(cpl)?
        } else {
            self.st.gpr[4]
        };
        let mut frame = Frame::new(Stack::flat64(ss, rsp & !0xf, cpl), 8);
        frame.push(self, u64::from(self.seg(Seg::Ss).selector))?;
        frame.push(self, self.st.gpr[4])?;
        self.push_return(&mut frame, event)?;
        self.check_offset(&target.segment, gate.offset)?;
        self.mark_accessed(&target.descriptor)?;
        let rsp = frame.store(self)?;
        self.st.gpr[4] = rsp;
        self.st.seg[Seg::Ss as usize] = ss;
        self.transfer(target.segment, gate.offset);
        self.enter_handler(gate.is_trap());
        Ok(())
    }
}
