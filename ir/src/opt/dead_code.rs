//! Dead code elimination: ops whose results nobody reads, and register writes that are overwritten before anyone can tell.

use super::{Scratch, entry, reset};
use crate::block::{Block, Op};
use crate::effect::{bit, gpr, implicit_registers, may_be_left, reads};
use crate::operand::{Operand, Width};
use crate::ops::OpCode;

/// Removes dead ops and dead results.
pub(super) fn run(block: &mut Block, scratch: &mut Scratch) {
    let live = &mut scratch.live;
    reset(live, block.temps, false);
    let gone = &mut scratch.gone;
    gone.clear();
    // Registers whose value here is overwritten in full before any read, fault or exit (also behind a store, which may have hit the
    // code that follows).
    let mut dead: u16 = 0;
    for i in (0..block.ops.len()).rev() {
        let (before, op) = block.ops.split_at_mut(i);
        let op = &mut op[0];
        if may_be_left(before, op) {
            dead = 0;
        }
        let info = op.code.info();
        let unused = |dst: Operand, live: &mut Vec<bool>| match dst {
            Operand::None => true,
            Operand::Temp(t) => entry(live, t).is_some_and(|l| !*l),
            Operand::Reg(g) | Operand::High(g) => dead & bit(g) != 0,
            _ => false,
        };
        if !implicit_registers(op.code) && (!info.faults || op.code == OpCode::Rmw) {
            // A comparison needs no result. Other operations on registers would need another place for theirs.
            let elsewhere =
                !op.flags.is_empty() && !matches!(op.code, OpCode::Sub | OpCode::And | OpCode::Rmw);
            for dst in [&mut op.dst, &mut op.dst2] {
                let stays = elsewhere && matches!(dst, Operand::Reg(_) | Operand::High(_));
                if dst.is_some() && !stays && unused(*dst, live) {
                    *dst = Operand::None;
                }
            }
            let results = op.dst.is_some() || op.dst2.is_some();
            let stays =
                results || !op.flags.is_empty() || info.effect || info.faults || info.terminal;
            if !stays || changes_nothing(op) {
                gone.push(i as u32);
                continue;
            }
        }
        if info.faults || info.terminal || implicit_registers(op.code) {
            dead = 0;
        } else {
            if op.width >= Width::B32 {
                for dst in [op.dst, op.dst2] {
                    if let Operand::Reg(g) = dst {
                        dead |= bit(g);
                    }
                }
            }
            for operand in reads(op) {
                if let Some(g) = gpr(operand) {
                    dead &= !bit(g);
                }
            }
        }
        for operand in reads(op) {
            if let Operand::Temp(t) = operand {
                if let Some(l) = entry(live, t) {
                    *l = true;
                }
            }
        }
    }
    take_out(&mut block.ops, gone);
}

/// Takes the ops at these places, last one first, out.
fn take_out(ops: &mut Vec<Op>, places: &[u32]) {
    let Some(first) = places.last() else {
        return;
    };
    let mut to = *first as usize;
    for (n, place) in places.iter().enumerate().rev() {
        let from = *place as usize + 1;
        let end = match n.checked_sub(1) {
            Some(next) => places[next] as usize,
            None => ops.len(),
        };
        ops.copy_within(from..end, to);
        to += end - from;
    }
    ops.truncate(to);
}

/// Whether the op moves a register to itself. (At width 32 that clears the upper half.)
fn changes_nothing(op: &Op) -> bool {
    op.code == OpCode::Mov && op.dst == op.a && op.width != Width::B32
}
