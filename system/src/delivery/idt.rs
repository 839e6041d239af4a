//! IDT gates (SDM vol. 3, 6.11 and 6.14.1).

use x86::{Exception, attr};

use super::{Event, Source};
use crate::Vcpu;
use crate::segments::Descriptor;
use crate::segments::descriptor::kind;

/// A gate that passed the checks on itself; what it leads to hasn't been looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    pub(super) raw: Descriptor,
    /// Task, interrupt or trap.
    pub(super) kind: u32,
    pub(super) selector: u16,
    pub(super) offset: u64,
    /// Interrupt stack table index, in long mode.
    pub(super) ist: u8,
}

impl Gate {
    /// IF survives.
    pub(super) fn is_trap(&self) -> bool {
        matches!(self.kind, kind::TRAP | kind::TRAP16)
    }

    /// Bytes in each push outside long mode.
    pub(super) fn size(&self) -> u32 {
        if self.kind & 8 != 0 { 4 } else { 2 }
    }
}

/// The error code that names an IDT entry.
fn idt_error(vector: u8) -> u32 {
    u32::from(vector) << 3 | 2
}

impl Vcpu {
    /// Fetches and checks the gate of an event: limit, type, DPL for software interrupts, presence.
    pub(super) fn gate(&mut self, event: &Event) -> Result<Gate, Exception> {
        let long = self.st.long_mode();
        let gp = Exception::gp(idt_error(event.vector));
        let width: u32 = if long { 16 } else { 8 };
        let index = u32::from(event.vector) * width;
        if index + width - 1 > u32::from(self.st.idtr.limit) {
            return Err(gp);
        }
        let lin = self.table_address(self.st.idtr.base, u64::from(index));
        let raw = Descriptor {
            selector: 0,
            lin,
            raw: self.read_system(lin, 8)?,
        };
        let kind = raw.kind();
        let known = match kind {
            kind::INT | kind::TRAP => true,
            kind::TASK_GATE | kind::INT16 | kind::TRAP16 => !long,
            _ => false,
        };
        if !known || raw.attr() & attr::S != 0 {
            return Err(gp);
        }
        if event.source == Source::Software && raw.dpl() < self.st.cpl() {
            return Err(gp);
        }
        if !raw.present() {
            return Err(Exception::np(idt_error(event.vector)));
        }
        let mut offset = raw.raw & 0xffff;
        if kind & 8 != 0 {
            offset |= raw.raw >> 48 << 16;
        }
        if long {
            offset |= self.read_system(lin.wrapping_add(8), 4)? << 32;
        }
        let ist = if long { (raw.raw >> 32 & 7) as u8 } else { 0 };
        Ok(Gate {
            raw,
            kind,
            selector: (raw.raw >> 16) as u16,
            offset,
            ist,
        })
    }
}
