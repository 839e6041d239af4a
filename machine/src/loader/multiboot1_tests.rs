//! Synthetic multiboot 1 kernels: ELF and flat.

use super::super::elf::tests::Image;
use super::super::error::Problem;
use super::super::files::{BootFiles, Module};
use super::super::testing::{Ram, environment};
use super::super::{Environment, GuestMemory, LoadError, Loaded, Protocol};
use x86::Gpr;

/// A header with these flags and what follows the checksum.
pub(in super::super) fn header(flags: u32, rest: &[u32]) -> Vec<u8> {
    let sum = 0_u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    [&[0x1bad_b002, flags, sum], rest]
        .concat()
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect()
}

fn files(kernel: Vec<u8>, modules: &[(&str, usize)]) -> BootFiles {
    let module = |&(line, len): &(&str, usize)| Module {
        file: line.into(),
        command_line: line.into(),
        bytes: vec![0x11; len],
    };
    let modules = modules.iter().map(module).collect();
    BootFiles {
        name: "dir/k.elf".into(),
        kernel,
        protocol: Protocol::Multiboot,
        modules,
        append: "a=1 b".into(),
    }
}

fn load(files: &BootFiles, env: &Environment) -> Result<(Loaded, Ram), LoadError> {
    let mut ram = Ram::new(&env.map);
    let loaded = files.load(env, &mut ram)?;
    Ok((loaded, ram))
}

#[test]
fn elf_with_modules() {
    let image = Image {
        code: header(3, &[]),
        sections: true,
        ..Image::default()
    };
    let (loaded, ram) = load(
        &files(image.build(), &[("m1 x y", 5000), ("m2", 1)]),
        &environment(16),
    )
    .unwrap();
    let e = loaded.entry;
    assert_eq!((e.rip, e.gpr[0], e.cr0), (0x10_0000, 0x2bad_b002, 0x11));
    let info = e.gpr[Gpr::Rbx as usize];
    let flags = ram.u32(info);
    assert_eq!(flags, 0b10_0110_1101);
    assert_eq!((ram.u32(info + 4), ram.u32(info + 8)), (639, 15 << 10));
    assert_eq!(ram.string(ram.u32(info + 16).into()), "dir/k.elf a=1 b");
    assert_eq!(ram.u32(info + 20), 2);
    let mods = u64::from(ram.u32(info + 24));
    let (start, end) = (ram.u32(mods), ram.u32(mods + 4));
    assert_eq!((start % 0x1000, end - start), (0, 5000));
    assert!(start >= 0x10_0000 + 12 + 0x100);
    assert_eq!(ram.string(ram.u32(mods + 8).into()), "m1 x y");
    assert_eq!(ram.string(ram.u32(mods + 24).into()), "m2");
    assert_eq!(ram.u32(mods + 16) % 0x1000, 0);
    // The map: each entry tells its length without that field.
    let (len, map) = (ram.u32(info + 44), u64::from(ram.u32(info + 48)));
    assert_eq!((len, ram.u32(map)), (8 * 24, 20));
    assert_eq!(
        (ram.u64(map + 76), ram.u64(map + 84), ram.u32(map + 92)),
        (0x10_0000, 15 << 20, 1)
    );
    assert_eq!(ram.string(ram.u32(info + 64).into()), "doppel");
    assert_eq!((ram.u32(info + 28), ram.u32(info + 32)), (2, 40));
}

#[test]
fn flat_image_by_address_fields() {
    let mut kernel = vec![0xcc; 16];
    kernel.extend(header(
        1 << 16,
        &[0x20_0010, 0x20_0000, 0, 0x20_1000, 0x20_0004],
    ));
    let mut ram = Ram::new(&environment(16).map);
    ram.write(x86::PhysAddr(0x20_0fff), &[9, 9]).unwrap();
    let loaded = files(kernel, &[]).load(&environment(16), &mut ram).unwrap();
    assert_eq!(loaded.entry.rip, 0x20_0004);
    assert_eq!(ram.read(0x20_0000, 2), [0xcc, 0xcc]);
    assert_eq!(ram.u32(0x20_0010), 0x1bad_b002);
    assert_eq!(ram.read(0x20_0fff, 2), [0, 9]);
}

#[test]
fn bad_flat_images() {
    let env = environment(16);
    let case = |fields: [u32; 5]| {
        let mut kernel = vec![0xcc; 16];
        kernel.extend(header(1 << 16, &fields));
        load(&files(kernel, &[]), &env)
            .map(|_| ())
            .unwrap_err()
            .problem
    };
    let malformed = |fields| assert!(matches!(case(fields), Problem::Malformed(_)), "{fields:x?}");
    malformed([0x20_0010, 0x20_0011, 0, 0, 0x20_0010]); // header before the load address
    malformed([0x20_0010, 0x10_0000, 0, 0, 0x20_0010]); // load address before the file
    malformed([0x20_0010, 0x20_0000, 0x1f_0000, 0, 0x20_0010]); // ends before it starts
    malformed([0x20_0010, 0x20_0000, 0, 0, 0x30_0000]); // entry outside
    assert!(matches!(
        case([0x20_0010, 0x20_0000, 0x20_1000, 0, 0x20_0010]),
        Problem::Truncated { .. }
    ));
    assert!(matches!(
        case([0x20_0010, 0x20_0000, 0, 0xf000_0000, 0x20_0010]),
        Problem::NoRamThere { .. }
    ));
    assert!(matches!(
        case([0x20_0010, 0x20_0000, 0, 0x2000_0000, 0x20_0010]),
        Problem::TooLarge { .. }
    ));
    assert!(matches!(
        case([0xb_8010, 0xb_8000, 0, 0, 0xb_8010]),
        Problem::NoRamThere { .. }
    ));
}

#[test]
fn video() {
    let kernel = |mode: u32| {
        Image {
            code: header(4, &[0, 0, 0, 0, 0, mode, 80, 25, 0]),
            ..Image::default()
        }
        .build()
    };
    let e = load(&files(kernel(0), &[]), &environment(16))
        .map(|_| ())
        .unwrap_err();
    assert!(e.to_string().contains("graphics mode"), "{e}");
    let (loaded, ram) = load(&files(kernel(1), &[]), &environment(16)).unwrap();
    let info = loaded.entry.gpr[Gpr::Rbx as usize];
    assert_eq!(ram.u32(info) & 1 << 12, 0);
    let env = Environment {
        vga_text: true,
        ..environment(16)
    };
    let (loaded, ram) = load(&files(kernel(1), &[]), &env).unwrap();
    let info = loaded.entry.gpr[Gpr::Rbx as usize];
    assert_eq!(
        (ram.u32(info) & 1 << 12, ram.u64(info + 88)),
        (1 << 12, 0xb_8000)
    );
    let unknown = Image {
        code: header(8, &[]),
        ..Image::default()
    }
    .build();
    let e = load(&files(unknown, &[]), &environment(16))
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(e.problem, Problem::Unsupported { .. }), "{e}");
}

#[test]
fn a_wrong_checksum_is_no_header() {
    let mut code = header(3, &[]);
    code[8] ^= 1;
    let image = Image {
        code,
        ..Image::default()
    };
    let e = load(&files(image.build(), &[]), &environment(16))
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(e.problem, Problem::OtherProtocol { .. }), "{e}");
}
