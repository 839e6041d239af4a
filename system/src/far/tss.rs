//! Stack pointers of inner privilege levels in the TSS (SDM vol. 3, 5.8.5, 6.14.5 and 8.2).

use x86::{Exception, Segment};

use crate::Vcpu;
use crate::segments::descriptor::rpl;
use crate::segments::{Descriptor, error_code, is_null};

impl Vcpu {
    /// SS and ESP of privilege level `cpl` (0..=2) from a 16- or 32-bit TSS, SS checked.
    pub(crate) fn tss_stack(&mut self, cpl: u8) -> Result<(Descriptor, Segment, u64), Exception> {
        let wide = self.st.tr.attr & 8 != 0;
        let size: u32 = if wide { 4 } else { 2 };
        let offset = u32::from(cpl) * size * 2 + size;
        let tr = self.st.tr;
        if offset + size + 1 > tr.limit {
            return Err(Exception::ts(error_code(tr.selector)));
        }
        let esp = self.read_system(self.table_address(tr.base, u64::from(offset)), size)?;
        let selector =
            self.read_system(self.table_address(tr.base, u64::from(offset + size)), 2)? as u16;
        let ts = Exception::ts(error_code(selector));
        if is_null(selector) {
            return Err(ts);
        }
        let descriptor = self.descriptor(selector)?.ok_or(ts)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(ts);
        }
        if !descriptor.present() {
            return Err(Exception::ss(error_code(selector)));
        }
        Ok((descriptor, descriptor.segment(selector), esp))
    }

    /// RSP of privilege level `cpl` (0..=2) from a 64-bit TSS.
    pub(crate) fn tss_rsp(&mut self, cpl: u8) -> Result<u64, Exception> {
        self.tss_qword(4 + u32::from(cpl) * 8)
    }

    /// Interrupt stack `ist` (1..=7) from a 64-bit TSS.
    pub(crate) fn tss_ist(&mut self, ist: u8) -> Result<u64, Exception> {
        self.tss_qword(0x1c + u32::from(ist) * 8)
    }

    fn tss_qword(&mut self, offset: u32) -> Result<u64, Exception> {
        let tr = self.st.tr;
        if offset + 7 > tr.limit {
            return Err(Exception::ts(error_code(tr.selector)));
        }
        self.read_system(tr.base.wrapping_add(u64::from(offset)), 8)
    }
}
