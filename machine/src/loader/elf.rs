//! ELF files for x86 (System V ABI, chapters 4 and 5): segments, notes and section headers.

use super::bytes::{Bytes, Table};
use super::claims::{Claims, FOUR_GIB};
use super::error::Problem;

const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;

/// A program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    file_len: u64,
    memory_len: u64,
    align: u64,
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Elf<'a> {
    file: Bytes<'a>,
    wide: bool,
    /// The entry point, in whatever address space the linker saw.
    entry: u64,
    segments: Vec<Segment>,
}

/// The section headers, for kernels that want their own symbols.
pub(super) struct Sections {
    /// Number of headers.
    pub count: u32,
    /// Bytes of each.
    pub entry_len: u32,
    /// Which one holds the sections' names.
    pub names: u32,
    /// The headers, with addresses for the sections that we put into RAM.
    pub table: Vec<u8>,
}

impl<'a> Elf<'a> {
    /// Parses the file header and the program headers; `None` if this is no x86 ELF file.
    pub(super) fn parse(file: &'a [u8]) -> Result<Option<Self>, Problem> {
        let file = Bytes(file);
        let is_elf = file.slice(0, 4) == Some(b"\x7fELF") && file.u8(5) == Some(1);
        if !is_elf || !matches!(file.u16(18), Some(EM_386 | EM_X86_64)) {
            return Ok(None);
        }
        let wide = match file.u8(4) {
            Some(1) => false,
            Some(2) => true,
            _ => return Ok(None),
        };
        file.need(0, if wide { 64 } else { 52 }, "the ELF header")?;
        let word = |narrow_at, wide_at| {
            if wide {
                file.u64(wide_at)
            } else {
                file.u32(narrow_at).map(u64::from)
            }
            .unwrap_or(0)
        };
        let half = |narrow_at, wide_at| {
            file.u16(if wide { wide_at } else { narrow_at })
                .unwrap_or(0)
        };
        let (at, each, count) = (
            word(28, 32),
            u64::from(half(42, 54)),
            u64::from(half(44, 56)),
        );
        if count > 0 && each < if wide { 56 } else { 32 } {
            return Err(Problem::Malformed("its program headers are too small"));
        }
        file.need(at, each * count, "the program headers")?;
        let segments = (0..count)
            .filter_map(|n| Segment::parse(file, wide, at + n * each))
            .collect();
        Ok(Some(Self {
            file,
            wide,
            entry: word(24, 24),
            segments,
        }))
    }

    fn loaded(&self) -> impl Iterator<Item = &Segment> {
        self.segments
            .iter()
            .filter(|s| s.kind == PT_LOAD && s.memory_len > 0)
    }

    /// The physical addresses from the first to behind the last byte that is loaded.
    pub(super) fn extent(&self) -> Result<(u64, u64), Problem> {
        let mut extent = None;
        for s in self.loaded() {
            let end = s.paddr.checked_add(s.memory_len);
            let end = end.ok_or(Problem::Malformed("a segment runs past 2^64"))?;
            let (low, high) = extent.unwrap_or((s.paddr, end));
            extent = Some((low.min(s.paddr), high.max(end)));
        }
        extent.ok_or(Problem::Malformed("it has no segment to load"))
    }

    /// Copies the segments to their physical addresses plus `shift` (modulo 2^64), and clears what follows them.
    pub(super) fn load(&self, shift: u64, claims: &mut Claims<'_>) -> Result<(), Problem> {
        const WHAT: &str = "the kernel";
        for s in self.loaded() {
            if s.file_len > s.memory_len {
                return Err(Problem::Malformed(
                    "a segment is larger in the file than in memory",
                ));
            }
            let bytes = self.file.need(s.offset, s.file_len, "a segment")?;
            let at = s.paddr.wrapping_add(shift);
            claims.claim(at, s.memory_len, WHAT)?;
            claims.write(at, bytes, WHAT)?;
            claims.zero(at + s.file_len, s.memory_len - s.file_len, WHAT)?;
        }
        Ok(())
    }

    /// Whether a physical address lies in a segment that is loaded.
    pub(super) fn contains(&self, addr: u64) -> bool {
        self.loaded()
            .any(|s| addr >= s.paddr && addr - s.paddr < s.memory_len)
    }

    /// The entry point as a physical address: kernels linked high give a virtual one.
    pub(super) fn physical_entry(&self) -> Result<u64, Problem> {
        if self.contains(self.entry) {
            return Ok(self.entry);
        }
        let by_virtual = self
            .loaded()
            .find(|s| self.entry >= s.vaddr && self.entry - s.vaddr < s.memory_len);
        by_virtual
            .map(|s| s.paddr.wrapping_add(self.entry - s.vaddr))
            .ok_or(Problem::Malformed(
                "its entry point is outside its segments",
            ))
    }

    /// The contents of the first note with this owner and type.
    pub(super) fn note(&self, owner: &[u8], kind: u32) -> Option<&'a [u8]> {
        self.segments
            .iter()
            .filter(|s| s.kind == PT_NOTE)
            .find_map(|s| {
                let notes = Bytes(self.file.slice(s.offset, s.file_len)?);
                // Notes are padded to 4 bytes; GNU's property notes, in segments of their own, to 8.
                let align = if s.align == 8 { 8 } else { 4_u64 };
                let mut at = 0;
                loop {
                    let (name_len, len) =
                        (u64::from(notes.u32(at)?), u64::from(notes.u32(at + 4)?));
                    let name_at = at + 12;
                    let at_desc = (name_at + name_len).next_multiple_of(align);
                    let name = notes.slice(name_at, name_len)?;
                    let desc = notes.slice(at_desc, len)?;
                    let name = name.strip_suffix(b"\0").unwrap_or(name);
                    if name == owner && notes.u32(at + 8)? == kind {
                        return Some(desc);
                    }
                    at = (at_desc + len).next_multiple_of(align);
                }
            })
    }

    /// Puts the sections that are not loaded (symbols, names) behind the kernel, and returns the headers with their
    /// addresses. `None` if there are none or they make no sense: they are an extra.
    pub(super) fn place_sections(&self, claims: &mut Claims<'_>) -> Option<Sections> {
        let file = self.file;
        let (at, tail) = if self.wide {
            (file.u64(40)?, 58)
        } else {
            (u64::from(file.u32(32)?), 46)
        };
        let (each, count, names) = (file.u16(tail)?, file.u16(tail + 2)?, file.u16(tail + 4)?);
        let least = if self.wide { 64 } else { 40 };
        if count == 0 || u64::from(each) < least {
            return None;
        }
        let mut table = Table(file.slice(at, u64::from(each) * u64::from(count))?.to_vec());
        let mut total = 0_u64;
        for n in 0..usize::from(count) {
            let base = n * usize::from(each);
            let header = Bytes(table.0.get(base..)?);
            let field = |narrow, wide| {
                if self.wide {
                    header.u64(wide)
                } else {
                    header.u32(narrow).map(u64::from)
                }
            };
            let (kind, flags) = (header.u32(4)?, field(8, 8)?);
            let (offset, len) = (field(16, 24)?, field(20, 32)?);
            if kind == 0 || kind == SHT_NOBITS || flags & SHF_ALLOC != 0 || len == 0 {
                continue;
            }
            // Headers may name the same bytes over and over; together they cannot exceed the file.
            total = total.checked_add(len).filter(|t| *t <= file.len())?;
            let bytes = file.slice(offset, len)?;
            let to = claims.lowest(len, 16, claims.end().min(FOUR_GIB)..FOUR_GIB)?;
            claims.write(to, bytes, "a section").ok()?;
            if self.wide {
                table.u64(base + 16, to)
            } else {
                table.u32(base + 12, to as u32)
            }
        }
        let (count, entry_len, names) = (count.into(), each.into(), names.into());
        Some(Sections {
            count,
            entry_len,
            names,
            table: table.0,
        })
    }
}

impl Segment {
    fn parse(file: Bytes<'_>, wide: bool, at: u64) -> Option<Self> {
        let narrow = |n| file.u32(at + n).map(u64::from);
        let long = |n| file.u64(at + n);
        let kind = file.u32(at)?;
        Some(if wide {
            Self {
                kind,
                offset: long(8)?,
                vaddr: long(16)?,
                paddr: long(24)?,
                file_len: long(32)?,
                memory_len: long(40)?,
                align: long(48)?,
            }
        } else {
            Self {
                kind,
                offset: narrow(4)?,
                vaddr: narrow(8)?,
                paddr: narrow(12)?,
                file_len: narrow(16)?,
                memory_len: narrow(20)?,
                align: narrow(28)?,
            }
        })
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
pub(super) mod tests;
