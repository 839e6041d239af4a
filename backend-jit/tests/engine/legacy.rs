//! 32-bit kernels: what is in place for them ends as in the interpreter.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine, START, TABLES};
use x86::{Gpr, PhysAddr, cr0, cr4, flags};

use crate::support::{DATA, alike, reg};

/// A page that user code may use, in a kernel's view.
const USER: u64 = 0x40_0000;

/// Puts a program at an address in RAM.
fn put(
    m: &Machine,
    bits: u32,
    at: u64,
    ip: u64,
    program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let mut a = CodeAssembler::new(bits).expect("a bitness");
    program(&mut a).expect("the program assembles");
    let bytes = a.assemble(ip).expect("the program fits");
    m.ram.write(PhysAddr(at), &bytes).expect("RAM");
}

/// Level 0 in flat segments, paged: 4 MiB of the kernel's, [`USER`] as many of the user's, with SMAP.
fn kernel(program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    ir::verify::enable(true);
    let m = Machine::protected(0);
    paged(m, program)
}

fn paged(mut m: Machine, program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    const LARGE: u32 = 0x83;
    for (n, entry) in [(0, LARGE), (USER >> 22, LARGE | 4)] {
        m.ram
            .write(PhysAddr(TABLES + n * 4), &entry.to_le_bytes())
            .expect("RAM");
    }
    m.ram.fill(PhysAddr(HANDLER), 256, 0xf4).expect("RAM");
    put(&m, 32, START, START, program);
    let mut st = m.v.st.clone();
    st.cr3 = TABLES;
    st.cr4 |= cr4::PSE | cr4::SMAP | cr4::OSFXSR;
    st.cr0 |= cr0::PG | cr0::WP;
    m.v.load_state(st);
    m
}

#[test]
fn a_users_page_is_out_of_reach_again_behind_clac() {
    let m = alike(|| {
        kernel(&|a| {
            let mut again = a.create_label();
            a.mov(dword_ptr(DATA), 5)?;
            a.set_label(&mut again)?;
            a.mov(esi, (USER + DATA) as u32)?;
            a.stac()?;
            a.mov(eax, dword_ptr(esi))?;
            a.add(dword_ptr(esi), 1)?;
            a.mov(ebx, dword_ptr(esi + 4))?;
            a.clac()?;
            a.dec(dword_ptr(DATA + 8))?;
            a.cmp(eax, 40)?;
            a.jb(again)?;
            a.mov(ecx, dword_ptr(esi))?;
            a.hlt()
        })
    });
    assert_eq!(m.v.st.rip, HANDLER + 14 + 1);
    assert_eq!((reg(&m, Gpr::Rax), reg(&m, Gpr::Rcx)), (40, 0));
}

#[test]
fn flags_and_segments_are_pushed_and_popped() {
    use system::testing::sel;
    let m = alike(|| {
        kernel(&|a| {
            let (mut again, mut out) = (a.create_label(), a.create_label());
            a.mov(ecx, 200)?;
            a.xor(edx, edx)?;
            a.set_label(&mut again)?;
            a.std()?;
            a.stc()?;
            a.pushfd()?;
            a.cld()?;
            a.pushfd()?;
            a.pop(eax)?;
            a.add(edx, eax)?;
            a.popfd()?;
            a.adc(edx, 0)?;
            a.mov(eax, ds)?;
            a.push(es)?;
            a.mov(es, eax)?;
            a.mov(eax, dword_ptr(DATA))?;
            a.add(dword_ptr(DATA), ecx)?;
            a.xor(ebx, ebx)?;
            a.mov(fs, ebx)?;
            a.mov(gs, ebx)?;
            a.jne(out)?;
            a.pop(es)?;
            // NT and ID change, which is left to the helper; then nothing that holds it up.
            a.pushfd()?;
            a.xor(dword_ptr(esp), (flags::NT | flags::ID) as u32)?;
            a.or(dword_ptr(esp), 1)?;
            a.popfd()?;
            a.setb(byte_ptr(DATA + 8))?;
            a.pushfd()?;
            a.pop(dword_ptr(DATA + 12))?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.mov(eax, u32::from(sel::R0))?;
            // Read-only: the mode is another one from here on.
            a.mov(es, eax)?;
            a.mov(ebx, dword_ptr(DATA).es())?;
            a.mov(dword_ptr(DATA).es(), ebx)?;
            a.set_label(&mut out)?;
            a.hlt()
        })
    });
    assert_eq!(m.v.st.rip, HANDLER + 13 + 1);
    assert_eq!(reg(&m, Gpr::Rbx), 200 * 201 / 2);
}
