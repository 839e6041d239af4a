//! Multiboot 1 (the Multiboot Specification 0.6.96): ELF files and flat images with a header in their first 8 KiB.

use x86::Gpr;

use super::bytes::{Bytes, Table};
use super::claims::{Claims, FOUR_GIB};
use super::elf::{Elf, Sections};
use super::entry::EntryState;
use super::error::Problem;
use super::files::{BootFiles, Module};
use super::map::HIGH;
use super::{Environment, LOADER_NAME, MapKind};

const HEADER_MAGIC: u32 = 0x1bad_b002;
/// The header lies within so many bytes.
const SEARCH: u64 = 8192;
/// What a kernel finds in EAX.
const LOADER_MAGIC: u32 = 0x2bad_b002;

/// Header flags.
mod want {
    /// Modules on page boundaries: ours always are.
    pub(super) const PAGE_ALIGN: u32 = 1 << 0;
    /// Memory sizes and map: always given.
    pub(super) const MEMORY: u32 = 1 << 1;
    /// A video mode.
    pub(super) const VIDEO: u32 = 1 << 2;
    /// Flags that a loader must understand.
    pub(super) const REQUIRED: u32 = 0xffff;
    /// The header's address fields tell how to load the file, whatever it is (the "a.out kludge").
    pub(super) const ADDRESSES: u32 = 1 << 16;
}

/// Flags of the information structure: which fields are valid.
mod have {
    pub(super) const MEMORY: u32 = 1 << 0;
    pub(super) const COMMAND_LINE: u32 = 1 << 2;
    pub(super) const MODULES: u32 = 1 << 3;
    pub(super) const ELF_SECTIONS: u32 = 1 << 5;
    pub(super) const MEMORY_MAP: u32 = 1 << 6;
    pub(super) const LOADER_NAME: u32 = 1 << 9;
    pub(super) const FRAMEBUFFER: u32 = 1 << 12;
}

/// Length of the information structure with its framebuffer fields.
const INFO_LEN: usize = 120;
const MODULE_LEN: usize = 16;

/// Where in the file the header stands.
fn find(file: Bytes<'_>) -> Option<u64> {
    (0..SEARCH.min(file.len())).step_by(4).find(|&at| {
        let fields = [file.u32(at), file.u32(at + 4), file.u32(at + 8)];
        matches!(fields, [Some(HEADER_MAGIC), Some(flags), Some(sum)]
            if HEADER_MAGIC.wrapping_add(flags).wrapping_add(sum) == 0)
    })
}

/// Whether the file has a header.
pub(super) fn recognise(file: &[u8]) -> Option<()> {
    find(Bytes(file)).map(|_| ())
}

/// A module's place in RAM.
pub(super) struct Placed {
    pub start: u64,
    pub end: u64,
}

/// Puts modules behind the kernel, each on a page of its own, below 4 GiB.
pub(super) fn place_modules(
    modules: &[Module],
    claims: &mut Claims<'_>,
) -> Result<Vec<Placed>, Problem> {
    let behind = claims.end().clamp(HIGH, FOUR_GIB);
    let mut placed = Vec::new();
    for module in modules {
        let len = module.bytes.len() as u64;
        let start = claims
            .lowest(len, 0x1000, behind..FOUR_GIB)
            .or_else(|| claims.lowest(len, 0x1000, HIGH..FOUR_GIB))
            .ok_or(Problem::NoRoom {
                what: "a module",
                size: len,
            })?;
        claims.write(start, &module.bytes, "a module")?;
        placed.push(Placed {
            start,
            end: start + len,
        });
    }
    Ok(placed)
}

/// A flat image as multiboot's address fields describe it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flat {
    /// Where in the file the header stands, and where in memory it belongs.
    pub header_at: u64,
    pub header_addr: u32,
    /// Address of the first loaded byte; all ones: the file's first byte.
    pub load_addr: u32,
    /// Address behind the last; 0: to the file's end.
    pub load_end: u32,
    /// Address behind the zeroed memory; 0: none.
    pub bss_end: u32,
}

impl Flat {
    /// The first address, where in the file its byte is, the bytes to copy and the bytes from the first address to
    /// the end of zeroed memory.
    pub(super) fn extent(&self, file: Bytes<'_>) -> Result<(u64, u64, u64, u64), Problem> {
        let (start, offset) = if self.load_addr == u32::MAX {
            let start = u64::from(self.header_addr).checked_sub(self.header_at);
            (
                start.ok_or(Problem::Malformed(
                    "its header's address is below its place in the file",
                ))?,
                0,
            )
        } else {
            let before = self.header_addr.checked_sub(self.load_addr).map(u64::from);
            let before = before.ok_or(Problem::Malformed(
                "its header lies before its load address",
            ))?;
            let offset = self.header_at.checked_sub(before);
            let offset = offset.ok_or(Problem::Malformed(
                "its load address lies before the file's start",
            ))?;
            (u64::from(self.load_addr), offset)
        };
        let len = match u64::from(self.load_end) {
            0 => file.len() - offset.min(file.len()),
            end => end
                .checked_sub(start)
                .ok_or(Problem::Malformed("it ends before it starts"))?,
        };
        let whole = match u64::from(self.bss_end) {
            0 => len,
            end => end.saturating_sub(start).max(len),
        };
        Ok((start, offset, len, whole))
    }

    /// Copies the image to its addresses plus `shift` (modulo 2^64).
    pub(super) fn load(
        &self,
        file: Bytes<'_>,
        shift: u64,
        claims: &mut Claims<'_>,
    ) -> Result<(), Problem> {
        let (start, offset, len, whole) = self.extent(file)?;
        let bytes = file.need(offset, len, "the kernel")?;
        let at = start.wrapping_add(shift);
        claims.claim(at, whole, "the kernel")?;
        claims.write(at, bytes, "the kernel")?;
        claims.zero(at + len, whole - len, "the kernel")
    }
}

/// Loads the kernel itself; its entry point, and its sections if it is an ELF file.
fn load_kernel(
    file: Bytes<'_>,
    at: u64,
    flags: u32,
    claims: &mut Claims<'_>,
) -> Result<(u64, Option<Sections>), Problem> {
    if flags & want::ADDRESSES != 0 {
        file.need(at, 32, "the multiboot header")?;
        let field = |n| file.u32(at + n).unwrap_or(0);
        let flat = Flat {
            header_at: at,
            header_addr: field(12),
            load_addr: field(16),
            load_end: field(20),
            bss_end: field(24),
        };
        flat.load(file, 0, claims)?;
        let (start, .., whole) = flat.extent(file)?;
        let entry = u64::from(field(28));
        if !(start..start + whole).contains(&entry) {
            return Err(Problem::Malformed("its entry point is outside the image"));
        }
        return Ok((entry, None));
    }
    let elf = Elf::parse(file.0)?.ok_or(Problem::Malformed(
        "it is neither an ELF file nor gives its addresses",
    ))?;
    elf.load(0, claims)?;
    Ok((elf.physical_entry()?, elf.place_sections(claims)))
}

/// Lays out the kernel, its modules and the information structure.
pub(super) fn load(
    files: &BootFiles,
    env: &Environment,
    claims: &mut Claims<'_>,
) -> Result<EntryState, Problem> {
    let file = Bytes(&files.kernel);
    let at = find(file).ok_or(Problem::Malformed("its multiboot header is gone"))?;
    let flags = file.u32(at + 4).unwrap_or(0);
    let unknown = flags & want::REQUIRED & !(want::PAGE_ALIGN | want::MEMORY | want::VIDEO);
    if unknown != 0 {
        return Err(Problem::Unsupported {
            wants: format!(
                "it requires the multiboot features {unknown:#06x}, which no loader knows"
            ),
            hint: "ask its author",
        });
    }
    // Mode type 1 is text; 0 a linear framebuffer, which only firmware could set up.
    let text_wanted = flags & want::VIDEO != 0 && file.u32(at + 32) == Some(1);
    if flags & want::VIDEO != 0 && !text_wanted {
        return Err(Problem::Unsupported {
            wants: "it requires a graphics mode, which direct loading does not set up".into(),
            hint: "boot it by its own boot loader, from a disk or CD image",
        });
    }
    let (entry, sections) = load_kernel(file, at, flags, claims)?;
    let eip =
        u32::try_from(entry).map_err(|_| Problem::Malformed("its entry point is above 4 GiB"))?;
    let modules = place_modules(&files.modules, claims)?;

    // One block: the structure, the modules' table, the memory map, section headers, strings.
    let mut info = Table::zeros(INFO_LEN);
    let module_table = info.append(&vec![0; modules.len() * MODULE_LEN]);
    let map = info.0.len();
    for e in env.map.entries() {
        let at = info.0.len();
        info.u32(at, 20); // the bytes that follow
        info.u64(at + 4, e.start);
        info.u64(at + 12, e.len);
        info.u32(at + 20, MapKind::number(e.kind));
    }
    let map_len = info.0.len() - map;
    let headers = sections.as_ref().map(|s| info.append(&s.table));
    let command_line = info.append_str(&files.multiboot_command_line());
    let loader = info.append_str(LOADER_NAME);
    let lines: Vec<_> = files
        .modules
        .iter()
        .map(|m| info.append_str(&m.command_line))
        .collect();
    let base = claims.small(info.0.len() as u64, "the multiboot information")?;
    let address = |offset: usize| (base + offset as u64) as u32;

    let mut valid =
        have::MEMORY | have::COMMAND_LINE | have::MODULES | have::MEMORY_MAP | have::LOADER_NAME;
    let (lower, upper) = env.map.old_sizes_kib();
    info.u32(4, lower);
    info.u32(8, upper);
    info.u32(16, address(command_line));
    info.u32(20, modules.len() as u32);
    info.u32(24, address(module_table));
    for (n, (module, line)) in modules.iter().zip(lines).enumerate() {
        let entry = module_table + n * MODULE_LEN;
        info.u32(entry, module.start as u32);
        info.u32(entry + 4, module.end as u32);
        info.u32(entry + 8, address(line));
    }
    if let Some((s, headers)) = sections.as_ref().zip(headers) {
        valid |= have::ELF_SECTIONS;
        info.u32(28, s.count);
        info.u32(32, s.entry_len);
        info.u32(36, address(headers));
        info.u32(40, s.names);
    }
    info.u32(44, map_len as u32);
    info.u32(48, address(map));
    info.u32(64, address(loader));
    if env.vga_text && text_wanted {
        valid |= have::FRAMEBUFFER;
        info.u64(88, 0xb_8000);
        info.u32(96, 160); // bytes a row
        info.u32(100, 80);
        info.u32(104, 25);
        info.put(108, &[16, 2]); // bits a cell, EGA text
    }
    info.u32(0, valid);
    claims.write(base, &info.0, "the multiboot information")?;
    let entry = EntryState::protected(claims, eip)?;
    Ok(entry
        .with(Gpr::Rax, LOADER_MAGIC.into())
        .with(Gpr::Rbx, base))
}

#[cfg(test)]
#[path = "multiboot1_tests.rs"]
pub(super) mod tests;
