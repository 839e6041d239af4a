//! Passes that make a block cheaper. None is needed for a right result; each can be switched off.
//!
//! ```text
//! dead_flags   flags that nobody looks at are no longer wanted       shortens what the others keep alive
//! const_fold   constants and copies take their temporaries' places
//! merge_addr   address arithmetic moves into the addresses
//! coalesce     a result goes straight to the register that would receive it
//! dead_code    ops without use go, dead register writes too
//! ```
//!
//! What they rely on and keep: at every op that may fault or leave the block, and behind every instruction that stores
//! (it may have hit the code that follows), registers, flags and memory are as the program made them (precise state). An op with an empty set of wanted flags leaves the flags as they are; one with
//! some wanted may leave anything in the others that it defines. Each is a sweep or two over the ops, linear in their
//! number; what they remember lives in scratch memory that a thread keeps.

mod coalesce;
mod const_fold;
mod dead_code;
mod dead_flags;
mod merge_addr;
#[cfg(test)]
mod semantics;

use std::cell::RefCell;

use x86::Gpr;

use crate::block::{Block, Op};
use crate::effect::{gpr, implicit_registers, reads};
use crate::operand::{Operand, Temp};
use crate::verify;

/// Which passes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Dead flag elimination.
    pub dead_flags: bool,
    /// Constant folding and copy propagation.
    pub const_fold: bool,
    /// Merging of address arithmetic.
    pub merge_addr: bool,
    /// Results straight into registers.
    pub coalesce: bool,
    /// Dead code elimination.
    pub dead_code: bool,
}

impl Switches {
    /// All passes.
    pub const ALL: Self = Self {
        dead_flags: true,
        const_fold: true,
        merge_addr: true,
        coalesce: true,
        dead_code: true,
    };

    /// No pass.
    pub const NONE: Self = Self {
        dead_flags: false,
        const_fold: false,
        merge_addr: false,
        coalesce: false,
        dead_code: false,
    };

    /// Only the pass of that name ("all": all of them); `None` when there is no such pass.
    pub fn named(pass: &str) -> Option<Self> {
        let mut switches = Self::NONE;
        match pass {
            "all" => switches = Self::ALL,
            "dead_flags" => switches.dead_flags = true,
            "const_fold" => switches.const_fold = true,
            "merge_addr" => switches.merge_addr = true,
            "coalesce" => switches.coalesce = true,
            "dead_code" => switches.dead_code = true,
            _ => return None,
        }
        Some(switches)
    }
}

impl Default for Switches {
    fn default() -> Self {
        Self::ALL
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Runs the chosen passes over a block.
///
/// # Panics
/// When the verifier is on and finds a pass's work wrong.
pub fn run(block: &mut Block, switches: Switches) {
    SCRATCH.with_borrow_mut(|scratch| {
        if switches.dead_flags {
            dead_flags::run(block);
            check(block, "dead_flags");
        }
        if switches.const_fold {
            const_fold::run(block, scratch);
            check(block, "const_fold");
        }
        if switches.merge_addr {
            merge_addr::run(block, scratch);
            check(block, "merge_addr");
        }
        if switches.coalesce {
            coalesce::run(block, scratch);
            check(block, "coalesce");
        }
        if switches.dead_code {
            dead_code::run(block, scratch);
            check(block, "dead_code");
        }
    });
}

fn check(block: &Block, pass: &str) {
    if verify::enabled() {
        if let Err(e) = verify::verify(block) {
            panic!("after {pass}: {e}\n{block}");
        }
    }
}

/// Memory that passes use again and again.
#[derive(Default)]
struct Scratch {
    /// How often a temporary is read, up to 255.
    uses: Vec<u8>,
    /// Temporaries that are read later.
    live: Vec<bool>,
    /// Ops without use, the last one first.
    gone: Vec<u32>,
    /// What temporaries equal.
    facts: Vec<const_fold::Fact>,
    /// The addresses that temporaries hold.
    addresses: Vec<merge_addr::Address>,
}

/// Makes a vector hold `len` times `value`.
fn reset<T: Clone>(scratch: &mut Vec<T>, len: u16, value: T) {
    scratch.clear();
    scratch.resize(len.into(), value);
}

/// Counts how often each temporary is read.
fn count_uses(block: &Block, uses: &mut Vec<u8>) {
    reset(uses, block.temps, 0);
    for op in &block.ops {
        for operand in reads(op) {
            if let Operand::Temp(t) = operand {
                if let Some(n) = uses.get_mut(usize::from(t.0)) {
                    *n = n.saturating_add(1);
                }
            }
        }
    }
}

/// The entry of a temporary, whose number a block that was never verified may have wrong.
fn entry<T>(of: &mut [T], temp: Temp) -> Option<&mut T> {
    of.get_mut(usize::from(temp.0))
}

/// A count of the writes to each general register: the same count twice means the same value.
#[derive(Default)]
struct Versions([u32; 16]);

impl Versions {
    fn of(&self, gpr: Gpr) -> u32 {
        self.0[gpr as usize]
    }

    /// The version of a register operand; 0 for what never changes.
    fn stamp(&self, operand: Operand) -> u32 {
        gpr(operand).map_or(0, |g| self.of(g))
    }

    /// Counts what an op writes.
    fn write(&mut self, op: &Op) {
        if implicit_registers(op.code) {
            for version in &mut self.0 {
                *version += 1;
            }
        }
        for dst in [op.dst, op.dst2] {
            if let Some(g) = gpr(dst) {
                self.0[g as usize] += 1;
            }
        }
    }
}
