//! Descriptor faults with their error codes, and the instructions that load or ask about selectors.

use x86::{Exception, Seg, Shadow, attr, cr0, cr4, flags, vector};

use super::{arpl, lar, lldt, load_seg, lsl, ltr, read_seg, sldt, str, verify};
use crate::testing::{GDT, LDT, Machine, TSS, access, descriptor, sel};

const BIG: u32 = attr::G | attr::DB;

fn gp(code: u16) -> Result<u64, Exception> {
    Err(Exception::gp(u32::from(code)))
}

fn load(m: &mut Machine, seg: Seg, selector: u16) -> Result<u64, Exception> {
    load_seg(&mut m.v, seg as u64, u64::from(selector), 1)
}

#[test]
fn data_segment_loads_check_type_privilege_and_presence() {
    let cases: &[(u8, u16, Result<u64, Exception>)] = &[
        (0, sel::D0, Ok(0)),
        (0, sel::D0 | 3, gp(sel::D0)),
        (0, sel::D3 & !3, Ok(0)),
        (0, sel::D3, Ok(0)),
        (3, sel::D0, gp(sel::D0)),
        (3, sel::D3, Ok(0)),
        (2, sel::D1, gp(sel::D1 & !3)),
        (1, sel::D2, Ok(0)),
        (0, sel::C0, Ok(0)),
        (3, sel::C0 | 3, gp(sel::C0)),
        (3, sel::CONF0 | 3, Ok(0)),
        (0, sel::X0, gp(sel::X0)),
        (0, sel::R0, Ok(0)),
        (0, sel::TSS, gp(sel::TSS)),
        (0, sel::LDT, gp(sel::LDT)),
        (0, sel::NP_DATA, Err(Exception::np(u32::from(sel::NP_DATA)))),
        (0, sel::NP_CODE, Err(Exception::np(u32::from(sel::NP_CODE)))),
        (0, sel::BEYOND, gp(sel::BEYOND)),
        (0, sel::BEYOND | 3, gp(sel::BEYOND)),
        (0, 0x14, gp(0x14)),
        (0, 0x1004, gp(0x1004)),
        (3, 0, Ok(0)),
        (0, 3, Ok(0)),
    ];
    for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        for (cpl, selector, expected) in cases {
            let mut m = Machine::protected(*cpl);
            let before = m.snapshot();
            let got = load(&mut m, seg, *selector);
            assert_eq!(got, *expected, "{seg:?} = {selector:#x} at level {cpl}");
            if expected.is_err() {
                assert_eq!(
                    m.snapshot(),
                    before,
                    "{selector:#x} at level {cpl} changed something"
                );
            } else {
                assert_eq!(
                    read_seg(&mut m.v, seg as u64, 0, 0),
                    Ok(u64::from(*selector))
                );
                assert_eq!(m.v.seg(seg).has(attr::UNUSABLE), *selector < 4);
            }
        }
    }
}

#[test]
fn stack_segment_loads_want_exact_privilege() {
    let cases: &[(u8, u16, Result<u64, Exception>)] = &[
        (0, sel::D0, Ok(0)),
        (3, sel::D3, Ok(0)),
        (0, 0, gp(0)),
        (3, 3, gp(0)),
        (0, sel::D0 | 1, gp(sel::D0)),
        (0, sel::D3, gp(sel::D3 & !3)),
        (3, sel::D3 & !3, gp(sel::D3 & !3)),
        (3, sel::D0 | 3, gp(sel::D0)),
        (0, sel::R0, gp(sel::R0)),
        (0, sel::C0, gp(sel::C0)),
        (0, sel::TSS, gp(sel::TSS)),
        (0, sel::NP_DATA, Err(Exception::ss(u32::from(sel::NP_DATA)))),
        (0, sel::BEYOND, gp(sel::BEYOND)),
    ];
    for (cpl, selector, expected) in cases {
        let mut m = Machine::protected(*cpl);
        let before = m.snapshot();
        assert_eq!(
            load(&mut m, Seg::Ss, *selector),
            *expected,
            "SS = {selector:#x} at level {cpl}"
        );
        if expected.is_err() {
            assert_eq!(m.snapshot(), before);
        }
    }
}

#[test]
fn null_stack_segment_loads_in_64_bit_mode_below_level_3() {
    for (cpl, code64, selector, expected) in [
        (0, true, 0, Ok(0)),
        (0, true, 1, gp(0)),
        (3, true, 3, gp(0)),
        (0, false, 0, gp(0)),
    ] {
        let mut m = Machine::long(cpl, code64);
        assert_eq!(
            load(&mut m, Seg::Ss, selector),
            expected,
            "SS = {selector} at level {cpl}, 64-bit {code64}"
        );
        assert_eq!(m.v.st.cpl(), cpl);
    }
}

#[test]
fn cs_is_no_data_segment_register() {
    let mut m = Machine::protected(0);
    assert_eq!(load(&mut m, Seg::Cs, sel::C0), Err(Exception::UD));
    assert_eq!(load_seg(&mut m.v, 6, 0, 0), Err(Exception::UD));
}

#[test]
fn loads_set_the_accessed_bit_once_and_only_on_success() {
    let mut m = Machine::protected(0);
    let before = m.read_descriptor(sel::D3);
    assert_eq!(before >> 40 & 1, 0);
    load(&mut m, Seg::Ds, sel::D3).expect("D3 loads at level 0");
    assert_eq!(m.read_descriptor(sel::D3), before | 1 << 40);
    let segment = *m.v.seg(Seg::Ds);
    assert!(segment.has(attr::ACCESSED));
    assert_eq!(
        (segment.base, segment.limit, segment.selector),
        (0, u32::MAX, sel::D3)
    );
}

#[test]
fn accessed_bit_in_a_read_only_page_is_a_supervisor_write_fault() {
    let mut m = Machine::protected(3);
    m.enable_paging();
    m.page(GDT, 1);
    let before = m.snapshot();
    let expected = Exception::page_fault(GDT + u64::from(sel::D3 & !7) + 5, 3);
    assert_eq!(load(&mut m, Seg::Ds, sel::D3), Err(expected));
    assert_eq!(m.snapshot(), before);
    // Already accessed: nothing is written, and the table need not be visible to level 3.
    let raw = m.read_descriptor(sel::D3);
    m.write_descriptor(sel::D3, raw | 1 << 40);
    assert_eq!(load(&mut m, Seg::Ds, sel::D3), Ok(0));
}

#[test]
fn descriptor_must_lie_wholly_inside_its_table() {
    let mut m = Machine::protected(0);
    m.v.st.gdtr.limit = sel::D0 + 6;
    assert_eq!(load(&mut m, Seg::Ds, sel::D0), gp(sel::D0));
    m.v.st.gdtr.limit = sel::D0 + 7;
    assert_eq!(load(&mut m, Seg::Ds, sel::D0), Ok(0));
}

#[test]
fn selectors_of_the_ldt_use_ldtr() {
    let mut m = Machine::protected(0);
    m.write_descriptor(0xc, descriptor(0x1234_5678, 0x42, access::DATA | attr::DB));
    load(&mut m, Seg::Es, 0xc).expect("an LDT selector loads");
    assert_eq!(
        (m.v.seg(Seg::Es).base, m.v.seg(Seg::Es).limit),
        (0x1234_5678, 0x42)
    );
    // Entry 0 of the LDT is no null selector.
    m.write_descriptor(4, descriptor(0, 1, access::DATA));
    assert_eq!(load(&mut m, Seg::Es, 4), Ok(0));
    lldt(&mut m.v, 0, 0, 0).expect("LDTR may be null");
    assert_eq!(load(&mut m, Seg::Es, 0xc), gp(0xc));
}

#[test]
fn real_mode_loads_keep_the_limit_and_vm86_loads_set_it() {
    let mut m = Machine::real();
    m.v.st.seg[Seg::Ds as usize].limit = u32::MAX;
    load(&mut m, Seg::Ds, 0x1234).expect("anything loads in real mode");
    assert_eq!(
        (m.v.seg(Seg::Ds).base, m.v.seg(Seg::Ds).limit),
        (0x1_2340, u32::MAX)
    );

    let mut m = Machine::vm86(3);
    m.v.st.seg[Seg::Ds as usize].limit = u32::MAX;
    load(&mut m, Seg::Ds, 0xffff).expect("anything loads in VM86");
    let ds = *m.v.seg(Seg::Ds);
    assert_eq!(
        (ds.base, ds.limit, ds.dpl(), ds.selector),
        (0xf_fff0, 0xffff, 3, 0xffff)
    );
}

#[test]
fn only_mov_and_pop_ss_cast_a_shadow() {
    let mut m = Machine::protected(0);
    load(&mut m, Seg::Ds, sel::D0).expect("DS loads");
    assert_eq!(m.v.st.shadow, Shadow::None);
    load_seg(&mut m.v, Seg::Ss as u64, u64::from(sel::D0), 0).expect("LSS loads");
    assert_eq!(m.v.st.shadow, Shadow::None);
    load(&mut m, Seg::Ss, sel::D0).expect("SS loads");
    assert_eq!(m.v.st.shadow, Shadow::MovSs);
}

#[test]
fn lldt_and_ltr_faults() {
    type Load = fn(&mut crate::Vcpu, u64, u64, u64) -> Result<u64, Exception>;
    let absent = sel::FREE;
    type Case = (&'static str, Load, u8, u16, Result<u64, Exception>);
    let cases: &[Case] = &[
        ("lldt", lldt, 0, sel::LDT, Ok(0)),
        ("lldt", lldt, 0, 3, Ok(0)),
        ("lldt", lldt, 3, sel::LDT, gp(0)),
        ("lldt", lldt, 0, sel::LDT | 4, gp(sel::LDT | 4)),
        ("lldt", lldt, 0, sel::TSS_B, gp(sel::TSS_B)),
        ("lldt", lldt, 0, sel::D0, gp(sel::D0)),
        ("lldt", lldt, 0, sel::BEYOND, gp(sel::BEYOND)),
        (
            "lldt",
            lldt,
            0,
            absent,
            Err(Exception::np(u32::from(absent))),
        ),
        ("ltr", ltr, 0, sel::TSS_B, Ok(0)),
        ("ltr", ltr, 0, sel::TSS_C, Ok(0)),
        ("ltr", ltr, 3, sel::TSS_B, gp(0)),
        ("ltr", ltr, 0, 0, gp(0)),
        ("ltr", ltr, 0, sel::TSS_B | 4, gp(sel::TSS_B | 4)),
        ("ltr", ltr, 0, sel::TSS, gp(sel::TSS)),
        ("ltr", ltr, 0, sel::LDT, gp(sel::LDT)),
        ("ltr", ltr, 0, sel::D0, gp(sel::D0)),
        ("ltr", ltr, 0, sel::BEYOND, gp(sel::BEYOND)),
        (
            "ltr",
            ltr,
            0,
            absent + 8,
            Err(Exception::np(u32::from(absent + 8))),
        ),
    ];
    for (name, f, cpl, selector, expected) in cases {
        let mut m = Machine::protected(*cpl);
        m.write_descriptor(absent, descriptor(LDT, 0xff, access::LDT & !attr::P));
        m.write_descriptor(absent + 8, descriptor(TSS, 0xff, access::TSS & !attr::P));
        let before = m.snapshot();
        assert_eq!(
            f(&mut m.v, u64::from(*selector), 0, 0),
            *expected,
            "{name} {selector:#x} at level {cpl}"
        );
        if expected.is_err() {
            assert_eq!(m.snapshot(), before);
        }
    }
    for mut m in [Machine::real(), Machine::vm86(3)] {
        assert_eq!(lldt(&mut m.v, 0, 0, 0), Err(Exception::UD));
        assert_eq!(ltr(&mut m.v, 0, 0, 0), Err(Exception::UD));
        assert_eq!(sldt(&mut m.v, 0, 0, 0), Err(Exception::UD));
        assert_eq!(str(&mut m.v, 0, 0, 0), Err(Exception::UD));
    }
}

#[test]
fn ltr_makes_the_tss_busy() {
    let mut m = Machine::protected(0);
    ltr(&mut m.v, u64::from(sel::TSS_B), 0, 0).expect("an available TSS loads");
    assert_eq!(m.read_descriptor(sel::TSS_B) >> 40 & 0xf, 11);
    assert_eq!((m.v.st.tr.kind(), m.v.st.tr.selector), (11, sel::TSS_B));
    assert_eq!(str(&mut m.v, 0, 0, 0), Ok(u64::from(sel::TSS_B)));
    assert_eq!(ltr(&mut m.v, u64::from(sel::TSS_B), 0, 0), gp(sel::TSS_B));
}

#[test]
fn system_descriptors_have_16_bytes_in_64_bit_mode() {
    let free = sel::FREE;
    let mut m = Machine::long(0, true);
    m.write_descriptor(free, descriptor(0x8765_4321, 0x67, access::TSS));
    m.write_descriptor(free + 8, 0xffff_8000);
    ltr(&mut m.v, u64::from(free), 0, 0).expect("a 64-bit TSS loads");
    assert_eq!(m.v.st.tr.base, 0xffff_8000_8765_4321);
    m.write_descriptor(free, descriptor(0x1000, 0x67, access::LDT));
    lldt(&mut m.v, u64::from(free), 0, 0).expect("an LDT loads");
    assert_eq!(m.v.st.ldtr.base, 0xffff_8000_0000_1000);
    // A type in the upper half, a base that is not canonical, an upper half beyond the limit, a 16-bit TSS.
    for (selector, low, high) in [
        (free, descriptor(0, 0x67, access::LDT), 1 << 40),
        (free, descriptor(0, 0x67, access::LDT), 0x1_0000),
        (0x3f8, descriptor(0, 0x67, access::LDT), 0),
    ] {
        m.write_descriptor(selector, low);
        m.write(GDT + u64::from(selector) + 8, 8, high);
        assert_eq!(
            lldt(&mut m.v, u64::from(selector), 0, 0),
            gp(selector),
            "{high:#x}"
        );
    }
    m.write_descriptor(free, descriptor(0, 0x67, access::TSS16));
    m.write_descriptor(free + 8, 0);
    assert_eq!(ltr(&mut m.v, u64::from(free), 0, 0), gp(free));
}

#[test]
fn umip_hides_selectors_from_programs() {
    for (cpl, umip, expected) in [
        (0, true, Ok(())),
        (3, false, Ok(())),
        (3, true, Err(Exception::GP0)),
    ] {
        let mut m = Machine::protected(cpl);
        m.v.st.cr4 = if umip { cr4::UMIP } else { 0 };
        assert_eq!(
            sldt(&mut m.v, 0, 0, 0),
            expected.map(|()| u64::from(sel::LDT))
        );
        assert_eq!(
            str(&mut m.v, 0, 0, 0),
            expected.map(|()| u64::from(sel::TSS))
        );
    }
}

fn zf(m: &Machine) -> bool {
    m.v.rflags() & flags::ZF != 0
}

#[test]
fn lar_and_lsl_answer_for_visible_descriptors_of_known_types() {
    const OLD: u64 = 0x1111_2222_3333_4444;
    // Selector, CPL, whether LAR and LSL answer in legacy and in long mode.
    let call = sel::FREE;
    let small = sel::FREE + 8;
    let int = sel::FREE + 16;
    let task = sel::FREE + 24;
    let cases: &[(u16, u8, [bool; 4])] = &[
        (sel::D0, 0, [true; 4]),
        (sel::D0, 3, [false; 4]),
        (sel::D0 | 1, 0, [false; 4]),
        (sel::CONF0, 3, [true; 4]),
        (sel::X0, 0, [true; 4]),
        (sel::NP_DATA, 0, [true; 4]),
        (sel::LDT, 0, [true; 4]),
        (sel::TSS, 0, [true; 4]),
        (sel::TSS_C, 0, [true, true, false, false]),
        (call, 0, [true, false, true, false]),
        (small, 0, [true, false, false, false]),
        (int, 0, [false; 4]),
        (task, 0, [true, false, false, false]),
        (0, 0, [false; 4]),
        (sel::BEYOND, 0, [false; 4]),
    ];
    for (selector, cpl, expected) in cases {
        for (long, wanted) in [(false, &expected[..2]), (true, &expected[2..])] {
            let mut m = if long {
                Machine::long(*cpl, true)
            } else {
                Machine::protected(*cpl)
            };
            m.write_descriptor(call, descriptor(0, 0, access::CALL));
            m.write_descriptor(small, descriptor(0, 0, access::CALL16));
            m.write_descriptor(int, descriptor(0, 0, access::INT));
            m.write_descriptor(task, descriptor(0, 0, access::TASK_GATE));
            m.write_descriptor(sel::TSS_C, descriptor(0, 0, access::TSS16));
            let raw = m.read_descriptor(*selector);
            let place = format!("{selector:#x} at level {cpl}, long {long}");
            let got = lar(&mut m.v, u64::from(*selector), OLD, 4).expect("LAR raises nothing here");
            assert_eq!(zf(&m), wanted[0], "LAR {place}");
            assert_eq!(
                got,
                if wanted[0] {
                    raw >> 32 & 0xff_ff00
                } else {
                    OLD
                },
                "LAR {place}"
            );
            let got = lsl(&mut m.v, u64::from(*selector), OLD, 4).expect("LSL raises nothing here");
            assert_eq!(zf(&m), wanted[1], "LSL {place}");
            let limit = u64::from(m.segment(*selector).limit);
            assert_eq!(got, if wanted[1] { limit } else { OLD }, "LSL {place}");
        }
    }
    let mut m = Machine::protected(0);
    assert_eq!(
        lsl(&mut m.v, u64::from(sel::D0), OLD, 2),
        Ok(0x1111_2222_3333_ffff)
    );
    let mut m = Machine::real();
    assert_eq!(lar(&mut m.v, 0, 0, 4), Err(Exception::UD));
    assert_eq!(lsl(&mut m.v, 0, 0, 4), Err(Exception::UD));
}

#[test]
fn verr_and_verw_tell_what_a_load_would_allow() {
    // Selector, CPL, readable, writable.
    for (selector, cpl, read, write) in [
        (sel::D0, 0, true, true),
        (sel::D0, 3, false, false),
        (sel::D3, 3, true, true),
        (sel::R0, 0, true, false),
        (sel::C0, 0, true, false),
        (sel::X0, 0, false, false),
        (sel::CONF0, 3, true, false),
        (sel::TSS, 0, false, false),
        (sel::BEYOND, 0, false, false),
        (0, 0, false, false),
    ] {
        let mut m = Machine::protected(cpl);
        verify(&mut m.v, u64::from(selector), 0, 0).expect("VERR raises nothing");
        assert_eq!(zf(&m), read, "VERR {selector:#x} at level {cpl}");
        verify(&mut m.v, u64::from(selector), 0, 1).expect("VERW raises nothing");
        assert_eq!(zf(&m), write, "VERW {selector:#x} at level {cpl}");
    }
    let mut m = Machine::vm86(3);
    assert_eq!(verify(&mut m.v, 0, 0, 0), Err(Exception::UD));
}

#[test]
fn arpl_raises_rpl_to_the_callers() {
    let mut m = Machine::protected(3);
    assert_eq!((arpl(&mut m.v, 0x10, 3, 0), zf(&m)), (Ok(0x13), true));
    assert_eq!((arpl(&mut m.v, 0x13, 1, 0), zf(&m)), (Ok(0x13), false));
    assert_eq!((arpl(&mut m.v, 0x11, 1, 0), zf(&m)), (Ok(0x11), false));
    let mut m = Machine::real();
    assert_eq!(arpl(&mut m.v, 0, 0, 0), Err(Exception::UD));
}

#[test]
fn loaded_segments_limit_accesses() {
    // Attributes, raw limit, offset, size, write, allowed.
    let cases: &[(u32, u32, u64, u64, bool, bool)] = &[
        (access::DATA | attr::DB, 0xfff, 0xffc, 4, true, true),
        (access::DATA | attr::DB, 0xfff, 0xffd, 4, true, false),
        (access::DATA | BIG, 0, 0xffc, 4, true, true),
        (access::DATA | BIG, 0, 0x1000, 1, false, false),
        (access::READ_ONLY | BIG, 0xf_ffff, 0, 4, false, true),
        (access::READ_ONLY | BIG, 0xf_ffff, 0, 4, true, false),
        // Expand-down: above the limit, up to FFFFh or 4 GiB - 1 by the B bit.
        (access::EXPAND_DOWN, 0xfff, 0xfff, 1, false, false),
        (access::EXPAND_DOWN, 0xfff, 0x1000, 4, false, true),
        (access::EXPAND_DOWN, 0xfff, 0xffff, 1, true, true),
        (access::EXPAND_DOWN, 0xfff, 0xffff, 2, true, false),
        (access::EXPAND_DOWN | attr::DB, 0xfff, 0xffff, 2, true, true),
        (access::EXPAND_DOWN | BIG, 0, 0xffe, 4, true, false),
        (access::CODE | BIG, 0xf_ffff, 0, 1, false, true),
        (access::CODE | BIG, 0xf_ffff, 0, 1, true, false),
        (access::EXECUTE_ONLY | BIG, 0xf_ffff, 0, 1, false, false),
    ];
    for (attr, limit, offset, size, write, allowed) in cases {
        let mut m = Machine::protected(0);
        m.write_descriptor(sel::FREE, descriptor(0x1000, *limit, *attr));
        m.set_segment(Seg::Ds, sel::FREE);
        let got = m.v.linear(Seg::Ds, *offset, *size, *write);
        let expected = if *allowed {
            Ok(0x1000 + offset)
        } else {
            Err(Exception::GP0)
        };
        assert_eq!(
            got, expected,
            "attr {attr:#x} limit {limit:#x} offset {offset:#x}"
        );
        if attr & attr::CODE == 0 && attr & attr::RW != 0 {
            m.set_segment(Seg::Ss, sel::FREE);
            let got = m.v.linear(Seg::Ss, *offset, *size, *write);
            assert_eq!(got.map_err(|e| e.vector), expected.map_err(|_| vector::SS));
        }
    }
}

#[test]
fn non_canonical_addresses_raise_ss_through_ss_and_gp_otherwise() {
    let m = Machine::long(0, true);
    for seg in Seg::ALL {
        let expected = if seg == Seg::Ss {
            Exception::SS0
        } else {
            Exception::GP0
        };
        for offset in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 0x7fff_ffff_fffd] {
            assert_eq!(
                m.v.linear(seg, offset, 4, false),
                Err(expected),
                "{seg:?}:{offset:#x}"
            );
        }
        assert_eq!(
            m.v.linear(seg, 0x7fff_ffff_fffc, 4, true),
            Ok(0x7fff_ffff_fffc)
        );
        assert_eq!(
            m.v.linear(seg, 0xffff_8000_0000_0000, 4, true),
            Ok(0xffff_8000_0000_0000)
        );
    }
    let mut m = Machine::long(0, true);
    m.v.st.seg[Seg::Fs as usize].base = 0x7fff_ffff_f000;
    assert_eq!(m.v.linear(Seg::Fs, 0x1000, 1, false), Err(Exception::GP0));
    m.v.st.cr4 |= cr4::LA57;
    assert_eq!(m.v.linear(Seg::Fs, 0x1000, 1, false), Ok(0x8000_0000_0000));
    assert_eq!(m.v.st.cr0 & cr0::PG, cr0::PG);
}
