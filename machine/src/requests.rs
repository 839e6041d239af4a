//! What the machine asks of whoever runs it: power-off, reset, exit with a value, a host error.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use system::{Events, event};

/// Why the machine wants the run loop to return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineRequest {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest (keyboard controller, port CF9h, port 92h, a triple fault) reset the machine.
    Reset,
    /// The guest wrote `value`, `bits` (8, 16, 32) wide, to the debug-exit port.
    DebugExit {
        /// What was written.
        value: u32,
        /// Width of the access in bits.
        bits: u8,
    },
    /// The user wants to quit (Ctrl-A x).
    Quit,
    /// The host failed the machine: the text says what failed, why and what to do.
    HostError(String),
}

/// Where devices and back ends leave their requests. The first one stands until it is taken.
#[derive(Debug)]
pub struct MachineRequests {
    pending: Mutex<Option<MachineRequest>>,
    arrived: Condvar,
    events: Vec<Arc<Events>>,
}

impl MachineRequests {
    /// Requests that stop the vCPUs behind `events`.
    pub fn new(events: Vec<Arc<Events>>) -> Self {
        Self {
            pending: Mutex::new(None),
            arrived: Condvar::new(),
            events,
        }
    }

    /// Leaves a request (unless there is one: the first counts) and raises STOP on every vCPU.
    pub fn request(&self, request: MachineRequest) {
        {
            let mut pending = self.pending.lock();
            if pending.is_none() {
                *pending = Some(request);
            }
            self.arrived.notify_all();
        }
        for events in &self.events {
            events.raise(event::STOP);
        }
    }

    /// The pending request, left in place.
    pub fn peek(&self) -> Option<MachineRequest> {
        self.pending.lock().clone()
    }

    /// Takes the pending request.
    pub fn take(&self) -> Option<MachineRequest> {
        self.pending.lock().take()
    }

    /// Waits for a request and takes it.
    pub fn wait(&self) -> MachineRequest {
        let mut pending = self.pending.lock();
        loop {
            if let Some(request) = pending.take() {
                return request;
            }
            self.arrived.wait(&mut pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MachineRequest, MachineRequests};
    use std::sync::Arc;
    use system::{Events, event};

    #[test]
    fn the_first_request_counts_and_stops_every_vcpu() {
        let events: Vec<_> = (0..3).map(|_| Arc::new(Events::default())).collect();
        let requests = MachineRequests::new(events.clone());
        assert_eq!(requests.take(), None);
        requests.request(MachineRequest::DebugExit { value: 7, bits: 8 });
        requests.request(MachineRequest::Reset);
        assert!(events.iter().all(|e| e.pending() & event::STOP != 0));
        assert_eq!(
            requests.wait(),
            MachineRequest::DebugExit { value: 7, bits: 8 }
        );
        assert_eq!(requests.peek(), None);
    }
}
