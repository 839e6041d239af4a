//! Addresses in segments that are not flat: base and limit are in the frame, and looked at for each access.

use std::mem::offset_of;

use ir::{Cond, Mem, OpCode, Operand, Temp, Width};
use x86::{Gpr, Seg};

use super::Emit;
use super::memory::entry;
use crate::x64::asm::{self, Alu, Rm};
use crate::x64::frame::{Bounds, Frame, S0, S1, field};

impl Emit<'_> {
    /// The linear address of an access, whose offset is `mem`'s address where that was not computed before; the interpreter
    /// makes the access where the segment has more to it, or it is not inside.
    pub(super) fn segment_linear(&mut self, at: usize, to: usize, mem: Option<&Mem>) -> Option<()> {
        let op = self.ops[at];
        let seg = Seg::from_index(op.sub as usize)?;
        let (Operand::Temp(temp), Operand::Imm(size @ 1..=64)) = (op.dst, op.b) else {
            return None;
        };
        let w = op.width;
        if self.code64 || w == Width::B64 {
            return None;
        }
        self.clobber();
        match (mem, self.place(op.a)) {
            (Some(mem), _) => self.address_into(mem, S0, w)?,
            (None, Some(place)) => self.a.movzx(w, S0, place),
            (None, None) => self.fetch(w, S0, op.a)?,
        }
        self.add_base(seg, size as i32, op.c.is_some());
        let next = self.ops.get(at + 1).filter(|_| at + 1 < to);
        let once = self.uses.get(usize::from(temp.0)) == Some(&1)
            && next.and_then(|op| op.mem).is_some_and(|m| m.base == op.dst)
            // What saves the carry in between needs the scratch register.
            && !next.is_some_and(|op| {
                op.code == OpCode::Rmw && matches!(op.alu(), OpCode::Inc | OpCode::Dec)
            });
        if !once {
            self.finish(Width::B64, op.dst, S0)?;
        }
        let through = mem.map_or([op.a, Operand::None], |mem| [mem.base, mem.index]);
        self.at_hand(temp, seg, through.into_iter().find_map(Self::gpr), !once);
        Some(())
    }

    /// Looks whether the offset in S0 is inside a segment, and adds its base.
    fn add_base(&mut self, seg: Seg, size: i32, write: bool) {
        let bounds = offset_of!(Frame, bounds) + seg as usize * size_of::<Bounds>();
        let end = if write {
            offset_of!(Bounds, write_end)
        } else {
            offset_of!(Bounds, read_end)
        };
        let odd = self.a.label();
        let (end, q) = (Rm::M(field(bounds + end)), Width::B64);
        if size == 1 {
            self.a.alu(Alu::Cmp, q, S0, end);
            self.a.jcc(Cond::Ae, odd);
        } else {
            self.a.lea(q, S1, asm::Mem::at(S0, size));
            self.a.alu(Alu::Cmp, q, S1, end);
            self.a.jcc(Cond::A, odd);
        }
        let base = Rm::M(field(bounds + offset_of!(Bounds, base)));
        self.a.alu(Alu::Add, Width::B32, S0, base);
        self.interpret_from(odd);
    }

    /// S0 is what a temporary stands for; `stored`: it has it, too. `through`: the register that the address goes by.
    fn at_hand(&mut self, temp: Temp, seg: Seg, through: Option<Gpr>, stored: bool) {
        self.linear = Some((temp, self.a.moment(), stored));
        let entry = match (seg, through) {
            (Seg::Fs, _) => entry::FS,
            (Seg::Gs, _) => entry::GS,
            (_, Some(g)) => g as usize,
            _ => entry::TEMP,
        };
        self.in_segment = Some((temp, entry));
    }

    /// The place of a string instruction's operand of `size` bytes.
    pub(super) fn string_operand(
        &mut self,
        (seg, g): (Seg, Gpr),
        addr: Width,
        size: u32,
        write: bool,
    ) -> Option<Mem> {
        let offset = Mem {
            addr,
            ..Mem::at(Operand::Reg(g), 0)
        };
        if self.code64 || self.cx.mode.flat(seg) {
            return Some(offset);
        }
        self.clobber();
        self.address_into(&offset, S0, addr)?;
        self.add_base(seg, size as i32, write);
        // No temporary has it, nor is one asked.
        let temp = Temp(u16::MAX);
        self.at_hand(temp, seg, Some(g), false);
        Some(Mem::at(Operand::Temp(temp), 0))
    }

    /// Whether the address that an op computes is for the segment alone that the next op looks at.
    pub(super) fn is_offset(&self, at: usize, to: usize) -> bool {
        let (op, next) = (&self.ops[at], self.ops.get(at + 1).filter(|_| at + 1 < to));
        let once = op
            .dst
            .temp()
            .is_some_and(|t| self.uses.get(usize::from(t.0)) == Some(&1));
        once && next.is_some_and(|next| {
            next.code == OpCode::SegLin && next.a == op.dst && next.width == op.width
        })
    }

    /// Where S0 holds an address in a segment, or else a temporary does, and neither is to be computed. `None`: it is lost.
    pub(super) fn linear_at_hand(&self, operand: Operand) -> Option<bool> {
        match self.linear {
            Some((temp, moment, stored)) if operand == Operand::Temp(temp) => {
                let here = moment == self.a.moment();
                (here || stored).then_some(here)
            }
            _ => Some(false),
        }
    }
}
