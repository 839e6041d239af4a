//! Real programs from Debian's packages, timed under Doppel and under qemu's translator, their results compared.
//!
//! ```text
//! packages (guests) + inputs + loads ─ initramfs ─ runner: an emulator boots it ─ protocol: marker lines ─ report
//! ```
#![forbid(unsafe_code)]

pub mod inputs;
pub mod loads;
pub mod protocol;
pub mod report;
pub mod runner;
