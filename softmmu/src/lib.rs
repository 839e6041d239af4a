//! Guest memory: RAM, page walks, TLBs, code-page tracking, and the seam to what is not RAM.
//!
//! ```text
//!  engine ── Mmu::load32, store32, .. ── hit ──────────────────────► host address in GuestRam
//!                     │ miss, crossing, device, code page, breakpoint
//!                     ▼
//!            access.rs: spots of all pages first, then bytes ──► Bus (device memory, split to 1, 2, 4, 8 bytes)
//!                     │ miss                        └─► track.rs (stores to code pages, dirty log)
//!                     ▼
//!            walk.rs: paging structures in GuestRam, A/D flags ──► #PF, or an entry in the vCPU's TLB
//! ```
//! Invariants: nothing is written before every page of the access is known to be writable. A TLB entry without
//! flags means a page of RAM that the access may use as the SDM allows at the time of its last required flush. A
//! store to bytes marked as code changes the page's generation before it can be missed (`track.rs` says how).
//! Only `raw.rs`, `map.rs`, `window.rs` and `fast.rs` contain unsafe code.

mod access;
mod atomic;
mod bus;
mod contexts;
mod fast;
pub mod fuzz;
mod map;
mod mmu;
mod paging;
mod place;
mod ram;
mod raw;
mod span;
mod string;
mod tlb;
mod track;
mod walk;
mod window;

#[cfg(test)]
mod tests;

pub use access::FetchPage;
pub use bus::Bus;
pub use contexts::{MmuIndex, is_kernels};
pub use map::room;
pub use mmu::{Mmu, Privilege, Watch};
pub use paging::{
    Access, AccessKind, BadPdpte, Fault, PageFault, PageSize, PagingMode, PagingState, Translation,
    is_canonical, pf,
};
pub use place::Place;
pub use ram::{Frame, GuestRam, HIGH_START, HOLE_START, OutOfRam, PageAttr, RamError, RamRegion};
pub use span::CodeSpan;
pub use string::{HostRun, Run};
pub use tlb::{ENTRIES, ENTRY_SHIFT, LARGE, TAG_MASK, TlbEntry, TlbTable, tag, tlb_index};
pub use track::{
    CodeHit, CodeHits, CodeStamp, Kick, LINE_SIZE, LINES_SHIFT, MAX_CPUS, Marked, line_mask,
};
pub use walk::{peek, probe, read_pdptes, walk};
pub use window::{Shown, Window};
