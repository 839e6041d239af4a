//! Random systems: a mode, descriptor tables, a TSS, page tables, stacks, and registers that fit them.

use system::testing::{access, descriptor, gate};
use x86::{CpuState, Seg, Segment, attr, cr0, cr4, efer, flags};

use super::case::{Case, RAM};
use super::insns;
use crate::random::Random;

/// Where things lie in RAM (physical, and mostly also linear addresses).
pub mod place {
    /// The GDT.
    pub const GDT: u64 = 0x1000;
    /// The IDT.
    pub const IDT: u64 = 0x2000;
    /// The LDT.
    pub const LDT: u64 = 0x3000;
    /// The TSS in TR.
    pub const TSS: u64 = 0x4000;
    /// A page of NOPs: the handlers.
    pub const HANDLERS: u64 = 0x7000;
    /// Code.
    pub const CODE: u64 = 0x8000;
    /// Level 0's stack page; level n's is n pages above.
    pub const STACKS: u64 = 0xa000;
    /// Operands: 64 KiB.
    pub const DATA: u64 = 0x1_0000;
    /// Page tables.
    pub const TABLES: u64 = 0x2_0000;
    /// Linear addresses that random page-table entries map.
    pub const WINDOW: u64 = 0x4_0000;
    /// Bytes of it.
    pub const WINDOW_LEN: u64 = 0x2_0000;
}
use place::{CODE, DATA, GDT, HANDLERS, IDT, LDT, STACKS, TSS, WINDOW};

/// The instruction groups and how often each is drawn.
pub const GROUPS: [(&str, u64); 13] = [
    ("sreg", 14),
    ("far", 14),
    ("int", 6),
    ("table", 8),
    ("verify", 1),
    ("control", 9),
    ("flags", 7),
    ("io", 7),
    ("msr", 6),
    ("syscall", 5),
    ("alu", 24),
    ("string", 9),
    ("stack", 10),
];

/// The mode of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real-address mode.
    Real,
    /// Virtual-8086 mode.
    Vm86,
    /// Protected mode.
    Protected,
    /// Compatibility mode.
    Compat,
    /// 64-bit mode.
    Long,
}

/// A case in the making.
pub struct Gen<'a> {
    /// Where decisions come from.
    pub r: &'a mut Random,
    /// Registers.
    pub st: CpuState,
    /// RAM beside zeros.
    pub mem: Vec<(u64, Vec<u8>)>,
    /// The mode.
    pub mode: Mode,
    /// 16, 32 or 64: default operand and address size.
    pub bits: u32,
    /// The privilege level.
    pub cpl: u8,
    legacy_paging: bool,
    /// Bytes of a page-table entry; 0 without paging.
    pub entry: u64,
    /// Physical pages of the window's pages.
    pub window: Vec<u64>,
}

/// Selectors (GDT index * 8) that every protected-mode case has.
pub mod index {
    pub const CS: u16 = 1;
    pub const SS: u16 = 2;
    pub const DATA: u16 = 3;
    pub const LDT: u16 = 8;
    pub const TSS: u16 = 10;
    pub const KERNEL_CS: u16 = 12;
    pub const KERNEL_SS: u16 = 13;
    pub const MIDDLE_SS: u16 = 14;
    pub const RANDOM: u16 = 16;
    pub const END: u16 = 64;
}

/// What both sides accept.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// CR4 bits.
    pub cr4: u64,
    /// Virtual-8086 mode.
    pub vm86: bool,
    /// Paging outside long mode.
    pub legacy_paging: bool,
}

/// Makes the case of a group with this seed.
pub fn case(group: &str, seed: u64, common: Common) -> Case {
    let mut r = Random::new(
        seed ^ group
            .bytes()
            .fold(0, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)),
    );
    let mode = match r.below(100) {
        0..=21 => Mode::Real,
        22..=35 if common.vm86 => Mode::Vm86,
        22..=25 => Mode::Real,
        26..=65 => Mode::Protected,
        66..=78 => Mode::Compat,
        _ => Mode::Long,
    };
    let mut g = Gen {
        r: &mut r,
        st: CpuState::reset(),
        mem: Vec::new(),
        mode,
        bits: 16,
        cpl: 0,
        legacy_paging: common.legacy_paging,
        entry: 0,
        window: Vec::new(),
    };
    g.registers();
    g.system(common);
    let code = insns::instruction(&mut g, group);
    let repeats = g.finish(&code);
    Case {
        group: group.into(),
        st: g.st,
        mem: g.mem,
        code,
        repeats,
    }
}

impl Gen<'_> {
    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.r.below(100) < percent
    }

    /// Whether MOV CR0 may set PG.
    pub fn can_page(&self) -> bool {
        self.legacy_paging || matches!(self.mode, Mode::Compat | Mode::Long)
    }

    /// Writes RAM.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        if at + bytes.len() as u64 <= RAM as u64 {
            self.mem.push((at, bytes.to_vec()));
        }
    }

    /// Whether descriptor tables count.
    pub fn protected(&self) -> bool {
        !matches!(self.mode, Mode::Real | Mode::Vm86)
    }

    fn registers(&mut self) {
        for n in 0..16 {
            self.st.gpr[n] = self.r.integer();
        }
        let mut fl =
            self.r.next() & (flags::STATUS | flags::DF | flags::ID | flags::IF | flags::IOPL);
        for (bit, percent) in [(flags::NT, 10), (flags::AC, 2), (flags::RF, 3)] {
            if self.chance(percent) {
                fl |= bit;
            }
        }
        self.st.rflags = fl | flags::FIXED;
        self.st.cr2 = self.r.integer() & 0x7fff_ffff_ffff;
        let m = &mut self.st.msr;
        m.star = 0x0013_0008_0000_0000;
        if self.r.one_in(4) {
            m.star = self.r.next();
        }
        m.lstar = HANDLERS + self.r.below(64);
        m.cstar = HANDLERS + self.r.below(64);
        m.fmask = self.r.next() & 0x4_7fd5;
        m.kernel_gs_base = self.r.integer() & 0x7fff_ffff_ffff;
        m.sysenter_cs = self.r.pick(&[0, 8, 0x60, 0x62]);
        m.sysenter_esp = STACKS + 0x800;
        m.sysenter_eip = HANDLERS + self.r.below(64);
    }

    fn system(&mut self, common: Common) {
        self.st.idtr.limit = 0x3ff;
        self.put(HANDLERS, &[0x90; 0x1000]);
        match self.mode {
            Mode::Real => {
                self.narrow();
                self.real();
            }
            Mode::Vm86 => {
                self.protected_mode(common);
                self.narrow();
                self.vm86();
            }
            _ => self.protected_mode(common),
        }
    }

    /// Outside 64-bit code the registers have 32 bits.
    fn narrow(&mut self) {
        for r in &mut self.st.gpr {
            *r &= 0xffff_ffff;
        }
        self.st.gpr[8..].fill(0);
    }

    fn real(&mut self) {
        for vector in 0..64 {
            self.mem.push((
                vector * 4,
                (HANDLERS as u32 >> 4 << 16 | vector as u32)
                    .to_le_bytes()
                    .to_vec(),
            ));
        }
        if self.chance(3) {
            self.st.idtr.limit = self.r.below(0x100) as u16;
        }
        self.st.gdtr.base = GDT;
        self.st.gdtr.limit = 0xff;
        self.st.cr0 = cr0::ET;
        for (bit, percent) in [(cr0::TS, 20), (cr0::MP, 30), (cr0::NE, 50), (cr0::EM, 5)] {
            if self.chance(percent) {
                self.st.cr0 |= bit;
            }
        }
        self.real_segments();
        self.st.seg[Seg::Cs as usize].attr |= attr::CODE;
        if self.chance(4) {
            // "Unreal" mode.
            let n = self.r.pick(&[0, 3, 4, 5]);
            let (limit, granular) =
                self.r
                    .pick(&[(0xffff_ffff, attr::G), (0xfff, 0), (0x1_ffff, 0)]);
            self.st.seg[n].limit = limit;
            self.st.seg[n].attr |= granular;
        }
    }

    fn real_segments(&mut self) {
        for n in 0..6 {
            let selector = match self.r.below(4) {
                0 => 0,
                1 => (DATA >> 4) as u16,
                _ => self.r.below(0x1000) as u16,
            };
            self.st.seg[n] = Segment::real(selector);
        }
        let cs = self.r.pick(&[0, 0x100, 0x7ff, 0x800, 0x801]);
        self.st.seg[Seg::Cs as usize] = Segment::real(cs);
        self.st.rip = CODE + 0x10 + self.r.below(0x100) - (u64::from(cs) << 4);
        let ss = (STACKS >> 4) as u16 - self.r.below(0x100) as u16;
        self.st.seg[Seg::Ss as usize] = Segment::real(ss);
        let high = if self.r.one_in(64) {
            self.st.gpr[4] & !0xffff
        } else {
            0
        };
        self.st.gpr[4] = high | (STACKS + 0x800 - (u64::from(ss) << 4));
        if self.chance(4) {
            self.st.gpr[4] = self.st.gpr[4] & !0xffff
                | self
                    .r
                    .pick(&[0, 1, 2, 3, 4, 6, 0xffff, 0xfffe, 0xfffd, 0xfffc]);
        }
    }

    fn vm86(&mut self) {
        self.bits = 16;
        self.cpl = 3;
        self.real_segments();
        for s in &mut self.st.seg {
            s.attr |= attr::DPL;
        }
        self.st.rflags |= flags::VM;
        self.st.rflags &= !flags::NT;
    }

    fn protected_mode(&mut self, common: Common) {
        let long = matches!(self.mode, Mode::Compat | Mode::Long);
        self.cpl = match self.mode {
            Mode::Vm86 => 3,
            // KVM cannot step 64-bit code above level 0 here, nor deliver exceptions from compatibility mode's.
            Mode::Long => 0,
            Mode::Compat => self.r.pick(&[0, 0, 0, 3]),
            _ => self.r.pick(&[0, 0, 0, 1, 2, 3, 3]),
        };
        self.control(common, long);
        self.gdt(long);
        self.idt(long);
        self.tss(long);
        if self.st.cr0 & cr0::PG != 0 {
            self.tables(long);
        }
        if self.mode != Mode::Vm86 {
            self.segments();
        }
    }

    fn control(&mut self, common: Common, long: bool) {
        let st = &mut self.st;
        st.cr0 = cr0::PE | cr0::ET;
        for (bit, percent) in [
            (cr0::TS, 20),
            (cr0::MP, 30),
            (cr0::NE, 50),
            (cr0::EM, 5),
            (cr0::WP, 50),
            (cr0::AM, 10),
            (cr0::PG, 60),
        ] {
            if self.r.below(100) < percent {
                st.cr0 |= bit;
            }
        }
        st.cr4 = self.r.next()
            & self.r.next()
            & common.cr4
            & !(cr4::VME | cr4::PVI | cr4::PAE | cr4::LA57);
        if !common.legacy_paging {
            st.cr0 &= !cr0::PG;
        }
        if long {
            st.cr0 |= cr0::PG;
            st.cr4 |= cr4::PAE;
            st.efer = efer::LME | efer::LMA;
        } else if self.r.one_in(2) {
            st.cr4 |= cr4::PAE;
        }
        if self.r.one_in(2) {
            st.efer |= efer::NXE;
        }
        if self.r.below(4) != 0 {
            st.efer |= efer::SCE;
        }
    }

    /// A descriptor of any kind.
    fn any_descriptor(&mut self, long: bool) -> u64 {
        let base = match self.r.below(8) {
            0..=4 => 0,
            5 => self.r.below(0x10) << 12,
            6 => DATA + self.r.below(0x8000),
            _ => self.r.next() & 0xffff_ffff,
        };
        let (limit, granular) = match self.r.below(8) {
            0..=3 => (0xf_ffff, true),
            4 => (0xffff, false),
            5 => (self.r.below(0x100) as u32, true),
            6 => (self.r.below(0x10_0000) as u32, false),
            _ => (self.r.below(0x400) as u32, false),
        };
        let mut a = match self.r.below(16) {
            0..=3 => access::DATA,
            4 => access::READ_ONLY,
            5 => access::EXPAND_DOWN,
            6..=9 => access::CODE,
            10 => access::EXECUTE_ONLY,
            11 => access::CONFORMING,
            12 => self.r.pick(&[
                access::LDT,
                access::TSS,
                access::TSS16,
                access::TSS | 2,
                access::TSS16 | 2,
            ]),
            13 => self.r.pick(&[
                access::CALL,
                access::CALL16,
                access::TASK_GATE,
                access::INT,
                access::TRAP,
            ]),
            _ => self.r.next() as u32 & 0xf09f,
        };
        if a & attr::S == 0 && matches!(a & attr::TYPE, 4..=7 | 12..=15) && self.r.below(4) != 0 {
            let selector = self.selector();
            let offset = HANDLERS + self.r.below(256);
            let count = if self.r.one_in(2) {
                0
            } else {
                self.r.below(32) as u8
            };
            return gate(
                selector,
                offset,
                a | access::dpl(self.r.below(4) as u8),
                count,
            );
        }
        let level = if self.r.one_in(2) {
            self.cpl
        } else {
            self.r.below(4) as u8
        };
        a |= access::dpl(level);
        a |= self.r.next() as u32 & (attr::DB | attr::AVL);
        if a & attr::S != 0 {
            a |= self.r.next() as u32 & attr::ACCESSED;
        }
        if granular {
            a |= attr::G;
        }
        if a & attr::CODE != 0 && self.r.below(10) < if long { 5 } else { 1 } {
            a |= attr::L;
            if self.r.below(8) != 0 {
                a &= !attr::DB;
            }
        }
        if self.r.one_in(12) {
            a &= !attr::P;
        }
        descriptor(base, limit, a)
    }

    /// A selector: mostly of an entry that exists, with the current privilege level.
    pub fn selector(&mut self) -> u16 {
        let index = match self.r.below(20) {
            0 => 0,
            1 => self.r.next() as u16 >> 3,
            2 => index::END - 1 + self.r.below(3) as u16,
            3 => index::LDT,
            4 => index::TSS,
            5..=7 => 1 + self.r.below(6) as u16,
            8 => index::KERNEL_CS + self.r.below(3) as u16,
            _ => index::RANDOM + self.r.below(u64::from(index::END - index::RANDOM)) as u16,
        };
        let rpl = if self.r.below(3) == 0 {
            self.r.below(4) as u16
        } else {
            self.cpl.into()
        };
        let table = u16::from(self.r.one_in(5)) * 4;
        if index == 0 && self.r.one_in(2) {
            rpl
        } else {
            (index & 0x1fff) << 3 | table | rpl
        }
    }

    /// A segment's value for real mode, or a selector.
    pub fn selector_value(&mut self) -> u16 {
        if self.protected() {
            self.selector()
        } else {
            self.r.below(0x1800) as u16
        }
    }

    fn gdt(&mut self, long: bool) {
        let mut table = vec![0_u64];
        table.extend((1..u64::from(index::END)).map(|_| 0));
        for n in index::RANDOM..index::END {
            table[n as usize] = self.any_descriptor(long);
        }
        let level = access::dpl(self.cpl);
        let base = |g: &mut Self| {
            if g.r.below(4) == 0 {
                g.r.below(8) << 12
            } else {
                0
            }
        };
        let mut code = access::CODE | level | attr::ACCESSED;
        if self.r.one_in(8) {
            // Execute-only, or conforming (then its DPL may be lower).
            code = if self.r.one_in(2) {
                code & !attr::RW
            } else {
                code | attr::DC
            };
        }
        self.bits = match self.mode {
            Mode::Long => 64,
            _ => self.r.pick(&[16, 32, 32]),
        };
        code |= match self.bits {
            64 => attr::L,
            32 => attr::DB,
            _ => 0,
        };
        let big = self.r.below(4) != 0;
        let at = if self.mode == Mode::Long {
            0
        } else {
            base(self)
        };
        table[index::CS as usize] = if big {
            descriptor(at, 0xf_ffff, code | attr::G)
        } else {
            descriptor(at, 0xffff, code)
        };
        let stack = access::DATA | level | attr::ACCESSED | self.r.pick(&[attr::DB, attr::DB, 0]);
        let at = if self.r.one_in(6) { base(self) } else { 0 };
        table[index::SS as usize] = match self.r.below(6) {
            0 => descriptor(at, 0xffff, stack),
            1 => descriptor(at, 0x1000, stack | attr::DC),
            _ => descriptor(at, 0xf_ffff, stack | attr::G),
        };
        for n in 0..4 {
            let dpl = access::dpl(self.cpl.max(self.r.below(4) as u8));
            let kind = self.r.pick(&[
                access::DATA,
                access::DATA,
                access::DATA,
                access::DATA,
                access::READ_ONLY,
                access::EXPAND_DOWN,
                access::CODE,
            ]);
            let at = base(self);
            let size = self.r.pick(&[attr::DB, attr::DB, 0]);
            table[(index::DATA + n) as usize] = match self.r.below(6) {
                0 => descriptor(at, 0xffff, kind | dpl | attr::ACCESSED | size),
                _ if kind == access::EXPAND_DOWN => {
                    descriptor(at, 0x8000, kind | dpl | attr::ACCESSED | size)
                }
                1 => descriptor(
                    at,
                    DATA as u32 + self.r.below(0x1_0000) as u32,
                    kind | dpl | attr::ACCESSED | size,
                ),
                _ => descriptor(at, 0xf_ffff, kind | dpl | attr::ACCESSED | size | attr::G),
            };
        }
        table[index::LDT as usize] = descriptor(LDT, 0xff, access::LDT);
        table[index::TSS as usize] = descriptor(TSS, 0x2fff, access::TSS | 2);
        if self.r.one_in(4) {
            table[index::TSS as usize] ^= 2 << 40;
        }
        table[index::KERNEL_CS as usize] = kernel_code(long);
        table[index::KERNEL_SS as usize] = KERNEL_STACK;
        let level = self.r.below(3) as u8;
        table[index::MIDDLE_SS as usize] = descriptor(
            0,
            0xf_ffff,
            access::DATA | attr::ACCESSED | attr::G | attr::DB | access::dpl(level),
        );
        let bytes: Vec<u8> = table.iter().flat_map(|d| d.to_le_bytes()).collect();
        self.put(GDT, &bytes);
        let local: Vec<u8> = (0..32)
            .flat_map(|_| self.any_descriptor(long).to_le_bytes())
            .collect();
        self.put(LDT, &local);
        self.st.gdtr.base = GDT;
        self.st.gdtr.limit = index::END * 8 - 1;
        self.st.ldtr = loaded(index::LDT << 3, table[index::LDT as usize]);
        if self.r.one_in(16) {
            self.st.ldtr = Segment {
                base: 0,
                limit: 0,
                attr: attr::UNUSABLE,
                selector: 0,
            };
        }
        self.st.tr = loaded(index::TSS << 3, table[index::TSS as usize]);
        self.st.tr.attr |= 2;
        self.table(&table);
    }

    /// Fills the segment registers from the GDT's fixed entries.
    fn table(&mut self, table: &[u64]) {
        for seg in Seg::ALL {
            let index = match seg {
                Seg::Cs => index::CS,
                Seg::Ss => index::SS,
                _ => index::DATA + self.r.below(4) as u16,
            };
            let mut s = loaded(index << 3 | u16::from(self.cpl), table[index as usize]);
            if matches!(seg, Seg::Es | Seg::Ds | Seg::Fs | Seg::Gs) && self.r.one_in(16) {
                s = Segment {
                    base: 0,
                    limit: 0,
                    attr: attr::UNUSABLE,
                    selector: self.r.below(4) as u16,
                };
            }
            self.st.seg[seg as usize] = s;
        }
    }

    fn idt(&mut self, long: bool) {
        self.st.idtr.base = IDT;
        let size: u64 = if long { 16 } else { 8 };
        self.st.idtr.limit = (size * 64 - 1) as u16;
        if self.r.one_in(32) {
            self.st.idtr.limit = self.r.below(size * 16) as u16;
        }
        let wild = self.r.one_in(16);
        let mut bytes = Vec::new();
        for vector in 0..64_u64 {
            let mut selector = index::KERNEL_CS << 3;
            let mut a = if self.r.one_in(2) {
                access::INT
            } else {
                access::TRAP
            };
            let mut ist = 0;
            if self.r.one_in(2) {
                a |= attr::DPL;
            }
            if wild && self.r.one_in(4) {
                match self.r.below(6) {
                    0 => a &= !attr::P,
                    1 => selector = self.selector(),
                    2 => a = self.r.next() as u32 & 0xff,
                    3 => a = a & !0xf | self.r.pick(&[6, 7, 5]),
                    4 => ist = self.r.below(8) as u8,
                    _ => selector = index::CS << 3,
                }
            }
            bytes.extend(gate(selector, HANDLERS + vector, a, ist).to_le_bytes());
            if long {
                bytes.extend([0; 8]);
            }
        }
        self.put(IDT, &bytes);
    }

    fn tss(&mut self, long: bool) {
        let mut bytes = vec![0_u8; 0x68 + 0x20];
        if long {
            for level in 0..3 {
                let at = 4 + level * 8;
                bytes[at..at + 8]
                    .copy_from_slice(&(STACKS + level as u64 * 0x1000 + 0xf00).to_le_bytes());
            }
            for ist in 0..7 {
                let at = 0x24 + ist * 8;
                bytes[at..at + 8].copy_from_slice(
                    &(STACKS + 0xe00 - ist as u64 * 0x100 + 8 * (ist as u64 & 1)).to_le_bytes(),
                );
            }
        } else {
            for level in 0..3 {
                let at = 4 + level * 8;
                bytes[at..at + 4].copy_from_slice(
                    &(STACKS as u32 + level as u32 * 0x1000 + 0xf00).to_le_bytes(),
                );
                let ss = match level {
                    0 => index::KERNEL_SS << 3,
                    _ => index::MIDDLE_SS << 3 | level as u16,
                };
                bytes[at + 4..at + 6].copy_from_slice(&ss.to_le_bytes());
            }
            if self.r.one_in(20) {
                let ss = self.selector();
                bytes[8..10].copy_from_slice(&ss.to_le_bytes());
            }
        }
        bytes[0x66] = 0x68;
        for byte in &mut bytes[0x68..] {
            *byte = if self.r.one_in(2) {
                0
            } else {
                self.r.next() as u8
            };
        }
        if self.r.one_in(16) {
            bytes[0x66] = self.r.next() as u8;
            bytes[0x67] = self.r.below(0x40) as u8;
        }
        self.put(TSS, &bytes);
        if self.r.one_in(16) {
            self.st.tr.limit = 0x67 + self.r.below(0x22) as u32;
        }
    }

    fn segments(&mut self) {
        let cs = self.st.seg[Seg::Cs as usize];
        self.st.rip = (CODE + self.r.below(0x1f00)).wrapping_sub(cs.base) & 0xffff_ffff;
        if self.r.one_in(16) {
            self.st.rip = (CODE + 0x1000 - self.r.below(12)).wrapping_sub(cs.base) & 0xffff_ffff;
        }
        let page = self.r.below(30) as usize;
        // No code in device memory: it has no contents to compare.
        let ram = self
            .window
            .get(page..page + 2)
            .is_some_and(|pages| pages.iter().all(|p| *p < 0x40));
        if ram && self.bits != 16 && self.r.one_in(24) && cs.limit > 0x1_0000 {
            // In the window, perhaps across two of its pages.
            self.st.rip = (WINDOW + (page as u64 + 1) * 0x1000 - self.r.below(12))
                .wrapping_sub(cs.base)
                & 0xffff_ffff;
        }
        let ss = self.st.seg[Seg::Ss as usize];
        let top =
            STACKS + u64::from(self.cpl) * 0x1000 + 0x800 + self.r.pick(&[0, 0, 0, 1, 2, 4, 7]);
        let base = if self.mode == Mode::Long { 0 } else { ss.base };
        let mut sp = top.wrapping_sub(base) & 0xffff_ffff;
        if self.r.one_in(32) {
            sp = self.r.pick(&[
                0,
                1,
                2,
                3,
                4,
                7,
                8,
                0xffff,
                0xfffe,
                0x1_0000,
                0x1_0002,
                0x1001,
                0xffff_ffff,
            ]);
            if self.entry != 0 && self.r.one_in(4) {
                sp = WINDOW + 0x1004;
            }
        }
        if self.mode != Mode::Long && ss.attr & attr::DB == 0 && self.r.one_in(64) {
            sp |= self.r.next() << 16 & 0xffff_0000;
        }
        self.st.gpr[4] = sp;
        if self.mode == Mode::Long {
            for n in [4, 5] {
                self.st.seg[n].base = self.r.pick(&[0, 0, DATA, 0xffff_8000_0000_0000, WINDOW]);
            }
            if self.r.one_in(24) {
                self.st.gpr[4] = self.r.pick(&[
                    0x7fff_ffff_fff8,
                    0x8000_0000_0000,
                    0xffff_ffff_ffff_fff8,
                    4,
                    0,
                ]);
            }
        } else {
            self.narrow();
        }
    }

    /// The base that an access through a segment register adds.
    pub fn base(&self, seg: Seg) -> u64 {
        if self.mode == Mode::Long && !matches!(seg, Seg::Fs | Seg::Gs) {
            0
        } else {
            self.st.seg[seg as usize].base
        }
    }

    /// Lays the code down and fills the stack with what returns may find there.
    fn finish(&mut self, code: &[u8]) -> bool {
        let cs = self.base(Seg::Cs);
        let lin = cs.wrapping_add(self.st.rip);
        self.put_linear(lin, code);
        // String instructions whose prefix is REP or REPNE.
        let prefixes = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3];
        let rest = code
            .iter()
            .position(|b| !(prefixes.contains(b) || self.bits == 64 && b & 0xf0 == 0x40))
            .unwrap_or(0);
        let string = matches!(
            code.get(rest),
            Some(0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf)
        );
        string && code[..rest].iter().any(|b| matches!(b, 0xf2 | 0xf3))
    }
}

/// A segment register as loading a descriptor leaves it.
fn loaded(selector: u16, raw: u64) -> Segment {
    let a = (raw >> 40) as u32 & 0xf0ff;
    let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
    Segment {
        base: raw >> 16 & 0xff_ffff | raw >> 56 << 24,
        limit: if a & attr::G != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        attr: a,
        selector,
    }
}

/// The handlers' code segment.
pub const fn kernel_code(long: bool) -> u64 {
    let size = if long { attr::L } else { attr::DB };
    descriptor(0, 0xf_ffff, access::CODE | attr::ACCESSED | attr::G | size)
}

/// Level 0's stack segment.
pub const KERNEL_STACK: u64 = descriptor(
    0,
    0xf_ffff,
    access::DATA | attr::ACCESSED | attr::G | attr::DB,
);
