//! The `doppel` program: argument parsing and presentation only.

mod args;
mod bug;
mod demo;
mod doctor;
mod engines;
mod exec;
mod failure;
mod memory;
mod run;
mod say;
mod stdout;
mod terminal;
mod unbuilt;
mod usage;
mod values;

use std::process::ExitCode;

use args::Command;
use failure::Failure;

fn main() -> ExitCode {
    memory::prepare();
    bug::install_hook();
    say::install_warnings();
    let result = usage::parse(std::env::args_os()).and_then(|command| match command {
        Command::Run(args) => run::run(*args),
        Command::Exec(args) => exec::exec(&args),
        Command::Demo => demo::demo(),
        Command::Engines => engines::engines(),
        Command::Doctor => doctor::doctor(),
        Command::Bench => Err(unbuilt::command("bench")),
        Command::Ctl(_) => Err(unbuilt::command("ctl")),
    });
    terminal::restore();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            say::say(&failure.to_string());
            ExitCode::from(failure.status())
        }
    }
}

/// What a command comes to: the process's exit status, or a failure that has one.
type Outcome = Result<u8, Failure>;
