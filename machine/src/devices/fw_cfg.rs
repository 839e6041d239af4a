//! fw_cfg: the table of facts and files that firmware reads (QEMU's "firmware configuration device" specification).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use x86::PhysAddr;

use crate::clock::Nanos;
use crate::device::{Device, Pio, PortRange};
use crate::memory::{E820Entry, GuestMemory};

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;

const KEY_SIGNATURE: u16 = 0x00;
const KEY_ID: u16 = 0x01;
const KEY_RAM_SIZE: u16 = 0x03;
const KEY_NO_GRAPHIC: u16 = 0x04;
const KEY_CPUS: u16 = 0x05;
const KEY_BOOT_MENU: u16 = 0x0e;
const KEY_MAX_CPUS: u16 = 0x0f;
const KEY_DIRECTORY: u16 = 0x19;
const KEY_FIRST_FILE: u16 = 0x20;
const KEY_IRQ0_OVERRIDE: u16 = 0x8002;

/// The traditional interface, and DMA.
const ID: u32 = 1 | 2;

const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SKIP: u32 = 4;
const DMA_SELECT: u32 = 8;
const DMA_WRITE: u32 = 16;

/// Bytes of a file's name in the directory, with its closing zero.
const NAME: usize = 56;
/// Bytes copied at a time.
const CHUNK: usize = 4096;

/// What fw_cfg tells.
#[derive(Clone, Debug, Default)]
pub struct FwCfgItems {
    numbered: BTreeMap<u16, Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
}

impl FwCfgItems {
    /// The facts of a machine with `cpus` vCPUs, `ram` bytes and this memory map.
    pub fn of_machine(cpus: usize, ram: u64, map: &[E820Entry]) -> Self {
        let mut items = Self::default();
        let cpus = u16::try_from(cpus)
            .unwrap_or(u16::MAX)
            .to_le_bytes()
            .to_vec();
        items.set(KEY_SIGNATURE, b"QEMU".to_vec());
        items.set(KEY_ID, ID.to_le_bytes().to_vec());
        items.set(KEY_RAM_SIZE, ram.to_le_bytes().to_vec());
        items.set(KEY_NO_GRAPHIC, 1u16.to_le_bytes().to_vec());
        items.set(KEY_CPUS, cpus.clone());
        items.set(KEY_MAX_CPUS, cpus);
        items.set(KEY_BOOT_MENU, 0u16.to_le_bytes().to_vec());
        items.set(KEY_IRQ0_OVERRIDE, vec![1]);
        let mut e820 = Vec::new();
        for entry in map {
            e820.extend(entry.start.0.to_le_bytes());
            e820.extend(entry.len.to_le_bytes());
            e820.extend((entry.kind as u32).to_le_bytes());
        }
        items.add_file("etc/e820", e820);
        items
    }

    /// Sets the item with this key.
    pub fn set(&mut self, key: u16, bytes: Vec<u8>) {
        self.numbered.insert(key, bytes);
    }

    /// Adds a file. Names over 55 bytes are cut.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        let mut end = name.len().min(NAME - 1);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        self.files.insert(name[..end].to_string(), bytes);
    }

    /// All items by key: the files follow their directory in its order.
    fn into_table(self) -> BTreeMap<u16, Vec<u8>> {
        let Self {
            numbered: mut table,
            files,
        } = self;
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for ((name, bytes), key) in files.into_iter().zip(KEY_FIRST_FILE..) {
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0, 0]);
            let mut field = [0; NAME];
            field[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend(field);
            table.insert(key, bytes);
        }
        table.insert(KEY_DIRECTORY, directory);
        table
    }
}

/// The device.
pub struct FwCfg {
    // Static configuration
    items: BTreeMap<u16, Vec<u8>>,
    // Runtime glue
    memory: Arc<dyn GuestMemory>,
    // Volatile state
    key: u16,
    offset: usize,
    dma_high: u32,
}

impl fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FwCfg")
            .field("key", &self.key)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl FwCfg {
    /// A device that tells `items` and reaches guest RAM through `memory`.
    pub fn new(items: FwCfgItems, memory: Arc<dyn GuestMemory>) -> Self {
        Self {
            items: items.into_table(),
            memory,
            key: 0,
            offset: 0,
            dma_high: 0,
        }
    }

    fn select(&mut self, key: u16) {
        self.key = key;
        self.offset = 0;
    }

    /// The rest of the selected item.
    fn rest(&self) -> &[u8] {
        // Bit 14 was for writing items, which isn't done any more.
        let item = self
            .items
            .get(&(self.key & !0x4000))
            .map_or(&[][..], Vec::as_slice);
        item.get(self.offset..).unwrap_or(&[])
    }

    fn next_byte(&mut self) -> u8 {
        match self.rest().first() {
            Some(&byte) => {
                self.offset += 1;
                byte
            }
            None => 0,
        }
    }

    /// Copies `len` bytes of the item to guest RAM, zeros after its end. `false` when RAM ends first.
    fn copy_out(&mut self, addr: PhysAddr, len: u32) -> bool {
        let (mut at, mut left) = (addr.0, len as usize);
        let zeros = [0; CHUNK];
        while left > 0 {
            let rest = self.rest();
            let source = if rest.is_empty() { &zeros[..] } else { rest };
            let count = left.min(CHUNK).min(source.len());
            if !self.memory.write(PhysAddr(at), &source[..count]) {
                return false;
            }
            if !self.rest().is_empty() {
                self.offset += count;
            }
            let Some(next) = at.checked_add(count as u64) else {
                return false;
            };
            at = next;
            left -= count;
        }
        true
    }

    fn dma(&mut self, descriptor: PhysAddr) {
        let mut raw = [0; 16];
        if !self.memory.read(descriptor, &mut raw) {
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = raw;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let addr = PhysAddr(u64::from_be_bytes(address));
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let ok = if control & DMA_READ != 0 {
            self.copy_out(addr, len)
        } else if control & DMA_WRITE != 0 {
            // No item can be written.
            false
        } else {
            if control & DMA_SKIP != 0 {
                self.offset = self.offset.saturating_add(len as usize);
            }
            true
        };
        let answer = if ok { 0 } else { DMA_ERROR };
        // The descriptor was readable, so it is RAM.
        let _ = self.memory.write(descriptor, &answer.to_be_bytes());
    }
}

impl Device for FwCfg {
    fn name(&self) -> &'static str {
        "fw_cfg"
    }

    fn reset(&mut self, _now: Nanos) {
        self.select(0);
        self.dma_high = 0;
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
}

impl Pio for FwCfg {
    fn ports(&self) -> Vec<PortRange> {
        vec![
            PortRange {
                first: SELECTOR,
                count: 2,
                width: 2,
            },
            PortRange::wide(DMA_HIGH, 8),
        ]
    }

    fn pio_read(&mut self, _now: Nanos, port: u16, size: u8) -> u32 {
        match port {
            DATA => u32::from(self.next_byte()),
            SELECTOR => u32::from(self.key),
            // The DMA register reads as its signature, big-endian.
            _ => {
                let signature = *b"QEMU CFG";
                (0..usize::from(size)).fold(0, |value, byte| {
                    let at = usize::from(port - DMA_HIGH) + byte;
                    value | u32::from(signature.get(at).copied().unwrap_or(0xff)) << (8 * byte)
                })
            }
        }
    }

    fn pio_write(&mut self, _now: Nanos, port: u16, size: u8, value: u32) {
        match (port, size) {
            (SELECTOR, 2) => self.select(value as u16),
            (DMA_HIGH, 4) => self.dma_high = value.swap_bytes(),
            (DMA_LOW, 4) => {
                let descriptor = u64::from(std::mem::take(&mut self.dma_high)) << 32
                    | u64::from(value.swap_bytes());
                self.dma(PhysAddr(descriptor));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;

    fn item(m: &Machine, key: u16, len: usize) -> Vec<u8> {
        m.outw(0x510, key);
        (0..len).map(|_| m.inb(0x511) as u8).collect()
    }

    fn directory(m: &Machine) -> Vec<(String, u32, u16)> {
        let count = u32::from_be_bytes(item(m, 0x19, 4).try_into().expect("4 bytes"));
        let bytes = item(m, 0x19, 4 + 64 * count as usize);
        bytes[4..]
            .chunks(64)
            .map(|e| {
                let name = String::from_utf8_lossy(&e[8..])
                    .trim_end_matches('\0')
                    .to_string();
                (
                    name,
                    u32::from_be_bytes([e[0], e[1], e[2], e[3]]),
                    u16::from_be_bytes([e[4], e[5]]),
                )
            })
            .collect()
    }

    /// Runs a DMA command with its descriptor at 100h; returns its final control word.
    fn dma(m: &Machine, control: u32, len: u32, addr: u64) -> u32 {
        m.poke(0x100, &control.to_be_bytes());
        m.poke(0x104, &len.to_be_bytes());
        m.poke(0x108, &addr.to_be_bytes());
        m.outl(0x514, 0);
        m.outl(0x518, 0x100u32.swap_bytes());
        u32::from_be_bytes(m.peek(0x100, 4).try_into().expect("4 bytes"))
    }

    #[test]
    fn fw_cfg_signature_id_cpu_counts_and_ram_size() {
        let m = Machine::new();
        assert_eq!(item(&m, 0, 5), b"QEMU\0");
        assert_eq!(item(&m, 1, 4), [3, 0, 0, 0]);
        assert_eq!(item(&m, 5, 2), [1, 0]);
        assert_eq!(item(&m, 0x0f, 2), [1, 0]);
        assert_eq!(item(&m, 3, 8), (512u64 << 20).to_le_bytes());
        assert_eq!(item(&m, 0x7777, 3), [0, 0, 0], "what isn't there is zeros");
    }

    #[test]
    fn fw_cfg_directory() {
        let m = Machine::new();
        let files = directory(&m);
        let (_, size, key) = files.iter().find(|f| f.0 == "etc/e820").expect("there");
        assert_eq!(size % 20, 0);
        let e820 = item(&m, *key, *size as usize);
        assert_eq!(e820[16..20], [1, 0, 0, 0], "the first range is RAM");
        assert!(files.windows(2).all(|w| w[0].0 < w[1].0), "sorted");
    }

    #[test]
    fn fw_cfg_dma() {
        let m = Machine::new();
        assert_eq!(
            (m.inl(0x514), m.inl(0x518)),
            (u32::from_le_bytes(*b"QEMU"), u32::from_le_bytes(*b" CFG"))
        );
        // Select item 0, skip 1 byte, read 6.
        assert_eq!(dma(&m, 8 | 4, 1, 0), 0);
        m.poke(0x200, &[0xff; 8]);
        assert_eq!(dma(&m, 2, 6, 0x200), 0);
        assert_eq!(m.peek(0x200, 8), b"EMU\0\0\0\xff\xff");
        assert_eq!(dma(&m, 8 | 16, 4, 0x200), 1, "nothing can be written");
        assert_eq!(dma(&m, 8 | 2, 16, 0xffff_ffff_ffff_fff8), 1, "not RAM");
        assert_eq!(dma(&m, 8 | 2, u32::MAX, 0x1000), 1, "RAM ends: it stops");
        m.outl(0x514, u32::MAX);
        m.outl(0x518, u32::MAX);
    }
}
