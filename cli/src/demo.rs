//! `doppel demo`: Debian's cloud kernel and busybox, fetched once, and a shell on your terminal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Parser;
use guests::{Cache, Guest, Init, initramfs};

use crate::Outcome;
use crate::args::{Cli, Command};
use crate::failure::Failure;
use crate::{run, say};

const GREETING: &str =
    "Welcome to Debian's kernel, run by Doppel. Ctrl-A x quits, and so does `exit`.";

/// Boots the demo.
pub fn demo() -> Outcome {
    let cache = Cache::open().map_err(|e| Failure::Host(e.to_string()))?;
    let get = |guest| cache.get(guest).map_err(|e| Failure::Host(e.to_string()));
    let kernel = get(Guest::CloudKernel)?;
    let busybox = get(Guest::Busybox)?;
    let initrd = initrd(&cache, &busybox)?;
    say::say("booting Debian's cloud kernel; Ctrl-A x quits");
    let line = [
        "doppel",
        "run",
        "--append",
        "console=ttyS0 quiet",
        "--kernel",
    ]
    .map(Into::into);
    let line = line.into_iter().chain([
        kernel.into_os_string(),
        "--initrd".into(),
        initrd.into_os_string(),
    ]);
    match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Some(Command::Run(args))) => run::run(*args),
        // Only a path that is no text is possible here.
        _ => Err(Failure::Host(format!(
            "the cache folder's name {} is not UTF-8; name another with DOPPEL_CACHE",
            cache.folder().display()
        ))),
    }
}

/// Builds the initramfs in the cache folder, whole or not at all.
fn initrd(cache: &Cache, busybox: &Path) -> Result<PathBuf, Failure> {
    let refused = |path: &Path, e: io::Error| {
        Failure::Host(format!(
            "cannot use the cache folder ({}: {e}); make it writable, or name another with DOPPEL_CACHE",
            path.display()
        ))
    };
    let program = fs::read(busybox).map_err(|e| refused(busybox, e))?;
    let image = initramfs(
        &program,
        &Init::Shell {
            greeting: GREETING.to_owned(),
        },
    );
    let path = cache.folder().join("demo.cpio");
    if fs::read(&path).is_ok_and(|old| old == image) {
        return Ok(path);
    }
    let new = cache
        .folder()
        .join(format!("demo.cpio.{}", std::process::id()));
    fs::write(&new, &image)
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|e| refused(&new, e))?;
    Ok(path)
}
