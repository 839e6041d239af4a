//! MMX, SSE, AVX and AVX-512 instructions by `portable`: operands out of the context, results back into it.

use iced_x86::{Code, EncodingKind, Mnemonic};
use ir::{Operand, Rounding, VecInsn};
use portable::vector::{BYTES, Evex, Fault, Static, VecOperands, Vector, execute, execute_evex};
use x86::flags::STATUS;
use x86::{Exception, Gpr, cr4};

use super::enter_mmx;
use crate::{Vcpu, offset};

/// Where an integer operand lies.
#[derive(Clone, Copy)]
enum Word {
    Gpr(usize),
    /// AH and its kin.
    High(usize),
    Temp(usize),
    Nowhere,
}

/// Finds the integer operand at an offset in the context: a temporary may share a register's place.
fn word_place(operand: Operand, field: u16) -> Word {
    let field = usize::from(field);
    match operand {
        Operand::Reg(register) => Word::Gpr(register as usize),
        Operand::High(register) => Word::High(register as usize),
        _ => {
            let gpr = field.wrapping_sub(offset::gpr(Gpr::Rax)) / 8;
            let temp = field.wrapping_sub(offset::temp(0)) / 8;
            if gpr < 16 {
                Word::Gpr(gpr)
            } else if temp < crate::TEMPS {
                Word::Temp(temp)
            } else {
                Word::Nowhere
            }
        }
    }
}

fn read_word(v: &Vcpu, place: Word) -> u64 {
    match place {
        Word::Gpr(n) => v.st.gpr[n],
        Word::High(n) => v.st.gpr[n] >> 8 & 0xff,
        Word::Temp(n) => v.temps[n],
        Word::Nowhere => 0,
    }
}

fn write_word(v: &mut Vcpu, place: Word, value: u64) {
    match place {
        Word::Gpr(n) => v.st.gpr[n] = value,
        Word::High(n) => v.st.gpr[n] = v.st.gpr[n] & !0xff00 | (value & 0xff) << 8,
        Word::Temp(n) => v.temps[n] = value,
        Word::Nowhere => {}
    }
}

/// The vector temporary (or the register that it shares a place with) at an offset in the context.
pub(super) fn vec_place(v: &mut Vcpu, field: u16) -> &mut [u8; 64] {
    let field = usize::from(field);
    let register = field.wrapping_sub(offset::vec(0)) / 64;
    if register < 32 {
        return &mut v.st.vec[register];
    }
    let temp = field.wrapping_sub(offset::vec_temp(0)) / 64;
    &mut v.vec_temps[temp % crate::VEC_TEMPS]
}

/// An operand that is no general register.
fn vector(v: &mut Vcpu, operand: Operand, field: u16) -> Option<Vector> {
    match operand {
        Operand::Vec(n) => Some(v.st.vec[usize::from(n) & 31]),
        Operand::VecTemp(_) => Some(*vec_place(v, field)),
        Operand::Mmx(n) => {
            let mut bytes = [0; BYTES];
            bytes[..8].copy_from_slice(&v.st.fpu.regs[usize::from(n) & 7][..8]);
            Some(bytes)
        }
        _ => None,
    }
}

fn mask_register(v: &Vcpu, operand: Operand) -> Option<u64> {
    match operand {
        Operand::Mask(k) => Some(v.st.k[usize::from(k) & 7]),
        _ => None,
    }
}

fn is_word(operand: Operand) -> bool {
    matches!(
        operand,
        Operand::Reg(_) | Operand::High(_) | Operand::Temp(_)
    )
}

/// VZEROUPPER and VZEROALL: of the registers that the mode can name. `false` for other instructions.
pub fn clear_uppers(v: &mut Vcpu, code: Code) -> bool {
    let keep = match code {
        Code::VEX_Vzeroupper => 16,
        Code::VEX_Vzeroall => 0,
        _ => return false,
    };
    let count = if v.st.code64() { 16 } else { 8 };
    for register in &mut v.st.vec[..count] {
        register[keep..].fill(0);
    }
    true
}

/// Runs the vector instruction `insn` with the operands of a `vec` op: `dst` and a, b, c in `args`. `fields` has the
/// byte offsets in the context where the temporaries among them lie, `dst`'s first.
///
/// Errors: #XM for an unmasked exception (#UD without CR4.OSXMMEXCPT), #UD for what `portable` doesn't know; only
/// MXCSR's flags have changed then.
pub fn vec_portable(
    v: &mut Vcpu,
    insn: VecInsn,
    dst: Operand,
    args: [Operand; 3],
    fields: [u16; 4],
) -> Result<(), Exception> {
    let code = insn.code;
    if clear_uppers(v, code) {
        return Ok(());
    }
    let mut ops = VecOperands {
        k_dst: mask_register(v, dst).unwrap_or(0),
        k_src: [0, 1].map(|n| mask_register(v, args[n]).unwrap_or(0)),
        xmm0: v.st.vec[0],
        rax: v.st.gpr[Gpr::Rax as usize],
        rdx: v.st.gpr[Gpr::Rdx as usize],
        src_is_mem: args.iter().any(|a| matches!(a, Operand::VecTemp(_))),
        ..VecOperands::default()
    };
    if let Some(bytes) = vector(v, dst, fields[0]) {
        ops.dst = bytes;
    }
    for (n, (operand, field)) in args
        .into_iter()
        .zip([fields[1], fields[2], fields[3]])
        .enumerate()
    {
        if let Operand::Imm(value) = operand {
            ops.imm = value as u8;
        } else if is_word(operand) {
            // A mask register's value in memory is read as one.
            ops.k_src[0] = read_word(v, word_place(operand, field));
            ops.gpr_in = read_word(v, word_place(operand, field));
        } else if let Some(bytes) = vector(v, operand, field) {
            match n {
                0 => ops.src1 = bytes,
                1 => ops.src2 = bytes,
                _ => ops.src3 = bytes,
            }
        }
    }

    let mut mxcsr = v.st.mxcsr;
    let result = if code.op_code().encoding() == EncodingKind::EVEX {
        let prefix = Evex {
            mask: match insn.mask {
                0 => u64::MAX,
                k => v.st.k[usize::from(k) & 7],
            },
            masked: insn.mask != 0,
            zeroing: insn.zeroing,
            rounding: match insn.rounding {
                Rounding::Mxcsr => None,
                Rounding::Nearest => Some(Static::Direction(0)),
                Rounding::Down => Some(Static::Direction(1)),
                Rounding::Up => Some(Static::Direction(2)),
                Rounding::Zero => Some(Static::Direction(3)),
                Rounding::Suppress => Some(Static::Suppress),
            },
            broadcast: insn.broadcast,
        };
        execute_evex(code, prefix, &mut ops, &mut mxcsr)
    } else {
        execute(code, &mut ops, &mut mxcsr)
    };
    v.st.mxcsr = mxcsr;
    match result {
        Ok(()) => {}
        Err(Fault::Exception { .. }) if v.st.cr4 & cr4::OSXMMEXCPT != 0 => {
            return Err(Exception::XM);
        }
        Err(Fault::Exception { .. } | Fault::Unknown) => return Err(Exception::UD),
    }

    match dst {
        Operand::Vec(n) => v.st.vec[usize::from(n) & 31] = ops.dst,
        Operand::VecTemp(_) => *vec_place(v, fields[0]) = ops.dst,
        Operand::Mask(k) => v.st.k[usize::from(k) & 7] = ops.k_dst,
        Operand::Mmx(n) => {
            // What the instruction only reads stays as it is, exponent included.
            let register = &mut v.st.fpu.regs[usize::from(n) & 7];
            if writes_first(code) {
                register[..8].copy_from_slice(&ops.dst[..8]);
                register[8..10].fill(0xff);
            }
        }
        _ if is_word(dst) => write_word(v, word_place(dst, fields[0]), ops.gpr_out),
        _ => {}
    }
    use Mnemonic as M;
    match code.mnemonic() {
        M::Pcmpestri
        | M::Pcmpestri64
        | M::Pcmpistri
        | M::Vpcmpestri
        | M::Vpcmpestri64
        | M::Vpcmpistri => v.st.gpr[Gpr::Rcx as usize] = ops.gpr_out,
        M::Pcmpestrm
        | M::Pcmpestrm64
        | M::Pcmpistrm
        | M::Vpcmpestrm
        | M::Vpcmpestrm64
        | M::Vpcmpistrm => v.st.vec[0] = ops.xmm0,
        _ => {}
    }
    if let Some(flags) = ops.flags_out {
        v.set_status(STATUS, u64::from(flags));
    }
    if [dst, args[0], args[1], args[2]]
        .iter()
        .any(|o| matches!(o, Operand::Mmx(_)))
    {
        enter_mmx(v);
    }
    Ok(())
}

/// Whether an instruction with an MMX register as first operand writes it: only the stores of it don't.
fn writes_first(code: Code) -> bool {
    !matches!(code, Code::Movntq_m64_mm | Code::Maskmovq_rDI_mm_mm)
}
