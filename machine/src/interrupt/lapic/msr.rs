//! The local APIC's MSRs: IA32_APIC_BASE and the x2APIC's registers (SDM vol. 3, 11.12).

use system::MsrFault;

use super::regs::{LVT_WRITABLE, reg};
use super::{BASE_BSP, BASE_EN, BASE_EXTD, Effect, LVT_REMOTE_IRR, Lapic, lvt};
use crate::clock::Nanos;

/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// The first of the x2APIC's MSRs.
pub const X2APIC_FIRST: u32 = 0x800;
/// The last of them.
pub const X2APIC_LAST: u32 = 0x8ff;

/// The bits of ICR that exist in x2APIC mode. Delivery status (12) is gone, but writing it hurts nobody.
const X2APIC_ICR_BITS: u64 = 0xffff_ffff_000c_dfff;

impl Lapic {
    /// Reads IA32_APIC_BASE or an x2APIC register.
    pub fn read_msr(&self, msr: u32, now: Nanos) -> Result<u64, MsrFault> {
        match msr {
            APIC_BASE => Ok(self.base),
            X2APIC_FIRST..=X2APIC_LAST if self.is_x2apic() => match (msr - X2APIC_FIRST) as u8 {
                reg::ICR => Ok(self.icr),
                // Write-only, or of the xAPIC alone.
                reg::EOI | reg::SELF_IPI | reg::ICR_HIGH | reg::DFR | reg::APR | reg::RRD => {
                    Err(MsrFault)
                }
                index => self.read_reg(index, now).map(u64::from).ok_or(MsrFault),
            },
            _ => Err(MsrFault),
        }
    }

    /// Writes IA32_APIC_BASE or an x2APIC register.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: Nanos) -> Result<Effect, MsrFault> {
        match msr {
            APIC_BASE => self.write_base(value).map(|()| Effect::None),
            X2APIC_FIRST..=X2APIC_LAST if self.is_x2apic() => {
                self.write_x2apic((msr - X2APIC_FIRST) as u8, value, now)
            }
            _ => Err(MsrFault),
        }
    }

    fn write_base(&mut self, value: u64) -> Result<(), MsrFault> {
        let address = ((1u64 << self.config.phys_bits.min(52)) - 1) & !0xfff;
        if value & !(address | BASE_BSP | BASE_EXTD | BASE_EN) != 0 {
            return Err(MsrFault);
        }
        let mode = |base| (base & BASE_EN != 0, base & BASE_EXTD != 0);
        match (mode(self.base), mode(value)) {
            // x2APIC without being enabled doesn't exist.
            (_, (false, true)) => return Err(MsrFault),
            // From x2APIC only to disabled, and to x2APIC only from xAPIC (SDM vol. 3, figure 11-27).
            ((true, true), (true, false)) | ((false, false), (true, true)) => return Err(MsrFault),
            ((true, _), (false, false)) => {
                self.base = value;
                self.init();
            }
            ((true, false), (true, true)) => {
                self.base = value;
                self.ldr = self.x2apic_ldr();
                self.icr &= 0xffff_ffff;
            }
            _ => self.base = value,
        }
        Ok(())
    }

    fn write_x2apic(&mut self, index: u8, value: u64, now: Nanos) -> Result<Effect, MsrFault> {
        if index == reg::ICR {
            if value & !X2APIC_ICR_BITS != 0 {
                return Err(MsrFault);
            }
            self.icr = value & !(1 << 12);
            return Ok(self.send_ipi());
        }
        let value = u32::try_from(value).map_err(|_| MsrFault)?;
        let allowed = match index {
            reg::TPR => 0xff,
            reg::EOI | reg::ESR => 0,
            reg::SVR => 0x11ff,
            reg::SELF_IPI => 0xff,
            reg::TIMER_INITIAL => u32::MAX,
            reg::TIMER_DIVIDE => 0xb,
            reg::LVT_TIMER..=reg::LVT_ERROR => {
                let entry = usize::from(index - reg::LVT_TIMER);
                // Status bits read back may be written back.
                let status = if entry == lvt::LINT0 || entry == lvt::LINT1 {
                    LVT_REMOTE_IRR
                } else {
                    0
                };
                LVT_WRITABLE[entry] | 1 << 12 | status
            }
            _ => return Err(MsrFault),
        };
        if value & !allowed != 0 {
            return Err(MsrFault);
        }
        if index == reg::SELF_IPI {
            self.self_ipi(value.to_le_bytes()[0]);
            return Ok(Effect::None);
        }
        self.write_reg(index, value, now).ok_or(MsrFault)
    }
}
