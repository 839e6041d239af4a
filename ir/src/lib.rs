//! The intermediate representation: what one block of x86 code means, in ops that keep what x86 said.
#![forbid(unsafe_code)]

#[cfg(test)]
mod arb;
mod block;
pub mod effect;
mod evex;
mod helper;
pub mod join;
mod operand;
mod ops;
pub mod opt;
pub mod text;
pub mod verify;

pub use block::{Block, Builder, GUARD, Op, PART};
pub use effect::may_store;
pub use evex::{Chosen, Masked, Rounding, VecInsn};
pub use helper::{Elements, Exit, HelperId, Hint, Jump, Rep, StringKind, StringOp};
pub use operand::{Access, Cond, FlagSet, Mem, Operand, SegBase, Temp, VecTemp, Width};
pub use ops::{MemUse, OpCode, OpInfo, Sub};
