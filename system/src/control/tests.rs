//! Control registers, flags and the rest of the system instructions, case by case from the manual.

use std::sync::Arc;

use x86::{Activity, Exception, Gpr, Seg, Shadow, cr0, cr4, efer, flags};

use super::*;
use crate::CpuModel;
use crate::testing::{Machine, TABLES};

const GP: Result<u64, Exception> = Err(Exception::GP0);

fn with_model(mut m: Machine, text: &str) -> Machine {
    m.v.model = Arc::new(CpuModel::parse(text).expect("a model of this test"));
    m
}

#[test]
fn cr0_combinations() {
    let mut m = Machine::real();
    let mut set = |value| write_cr(&mut m.v, 0, value, 0);
    assert_eq!(set(cr0::PG), GP, "PG without PE");
    assert_eq!(set(cr0::NW), GP, "NW without CD");
    assert_eq!(set(1 << 32), GP, "upper half");
    assert_eq!(
        set(cr0::PE | cr0::NE | 1 << 6),
        Ok(0),
        "reserved bits of the lower half are ignored"
    );
    assert_eq!(m.v.st.cr0, cr0::PE | cr0::NE | cr0::ET);
    assert_eq!(read_cr(&mut m.v, 0, 0, 0), Ok(0x31));
    let mut user = Machine::protected(3);
    assert_eq!(write_cr(&mut user.v, 0, cr0::PE, 0), GP);
    assert_eq!(read_cr(&mut user.v, 0, 0, 0), GP);
}

#[test]
fn long_mode_is_entered_and_left() {
    let mut m = Machine::protected(0);
    m.map_test_tables();
    m.v.st.efer = efer::LME;
    m.v.st.cr3 = TABLES;
    let state = m.v.paging_state();
    m.v.mmu.restore(state);
    let on = cr0::PE | cr0::ET | cr0::PG;
    assert_eq!(write_cr(&mut m.v, 0, on, 0), GP, "needs PAE");
    assert_eq!(write_cr(&mut m.v, 4, cr4::PAE, 0), Ok(0));
    let tr = m.v.st.tr;
    m.v.st.tr.attr = tr.attr & !0xf | 3;
    assert_eq!(write_cr(&mut m.v, 0, on, 0), GP, "a 16-bit TSS");
    m.v.st.tr = tr;
    m.v.st.seg[Seg::Cs as usize].attr |= x86::attr::L;
    assert_eq!(write_cr(&mut m.v, 0, on, 0), GP, "64-bit code");
    m.v.st.seg[Seg::Cs as usize].attr &= !x86::attr::L;
    assert_eq!(write_cr(&mut m.v, 0, on, 0), Ok(0));
    assert_eq!(m.v.st.efer, efer::LME | efer::LMA);
    assert_eq!(m.v.mmu.state().efer, efer::LME | efer::LMA);
    assert_eq!(write_cr(&mut m.v, 4, 0, 0), GP, "PAE stays");
    assert_eq!(write_cr(&mut m.v, 4, cr4::PAE | cr4::PCIDE, 0), Ok(0));
    assert_eq!(write_cr(&mut m.v, 0, cr0::PE, 0), GP, "PG stays with PCIDE");
    assert_eq!(write_cr(&mut m.v, 4, cr4::PAE, 0), Ok(0));
    assert_eq!(write_cr(&mut m.v, 0, cr0::PE, 0), Ok(0));
    assert_eq!(m.v.st.efer, efer::LME);
    assert_eq!(m.v.mmu.state().efer, efer::LME);

    let mut m = Machine::long(0, true);
    assert_eq!(
        write_cr(&mut m.v, 0, cr0::PE, 0),
        GP,
        "64-bit code can't turn paging off"
    );
}

#[test]
fn cr3_and_pcid() {
    let mut m = Machine::long(0, true);
    assert_eq!(
        write_cr(&mut m.v, 3, TABLES | 1 << 63, 0),
        GP,
        "bit 63 without PCIDE"
    );
    assert_eq!(write_cr(&mut m.v, 3, 1 << 46, 0), GP, "beyond MAXPHYADDR");
    assert_eq!(write_cr(&mut m.v, 3, TABLES | 5, 0), Ok(0));
    assert_eq!(
        write_cr(&mut m.v, 4, cr4::PAE | cr4::PCIDE, 0),
        GP,
        "the low bits of CR3 must be clear"
    );
    assert_eq!(write_cr(&mut m.v, 3, TABLES, 0), Ok(0));
    assert_eq!(write_cr(&mut m.v, 4, cr4::PAE | cr4::PCIDE, 0), Ok(0));
    assert_eq!(write_cr(&mut m.v, 3, TABLES | 7 | 1 << 63, 0), Ok(0));
    assert_eq!(m.v.st.cr3, TABLES | 7, "bit 63 isn't stored");
    let mut legacy = Machine::protected(0);
    assert_eq!(
        write_cr(&mut legacy.v, 4, cr4::PCIDE, 0),
        GP,
        "PCIDE wants long mode"
    );
}

#[test]
fn pae_loads_its_pdptes() {
    let mut m = Machine::protected(0);
    m.write(TABLES, 8, 0x5001);
    m.write(TABLES + 8, 8, 1 << 5 | 1);
    m.v.st.cr3 = TABLES;
    m.v.st.cr4 = cr4::PAE;
    let state = m.v.paging_state();
    m.v.mmu.restore(state);
    let on = cr0::PE | cr0::ET | cr0::PG;
    assert_eq!(
        write_cr(&mut m.v, 0, on, 0),
        GP,
        "a reserved bit in a PDPTE"
    );
    assert_eq!(m.v.st.cr0 & cr0::PG, 0);
    m.write(TABLES + 8, 8, 0);
    assert_eq!(write_cr(&mut m.v, 0, on, 0), Ok(0));
    assert_eq!(m.v.st.pdpte, [0x5001, 0, 0, 0]);
}

#[test]
fn cr4_bits_follow_the_model() {
    let mut m = Machine::protected(0);
    for bit in [cr4::PKE, cr4::LA57, 1 << 13, 1 << 31, 1 << 40] {
        assert_eq!(write_cr(&mut m.v, 4, bit, 0), GP, "{bit:#x}");
    }
    let mut m = with_model(m, "default,+pku,+la57");
    assert_eq!(write_cr(&mut m.v, 4, cr4::PKE | cr4::LA57, 0), Ok(0));
    let mut long = with_model(Machine::long(0, true), "default,+la57");
    assert_eq!(
        write_cr(&mut long.v, 4, cr4::PAE | cr4::LA57, 0),
        GP,
        "LA57 can't change in long mode"
    );
}

#[test]
fn cr2_cr8_and_what_is_not_there() {
    let mut m = Machine::long(0, true);
    assert_eq!(write_cr(&mut m.v, 2, u64::MAX, 0), Ok(0));
    assert_eq!(read_cr(&mut m.v, 2, 0, 0), Ok(u64::MAX));
    assert_eq!(write_cr(&mut m.v, 8, 16, 0), GP);
    m.v.event_mask = 0;
    assert_eq!(write_cr(&mut m.v, 8, 9, 0), Ok(0));
    assert_eq!(m.v.event_mask, u32::MAX, "pending interrupts are looked at");
    assert_eq!(read_cr(&mut m.v, 8, 0, 0), Ok(9));
    for n in [1, 5, 7, 9, 15] {
        assert_eq!(read_cr(&mut m.v, n, 0, 0), Err(Exception::UD));
        assert_eq!(write_cr(&mut m.v, n, 0, 0), Err(Exception::UD));
    }
}

#[test]
fn lmsw_smsw_clts() {
    let mut m = Machine::protected(0);
    m.v.st.cr0 = cr0::PE | cr0::ET | cr0::AM;
    assert_eq!(lmsw(&mut m.v, 0xffff_fffe, 0, 0), Ok(0));
    assert_eq!(
        m.v.st.cr0,
        cr0::PE | cr0::ET | cr0::AM | cr0::MP | cr0::EM | cr0::TS
    );
    assert_eq!(clts(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(
        smsw(&mut m.v, 0, 0, 0),
        Ok(cr0::PE | cr0::ET | cr0::AM | cr0::MP | cr0::EM)
    );
    let mut m = Machine::protected(3);
    assert_eq!(lmsw(&mut m.v, 1, 0, 0), GP);
    assert_eq!(clts(&mut m.v, 0, 0, 0), GP);
    assert_eq!(smsw(&mut m.v, 0, 0, 0), Ok(m.v.st.cr0));
    m.v.st.cr4 |= cr4::UMIP;
    assert_eq!(smsw(&mut m.v, 0, 0, 0), GP);
    assert_eq!(sgdt(&mut m.v, 0, 0, 0), GP);
    assert_eq!(sidt(&mut m.v, 0, 0, 0), GP);
}

#[test]
fn descriptor_table_registers() {
    let mut m = Machine::long(0, true);
    assert_eq!(lgdt(&mut m.v, 0x1_0123, 1 << 47, 0), GP, "not canonical");
    assert_eq!(lidt(&mut m.v, 0x123, 0xffff_8000_0000_0000, 0), Ok(0));
    assert_eq!(sidt(&mut m.v, 0, 0, 0), Ok(0xffff_8000_0000_0000));
    assert_eq!(sidt(&mut m.v, 1, 0, 0), Ok(0x123));
    let mut m = Machine::protected(1);
    assert_eq!(lgdt(&mut m.v, 0, 0, 0), GP);
    let mut wide = with_model(Machine::long(0, true), "default,+la57");
    assert_eq!(
        lgdt(&mut wide.v, 1, 1 << 47, 0),
        Ok(0),
        "57 bits though CR4.LA57 is clear"
    );
}

#[test]
fn xcr0() {
    let mut m = with_model(Machine::long(0, true), "default,+pku");
    let set = |m: &mut Machine, ecx: u64, value: u64| {
        m.v.st.gpr[Gpr::Rcx as usize] = ecx;
        m.v.st.gpr[Gpr::Rax as usize] = value;
        m.v.st.gpr[Gpr::Rdx as usize] = value >> 32;
        xsetbv(&mut m.v, 0, 0, 0)
    };
    assert_eq!(set(&mut m, 0, 3), Err(Exception::UD), "without CR4.OSXSAVE");
    m.v.st.cr4 |= cr4::OSXSAVE;
    for bad in [0, 2, 5, 1 << 63 | 1] {
        assert_eq!(set(&mut m, 0, bad), GP, "{bad:#x}");
    }
    let mut wide = with_model(Machine::long(0, true), "v4");
    wide.v.st.cr4 |= cr4::OSXSAVE;
    // AVX-512's three together, and with AVX.
    for bad in [0xe3, 0x27, 0x47, 0x87, 0x67, 0xa7, 0xc7, 0xe6, 0x2e7] {
        assert_eq!(set(&mut wide, 0, bad), GP, "{bad:#x}");
    }
    assert_eq!((set(&mut wide, 0, 0xe7), wide.v.st.xcr0), (Ok(0), 0xe7));
    let mut narrow = with_model(Machine::long(0, true), "v3");
    narrow.v.st.cr4 |= cr4::OSXSAVE;
    assert_eq!(set(&mut narrow, 0, 0xe7), GP);
    assert_eq!(set(&mut m, 1, 3), GP);
    assert_eq!(set(&mut m, 0, 7), Ok(0));
    let mut old = with_model(Machine::long(0, true), "v2");
    old.v.st.cr4 |= cr4::OSXSAVE;
    assert_eq!((set(&mut old, 0, 7), set(&mut old, 0, 3)), (GP, Ok(0)));
    assert_eq!(set(&mut m, 0, 0x203), Ok(0));
    m.v.st.gpr[Gpr::Rcx as usize] = 0;
    assert_eq!(xgetbv(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(m.v.st.gpr[0], 0x203);
    m.v.st.gpr[Gpr::Rcx as usize] = 1;
    m.v.st.vec[3][5] = 1;
    m.v.st.fpu = x86::Fpu::RESET;
    assert_eq!(xgetbv(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(m.v.st.gpr[0], 2, "only SSE is in use");
    m.v.st.gpr[Gpr::Rcx as usize] = 2;
    assert_eq!(xgetbv(&mut m.v, 0, 0, 0), GP);
    let mut user = Machine::long(3, true);
    user.v.st.cr4 |= cr4::OSXSAVE;
    assert_eq!(set(&mut user, 0, 3), GP);
}

#[test]
fn fs_and_gs_bases() {
    let mut m = Machine::long(3, true);
    assert_eq!(write_seg_base(&mut m.v, 4, 0x7fff_ffff_f000, 0), Ok(0));
    assert_eq!(read_seg_base(&mut m.v, 4, 0, 0), Ok(0x7fff_ffff_f000));
    assert_eq!(write_seg_base(&mut m.v, 5, 1 << 47, 0), GP);
    assert_eq!(swapgs(&mut m.v, 0, 0, 0), GP);
    let mut m = Machine::long(0, true);
    m.v.st.msr.kernel_gs_base = 0x1234;
    m.v.st.seg[Seg::Gs as usize].base = 0x5678;
    assert_eq!(swapgs(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(
        (m.v.st.msr.kernel_gs_base, m.v.seg(Seg::Gs).base),
        (0x5678, 0x1234)
    );
}

#[test]
fn cli_and_sti_by_mode_and_iopl() {
    // Mode, CR4, IOPL, VIP: what CLI and STI do. R: IF, V: VIF, -: #GP.
    enum Mode {
        Real,
        Protected(u8),
        Vm86,
    }
    let cases = [
        (Mode::Real, 0, 0, 0, 'R', 'R'),
        (Mode::Protected(0), 0, 0, 0, 'R', 'R'),
        (Mode::Protected(2), 0, 1, 0, '-', '-'),
        (Mode::Protected(2), cr4::PVI, 1, 0, '-', '-'),
        (Mode::Protected(3), 0, 3, 0, 'R', 'R'),
        (Mode::Protected(3), 0, 2, 0, '-', '-'),
        (Mode::Protected(3), cr4::PVI, 2, 0, 'V', 'V'),
        (Mode::Protected(3), cr4::PVI, 0, flags::VIP, 'V', '-'),
        (Mode::Protected(3), cr4::VME, 0, 0, '-', '-'),
        (Mode::Vm86, 0, 3, 0, 'R', 'R'),
        (Mode::Vm86, 0, 2, 0, '-', '-'),
        (Mode::Vm86, cr4::VME, 2, 0, 'V', 'V'),
        (Mode::Vm86, cr4::VME, 0, flags::VIP, 'V', '-'),
        (Mode::Vm86, cr4::PVI, 0, 0, '-', '-'),
    ];
    for (n, (mode, cr4, level, vip, clear, set)) in cases.into_iter().enumerate() {
        let mut m = match mode {
            Mode::Real => Machine::real(),
            Mode::Protected(cpl) => Machine::protected(cpl),
            Mode::Vm86 => Machine::vm86(level),
        };
        m.v.st.cr4 = cr4;
        let base = m.v.st.rflags & !flags::IOPL | u64::from(level) << flags::IOPL_SHIFT | vip;
        m.v.st.rflags = base | flags::IF | flags::VIF;
        let expected = match clear {
            'R' => (Ok(0), base | flags::VIF),
            'V' => (Ok(0), base | flags::IF),
            _ => (GP, base | flags::IF | flags::VIF),
        };
        assert_eq!((cli(&mut m.v, 0, 0, 0), m.v.st.rflags), expected, "CLI {n}");
        m.v.st.rflags = base;
        let expected = match set {
            'R' => (Ok(0), base | flags::IF),
            'V' => (Ok(0), base | flags::VIF),
            _ => (GP, base),
        };
        assert_eq!((sti(&mut m.v, 0, 0, 0), m.v.st.rflags), expected, "STI {n}");
        let shadow = if set == 'R' {
            Shadow::Sti
        } else {
            Shadow::None
        };
        assert_eq!(m.v.st.shadow, shadow, "STI {n}");
    }
}

#[test]
fn sti_shadows_only_when_it_opens_the_window() {
    let mut m = Machine::protected(0);
    m.v.event_mask = 0;
    m.v.st.rflags |= flags::IF;
    assert_eq!(sti(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!((m.v.st.shadow, m.v.event_mask), (Shadow::None, 0));
    m.v.st.rflags &= !flags::IF;
    assert_eq!(sti(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!((m.v.st.shadow, m.v.event_mask), (Shadow::Sti, u32::MAX));
}

#[test]
fn pushf_images() {
    let all = flags::WRITABLE & !flags::VM | flags::FIXED;
    let mut m = Machine::long(3, true);
    m.v.st.rflags = all;
    assert_eq!(pushf_image(&mut m.v, 0, 0, 8), Ok(all & !flags::RF));
    assert_eq!(pushf_image(&mut m.v, 0, 0, 2), Ok(all & 0xffff));
    let mut m = Machine::vm86(3);
    m.v.st.rflags |= flags::RF | flags::IF;
    assert_eq!(
        pushf_image(&mut m.v, 0, 0, 4),
        Ok(flags::FIXED | flags::IF | flags::IOPL),
        "neither VM nor RF"
    );
    let mut m = Machine::vm86(1);
    assert_eq!(pushf_image(&mut m.v, 0, 0, 2), GP);
    m.v.st.cr4 = cr4::VME;
    m.v.st.rflags |= flags::IF;
    assert_eq!(
        pushf_image(&mut m.v, 0, 0, 2),
        Ok(flags::FIXED | flags::IOPL),
        "IF is VIF's"
    );
    m.v.st.rflags |= flags::VIF;
    assert_eq!(
        pushf_image(&mut m.v, 0, 0, 2),
        Ok(flags::FIXED | flags::IOPL | flags::IF)
    );
    assert_eq!(pushf_image(&mut m.v, 0, 0, 4), GP);
}

#[test]
fn popf_changes_what_the_level_allows() {
    let status = flags::STATUS | flags::TF | flags::DF | flags::NT;
    // Machine, IOPL, size, the bits that change when all ones are popped over zeros.
    let cases: [(Machine, u64, u64, u64); 7] = [
        (Machine::real(), 0, 2, status | flags::IF | flags::IOPL),
        (
            Machine::protected(0),
            0,
            4,
            status | flags::IF | flags::IOPL | flags::AC | flags::ID,
        ),
        (Machine::protected(1), 0, 4, status | flags::AC | flags::ID),
        (
            Machine::protected(1),
            1,
            4,
            status | flags::IF | flags::AC | flags::ID,
        ),
        (Machine::protected(3), 2, 2, status),
        (
            Machine::vm86(3),
            3,
            4,
            status | flags::IF | flags::AC | flags::ID,
        ),
        (Machine::long(3, true), 0, 8, status | flags::AC | flags::ID),
    ];
    for (n, (mut m, level, size, changed)) in cases.into_iter().enumerate() {
        let base = m.v.st.rflags & flags::VM | flags::FIXED | level << flags::IOPL_SHIFT;
        m.v.st.rflags = base | flags::RF;
        assert_eq!(popf(&mut m.v, u64::MAX, 0, size), Ok(0));
        assert_eq!(m.v.rflags(), base | changed, "ones, {n}");
        m.v.st.rflags = base | changed | flags::VIF | flags::VIP;
        assert_eq!(popf(&mut m.v, 0, 0, size), Ok(0));
        let kept = base
            & (flags::VM
                | flags::FIXED
                | if changed & flags::IOPL != 0 {
                    0
                } else {
                    flags::IOPL
                });
        assert_eq!(m.v.rflags(), kept | flags::VIF | flags::VIP, "zeros, {n}");
    }
}

#[test]
fn popf_with_virtual_interrupts() {
    let mut m = Machine::vm86(0);
    assert_eq!(popf(&mut m.v, 0, 0, 2), GP, "without VME");
    m.v.st.cr4 = cr4::VME;
    let base = m.v.st.rflags;
    assert_eq!(popf(&mut m.v, 0, 0, 4), GP, "32 bits");
    assert_eq!(popf(&mut m.v, flags::TF, 0, 2), GP);
    assert_eq!(
        popf(&mut m.v, flags::IF | flags::IOPL | flags::CF, 0, 2),
        Ok(0)
    );
    assert_eq!(
        m.v.rflags(),
        base | flags::VIF | flags::CF,
        "IF and IOPL stay"
    );
    m.v.st.rflags |= flags::VIP;
    assert_eq!(popf(&mut m.v, flags::IF, 0, 2), GP, "an interrupt waits");
    assert_eq!(popf(&mut m.v, 0, 0, 2), Ok(0));
    assert_eq!(m.v.rflags(), base | flags::VIP);
}

#[test]
fn stac_clac() {
    let mut m = Machine::long(0, true);
    assert_eq!(set_ac(&mut m.v, 1, 0, 0), Ok(0));
    assert!(m.v.st.rflags & flags::AC != 0 && m.v.mmu.state().ac);
    assert_eq!(set_ac(&mut m.v, 0, 0, 0), Ok(0));
    assert!(m.v.st.rflags & flags::AC == 0 && !m.v.mmu.state().ac);
    let mut m = Machine::long(3, true);
    assert_eq!(set_ac(&mut m.v, 1, 0, 0), Err(Exception::UD));
}

#[test]
fn time_stamp_and_its_privilege() {
    let mut m = Machine::long(3, true);
    m.v.fixed_tsc = Some(0x0001_0000_0000_0005);
    m.v.retired = 2;
    m.v.st.msr.tsc_aux = 0x77;
    m.v.st.gpr = [u64::MAX; 16];
    assert_eq!(rdtsc(&mut m.v, 1, 0, 0), Ok(0));
    assert_eq!(
        (m.v.st.gpr[0], m.v.st.gpr[2], m.v.st.gpr[1]),
        (7, 0x1_0000, 0x77)
    );
    m.v.st.cr4 |= cr4::TSD;
    assert_eq!(rdtsc(&mut m.v, 0, 0, 0), GP);
    assert_eq!(rdpid(&mut m.v, 0, 0, 0), Ok(0x77));
    assert_eq!(rdpmc(&mut m.v, 0, 0, 0), GP);
    for f in [wbinvd, hlt, invlpg] {
        assert_eq!(f(&mut m.v, 0, 0, 0), GP);
    }
    let mut m = Machine::real();
    m.v.st.cr4 |= cr4::TSD;
    assert_eq!(rdtsc(&mut m.v, 0, 0, 0), Ok(0), "real mode is privileged");
    assert_eq!(hlt(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(m.v.st.activity, Activity::Halted);
}

#[test]
fn protection_keys() {
    let mut m = with_model(Machine::long(3, true), "default,+pku");
    m.v.st.gpr = [0; 16];
    assert_eq!(rdpkru(&mut m.v, 0, 0, 0), Err(Exception::UD));
    assert_eq!(wrpkru(&mut m.v, 0, 0, 0), Err(Exception::UD));
    m.v.st.cr4 |= cr4::PKE;
    m.v.st.gpr[0] = 0xffff_ffff_5555_5554;
    assert_eq!(wrpkru(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(
        (m.v.st.pkru, m.v.mmu.state().pkru),
        (0x5555_5554, 0x5555_5554)
    );
    m.v.st.gpr[2] = 9;
    assert_eq!(wrpkru(&mut m.v, 0, 0, 0), GP, "EDX");
    assert_eq!(rdpkru(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!((m.v.st.gpr[0], m.v.st.gpr[2]), (0x5555_5554, 0));
    m.v.st.gpr[1] = 1;
    assert_eq!(rdpkru(&mut m.v, 0, 0, 0), GP, "ECX");
    assert_eq!(wrpkru(&mut m.v, 0, 0, 0), GP, "ECX");
}

#[test]
fn invpcid_descriptors() {
    let mut m = Machine::long(0, true);
    let mut run = |kind, low, high| {
        m.write(0x3_0000, 8, low);
        m.write(0x3_0008, 8, high);
        invpcid(&mut m.v, kind, 0x3_0000, 0)
    };
    assert_eq!(run(0, 0, 0x1000), Ok(0));
    assert_eq!(run(0, 0, 1 << 47), GP, "not canonical");
    assert_eq!(run(1, 5, 0), GP, "a PCID without CR4.PCIDE");
    assert_eq!(run(2, 5, 0), Ok(0));
    assert_eq!(run(3, 0x1000, 0), GP, "reserved");
    assert_eq!(run(4, 0, 0), GP, "no such type");
    m.v.st.cr4 |= cr4::PCIDE;
    m.write(0x3_0000, 8, 0xfff);
    m.write(0x3_0008, 8, 0);
    assert_eq!(invpcid(&mut m.v, 1, 0x3_0000, 0), Ok(0));
    let mut user = Machine::long(3, true);
    assert_eq!(invpcid(&mut user.v, 2, 0x3_0000, 0), GP);
}

#[test]
fn invlpg_drops_a_translation() {
    let mut m = Machine::protected(0);
    m.enable_paging();
    m.write(0x3_0000, 1, 0x11);
    m.write(0x3_1000, 1, 0x22);
    assert_eq!(m.v.read(0x3_0000, 1), Ok(0x11));
    m.write(TABLES + 0x1000 + 0x30 * 4, 4, 0x3_1000 | 7);
    assert_eq!(invlpg(&mut m.v, 0x3_0abc, 0, 0), Ok(0));
    assert_eq!(m.v.read(0x3_0000, 1), Ok(0x22));
}

#[test]
fn cpuid_reads_the_state() {
    let mut m = Machine::long(0, true);
    m.v.st.cr4 |= cr4::OSXSAVE;
    m.v.st.gpr[0] = 0xdead_beef_0000_0001;
    m.v.st.gpr[1] = u64::MAX;
    assert_eq!(cpuid(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(m.v.st.gpr[0], u64::from(m.v.model.signature()));
    assert_eq!(m.v.st.gpr[1] >> 27 & 1, 1, "OSXSAVE");
    assert_eq!(m.v.st.gpr[3] >> 24, 0, "APIC id, upper half clear");
    assert_eq!(m.v.st.msr.bios_sign_id, 1 << 32);
    m.v.st.gpr[0] = 0x8000_0001;
    assert_eq!(cpuid(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(m.v.st.gpr[2] >> 11 & 1, 1, "SYSCALL is told to 64-bit code");
}

#[test]
fn monitor_and_mwait() {
    let mut m = Machine::long(0, true);
    m.v.st.gpr = [0; 16];
    assert_eq!(monitor(&mut m.v, 0x3_0000, 0, 0), Ok(0));
    assert_eq!(mwait(&mut m.v, 0, 0, 0), Ok(0));
    assert!(
        monitor(&mut m.v, 0x4000_0000, 0, 0).is_err_and(|e| e.vector == 14),
        "as a load"
    );
    m.v.st.gpr[1] = 2;
    assert_eq!(monitor(&mut m.v, 0x3_0000, 0, 0), GP);
    assert_eq!(mwait(&mut m.v, 0, 0, 0), GP);
    for _ in 0..100 {
        assert_eq!(pause(&mut m.v, 0, 0, 0), Ok(0));
    }
}

impl Machine {
    /// An identity map of the first GiB for long mode, in the tables' place.
    fn map_test_tables(&mut self) {
        self.write(TABLES, 8, (TABLES + 0x1000) | 7);
        self.write(TABLES + 0x1000, 8, (TABLES + 0x2000) | 7);
        for n in 0..512 {
            self.write(TABLES + 0x2000 + n * 8, 8, n << 21 | 0x87);
        }
    }
}
