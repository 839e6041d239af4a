//! The table of where things lie in the guest's 2 MiB, and the selectors of its GDT.

/// Bytes of RAM.
pub const RAM: u64 = 0x20_0000;
pub const GDT: u64 = 0x1000;
/// 8-byte gates.
pub const IDT: u64 = 0x2000;
pub const LDT: u64 = 0x3000;
/// A 32-bit TSS, the first one in TR.
pub const TSS: u64 = 0x4000;
/// A 32-bit TSS to switch to.
pub const TSS_B: u64 = 0x5000;
/// A 16-bit TSS to switch to.
pub const TSS_C: u64 = 0x6000;
/// (E)SP at the start.
pub const STACK: u64 = 0x8000;
/// Stacks of inner levels and of IST entries begin here, 1000h each.
pub const STACKS: u64 = 0xa000;
/// 16-bit handlers.
pub const HANDLERS16: u64 = 0x9000;
/// A 64-bit TSS.
pub const TSS64: u64 = 0x1_8000;
/// 16-byte gates.
pub const IDT64: u64 = 0x1_9000;
/// Code: 64 KiB that a 16-bit segment covers.
pub const CODE: u64 = 0x2_0000;
/// 32-bit and 64-bit handlers.
pub const HANDLERS32: u64 = 0x3_0000;
pub const HANDLERS64: u64 = 0x3_1000;
/// Data.
pub const DATA: u64 = 0x4_0000;
/// Device memory: the VGA window.
pub const MMIO: u64 = 0xa_0000;
/// Paging structures.
pub const TABLES: u64 = 0x10_0000;
/// What a handler may take.
pub const HANDLER_SIZE: u64 = 16;

/// The roots of paging structures, by kind.
pub mod root {
    use super::TABLES;

    pub const LEVEL5: u64 = TABLES;
    pub const LEVEL4: u64 = TABLES + 0x1000;
    pub const BITS32: u64 = TABLES + 0x8000;
    pub const PAE: u64 = TABLES + 0xa000;
    /// What only `TABLES`'s own pages hold.
    pub const POINTERS: u64 = TABLES + 0x2000;
    pub const DIRECTORY: u64 = TABLES + 0x3000;
    pub const PAGES: u64 = TABLES + 0x4000;
    pub const ALIASES: u64 = TABLES + 0x5000;
    pub const PAGES32: u64 = TABLES + 0x9000;
    /// One past the last of them.
    pub const END: u64 = TABLES + 0xb000;
}

/// Selectors, RPL included.
pub mod sel {
    pub const C0: u16 = 0x08;
    pub const D0: u16 = 0x10;
    pub const C1: u16 = 0x19;
    pub const D1: u16 = 0x21;
    pub const D2: u16 = 0x32;
    pub const C3: u16 = 0x3b;
    pub const D3: u16 = 0x43;
    /// 16-bit, base [`super::CODE`].
    pub const C0_16: u16 = 0x48;
    pub const C3_16: u16 = 0x53;
    pub const D0_16: u16 = 0x58;
    pub const D3_16: u16 = 0x63;
    pub const L0: u16 = 0x68;
    pub const L3: u16 = 0x73;
    /// 64-bit or 16-byte descriptors take two entries.
    pub const LDT: u16 = 0x78;
    pub const TSS: u16 = 0x88;
    pub const TSS_B: u16 = 0x98;
    pub const TSS_C: u16 = 0xa8;
    pub const TSS64: u16 = 0xb8;
    /// SYSCALL and SYSENTER begin here: CS0, SS0, CS3 (32), SS3, CS3 (64).
    pub const SYS: u16 = 0xc8;
    /// 16-bit code for handlers, base 0.
    pub const H16: u16 = 0xf0;
    /// Oddities: conforming, execute-only, read-only, expand-down, small, not present, with a base.
    pub const ODD: u16 = 0x100;
    pub const ODDS: u16 = 16;
    /// Gates, two entries each.
    pub const GATES: u16 = 0x180;
    pub const GATE_COUNT: u16 = 8;
    /// Whatever the input says.
    pub const WILD: u16 = 0x200;
    pub const WILD_COUNT: u16 = 8;
    /// The GDT's limit.
    pub const LIMIT: u16 = 0x23f;
}
