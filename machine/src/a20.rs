//! The A20 gate: one state, switched at the keyboard controller and at port 92h.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Called with the new state when the gate switches; it must not call back into the board.
pub type A20Callback = Box<dyn Fn(bool) + Send + Sync>;

/// Whether address line 20 is let through (`true`), as it is after power-on here, or forced to 0.
pub struct A20 {
    enabled: AtomicBool,
    on_change: Mutex<Option<A20Callback>>,
}

impl Default for A20 {
    fn default() -> Self {
        Self {
            enabled: AtomicBool::new(true),
            on_change: Mutex::new(None),
        }
    }
}

impl fmt::Debug for A20 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("A20")
            .field("enabled", &self.enabled())
            .finish_non_exhaustive()
    }
}

impl A20 {
    /// Whether address line 20 is let through.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Switches the gate, and tells the CPU's memory if that is a change.
    pub fn set(&self, enabled: bool) {
        if self.enabled.swap(enabled, Ordering::SeqCst) != enabled {
            if let Some(callback) = self.on_change.lock().as_ref() {
                callback(enabled);
            }
        }
    }

    /// Who is told when the gate switches.
    pub fn on_change(&self, callback: A20Callback) {
        *self.on_change.lock() = Some(callback);
    }
}

#[cfg(test)]
mod tests {
    use super::A20;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_callback_hears_of_changes_only() {
        let gate = A20::default();
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&calls);
        gate.on_change(Box::new(move |on| {
            seen.fetch_add(if on { 1 } else { 10 }, Ordering::SeqCst);
        }));
        gate.set(true);
        gate.set(false);
        gate.set(false);
        gate.set(true);
        assert_eq!(calls.load(Ordering::SeqCst), 11);
    }
}
