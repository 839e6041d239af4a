//! SYSENTER, SYSEXIT and loads of segment registers that were made before: as in the interpreter, whatever has changed meanwhile.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{GDT, HANDLER, Machine, START, TSS, sel};
use x86::{Gpr, flags};

use crate::legacy::{USER, kernel, put};
use crate::support::{DATA, alike, reg};

/// The kernel's entry, the user's program (at [`USER`] and so much more), their stacks.
const ENTRY: u64 = START + 0x1000;
const PROGRAM: u64 = START + 0x2000;
const KERNEL_STACK: u32 = 0x7000;
const USER_STACK: u32 = USER as u32 + 0x9000;
/// Where the kernel counts calls.
const CALLS: u64 = DATA;
/// The selectors that SYSENTER goes by.
const BASE: u16 = sel::FREE;
/// A segment that the kernel changes.
const OWN: u16 = sel::FREE + 0x48;

/// A program at level 3 that calls a kernel, which loads FS and GS, changes their descriptor with every 16th call, and as `end`
/// says with the 300th.
fn calls(end: impl Fn(&mut CodeAssembler) -> Result<(), IcedError> + 'static, odd: u64) -> Machine {
    let mut m = kernel(&|a| {
        a.mov(edx, (USER + PROGRAM) as u32)?;
        a.mov(ecx, USER_STACK)?;
        a.sysexit()
    });
    put(&m, 32, ENTRY, ENTRY, &|a| {
        let (mut same, mut last) = (a.create_label(), a.create_label());
        let (mut clear, mut near) = (a.create_label(), a.create_label());
        a.push(edx)?;
        a.push(ecx)?;
        a.pushfd()?;
        // The user's AC lets the kernel use the user's pages.
        a.test(dword_ptr(esp), flags::AC as i32)?;
        a.je(clear)?;
        a.mov(eax, dword_ptr(USER + DATA + 16))?;
        a.add(dword_ptr(DATA + 12), eax)?;
        a.set_label(&mut clear)?;
        a.push(ds)?;
        a.push(es)?;
        a.push(fs)?;
        a.mov(eax, u32::from(sel::D3))?;
        a.mov(ds, eax)?;
        a.mov(es, eax)?;
        a.mov(eax, u32::from(OWN))?;
        a.mov(fs, eax)?;
        a.xor(eax, eax)?;
        a.mov(gs, eax)?;
        a.mov(eax, dword_ptr(0).fs())?;
        a.add(dword_ptr(DATA + 8), eax)?;
        a.inc(dword_ptr(4).fs())?;
        a.inc(dword_ptr(CALLS))?;
        a.mov(eax, dword_ptr(CALLS))?;
        a.cmp(eax, 350)?;
        a.jne(near)?;
        a.inc(dword_ptr(DATA + 0x1800))?;
        a.set_label(&mut near)?;
        a.cmp(eax, 300)?;
        a.je(last)?;
        a.test(eax, 15)?;
        a.jne(same)?;
        // The base.
        a.add(dword_ptr(GDT + u64::from(OWN) + 2), 0x10)?;
        a.set_label(&mut same)?;
        a.pop(fs)?;
        a.pop(es)?;
        a.pop(ds)?;
        // IF is not the user's to have here.
        a.and(dword_ptr(esp), !(flags::IF as i32))?;
        a.popfd()?;
        a.pop(ecx)?;
        a.pop(edx)?;
        a.sysexit()?;
        a.set_label(&mut last)?;
        end(a)?;
        a.jmp(same)
    });
    put(&m, 32, PROGRAM, USER + PROGRAM, &|a| {
        let (mut again, mut gate, mut quiet) =
            (a.create_label(), a.create_label(), a.create_label());
        let mut more = a.create_label();
        a.xor(ebx, ebx)?;
        a.mov(edi, (USER + DATA + 16) as u32)?;
        a.set_label(&mut again)?;
        a.inc(ebx)?;
        // At times with AC: SYSENTER keeps it.
        a.mov(eax, ebx)?;
        a.and(eax, 7)?;
        a.jne(quiet)?;
        a.pushfd()?;
        a.xor(dword_ptr(esp), odd as i32)?;
        a.popfd()?;
        a.set_label(&mut quiet)?;
        a.add(dword_ptr(edi), ebx)?;
        a.call(gate)?;
        a.adc(dword_ptr(edi + 4), 0)?;
        a.cmp(ebx, 400)?;
        a.jb(more)?;
        // The kernel's, which has just used it: in the same block, so that nobody looks where it goes.
        a.mov(eax, dword_ptr(CALLS))?;
        a.hlt()?;
        a.set_label(&mut more)?;
        a.jmp(again)?;
        a.set_label(&mut gate)?;
        a.pop(edx)?;
        a.mov(ecx, esp)?;
        a.cmp(ebx, 0x7fff_ffff)?;
        a.sysenter()
    });
    let flat = m.read_descriptor(sel::D3);
    m.write_descriptor(OWN, flat | (DATA + 0x100) << 16);
    let mut st = m.v.st.clone();
    st.msr.sysenter_cs = u64::from(BASE);
    st.msr.sysenter_esp = u64::from(KERNEL_STACK);
    st.msr.sysenter_eip = ENTRY;
    m.v.load_state(st);
    // What an interrupt or fault at level 3 goes by.
    m.write(TSS + 4, 4, 0x7800);
    m.write(TSS + 8, 4, u64::from(sel::D0));
    for n in 0..128_u64 {
        m.write(DATA + 0x100 + n * 4, 4, n * n);
    }
    m
}

/// How the program ends: by #PF at level 3, after 400 calls.
fn to_its_end(m: &Machine) {
    assert_eq!((m.v.st.rip, reg(m, Gpr::Rbx)), (HANDLER + 14 + 1, 400));
    assert_eq!(m.read(CALLS, 4), 400);
}

#[test]
fn system_calls_with_segments_that_change() {
    let m = alike(|| calls(|a| a.nop(), 0));
    to_its_end(&m);
    let seen: u64 = (0..400).map(|call| (call / 16 * 4_u64).pow(2)).sum();
    assert_eq!(m.read(DATA + 8, 4), seen);
}

#[test]
fn system_calls_with_alignment_checks_enabled_at_times() {
    to_its_end(&alike(|| calls(|a| a.nop(), flags::AC)));
}

#[test]
fn a_segment_that_is_not_there_any_more_faults() {
    let m = alike(|| calls(|a| a.and(byte_ptr(GDT + u64::from(OWN) + 5), 0x7f), 0));
    assert_eq!((m.v.st.rip, reg(&m, Gpr::Rbx)), (HANDLER + 11 + 1, 301));
}

#[test]
fn a_segment_beyond_the_end_of_a_shorter_table_faults() {
    let shorter = |a: &mut CodeAssembler| {
        a.sub(esp, 8)?;
        a.sgdt(fword_ptr(esp))?;
        a.mov(word_ptr(esp), u32::from(OWN) + 6)?;
        a.lgdt(fword_ptr(esp))?;
        a.add(esp, 8)
    };
    let m = alike(|| calls(shorter, 0));
    assert_eq!((m.v.st.rip, reg(&m, Gpr::Rbx)), (HANDLER + 13 + 1, 301));
}

#[test]
fn a_segment_that_is_not_flat_any_more() {
    // It ends before data that the kernel uses with the 350th call.
    let short = |a: &mut CodeAssembler| {
        let at = GDT + u64::from(sel::D3 & !7);
        a.mov(word_ptr(at), (DATA as u32 + 0xfff) & 0xffff)?;
        a.mov(byte_ptr(at + 6), 0x42)
    };
    let m = alike(|| calls(short, 0));
    assert_eq!((m.v.st.rip, reg(&m, Gpr::Rbx)), (HANDLER + 13 + 1, 350));
}

#[test]
fn a_segment_whose_limit_has_become_small() {
    // Of 32 bytes, from its new base on: FS:[4] is inside, and of two bytes: not.
    let limit = |bytes: u32| {
        move |a: &mut CodeAssembler| {
            a.and(byte_ptr(GDT + u64::from(OWN) + 6), 0x70)?;
            a.mov(word_ptr(GDT + u64::from(OWN)), bytes - 1)
        }
    };
    to_its_end(&alike(|| calls(limit(32), 0)));
    let m = alike(|| calls(limit(2), 0));
    assert_eq!((m.v.st.rip, reg(&m, Gpr::Rbx)), (HANDLER + 13 + 1, 301));
}
