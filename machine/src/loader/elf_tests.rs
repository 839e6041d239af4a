//! A builder of tiny ELF files, and tests of the parser.

use super::super::map::MemoryMap;
use super::super::testing::Ram;
use super::{Bytes, Claims, Elf, Problem, Table};

/// What a test wants in its file.
pub(in super::super) struct Image {
    pub wide: bool,
    pub entry: u64,
    pub paddr: u64,
    pub vaddr: u64,
    /// The loaded segment's bytes; 100h more follow in memory.
    pub code: Vec<u8>,
    /// Owner, type, contents.
    pub note: Option<(&'static [u8], u32, Vec<u8>)>,
    /// Whether to have a symbol section besides.
    pub sections: bool,
}

impl Default for Image {
    fn default() -> Self {
        let (entry, paddr, vaddr) = (0x10_0000, 0x10_0000, 0x10_0000);
        Self {
            wide: false,
            entry,
            paddr,
            vaddr,
            code: vec![0x90; 64],
            note: None,
            sections: false,
        }
    }
}

impl Image {
    /// The file: header, program headers, note, code, section contents, section headers.
    pub(in super::super) fn build(&self) -> Vec<u8> {
        let (header_len, each) = if self.wide { (64, 56) } else { (52, 32) };
        let mut t = Table::zeros(header_len + 2 * each);
        t.put(0, b"\x7fELF");
        t.put(4, &[if self.wide { 2 } else { 1 }, 1, 1]);
        t.u16(16, 2);
        t.u16(18, if self.wide { 62 } else { 3 });
        let note_at = t.0.len();
        if let Some((owner, kind, desc)) = &self.note {
            let name = [*owner, b"\0"].concat();
            t.append(&(name.len() as u32).to_le_bytes());
            t.append(&(desc.len() as u32).to_le_bytes());
            t.append(&kind.to_le_bytes());
            t.append(&name);
            t.align(4);
            t.append(desc);
        }
        let note_len = t.0.len() - note_at;
        t.align(16);
        let code_at = t.append(&self.code);
        let segments = [
            (1, code_at, self.code.len(), 0x100, self.paddr),
            (4, note_at, note_len, 0, 0),
        ];
        for (n, (kind, at, len, more, paddr)) in segments.into_iter().enumerate() {
            let base = header_len + n * each;
            let fields = [
                at as u64,
                self.vaddr,
                paddr,
                len as u64,
                (len + more) as u64,
            ];
            t.u32(base, kind);
            for (f, value) in fields.into_iter().enumerate() {
                if self.wide {
                    t.u64(base + 8 + f * 8, value)
                } else {
                    t.u32(base + 4 + f * 4, value as u32)
                }
            }
        }
        let (shdr_len, mut sections_at) = (if self.wide { 64 } else { 40 }, 0);
        if self.sections {
            let symbols = t.append(b"symbols!");
            t.align(8);
            sections_at = t.0.len();
            let base = sections_at + shdr_len;
            t.u32(base + 4, 2);
            if self.wide {
                t.u64(base + 24, symbols as u64);
                t.u64(base + 32, 8);
                t.align(64);
            } else {
                t.u32(base + 16, symbols as u32);
                t.u32(base + 20, 8);
            }
            t.0.resize(base + shdr_len, 0);
        }
        if self.wide {
            t.u64(24, self.entry);
            t.u64(32, header_len as u64);
            t.u64(40, sections_at as u64);
        } else {
            t.u32(24, self.entry as u32);
            t.u32(28, header_len as u32);
            t.u32(32, sections_at as u32);
        }
        let tail = if self.wide { 54 } else { 42 };
        let counts = [each, 2, shdr_len, if self.sections { 2 } else { 0 }, 1];
        for (n, value) in counts.into_iter().enumerate() {
            t.u16(tail + n * 2, value as u16);
        }
        t.0
    }
}

#[test]
fn loads_and_clears() {
    let map = MemoryMap::pc(16 << 20);
    for wide in [false, true] {
        let file = Image {
            wide,
            ..Image::default()
        }
        .build();
        let elf = Elf::parse(&file).unwrap().unwrap();
        assert_eq!(elf.extent().unwrap(), (0x10_0000, 0x10_0140));
        assert_eq!(elf.physical_entry().unwrap(), 0x10_0000);
        let mut ram = Ram::new(&map);
        let mut claims = Claims::new(&map, &mut ram);
        claims.write(0x10_013f, &[7, 7], "dirt").unwrap();
        elf.load(0, &mut claims).unwrap();
        assert_eq!(claims.end(), 0x10_0140);
        assert_eq!(ram.read(0x10_003e, 4), [0x90, 0x90, 0, 0]);
        assert_eq!(ram.read(0x10_013f, 2), [0, 7]);
    }
}

#[test]
fn a_virtual_entry_point_becomes_physical() {
    let image = Image {
        wide: true,
        entry: 0xffff_ffff_8010_0010,
        vaddr: 0xffff_ffff_8010_0000,
        ..Image::default()
    };
    let file = image.build();
    let elf = Elf::parse(&file).unwrap().unwrap();
    assert_eq!(elf.physical_entry().unwrap(), 0x10_0010);
    let lost = Image {
        entry: 5,
        ..Image::default()
    }
    .build();
    assert!(
        Elf::parse(&lost)
            .unwrap()
            .unwrap()
            .physical_entry()
            .is_err()
    );
}

#[test]
fn notes_are_found_by_owner_and_type() {
    let file = Image {
        note: Some((b"Xen", 18, vec![1, 2, 3, 4])),
        ..Image::default()
    }
    .build();
    let elf = Elf::parse(&file).unwrap().unwrap();
    assert_eq!(elf.note(b"Xen", 18), Some(&[1, 2, 3, 4][..]));
    assert_eq!(elf.note(b"Xen", 17), None);
    assert_eq!(elf.note(b"GNU", 18), None);
}

#[test]
fn sections_get_addresses() {
    let map = MemoryMap::pc(16 << 20);
    for wide in [false, true] {
        let file = Image {
            wide,
            sections: true,
            ..Image::default()
        }
        .build();
        let elf = Elf::parse(&file).unwrap().unwrap();
        let mut ram = Ram::new(&map);
        let mut claims = Claims::new(&map, &mut ram);
        elf.load(0, &mut claims).unwrap();
        let s = elf.place_sections(&mut claims).unwrap();
        assert_eq!(
            (s.count, s.names, s.table.len() as u32),
            (2, 1, 2 * s.entry_len)
        );
        let header = Bytes(&s.table[s.entry_len as usize..]);
        let at = if wide {
            header.u64(16)
        } else {
            header.u32(12).map(u64::from)
        };
        assert_eq!(ram.read(at.unwrap(), 8), b"symbols!");
    }
}

#[test]
fn bad_files() {
    let whole = Image::default().build();
    let short = Elf::parse(&whole[..40]).map(|_| ());
    assert!(matches!(short, Err(Problem::Truncated { .. })));
    let map = MemoryMap::pc(16 << 20);
    let mut ram = Ram::new(&map);
    let cut = Elf::parse(&whole[..whole.len() - 1]).unwrap().unwrap();
    let e = cut.load(0, &mut Claims::new(&map, &mut ram));
    assert!(matches!(
        e,
        Err(Problem::Truncated {
            what: "a segment",
            ..
        })
    ));
    assert!(Elf::parse(b"\x7fELF\x01\x02").unwrap().is_none());
}
