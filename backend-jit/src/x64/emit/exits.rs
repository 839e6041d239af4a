//! Ends of blocks, and their beginnings: where code goes on, and the looks at what else there is to do.

use std::mem::offset_of;

use ir::{Cond, Op, OpCode, Operand, Width};
use x86::Gpr;

use super::{Emit, Kind};
use crate::x64::asm::{Alu, Field, Label, Mem, RSP, Rm, Section, Shift};
use crate::x64::flags::{Compared, Desc, State};
use crate::x64::frame::{Frame, JUMPS, Jump, PAGE_SLOT, S0, S1, field};

/// A direct exit.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Place of the displacement in hot code (offset in the section): it leads to the stub, or to a block that takes the
    /// flags as they are.
    pub hot: u32,
    /// Place of the displacement in the stub (offset in the cold section), behind what brings the flags into memory.
    pub stub: u32,
    /// Instruction pointer where the guest goes on.
    pub target: u64,
    /// Where the flags are at `hot`; `None`: in memory.
    pub flags: Option<Desc>,
    /// The flags are in memory at `hot` or follow from `flags`: a block that wants them so may be linked there.
    pub direct: bool,
    /// Nothing but flags is saved in the stub: a block that does not look at them may be linked at `hot`.
    pub careless: bool,
    /// The block that it leads to merges no accesses.
    pub unmerged: bool,
    /// The number of the instruction that it is a way out of.
    pub ord: u16,
}

/// An indirect exit.
#[derive(Clone, Copy, Debug)]
pub struct Indirect {
    /// What RSP has grown by: taken back when the target is not canonical.
    pub released: i32,
    /// Offset and number of the instruction, and instructions done with it.
    pub delta: i32,
    pub ord: u16,
}

impl Emit<'_> {
    /// The entry for jumps from other pages: is the code's page still mapped where the block was made for? Then the entry
    /// for the others.
    pub(super) fn guard(&mut self, guarded: Label, stale: Label) {
        self.a.bind(guarded);
        let miss = self.a.label();
        let mut any = false;
        for (slot, number) in self.cx.guards.into_iter().flatten() {
            let at = field(offset_of!(Frame, pages) + slot * PAGE_SLOT);
            self.a
                .alu_imm(Alu::Cmp, Width::B32, Rm::M(at), number.cast_signed());
            self.a.note(4, Field::Slot);
            self.a.note(0, Field::Page);
            self.a.jcc(Cond::Ne, miss);
            any = true;
        }
        self.a.bind(self.entry);
        let old = self.a.section(Section::Cold);
        if any {
            self.a.bind(miss);
            self.number(0, self.cx.id);
            self.a.jmp(self.stubs.page);
        }
        self.a.bind(stale);
        self.number(0, self.cx.id);
        self.a.jmp(self.stubs.stale);
        self.a.section(old);
    }

    /// r11: the block's number (`what` 0), or that of one of its exits, indirect exits, slow ops (1, 2, 3).
    pub(super) fn number(&mut self, what: u8, number: u32) {
        self.a.mov_imm(S1, u64::from(number));
        self.a.note(0, Field::Number(what));
    }

    /// At the start of blocks that can close a cycle: is an event up, or the budget used up?
    /// Whether it may stop there.
    pub(super) fn poll(&mut self) -> bool {
        let back = !self.cx.parts.is_empty()
            || self.ops.iter().any(|op| match op.code {
                OpCode::Jump | OpCode::SideExit => matches!(op.a, Operand::Pc(d) if d <= 0),
                OpCode::Branch | OpCode::BranchNz => [op.a, op.b]
                    .iter()
                    .any(|o| matches!(o, Operand::Pc(d) if *d <= 0)),
                OpCode::JumpTo => true,
                _ => false,
            });
        let stop = self.a.label();
        if back {
            self.look_at_events(stop);
        }
        let budget = Rm::M(field(offset_of!(Frame, budget)));
        let insns = self.block.insns as i32;
        let short = self.a.label();
        if self.cx.count {
            self.a.alu_imm(Alu::Sub, Width::B64, budget, insns);
            self.a.jcc(Cond::L, short);
        }
        if back || self.cx.count {
            let old = self.a.section(Section::Cold);
            if self.cx.count {
                self.a.bind(short);
                self.a.alu_imm(Alu::Add, Width::B64, budget, insns);
            }
            if back {
                self.a.bind(stop);
            }
            self.number(0, self.cx.id);
            self.a.jmp(self.stubs.poll);
            self.a.section(old);
        }
        back || self.cx.count
    }

    /// Goes to `stop` if an event is up.
    pub(super) fn look_at_events(&mut self, stop: Label) {
        self.a
            .load(Width::B64, S1, Rm::M(field(offset_of!(Frame, event_word))));
        self.a.load(Width::B32, S1, Rm::M(Mem::at(S1, 0)));
        self.a
            .test(Width::B32, Rm::M(field(offset_of!(Frame, event_mask))), S1);
        self.a.jcc(Cond::Ne, stop);
    }

    /// One way out: `branch` emits the jump to the stub and says where its displacement is.
    pub(super) fn way_out(&mut self, target: u64, branch: impl FnOnce(&mut Self, Label) -> u32) {
        let left = self.block.insns as i32 - i32::from(self.insn.ord) - 1;
        let counts = self.cx.count && left > 0;
        let stub = self.a.label();
        let flags = self.flags();
        let state = self.state;
        let compared = self.compared();
        let hot = branch(self, stub);
        let number = self.cx.first[0] + self.exits.len() as u32;
        let old = self.a.section(Section::Cold);
        self.a.bind(stub);
        // Nothing but the branch was emitted since.
        self.compared = compared.map(|c| self.rearmed(c));
        self.spill();
        if counts {
            let budget = Rm::M(field(offset_of!(Frame, budget)));
            self.a.alu_imm(Alu::Add, Width::B64, budget, left);
        }
        let place = self.unlinked(number);
        self.a.section(old);
        self.set_flags(flags);
        // What follows in hot code has not seen the stub.
        self.compared = compared.map(|c| self.rearmed(c));
        self.exits.push(Exit {
            hot,
            stub: place,
            target,
            flags: match state {
                State::Desc(desc) => Some(desc),
                State::Memory | State::Host => None,
            },
            direct: state != State::Host && !counts,
            careless: !counts,
            unmerged: false,
            ord: self.insn.ord,
        });
    }

    /// The jump by which an exit leaves; it leads to what asks for the block until it is linked. Its displacement's place.
    fn unlinked(&mut self, number: u32) -> u32 {
        let unlinked = self.a.label();
        let place = self.a.jmp_link(unlinked);
        self.a.bind(unlinked);
        self.number(1, number);
        self.a.jmp(self.stubs.link);
        place
    }

    /// Who comes to `odd` leaves the instruction to the interpreter: nothing of it has happened.
    pub(super) fn interpret_from(&mut self, odd: Label) {
        let old = self.a.section(Section::Cold);
        self.a.bind(odd);
        self.a.call(self.stubs.interpret);
        self.side(Kind::default());
        self.a.section(old);
    }

    /// A way out from the cold section.
    pub(super) fn cold_exit(&mut self, target: u64, unmerged: bool) {
        self.spill();
        let number = self.cx.first[0] + self.exits.len() as u32;
        let stub = self.unlinked(number);
        self.exits.push(Exit {
            hot: 0,
            stub,
            target,
            flags: None,
            direct: false,
            careless: false,
            unmerged,
            ord: self.insn.ord,
        });
    }

    /// What the host's flags can be saved by where r11 is known to be as it was.
    pub(super) fn rearmed(&self, compared: Compared) -> Compared {
        Compared {
            moment: self.a.moment_r11(),
            ..compared
        }
    }

    pub(super) fn exit_target(&self, operand: Operand, width: Width) -> Option<u64> {
        let Operand::Pc(delta) = operand else {
            return None;
        };
        let cut = self.code64 && width < Width::B32;
        (!cut).then(|| self.pc(delta) & width.mask())
    }

    pub(super) fn jump(&mut self, op: &Op) -> Option<()> {
        let target = self.exit_target(op.a, op.width)?;
        self.way_out(target, |e, stub| e.a.jmp_link(stub));
        Some(())
    }

    pub(super) fn branch(&mut self, op: &Op) -> Option<()> {
        let taken = self.exit_target(op.a, op.width)?;
        let other = self.exit_target(op.b, op.width)?;
        let cond = self.condition(op.cond());
        if self.loop_branch(op, cond).is_some() {
            return Some(());
        }
        self.way_out(taken, |e, stub| e.a.jcc_link(cond, stub));
        self.way_out(other, |e, stub| e.a.jmp_link(stub));
        Some(())
    }

    pub(super) fn side_exit(&mut self, op: &Op) -> Option<()> {
        let taken = self.exit_target(op.a, op.width)?;
        let cond = self.condition(op.cond());
        self.way_out(taken, |e, stub| e.a.jcc_link(cond, stub));
        Some(())
    }

    pub(super) fn branch_nz(&mut self, op: &Op) -> Option<()> {
        let taken = self.exit_target(op.a, op.width)?;
        let other = self.exit_target(op.b, op.width)?;
        // The width is the instruction pointer's; the operand has it too.
        self.clobber_for_call();
        match self.place(op.c)? {
            Rm::R(r) => self.a.test(op.width, Rm::R(r), r),
            memory @ Rm::M(_) => self.a.alu_imm(Alu::Cmp, op.width, memory, 0),
        }
        self.way_out(taken, |e, stub| e.a.jcc_link(Cond::Ne, stub));
        self.way_out(other, |e, stub| e.a.jmp_link(stub));
        Some(())
    }

    /// Goes on at the instruction pointer in r11, in user or supervisor mode.
    pub(super) fn leave_to(&mut self, released: i32, user: bool) {
        let number = self.cx.first[1] + self.indirects.len() as u32;
        self.indirects.push(Indirect {
            released,
            delta: self.insn.delta,
            ord: self.insn.ord,
        });
        if let Some((base, _)) = self.cx.cs {
            if base != 0 {
                let base = base.cast_signed();
                self.a.alu_imm(Alu::Add, Width::B32, Rm::R(S1), base);
            }
            let tag = Rm::M(field(offset_of!(Frame, tag)));
            self.a.alu(Alu::Add, Width::B64, S1, tag);
        }
        // See `Frame::jump_slot`.
        self.a.rorx(Width::B64, S0, Rm::R(S1), 12);
        self.a.alu(Alu::Xor, Width::B32, S0, Rm::R(S1));
        self.a
            .alu_imm(Alu::And, Width::B32, Rm::R(S0), JUMPS as i32 - 1);
        // Two words an entry.
        self.a.alu(Alu::Add, Width::B32, S0, Rm::R(S0));
        let which = if self.cx.cs.is_some() {
            2
        } else {
            usize::from(user)
        };
        let set = offset_of!(Frame, jumps) + which * JUMPS * size_of::<Jump>();
        let slot = |offset: usize| Mem {
            base: RSP,
            index: Some((S0, 3)),
            disp: (offset + set) as i32,
            gs: false,
        };
        let miss = self.a.label();
        self.a
            .alu(Alu::Cmp, Width::B64, S1, Rm::M(slot(offset_of!(Jump, rip))));
        self.a.jcc(Cond::Ne, miss);
        self.a.jmp_rm(Rm::M(slot(offset_of!(Jump, code))));
        let old = self.a.section(Section::Cold);
        self.a.bind(miss);
        let unknown = self.a.label();
        self.a.alu_imm(Alu::Xor, Width::B32, Rm::R(S0), 2);
        self.a
            .alu(Alu::Cmp, Width::B64, S1, Rm::M(slot(offset_of!(Jump, rip))));
        self.a.jcc(Cond::Ne, unknown);
        self.a.jmp_rm(Rm::M(slot(offset_of!(Jump, code))));
        self.a.bind(unknown);
        self.a.store(Width::B64, field(offset_of!(Frame, ret)), S1);
        self.number(2, number);
        self.a.jmp(self.stubs.indirect);
        self.a.section(old);
    }

    /// Whether an instruction pointer of this width is one that the jump cache knows. 64 bits outside 64-bit code say that a
    /// target has been checked and what lies behind has not: where the code only goes on, it may be beyond the segment's limit,
    /// and then the next instruction faults.
    pub(super) fn whole_pc(&self, w: Width) -> bool {
        (w == Width::B64) == self.code64
    }

    pub(super) fn jump_to(&mut self, op: &Op, released: Option<i32>) -> Option<()> {
        let w = op.width;
        if !self.whole_pc(w) {
            return None;
        }
        self.spill();
        self.hf = false;
        self.fetch(w, S1, op.a)?;
        if w < Width::B64 {
            self.a.movzx(w, S1, Rm::R(S1));
        }
        self.leave_to(released.unwrap_or(0), self.user);
        Some(())
    }

    /// RET: the target stays in a register, and the jump cache, which holds only good targets, checks it.
    pub(super) fn ret_pattern(&mut self, at: usize, to: usize) -> Option<usize> {
        let ops = self.ops.get(at..to)?;
        let (load, rest) = ops.split_first()?;
        let (check, rest) = match rest.split_first() {
            Some((op, more)) if op.code == OpCode::CheckPc => (true, more),
            _ => (false, rest),
        };
        let [lea, jump] = rest else { return None };
        let mem = lea.mem?;
        let rsp = Operand::Reg(Gpr::Rsp);
        let w = load.width;
        let fits = load.code == OpCode::Load
            && load.dst.temp().is_some()
            && lea.code == OpCode::Lea
            && lea.dst == rsp
            && mem.base == rsp
            && mem.index == Operand::None
            && lea.width == w
            && matches!(jump.code, OpCode::JumpTo | OpCode::Expect)
            && jump.a == load.dst
            && jump.width == w
            && check == self.code64
            && w == if self.code64 { Width::B64 } else { Width::B32 };
        if !fits {
            return None;
        }
        let expected = jump.code == OpCode::Expect;
        if !expected || self.state == State::Host || self.follows_from(Gpr::Rsp) {
            self.spill();
        }
        self.hf = false;
        self.access(&load.mem?, u32::from(w.bytes()), false, Kind::default())?;
        self.a.movzx(w, S1, Rm::M(self.here));
        self.at = at + ops.len() - 2;
        // No flag follows from RSP.
        let Rm::R(r) = self.place(rsp)? else {
            return None;
        };
        self.a.lea(w, r, Mem::at(r, mem.disp));
        if expected {
            self.expected(jump.b, mem.disp)?;
        } else {
            self.leave_to(mem.disp, self.user);
        }
        Some(ops.len())
    }

    /// Whether flags are described by a register.
    fn follows_from(&self, g: Gpr) -> bool {
        matches!(self.state, State::Desc(desc) if desc.uses(g))
    }

    /// A near transfer's target must be canonical.
    pub(super) fn check_pc(&mut self, op: &Op) -> Option<()> {
        if !self.code64 {
            return self.check_limit(op);
        }
        if op.b.is_some() {
            return None;
        }
        self.clobber();
        let w = Width::B64;
        self.fetch(w, S1, op.a)?;
        self.a.load(w, S0, Rm::R(S1));
        self.a.shift_imm(Shift::Shl, w, Rm::R(S0), 16);
        self.a.shift_imm(Shift::Sar, w, Rm::R(S0), 16);
        self.a.alu(Alu::Cmp, w, S0, Rm::R(S1));
        let odd = self.a.label();
        self.a.jcc(Cond::Ne, odd);
        // The interpreter knows whether it is canonical after all, and what to do if not.
        self.interpret_from(odd);
        Some(())
    }

    /// A near transfer's target must be inside the code segment.
    fn check_limit(&mut self, op: &Op) -> Option<()> {
        let limit = self.cx.cs.map_or(u32::MAX, |(_, limit)| limit);
        let most = op.width.mask().min(u64::from(u32::MAX));
        if most <= u64::from(limit) {
            return Some(());
        }
        let target = self.constant(op.a).map(i64::cast_unsigned);
        if target.is_some_and(|target| target & most <= u64::from(limit)) {
            return Some(());
        }
        let odd = self.a.label();
        self.clobber();
        if target.is_some() {
            // Whoever goes there faults.
            if op.b.is_some() {
                self.fetch(Width::B64, S1, op.b)?;
                self.a.test(Width::B64, Rm::R(S1), S1);
                self.a.jcc(Cond::Ne, odd);
            } else {
                self.a.jmp(odd);
            }
            self.interpret_from(odd);
            return Some(());
        }
        if op.b.is_some() {
            return None;
        }
        self.fetch(op.width, S1, op.a)?;
        self.a.movzx(op.width.min(Width::B32), S1, Rm::R(S1));
        self.a
            .alu_imm(Alu::Cmp, Width::B32, Rm::R(S1), limit.cast_signed());
        self.a.jcc(Cond::A, odd);
        self.interpret_from(odd);
        Some(())
    }
}
