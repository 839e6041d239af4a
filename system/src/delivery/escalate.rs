//! What happens when delivering one exception raises another: one after the other, double fault, or shutdown.

use x86::{Activity, Exception, vector};

use super::Event;
use crate::Vcpu;
use crate::boundary::dr6;

/// A triple fault: the CPU has stopped until RESET, INIT or NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown;

/// Exception classes of SDM vol. 3, table 6-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    Page,
    Double,
}

fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::Page,
        vector::DF => Class::Double,
        _ => Class::Benign,
    }
}

/// The exception to deliver when `second` came up while `first` was delivered (table 6-5).
fn combine(first: u8, second: Exception) -> Result<Exception, Shutdown> {
    match (class(first), class(second.vector)) {
        (Class::Double, _) => Err(Shutdown),
        (Class::Contributory, Class::Contributory)
        | (Class::Page, Class::Contributory | Class::Page) => {
            Ok(Exception::with_error(vector::DF, 0))
        }
        _ => Ok(second),
    }
}

impl Vcpu {
    /// Delivers an exception, or what becomes of it when its delivery faults. RIP is at the faulting instruction for
    /// faults, after it for traps. Returns the exception whose handler was entered, as it was pushed.
    pub fn raise(&mut self, e: Exception) -> Result<Exception, Shutdown> {
        if !e.is_trap() {
            // What the instruction touched before it faulted is no breakpoint hit: it will touch it again.
            self.mmu.take_watch_hits();
        }
        let mut current = e;
        loop {
            self.record(&current);
            let real = self.st.real_mode();
            let second = match self.deliver(&Event::exception(&current, self.st.rip)) {
                Ok(()) => {
                    if real {
                        current.error = None;
                    }
                    return Ok(current);
                }
                Err(second) => second,
            };
            // A double fault hides the second exception, but not its CR2.
            self.record_address(&second);
            current = combine(current.vector, second).inspect_err(|_| self.shut_down(&second))?;
        }
    }

    /// Delivers an interrupt or NMI. Returns the exception that came of it instead, if one did.
    pub(crate) fn interrupt(&mut self, vector: u8) -> Result<Option<Exception>, Shutdown> {
        match self.deliver(&Event::external(vector, self.st.rip)) {
            Ok(()) => Ok(None),
            Err(e) => self.raise(e).map(Some),
        }
    }

    /// Leaves in CR2, DR6 and DR7 what the exception tells its handler (SDM vol. 3, 18.2.3 and 18.2.4).
    fn record(&mut self, e: &Exception) {
        self.record_address(e);
        if e.vector == vector::DB {
            self.st.dr6 = self.st.dr6 & !dr6::HITS | e.dr6 & dr6::CAUSES;
            self.st.dr7 &= !dr6::DR7_GD;
            self.st.msr.debugctl &= !(dr6::DEBUGCTL_LBR | dr6::DEBUGCTL_BTF);
        }
    }

    fn record_address(&mut self, e: &Exception) {
        if let Some(cr2) = e.cr2 {
            self.st.cr2 = cr2;
        }
    }

    fn shut_down(&mut self, last: &Exception) {
        self.st.activity = Activity::Shutdown;
        tracing::debug!(cpu = self.index, rip = self.st.rip, ?last, "triple fault");
    }
}

#[cfg(test)]
mod tests {
    use super::{Shutdown, combine};
    use x86::{Exception, vector};

    #[test]
    fn classes_combine_as_in_table_6_5() {
        let page = Exception::page_fault(0x1000, 0);
        let df = Ok(Exception::with_error(vector::DF, 0));
        for first in [vector::DE, vector::TS, vector::NP, vector::SS, vector::GP] {
            assert_eq!(combine(first, Exception::GP0), df);
            assert_eq!(combine(first, page), Ok(page));
            assert_eq!(combine(first, Exception::NM), Ok(Exception::NM));
        }
        assert_eq!(combine(vector::PF, Exception::np(8)), df);
        assert_eq!(combine(vector::PF, page), df);
        assert_eq!(combine(vector::PF, Exception::AC0), Ok(Exception::AC0));
        assert_eq!(combine(vector::UD, page), Ok(page));
        assert_eq!(combine(vector::BP, Exception::GP0), Ok(Exception::GP0));
        assert_eq!(combine(vector::DF, Exception::GP0), Err(Shutdown));
        assert_eq!(combine(vector::DF, page), Err(Shutdown));
    }
}
