//! Dead flag elimination: what overwrites a flag before anybody looks makes the earlier value unwanted.

use crate::block::Block;
use crate::effect::{kills, may_be_left};
use crate::operand::FlagSet;
use crate::ops::OpCode;

/// Narrows each op's wanted flags to those that live after it.
pub(super) fn run(block: &mut Block) {
    let mut live = FlagSet::ALL;
    for i in (0..block.ops.len()).rev() {
        let (before, op) = block.ops.split_at_mut(i);
        let op = &mut op[0];
        if may_be_left(before, op) {
            live = FlagSet::ALL;
            continue;
        }
        let info = op.code.info();
        let killed = kills(op);
        // A helper writes the flags that it writes, wanted or not.
        if op.code != OpCode::Call {
            op.flags = op.flags.intersection(live);
        }
        live = if info.faults || info.terminal {
            FlagSet::ALL
        } else {
            live.without(killed).union(op.uses())
        };
    }
}
