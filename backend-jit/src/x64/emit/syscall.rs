//! SYSCALL and SYSRET in place, for a kernel that works as 64-bit kernels do: no way through the run loop.
//!
//! Everything unusual is looked for first and left to the helper: then nothing has changed yet.

use std::mem::offset_of;

use ir::{Cond, Exit, Op, OpCode, Operand, Width};
use softmmu::{Mmu, MmuIndex};
use system::far::{SYSRET_FLAGS, fast_code, fast_stack};
use system::{LazyFlags, Vcpu, event};
use x86::flags::{AC, FIXED, IF, TF, WRITABLE};
use x86::{CpuState, Gpr, Msrs, Seg, Segment, cr4, efer};

use super::Emit;
use super::system::{CR4, RFLAGS, segment, st, vcpu};
use crate::core::key;
use crate::x64::asm::{Alu, Field, Label, Mem, RCX, Rm, Shift};
use crate::x64::flags::State;
use crate::x64::frame::{Frame, S1, field, home};

const EFER: usize = st(offset_of!(CpuState, efer));

pub(super) const fn msr(offset: usize) -> usize {
    st(offset_of!(CpuState, msr) + offset)
}

impl Emit<'_> {
    /// SYSCALL: the ops it takes.
    pub(super) fn syscall(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let Operand::Imm(len) = op.b else { return None };
        self.fast_transfer(at, to)?;
        let next = self.pc(self.insn.delta + i32::try_from(len).ok()?);
        let (slow, d, q) = (self.a.label(), Width::B32, Width::B64);
        self.check_target(false, slow);
        let smap = Rm::M(vcpu(CR4));
        self.a.test_imm(d, smap, cr4::SMAP as i32);
        self.a.jcc(Cond::E, slow);
        // No interrupts in the kernel, no user pages: otherwise there is more to decide.
        let fmask = Rm::M(vcpu(msr(offset_of!(Msrs, fmask))));
        let both = (IF | AC) as i32;
        self.a.load(d, S1, fmask);
        self.a.alu_imm(Alu::And, d, Rm::R(S1), both);
        self.a.alu_imm(Alu::Cmp, d, Rm::R(S1), both);
        self.a.jcc(Cond::Ne, slow);

        self.flags_image();
        let Rm::M(r11) = home(Gpr::R11) else {
            return None;
        };
        self.a.store(q, r11, S1);
        self.a.load(d, RCX, fmask);
        self.a.group3(d, 2, Rm::R(RCX)); // NOT
        self.a.alu(Alu::And, d, S1, Rm::R(RCX));
        self.set_rflags(WRITABLE);
        self.a
            .load(q, RCX, Rm::M(vcpu(msr(offset_of!(Msrs, star)))));
        self.a.shift_imm(Shift::Shr, q, Rm::R(RCX), 32);
        self.a.load(d, S1, Rm::R(RCX));
        self.a.alu_imm(Alu::And, d, Rm::R(S1), 0xfffc);
        self.set_segment(Seg::Cs, &fast_code(0, 0, true));
        self.a.lea(d, S1, Mem::at(RCX, 8));
        self.set_segment(Seg::Ss, &fast_stack(0, 0));
        self.interrupt_flag(false);
        self.a.mov_imm(RCX, next);
        self.a.note(0, Field::Address);
        self.set_privilege(0, MmuIndex::SuperSmap);
        self.a
            .load(q, S1, Rm::M(vcpu(msr(offset_of!(Msrs, lstar)))));
        self.leave_to(0, false);
        self.slow_way(slow, at, to)?;
        Some(to - at)
    }

    /// SYSRET to 64-bit code: the ops it takes.
    pub(super) fn sysret(&mut self, at: usize, to: usize) -> Option<usize> {
        self.fast_transfer(at, to)?;
        let (slow, d, q) = (self.a.label(), Width::B32, Width::B64);
        self.spill();
        self.hf = false;
        // Canonical in 48 bits.
        self.a.load(q, S1, Rm::R(RCX));
        self.a.shift_imm(Shift::Shl, q, Rm::R(S1), 16);
        self.a.shift_imm(Shift::Sar, q, Rm::R(S1), 16);
        self.a.alu(Alu::Cmp, q, S1, Rm::R(RCX));
        self.a.jcc(Cond::Ne, slow);
        self.check_target(true, slow);
        let word = field(offset_of!(Frame, event_word));
        let mask = field(offset_of!(Frame, event_mask));
        self.a.load(q, S1, Rm::M(word));
        self.a.load(d, S1, Rm::M(Mem::at(S1, 0)));
        self.a.test_imm(d, Rm::R(S1), event::INTR.cast_signed());
        self.a.jcc(Cond::Ne, slow);
        self.a.test(d, Rm::M(mask), S1);
        self.a.jcc(Cond::Ne, slow);
        self.a.load(d, S1, home(Gpr::R11));
        self.a
            .alu_imm(Alu::And, d, Rm::R(S1), (IF | TF | AC) as i32);
        self.a.alu_imm(Alu::Cmp, d, Rm::R(S1), IF as i32);
        self.a.jcc(Cond::Ne, slow);

        self.a.load(d, S1, home(Gpr::R11));
        self.set_rflags(WRITABLE & SYSRET_FLAGS);
        let base = Rm::M(vcpu(msr(offset_of!(Msrs, star)) + 6));
        for (seg, offset) in [(Seg::Cs, 16), (Seg::Ss, 8)] {
            self.a.movzx(Width::B16, S1, base);
            self.a.alu_imm(Alu::Add, d, Rm::R(S1), offset);
            self.a.alu_imm(Alu::Or, d, Rm::R(S1), 3);
            let cs = seg == Seg::Cs;
            let value = if cs {
                fast_code(0, 3, true)
            } else {
                fast_stack(0, 3)
            };
            self.set_segment(seg, &value);
        }
        self.interrupt_flag(true);
        self.set_privilege(3, MmuIndex::User);
        self.a.load(q, S1, Rm::R(RCX));
        self.leave_to(0, true);
        self.slow_way(slow, at, to)?;
        Some(to - at)
    }

    /// Whether the ops from `at` on are a call and its exit, in a block that may go on in another mode.
    fn fast_transfer(&self, at: usize, to: usize) -> Option<()> {
        (self.code64 && self.ends_block(at, to)).then_some(())
    }

    /// Whether nothing but the block's end follows a helper, and it is not there for itself.
    pub(super) fn ends_block(&self, at: usize, to: usize) -> bool {
        let exit = self.ops.get(at + 1).filter(|_| at + 2 == to);
        exit.is_some_and(|exit| exit.code == OpCode::Exit && exit.sub == Exit::Helper as u32)
            && self.cx.key & key::SINGLE == 0
    }

    /// Goes to `slow` unless SYSCALL is enabled and the jump cache is the mode's that comes; leaves the vCPU in S0.
    fn check_target(&mut self, user: bool, slow: Label) {
        self.spill();
        self.hf = false;
        self.a.mov_imm(S1, self.mode_at(user));
        self.check_mode(user, slow);
        let enabled = Rm::M(vcpu(EFER));
        self.a.test_imm(Width::B32, enabled, efer::SCE as i32);
        self.a.jcc(Cond::E, slow);
    }

    /// Goes to `slow` unless the jump cache of a level is that of the mode in S1; leaves the vCPU in S0.
    pub(super) fn check_mode(&mut self, user: bool, slow: Label) {
        let known = field(offset_of!(Frame, modes) + usize::from(user) * 8);
        self.a.alu(Alu::Cmp, Width::B64, S1, Rm::M(known));
        self.a.jcc(Cond::Ne, slow);
        self.load_vcpu();
    }

    /// The block's mode, but at another level.
    pub(super) fn mode_at(&self, user: bool) -> u64 {
        let mode = self.cx.mode.with(|p| {
            p.cpl = if user { 3 } else { 0 };
            p.align_check = false;
        });
        mode.bits() | self.cx.key
    }

    /// The bits of `mask` in S1 become RFLAGS; the vCPU is in S0.
    fn set_rflags(&mut self, mask: u64) {
        let d = Width::B32;
        self.a.alu_imm(Alu::And, d, Rm::R(S1), mask as i32);
        self.a.alu_imm(Alu::Or, d, Rm::R(S1), FIXED as i32);
        self.a.store(Width::B64, vcpu(RFLAGS), S1);
        let image = field(offset_of!(Frame, flags) + offset_of!(LazyFlags, a));
        self.a.store(Width::B64, image, S1);
        self.image_kind();
        self.state = State::Memory;
        self.hf = false;
    }

    /// A segment register with the selector in S1; the vCPU is in S0.
    pub(super) fn set_segment(&mut self, seg: Seg, value: &Segment) {
        let at = |offset: usize| vcpu(segment(seg) + offset);
        let base = Rm::M(at(offset_of!(Segment, base)));
        self.a.store_imm(Width::B64, base, 0);
        for (offset, n) in [
            (offset_of!(Segment, limit), value.limit),
            (offset_of!(Segment, attr), value.attr),
        ] {
            self.a
                .store_imm(Width::B32, Rm::M(at(offset)), n.cast_signed());
        }
        self.a
            .store(Width::B16, at(offset_of!(Segment, selector)), S1);
    }

    /// Tells the MMU and the engine of the level. The vCPU is in S0; S1 is lost.
    fn set_privilege(&mut self, cpl: u8, index: MmuIndex) {
        self.set_level(cpl, index);
        self.a.mov_imm(S1, self.mode_at(cpl == 3));
        let running = field(offset_of!(Frame, running));
        self.a.store(Width::B64, running, S1);
    }

    /// Tells the MMU of the level, EFLAGS.AC being clear. The vCPU is in S0; S1 is lost.
    pub(super) fn set_level(&mut self, cpl: u8, index: MmuIndex) {
        let mmu = offset_of!(Vcpu, mmu);
        for (offset, n) in [
            (Mmu::OFFSET_CPL, i32::from(cpl)),
            (Mmu::OFFSET_AC, 0),
            (Mmu::OFFSET_INDEX, index as i32),
        ] {
            self.a.store_imm(Width::B8, Rm::M(vcpu(mmu + offset)), n);
        }
        self.use_tables(index);
    }
}
