//! Rare integer instructions: decimal adjustment, BOUND, ENTER, PUSHA, POPA, RDRAND (SDM vol. 2).

use x86::flags::{AF, CF, OF, STATUS};
use x86::{Exception, Gpr, Seg, attr, vector};

use crate::delivery::soft_int;
use crate::{Vcpu, result_flags};
use ir::Width;

/// AAA, AAS, DAA, DAS (`a` = 0..=3), AAM, AAD with base `b` (`a` = 4, 5). Undefined flags are those of a plain result.
pub fn bcd(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    let ax = v.st.gpr[Gpr::Rax as usize] as u16;
    let [al, ah] = ax.to_le_bytes();
    let flags = v.status();
    let (carry, adjust) = (flags & CF != 0, flags & AF != 0);
    let low_wrong = al & 0xf > 9 || adjust;
    let mut new_flags = 0;
    let ax = match a {
        0 | 1 => {
            let mut ax = ax;
            if low_wrong {
                ax = if a == 0 { ax.wrapping_add(0x106) } else { ax.wrapping_sub(0x106) };
                new_flags = AF | CF;
            }
            ax & 0xff0f
        }
        2 | 3 => {
            let add = a == 2;
            let step = |value: u8, by: u8| if add { value.wrapping_add(by) } else { value.wrapping_sub(by) };
            let mut result = al;
            if low_wrong {
                let overflow = if add { al > 0xf9 } else { al < 6 };
                result = step(result, 6);
                new_flags |= AF | if carry || overflow { CF } else { 0 };
            }
            if al > 0x99 || carry {
                result = step(result, 0x60);
                new_flags |= CF;
            } else if add {
                new_flags &= !CF;
            }
            u16::from_le_bytes([result, ah])
        }
        4 => {
            let base = b as u8;
            if base == 0 {
                return Err(Exception::DE);
            }
            u16::from_le_bytes([al % base, al / base])
        }
        _ => u16::from(al.wrapping_add(ah.wrapping_mul(b as u8))),
    };
    new_flags |= result_flags(u64::from(ax & 0xff), Width::B8);
    let rax = &mut v.st.gpr[Gpr::Rax as usize];
    *rax = (*rax & !0xffff) | u64::from(ax);
    v.set_status(STATUS, new_flags);
    Ok(0)
}

/// BOUND: index `a`, bounds of `c` bytes each at linear address `b`: #BR unless lower <= index <= upper.
pub fn bound(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let size = if c == 2 { 2 } else { 4 };
    let signed = |value: u64| if size == 2 { i64::from(value as i16) } else { i64::from(value as i32) };
    let lower = signed(v.read(b, size)?);
    let upper = signed(v.read(b.wrapping_add(u64::from(size)) & wrap(v), size)?);
    if (lower..=upper).contains(&signed(a)) { Ok(0) } else { Err(Exception::new(vector::BR)) }
}

/// INTO of `b` bytes: the next instruction when OF is clear, else #OF as by INT 4.
pub fn into(v: &mut Vcpu, _a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    if v.status() & OF != 0 {
        return soft_int(v, u64::from(vector::OF), b, 1);
    }
    v.st.rip = v.next_ip;
    Ok(0)
}

/// The bits of a linear address.
fn wrap(v: &Vcpu) -> u64 {
    if v.st.long_mode() { u64::MAX } else { 0xffff_ffff }
}

/// The bits of the stack pointer that stack instructions use.
fn stack_mask(v: &Vcpu) -> u64 {
    if v.st.code64() {
        u64::MAX
    } else if v.seg(Seg::Ss).has(attr::DB) {
        0xffff_ffff
    } else {
        0xffff
    }
}

fn operand_size(c: u64) -> u64 {
    if matches!(c, 2 | 8) { c } else { 4 }
}

/// Replaces the low part of a register; 32 bits clear the upper half.
fn set_part(v: &mut Vcpu, register: Gpr, mask: u64, value: u64) {
    let gpr = &mut v.st.gpr[register as usize];
    *gpr = if mask == 0xffff { (*gpr & !mask) | (value & mask) } else { value & mask };
}

/// A checked stack location, `down` bytes below `pointer`.
fn stack(v: &Vcpu, pointer: u64, down: u64, size: u64, write: bool) -> Result<u64, Exception> {
    v.linear(Seg::Ss, pointer.wrapping_sub(down) & stack_mask(v), size, write)
}

/// ENTER: frame size `a`, nesting level `b` mod 32, operand size `c`. All places are checked before the first write.
pub fn enter(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let size = operand_size(c);
    let bytes = size as u32;
    let level = b & 31;
    let mask = stack_mask(v);
    let sp = v.st.gpr[Gpr::Rsp as usize];
    let bp = v.st.gpr[Gpr::Rbp as usize];
    let frame = sp.wrapping_sub(size) & mask;
    // RBP, then level - 1 pointers of outer frames, then the new frame's.
    let pushes = 1 + level;
    let new_sp = sp.wrapping_sub(pushes * size).wrapping_sub(a & 0xffff) & mask;
    for i in 1..=pushes {
        let to = stack(v, sp, i * size, size, true)?;
        v.probe_write(to, size)?;
    }
    for i in 1..level {
        let from = stack(v, bp, i * size, size, false)?;
        v.read(from, bytes)?;
    }
    // The stack must be good for a push at its new end.
    let end = stack(v, new_sp, 0, size, true)?;
    v.probe_write(end, size)?;
    let to = stack(v, sp, size, size, true)?;
    v.write(to, bytes, bp)?;
    for i in 1..level {
        let from = stack(v, bp, i * size, size, false)?;
        let value = v.read(from, bytes)?;
        let to = stack(v, sp, (i + 1) * size, size, true)?;
        v.write(to, bytes, value)?;
    }
    if level > 0 {
        let to = stack(v, sp, pushes * size, size, true)?;
        v.write(to, bytes, frame)?;
    }
    set_part(v, Gpr::Rbp, mask, frame);
    set_part(v, Gpr::Rsp, mask, new_sp);
    Ok(0)
}

/// PUSHA: AX, CX, DX, BX, the old SP, BP, SI, DI.
pub fn pusha(v: &mut Vcpu, _a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let size = operand_size(c);
    let sp = v.st.gpr[Gpr::Rsp as usize];
    for i in 1..=8 {
        let to = stack(v, sp, i * size, size, true)?;
        v.probe_write(to, size)?;
    }
    for i in 1..=8 {
        let value = v.st.gpr[i as usize - 1];
        let to = stack(v, sp, i * size, size, true)?;
        v.write(to, size as u32, value)?;
    }
    let mask = stack_mask(v);
    set_part(v, Gpr::Rsp, mask, sp.wrapping_sub(8 * size));
    Ok(0)
}

/// POPA: DI, SI, BP, nothing, BX, DX, CX, AX.
pub fn popa(v: &mut Vcpu, _a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let size = operand_size(c);
    let sp = v.st.gpr[Gpr::Rsp as usize];
    let mut values = [0; 8];
    for (i, value) in (0..).zip(&mut values) {
        let from = stack(v, sp.wrapping_add(i * size), 0, size, false)?;
        *value = v.read(from, size as u32)?;
    }
    let operand = if size == 2 { 0xffff } else { 0xffff_ffff };
    for (register, value) in Gpr::ALL.into_iter().take(8).rev().zip(values) {
        if register != Gpr::Rsp {
            set_part(v, register, operand, value);
        }
    }
    let mask = stack_mask(v);
    set_part(v, Gpr::Rsp, mask, sp.wrapping_add(8 * size));
    Ok(0)
}

/// RDRAND, RDSEED: a number of `c` bytes that only depends on the seed; CF says that there was one.
pub fn random(v: &mut Vcpu, _a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    // SplitMix64 (Steele, Lea, Flood 2014).
    v.random = v.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = v.random;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    v.set_status(STATUS, CF);
    Ok(z >> (64 - 8 * operand_size(c)))
}
