//! Entry points for fuzzing: any bytes as a kernel, into RAM that checks every write.

use x86::PhysAddr;

use super::{BootFiles, Environment, GuestMemory, MemoryMap, Module, OutsideRam, Protocol, Rsdp};

/// RAM that keeps nothing, and panics at what a loader must never do.
struct Checked {
    map: MemoryMap,
    written: u64,
}

impl Checked {
    fn check(&mut self, at: PhysAddr, len: u64) -> Result<(), OutsideRam> {
        let end = at.0.checked_add(len).ok_or(OutsideRam)?;
        let is_ram = len == 0 || self.map.is_ram(&(at.0..end));
        assert!(
            is_ram || at.0 < 0x1000,
            "written outside RAM: {at}, {len:#x} bytes"
        );
        self.written = self.written.saturating_add(len);
        Ok(())
    }
}

impl GuestMemory for Checked {
    fn write(&mut self, at: PhysAddr, bytes: &[u8]) -> Result<(), OutsideRam> {
        self.check(at, bytes.len() as u64)
    }

    fn zero(&mut self, at: PhysAddr, len: u64) -> Result<(), OutsideRam> {
        self.check(at, len)
    }
}

/// Loads `data` as a kernel of this protocol, with two modules, into 64 MiB or 5 GiB by the length's lowest bit.
/// Panics only at a bug of ours: a write outside RAM, an entry point without an instruction, a message without text.
pub fn load(protocol: Protocol, data: &[u8]) {
    let large = data.len() & 1 != 0;
    let map = MemoryMap::pc(if large { 5 << 30 } else { 64 << 20 });
    let rsdp = Some(Rsdp {
        at: PhysAddr(0xf_0000),
        bytes: [2; 36],
    });
    let env = Environment {
        map: map.clone(),
        rsdp,
        long_mode: !large,
        vga_text: large,
    };
    let module = Module {
        file: "m".into(),
        command_line: "m x".into(),
        bytes: vec![1; 5000],
    };
    let modules = if protocol == Protocol::Linux {
        vec![module]
    } else {
        vec![module.clone(), module]
    };
    let files = BootFiles {
        name: "k".into(),
        kernel: data.to_vec(),
        protocol,
        modules,
        append: "a b".into(),
    };
    let mut ram = Checked {
        map: map.clone(),
        written: 0,
    };
    match files.load(&env, &mut ram) {
        Ok(loaded) => {
            let rip = loaded.entry.rip;
            assert!(map.is_ram(&(rip..rip + 1)), "entered outside RAM: {rip:#x}");
            assert!(ram.written > 0);
        }
        Err(e) => assert!(e.to_string().len() > 30, "{e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::Image;
    use super::super::{Protocol, bzimage, multiboot1, multiboot2};
    use super::load;

    /// xorshift64*: enough for mutations, and the same on every host.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }
    }

    /// Changes a few fields within the first `span` bytes, and sometimes cuts the end off.
    fn mutate(seed: &[u8], span: usize, random: &mut Random) -> Vec<u8> {
        const ODD: [u64; 8] = [
            0,
            1,
            u64::MAX,
            0x8000_0000,
            0xffff_ffff,
            0x10_0000,
            1 << 63,
            0xa_0000,
        ];
        let mut data = seed.to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(span.min(data.len()));
            let value = if random.below(2) == 0 {
                ODD[random.below(8)]
            } else {
                random.next()
            };
            let len = [1, 2, 4, 8][random.below(4)].min(data.len() - at);
            data[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
        if random.below(8) == 0 {
            data.truncate(random.below(data.len()));
        }
        data
    }

    fn rounds(protocol: Protocol, seed: &[u8], span: usize) {
        load(protocol, seed);
        let mut random = Random(0x0d09_9e10_0000_0001 ^ span as u64);
        for _ in 0..4000 {
            load(protocol, &mutate(seed, span, &mut random));
        }
    }

    #[test]
    fn linux() {
        for version in [0x201, 0x20c, 0x20f] {
            let mut image = bzimage::tests::image(version);
            image.truncate(0x2000);
            image[0x1f4] = 0; // as long as the file
            image[0x1f5] = 0;
            rounds(Protocol::Linux, &image[..], 0x290);
        }
    }

    #[test]
    fn pvh() {
        let note = Some((&b"Xen"[..], 18, 0x10_0000_u32.to_le_bytes().to_vec()));
        for wide in [false, true] {
            let image = Image {
                wide,
                note: note.clone(),
                ..Image::default()
            }
            .build();
            rounds(Protocol::Pvh, &image, image.len());
        }
    }

    #[test]
    fn multiboot() {
        let code = multiboot1::tests::header(3, &[]);
        let elf = Image {
            code,
            sections: true,
            ..Image::default()
        }
        .build();
        rounds(Protocol::Multiboot, &elf, elf.len());
        let fields = [0x20_0000, 0x20_0000, 0, 0x20_1000, 0x20_0004, 1, 80, 25, 0];
        // The header's sum must stay right for its fields to be looked at.
        let mut random = Random(7);
        for _ in 0..4000 {
            let mut fields = fields;
            let n = random.below(fields.len());
            fields[n] = random.next() as u32 >> random.below(32);
            load(
                Protocol::Multiboot,
                &multiboot1::tests::header(1 << 16 | random.below(8) as u32, &fields),
            );
        }
    }

    #[test]
    fn multiboot_2() {
        let tags: &[(u16, u16, &[u32])] = &[
            (1, 0, &[4, 6]),
            (2, 0, &[0x20_0000, 0x20_0000, 0, 0x20_1000]),
            (3, 0, &[0x20_0008]),
            (4, 0, &[2]),
            (5, 1, &[640, 480, 32]),
            (10, 0, &[0x20_0000, 0x7f_ffff, 0x1000, 1]),
        ];
        let flat = multiboot2::tests::header(tags);
        rounds(Protocol::Multiboot2, &flat, flat.len());
        let code = multiboot2::tests::header(&tags[5..]);
        let elf = Image {
            wide: true,
            code,
            sections: true,
            ..Image::default()
        }
        .build();
        rounds(Protocol::Multiboot2, &elf, elf.len());
    }

    #[test]
    fn anything() {
        let mut random = Random(99);
        for _ in 0..500 {
            let data: Vec<u8> = (0..random.below(300))
                .map(|_| random.next() as u8)
                .collect();
            load(Protocol::Auto, &data);
        }
    }
}
