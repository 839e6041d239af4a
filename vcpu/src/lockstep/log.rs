//! What came from outside a vCPU, in order: what the follower is fed, and what it must ask for and do in the same order.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use x86::PhysAddr;

/// What a vCPU turned to the board for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Device memory: address and bytes.
    Mmio(u64, u8),
    /// A port: number and bytes.
    Port(u16, u8),
    /// CR8.
    Cr8,
    /// A register of the local APIC by its MSR number.
    ApicMsr(u32),
    /// IA32_TSC_DEADLINE.
    TscDeadline,
    /// The acknowledgement of an interrupt.
    Acknowledge,
    /// The reset of the local APIC by INIT.
    ApicInit,
}

/// A point in a vCPU's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Instructions completed.
    pub retired: u64,
    /// Exceptions and interrupts delivered.
    pub delivered: u64,
    /// RIP and RCX: in the middle of a repeated string instruction only they tell how far it is.
    pub rip: u64,
    /// See `rip`.
    pub rcx: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A vCPU read; `None` is a refusal.
    Input {
        /// The vCPU.
        cpu: usize,
        /// What it read.
        what: Access,
        /// What it got.
        value: Option<u64>,
    },
    /// A vCPU wrote.
    Output {
        /// The vCPU.
        cpu: usize,
        /// What it wrote to.
        what: Access,
        /// What it wrote.
        value: u64,
        /// It was not refused.
        ok: bool,
    },
    /// A device wrote to RAM.
    Dma {
        /// Where.
        at: PhysAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// The A20 gate was opened or closed.
    A20(bool),
    /// A vCPU took events from outside at an instruction boundary.
    Taken {
        /// The vCPU.
        cpu: usize,
        /// When.
        place: Place,
        /// Bits of [`system::event`].
        bits: u32,
        /// The vector of a start-up IPI.
        sipi: u8,
    },
}

/// The events since the last point at which leader and follower were equal.
#[derive(Debug, Default)]
pub struct Log {
    events: Mutex<Vec<Event>>,
    /// Bytes that devices have written.
    bytes: AtomicUsize,
}

/// Events, and bytes that devices write, that are kept for a comparison: a few more at most.
const EVENTS: usize = 1 << 16;
const BYTES: usize = 16 << 20;

impl Log {
    /// Notes a device's write to RAM.
    pub fn dma(&self, at: PhysAddr, bytes: &[u8]) {
        self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let bytes = bytes.to_vec();
        self.events.lock().push(Event::Dma { at, bytes });
    }

    /// Notes that the A20 gate was opened or closed.
    pub fn a20(&self, on: bool) {
        self.events.lock().push(Event::A20(on));
    }

    /// Appends; returns the event's number.
    pub(super) fn push(&self, event: Event) -> usize {
        let mut events = self.events.lock();
        events.push(event);
        events.len() - 1
    }

    pub(super) fn len(&self) -> usize {
        self.events.lock().len()
    }

    pub(super) fn get(&self, number: usize) -> Option<Event> {
        self.events.lock().get(number).cloned()
    }

    /// There is so much that it is time for a comparison.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > BYTES || self.len() > EVENTS
    }

    pub(super) fn clear(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.events.lock().clear();
    }

    /// The board refused the output that was noted as `number`.
    pub(super) fn refused(&self, number: usize) {
        if let Some(Event::Output { ok, .. }) = self.events.lock().get_mut(number) {
            *ok = false;
        }
    }

    /// Whether an interrupt was acknowledged since event `mark`. Acknowledgements of nothing are forgotten: they have
    /// changed nothing.
    pub(super) fn acknowledged(&self, mark: usize) -> bool {
        let mut events = self.events.lock();
        let asked = |event: &Event| matches!(event, Event::Input { what: Access::Acknowledge, value, .. } if value.is_some());
        let nothing = |event: &Event| matches!(event, Event::Input { what: Access::Acknowledge, value, .. } if value.is_none());
        let mut at = mark;
        while at < events.len() {
            if nothing(&events[at]) {
                events.remove(at);
            } else {
                at += 1;
            }
        }
        events.iter().skip(mark).any(asked)
    }

    /// Puts an event before those since `mark`.
    pub(super) fn insert(&self, mark: usize, event: Event) {
        let mut events = self.events.lock();
        let mark = mark.min(events.len());
        events.insert(mark, event);
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES, EVENTS, Log};
    use x86::PhysAddr;

    #[test]
    fn it_says_when_it_is_full() {
        let log = Log::default();
        log.dma(PhysAddr(0), &vec![0; BYTES]);
        assert!(!log.is_full());
        log.dma(PhysAddr(0), &[0]);
        assert!(log.is_full());
        log.clear();
        (0..=EVENTS).for_each(|_| {
            assert!(!log.is_full());
            log.a20(true);
        });
        assert!(log.is_full());
    }
}
