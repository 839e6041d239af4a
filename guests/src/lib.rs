//! Guests for the demo and the tests: Debian packages, fetched without root.
#![forbid(unsafe_code)]
