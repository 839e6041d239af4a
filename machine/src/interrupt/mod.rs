//! Interrupts, from a device's line to a vCPU's event word.
//!
//! ```text
//! IrqLine ──► Router ──┬─► PIC pair ──INT──► LINT0 of vCPU 0 ─┐
//!                      └─► I/O APIC ──message──┐              ├─► Lapic ──► Events (INTR, NMI, INIT, SIPI)
//! MSI (write to FEEx_xxxx), IPI ───────────────┴──────────────┘
//! ```
//! Locks are taken from left to right: device, router, local APIC. A local APIC never calls to the left with its lock
//! held: what an EOI or an ICR write causes is returned as an [`lapic::Effect`] and done after the lock is released.

pub mod apics;
pub mod ioapic;
pub mod lapic;
pub mod message;
pub mod pic;
pub mod router;

pub use apics::Apics;
pub use message::{Delivery, Destination, Message, Mode};
pub use router::{IrqLine, Router};
