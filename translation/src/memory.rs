//! Memory for emitted code, mapped twice: written through one mapping, executed through the other, never both in one.
//!
//! It is divided into regions, filled in turn. In each, hot code grows from the start, cold code from the end, so that
//! what runs every time lies close together. When all are full, the one whose turn it is gives up its code for new.
#![expect(unsafe_code, reason = "code is written into mapped memory")]
// UNSAFETY: mapping the same pages twice (W^X) has no safe interface.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Regions where there is room for so many.
const REGIONS: usize = 16;
/// Bytes of a region at least: enough for any block.
const MIN_REGION: usize = 32 << 10;

/// A region's bounds, and the ends of hot and of cold code in it.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: u32,
    end: u32,
    hot: u32,
    cold: u32,
}

impl Region {
    fn new(start: u32, end: u32) -> Self {
        Self {
            start,
            end,
            hot: start,
            cold: end,
        }
    }
}

/// A fixed range of code memory. Places in it are named by their offset.
pub struct CodeMemory {
    write: *mut u8,
    run: *const u8,
    size: u32,
    regions: Box<[Region]>,
    /// Bytes of a region; the last may have more.
    each: u32,
    /// The one that is being filled.
    current: usize,
}

// SAFETY: the mappings belong to this object alone; nothing about them is tied to a thread.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Maps `size` bytes (rounded up to whole pages, at most 1 GiB).
    ///
    /// # Errors
    /// The host's, when it has no memory or forbids executable mappings.
    pub fn new(size: usize) -> io::Result<Self> {
        let size = size.clamp(1 << 16, 1 << 30).next_multiple_of(4096);
        let (write, run) = Self::map(size)?;
        let count = (size / MIN_REGION).min(REGIONS);
        let each = (size / count) & !4095;
        // What is left over is the last one's.
        let end = |n: usize| if n + 1 == count { size } else { (n + 1) * each };
        let regions = (0..count)
            .map(|n| Region::new((n * each) as u32, end(n) as u32))
            .collect();
        Ok(Self {
            write,
            run,
            size: size as u32,
            regions,
            each: each as u32,
            current: 0,
        })
    }

    /// Shared memory without a name: perf looks for the symbols of such memory in its map (`Perf`), and not for those of
    /// a memfd.
    fn map(size: usize) -> io::Result<(*mut u8, *const u8)> {
        let (null, rights) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let write = unsafe { libc::mmap(null, size, rights, flags, -1, 0) };
        if write == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let unmap = |map: *mut libc::c_void| {
            // SAFETY: a mapping made here, which nothing uses yet.
            unsafe { libc::munmap(map, size) };
        };
        // SAFETY: with an old size of 0 a shared mapping stays as it is and gets a second one (mremap(2)).
        let run = unsafe { libc::mremap(write, 0, size, libc::MREMAP_MAYMOVE) };
        if run == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            unmap(write);
            return Err(error);
        }
        let rights = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: the mapping just made, which nothing uses yet.
        if unsafe { libc::mprotect(run, size, rights) } != 0 {
            let error = io::Error::last_os_error();
            unmap(write);
            unmap(run);
            return Err(error);
        }
        Ok((write.cast(), run.cast_const().cast()))
    }

    /// Bytes in all.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Bytes of hot code and of cold code that there are.
    pub fn used(&self) -> (u32, u32) {
        let used = |r: &Region| (r.hot - r.start, r.end - r.cold);
        self.regions
            .iter()
            .map(used)
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    /// How many regions there are.
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    /// The region that is being filled.
    pub fn region(&self) -> usize {
        self.current
    }

    /// The region that a place lies in.
    pub fn region_at(&self, at: u32) -> usize {
        ((at / self.each) as usize).min(self.regions.len() - 1)
    }

    /// Takes room for a block's two parts from the region that is being filled, the hot one at a multiple of `align`;
    /// `None` when it has not enough left.
    pub fn alloc(&mut self, hot: u32, cold: u32, align: u32) -> Option<(u32, u32)> {
        let region = &mut self.regions[self.current];
        let at = region.hot.next_multiple_of(align);
        let end = at.checked_add(hot)?;
        let start = region.cold.checked_sub(cold)? & !7;
        if end > start {
            return None;
        }
        region.hot = end;
        region.cold = start;
        Some((at, start))
    }

    /// What has been taken so far of the current region stays for good, and is no part of it any more.
    pub fn keep(&mut self) {
        let region = &mut self.regions[self.current];
        region.start = region.hot;
        region.end = region.cold;
    }

    /// The end of what was kept at the start.
    pub fn kept(&self) -> u32 {
        self.regions[0].start
    }

    /// The region whose turn it is next.
    pub fn next_region(&self) -> usize {
        (self.current + 1) % self.regions.len()
    }

    /// Goes on to the next region, and gives up the code in it. Nobody may use it any more.
    pub fn turn(&mut self) {
        self.current = self.next_region();
        let region = &mut self.regions[self.current];
        *region = Region::new(region.start, region.end);
    }

    /// Writes code.
    ///
    /// # Panics
    /// Outside the range.
    pub fn write(&self, at: u32, bytes: &[u8]) {
        assert!(
            at as usize + bytes.len() <= self.size as usize,
            "write outside code memory"
        );
        let to = self.write.wrapping_add(at as usize);
        // SAFETY: inside the writable mapping (just checked), which no reference points into.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Reads code back.
    ///
    /// # Panics
    /// Outside the range.
    pub fn read(&self, at: u32, bytes: &mut [u8]) {
        assert!(
            at as usize + bytes.len() <= self.size as usize,
            "read outside code memory"
        );
        let from = self.write.wrapping_add(at as usize).cast_const();
        // SAFETY: inside the mapping (just checked).
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Makes the relative branch whose displacement lies at `at` lead to offset `target`, also while others execute
    /// it. The caller keeps other writers away.
    ///
    /// # Panics
    /// Outside the range, or where the displacement does not lie within eight aligned bytes.
    pub fn retarget(&self, at: u32, target: u32) {
        assert!(at % 8 <= 4 && at < self.size, "a displacement out of place");
        let word = self.write.wrapping_add((at & !7) as usize).cast::<u64>();
        // SAFETY: aligned, and inside the writable mapping, whose size is a multiple of eight; no reference points there.
        let word = unsafe { AtomicU64::from_ptr(word) };
        let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
        let place = (at % 8) as usize;
        bytes[place..place + 4].copy_from_slice(&target.wrapping_sub(at + 4).to_le_bytes());
        // What is at the target was written before.
        word.store(u64::from_le_bytes(bytes), Ordering::Release);
    }

    /// The address at which a place is executed.
    pub fn address(&self, at: u32) -> u64 {
        self.run.addr() as u64 + u64::from(at)
    }

    /// The place of an executed address.
    pub fn offset(&self, address: u64) -> Option<u32> {
        let offset = address.wrapping_sub(self.run.addr() as u64);
        (offset < u64::from(self.size)).then_some(offset as u32)
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        for map in [self.write.cast_const(), self.run] {
            // SAFETY: one of the two mappings made in `new`; the owner runs no code in it any more.
            unsafe { libc::munmap(map.cast_mut().cast(), self.size as usize) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CodeMemory;

    #[test]
    fn what_is_written_is_read_and_found_by_address() {
        let mut memory = CodeMemory::new(1 << 16).expect("memory");
        let (hot, cold) = memory.alloc(100, 50, 16).expect("room");
        memory.write(hot, &[0xc3; 100]);
        memory.write(cold, &[0x90; 50]);
        let mut back = [0; 50];
        memory.read(cold, &mut back);
        assert_eq!(back, [0x90; 50]);
        assert_eq!(memory.offset(memory.address(cold)), Some(cold));
        assert_eq!(memory.offset(memory.address(0).wrapping_sub(1)), None);
        memory.retarget(hot + 8, hot + 4);
        let mut rel = [0; 4];
        memory.read(hot + 8, &mut rel);
        assert_eq!(i32::from_le_bytes(rel), -8);
    }

    #[test]
    fn parts_never_meet_and_regions_take_turns() {
        let mut memory = CodeMemory::new(1 << 18).expect("memory");
        assert_eq!((memory.regions(), memory.region()), (8, 0));
        memory.alloc(64, 0, 16).expect("room");
        memory.keep();
        assert_eq!((memory.kept(), memory.used()), (64, (0, 0)));
        for turn in 0..3 * memory.regions() {
            let region = memory.region();
            assert_eq!(region, turn % memory.regions());
            let mut count = 0;
            while let Some((hot, cold)) = memory.alloc(1000, 500, 64) {
                assert!(hot >= 64 && hot + 1000 <= cold, "the parts meet");
                assert_eq!(memory.region_at(hot), region);
                assert_eq!(memory.region_at(cold + 499), region);
                count += 1;
            }
            assert!((20..=21).contains(&count), "{count} in region {region}");
            let next = memory.next_region();
            memory.turn();
            assert_eq!(memory.region(), next);
        }
    }

    #[test]
    fn no_size_is_too_odd() {
        for size in [
            0,
            1 << 16,
            (1 << 16) + 4096,
            0x9_f000,
            520_192,
            1 << 20,
            1_234_567,
        ] {
            let mut memory = CodeMemory::new(size).expect("memory");
            let mut bytes = 0;
            for _ in 0..memory.regions() {
                memory.turn();
                let region = memory.region();
                let (hot, cold) = memory
                    .alloc(0x4000, 0x3000, 64)
                    .expect("room for any block");
                assert_eq!(memory.region_at(hot), region);
                assert_eq!(memory.region_at(cold + 0x2fff), region);
                bytes += 0x7000;
            }
            assert!(bytes <= memory.size());
        }
    }
}
