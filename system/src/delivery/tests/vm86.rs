//! Virtual-8086 mode: entry into level 0, IOPL, redirection of INT n (VME).

use x86::flags::{FIXED, IF, IOPL, TF, VIF, VM};
use x86::{Exception, Seg, attr, cr4};

use super::{SEEN, fails, hardware, int, with_flags};
use crate::testing::{HANDLER, Machine, STACK, STACK0, START, TSS, access, sel};

#[test]
fn leaving_vm86_pushes_all_segments_and_nulls_four() {
    for (kind, size) in [(access::INT, 4), (access::TRAP, 4), (access::INT16, 2)] {
        let mut m = with_flags(Machine::vm86(3));
        m.gate(0x21, sel::C0, kind, 3);
        let flags = m.v.rflags();
        int(&mut m, 0x21).expect("IOPL is 3");
        let at = STACK0 - 9 * size;
        assert_eq!(m.v.st.gpr[4], at);
        let mask = if size == 2 { 0xffff } else { u64::MAX };
        // EIP CS EFLAGS ESP SS ES DS FS GS.
        let expected = [
            0x1236,
            0x200,
            flags & mask,
            STACK,
            0x300,
            0x100,
            0x400,
            0x500,
            0x600,
        ];
        assert_eq!(m.frame::<9>(at, size as usize), expected);
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            assert!(m.v.seg(seg).has(attr::UNUSABLE));
            assert_eq!(m.v.seg(seg).selector, 0);
        }
        assert_eq!((m.v.seg(Seg::Ss).selector, m.v.st.cpl()), (sel::D0, 0));
        assert!(m.at(sel::C0, (HANDLER + 0x21) & mask));
        let kept = if kind & 1 != 0 { SEEN } else { SEEN & !IF };
        assert_eq!(m.v.rflags() & !IOPL, kept & !(TF | x86::flags::NT));
    }
}

#[test]
fn error_codes_come_last() {
    let mut m = Machine::vm86(0);
    hardware(&mut m, 13, Some(0x55)).expect("the gate is good");
    assert_eq!(m.frame::<2>(STACK0 - 40, 4), [0x55, START]);
}

#[test]
fn iopl_below_3_refuses_int_n_but_not_int3_or_faults() {
    for iopl in 0..4 {
        let mut m = Machine::vm86(iopl);
        for vector in [0x21, 3, 4, 1] {
            m.gate(vector, sel::C0, access::INT, 3);
        }
        let before = m.snapshot();
        let got = int(&mut m, 0x21);
        if iopl == 3 {
            assert_eq!(got, Ok(()));
        } else {
            assert_eq!(got, Err(Exception::GP0));
            assert_eq!(m.snapshot(), before);
        }
        for (vector, kind) in [(3, 1), (4, 1), (1, 2)] {
            let mut m = Machine::vm86(iopl);
            m.gate(vector, sel::C0, access::INT, 3);
            super::soft_int(&mut m.v, u64::from(vector), 1, kind).expect("IOPL has no say");
            assert_eq!(m.v.st.cpl(), 0);
        }
        let mut m = Machine::vm86(iopl);
        assert_eq!(hardware(&mut m, 6, None), Ok(()));
    }
}

#[test]
fn gate_dpl_counts_in_vm86_with_iopl_3() {
    let mut m = Machine::vm86(3);
    assert_eq!(int(&mut m, 0x21), Err(Exception::gp(0x21 * 8 + 2)));
}

#[test]
fn handlers_of_vm86_must_be_nonconforming_level_0() {
    for target in [sel::C1, sel::C2, sel::C3, sel::CONF0, sel::CONF3] {
        let build = || {
            let mut m = Machine::vm86(3);
            m.gate(0x21, target, access::INT, 3);
            m
        };
        fails(
            &build,
            "VM86 to another level",
            0x21,
            Exception::gp(u32::from(target & !3)),
        );
    }
}

fn vme(iopl: u8, intercepted: bool) -> Machine {
    let mut m = Machine::vm86(iopl);
    m.v.st.cr4 = cr4::VME;
    m.gate(0x21, sel::C0, access::INT, 3);
    m.write(0x21 * 4, 4, 0x5678_1234);
    // 32 bytes below the I/O bitmap's offset.
    m.write(
        TSS + 0x68 + 0x21 / 8,
        1,
        if intercepted { 1 << (0x21 & 7) } else { 0 },
    );
    m
}

#[test]
fn vme_redirects_int_n_to_the_programs_own_handler() {
    // IOPL, IF and VIF before; IF in the pushed image; IF and VIF after.
    for (iopl, flag, vif, pushed, flag_after, vif_after) in [
        (3, true, false, true, false, false),
        (3, false, true, false, false, true),
        (0, true, false, false, true, false),
        (0, true, true, true, true, false),
        (1, false, true, true, false, false),
    ] {
        let mut m = vme(iopl, false);
        let bit = |on: bool, flag: u64| if on { flag } else { 0 };
        m.v.st.rflags |= bit(flag, IF) | bit(vif, VIF) | TF;
        int(&mut m, 0x21).expect("the bitmap redirects");
        assert_eq!(m.v.st.gpr[4], STACK - 6);
        assert_eq!(
            m.frame::<3>(0x3000 + STACK - 6, 2),
            [0x1236, 0x200, FIXED | TF | IOPL | bit(pushed, IF)]
        );
        assert!(m.at(0x5678, 0x1234));
        let after = FIXED | VM | u64::from(iopl) << 12 | bit(flag_after, IF) | bit(vif_after, VIF);
        assert_eq!(m.v.rflags(), after, "IOPL {iopl}");
    }
}

#[test]
fn vme_bitmap_can_leave_int_n_to_the_monitor() {
    let mut m = vme(3, true);
    int(&mut m, 0x21).expect("IOPL is 3");
    assert!(m.at(sel::C0, HANDLER + 0x21));
    let mut m = vme(2, true);
    assert_eq!(int(&mut m, 0x21), Err(Exception::GP0));
    // A bitmap beyond the TSS's limit, and a TSS without one.
    let mut m = vme(3, false);
    m.v.st.tr.limit = 0x68 + 0x21 / 8 - 1;
    assert_eq!(int(&mut m, 0x21), Err(Exception::GP0));
    m.v.st.tr.limit = 0x66;
    assert_eq!(int(&mut m, 0x21), Err(Exception::GP0));
}
