//! The slow path of loads, stores and fetches: crossings, device memory, code pages, breakpoints.
//!
//! An access first finds the spots of all pages that it touches, in ascending order, each with the rights it
//! needs; only then a byte is moved. So a fault leaves everything as it was, and CR2 is the access's first byte in
//! the page that faults.

use x86::{LinAddr, PAGE_SIZE, PhysAddr};

use crate::contexts::MmuIndex;
use crate::mmu::{Mmu, Privilege, Spot};
use crate::paging::{AccessKind, Fault};
use crate::ram::Frame;
use crate::tlb::tag;
use crate::track::{CodeHit, line_mask};

/// Pages whose spots are collected at a time; longer accesses go in pieces.
const PIECE_PAGES: usize = 9;
/// Bytes that never touch more pages than that.
const PIECE: usize = (PIECE_PAGES - 1) * PAGE_SIZE as usize;

/// A page that instructions are fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPage {
    /// The physical page.
    pub page: PhysAddr,
    /// It is RAM (`GuestRam::host_page` has it), not device memory.
    pub ram: bool,
}

/// The parts of an access: the spot in each page, and the bytes there.
pub(crate) struct Parts {
    spots: [(Spot, usize); PIECE_PAGES],
    count: usize,
    /// The flags of all.
    pub(crate) flags: u64,
}

impl Parts {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Spot, usize)> {
        self.spots[..self.count].iter()
    }
}

/// The largest access that the bus takes at `addr` when `rest` bytes are left.
fn bus_size(addr: u64, rest: usize) -> usize {
    let aligned = 1usize << addr.trailing_zeros().min(3);
    let fits = 1usize << rest.ilog2().min(3);
    aligned.min(fits)
}

impl Mmu {
    /// Finds the spots of an access of at most [`PIECE`] bytes.
    pub(crate) fn parts(
        &mut self,
        lin: LinAddr,
        len: usize,
        kind: AccessKind,
        index: MmuIndex,
    ) -> Result<Parts, Fault> {
        let mut parts = Parts {
            spots: [(Spot::default(), 0); PIECE_PAGES],
            count: 0,
            flags: 0,
        };
        let mut done = 0;
        while done < len {
            let at = lin.wrapping_add(done as u64).0 & self.state.linear_mask();
            let bytes = (len - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            let spot = self.spot(at, kind, index)?;
            parts.spots[parts.count] = (spot, bytes);
            parts.count += 1;
            parts.flags |= spot.flags;
            done += bytes;
        }
        if parts.flags & tag::WATCH != 0 {
            self.check_watches(lin.0, len as u64, kind);
        }
        Ok(parts)
    }

    /// Reads the bytes of one spot.
    pub(crate) fn read_spot(&self, spot: &Spot, out: &mut [u8]) {
        if spot.flags & tag::MMIO == 0 {
            self.ram().map().read(spot.offset, out);
            return;
        }
        let mut done = 0;
        while done < out.len() {
            let addr = spot.phys.wrapping_add(done as u64);
            let size = bus_size(addr.0, out.len() - done);
            let value = self.bus().mmio_read(self.cpu(), addr, size as u8);
            out[done..done + size].copy_from_slice(&value.to_le_bytes()[..size]);
            done += size;
        }
    }

    /// Writes the bytes of one spot that was found for writing.
    pub(crate) fn write_spot(&mut self, spot: &Spot, bytes: &[u8]) {
        if spot.flags & tag::MMIO != 0 {
            let mut done = 0;
            while done < bytes.len() {
                let addr = spot.phys.wrapping_add(done as u64);
                let size = bus_size(addr.0, bytes.len() - done);
                let mut value = [0; 8];
                value[..size].copy_from_slice(&bytes[done..done + size]);
                self.bus()
                    .mmio_write(self.cpu(), addr, size as u8, u64::from_le_bytes(value));
                done += size;
            }
        } else if spot.flags & tag::ROM == 0 {
            self.ram().map().write(spot.offset, bytes);
            self.stored(spot, bytes.len() as u64);
        }
    }

    /// Records a store that was made at a spot in RAM.
    #[inline]
    pub(crate) fn stored(&mut self, spot: &Spot, len: u64) {
        if spot.flags & tag::CODE != 0 {
            let frame = Frame((spot.offset >> 12) as u32);
            let offset = spot.phys.page_offset();
            if self.ram().track.note_write(frame.index(), offset, len) {
                self.code_hit = 1;
                self.hits.add(CodeHit {
                    page: spot.phys.page(),
                    lines: line_mask(offset, len),
                });
            }
        }
    }

    /// Loads 1 to 8 bytes, zero-extended; other sizes are taken for 8.
    pub fn load(&mut self, lin: LinAddr, size: u32, privilege: Privilege) -> Result<u64, Fault> {
        let index = self.index_of(privilege);
        self.load_at(lin, size, index)
    }

    fn load_at(&mut self, lin: LinAddr, size: u32, index: MmuIndex) -> Result<u64, Fault> {
        let size = if size == 0 { 8 } else { size.min(8) };
        if lin.page_offset() + u64::from(size) <= PAGE_SIZE {
            let spot = self.spot(lin.0, AccessKind::Read, index)?;
            if spot.flags == 0 {
                return Ok(self.ram().map().load(spot.offset, size));
            }
        }
        let mut bytes = [0; 8];
        self.load_bytes_at(lin, &mut bytes[..size as usize], index)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores the low 1 to 8 bytes of `value`; other sizes are taken for 8.
    pub fn store(
        &mut self,
        lin: LinAddr,
        size: u32,
        value: u64,
        privilege: Privilege,
    ) -> Result<(), Fault> {
        let index = self.index_of(privilege);
        self.store_at(lin, size, value, index)
    }

    fn store_at(
        &mut self,
        lin: LinAddr,
        size: u32,
        value: u64,
        index: MmuIndex,
    ) -> Result<(), Fault> {
        let size = if size == 0 { 8 } else { size.min(8) };
        if lin.page_offset() + u64::from(size) <= PAGE_SIZE {
            let spot = self.spot(lin.0, AccessKind::Write, index)?;
            if spot.flags & !tag::TRACKED == 0 {
                self.ram().map().store(spot.offset, size, value);
                self.stored(&spot, u64::from(size));
                return Ok(());
            }
        }
        self.store_bytes_at(lin, &value.to_le_bytes()[..size as usize], index)
    }

    /// Loads bytes; nothing is read from devices unless all pages may be read (of 32 KiB at a time).
    pub fn load_bytes(
        &mut self,
        lin: LinAddr,
        out: &mut [u8],
        privilege: Privilege,
    ) -> Result<(), Fault> {
        let index = self.index_of(privilege);
        self.load_bytes_at(lin, out, index)
    }

    fn load_bytes_at(
        &mut self,
        mut lin: LinAddr,
        out: &mut [u8],
        index: MmuIndex,
    ) -> Result<(), Fault> {
        if lin.page_offset() + out.len() as u64 <= PAGE_SIZE && !out.is_empty() {
            let spot = self.spot(lin.0, AccessKind::Read, index)?;
            if spot.flags == 0 {
                self.ram().map().read(spot.offset, out);
                return Ok(());
            }
        }
        for piece in out.chunks_mut(PIECE) {
            let parts = self.parts(lin, piece.len(), AccessKind::Read, index)?;
            let mut done = 0;
            for (spot, bytes) in parts.iter() {
                self.read_spot(spot, &mut piece[done..done + bytes]);
                done += bytes;
            }
            lin = lin.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Stores bytes; nothing is written unless all pages may be written. Longer than 32 KiB: see `probe_write`.
    pub fn store_bytes(
        &mut self,
        lin: LinAddr,
        bytes: &[u8],
        privilege: Privilege,
    ) -> Result<(), Fault> {
        let index = self.index_of(privilege);
        self.store_bytes_at(lin, bytes, index)
    }

    fn store_bytes_at(
        &mut self,
        mut lin: LinAddr,
        bytes: &[u8],
        index: MmuIndex,
    ) -> Result<(), Fault> {
        if lin.page_offset() + bytes.len() as u64 <= PAGE_SIZE && !bytes.is_empty() {
            let spot = self.spot(lin.0, AccessKind::Write, index)?;
            if spot.flags == 0 {
                self.ram().map().write(spot.offset, bytes);
                return Ok(());
            }
        }
        for piece in bytes.chunks(PIECE) {
            let parts = self.parts(lin, piece.len(), AccessKind::Write, index)?;
            let mut done = 0;
            for (spot, bytes) in parts.iter() {
                self.write_spot(spot, &piece[done..done + bytes]);
                done += bytes;
            }
            lin = lin.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Checks that `len` bytes may be read, and sets accessed flags as reading them would.
    pub fn probe_read(
        &mut self,
        lin: LinAddr,
        len: u64,
        privilege: Privilege,
    ) -> Result<(), Fault> {
        self.probe_range(lin, len, AccessKind::Read, privilege)
    }

    /// Checks that `len` bytes may be written, and sets accessed and dirty flags as writing them would: before an
    /// instruction that makes several stores, or reads before it writes.
    pub fn probe_write(
        &mut self,
        lin: LinAddr,
        len: u64,
        privilege: Privilege,
    ) -> Result<(), Fault> {
        self.probe_range(lin, len, AccessKind::Write, privilege)
    }

    fn probe_range(
        &mut self,
        lin: LinAddr,
        len: u64,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<(), Fault> {
        let index = self.index_of(privilege);
        let mut done = 0;
        while done < len {
            let at = lin.wrapping_add(done).0 & self.state.linear_mask();
            self.spot(at, kind, index)?;
            done += (PAGE_SIZE - at % PAGE_SIZE).min(len - done);
        }
        Ok(())
    }

    // Fetching.

    /// Translates the page of an instruction.
    pub fn fetch_page(&mut self, lin: LinAddr) -> Result<FetchPage, Fault> {
        let index = self.index();
        let spot = self.spot(lin.0, AccessKind::Fetch, index)?;
        Ok(FetchPage {
            page: spot.phys.page(),
            ram: spot.flags & tag::MMIO == 0,
        })
    }

    /// Fetches instruction bytes up to the end of the page; how many.
    pub fn fetch_bytes(&mut self, lin: LinAddr, out: &mut [u8]) -> Result<usize, Fault> {
        let index = self.index();
        let spot = self.spot(lin.0, AccessKind::Fetch, index)?;
        let len = out.len().min((PAGE_SIZE - lin.page_offset()) as usize);
        self.read_spot(&spot, &mut out[..len]);
        Ok(len)
    }

    // What the inline accesses fall back to.

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_load8(&mut self, lin: LinAddr) -> Result<u8, Fault> {
        self.load_at(lin, 1, self.index()).map(|value| value as u8)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_load16(&mut self, lin: LinAddr) -> Result<u16, Fault> {
        self.load_at(lin, 2, self.index()).map(|value| value as u16)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_load32(&mut self, lin: LinAddr) -> Result<u32, Fault> {
        self.load_at(lin, 4, self.index()).map(|value| value as u32)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_load64(&mut self, lin: LinAddr) -> Result<u64, Fault> {
        self.load_at(lin, 8, self.index())
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_load128(&mut self, lin: LinAddr) -> Result<u128, Fault> {
        let mut bytes = [0; 16];
        self.load_bytes_at(lin, &mut bytes, self.index())?;
        Ok(u128::from_le_bytes(bytes))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_store8(&mut self, lin: LinAddr, value: u8) -> Result<(), Fault> {
        self.store_at(lin, 1, u64::from(value), self.index())
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_store16(&mut self, lin: LinAddr, value: u16) -> Result<(), Fault> {
        self.store_at(lin, 2, u64::from(value), self.index())
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_store32(&mut self, lin: LinAddr, value: u32) -> Result<(), Fault> {
        self.store_at(lin, 4, u64::from(value), self.index())
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_store64(&mut self, lin: LinAddr, value: u64) -> Result<(), Fault> {
        self.store_at(lin, 8, value, self.index())
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn slow_store128(&mut self, lin: LinAddr, value: u128) -> Result<(), Fault> {
        self.store_bytes_at(lin, &value.to_le_bytes(), self.index())
    }
}
