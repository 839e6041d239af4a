//! The bytes that a translation was made from: where they lie, and whether they are still there.

use x86::{PAGE_SIZE, PhysAddr};

use crate::{CodeStamp, GuestRam, Mmu, line_mask};

/// Where the bytes lie: all in one page, or the rest from the start of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeSpan {
    /// The first byte.
    pub start: PhysAddr,
    /// The page that they cross into.
    pub second: Option<PhysAddr>,
    /// How many they are.
    pub len: u64,
}

impl CodeSpan {
    /// Bytes in the first page and in the second.
    fn lens(self) -> (u64, u64) {
        let first = (PAGE_SIZE - self.start.page_offset()).min(self.len);
        (first, self.len - first)
    }

    /// Marks them as translated; `None` outside RAM. They are to be read, or read again, only behind that.
    pub fn mark(self, mmu: &mut Mmu) -> Option<[CodeStamp; 2]> {
        let (first, rest) = self.lens();
        let mut stamps = [CodeStamp::default(); 2];
        stamps[0] = mmu.mark_code(self.start, first.max(1))?;
        if let Some(second) = self.second {
            stamps[1] = mmu.mark_code(second, rest.max(1))?;
        }
        Some(stamps)
    }

    /// Reads them, as many as `bytes` takes; false outside RAM.
    pub fn read(self, ram: &GuestRam, bytes: &mut [u8]) -> bool {
        let (first, _) = self.lens();
        let (first, rest) = bytes.split_at_mut(bytes.len().min(first as usize));
        ram.read(self.start, first).is_ok()
            && (rest.is_empty() || self.second.is_some_and(|at| ram.read(at, rest).is_ok()))
    }

    /// Whether memory holds these bytes there.
    pub fn holds(self, mmu: &Mmu, bytes: &[u8]) -> bool {
        let (first, _) = self.lens();
        let (first, rest) = bytes.split_at(bytes.len().min(first as usize));
        mmu.code_matches(self.start, first)
            && (rest.is_empty() || self.second.is_some_and(|at| mmu.code_matches(at, rest)))
    }

    /// Whether a translation of these bytes, whose pages' generations are still those of its stamps, may be entered.
    /// As long as other vCPUs may hold write tags from before the mark, and once when none does any more, this compares:
    /// a store that went unrecorded came before. Then the stamps are trusted.
    pub fn is_current(self, mmu: &Mmu, stamps: &mut [CodeStamp; 2], bytes: &[u8]) -> bool {
        if stamps.iter().all(|stamp| stamp.is_trusted()) {
            return true;
        }
        // To be seen before the bytes are.
        let settled = stamps.iter().all(|stamp| mmu.ram().is_settled(*stamp));
        let same = self.holds(mmu, bytes);
        if settled && same {
            stamps.iter_mut().for_each(CodeStamp::trust);
        }
        same
    }

    /// The lines of a page that they touch.
    pub fn lines(self, page: PhysAddr) -> u64 {
        let (first, rest) = self.lens();
        let mut lines = 0;
        if self.start.page() == page {
            lines |= line_mask(self.start.0, first.max(1));
        }
        if self.second == Some(page) {
            lines |= line_mask(0, rest.max(1));
        }
        lines
    }
}
