//! A file as a kernel of each boot protocol; the first byte chooses it.
#![no_main]

use machine::loader::Protocol;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    use Protocol::{Auto, Linux, Multiboot, Multiboot2, Pvh};
    if let Some((first, rest)) = data.split_first() {
        let protocol = [Auto, Linux, Multiboot2, Multiboot, Pvh][usize::from(*first) % 5];
        machine::loader::fuzz::load(protocol, rest);
    }
});
