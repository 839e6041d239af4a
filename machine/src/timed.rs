//! How often vCPUs come to devices, and how long they stay: for `--stats`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use softmmu::Bus;
use system::ticks::Ticks;
use system::{MsrFault, Platform};
use x86::PhysAddr;

/// A board that looks at the clock before and after each access.
pub struct Timed {
    board: Arc<dyn Platform>,
    spent: Box<[Spent]>,
}

/// What one vCPU has spent.
#[derive(Debug, Default)]
struct Spent {
    accesses: AtomicU64,
    ns: AtomicU64,
}

impl Timed {
    /// Watches the accesses of so many vCPUs.
    pub fn new(board: Arc<dyn Platform>, cpus: usize) -> Self {
        let spent = (0..cpus).map(|_| Spent::default()).collect();
        Self { board, spent }
    }

    /// Accesses of a vCPU so far, and the time they took.
    pub fn spent(&self, cpu: usize) -> (u64, Duration) {
        self.spent.get(cpu).map_or_else(Default::default, |spent| {
            let ns = spent.ns.load(Ordering::Relaxed);
            let accesses = spent.accesses.load(Ordering::Relaxed);
            (accesses, Duration::from_nanos(ns))
        })
    }

    fn timed<R>(&self, cpu: usize, access: impl FnOnce(&dyn Platform) -> R) -> R {
        let start = Instant::now();
        let result = access(&*self.board);
        if let Some(spent) = self.spent.get(cpu) {
            let ns = start.elapsed().as_nanos() as u64;
            spent.ns.fetch_add(ns, Ordering::Relaxed);
            spent.accesses.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl Bus for Timed {
    fn mmio_read(&self, cpu: usize, addr: PhysAddr, size: u8) -> u64 {
        self.timed(cpu, |board| board.mmio_read(cpu, addr, size))
    }

    fn mmio_write(&self, cpu: usize, addr: PhysAddr, size: u8, value: u64) {
        self.timed(cpu, |board| board.mmio_write(cpu, addr, size, value));
    }

    fn pio_read(&self, cpu: usize, port: u16, size: u8) -> u32 {
        self.timed(cpu, |board| board.pio_read(cpu, port, size))
    }

    fn pio_write(&self, cpu: usize, port: u16, size: u8, value: u32) {
        self.timed(cpu, |board| board.pio_write(cpu, port, size, value));
    }
}

impl Platform for Timed {
    fn tsc(&self) -> u64 {
        self.board.tsc()
    }

    fn ticks(&self) -> Option<&Ticks> {
        self.board.ticks()
    }

    fn tsc_hz(&self) -> u64 {
        self.board.tsc_hz()
    }

    fn crystal_hz(&self) -> u64 {
        self.board.crystal_hz()
    }

    fn ack_interrupt(&self, cpu: usize) -> Option<u8> {
        self.timed(cpu, |board| board.ack_interrupt(cpu))
    }

    fn cr8(&self, cpu: usize) -> u8 {
        self.timed(cpu, |board| board.cr8(cpu))
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        self.timed(cpu, |board| board.set_cr8(cpu, value));
    }

    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, MsrFault> {
        self.timed(cpu, |board| board.apic_msr_read(cpu, msr))
    }

    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), MsrFault> {
        self.timed(cpu, |board| board.apic_msr_write(cpu, msr, value))
    }

    fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.timed(cpu, |board| board.tsc_deadline(cpu))
    }

    fn set_tsc_deadline(&self, cpu: usize, raw_tsc: u64) {
        self.timed(cpu, |board| board.set_tsc_deadline(cpu, raw_tsc));
    }

    fn apic_init(&self, cpu: usize) {
        self.timed(cpu, |board| board.apic_init(cpu));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use softmmu::Bus;
    use system::Platform;
    use x86::PhysAddr;

    use super::Timed;
    use crate::board::tests::Machine;

    #[test]
    fn accesses_pass_and_are_counted_by_vcpu() {
        let board = Arc::new(Machine::new().board);
        let timed = Timed::new(Arc::clone(&board) as Arc<dyn Platform>, 2);
        // The PIC's mask, the local APIC's version, time.
        timed.pio_write(1, 0x21, 1, 0x5a);
        assert_eq!(board.pio_read(1, 0x21, 1), 0x5a);
        let version = PhysAddr(0xfee0_0030);
        assert_eq!(
            timed.mmio_read(1, version, 4),
            board.mmio_read(1, version, 4)
        );
        assert_eq!(timed.tsc_hz(), board.tsc_hz());
        assert_eq!((timed.spent(0).0, timed.spent(1).0), (0, 2));
        assert!(!timed.spent(1).1.is_zero());
        assert_eq!(timed.spent(7), Default::default());
    }
}
