//! Doppel's side: a vCPU at privilege level 3 below a Linux-like kernel's tables, and the engine that runs cases.

use std::sync::Arc;

use backend_interp::Interp;
use backend_jit::{By, Counts, Jit, Options, Windows};
use frontend_x86::{Features, Limits, Mode};
use softmmu::{Bus, GuestRam, Mmu};
use system::testing::Board;
use system::{CpuModel, Engine, Events, LazyFlags, Platform, Vcpu};
use x86::{CpuState, Exception, PhysAddr, Shadow, TableReg, attr, cr0, cr4, efer};

use crate::case::{CODE_BYTES, Case, Change, Ending, Fx, NO_FAULT, Outcome};
use crate::layout::{
    self, ALIASES, ARENA, CODE, CODE_LEN, EXIT, EXIT_LEN, FILLER, GDT, LDT, STATE, WRITABLE,
    way_back,
};

const RAM: u64 = 4 << 20;
/// Linear address of physical 0, for the kernel's eyes only.
const KERNEL: u64 = 0xffff_ffff_8000_0000;
const GDT_AT: u64 = 0x1000;
const LDT_AT: u64 = 0x2000;
const IDT_AT: u64 = 0x3000;
const TSS_AT: u64 = 0x4000;
const STACK_AT: u64 = 0x6000;
const ARENA_AT: u64 = 0x1_0000;
const CODE_AT: u64 = 0x1_4000;
const STATE_AT: u64 = 0x1_8000;
const EXIT_AT: u64 = 0x1_9000;
const TABLES: u64 = 0x10_0000;
/// Offset of the handler of vector 0; the others follow, 16 bytes each.
const HANDLERS: u64 = KERNEL + 0x1_a000;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const NX: u64 = 1 << 63;

/// The guest's CPU: all that engines implement.
///
/// # Panics
/// When the model has lost its name.
pub fn model() -> CpuModel {
    CpuModel::parse("max").expect("the largest model has this name")
}

/// How a case is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One instruction by itself.
    Step,
    /// As part of a block that goes on behind it, chained to the next.
    Chained,
}

/// Which engine runs the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The interpreter.
    Interpreter,
    /// The interpreter without the host's vector unit and x87.
    Portable,
    /// The translator.
    Translator,
    /// The translator with accesses by the TLB.
    Hops,
    /// The translator with windows for 32-bit code, open whenever they can be.
    Windows,
    /// The translator with page caches that are empty again and again, and seem to know a page that is used.
    Astray,
}

impl Kind {
    /// What `DOPPEL_ORACLE_ENGINE` calls it.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "interp" => Self::Interpreter,
            "portable" => Self::Portable,
            "jit" => Self::Translator,
            "hops" => Self::Hops,
            "windows" => Self::Windows,
            "astray" => Self::Astray,
            _ => return None,
        })
    }
}

/// What runs the cases.
enum Runner {
    Interp(Box<Interp>),
    Jit(Box<Jit>),
}

impl Runner {
    fn engine(&mut self) -> &mut dyn Engine {
        match self {
            Self::Interp(interp) => &mut **interp,
            Self::Jit(jit) => &mut **jit,
        }
    }
}

/// The vCPU and its engine.
pub struct Doppel {
    v: Box<Vcpu>,
    runner: Runner,
    ram: Arc<GuestRam>,
    /// The arena before a case's own bytes are laid.
    template: Vec<u8>,
    /// The arena as it would be if the instruction wrote nothing.
    expected: Vec<u8>,
    /// The arena as it is.
    now: Vec<u8>,
    laid: (u64, [u8; CODE_BYTES], u8, u8),
    changes: Vec<Change>,
    /// Instructions laid so far.
    codes: u64,
    /// Instructions that a chained run may do: so many that a translator does not count them.
    plenty: u64,
    next_table: u64,
}

fn word(bytes: &[u8], n: usize) -> u64 {
    u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap_or_default())
}

impl Doppel {
    /// A vCPU of the largest model.
    ///
    /// # Panics
    /// When the host has no memory to give, or `DOPPEL_ORACLE_ENGINE` names nothing.
    pub fn new() -> Self {
        // Which engine: for runs by hand.
        let name = std::env::var("DOPPEL_ORACLE_ENGINE").unwrap_or_else(|_| "interp".into());
        Self::with(Kind::named(&name).unwrap_or_else(|| panic!("no engine has the name {name:?}")))
    }

    /// A vCPU of the largest model, run by an engine.
    ///
    /// # Panics
    /// When the host has no memory to give.
    pub fn with(kind: Kind) -> Self {
        let ram = Arc::new(GuestRam::new(RAM).expect("the host has memory for a test"));
        let model = Arc::new(model());
        let features = Features::new(&model.features_iced());
        let (runner, plenty) = match kind {
            Kind::Translator | Kind::Hops | Kind::Windows | Kind::Astray => {
                let options = Options {
                    single: true,
                    by: match kind {
                        Kind::Hops => By::Tlb,
                        _ => By::Page,
                    },
                    astray: kind == Kind::Astray,
                    windows: match kind {
                        Kind::Windows => Windows::Always,
                        _ => Windows::Never,
                    },
                    ..Options::default()
                };
                (Runner::Jit(Box::new(Jit::new(features, options))), 1 << 40)
            }
            Kind::Interpreter | Kind::Portable => {
                let mut interp = Interp::new(features);
                interp.set_portable(kind == Kind::Portable);
                (Runner::Interp(Box::new(interp)), 1 << 16)
            }
        };
        let board = Arc::new(Board::default());
        let mmu = Mmu::new(
            0,
            Arc::clone(&ram),
            Arc::clone(&board) as Arc<dyn Bus>,
            model.maxphyaddr(),
        );
        let v = Vcpu::new(
            0,
            model,
            mmu,
            Arc::new(Events::default()),
            board as Arc<dyn Platform>,
        );
        let template = layout::template();
        let mut doppel = Self {
            v,
            runner,
            ram,
            expected: template.clone(),
            now: template.clone(),
            template,
            laid: (0, [0; CODE_BYTES], 0, 0),
            changes: Vec::new(),
            codes: 0,
            plenty,
            next_table: TABLES + 0x1000,
        };
        doppel.build();
        doppel
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.write(PhysAddr(at), bytes).expect("inside RAM");
    }

    fn build(&mut self) {
        for (n, base) in ALIASES.into_iter().enumerate() {
            assert_eq!(layout::arena_offset(base), Some(0), "alias {n}");
            for page in (0..ARENA as u64).step_by(0x1000) {
                let writable = if page < WRITABLE as u64 { W } else { 0 };
                self.map(base + page, (ARENA_AT + page) | P | U | NX | writable);
            }
        }
        for page in (0..CODE_LEN).step_by(0x1000) {
            for base in CODE {
                self.map(base + page, (CODE_AT + page) | P | U);
            }
        }
        self.map(STATE, STATE_AT | P | U | W | NX);
        self.map(EXIT, EXIT_AT | P | U);
        for page in (0..TABLES).step_by(0x1000) {
            self.map(KERNEL + page, page | P | W);
        }
        self.write(ARENA_AT, &self.template);
        self.write(CODE_AT, &[FILLER; CODE_LEN as usize]);
        self.write(STATE_AT, &EXIT.to_le_bytes());
        // UD2: a chained run ends there.
        self.write(EXIT_AT, &[0x0f, 0x0b]);
        self.tables();
        let st = Self::kernel();
        self.v.load_state(st);
    }

    /// Descriptor tables, IDT and TSS.
    fn tables(&self) {
        for (n, raw) in GDT.into_iter().enumerate() {
            self.write(GDT_AT + n as u64 * 8, &raw.to_le_bytes());
        }
        let system = |kind| attr::P | kind;
        let (tss, ldt) = (KERNEL + TSS_AT, KERNEL + LDT_AT);
        for (index, base, limit, kind) in
            [(8, tss, 0x67, 0xb), (10, ldt, LDT.len() as u32 * 8 - 1, 2)]
        {
            self.write(
                GDT_AT + index * 8,
                &layout::descriptor(base, limit, system(kind)).to_le_bytes(),
            );
            self.write(GDT_AT + index * 8 + 8, &(base >> 32).to_le_bytes());
        }
        for (n, entry) in LDT.iter().enumerate() {
            self.write(LDT_AT + n as u64 * 8, &entry.descriptor().to_le_bytes());
        }
        for vector in 0..256_u64 {
            // Linux lets user mode raise #BP and #OF by INT n.
            let dpl = if matches!(vector, 3 | 4) {
                attr::DPL
            } else {
                0
            };
            let offset = HANDLERS + vector * 16;
            let attributes = u64::from(attr::P | dpl | 0xe);
            let low =
                offset & 0xffff | 0x10 << 16 | attributes << 40 | (offset >> 16 & 0xffff) << 48;
            self.write(IDT_AT + vector * 16, &low.to_le_bytes());
            self.write(IDT_AT + vector * 16 + 8, &(offset >> 32).to_le_bytes());
        }
        self.write(TSS_AT + 4, &(KERNEL + STACK_AT).to_le_bytes());
        self.write(TSS_AT + 0x66, &0x68_u16.to_le_bytes());
    }

    fn kernel() -> CpuState {
        let mut st = CpuState::reset();
        st.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        st.cr3 = TABLES;
        st.cr4 = cr4::PAE
            | cr4::DE
            | cr4::PSE
            | cr4::MCE
            | cr4::PGE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::UMIP
            | cr4::FSGSBASE
            | cr4::OSXSAVE
            | cr4::SMEP
            | cr4::SMAP;
        st.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        st.xcr0 = model().xcr0();
        st.gdtr = TableReg {
            base: KERNEL + GDT_AT,
            limit: GDT.len() as u16 * 8 - 1,
        };
        st.idtr = TableReg {
            base: KERNEL + IDT_AT,
            limit: 0xfff,
        };
        st.tr = x86::Segment {
            base: KERNEL + TSS_AT,
            limit: 0x67,
            attr: attr::P | 0xb,
            selector: 0x40,
        };
        let limit = LDT.len() as u32 * 8 - 1;
        st.ldtr = x86::Segment {
            base: KERNEL + LDT_AT,
            limit,
            attr: attr::P | 2,
            selector: 0x50,
        };
        for (segment, selector) in st.seg.iter_mut().zip(Case::new(64, &[]).seg) {
            *segment = layout::segment(selector);
        }
        st.rflags = crate::case::FIXED_FLAGS;
        st
    }

    /// Maps a page: `entry` is its page-table entry.
    fn map(&mut self, lin: u64, entry: u64) {
        let mut table = TABLES;
        for shift in [39, 30, 21] {
            let at = PhysAddr(table + (lin >> shift & 511) * 8);
            let mut next = self.ram.read_u64(at).expect("inside RAM");
            if next == 0 {
                next = self.next_table | P | W | U;
                self.next_table += 0x1000;
                self.ram.write_u64(at, next).expect("inside RAM");
            }
            table = next & !0xfff;
        }
        let at = PhysAddr(table + (lin >> 12 & 511) * 8);
        self.ram.write_u64(at, entry).expect("inside RAM");
    }

    fn lay_code(&mut self, case: &Case) {
        let at = case.code_offset();
        let wanted = (at, case.code, case.len, case.bits);
        if wanted == self.laid {
            return;
        }
        let to_end = |from: u64, len: usize| len.min((CODE_LEN - from) as usize);
        let old = to_end(self.laid.0, CODE_BYTES + EXIT_LEN as usize);
        self.write(
            CODE_AT + self.laid.0,
            &[FILLER; CODE_BYTES + EXIT_LEN as usize][..old],
        );
        let mut bytes = [0; CODE_BYTES + EXIT_LEN as usize];
        let len = usize::from(case.len);
        let (back, back_len) = way_back(case.bits);
        bytes[..len].copy_from_slice(case.bytes());
        bytes[len..len + back_len].copy_from_slice(&back[..back_len]);
        self.write(CODE_AT + at, &bytes[..to_end(at, len + back_len)]);
        self.laid = wanted;
        self.codes += 1;
        if self.codes.is_multiple_of(64) {
            // Blocks of code that never comes back would pile up in its two pages.
            self.runner.engine().forget(&mut self.v);
        }
    }

    fn lay_memory(&mut self, case: &Case) {
        for (at, bytes) in case.laid() {
            self.write(ARENA_AT + at as u64, bytes);
            self.expected[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn undo(&mut self, case: &Case) {
        for (at, bytes) in case.laid() {
            let range = at..at + bytes.len();
            self.write(ARENA_AT + at as u64, &self.template[range.clone()]);
            self.expected[range.clone()].copy_from_slice(&self.template[range]);
        }
        for change in &self.changes {
            let at = change.word as usize * 8;
            self.write(ARENA_AT + at as u64, &self.template[at..at + 8]);
        }
    }

    fn load(&mut self, case: &Case) {
        let v = &mut *self.v;
        v.st.gpr = case.gpr;
        v.st.rip = case.ip;
        for (segment, selector) in v.st.seg.iter_mut().zip(case.seg) {
            *segment = layout::segment(selector);
        }
        if case.bits == 64 {
            v.st.seg[4].base = case.fs_base;
            v.st.seg[5].base = case.gs_base;
        }
        v.st.shadow = Shadow::None;
        v.pending_debug = 0;
        v.exception = None;
        v.flags = LazyFlags::KNOWN;
        v.set_rflags(case.rflags);
        let fpu = &mut v.st.fpu;
        (fpu.fcw, fpu.fsw, fpu.ftw) = (case.fx.fcw(), case.fx.fsw(), case.fx.ftw());
        (fpu.fop, fpu.fcs, fpu.fds, fpu.fip, fpu.fdp) = (0, 0, 0, 0, 0);
        let top = usize::from(fpu.top());
        for i in 0..8 {
            fpu.regs[(top + i) & 7][..10].copy_from_slice(case.fx.st(i));
        }
        v.st.mxcsr = case.fx.mxcsr();
        v.st.k = case.wide.k;
        for n in 0..16 {
            v.st.vec[n][..16].copy_from_slice(case.fx.xmm(n));
            v.st.vec[n][16..32].copy_from_slice(&case.uppers[n]);
            v.st.vec[n][32..].copy_from_slice(&case.wide.uppers[n]);
            v.st.vec[16 + n] = case.wide.high[n];
        }
    }

    fn store(&self, out: &mut Outcome) {
        let v = &*self.v;
        out.gpr = v.st.gpr;
        out.ip = v.st.rip;
        out.rflags = v.rflags();
        (out.fs_base, out.gs_base) = (v.st.seg[4].base, v.st.seg[5].base);
        for (selector, segment) in out.seg.iter_mut().zip(&v.st.seg) {
            *selector = segment.selector;
        }
        let fpu = &v.st.fpu;
        out.fx = Fx([0; 512]);
        out.fx.set_fcw(fpu.fcw);
        out.fx.set_fsw(fpu.fsw);
        out.fx.set_ftw(fpu.ftw);
        out.fx.set_mxcsr(v.st.mxcsr);
        out.wide.k = v.st.k;
        let top = usize::from(fpu.top());
        for i in 0..8 {
            out.fx
                .st_mut(i)
                .copy_from_slice(&fpu.regs[(top + i) & 7][..10]);
        }
        for n in 0..16 {
            out.fx.xmm_mut(n).copy_from_slice(&v.st.vec[n][..16]);
            out.uppers[n].copy_from_slice(&v.st.vec[n][16..32]);
            out.wide.uppers[n].copy_from_slice(&v.st.vec[n][32..]);
            out.wide.high[n] = v.st.vec[16 + n];
        }
    }

    /// Runs a case. The changed quadwords stay until the next.
    pub fn run(&mut self, case: &Case, way: Way) -> (Outcome, &[Change]) {
        self.lay_code(case);
        self.lay_memory(case);
        self.load(case);
        let mut out = Outcome::NONE;
        let raised = match way {
            Way::Step => self.step(),
            Way::Chained => self.chained(),
        };
        let raised = if self.v.st.cpl() == 0 {
            Some(self.leave_handler())
        } else {
            raised
        };
        self.store(&mut out);
        if let Some(e) = raised {
            (out.vector, out.error, out.cr2) =
                (e.vector.into(), e.error.unwrap_or(0), e.cr2.unwrap_or(0));
        }
        if way == Way::Chained && (out.vector, out.ip) == (6, EXIT) {
            (out.vector, out.ip, out.seg[1]) = (NO_FAULT, case.next_ip(), case.seg[1]);
        }
        self.ram
            .read(PhysAddr(ARENA_AT), &mut self.now[..WRITABLE])
            .expect("inside RAM");
        self.changes.clear();
        if self.now[..WRITABLE] != self.expected[..WRITABLE] {
            for n in 0..WRITABLE / 8 {
                let value = word(&self.now, n);
                if value != word(&self.expected, n) {
                    self.changes.push(Change {
                        word: n as u64,
                        value,
                    });
                }
            }
        }
        self.undo(case);
        out.changes = self.changes.len() as u32;
        out.ending = Ending::Done;
        (out, &self.changes)
    }

    /// What the translator has done, if it is one.
    pub fn counts(&self) -> Option<Counts> {
        match &self.runner {
            Runner::Interp(_) => None,
            Runner::Jit(jit) => Some(jit.counts()),
        }
    }

    /// The IR of a case's first instruction.
    pub fn ir(&mut self, case: &Case) -> String {
        self.load(case);
        let limits = Limits {
            branches: 0,
            max_insns: 1,
            page: u32::from(case.len),
        };
        let features = Features::new(&self.v.model.features_iced());
        frontend_x86::lift(case.bytes(), &limits, Mode::of(&self.v.st), &features)
            .block
            .to_string()
    }

    /// One instruction with all its repetitions.
    fn step(&mut self) -> Option<Exception> {
        let before = self.v.retired;
        // The arena is small: no string goes on for longer.
        for _ in 0..1 << 20 {
            if let Err(e) = self.runner.engine().advance(&mut self.v, 1) {
                return Some(e);
            }
            if self.v.retired != before {
                return None;
            }
        }
        None
    }

    /// Blocks until the way back or an exception.
    fn chained(&mut self) -> Option<Exception> {
        for _ in 0..1 << 20 {
            if let Err(e) = self.runner.engine().advance(&mut self.v, self.plenty) {
                return Some(e);
            }
            if self.v.st.cpl() == 0 {
                return None;
            }
        }
        None
    }

    /// A software interrupt was delivered: its vector, and the interrupted state again, as a signal frame has it.
    fn leave_handler(&mut self) -> Exception {
        let v = &mut *self.v;
        let vector = ((v.st.rip - HANDLERS) / 16) as u8;
        let frame = v.st.gpr[4].wrapping_sub(KERNEL);
        let mut image = [0; 5];
        for (n, value) in image.iter_mut().enumerate() {
            *value = self
                .ram
                .read_u64(PhysAddr(frame + n as u64 * 8))
                .expect("the kernel's stack is in RAM");
        }
        let [rip, cs, rflags, rsp, ss] = image;
        v.st.rip = rip;
        v.st.gpr[4] = rsp;
        v.st.seg[1] = layout::segment(cs as u16);
        v.st.seg[2] = layout::segment(ss as u16);
        v.set_rflags(rflags);
        Exception::new(vector)
    }
}

impl Default for Doppel {
    fn default() -> Self {
        Self::new()
    }
}
