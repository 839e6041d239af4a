//! 32-bit code that goes through windows: while its kernel maps, unmaps and protects pages, over devices, code, ends of pages and the
//! end of memory, it must end as it does in the interpreter, down to the accessed and dirty bits.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine, START, TABLES, access as rights, gate, sel};
use x86::{PhysAddr, cr4};

use crate::loops::{FRAMES, Random};
use crate::support::{DATA, Way, run};

/// Linear address of the pages that are changed.
const VIEW: u32 = 0x40_0000;
const PAGES: u64 = 16;
/// Where their page-table entries are.
const ENTRIES: u32 = 0x20_1000;
/// No RAM: reads are all ones.
const DEVICE: u64 = 0x80_0000;
/// The page table of the last 4 MiB.
const LAST: u64 = 0x20_0000;
/// What the kernel does, where, and how often it has.
const KERNEL: u64 = 0x9_4000;
const FAULTS: u32 = 0x9_8000;
/// The entries that it has met at page faults, in one word.
const MET: u32 = FAULTS + 4;
/// An interrupt's vector: maps page EAX as EDX says.
const MAP: i32 = 0x80;
/// Another: loads CR3.
const FLUSH: i32 = 0x81;
/// RAM that is compared.
const COMPARED: usize = 0x40_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;

const WAYS: [Way; 5] = [
    Way::Interp,
    Way::Jit(1 << 40, 1 << 24),
    Way::Windows(1 << 40, 1 << 24),
    Way::Windows(1 << 40, 1 << 16),
    Way::Windows(333, 1 << 20),
];

fn assembled(
    m: &Machine,
    at: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let mut a = CodeAssembler::new(32).expect("32 is a bitness");
    program(&mut a).expect("it assembles");
    let bytes = a.assemble(at).expect("it fits");
    m.ram.write(PhysAddr(at), &bytes).expect("RAM");
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Maps the page of CR2 as its entry would have it, if it is one of the view, and ends the run if that happens too often.
fn page_fault(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut end = a.create_label();
    a.push(eax)?;
    a.push(edx)?;
    a.mov(edx, cr2)?;
    a.sub(edx, VIEW)?;
    a.shr(edx, 12)?;
    a.cmp(edx, PAGES as u32)?;
    a.jae(end)?;
    a.inc(dword_ptr(FAULTS))?;
    a.cmp(dword_ptr(FAULTS), 300)?;
    a.ja(end)?;
    // Accessed already, though it could not be?
    a.mov(eax, dword_ptr(edx * 4 + ENTRIES))?;
    a.rol(dword_ptr(MET), 1)?;
    a.xor(dword_ptr(MET), eax)?;
    a.or(
        dword_ptr(edx * 4 + ENTRIES),
        (PRESENT | WRITABLE | USER) as i32,
    )?;
    a.mov(edx, cr2)?;
    a.invlpg(byte_ptr(edx))?;
    a.pop(edx)?;
    a.pop(eax)?;
    a.add(esp, 4)?;
    a.iretd()?;
    a.set_label(&mut end)?;
    a.hlt()
}

fn interrupts(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.and(eax, PAGES as i32 - 1)?;
    a.mov(dword_ptr(eax * 4 + ENTRIES), edx)?;
    a.shl(eax, 12)?;
    a.invlpg(byte_ptr(eax + VIEW))?;
    a.iretd()
}

fn flush(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, cr3)?;
    a.mov(cr3, eax)?;
    a.iretd()
}

/// An entry for a page of the view.
fn entry(random: &mut Random) -> u64 {
    let frame = FRAMES + random.below(PAGES) * 0x1000;
    match random.below(16) {
        0 => frame,
        1 => frame | PRESENT | WRITABLE,
        2 => frame | PRESENT | USER,
        3 => DEVICE | PRESENT | WRITABLE | USER,
        4 => START | PRESENT | USER,
        5 => START | PRESENT | WRITABLE | USER,
        _ => frame | PRESENT | WRITABLE | USER,
    }
}

fn machine(cpl: u8, random: &mut Random) -> Machine {
    ir::verify::enable(true);
    let mut m = Machine::protected(cpl);
    m.enable_paging();
    let mut st = m.v.st.clone();
    st.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::PSE;
    m.v.load_state(st);
    m.ram.fill(PhysAddr(HANDLER), 256, 0xf4).expect("RAM");
    // The last page of the address space.
    m.write(TABLES + 1023 * 4, 4, LAST | PRESENT | WRITABLE | USER);
    m.write(
        TABLES + u64::from(VIEW >> 22) * 4,
        4,
        u64::from(ENTRIES) | PRESENT | WRITABLE | USER,
    );
    let last = FRAMES | PRESENT | WRITABLE | USER;
    m.write(LAST + 1023 * 4, 4, last);
    for page in 0..PAGES {
        m.write(u64::from(ENTRIES) + page * 4, 4, entry(random));
    }
    for at in (FRAMES..FRAMES + PAGES * 0x1000).step_by(8) {
        m.write(at, 8, random.next());
    }
    let handlers: [(u64, u32, Program); 3] = [
        (14, 0, page_fault),
        (MAP as u64, 3, interrupts),
        (FLUSH as u64, 3, flush),
    ];
    for (n, (vector, dpl, handler)) in handlers.into_iter().enumerate() {
        let at = KERNEL + n as u64 * 0x100;
        assembled(&m, at, handler);
        let raw = gate(sel::C0, at, rights::INT | rights::dpl(dpl as u8), 0);
        let table = m.v.st.idtr.base;
        m.write(table + vector * 8, 8, raw);
    }
    m.v.mmu.flush_all();
    m
}

/// Near an end of a page of the view, or somewhere in it.
fn place(random: &mut Random) -> u32 {
    let page = VIEW + random.below(PAGES) as u32 * 0x1000;
    match random.below(3) {
        0 => page + random.below(0x1000) as u32,
        1 => page + random.below(64) as u32,
        _ => page.wrapping_sub(random.below(24) as u32).max(VIEW),
    }
}

fn program(a: &mut CodeAssembler, random: &mut Random, cpl: u8) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.fninit()?;
    for base in [ebx, esi, edi] {
        a.mov(base, place(random))?;
    }
    a.mov(
        ebp,
        random.pick(&[0xffff_fff0_u32, 0xffff_fffd, VIEW + 0xff8]),
    )?;
    if cpl == 3 {
        a.mov(esp, place(random))?;
    }
    for value in [eax, edx] {
        a.mov(value, random.next() as u32)?;
    }
    a.movd(xmm1, eax)?;
    a.movd(xmm2, edx)?;
    a.mov(ecx, 6)?;
    a.set_label(&mut top)?;
    for _ in 0..4 + random.below(14) {
        instruction(a, random)?;
    }
    match random.below(3) {
        0 => a.int(FLUSH)?,
        1 => {
            a.mov(eax, random.below(PAGES) as u32)?;
            a.mov(edx, entry(random) as u32)?;
            a.int(MAP)?;
        }
        _ => {}
    }
    a.add(
        random.pick(&[ebx, esi, edi]),
        random.pick(&[4, 60, 4096, -8192]),
    )?;
    a.dec(ecx)?;
    a.jne(top)?;
    a.movups(xmmword_ptr(DATA as u32), xmm1)?;
    a.movups(xmmword_ptr(DATA as u32 + 16), xmm2)?;
    // At CPL 3 it is #GP, and the handler's HLT ends the run.
    a.hlt()
}

fn instruction(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let base = random.pick(&[ebx, esi, edi]);
    let disp = random.below(48) as i32 - 16;
    let at = match random.below(6) {
        0 => base + ecx * 4 + disp,
        _ => base + disp,
    };
    let imm = random.below(200) as i32 - 100;
    match random.below(49) {
        0 => a.mov(eax, dword_ptr(at)),
        1 => a.mov(dword_ptr(at), edx),
        2 => a.movzx(eax, word_ptr(at)),
        3 => a.mov(word_ptr(at), ax),
        4 => a.movsx(edx, byte_ptr(at)),
        5 => a.mov(byte_ptr(at), dh),
        6 => a.add(eax, dword_ptr(at)),
        7 => a.add(dword_ptr(at), eax),
        8 => a.adc(dword_ptr(at), imm),
        9 => a.sbb(edx, dword_ptr(at)),
        10 => a.inc(dword_ptr(at)),
        11 => a.neg(word_ptr(at)),
        12 => a.not(dword_ptr(at)),
        13 => a.cmp(dword_ptr(at), eax),
        14 => a.cmp(edx, dword_ptr(at)),
        15 => {
            a.test(dword_ptr(at), 0x1234)?;
            a.cmp(eax, 5)
        }
        16 => a.xadd(dword_ptr(at), eax),
        17 => a.xchg(dword_ptr(at), edx),
        18 => a.lock().add(dword_ptr(at), imm),
        19 => a.cmpxchg(dword_ptr(at), edx),
        20 => {
            // What it leaves undefined is not to be seen.
            a.shl(dword_ptr(at), 1 + random.below(30) as u32)?;
            a.cmp(eax, edx)
        }
        21 => a.setb(byte_ptr(at)),
        22 => {
            a.imul_2(eax, dword_ptr(at))?;
            a.test(eax, edx)?;
            a.cmp(edx, 3)
        }
        23 => a.push(dword_ptr(at)),
        24 => a.pop(dword_ptr(at)),
        25 => a.movups(xmm2, xmmword_ptr(at)),
        26 => a.movups(xmmword_ptr(at), xmm1),
        27 => a.movaps(xmm1, xmmword_ptr(at)),
        28 => a.movaps(xmmword_ptr(at), xmm2),
        29 => a.paddd(xmm1, xmmword_ptr(base + (disp & !15))),
        30 => a.movss(dword_ptr(at), xmm2),
        31 => a.movsd_2(xmm1, qword_ptr(at)),
        32 => a.fld(qword_ptr(at)),
        33 => a.fstp(tword_ptr(at)),
        34 => a.fild(dword_ptr(at)),
        35 => a.fistp(dword_ptr(at)),
        36 => a.fnstcw(word_ptr(at)),
        37 => a.push(eax),
        38 => a.pop(edx),
        // The end of the address space, and beyond.
        39 => a.mov(eax, dword_ptr(ebp + disp)),
        40 => a.mov(dword_ptr(ebp - 0x20), edx),
        // Beside the program's code.
        41 => a.inc(dword_ptr(START as u32 + 0xff0)),
        42 => a.mov(edx, dword_ptr(ebx)),
        43 => a.xchg(ebx, esi),
        44 => a.lea(edi, dword_ptr(edi + 1)),
        // What is read is kept for the flags.
        45 => {
            a.add(dword_ptr(at), imm)?;
            a.setle(al)?;
            a.setc(dl)
        }
        46 => {
            a.and(dword_ptr(at), edx)?;
            a.sets(al)
        }
        47 => {
            a.sub(dword_ptr(at), eax)?;
            a.sbb(edx, eax)
        }
        _ => {
            // Flags that outlive an access.
            a.add(eax, edx)?;
            a.mov(edx, dword_ptr(at))?;
            a.setc(al)?;
            a.adc(dword_ptr(at), 1)
        }
    }
}

fn memory(m: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; COMPARED];
    // Beside the hole for devices.
    for range in [0..0xa_0000, 0x10_0000..COMPARED] {
        let at = PhysAddr(range.start as u64);
        m.ram.read(at, &mut bytes[range]).expect("RAM");
    }
    // AF in images of EFLAGS on the kernel's stack: programs may have made themselves instructions that leave it undefined.
    bytes[0x9000..0xa000].iter_mut().for_each(|b| *b &= !0x10);
    bytes
}

fn compare(cpl: u8, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut first: Option<Machine> = None;
        for way in WAYS {
            let mut m = machine(cpl, &mut Random(seed ^ 0x5555));
            assembled(&m, START, |a| program(a, &mut Random(seed), cpl));
            run(&mut m, way);
            let Some(first) = &first else {
                first = Some(m);
                continue;
            };
            // The x87's last instruction is not always kept.
            let state = |m: &Machine| {
                let mut st = m.v.st.clone();
                let fpu = &mut st.fpu;
                (fpu.fop, fpu.fcs, fpu.fds, fpu.fip, fpu.fdp) = (0, 0, 0, 0, 0);
                st
            };
            assert!(
                state(&m) == state(first),
                "seed {seed}, {way:?}:\n{}\n{}",
                m.v.dump(),
                first.v.dump()
            );
            let (got, wanted) = (memory(&m), memory(first));
            if got != wanted {
                let n = got.iter().zip(&wanted).position(|(a, b)| a != b);
                panic!("seed {seed}, {way:?}: other memory at {n:x?}");
            }
        }
    }
}

#[test]
fn programs_whose_kernel_changes_their_pages() {
    compare(3, 0..80);
}

#[test]
fn kernels_that_change_their_own_pages() {
    compare(0, 1000..1060);
}
