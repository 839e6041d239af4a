//! The user's terminal: raw while a guest has it, restored whenever and however the program ends.

use std::io::{IsTerminal, stderr, stdin};
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::failure::Failure;

/// The terminal's settings from before it became raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether stdin is a terminal.
pub fn is_terminal() -> bool {
    stdin().is_terminal()
}

/// What ends a line of our own on stderr: a raw terminal does not return to the left by itself.
pub fn line_end() -> &'static str {
    let raw = SAVED.try_lock().is_ok_and(|saved| saved.is_some());
    if raw && stderr().is_terminal() {
        "\r\n"
    } else {
        "\n"
    }
}

/// Makes the terminal raw: keys go to the guest as they are typed, its output to the screen as it is.
pub fn make_raw() -> Result<(), Failure> {
    let refused = |e| {
        Failure::Host(format!(
            "cannot make the terminal raw: {e}; use a pipe, or --serial none"
        ))
    };
    let saved = tcgetattr(stdin()).map_err(refused)?;
    let mut raw = saved.clone();
    raw.make_raw();
    if let Ok(mut place) = SAVED.lock() {
        place.get_or_insert(saved);
    }
    tcsetattr(stdin(), OptionalActions::Drain, &raw).map_err(refused)
}

/// Gives the terminal back as it was. Safe to call at any time, from any thread.
pub fn restore() {
    // Somebody who panicked with the lock held has not changed anything.
    let saved = match SAVED.try_lock() {
        Ok(mut saved) => saved.take(),
        Err(_) => None,
    };
    if let Some(saved) = saved {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &saved);
    }
}

/// Has SIGINT, SIGTERM and SIGHUP restore the terminal before they end the process.
pub fn watch_signals() -> Result<(), Failure> {
    let refused = |e: std::io::Error| {
        Failure::Host(format!(
            "cannot watch for signals: {e}; the host is out of resources"
        ))
    };
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(refused)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                restore();
                // Does not come back: these end a process.
                let _ = emulate_default_handler(signal);
            }
        })
        .map_err(refused)?;
    Ok(())
}
