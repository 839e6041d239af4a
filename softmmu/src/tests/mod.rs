//! Tests of the crate's parts together.

mod access;
mod coherence;
mod flushes;
mod naive;
mod rights;
mod threads;

use std::sync::Arc;

use parking_lot::Mutex;
use x86::{LinAddr, PhysAddr, cr0, cr4, efer};

use crate::{Bus, GuestRam, Mmu, PagingState};

/// A small seeded generator (splitmix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

thread_local! {
    static OTHER_CPU: std::cell::RefCell<Option<Box<dyn FnOnce()>>> = const { std::cell::RefCell::new(None) };
}

/// What another vCPU does the next time this thread comes to an [`interleave`].
pub(crate) fn at_next_interleave(f: impl FnOnce() + 'static) {
    OTHER_CPU.with_borrow_mut(|other| *other = Some(Box::new(f)));
}

/// Stands where an access of another vCPU makes a difference; does what a test has asked for, once.
pub(crate) fn interleave() {
    let other = OTHER_CPU.with_borrow_mut(Option::take);
    if let Some(other) = other {
        other();
    }
}

/// Device memory that remembers what was asked: (write, address, size, value). Reads give the address's bytes.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<(bool, u64, u8, u64)>>);

impl Recorder {
    pub(crate) fn take(&self) -> Vec<(bool, u64, u8, u64)> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Bus for Recorder {
    fn mmio_read(&self, _cpu: usize, addr: PhysAddr, size: u8) -> u64 {
        let mut bytes = [0; 8];
        for (i, byte) in bytes[..usize::from(size)].iter_mut().enumerate() {
            *byte = (addr.0 as u8).wrapping_add(i as u8);
        }
        let value = u64::from_le_bytes(bytes);
        self.0.lock().push((false, addr.0, size, value));
        value
    }

    fn mmio_write(&self, _cpu: usize, addr: PhysAddr, size: u8, value: u64) {
        self.0.lock().push((true, addr.0, size, value));
    }

    fn pio_read(&self, _cpu: usize, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }

    fn pio_write(&self, _cpu: usize, _port: u16, _size: u8, _value: u32) {}
}

pub(crate) const P: u64 = 1;
pub(crate) const W: u64 = 2;
pub(crate) const U: u64 = 4;
pub(crate) const A: u64 = 0x20;
pub(crate) const D: u64 = 0x40;
pub(crate) const PS: u64 = 0x80;
pub(crate) const G: u64 = 0x100;
pub(crate) const NX: u64 = 1 << 63;

/// RAM, a recording bus and one vCPU's MMU.
pub(crate) struct Bench {
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) bus: Arc<Recorder>,
    pub(crate) mmu: Mmu,
    next_table: u64,
}

impl Bench {
    /// 16 MiB of RAM, paging off; tables are made from 8 MiB on.
    pub(crate) fn new() -> Self {
        let ram = Arc::new(GuestRam::new(16 << 20).expect("RAM"));
        let bus = Arc::new(Recorder::default());
        let mmu = Mmu::new(0, Arc::clone(&ram), Arc::clone(&bus) as Arc<dyn Bus>, 40);
        Self {
            ram,
            bus,
            mmu,
            next_table: 8 << 20,
        }
    }

    /// 4-level paging with an empty root.
    pub(crate) fn long_mode() -> Self {
        let mut bench = Self::new();
        let root = bench.new_table();
        bench.mmu.restore(long_state(root));
        bench
    }

    pub(crate) fn new_table(&mut self) -> u64 {
        let table = self.next_table;
        self.next_table += 4096;
        table
    }

    pub(crate) fn read(&self, addr: u64) -> u64 {
        self.ram.read_u64(PhysAddr(addr)).expect("RAM")
    }

    pub(crate) fn write(&self, addr: u64, value: u64) {
        self.ram.write_u64(PhysAddr(addr), value).expect("RAM");
    }

    /// Where the entry of `lin` on `level` (1 = page table) of the 4-level tree at `root` stands; tables on the way
    /// are made, with all rights.
    pub(crate) fn place(&mut self, root: u64, lin: u64, level: u32) -> u64 {
        let mut table = root;
        let mut at = 4;
        loop {
            let place = table + (lin >> (12 + 9 * (at - 1)) & 511) * 8;
            if at == level {
                return place;
            }
            let entry = self.read(place);
            table = if entry & P == 0 {
                let fresh = self.new_table();
                self.write(place, fresh | P | W | U);
                fresh
            } else {
                entry & 0x000f_ffff_ffff_f000
            };
            at -= 1;
        }
    }

    /// Maps a 4 KiB page below the current root.
    pub(crate) fn map(&mut self, lin: u64, entry: u64) {
        let root = self.mmu.state().cr3_base().0;
        let place = self.place(root, lin, 1);
        self.write(place, entry);
    }
}

pub(crate) fn long_state(root: u64) -> PagingState {
    let mut state = PagingState::new(40);
    state.cr0 = cr0::PG | cr0::WP | cr0::PE;
    state.cr4 = cr4::PAE | cr4::PGE;
    state.efer = efer::LME | efer::LMA | efer::NXE;
    state.cr3 = root;
    state
}

pub(crate) fn lin(address: u64) -> LinAddr {
    LinAddr(address)
}
