//! Constant folding and copy propagation: a temporary that holds a constant or a register's value gives way to it.

use super::{Scratch, Versions, entry, reset};
use crate::block::{Block, Op};
use crate::effect::arg_width;
use crate::operand::{FlagSet, Mem, Operand, Width};
use crate::ops::OpCode;

/// What a temporary equals in its low bits.
#[derive(Clone, Copy)]
pub(super) struct Fact {
    /// A constant, a register, another temporary or a `pc`; `None`: nothing known.
    what: Operand,
    /// So many low bits are equal.
    width: Width,
    /// The register's version at the time.
    version: u32,
}

const UNKNOWN: Fact = Fact {
    what: Operand::None,
    width: Width::B8,
    version: 0,
};

/// Replaces temporaries by what they equal and computes what is constant.
pub(super) fn run(block: &mut Block, scratch: &mut Scratch) {
    let facts = &mut scratch.facts;
    reset(facts, block.temps, UNKNOWN);
    let mut versions = Versions::default();
    for op in &mut block.ops {
        if op.code == OpCode::Insn {
            continue;
        }
        // In a vector or x87 op a constant means an immediate or a stack register; their operands stay.
        if !matches!(op.code, OpCode::Vec | OpCode::X87 | OpCode::VecStore) {
            substitute(op, facts, &versions);
        }
        if let Some(mem) = &mut op.mem {
            substitute_address(mem, facts, &versions);
        }
        simplify(op);
        if let (OpCode::Mov, Operand::Temp(t)) = (op.code, op.dst) {
            if matches!(
                op.a,
                Operand::Imm(_) | Operand::Reg(_) | Operand::Temp(_) | Operand::Pc(_)
            ) {
                if let Some(fact) = entry(facts, t) {
                    *fact = Fact {
                        what: op.a,
                        width: op.width,
                        version: versions.stamp(op.a),
                    };
                }
            }
        }
        versions.write(op);
    }
}

/// What may stand for the operand where its low `width` bits are meant; `None` when it is best itself.
fn known(
    operand: Operand,
    width: Width,
    facts: &mut [Fact],
    versions: &Versions,
) -> Option<Operand> {
    let Operand::Temp(t) = operand else {
        return None;
    };
    let fact = *entry(facts, t)?;
    let usable =
        fact.what.is_some() && width <= fact.width && versions.stamp(fact.what) == fact.version;
    usable.then_some(fact.what)
}

fn substitute(op: &mut Op, facts: &mut [Fact], versions: &Versions) {
    let widths = [arg_width(op, 0), arg_width(op, 1), arg_width(op, 2)];
    let code = op.code;
    for (arg, width) in [&mut op.a, &mut op.b, &mut op.c].into_iter().zip(widths) {
        if let Some(what) = known(*arg, width, facts, versions) {
            if !matches!(what, Operand::Pc(_)) || matches!(code, OpCode::Mov | OpCode::Store) {
                *arg = what;
            }
        }
    }
}

fn substitute_address(mem: &mut Mem, facts: &mut [Fact], versions: &Versions) {
    match known(mem.base, mem.addr, facts, versions) {
        Some(Operand::Imm(n)) => {
            if let Some(disp) = add_disp(mem, n) {
                mem.disp = disp;
                mem.base = Operand::None;
            }
        }
        Some(what) => mem.base = what,
        None => {}
    }
    match known(mem.index, mem.addr, facts, versions) {
        Some(Operand::Imm(n)) => {
            if let Some(disp) = add_disp(mem, n << mem.scale) {
                mem.disp = disp;
                mem.index = Operand::None;
                mem.scale = 0;
            }
        }
        Some(Operand::Pc(_)) | None => {}
        Some(what) => mem.index = what,
    }
}

/// The displacement with `n` added, when it still says the same address.
pub(super) fn add_disp(mem: &Mem, n: i64) -> Option<i32> {
    let sum = i64::from(mem.disp).wrapping_add(n);
    match mem.addr {
        Width::B64 => i32::try_from(sum).ok(),
        // Cut to 32 bits or fewer, the sum is the same whatever the bits above.
        _ => Some(sum as i32),
    }
}

/// A value as the constant that stands for it at a width.
fn at_width(value: u64, width: Width) -> i64 {
    let unused = 64 - width.bits();
    ((value << unused) as i64) >> unused
}

/// Turns an op into a cheaper one that does the same.
fn simplify(op: &mut Op) {
    if matches!(
        op.code,
        OpCode::Add | OpCode::And | OpCode::Or | OpCode::Xor
    ) {
        if matches!((op.a, op.b), (Operand::Imm(_), b) if !matches!(b, Operand::Imm(_))) {
            (op.a, op.b) = (op.b, op.a);
        }
    }
    if !op.flags.is_empty() || !op.dst.is_some() {
        return;
    }
    let becomes = match (op.code, op.a, op.b) {
        (OpCode::Lea, ..) => lea(op),
        (OpCode::Xor | OpCode::Sub, a, b) if a == b => Some(Operand::Imm(0)),
        (OpCode::Add | OpCode::Sub | OpCode::Or | OpCode::Xor, a, Operand::Imm(n))
            if n as u64 & op.width.mask() == 0 =>
        {
            Some(a)
        }
        (_, Operand::Imm(a), Operand::Imm(b)) => value(op, a as u64, b as u64),
        (_, Operand::Imm(a), Operand::None) => value(op, a as u64, 0),
        _ => None,
    };
    if let Some(a) = becomes {
        *op = Op {
            dst: op.dst,
            a,
            flags: FlagSet::NONE,
            ..Op::new(OpCode::Mov, op.width)
        };
    }
}

/// The op's result for constant operands.
fn value(op: &Op, a: u64, b: u64) -> Option<Operand> {
    let width = op.width;
    let from = Width::ALL.get(op.sub as usize).copied();
    let count = b as u32 & if width == Width::B64 { 63 } else { 31 };
    let result = match op.code {
        OpCode::Zext => a & from?.mask(),
        OpCode::Sext => at_width(a, from?) as u64,
        OpCode::Bswap if width >= Width::B32 => a.swap_bytes() >> (64 - width.bits()),
        OpCode::Add => a.wrapping_add(b),
        OpCode::Sub => a.wrapping_sub(b),
        OpCode::And => a & b,
        OpCode::Or => a | b,
        OpCode::Xor => a ^ b,
        OpCode::Inc => a.wrapping_add(1),
        OpCode::Dec => a.wrapping_sub(1),
        OpCode::Neg => a.wrapping_neg(),
        OpCode::Not => !a,
        OpCode::Imul => a.wrapping_mul(b),
        // Counts up to 31 on 8 or 16 bits: 64-bit arithmetic shifts everything out as the narrow one does.
        OpCode::Shl => a << count,
        OpCode::Shr => (a & width.mask()) >> count,
        OpCode::Sar => (at_width(a, width) >> count) as u64,
        _ => return None,
    };
    Some(Operand::Imm(at_width(result, width)))
}

/// What an address is when it is only a constant or a register.
fn lea(op: &Op) -> Option<Operand> {
    let mem = op.mem.as_ref()?;
    if mem.index.is_some() {
        return None;
    }
    if mem.base == Operand::None {
        let address = i64::from(mem.disp) as u64 & mem.addr.mask();
        return Some(Operand::Imm(at_width(address, op.width)));
    }
    (mem.disp == 0 && op.width <= mem.addr).then_some(mem.base)
}
