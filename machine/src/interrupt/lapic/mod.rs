//! One local APIC (SDM vol. 3, chapter 11): pure state, for [`Apics`](super::Apics) to lock.
//!
//! What an access causes outside this APIC (an IPI, an EOI for the I/O APIC) is returned as an [`Effect`].

mod msr;
mod regs;
mod timer;

#[cfg(test)]
mod tests;

use super::message::{Delivery, Destination, Message, Mode};
use crate::tick::TickPolicy;
pub use timer::ApicTimer;

/// Where the registers are after reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// The APIC version register: version 14h, six LVT entries, EOI broadcast suppression.
const VERSION: u32 = 0x14 | 5 << 16 | 1 << 24;

/// IA32_APIC_BASE: the bootstrap processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
const BASE_EN: u64 = 1 << 11;

const SVR_ENABLED: u32 = 1 << 8;
const SVR_NO_EOI_BROADCAST: u32 = 1 << 12;
const LVT_MASKED: u32 = 1 << 16;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_REMOTE_IRR: u32 = 1 << 14;

/// Error status bits (SDM vol. 3, 11.5.3).
mod esr {
    pub(super) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub(super) const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub(super) const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// The local vector table, in register order from 320h.
mod lvt {
    pub(super) const TIMER: usize = 0;
    pub(super) const THERMAL: usize = 1;
    pub(super) const PERF: usize = 2;
    pub(super) const LINT0: usize = 3;
    pub(super) const LINT1: usize = 4;
    pub(super) const ERROR: usize = 5;
    pub(super) const COUNT: usize = 6;
}

/// What is to be done after an access, once this APIC's lock is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Send this IPI.
    Ipi(Message),
    /// Tell the I/O APIC that this vector's service is complete.
    Eoi(u8),
}

/// 256 bits, one a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    fn get(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
    }

    fn set(&mut self, vector: u8, on: bool) {
        let word = &mut self.0[usize::from(vector >> 5)];
        let bit = 1 << (vector & 31);
        *word = if on { *word | bit } else { *word & !bit };
    }

    /// The highest vector that is set.
    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word * 32 + self.0[word].ilog2() as usize) as u8)
    }
}

/// What a local APIC is told at its making.
#[derive(Clone, Copy, Debug)]
pub struct LapicConfig {
    /// The APIC id, which is the vCPU's index.
    pub id: u32,
    /// The core crystal's rate in Hz.
    pub crystal_hz: u64,
    /// Width of a physical address in bits (CPUID 80000008h).
    pub phys_bits: u8,
    /// What to do with lost ticks of the periodic timer.
    pub ticks: TickPolicy,
}

/// A local APIC's registers.
#[derive(Clone, Debug)]
pub struct Lapic {
    // Static configuration
    config: LapicConfig,
    // Volatile state
    /// IA32_APIC_BASE.
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// What reading ESR gives.
    esr: u32,
    /// Errors since ESR was last written.
    errors: u32,
    icr: u64,
    lvt: [u32; lvt::COUNT],
    timer: ApicTimer,
    /// The PIC's INT, wired to LINT0 of the bootstrap processor.
    lint0: bool,
    /// An ExtINT message from the I/O APIC waits for the PIC's vector.
    extint: bool,
}

impl Lapic {
    /// A local APIC after power-on.
    pub fn new(config: LapicConfig) -> Self {
        let bsp = if config.id == 0 { BASE_BSP } else { 0 };
        let mut apic = Self {
            config,
            base: DEFAULT_BASE | BASE_EN | bsp,
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; lvt::COUNT],
            timer: ApicTimer::default(),
            lint0: false,
            extint: false,
        };
        apic.init();
        apic
    }

    /// Power-on again; LINT0 keeps the level the PIC gives it.
    pub fn reset(&mut self) {
        *self = Self {
            lint0: self.lint0,
            ..Self::new(self.config)
        };
    }

    /// The state after INIT: everything but the APIC id, IA32_APIC_BASE and the LINT0 pin (SDM vol. 3, 11.4.7.3).
    pub fn init(&mut self) {
        self.tpr = 0;
        self.ldr = if self.is_x2apic() {
            self.x2apic_ldr()
        } else {
            0
        };
        self.dfr = u32::MAX;
        self.svr = 0xff;
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.irr = Vectors::default();
        self.esr = 0;
        self.errors = 0;
        self.icr = 0;
        self.lvt = [LVT_MASKED; lvt::COUNT];
        self.timer = ApicTimer::default();
        self.extint = false;
    }

    /// What a BIOS leaves: software-enabled, LINT1 is NMI, and on the bootstrap processor LINT0 is the PIC's
    /// (virtual wire mode).
    pub fn set_virtual_wire(&mut self) {
        self.svr = SVR_ENABLED | 0x0f;
        self.lvt[lvt::LINT1] = 0x400;
        if self.base & BASE_BSP != 0 {
            self.lvt[lvt::LINT0] = 0x700;
        }
    }

    fn x2apic_ldr(&self) -> u32 {
        (self.config.id >> 4) << 16 | 1 << (self.config.id & 15)
    }

    /// Enabled in IA32_APIC_BASE.
    pub fn is_enabled(&self) -> bool {
        self.base & BASE_EN != 0
    }

    /// In x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_EXTD != 0
    }

    /// The page of its registers; `None` while they can't be reached through memory.
    pub fn mmio_page(&self) -> Option<u64> {
        (self.is_enabled() && !self.is_x2apic()).then_some(self.base & !0xfff)
    }

    fn software_enabled(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLED != 0
    }

    /// The processor priority (SDM vol. 3, 11.8.3.1).
    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        if self.tpr & 0xf0 >= in_service & 0xf0 {
            self.tpr
        } else {
            in_service & 0xf0
        }
    }

    /// The priority that lowest-priority delivery compares; 256 for an APIC that takes no interrupts.
    pub fn arbitration_priority(&self) -> u16 {
        if self.software_enabled() {
            u16::from(self.ppr())
        } else {
            256
        }
    }

    /// The requested vector that the priorities let through.
    fn deliverable(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// Whether the PIC may interrupt this vCPU and wants to.
    fn extint_pending(&self) -> bool {
        if !self.lint0 {
            return false;
        }
        if !self.is_enabled() {
            // The pin is the CPU's INTR.
            return true;
        }
        let lint0 = self.lvt[lvt::LINT0];
        self.extint || (lint0 & LVT_MASKED == 0 && Mode::from_bits(lint0 >> 8) == Mode::ExtInt)
    }

    /// The level of the vCPU's INTR.
    pub fn intr(&self) -> bool {
        self.deliverable().is_some() || self.extint_pending()
    }

    /// Takes the interrupt with the highest priority and puts it in service.
    pub fn acknowledge(&mut self) -> Acknowledge {
        if let Some(vector) = self.deliverable() {
            self.irr.set(vector, false);
            self.isr.set(vector, true);
            return Acknowledge::Vector(vector);
        }
        if self.extint_pending() {
            self.extint = false;
            return Acknowledge::AskPic;
        }
        Acknowledge::Nothing
    }

    /// Whether a message for `dest` is meant for this APIC.
    pub fn matches(&self, dest: &Destination) -> bool {
        match *dest {
            Destination::Physical(id) => id == self.config.id,
            Destination::Cpu(cpu) => cpu == self.config.id as usize,
            Destination::AllBut(cpu) => cpu != self.config.id as usize,
            Destination::All => true,
            Destination::Logical8(dest) => self.matches_logical(u32::from(dest)),
            Destination::Logical32(dest) => {
                (self.is_x2apic() || dest <= 0xff) && self.matches_logical(dest)
            }
        }
    }

    fn matches_logical(&self, dest: u32) -> bool {
        if self.is_x2apic() {
            return dest >> 16 == self.ldr >> 16 && dest & self.ldr & 0xffff != 0;
        }
        let id = self.ldr >> 24;
        if self.dfr >> 28 == 0xf {
            return id & dest != 0;
        }
        // The cluster model: upper nibble the cluster (Fh is all), lower nibble a bit a member.
        (dest >> 4 == id >> 4 || dest >> 4 == 0xf) && dest & id & 0xf != 0
    }

    /// Requests fixed interrupt `vector`.
    pub fn accept(&mut self, vector: u8, level: bool) -> Delivery {
        if !self.software_enabled() {
            return Delivery::Masked;
        }
        if vector < 16 {
            self.error(esr::RECEIVED_ILLEGAL_VECTOR);
            return Delivery::Masked;
        }
        if self.irr.get(vector) {
            return Delivery::Lost;
        }
        self.irr.set(vector, true);
        self.tmr.set(vector, level);
        Delivery::Taken
    }

    /// An ExtINT message came: the next vector is the PIC's.
    pub fn accept_extint(&mut self) -> Delivery {
        if !self.software_enabled() {
            return Delivery::Masked;
        }
        self.extint = true;
        Delivery::Taken
    }

    /// Notes an error, and raises the error interrupt when it is a new one.
    fn error(&mut self, bit: u32) {
        if self.errors & bit == 0 {
            self.errors |= bit;
            let entry = self.lvt[lvt::ERROR];
            // An illegal vector in the error entry itself must not go round in circles.
            if entry & LVT_MASKED == 0 && entry & 0xff >= 16 {
                self.accept(entry.to_le_bytes()[0], false);
            }
        }
    }

    /// The PIC's INT output changed (bootstrap processor only).
    pub fn set_lint0(&mut self, level: bool) {
        let rising = level && !self.lint0;
        self.lint0 = level;
        let entry = self.lvt[lvt::LINT0];
        if !self.is_enabled()
            || entry & LVT_MASKED != 0
            || Mode::from_bits(entry >> 8) != Mode::Fixed
        {
            return;
        }
        if entry & LVT_LEVEL != 0 {
            self.service_lint0_level();
        } else if rising {
            self.accept(entry.to_le_bytes()[0], false);
        }
    }

    fn service_lint0_level(&mut self) {
        let entry = self.lvt[lvt::LINT0];
        let fixed_level = entry & (LVT_LEVEL | LVT_MASKED | 0x700) == LVT_LEVEL;
        if fixed_level && self.lint0 && entry & LVT_REMOTE_IRR == 0 {
            if self.accept(entry.to_le_bytes()[0], true) != Delivery::Masked {
                self.lvt[lvt::LINT0] |= LVT_REMOTE_IRR;
            }
        }
    }

    /// A pulse on LINT1, the board's NMI button. Returns whether the vCPU gets an NMI.
    pub fn pulse_lint1(&mut self) -> bool {
        if !self.is_enabled() {
            // The pin is the CPU's NMI.
            return true;
        }
        let entry = self.lvt[lvt::LINT1];
        if entry & LVT_MASKED != 0 {
            return false;
        }
        match Mode::from_bits(entry >> 8) {
            Mode::Nmi => true,
            Mode::Fixed => {
                self.accept(entry.to_le_bytes()[0], false);
                false
            }
            _ => false,
        }
    }

    /// EOI: the most important interrupt in service is done.
    fn eoi(&mut self) -> Effect {
        let Some(vector) = self.isr.highest() else {
            return Effect::None;
        };
        self.isr.set(vector, false);
        if !self.tmr.get(vector) {
            return Effect::None;
        }
        let entry = self.lvt[lvt::LINT0];
        if entry & LVT_REMOTE_IRR != 0 && entry.to_le_bytes()[0] == vector {
            self.lvt[lvt::LINT0] &= !LVT_REMOTE_IRR;
            self.service_lint0_level();
        }
        if self.svr & SVR_NO_EOI_BROADCAST != 0 {
            Effect::None
        } else {
            Effect::Eoi(vector)
        }
    }

    /// CR8.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Sets CR8 (0..=15).
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
    }
}

/// What [`Lapic::acknowledge`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// This vector, now in service.
    Vector(u8),
    /// The PIC has the vector.
    AskPic,
    /// Nothing may interrupt now.
    Nothing,
}
