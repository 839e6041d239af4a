//! Accesses that leave the host's flags alone, where the guest's are there and its code will look at them: arithmetic with
//! carry between loads and stores.
//!
//! The check is made of instructions that change no flag. Distance and size in one comparison are not to be had that way: an
//! access alone must be aligned by its size, what is not goes the cold way; a range is checked at both its ends. JRCXZ decides, with
//! the guest's RCX in r11 meanwhile. The cold way saves the flags and fetches them again.

use std::mem::offset_of;

use ir::Width;

use super::{Emit, State};
use crate::x64::asm::{Label, Mem, RCX, Rm};
use crate::x64::frame::{Frame, S0, S1, field};

/// How long JMP with a displacement of 32 bits is: what JRCXZ jumps over.
const JMP: u8 = 5;

/// The bits that are to be zero in a distance.
fn odd(align: u32) -> Mem {
    field(offset_of!(Frame, odd) + align.trailing_zeros() as usize * 8)
}

impl Emit<'_> {
    /// Whether an access is to leave the host's flags alone.
    pub(super) fn keeps(&self, hops: bool) -> bool {
        self.state == State::Host && !hops && !self.want[self.at].is_empty()
    }

    /// Goes to `miss` unless the distance in S0 is that of an aligned access within the page. S0 and S1 are lost.
    pub(super) fn near_kept(&mut self, align: u32, miss: Label) {
        let w = Width::B64;
        self.a.load(w, S1, Rm::R(RCX));
        self.a.pext(RCX, S0, odd(align));
        self.zero_or(miss);
        self.a.load(w, RCX, Rm::R(S1));
    }

    /// As [`Emit::near_kept`], for the distance in S1; S0 stays.
    pub(super) fn far_kept(&mut self, align: u32, miss: Label) {
        self.a.pext(S1, S1, odd(align));
        self.a.xchg(Width::B64, S1, Rm::R(RCX));
        self.zero_or(miss);
        self.a.load(Width::B64, RCX, Rm::R(S1));
    }

    /// As [`Emit::near_kept`], for a range.
    pub(super) fn range_kept(&mut self, length: u32, align: u32, miss: Label) {
        let w = Width::B64;
        self.a.lea(w, S1, Mem::at(S0, length as i32 - 1));
        self.a.pext(S1, S1, odd(1));
        self.a.pext(S0, S0, odd(align));
        self.a.lea(w, S0, Mem::sum(S0, S1, 0));
        self.a.load(w, S1, Rm::R(RCX));
        self.a.load(w, RCX, Rm::R(S0));
        self.zero_or(miss);
        self.a.load(w, RCX, Rm::R(S1));
    }

    fn zero_or(&mut self, miss: Label) {
        self.a.jrcxz(JMP);
        self.a.jmp(miss);
    }

    /// The start of the cold way: the guest's RCX back in its place, the flags into memory.
    pub(super) fn missed_kept(&mut self) {
        self.a.load(Width::B64, RCX, Rm::R(S1));
        self.spill();
        self.hf = false;
    }

    /// The end of the cold way: the flags again in the host's, S0 as it is.
    pub(super) fn found_kept(&mut self) {
        self.a.call(self.stubs.lahf);
    }
}
