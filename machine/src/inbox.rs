//! A bounded queue from the host to a device: serial input, keys, mouse movements.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};

use crate::timers::Waker;

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<VecDeque<T>>,
    space: Condvar,
    capacity: usize,
    waker: OnceLock<Waker>,
}

/// Both ends of the queue; clones are the same one. Host threads push, the device takes.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Shared<T>>);

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Inbox<T> {
    /// A queue for at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        let queue = Mutex::new(VecDeque::new());
        Self(Arc::new(Shared {
            queue,
            space: Condvar::new(),
            capacity,
            waker: OnceLock::new(),
        }))
    }

    /// Called by the board: who is told of new items.
    pub fn set_waker(&self, waker: Waker) {
        // A second board for the same queue would be a host program's mistake; the first keeps it.
        let _ = self.0.waker.set(waker);
    }

    fn wake(&self) {
        if let Some(waker) = self.0.waker.get() {
            waker.wake();
        }
    }

    /// Puts `item` in unless the queue is full. Says whether it went in.
    pub fn push(&self, item: T) -> bool {
        let mut queue = self.0.queue.lock();
        if queue.len() >= self.0.capacity {
            return false;
        }
        queue.push_back(item);
        drop(queue);
        self.wake();
        true
    }

    /// Puts `item` in, waiting for room: for host threads that can wait, never for vCPUs.
    pub fn push_wait(&self, item: T) {
        let mut queue = self.0.queue.lock();
        while queue.len() >= self.0.capacity {
            self.0.space.wait(&mut queue);
        }
        queue.push_back(item);
        drop(queue);
        self.wake();
    }

    /// Takes the oldest item.
    pub fn pop(&self) -> Option<T> {
        let mut queue = self.0.queue.lock();
        let item = queue.pop_front();
        if item.is_some() {
            self.0.space.notify_one();
        }
        item
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.0.queue.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Inbox;

    #[test]
    fn a_full_inbox_refuses_and_a_waiting_push_waits() {
        let inbox = Inbox::new(2);
        assert!(inbox.push(1) && inbox.push(2) && !inbox.push(3));
        let other = inbox.clone();
        let thread = std::thread::spawn(move || other.push_wait(3));
        let mut got = Vec::new();
        while got.len() < 3 {
            got.extend(inbox.pop());
        }
        thread.join().expect("the pusher ends");
        assert_eq!(got, [1, 2, 3]);
        assert!(inbox.is_empty());
    }
}
