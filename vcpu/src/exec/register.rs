//! Register names, as `doppel exec` reads and writes them.

use std::fmt;
use std::str::FromStr;

use x86::{Seg, Segment, Shadow, TableReg};

/// A register's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// RAX to R15, by encoding.
    Gpr(u8),
    /// EAX to R15D: the low half, the rest is zero.
    Gpr32(u8),
    /// RIP.
    Rip,
    /// RIP's low half, the rest is zero.
    Eip,
    /// RFLAGS.
    Rflags,
    /// RFLAGS' low half, the rest is zero.
    Eflags,
    /// ES to GS.
    Seg(Seg),
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
    /// GDTR.
    Gdtr,
    /// IDTR.
    Idtr,
    /// CR0, CR2, CR3, CR4, CR8.
    Cr(u8),
    /// XCR0.
    Xcr0,
    /// DR0 to DR3, DR6, DR7.
    Dr(u8),
    /// IA32_EFER.
    Efer,
    /// PKRU.
    Pkru,
    /// The time-stamp counter.
    Tsc,
    /// Any other model-specific register.
    Msr(u32),
    /// The x87 control word.
    Fcw,
    /// The x87 status word.
    Fsw,
    /// FXSAVE's eight tag bits: one for each physical register that is not empty.
    Ftw,
    /// The last x87 opcode.
    Fop,
    /// The last x87 instruction's offset.
    Fip,
    /// The last x87 operand's offset.
    Fdp,
    /// MXCSR.
    Mxcsr,
    /// ST(0), the top, to ST(7).
    St(u8),
    /// MM0 to MM7.
    Mm(u8),
    /// XMM0 to XMM31.
    Xmm(u8),
    /// YMM0 to YMM31.
    Ymm(u8),
    /// ZMM0 to ZMM31.
    Zmm(u8),
    /// k0 to k7.
    K(u8),
    /// What STI or MOV SS blocks before the first instruction.
    Shadow,
}

const GPRS: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
const SEGS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// No register has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRegister;

impl Register {
    /// A number under which no other register goes, but a register's two widths go together; `None` for MSRs.
    pub(super) fn slot(self) -> Option<u32> {
        Some(match self {
            Self::Gpr(n) | Self::Gpr32(n) => u32::from(n),
            Self::Rip | Self::Eip => 16,
            Self::Rflags | Self::Eflags => 17,
            Self::Seg(seg) => 18 + seg as u32,
            Self::Ldtr => 24,
            Self::Tr => 25,
            Self::Gdtr => 26,
            Self::Idtr => 27,
            Self::Xcr0 => 28,
            Self::Efer => 29,
            Self::Pkru => 30,
            Self::Tsc => 31,
            Self::Cr(n) => 32 + u32::from(n),
            Self::Dr(n) => 48 + u32::from(n),
            Self::Fcw => 56,
            Self::Fsw => 57,
            Self::Ftw => 58,
            Self::Fop => 59,
            Self::Fip => 60,
            Self::Fdp => 61,
            Self::Mxcsr => 62,
            Self::Shadow => 63,
            Self::St(n) => 64 + u32::from(n),
            Self::Mm(n) => 72 + u32::from(n),
            Self::K(n) => 80 + u32::from(n),
            Self::Xmm(n) => 96 + u32::from(n),
            Self::Ymm(n) => 128 + u32::from(n),
            Self::Zmm(n) => 160 + u32::from(n),
            Self::Msr(_) => return None,
        })
    }

    /// Bytes of a register that is given as bytes.
    pub(super) fn bytes(self) -> Option<usize> {
        match self {
            Self::St(_) => Some(10),
            Self::Mm(_) => Some(8),
            Self::Xmm(_) => Some(16),
            Self::Ymm(_) => Some(32),
            Self::Zmm(_) => Some(64),
            _ => None,
        }
    }

    /// Bits of a register that is given as a number.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Gpr32(_) | Self::Eip | Self::Eflags | Self::Pkru | Self::Mxcsr => 32,
            Self::Fcw | Self::Fsw | Self::Fop | Self::Seg(_) => 16,
            Self::Ftw => 8,
            _ => 64,
        }
    }
}

impl FromStr for Register {
    type Err = UnknownRegister;

    fn from_str(name: &str) -> Result<Self, UnknownRegister> {
        if let Some(n) = name.strip_prefix("msr:0x") {
            let hex = !n.is_empty() && n.bytes().all(|b| b.is_ascii_hexdigit());
            return u32::from_str_radix(n, 16)
                .ok()
                .filter(|_| hex)
                .map(Self::Msr)
                .ok_or(UnknownRegister);
        }
        if name.len() == 3 && (name.starts_with('r') || name.starts_with('e')) {
            if let Some(n) = GPRS.iter().position(|g| *g == &name[1..]) {
                return Ok(if name.starts_with('r') {
                    Self::Gpr(n as u8)
                } else {
                    Self::Gpr32(n as u8)
                });
            }
        }
        if let Some(n) = SEGS
            .iter()
            .position(|s| *s == name)
            .and_then(Seg::from_index)
        {
            return Ok(Self::Seg(n));
        }
        Ok(match name {
            "rip" => Self::Rip,
            "eip" => Self::Eip,
            "rflags" => Self::Rflags,
            "eflags" => Self::Eflags,
            "ldtr" => Self::Ldtr,
            "tr" => Self::Tr,
            "gdtr" => Self::Gdtr,
            "idtr" => Self::Idtr,
            "xcr0" => Self::Xcr0,
            "efer" => Self::Efer,
            "pkru" => Self::Pkru,
            "tsc" => Self::Tsc,
            "fcw" => Self::Fcw,
            "fsw" => Self::Fsw,
            "ftw" => Self::Ftw,
            "fop" => Self::Fop,
            "fip" => Self::Fip,
            "fdp" => Self::Fdp,
            "mxcsr" => Self::Mxcsr,
            "shadow" => Self::Shadow,
            _ => return numbered(name).ok_or(UnknownRegister),
        })
    }
}

/// A name that ends in a number.
fn numbered(name: &str) -> Option<Register> {
    let (name, low) = match name.strip_suffix('d') {
        Some(name) if name.starts_with('r') => (name, true),
        _ => (name, false),
    };
    let digits = name.find(|c: char| c.is_ascii_digit())?;
    let (kind, number) = name.split_at(digits);
    if number.len() > 1 && number.starts_with('0') {
        return None;
    }
    let n: u8 = number
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| number.parse().ok())??;
    match (kind, n) {
        ("r", 8..=15) if low => Some(Register::Gpr32(n)),
        ("r", 8..=15) => Some(Register::Gpr(n)),
        ("cr", 0 | 2 | 3 | 4 | 8) => Some(Register::Cr(n)),
        ("dr", 0..=3 | 6 | 7) => Some(Register::Dr(n)),
        ("st", 0..=7) => Some(Register::St(n)),
        ("mm", 0..=7) => Some(Register::Mm(n)),
        ("xmm", 0..=31) => Some(Register::Xmm(n)),
        ("ymm", 0..=31) => Some(Register::Ymm(n)),
        ("zmm", 0..=31) => Some(Register::Zmm(n)),
        ("k", 0..=7) => Some(Register::K(n)),
        _ => None,
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Gpr(n) if n < 8 => write!(f, "r{}", GPRS[usize::from(n)]),
            Self::Gpr(n) => write!(f, "r{n}"),
            Self::Gpr32(n) if n < 8 => write!(f, "e{}", GPRS[usize::from(n)]),
            Self::Gpr32(n) => write!(f, "r{n}d"),
            Self::Rip => f.write_str("rip"),
            Self::Eip => f.write_str("eip"),
            Self::Rflags => f.write_str("rflags"),
            Self::Eflags => f.write_str("eflags"),
            Self::Seg(seg) => f.write_str(SEGS[seg as usize]),
            Self::Ldtr => f.write_str("ldtr"),
            Self::Tr => f.write_str("tr"),
            Self::Gdtr => f.write_str("gdtr"),
            Self::Idtr => f.write_str("idtr"),
            Self::Cr(n) => write!(f, "cr{n}"),
            Self::Xcr0 => f.write_str("xcr0"),
            Self::Dr(n) => write!(f, "dr{n}"),
            Self::Efer => f.write_str("efer"),
            Self::Pkru => f.write_str("pkru"),
            Self::Tsc => f.write_str("tsc"),
            Self::Msr(n) => write!(f, "msr:{n:#x}"),
            Self::Fcw => f.write_str("fcw"),
            Self::Fsw => f.write_str("fsw"),
            Self::Ftw => f.write_str("ftw"),
            Self::Fop => f.write_str("fop"),
            Self::Fip => f.write_str("fip"),
            Self::Fdp => f.write_str("fdp"),
            Self::Mxcsr => f.write_str("mxcsr"),
            Self::St(n) => write!(f, "st{n}"),
            Self::Mm(n) => write!(f, "mm{n}"),
            Self::Xmm(n) => write!(f, "xmm{n}"),
            Self::Ymm(n) => write!(f, "ymm{n}"),
            Self::Zmm(n) => write!(f, "zmm{n}"),
            Self::K(n) => write!(f, "k{n}"),
            Self::Shadow => f.write_str("shadow"),
        }
    }
}

/// A register's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of most registers; of a segment register its selector (real mode and VM86).
    Number(u64),
    /// Of x87, MMX and vector registers, little-endian.
    Bytes(Vec<u8>),
    /// Of a segment register, LDTR and TR.
    Segment(Segment),
    /// Of GDTR and IDTR.
    Table(TableReg),
    /// Of `shadow`.
    Shadow(Shadow),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(bytes: [u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<Segment> for Value {
    fn from(segment: Segment) -> Self {
        Self::Segment(segment)
    }
}

impl From<TableReg> for Value {
    fn from(table: TableReg) -> Self {
        Self::Table(table)
    }
}

impl From<Shadow> for Value {
    fn from(shadow: Shadow) -> Self {
        Self::Shadow(shadow)
    }
}

#[cfg(test)]
mod tests {
    use super::Register;
    use std::collections::HashMap;
    use x86::Seg;

    fn all() -> Vec<Register> {
        use Register as R;
        let mut all = vec![
            R::Rip,
            R::Eip,
            R::Rflags,
            R::Eflags,
            R::Ldtr,
            R::Tr,
            R::Gdtr,
            R::Idtr,
            R::Xcr0,
            R::Efer,
            R::Pkru,
            R::Tsc,
            R::Msr(0),
            R::Msr(0xc000_0081),
            R::Fcw,
            R::Fsw,
            R::Ftw,
            R::Fop,
            R::Fip,
            R::Fdp,
            R::Mxcsr,
            R::Shadow,
        ];
        all.extend((0..16).flat_map(|n| [R::Gpr(n), R::Gpr32(n)]));
        all.extend(Seg::ALL.map(R::Seg));
        all.extend([0, 2, 3, 4, 8].map(R::Cr));
        all.extend([0, 1, 2, 3, 6, 7].map(R::Dr));
        all.extend((0..8).flat_map(|n| [R::St(n), R::Mm(n), R::K(n)]));
        all.extend((0..32).flat_map(|n| [R::Xmm(n), R::Ymm(n), R::Zmm(n)]));
        all
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for register in all() {
            assert_eq!(register.to_string().parse(), Ok(register), "{register}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "r",
            "rax ",
            "RAX",
            "ax",
            "al",
            "r16",
            "r7",
            "r08",
            "r8w",
            "eaxd",
            "cr1",
            "cr5",
            "dr4",
            "st8",
            "st(0)",
            "xmm32",
            "xmm",
            "xmm01",
            "k8",
            "msr:",
            "msr:0x",
            "msr:16",
            "msr:0x100000000",
            "msr:0x+1",
            "rr8",
            "cr+0",
            "ecs",
            "r\u{e9}x",
            "\u{e9}\u{e9}\u{e9}",
        ] {
            assert!(name.parse::<Register>().is_err(), "{name}");
        }
    }

    #[test]
    fn slots_differ_but_for_a_register_s_two_widths() {
        let mut slots: HashMap<u32, Vec<Register>> = HashMap::new();
        for register in all() {
            if let Some(slot) = register.slot() {
                assert!(slot < 192);
                slots.entry(slot).or_default().push(register);
            }
        }
        for (slot, registers) in slots {
            let pair = matches!(
                registers.as_slice(),
                [_] | [Register::Gpr(_), Register::Gpr32(_)]
                    | [Register::Rip, Register::Eip]
                    | [Register::Rflags, Register::Eflags]
            );
            assert!(pair, "{slot}: {registers:?}");
        }
    }
}
