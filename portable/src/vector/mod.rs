//! MMX to SSE4.2, AES, PCLMULQDQ and SHA on operands as bytes.
//!
//! ```text
//! Code --TABLE--> Row { kernel, lengths } --execute--> dst, GPR, flags, MXCSR
//! ```
//! A kernel is a pure function on slices of lanes (`dst = f(a, b)`), whatever their number: the legacy forms here run it
//! with `a` = the old destination on 8 or 16 bytes; the VEX and EVEX forms can run the same kernels on more.
//! Loads and stores are the caller's.

mod convert;
mod crypto;
mod float;
mod integer;
mod lanes;
mod moves;
mod shuffle;
mod string;

use std::sync::LazyLock;

use iced_x86::Code;

use crate::float::Env;
use crate::float::flags::PRE;

pub use string::crc32;

/// What an instruction reads and writes. The first operand is `dst`, the second `src1`, the third `src2`; an operand of
/// kind r/m (general register or memory) is `gpr_in` or `gpr_out` instead. MMX operands are the low 8 bytes; of a memory
/// operand the low bytes that the instruction reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VecOperands {
    /// In: the destination's old value. Out: its new one.
    pub dst: [u8; 16],
    /// Second operand.
    pub src1: [u8; 16],
    /// Third operand (MASKMOVDQU's mask).
    pub src2: [u8; 16],
    /// The implicit XMM0: in for BLENDVPS and SHA256RNDS2, out for PCMPESTRM and PCMPISTRM.
    pub xmm0: [u8; 16],
    /// The source operand is in memory: MOVSS and MOVSD then clear the rest, INSERTPS takes element 0.
    pub src_is_mem: bool,
    /// Source in a general register, or of its size in memory.
    pub gpr_in: u64,
    /// Result for a general register or memory, zero-extended (PCMPxSTRI: ECX). In, for CRC32: the old value. MASKMOVQ and
    /// MASKMOVDQU: bit i set means that byte i of `dst` is to be stored.
    pub gpr_out: u64,
    /// RAX, for PCMPESTRx.
    pub rax: u64,
    /// RDX, for PCMPESTRx.
    pub rdx: u64,
    /// Immediate.
    pub imm: u8,
    /// The new CF, PF, AF, ZF, SF and OF where the instruction sets them.
    pub flags_out: Option<u32>,
}

/// Why nothing was written to the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An unmasked floating-point exception: #XM (or #UD with CR4.OSXMMEXCPT = 0). MXCSR has these flags already.
    Exception {
        /// What was raised, in MXCSR's places.
        flags: u8,
    },
    /// No instruction of this crate.
    Unknown,
}

/// `dst = f(a, b)`.
type Two = fn(&mut [u8], &[u8], &[u8]);
/// `dst = f(a, b, imm)`.
type Imm = fn(&mut [u8], &[u8], &[u8], u8);
/// The same with exceptions: returns what was raised.
type Float = fn(&Env, &mut [u8], &[u8], &[u8], u8) -> u8;
/// Works on all operands.
type Special = fn(&mut VecOperands);
/// Works on all operands with exceptions. It runs on a copy, so that an unmasked exception leaves no trace.
type SpecialFloat = fn(&Env, &mut VecOperands) -> u8;

#[derive(Clone, Copy)]
enum Kernel {
    Two(Two),
    Imm(Imm),
    Float(Float),
    /// A float kernel of several steps that has applied [`settle`] to each.
    Staged(Float),
    Special(Special),
    SpecialFloat(SpecialFloat),
}

/// How to run one instruction.
#[derive(Clone, Copy)]
struct Row {
    /// Bytes of the vector register: 8 or 16.
    len: u8,
    /// Bytes that the kernel writes.
    active: u8,
    /// The bytes beyond become zero; else they stay.
    zero_rest: bool,
    kernel: Kernel,
}

/// Rows by code.
struct Table(Vec<Option<Row>>);

impl Table {
    fn put(&mut self, code: Code, row: Row) {
        let slot = &mut self.0[code as usize];
        debug_assert!(slot.is_none(), "{code:?} stands twice in the table");
        *slot = Some(row);
    }

    /// A whole MMX register.
    fn mm(&mut self, code: Code, kernel: Kernel) {
        self.put(
            code,
            Row {
                len: 8,
                active: 8,
                zero_rest: false,
                kernel,
            },
        );
    }

    /// A whole XMM register.
    fn xmm(&mut self, code: Code, kernel: Kernel) {
        self.put(
            code,
            Row {
                len: 16,
                active: 16,
                zero_rest: false,
                kernel,
            },
        );
    }

    /// The low `active` bytes of an XMM register.
    fn low(&mut self, code: Code, active: u8, kernel: Kernel) {
        self.put(
            code,
            Row {
                len: 16,
                active,
                zero_rest: false,
                kernel,
            },
        );
    }

    /// The same, the rest becomes zero.
    fn low_zero(&mut self, code: Code, active: u8, kernel: Kernel) {
        self.put(
            code,
            Row {
                len: 16,
                active,
                zero_rest: true,
                kernel,
            },
        );
    }

    /// MMX and XMM forms of one operation.
    fn both(&mut self, mm: Code, xmm: Code, kernel: Kernel) {
        self.mm(mm, kernel);
        self.xmm(xmm, kernel);
    }
}

static TABLE: LazyLock<Vec<Option<Row>>> = LazyLock::new(|| {
    let mut table = Table(vec![None; Code::values().count()]);
    integer::rows(&mut table);
    shuffle::rows(&mut table);
    moves::rows(&mut table);
    float::rows(&mut table);
    convert::rows(&mut table);
    string::rows(&mut table);
    crypto::rows(&mut table);
    table.0
});

/// Whether [`execute`] knows the instruction.
pub fn covers(code: Code) -> bool {
    TABLE[code as usize].is_some()
}

/// Runs one instruction. MXCSR's sticky flags are updated in any case.
///
/// # Errors
/// [`Fault::Exception`] for an unmasked exception, [`Fault::Unknown`] for an instruction that isn't [`covers`]ed; the
/// operands are unchanged then.
pub fn execute(code: Code, ops: &mut VecOperands, mxcsr: &mut u32) -> Result<(), Fault> {
    let Some(row) = &TABLE[code as usize] else {
        return Err(Fault::Unknown);
    };
    let (len, active) = (usize::from(row.len), usize::from(row.active));
    let old = ops.dst;
    match row.kernel {
        Kernel::Two(f) => f(&mut ops.dst[..active], &old[..len], &ops.src1[..len]),
        Kernel::Imm(f) => f(
            &mut ops.dst[..active],
            &old[..len],
            &ops.src1[..len],
            ops.imm,
        ),
        Kernel::Special(f) => f(ops),
        Kernel::Float(f) | Kernel::Staged(f) => {
            let env = Env::from_mxcsr(*mxcsr);
            let mut new = old;
            let raised = f(
                &env,
                &mut new[..active],
                &old[..len],
                &ops.src1[..len],
                ops.imm,
            );
            let staged = matches!(row.kernel, Kernel::Staged(_));
            report(
                &env,
                if staged { raised } else { settle(&env, raised) },
                mxcsr,
            )?;
            ops.dst = new;
        }
        Kernel::SpecialFloat(f) => {
            let env = Env::from_mxcsr(*mxcsr);
            let mut new = ops.clone();
            let raised = f(&env, &mut new);
            report(&env, settle(&env, raised), mxcsr)?;
            *ops = new;
        }
    }
    if row.zero_rest {
        ops.dst[active..len].fill(0);
    }
    Ok(())
}

/// Exceptions found before the computation, if one of them is unmasked, keep the computation in all lanes from taking
/// place (SDM 1, 11.5.2): those found after it aren't reported then.
fn settle(env: &Env, raised: u8) -> u8 {
    if env.masked(raised & PRE) {
        raised
    } else {
        raised & PRE
    }
}

/// Makes what was raised sticky.
fn report(env: &Env, flags: u8, mxcsr: &mut u32) -> Result<(), Fault> {
    *mxcsr |= u32::from(flags);
    if env.masked(flags) {
        Ok(())
    } else {
        Err(Fault::Exception { flags })
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{CpuidFeature, EncodingKind, OpCodeOperandKind};

    use super::*;

    /// Instructions with an MMX or XMM operand in the extensions that this crate is to cover.
    fn wanted(code: Code) -> bool {
        use CpuidFeature as F;
        let vector = code.op_code().op_kinds().iter().any(|kind| {
            use OpCodeOperandKind as K;
            matches!(
                kind,
                K::mm_reg | K::mm_rm | K::mm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_or_mem
            )
        });
        let extension = |f: &F| {
            matches!(
                f,
                F::MMX
                    | F::SSE
                    | F::SSE2
                    | F::SSE3
                    | F::SSSE3
                    | F::SSE4_1
                    | F::SSE4_2
                    | F::AES
                    | F::PCLMULQDQ
                    | F::SHA
            )
        };
        code.op_code().encoding() == EncodingKind::Legacy
            && vector
            && code.cpuid_features().iter().all(extension)
    }

    #[test]
    fn every_wanted_instruction_is_there() {
        let missing: Vec<Code> = Code::values()
            .filter(|&code| wanted(code) && !covers(code))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn an_unmasked_exception_writes_nothing() {
        let mut ops = VecOperands {
            dst: [0x55; 16],
            ..VecOperands::default()
        };
        let before = ops.clone();
        let mut mxcsr = 0x1F80 & !(4 << 7);
        let fault = execute(Code::Divps_xmm_xmmm128, &mut ops, &mut mxcsr);
        assert_eq!(fault, Err(Fault::Exception { flags: 4 }));
        assert_eq!(ops, before);
        assert_eq!(mxcsr & 0x3F, 4);
    }
}
