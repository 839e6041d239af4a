//! Read-modify-write: plain ones, and locked ones that are atomic against every other vCPU.
//!
//! Write permission is checked before anything is read: an instruction that can't write faults as a write. A
//! locked operation inside a cache line of RAM is one locked host instruction. One that crosses lines or pages, or
//! goes to device memory, holds one lock for all of guest memory instead: it is atomic against others of its kind,
//! not against accesses that don't need the lock (a guest that mixes the two on one split word sees it torn).

use std::sync::Arc;

use x86::{LinAddr, PAGE_SIZE};

use crate::contexts::MmuIndex;
use crate::mmu::{Mmu, Privilege, Spot};
use crate::paging::{AccessKind, Fault};
use crate::raw;
use crate::tlb::tag;

/// The low `size` bytes.
fn mask(size: u32) -> u64 {
    u64::MAX >> (64 - 8 * size)
}

/// Sizes of read-modify-write operands; others are taken for 8.
fn operand_size(size: u32) -> u32 {
    if matches!(size, 1 | 2 | 4) { size } else { 8 }
}

impl Mmu {
    /// The spot of an operand that one host instruction can lock, or None.
    fn lockable(
        &mut self,
        lin: LinAddr,
        size: u32,
        index: MmuIndex,
    ) -> Result<Option<Spot>, Fault> {
        if lin.page_offset() + u64::from(size) > PAGE_SIZE {
            return Ok(None);
        }
        let spot = self.spot(lin.0, AccessKind::Write, index)?;
        let plain = spot.flags & !(tag::TRACKED | tag::WATCH) == 0;
        if !plain || !self.ram().map().can_lock(spot.offset, size) {
            return Ok(None);
        }
        if spot.flags & tag::WATCH != 0 {
            self.check_watches(lin.0, u64::from(size), AccessKind::Write);
        }
        Ok(Some(spot))
    }

    /// Reads, changes and writes an operand of any place, not atomically. The value found.
    fn update(
        &mut self,
        lin: LinAddr,
        size: u32,
        index: MmuIndex,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        let parts = self.parts(lin, size as usize, AccessKind::Write, index)?;
        let mut bytes = [0; 8];
        let mut done = 0;
        for (spot, part) in parts.iter() {
            self.read_spot(spot, &mut bytes[done..done + part]);
            done += part;
        }
        let old = u64::from_le_bytes(bytes);
        let new = f(old).to_le_bytes();
        done = 0;
        for (spot, part) in parts.iter() {
            self.write_spot(spot, &new[done..done + part]);
            done += part;
        }
        Ok(old)
    }

    /// As `update`, but atomic against all others that take the same lock.
    #[cold]
    fn update_exclusively(
        &mut self,
        lin: LinAddr,
        size: u32,
        index: MmuIndex,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        let ram = Arc::clone(self.ram());
        let _exclusive = ram.exclusive.lock();
        self.update(lin, size, index, f)
    }

    /// Reads, changes and writes 1, 2, 4 or 8 bytes, without a lock: `f` gets the value found, zero-extended, and
    /// is called once; it isn't called if the operand can't be written. The value found.
    pub fn rmw(
        &mut self,
        lin: LinAddr,
        size: u32,
        mut f: impl FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        let size = operand_size(size);
        let index = self.index();
        if lin.page_offset() + u64::from(size) <= PAGE_SIZE {
            let spot = self.spot(lin.0, AccessKind::Write, index)?;
            if spot.flags & !tag::TRACKED == 0 {
                let old = self.ram().map().load(spot.offset, size);
                let new = f(old);
                self.ram().map().store(spot.offset, size, new);
                self.stored(&spot, u64::from(size));
                return Ok(old);
            }
        }
        self.update(lin, size, index, &mut f)
    }

    /// As `rmw`, but one atomic step with a full barrier; `f` may be called several times. At the privilege given
    /// (descriptor tables are marked accessed and busy by implicit locked accesses).
    pub fn rmw_locked_as(
        &mut self,
        lin: LinAddr,
        size: u32,
        privilege: Privilege,
        mut f: impl FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        let size = operand_size(size);
        let index = self.index_of(privilege);
        let Some(spot) = self.lockable(lin, size, index)? else {
            return self.update_exclusively(lin, size, index, &mut f);
        };
        let mut seen = self.ram().map().load(spot.offset, size);
        loop {
            let new = f(seen) & mask(size);
            let old = self
                .ram()
                .map()
                .compare_exchange(spot.offset, size, seen, new);
            if old == seen {
                self.stored(&spot, u64::from(size));
                return Ok(old);
            }
            seen = old;
        }
    }

    /// As `rmw`, but one atomic step with a full barrier; `f` may be called several times.
    pub fn rmw_locked(
        &mut self,
        lin: LinAddr,
        size: u32,
        f: impl FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        self.rmw_locked_as(lin, size, Privilege::Current, f)
    }

    /// XCHG: the value found.
    pub fn xchg(&mut self, lin: LinAddr, size: u32, new: u64) -> Result<u64, Fault> {
        let size = operand_size(size);
        let index = self.index();
        let Some(spot) = self.lockable(lin, size, index)? else {
            return self.update_exclusively(lin, size, index, &mut |_| new);
        };
        let old = self.ram().map().swap(spot.offset, size, new);
        self.stored(&spot, u64::from(size));
        Ok(old)
    }

    /// LOCK XADD, LOCK ADD: adds, modulo the size. The value found.
    pub fn xadd(&mut self, lin: LinAddr, size: u32, addend: u64) -> Result<u64, Fault> {
        let size = operand_size(size);
        let index = self.index();
        let Some(spot) = self.lockable(lin, size, index)? else {
            return self.update_exclusively(lin, size, index, &mut |old| old.wrapping_add(addend));
        };
        let old = self.ram().map().fetch_add(spot.offset, size, addend);
        self.stored(&spot, u64::from(size));
        Ok(old)
    }

    /// LOCK CMPXCHG: writes `new` if the operand is `expected`. The value found.
    pub fn cmpxchg(
        &mut self,
        lin: LinAddr,
        size: u32,
        expected: u64,
        new: u64,
    ) -> Result<u64, Fault> {
        let size = operand_size(size);
        let expected = expected & mask(size);
        let index = self.index();
        let Some(spot) = self.lockable(lin, size, index)? else {
            return self.update_exclusively(lin, size, index, &mut |old| {
                if old == expected { new } else { old }
            });
        };
        let old = self
            .ram()
            .map()
            .compare_exchange(spot.offset, size, expected, new);
        if old == expected {
            self.stored(&spot, u64::from(size));
        }
        Ok(old)
    }

    /// CMPXCHG16B; the caller has checked that the operand is aligned. The value found.
    pub fn cmpxchg16b(&mut self, lin: LinAddr, expected: u128, new: u128) -> Result<u128, Fault> {
        let index = self.index();
        let parts = self.parts(lin, 16, AccessKind::Write, index)?;
        let plain = parts.flags & !(tag::TRACKED | tag::WATCH) == 0 && lin.0.is_multiple_of(16);
        if plain && let Some((spot, 16)) = parts.iter().next() {
            let ram = Arc::clone(self.ram());
            let _exclusive = (!raw::has_cas128()).then(|| ram.exclusive.lock());
            let old = ram.map().compare_exchange128(spot.offset, expected, new);
            if old == expected {
                self.stored(spot, 16);
            }
            return Ok(old);
        }
        let ram = Arc::clone(self.ram());
        let _exclusive = ram.exclusive.lock();
        let mut bytes = [0; 16];
        let mut done = 0;
        for (spot, part) in parts.iter() {
            self.read_spot(spot, &mut bytes[done..done + part]);
            done += part;
        }
        let old = u128::from_le_bytes(bytes);
        let result = if old == expected { new } else { old }.to_le_bytes();
        done = 0;
        for (spot, part) in parts.iter() {
            self.write_spot(spot, &result[done..done + part]);
            done += part;
        }
        Ok(old)
    }
}
