//! The x87: its registers, its stack and its exceptions, and every instruction on them.
//!
//! [`execute`] runs one instruction on an [`X87`] and an [`Io`] that holds what memory, EFLAGS and AX give and get. Nothing
//! here knows addresses: the instruction and data pointers are set by the caller ([`updates_pointers`] tells when).
//!
//! A store can fault in the caller's memory after the operation: run [`execute`] on a copy, write [`Io::mem`], then keep
//! the copy.

mod execute;
mod image;
mod ops;

pub use execute::{Fault, Io, execute, updates_pointers, waits};
pub use image::Layout;

use crate::float::flags::{ALL, IE, PRE};
use crate::float::{Env, F80, Float};

/// Status word bits beyond the six exception flags (SDM 1, 8.1.3).
pub mod sw {
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Exception summary: an unmasked exception is pending.
    pub const ES: u16 = 1 << 7;
    /// Condition code 0.
    pub const C0: u16 = 1 << 8;
    /// Condition code 1: rounded up; at a stack fault: overflow.
    pub const C1: u16 = 1 << 9;
    /// Condition code 2.
    pub const C2: u16 = 1 << 10;
    /// Top of stack, three bits.
    pub const TOP: u16 = 7 << 11;
    /// Condition code 3.
    pub const C3: u16 = 1 << 14;
    /// Busy: a copy of ES.
    pub const B: u16 = 1 << 15;
}

/// The x87 state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// Control word; bit 6 is always set, bits 7 and 13-15 always clear.
    pub cw: u16,
    /// Status word, TOP in bits 11-13.
    pub sw: u16,
    /// Abridged tag word as in FXSAVE: bit i set means that physical register i is not empty.
    pub tw: u8,
    /// Physical registers R0 to R7; ST(i) is `regs[(top + i) & 7]`.
    pub regs: [F80; 8],
    /// Last opcode, 11 bits.
    pub fop: u16,
    /// Last instruction pointer (an offset in 16- and 32-bit code).
    pub fip: u64,
    /// Its code segment.
    pub fcs: u16,
    /// Last data pointer.
    pub fdp: u64,
    /// Its segment.
    pub fds: u16,
}

impl Default for X87 {
    fn default() -> Self {
        let mut x = Self {
            cw: 0,
            sw: 0,
            tw: 0,
            regs: [F80::default(); 8],
            fop: 0,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
        };
        x.init();
        x
    }
}

impl X87 {
    /// The state after RESET: FNINIT's but for a control word of 40h, and tags that say "zero" (SDM 3, table 10-1).
    pub fn reset() -> Self {
        Self {
            cw: 0x40,
            tw: 0xFF,
            ..Self::default()
        }
    }

    /// FNINIT. The registers keep their contents but become empty.
    pub fn init(&mut self) {
        self.cw = 0x37F;
        self.sw = 0;
        self.tw = 0;
        (self.fop, self.fip, self.fcs, self.fdp, self.fds) = (0, 0, 0, 0, 0);
    }

    /// Index of the physical register that is ST(0).
    pub fn top(&self) -> usize {
        usize::from(self.sw >> 11 & 7)
    }

    /// Moves the top of stack.
    pub fn set_top(&mut self, top: usize) {
        self.sw = self.sw & !sw::TOP | ((top & 7) as u16) << 11;
    }

    /// Index of the physical register that is ST(i).
    pub fn physical(&self, i: usize) -> usize {
        (self.top() + i) & 7
    }

    /// ST(i), whether empty or not.
    pub fn st(&self, i: usize) -> F80 {
        self.regs[self.physical(i)]
    }

    /// Writes ST(i) and makes it not empty.
    pub fn set_st(&mut self, i: usize, value: F80) {
        let n = self.physical(i);
        self.regs[n] = value;
        self.tw |= 1 << n;
    }

    /// Whether ST(i) is empty.
    pub fn is_empty(&self, i: usize) -> bool {
        self.tw >> self.physical(i) & 1 == 0
    }

    /// Makes ST(i) empty.
    pub fn free(&mut self, i: usize) {
        self.tw &= !(1 << self.physical(i));
    }

    /// The full tag word: 0 valid, 1 zero, 2 special, 3 empty, two bits each, R0 lowest.
    pub fn full_tags(&self) -> u16 {
        (0..8).rev().fold(0, |tags, i| {
            let r = self.regs[i];
            let tag = match r.se & 0x7FFF {
                _ if self.tw >> i & 1 == 0 => 3,
                0 if r.sig == 0 => 1,
                0 | 0x7FFF => 2,
                _ if r.sig >> 63 == 0 => 2,
                _ => 0,
            };
            tags << 2 | tag
        })
    }

    /// Loads a full tag word: only "empty" matters, the rest follows from the contents.
    pub fn set_full_tags(&mut self, tags: u16) {
        self.tw = (0..8).fold(0, |tw, i| tw | u8::from(tags >> (2 * i) & 3 != 3) << i);
    }

    /// Loads the control word (FLDCW): pending exceptions may become unmasked, or masked.
    pub fn set_cw(&mut self, cw: u16) {
        self.cw = cw & 0x1F3F | 0x40;
        self.summarise();
    }

    /// Whether an unmasked exception is pending: the next waiting instruction raises #MF (or, with CR0.NE = 0, FERR#).
    pub fn pending(&self) -> bool {
        self.sw & sw::ES != 0
    }

    /// FNCLEX.
    pub fn clear_exceptions(&mut self) {
        self.sw &= 0x7F00;
    }

    /// What an MMX instruction other than EMMS does first: TOP = 0 and all registers valid (SDM 1, 9.5.1).
    pub fn enter_mmx(&mut self) {
        self.set_top(0);
        self.tw = 0xFF;
    }

    /// MMn: the significand of physical register n.
    pub fn mm(&self, n: usize) -> u64 {
        self.regs[n & 7].sig
    }

    /// Writes MMn; its exponent and sign become ones. TOP and tags are [`X87::enter_mmx`]'s.
    pub fn set_mm(&mut self, n: usize, value: u64) {
        self.regs[n & 7] = F80::new(0xFFFF, value);
    }

    /// EMMS: all registers become empty; TOP becomes zero as at every MMX instruction.
    pub fn emms(&mut self) {
        self.set_top(0);
        self.tw = 0;
    }

    /// Makes ES and B follow from flags and masks.
    fn summarise(&mut self) {
        if self.sw & !self.cw & u16::from(ALL) != 0 {
            self.sw |= sw::ES | sw::B;
        } else {
            self.sw &= !(sw::ES | sw::B);
        }
    }

    fn env(&self) -> Env {
        Env::from_cw(self.cw)
    }

    fn set_flag(&mut self, bit: u16, on: bool) {
        self.sw = if on { self.sw | bit } else { self.sw & !bit };
    }

    /// Records what an operation raised. False means that an exception found before the computation is unmasked:
    /// no result is to be written and nothing popped.
    fn raise(&mut self, flags: u8, up: bool) -> bool {
        let unmasked = flags & !(self.cw as u8);
        let commit = unmasked & PRE == 0;
        self.set_flag(sw::C1, commit && up);
        self.sw |= u16::from(if commit { flags } else { flags & PRE });
        if unmasked != 0 {
            self.sw |= sw::ES | sw::B;
        }
        commit
    }

    /// Records a stack fault; true where it is masked and the indefinite is to be delivered.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.sw |= sw::SF;
        let masked = self.raise(IE, false);
        self.set_flag(sw::C1, overflow);
        masked
    }

    /// Drops ST(0).
    fn pop(&mut self) {
        self.free(0);
        self.set_top(self.top() + 1);
    }

    /// Pushes without looking at what it overwrites.
    fn push(&mut self, value: F80) {
        self.set_top(self.top() + 7);
        self.set_st(0, value);
    }
}

/// The real indefinite.
const INDEFINITE: F80 = F80::DEFAULT_NAN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mmx_writes_alias_the_stack() {
        let mut x = X87::default();
        x.set_top(5);
        x.enter_mmx();
        x.set_mm(3, 0x1122);
        assert_eq!((x.top(), x.tw), (0, 0xFF));
        assert_eq!(x.st(3), F80::new(0xFFFF, 0x1122));
        assert_eq!(x.mm(3), 0x1122);
        x.emms();
        assert_eq!(x.full_tags(), 0xFFFF);
    }

    #[test]
    fn control_word_decides_what_is_pending() {
        let mut x = X87::default();
        assert!(x.raise(IE, false));
        assert!(!x.pending());
        x.set_cw(0x37E);
        assert!(x.pending());
        x.set_cw(0x37F);
        assert!(!x.pending());
    }
}
