//! CALL far (SDM vol. 2, CALL; call gates vol. 3, 5.8.4 and 5.8.5).

use x86::{Exception, Seg};

use super::gate::{CodeTarget, FarTarget, GateTarget, opsize_mask};
use super::stack::{Frame, Stack};
use super::task::TaskSwitch;
use crate::Vcpu;
use crate::segments::{error_code, null_segment};

/// CALL far: a = selector, b = offset, c = opsize in its low byte.
pub fn far_call(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let size = (c & 0xff) as u32;
    let (selector, offset) = (a as u16, b & opsize_mask(u64::from(size)));
    if v.st.real_mode() || v.st.vm86() {
        let cs = v.real_code(selector);
        let frame = v.return_frame(size)?;
        v.check_offset(&cs, offset)?;
        v.st.gpr[4] = frame.store(v)?;
        v.transfer(cs, offset);
        return Ok(0);
    }
    match v.far_target(selector)? {
        FarTarget::Code(target) => v.call_same(&target, offset, size)?,
        FarTarget::Gate(gate) if !gate.code.is_conforming() && gate.code.dpl() < v.st.cpl() => {
            v.call_inner(&gate)?
        }
        FarTarget::Gate(gate) => {
            let target = CodeTarget::at(gate.code, v.st.cpl());
            v.call_same(&target, gate.offset, gate.size)?;
        }
        FarTarget::Task(tss) => v.switch_task(&tss, TaskSwitch::Call, v.next_ip)?,
    }
    Ok(0)
}

impl Vcpu {
    /// CS and the next instruction's offset, to be pushed on the current stack.
    fn return_frame(&mut self, size: u32) -> Result<Frame, Exception> {
        let mut frame = Frame::new(Stack::current(self), size);
        frame.push(self, u64::from(self.seg(Seg::Cs).selector))?;
        frame.push(self, self.next_ip)?;
        Ok(frame)
    }

    fn call_same(&mut self, target: &CodeTarget, offset: u64, size: u32) -> Result<(), Exception> {
        let frame = self.return_frame(size)?;
        self.check_offset(&target.segment, offset)?;
        self.mark_accessed(&target.descriptor)?;
        self.st.gpr[4] = frame.store(self)?;
        self.transfer(target.segment, offset);
        Ok(())
    }

    /// Through a gate to an inner privilege level: its stack comes from the TSS, parameters are copied to it.
    fn call_inner(&mut self, gate: &GateTarget) -> Result<(), Exception> {
        let cpl = gate.code.dpl();
        let target = CodeTarget::at(gate.code, cpl);
        let old_ss = u64::from(self.seg(Seg::Ss).selector);
        let old_cs = u64::from(self.seg(Seg::Cs).selector);
        let old_rsp = self.st.gpr[4];
        let (descriptor, stack, ss, count) = if self.st.long_mode() {
            let ss = null_segment(u16::from(cpl), cpl);
            (None, Stack::flat64(ss, self.tss_rsp(cpl)?, cpl), ss, 0)
        } else {
            let (descriptor, ss, esp) = self.tss_stack(cpl)?;
            let no_room = Exception::ss(error_code(ss.selector));
            (
                Some(descriptor),
                Stack::inner(ss, esp, cpl, no_room),
                ss,
                gate.count,
            )
        };
        // Whether the frame fits comes before EIP, and both before the parameters are read.
        let mut room = Frame::new(stack, gate.size);
        for _ in 0..count + 4 {
            room.push(self, 0)?;
        }
        self.check_offset(&target.segment, gate.offset)?;
        let mut parameters = [0; 31];
        let mut caller = Stack::current(self);
        for parameter in &mut parameters[..count] {
            *parameter = caller.pop(self, gate.size)?;
        }
        let mut frame = Frame::new(stack, gate.size);
        frame.push(self, old_ss)?;
        frame.push(self, old_rsp)?;
        for parameter in parameters[..count].iter().rev() {
            frame.push(self, *parameter)?;
        }
        frame.push(self, old_cs)?;
        frame.push(self, self.next_ip)?;
        self.mark_accessed(&target.descriptor)?;
        if let Some(descriptor) = descriptor {
            self.mark_accessed(&descriptor)?;
        }
        let rsp = frame.store(self)?;
        self.st.seg[Seg::Ss as usize] = ss;
        self.st.gpr[4] = rsp;
        self.transfer(target.segment, gate.offset);
        self.sync_mmu();
        Ok(())
    }
}
