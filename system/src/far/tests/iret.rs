//! IRET in all modes.

use x86::flags::{AC, CF, DF, FIXED, ID, IF, IOPL, NT, OF, RF, TF, VIF, VIP, VM, WRITABLE};
use x86::{Exception, Seg, attr, cr4};

use super::fails;
use crate::far::iret;
use crate::testing::{Machine, STACK, TSS, TSS_B, access, descriptor, sel};

fn with_frame(mut m: Machine, size: usize, values: &[u64]) -> Machine {
    let base = m.v.seg(Seg::Ss).base;
    m.write_frame(base + STACK, size, values);
    m.v.st.nmi_blocked = true;
    m
}

fn run(m: &mut Machine, size: u64) -> Result<u64, Exception> {
    iret(&mut m.v, 0, 0, size)
}

/// Everything that an image can hold but VM and NT.
const ALL: u64 = WRITABLE & !(VM | NT);

#[test]
fn real_mode_iret() {
    for (size, image, expected) in [
        (2, ALL | NT, (ALL | NT) & 0xffff | FIXED),
        (4, ALL | NT, (ALL | NT) & !(VIF | VIP) | FIXED),
        (4, VM, FIXED),
    ] {
        let mut m = with_frame(Machine::real(), size, &[0x5678, 0x1234, image]);
        run(&mut m, size as u64).expect("nothing to check");
        assert!(m.at(0x1234, 0x5678));
        assert_eq!(
            (m.v.rflags(), m.v.st.gpr[4]),
            (expected, STACK + 3 * size as u64)
        );
        assert!(!m.v.st.nmi_blocked);
    }
    let build = || {
        let mut m = with_frame(Machine::real(), 4, &[0x1_0000, 0x1234, 2]);
        m.v.st.nmi_blocked = false;
        m
    };
    fails(
        &build,
        "EIP beyond the limit",
        iret,
        [0, 0, 4],
        Exception::GP0,
    );
}

#[test]
fn flags_that_iret_restores_depend_on_cpl_iopl_and_size() {
    let user = CF | OF | DF | TF;
    // CPL, IOPL, size, RFLAGS bits of `ALL` that change.
    for (cpl, iopl, size, changed) in [
        (0, 0, 4, ALL),
        (0, 0, 2, ALL & 0xffff),
        (1, 0, 4, ALL & !(IF | IOPL | VIF | VIP)),
        (1, 1, 4, ALL & !(IOPL | VIF | VIP)),
        (3, 2, 4, ALL & !(IF | IOPL | VIF | VIP)),
        (3, 3, 4, ALL & !(IOPL | VIF | VIP)),
        (3, 3, 2, ALL & 0xffff & !IOPL),
    ] {
        let cs = sel::C0 + cpl * 0x11;
        let mut m = with_frame(
            Machine::protected(cpl as u8),
            size,
            &[0x1234, u64::from(cs), ALL],
        );
        m.v.st.rflags = FIXED | iopl << 12;
        run(&mut m, size as u64).expect("a good frame");
        assert!(m.at(cs, 0x1234));
        let expected = FIXED | iopl << 12 | ALL & changed;
        assert_eq!(
            m.v.rflags(),
            expected,
            "CPL {cpl}, IOPL {iopl}, size {size}"
        );
        assert_eq!(changed & user, user);
        assert_eq!(
            (m.v.st.gpr[4], m.v.st.nmi_blocked),
            (STACK + 3 * size as u64, false)
        );
        assert_eq!(m.v.mmu.state().ac, expected & AC != 0);
    }
}

#[test]
fn iret_to_an_outer_level() {
    for size in [2, 4] {
        for (cpl, cs, ss) in [
            (0, sel::C3, sel::D3),
            (0, sel::C1, sel::D1),
            (1, sel::C2, sel::D2),
            (0, sel::CONF0 | 3, sel::D3),
        ] {
            let mut m = with_frame(
                Machine::protected(cpl),
                size,
                &[0x1234, u64::from(cs), IF | CF, 0x7000, u64::from(ss)],
            );
            m.set_segment(Seg::Es, sel::D3);
            run(&mut m, size as u64).expect("a good frame");
            assert!(m.at(cs, 0x1234));
            assert_eq!(
                (
                    m.v.seg(Seg::Ss).selector,
                    m.v.st.gpr[4],
                    u16::from(m.v.st.cpl())
                ),
                (ss, 0x7000, cs & 3)
            );
            // IF by the old level's right.
            assert_eq!(m.v.rflags() & IF != 0, cpl == 0);
            assert!(m.v.seg(Seg::Ds).has(attr::UNUSABLE) && !m.v.seg(Seg::Es).has(attr::UNUSABLE));
        }
    }
}

#[test]
fn iret_faults_name_cs_or_ss_and_unblock_nmi_all_the_same() {
    let gp = |selector: u16| Exception::gp(u32::from(selector & !3));
    for (what, cpl, cs, ss, expected) in [
        ("null CS", 0, 0, 0, gp(0)),
        ("CS beyond the GDT", 0, sel::BEYOND, 0, gp(sel::BEYOND)),
        ("data in CS", 0, sel::D0, 0, gp(sel::D0)),
        ("inner", 3, sel::C0, sel::D0, gp(sel::C0)),
        ("RPL over DPL", 0, sel::C0 | 3, sel::D3, gp(sel::C0)),
        (
            "absent CS",
            0,
            sel::NP_CODE,
            0,
            Exception::np(u32::from(sel::NP_CODE)),
        ),
        ("null SS", 0, sel::C3, 0, gp(0)),
        ("RPL of SS", 0, sel::C3, sel::D0, gp(sel::D0)),
        ("DPL of SS", 0, sel::C3, sel::D0 | 3, gp(sel::D0)),
        (
            "SS beyond the GDT",
            0,
            sel::C3,
            sel::BEYOND | 3,
            gp(sel::BEYOND),
        ),
    ] {
        let frame = [0x1234, u64::from(cs), 2, 0x7000, u64::from(ss)];
        let mut m = with_frame(Machine::protected(cpl), 4, &frame);
        m.v.st.nmi_blocked = true;
        let _ = run(&mut m, 4);
        assert!(!m.v.st.nmi_blocked, "{what}");
        let build = || {
            let mut m = with_frame(Machine::protected(cpl), 4, &frame);
            m.v.st.nmi_blocked = false;
            m
        };
        fails(&build, what, iret, [0, 0, 4], expected);
    }
    for limit in [3, 7, 11, 15, 19] {
        let build = || {
            let mut m = with_frame(
                Machine::protected(0),
                4,
                &[0x1234, u64::from(sel::C3), 2, 0x7000, u64::from(sel::D3)],
            );
            m.v.st.nmi_blocked = false;
            m.v.st.seg[Seg::Ss as usize].limit = STACK as u32 + limit;
            m
        };
        if limit < 19 {
            fails(
                &build,
                "frame beyond the limit",
                iret,
                [0, 0, 4],
                Exception::SS0,
            );
        } else {
            assert_eq!(run(&mut build(), 4), Ok(0));
        }
    }
    let build = || {
        let mut m = with_frame(Machine::protected(0), 4, &[0x1000, u64::from(sel::FREE), 2]);
        m.v.st.nmi_blocked = false;
        m.write_descriptor(sel::FREE, descriptor(0, 0xfff, access::CODE));
        m
    };
    fails(
        &build,
        "EIP beyond the limit",
        iret,
        [0, 0, 4],
        Exception::GP0,
    );
}

#[test]
fn iret_in_64_bit_mode_always_pops_ss_and_rsp() {
    for (cpl, cs, ss, code64) in [
        (0, sel::L0, sel::D0, true),
        (0, sel::L0, 0, true),
        (0, sel::L3, sel::D3, true),
        (0, sel::C3, sel::D3, false),
        (3, sel::L3, sel::D3, true),
        (0, sel::C0, sel::D0, false),
    ] {
        for size in [4, 8] {
            let frame = [0x1234, u64::from(cs), ALL, 0x7008, u64::from(ss)];
            let mut m = with_frame(Machine::long(cpl, true), size, &frame);
            run(&mut m, size as u64).expect("a good frame");
            assert!(m.at(cs, 0x1234), "{cs:#x} from level {cpl}");
            assert_eq!((m.v.st.code64(), u16::from(m.v.st.cpl())), (code64, cs & 3));
            assert_eq!((m.v.seg(Seg::Ss).selector, m.v.st.gpr[4]), (ss, 0x7008));
        }
    }
    // From compatibility mode to the same level nothing more is popped.
    let mut m = with_frame(Machine::long(0, false), 4, &[0x1234, u64::from(sel::C0), 2]);
    run(&mut m, 4).expect("a good frame");
    assert_eq!(m.v.st.gpr[4], STACK + 12);
    let mut m = with_frame(Machine::long(0, false), 4, &[0x1234, u64::from(sel::L0), 2]);
    run(&mut m, 4).expect("a good frame");
    assert!(m.v.st.code64());
}

#[test]
fn long_mode_iret_faults() {
    let l3 = u64::from(sel::L3);
    let d3 = u64::from(sel::D3);
    for (what, frame, expected) in [
        (
            "non-canonical RIP",
            [1 << 47, l3, 2, 0x7000, d3],
            Exception::GP0,
        ),
        (
            "RIP beyond compatibility code",
            [1 << 32, u64::from(sel::C3), 2, 0x7000, d3],
            Exception::GP0,
        ),
        (
            "null SS at level 3",
            [0x1234, l3, 2, 0x7000, 3],
            Exception::GP0,
        ),
        (
            "null SS in compatibility mode",
            [0x1234, u64::from(sel::C0), 2, 0x7000, 0],
            Exception::GP0,
        ),
        (
            "RPL of SS",
            [0x1234, l3, 2, 0x7000, u64::from(sel::D0)],
            Exception::gp(u32::from(sel::D0)),
        ),
    ] {
        let build = || {
            let mut m = with_frame(Machine::long(0, true), 8, &frame);
            m.v.st.nmi_blocked = false;
            m
        };
        fails(&build, what, iret, [0, 0, 8], expected);
    }
    let nested = || {
        let mut m = Machine::long(0, true);
        m.v.st.rflags |= NT;
        m
    };
    fails(&nested, "NT", iret, [0, 0, 8], Exception::GP0);
    let non_canonical = || {
        let mut m = Machine::long(0, true);
        m.v.st.gpr[4] = 0x8000_0000_0000;
        m
    };
    fails(&non_canonical, "RSP", iret, [0, 0, 8], Exception::SS0);
    // VM in the image means nothing in long mode.
    let mut m = with_frame(Machine::long(0, true), 8, &[0x1234, l3, VM | 2, 0x7000, d3]);
    run(&mut m, 8).expect("a good frame");
    assert_eq!(m.v.rflags() & VM, 0);
}

#[test]
fn iret_enters_vm86_from_level_0_only() {
    let frame = [
        0x5678,
        0x1234,
        VM | IF | VIF | RF | ID,
        0x9abc_def0,
        0x10,
        0x20,
        0x30,
        0x40,
        0x50,
    ];
    let mut m = with_frame(Machine::protected(0), 4, &frame);
    run(&mut m, 4).expect("a good frame");
    assert!(m.at(0x1234, 0x5678) && m.v.st.vm86());
    assert_eq!((m.v.st.cpl(), m.v.mmu.state().cpl), (3, 3));
    assert_eq!(m.v.rflags(), FIXED | VM | IF | VIF | RF | ID);
    assert_eq!(m.v.st.gpr[4], 0x9abc_def0);
    for (seg, selector) in [
        (Seg::Ss, 0x10),
        (Seg::Es, 0x20),
        (Seg::Ds, 0x30),
        (Seg::Fs, 0x40),
        (Seg::Gs, 0x50),
    ] {
        let segment = m.v.seg(seg);
        assert_eq!(
            (segment.selector, segment.base, segment.limit),
            (selector, u64::from(selector) * 16, 0xffff)
        );
        assert_eq!(segment.dpl(), 3);
    }
    // From level 3 VM in the image is ignored.
    let mut m = with_frame(
        Machine::protected(3),
        4,
        &[0x1234, u64::from(sel::C3), VM | 2],
    );
    run(&mut m, 4).expect("a good frame");
    assert!(m.at(sel::C3, 0x1234) && !m.v.st.vm86());
    for (what, eip, limit, expected) in [
        ("EIP beyond 64 KiB", 0x1_0000, 0xffff, Exception::GP0),
        ("short frame", 0x5678, 34, Exception::SS0),
    ] {
        let build = || {
            let mut m = with_frame(Machine::protected(0), 4, &frame);
            m.v.st.nmi_blocked = false;
            m.write(STACK, 4, eip);
            m.v.st.seg[Seg::Ss as usize].limit = STACK as u32 + limit;
            m
        };
        fails(&build, what, iret, [0, 0, 4], expected);
    }
}

#[test]
fn iret_in_vm86_obeys_iopl() {
    for size in [2, 4] {
        let mut m = with_frame(Machine::vm86(3), size, &[0x5678, 0x1234, ALL]);
        run(&mut m, size as u64).expect("IOPL is 3");
        assert!(m.at(0x1234, 0x5678));
        let image = if size == 2 {
            ALL & 0xffff
        } else {
            ALL & !(VIF | VIP)
        };
        assert_eq!(m.v.rflags(), image | IOPL | VM | FIXED);
        assert!(!m.v.st.nmi_blocked);
    }
    // IOPL on the stack changes nothing.
    let mut m = with_frame(Machine::vm86(3), 2, &[0x5678, 0x1234, 0]);
    run(&mut m, 2).expect("IOPL is 3");
    assert_eq!(m.v.rflags(), IOPL | VM | FIXED);
    for (iopl, size, vme) in [(0, 2, false), (2, 4, false), (2, 4, true)] {
        let build = || {
            let mut m = with_frame(Machine::vm86(iopl), size, &[0x5678, 0x1234, 2]);
            m.v.st.cr4 = if vme { cr4::VME } else { 0 };
            m
        };
        fails(&build, "IOPL", iret, [0, 0, size as u64], Exception::GP0);
    }
}

#[test]
fn vme_iret_uses_the_virtual_interrupt_flag() {
    for (iopl, image, vip, expected) in [
        (0, IF | CF, false, Ok(VIF | CF)),
        (2, CF, true, Ok(VIP | CF)),
        (0, IF, true, Err(Exception::GP0)),
        (0, TF, false, Err(Exception::GP0)),
    ] {
        let build = || {
            let mut m = with_frame(Machine::vm86(iopl), 2, &[0x5678, 0x1234, image]);
            m.v.st.cr4 = cr4::VME;
            m.v.st.rflags |= if vip { VIP } else { 0 };
            m
        };
        match expected {
            Ok(bits) => {
                let mut m = build();
                run(&mut m, 2).expect("VME allows it");
                assert!(m.at(0x1234, 0x5678));
                assert_eq!(m.v.rflags(), FIXED | VM | u64::from(iopl) << 12 | bits);
            }
            Err(e) => fails(&build, "VME", iret, [0, 0, 2], e),
        }
    }
}

#[test]
fn nested_iret_faults_name_the_link() {
    let ts = |selector: u16| Exception::ts(u32::from(selector & !3));
    for (what, link, expected) in [
        ("null link", 0, ts(0)),
        (
            "link to the LDT",
            sel::TSS_B | 4,
            Exception::ts(u32::from(sel::TSS_B | 4)),
        ),
        ("link beyond the GDT", sel::BEYOND, ts(sel::BEYOND)),
        ("link to data", sel::D0, ts(sel::D0)),
        ("link to a task that isn't busy", sel::TSS_B, ts(sel::TSS_B)),
        (
            "link to an absent TSS",
            sel::FREE,
            Exception::np(u32::from(sel::FREE)),
        ),
    ] {
        let build = || {
            let mut m = Machine::protected(0);
            m.v.st.rflags |= NT;
            m.write(TSS, 2, u64::from(link));
            m.write_descriptor(
                sel::FREE,
                descriptor(TSS_B, 0x67, (access::TSS | 2) & !attr::P),
            );
            m
        };
        fails(&build, what, iret, [0, 0, 4], expected);
    }
}
