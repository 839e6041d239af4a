//! The x86-64 host: encoder, frame, run-time stubs, and the translation of IR.

pub mod asm;
pub mod emit;
pub mod faults;
pub mod flags;
pub mod frame;
pub mod known;
mod large;
mod operand;
mod patch;
pub mod runtime;
mod split;
pub mod time;
