//! Vector and x87 arithmetic in plain Rust: what an engine runs where the host lacks the instruction.
#![forbid(unsafe_code)]

pub mod float;
pub mod vector;
pub mod x87;
