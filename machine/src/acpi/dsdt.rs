//! The DSDT: what the devices are, for an operating system that asks ACPI.

use super::aml::{
    bus_numbers, device, eisa_id, integer, io, io_window, irq, memory_window, memory32_fixed,
    method, name, package, reference, resources, returns, scope, store_arg0, string, when,
};
use super::{AcpiConfig, PIC_IRQS};
use crate::devices::hpet;
use crate::devices::pm::{GPE0, PM1A_EVENT, S5_TYPE};
use crate::devices::uart::COM_PORTS;
use crate::interrupt::router::PCI_FIRST;
use crate::memory::{LOW_RAM_END, SHADOW_START, VGA_START};

/// The last byte of PCI's window under 4 GiB; the I/O APIC follows.
const PCI_MEMORY_LAST: u32 = 0xfebf_ffff;

/// The definition block's content.
pub(super) fn dsdt(config: &AcpiConfig) -> Vec<u8> {
    let s5 = package(&[
        integer(u64::from(S5_TYPE)),
        integer(u64::from(S5_TYPE)),
        integer(0),
        integer(0),
    ]);
    let mut system_bus = vec![pci_host(config), hpet_device(), motherboard()];
    system_bus.extend((0..config.cpus).map(processor));
    [
        // 0 until the operating system says that it uses the I/O APIC.
        name("PICM", &integer(0)),
        method("_PIC", 1, &[store_arg0("PICM")]),
        name("_S5", &s5),
        scope("_SB", &system_bus),
    ]
    .concat()
}

/// A device with an EISA id, a unique id and fixed resources.
fn plain(segment: &str, id: &str, unique: u64, crs: &[Vec<u8>]) -> Vec<u8> {
    let content = [
        name("_HID", &eisa_id(id)),
        name("_UID", &integer(unique)),
        name("_CRS", &resources(crs)),
    ];
    device(segment, &content)
}

fn processor(index: usize) -> Vec<u8> {
    let content = [
        name("_HID", &string("ACPI0007")),
        name("_UID", &integer(index as u64)),
    ];
    device(&format!("C{index:03}"), &content)
}

fn hpet_device() -> Vec<u8> {
    plain(
        "HPET",
        "PNP0103",
        0,
        &[memory32_fixed(hpet::BASE as u32, hpet::LEN as u32)],
    )
}

/// The ports of the chipset that belong to no other device.
fn motherboard() -> Vec<u8> {
    let ports = [
        io(0x92, 1),
        io(0xed, 1),
        io(0x4d0, 2),
        io(PM1A_EVENT, 12),
        io(GPE0, 4),
    ];
    plain("MBRD", "PNP0C02", 0, &ports)
}

fn pci_host(config: &AcpiConfig) -> Vec<u8> {
    let crs = resources(&[
        bus_numbers(0, 0xff),
        io(0xcf8, 8),
        io_window(0, 0xcf7),
        io_window(0xd00, 0xffff),
        memory_window(VGA_START as u32, SHADOW_START as u32 - 1),
        memory_window(LOW_RAM_END as u32, PCI_MEMORY_LAST),
    ]);
    let apic = route(|line| u64::from(PCI_FIRST) + line);
    let pic = route(|line| u64::from(PIC_IRQS[line as usize & 3]));
    device(
        "PCI0",
        &[
            name("_HID", &eisa_id("PNP0A03")),
            name("_UID", &integer(0)),
            name("_CRS", &crs),
            name("PRTA", &apic),
            name("PRTP", &pic),
            method(
                "_PRT",
                0,
                &[
                    when(&reference("PICM"), &[returns(&reference("PRTA"))]),
                    returns(&reference("PRTP")),
                ],
            ),
            isa(config),
        ],
    )
}

/// The interrupt of each slot's four pins: `interrupt(0..=3)` is what the board's INTA..INTD lines end at.
fn route(interrupt: impl Fn(u64) -> u64) -> Vec<u8> {
    let mut entries = Vec::new();
    for slot in 0..32 {
        for pin in 0..4 {
            let address = integer(slot << 16 | 0xffff);
            entries.push(package(&[
                address,
                integer(pin),
                integer(0),
                integer(interrupt((slot + pin) & 3)),
            ]));
        }
    }
    package(&entries)
}

fn isa(config: &AcpiConfig) -> Vec<u8> {
    let mut content = vec![
        name("_ADR", &integer(u64::from(crate::pci::isa::DEVICE) << 16)),
        plain("KBD", "PNP0303", 0, &[io(0x60, 1), io(0x64, 1), irq(1)]),
        plain("MOU", "PNP0F13", 0, &[irq(12)]),
        plain("RTC", "PNP0B00", 0, &[io(0x70, 4), irq(8)]),
    ];
    for (index, (port, line)) in (1u64..).zip(COM_PORTS) {
        if config.serial.get(index as usize - 1) == Some(&true) {
            content.push(plain(
                &format!("COM{index}"),
                "PNP0501",
                index,
                &[io(port, 8), irq(line)],
            ));
        }
    }
    device("ISA", &content)
}
