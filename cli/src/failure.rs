//! What can go wrong that is not the guest's fault, and the exit statuses.

use std::fmt;

/// The statuses that are ours are even; odd ones are the guest's.
pub mod status {
    /// Powered off, or quit.
    pub const DONE: u8 = 0;
    /// The command line can't be meant.
    pub const USAGE: u8 = 2;
    /// The host failed us.
    pub const HOST: u8 = 4;
    /// A triple fault under `--no-reboot`.
    pub const TRIPLE_FAULT: u8 = 6;
    /// Our own bug.
    pub const BUG: u8 = 8;
}

/// Why a command ends early. The texts say what failed, why and what to do, on one line but for bugs.
#[derive(Debug)]
pub enum Failure {
    /// The user asked for what can't be.
    Usage(String),
    /// The host, or a file on it, is not as it must be.
    Host(String),
    /// Doppel itself did something wrong; the text has all that is known of it.
    Bug(String),
}

impl Failure {
    /// The process's exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => status::USAGE,
            Self::Host(_) => status::HOST,
            Self::Bug(_) => status::BUG,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Host(text) | Self::Bug(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}
