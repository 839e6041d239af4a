//! Loops of one block: the checks of their accesses before the loop, not in it.
//!
//! Where a block jumps to itself and the address of each access moves by the same number of bytes with each iteration (or
//! not at all), one look at the TLB says how often the block can run before an access leaves its page. That many
//! iterations run in a copy of the block without checks and without a look at the event word:
//!
//! ```text
//! hot   entry:  the block, with its checks; jumps back to `back`
//!       top:    the block without; counts down in the midst, where the flags are dead; jumps back to `top`
//! cold  back:   every few times to `ready`, else to `entry`
//!       ready:  finds the pages; how many iterations? if only a few: to `entry`
//!       last:   what follows the count in the last iteration; jumps back to `ready`
//! ```
//! The pages' addends and the count are in registers that the block does not name: `ready` saves them, each way out brings them
//! back.

mod plan;

use std::mem::offset_of;

use ir::{Cond, Mem, Op, OpCode, Operand, Width};
use softmmu::TlbEntry;

use super::Emit;
use crate::x64::asm::{self, Alu, Label, Reg, Rm, Section, Shift};
use crate::x64::flags::{Src, State};
use crate::x64::frame::{Frame, S0, S1, field};
use plan::{End, Folded, Range};

pub(super) use plan::Plan;

/// A line of the host's instruction cache: a short loop across two may take half as long again.
const LINE: u32 = 64;
/// Each page must be good for more iterations than this.
const FEW: i32 = 3;
/// Iterations without a look at the event word at most: no more than a page of the longest strides needs.
const MOST: u64 = 1023;
/// Ways back by `entry` before the next attempt, unless the last one was good for [`MANY`] iterations.
const PATIENCE: i32 = 15;
const MANY: i32 = 48;

impl Emit<'_> {
    /// Makes `here` the place of an access of a loop whose checks are before it. `None`: no such loop is being emitted.
    pub(super) fn unchecked(&mut self, mem: &Mem) -> Option<()> {
        let op = self.accessing();
        let range = self.repeat.as_ref()?.of_op(op)?;
        let (addend, folded, disp) = (range.addend, range.folded, mem.disp);
        let index = match self.place(mem.index) {
            Some(Rm::R(r)) if folded != Folded::Index => Some((r, mem.scale)),
            _ => None,
        };
        if folded == Folded::Base {
            self.here = asm::Mem {
                base: addend,
                index,
                disp,
                gs: false,
            };
            return Some(());
        }
        let (first, second) = match self.place(mem.base)? {
            Rm::R(base) => (addend, base),
            memory @ Rm::M(_) => {
                self.a.load(Width::B64, S0, memory);
                (S0, addend)
            }
        };
        let sum = asm::Mem {
            base: first,
            index: Some((second, 0)),
            disp,
            gs: false,
        };
        self.here = if index.is_some() {
            self.a.lea(Width::B64, S0, sum);
            asm::Mem {
                base: S0,
                index,
                disp: 0,
                gs: false,
            }
        } else {
            sum
        };
        Some(())
    }

    /// Emits the branch of a block that it may jump to itself by, and the loop without checks. `None`: it is no such block,
    /// and nothing was emitted.
    pub(super) fn loop_branch(&mut self, op: &Op, cond: Cond) -> Option<()> {
        let start = Operand::Pc(0);
        let (stay, leave) = match (op.a == start, op.b == start) {
            (true, false) => (cond, op.b),
            (false, true) => (cond.negate(), op.a),
            _ => return None,
        };
        let again = match (self.state, self.cx.flags) {
            (State::Desc(now), Some(entry)) => now == entry,
            (State::Memory | State::Host, None) => true,
            _ => false,
        };
        let one_page = self.cx.guards[1].is_none();
        if !again
            || !one_page
            || !self.cx.merge
            || self.cx.check.is_some()
            || op.width != Width::B64
        {
            return None;
        }
        let body = self.ops.len() - 1;
        let plan = Plan::of(
            &self.ops[..body],
            self.cx.flags,
            (stay == Cond::Ne).then_some(self.state),
        )?;
        let leave = self.exit_target(leave, op.width)?;
        let (calm, _) = super::looked_at(self.block, Vec::new(), Vec::new(), |op| op.terminal);
        if !calm[0].is_empty() {
            return None;
        }
        let count_at = (0..body)
            .rev()
            .find(|n| self.ops[*n].code == OpCode::Insn && calm[*n].is_empty())?;

        let mark = self.mark();
        let compared = self.compared();
        let need = std::mem::replace(&mut self.need, calm);
        self.repeat = Some(plan);
        let done = self.two_loops(op.cond(), stay, leave, count_at);
        self.repeat = None;
        self.repeats |= done.is_some();
        self.need = need;
        if done.is_none() {
            self.take_back(&mark);
            self.compared = compared.map(|c| self.rearmed(c));
            self.align = super::ALIGN;
        }
        done
    }

    fn two_loops(&mut self, cond: Cond, stay: Cond, leave: u64, count_at: usize) -> Option<()> {
        let calls = [self.sides.len(), self.slow.len(), self.indirects.len()];
        let (back, ready, again) = (self.a.label(), self.a.label(), self.a.label());
        let (top, last) = (self.a.label(), self.a.label());
        self.a.jcc(stay, back);
        self.way_out(leave, |e, stub| e.a.jmp_link(stub));
        self.a.section(Section::Cold);
        self.loop_back(back, ready);
        self.loop_ready(ready, again, top)?;

        self.a.section(Section::Hot);
        self.align = LINE;
        while !self.a.here().is_multiple_of(LINE) {
            self.a.byte(0x90);
        }
        self.a.bind(top);
        self.loop_part(0, count_at)?;
        let plan = self.repeat.as_ref()?;
        let (count, foreseen) = (plan.count, plan.end.is_some());
        let end = self.ops.len() - 1;
        let rest = &self.ops[count_at..end];
        let compares = rest
            .iter()
            .all(|op| op.dst == Operand::None && op.dst2 == Operand::None && op.mem.is_none());
        self.a.alu_imm(Alu::Sub, Width::B64, Rm::R(count), 1);
        if foreseen && compares {
            self.a.jcc(Cond::Ae, top);
            self.a.jmp(last);
        } else if foreseen {
            self.a.jcc(Cond::B, last);
            self.loop_part(count_at, end)?;
            self.a.jmp(top);
        } else {
            self.a.jcc(Cond::B, last);
            self.loop_part(count_at, end)?;
            self.condition(cond);
            self.a.jcc(stay, top);
            self.loop_uncount();
            self.restore();
            self.way_out(leave, |e, stub| e.a.jmp_link(stub));
        }

        self.a.section(Section::Cold);
        self.a.bind(last);
        self.loop_part(count_at, end)?;
        self.condition(cond);
        let on = self.a.label();
        self.a.jcc(stay, on);
        let flags = self.flags();
        self.restore();
        self.cold_exit(leave, false);
        self.set_flags(flags);
        self.a.bind(on);
        if self.state == State::Host {
            self.spill();
        }
        self.a.jmp(again);
        self.a.section(Section::Hot);
        // The guest's registers are not where Rust code would look for them.
        let same = calls == [self.sides.len(), self.slow.len(), self.indirects.len()];
        same.then_some(())
    }

    /// Emits instructions, from one on where nobody looks at the flags.
    fn loop_part(&mut self, from: usize, to: usize) -> Option<()> {
        self.state = State::Memory;
        self.stored = None;
        self.hf = false;
        self.forget_checks();
        let mut at = from;
        while at < to {
            let end = self.instruction_end(at).min(to);
            self.instruction(at, end)?;
            at = end;
        }
        self.at = to;
        Some(())
    }

    /// The way back of the loop with checks.
    fn loop_back(&mut self, back: Label, ready: Label) {
        let (flags, compared) = (self.flags(), self.compared());
        self.a.bind(back);
        self.compared = compared.map(|c| self.rearmed(c));
        if self.state == State::Host {
            self.spill();
        }
        let patience = Rm::M(field(offset_of!(Frame, patience)));
        self.a.alu_imm(Alu::Sub, Width::B32, patience, 1);
        self.a.jcc(Cond::B, ready);
        self.a.jmp(self.entry);
        self.set_flags(flags);
    }

    /// Finds the pages, and the number of iterations.
    fn loop_ready(&mut self, ready: Label, again: Label, top: Label) -> Option<()> {
        let w = Width::B64;
        let plan = self.repeat.take()?;
        let budget = Rm::M(field(offset_of!(Frame, budget)));
        let odd = self.a.label();
        self.a.bind(ready);
        for (reg, place) in plan.taken() {
            self.a.store(w, place, reg);
        }
        self.a.bind(again);
        let patience = field(offset_of!(Frame, patience));
        self.a.store_imm(Width::B32, Rm::M(patience), PATIENCE);
        self.look_at_events(odd);
        self.a.mov_imm(plan.count, MOST);
        for range in &plan.ranges {
            let length = range.high - range.low;
            let first = Mem {
                index: range.index,
                scale: range.scale,
                disp: i32::try_from(range.low).ok()?,
                ..Mem::at(range.base, 0)
            };
            self.address_into(&first, S0, w)?;
            self.by_tlb(length as u32, range.write, range.align as u32, odd);
            let found = asm::Mem::at(S1, TlbEntry::OFFSET_ADDEND as i32);
            self.a.load(w, range.addend, Rm::M(found));
            self.fold(range)?;
            if range.stride == 0 {
                continue;
            }
            // How often it fits into what is left of the page.
            let left = if range.stride > 0 {
                self.a.mov_imm(S1, (4096 - length) as u64);
                self.a.alu(Alu::Sub, w, S1, Rm::R(S0));
                S1
            } else {
                S0
            };
            let step = range.stride.unsigned_abs();
            if step > 1 {
                let shift = step.next_power_of_two().trailing_zeros() as u8;
                self.a.shift_imm(Shift::Shr, w, Rm::R(left), shift);
            }
            self.at_most(plan.count, left);
        }
        if let Some(end) = plan.end {
            self.loop_end(&end, plan.count)?;
        }
        if self.cx.count {
            // All of them at once; what is not used is given back.
            let shift = self.block.insns.next_power_of_two().trailing_zeros();
            self.a.load(w, S0, budget);
            self.a.shift_imm(Shift::Sar, w, Rm::R(S0), shift as u8);
            self.a.alu_imm(Alu::Sub, w, Rm::R(S0), 1);
            self.a.alu(Alu::Cmp, w, S0, Rm::R(plan.count));
            self.a.cmov(w, Cond::L, plan.count, Rm::R(S0));
        }
        self.a.alu_imm(Alu::Cmp, w, Rm::R(plan.count), FEW);
        self.a
            .jcc(if self.cx.count { Cond::L } else { Cond::B }, odd);
        // A loop that was long will be long.
        self.a.alu_imm(Alu::Cmp, w, Rm::R(plan.count), MANY);
        self.a.alu(Alu::Sbb, Width::B32, S1, Rm::R(S1));
        self.a.alu_imm(Alu::And, Width::B32, Rm::R(S1), PATIENCE);
        self.a.store(Width::B32, patience, S1);
        if self.cx.count {
            self.loop_insns(plan.count);
            self.a.alu_to(Alu::Sub, w, budget, S0);
        }
        self.a.jmp(top);
        self.a.bind(odd);
        self.repeat = Some(plan);
        self.restore();
        self.a.jmp(self.entry);
        Some(())
    }

    /// Bounds the count of iterations but the last by what is left to the loop's end.
    fn loop_end(&mut self, end: &End, count: Reg) -> Option<()> {
        let w = end.width;
        let moves = self.place(Operand::Reg(end.gpr))?;
        let at = match end.at {
            Src::Reg(g) => self.place(Operand::Reg(g))?,
            Src::Imm(n) => {
                self.a.mov_imm(S0, i64::from(n).cast_unsigned());
                Rm::R(S0)
            }
            Src::Minus(_) | Src::Plus(_) => return None,
        };
        let (from, to) = if end.step > 0 {
            (moves, at)
        } else {
            (at, moves)
        };
        self.a.load(w, S1, to);
        self.a.alu(Alu::Sub, w, S1, from);
        let step = end.step.unsigned_abs();
        // What it steps over, or away from, is far away; so is what it is at.
        let never = self.a.label();
        if step > 1 {
            self.a.test_imm(Width::B32, Rm::R(S1), step as i32 - 1);
            self.a.jcc(Cond::Ne, never);
            self.a
                .shift_imm(Shift::Shr, w, Rm::R(S1), step.trailing_zeros() as u8);
        }
        self.a.lea(Width::B64, S1, asm::Mem::at(S1, -1));
        self.at_most(count, S1);
        self.a.bind(never);
        Some(())
    }

    fn at_most(&mut self, count: Reg, most: Reg) {
        self.a.alu(Alu::Cmp, Width::B64, most, Rm::R(count));
        self.a.cmov(Width::B64, Cond::B, count, Rm::R(most));
    }

    /// Adds to an addend what does not move.
    fn fold(&mut self, range: &Range) -> Option<()> {
        let w = Width::B64;
        let to = range.addend;
        match range.folded {
            Folded::Nothing => {}
            Folded::Base => match self.constant(range.base) {
                Some(n) => {
                    self.a.mov_imm(S1, n.cast_unsigned());
                    self.note_pc(range.base);
                    self.a.alu(Alu::Add, w, to, Rm::R(S1));
                }
                None if range.base.is_some() => {
                    let base = self.place(range.base)?;
                    self.a.alu(Alu::Add, w, to, base);
                }
                None => {}
            },
            Folded::Index => {
                let index = self.register(w, S1, range.index)?;
                let sum = asm::Mem {
                    base: to,
                    index: Some((index, range.scale)),
                    disp: 0,
                    gs: false,
                };
                self.a.lea(w, to, sum);
            }
        }
        Some(())
    }

    /// Gives back the instructions that the loop without checks was not needed for. Flags are brought into memory.
    fn loop_uncount(&mut self) {
        let Some(plan) = self.repeat.as_ref().filter(|_| self.cx.count) else {
            return;
        };
        let count = plan.count;
        if self.state == State::Host {
            self.spill();
        }
        self.hf = false;
        self.loop_insns(count);
        let budget = Rm::M(field(offset_of!(Frame, budget)));
        self.a.alu_to(Alu::Add, Width::B64, budget, S0);
    }

    /// r14: the instructions of the iterations that `count` stands for, the last one included.
    fn loop_insns(&mut self, count: Reg) {
        let w = Width::B64;
        self.a.lea(w, S0, asm::Mem::at(count, 1));
        self.a.imul_imm(w, S0, Rm::R(S0), self.block.insns as i32);
    }

    /// Brings back the registers that the loop took. Keeps flags.
    fn restore(&mut self) {
        let taken: Vec<_> = self.repeat.iter().flat_map(Plan::taken).collect();
        for (reg, place) in taken {
            self.a.load(Width::B64, reg, Rm::M(place));
        }
    }
}
