//! MMX to SSE4.2, AVX, AVX2, FMA, F16C, AES, PCLMULQDQ, SHA and GFNI on operands as bytes.
//!
//! ```text
//! Code --TABLE--> Row { kernel, lengths } --execute--> dst, GPR, flags, MXCSR
//! ```
//! A kernel is a pure function on slices of lanes (`dst = f(a, b)`), whatever their number: the legacy forms run it with
//! `a` = the old destination on 8 or 16 bytes; most VEX forms run the same kernels with `a` = their first source on 16 or
//! 32 bytes (`vex.rs` finds which). Loads and stores are the caller's.

mod convert;
mod crypto;
mod evex;
mod float;
mod fma;
mod gfni;
mod integer;
mod lanes;
mod moves;
mod permute;
mod shuffle;
mod string;
mod vex;

use std::sync::LazyLock;

use iced_x86::Code;

use crate::float::Env;
use crate::float::flags::PRE;

pub use evex::{Evex, Static, covers_evex, execute_evex};
pub use string::crc32;

/// Bytes of the widest vector register.
pub const BYTES: usize = 64;

/// A vector register as bytes, lowest first.
pub type Vector = [u8; BYTES];

/// What an instruction reads and writes. The first operand is `dst`, then come `src1`, `src2`, `src3`; an operand of
/// kind r/m (general register or memory) is `gpr_in` or `gpr_out` instead, but keeps its place. MMX operands are the low
/// 8 bytes; of a memory operand the low bytes that the instruction reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VecOperands {
    /// In: the destination's old value. Out: its new one, the bytes beyond the instruction's vector length included: legacy
    /// forms leave them, VEX forms clear them.
    pub dst: Vector,
    /// Second operand.
    pub src1: Vector,
    /// Third operand (MASKMOVDQU's mask).
    pub src2: Vector,
    /// Fourth operand (the VEX blends' mask).
    pub src3: Vector,
    /// The implicit XMM0: in for BLENDVPS and SHA256RNDS2, out for PCMPESTRM and PCMPISTRM.
    pub xmm0: Vector,
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
    /// Mask registers among the second and third operands.
    pub k_src: [u64; 2],
    /// The mask register that is the first operand. In: what KORTEST and KTEST read. Out: its new value.
    pub k_dst: u64,
    /// The opmask, all ones if there is none: [`execute_evex`] tells its kernels.
    pub mask: u64,
    /// Bytes of the instruction's vectors: [`execute`] tells its kernels.
    pub len: usize,
    /// Bytes that the kernel writes.
    pub active: usize,
}

impl Default for VecOperands {
    fn default() -> Self {
        Self {
            dst: [0; BYTES],
            src1: [0; BYTES],
            src2: [0; BYTES],
            src3: [0; BYTES],
            xmm0: [0; BYTES],
            src_is_mem: false,
            gpr_in: 0,
            gpr_out: 0,
            rax: 0,
            rdx: 0,
            imm: 0,
            flags_out: None,
            k_src: [0; 2],
            k_dst: 0,
            mask: u64::MAX,
            len: 0,
            active: 0,
        }
    }
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

/// How an encoding relates to the operands that kernels know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Two operands; what is beyond the vector stays.
    Legacy,
    /// The operands as they are; what is beyond the vector becomes zero.
    Vex,
    /// A destination of its own: the kernel's old destination is the first source, and so on.
    VexOwn,
    /// The first operand is not written.
    VexReads,
}

/// How to run one instruction.
#[derive(Clone, Copy)]
struct Row {
    /// Bytes of the vector register: 8, 16, 32.
    len: u8,
    /// Bytes that the kernel writes.
    active: u8,
    /// The bytes beyond become zero; else they stay.
    zero_rest: bool,
    form: Form,
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
                form: Form::Legacy,
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
                form: Form::Legacy,
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
                form: Form::Legacy,
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
                form: Form::Legacy,
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
    gfni::rows(&mut table);
    fma::rows(&mut table);
    permute::rows(&mut table);
    vex::derive(&mut table);
    evex::mask_rows(&mut table);
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
    if row.form == Form::Legacy {
        return run(row, ops, mxcsr);
    }
    let mut new = ops.clone();
    if row.form == Form::VexOwn {
        new.dst = ops.src1;
        new.src1 = ops.src2;
        new.xmm0 = ops.src3;
    }
    run(row, &mut new, mxcsr)?;
    let beyond = usize::from(row.len);
    if row.form == Form::VexReads {
        new.dst = ops.dst;
    } else {
        new.dst[beyond..].fill(0);
    }
    if row.form == Form::VexOwn {
        new.xmm0 = ops.xmm0;
    } else {
        // The implicit destination of VPCMPxSTRM.
        new.xmm0[beyond..].fill(0);
    }
    (new.src1, new.src2) = (ops.src1, ops.src2);
    *ops = new;
    Ok(())
}

/// Runs the row's kernel on the operands as kernels know them.
fn run(row: &Row, ops: &mut VecOperands, mxcsr: &mut u32) -> Result<(), Fault> {
    let (len, active) = (usize::from(row.len), usize::from(row.active));
    (ops.len, ops.active) = (len, active);
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
                K::mm_reg
                    | K::mm_rm
                    | K::mm_or_mem
                    | K::xmm_reg
                    | K::xmm_rm
                    | K::xmm_or_mem
                    | K::ymm_reg
                    | K::ymm_rm
                    | K::ymm_or_mem
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
                    | F::GFNI
                    | F::AVX
                    | F::AVX2
                    | F::FMA
                    | F::F16C
                    | F::VAES
                    | F::VPCLMULQDQ
            )
        };
        let encoding = code.op_code().encoding();
        // These access memory element by element: their callers do them.
        let name = format!("{:?}", code.mnemonic());
        let elements = ["Vmaskmov", "Vpmaskmov", "Vgather", "Vpgather"]
            .iter()
            .any(|start| name.starts_with(start));
        matches!(encoding, EncodingKind::Legacy | EncodingKind::VEX)
            && !elements
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
            dst: [0x55; 64],
            ..VecOperands::default()
        };
        let before = ops.clone();
        let mut mxcsr = 0x1F80 & !(4 << 7);
        let fault = execute(Code::Divps_xmm_xmmm128, &mut ops, &mut mxcsr);
        assert_eq!(fault, Err(Fault::Exception { flags: 4 }));
        assert_eq!(ops.dst, before.dst);
        assert_eq!(mxcsr & 0x3F, 4);
    }
}
