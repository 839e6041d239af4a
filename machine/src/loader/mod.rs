//! Loaders for `--kernel`: an operating system's image goes straight into guest RAM, without firmware.
//!
//! ```text
//! options ─ BootFiles::open ─ detect ─┬ bzimage ────────────┐
//!           (reads the files)         ├ elf + pvh           ├─ Claims (who owns which RAM) ─ GuestMemory
//!                                     ├ multiboot1 ┐        │
//!                                     └ multiboot2 ┴ kernel ┘        └─ EntryState: the CPU at the kernel's door
//! ```
//!
//! A loader is a boot loader and a firmware in one: it leaves the memory map, the command line, the initrd or
//! modules, a GDT and (for 64-bit Linux) page tables in RAM, and says in [`EntryState`] what the processor must
//! look like. It trusts nothing in a file: every offset is checked, nothing is allocated that the file's own length
//! does not justify, and every failure is a [`LoadError`] that says what failed, why and what to do.

mod bytes;
mod bzimage;
mod claims;
mod detect;
mod elf;
mod entry;
mod error;
mod files;
pub mod fuzz;
mod map;
mod multiboot1;
mod multiboot2;
mod pvh;
#[cfg(test)]
mod testing;

pub use detect::Protocol;
pub use entry::EntryState;
pub use error::{LoadError, Problem};
pub use files::{BootFiles, Module};
pub use map::{MapEntry, MapKind, MemoryMap};

use x86::PhysAddr;

/// The name under which we present ourselves to kernels that ask who loaded them.
const LOADER_NAME: &str = "doppel";

/// A write that did not fall wholly into RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideRam;

/// Where a loader puts bytes: the machine's RAM.
pub trait GuestMemory {
    /// Copies `bytes` to physical address `at`.
    ///
    /// # Errors
    /// [`OutsideRam`] if not all of it is RAM; nothing needs to have been written then.
    fn write(&mut self, at: PhysAddr, bytes: &[u8]) -> Result<(), OutsideRam>;

    /// Clears `len` bytes from `at`: RAM may be dirty when a machine is reset and its kernel loaded anew.
    ///
    /// # Errors
    /// As [`GuestMemory::write`].
    fn zero(&mut self, at: PhysAddr, len: u64) -> Result<(), OutsideRam> {
        const ZEROS: &[u8] = &[0; 1 << 16];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(ZEROS.len() as u64);
            let to = at.0.checked_add(done).ok_or(OutsideRam)?;
            self.write(PhysAddr(to), ZEROS.get(..step as usize).unwrap_or(ZEROS))?;
            done += step;
        }
        Ok(())
    }
}

/// The ACPI Root System Description Pointer that the machine has put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rsdp {
    /// Where it lies.
    pub at: PhysAddr,
    /// Its 36 bytes (revision 2; a revision-0 pointer uses the first 20).
    pub bytes: [u8; 36],
}

/// What a loader must know of the machine.
#[derive(Clone, Debug)]
pub struct Environment {
    /// RAM and reserved ranges, as the kernel will be told.
    pub map: MemoryMap,
    /// The ACPI tables' root, if the machine has them.
    pub rsdp: Option<Rsdp>,
    /// Whether the processor has 64-bit mode; without it a kernel is entered by its 32-bit entry point.
    pub long_mode: bool,
    /// Whether a VGA adapter in 80x25 text mode shows what lies at B8000h.
    pub vga_text: bool,
}

/// What came of loading a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The protocol that was spoken: never [`Protocol::Auto`].
    pub protocol: Protocol,
    /// The state of the boot processor at the kernel's first instruction.
    pub entry: EntryState,
}
