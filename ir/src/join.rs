//! Blocks that follow one another become one: a trace.
//!
//! Each part but the last is left where the program was seen to leave it, and its other ways out lead out of the trace: a branch
//! becomes a `sideexit` for the other way, a jump nothing, an indirect jump an `expect`. Offsets are those from the trace's start,
//! which parts may lie before.

use crate::block::{Block, GUARD, MARKS, Op, PART};
use crate::operand::{FlagSet, Operand, Temp, VecTemp};
use crate::ops::OpCode;

/// How a part of a trace leads to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// By which of its instructions (from 0).
    pub ord: u32,
    /// Offset of the next part from the trace's start.
    pub target: i32,
}

/// Moves ops to a place so many bytes away: their offsets become those from another start.
pub fn shift(ops: &mut [Op], by: i32) {
    let moved = |operand: &mut Operand| {
        if let Operand::Pc(delta) = operand {
            *delta = delta.wrapping_add(by);
        }
    };
    for op in ops {
        if let (OpCode::Insn, Operand::Imm(delta)) = (op.code, &mut op.a) {
            *delta += i64::from(by);
        }
        for operand in [&mut op.a, &mut op.b, &mut op.c] {
            moved(operand);
        }
        if let Some(mem) = &mut op.mem {
            moved(&mut mem.base);
        }
    }
}

/// What becomes of a part's ops: how many stay as they are, what comes behind, and how many instructions that is.
fn left_by(part: &Block, by: i32, leave: Leave) -> Option<(usize, Option<Op>, u32)> {
    let markers = part.ops.iter().enumerate();
    let mut markers = markers.filter(|(_, op)| op.code == OpCode::Insn);
    let (start, marker) = markers.nth(leave.ord as usize)?;
    let Operand::Imm(delta) = marker.a else {
        return None;
    };
    let next = i32::try_from(delta + i64::from(marker.sub & !MARKS)).ok()?;
    let end = markers.next().map_or(part.ops.len(), |(n, _)| n);
    let op = *part.ops[start..end].last()?;
    let target = Operand::Pc(leave.target.wrapping_sub(by));
    let other = match op.code {
        OpCode::Jump if op.a == target => None,
        OpCode::Branch if op.a == target && op.b == target => None,
        OpCode::Branch if op.b == target => Some(Op {
            code: OpCode::SideExit,
            b: Operand::None,
            ..op
        }),
        OpCode::Branch if op.a == target => Some(Op {
            code: OpCode::SideExit,
            sub: op.cond().negate() as u32,
            a: op.b,
            b: Operand::None,
            ..op
        }),
        OpCode::SideExit if op.a == target => Some(Op {
            sub: op.cond().negate() as u32,
            a: Operand::Pc(next),
            ..op
        }),
        OpCode::JumpTo => Some(Op {
            code: OpCode::Expect,
            b: target,
            flags: FlagSet::NONE,
            ..op
        }),
        _ => return None,
    };
    Some((end - 1, other, leave.ord + 1))
}

/// Appends a part, which begins `by` bytes from the trace's start; `guarded`: something is looked at before, and the trace
/// perhaps left. Without `leave`, all of it, as the last one. False when it
/// cannot be left that way, or temporaries run out: the trace is as it was.
pub fn append(
    trace: &mut Block,
    part: &Block,
    by: i32,
    guarded: bool,
    leave: Option<Leave>,
) -> bool {
    let whole = (part.ops.len(), None, part.insns);
    let left = leave.map_or(Some(whole), |leave| left_by(part, by, leave));
    let temps = trace.temps.checked_add(part.temps);
    let vec_temps = trace.vec_temps.checked_add(part.vec_temps);
    let (Some((kept, other, insns)), Some(temps), Some(vec_temps)) = (left, temps, vec_temps)
    else {
        return false;
    };
    let from = trace.ops.len();
    trace.ops.extend_from_slice(&part.ops[..kept]);
    trace.ops.extend(other);
    let new = &mut trace.ops[from..];
    if let (Some(marker), true) = (new.first_mut(), from > 0) {
        marker.sub |= if guarded { PART | GUARD } else { PART };
    }
    shift(new, by);
    for op in new {
        for operand in operands(op) {
            match operand {
                Operand::Temp(Temp(n)) => *n += trace.temps,
                Operand::VecTemp(VecTemp(n)) => *n += trace.vec_temps,
                _ => {}
            }
        }
    }
    trace.temps = temps;
    trace.vec_temps = vec_temps;
    trace.insns += insns;
    let last = trace.ops.iter().rev().find(|op| op.code == OpCode::Insn);
    if let Some((Operand::Imm(delta), len)) = last.map(|op| (op.a, op.sub & !MARKS)) {
        trace.len = (delta as u32).wrapping_add(len);
    }
    true
}

/// Ends a trace, whose last part has led on, by a jump.
pub fn close(trace: &mut Block, width: crate::Width, target: i32) {
    trace.ops.push(Op {
        a: Operand::Pc(target),
        ..Op::new(OpCode::Jump, width)
    });
}

/// All places of an op where an operand may stand.
fn operands(op: &mut Op) -> impl Iterator<Item = &mut Operand> {
    let memory = op.mem.as_mut();
    let memory = memory.map(|mem| [&mut mem.base, &mut mem.index]);
    [&mut op.dst, &mut op.dst2, &mut op.a, &mut op.b, &mut op.c]
        .into_iter()
        .chain(memory.into_iter().flatten())
}

/// Numbers the temporaries that passes have left without gaps.
pub fn renumber(block: &mut Block) {
    let mut names = vec![None; usize::from(block.temps)];
    let mut count = 0;
    for operand in block.ops.iter_mut().flat_map(operands) {
        let Operand::Temp(Temp(n)) = operand else {
            continue;
        };
        if let Some(name) = names.get_mut(usize::from(*n)) {
            *n = *name.get_or_insert_with(|| {
                count += 1;
                count - 1
            });
        }
    }
    block.temps = count;
}
