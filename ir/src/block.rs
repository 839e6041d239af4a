//! A block of ops, and the builder that the lifter writes it with.

use crate::helper::{Exit, HelperId, Jump, StringOp};
use crate::operand::{Cond, FlagSet, Mem, Operand, Temp, VecTemp, Width};
use crate::ops::OpCode;

/// One op. Which fields mean something is said by the op's row in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it does.
    pub code: OpCode,
    /// How wide.
    pub width: Width,
    /// The flags that are wanted of it. None: the op leaves all flags as they are. Otherwise those that it defines and
    /// that aren't wanted may hold anything afterwards.
    pub flags: FlagSet,
    /// See [`crate::Sub`].
    pub sub: u32,
    /// First result.
    pub dst: Operand,
    /// Second result.
    pub dst2: Operand,
    /// First operand.
    pub a: Operand,
    /// Second operand.
    pub b: Operand,
    /// Third operand.
    pub c: Operand,
    /// Memory operand.
    pub mem: Option<Mem>,
}

impl Op {
    /// An op without operands and with all its flags wanted.
    pub fn new(code: OpCode, width: Width) -> Self {
        Self {
            code,
            width,
            flags: code.info().defines,
            sub: 0,
            dst: Operand::None,
            dst2: Operand::None,
            a: Operand::None,
            b: Operand::None,
            c: Operand::None,
            mem: None,
        }
    }

    /// The condition in `sub`. Only for ops whose row says so.
    pub fn cond(&self) -> Cond {
        Cond::ALL[(self.sub & 15) as usize]
    }

    /// The flags that the op may write: its row's, those of an `rmw`'s arithmetic op, those in a `setflags`' mask.
    pub fn defines(&self) -> FlagSet {
        match self.code {
            OpCode::SetFlags => FlagSet::from_rflags(u64::from(self.sub)),
            _ => self.alu().info().defines,
        }
    }

    /// The flags that the op reads.
    #[inline]
    pub fn uses(&self) -> FlagSet {
        match self.code {
            OpCode::Select | OpCode::Setcc | OpCode::Branch | OpCode::SideExit => {
                self.cond().flags()
            }
            OpCode::GetFlags => FlagSet::from_rflags(u64::from(self.sub)),
            OpCode::X87 => fcmov_uses(self.sub),
            OpCode::Rmw => self.alu().info().uses,
            _ => self.code.info().uses,
        }
    }

    /// Whether, having run, the op has surely written all it defines (a shift by a variable count may not).
    pub fn surely_defines(&self) -> bool {
        let alu = self.alu();
        if matches!(
            self.code,
            OpCode::Call | OpCode::Vec | OpCode::X87 | OpCode::String
        ) {
            return false;
        }
        if !alu.counted() {
            return true;
        }
        let count = match (self.code, alu) {
            (OpCode::Rmw, OpCode::Shld | OpCode::Shrd) => self.b,
            (OpCode::Rmw, _) => self.a,
            (_, OpCode::Shld | OpCode::Shrd) => self.c,
            _ => self.b,
        };
        let mask = if self.width == Width::B64 { 63 } else { 31 };
        matches!(count, Operand::Imm(n) if n & mask != 0)
    }

    /// The arithmetic op that it performs: its own code, or an `rmw`'s.
    pub fn alu(&self) -> OpCode {
        if self.code == OpCode::Rmw {
            OpCode::from_index(self.sub).unwrap_or(OpCode::Mov)
        } else {
            self.code
        }
    }
}

/// The flags that an `x87` op with code `sub` reads: FCMOVcc's.
fn fcmov_uses(sub: u32) -> FlagSet {
    use iced_x86::Code;
    let is = |code: Code| code as u32 == sub;
    if is(Code::Fcmovb_st0_sti) || is(Code::Fcmovnb_st0_sti) {
        FlagSet::C
    } else if is(Code::Fcmove_st0_sti) || is(Code::Fcmovne_st0_sti) {
        FlagSet::Z
    } else if is(Code::Fcmovbe_st0_sti) || is(Code::Fcmovnbe_st0_sti) {
        FlagSet::C.union(FlagSet::Z)
    } else if is(Code::Fcmovu_st0_sti) || is(Code::Fcmovnu_st0_sti) {
        FlagSet::P
    } else {
        FlagSet::NONE
    }
}

/// In an `insn` marker's `sub`, beside the length: the instruction is the first of a trace's next part ([`crate::join`]), and may
/// be anywhere.
pub const PART: u32 = 1 << 8;
/// Likewise: the trace may be left before that instruction, though no op says so.
pub const GUARD: u32 = 1 << 9;
/// What is not length in a marker's `sub`.
pub(crate) const MARKS: u32 = PART | GUARD;

/// A lifted block: straight-line ops, one terminal at the end.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Block {
    /// The ops.
    pub ops: Vec<Op>,
    /// Guest code bytes that it covers.
    pub len: u32,
    /// Guest instructions in it.
    pub insns: u32,
    /// Temporaries used so far.
    pub temps: u16,
    /// Vector temporaries used so far.
    pub vec_temps: u16,
}

/// Writes ops into a block.
#[derive(Debug, Default)]
pub struct Builder {
    block: Block,
}

impl Builder {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished block.
    pub fn finish(self) -> Block {
        self.block
    }

    /// Reuses the allocation of an old block.
    pub fn recycle(mut block: Block) -> Self {
        block.ops.clear();
        Self {
            block: Block {
                ops: block.ops,
                ..Block::default()
            },
        }
    }

    /// Ops so far.
    pub fn ops(&self) -> &[Op] {
        &self.block.ops
    }

    /// A mark to which [`Builder::rewind`] can return.
    pub fn mark(&self) -> usize {
        self.block.ops.len()
    }

    /// Forgets the ops since `mark` (an instruction that turned out to be undefined).
    pub fn rewind(&mut self, mark: usize) {
        self.block.ops.truncate(mark);
    }

    /// A new temporary.
    pub fn temp(&mut self) -> Operand {
        self.block.temps += 1;
        Operand::Temp(Temp(self.block.temps - 1))
    }

    /// A new vector temporary.
    pub fn vec_temp(&mut self) -> Operand {
        self.block.vec_temps += 1;
        Operand::VecTemp(VecTemp(self.block.vec_temps - 1))
    }

    /// Appends an op.
    pub fn push(&mut self, op: Op) {
        self.block.ops.push(op);
    }

    /// Begins an instruction at `delta` bytes from the block's start.
    pub fn insn(&mut self, delta: u32, len: u32) {
        self.push(Op {
            a: Operand::Imm(i64::from(delta)),
            sub: len,
            ..Op::new(OpCode::Insn, Width::B64)
        });
        self.block.insns += 1;
        self.block.len = delta + len;
    }

    /// dst = op(a).
    pub fn unary(&mut self, code: OpCode, width: Width, dst: Operand, a: Operand) {
        self.push(Op {
            dst,
            a,
            ..Op::new(code, width)
        });
    }

    /// dst = op(a, b).
    pub fn binary(&mut self, code: OpCode, width: Width, dst: Operand, a: Operand, b: Operand) {
        self.push(Op {
            dst,
            a,
            b,
            ..Op::new(code, width)
        });
    }

    /// dst = op(a, b), no flag wanted.
    pub fn quiet(&mut self, code: OpCode, width: Width, dst: Operand, a: Operand, b: Operand) {
        self.push(Op {
            dst,
            a,
            b,
            flags: FlagSet::NONE,
            ..Op::new(code, width)
        });
    }

    /// dst = a.
    pub fn mov(&mut self, width: Width, dst: Operand, a: Operand) {
        self.unary(OpCode::Mov, width, dst, a);
    }

    /// dst = a widened from `from`.
    pub fn extend(&mut self, code: OpCode, width: Width, from: Width, dst: Operand, a: Operand) {
        self.push(Op {
            dst,
            a,
            sub: from as u32,
            ..Op::new(code, width)
        });
    }

    /// dst = effective address.
    pub fn lea(&mut self, width: Width, dst: Operand, mem: Mem) {
        self.push(Op {
            dst,
            mem: Some(mem),
            ..Op::new(OpCode::Lea, width)
        });
    }

    /// dst = [mem].
    pub fn load(&mut self, width: Width, dst: Operand, mem: Mem) {
        self.push(Op {
            dst,
            mem: Some(mem),
            ..Op::new(OpCode::Load, width)
        });
    }

    /// [mem] = a.
    pub fn store(&mut self, width: Width, mem: Mem, a: Operand) {
        self.push(Op {
            a,
            mem: Some(mem),
            ..Op::new(OpCode::Store, width)
        });
    }

    /// A read-modify-write; dst receives the old value.
    pub fn rmw(
        &mut self,
        alu: OpCode,
        width: Width,
        mem: Mem,
        dst: Operand,
        a: Operand,
        b: Operand,
    ) {
        debug_assert!(alu.rmw());
        self.push(Op {
            dst,
            a,
            b,
            sub: alu as u32,
            flags: alu.info().defines,
            mem: Some(mem),
            ..Op::new(OpCode::Rmw, width)
        });
    }

    /// dst = helper(a, b, c).
    pub fn call(&mut self, helper: HelperId, dst: Operand, a: Operand, b: Operand, c: Operand) {
        self.push(Op {
            dst,
            a,
            b,
            c,
            sub: helper as u32,
            ..Op::new(OpCode::Call, Width::B64)
        });
    }

    /// A string instruction.
    pub fn string(&mut self, op: StringOp) {
        self.push(Op {
            sub: op.encode(),
            ..Op::new(OpCode::String, op.width)
        });
    }

    /// Raises an exception.
    pub fn raise(&mut self, vector: u8, error: Option<u32>) {
        let a = error.map_or(Operand::None, |e| Operand::Imm(i64::from(e)));
        self.push(Op {
            a,
            sub: u32::from(vector),
            ..Op::new(OpCode::Raise, Width::B64)
        });
    }

    /// Go on at the block's start plus `delta`.
    pub fn jump(&mut self, delta: i32) {
        self.push(Op {
            a: Operand::Pc(delta),
            ..Op::new(OpCode::Jump, Width::B64)
        });
    }

    /// Go on at `taken` if `cond`, else at `next`.
    pub fn branch(&mut self, cond: Cond, taken: i32, next: i32) {
        let (a, b) = (Operand::Pc(taken), Operand::Pc(next));
        self.push(Op {
            a,
            b,
            sub: cond as u32,
            ..Op::new(OpCode::Branch, Width::B64)
        });
    }

    /// Go on at the offset `a`.
    pub fn jump_to(&mut self, width: Width, a: Operand, kind: Jump) {
        self.push(Op {
            a,
            sub: kind as u32,
            ..Op::new(OpCode::JumpTo, width)
        });
    }

    /// Leave the block and go on at the block's start plus `delta`.
    pub fn exit_next(&mut self, delta: i32) {
        self.push(Op {
            a: Operand::Pc(delta),
            sub: Exit::Next as u32,
            ..Op::new(OpCode::Exit, Width::B64)
        });
    }

    /// Leave the block; a helper has set RIP.
    pub fn exit_helper(&mut self) {
        self.push(Op {
            sub: Exit::Helper as u32,
            ..Op::new(OpCode::Exit, Width::B64)
        });
    }
}
