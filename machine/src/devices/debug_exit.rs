//! The debug-exit port: a guest's test program ends the machine with a value.

use std::sync::Arc;

use crate::clock::Nanos;
use crate::device::{Device, Pio, PortRange};
use crate::requests::{MachineRequest, MachineRequests};

/// The device; it claims as many of the 4 ports from its own on as the board lets it.
#[derive(Debug)]
pub struct DebugExit {
    // Static configuration
    port: u16,
    ports: u16,
    // Runtime glue
    requests: Arc<MachineRequests>,
}

impl DebugExit {
    /// A debug-exit device at `port` with `ports` (1..=4) ports.
    pub fn new(port: u16, ports: u16, requests: Arc<MachineRequests>) -> Self {
        Self {
            port,
            ports,
            requests,
        }
    }
}

impl Device for DebugExit {
    fn name(&self) -> &'static str {
        "debug-exit"
    }

    fn reset(&mut self, _now: Nanos) {}

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for DebugExit {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::wide(self.port, self.ports)]
    }

    fn pio_read(&mut self, _now: Nanos, _port: u16, _size: u8) -> u32 {
        0
    }

    fn pio_write(&mut self, _now: Nanos, port: u16, size: u8, value: u32) {
        if port == self.port {
            self.requests.request(MachineRequest::DebugExit {
                value,
                bits: size * 8,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::{Machine, config};
    use crate::requests::MachineRequest;

    #[test]
    fn the_value_and_its_width_reach_the_host() {
        for port in [0xf4, 0x501, 0xfffc] {
            let m = Machine::with(|c| c.debug_exit = Some(port));
            for (bits, value) in [(32, 0x1234_5678), (16, 0x0a0b), (8, 0x31)] {
                match bits {
                    32 => m.outl(port, value),
                    16 => m.outw(port, value as u16),
                    _ => m.outb(port, value as u8),
                }
                assert_eq!(
                    m.board.requests().take(),
                    Some(MachineRequest::DebugExit { value, bits })
                );
            }
        }
    }

    #[test]
    fn next_to_another_device_it_takes_what_fits() {
        let m = Machine::with(|c| c.debug_exit = Some(0x3f6));
        m.outw(0x3f6, 0x1234);
        assert_eq!(
            m.board.requests().take(),
            Some(MachineRequest::DebugExit {
                value: 0x1234,
                bits: 16
            })
        );
        m.outl(0x3f6, 0x1234_5678);
        assert_eq!(
            m.board.requests().take(),
            Some(MachineRequest::DebugExit {
                value: 0x78,
                bits: 8
            })
        );
    }

    #[test]
    fn a_taken_port_is_refused() {
        let (mut c, ..) = config();
        c.debug_exit = Some(0x3f8);
        let error = crate::board::Board::new(c).expect_err("the UART has it");
        assert!(error.to_string().contains("0x3f8"), "{error}");
    }
}
