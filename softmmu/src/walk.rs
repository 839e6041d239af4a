//! The page walker: linear to physical through the guest's paging structures, with exact faults and A/D flags.
//!
//! One walk goes down the levels as SDM vol. 3, 5.3 to 5.5 describe them. An entry that leads to another
//! structure gets its accessed flag when it is used, also if a lower level then faults (as CPUs do; 5.8 lets
//! them); the entry that maps the page gets accessed, and dirty on a write, only if the access is permitted.
//! Flags are set by compare-exchange with the value that was read; if the entry has changed since, the walk
//! starts over, so that flags never land in an entry that means something else.

use x86::{LinAddr, PhysAddr, cr4, efer};

use crate::paging::{
    Access, AccessKind, BadPdpte, PageFault, PageSize, PagingMode, PagingState, Translation, pf,
};
use crate::ram::GuestRam;

/// Present.
const P: u64 = 1 << 0;
/// Writable.
const RW: u64 = 1 << 1;
/// User.
const US: u64 = 1 << 2;
/// Accessed.
const A: u64 = 1 << 5;
/// Dirty.
const D: u64 = 1 << 6;
/// Maps a page above the lowest level.
const PS: u64 = 1 << 7;
/// Global.
const G: u64 = 1 << 8;
/// Execute disable.
const XD: u64 = 1 << 63;

/// Why a walk ended early.
enum Stop {
    /// A fault with these of the bits P and RSVD.
    Fault(u32),
    /// An entry changed under the walk.
    Changed,
}

/// What the walk may do to the entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Sets A and D.
    Flags,
    /// Nothing.
    None,
}

/// An entry that maps a page, found but not yet flagged.
struct Leaf {
    translation: Translation,
    /// Where it stands, how long it is, what it was.
    place: PhysAddr,
    size: u32,
    value: u64,
}

/// Translates `lin` for `access`, sets accessed and dirty flags. The page fault holds CR2 and the error code.
pub fn walk(
    ram: &GuestRam,
    state: &PagingState,
    lin: LinAddr,
    access: Access,
) -> Result<Translation, PageFault> {
    translate(ram, state, lin, access, Effect::Flags)
}

/// As [`walk`], but changes nothing in memory: whether the access would be permitted.
pub fn probe(
    ram: &GuestRam,
    state: &PagingState,
    lin: LinAddr,
    access: Access,
) -> Result<Translation, PageFault> {
    translate(ram, state, lin, access, Effect::None)
}

/// The translation of `lin` whoever may use it (debuggers); None if there is none.
pub fn peek(ram: &GuestRam, state: &PagingState, lin: LinAddr) -> Option<Translation> {
    if state.mode() == PagingMode::Off {
        return Some(untranslated(ram, lin));
    }
    find(ram, state, lin, Effect::None)
        .ok()
        .map(|leaf| leaf.translation)
}

/// Reads the four PDPTEs that CR3 points to (SDM vol. 3, 5.4.1).
pub fn read_pdptes(ram: &GuestRam, cr3: u64, maxphyaddr: u8) -> Result<[u64; 4], BadPdpte> {
    let mut pdptes = [0; 4];
    let valid = PagingState::new(maxphyaddr).physical_mask() & !0xfff;
    // P, PWT, PCD, the ignored bits 9 to 11 and the address.
    let defined = valid | P | 1 << 3 | 1 << 4 | 7 << 9;
    for (i, pdpte) in pdptes.iter_mut().enumerate() {
        let place = PhysAddr((cr3 & 0xffff_ffe0) + 8 * i as u64);
        *pdpte = ram.entry(ram.mask_a20(place), 8).unwrap_or(u64::MAX);
        if *pdpte & P != 0 && *pdpte & !defined != 0 {
            return Err(BadPdpte);
        }
    }
    Ok(pdptes)
}

/// The identity, with every right: paging is off.
fn untranslated(ram: &GuestRam, lin: LinAddr) -> Translation {
    Translation {
        page: ram.mask_a20(PhysAddr(lin.page().0 & 0xffff_ffff)),
        size: PageSize::K4,
        user: true,
        writable: true,
        executable: true,
        global: false,
        dirty: true,
        pkey: 0,
    }
}

fn translate(
    ram: &GuestRam,
    state: &PagingState,
    lin: LinAddr,
    access: Access,
    effect: Effect,
) -> Result<Translation, PageFault> {
    if state.mode() == PagingMode::Off {
        return Ok(untranslated(ram, lin));
    }
    let fault = |present| PageFault {
        lin,
        error: present | access_bits(state, access),
    };
    loop {
        let leaf = match find(ram, state, lin, effect) {
            Ok(leaf) => leaf,
            Err(Stop::Fault(present)) => return Err(fault(present)),
            Err(Stop::Changed) => continue,
        };
        let mut translation = leaf.translation;
        if !translation.permits(state, access) {
            let key = if translation.key_forbids(state, access) {
                pf::PK
            } else {
                0
            };
            return Err(fault(pf::P | key));
        }
        if effect == Effect::Flags {
            let flags = if access.kind == AccessKind::Write {
                A | D
            } else {
                A
            };
            if leaf.value & flags != flags
                && !ram.replace_entry(leaf.place, leaf.size, leaf.value, leaf.value | flags)
            {
                continue;
            }
            translation.dirty |= flags & D != 0;
        }
        return Ok(translation);
    }
}

/// The error-code bits that the access alone decides.
fn access_bits(state: &PagingState, access: Access) -> u32 {
    let mut error = 0;
    if access.kind == AccessKind::Write {
        error |= pf::W;
    }
    if access.user {
        error |= pf::U;
    }
    let told =
        state.cr4 & cr4::SMEP != 0 || (state.cr4 & cr4::PAE != 0 && state.efer & efer::NXE != 0);
    if access.kind == AccessKind::Fetch && told {
        error |= pf::ID;
    }
    error
}

/// Goes down to the entry that maps the page.
fn find(ram: &GuestRam, state: &PagingState, lin: LinAddr, effect: Effect) -> Result<Leaf, Stop> {
    match state.mode() {
        PagingMode::Bits32 => find_short(ram, state, lin, effect),
        PagingMode::Pae => {
            let pdpte = state.pdptes[(lin.0 >> 30 & 3) as usize];
            if pdpte & P == 0 {
                return Err(Stop::Fault(0));
            }
            // A PDPTE of PAE paging has no rights and no accessed flag.
            let reserved = !XD & !state.physical_mask();
            let reserved = reserved | if state.efer & efer::NXE == 0 { XD } else { 0 };
            find_long(
                ram,
                state,
                lin,
                pdpte & state.physical_mask() & !0xfff,
                2,
                reserved,
                effect,
            )
        }
        mode => {
            let top = if mode == PagingMode::Level5 { 5 } else { 4 };
            let reserved = 0x000f_ffff_ffff_ffff & !state.physical_mask();
            let reserved = reserved | if state.efer & efer::NXE == 0 { XD } else { 0 };
            find_long(ram, state, lin, state.cr3_base().0, top, reserved, effect)
        }
    }
}

/// Reads an entry and checks presence; what isn't RAM reads as all ones.
#[inline]
fn entry(ram: &GuestRam, place: PhysAddr, size: u32) -> Result<u64, Stop> {
    let ones = u64::MAX >> (64 - 8 * size);
    let value = ram.entry(place, size).unwrap_or(ones);
    if value & P == 0 {
        Err(Stop::Fault(0))
    } else {
        Ok(value)
    }
}

/// Marks an entry that leads to another structure as accessed.
#[inline]
fn use_entry(
    ram: &GuestRam,
    place: PhysAddr,
    size: u32,
    value: u64,
    effect: Effect,
) -> Result<(), Stop> {
    if effect == Effect::Flags
        && value & A == 0
        && !ram.replace_entry(place, size, value, value | A)
    {
        return Err(Stop::Changed);
    }
    Ok(())
}

/// 8-byte entries: from a structure of level `top` (1 = page table) at `table` down. `reserved`: bits that must be
/// zero in every entry.
fn find_long(
    ram: &GuestRam,
    state: &PagingState,
    lin: LinAddr,
    mut table: u64,
    top: u32,
    reserved: u64,
    effect: Effect,
) -> Result<Leaf, Stop> {
    let mut rights = RW | US;
    let mut no_execute = 0;
    let mut level = top;
    loop {
        let shift = 12 + 9 * (level - 1);
        let place = ram.mask_a20(PhysAddr(table + (lin.0 >> shift & 0x1ff) * 8));
        let value = entry(ram, place, 8)?;
        let size = match level {
            1 => Some(PageSize::K4),
            2 if value & PS != 0 => Some(PageSize::M2),
            3 if value & PS != 0 && state.gib_pages => Some(PageSize::G1),
            _ => None,
        };
        let forbidden = match size {
            // Between the PAT bit (12) and the address of a large page.
            Some(PageSize::M2 | PageSize::G1) => reserved | ((1 << shift) - 1) & !0x1fff,
            None if level > 2 => reserved | PS,
            _ => reserved,
        };
        if value & forbidden != 0 {
            return Err(Stop::Fault(pf::P | pf::RSVD));
        }
        rights &= value;
        no_execute |= value & XD;
        let address = value & state.physical_mask() & !0xfff;
        let Some(size) = size else {
            use_entry(ram, place, 8, value, effect)?;
            table = address;
            level -= 1;
            continue;
        };
        let inside = (1u64 << shift) - 1;
        let translation = Translation {
            page: ram.mask_a20(PhysAddr(address & !inside | lin.0 & inside & !0xfff)),
            size,
            user: rights & US != 0,
            writable: rights & RW != 0,
            executable: no_execute == 0,
            global: value & G != 0 && state.cr4 & cr4::PGE != 0,
            dirty: value & D != 0,
            pkey: (value >> 59 & 15) as u8,
        };
        return Ok(Leaf {
            translation,
            place,
            size: 8,
            value,
        });
    }
}

/// 4-byte entries: 32-bit paging (SDM vol. 3, 5.3).
fn find_short(
    ram: &GuestRam,
    state: &PagingState,
    lin: LinAddr,
    effect: Effect,
) -> Result<Leaf, Stop> {
    let place = ram.mask_a20(PhysAddr(state.cr3_base().0 + (lin.0 >> 22 & 0x3ff) * 4));
    let directory = entry(ram, place, 4)?;
    let leaf = |rights: u64, value: u64, page: u64, size, place| {
        let translation = Translation {
            page: ram.mask_a20(PhysAddr(page)),
            size,
            user: rights & US != 0,
            writable: rights & RW != 0,
            executable: true,
            global: value & G != 0 && state.cr4 & cr4::PGE != 0,
            dirty: value & D != 0,
            pkey: 0,
        };
        Leaf {
            translation,
            place,
            size: 4,
            value,
        }
    };
    if directory & PS != 0 && state.cr4 & cr4::PSE != 0 {
        // Bits 13 to 20 are physical address bits 32 to 39, as far as these exist; the rest up to 21 is reserved.
        let high = if state.pse36 {
            state.physical_mask() >> 32 & 0xff
        } else {
            0
        };
        if directory & 0x003f_e000 & !(high << 13) != 0 {
            return Err(Stop::Fault(pf::P | pf::RSVD));
        }
        let page = (directory >> 13 & high) << 32 | directory & 0xffc0_0000 | lin.0 & 0x003f_f000;
        return Ok(leaf(directory, directory, page, PageSize::M4, place));
    }
    use_entry(ram, place, 4, directory, effect)?;
    let place = ram.mask_a20(PhysAddr(
        (directory & 0xffff_f000) + (lin.0 >> 12 & 0x3ff) * 4,
    ));
    let table = entry(ram, place, 4)?;
    Ok(leaf(
        directory & table,
        table,
        table & 0xffff_f000,
        PageSize::K4,
        place,
    ))
}
