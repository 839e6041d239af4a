//! Bytes as code, chained against alone: see `vcpu::fuzz::compare`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vcpu::fuzz::compare(data);
});
