//! The board: makes the devices, wires them, keeps their deadlines, resets them.
//!
//! Adding a device: write its file in `devices/`, add its line in [`devices`]. How vCPUs reach devices is in `bus.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use softmmu::Bus;
use system::Events;
use thiserror::Error;

use crate::a20::A20;
use crate::acpi::{self, AcpiConfig};
use crate::clock::{Clock, DEFAULT_TSC_HZ, Nanos};
use crate::device::Device;
use crate::devices::console::{E9Console, PostPort};
use crate::devices::debug_exit::DebugExit;
use crate::devices::dma::Dma;
use crate::devices::fw_cfg::{FwCfg, FwCfgItems};
use crate::devices::hpet::Hpet;
use crate::devices::i8042::{I8042, InputEvent};
use crate::devices::interrupt_ports::InterruptPorts;
use crate::devices::pit::Pit;
use crate::devices::pm::Pm;
use crate::devices::port92::Port92;
use crate::devices::rtc::{Rtc, RtcConfig};
use crate::devices::test_device::TestDevice;
use crate::devices::uart::{COM_PORTS, SerialPort, Uart};
use crate::inbox::Inbox;
use crate::interrupt::lapic::LapicConfig;
use crate::interrupt::router::SCI;
use crate::interrupt::{Apics, Router};
use crate::memory::{GuestMemory, MIB, e820};
use crate::pci::host::HostBridge;
use crate::pci::isa::{self, IsaBridge};
use crate::pci::{DevFn, PciFunction, Window};
use crate::ports::{PortTable, RegionTable};
use crate::requests::MachineRequests;
use crate::sink::ByteSink;
use crate::tick::TickPolicy;
use crate::timers::{Timers, Waker};

/// The most vCPUs a board has.
pub const MAX_CPUS: usize = 64;
/// The most devices it has.
const MAX_DEVICES: usize = 32;
/// The user's doings that may wait.
const INPUT_EVENTS: usize = 256;

/// Why a board can't be built.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BoardError {
    /// The number of vCPUs is out of range.
    #[error("{0} vCPUs: this machine has 1 to {MAX_CPUS}")]
    Cpus(usize),
    /// RAM is too small or no whole number of pages.
    #[error("{0} bytes of RAM: at least 1 MiB and a multiple of 4 KiB is needed")]
    Ram(u64),
    /// The debug-exit port belongs to a device.
    #[error("the debug-exit port {0:#x} belongs to another device; choose one like 0xf4 or 0x501")]
    PortTaken(u16),
    /// More serial ports than a PC has.
    #[error("{0} serial ports: this machine has at most 4")]
    SerialPorts(usize),
}

/// What a board is made from.
pub struct BoardConfig {
    /// Number of vCPUs, 1..=[`MAX_CPUS`].
    pub cpus: usize,
    /// Bytes of RAM; [`crate::memory::ram_ranges`] says where they are.
    pub ram: u64,
    /// Guest RAM, for devices with DMA.
    pub memory: Arc<dyn GuestMemory>,
    /// COM1..COM4; `None` is a port that isn't there.
    pub serial: Vec<Option<SerialPort>>,
    /// Where port E9h prints.
    pub e9: Option<Box<dyn ByteSink>>,
    /// The debug-exit port.
    pub debug_exit: Option<u16>,
    /// The test device's ports are there.
    pub test_device: bool,
    /// Host or manual time.
    pub clock: Clock,
    /// What to do with lost ticks.
    pub ticks: TickPolicy,
    /// Width of a physical address in bits, as CPUID 80000008h tells.
    pub phys_bits: u8,
    /// What the RTC shows at power-on: seconds since 1970.
    pub start_time: i64,
    /// Files for fw_cfg: name and contents.
    pub fw_cfg_files: Vec<(String, Vec<u8>)>,
}

impl BoardConfig {
    /// A machine with `cpus` vCPUs and `ram` bytes behind `memory`, host time and no serial ports.
    pub fn new(cpus: usize, ram: u64, memory: Arc<dyn GuestMemory>) -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        Self {
            cpus,
            ram,
            memory,
            serial: Vec::new(),
            e9: None,
            debug_exit: None,
            test_device: false,
            clock: Clock::host(DEFAULT_TSC_HZ),
            ticks: TickPolicy::Catchup,
            phys_bits: 46,
            start_time: i64::try_from(since_1970).unwrap_or(0),
            fw_cfg_files: Vec::new(),
        }
    }
}

/// A window of a PCI function that is open now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenWindow {
    pub(crate) window: Window,
    pub(crate) device: usize,
}

/// The board.
pub struct Board {
    // Static configuration
    acpi: AcpiConfig,
    pub(crate) ports: PortTable,
    pub(crate) regions: RegionTable,
    /// Where each PCI function's device is.
    pub(crate) functions: Vec<(DevFn, usize)>,
    // Runtime glue
    pub(crate) clock: Arc<Clock>,
    timers: Arc<Timers>,
    pub(crate) apics: Arc<Apics>,
    pub(crate) router: Arc<Router>,
    requests: Arc<MachineRequests>,
    a20: Arc<A20>,
    events: Vec<Arc<Events>>,
    input: Inbox<InputEvent>,
    power_button: Inbox<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
    fired: AtomicU64,
    // Volatile state
    devices: Vec<Mutex<Box<dyn Device>>>,
    pub(crate) windows: RwLock<Vec<OpenWindow>>,
    /// PCI's CONFIG_ADDRESS.
    pub(crate) config_address: Mutex<u32>,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("acpi", &self.acpi)
            .finish_non_exhaustive()
    }
}

/// What the devices are wired to.
struct Glue {
    router: Arc<Router>,
    requests: Arc<MachineRequests>,
    a20: Arc<A20>,
    input: Inbox<InputEvent>,
    power_button: Inbox<()>,
}

/// All devices: one line each.
fn devices(config: &mut BoardConfig, glue: &Glue) -> Vec<Box<dyn Device>> {
    let Glue {
        router,
        requests,
        a20,
        input,
        power_button,
    } = glue;
    let items = {
        let mut items = FwCfgItems::of_machine(config.cpus, config.ram, &e820(config.ram));
        std::mem::take(&mut config.fw_cfg_files)
            .into_iter()
            .for_each(|(name, bytes)| items.add_file(&name, bytes));
        items
    };
    let (cpus, ram, ticks, start) = (config.cpus, config.ram, config.ticks, config.start_time);
    let rtc = RtcConfig {
        start,
        ram,
        cpus,
        ticks,
    };
    let mut all: Vec<Box<dyn Device>> = vec![
        Box::new(InterruptPorts::new(Arc::clone(router))),
        Box::new(Pit::new(router.replaceable_line(0), ticks)),
        Box::new(Rtc::new(router.replaceable_line(8), rtc)),
        Box::new(Hpet::new(router)),
        Box::new(Pm::new(
            router.line(SCI),
            Arc::clone(requests),
            power_button.clone(),
        )),
        Box::new(HostBridge::default()),
        Box::new(IsaBridge::new(Arc::clone(router))),
        Box::new(I8042::new(
            router.line(1),
            router.line(12),
            Arc::clone(a20),
            Arc::clone(requests),
            input.clone(),
        )),
        Box::new(Port92::new(Arc::clone(a20), Arc::clone(requests))),
        Box::new(Dma::default()),
        Box::new(PostPort::default()),
        Box::new(FwCfg::new(items, Arc::clone(&config.memory))),
    ];
    for (host, (port, irq)) in config.serial.drain(..).zip(COM_PORTS) {
        all.extend(
            host.map(|host| Box::new(Uart::new(port, router.line(irq), host)) as Box<dyn Device>),
        );
    }
    all.extend(
        config
            .e9
            .take()
            .map(|output| Box::new(E9Console::new(output)) as Box<dyn Device>),
    );
    if config.test_device {
        all.push(Box::new(TestDevice::new(
            (0..24).map(|line| router.line(line)).collect(),
        )));
    }
    all
}

impl Board {
    /// Builds a board, powered on.
    ///
    /// # Panics
    /// When two devices claim the same port or memory: a mistake in this program.
    pub fn new(mut config: BoardConfig) -> Result<Self, BoardError> {
        if !(1..=MAX_CPUS).contains(&config.cpus) {
            return Err(BoardError::Cpus(config.cpus));
        }
        if config.ram < MIB || !config.ram.is_multiple_of(4096) {
            return Err(BoardError::Ram(config.ram));
        }
        if config.serial.len() > COM_PORTS.len() {
            return Err(BoardError::SerialPorts(config.serial.len()));
        }
        let clock = Arc::new(std::mem::replace(&mut config.clock, Clock::manual(1)));
        let timers = Arc::new(Timers::new(config.cpus + MAX_DEVICES));
        let events: Vec<_> = (0..config.cpus)
            .map(|_| Arc::new(Events::default()))
            .collect();
        let lapic = |id| LapicConfig {
            id,
            crystal_hz: clock.crystal_hz(),
            phys_bits: config.phys_bits,
            ticks: config.ticks,
        };
        let apics = Arc::new(Apics::new(
            &events,
            lapic,
            Arc::clone(&clock),
            Arc::clone(&timers),
            0,
        ));
        let glue = Glue {
            router: Router::new(Arc::clone(&apics)),
            requests: Arc::new(MachineRequests::new(events.clone())),
            a20: Arc::new(A20::default()),
            input: Inbox::new(INPUT_EVENTS),
            power_button: Inbox::new(4),
        };
        let acpi = AcpiConfig {
            cpus: config.cpus,
            serial: config.serial.iter().map(Option::is_some).collect(),
        };
        let mut devices = devices(&mut config, &glue);
        let (mut ports, mut regions, mut functions) =
            (PortTable::new(), RegionTable::default(), Vec::new());
        for (index, device) in devices.iter_mut().enumerate() {
            claim(
                &mut ports,
                &mut regions,
                &mut functions,
                index,
                &mut **device,
            );
        }
        if let Some(port) = config.debug_exit {
            let free = ports.free(port, 4);
            if free == 0 || (0xcf8..=0xcff).contains(&port) {
                return Err(BoardError::PortTaken(port));
            }
            let mut device = DebugExit::new(port, free, Arc::clone(&glue.requests));
            claim(
                &mut ports,
                &mut regions,
                &mut functions,
                devices.len(),
                &mut device,
            );
            devices.push(Box::new(device));
        }
        assert!(devices.len() <= MAX_DEVICES, "MAX_DEVICES is too small");
        for (index, device) in devices.iter_mut().enumerate() {
            if let Some(timer) = device.timer() {
                timer.set_waker(Waker::new(Arc::clone(&timers), config.cpus + index));
            }
        }
        let Glue {
            router,
            requests,
            a20,
            input,
            power_button,
        } = glue;
        let board = Self {
            acpi,
            ports,
            regions,
            functions,
            clock,
            timers,
            apics,
            router,
            requests,
            a20,
            events,
            input,
            power_button,
            thread: Mutex::new(None),
            fired: AtomicU64::new(0),
            devices: devices.into_iter().map(Mutex::new).collect(),
            windows: RwLock::new(Vec::new()),
            config_address: Mutex::new(0),
        };
        board.reset();
        Ok(board)
    }

    /// Power-on state of all devices and local APICs; the RTC keeps its time and RAM, the clock runs on.
    pub fn reset(&self) {
        *self.config_address.lock() = 0;
        for index in 0..self.devices.len() {
            self.with_device(index, |device, now| device.reset(now));
        }
        self.apics.reset();
        for &(_, index) in &self.functions {
            self.refresh_windows(index);
        }
    }

    /// What a PC's firmware leaves when it starts a kernel: virtual wire mode, PCI's interrupts routed to IRQ 10 and 11,
    /// which are level-triggered, as the ACPI tables tell. For kernels that are loaded without firmware.
    pub fn set_firmware_state(&self) {
        self.apics.set_virtual_wire();
        let bridge = DevFn::new(isa::DEVICE, 0);
        for (pirq, irq) in (0..).zip(acpi::PIC_IRQS) {
            self.config_write(bridge, isa::PIRQ_ROUTE + pirq, 1, u32::from(irq));
        }
        self.pio_write(0, 0x4d1, 1, 1 << (SCI - 8) | 1 << (10 - 8) | 1 << (11 - 8));
    }

    /// Does `f` with device `index` locked, then notes its deadline.
    pub(crate) fn with_device<R>(
        &self,
        index: usize,
        f: impl FnOnce(&mut dyn Device, Nanos) -> R,
    ) -> R {
        let mut device = self.devices[index].lock();
        let result = f(&mut **device, self.clock.now());
        if let Some(timer) = device.timer() {
            self.timers.set(self.events.len() + index, timer.deadline());
        }
        result
    }

    /// Asks a PCI function which windows it has open now.
    pub(crate) fn refresh_windows(&self, index: usize) {
        let mut device = self.devices[index].lock();
        let open = device
            .pci()
            .map_or_else(Vec::new, |function: &mut dyn PciFunction| {
                function.windows()
            });
        let mut windows = self.windows.write();
        windows.retain(|w| w.device != index);
        windows.extend(open.into_iter().map(|window| OpenWindow {
            window,
            device: index,
        }));
    }

    fn fire(&self, slot: usize) {
        self.fired.fetch_add(1, Ordering::Relaxed);
        match slot.checked_sub(self.events.len()) {
            None => self.apics.fire(slot, self.clock.now()),
            Some(index) if index < self.devices.len() => self.with_device(index, |device, now| {
                if let Some(timer) = device.timer() {
                    timer.fire(now);
                }
            }),
            Some(_) => {}
        }
    }

    /// Starts the thread that fires timers as host time passes. Without effect on a manual clock.
    ///
    /// # Errors
    /// The host's, when it has no thread for that.
    pub fn start_timers(self: &Arc<Self>) -> std::io::Result<()> {
        let mut thread = self.thread.lock();
        if self.clock.is_manual() || thread.is_some() {
            return Ok(());
        }
        self.timers.set_stopped(false);
        let (board, timers, clock) = (
            Arc::downgrade(self),
            Arc::clone(&self.timers),
            Arc::clone(&self.clock),
        );
        let run = move || {
            while timers.wait(&clock) {
                let Some(board) = board.upgrade() else { return };
                timers.fire_due(clock.now(), |slot| board.fire(slot));
            }
        };
        let started = std::thread::Builder::new()
            .name("timers".into())
            .spawn(run)?;
        *thread = Some(started);
        Ok(())
    }

    /// Ends the timer thread and waits for its end.
    pub fn stop_timers(&self) {
        self.timers.set_stopped(true);
        if let Some(thread) = self.thread.lock().take() {
            // The last owner of the board may be the thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }

    /// Moves a manual clock to `to`, firing what is due on the way at its own instant.
    pub fn advance(&self, to: Nanos) {
        let (mut at, mut rounds) = (0, 0);
        while let Some(next) = self.timers.nearest().filter(|&next| next <= to) {
            self.clock.advance(next);
            let now = self.clock.now();
            rounds = if now == at { rounds + 1 } else { 0 };
            at = now;
            if rounds > 1000 {
                debug_assert!(false, "a device's deadline doesn't move on at {now}");
                break;
            }
            self.timers.fire_due(now, |slot| self.fire(slot));
        }
        self.clock.advance(to);
    }

    /// The nearest deadline: to where `--icount` jumps when all vCPUs sleep. 0 when a device has host input.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.timers.nearest()
    }

    /// How many timers were fired.
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The event words, one a vCPU.
    pub fn events(&self) -> &[Arc<Events>] {
        &self.events
    }

    /// Where the machine's requests arrive.
    pub fn requests(&self) -> &Arc<MachineRequests> {
        &self.requests
    }

    /// The A20 gate.
    pub fn a20(&self) -> &Arc<A20> {
        &self.a20
    }

    /// The interrupt router, for more devices' lines.
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Where the user's key presses and mouse movements go.
    pub fn input(&self) -> &Inbox<InputEvent> {
        &self.input
    }

    /// The user presses the power button.
    pub fn press_power_button(&self) {
        // A full queue has presses enough.
        self.power_button.push(());
    }

    /// The user presses the NMI button.
    pub fn press_nmi_button(&self) {
        self.apics.nmi();
    }

    /// The ACPI tables of this machine, to be laid into RAM.
    pub fn acpi_tables(&self) -> Vec<(x86::PhysAddr, Vec<u8>)> {
        acpi::build(&self.acpi)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.stop_timers();
    }
}

/// Enters a device into the dispatch tables.
fn claim(
    ports: &mut PortTable,
    regions: &mut RegionTable,
    functions: &mut Vec<(DevFn, usize)>,
    index: usize,
    device: &mut dyn Device,
) {
    let name = device.name();
    for range in device.pio().map_or_else(Vec::new, |pio| pio.ports()) {
        ports
            .claim(range, index)
            .unwrap_or_else(|port| panic!("{name} claims port {port:#x}, which is taken"));
    }
    for region in device.mmio().map_or_else(Vec::new, |mmio| mmio.regions()) {
        assert!(
            regions.claim(region, index),
            "{name} claims {region:x?}, which is taken"
        );
    }
    if let Some(function) = device.pci() {
        let devfn = function.devfn();
        assert!(
            !functions.iter().any(|&(taken, _)| taken == devfn),
            "{name} claims {devfn:?}, which is taken"
        );
        functions.push((devfn, index));
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
pub(crate) mod tests;
