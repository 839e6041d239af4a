//! The 8042 keyboard controller with a keyboard and a mouse (IBM PS/2 hardware interface technical reference).
//!
//! Both answer at once: a silent one costs an operating system its timeouts.

mod keyboard;
mod mouse;
mod scancodes;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::a20::A20;
use crate::clock::Nanos;
use crate::device::{Device, Pio, PortRange, Timer};
use crate::inbox::Inbox;
use crate::interrupt::IrqLine;
use crate::requests::{MachineRequest, MachineRequests};
use crate::timers::Waker;
use keyboard::Keyboard;
use mouse::Mouse;
pub use scancodes::KeyCode;

/// What the user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key went down or up; a held key is pressed again and again.
    Key {
        /// Which.
        code: KeyCode,
        /// Down, not up.
        pressed: bool,
    },
    /// The mouse did something.
    Mouse {
        /// Counts to the right.
        dx: i32,
        /// Counts up.
        dy: i32,
        /// Wheel clicks towards the user.
        wheel: i32,
        /// Left, right, middle, fourth, fifth from bit 0 on.
        buttons: u8,
    },
}

const STATUS_OBF: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX: u8 = 0x20;

const KEYBOARD_INT: u8 = 0x01;
const MOUSE_INT: u8 = 0x02;
const SYSTEM_FLAG: u8 = 0x04;
const KEYBOARD_OFF: u8 = 0x10;
const MOUSE_OFF: u8 = 0x20;
const TRANSLATE: u8 = 0x40;

/// Answers of the controller itself that may wait.
const LIMIT: usize = 16;

/// Who put a byte into the output buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Keyboard,
    Mouse,
}

/// What the next byte at port 60h is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    None,
    /// This byte of the controller's RAM; 0 is the command byte.
    Ram(u8),
    OutputPort,
    KeyboardOutput,
    MouseOutput,
    MouseCommand,
}

/// The controller's own state.
#[derive(Clone, Debug)]
struct State {
    ram: [u8; 32],
    /// The last write went to port 64h.
    command_last: bool,
    operand: Operand,
    output: Option<(u8, Source)>,
    /// The output buffer's byte after it was read: reading again gives it again.
    last_output: u8,
    answers: VecDeque<(u8, Source)>,
    /// A break prefix was swallowed in translation.
    break_next: bool,
}

impl State {
    fn new() -> Self {
        let mut ram = [0; 32];
        ram[0] = KEYBOARD_INT | MOUSE_INT | SYSTEM_FLAG | TRANSLATE;
        Self {
            ram,
            command_last: false,
            operand: Operand::None,
            output: None,
            last_output: 0,
            answers: VecDeque::new(),
            break_next: false,
        }
    }
}

/// The controller.
#[derive(Debug)]
pub struct I8042 {
    // Runtime glue
    keyboard_irq: IrqLine,
    mouse_irq: IrqLine,
    a20: Arc<A20>,
    requests: Arc<MachineRequests>,
    input: Inbox<InputEvent>,
    // Volatile state
    state: State,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl I8042 {
    /// A controller on IRQ 1 and 12 that gets the user's doings from `input`.
    pub fn new(
        keyboard_irq: IrqLine,
        mouse_irq: IrqLine,
        a20: Arc<A20>,
        requests: Arc<MachineRequests>,
        input: Inbox<InputEvent>,
    ) -> Self {
        Self {
            keyboard_irq,
            mouse_irq,
            a20,
            requests,
            input,
            state: State::new(),
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    fn mode(&self) -> u8 {
        self.state.ram[0]
    }

    fn answer(&mut self, byte: u8, source: Source) {
        if self.state.answers.len() < LIMIT {
            self.state.answers.push_back((byte, source));
        }
    }

    /// Hands the user's doings to keyboard and mouse, as far as they can take them.
    fn pump(&mut self) {
        while self.keyboard.has_room() && self.mouse.has_room() {
            match self.input.pop() {
                Some(InputEvent::Key { code, pressed }) => self.keyboard.key(code, pressed),
                Some(InputEvent::Mouse {
                    dx,
                    dy,
                    wheel,
                    buttons,
                }) => self.mouse.event(dx, dy, wheel, buttons),
                None => break,
            }
        }
    }

    /// Fills the output buffer if it is empty, and drives the interrupts.
    fn refill(&mut self) {
        self.pump();
        if self.state.output.is_none() {
            self.state.output = self.next_byte();
        }
        let mode = self.mode();
        let source = self.state.output.map(|(_, source)| source);
        self.keyboard_irq
            .set(source == Some(Source::Keyboard) && mode & KEYBOARD_INT != 0);
        self.mouse_irq
            .set(source == Some(Source::Mouse) && mode & MOUSE_INT != 0);
    }

    fn next_byte(&mut self) -> Option<(u8, Source)> {
        if let Some(answer) = self.state.answers.pop_front() {
            return Some(answer);
        }
        if self.mode() & KEYBOARD_OFF == 0 {
            while let Some(byte) = self.keyboard.pop() {
                if self.mode() & TRANSLATE == 0 {
                    return Some((byte, Source::Keyboard));
                }
                if byte == 0xf0 {
                    self.state.break_next = true;
                    continue;
                }
                let broken = if std::mem::take(&mut self.state.break_next) {
                    0x80
                } else {
                    0
                };
                return Some((scancodes::translate(byte) | broken, Source::Keyboard));
            }
        }
        if self.mode() & MOUSE_OFF == 0 {
            return self.mouse.pop().map(|byte| (byte, Source::Mouse));
        }
        None
    }

    fn status(&self) -> u8 {
        let output = match self.state.output {
            Some((_, Source::Keyboard)) => STATUS_OBF,
            Some((_, Source::Mouse)) => STATUS_OBF | STATUS_AUX,
            None => 0,
        };
        let command = if self.state.command_last {
            STATUS_COMMAND
        } else {
            0
        };
        let system = if self.mode() & SYSTEM_FLAG != 0 {
            STATUS_SYSTEM
        } else {
            0
        };
        output | command | system | STATUS_UNLOCKED
    }

    fn output_port(&self) -> u8 {
        let full = match self.state.output {
            Some((_, Source::Keyboard)) => 0x10,
            Some((_, Source::Mouse)) => 0x20,
            None => 0,
        };
        // Bit 0 low would be reset; clock and data lines of the keyboard idle high.
        0xc1 | u8::from(self.a20.enabled()) << 1 | full
    }

    fn write_output_port(&self, value: u8) {
        self.a20.set(value & 2 != 0);
        if value & 1 == 0 {
            self.requests.request(MachineRequest::Reset);
        }
    }

    fn read_data(&mut self) -> u8 {
        if let Some((byte, _)) = self.state.output.take() {
            self.state.last_output = byte;
        }
        let byte = self.state.last_output;
        // The lines drop before the next byte raises them again.
        self.keyboard_irq.set(false);
        self.mouse_irq.set(false);
        self.refill();
        byte
    }

    fn write_data(&mut self, value: u8) {
        match std::mem::replace(&mut self.state.operand, Operand::None) {
            Operand::None => {
                // Talking to the keyboard turns its interface on.
                self.state.ram[0] &= !KEYBOARD_OFF;
                self.keyboard.command(value);
            }
            Operand::Ram(index) => self.state.ram[usize::from(index & 31)] = value,
            Operand::OutputPort => self.write_output_port(value),
            Operand::KeyboardOutput => self.answer(value, Source::Keyboard),
            Operand::MouseOutput => self.answer(value, Source::Mouse),
            Operand::MouseCommand => {
                self.state.ram[0] &= !MOUSE_OFF;
                self.mouse.command(value);
            }
        }
    }

    fn write_command(&mut self, command: u8) {
        self.state.operand = Operand::None;
        match command {
            0x20..=0x3f => self.answer(self.state.ram[usize::from(command & 31)], Source::Keyboard),
            0x60..=0x7f => self.state.operand = Operand::Ram(command & 31),
            // No password.
            0xa4 => self.answer(0xf1, Source::Keyboard),
            0xa7 => self.state.ram[0] |= MOUSE_OFF,
            0xa8 => self.state.ram[0] &= !MOUSE_OFF,
            // Both interfaces are in order.
            0xa9 | 0xab => self.answer(0x00, Source::Keyboard),
            0xaa => {
                self.state.answers.clear();
                self.state.output = None;
                self.state.ram[0] |= SYSTEM_FLAG;
                self.answer(0x55, Source::Keyboard);
            }
            0xad => self.state.ram[0] |= KEYBOARD_OFF,
            0xae => self.state.ram[0] &= !KEYBOARD_OFF,
            // The input port: not locked, not in manufacturing mode.
            0xc0 => self.answer(0xa0, Source::Keyboard),
            0xd0 => self.answer(self.output_port(), Source::Keyboard),
            0xd1 => self.state.operand = Operand::OutputPort,
            0xd2 => self.state.operand = Operand::KeyboardOutput,
            0xd3 => self.state.operand = Operand::MouseOutput,
            0xd4 => self.state.operand = Operand::MouseCommand,
            0xdd => self.a20.set(false),
            0xdf => self.a20.set(true),
            // The test inputs: both clock lines low.
            0xe0 => self.answer(0x00, Source::Keyboard),
            // A pulse on the output port's low bits that are 0 here; bit 0 is the CPU's reset.
            0xf0..=0xff if command & 1 == 0 => self.requests.request(MachineRequest::Reset),
            _ => {}
        }
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn reset(&mut self, _now: Nanos) {
        self.state = State::new();
        self.keyboard = Keyboard::new();
        self.mouse = Mouse::new();
        self.a20.set(true);
        self.refill();
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }

    fn timer(&mut self) -> Option<&mut dyn Timer> {
        Some(self)
    }
}

impl Pio for I8042 {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::bytes(0x60, 1), PortRange::bytes(0x64, 1)]
    }

    fn pio_read(&mut self, _now: Nanos, port: u16, _size: u8) -> u32 {
        u32::from(if port == 0x60 {
            self.read_data()
        } else {
            self.status()
        })
    }

    fn pio_write(&mut self, _now: Nanos, port: u16, _size: u8, value: u32) {
        let value = value.to_le_bytes()[0];
        self.state.command_last = port == 0x64;
        if port == 0x60 {
            self.write_data(value);
        } else {
            self.write_command(value);
        }
        self.refill();
    }
}

impl Timer for I8042 {
    fn deadline(&self) -> Option<Nanos> {
        None
    }

    fn fire(&mut self, _now: Nanos) {
        self.refill();
    }

    fn set_waker(&mut self, waker: Waker) {
        self.input.set_waker(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::{InputEvent, KeyCode};
    use crate::board::tests::Machine;
    use crate::requests::MachineRequest;

    fn read(m: &Machine) -> Option<u8> {
        (m.inb(0x64) & 1 != 0).then(|| m.inb(0x60) as u8)
    }

    fn all(m: &Machine) -> Vec<u8> {
        std::iter::from_fn(|| read(m)).collect()
    }

    fn keyboard(m: &Machine, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().for_each(|&b| m.outb(0x60, b));
        all(m)
    }

    fn mouse(m: &Machine, bytes: &[u8]) -> Vec<u8> {
        for &byte in bytes {
            m.outb(0x64, 0xd4);
            m.outb(0x60, byte);
        }
        all(m)
    }

    fn key(m: &Machine, code: u16, pressed: bool) {
        m.board.input().push(InputEvent::Key {
            code: KeyCode(code),
            pressed,
        });
        m.advance(m.now());
    }

    #[test]
    fn i8042_self_tests() {
        let m = Machine::new();
        for (command, answer) in [(0xaa, 0x55), (0xab, 0x00), (0xa9, 0x00), (0x20, 0x47)] {
            m.outb(0x64, command);
            assert_eq!(all(&m), [answer], "{command:#x}");
        }
        assert_eq!(
            m.inb(0x64) & 0x1c,
            0x1c,
            "system flag, command last, not locked"
        );
        assert_eq!(keyboard(&m, &[0xff]), [0xfa, 0xaa], "the keyboard's");
        assert_eq!(mouse(&m, &[0xff]), [0xfa, 0xaa, 0x00], "the mouse's");
    }

    #[test]
    fn i8042_feh_resets() {
        let m = Machine::new();
        m.outb(0x64, 0xff);
        m.outb(0x64, 0xf1);
        assert_eq!(m.board.requests().take(), None);
        m.outb(0x64, 0xfe);
        assert_eq!(m.board.requests().take(), Some(MachineRequest::Reset));
        m.outb(0x64, 0xd1);
        m.outb(0x60, 0x02);
        assert_eq!(
            m.board.requests().take(),
            Some(MachineRequest::Reset),
            "through the output port too"
        );
    }

    #[test]
    fn i8042_a20_there_and_at_port_92h() {
        let m = Machine::new();
        let a20 = m.board.a20();
        assert!(a20.enabled());
        m.outb(0x64, 0xd1);
        m.outb(0x60, 0xdd);
        assert!(!a20.enabled());
        assert_eq!(m.inb(0x92) & 2, 0);
        m.outb(0x92, 2);
        assert!(a20.enabled());
        m.outb(0x64, 0xd0);
        assert_eq!(all(&m)[0] & 3, 3);
        m.outb(0x64, 0xdd);
        assert!(!a20.enabled());
        m.outb(0x64, 0xdf);
        assert!(a20.enabled());
        m.outb(0x92, 3);
        assert_eq!(
            m.board.requests().take(),
            Some(MachineRequest::Reset),
            "port 92h's fast reset"
        );
    }

    #[test]
    fn the_keyboard_answers_every_command() {
        let m = Machine::new();
        for command in 0xed..=0xff {
            assert!(!keyboard(&m, &[command]).is_empty(), "{command:#x}");
            keyboard(&m, &[0xf6]);
        }
        assert_eq!(
            keyboard(&m, &[0xf2]),
            [0xfa, 0xab, 0x41],
            "its id, translated"
        );
        m.outb(0x64, 0x60);
        m.outb(0x60, 0x07);
        assert_eq!(keyboard(&m, &[0xf2]), [0xfa, 0xab, 0x83]);
        assert_eq!(keyboard(&m, &[0xed, 0x07]), [0xfa, 0xfa]);
        assert_eq!(keyboard(&m, &[0xf0, 0x00]), [0xfa, 0xfa, 0x02]);
        assert_eq!(keyboard(&m, &[0xee]), [0xee]);
    }

    #[test]
    fn the_mouse_answers_every_command_and_the_magic_rates() {
        let m = Machine::new();
        for command in 0xe6..=0xff {
            assert!(!mouse(&m, &[command]).is_empty(), "{command:#x}");
            mouse(&m, &[0xff, 0xff]);
        }
        assert_eq!(mouse(&m, &[0xf2]), [0xfa, 0]);
        mouse(&m, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
        assert_eq!(mouse(&m, &[0xf2]), [0xfa, 3]);
        mouse(&m, &[0xf3, 200, 0xf3, 200, 0xf3, 80]);
        assert_eq!(mouse(&m, &[0xf2]), [0xfa, 4]);
        assert_eq!(mouse(&m, &[0xe9]), [0xfa, 0, 2, 80]);
        mouse(&m, &[0xf4]);
        m.board.input().push(InputEvent::Mouse {
            dx: -3,
            dy: 5,
            wheel: -1,
            buttons: 0b1_0001,
        });
        m.advance(m.now());
        assert_eq!(all(&m), [0x19, 0xfd, 5, 0x2f]);
    }

    #[test]
    fn scancode_sets_1_2_3_and_translation() {
        let m = Machine::new();
        key(&m, 0x1e, true);
        key(&m, 0x1e, false);
        key(&m, 0xe048, false);
        assert_eq!(all(&m), [0x1e, 0x9e, 0xe0, 0xc8], "set 2, translated");
        m.outb(0x64, 0x60);
        m.outb(0x60, 0x07);
        key(&m, 0x1e, false);
        assert_eq!(all(&m), [0xf0, 0x1c], "set 2");
        keyboard(&m, &[0xf0, 0x01]);
        key(&m, 0x1e, false);
        assert_eq!(all(&m), [0x9e], "set 1");
        keyboard(&m, &[0xf0, 0x03]);
        key(&m, 0x3a, true);
        assert_eq!(all(&m), [0x14], "set 3: caps lock");
    }

    #[test]
    fn each_byte_is_an_interrupt_of_its_own() {
        let m = Machine::new();
        m.init_pic();
        m.outb(0x60, 0xf2);
        for _ in 0..3 {
            assert_eq!(m.ack(), Some(0x21));
            m.inb(0x60);
            m.eoi_pic();
        }
        assert_eq!(m.ack(), None);
        // The loop-back with which drivers look for IRQ 12.
        m.outb(0x64, 0xd3);
        m.outb(0x60, 0xa5);
        assert_eq!(m.ack(), Some(0x2c));
        assert_eq!(m.inb(0x64) & 0x21, 0x21);
        assert_eq!(m.inb(0x60), 0xa5);
    }

    #[test]
    fn a_disabled_interface_holds_its_bytes() {
        let m = Machine::new();
        m.outb(0x64, 0xad);
        key(&m, 0x10, true);
        assert!(all(&m).is_empty());
        m.outb(0x64, 0xae);
        assert_eq!(all(&m), [0x10]);
    }

    #[test]
    fn nobody_reading_costs_a_bounded_buffer() {
        let m = Machine::new();
        for _ in 0..10_000 {
            key(&m, 0x1e, true);
            m.outb(0x60, 0xf2);
            m.outb(0x64, 0xd2);
            m.outb(0x60, 1);
        }
        assert!(all(&m).len() < 1000);
    }
}
