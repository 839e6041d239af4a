//! The x87's images in memory: FSTENV's, FSAVE's and FXSAVE's part (SDM 1, 8.1.10; SDM 2, FXSAVE).

use super::{X87, sw};
use crate::float::F80;

/// Shape of FSTENV's and FSAVE's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// 32-bit operand size: 28 bytes, else 14.
    pub wide: bool,
    /// Real and virtual-8086 mode: pointers as linear addresses, else offset and selector.
    pub real: bool,
}

impl Layout {
    /// Bytes of the environment.
    pub fn env_len(self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    /// Bytes of the environment and the registers.
    pub fn save_len(self) -> usize {
        self.env_len() + 80
    }
}

impl X87 {
    /// Writes the environment without changing anything (FNSTENV masks all exceptions afterwards, [`X87::mask_all`]).
    /// `out` has at least [`Layout::env_len`] bytes.
    pub fn store_env(&self, layout: Layout, out: &mut [u8]) {
        let linear =
            |segment: u16, offset: u64| (u32::from(segment) << 4).wrapping_add(offset as u32);
        let fop = u32::from(self.fop & 0x7FF);
        let (ip, dp) = (linear(self.fcs, self.fip), linear(self.fds, self.fdp));
        let tags = u32::from(self.full_tags());
        let (cw, sw) = (u32::from(self.cw), u32::from(self.sw));
        // Unused upper halves are stored as ones.
        let high = 0xFFFF_0000;
        let words: [u32; 7] = match (layout.wide, layout.real) {
            (true, false) => [
                cw | high,
                sw | high,
                tags | high,
                self.fip as u32,
                u32::from(self.fcs) | fop << 16,
                self.fdp as u32,
                u32::from(self.fds) | high,
            ],
            (true, true) => [
                cw | high,
                sw | high,
                tags | high,
                ip & 0xFFFF | high,
                fop | ip >> 16 << 12,
                dp & 0xFFFF | high,
                dp >> 16 << 12,
            ],
            (false, false) => [
                cw,
                sw,
                tags,
                self.fip as u32,
                u32::from(self.fcs),
                self.fdp as u32,
                u32::from(self.fds),
            ],
            (false, true) => [cw, sw, tags, ip, fop | ip >> 16 << 12, dp, dp >> 16 << 12],
        };
        let size = if layout.wide { 4 } else { 2 };
        for (bytes, word) in out.chunks_exact_mut(size).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes()[..size]);
        }
    }

    /// FLDENV. `image` has at least [`Layout::env_len`] bytes.
    pub fn load_env(&mut self, layout: Layout, image: &[u8]) {
        let word = |i: usize| -> u32 {
            if layout.wide {
                u32::from_le_bytes([
                    image[4 * i],
                    image[4 * i + 1],
                    image[4 * i + 2],
                    image[4 * i + 3],
                ])
            } else {
                u32::from(u16::from_le_bytes([image[2 * i], image[2 * i + 1]]))
            }
        };
        self.sw = word(1) as u16;
        self.set_full_tags(word(2) as u16);
        let linear = |low: u32, high: u32| {
            let high = if layout.wide {
                high >> 12 & 0xFFFF
            } else {
                high >> 12 & 15
            };
            u64::from(low & 0xFFFF | high << 16)
        };
        match (layout.wide, layout.real) {
            (_, true) => {
                self.fip = linear(word(3), word(4));
                self.fop = word(4) as u16 & 0x7FF;
                self.fdp = linear(word(5), word(6));
                (self.fcs, self.fds) = (0, 0);
            }
            (wide, false) => {
                self.fip = u64::from(word(3));
                self.fcs = word(4) as u16;
                self.fop = if wide {
                    (word(4) >> 16) as u16 & 0x7FF
                } else {
                    0
                };
                self.fdp = u64::from(word(5));
                self.fds = word(6) as u16;
            }
        }
        self.set_cw(word(0) as u16);
    }

    /// What FNSTENV does after its store.
    pub fn mask_all(&mut self) {
        self.set_cw(self.cw | 0x3F);
    }

    /// FNSAVE's store; [`X87::init`] follows. `out` has at least [`Layout::save_len`] bytes.
    pub fn store_all(&self, layout: Layout, out: &mut [u8]) {
        self.store_env(layout, out);
        for (i, bytes) in out[layout.env_len()..]
            .chunks_exact_mut(10)
            .take(8)
            .enumerate()
        {
            bytes.copy_from_slice(&self.st(i).to_bytes());
        }
    }

    /// FRSTOR. `image` has at least [`Layout::save_len`] bytes.
    pub fn load_all(&mut self, layout: Layout, image: &[u8]) {
        self.load_env(layout, image);
        for (i, bytes) in image[layout.env_len()..]
            .chunks_exact(10)
            .take(8)
            .enumerate()
        {
            let n = self.physical(i);
            self.regs[n] = F80::from_bytes(bytes.try_into().unwrap_or_default());
        }
    }

    /// FXSAVE's x87 part: bytes 0-23 and 32-159 of the area; `rex_w` chooses 64-bit pointers without selectors.
    pub fn fxsave(&self, rex_w: bool, area: &mut [u8; 160]) {
        area[0..2].copy_from_slice(&self.cw.to_le_bytes());
        area[2..4].copy_from_slice(&self.sw.to_le_bytes());
        area[4] = self.tw;
        area[5] = 0;
        area[6..8].copy_from_slice(&(self.fop & 0x7FF).to_le_bytes());
        let pointer = |offset: u64, selector: u16| {
            if rex_w {
                offset
            } else {
                offset & 0xFFFF_FFFF | u64::from(selector) << 32
            }
        };
        area[8..16].copy_from_slice(&pointer(self.fip, self.fcs).to_le_bytes());
        area[16..24].copy_from_slice(&pointer(self.fdp, self.fds).to_le_bytes());
        for (i, slot) in area[32..].chunks_exact_mut(16).enumerate() {
            slot[..10].copy_from_slice(&self.st(i).to_bytes());
            slot[10..].fill(0);
        }
    }

    /// FXRSTOR's x87 part, from the same bytes.
    pub fn fxrstor(&mut self, rex_w: bool, area: &[u8; 160]) {
        let word = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
        let quad = |at: usize| {
            (0..8)
                .rev()
                .fold(0, |v, i| v << 8 | u64::from(area[at + i]))
        };
        self.sw = word(2);
        self.tw = area[4];
        self.fop = word(6) & 0x7FF;
        let (ip, dp) = (quad(8), quad(16));
        if rex_w {
            (self.fip, self.fcs, self.fdp, self.fds) = (ip, 0, dp, 0);
        } else {
            (self.fip, self.fcs) = (ip & 0xFFFF_FFFF, (ip >> 32) as u16);
            (self.fdp, self.fds) = (dp & 0xFFFF_FFFF, (dp >> 32) as u16);
        }
        for (i, slot) in area[32..].chunks_exact(16).enumerate() {
            let n = self.physical(i);
            self.regs[n] = F80::from_bytes(slot[..10].try_into().unwrap_or_default());
        }
        self.set_cw(word(0));
    }

    /// The status word's condition codes as C3 C2 C1 C0.
    pub fn condition(&self) -> u8 {
        let bit = |mask: u16, to: u8| if self.sw & mask != 0 { to } else { 0 };
        bit(sw::C3, 8) | bit(sw::C2, 4) | bit(sw::C1, 2) | bit(sw::C0, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::F80;

    fn sample() -> X87 {
        let mut x = X87 {
            fop: 0x123,
            fip: 0x12345,
            fcs: 0,
            fdp: 0x54321,
            fds: 0,
            ..X87::default()
        };
        x.set_top(3);
        for i in 0..5 {
            x.set_st(i, F80::new(0x3FFF + i as u16, (1 << 63) + i as u64));
        }
        x
    }

    #[test]
    fn images_round_trip() {
        for (wide, real) in [(true, true), (true, false), (false, true), (false, false)] {
            let layout = Layout { wide, real };
            let mut x = sample();
            if !wide && !real {
                // This image has neither an opcode nor more than 16 bits of offset.
                (x.fop, x.fip, x.fdp) = (0, 0x2345, 0x4321);
            }
            let mut image = [0; 108];
            x.store_all(layout, &mut image);
            let mut back = X87::default();
            back.load_all(layout, &image);
            assert_eq!(back, x, "{layout:?}");
        }
        for rex_w in [false, true] {
            let mut area = [0; 160];
            sample().fxsave(rex_w, &mut area);
            let mut back = X87::default();
            back.fxrstor(rex_w, &area);
            assert_eq!(back, sample());
        }
    }

    #[test]
    fn real_mode_pointers_are_linear() {
        let mut x = sample();
        (x.fcs, x.fip) = (0x1234, 0x5678);
        let mut image = [0; 28];
        x.store_env(
            Layout {
                wide: false,
                real: true,
            },
            &mut image,
        );
        assert_eq!(image[6..10], [0xB8, 0x79, 0x23, 0x11]);
    }
}
