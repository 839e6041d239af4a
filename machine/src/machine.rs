//! The whole machine: RAM, board, vCPUs on their threads, loading a kernel, reset and the end.
//!
//! ```text
//! Machine::new ── RAM, Board, one Vcpu + engine a CPU
//! run ── load kernel ── threads ── wait for a request ─┬─ power-off, quit, debug exit: join, Outcome
//!           ▲                                          └─ reset: join, reset everything ─┐
//!           └────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use softmmu::{Bus, GuestRam, Mmu, RamError};
use system::{CpuModel, Platform, Vcpu, event};
use thiserror::Error;
use vcpu::lockstep::{Difference, Lockstep, LockstepConfig, Log};
use vcpu::{Cache, Cpu, EngineKind, EngineOptions, Stopped};
use x86::{CpuState, PhysAddr};

use crate::clock::Clock;
use crate::counted;
use crate::devices::uart::SerialPort;
use crate::loader::{self, BootFiles, Environment, LoadError, MemoryMap, OutsideRam, Rsdp};
use crate::memory::GuestMemory;
use crate::tick::TickPolicy;
use crate::timed::Timed;
use crate::{Board, BoardConfig, BoardError, MachineRequest};

/// What a machine is made from.
pub struct MachineConfig {
    /// The engine.
    pub engine: EngineKind,
    /// vCPUs, 1..=64.
    pub cpus: usize,
    /// Bytes of RAM.
    pub mem: u64,
    /// The CPU that guests see.
    pub model: CpuModel,
    /// What is booted.
    pub boot: BootFiles,
    /// COM1..COM4.
    pub serial: Vec<Option<SerialPort>>,
    /// The debug-exit port.
    pub debug_exit: Option<u16>,
    /// The test device is there.
    pub test_device: bool,
    /// A reset ends the machine.
    pub no_reboot: bool,
    /// Lost ticks.
    pub ticks: TickPolicy,
    /// The seed of RDRAND, if it is to be repeatable.
    pub seed: Option<u64>,
    /// Instructions are counted as time, and vCPUs take turns: two runs are the same.
    pub icount: bool,
    /// The engine that follows and is compared; counts instructions, too.
    pub verify: Option<EngineKind>,
    /// What engines are told.
    pub options: EngineOptions,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched it off, or asked for a reset under `no_reboot`.
    PowerOff,
    /// The user quit.
    Quit,
    /// The guest wrote to the debug-exit port.
    DebugExit(u32),
    /// A triple fault under `no_reboot`; the state of the vCPU.
    TripleFault(String),
}

/// Why a machine can't be made or can't go on.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The configuration asks for what this machine can't be.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The host has no memory for it.
    #[error("guest memory: {0}; choose a smaller --mem")]
    Ram(#[from] RamError),
    /// The host has none left beside that: so many MiB at least.
    #[error(
        "the host has no {0} MiB of memory or address space left beside the guest's; choose a smaller --mem or fewer --cpus, or raise `ulimit -v`"
    )]
    Memory(u64),
    /// The kernel can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A thread could not be started.
    #[error(
        "cannot start a thread: {0}; choose fewer --cpus, or raise `ulimit -v` and `ulimit -u`"
    )]
    Thread(std::io::Error),
    /// A device's host side failed.
    #[error("{0}")]
    Host(String),
    /// Two engines did not do the same: a bug of ours.
    #[error("{0}")]
    Differ(Box<Difference>),
}

impl From<Box<Difference>> for MachineError {
    fn from(difference: Box<Difference>) -> Self {
        Self::Differ(difference)
    }
}

/// Guest RAM as devices and loaders see it.
struct Memory {
    ram: Arc<GuestRam>,
    /// Where devices' writes are noted.
    log: Option<Arc<Log>>,
}

impl GuestMemory for Memory {
    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> bool {
        self.ram.read(addr, buf).is_ok()
    }

    fn write(&self, addr: PhysAddr, data: &[u8]) -> bool {
        let done = self.ram.write(addr, data).is_ok();
        if done && let Some(log) = &self.log {
            log.dma(addr, data);
        }
        done
    }
}

impl loader::GuestMemory for Memory {
    fn write(&mut self, at: PhysAddr, bytes: &[u8]) -> Result<(), OutsideRam> {
        self.ram.load_bytes(at, bytes).map_err(|_| OutsideRam)
    }

    fn zero(&mut self, at: PhysAddr, len: u64) -> Result<(), OutsideRam> {
        self.ram.fill(at, len, 0).map_err(|_| OutsideRam)
    }
}

/// A machine, powered on.
pub struct Machine {
    pub(crate) board: Arc<Board>,
    ram: Arc<GuestRam>,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) lockstep: Option<Box<Lockstep>>,
    boot: BootFiles,
    model: Arc<CpuModel>,
    mem: u64,
    no_reboot: bool,
    /// With `stats`.
    timed: Option<Arc<Timed>>,
    icount: bool,
}

impl Machine {
    /// Builds a machine and loads its kernel.
    pub fn new(mut config: MachineConfig) -> Result<Self, MachineError> {
        let icount = config.icount || config.verify.is_some();
        let ram = Arc::new(GuestRam::new(config.mem)?);
        let log = config.verify.map(|_| Arc::new(Log::default()));
        let hz = crate::clock::DEFAULT_TSC_HZ;
        let clock = if icount {
            Clock::manual(hz)
        } else {
            Clock::host(hz)
        };
        let model = config
            .model
            .clone()
            .with_cpus(config.cpus as u32)
            .with_clock(clock.tsc_hz(), clock.crystal_hz());
        let model = Arc::new(model);
        let memory = Arc::new(Memory {
            ram: Arc::clone(&ram),
            log: log.clone(),
        });
        let mut board = BoardConfig {
            serial: std::mem::take(&mut config.serial),
            debug_exit: config.debug_exit,
            test_device: config.test_device,
            ticks: config.ticks,
            phys_bits: model.maxphyaddr(),
            clock,
            ..BoardConfig::new(config.cpus, config.mem, memory)
        };
        if icount {
            counted::repeatable(&mut board);
        }
        let board = Arc::new(Board::new(board)?);
        let (gate, noted) = (Arc::clone(&ram), log.clone());
        board.a20().on_change(Box::new(move |on| {
            gate.set_a20(on);
            if let Some(log) = &noted {
                log.a20(on);
            }
        }));
        let events = board.events().to_vec();
        ram.set_kick(Box::new(move |cpu| {
            if let Some(events) = events.get(cpu) {
                events.raise(event::CODE);
            }
        }));
        let lockstep = match log {
            Some(log) => Some(Box::new(follower(&config, &board, &ram, &model, log)?)),
            None => None,
        };
        let platform: Arc<dyn Platform> = match &lockstep {
            Some(lockstep) => lockstep.tap(),
            None => Arc::clone(&board) as Arc<dyn Platform>,
        };
        let timed = config
            .options
            .stats
            .then(|| Arc::new(Timed::new(Arc::clone(&platform), config.cpus)));
        let platform = match &timed {
            Some(timed) => Arc::clone(timed) as Arc<dyn Platform>,
            None => platform,
        };
        let bus = Arc::clone(&platform) as Arc<dyn Bus>;
        let mut options = EngineOptions {
            single: config.verify.is_some(),
            cache: Cache::default(),
            ..config.options.clone()
        };
        let engine =
            vcpu::fit(config.engine, &mut options, config.cpus).map_err(MachineError::Memory)?;
        let seed = |n: usize| {
            let seed = match config.seed {
                None if icount => 0,
                None => random_seed(),
                Some(seed) => seed,
            };
            seed ^ (n as u64) << 56
        };
        let cpus = (0..config.cpus)
            .map(|index| {
                let mmu = Mmu::new(
                    index,
                    Arc::clone(&ram),
                    Arc::clone(&bus),
                    model.maxphyaddr(),
                );
                let events = Arc::clone(&board.events()[index]);
                let mut vcpu = Vcpu::new(
                    index,
                    Arc::clone(&model),
                    mmu,
                    events,
                    Arc::clone(&platform),
                );
                vcpu.random = seed(index);
                Cpu::new(vcpu, engine.create(&model, &options))
            })
            .collect();
        let mut machine = Self {
            board,
            ram,
            cpus,
            lockstep,
            boot: config.boot,
            model,
            mem: config.mem,
            no_reboot: config.no_reboot,
            timed,
            icount,
        };
        machine.load()?;
        Ok(machine)
    }

    /// The board, for what the user does to it.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Lays ACPI tables and kernel into RAM and sets the boot processor to the kernel's entry.
    fn load(&mut self) -> Result<(), MachineError> {
        let mut memory = Memory {
            ram: Arc::clone(&self.ram),
            log: None,
        };
        let mut rsdp = None;
        for (at, bytes) in self.board.acpi_tables() {
            if bytes.starts_with(b"RSD PTR ") && bytes.len() >= 36 {
                let mut image = [0; 36];
                image.copy_from_slice(&bytes[..36]);
                rsdp = Some(Rsdp { at, bytes: image });
            }
            self.ram
                .load_bytes(at, &bytes)
                .map_err(|e| MachineError::Host(format!("ACPI tables: {e:?}")))?;
        }
        let environment = Environment {
            map: MemoryMap::pc(self.mem),
            rsdp,
            long_mode: self.model.efer() & x86::efer::LME != 0,
            vga_text: false,
        };
        let loaded = self.boot.load(&environment, &mut memory)?;
        self.board.set_firmware_state();
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            cpu.vcpu.reset();
            let mut st = cpu.vcpu.st.clone();
            firmware_mtrrs(&mut st, self.model.maxphyaddr());
            if index == 0 {
                loaded.entry.apply(&mut st);
            }
            cpu.vcpu.load_state(st);
            cpu.engine.forget(&mut cpu.vcpu);
        }
        if let Some(lockstep) = &mut self.lockstep {
            lockstep.follow(&mut self.cpus);
        }
        Ok(())
    }

    /// Runs the machine to its end.
    pub fn run(&mut self) -> Result<Outcome, MachineError> {
        loop {
            let (request, triple) = if self.icount {
                self.counted()?
            } else {
                self.session()?
            };
            match request {
                MachineRequest::PowerOff => return Ok(Outcome::PowerOff),
                MachineRequest::Quit => return Ok(Outcome::Quit),
                MachineRequest::DebugExit { value, .. } => return Ok(Outcome::DebugExit(value)),
                MachineRequest::HostError(text) => return Err(MachineError::Host(text)),
                MachineRequest::Reset if self.no_reboot => {
                    return Ok(triple.map_or(Outcome::PowerOff, Outcome::TripleFault));
                }
                MachineRequest::Reset => {
                    self.board.reset();
                    self.board.a20().set(true);
                    self.load()?;
                }
            }
        }
    }

    /// Runs all vCPUs until the machine requests something; returns that, and what a triple fault left behind.
    fn session(&mut self) -> Result<(MachineRequest, Option<String>), MachineError> {
        let triple = Mutex::new(None);
        let requests = Arc::clone(self.board.requests());
        for events in self.board.events() {
            events.lower(event::STOP);
        }
        self.board.start_timers().map_err(MachineError::Thread)?;
        let request = thread::scope(|scope| {
            for (index, cpu) in self.cpus.iter_mut().enumerate() {
                let (triple, requests) = (&triple, &requests);
                let work = move || {
                    if vcpu::run(&mut cpu.vcpu, cpu.engine.as_mut(), &mut cpu.times)
                        == Stopped::TripleFault
                    {
                        *triple.lock() = Some(cpu.vcpu.dump());
                        requests.request(MachineRequest::Reset);
                    }
                };
                let spawned = thread::Builder::new()
                    .name(format!("vcpu{index}"))
                    .spawn_scoped(scope, work);
                if let Err(e) = spawned {
                    requests.request(MachineRequest::Quit);
                    return Err(MachineError::Thread(e));
                }
            }
            Ok(requests.wait())
        })?;
        self.board.stop_timers();
        Ok((request, triple.into_inner()))
    }

    /// What `--stats` prints, a line each.
    pub fn report(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(timed) = &self.timed {
            for cpu in &self.cpus {
                let (run, sleep) = (cpu.times.run.as_secs_f64(), cpu.times.sleep.as_secs_f64());
                let (accesses, devices) = timed.spent(cpu.vcpu.index);
                lines.push(format!(
                    "vCPU {}: ran {run:.3} s, of that {:.3} s in {accesses} accesses to devices; slept {sleep:.3} s",
                    cpu.vcpu.index,
                    devices.as_secs_f64()
                ));
                lines.extend(
                    cpu.engine
                        .report(&cpu.vcpu)
                        .into_iter()
                        .map(|l| format!("  {l}")),
                );
            }
            if self.icount {
                let done: u64 = self.cpus.iter().map(|cpu| cpu.vcpu.retired).sum();
                lines.push(format!(
                    "icount: {done} instructions, {} ns of the guest's time",
                    self.board.clock().now()
                ));
            }
            lines.extend(self.lockstep.as_ref().map(|lockstep| lockstep.report()));
        }
        lines
    }

    /// The states of all vCPUs, for messages about a machine that hangs or failed.
    pub fn dump(&self) -> String {
        self.cpus
            .iter()
            .map(|cpu| cpu.vcpu.dump())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// The one that follows, for `--verify`.
fn follower(
    config: &MachineConfig,
    board: &Arc<Board>,
    ram: &Arc<GuestRam>,
    model: &Arc<CpuModel>,
    log: Arc<Log>,
) -> Result<Lockstep, RamError> {
    let engine = config.verify.unwrap_or(EngineKind::Interp);
    let options = EngineOptions::default();
    Lockstep::new(LockstepConfig {
        ram: Arc::clone(ram),
        mem: config.mem,
        model: Arc::clone(model),
        log,
        board: Arc::clone(board) as Arc<dyn Platform>,
        events: board.events().to_vec(),
        leader: config.engine.name(),
        engines: (0..config.cpus)
            .map(|_| engine.create(model, &options))
            .collect(),
    })
}

/// A seed that differs from run to run.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// The MTRRs as firmware leaves them: write-back, but for VGA's window and the hole under 4 GiB.
fn firmware_mtrrs(st: &mut CpuState, maxphyaddr: u8) {
    const WRITE_BACK: u64 = 6;
    const ENABLED: u64 = 3 << 10;
    const VALID: u64 = 1 << 11;
    const HOLE: u64 = 0xc000_0000;
    let every = 0x0101_0101_0101_0101 * WRITE_BACK;
    st.msr.mtrr_def_type = ENABLED | WRITE_BACK;
    st.msr.mtrr_fixed = [every; 11];
    // 16K ranges from A0000h.
    st.msr.mtrr_fixed[2] = 0;
    let width = (1u64 << maxphyaddr) - 1;
    st.msr.mtrr_var[0] = HOLE;
    st.msr.mtrr_var[1] = (!(0x4000_0000 - 1) & width) | VALID;
}
