//! String instructions against a loop over elements, and each rule of REP.

use ir::{Rep, StringKind, StringOp, Width};
use x86::flags::{CF, DF, PF, SF, TF, ZF};
use x86::{Exception, Gpr, Seg, vector};

use super::{StringOutcome, string};
use crate::testing::{Machine, TSS, sel};
use crate::{Vcpu, event};

const DONE: Result<StringOutcome, Exception> = Ok(StringOutcome::Done);
const AGAIN: Result<StringOutcome, Exception> = Ok(StringOutcome::Again);
/// Free RAM.
const A: u64 = 0x20_0000;
const B: u64 = 0x24_0000;

fn op(kind: StringKind, rep: Rep, width: Width) -> StringOp {
    StringOp {
        kind,
        rep,
        width,
        addr: Width::B32,
        seg: Seg::Ds as u8,
        len: 2,
    }
}

fn set(v: &mut Vcpu, rcx: u64, rsi: u64, rdi: u64) {
    v.st.gpr[Gpr::Rcx as usize] = rcx;
    v.st.gpr[Gpr::Rsi as usize] = rsi;
    v.st.gpr[Gpr::Rdi as usize] = rdi;
}

/// RCX, RSI, RDI.
fn pointers(v: &Vcpu) -> [u64; 3] {
    [Gpr::Rcx, Gpr::Rsi, Gpr::Rdi].map(|r| v.st.gpr[r as usize])
}

fn bytes(m: &Machine, at: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| m.read(at + i, 1) as u8).collect()
}

fn pattern(m: &mut Machine, at: u64, len: u64) {
    for i in 0..len {
        m.write(at + i, 1, (i * 7 + i / 256) & 0xff);
    }
}

/// Runs until it is done; returns how often it was begun.
fn complete(m: &mut Machine, op: StringOp) -> usize {
    for n in 1..1000 {
        if string(&mut m.v, op).expect("no fault") == StringOutcome::Done {
            return n;
        }
    }
    panic!("it doesn't end");
}

#[test]
fn moves_agree_with_a_loop() {
    let mut seed = 0x1234_5678_u64;
    let mut random = move |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut m = Machine::protected(0);
    for case in 0..200 {
        let width = Width::ALL[random(3) as usize];
        let size = u64::from(width.bytes());
        let count = random(3000);
        let backward = random(2) == 1;
        pattern(&mut m, A, 0x8000);
        // Overlaps of all distances, across pages.
        let from = A + 0x3000 + random(64);
        let to =
            from + [random(17), 4096 - random(9), random(8000), 0][random(4) as usize] - random(16);
        let mut model = bytes(&m, A - 0x4000, 0x10000);
        let at = |lin: u64| (lin - (A - 0x4000)) as usize;
        let (mut s, mut d) = (from, to);
        for _ in 0..count {
            // One element is read whole before it is written.
            let element: Vec<u8> = (0..size).map(|i| model[at(s + i)]).collect();
            for (i, byte) in element.into_iter().enumerate() {
                model[at(d) + i] = byte;
            }
            (s, d) = if backward {
                (s - size, d - size)
            } else {
                (s + size, d + size)
            };
        }
        m.v.st.rflags = 2 | if backward { DF } else { 0 };
        set(&mut m.v, count, from, to);
        complete(&mut m, op(StringKind::Movs, Rep::Rep, width));
        assert_eq!(pointers(&m.v), [0, s, d], "case {case}");
        assert!(
            bytes(&m, A - 0x4000, 0x10000) == model,
            "case {case}: {from:#x} to {to:#x}, {count} {width:?}"
        );
    }
}

#[test]
fn one_element_moves_all_pointers_once() {
    let mut m = Machine::protected(0);
    m.write(A, 4, 0x4433_2211);
    m.v.st.gpr[0] = 0x9999_9999;
    set(&mut m.v, 77, A, B);
    assert_eq!(
        string(&mut m.v, op(StringKind::Movs, Rep::None, Width::B32)),
        DONE
    );
    assert_eq!(
        (m.read(B, 4), pointers(&m.v)),
        (0x4433_2211, [77, A + 4, B + 4])
    );
    m.v.st.rflags |= DF;
    set(&mut m.v, 77, A, B + 2);
    assert_eq!(
        string(&mut m.v, op(StringKind::Lods, Rep::None, Width::B16)),
        DONE
    );
    assert_eq!(
        (m.v.st.gpr[0], pointers(&m.v)),
        (0x9999_2211, [77, A - 2, B + 2])
    );
    assert_eq!(
        string(&mut m.v, op(StringKind::Stos, Rep::None, Width::B8)),
        DONE
    );
    assert_eq!(
        (m.read(B + 2, 1), pointers(&m.v)),
        (0x11, [77, A - 2, B + 1])
    );
}

#[test]
fn a_count_of_zero_does_nothing() {
    let mut m = Machine::long(0, true);
    for kind in [
        StringKind::Movs,
        StringKind::Cmps,
        StringKind::Stos,
        StringKind::Lods,
        StringKind::Scas,
    ] {
        for rep in [Rep::Rep, Rep::Repne] {
            // With 32-bit addresses the count is ECX.
            set(&mut m.v, 0xffff_ffff_0000_0000, 1 << 63, 1 << 63);
            let before = m.snapshot();
            assert_eq!(string(&mut m.v, op(kind, rep, Width::B64)), DONE);
            assert!(m.snapshot() == before, "{kind:?}");
        }
    }
}

#[test]
fn fills_cross_pages() {
    let mut m = Machine::protected(0);
    m.v.st.gpr[0] = 0xaabb_ccdd;
    set(&mut m.v, 5000, 0, A + 1);
    assert_eq!(
        complete(&mut m, op(StringKind::Stos, Rep::Rep, Width::B32)),
        1
    );
    assert_eq!(pointers(&m.v), [0, 0, A + 1 + 20_000]);
    assert_eq!(m.read(A, 1), 0);
    for i in 0..5000 {
        assert_eq!(m.read(A + 1 + i * 4, 4), 0xaabb_ccdd, "{i}");
    }
    assert_eq!(m.read(A + 20_001, 1), 0);
}

#[test]
fn loads_keep_the_last_element() {
    let mut m = Machine::long(0, true);
    pattern(&mut m, A, 0x3000);
    m.v.st.gpr[0] = u64::MAX;
    set(&mut m.v, 0x2001, A, 0);
    complete(&mut m, op(StringKind::Lods, Rep::Rep, Width::B8));
    assert_eq!(m.v.st.gpr[0], !0xff | m.read(A + 0x2000, 1));
    set(&mut m.v, 3, A, 0);
    complete(&mut m, op(StringKind::Lods, Rep::Rep, Width::B32));
    assert_eq!(
        m.v.st.gpr[0],
        m.read(A + 8, 4),
        "32 bits clear the upper half"
    );
}

#[test]
fn comparisons_stop_where_they_should() {
    let mut m = Machine::protected(0);
    for (rep, different, at) in [
        (Rep::Rep, true, 5000),
        (Rep::Rep, true, 0),
        (Rep::Rep, false, 0),
        (Rep::Repne, true, 4095),
    ] {
        for i in 0..0x2000 {
            let (a, b) = (
                i % 251,
                if rep == Rep::Repne {
                    (i + 1) % 251
                } else {
                    i % 251
                },
            );
            m.write(A + i, 1, a);
            m.write(B + i, 1, b);
        }
        if different {
            let value = m.read(A + at, 1);
            m.write(
                B + at,
                1,
                if rep == Rep::Repne {
                    value
                } else {
                    (value + 1) & 0xff
                },
            );
        }
        set(&mut m.v, 0x2000, A, B);
        complete(&mut m, op(StringKind::Cmps, rep, Width::B8));
        let done = if different { at + 1 } else { 0x2000 };
        assert_eq!(
            pointers(&m.v),
            [0x2000 - done, A + done, B + done],
            "{rep:?} {at}"
        );
        let equal = rep == Rep::Repne || !different;
        assert_eq!(m.v.status() & ZF != 0, equal);
        if !equal {
            assert_eq!(m.v.status() & (CF | SF), CF | SF, "a byte below the other");
        }
    }
}

#[test]
fn scans_compare_the_accumulator() {
    let mut m = Machine::protected(0);
    m.write(A + 0x1ffe, 2, 0x1234);
    m.v.st.gpr[0] = 0xffff_1234;
    set(&mut m.v, u64::from(u32::MAX), 0, A);
    complete(&mut m, op(StringKind::Scas, Rep::Repne, Width::B16));
    assert_eq!(pointers(&m.v), [0xffff_ffff - 0x1000, 0, A + 0x2000]);
    assert_eq!(m.v.status(), ZF | PF);
    m.v.st.gpr[0] = 0;
    set(&mut m.v, 10, 0, A + 0x1ffa);
    complete(&mut m, op(StringKind::Scas, Rep::Rep, Width::B16));
    assert_eq!(pointers(&m.v), [7, 0, A + 0x2000]);
    assert_eq!(m.v.status() & (CF | ZF), CF, "0 - 1234h");
}

#[test]
fn a_fault_leaves_what_was_done() {
    let mut m = Machine::protected(0);
    m.enable_paging();
    pattern(&mut m, A, 0x3000);
    m.page(B + 0x1000, 6);
    set(&mut m.v, 0x2000, A, B);
    let e = string(&mut m.v, op(StringKind::Movs, Rep::Rep, Width::B8))
        .expect_err("the second page isn't there");
    assert_eq!(
        (e.vector, e.cr2, e.error),
        (vector::PF, Some(B + 0x1000), Some(2))
    );
    assert_eq!(pointers(&m.v), [0x1000, A + 0x1000, B + 0x1000]);
    assert!(bytes(&m, B, 0x1000) == bytes(&m, A, 0x1000));
    m.page(B + 0x1000, 7);
    assert_eq!(
        complete(&mut m, op(StringKind::Movs, Rep::Rep, Width::B8)),
        1
    );
    assert!(bytes(&m, B, 0x2000) == bytes(&m, A, 0x2000));

    // Comparisons get their old flags back.
    m.page(B + 0x1000, 6);
    m.v.set_status(x86::flags::STATUS, CF | SF);
    set(&mut m.v, 0x2000, A, B);
    assert!(string(&mut m.v, op(StringKind::Cmps, Rep::Rep, Width::B8)).is_err());
    assert_eq!(m.v.status(), CF | SF);
    assert_eq!(pointers(&m.v), [0x1000, A + 0x1000, B + 0x1000]);
}

#[test]
fn an_element_across_pages_is_written_whole_or_not() {
    let mut m = Machine::protected(0);
    m.enable_paging();
    m.page(B + 0x1000, 6);
    m.v.st.gpr[0] = 0xffff_ffff;
    set(&mut m.v, 2, 0, B + 0xffa);
    let e = string(&mut m.v, op(StringKind::Stos, Rep::Rep, Width::B32)).expect_err("it crosses");
    assert_eq!(e.cr2, Some(B + 0x1000));
    assert_eq!(pointers(&m.v), [1, 0, B + 0xffe]);
    assert_eq!(m.read(B + 0xffa, 6), 0xffff_ffff);
}

#[test]
fn events_and_traps_interrupt() {
    let mut m = Machine::protected(0);
    let movs = op(StringKind::Movs, Rep::Rep, Width::B8);
    set(&mut m.v, 0x3000, A, B);
    m.events.raise(event::INTR);
    m.v.event_mask = !event::INTR;
    assert_eq!(string(&mut m.v, movs), DONE, "an event that can't be taken");
    m.v.event_mask = u32::MAX;
    set(&mut m.v, 0x3000, A, B);
    assert_eq!(string(&mut m.v, movs), AGAIN);
    assert_eq!(
        pointers(&m.v),
        [0x2000, A + 0x1000, B + 0x1000],
        "a page at a time"
    );
    m.events.lower(event::INTR);
    assert_eq!(string(&mut m.v, movs), DONE);
    set(&mut m.v, 3, A, B);
    m.v.st.rflags |= TF;
    assert_eq!(string(&mut m.v, movs), AGAIN);
    assert_eq!(
        pointers(&m.v),
        [2, A + 1, B + 1],
        "single step stops after each iteration"
    );
    m.v.st.rflags &= !TF;
    set(&mut m.v, 1 << 20, A, A + 1);
    assert_eq!(complete(&mut m, movs), 16, "64K iterations at a time");
}

#[test]
fn a_watched_byte_stops_after_its_iteration() {
    let mut m = Machine::protected(0);
    m.v.st.dr[0] = B + 0x10;
    m.v.st.dr7 = 0x401 | 1 << 16;
    m.v.sync_watches();
    set(&mut m.v, 0x100, A, B);
    assert_eq!(
        string(&mut m.v, op(StringKind::Movs, Rep::Rep, Width::B8)),
        AGAIN
    );
    assert_eq!(pointers(&m.v), [0x100 - 0x11, A + 0x11, B + 0x11]);
    assert_eq!(m.v.pending_debug, 1);
}

#[test]
fn segments_and_address_sizes() {
    // 16-bit addresses wrap, and only the low halves of the registers change.
    let mut m = Machine::real();
    pattern(&mut m, 0x5_0000, 0x1_0000);
    m.v.st.seg[Seg::Ds as usize] = x86::Segment::real(0x5000);
    m.v.st.seg[Seg::Es as usize] = x86::Segment::real(0x7000);
    let movs = StringOp {
        addr: Width::B16,
        ..op(StringKind::Movs, Rep::Rep, Width::B8)
    };
    set(&mut m.v, 0xabcd_0006, 0xabcd_fffd, 0xabcd_fffe);
    complete(&mut m, movs);
    assert_eq!(pointers(&m.v), [0xabcd_0000, 0xabcd_0003, 0xabcd_0004]);
    for (to, from) in [
        (0xfffe, 0xfffd),
        (0xffff, 0xfffe),
        (0, 0xffff),
        (1, 0),
        (2, 1),
        (3, 2),
    ] {
        assert_eq!(
            m.read(0x7_0000 + to, 1),
            m.read(0x5_0000 + from, 1),
            "{to:#x}"
        );
    }
    set(&mut m.v, 2, 0xfffd, 0);
    let e = string(
        &mut m.v,
        StringOp {
            width: Width::B16,
            ..movs
        },
    );
    assert_eq!(e, Err(Exception::GP0), "a word at FFFFh");
    assert_eq!(pointers(&m.v), [1, 0xffff, 2]);

    // A limit in the middle of a page, and a segment that can't be written.
    let mut m = Machine::protected(0);
    m.v.st.seg[Seg::Es as usize].limit = (B + 0x123) as u32;
    set(&mut m.v, 0x1000, A, B);
    let movs = op(StringKind::Movs, Rep::Rep, Width::B8);
    assert_eq!(string(&mut m.v, movs), Err(Exception::GP0));
    assert_eq!(pointers(&m.v), [0x1000 - 0x124, A + 0x124, B + 0x124]);
    m.set_segment(Seg::Es, sel::R0);
    assert_eq!(string(&mut m.v, movs), Err(Exception::GP0));
    let fs = StringOp {
        seg: Seg::Fs as u8,
        ..op(StringKind::Lods, Rep::None, Width::B8)
    };
    m.v.st.seg[Seg::Fs as usize].base = 0x100;
    m.write(A + 0x100, 1, 0x5a);
    set(&mut m.v, 0, A, 0);
    assert_eq!(string(&mut m.v, fs), DONE);
    assert_eq!(m.v.st.gpr[0] & 0xff, 0x5a);

    // Non-canonical addresses.
    let mut m = Machine::long(3, true);
    set(&mut m.v, 9, A, 1 << 47);
    let movs = StringOp {
        addr: Width::B64,
        ..movs
    };
    assert_eq!(string(&mut m.v, movs), Err(Exception::GP0));
    set(&mut m.v, 9, 0xdead_0000_0000 | A, 0x1_0000_0000 | B);
    complete(&mut m, op(StringKind::Movs, Rep::Rep, Width::B8));
    assert_eq!(
        pointers(&m.v),
        [0, A + 9, B + 9],
        "32-bit addresses in 64-bit code"
    );
}

#[test]
fn alignment_checks() {
    let mut m = Machine::protected(3);
    m.v.st.cr0 |= x86::cr0::AM;
    m.v.st.rflags |= x86::flags::AC;
    set(&mut m.v, 4, A, B + 2);
    assert_eq!(
        string(&mut m.v, op(StringKind::Movs, Rep::Rep, Width::B32)),
        Err(Exception::AC0)
    );
    assert_eq!(
        string(&mut m.v, op(StringKind::Movs, Rep::Rep, Width::B16)),
        DONE
    );
}

#[test]
fn port_strings() {
    let mut m = Machine::protected(0);
    m.v.st.gpr[Gpr::Rdx as usize] = 0xffff_0080;
    m.write(A, 4, 0x4433_2211);
    set(&mut m.v, 2, A, B);
    assert_eq!(
        string(&mut m.v, op(StringKind::Outs, Rep::Rep, Width::B16)),
        DONE
    );
    assert_eq!(*m.board.outs.lock(), [(0x80, 2, 0x2211), (0x80, 2, 0x4433)]);
    assert_eq!(pointers(&m.v), [0, A + 4, B]);
    set(&mut m.v, 3, A, B);
    assert_eq!(
        string(&mut m.v, op(StringKind::Ins, Rep::Rep, Width::B8)),
        DONE
    );
    assert_eq!((m.read(B, 4), pointers(&m.v)), (0xff_ffff, [0, A, B + 3]));

    // The port isn't touched when memory is not there, or the bitmap forbids it.
    let mut m = Machine::protected(3);
    m.write(TSS + 0x88, 8, u64::MAX);
    set(&mut m.v, 1, A, B);
    m.v.st.gpr[Gpr::Rdx as usize] = 0x10;
    assert_eq!(
        string(&mut m.v, op(StringKind::Outs, Rep::None, Width::B8)),
        Err(Exception::GP0)
    );
    assert!(m.board.outs.lock().is_empty());
}
