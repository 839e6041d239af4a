//! Real mode: the IVT, 16-bit frames without error codes.

use x86::flags::{AC, IF, RF, TF};
use x86::{Exception, Seg};

use super::{SEEN, fails, hardware, int, with_flags};
use crate::testing::{Machine, STACK, START};

#[test]
fn real_mode_pushes_three_words_and_no_error_code() {
    for error in [None, Some(7)] {
        let mut m = with_flags(Machine::real());
        m.v.st.rflags |= AC;
        hardware(&mut m, 0x21, error).expect("the IVT is there");
        assert_eq!(m.v.st.gpr[4], STACK - 6);
        assert_eq!(m.frame::<3>(STACK - 6, 2), [START & 0xffff, 0x1000, SEEN]);
        assert!(m.at(0xf000, 0x210));
        assert_eq!(m.v.seg(Seg::Cs).base, 0xf_0000);
        assert_eq!(m.v.rflags(), SEEN & !(TF | IF | RF));
    }
}

#[test]
fn real_mode_int_n_returns_behind_itself() {
    let mut m = Machine::real();
    int(&mut m, 0x21).expect("the IVT is there");
    assert_eq!(m.read(STACK - 6, 2), 0x1236);
}

#[test]
fn vectors_beyond_the_ivt_limit_are_gp() {
    let build = || {
        let mut m = Machine::real();
        m.v.st.idtr.limit = 0x21 * 4 + 2;
        m
    };
    fails(&build, "IVT limit", 0x21, Exception::gp(0x21 * 8 + 2));
    let mut m = build();
    m.v.st.idtr.limit += 1;
    assert_eq!(hardware(&mut m, 0x21, None), Ok(()));
}

#[test]
fn ivt_follows_idtr() {
    let mut m = Machine::real();
    m.v.st.idtr.base = 0x5000;
    m.write(0x5000 + 4 * 6, 4, 0x1234_5678);
    hardware(&mut m, 6, None).expect("the IVT is there");
    assert!(m.at(0x1234, 0x5678));
}

#[test]
fn a_full_stack_is_ss_and_sp_wraps_between_words() {
    let build = || {
        let mut m = Machine::real();
        m.v.st.gpr[4] = 3;
        m
    };
    fails(&build, "word across FFFFh", 0x21, Exception::SS0);
    let mut m = Machine::real();
    m.v.st.gpr[4] = 2;
    hardware(&mut m, 0x21, None).expect("SP wraps");
    assert_eq!(
        (m.v.st.gpr[4], m.read(0xfffc, 2), m.read(0xfffe, 2)),
        (0xfffc, START & 0xffff, 0x1000)
    );
}
