//! Loops of one block, whose accesses are checked before them where that can be: random ones, over pages in any order, with
//! every way to end, must end as they do in the interpreter.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{Machine, START, TABLES, access as rights, sel};
use x86::{Gpr, PhysAddr, cr0, flags};

use crate::support::{WAYS, machine, reg, run};

/// Linear address of the window: where the upper half begins, since a kernel's code runs it.
pub(crate) const WINDOW: u64 = 0xffff_8000_0000_0000;
/// Its pages.
pub(crate) const PAGES: u64 = 16;
/// Physical address of the window's page tables, three levels.
const UPPER: u64 = 0x20_0000;
const TABLE: u64 = UPPER + 0x2000;
/// Physical address of the window's RAM, in whatever order.
pub(crate) const FRAMES: u64 = 0x30_0000;
/// Physical address of no RAM: reads are all ones.
const DEVICE: u64 = 0x80_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Maps the window's pages to frames in another order, or the same; a few are read-only, missing, a device, or the program's own page, read-only.
pub(crate) fn map(m: &mut Machine, random: &mut Random) {
    for vector in [12, 13, 14] {
        // RSP may be anywhere.
        m.gate64(vector, sel::L0, rights::INT, 1);
    }
    let mut st = m.v.st.clone();
    st.cr0 |= cr0::WP;
    m.v.load_state(st);
    open_window(m);
    let (first, step) = (random.below(PAGES), random.pick(&[1, 7]));
    for page in 0..PAGES {
        let frame = FRAMES + (first + page * step) % PAGES * 0x1000;
        let entry = match random.below(24) {
            0 => 0,
            1 => frame | PRESENT,
            2 => DEVICE | PRESENT | WRITABLE,
            3 => START | PRESENT,
            _ => frame | PRESENT | WRITABLE,
        };
        write(m, TABLE + page * 8, entry);
    }
    for at in (FRAMES..FRAMES + PAGES * 0x1000).step_by(8) {
        write(m, at, random.next());
    }
}

fn write(m: &Machine, at: u64, value: u64) {
    m.ram
        .write(PhysAddr(at), &value.to_le_bytes())
        .expect("RAM");
}

/// Maps a page of the window.
pub(crate) fn place(m: &Machine, page: u64, frame: u64) {
    write(m, TABLE + page * 8, frame | PRESENT | WRITABLE);
}

/// Gives the window its tables; the last is still empty.
pub(crate) fn open_window(m: &Machine) {
    let link = PRESENT | WRITABLE;
    write(m, TABLES + 0x800, UPPER | link);
    write(m, UPPER, (UPPER + 0x1000) | link);
    write(m, UPPER + 0x1000, TABLE | link);
}

/// A program: a loop of one block, three times.
fn program(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    // R11, R14, R15 live in memory, RSP in another register.
    let pool = [
        rax, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rsp,
    ];
    let mut order = pool;
    for n in 0..order.len() {
        order.swap(n, random.below(pool.len() as u64) as usize);
    }
    // RSP is no index.
    if let Some(n) = order.iter().position(|r| *r == rsp) {
        order.swap(n, if random.below(4) == 0 { 0 } else { 14 });
    }
    let [p, q, index, value, other, times, fixed, ..] = order;
    let (mut outer, mut top) = (a.create_label(), a.create_label());
    a.mov(times, 3_u64)?;
    a.set_label(&mut outer)?;
    let size = random.pick(&[1_i32, 2, 4, 8, 16]);
    let step = random.pick(&[
        size, size, size, size, -size, 8, 16, 64, 24, 3, -40, 0, 300, 1000,
    ]);
    let aligned = size == 16 && step % 16 == 0 && random.below(2) == 0;
    let iterations = random.pick(&[2_u64, 7, 60, 300, 900, 2500]);
    let start = |random: &mut Random| {
        let page = if step < 0 {
            PAGES - 1
        } else {
            random.below(PAGES)
        };
        let at = random.below(0x1000);
        WINDOW + page * 0x1000 + if aligned { at & !15 } else { at }
    };
    let from = start(random);
    a.mov(p, from)?;
    a.mov(q, start(random))?;
    a.mov(index, random.below(64) * 16)?;
    a.mov(value, random.next())?;
    a.mov(
        fixed,
        WINDOW + if random.below(3) == 0 { 0x3ff0 } else { 0x5000 },
    )?;
    let end = from.wrapping_add_signed(i64::from(step).wrapping_mul(iterations as i64));
    a.mov(rcx, iterations)?;
    let limit = random.below(3) == 0;
    if limit {
        a.mov(other, end)?;
    } else {
        a.mov(other, random.next())?;
    }
    a.set_label(&mut top)?;
    let count = 1 + random.below(5);
    let mut moved = random.below(count + 1);
    for n in 0..count {
        if n == moved {
            a.add(p, step)?;
            moved = u64::MAX;
        }
        let disp = random.pick(&[0_i32, 0, 8, -8, 16, 200, -16]);
        let disp = if aligned { disp & !15 } else { disp };
        let at = match random.below(8) {
            0..3 => p + disp,
            3 | 4 => q + disp,
            5 => p + index * random.pick(&[1, 2, 4, 8]) + disp,
            6 => fixed + index * random.pick(&[1, 2, 4, 8]) + disp,
            _ => fixed + disp,
        };
        access(a, random, at, aligned, value, other)?;
    }
    if moved != u64::MAX {
        a.add(p, step)?;
    }
    match random.below(4) {
        0 => a.add(q, step)?,
        1 => a.lea(q, qword_ptr(q + random.pick(&[8, 16, -4])))?,
        2 => a.inc(index)?,
        _ => {}
    }
    if random.below(5) == 0 {
        // What the flags say may matter to the way out.
        a.xor(value, qword_ptr(fixed))?;
    }
    match random.below(8) {
        0 if limit && step != 0 => {
            a.cmp(p, other)?;
            a.jne(top)?;
        }
        1 if limit && step > 0 => {
            a.cmp(p, other)?;
            a.jb(top)?;
        }
        2 => {
            a.dec(rcx)?;
            a.jne(top)?;
        }
        3 => {
            a.sub(ecx, 1)?;
            a.jg(top)?;
        }
        4 => {
            // Host flags that nothing describes.
            a.dec(rcx)?;
            a.bt(rcx, 63)?;
            a.jae(top)?;
        }
        5 => {
            a.sub(rcx, 1)?;
            a.cmp(qword_ptr(fixed), rcx)?;
            let mut more = a.create_label();
            a.je(more)?;
            a.test(rcx, rcx)?;
            a.jg(top)?;
            a.set_label(&mut more)?;
        }
        6 => {
            a.add(rcx, -1)?;
            a.jne(top)?;
        }
        _ => {
            a.dec(rcx)?;
            a.cmp(rcx, 0)?;
            a.jne(top)?;
        }
    }
    a.pushfq_to(times)?;
    a.dec(times)?;
    a.jne(outer)?;
    a.hlt()
}

/// An instruction that accesses memory.
fn access(
    a: &mut CodeAssembler,
    random: &mut Random,
    at: AsmMemoryOperand,
    aligned: bool,
    value: AsmRegister64,
    other: AsmRegister64,
) -> Result<(), IcedError> {
    match random.below(12) {
        0 => a.mov(value, qword_ptr(at)),
        1 => a.mov(qword_ptr(at), other),
        2 => a.add(value, qword_ptr(at)),
        3 => a.add(qword_ptr(at), value),
        4 => a.inc(byte_ptr(at)),
        5 => a.adc(value, qword_ptr(at)),
        6 => a.shl(dword_ptr(at), 3),
        7 if aligned => a.movaps(xmm0, xmmword_ptr(at)),
        7 => a.movups(xmm0, xmmword_ptr(at)),
        8 if aligned => a.movaps(xmmword_ptr(at), xmm0),
        8 => a.movups(xmmword_ptr(at), xmm0),
        9 if aligned => a.paddb(xmm0, xmmword_ptr(at)),
        9 => a.movzx(value, word_ptr(at)),
        10 => a.xchg(ecx, ecx),
        _ => a.neg(word_ptr(at)),
    }
}

/// Flags into a register's account: what they are at the loop's end shows in memory.
trait Account {
    fn pushfq_to(&mut self, times: AsmRegister64) -> Result<(), IcedError>;
}

impl Account for CodeAssembler {
    fn pushfq_to(&mut self, times: AsmRegister64) -> Result<(), IcedError> {
        let at = (START + 0x6000) as i64;
        self.setb(byte_ptr(at))?;
        self.setp(byte_ptr(at + 1))?;
        self.seto(byte_ptr(at + 2))?;
        self.sets(byte_ptr(at + 3))?;
        self.setz(byte_ptr(at + 4))?;
        self.mov(qword_ptr(at + 8), times)
    }
}

#[test]
fn random_loops_end_as_in_the_interpreter() {
    for seed in 0..200 {
        let mut first: Option<Machine> = None;
        for way in WAYS {
            let mut m = machine(&|a| program(a, &mut Random(seed)));
            map(&mut m, &mut Random(seed ^ 0x5555));
            run(&mut m, way);
            // BT leaves it undefined.
            let mut st = m.v.st.clone();
            st.rflags &= !flags::AF;
            m.v.load_state(st);
            let Some(first) = &first else {
                first = Some(m);
                continue;
            };
            assert!(
                m.v.st == first.v.st,
                "seed {seed}, {way:?} ends otherwise:\n{}\n{}",
                m.v.dump(),
                first.v.dump()
            );
            assert!(
                !way.counts() || m.v.retired == first.v.retired,
                "seed {seed}, {way:?}: {} instructions, not {}",
                m.v.retired,
                first.v.retired
            );
            for (at, len) in [(FRAMES, PAGES * 0x1000), (START, 0x7000)] {
                let bytes = |m: &Machine| {
                    let mut bytes = vec![0; len as usize];
                    m.ram.read(PhysAddr(at), &mut bytes).expect("RAM");
                    bytes
                };
                let (a, b) = (bytes(&m), bytes(first));
                let differs = a.iter().zip(&b).position(|(a, b)| a != b);
                assert_eq!(differs, None, "seed {seed}, {way:?}: memory from {at:#x}");
            }
        }
    }
}

#[test]
fn a_loop_that_writes_over_what_follows_it() {
    // Words of "inc rbx" (48 FF C3, and a NOP) over NOPs on the loop's own page, after the loop and others have run there.
    let program = |a: &mut CodeAssembler| {
        let (mut outer, mut code) = (a.create_label(), a.create_label());
        a.xor(ebx, ebx)?;
        a.mov(ecx, 3)?;
        a.set_label(&mut outer)?;
        a.mov(rdi, WINDOW - START)?;
        a.lea(rsi, qword_ptr(code))?;
        a.add(rdi, rsi)?;
        a.lea(rsi, qword_ptr(rdi + 600))?;
        a.cmp(ecx, 1)?;
        let mut same = a.create_label();
        a.mov(eax, 0x9090_9090_u32)?;
        a.jne(same)?;
        a.mov(eax, 0x90c3_ff48_u32)?;
        a.set_label(&mut same)?;
        a.mov(dword_ptr(rdi), eax)?;
        a.add(rdi, 4)?;
        a.cmp(rdi, rsi)?;
        a.jne(same)?;
        a.jmp(code)?;
        a.set_label(&mut code)?;
        for _ in 0..600 {
            a.nop()?;
        }
        a.dec(ecx)?;
        a.jne(outer)?;
        a.hlt()
    };
    for way in WAYS {
        let mut m = machine(&program);
        open_window(&m);
        place(&m, 0, START);
        run(&mut m, way);
        assert_eq!(reg(&m, Gpr::Rbx), 150, "{way:?}");
    }
}
