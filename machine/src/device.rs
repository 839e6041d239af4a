//! What a device is to the board: capabilities it may have, each an own trait.
//!
//! A device knows its registers, its [`IrqLine`](crate::interrupt::IrqLine)s and nothing of buses, engines or the host:
//! it is handed "now" and says when it wants to be called again. It names its own ports and regions. Adding one takes
//! its file and one line in `board.rs`.

use x86::PhysAddr;

use crate::clock::Nanos;
use crate::timers::Waker;

/// A range of I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Number of ports.
    pub count: u16,
    /// The widest access in bytes the device takes at once; wider ones come as bytes, as an 8-bit bus makes them.
    pub width: u8,
}

impl PortRange {
    /// `count` ports from `first` on, accessed a byte at a time.
    pub const fn bytes(first: u16, count: u16) -> Self {
        Self {
            first,
            count,
            width: 1,
        }
    }

    /// `count` ports from `first` on that take accesses of up to 4 bytes.
    pub const fn wide(first: u16, count: u16) -> Self {
        Self {
            first,
            count,
            width: 4,
        }
    }
}

/// A range of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: PhysAddr,
    /// Bytes.
    pub len: u64,
}

/// A device with I/O ports.
pub trait Pio {
    /// Its ports; asked once, when the board is built.
    fn ports(&self) -> Vec<PortRange>;
    /// Reads `size` (1, 2, 4; at most the range's width) bytes, all inside one range.
    fn pio_read(&mut self, now: Nanos, port: u16, size: u8) -> u32;
    /// Writes the low `size` bytes of `value` (the rest is zero).
    fn pio_write(&mut self, now: Nanos, port: u16, size: u8, value: u32);
}

/// A device with registers in memory.
pub trait Mmio {
    /// Its regions; asked once, when the board is built.
    fn regions(&self) -> Vec<Region>;
    /// Reads `size` (1, 2, 4, 8) bytes, all inside one region.
    fn mmio_read(&mut self, now: Nanos, addr: PhysAddr, size: u8) -> u64;
    /// Writes the low `size` bytes of `value` (the rest is zero).
    fn mmio_write(&mut self, now: Nanos, addr: PhysAddr, size: u8, value: u64);
}

/// A device that acts by itself: at an instant, or when the host has something for it.
pub trait Timer {
    /// When to call [`Timer::fire`]; asked after every access. After `fire(now)` it is later than `now`.
    fn deadline(&self) -> Option<Nanos>;
    /// It is time, or the [`Waker`] was used, or neither: the device looks.
    fn fire(&mut self, now: Nanos);
    /// Hands the device the means to be fired when its host side has input.
    fn set_waker(&mut self, _waker: Waker) {}
}

/// A device on the board. Nothing a guest does may make it panic.
pub trait Device: Send {
    /// A short name for messages.
    fn name(&self) -> &'static str;
    /// The state after power-on or a reset of the machine.
    fn reset(&mut self, now: Nanos);
    /// Its ports, if it has some.
    fn pio(&mut self) -> Option<&mut dyn Pio> {
        None
    }
    /// Its memory, if it has some.
    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        None
    }
    /// Its timer, if it has one.
    fn timer(&mut self) -> Option<&mut dyn Timer> {
        None
    }
    /// Its PCI function, if it is one.
    fn pci(&mut self) -> Option<&mut dyn crate::pci::PciFunction> {
        None
    }
}
