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
                ax = if a == 0 {
                    ax.wrapping_add(0x106)
                } else {
                    ax.wrapping_sub(0x106)
                };
                new_flags = AF | CF;
            }
            ax & 0xff0f
        }
        2 | 3 => {
            let add = a == 2;
            let step = |value: u8, by: u8| {
                if add {
                    value.wrapping_add(by)
                } else {
                    value.wrapping_sub(by)
                }
            };
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

/// BOUND: index `a`, sign-extended like the bounds: #BR unless `b` <= `a` <= `c`.
pub fn bound(_v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let [index, lower, upper] = [a, b, c].map(u64::cast_signed);
    if (lower..=upper).contains(&index) {
        Ok(0)
    } else {
        Err(Exception::new(vector::BR))
    }
}

/// INTO of `b` bytes: the next instruction when OF is clear, else #OF as by INT 4.
pub fn into(v: &mut Vcpu, _a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    if v.status() & OF != 0 {
        return soft_int(v, u64::from(vector::OF), b, 1);
    }
    v.st.rip = v.next_ip;
    Ok(0)
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
    *gpr = if mask == 0xffff {
        (*gpr & !mask) | (value & mask)
    } else {
        value & mask
    };
}

/// A checked stack location, `down` bytes below `pointer`.
fn stack(v: &Vcpu, pointer: u64, down: u64, size: u64, write: bool) -> Result<u64, Exception> {
    v.linear(
        Seg::Ss,
        pointer.wrapping_sub(down) & stack_mask(v),
        size,
        write,
    )
}

/// ENTER: frame size `a`, nesting level `b` mod 32, operand size `c`. All places are checked before the first write.
pub fn enter(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let size = operand_size(c);
    let bytes = size as u32;
    let level = b & 31;
    let mask = stack_mask(v);
    let sp = v.st.gpr[Gpr::Rsp as usize];
    let bp = v.st.gpr[Gpr::Rbp as usize];
    let frame = sp & !mask | sp.wrapping_sub(size) & mask;
    // RBP, then level - 1 pointers of outer frames, then the new frame's.
    let pushes = 1 + level;
    let new_sp = sp.wrapping_sub(pushes * size).wrapping_sub(a & 0xffff) & mask;
    for i in 1..=pushes {
        // In the order in which they are pushed.
        if i > 1 && i < pushes {
            let from = stack(v, bp, (i - 1) * size, size, false)?;
            v.read(from, bytes)?;
        }
        let to = stack(v, sp, i * size, size, true)?;
        v.probe_write(to, size)?;
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
    // As wide as the operand: CPUs do so, whatever the manual says of the stack's width.
    set_part(v, Gpr::Rbp, u64::MAX >> (64 - 8 * size), frame);
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

#[cfg(test)]
mod tests {
    use x86::flags::{AF, CF, OF, PF, SF, ZF};
    use x86::{Exception, Gpr, vector};

    use super::{bcd, bound, enter, into, popa, pusha, random};
    use crate::testing::{HANDLER, Machine, STACK, sel};

    #[test]
    fn decimal_adjustments() {
        // Op, AX, CF and AF before; AX and flags (CF, AF, SF, ZF, PF) after.
        let cases = [
            (0, 0x000a, 0, 0x0100, CF | AF | ZF | PF),
            (0, 0x00ff, 0, 0x0205, CF | AF | PF),
            (0, 0x1204, 0, 0x1204, 0),
            (0, 0x0204, AF, 0x030a, CF | AF | PF),
            (1, 0x020a, 0, 0x0104, CF | AF),
            (1, 0x0003, AF, 0xfe0d, CF | AF),
            (1, 0x0509, CF, 0x0509, PF),
            (2, 0x9c, 0, 0x02, CF | AF),
            (2, 0x1b, 0, 0x21, AF | PF),
            (2, 0xfa, 0, 0x60, CF | AF | PF),
            (2, 0x15, CF, 0x75, CF),
            (3, 0x47, AF | CF, 0xe1, CF | AF | SF | PF),
            (3, 0x05, AF, 0xff, CF | AF | SF | PF),
            (3, 0x2f, 0, 0x29, AF),
        ];
        for (op, ax, before, after, flags) in cases {
            let mut m = Machine::protected(0);
            m.v.st.gpr[0] = 0xffff_0000 | ax;
            m.v.set_status(CF | AF, before);
            assert_eq!(bcd(&mut m.v, op, 0, 0), Ok(0));
            assert_eq!(m.v.st.gpr[0] & 0xffff, after, "op {op} of {ax:#x}");
            assert_eq!(m.v.status() & !OF, flags, "flags of op {op} of {ax:#x}");
            assert_eq!(m.v.st.gpr[0] >> 16, 0xffff);
        }
    }

    #[test]
    fn aam_and_aad() {
        let mut m = Machine::protected(0);
        m.v.st.gpr[0] = 0x1163;
        assert_eq!(bcd(&mut m.v, 4, 10, 0), Ok(0));
        assert_eq!((m.v.st.gpr[0], m.v.status()), (0x0909, PF));
        assert_eq!(bcd(&mut m.v, 5, 10, 0), Ok(0));
        assert_eq!((m.v.st.gpr[0], m.v.status()), (99, PF));
        assert_eq!(bcd(&mut m.v, 4, 0, 0), Err(Exception::DE));
        m.v.st.gpr[0] = 0xff01;
        assert_eq!(bcd(&mut m.v, 5, 1, 0), Ok(0));
        assert_eq!((m.v.st.gpr[0], m.v.status()), (0, ZF | PF));
    }

    #[test]
    fn bound_compares_signed() {
        let mut m = Machine::protected(0);
        let br = Err(Exception::new(vector::BR));
        for (index, result) in [(-3_i64, br), (-2, Ok(0)), (0, Ok(0)), (5, Ok(0)), (6, br)] {
            let [index, lower, upper] = [index, -2, 5].map(i64::cast_unsigned);
            assert_eq!(bound(&mut m.v, index, lower, upper), result, "{index:#x}");
        }
    }

    #[test]
    fn enter_builds_nested_frames() {
        let mut m = Machine::protected(0);
        m.v.st.gpr[Gpr::Rbp as usize] = 0x3_0000;
        m.write_frame(0x3_0000 - 8, 4, &[0x2222, 0x1111]);
        assert_eq!(enter(&mut m.v, 0x20, 3, 4), Ok(0));
        let frame = STACK - 4;
        assert_eq!(
            m.frame::<4>(STACK - 16, 4),
            [frame, 0x2222, 0x1111, 0x3_0000]
        );
        assert_eq!(m.v.st.gpr[Gpr::Rbp as usize], frame);
        assert_eq!(m.v.st.gpr[Gpr::Rsp as usize], STACK - 16 - 0x20);

        let mut m = Machine::long(3, true);
        m.v.st.gpr[Gpr::Rbp as usize] = 0x1_2345_6789;
        assert_eq!(enter(&mut m.v, 0x10, 32, 8), Ok(0));
        assert_eq!(m.read(STACK - 8, 8), 0x1_2345_6789, "level 32 is 0");
        assert_eq!(m.v.st.gpr[Gpr::Rsp as usize], STACK - 0x18);
    }

    #[test]
    fn enter_probes_before_it_writes() {
        let mut m = Machine::protected(0);
        m.enable_paging();
        m.v.st.gpr[Gpr::Rbp as usize] = 0x3_0000;
        m.page(STACK - 0x2000, 6);
        let before = m.snapshot();
        let fault = enter(&mut m.v, 0x1ff0, 1, 4).expect_err("the stack's new end isn't there");
        assert_eq!(
            (fault.vector, fault.cr2),
            (vector::PF, Some(STACK - 8 - 0x1ff0))
        );
        assert!(m.snapshot() == before);
    }

    #[test]
    fn pusha_and_popa() {
        let mut m = Machine::protected(0);
        for n in 0..8 {
            if n != 4 {
                m.v.st.gpr[n] = 0x1111_0000 + n as u64;
            }
        }
        assert_eq!(pusha(&mut m.v, 0, 0, 4), Ok(0));
        let low = 0x1111_0000;
        let pushed = [
            low + 7,
            low + 6,
            low + 5,
            STACK,
            low + 3,
            low + 2,
            low + 1,
            low,
        ];
        assert_eq!(m.frame::<8>(STACK - 32, 4), pushed);
        assert_eq!(m.v.st.gpr[4], STACK - 32);
        m.v.st.gpr = [0x2222_2222; 16];
        m.v.st.gpr[4] = STACK - 32;
        assert_eq!(popa(&mut m.v, 0, 0, 2), Ok(0));
        // AX, CX, DX, BX, SP, BP, SI, DI.
        let words = [0, 0x8000, 0x1111, 5, 0, 6, 0x1111, 7];
        for n in (0..8).filter(|n| *n != 4) {
            assert_eq!(m.v.st.gpr[n], 0x2222_0000 | words[n], "register {n}");
        }
        assert_eq!(m.v.st.gpr[4], STACK - 16);
    }

    #[test]
    fn stack_instructions_wrap_at_64_kib() {
        let mut m = Machine::real();
        m.v.st.gpr[4] = 0xdead_0008;
        assert_eq!(pusha(&mut m.v, 0, 0, 2), Ok(0));
        assert_eq!(m.v.st.gpr[4], 0xdead_fff8);
        assert_eq!(m.read(0xfff8, 2), m.v.st.gpr[7] & 0xffff, "DI, at SS:FFF8");
        m.v.st.gpr[4] = 7;
        assert_eq!(
            pusha(&mut m.v, 0, 0, 2),
            Err(Exception::SS0),
            "a word at FFFFh"
        );
    }

    #[test]
    fn into_by_of() {
        let mut m = Machine::protected(0);
        assert_eq!(into(&mut m.v, 0, 1, 0), Ok(0));
        assert_eq!(m.v.st.rip, m.v.next_ip);
        m.v.set_status(OF, OF);
        assert_eq!(into(&mut m.v, 0, 1, 0), Ok(0));
        assert!(m.at(sel::C0, HANDLER + 4));
    }

    #[test]
    fn random_numbers_follow_the_seed() {
        let mut m = Machine::protected(0);
        m.v.random = 0;
        m.v.set_status(ZF | SF, ZF | SF);
        // The first outputs of SplitMix64 from seed 0.
        assert_eq!(random(&mut m.v, 0, 0, 8), Ok(0xe220_a839_7b1d_cdaf));
        assert_eq!(random(&mut m.v, 1, 0, 8), Ok(0x6e78_9e6a_a1b9_65f4));
        assert_eq!(m.v.status(), CF);
        assert!(random(&mut m.v, 0, 0, 2).is_ok_and(|v| v < 0x1_0000));
    }
}
