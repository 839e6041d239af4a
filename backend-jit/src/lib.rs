//! The translator: blocks of IR become host code.
//!
//! ```text
//! engine.rs     run loop: where the next block comes from, what to do when code is left
//! core.rs       the cache: finding and making blocks; core/ puts them in their place
//! copies.rs     code that is mapped at several addresses: translated once, then copied
//! links.rs      how they lead to one another, and how they are dropped
//! pages.rs      numbers that jumps from page to page are checked by
//! report.rs     what people are shown of the cache
//! shared.rs     one cache for all vCPUs: the lock, and when code may go
//! trace.rs      hot code again, across blocks
//! tier.rs       the thread that finds and makes it
//! local.rs      what each vCPU has for itself
//! emitted.rs    a block's code by itself: for tests
//! changing.rs   code that keeps changing: places and versions
//! checked.rs    its translations, which compare it on entry
//! vary.rs       which constants of it are read instead of translated
//! astray.rs     accesses to the page that empty page caches name
//! windows.rs    windows of guest memory: when they are open, what they show
//! callouts.rs   Rust functions that translated code calls
//! x87.rs        the guest's x87 registers between the context and the host's
//! x64/          the host: encoder, frame, stubs, emission
//! ```

mod astray;
mod callouts;
mod changing;
mod checked;
mod copies;
mod core;
mod dump;
mod emitted;
mod engine;
mod hops;
mod links;
mod local;
mod pages;
mod report;
mod shared;
mod tier;
mod trace;
mod vary;
mod windows;
mod x64;
mod x87;

pub use dump::Dump;
#[doc(hidden)]
pub use emitted::{Emitted, Memory, TracePart, emitted, emitted_trace};
pub use engine::{Counts, Jit, Options, available};
#[doc(hidden)]
pub use hops::By;
pub use shared::Cache;
pub use trace::Tracing;
pub use translation::{Perf, PerfFormat};
pub use windows::Use as Windows;
