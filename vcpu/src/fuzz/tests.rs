//! Seeded inputs for the targets, more of them with `DOPPEL_FUZZ_SEEDS`; and the table of encodings.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::templates;

/// The input of a seed.
fn input(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let len = 200 + next() % 800;
    (0..len).map(|_| (next() >> 24) as u8).collect()
}

/// The seeds that run, for the panic hook: a panic in a handler ends the process.
static RUNNING: [AtomicU64; 3] = [const { AtomicU64::new(u64::MAX) }; 3];

fn say_seeds() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let [code, compare, engines] =
                [0, 1, 2].map(|n| RUNNING[n].load(Ordering::Relaxed).cast_signed());
            eprintln!(
                "with seed {code} of the code target, {compare} of the comparison, {engines} of that of the engines (-1: none)"
            );
            usual(info);
        }));
    });
}

/// Runs seeds `first..`, `count` of them or what the environment says, and tells which one failed.
fn seeds(which: usize, count: u64, target: impl Fn(&[u8])) {
    say_seeds();
    let var = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let first = var("DOPPEL_FUZZ_FIRST").unwrap_or(0);
    let count = var("DOPPEL_FUZZ_SEEDS").unwrap_or(count);
    let mut failed = Vec::new();
    for seed in first..first + count {
        let data = input(seed);
        RUNNING[which].store(seed, Ordering::Relaxed);
        let start = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
            failed.push(seed);
        }
        let time = start.elapsed();
        if time > Duration::from_secs(2) {
            eprintln!("seed {seed} took {time:?}");
        }
    }
    RUNNING[which].store(u64::MAX, Ordering::Relaxed);
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed: {failed:?}",
        failed.len()
    );
}

#[test]
fn code_in_every_mode_does_no_harm() {
    seeds(0, 400, super::code);
}

#[test]
fn all_ways_to_run_code_agree() {
    let excused = AtomicU64::new(0);
    seeds(1, 400, |data| {
        if !super::compare(data) {
            excused.fetch_add(1, Ordering::Relaxed);
        }
    });
    eprintln!(
        "{} inputs spoiled their paging structures",
        excused.load(Ordering::Relaxed)
    );
}

#[test]
fn all_engines_agree() {
    let excused = AtomicU64::new(0);
    seeds(2, 400, |data| {
        if !super::engines(data) {
            excused.fetch_add(1, Ordering::Relaxed);
        }
    });
    eprintln!(
        "{} inputs spoiled their paging structures or differ in what is undefined",
        excused.load(Ordering::Relaxed)
    );
}

#[test]
fn inputs_that_end_early_are_inputs() {
    for len in 0..64 {
        for byte in [0, 0x55, 0xff] {
            super::code(&vec![byte; len]);
            super::compare(&vec![byte; len]);
            super::engines(&vec![byte; len]);
        }
    }
}

#[test]
fn templates_are_made_of_known_pieces() {
    let known = [
        "P", "W", "b", "w", "z", "n", "s", "p", "S", "A", "C", "T", "M", "m", "r", "mem", "code",
        "table",
    ];
    for template in templates::TABLE {
        for piece in template.split(' ') {
            let name = piece.split('/').next().unwrap_or_default();
            let hex = name.len() == 2 && u8::from_str_radix(name, 16).is_ok();
            assert!(hex || known.contains(&name), "{template}: {piece}");
        }
    }
}
