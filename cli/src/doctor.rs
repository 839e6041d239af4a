//! `doppel doctor`: does this host have what Doppel wants, and what to do where not?

use std::fmt::Write as _;
use std::path::Path;

use guests::{Cache, Guest};
use softmmu::GuestRam;

use crate::engines::print;
use crate::failure::status;
use crate::{Outcome, run, stdout};

/// What was found of one thing.
enum Found {
    Good(String),
    /// It works without.
    Missing(String),
    /// It does not work without.
    Broken(String),
}

/// Prints a line for each thing; the status is that of a host error if Doppel cannot work here.
pub fn doctor() -> Outcome {
    stdout::require()?;
    let mut text = String::new();
    let mut result = status::DONE;
    for (name, found) in [
        ("host", host()),
        ("guest memory", memory()),
        ("kvm", kvm()),
        ("cache", cache()),
        ("guests", guests()),
        ("apt-get", apt()),
    ] {
        let (mark, found) = match found {
            Found::Good(text) => ("ok", text),
            Found::Missing(text) => ("missing", text),
            Found::Broken(text) => {
                result = status::HOST;
                ("broken", text)
            }
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<14}{mark:<9}{found}");
    }
    print(&text)?;
    Ok(result)
}

fn host() -> Found {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory =
        run::host_memory().map_or_else(|| "?".to_owned(), |bytes| (bytes >> 20).to_string());
    Found::Good(format!(
        "{} with {cpus} CPUs and {memory} MiB",
        std::env::consts::ARCH
    ))
}

fn memory() -> Found {
    match GuestRam::new(512 << 20) {
        Ok(_) => Found::Good("512 MiB can be mapped".to_owned()),
        Err(e) => Found::Broken(e.to_string()),
    }
}

fn kvm() -> Found {
    if std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
    {
        Found::Good("/dev/kvm can be opened; the engine for it is not built yet".to_owned())
    } else {
        Found::Missing("no /dev/kvm for you; Doppel does without".to_owned())
    }
}

fn cache() -> Found {
    match Cache::open() {
        Ok(cache) if cache.folder().is_dir() => Found::Good(cache.folder().display().to_string()),
        Ok(cache) => Found::Missing(format!(
            "{} will be made by doppel demo",
            cache.folder().display()
        )),
        Err(e) => Found::Missing(e.to_string()),
    }
}

fn guests() -> Found {
    let Ok(cache) = Cache::open() else {
        return Found::Missing("no cache folder".to_owned());
    };
    let missing: Vec<String> = [Guest::CloudKernel, Guest::Busybox]
        .into_iter()
        .filter(|guest| !cache.path(*guest).is_file())
        .map(|guest| cache.path(guest).display().to_string())
        .collect();
    if missing.is_empty() {
        Found::Good("the demo's kernel and busybox are there".to_owned())
    } else {
        Found::Missing(format!(
            "{}; doppel demo fetches them, or put them there",
            missing.join(" and ")
        ))
    }
}

fn apt() -> Found {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(Path::new("apt-get")).is_file())
    });
    if found {
        Found::Good("guests can be fetched".to_owned())
    } else {
        Found::Missing("guests can't be fetched; put them into the cache".to_owned())
    }
}
