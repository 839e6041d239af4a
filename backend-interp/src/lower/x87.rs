//! Lowers x87 instructions: a fast handler where there is one, and behind those that access memory the plain ops.

use std::mem::offset_of;

use iced_x86::Code;
use ir::{Op, OpCode, Operand, SegBase, Width};
use system::offset;
use x86::Segment;

use super::Lower;
use crate::code::{Handler, LOp};
use crate::handlers::system as sys;
use crate::x87::{self, packed};

impl Lower<'_> {
    /// An x87 instruction by itself: without a memory operand, or one that has no fast handler.
    pub(super) fn x87(&mut self, at: usize, op: &Op) -> Option<()> {
        let imm = self.describe(at, op, false)?;
        let fast = match op.a {
            Operand::VecTemp(_) => None,
            _ if self.exact => None,
            _ => Code::try_from(op.sub as usize).ok().and_then(x87::register),
        };
        let stack = match op.a {
            Operand::Imm(i) => i as u16 & 7,
            // FCOMPP and FUCOMPP imply ST(1); for the others it does not matter.
            _ => 1,
        };
        match fast {
            Some(run) => {
                let disp = if self.mode.code64() { -1 } else { 0 };
                self.push(LOp {
                    run,
                    a: stack,
                    disp,
                    imm,
                    ..self.blank()
                });
            }
            None => self.push(LOp {
                run: sys::x87,
                imm,
                ..self.blank()
            }),
        }
        Some(())
    }

    /// An x87 instruction with a memory operand, from the op that computes its offset or the one that loads or probes.
    /// Returns how many ops that were.
    pub(super) fn x87_memory(&mut self, at: usize) -> Option<usize> {
        let first = &self.ops[at];
        let (begin, offset) = match first.code {
            OpCode::Lea if self.single(first.dst) => (at + 1, Some(first.dst)),
            OpCode::VecLoad | OpCode::ProbeWrite => (at, None),
            _ => return None,
        };
        let (access, second) = (self.ops.get(begin)?, self.ops.get(begin + 1)?);
        let code = |op: &Op| Code::try_from(op.sub as usize).ok();
        let (x87, run, end): (&Op, Handler, usize) = match access.code {
            OpCode::VecLoad if second.code == OpCode::X87 && second.a == access.dst => {
                (second, x87::from_memory(code(second)?)?, begin + 2)
            }
            OpCode::ProbeWrite => {
                let mut n = begin + 1;
                if second.code == OpCode::ProbeWrite {
                    n += 1;
                }
                let (x87, store) = (self.ops.get(n)?, self.ops.get(n + 1)?);
                if x87.code != OpCode::X87 || store.code != OpCode::VecStore || store.a != x87.dst {
                    return None;
                }
                // The second of two probes is of another address.
                let same = |a: &ir::Mem, b: &ir::Mem| {
                    (a.base, a.index, a.disp, a.addr) == (b.base, b.index, b.disp, b.addr)
                };
                if !access.mem.zip(store.mem).is_some_and(|(a, b)| same(&a, &b)) {
                    return None;
                }
                (x87, x87::to_memory(code(x87)?)?, n + 2)
            }
            _ => return None,
        };
        if self.exact || self.mode.align_check() || offset.is_some_and(|o| o != x87.b) {
            return None;
        }
        let mem = access.mem?;
        let linear = self.mode.code64() && mem.seg == SegBase::None && mem.addr == Width::B64;
        if mem.addr == Width::B16 || !linear && offset.is_some() {
            return None;
        }
        let x87 = *x87;
        let address = self.address(begin, &mem, 0)?;
        let a = if linear {
            offset::ZERO as u16
        } else {
            self.field(begin, x87.b)?
        };
        let segment = match x87.c {
            Operand::Imm(segment) => x86::Seg::from_index(segment as usize).unwrap_or(x86::Seg::Ds),
            _ => x86::Seg::Ds,
        };
        let selector =
            offset::seg_base(segment) - offset_of!(Segment, base) + offset_of!(Segment, selector);
        let mut imm = i64::from(address.scale) | (selector as i64) << packed::SELECTOR;
        for (wanted, bit) in [
            (address.a32, packed::A32),
            (self.mode.code64(), packed::CODE64),
            (linear, packed::LINEAR),
        ] {
            if wanted {
                imm |= bit;
            }
        }
        let place = self.out.ops.len();
        self.push(LOp {
            run,
            a,
            imm,
            ..self.with_address(address)
        });
        for n in at..end {
            let op = &self.ops[n];
            self.single_op(n, op)?;
        }
        let whole = if access.code == OpCode::VecLoad {
            x87::FROM_MEMORY
        } else {
            x87::TO_MEMORY
        };
        let end_of_all = place + usize::from(whole);
        if self.out.ops.len() > end_of_all {
            self.out.ops.remove(place);
        } else {
            while self.out.ops.len() < end_of_all {
                self.push(LOp {
                    run: sys::nop,
                    ..self.blank()
                });
            }
        }
        Some(end - at)
    }
}
