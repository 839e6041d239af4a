//! Delivery in real mode: through the IVT, no error codes (SDM vol. 3, 21.1.4).

use x86::{Exception, Seg};

use super::Event;
use crate::Vcpu;
use crate::far::{Frame, Stack};

impl Vcpu {
    pub(super) fn deliver_real(&mut self, event: &Event) -> Result<(), Exception> {
        let index = u64::from(event.vector) * 4;
        if index + 3 > u64::from(self.st.idtr.limit) {
            return Err(Exception::gp(u32::from(event.vector) << 3 | 2));
        }
        let lin = self.table_address(self.st.idtr.base, index);
        let handler = self.read_system(lin, 4)?;
        let mut frame = Frame::new(Stack::current(self), 2);
        frame.push(self, event.flags(self))?;
        frame.push(self, u64::from(self.seg(Seg::Cs).selector))?;
        frame.push(self, event.ip)?;
        self.st.gpr[4] = frame.store(self)?;
        let cs = self.real_code((handler >> 16) as u16);
        self.transfer(cs, handler & 0xffff);
        self.enter_real_handler();
        Ok(())
    }
}
