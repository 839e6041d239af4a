//! Fills the cache: `cargo run -p guests --example fetch [FILE...]`, with names as in the cache; without any, all.

use std::io::{self, Write};
use std::process::ExitCode;

use guests::{Cache, Guest};

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |g: &Guest| names.is_empty() || names.iter().any(|n| n == g.file());
    let mut status = ExitCode::SUCCESS;
    for guest in Guest::ALL.into_iter().filter(wanted) {
        match Cache::open().and_then(|cache| cache.get(guest)) {
            Ok(path) => {
                if writeln!(io::stdout(), "{}", path.display()).is_err() {
                    return ExitCode::FAILURE; // nobody reads it
                }
            }
            Err(e) => {
                eprintln!("{e}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
