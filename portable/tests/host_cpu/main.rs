//! The library against the host CPU: every instruction on random and special operands, in all modes.
//!
//! DOPPEL_TEST_ROUNDS multiplies the number of rounds, DOPPEL_TEST_SEED changes the operands, DOPPEL_TEST_ONLY names the
//! instructions (a prefix of their `Code`).
#![cfg(target_arch = "x86_64")]

#[cfg(test)]
mod float;
#[cfg(test)]
mod host;
#[cfg(test)]
mod vector;
#[cfg(test)]
mod x87;
