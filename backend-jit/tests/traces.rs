//! Traces made by their thread while the program runs, and its code changes: they do what the blocks do.
#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test")]

use backend_jit::{Jit, Options, Tracing};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{Machine, START};
use system::{Engine, Exit};
use x86::{Gpr, PhysAddr};

const FLAG: u64 = START + 0x3000;
/// A function on another page.
const FAR: u64 = START + 0x1000;
/// Pieces in which the thread must have found something.
const MOST: usize = 200_000;

/// Counts in RAX; adds what the code says to RBX in a function on another page, which looks at bits of RAX, too.
fn program() -> Result<(Vec<u8>, Vec<u8>), IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut top = a.create_label();
    let (mut odd, mut on) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.call(FAR)?;
    a.test(al, 1)?;
    a.jnz(odd)?;
    a.add(rsi, 1)?;
    a.jmp(on)?;
    a.set_label(&mut odd)?;
    a.add(rdi, 1)?;
    a.set_label(&mut on)?;
    a.inc(rax)?;
    a.cmp(byte_ptr(FLAG), 0)?;
    a.je(top)?;
    a.hlt()?;
    let main = a.assemble(START)?;
    let mut a = CodeAssembler::new(64)?;
    let mut less = a.create_label();
    a.cmp(rax, rdx)?;
    a.jb(less)?;
    a.mov(rdx, rax)?;
    a.set_label(&mut less)?;
    a.add(rbx, 3)?;
    a.ret()?;
    Ok((main, a.assemble(FAR)?))
}

fn machine() -> Machine {
    let mut m = Machine::long(0, true);
    // RESET leaves the CPU's signature there.
    m.v.st.gpr[Gpr::Rdx as usize] = 0;
    let (main, far) = program().expect("it assembles");
    for (at, bytes) in [(START, main), (FAR, far)] {
        m.ram.write(PhysAddr(at), &bytes).expect("RAM");
    }
    m
}

fn reg(m: &Machine, gpr: Gpr) -> u64 {
    m.v.st.gpr[gpr as usize]
}

/// Runs until there are so many traces, with what `change` does between two pieces, which is told how many there are by then;
/// then to the end.
fn run(m: &mut Machine, wanted: u64, mut change: impl FnMut(&mut Machine, u64)) {
    let options = Options {
        traces: Tracing::On,
        ..Options::default()
    };
    let mut jit = Jit::new(Features::new(&m.v.model.features_iced()), options);
    let mut n = 0;
    while jit.counts().traces < wanted {
        assert_eq!(jit.run(&mut m.v, 100_000), Exit::Budget);
        change(m, jit.counts().traces);
        n += 1;
        assert!(n < MOST, "no traces: {:?}", jit.counts());
    }
    for _ in 0..20 {
        assert_eq!(jit.run(&mut m.v, 100_000), Exit::Budget);
    }
    m.ram.write(PhysAddr(FLAG), &[1]).expect("RAM");
    assert_eq!(jit.run(&mut m.v, 1 << 40), Exit::Halted);
}

#[test]
fn a_loop_over_calls_is_made_again_and_counts_on() {
    let mut m = machine();
    run(&mut m, 1, |_, _| {});
    let rounds = reg(&m, Gpr::Rax);
    assert_eq!(reg(&m, Gpr::Rbx), rounds * 3);
    assert_eq!(reg(&m, Gpr::Rsi) + reg(&m, Gpr::Rdi), rounds);
    assert_eq!(reg(&m, Gpr::Rsi), rounds.div_ceil(2));
    assert_eq!(reg(&m, Gpr::Rdx), rounds - 1);
}

#[test]
fn code_that_changes_while_it_is_made_again_is_noticed() {
    let mut m = machine();
    let (_, far) = program().expect("it assembles");
    // The constant of its ADD.
    let at = FAR + far.len() as u64 - 2;
    let (mut rounds, mut sum, mut step) = (0, 0, 3_u64);
    let (mut pieces, mut changes, mut seen) = (0, 0, 0);
    run(&mut m, 2, |m, traces| {
        // Where the piece ends in the function, an ADD more or less was done.
        let now = (reg(m, Gpr::Rax), reg(m, Gpr::Rbx));
        let (turns, added) = (now.0 - rounds, now.1 - sum);
        assert!(
            added.abs_diff(turns * step) <= 120 && turns > 5_000,
            "{added} in {turns} turns by {step}"
        );
        (rounds, sum) = now;
        pieces += 1;
        // Behind each trace, and twice before there is one or while one is made: more often and its place has none.
        let early = pieces % 10 == 2 && changes < 2;
        if early || traces > seen {
            (seen, changes) = (traces, changes + 1);
            step = 1 + (changes * 7) % 100;
            m.ram.write(PhysAddr(at), &[step as u8]).expect("RAM");
        }
    });
    // Twenty pieces came behind the last change.
    let (turns, added) = (reg(&m, Gpr::Rax) - rounds, reg(&m, Gpr::Rbx) - sum);
    assert!(
        added.abs_diff(turns * step) <= 120 && turns > 100_000 && changes != 0,
        "{added} in {turns} turns by {step}, {changes} changes"
    );
}
