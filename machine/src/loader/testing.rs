//! Guest RAM for tests: sparse, and it panics at a write outside RAM, which a loader must never do.

use std::collections::BTreeMap;

use x86::PhysAddr;

use super::map::MemoryMap;
use super::{Environment, GuestMemory, OutsideRam, Rsdp};

/// Sparse RAM in pages of 4 KiB.
pub(super) struct Ram {
    map: MemoryMap,
    pages: BTreeMap<u64, [u8; 4096]>,
}

impl Ram {
    /// Zeroed RAM.
    pub(super) fn new(map: &MemoryMap) -> Self {
        Self {
            map: map.clone(),
            pages: BTreeMap::new(),
        }
    }

    /// `len` bytes from `at`.
    pub(super) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let byte = |a: u64| {
            self.pages
                .get(&(a >> 12))
                .map_or(0, |p| p[(a & 0xfff) as usize])
        };
        (at..at + len as u64).map(byte).collect()
    }

    /// The 16-bit number at `at`.
    pub(super) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    /// The 32-bit number at `at`.
    pub(super) fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(at, 4).try_into().unwrap())
    }

    /// The 64-bit number at `at`.
    pub(super) fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.read(at, 8).try_into().unwrap())
    }

    /// The zero-terminated string at `at`.
    pub(super) fn string(&self, at: u64) -> String {
        let bytes = (at..)
            .map(|a| self.read(a, 1)[0])
            .take_while(|&b| b != 0)
            .collect();
        String::from_utf8(bytes).unwrap()
    }
}

impl GuestMemory for Ram {
    fn write(&mut self, at: PhysAddr, bytes: &[u8]) -> Result<(), OutsideRam> {
        let end = at.0.checked_add(bytes.len() as u64).ok_or(OutsideRam)?;
        assert!(
            self.map.is_ram(&(at.0..end)),
            "a loader wrote outside RAM: {:#x}..{end:#x}",
            at.0
        );
        for (n, &b) in bytes.iter().enumerate() {
            let a = at.0 + n as u64;
            self.pages.entry(a >> 12).or_insert([0; 4096])[(a & 0xfff) as usize] = b;
        }
        Ok(())
    }
}

/// A machine with `mib` MiB of RAM, ACPI, 64-bit mode and no VGA.
pub(super) fn environment(mib: u64) -> Environment {
    let mut bytes = *b"RSD PTR \0TESTER\x02abcdABCD12345678s___";
    bytes[15] = 2;
    Environment {
        map: MemoryMap::pc(mib << 20),
        rsdp: Some(Rsdp {
            at: PhysAddr(0xf_0040),
            bytes,
        }),
        long_mode: true,
        vga_text: false,
    }
}
