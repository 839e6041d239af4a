//! Protected mode: interrupt and trap gates of both sizes, same, inner and outer level, and all faults.

use x86::flags::{IF, NT, RF, TF};
use x86::{Exception, Seg, attr};

use super::{SEEN, fails, hardware, int, with_flags};
use crate::testing::{
    GDT, HANDLER, IDT, Machine, STACK, STACK0, START, TSS, access, descriptor, gate, sel,
};

const BIG: u32 = attr::G | attr::DB;
const GATES: [(u32, usize); 4] = [
    (access::INT, 4),
    (access::TRAP, 4),
    (access::INT16, 2),
    (access::TRAP16, 2),
];

fn is_trap(gate: u32) -> bool {
    gate & 1 != 0
}

fn handler(size: usize, vector: u8) -> u64 {
    (HANDLER + u64::from(vector)) & if size == 2 { 0xffff } else { u64::MAX }
}

fn after(gate: u32) -> u64 {
    SEEN & !(TF | NT) & if is_trap(gate) { u64::MAX } else { !IF }
}

#[test]
fn gates_to_the_same_level_push_three_or_four() {
    for (kind, size) in GATES {
        for (cpl, target) in [
            (0, sel::C0),
            (3, sel::C3),
            (0, sel::CONF0),
            (3, sel::CONF0),
            (3, sel::CONF3),
        ] {
            for error in [None, Some(0x1234)] {
                let mut m = with_flags(Machine::protected(cpl));
                m.gate(14, target, kind, 0);
                let cs = u64::from(m.v.seg(Seg::Cs).selector);
                hardware(&mut m, 14, error).expect("the gate is good");
                let rf = if error.is_some() && size == 4 { RF } else { 0 };
                let mask = if size == 2 { 0xffff } else { u64::MAX };
                let mut at = STACK;
                let mut expected = vec![SEEN | rf, cs, START & mask];
                expected.extend(error.map(u64::from));
                for value in expected {
                    at -= size as u64;
                    assert_eq!(m.read(at, size), value, "gate {kind:#x} at level {cpl}");
                }
                assert_eq!(m.v.st.gpr[4], at);
                assert!(m.at(target & !3 | u16::from(cpl), handler(size, 14)));
                assert_eq!((m.v.rflags(), m.v.st.cpl()), (after(kind), cpl));
                assert_eq!(m.read_descriptor(target) >> 40 & 1, 1, "CS is accessed");
            }
        }
    }
}

#[test]
fn gates_to_an_inner_level_push_the_old_stack_on_the_tss_stack() {
    for (kind, size) in GATES {
        for (cpl, target, ss) in [
            (3, sel::C0, sel::D0),
            (3, sel::C1, sel::D1),
            (3, sel::C2, sel::D2),
            (1, sel::C0, sel::D0),
        ] {
            for error in [None, Some(0x1234)] {
                let mut m = with_flags(Machine::protected(cpl));
                m.gate(14, target, kind, 0);
                let level = u64::from(target & 3);
                let (old_cs, old_ss) = (m.v.seg(Seg::Cs).selector, m.v.seg(Seg::Ss).selector);
                m.v.st.gpr[4] = 0x1234_5678;
                hardware(&mut m, 14, error).expect("the gate is good");
                let mask = if size == 2 { 0xffff } else { u64::MAX };
                let rf = if error.is_some() && size == 4 { RF } else { 0 };
                let mut expected = vec![
                    u64::from(old_ss),
                    0x1234_5678 & mask,
                    SEEN | rf,
                    u64::from(old_cs),
                    START & mask,
                ];
                expected.extend(error.map(u64::from));
                let mut at = STACK0 + level * 0x1000;
                for value in expected {
                    at -= size as u64;
                    assert_eq!(
                        m.read(at, size),
                        value,
                        "gate {kind:#x} from level {cpl} to {level}"
                    );
                }
                assert_eq!(m.v.st.gpr[4], at);
                assert!(m.at(target, handler(size, 14)));
                assert_eq!(
                    (m.v.seg(Seg::Ss).selector, u64::from(m.v.st.cpl())),
                    (ss, level)
                );
                assert_eq!(
                    (m.v.rflags(), m.v.mmu.state().cpl),
                    (after(kind), level as u8)
                );
                // Data segments stay: the handler may not use them, but nobody clears them.
                assert!(!m.v.seg(Seg::Ds).has(attr::UNUSABLE));
            }
        }
    }
}

#[test]
fn gates_to_an_outer_level_are_refused() {
    for (kind, _) in GATES {
        for (cpl, target) in [(0, sel::C3), (0, sel::C1), (2, sel::C3), (0, sel::CONF3)] {
            let build = || {
                let mut m = Machine::protected(cpl);
                m.gate(0x40, target, kind, 3);
                m
            };
            fails(&build, "outer", 0x40, Exception::gp(u32::from(target & !3)));
        }
    }
}

#[test]
fn inner_stacks_come_from_a_16_bit_tss_too() {
    let mut m = Machine::protected(3);
    m.v.st.tr.attr = access::TSS16 | 2;
    m.write(TSS + 2, 2, 0x9000);
    m.write(TSS + 4, 2, u64::from(sel::D0_16));
    hardware(&mut m, 14, None).expect("a 16-bit TSS serves 32-bit gates");
    assert_eq!(m.v.st.gpr[4], 0x9000 - 20);
    assert_eq!(
        m.frame::<5>(0x9000 - 20, 4)[3..],
        [STACK, u64::from(sel::D3)]
    );
    assert_eq!(m.v.seg(Seg::Ss).selector, sel::D0_16);
}

#[test]
fn sixteen_bit_stacks_wrap_and_keep_the_upper_half_of_esp() {
    let mut m = Machine::protected(0);
    m.set_segment(Seg::Ss, sel::D0_16);
    m.v.st.gpr[4] = 0xabcd_0004;
    hardware(&mut m, 14, None).expect("the frame wraps between its entries");
    assert_eq!(m.v.st.gpr[4], 0xabcd_fff8);
    assert_eq!(m.read(0, 4), 2, "EFLAGS below 4");
    assert_eq!(m.frame::<2>(0xfff8, 4), [START, u64::from(sel::C0)]);

    // An entry that itself crosses the limit doesn't wrap.
    let build = || {
        let mut m = Machine::protected(0);
        m.gate(0x40, sel::C0, access::INT, 3);
        m.set_segment(Seg::Ss, sel::D0_16);
        m.v.st.gpr[4] = 6;
        m
    };
    fails(&build, "entry across FFFFh", 0x40, Exception::SS0);
}

#[test]
fn expand_down_stacks_have_room_above_their_limit_only() {
    for (esp, room) in [
        (0x2010, true),
        (0x200c, true),
        (0x200b, false),
        (0x2004, false),
    ] {
        let build = || {
            let mut m = Machine::protected(0);
            m.write_descriptor(
                sel::FREE,
                descriptor(0x1_0000, 1, access::EXPAND_DOWN | BIG | attr::ACCESSED),
            );
            m.set_segment(Seg::Ss, sel::FREE);
            m.v.st.gpr[4] = esp;
            m
        };
        if room {
            let mut m = build();
            hardware(&mut m, 14, None).expect("there is room");
            assert_eq!(
                m.frame::<2>(0x1_0000 + esp - 12, 4),
                [START, u64::from(sel::C0)]
            );
        } else {
            fails(&build, "below an expand-down limit", 14, Exception::SS0);
        }
    }
}

#[test]
fn gate_faults_name_the_idt_entry() {
    let code = 0x40 * 8 + 2;
    let cases: &[(&str, u64, Exception)] = &[
        ("no gate", 0, Exception::gp(code)),
        (
            "code segment",
            descriptor(0, 0xffff, access::CODE),
            Exception::gp(code),
        ),
        (
            "call gate",
            gate(sel::C0, HANDLER, access::CALL, 0),
            Exception::gp(code),
        ),
        (
            "TSS",
            descriptor(TSS, 0x67, access::TSS),
            Exception::gp(code),
        ),
        (
            "absent",
            gate(sel::C0, HANDLER, access::INT & !attr::P | access::dpl(3), 0),
            Exception::np(code),
        ),
        (
            "absent task gate",
            gate(
                sel::TSS_B,
                0,
                access::TASK_GATE & !attr::P | access::dpl(3),
                0,
            ),
            Exception::np(code),
        ),
    ];
    for (what, raw, expected) in cases {
        let build = || {
            let mut m = Machine::protected(3);
            m.write(IDT + 0x40 * 8, 8, *raw);
            m
        };
        fails(&build, what, 0x40, *expected);
    }
    let build = || {
        let mut m = Machine::protected(0);
        m.v.st.idtr.limit = 0x40 * 8 + 6;
        m
    };
    fails(&build, "limit", 0x40, Exception::gp(code));
}

#[test]
fn gate_dpl_guards_against_software_interrupts_only() {
    for (cpl, dpl, allowed) in [
        (0, 0, true),
        (3, 3, true),
        (3, 2, false),
        (3, 0, false),
        (1, 0, false),
        (1, 1, true),
    ] {
        let mut m = Machine::protected(cpl);
        m.gate(0x40, sel::C0, access::INT, dpl);
        let expected = if allowed {
            Ok(())
        } else {
            Err(Exception::gp(0x40 * 8 + 2))
        };
        assert_eq!(int(&mut m, 0x40), expected, "CPL {cpl}, DPL {dpl}");
        let mut m = Machine::protected(cpl);
        m.gate(0x40, sel::C0, access::INT, dpl);
        assert_eq!(hardware(&mut m, 0x40, None), Ok(()));
        // INT3 and INTO are software interrupts, INT1 is not.
        for (vector, kind, refused) in [(3, 1, !allowed), (4, 1, !allowed), (1, 2, false)] {
            let mut m = Machine::protected(cpl);
            m.gate(vector, sel::C0, access::INT, dpl);
            let got = super::soft_int(&mut m.v, u64::from(vector), 1, kind).map(|_| ());
            let error = Exception::gp(u32::from(vector) * 8 + 2);
            assert_eq!(
                got,
                if refused { Err(error) } else { Ok(()) },
                "vector {vector}, CPL {cpl}, DPL {dpl}"
            );
        }
    }
}

#[test]
fn software_interrupts_return_behind_themselves() {
    let mut m = Machine::protected(0);
    int(&mut m, 0x40).expect("the gate is good");
    assert_eq!(m.read(STACK - 12, 4), START + 2);
    assert!(m.at(sel::C0, HANDLER + 0x40));
}

#[test]
fn code_segment_faults_name_the_selector() {
    let cases: &[(&str, u8, u16, Exception)] = &[
        ("null", 0, 0, Exception::GP0),
        ("null with RPL", 0, 3, Exception::GP0),
        (
            "beyond the GDT",
            0,
            sel::BEYOND,
            Exception::gp(u32::from(sel::BEYOND)),
        ),
        ("beyond the LDT", 0, 0x1004, Exception::gp(0x1004)),
        ("data", 0, sel::D0, Exception::gp(u32::from(sel::D0))),
        ("system", 0, sel::LDT, Exception::gp(u32::from(sel::LDT))),
        (
            "absent",
            0,
            sel::NP_CODE,
            Exception::np(u32::from(sel::NP_CODE)),
        ),
    ];
    for (what, cpl, selector, expected) in cases {
        let build = || {
            let mut m = Machine::protected(*cpl);
            m.gate(0x40, *selector, access::INT, 3);
            m
        };
        fails(&build, what, 0x40, *expected);
    }
}

#[test]
fn handler_offset_beyond_the_limit_is_gp_0() {
    for cpl in [0, 3] {
        let build = || {
            let mut m = Machine::protected(cpl);
            let limit = (HANDLER + 0x3f) as u32;
            m.write_descriptor(
                sel::FREE,
                descriptor(0, limit, access::CODE | attr::DB | attr::ACCESSED),
            );
            m.gate(0x40, sel::FREE, access::INT, 3);
            m
        };
        fails(&build, "EIP beyond the limit", 0x40, Exception::GP0);
    }
}

#[test]
fn inner_stack_faults_name_the_tss_or_the_stack() {
    let ss = |m: &mut Machine, selector: u16| m.write(TSS + 8, 2, u64::from(selector));
    type Change = Box<dyn Fn(&mut Machine)>;
    let cases: Vec<(&str, Change, Exception)> = vec![
        (
            "TSS too small",
            Box::new(|m| m.v.st.tr.limit = 8),
            Exception::ts(u32::from(sel::TSS)),
        ),
        ("null SS", Box::new(move |m| ss(m, 0)), Exception::ts(0)),
        (
            "SS beyond the GDT",
            Box::new(move |m| ss(m, sel::BEYOND)),
            Exception::ts(u32::from(sel::BEYOND)),
        ),
        (
            "RPL of SS",
            Box::new(move |m| ss(m, sel::D0 | 1)),
            Exception::ts(u32::from(sel::D0)),
        ),
        (
            "DPL of SS",
            Box::new(move |m| ss(m, sel::D1 & !3)),
            Exception::ts(u32::from(sel::D1 & !3)),
        ),
        (
            "read-only SS",
            Box::new(move |m| ss(m, sel::R0)),
            Exception::ts(u32::from(sel::R0)),
        ),
        (
            "code in SS",
            Box::new(move |m| ss(m, sel::C0)),
            Exception::ts(u32::from(sel::C0)),
        ),
        (
            "absent SS",
            Box::new(move |m| ss(m, sel::NP_DATA)),
            Exception::ss(u32::from(sel::NP_DATA)),
        ),
        (
            "no room",
            Box::new(move |m| {
                m.write_descriptor(sel::FREE, descriptor(0, 0xfff, access::DATA | attr::DB));
                ss(m, sel::FREE);
                m.write(TSS + 4, 4, 0x1004);
            }),
            Exception::ss(u32::from(sel::FREE)),
        ),
    ];
    for (what, change, expected) in cases {
        let build = || {
            let mut m = Machine::protected(3);
            m.gate(0x40, sel::C0, access::INT, 3);
            change(&mut m);
            m
        };
        fails(&build, what, 0x40, expected);
    }
    // The last byte that is read is byte 5 of the stack's entry.
    let mut m = Machine::protected(3);
    m.v.st.tr.limit = 9;
    assert_eq!(hardware(&mut m, 14, None), Ok(()));
}

#[test]
fn page_faults_of_a_delivery_leave_everything_as_it_was() {
    // A page to take away, the level, the fault: supervisor accesses but for pushes at level 3.
    for (page, flags, cpl, target, cr2, error) in [
        (IDT, 6, 3, sel::C0, IDT + 0x40 * 8, 0),
        (GDT, 6, 3, sel::C0, GDT + u64::from(sel::C0), 0),
        (TSS, 6, 3, sel::C0, TSS + 4, 0),
        (STACK0 - 0x1000, 5, 3, sel::C0, STACK0 - 4, 3),
        (STACK0 - 0x1000, 6, 3, sel::C0, STACK0 - 4, 2),
        (STACK - 0x1000, 3, 3, sel::C3, STACK - 4, 7),
        (STACK - 0x1000, 1, 0, sel::C0, STACK - 4, 3),
    ] {
        let build = || {
            let mut m = Machine::protected(cpl);
            for selector in [sel::C0, sel::C3, sel::D0] {
                let raw = m.read_descriptor(selector);
                m.write_descriptor(selector, raw | 1 << 40);
            }
            m.gate(0x40, target, access::INT, 3);
            m.enable_paging();
            m.page(page, flags);
            m
        };
        fails(
            &build,
            "page fault",
            0x40,
            Exception::page_fault(cr2, error),
        );
    }
    // Tables of the supervisor serve programs.
    let mut m = Machine::protected(3);
    m.enable_paging();
    for page in [IDT, GDT, TSS, STACK0 - 0x1000] {
        m.page(page, 3);
    }
    assert_eq!(hardware(&mut m, 14, Some(0)), Ok(()));
}

#[test]
fn frames_that_cross_a_page_are_all_or_nothing() {
    let build = || {
        let mut m = Machine::protected(0);
        let raw = m.read_descriptor(sel::C0);
        m.write_descriptor(sel::C0, raw | 1 << 40);
        m.gate(0x40, sel::C0, access::INT, 3);
        m.enable_paging();
        m.page(0x7000, 1);
        m.v.st.gpr[4] = 0x8006;
        m
    };
    fails(&build, "crossing", 0x40, Exception::page_fault(0x7ffe, 3));
}
