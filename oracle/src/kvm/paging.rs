//! Page tables of random rights, and linear addresses that are worth trying on them.

use x86::cr4;

use super::case::RAM;
use super::generate::{Gen, Mode, place};
use place::{DATA, HANDLERS, TABLES, WINDOW, WINDOW_LEN};

impl Gen<'_> {
    /// Flags of a page-table entry: `wild` ones lack rights or have reserved bits.
    fn entry_flags(&mut self, wild: bool) -> u64 {
        let user = self.cpl == 3;
        let mut f = 1_u64;
        f |= if wild { self.r.below(2) << 1 } else { 2 };
        f |= if wild || !user {
            self.r.below(2) << 2
        } else {
            4
        };
        f |= self.r.next() & 0x60;
        if self.r.one_in(8) {
            f |= self.r.next() & 0x118;
        }
        if wild {
            if self.r.one_in(4) {
                f &= !1;
            }
            if self.entry == 8 {
                if self.r.one_in(3) {
                    f |= 1 << 63;
                }
                if self.r.one_in(10) {
                    f |= 1 << (46 + self.r.below(17));
                }
            }
        }
        f
    }

    fn put_entry(&mut self, at: u64, value: u64) {
        let bytes = value.to_le_bytes();
        let size = self.entry as usize;
        self.put(at, &bytes[..size]);
    }

    pub(super) fn tables(&mut self, long: bool) {
        let pae = self.st.cr4 & cr4::PAE != 0;
        self.entry = if pae { 8 } else { 4 };
        let (pdpt, directory, table, pml4) =
            (TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000);
        let careless = self.r.one_in(8);
        let mut bytes = Vec::new();
        let size = self.entry as usize;
        for page in 0..0x60_u64 {
            let value = if page < 0x40 {
                let wild = careless && page > HANDLERS >> 12 && self.r.one_in(16);
                page << 12 | self.entry_flags(wild)
            } else {
                let to = match self.r.below(16) {
                    0 => 0x50 + self.r.below(16),
                    _ => 0x10 + self.r.below(16),
                };
                self.window.push(to);
                let wild = self.r.below(3) != 0;
                to << 12 | self.entry_flags(wild)
            };
            bytes.extend(&value.to_le_bytes()[..size]);
        }
        self.put(table, &bytes);
        let mut to_table = table | self.entry_flags(false) & !0x180;
        if careless {
            // Read-only, or for the supervisor alone.
            to_table &= !self.r.pick(&[0, 2, 4]);
        }
        // Entry 0, its aliases, and a large page that begins with RAM.
        let large_bits = if pae { 0x1f_e000 } else { 0x3f_e000 };
        let large_wild = self.r.one_in(2);
        let mut large = self.entry_flags(large_wild) | 0x80;
        if self.r.one_in(4) {
            large |= self.r.next() & large_bits;
        }
        let last = if pae { 511 } else { 1023 };
        for n in [0, last] {
            self.put_entry(directory + n * self.entry, to_table);
        }
        self.put_entry(directory + self.entry, large);
        let garbage = self.r.next();
        self.put_entry(
            directory + 2 * self.entry,
            garbage & !0xf_ffff_ffff_f000 | table,
        );
        if !pae {
            self.put_entry(directory + 0x300 * 4, to_table);
            self.st.cr3 = directory | self.r.next() & 0x18;
            return;
        }
        if !long {
            for n in 0..4 {
                self.put_entry(pdpt + n * 8, directory | 1);
                self.st.pdpte[n as usize] = directory | 1;
            }
            if self.r.one_in(8) {
                let n = self.r.below(3) + 1;
                self.put_entry(pdpt + n * 8, directory);
                self.st.pdpte[n as usize] = directory;
            }
            self.st.cr3 = pdpt | self.r.pick(&[0, 0, 8, 0x18]);
            return;
        }
        let upper = self.entry_flags(false) & !0x180;
        self.put_entry(pdpt, directory | upper);
        let wild = self.r.one_in(2);
        let second =
            directory | self.entry_flags(wild) & !0x80 | if self.r.one_in(4) { 0x80 } else { 0 };
        self.put_entry(pdpt + 8, second);
        self.put_entry(pdpt + 511 * 8, directory | upper);
        for n in [0, 511] {
            self.put_entry(pml4 + n * 8, pdpt | upper);
        }
        let wild = self.entry_flags(true) & !0x80;
        let size = if self.r.one_in(8) { 0x80 } else { 0 };
        self.put_entry(pml4 + 256 * 8, pdpt | wild | size);
        self.st.cr3 = pml4 | self.r.pick(&[0, 0, 8, 0x18]);
    }

    /// The RAM address that a linear address is likely to lead to.
    fn phys(&self, lin: u64) -> Option<u64> {
        let lin = if self.mode == Mode::Long {
            lin
        } else {
            lin & 0xffff_ffff
        };
        if lin < RAM as u64 {
            return Some(lin);
        }
        if self.entry == 0 {
            return None;
        }
        let low = if self.entry == 8 {
            lin & 0x1f_ffff
        } else {
            lin & 0x3f_ffff
        };
        if low < RAM as u64 {
            return Some(low);
        }
        let page = self.window.get(((low - WINDOW) >> 12) as usize)?;
        Some(page << 12 | low & 0xfff)
    }

    /// Writes bytes to where a linear address leads.
    pub fn put_linear(&mut self, lin: u64, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            let lin = lin.wrapping_add(n as u64);
            if let Some(at) = self.phys(lin) {
                match self.mem.last_mut() {
                    Some((first, run))
                        if *first + run.len() as u64 == at && n != 0 && at < RAM as u64 =>
                    {
                        run.push(*byte)
                    }
                    _ => self.put(at, &[*byte]),
                }
            }
        }
    }

    /// A linear address for a memory operand.
    pub fn target(&mut self) -> u64 {
        let paged = self.entry != 0;
        match self.r.below(24) {
            0..=11 => DATA + (self.r.below(0x1_0000) & !7),
            12 | 13 => DATA + self.r.below(0x1_0000),
            14 | 15 => DATA + (self.r.below(15) + 1) * 0x1000 - self.r.below(17),
            16..=18 if paged => WINDOW + self.r.below(WINDOW_LEN),
            19 if paged => WINDOW + (self.r.below(31) + 1) * 0x1000 - self.r.below(17),
            20 if paged => {
                self.r.pick(&[
                    0x20_0000,
                    0x40_0000,
                    0x80_0000,
                    0x4000_0000,
                    0xc000_0000,
                    0xffff_f000,
                ]) + self.r.below(0x1_0000)
            }
            21 if self.mode == Mode::Long => self.r.pick(&[
                0xffff_ff80_0000_0000,
                0xffff_ffff_8001_0000,
                0x8000_0000_0000,
                0x7fff_ffff_fff8,
                0xffff_7fff_ffff_fffc,
                0xffff_8000_0000_0000,
                0xffff_ffff_ffff_fffc,
                0x4001_0000,
                0xffff_8000_0001_0000,
            ]),
            22 if self.r.one_in(4) => self.r.integer(),
            _ => DATA + self.r.below(0x1_0000),
        }
    }
}
