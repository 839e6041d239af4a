//! Long mode: 16-byte gates, five entries on an aligned stack, interrupt stacks.

use x86::flags::{IF, NT, RF, TF};
use x86::{Exception, Seg, attr};

use super::{SEEN, fails, hardware, int, with_flags};
use crate::testing::{HANDLER, IDT, IST1, Machine, STACK, STACK0, START, TSS, access, sel};

#[test]
fn long_mode_gates_by_level_and_mode() {
    // CPL, 64-bit, target, the frame's top, new CPL.
    for (cpl, code64, target, top, level) in [
        (0, true, sel::L0, STACK, 0),
        (3, true, sel::L0, STACK0, 0),
        (3, false, sel::L0, STACK0, 0),
        (1, false, sel::L0, STACK0, 0),
        (3, true, sel::L3, STACK, 3),
        (3, true, sel::LCONF0, STACK, 3),
        (0, false, sel::L0, STACK, 0),
    ] {
        for (kind, error) in [(access::INT, None), (access::TRAP, Some(0x77))] {
            let mut m = with_flags(Machine::long(cpl, code64));
            m.gate64(14, target, kind, 0);
            // The frame is aligned to 16 bytes whatever RSP was.
            m.v.st.gpr[4] = STACK + 0xb;
            let (cs, ss) = (m.v.seg(Seg::Cs).selector, m.v.seg(Seg::Ss).selector);
            hardware(&mut m, 14, error).expect("the gate is good");
            let rf = if error.is_some() { RF } else { 0 };
            let frame = m.frame::<5>(top - 40, 8);
            assert_eq!(
                frame,
                [START, u64::from(cs), SEEN | rf, STACK + 0xb, u64::from(ss)],
                "level {cpl}"
            );
            let mut rsp = top - 40;
            if let Some(error) = error {
                rsp -= 8;
                assert_eq!(m.read(rsp, 8), u64::from(error));
            }
            assert_eq!(m.v.st.gpr[4], rsp);
            assert!(m.at(target & !3 | level, HANDLER + 14));
            assert_eq!(u16::from(m.v.st.cpl()), level);
            let kept = if kind & 1 != 0 { SEEN } else { SEEN & !IF };
            assert_eq!(m.v.rflags(), kept & !(TF | NT));
            if level < u16::from(cpl) {
                assert_eq!(
                    m.v.seg(Seg::Ss).selector,
                    level,
                    "SS is null with the new level"
                );
                assert!(m.v.seg(Seg::Ss).has(attr::UNUSABLE));
            } else {
                assert_eq!(m.v.seg(Seg::Ss).selector, ss, "SS stays");
            }
        }
    }
}

#[test]
fn interrupt_stacks_serve_all_levels() {
    for (cpl, ist) in [(0, 1), (3, 1), (0, 7), (3, 7)] {
        let mut m = Machine::long(cpl, true);
        m.gate64(14, sel::L0, access::INT, ist);
        hardware(&mut m, 14, None).expect("the gate is good");
        let top = IST1 + u64::from(ist - 1) * 0x1000;
        assert_eq!(
            (m.v.st.gpr[4], m.read(top - 16, 8)),
            (top - 40, STACK),
            "IST {ist} from level {cpl}"
        );
    }
}

#[test]
fn all_64_offset_bits_of_a_gate_count() {
    let mut m = Machine::long(3, true);
    m.write(IDT + 14 * 16 + 8, 8, 0xffff_8000);
    hardware(&mut m, 14, None).expect("a canonical handler");
    assert_eq!(m.v.st.rip, 0xffff_8000_0000_0000 + HANDLER + 14);
}

#[test]
fn long_mode_delivery_faults() {
    type Change = Box<dyn Fn(&mut Machine)>;
    let idt = |vector: u32| vector * 8 + 2;
    let tss = u32::from(sel::TSS);
    let target = |selector: u16| -> Change {
        Box::new(move |m| m.gate64(0x40, selector, access::INT | access::dpl(3), 0))
    };
    let kind = |attr: u32, ist: u8| -> Change {
        Box::new(move |m| m.gate64(0x40, sel::L0, attr | access::dpl(3), ist))
    };
    let cases: Vec<(&str, u8, Change, Exception)> = vec![
        (
            "limit",
            3,
            Box::new(|m| m.v.st.idtr.limit = 0x40 * 16 + 14),
            Exception::gp(idt(0x40)),
        ),
        (
            "task gate",
            3,
            kind(access::TASK_GATE, 0),
            Exception::gp(idt(0x40)),
        ),
        (
            "16-bit gate",
            3,
            kind(access::INT16, 0),
            Exception::gp(idt(0x40)),
        ),
        (
            "absent",
            3,
            kind(access::INT & !attr::P, 0),
            Exception::np(idt(0x40)),
        ),
        ("null", 3, target(0), Exception::GP0),
        (
            "beyond",
            3,
            target(sel::BEYOND),
            Exception::gp(u32::from(sel::BEYOND)),
        ),
        (
            "compatibility code",
            3,
            target(sel::C0),
            Exception::gp(u32::from(sel::C0)),
        ),
        (
            "data",
            3,
            target(sel::D0),
            Exception::gp(u32::from(sel::D0)),
        ),
        (
            "outer",
            0,
            target(sel::L3),
            Exception::gp(u32::from(sel::L3 & !3)),
        ),
        (
            "L and D",
            0,
            Box::new(|m| {
                let raw = m.read_descriptor(sel::L0);
                m.write_descriptor(sel::L0, raw | u64::from(attr::DB) << 40);
                m.gate64(0x40, sel::L0, access::INT | access::dpl(3), 0);
            }),
            Exception::gp(u32::from(sel::L0)),
        ),
        (
            "TSS too small for RSP0",
            3,
            Box::new(|m| m.v.st.tr.limit = 10),
            Exception::ts(tss),
        ),
        (
            "TSS too small for IST1",
            0,
            Box::new(|m| {
                m.gate64(0x40, sel::L0, access::INT | access::dpl(3), 1);
                m.v.st.tr.limit = 0x2a;
            }),
            Exception::ts(tss),
        ),
        (
            "non-canonical RSP0",
            3,
            Box::new(|m| m.write(TSS + 4, 8, 1 << 48)),
            Exception::SS0,
        ),
        (
            "non-canonical RSP",
            0,
            Box::new(|m| m.v.st.gpr[4] = 0x8000_0000_0040),
            Exception::SS0,
        ),
        (
            "non-canonical RIP",
            3,
            Box::new(|m| m.write(IDT + 0x40 * 16 + 8, 8, 0x8000)),
            Exception::GP0,
        ),
        (
            "page fault",
            3,
            Box::new(|m| m.write(TSS + 4, 8, 0x5000_0000)),
            Exception::page_fault(0x4fff_fff8, 2),
        ),
    ];
    for (what, cpl, change, expected) in cases {
        let build = || {
            let mut m = Machine::long(cpl, true);
            m.gate64(0x40, sel::L0, access::INT | access::dpl(3), 0);
            for selector in [sel::L0, sel::L3] {
                let raw = m.read_descriptor(selector);
                m.write_descriptor(selector, raw | 1 << 40);
            }
            change(&mut m);
            m
        };
        fails(&build, what, 0x40, expected);
    }
}

#[test]
fn page_fault_error_code_tells_a_supervisor_write_of_the_frame() {
    // RSP0 in the second GiB, which is not mapped at all.
    let mut m = Machine::long(3, true);
    m.write(TSS + 4, 8, 0x4000_1000);
    let before = m.snapshot();
    let raw = m.read_descriptor(sel::L0);
    assert_eq!(
        hardware(&mut m, 14, None),
        Err(Exception::page_fault(0x4000_0ff8, 2))
    );
    m.write_descriptor(sel::L0, raw);
    assert_eq!(m.snapshot(), before);
}

#[test]
fn int_n_checks_dpl_in_long_mode() {
    let mut m = Machine::long(3, true);
    assert_eq!(int(&mut m, 0x40), Err(Exception::gp(0x40 * 8 + 2)));
    m.gate64(0x40, sel::L0, access::INT | access::dpl(3), 0);
    assert_eq!(int(&mut m, 0x40), Ok(()));
    assert_eq!(m.read(STACK0 - 40, 8), START + 2);
}
