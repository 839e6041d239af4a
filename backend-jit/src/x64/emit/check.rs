//! The check at the entry of code that keeps changing: are the guest's bytes those it was translated from? No store is
//! watched for such code. Constants that change all the time are not compared but read.

use ir::{Cond, Width};

use super::Emit;
use crate::x64::asm::{Alu, Label, Mem, Rm, Section};
use crate::x64::frame::{S0, S1, temp};

/// A constant in the guest's code that is read at the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Offset of its first byte from the block's start.
    pub at: u16,
    pub size: Width,
    /// How it becomes 64 bits.
    pub signed: bool,
    /// The temporary that receives it.
    pub temp: u16,
}

impl Field {
    /// The bytes that it takes.
    pub fn range(&self) -> std::ops::Range<usize> {
        let at = usize::from(self.at);
        at..at + self.size.bytes() as usize
    }
}

/// What is compared and read.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// Host address of the code's first byte, and of its second page.
    pub host: [u64; 2],
    /// How many of the bytes lie in the first page.
    pub split: usize,
    /// The bytes that it was translated from, at most 128.
    pub bytes: &'a [u8],
    /// Ascending, none across the two pages.
    pub fields: &'a [Field],
}

impl Emit<'_> {
    /// Emits it. Returns where the displacement of the jump lies (offset in the cold section) that is taken when the
    /// bytes differ: to `stale` at first.
    pub(super) fn check(&mut self, check: &Check<'_>, stale: Label) -> u32 {
        let fail = self.a.label();
        let end = check.bytes.len();
        let parts = [(0, check.split.min(end)), (check.split.min(end), end)];
        for ((from, to), host) in parts.into_iter().zip(check.host) {
            if from == to {
                continue;
            }
            self.a.mov_imm(S0, host);
            let mut at = from;
            for field in check.fields {
                let range = field.range();
                if range.start < from || range.start >= to {
                    continue;
                }
                self.compare_code(&check.bytes[at..range.start], at - from, fail);
                at = range.end;
            }
            self.compare_code(&check.bytes[at..to], at - from, fail);
            for field in check.fields {
                let range = field.range();
                if (from..to).contains(&range.start) {
                    let place = Rm::M(Mem::at(S0, (range.start - from) as i32));
                    if field.signed {
                        self.a.movsx(Width::B64, field.size, S1, place);
                    } else {
                        self.a.movzx(field.size, S1, place);
                    }
                    self.a.store(Width::B64, temp(usize::from(field.temp)), S1);
                }
            }
        }
        let old = self.a.section(Section::Cold);
        self.a.bind(fail);
        let place = self.a.jmp_link(stale);
        self.a.section(old);
        place
    }

    /// Compares bytes at an offset from S0: in the largest pieces that there are, the last overlapping the one before.
    fn compare_code(&mut self, bytes: &[u8], offset: usize, fail: Label) {
        let len = bytes.len();
        let Some(w) = [Width::B64, Width::B32, Width::B16, Width::B8]
            .into_iter()
            .find(|w| w.bytes() as usize <= len)
        else {
            return;
        };
        let step = w.bytes() as usize;
        let mut done = 0;
        while done < len {
            let at = done.min(len - step);
            let mut piece = [0; 8];
            piece[..step].copy_from_slice(&bytes[at..at + step]);
            let value = u64::from_le_bytes(piece);
            let place = Rm::M(Mem::at(S0, (offset + at) as i32));
            if w == Width::B64 {
                self.a.mov_imm(S1, value);
                self.a.alu(Alu::Cmp, w, S1, place);
            } else {
                let shift = 64 - w.bits();
                let signed = (value << shift).cast_signed() >> shift;
                self.a.alu_imm(Alu::Cmp, w, place, signed as i32);
            }
            self.a.jcc(Cond::Ne, fail);
            done = at + step;
        }
    }
}
