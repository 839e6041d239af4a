//! Coalescing: `%0 = load ...; rax = mov %0` becomes `rax = load ...` where nobody could tell in between.

use super::{Scratch, count_uses};
use crate::block::{Block, Op};
use crate::effect::{gpr, implicit_registers, reads};
use crate::operand::{Operand, Temp, Width};
use crate::ops::OpCode;
use x86::Gpr;

/// Gives results to the registers that receive them by a `mov` of their only reader, right behind or after one other op (as
/// a pop does).
///
/// That one must not read or write the register, nor show it too early: by a fault, a helper, as the next instruction.
pub(super) fn run(block: &mut Block, scratch: &mut Scratch) {
    count_uses(block, &mut scratch.uses);
    let mut kept = 0;
    for i in 0..block.ops.len() {
        let (head, tail) = block.ops.split_at_mut(i);
        let op = &tail[0];
        if let (OpCode::Mov, Operand::Temp(t), Some(g)) = (op.code, op.a, gpr(op.dst)) {
            let once = scratch.uses.get(usize::from(t.0)) == Some(&1);
            if once && coalesced(&mut head[..kept], g, t, op) {
                continue;
            }
        }
        if kept != i {
            block.ops[kept] = block.ops[i];
        }
        kept += 1;
    }
    block.ops.truncate(kept);
}

fn coalesced(before: &mut [Op], g: Gpr, t: Temp, mov: &Op) -> bool {
    let Some((last, earlier)) = before.split_last_mut() else {
        return false;
    };
    if [last.dst, last.dst2].contains(&Operand::Temp(t)) {
        return give(last, t, mov);
    }
    let info = last.code.info();
    let barrier = info.faults
        || info.terminal
        || implicit_registers(last.code)
        || last.code == OpCode::Insn
        || reads(last)
            .into_iter()
            .chain([last.dst, last.dst2])
            .any(|operand| gpr(operand) == Some(g));
    !barrier && earlier.last_mut().is_some_and(|op| give(op, t, mov))
}

/// Puts the register in the temporary's place, if the op that writes it allows.
fn give(op: &mut Op, t: Temp, mov: &Op) -> bool {
    // These results have widths of their own.
    let fixed = matches!(
        op.code,
        OpCode::Vec | OpCode::X87 | OpCode::Call | OpCode::SegLin | OpCode::Cmpxchg
    );
    let high = matches!(mov.dst, Operand::High(_));
    if fixed || op.width != mov.width || (high && op.width != Width::B8) {
        return false;
    }
    let (mine, other) = if op.dst == Operand::Temp(t) {
        (&mut op.dst, op.dst2)
    } else {
        (&mut op.dst2, op.dst)
    };
    if *mine != Operand::Temp(t) || gpr(other).is_some_and(|g| Some(g) == gpr(mov.dst)) {
        return false;
    }
    *mine = mov.dst;
    true
}
