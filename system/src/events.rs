//! The one flag word through which the rest of the machine reaches a running or sleeping vCPU.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Reasons for a vCPU to leave translated code at its next poll.
pub mod event {
    /// The local APIC or PIC has an interrupt for this vCPU (a level: it stays up while there is one).
    pub const INTR: u32 = 1 << 0;
    /// A non-maskable interrupt (an edge).
    pub const NMI: u32 = 1 << 1;
    /// INIT IPI (an edge).
    pub const INIT: u32 = 1 << 2;
    /// Start-up IPI (an edge); its vector is in [`super::Events::sipi_vector`].
    pub const SIPI: u32 = 1 << 3;
    /// Code that this vCPU may have translated was changed by somebody else.
    pub const CODE: u32 = 1 << 4;
    /// The machine wants the vCPU's thread to return from its run loop (reset, power-off, pause).
    pub const STOP: u32 = 1 << 5;
    /// Something that a vCPU itself must look at (interrupt window opened, trap pending).
    pub const RECHECK: u32 = 1 << 6;
}

/// The pending events of one vCPU, and the bed on which it sleeps in HLT.
///
/// Raising an event and going to sleep exclude each other by the lock, so that no wake-up is lost: a sleeper looks at
/// the word under the lock, a raiser sets the bit and then takes the lock to notify.
#[derive(Debug, Default)]
pub struct Events {
    bits: AtomicU32,
    sipi_vector: AtomicU32,
    asleep: Mutex<bool>,
    wake: Condvar,
}

impl Events {
    /// The event word as it is now.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.bits.load(Ordering::Relaxed)
    }

    /// Where translated code finds the event word.
    pub fn word(&self) -> &AtomicU32 {
        &self.bits
    }

    /// Sets `bits` and wakes the vCPU.
    pub fn raise(&self, bits: u32) {
        self.bits.fetch_or(bits, Ordering::SeqCst);
        let asleep = self.asleep.lock();
        if *asleep {
            self.wake.notify_one();
        }
    }

    /// Takes `bits` down again.
    pub fn lower(&self, bits: u32) {
        self.bits.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Takes down and returns those of `bits` that were up (for edges).
    pub fn take(&self, bits: u32) -> u32 {
        self.bits.fetch_and(!bits, Ordering::SeqCst) & bits
    }

    /// Raises a start-up IPI with its vector (SDM vol. 3, 10.4.4).
    pub fn raise_sipi(&self, vector: u8) {
        self.sipi_vector.store(u32::from(vector), Ordering::SeqCst);
        self.raise(event::SIPI);
    }

    /// The vector of the last start-up IPI.
    pub fn sipi_vector(&self) -> u8 {
        self.sipi_vector.load(Ordering::SeqCst).to_le_bytes()[0]
    }

    /// Sleeps until one of `bits` is up, at most `limit` (for ever with `None`). Returns the event word.
    pub fn sleep(&self, bits: u32, limit: Option<Duration>) -> u32 {
        let mut asleep = self.asleep.lock();
        *asleep = true;
        while self.bits.load(Ordering::SeqCst) & bits == 0 {
            match limit {
                None => self.wake.wait(&mut asleep),
                Some(limit) => {
                    if self.wake.wait_for(&mut asleep, limit).timed_out() {
                        break;
                    }
                }
            }
        }
        *asleep = false;
        self.bits.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::{Events, event};
    use std::sync::Arc;

    #[test]
    fn no_wake_up_is_lost() {
        let events = Arc::new(Events::default());
        let raiser = Arc::clone(&events);
        let thread = std::thread::spawn(move || {
            for _ in 0..10_000 {
                raiser.raise(event::NMI);
                while raiser.pending() & event::NMI != 0 {
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..10_000 {
            events.sleep(event::NMI, None);
            assert_eq!(events.take(event::NMI), event::NMI);
        }
        thread.join().expect("the raiser ends");
    }

    #[test]
    fn sipi_carries_its_vector() {
        let events = Events::default();
        events.raise_sipi(0x9a);
        assert_eq!(events.pending(), event::SIPI);
        assert_eq!(events.sipi_vector(), 0x9a);
    }
}
