//! MOV and its kin: moves, extensions, exchanges, address computation.

use iced_x86::{Code, OpKind, Register};
use ir::{Cond, HelperId, Hint, Mem, Op, OpCode, Operand, Width};
use x86::{Gpr, Seg};

use super::operand::segment;
use super::{Flow, Lift, Lifter, UD};

const AX: Operand = Operand::Reg(Gpr::Rax);

impl Lifter<'_> {
    pub(super) fn mov(&mut self) -> Lift {
        let (to, from) = (self.insn.op0_register(), self.insn.op1_register());
        if to.is_cr() || from.is_cr() {
            return self.mov_control();
        }
        if to.is_dr() || from.is_dr() {
            return self.mov_debug();
        }
        if to.is_tr() || from.is_tr() {
            return Err(UD);
        }
        if let Some(seg) = segment(to) {
            if seg == Seg::Cs {
                return Err(UD);
            }
            let selector = self.read(1, Width::B16);
            self.load_segment(seg, selector, true);
            return Ok(self.after_load_segment(seg));
        }
        if let Some(seg) = segment(from) {
            let selector = self.b.temp();
            self.b.call(
                HelperId::ReadSeg,
                selector,
                Operand::Imm(seg as i64),
                Operand::None,
                Operand::None,
            );
            self.store_word(selector);
            return Ok(Flow::Next);
        }
        self.move_integer()
    }

    /// MOV and MOVNTI between registers, immediates and memory.
    pub(super) fn move_integer(&mut self) -> Lift {
        let w = self.width(0);
        if self.is_mem(0) {
            let value = self.read(1, w);
            self.write(0, w, value);
        } else if self.is_mem(1) {
            let mem = self.mem(u32::from(w.bytes()), false);
            let dst = self.reg(0);
            self.b.load(w, dst, mem);
        } else {
            let (dst, value) = (self.reg(0), self.read(1, w));
            self.b.mov(w, dst, value);
        }
        Ok(Flow::Next)
    }

    /// Writes a 16-bit system value (selector, machine status word) to operand 0: two bytes in memory, the whole
    /// register zero-extended from what the value has.
    pub(super) fn store_word(&mut self, value: Operand) {
        if self.is_mem(0) {
            let mem = self.mem(2, true);
            self.b.store(Width::B16, mem, value);
        } else {
            let (w, dst) = (self.width(0), self.reg(0));
            self.b.mov(w, dst, value);
        }
    }

    /// MOVZX, MOVSX, MOVSXD.
    pub(super) fn extend(&mut self, code: OpCode) -> Lift {
        let (w, from) = (self.width(0), self.width(1));
        let value = self.read(1, from);
        let dst = self.reg(0);
        if from >= w {
            self.b.mov(w, dst, value);
        } else {
            self.b.extend(code, w, from, dst, value);
        }
        Ok(Flow::Next)
    }

    /// CBW, CWDE, CDQE.
    pub(super) fn widen_ax(&mut self, w: Width, from: Width) -> Lift {
        self.b.extend(OpCode::Sext, w, from, AX, AX);
        Ok(Flow::Next)
    }

    /// CWD, CDQ, CQO.
    pub(super) fn sign_to_dx(&mut self, w: Width) -> Lift {
        let count = Operand::Imm(i64::from(w.bits()) - 1);
        self.b
            .quiet(OpCode::Sar, w, Operand::Reg(Gpr::Rdx), AX, count);
        Ok(Flow::Next)
    }

    pub(super) fn lea(&mut self) -> Lift {
        let ea = self.ea();
        let (w, dst) = (self.width(0), self.reg(0));
        self.b.lea(w, dst, ea.mem);
        Ok(Flow::Next)
    }

    pub(super) fn xchg(&mut self) -> Lift {
        let w = self.width(0);
        if let Some(memory) = [0, 1].into_iter().find(|&n| self.is_mem(n)) {
            let reg = self.reg(1 - memory);
            let mem = Mem {
                lock: true,
                ..self.mem(u32::from(w.bytes()), true)
            };
            self.b.rmw(OpCode::Mov, w, mem, reg, reg, Operand::None);
        } else {
            let (x, y, old) = (self.reg(0), self.reg(1), self.b.temp());
            self.b.mov(w, old, x);
            self.b.mov(w, x, y);
            self.b.mov(w, y, old);
        }
        Ok(Flow::Next)
    }

    pub(super) fn xadd(&mut self) -> Lift {
        let (w, src) = (self.width(0), self.reg(1));
        if self.is_mem(0) {
            let mem = self.mem_rmw(w);
            self.b.rmw(OpCode::Add, w, mem, src, src, Operand::None);
        } else {
            let (dst, old, sum) = (self.reg(0), self.b.temp(), self.b.temp());
            self.b.mov(w, old, dst);
            self.b.binary(OpCode::Add, w, sum, old, src);
            self.b.mov(w, src, old);
            self.b.mov(w, dst, sum);
        }
        Ok(Flow::Next)
    }

    /// CMPXCHG. When the values are equal the accumulator is not written (its upper half stays), and when they differ
    /// a register destination is not.
    pub(super) fn cmpxchg(&mut self) -> Lift {
        let (w, src, old) = (self.width(0), self.reg(1), self.b.temp());
        if self.is_mem(0) {
            let mem = Some(self.mem_rmw(w));
            self.b.push(Op {
                dst: old,
                a: AX,
                b: src,
                mem,
                ..Op::new(OpCode::Cmpxchg, w)
            });
        } else {
            let dst = self.reg(0);
            self.b.mov(w, old, dst);
            self.b.binary(OpCode::Sub, w, Operand::None, AX, old);
            self.select_whole(w, Cond::E, dst, src, dst);
        }
        if self.is_mem(0) && w != Width::B32 {
            self.b.mov(w, AX, old);
        } else {
            self.select_whole(w, Cond::Ne, AX, old, AX);
        }
        Ok(Flow::Next)
    }

    /// `dst` = cond ? `taken` : `dst`, where a 32-bit register that isn't written keeps its upper half.
    fn select_whole(
        &mut self,
        w: Width,
        cond: Cond,
        dst: Operand,
        taken: Operand,
        otherwise: Operand,
    ) {
        let (w, a) = if w == Width::B32 {
            (Width::B64, self.zext(w, taken))
        } else {
            (w, taken)
        };
        self.b.push(Op {
            dst,
            a,
            b: otherwise,
            sub: cond as u32,
            ..Op::new(OpCode::Select, w)
        });
    }

    pub(super) fn cmpxchg_pair(&mut self, w: Width) -> Lift {
        let align = if w == Width::B64 { 16 } else { 1 };
        let lock = self.insn.has_lock_prefix();
        let mem = Mem {
            align,
            lock,
            ..self.mem(2 * u32::from(w.bytes()), true)
        };
        self.b.push(Op {
            mem: Some(mem),
            ..Op::new(OpCode::CmpxchgPair, w)
        });
        Ok(Flow::Next)
    }

    pub(super) fn bswap(&mut self) -> Lift {
        let (w, reg) = (self.width(0), self.reg(0));
        if w == Width::B16 {
            // Undefined in the manual; CPUs leave zeros.
            self.b.mov(w, reg, Operand::Imm(0));
        } else {
            self.b.unary(OpCode::Bswap, w, reg, reg);
        }
        Ok(Flow::Next)
    }

    pub(super) fn movbe(&mut self) -> Lift {
        let w = self.width(0);
        let value = self.read(1, w);
        if self.is_mem(0) {
            let swapped = self.b.temp();
            self.b.unary(OpCode::Bswap, w, swapped, value);
            self.write(0, w, swapped);
        } else {
            let dst = self.reg(0);
            self.b.unary(OpCode::Bswap, w, dst, value);
        }
        Ok(Flow::Next)
    }

    pub(super) fn cmov(&mut self) -> Lift {
        let w = self.width(0);
        let (a, dst) = (self.read(1, w), self.reg(0));
        self.b.push(Op {
            dst,
            a,
            b: dst,
            sub: self.cond() as u32,
            ..Op::new(OpCode::Select, w)
        });
        Ok(Flow::Next)
    }

    pub(super) fn setcc(&mut self) -> Lift {
        let dst = if self.is_mem(0) {
            self.b.temp()
        } else {
            self.reg(0)
        };
        self.b.push(Op {
            dst,
            sub: self.cond() as u32,
            ..Op::new(OpCode::Setcc, Width::B8)
        });
        if self.is_mem(0) {
            self.write(0, Width::B8, dst);
        }
        Ok(Flow::Next)
    }

    pub(super) fn xlat(&mut self) -> Lift {
        let addr = match self.insn.memory_base() {
            Register::BX => Width::B16,
            Register::EBX => Width::B32,
            _ => Width::B64,
        };
        let index = self.zext(Width::B8, AX);
        let mut ea = self.simple(Gpr::Rbx, 0, addr, self.data_segment(Register::None));
        ea.mem.index = index;
        let mem = self.place(ea, 1, false);
        self.b.load(Width::B8, AX, mem);
        Ok(Flow::Next)
    }

    /// CLFLUSH, CLFLUSHOPT, CLWB: there is no cache to write back, but they fault as a load does.
    pub(super) fn touch(&mut self) -> Lift {
        let mem = self.mem(1, false);
        let nothing = self.b.temp();
        self.b.load(Width::B8, nothing, mem);
        Ok(Flow::Next)
    }

    /// NOP in all its forms: the operand is not accessed.
    pub(super) fn nop(&mut self) -> Lift {
        if matches!(self.insn.code(), Code::Nopw | Code::Nopd | Code::Nopq)
            && self.insn.has_rep_prefix()
        {
            return self.plain(HelperId::Pause, 0, Flow::Next);
        }
        Ok(Flow::Next)
    }

    /// PREFETCHh, PREFETCHW; other hints are nothing. No segment is checked for a hint, so only those that need no check count.
    pub(super) fn prefetch(&mut self) -> Lift {
        let Some(hint) = self.hint() else {
            return Ok(Flow::Next);
        };
        let ea = self.ea();
        if self.mode.code64() || (self.mode.flat(ea.seg) && ea.mem.addr == Width::B32) {
            let mem = self.place(ea, 1, false);
            self.b.push(Op {
                mem: Some(mem),
                sub: hint as u32,
                ..Op::new(OpCode::Prefetch, Width::B64)
            });
        }
        Ok(Flow::Next)
    }

    /// What a hint with a memory operand says (SDM vol. 2, PREFETCHh, PREFETCHW; APM vol. 3, PREFETCH).
    fn hint(&self) -> Option<Hint> {
        use Code as C;
        let insn = &self.insn;
        if insn.op0_kind() != OpKind::Memory {
            return None;
        }
        let extension = insn.op1_register().number() & 7;
        match insn.code() {
            C::Reservednop_rm16_r16_0F0D
            | C::Reservednop_rm32_r32_0F0D
            | C::Reservednop_rm64_r64_0F0D => match extension {
                0 => Some(Hint::Level1),
                1 | 2 => Some(Hint::Write),
                _ => None,
            },
            C::Reservednop_rm16_r16_0F18
            | C::Reservednop_rm32_r32_0F18
            | C::Reservednop_rm64_r64_0F18 => match extension {
                0 => Some(Hint::NonTemporal),
                1 => Some(Hint::Level1),
                2 => Some(Hint::Level2),
                3 => Some(Hint::Level3),
                _ => None,
            },
            _ => None,
        }
    }
}
