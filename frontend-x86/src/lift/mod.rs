//! Lifting: decoded instructions become IR, one block at a time.
//!
//! `table.rs` names for each mnemonic the function that states its meaning; the other files hold those functions, one
//! family of the SDM each. A function either appends ops or returns the exception that the instruction raises whatever
//! the registers hold.

mod address;
mod arith;
mod bits;
mod control;
mod evex;
mod flags;
mod mov;
mod operand;
mod segment;
mod shift;
mod stack;
mod string;
mod system;
mod table;
mod vector;
mod vex;
mod x87;

use iced_x86::Instruction;
use ir::{Block, Builder, Exit, Op, OpCode, Operand};
use x86::vector as exception;

use crate::decode::{Decoded, decode};
use crate::features::Features;
use crate::mode::Mode;

/// How far a block may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instructions at most (0 counts as 1).
    pub max_insns: u32,
    /// How many of the bytes lie in the block's first page: no instruction begins beyond them.
    pub page: u32,
    /// Conditional branches forward that the block goes on behind at most, where it is not taken.
    pub branches: u32,
}

/// Why a block ended where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A control transfer, or an instruction after which the mode or pending events are looked at.
    Transfer,
    /// An instruction that always raises an exception.
    Raise,
    /// The end of the page, `max_insns`, or bytes that can't be fetched after other instructions.
    Cut,
    /// The first instruction reaches the byte this many bytes from the start, which can't be fetched: the block is
    /// empty, and the caller raises what fetching that byte raises.
    FetchFault(u32),
}

/// A lifted block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// Its meaning.
    pub block: Block,
    /// Why it ended.
    pub end: End,
}

/// Lifts the block that starts with `bytes`: what can be fetched from there to the end of the page, and up to 15 bytes
/// of the next page if those can be fetched.
pub fn lift(bytes: &[u8], limits: &Limits, mode: Mode, features: &Features) -> Lifted {
    lift_into(Builder::new(), bytes, limits, mode, features)
}

/// As [`lift`], into a given builder, so that allocations are reused ([`Builder::recycle`]).
pub fn lift_into(
    builder: Builder,
    bytes: &[u8],
    limits: &Limits,
    mode: Mode,
    features: &Features,
) -> Lifted {
    let mut lifter = Lifter {
        b: builder,
        mode,
        features,
        insn: Instruction::default(),
        passes: 0,
    };
    let end = lifter.run(bytes, limits);
    Lifted {
        block: lifter.b.finish(),
        end,
    }
}

/// What follows an instruction's ops.
enum Flow {
    /// The next instruction, in the same block.
    Next,
    /// The next instruction, in the same block, behind a way out.
    Past,
    /// The next instruction, after a look at events and the mode.
    Leave,
    /// The terminal is written.
    Ended,
}

/// The exception that an instruction raises in this mode whatever the registers and memory hold.
struct Trap {
    vector: u8,
    error: Option<u32>,
}

const UD: Trap = Trap {
    vector: exception::UD,
    error: None,
};
const NM: Trap = Trap {
    vector: exception::NM,
    error: None,
};
const GP0: Trap = Trap {
    vector: exception::GP,
    error: Some(0),
};

type Lift = Result<Flow, Trap>;

/// The state of lifting one block.
struct Lifter<'a> {
    b: Builder,
    mode: Mode,
    features: &'a Features,
    /// The instruction in hand; its IP is its offset from the block's start.
    insn: Instruction,
    /// Conditional branches that the block may still go on behind, if it has room for more.
    passes: u32,
}

impl Lifter<'_> {
    fn run(&mut self, bytes: &[u8], limits: &Limits) -> End {
        let page = (limits.page as usize).min(bytes.len());
        let mut at = 0;
        let mut insns = 0;
        let mut branches = limits.branches;
        loop {
            let delta = at as u32;
            let insn = match decode(&bytes[at..], delta, self.mode, self.features) {
                Decoded::Insn(insn) => insn,
                Decoded::Undefined(len) => {
                    self.b.insn(delta, len);
                    return self.raise(&UD);
                }
                Decoded::TooLong => {
                    self.b.insn(delta, crate::decode::MAX_LEN as u32);
                    return self.raise(&GP0);
                }
                Decoded::MoreBytes if at == 0 => return End::FetchFault(bytes.len() as u32),
                Decoded::MoreBytes => {
                    self.cut(at);
                    return End::Cut;
                }
            };
            self.insn = insn;
            self.b.insn(delta, insn.len() as u32);
            let mark = self.b.mark();
            at += insn.len();
            insns += 1;
            let room = at < page && insns < limits.max_insns;
            self.passes = if room { branches } else { 0 };
            match self.instruction() {
                Ok(Flow::Past) => branches -= 1,
                Ok(Flow::Next) if at < page && insns < limits.max_insns => {}
                Ok(Flow::Next) => {
                    self.cut(at);
                    return End::Cut;
                }
                Ok(Flow::Leave) => {
                    let a = Operand::Pc(at as i32);
                    self.b.push(Op {
                        a,
                        sub: Exit::Next as u32,
                        ..Op::new(OpCode::Exit, self.mode.ip())
                    });
                    return End::Transfer;
                }
                Ok(Flow::Ended) => return End::Transfer,
                Err(trap) => {
                    self.b.rewind(mark);
                    return self.raise(&trap);
                }
            }
        }
    }

    fn raise(&mut self, trap: &Trap) -> End {
        self.b.raise(trap.vector, trap.error);
        End::Raise
    }

    /// Ends the block with a jump to the instruction at `at`.
    fn cut(&mut self, at: usize) {
        self.b.push(Op {
            a: Operand::Pc(at as i32),
            ..Op::new(OpCode::Jump, self.mode.ip())
        });
    }
}
