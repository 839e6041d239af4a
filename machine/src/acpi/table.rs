//! The fixed-form tables: RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET.

use super::AcpiConfig;
use crate::devices::{hpet as hpet_device, pm, rtc};
use crate::interrupt::lapic::DEFAULT_BASE;
use crate::interrupt::router::SCI;
use crate::interrupt::{ioapic, router};

const OEM: &[u8; 6] = b"DOPPEL";
const OEM_TABLE: &[u8; 8] = b"DOPPELPC";
const CREATOR: &[u8; 4] = b"DOPL";

/// Bytes of the header that all tables but RSDP and FACS have.
const HEADER: usize = 36;

/// The byte that makes `bytes` add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte))
}

/// A table: header and content.
pub(super) fn sdt(signature: &[u8; 4], revision: u8, content: &[u8]) -> Vec<u8> {
    let len = (HEADER + content.len()) as u32;
    let mut bytes = Vec::new();
    bytes.extend(signature);
    bytes.extend(len.to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.extend(OEM);
    bytes.extend(OEM_TABLE);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(CREATOR);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(content);
    bytes[9] = checksum(&bytes);
    bytes
}

/// The root pointer (ACPI 6.5, 5.2.5.3).
pub(super) fn rsdp(rsdt: u64, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR ".to_vec();
    bytes.push(0);
    bytes.extend(OEM);
    bytes.push(2);
    bytes.extend((rsdt as u32).to_le_bytes());
    bytes[8] = checksum(&bytes);
    bytes.extend(36u32.to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.extend([0; 4]);
    bytes[32] = checksum(&bytes);
    bytes
}

/// The root table with 32-bit addresses.
pub(super) fn rsdt(tables: &[u64]) -> Vec<u8> {
    let entries: Vec<u8> = tables
        .iter()
        .flat_map(|&at| (at as u32).to_le_bytes())
        .collect();
    sdt(b"RSDT", 1, &entries)
}

/// The root table with 64-bit addresses.
pub(super) fn xsdt(tables: &[u64]) -> Vec<u8> {
    let entries: Vec<u8> = tables.iter().flat_map(|at| at.to_le_bytes()).collect();
    sdt(b"XSDT", 1, &entries)
}

/// A generic address in I/O space: register width in bits, access size (1 byte, 2 word, 3 dword), port.
fn io_address(bits: u8, access: u8, port: u16) -> Vec<u8> {
    let mut bytes = vec![1, bits, 0, access];
    bytes.extend(u64::from(port).to_le_bytes());
    bytes
}

/// The fixed description (ACPI 6.5, 5.2.9).
pub(super) fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut bytes = vec![0; 276 - HEADER];
    let mut put = |at: usize, value: &[u8]| {
        bytes[at - HEADER..at - HEADER + value.len()].copy_from_slice(value)
    };
    put(36, &(facs as u32).to_le_bytes());
    put(40, &(dsdt as u32).to_le_bytes());
    // A desktop. SMI_CMD stays 0: ACPI mode is on from the start, and SCI_EN with it.
    put(45, &[1]);
    put(46, &u16::from(SCI).to_le_bytes());
    put(56, &u32::from(pm::PM1A_EVENT).to_le_bytes());
    put(64, &u32::from(pm::PM1A_CONTROL).to_le_bytes());
    put(76, &u32::from(pm::PM_TIMER).to_le_bytes());
    put(80, &u32::from(pm::GPE0).to_le_bytes());
    // Lengths: PM1 event, PM1 control, PM2 control, PM timer, GPE0.
    put(88, &[4, 2, 0, 4, 4]);
    // C2 and C3 take longer than allowed: there are none.
    put(96, &101u16.to_le_bytes());
    put(98, &1001u16.to_le_bytes());
    put(108, &[rtc::CENTURY]);
    // Legacy devices, 8042, no VGA; MSI and the CMOS RTC are there.
    put(109, &(1u16 | 1 << 1 | 1 << 2).to_le_bytes());
    // WBINVD, C1, no fixed sleep button, RTC can't wake, 32-bit PM timer, reset register.
    put(
        112,
        &(1u32 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10).to_le_bytes(),
    );
    put(116, &io_address(8, 1, pm::RESET_PORT));
    put(128, &[pm::RESET_VALUE]);
    put(140, &dsdt.to_le_bytes());
    put(148, &io_address(32, 2, pm::PM1A_EVENT));
    put(172, &io_address(16, 2, pm::PM1A_CONTROL));
    put(208, &io_address(32, 3, pm::PM_TIMER));
    put(220, &io_address(32, 1, pm::GPE0));
    sdt(b"FACP", 6, &bytes)
}

/// The firmware control structure (ACPI 6.5, 5.2.10).
pub(super) fn facs() -> Vec<u8> {
    let mut bytes = b"FACS".to_vec();
    bytes.extend(64u32.to_le_bytes());
    bytes.resize(64, 0);
    bytes[32] = 2;
    bytes
}

/// The interrupt controllers (ACPI 6.5, 5.2.12).
pub(super) fn madt(config: &AcpiConfig) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((DEFAULT_BASE as u32).to_le_bytes());
    // There are PICs too.
    bytes.extend(1u32.to_le_bytes());
    for cpu in 0..config.cpus as u8 {
        bytes.extend([0, 8, cpu, cpu]);
        bytes.extend(1u32.to_le_bytes());
    }
    bytes.extend([1, 12, ioapic::ID, 0]);
    bytes.extend((ioapic::BASE as u32).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    // The timer is on another input; its edge is the bus's default.
    bytes.extend([2, 10, 0, 0]);
    bytes.extend((router::ioapic_pin(0) as u32).to_le_bytes());
    bytes.extend([0, 0]);
    // The SCI is active high and level-triggered.
    bytes.extend([2, 10, 0, SCI]);
    bytes.extend(u32::from(SCI).to_le_bytes());
    bytes.extend([0x0d, 0]);
    // NMI at LINT1 of every processor.
    bytes.extend([4, 6, 0xff, 0, 0, 1]);
    sdt(b"APIC", 4, &bytes)
}

/// The HPET (IA-PC HPET specification 1.0a, 3.2.4).
pub(super) fn hpet() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((hpet_device::CAPABILITIES as u32).to_le_bytes());
    bytes.extend([0, 64, 0, 0]);
    bytes.extend(hpet_device::BASE.to_le_bytes());
    // HPET 0; a periodic timer may be set to at least 20 us without losing interrupts.
    bytes.push(0);
    bytes.extend(2000u16.to_le_bytes());
    bytes.push(0);
    sdt(b"HPET", 1, &bytes)
}
