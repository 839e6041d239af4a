//! Where things lie in the address space that the host's process and the guest's vCPU have in common.
//!
//! ```text
//! arena, at each of ALIASES   not mapped | 2 pages read-write | 1 page read-only | not mapped
//! code, at each of CODE       2 pages, executable, filled with INT3 | not mapped
//! ```
//! Descriptor tables are those of a Linux process: its GDT, and an LDT that the child asks for (modify_ldt).

use x86::{Segment, attr};

/// Bytes of the arena: two writable pages and one that is read-only.
pub const ARENA: usize = 0x3000;
/// Bytes of the arena that can be written.
pub const WRITABLE: usize = 0x2000;
/// Linear addresses of the arena. 16-bit addresses reach the first, 32-bit ones the first three.
pub const ALIASES: [u64; 4] = [0x5000, 0x1234_5000, 0xe789_a000, 0x7e5a_1234_5000];
/// Bytes of the code region.
pub const CODE_LEN: u64 = 0x2000;
/// Linear addresses of the code region; the second is for 64-bit code only.
pub const CODE: [u64; 2] = [0x1240_0000, 0x7e5a_1300_0000];

/// What lies in the code region where no instruction does: INT3.
pub const FILLER: u8 = 0xcc;
/// Bytes behind an instruction that lead back to the harness.
pub const EXIT_LEN: u64 = 8;

/// The harness's own state and stack in the child. Nothing that registers are filled with comes near.
pub const STATE: u64 = 0x2d3b_5000;
/// The harness's code in the child.
pub const STUBS: u64 = 0x2d3b_9000;
/// All that the harness has for itself in the child, its writable views of arena and code, too.
pub const HARNESS: std::ops::Range<u64> = STATE..0x2d3d_c000;
/// Where instructions come back to: 64-bit code. Its address is the first quadword at [`STATE`], too.
pub const EXIT: u64 = STUBS;

/// What leads back from behind an instruction, without touching register, flag or memory: bytes and how many.
pub fn way_back(bits: u8) -> ([u8; EXIT_LEN as usize], usize) {
    let (state, exit, [low, high]) = (
        (STATE as u32).to_le_bytes(),
        (EXIT as u32).to_le_bytes(),
        sel::CODE64.to_le_bytes(),
    );
    match bits {
        // JMP [STATE], JMP FAR CODE64:EXIT.
        64 => (
            [0xff, 0x24, 0x25, state[0], state[1], state[2], state[3], 0],
            7,
        ),
        32 => ([0xea, exit[0], exit[1], exit[2], exit[3], low, high, 0], 7),
        _ => (
            [0x66, 0xea, exit[0], exit[1], exit[2], exit[3], low, high],
            8,
        ),
    }
}

/// Linux's selectors, with RPL 3.
pub mod sel {
    /// 32-bit code.
    pub const CODE32: u16 = 0x23;
    /// Data and stack.
    pub const DATA: u16 = 0x2b;
    /// 64-bit code.
    pub const CODE64: u16 = 0x33;
    /// The processor's number as a segment's limit: not the guest's to know.
    pub const CPU_NUMBER: u16 = 0x7b;
    /// 16-bit code: [`super::LDT`]'s.
    pub const CODE16: u16 = 7 << 3 | 7;
}

/// A descriptor of the LDT, in the terms of modify_ldt.
#[derive(Clone, Copy, Debug)]
pub struct LdtEntry {
    /// Base.
    pub base: u32,
    /// The raw limit, 20 bits.
    pub limit: u32,
    /// D/B.
    pub big: bool,
    /// 0 data, 1 expand-down data, 2 code, 3 conforming code.
    pub contents: u32,
    /// Read-only data, execute-only code.
    pub restricted: bool,
    /// G.
    pub pages: bool,
    /// P.
    pub present: bool,
}

const DATA: LdtEntry = LdtEntry {
    base: 0x1234_5000,
    limit: 0x1fff,
    big: true,
    contents: 0,
    restricted: false,
    pages: false,
    present: true,
};

/// The LDT.
pub const LDT: [LdtEntry; 10] = [
    // The arena's writable pages, exactly.
    DATA,
    // Part of them, from an odd base.
    LdtEntry {
        base: 0x1234_5123,
        limit: 0x7fe,
        ..DATA
    },
    // Expand-down: offsets 1000h to FFFFFFFFh.
    LdtEntry {
        base: 0x1234_5000,
        limit: 0xfff,
        contents: 1,
        ..DATA
    },
    // Expand-down, 16-bit: offsets 801h to FFFFh.
    LdtEntry {
        base: 0x1234_5000,
        limit: 0x800,
        contents: 1,
        big: false,
        ..DATA
    },
    // Read-only, limit in pages.
    LdtEntry {
        limit: 1,
        restricted: true,
        pages: true,
        ..DATA
    },
    // Not present.
    LdtEntry {
        present: false,
        ..DATA
    },
    // 32-bit code, readable, with a base.
    LdtEntry {
        base: CODE[0] as u32,
        limit: 0x1fff,
        contents: 2,
        ..DATA
    },
    // 16-bit code.
    LdtEntry {
        base: CODE[0] as u32,
        limit: 0xffff,
        contents: 2,
        big: false,
        ..DATA
    },
    // Conforming code, execute-only; Linux has no such entries that are present.
    LdtEntry {
        base: CODE[0] as u32,
        limit: 0x1fff,
        contents: 3,
        restricted: true,
        present: false,
        ..DATA
    },
    // 16-bit data and stack: B clear.
    LdtEntry {
        limit: 0x2fff,
        big: false,
        ..DATA
    },
];

impl LdtEntry {
    /// The descriptor that Linux makes of it.
    pub const fn descriptor(&self) -> u64 {
        let kind = (self.contents << 2) | (!self.restricted as u32) << 1 | attr::ACCESSED;
        let attributes = kind
            | attr::S
            | attr::DPL
            | (self.present as u32) << 7
            | if self.big { attr::DB } else { 0 }
            | if self.pages { attr::G } else { 0 };
        descriptor(self.base as u64, self.limit, attributes)
    }
}

/// A descriptor from its parts; `limit` is the raw field.
pub const fn descriptor(base: u64, limit: u32, attributes: u32) -> u64 {
    let limit = limit as u64;
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | ((attributes & 0xf0ff) as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

const CODE_ATTR: u32 = attr::S | attr::P | attr::CODE | attr::RW | attr::ACCESSED | attr::G;
const DATA_ATTR: u32 = attr::S | attr::P | attr::RW | attr::ACCESSED | attr::G | attr::DB;

/// The GDT of Linux on x86-64, as far as user mode can tell.
pub const GDT: [u64; 16] = [
    0,
    descriptor(0, 0xf_ffff, CODE_ATTR | attr::DB),
    descriptor(0, 0xf_ffff, CODE_ATTR | attr::L),
    descriptor(0, 0xf_ffff, DATA_ATTR),
    descriptor(0, 0xf_ffff, CODE_ATTR | attr::DB | attr::DPL),
    descriptor(0, 0xf_ffff, DATA_ATTR | attr::DPL),
    descriptor(0, 0xf_ffff, CODE_ATTR | attr::L | attr::DPL),
    0,
    // TSS and LDT, two entries each; the guest's own bases are put in when it is built.
    descriptor(0, 0x206f, attr::P | 0xb),
    0,
    descriptor(0, 0x4f, attr::P | 2),
    0,
    0,
    0,
    0,
    // The processor's number is in the limit.
    descriptor(0, 0, attr::S | attr::P | attr::DPL | attr::DB | 5),
];

/// The raw descriptor of a selector; `None` beyond the tables.
pub fn raw_descriptor(selector: u16) -> Option<u64> {
    let index = usize::from(selector >> 3);
    if selector & 4 == 0 {
        GDT.get(index).copied()
    } else {
        LDT.get(index).map(LdtEntry::descriptor)
    }
}

/// What a segment register holds after a selector was loaded; a null selector leaves an unusable segment.
pub fn segment(selector: u16) -> Segment {
    let raw = raw_descriptor(selector).unwrap_or(0);
    if selector & 0xfffc == 0 || raw >> 47 & 1 == 0 {
        return Segment {
            selector,
            base: 0,
            limit: 0,
            attr: attr::UNUSABLE,
        };
    }
    let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
    let attributes = (raw >> 40) as u32 & 0xf0ff;
    Segment {
        selector,
        base: raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000,
        limit: if attributes & attr::G == 0 {
            limit
        } else {
            limit << 12 | 0xfff
        },
        attr: attributes,
    }
}

/// The offset in the arena of a linear address, if it lies there.
pub fn arena_offset(lin: u64) -> Option<usize> {
    ALIASES
        .iter()
        .map(|base| lin.wrapping_sub(*base))
        .find(|at| *at < ARENA as u64)
        .map(|at| at as usize)
}

/// What the arena holds before a case's own bytes are laid down: the same in every process.
pub fn template() -> Vec<u8> {
    let mut random = crate::Random::new(0x7e3a);
    (0..ARENA).map(|_| random.next() as u8).collect()
}
