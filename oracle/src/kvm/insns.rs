//! One random instruction of a group, with its operands aimed at what the state holds.

use x86::Seg;

use super::generate::{Gen, Mode, place};

/// An instruction in the making: prefixes, operand and address size, segment override.
struct Emit {
    prefixes: Vec<u8>,
    rex: u8,
    operand: u32,
    address: u32,
    seg: Option<Seg>,
}

impl Gen<'_> {
    fn start(&mut self) -> Emit {
        let mut e = Emit {
            prefixes: Vec::new(),
            rex: 0,
            operand: self.bits.min(32),
            address: self.bits,
            seg: None,
        };
        if self.chance(22) {
            e.prefixes.push(0x66);
            e.operand = if self.bits == 16 { 32 } else { 16 };
        }
        if self.chance(12) {
            e.prefixes.push(0x67);
            e.address = match self.bits {
                32 => 16,
                _ => 32,
            };
        }
        if self.chance(14) {
            let (byte, seg) = self.r.pick(&[
                (0x26, Seg::Es),
                (0x2e, Seg::Cs),
                (0x36, Seg::Ss),
                (0x3e, Seg::Ds),
                (0x64, Seg::Fs),
                (0x65, Seg::Gs),
            ]);
            e.prefixes.push(byte);
            if self.bits != 64 || matches!(seg, Seg::Fs | Seg::Gs) {
                e.seg = Some(seg);
            }
        }
        if self.chance(1) {
            e.prefixes.push(0xf0);
        }
        if self.bits == 64 && self.chance(40) {
            e.rex = 0x40 | self.r.below(16) as u8;
            if e.rex & 8 != 0 {
                e.operand = 64;
            }
        }
        e
    }

    fn done(&mut self, e: &Emit, opcode: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut code = e.prefixes.clone();
        if e.rex != 0 {
            code.push(e.rex);
        }
        code.extend(opcode);
        code.extend(rest);
        code
    }

    fn immediate(&mut self, bits: u32) -> Vec<u8> {
        let bytes = bits.min(32) as usize / 8;
        let value = if self.chance(50) {
            self.r.integer()
        } else {
            self.r.next()
        };
        value.to_le_bytes()[..bytes].to_vec()
    }

    /// ModRM and what follows it for a memory operand at a linear address of `target`'s choice; the registers that the
    /// form uses are set so. `data` is laid down there.
    fn memory(&mut self, e: &mut Emit, reg: u8, data: &[u8]) -> Vec<u8> {
        let target = self.target();
        self.memory_at(e, reg, target, data)
    }

    fn memory_at(&mut self, e: &mut Emit, reg: u8, target: u64, data: &[u8]) -> Vec<u8> {
        let reg = (reg & 7) << 3;
        if e.address == 16 {
            let form = self.r.below(8) as u8;
            let mode = self.r.below(3) as u8;
            let (a, b, default): (_, Option<usize>, _) = match (form, mode) {
                (0, _) => (Some(3), Some(6), Seg::Ds),
                (1, _) => (Some(3), Some(7), Seg::Ds),
                (2, _) => (Some(5), Some(6), Seg::Ss),
                (3, _) => (Some(5), Some(7), Seg::Ss),
                (4, _) => (Some(6), None, Seg::Ds),
                (5, _) => (Some(7), None, Seg::Ds),
                (6, 0) => (None, None, Seg::Ds),
                (6, _) => (Some(5), None, Seg::Ss),
                _ => (Some(3), None, Seg::Ds),
            };
            let mut offset = target.wrapping_sub(self.base(e.seg.unwrap_or(default))) & 0xffff;
            if self.chance(6) {
                offset = self.r.pick(&[0xffff, 0xfffe, 0xfffd, 0xfffc, 0xfff9, 0]);
            }
            let sum = |g: &Self| {
                a.map_or(0, |n| g.st.gpr[n])
                    .wrapping_add(b.map_or(0, |n| g.st.gpr[n]))
            };
            let mut bytes = vec![mode << 6 | reg | form];
            match (mode, form) {
                (0, 6) => bytes.extend((offset as u16).to_le_bytes()),
                (2, _) => bytes.extend((offset.wrapping_sub(sum(self)) as u16).to_le_bytes()),
                _ => {
                    let disp = if mode == 1 { self.r.next() as i8 } else { 0 };
                    let off = offset.wrapping_sub(disp as u64).wrapping_sub(sum(self));
                    if let Some(n) = a {
                        let old = self.st.gpr[n];
                        self.st.gpr[n] = old & !0xffff | old.wrapping_add(off) & 0xffff;
                    }
                    if mode == 1 {
                        bytes.push(disp.cast_unsigned());
                    }
                }
            }
            let lin = self.base(e.seg.unwrap_or(default)).wrapping_add(offset);
            self.put_linear(lin, data);
            return bytes;
        }
        let wide = e.address == 64;
        let mask = if wide { u64::MAX } else { 0xffff_ffff };
        // No register, one, or base and index; never the stack pointer as a base that is changed.
        e.rex &= !3;
        if e.rex == 0x40 && !self.r.one_in(4) {
            e.rex = 0;
        }
        let form = self.r.below(4);
        let base = self.r.pick(&[0_usize, 1, 2, 3, 6, 7, 5]);
        let default = if base == 5 && form != 0 {
            Seg::Ss
        } else {
            Seg::Ds
        };
        let seg = e.seg.unwrap_or(default);
        let offset = target.wrapping_sub(self.base(seg)) & mask;
        let mut bytes = Vec::new();
        if form == 0 && (!wide || offset as i32 as u64 == offset) {
            if wide || self.bits == 64 {
                bytes.extend([4 | reg, 0x25]);
            } else {
                bytes.push(5 | reg);
            }
            // With 32-bit addresses in 64-bit mode the displacement is cut off after it was extended.
            bytes.extend((offset as u32).to_le_bytes());
        } else {
            let index = self.r.pick(&[1_usize, 2, 6, 7]);
            let scale = self.r.below(4) as u32;
            let with_index = form == 3 && index != base;
            let disp = match self.r.below(3) {
                0 if base != 5 => 0_i32,
                2 => self.r.next() as i32,
                _ => i32::from(self.r.next() as i8),
            };
            let mode: u8 = match disp {
                0 if base != 5 => 0,
                -128..=127 => 0x40,
                _ => 0x80,
            };
            let mut rest = offset.wrapping_sub(disp as u64);
            if with_index {
                let value = self.st.gpr[index] & mask;
                rest = rest.wrapping_sub(value << scale);
                bytes.extend([
                    mode | reg | 4,
                    (scale as u8) << 6 | (index as u8) << 3 | base as u8,
                ]);
            } else {
                bytes.push(mode | reg | base as u8);
            }
            let high = if self.mode == Mode::Long {
                self.st.gpr[base] & !mask
            } else {
                0
            };
            self.st.gpr[base] = rest & mask | high;
            match mode {
                0x40 => bytes.push(disp as u8),
                0x80 => bytes.extend(disp.to_le_bytes()),
                _ => {}
            }
        }
        let lin = self.base(seg).wrapping_add(offset);
        self.put_linear(lin, data);
        bytes
    }

    fn data(&mut self) -> Vec<u8> {
        let mut bytes = self.r.integer().to_le_bytes().to_vec();
        bytes.extend(self.r.next().to_le_bytes());
        bytes
    }

    /// ModRM for a register or (mostly) a memory operand with random contents.
    fn rm(&mut self, e: &mut Emit, reg: u8) -> Vec<u8> {
        if self.chance(35) {
            let rm = self.r.below(8) as u8;
            // The stack pointer must go on to point to a stack.
            let rm = if rm == 4 { 3 } else { rm };
            return vec![0xc0 | (reg & 7) << 3 | rm];
        }
        let data = self.data();
        self.memory(e, reg, &data)
    }

    /// The offset of a far pointer that leads into the handlers' page, often.
    fn far_offset(&mut self) -> u64 {
        let at = place::HANDLERS + self.r.below(0x100);
        match self.r.below(10) {
            0 => self.r.integer(),
            1 => self.r.below(0x1_0000),
            _ if self.protected() => at,
            _ => self.r.below(0x1_0000),
        }
    }

    fn far_pointer(&mut self, operand: u32) -> Vec<u8> {
        let (offset, selector) = (self.far_offset(), self.selector_value());
        let mut bytes = offset.to_le_bytes()[..operand as usize / 8].to_vec();
        bytes.extend(selector.to_le_bytes());
        bytes
    }

    /// Puts values of some width on the stack.
    fn stack(&mut self, width: u32, values: &[u64]) {
        let ss = self.st.seg[Seg::Ss as usize];
        let mask = if self.mode == Mode::Long {
            u64::MAX
        } else if ss.attr & x86::attr::DB != 0 {
            0xffff_ffff
        } else {
            0xffff
        };
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|v| v.to_le_bytes()[..width as usize / 8].to_vec())
            .collect();
        let at = self.base(Seg::Ss).wrapping_add(self.st.gpr[4] & mask);
        self.put_linear(at, &bytes);
    }

    /// Width of pushes: 64-bit mode has no 32-bit ones.
    fn stack_width(&self, e: &Emit) -> u32 {
        if self.bits == 64 && e.operand == 32 {
            64
        } else {
            e.operand
        }
    }
}

/// The bytes of a random instruction.
pub fn instruction(g: &mut Gen<'_>, group: &str) -> Vec<u8> {
    match group {
        "sreg" => sreg(g),
        "far" => far(g),
        "int" => int(g),
        "table" => table(g),
        "verify" => verify(g),
        "control" => control(g),
        "flags" => flag(g),
        "io" => io(g),
        "msr" => msr(g),
        "syscall" => syscall(g),
        "string" => string(g),
        "stack" => stack(g),
        _ => alu(g),
    }
}

fn sreg(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    let selector = g.selector_value();
    match g.r.below(10) {
        0..=3 => {
            let seg = g.r.pick(&[0, 2, 3, 4, 5, 0, 2, 3, 1, 6]);
            if g.chance(60) {
                let n = g.r.pick(&[0_usize, 1, 2, 3, 5, 6, 7]);
                e.rex &= !1;
                g.st.gpr[n] = g.st.gpr[n] & !0xffff | u64::from(selector);
                return g.done(&e, &[0x8e], &[0xc0 | seg << 3 | n as u8]);
            }
            let rest = g.memory(&mut e, seg, &selector.to_le_bytes());
            g.done(&e, &[0x8e], &rest)
        }
        4 => {
            let seg = g.r.below(7) as u8;
            let rest = g.rm(&mut e, seg);
            g.done(&e, &[0x8c], &rest)
        }
        5 => {
            let op =
                g.r.pick::<&[u8]>(&[&[6], &[0xe], &[0x16], &[0x1e], &[0xf, 0xa0], &[0xf, 0xa8]]);
            g.done(&e, op, &[])
        }
        6 | 7 => {
            let op =
                g.r.pick::<&[u8]>(&[&[7], &[0x17], &[0x1f], &[0xf, 0xa1], &[0xf, 0xa9]]);
            let width = g.stack_width(&e);
            g.stack(width, &[u64::from(selector)]);
            g.done(&e, op, &[])
        }
        _ => {
            let op =
                g.r.pick::<&[u8]>(&[&[0xc4], &[0xc5], &[0xf, 0xb2], &[0xf, 0xb4], &[0xf, 0xb5]]);
            if g.bits == 64 && op.len() == 1 {
                // VEX.
                return g.done(&e, &[0xf, 0xb2], &[0x03]);
            }
            let pointer = g.far_pointer(e.operand);
            let reg = g.r.pick(&[0, 1, 2, 3, 5, 6, 7]);
            let rest = g.memory(&mut e, reg, &pointer);
            g.done(&e, op, &rest)
        }
    }
}

fn far(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    let width = e.operand;
    match g.r.below(8) {
        0 | 1 => {
            let op = g.r.pick(&[0xea, 0x9a]);
            let pointer = g.far_pointer(width);
            g.done(&e, &[op], &pointer)
        }
        2..=4 => {
            let reg = g.r.pick(&[3, 5]);
            let pointer = g.far_pointer(width);
            let rest = g.memory(&mut e, reg, &pointer);
            g.done(&e, &[0xff], &rest)
        }
        5 | 6 => {
            let (ip, cs) = (g.far_offset(), u64::from(g.selector_value()));
            let (sp, ss) = (g.st.gpr[4], u64::from(g.selector_value()));
            g.stack(width, &[ip, cs, sp, ss]);
            if g.chance(30) {
                let count = g.r.below(16) as u8;
                return g.done(&e, &[0xca], &[count, 0]);
            }
            g.done(&e, &[0xcb], &[])
        }
        _ => {
            let (ip, cs) = (g.far_offset(), u64::from(g.selector_value()));
            let (sp, ss) = (g.st.gpr[4], u64::from(g.selector_value()));
            let fl = g.r.next() & 0x3f_7fd5 & !0x100;
            g.stack(width, &[ip, cs, fl, sp, ss]);
            g.done(&e, &[0xcf], &[])
        }
    }
}

fn int(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    match g.r.below(10) {
        0 | 1 => {
            let vector = g.r.below(64) as u8;
            g.done(&e, &[0xcd], &[vector])
        }
        2 => {
            let op = g.r.pick(&[0xcc, 0xf1]);
            g.done(&e, &[op], &[])
        }
        3 => g.done(&e, &[0xce], &[]),
        4 => {
            let op =
                g.r.pick::<&[u8]>(&[&[0xf, 0xb], &[0xf, 0xff, 0xc0], &[0xf, 0xb9, 0xc0]]);
            g.done(&e, op, &[])
        }
        5 => {
            let base = g.r.pick(&[0, 10, 1, 16]);
            g.done(&e, &[0xd4], &[base])
        }
        6 => {
            let mut data = g.data();
            data[..4].copy_from_slice(&[0, 0, 0, 0x40]);
            let reg = g.r.below(8) as u8;
            let rest = g.memory(&mut e, reg, &data);
            if g.bits == 64 {
                return g.done(&e, &[0xf, 0xb], &[]);
            }
            g.done(&e, &[0x62], &rest)
        }
        _ => {
            let op = g.r.pick(&[0xf6, 0xf7]);
            let reg = g.r.pick(&[6, 7]);
            if g.chance(50) {
                g.st.gpr[2] = g.r.below(3);
            }
            let rest = g.rm(&mut e, reg);
            g.done(&e, &[op], &rest)
        }
    }
}

fn table(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    match g.r.below(8) {
        0..=3 => {
            let reg = g.r.below(4) as u8;
            let mut data = (g.r.next() as u16).to_le_bytes().to_vec();
            let base = if g.mode == Mode::Long && g.chance(50) {
                g.target()
            } else {
                g.r.integer()
            };
            data.extend(base.to_le_bytes());
            let rest = g.memory(&mut e, reg, &data);
            g.done(&e, &[0xf, 1], &rest)
        }
        4 | 5 => {
            let reg = g.r.below(2) as u8;
            let rest = g.rm(&mut e, reg);
            g.done(&e, &[0xf, 0], &rest)
        }
        _ => {
            let reg = g.r.pick(&[2, 3]);
            let selector = if g.chance(40) {
                if reg == 2 { 0x40 } else { 0x50 }
            } else {
                g.selector()
            };
            if g.chance(50) {
                let n = g.r.pick(&[0_usize, 1, 2, 3, 5, 6, 7]);
                e.rex &= !1;
                g.st.gpr[n] = g.st.gpr[n] & !0xffff | u64::from(selector);
                return g.done(&e, &[0xf, 0], &[0xc0 | reg << 3 | n as u8]);
            }
            let rest = g.memory(&mut e, reg, &selector.to_le_bytes());
            g.done(&e, &[0xf, 0], &rest)
        }
    }
}

fn verify(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    let selector = g.selector();
    let data = selector.to_le_bytes();
    let reg = g.r.pick(&[4, 5]);
    let rest = g.memory(&mut e, reg, &data);
    match g.r.below(3) {
        0 => g.done(&e, &[0xf, 0], &rest),
        1 => {
            let op = g.r.pick(&[2, 3]);
            g.done(&e, &[0xf, op], &rest)
        }
        _ => g.done(&e, &[0x63], &rest),
    }
}

fn control(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    match g.r.below(16) {
        0..=2 => {
            let cr = g.r.pick(&[0, 2, 3, 4, 0, 1, 5]);
            let reg = 0xc0 | cr << 3 | g.r.below(8) as u8;
            e.rex &= !4;
            g.done(&e, &[0xf, 0x20], &[reg])
        }
        3..=7 => {
            let cr = g.r.pick(&[0_u8, 0, 0, 2, 3, 4, 4, 1]);
            let n = g.r.pick(&[0_usize, 1, 2, 3, 5, 6, 7]);
            e.rex &= !5;
            let bit = 1 << g.r.below(32);
            g.st.gpr[n] = match cr {
                0 => match g.r.below(4) {
                    0 => g.r.integer(),
                    1 => g.st.cr0 ^ 1 << 31,
                    _ => {
                        g.st.cr0
                            ^ g.r.pick(&[
                                bit,
                                1,
                                2,
                                4,
                                8,
                                1 << 16,
                                1 << 18,
                                1 << 29,
                                1 << 30,
                                0x6000_0000,
                            ])
                    }
                },
                3 => match g.r.below(4) {
                    0 => g.r.integer(),
                    1 => g.st.cr3 | 1 << g.r.below(64),
                    _ => g.st.cr3 ^ g.r.next() & 0x1f,
                },
                4 => {
                    g.st.cr4
                        ^ g.r
                            .pick(&[bit, 4, 8, 0x10, 0x20, 0x80, 0x100, 0x200, 0x400, 0x800])
                }
                _ => g.r.integer(),
            };
            if cr == 0 && !g.can_page() {
                g.st.gpr[n] &= !(1 << 31);
            }
            g.done(&e, &[0xf, 0x22], &[0xc0 | cr << 3 | n as u8])
        }
        8 | 9 => {
            let op = g.r.pick(&[0x21, 0x23]);
            let n = g.r.pick(&[0_usize, 1, 2, 3, 5, 6, 7]);
            let dr = g.r.below(8) as u8;
            e.rex &= !5;
            if op == 0x23 && dr >= 4 && g.chance(90) {
                // No breakpoint that would hit, no GD.
                g.st.gpr[n] &= 0xffff_d400;
                if dr & 1 != 0 {
                    g.st.gpr[n] &= 0xd700;
                }
            }
            g.done(&e, &[0xf, op], &[0xc0 | dr << 3 | n as u8])
        }
        10 => {
            let rest = g.rm(&mut e, 4);
            g.done(&e, &[0xf, 1], &rest)
        }
        11 => {
            let rest = g.rm(&mut e, 6);
            g.done(&e, &[0xf, 1], &rest)
        }
        12 => g.done(&e, &[0xf, 6], &[]),
        13 => {
            let rest = g.memory(&mut e, 7, &[]);
            g.done(&e, &[0xf, 1], &rest)
        }
        14 => {
            let op = g.r.pick(&[8, 9]);
            g.done(&e, &[0xf, op], &[])
        }
        _ => g.done(&e, &[0xf4], &[]),
    }
}

fn flag(g: &mut Gen<'_>) -> Vec<u8> {
    let e = g.start();
    match g.r.below(10) {
        0..=3 => {
            let fl = if g.chance(20) {
                g.r.next()
            } else {
                g.r.next() & 0x24_7fd5
            } & !0x100;
            let width = g.stack_width(&e);
            g.stack(width, &[fl]);
            g.done(&e, &[0x9d], &[])
        }
        4 | 5 => g.done(&e, &[0x9c], &[]),
        6 | 7 => {
            let op = g.r.pick(&[0xfa, 0xfb]);
            g.done(&e, &[op], &[])
        }
        _ => {
            let op = g.r.pick(&[0xf5, 0xf8, 0xf9, 0xfc, 0xfd, 0x9e, 0x9f]);
            g.done(&e, &[op], &[])
        }
    }
}

fn io(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    let port = if g.chance(90) {
        g.r.below(0x108)
    } else {
        g.r.pick(&[0xffff, 0xfffe, 0xfffd, 0x3f8])
    };
    match g.r.below(3) {
        0 => {
            let op = g.r.pick(&[0xe4, 0xe5, 0xe6, 0xe7]);
            g.done(&e, &[op], &[port as u8])
        }
        1 => {
            g.st.gpr[2] = g.st.gpr[2] & !0xffff | port;
            let op = g.r.pick(&[0xec, 0xed, 0xee, 0xef]);
            g.done(&e, &[op], &[])
        }
        _ => {
            g.st.gpr[2] = g.st.gpr[2] & !0xffff | port;
            string_registers(g, &e);
            if g.chance(30) {
                e.prefixes.push(0xf3);
                small_count(g, &e);
            }
            let op = g.r.pick(&[0x6c, 0x6d, 0x6e, 0x6f]);
            g.done(&e, &[op], &[])
        }
    }
}

fn msr(g: &mut Gen<'_>) -> Vec<u8> {
    use x86::msr as m;
    let mut e = g.start();
    match g.r.below(10) {
        0..=2 => {
            g.st.gpr[1] = u64::from(any_msr(g)) | g.r.next() << 32;
            if g.bits != 64 {
                g.st.gpr[1] &= 0xffff_ffff;
            }
            g.done(&e, &[0xf, 0x32], &[])
        }
        3..=6 => {
            let number = any_msr(g);
            let value = match number {
                m::EFER => g.st.efer ^ g.r.pick(&[1, 0x100, 0x800, 0x400, 0x200, 0x1000, 2]),
                m::PAT => g.r.pick(&[
                    0x0007_0406_0007_0406,
                    0x0606_0606_0606_0606,
                    0x0102_0304_0506_0700,
                    0x0605_0401_0007_0406,
                ]),
                m::FMASK | m::SYSENTER_CS | m::STAR => g.r.integer(),
                _ => {
                    g.r.integer()
                        & if g.chance(70) {
                            0x7fff_ffff_ffff
                        } else {
                            u64::MAX
                        }
                }
            };
            let high = |g: &mut Gen<'_>| if g.bits == 64 { g.r.next() << 32 } else { 0 };
            g.st.gpr[1] = u64::from(number) | high(g);
            g.st.gpr[0] = value & 0xffff_ffff | high(g);
            g.st.gpr[2] = value >> 32 | high(g);
            g.done(&e, &[0xf, 0x30], &[])
        }
        7 => {
            e.prefixes.retain(|b| *b != 0x66);
            g.done(&e, &[0xf, 1, 0xf8], &[])
        }
        8 => {
            let op = g.r.pick(&[0xc8, 0xc9, 0xd0, 0xd1, 0xf9, 0xca, 0xcb]);
            if op == 0xc8 || op == 0xc9 || op == 0xf9 {
                return g.done(&e, &[0xf, 0x31], &[]);
            }
            g.done(&e, &[0xf, 1, op], &[])
        }
        _ => {
            e.prefixes.push(0xf3);
            let rest = 0xc0 | (g.r.below(4) as u8) << 3 | g.r.pick(&[0, 1, 2, 3]);
            g.done(&e, &[0xf, 0xae], &[rest])
        }
    }
}

fn any_msr(g: &mut Gen<'_>) -> u32 {
    use x86::msr as m;
    g.r.pick(&[
        m::EFER,
        m::STAR,
        m::LSTAR,
        m::CSTAR,
        m::FMASK,
        m::KERNEL_GS_BASE,
        m::FS_BASE,
        m::GS_BASE,
        m::SYSENTER_CS,
        m::SYSENTER_ESP,
        m::SYSENTER_EIP,
        m::PAT,
        0xc000_0107,
        0x1234,
    ])
}

fn syscall(g: &mut Gen<'_>) -> Vec<u8> {
    let e = g.start();
    if g.chance(60) {
        g.st.gpr[1] = place::HANDLERS + g.r.below(64);
        g.st.gpr[2] = place::HANDLERS + g.r.below(64);
    }
    let op = g.r.pick(&[5, 7, 0x34, 0x35]);
    g.done(&e, &[0xf, op], &[])
}

/// Sets (R/E)SI and (R/E)DI to addresses of operands.
fn string_registers(g: &mut Gen<'_>, e: &Emit) {
    let mask = match e.address {
        16 => 0xffff,
        32 => 0xffff_ffff,
        _ => u64::MAX,
    };
    for (n, seg) in [(6_usize, e.seg.unwrap_or(Seg::Ds)), (7, Seg::Es)] {
        let target = g.target();
        let mut offset = target.wrapping_sub(g.base(seg)) & mask;
        if e.address == 16 && g.chance(8) {
            offset = g.r.pick(&[0xffff, 0xfffe, 0xfffd, 0xfffc, 0, 1]);
        }
        let old = if g.bits == 64 || e.address == 16 {
            g.st.gpr[n] & !mask
        } else {
            0
        };
        g.st.gpr[n] = old | offset;
        let data = g.data();
        let lin = g.base(seg).wrapping_add(offset);
        g.put_linear(lin, &data);
    }
}

fn small_count(g: &mut Gen<'_>, e: &Emit) {
    let mask = match e.address {
        16 => 0xffff,
        32 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let count = if g.chance(3) {
        g.r.below(70)
    } else {
        g.r.below(7)
    };
    let old = if g.bits == 64 || e.address == 16 {
        g.st.gpr[1] & !mask
    } else {
        0
    };
    g.st.gpr[1] = old | count;
}

fn string(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    string_registers(g, &e);
    if g.chance(50) {
        let rep = g.r.pick(&[0xf2, 0xf3]);
        e.prefixes.push(rep);
        small_count(g, &e);
    }
    let op =
        g.r.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]);
    g.done(&e, &[op], &[])
}

fn stack(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    let width = g.stack_width(&e);
    let values: [u64; 8] = std::array::from_fn(|_| g.r.integer());
    g.stack(width, &values);
    match g.r.below(16) {
        0 | 1 => {
            let (size, level) = (g.r.below(0x200) as u16, g.r.below(4) as u8);
            let level = if g.chance(60) { 0 } else { level };
            if level != 0 {
                let ss = g.base(Seg::Ss);
                g.st.gpr[5] = (place::DATA + g.r.below(0x1000) * 8).wrapping_sub(ss);
                if g.bits != 64 {
                    g.st.gpr[5] &= 0xffff_ffff;
                }
            }
            let [a, b] = size.to_le_bytes();
            g.done(&e, &[0xc8], &[a, b, level])
        }
        2 => {
            let target = g.target();
            let ss = g.base(Seg::Ss);
            g.st.gpr[5] = target.wrapping_sub(ss);
            if g.bits != 64 {
                g.st.gpr[5] &= 0xffff_ffff;
            }
            g.done(&e, &[0xc9], &[])
        }
        3 => g.done(&e, &[0x60], &[]),
        4 => g.done(&e, &[0x61], &[]),
        5 => {
            let op = 0x50 + g.r.below(8) as u8;
            g.done(&e, &[op], &[])
        }
        6 => {
            let op = 0x58 + g.r.below(8) as u8;
            g.done(&e, &[op], &[])
        }
        7 => {
            let imm = g.immediate(e.operand);
            g.done(&e, &[0x68], &imm)
        }
        8 => {
            let imm = g.r.next() as u8;
            g.done(&e, &[0x6a], &[imm])
        }
        9 => {
            let rest = g.rm(&mut e, 6);
            g.done(&e, &[0xff], &rest)
        }
        10 => {
            let rest = g.rm(&mut e, 0);
            g.done(&e, &[0x8f], &rest)
        }
        11 => {
            let imm = near(g, e.operand);
            g.done(&e, &[0xe8], &imm)
        }
        12 => {
            let (op, imm): (u8, &[u8]) = if g.chance(50) {
                (0xc3, &[])
            } else {
                (0xc2, &[8, 0])
            };
            let ip = near_offset(g);
            g.stack(width, &[ip]);
            g.done(&e, &[op], imm)
        }
        _ => {
            let reg = g.r.pick(&[2, 4]);
            let ip = near_offset(g);
            let rest = g.memory(&mut e, reg, &ip.to_le_bytes());
            g.done(&e, &[0xff], &rest)
        }
    }
}

fn near_offset(g: &mut Gen<'_>) -> u64 {
    if g.chance(20) {
        g.r.integer()
    } else {
        g.st.rip & !0xff | g.r.below(0x100)
    }
}

fn near(g: &mut Gen<'_>, operand: u32) -> Vec<u8> {
    let by = if g.chance(20) {
        g.r.integer() as i64
    } else {
        g.r.below(0x200) as i64 - 0x100
    };
    let bytes = if g.bits == 64 || operand == 32 { 4 } else { 2 };
    by.to_le_bytes()[..bytes].to_vec()
}

fn alu(g: &mut Gen<'_>) -> Vec<u8> {
    let mut e = g.start();
    let reg = g.r.pick(&[0, 1, 2, 3, 5, 6, 7]);
    match g.r.below(26) {
        0..=3 => {
            let op = (g.r.below(8) as u8) << 3 | g.r.below(4) as u8;
            let rest = g.rm(&mut e, reg);
            g.done(&e, &[op], &rest)
        }
        4 | 5 => {
            let op = g.r.pick(&[0x80, 0x81, 0x83]);
            let which = g.r.below(8) as u8;
            let mut rest = g.rm(&mut e, which);
            let imm = g.immediate(if op == 0x81 { e.operand } else { 8 });
            rest.extend(imm);
            g.done(&e, &[op], &rest)
        }
        6 => {
            let op = (g.r.below(8) as u8) << 3 | 4;
            let wide = g.r.below(2) as u8;
            let imm = g.immediate(if wide != 0 { e.operand } else { 8 });
            g.done(&e, &[op | wide], &imm)
        }
        7 | 8 => {
            let op = g.r.pick(&[0x88, 0x89, 0x8a, 0x8b, 0x84, 0x85, 0x86, 0x87]);
            let rest = g.rm(&mut e, reg);
            g.done(&e, &[op], &rest)
        }
        9 => {
            let op = g.r.pick(&[0xc6, 0xc7]);
            let mut rest = g.rm(&mut e, 0);
            let imm = g.immediate(if op == 0xc7 { e.operand } else { 8 });
            rest.extend(imm);
            g.done(&e, &[op], &rest)
        }
        10 => {
            let target = g.target();
            let offset = target.wrapping_sub(g.base(e.seg.unwrap_or(Seg::Ds)));
            let data = g.data();
            let mask = u64::MAX >> (64 - e.address);
            let lin = g.base(e.seg.unwrap_or(Seg::Ds)).wrapping_add(offset & mask);
            g.put_linear(lin, &data);
            let op = g.r.pick(&[0xa0, 0xa1, 0xa2, 0xa3]);
            g.done(&e, &[op], &offset.to_le_bytes()[..e.address as usize / 8])
        }
        11 => {
            let (op, which) = (g.r.pick(&[0xfe, 0xff]), g.r.below(2) as u8);
            let rest = g.rm(&mut e, which);
            g.done(&e, &[op], &rest)
        }
        12 | 13 => {
            let (op, which) = (g.r.pick(&[0xf6, 0xf7]), g.r.pick(&[0, 2, 3, 4, 5, 6, 7]));
            let mut rest = g.rm(&mut e, which);
            if which == 0 {
                let imm = g.immediate(if op == 0xf7 { e.operand } else { 8 });
                rest.extend(imm);
            }
            g.done(&e, &[op], &rest)
        }
        14 | 15 => {
            let (op, which) = (
                g.r.pick(&[0xd0, 0xd1, 0xd2, 0xd3, 0xc0, 0xc1]),
                g.r.pick(&[0, 1, 2, 3, 4, 5, 7]),
            );
            let mut rest = g.rm(&mut e, which);
            if op < 0xd0 {
                let imm = g.immediate(8);
                rest.extend(imm);
            }
            g.done(&e, &[op], &rest)
        }
        16 | 17 => {
            let op = g.r.pick(&[
                0xa3, 0xab, 0xb3, 0xbb, 0xa5, 0xad, 0xaf, 0xb6, 0xb7, 0xbe, 0xbf, 0xbc, 0xbd, 0xc0,
                0xc1, 0xb0, 0xb1,
            ]);
            if matches!(op, 0xa3 | 0xab | 0xb3 | 0xbb) && g.chance(90) {
                g.st.gpr[reg as usize] = g.r.below(256);
            }
            let rest = g.rm(&mut e, reg);
            g.done(&e, &[0xf, op], &rest)
        }
        18 => {
            let (op, which) = g.r.pick(&[
                (0xba, 4),
                (0xba, 5),
                (0xba, 6),
                (0xba, 7),
                (0xa4, 0),
                (0xac, 3),
            ]);
            let mut rest = g.rm(&mut e, which);
            rest.push(g.r.next() as u8);
            g.done(&e, &[0xf, op], &rest)
        }
        19 => {
            let op = g.r.pick(&[0x90, 0x40]) | g.r.below(16) as u8;
            let rest = g.rm(&mut e, reg);
            g.done(&e, &[0xf, op], &rest)
        }
        20 => {
            let op = g.r.pick(&[0x69, 0x6b]);
            let mut rest = g.rm(&mut e, reg);
            let imm = g.immediate(if op == 0x69 { e.operand } else { 8 });
            rest.extend(imm);
            g.done(&e, &[op], &rest)
        }
        21 => {
            let rest = g.memory(&mut e, reg, &[]);
            g.done(&e, &[0x8d], &rest)
        }
        22 => {
            let rest = g.memory(&mut e, 1, &[1, 2, 3, 4, 5, 6, 7, 8]);
            g.done(&e, &[0xf, 0xc7], &rest)
        }
        23 => {
            let op =
                g.r.pick(&[0x37, 0x3f, 0xd5, 0x98, 0x99, 0xd7, 0x90, 0x91, 0x40, 0x48]);
            if op == 0xd5 {
                return g.done(&e, &[op], &[10]);
            }
            g.done(&e, &[op], &[])
        }
        24 => {
            let op = g.r.pick(&[
                0xe0, 0xe1, 0xe2, 0xe3, 0xeb, 0x70, 0x72, 0x74, 0x76, 0x78, 0x7a, 0x7c, 0x7e,
            ]);
            let by = g.r.next() as u8;
            g.done(&e, &[op], &[by])
        }
        _ => {
            let imm = near(g, e.operand);
            let op = g.r.below(17) as u8;
            if op == 16 {
                g.done(&e, &[0xe9], &imm)
            } else {
                g.done(&e, &[0xf, 0x80 | op], &imm)
            }
        }
    }
}
