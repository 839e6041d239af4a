//! Accesses that fault, through a window or by an empty page cache: SIGSEGV becomes a call of the stub that sees to them. And the base of GS.
//!
//! The handler knows its own by three things: this thread has entered translated code, RSP is the frame, RIP is in code
//! memory. It notes RIP and goes on in the stub, where Rust code may do what it likes. Every other signal keeps its meaning:
//! what was there before is called.
#![expect(unsafe_code, reason = "a signal handler, and WRGSBASE")]
// UNSAFETY: sigaction is a C call, a handler gets C structs by address, and the base of GS is the host's.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use super::frame::{Fault, Frame};

/// The exception, as the host's kernel numbers it.
const PAGE_FAULT: i64 = 14;
/// The bit of its error code for stores.
const WRITE: i64 = 1 << 1;

thread_local! {
    /// The frame of the translated code that this thread has entered.
    static ENTERED: Cell<*mut Frame> = const { Cell::new(ptr::null_mut()) };
}

/// What is done with a signal that is somebody else's.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Whether the host lets programs set the base of GS.
pub fn available() -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        return false;
    }
    // HWCAP2_FSGSBASE of Linux.
    const FSGSBASE: u64 = 1 << 1;
    // SAFETY: no memory is involved.
    (unsafe { libc::getauxval(libc::AT_HWCAP2) }) & FSGSBASE != 0
}

/// Takes SIGSEGV, once and for all.
///
/// # Errors
/// The host's.
pub fn install() -> std::io::Result<()> {
    static DONE: OnceLock<i32> = OnceLock::new();
    let error = *DONE.get_or_init(|| {
        let mut old = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: asks for what is there, and writes it to `old`.
        if unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), old.as_mut_ptr()) } != 0 {
            return errno();
        }
        // SAFETY: just written.
        let old = unsafe { old.assume_init() };
        // Before the handler may need it.
        let _ = BEFORE.set(old);
        let handler: extern "C" fn(_, _, _) = handle;
        let new = libc::sigaction {
            sa_sigaction: handler as usize,
            sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK,
            ..old
        };
        // SAFETY: a handler of the type that the flags say.
        if unsafe { libc::sigaction(libc::SIGSEGV, &raw const new, ptr::null_mut()) } != 0 {
            return errno();
        }
        0
    });
    if error == 0 {
        Ok(())
    } else {
        Err(std::io::Error::from_raw_os_error(error))
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EINVAL)
}

/// This thread enters translated code (or has left it: null).
pub fn enter(frame: *mut Frame) {
    ENTERED.set(frame);
}

/// Sets the base of GS, which nothing but windows uses.
pub fn set_gs(base: u64) {
    debug_assert!(available());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: who calls this has found `available`; the address is one of a mapping, so it is canonical; neither Rust nor C
    // code goes by GS on this host.
    unsafe {
        std::arch::asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = base;
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a description of the signal.
    let sent = unsafe { (*info).si_code } <= 0;
    if sent || !redirected(context) {
        pass_on(signal, info, context);
    }
    if sent {
        end_if_default(signal);
    }
}

/// A signal that somebody has sent does not come again by itself: where the handler from before has given up its place, as that of
/// Rust's runtime does, or there was none, it ends the process when this returns.
fn end_if_default(signal: i32) {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks for what is there, and writes it to `now`.
    if unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: just written.
    if unsafe { now.assume_init() }.sa_sigaction == libc::SIG_DFL {
        // SAFETY: no memory is involved; it waits until the handler returns.
        unsafe { libc::raise(signal) };
    }
}

/// Goes on in the stub if it was translated code that has faulted.
#[cfg(target_arch = "x86_64")]
fn redirected(context: *mut libc::c_void) -> bool {
    let frame = ENTERED.get();
    if !frame.is_null() {
        // SAFETY: the kernel hands over a context of this type.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        let registers = &mut context.uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize].cast_unsigned();
        let rsp = registers[libc::REG_RSP as usize].cast_unsigned();
        // SAFETY: it was entered with this frame, which lives until that returns; the code that uses it is what was interrupted.
        let frame = unsafe { &mut *frame };
        let inside = rip.wrapping_sub(frame.code[0]) < frame.code[1];
        if inside && rsp == ptr::from_mut(frame).addr() as u64 {
            let trap = registers[libc::REG_TRAPNO as usize];
            let error = registers[libc::REG_ERR as usize];
            frame.fault = Fault {
                pc: rip,
                address: registers[libc::REG_CR2 as usize].cast_unsigned(),
                is_page: trap == PAGE_FAULT,
                is_write: error & WRITE != 0,
            };
            registers[libc::REG_RIP as usize] = frame.fault_stub.cast_signed();
            return true;
        }
    }
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn redirected(_: *mut libc::c_void) -> bool {
    false
}

/// What would have happened without our handler.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(before) = BEFORE.get() else { return };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // It comes again when this returns, and then ends the process.
            // SAFETY: a plain struct, of which zeros are a value: the default action.
            let mut default: libc::sigaction = unsafe { std::mem::zeroed() };
            default.sa_sigaction = libc::SIG_DFL;
            // SAFETY: as in `install`.
            unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed it said that it has this type.
            let handler = unsafe {
                std::mem::transmute::<
                    usize,
                    extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
                >(handler)
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: as above, without those flags.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    /// Runs one of the tests below, which are for processes of their own.
    fn alone(test: &str) -> ExitStatus {
        let exe = std::env::current_exe().expect("a test is a program");
        let mut command = Command::new(exe);
        command.args([
            "--ignored",
            "--exact",
            &format!("x64::faults::tests::{test}"),
        ]);
        command.output().expect("it runs").status
    }

    fn fault() {
        // SAFETY: none: this is the fault that the process is to end by. Nobody has page 0.
        unsafe { ptr::read_volatile(ptr::without_provenance::<u8>(8)) };
    }

    #[test]
    fn signals_that_are_not_ours_keep_their_meaning() {
        assert_eq!(alone("who_faults_dies").signal(), Some(libc::SIGSEGV));
        assert_eq!(alone("a_handler_from_before_is_called").code(), Some(42));
        assert_eq!(alone("who_is_sent_it_dies").signal(), Some(libc::SIGSEGV));
    }

    #[test]
    #[ignore = "it dies"]
    fn who_is_sent_it_dies() {
        install().expect("a handler");
        // SAFETY: none: the process is to end by it.
        unsafe { libc::kill(std::process::id().cast_signed(), libc::SIGSEGV) };
        std::thread::sleep(std::time::Duration::from_secs(1));
    }

    #[test]
    #[ignore = "it dies"]
    fn who_faults_dies() {
        install().expect("a handler");
        fault();
    }

    #[test]
    #[ignore = "it ends the process"]
    fn a_handler_from_before_is_called() {
        extern "C" fn end(_: i32) {
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(42) };
        }
        let handler: extern "C" fn(i32) = end;
        // SAFETY: a handler of this type.
        unsafe { libc::signal(libc::SIGSEGV, handler as usize) };
        install().expect("a handler");
        // This thread has entered nothing.
        fault();
    }
}
