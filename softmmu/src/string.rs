//! String instructions by the page: runs of elements in RAM, moved and filled without a check per element.

use x86::{LinAddr, PAGE_SIZE, PhysAddr};

use crate::mmu::{Mmu, Privilege, Spot};
use crate::paging::{AccessKind, Fault};
use crate::tlb::tag;

/// Elements of a string in one page of RAM, upwards or downwards from the first. Good until the next call that
/// flushes, switches context, or synchronises.
#[derive(Clone, Copy, Debug)]
pub struct HostRun {
    spot: Spot,
    size: u32,
    count: u64,
    backward: bool,
    writable: bool,
}

impl HostRun {
    /// How many elements.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The physical address of the first element.
    pub fn phys(&self) -> PhysAddr {
        self.spot.phys
    }

    /// The offset of an element in the mapping. Panics if there is no such element.
    fn element(&self, i: u64) -> u64 {
        assert!(i < self.count, "an element beyond the run");
        let distance = i * u64::from(self.size);
        if self.backward {
            self.spot.offset - distance
        } else {
            self.spot.offset + distance
        }
    }

    /// The distance from the page's start of the lowest byte of the first `count` elements.
    fn lowest(&self, count: u64) -> u64 {
        let offset = self.spot.phys.page_offset();
        if self.backward {
            offset - (count - 1) * u64::from(self.size)
        } else {
            offset
        }
    }
}

/// How a string instruction goes on.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// At least one element lies in RAM, whole and in one page.
    Ram(HostRun),
    /// The next element crosses a page, or is device memory, ROM to be written or watched: do it alone.
    Single,
}

impl Mmu {
    /// The elements of `size` (1, 2, 4, 8) bytes from `lin` on that lie in its page, at most `max`. The fault is
    /// that of the first element.
    pub fn string_run(
        &mut self,
        lin: LinAddr,
        size: u32,
        max: u64,
        backward: bool,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<Run, Fault> {
        let bytes = u64::from(size);
        let offset = lin.page_offset();
        if max == 0 || !matches!(size, 1 | 2 | 4 | 8) || offset + bytes > PAGE_SIZE {
            return Ok(Run::Single);
        }
        let index = self.index_of(privilege);
        let spot = self.spot(lin.0, kind, index)?;
        if spot.flags & !tag::TRACKED != 0 {
            return Ok(Run::Single);
        }
        let here = if backward {
            offset / bytes + 1
        } else {
            (PAGE_SIZE - offset) / bytes
        };
        let writable = kind == AccessKind::Write;
        Ok(Run::Ram(HostRun {
            spot,
            size,
            count: here.min(max),
            backward,
            writable,
        }))
    }

    /// The bytes from `lin` to the page's end, at most `max_len`, as a run of single bytes.
    pub fn translate_range(
        &mut self,
        lin: LinAddr,
        max_len: u64,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<Run, Fault> {
        self.string_run(lin, 1, max_len, false, kind, privilege)
    }

    /// An element of a run, zero-extended. Panics if there is no such element.
    #[inline]
    pub fn run_load(&self, run: &HostRun, i: u64) -> u64 {
        self.ram().map().load(run.element(i), run.size)
    }

    /// REP MOVS: the first `count` elements, one after the other where the runs overlap. Panics if a run is
    /// shorter, if they differ in size or direction, or if `target` isn't a run for writing.
    pub fn copy_run(&mut self, target: &HostRun, source: &HostRun, count: u64) {
        assert!(
            count <= target.count && count <= source.count,
            "elements beyond the run"
        );
        assert!(
            target.size == source.size && target.backward == source.backward,
            "two kinds of string"
        );
        assert!(target.writable, "a store through a run for reading");
        if count != 0 {
            let (to, from) = (target.spot.offset, source.spot.offset);
            self.ram()
                .map()
                .move_elements(to, from, target.size, count, target.backward);
            self.run_stored(target, count);
        }
    }

    /// REP STOS: the first `count` elements become `value`. Panics if the run is shorter or not for writing.
    pub fn fill_run(&mut self, target: &HostRun, count: u64, value: u64) {
        assert!(count <= target.count, "elements beyond the run");
        assert!(target.writable, "a store through a run for reading");
        if count != 0 {
            self.ram().map().fill_elements(
                target.spot.offset,
                target.size,
                count,
                value,
                target.backward,
            );
            self.run_stored(target, count);
        }
    }

    /// Records stores to the first elements of a run.
    fn run_stored(&mut self, run: &HostRun, count: u64) {
        let lowest = run.lowest(count);
        let distance = run.spot.phys.page_offset() - lowest;
        let spot = Spot {
            offset: run.spot.offset - distance,
            phys: PhysAddr(run.spot.phys.0 - distance),
            flags: run.spot.flags,
        };
        self.stored(&spot, count * u64::from(run.size));
    }
}
