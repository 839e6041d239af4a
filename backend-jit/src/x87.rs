//! The guest's x87 registers between the context and the host's own.
//!
//! FRSTOR and FNSAVE, which leave SSE alone; the latter empties the host's stack, as the rest of the process expects it.
#![expect(unsafe_code, reason = "the x87 has no intrinsics")]
// UNSAFETY: one asm block, which stores the x87's state.

use system::Vcpu;
use x86::Fpu;

use crate::x64::frame::Frame;

/// Bytes of what FNSAVE stores (SDM vol. 1, 8.1.10, 32-bit protected format).
pub const IMAGE: usize = 108;
/// Where the registers begin in it, ST(0) first.
const REGISTERS: usize = 28;

/// FSW.ES.
const PENDING: u16 = 1 << 7;
/// All exceptions masked.
const MASKS: u16 = 0x3f;

/// Whether an exception is unmasked or pending: nothing for the host's x87.
pub fn unmasked(fpu: &Fpu) -> bool {
    fpu.fcw & MASKS != MASKS || fpu.fsw & PENDING != 0
}

/// Makes an image for FRSTOR.
fn image(fpu: &Fpu, to: &mut [u8]) {
    to[..REGISTERS].fill(0);
    let top = usize::from(fpu.top());
    let tags = (0..8)
        .filter(|n| fpu.ftw & 1 << n == 0)
        .fold(0u16, |tags, n| tags | 3 << (n * 2));
    to[0..2].copy_from_slice(&fpu.fcw.to_le_bytes());
    to[4..6].copy_from_slice(&fpu.fsw.to_le_bytes());
    to[8..10].copy_from_slice(&tags.to_le_bytes());
    for (i, st) in to[REGISTERS..].chunks_exact_mut(10).enumerate() {
        st.copy_from_slice(&fpu.regs[(top + i) & 7][..10]);
    }
}

/// Takes over what FNSAVE has stored. The pointers are the host's and none of the guest's business: its own stay.
fn take(fpu: &mut Fpu, from: &[u8]) {
    let word = |at: usize| u16::from_le_bytes([from[at], from[at + 1]]);
    fpu.fcw = word(0);
    fpu.fsw = word(4);
    let tags = word(8);
    fpu.ftw = (0..8)
        .filter(|n| tags >> (n * 2) & 3 != 3)
        .fold(0, |all, n| all | 1 << n);
    let top = usize::from(fpu.top());
    for (i, st) in from[REGISTERS..].chunks_exact(10).take(8).enumerate() {
        fpu.regs[(top + i) & 7][..10].copy_from_slice(st);
    }
}

/// Puts the vCPU's registers where the stub that calls lets FRSTOR load them from.
pub fn load(f: &mut Frame, v: &Vcpu) {
    debug_assert!(f.x87_live == 0 && !unmasked(&v.st.fpu));
    image(&v.st.fpu, &mut f.x87_image[..IMAGE]);
    f.x87_live = 1;
}

/// Takes the registers back into the context if they are live. To be called before anybody else looks at them there, and
/// when translated code is left.
pub fn store(f: &mut Frame, v: &mut Vcpu) {
    if f.x87_live == 0 {
        return;
    }
    f.x87_live = 0;
    save(&mut f.x87_image);
    take(&mut v.st.fpu, &f.x87_image[..IMAGE]);
}

#[cfg(target_arch = "x86_64")]
fn save(to: &mut [u8; 112]) {
    let to = to.as_mut_ptr();
    // SAFETY: FNSAVE writes 108 bytes of the 112; it leaves the stack empty and the control word as Rust code expects it.
    unsafe {
        std::arch::asm!("fnsave [{}]", in(reg) to,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack, preserves_flags));
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn save(_to: &mut [u8; 112]) {}

#[cfg(test)]
mod tests {
    use super::{IMAGE, image, take, unmasked};
    use x86::Fpu;

    fn sample(seed: u64) -> Fpu {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let mut fpu = Fpu::RESET;
        for reg in &mut fpu.regs {
            reg[..8].copy_from_slice(&next().to_le_bytes());
            reg[8..10].copy_from_slice(&(next() as u16).to_le_bytes());
        }
        fpu.fcw = 0x37f | (next() as u16) & 0xf00;
        // Neither ES nor B.
        fpu.fsw = next() as u16 & 0x7f7f;
        fpu.ftw = next() as u8;
        fpu.fip = next();
        fpu
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_host_gives_back_what_it_was_given() {
        for seed in 1..200 {
            let fpu = sample(seed);
            assert!(!unmasked(&fpu));
            let mut bytes = [0; 112];
            image(&fpu, &mut bytes[..IMAGE]);
            let at = bytes.as_mut_ptr();
            // SAFETY: both use 108 of the 112 bytes; FNSAVE leaves the stack empty and the control word default.
            unsafe {
                std::arch::asm!("frstor [{0}]", "fnsave [{0}]", in(reg) at,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack, preserves_flags));
            }
            let mut back = Fpu {
                fip: fpu.fip,
                ..Fpu::RESET
            };
            take(&mut back, &bytes[..IMAGE]);
            assert_eq!(back, fpu, "{seed}");
        }
    }

    #[test]
    fn only_masked_exceptions_are_the_hosts() {
        for bit in 0..6 {
            let fpu = Fpu {
                fcw: 0x37f & !(1 << bit),
                ..Fpu::RESET
            };
            assert!(unmasked(&fpu));
        }
        assert!(!unmasked(&Fpu::RESET));
        assert!(unmasked(&Fpu {
            fsw: 0x80,
            ..Fpu::RESET
        }));
    }
}
