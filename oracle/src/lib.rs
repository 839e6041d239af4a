//! The host CPU as oracle: every user-mode instruction is run natively and by the interpreter, and compared.
//!
//! ```text
//! generate ─► case ─► native: a forked child, the host CPU ─► outcome ┐
//!              └────► doppel: a vCPU below a Linux-like kernel ─► outcome ┴► compare (undefined.rs masks) ─► sweep
//! ```
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod case;
mod codes;
mod compare;
mod doppel;
mod generate;
pub mod isa;
mod known;
pub mod kvm;
mod layout;
mod native;
mod random;
mod sweep;
mod undefined;

pub use case::{Case, Fx};
pub use codes::{Vendor, excluded};
pub use doppel::{Doppel, Kind, Way};
pub use known::{KNOWN, Known};
pub use native::{Abilities, Native};
pub use random::{Lanes, Random};
pub use sweep::{Count, Counts, Failure, Oracle};
