//! Bytes as code, the translator against the interpreter: see `vcpu::fuzz::engines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vcpu::fuzz::engines(data);
});
