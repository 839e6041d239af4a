//! 32-bit kernels: what is in place for them ends as in the interpreter.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine, START, TABLES};
use x86::{Gpr, PhysAddr, cr0, cr4, flags};

use crate::support::{DATA, alike, reg};

/// A page that user code may use, in a kernel's view.
pub const USER: u64 = 0x40_0000;

/// Puts a program at an address in RAM.
pub fn put(
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
pub fn kernel(program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
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

/// Real mode, CS 1000h; each interrupt leads to a HLT of its own.
fn real(program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    ir::verify::enable(true);
    let mut m = Machine::real();
    for vector in 0..256_u32 {
        let gate = 0x0900_0000 | vector;
        m.ram
            .write(PhysAddr(u64::from(vector) * 4), &gate.to_le_bytes())
            .expect("RAM");
    }
    m.ram.fill(PhysAddr(0x9000), 256, 0xf4).expect("RAM");
    put(&m, 16, 0x1_0100, 0x100, program);
    let mut st = m.v.st.clone();
    st.rip = 0x100;
    st.gpr[Gpr::Rsp as usize] = 0x8000;
    st.gpr[Gpr::Rdx as usize] = 0;
    st.cr4 |= cr4::OSFXSR;
    m.v.load_state(st);
    m
}

/// The vector of the HLT that a machine in real mode came to; `None`: one of the program's own.
fn real_vector(m: &Machine) -> Option<u64> {
    (m.v.st.seg[1].selector == 0x900).then(|| m.v.st.rip - 1)
}

#[test]
fn loops_strings_and_calls_in_real_mode() {
    // DATA is 2300:0.
    let m = alike(|| {
        real(&|a| {
            let (mut outer, mut top, mut skip) =
                (a.create_label(), a.create_label(), a.create_label());
            let (mut near, mut far, mut start) =
                (a.create_label(), a.create_label(), a.create_label());
            a.jmp(start)?;
            a.set_label(&mut near)?;
            a.push(bp)?;
            a.mov(bp, sp)?;
            a.mov(ax, word_ptr(bp + 4))?;
            a.rol(ax, 3)?;
            a.xor(ax, word_ptr(bx + si + 2))?;
            a.pop(bp)?;
            a.ret_1(2)?;
            a.set_label(&mut far)?;
            a.inc(dword_ptr(bx + 8))?;
            a.retf()?;
            a.set_label(&mut start)?;
            a.mov(ax, 0x2300)?;
            a.mov(ds, ax)?;
            a.mov(es, ax)?;
            a.mov(di, 0x200)?;
            a.mov(cx, 60)?;
            a.cld()?;
            a.mov(ax, 0x1234)?;
            a.set_label(&mut outer)?;
            a.push(cx)?;
            a.stosw()?;
            a.mov(si, 0x200)?;
            a.mov(cx, 16)?;
            a.xor(bx, bx)?;
            a.set_label(&mut top)?;
            a.lodsb()?;
            a.add(bl, al)?;
            a.adc(word_ptr(bx + 0x400), ax)?;
            a.jns(skip)?;
            a.neg(byte_ptr(bx + 0x401))?;
            a.set_label(&mut skip)?;
            a.loop_(top)?;
            a.push(bx)?;
            a.xor(bx, bx)?;
            a.mov(si, 0x210)?;
            a.call(near)?;
            a.push(cs)?;
            a.call(far)?;
            a.push(ds)?;
            a.push(es)?;
            a.mov(dx, 0x2340)?;
            a.mov(es, dx)?;
            a.mov(si, 0x200)?;
            a.mov(di, 0x300)?;
            a.mov(cx, 40)?;
            a.rep().movsb()?;
            a.pop(es)?;
            a.pop(ds)?;
            a.pop(cx)?;
            a.mov(di, cx)?;
            a.shl(di, 2)?;
            a.add(di, 0x600)?;
            a.dec(cx)?;
            a.jnz(outer)?;
            a.pushf()?;
            a.pop(word_ptr(0))?;
            a.int(0x21)
        })
    });
    assert_eq!(real_vector(&m), Some(0x21));
    let count = (m.ram.read_u32(DATA + 8), reg(&m, Gpr::Rcx));
    assert_eq!(count, (60, 0));
}

/// Reads RAM.
trait Words {
    fn read_u32(&self, at: u64) -> u32;
}

impl Words for std::sync::Arc<softmmu::GuestRam> {
    fn read_u32(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(PhysAddr(at), &mut bytes).expect("RAM");
        u32::from_le_bytes(bytes)
    }
}

#[test]
fn what_crosses_the_end_of_64_kib() {
    let start = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(ax, 0x2300)?;
        a.mov(ds, ax)?;
        a.mov(cx, 50)?;
        Ok(())
    };
    // A word at FFFF: #GP; through SS: #SS. One at FFFE is inside.
    for (stack, back, vector) in [
        (false, 1, None),
        (true, 1, None),
        (false, 0, Some(13)),
        (true, 0, Some(12)),
    ] {
        let m = alike(|| {
            real(&|a| {
                let mut top = a.create_label();
                start(a)?;
                a.mov(bx, if back == 1 { 0xff9b } else { 0xffa5 })?;
                a.mov(bp, bx)?;
                a.set_label(&mut top)?;
                a.inc(word_ptr(0))?;
                a.add(bx, 2)?;
                a.add(bp, 2)?;
                if stack {
                    a.mov(dx, word_ptr(bp - back))?;
                } else {
                    a.mov(dx, word_ptr(bx - back))?;
                }
                a.loop_(top)?;
                a.hlt()
            })
        });
        assert_eq!(real_vector(&m), vector, "{back} before the end");
    }
    // Bytes wrap, and so do sums of registers and the stack pointer.
    let m = alike(|| {
        real(&|a| {
            let mut top = a.create_label();
            start(a)?;
            a.mov(bx, 0xfff0)?;
            a.mov(si, 0x20)?;
            a.mov(sp, 4)?;
            a.set_label(&mut top)?;
            a.add(byte_ptr(bx + si), 3)?;
            a.inc(byte_ptr(bx + 0xf))?;
            a.inc(bx)?;
            a.push(bx)?;
            a.push(bx)?;
            a.push(bx)?;
            a.pop(dx)?;
            a.add(sp, 4)?;
            a.loop_(top)?;
            a.hlt()
        })
    });
    assert_eq!(real_vector(&m), None);
    assert_eq!(reg(&m, Gpr::Rsp), 4);
    assert_eq!(m.ram.read_u32(DATA + 0x10), 0x0404_0404);
    // An instruction pointer beyond FFFF: #GP, at 10000 (by a jump it wraps).
    let m = alike(|| {
        let m = real(&|a| a.jmp(0xfff0_u64));
        put(&m, 16, 0x1_fff0, 0xfff0, &|a| {
            for _ in 0..16 {
                a.inc(dx)?;
            }
            Ok(())
        });
        m
    });
    assert_eq!((real_vector(&m), reg(&m, Gpr::Rdx)), (Some(13), 16));
    let m = alike(|| {
        let m = real(&|a| a.jmp(0xfff0_u64));
        put(&m, 16, 0x1_fff0, 0xfff0, &|a| {
            a.inc(dx)?;
            a.db(&[0xeb, 0x20])
        });
        m.ram.write(PhysAddr(0x1_0013), &[0xf4]).expect("RAM");
        m
    });
    assert_eq!((real_vector(&m), m.v.st.rip), (None, 0x14));
}

#[test]
fn segments_with_bases_and_limits_in_protected_mode() {
    use system::testing::{access, descriptor, sel};
    // Code and data from 0x1_8000 on, D0 as large as 4 KiB and the program's first page; the stack is flat.
    let make = |bits: u32, offset: i32| {
        let size = if bits == 32 { x86::attr::DB } else { 0 };
        let mut m = Machine::protected(0);
        let base = START - 0x8000;
        let code = descriptor(base, 0x8fff, access::CODE | size);
        let data = descriptor(DATA - 0x100, 0xfff, access::DATA | size);
        for (selector, raw) in [(sel::FREE, code), (sel::FREE + 8, data)] {
            m.write_descriptor(selector, raw);
        }
        m.ram.fill(PhysAddr(HANDLER), 256, 0xf4).expect("RAM");
        put(&m, bits, START, 0x8000, &|a| {
            let (mut top, mut over, mut sub) =
                (a.create_label(), a.create_label(), a.create_label());
            a.mov(eax, u32::from(sel::FREE + 8))?;
            a.mov(ds, ax)?;
            a.mov(ecx, 300)?;
            a.mov(ebx, 0x100)?;
            a.jmp(top)?;
            a.set_label(&mut sub)?;
            a.xor(edx, dword_ptr(ebx - 4))?;
            a.ret()?;
            a.set_label(&mut top)?;
            a.add(dword_ptr(ebx), ecx)?;
            a.call(sub)?;
            a.add(edx, dword_ptr(0x8000).cs())?;
            a.lea(esi, dword_ptr(ebx + ecx * 4 + offset))?;
            a.mov(byte_ptr(esi), cl)?;
            a.jc(over)?;
            a.xor(word_ptr(ebx + 6), dx)?;
            a.set_label(&mut over)?;
            a.dec(ecx)?;
            a.jnz(top)?;
            a.hlt()
        });
        let mut st = m.v.st.clone();
        st.seg[1] = x86::Segment {
            base,
            limit: 0x8fff,
            attr: access::CODE | size,
            selector: sel::FREE,
        };
        st.rip = 0x8000;
        m.v.load_state(st);
        m
    };
    for bits in [16, 32] {
        let m = alike(|| make(bits, -0x10));
        assert_eq!(m.v.st.seg[1].selector, sel::FREE, "it ends in its HLT");
        let m = alike(|| make(bits, 0xeff - 300 * 4));
        assert_eq!(m.v.st.seg[1].selector, sel::FREE);
        // The first store is behind the limit.
        let m = alike(|| make(bits, 0xf00 - 300 * 4));
        assert_eq!(m.v.st.rip, HANDLER + 13 + 1);
    }
}

#[test]
fn string_instructions_through_fs_in_64_bit_code() {
    let m = crate::support::all(|a| {
        let mut top = a.create_label();
        a.mov(rcx, 0xc000_0100_u64)?;
        a.mov(rax, DATA)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(dword_ptr(DATA + 8), 0x1234)?;
        a.mov(ebx, 50)?;
        a.set_label(&mut top)?;
        a.mov(esi, 8)?;
        // LODSD through FS.
        a.db(&[0x64, 0xad])?;
        a.dec(ebx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rax), 0x1234);
}

#[test]
fn counters_in_a_segment_keep_the_carry_and_shifts_go_by_cl() {
    let m = alike(|| {
        kernel(&|a| {
            let mut again = a.create_label();
            a.mov(ecx, 300)?;
            a.xor(edx, edx)?;
            a.mov(ebx, 0x1234_5678)?;
            a.mov(esi, 0x8765_4321_u32)?;
            a.set_label(&mut again)?;
            a.cmp(ecx, 150)?;
            a.inc(dword_ptr(DATA).fs())?;
            a.adc(edx, 0)?;
            a.bt(ecx, 0)?;
            a.dec(dword_ptr(DATA + 4).fs())?;
            a.adc(edx, edx)?;
            a.rol(esi, 3)?;
            // By 0 too.
            a.shrd(ebx, esi, cl)?;
            a.shld(esi, edx, cl)?;
            a.add(ebx, edx)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        })
    });
    assert_eq!(
        (m.read(DATA, 4), m.read(DATA + 4, 4)),
        (300, 300_u32.wrapping_neg().into())
    );
}
