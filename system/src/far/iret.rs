//! IRET in all modes (SDM vol. 2, IRET/IRETD/IRETQ; virtual-8086 mode vol. 3, 21.2.3 and 21.3).

use x86::flags::{AC, ID, IF, IOPL, IOPL_SHIFT, NT, RF, STATUS, TF, VIF, VIP, VM};
use x86::{Exception, Seg, cr4, flags};

use super::stack::Stack;
use super::task::TaskSwitch;
use crate::Vcpu;
use crate::boundary::KEEP_RF;
use crate::segments::descriptor::rpl;
use crate::segments::{error_code, vm86_segment};

/// IRET: c = opsize. NMIs are unblocked even if it faults (SDM vol. 3, 6.7.1).
pub fn iret(v: &mut Vcpu, _a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let size = (c & 0xff) as u32;
    if v.st.vm86() {
        v.iret_vm86(size)?;
    } else if v.st.real_mode() {
        v.st.nmi_blocked = false;
        let mask = v.iret_mask(size) & !(VIF | VIP);
        v.iret_real(size, mask)?;
    } else {
        v.st.nmi_blocked = false;
        if v.st.rflags & NT != 0 {
            v.iret_task()?;
        } else {
            v.iret_protected(size)?;
        }
    }
    // RF comes with the popped image and survives the end of this instruction.
    if v.st.rflags & RF != 0 {
        v.pending_debug |= KEEP_RF;
    }
    Ok(0)
}

impl Vcpu {
    fn iopl(&self) -> u8 {
        ((self.st.rflags & IOPL) >> IOPL_SHIFT) as u8
    }

    /// The RFLAGS bits that IRET takes from the stack.
    fn iret_mask(&self, size: u32) -> u64 {
        let cpl = self.st.cpl();
        let mut mask = STATUS | TF | flags::DF | NT;
        if size > 2 {
            mask |= RF | AC | ID;
        }
        if cpl <= self.iopl() {
            mask |= IF;
        }
        if cpl == 0 {
            mask |= IOPL;
            if size > 2 {
                mask |= VIF | VIP;
            }
        }
        mask
    }

    /// RFLAGS with the bits of `mask` replaced. A 16-bit image ends RF.
    fn merge_flags(&mut self, image: u64, mask: u64) {
        let old = self.rflags() & !RF;
        self.set_rflags(old & !mask | image & mask);
    }

    fn iret_real(&mut self, size: u32, mask: u64) -> Result<(), Exception> {
        let mut stack = Stack::current(self);
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let image = stack.pop(self, size)?;
        let cs = self.real_code(selector);
        self.check_offset(&cs, rip)?;
        self.st.gpr[4] = stack.rsp();
        self.transfer(cs, rip);
        self.merge_flags(image, mask);
        Ok(())
    }

    fn iret_vm86(&mut self, size: u32) -> Result<(), Exception> {
        if self.iopl() == 3 {
            self.st.nmi_blocked = false;
            return self.iret_real(size, self.iret_mask(size));
        }
        if size != 2 || self.st.cr4 & cr4::VME == 0 {
            return Err(Exception::GP0);
        }
        // VME: IF on the stack is the virtual interrupt flag.
        let mut stack = Stack::current(self);
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let image = stack.pop(self, size)?;
        if image & TF != 0 || (image & IF != 0 && self.st.rflags & VIP != 0) {
            return Err(Exception::GP0);
        }
        let cs = vm86_segment(selector);
        self.check_offset(&cs, rip)?;
        self.st.nmi_blocked = false;
        self.st.gpr[4] = stack.rsp();
        self.transfer(cs, rip);
        let vif = if image & IF != 0 { VIF } else { 0 };
        self.merge_flags(image & !VIF | vif, STATUS | TF | flags::DF | NT | VIF);
        Ok(())
    }

    /// Return to the task that the current one is nested in.
    fn iret_task(&mut self) -> Result<(), Exception> {
        if self.st.long_mode() {
            return Err(Exception::GP0);
        }
        let link = self.read_system(self.table_address(self.st.tr.base, 0), 2)? as u16;
        let ts = Exception::ts(error_code(link));
        if link & 4 != 0 {
            return Err(ts);
        }
        let tss = self.descriptor(link)?.ok_or(ts)?;
        if !tss.is_tss() || !tss.is_busy() {
            return Err(ts);
        }
        if !tss.present() {
            return Err(Exception::np(error_code(link)));
        }
        self.switch_task(&tss, TaskSwitch::Return, self.next_ip)
    }

    fn iret_protected(&mut self, size: u32) -> Result<(), Exception> {
        let mut stack = Stack::current(self);
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let image = stack.pop(self, size)?;
        let cpl = self.st.cpl();
        if size == 4 && image & VM != 0 && cpl == 0 && !self.st.long_mode() {
            return self.iret_to_vm86(stack, rip, selector, image);
        }
        let code64 = self.st.code64();
        let target = self.return_code(selector)?;
        let mask = self.iret_mask(size);
        if rpl(selector) == cpl && !code64 {
            self.check_offset(&target.segment, rip)?;
            self.mark_accessed(&target.descriptor)?;
            self.st.gpr[4] = stack.rsp();
            self.transfer(target.segment, rip);
        } else {
            let rsp = stack.pop(self, size)?;
            let ss = stack.pop(self, size)? as u16;
            let outer = self.return_stack(ss, &target.segment)?;
            self.check_offset(&target.segment, rip)?;
            self.mark_returned(&target, &outer)?;
            self.enter_outer(&target, &outer, rip, rsp);
        }
        self.merge_flags(image, mask);
        Ok(())
    }

    fn iret_to_vm86(
        &mut self,
        mut stack: Stack,
        rip: u64,
        cs: u16,
        image: u64,
    ) -> Result<(), Exception> {
        let mut popped = [0; 6];
        for value in &mut popped {
            *value = stack.pop(self, 4)?;
        }
        let [esp, ss, es, ds, fs, gs] = popped;
        let cs = vm86_segment(cs);
        self.check_offset(&cs, rip)?;
        for (seg, selector) in [
            (Seg::Ss, ss),
            (Seg::Es, es),
            (Seg::Ds, ds),
            (Seg::Fs, fs),
            (Seg::Gs, gs),
        ] {
            self.st.seg[seg as usize] = vm86_segment(selector as u16);
        }
        self.st.gpr[4] = esp;
        self.transfer(cs, rip);
        self.set_rflags(image);
        Ok(())
    }
}
