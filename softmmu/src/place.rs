//! Where an access may go directly: what translating engines ask on a miss.

use x86::{LinAddr, PAGE_SIZE};

use crate::mmu::Mmu;
use crate::paging::{AccessKind, Fault};
use crate::ram::Frame;
use crate::tlb::tag;
use crate::track::line_mask;

/// What [`Mmu::place`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All bytes lie in RAM from this host address on, and nobody has to be told of the access.
    Ram(u64),
    /// Device memory, ROM, a breakpoint, or two pages: the slow accesses do it.
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
        if !write || spot.flags & !tag::LINES != tag::CODE {
            return Ok(Place::Slow);
        }
        let frame = Frame((spot.offset >> 12) as u32).index();
        let mask = line_mask(offset, size);
        if self.ram().track.lines(frame) & mask != 0 || !self.beside_code(lin.0, frame, mask) {
            return Ok(Place::Code);
        }
        Ok(Place::Ram(self.ram().map().address() + spot.offset))
    }
}
