//! XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR and XRSTORS (SDM vol. 1, 13.7-13.12).
//!
//! The init optimisation is made; the modified optimisation, which is optional, is not.

use x86::{Exception, Fpu, MXCSR_RESET, cr0, cr4, xcr0};

use super::area::{Area, get, put};
use super::fxsave::{
    MXCSR, USED, checked_mxcsr, put_mxcsr, put_st, put_x87, put_xmm, registers, take_x87, take_xmm,
};
use super::layout::{
    COMPACTED, COMPONENTS, Component, EXTENDED, LEGACY, MAX_IMAGE, compacted_offset,
};
use crate::Vcpu;
use crate::control::{edx_eax, privileged, set_pkru};
use crate::cpuid::Feature;

/// Offset of the header: XSTATE_BV, XCOMP_BV, zeros.
const HEADER: usize = LEGACY as usize;
/// Bytes of the header.
const HEADER_LEN: usize = (EXTENDED - LEGACY) as usize;

/// The components that are not in their initial configuration (XINUSE).
pub fn in_use(v: &Vcpu) -> u64 {
    let st = &v.st;
    let zero = |bytes: &[u8]| *bytes == [0; 64][..bytes.len()];
    let count = registers(v);
    let low = &st.vec[..count];
    let mut bits = 0;
    let pairs = [
        (xcr0::X87, st.fpu != Fpu::RESET),
        (xcr0::SSE, low.iter().any(|r| !zero(&r[..16]))),
        (xcr0::AVX, low.iter().any(|r| !zero(&r[16..32]))),
        (xcr0::OPMASK, st.k.iter().any(|k| *k != 0)),
        (xcr0::ZMM_HI256, low.iter().any(|r| !zero(&r[32..]))),
        (
            xcr0::HI16_ZMM,
            count == 16 && st.vec[16..].iter().any(|r| !zero(r)),
        ),
        (xcr0::PKRU, st.pkru != 0),
    ];
    for (bit, used) in pairs {
        if used {
            bits |= bit;
        }
    }
    bits
}

/// Copies a component to (`out`) or from its bytes in an image.
fn copy(v: &mut Vcpu, component: &Component, bytes: &mut [u8], out: bool) {
    let pair = |register: &mut [u8], slot: &mut [u8]| {
        if out {
            slot.copy_from_slice(register)
        } else {
            register.copy_from_slice(slot)
        }
    };
    let count = registers(v);
    match component.bit() {
        xcr0::AVX => {
            for (register, slot) in v.st.vec[..count].iter_mut().zip(bytes.chunks_exact_mut(16)) {
                pair(&mut register[16..32], slot);
            }
        }
        xcr0::ZMM_HI256 => {
            for (register, slot) in v.st.vec[..count].iter_mut().zip(bytes.chunks_exact_mut(32)) {
                pair(&mut register[32..], slot);
            }
        }
        xcr0::HI16_ZMM if count == 16 => {
            for (register, slot) in v.st.vec[16..].iter_mut().zip(bytes.chunks_exact_mut(64)) {
                pair(register, slot);
            }
        }
        xcr0::OPMASK => {
            for (k, slot) in v.st.k.iter_mut().zip(bytes.chunks_exact_mut(8)) {
                let mut value = k.to_le_bytes();
                pair(&mut value, slot);
                *k = u64::from_le_bytes(value);
            }
        }
        xcr0::PKRU => {
            if out {
                put(bytes, 0, v.st.pkru.to_le_bytes());
            } else {
                set_pkru(v, u32::from_le_bytes(get(bytes, 0)));
            }
        }
        _ => {}
    }
}

/// Bytes of a component that are written: outside 64-bit mode the slots of registers that it lacks stay as they are
/// (SDM vol. 1, 13.5).
fn written(v: &Vcpu, component: &Component) -> usize {
    let whole = component.size as usize;
    match component.bit() {
        xcr0::AVX | xcr0::ZMM_HI256 => whole / 16 * registers(v),
        xcr0::HI16_ZMM if registers(v) < 16 => 0,
        _ => whole,
    }
}

/// #UD, #NM, #GP(0) for alignment: what all of the family check first.
fn available(v: &Vcpu, lin: u64) -> Result<(), Exception> {
    if v.st.cr4 & cr4::OSXSAVE == 0 {
        return Err(Exception::UD);
    }
    if v.st.cr0 & cr0::TS != 0 {
        return Err(Exception::NM);
    }
    if lin & 63 != 0 {
        Err(Exception::GP0)
    } else {
        Ok(())
    }
}

/// XSAVE, XSAVEOPT, XSAVEC, XSAVES (`b` = 0..=3) to linear address `a`; `c` = 8 is the form with 64-bit pointers.
pub fn xsave(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let (optimised, compacted, supervisor) = (b == 1, b >= 2, b == 3);
    if supervisor && v.st.cr4 & cr4::OSXSAVE != 0 {
        privileged(v)?;
    }
    available(v, a)?;
    let enabled = v.st.xcr0 | if supervisor { v.st.msr.xss } else { 0 };
    let wanted = edx_eax(v) & enabled;
    let mut used = in_use(v) & wanted;
    if compacted && v.st.mxcsr != MXCSR_RESET {
        used |= wanted & xcr0::SSE;
    }
    let saved = if optimised || compacted { used } else { wanted };

    let mut area = Area::new();
    let x87 = (saved & xcr0::X87 != 0).then(|| put_x87(v, &mut area, c == 8));
    let with_mxcsr = if compacted {
        saved & xcr0::SSE
    } else {
        wanted & (xcr0::SSE | xcr0::AVX)
    };
    if with_mxcsr != 0 {
        put_mxcsr(v, &mut area);
    }
    if let Some(x87) = x87 {
        put_st(&mut area, &x87);
    }
    if saved & xcr0::SSE != 0 {
        put_xmm(v, &mut area);
    }
    if compacted {
        let header = area.piece(HEADER, 16);
        put(header, 0, used.to_le_bytes());
        put(header, 8, (wanted | COMPACTED).to_le_bytes());
    } else {
        let old = v.read(a.wrapping_add(HEADER as u64), 8)?;
        put(
            area.piece(HEADER, 8),
            0,
            ((old & !wanted) | used).to_le_bytes(),
        );
    }
    for component in COMPONENTS
        .iter()
        .filter(|component| saved & component.bit() != 0)
    {
        let offset = if compacted {
            compacted_offset(component, wanted)
        } else {
            component.offset
        };
        let len = written(v, component);
        if len > 0 {
            copy(v, component, area.piece(offset as usize, len), true);
        }
    }
    area.commit(v, a)?;
    Ok(0)
}

/// A component's bytes in an image that begins with the extended region of the standard format.
fn place<'a>(component: &Component, image: &'a mut [u8]) -> &'a mut [u8] {
    let start = (component.offset - EXTENDED) as usize;
    &mut image[start..start + component.size as usize]
}

/// XRSTOR, XRSTORS (`b` = 0, 1) from linear address `a`; `c` = 8 is the form with 64-bit pointers.
pub fn xrstor(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let supervisor = b == 1;
    if supervisor && v.st.cr4 & cr4::OSXSAVE != 0 {
        privileged(v)?;
    }
    available(v, a)?;
    let enabled = v.st.xcr0 | if supervisor { v.st.msr.xss } else { 0 };
    let wanted = edx_eax(v) & enabled;

    let mut header = [0; HEADER_LEN];
    v.read_bytes(a.wrapping_add(HEADER as u64), &mut header)?;
    let (state, layout) = (
        u64::from_le_bytes(get(&header, 0)),
        u64::from_le_bytes(get(&header, 8)),
    );
    let compacted = layout & COMPACTED != 0;
    let held = layout & !COMPACTED;
    let zero = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
    let valid = if compacted {
        v.model.has(Feature::Xsavec)
            && held & !enabled == 0
            && state & !held == 0
            && zero(&header[16..])
    } else {
        !supervisor && state & !enabled == 0 && zero(&header[8..24])
    };
    if !valid {
        return Err(Exception::GP0);
    }

    // Everything is read and checked before the first register changes.
    let loaded = wanted & state;
    let mut legacy = [0; USED];
    let with_mxcsr = if compacted {
        loaded & xcr0::SSE
    } else {
        wanted & (xcr0::SSE | xcr0::AVX)
    } != 0;
    if loaded & (xcr0::X87 | xcr0::SSE) != 0 {
        v.read_bytes(a, &mut legacy)?;
    } else if with_mxcsr {
        v.read_bytes(a.wrapping_add(MXCSR as u64), &mut legacy[MXCSR..MXCSR + 4])?;
    }
    let mxcsr = if with_mxcsr {
        checked_mxcsr(&legacy)?
    } else if compacted && wanted & xcr0::SSE != 0 {
        MXCSR_RESET
    } else {
        v.st.mxcsr
    };
    // As in the standard format; what is not loaded stays zero, the initial configuration.
    let mut image = [0; (MAX_IMAGE - EXTENDED) as usize];
    for component in &COMPONENTS {
        if loaded & component.bit() != 0 {
            let offset = if compacted {
                compacted_offset(component, held)
            } else {
                component.offset
            };
            let bytes = place(component, &mut image);
            v.read_bytes(a.wrapping_add(u64::from(offset)), bytes)?;
        }
    }

    v.st.mxcsr = mxcsr;
    if loaded & xcr0::X87 != 0 {
        take_x87(v, &legacy, c == 8);
    } else if wanted & xcr0::X87 != 0 {
        v.st.fpu = Fpu::RESET;
    }
    if wanted & xcr0::SSE != 0 {
        // Not loaded, the image is zero: the initial configuration.
        if loaded & xcr0::SSE == 0 {
            legacy = [0; USED];
        }
        take_xmm(v, &legacy);
    }
    for component in &COMPONENTS {
        if wanted & component.bit() != 0 {
            copy(v, component, place(component, &mut image), false);
        }
    }
    Ok(0)
}
