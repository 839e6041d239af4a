//! What blocks do not have and traces do: the way from one part to the next.

use std::mem::offset_of;

use ir::{Cond, Op, OpCode, Operand, PART, Width};

use super::Emit;
use crate::hops::By;
use crate::x64::asm::{Alu, Rm, Section};
use crate::x64::flags::State;
use crate::x64::frame::{Frame, PAGE_SLOT, S0, S1, field};

/// A part of a trace, but for the first.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// As in [`super::Context`], unless the part before is on the same page.
    pub guards: [Option<(usize, u32)>; 2],
    /// As in [`super::Context`].
    pub by: By,
}

impl Emit<'_> {
    /// At the marker of an instruction: if that is the first of a trace's next part, looks whether its page is still mapped as
    /// it was.
    pub(super) fn next_part(&mut self, at: usize) {
        if self.ops[at].sub & PART == 0 {
            return;
        }
        let part = self.cx.parts.get(self.part).copied();
        self.part += 1;
        self.begins.push(self.insn.ord);
        let Some(part) = part else { return };
        self.cx.by = part.by;
        if part.guards == [None; 2] {
            return;
        }
        self.at = at;
        self.clobber();
        let miss = self.a.label();
        for (slot, number) in part.guards.into_iter().flatten() {
            let place = Rm::M(field(offset_of!(Frame, pages) + slot * PAGE_SLOT));
            self.a
                .alu_imm(Alu::Cmp, Width::B32, place, number.cast_signed());
            self.a.jcc(Cond::Ne, miss);
        }
        let old = self.a.section(Section::Cold);
        let flags = self.flags();
        self.a.bind(miss);
        self.uncount();
        // The way out is one of the part before: what it leads to may be on another page than it was.
        let insn = self.insn;
        self.insn.ord = insn.ord.saturating_sub(1);
        self.cold_exit(self.pc(insn.delta), false);
        self.insn = insn;
        self.set_flags(flags);
        self.a.section(old);
    }

    /// Goes on if the offset is the expected one. Flags that follow from registers stay so.
    pub(super) fn expect(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        if !self.whole_pc(w) {
            return None;
        }
        if self.state == State::Host {
            self.spill();
        }
        self.hf = false;
        self.fetch(w, S1, op.a)?;
        if w < Width::B64 {
            self.a.movzx(w, S1, Rm::R(S1));
        }
        self.expected(op.b, 0)
    }

    /// Goes on if r11 is the address that is expected, else there. Flags are in memory, or follow from registers.
    pub(super) fn expected(&mut self, target: Operand, released: i32) -> Option<()> {
        let expected = self.constant(target)?;
        let other = self.a.label();
        if let Ok(small) = i32::try_from(expected) {
            self.a.alu_imm(Alu::Cmp, Width::B64, Rm::R(S1), small);
        } else {
            self.a.mov_imm(S0, expected.cast_unsigned());
            self.a.alu(Alu::Cmp, Width::B64, S1, Rm::R(S0));
        }
        self.a.jcc(Cond::Ne, other);
        let old = self.a.section(Section::Cold);
        self.a.bind(other);
        let flags = self.flags();
        if self.state != State::Memory {
            let target = field(offset_of!(Frame, ret));
            self.a.store(Width::B64, target, S1);
            self.spill();
            self.a.load(Width::B64, S1, Rm::M(target));
        }
        self.uncount_behind();
        self.leave_to(released, self.user);
        self.a.section(old);
        self.set_flags(flags);
        Some(())
    }

    /// Gives back to the budget the instructions from this one on.
    pub(super) fn uncount(&mut self) {
        self.give_back(i32::from(self.insn.ord));
    }

    /// As [`Emit::uncount`], from the next one on.
    fn uncount_behind(&mut self) {
        self.give_back(i32::from(self.insn.ord) + 1);
    }

    fn give_back(&mut self, done: i32) {
        let left = self.block.insns as i32 - done;
        if self.cx.count && left > 0 {
            let budget = Rm::M(field(offset_of!(Frame, budget)));
            self.a.alu_imm(Alu::Add, Width::B64, budget, left);
        }
    }

    /// Whether ops lead from one part of a trace to the next, or out of the block on the way: nothing for the interpreter.
    pub(super) fn leads_on(ops: &[Op]) -> bool {
        ops.iter()
            .any(|op| matches!(op.code, OpCode::SideExit | OpCode::Expect))
    }
}
