//! The program as a whole: bad input, tiny guests, cases over pipes.

mod common;
#[cfg(test)]
mod counted;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod perf;
#[cfg(test)]
mod run;
