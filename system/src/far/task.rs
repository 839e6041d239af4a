//! Hardware task switches (SDM vol. 3, chapter 8).
//!
//! Everything that can fault in the old task's context is probed first: both TSSs and the descriptors whose busy bits
//! change. Then the new task's registers are loaded; what its segments raise from there on is the new task's fault, and
//! RIP and `ip` are its own.

use softmmu::Privilege;
use x86::flags::{FIXED, NT, RF, VM, WRITABLE};
use x86::{Exception, LinAddr, Seg, Segment, cr0};

use super::gate::CodeTarget;
use super::stack::{Frame, Stack};
use crate::boundary::{KEEP_RF, dr6};
use crate::segments::descriptor::{kind, rpl};
use crate::segments::{Descriptor, error_code, is_null, null_segment, vm86_segment};
use crate::{Vcpu, fault};

/// What causes a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskSwitch {
    Jump,
    Call,
    /// IRET with NT set.
    Return,
    /// A task gate in the IDT.
    Event {
        /// Pushed on the new task's stack.
        error: Option<u32>,
        /// The old task will resume with RF set: it has a fault.
        resume: bool,
    },
}

impl TaskSwitch {
    /// The new task is linked to the old one, which stays busy.
    fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Event { .. })
    }
}

/// Where a TSS of either size holds what (SDM vol. 3, figures 8-2 and 8-10).
struct Layout {
    /// Bytes in a register.
    size: u32,
    /// The least limit.
    limit: u32,
    /// EIP, EFLAGS, the eight general registers, then selectors.
    dynamic: u32,
    /// Selectors: ES, CS, SS, DS and with 32 bits FS, GS.
    selectors: u32,
    /// How many selectors.
    segments: usize,
    /// LDT selector.
    ldt: u32,
}

const SMALL: Layout = Layout {
    size: 2,
    limit: 0x2b,
    dynamic: 0xe,
    selectors: 0x22,
    segments: 4,
    ldt: 0x2a,
};
const LARGE: Layout = Layout {
    size: 4,
    limit: 0x67,
    dynamic: 0x20,
    selectors: 0x48,
    segments: 6,
    ldt: 0x60,
};
/// CR3 in a 32-bit TSS.
const CR3: u32 = 0x1c;
/// The T bit in a 32-bit TSS.
const TRAP: u32 = 0x64;

/// Bit 3 of the type tells a 32-bit TSS from a 16-bit one.
fn layout(attr: u32) -> &'static Layout {
    if attr & 8 != 0 { &LARGE } else { &SMALL }
}

/// What a TSS holds of a task.
struct TaskState {
    cr3: Option<u64>,
    rip: u64,
    rflags: u64,
    gpr: [u64; 8],
    /// In `Seg` order.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Vcpu {
    /// Switches to the task of a TSS whose type and presence the caller has checked. `rip` is where the old task
    /// resumes.
    pub(crate) fn switch_task(
        &mut self,
        tss: &Descriptor,
        cause: TaskSwitch,
        rip: u64,
    ) -> Result<(), Exception> {
        let new = layout(tss.attr());
        let ts = Exception::ts(error_code(tss.selector));
        if tss.limit() < new.limit {
            return Err(ts);
        }
        let old_tr = self.st.tr;
        let old = layout(old_tr.attr);
        let saved_end = old.selectors + old.segments as u32 * old.size;
        if old_tr.limit < saved_end - 1 {
            return Err(Exception::ts(error_code(old_tr.selector)));
        }
        self.probe_task(&old_tr, old, saved_end, tss, new, cause)?;

        if !cause.nests() {
            let lin = self.table_address(self.st.gdtr.base, u64::from(old_tr.selector & 0xfff8));
            self.mark_busy(lin, false)?;
        }
        let mut image = self.rflags();
        match cause {
            TaskSwitch::Return => image &= !NT,
            TaskSwitch::Event { resume: true, .. } => image |= RF,
            _ => {}
        }
        self.save_task(old_tr.base, old, rip, image)?;
        let mut state = self.read_task(tss.base(), new)?;
        if cause.nests() {
            self.write_tss(tss.base(), 0, 2, u64::from(old_tr.selector))?;
            state.rflags |= NT;
        }
        if cause != TaskSwitch::Return {
            self.mark_busy(tss.lin, true)?;
        }
        self.load_task_cr3(&state)?;
        self.commit_task(tss, &state);
        self.load_task_segments(&state)?;
        if let TaskSwitch::Event {
            error: Some(error), ..
        } = cause
        {
            let mut frame = Frame::new(Stack::current(self), new.size);
            frame.push(self, u64::from(error))?;
            self.st.gpr[4] = frame.store(self)?;
        }
        self.check_offset(&self.st.seg[Seg::Cs as usize], self.st.rip)
    }

    /// Raises what the switch would raise while it still belongs to the old task.
    fn probe_task(
        &mut self,
        old_tr: &Segment,
        old: &Layout,
        saved_end: u32,
        tss: &Descriptor,
        new: &Layout,
        cause: TaskSwitch,
    ) -> Result<(), Exception> {
        let first = self.table_address(old_tr.base, u64::from(old.dynamic));
        self.probe_system(first, saved_end - old.dynamic, true)?;
        self.probe_system(tss.base(), new.limit + 1, false)?;
        if cause.nests() {
            self.probe_system(tss.base(), 2, true)?;
        } else {
            let descriptor =
                self.table_address(self.st.gdtr.base, u64::from(old_tr.selector & 0xfff8));
            self.probe_system(descriptor, 8, true)?;
        }
        if cause != TaskSwitch::Return {
            self.probe_system(tss.lin, 8, true)?;
        }
        Ok(())
    }

    fn probe_system(&mut self, lin: u64, len: u32, write: bool) -> Result<(), Exception> {
        let (lin, len) = (LinAddr(lin), u64::from(len));
        let done = if write {
            self.mmu.probe_write(lin, len, Privilege::Implicit)
        } else {
            self.mmu.probe_read(lin, len, Privilege::Implicit)
        };
        done.map_err(fault)
    }

    fn read_tss(&mut self, base: u64, offset: u32, size: u32) -> Result<u64, Exception> {
        self.read_system(self.table_address(base, u64::from(offset)), size)
    }

    fn write_tss(
        &mut self,
        base: u64,
        offset: u32,
        size: u32,
        value: u64,
    ) -> Result<(), Exception> {
        self.write_system(self.table_address(base, u64::from(offset)), size, value)
    }

    fn save_task(
        &mut self,
        base: u64,
        tss: &Layout,
        rip: u64,
        image: u64,
    ) -> Result<(), Exception> {
        let mut values = [0; 10];
        values[0] = rip;
        values[1] = image;
        values[2..].copy_from_slice(&self.st.gpr[..8]);
        let mask = if tss.size == 4 { 0xffff_ffff } else { 0xffff };
        for (offset, value) in (tss.dynamic..).step_by(tss.size as usize).zip(values) {
            self.write_tss(base, offset, tss.size, value & mask)?;
        }
        for (offset, n) in (tss.selectors..)
            .step_by(tss.size as usize)
            .zip(0..tss.segments)
        {
            self.write_tss(base, offset, 2, u64::from(self.st.seg[n].selector))?;
        }
        Ok(())
    }

    fn read_task(&mut self, base: u64, tss: &Layout) -> Result<TaskState, Exception> {
        let mut values = [0; 10];
        for (offset, value) in (tss.dynamic..).step_by(tss.size as usize).zip(&mut values) {
            *value = self.read_tss(base, offset, tss.size)?;
        }
        let mut selectors = [0; 6];
        for (offset, n) in (tss.selectors..)
            .step_by(tss.size as usize)
            .zip(0..tss.segments)
        {
            selectors[n] = self.read_tss(base, offset, 2)? as u16;
        }
        let large = tss.size == 4;
        let mut gpr = [0; 8];
        gpr.copy_from_slice(&values[2..]);
        Ok(TaskState {
            cr3: if large {
                Some(self.read_tss(base, CR3, 4)?)
            } else {
                None
            },
            rip: values[0],
            rflags: values[1] & WRITABLE | FIXED,
            gpr,
            selectors,
            ldt: self.read_tss(base, tss.ldt, 2)? as u16,
            trap: large && self.read_tss(base, TRAP, 2)? & 1 != 0,
        })
    }

    /// CR3 (and with PAE the PDPTEs) of the new task, when paging is on.
    fn load_task_cr3(&mut self, state: &TaskState) -> Result<(), Exception> {
        let Some(cr3) = state.cr3.filter(|_| self.st.cr0 & cr0::PG != 0) else {
            return Ok(());
        };
        self.mmu.write_cr3(cr3, false).map_err(|_| Exception::GP0)?;
        self.st.cr3 = cr3;
        self.st.pdpte = self.mmu.state().pdptes;
        Ok(())
    }

    /// The commit point: the new task's registers, with its segments not loaded yet.
    fn commit_task(&mut self, tss: &Descriptor, state: &TaskState) {
        let tr = tss.segment(tss.selector);
        self.st.tr = Segment {
            attr: tr.attr | kind::BUSY,
            ..tr
        };
        self.st.cr0 |= cr0::TS;
        // Local breakpoints are of the old task.
        self.st.dr7 &= !0x155;
        self.sync_watches();
        self.st.gpr[..8].copy_from_slice(&state.gpr);
        let level = if state.rflags & VM != 0 {
            3
        } else {
            rpl(state.selectors[Seg::Cs as usize])
        };
        for (segment, selector) in self.st.seg.iter_mut().zip(state.selectors) {
            *segment = null_segment(selector, level);
        }
        self.st.ldtr = null_segment(state.ldt, 0);
        self.st.rip = state.rip;
        self.ip = state.rip;
        self.next_ip = state.rip;
        let before = self.rflags();
        self.set_rflags(state.rflags);
        self.mask_step(before);
        if state.rflags & RF != 0 {
            self.pending_debug |= KEEP_RF;
        }
        if state.trap {
            self.pending_debug |= dr6::BT;
        }
    }

    /// Loads LDTR and the segment registers from the new task's selectors, in the new task's context.
    fn load_task_segments(&mut self, state: &TaskState) -> Result<(), Exception> {
        self.load_task_ldt(state.ldt)?;
        if state.rflags & VM != 0 {
            for (segment, selector) in self.st.seg.iter_mut().zip(state.selectors) {
                *segment = vm86_segment(selector);
            }
            self.sync_mmu();
            return Ok(());
        }
        let cpl = rpl(state.selectors[Seg::Cs as usize]);
        let ss = self.task_stack(state.selectors[Seg::Ss as usize], cpl)?;
        self.st.seg[Seg::Ss as usize] = ss;
        let cs = self.task_code(state.selectors[Seg::Cs as usize])?;
        self.st.seg[Seg::Cs as usize] = cs;
        self.sync_mmu();
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let selector = state.selectors[seg as usize];
            if !is_null(selector) {
                self.st.seg[seg as usize] = self.task_data(selector, cpl)?;
            }
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Result<(), Exception> {
        if is_null(selector) {
            return Ok(());
        }
        let ts = Exception::ts(error_code(selector));
        if selector & 4 != 0 {
            return Err(ts);
        }
        let ldt = self.descriptor(selector)?.ok_or(ts)?;
        if !ldt.is_system() || ldt.kind() != kind::LDT || !ldt.present() {
            return Err(ts);
        }
        self.st.ldtr = ldt.segment(selector);
        Ok(())
    }

    fn task_stack(&mut self, selector: u16, cpl: u8) -> Result<Segment, Exception> {
        let ts = Exception::ts(error_code(selector));
        if is_null(selector) {
            return Err(ts);
        }
        let stack = self.descriptor(selector)?.ok_or(ts)?;
        if !stack.is_writable_data() || stack.dpl() != cpl || rpl(selector) != cpl {
            return Err(ts);
        }
        if !stack.present() {
            return Err(Exception::ss(error_code(selector)));
        }
        self.mark_accessed(&stack)?;
        Ok(stack.segment(selector))
    }

    fn task_code(&mut self, selector: u16) -> Result<Segment, Exception> {
        let ts = Exception::ts(error_code(selector));
        if is_null(selector) {
            return Err(ts);
        }
        let code = self.descriptor(selector)?.ok_or(ts)?;
        let level = rpl(selector);
        let matches = if code.is_conforming() {
            code.dpl() <= level
        } else {
            code.dpl() == level
        };
        if !code.is_code() || !matches {
            return Err(ts);
        }
        if !code.present() {
            return Err(Exception::np(error_code(selector)));
        }
        self.mark_accessed(&code)?;
        Ok(CodeTarget::at(code, level).segment)
    }

    fn task_data(&mut self, selector: u16, cpl: u8) -> Result<Segment, Exception> {
        let ts = Exception::ts(error_code(selector));
        let data = self.descriptor(selector)?.ok_or(ts)?;
        let visible = data.is_conforming() || data.dpl() >= cpl.max(rpl(selector));
        if !data.is_readable() || !visible {
            return Err(ts);
        }
        if !data.present() {
            return Err(Exception::np(error_code(selector)));
        }
        self.mark_accessed(&data)?;
        Ok(data.segment(selector))
    }
}
