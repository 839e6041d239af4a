//! Branches whose displacement is changed while others may be running them.

use ir::Cond;

use super::asm::{Asm, Target};

impl Asm {
    /// As [`Asm::jmp`], so that the displacement can be changed while others run the code.
    pub fn jmp_link(&mut self, target: impl Into<Target>) -> u32 {
        self.pad_link(1);
        self.jmp(target)
    }

    /// As [`Asm::jcc`], so that the displacement can be changed while others run the code.
    pub fn jcc_link(&mut self, cond: Cond, target: impl Into<Target>) -> u32 {
        self.pad_link(2);
        self.jcc(cond, target)
    }

    /// Pads so that four bytes behind an opcode lie within eight aligned ones: those are stored, and fetched, in one
    /// piece (AMD64 manual vol. 2, 7.3.2; SDM vol. 3, 9.1.1).
    fn pad_link(&mut self, opcode: u32) {
        match (self.here() + opcode) % 8 {
            5 => self.raw(&[0x0f, 0x1f, 0x00]),
            6 => self.raw(&[0x66, 0x90]),
            7 => self.byte(0x90),
            _ => {}
        }
    }
}
