//! The host bridge: an i440FX by its identity, device 0 on bus 0 (Intel 440FX data sheet).

use super::{ConfigSpace, DevFn, PciFunction};
use crate::clock::Nanos;
use crate::device::Device;

/// The host bridge.
#[derive(Clone, Debug)]
pub struct HostBridge {
    // Volatile state
    config: ConfigSpace,
}

impl Default for HostBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(0x8086, 0x1237, 0x06_0000, 2);
        config.set(0x04, 0x06);
        // PAM (59h..5Fh) says whether C0000h..FFFFFh is ROM or RAM. It is RAM here whatever PAM says.
        for offset in 0x59..=0x5f {
            config.allow(offset, if offset == 0x59 { 0xf0 } else { 0xff });
        }
        config.allow(0x72, 0x7f);
        Self { config }
    }
}

impl Device for HostBridge {
    fn name(&self) -> &'static str {
        "host-bridge"
    }

    fn reset(&mut self, _now: Nanos) {
        self.config.reset();
    }

    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        Some(self)
    }
}

impl PciFunction for HostBridge {
    fn devfn(&self) -> DevFn {
        DevFn::new(0, 0)
    }

    fn config_read(&mut self, _now: Nanos, offset: u8, size: u8) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&mut self, _now: Nanos, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
    }
}
