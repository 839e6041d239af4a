//! The PC around the CPU: board, buses, devices, clock, ACPI tables, and the host's ends of the devices.
//!
//! ```text
//! vCPU ──Bus──► Board ──ports, memory, PCI──► Device ──IrqLine──► Router ──► Apics ──► Events ──► vCPU
//!      ◄─Platform─┘  ▲                          │
//!                    └── timer thread ◄─deadline┘
//! ```
#![forbid(unsafe_code)]

pub mod a20;
pub mod acpi;
pub mod board;
mod bus;
pub mod clock;
mod counted;
pub mod device;
pub mod devices;
pub mod fuzz;
pub mod host;
pub mod inbox;
pub mod interrupt;
pub mod loader;
pub mod machine;
pub mod memory;
pub mod pci;
mod ports;
pub mod requests;
pub mod sink;
pub mod tick;
mod timed;
pub mod timers;

pub use board::{Board, BoardConfig, BoardError};
pub use clock::Nanos;
pub use requests::{MachineRequest, MachineRequests};
