//! The vCPU: its context, exceptions and interrupts, segmentation, CPUID and MSRs, and the helpers that IR calls.

mod events;
mod platform;

pub use events::{Events, event};
pub use platform::{MsrFault, Platform};
