//! The vCPU: its context, exceptions and interrupts, segmentation, CPUID and MSRs, and the helpers that IR calls.

mod boundary;
mod context;
pub mod control;
pub mod cpuid;
mod current;
pub mod debug;
pub mod delivery;
mod dump;
mod engine;
mod events;
pub mod far;
pub mod fpu;
mod helpers;
pub mod images;
mod lazy;
pub mod misc;
pub mod msr;
mod platform;
pub mod ports;
pub mod segments;
pub mod strings;
#[doc(hidden)]
pub mod testing;
pub mod ticks;

pub use boundary::{Boundary, Step};
pub use context::{SoftInts, TEMPS, VEC_TEMPS, Vcpu, check_segment, fault, offset};
pub use cpuid::{CpuModel, ModelError};
pub use current::{Current, dump_current};
pub use delivery::Shutdown;
pub use engine::{Engine, Exit, run};
pub use events::{Events, event};
pub use fpu::{clear_uppers, vec_portable, x87};
pub use helpers::{Helper, helper};
pub use lazy::{
    FlagOp, LazyFlags, add_flags, flag_kind, holds, result_flags, sar_flags, shl_flags, shr_flags,
    sub_flags,
};
pub use platform::{MsrFault, Platform};
pub use strings::{StringOutcome, string};
