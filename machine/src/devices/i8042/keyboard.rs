//! The keyboard behind the controller: an MF II that answers every command.

use std::collections::VecDeque;

use super::scancodes::{KeyCode, encode};

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_OK: u8 = 0xaa;

/// Scancodes wait here; a full buffer loses them, as the real one does.
const SCANCODES: usize = 16;
/// Answers may follow scancodes.
const LIMIT: usize = 64;

/// A command that waits for its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    None,
    Leds,
    ScancodeSet,
    Rate,
    /// Keys of set 3, up to the next command.
    Keys,
}

/// The keyboard.
#[derive(Clone, Debug)]
pub(super) struct Keyboard {
    // Volatile state
    queue: VecDeque<u8>,
    last_sent: u8,
    operand: Operand,
    scanning: bool,
    set: u8,
    leds: u8,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            last_sent: 0,
            operand: Operand::None,
            scanning: true,
            set: 2,
            leds: 0,
        }
    }

    /// The next byte for the controller.
    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    /// Whether a key can be taken without losing it.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < SCANCODES
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() <= LIMIT {
            self.queue.extend(bytes);
        }
    }

    /// A key goes down or up.
    pub(super) fn key(&mut self, key: KeyCode, pressed: bool) {
        if self.scanning && self.has_room() {
            let bytes = encode(key, pressed, self.set);
            self.answer(&bytes);
        }
    }

    fn defaults(&mut self) {
        self.set = 2;
        self.leds = 0;
    }

    /// A byte from the controller.
    pub(super) fn command(&mut self, byte: u8) {
        match std::mem::replace(&mut self.operand, Operand::None) {
            Operand::Leds if byte < 0x80 => {
                self.leds = byte & 7;
                return self.answer(&[ACK]);
            }
            Operand::Rate if byte < 0x80 => return self.answer(&[ACK]),
            Operand::ScancodeSet if byte < 0x80 => return self.select_set(byte),
            Operand::Keys if byte < 0xed => {
                self.operand = Operand::Keys;
                return self.answer(&[ACK]);
            }
            // Where an operand should be is a command: that one counts.
            _ => {}
        }
        match byte {
            0xed => self.expect(Operand::Leds),
            0xee => self.answer(&[0xee]),
            0xf0 => self.expect(Operand::ScancodeSet),
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xf3 => self.expect(Operand::Rate),
            0xf4 => {
                self.queue.clear();
                self.scanning = true;
                self.answer(&[ACK]);
            }
            0xf5 | 0xf6 => {
                self.queue.clear();
                self.defaults();
                self.scanning = byte == 0xf6;
                self.answer(&[ACK]);
            }
            0xf7..=0xfa => self.answer(&[ACK]),
            0xfb..=0xfd => self.expect(Operand::Keys),
            0xfe => self.answer(&[self.last_sent]),
            0xff => {
                *self = Self::new();
                self.answer(&[ACK, SELF_TEST_OK]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn expect(&mut self, operand: Operand) {
        self.operand = operand;
        self.answer(&[ACK]);
    }

    fn select_set(&mut self, set: u8) {
        match set {
            0 => self.answer(&[ACK, self.set]),
            1..=3 => {
                self.set = set;
                self.answer(&[ACK]);
            }
            _ => self.answer(&[RESEND]),
        }
    }
}
