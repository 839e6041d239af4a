//! Segment registers loaded again with what they were loaded with before: 32-bit kernels do so at each system call.
//!
//! What a selector stands for is decided by `system` alone. Here is kept what came of it, beside the descriptor, the level and
//! what the code expects of the segment; where all of that is the same again, so is the outcome. The descriptor is read and
//! compared each time, with a supervisor's rights and by the TLB: where that does not know its page without flags, Rust is asked.

use std::mem::offset_of;

use frontend_x86::Mode;
use ir::{Cond, Width};
use system::Vcpu;
use x86::{CpuState, Seg, Segment, TableReg};

use super::asm::{Alu, Asm, Mem, R11, R14, RAX, RCX, RDX, RSP, Rm, Shift};
use super::emit::system::{segment, st};
use super::frame::{Bounds, Frame};
use super::runtime::{tlb_entry, under};
use softmmu::TlbEntry;

/// Selectors that are known, by index in their table.
pub const KNOWN: usize = 16;

/// What loading a selector came to.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Known {
    /// See [`key`]; 0: nothing.
    key: u64,
    /// The descriptor, unless the selector is null.
    raw: u64,
    segment: Segment,
    bounds: Bounds,
}

const _: () = assert!(size_of::<Known>() == 64);
// One offset serves the vCPU's segments and the frame's bounds.
const _: () = assert!(size_of::<Segment>() == size_of::<Bounds>());

/// From one segment register to the next.
pub const STRIDE: usize = size_of::<Segment>();

/// The level that a selector (to be added, in the low 16 bits) is loaded at, and whether the segment is to be flat.
pub fn key(seg: Seg, mode: Mode) -> u32 {
    let expected = match seg {
        Seg::Fs | Seg::Gs => 2,
        _ => u32::from(mode.flat(seg)),
    };
    1 << 20 | expected << 18 | u32::from(mode.cpl()) << 16
}

/// Whether loads in code of a mode, outside long mode, may be known.
pub fn fits(mode: Mode) -> bool {
    mode.protected() && !mode.vm86()
}

/// Notes what loading a segment register has come to.
pub fn learn(f: &mut Frame, v: &mut Vcpu, seg: u64) {
    let Some(seg) = Seg::from_index(seg as usize) else {
        return;
    };
    let mode = Mode::of(&v.st);
    if v.st.long_mode() || !fits(mode) || seg == Seg::Ss {
        return;
    }
    let Some(raw) = v.loaded_from(seg) else {
        return;
    };
    let segment = *v.seg(seg);
    f.known[usize::from(segment.selector >> 3) % KNOWN] = Known {
        key: u64::from(key(seg, mode) | u32::from(segment.selector)),
        raw,
        segment,
        bounds: f.bounds[seg as usize],
    };
}

/// Loads the segment register whose offset ([`STRIDE`] times its number) is in r14 with the selector and key in r11. Flags and
/// r14 are lost; CF: nothing was done.
pub fn stub(a: &mut Asm) {
    const PUSHED: i32 = 40;
    let (d, q) = (Width::B32, Width::B64);
    let (miss, found) = (a.label(), a.label());
    let frame = |offset| Rm::M(under(PUSHED, offset));
    let saved = [RAX, RCX, RDX, R14];
    saved.into_iter().for_each(|r| a.push(r));
    a.load(d, RCX, Rm::R(R11));
    a.alu_imm(Alu::And, d, Rm::R(RCX), (KNOWN as i32 - 1) << 3);
    a.shift_imm(Shift::Shl, d, Rm::R(RCX), 3);
    let known = |offset: usize| Mem {
        base: RSP,
        index: Some((RCX, 0)),
        disp: PUSHED + (offset_of!(Frame, known) + offset) as i32,
        gs: false,
    };
    a.alu(Alu::Cmp, q, R11, Rm::M(known(offset_of!(Known, key))));
    a.jcc(Cond::Ne, miss);
    a.load(q, RAX, frame(offset_of!(Frame, vcpu)));
    a.test_imm(d, Rm::R(R11), 0xfffc);
    a.jcc(Cond::E, found);

    // Inside the GDT, which is where the descriptor was.
    let gdtr = |offset| Mem::at(RAX, (st(offset_of!(CpuState, gdtr)) + offset) as i32);
    a.load(d, RDX, Rm::R(R11));
    a.alu_imm(Alu::Or, d, Rm::R(RDX), 7);
    a.movzx(Width::B16, RDX, Rm::R(RDX));
    a.movzx(Width::B16, R14, Rm::M(gdtr(offset_of!(TableReg, limit))));
    a.alu(Alu::Cmp, d, RDX, Rm::R(R14));
    a.jcc(Cond::A, miss);
    a.alu_imm(Alu::And, d, Rm::R(RDX), !7);
    a.load(q, R14, Rm::M(gdtr(offset_of!(TableReg, base))));
    a.alu(Alu::Add, d, R14, Rm::R(RDX));
    tlb_entry(a, RDX);
    a.alu(Alu::Add, q, RDX, frame(offset_of!(Frame, tlb) + 8));
    a.load(q, RAX, Rm::R(R14));
    let tag = Mem::at(RDX, TlbEntry::offset_tag(false) as i32);
    a.alu(Alu::Sub, q, RAX, Rm::M(tag));
    a.alu_imm(Alu::Cmp, q, Rm::R(RAX), 0x1000 - 8);
    a.jcc(Cond::A, miss);
    let addend = Mem::at(RDX, TlbEntry::OFFSET_ADDEND as i32);
    a.alu(Alu::Add, q, R14, Rm::M(addend));
    a.load(q, RAX, Rm::M(Mem::at(R14, 0)));
    a.alu(Alu::Cmp, q, RAX, Rm::M(known(offset_of!(Known, raw))));
    a.jcc(Cond::Ne, miss);
    a.load(q, RAX, frame(offset_of!(Frame, vcpu)));

    a.bind(found);
    a.load(q, R14, Rm::M(Mem::at(RSP, 0)));
    let places = [
        (offset_of!(Known, segment), RAX, segment(Seg::Es) as i32),
        (
            offset_of!(Known, bounds),
            RSP,
            PUSHED + offset_of!(Frame, bounds) as i32,
        ),
    ];
    for (from, base, to) in places {
        for word in (0..STRIDE).step_by(8) {
            a.load(q, RDX, Rm::M(known(from + word)));
            let to = Mem {
                base,
                index: Some((R14, 0)),
                disp: to + word as i32,
                gs: false,
            };
            a.store(q, to, RDX);
        }
    }
    for (label, carry) in [(None, 0xf8), (Some(miss), 0xf9)] {
        label.into_iter().for_each(|label| a.bind(label));
        saved.into_iter().rev().for_each(|r| a.pop(r));
        a.byte(carry); // CLC, STC
        a.ret();
    }
}
