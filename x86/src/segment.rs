//! Segment registers and their cached descriptors (SDM vol. 3, 3.4).

/// A segment register's number, as instructions encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Seg {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

impl Seg {
    /// All six, in encoding order.
    pub const ALL: [Self; 6] = [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs];

    /// The register with encoding `n` (0..=5).
    pub const fn from_index(n: usize) -> Option<Self> {
        if n < 6 { Some(Self::ALL[n]) } else { None }
    }
}

/// Bits of [`Segment::attr`]: bytes 5 and 6 of a descriptor as one word, without the limit's bits.
pub mod attr {
    /// Type field.
    pub const TYPE: u32 = 0xf;
    /// Accessed (code and data).
    pub const ACCESSED: u32 = 1 << 0;
    /// Readable code, writable data.
    pub const RW: u32 = 1 << 1;
    /// Conforming code, expand-down data.
    pub const DC: u32 = 1 << 2;
    /// Code.
    pub const CODE: u32 = 1 << 3;
    /// Code or data (not a system descriptor).
    pub const S: u32 = 1 << 4;
    /// Descriptor privilege level, two bits.
    pub const DPL: u32 = 3 << 5;
    /// The position of [`DPL`].
    pub const DPL_SHIFT: u32 = 5;
    /// Present.
    pub const P: u32 = 1 << 7;
    /// Available to software.
    pub const AVL: u32 = 1 << 12;
    /// 64-bit code.
    pub const L: u32 = 1 << 13;
    /// Default size 32 (code), big (stack).
    pub const DB: u32 = 1 << 14;
    /// Limit in pages.
    pub const G: u32 = 1 << 15;
    /// The register holds a null selector: accesses raise #GP or #SS.
    pub const UNUSABLE: u32 = 1 << 16;
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Linear address of offset 0.
    pub base: u64,
    /// Highest valid offset in bytes (lowest invalid one below, when expand-down); G already applied.
    pub limit: u32,
    /// [`attr`] bits.
    pub attr: u32,
    /// The visible part.
    pub selector: u16,
}

impl Segment {
    /// What real mode loads: base = selector * 16, 64 KiB, read-write data at privilege 0.
    pub const fn real(selector: u16) -> Self {
        Self {
            base: (selector as u64) << 4,
            limit: 0xffff,
            attr: attr::P | attr::S | attr::RW | attr::ACCESSED,
            selector,
        }
    }

    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.attr & attr::DPL) >> attr::DPL_SHIFT) as u8
    }

    /// Whether every bit of `mask` is set in the attributes.
    pub const fn has(&self, mask: u32) -> bool {
        self.attr & mask == mask
    }

    /// The type field.
    pub const fn kind(&self) -> u32 {
        self.attr & attr::TYPE
    }

    /// As [`Segment::is_flat`], and writable data.
    pub const fn is_flat_data(&self) -> bool {
        self.is_flat() && self.is_writable_data()
    }

    /// Not code, and writable.
    pub const fn is_writable_data(&self) -> bool {
        self.attr & attr::CODE == 0 && self.attr & attr::RW != 0
    }

    /// Base 0, limit 4 GiB - 1, usable, not expand-down: 32-bit accesses need no check but type.
    pub const fn is_flat(&self) -> bool {
        self.base == 0 && self.is_whole()
    }

    /// Limit 4 GiB - 1, usable, not expand-down, whatever the base.
    pub const fn is_whole(&self) -> bool {
        self.limit == u32::MAX
            && self.attr & attr::UNUSABLE == 0
            && (self.attr & attr::CODE != 0 || self.attr & attr::DC == 0)
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TableReg {
    /// Linear address of the table.
    pub base: u64,
    /// Size in bytes minus one.
    pub limit: u16,
}
