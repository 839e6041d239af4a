//! Seeded programs that run hot at once: blocks on three pages that branch, jump, call and return among one another, mostly the same
//! way and now and then another. With traces made of all that runs twice (in one of five, without), they do what they do in the
//! interpreter, to the instruction.
//!
//! ```text
//! block     ADD of a constant that stores and the host change; a step of what steers it; operations, accesses; a way out
//! space     two sets of page tables: in the second one, other code lies on the middle page
//! piece     some instructions, or what runs until a fault; then states are compared, and something may change from outside
//! ```
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

use backend_interp::Interp;
use backend_jit::{By, Jit, Options, Tracing, Windows};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{Machine, START, TABLES};
use system::{Boundary, Engine, Vcpu};
use x86::{Activity, Exception, Gpr, PhysAddr, cr4};

/// Blocks, as many on each page, and bytes from one to the next.
const BLOCKS: u64 = 24;
const PAGES: u64 = 3;
const STEP: u64 = 0x1000 / (BLOCKS / PAGES);
/// Where the first one lies in its page, and the instruction that reaches into the middle page, which goes on there.
const FIRST: u64 = 16;
const ACROSS: u64 = START + 0x1000 - 4;
/// What raises #UD when a program's time is up.
const END: u64 = START + PAGES * 0x1000;
/// What lies on the middle page in the second space.
const OTHER: u64 = START + 0x8000;
/// Five pages, of which the last is not mapped, and the one before is read-only in the second space.
const DATA: u64 = 0x4_0000;
/// How many blocks may run until the end is raised; and where indirect jumps look.
const TIME: u64 = 0x5_0000;
const TABLE: u64 = TIME + 0x100;
/// The second space's page tables.
const SECOND: u64 = 0x12_0000;

/// The memory that a base register leads to.
const BASES: [Gpr; 3] = [Gpr::Rbx, Gpr::Rbp, Gpr::Rsi];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What kind of programs a seed makes.
#[derive(Clone, Copy, Debug)]
struct Kind {
    bits: u32,
    cpl: u8,
    /// Instructions are counted; else pieces end by faults.
    counted: bool,
    /// Stores to code among the operations.
    changing: bool,
    code_cache: usize,
    traces: Tracing,
    /// Accesses go by the TLB, or by large pages; through windows.
    by: By,
    windows: Windows,
}

impl Kind {
    fn of(seed: u64) -> Self {
        Self {
            bits: if seed % 3 == 2 { 32 } else { 64 },
            cpl: (seed / 3 % 2 * 3) as u8,
            counted: (seed / 6).is_multiple_of(2),
            changing: seed / 12 % 3 == 2,
            code_cache: if seed / 36 % 3 == 2 { 1 << 16 } else { 1 << 22 },
            traces: if seed % 5 == 4 {
                Tracing::Off
            } else {
                Tracing::Eager
            },
            by: match seed % 7 {
                3 => By::Tlb,
                5 => By::Large,
                _ => By::Page,
            },
            windows: if seed % 4 == 1 {
                Windows::Always
            } else {
                Windows::Never
            },
        }
    }
}

fn place(n: u64) -> u64 {
    START + n * STEP + FIRST
}

struct Program<'a> {
    a: CodeAssembler,
    kind: Kind,
    random: &'a mut Random,
}

impl Program<'_> {
    fn wide(&self) -> bool {
        self.kind.bits == 64
    }

    fn reg(&mut self) -> AsmRegister32 {
        if self.wide() {
            self.random
                .pick(&[eax, ecx, edx, r10d, r11d, r12d, r14d, r15d])
        } else {
            self.random.pick(&[eax, ecx, edx])
        }
    }

    fn reg64(&mut self) -> AsmRegister64 {
        self.random.pick(&[rax, rcx, rdx, r10, r11, r13, r14, r15])
    }

    /// What steers the program, and what each block adds to.
    fn steer(&self) -> (AsmRegister32, AsmRegister32) {
        if self.wide() { (r8d, r9d) } else { (edi, edx) }
    }

    fn memory(&mut self) -> AsmMemoryOperand {
        let disp = self.random.pick(&[0, 4, 8, 16, -8, 32, 5, -64]);
        let wide = self.random.pick(&[rbx, rbp, rsi]);
        let small = self.random.pick(&[ebx, ebp, esi]);
        if self.wide() {
            dword_ptr(wide + disp)
        } else {
            dword_ptr(small + disp)
        }
    }

    fn operation(&mut self) -> Result<(), IcedError> {
        let (r, s) = (self.reg(), self.reg());
        let m = self.memory();
        let imm = self.random.next() as i32 >> self.random.below(32);
        let (n, wide) = (self.random.below(30), self.wide());
        if wide && n < 8 {
            let (r, s) = (self.reg64(), self.reg64());
            let a = &mut self.a;
            return match n {
                0 => a.add(r, s),
                1 => a.adc(r, imm),
                2 => a.sub(r, s),
                3 => a.lea(r, qword_ptr(s + r * 2 + 5)),
                4 => a.cmp(r, s),
                5 => a.push(r).and_then(|()| a.pop(s)),
                6 => a.cmovl(r, s),
                _ => a.bswap(r),
            };
        }
        let a = &mut self.a;
        match n % 22 {
            0 => a.add(r, s),
            1 => a.adc(r, s),
            2 => a.sub(r, imm),
            3 => a.sbb(r, s),
            4 => a.xor(r, s),
            5 => a.and(r, imm),
            6 => a.cmp(r, imm),
            7 => a.inc(r),
            8 => a.dec(r),
            9 => a.neg(r),
            10 => a.shl(r, 1),
            11 => a.ror(r, 1),
            12 => a.setb(al),
            13 => a.cmovs(r, s),
            14 | 15 => a.mov(r, m),
            16 | 17 => a.mov(m, r),
            18 => a.add(m, r),
            19 => a.adc(r, m),
            20 => a.cmp(m, r),
            _ => {
                let by = if imm & 7 == 0 { 0x230 } else { 4 };
                if wide { a.add(rsi, by) } else { a.add(esi, by) }
            }
        }
    }

    /// A store to the constant of a block, on the second space's page perhaps.
    fn change(&mut self) -> Result<(), IcedError> {
        let at = place(self.random.below(BLOCKS)) + 4;
        let (by, _) = self.steer();
        if self.wide() {
            self.a.mov(dword_ptr(at), by)
        } else {
            self.a.mov(dword_ptr(at as u32), by)
        }
    }

    fn switch(&mut self) -> Result<(), IcedError> {
        let root = self.random.pick(&[TABLES, SECOND]);
        if self.wide() {
            self.a.mov(rax, root)?;
            self.a.mov(cr3, rax)
        } else {
            self.a.mov(eax, root as u32)?;
            self.a.mov(cr3, eax)
        }
    }

    fn branch(&mut self, to: u64) -> Result<(), IcedError> {
        match self.random.below(8) {
            0 => self.a.jb(to),
            1 => self.a.jae(to),
            2 => self.a.je(to),
            3 => self.a.jne(to),
            4 => self.a.jl(to),
            5 => self.a.jg(to),
            6 => self.a.js(to),
            _ => self.a.jbe(to),
        }
    }

    /// Not a function's.
    fn target(&mut self) -> u64 {
        if self.random.below(12) == 0 {
            return ACROSS;
        }
        let n = self.random.below(BLOCKS);
        place(if n % 8 == 7 { n - 1 } else { n })
    }

    fn leave(&mut self, n: u64) -> Result<(), IcedError> {
        let (steer, _) = self.steer();
        let (one, two) = (self.target(), self.target());
        if n % 8 == 7 {
            return self.a.ret();
        }
        match self.random.below(8) {
            0 | 1 => {
                self.branch(one)?;
                self.a.jmp(two)
            }
            2 | 3 => {
                let mask = self.random.pick(&[1, 0x30, 0x700, 0xf000, 0x3e0000]);
                self.a.test(steer, mask)?;
                self.a.je(one)?;
                self.a.jmp(two)
            }
            4 => self.a.jmp(one),
            5 | 6 => {
                let function = place(self.random.below(PAGES) * 8 + 7);
                self.a.call(function)?;
                self.branch(one)?;
                self.a.jmp(two)
            }
            _ => {
                // Mostly the first of four.
                self.a.mov(eax, steer)?;
                self.a.and(eax, 0x3003)?;
                self.a.cmp(eax, 4)?;
                let wide = self.wide();
                self.a.setb(cl)?;
                self.a.sbb(eax, eax)?;
                self.a.and(eax, steer)?;
                self.a.and(eax, 3)?;
                if wide {
                    self.a.jmp(qword_ptr(rax * 8 + TABLE))
                } else {
                    self.a.jmp(dword_ptr(eax * 8 + TABLE as u32))
                }
            }
        }
    }

    fn block(mut self, n: u64) -> Result<Vec<u8>, IcedError> {
        let (steer, sum) = self.steer();
        // The constant lies where stores expect it: behind a NOP where there is no REX.
        if !self.wide() {
            self.a.nop()?;
        }
        self.a.nop()?;
        self.a.add(sum, 0x0102_0304 + n as i32)?;
        if !self.kind.counted {
            if self.wide() {
                self.a.sub(dword_ptr(TIME), 1)?;
            } else {
                self.a.sub(dword_ptr(TIME as u32), 1)?;
            }
            self.a.js(END)?;
        }
        self.a.crc32(steer, sum)?;
        for _ in 0..self.random.below(7) {
            self.operation()?;
        }
        match self.random.below(24) {
            0 if self.kind.cpl == 0 => self.switch()?,
            1..5 if self.kind.changing => self.change()?,
            _ => {}
        }
        self.leave(n)?;
        self.a.assemble(place(n))
    }
}

/// An instruction across two pages with what follows it: the bytes on the first page, and on the second.
fn across(kind: Kind, target: u64, n: i32) -> Result<(Vec<u8>, Vec<u8>), IcedError> {
    let mut a = CodeAssembler::new(kind.bits)?;
    if kind.bits == 64 {
        a.add(r9d, 0x0100_0077 + (n << 16))?;
    } else {
        a.nop()?;
        a.add(edx, 0x0100_0077 + (n << 16))?;
    }
    a.jmp(target)?;
    let mut first = a.assemble(ACROSS)?;
    let rest = first.split_off(4);
    Ok((first, rest))
}

/// The program of a seed.
fn machine(seed: u64) -> Machine {
    ir::verify::enable(true);
    let kind = Kind::of(seed);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut m = if kind.bits == 64 {
        let mut m = Machine::long(kind.cpl, true);
        spaces64(&mut m);
        m
    } else {
        let mut m = Machine::protected(kind.cpl);
        m.enable_paging();
        spaces32(&mut m);
        m
    };
    let lay = |at: u64, bytes: &[u8]| m.ram.write(PhysAddr(at), bytes).expect("RAM");
    for n in 0..BLOCKS + BLOCKS / PAGES {
        // The last are those of the other page.
        let (number, at) = if n < BLOCKS {
            (n, place(n))
        } else {
            (n - BLOCKS + 8, OTHER + (n - BLOCKS) * STEP + FIRST)
        };
        let program = Program {
            a: CodeAssembler::new(kind.bits).expect("a bitness"),
            kind,
            random: &mut random,
        };
        let code = program.block(number).expect("it assembles");
        assert!(code.len() as u64 <= STEP - FIRST - 4, "a block is too long");
        lay(at, &code);
    }
    let mut target = || place(random.below(BLOCKS) / 8 * 8 + random.below(7));
    for (second, n) in [(START + 0x1000, 0x11), (OTHER, 0x22)] {
        let (code, rest) = across(kind, target(), n).expect("it assembles");
        lay(ACROSS, &code);
        lay(second, &rest);
    }
    // UD2.
    lay(END, &[0x0f, 0x0b]);
    for n in 0..4 {
        let target = place(random.below(BLOCKS) / 8 * 8 + random.below(7));
        lay(TABLE + n * 8, &target.to_le_bytes());
    }
    for n in 0..0x1000 {
        lay(DATA + n * 4, &(random.next() as u32).to_le_bytes());
    }
    let mut st = m.v.st.clone();
    st.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    st.gpr[Gpr::Rdx as usize] = 0;
    m.v.load_state(st);
    again(&mut m, &mut random, true);
    m
}

fn spaces64(m: &mut Machine) {
    for (root, second) in [(TABLES, false), (SECOND, true)] {
        let tables = [root, root + 0x1000, root + 0x2000, root + 0x3000];
        for pair in tables.windows(2) {
            m.write(pair[0], 8, pair[1] | 7);
        }
        for n in 1..4 {
            m.write(root + 0x2000 + n * 8, 8, n << 21 | 0x87);
        }
        for n in 0..512 {
            m.write(root + 0x3000 + n * 8, 8, entry(n, second));
        }
    }
    m.v.mmu.flush_all();
}

fn spaces32(m: &mut Machine) {
    m.write(SECOND, 4, (SECOND + 0x1000) | 7);
    for n in 0..1024 {
        m.write(TABLES + 0x1000 + n * 4, 4, entry(n, false));
        m.write(SECOND + 0x1000 + n * 4, 4, entry(n, true));
    }
    m.v.mmu.flush_all();
}

/// The page table entry of a page.
fn entry(n: u64, second: bool) -> u64 {
    const MIDDLE: u64 = (START >> 12) + 1;
    const LAST: u64 = (DATA >> 12) + 4;
    const BEFORE: u64 = LAST - 1;
    match (n, second) {
        (LAST, _) => 0,
        (BEFORE, true) => n << 12 | 5,
        (MIDDLE, true) => OTHER | 7,
        _ => n << 12 | 7,
    }
}

/// Sets what faults have spoiled: base registers, the time that is left, at the end the place.
fn again(m: &mut Machine, random: &mut Random, anywhere: bool) {
    let mut st = m.v.st.clone();
    for gpr in BASES {
        st.gpr[gpr as usize] = DATA + 0x40 + random.below(0x3f00);
    }
    if anywhere {
        st.activity = Activity::Active;
        st.rip = place(random.below(BLOCKS) / 8 * 8 + random.below(7));
    }
    m.v.load_state(st);
    let time = 200 + random.below(2000) as u32;
    m.ram
        .write(PhysAddr(TIME), &time.to_le_bytes())
        .expect("RAM");
}

/// Runs at most so many instructions, or until a fault. Who returns to a page that has become another may find a HLT there: the
/// program is as much at its end as by UD2.
fn advance(m: &mut Machine, engine: &mut dyn Engine, limit: u64) -> Result<(), Exception> {
    let end = m.v.retired + limit;
    while m.v.retired < end {
        if m.v.boundary() != Boundary::Run {
            return Err(Exception::UD);
        }
        let left = end - m.v.retired;
        engine.advance(&mut m.v, left)?;
    }
    Ok(())
}

/// What must be the same; AF is undefined behind logic and shifts.
fn look(v: &mut Vcpu) -> (u64, [u64; 16], u64, u64) {
    v.sync_flags();
    let flags = v.st.rflags & !x86::flags::AF;
    (v.st.rip, v.st.gpr, flags, v.st.cr3)
}

/// Runs a seed's program; the traces that were made, those that were lost, and the faults.
fn run(seed: u64, pieces: u64) -> [u64; 3] {
    let kind = Kind::of(seed);
    let (mut a, mut b) = (machine(seed), machine(seed));
    let features = Features::new(&a.v.model.features_iced());
    let options = Options {
        single: true,
        traces: kind.traces,
        by: kind.by,
        windows: kind.windows,
        code_cache: kind.code_cache,
        ..Options::default()
    };
    let mut jit = Jit::new(features, options);
    let mut interp = Interp::new(features);
    let mut random = Random(seed + 1);
    let mut faults = 0;
    for piece in 0..pieces {
        let limit = match kind.counted {
            true => 70 + random.below(3000),
            false => 1 << 40,
        };
        let [one, two] = [
            advance(&mut a, &mut jit, limit),
            advance(&mut b, &mut interp, limit),
        ];
        let states = (look(&mut a.v), look(&mut b.v));
        assert!(
            one == two && states.0 == states.1 && (!kind.counted || a.v.retired == b.v.retired),
            "seed {seed}, piece {piece}, {kind:?}: {one:?}, {two:?}\n{}\n{}",
            a.v.dump(),
            b.v.dump()
        );
        let bytes = |m: &Machine| {
            let mut bytes = vec![0; 0x4000];
            m.ram.read(PhysAddr(DATA), &mut bytes).expect("RAM");
            bytes
        };
        assert!(bytes(&a) == bytes(&b), "seed {seed}, piece {piece}: data");
        faults += u64::from(one.is_err());
        let change = random.below(6);
        let (at, value) = (place(random.below(BLOCKS)) + 4, random.next() as u8);
        let state = random.0;
        for m in [&mut a, &mut b] {
            random.0 = state;
            if one.is_err() {
                again(m, &mut random, one == Err(Exception::UD));
            }
            match change {
                0 => m.ram.write(PhysAddr(at), &[value]).expect("RAM"),
                1 => {
                    let mut st = m.v.st.clone();
                    st.cr3 ^= TABLES ^ SECOND;
                    m.v.load_state(st);
                }
                _ => {}
            }
        }
    }
    let counts = jit.counts();
    [counts.traces, counts.lost_traces, faults]
}

#[test]
fn hot_programs_do_what_they_do_in_the_interpreter() {
    let var = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (first, chosen) = (var("DOPPEL_FUZZ_FIRST"), var("DOPPEL_FUZZ_SEEDS"));
    let usual = first.is_none() && chosen.is_none();
    let (first, count) = (first.unwrap_or(0), chosen.unwrap_or(216));
    let mut all = [0; 3];
    let mut without = 0;
    for seed in first..first + count {
        let done = run(seed, 60);
        let traced = Kind::of(seed).traces != Tracing::Off;
        assert!(traced || done[0] == 0);
        without += u64::from(traced && done[0] == 0);
        for (sum, n) in all.iter_mut().zip(done) {
            *sum += n;
        }
    }
    let [made, lost, faults] = all;
    println!("{made} traces made, {lost} lost, {without} programs without, {faults} faults");
    // One seed alone may have none of them.
    let enough = made > 4 * count && lost > count && faults > count && without * 8 < count;
    assert!(enough || !usual);
}
