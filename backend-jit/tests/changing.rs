//! Code that changes: every case ends as in the interpreter, and what should run at full speed returns to nobody.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

mod support;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use backend_interp::Interp;
use backend_jit::{Cache, Counts, Jit, Options};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use support::{all, machine, reg};
use system::testing::{Machine, START, TABLES};
use system::{Engine, Exit};
use x86::{Gpr, PhysAddr};

/// Where programs put the code that they change: on a page of its own.
const CODE: u64 = START + 0x1000;

type Program<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn jit(m: &Machine) -> Jit {
    Jit::new(
        Features::new(&m.v.model.features_iced()),
        Options::default(),
    )
}

/// Runs a program in all ways; and once more for the figures.
fn counted(program: Program<'_>) -> (Machine, Counts) {
    let m = all(program);
    let mut again = machine(program);
    let mut engine = jit(&again);
    assert_eq!(engine.run(&mut again.v, 1 << 40), Exit::Halted);
    (m, engine.counts())
}

/// The bytes of some code that lies at `at`.
fn code(at: u64, program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    program(&mut a).expect("the program assembles");
    a.assemble(at).expect("the program fits")
}

/// Emits stores of code to an address.
fn lay(a: &mut CodeAssembler, at: u64, bytes: &[u8]) -> Result<(), IcedError> {
    for (n, byte) in bytes.iter().enumerate() {
        a.mov(byte_ptr(at + n as u64), i32::from(*byte))?;
    }
    Ok(())
}

#[test]
fn patched_constants_of_all_kinds() {
    let function = code(CODE, |a| {
        a.add(rbx, 1)?; // imm8 at 3
        a.mov(eax, dword_ptr(rsi + 0x100))?; // disp32 at 6
        a.add(rbx, rax)?;
        a.mov(eax, 0x12_3456)?; // imm32 at 14
        a.add(rbx, rax)?;
        a.mov(rax, 0x1234_5678_9abc_def0_u64)?; // imm64 at 23
        a.xor(rbx, rax)?;
        a.cmp(bx, 0x1234)?; // imm16 at 37
        a.adc(rbx, 0)?;
        a.ret()
    });
    let (_, counts) = counted(&|a| {
        let mut top = a.create_label();
        lay(a, CODE, &function)?;
        a.mov(rdi, CODE)?;
        a.mov(rsi, CODE)?;
        a.mov(r8d, 3000)?;
        a.set_label(&mut top)?;
        a.mov(byte_ptr(rdi + 3), r8b)?;
        a.mov(eax, r8d)?;
        a.and(eax, 0xfc)?;
        a.mov(dword_ptr(rdi + 6), eax)?;
        a.imul_3(eax, r8d, 0x0101_0107)?;
        a.mov(dword_ptr(rdi + 14), eax)?;
        a.mov(dword_ptr(rdi + 27), eax)?;
        a.mov(word_ptr(rdi + 37), ax)?;
        a.call(rdi)?;
        a.dec(r8d)?;
        a.jne(top)?;
        a.hlt()
    });
    assert!(
        counts.blocks < 80 && counts.checked < 12 && counts.interpreted < 60,
        "{counts:?}"
    );
}

#[test]
fn code_that_alternates_between_versions() {
    // add, sub, xor, or ... in turn: the opcode is what changes.
    let (_, counts) = counted(&|a| {
        let (mut top, mut table) = (a.create_label(), a.create_label());
        let function = code(CODE, |a| {
            a.add(rbx, rcx)?;
            a.rol(rbx, 3)?;
            a.ret()
        });
        lay(a, CODE, &function)?;
        a.mov(rdi, CODE)?;
        a.mov(ecx, 4000)?;
        a.set_label(&mut top)?;
        a.lea(rsi, qword_ptr(table))?;
        a.mov(eax, ecx)?;
        a.and(eax, 3)?;
        a.mov(al, byte_ptr(rsi + rax))?;
        a.mov(byte_ptr(rdi + 1), al)?;
        a.call(rdi)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()?;
        a.set_label(&mut table)?;
        a.db(&[0x01, 0x29, 0x31, 0x09])
    });
    assert!(
        counts.blocks < 60 && counts.checked < 16 && counts.interpreted < 60,
        "{counts:?}"
    );
}

#[test]
fn code_with_ever_new_versions() {
    // A jump that leads elsewhere each time.
    let (m, counts) = counted(&|a| {
        let mut top = a.create_label();
        for n in 0..64_u64 {
            let part = code(CODE + 0x100 + n * 8, |a| {
                a.add(ebx, n as i32)?;
                a.ret()
            });
            lay(a, CODE + 0x100 + n * 8, &part)?;
        }
        lay(a, CODE, &[0xe9, 0, 0, 0, 0])?;
        a.mov(rdi, CODE)?;
        a.mov(ecx, 640)?;
        a.set_label(&mut top)?;
        a.mov(eax, ecx)?;
        a.and(eax, 63)?;
        a.lea(eax, dword_ptr(rax * 8 + 0xfb))?;
        a.mov(dword_ptr(rdi + 1), eax)?;
        a.call(rdi)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rbx), 10 * 63 * 64 / 2);
    assert!(counts.blocks < 260, "{counts:?}");
}

#[test]
fn data_beside_code_costs_nothing() {
    // In another line of the page that runs.
    let far: Program<'_> = &|a| {
        let mut top = a.create_label();
        a.lea(rdi, qword_ptr(top))?;
        a.mov(ecx, 100_000)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(rdi + 0x400), ecx)?;
        a.add(dword_ptr(rdi + 0x408), ecx)?;
        a.mov(qword_ptr(rdi + 0x43c), rcx)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    };
    let (_, counts) = counted(far);
    assert_eq!((counts.stale, counts.checked), (0, 0));
    assert!(
        counts.slow_writes < 10 && counts.interpreted < 10,
        "{counts:?}"
    );
    // In the line that runs.
    let near: Program<'_> = &|a| {
        let (mut top, mut data, mut past) = (a.create_label(), a.create_label(), a.create_label());
        a.lea(rdi, qword_ptr(data))?;
        a.mov(ecx, 100_000)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(rdi), ecx)?;
        a.add(dword_ptr(rdi + 4), ecx)?;
        a.jmp(past)?;
        a.set_label(&mut data)?;
        a.dq(&[0])?;
        a.set_label(&mut past)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    };
    let (_, counts) = counted(near);
    assert!(
        counts.stale < 60 && counts.slow_writes < 100 && counts.interpreted < 100,
        "{counts:?}"
    );
}

#[test]
fn stores_that_reach_from_data_into_code() {
    // The function is at the start of a line: mov al, imm8; ret; nop. The page holds code when the data is stored, and
    // each round patches a copy of its own, so that no place changes often.
    let mut wanted = 0;
    let m = all(|a| {
        a.mov(rdi, CODE)?;
        a.mov(edx, 1000)?;
        a.xor(eax, eax)?;
        for n in 0..20_u64 {
            let at = rdi + (0x40 + n * 0x80);
            a.mov(dword_ptr(at), 0x90c3_00b0_u32 as i32)?;
            a.lea(rsi, qword_ptr(at))?;
            a.call(rsi)?;
            for value in [3, 5_u64] {
                a.mov(dword_ptr(rdi), edx)?;
                a.mov(rax, (0x90c3_00b0_u64 | (n + value) << 8) << 32)?;
                a.mov(qword_ptr(at - 4), rax)?;
                a.xor(eax, eax)?;
                a.call(rsi)?;
                a.add(rbx, rax)?;
            }
        }
        a.hlt()
    });
    for n in 0..20 {
        wanted += 2 * n + 8;
    }
    assert_eq!(reg(&m, Gpr::Rbx), wanted);
}

#[test]
fn a_block_that_overwrites_its_own_later_bytes() {
    let (m, counts) = counted(&|a| {
        let (mut top, mut next) = (a.create_label(), a.create_label());
        a.lea(rdi, qword_ptr(next))?;
        a.mov(ecx, 5000)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.set_label(&mut next)?;
        a.mov(eax, 0x1234_5678)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rbx), 5000 * 5001 / 2);
    assert!(counts.interpreted < 60, "{counts:?}");
}

#[test]
fn a_repeated_store_over_the_code_behind_it() {
    let m = all(|a| {
        let (mut top, mut next) = (a.create_label(), a.create_label());
        a.mov(r8d, 200)?;
        a.set_label(&mut top)?;
        a.lea(rdi, qword_ptr(next))?;
        a.mov(ecx, 4)?;
        // 90 90 90 90 or 48 FF C3 90: inc rbx.
        a.mov(eax, 0x9090_9090_u32)?;
        a.mov(edx, 0x90c3_ff48_u32)?;
        a.test(r8d, 1)?;
        a.cmovne(eax, edx)?;
        a.mov(dword_ptr(START + 0x800), eax)?;
        a.mov(esi, (START + 0x800) as u32)?;
        a.rep().movsb()?;
        a.set_label(&mut next)?;
        a.db(&[0x90, 0x90, 0x90, 0x90])?;
        a.dec(r8d)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rbx), 100);
}

#[test]
fn a_repeated_store_over_itself_is_finished() {
    // REP STOSB becomes two NOPs at its first or second iteration; CPUs may go on with either.
    let m = all(|a| {
        let (mut top, mut rep) = (a.create_label(), a.create_label());
        a.mov(r8d, 100)?;
        a.set_label(&mut top)?;
        a.lea(rdi, qword_ptr(rep))?;
        // STOSB with its prefix again.
        a.mov(word_ptr(rdi), 0xaaf3_u32 as i32)?;
        a.mov(ecx, r8d)?;
        a.and(ecx, 1)?;
        a.add(ecx, 1)?;
        a.mov(eax, 0x90)?;
        a.set_label(&mut rep)?;
        a.rep().stosb()?;
        a.add(rbx, rcx)?;
        a.dec(r8d)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rbx), 0);
}

#[test]
fn an_instruction_across_pages_changed_in_the_second() {
    let at = CODE + 0xffe;
    let (m, counts) = counted(&|a| {
        let mut top = a.create_label();
        lay(
            a,
            at,
            &code(at, |a| a.mov(eax, 0x1234_5678).and_then(|()| a.ret())),
        )?;
        a.mov(rdi, at)?;
        a.mov(ecx, 500)?;
        a.set_label(&mut top)?;
        a.mov(byte_ptr(rdi + 3), cl)?;
        a.call(rdi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    // Bits 23:16 of the constant.
    let wanted: u64 = (1..=500u64).map(|n| 0x1200_5678 | (n & 0xff) << 16).sum();
    assert_eq!(reg(&m, Gpr::Rbx), wanted);
    assert!(counts.checked > 0 && counts.blocks < 100, "{counts:?}");
}

#[test]
fn a_changing_function_whose_page_is_mapped_elsewhere() {
    // The same linear page is 2 MiB of RAM, then 2 MiB of other RAM, and so on; both copies are patched all the time.
    const WINDOW: u64 = 0x1000_0000;
    const OTHER: u64 = 0x20_0000;
    let m = all(|a| {
        let (mut top, mut other) = (a.create_label(), a.create_label());
        let function = code(CODE, |a| a.mov(eax, 0).and_then(|()| a.ret()));
        lay(a, CODE, &function)?;
        lay(a, OTHER + CODE, &function)?;
        a.mov(rdi, CODE)?;
        a.mov(rsi, WINDOW + CODE)?;
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.lea(eax, dword_ptr(rcx + 0x10_0000))?;
        a.mov(dword_ptr(rdi + OTHER + 1), eax)?;
        a.mov(eax, 0x87)?;
        a.test(ecx, 4)?;
        a.je(other)?;
        a.mov(eax, (OTHER | 0x87) as u32)?;
        a.set_label(&mut other)?;
        a.mov(qword_ptr(TABLES + 0x2000 + (WINDOW >> 21) * 8), rax)?;
        a.invlpg(byte_ptr(rsi))?;
        a.call(rsi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    let wanted: u64 = (1..=1000u64)
        .map(|n| n + if n & 4 == 0 { 0 } else { 0x10_0000 })
        .sum();
    assert_eq!(reg(&m, Gpr::Rbx), wanted);
}

#[test]
fn an_instruction_across_pages_of_which_the_second_is_mapped_elsewhere() {
    // The first two bytes of an instruction end one large page; the others are at the start of either: add rax, imm32, and
    // xor rax, imm32.
    const WINDOW: u64 = 0x1000_0000;
    const LARGE: u64 = 0x20_0000;
    let at = WINDOW + LARGE - 2;
    let m = all(|a| {
        let (mut top, mut other) = (a.create_label(), a.create_label());
        a.mov(
            qword_ptr(TABLES + 0x2000 + (WINDOW >> 21) * 8),
            (LARGE | 0x87) as i32,
        )?;
        lay(a, 2 * LARGE - 2, &[0x48, 0x81])?;
        for (page, modrm) in [(0, 0xc0), (LARGE, 0xf0)] {
            lay(a, page, &[modrm, 1, 2, 3, 4, 0xc3])?;
        }
        a.mov(rsi, at)?;
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.mov(eax, ecx)?;
        a.mov(byte_ptr(1), al)?;
        a.inc(eax)?;
        a.mov(byte_ptr(LARGE + 1), al)?;
        a.mov(eax, 0x87)?;
        a.test(ecx, 4)?;
        a.je(other)?;
        a.mov(eax, (LARGE | 0x87) as u32)?;
        a.set_label(&mut other)?;
        a.mov(
            qword_ptr(TABLES + 0x2000 + ((WINDOW + LARGE) >> 21) * 8),
            rax,
        )?;
        a.mov(rdi, WINDOW + LARGE)?;
        a.invlpg(byte_ptr(rdi))?;
        a.call(rsi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    let wanted: u64 = (1..=1000u64)
        .map(|n| match n & 4 {
            0 => 0x87 + (0x0403_0200 | n & 0xff),
            _ => (LARGE | 0x87) ^ (0x0403_0200 | (n + 1) & 0xff),
        })
        .sum();
    assert_eq!(reg(&m, Gpr::Rbx), wanted);
}

#[test]
fn code_that_a_device_writes() {
    let program: Program<'_> = &|a| {
        let mut top = a.create_label();
        lay(
            a,
            CODE,
            &code(CODE, |a| a.mov(eax, 0).and_then(|()| a.ret())),
        )?;
        a.mov(rdi, CODE)?;
        a.mov(ecx, 4000)?;
        a.set_label(&mut top)?;
        a.call(rdi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    };
    let mut sums = Vec::new();
    for native in [false, true] {
        let mut m = machine(program);
        let features = Features::new(&m.v.model.features_iced());
        let mut engine: Box<dyn Engine> = if native {
            Box::new(Jit::new(features, Options::default()))
        } else {
            Box::new(Interp::new(features))
        };
        let mut round = 0_u32;
        while engine.run(&mut m.v, 100) == Exit::Budget {
            round += 1;
            // The constant, and now and then the opcode: mov eax, mov edx.
            let opcode = [0xb8, if round % 16 == 5 { 0xba } else { 0xb8 }];
            m.ram
                .write(PhysAddr(CODE), &opcode[1..])
                .and_then(|()| m.ram.write(PhysAddr(CODE + 1), &round.to_le_bytes()))
                .expect("RAM");
        }
        assert!(round > 100);
        sums.push(reg(&m, Gpr::Rbx));
    }
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn code_that_another_vcpu_changes() {
    another_vcpu_changes(Cache::default);
}

#[test]
fn code_that_another_vcpu_with_the_same_cache_changes() {
    let cache = Cache::default();
    another_vcpu_changes(|| cache.clone());
}

fn another_vcpu_changes(cache: impl Fn() -> Cache) {
    // One patches the number in a function, then tells; the other waits for that, serialises, and must run the new one.
    const TOLD: u64 = START + 0x3000;
    const SEEN: u64 = TOLD + 0x40;
    const ROUNDS: i32 = 1000;
    let writer: Program<'_> = &|a| {
        let (mut top, mut wait) = (a.create_label(), a.create_label());
        lay(
            a,
            CODE,
            &code(CODE, |a| a.mov(eax, 0).and_then(|()| a.ret())),
        )?;
        a.mov(rdi, CODE)?;
        a.mov(rsi, TOLD)?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut top)?;
        a.inc(ecx)?;
        // Data on the page of the code, too.
        a.mov(dword_ptr(rdi + 0x800), ecx)?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.mov(dword_ptr(rsi), ecx)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(dword_ptr(rsi + (SEEN - TOLD)), ecx)?;
        a.jne(wait)?;
        a.cmp(ecx, ROUNDS)?;
        a.jne(top)?;
        a.hlt()
    };
    let runner = code(START + 0x8000, |a| {
        let (mut top, mut wait, mut bad) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(rdi, CODE)?;
        a.mov(rsi, TOLD)?;
        a.xor(ebp, ebp)?;
        a.set_label(&mut top)?;
        a.inc(ebp)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(dword_ptr(rsi), ebp)?;
        a.jne(wait)?;
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.call(rdi)?;
        a.cmp(eax, ebp)?;
        a.jne(bad)?;
        a.mov(dword_ptr(rsi + (SEEN - TOLD)), ebp)?;
        a.cmp(ebp, ROUNDS)?;
        a.jne(top)?;
        a.hlt()?;
        a.set_label(&mut bad)?;
        a.mov(ecx, 0xbad)?;
        a.mov(dword_ptr(rsi + (SEEN - TOLD)), ROUNDS)?;
        a.hlt()
    });
    let mut first = machine(writer);
    first
        .ram
        .write(PhysAddr(START + 0x8000), &runner)
        .expect("RAM");
    let mut second = first.beside(1);
    second.v.st.rip = START + 0x8000;
    let (failed, checked) = (AtomicU32::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for m in [&mut first, &mut second] {
            let (failed, checked) = (&failed, &checked);
            let mut engine = Jit::new(
                Features::new(&m.v.model.features_iced()),
                Options {
                    cache: cache(),
                    ..Options::default()
                },
            );
            scope.spawn(move || {
                // A wrong number leaves the writer waiting: it must not do so for ever.
                for _ in 0..2_000_000 {
                    std::thread::yield_now();
                    match engine.run(&mut m.v, 2000) {
                        Exit::Halted => break,
                        Exit::Budget if failed.load(Ordering::SeqCst) == 0 => {}
                        _ => return,
                    }
                }
                if m.v.st.gpr[Gpr::Rcx as usize] == 0xbad {
                    failed.store(1, Ordering::SeqCst);
                }
                m.v.mmu.park();
                checked.fetch_add(engine.counts().checked, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(failed.load(Ordering::SeqCst), 0, "it ran old code");
    assert_eq!(reg(&second, Gpr::Rbp), ROUNDS as u64);
    assert_ne!(checked.into_inner(), 0, "the function checks itself");
}

#[test]
fn a_store_through_an_old_permission_is_not_missed() {
    let program = |a: &mut CodeAssembler| {
        a.mov(eax, 1)?;
        a.hlt()
    };
    for translated in [true, false] {
        let mut m = machine(&program);
        let mut other = m.beside(1);
        let mut engine: Box<dyn Engine> = if translated {
            Box::new(jit(&m))
        } else {
            Box::new(Interp::new(Features::new(&m.v.model.features_iced())))
        };
        let start = m.v.st.clone();
        let mut run = |m: &mut Machine| {
            m.v.load_state(start.clone());
            assert_eq!(engine.run(&mut m.v, 1 << 40), Exit::Halted);
            reg(m, Gpr::Rax)
        };
        m.v.mmu.sync();
        other.v.mmu.sync();
        // The other one may store to the page from before it holds code.
        other.v.write(START + 0x800, 4, 0).expect("RAM");
        assert_eq!(run(&mut m), 1);
        assert_eq!(run(&mut m), 1);
        let epoch = m.ram.code_epoch();
        other.v.write(START + 1, 4, 2).expect("RAM");
        assert_eq!(m.ram.code_epoch(), epoch, "nobody is told of this store");
        // Nothing stands in the way of trusting the code now, but what was stored before.
        other.v.mmu.sync();
        assert_eq!(run(&mut m), 2, "translated: {translated}");
        // It is known from now on, and later stores are told.
        other.v.write(START + 1, 4, 3).expect("RAM");
        assert_ne!(m.ram.code_epoch(), epoch);
        assert_eq!(run(&mut m), 3, "translated: {translated}");
    }
}
