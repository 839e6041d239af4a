//! The ISA bridge: a PIIX3 by its identity, with the registers that route INTA..INTD to the PICs (Intel PIIX3 data sheet).

use std::sync::Arc;

use super::{ConfigSpace, DevFn, PciFunction};
use crate::clock::Nanos;
use crate::device::Device;
use crate::interrupt::Router;

/// The first of the four PIRQ route registers.
pub const PIRQ_ROUTE: u8 = 0x60;
/// The ISA bridge's device number.
pub const DEVICE: u8 = 1;

/// The ISA bridge.
#[derive(Debug)]
pub struct IsaBridge {
    // Runtime glue
    router: Arc<Router>,
    // Volatile state
    config: ConfigSpace,
}

impl IsaBridge {
    /// A bridge whose PIRQ registers act on `router`.
    pub fn new(router: Arc<Router>) -> Self {
        let mut config = ConfigSpace::new(0x8086, 0x7000, 0x06_0100, 0);
        config.set(0x04, 0x07);
        for pirq in 0..4 {
            config.set(PIRQ_ROUTE + pirq, 0x80);
            config.allow(PIRQ_ROUTE + pirq, 0x8f);
        }
        // I/O recovery, X-bus select, top of memory.
        for offset in [0x4c, 0x4e, 0x4f, 0x69] {
            config.allow(offset, 0xff);
        }
        Self { router, config }
    }

    fn apply(&self) {
        for pirq in 0..4 {
            self.router
                .set_pirq(usize::from(pirq), self.config.byte(PIRQ_ROUTE + pirq));
        }
    }
}

impl Device for IsaBridge {
    fn name(&self) -> &'static str {
        "isa-bridge"
    }

    fn reset(&mut self, _now: Nanos) {
        self.config.reset();
        self.apply();
    }

    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        Some(self)
    }
}

impl PciFunction for IsaBridge {
    fn devfn(&self) -> DevFn {
        DevFn::new(DEVICE, 0)
    }

    fn config_read(&mut self, _now: Nanos, offset: u8, size: u8) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&mut self, _now: Nanos, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
        self.apply();
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;

    #[test]
    fn pirq_routes_a_pci_line_to_the_pic() {
        let m = Machine::new();
        m.init_pic();
        let line = m.board.router().pci_line(0, 1);
        m.outb(0x4d1, 0x04);
        m.outl(0xcf8, 0x8000_0860);
        m.outb(0xcfd, 10);
        line.set(true);
        assert_eq!(m.ack(), Some(0x2a));
        m.outb(0xcfd, 0x80);
        m.eoi_pic();
        assert_eq!(m.ack(), None, "off");
    }
}
