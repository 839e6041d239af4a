//! Segment registers, descriptor tables, and the instructions that look at descriptors.

use ir::{HelperId, Mem, Op, OpCode, Operand, Width};
use x86::Seg;

use super::address::Ea;
use super::operand::width_of;
use super::{Flow, GP0, Lift, Lifter, UD};

const NONE: Operand = Operand::None;

impl Lifter<'_> {
    /// #GP(0) outside CPL 0.
    pub(super) fn privileged(&self) -> Result<(), super::Trap> {
        if self.mode.cpl() == 0 {
            Ok(())
        } else {
            Err(GP0)
        }
    }

    /// #UD in real mode and VM86.
    pub(super) fn protected(&self) -> Result<(), super::Trap> {
        if self.mode.real() || self.mode.vm86() {
            Err(UD)
        } else {
            Ok(())
        }
    }

    /// Loads a segment register; `shadow`: MOV or POP, after which SS blocks interrupts for one instruction.
    pub(super) fn load_segment(&mut self, seg: Seg, selector: Operand, shadow: bool) {
        let selector = if matches!(selector, Operand::Reg(_)) {
            self.zext(Width::B16, selector)
        } else {
            selector
        };
        let c = if shadow && seg == Seg::Ss {
            Operand::Imm(1)
        } else {
            NONE
        };
        self.b.call(
            HelperId::LoadSeg,
            NONE,
            Operand::Imm(seg as i64),
            selector,
            c,
        );
    }

    /// What follows the load of a segment register: translations depend on SS in every mode (shadow), on DS and ES
    /// outside 64-bit mode, never on FS and GS.
    pub(super) fn after_load_segment(&self, seg: Seg) -> Flow {
        match seg {
            Seg::Fs | Seg::Gs => Flow::Next,
            Seg::Ds | Seg::Es if self.mode.code64() => Flow::Next,
            _ => Flow::Leave,
        }
    }

    /// LDS, LES, LFS, LGS, LSS.
    pub(super) fn load_far(&mut self, seg: Seg) -> Lift {
        let w = self.width(0);
        let (selector, offset) = self.far_pointer(u32::from(w.bytes()));
        self.load_segment(seg, selector, false);
        let dst = self.reg(0);
        self.b.mov(w, dst, offset);
        Ok(self.after_load_segment(seg))
    }

    /// LGDT, LIDT: the limit, then the base (24 bits of it with 16-bit operands).
    pub(super) fn load_table(&mut self, helper: HelperId) -> Lift {
        self.privileged()?;
        let w = if self.mode.code64() {
            Width::B64
        } else {
            Width::B32
        };
        let mem = self.mem(u32::from(w.bytes()) + 2, false);
        let (limit, base) = (self.b.temp(), self.b.temp());
        self.b.load(Width::B16, limit, mem);
        let place = self.plus(mem, 2);
        self.b.load(w, base, place);
        let (limit, mut base) = (self.zext(Width::B16, limit), self.zext(w, base));
        use iced_x86::Code;
        if matches!(self.insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
            let short = self.b.temp();
            self.b.quiet(
                OpCode::And,
                Width::B64,
                short,
                base,
                Operand::Imm(0xff_ffff),
            );
            base = short;
        }
        self.b.call(helper, NONE, limit, base, NONE);
        Ok(Flow::Leave)
    }

    /// SGDT, SIDT. All of the base is stored whatever the operand size: so CPUs do.
    pub(super) fn store_table(&mut self, helper: HelperId) -> Lift {
        let w = if self.mode.code64() {
            Width::B64
        } else {
            Width::B32
        };
        let (base, limit) = (self.b.temp(), self.b.temp());
        self.b.call(helper, base, Operand::Imm(0), NONE, NONE);
        self.b.call(helper, limit, Operand::Imm(1), NONE, NONE);
        let mem = self.mem(u32::from(w.bytes()) + 2, true);
        let place = self.plus(mem, 2);
        self.probe(Width::B16, mem);
        self.probe(w, place);
        self.b.store(Width::B16, mem, limit);
        self.b.store(w, place, base);
        Ok(Flow::Next)
    }

    /// Raises now what a later write would raise.
    pub(super) fn probe(&mut self, w: Width, mem: Mem) {
        self.b.push(Op {
            mem: Some(mem),
            ..Op::new(OpCode::ProbeWrite, w)
        });
    }

    /// LLDT, LTR.
    pub(super) fn load_system(&mut self, helper: HelperId) -> Lift {
        self.protected()?;
        self.privileged()?;
        let selector = self.read(0, Width::B16);
        let selector = self.zext(Width::B16, selector);
        self.b.call(helper, NONE, selector, NONE, NONE);
        Ok(Flow::Leave)
    }

    /// SLDT, STR, SMSW.
    pub(super) fn store_system(&mut self, helper: HelperId) -> Lift {
        if helper != HelperId::Smsw {
            self.protected()?;
        }
        let value = self.b.temp();
        self.b.call(helper, value, NONE, NONE, NONE);
        self.store_word(value);
        Ok(Flow::Next)
    }

    /// LAR, LSL: the helper keeps the destination when the descriptor is refused.
    pub(super) fn look(&mut self, helper: HelperId) -> Lift {
        self.protected()?;
        let (w, dst) = (self.width(0), self.reg(0));
        let selector = self.read(1, Width::B16);
        let selector = self.zext(Width::B16, selector);
        self.b.call(
            helper,
            dst,
            selector,
            dst,
            Operand::Imm(i64::from(w.bytes())),
        );
        Ok(Flow::Next)
    }

    /// VERR (0), VERW (1).
    pub(super) fn verify(&mut self, write: i64) -> Lift {
        self.protected()?;
        let selector = self.read(0, Width::B16);
        let selector = self.zext(Width::B16, selector);
        self.b
            .call(HelperId::Verify, NONE, selector, NONE, Operand::Imm(write));
        Ok(Flow::Next)
    }

    pub(super) fn arpl(&mut self) -> Lift {
        self.protected()?;
        let w = Width::B16;
        let source = self.reg(1);
        let source = self.zext(w, source);
        let new = self.b.temp();
        if self.is_mem(0) {
            // The helper writes ZF: nothing may fault after it.
            let mem = self.mem(2, true);
            self.probe(w, mem);
            let old = self.b.temp();
            self.b.load(w, old, mem);
            let old = self.zext(w, old);
            self.b.call(HelperId::Arpl, new, old, source, NONE);
            self.b.store(w, mem, new);
        } else {
            let dst = self.reg(0);
            let old = self.zext(w, dst);
            self.b.call(HelperId::Arpl, new, old, source, NONE);
            self.b.mov(w, dst, new);
        }
        Ok(Flow::Next)
    }

    /// RDFSBASE and RDGSBASE (`write` false), WRFSBASE and WRGSBASE.
    pub(super) fn segment_base(&mut self, seg: Seg, write: bool) -> Lift {
        if !self.mode.code64() || !self.mode.fsgsbase() {
            return Err(UD);
        }
        let (w, reg, number) = (self.width(0), self.reg(0), Operand::Imm(seg as i64));
        if write {
            let value = self.zext(w, reg);
            self.b
                .call(HelperId::WriteSegBase, NONE, number, value, NONE);
        } else {
            let value = self.b.temp();
            self.b
                .call(HelperId::ReadSegBase, value, number, NONE, NONE);
            self.b.mov(w, reg, value);
        }
        Ok(Flow::Next)
    }

    pub(super) fn bound(&mut self) -> Lift {
        let w = self.width(0);
        let size = u32::from(w.bytes());
        let index = self.reg(0);
        let index = self.signed(w, index);
        // Each bound is an access of its own.
        let ea = self.ea();
        let lower = self.place(ea, size, false);
        let lower = self.bound_at(w, lower);
        let upper = Ea {
            mem: self.plus(ea.mem, size as i32),
            ..ea
        };
        let upper = self.place(upper, size, false);
        let upper = self.bound_at(w, upper);
        self.b.call(HelperId::Bound, NONE, index, lower, upper);
        Ok(Flow::Next)
    }

    fn bound_at(&mut self, w: Width, mem: Mem) -> Operand {
        let bound = self.b.temp();
        self.b.load(w, bound, mem);
        self.signed(w, bound)
    }

    fn signed(&mut self, from: Width, value: Operand) -> Operand {
        let wide = self.b.temp();
        self.b.extend(OpCode::Sext, Width::B64, from, wide, value);
        wide
    }

    /// The general register width that a decoder operand of `bytes` bytes has, as a helper's operand size.
    pub(super) fn size(bytes: usize) -> Operand {
        Operand::Imm(i64::from(width_of(bytes).bytes()))
    }
}
