//! The allocator: where the host has no more memory, the program ends with a line that says so, and its own status.
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe, and so are two calls of the C library"
)]
// UNSAFETY: the standard library's default for memory that has run out is to abort, and the only stable way to do
// anything else is an allocator that does not come back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::status;
use crate::terminal;

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Where the address space has a limit, threads share one heap: by itself each would set 64 MiB of it aside.
pub fn prepare() {
    #[cfg(target_env = "gnu")]
    {
        let mut limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the limit is ours to be written.
        unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
        if limit.rlim_cur != libc::RLIM_INFINITY {
            // SAFETY: there is no other thread yet.
            unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        }
    }
}

/// What came of a request.
fn checked(memory: *mut u8) -> *mut u8 {
    if memory.is_null() {
        run_out();
    }
    memory
}

// SAFETY: it is the system's, but for calls that do not come back.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the system allocator's.
        checked(unsafe { System.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; memory from here is the system allocator's.
        checked(unsafe { System.realloc(memory, layout, size) })
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) };
    }
}

/// Ends the program. Nothing here allocates.
#[cold]
fn run_out() -> ! {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let end = terminal::line_end();
        terminal::restore();
        for text in [
            "doppel: the host has no more memory or address space; choose a smaller --mem or --code-cache, or raise `ulimit -v`",
            end,
        ] {
            // SAFETY: bytes that live for ever. The library's own stderr has a lock.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }
        // SAFETY: ends the process, without what else was to be done at its end, which might want memory.
        unsafe { libc::_exit(i32::from(status::HOST)) };
    }
    // Another thread is at it.
    loop {
        std::thread::park();
    }
}
