//! Test ports for programs that test the CPU and the board: those of QEMU's pc-testdev (`--test-device`).
//!
//! E0h..E3h hold 32 bits; E4h is a page to "flush", ignored here; E8h, EAh and EBh alias
//! E0h, E2h and E3h a byte at a time (E9h is the console's); a write to
//! 2000h + n drives interrupt line n; 64 KiB at FF000000h are plain memory behind the bus.

use std::fmt;

use x86::PhysAddr;

use crate::clock::Nanos;
use crate::device::{Device, Mmio, Pio, PortRange, Region};
use crate::interrupt::IrqLine;

const MEMORY: u64 = 0xff00_0000;
const MEMORY_LEN: usize = 0x1_0000;
const LINES: u16 = 0x2000;

/// The device.
pub struct TestDevice {
    // Runtime glue
    lines: Vec<IrqLine>,
    // Volatile state
    value: [u8; 4],
    memory: Box<[u8]>,
}

impl fmt::Debug for TestDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDevice")
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

impl TestDevice {
    /// A test device that drives these lines.
    pub fn new(lines: Vec<IrqLine>) -> Self {
        Self {
            lines,
            value: [0; 4],
            memory: vec![0; MEMORY_LEN].into_boxed_slice(),
        }
    }

    fn memory_range(&self, addr: PhysAddr, size: u8) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(addr.0.checked_sub(MEMORY)?).ok()?;
        let end = start + usize::from(size);
        (end <= MEMORY_LEN).then_some(start..end)
    }
}

impl Device for TestDevice {
    fn name(&self) -> &'static str {
        "test-device"
    }

    fn reset(&mut self, _now: Nanos) {
        self.value = [0; 4];
        self.memory.fill(0);
        for line in &self.lines {
            line.set(false);
        }
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }
}

impl Pio for TestDevice {
    fn ports(&self) -> Vec<PortRange> {
        let lines = self.lines.len() as u16;
        vec![
            PortRange::wide(0xe0, 4),
            PortRange::wide(0xe4, 4),
            PortRange::bytes(0xe8, 1),
            PortRange::bytes(0xea, 2),
            PortRange::wide(LINES, lines),
        ]
    }

    fn pio_read(&mut self, _now: Nanos, port: u16, size: u8) -> u32 {
        match port {
            0xe0..=0xe3 | 0xe8..=0xeb => {
                let start = u32::from(port & 3);
                let value = u32::from_le_bytes(self.value) >> (8 * start);
                if size == 4 {
                    value
                } else {
                    value & ((1 << (8 * size)) - 1)
                }
            }
            _ => 0,
        }
    }

    fn pio_write(&mut self, _now: Nanos, port: u16, size: u8, value: u32) {
        match port {
            0xe0..=0xe3 | 0xe8..=0xeb => {
                let start = usize::from(port & 3);
                let bytes = value.to_le_bytes();
                for (old, &new) in self.value[start..]
                    .iter_mut()
                    .zip(&bytes[..usize::from(size.min(4))])
                {
                    *old = new;
                }
            }
            0xe4..=0xe7 => {}
            _ => {
                if let Some(line) = self.lines.get(usize::from(port - LINES)) {
                    line.set(value != 0);
                }
            }
        }
    }
}

impl Mmio for TestDevice {
    fn regions(&self) -> Vec<Region> {
        vec![Region {
            start: PhysAddr(MEMORY),
            len: MEMORY_LEN as u64,
        }]
    }

    fn mmio_read(&mut self, _now: Nanos, addr: PhysAddr, size: u8) -> u64 {
        let Some(range) = self.memory_range(addr, size) else {
            return u64::MAX;
        };
        self.memory[range]
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn mmio_write(&mut self, _now: Nanos, addr: PhysAddr, size: u8, value: u64) {
        if let Some(range) = self.memory_range(addr, size) {
            let len = range.len();
            self.memory[range].copy_from_slice(&value.to_le_bytes()[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;

    #[test]
    fn ports_memory_and_lines() {
        let m = Machine::with(|c| c.test_device = true);
        m.outl(0xe0, 0x1234_5678);
        assert_eq!(
            (m.inb(0xe1), m.inw(0xe2), m.inb(0xe8)),
            (0x56, 0x1234, 0x78)
        );
        m.outb(0xe3, 0xff);
        assert_eq!(m.inl(0xe0), 0xff34_5678);
        m.write64(0xff00_0100, 0x1122_3344_5566_7788);
        assert_eq!(m.read32(0xff00_0104), 0x1122_3344);
        m.enable_apic();
        m.ioapic(0x0e, 0x0077);
        m.outb(0x200e, 1);
        assert_eq!(m.ack(), Some(0x77));
        m.eoi();
        m.outb(0x200e, 0);
        m.outb(0x200e, 1);
        assert_eq!(m.ack(), Some(0x77));
        assert_eq!(
            Machine::new().inl(0xe0),
            u32::MAX,
            "not there unless asked for"
        );
    }
}
