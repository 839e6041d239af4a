//! Far transfers by kind, level and mode; every fault with its error code, and nothing changed by it.

mod call;
mod iret;
mod jump;
mod ret;
mod syscall;
mod task;

use x86::Exception;

use crate::Vcpu;
use crate::testing::Machine;

/// A helper with its arguments.
type Helper = fn(&mut Vcpu, u64, u64, u64) -> Result<u64, Exception>;

/// Runs a helper that must fail and leave everything as it was.
fn fails(build: &dyn Fn() -> Machine, what: &str, f: Helper, args: [u64; 3], expected: Exception) {
    let mut m = build();
    let before = m.snapshot();
    assert_eq!(
        f(&mut m.v, args[0], args[1], args[2]),
        Err(expected),
        "{what}"
    );
    assert_eq!(m.snapshot(), before, "{what} changed something");
}
