//! Emitted code that is used again at other linear addresses: which of its fields depend on the address, on the block's
//! numbers and on its page's, and what becomes of them elsewhere.

use super::{Asm, Fixup, Section};
use crate::x64::frame::{self, PAGE_SLOT};

/// What a field of the code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 8 bytes: a linear address.
    Address,
    /// 8 bytes: a linear page, negated.
    MinusPage,
    /// 4 bytes, the offset of the page cache entry of a constant address among their terms. The address is so far from the
    /// block's start.
    Entry(i64),
    /// 4 bytes: the block's number, or that of one of its exits, indirect exits or slow ops (0 to 3).
    Number(u8),
    /// 4 bytes, the offset of the page's slot among their terms.
    Slot,
    /// 4 bytes: the page's number.
    Page,
}

/// A field, by its first byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    section: Section,
    at: u32,
    field: Field,
}

/// What code is emitted for.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Linear address of the block's first byte.
    pub lin: u64,
    /// The block's number, and the first of its exits', indirect exits' and slow ops'.
    pub numbers: [u32; 4],
    /// Slot and number of the block's page.
    pub page: (usize, u32),
}

/// Code, not linked.
pub struct Saved {
    bytes: [Box<[u8]>; 2],
    labels: Box<[Option<(Section, u32)>]>,
    fixups: Box<[Fixup]>,
    notes: Box<[Note]>,
}

impl Saved {
    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        let tables = size_of_val(&*self.labels) + size_of_val(&*self.fixups);
        self.bytes.iter().map(|b| b.len()).sum::<usize>() + tables + size_of_val(&*self.notes)
    }
}

impl Asm {
    /// Notes what the field is that ends `behind` bytes before what comes next.
    pub fn note(&mut self, behind: u32, field: Field) {
        let size = match field {
            Field::Address | Field::MinusPage => 8,
            Field::Entry(_) | Field::Number(_) | Field::Slot | Field::Page => 4,
        };
        // A shorter form has no such field; who wants to use it elsewhere finds out that it differs there.
        if let Some(at) = self.here().checked_sub(size + behind) {
            let section = self.which();
            self.notes.push(Note { section, at, field });
        }
    }

    /// What was emitted.
    pub fn save(&self) -> Saved {
        Saved {
            bytes: [self.bytes[0].get().into(), self.bytes[1].get().into()],
            labels: self.labels.as_slice().into(),
            fixups: self.fixups.as_slice().into(),
            notes: self.notes.as_slice().into(),
        }
    }

    /// Takes on what was emitted for `old`, as it would have been for `new`.
    pub fn load_saved(&mut self, saved: &Saved, old: &Base, new: &Base) {
        self.clear();
        for (bytes, saved) in self.bytes.iter_mut().zip(&saved.bytes) {
            bytes.set(saved);
        }
        self.labels.extend_from_slice(&saved.labels);
        self.fixups.extend_from_slice(&saved.fixups);
        let moved = new.lin.wrapping_sub(old.lin);
        for note in &saved.notes {
            let (size, add) = match note.field {
                Field::Address => (8, moved),
                Field::MinusPage => (8, moved.wrapping_neg()),
                Field::Entry(distance) => {
                    let at = |base: &Base| {
                        frame::constant(base.lin.wrapping_add_signed(distance)) as u64
                    };
                    (4, at(new).wrapping_sub(at(old)))
                }
                Field::Number(n) => {
                    let number = |base: &Base| u64::from(base.numbers[usize::from(n)]);
                    (4, number(new).wrapping_sub(number(old)))
                }
                Field::Slot => {
                    let slot = |base: &Base| base.page.0 as u64 * PAGE_SLOT as u64;
                    (4, slot(new).wrapping_sub(slot(old)))
                }
                Field::Page => (4, u64::from(new.page.1.wrapping_sub(old.page.1))),
            };
            let from = note.at as usize;
            let field = &mut self.bytes[note.section as usize].room[from..from + size];
            let mut value = [0; 8];
            value[..size].copy_from_slice(field);
            let value = u64::from_le_bytes(value).wrapping_add(add).to_le_bytes();
            field.copy_from_slice(&value[..size]);
        }
    }

    /// Whether two pieces of linked code are the same, and so are their labels.
    pub fn same(&self, other: &Self) -> bool {
        let bytes = |n: usize| self.bytes[n].get() == other.bytes[n].get();
        bytes(0) && bytes(1) && self.labels == other.labels
    }
}
