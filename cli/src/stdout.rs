//! Was there a stdout at all? The Rust runtime opens /dev/null in its place before `main`, so this looks earlier.
#![expect(unsafe_code, reason = "what runs before the runtime is no Rust yet")]
// UNSAFETY: a function in `.init_array` is called by the C library before the runtime starts; it makes one system call
// and stores the result.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

static CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    let flags = unsafe { libc::fcntl(1, libc::F_GETFD) };
    CLOSED.store(flags < 0, Ordering::Relaxed);
}

// SAFETY: `.init_array` holds pointers to functions of this type; `look` uses nothing that needs the runtime.
#[unsafe(link_section = ".init_array")]
#[used]
static LOOK: extern "C" fn() = look;

/// An error if stdout was closed when the program started.
pub fn require() -> Result<(), Failure> {
    if CLOSED.load(Ordering::Relaxed) {
        return Err(Failure::Host(
            "stdout is closed; open it, or send it to a file or /dev/null".to_owned(),
        ));
    }
    Ok(())
}
