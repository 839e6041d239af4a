//! Accesses across two pages: of all sizes and kinds, over pages that lie next to each other in RAM or don't, may not be
//! written, are missing, devices or code, must end as they do in the interpreter.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::CpuModel;
use system::testing::Machine;
use x86::{Gpr, PhysAddr, cr4, flags, xcr0};

use crate::loops::{FRAMES, PAGES, Random, WINDOW, map, open_window, place};
use crate::support::{DATA, WAYS, machine, reg, run};

/// The start of one of the window's pages, but for the first.
fn border(random: &mut Random) -> u64 {
    WINDOW + (1 + random.below(PAGES - 1)) * 0x1000
}

/// A program: accesses near the ends of pages, in a loop.
fn program(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.fninit()?;
    a.mov(rcx, 5_u64)?;
    for base in [rbx, rsi, rdi, r9, r14] {
        a.mov(base, border(random))?;
    }
    // PUSH and POP may go across, too.
    a.mov(rsp, border(random) + random.below(64))?;
    for value in [rax, rdx, rbp, r8, r10, r11, r12, r13, r15] {
        a.mov(value, random.next())?;
    }
    a.movq(xmm1, rax)?;
    a.movq(xmm2, rdx)?;
    a.mov(r8, DATA)?;
    a.set_label(&mut top)?;
    for _ in 0..4 + random.below(16) {
        instruction(a, random)?;
    }
    a.dec(rcx)?;
    a.jne(top)?;
    // Values of the host's registers, flags among them.
    for (n, value) in [xmm1, xmm2, xmm3].into_iter().enumerate() {
        a.movups(xmmword_ptr(r8 + 16 * n as u64), value)?;
    }
    a.hlt()
}

fn instruction(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let base = random.pick(&[rbx, rsi, rdi, r9, r14]);
    // Most often across.
    let back = match random.below(4) {
        0 => random.below(80) as i32 - 8,
        1 => 1 + random.below(3) as i32,
        2 => 1 + random.below(7) as i32,
        _ => 1 + random.below(31) as i32,
    };
    let at = base - back;
    let regs = [rax, rdx, rbp, r10, r11, r12, r13, r15];
    let (r, s) = (random.pick(&regs), random.pick(&regs));
    let imm = random.below(200) as i32 - 100;
    match random.below(48) {
        0 => a.mov(r, qword_ptr(at)),
        1 => a.mov(qword_ptr(at), r),
        2 => a.mov(eax, dword_ptr(at)),
        3 => a.mov(dword_ptr(at), edx),
        4 => a.movzx(r, word_ptr(at)),
        5 => a.mov(word_ptr(at), r13w),
        6 => a.movsx(r, word_ptr(at)),
        7 => a.add(r, qword_ptr(at)),
        8 => a.add(qword_ptr(at), r),
        9 => a.adc(qword_ptr(at), imm),
        10 => a.sbb(r, qword_ptr(at)),
        11 => a.inc(dword_ptr(at)),
        12 => a.neg(word_ptr(at)),
        13 => a.not(qword_ptr(at)),
        14 => a.cmp(qword_ptr(at), r),
        15 => a.cmp(ebp, dword_ptr(at)),
        16 => a.test(dword_ptr(at), 0x1234),
        17 => a.xadd(qword_ptr(at), r),
        // Locked.
        18 => a.xchg(dword_ptr(at), r10d),
        19 => a.lock().add(word_ptr(at), imm),
        20 => a.cmpxchg(qword_ptr(at), s),
        21 => a.shl(dword_ptr(at), 1 + random.below(30) as u32),
        22 => a.bts(dword_ptr(at), random.below(32) as u32),
        23 => a.setb(byte_ptr(at)),
        24 => a.imul_2(r, qword_ptr(at)),
        25 => a.push(r),
        26 => a.pop(s),
        27 => a.push(qword_ptr(at)),
        28 => a.pop(qword_ptr(at)),
        29 => a.movups(xmm3, xmmword_ptr(at)),
        30 => a.movups(xmmword_ptr(at), xmm1),
        31 => a.movdqu(xmm2, xmmword_ptr(at)),
        32 => a.movsd_2(xmm1, qword_ptr(at)),
        33 => a.movss(dword_ptr(at), xmm2),
        34 => a.addsd(xmm1, qword_ptr(at)),
        35 => a.movhps(qword_ptr(at), xmm3),
        36 => a.fld(tword_ptr(at)),
        37 => a.fstp(tword_ptr(at)),
        38 => a.fadd(qword_ptr(at)),
        39 => a.fild(word_ptr(at)),
        40 => a.fistp(qword_ptr(at)),
        // Misaligned, sometimes.
        41 => a.movaps(xmm3, xmmword_ptr(base - (back & !15))),
        42 => a.fnstcw(word_ptr(at)),
        43 => a.movbe(r, qword_ptr(at)),
        44 => a.or(r, qword_ptr(at)),
        45 => a.mulx(r, s, qword_ptr(at)),
        46 => a.cmovb(r, qword_ptr(at)),
        _ => {
            a.mov(r, s)?;
            a.dec(qword_ptr(at))
        }
    }
}

fn memory(m: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; (PAGES * 0x1000) as usize];
    m.ram.read(PhysAddr(FRAMES), &mut bytes).expect("RAM");
    let mut data = vec![0; 0x100];
    m.ram.read(PhysAddr(DATA), &mut data).expect("RAM");
    bytes.extend(data);
    bytes
}

/// Programs for seeds, in all ways.
fn compare(seeds: u64, program: &dyn Fn(&mut CodeAssembler, &mut Random) -> Result<(), IcedError>) {
    for seed in 0..seeds {
        let mut first: Option<Machine> = None;
        for way in WAYS {
            let mut m = machine(&|a| program(a, &mut Random(seed)));
            m.v.model = std::sync::Arc::new(CpuModel::parse("max").expect("a model"));
            let mut st = m.v.st.clone();
            st.cr4 |= cr4::OSXSAVE;
            st.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
            m.v.load_state(st);
            map(&mut m, &mut Random(seed ^ 0x3333));
            run(&mut m, way);
            let Some(first) = &first else {
                first = Some(m);
                continue;
            };
            // What shifts and IMUL leave undefined; the x87's last instruction, which is not always kept.
            let state = |m: &Machine| {
                let mut st = m.v.st.clone();
                st.rflags &= !(flags::STATUS & !flags::CF);
                let fpu = &mut st.fpu;
                (fpu.fop, fpu.fcs, fpu.fds, fpu.fip, fpu.fdp) = (0, 0, 0, 0, 0);
                st
            };
            assert!(
                state(&m) == state(first),
                "seed {seed}, {way:?} ends otherwise:\n{}\n{}",
                m.v.dump(),
                first.v.dump()
            );
            let (a, b) = (memory(&m), memory(first));
            let differs = a.iter().zip(&b).position(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {seed}, {way:?}: memory");
            assert!(!way.counts() || m.v.retired == first.v.retired, "{way:?}");
        }
    }
}

#[test]
fn accesses_across_pages_end_as_in_the_interpreter() {
    compare(300, &program);
}

#[test]
fn wide_accesses_across_pages_end_as_in_the_interpreter() {
    compare(100, &|a, random| {
        let mut top = a.create_label();
        a.mov(rcx, 4_u64)?;
        for base in [rbx, rsi, rdi] {
            a.mov(base, border(random))?;
        }
        a.vmovups(ymm1, ymmword_ptr(rbx))?;
        a.set_label(&mut top)?;
        for _ in 0..6 {
            let at = random.pick(&[rbx, rsi, rdi]) - random.below(40) as i32;
            match random.below(6) {
                0 => a.vmovups(ymm2, ymmword_ptr(at))?,
                1 => a.vmovups(ymmword_ptr(at), ymm1)?,
                2 => a.vpaddd(ymm1, ymm2, ymmword_ptr(at))?,
                3 => a.vmovdqu(xmmword_ptr(at), xmm2)?,
                4 => a.vextracti128(xmmword_ptr(at), ymm1, 1)?,
                _ => a.vpxor(ymm2, ymm1, ymmword_ptr(at))?,
            }
        }
        a.dec(rcx)?;
        a.jne(top)?;
        a.hlt()
    });
}

#[test]
fn stores_across_pages_into_code_are_noticed() {
    // A page with code of one-byte instructions, which are stored over from the page before it: each of them leaves another
    // carry.
    for size in [2_u64, 4, 8, 16] {
        for first in 1..size {
            let program = |a: &mut CodeAssembler| {
                let mut top = a.create_label();
                a.mov(ecx, 40)?;
                a.xor(ebx, ebx)?;
                a.mov(rsi, WINDOW + 0x1000 - first)?;
                a.mov(rdi, FRAMES)?;
                a.set_label(&mut top)?;
                // NOP, STC, CLC, CMC.
                a.mov(rdx, 0xf5f8_f990_f9f5_f890_u64)?;
                a.lea(eax, dword_ptr(rcx * 8))?;
                a.xchg(eax, ecx)?;
                a.ror(rdx, cl)?;
                a.xchg(eax, ecx)?;
                a.movq(xmm0, rdx)?;
                a.punpcklqdq(xmm0, xmm0)?;
                match size {
                    2 => a.mov(word_ptr(rsi), dx)?,
                    4 => a.mov(dword_ptr(rsi), edx)?,
                    8 => a.mov(qword_ptr(rsi), rdx)?,
                    _ => a.movups(xmmword_ptr(rsi), xmm0)?,
                }
                a.clc()?;
                a.call(rdi)?;
                a.adc(rbx, rbx)?;
                a.dec(ecx)?;
                a.jne(top)?;
                a.hlt()
            };
            let mut results = Vec::new();
            for way in WAYS {
                let mut m = machine(&program);
                open_window(&m);
                place(&m, 0, FRAMES + 0x5000);
                place(&m, 1, FRAMES);
                let mut code = [0x90; 0x20];
                code[0x1f] = 0xc3;
                m.ram.write(PhysAddr(FRAMES), &code).expect("RAM");
                run(&mut m, way);
                let carries = reg(&m, Gpr::Rbx);
                let ones = carries.count_ones();
                assert!((3..38).contains(&ones), "{carries:#x}");
                results.push((carries, memory(&m)));
            }
            assert!(
                results.iter().all(|r| *r == results[0]),
                "size {size}, {first} on the first page"
            );
        }
    }
}
