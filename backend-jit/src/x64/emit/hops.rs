//! The TLB, and the table of large pages, where accesses look for their page in place.

use std::mem::offset_of;

use ir::{Cond, Width};
use softmmu::TlbEntry;

use super::Emit;
use crate::hops::By;
use crate::x64::asm::{Alu, Label, Mem, RSP, Rm, Section, Shift};
use crate::x64::frame::{Frame, Large, S0, S1, field};
use crate::x64::runtime::tlb_entry;

/// The tag of the entry that S1 points to.
fn tag(write: bool) -> Mem {
    Mem::at(S1, TlbEntry::offset_tag(write) as i32)
}

impl Emit<'_> {
    /// Finds the entry (S1) of the address in S0, and leaves its distance from the page there. Goes to `miss` with
    /// S1 as good, unless a range that starts there is in the page and aligned. Returns the entry's tag.
    pub(super) fn by_tlb(&mut self, size: u32, write: bool, align: u32, miss: Label) -> Mem {
        let w = Width::B64;
        if self.cx.by == By::Large && self.user && self.code64 && !write {
            let small = self.a.label();
            let found = self.a.label();
            self.by_large(size, align, small);
            self.a.bind(found);
            let old = self.a.section(Section::Cold);
            self.a.bind(small);
            self.a.alu(Alu::Add, w, S0, Rm::M(tag(write)));
            self.by_small(size, write, align, miss);
            // One of many is looked at.
            let left = Rm::M(field(offset_of!(Frame, large) + Large::LEFT));
            self.a.alu_imm(Alu::Sub, Width::B32, left, 1);
            self.a.jcc(Cond::Ns, found);
            let hops = Rm::M(field(offset_of!(Frame, hops)));
            self.a.store_imm(Width::B32, hops, 0);
            self.a.jmp(miss);
            self.a.section(old);
        } else {
            self.by_small(size, write, align, miss);
        }
        tag(write)
    }

    /// By the TLB.
    fn by_small(&mut self, size: u32, write: bool, align: u32, miss: Label) {
        let w = Width::B64;
        tlb_entry(self.a, S1);
        // Supervisor code's accesses to the other half find nothing there.
        let which = match (self.user, self.code64) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        let table = Rm::M(field(offset_of!(Frame, tlb) + which * 8));
        self.a.alu(Alu::Add, w, S1, table);
        self.a.alu(Alu::Sub, w, S0, Rm::M(tag(write)));
        self.within(x86::PAGE_SIZE, size, align, miss);
    }

    /// By the table of large pages.
    fn by_large(&mut self, size: u32, align: u32, miss: Label) {
        let w = Width::B64;
        let shift = softmmu::LARGE.trailing_zeros() - softmmu::ENTRY_SHIFT;
        self.a.load(w, S1, Rm::R(S0));
        self.a.shift_imm(Shift::Shr, w, Rm::R(S1), shift as u8);
        let last = (Large::ENTRIES as i32 - 1) << softmmu::ENTRY_SHIFT;
        self.a.alu_imm(Alu::And, Width::B32, Rm::R(S1), last);
        let table = Mem {
            base: RSP,
            index: Some((S1, 0)),
            disp: (offset_of!(Frame, large) + Large::TABLE) as i32,
            gs: false,
        };
        self.a.lea(w, S1, table);
        self.a.alu(Alu::Sub, w, S0, Rm::M(tag(false)));
        self.within(softmmu::LARGE, size, align, miss);
    }

    /// Goes to `miss` unless what starts at the distance in S0 lies within a page of a size, and is aligned.
    fn within(&mut self, page: u64, size: u32, align: u32, miss: Label) {
        if align > 1 {
            self.a.test_imm(Width::B8, Rm::R(S0), align as i32 - 1);
            self.a.jcc(Cond::Ne, miss);
        }
        let last = page as i32 - size as i32;
        self.a.alu_imm(Alu::Cmp, Width::B64, Rm::R(S0), last);
        self.a.jcc(Cond::A, miss);
    }
}
