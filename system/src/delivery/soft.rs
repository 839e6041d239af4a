//! Software interrupts: INT n, INT3, INTO, INT1, with IOPL and redirection in virtual-8086 mode (SDM vol. 3, 21.3.3).

use x86::flags::{IF, IOPL, RF, TF, VIF};
use x86::{Exception, Seg, cr4};

use super::{Event, Source};
use crate::Vcpu;
use crate::context::SoftInts;
use crate::far::{Frame, Stack};

/// Where a 32-bit TSS holds the offset of its I/O bitmap.
const IO_BASE: u32 = 0x66;

/// INT n, INT3, INTO, INT1: a = vector, c = kind (0 INT n, 1 INT3 or INTO, 2 INT1). The return address is `next_ip`.
pub fn soft_int(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let vector = a as u8;
    let before = v.st.rflags;
    if v.st.vm86() && c == 0 {
        if v.st.cr4 & cr4::VME != 0 && !v.intercepted(vector)? {
            v.hold(vector)?;
            v.redirect(vector)?;
            v.delivered(vector, before);
            return Ok(0);
        }
        if v.st.rflags & IOPL != IOPL {
            return Err(Exception::GP0);
        }
    }
    v.hold(vector)?;
    let source = if c == 2 {
        Source::Icebp
    } else {
        Source::Software
    };
    v.deliver(&Event {
        vector,
        error: None,
        source,
        ip: v.next_ip,
        resume: false,
    })?;
    v.delivered(vector, before);
    Ok(0)
}

impl Vcpu {
    /// Stops here where software interrupts are held back.
    fn hold(&mut self, vector: u8) -> Result<(), Exception> {
        match &mut self.soft_ints {
            SoftInts::Hold(held) => {
                *held = Some(vector);
                Err(Exception::new(vector))
            }
            SoftInts::Deliver | SoftInts::Note(_) => Ok(()),
        }
    }

    /// A software interrupt was delivered; `before` is RFLAGS from before it.
    fn delivered(&mut self, vector: u8, before: u64) {
        self.mask_step(before);
        if let SoftInts::Note(noted) = &mut self.soft_ints {
            noted.push(vector);
        }
    }

    /// The vector's bit in the software interrupt redirection bitmap, 32 bytes below the I/O bitmap.
    fn intercepted(&mut self, vector: u8) -> Result<bool, Exception> {
        let tr = self.st.tr;
        if tr.attr & 8 == 0 || tr.limit < IO_BASE + 1 {
            return Err(Exception::GP0);
        }
        let io = self.read_system(self.table_address(tr.base, u64::from(IO_BASE)), 2)? as u32;
        let offset = (io + u32::from(vector) / 8)
            .checked_sub(32)
            .ok_or(Exception::GP0)?;
        if offset > tr.limit {
            return Err(Exception::GP0);
        }
        let byte = self.read_system(self.table_address(tr.base, u64::from(offset)), 1)?;
        Ok(byte >> (vector & 7) & 1 != 0)
    }

    /// To the virtual-8086 program's own handler, as in real mode; below IOPL 3 VIF stands in for IF.
    fn redirect(&mut self, vector: u8) -> Result<(), Exception> {
        let handler = self.read_system(u64::from(vector) * 4, 4)?;
        let old = self.rflags();
        let mut image = old;
        let mut clear = TF | RF;
        if old & IOPL == IOPL {
            clear |= IF;
        } else {
            image = image & !IF | IOPL | if old & VIF != 0 { IF } else { 0 };
            clear |= VIF;
        }
        let mut frame = Frame::new(Stack::current(self), 2);
        frame.push(self, image)?;
        frame.push(self, u64::from(self.seg(Seg::Cs).selector))?;
        frame.push(self, self.next_ip)?;
        let rsp = frame.store(self)?;
        let cs = self.real_code((handler >> 16) as u16);
        self.st.gpr[4] = rsp;
        self.transfer(cs, handler & 0xffff);
        self.set_rflags(old & !clear);
        Ok(())
    }
}
