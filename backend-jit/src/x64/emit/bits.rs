//! Bit instructions.

use ir::{FlagSet, Op, OpCode, Operand, Width};

use super::Emit;
use crate::x64::asm::Rm;
use crate::x64::frame::{S0, S1};

pub(super) fn bit_extension(code: OpCode) -> Option<u8> {
    Some(match code {
        OpCode::Bt => 4,
        OpCode::Bts => 5,
        OpCode::Btr => 6,
        OpCode::Btc => 7,
        _ => return None,
    })
}

impl Emit<'_> {
    pub(super) fn bit_test(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        let extension = bit_extension(op.code)?;
        if w == Width::B8 {
            return None;
        }
        self.before_flags(op, FlagSet::NONE);
        if op.code == OpCode::Bt {
            // By a register from the first operand's own place it would reach beyond it in memory.
            let first = self.register(w, S1, op.a)?;
            self.bit(w, extension, first, op.b)?;
        } else {
            self.preserve(op.dst);
            let to = self.target(op.dst, S1);
            if to == S1 || op.a != op.dst {
                if op.b == op.dst {
                    return None;
                }
                self.fetch(w, to, op.a)?;
            }
            self.bit(w, extension, to, op.b)?;
            self.finish(w, op.dst, to)?;
        }
        self.flags_set(op, None);
        Some(())
    }

    fn bit(&mut self, w: Width, extension: u8, reg: u8, bit: Operand) -> Option<()> {
        if let Operand::Imm(n) = bit {
            let n = (n as u64 & u64::from(w.bits() - 1)) as u8;
            self.a.bit_imm(w, extension, Rm::R(reg), n);
        } else {
            let by = self.register(w, S0, bit)?;
            self.a.bit_reg(w, extension, Rm::R(reg), by);
        }
        Some(())
    }

    /// BSF, BSR, TZCNT, LZCNT, POPCNT.
    pub(super) fn count(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        let (prefix, opcode, keeps) = match op.code {
            OpCode::Bsf => (None, 0xbc, true),
            OpCode::Bsr => (None, 0xbd, true),
            OpCode::Tzcnt => (Some(0xf3), 0xbc, false),
            OpCode::Lzcnt => (Some(0xf3), 0xbd, false),
            _ => (Some(0xf3), 0xb8, false),
        };
        if w == Width::B8 {
            return None;
        }
        self.before_flags(op, FlagSet::NONE);
        self.preserve(op.dst);
        let source = self.source(w, S0, op.a)?;
        if keeps {
            // All hosts leave the destination alone when the source is zero; AMD says so.
            self.fetch(w, S1, op.b)?;
            if w == Width::B32 {
                self.a.load(Width::B32, S1, Rm::R(S1));
            }
            self.a.two_byte(w, prefix, opcode, S1, source);
            self.finish(w, op.dst, S1)?;
        } else {
            let to = self.target(op.dst, S1);
            self.a.two_byte(w, prefix, opcode, to, source);
            self.finish(w, op.dst, to)?;
        }
        self.flags_set(op, None);
        Some(())
    }

    pub(super) fn bmi(&mut self, op: &Op) -> Option<()> {
        use OpCode as C;
        let w = op.width;
        if w < Width::B32 {
            return None;
        }
        self.before_flags(op, FlagSet::NONE);
        self.preserve(op.dst);
        let to = self.target(op.dst, S1);
        match op.code {
            C::Blsi | C::Blsmsk | C::Blsr => {
                let source = self.source(w, S0, op.a)?;
                let extension = match op.code {
                    C::Blsr => 1,
                    C::Blsmsk => 2,
                    _ => 3,
                };
                self.a.vex(w, 2, 0, 0xf3, extension, to, source);
            }
            C::Andn | C::Pdep | C::Pext => {
                // The second operand is the one that may be memory.
                let first = self.register(w, S1, op.a)?;
                let second = self.source(w, S0, op.b)?;
                let (pp, opcode) = match op.code {
                    C::Andn => (0, 0xf2),
                    C::Pdep => (3, 0xf5),
                    _ => (2, 0xf5),
                };
                self.a.vex(w, 2, pp, opcode, to, first, second);
            }
            _ => {
                // BEXTR, BZHI: the control is in vvvv.
                let control = self.register(w, S1, op.b)?;
                let source = self.source(w, S0, op.a)?;
                let opcode = if op.code == C::Bextr { 0xf7 } else { 0xf5 };
                self.a.vex(w, 2, 0, opcode, to, control, source);
            }
        }
        self.finish(w, op.dst, to)?;
        self.flags_set(op, None);
        Some(())
    }

    pub(super) fn crc32(&mut self, op: &Op) -> Option<()> {
        let from = Width::ALL[(op.sub & 3) as usize];
        self.preserve(op.dst);
        self.fetch(Width::B32, S1, op.a)?;
        self.a.load(Width::B32, S1, Rm::R(S1));
        let source = self.source(from, S0, op.b)?;
        let opcode = if from == Width::B8 { 0xf0 } else { 0xf1 };
        let w = if from == Width::B8 { Width::B32 } else { from };
        if w == Width::B16 {
            return None;
        }
        self.a
            .three_byte(w, Some(0xf2), opcode, S1, source, from == Width::B8);
        self.finish(Width::B32, op.dst, S1)
    }
}
