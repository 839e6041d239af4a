//! Times Debian's programs under Doppel and under qemu: `cargo run --release -p benches --bin programs`.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use benches::loads::{LOADS, Load, prepare};
use benches::report::report;
use benches::runner::{QEMU, QEMU_PROGRAM, command, run};
use clap::Parser;
use guests::Cache;

/// Runs programs from Debian's packages in a guest and compares emulators: seconds and results.
#[derive(Parser)]
struct Arguments {
    /// Doppel's engines, or `qemu`; the first is what the others are measured against.
    /// Default: qemu, if it is installed, and jit.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Only these programs.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The doppel program. Default: the one beside this program.
    #[arg(long)]
    doppel: Option<PathBuf>,
    /// Seconds that a guest may print nothing before it counts as hung.
    #[arg(long, default_value_t = 300)]
    limit: u64,
}

fn main() -> ExitCode {
    match compare(Arguments::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("programs: {error}");
            ExitCode::from(2)
        }
    }
}

fn has_qemu() -> bool {
    let mut version = Command::new(QEMU_PROGRAM);
    version.arg("--version").stdout(Stdio::null());
    version.status().is_ok_and(|s| s.success())
}

fn chosen(only: &[String]) -> Result<Vec<Load>, String> {
    if let Some(unknown) = only.iter().find(|n| !LOADS.iter().any(|l| l.name == **n)) {
        let names = LOADS.map(|l| l.name).join(", ");
        return Err(format!("there is no program {unknown}; there are {names}"));
    }
    let wanted = |l: &Load| only.is_empty() || only.iter().any(|n| n == l.name);
    Ok(LOADS.into_iter().filter(wanted).collect())
}

/// The doppel program beside this one.
fn neighbour() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let doppel = own.with_file_name("doppel");
    if doppel.exists() {
        Ok(doppel)
    } else {
        let path = doppel.display();
        Err(format!(
            "there is no {path}: `cargo build --release -p doppel`, or name one with --doppel"
        ))
    }
}

fn compare(arguments: Arguments) -> Result<ExitCode, String> {
    let loads = chosen(&arguments.only)?;
    let engines = match arguments.engines {
        given if !given.is_empty() => given,
        _ if has_qemu() => vec![QEMU.into(), "jit".into()],
        _ => vec!["jit".into()],
    };
    let doppel = arguments.doppel.map_or_else(neighbour, Ok)?;
    let folder = std::env::temp_dir().join(format!("doppel-programs-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let limit = Duration::from_secs(arguments.limit);
    let result = in_folder(&folder, &loads, &engines, &doppel, limit);
    fs::remove_dir_all(&folder).ok(); // it is temporary anyway
    result
}

fn in_folder(
    folder: &Path,
    loads: &[Load],
    engines: &[String],
    doppel: &Path,
    limit: Duration,
) -> Result<ExitCode, String> {
    let cache = Cache::open().map_err(|e| e.to_string())?;
    let initrd = folder.join("programs.cpio");
    let kernel = prepare(&cache, loads, &initrd)?;
    let mut all = Vec::new();
    for engine in engines {
        let runs = run(
            command(engine, doppel, &kernel, &initrd),
            limit,
            |name, run| {
                let sum = run.outcome.sum.get(..16).unwrap_or_default();
                eprintln!(
                    "{engine} {name}: {:.2} s, CPU {:.2} s, {sum}",
                    run.wall, run.cpu
                );
            },
        )?;
        all.push((engine.clone(), runs));
    }
    let names: Vec<_> = loads.iter().map(|l| l.name).collect();
    let report = report(&names, &all);
    io::stdout()
        .write_all(report.table.as_bytes())
        .map_err(|e| format!("cannot print the table: {e}"))?;
    for wrong in &report.wrong {
        eprintln!("programs: {wrong}");
    }
    Ok(if report.wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
