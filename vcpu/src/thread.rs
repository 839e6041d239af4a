//! One vCPU's life: run, sleep in HLT, until the machine wants the thread back.

use std::time::{Duration, Instant};

use system::{Current, Engine, Exit, Vcpu, event};

/// Why [`run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// [`event::STOP`] is up.
    Asked,
    /// A triple fault; the vCPU's activity is `Shutdown`.
    TripleFault,
}

/// Where a vCPU's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Executing.
    pub run: Duration,
    /// Asleep in HLT or waiting for a start-up IPI.
    pub sleep: Duration,
}

/// Instructions between two looks at the clock.
const SLICE: u64 = 1 << 40;

/// Runs a vCPU on this thread until the machine stops it.
pub fn run(v: &mut Vcpu, engine: &mut dyn Engine, times: &mut Times) -> Stopped {
    let _current = Current::enter(v);
    v.mmu.sync();
    let stopped = loop {
        let start = Instant::now();
        let exit = engine.run(v, SLICE);
        times.run += start.elapsed();
        match exit {
            Exit::Budget => {}
            Exit::Stop => break Stopped::Asked,
            Exit::Shutdown => break Stopped::TripleFault,
            Exit::Halted | Exit::WaitForSipi => {
                let start = Instant::now();
                v.mmu.park();
                v.events.sleep(v.wake_mask() | event::STOP, None);
                v.mmu.sync();
                times.sleep += start.elapsed();
            }
        }
    };
    v.mmu.park();
    stopped
}
