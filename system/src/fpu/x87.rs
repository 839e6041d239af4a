//! x87 instructions by `portable`.

use iced_x86::Code;
use ir::Operand;
use portable::x87::{Fault, Io, execute, sw, updates_pointers};
use x86::{Exception, Seg, cr0, flags};

use super::registers::{keep, load};
use super::vector::vec_place;
use crate::{Vcpu, offset};

/// Runs the x87 instruction `code` with the operands of an `x87` op: `dst`, and in `args` a (memory source or stack
/// register), b (offset of the memory operand), c (its segment). `fields` has the byte offsets in the context where
/// temporaries among them lie, `dst`'s first.
///
/// False means that an unmasked exception took the place of the result: the store that follows must not be made.
/// The instruction and data pointers are kept up to date, the opcode (as on Intel's CPUs without "fopcode
/// compatibility") is not.
///
/// Errors: #MF when one is pending from before, #UD for what `portable` doesn't know; nothing has changed then.
pub fn x87(
    v: &mut Vcpu,
    code: Code,
    dst: Operand,
    args: [Operand; 3],
    fields: [u16; 4],
) -> Result<bool, Exception> {
    let mut x = load(&v.st.fpu);
    let mut io = Io {
        eflags: v.rflags() as u32,
        real_mode: v.st.real_mode() || v.st.vm86(),
        ..Io::default()
    };
    match args[0] {
        Operand::Imm(i) => io.sti = i as usize & 7,
        Operand::VecTemp(_) => io.mem[..64].copy_from_slice(vec_place(v, fields[1])),
        _ => {}
    }
    let ignored = v.st.cr0 & cr0::NE == 0;
    if ignored {
        // The exception stays in the flags; ES is made from them again below.
        x.sw &= !(sw::ES | sw::B);
    }
    match execute(code, &mut x, &mut io) {
        Ok(()) => {}
        Err(Fault::Pending) => return Err(Exception::MF),
        Err(Fault::Unknown) => return Err(Exception::UD),
    }
    if ignored && !matches!(code, Code::Fnclex) {
        x.set_cw(x.cw);
    }
    if updates_pointers(code) {
        x.fip = v.ip;
        x.fcs = v.seg(Seg::Cs).selector;
        if let Operand::Imm(segment) = args[2] {
            x.fdp = data_pointer(v, args[1], fields[2]);
            let segment = Seg::from_index(segment as usize).unwrap_or(Seg::Ds);
            x.fds = v.seg(segment).selector;
        }
    }
    keep(v, &x);
    if let Some(bits) = io.flags_out {
        v.set_status(flags::STATUS, u64::from(bits));
    }
    if let Some(ax) = io.ax {
        v.st.gpr[0] = v.st.gpr[0] & !0xffff | u64::from(ax);
    }
    if matches!(dst, Operand::VecTemp(_)) {
        let written = io.written.min(64);
        vec_place(v, fields[0])[..written].copy_from_slice(&io.mem[..written]);
        return Ok(written != 0);
    }
    Ok(true)
}

/// The offset of the memory operand.
fn data_pointer(v: &Vcpu, operand: Operand, field: u16) -> u64 {
    match operand {
        Operand::Reg(register) => v.st.gpr[register as usize],
        Operand::Imm(value) => value.cast_unsigned(),
        _ => {
            let field = usize::from(field);
            let gpr = field.wrapping_sub(offset::gpr(x86::Gpr::Rax)) / 8;
            let temp = field.wrapping_sub(offset::temp(0)) / 8;
            if gpr < 16 {
                v.st.gpr[gpr]
            } else {
                v.temps.get(temp).copied().unwrap_or(0)
            }
        }
    }
}
