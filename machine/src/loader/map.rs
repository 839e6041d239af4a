//! The physical memory map of the PC and its form for kernels (ACPI 6.5, 15: "system address map", e820).

use std::ops::Range;

/// First byte of the extended BIOS data area: RAM that kernels must not use, below 640 KiB.
const EBDA: u64 = 0x9_fc00;
/// The end of conventional memory, where video memory begins.
const CONVENTIONAL_END: u64 = 0xa_0000;
/// The F segment: ACPI tables, reserved.
const F_SEGMENT: u64 = 0xf_0000;
/// Start of extended memory.
pub(super) const HIGH: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; PCI, the I/O APIC and the local APIC live above.
const PCI_HOLE: u64 = 0xc000_0000;
/// RAM that does not fit below the PCI hole continues here.
const ABOVE_4G: u64 = 1 << 32;

/// What a range of physical memory is, with the numbers of the e820 interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Free for the operating system.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
    /// ACPI tables, free once they have been read.
    Acpi = 3,
    /// ACPI non-volatile storage.
    Nvs = 4,
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
    /// The PC's map with `ram` bytes of memory: RAM below 640 KiB with the EBDA reserved from 9FC00h, the F segment
    /// reserved, RAM from 1 MiB to at most C0000000h, the rest from 4 GiB. The 384 KiB under 1 MiB are part of `ram`
    /// although no operating system gets them.
    pub fn pc(ram: u64) -> Self {
        let mut entries = Vec::new();
        let mut add = |range: Range<u64>, kind| {
            if range.start < range.end {
                entries.push(MapEntry {
                    start: range.start,
                    len: range.end - range.start,
                    kind,
                });
            }
        };
        add(0..ram.min(EBDA), MapKind::Ram);
        add(EBDA..CONVENTIONAL_END, MapKind::Reserved);
        add(F_SEGMENT..HIGH, MapKind::Reserved);
        add(HIGH..ram.min(PCI_HOLE), MapKind::Ram);
        add(
            ABOVE_4G..ABOVE_4G.saturating_add(ram.saturating_sub(PCI_HOLE)),
            MapKind::Ram,
        );
        Self { entries }
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
