//! The cache folder: guests as files, each with a record of its length and checksum, so that damage is noticed.
//!
//! ```text
//! FOLDER/vmlinuz-cloud        a guest (see Guest::file)
//! FOLDER/vmlinuz-cloud.sum    SHA-256, length and package, written by us; without it a file is taken as it is
//! FOLDER/packages/NAME/       a set of packages (see PackageSet), and NAME.sum with the checksum of each
//! FOLDER/apt/ARCH/            apt's lists and configuration
//! FOLDER/tmp/                 what is being made; whoever holds the lock may empty it
//! FOLDER/lock                 held while something is fetched
//! ```
//! Files appear under their names by a rename, so a program that is killed leaves none that is half written.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::GuestError;
use crate::fetch;
use crate::guest::Guest;
use crate::progress::Progress;

/// A cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    offline: bool,
    silent: bool,
}

/// What a guest's file is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    Missing,
    Damaged,
}

impl Cache {
    /// The user's cache folder: `DOPPEL_CACHE`, else `XDG_CACHE_HOME/doppel`, else `HOME/.cache/doppel`. It is made
    /// when something is fetched.
    ///
    /// # Errors
    /// [`GuestError::NoFolder`] if none of the three is set.
    pub fn open() -> Result<Self, GuestError> {
        let set = |name| {
            env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let folder = set("DOPPEL_CACHE")
            .or_else(|| {
                set("XDG_CACHE_HOME")
                    .filter(|p| p.is_absolute())
                    .map(|p| p.join("doppel"))
            })
            .or_else(|| set("HOME").map(|p| p.join(".cache/doppel")))
            .ok_or(GuestError::NoFolder)?;
        // apt and its helpers run in other folders.
        let folder = std::path::absolute(&folder).map_err(|error| GuestError::Cache {
            path: folder,
            error,
        })?;
        Ok(Self::at(folder))
    }

    /// A cache in this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            offline: false,
            silent: false,
        }
    }

    /// Never fetches anything.
    pub fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// Prints nothing while it fetches.
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a guest's file is or would be.
    pub fn path(&self, guest: Guest) -> PathBuf {
        self.folder.join(guest.file())
    }

    /// The path of a guest's file, which is fetched if it is not there or is damaged.
    ///
    /// # Errors
    /// A [`GuestError`] that says what to put where if it cannot be had.
    pub fn get(&self, guest: Guest) -> Result<PathBuf, GuestError> {
        let path = self.path(guest);
        if self.health(guest) == Health::Good {
            return Ok(path);
        }
        if self.offline {
            return Err(self.unobtainable(guest, self.reason(guest)));
        }
        let progress = self.progress();
        let _lock = self.lock(&progress)?;
        // Another process may have done it meanwhile.
        if self.health(guest) != Health::Good {
            fetch::fetch(self, guest, &progress)?;
        }
        Ok(path)
    }

    /// Whether nothing may be fetched.
    pub(crate) fn is_offline(&self) -> bool {
        self.offline
    }

    /// How a fetch shows itself.
    pub(crate) fn progress(&self) -> Progress {
        if self.silent {
            Progress::Silent
        } else {
            Progress::new()
        }
    }

    /// Why a guest must be fetched, when nothing may be.
    fn reason(&self, guest: Guest) -> String {
        match self.health(guest) {
            Health::Damaged => {
                "the file in the cache is damaged, and nothing is to be fetched".into()
            }
            Health::Good | Health::Missing => {
                "it is not in the cache, and nothing is to be fetched".into()
            }
        }
    }

    pub(crate) fn unobtainable(&self, guest: Guest, why: String) -> GuestError {
        GuestError::Unobtainable {
            what: guest.what(),
            why,
            file: guest.file(),
            path: self.path(guest),
        }
    }

    /// Looks at a guest's file.
    pub(crate) fn health(&self, guest: Guest) -> Health {
        let path = self.path(guest);
        let Ok(meta) = fs::metadata(&path) else {
            return Health::Missing;
        };
        if !meta.is_file() || meta.len() == 0 {
            return Health::Damaged;
        }
        let record = match fs::read_to_string(record_path(&path)) {
            Ok(text) => text,
            // Somebody has put it there by hand.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Health::Good,
            Err(_) => return Health::Damaged,
        };
        let mut words = record.split_whitespace();
        let (sum, len) = (words.next(), words.next().and_then(|w| w.parse().ok()));
        let good = len == Some(meta.len())
            && sum.is_some_and(|sum| checksum(&path).is_ok_and(|c| c == sum));
        if good { Health::Good } else { Health::Damaged }
    }

    pub(crate) fn cache_error(path: &Path) -> impl FnOnce(io::Error) -> GuestError {
        let path = path.to_owned();
        move |error| GuestError::Cache { path, error }
    }

    /// Makes the folder and takes its lock, which lasts as long as the returned file.
    pub(crate) fn lock(&self, progress: &Progress) -> Result<File, GuestError> {
        fs::create_dir_all(&self.folder).map_err(Self::cache_error(&self.folder))?;
        let path = self.folder.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(Self::cache_error(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.step("waiting for another process that fills the cache", 0);
                file.lock().map_err(Self::cache_error(&path))?;
            }
            Err(TryLockError::Error(e)) => return Err(Self::cache_error(&path)(e)),
        }
        Ok(file)
    }

    /// An empty folder for what is being made. The caller holds the lock.
    pub(crate) fn empty_tmp(&self) -> Result<PathBuf, GuestError> {
        let tmp = self.folder.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Self::cache_error(&tmp)(e));
            }
            _ => {}
        }
        fs::create_dir_all(&tmp).map_err(Self::cache_error(&tmp))?;
        Ok(tmp)
    }

    /// Puts a guest into the cache. The caller holds the lock.
    pub(crate) fn install(
        &self,
        guest: Guest,
        bytes: &[u8],
        origin: &str,
    ) -> Result<(), GuestError> {
        let path = self.path(guest);
        let record = record_path(&path);
        let text = format!("{} {} {origin}\n", hex(&Sha256::digest(bytes)), bytes.len());
        let tmp = self.folder.join("tmp");
        let put = |name: &str, bytes: &[u8], to: &Path| -> io::Result<()> {
            let from = tmp.join(name);
            let mut file = File::create(&from)?;
            file.write_all(bytes)?;
            // A crash of the host must not leave a file that only looks whole.
            file.sync_all()?;
            fs::rename(from, to)
        };
        let write = || {
            fs::create_dir_all(&tmp)?;
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            // Whenever this stops, what is there either fits its record or is fetched again.
            put("record", text.as_bytes(), &record)?;
            put("guest", bytes, &path)
        };
        write().map_err(Self::cache_error(&path))
    }
}

/// Where a file's record is.
fn record_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sum");
    name.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of a file.
pub(crate) fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(buffer.get(..len).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, Health};
    use crate::deb::tests::Folder;
    use crate::guest::Guest;
    use std::fs;

    #[test]
    fn damage_is_found() {
        let folder = Folder::new("cache");
        let cache = Cache::at(&folder.0).offline();
        let guest = Guest::MemtestX64;
        assert_eq!(cache.health(guest), Health::Missing);
        cache.install(guest, b"some bytes", "test 1.0").unwrap();
        assert_eq!(
            cache.get(guest).unwrap(),
            folder.0.join("memtest/memtest86+x64.bin")
        );
        for bad in [&b"some bytez"[..], b"some", b""] {
            fs::write(cache.path(guest), bad).unwrap();
            assert_eq!(cache.health(guest), Health::Damaged);
            let e = cache.get(guest).unwrap_err().to_string();
            assert!(
                e.contains("damaged") && e.contains("memtest86+x64.bin"),
                "{e}"
            );
        }
        cache.install(guest, b"some bytes", "test 1.0").unwrap();
        assert_eq!(cache.health(guest), Health::Good);
    }

    #[test]
    fn a_file_put_there_by_hand_is_taken() {
        let folder = Folder::new("hand");
        let cache = Cache::at(&folder.0).offline();
        let e = cache.get(Guest::CloudKernel).unwrap_err().to_string();
        let path = folder.0.join("vmlinuz-cloud");
        assert!(
            e.contains("put vmlinuz-cloud at") && e.contains(path.to_str().unwrap()),
            "{e}"
        );
        fs::write(&path, b"kernel").unwrap();
        assert_eq!(cache.get(Guest::CloudKernel).unwrap(), path);
    }

    #[test]
    fn a_folder_that_cannot_be_made() {
        let cache = Cache::at("/dev/null/doppel").silent();
        let e = cache.get(Guest::Busybox).unwrap_err().to_string();
        assert!(e.contains("DOPPEL_CACHE"), "{e}");
    }
}
