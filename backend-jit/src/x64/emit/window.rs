//! Accesses through a window: the guest's own address in GS, cut to 32 bits as the guest does. No flag changes, nothing is checked.
//!
//! Where one faults, nothing of its instruction has been done: when its page can be shown it is made once more, and otherwise
//! the interpreter does the instruction.

use ir::{Mem, OpCode, Operand, SegBase, Width};

use super::memory::segment_base;
use super::{Emit, Kind, View};
use crate::x64::asm::{self, Rm};
use crate::x64::flags::State;
use crate::x64::frame::{S0, S1};

impl Emit<'_> {
    /// Whether an access goes through the window. Locked ones do not: the host may not like them to be misaligned.
    pub(super) fn windowed(&self, mem: &Mem, kind: Kind) -> bool {
        use OpCode as C;
        let Some(blind) = self.cx.window else {
            return false;
        };
        // What others make of the place: one instruction, which wants the alignment that the guest's does.
        let free = mem.align <= 1;
        let op = &self.ops[self.at];
        let known = match op.code {
            C::Load | C::Store | C::Rmw | C::Cmpxchg | C::Vec | C::X87 => free,
            C::VecStore => free || matches!(op.b, Operand::Imm(16 | 32)),
            C::VecLoad => self
                .ops
                .get(self.at + 1)
                .is_some_and(|o| o.code == C::Vec || free && o.code == C::X87),
            _ => false,
        };
        let lin = self.pc(self.insn.delta);
        known && mem.addr == Width::B32 && !kind.locked && !kind.masked && !blind.contains_key(&lin)
    }

    /// See [`Emit::access`].
    pub(super) fn through_window(&mut self, mem: &Mem, kind: Kind) -> Option<()> {
        if kind.rmw && !self.keeps(false) {
            // It may have changed them when it faults.
            self.clobber();
        }
        self.here = match self.as_it_is(mem) {
            Some(here) => here.windowed(),
            None => {
                self.address_into(mem, S0, Width::B32)?;
                if let Some(base) = segment_base(mem.seg) {
                    self.a.load(Width::B64, S1, base);
                    self.a.lea(Width::B32, S0, asm::Mem::sum(S0, S1, 0));
                }
                asm::Mem::at(S0, 0).windowed()
            }
        };
        let at = self.a.label();
        self.a.bind(at);
        let flags = self.described();
        self.views.push(View {
            at,
            host_flags: self.state == State::Host,
            delta: self.insn.delta,
            ord: self.insn.ord,
            flags,
            kind,
        });
        Some(())
    }

    /// An address that the host has a form for.
    fn as_it_is(&self, mem: &Mem) -> Option<asm::Mem> {
        let register = |operand| match self.place(operand) {
            Some(Rm::R(r)) => Some(r),
            _ => None,
        };
        if mem.seg != SegBase::None {
            return None;
        }
        let index = match mem.index {
            Operand::None => None,
            operand => Some((register(operand)?, mem.scale)),
        };
        Some(asm::Mem {
            base: register(mem.base)?,
            index,
            disp: mem.disp,
            gs: false,
        })
    }
}
