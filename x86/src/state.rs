//! The architectural state of one logical processor: everything a snapshot must hold, nothing an engine adds.

use crate::segment::{Segment, TableReg, attr};
use crate::{cr0, flags, xcr0};

/// General registers by encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Gpr {
    /// All sixteen, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];
}

/// What the instruction before blocked at the next boundary (SDM vol. 3, 6.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Shadow {
    /// Nothing.
    #[default]
    None,
    /// STI set IF: maskable interrupts wait for one instruction.
    Sti,
    /// MOV SS or POP SS: interrupts and debug traps wait for one instruction.
    MovSs,
}

/// What the processor is doing (SDM vol. 3, 24.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Activity {
    /// Executing.
    #[default]
    Active,
    /// Stopped by HLT until an interrupt.
    Halted,
    /// After a triple fault.
    Shutdown,
    /// An application processor after INIT.
    WaitForSipi,
}

/// The x87 FPU. MMX registers are the low 64 bits of the physical registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Fpu {
    /// Physical registers R0-R7, 80 bits each in 16 bytes (the rest zero).
    pub regs: [[u8; 16]; 8],
    /// Control word.
    pub fcw: u16,
    /// Status word, TOP included.
    pub fsw: u16,
    /// One bit a physical register, set when it is not empty (FXSAVE's abridged form).
    pub ftw: u8,
    /// Last opcode, 11 bits.
    pub fop: u16,
    /// Selector of the last instruction (32-bit forms).
    pub fcs: u16,
    /// Selector of the last operand.
    pub fds: u16,
    /// Offset of the last instruction.
    pub fip: u64,
    /// Offset of the last operand.
    pub fdp: u64,
}

impl Fpu {
    /// After FNINIT, with registers zeroed as at power-up.
    pub const RESET: Self = Self {
        regs: [[0; 16]; 8],
        fcw: 0x37f,
        fsw: 0,
        ftw: 0,
        fop: 0,
        fcs: 0,
        fds: 0,
        fip: 0,
        fdp: 0,
    };

    /// The physical register on top of the stack.
    pub const fn top(&self) -> u8 {
        ((self.fsw >> 11) & 7) as u8
    }
}

/// Model-specific registers that are plain storage with checks at the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub debugctl: u64,
    pub bios_sign_id: u64,
    pub xss: u64,
    pub mcg_status: u64,
    pub mcg_ctl: u64,
    /// CTL, STATUS, ADDR, MISC of the machine-check banks.
    pub mc_banks: [u64; 40],
    pub mtrr_def_type: u64,
    /// PHYSBASE0, PHYSMASK0, PHYSBASE1, ...
    pub mtrr_var: [u64; 16],
    /// 64K, 16K (two), 4K (eight).
    pub mtrr_fixed: [u64; 11],
    /// Guest TSC minus the platform's raw TSC.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
}

/// The whole architectural state. `rflags` is complete here; engines that keep flags lazily bring it up to date first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
#[expect(missing_docs, reason = "the names are the manual's")]
pub struct CpuState {
    pub gpr: [u64; 16],
    /// ZMM0-31; XMM and YMM are their low parts. Here, since it is aligned as its elements want to be.
    pub vec: [[u8; 64]; 32],
    /// k0-k7.
    pub k: [u64; 8],
    pub rip: u64,
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS: see [`crate::Seg`].
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableReg,
    pub idtr: TableReg,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
    /// DR0-DR3.
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub pkru: u32,
    pub mxcsr: u32,
    /// The PDPTE registers of PAE paging.
    pub pdpte: [u64; 4],
    pub fpu: Fpu,
    pub msr: Msrs,
    pub shadow: Shadow,
    pub activity: Activity,
    /// An NMI is being handled: the next waits for IRET.
    pub nmi_blocked: bool,
}

/// MXCSR after reset.
pub const MXCSR_RESET: u32 = 0x1f80;
/// MXCSR bits that software may set (MXCSR_MASK).
pub const MXCSR_MASK: u32 = 0xffff;

impl CpuState {
    /// After RESET (SDM vol. 3, table 11-1). CR8 lives in the local APIC.
    pub fn reset() -> Self {
        let data = Segment::real(0);
        let cs = Segment {
            base: 0xffff_0000,
            limit: 0xffff,
            attr: attr::P | attr::S | attr::CODE | attr::RW | attr::ACCESSED,
            selector: 0xf000,
        };
        let system = |kind| Segment {
            base: 0,
            limit: 0xffff,
            attr: attr::P | kind,
            selector: 0,
        };
        Self {
            gpr: {
                let mut gpr = [0; 16];
                gpr[Gpr::Rdx as usize] = crate::RESET_SIGNATURE;
                gpr
            },
            rip: 0xfff0,
            rflags: flags::FIXED,
            seg: [data, cs, data, data, data, data],
            ldtr: system(2),
            tr: system(0xb),
            gdtr: TableReg {
                base: 0,
                limit: 0xffff,
            },
            idtr: TableReg {
                base: 0,
                limit: 0xffff,
            },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: xcr0::X87,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            pkru: 0,
            mxcsr: MXCSR_RESET,
            pdpte: [0; 4],
            // Table 11-1: tag word 5555h, every register holds a zero.
            fpu: Fpu {
                fcw: 0x40,
                ftw: 0xff,
                ..Fpu::RESET
            },
            vec: [[0; 64]; 32],
            k: [0; 8],
            msr: Msrs {
                star: 0,
                lstar: 0,
                cstar: 0,
                fmask: 0,
                kernel_gs_base: 0,
                tsc_aux: 0,
                sysenter_cs: 0,
                sysenter_esp: 0,
                sysenter_eip: 0,
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1,
                spec_ctrl: 0,
                debugctl: 0,
                bios_sign_id: 0,
                xss: 0,
                mcg_status: 0,
                mcg_ctl: 0,
                mc_banks: [0; 40],
                mtrr_def_type: 0,
                mtrr_var: [0; 16],
                mtrr_fixed: [0; 11],
                tsc_offset: 0,
                tsc_adjust: 0,
            },
            shadow: Shadow::None,
            activity: Activity::Active,
            nmi_blocked: false,
        }
    }

    /// The current privilege level: SS.DPL, but 3 in virtual-8086 mode and 0 in real mode.
    pub const fn cpl(&self) -> u8 {
        if self.cr0 & cr0::PE == 0 {
            0
        } else if self.rflags & flags::VM != 0 {
            3
        } else {
            self.seg[2].dpl()
        }
    }

    /// Long mode is active (64-bit or compatibility mode).
    pub const fn long_mode(&self) -> bool {
        self.efer & crate::efer::LMA != 0
    }

    /// 64-bit code is running.
    pub const fn code64(&self) -> bool {
        self.long_mode() && self.seg[1].attr & attr::L != 0
    }

    /// Real-address mode.
    pub const fn real_mode(&self) -> bool {
        self.cr0 & cr0::PE == 0
    }

    /// Virtual-8086 mode.
    pub const fn vm86(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.rflags & flags::VM != 0
    }
}
