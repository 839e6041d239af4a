//! The boot processor's state at a kernel's first instruction, in architectural terms: no protocol's name in it.

use x86::{CpuState, Gpr, Seg, Segment, TableReg, attr, cr0, cr4, efer, flags};

use super::bytes::Table;
use super::claims::Claims;
use super::error::Problem;

/// Selector of the code segment in our GDT (Linux's boot protocol asks for this one: `__BOOT_CS`).
const CODE: u16 = 0x10;
/// Selector of the data segment (`__BOOT_DS`).
const DATA: u16 = 0x18;
/// Selector of the TSS.
const TASK: u16 = 0x20;

/// Registers as a boot loader hands them over: flat segments, interrupts off. What is not named here has its value
/// after RESET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// The first instruction.
    pub rip: u64,
    /// RFLAGS: IF and VM clear.
    pub rflags: u64,
    /// General registers by encoding (see [`Gpr`]).
    pub gpr: [u64; 16],
    /// ES, CS, SS, DS, FS, GS by encoding (see [`Seg`]); they match the descriptors in the GDT.
    pub seg: [Segment; 6],
    /// Null.
    pub ldtr: Segment,
    /// A busy TSS, so that the state is one a processor can be in.
    pub tr: Segment,
    /// Our GDT, in RAM.
    pub gdtr: TableReg,
    /// Empty: the kernel loads its own before it allows interrupts.
    pub idtr: TableReg,
    /// PE; PG in 64-bit mode; caches on.
    pub cr0: u64,
    /// The identity map's PML4 in 64-bit mode, else 0.
    pub cr3: u64,
    /// PAE in 64-bit mode, else 0.
    pub cr4: u64,
    /// LME and LMA in 64-bit mode, else 0.
    pub efer: u64,
}

impl EntryState {
    /// 32-bit protected mode without paging at `eip`.
    pub(super) fn protected(claims: &mut Claims<'_>, eip: u32) -> Result<Self, Problem> {
        Self::new(claims, u64::from(eip), attr::DB, 0)
    }

    /// 64-bit mode at `rip`, with the first 4 GiB mapped to themselves.
    pub(super) fn long(claims: &mut Claims<'_>, rip: u64) -> Result<Self, Problem> {
        let cr3 = identity_map(claims)?;
        let state = Self::new(claims, rip, attr::L, cr3)?;
        Ok(Self {
            cr0: state.cr0 | cr0::PG,
            cr4: cr4::PAE,
            efer: efer::LME | efer::LMA,
            ..state
        })
    }

    fn new(claims: &mut Claims<'_>, rip: u64, code_size: u32, cr3: u64) -> Result<Self, Problem> {
        let flat = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G;
        let segment = |selector, attr| Segment {
            base: 0,
            limit: u32::MAX,
            attr,
            selector,
        };
        let code = segment(CODE, flat | attr::CODE | code_size);
        let data = segment(DATA, flat | attr::DB);
        let tr = Segment {
            base: 0,
            limit: 0x67,
            attr: attr::P | 0xb,
            selector: TASK,
        };
        let ldtr = Segment {
            base: 0,
            limit: 0,
            attr: attr::UNUSABLE,
            selector: 0,
        };

        let mut gdt = Table::default();
        gdt.u64(CODE.into(), descriptor(&code));
        gdt.u64(DATA.into(), descriptor(&data));
        gdt.u64(TASK.into(), descriptor(&tr));
        gdt.u64(usize::from(TASK) + 8, 0); // the high half of a 64-bit mode TSS descriptor
        let at = claims.put_small(&gdt.0, "the GDT")?;

        let mut seg = [data; 6];
        seg[Seg::Cs as usize] = code;
        Ok(Self {
            rip,
            rflags: flags::FIXED,
            gpr: [0; 16],
            seg,
            ldtr,
            tr,
            gdtr: TableReg {
                base: at,
                limit: (gdt.0.len() - 1) as u16,
            },
            idtr: TableReg { base: 0, limit: 0 },
            cr0: cr0::PE | cr0::ET,
            cr3,
            cr4: 0,
            efer: 0,
        })
    }

    /// The same with one general register set.
    pub(super) fn with(mut self, register: Gpr, value: u64) -> Self {
        self.gpr[register as usize] = value;
        self
    }

    /// Puts these registers into a processor, which should be fresh from RESET.
    pub fn apply(&self, cpu: &mut CpuState) {
        let Self {
            rip,
            rflags,
            gpr,
            seg,
            ldtr,
            tr,
            gdtr,
            idtr,
            cr0,
            cr3,
            cr4,
            efer,
        } = self;
        cpu.rip = *rip;
        cpu.rflags = *rflags;
        cpu.gpr = *gpr;
        cpu.seg = *seg;
        cpu.ldtr = *ldtr;
        cpu.tr = *tr;
        cpu.gdtr = *gdtr;
        cpu.idtr = *idtr;
        cpu.cr0 = *cr0;
        cpu.cr3 = *cr3;
        cpu.cr4 = *cr4;
        cpu.efer = *efer;
    }
}

/// The 8 bytes in a descriptor table that load as `segment` (SDM vol. 3, 3.4.5); bases are below 4 GiB.
fn descriptor(segment: &Segment) -> u64 {
    let limit = if segment.attr & attr::G == 0 {
        segment.limit
    } else {
        segment.limit >> 12
    };
    let (limit, base, attr) = (
        u64::from(limit),
        segment.base,
        u64::from(segment.attr & 0xf0ff),
    );
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | attr << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// Page tables that map the first 4 GiB to themselves with 2 MiB pages (SDM vol. 3, 5.5); returns CR3.
fn identity_map(claims: &mut Claims<'_>) -> Result<u64, Problem> {
    const ENTRY: u64 = 0b11; // present, writable
    const LARGE: u64 = 1 << 7;
    const PAGE: usize = 0x1000;
    let at = claims.small(6 * PAGE as u64, "the first page tables")?;
    let mut tables = Table::zeros(6 * PAGE);
    let table = |n: usize| at + (n * PAGE) as u64;
    tables.u64(0, table(1) | ENTRY);
    for directory in 0..4 {
        tables.u64(PAGE + directory * 8, table(2 + directory) | ENTRY);
        for entry in 0..512 {
            let phys = (directory * 512 + entry) as u64 * (2 << 20);
            tables.u64((2 + directory) * PAGE + entry * 8, phys | ENTRY | LARGE);
        }
    }
    claims.write(at, &tables.0, "the first page tables")?;
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::super::claims::Claims;
    use super::super::map::MemoryMap;
    use super::super::testing::Ram;
    use super::EntryState;
    use x86::{CpuState, Gpr, Seg};

    #[test]
    fn descriptors_are_the_well_known_ones() {
        let map = MemoryMap::pc(16 << 20);
        let mut ram = Ram::new(&map);
        let state = EntryState::protected(&mut Claims::new(&map, &mut ram), 0x10_0000).unwrap();
        let gdt = state.gdtr.base;
        assert_eq!(ram.u64(gdt + 0x10), 0x00cf_9b00_0000_ffff);
        assert_eq!(ram.u64(gdt + 0x18), 0x00cf_9300_0000_ffff);
        assert_eq!(ram.u64(gdt + 0x20), 0x0000_8b00_0000_0067);
        assert_eq!((state.cr0, state.cr3, state.efer), (0x11, 0, 0));
    }

    #[test]
    fn long_mode_maps_four_gib() {
        let map = MemoryMap::pc(16 << 20);
        let mut ram = Ram::new(&map);
        let state = EntryState::long(&mut Claims::new(&map, &mut ram), 0x100_0200).unwrap();
        assert_eq!(state.seg[Seg::Cs as usize].attr, 0xa09b);
        let pdpt = ram.u64(state.cr3) & !0xfff;
        let pd3 = ram.u64(pdpt + 3 * 8) & !0xfff;
        assert_eq!(ram.u64(pd3 + 511 * 8), 0xffe0_0083);
        let mut cpu = CpuState::reset();
        state.with(Gpr::Rsi, 0x1234).apply(&mut cpu);
        assert!(cpu.code64());
        assert_eq!((cpu.rip, cpu.gpr[6]), (0x100_0200, 0x1234));
    }
}
