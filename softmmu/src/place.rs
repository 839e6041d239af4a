//! Where an access may go directly: what translating engines ask on a miss.

use x86::{LinAddr, PAGE_SIZE};

use crate::mmu::Mmu;
use crate::paging::{AccessKind, Fault};
use crate::tlb::tag;
use crate::track::LINE_SIZE;

/// What [`Mmu::place`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All bytes lie in RAM from this host address on, and nobody has to be told of the access.
    Ram(u64),
    /// Device memory, ROM, a page with code beside the bytes, a breakpoint, or two pages: the slow accesses do it.
    Slow,
    /// A store to bytes that were translated.
    Code,
}

impl Mmu {
    /// Looks up an access of 1 to 64 bytes at the current privilege and fills the TLB. A fault is found here for
    /// accesses within a page only.
    ///
    /// # Errors
    /// The page fault that the access raises.
    #[inline]
    pub fn place(&mut self, lin: LinAddr, size: u64, write: bool) -> Result<Place, Fault> {
        let offset = lin.page_offset();
        if offset + size > PAGE_SIZE {
            return Ok(Place::Slow);
        }
        let kind = if write {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let spot = self.spot(lin.0, kind, self.index())?;
        if spot.flags == 0 {
            return Ok(Place::Ram(self.ram().map().address() + spot.offset));
        }
        if spot.flags == tag::CODE && write {
            let (first, last) = (offset / LINE_SIZE, (offset + size - 1) / LINE_SIZE);
            let lines = self.ram().code_lines(spot.phys);
            if (first..=last).any(|line| lines >> line & 1 != 0) {
                return Ok(Place::Code);
            }
        }
        Ok(Place::Slow)
    }
}
