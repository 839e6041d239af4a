//! Synthetic multiboot 2 kernels: ELF, flat, relocatable, and headers that must be refused.

use super::super::elf::tests::Image;
use super::super::error::Problem;
use super::super::files::{BootFiles, Module};
use super::super::testing::{Ram, environment};
use super::super::{Environment, LoadError, Loaded, Protocol};
use std::collections::BTreeMap;
use x86::Gpr;

/// A header with these tags (type, flags, body), and the end tag.
pub(in super::super) fn header(tags: &[(u16, u16, &[u32])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, flags, words) in tags.iter().copied().chain([(0, 0, &[][..])]) {
        body.extend(kind.to_le_bytes());
        body.extend(flags.to_le_bytes());
        body.extend((8 + words.len() as u32 * 4).to_le_bytes());
        body.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        body.resize(body.len().next_multiple_of(8), 0);
    }
    let len = 16 + body.len() as u32;
    let sum = 0_u32.wrapping_sub(0xe852_50d6).wrapping_sub(len);
    let mut header: Vec<u8> = [0xe852_50d6, 0, len, sum]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    header.extend(body);
    header
}

fn files(kernel: Vec<u8>, modules: &[(&str, usize)]) -> BootFiles {
    let module = |&(line, len): &(&str, usize)| Module {
        file: line.into(),
        command_line: line.into(),
        bytes: vec![0x11; len],
    };
    let modules = modules.iter().map(module).collect();
    BootFiles {
        name: "k".into(),
        kernel,
        protocol: Protocol::Auto,
        modules,
        append: String::new(),
    }
}

fn load(files: &BootFiles, env: &Environment) -> Result<(Loaded, Ram), LoadError> {
    let mut ram = Ram::new(&env.map);
    let loaded = files.load(env, &mut ram)?;
    assert_eq!(loaded.protocol, Protocol::Multiboot2);
    assert_eq!(loaded.entry.gpr[0], 0x36d7_6289);
    Ok((loaded, ram))
}

fn problem(tags: &[(u16, u16, &[u32])]) -> Problem {
    let kernel = Image {
        code: header(tags),
        ..Image::default()
    }
    .build();
    load(&files(kernel, &[]), &environment(16))
        .map(|_| ())
        .unwrap_err()
        .problem
}

/// The information list's tags: type to address and length of the body; checks the list's form.
fn tags(loaded: &Loaded, ram: &Ram) -> BTreeMap<u32, (u64, u64)> {
    let base = loaded.entry.gpr[Gpr::Rbx as usize];
    assert_eq!(base % 8, 0);
    let total = u64::from(ram.u32(base));
    let (mut at, mut tags) = (base + 8, BTreeMap::new());
    loop {
        let (kind, len) = (ram.u32(at), u64::from(ram.u32(at + 4)));
        tags.insert(kind, (at + 8, len - 8));
        if kind == 0 {
            assert_eq!(at + len, base + total);
            return tags;
        }
        at = (at + len).next_multiple_of(8);
    }
}

#[test]
fn elf_with_module() {
    let image = Image {
        wide: true,
        code: header(&[(1, 0, &[4, 6]), (6, 0, &[]), (7, 1, &[]), (9, 1, &[5])]),
        sections: true,
        ..Image::default()
    };
    let (loaded, ram) = load(&files(image.build(), &[("m arg", 100)]), &environment(16)).unwrap();
    assert_eq!(loaded.entry.rip, 0x10_0000);
    let tags = tags(&loaded, &ram);
    assert_eq!(ram.string(tags[&1].0), "k ");
    assert_eq!(ram.string(tags[&2].0), "doppel");
    let module = tags[&3].0;
    assert_eq!(ram.u32(module) % 0x1000, 0);
    assert_eq!(ram.u32(module + 4) - ram.u32(module), 100);
    assert_eq!(ram.string(module + 8), "m arg");
    assert_eq!(
        (ram.u32(tags[&4].0), ram.u32(tags[&4].0 + 4)),
        (639, 15 << 10)
    );
    let (map, len) = tags[&6];
    assert_eq!((ram.u32(map), len), (24, 8 + 8 * 24));
    assert_eq!(
        (ram.u64(map + 8 + 72), ram.u64(map + 8 + 80)),
        (0x10_0000, 15 << 20)
    );
    assert_eq!(
        (tags[&9].1, tags[&14].1, tags[&15].1),
        (12 + 2 * 64, 20, 36)
    );
    assert_eq!(ram.read(tags[&15].0, 8), b"RSD PTR ");
    assert!(!tags.contains_key(&21) && !tags.contains_key(&8));
}

#[test]
fn flat_image() {
    let code = header(&[
        (2, 0, &[0x20_0000, 0x20_0000, 0, 0x20_1000]),
        (3, 0, &[0x20_0008]),
    ]);
    let (loaded, ram) = load(&files(code, &[]), &environment(16)).unwrap();
    assert_eq!(loaded.entry.rip, 0x20_0008);
    assert_eq!(ram.u32(0x20_0000), 0xe852_50d6);
    // A load address of all ones means the file's start.
    let code = header(&[(2, 0, &[0x20_0000, u32::MAX, 0, 0]), (3, 0, &[0x20_0008])]);
    let (loaded, ram) = load(&files(code, &[]), &environment(16)).unwrap();
    assert_eq!(
        (loaded.entry.rip, ram.u32(0x20_0000)),
        (0x20_0008, 0xe852_50d6)
    );
}

#[test]
fn relocatable() {
    for (preference, want) in [(0, 0x40_0000), (1, 0x40_0000), (2, 0x7f_0000)] {
        let tag: &[u32] = &[0x40_0000, 0x7f_ffff, 0x1_0000, preference];
        let image = Image {
            code: header(&[(10, 0, tag)]),
            ..Image::default()
        };
        let (loaded, ram) = load(&files(image.build(), &[]), &environment(16)).unwrap();
        assert_eq!(loaded.entry.rip, want, "preference {preference}");
        assert_eq!(ram.u32(want), 0xe852_50d6);
        assert_eq!(u64::from(ram.u32(tags(&loaded, &ram)[&21].0)), want);
    }
    // Where it was linked to is as good as any place.
    let tag: &[u32] = &[0, u32::MAX, 0x1000, 0];
    let image = Image {
        code: header(&[(10, 0, tag)]),
        paddr: 0x30_0000,
        entry: 0x30_0004,
        ..Image::default()
    };
    let (loaded, _) = load(&files(image.build(), &[]), &environment(16)).unwrap();
    assert_eq!(loaded.entry.rip, 0x30_0004);
}

#[test]
fn text_console() {
    let graphics: (u16, u16, &[u32]) = (5, 0, &[640, 480, 32]);
    let image = Image {
        code: header(&[(4, 0, &[2]), graphics]),
        ..Image::default()
    };
    let env = Environment {
        vga_text: true,
        ..environment(16)
    };
    let (loaded, ram) = load(&files(image.build(), &[]), &env).unwrap();
    let screen = tags(&loaded, &ram)[&8].0;
    assert_eq!(
        (ram.u64(screen), ram.u32(screen + 12), ram.u32(screen + 16)),
        (0xb_8000, 80, 25)
    );
    assert!(matches!(problem(&[graphics]), Problem::Unsupported { .. }));
    let optional = Image {
        code: header(&[(5, 1, &[640, 480, 32])]),
        ..Image::default()
    };
    load(&files(optional.build(), &[]), &environment(16)).unwrap();
}

#[test]
fn what_cannot_be_had_is_refused() {
    assert!(
        problem(&[(7, 0, &[])])
            .to_string()
            .contains("EFI boot services")
    );
    assert!(problem(&[(1, 0, &[4, 99])]).to_string().contains("tag 99"));
    assert!(problem(&[(77, 0, &[])]).to_string().contains("tag 77"));
    assert!(matches!(problem(&[(3, 0, &[])]), Problem::Malformed(_)));
    assert!(matches!(problem(&[(3, 0, &[5])]), Problem::Malformed(_)));
    assert!(matches!(
        problem(&[(10, 0, &[0, u32::MAX, 3, 0])]),
        Problem::Malformed(_)
    ));
    assert!(matches!(
        problem(&[(10, 0, &[0x800_0000, u32::MAX, 1, 0])]),
        Problem::NoRoom { .. }
    ));
}

#[test]
fn a_tag_of_length_zero_ends_nothing() {
    let mut code = header(&[(6, 0, &[])]);
    code[20..24].fill(0);
    let kernel = Image {
        code,
        ..Image::default()
    }
    .build();
    let e = load(&files(kernel, &[]), &environment(16))
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(e.problem, Problem::Malformed(_)), "{e}");
}
