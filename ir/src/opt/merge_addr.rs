//! Address merging: a temporary that holds `base + index * scale + disp` gives way to the sum in the address that uses it.

use super::const_fold::add_disp;
use super::{Scratch, Versions, count_uses, entry, reset};
use crate::block::{Block, Op};
use crate::operand::{Mem, Operand, Temp, Width};
use crate::ops::OpCode;

/// The sum that a temporary holds.
#[derive(Clone, Copy)]
pub(super) struct Address {
    base: Operand,
    index: Operand,
    scale: u8,
    disp: i32,
    /// So many low bits are the sum's. `B8`: no sum is known.
    width: Width,
    /// Versions of base and index at the time.
    versions: [u32; 2],
}

const UNKNOWN: Address = Address {
    base: Operand::None,
    index: Operand::None,
    scale: 0,
    disp: 0,
    width: Width::B8,
    versions: [0; 2],
};

impl Address {
    fn current(&self, versions: &Versions) -> bool {
        self.versions == [versions.stamp(self.base), versions.stamp(self.index)]
    }
}

/// Moves address arithmetic into addresses.
pub(super) fn run(block: &mut Block, scratch: &mut Scratch) {
    count_uses(block, &mut scratch.uses);
    let addresses = &mut scratch.addresses;
    reset(addresses, block.temps, UNKNOWN);
    let mut versions = Versions::default();
    for op in &mut block.ops {
        if let Some(mem) = &mut op.mem {
            merge(mem, addresses, &scratch.uses, &versions);
        } else if let (OpCode::Mov, Operand::Reg(_), Operand::Temp(t)) = (op.code, op.dst, op.a) {
            mov_to_lea(op, t, addresses, &scratch.uses, &versions);
        }
        if let Operand::Temp(t) = op.dst {
            if let Some(mut mem) = sum(op) {
                merge(&mut mem, addresses, &scratch.uses, &versions);
                if let Some(entry) = entry(addresses, t) {
                    *entry = Address {
                        base: mem.base,
                        index: mem.index,
                        scale: mem.scale,
                        disp: mem.disp,
                        width: mem.addr,
                        versions: [versions.stamp(mem.base), versions.stamp(mem.index)],
                    };
                }
            }
        }
        versions.write(op);
    }
}

/// The address that the temporary holds, if it may stand where `width` bits of it are meant.
fn known(
    t: Temp,
    width: Width,
    addresses: &mut [Address],
    uses: &[u8],
    versions: &Versions,
) -> Option<Address> {
    let address = *entry(addresses, t)?;
    // With an index the sum costs something: it is not worth computing twice.
    let cheap = address.index == Operand::None || uses.get(usize::from(t.0)) == Some(&1);
    (address.width != Width::B8 && width <= address.width && cheap && address.current(versions))
        .then_some(address)
}

fn merge(mem: &mut Mem, addresses: &mut [Address], uses: &[u8], versions: &Versions) {
    let Operand::Temp(t) = mem.base else { return };
    let Some(address) = known(t, mem.addr, addresses, uses, versions) else {
        return;
    };
    let Some(disp) = add_disp(mem, address.disp.into()) else {
        return;
    };
    if address.index.is_some() {
        if mem.index.is_some() {
            return;
        }
        mem.index = address.index;
        mem.scale = address.scale;
    }
    mem.base = address.base;
    mem.disp = disp;
}

/// A register that receives a known address gets it by its own `lea`; the temporary's then often falls away.
fn mov_to_lea(op: &mut Op, t: Temp, addresses: &mut [Address], uses: &[u8], versions: &Versions) {
    if op.width == Width::B8 {
        return;
    }
    let Some(address) = known(t, op.width, addresses, uses, versions) else {
        return;
    };
    let mem = Mem {
        index: address.index,
        scale: address.scale,
        ..Mem::at(address.base, address.disp)
    };
    *op = Op {
        dst: op.dst,
        mem: Some(mem),
        ..Op::new(OpCode::Lea, op.width)
    };
}

/// The op's result as an address of as many bits as it has of the sum, when it is one.
fn sum(op: &Op) -> Option<Mem> {
    let part = |operand| matches!(operand, Operand::Reg(_) | Operand::Temp(_));
    if op.width == Width::B8 {
        return None;
    }
    if op.code == OpCode::Lea {
        let mem = op.mem.as_ref()?;
        return Some(Mem {
            addr: mem.addr.min(op.width),
            ..*mem
        });
    }
    if !op.flags.is_empty() || !part(op.a) {
        return None;
    }
    let plain = |index, disp| Mem {
        index,
        addr: op.width,
        ..Mem::at(op.a, disp)
    };
    match (op.code, op.b) {
        (OpCode::Add, Operand::Imm(n)) => Some(plain(Operand::None, disp(n, op.width)?)),
        (OpCode::Sub, Operand::Imm(n)) => {
            Some(plain(Operand::None, disp(n.wrapping_neg(), op.width)?))
        }
        (OpCode::Add, b) if part(b) => Some(plain(b, 0)),
        _ => None,
    }
}

/// A constant as a displacement that says the same at this width.
fn disp(n: i64, width: Width) -> Option<i32> {
    if width == Width::B64 {
        i32::try_from(n).ok()
    } else {
        Some(n as i32)
    }
}
