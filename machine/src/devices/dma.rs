//! Two 8237 DMA controllers and their page registers, as far as firmware and memory testers touch them.
//!
//! No device on this board transfers through them yet: registers keep what is written, nothing moves.

use crate::clock::Nanos;
use crate::device::{Device, Pio, PortRange};

/// One controller's registers.
#[derive(Clone, Copy, Debug, Default)]
struct Controller {
    /// Address and count of channel n at 2n and 2n+1.
    registers: [u16; 8],
    high_byte: bool,
    command: u8,
    mask: u8,
    request: u8,
}

impl Controller {
    fn read(&mut self, register: u16) -> u8 {
        match register {
            0..=7 => {
                let [low, high] = self.registers[usize::from(register)].to_le_bytes();
                self.high_byte = !self.high_byte;
                if self.high_byte { low } else { high }
            }
            // Status: the requests; no terminal counts.
            8 => self.request << 4,
            15 => self.mask,
            _ => 0,
        }
    }

    fn write(&mut self, register: u16, value: u8) {
        match register {
            0..=7 => {
                let register = &mut self.registers[usize::from(register)];
                let [low, high] = register.to_le_bytes();
                *register = u16::from_le_bytes(if self.high_byte {
                    [low, value]
                } else {
                    [value, high]
                });
                self.high_byte = !self.high_byte;
            }
            8 => self.command = value,
            9 | 10 => {
                let bits = if register == 9 {
                    &mut self.request
                } else {
                    &mut self.mask
                };
                let bit = 1 << (value & 3);
                *bits = if value & 4 != 0 {
                    *bits | bit
                } else {
                    *bits & !bit
                };
            }
            12 => self.high_byte = false,
            13 => {
                *self = Self {
                    registers: self.registers,
                    mask: 0x0f,
                    ..Self::default()
                }
            }
            14 => self.mask = 0,
            15 => self.mask = value & 0x0f,
            _ => {}
        }
    }
}

/// Both controllers.
#[derive(Clone, Debug, Default)]
pub struct Dma {
    // Volatile state
    controllers: [Controller; 2],
    /// Ports 81h..8Fh; the one at 80h is the POST port's.
    pages: [u8; 16],
}

impl Device for Dma {
    fn name(&self) -> &'static str {
        "dma"
    }

    fn reset(&mut self, _now: Nanos) {
        *self = Self::default();
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for Dma {
    fn ports(&self) -> Vec<PortRange> {
        vec![
            PortRange::bytes(0x00, 16),
            PortRange::bytes(0x81, 15),
            PortRange::bytes(0xc0, 32),
        ]
    }

    fn pio_read(&mut self, _now: Nanos, port: u16, _size: u8) -> u32 {
        u32::from(match port {
            0x00..=0x0f => self.controllers[0].read(port),
            0x81..=0x8f => self.pages[usize::from(port & 15)],
            _ => self.controllers[1].read((port - 0xc0) / 2),
        })
    }

    fn pio_write(&mut self, _now: Nanos, port: u16, _size: u8, value: u32) {
        let value = value.to_le_bytes()[0];
        match port {
            0x00..=0x0f => self.controllers[0].write(port, value),
            0x81..=0x8f => self.pages[usize::from(port & 15)] = value,
            _ => self.controllers[1].write((port - 0xc0) / 2, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;

    #[test]
    fn registers_read_back() {
        let m = Machine::new();
        m.outb(0x0d, 0);
        m.outb(0x02, 0x34);
        m.outb(0x02, 0x12);
        assert_eq!((m.inb(0x02), m.inb(0x02)), (0x34, 0x12));
        m.outb(0xd8, 0);
        m.outb(0xc6, 0xcd);
        m.outb(0xc6, 0xab);
        assert_eq!((m.inb(0xc6), m.inb(0xc6)), (0xcd, 0xab));
        m.outb(0x87, 0x5a);
        assert_eq!(m.inb(0x87), 0x5a);
        m.outb(0x0a, 5);
        assert_eq!(m.inb(0x0f), 0x0f);
    }
}
