//! The translator: blocks of IR become host code.
//!
//! ```text
//! engine.rs     run loop: where the next block comes from, what to do when code is left
//! core.rs       the cache: finding, making, linking and dropping blocks
//! callouts.rs   Rust functions that translated code calls
//! x87.rs        the guest's x87 registers between the context and the host's
//! x64/          the host: encoder, frame, stubs, emission
//! ```

mod callouts;
mod core;
mod dump;
mod engine;
mod x64;
mod x87;

pub use dump::Dump;
pub use engine::{Jit, Options, available};
