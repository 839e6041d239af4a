//! What ops read and write: architectural registers by name and width, temporaries, constants, addresses.

use std::fmt;

use x86::Gpr;

/// The width of an integer op in bits; a narrower register operand is the register's low part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Width {
    /// 8 bits. Writing a register leaves its other bits as they are.
    B8,
    /// 16 bits. Writing a register leaves its other bits as they are.
    B16,
    /// 32 bits. Writing a register clears bits 63:32.
    B32,
    /// 64 bits.
    B64,
}

impl Width {
    /// The four widths, narrowest first.
    pub const ALL: [Self; 4] = [Self::B8, Self::B16, Self::B32, Self::B64];

    /// Size in bytes.
    pub const fn bytes(self) -> u8 {
        1 << self as u8
    }

    /// Size in bits.
    pub const fn bits(self) -> u32 {
        8 << self as u8
    }

    /// All bits of a value of this width.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The width of `bytes` bytes.
    pub const fn from_bytes(bytes: u8) -> Option<Self> {
        match bytes {
            1 => Some(Self::B8),
            2 => Some(Self::B16),
            4 => Some(Self::B32),
            8 => Some(Self::B64),
            _ => None,
        }
    }
}

/// An integer value that lives inside one instruction or block; written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Temp(pub u16);

/// A vector value (up to 64 bytes) that lives inside one instruction; written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VecTemp(pub u16);

/// What an op reads or writes. The op's width says how much of a register is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Nothing: the op has no such operand, or its result isn't wanted.
    None,
    /// The low part of a general register.
    Reg(Gpr),
    /// AH, CH, DH or BH: bits 15:8 of RAX, RCX, RDX or RBX. Width 8 only.
    High(Gpr),
    /// A temporary.
    Temp(Temp),
    /// A constant, sign-extended to 64 bits; the op takes the low bits it needs.
    Imm(i64),
    /// RIP of the block's first instruction plus this many bytes, cut to the op's width.
    Pc(i32),
    /// XMM, YMM or ZMM register by number; the op says how wide.
    Vec(u8),
    /// MMX register by number.
    Mmx(u8),
    /// Mask register k0-k7.
    Mask(u8),
    /// A vector temporary.
    VecTemp(VecTemp),
}

impl Operand {
    /// Whether there is an operand.
    pub fn is_some(self) -> bool {
        self != Self::None
    }

    /// The temporary, if it is one.
    pub fn temp(self) -> Option<Temp> {
        match self {
            Self::Temp(t) => Some(t),
            _ => None,
        }
    }
}

/// A set of the six arithmetic flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlagSet(u8);

impl FlagSet {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Carry.
    pub const C: Self = Self(1);
    /// Parity.
    pub const P: Self = Self(2);
    /// Auxiliary carry.
    pub const A: Self = Self(4);
    /// Zero.
    pub const Z: Self = Self(8);
    /// Sign.
    pub const S: Self = Self(16);
    /// Overflow.
    pub const O: Self = Self(32);
    /// All six.
    pub const ALL: Self = Self(63);
    /// All but carry: what INC and DEC write.
    pub const NOT_C: Self = Self(62);
    /// Carry and overflow: what rotates write.
    pub const CO: Self = Self(33);

    /// The flags in either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The flags in this set and not in the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no flag is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all flags of `other` are in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set as RFLAGS bits.
    pub const fn rflags(self) -> u64 {
        use x86::flags::{AF, CF, OF, PF, SF, ZF};
        let mut bits = 0;
        let pairs = [(1, CF), (2, PF), (4, AF), (8, ZF), (16, SF), (32, OF)];
        let mut i = 0;
        while i < pairs.len() {
            if self.0 & pairs[i].0 != 0 {
                bits |= pairs[i].1;
            }
            i += 1;
        }
        bits
    }

    /// The set of the status flags among RFLAGS bits.
    pub const fn from_rflags(bits: u64) -> Self {
        let mut set = 0;
        let mut i = 0;
        while i < 6 {
            if bits & Self(1 << i).rflags() != 0 {
                set |= 1 << i;
            }
            i += 1;
        }
        Self(set)
    }

    /// The letters of the text form, in the order o s z a p c.
    pub(crate) const LETTERS: [(char, Self); 6] = [
        ('o', Self::O),
        ('s', Self::S),
        ('z', Self::Z),
        ('a', Self::A),
        ('p', Self::P),
        ('c', Self::C),
    ];
}

impl fmt::Debug for FlagSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, flag) in Self::LETTERS {
            if self.contains(flag) {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// A condition, by the low four bits of Jcc's opcode (SDM vol. 1, appendix B).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Cond {
    O,
    No,
    B,
    Ae,
    E,
    Ne,
    Be,
    A,
    S,
    Ns,
    P,
    Np,
    L,
    Ge,
    Le,
    G,
}

impl Cond {
    /// All sixteen, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::O,
        Self::No,
        Self::B,
        Self::Ae,
        Self::E,
        Self::Ne,
        Self::Be,
        Self::A,
        Self::S,
        Self::Ns,
        Self::P,
        Self::Np,
        Self::L,
        Self::Ge,
        Self::Le,
        Self::G,
    ];

    /// The opposite condition.
    pub const fn negate(self) -> Self {
        Self::ALL[self as usize ^ 1]
    }

    /// The flags that it looks at.
    pub const fn flags(self) -> FlagSet {
        match self as u8 >> 1 {
            0 => FlagSet::O,
            1 => FlagSet::C,
            2 => FlagSet::Z,
            3 => FlagSet::C.union(FlagSet::Z),
            4 => FlagSet::S,
            5 => FlagSet::P,
            6 => FlagSet::S.union(FlagSet::O),
            _ => FlagSet::S.union(FlagSet::O).union(FlagSet::Z),
        }
    }
}

/// What an op's memory address still needs added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegBase {
    /// Nothing: the segment's base is zero, or a `seglin` op has added it.
    None,
    /// FS.base (64-bit mode).
    Fs,
    /// GS.base (64-bit mode).
    Gs,
}

/// On whose behalf memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The program's own access, at the current privilege level.
    Data,
    /// As a user access whatever the privilege level.
    User,
    /// An implicit supervisor access (descriptor tables, TSS).
    System,
}

/// A memory operand: `seg + ((base + index << scale + disp) mod 2^addr)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mem {
    /// The segment base to add.
    pub seg: SegBase,
    /// `Reg`, `Temp`, `Pc` or `None`.
    pub base: Operand,
    /// `Reg`, `Temp` or `None`.
    pub index: Operand,
    /// log2 of the index's factor, 0..=3.
    pub scale: u8,
    /// Displacement.
    pub disp: i32,
    /// Address size: the sum is cut to it (B16, B32, B64).
    pub addr: Width,
    /// Through SS: a non-canonical address raises #SS instead of #GP.
    pub stack: bool,
    /// Required alignment in bytes (1: none). Broken, it raises #GP(0); AC checks are the engine's by block mode.
    pub align: u8,
    /// A locked read-modify-write: atomic towards other vCPUs.
    pub lock: bool,
    /// On whose behalf.
    pub access: Access,
}

impl Mem {
    /// `[base + disp]` with 64-bit addressing and nothing else.
    pub const fn at(base: Operand, disp: i32) -> Self {
        Self {
            seg: SegBase::None,
            base,
            index: Operand::None,
            scale: 0,
            disp,
            addr: Width::B64,
            stack: false,
            align: 1,
            lock: false,
            access: Access::Data,
        }
    }
}
