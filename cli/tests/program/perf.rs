//! Translated code under Linux's perf, and what `--stats` tells.
#![cfg(target_arch = "x86_64")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Temporary, doppel, exit, kernel, run, words};

/// Where the kernel's code is loaded.
const CODE: u64 = 0x10_0020;

/// A folder of a test's own, removed when it goes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("doppel-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Counts down from `rounds` * 2^24: mov ecx, n; nop; again: sub ecx, 1; jnz again.
fn busy(name: &str, rounds: u8) -> Temporary {
    let count = [0xb9, 0, 0, 0, rounds, 0x90, 0x83, 0xe9, 0x01, 0x75, 0xfb];
    let code = [&count[..], &exit(4)].concat();
    Temporary::new(name, &kernel(&code))
}

/// The loop's name.
fn symbol() -> String {
    format!("guest32-cpl0:{:#x}", CODE + 6)
}

fn arguments<'a>(guest: &'a Temporary, format: &'a str) -> Vec<&'a str> {
    let mut all = vec!["run", "--engine", "jit", "--mem", "16M"];
    all.extend([
        "--kernel",
        guest.path(),
        "--debug-exit",
        "0xf4",
        "--perf",
        format,
    ]);
    all
}

/// Runs a guest in a folder; the process's number.
fn run_in(folder: &Path, guest: &Temporary, format: &str) -> u32 {
    let child = doppel(&arguments(guest, format))
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("doppel starts");
    let pid = child.id();
    let output = child.wait_with_output().expect("doppel ends");
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert_eq!(words(&output), "", "{output:?}");
    pid
}

#[test]
fn a_map_names_guest_code_and_stubs() {
    let folder = Folder::new("perf-map");
    let pid = run_in(&folder.0, &busy("map", 1), "map");
    let path = format!("/tmp/perf-{pid}.map");
    let text = std::fs::read_to_string(&path).expect("it is there");
    std::fs::remove_file(&path).expect("it is there");
    let mut names = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (Some(at), Some(size)) = (number(), number()) else {
            panic!("{line}")
        };
        assert!(at > 1 << 32 && (1..1 << 16).contains(&size), "{line}");
        names.push(words.next().expect("a name").to_owned());
    }
    for name in [symbol().as_str(), "doppel:enter", "doppel:read"] {
        assert!(names.iter().any(|n| n == name), "{name}: {text}");
    }
}

#[test]
fn a_dump_lies_where_doppel_runs() {
    let folder = Folder::new("perf-dump");
    let pid = run_in(&folder.0, &busy("dump", 1), "jitdump");
    let bytes = std::fs::read(folder.0.join(format!("jit-{pid}.dump"))).expect("it is there");
    assert_eq!(&bytes[..4], b"DTiJ");
    let name = [symbol().as_bytes(), &[0]].concat();
    assert!(bytes.windows(name.len()).any(|w| w == name));
}

/// perf, in a folder; whether it did what it was asked.
fn perf(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("perf")
        .args(arguments)
        .current_dir(folder)
        // It keeps copies of what it has seen.
        .env("PERF_BUILDID_DIR", folder)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

#[test]
fn perf_shows_the_guest_s_loop() {
    let folder = Folder::new("perf");
    let at = folder.0.as_path();
    if perf(at, &["record", "-o", "try", "true"]).is_none() {
        eprintln!("skipped: no perf that may record here");
        return;
    }
    let guest = busy("perf", 64);
    let program = env!("CARGO_BIN_EXE_doppel");
    for format in ["map", "jitdump"] {
        // Its own status is the guest's.
        let mut all = vec![
            "record", "-k", "mono", "-F", "999", "-o", "data", "--", program,
        ];
        all.extend(arguments(&guest, format));
        let _ = perf(at, &all);
        let mut data = "data";
        if format == "jitdump" {
            perf(at, &["inject", "--jit", "-i", "data", "-o", "more"]).expect("perf inject");
            data = "more";
        }
        let text = perf(at, &["report", "--stdio", "-i", data]).expect("perf report");
        let symbol = symbol();
        let line = text.lines().find(|l| l.trim_end().ends_with(&symbol));
        let line = line.unwrap_or_else(|| panic!("{format}: {text}"));
        let share = line
            .trim_start()
            .split('%')
            .next()
            .and_then(|n| n.parse::<f64>().ok());
        assert!(share.is_some_and(|share| share > 10.0), "{format}: {line}");
    }
    for entry in std::fs::read_dir("/tmp").expect("a folder").flatten() {
        // The maps of the guests above: named by processes that this test has not started itself.
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("perf-") && name.ends_with(".map");
        let names = |text: String| text.contains(&symbol()) && text.lines().count() < 200;
        if ours && std::fs::read_to_string(entry.path()).is_ok_and(names) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[test]
fn statistics_tell_what_was_done() {
    let guest = busy("stats", 1);
    let base = [
        "run",
        "--mem",
        "16M",
        "--kernel",
        guest.path(),
        "--debug-exit",
        "0xf4",
        "--stats",
    ];
    let says = |engine: &str, what: &[&str]| {
        let output = run(&[&base[..], &["--engine", engine]].concat());
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        let said = words(&output);
        for part in what {
            assert!(said.contains(part), "{part}: {said}");
        }
    };
    let both = [
        " s in 1 accesses to devices",
        "blocks ",
        " made in ",
        "exits: link ",
        "exceptions 0",
        "stale blocks ",
        "TLB misses ",
    ];
    says("interp", &both);
    says("jit", &both);
    says(
        "jit",
        &[
            "host code ",
            " a guest byte), ",
            " cold (",
            " page ",
            " regions, reclaimed 0",
        ],
    );
}
