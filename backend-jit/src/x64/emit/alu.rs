//! Moves and integer arithmetic on registers.

use ir::{FlagSet, Op, OpCode, Operand, Width};
use system::FlagOp;
use x86::Gpr;

use super::Emit;
use crate::x64::asm::{Alu, Mem, RAX, RDX, Rm, Shift};
use crate::x64::flags::{Desc, Left, Src};
use crate::x64::frame::{S0, S1};

/// The host operation of an arithmetic op.
pub(super) fn host_alu(code: OpCode) -> Option<Alu> {
    Some(match code {
        OpCode::Add => Alu::Add,
        OpCode::Adc => Alu::Adc,
        OpCode::Sub => Alu::Sub,
        OpCode::Sbb => Alu::Sbb,
        OpCode::And => Alu::And,
        OpCode::Or => Alu::Or,
        OpCode::Xor => Alu::Xor,
        _ => return None,
    })
}

pub(super) fn host_shift(code: OpCode) -> Option<Shift> {
    Some(match code {
        OpCode::Shl => Shift::Shl,
        OpCode::Shr => Shift::Shr,
        OpCode::Sar => Shift::Sar,
        OpCode::Rol => Shift::Rol,
        OpCode::Ror => Shift::Ror,
        _ => return None,
    })
}

fn commutes(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Add | OpCode::Adc | OpCode::And | OpCode::Or | OpCode::Xor
    )
}

impl Emit<'_> {
    pub(super) fn mov(&mut self, op: &Op) -> Option<()> {
        self.preserve_by_move(op.dst);
        let w = op.width;
        if let Some(Rm::R(r)) = self.place(op.dst) {
            if let Some(n) = self.constant(op.a) {
                if w >= Width::B32 {
                    self.a.mov_imm(r, n.cast_unsigned() & w.mask());
                    self.note_pc(op.a);
                } else {
                    self.a.store_imm(w, Rm::R(r), n as i32);
                }
                return Some(());
            }
            if let Some(from) = self.place(op.a) {
                self.a.load(w, r, from);
                return Some(());
            }
        }
        if let Some(Rm::M(m)) = self.place(op.dst)
            && let Some(n) = self.constant(op.a)
            && w >= Width::B32
            && let Ok(small) = i32::try_from((n.cast_unsigned() & w.mask()).cast_signed())
        {
            self.a.store_imm(Width::B64, Rm::M(m), small);
            return Some(());
        }
        if let (Some(Rm::R(r)), Operand::Reg(_)) = (self.place(op.a), op.dst)
            && w != Width::B32
        {
            return self.finish(w, op.dst, r);
        }
        self.fetch(w, S1, op.a)?;
        if w == Width::B32 {
            self.a.load(Width::B32, S1, Rm::R(S1));
        }
        self.finish(w, op.dst, S1)
    }

    pub(super) fn extend(&mut self, op: &Op) -> Option<()> {
        self.preserve_by_move(op.dst);
        let from = Width::ALL[(op.sub & 3) as usize];
        let source = if let Some(n) = self.constant(op.a) {
            self.a.mov_imm(S1, n.cast_unsigned());
            Rm::R(S1)
        } else {
            self.source(from, S1, op.a)?
        };
        let to = self.target(op.dst, S1);
        self.extend_from(op, from, to, source);
        self.finish(op.width, op.dst, to)
    }

    /// reg = source extended as the op says.
    pub(super) fn extend_from(&mut self, op: &Op, from: Width, reg: u8, source: Rm) {
        let sign = op.code == OpCode::Sext;
        let partial = op.width == Width::B16 && reg != S1;
        if partial {
            // The rest of the register stays.
            if sign {
                self.a.movsx(Width::B16, from, reg, source);
            } else {
                self.a.movzx16(reg, source);
            }
        } else if sign {
            self.a.movsx(op.width.max(Width::B32), from, reg, source);
        } else {
            self.a.movzx(from, reg, source);
        }
    }

    pub(super) fn lea(&mut self, op: &Op) -> Option<()> {
        let mem = op.mem?;
        self.preserve_by_move(op.dst);
        let to = self.target(op.dst, S0);
        // A base from memory would come into the register that the index is in.
        let clash = matches!(self.place(mem.base), Some(Rm::M(_)))
            && self.place(mem.index) == Some(Rm::R(to));
        if op.width >= Width::B32 && to != S0 && !clash {
            let w = if mem.addr == Width::B32 {
                Width::B32
            } else {
                op.width
            };
            return self.address_into(&mem, to, w);
        }
        self.address_into(&mem, S0, mem.addr)?;
        if op.width == Width::B32 {
            self.a.load(Width::B32, S0, Rm::R(S0));
        }
        self.finish(op.width, op.dst, S0)
    }

    pub(super) fn select(&mut self, op: &Op) -> Option<()> {
        if matches!(op.a, Operand::High(_)) || matches!(op.b, Operand::High(_)) {
            return None;
        }
        let cond = self.condition_before(op.cond(), op.dst);
        let w = op.width.max(Width::B32);
        let to = self.target(op.dst, S1);
        if op.b == op.dst && to != S1 && op.width >= Width::B32 {
            let source = self.source(w, S0, op.a)?;
            self.a.cmov(w, cond, to, source);
            return Some(());
        }
        self.fetch(w, S1, op.b)?;
        let source = self.source(w, S0, op.a)?;
        self.a.cmov(w, cond, S1, source);
        self.finish(op.width, op.dst, S1)
    }

    pub(super) fn setcc(&mut self, op: &Op) -> Option<()> {
        let cond = self.condition_before(op.cond(), op.dst);
        match (self.place(op.dst), op.dst) {
            (Some(place), Operand::Reg(_)) => self.a.setcc(cond, place),
            _ => {
                self.a.setcc(cond, Rm::R(S1));
                if matches!(op.dst, Operand::Temp(_)) {
                    self.a.movzx(Width::B8, S1, Rm::R(S1));
                }
                self.finish(Width::B8, op.dst, S1)?;
            }
        }
        Some(())
    }

    pub(super) fn bswap(&mut self, op: &Op) -> Option<()> {
        if op.width < Width::B32 {
            return None;
        }
        self.preserve(op.dst);
        self.fetch(op.width, S1, op.a)?;
        self.a.bswap(op.width, S1);
        self.finish(op.width, op.dst, S1)
    }

    /// dst = a op b.
    pub(super) fn arithmetic(&mut self, op: &Op) -> Option<()> {
        if matches!(op.dst, Operand::High(_)) {
            return self.arithmetic_high(op);
        }
        let w = op.width;
        let alu = host_alu(op.code)?;
        let uses = op.code.info().uses;
        self.before_flags(op, uses);
        if op.dst == Operand::None && matches!(op.code, OpCode::Sub | OpCode::And) {
            return self.compare(op, alu);
        }
        self.preserve(op.dst);
        let carry = self.carry_desc(op);
        if carry.is_some() {
            self.store_carry();
        }
        let to = self.target(op.dst, S1);
        let mut desc = None;
        if to != S1 && op.b == op.dst && op.a != op.dst {
            if commutes(op.code) {
                let source = self.source(w, S0, op.a)?;
                self.alu_into(alu, w, to, source, op.a);
                if let Operand::Reg(g) = op.dst
                    && matches!(op.code, OpCode::Add)
                    && let Some(b) = self.flag_source(w, op.a)
                {
                    desc = Some(Desc {
                        op: FlagOp::Add,
                        width: w,
                        a: Src::Minus(g),
                        b,
                    });
                }
            } else {
                self.fetch(w, S1, op.a)?;
                self.a.alu(alu, w, S1, Rm::R(to));
                self.finish(w, op.dst, S1)?;
                if w == Width::B32 {
                    self.a.load(Width::B32, to, Rm::R(S1));
                }
            }
        } else {
            if to == S1 || op.a != op.dst {
                // xor eax, eax and its like need no operand.
                self.fetch_into(w, to, op.a)?;
            }
            let source = if op.b == op.a && op.a == op.dst {
                Rm::R(to)
            } else {
                self.alu_source(w, op.b)?
            };
            self.alu_into(alu, w, to, source, op.b);
            desc = self.result_desc(op);
            self.finish(w, op.dst, to)?;
        }
        let desc = self.logic_desc(op).or(carry).or(desc);
        self.flags_set(op, desc);
        Some(())
    }

    /// What flags follow from after dst = dst op b with carry, once the carry is stored: where nothing but a fault would look
    /// at them that is cheaper than to save them.
    fn carry_desc(&self, op: &Op) -> Option<Desc> {
        let Operand::Reg(g) = op.dst else { return None };
        let (flag_op, a) = match op.code {
            OpCode::Adc => (FlagOp::Adc, Src::Minus(g)),
            OpCode::Sbb => (FlagOp::Sbb, Src::Plus(g)),
            _ => return None,
        };
        let after = self.at + 1;
        if op.a != op.dst || op.b == op.dst || op.flags.is_empty() {
            return None;
        }
        if self.need[after].is_empty() || !self.want[after].is_empty() {
            return None;
        }
        Some(Desc {
            op: flag_op,
            width: op.width,
            a,
            b: self.flag_source(op.width, op.b)?,
        })
    }

    /// AH and its like as the destination: in scratch, then put in its place.
    fn arithmetic_high(&mut self, op: &Op) -> Option<()> {
        let alu = host_alu(op.code)?;
        self.before_flags(op, op.code.info().uses);
        self.preserve(op.dst);
        self.fetch(Width::B8, S1, op.a)?;
        let source = self.alu_source(Width::B8, op.b)?;
        self.alu_into(alu, Width::B8, S1, source, op.b);
        // Moves only from here on.
        self.finish(Width::B8, op.dst, S1)?;
        self.flags_set(op, None);
        Some(())
    }

    /// Brings an operand into the register that the result will be in, at its width.
    fn fetch_into(&mut self, w: Width, to: u8, operand: Operand) -> Option<()> {
        if to == S1 || w >= Width::B32 {
            return self.fetch(w, to, operand);
        }
        match self.place(operand) {
            Some(from) => self.a.load(w, to, from),
            None => {
                self.fetch(w, S1, operand)?;
                self.a.load(w, to, Rm::R(S1));
            }
        }
        Some(())
    }

    /// The second operand: constants are left to [`Emit::alu_into`] if they fit.
    fn alu_source(&mut self, w: Width, operand: Operand) -> Option<Rm> {
        if self.imm(w, operand).is_some() {
            return Some(Rm::R(S0));
        }
        self.source(w, S0, operand)
    }

    fn alu_into(&mut self, alu: Alu, w: Width, to: u8, source: Rm, operand: Operand) {
        match self.imm(w, operand) {
            Some(n) => self.a.alu_imm(alu, w, Rm::R(to), n),
            None => self.a.alu(alu, w, to, source),
        }
    }

    /// What flags follow from after dst = dst op b.
    fn result_desc(&self, op: &Op) -> Option<Desc> {
        let Operand::Reg(g) = op.dst else { return None };
        if op.a != op.dst || op.b == op.dst {
            return None;
        }
        let b = self.flag_source(op.width, op.b)?;
        let (flag_op, a) = match op.code {
            OpCode::Add => (FlagOp::Add, Src::Minus(g)),
            OpCode::Sub => (FlagOp::Sub, Src::Plus(g)),
            _ => return None,
        };
        Some(Desc {
            op: flag_op,
            width: op.width,
            a,
            b,
        })
    }

    pub(super) fn logic_desc(&self, op: &Op) -> Option<Desc> {
        let Operand::Reg(g) = op.dst else { return None };
        matches!(op.code, OpCode::And | OpCode::Or | OpCode::Xor).then_some(Desc {
            op: FlagOp::Logic,
            width: op.width,
            a: Src::Reg(g),
            b: Src::Imm(0),
        })
    }

    /// CMP and TEST.
    fn compare(&mut self, op: &Op, alu: Alu) -> Option<()> {
        let w = op.width;
        let cmp = alu == Alu::Sub;
        match (self.place(op.a), self.imm(w, op.b)) {
            (Some(first), Some(n)) if cmp => self.a.alu_imm(Alu::Cmp, w, first, n),
            (Some(first), Some(n)) => self.a.test_imm(w, first, n),
            (Some(Rm::M(m)), None) => {
                let second = self.register(w, S1, op.b)?;
                if cmp {
                    self.a.alu_to(Alu::Cmp, w, Rm::M(m), second);
                } else {
                    self.a.test(w, Rm::M(m), second);
                }
            }
            _ => {
                let first = self.register(w, S1, op.a)?;
                if let Some(n) = self.imm(w, op.b) {
                    if cmp {
                        self.a.alu_imm(Alu::Cmp, w, Rm::R(first), n);
                    } else {
                        self.a.test_imm(w, Rm::R(first), n);
                    }
                } else {
                    let second = self.source(w, S0, op.b)?;
                    if cmp {
                        self.a.alu(Alu::Cmp, w, first, second);
                    } else {
                        self.a.test(w, second, first);
                    }
                }
            }
        }
        let desc = if cmp {
            match (self.flag_source(w, op.a), self.flag_source(w, op.b)) {
                (Some(Src::Imm(_)), Some(Src::Imm(_))) => None,
                (Some(a), Some(b)) => Some(Desc {
                    op: FlagOp::Sub,
                    width: w,
                    a,
                    b,
                }),
                _ => None,
            }
        } else if op.a == op.b {
            Self::gpr(op.a).map(|g| Desc {
                op: FlagOp::Logic,
                width: w,
                a: Src::Reg(g),
                b: Src::Imm(0),
            })
        } else {
            None
        };
        self.flags_set(op, desc);
        Some(())
    }

    pub(super) fn unary(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        let steps = matches!(op.code, OpCode::Inc | OpCode::Dec) && !op.flags.is_empty();
        if steps
            && self.need[self.at + 1].contains(FlagSet::C)
            && let Operand::Reg(g) = op.dst
            && op.a == op.dst
        {
            return self.step_keeping_carry(op, g);
        }
        if op.code == OpCode::Not {
            self.preserve(op.dst);
        } else {
            self.before_flags(op, FlagSet::NONE);
            self.preserve(op.dst);
        }
        let to = match op.dst {
            Operand::High(_) => S1,
            _ => self.target(op.dst, S1),
        };
        if to == S1 {
            self.fetch(w, S1, op.a)?;
        } else if op.a != op.dst {
            self.fetch_into(w, to, op.a)?;
        }
        match op.code {
            OpCode::Inc => self.a.incdec(w, Rm::R(to), false),
            OpCode::Dec => self.a.incdec(w, Rm::R(to), true),
            OpCode::Neg => self.a.group3(w, 3, Rm::R(to)),
            _ => self.a.group3(w, 2, Rm::R(to)),
        }
        self.finish(w, op.dst, to)?;
        if op.code != OpCode::Not {
            self.flags_set(op, None);
        }
        Some(())
    }

    /// INC and DEC where the carry is still wanted: it stays in memory, and the rest follows from the register, so that a
    /// loop over them saves and fetches nothing.
    fn step_keeping_carry(&mut self, op: &Op, g: Gpr) -> Option<()> {
        let w = op.width;
        self.keep_carry();
        let to = self.target(op.dst, S1);
        if to == S1 {
            self.fetch(w, S1, op.a)?;
        }
        let dec = op.code == OpCode::Dec;
        self.a.incdec(w, Rm::R(to), dec);
        self.finish(w, op.dst, to)?;
        let desc = Desc {
            op: if dec { FlagOp::Dec } else { FlagOp::Inc },
            width: w,
            a: Src::Reg(g),
            b: Src::Imm(0),
        };
        self.flags_set(op, Some(desc));
        self.hf = false;
        self.no_carry = Some(self.a.here());
        Some(())
    }

    /// How the flags of a shift by a constant are saved by the operand, which r11 is to keep; `None`: they need not be.
    fn shifted(&self, op: &Op, to: u8) -> Option<FlagOp> {
        let unwanted = op.flags.is_empty() || self.need[self.at + 1].is_empty();
        if unwanted || to == S1 || op.width < Width::B32 {
            return None;
        }
        match op.code {
            OpCode::Shl => Some(FlagOp::Shl),
            OpCode::Shr => Some(FlagOp::Shr),
            OpCode::Sar => Some(FlagOp::Sar),
            _ => None,
        }
    }

    pub(super) fn shift(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        let shift = host_shift(op.code)?;
        let mask = if w == Width::B64 { 63 } else { 31 };
        if let Operand::Imm(n) = op.b {
            let count = (n & mask) as u8;
            self.before_flags(op, FlagSet::NONE);
            self.preserve(op.dst);
            let to = match op.dst {
                Operand::High(_) => S1,
                _ => self.target(op.dst, S1),
            };
            if to == S1 {
                self.fetch(w, S1, op.a)?;
                if w == Width::B32 && count == 0 {
                    self.a.load(Width::B32, S1, Rm::R(S1));
                }
            } else if op.a != op.dst {
                self.fetch_into(w, to, op.a)?;
            } else if w == Width::B32 && count == 0 {
                self.a.load(Width::B32, to, Rm::R(to));
            }
            let by = self.shifted(op, to).filter(|_| count != 0);
            if by.is_some() {
                self.a.load(w, S1, Rm::R(to));
            }
            if count != 0 {
                self.a.shift_imm(shift, w, Rm::R(to), count);
            }
            self.finish(w, op.dst, to)?;
            if let Some(by) = by {
                let count = Left::Imm(i32::from(count));
                self.flags_left(op, by, Left::Scratch, count, false);
            } else if count != 0 || op.flags.is_empty() {
                self.flags_set(op, None);
            }
            return Some(());
        }
        // SHLX and its like: any count register, no flags.
        if op.flags.is_empty() && w >= Width::B32 {
            let pp = match op.code {
                OpCode::Shl => Some(1),
                OpCode::Sar => Some(2),
                OpCode::Shr => Some(3),
                _ => None,
            };
            if let Some(pp) = pp {
                self.preserve_by_move(op.dst);
                let source = self.source(w, S0, op.a)?;
                let count = self.register(Width::B64, S1, op.b)?;
                let to = self.target(op.dst, S1);
                self.a.vex(w, 2, pp, 0xf7, to, count, source);
                return self.finish(w, op.dst, to);
            }
        }
        // By CL, which the guest's count usually is.
        if op.b != Operand::Reg(Gpr::Rcx) || op.dst == Operand::Reg(Gpr::Rcx) {
            return None;
        }
        self.before_flags(op, FlagSet::NONE);
        self.preserve(op.dst);
        let to = match op.dst {
            Operand::High(_) => S1,
            _ => self.target(op.dst, S1),
        };
        if to == S1 {
            self.fetch(w, S1, op.a)?;
            if w == Width::B32 {
                self.a.load(Width::B32, S1, Rm::R(S1));
            }
        } else if op.a != op.dst {
            self.fetch_into(w, to, op.a)?;
        } else if w == Width::B32 {
            // A count of zero clears the upper half too.
            self.a.load(Width::B32, to, Rm::R(to));
        }
        self.a.shift_cl(shift, w, Rm::R(to));
        self.finish(w, op.dst, to)?;
        self.flags_set(op, None);
        Some(())
    }

    pub(super) fn shift_double(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        let mask = if w == Width::B64 { 63 } else { 31 };
        let count = match op.c {
            Operand::Imm(n) => Some((n & mask) as u8),
            // By zero it leaves all flags and the upper half as they were: here neither is asked for. (Outside 64-bit code that half
            // is zero.)
            Operand::Reg(Gpr::Rcx) if (w == Width::B64 || !self.code64) && op.flags.is_empty() => {
                None
            }
            _ => return None,
        };
        if count == Some(0) || w < Width::B32 {
            return None;
        }
        self.before_flags(op, FlagSet::NONE);
        self.preserve(op.dst);
        let from = self.register(w, S0, op.b)?;
        let to = self.target(op.dst, S1);
        if to == from && op.a != op.dst {
            return None;
        }
        if to == S1 || op.a != op.dst {
            self.fetch_into(w, to, op.a)?;
        }
        let right = op.code == OpCode::Shrd;
        match count {
            Some(count) => self.a.shift_double(right, w, Rm::R(to), from, count),
            None => self.a.shift_double_cl(right, w, Rm::R(to), from),
        }
        self.finish(w, op.dst, to)?;
        self.flags_set(op, None);
        Some(())
    }

    /// MUL, IMUL with one operand.
    /// `memory`: the second operand, by S0.
    pub(super) fn multiply(&mut self, op: &Op, memory: Option<Rm>) -> Option<()> {
        let high = if op.width == Width::B8 {
            Operand::High(Gpr::Rax)
        } else {
            Operand::Reg(Gpr::Rdx)
        };
        let rax = Operand::Reg(Gpr::Rax);
        // A half that is not wanted is dead, since MUL writes both: it may be written.
        let plain = op.a == rax && (op.dst == rax || op.dst == Operand::None);
        if !plain || (op.dst2 != high && op.dst2 != Operand::None) {
            return self.mulx(op, memory);
        }
        self.before_flags(op, FlagSet::NONE);
        self.preserve(rax);
        self.preserve(Operand::Reg(Gpr::Rdx));
        let source = match memory {
            Some(memory) => memory,
            None => self.source(op.width, S1, op.b)?,
        };
        let extension = if op.code == OpCode::MulU { 4 } else { 5 };
        self.a.group3(op.width, extension, source);
        self.flags_set(op, None);
        Some(())
    }

    /// MULX: RDX by an operand, into any two registers, no flags.
    fn mulx(&mut self, op: &Op, memory: Option<Rm>) -> Option<()> {
        let w = op.width;
        if op.code != OpCode::MulU
            || op.a != Operand::Reg(Gpr::Rdx)
            || !op.flags.is_empty()
            || w < Width::B32
        {
            return None;
        }
        self.preserve_by_move(op.dst);
        self.preserve_by_move(op.dst2);
        let high = self.target(op.dst2, S1);
        let low = if op.dst == Operand::None {
            high
        } else {
            self.target(op.dst, S0)
        };
        let source = match memory {
            Some(memory) => memory,
            None => self.source(w, S1, op.b)?,
        };
        self.a.vex(w, 2, 3, 0xf6, high, low, source);
        self.finish(w, op.dst, low)?;
        self.finish(w, op.dst2, high)
    }

    /// ADCX and ADOX: an addition that reads and writes one flag. `memory`: the second operand, by S0.
    pub(super) fn add_with(&mut self, op: &Op, memory: Option<Rm>) -> Option<()> {
        let w = op.width;
        let (flag, prefix) = if op.code == OpCode::Adcx {
            (FlagSet::C, 0x66)
        } else {
            (FlagSet::O, 0xf3)
        };
        if !backend_interp::on_host(iced_x86::Code::Adcx_r64_rm64) {
            return None;
        }
        self.before_flags(op, flag);
        self.preserve(op.dst);
        let mut to = self.target(op.dst, S1);
        if op.b == op.dst && op.a != op.dst {
            to = S1;
        }
        if to == S1 || op.a != op.dst {
            self.fetch(w, to, op.a)?;
        }
        let source = match memory {
            Some(memory) => memory,
            None => self.source(w, S0, op.b)?,
        };
        self.a.three_byte(w, Some(prefix), 0xf6, to, source, false);
        self.finish(w, op.dst, to)?;
        self.flags_set(op, None);
        Some(())
    }

    pub(super) fn imul(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        if w == Width::B8 {
            return None;
        }
        self.before_flags(op, FlagSet::NONE);
        self.preserve(op.dst);
        let mut to = self.target(op.dst, S1);
        if let Some(n) = self.imm(w, op.b) {
            let source = self.source(w, S0, op.a)?;
            self.a.imul_imm(w, to, source, n);
        } else {
            if op.b == op.dst && op.a != op.dst {
                to = S1;
            }
            let second = self.source(w, S0, op.b)?;
            if to == S1 || op.a != op.dst {
                self.fetch_into(w, to, op.a)?;
            }
            self.a.imul(w, to, second);
        }
        self.finish(w, op.dst, to)?;
        self.flags_set(op, None);
        Some(())
    }

    /// DIV and IDIV where no #DE can come of it; the rest is the interpreter's.
    pub(super) fn divide(&mut self, op: &Op) -> Option<()> {
        let (rax, rdx) = (Operand::Reg(Gpr::Rax), Operand::Reg(Gpr::Rdx));
        let w = op.width;
        if w < Width::B32 || op.a != rax || op.b != rdx || op.dst != rax || op.dst2 != rdx {
            return None;
        }
        if op.c == rax || op.c == rdx {
            return None;
        }
        // The whole instruction again, interpreted, must do the same.
        let start = (0..self.at)
            .rev()
            .find(|i| self.ops[*i].code == OpCode::Insn)?;
        let end = (self.at + 1..self.ops.len())
            .find(|i| self.ops[*i].code == OpCode::Insn || self.ops[*i].code.info().terminal)
            .unwrap_or(self.ops.len());
        if end != self.at + 1 {
            return None;
        }
        // The interpreter leaves them there too.
        self.spill();
        self.hf = false;
        let divisor = match self.place(op.c)? {
            Rm::R(r) => r,
            memory @ Rm::M(_) => {
                self.a.load(w, S1, memory);
                S1
            }
        };
        let (slow, done) = (self.a.label(), self.a.label());
        if op.code == OpCode::DivU {
            self.a.alu(Alu::Cmp, w, RDX, Rm::R(divisor));
            self.a.jcc(ir::Cond::Ae, slow);
            self.a.group3(w, 6, Rm::R(divisor));
        } else {
            // The high half only extends the low one, and the divisor is neither 0 nor -1: the quotient fits.
            self.a.load(w, S0, Rm::R(RAX));
            self.a
                .shift_imm(Shift::Sar, w, Rm::R(S0), (w.bits() - 1) as u8);
            self.a.alu(Alu::Cmp, w, S0, Rm::R(RDX));
            self.a.jcc(ir::Cond::Ne, slow);
            self.a.lea(w, S0, Mem::at(divisor, 1));
            self.a.alu_imm(Alu::Cmp, w, Rm::R(S0), 1);
            self.a.jcc(ir::Cond::Be, slow);
            self.a.group3(w, 7, Rm::R(divisor));
        }
        self.or_slow(slow, done, start, end)
    }
}
