//! Near and far control transfers, software interrupts.

use iced_x86::{Code, OpKind};
use ir::{Cond, HelperId, Jump, Op, OpCode, Operand, Width};
use x86::Gpr;

use super::operand::width_of;
use super::{Flow, Lift, Lifter, UD};
use crate::mode::{CodeSize, CsLimit};

const NONE: Operand = Operand::None;

impl Lifter<'_> {
    /// The offset that a relative branch names, and the width it is cut to. `None`: more than 2 GiB from the block's
    /// start.
    fn target(&self) -> (Option<i32>, Width) {
        let (insn, next) = (&self.insn, self.next());
        match insn.op0_kind() {
            OpKind::NearBranch16 => {
                let distance = insn.near_branch16().wrapping_sub(next as u16) as i16;
                (Some(next + i32::from(distance)), Width::B16)
            }
            OpKind::NearBranch32 => (Some(insn.near_branch32() as i32), Width::B32),
            _ => (i32::try_from(insn.near_branch64() as i64).ok(), Width::B64),
        }
    }

    /// Whether a direct transfer to an offset of width `w` may leave the code segment.
    fn beyond_limit(&self, w: Width) -> bool {
        !matches!(
            (self.mode.cs_limit(), w),
            (CsLimit::Full, _) | (CsLimit::Word, Width::B16)
        )
    }

    /// Whether a conditional branch of width `w` cuts EIP where it is taken only: 66h in 32-bit code.
    fn cuts(&self, w: Width) -> bool {
        w == Width::B16 && self.mode.code() == CodeSize::B32
    }

    /// Raises #GP(0) when a transfer to `target` must not happen; with `when`, only if that value isn't zero.
    fn check_target(&mut self, w: Width, target: Operand, when: Operand) {
        self.b.push(Op {
            a: target,
            b: when,
            ..Op::new(OpCode::CheckPc, w)
        });
    }

    /// The branch's target as an operand, computed where `Pc` can't reach.
    fn target_operand(&mut self) -> Operand {
        if let (Some(delta), _) = self.target() {
            return Operand::Pc(delta);
        }
        let (next, target) = (self.b.temp(), self.b.temp());
        self.b.mov(Width::B64, next, Operand::Pc(self.next()));
        let distance = self.insn.near_branch64().wrapping_sub(self.insn.next_ip());
        self.b.quiet(
            OpCode::Add,
            Width::B64,
            target,
            next,
            Operand::Imm(distance as i64),
        );
        target
    }

    /// The terminal that goes on at a target.
    fn go(&mut self, w: Width, target: Operand, kind: Jump) -> Lift {
        if matches!(target, Operand::Pc(_)) {
            self.b.push(Op {
                a: target,
                ..Op::new(OpCode::Jump, w)
            });
        } else {
            self.b.jump_to(w, target, kind);
        }
        Ok(Flow::Ended)
    }

    fn relative(&self) -> bool {
        matches!(
            self.insn.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        )
    }

    pub(super) fn jmp(&mut self) -> Lift {
        if self.is_far() {
            return self.far(HelperId::FarJump);
        }
        if self.relative() {
            let (_, w) = self.target();
            let target = self.target_operand();
            if self.beyond_limit(w) {
                self.check_target(w, target, NONE);
            }
            return self.go(w, target, Jump::Jmp);
        }
        let w = self.width(0);
        let target = self.read(0, w);
        self.b.jump_to(w, target, Jump::Jmp);
        Ok(Flow::Ended)
    }

    pub(super) fn call(&mut self) -> Lift {
        if self.is_far() {
            return self.far(HelperId::FarCall);
        }
        let back = Operand::Pc(self.next());
        if self.relative() {
            let (delta, w) = self.target();
            let target = self.target_operand();
            if self.beyond_limit(w) || delta.is_none() {
                self.check_target(w, target, NONE);
            }
            self.push_value(w, back);
            return self.go(w, target, Jump::Call);
        }
        let w = self.width(0);
        let mut target = self.read(0, w);
        if target == Operand::Reg(Gpr::Rsp) {
            let old = self.b.temp();
            self.b.mov(w, old, target);
            target = old;
        }
        self.check_target(w, target, NONE);
        self.push_value(w, back);
        self.b.jump_to(w, target, Jump::Call);
        Ok(Flow::Ended)
    }

    pub(super) fn ret(&mut self) -> Lift {
        let w = match self.insn.code() {
            Code::Retnw | Code::Retnw_imm16 => Width::B16,
            Code::Retnd | Code::Retnd_imm16 => Width::B32,
            _ => Width::B64,
        };
        let release = if self.insn.op_count() == 1 {
            i32::from(self.insn.immediate16())
        } else {
            0
        };
        let bytes = i32::from(w.bytes());
        let mem = self.stack_mem(0, bytes as u32, false);
        let target = self.b.temp();
        self.b.load(w, target, mem);
        self.check_target(w, target, NONE);
        self.add_sp(bytes + release);
        self.b.jump_to(w, target, Jump::Ret);
        Ok(Flow::Ended)
    }

    pub(super) fn jcc(&mut self) -> Lift {
        let (cond, (delta, w)) = (self.cond(), self.target());
        let next = self.next();
        if let Some(taken) = delta.filter(|_| self.beyond_limit(w)) {
            let holds = self.b.temp();
            self.b.push(Op {
                dst: holds,
                sub: cond as u32,
                ..Op::new(OpCode::Setcc, Width::B8)
            });
            let when = self.zext(Width::B8, holds);
            self.check_target(w, Operand::Pc(taken), when);
        }
        let Some(taken) = delta.filter(|_| !self.cuts(w)) else {
            let (target, b, to) = (self.target_operand(), self.b.temp(), self.b.temp());
            let (ip, whole) = (self.mode.ip(), self.b.temp());
            self.b.mov(ip, whole, target);
            let target = self.zext(w, whole);
            self.b.mov(ip, b, Operand::Pc(next));
            self.b.push(Op {
                dst: to,
                a: target,
                b,
                sub: cond as u32,
                ..Op::new(OpCode::Select, ip)
            });
            // Wherever that is, it may be gone to: the check is done.
            return self.go(Width::B64, to, Jump::Jmp);
        };
        let (a, b) = (Operand::Pc(taken), Operand::Pc(next));
        if self.passes > 0 && taken > next {
            self.b.push(Op {
                a,
                sub: cond as u32,
                ..Op::new(OpCode::SideExit, w)
            });
            return Ok(Flow::Past);
        }
        self.b.push(Op {
            a,
            b,
            sub: cond as u32,
            ..Op::new(OpCode::Branch, w)
        });
        Ok(Flow::Ended)
    }

    /// The width of the counter of LOOP and JCXZ.
    fn counter(&self) -> Width {
        use iced_x86::Mnemonic as M;
        match self.insn.mnemonic() {
            M::Jcxz => return Width::B16,
            M::Jecxz => return Width::B32,
            M::Jrcxz => return Width::B64,
            _ => {}
        }
        // The address size: the last operand of the opcode's description tells it by its instruction name.
        match self.insn.code() {
            Code::Loop_rel8_16_CX
            | Code::Loop_rel8_32_CX
            | Code::Loope_rel8_16_CX
            | Code::Loope_rel8_32_CX
            | Code::Loopne_rel8_16_CX
            | Code::Loopne_rel8_32_CX => Width::B16,
            Code::Loop_rel8_16_RCX
            | Code::Loop_rel8_64_RCX
            | Code::Loope_rel8_16_RCX
            | Code::Loope_rel8_64_RCX
            | Code::Loopne_rel8_16_RCX
            | Code::Loopne_rel8_64_RCX => Width::B64,
            _ => Width::B32,
        }
    }

    /// Where `branch_nz` would lead if it cut only the branch's target to 16 bits, and not the next instruction's
    /// address.
    fn chosen(&mut self, value: Operand, a: i32, b: i32) -> Operand {
        let w = Width::B64;
        let mut offset = |to: i32| {
            let offset = self.b.temp();
            self.b.mov(Width::B32, offset, Operand::Pc(to));
            self.zext(
                if to == self.next() {
                    Width::B32
                } else {
                    Width::B16
                },
                offset,
            )
        };
        let (a, b) = (offset(a), offset(b));
        // All ones if the value isn't zero.
        let [minus, either, bit, mask] = [(); 4].map(|()| self.b.temp());
        self.b.quiet(OpCode::Sub, w, minus, Operand::Imm(0), value);
        self.b.quiet(OpCode::Or, w, either, minus, value);
        self.b.quiet(OpCode::Shr, w, bit, either, Operand::Imm(63));
        self.b.quiet(OpCode::Sub, w, mask, Operand::Imm(0), bit);
        // b ^ ((a ^ b) & mask)
        let [both, chosen, to] = [(); 3].map(|()| self.b.temp());
        self.b.quiet(OpCode::Xor, w, both, a, b);
        self.b.quiet(OpCode::And, w, chosen, both, mask);
        self.b.quiet(OpCode::Xor, w, to, chosen, b);
        to
    }

    /// Ends the block: to `a` when `value` (zero-extended) isn't zero, else to `b`.
    fn branch_nz(
        &mut self,
        target_width: Width,
        counter: Width,
        value: Operand,
        a: i32,
        b: i32,
    ) -> Lift {
        let mut c = value;
        if counter > target_width {
            // The op looks at as many bits as the target has: fold the others into them.
            let (upper, folded) = (self.b.temp(), self.b.temp());
            let half = Operand::Imm(i64::from(target_width.bits()));
            self.b.quiet(OpCode::Shr, counter, upper, value, half);
            self.b.quiet(OpCode::Or, counter, folded, upper, value);
            c = folded;
        }
        let (a, b) = (Operand::Pc(a), Operand::Pc(b));
        self.b.push(Op {
            a,
            b,
            c,
            ..Op::new(OpCode::BranchNz, target_width)
        });
        Ok(Flow::Ended)
    }

    /// LOOP, LOOPE, LOOPNE.
    pub(super) fn loop_(&mut self, also: Option<Cond>) -> Lift {
        let w = self.counter();
        let count = Operand::Reg(Gpr::Rcx);
        let (delta, target_width) = self.target();
        // An 8-bit displacement: always within reach.
        let taken = delta.ok_or(UD)?;
        let left = self.b.temp();
        self.b.quiet(OpCode::Sub, w, left, count, Operand::Imm(1));
        let mut again = if w == Width::B64 {
            left
        } else {
            self.zext(w, left)
        };
        if let Some(cond) = also {
            let both = self.b.temp();
            self.b.push(Op {
                dst: both,
                a: again,
                b: Operand::Imm(0),
                sub: cond as u32,
                ..Op::new(OpCode::Select, Width::B64)
            });
            again = both;
        }
        if self.cuts(target_width) {
            self.check_target(target_width, Operand::Pc(taken), again);
            let to = self.chosen(again, taken, self.next());
            self.b.mov(w, count, left);
            return self.go(Width::B64, to, Jump::Jmp);
        }
        if self.beyond_limit(target_width) {
            self.check_target(target_width, Operand::Pc(taken), again);
        }
        self.b.mov(w, count, left);
        self.branch_nz(target_width, w, again, taken, self.next())
    }

    /// JCXZ, JECXZ, JRCXZ.
    pub(super) fn jcxz(&mut self) -> Lift {
        let w = self.counter();
        let (delta, target_width) = self.target();
        let taken = delta.ok_or(UD)?;
        let rcx = Operand::Reg(Gpr::Rcx);
        let count = if w == Width::B64 {
            rcx
        } else {
            self.zext(w, rcx)
        };
        if self.beyond_limit(target_width) {
            // The check wants a value that isn't zero when the jump is taken: bit 64 of count - 1, so to speak.
            let (less, inverse, borrow) = (self.b.temp(), self.b.temp(), self.b.temp());
            self.b
                .quiet(OpCode::Sub, Width::B64, less, count, Operand::Imm(1));
            self.b.unary(OpCode::Not, Width::B64, inverse, count);
            self.b.quiet(OpCode::And, Width::B64, borrow, less, inverse);
            let taken_when = self.b.temp();
            self.b.quiet(
                OpCode::Shr,
                Width::B64,
                taken_when,
                borrow,
                Operand::Imm(63),
            );
            self.check_target(target_width, Operand::Pc(taken), taken_when);
        }
        if self.cuts(target_width) {
            let to = self.chosen(count, self.next(), taken);
            return self.go(Width::B64, to, Jump::Jmp);
        }
        self.branch_nz(target_width, w, count, self.next(), taken)
    }

    fn is_far(&self) -> bool {
        self.insn.is_jmp_far()
            || self.insn.is_jmp_far_indirect()
            || self.insn.is_call_far()
            || self.insn.is_call_far_indirect()
    }

    /// JMP far, CALL far.
    fn far(&mut self, helper: HelperId) -> Lift {
        let (selector, offset, bytes) = match self.insn.op0_kind() {
            OpKind::FarBranch16 => (
                self.immediate_selector(),
                Operand::Imm(i64::from(self.insn.far_branch16())),
                2,
            ),
            OpKind::FarBranch32 => (
                self.immediate_selector(),
                Operand::Imm(i64::from(self.insn.far_branch32())),
                4,
            ),
            _ => {
                let bytes = self.insn.memory_size().size() as u32 - 2;
                let (selector, offset) = self.far_pointer(bytes);
                (selector, offset, bytes)
            }
        };
        let length = if helper == HelperId::FarCall {
            self.insn.len() as i64
        } else {
            0
        };
        self.b.call(
            helper,
            NONE,
            selector,
            offset,
            Operand::Imm(i64::from(bytes) | length << 8),
        );
        self.b.exit_helper();
        Ok(Flow::Ended)
    }

    fn immediate_selector(&self) -> Operand {
        Operand::Imm(i64::from(self.insn.far_branch_selector()))
    }

    /// The selector and the offset (`bytes` wide) of a far pointer in memory, zero-extended.
    pub(super) fn far_pointer(&mut self, bytes: u32) -> (Operand, Operand) {
        let w = width_of(bytes as usize);
        let mem = self.mem(bytes + 2, false);
        let (offset, selector) = (self.b.temp(), self.b.temp());
        self.b.load(w, offset, mem);
        let place = self.plus(mem, bytes as i32);
        self.b.load(Width::B16, selector, place);
        (self.zext(Width::B16, selector), self.zext(w, offset))
    }

    pub(super) fn retf(&mut self) -> Lift {
        let bytes = match self.insn.code() {
            Code::Retfw | Code::Retfw_imm16 => 2,
            Code::Retfd | Code::Retfd_imm16 => 4,
            _ => 8,
        };
        let release = if self.insn.op_count() == 1 {
            i64::from(self.insn.immediate16())
        } else {
            0
        };
        self.b.call(
            HelperId::FarRet,
            NONE,
            Operand::Imm(release),
            NONE,
            Operand::Imm(bytes),
        );
        self.b.exit_helper();
        Ok(Flow::Ended)
    }

    /// IRET, SYSRET, SYSEXIT, SYSENTER: a helper with the operand size.
    pub(super) fn transfer(&mut self, helper: HelperId, bytes: i64) -> Lift {
        self.b.call(helper, NONE, NONE, NONE, Operand::Imm(bytes));
        self.b.exit_helper();
        Ok(Flow::Ended)
    }

    pub(super) fn syscall(&mut self) -> Lift {
        if !self.mode.code64() {
            return Err(UD);
        }
        self.b
            .call(HelperId::Syscall, NONE, NONE, self.length(), NONE);
        self.b.exit_helper();
        Ok(Flow::Ended)
    }

    /// The instruction's length, for helpers that return behind it.
    pub(super) fn length(&self) -> Operand {
        Operand::Imm(self.insn.len() as i64)
    }

    /// INT n (kind 0), INT3 (1), INT1 (2).
    pub(super) fn soft_int(&mut self, vector: u8, kind: i64) -> Lift {
        let length = self.length();
        self.b.call(
            HelperId::SoftInt,
            NONE,
            Operand::Imm(i64::from(vector)),
            length,
            Operand::Imm(kind),
        );
        self.b.exit_helper();
        Ok(Flow::Ended)
    }

    pub(super) fn into(&mut self) -> Lift {
        let length = self.length();
        self.b.call(HelperId::Into, NONE, NONE, length, NONE);
        self.b.exit_helper();
        Ok(Flow::Ended)
    }
}
