//! Far control transfers: JMP, CALL, RET, IRET, task switches, SYSCALL and SYSENTER with their returns.
//!
//! Each computes the whole new state, probes the stack for writing, and only then commits; so a fault leaves all as it
//! was. The one exception is the architecture's own: faults of a task switch after its commit point belong to the new
//! task, and `ip` and RIP are then the new task's.

mod call;
mod gate;
mod iret;
mod jump;
mod ret;
mod stack;
mod syscall;
pub(crate) mod task;
mod tss;

pub use call::far_call;
pub(crate) use gate::CodeTarget;
pub use iret::iret;
pub use jump::far_jump;
pub use ret::far_ret;
pub(crate) use stack::{Frame, Stack};
pub use syscall::{SYSRET_FLAGS, fast_code, fast_stack, syscall, sysenter, sysexit, sysret};

#[cfg(test)]
mod tests;
