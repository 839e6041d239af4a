//! An encoder for the few dozen instruction forms that translated code is made of.
//!
//! Forms are chosen at run time by operation, width and where a guest register lives, so that one method per *shape* of
//! encoding (SDM vol. 2, chapter 2) serves all of them. Code goes to one of two sections: `Hot`, what runs every time, and
//! `Cold`, what runs when something misses or faults.

mod notes;

pub use notes::{Base, Field, Saved};

use ir::{Cond, Width};

pub use super::operand::{Mem, Rm};

/// A host register by encoding.
pub type Reg = u8;

pub const RAX: Reg = 0;
pub const RCX: Reg = 1;
pub const RDX: Reg = 2;
pub const RSP: Reg = 4;
pub const RSI: Reg = 6;
pub const RDI: Reg = 7;
pub const R11: Reg = 11;
pub const R14: Reg = 14;
pub const R15: Reg = 15;

/// The eight operations of the first arithmetic group, by their place in the opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// The shift group, by its ModRM extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// Where code goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    Hot,
    Cold,
}

/// A place in the code, before or after it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(u32);

/// What a relative branch leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Label(Label),
    /// An offset in code memory.
    Fixed(u32),
}

impl From<Label> for Target {
    fn from(label: Label) -> Self {
        Self::Label(label)
    }
}

#[derive(Clone, Copy)]
struct Fixup {
    section: Section,
    at: u32,
    target: Target,
}

/// See [`Asm::mark`].
pub struct Mark {
    bytes: [usize; 2],
    labels: usize,
    fixups: usize,
    notes: usize,
    current: usize,
}

/// The bytes of a section; room is made before it is needed, so that pieces of a fixed size can be written at once.
#[derive(Default)]
struct Bytes {
    room: Vec<u8>,
    len: usize,
}

impl Bytes {
    /// Appends the first `n` of some bytes.
    fn put<const N: usize>(&mut self, bytes: [u8; N], n: usize) {
        let end = self.len + N;
        if end > self.room.len() {
            self.grow(end);
        }
        self.room[self.len..end].copy_from_slice(&bytes);
        self.len += n;
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        self.room.resize((2 * end).max(4096), 0);
    }

    fn get(&self) -> &[u8] {
        &self.room[..self.len]
    }

    fn set(&mut self, bytes: &[u8]) {
        if bytes.len() > self.room.len() {
            self.grow(bytes.len());
        }
        self.room[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len();
    }
}

/// The prefixes of a memory operand through a window: address size, GS.
const WINDOW: [u8; 2] = [0x67, 0x65];

/// The parts of one instruction: prefixes and opcode (at most 10 bytes), ModRM, SIB, displacement.
///
/// In one number: bytes stored one by one would be loaded again before they have left the store buffer.
#[derive(Default)]
struct Piece {
    bytes: u128,
    len: usize,
}

impl Piece {
    fn byte(&mut self, byte: u8) {
        self.word(byte.into(), 1);
    }

    /// Appends the low `n` bytes of a number whose others are zero.
    fn word(&mut self, word: u32, n: usize) {
        self.bytes |= u128::from(word) << (8 * (self.len & 15));
        self.len += n;
    }
}

/// Code in the making.
#[derive(Default)]
pub struct Asm {
    bytes: [Bytes; 2],
    current: usize,
    labels: Vec<Option<(Section, u32)>>,
    fixups: Vec<Fixup>,
    notes: Vec<notes::Note>,
    /// See [`Asm::moment`].
    touched: [u32; 2],
}

impl Asm {
    /// Forgets everything but its memory.
    pub fn clear(&mut self) {
        self.bytes.iter_mut().for_each(|b| b.len = 0);
        self.labels.clear();
        self.fixups.clear();
        self.notes.clear();
        self.current = 0;
    }

    /// Changes whenever r14 may have: what it was found to hold at a moment holds as long as that stays the same.
    pub fn moment(&self) -> u32 {
        self.touched[0]
    }

    /// As [`Asm::moment`], for r11.
    pub fn moment_r11(&self) -> u32 {
        self.touched[1]
    }

    fn touch(&mut self, reg: Reg) {
        match reg {
            R14 => self.touched[0] += 1,
            R11 => self.touched[1] += 1,
            _ => {}
        }
    }

    fn touch_all(&mut self) {
        self.touched.iter_mut().for_each(|n| *n += 1);
    }

    /// A state to which [`Asm::rewind`] can return.
    pub fn mark(&self) -> Mark {
        Mark {
            bytes: [self.bytes[0].len, self.bytes[1].len],
            labels: self.labels.len(),
            fixups: self.fixups.len(),
            notes: self.notes.len(),
            current: self.current,
        }
    }

    /// Takes back what was emitted since the mark. Labels made before it must not have been bound since.
    pub fn rewind(&mut self, mark: &Mark) {
        for (bytes, len) in self.bytes.iter_mut().zip(mark.bytes) {
            bytes.len = len;
        }
        self.labels.truncate(mark.labels);
        self.fixups.truncate(mark.fixups);
        self.notes.truncate(mark.notes);
        self.current = mark.current;
        self.touch_all();
    }

    /// Goes on in another section; the one before.
    pub fn section(&mut self, section: Section) -> Section {
        let old = self.which();
        self.current = section as usize;
        old
    }

    fn which(&self) -> Section {
        if self.current == 0 {
            Section::Hot
        } else {
            Section::Cold
        }
    }

    /// Bytes in a section.
    pub fn len(&self, section: Section) -> u32 {
        self.bytes[section as usize].len as u32
    }

    /// Where the next byte goes.
    pub fn here(&self) -> u32 {
        self.bytes[self.current].len as u32
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() as u32 - 1)
    }

    pub fn bind(&mut self, label: Label) {
        self.touch_all();
        self.labels[label.0 as usize] = Some((self.which(), self.here()));
    }

    /// Offset of a bound label, given where the sections lie.
    pub fn resolve(&self, label: Label, hot: u32, cold: u32) -> u32 {
        match self.labels[label.0 as usize] {
            Some((Section::Hot, at)) => hot + at,
            Some((Section::Cold, at)) => cold + at,
            None => unreachable!("label {} is not bound", label.0),
        }
    }

    /// Fills in all relative branches, given where the sections will lie, and hands out the bytes.
    pub fn link(&mut self, hot: u32, cold: u32) -> (&[u8], &[u8]) {
        for i in 0..self.fixups.len() {
            let fixup = self.fixups[i];
            let at = fixup.at as usize;
            let base = if fixup.section == Section::Hot {
                hot
            } else {
                cold
            };
            let target = match fixup.target {
                Target::Fixed(offset) => offset,
                Target::Label(label) => self.resolve(label, hot, cold),
            };
            let rel = target.wrapping_sub(base + fixup.at + 4);
            self.bytes[fixup.section as usize].room[at..at + 4].copy_from_slice(&rel.to_le_bytes());
        }
        (self.bytes[0].get(), self.bytes[1].get())
    }

    // Raw parts.

    pub fn byte(&mut self, byte: u8) {
        self.bytes[self.current].put([byte], 1);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.byte(*byte);
        }
    }

    fn imm32(&mut self, value: i32) {
        self.bytes[self.current].put(value.to_le_bytes(), 4);
    }

    fn imm(&mut self, w: Width, value: i32) {
        match w {
            Width::B8 => self.byte(value as u8),
            Width::B16 => self.raw(&(value as i16).to_le_bytes()),
            Width::B32 | Width::B64 => self.imm32(value),
        }
    }

    /// Prefixes, opcode, ModRM, SIB and displacement. `byte_reg`: `reg` names an 8-bit register; `byte_rm`: `rm` does.
    fn form(&mut self, w: Width, opcode: &[u8], reg: Reg, rm: &Rm, byte_reg: bool, byte_rm: bool) {
        let mut piece = Piece::default();
        if rm.in_gs() {
            WINDOW.into_iter().for_each(|b| piece.byte(b));
        }
        if w == Width::B16 {
            piece.byte(0x66);
        }
        let mut rex = if w == Width::B64 { 0x48 } else { 0 };
        rex |= (reg >> 3) << 2;
        // SPL, BPL, SIL, DIL need a REX prefix.
        let mut needed = byte_reg && (4..8).contains(&reg);
        match rm {
            Rm::R(r) => {
                rex |= r >> 3;
                needed |= byte_rm && (4..8).contains(r);
            }
            Rm::M(m) => {
                rex |= m.base >> 3;
                if let Some((index, _)) = m.index {
                    rex |= (index >> 3) << 1;
                }
            }
        }
        if rex != 0 || needed {
            piece.byte(0x40 | rex);
        }
        for byte in opcode {
            piece.byte(*byte);
        }
        self.operands(piece, reg, rm);
    }

    /// ModRM, SIB and displacement.
    fn modrm(&mut self, reg: Reg, rm: &Rm) {
        self.operands(Piece::default(), reg, rm);
    }

    fn operands(&mut self, mut piece: Piece, reg: Reg, rm: &Rm) {
        self.touch(reg);
        let reg = (reg & 7) << 3;
        match rm {
            Rm::R(r) => {
                self.touch(*r);
                piece.byte(0xc0 | reg | r & 7);
            }
            Rm::M(m) => {
                let base = m.base & 7;
                let mode = if m.disp == 0 && base != 5 {
                    0
                } else if i8::try_from(m.disp).is_ok() {
                    0x40
                } else {
                    0x80
                };
                if let Some((index, scale)) = m.index {
                    debug_assert_ne!(index, RSP, "RSP cannot be an index");
                    piece.byte(mode | reg | 4);
                    piece.byte(scale << 6 | (index & 7) << 3 | base);
                } else if base == 4 {
                    piece.byte(mode | reg | 4);
                    piece.byte(0x24);
                } else {
                    piece.byte(mode | reg | base);
                }
                match mode {
                    0x40 => piece.byte(m.disp as u8),
                    0x80 => piece.word(m.disp.cast_unsigned(), 4),
                    _ => {}
                }
            }
        }
        self.bytes[self.current].put(piece.bytes.to_le_bytes(), piece.len);
    }

    /// An opcode whose low bit tells 8 bits from the rest.
    fn sized(w: Width, opcode: u8) -> u8 {
        opcode | u8::from(w != Width::B8)
    }

    // Moves.

    /// reg = rm (8 and 16 bits leave the rest as it is).
    pub fn load(&mut self, w: Width, reg: Reg, rm: Rm) {
        if rm == Rm::R(reg) && w != Width::B32 {
            return;
        }
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0x8a)], reg, &rm, b, b);
    }

    /// [mem] = reg.
    pub fn store(&mut self, w: Width, mem: Mem, reg: Reg) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0x88)], reg, &Rm::M(mem), b, false);
    }

    /// rm = imm, sign-extended from 32 bits.
    pub fn store_imm(&mut self, w: Width, rm: Rm, imm: i32) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0xc6)], 0, &rm, false, b);
        self.imm(w, imm);
    }

    /// reg = imm, all 64 bits, flags kept.
    pub fn mov_imm(&mut self, reg: Reg, imm: u64) {
        self.touch(reg);
        if let Ok(small) = u32::try_from(imm) {
            if reg >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | reg & 7);
            self.imm32(small.cast_signed());
        } else if let Ok(signed) = i32::try_from(imm.cast_signed()) {
            self.store_imm(Width::B64, Rm::R(reg), signed);
        } else {
            self.byte(0x48 | reg >> 3);
            self.byte(0xb8 | reg & 7);
            self.raw(&imm.to_le_bytes());
        }
    }

    /// reg = rm zero-extended from `from` (to 64 bits).
    pub fn movzx(&mut self, from: Width, reg: Reg, rm: Rm) {
        match from {
            Width::B8 => self.form(Width::B32, &[0x0f, 0xb6], reg, &rm, false, true),
            Width::B16 => self.form(Width::B32, &[0x0f, 0xb7], reg, &rm, false, false),
            Width::B32 => self.form(Width::B32, &[0x8b], reg, &rm, false, false),
            Width::B64 => self.load(Width::B64, reg, rm),
        }
    }

    /// The low 16 bits of reg = 8-bit rm zero-extended; the rest stays.
    pub fn movzx16(&mut self, reg: Reg, rm: Rm) {
        self.form(Width::B16, &[0x0f, 0xb6], reg, &rm, false, true);
    }

    /// reg = rm sign-extended from `from` to `w`.
    pub fn movsx(&mut self, w: Width, from: Width, reg: Reg, rm: Rm) {
        match from {
            Width::B8 => self.form(w, &[0x0f, 0xbe], reg, &rm, false, true),
            Width::B16 => self.form(w, &[0x0f, 0xbf], reg, &rm, false, false),
            Width::B32 if w == Width::B64 => self.form(w, &[0x63], reg, &rm, false, false),
            Width::B32 | Width::B64 => self.load(w, reg, rm),
        }
    }

    pub fn lea(&mut self, w: Width, reg: Reg, mem: Mem) {
        if mem.index.is_none() && mem.disp == 0 {
            // Which costs nothing.
            return self.load(w, reg, Rm::R(mem.base));
        }
        self.form(w, &[0x8d], reg, &Rm::M(mem), false, false);
    }

    /// reg = disp32 + index << scale, without a base.
    pub fn lea_scaled(&mut self, w: Width, reg: Reg, index: Reg, scale: u8, disp: i32) {
        self.touch(reg);
        if w == Width::B16 {
            self.byte(0x66);
        }
        let rex = if w == Width::B64 { 8 } else { 0 } | (reg >> 3) << 2 | (index >> 3) << 1;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
        self.raw(&[0x8d, (reg & 7) << 3 | 4, scale << 6 | (index & 7) << 3 | 5]);
        self.imm32(disp);
    }

    pub fn cmov(&mut self, w: Width, cond: Cond, reg: Reg, rm: Rm) {
        self.form(w, &[0x0f, 0x40 | cond as u8], reg, &rm, false, false);
    }

    pub fn setcc(&mut self, cond: Cond, rm: Rm) {
        self.form(Width::B32, &[0x0f, 0x90 | cond as u8], 0, &rm, false, true);
    }

    pub fn bswap(&mut self, w: Width, reg: Reg) {
        self.touch(reg);
        let rex = if w == Width::B64 { 8 } else { 0 } | reg >> 3;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
        self.raw(&[0x0f, 0xc8 | reg & 7]);
    }

    /// reg <-> rm.
    pub fn xchg(&mut self, w: Width, reg: Reg, rm: Rm) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0x86)], reg, &rm, b, b);
    }

    // Arithmetic.

    /// reg = reg op rm.
    pub fn alu(&mut self, op: Alu, w: Width, reg: Reg, rm: Rm) {
        let b = w == Width::B8;
        let opcode = (op as u8) << 3 | Self::sized(w, 2);
        self.form(w, &[opcode], reg, &rm, b, b);
    }

    /// rm = rm op reg.
    pub fn alu_to(&mut self, op: Alu, w: Width, rm: Rm, reg: Reg) {
        let b = w == Width::B8;
        let opcode = (op as u8) << 3 | Self::sized(w, 0);
        self.form(w, &[opcode], reg, &rm, b, b);
    }

    /// rm = rm op imm.
    pub fn alu_imm(&mut self, op: Alu, w: Width, rm: Rm, imm: i32) {
        let b = w == Width::B8;
        if b {
            self.form(w, &[0x80], op as u8, &rm, false, true);
            self.byte(imm as u8);
        } else if i8::try_from(imm).is_ok() {
            self.form(w, &[0x83], op as u8, &rm, false, false);
            self.byte(imm as u8);
        } else {
            self.form(w, &[0x81], op as u8, &rm, false, false);
            self.imm(w, imm);
        }
    }

    pub fn test(&mut self, w: Width, rm: Rm, reg: Reg) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0x84)], reg, &rm, b, b);
    }

    pub fn test_imm(&mut self, w: Width, rm: Rm, imm: i32) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0xf6)], 0, &rm, false, b);
        self.imm(w, imm);
    }

    /// INC (`dec` false) or DEC.
    pub fn incdec(&mut self, w: Width, rm: Rm, dec: bool) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0xfe)], u8::from(dec), &rm, false, b);
    }

    /// The F6/F7 group by extension: 2 NOT, 3 NEG, 4 MUL, 5 IMUL, 6 DIV, 7 IDIV.
    pub fn group3(&mut self, w: Width, extension: u8, rm: Rm) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0xf6)], extension, &rm, false, b);
    }

    pub fn shift_imm(&mut self, op: Shift, w: Width, rm: Rm, count: u8) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0xc0)], op as u8, &rm, false, b);
        self.byte(count);
    }

    /// By CL.
    pub fn shift_cl(&mut self, op: Shift, w: Width, rm: Rm) {
        let b = w == Width::B8;
        self.form(w, &[Self::sized(w, 0xd2)], op as u8, &rm, false, b);
    }

    /// SHLD (`right` false) or SHRD by an immediate.
    pub fn shift_double(&mut self, right: bool, w: Width, rm: Rm, reg: Reg, count: u8) {
        let opcode = if right { 0xac } else { 0xa4 };
        self.form(w, &[0x0f, opcode], reg, &rm, false, false);
        self.byte(count);
    }

    /// SHLD (`right` false) or SHRD by CL.
    pub fn shift_double_cl(&mut self, right: bool, w: Width, rm: Rm, reg: Reg) {
        let opcode = if right { 0xad } else { 0xa5 };
        self.form(w, &[0x0f, opcode], reg, &rm, false, false);
    }

    pub fn imul(&mut self, w: Width, reg: Reg, rm: Rm) {
        self.form(w, &[0x0f, 0xaf], reg, &rm, false, false);
    }

    pub fn imul_imm(&mut self, w: Width, reg: Reg, rm: Rm, imm: i32) {
        self.form(w, &[0x69], reg, &rm, false, false);
        self.imm(w, imm);
    }

    /// The bit tests by extension: 4 BT, 5 BTS, 6 BTR, 7 BTC.
    pub fn bit_imm(&mut self, w: Width, extension: u8, rm: Rm, bit: u8) {
        self.form(w, &[0x0f, 0xba], extension, &rm, false, false);
        self.byte(bit);
    }

    /// As [`Asm::bit_imm`] by a register.
    pub fn bit_reg(&mut self, w: Width, extension: u8, rm: Rm, reg: Reg) {
        self.form(w, &[0x0f, 0x83 | extension << 3], reg, &rm, false, false);
    }

    /// A two-byte opcode with an optional F2/F3 prefix: BSF, BSR, TZCNT, LZCNT, POPCNT, CMPXCHG, XADD.
    pub fn two_byte(&mut self, w: Width, prefix: Option<u8>, opcode: u8, reg: Reg, rm: Rm) {
        if let Some(prefix) = prefix {
            self.byte(prefix);
        }
        self.form(w, &[0x0f, opcode], reg, &rm, false, false);
    }

    /// As [`Asm::two_byte`], for 8 bits too.
    pub fn two_byte_sized(&mut self, w: Width, opcode: u8, reg: Reg, rm: Rm) {
        let b = w == Width::B8;
        self.form(w, &[0x0f, Self::sized(w, opcode)], reg, &rm, b, b);
    }

    /// A three-byte opcode (0F 38 xx) with an optional F2/F3 prefix: CRC32, ADCX.
    pub fn three_byte(
        &mut self,
        w: Width,
        prefix: Option<u8>,
        opcode: u8,
        reg: Reg,
        rm: Rm,
        byte_rm: bool,
    ) {
        // 66h must come before F2h only where both are asked for: CRC32 with 16 bits.
        if let Some(prefix) = prefix {
            self.byte(prefix);
        }
        self.form(w, &[0x0f, 0x38, opcode], reg, &rm, false, byte_rm);
    }

    /// A VEX-encoded instruction: map 1 (0F), 2 (0F38) or 3 (0F3A), `pp` 0..3, and 4 with it for VEX.L.
    pub fn vex(&mut self, w: Width, map: u8, pp: u8, opcode: u8, reg: Reg, v: Reg, rm: Rm) {
        let (b, x) = match rm {
            Rm::R(r) => (r >> 3, 0),
            Rm::M(m) => (m.base >> 3, m.index.map_or(0, |(i, _)| i >> 3)),
        };
        let mut piece = Piece::default();
        if rm.in_gs() {
            WINDOW.into_iter().for_each(|b| piece.byte(b));
        }
        piece.byte(0xc4);
        piece.byte((!(reg >> 3) & 1) << 7 | (!x & 1) << 6 | (!b & 1) << 5 | map);
        piece.byte(u8::from(w == Width::B64) << 7 | (!v & 15) << 3 | pp);
        piece.byte(opcode);
        self.operands(piece, reg, &rm);
    }

    /// RORX reg, rm, count: keeps flags.
    pub fn rorx(&mut self, w: Width, reg: Reg, rm: Rm, count: u8) {
        self.vex(w, 3, 3, 0xf0, reg, 0, rm);
        self.byte(count);
    }

    /// PEXT reg, v, mem, 64 bits: keeps flags.
    pub fn pext(&mut self, reg: Reg, v: Reg, mem: Mem) {
        self.vex(Width::B64, 2, 2, 0xf5, reg, v, Rm::M(mem));
    }

    /// JRCXZ over as many bytes.
    pub fn jrcxz(&mut self, over: u8) {
        self.raw(&[0xe3, over]);
    }

    pub fn lock(&mut self) {
        self.byte(0xf0);
    }

    // SSE moves of the runtime's own.

    /// MOVUPS xmm, [mem].
    pub fn movups_load(&mut self, xmm: Reg, mem: Mem) {
        self.form(Width::B32, &[0x0f, 0x10], xmm, &Rm::M(mem), false, false);
    }

    /// MOVUPS [mem], xmm.
    pub fn movups_store(&mut self, mem: Mem, xmm: Reg) {
        self.form(Width::B32, &[0x0f, 0x11], xmm, &Rm::M(mem), false, false);
    }

    /// VMOVUPS between 32 (`wide`) or 16 bytes of memory and a register; a load clears the rest of the register.
    pub fn vmovups(&mut self, store: bool, wide: bool, reg: Reg, mem: Mem) {
        let opcode = if store { 0x11 } else { 0x10 };
        self.vex(
            Width::B32,
            1,
            u8::from(wide) << 2,
            opcode,
            reg,
            0,
            Rm::M(mem),
        );
    }

    /// VPOR of 16 bytes into a register.
    pub fn vpor(&mut self, xmm: Reg, from: Rm) {
        self.vex(Width::B32, 1, 1, 0xeb, xmm, xmm, from);
    }

    /// VPTEST of 16 bytes with themselves: ZF where all are zero.
    pub fn vptest(&mut self, xmm: Reg) {
        self.vex(Width::B32, 2, 1, 0x17, xmm, 0, Rm::R(xmm));
    }

    /// VMOVUPS between 64 bytes of memory, at a multiple of 64 from a base register, and a register zmm0-31.
    pub fn evex_movups(&mut self, store: bool, zmm: u8, mem: Mem) {
        // W = 0, no prefix.
        self.evex_512(0x7c, if store { 0x11 } else { 0x10 }, zmm, mem);
    }

    /// KMOVQ between 8 bytes of memory and a mask register.
    pub fn kmov(&mut self, store: bool, k: u8, mem: Mem) {
        self.vex(
            Width::B64,
            1,
            0,
            if store { 0x91 } else { 0x90 },
            k,
            0,
            Rm::M(mem),
        );
    }

    /// VPORD of 64 bytes of memory into a register zmm0-15.
    pub fn evex_por(&mut self, zmm: u8, mem: Mem) {
        // W = 0, vvvv names the register too, prefix 66h.
        self.evex_512(0x05 | (!zmm & 15) << 3, 0xeb, zmm, mem);
    }

    /// An instruction of map 1 with a 512-bit operand at a multiple of 64 from a base register, and no mask. `second` is
    /// the prefix's second byte.
    fn evex_512(&mut self, second: u8, opcode: u8, zmm: u8, mem: Mem) {
        debug_assert!(mem.disp % 64 == 0 && mem.index.is_none() && !mem.gs);
        // A displacement of one byte counts operands; what doesn't fit keeps its four bytes.
        let disp = match mem.disp / 64 {
            n @ -128..=127 => n,
            _ => mem.disp,
        };
        let b = mem.base >> 3;
        self.byte(0x62);
        self.byte((!(zmm >> 3) & 1) << 7 | 1 << 6 | (!b & 1) << 5 | (!(zmm >> 4) & 1) << 4 | 1);
        self.byte(second);
        self.byte(0x48);
        self.byte(opcode);
        self.modrm(zmm & 15, &Rm::M(Mem { disp, ..mem }));
    }

    /// VZEROUPPER.
    pub fn vzeroupper(&mut self) {
        self.raw(&[0xc5, 0xf8, 0x77]);
    }

    /// An x87 instruction with a memory operand.
    pub fn x87(&mut self, opcode: u8, group: u8, mem: Mem) {
        self.form(Width::B32, &[opcode], group, &Rm::M(mem), false, false);
    }

    /// LDMXCSR (`store` false) or STMXCSR.
    pub fn mxcsr(&mut self, store: bool, mem: Mem) {
        let extension = if store { 3 } else { 2 };
        self.form(
            Width::B32,
            &[0x0f, 0xae],
            extension,
            &Rm::M(mem),
            false,
            false,
        );
    }

    // Control.

    fn rel32(&mut self, target: Target) -> u32 {
        let at = self.here();
        self.fixups.push(Fixup {
            section: self.which(),
            at,
            target,
        });
        self.imm32(0);
        at
    }

    /// JMP rel32; the place of its displacement in the section.
    pub fn jmp(&mut self, target: impl Into<Target>) -> u32 {
        self.byte(0xe9);
        self.rel32(target.into())
    }

    /// Jcc rel32; the place of its displacement in the section.
    pub fn jcc(&mut self, cond: Cond, target: impl Into<Target>) -> u32 {
        self.raw(&[0x0f, 0x80 | cond as u8]);
        self.rel32(target.into())
    }

    pub fn call(&mut self, target: impl Into<Target>) {
        self.touch_all();
        self.byte(0xe8);
        self.rel32(target.into());
    }

    /// CALL through a register or memory.
    pub fn call_rm(&mut self, rm: Rm) {
        self.touch_all();
        self.form(Width::B32, &[0xff], 2, &rm, false, false);
    }

    /// JMP through a register or memory.
    pub fn jmp_rm(&mut self, rm: Rm) {
        self.form(Width::B32, &[0xff], 4, &rm, false, false);
    }

    pub fn push(&mut self, reg: Reg) {
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | reg & 7);
    }

    pub fn pop(&mut self, reg: Reg) {
        self.touch(reg);
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | reg & 7);
    }

    /// PUSH [mem]
    pub fn push_mem(&mut self, mem: Mem) {
        self.form(Width::B32, &[0xff], 6, &Rm::M(mem), false, false);
    }

    /// REP STOS or MOVS.
    pub fn rep(&mut self, w: Width, movs: bool) {
        self.byte(0xf3);
        match w {
            Width::B16 => self.byte(0x66),
            Width::B64 => self.byte(0x48),
            Width::B8 | Width::B32 => {}
        }
        let opcode = if movs { 0xa4 } else { 0xaa };
        self.byte(opcode + u8::from(w != Width::B8));
    }

    /// POP [mem]; with RSP as the base, as it is afterwards.
    pub fn pop_mem(&mut self, mem: Mem) {
        self.form(Width::B32, &[0x8f], 0, &Rm::M(mem), false, false);
    }

    pub fn ret(&mut self) {
        self.byte(0xc3);
    }
}

impl From<u32> for Target {
    fn from(offset: u32) -> Self {
        Self::Fixed(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::{Alu, Asm, Mem, Rm, Section, Shift};
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
    use ir::{Cond, Width};

    fn text(f: impl FnOnce(&mut Asm)) -> Vec<String> {
        let mut asm = Asm::default();
        f(&mut asm);
        let (hot, _) = asm.link(0, 0x1000);
        let mut formatter = IntelFormatter::new();
        Decoder::with_ip(64, hot, 0, DecoderOptions::NONE)
            .into_iter()
            .map(|i| {
                let mut s = String::new();
                formatter.format(&i, &mut s);
                s
            })
            .collect()
    }

    #[test]
    fn every_base_and_index_is_encoded() {
        for base in 0..16 {
            for index in (0..16).filter(|i| *i != 4) {
                for disp in [0, 8, -300] {
                    let m = Mem {
                        base,
                        index: Some((index, 2)),
                        disp,
                        gs: false,
                    };
                    let mut asm = Asm::default();
                    asm.load(Width::B64, 9, Rm::M(m));
                    asm.alu_to(Alu::Xor, Width::B16, Rm::M(Mem::at(base, disp)), index);
                    let (hot, _) = asm.link(0, 0);
                    let all: Vec<_> = Decoder::new(64, hot, DecoderOptions::NONE)
                        .into_iter()
                        .collect();
                    assert_eq!(all.len(), 2);
                    assert_eq!(all[0].memory_base().number(), usize::from(base));
                    assert_eq!(all[0].memory_index().number(), usize::from(index));
                    assert_eq!(all[0].memory_displacement64() as i32, disp);
                    assert_eq!(all[1].memory_base().number(), usize::from(base));
                    assert_eq!(all[1].op1_register().number(), usize::from(index));
                }
            }
        }
    }

    #[test]
    fn forms_read_as_meant() {
        let got = text(|a| {
            a.alu_imm(Alu::Cmp, Width::B8, Rm::R(6), 0x7f);
            a.alu_imm(Alu::Add, Width::B64, Rm::R(12), 0x1000);
            a.shift_imm(Shift::Sar, Width::B32, Rm::R(3), 5);
            a.movzx(Width::B8, 8, Rm::R(5));
            a.movsx(Width::B64, Width::B32, 1, Rm::M(Mem::at(13, 0)));
            a.setcc(Cond::Be, Rm::R(7));
            a.mov_imm(14, u64::MAX);
            a.mov_imm(14, 0x1_0000_0000);
            a.lea_scaled(Width::B64, 14, 9, 3, -8);
            a.bit_reg(Width::B64, 4, Rm::R(10), 2);
            a.vex(Width::B64, 2, 0, 0xf2, 8, 1, Rm::R(9));
            a.three_byte(Width::B64, Some(0xf2), 0xf1, 0, Rm::R(9), false);
            a.xchg(Width::B8, 6, Rm::M(Mem::at(4, 16)));
            a.vmovups(true, true, 9, Mem::at(14, 64));
            a.vmovups(false, true, 3, Mem::at(4, 8));
            a.vmovups(false, false, 3, Mem::at(14, 8));
            a.vpor(1, Rm::M(Mem::at(14, 32)));
            a.vptest(1);
            a.evex_movups(true, 9, Mem::at(14, 0x880));
            a.evex_movups(false, 30, Mem::at(5, 0));
            a.evex_movups(false, 17, Mem::at(4, 0x4000));
            a.evex_por(1, Mem::at(14, 0xc0));
            a.kmov(true, 1, Mem::at(14, 8));
            a.kmov(false, 7, Mem::at(14, 0x1000));
        });
        assert_eq!(
            got,
            [
                "cmp sil,7Fh",
                "add r12,1000h",
                "sar ebx,5",
                "movzx r8d,bpl",
                "movsxd rcx,[r13]",
                "setbe dil",
                "mov r14,0FFFFFFFFFFFFFFFFh",
                "mov r14,100000000h",
                "lea r14,[r9*8-8]",
                "bt r10,rdx",
                "andn r8,rcx,r9",
                "crc32 rax,r9",
                "xchg [rsp+10h],sil",
                "vmovups [r14+40h],ymm9",
                "vmovups ymm3,[rsp+8]",
                "vmovups xmm3,[r14+8]",
                "vpor xmm1,xmm1,[r14+20h]",
                "vptest xmm1,xmm1",
                "vmovups [r14+880h],zmm9",
                "vmovups zmm30,[rbp]",
                "vmovups zmm17,[rsp+4000h]",
                "vpord zmm1,zmm1,[r14+0C0h]",
                "kmovq [r14+8],k1",
                "kmovq k7,[r14+1000h]",
            ]
        );
    }

    #[test]
    fn branches_find_their_targets_in_both_sections() {
        let mut asm = Asm::default();
        let (back, cold) = (asm.label(), asm.label());
        asm.bind(back);
        asm.jcc(Cond::Ne, cold);
        asm.section(Section::Cold);
        asm.bind(cold);
        asm.jmp(back);
        asm.call(0x4000);
        let (hot, cold) = asm.link(0x100, 0x2000);
        assert_eq!(hot[2..], (0x2000i32 - 0x106).to_le_bytes());
        assert_eq!(cold[1..5], (0x100i32 - 0x2005).to_le_bytes());
        assert_eq!(cold[6..], (0x4000i32 - 0x200a).to_le_bytes());
    }
}
