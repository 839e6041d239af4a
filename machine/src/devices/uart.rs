//! The 16550A serial port (National Semiconductor PC16550D data sheet).
//!
//! Output leaves at once unless the host's queue is full; then it stays in the transmit FIFO, THRE stays low, and we try
//! again a little later: nothing is lost and no vCPU waits. Input is fetched from the host's queue only as the receive
//! FIFO has room and the guest lets the other side send (RTS).

use std::collections::VecDeque;
use std::fmt;

use crate::clock::{Nanos, SECOND};
use crate::device::{Device, Pio, PortRange, Timer};
use crate::inbox::Inbox;
use crate::interrupt::IrqLine;
use crate::sink::ByteSink;
use crate::timers::Waker;

/// The first port and the IRQ of COM1..COM4.
pub const COM_PORTS: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

const FIFO: usize = 16;
/// Between two tries to get rid of output that the host didn't take.
const RETRY: Nanos = 1_000_000;

const IER_RDI: u8 = 1;
const IER_THRI: u8 = 2;
const IER_RLSI: u8 = 4;
const IER_MSI: u8 = 8;

const IIR_NONE: u8 = 1;
const IIR_MSI: u8 = 0;
const IIR_THRI: u8 = 2;
const IIR_RDI: u8 = 4;
const IIR_RLSI: u8 = 6;
const IIR_TIMEOUT: u8 = 12;

const LCR_DLAB: u8 = 0x80;

const MCR_RTS: u8 = 2;
/// The pin that lets the interrupt out on PCs.
const MCR_OUT2: u8 = 8;
const MCR_LOOP: u8 = 16;

const LSR_DR: u8 = 1;
const LSR_OE: u8 = 2;
const LSR_ERRORS: u8 = 0x1e;
const LSR_THRE: u8 = 0x20;
const LSR_TEMT: u8 = 0x40;

/// The other side is there and lets us send: DCD, DSR, CTS.
const MSR_CONNECTED: u8 = 0xb0;

/// The host's side of a serial port.
pub struct SerialPort {
    /// Where its output goes.
    pub output: Box<dyn ByteSink>,
    /// Where its input comes from.
    pub input: Inbox<u8>,
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort")
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

/// What the guest can see of a UART.
#[derive(Clone, Debug)]
struct State {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// The guest has written MCR since reset.
    mcr_written: bool,
    /// The error bits of LSR.
    errors: u8,
    msr: u8,
    scratch: u8,
    divisor: u16,
    rx: VecDeque<u8>,
    tx: VecDeque<u8>,
    /// THR became empty and nobody has been told yet.
    thre_pending: bool,
    timeout_pending: bool,
    /// When the receive FIFO last changed.
    rx_changed: Nanos,
    /// When to offer the transmit FIFO to the host again.
    retry: Option<Nanos>,
}

impl State {
    fn new() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            mcr_written: false,
            errors: 0,
            msr: MSR_CONNECTED,
            scratch: 0,
            divisor: 12,
            rx: VecDeque::with_capacity(FIFO),
            tx: VecDeque::with_capacity(FIFO),
            thre_pending: false,
            timeout_pending: false,
            rx_changed: 0,
            retry: None,
        }
    }

    fn fifo_enabled(&self) -> bool {
        self.fcr & 1 != 0
    }

    fn loopback(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo_enabled() { FIFO } else { 1 }
    }

    /// How many received bytes raise the interrupt.
    fn trigger(&self) -> usize {
        if self.fifo_enabled() {
            [1, 4, 8, 14][usize::from(self.fcr >> 6)]
        } else {
            1
        }
    }

    /// The time four characters of 10 bits take, after which a FIFO below its trigger is reported.
    fn timeout(&self) -> Nanos {
        // The divisor divides 115200 Hz.
        (40 * SECOND / 115_200 * u64::from(self.divisor.max(1))).min(10_000_000)
    }

    /// The interrupt identification register's low 4 bits.
    fn iir(&self) -> u8 {
        if self.ier & IER_RLSI != 0 && self.errors != 0 {
            IIR_RLSI
        } else if self.ier & IER_RDI != 0 && self.rx.len() >= self.trigger() {
            IIR_RDI
        } else if self.ier & IER_RDI != 0 && self.timeout_pending {
            IIR_TIMEOUT
        } else if self.ier & IER_THRI != 0 && self.thre_pending {
            IIR_THRI
        } else if self.ier & IER_MSI != 0 && self.msr & 0x0f != 0 {
            IIR_MSI
        } else {
            IIR_NONE
        }
    }

    fn lsr(&self) -> u8 {
        let ready = if self.rx.is_empty() { 0 } else { LSR_DR };
        let empty = if self.tx.is_empty() {
            LSR_THRE | LSR_TEMT
        } else {
            0
        };
        ready | empty | self.errors
    }

    fn receive(&mut self, byte: u8, now: Nanos) {
        self.rx.push_back(byte);
        self.rx_changed = now;
        self.timeout_pending = false;
    }

    /// The modem status lines, with their changes noted in bits 3:0.
    fn set_modem_lines(&mut self, lines: u8) {
        let changed = (self.msr ^ lines) & 0xf0;
        let mut delta = changed >> 4;
        if lines & 0x40 != 0 {
            // RI is noted when it goes away.
            delta &= !4;
        }
        self.msr = lines | self.msr & 0x0f | delta;
    }

    fn modem_lines(&self) -> u8 {
        if !self.loopback() {
            return MSR_CONNECTED;
        }
        // RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
        let m = self.mcr;
        (m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4
    }
}

/// A serial port.
pub struct Uart {
    // Static configuration
    base: u16,
    // Runtime glue
    irq: IrqLine,
    host: SerialPort,
    // Volatile state
    state: State,
}

impl fmt::Debug for Uart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uart")
            .field("base", &self.base)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Uart {
    /// A UART at ports `base`..`base + 8`.
    pub fn new(base: u16, irq: IrqLine, host: SerialPort) -> Self {
        Self {
            base,
            irq,
            host,
            state: State::new(),
        }
    }

    /// Offers the transmit FIFO to the host.
    fn flush(&mut self, now: Nanos) {
        let s = &mut self.state;
        if s.tx.is_empty() {
            return;
        }
        while let Some(&byte) = s.tx.front() {
            if !self.host.output.put(byte) {
                s.retry = Some(now.saturating_add(RETRY));
                return;
            }
            s.tx.pop_front();
        }
        s.retry = None;
        s.thre_pending = true;
    }

    /// Fetches input if the guest lets the other side send. A guest that never touched MCR may poll for it: it gets
    /// some when it looks (`polled`), so that what was typed ahead isn't lost to the guest's own initialisation.
    fn fetch(&mut self, now: Nanos, polled: bool) {
        let s = &mut self.state;
        let may_send = s.mcr & MCR_RTS != 0 || (!s.mcr_written && (polled || s.ier & IER_RDI != 0));
        if !may_send || s.loopback() {
            return;
        }
        while s.rx.len() < s.capacity() {
            match self.host.input.pop() {
                Some(byte) => s.receive(byte, now),
                None => break,
            }
        }
    }

    /// Notes the character timeout if it is over, and drives the interrupt.
    fn update(&mut self, now: Nanos) {
        if self.timeout_at().is_some_and(|at| at <= now) {
            self.state.timeout_pending = true;
        }
        let s = &self.state;
        self.irq.set(s.iir() != IIR_NONE && s.mcr & MCR_OUT2 != 0);
    }

    fn timeout_at(&self) -> Option<Nanos> {
        let s = &self.state;
        (s.fifo_enabled() && !s.rx.is_empty() && !s.timeout_pending && s.ier & IER_RDI != 0)
            .then(|| s.rx_changed.saturating_add(s.timeout()))
    }

    fn read(&mut self, now: Nanos, register: u16) -> u8 {
        let dlab = self.state.lcr & LCR_DLAB != 0;
        match register {
            0 if dlab => self.state.divisor.to_le_bytes()[0],
            1 if dlab => self.state.divisor.to_le_bytes()[1],
            0 => {
                let byte = self.state.rx.pop_front().unwrap_or(0);
                self.state.timeout_pending = false;
                self.state.rx_changed = now;
                self.fetch(now, false);
                byte
            }
            1 => self.state.ier,
            2 => {
                let s = &mut self.state;
                let iir = s.iir();
                if iir == IIR_THRI {
                    s.thre_pending = false;
                }
                iir | if s.fifo_enabled() { 0xc0 } else { 0 }
            }
            3 => self.state.lcr,
            4 => self.state.mcr,
            5 => {
                self.fetch(now, true);
                let lsr = self.state.lsr();
                self.state.errors = 0;
                lsr
            }
            6 => {
                let msr = self.state.msr;
                self.state.msr &= 0xf0;
                msr
            }
            _ => self.state.scratch,
        }
    }

    fn write(&mut self, now: Nanos, register: u16, value: u8) {
        let s = &mut self.state;
        let dlab = s.lcr & LCR_DLAB != 0;
        match register {
            0 if dlab => s.divisor = s.divisor & 0xff00 | u16::from(value),
            1 if dlab => s.divisor = s.divisor & 0x00ff | u16::from(value) << 8,
            0 => self.transmit(now, value),
            1 => {
                let rising = value & !s.ier;
                s.ier = value & 0x0f;
                // Drivers start output by enabling this interrupt while THR is empty.
                if rising & IER_THRI != 0 && s.tx.is_empty() {
                    s.thre_pending = true;
                }
                self.fetch(now, false);
            }
            2 => {
                let toggled = (s.fcr ^ value) & 1 != 0;
                s.fcr = if value & 1 != 0 { value & 0xc9 } else { 0 };
                if toggled || value & 2 != 0 {
                    s.rx.clear();
                    s.timeout_pending = false;
                }
                if (toggled || value & 4 != 0) && !s.tx.is_empty() {
                    s.tx.clear();
                    s.retry = None;
                    s.thre_pending = true;
                }
            }
            3 => s.lcr = value,
            4 => {
                s.mcr = value & 0x1f;
                s.mcr_written = true;
                let lines = s.modem_lines();
                s.set_modem_lines(lines);
                self.fetch(now, false);
            }
            // LSR and MSR are the chip's to write.
            5 | 6 => {}
            _ => s.scratch = value,
        }
    }

    fn transmit(&mut self, now: Nanos, byte: u8) {
        let s = &mut self.state;
        s.thre_pending = false;
        if s.loopback() {
            if s.rx.len() < s.capacity() {
                s.receive(byte, now);
            } else {
                s.errors |= LSR_OE & LSR_ERRORS;
                if !s.fifo_enabled() {
                    s.rx.clear();
                    s.receive(byte, now);
                }
            }
            s.thre_pending = true;
            return;
        }
        // Who writes although THRE is low overwrites.
        if s.tx.len() >= s.capacity() {
            s.tx.pop_back();
        }
        s.tx.push_back(byte);
        self.flush(now);
    }
}

impl Device for Uart {
    fn name(&self) -> &'static str {
        "uart"
    }

    fn reset(&mut self, now: Nanos) {
        self.state = State::new();
        self.update(now);
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }

    fn timer(&mut self) -> Option<&mut dyn Timer> {
        Some(self)
    }
}

impl Pio for Uart {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::bytes(self.base, 8)]
    }

    fn pio_read(&mut self, now: Nanos, port: u16, _size: u8) -> u32 {
        let value = self.read(now, port - self.base);
        self.update(now);
        u32::from(value)
    }

    fn pio_write(&mut self, now: Nanos, port: u16, _size: u8, value: u32) {
        self.write(now, port - self.base, value.to_le_bytes()[0]);
        self.update(now);
    }
}

impl Timer for Uart {
    fn deadline(&self) -> Option<Nanos> {
        // Below the trigger only: at it the interrupt is already up.
        let timeout = self
            .timeout_at()
            .filter(|_| self.state.rx.len() < self.state.trigger());
        [timeout, self.state.retry].into_iter().flatten().min()
    }

    fn fire(&mut self, now: Nanos) {
        if self.state.retry.is_some_and(|at| at <= now) {
            self.flush(now);
        }
        self.fetch(now, false);
        self.update(now);
    }

    fn set_waker(&mut self, waker: Waker) {
        self.host.input.set_waker(waker);
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;
    use crate::clock::SECOND;

    const BASE: u16 = 0x3f8;
    const IRQ4: Option<u8> = Some(0x24);

    fn machine() -> Machine {
        let m = Machine::new();
        m.init_pic();
        m.outb(BASE + 4, 0x0b);
        m
    }

    #[test]
    fn uart_thre_interrupt_comes_again_when_thri_is_set_while_thr_is_empty() {
        let m = machine();
        for _ in 0..3 {
            m.outb(BASE + 1, 2);
            assert_eq!(m.ack(), IRQ4);
            m.eoi_pic();
            assert_eq!(m.inb(BASE + 2) & 0x0f, 2);
            assert_eq!(m.inb(BASE + 2) & 0x0f, 1, "reading IIR took it down");
            m.outb(BASE + 1, 0);
        }
        m.outb(BASE + 1, 2);
        m.inb(BASE + 2);
        m.ack();
        m.eoi_pic();
        m.outb(BASE, b'x');
        assert_eq!(m.ack(), IRQ4, "and after each byte");
        assert_eq!(m.serial.text(), "x");
    }

    #[test]
    fn uart_loopback() {
        let m = machine();
        m.inb(BASE + 6);
        m.outb(BASE + 4, 0x1a);
        assert_eq!(m.inb(BASE + 6) & 0xf0, 0x90, "RTS is CTS, OUT2 is DCD");
        m.outb(BASE + 4, 0x15);
        assert_eq!(
            m.inb(BASE + 6),
            0x60 | 0x0b,
            "DTR is DSR, OUT1 is RI; the changes show"
        );
        m.outb(BASE, 0x5a);
        assert_eq!(m.inb(BASE + 5) & 1, 1);
        assert_eq!(m.inb(BASE), 0x5a);
        assert_eq!(m.serial.text(), "", "nothing leaves the chip");
        m.outb(BASE, 1);
        m.outb(BASE, 2);
        assert_eq!(m.inb(BASE + 5) & 3, 3, "overrun without FIFO");
        assert_eq!(m.inb(BASE), 2);
    }

    #[test]
    fn uart_fifo_bits() {
        let m = machine();
        assert_eq!(m.inb(BASE + 2), 0x01);
        m.outb(BASE + 2, 0x01);
        assert_eq!(m.inb(BASE + 2), 0xc1, "a 16550A shows both bits");
        m.outb(BASE + 2, 0x00);
        assert_eq!(m.inb(BASE + 2), 0x01);
        m.outb(BASE + 7, 0xa5);
        assert_eq!(m.inb(BASE + 7), 0xa5);
        m.outb(BASE + 3, 0x80);
        m.outb(BASE, 0x34);
        m.outb(BASE + 1, 0x12);
        assert_eq!((m.inb(BASE), m.inb(BASE + 1)), (0x34, 0x12));
        m.outb(BASE + 3, 0x03);
        assert_eq!(m.inb(BASE + 1), 0);
    }

    #[test]
    fn uart_output_never_blocks_the_vcpu() {
        let m = machine();
        *m.serial.room.lock() = 2;
        m.outb(BASE + 2, 0x01);
        for byte in b"hello" {
            m.outb(BASE, *byte);
        }
        assert_eq!(m.serial.text(), "he");
        assert_eq!(
            m.inb(BASE + 5) & 0x60,
            0,
            "THRE is low: the guest waits, not the vCPU"
        );
        *m.serial.room.lock() = 100;
        m.advance(2_000_000);
        assert_eq!(m.serial.text(), "hello", "nothing was lost");
        assert_eq!(m.inb(BASE + 5) & 0x60, 0x60);
    }

    #[test]
    fn uart_input_waits_for_room_and_raises_its_interrupts() {
        let m = machine();
        m.outb(BASE + 2, 0xc1);
        m.outb(BASE + 1, 1);
        for byte in 0..40 {
            assert!(m.input.push(byte));
        }
        m.advance(1000);
        assert_eq!(m.ack(), IRQ4);
        assert_eq!(m.inb(BASE + 2) & 0x0f, 4);
        for byte in 0..40 {
            assert_eq!(m.inb(BASE + 5) & 3, 1, "no overrun");
            assert_eq!(m.inb(BASE), byte);
        }
        assert_eq!(m.inb(BASE + 5) & 1, 0);
    }

    #[test]
    fn uart_reports_a_fifo_below_its_trigger_after_a_timeout() {
        let m = machine();
        m.outb(BASE + 2, 0xc1);
        m.outb(BASE + 1, 1);
        m.input.push(b'a');
        m.advance(1000);
        assert_eq!(m.ack(), None);
        m.advance(SECOND / 100);
        assert_eq!(m.ack(), IRQ4);
        assert_eq!(m.inb(BASE + 2) & 0x0f, 12);
        m.inb(BASE);
        assert_eq!(m.inb(BASE + 2) & 0x0f, 1);
    }

    #[test]
    fn uart_end_of_stdin_is_no_hang_up() {
        let m = machine();
        m.inb(BASE + 6);
        drop(m.input.clone());
        m.advance(SECOND);
        assert_eq!(m.inb(BASE + 6), 0xb0, "DCD stays up and nothing changes");
    }

    #[test]
    fn uart_keeps_type_ahead_until_the_guest_is_ready() {
        let m = Machine::new();
        for byte in b"abc" {
            m.input.push(*byte);
        }
        m.advance(1000);
        // What a driver does when it opens the port.
        m.outb(BASE + 4, 0);
        m.outb(BASE + 2, 7);
        m.outb(BASE + 2, 0);
        m.inb(BASE + 5);
        m.inb(BASE);
        m.outb(BASE + 4, 0x0b);
        assert_eq!(m.inb(BASE), u32::from(b'a'));
        // A guest that never sets RTS but polls gets it too.
        let m = Machine::new();
        m.input.push(b'z');
        m.advance(1000);
        assert_eq!(m.inb(BASE + 5) & 1, 1);
        assert_eq!(m.inb(BASE), u32::from(b'z'));
    }
}
