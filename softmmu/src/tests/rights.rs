//! Every combination of rights, control bits and kinds of access, in every paging form and page size.

use x86::{LinAddr, PhysAddr, cr0, cr4, efer};

use super::naive::{allowed, error_code, key_stops};
use super::{A, D, NX, P, PS, U, W};
use crate::{
    Access, AccessKind, BadPdpte, GuestRam, PageFault, PageSize, PagingMode, PagingState,
    Translation, pf, read_pdptes, walk,
};

/// A tree that maps one page: the entries' places from the root to the page, and the state that uses it.
struct Tree {
    ram: GuestRam,
    state: PagingState,
    places: Vec<u64>,
    size: u32,
    page_size: PageSize,
    at: LinAddr,
}

const AT: u64 = 0x4020_3000;

impl Tree {
    fn new(mode: PagingMode, page_size: PageSize) -> Self {
        let ram = GuestRam::new(16 << 20).expect("RAM");
        let mut state = PagingState::new(40);
        state.cr0 = cr0::PE | cr0::PG;
        let (levels, width, size) = match mode {
            PagingMode::Bits32 => (2, 10, 4),
            PagingMode::Pae => (2, 9, 8),
            PagingMode::Level4 => (4, 9, 8),
            _ => (5, 9, 8),
        };
        if size == 8 {
            state.cr4 |= cr4::PAE;
        } else {
            state.cr4 |= cr4::PSE;
        }
        if levels > 2 {
            state.efer |= efer::LMA;
        }
        if levels == 5 {
            state.cr4 |= cr4::LA57;
        }
        state.cr3 = 0x1000;
        state.pdptes = [0x1001; 4];
        let leaf = match page_size {
            PageSize::K4 => 1,
            PageSize::M2 | PageSize::M4 => 2,
            PageSize::G1 => 3,
        };
        let places = (leaf..=levels)
            .rev()
            .zip(1u64..)
            .map(|(level, table)| {
                table * 4096
                    + (AT >> (12 + width * (level - 1)) & ((1 << width) - 1)) * u64::from(size)
            })
            .collect();
        Self {
            ram,
            state,
            places,
            size,
            page_size,
            at: LinAddr(AT),
        }
    }

    fn put(&self, level: usize, flags: u64) {
        let last = level + 1 == self.places.len();
        let address = if last { 0 } else { (level as u64 + 2) * 4096 };
        let large = if last && self.page_size != PageSize::K4 {
            PS
        } else {
            0
        };
        let value = address | large | flags;
        let place = PhysAddr(self.places[level]);
        if self.size == 4 {
            self.ram.write_u32(place, value as u32)
        } else {
            self.ram.write_u64(place, value)
        }
        .expect("RAM");
    }

    fn get(&self, level: usize) -> u64 {
        let place = PhysAddr(self.places[level]);
        if self.size == 4 {
            u64::from(self.ram.read_u32(place).expect("RAM"))
        } else {
            self.ram.read_u64(place).expect("RAM")
        }
    }

    fn walk(&self, access: Access) -> Result<Translation, PageFault> {
        walk(&self.ram, &self.state, self.at, access)
    }
}

fn forms() -> Vec<Tree> {
    [
        (PagingMode::Bits32, PageSize::K4),
        (PagingMode::Bits32, PageSize::M4),
        (PagingMode::Pae, PageSize::K4),
        (PagingMode::Pae, PageSize::M2),
        (PagingMode::Level4, PageSize::K4),
        (PagingMode::Level4, PageSize::M2),
        (PagingMode::Level4, PageSize::G1),
        (PagingMode::Level5, PageSize::K4),
        (PagingMode::Level5, PageSize::M2),
        (PagingMode::Level5, PageSize::G1),
    ]
    .into_iter()
    .map(|(mode, size)| Tree::new(mode, size))
    .collect()
}

fn accesses() -> impl Iterator<Item = Access> {
    [AccessKind::Read, AccessKind::Write, AccessKind::Fetch]
        .into_iter()
        .flat_map(|kind| {
            [(true, false), (false, false), (false, true)]
                .into_iter()
                .filter(move |&(_, implicit)| !implicit || kind != AccessKind::Fetch)
                .map(move |(user, implicit)| Access {
                    kind,
                    user,
                    implicit,
                })
        })
}

#[test]
fn every_combination_of_rights_in_every_form() {
    let mut cases = 0;
    for mut tree in forms() {
        let base = tree.state.clone();
        let top = 0;
        let leaf = tree.places.len() - 1;
        for bits in 0..1u32 << 12 {
            let on = |n: u32| bits >> n & 1 != 0;
            // The rights at the leaf and at one upper level (the same entry where there is one level only).
            let flags = |w, u, x| {
                P | if w { W } else { 0 } | if u { U } else { 0 } | if x { NX } else { 0 }
            };
            let nx_exists = tree.size == 8;
            if !nx_exists && (on(2) || on(5) || on(11)) {
                continue;
            }
            let nxe = !on(11) && nx_exists;
            if !nxe && (on(2) || on(5)) {
                continue;
            }
            tree.state = base.clone();
            tree.state.cr0 |= if on(6) { cr0::WP } else { 0 };
            tree.state.cr4 |= if on(7) { cr4::SMEP } else { 0 } | if on(8) { cr4::SMAP } else { 0 };
            tree.state.ac = on(9);
            tree.state.efer |= if nxe { efer::NXE } else { 0 };
            tree.state.cr4 |= if on(10) { cr4::PGE } else { 0 };
            for access in accesses() {
                for level in 0..=leaf {
                    tree.put(level, P | W | U);
                }
                tree.put(leaf, flags(on(0), on(1), on(2)));
                if top != leaf {
                    tree.put(top, flags(on(3), on(4), on(5)));
                }
                let both = |n: u32| on(n) && (top == leaf || on(n + 3));
                let page = Translation {
                    page: PhysAddr(0),
                    size: tree.page_size,
                    user: both(1),
                    writable: both(0),
                    executable: !(on(2) || top != leaf && on(5)),
                    global: false,
                    dirty: false,
                    pkey: 0,
                };
                let found = tree.walk(access);
                if allowed(&tree.state, &page, access) {
                    let found = found.expect("permitted");
                    assert_eq!(
                        (found.user, found.writable, found.executable),
                        (page.user, page.writable, page.executable)
                    );
                    assert_eq!(found.size, tree.page_size);
                    assert_eq!(
                        tree.get(leaf) & (A | D),
                        if access.kind == AccessKind::Write {
                            A | D
                        } else {
                            A
                        }
                    );
                } else {
                    let error = error_code(&tree.state, access, true, false, false);
                    assert_eq!(
                        found,
                        Err(PageFault {
                            lin: tree.at,
                            error
                        }),
                        "{access:?} {bits:#b}"
                    );
                    assert_eq!(
                        tree.get(leaf) & (A | D),
                        0,
                        "no flags on the page without permission"
                    );
                }
                // Entries on the way are accessed, never dirty.
                assert!((0..leaf).all(|level| tree.get(level) & (A | D) == A));
                cases += 1;
            }
        }
    }
    assert!(cases > 100_000, "{cases}");
}

#[test]
fn protection_keys_bind_data_accesses_to_user_pages() {
    for size in [PageSize::K4, PageSize::M2, PageSize::G1] {
        for mode in [PagingMode::Level4, PagingMode::Level5] {
            let mut tree = Tree::new(mode, size);
            let leaf = tree.places.len() - 1;
            for bits in 0..64u64 {
                let on = |n: u32| bits >> n & 1 != 0;
                for key in [0u64, 1, 7, 15] {
                    tree.state.cr4 =
                        cr4::PAE | tree.state.cr4 & cr4::LA57 | if on(0) { cr4::PKE } else { 0 };
                    tree.state.cr0 = cr0::PG | cr0::PE | if on(1) { cr0::WP } else { 0 };
                    tree.state.pkru = ((bits >> 2 & 3) << (2 * key)) as u32;
                    let user = if on(4) { U } else { 0 };
                    let write = if on(5) { W } else { 0 };
                    for level in 0..leaf {
                        tree.put(level, P | W | U | 5 << 59);
                    }
                    for access in accesses() {
                        tree.put(leaf, P | user | write | key << 59);
                        let page = Translation {
                            page: PhysAddr(0),
                            size,
                            user: on(4),
                            writable: on(5),
                            executable: true,
                            global: false,
                            dirty: false,
                            pkey: key as u8,
                        };
                        let stopped = key_stops(&tree.state, &page, access);
                        let permitted = allowed(&tree.state, &page, access) && !stopped;
                        let error = error_code(&tree.state, access, true, false, stopped);
                        assert_eq!(
                            tree.walk(access)
                                .map(|found| found.pkey)
                                .map_err(|fault| fault.error),
                            if permitted { Ok(key as u8) } else { Err(error) },
                            "{access:?} {bits:#b} {key}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_reserved_bit_faults_and_no_other() {
    let read = Access {
        kind: AccessKind::Read,
        user: false,
        implicit: false,
    };
    for mut tree in forms() {
        let leaf = tree.places.len() - 1;
        let bits32 = tree.size == 4;
        let pae = tree.state.mode() == PagingMode::Pae;
        for (maxphyaddr, nxe, gib, pse36) in [
            (36, true, true, true),
            (40, false, true, true),
            (52, true, false, true),
            (39, true, true, false),
        ] {
            tree.state.maxphyaddr = maxphyaddr;
            tree.state.efer = tree.state.efer & efer::LMA | if nxe { efer::NXE } else { 0 };
            tree.state.gib_pages = gib;
            tree.state.pse36 = pse36;
            let levels = match tree.state.mode() {
                PagingMode::Bits32 | PagingMode::Pae => 2,
                PagingMode::Level4 => 4,
                _ => 5,
            };
            let huge_fails = tree.page_size == PageSize::G1 && !gib;
            for level in 0..=leaf {
                for n in 0..if bits32 { 32 } else { 64 } {
                    for i in 0..=leaf {
                        tree.put(i, P | W | U);
                    }
                    let large = level == leaf && tree.page_size != PageSize::K4;
                    let depth = levels - level;
                    let max = u32::from(maxphyaddr);
                    let reserved = huge_fails
                        || match n {
                            _ if bits32 => {
                                large
                                    && (13..=21).contains(&n)
                                    && n >= if pse36 { max.min(40) - 19 } else { 13 }
                            }
                            63 => !nxe,
                            52..=62 => pae,
                            // A set PS above the lowest level makes another tree; above level 3 it is reserved.
                            7 => depth >= 4 || depth == 3 && !gib,
                            12.. if n >= max => true,
                            13..=20 => large,
                            21..=29 => tree.page_size == PageSize::G1 && large,
                            _ => false,
                        };
                    let other_tree = n == 7 && !reserved && level != leaf
                        || n == 0
                        || (12..max).contains(&n) && level != leaf;
                    if other_tree {
                        continue;
                    }
                    let old = tree.get(level);
                    let place = PhysAddr(tree.places[level]);
                    if bits32 {
                        tree.ram
                            .write_u32(place, (old | 1 << n) as u32)
                            .expect("RAM");
                    } else {
                        tree.ram.write_u64(place, old | 1 << n).expect("RAM");
                    }
                    let found = tree.walk(read);
                    let expected = if reserved {
                        Some(pf::P | pf::RSVD)
                    } else {
                        None
                    };
                    assert_eq!(
                        found.err().map(|fault| fault.error),
                        expected,
                        "{:?} {:?} level {level} bit {n} max {maxphyaddr}",
                        tree.state.mode(),
                        tree.page_size
                    );
                }
            }
        }
    }
}

#[test]
fn absent_entries_fault_at_every_level() {
    for tree in forms() {
        for absent in 0..tree.places.len() {
            for access in accesses() {
                for level in 0..tree.places.len() {
                    tree.put(level, P | W | U);
                }
                // All other bits set: none of them matters.
                let garbage = if tree.size == 4 {
                    0xffff_fffe
                } else {
                    u64::MAX - 1
                };
                tree.ram
                    .write(
                        PhysAddr(tree.places[absent]),
                        &garbage.to_le_bytes()[..tree.size as usize],
                    )
                    .expect("RAM");
                let error = error_code(&tree.state, access, false, false, false);
                assert_eq!(
                    tree.walk(access),
                    Err(PageFault {
                        lin: tree.at,
                        error
                    })
                );
                assert_eq!(
                    tree.get(absent),
                    garbage,
                    "an absent entry is never written"
                );
                assert!((0..absent).all(|level| tree.get(level) & A != 0));
            }
        }
    }
}

#[test]
fn error_codes_are_those_of_the_manual() {
    // Some literal ones, so that no shared mistake hides.
    let mut tree = Tree::new(PagingMode::Level4, PageSize::K4);
    tree.state.efer |= efer::NXE;
    tree.state.cr0 |= cr0::WP;
    let error = |tree: &Tree, kind, user| {
        tree.walk(Access {
            kind,
            user,
            implicit: false,
        })
        .map_err(|fault| fault.error)
        .err()
    };
    for level in 0..4 {
        tree.put(level, P | W | U);
    }
    tree.put(3, P);
    assert_eq!(error(&tree, AccessKind::Read, true), Some(0x05));
    assert_eq!(error(&tree, AccessKind::Write, true), Some(0x07));
    assert_eq!(error(&tree, AccessKind::Fetch, true), Some(0x15));
    assert_eq!(error(&tree, AccessKind::Write, false), Some(0x03));
    assert_eq!(error(&tree, AccessKind::Read, false), None);
    tree.put(3, P | U | NX);
    assert_eq!(error(&tree, AccessKind::Fetch, false), Some(0x11));
    tree.put(3, 0);
    assert_eq!(error(&tree, AccessKind::Fetch, true), Some(0x14));
    assert_eq!(error(&tree, AccessKind::Write, false), Some(0x02));
    tree.state.efer &= !efer::NXE;
    assert_eq!(error(&tree, AccessKind::Fetch, true), Some(0x04));
    tree.put(3, P | NX);
    assert_eq!(error(&tree, AccessKind::Read, false), Some(0x09));
    tree.state.cr4 |= cr4::SMEP | cr4::SMAP;
    tree.put(3, P | U | W);
    assert_eq!(error(&tree, AccessKind::Fetch, false), Some(0x11));
    assert_eq!(error(&tree, AccessKind::Read, false), Some(0x01));
    tree.state.ac = true;
    assert_eq!(error(&tree, AccessKind::Read, false), None);
    let implicit = Access {
        kind: AccessKind::Read,
        user: false,
        implicit: true,
    };
    assert_eq!(
        tree.walk(implicit).map_err(|fault| fault.error).err(),
        Some(0x01)
    );
    tree.state.cr4 |= cr4::PKE;
    tree.state.pkru = 0b11;
    assert_eq!(error(&tree, AccessKind::Write, true), Some(0x27));
    assert_eq!(error(&tree, AccessKind::Fetch, true), None);
}

#[test]
fn tables_outside_ram_read_as_ones() {
    let mut tree = Tree::new(PagingMode::Level4, PageSize::K4);
    tree.state.cr3 = 0xa_0000;
    let read = Access {
        kind: AccessKind::Read,
        user: true,
        implicit: false,
    };
    assert_eq!(
        tree.walk(read).map_err(|fault| fault.error).err(),
        Some(pf::P | pf::RSVD | pf::U)
    );
    // With 32-bit paging and without PSE all ones is a page, and nothing is written.
    let mut tree = Tree::new(PagingMode::Bits32, PageSize::K4);
    tree.state.cr3 = 0xf000_0000;
    tree.state.cr4 = 0;
    assert_eq!(
        tree.walk(read).map(|found| found.page),
        Ok(PhysAddr(0xffff_f000))
    );
}

#[test]
fn pdptes_with_reserved_bits_are_refused_when_present() {
    let ram = GuestRam::new(0x10000).expect("RAM");
    // Any 32-byte boundary will do.
    let base = 0x2fe0;
    for n in 0..64u32 {
        for present in [0, P] {
            ram.write_u64(PhysAddr(base), 0x1000 | P).expect("RAM");
            ram.write_u64(PhysAddr(base + 24), 1 << n | present)
                .expect("RAM");
            let value = 1u64 << n | present;
            let ok = matches!(n, 0 | 3 | 4 | 9..=35) || value & P == 0;
            assert_eq!(read_pdptes(&ram, base | 0x1f, 36).is_ok(), ok, "bit {n}");
            if ok {
                assert_eq!(read_pdptes(&ram, base, 36), Ok([0x1001, 0, 0, value]));
            }
        }
    }
    assert_eq!(
        read_pdptes(&ram, 0xa_0000, 36),
        Err(BadPdpte),
        "outside RAM: all ones"
    );
}

#[test]
fn a20_reaches_tables_and_pages() {
    let tree = Tree::new(PagingMode::Level4, PageSize::K4);
    for level in 0..4 {
        tree.put(level, P | W | U);
    }
    let read = Access {
        kind: AccessKind::Read,
        user: true,
        implicit: false,
    };
    // The page lies in the odd MiB; the last table is reached through an odd-MiB address.
    tree.ram
        .write_u64(PhysAddr(tree.places[3]), 0x30_5000 | P | U)
        .expect("RAM");
    tree.ram
        .write_u64(PhysAddr(tree.places[2]), 0x10_4000 | P | U)
        .expect("RAM");
    assert_eq!(tree.walk(read).map_err(|fault| fault.error), Err(pf::U));
    tree.ram.set_a20(false);
    assert_eq!(
        tree.walk(read).map(|found| found.page),
        Ok(PhysAddr(0x20_5000))
    );
}
