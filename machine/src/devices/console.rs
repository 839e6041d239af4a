//! Port E9h, where guests that know emulators print, and port 80h, where firmware shows its progress.

use std::fmt;

use crate::clock::Nanos;
use crate::device::{Device, Pio, PortRange};
use crate::sink::ByteSink;

/// The port E9h console. Reading it gives E9h, which tells that it is there.
pub struct E9Console {
    // Runtime glue
    output: Box<dyn ByteSink>,
}

impl fmt::Debug for E9Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("E9Console").finish_non_exhaustive()
    }
}

impl E9Console {
    /// A console that prints to `output`; what doesn't fit there is dropped, for this port can't say "wait".
    pub fn new(output: Box<dyn ByteSink>) -> Self {
        Self { output }
    }
}

impl Device for E9Console {
    fn name(&self) -> &'static str {
        "e9"
    }

    fn reset(&mut self, _now: Nanos) {}

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for E9Console {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::bytes(0xe9, 1)]
    }

    fn pio_read(&mut self, _now: Nanos, _port: u16, _size: u8) -> u32 {
        0xe9
    }

    fn pio_write(&mut self, _now: Nanos, _port: u16, _size: u8, value: u32) {
        self.output.put(value.to_le_bytes()[0]);
    }
}

/// The POST port. Writes are what firmware shows and what drivers use as a short delay; nothing comes of them.
#[derive(Clone, Debug, Default)]
pub struct PostPort {
    // Volatile state
    value: u8,
}

impl Device for PostPort {
    fn name(&self) -> &'static str {
        "post"
    }

    fn reset(&mut self, _now: Nanos) {
        self.value = 0;
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for PostPort {
    fn ports(&self) -> Vec<PortRange> {
        // EDh is the other port that drivers write to for a delay.
        vec![PortRange::bytes(0x80, 1), PortRange::bytes(0xed, 1)]
    }

    fn pio_read(&mut self, _now: Nanos, _port: u16, _size: u8) -> u32 {
        u32::from(self.value)
    }

    fn pio_write(&mut self, _now: Nanos, port: u16, _size: u8, value: u32) {
        if port == 0x80 {
            self.value = value.to_le_bytes()[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;

    #[test]
    fn e9_prints_and_post_remembers() {
        let m = Machine::new();
        for byte in b"hi" {
            m.outb(0xe9, *byte);
        }
        assert_eq!(m.e9.text(), "hi");
        assert_eq!(m.inb(0xe9), 0xe9);
        m.outb(0x80, 0x42);
        assert_eq!(m.inb(0x80), 0x42);
    }
}
