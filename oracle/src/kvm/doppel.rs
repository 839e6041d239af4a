//! Doppel's answer to a case.

use std::sync::Arc;

use backend_interp::Interp;
use frontend_x86::Features;
use softmmu::{Bus, GuestRam, Mmu};
use system::testing::Board;
use system::{CpuModel, Engine, Events, Platform, Vcpu};
use x86::{Activity, Exception, PhysAddr};

use super::case::{Case, End, Outcome, RAM};

/// Exceptions in a row (a handler that faults at once) before a case counts as endless.
const MAX_DELIVERIES: usize = 24;
/// Iterations of a repeated instruction at most.
pub const MAX_REPEATS: usize = 160;

/// The model that both sides are: what this module compares is there, what KVM's emulator lacks is not.
pub fn model() -> CpuModel {
    let text = "default,-pcid,-smep,-smap,-fsgsbase,-xsave,-pdpe1gb,-vme";
    CpuModel::parse(text).unwrap_or_default()
}

/// A machine without devices that runs one case after another.
pub struct Doppel {
    v: Box<Vcpu>,
    engine: Interp,
    ram: Arc<GuestRam>,
    board: Arc<Board>,
    now: Vec<u8>,
    cases: u64,
}

/// What happened.
pub struct Answer {
    /// The state after it.
    pub outcome: Outcome,
    /// The exceptions that were delivered, in order.
    pub exceptions: Vec<Exception>,
}

impl Doppel {
    /// A machine; the error is the host's lack of memory.
    pub fn new() -> Result<Self, String> {
        let model = Arc::new(model());
        let ram = Arc::new(GuestRam::new(RAM as u64).map_err(|e| e.to_string())?);
        ram.set_dirty_log(true);
        let board = Arc::new(Board::default());
        let mmu = Mmu::new(
            0,
            Arc::clone(&ram),
            Arc::clone(&board) as Arc<dyn Bus>,
            model.maxphyaddr(),
        );
        let features = Features::new(&model.features_iced());
        let platform = Arc::clone(&board) as Arc<dyn Platform>;
        let v = Vcpu::new(0, model, mmu, Arc::new(Events::default()), platform);
        Ok(Self {
            v,
            engine: Interp::new(features),
            ram,
            board,
            now: vec![0; RAM],
            cases: 0,
        })
    }

    /// RAM as the last case left it.
    pub fn ram(&self) -> &[u8] {
        &self.now
    }

    /// Runs a case; `before` is its RAM.
    pub fn run(&mut self, case: &Case, before: &[u8]) -> Answer {
        for (page, (old, new)) in self
            .now
            .chunks_mut(4096)
            .zip(before.chunks(4096))
            .enumerate()
        {
            if old != new {
                old.copy_from_slice(new);
                // The page is RAM.
                let _ = self.ram.write(PhysAddr(page as u64 * 4096), new);
            }
        }
        self.ram.take_dirty(|_| {});
        let v = &mut *self.v;
        self.cases += 1;
        if self.cases.is_multiple_of(1024) {
            // Blocks of code that never comes back would pile up.
            self.engine.forget(v);
        }
        v.load_state(case.st.clone());
        v.retired = 0;
        self.board.outs.lock().clear();
        let mut exceptions = Vec::new();
        let end = step(&mut self.engine, v, case, &mut exceptions);
        let now = &mut self.now;
        let ram = &self.ram;
        ram.take_dirty(|page| {
            let at = page.0 as usize & !0xfff;
            let _ = ram.read(PhysAddr(at as u64), &mut now[at..at + 4096]);
        });
        let outs = self.board.outs.lock().clone();
        let outcome = Outcome {
            end,
            st: v.st.clone(),
            outs,
            mem: super::case::runs(before, &self.now),
        };
        Answer {
            outcome,
            exceptions,
        }
    }
}

/// Runs until an instruction completes: the case's, or the first of a handler.
fn step(engine: &mut Interp, v: &mut Vcpu, case: &Case, exceptions: &mut Vec<Exception>) -> End {
    let start = case.st.rip;
    let mut repeats = 0;
    loop {
        match engine.advance(v, 1) {
            Ok(()) => {
                repeats += 1;
                let again = case.repeats
                    && exceptions.is_empty()
                    && v.st.rip == start
                    && repeats < MAX_REPEATS;
                if !again {
                    return End::Done;
                }
            }
            Err(e) => {
                exceptions.push(e);
                if v.raise(e).is_err() || v.st.activity == Activity::Shutdown {
                    return End::Shutdown(exceptions[0].vector, exceptions[0].error.unwrap_or(0));
                }
                if exceptions.len() == MAX_DELIVERIES {
                    return End::Endless;
                }
            }
        }
    }
}
