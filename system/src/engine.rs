//! The seam between a vCPU's run loop and what executes its instructions.

use x86::{Activity, Exception};

use crate::{Boundary, Vcpu};

/// Why an engine came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The budget is used up: exactly so many instructions completed, or a few less where a block would overshoot.
    Budget,
    /// HLT: `st.activity` is `Halted` and no event that ends it is pending. The caller sleeps in
    /// [`crate::Events::sleep`] and runs the vCPU again.
    Halted,
    /// INIT arrived (or an application processor is fresh from RESET): the vCPU waits for a start-up IPI.
    WaitForSipi,
    /// [`crate::event::STOP`] is up: the machine wants the thread back.
    Stop,
    /// A triple fault: `st.activity` is `Shutdown`, the state is as it was before the fault that could not be delivered.
    Shutdown,
}

/// Something that executes guest instructions.
///
/// An engine takes interrupts, NMI, INIT and SIPI at instruction boundaries itself (with [`crate::Events`] and the
/// functions of this crate), delivers exceptions, and leaves [`Vcpu`] up to date when it returns: `st.rip` exact, no
/// exception pending, `retired` counted. What it keeps for itself (code, lazy flags) may stay where it is.
pub trait Engine: Send {
    /// The name that `--engine` has for it.
    fn name(&self) -> &'static str;

    /// Runs until something else than an instruction is to be done, at most `budget` instructions (each REP iteration
    /// is one where instructions are counted).
    fn run(&mut self, v: &mut Vcpu, budget: u64) -> Exit;

    /// Runs at most `limit` (at least 1) instructions from an instruction boundary on and delivers nothing: `Err` is an
    /// exception for the caller to [`Vcpu::raise`], RIP as that wants it. With a limit of 1 this is one instruction, or
    /// a part of a repeated one (`retired` tells). The caller has been at [`Vcpu::boundary`], or stands in for it.
    fn advance(&mut self, v: &mut Vcpu, limit: u64) -> Result<(), Exception>;

    /// What it has done, a line each, for `--stats`.
    fn report(&self, v: &Vcpu) -> Vec<String>;

    /// The host code that it has for the instruction at RIP, as text: for reports. `None`: it makes none.
    fn code(&self, v: &Vcpu) -> Option<String> {
        let _ = v;
        None
    }

    /// Forgets all translated code of a vCPU: its memory or its state was replaced (snapshot, `exec`).
    fn forget(&mut self, v: &mut Vcpu);
}

/// The run loop of an engine that [`Engine::run`]s code in pieces: `go` runs one from an instruction boundary on, of at
/// most so many instructions; its exceptions are raised here, and what is due between instructions is seen to.
pub fn run(
    v: &mut Vcpu,
    budget: u64,
    mut go: impl FnMut(&mut Vcpu, u64) -> Result<(), Exception>,
) -> Exit {
    let end = v.retired.saturating_add(budget);
    loop {
        match v.boundary() {
            Boundary::Run => {}
            Boundary::Delivered(_) => continue,
            Boundary::Halted => return Exit::Halted,
            Boundary::WaitForSipi => return Exit::WaitForSipi,
            Boundary::Shutdown => return Exit::Shutdown,
            Boundary::Stop => return Exit::Stop,
        }
        let left = end.saturating_sub(v.retired);
        if left == 0 {
            return Exit::Budget;
        }
        if let Err(e) = go(v, left)
            && v.raise(e).is_err()
        {
            debug_assert_eq!(v.st.activity, Activity::Shutdown);
        }
    }
}
