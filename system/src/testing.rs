//! A vCPU on a board without devices, with descriptor tables, TSSs and page tables in RAM: for tests and fuzz targets.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use softmmu::{Bus, GuestRam, Mmu};
use x86::{Activity, CpuState, PhysAddr, Seg, Segment, attr, cr0, cr4, efer, flags};

use crate::ticks::Ticks;
use crate::{CpuModel, Events, MsrFault, Platform, Vcpu, event};

/// Bytes of RAM.
pub const RAM: u64 = 4 << 20;
/// Linear and physical address of the GDT.
pub const GDT: u64 = 0x1000;
/// The IDT.
pub const IDT: u64 = 0x2000;
/// The LDT.
pub const LDT: u64 = 0x3000;
/// The TSS that TR holds.
pub const TSS: u64 = 0x4000;
/// A 32-bit TSS to switch to.
pub const TSS_B: u64 = 0x5000;
/// A 16-bit TSS to switch to.
pub const TSS_C: u64 = 0x6000;
/// Initial (E)SP of the current stack.
pub const STACK: u64 = 0x8000;
/// ESP0, RSP0 in [`TSS`]; level n's is n * 1000h above.
pub const STACK0: u64 = 0xa000;
/// IST1 in a 64-bit [`TSS`]; number n's is (n - 1) * 1000h above.
pub const IST1: u64 = 0x10000;
/// Offset of the handler that [`Machine::gate`]s lead to.
pub const HANDLER: u64 = 0x9_1230;
/// RIP at the start.
pub const START: u64 = 0x2_0000;
/// The page tables' first page.
pub const TABLES: u64 = 0x10_0000;

/// Selectors of the GDT that [`Machine`] builds; from [`sel::FREE`] up it is empty.
#[expect(
    missing_docs,
    reason = "C code, D data, the digit is the DPL; the rest is named as in the manual"
)]
pub mod sel {
    pub const C0: u16 = 0x08;
    pub const D0: u16 = 0x10;
    pub const C1: u16 = 0x19;
    pub const D1: u16 = 0x21;
    pub const C2: u16 = 0x2a;
    pub const D2: u16 = 0x32;
    pub const C3: u16 = 0x3b;
    pub const D3: u16 = 0x43;
    /// Conforming, DPL 0.
    pub const CONF0: u16 = 0x48;
    /// Conforming, DPL 3.
    pub const CONF3: u16 = 0x53;
    /// 16-bit.
    pub const C0_16: u16 = 0x58;
    pub const D0_16: u16 = 0x60;
    pub const C3_16: u16 = 0x6b;
    pub const D3_16: u16 = 0x73;
    /// 64-bit code.
    pub const L0: u16 = 0x78;
    pub const L3: u16 = 0x83;
    pub const LDT: u16 = 0x88;
    /// Two entries in long mode.
    pub const TSS: u16 = 0x98;
    pub const TSS_B: u16 = 0xa8;
    pub const TSS_C: u16 = 0xb8;
    /// Execute-only code, DPL 0.
    pub const X0: u16 = 0xc8;
    /// Read-only data, DPL 0.
    pub const R0: u16 = 0xd0;
    /// Not present.
    pub const NP_CODE: u16 = 0xd8;
    pub const NP_DATA: u16 = 0xe0;
    /// 64-bit conforming code, DPL 0.
    pub const LCONF0: u16 = 0xe8;
    pub const FREE: u16 = 0x100;
    /// Beyond the limit.
    pub const BEYOND: u16 = 0x400;
}

/// Access bytes of descriptors, accessed bits clear.
#[expect(missing_docs, reason = "named as in the manual")]
pub mod access {
    use x86::attr;

    pub const DATA: u32 = attr::P | attr::S | attr::RW;
    pub const READ_ONLY: u32 = attr::P | attr::S;
    pub const EXPAND_DOWN: u32 = DATA | attr::DC;
    pub const CODE: u32 = attr::P | attr::S | attr::CODE | attr::RW;
    pub const EXECUTE_ONLY: u32 = attr::P | attr::S | attr::CODE;
    pub const CONFORMING: u32 = CODE | attr::DC;
    pub const LDT: u32 = attr::P | 2;
    pub const TSS16: u32 = attr::P | 1;
    pub const TSS: u32 = attr::P | 9;
    pub const CALL16: u32 = attr::P | 4;
    pub const TASK_GATE: u32 = attr::P | 5;
    pub const INT16: u32 = attr::P | 6;
    pub const TRAP16: u32 = attr::P | 7;
    pub const CALL: u32 = attr::P | 12;
    pub const INT: u32 = attr::P | 14;
    pub const TRAP: u32 = attr::P | 15;

    /// DPL bits.
    pub const fn dpl(level: u8) -> u32 {
        (level as u32) << attr::DPL_SHIFT
    }
}

/// A code, data or system descriptor; `limit` is the raw 20-bit field.
pub const fn descriptor(base: u64, limit: u32, attr: u32) -> u64 {
    let limit = limit as u64;
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | ((attr & 0xf0ff) as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// The lower half of a gate; `count` is a call gate's parameter count or a 64-bit interrupt gate's IST index.
pub const fn gate(selector: u16, offset: u64, attr: u32, count: u8) -> u64 {
    offset & 0xffff
        | (selector as u64) << 16
        | (count as u64) << 32
        | ((attr & 0xff) as u64) << 40
        | (offset >> 16 & 0xffff) << 48
}

/// A board with an interrupt queue and nothing else.
#[derive(Debug, Default)]
pub struct Board {
    interrupts: Mutex<VecDeque<u8>>,
    cr8: Mutex<u8>,
    /// Port writes: port, size, value.
    pub outs: Mutex<Vec<(u16, u8, u32)>>,
    /// INITs seen by the local APIC.
    pub inits: Mutex<u32>,
    events: Arc<Events>,
    time: OnceLock<(Ticks, Instant)>,
}

impl Board {
    /// Has the TSC follow the host's time, by numbers that translated code uses, too. Whether the host's counter is fit for that.
    pub fn start_time(&self) -> bool {
        let ticks = Ticks::new();
        ticks.is_some_and(|ticks| self.time.set((ticks, Instant::now())).is_ok())
    }

    /// Asks for an external interrupt.
    pub fn interrupt(&self, vector: u8) {
        self.interrupts.lock().push_back(vector);
        self.events.raise(event::INTR);
    }
}

impl Bus for Board {
    fn mmio_read(&self, _cpu: usize, _addr: PhysAddr, size: u8) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(size))
    }

    fn mmio_write(&self, _cpu: usize, _addr: PhysAddr, _size: u8, _value: u64) {}

    fn pio_read(&self, _cpu: usize, _port: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size))
    }

    fn pio_write(&self, _cpu: usize, port: u16, size: u8, value: u32) {
        self.outs.lock().push((port, size, value));
    }
}

impl Platform for Board {
    fn tsc(&self) -> u64 {
        match self.time.get() {
            Some((ticks, start)) => ticks.now(|| start.elapsed().as_nanos() as u64),
            None => 0,
        }
    }

    fn ticks(&self) -> Option<&Ticks> {
        self.time.get().map(|(ticks, _)| ticks)
    }

    fn tsc_hz(&self) -> u64 {
        1_000_000_000
    }

    fn crystal_hz(&self) -> u64 {
        25_000_000
    }

    fn ack_interrupt(&self, _cpu: usize) -> Option<u8> {
        let mut queue = self.interrupts.lock();
        let vector = queue.pop_front();
        if queue.is_empty() {
            self.events.lower(event::INTR);
        }
        vector
    }

    fn cr8(&self, _cpu: usize) -> u8 {
        *self.cr8.lock()
    }

    fn set_cr8(&self, _cpu: usize, value: u8) {
        *self.cr8.lock() = value;
    }

    fn apic_msr_read(&self, _cpu: usize, _msr: u32) -> Result<u64, MsrFault> {
        Err(MsrFault)
    }

    fn apic_msr_write(&self, _cpu: usize, _msr: u32, _value: u64) -> Result<(), MsrFault> {
        Err(MsrFault)
    }

    fn tsc_deadline(&self, _cpu: usize) -> u64 {
        0
    }

    fn set_tsc_deadline(&self, _cpu: usize, _raw_tsc: u64) {}

    fn apic_init(&self, _cpu: usize) {
        *self.inits.lock() += 1;
    }
}

/// A vCPU with its RAM and board.
#[derive(Debug)]
pub struct Machine {
    /// The vCPU.
    pub v: Box<Vcpu>,
    /// Its RAM.
    pub ram: Arc<GuestRam>,
    /// Its board.
    pub board: Arc<Board>,
    /// Its events.
    pub events: Arc<Events>,
}

impl Machine {
    /// vCPU `index` after RESET.
    ///
    /// # Panics
    /// When the host has no memory to give.
    pub fn reset(index: usize) -> Self {
        let ram = GuestRam::new(RAM).expect("the host has memory for a test");
        Self::with_ram(index, Arc::new(ram))
    }

    /// Another vCPU in the same state on the same RAM; its board is its own. RAM tells both of changed code.
    pub fn beside(&self, index: usize) -> Self {
        let other = Self::with_ram(index, Arc::clone(&self.ram));
        let told = [(self.v.index, &self.events), (index, &other.events)]
            .map(|(index, events)| (index, Arc::clone(events)));
        self.ram.set_kick(Box::new(move |cpu| {
            for (_, events) in told.iter().filter(|(index, _)| *index == cpu) {
                events.raise(event::CODE);
            }
        }));
        let mut other = other;
        other.v.load_state(self.v.st.clone());
        other
    }

    fn with_ram(index: usize, ram: Arc<GuestRam>) -> Self {
        let events = Arc::new(Events::default());
        let board = Arc::new(Board {
            events: Arc::clone(&events),
            ..Board::default()
        });
        let model = Arc::new(CpuModel::default());
        let mmu = Mmu::new(
            index,
            Arc::clone(&ram),
            Arc::clone(&board) as Arc<dyn Bus>,
            model.maxphyaddr(),
        );
        let platform = Arc::clone(&board) as Arc<dyn Platform>;
        let v = Vcpu::new(index, model, mmu, Arc::clone(&events), platform);
        Self {
            v,
            ram,
            board,
            events,
        }
    }

    /// Real mode: CS = 1000h, SS = 0, the IVT at 0 leads to F000h:vector * 10h.
    pub fn real() -> Self {
        let mut m = Self::reset(0);
        for vector in 0..256 {
            m.write(vector * 4, 4, 0xf000_0000 | vector << 4);
        }
        let mut st = CpuState::reset();
        st.seg[Seg::Cs as usize] = Segment::real(0x1000);
        st.idtr.limit = 0x3ff;
        st.gpr[4] = STACK;
        m.begin(st, 0x1234);
        m
    }

    /// Protected mode at a privilege level, unpaged, 32-bit segments from [`sel`], a 32-bit TSS, interrupt gates of
    /// DPL 0 to C0:[`HANDLER`] + vector in all 256 entries.
    pub fn protected(cpl: u8) -> Self {
        let mut m = Self::reset(0);
        m.build_gdt();
        for vector in 0..=255 {
            m.gate(vector, sel::C0, access::INT, 0);
        }
        m.write(LDT, 8, 0);
        for level in 0..3_u16 {
            let at = TSS + 4 + u64::from(level) * 8;
            m.write(at, 4, STACK0 + u64::from(level) * 0x1000);
            m.write(at + 4, 2, u64::from(sel::D0 + level * 0x11));
        }
        m.write(TSS + 0x66, 2, 0x88);
        m.write_descriptor(sel::TSS, descriptor(TSS, 0xfff, access::TSS | 2));
        m.write_descriptor(sel::TSS_B, descriptor(TSS_B, 0xfff, access::TSS));
        m.write_descriptor(sel::TSS_C, descriptor(TSS_C, 0xfff, access::TSS16));
        m.write_descriptor(sel::LDT, descriptor(LDT, 0xfff, access::LDT));
        let mut st = m.tables(CpuState::reset());
        st.cr0 = cr0::PE | cr0::ET | cr0::NE;
        st.idtr.limit = 0x7ff;
        let step = u16::from(cpl) * 0x11;
        m.segments(&mut st, sel::C0 + step, sel::D0 + step);
        m.begin(st, START);
        m
    }

    /// Long mode at a privilege level, in 64-bit or compatibility mode; 64-bit interrupt gates to L0:[`HANDLER`] +
    /// vector; memory identity-mapped for all levels.
    pub fn long(cpl: u8, code64: bool) -> Self {
        let mut m = Self::reset(0);
        m.build_gdt();
        for vector in 0..=255 {
            m.gate64(vector, sel::L0, access::INT, 0);
        }
        for level in 0..3 {
            m.write(TSS + 4 + level * 8, 8, STACK0 + level * 0x1000);
        }
        for ist in 0..7 {
            m.write(TSS + 0x24 + ist * 8, 8, IST1 + ist * 0x1000);
        }
        m.write_descriptor(sel::TSS, descriptor(TSS, 0xfff, access::TSS | 2));
        m.write_descriptor(sel::LDT, descriptor(LDT, 0xfff, access::LDT));
        m.map_long();
        let mut st = m.tables(CpuState::reset());
        st.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::PG;
        st.cr3 = TABLES;
        st.cr4 = cr4::PAE;
        st.efer = efer::LME | efer::LMA | efer::SCE;
        st.idtr.limit = 0xfff;
        let step = u16::from(cpl) * 0x11;
        let cs = match (code64, cpl) {
            (true, 0) => sel::L0,
            (true, _) => sel::L3,
            (false, _) => sel::C0 + step,
        };
        m.segments(&mut st, cs, sel::D0 + step);
        m.begin(st, START);
        m
    }

    /// Virtual-8086 mode below the protected mode of [`Machine::protected`].
    pub fn vm86(iopl: u8) -> Self {
        let mut m = Self::protected(0);
        let mut st = m.v.st.clone();
        for (n, segment) in st.seg.iter_mut().enumerate() {
            let real = Segment::real(0x100 * (n as u16 + 1));
            *segment = Segment {
                attr: real.attr | attr::DPL,
                ..real
            };
        }
        st.rflags = flags::FIXED | flags::VM | u64::from(iopl) << flags::IOPL_SHIFT;
        st.gpr[4] = STACK;
        m.begin(st, 0x1234);
        m
    }

    /// Loads a state, with `ip` as the running instruction's RIP.
    pub fn begin(&mut self, mut st: CpuState, ip: u64) {
        st.rip = ip;
        self.v.load_state(st);
        self.v.ip = ip;
        self.v.next_ip = ip + 2;
    }

    fn tables(&self, mut st: CpuState) -> CpuState {
        st.gdtr.base = GDT;
        st.gdtr.limit = 0x3ff;
        st.idtr.base = IDT;
        st.ldtr = self.segment(sel::LDT);
        st.tr = self.segment(sel::TSS);
        st
    }

    fn segments(&self, st: &mut CpuState, cs: u16, data: u16) {
        for seg in Seg::ALL {
            st.seg[seg as usize] = self.segment(if seg == Seg::Cs { cs } else { data });
        }
        st.gpr[4] = STACK;
    }

    fn build_gdt(&mut self) {
        let big = attr::G | attr::DB;
        for level in 0..4_u16 {
            let dpl = access::dpl(level as u8);
            self.write_descriptor(
                sel::C0 + level * 0x10,
                descriptor(0, 0xf_ffff, access::CODE | big | dpl),
            );
            self.write_descriptor(
                sel::D0 + level * 0x10,
                descriptor(0, 0xf_ffff, access::DATA | big | dpl),
            );
        }
        for (selector, limit, attr) in [
            (sel::CONF0, 0xf_ffff, access::CONFORMING | big),
            (
                sel::CONF3,
                0xf_ffff,
                access::CONFORMING | big | access::dpl(3),
            ),
            (sel::C0_16, 0xffff, access::CODE),
            (sel::D0_16, 0xffff, access::DATA),
            (sel::C3_16, 0xffff, access::CODE | access::dpl(3)),
            (sel::D3_16, 0xffff, access::DATA | access::dpl(3)),
            (sel::L0, 0xf_ffff, access::CODE | attr::L | attr::G),
            (
                sel::L3,
                0xf_ffff,
                access::CODE | attr::L | attr::G | access::dpl(3),
            ),
            (
                sel::LCONF0,
                0xf_ffff,
                access::CONFORMING | attr::L | attr::G,
            ),
            (sel::X0, 0xf_ffff, access::EXECUTE_ONLY | big),
            (sel::R0, 0xf_ffff, access::READ_ONLY | big),
            (sel::NP_CODE, 0xf_ffff, (access::CODE | big) & !attr::P),
            (sel::NP_DATA, 0xf_ffff, (access::DATA | big) & !attr::P),
        ] {
            self.write_descriptor(selector, descriptor(0, limit, attr));
        }
    }

    /// Identity-maps the first GiB by 2 MiB pages, writable and for all levels.
    fn map_long(&mut self) {
        let (pdpt, directory) = (TABLES + 0x1000, TABLES + 0x2000);
        self.write(TABLES, 8, pdpt | 7);
        self.write(pdpt, 8, directory | 7);
        for n in 0..512 {
            self.write(directory + n * 8, 8, n << 21 | 0x87);
        }
    }

    /// Turns 32-bit paging on, all of RAM identity-mapped by 4 KiB pages for all levels. Entries may be changed with
    /// [`Machine::page`].
    pub fn enable_paging(&mut self) {
        for table in 0..RAM >> 22 {
            self.write(TABLES + table * 4, 4, (TABLES + 0x1000 * (table + 1)) | 7);
        }
        for page in 0..RAM >> 12 {
            self.write(TABLES + 0x1000 + page * 4, 4, page << 12 | 7);
        }
        let mut st = self.v.st.clone();
        st.cr3 = TABLES;
        st.cr0 |= cr0::PG | cr0::WP;
        self.v.load_state(st);
    }

    /// Changes the flags of the page at a linear address in [`Machine::enable_paging`]'s tables.
    pub fn page(&mut self, lin: u64, flags: u64) {
        self.write(TABLES + 0x1000 + (lin >> 12) * 4, 4, lin & !0xfff | flags);
        self.v.mmu.flush_all();
    }

    /// A segment register filled from the GDT without checks, as if it had been loaded.
    pub fn segment(&self, selector: u16) -> Segment {
        let raw = self.read(GDT + u64::from(selector & 0xfff8), 8);
        let attr = (raw >> 40) as u32 & 0xf0ff;
        let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        Segment {
            base: raw >> 16 & 0xff_ffff | raw >> 56 << 24,
            limit: if attr & attr::G != 0 {
                limit << 12 | 0xfff
            } else {
                limit
            },
            attr: if attr & attr::S == 0 {
                attr
            } else {
                attr | attr::ACCESSED
            },
            selector,
        }
    }

    /// Fills a segment register from the GDT without checks.
    pub fn set_segment(&mut self, seg: Seg, selector: u16) {
        self.v.st.seg[seg as usize] = self.segment(selector);
        self.v.sync_mmu();
    }

    /// Writes a GDT entry (or, with TI set, an LDT entry).
    pub fn write_descriptor(&mut self, selector: u16, raw: u64) {
        let base = if selector & 4 == 0 { GDT } else { LDT };
        self.write(base + u64::from(selector & 0xfff8), 8, raw);
    }

    /// The GDT entry of a selector.
    pub fn read_descriptor(&self, selector: u16) -> u64 {
        self.read(GDT + u64::from(selector & 0xfff8), 8)
    }

    /// Makes an 8-byte gate in the IDT lead to `selector`:[`HANDLER`] + vector (16-bit gates: 230h + vector).
    pub fn gate(&mut self, vector: u8, selector: u16, attr: u32, dpl: u8) {
        let offset = HANDLER + u64::from(vector);
        let raw = gate(selector, offset, attr | access::dpl(dpl), 0);
        self.write(IDT + u64::from(vector) * 8, 8, raw);
    }

    /// Makes a 16-byte gate in the IDT lead to `selector`:[`HANDLER`] + vector.
    pub fn gate64(&mut self, vector: u8, selector: u16, attr: u32, ist: u8) {
        let raw = gate(selector, HANDLER + u64::from(vector), attr, ist);
        self.write(IDT + u64::from(vector) * 16, 8, raw);
        self.write(IDT + u64::from(vector) * 16 + 8, 8, 0);
    }

    /// Writes guest memory behind the CPU's back.
    ///
    /// # Panics
    /// When the address is not RAM.
    pub fn write(&mut self, addr: u64, size: usize, value: u64) {
        self.ram
            .write(PhysAddr(addr), &value.to_le_bytes()[..size])
            .expect("tests write RAM");
    }

    /// Reads guest memory behind the CPU's back.
    ///
    /// # Panics
    /// When the address is not RAM.
    pub fn read(&self, addr: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        self.ram
            .read(PhysAddr(addr), &mut bytes[..size])
            .expect("tests read RAM");
        u64::from_le_bytes(bytes)
    }

    /// `N` stack entries of `size` bytes from a linear address up.
    pub fn frame<const N: usize>(&self, at: u64, size: usize) -> [u64; N] {
        std::array::from_fn(|n| self.read(at + (n * size) as u64, size))
    }

    /// Writes stack entries of `size` bytes from a linear address up.
    pub fn write_frame(&mut self, at: u64, size: usize, values: &[u64]) {
        for (n, value) in values.iter().enumerate() {
            self.write(at + (n * size) as u64, size, *value);
        }
    }

    /// What must not change when a fault is raised: registers and the first 640 KiB, where all tables and stacks lie.
    ///
    /// # Panics
    /// When there is less RAM than that.
    pub fn snapshot(&self) -> (CpuState, Vec<u8>) {
        let mut bytes = vec![0; 0xa_0000];
        self.ram
            .read(PhysAddr(0), &mut bytes)
            .expect("tests read RAM");
        let mut st = self.v.st.clone();
        st.rflags = self.v.rflags();
        (st, bytes)
    }

    /// Whether the vCPU stands at an offset of a selector.
    pub fn at(&self, selector: u16, rip: u64) -> bool {
        self.v.st.rip == rip && self.v.seg(Seg::Cs).selector == selector
    }

    /// Whether the vCPU has shut down.
    pub fn shut_down(&self) -> bool {
        self.v.st.activity == Activity::Shutdown
    }
}
