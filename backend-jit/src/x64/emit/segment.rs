//! Addresses in FS and GS of 32-bit code: their bases are anything, the rest is flat as a rule.

use std::mem::offset_of;

use ir::{Cond, Op, Operand, Width};
use x86::Seg;

use super::Emit;
use super::memory::entry;
use crate::x64::asm::{Alu, Rm};
use crate::x64::frame::{Frame, S1, WHOLE_FS, WHOLE_GS, field};

impl Emit<'_> {
    /// The linear address of an access; the interpreter makes it where the segment is not whole, or the access not inside.
    pub(super) fn segment_linear(&mut self, op: &Op) -> Option<()> {
        let (bit, base, entry) = match Seg::from_index(op.sub as usize)? {
            Seg::Fs => (WHOLE_FS, offset_of!(Frame, fs_base), entry::FS),
            Seg::Gs => (WHOLE_GS, offset_of!(Frame, gs_base), entry::GS),
            _ => return None,
        };
        let w = Width::B32;
        let (Operand::Temp(temp), Operand::Imm(size @ 1..=64)) = (op.dst, op.b) else {
            return None;
        };
        if self.code64 || op.width != w {
            return None;
        }
        self.clobber();
        let odd = self.a.label();
        let whole = Rm::M(field(offset_of!(Frame, whole)));
        self.a.test_imm(w, whole, bit.cast_signed());
        self.a.jcc(Cond::E, odd);
        self.fetch(w, S1, op.a)?;
        if size > 1 {
            self.a.alu_imm(Alu::Cmp, w, Rm::R(S1), -size as i32);
            self.a.jcc(Cond::A, odd);
        }
        self.a.alu(Alu::Add, w, S1, Rm::M(field(base)));
        self.finish(Width::B64, op.dst, S1)?;
        self.in_segment = Some((temp, entry));
        self.interpret_from(odd);
        Some(())
    }
}
