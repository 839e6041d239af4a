//! All local APICs: who receives a message, and the vCPUs' event words.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use system::{Events, MsrFault, event};

use super::lapic::{Acknowledge, Effect, Lapic, LapicConfig};
use super::message::{Delivery, Destination, Message, Mode};
use crate::clock::{Clock, Nanos};
use crate::timers::Timers;

/// No page: an APIC that can't be reached through memory.
const NO_PAGE: u64 = u64::MAX;

#[derive(Debug)]
struct Slot {
    lapic: Mutex<Lapic>,
    events: Arc<Events>,
    /// The page of the registers, to find it without the lock.
    page: AtomicU64,
}

/// The local APICs of all vCPUs.
#[derive(Debug)]
pub struct Apics {
    slots: Vec<Slot>,
    clock: Arc<Clock>,
    timers: Arc<Timers>,
    /// vCPU 0's slot in `timers`; the others follow.
    first_timer: usize,
}

impl Apics {
    /// A local APIC behind each of `events`; `config(id)` describes it. Their deadlines are in `timers` from slot
    /// `first_timer` on.
    pub fn new(
        events: &[Arc<Events>],
        config: impl Fn(u32) -> LapicConfig,
        clock: Arc<Clock>,
        timers: Arc<Timers>,
        first_timer: usize,
    ) -> Self {
        let slots = (0u32..)
            .zip(events)
            .map(|(id, events)| {
                let lapic = Lapic::new(config(id));
                let page = AtomicU64::new(lapic.mmio_page().unwrap_or(NO_PAGE));
                Slot {
                    lapic: Mutex::new(lapic),
                    events: Arc::clone(events),
                    page,
                }
            })
            .collect();
        Self {
            slots,
            clock,
            timers,
            first_timer,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The page of vCPU `cpu`'s registers, if they can be reached through memory.
    pub fn page(&self, cpu: usize) -> Option<u64> {
        let page = self.slots.get(cpu)?.page.load(Ordering::Relaxed);
        (page != NO_PAGE).then_some(page)
    }

    /// Does `f` with the APIC locked, then brings INTR, the register page and the deadline up to date.
    fn with<R>(&self, cpu: usize, f: impl FnOnce(&mut Lapic) -> R) -> Option<R> {
        let slot = self.slots.get(cpu)?;
        let mut lapic = slot.lapic.lock();
        let result = f(&mut lapic);
        self.sync(cpu, slot, &lapic);
        Some(result)
    }

    fn sync(&self, cpu: usize, slot: &Slot, lapic: &MutexGuard<'_, Lapic>) {
        slot.page
            .store(lapic.mmio_page().unwrap_or(NO_PAGE), Ordering::Relaxed);
        self.timers.set(self.first_timer + cpu, lapic.deadline());
        let intr = lapic.intr();
        // The level changes under the APIC's lock only, so that the word can't be left behind.
        if intr != (slot.events.pending() & event::INTR != 0) {
            if intr {
                slot.events.raise(event::INTR);
            } else {
                slot.events.lower(event::INTR);
            }
        }
    }

    /// Power-on of all.
    pub fn reset(&self) {
        for cpu in 0..self.slots.len() {
            self.with(cpu, Lapic::reset);
            self.slots[cpu]
                .events
                .lower(event::NMI | event::INIT | event::SIPI);
        }
    }

    /// What a BIOS leaves: virtual wire mode.
    pub fn set_virtual_wire(&self) {
        for cpu in 0..self.slots.len() {
            self.with(cpu, Lapic::set_virtual_wire);
        }
    }

    /// INIT's effect on `cpu`'s APIC.
    pub fn init(&self, cpu: usize) {
        self.with(cpu, Lapic::init);
    }

    /// The PIC's INT output changed.
    pub fn set_pic_int(&self, level: bool) {
        self.with(0, |lapic| lapic.set_lint0(level));
    }

    /// The board's NMI button: LINT1 of all.
    pub fn nmi(&self) {
        for (cpu, slot) in self.slots.iter().enumerate() {
            if self.with(cpu, Lapic::pulse_lint1) == Some(true) {
                slot.events.raise(event::NMI);
            }
        }
    }

    /// Delivers a message. One APIC is locked at a time.
    pub fn deliver(&self, message: &Message) -> Delivery {
        if message.mode == Mode::LowestPriority {
            return match self.least_busy(&message.dest) {
                Some(cpu) => self.accept(cpu, message),
                None => Delivery::Masked,
            };
        }
        match message.dest {
            Destination::Physical(id) => self.accept(id as usize, message),
            Destination::Cpu(cpu) => self.accept(cpu, message),
            dest => {
                let mut best = Delivery::Masked;
                for cpu in 0..self.slots.len() {
                    if self.slots[cpu].lapic.lock().matches(&dest) {
                        best = best.max(self.accept(cpu, message));
                    }
                }
                best
            }
        }
    }

    /// Of those meant, the one with the lowest priority; the first of equals.
    fn least_busy(&self, dest: &Destination) -> Option<usize> {
        let priority = |(cpu, slot): (usize, &Slot)| {
            let lapic = slot.lapic.lock();
            lapic
                .matches(dest)
                .then(|| (lapic.arbitration_priority(), cpu))
        };
        let (priority, cpu) = self.slots.iter().enumerate().filter_map(priority).min()?;
        (priority < 256).then_some(cpu)
    }

    fn accept(&self, cpu: usize, message: &Message) -> Delivery {
        let Some(slot) = self.slots.get(cpu) else {
            return Delivery::Masked;
        };
        let locked =
            |f: &dyn Fn(&mut Lapic) -> Delivery| self.with(cpu, f).unwrap_or(Delivery::Masked);
        match message.mode {
            Mode::Fixed | Mode::LowestPriority => {
                locked(&|lapic| lapic.accept(message.vector, message.level))
            }
            Mode::ExtInt => locked(&Lapic::accept_extint),
            Mode::Smi | Mode::Reserved => Delivery::Masked,
            // A disabled APIC is not on the bus.
            _ if !slot.lapic.lock().is_enabled() => Delivery::Masked,
            Mode::Nmi => {
                slot.events.raise(event::NMI);
                Delivery::Taken
            }
            Mode::Init => {
                slot.events.raise(event::INIT);
                Delivery::Taken
            }
            Mode::StartUp => {
                slot.events.raise_sipi(message.vector);
                Delivery::Taken
            }
        }
    }

    /// Does what an access caused. Returns the vector whose EOI the I/O APIC must hear of.
    fn perform(&self, effect: Effect) -> Option<u8> {
        match effect {
            Effect::None => None,
            Effect::Ipi(message) => {
                self.deliver(&message);
                None
            }
            Effect::Eoi(vector) => Some(vector),
        }
    }

    /// A 32-bit read from `cpu`'s register page.
    pub fn mmio_read(&self, cpu: usize, offset: u64) -> u32 {
        let now = self.clock.now();
        self.with(cpu, |lapic| lapic.mmio_read(offset, now))
            .unwrap_or(u32::MAX)
    }

    /// A 32-bit write to `cpu`'s register page. A vector returned is to be told to the I/O APIC.
    #[must_use]
    pub fn mmio_write(&self, cpu: usize, offset: u64, value: u32) -> Option<u8> {
        let now = self.clock.now();
        let effect = self.with(cpu, |lapic| lapic.mmio_write(offset, value, now))?;
        self.perform(effect)
    }

    /// Reads IA32_APIC_BASE or an x2APIC register.
    pub fn read_msr(&self, cpu: usize, msr: u32) -> Result<u64, MsrFault> {
        let now = self.clock.now();
        self.with(cpu, |lapic| lapic.read_msr(msr, now))
            .unwrap_or(Err(MsrFault))
    }

    /// Writes IA32_APIC_BASE or an x2APIC register. A vector returned is to be told to the I/O APIC.
    pub fn write_msr(&self, cpu: usize, msr: u32, value: u64) -> Result<Option<u8>, MsrFault> {
        let now = self.clock.now();
        let effect = self
            .with(cpu, |lapic| lapic.write_msr(msr, value, now))
            .unwrap_or(Err(MsrFault))?;
        Ok(self.perform(effect))
    }

    /// Takes the interrupt with the highest priority.
    pub fn acknowledge(&self, cpu: usize) -> Acknowledge {
        self.with(cpu, Lapic::acknowledge)
            .unwrap_or(Acknowledge::Nothing)
    }

    /// CR8.
    pub fn cr8(&self, cpu: usize) -> u8 {
        self.slots
            .get(cpu)
            .map_or(0, |slot| slot.lapic.lock().cr8())
    }

    /// Sets CR8.
    pub fn set_cr8(&self, cpu: usize, value: u8) {
        self.with(cpu, |lapic| lapic.set_cr8(value & 15));
    }

    /// IA32_TSC_DEADLINE in ticks of the raw TSC.
    pub fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.slots
            .get(cpu)
            .map_or(0, |slot| slot.lapic.lock().tsc_deadline())
    }

    /// Arms the TSC deadline; one that has passed fires at once.
    pub fn set_tsc_deadline(&self, cpu: usize, tsc: u64) {
        let at = self.clock.time_of_tsc(tsc);
        self.with(cpu, |lapic| {
            lapic.set_tsc_deadline(tsc, at);
            lapic.fire(self.clock.now());
        });
    }

    /// Lets `cpu`'s timer expire if it is time.
    pub fn fire(&self, cpu: usize, now: Nanos) {
        self.with(cpu, |lapic| lapic.fire(now));
    }
}
