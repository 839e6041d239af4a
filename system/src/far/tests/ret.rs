//! RET far.

use x86::{Exception, Seg, attr};

use super::fails;
use crate::far::far_ret;
use crate::testing::{Machine, STACK, access, descriptor, sel};

fn with_frame(mut m: Machine, size: usize, values: &[u64]) -> Machine {
    let base = m.v.seg(Seg::Ss).base;
    m.write_frame(base + STACK, size, values);
    m
}

#[test]
fn returns_in_real_mode_and_vm86_release_the_stack() {
    for (m, release) in [(Machine::real(), 0), (Machine::vm86(0), 6)] {
        let mut m = with_frame(m, 2, &[0x5678, 0x1234]);
        far_ret(&mut m.v, release, 0, 2).expect("nothing to check");
        assert!(m.at(0x1234, 0x5678));
        assert_eq!(
            (m.v.st.gpr[4], m.v.seg(Seg::Cs).base),
            (STACK + 4 + release, 0x1_2340)
        );
    }
    let build = || with_frame(Machine::real(), 4, &[0x1_0000, 0x1234]);
    fails(
        &build,
        "EIP beyond the limit",
        far_ret,
        [0, 0, 4],
        Exception::GP0,
    );
    let build = || {
        let mut m = Machine::real();
        m.v.st.gpr[4] = 0xffff;
        m
    };
    fails(
        &build,
        "word across FFFFh",
        far_ret,
        [0, 0, 2],
        Exception::SS0,
    );
}

#[test]
fn returns_to_the_same_level() {
    for size in [2, 4] {
        for (cpl, cs) in [
            (0, sel::C0),
            (3, sel::C3),
            (3, sel::CONF0 | 3),
            (0, sel::CONF0),
            (1, sel::CONF0 | 1),
        ] {
            let mut m = with_frame(Machine::protected(cpl), size, &[0x1234, u64::from(cs)]);
            far_ret(&mut m.v, 8, 0, size as u64).expect("a good frame");
            assert!(m.at(cs, 0x1234));
            assert_eq!(
                (m.v.st.gpr[4], m.v.st.cpl()),
                (STACK + 2 * size as u64 + 8, cpl)
            );
        }
    }
    let mut m = with_frame(
        Machine::long(0, true),
        8,
        &[0xffff_8000_0000_0000, u64::from(sel::L0)],
    );
    far_ret(&mut m.v, 0, 0, 8).expect("a good frame");
    assert!(m.at(sel::L0, 0xffff_8000_0000_0000));
    let mut m = with_frame(Machine::long(0, true), 4, &[0x1234, u64::from(sel::C0)]);
    far_ret(&mut m.v, 0, 0, 4).expect("to compatibility mode");
    assert!(m.at(sel::C0, 0x1234) && !m.v.st.code64());
}

#[test]
fn returns_to_an_outer_level_load_ss_and_null_inner_segments() {
    for size in [2_usize, 4] {
        for (cpl, cs, ss) in [
            (0, sel::C3, sel::D3),
            (0, sel::C1, sel::D1),
            (2, sel::C3, sel::D3),
            (0, sel::CONF0 | 3, sel::D3),
        ] {
            let mut m = Machine::protected(cpl);
            // CS, EIP, 4 parameter bytes, ESP, SS.
            m.write_frame(STACK, size, &[0x1234, u64::from(cs)]);
            m.write_frame(STACK + 2 * size as u64 + 4, size, &[0x7000, u64::from(ss)]);
            m.set_segment(Seg::Es, sel::D3);
            m.set_segment(Seg::Fs, sel::CONF0);
            m.set_segment(Seg::Gs, if cpl == 0 { sel::C0 } else { sel::C2 });
            far_ret(&mut m.v, 4, 0, size as u64).expect("a good frame");
            let level = (cs & 3) as u8;
            assert!(m.at(cs, 0x1234));
            assert_eq!((m.v.st.cpl(), m.v.mmu.state().cpl), (level, level));
            // The parameters are released from the outer stack too.
            assert_eq!((m.v.st.gpr[4], m.v.seg(Seg::Ss).selector), (0x7004, ss));
            assert_eq!(m.v.seg(Seg::Es).selector, sel::D3, "visible data stays");
            assert_eq!(
                m.v.seg(Seg::Fs).selector,
                sel::CONF0,
                "conforming code stays"
            );
            for seg in [Seg::Ds, Seg::Gs] {
                assert!(
                    m.v.seg(seg).has(attr::UNUSABLE),
                    "{seg:?} is of an inner level"
                );
                assert_eq!(m.v.seg(seg).selector, 0);
            }
        }
    }
}

#[test]
fn a_16_bit_outer_stack_gets_sp_only() {
    let mut m = with_frame(
        Machine::protected(0),
        4,
        &[
            0x1234,
            u64::from(sel::C3),
            0x5678_9abc,
            u64::from(sel::D3_16),
        ],
    );
    m.v.st.gpr[4] = STACK;
    far_ret(&mut m.v, 0, 0, 4).expect("a good frame");
    assert_eq!(m.v.st.gpr[4], 0x9abc);
    let mut m = Machine::protected(0);
    m.v.st.gpr[4] = 0x1_8000;
    m.write_frame(
        0x1_8000,
        4,
        &[
            0x1234,
            u64::from(sel::C3),
            0x5678_9abc,
            u64::from(sel::D3_16),
        ],
    );
    far_ret(&mut m.v, 0, 0, 4).expect("a good frame");
    assert_eq!(m.v.st.gpr[4], 0x1_9abc, "the upper half stays");
}

#[test]
fn outer_returns_in_long_mode() {
    let mut m = with_frame(
        Machine::long(0, true),
        8,
        &[0x1234, u64::from(sel::L3), 0x7008, u64::from(sel::D3)],
    );
    far_ret(&mut m.v, 0, 0, 8).expect("a good frame");
    assert!(m.at(sel::L3, 0x1234) && m.v.st.code64() && m.v.st.cpl() == 3);
    assert_eq!(m.v.st.gpr[4], 0x7008);
    let mut m = with_frame(
        Machine::long(0, true),
        8,
        &[0x1234, u64::from(sel::C3), 0x7008, u64::from(sel::D3)],
    );
    far_ret(&mut m.v, 0, 0, 8).expect("a good frame");
    assert!(m.at(sel::C3, 0x1234) && !m.v.st.code64());
    // A null SS at level 3 or in compatibility mode.
    for cs in [sel::L3, sel::C3] {
        let build = || {
            with_frame(
                Machine::long(0, true),
                8,
                &[0x1234, u64::from(cs), 0x7008, 3],
            )
        };
        fails(&build, "null SS", far_ret, [0, 0, 8], Exception::GP0);
    }
    for rip in [1 << 47, 1 << 63] {
        let build = || {
            with_frame(
                Machine::long(0, true),
                8,
                &[rip, u64::from(sel::L3), 0x7008, u64::from(sel::D3)],
            )
        };
        fails(
            &build,
            "non-canonical RIP",
            far_ret,
            [0, 0, 8],
            Exception::GP0,
        );
    }
    let build = || {
        let mut m = Machine::long(0, true);
        m.v.st.gpr[4] = 0x7fff_ffff_fff8;
        m.write(crate::testing::TABLES, 8, 0);
        m
    };
    let mut m = build();
    assert_eq!(
        far_ret(&mut m.v, 0, 0, 8).map_err(|e| e.vector),
        Err(x86::vector::PF)
    );
    let build = || {
        let mut m = Machine::long(0, true);
        m.v.st.gpr[4] = 0x8000_0000_0000;
        m
    };
    fails(
        &build,
        "non-canonical RSP",
        far_ret,
        [0, 0, 8],
        Exception::SS0,
    );
}

#[test]
fn return_faults_name_cs_or_ss() {
    let gp = |selector: u16| Exception::gp(u32::from(selector & !3));
    for (what, cpl, cs, ss, expected) in [
        ("null CS", 0, 0, sel::D0, gp(0)),
        ("null CS with RPL", 0, 3, sel::D3, gp(0)),
        (
            "CS beyond the GDT",
            0,
            sel::BEYOND,
            sel::D0,
            gp(sel::BEYOND),
        ),
        ("data in CS", 0, sel::D0, sel::D0, gp(sel::D0)),
        ("inner CS", 3, sel::C0, sel::D0, gp(sel::C0)),
        ("inner CS", 3, sel::C1, sel::D1, gp(sel::C1)),
        ("RPL over DPL", 0, sel::C0 | 3, sel::D3, gp(sel::C0)),
        ("DPL over RPL", 0, sel::C3 & !3, sel::D0, gp(sel::C3)),
        (
            "conforming above RPL",
            0,
            sel::CONF3 & !3,
            sel::D0,
            gp(sel::CONF3),
        ),
        (
            "absent CS",
            0,
            sel::NP_CODE,
            sel::D0,
            Exception::np(u32::from(sel::NP_CODE)),
        ),
        ("null SS", 0, sel::C3, 0, gp(0)),
        ("null SS with RPL", 0, sel::C3, 3, gp(0)),
        (
            "SS beyond the GDT",
            0,
            sel::C3,
            sel::BEYOND | 3,
            gp(sel::BEYOND),
        ),
        ("RPL of SS", 0, sel::C3, sel::D3 & !3, gp(sel::D3)),
        ("DPL of SS", 0, sel::C3, sel::D0 | 3, gp(sel::D0)),
        ("code in SS", 0, sel::C3, sel::C3, gp(sel::C3)),
    ] {
        let build = || {
            with_frame(
                Machine::protected(cpl),
                4,
                &[0x1234, u64::from(cs), 0x7000, u64::from(ss)],
            )
        };
        fails(&build, what, far_ret, [0, 0, 4], expected);
    }
    let absent = sel::FREE | 3;
    let build = || {
        let mut m = with_frame(
            Machine::protected(0),
            4,
            &[0x1234, u64::from(sel::C3), 0x7000, u64::from(absent)],
        );
        m.write_descriptor(
            absent,
            descriptor(0, 0xffff, access::DATA & !attr::P | access::dpl(3)),
        );
        m
    };
    fails(
        &build,
        "absent SS",
        far_ret,
        [0, 0, 4],
        Exception::ss(u32::from(sel::FREE)),
    );
    // The outer part of the frame beyond the stack's limit.
    for (limit, expected) in [(7, Exception::SS0), (3, Exception::SS0)] {
        let build = || {
            let mut m = with_frame(
                Machine::protected(0),
                4,
                &[0x1234, u64::from(sel::C3), 0x7000, u64::from(sel::D3)],
            );
            m.v.st.seg[Seg::Ss as usize].limit = STACK as u32 + limit;
            m
        };
        fails(
            &build,
            "frame beyond the limit",
            far_ret,
            [0, 0, 4],
            expected,
        );
    }
    for cs in [sel::FREE, sel::FREE | 3] {
        let build = || {
            let mut m = with_frame(
                Machine::protected(0),
                4,
                &[0x1000, u64::from(cs), 0x7000, u64::from(sel::D3)],
            );
            let dpl = access::dpl((cs & 3) as u8);
            m.write_descriptor(cs, descriptor(0, 0xfff, access::CODE | dpl));
            m
        };
        fails(
            &build,
            "EIP beyond the limit",
            far_ret,
            [0, 0, 4],
            Exception::GP0,
        );
    }
}
