//! RAM between cases: lays a case's bytes down, finds what the run changed, undoes both and touches nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use softmmu::{GuestRam, HIGH_START, HOLE_START, PageAttr, RamError, RamRegion};
use x86::{PAGE_SIZE, PhysAddr};

/// The most RAM that a case may have.
pub const MAX_RAM: u64 = 64 << 30;

type Page = [u8; PAGE_SIZE as usize];

const ZEROS: Page = [0; PAGE_SIZE as usize];

/// RAM without holes, and what is known of its contents.
pub struct Memory {
    ram: Arc<GuestRam>,
    size: u64,
    /// The pages that the case named, as they were when it began. All others were zero.
    start: BTreeMap<u64, Box<Page>>,
    /// The pages that the run wrote.
    written: Vec<u64>,
    spare: Vec<Box<Page>>,
}

impl Memory {
    /// `size` bytes of zeros: a multiple of 4096, at most [`MAX_RAM`].
    pub fn new(size: u64) -> Result<Self, RamError> {
        let extra = size.saturating_sub(HOLE_START).min(HIGH_START - HOLE_START);
        let region = RamRegion {
            base: PhysAddr(HOLE_START),
            len: extra,
        };
        let ram = GuestRam::with_regions(
            size - extra,
            if extra == 0 {
                &[]
            } else {
                std::slice::from_ref(&region)
            },
        )?;
        // Where PCs have the VGA window.
        ram.set_attr(PhysAddr(0xa_0000), 0x2_0000, PageAttr::Ram);
        ram.set_dirty_log(true);
        Ok(Self {
            ram: Arc::new(ram),
            size,
            start: BTreeMap::new(),
            written: Vec::new(),
            spare: Vec::new(),
        })
    }

    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Undoes the last case and lays these bytes down, in order. They lie in RAM.
    pub fn lay(&mut self, mem: &[(u64, Vec<u8>)]) {
        let old = std::mem::take(&mut self.start);
        for (at, bytes) in mem {
            let mut at = *at;
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                let offset = (at % PAGE_SIZE) as usize;
                let (now, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE as usize - offset));
                let page =
                    self.start
                        .entry(at / PAGE_SIZE)
                        .or_insert_with(|| match self.spare.pop() {
                            Some(mut page) => {
                                *page = ZEROS;
                                page
                            }
                            None => Box::new(ZEROS),
                        });
                page[offset..offset + now.len()].copy_from_slice(now);
                at += now.len() as u64;
                bytes = rest;
            }
        }
        for number in old.keys().chain(&self.written) {
            if !self.start.contains_key(number) {
                self.write(*number, &ZEROS);
            }
        }
        for (number, page) in &self.start {
            self.write(*number, page.as_slice());
        }
        // A case with a lot of memory does not make all later ones hold on to it.
        self.spare.extend(
            old.into_values()
                .take(256_usize.saturating_sub(self.spare.len())),
        );
        self.written.clear();
        self.ram.take_dirty(|_| {});
    }

    fn write(&self, number: u64, bytes: &[u8]) {
        // The page is RAM: `lay`'s caller has looked, and the run can write nothing else.
        let done = self.ram.load_bytes(PhysAddr(number * PAGE_SIZE), bytes);
        debug_assert!(done.is_ok());
    }

    /// The maximal runs of bytes that differ from what they were when the case began, ascending.
    pub fn changes(&mut self) -> Vec<(u64, Vec<u8>)> {
        let written = &mut self.written;
        self.ram.take_dirty(|page| written.push(page.0 / PAGE_SIZE));
        written.sort_unstable();
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut now = ZEROS;
        for &number in &*written {
            let base = number * PAGE_SIZE;
            if self.ram.read(PhysAddr(base), &mut now).is_err() {
                continue;
            }
            let before = self.start.get(&number).map_or(&ZEROS, |page| page);
            if now == *before {
                continue;
            }
            for (at, (new, _)) in (base..)
                .zip(now.iter().zip(before))
                .filter(|(_, (new, old))| new != old)
            {
                match runs.last_mut() {
                    Some((first, bytes)) if *first + bytes.len() as u64 == at => bytes.push(*new),
                    _ => runs.push((at, vec![*new])),
                }
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use softmmu::HOLE_START;
    use x86::PhysAddr;

    const MIB: u64 = 1 << 20;

    #[test]
    fn changes_are_found_and_undone() {
        let mut m = Memory::new(4 * MIB).expect("RAM");
        m.lay(&[
            (0xfff, vec![1, 2, 3]),
            (0x1000, vec![9]),
            (0xa_0000, vec![7]),
        ]);
        let ram = std::sync::Arc::clone(m.ram());
        assert_eq!(ram.read_u32(PhysAddr(0xfff)), Ok(0x0003_0901));
        assert!(m.changes().is_empty());
        m.lay(&[(0xfff, vec![1, 2, 3])]);
        assert_eq!(ram.read_u8(PhysAddr(0xa_0000)), Ok(0));
        ram.write(PhysAddr(0xffd), &[5, 6, 1, 2, 4]).expect("RAM");
        ram.write_u8(PhysAddr(0x20_0000), 1).expect("RAM");
        ram.write_u8(PhysAddr(0x20_0000), 0).expect("RAM");
        ram.write_u16(PhysAddr(0x2f_ffff), 0x0201).expect("RAM");
        assert_eq!(
            m.changes(),
            [
                (0xffd, vec![5, 6]),
                (0x1001, vec![4]),
                (0x2f_ffff, vec![1, 2])
            ]
        );
        m.lay(&[]);
        for page in 0..4 * MIB / 4096 {
            assert_eq!(ram.read_u64(PhysAddr(page * 4096)), Ok(0));
        }
        assert_eq!(ram.read_u16(PhysAddr(0xffe)), Ok(0));
    }

    #[test]
    fn there_are_no_holes() {
        for size in [
            4096,
            HOLE_START,
            HOLE_START + MIB,
            4 << 30,
            (5 << 30) + 4096,
        ] {
            let m = Memory::new(size).expect("sparse RAM");
            let last = PhysAddr(size - 1);
            for at in [
                0,
                0xa_0000,
                0xb_ffff,
                HOLE_START - 1,
                HOLE_START,
                (4 << 30) - 1,
                4 << 30,
            ] {
                assert_eq!(
                    m.ram().read_u8(PhysAddr(at)).is_ok(),
                    at < size,
                    "{size:#x}: {at:#x}"
                );
            }
            assert!(m.ram().read_u8(last).is_ok() && m.ram().read_u8(last + 1).is_err());
        }
    }
}
