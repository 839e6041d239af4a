//! The page that empty page caches name is as little there as any other that no guest has: each kind of access raises what the
//! interpreter says, with the same state.
use backend_jit::{Jit, Options};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine};
use system::{Engine, Exit};
use x86::Gpr;

use crate::support::{Way, machine_at, run};

/// An address that is canonical in no paging mode.
const NOWHERE: u64 = 0x6a5b_dead_0000_0123;

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Vector that is raised, level, program. Every register holds the address.
const ACCESSES: &[(u64, u8, Program)] = &[
    (13, 0, |a| a.mov(rax, qword_ptr(rbx + 8))),
    (13, 3, |a| a.mov(rax, qword_ptr(rbx + 8))),
    (13, 3, |a| a.mov(byte_ptr(rdi - 8), cl)),
    (13, 3, |a| a.add(qword_ptr(r14), rax)),
    (13, 3, |a| a.movzx(eax, byte_ptr(r11 + 1))),
    (13, 3, |a| a.lock().xadd(dword_ptr(rdx + 1), ecx)),
    (13, 3, |a| a.cmpxchg(qword_ptr(rsi), rcx)),
    (13, 3, |a| a.inc(dword_ptr(r13))),
    (13, 3, |a| a.movups(xmm1, xmmword_ptr(rax + 32))),
    (13, 3, |a| a.movups(xmmword_ptr(rcx), xmm2)),
    (13, 3, |a| a.addsd(xmm1, qword_ptr(rbx))),
    (13, 3, |a| a.fld(qword_ptr(rsi))),
    (13, 3, |a| a.fstp(qword_ptr(rsi))),
    // One check for several.
    (13, 3, |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx + 16), rax)
    }),
    // Flags that stay with the host, RCX that the check needs.
    (13, 3, |a| {
        a.add(rax, rdx)?;
        a.mov(rcx, qword_ptr(rbx - 0x23))?;
        a.adc(rax, rcx)
    }),
    (13, 3, |a| {
        a.add(rax, rdx)?;
        a.mov(rcx, qword_ptr(r14 - 0x23))?;
        a.adc(rax, rcx)
    }),
    (12, 3, |a| a.mov(rax, qword_ptr(rbp))),
    (12, 3, |a| a.push(rax)),
    (12, 3, |a| a.pop(rax)),
    (12, 3, |a| a.ret()),
    // What the sum is.
    (13, 3, |a| {
        a.xor(ecx, ecx)?;
        a.mov(rax, qword_ptr(rbx + rcx * 4))
    }),
    (13, 3, |a| a.movsb()),
    (13, 3, |a| a.lodsd()),
    (13, 3, |a| a.scasw()),
    (13, 3, |a| a.mov(al, byte_ptr(NOWHERE))),
];

/// Those that know such a page without the host's help.
const CHECKED: &[(u64, u8, Program)] = &[
    (13, 3, |a| {
        a.mov(ecx, 3)?;
        a.rep().movsb()
    }),
    (13, 3, |a| {
        a.mov(ecx, 3)?;
        a.rep().stosq()
    }),
    // The x87's tags stay what they are.
    (13, 3, |a| a.movq(qword_ptr(rsi), mm1)),
    // Nothing is accessed.
    (0, 3, |a| {
        a.prefetcht0(byte_ptr(rbx))?;
        a.ud2()
    }),
];

fn made(cpl: u8, program: Program) -> Machine {
    let mut m = machine_at(cpl, &|a| {
        program(a)?;
        a.ud2()
    });
    for g in Gpr::ALL {
        if cpl == 3 || g != Gpr::Rsp {
            m.v.st.gpr[g as usize] = NOWHERE;
        }
    }
    m.v.st.fpu.fcw = 0x37f;
    m
}

/// How often the page was found; the state must be the interpreter's.
fn found(vector: u64, cpl: u8, program: Program, n: usize) -> u64 {
    let mut right = made(cpl, program);
    run(&mut right, Way::Interp);
    let wanted = if vector == 0 { 6 } else { vector };
    assert_eq!(right.v.st.rip - 1 - HANDLER, wanted, "program {n}");
    let mut m = made(cpl, program);
    let options = Options {
        single: true,
        astray: true,
        ..Options::default()
    };
    let mut jit = Jit::new(Features::new(&m.v.model.features_iced()), options);
    assert_eq!(jit.run(&mut m.v, 1 << 40), Exit::Halted, "program {n}");
    assert!(
        m.v.st == right.v.st,
        "program {n}:\n{}\n{}",
        m.v.dump(),
        right.v.dump()
    );
    jit.counts().astray
}

#[test]
fn accesses_to_it_fault_on_the_host_and_then_in_the_guest() {
    for (n, (vector, cpl, program)) in ACCESSES.iter().enumerate() {
        assert!(found(*vector, *cpl, *program, n) > 0, "program {n}");
    }
    for (n, (vector, cpl, program)) in CHECKED.iter().enumerate() {
        assert_eq!(found(*vector, *cpl, *program, n), 0, "program {n}");
    }
}
