//! Accesses whose bytes lie on two pages, without Rust code, where the TLB knows both pages: gathered and scattered by host code.
//!
//! Where both pages lie next to each other on the host, too, the access is made in place. Else the end of the first and the
//! start of the second are copied next to each other, and a store's bytes are copied back behind it.

use std::mem::offset_of;

use ir::Cond;
use ir::Width::{B8, B32, B64};
use softmmu::TlbEntry;

use super::asm::{Alu, Asm, Label, Mem, R11, R14, RAX, RCX, RDX, RSP, Reg, Rm, Shift};
use super::frame::Frame;
use super::runtime::{data_entry, under};

/// Half of a buffer: the longest access.
const HALF: i32 = 64;

/// Two pieces of memory as one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Split {
    /// The end of one page, the start of the other.
    bytes: [u64; 2 * HALF as usize / 8],
    /// Where they lie on the host: that end's end, that start.
    end: u64,
    start: u64,
    /// How many bytes a store has on each. Zero: the store is Rust code's.
    first: u64,
    second: u64,
}

impl Split {
    /// A store's bytes are not here.
    pub fn clear(&mut self) {
        self.first = 0;
    }
}

const fn split(pushed: i32, offset: usize) -> Mem {
    under(pushed, offset_of!(Frame, split) + offset)
}

/// What a look-up goes on with.
pub struct Ways {
    /// Both pages are one range: r14 is its host address, and three registers are on the stack.
    pub found: Label,
    /// As for an access within the first page, to be entered into the page cache; `None`: `found`.
    pub fill: Option<Label>,
    /// Not simply known.
    pub slow: Label,
}

/// An access across the end of a page that the TLB knows. In: r14 the address, r11d `packed`, rax the distance from its page,
/// rcx the page's TLB entry; three registers on the stack.
pub fn look(a: &mut Asm, write: bool, ways: &Ways) {
    let tag = TlbEntry::offset_tag(write) as i32;
    let addend = TlbEntry::OFFSET_ADDEND as i32;
    let lin = under(32, offset_of!(Frame, lin));
    let unknown = a.label();
    a.store(B64, lin, R14);
    a.alu_imm(Alu::And, B64, Rm::R(R14), -4096);
    a.alu_imm(Alu::Sub, B64, Rm::R(R14), -4096);
    // The first page of 4 GiB has a flag, so no address wraps unnoticed: `softmmu::tlb`.
    data_entry(a, 32, RDX);
    a.alu(Alu::Cmp, B64, R14, Rm::M(Mem::at(RDX, tag)));
    a.jcc(Cond::Ne, unknown);
    a.load(B64, RDX, Rm::M(Mem::at(RDX, addend)));
    a.load(B64, RAX, Rm::M(lin));
    let apart = a.label();
    a.alu(Alu::Cmp, B64, RDX, Rm::M(Mem::at(RCX, addend)));
    a.jcc(Cond::Ne, apart);
    a.load(B64, R14, Rm::R(RAX));
    if let Some(fill) = ways.fill {
        a.jmp(fill);
        a.bind(apart);
        a.bind(unknown);
        a.load(B64, R14, Rm::M(lin));
        a.jmp(ways.slow);
        return;
    }
    a.alu(Alu::Add, B64, R14, Rm::R(RDX));
    a.jmp(ways.found);

    a.bind(apart);
    a.load(B64, RCX, Rm::M(Mem::at(RCX, addend)));
    a.alu(Alu::Add, B64, RCX, Rm::R(R14));
    a.alu(Alu::Add, B64, RDX, Rm::R(R14));
    a.alu(Alu::Sub, B64, R14, Rm::R(RAX));
    a.shift_imm(Shift::Shr, B32, Rm::R(R11), 16);
    a.movzx(B8, R11, Rm::R(R11));
    if write {
        a.store(B64, split(32, offset_of!(Split, end)), RCX);
        a.store(B64, split(32, offset_of!(Split, start)), RDX);
        a.store(B64, split(32, offset_of!(Split, first)), R14);
        a.load(B64, RAX, Rm::R(R11));
        a.alu(Alu::Sub, B64, RAX, Rm::R(R14));
        a.store(B64, split(32, offset_of!(Split, second)), RAX);
        // Behind the jump back: see `Stubs::write`.
        a.alu_imm(Alu::Add, B64, Rm::M(Mem::at(RSP, 24)), 5);
    }
    let bytes = |disp: i32| {
        let at = split(32, offset_of!(Split, bytes));
        Mem {
            disp: at.disp + disp,
            ..at
        }
    };
    let (wide, done) = (a.label(), a.label());
    a.alu_imm(Alu::Cmp, B32, Rm::R(R11), 8);
    a.jcc(Cond::A, wide);
    // One word, which is then loaded as it was stored.
    a.load(B64, RAX, Rm::M(Mem::at(RCX, -8)));
    a.load(B64, RDX, Rm::M(Mem::at(RDX, 0)));
    a.lea_scaled(B64, RCX, R14, 3, 0);
    a.group3(B64, 3, Rm::R(RCX)); // NEG
    a.shift_double_cl(true, B64, Rm::R(RAX), RDX);
    a.group3(B64, 3, Rm::R(R14));
    let place = Mem {
        index: Some((R14, 0)),
        ..bytes(HALF)
    };
    a.lea(B64, R14, place);
    a.store(B64, Mem::at(R14, 0), RAX);
    a.jmp(done);

    a.bind(wide);
    a.group3(B64, 3, Rm::R(R14));
    a.lea(B64, R14, place);
    for n in 0..HALF / 8 {
        a.load(B64, RAX, Rm::M(Mem::at(RCX, -8 * (n + 1))));
        a.store(B64, bytes(HALF - 8 * (n + 1)), RAX);
        a.load(B64, RAX, Rm::M(Mem::at(RDX, 8 * n)));
        a.store(B64, bytes(HALF + 8 * n), RAX);
        if n == 1 || n == 3 {
            a.alu_imm(Alu::Cmp, B32, Rm::R(R11), 8 * (n + 1));
            a.jcc(Cond::Be, done);
        }
    }
    a.bind(done);
    for r in [RDX, RCX, RAX] {
        a.pop(r);
    }
    a.ret();

    a.bind(unknown);
    a.load(B64, R14, Rm::M(lin));
    a.jmp(ways.slow);
}

/// A store's bytes back to their places; returns. Goes to `rust` where that has them, with everything as it was. Keeps flags and
/// registers but r14.
pub fn scatter(a: &mut Asm, rust: Label) {
    let other = a.label();
    let image = under(8, offset_of!(Frame, host_flags));
    a.load(B64, R14, Rm::R(RAX));
    a.raw(&[0x9f]); // LAHF
    a.setcc(Cond::O, Rm::R(RAX));
    a.store(B32, image, RAX);
    a.load(B64, RAX, Rm::M(split(8, offset_of!(Split, first))));
    a.test(B64, Rm::R(RAX), RAX);
    a.jcc(Cond::E, other);
    for r in [R14, R11, RCX, RDX] {
        a.push(r);
    }
    a.load(B64, RCX, Rm::M(split(40, offset_of!(Split, end))));
    a.alu(Alu::Sub, B64, RCX, Rm::R(RAX));
    let middle = split(40, offset_of!(Split, bytes) + HALF as usize);
    a.lea(B64, R14, middle);
    a.alu(Alu::Sub, B64, R14, Rm::R(RAX));
    copy(a);
    // r14 has come to the middle.
    a.load(B64, RCX, Rm::M(split(40, offset_of!(Split, start))));
    a.load(B64, RAX, Rm::M(split(40, offset_of!(Split, second))));
    copy(a);
    for r in [RDX, RCX, R11, R14] {
        a.pop(r);
    }
    let back = |a: &mut Asm| {
        a.load(B32, RAX, Rm::M(image));
        a.alu_imm(Alu::Add, B8, Rm::R(RAX), 0x7f); // OF
        a.byte(0x9e); // SAHF
        a.load(B64, RAX, Rm::R(R14));
    };
    back(a);
    a.ret();
    a.bind(other);
    back(a);
    a.jmp(rust);
}

/// Copies eax bytes from r14 on to rcx on, exactly; both are left behind them. rax, rdx, r11 lost.
fn copy(a: &mut Asm) {
    let part = |a: &mut Asm, reg: Reg, w: ir::Width| {
        a.load(w, reg, Rm::M(Mem::at(R14, 0)));
        a.store(w, Mem::at(RCX, 0), reg);
        let n = i32::from(w.bytes());
        for r in [R14, RCX] {
            a.lea(B64, r, Mem::at(r, n));
        }
    };
    for w in [B8, ir::Width::B16, B32, B64] {
        let next = a.label();
        a.test_imm(B8, Rm::R(RAX), i32::from(w.bytes()));
        a.jcc(Cond::E, next);
        part(a, RDX, w);
        a.bind(next);
    }
    let (top, done) = (a.label(), a.label());
    a.shift_imm(Shift::Shr, B32, Rm::R(RAX), 4);
    a.jcc(Cond::E, done);
    a.bind(top);
    part(a, RDX, B64);
    part(a, R11, B64);
    a.alu_imm(Alu::Sub, B32, Rm::R(RAX), 1);
    a.jcc(Cond::Ne, top);
    a.bind(done);
}
