//! The interpreter: a block of IR is lowered once to an array of handlers with their operands, and that is run.

mod block;
mod code;
#[cfg(test)]
mod compare;
mod engine;
mod fragment;
mod handlers;
mod host;
mod lower;
mod x87;

pub use engine::{Interp, MAX_CACHE, Stats};
pub use fragment::{
    Fragment, Fragments, Left, enter, fetch_mxcsr, on_host, uses_mxcsr, writes_flags,
};
