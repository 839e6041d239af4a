//! What comes first between instructions, what shadows hold back, and single step, RF and breakpoints around one.

use x86::flags::{FIXED, IF, RF, TF};
use x86::{Activity, Exception, Gpr, Seg, Shadow, cr0, efer, vector};

use super::{Boundary, dr6};
use crate::event;
use crate::far::{iret, syscall};
use crate::segments::load_seg;
use crate::testing::{Machine, STACK, START, sel};

fn delivered(vector: u8) -> Boundary {
    Boundary::Delivered(Exception::new(vector))
}

fn debug(bits: u64) -> Boundary {
    Boundary::Delivered(Exception::debug(bits))
}

fn machine() -> Machine {
    let mut m = Machine::protected(0);
    m.v.st.rflags = FIXED | IF;
    m
}

/// Runs an instruction that does nothing.
fn nop(m: &mut Machine) {
    let step = m.v.begin_instruction().expect("no breakpoint");
    m.v.ip = m.v.st.rip;
    m.v.next_ip = m.v.st.rip + 1;
    m.v.st.rip += 1;
    m.v.after_instruction(step);
}

#[test]
fn events_are_taken_in_the_order_of_table_6_2() {
    let mut m = machine();
    m.v.pending_debug = dr6::BT;
    m.events.raise(event::NMI);
    m.board.interrupt(0x55);
    assert_eq!(m.v.boundary(), debug(dr6::BT));
    assert_eq!(
        m.v.boundary(),
        delivered(vector::NMI),
        "IF is clear in handlers, NMI needs none"
    );
    m.v.st.rflags |= IF;
    assert_eq!(m.v.boundary(), delivered(0x55));
    assert_eq!(m.v.boundary(), Boundary::Run);

    // The T bit of a task before INIT, other traps behind it.
    let mut m = machine();
    m.v.pending_debug = dr6::BT;
    m.events.raise(event::INIT);
    assert_eq!(m.v.boundary(), debug(dr6::BT));
    assert_eq!(m.v.boundary(), Boundary::Run);
    assert_eq!(m.v.st.rip, 0xfff0, "INIT");
    let mut m = machine();
    m.v.pending_debug = dr6::BS;
    m.events.raise(event::INIT | event::NMI);
    assert_eq!(m.v.boundary(), Boundary::Run);
    assert_eq!(
        (m.v.st.rip, m.v.pending_debug),
        (0xfff0, 0),
        "INIT drops the trap"
    );
}

#[test]
fn stop_goes_before_all_and_stays_up() {
    let mut m = machine();
    m.events.raise(event::STOP | event::NMI);
    assert_eq!(
        (m.v.boundary(), m.v.boundary()),
        (Boundary::Stop, Boundary::Stop)
    );
    m.events.lower(event::STOP);
    assert_eq!(m.v.boundary(), delivered(vector::NMI));
}

#[test]
fn nothing_pending_means_run_and_rechecks_are_taken_down() {
    let mut m = machine();
    m.events.raise(event::RECHECK | event::CODE | event::SIPI);
    assert_eq!(m.v.boundary(), Boundary::Run);
    assert_eq!(m.events.pending(), 0);
}

#[test]
fn maskable_interrupts_want_if() {
    let mut m = machine();
    m.v.st.rflags &= !IF;
    m.board.interrupt(0x55);
    assert_eq!(m.v.boundary(), Boundary::Run);
    assert_eq!(m.v.event_mask() & event::INTR, 0);
    m.v.st.rflags |= IF;
    assert_eq!(m.v.event_mask() & event::INTR, event::INTR);
    assert_eq!(m.v.boundary(), delivered(0x55));
    assert_eq!(
        m.frame::<3>(STACK - 12, 4),
        [START, u64::from(sel::C0), FIXED | IF]
    );
    assert_eq!(m.events.pending(), 0);
    // An interrupt that went away meanwhile.
    let mut m = machine();
    m.events.raise(event::INTR);
    assert_eq!(m.v.boundary(), Boundary::Run);
}

#[test]
fn sti_holds_interrupts_back_for_one_instruction_but_not_nmi() {
    let mut m = machine();
    m.v.st.shadow = Shadow::Sti;
    m.board.interrupt(0x55);
    assert_eq!(m.v.boundary(), Boundary::Run);
    assert!(m.v.needs_step());
    nop(&mut m);
    assert_eq!(m.v.st.shadow, Shadow::None);
    assert_eq!(m.v.boundary(), delivered(0x55));
    assert_eq!(m.read(STACK - 12, 4), START + 1);

    let mut m = machine();
    m.v.st.shadow = Shadow::Sti;
    m.events.raise(event::NMI);
    assert_eq!(m.v.boundary(), delivered(vector::NMI));
    assert_eq!(m.v.st.shadow, Shadow::None);
}

#[test]
fn mov_ss_holds_interrupts_nmi_and_debug_traps_back_for_one_instruction() {
    let mut m = machine();
    m.v.st.rflags |= TF;
    m.v.st.dr7 = 0x402;
    m.v.st.dr[0] = START + 2;
    m.events.raise(event::NMI);
    m.board.interrupt(0x55);
    let step = m.v.begin_instruction().expect("no breakpoint");
    load_seg(&mut m.v, Seg::Ss as u64, u64::from(sel::D0), 1).expect("SS loads");
    m.v.st.rip += 2;
    m.v.pending_debug |= 2;
    m.v.after_instruction(step);
    assert_eq!((m.v.boundary(), m.v.pending_trap()), (Boundary::Run, None));
    // The code breakpoint on the next instruction is lost, the data breakpoint and single step come after it.
    nop(&mut m);
    assert_eq!(m.v.pending_trap(), Some(Exception::debug(dr6::BS | 2)));
    assert_eq!(m.v.boundary(), debug(dr6::BS | 2));
    assert_eq!(m.read(STACK - 12, 4), START + 3);
    assert_eq!(m.v.boundary(), delivered(vector::NMI));
}

#[test]
fn nmi_is_blocked_until_iret() {
    let mut m = machine();
    m.events.raise(event::NMI);
    assert_eq!(m.v.boundary(), delivered(vector::NMI));
    assert!(m.v.st.nmi_blocked);
    m.events.raise(event::NMI);
    assert_eq!(m.v.event_mask() & event::NMI, 0);
    assert_eq!(m.v.boundary(), Boundary::Run);
    iret(&mut m.v, 0, 0, 4).expect("the frame is good");
    assert!(m.at(sel::C0, START));
    assert_eq!(
        m.v.boundary(),
        delivered(vector::NMI),
        "the one that waited"
    );
}

#[test]
fn hlt_ends_with_interrupts_nmi_and_traps() {
    let mut m = machine();
    m.v.st.activity = Activity::Halted;
    assert_eq!(m.v.boundary(), Boundary::Halted);
    let wake = event::STOP | event::INIT | event::NMI | event::INTR;
    assert_eq!(m.v.wake_mask(), wake);
    m.board.interrupt(0x55);
    assert_eq!(m.v.boundary(), delivered(0x55));
    assert_eq!(m.v.st.activity, Activity::Active);

    let mut m = machine();
    m.v.st.activity = Activity::Halted;
    m.v.st.rflags &= !IF;
    m.board.interrupt(0x55);
    assert_eq!(m.v.boundary(), Boundary::Halted);
    assert_eq!(
        m.v.wake_mask(),
        wake & !event::INTR,
        "what cannot wake must not be slept on"
    );
    m.events.raise(event::NMI);
    assert_eq!(m.v.boundary(), delivered(vector::NMI));

    let mut m = machine();
    m.v.st.activity = Activity::Halted;
    m.v.pending_debug = dr6::BS;
    assert_eq!(m.v.boundary(), debug(dr6::BS));
}

#[test]
fn interrupts_that_fault_become_exceptions() {
    let mut m = machine();
    m.gate(0x55, 0, crate::testing::access::INT, 0);
    m.board.interrupt(0x55);
    assert_eq!(
        m.v.boundary(),
        Boundary::Delivered(Exception::gp(1)),
        "EXT, and no double fault"
    );
    let mut m = machine();
    m.v.st.idtr.limit = 0;
    m.board.interrupt(0x55);
    assert_eq!(m.v.boundary(), Boundary::Shutdown);
    assert!(m.shut_down());
}

#[test]
fn single_step_traps_after_the_instruction_that_began_with_tf() {
    let mut m = machine();
    m.v.st.rflags |= TF;
    assert!(m.v.needs_step());
    nop(&mut m);
    assert_eq!(m.v.boundary(), debug(dr6::BS));
    assert_eq!(
        m.frame::<3>(STACK - 12, 4),
        [START + 1, u64::from(sel::C0), FIXED | IF | TF]
    );
    assert_eq!(m.v.st.dr6, 0xffff_0ff0 | dr6::BS);
    assert_eq!(m.v.rflags() & TF, 0);

    // POPF that sets TF doesn't trap itself, one that clears it does.
    for (before, after, traps) in [(0, TF, false), (TF, 0, true)] {
        let mut m = machine();
        m.v.st.rflags |= before;
        let step = m.v.begin_instruction().expect("no breakpoint");
        m.v.set_rflags(FIXED | after);
        m.v.after_instruction(step);
        assert_eq!(m.v.pending_debug & dr6::BS != 0, traps);
    }
}

#[test]
fn single_step_with_btf_stops_at_branches() {
    for (branch, traps) in [(false, false), (true, true)] {
        let mut m = machine();
        m.v.st.rflags |= TF;
        m.v.st.msr.debugctl = dr6::DEBUGCTL_BTF;
        let step = m.v.begin_instruction().expect("no breakpoint");
        m.v.next_ip = START + 2;
        m.v.st.rip = if branch { START + 0x40 } else { START + 2 };
        m.v.after_instruction(step);
        assert_eq!(m.v.pending_debug & dr6::BS != 0, traps);
    }
}

#[test]
fn instructions_that_enter_a_handler_make_no_step_trap() {
    let mut m = Machine::protected(0);
    m.v.st.rflags |= TF;
    let step = m.v.begin_instruction().expect("no breakpoint");
    crate::delivery::soft_int(&mut m.v, 0x40, 2, 0).expect("the gate is good");
    m.v.after_instruction(step);
    assert_eq!(m.v.boundary(), Boundary::Run);

    let mut m = Machine::long(3, true);
    m.v.st.efer |= efer::SCE;
    m.v.st.msr.fmask = TF;
    m.v.st.rflags |= TF;
    let step = m.v.begin_instruction().expect("no breakpoint");
    syscall(&mut m.v, 0, 2, 0).expect("SCE is set");
    m.v.after_instruction(step);
    assert_eq!(m.v.boundary(), Boundary::Run);
}

#[test]
fn code_breakpoints_are_faults_that_rf_masks_once() {
    let mut m = machine();
    m.v.st.dr[2] = START;
    m.v.st.dr7 = 0x400 | 3 << 4;
    assert!(m.v.needs_step());
    let e = m.v.begin_instruction().expect_err("a breakpoint");
    assert_eq!(e, Exception::debug(4));
    m.v.raise(e).expect("the gate is good");
    // RF isn't set for the handler to see: it sets it in the image so that IRET goes on.
    assert_eq!(
        m.frame::<3>(STACK - 12, 4),
        [START, u64::from(sel::C0), FIXED | IF]
    );
    assert_eq!(m.v.st.dr6 & 0xf, 4);
    m.write(STACK - 4, 4, FIXED | IF | RF);
    let step =
        m.v.begin_instruction()
            .expect("the handler has no breakpoint");
    iret(&mut m.v, 0, 0, 4).expect("the frame is good");
    m.v.after_instruction(step);
    assert_eq!(m.v.rflags() & RF, RF, "RF outlives the IRET that loads it");
    assert_eq!(m.v.boundary(), Boundary::Run);
    nop(&mut m);
    assert_eq!(m.v.rflags() & RF, 0, "and ends with the next instruction");
    m.v.st.rip = START;
    assert_eq!(
        m.v.begin_instruction().expect_err("a breakpoint"),
        Exception::debug(4)
    );
    // Disabled, or for data.
    for dr7 in [0x400, 0x400 | 3 << 4 | 1 << 24] {
        m.v.st.dr7 = dr7;
        assert!(m.v.begin_instruction().is_ok());
    }
}

#[test]
fn code_breakpoints_are_linear_addresses() {
    let mut m = Machine::real();
    m.v.st.rip = 0x1234;
    m.v.st.dr[0] = 0x1_1234;
    m.v.st.dr7 = 0x401;
    assert!(m.v.begin_instruction().is_err());
    m.v.st.dr[0] = 0x1234;
    assert!(m.v.begin_instruction().is_ok());
}

#[test]
fn data_breakpoints_trap_after_the_instruction() {
    let mut m = machine();
    m.v.st.dr[1] = 0x9000;
    m.v.st.dr7 = 0x400 | 1 << 2 | 1 << 20;
    m.v.sync_watches();
    let step = m.v.begin_instruction().expect("no code breakpoint");
    m.v.write(0x9000, 1, 5).expect("RAM");
    m.v.st.rip += 2;
    m.v.after_instruction(step);
    assert_eq!(m.v.boundary(), debug(2));
    assert_eq!(m.read(STACK - 12, 4), START + 2);
    // A fault drops what the instruction had touched.
    let mut m = machine();
    m.v.st.dr[1] = 0x9000;
    m.v.st.dr7 = 0x400 | 1 << 2 | 1 << 20;
    m.v.sync_watches();
    m.v.write(0x9000, 1, 5).expect("RAM");
    m.v.raise(Exception::GP0).expect("the gate is good");
    assert_eq!(m.v.boundary(), Boundary::Run);
}

#[test]
fn interrupts_within_a_repeated_instruction_push_rf() {
    for pending in [true, false] {
        let mut m = machine();
        if pending {
            m.board.interrupt(0x55);
        }
        m.v.interrupt_repeat();
        if pending {
            assert_eq!(m.v.boundary(), delivered(0x55));
            assert_eq!(
                m.frame::<3>(STACK - 12, 4),
                [START, u64::from(sel::C0), FIXED | IF | RF]
            );
        } else {
            assert_eq!(m.v.boundary(), Boundary::Run);
        }
        assert_eq!(m.v.rflags() & RF, 0);
        assert!(!m.v.needs_step());
    }
    // Single step: each iteration traps with RF.
    let mut m = machine();
    m.v.st.rflags |= TF;
    let step = m.v.begin_instruction().expect("no breakpoint");
    m.v.interrupt_repeat();
    m.v.after_instruction(step);
    assert_eq!(m.v.boundary(), debug(dr6::BS));
    assert_eq!(m.read(STACK - 4, 4), FIXED | IF | TF | RF);
    // RF that was set before stays to the end.
    let mut m = machine();
    m.v.st.rflags |= RF;
    let step = m.v.begin_instruction().expect("no breakpoint");
    m.v.interrupt_repeat();
    m.v.after_instruction(step);
    assert_eq!((m.v.boundary(), m.v.rflags() & RF), (Boundary::Run, RF));
}

#[test]
fn init_keeps_what_reset_does_not() {
    for index in [0, 1] {
        let mut m = Machine::reset(index);
        m.v.st.activity = Activity::Active;
        m.v.st.cr0 = cr0::PE | cr0::CD | cr0::ET | cr0::TS;
        m.v.st.cr2 = 5;
        m.v.st.gpr = [7; 16];
        m.v.st.vec[3] = [9; 64];
        m.v.st.fpu.fcw = 0x27f;
        m.v.st.mxcsr = 0x1fa0;
        m.v.st.msr.star = 0x1234;
        m.v.st.nmi_blocked = true;
        m.events.raise(event::INIT);
        let next = m.v.boundary();
        assert_eq!(m.v.st.cr0, cr0::CD | cr0::ET);
        assert_eq!(
            (m.v.st.rip, m.v.seg(Seg::Cs).base, m.v.st.cr2),
            (0xfff0, 0xffff_0000, 0)
        );
        assert_eq!(
            m.v.st.gpr[Gpr::Rdx as usize],
            u64::from(m.v.model.signature())
        );
        assert_eq!(
            (
                m.v.st.gpr[0],
                m.v.st.vec[3][0],
                m.v.st.fpu.fcw,
                m.v.st.mxcsr
            ),
            (0, 9, 0x27f, 0x1fa0)
        );
        assert_eq!(
            (m.v.st.msr.star, m.v.st.nmi_blocked, *m.board.inits.lock()),
            (0x1234, false, 1)
        );
        assert_eq!(
            next,
            if index == 0 {
                Boundary::Run
            } else {
                Boundary::WaitForSipi
            }
        );
    }
}

#[test]
fn application_processors_wait_for_their_start_up_ipi() {
    let mut m = Machine::reset(1);
    assert_eq!(m.v.boundary(), Boundary::WaitForSipi);
    assert_eq!(m.v.wake_mask(), event::STOP | event::INIT | event::SIPI);
    m.events.raise(event::NMI);
    assert_eq!(m.v.boundary(), Boundary::WaitForSipi);
    m.events.raise_sipi(0x9a);
    assert_eq!(m.v.boundary(), Boundary::Run);
    assert!(m.at(0x9a00, 0));
    assert_eq!(
        (m.v.seg(Seg::Cs).base, m.v.seg(Seg::Cs).limit),
        (0x9_a000, 0xffff)
    );
    // A second one finds nobody waiting.
    m.events.take(event::NMI);
    m.v.st.rip = 0x10;
    m.events.raise_sipi(0x80);
    assert_eq!((m.v.boundary(), m.events.pending()), (Boundary::Run, 0));
    assert!(m.at(0x9a00, 0x10));
    // INIT and SIPI that came together.
    m.events.raise(event::INIT);
    m.events.raise_sipi(0x70);
    assert_eq!(m.v.boundary(), Boundary::WaitForSipi);
    assert_eq!(m.v.boundary(), Boundary::Run);
    assert!(m.at(0x7000, 0));
}
