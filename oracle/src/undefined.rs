//! What an instruction leaves undefined, and so is not compared: a table with the SDM's words.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};
use x86::flags::{AF, CF, OF, PF, SF, STATUS, ZF};

use crate::Case;
use crate::generate::value;

/// One row: instructions, the flags they leave undefined, and when.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Instructions.
    pub mnemonics: &'static [M],
    /// Flags.
    pub flags: u64,
    /// When, as SDM vol. 2 has it.
    pub reason: &'static str,
}

/// Flags that are undefined whatever the operands.
pub const ALWAYS: &[Row] = &[
    Row {
        mnemonics: &[M::Aaa, M::Aas],
        flags: OF | SF | ZF | PF,
        reason: "OF, SF, ZF, PF undefined",
    },
    Row {
        mnemonics: &[M::Aad, M::Aam],
        flags: OF | AF | CF,
        reason: "OF, AF, CF undefined",
    },
    Row {
        mnemonics: &[M::Daa, M::Das],
        flags: OF,
        reason: "OF undefined",
    },
    Row {
        mnemonics: &[
            M::And,
            M::Or,
            M::Xor,
            M::Test,
            M::Andn,
            M::Blsi,
            M::Blsmsk,
            M::Blsr,
            M::Bzhi,
        ],
        flags: AF,
        reason: "AF undefined",
    },
    Row {
        mnemonics: &[M::Andn, M::Blsi, M::Blsmsk, M::Blsr, M::Bzhi],
        flags: PF,
        reason: "PF undefined",
    },
    Row {
        mnemonics: &[M::Bextr],
        flags: AF | SF | PF,
        reason: "AF, SF, PF undefined",
    },
    Row {
        mnemonics: &[M::Bsf, M::Bsr],
        flags: CF | OF | SF | AF | PF,
        reason: "all but ZF undefined",
    },
    Row {
        mnemonics: &[M::Tzcnt, M::Lzcnt],
        flags: OF | SF | AF | PF,
        reason: "all but CF, ZF undefined",
    },
    Row {
        mnemonics: &[M::Bt, M::Bts, M::Btr, M::Btc],
        flags: OF | SF | AF | PF,
        reason: "OF, SF, AF, PF undefined",
    },
    Row {
        mnemonics: &[M::Div, M::Idiv],
        flags: STATUS,
        reason: "all undefined",
    },
    Row {
        mnemonics: &[M::Mul, M::Imul],
        flags: SF | ZF | AF | PF,
        reason: "SF, ZF, AF, PF undefined",
    },
];

/// Shifts and rotates: undefined flags depend on the count.
pub const BY_COUNT: &[Row] = &[
    Row {
        mnemonics: &[M::Shl, M::Sal, M::Shr, M::Sar, M::Shld, M::Shrd],
        flags: AF,
        reason: "AF undefined unless the count is 0",
    },
    Row {
        mnemonics: &[
            M::Shl,
            M::Sal,
            M::Shr,
            M::Shld,
            M::Shrd,
            M::Rol,
            M::Ror,
            M::Rcl,
            M::Rcr,
        ],
        flags: OF,
        reason: "OF undefined for counts above 1",
    },
    Row {
        mnemonics: &[M::Shl, M::Sal, M::Shr],
        flags: CF,
        reason: "CF undefined where the count reaches the operand's size",
    },
    Row {
        mnemonics: &[M::Shld, M::Shrd],
        flags: STATUS,
        reason: "result and flags undefined where the count exceeds the operand's size",
    },
];

/// What of an instruction's outcome is not compared.
#[derive(Clone, Debug, Default)]
pub struct Undefined {
    /// Flags.
    pub flags: u64,
    /// The destination, as [`Register`] or, for memory, as length.
    pub destination: Option<Destination>,
    /// Ranges of bytes from the memory operand's first.
    pub image: &'static [(usize, usize)],
    /// XMM registers hold binary32s within 1.5 * 2^-12.
    pub approximate: bool,
    /// x87 results within one unit in the last place, C1 left out.
    pub transcendental: bool,
    /// C1 of the x87 status word.
    pub c1: bool,
}

/// A destination whose value is undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A register.
    Register(Register),
    /// Bytes at the memory operand.
    Memory(usize),
}

/// What else is not compared, in words.
pub const OTHERS: &[&str] = &[
    "SHLD and SHRD of 16 bits by more than 16: the result",
    "FXSAVE and XSAVE images: FOP, FIP, FDP, MXCSR_MASK (AMD's has bit 17), bytes 464 to 511",
    "FSTENV and FSAVE images: FOP, FIP, FDP",
    "RCPPS, RCPSS, RSQRTPS, RSQRTSS: each within 1.5 * 2^-12 of the truth, so within twice that of one another; a \
     reciprocal next to the smallest normal number, 2^-126, may be zero",
    "F2XM1, FYL2X, FYL2XP1, FPATAN, FPTAN, FSIN, FCOS, FSINCOS: within one unit in the last place; C1",
    "alignment checks (RFLAGS.AC) are compared where the engine has them: not in x87, MMX and SSE instructions, state \
     images, far transfers, ENTER, LEAVE, IRET, PUSHA, POPA, BOUND, ARPL, CMPXCHG8B, LDS and its kin",
    "FCOMI and its kin: C1, which Intel's CPUs clear and AMD's leave",
];

/// FXSAVE, XSAVE: FOP, FIP, FDP; MXCSR_MASK (AMD's has bit 17); the bytes left to software.
const FX_IMAGE: &[(usize, usize)] = &[(6, 24), (28, 32), (464, 512)];
const ENV28: &[(usize, usize)] = &[(12, 28)];
const ENV14: &[(usize, usize)] = &[(6, 14)];

fn count(insn: &Instruction, case: &Case) -> Option<(u64, u64)> {
    let n = insn.op_count() - 1;
    let size = match insn.op0_kind() {
        OpKind::Register => insn.op0_register().size(),
        _ => insn.memory_size().size(),
    } as u64;
    let raw = match insn.op_kind(n) {
        OpKind::Register => value(case, insn.op_register(n)),
        _ => insn.immediate8().into(),
    };
    Some((raw & if size == 8 { 63 } else { 31 }, size * 8))
}

/// What an instruction leaves undefined in this case.
pub fn undefined(insn: &Instruction, case: &Case) -> Undefined {
    let mnemonic = insn.mnemonic();
    let mut u = Undefined::default();
    for row in ALWAYS
        .iter()
        .filter(|row| row.mnemonics.contains(&mnemonic))
    {
        u.flags |= row.flags;
    }
    match mnemonic {
        M::Aam | M::Aad | M::Bsf | M::Bsr => {}
        M::Shl
        | M::Sal
        | M::Shr
        | M::Sar
        | M::Rol
        | M::Ror
        | M::Rcl
        | M::Rcr
        | M::Shld
        | M::Shrd => {
            let (count, size) = count(insn, case).unwrap_or((0, 64));
            for (n, row) in BY_COUNT
                .iter()
                .enumerate()
                .filter(|(_, row)| row.mnemonics.contains(&mnemonic))
            {
                let applies = match n {
                    0 => count != 0,
                    1 => count > 1,
                    2 => count >= size,
                    _ => count > size,
                };
                u.flags |= if applies { row.flags } else { 0 };
                if n == 3 && applies {
                    u.destination = Some(match insn.op0_kind() {
                        OpKind::Register => Destination::Register(insn.op0_register()),
                        _ => Destination::Memory(insn.memory_size().size()),
                    });
                }
            }
        }
        M::Fxsave
        | M::Fxsave64
        | M::Xsave
        | M::Xsave64
        | M::Xsavec
        | M::Xsavec64
        | M::Xsaveopt
        | M::Xsaveopt64 => u.image = FX_IMAGE,
        M::Fnstenv | M::Fnsave | M::Fstenv | M::Fsave => {
            u.image = if matches!(insn.memory_size().size(), 14 | 94) {
                ENV14
            } else {
                ENV28
            };
        }
        M::Rcpps
        | M::Rcpss
        | M::Rsqrtps
        | M::Rsqrtss
        | M::Vrcpps
        | M::Vrcpss
        | M::Vrsqrtps
        | M::Vrsqrtss => u.approximate = true,
        M::F2xm1
        | M::Fyl2x
        | M::Fyl2xp1
        | M::Fpatan
        | M::Fptan
        | M::Fsin
        | M::Fcos
        | M::Fsincos => {
            u.transcendental = true;
        }
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => u.c1 = true,
        _ => {}
    }
    u
}
