//! The inline TLB check: the hit path of every guest memory access, and who owns the tables it reads.
//!
//! A hit is: choose the table by bit 63, index, load the tag, compare it with the page of the last byte, add the
//! addend. Everything else (a miss, a page crossing, device memory, code pages, breakpoints) is the slow path.
#![expect(
    unsafe_code,
    reason = "the hit path goes through raw pointers, as translated code does"
)]
// UNSAFETY: The current tables are reached by pointers that `Mmu::point` sets, and RAM by the addends in them.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use x86::{LinAddr, PhysAddr};

use crate::mmu::Mmu;
use crate::paging::Fault;
use crate::raw;
use crate::tlb::{TAG_MASK, TlbEntry, TlbTable, tlb_index};

/// The table that stands in for all that haven't been made yet: nothing hits.
static EMPTY: TlbTable = TlbTable::EMPTY;

/// A pointer to a table, for inline code.
pub(crate) type TablePtr = *const TlbTable;

/// Owns a table whose address inline code uses: unlike in a `Box`, a pointer to it stays valid while it is
/// changed through the owner.
pub(crate) struct TableBox(NonNull<TlbTable>);

// SAFETY: it owns its table, which has no tie to a thread.
unsafe impl Send for TableBox {}
// SAFETY: a shared TableBox gives shared references only.
unsafe impl Sync for TableBox {}

impl TableBox {
    /// A table in which nothing hits.
    pub(crate) fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(TlbTable::EMPTY))))
    }

    fn pointer(&self) -> TablePtr {
        self.0.as_ptr()
    }
}

impl Drop for TableBox {
    fn drop(&mut self) {
        // SAFETY: made by Box::leak in `new`, freed only here.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Deref for TableBox {
    type Target = TlbTable;

    fn deref(&self) -> &TlbTable {
        // SAFETY: valid until dropped; exclusive references come from DerefMut only.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for TableBox {
    fn deref_mut(&mut self) -> &mut TlbTable {
        // SAFETY: valid until dropped, and the owner is borrowed exclusively.
        unsafe { self.0.as_mut() }
    }
}

/// What inline code is given for a table that may not exist yet.
pub(crate) fn table_pointer(table: Option<&TableBox>) -> TablePtr {
    table.map_or(&raw const EMPTY, TableBox::pointer)
}

// SAFETY: the raw pointers of an Mmu point into tables that it owns, or to the immutable EMPTY.
unsafe impl Send for Mmu {}

impl Mmu {
    /// The current entry that may hold `lin`.
    #[inline(always)]
    fn entry(&self, lin: u64) -> &TlbEntry {
        self.table(lin).entry(lin)
    }

    /// The current table for `lin`.
    #[inline(always)]
    fn table(&self, lin: u64) -> &TlbTable {
        // SAFETY: `data` holds pointers to live tables: `point` runs whenever they change.
        unsafe { &*self.data[(lin >> 63) as usize] }
    }

    /// Where a load of `size` bytes (1 to 4096) finds them on the host; None on a miss. Valid until the next call
    /// that takes the Mmu exclusively.
    #[inline(always)]
    pub fn hit_read(&self, lin: LinAddr, size: u64) -> Option<*mut u8> {
        let entry = self.entry(lin.0);
        let last = lin.0.wrapping_add(size - 1) & TAG_MASK;
        (entry.read_tag == last).then(|| host(entry.addend, lin.0))
    }

    /// Where a store of `size` bytes (1 to 4096) puts them on the host; None on a miss. As for `hit_read`.
    #[inline(always)]
    pub fn hit_write(&self, lin: LinAddr, size: u64) -> Option<*mut u8> {
        let entry = self.entry(lin.0);
        let last = lin.0.wrapping_add(size - 1) & TAG_MASK;
        (entry.write_tag == last).then(|| host(entry.addend, lin.0))
    }

    /// The physical address of an instruction in RAM, if the TLB holds its page for fetches.
    #[inline(always)]
    pub fn hit_exec(&self, lin: LinAddr) -> Option<PhysAddr> {
        if self.entry(lin.0).exec_tag != lin.0 & TAG_MASK {
            return None;
        }
        let table = self.table(lin.0);
        Some(PhysAddr(
            table.cold[tlb_index(lin.0)].page() | lin.page_offset(),
        ))
    }
}

#[inline(always)]
fn host(addend: u64, lin: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(addend.wrapping_add(lin) as usize)
}

/// Declares the accesses of one width at the current privilege.
macro_rules! accesses {
    ($($try_load:ident, $try_store:ident, $load:ident, $store:ident, $ty:ty, $raw_load:ident, $raw_store:ident,
        $slow_load:ident, $slow_store:ident;)*) => {
        impl Mmu {
            $(
                /// Loads if the TLB hits.
                #[inline(always)]
                pub fn $try_load(&self, lin: LinAddr) -> Option<$ty> {
                    let entry = self.entry(lin.0);
                    let last = lin.0.wrapping_add(size_of::<$ty>() as u64 - 1) & TAG_MASK;
                    if entry.read_tag != last {
                        return None;
                    }
                    // SAFETY: a tag without flags stands for a page of RAM at lin + addend; all bytes lie in it.
                    Some(unsafe { raw::$raw_load(entry.addend, lin.0) })
                }

                /// Stores if the TLB hits; false if nothing was done.
                #[inline(always)]
                pub fn $try_store(&self, lin: LinAddr, value: $ty) -> bool {
                    let entry = self.entry(lin.0);
                    let last = lin.0.wrapping_add(size_of::<$ty>() as u64 - 1) & TAG_MASK;
                    if entry.write_tag != last {
                        return false;
                    }
                    // SAFETY: a tag without flags stands for a page of RAM at lin + addend; all bytes lie in it.
                    unsafe { raw::$raw_store(entry.addend, lin.0, value) };
                    true
                }

                /// Loads at the current privilege.
                #[inline(always)]
                pub fn $load(&mut self, lin: LinAddr) -> Result<$ty, Fault> {
                    match self.$try_load(lin) {
                        Some(value) => Ok(value),
                        None => self.$slow_load(lin),
                    }
                }

                /// Stores at the current privilege.
                #[inline(always)]
                pub fn $store(&mut self, lin: LinAddr, value: $ty) -> Result<(), Fault> {
                    if self.$try_store(lin, value) { Ok(()) } else { self.$slow_store(lin, value) }
                }
            )*
        }
    };
}

accesses! {
    try_load8, try_store8, load8, store8, u8, load8, store8, slow_load8, slow_store8;
    try_load16, try_store16, load16, store16, u16, load16, store16, slow_load16, slow_store16;
    try_load32, try_store32, load32, store32, u32, load32, store32, slow_load32, slow_store32;
    try_load64, try_store64, load64, store64, u64, load64, store64, slow_load64, slow_store64;
    try_load128, try_store128, load128, store128, u128, load128, store128, slow_load128, slow_store128;
}
