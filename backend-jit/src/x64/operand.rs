//! What instructions of the host work on: registers, and memory by address.

use super::asm::Reg;

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    pub base: Reg,
    /// Index register and log2 of its factor.
    pub index: Option<(Reg, u8)>,
    pub disp: i32,
    /// In the guest's address space, where that is in a window: 32 bits of address in GS.
    pub gs: bool,
}

impl Mem {
    pub const fn at(base: Reg, disp: i32) -> Self {
        Self {
            base,
            index: None,
            disp,
            gs: false,
        }
    }

    /// Two registers and a displacement.
    pub const fn sum(base: Reg, index: Reg, disp: i32) -> Self {
        Self {
            base,
            index: Some((index, 0)),
            disp,
            gs: false,
        }
    }

    /// The same through a window.
    pub const fn windowed(self) -> Self {
        Self { gs: true, ..self }
    }
}

/// A register or memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    R(Reg),
    M(Mem),
}

impl Rm {
    pub(super) fn in_gs(&self) -> bool {
        matches!(self, Self::M(m) if m.gs)
    }
}
