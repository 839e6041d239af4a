//! JMP far.

use x86::{Exception, Seg, attr, cr4};

use super::fails;
use crate::far::far_jump;
use crate::testing::{Machine, access, descriptor, gate, sel};

const GATE: u16 = sel::FREE;

fn jump(m: &mut Machine, selector: u16, offset: u64, size: u64) -> Result<u64, Exception> {
    far_jump(&mut m.v, u64::from(selector), offset, size)
}

#[test]
fn jumps_in_real_mode_and_vm86() {
    let mut m = Machine::real();
    m.v.st.seg[Seg::Cs as usize].limit = 0xf_ffff;
    jump(&mut m, 0xabcd, 0x1_2345, 4).expect("inside the larger limit");
    assert!(m.at(0xabcd, 0x1_2345));
    assert_eq!(
        (m.v.seg(Seg::Cs).base, m.v.seg(Seg::Cs).limit),
        (0xa_bcd0, 0xf_ffff)
    );
    jump(&mut m, 0x10, 0x9_ffff, 2).expect("the offset has 16 bits");
    assert!(m.at(0x10, 0xffff));

    let mut m = Machine::vm86(0);
    jump(&mut m, 0xabcd, 0x2345, 2).expect("nothing to check");
    assert!(m.at(0xabcd, 0x2345));
    assert_eq!((m.v.seg(Seg::Cs).base, m.v.st.cpl()), (0xa_bcd0, 3));
    fails(
        &Machine::real,
        "real",
        far_jump,
        [0x10, 0x1_0000, 4],
        Exception::GP0,
    );
    fails(
        &|| Machine::vm86(0),
        "VM86",
        far_jump,
        [0x10, 0x1_0000, 4],
        Exception::GP0,
    );
}

#[test]
fn direct_jumps_stay_at_their_level() {
    let gp = |selector: u16| Err(Exception::gp(u32::from(selector & !3)));
    let np = |selector: u16| Err(Exception::np(u32::from(selector & !3)));
    let cases: &[(u8, u16, Result<u16, Exception>)] = &[
        (0, sel::C0, Ok(sel::C0)),
        (0, sel::C0 | 1, gp(sel::C0)),
        (3, sel::C3, Ok(sel::C3)),
        (3, sel::C3 & !3, Ok(sel::C3)),
        (0, sel::C3, gp(sel::C3)),
        (3, sel::C0, gp(sel::C0)),
        (3, sel::C1, gp(sel::C1)),
        (3, sel::CONF0, Ok(sel::CONF0 | 3)),
        (1, sel::CONF0 | 3, Ok(sel::CONF0 | 1)),
        (0, sel::CONF3, gp(sel::CONF3)),
        (0, sel::X0, Ok(sel::X0)),
        (0, sel::D0, gp(sel::D0)),
        (0, sel::LDT, gp(sel::LDT)),
        (0, sel::TSS, gp(sel::TSS)),
        (0, 0, gp(0)),
        (0, 3, gp(0)),
        (0, sel::BEYOND, gp(sel::BEYOND)),
        (0, 0x1004, Err(Exception::gp(0x1004))),
        (0, sel::NP_CODE, np(sel::NP_CODE)),
    ];
    for (cpl, selector, expected) in cases {
        let build = || Machine::protected(*cpl);
        match expected {
            Ok(cs) => {
                let mut m = build();
                jump(&mut m, *selector, 0x1234, 4).expect("a good target");
                assert!(m.at(*cs, 0x1234), "{selector:#x} at level {cpl}");
                assert_eq!(m.v.st.cpl(), *cpl);
                assert_eq!(m.read_descriptor(*selector) >> 40 & 1, 1);
            }
            Err(e) => fails(
                &build,
                &format!("{selector:#x}"),
                far_jump,
                [u64::from(*selector), 0, 4],
                *e,
            ),
        }
    }
}

#[test]
fn jump_offsets_are_limited() {
    let build = || {
        let mut m = Machine::protected(0);
        m.write_descriptor(GATE, descriptor(0, 0xfff, access::CODE));
        m
    };
    let mut m = build();
    assert_eq!(jump(&mut m, GATE, 0xfff, 4), Ok(0));
    assert_eq!(jump(&mut m, GATE, 0x5_0fff, 2), Ok(0), "only 16 bits count");
    assert_eq!(m.v.st.rip, 0xfff);
    fails(
        &build,
        "limit",
        far_jump,
        [u64::from(GATE), 0x1000, 4],
        Exception::GP0,
    );
}

#[test]
fn jumps_between_64_bit_and_compatibility_mode() {
    let mut m = Machine::long(0, true);
    jump(&mut m, sel::C0, 0x1234, 4).expect("to compatibility mode");
    assert!(m.at(sel::C0, 0x1234) && !m.v.st.code64());
    jump(&mut m, sel::L0, 0x5678, 4).expect("and back");
    assert!(m.at(sel::L0, 0x5678) && m.v.st.code64());
    jump(&mut m, sel::L0, 0xffff_8000_0000_0000, 8).expect("a canonical target");
    assert_eq!(m.v.st.rip, 0xffff_8000_0000_0000);
    let build = || Machine::long(0, true);
    fails(
        &build,
        "non-canonical",
        far_jump,
        [u64::from(sel::L0), 1 << 47, 8],
        Exception::GP0,
    );
    fails(
        &build,
        "beyond 4 GiB",
        far_jump,
        [u64::from(sel::C0), 1 << 32, 8],
        Exception::GP0,
    );
    let build = || {
        let mut m = Machine::long(0, true);
        let raw = m.read_descriptor(sel::L0);
        m.write_descriptor(sel::L0, raw | u64::from(attr::DB) << 40);
        m
    };
    fails(
        &build,
        "L and D",
        far_jump,
        [u64::from(sel::L0), 0, 4],
        Exception::gp(u32::from(sel::L0)),
    );
    let mut m = Machine::long(0, true);
    m.v.st.cr4 |= cr4::LA57;
    assert_eq!(jump(&mut m, sel::L0, 1 << 47, 8), Ok(0));
}

#[test]
fn jumps_through_call_gates_stay_at_their_level() {
    let gp = |selector: u16| Err(Exception::gp(u32::from(selector & !3)));
    // CPL, gate type, gate DPL, gate RPL, target, result.
    type Case = (u8, u32, u8, u16, u16, Result<u16, Exception>);
    let cases: &[Case] = &[
        (0, access::CALL, 0, 0, sel::C0, Ok(sel::C0)),
        (3, access::CALL, 3, 3, sel::C3, Ok(sel::C3)),
        (3, access::CALL16, 3, 0, sel::C3 & !3, Ok(sel::C3)),
        (3, access::CALL, 3, 0, sel::CONF0, Ok(sel::CONF0 | 3)),
        (3, access::CALL, 3, 0, sel::C0, gp(sel::C0)),
        (0, access::CALL, 0, 0, sel::C3, gp(sel::C3)),
        (0, access::CALL, 0, 0, sel::CONF3, gp(sel::CONF3)),
        (3, access::CALL, 2, 0, sel::C3, gp(GATE)),
        (0, access::CALL, 2, 3, sel::C0, gp(GATE)),
        (
            0,
            access::CALL & !attr::P,
            0,
            0,
            sel::C0,
            Err(Exception::np(u32::from(GATE))),
        ),
        (0, access::CALL, 0, 0, 0, gp(0)),
        (0, access::CALL, 0, 0, sel::BEYOND, gp(sel::BEYOND)),
        (0, access::CALL, 0, 0, sel::D0, gp(sel::D0)),
        (0, access::CALL, 0, 0, sel::TSS, gp(sel::TSS)),
        (
            0,
            access::CALL,
            0,
            0,
            sel::NP_CODE,
            Err(Exception::np(u32::from(sel::NP_CODE))),
        ),
        (0, access::INT, 0, 0, sel::C0, gp(GATE)),
        (0, access::TRAP16, 0, 0, sel::C0, gp(GATE)),
    ];
    for (cpl, kind, dpl, rpl, target, expected) in cases {
        let build = || {
            let mut m = Machine::protected(*cpl);
            m.write_descriptor(GATE, gate(*target, 0x12_3456, *kind | access::dpl(*dpl), 7));
            m
        };
        let selector = GATE | rpl;
        match expected {
            Ok(cs) => {
                let mut m = build();
                // The offset in the instruction is ignored.
                jump(&mut m, selector, 0xffff_ffff, 4).expect("a good gate");
                let offset = if *kind == access::CALL16 {
                    0x3456
                } else {
                    0x12_3456
                };
                assert!(m.at(*cs, offset), "gate to {target:#x} at level {cpl}");
            }
            Err(e) => fails(
                &build,
                &format!("gate to {target:#x}"),
                far_jump,
                [u64::from(selector), 0, 4],
                *e,
            ),
        }
    }
    let build = || {
        let mut m = Machine::protected(0);
        m.write_descriptor(sel::FREE + 8, descriptor(0, 0xfff, access::CODE));
        m.write_descriptor(GATE, gate(sel::FREE + 8, 0x1000, access::CALL, 0));
        m
    };
    fails(
        &build,
        "EIP beyond the limit",
        far_jump,
        [u64::from(GATE), 0, 4],
        Exception::GP0,
    );
}

#[test]
fn call_gates_of_long_mode_have_16_bytes() {
    let code = |selector: u16| Exception::gp(u32::from(selector));
    // Selector of the gate, its kind, target, upper half, result.
    type Case = (u16, u32, u16, u64, Result<u64, Exception>);
    let cases: &[Case] = &[
        (
            GATE,
            access::CALL,
            sel::L0,
            0xffff_8000,
            Ok(0xffff_8000_0012_3456),
        ),
        (GATE, access::CALL, sel::L0, 0x8000, Err(Exception::GP0)),
        (GATE, access::CALL, sel::L0, 1 << 40, Err(code(GATE))),
        (GATE, access::CALL, sel::C0, 0, Err(code(sel::C0))),
        (GATE, access::CALL16, sel::L0, 0, Err(code(GATE))),
        (GATE, access::TASK_GATE, sel::TSS, 0, Err(code(GATE))),
        (sel::TSS, access::TSS, 0, 0, Err(code(sel::TSS))),
        (0x3f8, access::CALL, sel::L0, 0, Err(code(0x3f8))),
    ];
    for (selector, kind, target, high, expected) in cases {
        for code64 in [true, false] {
            let build = || {
                let mut m = Machine::long(0, code64);
                m.write_descriptor(*selector, gate(*target, 0x12_3456, *kind, 0));
                m.write(crate::testing::GDT + u64::from(*selector) + 8, 8, *high);
                m
            };
            match expected {
                Ok(rip) => {
                    let mut m = build();
                    jump(&mut m, *selector, 0, 4).expect("a good gate");
                    assert!(m.at(*target, *rip) && m.v.st.code64());
                }
                Err(e) => fails(
                    &build,
                    &format!("{kind:#x}"),
                    far_jump,
                    [u64::from(*selector), 0, 4],
                    *e,
                ),
            }
        }
    }
}
