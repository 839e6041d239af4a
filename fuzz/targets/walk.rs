//! Paging structures through the page walker.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| softmmu::fuzz::walk(data));
