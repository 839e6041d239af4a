//! The `doppel` program: argument parsing and presentation only.

fn main() {}
