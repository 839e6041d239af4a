//! From a guest's name to its file: look the package up, download it, unpack it, put it into the cache.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::apt::{Apt, AptError};
use crate::cache::{Cache, Health};
use crate::deb;
use crate::decompress;
use crate::error::GuestError;
use crate::guest::{Arch, Guest, Package, Source};
use crate::packages::PackageSet;
use crate::progress::Progress;
use crate::vmlinux::vmlinux;

/// How often a fetch is tried.
const ATTEMPTS: u32 = 3;
/// No guest that comes compressed is larger.
const LIMIT: u64 = 1 << 30;

/// Fetches a guest. The caller holds the cache's lock.
pub(crate) fn fetch(cache: &Cache, guest: Guest, progress: &Progress) -> Result<(), GuestError> {
    match guest.source() {
        Source::Package(package) => from_package(cache, guest, package, progress),
        Source::Vmlinux(from) => derived(cache, guest, from, progress, |bytes| {
            vmlinux(bytes).map_err(|e| e.to_string())
        }),
        Source::Gunzip(from) => derived(cache, guest, from, progress, |bytes| {
            if !bytes.starts_with(b"\x1f\x8b") {
                return Err(format!("{} is not compressed with gzip", from.file()));
            }
            decompress::unpack(bytes, LIMIT).map_err(|e| e.to_string())
        }),
    }
}

/// Makes a guest out of another.
fn derived(
    cache: &Cache,
    guest: Guest,
    from: Guest,
    progress: &Progress,
    make: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<(), GuestError> {
    if cache.health(from) != Health::Good {
        fetch(cache, from, progress)?;
    }
    progress.step(&format!("unpacking {}", guest.what()), 0);
    let path = cache.path(from);
    let bytes = fs::read(&path).map_err(|error| GuestError::Cache { path, error })?;
    let made = make(&bytes).map_err(|why| cache.unobtainable(guest, why))?;
    cache.install(guest, &made, from.file())
}

/// Gets a guest out of its package, and with it all others that the package holds.
fn from_package(
    cache: &Cache,
    guest: Guest,
    package: Package,
    progress: &Progress,
) -> Result<(), GuestError> {
    retry(
        cache,
        package.arch,
        |apt, anew| try_package(cache, guest, package, apt, anew, progress),
        |why| cache.unobtainable(guest, why),
    )
}

/// Fetches packages and all that they need; their paths in the temporary folder. The caller holds the cache's lock.
pub(crate) fn fetch_all(
    cache: &Cache,
    set: &PackageSet,
    progress: &Progress,
) -> Result<Vec<PathBuf>, GuestError> {
    retry(
        cache,
        Arch::Amd64,
        |apt, anew| {
            with_lists(apt, anew, progress, || {
                let size = apt.look_up_all(set.packages)?.size;
                progress.step(&format!("fetching packages: {}", set.name), size);
                let tmp = cache.empty_tmp()?;
                let at = |bytes: u64| progress.at(bytes.min(size));
                Ok(apt.download_all(set.packages, &tmp, at)?)
            })
        },
        |why| cache.no_packages(set, why),
    )
}

/// Makes attempts with an apt; `attempt` is told whether lists are to be fetched even if they are young, for they may
/// name a package that is gone.
fn retry<T>(
    cache: &Cache,
    arch: Arch,
    attempt: impl Fn(&Apt, bool) -> Result<T, Failure>,
    unobtainable: impl Fn(String) -> GuestError,
) -> Result<T, GuestError> {
    let apt = match Apt::new(&cache.folder().join("apt"), arch) {
        Ok(apt) => apt,
        Err(AptError::Impossible(why) | AptError::Failed(why)) => return Err(unobtainable(why)),
    };
    let mut why = String::new();
    for count in 0..ATTEMPTS {
        if count > 0 {
            thread::sleep(Duration::from_secs(u64::from(count)));
        }
        match attempt(&apt, count > 0) {
            Ok(got) => return Ok(got),
            Err(Failure::Cache(e)) => return Err(e),
            Err(Failure::Apt(AptError::Impossible(w))) => return Err(unobtainable(w)),
            // The first reason is the best: what follows it is often a consequence.
            Err(Failure::Apt(AptError::Failed(w))) => why = if why.is_empty() { w } else { why },
        }
    }
    Err(unobtainable(why))
}

/// Why an attempt failed.
enum Failure {
    Cache(GuestError),
    Apt(AptError),
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::Cache(error)
    }
}

impl From<AptError> for Failure {
    fn from(error: AptError) -> Self {
        Self::Apt(error)
    }
}

/// Fetches the package lists if that is due, and does what needs them.
fn with_lists<T>(
    apt: &Apt,
    anew: bool,
    progress: &Progress,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut stale = None;
    if anew || !apt.is_fresh() {
        progress.step("fetching Debian's package lists", 0);
        // One of several sources may be down, and old lists may do.
        stale = apt.update().err();
    }
    match (work(), stale) {
        (Err(Failure::Apt(_)), Some(update)) => Err(update.into()),
        (done, _) => done,
    }
}

/// One attempt (see [`retry`]).
fn try_package(
    cache: &Cache,
    guest: Guest,
    package: Package,
    apt: &Apt,
    anew: bool,
    progress: &Progress,
) -> Result<(), Failure> {
    let (name, size) = with_lists(apt, anew, progress, || {
        let name = match package.dependency {
            "" => package.name.to_owned(),
            prefix => apt.dependency(package.name, prefix)?,
        };
        let size = apt.look_up(&name)?.size;
        Ok((name, size))
    })?;

    progress.step(&format!("fetching {name}"), size);
    let tmp = cache.empty_tmp()?;
    let deb = apt.download(&name, &tmp, |bytes| progress.at(bytes.min(size)))?;
    progress.step(&format!("unpacking {name}"), 0);
    let origin = deb
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or(name);
    let guests = guest.companions();
    let members: Vec<_> = guests.iter().map(|(_, p)| p.members).collect();
    let damaged = |e: io::Error| AptError::Failed(format!("the package cannot be unpacked: {e}"));
    let files = deb::extract(&deb, &members).map_err(damaged)?;
    fs::remove_file(&deb).ok(); // it goes with the next fetch if not now
    for ((other, _), bytes) in guests.iter().zip(files) {
        match bytes {
            Some(bytes) if *other == guest || cache.health(*other) != Health::Good => {
                cache.install(*other, &bytes, &origin)?;
            }
            None if *other == guest => {
                let want = package.members.join(" or ");
                return Err(
                    AptError::Impossible(format!("the package {origin} holds no {want}")).into(),
                );
            }
            _ => {}
        }
    }
    Ok(())
}
