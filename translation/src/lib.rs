//! What the translating engines share: the memory that holds emitted code, and the table of translated blocks.

mod blocks;
mod memory;

pub use blocks::{BlockId, Blocks, Info, Key};
pub use memory::CodeMemory;
