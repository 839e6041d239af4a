//! What is not RAM: the seam through which the CPU reaches device memory and I/O ports.

use x86::PhysAddr;

/// Device memory and I/O ports as one vCPU sees them. `machine` implements it.
///
/// `cpu` is the index of the vCPU that makes the access (the local APIC's page is a different one for each).
/// Sizes are 1, 2, 4 or (MMIO only) 8 bytes; an access never crosses its natural alignment by more than the
/// CPU itself would put on the bus: the caller has split accesses that cross a page. Values are zero-extended.
/// What nobody claims reads as all ones and ignores writes.
pub trait Bus: Send + Sync {
    /// Reads `size` bytes of device memory.
    fn mmio_read(&self, cpu: usize, addr: PhysAddr, size: u8) -> u64;
    /// Writes the low `size` bytes of `value` to device memory.
    fn mmio_write(&self, cpu: usize, addr: PhysAddr, size: u8, value: u64);
    /// IN: reads `size` (1, 2, 4) bytes from an I/O port.
    fn pio_read(&self, cpu: usize, port: u16, size: u8) -> u32;
    /// OUT: writes the low `size` (1, 2, 4) bytes of `value` to an I/O port.
    fn pio_write(&self, cpu: usize, port: u16, size: u8, value: u32);
}
