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
            info.location()
                .map_or_else(|| "nowhere".to_owned(), ToString::to_string),
        ));
        if let Some(state) = system::dump_current() {
            say::say(&format!("the guest's state:\n{state}"));
        }
        std::process::exit(i32::from(status::BUG));
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or("a panic without a message");
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// The program that panics, run by the test below.
    #[test]
    #[ignore = "ends the process"]
    fn child() {
        super::install_hook();
        panic!("two\nlines");
    }

    #[test]
    fn a_panic_is_one_line_and_has_its_own_status() {
        let exe = std::env::current_exe().expect("a test is a file");
        let output = Command::new(exe)
            .args([
                "--exact",
                "bug::tests::child",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .output()
            .expect("the test starts itself");
        assert_eq!(output.status.code(), Some(8), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("doppel: bug: two lines (cli/src/bug.rs:"),
            "{text}"
        );
        assert!(!text.contains("backtrace"), "{text}");
    }
}
