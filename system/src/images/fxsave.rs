//! FXSAVE and FXRSTOR, and the legacy region that XSAVE shares with them (SDM vol. 1, 10.5 and 13.4.1).

use x86::{Exception, MXCSR_MASK, cr4};

use super::area::{Area, get, put};
use super::x87_available;
use crate::Vcpu;
use crate::fpu::{keep, load};

/// Offset of MXCSR and MXCSR_MASK.
pub const MXCSR: usize = 24;
/// Offset of ST0.
const ST: usize = 32;
/// Offset of XMM0.
const XMM: usize = 160;
/// Bytes of an image up to the end of XMM15.
pub const USED: usize = XMM + 256;

/// XMM registers that the mode can name.
pub fn registers(v: &Vcpu) -> usize {
    if v.st.code64() { 16 } else { 8 }
}

/// Puts the x87 state into an image, but for the registers; `wide` is the form with 64-bit pointers. Returns the
/// whole x87 part.
pub fn put_x87(v: &Vcpu, area: &mut Area, wide: bool) -> [u8; XMM] {
    let mut image = [0; XMM];
    load(&v.st.fpu).fxsave(wide, &mut image);
    area.piece(0, MXCSR).copy_from_slice(&image[..MXCSR]);
    image
}

/// Puts the x87 registers into an image: what [`put_x87`] returned.
pub fn put_st(area: &mut Area, image: &[u8; XMM]) {
    area.piece(ST, XMM - ST).copy_from_slice(&image[ST..]);
}

/// Puts MXCSR and MXCSR_MASK into an image.
pub fn put_mxcsr(v: &Vcpu, area: &mut Area) {
    let piece = area.piece(MXCSR, 8);
    put(piece, 0, v.st.mxcsr.to_le_bytes());
    put(piece, 4, MXCSR_MASK.to_le_bytes());
}

/// Puts the XMM registers of the mode into an image.
pub fn put_xmm(v: &Vcpu, area: &mut Area) {
    let count = registers(v);
    let piece = area.piece(XMM, count * 16);
    for (slot, register) in piece.chunks_exact_mut(16).zip(&v.st.vec) {
        slot.copy_from_slice(&register[..16]);
    }
}

/// Loads the x87 state from an image.
pub fn take_x87(v: &mut Vcpu, image: &[u8; USED], wide: bool) {
    let mut x = load(&v.st.fpu);
    x.fxrstor(wide, &std::array::from_fn(|i| image[i]));
    keep(v, &x);
}

/// MXCSR from an image; #GP(0) on reserved bits.
pub fn checked_mxcsr(image: &[u8]) -> Result<u32, Exception> {
    let mxcsr = u32::from_le_bytes(get(image, MXCSR));
    if mxcsr & !MXCSR_MASK != 0 {
        Err(Exception::GP0)
    } else {
        Ok(mxcsr)
    }
}

/// Loads the XMM registers of the mode.
pub fn take_xmm(v: &mut Vcpu, image: &[u8]) {
    let count = registers(v);
    for (register, slot) in v.st.vec[..count]
        .iter_mut()
        .zip(image[XMM..].chunks_exact(16))
    {
        register[..16].copy_from_slice(slot);
    }
}

fn aligned(lin: u64) -> Result<(), Exception> {
    if lin & 15 != 0 {
        Err(Exception::GP0)
    } else {
        Ok(())
    }
}

/// FXSAVE to linear address `a`; `c` = 8 is the form with 64-bit pointers. Without CR4.OSFXSR the XMM registers stay
/// out of it; bytes beyond the last register are left as they are.
pub fn fxsave(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    x87_available(v)?;
    aligned(a)?;
    // All of the image must be writable, though its last bytes are left as they are.
    v.probe_write(a, 512)?;
    let mut area = Area::new();
    let x87 = put_x87(v, &mut area, c == 8);
    put_mxcsr(v, &mut area);
    put_st(&mut area, &x87);
    if v.st.cr4 & cr4::OSFXSR != 0 {
        put_xmm(v, &mut area);
    }
    area.commit(v, a)?;
    Ok(0)
}

/// FXRSTOR from linear address `a`.
pub fn fxrstor(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    x87_available(v)?;
    aligned(a)?;
    let mut image = [0; USED];
    let used = if v.st.cr4 & cr4::OSFXSR != 0 {
        XMM + 16 * registers(v)
    } else {
        XMM
    };
    // All of the image must be readable, though not all is used.
    let mut whole = [0; 512];
    v.read_bytes(a, &mut whole)?;
    image[..used].copy_from_slice(&whole[..used]);
    v.st.mxcsr = checked_mxcsr(&image)?;
    take_x87(v, &image, c == 8);
    if used > XMM {
        take_xmm(v, &image);
    }
    Ok(0)
}
