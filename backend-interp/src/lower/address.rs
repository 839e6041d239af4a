//! Addresses: the IR's memory operands as base, index, scale and displacement fields.

use ir::{Mem, Operand, SegBase, Width};
use system::offset;
use x86::Seg;

use super::Lower;
use crate::code::LOp;
use crate::handlers::memory;

/// An address as memory handlers take it.
#[derive(Clone, Copy)]
pub struct Address {
    /// Base field.
    pub b: u16,
    /// Index field.
    pub c: u16,
    /// log2 of the index's factor.
    pub scale: u8,
    /// Displacement.
    pub disp: i32,
    /// There is an index.
    pub idx: bool,
    /// Cut to 32 bits.
    pub a32: bool,
}

impl Lower<'_> {
    /// The address fields of a memory operand, after ops for what they cannot say. Alignment checks that the operand
    /// or the mode asks for are made here too; `size` is the access's.
    pub(super) fn address(&mut self, now: usize, mem: &Mem, size: u32) -> Option<Address> {
        let address = self.plain_address(now, mem)?;
        let checks: [(bool, u32, [crate::code::Handler; 4]); 2] = [
            (
                mem.align > 1,
                mem.align.into(),
                [
                    memory::align_gp::<false, false>,
                    memory::align_gp::<true, false>,
                    memory::align_gp::<false, true>,
                    memory::align_gp::<true, true>,
                ],
            ),
            (
                self.mode.align_check() && mem.align <= 1 && size > 1 && size.is_power_of_two(),
                size,
                [
                    memory::align_ac::<false, false>,
                    memory::align_ac::<true, false>,
                    memory::align_ac::<false, true>,
                    memory::align_ac::<true, true>,
                ],
            ),
        ];
        for (wanted, to, table) in checks {
            if wanted {
                let run = memory::pick(address.idx, address.a32, table);
                self.push(LOp {
                    run,
                    d: to as u16,
                    ..self.with_address(address)
                });
            }
        }
        Some(address)
    }

    /// An op with the address in its fields and the scale in `imm`.
    pub(super) fn with_address(&self, a: Address) -> LOp {
        LOp {
            b: a.b,
            c: a.c,
            disp: a.disp,
            imm: a.scale.into(),
            ..self.blank()
        }
    }

    pub(super) fn plain_address(&mut self, now: usize, mem: &Mem) -> Option<Address> {
        let seg = match mem.seg {
            SegBase::None => None,
            SegBase::Fs => Some(offset::seg_base(Seg::Fs) as u16),
            SegBase::Gs => Some(offset::seg_base(Seg::Gs) as u16),
        };
        let cut = mem.addr == Width::B32;
        let address = self.components(now, mem)?;
        if mem.addr == Width::B16 {
            let d = self.slot(now, 0)?;
            self.push(LOp {
                run: memory::lea16::<u64>,
                d,
                ..self.with_address(address)
            });
            let zero = offset::ZERO as u16;
            return Some(match seg {
                None => Address {
                    b: d,
                    c: zero,
                    scale: 0,
                    disp: 0,
                    idx: false,
                    a32: false,
                },
                Some(base) => Address {
                    b: base,
                    c: d,
                    scale: 0,
                    disp: 0,
                    idx: true,
                    a32: false,
                },
            });
        }
        let Some(base) = seg else {
            return Some(Address {
                a32: cut,
                ..address
            });
        };
        let bare = mem.base == Operand::None && mem.index == Operand::None;
        if bare && !cut {
            return Some(Address { b: base, ..address });
        }
        if !address.idx && !cut {
            return Some(Address {
                b: base,
                c: address.b,
                scale: 0,
                idx: true,
                ..address
            });
        }
        let d = self.slot(now, 0)?;
        let table: [crate::code::Handler; 4] = [
            memory::lea::<u64, false, false>,
            memory::lea::<u64, true, false>,
            memory::lea::<u64, false, true>,
            memory::lea::<u64, true, true>,
        ];
        let run = memory::pick(address.idx, cut, table);
        self.push(LOp {
            run,
            d,
            ..self.with_address(address)
        });
        Some(Address {
            b: base,
            c: d,
            scale: 0,
            disp: 0,
            idx: true,
            a32: false,
        })
    }

    /// Base, index and displacement as fields, without the segment.
    fn components(&mut self, now: usize, mem: &Mem) -> Option<Address> {
        let mut disp = mem.disp;
        let b = match mem.base {
            Operand::Pc(delta) => match disp.checked_add(delta) {
                Some(sum) => {
                    disp = sum;
                    offset::RIP as u16
                }
                None => self.field(now, mem.base)?,
            },
            other => self.field(now, other)?,
        };
        let idx = mem.index != Operand::None;
        let c = self.field(now, mem.index)?;
        Some(Address {
            b,
            c,
            scale: mem.scale,
            disp,
            idx,
            a32: false,
        })
    }
}
