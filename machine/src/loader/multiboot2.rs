//! Multiboot 2 (the Multiboot2 Specification 2.0): a header of tags in the first 32 KiB, an information list of tags.

use x86::Gpr;

use super::bytes::{Bytes, Table};
use super::claims::Claims;
use super::elf::{Elf, Sections};
use super::entry::EntryState;
use super::error::Problem;
use super::files::BootFiles;
use super::map::HIGH;
use super::multiboot1::{Flat, place_modules};
use super::{Environment, LOADER_NAME, MapKind};

const HEADER_MAGIC: u32 = 0xe852_50d6;
/// The header lies within so many bytes.
const SEARCH: u64 = 32768;
/// What a kernel finds in EAX.
const LOADER_MAGIC: u32 = 0x36d7_6289;
/// Header tag flag: the kernel can do without.
const OPTIONAL: u16 = 1;
/// The highest information tag that the specification defines.
const LAST_INFO_TAG: u32 = 21;

/// Header tags.
mod tag {
    pub(super) const END: u16 = 0;
    pub(super) const INFORMATION_REQUEST: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const ENTRY: u16 = 3;
    pub(super) const CONSOLE: u16 = 4;
    pub(super) const FRAMEBUFFER: u16 = 5;
    pub(super) const MODULE_ALIGN: u16 = 6;
    pub(super) const EFI_BOOT_SERVICES: u16 = 7;
    pub(super) const ENTRY_EFI32: u16 = 8;
    pub(super) const ENTRY_EFI64: u16 = 9;
    pub(super) const RELOCATABLE: u16 = 10;
}

/// Information tags.
mod info {
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const LOADER_NAME: u32 = 2;
    pub(super) const MODULE: u32 = 3;
    pub(super) const BASIC_MEMORY: u32 = 4;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const FRAMEBUFFER: u32 = 8;
    pub(super) const ELF_SECTIONS: u32 = 9;
    pub(super) const ACPI_OLD: u32 = 14;
    pub(super) const ACPI_NEW: u32 = 15;
    pub(super) const LOAD_BASE: u32 = 21;
}

/// Where in the file the header stands.
fn find(file: Bytes<'_>) -> Option<u64> {
    (0..SEARCH.min(file.len())).step_by(8).find(|&at| {
        let fields = [0, 4, 8, 12].map(|n| file.u32(at + n));
        matches!(fields, [Some(HEADER_MAGIC), Some(arch), Some(len), Some(sum)]
            if HEADER_MAGIC.wrapping_add(arch).wrapping_add(len).wrapping_add(sum) == 0)
    })
}

/// Whether the file has a header.
pub(super) fn recognise(file: &[u8]) -> Option<()> {
    find(Bytes(file)).map(|_| ())
}

/// Where a kernel lets itself be moved to.
#[derive(Clone, Copy, Debug)]
struct Relocatable {
    min: u64,
    /// Highest address of its last byte.
    max: u64,
    align: u64,
    /// 1: as low as possible, 2: as high as possible, else no matter.
    preference: u32,
}

/// What the header's tags ask for.
#[derive(Debug, Default)]
struct Header {
    flat: Option<Flat>,
    entry: Option<u32>,
    relocatable: Option<Relocatable>,
    /// The console tag says that the kernel can use EGA text.
    text: bool,
}

fn refuse(wants: &str) -> Problem {
    Problem::Unsupported {
        wants: wants.to_owned(),
        hint: "boot it by its own boot loader, from a disk or CD image",
    }
}

impl Header {
    fn parse(file: Bytes<'_>, at: u64) -> Result<Self, Problem> {
        const WHAT: &str = "the multiboot 2 header";
        let (arch, len) = (file.u32(at + 4), u64::from(file.u32(at + 8).unwrap_or(0)));
        if arch != Some(0) {
            return Err(Problem::Malformed(
                "its multiboot 2 header is not for 32-bit protected mode",
            ));
        }
        let header = Bytes(file.need(at, len.max(16), WHAT)?);
        let mut parsed = Self::default();
        let mut graphics = false;
        let mut pos = 16;
        loop {
            let tag = Bytes(header.need(pos, 8, WHAT)?);
            let (kind, flags) = (tag.u16(0).unwrap_or(0), tag.u16(2).unwrap_or(0));
            let len = u64::from(tag.u32(4).unwrap_or(0));
            if kind == tag::END {
                break;
            }
            if len < 8 {
                return Err(Problem::Malformed(
                    "a tag of its multiboot 2 header is too short",
                ));
            }
            let tag = Bytes(header.need(pos, len, WHAT)?);
            let optional = flags & OPTIONAL != 0;
            let field = |n| {
                tag.u32(n).ok_or(Problem::Malformed(
                    "a tag of its multiboot 2 header is too short",
                ))
            };
            match kind {
                tag::INFORMATION_REQUEST => {
                    let unknown = (8..len)
                        .step_by(4)
                        .filter_map(|n| tag.u32(n))
                        .find(|t| *t > LAST_INFO_TAG);
                    if let (Some(unknown), false) = (unknown, optional) {
                        return Err(refuse(&format!(
                            "it requires the information tag {unknown}, which no loader knows"
                        )));
                    }
                }
                tag::ADDRESS => {
                    parsed.flat = Some(Flat {
                        header_at: at,
                        header_addr: field(8)?,
                        load_addr: field(12)?,
                        load_end: field(16)?,
                        bss_end: field(20)?,
                    });
                }
                tag::ENTRY => parsed.entry = Some(field(8)?),
                tag::CONSOLE => parsed.text = field(8)? & 2 != 0,
                tag::FRAMEBUFFER => graphics |= !optional,
                tag::RELOCATABLE => {
                    parsed.relocatable = Some(Relocatable {
                        min: field(8)?.into(),
                        max: field(12)?.into(),
                        align: field(16)?.max(1).into(),
                        preference: field(20)?,
                    });
                }
                tag::EFI_BOOT_SERVICES if !optional => {
                    return Err(refuse("it requires EFI boot services"));
                }
                // Modules always start on pages; without EFI its entry points do not count.
                tag::MODULE_ALIGN | tag::ENTRY_EFI32 | tag::ENTRY_EFI64 => {}
                _ if optional => {}
                _ => {
                    return Err(refuse(&format!(
                        "it requires the header tag {kind}, which no loader knows"
                    )));
                }
            }
            pos = (pos + len).next_multiple_of(8);
        }
        if graphics && !parsed.text {
            return Err(refuse(
                "it requires a graphics mode, which direct loading does not set up",
            ));
        }
        if parsed
            .relocatable
            .is_some_and(|r| !r.align.is_power_of_two())
        {
            return Err(Problem::Malformed("its alignment is no power of two"));
        }
        Ok(parsed)
    }
}

/// A kernel in RAM.
struct Kernel {
    entry: u64,
    sections: Option<Sections>,
    /// Where it starts, told to kernels that can be moved.
    base: Option<u64>,
}

/// How far to move a kernel that was linked to `start`.
fn shift(
    start: u64,
    end: u64,
    relocatable: &Relocatable,
    claims: &mut Claims<'_>,
) -> Result<u64, Problem> {
    let Relocatable {
        min,
        max,
        align,
        preference,
    } = *relocatable;
    let within = min.max(HIGH)..(max + 1).max(min);
    let len = end - start;
    let linked = start >= within.start
        && end <= within.end
        && start.is_multiple_of(align)
        && claims.map().is_ram(&(start..end));
    let at = match preference {
        2 => claims.highest(len, align, within),
        1 => claims.lowest(len, align, within),
        _ if linked => Some(start),
        _ => claims.lowest(len, align, within),
    };
    let at = at.ok_or(Problem::NoRoom {
        what: "the kernel",
        size: len,
    })?;
    Ok(at.wrapping_sub(start))
}

/// Loads the kernel itself.
fn load_kernel(
    file: Bytes<'_>,
    header: &Header,
    claims: &mut Claims<'_>,
) -> Result<Kernel, Problem> {
    let place = |start, end, claims: &mut Claims<'_>| {
        header
            .relocatable
            .as_ref()
            .map_or(Ok(0), |r| shift(start, end, r, claims))
    };
    let base = |start: u64, shift| header.relocatable.map(|_| start.wrapping_add(shift));
    if let Some(flat) = header.flat {
        let (start, .., whole) = flat.extent(file)?;
        let shift = place(start, start + whole, claims)?;
        flat.load(file, shift, claims)?;
        let entry = header
            .entry
            .map(u64::from)
            .filter(|e| (start..start + whole).contains(e));
        let entry = entry.ok_or(Problem::Malformed(
            "it gives its addresses but no entry point among them",
        ))?;
        return Ok(Kernel {
            entry: entry.wrapping_add(shift),
            sections: None,
            base: base(start, shift),
        });
    }
    let elf = Elf::parse(file.0)?.ok_or(Problem::Malformed(
        "it is neither an ELF file nor gives its addresses",
    ))?;
    let (start, end) = elf.extent()?;
    let shift = place(start, end, claims)?;
    let entry = match header.entry.map(u64::from) {
        Some(entry) if elf.contains(entry) => entry,
        Some(_) => {
            return Err(Problem::Malformed(
                "its entry point is outside its segments",
            ));
        }
        None => elf.physical_entry()?,
    };
    elf.load(shift, claims)?;
    let sections = elf.place_sections(claims);
    Ok(Kernel {
        entry: entry.wrapping_add(shift),
        sections,
        base: base(start, shift),
    })
}

/// The information list under construction.
#[derive(Default)]
struct Information(Table);

impl Information {
    /// Appends a tag; `body` follows its type and length.
    fn tag(&mut self, kind: u32, body: &[u8]) {
        self.0.align(8);
        self.0.append(&kind.to_le_bytes());
        self.0.append(&(8 + body.len() as u32).to_le_bytes());
        self.0.append(body);
    }
}

/// Lays out the kernel, its modules and the information list.
pub(super) fn load(
    files: &BootFiles,
    env: &Environment,
    claims: &mut Claims<'_>,
) -> Result<EntryState, Problem> {
    let file = Bytes(&files.kernel);
    let at = find(file).ok_or(Problem::Malformed("its multiboot 2 header is gone"))?;
    let header = Header::parse(file, at)?;
    let kernel = load_kernel(file, &header, claims)?;
    let eip = u32::try_from(kernel.entry)
        .map_err(|_| Problem::Malformed("its entry point is above 4 GiB"))?;
    let modules = place_modules(&files.modules, claims)?;

    let mut list = Information::default();
    list.0.u64(0, 0);
    let string = |text: &str| {
        let mut body = Table::default();
        body.append_str(text);
        body.0
    };
    list.tag(info::COMMAND_LINE, &string(&files.multiboot_command_line()));
    list.tag(info::LOADER_NAME, &string(LOADER_NAME));
    for (module, placed) in files.modules.iter().zip(&modules) {
        let mut body = Table::default();
        body.u32(0, placed.start as u32);
        body.u32(4, placed.end as u32);
        body.append_str(&module.command_line);
        list.tag(info::MODULE, &body.0);
    }
    let (lower, upper) = env.map.old_sizes_kib();
    let mut body = Table::default();
    body.u32(0, lower);
    body.u32(4, upper);
    list.tag(info::BASIC_MEMORY, &body.0);
    list.tag(info::MEMORY_MAP, &memory_map(env));
    if env.vga_text && header.text {
        list.tag(info::FRAMEBUFFER, &text_screen());
    }
    if let Some(s) = &kernel.sections {
        let mut body = Table::default();
        body.u32(0, s.count);
        body.u32(4, s.entry_len);
        body.u32(8, s.names);
        body.append(&s.table);
        list.tag(info::ELF_SECTIONS, &body.0);
    }
    if let Some(rsdp) = &env.rsdp {
        let (old, _) = rsdp.bytes.split_at(20);
        list.tag(info::ACPI_OLD, old);
        if rsdp.bytes[15] >= 2 {
            list.tag(info::ACPI_NEW, &rsdp.bytes);
        }
    }
    if let Some(base) = kernel.base {
        list.tag(info::LOAD_BASE, &(base as u32).to_le_bytes());
    }
    list.tag(0, &[]);
    let total = list.0.0.len();
    list.0.u32(0, total as u32);
    let base = claims.put_small(&list.0.0, "the multiboot information")?;
    let entry = EntryState::protected(claims, eip)?;
    Ok(entry
        .with(Gpr::Rax, LOADER_MAGIC.into())
        .with(Gpr::Rbx, base))
}

/// The memory map tag's body.
fn memory_map(env: &Environment) -> Vec<u8> {
    let mut body = Table::default();
    body.u32(0, 24);
    body.u32(4, 0);
    for e in env.map.entries() {
        let at = body.0.len();
        body.u64(at, e.start);
        body.u64(at + 8, e.len);
        body.u32(at + 16, MapKind::number(e.kind));
        body.u32(at + 20, 0);
    }
    body.0
}

/// The framebuffer tag's body for 80x25 text.
fn text_screen() -> Vec<u8> {
    let mut body = Table::default();
    body.u64(0, 0xb_8000);
    body.u32(8, 160); // bytes a row
    body.u32(12, 80);
    body.u32(16, 25);
    body.put(20, &[16, 2, 0, 0]); // bits a cell, EGA text
    body.0
}

#[cfg(test)]
#[path = "multiboot2_tests.rs"]
pub(super) mod tests;
