//! The handlers: one function per operation, width and operand form.

pub mod alu;
pub mod bits;
pub mod branch;
pub mod masked;
pub mod memory;
pub mod shift;
pub mod system;
pub mod vector;
