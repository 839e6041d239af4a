//! Guest RAM: where each physical page lies on the host, and tracked access for devices and loaders.
//!
//! ```text
//! physical   0 .. A0000h          RAM
//!            A0000h .. C0000h     hole (VGA: device memory)
//!            C0000h .. FFFFFh     RAM ("shadow": option ROMs, ACPI tables)
//!            100000h .. C0000000h RAM, as far as it goes
//!            C0000000h .. 4 GiB   hole (devices), but for regions asked for at creation (firmware ROM)
//!            4 GiB ..             the rest of RAM
//! ```
//! Invariant: whatever is written here is recorded for the translators (`track.rs`) before the call returns.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use x86::{PAGE_MASK, PAGE_SIZE, PhysAddr};

use crate::map::{HostMap, zeroed};
use crate::track::{CodeStamp, Kick, Marked, Track};

/// Where the hole for devices below 4 GiB begins.
pub const HOLE_START: u64 = 0xc000_0000;
/// Where RAM goes on above the hole.
pub const HIGH_START: u64 = 1 << 32;
/// The VGA window: never RAM.
const VGA: std::ops::Range<u64> = 0xa_0000..0xc_0000;
/// The largest RAM: what page frame numbers of 32 bits address.
const MAX_SIZE: u64 = 1 << 43;
/// Physical address bit 20, which the A20 gate clears.
const A20: u64 = 1 << 20;

/// Why guest memory can't be had: the host's fault or the configuration's, never the guest's.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// Not a multiple of 4 KiB, nothing, or beyond all bounds.
    #[error(
        "guest memory of {size} bytes: it must be a multiple of 4096, more than 0 and at most 8 TiB"
    )]
    Size {
        /// The size asked for, in bytes.
        size: u64,
    },
    /// A region that overlaps RAM or another region, or isn't made of whole pages.
    #[error("memory region of {} bytes at {}: it must be whole pages beside all other memory", region.len, region.base)]
    Region {
        /// The region asked for.
        region: RamRegion,
    },
    /// The host refused.
    #[error("{call} of {len} bytes for guest memory failed: {source}; try less memory (--mem)")]
    Host {
        /// The system call.
        call: &'static str,
        /// Bytes asked for.
        len: u64,
        /// What the host said.
        source: io::Error,
    },
}

/// An access of a device or loader to an address that isn't RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{addr} is not RAM")]
pub struct OutOfRam {
    /// The first address that isn't.
    pub addr: PhysAddr,
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRegion {
    /// First byte.
    pub base: PhysAddr,
    /// Bytes.
    pub len: u64,
}

/// What a page of RAM appears as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageAttr {
    /// Read and written.
    Ram = 0,
    /// Read; writes vanish.
    Rom = 1,
    /// Not there: the bus answers.
    Hole = 2,
}

impl PageAttr {
    #[inline]
    fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Ram,
            1 => Self::Rom,
            _ => Self::Hole,
        }
    }
}

/// A page of the host mapping: its offset there in units of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame(pub u32);

impl Frame {
    /// The offset of the page's first byte in the mapping (and its memfd).
    #[inline]
    pub const fn offset(self) -> u64 {
        (self.0 as u64) << 12
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A region beside RAM and its place in the mapping.
#[derive(Clone, Copy, Debug)]
struct Extra {
    base: u64,
    len: u64,
    offset: u64,
}

/// The guest's physical memory, shared by all vCPUs and devices.
pub struct GuestRam {
    map: HostMap,
    /// RAM bytes below the hole, and above 4 GiB.
    low: u64,
    high: u64,
    extras: Box<[Extra]>,
    attrs: Box<[AtomicU8]>,
    /// ANDed with every physical address of a vCPU.
    a20_mask: AtomicU64,
    pub(crate) track: Track,
    /// Held by locked operations that no host instruction can do.
    pub(crate) exclusive: Mutex<()>,
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestRam")
            .field("low", &self.low)
            .field("high", &self.high)
            .finish_non_exhaustive()
    }
}

impl GuestRam {
    /// RAM of `size` bytes, a multiple of 4 KiB, all zeros.
    pub fn new(size: u64) -> Result<Self, RamError> {
        Self::with_regions(size, &[])
    }

    /// RAM of `size` bytes and further memory at given places in the holes (firmware ROM, a frame buffer).
    pub fn with_regions(size: u64, regions: &[RamRegion]) -> Result<Self, RamError> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) || size > MAX_SIZE {
            return Err(RamError::Size { size });
        }
        let low = size.min(HOLE_START);
        let high = size - low;
        let mut extras: Vec<Extra> = Vec::new();
        let mut offset = size;
        for &region in regions {
            let RamRegion {
                base: PhysAddr(base),
                len,
            } = region;
            let overlaps = |start: u64, length: u64| base < start + length && start < base + len;
            let whole = len != 0 && base.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
            if !whole
                || len > HIGH_START
                || base >= 1 << 52
                || overlaps(0, low)
                || overlaps(HIGH_START, high)
                || extras.iter().any(|extra| overlaps(extra.base, extra.len))
            {
                return Err(RamError::Region { region });
            }
            extras.push(Extra { base, len, offset });
            offset += len;
        }
        let frames = usize::try_from(offset >> 12).map_err(|_| RamError::Size { size })?;
        let attrs: Box<[AtomicU8]> = zeroed(frames);
        for page in VGA.start >> 12..(VGA.end.min(low)).max(VGA.start) >> 12 {
            attrs[page as usize].store(PageAttr::Hole as u8, Ordering::Relaxed);
        }
        Ok(Self {
            map: HostMap::new(offset)?,
            low,
            high,
            extras: extras.into(),
            attrs,
            a20_mask: AtomicU64::new(u64::MAX),
            track: Track::new(frames),
            exclusive: Mutex::new(()),
        })
    }

    /// Bytes of RAM, without the further regions.
    pub fn size(&self) -> u64 {
        self.low + self.high
    }

    /// The end of RAM below the hole under 4 GiB.
    pub fn low_end(&self) -> PhysAddr {
        PhysAddr(self.low)
    }

    /// The end of RAM above 4 GiB; 4 GiB if there is none.
    pub fn high_end(&self) -> PhysAddr {
        PhysAddr(HIGH_START + self.high)
    }

    /// RAM as a memory map shows it: without the VGA window and the further regions.
    pub fn ranges(&self) -> Vec<RamRegion> {
        [
            (0, VGA.start.min(self.low)),
            (VGA.end, self.low),
            (HIGH_START, HIGH_START + self.high),
        ]
        .into_iter()
        .filter(|&(start, end)| start < end)
        .map(|(start, end)| RamRegion {
            base: PhysAddr(start),
            len: end - start,
        })
        .collect()
    }

    /// The memfd that holds all of it, for further mappings.
    pub fn fd(&self) -> RawFd {
        self.map.fd()
    }

    /// The mapping's first byte (of frame 0).
    pub fn host_base(&self) -> NonNull<u8> {
        self.map.base()
    }

    pub(crate) fn map(&self) -> &HostMap {
        &self.map
    }

    /// The frame of the page that holds `addr`, whatever it appears as. A20 isn't applied.
    #[inline]
    fn backing(&self, addr: PhysAddr) -> Option<Frame> {
        let offset = if addr.0 < self.low {
            addr.0
        } else if addr.0.wrapping_sub(HIGH_START) < self.high {
            self.low + (addr.0 - HIGH_START)
        } else {
            let extra = self
                .extras
                .iter()
                .find(|extra| addr.0.wrapping_sub(extra.base) < extra.len)?;
            extra.offset + (addr.0 - extra.base)
        };
        Some(Frame((offset >> 12) as u32))
    }

    /// The frame of the page that holds `addr`, or None where the bus answers.
    #[inline]
    pub fn frame(&self, addr: PhysAddr) -> Option<Frame> {
        self.backing(addr)
            .filter(|frame| self.frame_attr(*frame) != PageAttr::Hole)
    }

    /// The physical page that a frame backs.
    pub fn frame_address(&self, frame: Frame) -> PhysAddr {
        let offset = frame.offset();
        if offset < self.low {
            return PhysAddr(offset);
        }
        if offset < self.size() {
            return PhysAddr(HIGH_START + (offset - self.low));
        }
        let extra = self
            .extras
            .iter()
            .find(|extra| offset.wrapping_sub(extra.offset) < extra.len);
        PhysAddr(extra.map_or(u64::MAX & !PAGE_MASK, |extra| {
            extra.base + (offset - extra.offset)
        }))
    }

    #[inline]
    pub(crate) fn frame_attr(&self, frame: Frame) -> PageAttr {
        PageAttr::from_bits(self.attrs[frame.index()].load(Ordering::Relaxed))
    }

    /// The host address of the page that holds `addr`; None where the bus answers. Writes through it are not
    /// tracked, and ROM isn't protected.
    #[inline]
    pub fn host_page(&self, addr: PhysAddr) -> Option<NonNull<u8>> {
        let frame = self.frame(addr)?;
        // The offset is that of a page inside the mapping.
        NonNull::new(
            self.map
                .base()
                .as_ptr()
                .wrapping_add(frame.offset() as usize),
        )
    }

    /// What the page at `addr` appears as.
    pub fn attr(&self, addr: PhysAddr) -> PageAttr {
        self.backing(addr)
            .map_or(PageAttr::Hole, |frame| self.frame_attr(frame))
    }

    /// Changes what the pages from `base` on appear as, and has all vCPUs flush their translations; settled when
    /// they have. Pages without memory behind them stay holes.
    pub fn set_attr(&self, base: PhysAddr, len: u64, attr: PageAttr) -> CodeStamp {
        let mut at = base.page();
        while at.0.wrapping_sub(base.page().0) < len.saturating_add(base.page_offset()) {
            if let Some(frame) = self.backing(at) {
                self.attrs[frame.index()].store(attr as u8, Ordering::SeqCst);
            }
            match at.0.checked_add(PAGE_SIZE) {
                Some(next) => at = PhysAddr(next),
                None => break,
            }
        }
        self.track.flush_cpus()
    }

    /// Whether address line 20 is let through.
    pub fn a20(&self) -> bool {
        self.a20_mask.load(Ordering::Relaxed) & A20 != 0
    }

    /// Opens or closes the A20 gate, and has all vCPUs flush their translations if that is a change.
    pub fn set_a20(&self, on: bool) {
        let mask = if on { u64::MAX } else { !A20 };
        if self.a20_mask.swap(mask, Ordering::SeqCst) != mask {
            self.track.flush_cpus();
        }
    }

    /// A physical address of a vCPU as it leaves the CPU.
    #[inline]
    pub fn mask_a20(&self, addr: PhysAddr) -> PhysAddr {
        PhysAddr(addr.0 & self.a20_mask.load(Ordering::Relaxed))
    }

    // Devices and loaders.

    /// Calls `f(frame, offset in the page, range of the caller's bytes)` for each page; checks all pages first.
    fn pages(
        &self,
        addr: PhysAddr,
        len: usize,
        mut f: impl FnMut(Frame, u64, std::ops::Range<usize>),
    ) -> Result<(), OutOfRam> {
        for act in [false, true] {
            let mut done = 0usize;
            while done < len {
                let at = PhysAddr(addr.0.checked_add(done as u64).ok_or(OutOfRam { addr })?);
                let part = (len - done).min((PAGE_SIZE - at.page_offset()) as usize);
                let frame = self.frame(at).ok_or(OutOfRam { addr: at })?;
                if act {
                    f(frame, at.page_offset(), done..done + part);
                }
                done += part;
            }
        }
        Ok(())
    }

    /// Reads bytes; nothing is read unless all are RAM.
    pub fn read(&self, addr: PhysAddr, out: &mut [u8]) -> Result<(), OutOfRam> {
        self.pages(addr, out.len(), |frame, offset, range| {
            self.map.read(frame.offset() + offset, &mut out[range])
        })
    }

    /// Writes bytes as a device does; nothing is written unless all are RAM. ROM ignores it.
    pub fn write(&self, addr: PhysAddr, bytes: &[u8]) -> Result<(), OutOfRam> {
        self.pages(addr, bytes.len(), |frame, offset, range| {
            if self.frame_attr(frame) == PageAttr::Ram {
                self.write_frame(frame, offset, &bytes[range]);
            }
        })
    }

    /// Writes bytes as a loader does: into ROM too.
    pub fn load_bytes(&self, addr: PhysAddr, bytes: &[u8]) -> Result<(), OutOfRam> {
        self.pages(addr, bytes.len(), |frame, offset, range| {
            self.write_frame(frame, offset, &bytes[range])
        })
    }

    fn write_frame(&self, frame: Frame, offset: u64, bytes: &[u8]) {
        self.map.write(frame.offset() + offset, bytes);
        self.track
            .note_write(frame.index(), offset, bytes.len() as u64);
    }

    /// Sets `len` bytes, in ROM too (loaders, reset).
    pub fn fill(&self, addr: PhysAddr, len: u64, byte: u8) -> Result<(), OutOfRam> {
        let len = usize::try_from(len).map_err(|_| OutOfRam { addr })?;
        let value = u64::from_ne_bytes([byte; 8]);
        self.pages(addr, len, |frame, offset, range| {
            self.map
                .fill_elements(frame.offset() + offset, 1, range.len() as u64, value, false);
            self.track
                .note_write(frame.index(), offset, range.len() as u64);
        })
    }

    /// Loads 1 to 8 bytes, zero-extended.
    fn load(&self, addr: PhysAddr, size: u32) -> Result<u64, OutOfRam> {
        if addr.page_offset() + u64::from(size) <= PAGE_SIZE {
            let frame = self.frame(addr).ok_or(OutOfRam { addr })?;
            return Ok(self.map.load(frame.offset() + addr.page_offset(), size));
        }
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes[..size as usize])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores the low 1 to 8 bytes of `value` as a device does.
    fn store(&self, addr: PhysAddr, size: u32, value: u64) -> Result<(), OutOfRam> {
        if addr.page_offset() + u64::from(size) > PAGE_SIZE {
            return self.write(addr, &value.to_le_bytes()[..size as usize]);
        }
        let frame = self.frame(addr).ok_or(OutOfRam { addr })?;
        if self.frame_attr(frame) == PageAttr::Ram {
            self.map
                .store(frame.offset() + addr.page_offset(), size, value);
            self.track
                .note_write(frame.index(), addr.page_offset(), u64::from(size));
        }
        Ok(())
    }

    /// Reads a byte.
    pub fn read_u8(&self, addr: PhysAddr) -> Result<u8, OutOfRam> {
        self.load(addr, 1).map(|value| value as u8)
    }

    /// Reads a little-endian word; one access where it is aligned.
    pub fn read_u16(&self, addr: PhysAddr) -> Result<u16, OutOfRam> {
        self.load(addr, 2).map(|value| value as u16)
    }

    /// Reads a little-endian doubleword; one access where it is aligned.
    pub fn read_u32(&self, addr: PhysAddr) -> Result<u32, OutOfRam> {
        self.load(addr, 4).map(|value| value as u32)
    }

    /// Reads a little-endian quadword; one access where it is aligned.
    pub fn read_u64(&self, addr: PhysAddr) -> Result<u64, OutOfRam> {
        self.load(addr, 8)
    }

    /// Writes a byte.
    pub fn write_u8(&self, addr: PhysAddr, value: u8) -> Result<(), OutOfRam> {
        self.store(addr, 1, u64::from(value))
    }

    /// Writes a little-endian word; one access where it is aligned.
    pub fn write_u16(&self, addr: PhysAddr, value: u16) -> Result<(), OutOfRam> {
        self.store(addr, 2, u64::from(value))
    }

    /// Writes a little-endian doubleword; one access where it is aligned.
    pub fn write_u32(&self, addr: PhysAddr, value: u32) -> Result<(), OutOfRam> {
        self.store(addr, 4, u64::from(value))
    }

    /// Writes a little-endian quadword; one access where it is aligned.
    pub fn write_u64(&self, addr: PhysAddr, value: u64) -> Result<(), OutOfRam> {
        self.store(addr, 8, value)
    }

    // The page walker. Entries are aligned, so they never cross a page.

    /// Reads a paging-structure entry of 4 or 8 bytes; None outside RAM.
    #[inline]
    pub(crate) fn entry(&self, addr: PhysAddr, size: u32) -> Option<u64> {
        let frame = self.frame(addr)?;
        Some(self.map.load(frame.offset() + addr.page_offset(), size))
    }

    /// Replaces a paging-structure entry if it is still `old`. In ROM it says yes and changes nothing.
    pub(crate) fn replace_entry(&self, addr: PhysAddr, size: u32, old: u64, new: u64) -> bool {
        #[cfg(test)]
        crate::tests::interleave();
        let Some(frame) = self.frame(addr) else {
            return true;
        };
        if self.frame_attr(frame) != PageAttr::Ram {
            return true;
        }
        if self
            .map
            .compare_exchange(frame.offset() + addr.page_offset(), size, old, new)
            != old
        {
            return false;
        }
        self.track
            .note_write(frame.index(), addr.page_offset(), u64::from(size));
        true
    }

    // Code and dirty tracking; `track.rs` has the argument.

    /// The 64-byte lines of the page at `addr` that were marked as code and not written since, bit 0 the first.
    pub fn code_lines(&self, addr: PhysAddr) -> u64 {
        self.backing(addr)
            .map_or(0, |frame| self.track.lines(frame.index()))
    }

    /// For code that stores beside code: the host address of RAM's first page, and that of its word of code lines. Those
    /// of the other pages follow, 1 << [`LINES_SHIFT`](crate::LINES_SHIFT) bytes apart.
    pub fn line_words(&self) -> (u64, u64) {
        (self.map.address(), self.track.address())
    }

    /// The host address of a byte of RAM, for reading; its page lies there whole.
    pub fn host_address(&self, addr: PhysAddr) -> Option<u64> {
        let frame = self.frame(addr)?;
        Some(self.map.address() + frame.offset() + addr.page_offset())
    }

    /// The page's generation: it changes when one of its marked lines is written.
    #[inline]
    pub fn code_generation(&self, addr: PhysAddr) -> u32 {
        self.backing(addr)
            .map_or(0, |frame| self.track.generation(frame.index()))
    }

    /// Changes when any page's generation does.
    #[inline]
    pub fn code_epoch(&self) -> u64 {
        self.track.code_epoch()
    }

    /// Marks bytes of one page as translated by vCPU `cpu`; None outside RAM. Engines use `Mmu::mark_code`, which
    /// also takes the vCPU's own write tags away.
    pub fn mark_code(&self, cpu: usize, addr: PhysAddr, len: u64) -> Option<Marked> {
        let frame = self.frame(addr)?;
        Some(self.track.mark(cpu, frame.index(), addr.page_offset(), len))
    }

    /// Unmarks bytes of one page of which no translation is left here. The generation changes if any was marked, so
    /// that translations which others hold are compared, and marked, anew.
    pub fn clear_code(&self, addr: PhysAddr, len: u64) {
        if let Some(frame) = self.frame(addr) {
            self.track.clear(frame.index(), addr.page_offset(), len);
        }
    }

    /// Records a store that was made through a host pointer, after it was made. True if it hit marked lines: they
    /// are then unmarked, and the generations and the epoch have changed.
    pub fn note_write(&self, addr: PhysAddr, len: u64) -> bool {
        let mut hit = false;
        let mut done = 0;
        while done < len {
            let Some(at) = addr.0.checked_add(done).map(PhysAddr) else {
                break;
            };
            let part = (len - done).min(PAGE_SIZE - at.page_offset());
            if let Some(frame) = self.frame(at) {
                hit |= self.track.note_write(frame.index(), at.page_offset(), part);
            }
            done += part;
        }
        hit
    }

    /// Whether every vCPU that the stamp waits for has dropped its older write tags (or flushed).
    pub fn is_settled(&self, stamp: CodeStamp) -> bool {
        self.track.is_settled(stamp)
    }

    /// Turns the dirty log on or off (which forgets it). vCPUs must have synchronised (the stamp is settled, or
    /// none of them runs) before it is complete.
    pub fn set_dirty_log(&self, on: bool) -> CodeStamp {
        self.track.set_logging(on);
        self.track.flush_cpus()
    }

    /// Calls `f` with each page written since the last call, and cleans the log. As for `set_dirty_log`, the next
    /// log is complete for stores made after the vCPUs have synchronised.
    pub fn take_dirty(&self, mut f: impl FnMut(PhysAddr)) -> CodeStamp {
        let mut any = false;
        self.track.take_dirty(|frame| {
            any = true;
            f(self.frame_address(Frame(frame as u32)));
        });
        if any {
            self.track.flush_cpus()
        } else {
            CodeStamp::default()
        }
    }

    /// Whether the page was written since the log was last taken.
    pub fn is_dirty(&self, addr: PhysAddr) -> bool {
        self.backing(addr)
            .is_some_and(|frame| self.track.is_dirty(frame.index()))
    }

    /// Makes vCPUs (a bit each) come out of translated code, to their next `Mmu::sync`.
    pub fn kick(&self, cpus: u64) {
        self.track.kick(cpus);
    }

    /// Says how to tell a vCPU that it must call `Mmu::sync` before its next guest instruction. Can be set once;
    /// false if it was set before.
    pub fn set_kick(&self, kick: Kick) -> bool {
        self.track.set_kick(kick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn layout_has_holes_where_pcs_have_them() {
        let ram = GuestRam::new(HOLE_START + 5 * MIB).expect("sparse RAM");
        for (addr, present) in [
            (0, true),
            (0x9_ffff, true),
            (0xa_0000, false),
            (0xb_ffff, false),
            (0xc_0000, true),
            (0xf_ffff, true),
            (HOLE_START - 1, true),
            (HOLE_START, false),
            (HIGH_START - 1, false),
            (HIGH_START, true),
            (HIGH_START + 5 * MIB - 1, true),
            (HIGH_START + 5 * MIB, false),
            (u64::MAX, false),
        ] {
            assert_eq!(
                ram.host_page(PhysAddr(addr)).is_some(),
                present,
                "{addr:#x}"
            );
            if let Some(frame) = ram.frame(PhysAddr(addr)) {
                assert_eq!(ram.frame_address(frame), PhysAddr(addr).page());
            }
        }
        let ranges: Vec<_> = ram.ranges().iter().map(|r| (r.base.0, r.len)).collect();
        let low = (0xc_0000, HOLE_START - 0xc_0000);
        assert_eq!(ranges, [(0, 0xa_0000), low, (HIGH_START, 5 * MIB)]);
    }

    #[test]
    fn odd_sizes_work_and_bad_ones_are_refused() {
        for size in [4096, 0x9_f000, 0xa_0000, 0xb_1000, MIB, 16 * MIB] {
            let ram = GuestRam::new(size).expect("RAM");
            assert_eq!(ram.size(), size);
            assert!(ram.read_u8(PhysAddr(size)).is_err());
            assert_eq!(ram.high_end(), PhysAddr(HIGH_START));
        }
        for size in [0, 1, 4097, MAX_SIZE + 4096, u64::MAX & !0xfff] {
            assert!(
                matches!(GuestRam::new(size), Err(RamError::Size { .. })),
                "{size}"
            );
        }
        let bad = [
            (0, 4096),
            (0xffff_0000, 0),
            (0xffff_0000, 100),
            (0xffff_0800, 4096),
            (u64::MAX - 4095, 4096),
        ];
        for (base, len) in bad {
            let region = RamRegion {
                base: PhysAddr(base),
                len,
            };
            assert!(
                matches!(
                    GuestRam::with_regions(MIB, &[region]),
                    Err(RamError::Region { .. })
                ),
                "{base:#x}"
            );
        }
    }

    #[test]
    fn accesses_cross_pages_and_are_all_or_nothing() {
        let ram = GuestRam::new(2 * MIB).expect("RAM");
        let bytes: Vec<u8> = (0..10_000).map(|i| (i * 7) as u8).collect();
        ram.write(PhysAddr(0x1_0ffd), &bytes).expect("write");
        let mut back = vec![0; bytes.len()];
        ram.read(PhysAddr(0x1_0ffd), &mut back).expect("read");
        assert_eq!(back, bytes);
        ram.write_u64(PhysAddr(0x2_0ffb), 0x1122_3344_5566_7788)
            .expect("write");
        assert_eq!(ram.read_u64(PhysAddr(0x2_0ffb)), Ok(0x1122_3344_5566_7788));
        assert_eq!(ram.read_u16(PhysAddr(0x2_0fff)), Ok(0x3344));
        let hole = OutOfRam {
            addr: PhysAddr(0xa_0000),
        };
        assert_eq!(ram.write(PhysAddr(0x9_fffe), &[1, 2, 3, 4]), Err(hole));
        assert_eq!(ram.read_u16(PhysAddr(0x9_fffe)), Ok(0));
        assert_eq!(ram.write_u32(PhysAddr(0x9_fffe), 5), Err(hole));
        assert_eq!(
            ram.read(PhysAddr(2 * MIB - 1), &mut [0; 2]),
            Err(OutOfRam {
                addr: PhysAddr(2 * MIB)
            })
        );
        assert!(ram.read(PhysAddr(u64::MAX), &mut [0; 2]).is_err());
        ram.fill(PhysAddr(0x1_0000), 5000, 0xee).expect("fill");
        assert_eq!(ram.read_u32(PhysAddr(0x1_0000 + 4996)), Ok(0xeeee_eeee));
    }

    #[test]
    fn rom_reads_and_ignores_writes() {
        let rom = RamRegion {
            base: PhysAddr(0xffff_0000),
            len: 0x1_0000,
        };
        let ram = GuestRam::with_regions(MIB, &[rom]).expect("RAM");
        ram.load_bytes(PhysAddr(0xffff_fff0), &[0xea; 16])
            .expect("load");
        ram.set_attr(rom.base, rom.len, PageAttr::Rom);
        ram.write_u8(PhysAddr(0xffff_fff0), 1).expect("ignored");
        ram.write(PhysAddr(0xffff_fff0), &[1; 16]).expect("ignored");
        assert_eq!(ram.read_u32(PhysAddr(0xffff_fff0)), Ok(0xeaea_eaea));
        assert_eq!(ram.attr(PhysAddr(0xffff_ffff)), PageAttr::Rom);
        assert_eq!(ram.attr(PhysAddr(0xfffe_ffff)), PageAttr::Hole);
        ram.load_bytes(PhysAddr(0xffff_fff0), &[2; 16])
            .expect("loaders may");
        assert_eq!(ram.read_u8(PhysAddr(0xffff_fff0)), Ok(2));
        // A window over RAM can be opened and closed.
        ram.set_attr(PhysAddr(0xc_0000), 0x2000, PageAttr::Hole);
        assert!(
            ram.read_u8(PhysAddr(0xc_1fff)).is_err() && ram.read_u8(PhysAddr(0xc_2000)).is_ok()
        );
        ram.set_attr(PhysAddr(0xa_0000), 0x1000, PageAttr::Ram);
        assert!(ram.read_u8(PhysAddr(0xa_0000)).is_ok());
    }

    #[test]
    fn every_way_of_writing_is_tracked() {
        let ram = GuestRam::new(MIB).expect("RAM");
        let page = PhysAddr(0x5000);
        let ways: [fn(&GuestRam, PhysAddr); 5] = [
            |ram, at| ram.write(at, &[1]).expect("RAM"),
            |ram, at| ram.write_u8(at, 1).expect("RAM"),
            |ram, at| ram.load_bytes(at, &[1]).expect("RAM"),
            |ram, at| ram.fill(at, 1, 1).expect("RAM"),
            |ram, at| {
                assert!(ram.replace_entry(
                    PhysAddr(at.0 & !7),
                    8,
                    ram.read_u64(PhysAddr(at.0 & !7)).expect("RAM"),
                    1
                ))
            },
        ];
        for way in ways {
            ram.set_dirty_log(true);
            let stamp = ram.mark_code(0, page + 0x100, 8).expect("RAM").stamp;
            way(&ram, page + 0x80);
            assert_eq!(ram.code_generation(page), stamp.generation);
            assert!(ram.is_dirty(page) && !ram.is_dirty(page + 4096));
            let epoch = ram.code_epoch();
            way(&ram, page + 0x107);
            assert_eq!(ram.code_generation(page), stamp.generation + 1);
            assert_eq!((ram.code_lines(page), ram.code_epoch()), (0, epoch + 1));
            let mut dirty = Vec::new();
            ram.take_dirty(|page| dirty.push(page));
            assert_eq!(dirty, [page]);
            ram.set_dirty_log(false);
        }
        // A write across two pages hits code in the second.
        ram.mark_code(0, page + 4096, 1).expect("RAM");
        ram.write_u32(page + 4094, 0).expect("RAM");
        assert_eq!(ram.code_generation(page + 4096), 1);
    }

    #[test]
    fn a20_masks_bit_20_only() {
        let ram = GuestRam::new(4 * MIB).expect("RAM");
        assert_eq!(ram.mask_a20(PhysAddr(0x30_1234)), PhysAddr(0x30_1234));
        ram.set_a20(false);
        assert_eq!(ram.mask_a20(PhysAddr(0x30_1234)), PhysAddr(0x20_1234));
        assert!(!ram.a20());
        ram.set_a20(true);
        assert_eq!(ram.mask_a20(PhysAddr(0x30_1234)), PhysAddr(0x30_1234));
    }
}
