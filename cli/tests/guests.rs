//! Unmodified guests: Debian's kernels to a shell script and power-off, by each boot protocol, memtest86+, and what
//! their messages may not hold.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use guests::{Guest, Init, initramfs, require};

/// What a healthy kernel doesn't say.
const ALARMS: &[&str] = &[
    "BUG",
    "WARNING",
    "irmware Bug",
    "irmware bug",
    "FW BUG",
    "all Trace",
    "nstable",
    "nchecked MSR",
    "purious",
    "obody cared",
    "Oops",
    " stall",
    "imeout",
    "imed out",
    "ailed",
    "report a bug",
    "fail to",
];

/// The script that guests run.
const SCRIPT: &str = "echo @@UP $(uname -m) $(grep -c ^processor /proc/cpuinfo)\n\
    grep . /sys/devices/system/cpu/vulnerabilities/* | sed 's/^/@@V /'\n\
    grep -m1 ^flags /proc/cpuinfo | sed 's/^/@@F /'\n\
    sed -n 's/^MemTotal: */@@MEM /p' /proc/meminfo\n\
    echo @@SUM $(head -c 300000 /bin/busybox | md5sum)\n";

fn doppel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doppel"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A file of this test run.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn initrd(name: &str, busybox: Guest, script: &str) -> Option<PathBuf> {
    let busybox = fs::read(require(busybox)?).expect("busybox can be read");
    let path = scratch(name);
    fs::write(&path, initramfs(&busybox, &Init::Script(script.to_owned())))
        .expect("the target folder takes files");
    Some(path)
}

/// Boots a Linux kernel with messages on the serial line; returns them.
fn boot(kernel: &str, initrd: &Path, more: &[&str]) -> String {
    let initrd = initrd.to_str().expect("a UTF-8 path");
    let append = "console=ttyS0 panic=-1";
    let mut arguments = vec![
        "run",
        "--engine",
        "interp",
        "--no-reboot",
        "--kernel",
        kernel,
        "--initrd",
        initrd,
    ];
    arguments.extend(["--append", append]);
    arguments.extend(more);
    let Output {
        status,
        stdout,
        stderr,
    } = doppel(&arguments).output().expect("doppel starts");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{status}: {said}\n{text}");
    text
}

/// The rows of messages.txt: what is allowed, and why.
fn allowed() -> Vec<(&'static str, &'static str)> {
    include_str!("messages.txt")
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .map(|l| l.split_once(" | ").unwrap_or((l, "")))
        .collect()
}

/// The lines with an alarming word that messages.txt does not have.
fn alarming(text: &str) -> Vec<&str> {
    let allowed = allowed();
    text.lines()
        .filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)))
        .filter(|line| !allowed.iter().any(|(ok, _)| line.contains(ok)))
        .collect()
}

fn check_messages(text: &str) {
    let bad = alarming(text);
    assert!(
        bad.is_empty(),
        "not in cli/tests/messages.txt:\n{}",
        bad.join("\n")
    );
}

/// KiB that the guest's kernel says it has.
fn guest_memory(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.split_once("@@MEM ")?.1.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn check_boot(text: &str, up: &str) {
    assert!(text.contains(up), "no `{up}` in\n{text}");
    assert!(text.contains("reboot: Power down"), "{text}");
    check_messages(text);
}

/// Boots `kernel` with that much memory (512M or 5G), and checks it: all of that memory is there.
fn linux_with(kernel: Guest, busybox: Guest, mem: &str, up: &str) -> Option<String> {
    let name = format!("{kernel:?}-{mem}.cpio");
    let text = linux(kernel, busybox, &name, up, &["--mem", mem])?;
    let found = guest_memory(&text);
    // The kernel keeps its own image and the page structures to itself: an eighth is ample.
    let whole = if mem == "5G" { 5 << 20 } else { 512 << 10 };
    assert!(
        (whole * 7 / 8..=whole).contains(&found),
        "{found} KiB of {whole}"
    );
    Some(text)
}

/// Boots `kernel` with `more`, and checks it.
fn linux(kernel: Guest, busybox: Guest, name: &str, up: &str, more: &[&str]) -> Option<String> {
    let kernel = require(kernel)?;
    let initrd = initrd(name, busybox, SCRIPT)?;
    let text = boot(kernel.to_str().expect("a UTF-8 path"), &initrd, more);
    check_boot(&text, up);
    Some(text)
}

#[test]
fn the_cloud_kernel_boots_and_finds_no_hole_in_the_cpu() {
    let Some(text) = linux_with(Guest::CloudKernel, Guest::Busybox, "512M", "@@UP x86_64 1") else {
        return;
    };
    for line in text.lines().filter(|l| l.contains("@@V ")) {
        let fine = [
            "Not affected",
            "spectre_v1:Mitigation",
            "spectre_v2:Mitigation: Enhanced",
        ];
        assert!(fine.iter().any(|ok| line.contains(ok)), "{line}");
    }
    assert!(
        !text.contains("page tables isolation") && !text.contains("Retpoline"),
        "{text}"
    );
    for flag in [
        "x2apic",
        "tsc_deadline_timer",
        "erms",
        "fsrm",
        "pcid",
        "constant_tsc",
        "hypervisor",
    ] {
        assert!(
            text.contains(&format!(" {flag} ")),
            "the guest doesn't see {flag}"
        );
    }
}

#[test]
fn the_cloud_kernel_boots_with_memory_above_4_gib() {
    linux_with(Guest::CloudKernel, Guest::Busybox, "5G", "@@UP x86_64 1");
}

#[test]
fn the_cloud_kernel_boots_on_four_cpus() {
    linux(
        Guest::CloudKernel,
        Guest::Busybox,
        "cloud4.cpio",
        "@@UP x86_64 4",
        &["--cpus", "4"],
    );
}

#[test]
fn counted_boots_are_the_same_and_engines_agree() {
    let Some(kernel) = require(Guest::CloudKernel) else {
        return;
    };
    let kernel = kernel.to_str().expect("a UTF-8 path");
    let Some(initrd) = initrd("counted.cpio", Guest::Busybox, SCRIPT) else {
        return;
    };
    let initrd = initrd.to_str().expect("a UTF-8 path");
    let run = |more: &[&str]| {
        let mut arguments = vec!["run", "--no-reboot", "--kernel", kernel, "--stats"];
        arguments.extend(["--initrd", initrd, "--append", "console=ttyS0 panic=-1"]);
        arguments.extend(["--engine", "jit", "--cpus", "2"]);
        arguments.extend(more);
        let output = doppel(&arguments).output().expect("doppel starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
        let count = said
            .lines()
            .find(|line| line.contains("icount: "))
            .expect("the count is told")
            .to_owned();
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            count,
            said,
        )
    };
    let (text, count, _) = run(&["--icount"]);
    check_boot(&text, "@@UP x86_64 2");
    let (again, count_again, _) = run(&["--icount"]);
    assert_eq!((&text, &count), (&again, &count_again));
    let (text, _, said) = run(&["--verify", "interp"]);
    check_boot(&text, "@@UP x86_64 2");
    assert!(said.contains("verify: compared "), "{said}");
}

#[test]
fn the_cloud_kernel_boots_with_5_levels_and_protection_keys() {
    let more = ["--cpu", "default,+pku,+la57"];
    let Some(text) = linux(
        Guest::CloudKernel,
        Guest::Busybox,
        "cloud57.cpio",
        "@@UP x86_64 1",
        &more,
    ) else {
        return;
    };
    assert!(
        text.contains(" la57 ") && text.contains(" ospke "),
        "{text}"
    );
}

#[test]
fn the_cloud_kernel_boots_by_its_pvh_entry() {
    linux(
        Guest::CloudVmlinux,
        Guest::Busybox,
        "pvh.cpio",
        "@@UP x86_64 1",
        &[],
    );
}

#[test]
fn the_amd64_kernel_boots() {
    linux_with(Guest::Amd64Kernel, Guest::Busybox, "512M", "@@UP x86_64 1");
}

#[test]
fn the_amd64_kernel_boots_with_memory_above_4_gib() {
    linux_with(Guest::Amd64Kernel, Guest::Busybox, "5G", "@@UP x86_64 1");
}

#[test]
fn the_686_kernel_boots() {
    linux_with(Guest::I686Kernel, Guest::BusyboxI386, "512M", "@@UP i686 1");
}

#[test]
fn the_686_kernel_boots_with_memory_above_4_gib() {
    linux_with(Guest::I686Kernel, Guest::BusyboxI386, "5G", "@@UP i686 1");
}

#[test]
fn a_kernel_panic_is_the_guests_affair() {
    // Without an initrd there is no root: the kernel panics and asks for a reset.
    let Some(kernel) = require(Guest::CloudKernel) else {
        return;
    };
    let kernel = kernel.to_str().expect("a UTF-8 path");
    let append = "console=ttyS0 panic=-1";
    let arguments = ["run", "--no-reboot", "--kernel", kernel, "--append", append];
    let output = doppel(&arguments).output().expect("doppel starts");
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("Kernel panic - not syncing"),
        "{output:?}"
    );
}

/// Runs memtest86+ until its serial screen shows test #6. Quick tests may be over before the screen is drawn.
fn memtest(image: Guest) {
    let Some(image) = require(image) else { return };
    let image = image.to_str().expect("a UTF-8 path");
    let append = "console=ttyS0,115200";
    let mut child = doppel(&["run", "--mem", "96M", "--kernel", image, "--append", append])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("doppel starts");
    let mut screen = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut text = String::new();
    // The screen is drawn with escape sequences; there are no lines to speak of.
    while !text.contains("#6 ") {
        let bytes = screen.fill_buf().expect("the pipe can be read").to_vec();
        assert!(!bytes.is_empty(), "memtest ended: {text}");
        screen.consume(bytes.len());
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    child.kill().expect("the child is ours");
    let mut rest = Vec::new();
    screen.read_to_end(&mut rest).expect("the pipe can be read");
    child.wait().expect("the child ends");
    let shown: Vec<u32> = text
        .match_indices('#')
        .filter_map(|(at, _)| {
            text[at + 1..]
                .split_once("  [")
                .and_then(|(number, _)| number.trim().parse().ok())
        })
        .collect();
    // Screens are drawn by time, tests end by work: a fast engine shows few of them, and more than one pass.
    let counted = shown.last() == Some(&6) && shown.iter().any(|n| *n < 6);
    assert!(
        counted && shown.iter().all(|n| *n <= 10),
        "tests shown: {shown:?}"
    );
    let errors: Vec<_> = text
        .match_indices("Errors:")
        .map(|(at, _)| text[at..].chars().take(24).collect::<String>())
        .collect();
    assert!(!errors.is_empty(), "no error count on the screen: {text}");
    assert!(errors.iter().all(|e| e.contains("Errors: 0")), "{errors:?}");
}

#[test]
fn memtest_counts_up_its_tests_in_32_bits() {
    memtest(Guest::MemtestIa32);
}

#[test]
fn memtest_counts_up_its_tests_in_64_bits() {
    memtest(Guest::MemtestX64);
}

#[test]
fn an_alarming_message_is_found_unless_it_has_a_row() {
    let demanded = [
        "BUG: unable to handle page fault for address: 0",
        "WARNING: CPU: 0 PID: 1 at kernel/time/tick.c:1",
        "[Firmware Bug]: TSC doesn't count with P0 frequency!",
        "Call Trace:",
        "clocksource: Marking clocksource 'tsc' as unstable because the skew is too large:",
        "tsc: Marking TSC unstable due to clocksource watchdog",
        "unchecked MSR access error: RDMSR from 0x1234",
        "spurious 8259A interrupt: IRQ7.",
        "Spurious interrupt (vector 0xff) on CPU#0",
        "irq 9: nobody cared (try booting with the \"irqpoll\" option)",
        "i8042: Timeout while waiting",
        "ata1: lost interrupt, timeout",
        "Failed to register",
    ];
    for line in demanded {
        assert_eq!(alarming(line), [line]);
    }
    assert!(alarming("Linux version 6.12\nreboot: Power down").is_empty());
    for (text, why) in allowed() {
        assert!(text.len() >= 20, "too short to mean one message: {text}");
        assert!(why.len() >= 20, "no reason: {text}");
        assert!(alarming(text).is_empty());
        assert!(ALARMS.iter().any(|alarm| text.contains(alarm)), "{text}");
    }
}
