//! A second walker, written as plain tables of the SDM's figures, against which the real one is compared.
//!
//! It takes the steps one at a time over a list of levels, collects the entries first and judges them afterwards;
//! it knows nothing of masks shared between modes.

use x86::{LinAddr, PhysAddr, cr0, cr4, efer};

use super::{P, Rng};
use crate::{
    Access, AccessKind, GuestRam, PageFault, PageSize, PagingMode, PagingState, Translation, probe,
    walk,
};

/// One level: the entry's address bits in the linear address, and what PS makes of it.
struct Level {
    low_bit: u32,
    bits: u32,
    /// PS = 1 maps a page of this size.
    large: Option<PageSize>,
    /// PS = 1 is a reserved bit.
    ps_reserved: bool,
    /// The last level.
    last: bool,
}

/// What the naive walker says of an access.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) result: Result<Translation, PageFault>,
    /// Entries that end up changed: (address, bytes, new value).
    pub(super) changed: Vec<(u64, u32, u64)>,
}

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

fn levels(state: &PagingState) -> Vec<Level> {
    let level = |low_bit, bits, large, ps_reserved, last| Level {
        low_bit,
        bits,
        large,
        ps_reserved,
        last,
    };
    let gib = state.gib_pages.then_some(PageSize::G1);
    let pse = (state.cr4 & cr4::PSE != 0).then_some(PageSize::M4);
    let pml5 = || level(48, 9, None, true, false);
    let pml4 = || level(39, 9, None, true, false);
    let pdpt = || level(30, 9, gib, gib.is_none(), false);
    let pd = || level(21, 9, Some(PageSize::M2), false, false);
    let pt = || level(12, 9, None, false, true);
    match state.mode() {
        PagingMode::Off => vec![],
        PagingMode::Bits32 => vec![
            level(22, 10, pse, false, false),
            level(12, 10, None, false, true),
        ],
        PagingMode::Pae => vec![pd(), pt()],
        PagingMode::Level4 => vec![pml4(), pdpt(), pd(), pt()],
        PagingMode::Level5 => vec![pml5(), pml4(), pdpt(), pd(), pt()],
    }
}

/// Whether any reserved bit is set in a present entry (SDM vol. 3, figures of 5.3 to 5.5), bit by bit.
fn reserved(state: &PagingState, level: &Level, entry: u64, page: Option<PageSize>) -> bool {
    let max = u32::from(state.maxphyaddr);
    let nxe = state.efer & efer::NXE != 0;
    match state.mode() {
        PagingMode::Off => false,
        PagingMode::Bits32 => {
            page == Some(PageSize::M4) && {
                let top = if state.pse36 { max.min(40) } else { 32 };
                (13..=21).any(|n| n >= top - 19 && bit(entry, n))
            }
        }
        mode => {
            let highest = if mode == PagingMode::Pae { 62 } else { 51 };
            (max..=highest).any(|n| bit(entry, n))
                || !nxe && bit(entry, 63)
                || level.ps_reserved && bit(entry, 7)
                || page == Some(PageSize::M2) && (13..=20).any(|n| bit(entry, n))
                || page == Some(PageSize::G1) && (13..=29).any(|n| bit(entry, n))
        }
    }
}

/// SDM vol. 3, 5.6.1 as nested cases.
pub(super) fn allowed(state: &PagingState, page: &Translation, access: Access) -> bool {
    let wp = state.cr0 & cr0::WP != 0;
    let smep = state.cr4 & cr4::SMEP != 0;
    let smap = state.cr4 & cr4::SMAP != 0;
    match (access.user, access.kind) {
        (true, AccessKind::Read) => page.user,
        (true, AccessKind::Write) => page.user && page.writable,
        (true, AccessKind::Fetch) => page.user && page.executable,
        (false, AccessKind::Fetch) if page.user && smep => false,
        (false, AccessKind::Fetch) => page.executable,
        (false, kind) => {
            if page.user && smap && (access.implicit || !state.ac) {
                return false;
            }
            kind == AccessKind::Read || !wp || page.writable
        }
    }
}

/// SDM vol. 3, 5.6.2.
pub(super) fn key_stops(state: &PagingState, page: &Translation, access: Access) -> bool {
    let on = state.cr4 & cr4::PKE != 0 && state.efer & efer::LMA != 0;
    if !on || !page.user || access.kind == AccessKind::Fetch {
        return false;
    }
    let ad = bit(u64::from(state.pkru), 2 * u32::from(page.pkey));
    let wd = bit(u64::from(state.pkru), 2 * u32::from(page.pkey) + 1);
    if ad {
        return true;
    }
    wd && access.kind == AccessKind::Write && (access.user || state.cr0 & cr0::WP != 0)
}

/// SDM vol. 3, 5.7: the error code of a fault on an access.
pub(super) fn error_code(
    state: &PagingState,
    access: Access,
    present: bool,
    rsvd: bool,
    key: bool,
) -> u32 {
    let fetch_told = access.kind == AccessKind::Fetch
        && (state.cr4 & cr4::SMEP != 0
            || (state.cr4 & cr4::PAE != 0 && state.efer & efer::NXE != 0));
    let flags = [
        present,
        access.kind == AccessKind::Write,
        access.user,
        rsvd,
        fetch_told,
        key,
    ];
    flags
        .iter()
        .enumerate()
        .map(|(n, &flag)| u32::from(flag) << n)
        .sum()
}

pub(super) fn judge(ram: &GuestRam, state: &PagingState, at: LinAddr, access: Access) -> Verdict {
    let size = if state.mode() == PagingMode::Bits32 {
        4
    } else {
        8
    };
    let fault = |present, rsvd, key| PageFault {
        lin: at,
        error: error_code(state, access, present, rsvd, key),
    };
    let mut table = match state.mode() {
        PagingMode::Off => {
            let page = PhysAddr(at.0 & 0xffff_f000);
            let result = Ok(Translation {
                page,
                size: PageSize::K4,
                user: true,
                writable: true,
                executable: true,
                global: false,
                dirty: true,
                pkey: 0,
            });
            return Verdict {
                result,
                changed: vec![],
            };
        }
        PagingMode::Pae => {
            let pdpte = state.pdptes[(at.0 as usize >> 30) % 4];
            if !bit(pdpte, 0) {
                return Verdict {
                    result: Err(fault(false, false, false)),
                    changed: vec![],
                };
            }
            pdpte
        }
        _ => state.cr3,
    };
    let physical = |entry: u64, low: u32| {
        let top = if state.mode() == PagingMode::Bits32 {
            32
        } else {
            u32::from(state.maxphyaddr)
        };
        (low..top)
            .filter(|&n| bit(entry, n))
            .map(|n| 1u64 << n)
            .sum::<u64>()
    };
    let mut used: Vec<(u64, u64)> = vec![];
    for level in levels(state) {
        let index = at.0 >> level.low_bit & ((1 << level.bits) - 1);
        let address = physical(table, 12) + index * u64::from(size);
        let entry = match size {
            4 => ram
                .read_u32(PhysAddr(address))
                .map_or(0xffff_ffff, u64::from),
            _ => ram.read_u64(PhysAddr(address)).unwrap_or(u64::MAX),
        };
        let accessed = |used: &[(u64, u64)]| -> Vec<(u64, u32, u64)> {
            used.iter()
                .filter(|(_, value)| !bit(*value, 5))
                .map(|&(at, value)| (at, size, value | 1 << 5))
                .collect()
        };
        if !bit(entry, 0) {
            return Verdict {
                result: Err(fault(false, false, false)),
                changed: accessed(&used),
            };
        }
        let page = if level.last {
            Some(PageSize::K4)
        } else if bit(entry, 7) {
            level.large
        } else {
            None
        };
        if reserved(state, &level, entry, page) {
            return Verdict {
                result: Err(fault(true, true, false)),
                changed: accessed(&used),
            };
        }
        let Some(page_size) = page else {
            used.push((address, entry));
            table = entry;
            continue;
        };
        let all = |n| used.iter().all(|&(_, value)| bit(value, n)) && bit(entry, n);
        let any = |n| used.iter().any(|&(_, value)| bit(value, n)) || bit(entry, n);
        let inside = (1u64 << level.low_bit) - 1;
        let mut base = physical(entry, level.low_bit);
        if page_size == PageSize::M4 && state.pse36 {
            let top = u32::from(state.maxphyaddr).min(40);
            base += (32..top)
                .filter(|n| bit(entry, n - 19))
                .map(|n| 1u64 << n)
                .sum::<u64>();
        }
        let mut found = Translation {
            page: PhysAddr(base | at.0 & inside & !0xfff),
            size: page_size,
            user: all(2),
            writable: all(1),
            executable: size == 4 || !any(63),
            global: bit(entry, 8) && state.cr4 & cr4::PGE != 0,
            dirty: bit(entry, 6),
            pkey: if size == 8 {
                (entry >> 59 & 15) as u8
            } else {
                0
            },
        };
        let mut changed = accessed(&used);
        let key = key_stops(state, &found, access);
        if !allowed(state, &found, access) || key {
            return Verdict {
                result: Err(fault(true, false, key)),
                changed,
            };
        }
        let dirty = access.kind == AccessKind::Write;
        let flagged = entry | 1 << 5 | u64::from(dirty) << 6;
        found.dirty |= dirty;
        if flagged != entry {
            changed.push((address, size, flagged));
        }
        return Verdict {
            result: Ok(found),
            changed,
        };
    }
    unreachable!("the last level maps a page");
}

/// A state with random control bits in some mode.
fn random_state(rng: &mut Rng, mode: u64) -> PagingState {
    let mut state = PagingState::new([32, 36, 39, 40, 46, 52][rng.below(6) as usize]);
    state.cr0 = cr0::PE | cr0::PG | (rng.next() & cr0::WP);
    state.cr4 = rng.next() & (cr4::PSE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::PKE);
    state.efer = rng.next() & efer::NXE;
    match mode {
        0 => {}
        1 => state.cr4 |= cr4::PAE,
        2 => {
            state.cr4 |= cr4::PAE;
            state.efer |= efer::LMA;
        }
        _ => {
            state.cr4 |= cr4::PAE | cr4::LA57;
            state.efer |= efer::LMA;
        }
    }
    state.pkru = rng.next() as u32;
    state.ac = rng.below(2) == 0;
    state.gib_pages = rng.below(2) == 0;
    state.pse36 = rng.below(2) == 0;
    state
}

/// An entry that is mostly sensible: present, with rights, its address in a few pages of RAM; sometimes wild.
fn random_entry(rng: &mut Rng, tables: u64, size: u64) -> u64 {
    let mut entry = rng.below(tables) << 12 | P;
    // Rights, A, D and G freely; PS rarely.
    entry |= rng.next() & 0x17e;
    for n in [1, 2] {
        if rng.below(4) != 0 {
            entry |= 1 << n;
        }
    }
    if rng.below(5) == 0 {
        // A large page: clear most of what would be reserved.
        entry |= 1 << 7;
        if rng.below(4) != 0 {
            entry &= !0x3fff_e000;
        } else {
            entry ^= 1 << (13 + rng.below(17));
        }
    }
    if size == 8 {
        entry |= rng.below(16) << 59;
        if rng.below(6) == 0 {
            entry |= 1 << 63;
        }
        if rng.below(12) == 0 {
            entry |= 1 << (32 + rng.below(31));
        }
    }
    match rng.below(16) {
        0 => entry & !1,
        1 => rng.next(),
        _ => entry,
    }
}

#[test]
fn random_tables_read_alike() {
    let mut rng = Rng(2024);
    let (mut faults, mut pages, mut large) = (0, 0, 0);
    const TABLES: u64 = 8;
    for round in 0..20_000 {
        let mode = round % 4;
        let ram = if round % 50 == 0 { None } else { Some(()) };
        let ram = GuestRam::new(if ram.is_none() { 4096 } else { TABLES * 4096 }).expect("RAM");
        let mut state = random_state(&mut rng, mode);
        let size = if mode == 0 { 4 } else { 8 };
        // Few distinct indices, so that walks meet filled entries.
        let slots: [u64; 4] = std::array::from_fn(|_| rng.below(512));
        for table in 0..ram.size() / 4096 {
            for &slot in &slots {
                let value = random_entry(&mut rng, TABLES, size);
                let at = PhysAddr(table * 4096 + slot * size);
                if size == 4 {
                    ram.write_u32(at, value as u32)
                } else {
                    ram.write_u64(at, value)
                }
                .expect("RAM");
            }
        }
        state.cr3 = rng.below(TABLES) << 12 | rng.next() & 0x18;
        for pdpte in &mut state.pdptes {
            *pdpte = rng.below(TABLES) << 12 | u64::from(rng.below(8) != 0);
        }
        for _ in 0..4 {
            let mut at = rng.below(4096);
            let width = if mode == 0 { 10 } else { 9 };
            for level in 0..5 {
                at |= slots[rng.below(4) as usize] << (12 + width * level);
            }
            if mode < 2 {
                at &= 0xffff_ffff;
            }
            let kind =
                [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][rng.below(3) as usize];
            let user = rng.below(2) == 0;
            let access = Access {
                kind,
                user,
                implicit: !user && kind != AccessKind::Fetch && rng.below(3) == 0,
            };
            let before = snapshot(&ram);
            let expected = judge(&ram, &state, LinAddr(at), access);
            // Tables that map or hold themselves change under the walk; the naive walker reads all first. Skip the
            // walks in which one entry is met twice.
            let probed = probe(&ram, &state, LinAddr(at), access);
            assert_eq!(snapshot(&ram), before, "a probe has no effects");
            let found = walk(&ram, &state, LinAddr(at), access);
            let mut places: Vec<u64> = expected.changed.iter().map(|change| change.0).collect();
            places.sort_unstable();
            places.dedup();
            if places.len() != expected.changed.len() {
                continue;
            }
            let context = || {
                format!(
                    "round {round}, {:?}, {state:x?}, {at:#x}, {access:?}",
                    state.mode()
                )
            };
            assert_eq!(found, expected.result, "{}", context());
            match (probed, expected.result) {
                (Ok(probed), Ok(found)) => {
                    assert_eq!(
                        Translation {
                            dirty: found.dirty,
                            ..probed
                        },
                        found,
                        "{}",
                        context()
                    );
                }
                (probed, found) => assert_eq!(probed, found, "{}", context()),
            }
            for &(place, size, value) in &expected.changed {
                let now = match size {
                    4 => u64::from(ram.read_u32(PhysAddr(place)).unwrap_or(u32::MAX)),
                    _ => ram.read_u64(PhysAddr(place)).unwrap_or(u64::MAX),
                };
                assert_eq!(now, value, "{}", context());
            }
            let differing = snapshot(&ram)
                .iter()
                .zip(&before)
                .filter(|(now, then)| now != then)
                .count();
            assert!(differing <= expected.changed.len(), "{}", context());
            match found {
                Ok(page) if page.size == PageSize::K4 => pages += 1,
                Ok(_) => large += 1,
                Err(_) => faults += 1,
            }
        }
    }
    // The generator must reach all three.
    assert!(
        faults > 10_000 && pages > 5_000 && large > 1_000,
        "{faults} faults, {pages} pages, {large} large"
    );
}

fn snapshot(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; ram.size() as usize];
    ram.read(PhysAddr(0), &mut bytes).expect("RAM");
    bytes
}

#[test]
fn paging_off_is_the_identity() {
    let ram = GuestRam::new(4096).expect("RAM");
    let state = PagingState::new(36);
    for at in [0, 0xfee0_0123, 0xffff_ffff] {
        let access = Access {
            kind: AccessKind::Write,
            user: true,
            implicit: false,
        };
        assert_eq!(
            walk(&ram, &state, LinAddr(at), access),
            judge(&ram, &state, LinAddr(at), access).result
        );
    }
}
