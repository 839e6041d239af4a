//! System instructions that kernels run at every turn, in place; the rest by the shortest way to their helper.

use std::mem::offset_of;

use ir::{Exit, HelperId, Op, OpCode, Operand, Width};
use softmmu::{Mmu, MmuIndex};
use system::{Vcpu, event};
use x86::{CpuState, Msrs, Seg, Segment, cr4, flags};

use super::Emit;
use crate::core::key;
use crate::x64::asm::{Alu, Mem, RCX, Rm, Section, Shift};
use crate::x64::flags::State;
use crate::x64::frame::{self, Frame, S0, S1, field};
use crate::x64::time::TSC_AUX;

/// An instruction that is one helper's call with constant arguments.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    pub helper: HelperId,
    pub args: Args,
    /// What follows; `None`: the next instruction.
    pub exit: Option<Exit>,
}

/// The arguments of a helper.
#[derive(Clone, Copy, Debug)]
pub enum Args {
    Constant([u64; 3]),
    /// The code has put them into the frame, which takes the result, too, and whether what is next may be gone on with.
    Frame,
}

/// The call that an instruction is, if there is no more to it and it leaves MXCSR and the x87 alone.
pub fn direct(ops: &[Op]) -> Option<Direct> {
    use HelperId as H;
    let (call, exit) = match ops {
        [_, call] => (call, None),
        [_, call, exit] if exit.code == OpCode::Exit => {
            (call, Some(*Exit::ALL.get(exit.sub as usize)?))
        }
        _ => return None,
    };
    let helper = HelperId::from_index(call.sub)?;
    let fits = matches!(
        helper,
        H::Syscall
            | H::Sysret
            | H::Sysenter
            | H::Sysexit
            | H::Iret
            | H::Sti
            | H::Cli
            | H::SetAc
            | H::Swapgs
            | H::Clts
            | H::Rdmsr
            | H::Wrmsr
            | H::Rdtsc
            | H::Cpuid
            | H::Pause
            | H::Hlt
    );
    if call.code != OpCode::Call || !fits || call.dst != Operand::None {
        return None;
    }
    let arg = |operand| match operand {
        Operand::None => Some(0),
        Operand::Imm(n) => Some(n.cast_unsigned()),
        _ => None,
    };
    Some(Direct {
        helper,
        args: Args::Constant([arg(call.a)?, arg(call.b)?, arg(call.c)?]),
        exit,
    })
}

pub(in crate::x64) const fn st(offset: usize) -> usize {
    offset_of!(Vcpu, st) + offset
}

pub(in crate::x64) const fn segment(seg: Seg) -> usize {
    st(offset_of!(CpuState, seg) + seg as usize * size_of::<Segment>())
}

pub(super) const RFLAGS: usize = st(offset_of!(CpuState, rflags));
pub(super) const CR4: usize = st(offset_of!(CpuState, cr4));
const KERNEL_GS: usize = st(offset_of!(CpuState, msr) + offset_of!(Msrs, kernel_gs_base));

/// A field of the vCPU, whose address is in S0.
pub(super) fn vcpu(offset: usize) -> Mem {
    Mem::at(S0, offset as i32)
}

impl Emit<'_> {
    /// A helper's call, with the exit behind it where there is one; how many ops that were.
    pub(super) fn call(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let helper = HelperId::from_index(op.sub)?;
        let kernel = self.cx.mode.cpl() == 0;
        let next = self
            .ops
            .get(at + 1)
            .filter(|next| at + 1 < to && next.code == OpCode::Exit)
            .copied();
        match helper {
            HelperId::Cli if kernel => {
                self.clobber();
                self.load_vcpu();
                self.interrupt_flag(false);
                Some(1)
            }
            // Where instructions are counted the interrupt window opens with the next one, to the instruction.
            HelperId::Sti if kernel && !self.cx.count => self.sti(at, to, &next?),
            HelperId::SetAc if kernel && !self.cx.count => {
                self.set_ac(at, to, op.a == Operand::Imm(1), &next?)
            }
            HelperId::Swapgs if kernel && self.code64 => {
                self.swapgs();
                Some(1)
            }
            HelperId::PushfImage if !self.cx.mode.vm86() => {
                self.pushf(op)?;
                Some(1)
            }
            HelperId::Popf if kernel => {
                self.popf(at, to, op)?;
                Some(1)
            }
            HelperId::Rdtsc if !self.cx.count => {
                self.rdtsc(at, to, op)?;
                Some(1)
            }
            HelperId::ReadSegBase if self.code64 => {
                let seg = Self::based(op.a)?;
                self.preserve(op.dst);
                self.load_vcpu();
                let base = segment(seg) + offset_of!(Segment, base);
                self.a.load(Width::B64, S1, Rm::M(vcpu(base)));
                self.finish(Width::B64, op.dst, S1)?;
                Some(1)
            }
            HelperId::WriteSegBase if self.code64 && at + 1 == to => {
                self.write_base(at, to, op)?;
                Some(1)
            }
            HelperId::Syscall => self.syscall(at, to, op),
            HelperId::Sysret if kernel && op.c == Operand::Imm(8) => self.sysret(at, to),
            HelperId::Sysenter => self.sysenter(at, to),
            HelperId::Sysexit if kernel && op.c == Operand::Imm(4) => self.sysexit(at, to),
            HelperId::LoadSeg => self.load_segment(at, to, op),
            HelperId::ReadSeg => {
                let Operand::Imm(n) = op.a else { return None };
                let seg = Seg::from_index(usize::try_from(n).ok()?)?;
                self.preserve(op.dst);
                self.load_vcpu();
                let selector = segment(seg) + offset_of!(Segment, selector);
                self.a.movzx(Width::B16, S1, Rm::M(vcpu(selector)));
                self.finish(Width::B64, op.dst, S1)?;
                Some(1)
            }
            _ => self.by_helper(at, to, op),
        }
    }

    /// FS or GS.
    fn based(operand: Operand) -> Option<Seg> {
        let Operand::Imm(n) = operand else {
            return None;
        };
        let seg = Seg::from_index(usize::try_from(n).ok()?)?;
        matches!(seg, Seg::Fs | Seg::Gs).then_some(seg)
    }

    /// WRFSBASE, WRGSBASE, where the base is canonical in 48 bits.
    fn write_base(&mut self, at: usize, to: usize, op: &Op) -> Option<()> {
        let (seg, q) = (Self::based(op.a)?, Width::B64);
        let start = (0..at).rev().find(|i| self.ops[*i].code == OpCode::Insn)?;
        let (slow, done) = (self.a.label(), self.a.label());
        self.spill();
        self.hf = false;
        self.fetch(q, S1, op.b)?;
        self.a.load(q, S0, Rm::R(S1));
        self.a.shift_imm(Shift::Shl, q, Rm::R(S0), 16);
        self.a.shift_imm(Shift::Sar, q, Rm::R(S0), 16);
        self.a.alu(Alu::Cmp, q, S0, Rm::R(S1));
        self.a.jcc(ir::Cond::Ne, slow);
        self.load_vcpu();
        let base = segment(seg) + offset_of!(Segment, base);
        self.a.store(q, vcpu(base), S1);
        self.a.store(q, frame::base(seg)?, S1);
        self.or_slow(slow, done, start, to)
    }

    pub(super) fn load_vcpu(&mut self) {
        self.a
            .load(Width::B64, S0, Rm::M(field(offset_of!(Frame, vcpu))));
    }

    /// Changes RFLAGS.IF and what a poll stops for.
    pub(super) fn interrupt_flag(&mut self, on: bool) {
        let (rflags, mask) = (
            Rm::M(vcpu(RFLAGS)),
            Rm::M(field(offset_of!(Frame, event_mask))),
        );
        let (bit, intr) = (flags::IF as i32, event::INTR.cast_signed());
        if on {
            self.a.alu_imm(Alu::Or, Width::B32, rflags, bit);
            self.a.alu_imm(Alu::Or, Width::B32, mask, intr);
        } else {
            self.a.alu_imm(Alu::And, Width::B32, rflags, !bit);
            self.a.alu_imm(Alu::And, Width::B32, mask, !intr);
        }
    }

    /// STI where nothing waits for it: otherwise the interpreter's, which knows the shadow.
    fn sti(&mut self, at: usize, to: usize, next: &Op) -> Option<usize> {
        if next.sub != Exit::Next as u32 {
            return None;
        }
        self.spill();
        self.hf = false;
        let wait = self.a.label();
        let word = field(offset_of!(Frame, event_word));
        self.a.load(Width::B64, S1, Rm::M(word));
        self.a.load(Width::B32, S1, Rm::M(Mem::at(S1, 0)));
        self.a
            .test_imm(Width::B32, Rm::R(S1), event::INTR.cast_signed());
        self.a.jcc(ir::Cond::Ne, wait);
        let mask = field(offset_of!(Frame, event_mask));
        self.a.test(Width::B32, Rm::M(mask), S1);
        self.a.jcc(ir::Cond::Ne, wait);
        self.load_vcpu();
        self.interrupt_flag(true);
        self.go_on(next)?;
        self.slow_way(wait, at, to)?;
        Some(to - at)
    }

    /// STAC and CLAC: other tables, RFLAGS.AC. Page caches hold no user pages of supervisor code that it may use now only.
    fn set_ac(&mut self, at: usize, to: usize, on: bool, next: &Op) -> Option<usize> {
        let legacy = self.cx.key & key::LEGACY != 0;
        if next.sub != Exit::Next as u32 || !(self.code64 || legacy) {
            return None;
        }
        self.spill();
        self.hf = false;
        self.load_vcpu();
        let slow = self.a.label();
        let smap = Rm::M(vcpu(CR4));
        self.a.test_imm(Width::B32, smap, cr4::SMAP as i32);
        self.a.jcc(ir::Cond::E, slow);
        let (rflags, bit) = (Rm::M(vcpu(RFLAGS)), flags::AC as i32);
        let index = if on {
            self.a.alu_imm(Alu::Or, Width::B32, rflags, bit);
            MmuIndex::Super
        } else {
            self.a.alu_imm(Alu::And, Width::B32, rflags, !bit);
            MmuIndex::SuperSmap
        };
        let mmu = offset_of!(Vcpu, mmu);
        let ac = Rm::M(vcpu(mmu + Mmu::OFFSET_AC));
        self.a.store_imm(Width::B8, ac, i32::from(on));
        let at_index = Rm::M(vcpu(mmu + Mmu::OFFSET_INDEX));
        self.a.store_imm(Width::B8, at_index, index as i32);
        self.use_tables(index);
        if legacy {
            self.a.mov_imm(S1, u64::from(!on) << 63);
            let keeps = field(offset_of!(Frame, keeps_pages));
            self.a.store(Width::B64, keeps, S1);
        }
        self.go_on(next)?;
        self.slow_way(slow, at, to)?;
        Some(to - at)
    }

    /// Makes an index's tables the current ones. The vCPU is in S0; S1 is lost.
    pub(super) fn use_tables(&mut self, index: MmuIndex) {
        let mmu = offset_of!(Vcpu, mmu);
        for half in 0..2 {
            let table = mmu + Mmu::OFFSET_TABLES + (index as usize * 2 + half) * 8;
            self.a.load(Width::B64, S1, Rm::M(vcpu(table)));
            let data = vcpu(mmu + Mmu::OFFSET_DATA + half * 8);
            self.a.store(Width::B64, data, S1);
        }
    }

    /// Goes on where an exit says, without a look at the mode.
    pub(super) fn go_on(&mut self, exit: &Op) -> Option<()> {
        let target = self.exit_target(exit.a, exit.width)?;
        self.way_out(target, |e, stub| e.a.jmp_link(stub));
        Some(())
    }

    /// The whole instruction by the interpreter, in the cold section; it is the block's last.
    pub(super) fn slow_way(
        &mut self,
        label: crate::x64::asm::Label,
        at: usize,
        to: usize,
    ) -> Option<()> {
        let start = (0..at).rev().find(|i| self.ops[*i].code == OpCode::Insn)?;
        let old = self.a.section(Section::Cold);
        self.a.bind(label);
        self.slow_op(start, to).ok()?;
        self.a.section(old);
        Some(())
    }

    fn swapgs(&mut self) {
        self.load_vcpu();
        let (kernel, base) = (
            vcpu(KERNEL_GS),
            vcpu(segment(Seg::Gs) + offset_of!(Segment, base)),
        );
        let copy = field(offset_of!(Frame, gs_base));
        let w = Width::B64;
        self.a.load(w, S1, Rm::M(kernel));
        self.a.store(w, copy, S1);
        self.a.load(w, S1, Rm::M(base));
        self.a.store(w, kernel, S1);
        self.a.load(w, S1, Rm::M(copy));
        self.a.store(w, base, S1);
    }

    /// CLD, STD.
    pub(super) fn set_df(&mut self, down: bool) {
        self.clobber();
        self.load_vcpu();
        let (rflags, bit) = (Rm::M(vcpu(RFLAGS)), flags::DF as i32);
        if down {
            self.a.alu_imm(Alu::Or, Width::B32, rflags, bit);
        } else {
            self.a.alu_imm(Alu::And, Width::B32, rflags, !bit);
        }
    }

    /// POPF at level 0, where it changes no more than status, direction and interrupt flag: the exit that follows looks at
    /// events.
    fn popf(&mut self, at: usize, to: usize, op: &Op) -> Option<()> {
        let d = Width::B32;
        self.clobber_for_call();
        let before = self.flags();
        let (slow, done) = (self.a.label(), self.a.label());
        let mut others = flags::TF | flags::NT | flags::IOPL;
        if op.c != Operand::Imm(2) {
            others |= flags::AC | flags::ID;
        }
        self.fetch(Width::B64, S1, op.a)?;
        self.load_vcpu();
        let rflags = Rm::M(vcpu(RFLAGS));
        self.a.alu(Alu::Xor, d, S1, rflags);
        self.a.test_imm(d, Rm::R(S1), others as i32);
        self.a.jcc(ir::Cond::Ne, slow);
        self.a.alu(Alu::Xor, d, S1, rflags);
        let image = field(offset_of!(Frame, flags) + offset_of!(system::LazyFlags, a));
        self.a.store(Width::B64, image, S1);
        self.image_kind();
        let kept = (flags::DF | flags::IF) as i32;
        let away = !(kept | flags::RF as i32);
        self.a.alu_imm(Alu::And, d, Rm::R(S1), kept);
        self.a.alu_imm(Alu::And, d, rflags, away);
        self.a.alu_to(Alu::Or, d, rflags, S1);
        let (mask, intr) = (field(offset_of!(Frame, event_mask)), event::INTR);
        let off = self.a.label();
        self.a
            .alu_imm(Alu::And, d, Rm::M(mask), !intr.cast_signed());
        self.a.test_imm(d, Rm::R(S1), flags::IF as i32);
        self.a.jcc(ir::Cond::E, off);
        self.a.alu_imm(Alu::Or, d, Rm::M(mask), intr.cast_signed());
        self.a.bind(off);
        self.a.bind(done);
        let old = self.a.section(Section::Cold);
        self.a.bind(slow);
        self.set_flags(before);
        self.by_helper(at, to, op)?;
        self.a.jmp(done);
        self.a.section(old);
        Some(())
    }

    /// RDTSC, and RDTSCP where `op.a` is not 0.
    fn rdtsc(&mut self, at: usize, to: usize, op: &Op) -> Option<()> {
        self.spill();
        self.hf = false;
        let start = (0..at).rev().find(|i| self.ops[*i].code == OpCode::Insn)?;
        let (slow, done) = (self.a.label(), self.a.label());
        if self.cx.mode.cpl() != 0 {
            self.load_vcpu();
            self.a
                .test_imm(Width::B32, Rm::M(vcpu(CR4)), cr4::TSD as i32);
            self.a.jcc(ir::Cond::Ne, slow);
        }
        let waits = op.a.is_some() && op.a != Operand::Imm(0);
        if waits {
            self.a.raw(&[0x0f, 0xae, 0xe8]); // LFENCE
        }
        self.a.call(self.stubs.ticks);
        self.a.jcc(ir::Cond::B, slow);
        if waits {
            self.load_vcpu();
            self.a.load(Width::B32, RCX, Rm::M(vcpu(TSC_AUX)));
        }
        self.or_slow(slow, done, start, to)
    }

    /// What PUSHF pushes.
    fn pushf(&mut self, op: &Op) -> Option<()> {
        self.flags_image();
        self.finish(Width::B64, op.dst, S1)
    }

    /// RFLAGS as software sees it into S1, but RF and VM clear, and the vCPU's address into S0: status flags from the
    /// host's, the rest from the context.
    pub(super) fn flags_image(&mut self) {
        self.host_flags();
        self.a.byte(0x9c); // PUSHFQ
        self.a.pop(S1);
        self.state = match self.state {
            // Only the host's had them, and they are changed next.
            State::Host => {
                let image = field(offset_of!(Frame, flags) + offset_of!(system::LazyFlags, a));
                self.a.store(Width::B64, image, S1);
                self.image_kind();
                State::Memory
            }
            other => other,
        };
        self.hf = false;
        let status = flags::STATUS as i32;
        let away = (flags::RF | flags::VM) as i32 | status;
        self.a.alu_imm(Alu::And, Width::B32, Rm::R(S1), status);
        self.load_vcpu();
        self.a.load(Width::B32, S0, Rm::M(vcpu(RFLAGS)));
        self.a.alu_imm(Alu::And, Width::B32, Rm::R(S0), !away);
        self.a.alu(Alu::Or, Width::B32, S1, Rm::R(S0));
        self.load_vcpu();
        self.a
            .alu_imm(Alu::Or, Width::B32, Rm::R(S1), flags::FIXED as i32);
    }
}
