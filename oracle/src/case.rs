//! A case (an instruction and the state before it), an outcome (the state after it), and their text form.

use std::fmt::Write;

use crate::layout::{self, ARENA, sel};

/// The FXSAVE image in which x87 and SSE state go to and from the host CPU (SDM vol. 1, 10.5.1, 64-bit form).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Fx(pub [u8; 512]);

impl Fx {
    /// After FNINIT and with MXCSR's reset value, all registers zero.
    pub const INIT: Self = {
        let mut bytes = [0; 512];
        (bytes[0], bytes[1]) = (0x7f, 3);
        (bytes[24], bytes[25]) = (0x80, 0x1f);
        Self(bytes)
    };

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Control word.
    pub fn fcw(&self) -> u16 {
        self.word(0)
    }

    /// Sets the control word.
    pub fn set_fcw(&mut self, value: u16) {
        self.set_word(0, value);
    }

    /// Status word.
    pub fn fsw(&self) -> u16 {
        self.word(2)
    }

    /// Sets the status word.
    pub fn set_fsw(&mut self, value: u16) {
        self.set_word(2, value);
    }

    /// One bit a physical register that is not empty.
    pub fn ftw(&self) -> u8 {
        self.0[4]
    }

    /// Sets the tag byte.
    pub fn set_ftw(&mut self, value: u8) {
        self.0[4] = value;
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.0[24], self.0[25], self.0[26], self.0[27]])
    }

    /// Sets MXCSR.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.0[24..28].copy_from_slice(&value.to_le_bytes());
    }

    /// ST(i), ten bytes.
    pub fn st(&self, i: usize) -> &[u8] {
        &self.0[32 + i * 16..42 + i * 16]
    }

    /// The physical register Rn, ten bytes.
    pub fn physical(&self, n: usize) -> &[u8] {
        self.st((n + 8 - usize::from(self.fsw() >> 11 & 7)) & 7)
    }

    /// The status word's summary as the control word has it: FXRSTOR sets it so.
    pub fn summarise(&mut self) {
        let pending = self.fsw() & !self.fcw() & 0x3f != 0;
        self.set_fsw(self.fsw() & 0x7f7f | if pending { 0x8080 } else { 0 });
    }

    /// ST(i), to be written.
    pub fn st_mut(&mut self, i: usize) -> &mut [u8] {
        &mut self.0[32 + i * 16..42 + i * 16]
    }

    /// XMMn.
    pub fn xmm(&self, n: usize) -> &[u8] {
        &self.0[160 + n * 16..176 + n * 16]
    }

    /// XMMn, to be written.
    pub fn xmm_mut(&mut self, n: usize) -> &mut [u8] {
        &mut self.0[160 + n * 16..176 + n * 16]
    }
}

/// The upper halves of YMM0-15.
pub type Uppers = [[u8; 16]; 16];

/// What AVX-512 adds to the registers. Plain data.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Wide {
    /// ZMM16-31.
    pub high: [[u8; 64]; 16],
    /// The upper halves of ZMM0-15.
    pub uppers: [[u8; 32]; 16],
    /// k0-k7.
    pub k: [u64; 8],
}

impl Wide {
    /// All zero.
    pub const INIT: Self = Self {
        high: [[0; 64]; 16],
        uppers: [[0; 32]; 16],
        k: [0; 8],
    };
}

/// Bytes that a case lays into the arena.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Patch {
    /// Offset in the arena.
    pub at: u16,
    /// Bytes.
    pub len: u16,
    /// Where they lie in [`Case::data`].
    pub from: u16,
}

/// Bytes for all patches of a case.
pub const DATA: usize = 976;
/// Instruction bytes of a case at most: one instruction, or a few.
pub const CODE_BYTES: usize = 48;

/// One instruction and the state before it. Plain data: it goes to the child through shared memory.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Case {
    /// x87, MXCSR, XMM.
    pub fx: Fx,
    /// What YMM registers have beyond XMM.
    pub uppers: Uppers,
    /// What AVX-512 adds.
    pub wide: Wide,
    /// General registers by encoding.
    pub gpr: [u64; 16],
    /// Offset of the instruction in its code segment.
    pub ip: u64,
    /// RFLAGS: status flags, DF, ID and NT are free, IF and bit 1 set.
    pub rflags: u64,
    /// FS.base, in 64-bit code.
    pub fs_base: u64,
    /// GS.base, in 64-bit code.
    pub gs_base: u64,
    /// Selectors: ES, CS, SS, DS, FS, GS.
    pub seg: [u16; 6],
    /// 16, 32 or 64.
    pub bits: u8,
    /// Bytes of code.
    pub len: u8,
    /// Patches in use.
    pub patches: u8,
    /// The instruction, or a few.
    pub code: [u8; CODE_BYTES],
    /// Where the arena differs from its template.
    pub patch: [Patch; 4],
    /// What is laid there.
    pub data: [u8; DATA],
}

/// Flags that a case always has: IF, and the bit that is always one.
pub const FIXED_FLAGS: u64 = 0x202;

impl Case {
    /// Instruction bytes in code of this width, everything else zero or initial.
    pub fn new(bits: u8, bytes: &[u8]) -> Self {
        let data = if bits == 64 { 0 } else { sel::DATA };
        let cs = match bits {
            64 => sel::CODE64,
            32 => sel::CODE32,
            _ => sel::CODE16,
        };
        let other = if bits == 64 { 0 } else { data };
        let mut code = [0; CODE_BYTES];
        let len = bytes.len().min(CODE_BYTES);
        code[..len].copy_from_slice(&bytes[..len]);
        let mut case = Self {
            fx: Fx::INIT,
            uppers: [[0; 16]; 16],
            wide: Wide::INIT,
            gpr: [0; 16],
            ip: 0,
            rflags: FIXED_FLAGS,
            fs_base: 0,
            gs_base: 0,
            seg: [other, cs, sel::DATA, other, 0, 0],
            bits,
            len: len as u8,
            patches: 0,
            code,
            patch: [Patch::default(); 4],
            data: [0; DATA],
        };
        case.ip = layout::CODE[0].wrapping_sub(case.code_base()) + 0x800;
        case.gpr[4] = layout::ALIASES[1] + 0x1000;
        case
    }

    /// The instruction.
    pub fn bytes(&self) -> &[u8] {
        &self.code[..self.len.into()]
    }

    /// CS.base.
    pub fn code_base(&self) -> u64 {
        if self.bits == 64 {
            0
        } else {
            layout::segment(self.seg[1]).base
        }
    }

    /// Linear address of the instruction.
    pub fn lin(&self) -> u64 {
        self.code_base().wrapping_add(self.ip)
    }

    /// Offset of the instruction in the code region.
    pub fn code_offset(&self) -> u64 {
        let lin = self.lin();
        layout::CODE
            .iter()
            .map(|base| lin.wrapping_sub(*base))
            .find(|at| *at < layout::CODE_LEN)
            .unwrap_or(0)
    }

    /// IP behind the instruction.
    pub fn next_ip(&self) -> u64 {
        let next = self.ip + u64::from(self.len);
        if self.bits == 16 { next & 0xffff } else { next }
    }

    /// The general registers that code of this width has.
    pub fn registers(&self) -> usize {
        if self.bits == 64 { 16 } else { 8 }
    }

    /// Lays bytes into the arena, as far as they fit into it and into the case.
    pub fn lay(&mut self, at: usize, bytes: &[u8]) {
        let used = self.patch[..self.patches.into()]
            .iter()
            .map(|p| usize::from(p.from + p.len))
            .max()
            .unwrap_or(0);
        let len = bytes.len().min(ARENA.saturating_sub(at)).min(DATA - used);
        if len == 0 || usize::from(self.patches) == self.patch.len() {
            return;
        }
        self.data[used..used + len].copy_from_slice(&bytes[..len]);
        self.patch[usize::from(self.patches)] = Patch {
            at: at as u16,
            len: len as u16,
            from: used as u16,
        };
        self.patches += 1;
    }

    /// The patches as offsets in the arena and bytes, in the order in which they are laid.
    pub fn laid(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.patch[..self.patches.into()].iter().map(|p| {
            (
                usize::from(p.at),
                &self.data[usize::from(p.from)..usize::from(p.from + p.len)],
            )
        })
    }

    /// Bytes of the arena as they are when the instruction begins.
    pub fn peek(&self, template: &[u8], at: usize, out: &mut [u8]) {
        for (n, byte) in out.iter_mut().enumerate() {
            *byte = template.get(at + n).copied().unwrap_or(0);
            for (start, bytes) in self.laid() {
                if let Some(b) = (at + n).checked_sub(start).and_then(|i| bytes.get(i)) {
                    *byte = *b;
                }
            }
        }
    }
}

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Ending {
    /// It was not run: the child died before.
    #[default]
    NotRun,
    /// It ran.
    Done,
    /// The child died or hung over it.
    Lost,
}

/// No vector: the instruction completed.
pub const NO_FAULT: u32 = u32::MAX;

/// One aligned quadword of the arena that the instruction changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Change {
    /// Offset in the arena divided by 8.
    pub word: u64,
    /// The new value.
    pub value: u64,
}

/// The state after a case. Plain data.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Outcome {
    /// x87, MXCSR, XMM.
    pub fx: Fx,
    /// What YMM registers have beyond XMM.
    pub uppers: Uppers,
    /// What AVX-512 adds.
    pub wide: Wide,
    /// General registers.
    pub gpr: [u64; 16],
    /// Offset of the next instruction, or of the one that faulted.
    pub ip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// FS.base.
    pub fs_base: u64,
    /// GS.base.
    pub gs_base: u64,
    /// Selectors: ES, CS, SS, DS, FS, GS.
    pub seg: [u16; 6],
    /// Vector of the exception, or [`NO_FAULT`].
    pub vector: u32,
    /// Its error code, or 0.
    pub error: u32,
    /// For #PF: the linear address.
    pub cr2: u64,
    /// What became of the case.
    pub ending: Ending,
    /// How many quadwords changed; they are beside the outcome.
    pub changes: u32,
}

impl Outcome {
    /// An outcome of a case that was not run.
    pub const NONE: Self = Self {
        fx: Fx::INIT,
        uppers: [[0; 16]; 16],
        wide: Wide::INIT,
        gpr: [0; 16],
        ip: 0,
        rflags: 0,
        fs_base: 0,
        gs_base: 0,
        seg: [0; 6],
        vector: NO_FAULT,
        error: 0,
        cr2: 0,
        ending: Ending::NotRun,
        changes: 0,
    };
}

/// An outcome with the memory that changed.
#[derive(Clone, Copy)]
pub struct Result<'a> {
    /// Registers and fault.
    pub out: &'a Outcome,
    /// Changed quadwords, ascending.
    pub changes: &'a [Change],
}

/// Names of the general registers.
pub const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
/// Names of the segment registers.
pub const SEG: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok())
        .collect()
}

impl Case {
    /// The case in one line: the code's width and bytes, then what differs from [`Case::new`].
    pub fn text(&self) -> String {
        let plain = Self::new(self.bits, self.bytes());
        let mut text = format!("{} {}", self.bits, hex(self.bytes()));
        let mut put = |name: &str, value: u64, usual: u64| {
            if value != usual {
                let _ = write!(text, " {name}={value:x}");
            }
        };
        for (n, name) in SEG.iter().enumerate() {
            put(name, self.seg[n].into(), plain.seg[n].into());
        }
        put("ip", self.ip, plain.ip);
        for (n, name) in GPR.iter().enumerate() {
            put(name, self.gpr[n], plain.gpr[n]);
        }
        put("rflags", self.rflags, plain.rflags);
        for (n, k) in self.wide.k.iter().enumerate() {
            put(&format!("k{n}"), *k, 0);
        }
        put("fsbase", self.fs_base, 0);
        put("gsbase", self.gs_base, 0);
        put("mxcsr", self.fx.mxcsr().into(), plain.fx.mxcsr().into());
        put("fcw", self.fx.fcw().into(), plain.fx.fcw().into());
        put("fsw", self.fx.fsw().into(), 0);
        put("ftw", self.fx.ftw().into(), 0);
        for i in 0..8 {
            if self.fx.st(i).iter().any(|b| *b != 0) {
                let _ = write!(text, " st{i}={}", hex(self.fx.st(i)));
            }
        }
        for n in 0..16 {
            if self.fx.xmm(n).iter().any(|b| *b != 0) {
                let _ = write!(text, " xmm{n}={}", hex(self.fx.xmm(n)));
            }
            if self.uppers[n] != [0; 16] {
                let _ = write!(text, " upper{n}={}", hex(&self.uppers[n]));
            }
            if self.wide.uppers[n] != [0; 32] {
                let _ = write!(text, " zupper{n}={}", hex(&self.wide.uppers[n]));
            }
        }
        for n in 0..16 {
            if self.wide.high[n] != [0; 64] {
                let _ = write!(text, " zmm{}={}", n + 16, hex(&self.wide.high[n]));
            }
        }
        for (at, bytes) in self.laid() {
            let _ = write!(text, " m{at:x}={}", hex(bytes));
        }
        text
    }

    /// Reads [`Case::text`].
    pub fn parse(line: &str) -> std::result::Result<Self, String> {
        let mut words = line.split_whitespace();
        let bits = match words.next() {
            Some("64") => 64,
            Some("32") => 32,
            Some("16") => 16,
            other => return Err(format!("the code's width is 16, 32 or 64, not {other:?}")),
        };
        let bytes = words
            .next()
            .and_then(unhex)
            .filter(|b| (1..=CODE_BYTES).contains(&b.len()));
        let mut case = Self::new(bits, &bytes.ok_or("no instruction bytes")?);
        let mut ip = None;
        for word in words {
            let bad = || format!("not understood: {word}");
            let (name, value) = word.split_once('=').ok_or_else(bad)?;
            let number = || u64::from_str_radix(value, 16).map_err(|_| bad());
            let bytes = |len: usize| unhex(value).filter(|b| b.len() == len).ok_or_else(bad);
            if let Some(n) = GPR.iter().position(|r| *r == name) {
                case.gpr[n] = number()?;
            } else if let Some(n) = SEG.iter().position(|r| *r == name) {
                case.seg[n] = number()? as u16;
            } else if let Some(n) = name
                .strip_prefix("xmm")
                .and_then(|n| n.parse().ok())
                .filter(|n| *n < 16)
            {
                case.fx.xmm_mut(n).copy_from_slice(&bytes(16)?);
            } else if let Some(n) = name
                .strip_prefix("upper")
                .and_then(|n| n.parse::<usize>().ok())
                .filter(|n| *n < 16)
            {
                let upper: &mut [u8; 16] = &mut case.uppers[n];
                upper.copy_from_slice(&bytes(16)?);
            } else if let Some(n) = name
                .strip_prefix("zupper")
                .and_then(|n| n.parse::<usize>().ok())
                .filter(|n| *n < 16)
            {
                case.wide.uppers[n].copy_from_slice(&bytes(32)?);
            } else if let Some(n) = name
                .strip_prefix("zmm")
                .and_then(|n| n.parse::<usize>().ok())
                .filter(|n| (16..32).contains(n))
            {
                case.wide.high[n - 16].copy_from_slice(&bytes(64)?);
            } else if let Some(n) = name
                .strip_prefix('k')
                .and_then(|n| n.parse::<usize>().ok())
                .filter(|n| *n < 8)
            {
                case.wide.k[n] = number()?;
            } else if let Some(n) = name
                .strip_prefix("st")
                .and_then(|n| n.parse().ok())
                .filter(|n| *n < 8)
            {
                case.fx.st_mut(n).copy_from_slice(&bytes(10)?);
            } else if let Some(at) = name
                .strip_prefix('m')
                .and_then(|n| usize::from_str_radix(n, 16).ok())
            {
                case.lay(at, &unhex(value).ok_or_else(bad)?);
            } else {
                match name {
                    "ip" => ip = Some(number()?),
                    "rflags" => case.rflags = number()?,
                    "fsbase" => case.fs_base = number()?,
                    "gsbase" => case.gs_base = number()?,
                    "mxcsr" => case.fx.set_mxcsr(number()? as u32),
                    "fcw" => case.fx.set_fcw(number()? as u16),
                    "fsw" => case.fx.set_fsw(number()? as u16),
                    "ftw" => case.fx.set_ftw(number()? as u8),
                    _ => return Err(bad()),
                }
            }
        }
        if let Some(ip) = ip {
            case.ip = ip;
        }
        Ok(case)
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, Fx};

    #[test]
    fn text_comes_back() {
        let mut case = Case::new(32, &[0x01, 0xd8]);
        case.gpr[3] = 0x1234;
        case.rflags |= 1;
        case.fx.xmm_mut(3)[5] = 7;
        case.fx.st_mut(1)[9] = 0x40;
        case.fx.set_mxcsr(0x1fa0);
        case.lay(0x123, &[1, 2, 3]);
        case.lay(0x2fff, &[4, 5]);
        let text = case.text();
        let again = Case::parse(&text).expect("it was just written");
        assert_eq!(again.text(), text);
        assert!(again == case);
        assert_eq!(case.laid().count(), 2);
        let mut bytes = [0; 3];
        case.peek(&vec![9; 0x3000], 0x124, &mut bytes);
        assert_eq!(bytes, [2, 3, 9]);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "63 90",
            "64",
            "64 9",
            "64 90 rax",
            "64 90 rax=zz",
            "64 90 xmm3=00",
            "64 90 foo=1",
        ] {
            assert!(Case::parse(line).is_err(), "{line}");
        }
        assert_eq!(Fx::INIT.fcw(), 0x37f);
        assert_eq!(Fx::INIT.mxcsr(), 0x1f80);
    }
}
