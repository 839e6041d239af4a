//! Xen's PVH boot protocol (xen/include/public/arch-x86/hvm/start_info.h, docs/misc/pvh.pandoc): ELF kernels that
//! name a 32-bit entry point in a note, as Linux's unpacked vmlinux does.

use x86::Gpr;

use super::bytes::{Bytes, Table};
use super::claims::{Claims, FOUR_GIB};
use super::elf::Elf;
use super::entry::EntryState;
use super::error::Problem;
use super::files::BootFiles;
use super::map::HIGH;
use super::{Environment, MapKind};

/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
/// XEN_HVM_START_MAGIC_VALUE: "xEn3" with the high bit of the E set.
const START_MAGIC: u32 = 0x336e_c578;
/// Length of `hvm_start_info` version 1.
const START_INFO_LEN: usize = 56;

/// The note's entry point.
fn entry(elf: &Elf<'_>) -> Option<u64> {
    let desc = Bytes(elf.note(b"Xen", PHYS32_ENTRY)?);
    match desc.len() {
        4 => desc.u32(0).map(u64::from),
        8 => desc.u64(0),
        _ => None,
    }
}

/// Whether the file is an x86 ELF file with the note.
pub(super) fn recognise(file: &[u8]) -> Option<()> {
    entry(&Elf::parse(file).ok()??).map(|_| ())
}

/// Lays out the kernel, its modules and `hvm_start_info`.
pub(super) fn load(
    files: &BootFiles,
    env: &Environment,
    claims: &mut Claims<'_>,
) -> Result<EntryState, Problem> {
    let elf = Elf::parse(&files.kernel)?.ok_or(Problem::Malformed("it is no ELF file"))?;
    let entry = entry(&elf).ok_or(Problem::Malformed("its PHYS32_ENTRY note is gone"))?;
    let eip = u32::try_from(entry).ok().filter(|_| elf.contains(entry));
    let eip = eip.ok_or(Problem::Malformed(
        "its PVH entry point is outside its segments",
    ))?;
    elf.load(0, claims)?;

    // One block: start info, module list, memory map, strings.
    let mut info = Table::zeros(START_INFO_LEN);
    let modules = info.append(&vec![0; files.modules.len() * 32]);
    let map = info.0.len();
    for e in env.map.entries() {
        let at = info.0.len();
        info.u64(at, e.start);
        info.u64(at + 8, e.len);
        info.u32(at + 16, MapKind::number(e.kind));
        info.u32(at + 20, 0);
    }
    let command_line = info.append_str(&files.append);
    let module_lines: Vec<_> = files
        .modules
        .iter()
        .map(|m| info.append_str(&m.command_line))
        .collect();
    let base = claims.small(info.0.len() as u64, "the start info")?;
    let address = |offset: usize| base + offset as u64;

    for (n, module) in files.modules.iter().enumerate() {
        let len = module.bytes.len() as u64;
        let at = claims.highest(len, 0x1000, HIGH..FOUR_GIB);
        let at = at.ok_or(Problem::NoRoom {
            what: "a module",
            size: len,
        })?;
        claims.write(at, &module.bytes, "a module")?;
        let entry = modules + n * 32;
        info.u64(entry, at);
        info.u64(entry + 8, len);
        info.u64(
            entry + 16,
            module_lines.get(n).map_or(0, |line| address(*line)),
        );
    }
    info.u32(0, START_MAGIC);
    info.u32(4, 1);
    info.u32(12, files.modules.len() as u32);
    info.u64(
        16,
        if files.modules.is_empty() {
            0
        } else {
            address(modules)
        },
    );
    info.u64(24, address(command_line));
    info.u64(32, env.rsdp.map_or(0, |r| r.at.0));
    info.u64(40, address(map));
    info.u32(48, env.map.entries().len() as u32);
    claims.write(base, &info.0, "the start info")?;

    Ok(EntryState::protected(claims, eip)?.with(Gpr::Rbx, base))
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::Image;
    use super::super::files::{BootFiles, Module};
    use super::super::testing::{Ram, environment};
    use super::super::{Problem, Protocol};
    use x86::Gpr;

    fn files(entry: u32, modules: Vec<Module>) -> BootFiles {
        let note = Some((&b"Xen"[..], 18, entry.to_le_bytes().to_vec()));
        let kernel = Image {
            wide: true,
            note,
            paddr: 0x100_0000,
            ..Image::default()
        }
        .build();
        BootFiles {
            name: "vmlinux".into(),
            kernel,
            protocol: Protocol::Auto,
            modules,
            append: "quiet".into(),
        }
    }

    #[test]
    fn start_info() {
        let module = Module {
            file: "i".into(),
            command_line: "i a b".into(),
            bytes: vec![3; 5000],
        };
        let env = environment(64);
        let mut ram = Ram::new(&env.map);
        let loaded = files(0x100_0010, vec![module])
            .load(&env, &mut ram)
            .unwrap();
        assert_eq!(loaded.protocol, Protocol::Pvh);
        assert_eq!((loaded.entry.rip, loaded.entry.cr0), (0x100_0010, 0x11));
        assert_eq!(ram.read(0x100_0000, 1), [0x90]);
        let info = loaded.entry.gpr[Gpr::Rbx as usize];
        assert_eq!(
            (ram.u32(info), ram.u32(info + 4), ram.u32(info + 12)),
            (0x336e_c578, 1, 1)
        );
        let list = ram.u64(info + 16);
        let (at, len) = (ram.u64(list), ram.u64(list + 8));
        assert_eq!((at, len), (0x3ff_e000, 5000));
        assert_eq!(ram.read(at + 4999, 1), [3]);
        assert_eq!(ram.string(ram.u64(list + 16)), "i a b");
        assert_eq!(ram.string(ram.u64(info + 24)), "quiet");
        assert_eq!(ram.u64(info + 32), 0xf_0040);
        let (map, count) = (ram.u64(info + 40), ram.u32(info + 48));
        assert_eq!(count, 8);
        assert_eq!(
            (ram.u64(map + 72), ram.u64(map + 80), ram.u32(map + 88)),
            (0x10_0000, 63 << 20, 1)
        );
    }

    #[test]
    fn an_entry_outside_the_kernel_is_refused() {
        let env = environment(64);
        let e = files(0x200_0000, Vec::new())
            .load(&env, &mut Ram::new(&env.map))
            .unwrap_err();
        assert!(matches!(e.problem, Problem::Malformed(_)), "{e}");
    }

    #[test]
    fn too_little_ram() {
        let env = environment(8);
        let e = files(0x100_0010, Vec::new())
            .load(&env, &mut Ram::new(&env.map))
            .unwrap_err();
        assert!(matches!(e.problem, Problem::TooLarge { .. }), "{e}");
    }
}
