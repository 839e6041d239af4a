//! Register accesses, time and input for a device of the board; the first byte chooses it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((first, rest)) = data.split_first() {
        let targets = machine::fuzz::TARGETS;
        machine::fuzz::device(targets[usize::from(*first) % targets.len()], rest);
    }
});
