//! SYSCALL, SYSRET, SYSENTER, SYSEXIT by mode.

use x86::flags::{CF, FIXED, IF, NT, RF, TF, VM};
use x86::{Exception, Gpr, Seg, Segment, attr, efer};

use super::fails;
use crate::boundary::{NO_STEP, dr6};
use crate::far::{syscall, sysenter, sysexit, sysret};
use crate::testing::{Machine, STACK, START};

const TARGET: u64 = 0xffff_8000_0000_1000;
const FLAT_CODE: u32 = 0xb | attr::S | attr::P | attr::G;
const FLAT_DATA: u32 = 0x3 | attr::S | attr::P | attr::G | attr::DB;

/// A machine with a name.
type Named = (&'static str, fn() -> Machine);

fn with_msrs(mut m: Machine) -> Machine {
    m.v.st.msr.star = 0x0023_0010 << 32;
    m.v.st.msr.lstar = TARGET;
    m.v.st.msr.cstar = 0x1111;
    m.v.st.msr.fmask = IF | TF | NT;
    m.v.st.msr.sysenter_cs = 0x10;
    m.v.st.msr.sysenter_esp = 0xffff_8000_0000_9000;
    m.v.st.msr.sysenter_eip = TARGET;
    m
}

fn flat(segment: &Segment, selector: u16, attr: u32) -> bool {
    *segment
        == Segment {
            base: 0,
            limit: u32::MAX,
            attr,
            selector,
        }
}

#[test]
fn syscall_enters_level_0_in_64_bit_mode() {
    for cpl in [0, 3] {
        let mut m = with_msrs(Machine::long(cpl, true));
        m.v.st.rflags = FIXED | CF | IF | TF | NT;
        syscall(&mut m.v, 0, 2, 0).expect("SCE is set");
        assert!(m.at(0x10, TARGET));
        assert!(flat(m.v.seg(Seg::Cs), 0x10, FLAT_CODE | attr::L));
        assert!(flat(m.v.seg(Seg::Ss), 0x18, FLAT_DATA));
        assert_eq!(m.v.st.gpr[Gpr::Rcx as usize], START + 2);
        assert_eq!(m.v.st.gpr[Gpr::R11 as usize], FIXED | CF | IF | TF | NT);
        assert_eq!((m.v.rflags(), m.v.st.gpr[4]), (FIXED | CF, STACK));
        assert_eq!((m.v.st.cpl(), m.v.mmu.state().cpl), (0, 0));
        assert_eq!(
            m.v.pending_debug, NO_STEP,
            "IA32_FMASK takes TF before it traps"
        );
    }
}

#[test]
fn syscall_and_sysret_are_undefined_outside_64_bit_mode() {
    let builds: [Named; 5] = [
        ("compatibility mode, level 3", || Machine::long(3, false)),
        ("compatibility mode, level 0", || Machine::long(0, false)),
        ("protected mode", || Machine::protected(0)),
        ("real mode", Machine::real),
        ("SCE clear", || {
            let mut m = Machine::long(0, true);
            m.v.st.efer &= !efer::SCE;
            m
        }),
    ];
    for (what, build) in builds {
        let build = || with_msrs(build());
        fails(&build, what, syscall, [0; 3], Exception::UD);
        fails(&build, what, sysret, [0, 0, 8], Exception::UD);
        fails(&build, what, sysret, [0, 0, 4], Exception::UD);
    }
}

#[test]
fn sysret_returns_to_level_3_in_either_mode() {
    for (size, cs, attr, rip) in [
        (8, 0x33, FLAT_CODE | attr::L | attr::DPL, 0x7fff_1234_5678),
        (4, 0x23, FLAT_CODE | attr::DB | attr::DPL, 0x1234_5678),
    ] {
        let mut m = with_msrs(Machine::long(0, true));
        m.v.st.gpr[Gpr::Rcx as usize] = 0x7fff_1234_5678;
        m.v.st.gpr[Gpr::R11 as usize] = FIXED | IF | RF | VM | CF;
        sysret(&mut m.v, 0, 0, size).expect("level 0");
        assert!(m.at(cs, rip));
        assert!(flat(m.v.seg(Seg::Cs), cs, attr));
        assert!(flat(m.v.seg(Seg::Ss), 0x2b, FLAT_DATA | attr::DPL));
        assert_eq!(
            (m.v.rflags(), m.v.st.cpl(), m.v.mmu.state().cpl),
            (FIXED | IF | CF, 3, 3)
        );
    }
}

#[test]
fn sysret_traps_at_once_when_it_sets_tf() {
    let mut m = with_msrs(Machine::long(0, true));
    m.v.st.gpr[Gpr::R11 as usize] = FIXED | TF;
    sysret(&mut m.v, 0, 0, 8).expect("level 0");
    assert_eq!(m.v.pending_debug, dr6::BS);
}

#[test]
fn sysret_faults_at_level_0() {
    let non_canonical = || {
        let mut m = with_msrs(Machine::long(0, true));
        m.v.st.gpr[Gpr::Rcx as usize] = 1 << 47;
        m
    };
    fails(
        &non_canonical,
        "non-canonical RCX",
        sysret,
        [0, 0, 8],
        Exception::GP0,
    );
    assert_eq!(non_canonical().v.st.cpl(), 0);
    let mut m = non_canonical();
    assert_eq!(
        sysret(&mut m.v, 0, 0, 4),
        Ok(0),
        "the 32-bit form takes ECX"
    );
    fails(
        &|| with_msrs(Machine::long(3, true)),
        "level 3",
        sysret,
        [0, 0, 8],
        Exception::GP0,
    );
}

#[test]
fn sysenter_works_from_all_protected_modes() {
    type Case = (&'static str, fn() -> Machine, bool);
    let cases: [Case; 5] = [
        ("64-bit mode", || Machine::long(3, true), true),
        ("compatibility mode", || Machine::long(3, false), true),
        ("protected mode", || Machine::protected(3), false),
        ("protected mode, level 0", || Machine::protected(0), false),
        ("VM86", || Machine::vm86(0), false),
    ];
    for (what, build, long) in cases {
        let mut m = with_msrs(build());
        m.v.st.rflags |= IF | CF | TF;
        sysenter(&mut m.v, 0, 0, 0).expect(what);
        let width = if long { u64::MAX } else { 0xffff_ffff };
        let size = if long { attr::L } else { attr::DB };
        assert!(m.at(0x10, TARGET & width), "{what}");
        assert!(flat(m.v.seg(Seg::Cs), 0x10, FLAT_CODE | size), "{what}");
        assert!(flat(m.v.seg(Seg::Ss), 0x18, FLAT_DATA), "{what}");
        assert_eq!(m.v.st.gpr[4], 0xffff_8000_0000_9000 & width);
        assert_eq!(
            m.v.rflags() & (IF | VM | CF | TF),
            CF | TF,
            "TF stays and traps in the kernel"
        );
        assert_eq!((m.v.st.cpl(), m.v.mmu.state().cpl), (0, 0));
    }
}

#[test]
fn sysenter_and_sysexit_want_their_msr_and_protected_mode() {
    for (what, build, cs) in [
        ("real mode", Machine::real as fn() -> Machine, 0x10),
        ("null CS", || Machine::protected(0), 3),
        ("null CS in long mode", || Machine::long(0, true), 0x1_0000),
    ] {
        let build = || {
            let mut m = with_msrs(build());
            m.v.st.msr.sysenter_cs = cs;
            m
        };
        fails(&build, what, sysenter, [0; 3], Exception::GP0);
        fails(&build, what, sysexit, [0, 0, 4], Exception::GP0);
    }
    fails(
        &|| with_msrs(Machine::protected(3)),
        "level 3",
        sysexit,
        [0, 0, 4],
        Exception::GP0,
    );
    fails(
        &|| with_msrs(Machine::vm86(3)),
        "VM86",
        sysexit,
        [0, 0, 4],
        Exception::GP0,
    );
}

#[test]
fn sysexit_returns_to_level_3_in_either_mode() {
    for (build, size, cs, code) in [
        (
            (|| Machine::protected(0)) as fn() -> Machine,
            4,
            0x23,
            attr::DB,
        ),
        (|| Machine::long(0, true), 4, 0x23, attr::DB),
        (|| Machine::long(0, true), 8, 0x33, attr::L),
        (|| Machine::long(0, false), 4, 0x23, attr::DB),
    ] {
        let mut m = with_msrs(build());
        m.v.st.gpr[Gpr::Rcx as usize] = 0x7fff_0000_8000;
        m.v.st.gpr[Gpr::Rdx as usize] = 0x7fff_0000_1234;
        sysexit(&mut m.v, 0, 0, size).expect("level 0");
        let width = if size == 8 { u64::MAX } else { 0xffff_ffff };
        assert!(m.at(cs, 0x7fff_0000_1234 & width));
        assert_eq!(m.v.st.gpr[4], 0x7fff_0000_8000 & width);
        assert!(flat(m.v.seg(Seg::Cs), cs, FLAT_CODE | code | attr::DPL));
        assert!(flat(m.v.seg(Seg::Ss), cs + 8, FLAT_DATA | attr::DPL));
        assert_eq!((m.v.st.cpl(), m.v.mmu.state().cpl), (3, 3));
    }
    for register in [Gpr::Rcx, Gpr::Rdx] {
        let build = || {
            let mut m = with_msrs(Machine::long(0, true));
            m.v.st.gpr[register as usize] = 1 << 47;
            m
        };
        fails(&build, "non-canonical", sysexit, [0, 0, 8], Exception::GP0);
    }
}
