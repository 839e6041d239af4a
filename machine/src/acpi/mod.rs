//! The ACPI tables that tell the guest what the board holds (ACPI 6.5, chapter 5), laid into the F segment.
//!
//! `RSDP -> RSDT and XSDT -> FADT (-> FACS, DSDT), MADT, HPET`

mod aml;
mod dsdt;
mod table;

use x86::PhysAddr;

use crate::memory::F_SEGMENT;
use table::{facs, fadt, hpet, madt, rsdp, rsdt, sdt, xsdt};

/// The PIC inputs that PCI's INTA..INTD are routed to for an operating system without the I/O APIC.
pub const PIC_IRQS: [u8; 4] = [10, 10, 11, 11];

/// What the tables tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Number of vCPUs; their APIC ids are 0, 1, ...
    pub cpus: usize,
    /// Which of COM1..COM4 are there.
    pub serial: Vec<bool>,
}

/// Gives out places in the F segment.
struct Layout {
    next: u64,
    placed: Vec<(PhysAddr, Vec<u8>)>,
}

impl Layout {
    /// Reserves `len` bytes on a 64-byte boundary, as FACS needs and all others may have.
    fn reserve(&mut self, len: usize) -> u64 {
        let at = self.next.next_multiple_of(64);
        self.next = at + len as u64;
        at
    }

    fn place(&mut self, bytes: Vec<u8>) -> u64 {
        let at = self.reserve(bytes.len());
        self.placed.push((PhysAddr(at), bytes));
        at
    }
}

/// The tables and where they must lie. The first one is the RSDP, which the guest finds by its signature.
pub fn build(config: &AcpiConfig) -> Vec<(PhysAddr, Vec<u8>)> {
    let mut layout = Layout {
        next: F_SEGMENT,
        placed: Vec::new(),
    };
    let rsdp_at = layout.reserve(rsdp(0, 0).len());
    let dsdt_at = layout.place(sdt(b"DSDT", 2, &dsdt::dsdt(config)));
    let facs_at = layout.place(facs());
    let fadt_at = layout.place(fadt(facs_at, dsdt_at));
    let madt_at = layout.place(madt(config));
    let hpet_at = layout.place(hpet());
    let tables = [fadt_at, madt_at, hpet_at];
    let rsdt_at = layout.place(rsdt(&tables));
    let xsdt_at = layout.place(xsdt(&tables));
    layout
        .placed
        .insert(0, (PhysAddr(rsdp_at), rsdp(rsdt_at, xsdt_at)));
    layout.placed
}

#[cfg(test)]
mod tests {
    use super::{AcpiConfig, build};
    use crate::devices::pm;
    use x86::PhysAddr;

    fn config(cpus: usize) -> AcpiConfig {
        AcpiConfig {
            cpus,
            serial: vec![true, false, true],
        }
    }

    /// The F segment with the tables in it.
    fn memory(tables: &[(PhysAddr, Vec<u8>)]) -> Vec<u8> {
        let mut memory = vec![0; 0x10_0000];
        for (at, bytes) in tables {
            let start = at.0 as usize;
            memory[start..start + bytes.len()].copy_from_slice(bytes);
        }
        memory
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }

    fn u32_at(memory: &[u8], at: usize) -> usize {
        u32::from_le_bytes(memory[at..at + 4].try_into().expect("4 bytes")) as usize
    }

    fn u64_at(memory: &[u8], at: usize) -> usize {
        u64::from_le_bytes(memory[at..at + 8].try_into().expect("8 bytes")) as usize
    }

    /// The table at `at`, checked.
    fn table<'a>(memory: &'a [u8], at: usize, signature: &[u8; 4]) -> &'a [u8] {
        let len = u32_at(memory, at + 4);
        let bytes = &memory[at..at + len];
        assert_eq!(&bytes[..4], signature);
        assert_eq!(
            sum(bytes),
            0,
            "checksum of {}",
            String::from_utf8_lossy(signature)
        );
        bytes
    }

    #[test]
    fn acpi_rsdp_rsdt_and_xsdt_lead_to_checked_tables() {
        let memory = memory(&build(&config(4)));
        let rsdp = (0xf_0000..0x10_0000)
            .step_by(16)
            .find(|&at| &memory[at..at + 8] == b"RSD PTR ")
            .expect("an RSDP");
        assert_eq!(sum(&memory[rsdp..rsdp + 20]), 0);
        assert_eq!(sum(&memory[rsdp..rsdp + 36]), 0);
        assert_eq!(memory[rsdp + 15], 2);
        let rsdt = table(&memory, u32_at(&memory, rsdp + 16), b"RSDT");
        let xsdt = table(&memory, u64_at(&memory, rsdp + 24), b"XSDT");
        let short: Vec<_> = (36..rsdt.len())
            .step_by(4)
            .map(|at| u32_at(rsdt, at))
            .collect();
        let long: Vec<_> = (36..xsdt.len())
            .step_by(8)
            .map(|at| u64_at(xsdt, at))
            .collect();
        assert_eq!(short, long);
        for (at, signature) in short.into_iter().zip([b"FACP", b"APIC", b"HPET"]) {
            table(&memory, at, signature);
        }
    }

    #[test]
    fn acpi_fadt_says_what_the_board_has() {
        let memory = memory(&build(&config(1)));
        let rsdt = u32_at(&memory, u32_at(&memory, 0xf_0000 + 16) + 36);
        let fadt = table(&memory, rsdt, b"FACP");
        assert_eq!((fadt[46], u32_at(fadt, 48)), (9, 0), "SCI 9, no SMI_CMD");
        assert_eq!(u32_at(fadt, 56), usize::from(pm::PM1A_EVENT));
        assert_eq!(u32_at(fadt, 64), usize::from(pm::PM1A_CONTROL));
        assert_eq!(u32_at(fadt, 76), usize::from(pm::PM_TIMER));
        assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
        assert_eq!(
            (fadt[128], u64_at(fadt, 120)),
            (pm::RESET_VALUE, usize::from(pm::RESET_PORT))
        );
        assert_eq!(fadt[108], 0x32, "century");
        let flags = u32_at(fadt, 112);
        assert_eq!(
            flags & (1 << 8 | 1 << 10),
            1 << 8 | 1 << 10,
            "32-bit timer, reset register"
        );
        assert_eq!(fadt[109] & 7, 7, "legacy devices, 8042, no VGA");
        // The 64-bit blocks say the same as the 32-bit ones, or ACPICA complains.
        for (legacy, extended, len) in [(56, 148, 4), (64, 172, 2), (76, 208, 4), (80, 220, 4)] {
            assert_eq!(u32_at(fadt, legacy), u64_at(fadt, extended + 4));
            assert_eq!(usize::from(fadt[extended + 1]), len * 8);
        }
        let facs = u32_at(fadt, 36);
        assert_eq!((&memory[facs..facs + 4], facs % 64), (&b"FACS"[..], 0));
        assert_eq!(u32_at(fadt, 40), u64_at(fadt, 140));
        let dsdt = table(&memory, u32_at(fadt, 40), b"DSDT");
        let s5 = dsdt.windows(4).position(|w| w == b"_S5_").expect("\\_S5");
        // Package, length, 4 elements, then byte 5.
        assert_eq!(dsdt[s5 + 4..s5 + 9], [0x12, 8, 4, 0x0a, pm::S5_TYPE]);
    }

    #[test]
    fn acpi_madt_lists_cpus_and_overrides() {
        let memory = memory(&build(&config(3)));
        let at = u32_at(&memory, u32_at(&memory, 0xf_0000 + 16) + 40);
        let madt = table(&memory, at, b"APIC");
        let (mut at, mut entries) = (44, Vec::new());
        while at < madt.len() {
            entries.push(&madt[at..at + usize::from(madt[at + 1])]);
            at += usize::from(madt[at + 1]);
        }
        assert_eq!(entries.iter().filter(|e| e[0] == 0 && e[4] == 1).count(), 3);
        assert_eq!(entries.iter().filter(|e| e[0] == 1).count(), 1);
        assert!(
            entries
                .iter()
                .any(|e| e[..] == [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]),
            "0 to 2"
        );
        assert!(
            entries
                .iter()
                .any(|e| e[..] == [2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0]),
            "SCI 9: high, level"
        );
        assert!(
            entries.iter().any(|e| e[..] == [4, 6, 0xff, 0, 0, 1]),
            "NMI at LINT1"
        );
    }

    #[test]
    fn the_largest_machine_fits_the_f_segment() {
        let tables = build(&config(64));
        let end = tables
            .iter()
            .map(|(at, bytes)| at.0 + bytes.len() as u64)
            .max()
            .expect("tables");
        assert!(end < 0xf_f000, "{end:#x}");
        let mut spans: Vec<_> = tables
            .iter()
            .map(|(at, bytes)| (at.0, at.0 + bytes.len() as u64))
            .collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|w| w[0].1 <= w[1].0), "no overlap");
    }

    /// Writes the tables to files for ACPICA's tools: set DOPPEL_ACPI_DUMP to a folder.
    #[test]
    fn tables_can_be_dumped() {
        let tables = build(&config(2));
        assert_eq!(tables.len(), 8);
        if let Ok(folder) = std::env::var("DOPPEL_ACPI_DUMP") {
            for (at, bytes) in &tables {
                let name: String = bytes[..4].iter().map(|&b| char::from(b)).collect();
                std::fs::write(format!("{folder}/{}-{:x}.aml", name.trim(), at.0), bytes)
                    .expect("writable");
            }
        }
    }
}
