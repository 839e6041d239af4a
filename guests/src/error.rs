//! Why a guest cannot be had, and what to do about it.

use std::io;
use std::path::PathBuf;

/// A guest cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// There is nowhere to put guests.
    #[error(
        "there is no cache folder: DOPPEL_CACHE, XDG_CACHE_HOME and HOME are all unset; set DOPPEL_CACHE"
    )]
    NoFolder,
    /// The cache folder cannot be used.
    #[error("cannot use the cache folder ({path}: {error}); make it writable, or name another with DOPPEL_CACHE", path = path.display())]
    Cache {
        /// What could not be read or written.
        path: PathBuf,
        /// The host's reason.
        error: io::Error,
    },
    /// It is not there and could not be fetched.
    #[error("cannot get {what}: {why}; make apt-get work (network, package sources), or put {file} at {path} yourself", path = path.display())]
    Unobtainable {
        /// The guest.
        what: &'static str,
        /// Why fetching failed.
        why: String,
        /// The file's name.
        file: &'static str,
        /// Where it belongs.
        path: PathBuf,
    },
    /// Packages are not there and could not be fetched.
    #[error(
        "cannot get Debian packages ({what}): {why}; make apt-get work (network, package sources)"
    )]
    Packages {
        /// Their names.
        what: String,
        /// Why fetching failed.
        why: String,
    },
}
