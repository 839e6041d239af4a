//! Images byte by byte, and what loads refuse.

use std::sync::Arc;

use x86::{Exception, Fpu, Gpr, MXCSR_RESET, cr0, cr4, vector};

use super::*;
use crate::CpuModel;
use crate::testing::Machine;

/// Free RAM, 64-byte aligned.
const AT: u64 = 0x3_0000;
const GP: Result<u64, Exception> = Err(Exception::GP0);

/// A machine whose FPU state has something in every place.
fn machine(long: bool) -> Machine {
    let mut m = if long {
        Machine::long(0, true)
    } else {
        Machine::protected(0)
    };
    m.v.model =
        Arc::new(CpuModel::parse("default,+pku,-zero-fcs-fds").expect("a model of this test"));
    m.v.st.cr4 |= cr4::OSFXSR | cr4::OSXSAVE;
    m.v.st.xcr0 = 0x203;
    m.v.st.mxcsr = 0x1fa0;
    m.v.st.pkru = 0x55;
    m.v.st.fpu = Fpu {
        regs: std::array::from_fn(|n| {
            std::array::from_fn(|i| if i < 10 { (n * 16 + i) as u8 } else { 0 })
        }),
        fcw: 0x27f,
        fsw: 3 << 11 | 1,
        ftw: 0xa5,
        fop: 0x123,
        fcs: 0x1111,
        fds: 0x2222,
        fip: 0xaaaa_5555_6666,
        fdp: 0xbbbb_7777_8888,
    };
    for n in 0..16 {
        for i in 0..16 {
            m.v.st.vec[n][i] = (0x80 + n * 8 + i) as u8;
        }
        m.v.st.vec[n][16] = 0xee;
    }
    fill(&mut m, AT, 4096);
    m
}

fn fill(m: &mut Machine, at: u64, len: u64) {
    for i in 0..len {
        m.write(at + i, 1, 0xcc);
    }
}

fn mask(m: &mut Machine, bits: u64) {
    m.v.st.gpr[Gpr::Rax as usize] = bits & 0xffff_ffff;
    m.v.st.gpr[Gpr::Rdx as usize] = bits >> 32;
}

fn word(m: &Machine, offset: u64, size: usize) -> u64 {
    m.read(AT + offset, size)
}

#[test]
fn fxsave_layout() {
    let mut m = machine(false);
    assert_eq!(fxsave(&mut m.v, AT, 0, 4), Ok(0));
    let head = [
        (0, 2, 0x27f),
        (2, 2, 0x1801),
        (4, 2, 0xa5),
        (6, 2, 0x123),
        (24, 4, 0x1fa0),
        (28, 4, 0xffff),
    ];
    let pointers = [
        (8, 4, 0x5555_6666),
        (12, 4, 0x1111),
        (16, 4, 0x7777_8888),
        (20, 4, 0x2222),
    ];
    for (offset, size, value) in head.into_iter().chain(pointers) {
        assert_eq!(word(&m, offset, size), value, "{offset}");
    }
    assert_eq!(word(&m, 32, 8), 0x3736_3534_3332_3130, "ST0 is R3");
    assert_eq!(word(&m, 32 + 8, 8), 0x3938);
    assert_eq!(word(&m, 160 + 16 * 7, 1), 0xb8, "XMM7");
    assert_eq!(
        word(&m, 160 + 16 * 8, 8),
        0xcccc_cccc_cccc_cccc,
        "XMM8 can't be named"
    );

    let mut m = machine(true);
    assert_eq!(fxsave(&mut m.v, AT, 0, 8), Ok(0));
    assert_eq!(
        (word(&m, 8, 8), word(&m, 16, 8)),
        (0xaaaa_5555_6666, 0xbbbb_7777_8888)
    );
    assert_eq!(word(&m, 160 + 16 * 15, 1), 0xf8, "XMM15");
    assert_eq!(word(&m, 416, 8), 0xcccc_cccc_cccc_cccc);
    m.v.st.cr4 &= !cr4::OSFXSR;
    fill(&mut m, AT, 512);
    assert_eq!(fxsave(&mut m.v, AT, 0, 4), Ok(0));
    assert_eq!(
        (word(&m, 24, 4), word(&m, 160, 1)),
        (0x1fa0, 0xcc),
        "without OSFXSR no XMM registers"
    );
}

#[test]
fn fxsave_and_fxrstor_round_trip() {
    for (long, size) in [(false, 4), (true, 4), (true, 8)] {
        let mut m = machine(long);
        let before = m.v.st.clone();
        assert_eq!(fxsave(&mut m.v, AT, 0, size), Ok(0));
        m.v.st.fpu = Fpu::RESET;
        m.v.st.mxcsr = MXCSR_RESET;
        m.v.st.vec = [[1; 64]; 32];
        assert_eq!(fxrstor(&mut m.v, AT, 0, size), Ok(0));
        let count = if long { 16 } else { 8 };
        for n in 0..32 {
            let low = if n < count {
                &before.vec[n][..16]
            } else {
                &[1; 16]
            };
            assert_eq!(
                (&m.v.st.vec[n][..16], m.v.st.vec[n][16]),
                (low, 1),
                "register {n}"
            );
        }
        assert_eq!((m.v.st.mxcsr, m.v.st.fpu.regs), (0x1fa0, before.fpu.regs));
        let fpu = &m.v.st.fpu;
        assert_eq!(
            (fpu.fcw, fpu.fsw, fpu.ftw, fpu.fop),
            (0x27f, 0x1801, 0xa5, 0x123)
        );
        if size == 8 {
            assert_eq!((fpu.fip, fpu.fcs), (0xaaaa_5555_6666, 0));
        } else {
            assert_eq!(
                (fpu.fip, fpu.fcs, fpu.fdp, fpu.fds),
                (0x5555_6666, 0x1111, 0x7777_8888, 0x2222)
            );
        }
    }
}

#[test]
fn fx_faults() {
    let mut m = machine(true);
    assert_eq!(fxsave(&mut m.v, AT + 8, 0, 4), GP, "alignment");
    assert_eq!(fxrstor(&mut m.v, AT + 8, 0, 4), GP);
    m.write(AT + 24, 4, 0x1_0000);
    let before = m.snapshot();
    assert_eq!(fxrstor(&mut m.v, AT, 0, 4), GP, "a reserved bit of MXCSR");
    assert!(m.snapshot() == before);
    m.v.st.cr0 |= cr0::TS;
    assert_eq!(fxsave(&mut m.v, AT, 0, 4), Err(Exception::NM));
    m.v.st.cr0 ^= cr0::TS | cr0::EM;
    assert_eq!(fxrstor(&mut m.v, AT, 0, 4), Err(Exception::NM));
}

#[test]
fn a_loaded_status_word_makes_exceptions_pending() {
    let mut m = machine(true);
    m.v.st.fpu.fcw = 0x37e;
    assert_eq!(fxsave(&mut m.v, AT, 0, 4), Ok(0));
    m.v.st.fpu = Fpu::RESET;
    assert_eq!(fxrstor(&mut m.v, AT, 0, 4), Ok(0));
    assert_eq!(m.v.st.fpu.fsw, 0x1801 | 0x8080, "IE is unmasked");
}

#[test]
fn cpus_without_fcs_store_zeros() {
    let mut m = machine(false);
    m.v.model = Arc::new(CpuModel::default());
    m.write(AT + 12, 2, 0x1234);
    fill(&mut m, AT, 28);
    assert_eq!(fxrstor(&mut m.v, AT + 0x400, 0, 4), GP, "CCh is no MXCSR");
    let mut other = machine(false);
    other.v.model = Arc::new(CpuModel::default());
    assert_eq!(fxsave(&mut other.v, AT, 0, 4), Ok(0));
    other.write(AT + 12, 2, 0x1234);
    assert_eq!(fxrstor(&mut other.v, AT, 0, 4), Ok(0));
    assert_eq!((other.v.st.fpu.fcs, other.v.st.fpu.fds), (0, 0));
}

#[test]
fn fnsave_and_fnstenv_in_four_layouts() {
    let mut m = machine(false);
    assert_eq!(fnstenv(&mut m.v, AT, 0, 4), Ok(0));
    let words: Vec<u64> = (0..7).map(|i| word(&m, i * 4, 4)).collect();
    // Tags: R0, R2, R5, R7 hold unnormal or special values, the others are empty.
    let tags = 0xffff_0000 | 0b10_11_10_11_11_10_11_10;
    assert_eq!(
        words,
        [
            0xffff_027f,
            0xffff_1801,
            tags,
            0x5555_6666,
            0x0123_1111,
            0x7777_8888,
            0xffff_2222
        ]
    );
    assert_eq!(m.v.st.fpu.fcw, 0x27f, "all were masked already");

    let mut m = machine(false);
    assert_eq!(fnsave(&mut m.v, AT, 0, 2), Ok(0));
    let words: Vec<u64> = (0..7).map(|i| word(&m, i * 2, 2)).collect();
    assert_eq!(
        words,
        [0x27f, 0x1801, tags & 0xffff, 0x6666, 0x1111, 0x8888, 0x2222]
    );
    assert_eq!(word(&m, 14, 8), 0x3736_3534_3332_3130, "ST0 is R3");
    assert_eq!(word(&m, 14 + 70 + 8, 2), 0x2928, "ST7 is R2");
    assert_eq!(word(&m, 94, 1), 0xcc);
    assert_eq!(
        (
            m.v.st.fpu.fcw,
            m.v.st.fpu.fsw,
            m.v.st.fpu.ftw,
            m.v.st.fpu.fip
        ),
        (0x37f, 0, 0, 0)
    );
    let before = m.v.st.fpu.regs;
    m.v.st.fpu.regs = [[0; 16]; 8];
    assert_eq!(frstor(&mut m.v, AT, 0, 2), Ok(0));
    let fpu = &m.v.st.fpu;
    assert_eq!(
        (fpu.regs, fpu.fcw, fpu.fsw, fpu.ftw, fpu.fip),
        (before, 0x27f, 0x1801, 0xa5, 0x6666)
    );

    // Real mode: linear addresses.
    let mut m = Machine::real();
    m.v.st.fpu = Fpu {
        fip: 0x1_2345,
        fdp: 0xf_4321,
        fop: 0x7ab,
        ..Fpu::RESET
    };
    assert_eq!(fnstenv(&mut m.v, AT, 0, 2), Ok(0));
    assert_eq!(
        (word(&m, 6, 4), word(&m, 10, 4)),
        (0x17ab_2345, 0xf000_4321)
    );
    m.v.st.fpu = Fpu::RESET;
    assert_eq!(fldenv(&mut m.v, AT, 0, 2), Ok(0));
    assert_eq!(
        (m.v.st.fpu.fip, m.v.st.fpu.fdp, m.v.st.fpu.fop),
        (0x1_2345, 0xf_4321, 0x7ab)
    );
    assert_eq!(fnstenv(&mut m.v, AT, 0, 4), Ok(0));
    assert_eq!(
        (word(&m, 12, 8), word(&m, 20, 8)),
        (0x17ab_ffff_2345, 0xf000_ffff_4321)
    );
}

#[test]
fn fnstenv_masks_what_was_pending() {
    let mut m = machine(false);
    m.v.st.fpu.fcw = 0x340;
    m.v.st.fpu.fsw = 0x8081;
    assert_eq!(fnstenv(&mut m.v, AT, 0, 4), Ok(0));
    assert_eq!((m.v.st.fpu.fcw, m.v.st.fpu.fsw), (0x37f, 1));
    assert_eq!(fldenv(&mut m.v, AT, 0, 4), Ok(0));
    assert_eq!((m.v.st.fpu.fcw, m.v.st.fpu.fsw), (0x340, 0x8081));
}

#[test]
fn xsave_writes_what_is_asked() {
    let mut m = machine(true);
    m.write(AT + 512, 8, 0x204);
    mask(&mut m, u64::MAX);
    assert_eq!(xsave(&mut m.v, AT, 0, 8), Ok(0));
    assert_eq!(
        word(&m, 512, 8),
        0x207,
        "bit 2 isn't enabled and stays as it was"
    );
    assert_eq!(
        word(&m, 520, 8),
        0xcccc_cccc_cccc_cccc,
        "XCOMP_BV isn't written"
    );
    assert_eq!((word(&m, 2688, 8), word(&m, 2696, 1)), (0x55, 0xcc));
    assert_eq!(
        (word(&m, 0, 2), word(&m, 24, 4), word(&m, 160, 1)),
        (0x27f, 0x1fa0, 0x80)
    );

    // SSE alone: no x87, but MXCSR.
    let mut m = machine(true);
    m.write(AT + 512, 8, 0);
    mask(&mut m, 2);
    assert_eq!(xsave(&mut m.v, AT, 0, 8), Ok(0));
    assert_eq!(
        (
            word(&m, 0, 1),
            word(&m, 23, 1),
            word(&m, 24, 4),
            word(&m, 32, 1)
        ),
        (0xcc, 0xcc, 0x1fa0, 0xcc)
    );
    assert_eq!(
        (word(&m, 160, 1), word(&m, 512, 8), word(&m, 2688, 1)),
        (0x80, 2, 0xcc)
    );
}

#[test]
fn upper_halves_travel() {
    for long in [true, false] {
        let mut m = machine(long);
        m.v.st.xcr0 = 7;
        m.write(AT + 512, 8, 0);
        mask(&mut m, 4);
        assert_eq!(xsave(&mut m.v, AT, 0, 4), Ok(0));
        assert_eq!(word(&m, 512, 8), 4);
        assert_eq!((word(&m, 576, 2), word(&m, 576 + 7 * 16, 2)), (0xee, 0xee));
        // Outside 64-bit mode there are eight registers; the others' bytes stay.
        let eighth = if long { 0xee } else { 0xcccc };
        assert_eq!(word(&m, 576 + 8 * 16, 2), eighth);
        for n in 0..16 {
            m.v.st.vec[n][16] = 0x77;
        }
        for i in 520..576 {
            m.write(AT + i, 1, 0);
        }
        m.write(AT + 24, 4, 0x1fa0);
        assert_eq!(xrstor(&mut m.v, AT, 0, 4), Ok(0));
        let last = if long { 0xee } else { 0x77 };
        assert_eq!((m.v.st.vec[7][16], m.v.st.vec[8][16]), (0xee, last));
        assert_eq!(m.v.st.vec[7][0], 0x80 + 7 * 8, "XMM is another component");
    }
}

#[test]
fn init_optimisation() {
    let mut m = machine(true);
    m.v.st.fpu = Fpu::RESET;
    m.v.st.pkru = 0;
    m.write(AT + 512, 8, u64::MAX);
    mask(&mut m, 0x203);
    assert_eq!(xsave(&mut m.v, AT, 0, 8), Ok(0));
    assert_eq!(
        (word(&m, 512, 8), word(&m, 0, 2)),
        (!0x201, 0x37f),
        "XSAVE writes initial states too"
    );
    fill(&mut m, AT, 512);
    assert_eq!(xsave(&mut m.v, AT, 1, 8), Ok(0));
    assert_eq!(
        (word(&m, 512, 8), word(&m, 0, 2)),
        (!0x201, 0xcccc),
        "XSAVEOPT doesn't"
    );
    assert_eq!((word(&m, 24, 4), word(&m, 160, 1)), (0x1fa0, 0x80));
}

#[test]
fn compacted_format() {
    let mut m = machine(true);
    mask(&mut m, 0x201);
    assert_eq!(xsave(&mut m.v, AT, 2, 8), Ok(0));
    assert_eq!(
        (word(&m, 512, 8), word(&m, 520, 8)),
        (0x201, 1 << 63 | 0x201)
    );
    assert_eq!(
        (word(&m, 576, 8), word(&m, 584, 1), word(&m, 528, 1)),
        (0x55, 0xcc, 0xcc)
    );
    assert_eq!(
        (word(&m, 24, 4), word(&m, 160, 1)),
        (0xcccc_cccc, 0xcc),
        "MXCSR belongs to SSE"
    );

    // MXCSR alone keeps SSE out of its initial configuration.
    m.v.st.vec = [[0; 64]; 32];
    m.v.st.pkru = 0;
    mask(&mut m, 0x203);
    assert_eq!(xsave(&mut m.v, AT, 3, 8), Ok(0));
    assert_eq!((word(&m, 512, 8), word(&m, 520, 8)), (3, 1 << 63 | 0x203));
    assert_eq!(
        (word(&m, 24, 4), word(&m, 576, 1)),
        (0x1fa0, 0x55),
        "PKRU's place isn't touched"
    );
    let mut user = machine(true);
    user.v.st.seg[2].attr |= 3 << 5;
    mask(&mut user, 3);
    assert_eq!(xsave(&mut user.v, AT, 3, 8), GP, "XSAVES at CPL 3");
    assert_eq!(xrstor(&mut user.v, AT, 1, 8), GP, "XRSTORS at CPL 3");
}

#[test]
fn xrstor_loads_and_initialises() {
    for (kind, restore) in [(0, 0), (1, 0), (2, 0), (3, 1)] {
        let mut m = machine(true);
        for i in 0..64 {
            m.write(AT + 512 + i, 1, 0);
        }
        let before = m.v.st.clone();
        mask(&mut m, 0x203);
        assert_eq!(xsave(&mut m.v, AT, kind, 8), Ok(0));
        m.v.st.fpu = Fpu::RESET;
        m.v.st.mxcsr = MXCSR_RESET;
        m.v.st.pkru = 0;
        m.v.st.vec = [[0; 64]; 32];
        assert_eq!(xrstor(&mut m.v, AT, restore, 8), Ok(0));
        assert_eq!(
            (m.v.st.mxcsr, m.v.st.pkru, m.v.mmu.state().pkru),
            (0x1fa0, 0x55, 0x55)
        );
        assert_eq!(m.v.st.fpu.regs, before.fpu.regs);
        assert_eq!(m.v.st.vec[15][..16], before.vec[15][..16]);
        // Nothing of it in the image: the initial configurations.
        m.write(AT + 512, 8, 0);
        assert_eq!(xrstor(&mut m.v, AT, restore, 8), Ok(0));
        assert_eq!(
            (m.v.st.fpu, m.v.st.pkru, m.v.st.vec[3][0]),
            (Fpu::RESET, 0, 0)
        );
        let mxcsr = if kind >= 2 { MXCSR_RESET } else { 0x1fa0 };
        assert_eq!(
            m.v.st.mxcsr, mxcsr,
            "the standard form loads MXCSR all the same"
        );
    }
}

#[test]
fn xrstor_refuses_bad_headers() {
    // XSTATE_BV, XCOMP_BV, a byte of the header to set, XRSTORS.
    let compact = 1 << 63;
    let cases = [
        (4, 0, 0, 0),
        (1, 1, 0, 0),
        (1, 0, 16, 0),
        (1, compact, 0, 0),
        (1, compact | 5, 0, 0),
        (1, compact | 1, 40, 0),
        (1, 0, 0, 1),
    ];
    for (n, (state, layout, byte, kind)) in cases.into_iter().enumerate() {
        let mut m = machine(true);
        for i in 0..64 {
            m.write(AT + 512 + i, 1, 0);
        }
        m.write(AT + 24, 4, 0);
        m.write(AT + 512, 8, state);
        m.write(AT + 520, 8, layout);
        if byte != 0 {
            m.write(AT + 512 + byte, 1, 1);
        }
        mask(&mut m, 3);
        let before = m.snapshot();
        assert_eq!(xrstor(&mut m.v, AT, kind, 8), GP, "case {n}");
        assert!(m.snapshot() == before, "case {n}");
    }
    // Bytes 63:24 don't matter to the standard form.
    let mut m = machine(true);
    for i in 0..24 {
        m.write(AT + 512 + i, 1, 0);
    }
    m.write(AT + 24, 4, 0x1f80);
    mask(&mut m, 3);
    assert_eq!(xrstor(&mut m.v, AT, 0, 8), Ok(0));
}

#[test]
fn xsave_family_faults() {
    let mut m = machine(true);
    for n in 0..4 {
        assert_eq!(xsave(&mut m.v, AT + 16, n, 8), GP, "alignment");
    }
    m.v.st.cr0 |= cr0::TS;
    assert_eq!(xsave(&mut m.v, AT, 0, 8), Err(Exception::NM));
    m.v.st.cr4 &= !cr4::OSXSAVE;
    assert_eq!(xrstor(&mut m.v, AT, 0, 8), Err(Exception::UD));

    // All pages are checked before the first byte is written.
    let mut m = machine(false);
    m.enable_paging();
    m.page(AT + 0x1000, 6);
    mask(&mut m, 0x203);
    m.write(AT + 0xe00, 8, 0);
    let before = m.snapshot();
    let e = xsave(&mut m.v, AT + 0x800, 0, 4).expect_err("PKRU lies on a page that isn't there");
    assert_eq!((e.vector, e.cr2), (vector::PF, Some(AT + 0x800 + 2688)));
    assert!(m.snapshot() == before);
}

/// A machine with all components of AVX-512 in use, and its image in the standard format.
fn wide(long: bool) -> Machine {
    let mut m = machine(long);
    m.v.model = Arc::new(CpuModel::parse("v4,+pku").expect("a model of this test"));
    m.v.st.xcr0 = 0x2e7;
    for n in 0..32 {
        for i in 0..64 {
            m.v.st.vec[n][i] = (n * 7 + i) as u8 | 1;
        }
    }
    for k in 0..8 {
        m.v.st.k[k] = 0x0101_0101_0101_0101 * (k as u64 + 1);
    }
    for i in 0..64 {
        m.write(AT + 512 + i, 1, 0);
    }
    m
}

#[test]
fn components_of_avx512() {
    let mut m = wide(true);
    let before = m.v.st.clone();
    mask(&mut m, 0xe7);
    assert_eq!(in_use(&m.v), 0x2e7);
    assert_eq!(xsave(&mut m.v, AT, 0, 8), Ok(0));
    assert_eq!((word(&m, 512, 8), word(&m, 520, 8)), (0xe7, 0));
    // k0-7, the upper halves of ZMM0-15, ZMM16-31; then PKRU, which wasn't asked for.
    for k in 0..8 {
        assert_eq!(word(&m, 1088 + 8 * k, 8), before.k[k as usize]);
    }
    for n in 0..16u64 {
        let register = &before.vec[n as usize];
        assert_eq!(word(&m, 576 + 16 * n, 1) as u8, register[16]);
        assert_eq!(word(&m, 1152 + 32 * n, 1) as u8, register[32]);
        assert_eq!(word(&m, 1152 + 32 * n + 31, 1) as u8, register[63]);
        let high = &before.vec[n as usize + 16];
        assert_eq!(word(&m, 1664 + 64 * n, 1) as u8, high[0]);
        assert_eq!(word(&m, 1664 + 64 * n + 63, 1) as u8, high[63]);
    }
    assert_eq!(word(&m, 2688, 1), 0xcc);

    m.v.st.vec = [[0; 64]; 32];
    m.v.st.k = [0; 8];
    assert_eq!(xrstor(&mut m.v, AT, 0, 8), Ok(0));
    assert!(m.v.st.vec == before.vec && m.v.st.k == before.k);

    // Each by itself; what is not in the image becomes zero.
    for bit in [5, 6, 7] {
        m.v.st.vec = before.vec;
        m.v.st.k = before.k;
        mask(&mut m, 1 << bit);
        m.write(AT + 512, 8, 0xe7 & !(1 << bit));
        assert_eq!(xrstor(&mut m.v, AT, 0, 8), Ok(0));
        assert_eq!(in_use(&m.v), 0x2e7 & !(1 << bit), "component {bit}");
        m.write(AT + 512, 8, 0xe7);
    }
}

#[test]
fn avx512_is_left_out_where_it_is_not_in_use() {
    let mut m = wide(true);
    m.v.st.k = [0; 8];
    for register in &mut m.v.st.vec[16..] {
        *register = [0; 64];
    }
    mask(&mut m, 0xe6);
    // XSAVEC: the request says where things lie, XSTATE_BV what is there.
    assert_eq!(xsave(&mut m.v, AT, 2, 8), Ok(0));
    assert_eq!((word(&m, 512, 8), word(&m, 520, 8)), (0x46, 1 << 63 | 0xe6));
    // Behind AVX's 256 bytes and the 64 of masks, which are not written.
    assert_eq!(word(&m, 576 + 256, 1), 0xcc);
    let upper = u64::from(m.v.st.vec[0][32]);
    assert_eq!(word(&m, 576 + 256 + 64, 1), upper);
    m.v.st.k = [1; 8];
    m.v.st.vec[31][63] = 1;
    assert_eq!(xrstor(&mut m.v, AT, 1, 8), Ok(0));
    assert_eq!(
        (m.v.st.k, m.v.st.vec[31], in_use(&m.v) & 0xe0),
        ([0; 8], [0; 64], 0x40)
    );
    // A mask without ZMM components in the image is no reason to refuse it, bits beyond XCR0 are.
    m.v.st.xcr0 = 7;
    assert_eq!(xrstor(&mut m.v, AT, 1, 8), GP);
}

#[test]
fn avx512_outside_64_bit_mode() {
    let mut m = wide(false);
    mask(&mut m, 0xe0);
    assert_eq!(in_use(&m.v), 0x267, "ZMM16-31 are not there");
    assert_eq!(xsave(&mut m.v, AT, 0, 4), Ok(0));
    assert_eq!(word(&m, 512, 8), 0x60);
    assert_eq!(word(&m, 1088 + 7 * 8, 8), m.v.st.k[7]);
    assert_ne!(word(&m, 1152 + 7 * 32, 1), 0xcc);
    // Eight registers; the others' places stay as they are.
    assert_eq!(
        (word(&m, 1152 + 8 * 32, 1), word(&m, 1664, 1)),
        (0xcc, 0xcc)
    );
    let (eighth, high) = (m.v.st.vec[8], m.v.st.vec[16]);
    m.write(AT + 512, 8, 0);
    assert_eq!(xrstor(&mut m.v, AT, 0, 4), Ok(0));
    assert_eq!((m.v.st.vec[7][32], m.v.st.k[7]), (0, 0));
    assert!(m.v.st.vec[8] == eighth && m.v.st.vec[16] == high);
}
