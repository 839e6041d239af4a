//! System control port A at 92h: A20 and the fast reset (PS/2 technical reference).

use std::sync::Arc;

use crate::a20::A20;
use crate::clock::Nanos;
use crate::device::{Device, Pio, PortRange};
use crate::requests::{MachineRequest, MachineRequests};

/// The port.
#[derive(Debug)]
pub struct Port92 {
    // Runtime glue
    a20: Arc<A20>,
    requests: Arc<MachineRequests>,
    // Volatile state
    /// All bits but A20's, which the gate itself keeps.
    value: u8,
}

impl Port92 {
    /// The port that switches `a20` and asks `requests` for a reset.
    pub fn new(a20: Arc<A20>, requests: Arc<MachineRequests>) -> Self {
        Self {
            a20,
            requests,
            value: 0,
        }
    }
}

impl Device for Port92 {
    fn name(&self) -> &'static str {
        "port92"
    }

    fn reset(&mut self, _now: Nanos) {
        self.value = 0;
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for Port92 {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::bytes(0x92, 1)]
    }

    fn pio_read(&mut self, _now: Nanos, _port: u16, _size: u8) -> u32 {
        u32::from(self.value | u8::from(self.a20.enabled()) << 1)
    }

    fn pio_write(&mut self, _now: Nanos, _port: u16, _size: u8, value: u32) {
        let value = value.to_le_bytes()[0];
        // The reset is a rising edge of bit 0.
        if value & !self.value & 1 != 0 {
            self.requests.request(MachineRequest::Reset);
        }
        self.value = value & !2;
        self.a20.set(value & 2 != 0);
    }
}
