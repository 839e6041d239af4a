//! Who owns which part of RAM while a kernel is laid out: nothing is ever placed over something else.

use std::ops::Range;

use x86::PhysAddr;

use super::error::Problem;
use super::map::MemoryMap;
use super::{GuestMemory, OutsideRam};

/// The real-mode interrupt table and the BIOS data area: nothing is placed there, though a kernel may load itself
/// over them.
const BIOS_DATA: Range<u64> = 0..0x1000;
/// Where our own small tables go. Kernels' trampolines and boot sectors have always used the RAM below.
const SMALL: Range<u64> = 0x1_0000..0x9_f000;
/// The end of what a 32-bit pointer reaches.
pub(super) const FOUR_GIB: u64 = 1 << 32;

/// RAM, and what is taken of it.
pub(super) struct Claims<'a> {
    map: &'a MemoryMap,
    taken: Vec<Range<u64>>,
    memory: &'a mut dyn GuestMemory,
}

impl<'a> Claims<'a> {
    /// All of the map's RAM is free.
    pub(super) fn new(map: &'a MemoryMap, memory: &'a mut dyn GuestMemory) -> Self {
        Self {
            map,
            taken: vec![BIOS_DATA],
            memory,
        }
    }

    /// The memory map.
    pub(super) fn map(&self) -> &'a MemoryMap {
        self.map
    }

    /// Takes a range that is fixed by the kernel's file. Its parts may overlap (the later one wins).
    pub(super) fn claim(
        &mut self,
        start: u64,
        len: u64,
        what: &'static str,
    ) -> Result<(), Problem> {
        let end = start
            .checked_add(len)
            .ok_or(Problem::Malformed("an address range runs past 2^64"))?;
        if !self.map.is_ram(&(start..end)) {
            // More RAM would help unless a hole of the PC is in the way.
            let vast = MemoryMap::pc(1 << 45);
            return Err(if vast.is_ram(&(start..end)) {
                Problem::TooLarge {
                    what,
                    end,
                    have: self.map.total_ram(),
                }
            } else {
                Problem::NoRamThere {
                    what,
                    start,
                    end: end.saturating_sub(1),
                }
            });
        }
        self.taken.push(start..end);
        Ok(())
    }

    /// The first address after everything that has been claimed.
    pub(super) fn end(&self) -> u64 {
        self.taken.iter().map(|r| r.end).max().unwrap_or(0)
    }

    /// The gaps inside `within`, ascending.
    fn gaps(&self, within: &Range<u64>) -> Vec<Range<u64>> {
        let mut taken = self.taken.clone();
        taken.sort_by_key(|r| r.start);
        let mut gaps = Vec::new();
        for ram in self.map.ram() {
            let end = ram.end.min(within.end);
            let mut at = ram.start.max(within.start);
            for t in &taken {
                if t.start.min(end) > at {
                    gaps.push(at..t.start.min(end));
                }
                at = at.max(t.end);
            }
            if at < end {
                gaps.push(at..end);
            }
        }
        gaps
    }

    fn take(&mut self, at: u64, len: u64) -> u64 {
        self.taken.push(at..at + len);
        at
    }

    /// Takes the lowest free place for `len` bytes in `within`; `align` is a power of two.
    pub(super) fn lowest(&mut self, len: u64, align: u64, within: Range<u64>) -> Option<u64> {
        let at = self.gaps(&within).into_iter().find_map(|gap| {
            let at = gap.start.checked_next_multiple_of(align)?;
            (at.checked_add(len)? <= gap.end).then_some(at)
        })?;
        Some(self.take(at, len))
    }

    /// Takes the highest free place for `len` bytes in `within`; `align` is a power of two.
    pub(super) fn highest(&mut self, len: u64, align: u64, within: Range<u64>) -> Option<u64> {
        let at = self.gaps(&within).into_iter().rev().find_map(|gap| {
            let at = gap.end.checked_sub(len)? & !(align - 1);
            (at >= gap.start).then_some(at)
        })?;
        Some(self.take(at, len))
    }

    /// Takes a place for one of our own tables: below 640 KiB if the kernel leaves room there.
    pub(super) fn small(&mut self, len: u64, what: &'static str) -> Result<u64, Problem> {
        self.lowest(len, 0x1000, SMALL)
            .or_else(|| self.lowest(len, 0x1000, 0..FOUR_GIB))
            .ok_or(Problem::NoRoom { what, size: len })
    }

    /// Copies bytes to a place that has been taken.
    pub(super) fn write(
        &mut self,
        at: u64,
        bytes: &[u8],
        what: &'static str,
    ) -> Result<(), Problem> {
        let end = at.saturating_add(bytes.len() as u64);
        self.memory
            .write(PhysAddr(at), bytes)
            .map_err(|OutsideRam| Problem::NoRamThere {
                what,
                start: at,
                end: end.saturating_sub(1),
            })
    }

    /// Clears a place that has been taken.
    pub(super) fn zero(&mut self, at: u64, len: u64, what: &'static str) -> Result<(), Problem> {
        let end = at.saturating_add(len);
        self.memory
            .zero(PhysAddr(at), len)
            .map_err(|OutsideRam| Problem::NoRamThere {
                what,
                start: at,
                end: end.saturating_sub(1),
            })
    }

    /// Takes a place for a table of ours, and fills it.
    pub(super) fn put_small(&mut self, bytes: &[u8], what: &'static str) -> Result<u64, Problem> {
        let at = self.small(bytes.len() as u64, what)?;
        self.write(at, bytes, what)?;
        Ok(at)
    }

    /// What firmware leaves in the BIOS data area for whoever looks for the EBDA or the size of conventional memory.
    pub(super) fn write_bios_data(&mut self) -> Result<(), Problem> {
        let (base_kib, _) = self.map.old_sizes_kib();
        if self
            .taken
            .iter()
            .any(|r| *r != BIOS_DATA && r.start < BIOS_DATA.end)
        {
            return Ok(()); // the kernel has loaded itself there
        }
        self.write(0x40e, &0x9fc0_u16.to_le_bytes(), "the BIOS data area")?;
        self.write(
            0x413,
            &(base_kib as u16).to_le_bytes(),
            "the BIOS data area",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::MemoryMap;
    use super::super::testing::Ram;
    use super::{Claims, FOUR_GIB, Problem};

    #[test]
    fn places_do_not_overlap() {
        let map = MemoryMap::pc(16 << 20);
        let mut ram = Ram::new(&map);
        let mut c = Claims::new(&map, &mut ram);
        c.claim(0x10_0000, 0x1234, "the kernel").unwrap();
        assert_eq!(
            c.lowest(0x1000, 0x1000, 0x10_0000..FOUR_GIB),
            Some(0x10_2000)
        );
        assert_eq!(c.highest(0x1800, 0x1000, 0..FOUR_GIB), Some(0xff_e000));
        assert_eq!(c.highest(0x1000, 0x1000, 0..FOUR_GIB), Some(0xff_d000));
        assert_eq!(c.lowest(16 << 20, 1, 0..FOUR_GIB), None);
        assert_eq!(c.small(0x1000, "a table").unwrap(), 0x1_0000);
        assert_eq!(c.small(0x10_0000, "a table").unwrap(), 0x10_3000);
    }

    #[test]
    fn a_hole_is_not_a_lack_of_ram() {
        let map = MemoryMap::pc(16 << 20);
        let mut ram = Ram::new(&map);
        let mut c = Claims::new(&map, &mut ram);
        assert!(matches!(
            c.claim(0x100_0000, 1, "x"),
            Err(Problem::TooLarge { .. })
        ));
        assert!(matches!(
            c.claim(0xb_8000, 1, "x"),
            Err(Problem::NoRamThere { .. })
        ));
        assert!(matches!(
            c.claim(u64::MAX, 2, "x"),
            Err(Problem::Malformed(_))
        ));
    }
}
