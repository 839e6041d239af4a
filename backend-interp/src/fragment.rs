//! Single instructions for other engines: what they don't translate themselves, run by this engine's handlers.

use frontend_x86::Mode;
use ir::Op;
use system::Vcpu;

use crate::block::{Block, Key, SINGLE};
use crate::code::{JUMPS, Known, LAST, LOp, REST, exit, word};
use crate::host::{self, Stubs};
use crate::lower::lower;

/// One instruction as handlers.
pub struct Fragment(Box<Block>);

/// What is to be done after a [`Fragment`] has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Go on with the next instruction.
    Done,
    /// The vCPU's `exception` is to be delivered.
    Fault,
    /// Go on at RIP, after a look at events and mode.
    Next,
    /// As `Next`; the instruction is a repeated one in the midst of its work.
    Again,
}

/// What running fragments needs, one for each vCPU.
pub struct Fragments {
    stubs: Stubs,
    rest: Box<[LOp; REST]>,
    jumps: Box<[Known]>,
}

impl Default for Fragments {
    fn default() -> Self {
        Self {
            stubs: Stubs::default(),
            rest: Box::new([LOp::FILL; REST]),
            jumps: vec![Known::EMPTY; JUMPS].into_boxed_slice(),
        }
    }
}

/// The handler behind the last of an instruction that is no transfer.
extern "C" fn done(_v: &mut Vcpu, _op: &LOp) -> u32 {
    exit::DONE
}

impl Fragments {
    /// Lowers the ops of one instruction, its marker first; `None` when there are no handlers for it.
    pub fn make(&mut self, block: &ir::Block, ops: &[Op], mode: Mode) -> Option<Fragment> {
        let part = ir::Block {
            ops: ops.to_vec(),
            insns: 1,
            len: block.len,
            temps: block.temps,
            vec_temps: block.vec_temps,
        };
        let terminal = ops.last()?.code.info().terminal;
        let mut lowered = lower(&part, mode, &mut self.stubs)?;
        if !terminal {
            let last = LOp {
                run: done,
                len: LAST,
                ..lowered.ops.last().copied().unwrap_or(LOp::FILL)
            };
            lowered.ops.push(last);
        }
        let key = Key {
            phys: 0,
            mode: mode.bits() | SINGLE,
        };
        Some(Fragment(Block::new(key, lowered, 0, mode, &[])))
    }

    /// Runs a fragment; `st.rip` is the address of its block's first instruction, and exact afterwards but for `Done`,
    /// when it is what it was.
    pub fn run(&mut self, v: &mut Vcpu, fragment: &Fragment) -> Left {
        v.engine[word::MODE] = SINGLE;
        // Helpers are told the instructions completed, which RDTSC may be a function of.
        v.engine[word::END] = v.retired.wrapping_add(v.budget.cast_unsigned());
        v.engine[word::JUMPS] = self.jumps.as_ptr().addr() as u64;
        v.engine[word::REST] = self.rest.as_ptr().addr() as u64;
        let mut op = fragment.0.entry();
        loop {
            let code = (op.run)(v, op);
            return match code {
                exit::CONTINUE => {
                    op = crate::code::continued(v);
                    continue;
                }
                exit::DONE => Left::Done,
                exit::FAULT => Left::Fault,
                exit::AGAIN => Left::Again,
                _ => Left::Next,
            };
        }
    }
}

/// Moves the sticky exception flags of the host's MXCSR to the guest's.
pub fn fetch_mxcsr(v: &mut Vcpu) {
    host::fetch_mxcsr_flags(v);
}

/// What other code left in the host's floating-point unit is not the guest's: to be called before a run of fragments.
pub fn enter(v: &mut Vcpu) {
    crate::x87::enter(v);
}

/// Whether the host has what a vector instruction needs.
pub fn on_host(code: iced_x86::Code) -> bool {
    host::host_has(code)
}

/// Whether a vector instruction's result or flags depend on MXCSR.
pub fn uses_mxcsr(code: iced_x86::Code) -> bool {
    crate::lower::vector::uses_mxcsr(code)
}

/// Whether a vector instruction writes status flags.
pub fn writes_flags(code: iced_x86::Code) -> bool {
    host::writes_flags(code)
}
