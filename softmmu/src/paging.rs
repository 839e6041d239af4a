//! What paging depends on, what an access is, what a translation and a page fault are (SDM vol. 3, chapter 5).

use x86::{LinAddr, PhysAddr, cr0, cr4, efer};

/// Page-fault error-code bits (SDM vol. 3, 5.7).
pub mod pf {
    /// The page was present: a protection violation.
    pub const P: u32 = 1 << 0;
    /// A write.
    pub const W: u32 = 1 << 1;
    /// A user-mode access.
    pub const U: u32 = 1 << 2;
    /// A reserved bit was set in a paging-structure entry.
    pub const RSVD: u32 = 1 << 3;
    /// An instruction fetch (reported with NXE or SMEP only).
    pub const ID: u32 = 1 << 4;
    /// A protection key forbade it.
    pub const PK: u32 = 1 << 5;
}

/// The form of the paging structures (SDM vol. 3, 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingMode {
    /// CR0.PG = 0: linear addresses are physical.
    Off,
    /// 32-bit paging: two levels of 4-byte entries.
    Bits32,
    /// PAE paging: four PDPTEs in registers, then two levels of 8-byte entries.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

/// All state of a vCPU that decides what a linear address means and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagingState {
    /// CR0 (WP and PG matter).
    pub cr0: u64,
    /// CR3, without bit 63 of the value written.
    pub cr3: u64,
    /// CR4 (PSE, PAE, PGE, PCIDE, SMEP, SMAP, PKE, LA57 matter).
    pub cr4: u64,
    /// IA32_EFER (LMA and NXE matter).
    pub efer: u64,
    /// PKRU: two bits per key, access disable and write disable.
    pub pkru: u32,
    /// The PDPTE registers of PAE paging.
    pub pdptes: [u64; 4],
    /// MAXPHYADDR of CPUID 80000008h: 32 to 52.
    pub maxphyaddr: u8,
    /// Current privilege level; 3 is user mode.
    pub cpl: u8,
    /// EFLAGS.AC, which lifts SMAP from explicit accesses.
    pub ac: bool,
    /// 1 GiB pages exist (CPUID 80000001h EDX bit 26).
    pub gib_pages: bool,
    /// 4 MiB pages carry physical address bits 32 to 39 (CPUID 1 EDX bit 17).
    pub pse36: bool,
}

impl PagingState {
    /// The state after RESET of a CPU with the given MAXPHYADDR, 1 GiB pages and PSE-36.
    pub const fn new(maxphyaddr: u8) -> Self {
        Self {
            cr0: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            pkru: 0,
            pdptes: [0; 4],
            maxphyaddr,
            cpl: 0,
            ac: false,
            gib_pages: true,
            pse36: true,
        }
    }

    /// IA32_EFER.LMA.
    pub const fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// The paging mode in use.
    pub const fn mode(&self) -> PagingMode {
        if self.cr0 & cr0::PG == 0 {
            PagingMode::Off
        } else if self.cr4 & cr4::PAE == 0 {
            PagingMode::Bits32
        } else if self.efer & efer::LMA == 0 {
            PagingMode::Pae
        } else if self.cr4 & cr4::LA57 == 0 {
            PagingMode::Level4
        } else {
            PagingMode::Level5
        }
    }

    /// Physical address bits that exist.
    pub(crate) const fn physical_mask(&self) -> u64 {
        let bits = if self.maxphyaddr < 32 {
            32
        } else if self.maxphyaddr > 52 {
            52
        } else {
            self.maxphyaddr
        };
        (1 << bits) - 1
    }

    /// The physical address of the first paging structure, as CR3 gives it in the mode in use.
    pub const fn cr3_base(&self) -> PhysAddr {
        PhysAddr(match self.mode() {
            PagingMode::Off => 0,
            PagingMode::Bits32 => self.cr3 & 0xffff_f000,
            PagingMode::Pae => self.cr3 & 0xffff_ffe0,
            PagingMode::Level4 | PagingMode::Level5 => self.cr3 & self.physical_mask() & !0xfff,
        })
    }

    /// The current process-context identifier: 0 unless CR4.PCIDE.
    pub const fn pcid(&self) -> u16 {
        if self.cr4 & cr4::PCIDE == 0 {
            0
        } else {
            (self.cr3 & 0xfff) as u16
        }
    }

    /// Linear addresses that a byte after FFFFFFFFh wraps to: 32 bits outside long mode.
    pub(crate) const fn linear_mask(&self) -> u64 {
        if self.efer & efer::LMA == 0 {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }

    /// Protection keys are in force.
    pub(crate) const fn keys(&self) -> bool {
        self.cr4 & cr4::PKE != 0 && matches!(self.mode(), PagingMode::Level4 | PagingMode::Level5)
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data, or reads and writes it.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// An access as paging sees it (SDM vol. 3, 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// A user-mode access: made at CPL 3, and not implicitly to a system structure.
    pub user: bool,
    /// An implicit supervisor-mode access (GDT, LDT, IDT, TSS): SMAP holds whatever EFLAGS.AC says.
    pub implicit: bool,
}

/// Pages come in these sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 2 MiB.
    M2,
    /// 4 MiB (32-bit paging).
    M4,
    /// 1 GiB.
    G1,
}

impl PageSize {
    /// The binary logarithm of the size in bytes.
    pub const fn shift(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::M2 => 21,
            Self::M4 => 22,
            Self::G1 => 30,
        }
    }
}

/// A linear page's meaning: where it lies and what all levels together permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical 4 KiB page, A20 applied.
    pub page: PhysAddr,
    /// The size of the page that the entry maps.
    pub size: PageSize,
    /// A user-mode address: U/S is 1 in every entry.
    pub user: bool,
    /// R/W is 1 in every entry.
    pub writable: bool,
    /// XD is 0 in every entry.
    pub executable: bool,
    /// The translation is global (with CR4.PGE).
    pub global: bool,
    /// The entry's dirty flag is set, as the walk left it.
    pub dirty: bool,
    /// The page's protection key.
    pub pkey: u8,
}

impl Translation {
    /// Whether the page's protection key forbids the access (SDM vol. 3, 5.6.2).
    pub const fn key_forbids(&self, state: &PagingState, access: Access) -> bool {
        if !state.keys() || !self.user || matches!(access.kind, AccessKind::Fetch) {
            return false;
        }
        let rights = state.pkru >> (2 * (self.pkey & 15));
        let write_obeys = access.user || state.cr0 & cr0::WP != 0;
        rights & 1 != 0
            || (rights & 2 != 0 && matches!(access.kind, AccessKind::Write) && write_obeys)
    }

    /// Whether the access is permitted (SDM vol. 3, 5.6.1), protection keys apart.
    const fn rights_permit(&self, state: &PagingState, access: Access) -> bool {
        if let AccessKind::Fetch = access.kind {
            let mode = if access.user {
                self.user
            } else {
                !self.user || state.cr4 & cr4::SMEP == 0
            };
            return mode && self.executable;
        }
        let mode = if access.user {
            self.user
        } else {
            let lifted = state.ac && !access.implicit;
            !self.user || state.cr4 & cr4::SMAP == 0 || lifted
        };
        let obeys = access.user || state.cr0 & cr0::WP != 0;
        mode && (matches!(access.kind, AccessKind::Read) || self.writable || !obeys)
    }

    /// Whether the access is permitted. Paging must be on.
    pub const fn permits(&self, state: &PagingState, access: Access) -> bool {
        self.rights_permit(state, access) && !self.key_forbids(state, access)
    }
}

/// A page fault to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The linear address for CR2.
    pub lin: LinAddr,
    /// The error code, of bits of [`pf`].
    pub error: u32,
}

/// What keeps a memory access from happening. Canonical form, segments and alignment are checked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #PF.
    Page(PageFault),
}

impl From<PageFault> for Fault {
    fn from(fault: PageFault) -> Self {
        Self::Page(fault)
    }
}

/// A present PDPTE with a reserved bit set: loading CR3 (or CR0, CR4) raises #GP(0) (SDM vol. 3, 5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPdpte;

/// Whether all bits of a linear address from bit 47 on (56 with LA57) are equal (SDM vol. 1, 3.3.7.1).
#[inline]
pub const fn is_canonical(lin: u64, la57: bool) -> bool {
    let unused = if la57 { 7 } else { 16 };
    ((lin << unused) as i64 >> unused) as u64 == lin
}
