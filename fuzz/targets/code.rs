//! Bytes as code in every mode, on one vCPU or two: see `vcpu::fuzz::code`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vcpu::fuzz::code(data));
