//! x87, MMX and SSE between the vCPU's state and the portable arithmetic of crate `portable`.
//!
//! With CR0.NE clear, a CPU reports x87 errors on its FERR# pin and waits at the next waiting instruction until the
//! board answers on IGNNE#. This board has neither wire: the wait is ignored, and the exception stays in FSW.

mod elements;
mod registers;
#[cfg(test)]
mod tests;
mod vector;
mod x87;

use x86::{Exception, MXCSR_MASK, cr0};

use crate::Vcpu;
use crate::images::sse_available;

pub use elements::{gather, gather_masked, mask_load, mask_store, scatter};
pub(crate) use registers::{keep, load};
pub use vector::{clear_uppers, vec_portable};
pub use x87::x87;

/// FSW.ES: an unmasked exception is pending.
const ES: u16 = 1 << 7;
/// FSW.TOP.
const TOP: u16 = 7 << 11;

/// FWAIT and other waiting instructions: #MF when an unmasked exception is pending and CR0.NE is set.
pub fn fpu_check(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.fpu.fsw & ES != 0 && v.st.cr0 & cr0::NE != 0 {
        Err(Exception::MF)
    } else {
        Ok(0)
    }
}

/// STMXCSR, VSTMXCSR (`b` = 1): MXCSR.
pub fn stmxcsr(v: &mut Vcpu, _a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    if b == 0 {
        sse_available(v)?;
    }
    Ok(u64::from(v.st.mxcsr))
}

/// LDMXCSR, VLDMXCSR (`b` = 1): MXCSR = `a`.
pub fn ldmxcsr(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    if b == 0 {
        sse_available(v)?;
    }
    let value = a as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(Exception::GP0);
    }
    v.st.mxcsr = value;
    Ok(0)
}

/// What every MMX instruction but EMMS does to the x87: TOP = 0, no register empty (SDM vol. 1, 9.5.1).
fn enter_mmx(v: &mut Vcpu) {
    v.st.fpu.fsw &= !TOP;
    v.st.fpu.ftw = 0xff;
}

/// EMMS: all registers empty.
pub fn emms(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    v.st.fpu.fsw &= !TOP;
    v.st.fpu.ftw = 0;
    Ok(0)
}

/// MASKMOVDQU, MASKMOVQ (`c` + 100h): to linear address `a` those bytes of register `b` whose mask byte in register `c`
/// has its top bit set, all or none.
pub fn mask_mov(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let mmx = c & 0x100 != 0;
    let register = |n: u64| -> [u8; 16] {
        if mmx {
            let mut bytes = v.st.fpu.regs[n as usize & 7];
            bytes[8..].fill(0);
            bytes
        } else {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&v.st.vec[n as usize & 31][..16]);
            bytes
        }
    };
    let (data, mask) = (register(b), register(c & 0xff));
    let len = if mmx { 8 } else { 16 };
    let chosen = |i: usize| mask[i] & 0x80 != 0;
    for write in [false, true] {
        let mut i = 0;
        while i < len {
            let start = i;
            while i < len && chosen(i) {
                i += 1;
            }
            if i > start {
                let lin = a.wrapping_add(start as u64);
                if write {
                    v.write_bytes(lin, &data[start..i])?;
                } else {
                    v.probe_write(lin, (i - start) as u64)?;
                }
            }
            i += 1;
        }
    }
    if mmx {
        enter_mmx(v);
    }
    Ok(0)
}
