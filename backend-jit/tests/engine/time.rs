//! RDTSC in translated code: the count goes on, with its offset, whoever reads it; flags and registers stay.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine};
use x86::{Gpr, cr4};

use crate::support::{WAYS, machine, machine_at, reg, run};

/// Reads the count many times. rbx: how often it went back; rsi: how often a flag was lost; rdi: the first, r8: the last.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut kept) = (a.create_label(), a.create_label());
    a.xor(ebx, ebx)?;
    a.xor(esi, esi)?;
    a.mov(r10d, 40_000)?;
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.mov(rdi, rax)?;
    a.mov(r8, rax)?;
    a.set_label(&mut top)?;
    a.mov(rax, r10)?;
    a.mov(rdx, r10)?;
    // ZF and CF from registers that RDTSC writes.
    a.cmp(rax, rdx)?;
    a.rdtsc()?;
    a.je(kept)?;
    a.inc(esi)?;
    a.set_label(&mut kept)?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.cmp(rax, r8)?;
    a.adc(ebx, 0)?;
    a.mov(r8, rax)?;
    a.rdtscp()?;
    a.mov(r9d, ecx)?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.cmp(rax, r8)?;
    a.adc(ebx, 0)?;
    a.mov(r8, rax)?;
    a.dec(r10d)?;
    a.jne(top)?;
    a.hlt()
}

#[test]
fn the_count_goes_on() {
    for way in WAYS {
        let mut m = machine(&program);
        if !m.board.start_time() {
            return;
        }
        let mut st = m.v.st.clone();
        let offset = 1 << 60;
        st.msr.tsc_offset = offset;
        st.msr.tsc_aux = 0x1234_5678;
        m.v.load_state(st);
        let before = m.v.tsc();
        run(&mut m, way);
        let after = m.v.tsc();
        assert_eq!((reg(&m, Gpr::Rbx), reg(&m, Gpr::Rsi)), (0, 0), "{way:?}");
        let (first, last) = (reg(&m, Gpr::Rdi), reg(&m, Gpr::R8));
        assert!(
            offset <= before && before <= first && first < last && last <= after,
            "{way:?}: {before:#x} {first:#x} {last:#x} {after:#x}"
        );
        assert_eq!(reg(&m, Gpr::R9), 0x1234_5678);
    }
}

#[test]
fn cr4_forbids_it_to_programs() {
    for (cpl, tsd, allowed) in [(3, false, true), (3, true, false), (0, true, true)] {
        for way in WAYS {
            let mut m: Machine = machine_at(cpl, &|a| {
                a.mov(eax, 77)?;
                a.rdtsc()?;
                a.mov(ebx, 5)?;
                a.ud2()
            });
            if !m.board.start_time() {
                return;
            }
            let mut st = m.v.st.clone();
            st.cr4 |= if tsd { cr4::TSD } else { 0 };
            m.v.load_state(st);
            run(&mut m, way);
            let vector = m.v.st.rip - 1 - HANDLER;
            let expected = if allowed { (6, 5) } else { (13, 0) };
            assert_eq!((vector, reg(&m, Gpr::Rbx)), expected, "{cpl} {tsd} {way:?}");
            if !allowed {
                assert_eq!(reg(&m, Gpr::Rax), 77);
            }
        }
    }
}
