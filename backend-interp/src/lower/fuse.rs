//! Fusion: pairs and triples of ops that one handler does.

use ir::{Jump, Mem, Op, OpCode, Operand, SegBase, Width};
use system::{FlagOp, offset};

use super::Lower;
use super::select::{any, by_alu, by_cond, by_width};
use crate::code::{Handler, LOp};
use crate::handlers::memory::{self, by_address};
use crate::handlers::{alu, branch};

/// `[base + disp]` without anything else.
fn plain(mem: &Mem, base: Operand, disp: i32) -> bool {
    mem.seg == SegBase::None
        && mem.base == base
        && mem.index == Operand::None
        && mem.disp == disp
        && mem.align <= 1
        && !mem.lock
}

impl Lower<'_> {
    /// Lowers the ops from `at` on as one handler if there is one for them. Returns how many it took.
    pub(super) fn fused(&mut self, at: usize) -> Option<usize> {
        match self.ops[at].code {
            OpCode::Load => self
                .ret(at)
                .or_else(|| self.pop(at))
                .or_else(|| self.load_op(at)),
            OpCode::Store => self.call(at).or_else(|| self.push_reg(at)),
            OpCode::Sub | OpCode::And | OpCode::Add => self.compare_branch(at),
            _ => None,
        }
    }

    /// The stack pointer's step, if the op at `at` is `rsp = lea [rsp + n]` in a flat stack.
    fn stack_step(&self, at: usize, ahead: usize) -> Option<i32> {
        let op = self.same_insn(at, ahead)?;
        let mem = op.mem.as_ref()?;
        let step = op.code == OpCode::Lea
            && self.is_rsp(op.dst)
            && self.is_rsp(mem.base)
            && mem.index == Operand::None
            && matches!(
                (op.width, mem.addr),
                (Width::B64, Width::B64) | (Width::B32, Width::B32)
            );
        step.then_some(mem.disp)
    }

    /// Whether the operand is `[rsp + disp]` by the stack pointer as [`Lower::stack_step`] moves it. POP to memory with
    /// an address-size prefix in 64-bit code stores by ESP and moves RSP.
    fn on_stack(&self, mem: &Mem, disp: i32) -> bool {
        let addr = if self.mode.code64() {
            Width::B64
        } else {
            Width::B32
        };
        plain(mem, Operand::Reg(x86::Gpr::Rsp), disp)
            && mem.addr == addr
            && !self.mode.align_check()
    }

    /// RET in 64-bit mode: load, target check, stack step, indirect jump.
    fn ret(&mut self, at: usize) -> Option<usize> {
        let op = &self.ops[at];
        let check = self.same_insn(at, 1)?;
        let step = self.stack_step(at, 2)?;
        let jump = self.same_insn(at, 3)?;
        let fits = self.mode.code64()
            && op.width == Width::B64
            && self.on_stack(op.mem.as_ref()?, 0)
            && check.code == OpCode::CheckPc
            && check.a == op.dst
            && jump.code == OpCode::JumpTo
            && jump.sub == Jump::Ret as u32
            && jump.width == Width::B64
            && jump.a == op.dst;
        if !fits {
            return None;
        }
        self.out.site = true;
        // The base tells a non-canonical stack from other memory: #SS.
        let b = offset::gpr(x86::Gpr::Rsp) as u16;
        self.terminal(
            LOp {
                run: branch::ret64,
                b,
                imm: step.into(),
                ..self.blank()
            },
            &[],
        );
        Some(4)
    }

    /// POP: load, stack step, and the move that follows if the load went to a temporary.
    fn pop(&mut self, at: usize) -> Option<usize> {
        let op = self.ops[at];
        let step = self.stack_step(at, 1)?;
        let mem = op.mem.as_ref()?;
        if !self.on_stack(mem, 0) || self.is_rsp(op.dst) {
            return None;
        }
        let moved = match self.same_insn(at, 2) {
            Some(m)
                if m.code == OpCode::Mov
                    && m.a == op.dst
                    && m.width == op.width
                    && self.single(op.dst) =>
            {
                Some(m.dst)
            }
            _ => None,
        };
        let address = self.address(at, mem, 0)?;
        let target = match moved {
            Some(register @ Operand::Reg(_)) => register,
            _ => op.dst,
        };
        let taken = if target == op.dst { 2 } else { 3 };
        let d = self.dest(at, target)?;
        let run = by_width!(op.width, |T| by_address!(
            false,
            address.a32,
            with_load::<T, memory::Pop>
        ));
        let c = u16::from(mem.addr == Width::B32);
        self.push(LOp {
            d,
            imm: step.into(),
            c,
            run,
            ..self.with_address(address)
        });
        Some(taken)
    }

    /// PUSH: store, stack step.
    fn push_reg(&mut self, at: usize) -> Option<usize> {
        let op = self.ops[at];
        let step = self.stack_step(at, 1)?;
        let mem = op.mem.as_ref()?;
        if !self.on_stack(mem, step) {
            return None;
        }
        let address = self.address(at, mem, 0)?;
        let c = u16::from(mem.addr == Width::B32);
        if let Operand::Imm(imm) = op.a {
            let run = by_width!(op.width, |T| by_address!(
                false,
                address.a32,
                with_store::<T, memory::PushImm>
            ));
            self.push(LOp {
                run,
                c,
                ..LOp {
                    imm,
                    ..self.with_address(address)
                }
            });
        } else {
            let a = self.field(at, op.a)?;
            let run = by_width!(op.width, |T| by_address!(
                false,
                address.a32,
                with_store::<T, memory::Push>
            ));
            self.push(LOp {
                run,
                a,
                c,
                ..self.with_address(address)
            });
        }
        Some(2)
    }

    /// CALL rel in 64-bit mode: store of the return address, stack step, jump.
    fn call(&mut self, at: usize) -> Option<usize> {
        let op = &self.ops[at];
        let Operand::Pc(back) = op.a else { return None };
        let fits = self.mode.code64()
            && op.width == Width::B64
            && self.stack_step(at, 1)? == -8
            && self.on_stack(op.mem.as_ref()?, -8);
        let jump = self.same_insn(at, 2)?;
        if !fits || jump.code != OpCode::Jump {
            return None;
        }
        let exit = self.exit(jump.a, jump.width)?;
        let b = offset::gpr(x86::Gpr::Rsp) as u16;
        self.terminal(
            LOp {
                run: branch::call64,
                b,
                imm: back.into(),
                ..self.blank()
            },
            &[exit],
        );
        Some(3)
    }

    /// A load whose value only the next op reads.
    fn load_op(&mut self, at: usize) -> Option<usize> {
        let load = self.ops[at];
        let user = *self.same_insn(at, 1)?;
        if !self.single(load.dst) {
            return None;
        }
        let w = load.width;
        match user.code {
            OpCode::Mov if user.width == w && user.a == load.dst => {
                let address = self.address(at, &load.mem?, w.bytes().into())?;
                let d = self.dest(at, user.dst)?;
                let run = by_width!(w, |T| by_address!(
                    address.idx,
                    address.a32,
                    with_load::<T, memory::LoadTo>
                ));
                self.push(LOp {
                    run,
                    d,
                    ..self.with_address(address)
                });
            }
            OpCode::Zext | OpCode::Sext if user.a == load.dst && user.sub == w as u32 => {
                self.load_extended(at, &load, &user)?;
            }
            OpCode::Add
            | OpCode::Adc
            | OpCode::Sub
            | OpCode::Sbb
            | OpCode::And
            | OpCode::Or
            | OpCode::Xor
                if user.width == w =>
            {
                self.load_alu(at, &load, &user)?;
                self.flags = match branch::static_flags(user.code) {
                    Some(left) if any(user.flags) => Some((left, w)),
                    _ if any(user.flags) => None,
                    _ => self.flags,
                };
            }
            _ => return None,
        }
        Some(2)
    }

    fn load_extended(&mut self, at: usize, load: &Op, user: &Op) -> Option<()> {
        let (from, to) = (load.width, user.width);
        if from >= to {
            return None;
        }
        let zero = user.code == OpCode::Zext;
        let address = self.address(at, &load.mem?, from.bytes().into())?;
        let d = self.dest(at, user.dst)?;
        let (idx, a32) = (address.idx, address.a32);
        let run: Handler = by_width!(from, |T| match (zero, to) {
            (true, Width::B16) => by_address!(idx, a32, with_load::<T, memory::LoadZext16>),
            (true, _) => by_address!(idx, a32, with_load::<T, memory::LoadZext>),
            (false, Width::B16) => by_address!(idx, a32, with_load::<T, memory::LoadSext<u16>>),
            (false, Width::B32) => by_address!(idx, a32, with_load::<T, memory::LoadSext<u32>>),
            (false, _) => by_address!(idx, a32, with_load::<T, memory::LoadSext<u64>>),
        });
        self.push(LOp {
            run,
            d,
            ..self.with_address(address)
        });
        Some(())
    }

    fn load_alu(&mut self, at: usize, load: &Op, user: &Op) -> Option<()> {
        let w = load.width;
        let wanted = any(user.flags);
        let register =
            |o: Operand| matches!(o, Operand::Reg(_) | Operand::High(_) | Operand::Temp(_));
        let from_memory = user.a == load.dst;
        let other = if from_memory { user.b } else { user.a };
        if !from_memory && user.b != load.dst || other == load.dst {
            return None;
        }
        if let (true, Operand::Imm(imm), Operand::None) = (from_memory, other, user.dst) {
            let address = self.address(at, &load.mem?, w.bytes().into())?;
            let (idx, a32) = (address.idx, address.a32);
            let run = by_width!(w, |T| match user.code {
                OpCode::Sub => by_address!(idx, a32, with_load::<T, alu::MemImmFlags<alu::Sub>>),
                OpCode::And => by_address!(idx, a32, with_load::<T, alu::MemImmFlags<alu::And>>),
                _ => return None,
            });
            self.push(LOp {
                run,
                a: address.scale.into(),
                imm,
                ..self.with_address(address)
            });
            return Some(());
        }
        if !register(other) {
            return None;
        }
        let address = self.address(at, &load.mem?, w.bytes().into())?;
        let (idx, a32) = (address.idx, address.a32);
        let a = self.field(at, other)?;
        let d = self.dest(at, user.dst)?;
        let commutes = matches!(
            user.code,
            OpCode::Add | OpCode::And | OpCode::Or | OpCode::Xor
        );
        let run = by_width!(w, |T| by_alu!(
            user.code,
            |K| match (from_memory && !commutes, wanted) {
                (false, true) => by_address!(idx, a32, with_load::<T, alu::RegMem<K, true>>),
                (false, false) => by_address!(idx, a32, with_load::<T, alu::RegMem<K, false>>),
                (true, _) => by_address!(idx, a32, with_load::<T, alu::MemReg<K, true>>),
            }
        ))?;
        self.push(LOp {
            run,
            a,
            d,
            ..self.with_address(address)
        });
        Some(())
    }

    /// CMP, TEST, or ADD/SUB with a constant, and the Jcc behind it.
    fn compare_branch(&mut self, at: usize) -> Option<usize> {
        let op = self.ops[at];
        let (marker, jcc) = (*self.ops.get(at + 1)?, *self.ops.get(at + 2)?);
        if marker.code != OpCode::Insn || jcc.code != OpCode::Branch || !any(op.flags) {
            return None;
        }
        let w = op.width;
        let small = |o: Operand| match o {
            Operand::Imm(imm) => i32::try_from(imm).ok(),
            _ => None,
        };
        let register = |o: Operand| matches!(o, Operand::Reg(_) | Operand::High(_));
        let exits = [self.exit(jcc.a, jcc.width)?, self.exit(jcc.b, jcc.width)?];
        let cc = jcc.sub;
        if !register(op.a) {
            return None;
        }
        let (run, b, disp, d): (Handler, u16, i32, u16) = match (op.code, op.dst, small(op.b)) {
            (OpCode::Sub, Operand::None, Some(imm)) => {
                let run = by_cond!(cc, |CC| by_width!(w, |T| branch::cmp_ri_branch::<T, CC>
                    as Handler));
                (run, offset::ZERO as u16, imm, offset::SINK as u16)
            }
            (OpCode::Sub, Operand::None, None) if register(op.b) => {
                let run = by_cond!(cc, |CC| by_width!(w, |T| branch::cmp_rr_branch::<T, CC>
                    as Handler));
                (run, self.field(at, op.b)?, 0, offset::SINK as u16)
            }
            (OpCode::And, Operand::None, Some(imm)) => {
                let run = by_cond!(cc, |CC| by_width!(w, |T| branch::test_ri_branch::<T, CC>
                    as Handler));
                (run, offset::ZERO as u16, imm, offset::SINK as u16)
            }
            (OpCode::And, Operand::None, None) if register(op.b) => {
                let run = by_cond!(cc, |CC| by_width!(w, |T| branch::test_rr_branch::<T, CC>
                    as Handler));
                (run, self.field(at, op.b)?, 0, offset::SINK as u16)
            }
            (OpCode::Add, Operand::Reg(_), Some(imm)) if w >= Width::B32 => {
                let d = self.dest(at, op.dst)?;
                let run: Handler = by_cond!(cc, |CC| if w == Width::B64 {
                    branch::alu_ri_branch::<u64, alu::Add, CC> as Handler
                } else {
                    branch::alu_ri_branch::<u32, alu::Add, CC>
                });
                (run, offset::ZERO as u16, imm, d)
            }
            (OpCode::Sub, Operand::Reg(_), Some(imm)) if w >= Width::B32 => {
                let d = self.dest(at, op.dst)?;
                let run: Handler = by_cond!(cc, |CC| if w == Width::B64 {
                    branch::alu_ri_branch::<u64, alu::Sub, CC> as Handler
                } else {
                    branch::alu_ri_branch::<u32, alu::Sub, CC>
                });
                (run, offset::ZERO as u16, imm, d)
            }
            _ => return None,
        };
        let a = self.field(at, op.a)?;
        self.insn(&marker);
        self.terminal(
            LOp {
                run,
                a,
                b,
                d,
                disp,
                ..self.blank()
            },
            &exits,
        );
        self.flags = None::<(FlagOp, Width)>;
        Some(3)
    }
}
