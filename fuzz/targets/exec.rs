//! Lines of `doppel exec`, and single cases.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vcpu::exec::fuzz(data));
