//! One piece of code mapped at many addresses: what is copied must be what would have been made there.

use backend_jit::{Jit, Options};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{Machine, START, TABLES};
use system::{Engine, Exit};
use x86::PhysAddr;

use crate::support::{DATA, WAYS, machine_at, run};

/// Linear distance of the address spaces' copies: an entry of the PML4.
const STEP: u32 = 39;
/// Mappings beside the first.
const PLACES: u32 = 5;

/// Calls a function at each of its addresses, several times.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut function, mut inner, mut less, mut top) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    let mut less_far = a.create_label();
    let (mut outer, mut each) = (a.create_label(), a.create_label());
    let (mut far, mut table) = (a.create_label(), a.create_label());
    a.fninit()?;
    a.mov(ebx, 4)?;
    a.set_label(&mut outer)?;
    a.lea(rdi, ptr(function))?;
    a.mov(r13d, PLACES)?;
    a.set_label(&mut each)?;
    a.mov(rax, r13)?;
    a.shl(rax, STEP)?;
    a.add(rax, rdi)?;
    a.call(rax)?;
    a.dec(r13d)?;
    a.jnz(each)?;
    a.dec(ebx)?;
    a.jnz(outer)?;
    // Where the last x87 instruction was differs.
    a.fninit()?;
    a.hlt()?;

    // Addresses go into memory, so that each is seen in the end.
    a.set_label(&mut function)?;
    a.mov(rsi, DATA)?;
    a.lea(rcx, ptr(inner))?;
    a.add(qword_ptr(rsi), rcx)?;
    a.rol(qword_ptr(rsi), 5)?;
    a.push(rcx)?;
    a.call(inner)?;
    a.pop(rdx)?;
    a.xor(qword_ptr(rsi + 8), rdx)?;
    a.mov(ecx, 3)?;
    a.set_label(&mut top)?;
    a.cmp(rdx, qword_ptr(rsi + rcx * 8))?;
    a.jb(less)?;
    a.inc(qword_ptr(rsi + 16))?;
    a.set_label(&mut less)?;
    a.fld1()?;
    a.fiadd(dword_ptr(rsi + 16))?;
    a.fistp(dword_ptr(rsi + 24))?;
    a.loop_(top)?;
    a.call(far)?;
    a.ret()?;

    a.set_label(&mut inner)?;
    a.pop(r8)?;
    a.add(qword_ptr(rsi + 32), r8)?;
    a.push(r8)?;
    // Left to the interpreter, as are bit tests of memory by a register.
    a.enter(16, 1)?;
    a.bts(qword_ptr(rsi + 40), r13)?;
    a.leave()?;
    a.ret()?;

    pad(a, 0x1080)?;
    a.set_label(&mut far)?;
    a.mov(rax, qword_ptr(table))?;
    a.add(qword_ptr(table), 3)?;
    a.add(rax, qword_ptr(rsi + 40))?;
    a.movaps(xmm0, ptr(table))?;
    a.paddq(xmm0, ptr(table))?;
    a.movups(ptr(rsi + 48), xmm0)?;
    a.lea(rcx, ptr(table))?;
    a.xor(qword_ptr(rsi + 64), rcx)?;
    a.mov(qword_ptr(rsi + 72), rax)?;
    a.cmp(dword_ptr(table), 40)?;
    a.jb(less_far)?;
    a.sub(dword_ptr(table), 30)?;
    a.set_label(&mut less_far)?;
    a.ret()?;

    pad(a, DATA - START + 0x800)?;
    a.set_label(&mut table)?;
    a.dq(&[5, 6])
}

/// Goes on at an offset from the program's start.
fn pad(a: &mut CodeAssembler, to: u64) -> Result<(), IcedError> {
    let now = a.assemble(START)?.len() as u64;
    for _ in now..to {
        a.nop()?;
    }
    Ok(())
}

/// The machine, whose first 512 GiB appear again and again.
fn mapped() -> Machine {
    let m = machine_at(3, &program);
    let mut entry = [0; 8];
    m.ram.read(PhysAddr(TABLES), &mut entry).expect("RAM");
    for place in 1..=u64::from(PLACES) {
        m.ram
            .write(PhysAddr(TABLES + place * 8), &entry)
            .expect("RAM");
    }
    m
}

#[test]
fn what_is_copied_runs_as_what_is_translated() {
    let mut first = mapped();
    run(&mut first, WAYS[0]);
    let data = |m: &Machine| {
        let mut bytes = vec![0; 0x1000];
        m.ram.read(PhysAddr(DATA), &mut bytes).expect("RAM");
        bytes
    };
    for way in WAYS {
        let mut m = mapped();
        run(&mut m, way);
        assert!(
            m.v.st == first.v.st,
            "{way:?} ends otherwise:\n{}\n{}",
            m.v.dump(),
            first.v.dump()
        );
        assert!(data(&m) == data(&first), "{way:?} leaves other data");
    }
}

#[test]
fn code_at_its_third_address_is_copied() {
    let mut m = mapped();
    let features = Features::new(&m.v.model.features_iced());
    let mut jit = Jit::new(features, Options::default());
    assert_eq!(jit.run(&mut m.v, 1 << 40), Exit::Halted);
    let report = jit.report(&m.v).join("\n");
    // Two loops' worth of blocks, at the addresses behind the second.
    let copied = report
        .split_once(" copied from ")
        .and_then(|(before, _)| before.rsplit_once(' '))
        .and_then(|(_, n)| n.parse::<u32>().ok());
    assert!(copied.is_some_and(|n| n >= 24), "{report}");
    assert!(report.contains("(0 others differ by place)"), "{report}");
}
