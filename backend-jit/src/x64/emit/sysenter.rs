//! What a 32-bit kernel does at each system call, in place: SYSENTER, SYSEXIT, and loads of segment registers with what they
//! were loaded with before.
//!
//! Everything unusual is looked for first and left to the helper: then nothing has changed yet.

use std::mem::offset_of;

use ir::{Cond, Op, Operand, Width};
use softmmu::MmuIndex;
use system::far::{fast_code, fast_stack};
use x86::flags::{AC, RF, TF};
use x86::{Gpr, Msrs, Seg, Segment, cr4};

use super::Emit;
use super::syscall::msr;
use super::system::{CR4, RFLAGS, segment, vcpu};
use crate::core::key;
use crate::x64::asm::{Alu, Label, RCX, RDX, Rm, Section};
use crate::x64::frame::{self, Frame, S0, S1, field, home};
use crate::x64::known;

impl Emit<'_> {
    /// SYSENTER: the ops it takes.
    pub(super) fn sysenter(&mut self, at: usize, to: usize) -> Option<usize> {
        let slow = self.legacy_transfer(at, to, false)?;
        let (d, q) = (Width::B32, Width::B64);
        self.set_segment(Seg::Cs, &fast_code(0, 0, false));
        self.a.alu_imm(Alu::Add, d, Rm::R(S1), 8);
        self.set_segment(Seg::Ss, &fast_stack(0, 0));
        self.interrupt_flag(false);
        let rflags = Rm::M(vcpu(RFLAGS));
        self.a.alu_imm(Alu::And, d, rflags, !(RF as i32));
        let stack = vcpu(msr(offset_of!(Msrs, sysenter_esp)));
        let Rm::R(rsp) = home(Gpr::Rsp) else {
            return None;
        };
        self.a.load(d, rsp, Rm::M(stack));
        self.set_level(0, MmuIndex::SuperSmap);
        let entry = vcpu(msr(offset_of!(Msrs, sysenter_eip)));
        self.a.load(d, S1, Rm::M(entry));
        self.a.store(q, field(offset_of!(Frame, ret)), S1);
        self.run_on(false);
        self.slow_way(slow, at, to)?;
        Some(to - at)
    }

    /// SYSEXIT to 32-bit code: the ops it takes.
    pub(super) fn sysexit(&mut self, at: usize, to: usize) -> Option<usize> {
        let slow = self.legacy_transfer(at, to, true)?;
        let (d, q) = (Width::B32, Width::B64);
        self.a.alu_imm(Alu::Add, d, Rm::R(S1), 16 + 3);
        self.set_segment(Seg::Cs, &fast_code(0, 3, false));
        self.a.alu_imm(Alu::Add, d, Rm::R(S1), 8);
        self.set_segment(Seg::Ss, &fast_stack(0, 3));
        let Rm::R(rsp) = home(Gpr::Rsp) else {
            return None;
        };
        self.a.load(d, rsp, Rm::R(RCX));
        self.set_level(3, MmuIndex::User);
        self.a.load(d, S1, Rm::R(RDX));
        self.a.store(q, field(offset_of!(Frame, ret)), S1);
        self.run_on(true);
        self.slow_way(slow, at, to)?;
        Some(to - at)
    }

    /// What both look for; leaves the selector that they go by in S1 and the vCPU in S0.
    fn legacy_transfer(&mut self, at: usize, to: usize, user: bool) -> Option<Label> {
        let mode = self.cx.mode;
        let flat = !super::segmented(mode) && mode.flat(Seg::Ss) && mode.stack() == Width::B32;
        let fits = self.ends_block(at, to)
            && known::fits(mode)
            && !self.code64
            && flat
            && self.cx.key & key::LEGACY != 0;
        if !fits {
            return None;
        }
        let (slow, d) = (self.a.label(), Width::B32);
        self.spill();
        self.hf = false;
        self.mode_with_window(user);
        self.check_mode(user, slow);
        // No user pages for the kernel, no traps.
        self.a.test_imm(d, Rm::M(vcpu(CR4)), cr4::SMAP as i32);
        self.a.jcc(Cond::E, slow);
        self.a.test_imm(d, Rm::M(vcpu(RFLAGS)), (TF | AC) as i32);
        self.a.jcc(Cond::Ne, slow);
        let selector = vcpu(msr(offset_of!(Msrs, sysenter_cs)));
        self.a.load(d, S1, Rm::M(selector));
        self.a.alu_imm(Alu::And, d, Rm::R(S1), 0xfffc);
        self.a.jcc(Cond::E, slow);
        Some(slow)
    }

    /// The block's mode, but at another level and with a window where that level's is up to date, into S1. S0 is lost.
    fn mode_with_window(&mut self, user: bool) {
        self.a.mov_imm(S1, self.mode_at(user));
        let shut = self.window_shut(user);
        let bit = key::WINDOW.trailing_zeros() as u8;
        self.a.bit_imm(Width::B64, 5, Rm::R(S1), bit); // BTS
        self.a.bind(shut);
    }

    /// Goes to the label that is returned unless a window is up to date. S0 is lost.
    fn window_shut(&mut self, user: bool) -> Label {
        let shut = self.a.label();
        let now = Rm::M(field(offset_of!(Frame, data_gen)));
        let open = field(offset_of!(Frame, open) + usize::from(user) * 8);
        self.a.load(Width::B64, S0, now);
        self.a.alu(Alu::Cmp, Width::B64, S0, Rm::M(open));
        self.a.jcc(Cond::Ne, shut);
        shut
    }

    /// Goes on at the instruction pointer in `Frame::ret`, at a level that the MMU has been told of.
    fn run_on(&mut self, user: bool) {
        self.mode_with_window(user);
        self.a
            .store(Width::B64, field(offset_of!(Frame, running)), S1);
        let shut = self.window_shut(user);
        let view = field(offset_of!(Frame, views) + usize::from(user) * 8);
        self.a.load(Width::B64, S0, Rm::M(view));
        self.a.raw(&[0xf3, 0x49, 0x0f, 0xae, 0xde]); // WRGSBASE r14
        self.a.bind(shut);
        let ret = Rm::M(field(offset_of!(Frame, ret)));
        self.a.load(Width::B64, S1, ret);
        self.leave_to(0, user);
    }

    /// A load of a segment register, by what is known of the selector, or else by its helper.
    pub(super) fn load_segment(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let Operand::Imm(n) = op.a else { return None };
        let seg = Seg::from_index(usize::try_from(n).ok()?)?;
        let legacy = self.cx.key & key::LEGACY != 0 && !self.code64;
        if !legacy || !known::fits(self.cx.mode) || matches!(seg, Seg::Cs | Seg::Ss) {
            return self.by_helper(at, to, op);
        }
        let (slow, done) = (self.a.label(), self.a.label());
        self.clobber_for_call();
        self.spill();
        self.hf = false;
        self.fetch(Width::B16, S1, op.b)?;
        self.a.movzx(Width::B16, S1, Rm::R(S1));
        let key = known::key(seg, self.cx.mode).cast_signed();
        self.a.alu_imm(Alu::Or, Width::B32, Rm::R(S1), key);
        self.a.mov_imm(S0, (seg as usize * known::STRIDE) as u64);
        self.a.call(self.stubs.load_seg);
        self.a.jcc(Cond::B, slow);
        if let Some(copy) = frame::base(seg) {
            self.load_vcpu();
            let base = vcpu(segment(seg) + offset_of!(Segment, base));
            self.a.load(Width::B64, S1, Rm::M(base));
            self.a.store(Width::B64, copy, S1);
        }
        self.a.bind(done);
        let old = self.a.section(Section::Cold);
        self.a.bind(slow);
        let taken = self.by_helper(at, to, op)?;
        self.a.jmp(done);
        self.a.section(old);
        Some(taken)
    }
}
