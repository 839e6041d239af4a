//! Programs: instructions from a table of what is hard to get right, opcodes at random, raw bytes, and jumps among them.

use super::input::Input;
use super::place::{self, root, sel};
use super::templates;

/// Where a program runs.
#[derive(Clone, Copy)]
pub struct Place {
    /// 16, 32 or 64.
    pub bits: u32,
    /// The linear address of the first byte.
    pub at: u64,
    /// Selectors that its privilege level may load, mostly: CS and SS.
    pub code: u16,
    /// See `code`.
    pub data: u16,
}

impl Place {
    /// At privilege level 0.
    pub fn level0(bits: u32, at: u64) -> Self {
        let (code, data) = match bits {
            16 => (sel::C0_16, sel::D0_16),
            32 => (sel::C0, sel::D0),
            _ => (sel::L0, sel::D0),
        };
        Self {
            bits,
            at,
            code,
            data,
        }
    }
}

/// A program in the making.
struct Program {
    bytes: Vec<u8>,
    /// Where instructions begin.
    starts: Vec<usize>,
    bits: u32,
    at: u64,
    place: Place,
}

/// At most this many bytes.
const MAX: usize = 360;

/// A program of about `count` instructions.
pub fn write(input: &mut Input, place: Place, count: usize) -> Vec<u8> {
    let Place { bits, at, .. } = place;
    let mut p = Program {
        bytes: Vec::new(),
        starts: Vec::new(),
        bits,
        at,
        place,
    };
    let count = count / 4 + input.below(count);
    for _ in 0..count {
        if p.bytes.len() >= MAX || input.ended() {
            break;
        }
        p.starts.push(p.bytes.len());
        p.instruction(input);
    }
    // Round and round, mostly.
    if input.byte() & 3 != 0 {
        p.jump(input);
    }
    p.bytes
}

/// A number that means something: an address, a selector, a count, an MSR.
pub fn value(input: &mut Input, bits: u32, code: u64) -> u64 {
    let far = |input: &mut Input| -> u64 {
        match (bits, input.byte() & 7) {
            (64, 0) => 0xffff_ff80_0000_0000,
            (_, 1) => 0x20_0000,
            (_, 2) => 0x40_0000,
            _ => 0,
        }
    };
    match input.byte() & 31 {
        0..5 => u64::from(input.byte()),
        5..8 => code.wrapping_add(u64::from(input.byte())),
        8..12 => place::DATA + (input.number(2) & 0xfff) + far(input),
        12 => place::DATA + 0x1000 - u64::from(input.byte() & 15) + far(input),
        13 => place::STACK - 64 + u64::from(input.byte()),
        14 => place::CODE + 0x1000 - u64::from(input.byte() & 31) + far(input),
        15 => table_entry(input),
        16 => place::MMIO + u64::from(input.byte()),
        17 => u64::MAX,
        18 => input.pick(&[
            0x7fff_ffff_fff8,
            0x8000_0000_0000,
            0xffff_7fff_ffff_fff8,
            0xffff_8000_0000_0000,
        ]),
        19 => u64::from(selector(input)),
        20 => u64::from(input.pick(&templates::MSRS)),
        21 => 0xffff_f000 | u64::from(input.byte()) << 4,
        22 => 1 << (input.byte() & 63),
        23 => input.pick(&[
            0x7fff_ffff,
            0x8000_0000,
            0xffff,
            0x8000,
            0xffff_fffc,
            0x1_0000_0000,
        ]),
        24 => place::RAM - u64::from(input.byte() & 63),
        25..28 => input.number(8),
        _ => u64::from(input.byte() & 15),
    }
}

fn table_entry(input: &mut Input) -> u64 {
    let table = input.pick(&[
        root::PAGES,
        root::PAGES32,
        root::ALIASES,
        root::DIRECTORY,
        root::BITS32,
        root::LEVEL4,
    ]);
    let page = input.pick(&[
        place::CODE,
        place::DATA,
        place::STACK - 0x1000,
        0,
        0x20_0000,
    ]) >> 12;
    let size = if table == root::PAGES32 || table == root::BITS32 {
        4
    } else {
        8
    };
    table + page % 512 * size + u64::from(input.byte() & 1) * size
}

fn selector(input: &mut Input) -> u16 {
    let choice = input.byte();
    match choice & 7 {
        0 => (sel::ODD + 8 * (input.byte() as u16 % sel::ODDS)) | u16::from(choice >> 6),
        1 => (sel::GATES + 16 * (input.byte() as u16 % sel::GATE_COUNT)) | u16::from(choice >> 6),
        2 => (sel::WILD + 8 * (input.byte() as u16 % sel::WILD_COUNT)) | u16::from(choice >> 6),
        3 => 4 | (8 * (input.byte() as u16 % 18)) | u16::from(choice >> 6),
        4 => input.pick(&[0, 3, sel::LIMIT + 1, sel::LIMIT - 3, 0xffff]),
        _ => input.pick(&[
            sel::C0,
            sel::D0,
            sel::C1,
            sel::D1,
            sel::D2,
            sel::C3,
            sel::D3,
            sel::C0_16,
            sel::D0_16,
            sel::C3_16,
            sel::D3_16,
            sel::L0,
            sel::L3,
            sel::LDT,
            sel::TSS,
            sel::TSS_B,
            sel::TSS_C,
            sel::TSS64,
            sel::SYS,
        ]),
    }
}

impl Program {
    /// A selector: one that fits, often.
    fn selector(&self, input: &mut Input, code: bool) -> u16 {
        match input.byte() {
            0..100 if code => self.place.code,
            0..100 => self.place.data,
            100..130 => self.place.code,
            130..160 => sel::GATES + 16 * (u16::from(input.byte()) % sel::GATE_COUNT),
            _ => selector(input),
        }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn number(&mut self, value: u64, bytes: u32) {
        self.bytes
            .extend_from_slice(&value.to_le_bytes()[..bytes as usize]);
    }

    fn instruction(&mut self, input: &mut Input) {
        match input.byte() {
            0..100 => {
                let template = input.pick(templates::TABLE);
                self.template(input, template);
            }
            100..200 => self.opcode(input),
            200..225 => self.jump(input),
            225..240 => {
                for _ in 0..=input.below(8) {
                    let byte = input.byte();
                    self.byte(byte);
                }
            }
            _ => self.load(input),
        }
    }

    /// Puts something that means something into a register.
    fn load(&mut self, input: &mut Input) {
        let n = input.byte() & 15;
        let value = value(input, self.bits, self.at);
        if self.bits == 64 {
            self.byte(if n & 8 != 0 { 0x49 } else { 0x48 });
        }
        // The stack pointer stays, mostly.
        let n = if n == 4 { 0 } else { n & 7 };
        self.byte(0xb8 | n);
        self.number(value, self.bits / 8);
    }

    /// A jump, call or loop to an instruction of the program, mostly backwards.
    fn jump(&mut self, input: &mut Input) {
        let choice = input.byte();
        let target = if self.starts.is_empty() || choice & 3 == 0 {
            self.bytes.len() + 2 + usize::from(choice >> 4)
        } else {
            self.starts[input.below(self.starts.len().min(256))]
        };
        let kind = input.byte();
        let opcode = match kind & 7 {
            0..3 => 0x70 | kind >> 4,
            3 => 0xe2,
            4 => 0xe0 | kind >> 4 & 3,
            5 => 0xe8,
            _ => 0xeb,
        };
        let size = if opcode == 0xe8 {
            if self.bits == 16 { 2 } else { 4 }
        } else {
            1
        };
        self.byte(opcode);
        let distance = target as i64 - (self.bytes.len() + size) as i64;
        if size == 1 && i8::try_from(distance).is_err() {
            // Too far for this form.
            self.bytes.pop();
            self.byte(0xe9);
            let size = if self.bits == 16 { 2 } else { 4 };
            let distance = target as i64 - (self.bytes.len() + size as usize) as i64;
            self.number(distance as u64, size);
            return;
        }
        self.number(distance as u64, size as u32);
    }

    fn prefixes(&mut self, input: &mut Input) {
        if input.chance(50) {
            let p = input.pick(&[
                0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
            ]);
            self.byte(p);
        }
        if self.bits == 64 && input.chance(110) {
            let rex = 0x40 | input.byte() & 15;
            self.byte(rex);
        }
    }

    /// An opcode at random with operands that fit more often than not.
    fn opcode(&mut self, input: &mut Input) {
        let map = input.byte();
        if map & 15 < 2 {
            // Vector instructions are chosen by their prefix.
            let p = input.pick(&[0x66, 0xf2, 0xf3]);
            self.byte(p);
        }
        self.prefixes(input);
        match map & 15 {
            0..6 => {
                self.byte(0x0f);
                let opcode = input.byte();
                self.byte(opcode);
                if !matches!(opcode, 0x05..=0x0b | 0x30..=0x37 | 0x77 | 0x80..=0x8f | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf)
                {
                    self.modrm(input, None, Memory::Any);
                }
                match opcode {
                    0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => {
                        let imm = input.byte();
                        self.byte(imm);
                    }
                    0x80..=0x8f => {
                        let distance = i64::from(input.byte() as i8 / 4);
                        self.number(distance as u64, if self.bits == 16 { 2 } else { 4 });
                    }
                    _ => {}
                }
            }
            6 => {
                self.byte(0x0f);
                self.byte(0x38);
                let opcode = input.byte();
                self.byte(opcode);
                self.modrm(input, None, Memory::Any);
            }
            7 => {
                self.byte(0x0f);
                self.byte(0x3a);
                let opcode = input.byte();
                self.byte(opcode);
                self.modrm(input, None, Memory::Any);
                let imm = input.byte();
                self.byte(imm);
            }
            8 => {
                // x87
                let opcode = 0xd8 | input.byte() & 7;
                self.byte(opcode);
                self.modrm(input, None, Memory::Any);
            }
            9 => {
                // A locked read-modify-write, or what looks like one.
                self.byte(0xf0);
                let opcode = input.pick(&[
                    0x00, 0x01, 0x09, 0x11, 0x19, 0x20, 0x29, 0x31, 0x80, 0x83, 0x86, 0x87, 0xf6,
                    0xf7, 0xfe, 0xff,
                ]);
                self.byte(opcode);
                self.modrm(input, None, Memory::Data);
                if matches!(opcode, 0x80 | 0x83 | 0xf6) {
                    let imm = input.byte();
                    self.byte(imm);
                }
            }
            _ => {
                let opcode = input.byte();
                self.byte(opcode);
                self.one_byte(input, opcode);
            }
        }
    }

    /// What follows a one-byte opcode.
    fn one_byte(&mut self, input: &mut Input, opcode: u8) {
        let z = if self.bits == 16 { 2 } else { 4 };
        let modrm = match opcode {
            0x00..=0x3f => opcode & 7 < 4,
            0x62 | 0x63 | 0x69 | 0x6b | 0x80..=0x8f | 0xc0 | 0xc1 | 0xc4..=0xc7 | 0xd0..=0xd3 => {
                true
            }
            0xd8..=0xdf | 0xf6 | 0xf7 | 0xfe | 0xff => true,
            _ => false,
        };
        if modrm {
            self.modrm(input, None, Memory::Any);
        }
        let imm = match opcode {
            0x00..=0x3f if opcode & 7 == 4 => 1,
            0x00..=0x3f if opcode & 7 == 5 => z,
            0x6a
            | 0x6b
            | 0x80
            | 0x82
            | 0x83
            | 0xa8
            | 0xb0..=0xb7
            | 0xc0
            | 0xc1
            | 0xc6
            | 0xcd
            | 0xd4
            | 0xd5 => 1,
            0xe4..=0xe7 => 1,
            0x68 | 0x69 | 0x81 | 0xa9 | 0xb8..=0xbf | 0xc7 => z,
            0xf6 if self.bytes.last().is_some_and(|m| m & 0x30 == 0) => 1,
            0xc2 | 0xca => 2,
            0xc8 => 3,
            0x70..=0x7f | 0xe0..=0xe3 | 0xeb => {
                let distance = input.byte() as i8 / 4;
                self.byte(distance.cast_unsigned());
                0
            }
            0xe8 | 0xe9 => {
                let distance = i64::from(input.byte() as i8 / 2);
                self.number(distance as u64, z);
                0
            }
            0xa0..=0xa3 => {
                let address = value(input, self.bits, self.at);
                self.number(address, self.bits / 8);
                0
            }
            _ => 0,
        };
        if imm != 0 {
            let value = value(input, self.bits, self.at);
            self.number(value, imm);
        }
    }

    /// ModRM and what follows it; `reg` fixes its middle field.
    fn modrm(&mut self, input: &mut Input, reg: Option<u8>, memory: Memory) {
        let choice = input.byte();
        let reg = reg.unwrap_or(input.byte() & 7) << 3;
        let aimed = match memory {
            Memory::Register => {
                self.byte(0xc0 | reg | choice & 7);
                return;
            }
            Memory::Code => Some(
                self.at
                    .wrapping_add(self.bytes.len() as u64 + u64::from(choice >> 2 & 31))
                    .wrapping_sub(4),
            ),
            Memory::Table => Some(table_entry(input)),
            Memory::Any if choice & 3 == 0 => {
                self.byte(0xc0 | reg | choice >> 2 & 7);
                return;
            }
            Memory::Any | Memory::Data if choice & 4 != 0 => Some(value(input, self.bits, self.at)),
            Memory::Any | Memory::Data => None,
        };
        match (self.bits, aimed) {
            (16, Some(target)) => {
                self.byte(reg | 6);
                self.number(target, 2);
            }
            (32, Some(target)) => {
                self.byte(reg | 5);
                self.number(target, 4);
            }
            (_, Some(target)) if choice & 0x80 != 0 || i32::try_from(target as i64).is_err() => {
                // Relative to RIP; an immediate behind it shifts it a little.
                self.byte(reg | 5);
                let next = self.at.wrapping_add(self.bytes.len() as u64 + 4);
                self.number(target.wrapping_sub(next), 4);
            }
            (_, Some(target)) => {
                self.byte(reg | 4);
                self.byte(0x25);
                self.number(target, 4);
            }
            (bits, None) => {
                let mode = choice >> 3 & 1;
                let rm = choice >> 4 & 7;
                self.byte(mode << 6 | reg | rm);
                if bits != 16 && rm == 4 {
                    let sib = input.byte();
                    self.byte(sib);
                    if mode == 0 && sib & 7 == 5 {
                        let disp = input.number(1);
                        self.number(disp, 4);
                    }
                }
                if mode == 0 && rm == if bits == 16 { 6 } else { 5 } {
                    let disp = value(input, bits, self.at);
                    self.number(disp, if bits == 16 { 2 } else { 4 });
                }
                if mode == 1 {
                    let disp = input.byte();
                    self.byte(disp);
                }
            }
        }
    }

    /// Fills a template in, see [`templates::TABLE`].
    fn template(&mut self, input: &mut Input, template: &str) {
        let z = if self.bits == 16 { 2 } else { 4 };
        for piece in template.split(' ') {
            let (name, reg) = match piece.split_once('/') {
                Some((name, reg)) => (name, reg.parse().ok()),
                None => (piece, None),
            };
            match name {
                "" => {}
                "P" => self.prefixes(input),
                "W" => {
                    if self.bits == 64 {
                        self.byte(0x48);
                    }
                }
                "b" => {
                    let value = input.byte();
                    self.byte(value);
                }
                "w" => {
                    let value = input.number(2);
                    self.number(value, 2);
                }
                "z" => {
                    let value = value(input, self.bits, self.at);
                    self.number(value, z);
                }
                "n" => {
                    // A small number.
                    let value = u64::from(input.byte() & 31);
                    self.number(value, z);
                }
                "s" => {
                    let value = self.selector(input, false);
                    self.number(u64::from(value), z);
                }
                "p" => {
                    let offset = self.at.wrapping_add(u64::from(input.byte()));
                    let value = self.selector(input, true);
                    self.number(offset, z);
                    self.number(u64::from(value), 2);
                }
                "S" => {
                    let value = self.selector(input, true);
                    self.number(u64::from(value), z);
                }
                "C" => {
                    let target = self
                        .at
                        .wrapping_add(self.bytes.len() as u64 + u64::from(input.byte() & 63));
                    self.number(target, z);
                }
                "A" => {
                    let choice = input.byte();
                    let at = self
                        .at
                        .wrapping_add(self.bytes.len() as u64 + u64::from(choice >> 4) * 2);
                    // Each of the views has other pages behind one: neighbours are swapped.
                    let view = [0, 0x20_0000, 0x40_0000, at & !0x1f_ffff][usize::from(choice & 3)];
                    let swap = if choice & 12 != 0 { 0x1000 } else { 0 };
                    self.number(view + (at & 0x1f_ffff ^ swap), z);
                }
                "T" => {
                    let target = table_entry(input);
                    self.number(target, z);
                }
                "M" => {
                    let number = input.pick(&templates::MSRS);
                    self.number(u64::from(number), z);
                }
                "m" => self.modrm(input, reg, Memory::Any),
                "r" => self.modrm(input, reg, Memory::Register),
                "mem" => self.modrm(input, reg, Memory::Data),
                "code" => self.modrm(input, reg, Memory::Code),
                "table" => self.modrm(input, reg, Memory::Table),
                // The table's test has seen that all else is hex.
                hex => self.byte(u8::from_str_radix(hex, 16).unwrap_or(0x90)),
            }
        }
    }
}

/// What a ModRM byte leads to.
#[derive(Clone, Copy)]
enum Memory {
    Any,
    Data,
    Register,
    /// The program itself.
    Code,
    /// Paging structures.
    Table,
}
