//! The MC146818 real-time clock with its CMOS RAM (Motorola MC146818A data sheet).
//!
//! The time is a pure function of the machine's clock; setting it moves an offset.

mod calendar;

use crate::clock::{Nanos, SECOND, scale};
use crate::device::{Device, Pio, PortRange, Timer};
use crate::interrupt::IrqLine;
use crate::memory::{HIGH_RAM_START, LOW_RAM_END, MIB};
use crate::tick::{TickPolicy, Ticker};
use calendar::{DAY, Fields, fields, seconds, time_fields};

/// The century's place in the CMOS RAM, as the FADT tells.
pub const CENTURY: u8 = 0x32;

const REG_A: usize = 0x0a;
const REG_B: usize = 0x0b;
const REG_C: usize = 0x0c;
const REG_D: usize = 0x0d;

const A_UIP: u8 = 0x80;
const B_SET: u8 = 0x80;
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const IRQF: u8 = 0x80;

/// UIP announces an update this long before it happens.
const UIP_LEAD: i64 = 244_141;

/// The rate of the clock's crystal.
const CRYSTAL_HZ: u64 = 32_768;

/// What the clock and its RAM tell of the machine.
#[derive(Clone, Copy, Debug)]
pub struct RtcConfig {
    /// Seconds since 1970 at power-on.
    pub start: i64,
    /// Bytes of RAM.
    pub ram: u64,
    /// Number of vCPUs.
    pub cpus: usize,
    /// What to do with lost ticks of the periodic interrupt.
    pub ticks: TickPolicy,
}

/// The real-time clock.
#[derive(Debug)]
pub struct Rtc {
    // Static configuration
    ticks: TickPolicy,
    // Runtime glue
    irq: IrqLine,
    // Volatile state
    index: u8,
    extended_index: u8,
    /// Registers and RAM; the time registers live in `base` while the clock runs.
    ram: [u8; 128],
    extended: [u8; 128],
    /// The second that began at `base_at`.
    base: i64,
    base_at: i64,
    /// The last second whose update was accounted for.
    last_update: i64,
    /// The time registers while the clock is stopped by SET or the divider's reset.
    frozen: Option<Fields>,
    /// Periods of the periodic interrupt accounted for while it is polled.
    periods_seen: u64,
    ticker: Option<Ticker>,
}

fn signed(now: Nanos) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX)
}

impl Rtc {
    /// An RTC on IRQ 8's line.
    pub fn new(irq: IrqLine, config: RtcConfig) -> Self {
        let mut ram = [0; 128];
        ram[REG_A] = 0x26;
        ram[REG_B] = calendar::B_24H;
        fill_cmos(&mut ram, &config);
        Self {
            ticks: config.ticks,
            irq,
            index: 0,
            extended_index: 0,
            ram,
            extended: [0; 128],
            base: config.start,
            base_at: 0,
            last_update: config.start,
            frozen: None,
            periods_seen: 0,
            ticker: None,
        }
    }

    fn b(&self) -> u8 {
        self.ram[REG_B]
    }

    fn divider_reset(&self) -> bool {
        self.ram[REG_A] & 0x60 == 0x60
    }

    /// The clock's time in seconds at `now`.
    fn seconds(&self, now: Nanos) -> i64 {
        self.base.saturating_add(
            signed(now)
                .saturating_sub(self.base_at)
                .div_euclid(SECOND as i64),
        )
    }

    /// Nanoseconds from `now` to the next update.
    fn to_update(&self, now: Nanos) -> i64 {
        SECOND as i64
            - signed(now)
                .saturating_sub(self.base_at)
                .rem_euclid(SECOND as i64)
    }

    /// Accounts for all updates, alarms and polled periods up to `now`.
    fn sync(&mut self, now: Nanos) {
        if self.frozen.is_none() {
            let second = self.seconds(now);
            if second > self.last_update {
                self.ram[REG_C] |= UPDATE;
                // A day holds every time of day once.
                let first = (self.last_update + 1).max(second.saturating_sub(DAY));
                if self.ram[REG_C] & ALARM == 0 && (first..=second).any(|s| self.alarm_matches(s)) {
                    self.ram[REG_C] |= ALARM;
                }
                self.last_update = second;
            }
        }
        if self.ticker.is_none() {
            if let Some(period) = self.period() {
                let periods = scale(now, CRYSTAL_HZ, SECOND) / period;
                if periods > self.periods_seen {
                    self.ram[REG_C] |= PERIODIC;
                }
                self.periods_seen = periods;
            }
        }
        self.update_irq();
    }

    fn alarm_matches(&self, second: i64) -> bool {
        let alarm = [self.ram[1], self.ram[3], self.ram[5]];
        time_fields(second, self.b())
            .iter()
            .zip(alarm)
            .all(|(&is, wanted)| wanted & 0xc0 == 0xc0 || wanted == is)
    }

    /// The periodic interrupt's period in ticks of the crystal.
    fn period(&self) -> Option<u64> {
        if self.divider_reset() {
            return None;
        }
        match self.ram[REG_A] & 15 {
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn update_irq(&mut self) {
        let active = self.ram[REG_C] & self.b() & (PERIODIC | ALARM | UPDATE) != 0;
        self.ram[REG_C] = self.ram[REG_C] & !IRQF | if active { IRQF } else { 0 };
        self.irq.set(active);
    }

    /// Starts or stops the periodic interrupt after a write to A or B.
    fn replan(&mut self, now: Nanos) {
        self.ticker = match self.period() {
            Some(period) if self.b() & PERIODIC != 0 => {
                let next = scale(now, CRYSTAL_HZ, SECOND) / period + 1;
                let first = crate::clock::scale_up(next * period, SECOND, CRYSTAL_HZ);
                Some(Ticker::new(first, period * SECOND, CRYSTAL_HZ))
            }
            Some(period) => {
                self.periods_seen = scale(now, CRYSTAL_HZ, SECOND) / period;
                None
            }
            None => None,
        };
    }

    /// Stops or starts the clock after a write to A or B; `was_reset` is the divider's state before.
    fn stop_or_start(&mut self, was_reset: bool, now: Nanos) {
        if was_reset && !self.divider_reset() {
            // The first update comes half a second after the divider starts.
            self.base = self.seconds(now);
            self.base_at = signed(now) - SECOND as i64 / 2;
        }
        let stop = self.b() & B_SET != 0 || self.divider_reset();
        match (stop, self.frozen) {
            (true, None) => self.frozen = Some(fields(self.seconds(now), self.b())),
            (false, Some(frozen)) => {
                self.frozen = None;
                self.set_seconds(seconds(&frozen, self.b()), now);
            }
            _ => {}
        }
    }

    /// Sets the time; the moment of the updates stays.
    fn set_seconds(&mut self, second: i64, now: Nanos) {
        let running = self.seconds(now).saturating_sub(self.base);
        self.base = second.saturating_sub(running);
        self.last_update = second;
    }

    /// The place of a time register among the fields.
    fn field(index: u8) -> Option<usize> {
        Some(match index {
            0 | 2 | 4 => usize::from(index) / 2,
            6..=9 => usize::from(index) - 3,
            CENTURY => 7,
            _ => return None,
        })
    }

    fn read(&mut self, now: Nanos) -> u8 {
        let index = self.index;
        if let Some(field) = Self::field(index) {
            return self
                .frozen
                .unwrap_or_else(|| fields(self.seconds(now), self.b()))[field];
        }
        match usize::from(index) {
            REG_A => {
                let updating = self.frozen.is_none() && self.to_update(now) <= UIP_LEAD;
                self.ram[REG_A] & !A_UIP | if updating { A_UIP } else { 0 }
            }
            REG_C => {
                let value = self.ram[REG_C];
                self.ram[REG_C] = 0;
                self.update_irq();
                value
            }
            // The battery is good.
            REG_D => 0x80,
            index => self.ram[index],
        }
    }

    fn write(&mut self, value: u8, now: Nanos) {
        let index = self.index;
        if let Some(field) = Self::field(index) {
            match &mut self.frozen {
                Some(frozen) => frozen[field] = value,
                None => {
                    let mut all = fields(self.seconds(now), self.b());
                    all[field] = value;
                    self.set_seconds(seconds(&all, self.b()), now);
                }
            }
            return;
        }
        match usize::from(index) {
            REG_A => {
                let was_reset = self.divider_reset();
                self.ram[REG_A] = value & !A_UIP;
                self.stop_or_start(was_reset, now);
                self.replan(now);
            }
            REG_B => {
                // SET also takes the update interrupt's enable bit down.
                let value = if value & B_SET != 0 {
                    value & !UPDATE
                } else {
                    value
                };
                let was_reset = self.divider_reset();
                self.ram[REG_B] = value;
                self.stop_or_start(was_reset, now);
                self.replan(now);
                self.update_irq();
            }
            REG_C | REG_D => {}
            index => self.ram[index] = value,
        }
    }
}

/// The RAM's bytes that tell of the machine, with the checksum over 10h..2Dh.
fn fill_cmos(ram: &mut [u8; 128], config: &RtcConfig) {
    let low = config.ram.min(LOW_RAM_END);
    let mut word = |at: usize, value: u64| {
        let [a, b, ..] = value.to_le_bytes();
        ram[at] = a;
        ram[at + 1] = b;
    };
    word(0x15, 640);
    let extended = (low.saturating_sub(MIB) >> 10).min(63 << 10);
    word(0x17, extended);
    word(0x30, extended);
    word(0x34, (low.saturating_sub(16 * MIB) >> 16).min(0xffff));
    let above = config
        .ram
        .saturating_sub(LOW_RAM_END)
        .min(HIGH_RAM_START << 8)
        >> 16;
    word(0x5b, above & 0xffff);
    ram[0x5d] = (above >> 16) as u8;
    // Equipment: keyboard, mouse and FPU; no floppy.
    ram[0x14] = 0x0f & !1;
    ram[0x5f] = config.cpus.saturating_sub(1).min(255) as u8;
    let sum: u16 = ram[0x10..0x2e].iter().map(|&b| u16::from(b)).sum();
    [ram[0x2e], ram[0x2f]] = sum.to_be_bytes();
}

impl Device for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    /// The battery keeps time and RAM; the interrupts are disabled.
    fn reset(&mut self, now: Nanos) {
        self.sync(now);
        self.ram[REG_B] &= !(PERIODIC | ALARM | UPDATE);
        self.ram[REG_C] = 0;
        self.replan(now);
        self.update_irq();
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }

    fn timer(&mut self) -> Option<&mut dyn Timer> {
        Some(self)
    }
}

impl Pio for Rtc {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::bytes(0x70, 4)]
    }

    fn pio_read(&mut self, now: Nanos, port: u16, _size: u8) -> u32 {
        self.sync(now);
        u32::from(match port {
            0x71 => self.read(now),
            0x72 => self.extended_index,
            0x73 => self.extended[usize::from(self.extended_index)],
            // The index can't be read.
            _ => 0xff,
        })
    }

    fn pio_write(&mut self, now: Nanos, port: u16, _size: u8, value: u32) {
        self.sync(now);
        let value = value.to_le_bytes()[0];
        match port {
            // Bit 7 masks NMI, which nothing on this board but the user raises.
            0x70 => self.index = value & 0x7f,
            0x71 => self.write(value, now),
            0x72 => self.extended_index = value & 0x7f,
            _ => self.extended[usize::from(self.extended_index)] = value,
        }
    }
}

impl Timer for Rtc {
    fn deadline(&self) -> Option<Nanos> {
        let enabled = self.b() & !self.ram[REG_C];
        // Updates and alarms only wake us while somebody wants to hear of them.
        let update = (self.frozen.is_none() && enabled & (UPDATE | ALARM) != 0).then(|| {
            let next = self.last_update.saturating_sub(self.base).saturating_add(1);
            let at = self
                .base_at
                .saturating_add(next.saturating_mul(SECOND as i64));
            u64::try_from(at).unwrap_or(0)
        });
        let periodic = self
            .ticker
            .as_ref()
            .map(|ticker| ticker.deadline(self.ticks));
        [update, periodic].into_iter().flatten().min()
    }

    fn fire(&mut self, now: Nanos) {
        if let Some(mut ticker) = self.ticker.take() {
            ticker.fire(now, self.ticks, || {
                let taken = self.ram[REG_C] & PERIODIC == 0;
                self.ram[REG_C] |= PERIODIC;
                taken
            });
            self.ticker = Some(ticker);
        }
        self.sync(now);
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::{Machine, START};
    use crate::clock::SECOND;

    const MS: u64 = 1_000_000;

    fn read(m: &Machine, index: u8) -> u8 {
        m.outb(0x70, index);
        m.inb(0x71) as u8
    }

    fn write(m: &Machine, index: u8, value: u8) {
        m.outb(0x70, index);
        m.outb(0x71, value);
    }

    #[test]
    fn rtc_uip_announces_each_update() {
        let m = Machine::new();
        let second = read(&m, 0);
        m.advance(SECOND - 300_000);
        assert_eq!(read(&m, 0x0a) & 0x80, 0);
        m.advance(SECOND - 200_000);
        assert_eq!(read(&m, 0x0a) & 0x80, 0x80);
        assert_eq!(read(&m, 0), second);
        m.advance(SECOND);
        assert_eq!(read(&m, 0x0a) & 0x80, 0);
        assert_ne!(read(&m, 0), second);
        write(&m, 0x0b, 0x82);
        m.advance(2 * SECOND - 1000);
        assert_eq!(read(&m, 0x0a) & 0x80, 0, "no updates while SET");
    }

    #[test]
    fn rtc_century_and_bcd_and_binary() {
        // START is 2023-11-14 22:13:20 UTC, a Tuesday.
        assert_eq!(START, 1_700_000_000);
        let m = Machine::new();
        let all = |m: &Machine| [0u8, 2, 4, 6, 7, 8, 9, 0x32].map(|index| read(m, index));
        assert_eq!(all(&m), [0x20, 0x13, 0x22, 3, 0x14, 0x11, 0x23, 0x20]);
        write(&m, 0x0b, 0x06);
        assert_eq!(all(&m), [20, 13, 22, 3, 14, 11, 23, 20]);
        write(&m, 0x0b, 0x00);
        assert_eq!(all(&m)[2], 0x90, "10 PM");
    }

    #[test]
    fn rtc_set_writes_the_time_and_the_divider_delays_the_update() {
        let m = Machine::new();
        m.advance(300 * MS);
        write(&m, 0x0b, 0x82);
        write(&m, 0x0a, 0x76);
        for (index, value) in [
            (0, 0x58),
            (2, 0x59),
            (4, 0x23),
            (7, 0x31),
            (8, 0x12),
            (9, 0x99),
            (0x32, 0x19),
        ] {
            write(&m, index, value);
        }
        m.advance(5 * SECOND);
        assert_eq!(read(&m, 0), 0x58, "stopped");
        write(&m, 0x0b, 0x02);
        write(&m, 0x0a, 0x26);
        m.advance(5 * SECOND + 490 * MS);
        assert_eq!(read(&m, 0), 0x58);
        m.advance(5 * SECOND + 510 * MS);
        assert_eq!(read(&m, 0), 0x59);
        m.advance(6 * SECOND + 510 * MS);
        assert_eq!(
            [0u8, 2, 4, 7, 8, 9, 0x32].map(|i| read(&m, i)),
            [0, 0, 0, 1, 1, 0, 0x20],
            "the century turned"
        );
    }

    #[test]
    fn rtc_update_alarm_and_periodic_interrupts() {
        let m = Machine::new();
        m.init_pic();
        write(&m, 0x0b, 0x12);
        m.advance(SECOND);
        assert_eq!(m.ack(), Some(0x28));
        assert_eq!(read(&m, 0x0c) & 0x90, 0x90);
        assert_eq!(read(&m, 0x0c), 0, "reading takes it down");
        m.eoi_pic();
        write(&m, 0x01, 0x25);
        write(&m, 0x03, 0xff);
        write(&m, 0x05, 0xff);
        write(&m, 0x0b, 0x22);
        m.advance(4 * SECOND + 999 * MS);
        assert_eq!(m.ack(), None);
        m.advance(5 * SECOND);
        assert_eq!(m.ack(), Some(0x28));
        assert_eq!(read(&m, 0x0c) & 0xa0, 0xa0);
        m.eoi_pic();
        write(&m, 0x0a, 0x2a);
        write(&m, 0x0b, 0x42);
        let mut seen = 0;
        for step in 0..1000 {
            m.advance(5 * SECOND + step * MS);
            if m.ack() == Some(0x28) {
                assert_eq!(read(&m, 0x0c) & 0xc0, 0xc0);
                m.eoi_pic();
                seen += 1;
            }
        }
        assert!((63..=64).contains(&seen), "64 Hz: {seen}");
    }

    #[test]
    fn periodic_flag_can_be_polled() {
        let m = Machine::new();
        read(&m, 0x0c);
        m.advance(500_000);
        assert_eq!(read(&m, 0x0c) & 0xc0, 0);
        m.advance(MS);
        assert_eq!(read(&m, 0x0c) & 0xc0, 0x40, "1024 Hz, no interrupt");
    }

    #[test]
    fn an_alarm_long_ago_is_found_and_costs_little() {
        let m = Machine::new();
        write(&m, 0x01, 0x00);
        write(&m, 0x03, 0x00);
        write(&m, 0x05, 0x12);
        m.advance(40_000_000 * SECOND);
        assert_eq!(read(&m, 0x0c) & 0x20, 0x20);
    }

    #[test]
    fn cmos_tells_the_memory_size_and_a_checksum() {
        let m = Machine::new();
        let word = |at| u16::from(read(&m, at)) | u16::from(read(&m, at + 1)) << 8;
        assert_eq!(
            (word(0x15), word(0x17), word(0x30)),
            (640, 63 << 10, 63 << 10)
        );
        assert_eq!(u64::from(word(0x34)) << 16, (512 << 20) - (16 << 20));
        let sum: u16 = (0x10..0x2e).map(|i| u16::from(read(&m, i))).sum();
        assert_eq!(
            u16::from(read(&m, 0x2e)) << 8 | u16::from(read(&m, 0x2f)),
            sum
        );
        assert_eq!(read(&m, 0x0d), 0x80);
        write(&m, 0x0f, 0x0a);
        m.board.reset();
        assert_eq!(read(&m, 0x0f), 0x0a, "the battery keeps it");
        m.outb(0x72, 5);
        m.outb(0x73, 0x77);
        assert_eq!(m.inb(0x73), 0x77);
    }
}
