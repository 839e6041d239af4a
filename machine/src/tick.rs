//! Periodic ticks with a policy for the ones that were lost.
//!
//! A tick is lost when the guest hasn't taken the one before, or when the host woke us too late. Guests that keep time
//! by counting ticks then run slow; a burst to make up for it drowns them. So owed ticks are paid back at a bounded rate.

use crate::clock::{Nanos, scale, scale_up};

/// What to do with lost ticks of periodic timers (`--ticks`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TickPolicy {
    /// Deliver them later, at most at twice the timer's rate.
    #[default]
    Catchup,
    /// Forget them, as hardware does.
    Drop,
    /// Deliver them later, at 9/8 of the timer's rate.
    Slew,
}

/// Interrupts closer together than this would only heat the host: a faster timer loses ticks.
pub const MIN_PERIOD: Nanos = 20_000;

/// Ticks owed beyond this many are forgotten: a guest that was stopped for long needs no replay.
const MAX_OWED: u64 = 10_000;

/// The state of one periodic timer: tick `k` is due at `first + k * num / den` nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticker {
    first: Nanos,
    num: u64,
    den: u64,
    /// Ticks of the grid already accounted for.
    seen: u64,
    owed: u64,
    last: Option<Nanos>,
}

impl Ticker {
    /// A timer whose ticks come every `num / den` nanoseconds, the first one at `first`.
    pub fn new(first: Nanos, num: u64, den: u64) -> Self {
        Self {
            first,
            num: num.max(1),
            den: den.max(1),
            seen: 0,
            owed: 0,
            last: None,
        }
    }

    /// How many ticks of the grid are due by `now`.
    fn due(&self, now: Nanos) -> u64 {
        match now.checked_sub(self.first) {
            None => 0,
            Some(elapsed) => scale(elapsed, self.den, self.num).saturating_add(1),
        }
    }

    /// The shortest distance allowed between two deliveries.
    fn spacing(&self, policy: TickPolicy) -> Nanos {
        let period = self.num / self.den;
        let spacing = match policy {
            TickPolicy::Catchup => period / 2,
            TickPolicy::Slew => period - period / 9,
            // A late tick may come close to the next one, but a grid that is too fine must not.
            TickPolicy::Drop => 0,
        };
        spacing.max(MIN_PERIOD)
    }

    /// When to call [`Ticker::fire`] next.
    pub fn deadline(&self, policy: TickPolicy) -> Nanos {
        let grid = self
            .first
            .saturating_add(scale_up(self.seen, self.num, self.den));
        let earliest = self
            .last
            .map_or(0, |last| last.saturating_add(self.spacing(policy)));
        if self.owed > 0 {
            earliest
        } else {
            grid.max(earliest)
        }
    }

    /// Delivers at most one tick if one is due at `now`. `deliver` says whether the guest got it; `false` means that
    /// the guest hasn't taken the one before.
    pub fn fire(&mut self, now: Nanos, policy: TickPolicy, deliver: impl FnOnce() -> bool) {
        let due = self.due(now);
        self.owed = self
            .owed
            .saturating_add(due.saturating_sub(self.seen))
            .min(MAX_OWED);
        self.seen = self.seen.max(due);
        let earliest = self
            .last
            .map_or(0, |last| last.saturating_add(self.spacing(policy)));
        if self.owed == 0 || now < earliest {
            return;
        }
        self.last = Some(now);
        if deliver() {
            self.owed -= 1;
        }
        if policy == TickPolicy::Drop {
            self.owed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TickPolicy, Ticker};
    use crate::clock::{Nanos, SECOND};

    const MS: Nanos = 1_000_000;

    /// Runs the ticker to `end`; `taken(now)` says whether the guest takes ticks. Returns the delivery times.
    fn run(policy: TickPolicy, end: Nanos, taken: impl Fn(Nanos) -> bool) -> Vec<Nanos> {
        let mut ticker = Ticker::new(MS, MS, 1);
        let mut times = Vec::new();
        loop {
            let now = ticker.deadline(policy);
            if now > end {
                return times;
            }
            ticker.fire(now, policy, || {
                let ok = taken(now);
                if ok {
                    times.push(now);
                }
                ok
            });
            assert!(ticker.deadline(policy) > now, "a timer must make progress");
        }
    }

    #[test]
    fn an_undisturbed_timer_ticks_on_its_grid() {
        let times = run(TickPolicy::Catchup, SECOND, |_| true);
        assert_eq!(times.len(), 1000);
        assert!(times.iter().zip(1..).all(|(&t, k)| t == k * MS));
    }

    #[test]
    fn lost_ticks_are_caught_up_at_no_more_than_twice_the_rate() {
        let times = run(TickPolicy::Catchup, SECOND, |now| {
            !(100 * MS..200 * MS).contains(&now)
        });
        assert!(times.len() >= 999, "{} ticks", times.len());
        assert!(times.windows(2).all(|w| w[1] - w[0] >= MS / 2));
    }

    #[test]
    fn lost_ticks_are_dropped() {
        let times = run(TickPolicy::Drop, SECOND, |now| {
            !(100 * MS..200 * MS).contains(&now)
        });
        assert_eq!(times.len(), 900);
    }

    #[test]
    fn lost_ticks_are_slewed() {
        let times = run(TickPolicy::Slew, 2 * SECOND, |now| {
            !(100 * MS..200 * MS).contains(&now)
        });
        assert!(times.len() >= 1999, "{} ticks", times.len());
        assert!(times.windows(2).all(|w| w[1] - w[0] >= MS * 8 / 9));
    }

    #[test]
    fn a_late_wake_up_owes_the_ticks_in_between() {
        let mut ticker = Ticker::new(MS, MS, 1);
        let mut count = 0;
        ticker.fire(10 * MS, TickPolicy::Catchup, || {
            count += 1;
            true
        });
        assert_eq!(count, 1);
        assert_eq!(ticker.deadline(TickPolicy::Catchup), 10 * MS + MS / 2);
    }

    #[test]
    fn the_finest_timer_costs_a_bounded_number_of_wake_ups() {
        let mut ticker = Ticker::new(0, 1, 1_000_000);
        let mut fired = 0;
        let mut now = 0;
        while now < SECOND / 100 {
            ticker.fire(now, TickPolicy::Catchup, || true);
            fired += 1;
            now = ticker.deadline(TickPolicy::Catchup);
        }
        assert!(fired <= 501, "{fired}");
    }

    #[test]
    fn a_fraction_of_a_nanosecond_is_not_lost() {
        // The PIT at its slowest: 65536 / 1193182 Hz. 1000 periods later the grid is still exact.
        let mut ticker = Ticker::new(0, 65536 * SECOND, 1_193_182);
        let end = 1000 * 65536 * u128::from(SECOND) / 1_193_182;
        let mut last = 0;
        for _ in 0..1000 {
            last = ticker.deadline(TickPolicy::Drop);
            ticker.fire(last, TickPolicy::Drop, || true);
        }
        assert!(u128::from(ticker.deadline(TickPolicy::Drop)).abs_diff(end) <= 1);
        assert!(last > 0);
    }
}
