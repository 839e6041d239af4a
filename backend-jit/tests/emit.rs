//! File tests of emission: `tests/emit/*.txt`, guest code and the host code made of it, so that a change of its size shows
//! in review. `BLESS=1 cargo test -p backend-jit --test emit` accepts what comes out.
//!
//! A file begins with `emit 64|32|16 user|kernel [hops|large|window|avx512|trace]`, and a line with the sums that `BLESS` keeps. A case is a line `# what it
//! is`, bytes in hex, a line `=>`, then the guest's instructions, sizes, and the host's: `hot` runs every time. In a file of traces
//! each part's bytes stand behind a line `part BY` (its distance from the trace's start) and before a line `leave ORD TARGET` (by which
//! instruction the trace leaves it, and where to).
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

use std::fmt::Write as _;
use std::path::Path;

use backend_jit::{Memory, TracePart, emitted, emitted_trace};
use frontend_x86::{Features, Mode};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use system::CpuModel;
use system::testing::Machine;
use x86::{CpuState, cr4, xcr0};

/// The state whose mode a file's header names.
fn state(header: &str) -> Option<CpuState> {
    let cpl = match header.split(' ').nth(2)? {
        "user" => 3,
        "kernel" => 0,
        _ => return None,
    };
    let machine = match header.split(' ').nth(1)? {
        "64" => Machine::long(cpl, true),
        "32" => Machine::protected(cpl),
        // Real mode: it has no levels.
        "16" => Machine::real(),
        _ => return None,
    };
    let mut st = machine.v.st.clone();
    st.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    st.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
    if avx512(header) {
        st.xcr0 |= xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM;
    }
    Some(st)
}

/// Whether a file is for guests with AVX-512.
fn avx512(header: &str) -> bool {
    header.ends_with(" avx512")
}

/// How a file's code finds memory.
fn memory(header: &str) -> Memory {
    match header.rsplit(' ').next() {
        Some("hops") => Memory::Tlb,
        Some("large") => Memory::Large,
        Some("window") => Memory::Window,
        _ => Memory::Pages,
    }
}

/// What a case makes: the text behind `=>`, and the bytes of guest code, hot code and cold code.
fn output(input: &str, header: &str, mode: Mode, features: &Features) -> (String, [u32; 3]) {
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    let mut list = |code: &[u8], at: u64| {
        for instruction in Decoder::with_ip(mode.code().bits(), code, at, DecoderOptions::NONE) {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            writeln!(text, "{line}").unwrap();
        }
    };
    const START: u64 = 0x40_1000;
    let memory = memory(header);
    let trace = header.ends_with(" trace");
    let emitted = if trace {
        let parts = parts(input).unwrap_or_else(|| panic!("parts of a trace: {input}"));
        for part in &parts {
            list(&part.code, START.wrapping_add_signed(part.by.into()));
        }
        emitted_trace(&parts, mode, features, memory)
    } else {
        let hex: String = input.lines().flat_map(|line| [line, " "]).collect();
        let code = bytes(&hex).unwrap_or_else(|| panic!("bytes in hex: {input}"));
        list(&code, START);
        emitted(&code, mode, features, memory)
    };
    let Some(emitted) = emitted else {
        text.push_str(if trace { "no trace\n" } else { "interpreted\n" });
        return (text, [0; 3]);
    };
    let (guest, hot, cold) = (emitted.guest, emitted.hot, emitted.cold);
    writeln!(text, "guest {guest}, hot {hot}, cold {cold}").unwrap();
    text.push_str(&emitted.text);
    (text, [guest, hot, cold])
}

/// The parts of a trace.
fn parts(input: &str) -> Option<Vec<TracePart>> {
    let mut parts: Vec<TracePart> = Vec::new();
    for line in input.lines() {
        let part = parts.last_mut();
        if let Some(by) = line.strip_prefix("part ") {
            parts.push(TracePart {
                by: by.parse().ok()?,
                code: Vec::new(),
                leave: None,
            });
        } else if let Some(leave) = line.strip_prefix("leave ") {
            let (ord, target) = leave.split_once(' ')?;
            part?.leave = Some((ord.parse().ok()?, target.parse().ok()?));
        } else {
            part?.code.extend(bytes(line)?);
        }
    }
    Some(parts)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    hex.split_whitespace()
        .map(|b| u8::from_str_radix(b, 16).ok())
        .collect()
}

/// Whether this host has what the committed code was made for.
fn as_committed() -> bool {
    ["avx2", "fma", "bmi2", "aes"]
        .iter()
        .all(|feature| match *feature {
            "avx2" => is_x86_feature_detected!("avx2"),
            "fma" => is_x86_feature_detected!("fma"),
            "bmi2" => is_x86_feature_detected!("bmi2"),
            _ => is_x86_feature_detected!("aes"),
        })
}

#[test]
fn files() {
    if !as_committed() {
        eprintln!("skipped: the host lacks AVX2, FMA, BMI2 or AES, for which other code is made");
        return;
    }
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emit");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let (mut count, mut failures) = (0, String::new());
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut cases = text.split("\n# ");
        let header = cases
            .next()
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        let st = state(header).unwrap_or_else(|| panic!("{name}:1: emit 64|32|16 user|kernel"));
        if avx512(header) && !is_x86_feature_detected!("avx512bw") {
            eprintln!("{name} skipped: the host lacks AVX-512, without which it is interpreted");
            continue;
        }
        let model = if avx512(header) {
            "max,+avx512bw,+avx512vl,+avx512dq"
        } else {
            "max,-avx512f"
        };
        let mode = Mode::of(&st);
        let model = CpuModel::parse(model).unwrap();
        let features = Features::new(&model.features_iced());
        let (mut blessed, mut sums) = (String::new(), [0; 3]);
        for case in cases {
            count += 1;
            let place = format!("{name}: {}", case.lines().next().unwrap_or_default());
            let (input, expected) = case
                .split_once("\n=>\n")
                .unwrap_or_else(|| panic!("{place}: no `=>`"));
            let (_, body) = input.split_once('\n').unwrap_or_default();
            let (got, sizes) = output(body, header, mode, &features);
            if got.trim() != expected.trim() {
                write!(failures, "\n{place}\n  expected\n{expected}\n  got\n{got}").unwrap();
            }
            for (sum, size) in sums.iter_mut().zip(sizes) {
                *sum += size;
            }
            write!(blessed, "\n# {input}\n=>\n{got}").unwrap();
        }
        let [guest, hot, cold] = sums;
        let per = |size: u32| f64::from(size) / f64::from(guest.max(1));
        let sums = format!(
            "in all: guest {guest}, hot {hot} ({:.2} a byte), cold {cold} ({:.2})",
            per(hot),
            per(cold)
        );
        let blessed = format!("{header}\n{sums}\n{blessed}");
        if bless && blessed != text {
            std::fs::write(&path, &blessed).unwrap();
        } else if text.lines().nth(1) != Some(&sums) {
            write!(failures, "\n{name}: {sums}\n").unwrap();
        }
    }
    assert!(count >= 60, "only {count} cases found");
    assert!(
        bless || failures.is_empty(),
        "{failures}\nIf this is right: BLESS=1 cargo test -p backend-jit --test emit\n"
    );
}

#[test]
fn code_does_not_depend_on_where_it_lies() {
    let st = state("emit 64 user").unwrap();
    let features = Features::new(&Machine::long(0, true).v.model.features_iced());
    let make = || {
        emitted(
            &[0x48, 0x8b, 0x03, 0xc3],
            Mode::of(&st),
            &features,
            Memory::Pages,
        )
        .unwrap()
    };
    assert_eq!(make(), make());
}
