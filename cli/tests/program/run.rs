//! Machines that run tiny kernels: output, statuses, signals, and streams that end.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use crate::common::{Temporary, doppel, exit, kernel, print, run, run_with, words};

/// jmp to itself.
const FOREVER: [u8; 2] = [0xeb, 0xfe];

#[test]
fn output_comes_out_and_the_guest_chooses_the_status() {
    let guest = Temporary::new(
        "hello",
        &kernel(&[print("hello, \u{1b}[1mworld\r\n"), exit(0x31)].concat()),
    );
    let output = run(&["run", "--kernel", guest.path(), "--debug-exit", "0xf4"]);
    assert_eq!(output.status.code(), Some(0x63), "{output:?}");
    assert_eq!(output.stdout, b"hello, \x1b[1mworld\r\n");
    let said = words(&output);
    assert!(
        said.contains("engine ") && said.contains("--engine"),
        "{said}"
    );
    let output = run(&[
        "run",
        "--engine",
        "interp",
        "--kernel",
        guest.path(),
        "--debug-exit",
        "244",
        "--mem",
        "16M",
    ]);
    assert_eq!(
        (output.status.code(), words(&output).as_str()),
        (Some(0x63), "")
    );
}

#[test]
fn ports_can_lead_elsewhere() {
    let guest = Temporary::new("file-out", &kernel(&[print("to a file"), exit(0)].concat()));
    let file = Temporary::new("serial", b"old and longer than the new");
    let serial = format!("file:{}", file.path());
    let output = run(&[
        "run",
        "--kernel",
        guest.path(),
        "--debug-exit",
        "0xf4",
        "--engine",
        "interp",
        "--serial",
        &serial,
        "--stats",
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    assert_eq!(std::fs::read(file.path()).expect("written"), b"to a file");
    assert!(words(&output).contains("instructions "), "{output:?}");
    let output = run(&[
        "run",
        "--kernel",
        guest.path(),
        "--debug-exit",
        "0xf4",
        "--serial",
        "none",
    ]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

/// Waits for a byte on COM1, sends it back, `count` times, then ends with 5.
fn echo(count: u8) -> Vec<u8> {
    let mut code = vec![0xb9, count, 0, 0, 0];
    // again: mov dx, 3FDh; in al, dx; test al, 1; jz again; mov dl, F8h; in al, dx; out dx, al; loop again
    code.extend_from_slice(&[
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0xb2, 0xf8, 0xec, 0xee, 0xe2, 0xf1,
    ]);
    code.extend(exit(5));
    code
}

#[test]
fn input_goes_in_and_its_end_is_ignored() {
    let guest = Temporary::new("echo", &kernel(&echo(6)));
    let output = run_with(
        &["run", "--kernel", guest.path(), "--debug-exit", "0xf4"],
        b"a\x01x\x03\xffz",
    );
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    assert_eq!(
        output.stdout, b"a\x01x\x03\xffz",
        "no terminal: bytes go as they come"
    );
    let late = [vec![0xb9, 0, 0, 0x10, 0, 0x49, 0x75, 0xfd], exit(1)].concat();
    let guest = Temporary::new("late", &kernel(&late));
    let output = run_with(
        &["run", "--kernel", guest.path(), "--debug-exit", "0xf4"],
        b"",
    );
    assert_eq!(
        output.status.code(),
        Some(3),
        "the end of stdin is no reason to end: {output:?}"
    );
}

#[test]
fn triple_faults_and_resets() {
    // lidt of a table of zero bytes, then int3.
    let code = [
        0x0f, 0x01, 0x1d, 0x2a, 0, 0x10, 0, 0xcc, 0x90, 0x90, 0, 0, 0, 0, 0, 0,
    ];
    let guest = Temporary::new("triple", &kernel(&code));
    let output = run(&[
        "run",
        "--engine",
        "interp",
        "--kernel",
        guest.path(),
        "--no-reboot",
    ]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("doppel: triple fault") && said.contains("rip 0x0000000000100027"),
        "{said}"
    );
    // mov al, FEh; out 64h, al: the keyboard controller resets the machine.
    let guest = Temporary::new(
        "reset",
        &kernel(&[&[0xb0, 0xfe, 0xe6, 0x64][..], &FOREVER].concat()),
    );
    let output = run(&[
        "run",
        "--engine",
        "interp",
        "--kernel",
        guest.path(),
        "--no-reboot",
    ]);
    assert_eq!(
        (output.status.code(), output.stderr.len()),
        (Some(0), 0),
        "{output:?}"
    );
}

#[test]
fn without_no_reboot_the_kernel_is_loaded_anew() {
    // CMOS byte 50h outlives a reset: count there, print, end at the third time.
    let mut code = vec![
        0xb0, 0x50, 0xe6, 0x70, 0xe4, 0x71, 0xfe, 0xc0, 0xe6, 0x71, 0x3c, 0x03, 0x75, 0x05,
    ];
    code.extend(exit(9));
    code.extend(print("again "));
    code.extend([0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe]);
    let guest = Temporary::new("reboot", &kernel(&code));
    let output = run(&["run", "--kernel", guest.path(), "--debug-exit", "0xf4"]);
    assert_eq!(output.status.code(), Some(19), "{output:?}");
    assert_eq!(output.stdout, b"again again ");
}

#[test]
fn a_closed_stdout_is_a_host_error() {
    // mov dx, 3F8h; again: mov al, 'x'; out dx, al; jmp again
    let code = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfb];
    let guest = Temporary::new("talker", &kernel(&code));
    let mut child = doppel(&["run", "--kernel", guest.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("doppel starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0; 16]).expect("the guest talks");
    drop(stdout);
    let output = child.wait_with_output().expect("doppel ends");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(
        words(&output).contains("cannot write to stdout"),
        "{output:?}"
    );
    let shell = format!(
        "exec {} run --kernel {} >&-",
        env!("CARGO_BIN_EXE_doppel"),
        guest.path()
    );
    let output = Command::new("sh")
        .args(["-c", &shell])
        .stdin(Stdio::null())
        .output()
        .expect("sh starts");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(words(&output).contains("stdout is closed"), "{output:?}");
}

#[test]
fn signals_end_the_process_by_themselves() {
    let guest = Temporary::new("runner", &kernel(&[print("up"), FOREVER.to_vec()].concat()));
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let mut child = doppel(&["run", "--kernel", guest.path()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("doppel starts");
        let mut stdout = child.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0; 2]).expect("the guest is up");
        let killed = Command::new("kill")
            .args([&format!("-{name}"), &child.id().to_string()])
            .status();
        assert!(killed.expect("kill starts").success());
        let status = child.wait().expect("doppel ends");
        assert_eq!(status.signal(), Some(number), "{status:?}");
    }
}

/// As [`run`], with a limit to the address space in MiB.
fn limited(mib: u64, arguments: &[&str]) -> Output {
    let doppel = doppel(arguments);
    Command::new("sh")
        .args(["-c", "ulimit -v $0 && ulimit -c 0 && exec \"$@\""])
        .arg((mib << 10).to_string())
        .arg(doppel.get_program())
        .args(doppel.get_args())
        .stdin(Stdio::null())
        .output()
        .expect("there is a shell")
}

#[test]
fn little_address_space_means_smaller_caches_or_an_error_and_nothing_else() {
    let guest = Temporary::new(
        "little",
        &kernel(&[print("here I am"), exit(0x31)].concat()),
    );
    for cpus in ["1", "3"] {
        let arguments = [
            "run",
            "--engine",
            "jit",
            "--kernel",
            guest.path(),
            "--debug-exit",
            "0xf4",
            "--mem",
            "64M",
            "--cpus",
            cpus,
        ];
        let (mut refused, mut smaller, mut whole) = (0, 0, 0);
        for mib in (64..1024).step_by(16) {
            let output = limited(mib, &arguments);
            let said = words(&output);
            match output.status.code() {
                Some(4) => {
                    assert!(said.contains("choose a smaller --mem"), "{mib}: {said}");
                    refused += 1;
                }
                Some(0x63) => {
                    assert_eq!(output.stdout, b"here I am", "{mib}");
                    assert!(said.lines().count() <= 1, "{mib}: {said}");
                    *(if said.contains("little memory") {
                        &mut smaller
                    } else {
                        &mut whole
                    }) += 1;
                }
                _ => panic!("{mib}: {output:?}"),
            }
        }
        assert!(
            refused > 3 && smaller > 3 && whole > 3,
            "{refused} {smaller} {whole}"
        );
    }
}

#[test]
fn a_full_disk_under_a_dump_does_not_end_the_guest() {
    let guest = Temporary::new("dumped", &kernel(&[print("done"), exit(0)].concat()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = doppel(&["run", "--kernel", guest.path(), "--debug-exit", "0xf4"]);
    command.args(["--engine", "jit", "--dump", "ir,asm"]);
    let output = command
        .stdin(Stdio::null())
        .stderr(full.expect("Linux has it"))
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"done");
}
