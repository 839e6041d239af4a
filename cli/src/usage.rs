//! From the process's arguments to a command; mistakes come out as one line that says what was meant, if that is clear.

use std::ffi::OsString;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::{Cli, Command};
use crate::failure::Failure;

/// Parses the command line. `--help` and `--version` print what they must and end the process.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    match Cli::try_parse_from(line) {
        Ok(cli) => Ok(cli.command.unwrap_or(Command::Demo)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            crate::stdout::require()?;
            match error.print() {
                Ok(()) => std::process::exit(0),
                Err(e) => Err(Failure::Host(format!("cannot write to stdout: {e}"))),
            }
        }
        Err(error) => Err(Failure::Usage(one_line(&error))),
    }
}

/// A parse error on one line: what, and what may have been meant.
fn one_line(error: &clap::Error) -> String {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        Some(ContextValue::Strings(list)) => Some(list.join(", ")),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg);
    let value = text(ContextKind::InvalidValue);
    let mut line = match (error.kind(), argument, value) {
        (ErrorKind::UnknownArgument, Some(argument), _) => {
            format!("there is no argument {argument}")
        }
        (ErrorKind::InvalidSubcommand, ..) => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!(
                "there is no command {name}; commands are run, exec, demo, bench, engines, doctor and ctl"
            )
        }
        (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Some(argument), Some(value)) => {
            let option = argument.split_whitespace().next().unwrap_or_default();
            let why = std::error::Error::source(error)
                .map(|e| format!(": {e}"))
                .unwrap_or_default();
            if value.is_empty() {
                format!("{option} needs a value")
            } else {
                format!("{option} {value}{why}")
            }
        }
        (ErrorKind::ArgumentConflict, Some(argument), _) => {
            let option = argument.split_whitespace().next().unwrap_or_default();
            format!("{option} is there twice")
        }
        _ => {
            let whole = error.to_string();
            let first = whole.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    };
    for kind in [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ] {
        if let Some(suggestion) = text(kind) {
            line += &format!("; did you mean {suggestion}?");
        }
    }
    line + " (--help lists everything)"
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::args::Command;

    fn error(line: &str) -> String {
        parse(line.split(' ').map(Into::into))
            .expect_err("wrong")
            .to_string()
    }

    #[test]
    fn without_a_command_it_is_the_demo() {
        assert!(matches!(parse(["doppel".into()]), Ok(Command::Demo)));
    }

    #[test]
    fn mistakes() {
        let help = " (--help lists everything)";
        for (line, text) in [
            (
                "doppel run --kernal x",
                "there is no argument --kernal; did you mean --kernel?",
            ),
            (
                "doppel run --mem 5X",
                "--mem 5X: write a number with K, M or G behind it, for example 512M",
            ),
            (
                "doppel run --cpus 0",
                "--cpus 0: write a number from 1 to 64",
            ),
            (
                "doppel run --debug-exit 0x10000",
                "--debug-exit 0x10000: ports go from 0 to 65535 (0xffff)",
            ),
            ("doppel run --kernel", "--kernel needs a value"),
            ("doppel run --mem 1G --mem 2G", "--mem is there twice"),
            ("doppel run a b", "there is no argument b"),
            ("doppel demo x", "there is no argument x"),
        ] {
            assert_eq!(error(line), format!("{text}{help}"));
        }
        assert!(error("doppel rum").contains("there is no command rum; commands are run,"));
        assert!(error("doppel rum").contains("did you mean run"));
    }
}
