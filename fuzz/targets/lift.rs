//! Bytes through decoder, lifter, verifier, printer and parser.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    frontend_x86::fuzz(data);
});
