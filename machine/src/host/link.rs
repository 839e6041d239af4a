//! From a back end's thread to the machine: back ends are made before the board that they serve.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::requests::{MachineRequest, MachineRequests};

#[derive(Debug, Default)]
struct State {
    requests: Option<Arc<MachineRequests>>,
    waiting: Option<MachineRequest>,
}

/// Where back ends leave requests; the first one waits for [`HostLink::attach`] if need be. Clones are the same link.
#[derive(Clone, Debug, Default)]
pub struct HostLink(Arc<Mutex<State>>);

impl HostLink {
    /// Connects the link with the machine.
    pub fn attach(&self, requests: &Arc<MachineRequests>) {
        let waiting = {
            let mut state = self.0.lock();
            state.requests = Some(Arc::clone(requests));
            state.waiting.take()
        };
        if let Some(request) = waiting {
            requests.request(request);
        }
    }

    /// Leaves a request.
    pub fn request(&self, request: MachineRequest) {
        let requests = {
            let mut state = self.0.lock();
            match &state.requests {
                Some(requests) => Arc::clone(requests),
                None => {
                    state.waiting.get_or_insert(request);
                    return;
                }
            }
        };
        requests.request(request);
    }

    /// The host failed: the text says what failed, why and what to do.
    pub fn error(&self, text: String) {
        self.request(MachineRequest::HostError(text));
    }
}

#[cfg(test)]
mod tests {
    use super::HostLink;
    use crate::requests::{MachineRequest, MachineRequests};
    use std::sync::Arc;

    #[test]
    fn a_request_before_the_board_exists_waits_for_it() {
        let link = HostLink::default();
        link.request(MachineRequest::Quit);
        link.error("later".into());
        let requests = Arc::new(MachineRequests::new(Vec::new()));
        link.attach(&requests);
        assert_eq!(requests.take(), Some(MachineRequest::Quit));
        link.error("now".into());
        assert_eq!(
            requests.take(),
            Some(MachineRequest::HostError("now".into()))
        );
    }
}
