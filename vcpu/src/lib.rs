//! Choosing engines, vCPU threads, and Doppel as a CPU without a board.
#![forbid(unsafe_code)]

mod engines;
pub mod exec;
pub mod fuzz;
pub mod lockstep;
mod room;
mod thread;

pub use engines::{Cache, Dump, EngineKind, EngineOptions, Perf, PerfFormat, Tracing, Windows};
pub use room::fit;
pub use thread::{Cpu, Stopped, Times, run, turn};
