//! Vector and x87 arithmetic in plain Rust: what an engine runs where the host lacks the instruction.
//!
//! - [`mod@float`]: IEEE 754 in integers, with x86's exceptions.
//! - [`vector`]: MMX to SSE4.2, AES, PCLMULQDQ, SHA on operands as bytes.
//! - [`x87`]: the x87's state and instructions.
//!
//! Nothing here knows a CPU state, memory or an engine, and no result comes from host floating point.
//!
//! # Where CPUs differ
//! The tests compare all of it with the host CPU, on which an AMD Zen 5 and this crate agree but for:
//! - FCOMI, FCOMIP, FUCOMI, FUCOMIP clear C1 (SDM 2; AMD's leave it);
//! - RCPPS, RCPSS, RSQRTPS, RSQRTSS deliver 14 bits of the exact value: within the documented error, as every CPU's
//!   table is, and different from each;
//! - the transcendental x87 instructions are within one unit in the last place, and C1 follows our rounding.
//!
//! Three things follow the CPUs that were tried and not the SDM's wording: FCOM and FCOMI deliver the order even under an
//! unmasked invalid operation (and then don't pop); FLD of a denormal single or double loads it though DE is unmasked;
//! FYL2X and F2XM1 raise PE for exact results too.
#![forbid(unsafe_code)]

pub mod float;
pub mod vector;
pub mod x87;
