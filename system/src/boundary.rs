//! What happens between two instructions, in the order of SDM vol. 3, table 6-2: traps, INIT, NMI, interrupts; HLT
//! wake-up, INIT and start-up states; and around one instruction: breakpoints, single step, RF, shadows.

use x86::flags::{IF, RF, TF};
use x86::{Activity, CpuState, Exception, Gpr, Seg, Segment, Shadow, TableReg, cr0, vector};

use crate::{Vcpu, event};

/// Bits of DR6, and of what goes with it.
pub(crate) mod dr6 {
    /// B0-B3: a breakpoint was hit.
    pub(crate) const HITS: u64 = 0xf;
    /// A debug register was accessed though DR7.GD forbids it.
    pub(crate) const BD: u64 = 1 << 13;
    /// Single step.
    pub(crate) const BS: u64 = 1 << 14;
    /// The T bit of a new task.
    pub(crate) const BT: u64 = 1 << 15;
    /// All of them.
    pub(crate) const CAUSES: u64 = HITS | BD | BS | BT;
    /// DR7: access to debug registers traps.
    pub(crate) const DR7_GD: u64 = 1 << 13;
    /// DR7: any of the four breakpoints is enabled.
    pub(crate) const DR7_ENABLED: u64 = 0xff;
    /// IA32_DEBUGCTL: last branch records.
    pub(crate) const DEBUGCTL_LBR: u64 = 1 << 0;
    /// IA32_DEBUGCTL: single step stops at branches only.
    pub(crate) const DEBUGCTL_BTF: u64 = 1 << 1;
}

/// In `pending_debug`: the running instruction makes no single-step trap, though TF was set when it began.
pub(crate) const NO_STEP: u64 = 1 << 63;
/// In `pending_debug`: RF was loaded by the running instruction and outlives it.
pub(crate) const KEEP_RF: u64 = 1 << 62;
/// In `pending_debug`: RF is set only for what the next boundary may deliver in the midst of a repeated instruction.
const REPEAT: u64 = 1 << 61;

/// What a vCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The instruction at RIP.
    Run,
    /// The handler of this exception or interrupt (then without error code) was entered: ask again before running.
    Delivered(Exception),
    /// Nothing before one of the events of [`Vcpu::wake_mask`] is up: HLT.
    Halted,
    /// Nothing before one of the events of [`Vcpu::wake_mask`] is up: no start-up IPI yet.
    WaitForSipi,
    /// Nothing: a triple fault.
    Shutdown,
    /// [`event::STOP`] is up, and stays up: the machine wants the thread back.
    Stop,
}

/// What [`Vcpu::begin_instruction`] saw and [`Vcpu::after_instruction`] needs.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    tf: bool,
    rf: bool,
}

impl Vcpu {
    /// Takes the one most urgent thing that waits at an instruction boundary. `st.rip` is exact.
    pub fn boundary(&mut self) -> Boundary {
        let repeat = self.pending_debug & REPEAT != 0;
        let next = self.look();
        if repeat && !matches!(next, Boundary::Delivered(_)) {
            self.st.rflags &= !RF;
        }
        next
    }

    fn look(&mut self) -> Boundary {
        let pending = self.events.pending();
        if pending & event::STOP != 0 {
            return Boundary::Stop;
        }
        if pending & (event::CODE | event::RECHECK) != 0 {
            if self.events.take(event::CODE | event::RECHECK) & event::CODE != 0 {
                self.mmu.sync();
            }
        }
        self.pending_debug &= dr6::CAUSES;
        self.pending_debug |= u64::from(self.mmu.take_watch_hits());
        match self.st.activity {
            Activity::WaitForSipi => return self.wait_for_sipi(),
            Activity::Shutdown if pending & (event::INIT | event::NMI) == 0 => {
                return Boundary::Shutdown;
            }
            _ => {}
        }
        if pending & (event::SIPI | event::INIT) == event::SIPI {
            // Only a vCPU that waits for it listens, or one about to.
            self.events.take(event::SIPI);
        }
        match self.take_event(pending) {
            Some(boundary) => boundary,
            None if self.st.activity == Activity::Halted => Boundary::Halted,
            None => Boundary::Run,
        }
    }

    fn take_event(&mut self, pending: u32) -> Option<Boundary> {
        let unmasked = self.st.shadow != Shadow::MovSs;
        if unmasked && self.pending_debug & dr6::BT != 0 {
            return Some(self.take_trap());
        }
        if pending & event::INIT != 0 && self.events.take(event::INIT) != 0 {
            return Some(self.init());
        }
        if unmasked && self.pending_debug != 0 {
            return Some(self.take_trap());
        }
        if pending & event::NMI != 0
            && unmasked
            && !self.st.nmi_blocked
            && self.events.take(event::NMI) != 0
        {
            self.st.nmi_blocked = true;
            return Some(self.take_interrupt(vector::NMI));
        }
        if pending & event::INTR != 0 && self.st.rflags & IF != 0 && self.st.shadow == Shadow::None
        {
            if let Some(vector) = self.platform.ack_interrupt(self.index) {
                return Some(self.take_interrupt(vector));
            }
        }
        None
    }

    fn take_trap(&mut self) -> Boundary {
        let e = Exception::debug(std::mem::take(&mut self.pending_debug));
        self.raise(e)
            .map_or(Boundary::Shutdown, Boundary::Delivered)
    }

    fn take_interrupt(&mut self, vector: u8) -> Boundary {
        match self.interrupt(vector) {
            Ok(None) => Boundary::Delivered(Exception::new(vector)),
            Ok(Some(e)) => Boundary::Delivered(e),
            Err(_) => Boundary::Shutdown,
        }
    }

    /// The debug trap that the next boundary will deliver.
    pub fn pending_trap(&mut self) -> Option<Exception> {
        self.pending_debug |= u64::from(self.mmu.take_watch_hits());
        let causes = self.pending_debug & dr6::CAUSES;
        (causes != 0 && self.st.shadow != Shadow::MovSs).then(|| Exception::debug(causes))
    }

    /// The events that end the present sleep. INTR counts only with IF set: it stays up while an interrupt is pending.
    pub fn wake_mask(&self) -> u32 {
        match self.st.activity {
            Activity::WaitForSipi => event::STOP | event::INIT | event::SIPI,
            Activity::Shutdown => event::STOP | event::INIT | event::NMI,
            Activity::Active | Activity::Halted => {
                let nmi = if self.st.nmi_blocked { 0 } else { event::NMI };
                let intr = if self.st.rflags & IF != 0 {
                    event::INTR
                } else {
                    0
                };
                event::STOP | event::INIT | nmi | intr
            }
        }
    }

    /// The events that a running vCPU must stop for now; others may be up for as long as they like. Changes with IF,
    /// NMI blocking and activity.
    pub fn event_mask(&self) -> u32 {
        self.wake_mask() | event::CODE | event::RECHECK | event::SIPI
    }

    /// Whether the next instruction must run alone, between [`Vcpu::begin_instruction`] and
    /// [`Vcpu::after_instruction`]: single step, a shadow, RF to be cleared, breakpoints.
    pub fn needs_step(&self) -> bool {
        self.st.rflags & (TF | RF) != 0
            || self.st.shadow != Shadow::None
            || self.st.dr7 & dr6::DR7_ENABLED != 0
            || self.pending_debug != 0
    }

    /// Before an instruction: code breakpoints, which are faults of their own; the shadow that lay on the boundary
    /// before it ends.
    pub fn begin_instruction(&mut self) -> Result<Step, Exception> {
        let rf = self.st.rflags & RF != 0;
        if !rf && self.st.shadow != Shadow::MovSs && self.st.dr7 & dr6::DR7_ENABLED != 0 {
            let hits = self.code_breakpoints();
            if hits != 0 {
                return Err(Exception::debug(hits));
            }
        }
        self.st.shadow = Shadow::None;
        self.pending_debug &= dr6::CAUSES;
        Ok(Step {
            tf: self.st.rflags & TF != 0,
            rf,
        })
    }

    /// After an instruction that completed (not one that faulted): RF ends, and with TF a single-step trap is due.
    pub fn after_instruction(&mut self, step: Step) {
        if step.rf && self.pending_debug & KEEP_RF == 0 {
            self.st.rflags &= !RF;
        }
        let branches = self.st.msr.debugctl & dr6::DEBUGCTL_BTF != 0;
        let stops = !branches || self.st.rip != self.next_ip;
        if step.tf && stops && self.pending_debug & NO_STEP == 0 && self.st.shadow != Shadow::MovSs
        {
            self.pending_debug |= dr6::BS;
        }
        self.pending_debug &= dr6::CAUSES | REPEAT;
        self.pending_debug |= u64::from(self.mmu.take_watch_hits());
    }

    /// A repeated string instruction was left before its last iteration; call it before [`Vcpu::after_instruction`] and
    /// the boundary. RF goes into the image that an interrupt or trap pushes there (SDM vol. 3, 18.3.1.1) and keeps a
    /// code breakpoint from hitting again. If nothing is delivered, the boundary takes it away.
    pub fn interrupt_repeat(&mut self) {
        if self.st.rflags & RF == 0 {
            self.st.rflags |= RF;
            self.pending_debug |= REPEAT;
        }
        self.pending_debug |= KEEP_RF;
    }

    /// DR6 bits of the enabled code breakpoints at RIP (SDM vol. 3, 18.2.4 and 18.2.5).
    fn code_breakpoints(&self) -> u64 {
        let rip = self.st.rip;
        let lin = if self.st.code64() {
            rip
        } else {
            self.seg(Seg::Cs).base.wrapping_add(rip) & 0xffff_ffff
        };
        let mut hits = 0;
        for (n, address) in self.st.dr.iter().enumerate() {
            let enabled = self.st.dr7 >> (2 * n) & 3 != 0;
            let code = self.st.dr7 >> (16 + 4 * n) & 3 == 0;
            if enabled && code && *address == lin {
                hits |= 1 << n;
            }
        }
        hits
    }

    fn wait_for_sipi(&mut self) -> Boundary {
        if self.events.take(event::INIT) != 0 {
            self.init();
        }
        if self.events.take(event::SIPI) == 0 {
            return Boundary::WaitForSipi;
        }
        let vector = self.events.sipi_vector();
        self.st.seg[Seg::Cs as usize] = Segment {
            base: u64::from(vector) << 12,
            selector: u16::from(vector) << 8,
            ..*self.seg(Seg::Cs)
        };
        self.st.rip = 0;
        self.st.activity = Activity::Active;
        Boundary::Run
    }

    /// INIT (SDM vol. 3, table 11-1): as RESET, but FPU, vector registers, MSRs, XCR0, PKRU and CR0's cache bits stay.
    /// The bootstrap processor then runs from the reset vector, others wait for a start-up IPI.
    pub fn init(&mut self) -> Boundary {
        let cache = self.st.cr0 & (cr0::CD | cr0::NW);
        let reset = CpuState::reset();
        let mut st = self.st.clone();
        st.gpr = reset.gpr;
        st.gpr[Gpr::Rdx as usize] = u64::from(self.model.signature());
        st.rip = reset.rip;
        st.rflags = reset.rflags;
        st.seg = reset.seg;
        st.ldtr = reset.ldtr;
        st.tr = reset.tr;
        st.gdtr = TableReg {
            base: 0,
            limit: 0xffff,
        };
        st.idtr = TableReg {
            base: 0,
            limit: 0xffff,
        };
        st.cr0 = cr0::ET | cache;
        st.cr2 = 0;
        st.cr3 = 0;
        st.cr4 = 0;
        st.efer = 0;
        st.dr = reset.dr;
        st.dr6 = reset.dr6;
        st.dr7 = reset.dr7;
        st.pdpte = reset.pdpte;
        st.shadow = Shadow::None;
        st.nmi_blocked = false;
        st.activity = if self.index == 0 {
            Activity::Active
        } else {
            Activity::WaitForSipi
        };
        self.load_state(st);
        self.platform.apic_init(self.index);
        if self.st.activity == Activity::Active {
            Boundary::Run
        } else {
            Boundary::WaitForSipi
        }
    }
}

#[cfg(test)]
mod tests;
