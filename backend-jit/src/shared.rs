//! One code cache for all vCPUs of a machine: who may be inside translated code, and the lock around the tables.
//!
//! ```text
//! shared, by the lock    code memory, blocks by key, page and place, exits, side tables, what is known of places
//! each vCPU's own        frame (registers, page caches, jump caches, page numbers), fragments and slow ops, what it
//!                        has seen of the shared part
//! ```
//! The lock is held while the run loop finds, makes and links blocks, never while translated code runs. What changes
//! in code that others may be running are displacements alone: each lies within eight aligned bytes that are stored at
//! once, so that whoever comes by goes the old way or the new one. The old way stays good until all vCPUs were seen
//! outside: code is dropped in two steps. When a region is *retired*, nobody can come to it any more but by a jump
//! cache, or is there already; it is *dropped* when each vCPU is outside, or has entered later. Who enters brings its
//! jump caches up to date before.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use softmmu::MAX_CPUS;

use crate::core::Core;
use crate::tier::Tier;

/// `Epochs::inside` of a vCPU that runs no translated code.
const OUTSIDE: u64 = u64::MAX;

/// Which vCPUs run translated code, and since when.
pub struct Epochs {
    /// The generation in which each has entered. Written with the lock held.
    inside: [AtomicU64; MAX_CPUS],
}

impl Epochs {
    fn new() -> Self {
        Self {
            inside: [const { AtomicU64::new(OUTSIDE) }; MAX_CPUS],
        }
    }

    /// A vCPU enters code that it knows to be there in this generation; the lock is held.
    pub fn enter(&self, cpu: usize, generation: u64) {
        self.inside[cpu].store(generation, Ordering::Release);
    }

    /// It has come back; its jump caches and numbers are old from here on, once it gives up the lock that it holds.
    pub fn leave(&self, cpu: usize) {
        self.inside[cpu].store(OUTSIDE, Ordering::Release);
    }

    /// The vCPUs, a bit each, that entered before a generation.
    pub fn before(&self, generation: u64) -> u64 {
        let inside = self.inside.iter().enumerate();
        inside
            .filter(|(_, at)| at.load(Ordering::Acquire) < generation)
            .fold(0, |all, (cpu, _)| all | 1 << cpu)
    }
}

/// What vCPUs share.
pub struct Shared {
    core: Mutex<Core>,
    pub epochs: Arc<Epochs>,
    tier: OnceLock<Option<Arc<Tier>>>,
}

impl Shared {
    /// Around a core.
    pub fn new(core: impl FnOnce(Arc<Epochs>) -> Core) -> Self {
        let epochs = Arc::new(Epochs::new());
        Self {
            core: Mutex::new(core(Arc::clone(&epochs))),
            epochs,
            tier: OnceLock::new(),
        }
    }

    /// The thread for hot code, which is started when it is first asked for.
    pub fn tier(self: &Arc<Self>) -> Option<&Arc<Tier>> {
        let start = || {
            let tier = Tier::start(self);
            self.lock().traces.tier.clone_from(&tier);
            tier
        };
        self.tier.get_or_init(start).as_ref()
    }

    /// The tables.
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A code cache by name: engines that are given clones of one share it. All must be for vCPUs of one machine.
#[derive(Clone, Default)]
pub struct Cache(Arc<OnceLock<Option<Arc<Shared>>>>);

impl Cache {
    /// What is shared, made by whoever comes first; `None`: this host cannot have it.
    pub(crate) fn get(&self, make: impl FnOnce() -> Option<Shared>) -> Option<Arc<Shared>> {
        self.0.get_or_init(|| make().map(Arc::new)).clone()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// The blocks that vCPUs must take out of their jump caches, by the last few of their addresses.
pub struct Gone {
    lins: [u64; Gone::KEPT],
    count: u64,
}

impl Gone {
    const KEPT: usize = 256;

    pub fn new() -> Self {
        Self {
            lins: [0; Self::KEPT],
            count: 0,
        }
    }

    /// One more, at a linear address.
    pub fn add(&mut self, lin: u64) {
        self.lins[(self.count % Self::KEPT as u64) as usize] = lin;
        self.count += 1;
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All since there were `seen`; `None` when they are too many.
    pub fn since(&self, seen: u64) -> Option<impl Iterator<Item = u64>> {
        let kept = self.count - seen <= Self::KEPT as u64;
        kept.then(|| (seen..self.count).map(|n| self.lins[(n % Self::KEPT as u64) as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::{Epochs, Gone};

    #[test]
    fn who_entered_later_is_not_waited_for() {
        let epochs = Epochs::new();
        assert_eq!(epochs.before(u64::MAX), 0);
        epochs.enter(3, 5);
        epochs.enter(0, 6);
        assert_eq!(epochs.before(5), 0);
        assert_eq!(epochs.before(6), 1 << 3);
        assert_eq!(epochs.before(7), 1 << 3 | 1);
        epochs.leave(3);
        assert_eq!(epochs.before(7), 1);
    }

    #[test]
    fn what_is_gone_is_told_or_too_much() {
        let mut gone = Gone::new();
        for n in 0..300 {
            gone.add(n);
        }
        assert!(gone.since(43).is_none());
        let all: Vec<u64> = gone.since(44).expect("kept").collect();
        assert_eq!(all, (44..300).collect::<Vec<_>>());
        assert_eq!(gone.since(300).expect("none").count(), 0);
    }
}
