//! The deadlines of all devices, and the sleep until the nearest one.
//!
//! A slot is a device or a local APIC. Whoever has the slot's lock stores its deadline; the board's timer thread waits
//! for the earliest. A slot can also be woken at once, by a host thread that has input for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::{Clock, Nanos};

/// No deadline.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
struct Slot {
    deadline: AtomicU64,
    woken: AtomicBool,
}

/// The deadlines, one slot a device.
#[derive(Debug)]
pub struct Timers {
    slots: Box<[Slot]>,
    /// The instant until which the timer thread sleeps; 0 while it is awake and will look again anyway.
    planned: AtomicU64,
    any_woken: AtomicBool,
    stop: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Timers {
    /// `slots` slots without deadlines.
    pub fn new(slots: usize) -> Self {
        let slot = |_| Slot {
            deadline: AtomicU64::new(NEVER),
            woken: AtomicBool::new(false),
        };
        Self {
            slots: (0..slots).map(slot).collect(),
            planned: AtomicU64::new(0),
            any_woken: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        }
    }

    /// Sets the slot's deadline. Call it with the slot's device locked, so that an older answer can't win.
    pub fn set(&self, slot: usize, deadline: Option<Nanos>) {
        let deadline = deadline.unwrap_or(NEVER);
        let cell = &self.slots[slot].deadline;
        if cell.load(Ordering::Relaxed) == deadline {
            return;
        }
        cell.store(deadline, Ordering::SeqCst);
        if deadline < self.planned.load(Ordering::SeqCst) {
            self.notify();
        }
    }

    /// Has the slot fired as soon as possible. May be called from any thread, with any lock held.
    pub fn wake(&self, slot: usize) {
        self.slots[slot].woken.store(true, Ordering::SeqCst);
        self.any_woken.store(true, Ordering::SeqCst);
        if self.planned.load(Ordering::SeqCst) != 0 {
            self.notify();
        }
    }

    fn notify(&self) {
        let _guard = self.lock.lock();
        self.changed.notify_one();
    }

    /// The nearest deadline; 0 when a slot was woken.
    pub fn nearest(&self) -> Option<Nanos> {
        if self.any_woken.load(Ordering::SeqCst) {
            return Some(0);
        }
        let nearest = self
            .slots
            .iter()
            .map(|s| s.deadline.load(Ordering::SeqCst))
            .min()
            .unwrap_or(NEVER);
        (nearest != NEVER).then_some(nearest)
    }

    /// Calls `fire` with each slot that is due at `now` or was woken.
    pub fn fire_due(&self, now: Nanos, mut fire: impl FnMut(usize)) {
        self.any_woken.store(false, Ordering::SeqCst);
        for (index, slot) in self.slots.iter().enumerate() {
            let woken = slot.woken.swap(false, Ordering::SeqCst);
            if woken || slot.deadline.load(Ordering::SeqCst) <= now {
                fire(index);
            }
        }
    }

    /// Sleeps until the nearest deadline or a wake-up. Returns `false` once the thread is to end.
    pub fn wait(&self, clock: &Clock) -> bool {
        let mut guard = self.lock.lock();
        loop {
            if self.stop.load(Ordering::SeqCst) {
                self.planned.store(0, Ordering::SeqCst);
                return false;
            }
            let nearest = self.nearest().unwrap_or(NEVER);
            // First tell how long we mean to sleep, then look again: a deadline set in between is either seen by this
            // look, or its setter sees `planned` and has to wait for the lock that the sleep gives up.
            self.planned.store(nearest.max(1), Ordering::SeqCst);
            if self.nearest().unwrap_or(NEVER) < nearest {
                continue;
            }
            let now = clock.now();
            if nearest <= now {
                self.planned.store(0, Ordering::SeqCst);
                return true;
            }
            if nearest == NEVER {
                self.changed.wait(&mut guard);
            } else {
                self.changed
                    .wait_for(&mut guard, Duration::from_nanos(nearest - now));
            }
        }
    }

    /// Ends [`Timers::wait`] for good, or (`false`) allows it again.
    pub fn set_stopped(&self, stopped: bool) {
        self.stop.store(stopped, Ordering::SeqCst);
        self.notify();
    }
}

/// A handle with which a host thread (input from a terminal, a socket) has a device look at its queue.
#[derive(Clone, Debug)]
pub struct Waker {
    timers: Arc<Timers>,
    slot: usize,
}

impl Waker {
    /// A waker for `slot`.
    pub fn new(timers: Arc<Timers>, slot: usize) -> Self {
        Self { timers, slot }
    }

    /// Has the device's timer fire soon.
    pub fn wake(&self) {
        self.timers.wake(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::Timers;
    use crate::clock::Clock;
    use std::sync::Arc;

    #[test]
    fn the_nearest_deadline_wins() {
        let timers = Timers::new(3);
        assert_eq!(timers.nearest(), None);
        timers.set(2, Some(70));
        timers.set(0, Some(50));
        assert_eq!(timers.nearest(), Some(50));
        let mut fired = Vec::new();
        timers.fire_due(60, |slot| fired.push(slot));
        assert_eq!(fired, [0]);
        timers.set(0, None);
        timers.wake(1);
        assert_eq!(timers.nearest(), Some(0));
        timers.fire_due(60, |slot| fired.push(slot));
        assert_eq!(fired, [0, 1]);
        assert_eq!(timers.nearest(), Some(70));
    }

    #[test]
    fn no_wake_up_of_the_timer_thread_is_lost() {
        let timers = Arc::new(Timers::new(1));
        let clock = Arc::new(Clock::host(1_000_000_000));
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = {
            let (timers, clock) = (Arc::clone(&timers), Arc::clone(&clock));
            std::thread::spawn(move || {
                while timers.wait(&clock) {
                    timers.fire_due(clock.now(), |slot| {
                        timers.set(slot, None);
                        sender.send(slot).expect("the test listens");
                    });
                }
            })
        };
        for round in 0..5_000u32 {
            if round % 2 == 0 {
                timers.wake(0);
            } else {
                timers.set(0, Some(clock.now()));
            }
            receiver.recv().expect("each wake-up arrives");
        }
        timers.set_stopped(true);
        thread.join().expect("the thread ends");
    }
}
