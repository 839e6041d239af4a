//! The local APIC's registers by number: offset / 16 in the xAPIC's page, MSR - 800h in x2APIC mode.

use super::{
    Destination, Effect, LVT_LEVEL, LVT_MASKED, LVT_REMOTE_IRR, Lapic, Message, Mode, SVR_ENABLED,
    VERSION, esr, lvt,
};
use crate::clock::Nanos;

/// Register numbers (SDM vol. 3, table 11-6).
pub(super) mod reg {
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const APR: u8 = 0x09;
    pub const PPR: u8 = 0x0a;
    pub const EOI: u8 = 0x0b;
    pub const RRD: u8 = 0x0c;
    pub const LDR: u8 = 0x0d;
    pub const DFR: u8 = 0x0e;
    pub const SVR: u8 = 0x0f;
    pub const ISR: u8 = 0x10;
    pub const ISR_END: u8 = 0x17;
    pub const TMR: u8 = 0x18;
    pub const TMR_END: u8 = 0x1f;
    pub const IRR: u8 = 0x20;
    pub const IRR_END: u8 = 0x27;
    pub const ESR: u8 = 0x28;
    pub const ICR: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT_TIMER: u8 = 0x32;
    pub const LVT_ERROR: u8 = 0x37;
    pub const TIMER_INITIAL: u8 = 0x38;
    pub const TIMER_CURRENT: u8 = 0x39;
    pub const TIMER_DIVIDE: u8 = 0x3e;
    pub const SELF_IPI: u8 = 0x3f;
}

/// The bits of each LVT entry that can be written.
pub(super) const LVT_WRITABLE: [u32; lvt::COUNT] =
    [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// The bits of ICR's low half that can be written.
const ICR_WRITABLE: u64 = 0xc_cfff;

impl Lapic {
    /// Reads a register as it is in either mode; `None` is a register that isn't there.
    pub(super) fn read_reg(&self, index: u8, now: Nanos) -> Option<u32> {
        Some(match index {
            reg::ID if self.is_x2apic() => self.config.id,
            reg::ID => self.config.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => u32::from(self.tpr),
            reg::APR => u32::from(self.ppr()),
            reg::PPR => u32::from(self.ppr()),
            reg::EOI | reg::RRD => 0,
            reg::LDR => self.ldr,
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..=reg::ISR_END => self.isr.0[usize::from(index - reg::ISR)],
            reg::TMR..=reg::TMR_END => self.tmr.0[usize::from(index - reg::TMR)],
            reg::IRR..=reg::IRR_END => self.irr.0[usize::from(index - reg::IRR)],
            reg::ESR => self.esr,
            reg::ICR => self.icr as u32,
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[usize::from(index - reg::LVT_TIMER)],
            reg::TIMER_INITIAL => self.timer_initial(),
            reg::TIMER_CURRENT => self.timer_count(now),
            reg::TIMER_DIVIDE => self.timer_divide(),
            _ => return None,
        })
    }

    /// Writes a register as it is in either mode; `None` is a register that isn't there or can't be written.
    pub(super) fn write_reg(&mut self, index: u8, value: u32, now: Nanos) -> Option<Effect> {
        match index {
            reg::TPR => self.tpr = value.to_le_bytes()[0],
            reg::EOI => return Some(self.eoi()),
            reg::LDR => self.ldr = value & 0xff00_0000,
            reg::DFR => self.dfr = value | 0x0fff_ffff,
            reg::SVR => self.write_svr(value),
            reg::ESR => {
                self.esr = self.errors;
                self.errors = 0;
            }
            reg::ICR => {
                self.icr = (self.icr & !0xffff_ffff) | (u64::from(value) & ICR_WRITABLE);
                return Some(self.send_ipi());
            }
            reg::ICR_HIGH => {
                self.icr = (self.icr & 0xffff_ffff) | u64::from(value & 0xff00_0000) << 32
            }
            reg::LVT_TIMER..=reg::LVT_ERROR => {
                self.write_lvt(usize::from(index - reg::LVT_TIMER), value, now)
            }
            reg::TIMER_INITIAL => self.set_timer_initial(value, now),
            reg::TIMER_DIVIDE => self.set_timer_divide(value, now),
            // Read-only ones ignore writes.
            reg::ID | reg::VERSION | reg::APR..=reg::PPR | reg::RRD => {}
            reg::ISR..=reg::IRR_END | reg::TIMER_CURRENT => {}
            _ => return None,
        }
        Some(Effect::None)
    }

    /// A 32-bit read from the xAPIC's page.
    pub fn mmio_read(&mut self, offset: u64, now: Nanos) -> u32 {
        let index = (offset >> 4) as u8;
        match self.read_reg(index, now) {
            Some(value) if offset < 0x400 => value,
            _ => {
                self.error(esr::ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// A 32-bit write to the xAPIC's page.
    pub fn mmio_write(&mut self, offset: u64, value: u32, now: Nanos) -> Effect {
        let index = (offset >> 4) as u8;
        let effect = if offset < 0x400 {
            self.write_reg(index, value, now)
        } else {
            None
        };
        effect.unwrap_or_else(|| {
            self.error(esr::ILLEGAL_REGISTER);
            Effect::None
        })
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & 0x11ff;
        if self.svr & SVR_ENABLED == 0 {
            // Disabled by software: all entries are masked (SDM vol. 3, 11.4.7.2).
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, entry: usize, value: u32, now: Nanos) {
        let mut value = value & LVT_WRITABLE[entry];
        if self.svr & SVR_ENABLED == 0 {
            value |= LVT_MASKED;
        }
        match entry {
            lvt::TIMER => self.set_timer_lvt(value, now),
            lvt::LINT0 => {
                if value & LVT_LEVEL != 0 {
                    value |= self.lvt[entry] & LVT_REMOTE_IRR;
                }
                self.lvt[entry] = value;
                self.service_lint0_level();
            }
            lvt::THERMAL | lvt::PERF | lvt::LINT1 | lvt::ERROR => self.lvt[entry] = value,
            _ => {}
        }
    }

    /// The message that ICR now describes (SDM vol. 3, 11.6.1).
    pub(super) fn send_ipi(&mut self) -> Effect {
        let low = self.icr as u32;
        let high = (self.icr >> 32) as u32;
        let vector = low.to_le_bytes()[0];
        let mode = Mode::from_bits(low >> 8);
        let logical = low & (1 << 11) != 0;
        let cpu = self.config.id as usize;
        let dest = match low >> 18 & 3 {
            0 if self.is_x2apic() => Destination::from_32_bits(high, logical),
            0 => Destination::from_8_bits(high.to_le_bytes()[3], logical),
            1 => Destination::Cpu(cpu),
            2 => Destination::All,
            _ => Destination::AllBut(cpu),
        };
        match mode {
            Mode::Fixed | Mode::LowestPriority if vector < 16 => {
                self.error(esr::SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            // The PIC's vector can't be asked for by an IPI, and INIT level de-assert only mattered to arbitration.
            Mode::Reserved | Mode::ExtInt | Mode::Smi => return Effect::None,
            Mode::Init if low & (1 << 15) != 0 && low & (1 << 14) == 0 => return Effect::None,
            _ => {}
        }
        Effect::Ipi(Message {
            dest,
            mode,
            vector,
            level: false,
        })
    }

    /// An IPI to this vCPU itself.
    pub(super) fn self_ipi(&mut self, vector: u8) {
        if vector < 16 {
            self.error(esr::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, false);
        }
    }
}
