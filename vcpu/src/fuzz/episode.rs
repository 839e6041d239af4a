//! One episode: a mode, registers and a program to begin with.

use system::CpuModel;
use system::cpuid::Feature;
use x86::{CpuState, Seg, Segment, Shadow, attr, cr0, cr4, efer, flags, msr};

use super::input::Input;
use super::place::{self, root, sel};
use super::program;
use super::world::World;

/// A start, and how far to go.
pub struct Episode {
    /// The first instruction's RIP included.
    pub st: CpuState,
    /// Physical addresses and what is laid down there first.
    pub code: Vec<(u64, Vec<u8>)>,
    /// Interrupts that wait from the start, for the instruction that lets them in.
    pub interrupts: Vec<u8>,
    /// An NMI waits.
    pub nmi: bool,
    pub cr8: u8,
    /// Instructions to complete.
    pub steps: u64,
}

/// Modes of operation, as starts know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Real,
    /// Real mode with segments from protected mode.
    Unreal,
    Vm86,
    Protected16,
    Protected32,
    Long64,
    Compatible32,
    Compatible16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paging {
    Off,
    Bits32,
    Pae,
    Long,
}

impl Mode {
    const ALL: [Self; 12] = [
        Self::Real,
        Self::Unreal,
        Self::Vm86,
        Self::Protected16,
        Self::Protected32,
        Self::Protected32,
        Self::Protected32,
        Self::Long64,
        Self::Long64,
        Self::Long64,
        Self::Compatible32,
        Self::Compatible16,
    ];

    fn bits(self) -> u32 {
        match self {
            Self::Real | Self::Unreal | Self::Vm86 | Self::Protected16 | Self::Compatible16 => 16,
            Self::Protected32 | Self::Compatible32 => 32,
            Self::Long64 => 64,
        }
    }

    fn long(self) -> bool {
        matches!(self, Self::Long64 | Self::Compatible32 | Self::Compatible16)
    }

    fn protected(self) -> bool {
        !matches!(self, Self::Real | Self::Unreal)
    }
}

impl Episode {
    /// The next episode of the input.
    pub fn read(input: &mut Input, model: &CpuModel, world: &World) -> Self {
        let has_long = model.has(Feature::Lm);
        let mode = match input.pick(&Mode::ALL) {
            m if m.long() && !has_long => Mode::Protected32,
            m => m,
        };
        let level = match input.below(8) {
            0..4 => 0,
            4..7 => 3,
            _ => 1 + input.byte() % 2,
        };
        // 16-bit segments are there for two levels, 64-bit ones too.
        let cpl = match mode {
            Mode::Real | Mode::Unreal => 0,
            Mode::Vm86 => 3,
            Mode::Protected16 | Mode::Compatible16 | Mode::Long64 => level / 2 * 3,
            Mode::Protected32 | Mode::Compatible32 => level,
        };
        let paging = match (mode, input.below(3)) {
            (Mode::Real | Mode::Unreal, _) => Paging::Off,
            (m, _) if m.long() => Paging::Long,
            (_, 0) => Paging::Off,
            (_, 1) => Paging::Bits32,
            _ if model.has(Feature::Pae) => Paging::Pae,
            _ => Paging::Bits32,
        };
        let mut st = CpuState::reset();
        control(&mut st, input, model, mode, paging);
        let (phys, code_lin) = code_place(input, mode, paging, st.cr4 & cr4::PSE != 0);
        segments(&mut st, input, world, mode, cpl, phys);
        let stack = if mode.bits() == 64 { 64 } else { 32 };
        for (n, r) in st.gpr.iter_mut().enumerate() {
            *r = if n == 4 {
                place::STACK
            } else {
                program::value(input, stack, code_lin)
            };
            if stack == 32 {
                *r &= 0xffff_ffff;
            }
        }
        if input.chance(20) {
            st.gpr[4] = program::value(input, stack, code_lin);
        }
        st.rip = match mode.bits() {
            64 => code_lin,
            32 => code_lin.wrapping_sub(st.seg[Seg::Cs as usize].base) & 0xffff_ffff,
            _ => phys.wrapping_sub(st.seg[Seg::Cs as usize].base) & 0xffff,
        };
        rest(&mut st, input, mode, code_lin);
        let (cs, ss) = selectors(mode, cpl);
        let at = program::Place {
            bits: mode.bits(),
            at: code_lin,
            code: cs,
            data: ss,
        };
        let mut code = vec![(phys, program::write(input, at, 40))];
        if input.chance(60) {
            let bits = input.pick(&[16, 32, 64, mode.bits()]);
            let phys = place::CODE + u64::from(input.byte()) * 16;
            code.push((
                phys,
                program::write(input, program::Place { bits, ..at }, 12),
            ));
        }
        let steps = 100 + u64::from(input.byte()) * 12;
        let mut interrupts = Vec::new();
        if input.chance(120) {
            for _ in 0..1 + input.below(4) {
                interrupts.push(input.byte());
            }
        }
        let nmi = input.chance(20);
        let cr8 = if input.chance(80) {
            input.byte() & 15
        } else {
            0
        };
        Self {
            st,
            code,
            interrupts,
            nmi,
            cr8,
            steps,
        }
    }
}

/// CR0, CR3, CR4, EFER, XCR0.
fn control(st: &mut CpuState, input: &mut Input, model: &CpuModel, mode: Mode, paging: Paging) {
    st.cr0 = cr0::ET;
    for (bit, often) in [
        (cr0::NE, 200),
        (cr0::WP, 128),
        (cr0::MP, 128),
        (cr0::EM, 8),
        (cr0::TS, 16),
        (cr0::AM, 100),
        (cr0::CD, 8),
    ] {
        if input.chance(often) {
            st.cr0 |= bit;
        }
    }
    if mode.protected() {
        st.cr0 |= cr0::PE;
    }
    st.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    if input.chance(120) {
        // Most things on, or some.
        st.cr4 = if input.chance(128) {
            !cr4::TSD
        } else {
            input.number(3)
        };
    }
    st.cr4 &= model.cr4() & !(cr4::PAE | cr4::PCIDE | cr4::LA57);
    st.efer = efer::SCE | efer::NXE;
    if input.chance(20) {
        st.efer = 0;
    }
    match paging {
        Paging::Off => {}
        Paging::Bits32 => st.cr3 = root::BITS32,
        Paging::Pae => {
            st.cr4 |= cr4::PAE;
            st.cr3 = root::PAE;
        }
        Paging::Long => {
            st.cr4 |= cr4::PAE;
            st.efer |= efer::LME | efer::LMA;
            st.cr3 = root::LEVEL4;
            let odd = input.byte();
            if odd & 1 != 0 {
                st.cr4 |= cr4::PCIDE & model.cr4();
            }
            if odd & 6 == 6 && model.has(Feature::La57) {
                st.cr4 |= cr4::LA57;
                st.cr3 = root::LEVEL5;
            }
            if st.cr4 & cr4::PCIDE != 0 && odd & 8 != 0 {
                st.cr3 |= u64::from(odd >> 4);
            }
        }
    }
    if paging != Paging::Off {
        st.cr0 |= cr0::PG;
    }
    st.efer &= model.efer();
    if model.xcr0() != 0 && st.cr4 & cr4::OSXSAVE != 0 && input.chance(128) {
        st.xcr0 = x86::xcr0::X87 | x86::xcr0::SSE | u64::from(input.byte()) << 2 & model.xcr0();
        st.xcr0 &= model.xcr0();
        // AVX-512's come together, and with AVX.
        let avx512 = x86::xcr0::OPMASK | x86::xcr0::ZMM_HI256 | x86::xcr0::HI16_ZMM;
        if st.xcr0 & x86::xcr0::OPMASK != 0 {
            st.xcr0 |= avx512 | x86::xcr0::AVX;
        } else {
            st.xcr0 &= !avx512;
        }
    }
    if model.has(Feature::Pku) && input.chance(40) {
        st.pkru = input.number(4) as u32;
    }
}

/// Where the program lies: physically, and at which linear address it is run.
fn code_place(input: &mut Input, mode: Mode, paging: Paging, pse: bool) -> (u64, u64) {
    let offset = match input.below(4) {
        0 => 0,
        1 => 0x1000 - u64::from(input.byte() & 63),
        2 => u64::from(input.byte()) * 256,
        _ => 0xfc0 - u64::from(input.byte()),
    };
    let phys = place::CODE + offset;
    let swapped = phys ^ 0x1000;
    let choice = input.byte();
    let lin = match (paging, choice & 3) {
        (Paging::Off, _) | (_, 0) => phys,
        (Paging::Bits32, 1) => 0x20_0000 + swapped,
        (Paging::Bits32, 2) if pse => 0x40_0000 + phys,
        (Paging::Bits32, _) => 0xffc0_0000 + phys,
        (_, 1) => 0x20_0000 + phys,
        (_, 2) => 0x40_0000 + swapped,
        (Paging::Pae, _) => 0xc000_0000 + phys,
        (Paging::Long, _) if mode.bits() == 64 => 0xffff_ff80_0000_0000 + phys,
        (Paging::Long, _) => 0x8000_0000 + phys,
    };
    // 16-bit segments lead to the program itself only.
    if mode.bits() == 16 {
        (phys, phys)
    } else {
        (phys, lin)
    }
}

/// CS and SS; in real mode and VM86 what protected mode at level 0 has.
fn selectors(mode: Mode, cpl: u8) -> (u16, u16) {
    let step = u16::from(cpl) * 0x11;
    match mode {
        Mode::Real | Mode::Unreal | Mode::Vm86 => (sel::C0, sel::D0),
        Mode::Protected16 | Mode::Compatible16 if cpl == 0 => (sel::C0_16, sel::D0_16),
        Mode::Protected16 | Mode::Compatible16 => (sel::C3_16, sel::D3_16),
        Mode::Protected32 | Mode::Compatible32 => (sel::C0 + step, sel::D0 + step),
        Mode::Long64 if cpl == 0 => (sel::L0, sel::D0),
        Mode::Long64 => (sel::L3, sel::D3),
    }
}

fn segments(st: &mut CpuState, input: &mut Input, world: &World, mode: Mode, cpl: u8, phys: u64) {
    let (code, data) = match mode {
        Mode::Real | Mode::Unreal | Mode::Vm86 => (0, 0),
        _ => selectors(mode, cpl),
    };
    for seg in Seg::ALL {
        st.seg[seg as usize] = match mode {
            Mode::Real | Mode::Unreal | Mode::Vm86 => Segment::real(0),
            _ => world.segment(if seg == Seg::Cs { code } else { data }),
        };
    }
    match mode {
        Mode::Real | Mode::Unreal | Mode::Vm86 => {
            let selector = (place::CODE >> 4) as u16
                + (u16::from(input.byte() & 15)).min(((phys - place::CODE) >> 4) as u16);
            st.seg[Seg::Cs as usize] = Segment::real(selector);
            if mode != Mode::Vm86 {
                st.seg[Seg::Cs as usize].attr |= attr::CODE;
            }
            for seg in [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
                let selector = input.pick(&[0, 0x2000, 0x4000, 0x9fff, 0xffff, 0x0fff]);
                st.seg[seg as usize] = Segment::real(selector);
            }
        }
        _ => odd_segments(st, input, world, mode, cpl),
    }
    if mode == Mode::Unreal {
        for seg in Seg::ALL {
            if input.chance(128) {
                let segment = &mut st.seg[seg as usize];
                segment.limit = u32::MAX;
                segment.attr |= attr::G;
                if seg != Seg::Cs && input.chance(60) {
                    segment.attr |= attr::DB;
                }
            }
        }
    }
    if mode == Mode::Vm86 {
        for segment in &mut st.seg {
            segment.attr |= attr::DPL;
        }
    }
    st.gdtr = x86::TableReg {
        base: place::GDT,
        limit: sel::LIMIT,
    };
    st.idtr = match mode {
        _ if mode.long() => x86::TableReg {
            base: place::IDT64,
            limit: 0xfff,
        },
        Mode::Real | Mode::Unreal => x86::TableReg {
            base: 0,
            limit: 0x3ff,
        },
        _ => x86::TableReg {
            base: place::IDT,
            limit: 0x7ff,
        },
    };
    if mode.protected() {
        st.ldtr = world.segment(sel::LDT);
        st.tr = world.segment(if mode.long() { sel::TSS64 } else { sel::TSS });
    }
    if mode.long() && input.chance(60) {
        let at = if input.chance(128) {
            0xffff_ff80_0000_0000
        } else {
            0
        };
        st.gdtr.base += at;
        st.idtr.base += at;
    }
}

/// Data segments that are not the usual ones, as the level allows.
fn odd_segments(st: &mut CpuState, input: &mut Input, world: &World, mode: Mode, cpl: u8) {
    for seg in [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
        if !input.chance(60) {
            continue;
        }
        let n = input.pick(&[4_u16, 5, 6, 7, 9, 12, 0xff]);
        st.seg[seg as usize] = if n == 0xff {
            Segment {
                base: 0,
                limit: 0,
                attr: attr::UNUSABLE,
                selector: 0,
            }
        } else {
            let mut s = world.segment((sel::ODD + 8 * n) | 3);
            // Readable code only.
            if s.attr & attr::CODE != 0 {
                s.attr |= attr::RW;
            }
            s
        };
        if mode == Mode::Long64 && matches!(seg, Seg::Fs | Seg::Gs) {
            st.seg[seg as usize].base = input.pick(&[
                0,
                place::DATA,
                0xffff_ff80_0000_0000,
                0x7fff_ffff_f000,
                u64::MAX,
                0xffff_8000_0000_0000,
            ]);
        }
    }
    if mode != Mode::Long64 && cpl == 3 && input.chance(30) {
        // Expand-down, or small.
        let n = input.pick(&[6_u16, 7]);
        st.seg[Seg::Ss as usize] = world.segment((sel::ODD + 8 * n) | 3);
    }
}

/// RFLAGS, debug registers, MSRs, FPU and vectors, shadows.
fn rest(st: &mut CpuState, input: &mut Input, mode: Mode, code: u64) {
    st.rflags = flags::FIXED;
    if input.chance(128) {
        st.rflags |= flags::IF;
    }
    if input.chance(80) {
        st.rflags |= input.number(3)
            & flags::WRITABLE
            & !(flags::VM | flags::TF | flags::RF | flags::VIF | flags::VIP);
    }
    if input.chance(16) {
        st.rflags |= flags::TF;
    }
    if mode == Mode::Vm86 {
        st.rflags |= flags::VM;
        if input.chance(140) {
            st.rflags |= flags::IOPL;
        }
        if input.chance(40) {
            st.rflags |= input.number(3) & (flags::VIF | flags::VIP);
        }
    }
    if input.chance(24) {
        for dr in &mut st.dr {
            *dr = match input.byte() & 3 {
                0 => code.wrapping_add(u64::from(input.byte() & 63)),
                1 => place::DATA + u64::from(input.byte()),
                2 => place::STACK.wrapping_sub(u64::from(input.byte() & 63)),
                _ => 0,
            };
            if mode.bits() != 64 {
                *dr &= 0xffff_ffff;
            }
        }
        st.dr7 = input.number(4) & 0xffff_03ff | 0x400;
    }
    st.msr.star = u64::from(sel::SYS) << 32 | u64::from((sel::SYS + 16) | 3) << 48;
    st.msr.lstar = place::CODE + 16;
    st.msr.cstar = place::CODE + 32;
    st.msr.fmask = 0x4_7700;
    st.msr.sysenter_cs = u64::from(sel::SYS);
    st.msr.sysenter_esp = place::STACKS;
    st.msr.sysenter_eip = place::CODE + 48;
    st.msr.kernel_gs_base = place::DATA;
    st.fpu.fcw = 0x37f;
    st.fpu.ftw = input.byte();
    if input.chance(80) {
        st.fpu.fcw = 0x40 | input.number(2) as u16 & 0x1f3f;
        st.fpu.fsw = input.number(2) as u16 & 0x7f7f;
        if st.fpu.fsw & 0x3f & !st.fpu.fcw != 0 {
            st.fpu.fsw |= 0x8080;
        }
    }
    for r in &mut st.fpu.regs {
        let kind = input.noise();
        r[..8].copy_from_slice(&input.noise().to_le_bytes());
        let exponent = match kind & 7 {
            0 => 0,
            1 => 0x7fff,
            2 => kind >> 16 & 0xffff,
            _ => 0x3ff0 + (kind >> 16 & 0x1f),
        } as u16;
        r[7] |= if kind & 0x18 == 0 { 0 } else { 0x80 };
        r[8..10].copy_from_slice(&exponent.to_le_bytes());
    }
    if input.chance(60) {
        st.mxcsr = input.number(2) as u32;
    }
    for r in &mut st.vec[..16] {
        for word in r[..16].chunks_exact_mut(8) {
            word.copy_from_slice(&input.noise().to_le_bytes());
        }
    }
    if input.chance(10) {
        st.shadow = if st.rflags & flags::IF != 0 {
            Shadow::Sti
        } else {
            Shadow::MovSs
        };
    }
    st.nmi_blocked = input.chance(10);
    debug_assert_eq!(msr::EFER, 0xc000_0080);
}
