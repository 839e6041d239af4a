//! Explicit operands: registers, immediates and the memory operand as IR operands.

use iced_x86::{OpKind, Register};
use ir::{Cond, FlagSet, Operand, Width};
use x86::{Gpr, Seg};

use super::Lifter;

/// The general register, or the high byte of one, that a decoder register names.
pub(super) fn gpr(register: Register) -> Operand {
    match register {
        Register::AH => Operand::High(Gpr::Rax),
        Register::CH => Operand::High(Gpr::Rcx),
        Register::DH => Operand::High(Gpr::Rdx),
        Register::BH => Operand::High(Gpr::Rbx),
        _ => {
            let full = register.full_register();
            if full.is_gpr() {
                Operand::Reg(Gpr::ALL[full.number() & 15])
            } else {
                Operand::None
            }
        }
    }
}

/// The segment register that a decoder register names.
pub(super) fn segment(register: Register) -> Option<Seg> {
    if register.is_segment_register() {
        Seg::from_index(register.number())
    } else {
        None
    }
}

/// The integer width of `bytes` bytes. Other sizes don't reach the integer functions; they count as 64 bits.
pub(super) fn width_of(bytes: usize) -> Width {
    u8::try_from(bytes)
        .ok()
        .and_then(Width::from_bytes)
        .unwrap_or(Width::B64)
}

impl Lifter<'_> {
    /// The offset of the next instruction.
    pub(super) fn next(&self) -> i32 {
        self.insn.next_ip() as i32
    }

    /// Whether operand `n` is in memory.
    pub(super) fn is_mem(&self, n: u32) -> bool {
        self.insn.op_kind(n) == OpKind::Memory
    }

    /// The width of operand `n`, a register or in memory.
    pub(super) fn width(&self, n: u32) -> Width {
        width_of(match self.insn.op_kind(n) {
            OpKind::Register => self.insn.op_register(n).size(),
            _ => self.insn.memory_size().size(),
        })
    }

    /// Operand `n`, a general register.
    pub(super) fn reg(&self, n: u32) -> Operand {
        gpr(self.insn.op_register(n))
    }

    /// Operand `n`, an immediate for an op of width `w`.
    pub(super) fn imm(&self, n: u32, w: Width) -> Operand {
        let shift = 64 - w.bits();
        Operand::Imm((self.insn.immediate(n) as i64) << shift >> shift)
    }

    /// The value of operand `n`: a register, an immediate, or a temporary loaded from memory.
    pub(super) fn read(&mut self, n: u32, w: Width) -> Operand {
        match self.insn.op_kind(n) {
            OpKind::Register => self.reg(n),
            OpKind::Memory => {
                let mem = self.mem(u32::from(w.bytes()), false);
                let value = self.b.temp();
                self.b.load(w, value, mem);
                value
            }
            _ => self.imm(n, w),
        }
    }

    /// Writes operand `n`, a register or in memory.
    pub(super) fn write(&mut self, n: u32, w: Width, value: Operand) {
        if self.is_mem(n) {
            let mem = self.mem(u32::from(w.bytes()), true);
            self.b.store(w, mem, value);
        } else {
            let dst = self.reg(n);
            self.b.mov(w, dst, value);
        }
    }

    /// A temporary holding `value`, zero-extended from `from` to 64 bits.
    pub(super) fn zext(&mut self, from: Width, value: Operand) -> Operand {
        let wide = self.b.temp();
        if from == Width::B64 {
            self.b.mov(Width::B64, wide, value);
        } else {
            self.b
                .extend(ir::OpCode::Zext, Width::B64, from, wide, value);
        }
        wide
    }

    /// The flags that a vector, x87 or string op must yield: all when the instruction writes any status flag.
    pub(super) fn flags(&self) -> FlagSet {
        if crate::status_flags(self.insn.rflags_modified()) == 0 {
            FlagSet::NONE
        } else {
            FlagSet::ALL
        }
    }

    /// The condition of Jcc, SETcc, CMOVcc, LOOPcc. Only for those.
    pub(super) fn cond(&self) -> Cond {
        Cond::ALL[(self.insn.condition_code() as usize).saturating_sub(1) & 15]
    }
}
