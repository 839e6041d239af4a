//! The mouse behind the controller: a PS/2 mouse that turns into an IntelliMouse (wheel, then five buttons) when asked.

use std::collections::VecDeque;

const ACK: u8 = 0xfa;
const NAK: u8 = 0xfe;

/// Bytes that may wait for the controller.
const LIMIT: usize = 64;
/// Movement that may add up between two packets.
const FAR: i32 = 2047;

/// A command that waits for its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    None,
    Rate,
    Resolution,
}

/// How the mouse reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// By itself, when something happens.
    Stream,
    /// When asked.
    Remote,
    /// Echoes what it is sent; the mode to return to is remembered.
    Wrap { remote: bool },
}

/// The mouse.
#[derive(Clone, Debug)]
pub(super) struct Mouse {
    // Volatile state
    queue: VecDeque<u8>,
    last_sent: u8,
    operand: Operand,
    mode: Mode,
    reporting: bool,
    /// Counts are doubled and more for fast movements, as "scaling 2:1" asks.
    scaled: bool,
    resolution: u8,
    rate: u8,
    /// The last three sample rates set: the knock of the IntelliMouse protocol.
    rates: [u8; 3],
    /// 0: plain, 3: wheel, 4: wheel and five buttons.
    id: u8,
    x: i32,
    y: i32,
    wheel: i32,
    /// Left, right, middle, fourth, fifth from bit 0 on.
    buttons: u8,
}

impl Mouse {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            last_sent: 0,
            operand: Operand::None,
            mode: Mode::Stream,
            reporting: false,
            scaled: false,
            resolution: 2,
            rate: 100,
            rates: [0; 3],
            id: 0,
            x: 0,
            y: 0,
            wheel: 0,
            buttons: 0,
        }
    }

    /// The next byte for the controller.
    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.queue.is_empty() && self.x | self.y | self.wheel != 0 && self.streams() {
            self.packet();
        }
        let byte = self.queue.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < LIMIT / 2
    }

    fn streams(&self) -> bool {
        self.reporting && self.mode == Mode::Stream
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() <= LIMIT {
            self.queue.extend(bytes);
        }
    }

    /// The mouse moved (`dy` up is positive), its wheel turned (away from the user is negative) or its buttons changed.
    pub(super) fn event(&mut self, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        let changed = self.buttons != buttons & 0x1f;
        self.buttons = buttons & 0x1f;
        self.x = self.x.saturating_add(dx).clamp(-FAR, FAR);
        self.y = self.y.saturating_add(dy).clamp(-FAR, FAR);
        self.wheel = self.wheel.saturating_add(wheel).clamp(-127, 127);
        if self.streams() && (changed || self.queue.is_empty()) {
            self.packet();
        }
    }

    /// Queues one report and takes what it told from the sums.
    fn packet(&mut self) {
        let x = self.x.clamp(-255, 255);
        let y = self.y.clamp(-255, 255);
        let wheel = self.wheel.clamp(-7, 7);
        self.x -= x;
        self.y -= y;
        self.wheel -= wheel;
        let scale = |v: i32| {
            if self.scaled && self.mode == Mode::Stream {
                scaled(v)
            } else {
                v
            }
        };
        let (x, y) = (scale(x), scale(y));
        let signs = u8::from(x < 0) << 4 | u8::from(y < 0) << 5;
        let mut bytes = vec![
            self.buttons & 7 | 8 | signs,
            x.to_le_bytes()[0],
            y.to_le_bytes()[0],
        ];
        match self.id {
            3 => bytes.push(wheel.to_le_bytes()[0]),
            4 => bytes.push(wheel.to_le_bytes()[0] & 0x0f | (self.buttons & 0x18) << 1),
            _ => {}
        }
        self.answer(&bytes);
    }

    fn defaults(&mut self) {
        self.reporting = false;
        self.scaled = false;
        self.resolution = 2;
        self.rate = 100;
        self.mode = Mode::Stream;
        (self.x, self.y, self.wheel) = (0, 0, 0);
    }

    /// A byte from the controller.
    pub(super) fn command(&mut self, byte: u8) {
        match std::mem::replace(&mut self.operand, Operand::None) {
            Operand::Rate => return self.set_rate(byte),
            Operand::Resolution => {
                self.resolution = byte & 3;
                return self.answer(&[ACK]);
            }
            Operand::None => {}
        }
        if let Mode::Wrap { remote } = self.mode {
            match byte {
                0xec => self.mode = if remote { Mode::Remote } else { Mode::Stream },
                0xff => {}
                _ => return self.answer(&[byte]),
            }
        }
        match byte {
            0xe6 | 0xe7 => {
                self.scaled = byte == 0xe7;
                self.answer(&[ACK]);
            }
            0xe8 => self.expect(Operand::Resolution),
            0xe9 => self.status(),
            0xea => {
                self.mode = Mode::Stream;
                self.answer(&[ACK]);
            }
            0xeb => {
                self.answer(&[ACK]);
                self.packet();
            }
            0xec => self.answer(&[ACK]),
            0xee => {
                self.mode = Mode::Wrap {
                    remote: self.mode == Mode::Remote,
                };
                self.answer(&[ACK]);
            }
            0xf0 => {
                self.mode = Mode::Remote;
                self.answer(&[ACK]);
            }
            0xf2 => self.answer(&[ACK, self.id]),
            0xf3 => self.expect(Operand::Rate),
            0xf4 | 0xf5 => {
                self.reporting = byte == 0xf4;
                self.answer(&[ACK]);
            }
            0xf6 => {
                self.defaults();
                self.answer(&[ACK]);
            }
            0xfe => self.answer(&[self.last_sent]),
            0xff => {
                *self = Self {
                    buttons: self.buttons,
                    ..Self::new()
                };
                self.answer(&[ACK, 0xaa, 0x00]);
            }
            _ => self.answer(&[NAK]),
        }
    }

    fn expect(&mut self, operand: Operand) {
        self.operand = operand;
        self.answer(&[ACK]);
    }

    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        self.rates = [self.rates[1], self.rates[2], rate];
        match self.rates {
            [200, 100, 80] => self.id = 3,
            [200, 200, 80] if self.id == 3 => self.id = 4,
            _ => {}
        }
        self.answer(&[ACK]);
    }

    fn status(&mut self) {
        let b = self.buttons;
        let flags = u8::from(self.mode == Mode::Remote) << 6
            | u8::from(self.reporting) << 5
            | u8::from(self.scaled) << 4
            | (b & 1) << 2
            | (b & 4) >> 1
            | (b & 2) >> 1;
        self.answer(&[ACK, flags, self.resolution, self.rate]);
    }
}

/// Scaling 2:1: small movements shrink to fine steps, larger ones double.
fn scaled(counts: i32) -> i32 {
    let magnitude = match counts.abs() {
        0 => 0,
        1 | 2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        n => (2 * n).min(255),
    };
    magnitude * counts.signum()
}
