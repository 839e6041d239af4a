//! Why a kernel could not be loaded: what failed, why, and what to do.

use std::fmt;
use std::io;

use super::detect::Protocol;

/// A file given with `--kernel` or `--initrd` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot load {file}: {problem}")]
pub struct LoadError {
    /// The file, as the user named it.
    pub file: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file. Each text gives the reason, then what to do.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The host would not let us read it.
    #[error("{0}; check the path and its permissions")]
    Unreadable(io::Error),
    /// Nothing in it.
    #[error("the file is empty; give a complete one")]
    Empty,
    /// It ends too early.
    #[error(
        "the file is cut off: {what} should reach to byte {need}, the file has {have}; fetch it again"
    )]
    Truncated {
        /// The part that is missing.
        what: &'static str,
        /// Bytes that the file should have at least.
        need: u64,
        /// Bytes that it has.
        have: u64,
    },
    /// Something else altogether.
    #[error("this is {looks_like}, no kernel that can be loaded directly; {hint}")]
    Foreign {
        /// What its first bytes say.
        looks_like: &'static str,
        /// What to do with such a file.
        hint: &'static str,
    },
    /// The user asked for a protocol that the file does not speak.
    #[error("it does not speak {asked}: {why}; leave protocol= out to have it detected")]
    OtherProtocol {
        /// What was asked for.
        asked: Protocol,
        /// What is missing.
        why: &'static str,
    },
    /// A field that no correct file has.
    #[error("the file is damaged: {0}; fetch it again")]
    Malformed(&'static str),
    /// A correct file that wants what direct loading does not give.
    #[error("{wants}; {hint}")]
    Unsupported {
        /// What it wants.
        wants: String,
        /// What to do.
        hint: &'static str,
    },
    /// It does not fit.
    #[error("{what} needs RAM up to {end}, this machine has {have}; give it more with --mem {enough}M", end = Size(*.end), have = Size(*.have), enough = enough(*.end))]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// The first address after what is needed.
        end: u64,
        /// Bytes of RAM that there are.
        have: u64,
    },
    /// It wants to be where a PC has no RAM.
    #[error(
        "{what} wants the addresses {start:#x} to {end:#x}, where a PC has no RAM; link it to other addresses (1 MiB is usual)"
    )]
    NoRamThere {
        /// What wants them.
        what: &'static str,
        /// First address.
        start: u64,
        /// Last address.
        end: u64,
    },
    /// No gap is large enough.
    #[error("no place is left in RAM for {what} of {size}; give the machine more with --mem, or make it smaller", size = Size(*.size))]
    NoRoom {
        /// What does not fit.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// `--append` is too long.
    #[error("its command line has {len} bytes, this kernel takes {max}; shorten --append")]
    CommandLine {
        /// Bytes, without the terminating zero.
        len: u64,
        /// Bytes that the kernel takes.
        max: u64,
    },
    /// `--kernel` or `--initrd` cannot be understood.
    #[error("{0}")]
    Usage(String),
}

impl Problem {
    /// Adds the file's name.
    pub(super) fn of(self, file: &str) -> LoadError {
        LoadError {
            file: file.to_owned(),
            problem: self,
        }
    }
}

impl LoadError {
    /// The program's exit status for it: 2 for a command line that cannot be meant, 4 for a file that cannot be used.
    pub fn exit_status(&self) -> u8 {
        if matches!(self.problem, Problem::Usage(_)) {
            2
        } else {
            4
        }
    }
}

/// The --mem in MiB that surely reaches `end`, with room for what a kernel allocates first.
fn enough(end: u64) -> u64 {
    // Above the PCI hole addresses run ahead of the amount of RAM; too much advice is better than too little.
    (end >> 20).saturating_add(32).next_multiple_of(32)
}

/// A number of bytes for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1 << 20 {
            write!(f, "{} KiB", self.0.div_ceil(1 << 10))
        } else {
            write!(f, "{} MiB", self.0.div_ceil(1 << 20))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Problem;

    #[test]
    fn a_message_says_what_why_and_what_to_do() {
        let e = Problem::TooLarge {
            what: "the kernel",
            end: 70 << 20,
            have: 64 << 20,
        }
        .of("bz");
        let text = e.to_string();
        assert!(
            text.starts_with("cannot load bz: the kernel needs RAM up to 70 MiB"),
            "{text}"
        );
        assert!(text.ends_with("--mem 128M"), "{text}");
        assert_eq!(e.exit_status(), 4);
    }
}
