//! Flags: where they are, how the host's become the guest's again, and how they are saved.

use std::mem::offset_of;

use ir::effect::kills;
use ir::{Cond, FlagSet, Op, Operand, Width};
use system::{FlagOp, LazyFlags, flag_kind};
use x86::Gpr;

use super::Emit;
use crate::x64::asm::{Alu, Mem, RAX, Reg, Rm};
use crate::x64::flags::{Compared, Desc, Left, Src, State};
use crate::x64::frame::{Frame, S1, field, home};

fn word(offset: usize) -> Mem {
    field(offset_of!(Frame, flags) + offset)
}

/// What is to be put back when the other way, in the cold section, has been emitted.
#[derive(Clone, Copy)]
pub(super) struct Where {
    state: State,
    hf: bool,
    stored: Option<(FlagOp, Width)>,
}

impl Emit<'_> {
    /// The next instruction changes the host's flags, and the guest's are still needed.
    pub(super) fn clobber(&mut self) {
        if self.state == State::Host {
            if self.need[self.at].is_empty() {
                self.state = State::Memory;
            } else {
                self.spill();
            }
        }
        self.hf = false;
    }

    /// As [`Emit::clobber`], before a call that everything must be known to.
    pub(super) fn clobber_for_call(&mut self) {
        if self.state == State::Host {
            self.spill();
        }
        self.hf = false;
    }

    /// Where the flags are.
    pub(super) fn flags(&self) -> Where {
        Where {
            state: self.state,
            hf: self.hf,
            stored: self.stored,
        }
    }

    /// They are there again: hot code goes on.
    pub(super) fn set_flags(&mut self, flags: Where) {
        self.state = flags.state;
        self.hf = flags.hf;
        self.stored = flags.stored;
    }

    /// Brings the flags into memory. Keeps r14.
    pub(super) fn spill(&mut self) {
        match self.state {
            State::Memory => {}
            State::Host => match self.compared() {
                Some(compared) => self.store_compared(compared),
                None => {
                    // PUSHFQ would take several times as long. None of these changes a flag.
                    self.a.load(Width::B64, S1, Rm::R(RAX));
                    self.a.byte(0x9f); // LAHF
                    self.a.setcc(Cond::O, Rm::R(RAX));
                    self.a.movzx(Width::B16, RAX, Rm::R(RAX));
                    self.a.rorx(Width::B32, RAX, Rm::R(RAX), 8);
                    self.a
                        .store(Width::B64, word(offset_of!(LazyFlags, a)), RAX);
                    self.a.load(Width::B64, RAX, Rm::R(S1));
                    self.kind(FlagOp::Lahf, Width::B64);
                }
            },
            State::Desc(desc) => self.store_desc(&desc),
        }
        self.state = State::Memory;
    }

    /// What the flags in the host's can be saved by, if it is still there.
    pub(super) fn compared(&self) -> Option<Compared> {
        self.compared
            .filter(|c| self.state == State::Host && c.moment == self.a.moment_r11())
    }

    fn store_compared(&mut self, compared: Compared) {
        let Compared { width: w, a, b, .. } = compared;
        let first = word(offset_of!(LazyFlags, a));
        let second = word(offset_of!(LazyFlags, b));
        if b == Left::Scratch {
            self.a.store(Width::B64, second, S1);
        }
        if compared.result {
            self.first_operand(&compared);
        }
        match a {
            _ if compared.result => self.a.store(Width::B64, first, S1),
            Left::Scratch => self.a.store(Width::B64, first, S1),
            Left::Reg(g) => {
                let from = self.extended(w, g);
                self.a.store(Width::B64, first, from);
            }
            Left::Imm(n) => self.store_constant(first, w, n),
        }
        match b {
            Left::Scratch => {}
            _ if compared.op == FlagOp::Logic => {}
            Left::Imm(n) => self.store_constant(second, w, n),
            Left::Reg(g) => {
                let from = self.extended(w, g);
                self.a.store(Width::B64, second, from);
            }
        }
        self.kind(compared.op, w);
    }

    /// The first operand of an addition or subtraction from result and second operand, into S1; no flag changes.
    fn first_operand(&mut self, compared: &Compared) {
        let Compared {
            op, width: w, a, b, ..
        } = *compared;
        let wide = w.max(Width::B32);
        let add = op == FlagOp::Add;
        match (a, b) {
            (_, Left::Imm(n)) => {
                let n = if add { n.wrapping_neg() } else { n };
                self.a.lea(wide, S1, Mem::at(S1, n));
            }
            (Left::Reg(g), _) | (_, Left::Reg(g)) => {
                let Rm::R(r) = home(g) else { return };
                let not = |e: &mut Self| e.a.group3(wide, 2, Rm::R(S1));
                let sum = |disp| Mem {
                    base: S1,
                    index: Some((r, 0)),
                    disp,
                    gs: false,
                };
                match (add, a == Left::Scratch) {
                    (false, _) => self.a.lea(wide, S1, sum(0)),
                    // r11 less the register: not (not r11 plus it).
                    (true, true) => {
                        not(self);
                        self.a.lea(wide, S1, sum(0));
                        not(self);
                    }
                    // The register less r11.
                    (true, false) => {
                        not(self);
                        self.a.lea(wide, S1, sum(1));
                    }
                }
            }
            _ => {}
        }
        if w < Width::B32 {
            self.a.movzx(w, S1, Rm::R(S1));
        }
    }

    /// Brings a constant to where the second operand is kept, without changing flags.
    fn store_b(&mut self, w: Width, n: i32) {
        self.store_constant(word(offset_of!(LazyFlags, b)), w, n);
    }

    fn store_constant(&mut self, to: Mem, w: Width, n: i32) {
        let n = i64::from(n).cast_unsigned() & w.mask();
        if let Ok(small) = i32::try_from(n.cast_signed()) {
            self.a.store_imm(Width::B64, Rm::M(to), small);
        } else {
            self.a.mov_imm(S1, n);
            self.a.store(Width::B64, to, S1);
        }
    }

    /// What the frame holds is an image of RFLAGS.
    pub(super) fn image_kind(&mut self) {
        self.kind(FlagOp::Image, Width::B64);
    }

    fn kind(&mut self, op: FlagOp, w: Width) {
        let at = Rm::M(word(offset_of!(LazyFlags, kind)));
        let kind = flag_kind(op, w);
        self.a.store_imm(Width::B32, at, kind.cast_signed());
        self.stored = Some((op, w));
    }

    fn store_desc(&mut self, desc: &Desc) {
        let w = desc.width;
        let from = match desc.a {
            Src::Reg(g) => self.extended(w, g),
            Src::Imm(n) => {
                let n = i64::from(n).cast_unsigned() & w.mask();
                self.a.mov_imm(S1, n);
                S1
            }
            Src::Minus(_) | Src::Plus(_) => {
                self.operand_a(desc);
                // 32 bits are zero-extended already where they were computed.
                if w < Width::B32 {
                    self.a.movzx(w, S1, Rm::R(S1));
                }
                S1
            }
        };
        self.a
            .store(Width::B64, word(offset_of!(LazyFlags, a)), from);
        if matches!(
            desc.op,
            FlagOp::Add | FlagOp::Sub | FlagOp::Adc | FlagOp::Sbb
        ) {
            match desc.b {
                Src::Imm(n) => self.store_b(w, n),
                Src::Reg(g) | Src::Minus(g) | Src::Plus(g) => {
                    let from = self.extended(w, g);
                    let to = word(offset_of!(LazyFlags, b));
                    self.a.store(Width::B64, to, from);
                }
            }
        }
        self.kind(desc.op, w);
    }

    /// A guest register zero-extended from a width: itself, or S1.
    fn extended(&mut self, w: Width, g: Gpr) -> Reg {
        match home(g) {
            Rm::R(r) if w == Width::B64 => r,
            place => {
                self.a.movzx(w, S1, place);
                S1
            }
        }
    }

    /// The first operand of a description into S1, but for constants.
    fn operand_a(&mut self, desc: &Desc) {
        let carry = matches!(desc.op, FlagOp::Adc | FlagOp::Sbb);
        let (w, op) = match desc.a {
            Src::Reg(g) => return self.a.movzx(desc.width, S1, home(g)),
            Src::Imm(_) => return,
            Src::Minus(g) => {
                self.a.load(Width::B64, S1, home(g));
                (desc.width, if carry { Alu::Sbb } else { Alu::Sub })
            }
            Src::Plus(g) => {
                self.a.load(Width::B64, S1, home(g));
                (desc.width, if carry { Alu::Adc } else { Alu::Add })
            }
        };
        if carry {
            self.carry_back();
        }
        self.hf = false;
        match desc.b {
            Src::Imm(n) => self.a.alu_imm(op, w, Rm::R(S1), n),
            Src::Reg(g) | Src::Minus(g) | Src::Plus(g) => self.a.alu(op, w, S1, home(g)),
        }
    }

    /// Makes host flags the guest's, those at least that are looked at from here on. r11 is lost; r14 too, but
    /// behind [`Emit::flags_at_hand`].
    pub(super) fn host_flags(&mut self) {
        self.host_flags_for(self.need[self.at]);
    }

    /// As [`Emit::host_flags`], where only some are looked at before they are written again.
    pub(super) fn host_flags_for(&mut self, needed: FlagSet) {
        if self.hf {
            return;
        }
        let carry = FlagSet::C.contains(needed);
        match self.state {
            State::Host => {}
            State::Memory => self.fetch_flags(carry),
            State::Desc(desc) if carry => self.rebuild_carry(&desc),
            State::Desc(desc) => self.rebuild(&desc),
        }
        self.hf = true;
    }

    /// Before an access with an op behind it that reads flags: brings them where [`Emit::host_flags`] needs no r14.
    pub(super) fn flags_at_hand(&mut self) {
        use FlagOp as F;
        let known = |op| {
            matches!(
                op,
                F::Lahf | F::Add | F::Sub | F::Logic | F::Adc | F::Sbb | F::Inc | F::Dec
            )
        };
        if self.state == State::Memory && !self.stored.is_some_and(|(op, _)| known(op)) {
            self.host_flags();
            self.state = State::Host;
        }
        // The access may save them.
        self.compared = self.compared.filter(|compared| known(compared.op));
    }

    /// The flags from memory.
    fn fetch_flags(&mut self, carry: bool) {
        let Some((op, w)) = self.stored else {
            return self.a.call(self.stubs.flags);
        };
        let (a, b) = (
            Rm::M(word(offset_of!(LazyFlags, a))),
            Rm::M(word(offset_of!(LazyFlags, b))),
        );
        match op {
            FlagOp::Lahf if carry => self.a.bit_imm(Width::B32, 4, a, 0),
            FlagOp::Lahf => self.a.call(self.stubs.lahf),
            FlagOp::Sub | FlagOp::Add | FlagOp::Logic => {
                self.a.load(Width::B64, S1, a);
                match op {
                    FlagOp::Sub => self.a.alu(Alu::Cmp, w, S1, b),
                    FlagOp::Add => self.a.alu(Alu::Add, w, S1, b),
                    _ => self.a.test(w, Rm::R(S1), S1),
                }
            }
            FlagOp::Inc | FlagOp::Dec if carry => self.carry_back(),
            FlagOp::Inc | FlagOp::Dec => {
                self.a.load(Width::B64, S1, a);
                self.step_again(op == FlagOp::Dec, w);
            }
            FlagOp::Adc | FlagOp::Sbb => {
                self.a.load(Width::B64, S1, a);
                self.carry_back();
                let alu = if op == FlagOp::Adc {
                    Alu::Adc
                } else {
                    Alu::Sbb
                };
                self.a.alu(alu, w, S1, b);
            }
            _ => self.a.call(self.stubs.flags),
        }
    }

    /// The flags of INC or DEC, whose result is in S1: from the value before, and the carry first, which they keep.
    fn step_again(&mut self, dec: bool, w: Width) {
        let before = Mem::at(S1, if dec { 1 } else { -1 });
        self.a.lea(Width::B64, S1, before);
        self.carry_back();
        self.a.incdec(w, Rm::R(S1), dec);
    }

    /// The carry alone.
    fn rebuild_carry(&mut self, desc: &Desc) {
        let w = desc.width;
        match (desc.op, desc.a) {
            (FlagOp::Inc | FlagOp::Dec, _) => self.carry_back(),
            // The sum is below either operand.
            (FlagOp::Add, Src::Minus(g)) => match (desc.b, home(g)) {
                (Src::Imm(n), sum) => self.a.alu_imm(Alu::Cmp, w, sum, n),
                (Src::Reg(b) | Src::Minus(b) | Src::Plus(b), sum) => match (sum, home(b)) {
                    (Rm::R(sum), b) => self.a.alu(Alu::Cmp, w, sum, b),
                    (sum, Rm::R(b)) => self.a.alu_to(Alu::Cmp, w, sum, b),
                    (sum, b) => {
                        self.a.load(Width::B64, S1, sum);
                        self.a.alu(Alu::Cmp, w, S1, b);
                    }
                },
            },
            _ => self.rebuild(desc),
        }
    }

    fn rebuild(&mut self, desc: &Desc) {
        let w = desc.width;
        if let (FlagOp::Inc | FlagOp::Dec, Src::Reg(g)) = (desc.op, desc.a) {
            self.a.load(Width::B64, S1, home(g));
            self.step_again(desc.op == FlagOp::Dec, w);
            return;
        }
        let first = match desc.a {
            Src::Reg(g) => match home(g) {
                Rm::R(r) if matches!(desc.op, FlagOp::Sub | FlagOp::Logic) => r,
                other => {
                    self.a.load(Width::B64, S1, other);
                    S1
                }
            },
            Src::Imm(n) => {
                self.a.mov_imm(S1, i64::from(n).cast_unsigned());
                S1
            }
            _ => {
                self.operand_a(desc);
                S1
            }
        };
        let op = match desc.op {
            FlagOp::Logic => {
                self.a.test(w, Rm::R(first), first);
                return;
            }
            FlagOp::Sub => Alu::Cmp,
            FlagOp::Adc => Alu::Adc,
            FlagOp::Sbb => Alu::Sbb,
            _ => Alu::Add,
        };
        if matches!(desc.op, FlagOp::Adc | FlagOp::Sbb) {
            self.carry_back();
        }
        match desc.b {
            Src::Imm(n) => self.a.alu_imm(op, w, Rm::R(first), n),
            Src::Reg(g) | Src::Minus(g) | Src::Plus(g) => self.a.alu(op, w, first, home(g)),
        }
    }

    /// Makes the host's flags decide a condition: the condition to test then. r14 and r11 are lost.
    pub(super) fn condition(&mut self, cond: Cond) -> Cond {
        if !self.hf
            && let State::Desc(desc) = self.state
            && let Src::Minus(g) | Src::Plus(g) = desc.a
        {
            // The result is in the register: enough for what depends on it alone.
            let result = FlagSet::Z.union(FlagSet::S).union(FlagSet::P);
            if result.contains(cond.flags()) {
                match home(g) {
                    Rm::R(r) => self.a.test(desc.width, Rm::R(r), r),
                    memory @ Rm::M(_) => self.a.alu_imm(Alu::Cmp, desc.width, memory, 0),
                }
                // Not all of them are the guest's.
                return cond;
            }
        }
        if !cond.flags().contains(FlagSet::C) && self.no_carry == Some(self.a.here()) {
            return cond;
        }
        self.host_flags();
        cond
    }

    /// The carry from where INC and DEC keep it into the host's.
    pub(super) fn carry_back(&mut self) {
        let carry = Rm::M(word(offset_of!(LazyFlags, c)));
        self.a.bit_imm(Width::B32, 4, carry, 0);
    }

    /// Keeps the carry where INC and DEC leave it.
    pub(super) fn keep_carry(&mut self) {
        if matches!(self.state, State::Desc(d) if matches!(d.op, FlagOp::Inc | FlagOp::Dec)) {
            return;
        }
        self.host_flags();
        self.store_carry();
    }

    /// The host's carry to where INC, DEC, ADC and SBB have it, in one piece for the one that fetches it. S1 is lost.
    pub(super) fn store_carry(&mut self) {
        self.a.mov_imm(S1, 0);
        self.a.setcc(Cond::B, Rm::R(S1));
        self.a.store(Width::B32, word(offset_of!(LazyFlags, c)), S1);
    }

    /// A register is about to be written: host flags can no longer be saved by it.
    pub(super) fn lose(&mut self, dst: Operand) {
        if let Operand::Reg(g) | Operand::High(g) = dst
            && self.compared.is_some_and(|c| c.uses(g))
        {
            self.compared = None;
        }
    }

    /// As [`Emit::condition`], before an op that writes `dst`.
    pub(super) fn condition_before(&mut self, cond: Cond, dst: Operand) -> Cond {
        self.lose(dst);
        if let (State::Desc(desc), Operand::Reg(g) | Operand::High(g)) = (self.state, dst)
            && desc.uses(g)
        {
            if self.hf && !self.want[self.at + 1].is_empty() {
                self.state = State::Host;
                return cond;
            }
            if !self.need[self.at + 1].is_empty() {
                self.spill();
            }
            self.state = State::Memory;
            if !self.hf {
                self.rebuild(&desc);
                self.hf = true;
            }
            return cond;
        }
        self.condition(cond)
    }

    /// The op just emitted has left the guest's flags in the host's; `desc` says what they follow from.
    pub(super) fn flags_set(&mut self, op: &Op, desc: Option<Desc>) {
        if op.flags.is_empty() {
            // The guest's are as they were, the host's are not.
            self.hf = false;
            return;
        }
        self.hf = true;
        self.compared = None;
        self.state = desc.map_or(State::Host, State::Desc);
    }

    /// To be called before an op that changes the host's flags: saves the guest's if they outlive it, and brings them
    /// into the host's if the op leaves or reads some. r14 and r11 are lost.
    pub(super) fn before_flags(&mut self, op: &Op, reads: FlagSet) {
        let kept = if op.flags.is_empty() {
            FlagSet::NONE
        } else {
            self.need[self.at + 1].without(kills(op))
        };
        if !reads.is_empty() || !kept.is_empty() {
            self.host_flags();
            self.state = State::Host;
        }
        if op.flags.is_empty() {
            self.clobber_keeping();
        } else if reads.is_empty() && kept.is_empty() && self.state == State::Host {
            if op.code.info().faults && self.repeat.is_none() {
                self.spill();
            }
            // They are replaced.
            self.state = State::Memory;
        }
    }

    /// As [`Emit::clobber`], but the host's flags are still good for the next instruction.
    fn clobber_keeping(&mut self) {
        let hf = self.hf;
        if self.state == State::Host {
            let faults = self.ops[self.at].code.info().faults;
            if faults || !self.need[self.at + 1].is_empty() {
                self.spill();
            } else {
                self.state = State::Memory;
            }
        }
        self.hf = hf;
    }

    /// The op just emitted has left the guest's flags in the host's, and r11 as `a` or `b` says.
    pub(super) fn flags_left(&mut self, op: &Op, by: FlagOp, a: Left, b: Left, result: bool) {
        self.flags_set(op, None);
        self.compared = Some(Compared {
            op: by,
            width: op.width,
            a,
            b,
            result,
            moment: self.a.moment_r11(),
        });
    }

    /// An operand of [`Emit::flags_left`]: a register that the host has too, or a constant.
    pub(super) fn left(&self, w: Width, operand: Operand) -> Option<Left> {
        match operand {
            Operand::Reg(g) if matches!(home(g), Rm::R(_)) => Some(Left::Reg(g)),
            // The least has no opposite: see `Emit::first_operand`.
            Operand::Imm(_) => self
                .imm(w, operand)
                .filter(|n| *n != i32::MIN)
                .map(Left::Imm),
            _ => None,
        }
    }

    /// The operand of a description that an IR operand stands for.
    pub(super) fn flag_source(&self, w: Width, operand: Operand) -> Option<Src> {
        match operand {
            Operand::Reg(g) => Some(Src::Reg(g)),
            Operand::Imm(_) => self.imm(w, operand).map(Src::Imm),
            _ => None,
        }
    }
}
