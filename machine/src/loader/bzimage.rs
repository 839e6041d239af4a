//! Linux's boot protocol for x86 (Documentation/arch/x86/boot.rst): bzImages, by their 64- or 32-bit entry point.
//!
//! The real-mode setup code is not run; what it would have found out stands in the zero page (`boot_params`,
//! Documentation/arch/x86/zero-page.rst).

use x86::Gpr;

use super::bytes::{Bytes, Table};
use super::claims::{Claims, FOUR_GIB};
use super::entry::EntryState;
use super::error::Problem;
use super::files::BootFiles;
use super::map::HIGH;
use super::{Environment, MapKind};

/// Offsets in the setup header: the same in the file and in the zero page.
mod field {
    pub(super) const SETUP_SECTS: u64 = 0x1f1;
    pub(super) const SYSSIZE: u64 = 0x1f4;
    pub(super) const VID_MODE: u64 = 0x1fa;
    pub(super) const BOOT_FLAG: u64 = 0x1fe;
    pub(super) const JUMP_OFFSET: u64 = 0x201;
    pub(super) const HEADER: u64 = 0x202;
    pub(super) const VERSION: u64 = 0x206;
    pub(super) const TYPE_OF_LOADER: u64 = 0x210;
    pub(super) const LOADFLAGS: u64 = 0x211;
    pub(super) const CODE32_START: u64 = 0x214;
    pub(super) const RAMDISK_IMAGE: u64 = 0x218;
    pub(super) const RAMDISK_SIZE: u64 = 0x21c;
    pub(super) const CMD_LINE_PTR: u64 = 0x228;
    pub(super) const INITRD_ADDR_MAX: u64 = 0x22c;
    pub(super) const KERNEL_ALIGNMENT: u64 = 0x230;
    pub(super) const RELOCATABLE: u64 = 0x234;
    pub(super) const XLOADFLAGS: u64 = 0x236;
    pub(super) const CMDLINE_SIZE: u64 = 0x238;
    pub(super) const PREF_ADDRESS: u64 = 0x258;
    pub(super) const INIT_SIZE: u64 = 0x260;
}

/// Offsets in the zero page outside the setup header.
mod zero_page {
    pub(super) const LEN: usize = 0x1000;
    pub(super) const ORIG_VIDEO_MODE: usize = 0x06;
    pub(super) const ORIG_VIDEO_COLS: usize = 0x07;
    pub(super) const ORIG_VIDEO_LINES: usize = 0x0e;
    pub(super) const ORIG_VIDEO_IS_VGA: usize = 0x0f;
    pub(super) const ORIG_VIDEO_POINTS: usize = 0x10;
    pub(super) const OLD_CMD_LINE_MAGIC: usize = 0x20;
    pub(super) const OLD_CMD_LINE_OFFSET: usize = 0x22;
    pub(super) const EXT_MEM_K: usize = 0x02;
    pub(super) const ACPI_RSDP_ADDR: usize = 0x70;
    pub(super) const EXT_RAMDISK_IMAGE: usize = 0xc0;
    pub(super) const ALT_MEM_K: usize = 0x1e0;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const SETUP_HEADER: usize = 0x1f1;
    pub(super) const SETUP_HEADER_END: usize = 0x290;
    pub(super) const E820_TABLE: usize = 0x2d0;
    pub(super) const E820_MAX: usize = 128;
}

/// `loadflags`: the protected-mode code belongs at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: there is a 64-bit entry point 200h after the start.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: zero page, command line and initrd may lie above 4 GiB.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// Where a kernel that is not relocatable is loaded.
const LOAD_HIGH: u64 = HIGH;
/// `type_of_loader` of those who have no number.
const UNDEFINED_LOADER: u8 = 0xff;
/// Before protocol 2.02 the zero page lies here, with the command line within its 64 KiB.
const OLD_ZERO_PAGE: u64 = 0x9_0000;
const OLD_CMD_LINE: u64 = 0x9000;
const OLD_CMD_LINE_MAGIC: u16 = 0xa33f;

/// Whether the file has a Linux setup header.
pub(super) fn recognise(file: &[u8]) -> Option<()> {
    let flag = Bytes(file).u16(field::BOOT_FLAG)?;
    (flag == 0xaa55 && Bytes(file).slice(field::HEADER, 4)? == b"HdrS").then_some(())
}

/// What the setup header says, with the values that older protocols imply.
#[derive(Debug)]
struct Header {
    version: u16,
    /// Bytes of boot sector and setup code, which precede the protected-mode code.
    setup_len: u64,
    /// Bytes of protected-mode code.
    code_len: u64,
    code32_start: u64,
    initrd_addr_max: u64,
    alignment: u64,
    relocatable: bool,
    xloadflags: u16,
    cmdline_size: u64,
    pref_address: u64,
    /// Bytes from its run-time address that the kernel needs before it can look at the memory map.
    init_size: u64,
}

impl Header {
    fn parse(file: Bytes<'_>) -> Result<Self, Problem> {
        let what = "the setup header";
        let need = |at: u64, n: u64| file.need(at, n, what);
        need(0, 0x268)?;
        let version = file.u16(field::VERSION).unwrap_or(0);
        let since = |v: u16, value: Option<u64>| if version >= v { value } else { None };
        let u32_at = |at| file.u32(at).map(u64::from);
        if version < 0x200 {
            return Err(Problem::Malformed("its boot protocol is older than 2.00"));
        }
        if file.u8(field::LOADFLAGS).unwrap_or(0) & LOADED_HIGH == 0 {
            return Err(Problem::Unsupported {
                wants: "this is a zImage, which starts in real mode and needs a BIOS".into(),
                hint: "boot it from a disk, or give a bzImage",
            });
        }
        let code32_start = u32_at(field::CODE32_START).unwrap_or(0);
        if code32_start == 0 {
            return Err(Problem::Unsupported {
                wants: "it has a 16-bit entry point only (code32_start is 0), which needs a BIOS"
                    .into(),
                hint: "boot it from a disk or CD image",
            });
        }

        // 0 means 4, for the sake of very old kernels.
        let sectors = match file.u8(field::SETUP_SECTS).unwrap_or(0) {
            0 => 4,
            n => u64::from(n),
        };
        let setup_len = (sectors + 1) * 512;
        need(0, setup_len)?;
        let have = file.len() - setup_len;
        // In units of 16 bytes; before 2.04 its upper half is undefined.
        let code_len = match since(0x204, u32_at(field::SYSSIZE)) {
            Some(paragraphs) if paragraphs != 0 => {
                let need = paragraphs * 16;
                if have + 15 < need {
                    return Err(Problem::Truncated {
                        what: "the kernel's code",
                        need: setup_len + need,
                        have: file.len(),
                    });
                }
                need.min(have)
            }
            _ => have,
        };
        if code_len < 0x400 {
            return Err(Problem::Truncated {
                what: "the kernel's code",
                need: setup_len + 0x400,
                have: file.len(),
            });
        }
        let alignment = since(0x205, u32_at(field::KERNEL_ALIGNMENT))
            .unwrap_or(0)
            .max(0x1000);
        if !alignment.is_power_of_two() {
            return Err(Problem::Malformed("kernel_alignment is no power of two"));
        }
        if !(LOAD_HIGH..LOAD_HIGH + code_len).contains(&code32_start) {
            return Err(Problem::Malformed("code32_start is outside the kernel"));
        }
        Ok(Self {
            version,
            setup_len,
            code_len,
            code32_start,
            initrd_addr_max: since(0x203, u32_at(field::INITRD_ADDR_MAX)).unwrap_or(0x37ff_ffff),
            alignment,
            relocatable: since(0x205, file.u8(field::RELOCATABLE).map(u64::from))
                .is_some_and(|r| r != 0),
            xloadflags: since(0x20c, file.u16(field::XLOADFLAGS).map(u64::from)).unwrap_or(0)
                as u16,
            cmdline_size: since(0x206, u32_at(field::CMDLINE_SIZE)).unwrap_or(255),
            pref_address: since(0x20a, file.u64(field::PREF_ADDRESS)).unwrap_or(LOAD_HIGH),
            init_size: since(0x20a, u32_at(field::INIT_SIZE)).unwrap_or(0),
        })
    }

    /// Where the code is loaded, and where it will run: a relocatable kernel loaded lower would move itself to its
    /// preferred address, one that is not relocatable always does.
    fn places(&self) -> Result<(u64, u64), Problem> {
        if !self.relocatable {
            return Ok((LOAD_HIGH, self.pref_address));
        }
        let wanted = self.pref_address.max(LOAD_HIGH);
        let at = wanted
            .checked_next_multiple_of(self.alignment)
            .filter(|at| *at < FOUR_GIB)
            .ok_or(Problem::Malformed("its preferred address is above 4 GiB"))?;
        Ok((at, at))
    }
}

/// Lays out a bzImage, its command line and initrd; see the module's head.
pub(super) fn load(
    files: &BootFiles,
    env: &Environment,
    claims: &mut Claims<'_>,
) -> Result<EntryState, Problem> {
    let file = Bytes(&files.kernel);
    let header = Header::parse(file)?;
    let code = file.need(header.setup_len, header.code_len, "the kernel's code")?;

    let (load, run) = header.places()?;
    claims.claim(load, header.code_len, "the kernel")?;
    claims.claim(run, header.init_size, "the kernel, unpacked,")?;
    claims.write(load, code, "the kernel")?;

    let long = env.long_mode && header.xloadflags & XLF_KERNEL_64 != 0;
    let page = place_zero_page(&header, files, claims)?;
    let initrd = place_initrd(&header, files, long, claims)?;

    let zero_page = zero_page(&header, file, env, load, &page, initrd);
    claims.write(page.at, &zero_page.0, "the zero page")?;

    let entry = if long {
        EntryState::long(claims, load + 0x200)?
    } else {
        EntryState::protected(claims, (load + (header.code32_start - LOAD_HIGH)) as u32)?
    };
    Ok(entry.with(Gpr::Rsi, page.at))
}

/// Where the zero page and the command line lie.
struct ZeroPagePlace {
    at: u64,
    command_line: u64,
}

/// Finds a place for the zero page and writes the command line.
fn place_zero_page(
    header: &Header,
    files: &BootFiles,
    claims: &mut Claims<'_>,
) -> Result<ZeroPagePlace, Problem> {
    let mut text = Table::default();
    text.append_str(&files.append);
    let len = text.0.len() as u64 - 1;
    if len > header.cmdline_size {
        return Err(Problem::CommandLine {
            len,
            max: header.cmdline_size,
        });
    }
    if header.version >= 0x202 {
        let at = claims.small(zero_page::LEN as u64, "the zero page")?;
        let command_line = claims.put_small(&text.0, "the command line")?;
        return Ok(ZeroPagePlace { at, command_line });
    }
    claims.claim(OLD_ZERO_PAGE, OLD_CMD_LINE + 0x100, "the zero page")?;
    claims.write(OLD_ZERO_PAGE + OLD_CMD_LINE, &text.0, "the command line")?;
    Ok(ZeroPagePlace {
        at: OLD_ZERO_PAGE,
        command_line: OLD_ZERO_PAGE + OLD_CMD_LINE,
    })
}

/// Puts the initrd as high as the kernel allows; its address and length.
fn place_initrd(
    header: &Header,
    files: &BootFiles,
    long: bool,
    claims: &mut Claims<'_>,
) -> Result<Option<(u64, u64)>, Problem> {
    let [initrd] = files.modules.as_slice() else {
        return match files.modules.len() {
            0 => Ok(None),
            _ => Err(Problem::Usage(
                "Linux takes one --initrd; join archives with cat".into(),
            )),
        };
    };
    let len = initrd.bytes.len() as u64;
    let end = (header.initrd_addr_max + 1).min(FOUR_GIB);
    let mut at = claims.highest(len, 0x1000, LOAD_HIGH..end);
    if at.is_none() && long && header.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0 {
        at = claims.highest(len, 0x1000, LOAD_HIGH..u64::MAX);
    }
    let at = at.ok_or(Problem::NoRoom {
        what: "the initrd",
        size: len,
    })?;
    claims.write(at, &initrd.bytes, "the initrd")?;
    Ok(Some((at, len)))
}

/// Fills the zero page: the file's setup header, our part of it, and what setup code would have asked a BIOS.
fn zero_page(
    header: &Header,
    file: Bytes<'_>,
    env: &Environment,
    load: u64,
    page: &ZeroPagePlace,
    initrd: Option<(u64, u64)>,
) -> Table {
    let mut zero = Table::zeros(zero_page::LEN);
    let header_end = field::HEADER + u64::from(file.u8(field::JUMP_OFFSET).unwrap_or(0));
    let header_len = header_end.min(zero_page::SETUP_HEADER_END as u64) - field::SETUP_SECTS;
    zero.put(
        zero_page::SETUP_HEADER,
        file.slice(field::SETUP_SECTS, header_len)
            .unwrap_or_default(),
    );

    zero.put(field::TYPE_OF_LOADER as usize, &[UNDEFINED_LOADER]);
    zero.u16(field::VID_MODE as usize, 0xffff); // "normal": nobody asked for another
    zero.u32(
        field::CODE32_START as usize,
        (load + (header.code32_start - LOAD_HIGH)) as u32,
    );
    if header.version >= 0x202 {
        zero.u32(field::CMD_LINE_PTR as usize, page.command_line as u32);
    } else {
        zero.u16(zero_page::OLD_CMD_LINE_MAGIC, OLD_CMD_LINE_MAGIC);
        zero.u16(
            zero_page::OLD_CMD_LINE_OFFSET,
            (page.command_line - page.at) as u16,
        );
    }
    let (at, len) = initrd.unwrap_or_default();
    zero.u32(field::RAMDISK_IMAGE as usize, at as u32);
    zero.u32(field::RAMDISK_SIZE as usize, len as u32);
    if at >= FOUR_GIB || len >= FOUR_GIB {
        zero.u32(zero_page::EXT_RAMDISK_IMAGE, (at >> 32) as u32);
        zero.u32(zero_page::EXT_RAMDISK_IMAGE + 4, (len >> 32) as u32);
    }

    let (_, extended_kib) = env.map.old_sizes_kib();
    zero.u16(zero_page::EXT_MEM_K, extended_kib.min(0xffff) as u16);
    zero.u32(zero_page::ALT_MEM_K, extended_kib);
    let entries = env.map.entries().iter().take(zero_page::E820_MAX);
    zero.put(zero_page::E820_ENTRIES, &[entries.len() as u8]);
    for (n, entry) in entries.enumerate() {
        let at = zero_page::E820_TABLE + n * 20;
        zero.u64(at, entry.start);
        zero.u64(at + 8, entry.len);
        zero.u32(at + 16, MapKind::number(entry.kind));
    }
    zero.u64(zero_page::ACPI_RSDP_ADDR, env.rsdp.map_or(0, |r| r.at.0));
    if env.vga_text {
        zero.put(zero_page::ORIG_VIDEO_MODE, &[3]);
        zero.put(zero_page::ORIG_VIDEO_COLS, &[80]);
        zero.put(zero_page::ORIG_VIDEO_LINES, &[25]);
        zero.put(zero_page::ORIG_VIDEO_IS_VGA, &[1]);
        zero.u16(zero_page::ORIG_VIDEO_POINTS, 16);
    }
    zero
}

#[cfg(test)]
#[path = "bzimage_tests.rs"]
pub(super) mod tests;
