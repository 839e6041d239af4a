//! Guest memory: RAM, page walks, TLBs, code-page tracking, and the seam to what is not RAM.

mod bus;

pub use bus::Bus;
