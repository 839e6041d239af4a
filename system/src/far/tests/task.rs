//! Task switches by JMP, CALL, gates and IRET; busy and NT bits, links, and faults in the new task.

use x86::flags::{CF, FIXED, IF, NT, RF, TF, VM};
use x86::{Exception, Seg, attr, cr0};

use super::fails;
use crate::boundary::dr6;
use crate::delivery::{Event, Source, soft_int};
use crate::far::{far_call, far_jump, iret};
use crate::testing::{
    IDT, Machine, START, TABLES, TSS, TSS_B, TSS_C, access, descriptor, gate, sel,
};

const GATE: u16 = sel::FREE;
const NEW_EIP: u64 = 0x4_4444;
const NEW_ESP: u64 = 0x7000;

/// Fills the 32-bit TSS at `at` with a task of level 0.
fn task(m: &mut Machine, at: u64) {
    m.write(at + 0x1c, 4, TABLES);
    m.write(at + 0x20, 4, NEW_EIP);
    m.write(at + 0x24, 4, FIXED | CF);
    for n in 0..8 {
        m.write(at + 0x28 + n * 4, 4, (0x8000_0001 * (n + 1)) & 0xffff_ffff);
    }
    m.write(at + 0x38, 4, NEW_ESP);
    for (offset, selector) in [
        (0x48, sel::D3),
        (0x4c, sel::C0),
        (0x50, sel::D0),
        (0x54, sel::D0),
        (0x58, 0),
        (0x5c, sel::R0),
        (0x60, sel::LDT),
    ] {
        m.write(at + offset, 2, u64::from(selector));
    }
}

/// Fills the 16-bit TSS.
fn small_task(m: &mut Machine) {
    m.write(TSS_C + 0xe, 2, 0x4444);
    m.write(TSS_C + 0x10, 2, FIXED | CF);
    for n in 0..8 {
        m.write(TSS_C + 0x12 + n * 2, 2, 0x1001 * (n + 1));
    }
    for (offset, selector) in [
        (0x22, sel::D3),
        (0x24, sel::C0),
        (0x26, sel::D0),
        (0x28, sel::D0),
        (0x2a, 0),
    ] {
        m.write(TSS_C + offset, 2, u64::from(selector));
    }
}

fn machine(cpl: u8) -> Machine {
    let mut m = Machine::protected(cpl);
    task(&mut m, TSS_B);
    small_task(&mut m);
    for n in 0..8 {
        m.v.st.gpr[n] = 0x1234_0000 + n as u64;
    }
    m.v.st.rflags = FIXED | IF;
    m.v.st.dr7 = 0x7ff;
    m
}

fn busy(m: &Machine, selector: u16) -> bool {
    m.read_descriptor(selector) >> 41 & 1 != 0
}

/// How a task is switched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Jump,
    JumpGate,
    Call,
    CallGate,
    Int,
    Fault,
}

const WAYS: [Way; 6] = [
    Way::Jump,
    Way::JumpGate,
    Way::Call,
    Way::CallGate,
    Way::Int,
    Way::Fault,
];

fn switch(m: &mut Machine, way: Way, tss: u16) -> Result<(), Exception> {
    m.write_descriptor(GATE, gate(tss, 0, access::TASK_GATE | access::dpl(3), 0));
    m.write(
        IDT + 0x40 * 8,
        8,
        gate(tss, 0, access::TASK_GATE | access::dpl(3), 0),
    );
    match way {
        Way::Jump => far_jump(&mut m.v, u64::from(tss), 0, 4).map(|_| ()),
        Way::JumpGate => far_jump(&mut m.v, u64::from(GATE), 0, 4).map(|_| ()),
        Way::Call => far_call(&mut m.v, u64::from(tss), 0, 4).map(|_| ()),
        Way::CallGate => far_call(&mut m.v, u64::from(GATE), 0, 4).map(|_| ()),
        Way::Int => soft_int(&mut m.v, 0x40, 2, 0).map(|_| ()),
        Way::Fault => {
            let ip = m.v.st.rip;
            m.v.deliver(&Event {
                vector: 0x40,
                error: Some(0x99),
                source: Source::Exception,
                ip,
                resume: true,
            })
        }
    }
}

#[test]
fn switches_to_a_32_bit_task() {
    for way in WAYS {
        let mut m = machine(0);
        switch(&mut m, way, sel::TSS_B).unwrap_or_else(|e| panic!("{way:?}: {e:?}"));
        let nests = !matches!(way, Way::Jump | Way::JumpGate);
        // The old task as it stood.
        let next = if way == Way::Fault { START } else { START + 2 };
        let rf = if way == Way::Fault { RF } else { 0 };
        assert_eq!(
            m.frame::<2>(TSS + 0x20, 4),
            [next, FIXED | IF | rf],
            "{way:?}"
        );
        assert_eq!(
            m.frame::<8>(TSS + 0x28, 4),
            std::array::from_fn(|n| 0x1234_0000 + n as u64)
        );
        for (n, selector) in [sel::D0, sel::C0, sel::D0, sel::D0, sel::D0, sel::D0]
            .iter()
            .enumerate()
        {
            assert_eq!(m.read(TSS + 0x48 + n as u64 * 4, 2), u64::from(*selector));
        }
        // Busy bits, link and NT.
        assert_eq!(
            (busy(&m, sel::TSS), busy(&m, sel::TSS_B)),
            (nests, true),
            "{way:?}"
        );
        assert_eq!(
            m.read(TSS_B, 2),
            if nests { u64::from(sel::TSS) } else { 0 }
        );
        assert_eq!(m.v.rflags(), FIXED | CF | if nests { NT } else { 0 });
        // The new task.
        assert!(m.at(sel::C0, NEW_EIP) && m.v.ip == NEW_EIP);
        assert_eq!(
            (m.v.st.tr.selector, m.v.st.tr.kind(), m.v.st.ldtr.selector),
            (sel::TSS_B, 11, sel::LDT)
        );
        assert_eq!((m.v.st.gpr[0], m.v.st.gpr[7]), (0x8000_0001, 8));
        let selectors = Seg::ALL.map(|seg| m.v.seg(seg).selector);
        assert_eq!(selectors, [sel::D3, sel::C0, sel::D0, sel::D0, 0, sel::R0]);
        assert!(m.v.seg(Seg::Fs).has(attr::UNUSABLE) && !m.v.seg(Seg::Gs).has(attr::UNUSABLE));
        assert_eq!(m.v.st.cr0 & cr0::TS, cr0::TS);
        assert_eq!(m.v.st.dr7, 0x7ff & !0x155, "local breakpoints end");
        assert_eq!(m.v.st.cr3, 0, "CR3 is loaded with paging on only");
        if way == Way::Fault {
            assert_eq!((m.v.st.gpr[4], m.read(NEW_ESP - 4, 4)), (NEW_ESP - 4, 0x99));
        } else {
            assert_eq!(m.v.st.gpr[4], NEW_ESP);
        }
    }
}

#[test]
fn switches_to_a_16_bit_task_and_back() {
    for way in WAYS {
        let mut m = machine(0);
        switch(&mut m, way, sel::TSS_C).unwrap_or_else(|e| panic!("{way:?}: {e:?}"));
        assert!(m.at(sel::C0, 0x4444));
        assert_eq!((m.v.st.gpr[0], m.v.st.gpr[3]), (0x1001, 0x4004));
        let selectors = Seg::ALL.map(|seg| m.v.seg(seg).selector);
        assert_eq!(selectors, [sel::D3, sel::C0, sel::D0, sel::D0, 0, 0]);
        assert!(m.v.st.ldtr.attr & attr::UNUSABLE != 0);
        if way == Way::Fault {
            assert_eq!(m.read(m.v.st.gpr[4], 2), 0x99, "16-bit error code");
            continue;
        }
        // And from the 16-bit task back to a 32-bit one.
        m.v.ip = 0x4444;
        m.v.next_ip = 0x4446;
        m.v.st.gpr[0] = 0xabcd_ef01;
        far_jump(&mut m.v, u64::from(sel::TSS_B), 0, 4).expect("TSS_B is available");
        assert_eq!(
            m.frame::<3>(TSS_C + 0xe, 2),
            [0x4446, m.read(TSS_C + 0x10, 2), 0xef01]
        );
        assert_eq!(m.read(TSS_C + 0x22, 2), u64::from(sel::D3));
        assert!(!busy(&m, sel::TSS_C) && m.at(sel::C0, NEW_EIP));
    }
}

#[test]
fn iret_returns_to_the_task_that_called() {
    for way in [Way::Call, Way::CallGate, Way::Int] {
        let mut m = machine(0);
        switch(&mut m, way, sel::TSS_B).expect("TSS_B is available");
        m.v.ip = NEW_EIP;
        m.v.next_ip = NEW_EIP + 1;
        m.v.st.nmi_blocked = true;
        iret(&mut m.v, 0, 0, 4).expect("the link is good");
        assert!(m.at(sel::C0, START + 2));
        assert_eq!((busy(&m, sel::TSS), busy(&m, sel::TSS_B)), (true, false));
        assert_eq!(
            (m.v.st.tr.selector, m.v.rflags(), m.v.st.nmi_blocked),
            (sel::TSS, FIXED | IF, false)
        );
        assert_eq!(m.v.st.gpr[7], 0x1234_0007);
        // The nested task is saved with NT clear, to go on behind its IRET.
        assert_eq!(m.frame::<2>(TSS_B + 0x20, 4), [NEW_EIP + 1, FIXED | CF]);
    }
}

#[test]
fn switches_from_level_3_and_vm86_and_to_them() {
    let mut m = machine(3);
    m.write_descriptor(
        sel::TSS_B,
        descriptor(TSS_B, 0xfff, access::TSS | access::dpl(3)),
    );
    switch(&mut m, Way::Call, sel::TSS_B).expect("DPL is 3");
    assert_eq!((m.v.st.cpl(), m.v.mmu.state().cpl), (0, 0));
    assert_eq!(m.read(TSS + 0x4c, 2), u64::from(sel::C3));

    let mut m = Machine::vm86(3);
    task(&mut m, TSS_B);
    switch(&mut m, Way::Int, sel::TSS_B).expect("IOPL and DPL are 3");
    assert!(m.at(sel::C0, NEW_EIP) && !m.v.st.vm86());
    assert_eq!(m.read(TSS + 0x24, 4) & VM, VM);
    m.v.ip = NEW_EIP;
    m.v.next_ip = NEW_EIP + 1;
    iret(&mut m.v, 0, 0, 4).expect("the link is good");
    assert!(m.v.st.vm86() && m.at(0x200, 0x1236));
    assert_eq!((m.v.seg(Seg::Ss).base, m.v.st.cpl()), (0x3000, 3));

    let mut m = machine(0);
    m.write(TSS_B + 0x4c, 2, u64::from(sel::C3));
    m.write(TSS_B + 0x50, 2, u64::from(sel::D3));
    m.write(TSS_B + 0x54, 2, u64::from(sel::D3));
    m.write(TSS_B + 0x5c, 2, 0);
    switch(&mut m, Way::Jump, sel::TSS_B).expect("a level 3 task");
    assert_eq!((m.v.st.cpl(), m.v.mmu.state().cpl), (3, 3));
}

#[test]
fn task_operand_faults_belong_to_the_old_task() {
    let gp = |selector: u16| Exception::gp(u32::from(selector));
    type Change = Box<dyn Fn(&mut Machine)>;
    let tss = |attr: u32, limit: u32| -> Change {
        Box::new(move |m| m.write_descriptor(sel::TSS_B, descriptor(TSS_B, limit, attr)))
    };
    let cases: Vec<(&str, u8, u16, Change, Exception)> = vec![
        (
            "busy",
            0,
            sel::TSS_B,
            tss(access::TSS | 2, 0x67),
            gp(sel::TSS_B),
        ),
        (
            "absent",
            0,
            sel::TSS_B,
            tss(access::TSS & !attr::P, 0x67),
            Exception::np(u32::from(sel::TSS_B)),
        ),
        ("DPL", 3, sel::TSS_B, tss(access::TSS, 0x67), gp(sel::TSS_B)),
        (
            "RPL",
            0,
            sel::TSS_B | 3,
            tss(access::TSS, 0x67),
            gp(sel::TSS_B),
        ),
        (
            "short",
            0,
            sel::TSS_B,
            tss(access::TSS, 0x66),
            Exception::ts(u32::from(sel::TSS_B)),
        ),
        (
            "short 16-bit",
            0,
            sel::TSS_B,
            tss(access::TSS16, 0x2a),
            Exception::ts(u32::from(sel::TSS_B)),
        ),
        (
            "in the LDT",
            0,
            4,
            Box::new(|m| m.write_descriptor(4, descriptor(TSS_B, 0x67, access::TSS))),
            gp(4),
        ),
        (
            "old TSS too small",
            0,
            sel::TSS_B,
            Box::new(|m| m.v.st.tr.limit = 0x5c),
            Exception::ts(u32::from(sel::TSS)),
        ),
    ];
    for (what, cpl, selector, change, expected) in cases {
        let build = || {
            let mut m = machine(cpl);
            change(&mut m);
            m
        };
        fails(
            &build,
            what,
            far_jump,
            [u64::from(selector), 0, 4],
            expected,
        );
        fails(
            &build,
            what,
            far_call,
            [u64::from(selector), 0, 4],
            expected,
        );
    }
}

#[test]
fn task_gate_faults_name_the_gate_or_the_tss() {
    let gp = |selector: u16| Exception::gp(u32::from(selector));
    let open = access::TASK_GATE | access::dpl(3);
    for (what, cpl, attr, tss, expected) in [
        (
            "gate DPL",
            3,
            access::TASK_GATE | access::dpl(2),
            sel::TSS_B,
            gp(GATE),
        ),
        (
            "absent gate",
            0,
            open & !attr::P,
            sel::TSS_B,
            Exception::np(u32::from(GATE)),
        ),
        (
            "TSS in the LDT",
            0,
            open,
            sel::TSS_B | 4,
            gp(sel::TSS_B | 4),
        ),
        ("TSS beyond the GDT", 0, open, sel::BEYOND, gp(sel::BEYOND)),
        ("no TSS", 0, open, sel::D0, gp(sel::D0)),
        ("busy TSS", 0, open, sel::TSS, gp(sel::TSS)),
        (
            "absent TSS",
            0,
            open,
            GATE + 8,
            Exception::np(u32::from(GATE + 8)),
        ),
    ] {
        let build = || {
            let mut m = machine(cpl);
            m.write_descriptor(GATE, gate(tss, 0, attr, 0));
            m.write_descriptor(GATE + 8, descriptor(TSS_B, 0x67, access::TSS & !attr::P));
            m.write(IDT + 0x40 * 8, 8, gate(tss, 0, attr, 0));
            m
        };
        fails(&build, what, far_jump, [u64::from(GATE), 0, 4], expected);
        fails(&build, what, far_call, [u64::from(GATE), 0, 4], expected);
        let mut m = build();
        let before = m.snapshot();
        let mut expected = expected;
        if expected.error == Some(u32::from(GATE)) {
            expected.error = Some(0x40 * 8 + 2);
        }
        assert_eq!(
            soft_int(&mut m.v, 0x40, 2, 0),
            Err(expected),
            "INT through a gate: {what}"
        );
        assert_eq!(m.snapshot(), before);
    }
}

#[test]
fn faults_in_the_new_task_have_its_eip() {
    let code = |selector: u16| u32::from(selector & !3);
    let at = |offset: u64, selector: u16| {
        move |m: &mut Machine| m.write(TSS_B + offset, 2, u64::from(selector))
    };
    type Change = Box<dyn Fn(&mut Machine)>;
    let cases: Vec<(&str, Change, Exception)> = vec![
        (
            "LDT in the LDT",
            Box::new(at(0x60, sel::LDT | 4)),
            Exception::ts(u32::from(sel::LDT | 4)),
        ),
        (
            "LDT beyond the GDT",
            Box::new(at(0x60, sel::BEYOND)),
            Exception::ts(code(sel::BEYOND)),
        ),
        (
            "no LDT",
            Box::new(at(0x60, sel::D0)),
            Exception::ts(code(sel::D0)),
        ),
        ("null SS", Box::new(at(0x50, 0)), Exception::ts(0)),
        (
            "SS beyond the GDT",
            Box::new(at(0x50, sel::BEYOND)),
            Exception::ts(code(sel::BEYOND)),
        ),
        (
            "RPL of SS",
            Box::new(at(0x50, sel::D0 | 3)),
            Exception::ts(code(sel::D0)),
        ),
        (
            "DPL of SS",
            Box::new(at(0x50, sel::D3 & !3)),
            Exception::ts(code(sel::D3)),
        ),
        (
            "read-only SS",
            Box::new(at(0x50, sel::R0)),
            Exception::ts(code(sel::R0)),
        ),
        (
            "absent SS",
            Box::new(at(0x50, sel::NP_DATA)),
            Exception::ss(code(sel::NP_DATA)),
        ),
        ("null CS", Box::new(at(0x4c, 0)), Exception::ts(0)),
        (
            "CS beyond the GDT",
            Box::new(at(0x4c, sel::BEYOND)),
            Exception::ts(code(sel::BEYOND)),
        ),
        (
            "data in CS",
            Box::new(at(0x4c, sel::D0)),
            Exception::ts(code(sel::D0)),
        ),
        (
            "DPL of CS",
            Box::new(at(0x4c, sel::C3 & !3)),
            Exception::ts(code(sel::C3)),
        ),
        (
            "absent CS",
            Box::new(at(0x4c, sel::NP_CODE)),
            Exception::np(code(sel::NP_CODE)),
        ),
        (
            "DS beyond the GDT",
            Box::new(at(0x54, sel::BEYOND)),
            Exception::ts(code(sel::BEYOND)),
        ),
        (
            "execute-only DS",
            Box::new(at(0x54, sel::X0)),
            Exception::ts(code(sel::X0)),
        ),
        (
            "RPL of FS",
            Box::new(at(0x58, sel::D0 | 3)),
            Exception::ts(code(sel::D0)),
        ),
        (
            "absent ES",
            Box::new(at(0x48, sel::NP_DATA)),
            Exception::np(code(sel::NP_DATA)),
        ),
        (
            "EIP beyond the limit",
            Box::new(move |m| {
                m.write_descriptor(GATE + 8, descriptor(0, 0xfff, access::CODE));
                at(0x4c, GATE + 8)(m);
            }),
            Exception::GP0,
        ),
    ];
    for (what, change, expected) in cases {
        let mut m = machine(0);
        change(&mut m);
        assert_eq!(
            switch(&mut m, Way::Call, sel::TSS_B),
            Err(expected),
            "{what}"
        );
        assert_eq!(
            (m.v.st.rip, m.v.ip, m.v.st.tr.selector),
            (NEW_EIP, NEW_EIP, sel::TSS_B),
            "{what}"
        );
        assert_eq!((busy(&m, sel::TSS), busy(&m, sel::TSS_B)), (true, true));
        // By an exception the same faults have EXT.
        let mut m = machine(0);
        change(&mut m);
        let mut external = expected;
        external.error = external.error.map(|e| e | 1);
        assert_eq!(
            switch(&mut m, Way::Fault, sel::TSS_B),
            Err(external),
            "{what}"
        );
    }
}

#[test]
fn page_faults_of_both_tsss_belong_to_the_old_task() {
    for (page, flags, cr2, error) in [
        (TSS, 5, TSS + 0x20, 3),
        (TSS_B, 6, TSS_B, 0),
        (
            crate::testing::GDT,
            5,
            crate::testing::GDT + u64::from(sel::TSS),
            3,
        ),
    ] {
        let build = || {
            let mut m = machine(0);
            m.enable_paging();
            m.page(page, flags);
            m
        };
        fails(
            &build,
            "page fault",
            far_jump,
            [u64::from(sel::TSS_B), 0, 4],
            Exception::page_fault(cr2, error),
        );
    }
    // A call writes the link too.
    let build = || {
        let mut m = machine(0);
        m.enable_paging();
        m.page(TSS_B, 5);
        m
    };
    fails(
        &build,
        "link",
        far_call,
        [u64::from(sel::TSS_B), 0, 4],
        Exception::page_fault(TSS_B, 3),
    );
}

#[test]
fn cr3_is_loaded_with_paging_on() {
    let mut m = machine(0);
    m.enable_paging();
    // A second directory, the same but for one page.
    let other = TABLES + 0x9000;
    for n in 0..4 {
        let entry = m.read(TABLES + n * 4, 4);
        m.write(other + n * 4, 4, entry);
    }
    m.write(TSS_B + 0x1c, 4, other);
    switch(&mut m, Way::Jump, sel::TSS_B).expect("both directories map all");
    assert_eq!((m.v.st.cr3, m.v.mmu.state().cr3), (other, other));
}

#[test]
fn the_t_bit_traps_before_the_first_instruction() {
    let mut m = machine(0);
    m.write(TSS_B + 0x64, 2, 1);
    switch(&mut m, Way::Jump, sel::TSS_B).expect("TSS_B is available");
    assert_eq!(m.v.pending_debug & dr6::CAUSES, dr6::BT);
    let got = m.v.boundary();
    assert_eq!(got, crate::Boundary::Delivered(Exception::debug(dr6::BT)));
    assert_eq!(m.read(NEW_ESP - 12, 4), NEW_EIP);
    assert_eq!(m.v.st.dr6 & dr6::CAUSES, dr6::BT);
}

#[test]
fn long_mode_has_no_task_switch() {
    let build = || {
        let mut m = Machine::long(0, true);
        m.write_descriptor(GATE, descriptor(TSS_B, 0x67, access::TSS));
        m.write_descriptor(GATE + 16, gate(GATE, 0, access::TASK_GATE, 0));
        m
    };
    for selector in [GATE, GATE + 16] {
        let expected = Exception::gp(u32::from(selector));
        fails(
            &build,
            "long mode",
            far_jump,
            [u64::from(selector), 0, 4],
            expected,
        );
        fails(
            &build,
            "long mode",
            far_call,
            [u64::from(selector), 0, 4],
            expected,
        );
    }
}

#[test]
fn rf_and_tf_come_with_the_new_task() {
    let mut m = machine(0);
    m.v.st.rflags |= TF;
    m.write(TSS_B + 0x24, 4, FIXED | RF);
    let step = m.v.begin_instruction().expect("no breakpoint");
    switch(&mut m, Way::Jump, sel::TSS_B).expect("TSS_B is available");
    m.v.after_instruction(step);
    assert_eq!(
        (m.v.rflags(), m.v.pending_debug),
        (FIXED | RF, 0),
        "the old TF doesn't trap, RF stays"
    );
}
