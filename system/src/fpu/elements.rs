//! Vectors that are accessed element by element under a mask: VMASKMOVPx, VPMASKMOVx, gathers, scatters.

use ir::Elements;
use x86::{Exception, Seg};

use crate::Vcpu;

/// Little-endian element `i` of `size` bytes, sign-extended.
fn get(register: &[u8; 64], i: usize, size: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&register[i * size..(i + 1) * size]);
    let shift = 64 - 8 * size as u32;
    i64::from_le_bytes(bytes) << shift >> shift
}

fn put(register: &mut [u8; 64], i: usize, size: usize, value: u64) {
    register[i * size..(i + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// The operand's elements, as many as fit into a register.
fn elements(c: u64) -> (Elements, usize, usize) {
    let what = Elements::decode(c);
    let size = usize::from(what.width.bytes());
    (what, size, usize::from(what.count).min(64 / size))
}

/// The linear address of an element at an offset that is cut to the address size.
fn place(v: &Vcpu, what: &Elements, offset: u64, write: bool) -> Result<u64, Exception> {
    let seg = Seg::from_index(usize::from(what.seg)).unwrap_or(Seg::Ds);
    let size = u64::from(what.width.bytes());
    v.linear(seg, offset & what.addr.mask(), size, write)
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ from memory.
pub fn mask_load(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let (what, size, count) = elements(c);
    let (to, by) = (b as usize & 31, (b >> 8) as usize & 31);
    let mask = v.st.vec[by];
    let mut result = [0; 64];
    for i in (0..count).filter(|i| get(&mask, *i, size) < 0) {
        let lin = place(v, &what, a.wrapping_add((i * size) as u64), false)?;
        let value = v.read(lin, size as u32)?;
        put(&mut result, i, size, value);
    }
    v.st.vec[to] = result;
    Ok(0)
}

/// The same to memory: all of the chosen elements or none.
pub fn mask_store(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let (what, size, count) = elements(c);
    let (data, mask) = (v.st.vec[b as usize & 31], v.st.vec[(b >> 8) as usize & 31]);
    for write in [false, true] {
        for i in (0..count).filter(|i| get(&mask, *i, size) < 0) {
            let lin = place(v, &what, a.wrapping_add((i * size) as u64), true)?;
            if write {
                v.write(lin, size as u32, get(&data, i, size) as u64)?;
            } else {
                v.probe_write(lin, size as u64)?;
            }
        }
    }
    Ok(0)
}

/// VGATHERDPS and its kin. The first element that faults ends it; those before it are done, and their masks are clear,
/// so that the instruction goes on there when it is run again (SDM vol. 2, VGATHERDPS).
pub fn gather(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let (what, size, count) = elements(c);
    let (to, by, from) = (
        b as usize & 31,
        (b >> 8) as usize & 31,
        (b >> 16) as usize & 31,
    );
    let indices = v.st.vec[from];
    let wide = usize::from(what.index.bytes());
    for i in 0..count.min(64 / wide) {
        if get(&v.st.vec[by], i, size) < 0 {
            let index = get(&indices, i, wide) << what.scale;
            let lin = place(v, &what, a.wrapping_add_signed(index), false)?;
            let value = v.read(lin, size as u32)?;
            put(&mut v.st.vec[to], i, size, value);
        }
        put(&mut v.st.vec[by], i, size, 0);
    }
    v.st.vec[to][count * size..].fill(0);
    v.st.vec[by] = [0; 64];
    Ok(0)
}

/// Gathers and scatters with an opmask, on the element that the mask chooses next, until it is empty: what faults ends
/// it, and what is done is clear in the mask (SDM vol. 2, VGATHERDPS with EVEX, VSCATTERDPS).
fn masked(v: &mut Vcpu, a: u64, b: u64, c: u64, scatter: bool) -> Result<(), Exception> {
    let (what, size, count) = elements(c);
    let (register, k, from) = (
        b as usize & 31,
        (b >> 8) as usize & 7,
        (b >> 16) as usize & 31,
    );
    let wide = usize::from(what.index.bytes());
    for i in 0..count.min(64 / wide) {
        if v.st.k[k] >> i & 1 == 0 {
            continue;
        }
        let index = get(&v.st.vec[from], i, wide) << what.scale;
        let lin = place(v, &what, a.wrapping_add_signed(index), scatter)?;
        if scatter {
            v.write(lin, size as u32, get(&v.st.vec[register], i, size) as u64)?;
        } else {
            let value = v.read(lin, size as u32)?;
            put(&mut v.st.vec[register], i, size, value);
            // A fault leaves what lies beyond the instruction's vector length clear, as AMD's CPUs do.
            v.st.vec[register][count * size.max(wide)..].fill(0);
        }
        v.st.k[k] &= !(1 << i);
    }
    v.st.k[k] = 0;
    if !scatter {
        v.st.vec[register][count * size..].fill(0);
    }
    Ok(())
}

/// VGATHERDPS and its kin with EVEX.
pub fn gather_masked(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    masked(v, a, b, c, false).map(|()| 0)
}

/// VSCATTERDPS and its kin.
pub fn scatter(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    masked(v, a, b, c, true).map(|()| 0)
}
