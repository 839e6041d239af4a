//! A window: 4 GiB of the host's address space that show RAM where the linear addresses of 32-bit code have it, so that an
//! access is one instruction.
//!
//! Nothing is shown at first, and an access to what is not shown raises SIGSEGV. What is shown is what the TLB permits without
//! a word; who shows it sees to it that code uses the window only as long as that holds (`Mmu::data_gen`). Behind the 4 GiB
//! lies a guard, for accesses that begin at their end.
#![expect(unsafe_code, reason = "mmap is a C call")]
// UNSAFETY: the window is reserved, filled and given back by raw system calls; nobody in Rust looks into it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use x86::PAGE_SIZE;

use crate::ram::GuestRam;

/// What is addressed.
const SIZE: u64 = 1 << 32;
/// Behind it: more than the longest access.
const GUARD: u64 = 1 << 16;
/// Pages of a window.
const PAGES: usize = (SIZE / PAGE_SIZE) as usize;

/// Mappings of all windows at most: the host allows a process 65530 (vm.max_map_count).
const MOST: usize = 32768;
/// Mappings of all windows.
static MAPPINGS: AtomicUsize = AtomicUsize::new(0);

/// A page of RAM as a window may show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Offset of the page in RAM's mapping.
    pub offset: u64,
    /// It may be written.
    pub write: bool,
}

impl Shown {
    /// As a word that is not 0.
    fn pack(self) -> u64 {
        self.offset | 2 | u64::from(self.write)
    }

    fn unpack(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            offset: word & !(PAGE_SIZE - 1),
            write: word & 1 != 0,
        })
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Window {
    base: *mut u8,
    ram: Arc<GuestRam>,
    /// What each page shows: see [`Shown::pack`].
    shown: Vec<u64>,
    /// The pages that show something, each at least once.
    used: Vec<u32>,
    /// Mappings made since nothing was shown: the host has at most as many.
    mappings: usize,
}

// SAFETY: the mapping belongs to the window alone, and Rust code does not look into it.
unsafe impl Send for Window {}

impl Window {
    /// A window in which nothing is shown.
    ///
    /// # Errors
    /// The host's, when it has no address space.
    pub fn new(ram: &Arc<GuestRam>) -> io::Result<Self> {
        let base = map(std::ptr::null_mut(), SIZE + GUARD, None)?;
        Ok(Self {
            base,
            ram: Arc::clone(ram),
            shown: vec![0; PAGES],
            used: Vec::new(),
            mappings: 0,
        })
    }

    /// The host address of the guest's address 0.
    pub fn address(&self) -> u64 {
        self.base.expose_provenance() as u64
    }

    /// What is shown at a linear address.
    pub fn at(&self, lin: u32) -> Option<Shown> {
        Shown::unpack(self.shown[page(lin)])
    }

    /// How many mappings windows may still have.
    pub fn room() -> usize {
        MOST.saturating_sub(MAPPINGS.load(Ordering::Relaxed))
    }

    /// How many this one has at most.
    pub fn mappings(&self) -> usize {
        self.mappings
    }

    fn count(&mut self, mappings: usize) {
        MAPPINGS.fetch_add(mappings, Ordering::Relaxed);
        self.mappings += mappings;
    }

    fn count_none(&mut self) {
        MAPPINGS.fetch_sub(std::mem::take(&mut self.mappings), Ordering::Relaxed);
    }

    /// Shows pages that follow one another in RAM, from a linear address on; false where there is no room.
    ///
    /// # Errors
    /// The host's, when it has no room for one more mapping.
    pub fn show(&mut self, lin: u32, first: Shown, pages: usize) -> io::Result<bool> {
        let start = page(lin);
        let pages = pages.min(PAGES - start);
        if pages == 0 || Self::room() == 0 {
            return Ok(false);
        }
        // In the middle of a mapping it makes three of one.
        self.count(2);
        let source = Some((&*self.ram, first));
        map(self.place(start), pages as u64 * PAGE_SIZE, source)?;
        for n in 0..pages {
            let word = &mut self.shown[start + n];
            if *word == 0 {
                self.used.push((start + n) as u32);
            }
            *word = Shown {
                offset: first.offset + n as u64 * PAGE_SIZE,
                ..first
            }
            .pack();
        }
        Ok(true)
    }

    /// Hides what does not pass. `still` is asked for each page that is shown.
    ///
    /// # Errors
    /// The host's.
    pub fn keep(&mut self, mut still: impl FnMut(u32, Shown) -> bool) -> io::Result<()> {
        self.used.sort_unstable();
        let used = std::mem::take(&mut self.used);
        let mut left = Vec::with_capacity(used.len());
        let mut run: Option<(u32, u32)> = None;
        for n in used {
            let lin = n << PAGE_SIZE.trailing_zeros();
            let shown = Shown::unpack(self.shown[n as usize]);
            if shown.is_some_and(|shown| still(lin, shown)) {
                left.push(n);
                continue;
            }
            self.shown[n as usize] = 0;
            match &mut run {
                Some((_, end)) if *end == n => *end += 1,
                _ => {
                    if let Some((start, end)) = run.replace((n, n + 1)) {
                        self.hide(start, end)?;
                    }
                }
            }
        }
        if let Some((start, end)) = run {
            self.hide(start, end)?;
        }
        self.used = left;
        if self.used.is_empty() {
            self.count_none();
        }
        Ok(())
    }

    /// Hides everything.
    ///
    /// # Errors
    /// The host's.
    pub fn clear(&mut self) -> io::Result<()> {
        for n in self.used.drain(..) {
            self.shown[n as usize] = 0;
        }
        map(self.base, SIZE, None)?;
        self.count_none();
        Ok(())
    }

    /// How many pages are shown.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Nothing is shown.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    fn hide(&mut self, start: u32, end: u32) -> io::Result<()> {
        self.count(2);
        let bytes = u64::from(end - start) * PAGE_SIZE;
        map(self.place(start as usize), bytes, None).map(|_| ())
    }

    fn place(&self, page: usize) -> *mut u8 {
        self.base.wrapping_add(page * PAGE_SIZE as usize)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.count_none();
        // SAFETY: the mapping made in `new`, whole; code that goes through it belongs to an engine that is going, too.
        unsafe { libc::munmap(self.base.cast(), (SIZE + GUARD) as usize) };
    }
}

fn page(lin: u32) -> usize {
    (u64::from(lin) / PAGE_SIZE) as usize
}

/// Maps pages of RAM, or nothing that may be accessed. `at`: null, or inside a window.
fn map(at: *mut u8, len: u64, from: Option<(&GuestRam, Shown)>) -> io::Result<*mut u8> {
    use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED};
    let fixed = if at.is_null() { 0 } else { MAP_FIXED };
    let (protection, flags, fd, offset) = match from {
        Some((ram, shown)) => {
            let write = if shown.write { libc::PROT_WRITE } else { 0 };
            let offset = shown.offset.cast_signed();
            let flags = MAP_SHARED | MAP_NORESERVE | MAP_POPULATE;
            (libc::PROT_READ | write, flags, ram.map().fd(), offset)
        }
        None => {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            (libc::PROT_NONE, flags, -1, 0)
        }
    };
    // SAFETY: at an address of the kernel's choice, or in place of a part of a window, into which only translated code
    // looks; of RAM's file, which is at least that long since offsets come from page frames.
    let place = unsafe {
        libc::mmap(
            at.cast(),
            len as usize,
            protection,
            flags | fixed,
            fd,
            offset,
        )
    };
    if place == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(place.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(page: u64, write: bool) -> Shown {
        Shown {
            offset: page * PAGE_SIZE,
            write,
        }
    }

    /// What the kernel says of an address range of this process: permissions and offset.
    fn mapped(window: &Window, lin: u64) -> Option<(String, u64)> {
        let at = window.address() + lin;
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
        maps.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let (start, end) = (number(start)?, number(end)?);
            let (rights, offset) = (words.next()?.to_owned(), number(words.next()?)?);
            (start..end)
                .contains(&at)
                .then(|| (rights, offset + (at - start)))
        })
    }

    #[test]
    fn pages_are_shown_and_hidden() {
        let ram = Arc::new(GuestRam::new(1 << 20).expect("memory"));
        let mut window = Window::new(&ram).expect("address space");
        assert!(window.is_empty() && window.at(0x5000).is_none());
        assert!(window.show(0x5000, shown(3, false), 4).expect("room"));
        assert!(window.show(0xffff_f000, shown(9, true), 8).expect("room"));
        assert_eq!(window.len(), 5);
        assert_eq!(window.at(0x6abc), Some(shown(4, false)));
        assert_eq!(window.at(0xffff_ffff), Some(shown(9, true)));
        assert!(window.at(0x9000).is_none());
        let rights = |window: &Window, lin| mapped(window, lin).expect("reserved");
        assert_eq!(rights(&window, 0x6000), ("r--s".to_owned(), 0x4000));
        assert_eq!(rights(&window, 0xffff_f000), ("rw-s".to_owned(), 0x9000));
        // Nothing else, and nothing behind.
        for lin in [0, 0x4fff, 0x9000, 0xffff_e000, SIZE, SIZE + GUARD - 1] {
            assert_eq!(rights(&window, lin).0, "---p", "{lin:#x}");
        }
        // Another right for one of them.
        assert!(window.show(0x6000, shown(4, true), 1).expect("room"));
        assert_eq!(rights(&window, 0x6000).0, "rw-s");
        assert_eq!(rights(&window, 0x7000).0, "r--s");
        window
            .keep(|lin, s| lin == 0x7000 && !s.write)
            .expect("room");
        assert_eq!(window.len(), 1);
        assert_eq!(rights(&window, 0x7000), ("r--s".to_owned(), 0x5000));
        for lin in [0x5000, 0x6000, 0x8000, 0xffff_f000] {
            assert_eq!(rights(&window, lin).0, "---p", "{lin:#x}");
            assert!(window.at(lin as u32).is_none());
        }
        window.clear().expect("room");
        assert!(window.is_empty() && window.mappings() == 0);
        assert_eq!(rights(&window, 0x7000).0, "---p");
    }
}
