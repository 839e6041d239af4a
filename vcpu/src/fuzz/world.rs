//! What lies in RAM before the first instruction: descriptor tables, tasks, handlers, paging structures, data.

use system::testing::{access, descriptor, gate};
use x86::{Segment, attr, vector};

use super::input::Input;
use super::place::{self, root, sel};
use super::program;

/// RAM's contents in the making.
pub struct World {
    ram: Vec<u8>,
}

/// Vectors that push an error code.
const WITH_ERROR: [u8; 9] = [8, 10, 11, 12, 13, 14, 17, 21, 30];

impl World {
    /// Lays everything out, with what the input wants to be unusual.
    pub fn new(input: &mut Input) -> Self {
        let mut world = Self {
            ram: vec![0; place::RAM as usize],
        };
        world.gdt();
        world.tasks();
        world.handlers(input);
        world.tables();
        world.data(input);
        world.oddities(input);
        world
    }

    /// All of RAM but the hole.
    pub fn contents(&self) -> &[u8] {
        &self.ram
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.ram[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn entry(&mut self, selector: u16, raw: u64) {
        self.word(place::GDT + u64::from(selector & !7), raw);
    }

    fn gdt(&mut self) {
        use access::{CODE, CONFORMING, DATA, EXECUTE_ONLY, EXPAND_DOWN, LDT, READ_ONLY, dpl};
        let big = attr::G | attr::DB;
        let flat = |attr| descriptor(0, 0xf_ffff, attr);
        for level in 0..4_u8 {
            let at = u16::from(level) * 0x10;
            self.entry(sel::C0 + at, flat(CODE | big | dpl(level)));
            self.entry(sel::D0 + at, flat(DATA | big | dpl(level)));
        }
        let at = place::CODE;
        self.entry(sel::C0_16, descriptor(at, 0xffff, CODE));
        self.entry(sel::C3_16, descriptor(at, 0xffff, CODE | dpl(3)));
        self.entry(sel::D0_16, descriptor(0, 0xffff, DATA));
        self.entry(sel::D3_16, descriptor(0, 0xffff, DATA | dpl(3)));
        self.entry(sel::H16, descriptor(0, 0xffff, CODE));
        self.entry(sel::L0, flat(CODE | attr::L | attr::G));
        self.entry(sel::L3, flat(CODE | attr::L | attr::G | dpl(3)));
        self.entry(sel::LDT, descriptor(place::LDT, 0xff, LDT));
        self.entry(sel::TSS, descriptor(place::TSS, 0xfff, access::TSS | 2));
        self.entry(sel::TSS_B, descriptor(place::TSS_B, 0xfff, access::TSS));
        self.entry(sel::TSS_C, descriptor(place::TSS_C, 0xfff, access::TSS16));
        self.entry(sel::TSS64, descriptor(place::TSS64, 0xfff, access::TSS | 2));
        for (n, attr) in [
            CODE | big,
            DATA | big,
            CODE | big | dpl(3),
            DATA | big | dpl(3),
            CODE | attr::L | attr::G | dpl(3),
        ]
        .into_iter()
        .enumerate()
        {
            self.entry(sel::SYS + 8 * n as u16, flat(attr));
        }
        let odd = [
            flat(CONFORMING | big),
            flat(CONFORMING | big | dpl(3)),
            flat(CONFORMING | attr::L | attr::G),
            flat(EXECUTE_ONLY | big | dpl(3)),
            flat(READ_ONLY | big | dpl(3)),
            descriptor(place::DATA, 0xfff, DATA | attr::DB | dpl(3)),
            descriptor(place::DATA, 0x7, DATA | dpl(3)),
            descriptor(0, 0x6fff, EXPAND_DOWN | dpl(3)),
            descriptor(0, 0x6fff, EXPAND_DOWN | attr::DB),
            descriptor(0xffff_f000, 0xf_ffff, DATA | big | dpl(3)),
            flat((CODE | big) & !attr::P),
            flat((DATA | big | dpl(3)) & !attr::P),
            descriptor(0, 0x2_00ff, CODE | attr::DB | dpl(3)),
            descriptor(3, 0xf_ffff, CODE | big),
            descriptor(0xffff_0000, 0xf_ffff, CODE | big | dpl(3)),
            flat(CODE | attr::L | attr::DB | attr::G),
        ];
        for (n, raw) in odd.into_iter().enumerate() {
            self.entry(sel::ODD + 8 * n as u16, raw);
            self.word(place::LDT + 8 * n as u64, raw);
        }
        // Upper halves stay zero; in legacy modes they are empty descriptors.
        let code = place::CODE + 8;
        let gates = [
            gate(sel::C0, code, access::CALL | dpl(3), 0),
            gate(sel::C0, code, access::CALL | dpl(3), 3),
            gate(sel::C0, code, access::CALL16 | dpl(3), 31),
            gate(sel::L0, code, access::CALL | dpl(3), 0),
            gate(sel::TSS_B, 0, access::TASK_GATE | dpl(3), 0),
            gate(sel::TSS_C, 0, access::TASK_GATE | dpl(3), 0),
            gate(sel::C1, code, access::CALL | dpl(3), 1),
            gate(sel::ODD, code, access::CALL | dpl(3), 0),
        ];
        for (n, raw) in gates.into_iter().enumerate() {
            self.entry(sel::GATES + 16 * n as u16, raw);
        }
    }

    fn tasks(&mut self) {
        for level in 0..3_u64 {
            let stack = place::STACKS + level * 0x1000;
            let ss = u64::from(sel::D0 + level as u16 * 0x11);
            for tss in [place::TSS, place::TSS_B] {
                self.word(tss + 4 + level * 8, stack | ss << 32);
            }
            self.put(place::TSS_C + 2 + level * 4, &(stack as u16).to_le_bytes());
            self.put(place::TSS_C + 4 + level * 4, &(ss as u16).to_le_bytes());
            self.word(place::TSS64 + 4 + level * 8, stack);
        }
        for n in 0..7 {
            self.word(
                place::TSS64 + 0x24 + n * 8,
                place::STACKS + (n + 3) * 0x1000,
            );
        }
        for tss in [place::TSS, place::TSS_B, place::TSS64] {
            // An interrupt redirection bitmap and an I/O bitmap: every other block of eight is free.
            self.put(tss + 0x66, &0x88_u16.to_le_bytes());
            for n in 0..32 {
                self.put(tss + 0x68 + n, &[if n & 1 == 0 { 0 } else { 0xff }]);
            }
        }
        // The tasks that can be switched to.
        self.put(
            place::TSS_B + 0x20,
            &(place::CODE as u32 + 0x20).to_le_bytes(),
        );
        self.put(place::TSS_B + 0x24, &0x202_u32.to_le_bytes());
        self.put(
            place::TSS_B + 0x38,
            &(place::STACK as u32 - 0x100).to_le_bytes(),
        );
        for (n, selector) in [sel::D0, sel::C0, sel::D0, sel::D0, sel::D3, 0, sel::LDT]
            .into_iter()
            .enumerate()
        {
            self.put(place::TSS_B + 0x48 + 4 * n as u64, &selector.to_le_bytes());
        }
        self.put(place::TSS_B + 0x1c, &(root::BITS32 as u32).to_le_bytes());
        self.put(place::TSS_C + 0x0e, &0x40_u16.to_le_bytes());
        self.put(place::TSS_C + 0x10, &2_u16.to_le_bytes());
        self.put(place::TSS_C + 0x1a, &0x7f00_u16.to_le_bytes());
        for (n, selector) in [sel::D0_16, sel::C0_16, sel::D0_16, sel::D0_16, sel::LDT]
            .into_iter()
            .enumerate()
        {
            self.put(place::TSS_C + 0x22 + 2 * n as u64, &selector.to_le_bytes());
        }
    }

    /// Handlers that go on a few bytes behind the instruction, and whatever else the input wants.
    fn handlers(&mut self, input: &mut Input) {
        for v in 0..=255_u8 {
            let error = WITH_ERROR.contains(&v);
            let skip = 1 + (v & 1);
            let (short, long): (&[u8], &[u8]) = if error {
                (&[0x83, 0xc4], &[4])
            } else {
                (&[], &[])
            };
            let at = place::HANDLER_SIZE * u64::from(v);
            // push bp; mov bp, sp; add word [bp + n], skip; pop bp; (add sp, 2;) iret
            let mut code16 = vec![0x55, 0x89, 0xe5, 0x83, 0x46, 2, skip, 0x5d, 0xcf];
            // (add esp, 4;) add dword [esp], skip; iret
            let code32 = [short, long, &[0x83, 0x04, 0x24, skip, 0xcf]].concat();
            let rex = if error {
                &[0x48, 0x83, 0xc4, 8][..]
            } else {
                &[]
            };
            let code64 = [rex, &[0x48, 0x83, 0x04, 0x24, skip, 0x48, 0xcf]].concat();
            self.put(place::HANDLERS16 + at, &code16);
            code16.clear();
            self.put(place::HANDLERS32 + at, &code32);
            self.put(place::HANDLERS64 + at, &code64);
            let n = u64::from(v);
            self.put(n * 4, &(place::HANDLERS16 as u32 + at as u32).to_le_bytes());
            // Software interrupts are everybody's, exceptions nobody's.
            let dpl = access::dpl(if v >= 0x20 || v == 3 || v == 4 { 3 } else { 0 });
            let kind = if v & 4 == 0 {
                access::INT
            } else {
                access::TRAP
            };
            self.word(
                place::IDT + n * 8,
                gate(sel::C0, place::HANDLERS32 + at, kind | dpl, 0),
            );
            let ist = if v == vector::DF || v == vector::NMI {
                1 + (v & 1)
            } else {
                0
            };
            self.word(
                place::IDT64 + n * 16,
                gate(sel::L0, place::HANDLERS64 + at, kind | dpl, ist),
            );
        }
        for _ in 0..input.below(8) {
            let v = if input.chance(60) {
                input.byte()
            } else {
                input.below(33) as u8
            };
            let n = u64::from(v);
            let at = place::HANDLER_SIZE * n;
            match input.below(8) {
                0 => {
                    self.word(place::IDT + n * 8, 0);
                    self.word(place::IDT64 + n * 16, 0);
                    self.put(n * 4, &[0; 4]);
                }
                1 => self.word(
                    place::IDT + n * 8,
                    gate(sel::TSS_B, 0, access::TASK_GATE | access::dpl(3), 0),
                ),
                2 => {
                    self.word(
                        place::IDT + n * 8,
                        gate(
                            sel::H16,
                            place::HANDLERS16 + at,
                            access::INT16 | access::dpl(3),
                            0,
                        ),
                    );
                    let ist = input.byte() & 7;
                    self.word(
                        place::IDT64 + n * 16,
                        gate(
                            sel::L0,
                            place::HANDLERS64 + at,
                            access::TRAP | access::dpl(3),
                            ist,
                        ),
                    );
                }
                3 => {
                    let raw = input.number(8);
                    self.word(place::IDT + n * 8, raw);
                    self.word(place::IDT64 + n * 16, raw);
                    self.put(n * 4, &raw.to_le_bytes()[..4]);
                }
                4 => {
                    // The handler is the code itself.
                    let code = place::CODE + u64::from(input.byte());
                    self.word(
                        place::IDT + n * 8,
                        gate(sel::C0, code, access::TRAP | access::dpl(3), 0),
                    );
                    self.word(
                        place::IDT64 + n * 16,
                        gate(sel::L0, code, access::TRAP | access::dpl(3), 0),
                    );
                    self.put(n * 4, &[input.byte(), 0, 0, 0x20]);
                }
                _ => {
                    for (place, bits) in [
                        (place::HANDLERS16, 16),
                        (place::HANDLERS32, 32),
                        (place::HANDLERS64, 64),
                    ] {
                        let code = program::write(input, program::Place::level0(bits, 0), 2);
                        let len = code.len().min(place::HANDLER_SIZE as usize);
                        self.put(place + at, &code[..len]);
                    }
                }
            }
        }
    }

    /// Everything lies at its own address, twice as high, and in the upper half.
    fn tables(&mut self) {
        const ALL: u64 = 7;
        for n in [0, 256, 511] {
            self.word(root::LEVEL5 + n * 8, root::LEVEL4 | ALL);
            self.word(root::LEVEL4 + n * 8, root::POINTERS | ALL);
        }
        for n in [0, 510, 511] {
            self.word(root::POINTERS + n * 8, root::DIRECTORY | ALL);
        }
        for n in 0..4 {
            self.word(root::PAE + n * 8, root::DIRECTORY | 1);
        }
        self.word(root::DIRECTORY, root::PAGES | ALL);
        self.word(root::DIRECTORY + 8, ALL | 0x80);
        self.word(root::DIRECTORY + 16, root::ALIASES | ALL);
        self.word(root::DIRECTORY + 511 * 8, root::PAGES | ALL);
        self.put(root::BITS32, &(root::PAGES32 as u32 | 7).to_le_bytes());
        self.put(root::BITS32 + 4, &0x87_u32.to_le_bytes());
        self.put(
            root::BITS32 + 1023 * 4,
            &(root::PAGES32 as u32 | 7).to_le_bytes(),
        );
        for page in 0..512 {
            self.word(root::PAGES + page * 8, page << 12 | ALL);
            // Neighbours are swapped here.
            self.word(root::ALIASES + page * 8, (page ^ 1) << 12 | ALL);
            self.put(
                root::PAGES32 + page * 4,
                &((page as u32) << 12 | 7).to_le_bytes(),
            );
            self.put(
                root::PAGES32 + (page + 512) * 4,
                &((page as u32 ^ 1) << 12 | 7).to_le_bytes(),
            );
        }
    }

    fn data(&mut self, input: &mut Input) {
        for n in 0..0x400 {
            let value = match input.noise() & 7 {
                0 => 0,
                1 => input.noise() & 0xff,
                2 => place::CODE + (input.noise() & 0xff),
                3 => u64::MAX,
                _ => input.noise(),
            };
            self.word(place::DATA + n * 8, value);
        }
    }

    /// Descriptors and pages as the input says.
    fn oddities(&mut self, input: &mut Input) {
        for n in 0..sel::WILD_COUNT {
            let raw = input.noise()
                | if input.noise() & 3 == 0 {
                    0
                } else {
                    0x9000_0000_0000
                };
            self.entry(sel::WILD + 8 * n, raw);
        }
        for _ in 0..input.below(6) {
            let page = page(input);
            let bits = match input.below(8) {
                0 => 0,
                1 => 1,
                2 => 3,
                3 => 5,
                4 => 7 | 1 << 63,
                5 => 7 | 1 << 8,
                6 => {
                    7 | u64::from(input.byte()) << 48 & 1 << 51 | u64::from(input.byte() & 15) << 59
                }
                _ => input.number(2) & 0xfff,
            };
            let other = if input.chance(40) {
                super::world::page(input)
            } else {
                page
            };
            let table = if input.chance(60) {
                root::ALIASES
            } else {
                root::PAGES
            };
            self.word(table + page * 8, other << 12 | bits);
            self.put(
                root::PAGES32 + page * 4,
                &((other as u32) << 12 | bits as u32 & 0xfff).to_le_bytes(),
            );
        }
    }

    /// A segment register as loading it from the GDT makes it, without the checks.
    pub fn segment(&self, selector: u16) -> Segment {
        let at = (place::GDT + u64::from(selector & !7)) as usize;
        let raw = self.ram[at..at + 8]
            .iter()
            .rev()
            .fold(0, |value, b| value << 8 | u64::from(*b));
        let attr = (raw >> 40) as u32 & 0xf0ff;
        let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        Segment {
            base: raw >> 16 & 0xff_ffff | raw >> 56 << 24,
            limit: if attr & attr::G != 0 {
                limit << 12 | 0xfff
            } else {
                limit
            },
            attr: if attr & attr::S == 0 {
                attr
            } else {
                attr | attr::ACCESSED
            },
            selector,
        }
    }
}

/// The number of a page that something may hang on.
fn page(input: &mut Input) -> u64 {
    let near = [
        place::CODE,
        place::CODE + 0x1000,
        place::STACK - 0x1000,
        place::DATA,
        place::DATA + 0x1000,
        place::GDT,
    ];
    if input.chance(40) {
        u64::from(input.byte())
    } else {
        input.pick(&near) >> 12
    }
}
