//! Which vCPU runs on this thread, for the one who asks after a panic.
#![expect(
    unsafe_code,
    reason = "a panic hook reaches the vCPU whose run loop is on the stack below it"
)]
// UNSAFETY: whoever panics holds the vCPU mutably; only a pointer past that borrow can tell its state.

use std::cell::Cell;
use std::marker::PhantomData;

use crate::Vcpu;

thread_local! {
    static CURRENT: Cell<*const Vcpu> = const { Cell::new(std::ptr::null()) };
}

/// As long as this lives, the vCPU is the thread's current one. Not to be leaked.
#[derive(Debug)]
pub struct Current {
    before: *const Vcpu,
    /// It belongs to its thread.
    here: PhantomData<*const ()>,
}

impl Current {
    /// Makes a vCPU the current one. It must not move or go before the guard does, as in a run loop.
    pub fn enter(v: &Vcpu) -> Self {
        Self {
            before: CURRENT.replace(std::ptr::from_ref(v)),
            here: PhantomData,
        }
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// The state of the current vCPU as [`Vcpu::dump`] gives it. For panic hooks only: nobody else uses the vCPU again.
pub fn dump_current() -> Option<String> {
    let v = CURRENT.try_with(Cell::get).ok().filter(|v| !v.is_null())?;
    // SAFETY: the guard's owner keeps the vCPU where it is, this is its thread, and the code that holds it mutably
    // has panicked and does not go on.
    let v = unsafe { &*v };
    Some(v.dump())
}

#[cfg(test)]
mod tests {
    use super::{Current, dump_current};
    use crate::testing::Machine;

    #[test]
    fn the_innermost_guard_counts() {
        assert_eq!(dump_current(), None);
        let (a, b) = (Machine::reset(0), Machine::reset(1));
        {
            let _a = Current::enter(&a.v);
            {
                let _b = Current::enter(&b.v);
                assert!(
                    dump_current()
                        .is_some_and(|text| text.starts_with("vCPU 1: rip 0x000000000000fff0"))
                );
            }
            assert!(dump_current().is_some_and(|text| text.starts_with("vCPU 0")));
        }
        assert_eq!(dump_current(), None);
    }
}
