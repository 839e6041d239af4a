//! Guests for tests: one that cannot be had is a test skipped, said aloud, unless it must not be.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::{Cache, Guest};

/// A guest's file for a test; `None`, and the reason on stderr, if it cannot be had.
///
/// # Panics
/// If it cannot be had and `DOPPEL_REQUIRE_GUESTS` is 1.
pub fn require(guest: Guest) -> Option<PathBuf> {
    let error = match Cache::open().and_then(|cache| cache.get(guest)) {
        Ok(path) => return Some(path),
        Err(error) => error,
    };
    let required = env::var_os("DOPPEL_REQUIRE_GUESTS").is_some_and(|v| !v.is_empty() && v != "0");
    assert!(!required, "{error}");
    // Not by eprintln!, which a passing test swallows.
    writeln!(io::stderr(), "skipped: {error}").ok();
    None
}
