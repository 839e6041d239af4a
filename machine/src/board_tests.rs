//! Tests of the board, and the machine that all device tests drive.

use std::sync::Arc;

use parking_lot::Mutex;
use softmmu::Bus;
use system::{Platform, event};
use x86::PhysAddr;

use super::{Board, BoardConfig, BoardError};
use crate::clock::{Clock, SECOND};
use crate::device::{Device, Pio, PortRange};
use crate::devices::uart::SerialPort;
use crate::inbox::Inbox;
use crate::memory::{FlatMemory, NoMemory};
use crate::requests::MachineRequest;
use crate::sink::tests::TestSink;

/// The RTC's time at power-on: 2023-11-14 22:13:20 UTC.
pub(crate) const START: i64 = 1_700_000_000;

/// A machine on a manual clock, and the host's ends of its devices.
pub(crate) struct Machine {
    pub(crate) board: Board,
    pub(crate) serial: TestSink,
    pub(crate) e9: TestSink,
    pub(crate) input: Inbox<u8>,
    memory: Arc<FlatMemory>,
}

/// The tests' configuration, the sinks of COM1 and port E9h, COM1's input, and RAM.
pub(crate) fn config() -> (BoardConfig, TestSink, TestSink, Inbox<u8>, Arc<FlatMemory>) {
    let (serial, e9, input) = (TestSink::new(), TestSink::new(), Inbox::new(4096));
    let memory = Arc::new(FlatMemory::new(1 << 20));
    let mut config = BoardConfig::new(1, 512 << 20, Arc::clone(&memory) as _);
    config.clock = Clock::manual(1_000_000_000);
    config.start_time = START;
    config.serial = vec![Some(SerialPort {
        output: Box::new(serial.clone()),
        input: input.clone(),
    })];
    config.e9 = Some(Box::new(e9.clone()));
    (config, serial, e9, input, memory)
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut BoardConfig)) -> Self {
        let (mut config, serial, e9, input, memory) = config();
        change(&mut config);
        Self {
            board: Board::new(config).expect("a board"),
            serial,
            e9,
            input,
            memory,
        }
    }

    pub(crate) fn inb(&self, port: u16) -> u32 {
        self.board.pio_read(0, port, 1)
    }

    pub(crate) fn inw(&self, port: u16) -> u32 {
        self.board.pio_read(0, port, 2)
    }

    pub(crate) fn inl(&self, port: u16) -> u32 {
        self.board.pio_read(0, port, 4)
    }

    pub(crate) fn outb(&self, port: u16, value: u8) {
        self.board.pio_write(0, port, 1, u32::from(value));
    }

    pub(crate) fn outw(&self, port: u16, value: u16) {
        self.board.pio_write(0, port, 2, u32::from(value));
    }

    pub(crate) fn outl(&self, port: u16, value: u32) {
        self.board.pio_write(0, port, 4, value);
    }

    pub(crate) fn read32(&self, addr: u64) -> u32 {
        self.board.mmio_read(0, PhysAddr(addr), 4) as u32
    }

    pub(crate) fn read64(&self, addr: u64) -> u64 {
        self.board.mmio_read(0, PhysAddr(addr), 8)
    }

    pub(crate) fn write32(&self, addr: u64, value: u32) {
        self.board
            .mmio_write(0, PhysAddr(addr), 4, u64::from(value));
    }

    pub(crate) fn write64(&self, addr: u64, value: u64) {
        self.board.mmio_write(0, PhysAddr(addr), 8, value);
    }

    pub(crate) fn poke(&self, at: usize, bytes: &[u8]) {
        self.memory.0.lock()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn peek(&self, at: usize, len: usize) -> Vec<u8> {
        self.memory.0.lock()[at..at + len].to_vec()
    }

    pub(crate) fn now(&self) -> u64 {
        self.board.clock().now()
    }

    pub(crate) fn advance(&self, to: u64) {
        self.board.advance(to);
    }

    /// What vCPU 0 is interrupted with. INTR must say the same.
    pub(crate) fn ack(&self) -> Option<u8> {
        let intr = self.board.events()[0].pending() & event::INTR != 0;
        let vector = self.board.ack_interrupt(0);
        assert_eq!(
            intr,
            vector.is_some(),
            "INTR is the level of what there is to take"
        );
        vector
    }

    /// Vectors 20h..2Fh, nothing masked, the PIC's INT through LINT0.
    pub(crate) fn init_pic(&self) {
        self.board.set_firmware_state();
        for (port, base, icw3) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            self.outb(port, 0x11);
            for value in [base, icw3, 1, 0] {
                self.outb(port + 1, value);
            }
        }
    }

    pub(crate) fn eoi_pic(&self) {
        self.outb(0xa0, 0x20);
        self.outb(0x20, 0x20);
    }

    pub(crate) fn enable_apic(&self) {
        self.write32(0xfee0_00f0, 0x1ff);
    }

    /// Writes the low half of an I/O APIC entry; its destination is APIC 0.
    pub(crate) fn ioapic(&self, pin: u32, low: u32) {
        self.write32(0xfec0_0000, 0x10 + 2 * pin);
        self.write32(0xfec0_0010, low);
    }

    pub(crate) fn eoi(&self) {
        self.write32(0xfee0_00b0, 0);
    }
}

#[test]
fn ioapic_override_0_to_2() {
    let m = Machine::new();
    m.enable_apic();
    m.ioapic(0, 0x0040);
    m.ioapic(2, 0x0042);
    m.outb(0x43, 0x34);
    m.outb(0x40, 0xa9);
    m.outb(0x40, 0x04);
    m.advance(1_100_000);
    assert_eq!(m.ack(), Some(0x42), "the timer comes in on pin 2");
    m.eoi();
    assert_eq!(m.ack(), None);
}

#[test]
fn ioapic_sci_9_level_fires_again_until_it_drops() {
    let m = Machine::new();
    m.enable_apic();
    m.ioapic(9, 0x8059);
    let line = m.board.router().line(9);
    line.set(true);
    for _ in 0..3 {
        assert_eq!(m.ack(), Some(0x59));
        assert_eq!(m.ack(), None);
        m.write32(0xfec0_0000, 0x10 + 18);
        assert_eq!(m.read32(0xfec0_0010) & 0x4000, 0x4000, "remote IRR");
        m.eoi();
    }
    line.set(false);
    // The fourth was accepted before the line dropped.
    assert_eq!(m.ack(), Some(0x59));
    m.eoi();
    assert_eq!(m.ack(), None);
}

#[test]
fn an_eoi_that_reaches_the_io_apic_does_not_dead_lock() {
    let m = Arc::new(Machine::with(|c| c.cpus = 4));
    for cpu in 0..4 {
        m.board.mmio_write(cpu, PhysAddr(0xfee0_00f0), 4, 0x1ff);
    }
    for pin in 16..20 {
        m.board
            .mmio_write(0, PhysAddr(0xfec0_0000), 4, u64::from(0x11 + 2 * pin));
        m.board
            .mmio_write(0, PhysAddr(0xfec0_0010), 4, u64::from(pin - 16) << 24);
        m.ioapic(pin, 0x8050 + pin);
    }
    let vcpus: Vec<_> = (0..4)
        .map(|cpu| {
            let m = Arc::clone(&m);
            std::thread::spawn(move || {
                let line = m.board.router().line(16 + cpu as u8);
                let mut taken = 0;
                for _ in 0..2_000 {
                    line.set(true);
                    if m.board.ack_interrupt(cpu).is_some() {
                        taken += 1;
                    }
                    line.set(false);
                    m.board.mmio_write(cpu, PhysAddr(0xfee0_00b0), 4, 0);
                    // IPIs criss-cross meanwhile.
                    m.board.mmio_write(cpu, PhysAddr(0xfee0_0300), 4, 0xc_4400);
                }
                taken
            })
        })
        .collect();
    for vcpu in vcpus {
        assert!(vcpu.join().expect("no dead-lock, no panic") > 0);
    }
}

#[test]
fn pic_extint_through_lint0() {
    let m = Machine::new();
    m.outb(0x21, 0xfe);
    m.outb(0x43, 0x34);
    m.outb(0x40, 0xa9);
    m.outb(0x40, 0x04);
    m.advance(2_000_000);
    assert_eq!(m.ack(), None, "LINT0 is masked after power-on");
    m.board.set_firmware_state();
    assert_eq!(m.ack(), Some(0x08), "virtual wire");
}

#[test]
fn all_timers_agree_within_100_ppm() {
    let m = Machine::new();
    m.write64(0xfed0_0010, 1);
    m.write32(0xfee0_00f0, 0x1ff);
    m.write32(0xfee0_03e0, 0xb);
    m.write32(0xfee0_0380, u32::MAX);
    m.outb(0x61, 1);
    m.outb(0x43, 0xb0);
    m.outb(0x42, 0xff);
    m.outb(0x42, 0xff);
    let pit = |m: &Machine| {
        m.outb(0x43, 0x80);
        u64::from(m.inb(0x42) | m.inb(0x42) << 8)
    };
    let (pit0, pm0, hpet0, tsc0) = (pit(&m), m.inl(0x608), m.read64(0xfed0_00f0), m.board.tsc());
    let apic0 = m.read32(0xfee0_0390);
    m.advance(50_000_000);
    let seconds = [
        (pit0 - pit(&m)) as f64 / 1_193_182.0,
        f64::from(m.inl(0x608) - pm0) / 3_579_545.0,
        (m.read64(0xfed0_00f0) - hpet0) as f64 / 1e8,
        f64::from(apic0 - m.read32(0xfee0_0390)) / m.board.crystal_hz() as f64,
        (m.board.tsc() - tsc0) as f64 / m.board.tsc_hz() as f64,
    ];
    assert!(
        seconds.iter().all(|s| (s / 0.05 - 1.0).abs() < 100e-6),
        "{seconds:?}"
    );
}

#[test]
fn msis_and_the_apic_page_are_told_apart() {
    let m = Machine::with(|c| c.cpus = 2);
    for cpu in 0..2 {
        m.board.mmio_write(cpu, PhysAddr(0xfee0_00f0), 4, 0x1ff);
    }
    m.write32(0xfee0_1000, 0x0066);
    assert_eq!(m.board.ack_interrupt(1), Some(0x66));
    m.board.send_msi(PhysAddr(0xfee0_0000), 0x0067);
    assert_eq!(m.ack(), Some(0x67));
    assert_eq!(
        m.board.mmio_read(1, PhysAddr(0xfee0_0020), 4),
        1 << 24,
        "each vCPU sees its own page"
    );
    assert_eq!(m.read32(0xfee0_0024), 0);
    assert_eq!(m.read32(0xfee0_2000), u32::MAX);
}

#[test]
fn what_nobody_claims_is_all_ones() {
    let m = Machine::new();
    assert_eq!(
        (m.inb(0x1234), m.inw(0x1234), m.inl(0x1234)),
        (0xff, 0xffff, 0xffff_ffff)
    );
    m.outl(0x1234, 5);
    assert_eq!(m.read64(0xe000_0000), u64::MAX);
    assert_eq!(m.board.mmio_read(0, PhysAddr(0xe000_0000), 2), 0xffff);
    assert_eq!(m.inl(0xffff) & 0xff, 0xff, "the end of port space wraps");
}

#[test]
fn wide_accesses_to_byte_devices_fall_apart() {
    let m = Machine::new();
    m.outw(0x70, 0x5507);
    m.outb(0x70, 0x0f);
    m.outw(0x70, 0xaa0f);
    assert_eq!(m.inb(0x71), 0xaa, "index and data in one word");
}

#[test]
fn reset_brings_power_on_state_back() {
    let m = Machine::new();
    m.init_pic();
    m.enable_apic();
    m.outb(0x21, 0);
    m.outb(0x43, 0x34);
    m.outb(0x40, 1);
    m.outb(0x40, 1);
    m.outl(0xcf8, 0x8000_0004);
    m.write64(0xfed0_0010, 1);
    m.advance(SECOND);
    assert!(m.board.events()[0].pending() & event::INTR != 0);
    m.board.reset();
    assert_eq!(m.board.events()[0].pending() & event::INTR, 0);
    assert_eq!(
        (m.inb(0x21), m.inl(0xcf8), m.read64(0xfed0_0010)),
        (0xff, 0, 0)
    );
    assert_eq!(m.read32(0xfee0_00f0), 0xff);
    assert_eq!(m.board.next_deadline(), None, "nothing is armed");
    m.advance(3 * SECOND);
    assert_eq!(m.ack(), None);
}

#[test]
fn bad_configurations_are_refused() {
    let with = |cpus, ram| Board::new(BoardConfig::new(cpus, ram, Arc::new(NoMemory))).map(|_| ());
    assert_eq!(with(0, 1 << 20), Err(BoardError::Cpus(0)));
    assert_eq!(with(65, 1 << 20), Err(BoardError::Cpus(65)));
    assert_eq!(with(1, 0xf_f000), Err(BoardError::Ram(0xf_f000)));
    assert_eq!(with(1, (1 << 20) + 1), Err(BoardError::Ram((1 << 20) + 1)));
    assert_eq!(with(64, 1 << 20), Ok(()));
}

#[test]
fn the_timer_thread_fires_what_is_due_and_ends() {
    let (mut config, ..) = config();
    config.clock = Clock::host(1_000_000_000);
    let board = Arc::new(Board::new(config).expect("a board"));
    board.start_timers().expect("a thread");
    board.mmio_write(0, PhysAddr(0xfee0_00f0), 4, 0x1ff);
    board.mmio_write(0, PhysAddr(0xfee0_0320), 4, 0x4_0040);
    for _ in 0..20 {
        board.set_tsc_deadline(0, board.tsc() + 50_000);
        // Sleeps until the timer thread has raised INTR; a lost wake-up would hang here.
        board.events()[0].sleep(event::INTR, None);
        assert_eq!(board.ack_interrupt(0), Some(0x40));
        board.mmio_write(0, PhysAddr(0xfee0_00b0), 4, 0);
    }
    board.stop_timers();
    board.start_timers().expect("a thread");
    drop(board);
}

#[test]
fn devices_without_deadlines_never_wake_the_host() {
    let m = Machine::new();
    m.advance(3600 * SECOND);
    assert_eq!(m.board.fired(), 0);
}

/// A device that does nothing, for the tables.
struct Greedy(Mutex<u16>);

impl Device for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn reset(&mut self, _now: u64) {}

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for Greedy {
    fn ports(&self) -> Vec<PortRange> {
        vec![PortRange::bytes(*self.0.lock(), 1)]
    }

    fn pio_read(&mut self, _now: u64, _port: u16, _size: u8) -> u32 {
        0
    }

    fn pio_write(&mut self, _now: u64, _port: u16, _size: u8, _value: u32) {}
}

#[test]
#[should_panic(expected = "greedy claims port 0x61")]
fn two_devices_on_a_port_are_our_own_mistake() {
    let (mut ports, mut regions, mut functions) = (
        crate::ports::PortTable::new(),
        Default::default(),
        Vec::new(),
    );
    let mut first = Greedy(Mutex::new(0x61));
    super::claim(&mut ports, &mut regions, &mut functions, 0, &mut first);
    super::claim(&mut ports, &mut regions, &mut functions, 1, &mut first);
}

#[test]
fn requests_stop_the_vcpus() {
    let m = Machine::with(|c| c.cpus = 2);
    m.outb(0x64, 0xfe);
    assert_eq!(m.board.requests().take(), Some(MachineRequest::Reset));
    assert!(
        m.board
            .events()
            .iter()
            .all(|e| e.pending() & event::STOP != 0)
    );
}
