//! PCI: configuration space, base address registers, and what a function on the bus is to the board.
//!
//! The board decodes CF8h/CFCh and the windows that BARs open; functions are devices with the [`PciFunction`] capability.

pub mod host;
pub mod isa;

use crate::clock::Nanos;

/// The address register, written with 32 bits.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// The data register, whose four bytes can be accessed in any way.
pub const DATA_PORT: u16 = 0xcfc;

/// A function's place on bus 0: bits 7:3 the device, 2:0 the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DevFn(pub u8);

impl DevFn {
    /// Device `device` (0..=31), function `function` (0..=7).
    pub const fn new(device: u8, function: u8) -> Self {
        Self(device << 3 | function & 7)
    }
}

/// What a BAR opens a window to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// I/O ports.
    Io,
    /// Memory.
    Memory,
}

/// A window that a function claims now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Ports or memory.
    pub space: Space,
    /// First port or address.
    pub start: u64,
    /// Ports or bytes.
    pub len: u64,
    /// The BAR that opens it.
    pub bar: usize,
}

/// A device that is a function on the PCI bus.
pub trait PciFunction {
    /// Its place on bus 0.
    fn devfn(&self) -> DevFn;
    /// Reads `size` (1, 2, 4) bytes of configuration space, aligned.
    fn config_read(&mut self, now: Nanos, offset: u8, size: u8) -> u32;
    /// Writes `size` (1, 2, 4) bytes of configuration space, aligned.
    fn config_write(&mut self, now: Nanos, offset: u8, size: u8, value: u32);
    /// The windows open now; asked after every configuration write.
    fn windows(&self) -> Vec<Window> {
        Vec::new()
    }
    /// Reads `size` bytes at `offset` into the window of `bar`.
    fn bar_read(&mut self, _now: Nanos, _bar: usize, _offset: u64, _size: u8) -> u64 {
        u64::MAX
    }
    /// Writes `size` bytes at `offset` into the window of `bar`.
    fn bar_write(&mut self, _now: Nanos, _bar: usize, _offset: u64, _size: u8, _value: u64) {}
}

/// A base address register's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// This many I/O ports.
    Io(u32),
    /// This many bytes under 4 GiB.
    Memory32(u32),
    /// This many bytes anywhere; takes the next BAR too.
    Memory64(u64),
}

/// 256 bytes of configuration space: values, and which bits the guest can write.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    // Static configuration
    writable: [u8; 256],
    bars: [Option<Bar>; 6],
    power_on: [u8; 256],
    // Volatile state
    bytes: [u8; 256],
}

/// The command register's decode bits.
const COMMAND_IO: u8 = 1;
const COMMAND_MEMORY: u8 = 2;

impl ConfigSpace {
    /// A function's header: vendor, device, class code (24 bits), revision.
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> Self {
        let mut bytes = [0; 256];
        bytes[0..2].copy_from_slice(&vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&device.to_le_bytes());
        bytes[8] = revision;
        bytes[9..12].copy_from_slice(&class.to_le_bytes()[..3]);
        let mut writable = [0; 256];
        // Command: I/O, memory, bus master, parity, SERR, INTx off. Interrupt line: the guest's own note.
        writable[4] = 0x47;
        writable[5] = 0x05;
        writable[0x0c] = 0xff;
        writable[0x0d] = 0xff;
        writable[0x3c] = 0xff;
        Self {
            writable,
            bars: [None; 6],
            power_on: bytes,
            bytes,
        }
    }

    /// Sets a byte's power-on value.
    pub fn set(&mut self, offset: u8, value: u8) {
        self.bytes[usize::from(offset)] = value;
        self.power_on[usize::from(offset)] = value;
    }

    /// Lets the guest write `mask` in a byte.
    pub fn allow(&mut self, offset: u8, mask: u8) {
        self.writable[usize::from(offset)] |= mask;
    }

    /// The current value of a byte.
    pub fn byte(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// Gives the function a BAR. The size is a power of two; writing all ones and reading back tells it to the guest.
    ///
    /// # Panics
    /// When there is no such BAR.
    pub fn add_bar(&mut self, index: usize, bar: Bar) {
        self.bars[index] = Some(bar);
        let (mask, kind, bytes) = match bar {
            Bar::Io(ports) => (u64::from(!(ports.max(4).next_power_of_two() - 1)), 1, 4),
            Bar::Memory32(len) => (u64::from(!(len.max(16).next_power_of_two() - 1)), 0, 4),
            Bar::Memory64(len) => (!(len.max(16).next_power_of_two() - 1), 4, 8),
        };
        let at = 0x10 + 4 * index;
        self.writable[at..at + bytes].copy_from_slice(&mask.to_le_bytes()[..bytes]);
        self.set(at as u8, kind);
    }

    /// Power-on values.
    pub fn reset(&mut self) {
        self.bytes = self.power_on;
    }

    /// Reads `size` bytes at `offset`; what would lie beyond the end is all ones.
    pub fn read(&self, offset: u8, size: u8) -> u32 {
        (0..size).fold(0, |value, byte| {
            let at = usize::from(offset) + usize::from(byte);
            value | u32::from(self.bytes.get(at).copied().unwrap_or(0xff)) << (8 * byte)
        })
    }

    /// Writes the writable bits of `size` bytes at `offset`.
    pub fn write(&mut self, offset: u8, size: u8, value: u32) {
        for (byte, &new) in value
            .to_le_bytes()
            .iter()
            .enumerate()
            .take(usize::from(size))
        {
            let at = usize::from(offset) + byte;
            if let (Some(old), Some(&mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = *old & !mask | new & mask;
            }
        }
    }

    fn dword(&self, at: usize) -> u32 {
        self.read(at as u8, 4)
    }

    /// The windows that the command register and the BARs open.
    pub fn windows(&self) -> Vec<Window> {
        let mut windows = Vec::new();
        for (bar, kind) in self.bars.iter().enumerate() {
            let at = 0x10 + 4 * bar;
            let (space, start, len, enable) = match *kind {
                None => continue,
                Some(Bar::Io(n)) => (
                    Space::Io,
                    u64::from(self.dword(at) & 0xfffc),
                    u64::from(n),
                    COMMAND_IO,
                ),
                Some(Bar::Memory32(n)) => (
                    Space::Memory,
                    u64::from(self.dword(at) & !15),
                    u64::from(n),
                    COMMAND_MEMORY,
                ),
                Some(Bar::Memory64(n)) => {
                    let start =
                        u64::from(self.dword(at) & !15) | u64::from(self.dword(at + 4)) << 32;
                    (Space::Memory, start, n, COMMAND_MEMORY)
                }
            };
            // An address of 0 is a BAR that nobody has placed.
            if self.bytes[4] & enable != 0 && start != 0 && start.checked_add(len).is_some() {
                windows.push(Window {
                    space,
                    start,
                    len,
                    bar,
                });
            }
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::{Bar, ConfigSpace, Space, Window};
    use crate::board::tests::Machine;

    #[test]
    fn pci_absent_is_all_ones() {
        let m = Machine::new();
        for devfn in [0x10u32, 0x80, 0xff] {
            m.outl(0xcf8, 0x8000_0000 | devfn << 8);
            assert_eq!(m.inl(0xcfc), 0xffff_ffff);
            assert_eq!(m.inw(0xcfe), 0xffff);
        }
        m.outl(0xcf8, 0x8001_0000);
        assert_eq!(m.inl(0xcfc), 0xffff_ffff, "no bus 1");
        m.outl(0xcf8, 0);
        assert_eq!(m.inl(0xcfc), 0xffff_ffff, "not enabled");
    }

    #[test]
    fn pci_byte_and_word_accesses_to_cf8_and_cfc() {
        let m = Machine::new();
        m.outl(0xcf8, 0x8000_0000);
        assert_eq!(m.inl(0xcf8), 0x8000_0000);
        assert_eq!(m.inl(0xcfc), 0x1237_8086);
        assert_eq!((m.inw(0xcfc), m.inw(0xcfe)), (0x8086, 0x1237));
        assert_eq!(
            (m.inb(0xcfc), m.inb(0xcfd), m.inb(0xcfe), m.inb(0xcff)),
            (0x86, 0x80, 0x37, 0x12)
        );
        // Only whole dwords reach the address register.
        m.outb(0xcf8, 0x55);
        m.outb(0xcfb, 0x01);
        m.outw(0xcfa, 0x1234);
        assert_eq!(m.inl(0xcf8), 0x8000_0000);
        assert_eq!(m.inb(0xcf8), 0xff);
        m.outl(0xcf8, 0x8000_003c);
        m.outb(0xcfc, 0x0b);
        assert_eq!(m.inl(0xcfc) & 0xff, 0x0b);
        m.outl(0xcf8, 0x8000_0008);
        assert_eq!(m.inw(0xcfe), 0x0600, "a host bridge");
    }

    #[test]
    fn bars_tell_their_size_and_open_windows() {
        let mut c = ConfigSpace::new(0x1234, 0x5678, 0x02_0000, 1);
        c.add_bar(0, Bar::Io(32));
        c.add_bar(1, Bar::Memory32(0x1000));
        c.add_bar(2, Bar::Memory64(0x20_0000));
        c.write(0x10, 4, u32::MAX);
        c.write(0x14, 4, u32::MAX);
        c.write(0x18, 4, u32::MAX);
        c.write(0x1c, 4, u32::MAX);
        assert_eq!(
            (c.read(0x10, 4), c.read(0x14, 4)),
            (0xffff_ffe1, 0xffff_f000)
        );
        assert_eq!(
            (c.read(0x18, 4), c.read(0x1c, 4)),
            (0xffe0_0004, 0xffff_ffff)
        );
        c.write(0x10, 4, 0xc000);
        c.write(0x14, 4, 0xd000_0000);
        c.write(0x18, 4, 0);
        c.write(0x1c, 4, 0x10);
        assert!(c.windows().is_empty(), "not decoded yet");
        c.write(4, 2, 3);
        let window = |space, start, len, bar| Window {
            space,
            start,
            len,
            bar,
        };
        assert_eq!(
            c.windows(),
            [
                window(Space::Io, 0xc000, 32, 0),
                window(Space::Memory, 0xd000_0000, 0x1000, 1),
                window(Space::Memory, 0x10_0000_0000, 0x20_0000, 2),
            ]
        );
        c.write(0, 4, 0);
        assert_eq!(c.read(0, 4), 0x5678_1234, "identity can't be written");
        c.reset();
        assert_eq!(c.read(0x14, 4), 0);
    }
}
