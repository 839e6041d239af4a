//! The PICs' ports and the I/O APIC's page: the guest's way to the interrupt router.

use std::sync::Arc;

use x86::PhysAddr;

use crate::clock::Nanos;
use crate::device::{Device, Mmio, Pio, PortRange, Region};
use crate::interrupt::{Router, ioapic};

/// The registers of PIC pair and I/O APIC; their state is the router's.
#[derive(Debug)]
pub struct InterruptPorts {
    // Runtime glue
    router: Arc<Router>,
}

impl InterruptPorts {
    /// The registers of `router`.
    pub fn new(router: Arc<Router>) -> Self {
        Self { router }
    }
}

impl Device for InterruptPorts {
    fn name(&self) -> &'static str {
        "pic-ioapic"
    }

    fn reset(&mut self, _now: Nanos) {
        self.router.reset();
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }
}

impl Pio for InterruptPorts {
    fn ports(&self) -> Vec<PortRange> {
        vec![
            PortRange::bytes(0x20, 2),
            PortRange::bytes(0xa0, 2),
            PortRange::bytes(0x4d0, 2),
        ]
    }

    fn pio_read(&mut self, _now: Nanos, port: u16, _size: u8) -> u32 {
        u32::from(self.router.pic_read(port))
    }

    fn pio_write(&mut self, _now: Nanos, port: u16, _size: u8, value: u32) {
        self.router.pic_write(port, value.to_le_bytes()[0]);
    }
}

impl Mmio for InterruptPorts {
    fn regions(&self) -> Vec<Region> {
        vec![Region {
            start: PhysAddr(ioapic::BASE),
            len: ioapic::LEN,
        }]
    }

    fn mmio_read(&mut self, _now: Nanos, addr: PhysAddr, size: u8) -> u64 {
        let offset = addr.0 - ioapic::BASE;
        let value = u64::from(self.router.ioapic_read(offset & !3)) >> (8 * (offset & 3));
        if size >= 4 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        }
    }

    fn mmio_write(&mut self, _now: Nanos, addr: PhysAddr, _size: u8, value: u64) {
        // Registers are aligned dwords; IOREGSEL may be written with a byte.
        self.router
            .ioapic_write(addr.0 - ioapic::BASE, value as u32);
    }
}
