//! RDFSBASE, WRFSBASE and kin: in place for canonical bases, and as in the interpreter for all others.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine};
use x86::{Gpr, Seg, cr4};

use crate::support::{DATA, alike, machine_at, reg};

fn program(a: &mut CodeAssembler, last: u64) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ecx, 200)?;
    a.xor(edx, edx)?;
    a.set_label(&mut again)?;
    a.lea(rax, qword_ptr(rcx * 8 + DATA as i32))?;
    a.cmp(ecx, 100)?;
    a.wrfsbase(rax)?;
    // Flags stay.
    a.adc(edx, 0)?;
    a.inc(qword_ptr(16).fs())?;
    a.rdgsbase(rbx)?;
    a.rdfsbase(rsi)?;
    a.lea(rbx, qword_ptr(rsi + rbx))?;
    a.wrgsbase(rbx)?;
    a.rdgsbase(r11)?;
    a.wrgsbase(rsi)?;
    a.add(dword_ptr(0).gs(), ecx)?;
    // The upper half is dropped.
    a.or(rax, -0x8000_0000)?;
    a.wrfsbase(eax)?;
    a.rdfsbase(ebx)?;
    a.dec(ecx)?;
    a.jne(again)?;
    a.mov(rdi, last)?;
    a.wrgsbase(rdi)?;
    a.hlt()
}

fn machine(cpl: u8, last: u64) -> Machine {
    let mut m = machine_at(cpl, &|a| program(a, last));
    let mut st = m.v.st.clone();
    st.cr4 |= cr4::FSGSBASE;
    m.v.load_state(st);
    m
}

#[test]
fn bases_are_read_and_written() {
    for cpl in [0, 3] {
        let m = alike(|| machine(cpl, 0xffff_8000_0000_0000));
        assert_eq!(m.v.seg(Seg::Gs).base, 0xffff_8000_0000_0000);
        assert_eq!(reg(&m, Gpr::Rdx), 99);
        // Each is counted up by one, and by twice as much as RCX was where they overlap.
        assert_eq!(m.read(DATA + 8, 4), 1);
    }
}

#[test]
fn a_base_that_is_not_canonical_faults() {
    for last in [1 << 47, 1 << 63, 0x8000_0000_0000_0000_u64 - 1] {
        let m = alike(|| machine(0, last));
        assert_eq!(m.v.st.rip, HANDLER + 13 + 1, "{last:#x}");
        assert_eq!(reg(&m, Gpr::Rdi), last);
        assert!(m.v.seg(Seg::Gs).base < 1 << 32);
    }
}
