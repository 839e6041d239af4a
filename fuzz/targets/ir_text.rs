//! Text through the IR's parser and printer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ir::text::fuzz_parse(data));
