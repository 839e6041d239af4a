//! What the translating engines share: the memory that holds emitted code, the table of translated blocks, and what perf
//! is told of both.

mod blocks;
mod memory;
mod perf;
mod regions;

pub use blocks::{BlockId, Blocks, Info, Key};
pub use memory::CodeMemory;
pub use perf::{Perf, PerfFormat};
pub use regions::{ByRegion, MAX_REGIONS, index_of, region_of};
