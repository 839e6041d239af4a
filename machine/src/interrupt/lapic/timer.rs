//! The local APIC's timer: one-shot, periodic, TSC deadline (SDM vol. 3, 11.5.4).

use super::{LVT_MASKED, Lapic, lvt};
use crate::clock::{Nanos, SECOND, scale, scale_up};
use crate::interrupt::Delivery;
use crate::tick::Ticker;

/// The modes in bits 18:17 of the LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

/// The timer's registers and what it is counting.
#[derive(Clone, Debug, Default)]
pub struct ApicTimer {
    initial: u32,
    /// The divide configuration register: bits 0, 1 and 3.
    divide: u32,
    /// The count at `start`.
    count: u32,
    start: Nanos,
    /// When the one-shot timer or the TSC deadline fires; `None` when it has or isn't armed.
    once: Option<Nanos>,
    /// The periodic timer.
    ticker: Option<Ticker>,
    /// IA32_TSC_DEADLINE, in ticks of the raw TSC.
    tsc_deadline: u64,
}

impl Lapic {
    fn timer_mode(&self) -> TimerMode {
        match (self.lvt[lvt::TIMER] >> 17) & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    /// How many crystal ticks make one of the timer's.
    fn divisor(&self) -> u64 {
        let field = (self.timer.divide & 3) | (self.timer.divide >> 1 & 4);
        if field == 7 { 1 } else { 2 << field }
    }

    /// Nanoseconds per timer tick as a fraction.
    fn tick(&self) -> (u64, u64) {
        (SECOND * self.divisor(), self.config.crystal_hz.max(1))
    }

    /// The current count register at `now`.
    pub(super) fn timer_count(&self, now: Nanos) -> u32 {
        let (num, den) = self.tick();
        let elapsed = scale(now.saturating_sub(self.timer.start), den, num);
        let count = u64::from(self.timer.count);
        match self.timer_mode() {
            TimerMode::OneShot => count.saturating_sub(elapsed) as u32,
            TimerMode::Periodic if elapsed < count => (count - elapsed) as u32,
            TimerMode::Periodic if self.timer.initial != 0 => {
                let initial = u64::from(self.timer.initial);
                (initial - (elapsed - count) % initial) as u32
            }
            _ => 0,
        }
    }

    /// Counts down from `count` from `now` on, in the mode the LVT says.
    fn start_timer(&mut self, count: u32, now: Nanos) {
        let (num, den) = self.tick();
        self.timer.count = count;
        self.timer.start = now;
        self.timer.once = None;
        self.timer.ticker = None;
        if count == 0 {
            return;
        }
        let end = now.saturating_add(scale_up(u64::from(count), num, den));
        match self.timer_mode() {
            TimerMode::OneShot => self.timer.once = Some(end),
            TimerMode::Periodic if self.timer.initial != 0 => {
                // At most 2^32 * 128 * 10^9, which is over 64 bits: shorten the fraction by the power of two.
                let period = u64::from(self.timer.initial).saturating_mul(self.divisor());
                let (num, den) = match period.checked_mul(SECOND) {
                    Some(num) => (num, den),
                    None => (scale(period, SECOND, den), 1),
                };
                self.timer.ticker = Some(Ticker::new(end, num, den));
            }
            _ => {}
        }
    }

    pub(super) fn timer_initial(&self) -> u32 {
        self.timer.initial
    }

    pub(super) fn timer_divide(&self) -> u32 {
        self.timer.divide
    }

    pub(super) fn set_timer_initial(&mut self, value: u32, now: Nanos) {
        if self.timer_mode() == TimerMode::TscDeadline {
            return;
        }
        self.timer.initial = value;
        self.start_timer(value, now);
    }

    pub(super) fn set_timer_divide(&mut self, value: u32, now: Nanos) {
        let count = self.timer_count(now);
        self.timer.divide = value & 0xb;
        if self.timer_mode() != TimerMode::TscDeadline {
            self.start_timer(count, now);
        }
    }

    /// Writes the timer's LVT entry; a change of mode restarts or disarms the timer.
    pub(super) fn set_timer_lvt(&mut self, value: u32, now: Nanos) {
        let (old, count) = (self.timer_mode(), self.timer_count(now));
        self.lvt[lvt::TIMER] = value;
        let new = self.timer_mode();
        if old == new {
            return;
        }
        let counts = |mode| matches!(mode, TimerMode::OneShot | TimerMode::Periodic);
        if counts(old) && counts(new) {
            self.start_timer(count, now);
        } else {
            // To or from the TSC deadline mode: disarmed (SDM vol. 3, 11.5.4.1).
            self.timer = ApicTimer {
                divide: self.timer.divide,
                ..ApicTimer::default()
            };
        }
    }

    /// IA32_TSC_DEADLINE in ticks of the raw TSC; 0 when disarmed.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline
    }

    /// Arms the TSC deadline: `tsc` is the raw TSC value, `at` the time at which it is reached. 0 disarms. Without
    /// effect in the other timer modes.
    pub fn set_tsc_deadline(&mut self, tsc: u64, at: Nanos) {
        if self.timer_mode() == TimerMode::TscDeadline {
            self.timer.tsc_deadline = tsc;
            self.timer.once = (tsc != 0).then_some(at);
        }
    }

    /// When [`Lapic::fire`] is to be called.
    pub fn deadline(&self) -> Option<Nanos> {
        match &self.timer.ticker {
            Some(ticker) => Some(ticker.deadline(self.config.ticks)),
            None => self.timer.once,
        }
    }

    /// Lets the timer expire if it is time.
    pub fn fire(&mut self, now: Nanos) {
        if self.timer.once.is_some_and(|at| at <= now) {
            self.timer.once = None;
            self.timer.tsc_deadline = 0;
            self.timer_interrupt();
        }
        if let Some(mut ticker) = self.timer.ticker.take() {
            ticker.fire(now, self.config.ticks, || {
                self.timer_interrupt() != Delivery::Lost
            });
            self.timer.ticker = Some(ticker);
        }
    }

    fn timer_interrupt(&mut self) -> Delivery {
        let entry = self.lvt[lvt::TIMER];
        if entry & LVT_MASKED == 0 {
            self.accept(entry.to_le_bytes()[0], false)
        } else {
            Delivery::Masked
        }
    }
}
