//! Loads and stores of the elements that an opmask chooses: those that it leaves out are not accessed, and don't fault.

use ir::Masked;
use system::Vcpu;
use x86::{Exception, LinAddr, Seg};

use crate::code::{Handler, Int, LOp, exit, next};
use crate::handlers::memory::{after_slow_store, canonical, ea, pick, raise};
use crate::handlers::system::locate;

/// Where [`pack`] puts what it packs in [`LOp::imm`], above the index's scale. Above that lie the bytes of the whole
/// operand (bits 55:48).
const SHIFT: u32 = 8;

/// The part of an op's `imm` that says which elements are meant.
pub fn pack(masked: Masked) -> i64 {
    masked.encode() << SHIFT
}

/// The handler of a masked load or store.
pub fn handler(load_: bool, idx: bool, a32: bool) -> Handler {
    let loads: [Handler; 4] = [
        load::<false, false>,
        load::<true, false>,
        load::<false, true>,
        load::<true, true>,
    ];
    let stores: [Handler; 4] = [
        store::<false, false>,
        store::<true, false>,
        store::<false, true>,
        store::<true, true>,
    ];
    pick(idx, a32, if load_ { loads } else { stores })
}

/// The handler that asks whether a masked store could be made.
pub fn probe_handler(idx: bool, a32: bool) -> Handler {
    let probes: [Handler; 4] = [
        probe::<false, false>,
        probe::<true, false>,
        probe::<false, true>,
        probe::<true, true>,
    ];
    pick(idx, a32, probes)
}

/// Loads chosen elements to the vector field `d`; the others hold anything. `a` is the alignment less one.
extern "C" fn load<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let at = ea::<IDX, A32>(v, op, op.imm as u32);
    if loaded(v, op, at) {
        next!(v, op)
    } else {
        exit::FAULT
    }
}

/// Stores chosen elements of the vector field `a`. `d` is the alignment less one.
extern "C" fn store<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let at = ea::<IDX, A32>(v, op, op.imm as u32);
    if stored(v, op, at) {
        after_slow_store(v, op)
    } else {
        exit::FAULT
    }
}

/// Raises what a store of chosen elements would raise. `d` is the alignment less one.
extern "C" fn probe<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let at = ea::<IDX, A32>(v, op, op.imm as u32);
    if probed(v, op, at) {
        next!(v, op)
    } else {
        exit::FAULT
    }
}

/// What an op says of its operand, and the elements that the mask chooses now.
struct Access {
    what: Masked,
    elements: u64,
    /// Address or, with a segment, offset.
    at: u64,
    align: u64,
    write: bool,
}

impl Access {
    fn new(v: &Vcpu, op: &LOp, at: u64, align: u16, write: bool) -> Self {
        let what = Masked::decode(op.imm >> SHIFT);
        Self {
            what,
            elements: what.elements(v.st.k[usize::from(what.mask)]),
            at,
            align: align.into(),
            write,
        }
    }

    /// The linear address of an element.
    fn place(&self, v: &mut Vcpu, op: &LOp, i: usize) -> Result<u64, Exception> {
        let size = u32::from(self.what.size);
        let at = self.at.wrapping_add(i as u64 * u64::from(size));
        let Some(seg) = self.what.seg else {
            let lin = if v.st.code64() { at } else { at & 0xffff_ffff };
            return canonical(v, op, lin, size).map(|()| lin);
        };
        let seg = Seg::from_index(seg.into()).unwrap_or(Seg::Ds);
        v.linear(seg, at, size.into(), self.write)
    }

    /// #GP(0) where the operand is not aligned as it wants to be, and any of it is accessed.
    fn aligned(&self, v: &mut Vcpu, op: &LOp) -> Result<(), Exception> {
        if self.align == 0 || self.elements == 0 {
            return Ok(());
        }
        let lin = match self.what.seg {
            None => self.at,
            // Any chosen element's place tells it: others' may be beyond the segment's limit.
            Some(_) => {
                let first = self.elements.trailing_zeros() as usize;
                let before = first as u64 * u64::from(self.what.size);
                self.place(v, op, first)?.wrapping_sub(before)
            }
        };
        if lin & self.align == 0 {
            Ok(())
        } else {
            Err(Exception::GP0)
        }
    }

    fn chosen(&self) -> impl Iterator<Item = usize> + use<> {
        let elements = self.elements;
        (0..64).filter(move |i| elements >> i & 1 != 0)
    }
}

#[inline(never)]
fn loaded(v: &mut Vcpu, op: &LOp, at: u64) -> bool {
    let access = Access::new(v, op, at, op.a, false);
    let size = (op.imm >> 48) as u64 & 0xff;
    if access.what.seg.is_none() && at & access.align == 0 && size.is_multiple_of(16) {
        let parts = size / 16;
        let part = |n| v.mmu.try_load128(LinAddr(at.wrapping_add(16 * n)));
        let whole: [Option<u128>; 4] = std::array::from_fn(|n| {
            if (n as u64) < parts {
                part(n as u64)
            } else {
                None
            }
        });
        if whole[..parts.min(4) as usize].iter().all(Option::is_some) {
            for (n, value) in whole.into_iter().flatten().enumerate() {
                u64::put(v, op.d + 16 * n as u16, value as u64);
                u64::put(v, op.d + 16 * n as u16 + 8, (value >> 64) as u64);
            }
            return true;
        }
    }
    match by_element(v, op, &access) {
        Ok(bytes) => {
            for (n, word) in bytes.chunks_exact(8).enumerate() {
                let value = word.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
                u64::put(v, op.d + 8 * n as u16, value);
            }
            true
        }
        Err(e) => {
            fault(v, op, e);
            false
        }
    }
}

fn by_element(v: &mut Vcpu, op: &LOp, access: &Access) -> Result<[u8; 64], Exception> {
    let mut bytes = [0; 64];
    let size = usize::from(access.what.size);
    access.aligned(v, op)?;
    for i in access.chosen() {
        let Some(part) = bytes.get_mut(i * size..(i + 1) * size) else {
            break;
        };
        let lin = access.place(v, op, i)?;
        v.read_bytes(lin, part)?;
    }
    Ok(bytes)
}

#[inline(never)]
fn stored(v: &mut Vcpu, op: &LOp, at: u64) -> bool {
    let access = Access::new(v, op, at, op.d, true);
    let done = store_elements(v, op, &access, &[false, true]);
    done.map_err(|e| fault(v, op, e)).is_ok()
}

#[inline(never)]
fn probed(v: &mut Vcpu, op: &LOp, at: u64) -> bool {
    let access = Access::new(v, op, at, op.d, true);
    let done = store_elements(v, op, &access, &[false]);
    done.map_err(|e| fault(v, op, e)).is_ok()
}

fn fault(v: &mut Vcpu, op: &LOp, e: Exception) {
    locate(v, op);
    raise(v, op, e);
}

/// In passes over the chosen elements, that ask whether each could be written, or write it: all of them, or none.
fn store_elements(
    v: &mut Vcpu,
    op: &LOp,
    access: &Access,
    passes: &[bool],
) -> Result<(), Exception> {
    let size = usize::from(access.what.size).min(8);
    access.aligned(v, op)?;
    for &write in passes {
        for i in access.chosen().take_while(|i| (i + 1) * size <= 64) {
            let lin = access.place(v, op, i)?;
            if write {
                let from = op.a + (i * size) as u16;
                let value = (0..size as u16)
                    .rev()
                    .fold(0, |sum, n| sum << 8 | u64::from(u8::get(v, from + n)));
                v.write(lin, size as u32, value)?;
            } else {
                v.probe_write(lin, size as u64)?;
            }
        }
    }
    Ok(())
}
