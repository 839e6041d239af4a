//! The memory through which parent and child pass batches of cases, and the futex calls that wait for each other.
#![expect(
    unsafe_code,
    reason = "memory shared with another process, and system calls"
)]
// UNSAFETY: two processes use one mapping in turns; which turn it is, is in two atomic counters.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::case::{Case, Change, Outcome};
use crate::layout::WRITABLE;

/// Cases in a batch.
pub(super) const BATCH: usize = 256;
/// Quadwords that one case can change.
pub(super) const CHANGES: usize = WRITABLE / 8;

/// One batch. The parent writes it before it raises `request`, the child until it raises `done`.
#[repr(C)]
pub(super) struct Slot {
    pub(super) count: u32,
    /// The first case to run: others were run before the child died.
    pub(super) start: u32,
    pub(super) cases: [Case; BATCH],
    pub(super) outcomes: [Outcome; BATCH],
    pub(super) changes: [[Change; CHANGES]; BATCH],
}

/// Everything that is shared.
#[repr(C)]
pub(super) struct Shared {
    /// 0 until the child is set up, then 1, or 2 when that failed.
    pub(super) ready: AtomicU32,
    /// Which step of the set-up failed.
    pub(super) failed: AtomicU32,
    /// [`super::Abilities`] as bits.
    pub(super) abilities: AtomicU32,
    /// Batches handed over.
    pub(super) request: AtomicU32,
    /// Batches done.
    pub(super) done: AtomicU32,
    /// The case that runs.
    pub(super) current: AtomicU32,
    pub(super) slots: [Slot; 2],
}

/// Maps the shared memory: zeros. Batches take host memory as far as they are used.
pub(super) fn map() -> Result<*mut Shared, String> {
    let size = size_of::<Shared>();
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(format!(
            "no {size} bytes of shared memory: {}",
            std::io::Error::last_os_error()
        ));
    }
    Ok(at.cast())
}

/// Unmaps it.
pub(super) fn unmap(shared: *mut Shared) {
    // SAFETY: `map` made it, and the caller gives it up.
    unsafe { libc::munmap(shared.cast(), size_of::<Shared>()) };
}

/// Waits while a word has a value, at most `ms`.
pub(super) fn wait(word: &AtomicU32, value: u32, ms: i64) {
    // Batches are short: the other side is often nearly done.
    for _ in 0..64 {
        if word.load(Ordering::Acquire) != value {
            return;
        }
        std::hint::spin_loop();
    }
    let time = libc::timespec {
        tv_sec: ms / 1000,
        tv_nsec: ms % 1000 * 1_000_000,
    };
    let (at, time) = (word.as_ptr(), &raw const time);
    // SAFETY: the word and the time live through the call.
    unsafe { libc::syscall(libc::SYS_futex, at, libc::FUTEX_WAIT, value, time) };
}

/// Wakes who waits for a word.
pub(super) fn wake(word: &AtomicU32) {
    // SAFETY: the word lives through the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}
