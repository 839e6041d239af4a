//! String instructions in place that go upwards: single ones, and REP STOS and REP MOVS within a page of RAM, as most of a
//! kernel's are.

use std::mem::offset_of;

use ir::{Cond, Op, Operand, Rep, StringKind, StringOp, Width};
use x86::{Gpr, PAGE_MASK, PAGE_SIZE, Seg, flags};

use super::system::{RFLAGS, vcpu};
use super::{Emit, Kind};
use crate::x64::asm::{Alu, Label, Mem, RAX, RCX, RDI, RSI, Reg, Rm, Section};
use crate::x64::frame::{Frame, PageCache, S0, S1, cached, field};
use crate::x64::runtime::packed;

impl Emit<'_> {
    /// The string instruction that begins at op `at - 1`: in place if the ranges lie within a page each that the TLB knows,
    /// else by the interpreter, before anything has changed.
    pub(super) fn string(&mut self, at: usize, to: usize, op: &Op) -> Option<()> {
        let what = StringOp::decode(op.sub)?;
        let movs = what.kind == StringKind::Movs;
        let reads = !matches!(what.kind, StringKind::Stos | StringKind::Scas);
        let w = if self.code64 { Width::B64 } else { Width::B32 };
        let seg = Seg::from_index(usize::from(what.seg))?;
        let mode = self.cx.mode;
        // 64-bit code has bases of FS and GS alone, which are rare here.
        let whole = what.addr == w && (!reads || mode.flat(seg));
        if what.rep == Rep::None && (whole || !self.code64) {
            return self.string_once(op, &what, seg);
        }
        if what.addr != w || !mode.flat(Seg::Es) || (reads && !mode.flat(seg)) {
            return None;
        }
        if what.rep != Rep::Rep || !(movs || what.kind == StringKind::Stos) || to != at + 1 {
            return None;
        }
        // Both ways find and leave the flags in memory.
        self.clobber();
        self.spill();
        self.hf = false;
        self.forget_checks();
        let (slow, done) = (self.a.label(), self.a.label());
        let scale = what.width.bytes().trailing_zeros() as u8;
        let (stores, loads) = (self.range(Gpr::Rdi, true), self.range(Gpr::Rsi, false));

        self.load_vcpu();
        let rflags = Rm::M(vcpu(RFLAGS));
        self.a.test_imm(Width::B32, rflags, flags::DF as i32);
        self.a.jcc(Cond::Ne, slow);
        self.a.test(w, Rm::R(RCX), RCX);
        self.a.jcc(Cond::E, done);
        let most = PAGE_SIZE as i32 >> scale;
        self.a.alu_imm(Alu::Cmp, w, Rm::R(RCX), most);
        self.a.jcc(Cond::A, slow);
        self.host_place(w, &stores, scale, slow);
        let behind = |base: Reg| Mem {
            base,
            index: Some((RCX, scale)),
            disp: 0,
            gs: false,
        };
        if w == Width::B32 {
            // The host counts with all of it.
            self.a.load(w, RCX, Rm::R(RCX));
        }
        if movs {
            let [place, source] = [0, 8].map(|n| field(offset_of!(Frame, string) + n));
            self.a.store(Width::B64, place, S0);
            self.host_place(w, &loads, scale, slow);
            self.a.lea(w, S1, behind(RSI));
            self.a.store(Width::B64, source, S1);
            self.a.lea(w, S1, behind(RDI));
            self.a.load(Width::B64, RSI, Rm::R(S0));
            self.a.load(Width::B64, RDI, Rm::M(place));
            self.a.rep(what.width, true);
            self.a.load(Width::B64, RSI, Rm::M(source));
        } else {
            self.a.lea(w, S1, behind(RDI));
            self.a.load(Width::B64, RDI, Rm::R(S0));
            self.a.rep(what.width, false);
        }
        self.a.load(Width::B64, RDI, Rm::R(S1));
        self.or_slow(slow, done, at - 1, to)
    }

    /// A single one; the interpreter does it where it goes downwards.
    fn string_once(&mut self, op: &Op, what: &StringOp, seg: Seg) -> Option<()> {
        use StringKind as K;
        let [rax, rsi, rdi] = [Gpr::Rax, Gpr::Rsi, Gpr::Rdi].map(Operand::Reg);
        let w = what.width;
        let size = u32::from(w.bytes());
        let kept = field(offset_of!(Frame, string));
        let (from, to, addr) = ((seg, Gpr::Rsi), (Seg::Es, Gpr::Rdi), what.addr);
        let (reads, writes) = match what.kind {
            K::Lods => (true, false),
            K::Stos | K::Scas => (false, true),
            K::Movs | K::Cmps => (true, true),
            K::Ins | K::Outs => return None,
        };
        self.clobber();
        let changed = [(what.kind == K::Lods, rax), (reads, rsi), (writes, rdi)];
        for (_, operand) in changed.iter().filter(|(changes, _)| *changes) {
            self.preserve(*operand);
        }
        let odd = self.a.label();
        self.load_vcpu();
        let rflags = Rm::M(vcpu(RFLAGS));
        self.a.test_imm(Width::B32, rflags, flags::DF as i32);
        self.a.jcc(Cond::Ne, odd);
        self.interpret_from(odd);

        if reads {
            let source = self.string_operand(from, addr, size, false)?;
            self.access(&source, size, false, Kind::default())?;
            self.a.movzx(w, S1, Rm::M(self.here));
        }
        match what.kind {
            K::Lods => self.finish(w, rax, S1)?,
            K::Stos => {
                let place = self.string_operand(to, addr, size, true)?;
                self.writing(&place, size, Kind::default(), |e| {
                    e.a.store(w, e.here, RAX);
                    Some(())
                })?;
            }
            K::Movs => {
                self.a.store(Width::B64, kept, S1);
                let place = self.string_operand(to, addr, size, true)?;
                self.writing(&place, size, Kind::default(), |e| {
                    e.a.load(Width::B64, S1, Rm::M(kept));
                    e.a.store(w, e.here, S1);
                    Some(())
                })?;
            }
            K::Scas => {
                let place = self.string_operand(to, addr, size, false)?;
                self.access(&place, size, false, Kind::default())?;
                self.a.alu(Alu::Cmp, w, RAX, Rm::M(self.here));
                self.flags_set(op, None);
            }
            _ => {
                self.a.store(Width::B64, kept, S1);
                let place = self.string_operand(to, addr, size, false)?;
                self.access(&place, size, false, Kind::default())?;
                self.a.load(Width::B64, S1, Rm::M(kept));
                self.a.alu(Alu::Cmp, w, S1, Rm::M(self.here));
                self.flags_set(op, None);
            }
        }
        for (moves, reg) in [(reads, RSI), (writes, RDI)] {
            if moves {
                self.a.lea(what.addr, reg, Mem::at(reg, size as i32));
            }
        }
        Some(())
    }

    fn range(&self, g: Gpr, write: bool) -> Range {
        let cache = cached(self.user, g as usize);
        let (minus, addend) = PageCache::fields(write);
        Range {
            reg: g as Reg,
            minus: field(cache + minus),
            addend: field(cache + addend),
            packed: packed(cache, 1, 1, !self.user),
            stub: if write {
                self.stubs.place_write
            } else {
                self.stubs.place_read
            },
        }
    }

    /// The host address of a range of RCX elements into S0, if it is not too long for its page; S1 is lost.
    fn host_place(&mut self, w: Width, range: &Range, scale: u8, slow: Label) {
        let (q, mask) = (Width::B64, PAGE_MASK as i32);
        self.a.load(Width::B32, S1, Rm::R(range.reg));
        self.a.alu_imm(Alu::And, Width::B32, Rm::R(S1), mask);
        let end = Mem {
            base: S1,
            index: Some((RCX, scale)),
            disp: 0,
            gs: false,
        };
        self.a.lea(Width::B32, S1, end);
        self.a
            .alu_imm(Alu::Cmp, Width::B32, Rm::R(S1), PAGE_SIZE as i32);
        self.a.jcc(Cond::A, slow);
        self.a.load(w, S0, Rm::R(range.reg));
        self.a.load(q, S1, Rm::R(S0));
        self.a.alu(Alu::Add, q, S1, Rm::M(range.minus));
        self.a.alu_imm(Alu::Cmp, q, Rm::R(S1), mask);
        let (miss, here) = (self.a.label(), self.a.label());
        self.a.jcc(Cond::A, miss);
        self.a.load(q, S1, Rm::M(range.addend));
        if self.code64 {
            // Registers are others when it faults.
            let none = field(offset_of!(Frame, no_addend));
            self.a.alu(Alu::Cmp, q, S1, Rm::M(none));
            self.a.jcc(Cond::E, miss);
        }
        self.a.alu(Alu::Add, q, S0, Rm::R(S1));
        self.a.bind(here);
        let old = self.a.section(Section::Cold);
        self.a.bind(miss);
        self.a.mov_imm(S1, u64::from(range.packed));
        self.a.call(range.stub);
        self.a.jcc(Cond::Ae, here);
        self.a.jmp(slow);
        self.a.section(old);
    }
}

/// One side of a string instruction.
struct Range {
    reg: Reg,
    minus: Mem,
    addend: Mem,
    packed: u32,
    stub: u32,
}
