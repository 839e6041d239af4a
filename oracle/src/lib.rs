//! The host CPU as oracle: every user-mode instruction is run natively and by the interpreter, and compared.

mod case;
pub mod layout;
mod random;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native;

pub use random::{Lanes, Random};
