//! The intermediate representation: what one block of x86 code means, in ops that keep what x86 said.
#![forbid(unsafe_code)]

mod block;
mod helper;
mod operand;
mod ops;

pub use block::{Block, Builder, Op};
pub use helper::{Exit, HelperId, Jump, Rep, StringKind, StringOp};
pub use operand::{Access, Cond, FlagSet, Mem, Operand, SegBase, Temp, VecTemp, Width};
pub use ops::{MemUse, OpCode, OpInfo, Sub};
