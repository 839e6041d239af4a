//! Helpers called in the midst of an instruction, with arguments from its operands, and what follows one that may have changed
//! the mode or let an event in.

use std::mem::offset_of;

use ir::{Cond, Exit, HelperId, Op, OpCode, Operand, Width};
use x86::CpuState;

use super::system::{Args, Direct, st, vcpu};
use super::{Emit, Kind, Slow};
use crate::x64::asm::{Alu, Field, Label, Rm, Section};
use crate::x64::flags::{Desc, State};
use crate::x64::frame::{Frame, S1, field};

/// Whether a helper leaves MXCSR, the x87 and the vector registers alone and calls no device.
fn plain(helper: HelperId) -> bool {
    use HelperId as H;
    matches!(
        helper,
        H::LoadSeg
            | H::Popf
            | H::PushfImage
            | H::Pusha
            | H::Popa
            | H::Enter
            | H::Bcd
            | H::Cli
            | H::Sti
            | H::SoftInt
            | H::Into
            | H::FarJump
            | H::FarCall
            | H::FarRet
            | H::Iret
    )
}

impl Emit<'_> {
    /// A helper's call, with the exit behind it where the helper chooses the way; how many ops that were.
    pub(super) fn by_helper(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let helper = HelperId::from_index(op.sub).filter(|helper| plain(*helper))?;
        let exit = self
            .ops
            .get(at + 1)
            .filter(|next| at + 1 < to && next.code == OpCode::Exit)
            .and_then(|next| Exit::ALL.get(next.sub as usize).copied())
            .filter(|exit| *exit == Exit::Helper);
        for (n, operand) in [op.a, op.b, op.c].into_iter().enumerate() {
            let place = field(offset_of!(Frame, args) + n * 8);
            match operand {
                Operand::None => self.a.store_imm(Width::B64, Rm::M(place), 0),
                _ => {
                    self.fetch(Width::B64, S1, operand)?;
                    self.a.store(Width::B64, place, S1);
                }
            }
        }
        let start = (0..at).rev().find(|i| self.ops[*i].code == OpCode::Insn)?;
        let direct = Direct {
            helper,
            args: Args::Frame,
            exit,
        };
        self.call_out(start, to, false, Some(direct));
        if exit.is_some() {
            return Some(to - at);
        }
        self.called = true;
        if op.dst.is_some() {
            let result = field(offset_of!(Frame, args));
            self.a.load(Width::B64, S1, Rm::M(result));
            self.finish(Width::B64, op.dst, S1)?;
        }
        Some(1)
    }

    /// Calls Rust for the instruction of these ops, or for its helper. All that the code knows goes into memory.
    pub(super) fn call_out(&mut self, from: usize, to: usize, x87: bool, direct: Option<Direct>) {
        self.x87_live &= !x87;
        self.high_live = false;
        self.forget_checks();
        self.clobber_for_call();
        let number = self.cx.first[2] + self.slow.len() as u32;
        self.slow.push(Slow {
            ops: (from as u32, to as u32),
            delta: self.insn.delta,
            ord: self.insn.ord,
            flags: self.described(),
            x87,
            direct,
        });
        self.number(3, number);
        self.a.call(if direct.is_some() {
            self.stubs.direct
        } else {
            self.stubs.slow
        });
        self.side(Kind::default());
        self.state = State::Memory;
        self.stored = None;
        self.hf = false;
    }

    /// What the flags follow from, where they are not in memory.
    pub(super) fn described(&self) -> Option<Desc> {
        match self.state {
            State::Desc(desc) => Some(desc),
            State::Memory | State::Host => None,
        }
    }

    /// The end of an instruction that a helper was called in the midst of.
    pub(super) fn after_helper(&mut self, to: usize) {
        let marker = self.ops[..to]
            .iter()
            .rev()
            .find(|op| op.code == OpCode::Insn);
        let len = marker.map_or(0, |op| op.sub & 15);
        let ended = self.ops[to - 1].code.info().terminal;
        if !std::mem::take(&mut self.called) || ended {
            return;
        }
        self.clobber_for_call();
        let odd = self.a.label();
        self.look_at_odd(odd);
        self.leave_at(odd, self.insn.delta + len as i32);
    }

    fn look_at_odd(&mut self, odd: Label) {
        let flag = Rm::M(field(offset_of!(Frame, look)));
        self.a.alu_imm(Alu::Cmp, Width::B32, flag, 0);
        self.a.jcc(Cond::Ne, odd);
    }

    /// Goes on behind the instruction, if no event is up and the mode is what it was.
    pub(super) fn exit_next(&mut self, op: &Op) -> Option<()> {
        let Operand::Pc(next) = op.a else { return None };
        if op.sub != Exit::Next as u32 {
            return None;
        }
        self.spill();
        self.hf = false;
        let out = self.a.label();
        if self.cx.count {
            // Events have their moment, to the instruction.
            self.a.jmp(out);
        } else {
            if self.called {
                self.look_at_odd(out);
            }
            self.look_at_events(out);
            self.go_on(op)?;
        }
        self.leave_at(out, next);
        Some(())
    }

    /// In the cold section: leaves the code for a look at events and mode before the instruction at an offset.
    fn leave_at(&mut self, label: Label, next: i32) {
        let flags = self.flags();
        let old = self.a.section(Section::Cold);
        self.a.bind(label);
        self.spill();
        let left = self.block.insns as i32 - i32::from(self.insn.ord) - 1;
        if self.cx.count && left > 0 {
            let budget = Rm::M(field(offset_of!(Frame, budget)));
            self.a.alu_imm(Alu::Add, Width::B64, budget, left);
        }
        let flag = Rm::M(field(offset_of!(Frame, look)));
        self.a.store_imm(Width::B32, flag, 0);
        self.load_vcpu();
        self.a.mov_imm(S1, self.pc(next));
        self.a.note(0, Field::Address);
        self.a
            .store(Width::B64, vcpu(st(offset_of!(CpuState, rip))), S1);
        self.a.jmp(self.stubs.next);
        self.a.section(old);
        self.set_flags(flags);
    }
}
