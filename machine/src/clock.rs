//! The machine's one clock: nanoseconds since power-on, from which every timer in the guest is computed.
//!
//! PIT, PM timer, HPET, RTC, APIC timer and TSC are pure functions of [`Clock::now`], so that whatever the guest
//! calibrates against whatever else, the answers agree.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use system::ticks::Ticks;

/// Nanoseconds since the machine was powered on.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub const SECOND: Nanos = 1_000_000_000;

/// The TSC's rate where nobody asks for another one.
pub const DEFAULT_TSC_HZ: u64 = 1_000_000_000;

/// The core crystal that feeds the APIC timer where the TSC's rate is a whole multiple of it.
const CRYSTAL_HZ: u64 = 25_000_000;

/// `value * mul / div`, rounded down, in 128 bits; what doesn't fit is `u64::MAX`, and so is a division by zero.
pub fn scale(value: u64, mul: u64, div: u64) -> u64 {
    let product = u128::from(value) * u128::from(mul);
    product
        .checked_div(u128::from(div))
        .map_or(u64::MAX, |q| u64::try_from(q).unwrap_or(u64::MAX))
}

/// As [`scale`], rounded up: the first instant at which a count is reached.
pub fn scale_up(value: u64, mul: u64, div: u64) -> u64 {
    let product = u128::from(value) * u128::from(mul);
    if div == 0 {
        return u64::MAX;
    }
    u64::try_from(product.div_ceil(u128::from(div))).unwrap_or(u64::MAX)
}

/// Where time comes from.
#[derive(Debug)]
enum Source {
    /// The host's monotonic clock, counted from this instant.
    Host(Instant, Option<Ticks>),
    /// Moved by hand: `--icount` and tests.
    Manual(AtomicU64),
}

/// The clock that all of the machine shares.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    tsc_hz: u64,
}

impl Clock {
    /// A clock that follows the host's monotonic time from now on; the TSC runs at `tsc_hz`.
    pub fn host(tsc_hz: u64) -> Self {
        Self {
            source: Source::Host(Instant::now(), Ticks::new()),
            tsc_hz: tsc_hz.max(1),
        }
    }

    /// A clock that stands at 0 until [`Clock::advance`] moves it.
    pub fn manual(tsc_hz: u64) -> Self {
        Self {
            source: Source::Manual(AtomicU64::new(0)),
            tsc_hz: tsc_hz.max(1),
        }
    }

    /// Whether the clock is moved by hand.
    pub fn is_manual(&self) -> bool {
        matches!(self.source, Source::Manual(_))
    }

    /// Nanoseconds since power-on. Never runs backwards.
    pub fn now(&self) -> Nanos {
        match &self.source {
            Source::Host(start, ticks) => {
                let host = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                match ticks {
                    Some(ticks) => ticks.now(host),
                    None => host(),
                }
            }
            Source::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Moves a manual clock forward to `to` (never back). Does nothing to a clock that follows the host.
    pub fn advance(&self, to: Nanos) {
        if let Source::Manual(now) = &self.source {
            now.fetch_max(to, Ordering::SeqCst);
        }
    }

    /// What the TSC is computed from, where it is the time itself.
    pub fn ticks(&self) -> Option<&Ticks> {
        match &self.source {
            Source::Host(_, ticks) if self.tsc_hz == SECOND => ticks.as_ref(),
            _ => None,
        }
    }

    /// The TSC's rate in Hz.
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// The core crystal's rate in Hz (CPUID 15h ECX), the APIC timer's input. It divides the TSC's rate.
    pub fn crystal_hz(&self) -> u64 {
        if self.tsc_hz.is_multiple_of(CRYSTAL_HZ) {
            CRYSTAL_HZ
        } else {
            self.tsc_hz
        }
    }

    /// The TSC at `now`.
    pub fn tsc_at(&self, now: Nanos) -> u64 {
        if self.tsc_hz == SECOND {
            now
        } else {
            scale(now, self.tsc_hz, SECOND)
        }
    }

    /// The first instant at which the TSC has reached `tsc`.
    pub fn time_of_tsc(&self, tsc: u64) -> Nanos {
        if self.tsc_hz == SECOND {
            tsc
        } else {
            scale_up(tsc, SECOND, self.tsc_hz)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, SECOND, scale, scale_up};

    #[test]
    fn scaling_neither_overflows_nor_divides_by_zero() {
        assert_eq!(scale(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(scale(5, 1, 0), u64::MAX);
        assert_eq!(scale_up(5, 1, 0), u64::MAX);
        assert_eq!((scale(7, 1, 2), scale_up(7, 1, 2)), (3, 4));
    }

    #[test]
    fn a_tsc_deadline_is_reached_at_its_instant_and_not_before() {
        let clock = Clock::manual(2_893_202_917);
        for tsc in [1u64, 1000, 123_456_789, 9_876_543_210_123] {
            let at = clock.time_of_tsc(tsc);
            assert!(clock.tsc_at(at) >= tsc);
            assert!(clock.tsc_at(at - 1) < tsc);
        }
    }

    #[test]
    fn the_manual_clock_moves_forward_only() {
        let clock = Clock::manual(1_000_000_000);
        clock.advance(5 * SECOND);
        clock.advance(SECOND);
        assert_eq!(clock.now(), 5 * SECOND);
        assert_eq!(clock.tsc_at(clock.now()), 5_000_000_000);
        assert_eq!(clock.crystal_hz(), 25_000_000);
    }

    #[test]
    fn the_host_clock_is_monotonic() {
        let clock = Clock::host(1_000_000_000);
        let first = clock.now();
        clock.advance(u64::MAX);
        let second = clock.now();
        assert!(second >= first && second < 3600 * SECOND);
    }
}
