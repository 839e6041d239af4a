//! machine.
pub mod loader;
