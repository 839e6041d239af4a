//! Guest RAM as devices see it, and where the board puts RAM in the address space.

use parking_lot::Mutex;
use x86::PhysAddr;

/// Guest RAM for devices that read and write it by themselves (DMA). The owner of guest RAM implements it.
pub trait GuestMemory: Send + Sync {
    /// Fills `buf` from guest RAM. `false`, and nothing promised of `buf`, when a byte isn't RAM.
    #[must_use]
    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> bool;
    /// Writes `data` to guest RAM, telling whoever caches code of it. `false` when a byte isn't RAM.
    #[must_use]
    fn write(&self, addr: PhysAddr, data: &[u8]) -> bool;
}

/// A machine without RAM: every access is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemory;

impl GuestMemory for NoMemory {
    fn read(&self, _addr: PhysAddr, _buf: &mut [u8]) -> bool {
        false
    }

    fn write(&self, _addr: PhysAddr, _data: &[u8]) -> bool {
        false
    }
}

/// RAM from address 0 on in one vector: for tests and fuzzing of devices with DMA.
#[derive(Debug)]
pub struct FlatMemory(pub Mutex<Vec<u8>>);

impl FlatMemory {
    /// `bytes` bytes of zeros.
    pub fn new(bytes: usize) -> Self {
        Self(Mutex::new(vec![0; bytes]))
    }
}

/// The `len` bytes from `addr` on as indices.
fn flat_range(addr: PhysAddr, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(addr.0).ok()?;
    Some(start..start.checked_add(len)?)
}

impl GuestMemory for FlatMemory {
    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> bool {
        let ram = self.0.lock();
        match flat_range(addr, buf.len()).and_then(|range| ram.get(range)) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    fn write(&self, addr: PhysAddr, data: &[u8]) -> bool {
        let mut ram = self.0.lock();
        match flat_range(addr, data.len()).and_then(|range| ram.get_mut(range)) {
            Some(bytes) => {
                bytes.copy_from_slice(data);
                true
            }
            None => false,
        }
    }
}

/// Where RAM under 4 GiB ends at the latest: PCI's memory window and the chipset's registers lie above.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where the rest of RAM begins.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// The end of conventional memory: VGA's window begins.
pub const VGA_START: u64 = 0xa_0000;
/// The end of VGA's window: option ROMs and the BIOS, RAM here, begin.
pub const SHADOW_START: u64 = 0xc_0000;
/// The F segment, where the firmware's tables lie.
pub const F_SEGMENT: u64 = 0xf_0000;
/// The end of the first MiB.
pub const MIB: u64 = 0x10_0000;
/// The extended BIOS data area, the last KiB of conventional memory.
pub const EBDA: u64 = 0x9_fc00;

/// The physical ranges (start, bytes) that a machine with `ram` bytes backs with RAM, ascending.
///
/// VGA's window is a hole that costs its RAM; what would lie over 3 GiB goes above 4 GiB.
pub fn ram_ranges(ram: u64) -> Vec<(PhysAddr, u64)> {
    let low_end = ram.min(LOW_RAM_END);
    let mut ranges = vec![(PhysAddr(0), low_end.min(VGA_START))];
    if low_end > SHADOW_START {
        ranges.push((PhysAddr(SHADOW_START), low_end - SHADOW_START));
    }
    if ram > LOW_RAM_END {
        ranges.push((PhysAddr(HIGH_RAM_START), ram - LOW_RAM_END));
    }
    ranges
}

/// The kind of an e820 range (ACPI 6.5, table 15.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// RAM the guest may use.
    Ram = 1,
    /// Not for the guest.
    Reserved = 2,
}

/// One line of the memory map that firmware tells the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First byte.
    pub start: PhysAddr,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub kind: E820Kind,
}

/// The memory map of a machine with `ram` bytes, ascending.
pub fn e820(ram: u64) -> Vec<E820Entry> {
    let entry = |start, end: u64, kind| E820Entry {
        start: PhysAddr(start),
        len: end - start,
        kind,
    };
    let low_end = ram.min(LOW_RAM_END);
    let mut map = vec![entry(0, low_end.min(EBDA), E820Kind::Ram)];
    map.push(entry(EBDA, VGA_START, E820Kind::Reserved));
    map.push(entry(F_SEGMENT, MIB, E820Kind::Reserved));
    if low_end > MIB {
        map.push(entry(MIB, low_end, E820Kind::Ram));
    }
    // The I/O APIC, HPET and local APIC pages, and the boot ROM's window.
    map.push(entry(0xfec0_0000, 0xfec0_1000, E820Kind::Reserved));
    map.push(entry(0xfed0_0000, 0xfed0_1000, E820Kind::Reserved));
    map.push(entry(0xfee0_0000, 0xfee0_1000, E820Kind::Reserved));
    map.push(entry(0xfffc_0000, HIGH_RAM_START, E820Kind::Reserved));
    if ram > LOW_RAM_END {
        map.push(entry(
            HIGH_RAM_START,
            HIGH_RAM_START + (ram - LOW_RAM_END),
            E820Kind::Ram,
        ));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::{E820Kind, FlatMemory, GuestMemory, e820, ram_ranges};
    use x86::PhysAddr;

    const GIB: u64 = 1 << 30;

    #[test]
    fn e820_has_low_ram_f_segment_hole_and_high_ram() {
        let map = e820(5 * GIB);
        assert!(
            map.windows(2)
                .all(|w| w[0].start.0 + w[0].len <= w[1].start.0),
            "ascending, apart"
        );
        assert_eq!((map[0].start.0, map[0].kind), (0, E820Kind::Ram));
        assert!(map[0].len <= 640 << 10);
        assert!(
            map.iter().any(|e| e.start.0 == 0xf_0000
                && e.len == 0x1_0000
                && e.kind == E820Kind::Reserved)
        );
        let ram: Vec<_> = map.iter().filter(|e| e.kind == E820Kind::Ram).collect();
        assert_eq!(ram[1].start.0 + ram[1].len, 3 * GIB);
        assert_eq!((ram[2].start.0, ram[2].len), (4 * GIB, 2 * GIB));
    }

    #[test]
    fn flat_memory_refuses_what_it_has_not() {
        let ram = FlatMemory::new(16);
        assert!(ram.write(PhysAddr(12), &[1, 2, 3, 4]));
        let mut buf = [0; 4];
        assert!(ram.read(PhysAddr(12), &mut buf) && buf == [1, 2, 3, 4]);
        assert!(!ram.read(PhysAddr(13), &mut buf) && !ram.write(PhysAddr(u64::MAX), &buf));
    }

    #[test]
    fn every_ram_line_of_e820_is_backed() {
        for ram in [4 << 20, 512 << 20, 3 * GIB, 3 * GIB + 4096, 64 * GIB] {
            let ranges = ram_ranges(ram);
            for entry in e820(ram).iter().filter(|e| e.kind == E820Kind::Ram) {
                assert!(
                    ranges.iter().any(|&(s, l)| s.0 <= entry.start.0 && entry.start.0 + entry.len <= s.0 + l),
                    "{entry:?} of {ram:#x}"
                );
            }
        }
    }
}
