//! What is being fetched, for people: a bar on a terminal, plain lines elsewhere; always on stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One fetch's display.
pub(crate) enum Progress {
    /// A line that is redrawn.
    Bar(ProgressBar),
    /// A line for each step.
    Lines,
    /// Nothing.
    Silent,
}

impl Progress {
    /// A bar if stderr is a terminal, else lines.
    pub(crate) fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::Bar(bar)
    }

    /// Begins a step. `bytes`: how many there are to be fetched, 0 if that is unknown.
    pub(crate) fn step(&self, text: &str, bytes: u64) {
        match self {
            Self::Bar(bar) => {
                let template = if bytes > 0 {
                    "doppel: {msg} {wide_bar} {bytes}/{total_bytes}"
                } else {
                    "doppel: {msg} {spinner}"
                };
                bar.set_style(
                    ProgressStyle::with_template(template)
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                bar.set_message(text.to_owned());
                bar.set_length(bytes);
                bar.set_position(0);
            }
            Self::Lines => {
                let size = if bytes > 0 {
                    format!(" ({})", indicatif::HumanBytes(bytes))
                } else {
                    String::new()
                };
                // A closed stderr is no reason to stop.
                writeln!(io::stderr(), "doppel: {text}{size}").ok();
            }
            Self::Silent => {}
        }
    }

    /// So many bytes are there.
    pub(crate) fn at(&self, bytes: u64) {
        if let Self::Bar(bar) = self {
            bar.set_position(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
