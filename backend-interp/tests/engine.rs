//! The interpreter as a whole: programs with known results, self-modifying code, budgets, passes on and off.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

use backend_interp::Interp;
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::opt::Switches;
use system::testing::{Machine, START, TABLES};
use system::{Engine, Exit, Vcpu};
use x86::{Gpr, PhysAddr};

fn engine(v: &Vcpu) -> Interp {
    ir::verify::enable(true);
    Interp::new(Features::new(&v.model.features_iced()))
}

/// A 64-bit machine at CPL 0 with the program at [`START`].
fn machine(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let m = Machine::long(0, true);
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    program(&mut a).expect("the program assembles");
    let bytes = a.assemble(START).expect("the program fits");
    m.ram
        .write(PhysAddr(START), &bytes)
        .expect("the program is in RAM");
    m
}

/// Runs until HLT; returns the engine.
fn run(m: &mut Machine) -> Interp {
    let mut engine = engine(&m.v);
    assert_eq!(engine.run(&mut m.v, 1 << 40), Exit::Halted);
    engine
}

fn reg(m: &Machine, gpr: Gpr) -> u64 {
    m.v.st.gpr[gpr as usize]
}

#[test]
fn a_hundred_million_handlers_run_on_a_small_stack() {
    // Each handler must end in a jump to the next one: a call would use the stack up within milliseconds.
    let rounds = if cfg!(debug_assertions) {
        200_000
    } else {
        20_000_000
    };
    let work = move || {
        let mut m = machine(|a| {
            let mut top = a.create_label();
            a.mov(ecx, rounds)?;
            a.set_label(&mut top)?;
            a.mov(rax, qword_ptr(START))?;
            a.add(rdx, rax)?;
            a.mov(qword_ptr(START + 0x800), rdx)?;
            a.lea(rbx, qword_ptr(rbx + rcx * 2 + 1))?;
            a.dec(ecx)?;
            a.jne(top)?;
            a.hlt()
        });
        run(&mut m);
        assert_eq!(reg(&m, Gpr::Rcx), 0);
        let n = u64::from(rounds as u32);
        assert_eq!(reg(&m, Gpr::Rbx), n * (n + 1) + n);
    };
    let thread = std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(work)
        .expect("a thread starts");
    thread.join().expect("the program ends");
}

#[test]
fn calls_returns_and_recursion() {
    let mut m = machine(|a| {
        let (mut fib, mut small) = (a.create_label(), a.create_label());
        let mut start = a.create_label();
        a.jmp(start)?;
        a.set_label(&mut fib)?;
        a.cmp(rdi, 2)?;
        a.jb(small)?;
        a.push(rbx)?;
        a.push(rdi)?;
        a.dec(rdi)?;
        a.call(fib)?;
        a.mov(rbx, rax)?;
        a.pop(rdi)?;
        a.sub(rdi, 2)?;
        a.call(fib)?;
        a.add(rax, rbx)?;
        a.pop(rbx)?;
        a.ret()?;
        a.set_label(&mut small)?;
        a.mov(rax, rdi)?;
        a.ret()?;
        a.set_label(&mut start)?;
        a.mov(edi, 20)?;
        a.call(fib)?;
        a.hlt()
    });
    let top = reg(&m, Gpr::Rsp);
    run(&mut m);
    assert_eq!(reg(&m, Gpr::Rax), 6765);
    assert_eq!(reg(&m, Gpr::Rsp), top);
}

#[test]
fn a_block_that_changes_itself_runs_its_new_bytes() {
    // The immediate of an instruction behind the store, in the same block, is rewritten each round.
    let mut m = machine(|a| {
        let (mut top, mut patched) = (a.create_label(), a.create_label());
        a.xor(ebx, ebx)?;
        a.mov(ecx, 100)?;
        a.set_label(&mut top)?;
        a.lea(rsi, qword_ptr(patched))?;
        a.mov(dword_ptr(rsi + 1), ecx)?;
        a.set_label(&mut patched)?;
        a.mov(eax, 0x1111_1111)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    run(&mut m);
    assert_eq!(reg(&m, Gpr::Rbx), 5050);
}

#[test]
fn a_push_that_hits_code_completes_before_the_block_is_left() {
    // RSP points behind the next instruction: the push overwrites it with a MOV that loads 7.
    let mut m = machine(|a| {
        let mut patched = a.create_label();
        a.mov(rax, 0x9090_9000_0000_07b8u64)?; // b8 07 00 00 00 90 90 90: mov eax, 7; nops
        a.lea(rbx, qword_ptr(patched))?;
        a.mov(rdx, rsp)?;
        a.lea(rsp, qword_ptr(rbx + 8))?;
        a.push(rax)?;
        a.set_label(&mut patched)?;
        a.mov(eax, 1)?;
        a.nop()?;
        a.nop()?;
        a.nop()?;
        a.sub(rbx, rsp)?;
        a.mov(rsp, rdx)?;
        a.hlt()
    });
    run(&mut m);
    assert_eq!(reg(&m, Gpr::Rax), 7);
    assert_eq!(reg(&m, Gpr::Rbx), 0, "RSP moved once");
}

#[test]
fn data_beside_code_does_not_make_it_stale() {
    let mut m = machine(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.mov(qword_ptr(START + 0x400), rcx)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    let engine = run(&mut m);
    assert_eq!(engine.stats().invalidations, 0);
    assert!(engine.stats().blocks < 8);
}

#[test]
fn a_function_that_is_rewritten_between_calls() {
    let mut m = machine(|a| {
        let mut top = a.create_label();
        a.mov(rsi, START + 0x1000)?;
        a.mov(byte_ptr(rsi), 0xb8)?; // mov eax, imm32; ret
        a.mov(byte_ptr(rsi + 5), 0xc3)?;
        a.mov(ecx, 300)?;
        a.xor(ebx, ebx)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(rsi + 1), ecx)?;
        a.call(rsi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    run(&mut m);
    assert_eq!(reg(&m, Gpr::Rbx), 300 * 301 / 2);
}

#[test]
fn code_changed_from_outside_is_noticed() {
    let mut m = machine(|a| {
        a.mov(eax, 1)?;
        a.hlt()
    });
    let mut engine = run(&mut m);
    m.ram.write(PhysAddr(START + 1), &[9]).expect("RAM");
    m.v.st.rip = START;
    m.v.st.activity = x86::Activity::Active;
    assert_eq!(engine.run(&mut m.v, 1 << 40), Exit::Halted);
    assert_eq!(reg(&m, Gpr::Rax), 9);
}

#[test]
fn an_instruction_across_two_pages() {
    // MOV RAX, imm64 begins 3 bytes before a page's end.
    let mut m = machine(|a| {
        a.mov(rcx, START + 0xffd)?;
        a.jmp(rcx)
    });
    let code = [0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xf4];
    m.ram.write(PhysAddr(START + 0xffd), &code).expect("RAM");
    let mut engine = run(&mut m);
    assert_eq!(reg(&m, Gpr::Rax), 0x0807_0605_0403_0201);
    // The part in the second page changes.
    m.ram.write(PhysAddr(START + 0x1000), &[0x33]).expect("RAM");
    m.v.st.rip = START;
    m.v.st.activity = x86::Activity::Active;
    assert_eq!(engine.run(&mut m.v, 1 << 40), Exit::Halted);
    assert_eq!(reg(&m, Gpr::Rax), 0x0807_0605_0403_3301);
}

#[test]
fn a_page_with_another_one_behind_it_at_another_address() {
    // A jump within the page to an instruction that reaches into the next one.
    let mut m = machine(|a| {
        let mut last = a.create_label();
        a.jmp(last)?;
        for _ in 0..0xffd - 5 {
            a.nop()?;
        }
        a.set_label(&mut last)?;
        a.mov(rax, 0x1111_1111_1111_1111_u64)?;
        a.hlt()
    });
    // The same page again, and another one behind it.
    let (table, other) = (0x18_0000, START + 0x1_0000);
    m.write(table, 8, START | 7);
    m.write(table + 8, 8, other | 7);
    m.write(TABLES + 0x2000 + 2 * 8, 8, table | 7);
    m.ram
        .write(PhysAddr(other), &[0x22; 7])
        .and_then(|()| m.ram.write(PhysAddr(other + 7), &[0xf4]))
        .expect("RAM");
    m.v.mmu.flush_all();
    let mut engine = engine(&m.v);
    for (rip, loaded) in [
        (START, 0x1111_1111_1111_1111),
        (0x40_0000, 0x2222_2222_2222_2211),
        (START, 0x1111_1111_1111_1111),
    ] {
        m.v.st.rip = rip;
        m.v.st.activity = x86::Activity::Active;
        assert_eq!(engine.run(&mut m.v, 1 << 40), Exit::Halted);
        assert_eq!(reg(&m, Gpr::Rax), loaded, "at {rip:#x}");
    }
}

/// A program that touches every handler family a little; its result is in RAX.
fn mixed() -> Machine {
    machine(|a| {
        let mut top = a.create_label();
        a.mov(rbp, START + 0x2000)?;
        a.mov(rax, 0x0123_4567_89ab_cdefu64)?;
        a.mov(ecx, 500)?;
        a.set_label(&mut top)?;
        a.mov(qword_ptr(rbp), rax)?;
        a.rol(rax, 7)?;
        a.adc(rax, qword_ptr(rbp))?;
        a.movzx(edx, byte_ptr(rbp + 3))?;
        a.sbb(dword_ptr(rbp + 4), edx)?;
        a.setb(dl)?;
        a.movsx(rdx, dl)?;
        a.imul_3(rdx, rdx, 77)?;
        a.xor(rax, rdx)?;
        a.add(ah, 3)?;
        a.inc(word_ptr(rbp + 2))?;
        a.cmovs(rax, qword_ptr(rbp))?;
        a.shr(rdx, cl)?;
        a.popcnt(rbx, rax)?;
        a.bts(rax, rbx)?;
        a.lea(rax, qword_ptr(rax + rbx * 4 - 9))?;
        a.push(rax)?;
        a.pop(r8)?;
        a.xchg(r8, rax)?;
        a.mov(r9, 0xffff_fffbu64)?;
        a.xor(edx, edx)?;
        a.xchg(rax, r8)?;
        a.mov(r10, rax)?;
        a.div(r9)?;
        a.lea(rax, qword_ptr(rax + rdx))?;
        a.xor(rax, r10)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    })
}

#[test]
fn passes_change_nothing_but_speed() {
    let mut results = Vec::new();
    for switches in [Switches::NONE, Switches::ALL] {
        let mut m = mixed();
        let mut engine = engine(&m.v);
        engine.set_passes(switches);
        assert_eq!(engine.run(&mut m.v, 1 << 40), Exit::Halted);
        results.push((m.v.st.clone(), m.v.retired));
    }
    assert_eq!(results[0], results[1]);
}

#[test]
fn a_budget_is_kept_to_the_instruction() {
    let mut whole = mixed();
    run(&mut whole);
    let total = whole.v.retired;
    for piece in [1, 3, 64, 65, 200, 1000] {
        let mut m = mixed();
        let mut engine = engine(&m.v);
        let mut done = 0;
        loop {
            let exit = engine.run(&mut m.v, piece);
            assert_eq!(
                m.v.retired,
                total.min(done + piece),
                "{exit:?} with pieces of {piece}"
            );
            done += piece;
            if exit == Exit::Halted {
                break;
            }
            assert_eq!(exit, Exit::Budget);
        }
        assert_eq!(m.v.st, whole.v.st, "pieces of {piece}");
        assert_eq!(m.v.retired, total);
    }
}

#[test]
fn pop_by_esp_moves_rsp() {
    let mut m = machine(|a| {
        a.pop(qword_ptr(esp))?;
        a.hlt()
    });
    // A second view of the first GiB, at 4 GiB: PDPT entries 0 and 4 are the same.
    m.write(TABLES + 0x1000 + 4 * 8, 8, (TABLES + 0x2000) | 7);
    let low = START + 0x2000;
    m.write(low, 8, 0x1122_3344_5566_7788);
    m.v.st.gpr[Gpr::Rsp as usize] = 1 << 32 | low;
    run(&mut m);
    assert_eq!(reg(&m, Gpr::Rsp), 1 << 32 | (low + 8));
    assert_eq!(m.read(low + 8, 8), 0x1122_3344_5566_7788);
}

#[test]
fn a_full_temporary_file_cuts_the_block_instead_of_failing() {
    // Many read-modify-writes through complicated addresses.
    let mut m = machine(|a| {
        a.mov(rbp, START + 0x2000)?;
        a.xor(eax, eax)?;
        for n in 0..60 {
            a.add(qword_ptr(rbp + rax * 8 + n * 8).fs(), n)?;
        }
        a.hlt()
    });
    run(&mut m);
    assert_eq!(
        m.ram
            .read_u64(PhysAddr(START + 0x2000 + 59 * 8))
            .expect("RAM"),
        59
    );
}
