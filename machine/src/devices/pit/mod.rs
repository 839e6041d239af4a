//! The 8254 timer and port 61h (Intel 8254 data sheet; PIIX3 data sheet for port 61h).
//!
//! Counter 0's output is IRQ 0, counter 1 was DRAM refresh, counter 2 drives the speaker and is read at port 61h.

mod counter;

use crate::clock::{Nanos, SECOND, scale, scale_up};
use crate::device::{Device, Pio, PortRange, Timer};
use crate::interrupt::{Delivery, IrqLine};
use crate::tick::{TickPolicy, Ticker};
use counter::{Counter, Edges};

/// The input clock in Hz.
pub const HZ: u64 = 1_193_182;

/// Between two refresh requests, in PIT ticks: bit 4 of port 61h toggles with each.
const REFRESH_TICKS: u64 = 18;

/// The timer and the system control port B.
#[derive(Debug)]
pub struct Pit {
    // Static configuration
    ticks: TickPolicy,
    // Runtime glue
    irq: IrqLine,
    // Volatile state
    counters: [Counter; 3],
    /// Bits 3:0 of port 61h: speaker gate, speaker data, parity and channel check.
    control: u8,
    ticker: Option<Ticker>,
    once: Option<Nanos>,
}

/// The PIT's tick count at `now`.
fn tick_at(now: Nanos) -> u64 {
    scale(now, HZ, SECOND)
}

/// The instant at which the tick count reaches `tick`.
fn time_of(tick: u64) -> Nanos {
    scale_up(tick, SECOND, HZ)
}

impl Pit {
    /// A PIT on IRQ 0's line.
    pub fn new(irq: IrqLine, ticks: TickPolicy) -> Self {
        let counters = [Counter::new(true), Counter::new(true), Counter::new(false)];
        Self {
            ticks,
            irq,
            counters,
            control: 0,
            ticker: None,
            once: None,
        }
    }

    /// Plans counter 0's interrupts anew.
    fn replan(&mut self) {
        self.ticker = None;
        self.once = None;
        match self.counters[0].edges() {
            Edges::None => {}
            Edges::Once(tick) => self.once = Some(time_of(tick)),
            Edges::Every(tick, period) => {
                self.ticker = Some(Ticker::new(time_of(tick), u64::from(period) * SECOND, HZ));
            }
        }
    }

    fn write_control(&mut self, tick: u64, value: u8) {
        let select = usize::from(value >> 6);
        if select == 3 {
            for (index, counter) in self.counters.iter_mut().enumerate() {
                if value & (2 << index) != 0 {
                    if value & 0x20 == 0 {
                        counter.latch(tick);
                    }
                    if value & 0x10 == 0 {
                        counter.latch_status(tick);
                    }
                }
            }
        } else if value & 0x30 == 0 {
            self.counters[select].latch(tick);
        } else {
            self.counters[select].control(value & 0x3f);
            if select == 0 {
                self.replan();
                if !self.counters[0].out(tick) {
                    self.irq.set(false);
                }
            }
        }
    }
}

impl Device for Pit {
    fn name(&self) -> &'static str {
        "pit"
    }

    fn reset(&mut self, _now: Nanos) {
        *self = Self::new(self.irq.clone(), self.ticks);
        self.irq.set(false);
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }

    fn timer(&mut self) -> Option<&mut dyn Timer> {
        Some(self)
    }
}

impl Pio for Pit {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::bytes(0x40, 4), PortRange::bytes(0x61, 1)]
    }

    fn pio_read(&mut self, now: Nanos, port: u16, _size: u8) -> u32 {
        let tick = tick_at(now);
        let value = match port {
            0x40..=0x42 => self.counters[usize::from(port - 0x40)].read(tick),
            0x61 => {
                let refresh = ((tick / REFRESH_TICKS) & 1) as u8;
                self.control | refresh << 4 | u8::from(self.counters[2].out(tick)) << 5
            }
            // The control word can't be read.
            _ => 0xff,
        };
        u32::from(value)
    }

    fn pio_write(&mut self, now: Nanos, port: u16, _size: u8, value: u32) {
        let tick = tick_at(now);
        let value = value.to_le_bytes()[0];
        match port {
            0x40 => {
                if self.counters[0].write(value, tick) {
                    self.replan();
                    if !self.counters[0].out(tick) {
                        self.irq.set(false);
                    }
                }
            }
            0x41 | 0x42 => {
                self.counters[usize::from(port - 0x40)].write(value, tick);
            }
            0x43 => self.write_control(tick, value),
            _ => {
                self.control = value & 0x0f;
                self.counters[2].set_gate(value & 1 != 0, tick);
            }
        }
    }
}

impl Timer for Pit {
    fn deadline(&self) -> Option<Nanos> {
        match &self.ticker {
            Some(ticker) => Some(ticker.deadline(self.ticks)),
            None => self.once,
        }
    }

    fn fire(&mut self, now: Nanos) {
        if self.once.is_some_and(|at| at <= now) {
            self.once = None;
            self.irq.pulse();
        }
        if let Some(ticker) = &mut self.ticker {
            ticker.fire(now, self.ticks, || self.irq.pulse() != Delivery::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;
    use crate::clock::SECOND;

    /// Nanoseconds of `ticks` of the PIT's clock, rounded up.
    fn ticks(ticks: u64) -> u64 {
        (ticks * SECOND).div_ceil(1_193_182)
    }

    #[test]
    fn pit_latch_holds_the_count_while_it_runs_on() {
        let m = Machine::new();
        m.outb(0x43, 0x34);
        m.outb(0x40, 0x00);
        m.outb(0x40, 0x80);
        m.advance(ticks(101));
        m.outb(0x43, 0x00);
        m.advance(ticks(1000));
        let latched = m.inb(0x40) | m.inb(0x40) << 8;
        assert_eq!(latched, 0x8000 - 100);
        let live = m.inb(0x40) | m.inb(0x40) << 8;
        assert_eq!(live, 0x8000 - 999);
    }

    #[test]
    fn pit_gate_and_out2_at_port_61h() {
        let m = Machine::new();
        m.outb(0x43, 0xb0);
        m.outb(0x42, 100);
        m.outb(0x42, 0);
        m.advance(ticks(1000));
        assert_eq!(m.inb(0x61) & 0x21, 0, "the gate is closed: nothing counts");
        m.outb(0x61, 1);
        let start = 1000;
        m.advance(ticks(start + 60));
        assert_eq!(m.inb(0x61) & 0x20, 0);
        m.outb(0x61, 0);
        m.advance(ticks(start + 500));
        assert_eq!(m.inb(0x61) & 0x20, 0, "stopped half-way");
        m.outb(0x61, 1);
        m.advance(ticks(start + 542));
        assert_eq!(m.inb(0x61) & 0x20, 0x20, "the rest has run");
        m.outb(0x61, 0);
        m.outb(0x61, 1);
        assert_eq!(m.inb(0x61) & 0x20, 0x20, "OUT stays high until a new count");
        m.outb(0x42, 5);
        assert_eq!(m.inb(0x61) & 0x20, 0);
    }

    #[test]
    fn pit_refresh_bit_toggles_at_port_61h() {
        let m = Machine::new();
        let mut toggles = 0;
        let mut last = m.inb(0x61) & 0x10;
        for us in 1..=1000 {
            m.advance(us * 1000);
            let bit = m.inb(0x61) & 0x10;
            toggles += u32::from(bit != last);
            last = bit;
        }
        assert_eq!(toggles, 66, "every 15.085 us");
    }

    #[test]
    fn rate_generator_interrupts_at_its_rate() {
        let m = Machine::new();
        m.init_pic();
        m.outb(0x43, 0x34);
        m.outb(0x40, (11_932u32 & 0xff) as u8);
        m.outb(0x40, (11_932u32 >> 8) as u8);
        let mut seen = 0;
        for ms in 1..=1000 {
            m.advance(ms * 1_000_000);
            while m.ack() == Some(0x20) {
                m.outb(0x20, 0x20);
                seen += 1;
            }
        }
        assert_eq!(seen, 99);
    }

    #[test]
    fn mode_0_interrupts_once_and_out_follows() {
        let m = Machine::new();
        m.init_pic();
        m.outb(0x43, 0x30);
        m.outb(0x40, 0xe8);
        m.outb(0x40, 0x03);
        m.advance(ticks(1000));
        assert_eq!(m.ack(), None);
        m.advance(ticks(1001));
        assert_eq!(m.ack(), Some(0x20));
        m.outb(0x20, 0x20);
        m.outb(0x43, 0xe2);
        assert_eq!(m.inb(0x40), 0xb0, "OUT high, not null, word access, mode 0");
        m.advance(ticks(200_000));
        assert_eq!(m.ack(), None);
    }

    #[test]
    fn mode_4_strobes_once() {
        let m = Machine::new();
        m.init_pic();
        m.outb(0x43, 0x18);
        m.outb(0x40, 50);
        m.advance(ticks(52));
        assert_eq!(m.ack(), Some(0x20));
        m.outb(0x20, 0x20);
        m.advance(ticks(100_000));
        assert_eq!(m.ack(), None);
    }

    #[test]
    fn modes_1_and_5_wait_for_the_gate() {
        let m = Machine::new();
        m.outb(0x43, 0x92);
        m.outb(0x42, 10);
        m.advance(ticks(100));
        assert_eq!(m.inb(0x61) & 0x20, 0x20, "high until triggered");
        m.outb(0x61, 1);
        m.advance(ticks(105));
        assert_eq!(m.inb(0x61) & 0x20, 0);
        m.advance(ticks(112));
        assert_eq!(m.inb(0x61) & 0x20, 0x20);
        m.outb(0x61, 0);
        m.outb(0x43, 0x9a);
        m.outb(0x42, 10);
        m.outb(0x61, 1);
        m.advance(ticks(123));
        assert_eq!(m.inb(0x61) & 0x20, 0, "the strobe is one clock wide");
        m.advance(ticks(124));
        assert_eq!(m.inb(0x61) & 0x20, 0x20);
    }

    #[test]
    fn square_wave_halves_and_new_counts_wait_for_the_period() {
        let m = Machine::new();
        m.outb(0x61, 1);
        m.outb(0x43, 0x96);
        m.outb(0x42, 100);
        m.advance(ticks(1 + 49));
        assert_eq!(m.inb(0x61) & 0x20, 0x20);
        m.advance(ticks(1 + 51));
        assert_eq!(m.inb(0x61) & 0x20, 0);
        m.outb(0x42, 10);
        m.outb(0x43, 0xe8);
        assert_eq!(m.inb(0x42) & 0x40, 0x40, "null count: not loaded yet");
        m.advance(ticks(1 + 104));
        assert_eq!(m.inb(0x61) & 0x20, 0x20);
        m.advance(ticks(1 + 106));
        assert_eq!(m.inb(0x61) & 0x20, 0, "the new period");
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let m = Machine::new();
        m.outb(0x43, 0x35);
        m.outb(0x40, 0x00);
        m.outb(0x40, 0x10);
        m.advance(ticks(2));
        let count = m.inb(0x40) | m.inb(0x40) << 8;
        assert_eq!(count, 0x0999);
    }

    #[test]
    fn the_finest_count_can_not_flood_the_host() {
        let m = Machine::new();
        m.init_pic();
        m.outb(0x43, 0x14);
        m.outb(0x40, 1);
        m.advance(SECOND);
        assert!(m.board.fired() < 60_000);
    }
}
