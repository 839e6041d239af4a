//! Fuzz targets: bytes become register accesses, time steps and host input for one device on a whole board.
//!
//! Nothing a guest does may panic, hang or allocate without bound. `cargo test` runs seeded inputs; a fuzzer outside the
//! workspace calls [`device`] with its own.

use std::sync::Arc;

use softmmu::Bus;
use system::{Platform, event};
use x86::PhysAddr;

use crate::board::{Board, BoardConfig};
use crate::clock::Clock;
use crate::devices::i8042::{InputEvent, KeyCode};
use crate::devices::uart::SerialPort;
use crate::inbox::Inbox;
use crate::memory::FlatMemory;
use crate::requests::MachineRequest;
use crate::sink::ByteSink;
use crate::tick::TickPolicy;

/// The devices that can be fuzzed: names on the board, `lapic`, `pci`, and `all` at once.
pub const TARGETS: &[&str] = &[
    "pic-ioapic",
    "pit",
    "rtc",
    "hpet",
    "acpi-pm",
    "i8042",
    "port92",
    "dma",
    "post",
    "fw_cfg",
    "uart",
    "e9",
    "test-device",
    "debug-exit",
    "lapic",
    "pci",
    "all",
];

const CPUS: usize = 2;

/// A sink that is full now and then.
#[derive(Default)]
struct Moody(u32);

impl ByteSink for Moody {
    fn put(&mut self, _byte: u8) -> bool {
        self.0 = self.0.wrapping_add(1);
        !self.0.is_multiple_of(7)
    }
}

/// The input, read to its end; zeros after it.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    fn number(&mut self, bytes: u8) -> u64 {
        (0..bytes).fold(0, |value, _| value << 8 | u64::from(self.byte()))
    }
}

/// What a target may access.
struct Reach {
    /// First port and number of ports.
    ports: Vec<(u16, u16)>,
    /// First byte and number of bytes.
    memory: Vec<(u64, u64)>,
    msrs: bool,
}

fn reach(board: &Board, target: &str) -> Reach {
    let mine = |index: &usize| {
        target == "all" || board.with_device(*index, |device, _| device.name()) == target
    };
    let ports = board
        .ports
        .ranges()
        .filter(|(_, index)| mine(index))
        .map(|(r, _)| (r.first, r.count));
    let memory = board
        .regions
        .regions()
        .filter(|(_, index)| mine(index))
        .map(|(r, _)| (r.start.0, r.len));
    let mut reach = Reach {
        ports: ports.collect(),
        memory: memory.collect(),
        msrs: false,
    };
    if matches!(target, "lapic" | "all") {
        reach.memory.push((0xfee0_0000, 0x2000));
        reach.msrs = true;
    }
    if matches!(target, "pci" | "all") {
        reach.ports.push((0xcf8, 8));
    }
    reach
}

fn board() -> (Board, Inbox<u8>) {
    let input = Inbox::new(64);
    let mut config = BoardConfig::new(CPUS, 512 << 20, Arc::new(FlatMemory::new(64 << 10)));
    config.clock = Clock::manual(1_000_000_000);
    config.start_time = 1_700_000_000;
    config.test_device = true;
    config.debug_exit = Some(0xf4);
    config.e9 = Some(Box::new(Moody::default()));
    config.serial = vec![Some(SerialPort {
        output: Box::new(Moody::default()),
        input: input.clone(),
    })];
    config.ticks = TickPolicy::Catchup;
    (Board::new(config).expect("a sound configuration"), input)
}

/// Drives the device `target` (one of [`TARGETS`]) with what `bytes` say.
///
/// # Panics
/// When the board breaks one of its promises: that is the point.
pub fn device(target: &str, bytes: &[u8]) {
    let (board, serial) = board();
    let reach = reach(&board, target);
    let mut input = Input(bytes);
    if input.byte() & 1 != 0 {
        board.set_firmware_state();
    }
    while !input.0.is_empty() {
        step(&board, &serial, &reach, &mut input);
        board.requests().take();
    }
}

fn pick<T: Copy>(list: &[(T, T)], at: u8) -> Option<(T, T)> {
    (!list.is_empty()).then(|| list[usize::from(at) % list.len()])
}

fn step(board: &Board, serial: &Inbox<u8>, reach: &Reach, input: &mut Input<'_>) {
    let op = input.byte();
    let cpu = usize::from(op >> 7) % CPUS;
    let size = 1 << (op >> 5 & 3);
    match op & 15 {
        0..=5 => {
            let Some((first, count)) = pick(&reach.ports, input.byte()) else {
                return;
            };
            let port = first.wrapping_add(u16::from(input.byte()) % count);
            let size = size.min(4);
            if op & 15 < 2 {
                board.pio_read(cpu, port, size);
            } else {
                board.pio_write(cpu, port, size, input.number(size) as u32);
            }
        }
        6..=9 => {
            let Some((first, len)) = pick(&reach.memory, input.byte()) else {
                return;
            };
            let addr = PhysAddr(first + input.number(2) % len);
            if op & 15 == 6 {
                board.mmio_read(cpu, addr, size);
            } else {
                board.mmio_write(cpu, addr, size, input.number(size));
            }
        }
        10 if reach.msrs => {
            let msr = match input.byte() {
                byte @ 0..0xf0 => 0x800 + u32::from(byte & 0x3f),
                _ => 0x1b,
            };
            let value = input.number(8);
            let _ = board.apic_msr_write(cpu, msr, value);
            let _ = board.apic_msr_read(cpu, msr);
        }
        10 | 11 => {
            let now = board.clock().now();
            board.advance(now + (1 << (input.byte() % 27)));
            check_deadline(board);
        }
        12 => {
            // The host was asleep: the clock jumps past many deadlines at once.
            let now = board.clock().now();
            board.clock().advance(now + (1 << (input.byte() % 50)));
            board.advance(board.clock().now());
            check_deadline(board);
        }
        13 => {
            let pending = board.events()[cpu].pending() & event::INTR != 0;
            let vector = board.ack_interrupt(cpu);
            assert_eq!(
                pending,
                vector.is_some(),
                "INTR is the level of what there is to take"
            );
        }
        14 => {
            serial.push(input.byte());
            let code = KeyCode(input.number(2) as u16);
            board.input().push(InputEvent::Key {
                code,
                pressed: op & 0x10 != 0,
            });
            let (dx, dy) = (i32::from(input.byte()) - 128, i32::MAX);
            board.input().push(InputEvent::Mouse {
                dx,
                dy,
                wheel: i32::MIN,
                buttons: input.byte(),
            });
            board.press_power_button();
        }
        _ => match input.byte() & 7 {
            0 => board.reset(),
            1 => board.apic_init(cpu),
            2 => board.set_cr8(cpu, input.byte()),
            3 => board.press_nmi_button(),
            4 => board.requests().request(MachineRequest::Quit),
            5 => board.send_msi(
                PhysAddr(0xfee0_0000 | input.number(2) << 4),
                input.number(4) as u32,
            ),
            _ => board.set_tsc_deadline(cpu, input.number(8)),
        },
    }
}

fn check_deadline(board: &Board) {
    let now = board.clock().now();
    let next = board.next_deadline();
    assert!(
        next.is_none_or(|next| next > now),
        "a deadline of {next:?} is left behind at {now}"
    );
}

#[cfg(test)]
mod tests {
    use super::{TARGETS, device};

    /// xorshift64*, Vigna 2016.
    struct Random(u64);

    impl Random {
        fn byte(&mut self) -> u8 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        }
    }

    /// DOPPEL_FUZZ_SEEDS makes a long run of it.
    #[test]
    fn seeded_inputs_break_nothing() {
        let seeds = std::env::var("DOPPEL_FUZZ_SEEDS")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(12);
        for (index, target) in TARGETS.iter().enumerate() {
            for seed in 1..=seeds {
                let mut random = Random((seed << 8 | index as u64) ^ 0x9e37_79b9_7f4a_7c15);
                let bytes: Vec<u8> = (0..3000).map(|_| random.byte()).collect();
                device(target, &bytes);
            }
        }
    }

    #[test]
    fn every_target_reaches_something() {
        let (board, _) = super::board();
        for target in TARGETS {
            let reach = super::reach(&board, target);
            assert!(
                !reach.ports.is_empty() || !reach.memory.is_empty(),
                "{target}"
            );
        }
    }
}
