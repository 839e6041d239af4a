//! The board of `exec`: no devices, no interrupts. What is read is all ones, what is written vanishes.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use softmmu::Bus;
use system::{MsrFault, Platform};
use x86::msr;

/// IA32_APIC_BASE after RESET: the bootstrap processor, enabled, at FEE00000h.
pub const APIC_BASE_RESET: u64 = 0xfee0_0900;

/// The bits of IA32_APIC_BASE: BSP, EXTD, EN and the address.
pub fn apic_base_mask(maxphyaddr: u8) -> u64 {
    (((1 << maxphyaddr) - 1) & !0xfff) | 0xd00
}

/// A board with nothing on it.
#[derive(Debug)]
pub struct Board {
    cr8: AtomicU8,
    apic_base: AtomicU64,
    maxphyaddr: u8,
}

impl Board {
    pub fn new(maxphyaddr: u8) -> Self {
        Self {
            cr8: AtomicU8::new(0),
            apic_base: AtomicU64::new(APIC_BASE_RESET),
            maxphyaddr,
        }
    }

    pub fn cr8(&self) -> u8 {
        self.cr8.load(Ordering::Relaxed)
    }

    pub fn apic_base(&self) -> u64 {
        self.apic_base.load(Ordering::Relaxed)
    }

    /// Both registers that live here.
    pub fn set(&self, cr8: u8, apic_base: u64) {
        self.cr8.store(cr8, Ordering::Relaxed);
        self.apic_base.store(apic_base, Ordering::Relaxed);
    }
}

fn ones(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

impl Bus for Board {
    fn mmio_read(&self, _cpu: usize, _addr: x86::PhysAddr, size: u8) -> u64 {
        ones(size)
    }

    fn mmio_write(&self, _cpu: usize, _addr: x86::PhysAddr, _size: u8, _value: u64) {}

    fn pio_read(&self, _cpu: usize, _port: u16, size: u8) -> u32 {
        ones(size.min(4)) as u32
    }

    fn pio_write(&self, _cpu: usize, _port: u16, _size: u8, _value: u32) {}
}

impl Platform for Board {
    fn tsc(&self) -> u64 {
        0
    }

    fn tsc_hz(&self) -> u64 {
        1_000_000_000
    }

    fn crystal_hz(&self) -> u64 {
        25_000_000
    }

    fn ack_interrupt(&self, _cpu: usize) -> Option<u8> {
        None
    }

    fn cr8(&self, _cpu: usize) -> u8 {
        self.cr8()
    }

    fn set_cr8(&self, _cpu: usize, value: u8) {
        self.cr8.store(value, Ordering::Relaxed);
    }

    fn apic_msr_read(&self, _cpu: usize, number: u32) -> Result<u64, MsrFault> {
        if number == msr::APIC_BASE {
            Ok(self.apic_base())
        } else {
            Err(MsrFault)
        }
    }

    fn apic_msr_write(&self, _cpu: usize, number: u32, value: u64) -> Result<(), MsrFault> {
        if number != msr::APIC_BASE || value & !apic_base_mask(self.maxphyaddr) != 0 {
            return Err(MsrFault);
        }
        self.apic_base.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn tsc_deadline(&self, _cpu: usize) -> u64 {
        0
    }

    fn set_tsc_deadline(&self, _cpu: usize, _raw_tsc: u64) {}

    fn apic_init(&self, _cpu: usize) {}
}
