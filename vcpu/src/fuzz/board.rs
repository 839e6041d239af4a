//! A board whose ports raise what boards raise: interrupts, NMI, INIT, start-up IPIs, A20, page attributes, DMA.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use softmmu::{Bus, GuestRam, PageAttr};
use system::{Events, MsrFault, Platform, event};
use x86::PhysAddr;

/// What `OUT` to a port does, by the port's low four bits. Other ports do nothing.
pub mod port {
    /// An interrupt, the value is its vector.
    pub const INTERRUPT: u16 = 1;
    /// A non-maskable interrupt.
    pub const NMI: u16 = 2;
    /// INIT to the vCPU itself.
    pub const INIT: u16 = 3;
    /// A20 by bit 0.
    pub const A20: u16 = 4;
    /// A page (value's upper bits) becomes RAM, ROM or a hole (bits 0-1).
    pub const ATTR: u16 = 5;
    /// A device writes 16 bytes to where the value says.
    pub const DMA: u16 = 6;
    /// An interrupt to the other vCPU.
    pub const IPI: u16 = 7;
    /// INIT and a start-up IPI to the other vCPU.
    pub const STARTUP: u16 = 8;
}

#[derive(Default)]
struct Local {
    interrupts: Mutex<VecDeque<u8>>,
    cr8: AtomicU8,
}

/// The board of one fuzz input.
pub struct Board {
    local: [Local; 2],
    events: [Arc<Events>; 2],
    ram: Arc<GuestRam>,
    /// Device memory: what it holds, over and over.
    pattern: [u8; 64],
    /// Ports raise events. They have no exact moment: blocks look for them now and then.
    loose: bool,
}

/// Interrupts that may wait at once.
const QUEUE: usize = 8;

impl Board {
    pub fn new(
        events: [Arc<Events>; 2],
        ram: Arc<GuestRam>,
        pattern: [u8; 64],
        loose: bool,
    ) -> Self {
        Self {
            local: Default::default(),
            events,
            ram,
            pattern,
            loose,
        }
    }

    fn interrupt(&self, cpu: usize, vector: u8) {
        let mut queue = self.local[cpu].interrupts.lock();
        if queue.len() < QUEUE {
            queue.push_back(vector);
        }
        self.events[cpu].raise(event::INTR);
    }

    /// What waits for a vCPU when it begins: interrupts, an NMI.
    pub fn begin(&self, cpu: usize, interrupts: &[u8], nmi: bool, cr8: u8) {
        self.local[cpu].interrupts.lock().clear();
        self.local[cpu].cr8.store(cr8 & 15, Ordering::Relaxed);
        self.events[cpu].lower(!(event::CODE | event::STOP));
        for vector in interrupts {
            self.interrupt(cpu, *vector);
        }
        if nmi {
            self.events[cpu].raise(event::NMI);
        }
    }
}

impl Bus for Board {
    fn mmio_read(&self, _cpu: usize, addr: PhysAddr, size: u8) -> u64 {
        (0..u64::from(size.clamp(1, 8))).fold(0, |value, n| {
            let byte = self.pattern[((addr.0.wrapping_add(n)) & 63) as usize];
            value | u64::from(byte) << (8 * n)
        })
    }

    fn mmio_write(&self, cpu: usize, addr: PhysAddr, _size: u8, value: u64) {
        if self.loose && addr.0 & 0xff == 0x10 {
            self.interrupt(cpu, value as u8);
        }
    }

    fn pio_read(&self, cpu: usize, port: u16, size: u8) -> u32 {
        let value = self.mmio_read(cpu, PhysAddr(u64::from(port)), 4) as u32;
        value & u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
    }

    fn pio_write(&self, cpu: usize, port: u16, _size: u8, value: u32) {
        if !self.loose {
            return;
        }
        let page = PhysAddr(u64::from(value & 0x1f_f000));
        match port & 15 {
            port::INTERRUPT => self.interrupt(cpu, value as u8),
            port::NMI => self.events[cpu].raise(event::NMI),
            port::INIT if value & 7 == 7 => self.events[cpu].raise(event::INIT),
            port::A20 => self.ram.set_a20(value & 1 != 0),
            port::ATTR if value & 0x30 == 0x30 => {
                let attr = [PageAttr::Ram, PageAttr::Rom, PageAttr::Hole, PageAttr::Ram]
                    [(value & 3) as usize];
                self.ram.set_attr(page, 0x1000, attr);
            }
            port::DMA => {
                // A place that isn't RAM refuses it, as it may.
                let _ = self
                    .ram
                    .write(PhysAddr(u64::from(value & 0x3f_ffff)), &self.pattern[..16]);
            }
            port::IPI => self.interrupt(cpu ^ 1, value as u8),
            port::STARTUP => {
                self.events[cpu ^ 1].raise(event::INIT);
                self.events[cpu ^ 1].raise_sipi(0x20);
            }
            _ => {}
        }
    }
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

    fn ack_interrupt(&self, cpu: usize) -> Option<u8> {
        let mut queue = self.local[cpu].interrupts.lock();
        let masked = queue.front().is_some_and(|v| v >> 4 < self.cr8(cpu));
        let vector = if masked { None } else { queue.pop_front() };
        if queue.is_empty() || masked {
            self.events[cpu].lower(event::INTR);
        }
        vector
    }

    fn cr8(&self, cpu: usize) -> u8 {
        self.local[cpu].cr8.load(Ordering::Relaxed)
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        let queue = self.local[cpu].interrupts.lock();
        self.local[cpu].cr8.store(value, Ordering::Relaxed);
        if queue.front().is_some_and(|v| v >> 4 >= value) {
            self.events[cpu].raise(event::INTR);
        }
    }

    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, MsrFault> {
        match msr {
            x86::msr::APIC_BASE => Ok(0xfee0_0800 | if cpu == 0 { 0x100 } else { 0 }),
            0x802..=0x83f => Ok(self.mmio_read(cpu, PhysAddr(u64::from(msr)), 4)),
            _ => Err(MsrFault),
        }
    }

    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), MsrFault> {
        match msr {
            // Self-IPI.
            0x83f if value <= 0xff => self.interrupt(cpu, value as u8),
            _ => return Err(MsrFault),
        }
        Ok(())
    }

    fn tsc_deadline(&self, _cpu: usize) -> u64 {
        0
    }

    fn set_tsc_deadline(&self, _cpu: usize, _raw_tsc: u64) {}

    fn apic_init(&self, cpu: usize) {
        self.local[cpu].interrupts.lock().clear();
        self.local[cpu].cr8.store(0, Ordering::Relaxed);
        self.events[cpu].lower(event::INTR);
    }
}
