//! A bounded queue of output bytes with a thread that writes them out, so that no vCPU waits for the host.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sink::ByteSink;

/// Bytes that may wait for the host.
const CAPACITY: usize = 64 << 10;
/// A writer that was woken waits this long for more, so that a line isn't written a byte at a time.
const GATHER: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The writer sleeps.
    idle: bool,
    /// Nobody will write these bytes any more.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

/// The queue; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct ByteQueue(Arc<Shared>);

impl ByteQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// The device's end.
    pub fn sink(&self) -> QueueSink {
        QueueSink(self.clone())
    }

    /// Waits until all is written out, at most `limit`. Says whether it is.
    pub fn drain(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.0.state.lock();
        while !(state.closed || (state.bytes.is_empty() && state.idle)) {
            if self.0.emptied.wait_until(&mut state, until).timed_out() {
                return state.closed || (state.bytes.is_empty() && state.idle);
            }
        }
        true
    }

    /// From now on bytes are dropped; the writer ends.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        state.bytes.clear();
        self.0.filled.notify_all();
        self.0.emptied.notify_all();
    }

    /// Waits for bytes and takes them all; `None` once the queue is closed.
    fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.0.state.lock();
        while state.bytes.is_empty() {
            if state.closed {
                return None;
            }
            state.idle = true;
            self.0.emptied.notify_all();
            self.0.filled.wait(&mut state);
            if !state.bytes.is_empty() {
                state.idle = false;
                drop(state);
                std::thread::sleep(GATHER);
                state = self.0.state.lock();
            }
        }
        state.idle = false;
        Some(state.bytes.drain(..).collect())
    }

    fn put(&self, byte: u8) -> bool {
        let mut state = self.0.state.lock();
        if state.closed {
            return true;
        }
        if state.bytes.len() >= CAPACITY {
            return false;
        }
        state.bytes.push_back(byte);
        if state.idle {
            self.0.filled.notify_one();
        }
        true
    }
}

/// The device's end of a [`ByteQueue`].
#[derive(Clone, Debug)]
pub struct QueueSink(ByteQueue);

impl ByteSink for QueueSink {
    fn put(&mut self, byte: u8) -> bool {
        self.0.put(byte)
    }
}

/// Starts a thread that writes the queue's bytes to `out`. After an error the queue is closed and `failed` is called.
pub fn spawn_writer(
    name: &str,
    queue: ByteQueue,
    mut out: impl Write + Send + 'static,
    failed: impl FnOnce(io::Error) + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            while let Some(bytes) = queue.take() {
                if let Err(error) = out.write_all(&bytes).and_then(|()| out.flush()) {
                    queue.close();
                    failed(error);
                    return;
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ByteQueue, CAPACITY, spawn_writer};
    use crate::sink::ByteSink;
    use parking_lot::Mutex;
    use std::io::{self, Write};
    use std::sync::Arc;
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            if buf.contains(&b'!') {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.lock().extend(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_bytes_arrive_in_order_and_drain_waits_for_them() {
        let (queue, out) = (ByteQueue::new(), Out::default());
        spawn_writer("test", queue.clone(), out.clone(), |_| ()).expect("a thread");
        let mut sink = queue.sink();
        let expected: Vec<u8> = (0..200_000u32)
            .map(|i| (i % 251) as u8)
            .filter(|&b| b != b'!')
            .collect();
        for &byte in &expected {
            while !sink.put(byte) {
                std::thread::yield_now();
            }
        }
        assert!(queue.drain(Duration::from_secs(60)));
        assert_eq!(*out.0.lock(), expected);
        queue.close();
    }

    #[test]
    fn a_full_queue_refuses_and_an_error_closes_it() {
        let queue = ByteQueue::new();
        let mut sink = queue.sink();
        assert_eq!(
            (0..CAPACITY + 5).filter(|_| sink.put(b'!')).count(),
            CAPACITY
        );
        assert!(!queue.drain(Duration::ZERO));
        let (sender, receiver) = std::sync::mpsc::channel();
        spawn_writer("test", queue.clone(), Out::default(), move |e| {
            sender.send(e.kind()).expect("the test listens");
        })
        .expect("a thread");
        assert_eq!(receiver.recv(), Ok(io::ErrorKind::BrokenPipe));
        assert!(sink.put(b'x'), "dropped: the guest must not wait for ever");
        assert!(queue.drain(Duration::from_secs(60)));
    }
}
