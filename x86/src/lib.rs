//! Architectural facts of x86: registers, flags, descriptors, control registers, MSRs, exceptions.
#![forbid(unsafe_code)]

mod addr;

pub use addr::{EffAddr, LinAddr, PAGE_MASK, PAGE_SIZE, PhysAddr};
