//! CALL far.

use x86::{Exception, Seg, attr};

use super::fails;
use crate::far::far_call;
use crate::testing::{Machine, STACK, STACK0, START, TSS, access, descriptor, gate, sel};

const GATE: u16 = sel::FREE;

fn call(m: &mut Machine, selector: u16, offset: u64, size: u64) -> Result<u64, Exception> {
    far_call(&mut m.v, u64::from(selector), offset, size | 5 << 8)
}

#[test]
fn direct_calls_push_cs_and_the_next_address() {
    let mut m = Machine::real();
    call(&mut m, 0x2000, 0x10, 2).expect("real mode");
    assert!(m.at(0x2000, 0x10));
    assert_eq!(
        (m.v.st.gpr[4], m.frame::<2>(STACK - 4, 2)),
        (STACK - 4, [0x1236, 0x1000])
    );

    let mut m = Machine::vm86(0);
    call(&mut m, 0x2000, 0x10, 4).expect("VM86");
    assert!(m.at(0x2000, 0x10));
    assert_eq!(m.frame::<2>(0x3000 + STACK - 8, 4), [0x1236, 0x200]);

    for (cpl, target, cs) in [
        (0, sel::C0, sel::C0),
        (3, sel::C3, sel::C3),
        (3, sel::CONF0, sel::CONF0 | 3),
    ] {
        for size in [2, 4] {
            let mut m = Machine::protected(cpl);
            let old = u64::from(m.v.seg(Seg::Cs).selector);
            call(&mut m, target, 0x1234, size).expect("a good target");
            assert!(m.at(cs, 0x1234));
            let at = STACK - 2 * size;
            let mask = if size == 2 { 0xffff } else { u64::MAX };
            assert_eq!(
                (m.v.st.gpr[4], m.frame(at, size as usize)),
                (at, [(START + 2) & mask, old])
            );
        }
    }
    for (size, target) in [(8, sel::L0), (4, sel::C0), (2, sel::L0)] {
        let mut m = Machine::long(0, true);
        call(&mut m, target, 0x1234, size).expect("a good target");
        assert!(m.at(target, 0x1234));
        let mask = if size == 2 { 0xffff } else { u64::MAX };
        let frame = m.frame(STACK - 2 * size, size as usize);
        assert_eq!(frame, [(START + 2) & mask, u64::from(sel::L0)]);
    }
}

#[test]
fn direct_call_faults() {
    let call_to = |selector: u16, offset: u64| [u64::from(selector), offset, 4];
    let gp = |selector: u16| Exception::gp(u32::from(selector & !3));
    for (cpl, selector, expected) in [
        (0, 0, gp(0)),
        (0, sel::C3, gp(sel::C3)),
        (3, sel::C0, gp(sel::C0)),
        (0, sel::CONF3, gp(sel::CONF3)),
        (0, sel::D0, gp(sel::D0)),
        (0, sel::BEYOND, gp(sel::BEYOND)),
        (0, sel::NP_CODE, Exception::np(u32::from(sel::NP_CODE))),
    ] {
        fails(
            &|| Machine::protected(cpl),
            "call",
            far_call,
            call_to(selector, 0),
            expected,
        );
    }
    // No room comes before the offset.
    let build = || {
        let mut m = Machine::protected(0);
        m.write_descriptor(GATE, descriptor(0, 0xff, access::CODE | attr::ACCESSED));
        m.write_descriptor(GATE + 8, descriptor(0, 0xfff, access::DATA | attr::DB));
        m
    };
    fails(
        &build,
        "offset",
        far_call,
        call_to(GATE, 0x100),
        Exception::GP0,
    );
    let full = || {
        let mut m = build();
        m.set_segment(Seg::Ss, GATE + 8);
        m.v.st.gpr[4] = 0x1004;
        m
    };
    fails(
        &full,
        "no room",
        far_call,
        call_to(GATE, 0x100),
        Exception::SS0,
    );
    let unpaged = || {
        let mut m = build();
        m.enable_paging();
        m.page(STACK - 0x1000, 1);
        m
    };
    fails(
        &unpaged,
        "page fault",
        far_call,
        call_to(GATE, 0),
        Exception::page_fault(STACK - 4, 3),
    );
    let non_canonical = || {
        let mut m = Machine::long(0, true);
        m.v.st.gpr[4] = 0x8000_0000_0008;
        m
    };
    fails(
        &non_canonical,
        "stack",
        far_call,
        call_to(sel::L0, 0),
        Exception::SS0,
    );
    fails(
        &|| Machine::real(),
        "real",
        far_call,
        [0x10, 0x1_0000, 4],
        Exception::GP0,
    );
}

#[test]
fn gates_to_the_same_level_use_the_current_stack() {
    for (kind, size) in [(access::CALL, 4), (access::CALL16, 2)] {
        for (cpl, target, cs) in [
            (0, sel::C0, sel::C0),
            (3, sel::C3, sel::C3),
            (3, sel::CONF0, sel::CONF0 | 3),
            (0, sel::CONF0, sel::CONF0),
        ] {
            let mut m = Machine::protected(cpl);
            let old = u64::from(m.v.seg(Seg::Cs).selector);
            m.write_descriptor(GATE, gate(target, 0x12_3456, kind | access::dpl(3), 3));
            call(&mut m, GATE, 0, 4).expect("a good gate");
            let mask = if size == 2 { 0xffff } else { u64::MAX };
            assert!(m.at(cs, 0x12_3456 & mask));
            let at = STACK - 2 * size;
            // No parameters are copied, and the gate's size counts, not the instruction's.
            assert_eq!(
                (m.v.st.gpr[4], m.frame(at, size as usize)),
                (at, [(START + 2) & mask, old])
            );
        }
    }
}

#[test]
fn gates_to_an_inner_level_switch_stacks_and_copy_parameters() {
    for (kind, size) in [(access::CALL, 4_u64), (access::CALL16, 2)] {
        for (cpl, target, ss) in [
            (3, sel::C0, sel::D0),
            (3, sel::C1, sel::D1),
            (3, sel::C2, sel::D2),
            (2, sel::C1, sel::D1),
        ] {
            for count in [0, 1, 31_u64] {
                let mut m = Machine::protected(cpl);
                let (old_cs, old_ss) = (
                    u64::from(m.v.seg(Seg::Cs).selector),
                    u64::from(m.v.seg(Seg::Ss).selector),
                );
                m.write_descriptor(
                    GATE,
                    gate(target & !3, 0x12_3456, kind | access::dpl(3), count as u8),
                );
                let parameters: Vec<u64> = (0..count).map(|n| 0x1111 * (n % 15 + 1)).collect();
                m.write_frame(STACK, size as usize, &parameters);
                call(&mut m, GATE | 3, 0, 4).expect("a good gate");
                let level = u64::from(target & 3);
                let mask = if size == 2 { 0xffff } else { u64::MAX };
                let at = STACK0 + level * 0x1000 - (4 + count) * size;
                assert_eq!(m.v.st.gpr[4], at);
                assert_eq!(
                    m.frame::<2>(at, size as usize),
                    [(START + 2) & mask, old_cs]
                );
                for (n, value) in parameters.iter().enumerate() {
                    assert_eq!(m.read(at + (2 + n as u64) * size, size as usize), *value);
                }
                assert_eq!(
                    m.frame::<2>(at + (2 + count) * size, size as usize),
                    [STACK, old_ss]
                );
                assert!(m.at(target, 0x12_3456 & mask));
                assert_eq!(
                    (m.v.seg(Seg::Ss).selector, u64::from(m.v.st.cpl())),
                    (ss, level)
                );
                assert_eq!(u64::from(m.v.mmu.state().cpl), level);
                assert_eq!(m.read_descriptor(ss) >> 40 & 1, 1, "SS is accessed");
            }
        }
    }
}

#[test]
fn gate_call_faults_name_gate_code_or_stack() {
    let gp = |selector: u16| Exception::gp(u32::from(selector & !3));
    let gate_to = |target: u16, kind: u32| {
        move |m: &mut Machine| m.write_descriptor(GATE, gate(target, 0x1234, kind, 0))
    };
    let ss = |selector: u16| move |m: &mut Machine| m.write(TSS + 8, 2, u64::from(selector));
    type Change = Box<dyn Fn(&mut Machine)>;
    let open = access::CALL | access::dpl(3);
    let cases: Vec<(&str, Change, Exception)> = vec![
        (
            "gate DPL",
            Box::new(gate_to(sel::C0, access::CALL | access::dpl(2))),
            gp(GATE),
        ),
        (
            "absent gate",
            Box::new(gate_to(sel::C0, open & !attr::P)),
            Exception::np(u32::from(GATE)),
        ),
        ("null code", Box::new(gate_to(3, open)), gp(0)),
        (
            "code beyond the GDT",
            Box::new(gate_to(sel::BEYOND, open)),
            gp(sel::BEYOND),
        ),
        ("data", Box::new(gate_to(sel::D0, open)), gp(sel::D0)),
        (
            "absent code",
            Box::new(gate_to(sel::NP_CODE, open)),
            Exception::np(u32::from(sel::NP_CODE)),
        ),
        (
            "TSS too small",
            Box::new(|m| m.v.st.tr.limit = 8),
            Exception::ts(u32::from(sel::TSS)),
        ),
        ("null SS", Box::new(ss(2)), Exception::ts(0)),
        (
            "SS beyond the GDT",
            Box::new(ss(sel::BEYOND)),
            Exception::ts(u32::from(sel::BEYOND)),
        ),
        (
            "RPL of SS",
            Box::new(ss(sel::D0 | 3)),
            Exception::ts(u32::from(sel::D0)),
        ),
        (
            "DPL of SS",
            Box::new(ss(sel::D3 & !3)),
            Exception::ts(u32::from(sel::D3 & !3)),
        ),
        (
            "read-only SS",
            Box::new(ss(sel::R0)),
            Exception::ts(u32::from(sel::R0)),
        ),
        (
            "absent SS",
            Box::new(ss(sel::NP_DATA)),
            Exception::ss(u32::from(sel::NP_DATA)),
        ),
        (
            "no room",
            Box::new(move |m| {
                m.write_descriptor(sel::FREE + 8, descriptor(0, 0xfff, access::DATA | attr::DB));
                m.write(TSS + 4, 4, 0x100c);
                ss(sel::FREE + 8)(m);
            }),
            Exception::ss(u32::from(sel::FREE + 8)),
        ),
        (
            "offset",
            Box::new(move |m| {
                m.write_descriptor(
                    sel::FREE + 8,
                    descriptor(0, 0x1233, access::CODE | attr::ACCESSED),
                );
                gate_to(sel::FREE + 8, open)(m);
            }),
            Exception::GP0,
        ),
        (
            "parameters beyond the caller's stack",
            Box::new(move |m| {
                m.write_descriptor(GATE, gate(sel::C0, 0x1234, open, 3));
                m.v.st.seg[Seg::Ss as usize].limit = STACK as u32 + 11;
                m.v.st.gpr[4] = STACK + 4;
            }),
            Exception::SS0,
        ),
    ];
    for (what, change, expected) in cases {
        let build = || {
            let mut m = Machine::protected(3);
            m.write_descriptor(GATE, gate(sel::C0, 0x1234, open, 0));
            change(&mut m);
            m
        };
        fails(&build, what, far_call, [u64::from(GATE), 0, 4], expected);
    }
    let build = || {
        let mut m = Machine::protected(0);
        m.write_descriptor(GATE, gate(sel::C3, 0x1234, open, 0));
        m
    };
    fails(
        &build,
        "outer",
        far_call,
        [u64::from(GATE), 0, 4],
        gp(sel::C3),
    );
}

#[test]
fn gates_of_long_mode_push_eight_byte_entries() {
    for (cpl, code64, target) in [
        (3, true, sel::L0),
        (3, false, sel::L0),
        (0, true, sel::L0),
        (3, true, sel::LCONF0),
    ] {
        let mut m = Machine::long(cpl, code64);
        m.write_descriptor(GATE, gate(target, 0x1234, access::CALL | access::dpl(3), 5));
        m.write_descriptor(GATE + 8, 0);
        m.v.st.gpr[4] = STACK + 4;
        let (cs, ss) = (
            u64::from(m.v.seg(Seg::Cs).selector),
            u64::from(m.v.seg(Seg::Ss).selector),
        );
        call(&mut m, GATE | 3, 0, 4).expect("a good gate");
        if target == sel::L0 && cpl == 3 {
            let at = STACK0 - 32;
            assert_eq!(m.frame::<4>(at, 8), [START + 2, cs, STACK + 4, ss]);
            assert_eq!(
                (m.v.st.gpr[4], m.v.seg(Seg::Ss).selector, m.v.st.cpl()),
                (at, 0, 0)
            );
        } else {
            let at = STACK + 4 - 16;
            assert_eq!((m.v.st.gpr[4], m.frame::<2>(at, 8)), (at, [START + 2, cs]));
            assert_eq!(
                (u64::from(m.v.seg(Seg::Ss).selector), m.v.st.cpl()),
                (ss, cpl)
            );
        }
        assert!(m.at(target | u16::from(m.v.st.cpl()), 0x1234));
    }
    let build = || {
        let mut m = Machine::long(3, true);
        m.write_descriptor(
            GATE,
            gate(sel::L0, 0x1234, access::CALL | access::dpl(3), 0),
        );
        m.write_descriptor(GATE + 8, 0);
        m.write(TSS + 4, 8, 0x8000_0000_0020);
        m
    };
    fails(
        &build,
        "non-canonical RSP0",
        far_call,
        [u64::from(GATE), 0, 4],
        Exception::SS0,
    );
}
