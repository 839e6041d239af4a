//! From a fault to its handler, to a double fault, to shutdown; CR2, DR6, RF on the way.

use x86::flags::RF;
use x86::{Exception, attr, cr0, vector};

use crate::boundary::{Boundary, dr6};
use crate::delivery::Shutdown;
use crate::event;
use crate::testing::{HANDLER, IDT, Machine, STACK, STACK0, START, TSS, access, gate, sel};

fn handles(m: &Machine, selector: u16, vector: u8) -> bool {
    m.at(selector, HANDLER + u64::from(vector))
}

#[test]
fn faults_push_rf_and_traps_and_interrupts_do_not() {
    let cases = [
        (Exception::UD, true),
        (Exception::GP0, true),
        (Exception::page_fault(0x1234, 4), true),
        (Exception::with_error(vector::DF, 0), true),
        (Exception::new(vector::BP), false),
        (Exception::new(vector::OF), false),
        (Exception::debug(dr6::BS), false),
        (Exception::debug(1), false),
        (Exception::debug(dr6::BD), true),
        (Exception::new(vector::MC), false),
    ];
    for (e, rf) in cases {
        let mut m = Machine::long(0, true);
        assert_eq!(m.v.raise(e), Ok(e));
        let rsp = m.v.st.gpr[4] + if e.error.is_some() { 8 } else { 0 };
        assert_eq!(m.read(rsp, 8), START, "{e:?}");
        assert_eq!(m.read(rsp + 16, 8) & RF != 0, rf, "{e:?}");
        assert_eq!(m.v.rflags() & RF, 0);
        assert!(handles(&m, sel::L0, e.vector));
    }
}

#[test]
fn page_faults_load_cr2_and_debug_exceptions_dr6() {
    let mut m = Machine::protected(3);
    m.v.raise(Exception::page_fault(0xdead_b000, 7))
        .expect("the gate is good");
    assert_eq!((m.v.st.cr2, m.read(STACK0 - 24, 4)), (0xdead_b000, 7));

    let mut m = Machine::protected(0);
    m.v.st.dr6 = 0xffff_0ff0 | dr6::BT | 2;
    m.v.st.dr7 = 0x400 | dr6::DR7_GD;
    m.v.st.msr.debugctl = dr6::DEBUGCTL_LBR | dr6::DEBUGCTL_BTF;
    m.v.raise(Exception::debug(dr6::BS | 1))
        .expect("the gate is good");
    assert_eq!(m.v.st.dr6, 0xffff_0ff0 | dr6::BT | dr6::BS | 1);
    assert_eq!((m.v.st.dr7, m.v.st.msr.debugctl), (0x400, 0));

    // INT1 leaves DR6 alone.
    let mut m = Machine::protected(0);
    super::soft_int(&mut m.v, 1, 1, 2).expect("the gate is good");
    assert_eq!(m.v.st.dr6, 0xffff_0ff0);
}

#[test]
fn real_mode_exceptions_have_no_error_code() {
    let mut m = Machine::real();
    m.v.st.rip = 0x1234;
    assert_eq!(m.v.raise(Exception::GP0), Ok(Exception::new(vector::GP)));
    assert_eq!((m.v.st.gpr[4], m.read(STACK - 6, 2)), (STACK - 6, 0x1234));
}

#[test]
fn a_benign_first_exception_gives_way_to_the_second() {
    let mut m = Machine::protected(0);
    m.gate(vector::UD, sel::C0, access::INT & !attr::P, 0);
    let expected = Exception::np(u32::from(vector::UD) * 8 + 3);
    assert_eq!(m.v.raise(Exception::UD), Ok(expected));
    assert!(handles(&m, sel::C0, vector::NP));
    assert_eq!(m.read(STACK - 16, 4), u64::from(vector::UD) * 8 + 3);
}

#[test]
fn two_contributory_faults_are_a_double_fault() {
    for first in [
        vector::DE,
        vector::TS,
        vector::NP,
        vector::SS,
        vector::GP,
        vector::PF,
    ] {
        let mut m = Machine::protected(3);
        m.gate(first, 0, access::INT, 0);
        assert_eq!(
            m.v.raise(Exception::with_error(first, 0)),
            Ok(Exception::with_error(vector::DF, 0))
        );
        assert!(handles(&m, sel::C0, vector::DF));
        // Error code 0, EIP of the first fault.
        assert_eq!(m.frame::<2>(STACK0 - 24, 4), [0, START]);
    }
}

#[test]
fn a_page_fault_after_a_contributory_one_is_delivered_alone() {
    let mut m = Machine::protected(0);
    m.enable_paging();
    // #GP's gate leads to a descriptor on a page that isn't there.
    m.v.st.gdtr.limit = 0xffff;
    m.gate(vector::GP, 0x2000, access::INT, 0);
    m.page(0x3000, 2);
    let e = m.v.raise(Exception::GP0).expect("#PF has a handler");
    assert_eq!(e, Exception::page_fault(0x3000, 0));
    assert_eq!(m.v.st.cr2, 0x3000);
    assert!(handles(&m, sel::C0, vector::PF));
}

#[test]
fn two_page_faults_are_a_double_fault() {
    let mut m = Machine::protected(0);
    m.enable_paging();
    m.v.st.gdtr.limit = 0xffff;
    m.gate(vector::PF, 0x2000, access::INT, 0);
    m.page(0x3000, 2);
    assert_eq!(
        m.v.raise(Exception::page_fault(0x1_2345, 0)),
        Ok(Exception::with_error(vector::DF, 0))
    );
    assert_eq!(m.v.st.cr2, 0x3000, "CR2 is the second's");
}

#[test]
fn a_fault_in_delivering_a_double_fault_shuts_down() {
    for mut m in [
        Machine::protected(0),
        Machine::protected(3),
        Machine::real(),
        Machine::vm86(3),
        Machine::long(3, true),
    ] {
        m.v.st.idtr.limit = 0;
        m.v.st.rip = 0x1234;
        let before = m.v.st.clone();
        assert_eq!(m.v.raise(Exception::GP0), Err(Shutdown));
        assert!(m.shut_down());
        assert_eq!(
            (m.v.st.rip, m.v.st.gpr, m.v.st.seg),
            (before.rip, before.gpr, before.seg)
        );
        assert_eq!(m.v.boundary(), Boundary::Shutdown);
    }
}

#[test]
fn a_stack_that_cannot_take_the_frame_ends_in_a_triple_fault_without_a_tss_stack() {
    let mut m = Machine::long(0, true);
    m.v.st.gpr[4] = 0x8000_0000_0000;
    assert_eq!(m.v.raise(Exception::UD), Err(Shutdown));
    // An interrupt stack for #DF saves it.
    let mut m = Machine::long(0, true);
    m.v.st.gpr[4] = 0x8000_0000_0000;
    m.gate64(vector::DF, sel::L0, access::INT, 1);
    assert_eq!(
        m.v.raise(Exception::UD),
        Ok(Exception::with_error(vector::DF, 0))
    );
}

#[test]
fn double_fault_through_a_task_gate_switches_and_pushes_zero() {
    let mut m = Machine::protected(3);
    m.v.st.cr0 |= cr0::NE;
    m.gate(vector::GP, 0, access::INT, 0);
    m.write(
        IDT + u64::from(vector::DF) * 8,
        8,
        gate(sel::TSS_B, 0, access::TASK_GATE, 0),
    );
    let at = crate::testing::TSS_B;
    m.write(at + 0x20, 4, 0x4444);
    m.write(at + 0x38, 4, 0x7000);
    for (offset, selector) in [
        (0x48, sel::D0),
        (0x4c, sel::C0),
        (0x50, sel::D0),
        (0x54, sel::D0),
    ] {
        m.write(at + offset, 2, u64::from(selector));
    }
    assert_eq!(
        m.v.raise(Exception::GP0),
        Ok(Exception::with_error(vector::DF, 0))
    );
    assert!(m.at(sel::C0, 0x4444));
    assert_eq!((m.v.st.gpr[4], m.read(0x6ffc, 4)), (0x6ffc, 0));
    // The old task resumes at the fault, with RF.
    assert_eq!(m.read(TSS + 0x20, 4), START);
    assert_eq!(m.read(TSS + 0x24, 4) & RF, RF);
}

#[test]
fn shutdown_ends_with_init_or_nmi() {
    let mut m = Machine::protected(0);
    m.v.st.idtr.limit = 0;
    assert_eq!(m.v.raise(Exception::GP0), Err(Shutdown));
    assert_eq!(
        m.v.wake_mask() & (event::INTR | event::NMI | event::INIT),
        event::NMI | event::INIT
    );
    m.v.st.idtr.limit = 0x7ff;
    m.events.raise(event::NMI);
    assert_eq!(
        m.v.boundary(),
        Boundary::Delivered(Exception::new(vector::NMI))
    );
    assert!(handles(&m, sel::C0, vector::NMI));
    assert!(!m.shut_down());
}
