//! Exceptions (SDM vol. 3, 6.15).

/// Exception and interrupt vectors that the CPU itself raises.
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint (INT3).
    pub const BP: u8 = 3;
    /// Overflow (INTO).
    pub const OF: u8 = 4;
    /// BOUND range exceeded.
    pub const BR: u8 = 5;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Device not available.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 floating-point error.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// SIMD floating-point exception.
    pub const XM: u8 = 19;
}

/// A fault or trap that an instruction raised, not yet delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// The error code that delivery pushes, if the vector has one.
    pub error: Option<u32>,
    /// For #PF: the linear address that goes to CR2.
    pub cr2: Option<u64>,
    /// For #DB: the bits that DR6 gains.
    pub dr6: u64,
}

impl Exception {
    /// An exception without error code.
    pub const fn new(vector: u8) -> Self {
        Self {
            vector,
            error: None,
            cr2: None,
            dr6: 0,
        }
    }

    /// An exception with error code.
    pub const fn with_error(vector: u8, error: u32) -> Self {
        Self {
            vector,
            error: Some(error),
            cr2: None,
            dr6: 0,
        }
    }

    /// #UD.
    pub const UD: Self = Self::new(vector::UD);
    /// #NM.
    pub const NM: Self = Self::new(vector::NM);
    /// #DE.
    pub const DE: Self = Self::new(vector::DE);
    /// #MF.
    pub const MF: Self = Self::new(vector::MF);
    /// #XM.
    pub const XM: Self = Self::new(vector::XM);
    /// #GP(0).
    pub const GP0: Self = Self::with_error(vector::GP, 0);
    /// #SS(0).
    pub const SS0: Self = Self::with_error(vector::SS, 0);
    /// #AC(0).
    pub const AC0: Self = Self::with_error(vector::AC, 0);

    /// #GP(error).
    pub const fn gp(error: u32) -> Self {
        Self::with_error(vector::GP, error)
    }

    /// #TS(error).
    pub const fn ts(error: u32) -> Self {
        Self::with_error(vector::TS, error)
    }

    /// #NP(error).
    pub const fn np(error: u32) -> Self {
        Self::with_error(vector::NP, error)
    }

    /// #SS(error).
    pub const fn ss(error: u32) -> Self {
        Self::with_error(vector::SS, error)
    }

    /// #PF(error) at a linear address.
    pub const fn page_fault(cr2: u64, error: u32) -> Self {
        Self {
            vector: vector::PF,
            error: Some(error),
            cr2: Some(cr2),
            dr6: 0,
        }
    }

    /// #DB with the DR6 bits that tell its cause.
    pub const fn debug(dr6: u64) -> Self {
        Self {
            vector: vector::DB,
            error: None,
            cr2: None,
            dr6,
        }
    }

    /// Whether the exception is a trap: reported after its instruction, without setting RF.
    pub const fn is_trap(&self) -> bool {
        matches!(self.vector, vector::BP | vector::OF)
            || (self.vector == vector::DB && self.dr6 & 0x4000 != 0)
    }
}
