//! Between a vCPU and the board: notes what the leader gets and does; feeds it to whoever runs the same again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use softmmu::{Bus, GuestRam};
use system::{Events, MsrFault, Platform, event};
use x86::PhysAddr;

use super::log::{Access, Event, Log};

/// The board as one side of the comparison sees it.
pub struct Tap {
    log: Arc<Log>,
    board: Arc<dyn Platform>,
    ram: Arc<GuestRam>,
    events: Vec<Arc<Events>>,
    /// Accesses go to the board and are noted; else they come from the log.
    live: AtomicBool,
    /// The event that is to be fed next.
    cursor: AtomicUsize,
    /// The first event that belongs to a later turn.
    limit: AtomicUsize,
    /// The first access that was not the one in the log.
    wrong: Mutex<Option<String>>,
}

impl Tap {
    /// A tap for the vCPUs with these event words over this RAM; only the leader's is `live`.
    pub fn new(
        log: Arc<Log>,
        board: Arc<dyn Platform>,
        ram: Arc<GuestRam>,
        events: Vec<Arc<Events>>,
        live: bool,
    ) -> Self {
        Self {
            log,
            board,
            ram,
            events,
            live: AtomicBool::new(live),
            cursor: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            wrong: Mutex::new(None),
        }
    }

    pub(super) fn set_live(&self, on: bool) {
        self.live.store(on, Ordering::Relaxed);
    }

    pub(super) fn cursor(&self) -> usize {
        self.cursor.load(Ordering::Relaxed)
    }

    /// Goes back (or forward) to an event; forgets what was wrong.
    pub(super) fn seek(&self, cursor: usize) {
        self.cursor.store(cursor, Ordering::Relaxed);
        *self.wrong.lock() = None;
        for events in &self.events {
            events.lower(event::STOP);
        }
    }

    /// Lets a turn begin whose events end before `limit`: what devices did to RAM meanwhile is done.
    pub(super) fn begin(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.devices();
    }

    /// The next event of the turn.
    pub(super) fn peek(&self) -> Option<Event> {
        let cursor = self.cursor();
        if cursor >= self.limit.load(Ordering::Relaxed) {
            return None;
        }
        self.log.get(cursor)
    }

    /// The event was dealt with.
    pub(super) fn pass(&self) {
        self.cursor.fetch_add(1, Ordering::Relaxed);
        self.devices();
    }

    /// Does what devices did to RAM and to the A20 gate at this point.
    fn devices(&self) {
        loop {
            match self.peek() {
                Some(Event::Dma { at, bytes }) => {
                    // The leader's RAM is as large, and took it.
                    let _ = self.ram.write(at, &bytes);
                }
                Some(Event::A20(on)) => self.ram.set_a20(on),
                _ => return,
            }
            self.cursor.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was wrong, once.
    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.lock().clone()
    }

    /// Notes that the vCPU did what the log does not have next, and has it stop.
    fn mismatch(&self, cpu: usize, did: String) {
        let next = match self.peek() {
            Some(event) => format!("{event:x?}"),
            None => "nothing of the kind".to_owned(),
        };
        self.wrong
            .lock()
            .get_or_insert(format!("vCPU {cpu}: {did}; when first run: {next}"));
        if let Some(events) = self.events.get(cpu) {
            events.raise(event::STOP);
        }
    }

    fn input(&self, cpu: usize, what: Access, live: impl FnOnce() -> Option<u64>) -> Option<u64> {
        if self.live.load(Ordering::Relaxed) {
            let value = live();
            self.log.push(Event::Input { cpu, what, value });
            return value;
        }
        match self.peek() {
            Some(Event::Input {
                cpu: c,
                what: w,
                value,
            }) if (c, w) == (cpu, what) => {
                self.pass();
                value
            }
            _ => {
                self.mismatch(cpu, format!("reads {what:x?}"));
                None
            }
        }
    }

    fn output(&self, cpu: usize, what: Access, value: u64, live: impl FnOnce() -> bool) -> bool {
        let event = |ok| Event::Output {
            cpu,
            what,
            value,
            ok,
        };
        if self.live.load(Ordering::Relaxed) {
            // Before the board does it, which may write to RAM.
            let number = self.log.push(event(true));
            let ok = live();
            if !ok {
                self.log.refused(number);
            }
            if self.log.is_full()
                && let Some(events) = self.events.get(cpu)
            {
                // Has the engine come back before its turn is over.
                events.raise(event::RECHECK);
            }
            return ok;
        }
        match self.peek() {
            Some(Event::Output {
                cpu: c,
                what: w,
                value: v,
                ok,
            }) if (c, w, v) == (cpu, what, value) => {
                self.pass();
                ok
            }
            _ => {
                self.mismatch(cpu, format!("writes {value:#x} to {what:x?}"));
                true
            }
        }
    }
}

fn ones(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

impl Bus for Tap {
    fn mmio_read(&self, cpu: usize, addr: PhysAddr, size: u8) -> u64 {
        self.input(cpu, Access::Mmio(addr.0, size), || {
            Some(self.board.mmio_read(cpu, addr, size))
        })
        .unwrap_or(ones(size))
    }

    fn mmio_write(&self, cpu: usize, addr: PhysAddr, size: u8, value: u64) {
        self.output(cpu, Access::Mmio(addr.0, size), value & ones(size), || {
            self.board.mmio_write(cpu, addr, size, value);
            true
        });
    }

    fn pio_read(&self, cpu: usize, port: u16, size: u8) -> u32 {
        self.input(cpu, Access::Port(port, size), || {
            Some(u64::from(self.board.pio_read(cpu, port, size)))
        })
        .unwrap_or(ones(size.min(4))) as u32
    }

    fn pio_write(&self, cpu: usize, port: u16, size: u8, value: u32) {
        let low = u64::from(value) & ones(size.min(4));
        self.output(cpu, Access::Port(port, size), low, || {
            self.board.pio_write(cpu, port, size, value);
            true
        });
    }
}

impl Platform for Tap {
    fn tsc(&self) -> u64 {
        // Where instructions are counted, vCPUs know it themselves.
        self.board.tsc()
    }

    fn tsc_hz(&self) -> u64 {
        self.board.tsc_hz()
    }

    fn crystal_hz(&self) -> u64 {
        self.board.crystal_hz()
    }

    fn ack_interrupt(&self, cpu: usize) -> Option<u8> {
        self.input(cpu, Access::Acknowledge, || {
            self.board.ack_interrupt(cpu).map(u64::from)
        })
        .map(|vector| vector as u8)
    }

    fn cr8(&self, cpu: usize) -> u8 {
        self.input(cpu, Access::Cr8, || Some(u64::from(self.board.cr8(cpu))))
            .unwrap_or_default() as u8
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        self.output(cpu, Access::Cr8, u64::from(value), || {
            self.board.set_cr8(cpu, value);
            true
        });
    }

    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, MsrFault> {
        self.input(cpu, Access::ApicMsr(msr), || {
            self.board.apic_msr_read(cpu, msr).ok()
        })
        .ok_or(MsrFault)
    }

    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), MsrFault> {
        let ok = self.output(cpu, Access::ApicMsr(msr), value, || {
            self.board.apic_msr_write(cpu, msr, value).is_ok()
        });
        if ok { Ok(()) } else { Err(MsrFault) }
    }

    fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.input(cpu, Access::TscDeadline, || {
            Some(self.board.tsc_deadline(cpu))
        })
        .unwrap_or_default()
    }

    fn set_tsc_deadline(&self, cpu: usize, raw_tsc: u64) {
        self.output(cpu, Access::TscDeadline, raw_tsc, || {
            self.board.set_tsc_deadline(cpu, raw_tsc);
            true
        });
    }

    fn apic_init(&self, cpu: usize) {
        self.output(cpu, Access::ApicInit, 0, || {
            self.board.apic_init(cpu);
            true
        });
    }
}
