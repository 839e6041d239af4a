//! The command line.

use std::process::exit;
use std::time::{Duration, Instant};

use oracle::{Case, Counts, Oracle, Way};

const USAGE: &str = "usage: oracle sweep [--states N] [--seed S] [--only PREFIX]
       oracle long --seconds N [--seed S] [--only PREFIX] [--counts FILE]
       oracle kvm [--seconds N] [--states N] [--seed S] [--only GROUP] [--case GROUP:SEED] [--record GROUP:SEED] [--keep N]
       oracle case 'TEXT'          run one case on both sides and show all
       oracle isa [FILE]           docs/ISA.md, with the counts of FILE (oracle/counts.txt)";

fn fail(text: &str) -> ! {
    eprintln!("{text}");
    exit(2)
}

struct Options {
    seconds: u64,
    seed: u64,
    states: u64,
    only: Option<String>,
    counts: Option<String>,
}

fn options(args: &[String]) -> Options {
    let mut o = Options {
        seconds: 0,
        seed: 1,
        states: 100,
        only: None,
        counts: None,
    };
    let mut rest = args.iter();
    while let Some(name) = rest.next() {
        let Some(value) = rest.next() else {
            fail(USAGE)
        };
        let number = || {
            value
                .parse()
                .unwrap_or_else(|_| fail(&format!("{name} wants a number, not {value}")))
        };
        match name.as_str() {
            "--seconds" => o.seconds = number(),
            "--seed" => o.seed = number(),
            "--states" => o.states = number(),
            "--only" => o.only = Some(value.clone()),
            "--counts" => o.counts = Some(value.clone()),
            _ => fail(USAGE),
        }
    }
    o
}

/// Runs the command.
pub fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else {
        fail(USAGE)
    };
    match command.as_str() {
        "sweep" => many(&options(rest), false),
        "long" => many(&options(rest), true),
        "kvm" => kvm(rest),
        "case" => one(&rest.join(" ")),
        "isa" => isa(rest.first().map_or("oracle/counts.txt", String::as_str)),
        _ => fail(USAGE),
    }
}

/// System-mode states on KVM's single step: many, or one case that a failure named.
fn kvm(args: &[String]) {
    use oracle::kvm;
    let mut options = kvm::Options {
        time: Duration::MAX,
        cases: u64::MAX,
        seed: 1,
        only: None,
        failures: usize::MAX,
    };
    let mut oracle = kvm::Oracle::new().unwrap_or_else(|e| fail(&e));
    let mut rest = args.iter();
    while let Some(name) = rest.next() {
        let Some(value) = rest.next() else {
            fail(USAGE)
        };
        let number = || {
            value
                .parse()
                .unwrap_or_else(|_| fail(&format!("{name} wants a number, not {value}")))
        };
        match name.as_str() {
            "--seconds" => options.time = Duration::from_secs(number()),
            "--states" => options.cases = number(),
            "--seed" => options.seed = number(),
            "--only" => options.only = Some(value.clone()),
            "--keep" => {
                oracle
                    .keep(number() as usize, options.seed)
                    .iter()
                    .for_each(|line| println!("{line}"));
                return;
            }
            "--case" | "--record" => {
                let (group, seed) = value
                    .split_once(":0x")
                    .unwrap_or_else(|| fail("a case is GROUP:0xSEED"));
                let seed = u64::from_str_radix(seed, 16)
                    .unwrap_or_else(|e| fail(&format!("{value}: {e}")));
                if name == "--record" {
                    println!("{}", oracle.record(group, seed));
                } else {
                    println!("{}", oracle.check(group, seed));
                }
                return;
            }
            _ => fail(USAGE),
        }
    }
    let report = oracle.run(&options);
    print!("{report}");
    exit(i32::from(!report.failures.is_empty()));
}

fn isa(path: &str) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| fail(&format!("{path}: {e}")));
    let counts = oracle::isa::parse_counts(&text).unwrap_or_else(|e| fail(&format!("{path}: {e}")));
    print!(
        "{}",
        oracle::isa::markdown(&counts, text.lines().next().unwrap_or_default())
    );
}

fn one(text: &str) {
    let case = Case::parse(text).unwrap_or_else(|e| fail(&e));
    let mut oracle = Oracle::start(0).unwrap_or_else(|e| fail(&e));
    for way in [Way::Step, Way::Chained] {
        println!(
            "{way:?}\n{}",
            oracle.show(&case, way).unwrap_or_else(|e| fail(&e))
        );
        println!(
            "differs:{}",
            oracle
                .check(&case, way)
                .unwrap_or_else(|e| fail(&e))
                .unwrap_or_default()
        );
    }
}

/// Two workers: each has a child of its own.
fn many(o: &Options, long: bool) {
    let start = Instant::now();
    let end = start + Duration::from_secs(o.seconds);
    let workers: Vec<_> = (0..2_u64)
        .map(|part| {
            let (seed, states, only) = (o.seed, o.states, o.only.clone());
            std::thread::spawn(move || worker(part, seed, states, only, long.then_some(end)))
        })
        .collect();
    let mut counts = Counts::new();
    let mut failures = Vec::new();
    let mut deaths = 0;
    let (mut windowed, mut window_faults, mut astray) = (0, 0, 0);
    let mut known = vec![0; oracle::KNOWN.len()];
    for worker in workers {
        let oracle = worker
            .join()
            .unwrap_or_else(|_| fail("a worker panicked"))
            .unwrap_or_else(|e| fail(&e));
        for (name, count) in &oracle.counts {
            counts.entry(name.clone()).or_default().add(count);
        }
        deaths += oracle.deaths();
        if let Some(done) = oracle.translated() {
            windowed += done.windowed;
            window_faults += done.window_faults;
            astray += done.astray;
        }
        known
            .iter_mut()
            .zip(&oracle.known)
            .for_each(|(a, b)| *a += b);
        failures.extend(oracle.failures);
    }
    let total: u64 = counts.values().map(|c| c.total()).sum();
    let different: u64 = counts.values().map(|c| c.different).sum();
    let faults: u64 = counts.values().map(|c| c.faults).sum();
    for failure in &failures {
        println!("{failure}");
    }
    for (name, count) in counts.iter().filter(|(_, c)| c.different + c.lost > 0) {
        println!(
            "{name}: {} of {} differ, {} lost",
            count.different,
            count.total(),
            count.lost
        );
    }
    for (row, count) in oracle::KNOWN.iter().zip(&known).filter(|(_, c)| **c > 0) {
        println!("known, {count} times: {}", row.reason);
    }
    if windowed + astray != 0 {
        println!(
            "{windowed} accesses made for windows, {window_faults} faulted there; {astray} went to the page that empty page caches name"
        );
    }
    println!(
        "{total} states of {} instructions, {faults} faults, {different} differ, {deaths} deaths, {:.1} s",
        counts.len(),
        start.elapsed().as_secs_f64()
    );
    if let Some(path) = &o.counts {
        let how = format!(
            "oracle long --seconds {} --seed {}: {total} states, {different} differ",
            o.seconds, o.seed
        );
        let written = std::fs::write(path, oracle::isa::counts_text(&counts, &how));
        written.unwrap_or_else(|e| fail(&format!("{path}: {e}")));
    }
    exit(i32::from(different > 0));
}

fn worker(
    part: u64,
    seed: u64,
    states: u64,
    only: Option<String>,
    end: Option<Instant>,
) -> Result<Oracle, String> {
    let mut oracle = Oracle::start(seed)?;
    let codes: Vec<_> = oracle
        .codes()
        .into_iter()
        .filter(|c| {
            only.as_ref()
                .is_none_or(|o| format!("{c:?}").starts_with(o.as_str()))
        })
        .enumerate()
        .filter(|(n, _)| *n as u64 % 2 == part)
        .map(|(_, c)| c)
        .collect();
    let widths = oracle.widths();
    let mut round = 0;
    loop {
        let seed = seed.wrapping_add(round << 32 | part << 62);
        for list in codes.chunks(16) {
            oracle.sweep(list, &widths, states, seed)?;
            if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
        }
        if only.is_none() {
            oracle.noise(&widths, states * 20, seed)?;
            oracle.sequences(&widths, states * 200, seed)?;
        }
        round += 1;
        if end.is_none_or(|end| Instant::now() >= end) {
            break;
        }
    }
    oracle.explain()?;
    Ok(oracle)
}
