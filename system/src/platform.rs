//! What the CPU asks of the board around it: interrupts, the local APIC's registers, time.

use softmmu::Bus;

use crate::ticks::Ticks;

/// An MSR access that the local APIC refuses: the CPU raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault;

/// The board as a vCPU sees it. `machine` implements it; `exec` has one without devices.
///
/// All methods may be called from any vCPU's thread at any time and never block for long.
pub trait Platform: Bus {
    /// The raw time-stamp counter: a monotonic count at [`Platform::tsc_hz`], the same for all vCPUs.
    /// The vCPU adds its own offset (IA32_TSC and IA32_TSC_ADJUST writes).
    fn tsc(&self) -> u64;
    /// The numbers that [`Platform::tsc`] is computed from, where translated code may do that by itself: it is their time.
    fn ticks(&self) -> Option<&Ticks> {
        None
    }
    /// The rate of [`Platform::tsc`] in Hz (CPUID 15h, 16h).
    fn tsc_hz(&self) -> u64;
    /// The core crystal clock in Hz, which is also the APIC timer's input clock (CPUID 15h ECX).
    fn crystal_hz(&self) -> u64;

    /// Takes the highest-priority interrupt that vCPU `cpu` may accept now (local APIC first, then ExtINT from the
    /// PIC) and marks it in service; `None` when it has gone meanwhile. The caller has checked IF and shadows.
    fn ack_interrupt(&self, cpu: usize) -> Option<u8>;
    /// CR8: bits 7:4 of the local APIC's TPR.
    fn cr8(&self, cpu: usize) -> u8;
    /// Sets CR8 (0..=15).
    fn set_cr8(&self, cpu: usize, value: u8);
    /// Reads IA32_APIC_BASE (1Bh) or an x2APIC register (800h-8FFh).
    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, MsrFault>;
    /// Writes IA32_APIC_BASE (1Bh) or an x2APIC register (800h-8FFh).
    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), MsrFault>;
    /// IA32_TSC_DEADLINE: the armed deadline as a raw TSC value ([`Platform::tsc`]); 0 is disarmed.
    fn tsc_deadline(&self, cpu: usize) -> u64;
    /// Arms (or with 0 disarms) the TSC deadline, given as a raw TSC value.
    fn set_tsc_deadline(&self, cpu: usize, raw_tsc: u64);
    /// The vCPU was reset by INIT: the local APIC returns to its INIT state (SDM vol. 3, 12.4.7.3).
    fn apic_init(&self, cpu: usize);
}
