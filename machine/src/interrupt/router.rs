//! The interrupt router: which line goes to which input of the PICs and of the I/O APIC.

use std::sync::Arc;

use parking_lot::Mutex;

use super::apics::Apics;
use super::ioapic::{IoApic, PINS};
use super::message::Delivery;
use super::pic::PicPair;

/// The ACPI system control interrupt.
pub const SCI: u8 = 9;
/// The first of the four lines that PCI's INTA..INTD go to.
pub const PCI_FIRST: u8 = 16;

/// The input of the I/O APIC for a line: the timer's is 2, as the MADT's override tells; all others are their own.
pub fn ioapic_pin(line: u8) -> usize {
    match line {
        0 => 2,
        line => usize::from(line),
    }
}

#[derive(Debug)]
struct State {
    pic: PicPair,
    ioapic: IoApic,
    /// Who drives each line: a bit a source. The line is up while one of them is.
    sources: [u64; PINS],
    /// Sources of each line that count for nothing while [`State::legacy_replaced`].
    replaceable: [u64; PINS],
    /// Sources given out per line.
    given: [u32; PINS],
    /// HPET timers 0 and 1 stand in for the PIT and the RTC.
    legacy_replaced: bool,
    /// PIRQ route registers: bit 7 off, bits 3:0 the PIC input of INTA..INTD.
    pirq: [u8; 4],
    int: bool,
}

impl State {
    fn line_level(&self, line: usize) -> bool {
        let blocked = if self.legacy_replaced {
            self.replaceable[line]
        } else {
            0
        };
        self.sources[line] & !blocked != 0
    }

    /// The PIC input that a line drives.
    fn pic_input(&self, line: usize) -> Option<u8> {
        match line {
            0..=15 => Some(line as u8),
            16..=19 => match self.pirq[line - 16] {
                route if route & 0x80 == 0 => Some(route & 15),
                _ => None,
            },
            _ => None,
        }
    }

    /// The level of a PIC input: its own line or a PCI interrupt routed to it.
    fn pic_level(&self, input: u8) -> bool {
        self.line_level(usize::from(input))
            || (16..20).any(|line| self.pic_input(line) == Some(input) && self.line_level(line))
    }
}

/// PIC pair, I/O APIC and the lines between them and the devices.
#[derive(Debug)]
pub struct Router {
    state: Mutex<State>,
    apics: Arc<Apics>,
}

impl Router {
    /// A router for these local APICs.
    pub fn new(apics: Arc<Apics>) -> Arc<Self> {
        let state = State {
            pic: PicPair::default(),
            ioapic: IoApic::default(),
            sources: [0; PINS],
            replaceable: [0; PINS],
            given: [0; PINS],
            legacy_replaced: false,
            pirq: [0x80; 4],
            int: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            apics,
        })
    }

    /// A new source on line `line` (0..=23: ISA IRQs below 16).
    ///
    /// # Panics
    /// When the machine is built with more than 64 sources on a line or a line that doesn't exist.
    pub fn line(self: &Arc<Self>, line: u8) -> IrqLine {
        self.new_source(line, false)
    }

    /// As [`Router::line`], for the PIT and the RTC: without effect while the HPET replaces them.
    ///
    /// # Panics
    /// As [`Router::line`].
    pub fn replaceable_line(self: &Arc<Self>, line: u8) -> IrqLine {
        self.new_source(line, true)
    }

    /// The line of PCI interrupt pin `pin` (0 = INTA) of the device in `slot` on bus 0.
    ///
    /// # Panics
    /// As [`Router::line`].
    pub fn pci_line(self: &Arc<Self>, slot: u8, pin: u8) -> IrqLine {
        self.line(PCI_FIRST + (slot.wrapping_add(pin) & 3))
    }

    fn new_source(self: &Arc<Self>, line: u8, replaceable: bool) -> IrqLine {
        let mut state = self.state.lock();
        let index = usize::from(line);
        let source = 1u64
            .checked_shl(state.given[index])
            .expect("at most 64 sources a line");
        state.given[index] += 1;
        if replaceable {
            state.replaceable[index] |= source;
        }
        IrqLine {
            router: Arc::clone(self),
            line,
            source,
        }
    }

    /// Power-on state. Lines stay as their devices drive them: the devices are reset too.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        state.pic.reset();
        state.ioapic.reset();
        state.legacy_replaced = false;
        state.pirq = [0x80; 4];
        self.refresh(&mut state);
    }

    fn set(&self, line: u8, source: u64, level: bool) -> Delivery {
        let mut state = self.state.lock();
        let index = usize::from(line);
        let before = state.line_level(index);
        if level {
            state.sources[index] |= source;
        } else {
            state.sources[index] &= !source;
        }
        let after = state.line_level(index);
        if before == after {
            return Delivery::Masked;
        }
        self.drive(&mut state, index, after)
    }

    /// A rising edge whatever the line's level was; it stays up.
    fn pulse(&self, line: u8, source: u64) -> Delivery {
        let mut state = self.state.lock();
        let index = usize::from(line);
        state.sources[index] |= source;
        if !state.line_level(index) {
            return Delivery::Masked;
        }
        if let Some(input) = state.pic_input(index) {
            // Don't let the edge take back a request that is still pending: that one would then be lost unseen.
            let State { pic, .. } = &mut *state;
            let pending = pic.is_requested(input);
            if pending {
                let masked = pic.is_masked(input);
                let delivery = self.ioapic_edge(&mut state, index);
                return if masked {
                    delivery
                } else {
                    delivery.max(Delivery::Lost)
                };
            }
            pic.set_irq(input, false);
        }
        let delivery = self.ioapic_edge(&mut state, index);
        let pic = match state.pic_input(index) {
            Some(input) => state.pic.set_irq(input, true),
            None => Delivery::Masked,
        };
        self.sync_int(&mut state);
        delivery.max(pic)
    }

    fn ioapic_edge(&self, state: &mut State, line: usize) -> Delivery {
        let mut sink = |m: &_| self.apics.deliver(m);
        state
            .ioapic
            .set_pin(ioapic_pin(line as u8), false, &mut sink);
        state
            .ioapic
            .set_pin(ioapic_pin(line as u8), true, &mut sink)
    }

    fn drive(&self, state: &mut State, line: usize, level: bool) -> Delivery {
        let ioapic = state
            .ioapic
            .set_pin(ioapic_pin(line as u8), level, &mut |m| {
                self.apics.deliver(m)
            });
        let pic = match state.pic_input(line) {
            Some(input) => {
                let level = state.pic_level(input);
                state.pic.set_irq(input, level)
            }
            None => Delivery::Masked,
        };
        self.sync_int(state);
        ioapic.max(pic)
    }

    /// Drives every input anew, after a change of routing.
    fn refresh(&self, state: &mut State) {
        for input in 0..16 {
            let level = state.pic_level(input);
            state.pic.set_irq(input, level);
        }
        for line in 0..PINS {
            // The timer's input is 2, and nothing drives 0.
            if line != 2 {
                let level = state.line_level(line);
                state
                    .ioapic
                    .set_pin(ioapic_pin(line as u8), level, &mut |m| {
                        self.apics.deliver(m)
                    });
            }
        }
        self.sync_int(state);
    }

    /// Tells LINT0 of a change of the PIC's INT output.
    fn sync_int(&self, state: &mut State) {
        let int = state.pic.int();
        if int != state.int {
            state.int = int;
            self.apics.set_pic_int(int);
        }
    }

    /// Reads one of the PICs' ports.
    pub fn pic_read(&self, port: u16) -> u8 {
        let mut state = self.state.lock();
        let value = state.pic.read(port);
        self.sync_int(&mut state);
        value
    }

    /// Writes one of the PICs' ports.
    pub fn pic_write(&self, port: u16, value: u8) {
        let mut state = self.state.lock();
        state.pic.write(port, value);
        self.sync_int(&mut state);
    }

    /// The CPU's INTA cycle: the PIC's vector, or `None` when its request has gone meanwhile.
    pub fn pic_acknowledge(&self) -> Option<u8> {
        let mut state = self.state.lock();
        let vector = state.pic.int().then(|| state.pic.acknowledge());
        self.sync_int(&mut state);
        vector
    }

    /// Reads a register of the I/O APIC.
    pub fn ioapic_read(&self, offset: u64) -> u32 {
        self.state.lock().ioapic.read(offset)
    }

    /// Writes a register of the I/O APIC.
    pub fn ioapic_write(&self, offset: u64, value: u32) {
        self.state
            .lock()
            .ioapic
            .write(offset, value, &mut |m| self.apics.deliver(m));
    }

    /// A local APIC completed a level-triggered interrupt.
    pub fn eoi(&self, vector: u8) {
        self.state
            .lock()
            .ioapic
            .eoi(vector, &mut |m| self.apics.deliver(m));
    }

    /// The HPET takes over the lines of PIT and RTC, or gives them back.
    pub fn set_legacy_replacement(&self, replaced: bool) {
        let mut state = self.state.lock();
        if state.legacy_replaced != replaced {
            state.legacy_replaced = replaced;
            self.refresh(&mut state);
        }
    }

    /// Sets a PIRQ route register (INTA..INTD are 0..=3): bit 7 off, bits 3:0 the PIC input.
    pub fn set_pirq(&self, index: usize, route: u8) {
        let mut state = self.state.lock();
        if state.pirq[index & 3] != route {
            state.pirq[index & 3] = route;
            self.refresh(&mut state);
        }
    }
}

/// A device's handle to an interrupt line. Clones are the same source: the line is up while any source is.
#[derive(Clone, Debug)]
pub struct IrqLine {
    router: Arc<Router>,
    line: u8,
    source: u64,
}

impl IrqLine {
    /// Drives the line.
    pub fn set(&self, level: bool) {
        self.router.set(self.line, self.source, level);
    }

    /// Makes a rising edge and leaves the line up. Says what became of it.
    pub fn pulse(&self) -> Delivery {
        self.router.pulse(self.line, self.source)
    }

    /// The line's number (ISA IRQ below 16).
    pub fn number(&self) -> u8 {
        self.line
    }
}
