//! Delivery of exceptions and interrupts through the IVT or IDT (SDM vol. 3, chapter 6; vol. 2, INT n).
//!
//! A delivery that faults has changed nothing but accessed bits; the fault comes back as `Err`. [`Vcpu::raise`] turns
//! such faults into double faults and shutdown.

mod escalate;
mod idt;
mod long;
mod protected;
mod real;
mod soft;

pub use escalate::Shutdown;
pub use soft::soft_int;

use x86::flags::{AC, IF, NT, RF, TF, VM};
use x86::{Activity, Exception, Shadow, vector};

use crate::Vcpu;

/// Where an event comes from: decides about privilege checks and the EXT bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An exception that the CPU found.
    Exception,
    /// An interrupt or NMI from outside.
    External,
    /// INT n, INT3, INTO: the gate's DPL is checked.
    Software,
    /// INT1: as a software interrupt without the checks.
    Icebp,
}

/// Something to deliver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) vector: u8,
    /// Pushed in protected and long mode.
    pub(crate) error: Option<u32>,
    pub(crate) source: Source,
    /// RIP to return to.
    pub(crate) ip: u64,
    /// RF is set in the pushed RFLAGS: the event is a fault.
    pub(crate) resume: bool,
}

impl Event {
    /// An exception with the right RF for its class (SDM vol. 3, 18.3.1.1).
    fn exception(e: &Exception, ip: u64) -> Self {
        let resume = match e.vector {
            vector::DB => e.dr6 & crate::boundary::dr6::BD != 0,
            vector::BP | vector::OF | vector::MC | vector::NMI => false,
            _ => true,
        };
        Self {
            vector: e.vector,
            error: e.error,
            source: Source::Exception,
            ip,
            resume,
        }
    }

    /// An interrupt or NMI between instructions.
    pub(crate) fn external(vector: u8, ip: u64) -> Self {
        Self {
            vector,
            error: None,
            source: Source::External,
            ip,
            resume: false,
        }
    }

    /// The RFLAGS image to push.
    fn flags(&self, v: &Vcpu) -> u64 {
        v.rflags() | if self.resume { RF } else { 0 }
    }
}

impl Vcpu {
    /// Delivers one event in the current mode. `Err` is the exception met on the way, with EXT set where it belongs.
    pub(crate) fn deliver(&mut self, event: &Event) -> Result<(), Exception> {
        let done = if self.st.real_mode() {
            self.deliver_real(event)
        } else if self.st.long_mode() {
            self.deliver_long(event)
        } else {
            self.deliver_protected(event)
        };
        done.map_err(|e| {
            if event.source == Source::Software {
                e
            } else {
                external(e)
            }
        })?;
        self.st.shadow = Shadow::None;
        self.st.activity = Activity::Active;
        Ok(())
    }

    /// Clears what entering a handler clears; through a trap gate IF stays. Tells the MMU.
    fn enter_handler(&mut self, keep_if: bool) {
        let mut clear = TF | NT | RF | VM;
        if !keep_if {
            clear |= IF;
        }
        let image = self.rflags();
        self.set_rflags(image & !clear);
    }

    /// The same in real mode, where NT stays and AC goes.
    fn enter_real_handler(&mut self) {
        let image = self.rflags();
        self.set_rflags(image & !(TF | IF | AC | RF));
    }
}

/// Sets EXT in error codes that have it: the event was not asked for by the program.
fn external(mut e: Exception) -> Exception {
    if matches!(e.vector, vector::TS | vector::NP | vector::SS | vector::GP) {
        e.error = e.error.map(|code| code | 1);
    }
    e
}

#[cfg(test)]
mod tests;
