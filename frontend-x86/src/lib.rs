//! Fetch, decode and lift: the one place that says what an x86 instruction means.
//!
//! Bytes go in, an [`ir::Block`] comes out. What the meaning depends on beside the bytes is in [`Mode`] and [`Features`];
//! nothing here looks at a CPU.
#![forbid(unsafe_code)]

mod constants;
mod decode;
mod features;
mod fuzz;
mod lift;
mod mode;

pub use constants::{Constant, constants};
pub use decode::{Decoded, decode, status_flags};
pub use features::Features;
pub use fuzz::fuzz;
pub use lift::{End, Lifted, Limits, lift, lift_into};
pub use mode::{CodeSize, CsLimit, Mode, ModeParts};

#[cfg(test)]
mod tests;
