//! Architectural facts of x86: registers, flags, descriptors, control registers, MSRs, exceptions.
#![forbid(unsafe_code)]

mod addr;
mod control;
mod exception;
pub mod flags;
pub mod msr;
mod segment;
mod state;

pub use addr::{AddressHasher, AddressMap, EffAddr, LinAddr, PAGE_MASK, PAGE_SIZE, PhysAddr};
pub use control::{cr0, cr4, efer, xcr0};
pub use exception::{Exception, vector};
pub use segment::{Seg, Segment, TableReg, attr};
pub use state::{Activity, CpuState, Fpu, Gpr, MXCSR_MASK, MXCSR_RESET, Msrs, Shadow};

/// CPUID leaf 1 EAX of the default model, which RESET also leaves in EDX: family 6, model FFh (no silicon has it,
/// so that no guest applies a silicon's errata), stepping 0.
pub const RESET_SIGNATURE: u64 = 0x000f_06f0;
