//! Guests for the demo and the tests: files from Debian's packages, fetched without root, and an initramfs.
//!
//! ```text
//! Guest ─ Cache::get ─┬ in the cache, and its checksum is right ─────────────────────┐
//!                     └ apt-get (lists of our own) ─ .deb ─ the file ─ renamed into ─┴ a path
//! ```
//! A build of this crate needs no C compiler: packages are unpacked in Rust.
#![forbid(unsafe_code)]

mod apt;
mod cache;
mod cpio;
mod deb;
mod decompress;
mod error;
mod fetch;
mod guest;
mod initramfs;
mod packages;
mod progress;
mod require;
mod vmlinux;

pub use cache::Cache;
pub use cpio::Cpio;
pub use error::GuestError;
pub use guest::Guest;
pub use initramfs::{Init, initramfs, initramfs_with};
pub use packages::PackageSet;
pub use require::require;
pub use vmlinux::{VmlinuxError, vmlinux};
