//! JMP far (SDM vol. 2, JMP).

use x86::{Exception, Seg, Segment};

use super::gate::{CodeTarget, FarTarget, opsize_mask};
use super::task::TaskSwitch;
use crate::Vcpu;
use crate::segments::{error_code, real_segment, vm86_segment};

/// JMP far: a = selector, b = offset, c = opsize.
pub fn far_jump(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let (selector, offset) = (a as u16, b & opsize_mask(c & 0xff));
    if v.st.real_mode() || v.st.vm86() {
        let cs = v.real_code(selector);
        v.check_offset(&cs, offset)?;
        v.transfer(cs, offset);
        return Ok(0);
    }
    match v.far_target(selector)? {
        FarTarget::Code(target) => v.jump_to(&target, offset)?,
        FarTarget::Gate(gate) => {
            // A jump never changes the privilege level.
            if !gate.code.is_conforming() && gate.code.dpl() != v.st.cpl() {
                return Err(Exception::gp(error_code(gate.code.selector)));
            }
            let target = CodeTarget::at(gate.code, v.st.cpl());
            v.jump_to(&target, gate.offset)?;
        }
        FarTarget::Task(tss) => v.switch_task(&tss, TaskSwitch::Jump, v.next_ip)?,
    }
    Ok(0)
}

impl Vcpu {
    fn jump_to(&mut self, target: &CodeTarget, offset: u64) -> Result<(), Exception> {
        self.check_offset(&target.segment, offset)?;
        self.mark_accessed(&target.descriptor)?;
        self.transfer(target.segment, offset);
        Ok(())
    }

    /// CS as a load in real or virtual-8086 mode leaves it.
    pub(crate) fn real_code(&self, selector: u16) -> Segment {
        if self.st.vm86() {
            vm86_segment(selector)
        } else {
            real_segment(self.seg(Seg::Cs), selector)
        }
    }
}
