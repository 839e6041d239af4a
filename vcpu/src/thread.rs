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

/// A vCPU with its engine.
pub struct Cpu {
    /// The vCPU.
    pub vcpu: Box<Vcpu>,
    /// What executes its instructions.
    pub engine: Box<dyn Engine>,
    /// Where its time went.
    pub times: Times,
}

impl Cpu {
    /// A vCPU that has not run yet.
    pub fn new(vcpu: Box<Vcpu>, engine: Box<dyn Engine>) -> Self {
        Self {
            vcpu,
            engine,
            times: Times::default(),
        }
    }
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

/// Runs a vCPU on this thread for exactly `budget` instructions, or until it has nothing to do: its turn where
/// instructions are counted as time. `tsc` is the raw TSC at its start.
pub fn turn(cpu: &mut Cpu, budget: u64, tsc: u64) -> Exit {
    let v = &mut *cpu.vcpu;
    let _current = Current::enter(v);
    v.tsc_base = Some(tsc.wrapping_sub(v.retired));
    v.mmu.sync();
    let start = Instant::now();
    let end = v.retired.saturating_add(budget);
    let exit = loop {
        let exit = cpu.engine.run(v, end.saturating_sub(v.retired));
        if exit != Exit::Budget || v.retired >= end {
            break exit;
        }
    };
    cpu.times.run += start.elapsed();
    v.mmu.park();
    exit
}
