//! Time without a call: the host's time-stamp counter, turned into nanoseconds by numbers that translated code reads, too.
//!
//! The host's monotonic clock stays the measure. Each time the numbers have grown old ([`WINDOW`]) whoever asks sets them
//! anew by it. All that was told before lies below where the old ones ended, and that is where the new ones begin at the earliest:
//! so time never runs backwards, whatever the counter does.
#![expect(unsafe_code, reason = "the counter is read by an intrinsic")]
// UNSAFETY: RDTSC has no safe intrinsic; it touches no memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// How long the numbers hold, in nanoseconds.
const WINDOW: u64 = 10_000_000;
/// A rate measured over less than this says little.
const BASELINE: u64 = 1_000_000;

/// The numbers.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Ticks {
    /// Odd while the others are being written.
    pub sequence: AtomicU64,
    /// The counter where they begin.
    pub base: AtomicU64,
    /// The time there, in nanoseconds.
    pub nanos: AtomicU64,
    /// Nanoseconds of 2^32 ticks.
    pub rate: AtomicU64,
    /// So many ticks they hold. 0: nothing is known.
    pub window: AtomicU64,
    /// The counter and the host's time when they were first looked at.
    first: Mutex<Option<(u64, u64)>>,
}

impl Ticks {
    /// None yet; `None` where the host's counter does not run evenly.
    pub fn new() -> Option<Self> {
        invariant().then(Self::default)
    }

    /// The time, of which `host` tells where the numbers don't.
    pub fn now(&self, host: impl FnOnce() -> u64) -> u64 {
        self.read(counter)
            .unwrap_or_else(|| self.renew(counter, host))
    }

    /// The time by the numbers.
    fn read(&self, counter: impl FnOnce() -> u64) -> Option<u64> {
        let sequence = self.sequence.load(Ordering::Acquire);
        let [base, nanos, rate, window] =
            [&self.base, &self.nanos, &self.rate, &self.window].map(|n| n.load(Ordering::Acquire));
        let ticks = counter().wrapping_sub(base);
        fence(Ordering::Acquire);
        let same = self.sequence.load(Ordering::Relaxed) == sequence;
        (sequence & 1 == 0 && same && ticks < window).then(|| after(nanos, ticks, rate))
    }

    /// Sets the numbers anew; the time.
    fn renew(&self, mut counter: impl FnMut() -> u64, host: impl FnOnce() -> u64) -> u64 {
        let mut first = self.first.lock().unwrap_or_else(|e| e.into_inner());
        // Others may have done it meanwhile.
        if let Some(now) = self.read(&mut counter) {
            return now;
        }
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (ticks, time) = (counter(), host());
        // All that was told is less.
        let told = after(load(&self.nanos), load(&self.window), load(&self.rate));
        let now = time.max(told);
        let (ticks0, time0) = *first.get_or_insert((ticks, time));
        let (elapsed, measured) = (ticks.wrapping_sub(ticks0), time.saturating_sub(time0));
        let mut rate = 0;
        if measured >= BASELINE && elapsed < 1 << 62 {
            // What it is ahead by is made up for.
            let ahead = (now - time).min(WINDOW / 8);
            let even = (u128::from(measured) << 32) / u128::from(elapsed.max(1));
            let slower = even * u128::from(WINDOW - ahead) / u128::from(WINDOW);
            rate = u64::try_from(slower).unwrap_or(0);
        } else if elapsed >= 1 << 62 {
            // The counter was set back.
            *first = Some((ticks, time));
        }
        let window = if rate == 0 {
            0
        } else {
            u64::try_from((u128::from(WINDOW) << 32) / u128::from(rate)).unwrap_or(0)
        };
        let sequence = load(&self.sequence);
        self.sequence
            .store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, value) in [
            (&self.base, ticks),
            (&self.nanos, now),
            (&self.rate, rate),
            (&self.window, window),
        ] {
            place.store(value, Ordering::Release);
        }
        self.sequence
            .store(sequence.wrapping_add(2), Ordering::Release);
        now
    }
}

/// A time and so many ticks more.
fn after(nanos: u64, ticks: u64, rate: u64) -> u64 {
    let more = (u128::from(ticks) * u128::from(rate)) >> 32;
    nanos.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}

/// The host's time-stamp counter.
#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // Not before what came before it has been loaded: others may have told us their time.
    // SAFETY: LFENCE is part of SSE2, which every x86-64 CPU has.
    unsafe { core::arch::x86_64::_mm_lfence() };
    // SAFETY: every x86-64 CPU has RDTSC, and no system that Doppel runs on forbids it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Elsewhere there is none.
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

/// Whether the counter runs at one rate in all states of the host CPU (CPUID 80000007h, EDX bit 8), and the host's kernel has found
/// all CPUs' to agree: else it would not measure time by it.
#[cfg(target_arch = "x86_64")]
fn invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let trusted = std::fs::read_to_string(SOURCE).is_ok_and(|name| name.trim() == "tsc");
    trusted && __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn invariant() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Steps of counter and host time in any order; what is told.
    fn told(steps: impl IntoIterator<Item = (i64, u64)>) -> Vec<(u64, u64)> {
        let numbers = Ticks::default();
        let (ticks, time) = (Cell::new(1_u64 << 40), Cell::new(5_u64));
        steps
            .into_iter()
            .map(|(by, more)| {
                ticks.set(ticks.get().wrapping_add_signed(by));
                time.set(time.get() + more);
                let now = numbers
                    .read(|| ticks.get())
                    .unwrap_or_else(|| numbers.renew(|| ticks.get(), || time.get()));
                (now, time.get())
            })
            .collect()
    }

    #[test]
    fn an_even_counter_tells_the_hosts_time() {
        // 2.9 GHz, asked at steps of all lengths.
        let mut seed = 7_u64;
        let steps = (0..20_000).map(|_| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let more =
                (seed >> 33) % [10_u64, 1000, 100_000, 30_000_000][(seed >> 20) as usize & 3];
            ((more * 29 / 10) as i64, more)
        });
        for pair in told(steps).windows(2) {
            let ((before, _), (now, time)) = (pair[0], pair[1]);
            assert!(before <= now, "{before} {now}");
            assert!(now.abs_diff(time) < 20_000, "{now} {time}");
        }
    }

    #[test]
    fn a_counter_that_goes_anywhere_never_leads_backwards() {
        let mut seed = 3_u64;
        let steps = (0..20_000).map(|_| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let wild = (seed >> 30).is_multiple_of(50);
            let by = if wild {
                seed.cast_signed()
            } else {
                (seed >> 40) as i64
            };
            (by, (seed >> 34) % 2_000_000)
        });
        let told = told(steps);
        assert!(told.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn threads_see_one_time() {
        let Some(numbers) = Ticks::new() else { return };
        let start = std::time::Instant::now();
        let last = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200_000 {
                        let before = last.load(Ordering::SeqCst);
                        let now = numbers.now(|| start.elapsed().as_nanos() as u64);
                        assert!(now >= before, "{now} {before}");
                        last.fetch_max(now, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
