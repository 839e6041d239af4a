//! Coalescing: `%0 = load ...; rax = mov %0` becomes `rax = load ...` where nobody could tell in between.

use super::{Scratch, count_uses, entry, reset};
use crate::block::{Block, Op};
use crate::effect::{gpr, implicit_registers, reads};
use crate::operand::{Operand, Temp, Width};
use crate::ops::OpCode;
use x86::Gpr;

const NOWHERE: u32 = u32::MAX;

/// Gives results to the registers that receive them by a `mov` of their only reader.
///
/// Between the two there must be no read or write of the register and nothing that could show the register too early:
/// an op that may fault, a helper, the next instruction.
pub(super) fn run(block: &mut Block, scratch: &mut Scratch) {
    count_uses(block, &mut scratch.uses);
    let written = &mut scratch.written;
    reset(written, block.temps, NOWHERE);
    let mut track = Track::default();
    let mut kept = 0;
    for i in 0..block.ops.len() {
        let (head, tail) = block.ops.split_at_mut(i);
        let op = &tail[0];
        if let (OpCode::Mov, Operand::Temp(t), Some(g)) = (op.code, op.a, gpr(op.dst)) {
            let once = scratch.uses.get(usize::from(t.0)) == Some(&1);
            let at = entry(written, t).map_or(NOWHERE, |at| *at);
            if once && track.quiet_since(g, at) && give(&mut head[..kept], at, t, op) {
                track.touched[g as usize] = kept as u32;
                continue;
            }
        }
        track.op(op, kept as u32);
        for dst in [op.dst, op.dst2] {
            if let Operand::Temp(t) = dst {
                if let Some(at) = entry(written, t) {
                    *at = kept as u32;
                }
            }
        }
        if kept != i {
            block.ops[kept] = block.ops[i];
        }
        kept += 1;
    }
    block.ops.truncate(kept);
}

/// The last ops that matter, by position among the kept ones.
#[derive(Default)]
struct Track {
    /// Read or write of each register.
    touched: [u32; 16],
    /// What may show registers, or reach them unnamed.
    barrier: u32,
}

impl Track {
    fn quiet_since(&self, g: Gpr, at: u32) -> bool {
        at != NOWHERE && self.touched[g as usize] <= at && self.barrier <= at
    }

    fn op(&mut self, op: &Op, at: u32) {
        let info = op.code.info();
        if info.faults || info.terminal || implicit_registers(op.code) || op.code == OpCode::Insn {
            self.barrier = at;
        }
        for operand in reads(op).into_iter().chain([op.dst, op.dst2]) {
            if let Some(g) = gpr(operand) {
                self.touched[g as usize] = at;
            }
        }
    }
}

/// Puts the register in the temporary's place, if the op that writes it allows.
fn give(ops: &mut [Op], at: u32, t: Temp, mov: &Op) -> bool {
    let Some(op) = ops.get_mut(at as usize) else {
        return false;
    };
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
