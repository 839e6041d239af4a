//! frontend-x86.
