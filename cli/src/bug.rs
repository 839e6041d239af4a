//! Our own bugs: a panic restores the terminal, prints one line and the guest's state, and ends with its own status.

use std::panic::PanicHookInfo;

use crate::failure::status;
use crate::{say, terminal};

/// Replaces the backtrace by something a user can act upon.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        terminal::restore();
        say::say(&format!(
            "bug: {} ({}); this is Doppel's fault, please report it with the command line and this output",
            message(info),
            info.location().map_or_else(|| "nowhere".to_owned(), ToString::to_string),
        ));
        std::process::exit(i32::from(status::BUG));
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or("a panic without a message");
    text.replace('\n', " ")
}
