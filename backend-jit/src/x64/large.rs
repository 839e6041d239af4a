//! The table of large pages that user code may read: see `hops.rs`.

use std::mem::offset_of;

use softmmu::{LARGE, TlbEntry};

/// See the module's text. An entry is good for [`LARGE`] bytes, and only its tag for loads and its addend count.
#[repr(C, align(64))]
pub struct Large {
    entries: [TlbEntry; Self::ENTRIES],
    /// Whether any of them is filled.
    used: bool,
    /// Misses until one is looked at; below 0: this one is.
    pub left: i32,
}

/// The tag of an empty entry: no address is near it, as it names an entry elsewhere.
const fn none(slot: usize) -> u64 {
    let other = slot as u64 ^ 1;
    other * LARGE
}

impl Large {
    /// Entries, by the address in units of [`LARGE`].
    pub const ENTRIES: usize = 128;
    /// Offset of the first.
    pub const TABLE: usize = offset_of!(Self, entries);
    /// Offset of `left`.
    pub const LEFT: usize = offset_of!(Self, left);

    fn slot(lin: u64) -> usize {
        (lin / LARGE) as usize % Self::ENTRIES
    }

    /// Enters the page around an address: see `Mmu::large`.
    pub fn put(&mut self, lin: u64, addend: u64) {
        let entry = &mut self.entries[Self::slot(lin)];
        entry.read_tag = lin & !(LARGE - 1);
        entry.addend = addend;
        self.used = true;
    }

    /// Empties it where it is not.
    pub fn forget(&mut self) {
        if std::mem::take(&mut self.used) {
            self.empty();
        }
    }

    /// Empties it.
    pub fn empty(&mut self) {
        for (slot, entry) in self.entries.iter_mut().enumerate() {
            entry.read_tag = none(slot);
        }
    }
}
