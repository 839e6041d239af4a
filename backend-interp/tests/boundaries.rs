//! Instruction boundaries as the engine keeps them: shadows, single step, breakpoints, HLT, repeated instructions.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

use backend_interp::Interp;
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine, START};
use system::{Engine, Exit};
use x86::{Activity, Gpr, PhysAddr, flags, vector};

/// A 64-bit machine at CPL 0 with the program at [`START`]; every exception and interrupt handler is a HLT.
fn machine(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> (Machine, Interp) {
    ir::verify::enable(true);
    let m = Machine::long(0, true);
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    program(&mut a).expect("the program assembles");
    let bytes = a.assemble(START).expect("the program fits");
    m.ram
        .write(PhysAddr(START), &bytes)
        .expect("the program is in RAM");
    m.ram
        .fill(PhysAddr(HANDLER), 256, 0xf4)
        .expect("handlers are in RAM");
    let engine = Interp::new(Features::new(&m.v.model.features_iced()));
    (m, engine)
}

/// Runs until a HLT; returns the vector whose handler it is in, and the RIP that was pushed.
fn handler(m: &mut Machine, engine: &mut Interp) -> (u64, u64) {
    let exit = engine.run(&mut m.v, 100_000);
    assert_eq!(
        (exit, m.v.st.activity),
        (Exit::Halted, Activity::Halted),
        "at {:#x}",
        m.v.st.rip
    );
    let vector = m.v.st.rip - 1 - HANDLER;
    let mut frame = m.v.st.gpr[Gpr::Rsp as usize];
    if matches!(vector, 8 | 10..=14 | 17) {
        frame += 8;
    }
    (
        vector,
        m.ram
            .read_u64(PhysAddr(frame))
            .expect("the stack is in RAM"),
    )
}

/// Lengths add up to where in the program we are.
fn at(offset: u64) -> u64 {
    START + offset
}

#[test]
fn sti_lets_one_more_instruction_run() {
    let (mut m, mut engine) = machine(|a| {
        a.sti()?; // 1 byte
        a.inc(ebx)?; // 2 bytes
        a.inc(ebx)?;
        a.hlt()
    });
    m.board.interrupt(0x40);
    assert_eq!(handler(&mut m, &mut engine), (0x40, at(3)));
    assert_eq!(m.v.st.gpr[Gpr::Rbx as usize], 1);
}

#[test]
fn an_interrupt_waits_while_if_is_clear_and_wakes_hlt() {
    let (mut m, mut engine) = machine(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.sti()?;
        a.hlt()?;
        a.nop()
    });
    m.board.interrupt(0x41);
    let (vector, rip) = handler(&mut m, &mut engine);
    assert_eq!((vector, m.v.st.gpr[Gpr::Rcx as usize]), (0x41, 0));
    // STI's shadow covers the HLT: it is the interrupt's to end, and execution goes on behind it.
    assert_eq!(m.ram.read_u8(PhysAddr(rip)).expect("RAM"), 0x90);
}

#[test]
fn popf_opens_the_window_at_once() {
    let (mut m, mut engine) = machine(|a| {
        a.push(0x202)?; // 5 bytes
        a.popfq()?; // 1 byte
        a.inc(ebx)?;
        a.hlt()
    });
    m.board.interrupt(0x42);
    assert_eq!(handler(&mut m, &mut engine), (0x42, at(6)));
    assert_eq!(m.v.st.gpr[Gpr::Rbx as usize], 0);
}

#[test]
fn the_trap_flag_traps_after_every_instruction() {
    let (mut m, mut engine) = machine(|a| {
        a.push(0x102)?; // 5
        a.popfq()?; // 1: sets TF, and is not trapped itself
        a.inc(ebx)?; // 2: trapped
        a.inc(ebx)?;
        a.hlt()
    });
    assert_eq!(handler(&mut m, &mut engine), (u64::from(vector::DB), at(8)));
    assert_eq!(m.v.st.gpr[Gpr::Rbx as usize], 1);
    assert_ne!(m.v.st.dr6 & 1 << 14, 0, "DR6.BS");
    assert_eq!(m.v.st.rflags & flags::TF, 0, "the handler runs without TF");
}

#[test]
fn mov_ss_holds_back_the_single_step() {
    let (mut m, mut engine) = machine(|a| {
        a.mov(eax, ss)?; // 2
        a.push(0x102)?; // 5
        a.popfq()?; // 1
        a.mov(ss, eax)?; // 2: no trap behind it
        a.inc(ebx)?; // 2: trap behind this one
        a.inc(ebx)?;
        a.hlt()
    });
    assert_eq!(
        handler(&mut m, &mut engine),
        (u64::from(vector::DB), at(12))
    );
}

#[test]
fn a_code_breakpoint_is_a_fault_before_its_instruction() {
    let (mut m, mut engine) = machine(|a| {
        let mut target = a.create_label();
        a.lea(rax, qword_ptr(target))?; // 7 bytes
        a.mov(dr0, rax)?; // 3
        a.mov(eax, 0x402)?; // 5: G0
        a.mov(dr7, rax)?; // 3
        a.set_label(&mut target)?;
        a.inc(ebx)?;
        a.hlt()
    });
    assert_eq!(
        handler(&mut m, &mut engine),
        (u64::from(vector::DB), at(18))
    );
    assert_eq!((m.v.st.gpr[Gpr::Rbx as usize], m.v.st.dr6 & 15), (0, 1));
}

#[test]
fn a_data_breakpoint_traps_after_the_store() {
    let (mut m, mut engine) = machine(|a| {
        a.mov(rax, START + 0x2000)?;
        a.mov(dr1, rax)?;
        a.mov(eax, 0x00d0_0408)?; // G1, 4 bytes, writes
        a.mov(dr7, rax)?;
        a.mov(ecx, dword_ptr(START + 0x2000))?; // a read does not hit
        a.mov(dword_ptr(START + 0x2002), ecx)?;
        a.inc(ebx)?;
        a.hlt()
    });
    let (vector, _) = handler(&mut m, &mut engine);
    assert_eq!(vector, u64::from(vector::DB));
    assert_eq!((m.v.st.gpr[Gpr::Rbx as usize], m.v.st.dr6 & 15), (0, 2));
}

#[test]
fn a_fault_in_the_middle_of_a_block_is_precise() {
    let (mut m, mut engine) = machine(|a| {
        a.mov(ebx, 7)?; // 5
        a.add(ebx, 1)?; // 3
        a.mov(rax, qword_ptr(0x7fff_f000u64))?; // not mapped
        a.mov(ebx, 9)?;
        a.hlt()
    });
    let (vector, rip) = handler(&mut m, &mut engine);
    assert_eq!((vector, rip), (u64::from(vector::PF), at(8)));
    assert_eq!(
        (m.v.st.gpr[Gpr::Rbx as usize], m.v.st.cr2),
        (8, 0x7fff_f000)
    );
    assert_eq!(
        m.v.retired, 3,
        "two before the fault, and the handler's HLT"
    );
}

#[test]
fn a_repetition_that_faults_has_done_what_came_before() {
    let (mut m, mut engine) = machine(|a| {
        a.mov(edi, 0x3f_f000)?;
        a.mov(ecx, 0x3000)?;
        a.mov(eax, 0x5a)?;
        a.rep().stosb()?;
        a.hlt()
    });
    // Memory is mapped beyond RAM, where nobody listens: no fault, all of it is done.
    assert_eq!(engine.run(&mut m.v, 100_000), Exit::Halted);
    assert_eq!(m.v.st.gpr[Gpr::Rcx as usize], 0);
    assert_eq!(m.v.st.gpr[Gpr::Rdi as usize], 0x40_2000);
    assert_eq!(m.ram.read_u8(PhysAddr(0x3f_ffff)).expect("RAM"), 0x5a);
}

#[test]
fn an_interrupted_repetition_goes_on_where_it_was() {
    let (mut m, mut engine) = machine(|a| {
        a.sti()?;
        a.mov(rdi, START + 0x2000)?;
        a.mov(ecx, 0x8000)?;
        a.mov(eax, 0x77)?;
        a.rep().stosb()?;
        a.hlt()
    });
    // The handler ends the interrupt and returns.
    m.ram
        .write(PhysAddr(HANDLER + 0x43), &[0x48, 0xcf])
        .expect("RAM");
    assert_eq!(engine.run(&mut m.v, 4), Exit::Budget);
    m.board.interrupt(0x43);
    assert_eq!(engine.run(&mut m.v, 100_000), Exit::Halted);
    assert_eq!(m.v.st.gpr[Gpr::Rcx as usize], 0);
    assert_eq!(
        m.ram
            .read_u8(PhysAddr(START + 0x2000 + 0x7fff))
            .expect("RAM"),
        0x77
    );
    assert_eq!(m.v.st.rflags & flags::RF, 0);
}
