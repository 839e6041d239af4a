//! The thread that looks for hot code and makes it again.
//!
//! While vCPUs run translated code it raises an event for each of them every millisecond or less often: where they look at their
//! events, they say what they were about to run (`trace.rs`). What comes of it is handed back to the thread as a [`Plan`], which it
//! carries out without the lock but for the last step. When nobody runs code for a while it sleeps until somebody does; when
//! nothing new is found it looks less often. It ends with the cache. Without it there are traces all the same, found by the guest's
//! own interrupts and made where they are found.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use softmmu::MAX_CPUS;
use system::{Events, event};

use crate::shared::{Epochs, Shared};
use crate::trace::Plan;

/// Between looks.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without anybody running code until it sleeps.
const IDLE: u32 = 20;
/// Looks in vain until they become half as many, and how often that happens.
const VAIN: u32 = 512;
const MAX_SLOWER: u32 = 4;
/// Plans that may wait.
const WAITING: usize = 32;

enum Message {
    Wake,
    Plan(Box<Plan>),
}

/// What vCPUs and the thread share.
pub struct Tier {
    events: [Mutex<Weak<Events>>; MAX_CPUS],
    epochs: Arc<Epochs>,
    asleep: AtomicBool,
    /// Looks since a trace was made.
    vain: AtomicU32,
    inbox: SyncSender<Message>,
}

impl Tier {
    /// Starts the thread for a cache. `None`, and a warning, when the host has none.
    pub fn start(shared: &Arc<Shared>) -> Option<Arc<Self>> {
        let (inbox, messages) = sync_channel(WAITING);
        let tier = Arc::new(Self {
            events: [const { Mutex::new(Weak::new()) }; MAX_CPUS],
            epochs: Arc::clone(&shared.epochs),
            asleep: AtomicBool::new(false),
            vain: AtomicU32::new(0),
            inbox,
        });
        // It holds neither for long: the cache goes with the last vCPU, and the inbox with the cache.
        let (weak, cache) = (Arc::downgrade(&tier), Arc::downgrade(shared));
        let thread = std::thread::Builder::new().name("doppel-tier".into());
        match thread.spawn(move || serve(&weak, &cache, &messages)) {
            Ok(_) => Some(tier),
            Err(e) => {
                tracing::warn!(
                    "no thread for hot code ({e}): traces are made where they are found"
                );
                None
            }
        }
    }

    /// A vCPU that is to be looked at.
    pub fn seat(&self, cpu: usize, events: &Arc<Events>) {
        if let Some(seat) = self.events.get(cpu) {
            *seat.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(events);
        }
    }

    /// A vCPU is busy: if the thread sleeps, it is woken.
    pub fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            // Full: then it is awake.
            let _ = self.inbox.try_send(Message::Wake);
        }
    }

    /// A look was made.
    pub fn looked(&self) {
        self.vain.fetch_add(1, Ordering::Relaxed);
    }

    /// A trace was made.
    pub fn made(&self) {
        self.vain.store(0, Ordering::Relaxed);
    }

    /// Hands over what is to be made; it is forgotten when too much waits already.
    pub fn give(&self, plan: Plan) {
        let _ = self.inbox.try_send(Message::Plan(Box::new(plan)));
    }

    fn pause(&self) -> Duration {
        TICK * (1 << (self.vain.load(Ordering::Relaxed) / VAIN).min(MAX_SLOWER))
    }

    /// Asks for a look at whoever runs translated code; whether anybody does.
    fn tick(&self) -> bool {
        let mut inside = self.epochs.before(u64::MAX);
        let any = inside != 0;
        while inside != 0 {
            let cpu = inside.trailing_zeros() as usize;
            inside &= inside - 1;
            let seat = self.events[cpu].lock();
            let events = seat.unwrap_or_else(PoisonError::into_inner).upgrade();
            if let Some(events) = events {
                events.raise(event::RECHECK);
            }
        }
        any
    }
}

/// The thread.
fn serve(tier: &Weak<Tier>, cache: &Weak<Shared>, messages: &Receiver<Message>) {
    let mut idle = 0;
    loop {
        let message = {
            let Some(tier) = tier.upgrade() else { return };
            let sleeps = idle >= IDLE;
            tier.asleep.store(sleeps, Ordering::Release);
            (!sleeps).then(|| tier.pause())
        };
        let message = match message {
            Some(pause) => messages.recv_timeout(pause),
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(Message::Wake) => idle = 0,
            Ok(Message::Plan(plan)) => {
                let made = plan.translate();
                let Some(cache) = cache.upgrade() else { return };
                cache.lock().commit(&plan, made);
            }
            Err(RecvTimeoutError::Timeout) => {
                let Some(tier) = tier.upgrade() else { return };
                idle = if tier.tick() { 0 } else { idle + 1 };
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
