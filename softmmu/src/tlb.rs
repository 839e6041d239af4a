//! One TLB table: 4096 direct-mapped entries in the layout that inline code reads.
//!
//! An access hits if the entry's tag for its kind equals the linear page of the access's *last* byte, low twelve
//! bits zero; the host address is then `lin + addend`. The entry is looked up by the first byte, and no two
//! adjacent pages share an entry but where the second has a flag for it, so an access that crosses a page never hits.
//! Flag bits in a tag ([`tag`]) make it miss too: the slow path then finds the rest in the cold half. Code that finds
//! an access by its distance from the tag (below 4096 minus the size) misses in the same cases.

use std::mem::offset_of;

use crate::paging::PageSize;
use crate::track::bits;

/// Entries in a table.
pub const ENTRIES: usize = 4096;
/// The binary logarithm of an entry's size in bytes.
pub const ENTRY_SHIFT: u32 = 5;
/// Bytes of the smallest page that is large in long mode.
pub const LARGE: u64 = 2 << 20;
/// The bits of an address that a tag holds.
pub const TAG_MASK: u64 = !0xfff;

/// Flags in the low bits of a tag, each of which sends the access to the slow path.
pub mod tag {
    /// Not RAM: the bus answers.
    pub const MMIO: u64 = 1 << 0;
    /// Writes: the page holds code, or may.
    pub const CODE: u64 = 1 << 1;
    /// A data breakpoint lies in the page.
    pub const WATCH: u64 = 1 << 2;
    /// Writes: the page is ROM.
    pub const ROM: u64 = 1 << 3;
    /// Writes, beside `CODE`: stores to lines without code may be made in place, by whoever looks at the lines first.
    pub const LINES: u64 = 1 << 4;
    /// What says no more than that stores to some lines must be noticed.
    pub const TRACKED: u64 = CODE | LINES;
    /// Nothing is odd but the place of its entry: see `may_share`.
    pub const PLACE: u64 = 1 << 5;
    /// The bit that is changed in a tag with flags, so that a check by distance (`lin - tag` below 4096) misses too:
    /// what is left names a page that has its entry elsewhere.
    pub const ODD_BIT: u32 = 20;
    /// What the low bits of a tag are where no such access is known to be permitted.
    const NONE: u64 = 0xfff;

    /// The tag of a page with flags.
    pub(crate) const fn of(page: u64, flags: u64) -> u64 {
        if flags == 0 {
            page
        } else {
            page ^ 1 << ODD_BIT | flags
        }
    }

    /// The tag of entry `slot` where no such access is known to be permitted. Addresses at a distance below 4096 have
    /// their entries elsewhere: pages 0 to 3 have the entries 0 to 3.
    pub(crate) const fn none(slot: usize) -> u64 {
        if slot < 2 { 0x2000 | NONE } else { NONE }
    }

    /// Whether such accesses are known to be permitted.
    pub(crate) const fn is_some(tag: u64) -> bool {
        tag & NONE != NONE
    }

    /// Whether a tag, flags or not, is that of an address's page.
    pub(crate) const fn names(tag: u64, lin: u64) -> bool {
        let flags = tag & !super::TAG_MASK;
        is_some(tag) && tag == of(lin & super::TAG_MASK, flags)
    }
}

/// The entry of a linear address: `(p ^ (p >> 9)) & 4095` of its page number p.
#[inline(always)]
pub const fn tlb_index(lin: u64) -> usize {
    ((lin ^ lin >> 9) >> 12 & (ENTRIES as u64 - 1)) as usize
}

/// Whether a page may share its entry with the page before it: the first of each 4 GiB. Its tags get a flag.
pub(crate) const fn may_share(page: u64) -> bool {
    page & 0xffff_ffff == 0
}

/// An entry as inline code reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct TlbEntry {
    /// Linear page for loads.
    pub read_tag: u64,
    /// Linear page for stores and read-modify-writes.
    pub write_tag: u64,
    /// Linear page for instruction fetches.
    pub exec_tag: u64,
    /// Host address minus linear address, modulo 2^64.
    pub addend: u64,
}

impl TlbEntry {
    /// Offset of `read_tag` in bytes.
    pub const OFFSET_READ_TAG: usize = offset_of!(Self, read_tag);
    /// Offset of `write_tag` in bytes.
    pub const OFFSET_WRITE_TAG: usize = offset_of!(Self, write_tag);
    /// Offset of the tag for loads, or of that for stores.
    pub const fn offset_tag(write: bool) -> usize {
        if write {
            Self::OFFSET_WRITE_TAG
        } else {
            Self::OFFSET_READ_TAG
        }
    }

    /// Offset of `exec_tag` in bytes.
    pub const OFFSET_EXEC_TAG: usize = offset_of!(Self, exec_tag);
    /// Offset of `addend` in bytes.
    pub const OFFSET_ADDEND: usize = offset_of!(Self, addend);

    /// Entry `slot` of a table when it hits nothing.
    const fn empty(slot: usize) -> Self {
        let none = tag::none(slot);
        Self {
            read_tag: none,
            write_tag: none,
            exec_tag: none,
            addend: 0,
        }
    }
}

const _: () = assert!(size_of::<TlbEntry>() == 1 << ENTRY_SHIFT);

/// What the slow path and invalidation need of an entry.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Cold {
    /// The linear page.
    lin: u64,
    /// The physical page, with the page size's shift in bits 0 to 4 and GLOBAL.
    phys: u64,
}

/// Set in `Cold::phys` if the translation is global.
const GLOBAL: u64 = 1 << 5;
/// The page size's shift in `Cold::phys`.
const SHIFT: u64 = 0x1f;

impl Cold {
    pub(crate) fn new(lin: u64, phys: u64, size: PageSize, global: bool) -> Self {
        let global = if global { GLOBAL } else { 0 };
        Self {
            lin: lin & TAG_MASK,
            phys: phys & TAG_MASK | u64::from(size.shift()) | global,
        }
    }

    /// The physical page.
    #[inline]
    pub(crate) fn page(&self) -> u64 {
        self.phys & TAG_MASK
    }

    /// The physical page of `lin` where this is its translation, as a part of a page of 2 MiB or more.
    fn part_of_large(&self, lin: u64) -> Option<u64> {
        let is = self.lin == lin & TAG_MASK && self.phys & SHIFT >= LARGE.trailing_zeros().into();
        is.then(|| self.page())
    }

    fn global(&self) -> bool {
        self.phys & GLOBAL != 0
    }

    /// Whether the page that was mapped (not only this 4 KiB of it) holds `lin`.
    fn maps(&self, lin: u64) -> bool {
        (self.lin ^ lin) >> (self.phys & SHIFT) == 0
    }
}

/// Which translations an invalidation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    NonGlobal,
    Global,
}

/// A table; engines see the entries at its start.
#[repr(C, align(64))]
pub struct TlbTable {
    entries: [TlbEntry; ENTRIES],
    pub(crate) cold: [Cold; ENTRIES],
    /// Entries in use, and those among them that belong to the current address space alone.
    used: [u64; ENTRIES / 64],
    local: [u64; ENTRIES / 64],
    /// Hashes of the 2 MiB and 1 GiB regions of which a part of a large page was entered; cleared with the table.
    large: [u64; ENTRIES / 64],
    huge: u64,
    /// A global translation was entered since the table was cleared.
    globals: bool,
}

impl TlbTable {
    /// Nothing hits.
    pub(crate) const EMPTY: Self = Self {
        entries: {
            let mut entries = [TlbEntry::empty(2); ENTRIES];
            entries[0] = TlbEntry::empty(0);
            entries[1] = TlbEntry::empty(1);
            entries
        },
        cold: [Cold { lin: 0, phys: 0 }; ENTRIES],
        used: [0; ENTRIES / 64],
        local: [0; ENTRIES / 64],
        large: [0; ENTRIES / 64],
        huge: 0,
        globals: false,
    };

    /// The entry that may hold a linear address.
    #[inline(always)]
    pub(crate) fn entry(&self, lin: u64) -> &TlbEntry {
        &self.entries[tlb_index(lin)]
    }

    /// Enters a translation in place of what was there. `local`: valid in the current address space only.
    pub(crate) fn put(&mut self, entry: TlbEntry, cold: Cold, local: bool) {
        let slot = tlb_index(cold.lin);
        self.entries[slot] = entry;
        self.cold[slot] = cold;
        let (word, bit) = (slot / 64, 1u64 << (slot % 64));
        self.used[word] |= bit;
        if local {
            self.local[word] |= bit;
        } else {
            self.local[word] &= !bit;
        }
        self.globals |= cold.global();
        match (cold.phys & SHIFT) as u32 {
            12 => {}
            30 => self.huge |= huge_bit(cold.lin),
            // A 4 MiB page counts as both of its halves.
            shift => {
                for half in 0..1u64 << (shift - 21) {
                    let region = cold.lin >> shift << (shift - 21) | half;
                    self.large[region as usize / 64 % self.large.len()] |= 1 << (region % 64);
                }
            }
        }
    }

    /// Host address minus linear address, and the physical page, of an address that may be read as part of a large page,
    /// with nothing odd about it.
    pub(crate) fn large_part(&self, lin: u64) -> Option<(u64, u64)> {
        let (entry, cold) = (self.entry(lin), &self.cold[tlb_index(lin)]);
        let plain = entry.read_tag == lin & TAG_MASK;
        let page = cold.part_of_large(lin)?;
        plain.then_some((entry.addend, page))
    }

    /// All entries in use, with their linear pages.
    pub(crate) fn each(&self, mut f: impl FnMut(u64, &TlbEntry)) {
        for (word, used) in self.used.iter().enumerate() {
            for bit in bits(*used) {
                let slot = word * 64 + bit;
                f(self.cold[slot].lin, &self.entries[slot]);
            }
        }
    }

    /// Changes the flags of the entry for stores at `lin`, if there is one.
    pub(crate) fn flag_writes(&mut self, lin: u64, flags: u64) {
        let tag = &mut self.entries[tlb_index(lin)].write_tag;
        if tag::names(*tag, lin) {
            *tag = tag::of(lin & TAG_MASK, *tag & tag::PLACE | flags);
        }
    }

    fn clear_slots(&mut self, word: usize, slots: u64) {
        for bit in bits(slots) {
            self.entries[word * 64 + bit] = TlbEntry::empty(word * 64 + bit);
        }
        self.used[word] &= !slots;
        self.local[word] &= !slots;
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        for word in 0..self.used.len() {
            self.clear_slots(word, self.used[word]);
        }
        self.large = [0; ENTRIES / 64];
        self.huge = 0;
        self.globals = false;
    }

    /// Drops what belongs to the current address space alone; whether anything is left.
    pub(crate) fn clear_local(&mut self) -> bool {
        if !self.globals {
            // All of it is local, so the hashes can go too.
            self.clear();
            return false;
        }
        for word in 0..self.used.len() {
            self.clear_slots(word, self.local[word]);
        }
        self.used.iter().any(|&word| word != 0)
    }

    /// Whether a large page that was ever entered since the table was cleared may hold `lin`.
    pub(crate) fn may_be_large(&self, lin: u64) -> bool {
        let region = lin >> 21;
        self.huge & huge_bit(lin) != 0
            || self.large[region as usize / 64 % self.large.len()] & 1 << (region % 64) != 0
    }

    /// Drops the translation of the page that holds `lin`, whole, if it is in the scope.
    pub(crate) fn drop_page(&mut self, lin: u64, scope: Scope) {
        if scope == Scope::Global && !self.globals {
            return;
        }
        let inside = |cold: &Cold| match scope {
            Scope::All => true,
            Scope::NonGlobal => !cold.global(),
            Scope::Global => cold.global(),
        };
        let slot = tlb_index(lin);
        let cold = &self.cold[slot];
        if cold.lin == lin & TAG_MASK && inside(cold) {
            self.clear_slots(slot / 64, 1 << (slot % 64));
        }
        if self.may_be_large(lin) {
            for word in 0..self.used.len() {
                let slots = bits(self.used[word])
                    .filter(|bit| {
                        let cold = &self.cold[word * 64 + bit];
                        cold.maps(lin) && inside(cold)
                    })
                    .fold(0, |slots, bit| slots | 1 << bit);
                self.clear_slots(word, slots);
            }
        }
    }

    /// Drops the 4 KiB that hold `lin` (a breakpoint comes or goes).
    pub(crate) fn drop_small(&mut self, lin: u64) {
        let slot = tlb_index(lin);
        if self.cold[slot].lin == lin & TAG_MASK {
            self.clear_slots(slot / 64, 1 << (slot % 64));
        }
    }

    /// Takes plain write tags from all RAM pages for which `holds_code(physical page)`.
    pub(crate) fn flag_code(&mut self, mut holds_code: impl FnMut(u64) -> bool) {
        for word in 0..self.used.len() {
            for bit in bits(self.used[word]) {
                let slot = word * 64 + bit;
                let (entry, cold) = (&mut self.entries[slot], &self.cold[slot]);
                let flags = entry.write_tag & !TAG_MASK;
                if flags & !tag::PLACE == 0 && holds_code(cold.page()) {
                    entry.write_tag = tag::of(cold.lin, flags | tag::CODE);
                }
            }
        }
    }
}

/// The bit of `huge` for a linear address's GiB.
fn huge_bit(lin: u64) -> u64 {
    1 << (lin >> 30 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lin: u64) -> TlbEntry {
        TlbEntry {
            read_tag: lin & TAG_MASK,
            write_tag: lin & TAG_MASK,
            exec_tag: tag::none(tlb_index(lin)),
            addend: 0,
        }
    }

    fn table() -> Box<TlbTable> {
        Box::new(TlbTable::EMPTY)
    }

    fn put(table: &mut TlbTable, lin: u64, size: PageSize, global: bool, local: bool) {
        table.put(
            entry(lin),
            Cold::new(lin, lin & 0xffff_ffff, size, global),
            local,
        );
    }

    fn holds(table: &TlbTable, lin: u64) -> bool {
        table.entry(lin).read_tag == lin & TAG_MASK
    }

    #[test]
    fn odd_tags_are_near_no_address_that_looks_there() {
        let looks = |tag: u64, slot| (0..4096).any(|d| tlb_index(tag.wrapping_add(d)) == slot);
        for slot in 0..ENTRIES {
            assert!(!looks(tag::none(slot), slot), "{slot}");
        }
        let starts = [
            0,
            0x5555_5555,
            0xf_ffff_ffff_f000,
            0x7_ffff_ffff,
            0x1_ffff_f000,
            0x20_0000 - 3000,
        ];
        for page in starts.into_iter().flat_map(|p| p..p + 5000) {
            let lin = page << 12;
            for flags in [1, tag::TRACKED, tag::PLACE | tag::ROM] {
                let odd = tag::of(lin, flags);
                assert!(!looks(odd, tlb_index(lin)), "{lin:#x}");
                assert!(tag::names(odd, lin + 5) && !tag::names(odd, lin.wrapping_add(4096)));
            }
        }
    }

    #[test]
    fn adjacent_pages_never_share_an_entry() {
        for page in (0..5000)
            .chain((1 << 20) - 2000..(1 << 20) + 2000)
            .chain((1 << 52) - 5000..(1 << 52) - 1)
        {
            assert!(
                tlb_index(page << 12) != tlb_index((page + 1) << 12) || may_share((page + 1) << 12),
                "{page:#x}"
            );
        }
        // Nor do pages a table's or a page table's reach apart.
        assert_ne!(tlb_index(0), tlb_index(1 << 22));
    }

    #[test]
    fn one_page_goes_alone() {
        let mut table = table();
        put(&mut table, 0x1000, PageSize::K4, false, true);
        put(&mut table, 0x2000, PageSize::K4, false, true);
        table.drop_page(0x1fff, Scope::All);
        assert!(!holds(&table, 0x1000) && holds(&table, 0x2000));
        table.drop_page(0x2000, Scope::Global);
        assert!(holds(&table, 0x2000));
        table.drop_page(0x2000, Scope::NonGlobal);
        assert!(!holds(&table, 0x2000));
    }

    #[test]
    fn a_large_page_goes_with_all_its_parts() {
        for (size, bytes) in [
            (PageSize::M2, 2u64 << 20),
            (PageSize::M4, 4 << 20),
            (PageSize::G1, 1 << 30),
        ] {
            let mut table = table();
            let base = 0xffff_8880_4000_0000 + 3 * bytes;
            let parts = [base, base + 0x5000, base + bytes - 0x1000];
            for part in parts {
                put(&mut table, part, size, true, false);
            }
            put(&mut table, base - 0x1000, PageSize::K4, false, true);
            put(&mut table, base + bytes + 0x1000, PageSize::K4, false, true);
            table.drop_page(base + bytes / 2 + 0x7123, Scope::All);
            assert!(parts.iter().all(|&part| !holds(&table, part)), "{size:?}");
            assert!(holds(&table, base - 0x1000) && holds(&table, base + bytes + 0x1000));
        }
    }

    #[test]
    fn globals_outlive_the_address_space() {
        let mut table = table();
        put(&mut table, 0x1000, PageSize::K4, false, true);
        put(&mut table, 0x2000, PageSize::K4, true, false);
        assert!(table.clear_local());
        assert!(!holds(&table, 0x1000) && holds(&table, 0x2000));
        // The entry that a local translation takes over is local.
        put(&mut table, 0x2000, PageSize::K4, false, true);
        assert!(!table.clear_local());
        put(&mut table, 0x3000, PageSize::M2, true, false);
        table.clear();
        assert!(!holds(&table, 0x3000) && !table.may_be_large(0x3000));
    }

    #[test]
    fn code_takes_plain_write_tags_only() {
        let mut table = table();
        put(&mut table, 0x1000, PageSize::K4, false, true);
        put(&mut table, 0x2000, PageSize::K4, false, true);
        table.flag_code(|page| page == 0x1000);
        assert_eq!(table.entry(0x1000).write_tag, tag::of(0x1000, tag::CODE));
        assert_eq!(table.entry(0x1000).read_tag, 0x1000);
        assert_eq!(table.entry(0x2000).write_tag, 0x2000);
    }
}
