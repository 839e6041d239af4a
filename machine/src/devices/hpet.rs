//! The high precision event timer: a 64-bit counter at 100 MHz and three comparators (IA-PC HPET specification 1.0a).

use x86::PhysAddr;

use crate::clock::Nanos;
use crate::device::{Device, Mmio, Region, Timer};
use crate::interrupt::{IrqLine, Router};
use crate::tick::MIN_PERIOD;
use std::sync::Arc;

/// Where its registers are.
pub const BASE: u64 = 0xfed0_0000;
/// Bytes of its register window.
pub const LEN: u64 = 0x400;

const TIMERS: usize = 3;
/// Nanoseconds between two counts.
const PERIOD: Nanos = 10;
/// The I/O APIC inputs the timers can use: 20..23.
const ROUTES: u64 = 0x00f0_0000;
const FIRST_ROUTE: usize = 20;

/// Revision 1, 3 timers, 64 bits, legacy replacement, vendor 8086h, period in femtoseconds.
pub const CAPABILITIES: u64 =
    (PERIOD * 1_000_000) << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 1;

const ENABLE: u64 = 1;
const LEGACY: u64 = 2;

const T_LEVEL: u64 = 1 << 1;
const T_INT: u64 = 1 << 2;
const T_PERIODIC: u64 = 1 << 3;
const T_VALUE_SET: u64 = 1 << 6;
const T_32_BIT: u64 = 1 << 8;
const T_WRITABLE: u64 = T_LEVEL | T_INT | T_PERIODIC | T_VALUE_SET | T_32_BIT | 0x1f << 9;
/// Can be periodic, is 64 bits wide.
const T_CAPABILITIES: u64 = 1 << 4 | 1 << 5 | ROUTES << 32;

#[derive(Clone, Copy, Debug)]
struct Comparator {
    config: u64,
    value: u64,
    /// The last value written in periodic mode.
    period: u64,
    /// Matches up to this count are done with.
    checked: u64,
    /// When it last fired.
    last: Option<Nanos>,
}

impl Comparator {
    const RESET: Self = Self {
        config: T_CAPABILITIES,
        value: u64::MAX,
        period: 0,
        checked: 0,
        last: None,
    };

    fn mask(&self) -> u64 {
        if self.config & T_32_BIT != 0 {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }

    /// The count at the next match, if the counter can get there without wrapping.
    fn next(&self) -> Option<u64> {
        match self.value.wrapping_sub(self.checked) & self.mask() {
            0 => self.checked.checked_add(self.mask())?.checked_add(1),
            delta => self.checked.checked_add(delta),
        }
    }

    fn route(&self) -> usize {
        (self.config >> 9 & 0x1f) as usize
    }

    /// Accounts for the matches up to `count`; `true` if there was one.
    fn matched(&mut self, count: u64) -> bool {
        if self.next().is_none_or(|next| next > count) {
            return false;
        }
        self.checked = count;
        if self.config & T_PERIODIC != 0 && self.period != 0 {
            let late = count.wrapping_sub(self.value) & self.mask();
            let step = (late / self.period + 1).wrapping_mul(self.period);
            self.value = self.value.wrapping_add(step) & self.mask();
        }
        true
    }
}

/// The HPET.
#[derive(Debug)]
pub struct Hpet {
    // Runtime glue
    router: Arc<Router>,
    /// IRQ 0 and IRQ 8 for timers 0 and 1 in legacy replacement.
    legacy: [IrqLine; 2],
    /// Inputs 20..23, each timer its own source.
    lines: [[IrqLine; 4]; TIMERS],
    // Volatile state
    config: u64,
    status: u64,
    /// The count at `since`, or at all times while it is halted.
    count: u64,
    since: Nanos,
    timers: [Comparator; TIMERS],
}

impl Hpet {
    /// An HPET with its lines from `router`.
    pub fn new(router: &Arc<Router>) -> Self {
        let lines = || [20, 21, 22, 23].map(|line| router.line(line));
        Self {
            router: Arc::clone(router),
            legacy: [router.line(0), router.line(8)],
            lines: [lines(), lines(), lines()],
            config: 0,
            status: 0,
            count: 0,
            since: 0,
            timers: [Comparator::RESET; TIMERS],
        }
    }

    fn counter(&self, now: Nanos) -> u64 {
        if self.config & ENABLE == 0 {
            return self.count;
        }
        self.count
            .wrapping_add(now.saturating_sub(self.since) / PERIOD)
    }

    /// Sets the counter; comparators look for matches from there on.
    fn set_counter(&mut self, count: u64, now: Nanos) {
        self.count = count;
        self.since = now;
        for timer in &mut self.timers {
            timer.checked = count;
        }
    }

    /// The line that timer `index` uses now.
    fn line(&self, index: usize) -> Option<&IrqLine> {
        if self.config & LEGACY != 0 && index < 2 {
            return Some(&self.legacy[index]);
        }
        let route = self.timers[index].route().checked_sub(FIRST_ROUTE)?;
        self.lines[index].get(route)
    }

    fn expire(&mut self, index: usize) {
        let config = self.timers[index].config;
        if config & T_LEVEL != 0 {
            self.status |= 1 << index;
            self.update_levels();
        } else if config & T_INT != 0 {
            if let Some(line) = self.line(index) {
                line.pulse();
            }
        }
    }

    /// Drives the lines of level-triggered timers as the status register says, all others of theirs low.
    fn update_levels(&self) {
        for (index, timer) in self.timers.iter().enumerate() {
            let up = timer.config & (T_LEVEL | T_INT) == T_LEVEL | T_INT
                && self.status & (1 << index) != 0;
            let used = self.line(index).map(IrqLine::number);
            let legacy = self
                .legacy
                .get(index)
                .filter(|_| timer.config & T_LEVEL != 0 || self.config & LEGACY == 0);
            for line in self.lines[index].iter().chain(legacy) {
                line.set(up && used == Some(line.number()));
            }
        }
    }

    /// Lets everything expire that is due.
    fn sync(&mut self, now: Nanos) {
        if self.config & ENABLE == 0 {
            return;
        }
        let count = self.counter(now);
        for index in 0..TIMERS {
            let timer = &mut self.timers[index];
            let periodic = timer.config & T_PERIODIC != 0;
            if periodic
                && timer
                    .last
                    .is_some_and(|last| now < last.saturating_add(MIN_PERIOD))
            {
                continue;
            }
            if timer.matched(count) {
                timer.last = Some(now);
                self.expire(index);
            }
        }
    }

    fn read(&self, now: Nanos, offset: u64) -> u64 {
        match offset {
            0x000 => CAPABILITIES,
            0x010 => self.config,
            0x020 => self.status,
            0x0f0 => self.counter(now),
            0x100..=0x15f => {
                let timer = &self.timers[((offset - 0x100) / 0x20) as usize];
                match offset & 0x1f {
                    0x00 => timer.config,
                    0x08 => timer.value,
                    // No FSB (MSI) delivery.
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    /// Writes the bits of `mask` in the 64-bit register at `offset`.
    fn write(&mut self, now: Nanos, offset: u64, value: u64, mask: u64) {
        let merge = |old: u64| (old & !mask) | (value & mask);
        match offset {
            0x010 => {
                let new = merge(self.config) & (ENABLE | LEGACY);
                let count = self.counter(now);
                self.config = new;
                self.set_counter(count, now);
                self.router.set_legacy_replacement(new & LEGACY != 0);
                self.update_levels();
            }
            0x020 => {
                self.status &= !(value & mask);
                self.update_levels();
            }
            0x0f0 => {
                let count = merge(self.counter(now));
                self.set_counter(count, now);
            }
            0x100..=0x15f => {
                let count = self.counter(now);
                let timer = &mut self.timers[((offset - 0x100) / 0x20) as usize];
                match offset & 0x1f {
                    0x00 => {
                        let mut new = merge(timer.config) & T_WRITABLE;
                        let route = new >> 9 & 0x1f;
                        if route != 0 && ROUTES & (1 << route) == 0 {
                            // An input it can't reach doesn't stick.
                            new = new & !(0x1f << 9) | timer.config & (0x1f << 9);
                        }
                        timer.config = new | T_CAPABILITIES;
                        timer.value &= timer.mask();
                        timer.period &= timer.mask();
                        timer.checked = count;
                        self.update_levels();
                    }
                    0x08 => {
                        if timer.config & T_PERIODIC == 0 {
                            timer.value = merge(timer.value) & timer.mask();
                        } else {
                            timer.period = merge(timer.period) & timer.mask();
                            if timer.config & T_VALUE_SET != 0 {
                                timer.value = merge(timer.value) & timer.mask();
                                timer.config &= !T_VALUE_SET;
                            }
                        }
                        timer.checked = count;
                        timer.last = None;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

impl Device for Hpet {
    fn name(&self) -> &'static str {
        "hpet"
    }

    fn reset(&mut self, now: Nanos) {
        self.config = 0;
        self.status = 0;
        self.timers = [Comparator::RESET; TIMERS];
        self.set_counter(0, now);
        self.router.set_legacy_replacement(false);
        self.update_levels();
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }

    fn timer(&mut self) -> Option<&mut dyn Timer> {
        Some(self)
    }
}

impl Mmio for Hpet {
    fn regions(&self) -> Vec<Region> {
        vec![Region {
            start: PhysAddr(BASE),
            len: LEN,
        }]
    }

    fn mmio_read(&mut self, now: Nanos, addr: PhysAddr, size: u8) -> u64 {
        self.sync(now);
        let offset = addr.0 - BASE;
        let value = self.read(now, offset & !7) >> (8 * (offset & 7));
        if size == 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        }
    }

    fn mmio_write(&mut self, now: Nanos, addr: PhysAddr, size: u8, value: u64) {
        self.sync(now);
        let (offset, shift) = (addr.0 - BASE, 8 * (addr.0 & 7));
        let mask = if size == 8 {
            u64::MAX
        } else {
            (1 << (8 * size)) - 1
        };
        self.write(now, offset & !7, value << shift, mask << shift);
    }
}

impl Timer for Hpet {
    fn deadline(&self) -> Option<Nanos> {
        if self.config & ENABLE == 0 {
            return None;
        }
        let at = |timer: &Comparator| {
            // Nobody notices a match of a timer that neither interrupts nor shows it in the status register.
            if timer.config & (T_INT | T_LEVEL) == 0 {
                return None;
            }
            let counts = timer.next()?.checked_sub(self.count)?;
            let at = self.since.saturating_add(counts.checked_mul(PERIOD)?);
            let earliest = match timer.last {
                Some(last) if timer.config & T_PERIODIC != 0 => last.saturating_add(MIN_PERIOD),
                _ => 0,
            };
            Some(at.max(earliest))
        };
        self.timers.iter().filter_map(at).min()
    }

    fn fire(&mut self, now: Nanos) {
        self.sync(now);
    }
}

#[cfg(test)]
mod tests {
    use super::BASE;
    use crate::board::tests::Machine;

    const MS: u64 = 1_000_000;

    fn machine() -> Machine {
        let m = Machine::new();
        m.init_pic();
        m.write64(BASE + 0x10, 1);
        m
    }

    #[test]
    fn the_counter_runs_at_100_mhz_while_enabled() {
        let m = Machine::new();
        assert_eq!(m.read64(BASE) >> 32, 10_000_000, "femtoseconds");
        assert_eq!(m.read64(BASE) >> 8 & 0x1f, 2, "three timers");
        m.advance(MS);
        assert_eq!(m.read64(BASE + 0xf0), 0);
        m.write64(BASE + 0x10, 1);
        m.advance(3 * MS);
        assert_eq!(m.read64(BASE + 0xf0), 200_000);
        m.write64(BASE + 0x10, 0);
        m.advance(4 * MS);
        assert_eq!(m.read64(BASE + 0xf0), 200_000);
        m.write64(BASE + 0xf0, 0x1_2345_6789);
        assert_eq!(m.read32(BASE + 0xf4), 1, "the halves can be read alone");
        assert_eq!(m.read32(BASE + 0xf0), 0x2345_6789);
    }

    #[test]
    fn hpet_legacy_replacement_takes_irq_0_and_8_from_pit_and_rtc() {
        let m = machine();
        m.outb(0x43, 0x34);
        m.outb(0x40, 0xa9);
        m.outb(0x40, 0x04);
        m.write64(BASE + 0x10, 3);
        m.advance(5 * MS);
        assert_eq!(m.ack(), None, "the PIT is cut off");
        // Timer 0 periodic, 1 ms: first match set with the value-set bit, then the period.
        m.write32(BASE + 0x100, 0x14c);
        m.write32(BASE + 0x108, 600_000);
        m.write32(BASE + 0x108, 100_000);
        // Timer 1 once.
        m.write32(BASE + 0x120, 0x104);
        m.write32(BASE + 0x128, 750_000);
        let mut seen = Vec::new();
        for step in 50..100 {
            m.advance(step * MS / 10);
            while let Some(vector) = m.ack() {
                m.eoi_pic();
                seen.push((vector, step));
            }
        }
        assert_eq!(
            seen,
            [(0x20, 60), (0x20, 70), (0x28, 75), (0x20, 80), (0x20, 90)]
        );
        m.write64(BASE + 0x10, 1);
        m.advance(12 * MS);
        assert_eq!(m.ack(), Some(0x20), "the PIT is back");
    }

    #[test]
    fn a_level_triggered_timer_holds_its_line_until_the_status_is_cleared() {
        let m = Machine::new();
        m.enable_apic();
        m.ioapic(21, 0x8055);
        m.write64(BASE + 0x10, 1);
        m.write64(BASE + 0x140, 21 << 9 | 6);
        m.write64(BASE + 0x148, 1000);
        m.advance(9_999);
        assert_eq!(m.ack(), None);
        m.advance(10_000);
        assert_eq!(m.ack(), Some(0x55));
        assert_eq!(m.read64(BASE + 0x20), 4);
        m.eoi();
        assert_eq!(m.ack(), Some(0x55), "still up");
        m.write64(BASE + 0x20, 4);
        m.eoi();
        assert_eq!(m.ack(), None);
    }

    #[test]
    fn a_route_it_can_not_reach_does_not_stick() {
        let m = machine();
        m.write64(BASE + 0x100, 22 << 9);
        m.write64(BASE + 0x100, 5 << 9);
        assert_eq!(m.read64(BASE + 0x100) >> 9 & 0x1f, 22);
        assert_eq!(m.read64(BASE + 0x100) >> 32, 0x00f0_0000);
    }

    #[test]
    fn a_32_bit_comparator_matches_again_after_the_counter_wraps() {
        let m = machine();
        m.write64(BASE + 0x10, 3);
        m.write64(BASE + 0xf0, 0xffff_ff00);
        m.write64(BASE + 0x100, 0x104);
        m.write64(BASE + 0x108, 0x100);
        m.advance(0x1ff * 10);
        assert_eq!(m.ack(), None);
        m.advance(0x200 * 10);
        assert_eq!(m.ack(), Some(0x20));
    }

    #[test]
    fn the_finest_period_can_not_flood_the_host() {
        let m = machine();
        m.write64(BASE + 0x10, 3);
        m.write64(BASE + 0x100, 0x4c);
        m.write64(BASE + 0x108, 1);
        m.advance(1000 * MS);
        assert!(m.board.fired() < 60_000);
    }
}
