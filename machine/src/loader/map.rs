//! The physical memory map of the PC and its form for kernels (ACPI 6.5, 15: "system address map", e820).

use std::ops::Range;

use crate::memory::{E820Kind, MIB, e820};

/// Start of extended memory.
pub(super) const HIGH: u64 = MIB;

/// What a range of physical memory is, with the numbers of the e820 interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Free for the operating system.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

impl MapKind {
    /// The number that the e820 interface, and after it PVH and multiboot, give it.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// One range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// What it is.
    pub kind: MapKind,
}

/// The physical memory map, ascending, without overlaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<MapEntry>,
}

impl MemoryMap {
    /// The PC's map with `ram` bytes of memory, as [`crate::memory::e820`] tells it to everybody.
    pub fn pc(ram: u64) -> Self {
        let entries = e820(ram)
            .into_iter()
            .filter(|e| e.len > 0)
            .map(|e| MapEntry {
                start: e.start.0,
                len: e.len,
                kind: match e.kind {
                    E820Kind::Ram => MapKind::Ram,
                    E820Kind::Reserved => MapKind::Reserved,
                },
            });
        Self {
            entries: entries.collect(),
        }
    }

    /// All ranges, ascending.
    pub fn entries(&self) -> &[MapEntry] {
        &self.entries
    }

    /// The ranges that kernels may use, ascending.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        let ram = self.entries.iter().filter(|e| e.kind == MapKind::Ram);
        ram.map(|e| e.start..e.start.saturating_add(e.len))
    }

    /// Whether all of `range` is RAM.
    pub fn is_ram(&self, range: &Range<u64>) -> bool {
        self.ram()
            .any(|r| r.start <= range.start && range.end <= r.end && range.start <= range.end)
    }

    /// Bytes of RAM that kernels may use.
    pub fn total_ram(&self) -> u64 {
        self.ram().map(|r| r.end - r.start).sum()
    }

    /// KiB of RAM from address 0, and from 1 MiB to the first hole: the two numbers that the oldest interfaces know.
    pub(super) fn old_sizes_kib(&self) -> (u32, u32) {
        let run = |start| {
            self.ram()
                .find(|r| r.start == start)
                .map_or(0, |r| (r.end - r.start) >> 10)
        };
        (run(0) as u32, run(HIGH).min(u64::from(u32::MAX)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::{MapKind, MemoryMap};

    #[test]
    fn small_pc() {
        let map = MemoryMap::pc(512 << 20);
        let ram: Vec<_> = map.ram().collect();
        assert_eq!(ram, [0..0x9_fc00, 0x10_0000..0x2000_0000]);
        assert_eq!(map.old_sizes_kib(), (639, 511 << 10));
        assert!(map.is_ram(&(0x10_0000..0x2000_0000)));
        assert!(!map.is_ram(&(0x9_f000..0xa_0000)));
    }

    #[test]
    fn large_pc_wraps_around_the_hole() {
        let map = MemoryMap::pc(5 << 30);
        let last = map.ram().next_back().unwrap();
        assert_eq!(last, 1 << 32..(1 << 32) + (2 << 30));
        assert!(
            map.entries()
                .windows(2)
                .all(|w| w[0].start + w[0].len <= w[1].start)
        );
        assert!(
            map.entries()
                .iter()
                .any(|e| e.start == 0xf_0000 && e.kind == MapKind::Reserved)
        );
    }

    #[test]
    fn tiny_pc_has_no_extended_memory() {
        let map = MemoryMap::pc(0x8_0000);
        let mut ram = map.ram();
        assert_eq!((ram.next(), ram.next()), (Some(0..0x8_0000), None));
        assert_eq!(map.old_sizes_kib(), (512, 0));
    }
}
