//! Prefetches: the host's own, where the page is known. A guest that prefetches will miss the caches otherwise.

use ir::{Cond, Hint, Op, Width};
use softmmu::TlbEntry;
use x86::PAGE_SIZE;

use super::Emit;
use super::memory::segment_base;
use crate::x64::asm::{self, Alu, Rm};
use crate::x64::frame::{PageCache, S0, S1, cached, field};

impl Emit<'_> {
    /// A hint: where the page is not known, nothing happens. r14, r11 and the host's flags are lost.
    pub(super) fn prefetch(&mut self, op: &Op) -> Option<()> {
        let mem = op.mem?;
        let hint = Hint::from_index(op.sub)?;
        if self.repeat.is_some() {
            // Strides are what the host sees by itself.
            return Some(());
        }
        let w = Width::B64;
        self.clobber();
        self.address_into(&mem, S0, mem.addr)?;
        if let Some(base) = segment_base(mem.seg) {
            self.a.alu(Alu::Add, w, S0, base);
        }
        let unknown = self.a.label();
        let write = hint == Hint::Write;
        let addend = if self.hops(mem.base, mem.index) {
            let tag = self.by_tlb(1, write, 1, unknown);
            self.a.alu(Alu::Add, w, S0, Rm::M(tag));
            asm::Mem::at(S1, TlbEntry::OFFSET_ADDEND as i32)
        } else {
            // Half as long: code that stays on pages has little use for hints.
            let cache = cached(self.user, self.cache_entry(&mem));
            let (minus, addend) = PageCache::fields(write);
            self.a.load(w, S1, Rm::R(S0));
            self.a.alu(Alu::Add, w, S1, Rm::M(field(cache + minus)));
            self.a.alu_imm(Alu::Cmp, w, Rm::R(S1), PAGE_SIZE as i32);
            self.a.jcc(Cond::Ae, unknown);
            field(cache + addend)
        };
        self.a.alu(Alu::Add, w, S0, Rm::M(addend));
        let (opcode, extension) = match hint {
            Hint::NonTemporal => (0x18, 0),
            Hint::Level1 => (0x18, 1),
            Hint::Level2 => (0x18, 2),
            Hint::Level3 => (0x18, 3),
            Hint::Write => (0x0d, 1),
        };
        let place = Rm::M(asm::Mem::at(S0, 0));
        self.a.two_byte(Width::B32, None, opcode, extension, place);
        self.a.bind(unknown);
        Some(())
    }
}
