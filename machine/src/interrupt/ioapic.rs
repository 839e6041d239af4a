//! The I/O APIC: 24 inputs, each with a redirection entry (Intel 82093AA data sheet; version 20h adds the EOI register).
//!
//! Pure state: the [`Router`](super::Router) holds it under its lock and passes a sink for its messages.

use super::message::{Delivery, Destination, Message, Mode};

/// Number of inputs.
pub const PINS: usize = 24;
/// Where its registers are.
pub const BASE: u64 = 0xfec0_0000;
/// Bytes of its register window.
pub const LEN: u64 = 0x1000;
/// The APIC id it has after reset and that the MADT tells.
pub const ID: u8 = 0;

const VERSION: u32 = 0x20 | ((PINS as u32 - 1) << 16);

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const LOGICAL: u64 = 1 << 11;
/// Delivery status and remote IRR can only be read.
const READ_ONLY: u64 = REMOTE_IRR | 1 << 12;
const WRITABLE: u64 = 0xff00_0000_0001_efff;

/// The I/O APIC's registers.
#[derive(Clone, Debug)]
pub struct IoApic {
    // Volatile state
    id: u32,
    select: u8,
    entries: [u64; PINS],
    /// The levels of the inputs, a bit each.
    pins: u32,
}

/// Where messages go.
pub type Sink<'a> = &'a mut dyn FnMut(&Message) -> Delivery;

impl Default for IoApic {
    fn default() -> Self {
        Self {
            id: u32::from(ID) << 24,
            select: 0,
            entries: [MASKED; PINS],
            pins: 0,
        }
    }
}

impl IoApic {
    /// Power-on state; the inputs keep their levels.
    pub fn reset(&mut self) {
        *self = Self {
            pins: self.pins,
            ..Self::default()
        };
    }

    /// Drives input `pin`.
    pub fn set_pin(&mut self, pin: usize, level: bool, sink: Sink<'_>) -> Delivery {
        let Some(&entry) = self.entries.get(pin) else {
            return Delivery::Masked;
        };
        let bit = 1 << pin;
        let rising = level && self.pins & bit == 0;
        if level {
            self.pins |= bit;
        } else {
            self.pins &= !bit;
        }
        if entry & LEVEL != 0 {
            self.service_level(pin, sink)
        } else if rising && entry & MASKED == 0 {
            sink(&message(entry))
        } else {
            Delivery::Masked
        }
    }

    /// Sends a level-triggered input's message if it is up, not masked, and not being serviced.
    fn service_level(&mut self, pin: usize, sink: Sink<'_>) -> Delivery {
        let entry = self.entries[pin];
        if entry & (LEVEL | MASKED) != LEVEL || self.pins & (1 << pin) == 0 {
            return Delivery::Masked;
        }
        if entry & REMOTE_IRR != 0 {
            return Delivery::Lost;
        }
        let delivery = sink(&message(entry));
        // A message that no local APIC accepted has no EOI to wait for; one that isn't a vector neither.
        if delivery != Delivery::Masked
            && matches!(message(entry).mode, Mode::Fixed | Mode::LowestPriority)
        {
            self.entries[pin] |= REMOTE_IRR;
        }
        delivery
    }

    /// A local APIC completed level-triggered `vector`: inputs that are still up fire again.
    pub fn eoi(&mut self, vector: u8, sink: Sink<'_>) {
        for pin in 0..PINS {
            let entry = self.entries[pin];
            if entry & LEVEL != 0 && entry & REMOTE_IRR != 0 && entry.to_le_bytes()[0] == vector {
                self.entries[pin] &= !REMOTE_IRR;
                self.service_level(pin, sink);
            }
        }
    }

    /// Reads the register at `offset` into the window.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => u32::from(self.select),
            0x10 => match self.select {
                0 | 2 => self.id,
                1 => VERSION,
                index @ 0x10..=0x3f => {
                    let entry = self.entries[usize::from(index - 0x10) / 2];
                    if index & 1 == 0 {
                        entry as u32
                    } else {
                        (entry >> 32) as u32
                    }
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes the register at `offset` into the window.
    pub fn write(&mut self, offset: u64, value: u32, sink: Sink<'_>) {
        match offset {
            0x00 => self.select = value.to_le_bytes()[0],
            0x10 => match self.select {
                0 => self.id = value & 0x0f00_0000,
                index @ 0x10..=0x3f => {
                    let pin = usize::from(index - 0x10) / 2;
                    let old = self.entries[pin];
                    let new = if index & 1 == 0 {
                        (old & !0xffff_ffff) | u64::from(value)
                    } else {
                        (old & 0xffff_ffff) | u64::from(value) << 32
                    };
                    let mut new = (new & WRITABLE & !READ_ONLY) | (old & READ_ONLY);
                    if new & LEVEL == 0 {
                        // Edge-triggered inputs have no remote IRR; guests clear a stuck one this way.
                        new &= !REMOTE_IRR;
                    }
                    self.entries[pin] = new;
                    self.service_level(pin, sink);
                }
                _ => {}
            },
            0x40 => self.eoi(value.to_le_bytes()[0], sink),
            _ => {}
        }
    }
}

/// The message that an entry describes.
fn message(entry: u64) -> Message {
    let [vector, .., dest] = entry.to_le_bytes();
    Message {
        dest: Destination::from_8_bits(dest, entry & LOGICAL != 0),
        mode: Mode::from_bits((entry >> 8) as u32),
        vector,
        level: entry & LEVEL != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{Delivery, IoApic, Message};

    struct Bus(Vec<u8>);

    impl Bus {
        fn sink(&mut self) -> impl FnMut(&Message) -> Delivery + '_ {
            |m| {
                self.0.push(m.vector);
                Delivery::Taken
            }
        }
    }

    fn program(apic: &mut IoApic, bus: &mut Bus, pin: u32, low: u32) {
        apic.write(0, 0x10 + 2 * pin, &mut bus.sink());
        apic.write(0x10, low, &mut bus.sink());
    }

    #[test]
    fn ioapic_level_lines_keep_remote_irr_until_eoi_and_fire_again() {
        let (mut apic, mut bus) = (IoApic::default(), Bus(Vec::new()));
        program(&mut apic, &mut bus, 9, 0x8051);
        apic.set_pin(9, true, &mut bus.sink());
        apic.set_pin(9, true, &mut bus.sink());
        assert_eq!(bus.0, [0x51], "once until the EOI");
        assert_eq!(apic.read(0x10), 0xc051, "remote IRR");
        apic.eoi(0x51, &mut bus.sink());
        assert_eq!(bus.0, [0x51, 0x51], "still up, so again");
        apic.set_pin(9, false, &mut bus.sink());
        apic.eoi(0x51, &mut bus.sink());
        assert_eq!(bus.0.len(), 2);
        assert_eq!(apic.read(0x10), 0x8051);
    }

    #[test]
    fn a_masked_level_line_fires_when_it_is_unmasked() {
        let (mut apic, mut bus) = (IoApic::default(), Bus(Vec::new()));
        program(&mut apic, &mut bus, 16, 0x1_8060);
        apic.set_pin(16, true, &mut bus.sink());
        assert!(bus.0.is_empty());
        program(&mut apic, &mut bus, 16, 0x8060);
        assert_eq!(bus.0, [0x60]);
    }

    #[test]
    fn an_edge_fires_once_and_is_lost_while_masked() {
        let (mut apic, mut bus) = (IoApic::default(), Bus(Vec::new()));
        program(&mut apic, &mut bus, 2, 0x0030);
        apic.set_pin(2, true, &mut bus.sink());
        apic.set_pin(2, true, &mut bus.sink());
        assert_eq!(bus.0, [0x30]);
        apic.set_pin(2, false, &mut bus.sink());
        program(&mut apic, &mut bus, 2, 0x1_0030);
        apic.set_pin(2, true, &mut bus.sink());
        program(&mut apic, &mut bus, 2, 0x0030);
        assert_eq!(bus.0, [0x30]);
    }

    #[test]
    fn the_eoi_register_works_and_switching_to_edge_clears_remote_irr() {
        let (mut apic, mut bus) = (IoApic::default(), Bus(Vec::new()));
        program(&mut apic, &mut bus, 5, 0x8070);
        apic.set_pin(5, true, &mut bus.sink());
        apic.write(0x40, 0x70, &mut bus.sink());
        assert_eq!(bus.0.len(), 2);
        program(&mut apic, &mut bus, 5, 0x1_0070);
        program(&mut apic, &mut bus, 5, 0x1_8070);
        assert_eq!(apic.read(0x10) & 0x4000, 0);
    }

    #[test]
    fn version_and_number_of_pins() {
        let mut apic = IoApic::default();
        apic.write(0, 1, &mut |_| Delivery::Taken);
        assert_eq!(apic.read(0x10), 0x0017_0020);
    }

    #[test]
    fn entries_survive_as_written_but_for_read_only_bits() {
        let (mut apic, mut bus) = (IoApic::default(), Bus(Vec::new()));
        program(&mut apic, &mut bus, 23, 0xffff_ffff);
        assert_eq!(apic.read(0x10), 0x0001_afff);
        apic.write(0, 0x3f, &mut bus.sink());
        apic.write(0x10, 0xffff_ffff, &mut bus.sink());
        assert_eq!(apic.read(0x10), 0xff00_0000);
    }
}
