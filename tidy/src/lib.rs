//! The project's own rules as tests: file sizes, crate edges, where `unsafe` may stand, what docs may claim.
#![forbid(unsafe_code)]

#[cfg(test)]
mod rules;
