//! Where a device's output bytes go, without ever making the vCPU wait.

/// A consumer of bytes on the host's side.
pub trait ByteSink: Send {
    /// Takes `byte`, or says `false` when there is no room now. Never waits.
    fn put(&mut self, byte: u8) -> bool;
}

/// A sink that swallows everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl ByteSink for NullSink {
    fn put(&mut self, _byte: u8) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::ByteSink;
    use parking_lot::Mutex;
    use std::sync::Arc;

    /// A sink that tests can look into, with a limit.
    #[derive(Clone, Debug)]
    pub(crate) struct TestSink {
        pub(crate) bytes: Arc<Mutex<Vec<u8>>>,
        pub(crate) room: Arc<Mutex<usize>>,
    }

    impl TestSink {
        pub(crate) fn new() -> Self {
            Self {
                bytes: Arc::default(),
                room: Arc::new(Mutex::new(usize::MAX)),
            }
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8_lossy(&self.bytes.lock()).into_owned()
        }
    }

    impl ByteSink for TestSink {
        fn put(&mut self, byte: u8) -> bool {
            let mut room = self.room.lock();
            if *room == 0 {
                return false;
            }
            *room -= 1;
            self.bytes.lock().push(byte);
            true
        }
    }
}
