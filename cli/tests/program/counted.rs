//! Instructions as time, and engines that check each other.

use std::process::Output;

use crate::common::{Temporary, exit, kernel, print, run, run_with, words};

/// Ends with AL: out F4h, al; hlt.
const END: [u8; 3] = [0xe6, 0xf4, 0xf4];

/// Runs a kernel with some options more.
fn counted(guest: &Temporary, more: &[&str]) -> Output {
    let mut arguments = vec!["run", "--kernel", guest.path(), "--debug-exit", "0xf4"];
    arguments.extend(["--mem", "16M"]);
    arguments.extend(more);
    run(&arguments)
}

#[test]
fn the_tsc_counts_instructions() {
    // rdtsc; mov ebx, eax; ten nops; rdtsc; sub eax, ebx
    let code = [
        &[0x0f, 0x31, 0x89, 0xc3][..],
        &[0x90; 10],
        &[0x0f, 0x31, 0x29, 0xd8],
        &END,
    ]
    .concat();
    let guest = Temporary::new("tsc", &kernel(&code));
    for more in [
        &["--engine", "interp", "--icount"][..],
        &["--engine", "jit", "--icount"],
        &["--engine", "jit", "--verify", "interp"],
    ] {
        let output = counted(&guest, more);
        assert_eq!(
            output.status.code(),
            Some(12 << 1 | 1),
            "{more:?} {output:?}"
        );
    }
}

#[test]
fn random_numbers_come_from_the_seed() {
    // rdrand eax; in AL its low byte
    let guest = Temporary::new("rdrand", &kernel(&[&[0x0f, 0xc7, 0xf0][..], &END].concat()));
    let status = |more: &[&str]| counted(&guest, more).status.code().expect("a status");
    assert_eq!(status(&["--icount"]), status(&["--icount", "--seed", "0"]));
    assert_eq!(
        status(&["--icount", "--seed", "7"]),
        status(&["--verify", "interp", "--seed", "7"])
    );
    let all: Vec<i32> = ["1", "2", "3", "4"]
        .iter()
        .map(|seed| status(&["--icount", "--seed", seed]))
        .collect();
    assert!(all.iter().any(|one| *one != all[0]), "{all:?}");
}

#[test]
fn a_second_is_as_many_instructions() {
    // The RTC's second changes after a second of the guest's time, however fast the host is:
    // xor al, al; out 70h, al; in al, 71h; mov bl, al; again: mov ecx, 100000; loop $; in al, 71h; cmp al, bl; je again
    let code = [
        &[0x30, 0xc0, 0xe6, 0x70, 0xe4, 0x71, 0x88, 0xc3][..],
        &[0xb9, 0xa0, 0x86, 0x01, 0x00, 0xe2, 0xfe],
        &[0xe4, 0x71, 0x38, 0xd8, 0x74, 0xf3],
        &exit(6),
    ]
    .concat();
    let guest = Temporary::new("second", &kernel(&code));
    let output = counted(&guest, &["--engine", "jit", "--icount", "--stats"]);
    assert_eq!(output.status.code(), Some(13), "{output:?}");
    let said = words(&output);
    let ns: u64 = said
        .lines()
        .find(|line| line.contains("icount: "))
        .and_then(|line| line.split_once(" instructions, ")?.1.split(' ').next())
        .and_then(|number| number.parse().ok())
        .expect("the time is told");
    assert!((900_000_000..1_100_000_000).contains(&ns), "{said}");
}

#[test]
fn two_runs_are_the_same() {
    let guest = Temporary::new("twice", &kernel(&[print("the same"), exit(1)].concat()));
    let run = || {
        let output = counted(&guest, &["--engine", "interp", "--icount", "--stats"]);
        let line = words(&output)
            .lines()
            .find(|line| line.contains("icount: "))
            .expect("the count is told")
            .to_owned();
        (output.stdout, line, output.status.code())
    };
    let first = run();
    assert_eq!(first.0, b"the same");
    assert_eq!(first, run());
}

#[test]
fn a_verified_machine_is_a_whole_one() {
    // CMOS byte 50h outlives a reset: count there, print, end at the third time.
    let mut code = vec![
        0xb0, 0x50, 0xe6, 0x70, 0xe4, 0x71, 0xfe, 0xc0, 0xe6, 0x71, 0x3c, 0x03, 0x75, 0x05,
    ];
    code.extend(exit(9));
    code.extend(print("again "));
    code.extend([0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe]);
    let guest = Temporary::new("verified", &kernel(&code));
    for (leader, follower) in [("interp", "interp"), ("jit", "interp"), ("interp", "jit")] {
        let more = ["--engine", leader, "--verify", follower, "--stats"];
        let output = counted(&guest, &more);
        assert_eq!(output.status.code(), Some(19), "{output:?}");
        assert_eq!(output.stdout, b"again again ");
        assert!(words(&output).contains("verify: compared "), "{output:?}");
    }
}

#[test]
fn input_reaches_leader_and_follower() {
    // mov dx, 3FDh; again: in al, dx; test al, 1; jz again; mov dl, F8h; in al, dx; add al, 1; out dx, al
    let mut code = vec![
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xb2, 0xf8, 0xec, 0x04, 0x01, 0xee,
    ];
    code.extend(exit(2));
    let guest = Temporary::new("verified-input", &kernel(&code));
    let arguments = [
        "run",
        "--kernel",
        guest.path(),
        "--debug-exit",
        "0xf4",
        "--engine",
        "jit",
        "--verify",
        "interp",
    ];
    let output = run_with(&arguments, b"x");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(output.stdout, b"y");
}
