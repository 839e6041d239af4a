//! The translator as a whole: programs that must end as they do in the interpreter, however they are cut into runs.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

#[path = "engine/astray.rs"]
mod astray;
#[path = "engine/avx512.rs"]
mod avx512;
#[path = "engine/bases.rs"]
mod bases;
#[path = "engine/copies.rs"]
mod copies;
#[path = "engine/jumps.rs"]
mod jumps;
#[path = "engine/large.rs"]
mod large;
#[path = "engine/legacy.rs"]
mod legacy;
#[path = "engine/loops.rs"]
mod loops;
#[path = "engine/split.rs"]
mod split;
mod support;
#[path = "engine/sysenter.rs"]
mod sysenter;
#[path = "engine/time.rs"]
mod time;
#[path = "engine/windows.rs"]
mod windows;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use support::{DATA, all, all_at, reg};
use system::testing::{HANDLER, Machine, START, TABLES};
use x86::Gpr;

/// Beyond RAM, inside the first GiB that is mapped: device memory, all ones.
const MMIO: u64 = 0x80_0000;

/// The handler that a program ended in.
fn vector(m: &Machine) -> u64 {
    m.v.st.rip - 1 - HANDLER
}

#[test]
fn registers_of_all_kinds_and_sizes() {
    // Guest r11, r14, r15 live in memory, rsp in another register.
    all(|a| {
        let mut top = a.create_label();
        a.mov(rbp, DATA)?;
        a.mov(rax, 0x0123_4567_89ab_cdef_u64)?;
        a.mov(r11, rax)?;
        a.mov(r14, rax)?;
        a.mov(r15, rax)?;
        a.mov(ecx, 300)?;
        a.set_label(&mut top)?;
        a.add(r11b, al)?;
        a.mov(r14w, cx)?;
        a.adc(r15b, r14b)?;
        a.sbb(r11w, r15w)?;
        a.mov(dl, ah)?;
        a.add(ah, ch)?;
        a.xchg(al, ah)?;
        a.movsx(r14, r15b)?;
        a.lea(r15, qword_ptr(r11 + r14 * 4 + 5))?;
        a.lea(r11d, dword_ptr(r15 + rcx * 2))?;
        a.mov(qword_ptr(rbp), r15)?;
        a.xchg(qword_ptr(rbp), r11)?;
        a.xadd(dword_ptr(rbp + 8), r14d)?;
        a.add(r15b, byte_ptr(rbp + 1))?;
        a.cmp(r15w, word_ptr(rbp + 2))?;
        a.cmovb(r14d, ecx)?;
        a.setg(r11b)?;
        a.inc(dword_ptr(rbp + 16))?;
        a.setb(byte_ptr(rbp + 20))?;
        a.neg(r14w)?;
        a.sbb(byte_ptr(rbp + 21), 3)?;
        a.push(r14)?;
        a.pop(rbx)?;
        a.mov(rax, r15)?;
        a.rol(eax, 3)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.cmp(rcx, 1)?;
        a.hlt()
    });
}

#[test]
fn flags_survive_what_comes_between() {
    all(|a| {
        let (mut top, mut skip) = (a.create_label(), a.create_label());
        a.mov(rbp, DATA)?;
        a.mov(ecx, 200)?;
        a.xor(ebx, ebx)?;
        a.set_label(&mut top)?;
        a.imul_3(eax, ecx, 0x0101_0107)?;
        a.add(eax, ecx)?;
        // The operands go, the flags stay.
        a.mov(eax, dword_ptr(rbp))?;
        a.mov(qword_ptr(rbp + 8), rcx)?;
        a.lea(ecx, dword_ptr(rcx - 1))?;
        a.setb(bl)?;
        a.cmovo(edx, ecx)?;
        a.pushfq()?;
        a.pop(rsi)?;
        a.add(rdi, rsi)?;
        // Carry through INC and through a store to memory.
        a.cmp(eax, ecx)?;
        a.inc(dword_ptr(rbp))?;
        a.adc(edi, 0)?;
        a.stc()?;
        a.dec(byte_ptr(rbp + 17))?;
        a.adc(r8, 0)?;
        a.cmp(edi, 77)?;
        a.bts(dword_ptr(rbp + 24), 5)?;
        a.jb(skip)?;
        a.add(r9, 3)?;
        a.set_label(&mut skip)?;
        a.cmp(r9, rcx)?;
        a.btc(dword_ptr(rbp + 24), 5)?;
        a.setz(byte_ptr(rbp + 30))?;
        a.shl(r9, 1)?;
        a.setc(byte_ptr(rbp + 31))?;
        a.test(ecx, ecx)?;
        a.jne(top)?;
        a.hlt()
    });
}

/// A step of a SplitMix64 generator, below `n`.
fn pick(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ *seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31) % n
}

/// A program of arithmetic with carry between loads and stores: aligned or not, across pages, to devices; it may end in a fault.
fn with_carry(a: &mut CodeAssembler, mut seed: u64) -> Result<(), IcedError> {
    let regs = [rax, rbx, rcx, rsi, r9, r10, r11, r14];
    let mut top = a.create_label();
    a.mov(rbp, DATA + 0x800)?;
    a.mov(rdi, MMIO)?;
    a.mov(r12, DATA)?;
    a.mov(r15, 40_u64)?;
    for r in regs {
        a.mov(r, pick(&mut seed, u64::MAX))?;
    }
    a.mov(r8, 3_u64)?;
    a.mov(rdx, pick(&mut seed, u64::MAX))?;
    a.set_label(&mut top)?;
    for _ in 0..8 + pick(&mut seed, 24) {
        let (r, s) = (
            regs[pick(&mut seed, 8) as usize],
            regs[pick(&mut seed, 8) as usize],
        );
        let disp = 8 * pick(&mut seed, 16);
        let place = match pick(&mut seed, 20) {
            0 => qword_ptr(rdi + disp),
            // Across two pages.
            1 => qword_ptr(rbp + 0x7f8 + pick(&mut seed, 8)),
            2 | 3 => qword_ptr(rbp + disp + 3),
            4 | 5 => qword_ptr(r12 + r8 * 8 + disp),
            6 | 7 => qword_ptr(rbp + r15 * 8 + disp),
            8 | 9 => qword_ptr(rsp - 8 - disp),
            10 | 11 => qword_ptr(r12 + disp),
            // Through the register that the check puts aside.
            12 => {
                a.mov(rcx, r12)?;
                qword_ptr(rcx + disp)
            }
            _ => qword_ptr(rbp + disp),
        };
        match pick(&mut seed, 20) {
            0 => a.add(r, s)?,
            1 => a.adc(r, s)?,
            2 => a.adc(r, 0)?,
            3 => a.sbb(r, s)?,
            4 => a.adc(r, place)?,
            5 => a.sbb(r, place)?,
            6 => a.adc(place, r)?,
            7 => a.sbb(place, 5)?,
            8 => a.adcx(r, place)?,
            9 => a.adox(r, s)?,
            10 => a.mulx(r, s, place)?,
            11 | 12 => a.mov(r, place)?,
            13 | 14 => a.mov(place, r)?,
            15 => a.inc(r)?,
            16 => a.lea(r, qword_ptr(s + r8 + 1))?,
            17 => a.cmp(r, place)?,
            18 => a.cmovb(r, s)?,
            _ => a.add(place, r)?,
        }
        if pick(&mut seed, 12) == 0 {
            a.setb(byte_ptr(rbp + disp))?;
            a.seto(byte_ptr(r12 + disp))?;
        }
    }
    a.lea(r15, qword_ptr(r15 - 1))?;
    if pick(&mut seed, 2) == 0 {
        // The flags of the last round.
        a.pushfq()?;
        a.pop(r13)?;
        a.xor(qword_ptr(rbp), r13)?;
    }
    a.test(r15, r15)?;
    a.jne(top)?;
    a.adc(rbx, rax)?;
    if pick(&mut seed, 2) == 0 {
        a.mov(rsi, 1_u64 << 63)?;
        a.mov(rax, qword_ptr(rsi + 8))?;
        a.adc(rbx, 0)?;
    }
    a.hlt()
}

#[test]
fn carry_lasts_from_access_to_access() {
    for seed in 0..150 {
        all(|a| with_carry(a, seed));
    }
}

#[test]
fn blocks_are_left_where_branches_forward_are_taken() {
    let m = all(|a| {
        let (mut top, mut end) = (a.create_label(), a.create_label());
        let mut skips: [_; 9] = std::array::from_fn(|_| a.create_label());
        a.mov(rbp, DATA)?;
        a.mov(r14d, 700)?;
        a.set_label(&mut top)?;
        a.imul_3(esi, esi, 0x0101_0107)?;
        a.add(esi, r14d)?;
        for (n, skip) in skips.iter_mut().enumerate() {
            let bit = 3 * n as u32 + 2;
            // One of four or of eight is taken, each time after flags of another kind.
            match n % 5 {
                0 => a.test(esi, 1 << bit | 1 << (bit + 1))?,
                1 => a.add(dword_ptr(rbp + 8 * n), esi)?,
                2 => {
                    a.mov(eax, esi)?;
                    a.shr(eax, bit)?;
                }
                3 => a.cmp(esi, dword_ptr(rbp))?,
                _ => {
                    a.mov(eax, esi)?;
                    a.sub(eax, dword_ptr(rbp + 8))?;
                }
            }
            // The access in between may fault: the flags outlive it.
            a.mov(r8, qword_ptr(rbp + 64))?;
            match n % 4 {
                0 => a.jz(*skip)?,
                1 => a.jb(*skip)?,
                2 => a.js(*skip)?,
                _ => a.jle(*skip)?,
            }
            a.lea(ebx, dword_ptr(rbx + rsi + n))?;
            a.add(qword_ptr(rbp + 64), rbx)?;
            a.set_label(skip)?;
            a.adc(edi, 1)?;
        }
        a.dec(r14d)?;
        a.je(end)?;
        a.jmp(top)?;
        a.set_label(&mut end)?;
        a.hlt()
    });
    assert!(reg(&m, Gpr::Rbx) != 0 && reg(&m, Gpr::Rdi) > 700 * 9);
}

#[test]
fn flags_are_saved_by_what_memory_operations_leave() {
    // Each result at each width, signs and carries of all kinds; what comes between asks for a place for the flags.
    let m = all(|a| {
        let mut top = a.create_label();
        a.mov(rbp, DATA)?;
        a.mov(rcx, 400u64)?;
        a.mov(rsi, 0x8000_7fff_ff80_7f01_u64)?;
        a.set_label(&mut top)?;
        a.mov(qword_ptr(rbp), rsi)?;
        macro_rules! keep {
            ($op:expr) => {
                $op?;
                a.mov(r9, qword_ptr(rbp + 128))?;
                a.pushfq()?;
                a.pop(rax)?;
                a.and(eax, 0x8c5)?;
                a.lea(r8, qword_ptr(r8 + r8 * 2))?;
                a.lea(r8, qword_ptr(r8 + rax))?;
            };
        }
        keep!(a.add(qword_ptr(rbp), 1));
        keep!(a.sub(qword_ptr(rbp), -7));
        keep!(a.add(qword_ptr(rbp), i32::MIN));
        keep!(a.sub(qword_ptr(rbp), i32::MIN));
        keep!(a.cmp(qword_ptr(rbp), i32::MIN));
        keep!(a.add(dword_ptr(rbp), ecx));
        keep!(a.sub(dword_ptr(rbp), esi));
        keep!(a.add(word_ptr(rbp), cx));
        keep!(a.sub(word_ptr(rbp), 0x7fff));
        keep!(a.add(byte_ptr(rbp), 0x81u32 as i32));
        keep!(a.sub(byte_ptr(rbp), cl));
        keep!(a.and(qword_ptr(rbp), rsi));
        keep!(a.or(byte_ptr(rbp + 1), 0x40));
        keep!(a.xor(word_ptr(rbp + 1), si));
        a.mov(rdi, rsi)?;
        keep!(a.add(rdi, qword_ptr(rbp)));
        keep!(a.sub(rdi, qword_ptr(rbp + 1)));
        keep!(a.add(edi, dword_ptr(rbp)));
        keep!(a.sub(edi, dword_ptr(rbp + 2)));
        keep!(a.add(di, word_ptr(rbp)));
        keep!(a.sub(dil, byte_ptr(rbp)));
        keep!(a.or(dil, byte_ptr(rbp + 3)));
        keep!(a.cmp(rdi, qword_ptr(rbp)));
        keep!(a.cmp(edi, dword_ptr(rbp)));
        keep!(a.cmp(di, word_ptr(rbp)));
        keep!(a.cmp(dil, byte_ptr(rbp)));
        keep!(a.cmp(r14, qword_ptr(rbp)));
        // The register that they go by is written next, by what looks at them.
        a.sub(di, word_ptr(rbp))?;
        keep!(a.cmova(edi, ecx));
        a.cmp(edi, dword_ptr(rbp + 1))?;
        keep!(a.setl(dil));
        a.cmp(dword_ptr(rbp + 1), edi)?;
        keep!(a.cmovs(rdi, rsi));
        a.cmp(edi, dword_ptr(rbp + 1))?;
        keep!(a.mov(edi, ecx));
        keep!(a.shl(rdi, 1));
        keep!(a.shr(rdi, 1));
        keep!(a.sar(edi, 1));
        keep!(a.shl(edi, 1));
        a.imul_3(rsi, rsi, 0x0101_0107)?;
        a.lea(r14, qword_ptr(r14 + rsi))?;
        a.dec(rcx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_ne!(reg(&m, Gpr::R8), 0);
}

#[test]
fn cmpxchg16b_leaves_the_flags_of_a_comparison_with_memory() {
    all(|a| {
        let (mut top, mut skip) = (a.create_label(), a.create_label());
        a.mov(rbp, DATA)?;
        a.mov(r14d, 50)?;
        a.set_label(&mut top)?;
        a.cmp(dword_ptr(rbp + 64), 25)?;
        a.lock().cmpxchg16b(xmmword_ptr(rbp))?;
        a.jne(skip)?;
        a.add(r15d, 1)?;
        a.set_label(&mut skip)?;
        a.pushfq()?;
        a.pop(rsi)?;
        a.lea(rdi, qword_ptr(rdi + rsi))?;
        a.mov(ebx, r14d)?;
        a.inc(dword_ptr(rbp + 64))?;
        a.dec(r14d)?;
        a.jne(top)?;
        a.hlt()
    });
}

#[test]
fn constant_addresses_by_page() {
    // More pages than there are entries: some share one. Devices and two pages at once are among them. HLT faults.
    let m = all_at(3, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 40)?;
        a.set_label(&mut top)?;
        for n in 0..44u64 {
            let at = DATA + n * 0x1000 + 8 * n;
            a.add(qword_ptr(at), ecx)?;
            a.add(rax, qword_ptr(at + 0xff0 - 8 * n))?;
            a.mov(dword_ptr(at + 0x20), eax)?;
        }
        a.mov(r14d, dword_ptr(DATA + 0xffe))?;
        a.mov(qword_ptr(DATA + 0xffb), r14)?;
        a.lock().add(dword_ptr(DATA + 0x40), ecx)?;
        a.add(ebx, dword_ptr(MMIO + 8))?;
        a.mov(dword_ptr(MMIO + 4), r14d)?;
        a.add(dword_ptr(MMIO), ebx)?;
        a.mov(eax, dword_ptr(DATA + 0x1008))?;
        a.movups(xmm1, xmmword_ptr(DATA + 0x2ff8))?;
        a.paddd(xmm1, xmmword_ptr(DATA + 0x1010))?;
        a.movaps(xmmword_ptr(DATA + 0x30), xmm1)?;
        // It comes here as often as that.
        a.add(dword_ptr(DATA + 0x44), 1)?;
        a.movd(xmm3, dword_ptr(DATA + 0x44))?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(vector(&m), u64::from(x86::vector::GP));
    assert_eq!((reg(&m, Gpr::Rcx), m.v.st.vec[3][0]), (0, 40));
}

#[test]
fn stores_across_pages_and_to_devices() {
    let m = all(|a| {
        let mut top = a.create_label();
        a.mov(rbp, DATA + 0xffd)?;
        a.mov(r14, MMIO)?;
        a.mov(ecx, 50)?;
        a.set_label(&mut top)?;
        a.add(qword_ptr(rbp), rcx)?;
        a.inc(dword_ptr(rbp))?;
        a.setz(byte_ptr(rbp + 1))?;
        a.xchg(word_ptr(rbp + 2), cx)?;
        a.xchg(word_ptr(rbp + 2), cx)?;
        a.lock().add(dword_ptr(rbp), 3)?;
        a.mov(eax, dword_ptr(rbp))?;
        a.cmpxchg(dword_ptr(rbp), ecx)?;
        a.movups(xmm1, xmmword_ptr(rbp))?;
        a.movups(xmmword_ptr(rbp - 3), xmm1)?;
        // The bounce buffer must be aligned as the device is.
        a.paddd(xmm2, xmmword_ptr(r14))?;
        a.movaps(xmmword_ptr(r14 + 16), xmm2)?;
        a.movaps(xmm3, xmmword_ptr(r14 + 32))?;
        a.add(dword_ptr(r14), 7)?;
        a.adc(ebx, dword_ptr(r14 + 4))?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(m.v.st.vec[3][..16], [0xff; 16]);
}

#[test]
fn a_store_across_pages_over_the_next_instruction() {
    // At the start of a page: "mov [rdi], rax", then "mov ebx, imm32", whose opcode becomes that of "mov ecx, imm32".
    let m = all(|a| {
        let mut page = a.create_label();
        a.mov(edi, (START + 0xffc) as u32)?; // 5 bytes
        a.mov(rax, 0xb907_8948_9090_9090_u64)?; // 10
        a.xor(ebx, ebx)?; // 2
        a.jmp(page)?; // 5
        for _ in 0..0x1000 - 22 {
            a.nop()?;
        }
        a.set_label(&mut page)?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(ebx, 0x1111_1111)?;
        a.hlt()
    });
    assert_eq!((reg(&m, Gpr::Rbx), reg(&m, Gpr::Rcx)), (0, 0x1111_1111));
}

#[test]
fn a_store_over_the_instruction_that_hides_its_flags() {
    // "add ecx, ecx" (01 C9) behind becomes "hlt; leave" (F4 C9), so that the flags are those of ADC, SBB.
    for (adds, value) in [(true, 0xf2), (false, 0xff0c)] {
        let m = all(|a| {
            let mut next = a.create_label();
            a.mov(ecx, 1)?;
            a.mov(eax, value)?;
            a.stc()?;
            if adds {
                a.adc(word_ptr(next), ax)?;
            } else {
                a.sbb(word_ptr(next), ax)?;
            }
            a.set_label(&mut next)?;
            a.add(ecx, ecx)?;
            a.hlt()
        });
        assert_eq!(reg(&m, Gpr::Rcx), 1);
        assert_ne!(m.v.rflags() & x86::flags::SF, 0);
    }
}

#[test]
fn a_block_that_did_not_look_at_flags_and_does_now() {
    // The target replaces all flags; then it is patched to SETC DL, RET. Whoever jumps there has the flags nowhere.
    let m = all(|a| {
        let (mut top, mut call, mut f) = (a.create_label(), a.create_label(), a.create_label());
        let mut start = a.create_label();
        a.jmp(start)?;
        a.set_label(&mut f)?;
        a.xor(edx, edx)?;
        a.nop()?;
        a.jmp(call)?;
        a.set_label(&mut start)?;
        a.lea(rsi, qword_ptr(f))?;
        a.mov(ecx, 40)?;
        a.set_label(&mut top)?;
        a.cmp(ecx, 30)?;
        a.jmp(f)?;
        a.set_label(&mut call)?;
        rounds(a, top, |a| {
            // setb dl is 0F 92 C2.
            a.mov(word_ptr(rsi), 0x920f)?;
            a.mov(byte_ptr(rsi + 2), 0xc2)
        })
    });
    // Twenty rounds of zero, then twenty in which ECX is below 30.
    assert_eq!(reg(&m, Gpr::Rbx), 20);
}

#[test]
fn a_function_that_is_rewritten_between_calls() {
    let m = all(|a| {
        let mut top = a.create_label();
        a.mov(rsi, START + 0x1000)?;
        a.mov(byte_ptr(rsi), 0xb8)?; // mov eax, imm32; ret
        a.mov(byte_ptr(rsi + 5), 0xc3)?;
        a.mov(ecx, 300)?;
        a.xor(ebx, ebx)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(rsi + 1), ecx)?;
        a.call(rsi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rbx), 300 * 301 / 2);
}

#[test]
fn an_unaligned_address_that_is_not_canonical() {
    // Through RBP: #SS, but #GP where the alignment is wrong.
    for (address, wanted) in [(1_u64 << 63 | 1, 13), (1 << 63, 12)] {
        let m = all(|a| {
            a.mov(rbp, address)?;
            a.movaps(xmm1, xmmword_ptr(rbp))?;
            a.hlt()
        });
        assert_eq!(vector(&m), wanted, "{address:#x}");
    }
}

#[test]
fn a_return_to_nowhere_leaves_the_stack_pointer() {
    let m = all(|a| {
        a.mov(rax, 1_u64 << 63)?;
        a.push(rax)?;
        a.cmp(eax, 1)?;
        a.ret()
    });
    assert_eq!(vector(&m), 13);
}

#[test]
fn what_empty_caches_name_is_no_place() {
    // What they once held.
    let nowhere = 0x6a5b_dead_0000_0000_u64;
    let m = all(|a| {
        a.mov(rsi, nowhere)?;
        a.mov(rax, qword_ptr(rsi + 8))?;
        a.hlt()
    });
    assert_eq!(vector(&m), 13);
    for (address, rip) in [(nowhere, HANDLER + 14), (0, 1), (1, 2)] {
        let m = all(|a| {
            a.xor(edi, edi)?;
            a.mov(dword_ptr(rdi), 0xf4f4_i32)?; // HLT
            a.mov(rax, address)?;
            a.push(rax)?;
            a.ret()
        });
        assert_eq!(m.v.st.rip, rip, "{address:#x}");
    }
}

/// The end of a loop: RDX is summed up, and code changed where 20 rounds in ECX are left.
fn rounds(
    a: &mut CodeAssembler,
    top: CodeLabel,
    change: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut keep = a.create_label();
    a.add(rbx, rdx)?;
    a.dec(ecx)?;
    a.cmp(ecx, 20)?;
    a.jne(keep)?;
    change(a)?;
    a.set_label(&mut keep)?;
    a.test(ecx, ecx)?;
    a.jne(top)?;
    a.hlt()
}

#[test]
fn a_page_that_comes_to_look_at_flags() {
    // At 1 GiB a page of code, later another, which goes on in the next page. The first replaces all flags: whoever jumps
    // there need not save them.
    const FAR: u64 = 1 << 30;
    const PDPT: u64 = TABLES + 0x1000;
    const DIRECTORY: u64 = TABLES + 0x20_0000;
    const PAGES: u64 = DIRECTORY + 0x1000;
    const FIRST: u64 = PAGES + 0x1000;
    const SECOND: u64 = FIRST + 0x1000;
    const NEXT: u64 = SECOND + 0x1000;
    let m = all(|a| {
        let (mut top, mut back) = (a.create_label(), a.create_label());
        for (place, value) in [
            (PDPT + 8, DIRECTORY | 7),
            (DIRECTORY, PAGES | 7),
            (PAGES, FIRST | 7),
            (PAGES + 8, NEXT | 7),
            // xor edx, edx; jmp to the next page.
            (FIRST, 0x0000_000f_f9e9_d231),
            // setb dl; jmp to the next page.
            (SECOND, 0x0000_0ff8_e9c2_920f),
            // jmp rbp.
            (NEXT, 0xe5ff),
        ] {
            a.mov(rax, value)?;
            a.mov(rdi, place)?;
            a.mov(qword_ptr(rdi), rax)?;
        }
        a.lea(rbp, qword_ptr(back))?;
        a.mov(ecx, 40)?;
        a.set_label(&mut top)?;
        a.cmp(ecx, 30)?;
        a.jmp(FAR)?;
        a.set_label(&mut back)?;
        rounds(a, top, |a| {
            a.mov(rdi, PAGES)?;
            a.mov(rax, SECOND | 7)?;
            a.mov(qword_ptr(rdi), rax)?;
            a.mov(rdi, FAR)?;
            a.invlpg(byte_ptr(rdi))
        })
    });
    // Twenty rounds of zero, then twenty in which ECX is below 30.
    assert_eq!(reg(&m, Gpr::Rbx), 20);
}

#[test]
fn a_prefetch_of_anything_changes_nothing() {
    for cpl in [0, 3] {
        all_at(cpl, |a| {
            let (mut top, mut less) = (a.create_label(), a.create_label());
            a.mov(rbp, DATA)?;
            a.mov(rsi, MMIO)?;
            a.mov(rdi, 0x7fff_1234_5000_u64)?;
            a.mov(rbx, 1_u64 << 63)?;
            a.xor(eax, eax)?;
            a.mov(ecx, 400)?;
            a.set_label(&mut top)?;
            a.add(rax, qword_ptr(rbp + rcx * 8))?;
            a.prefetcht0(byte_ptr(rbp + rcx * 8 + 64))?;
            a.mov(qword_ptr(rbp + rcx * 8), rax)?;
            a.cmp(rax, rcx)?;
            a.prefetchw(byte_ptr(rbp + rcx * 8))?;
            a.prefetchnta(byte_ptr(rsi + rcx))?;
            a.prefetcht1(byte_ptr(rdi))?;
            a.prefetcht2(byte_ptr(rbx + rcx * 8))?;
            a.prefetchw(byte_ptr(START))?;
            a.prefetcht0(byte_ptr(rbp + rcx * 8).fs())?;
            a.jb(less)?;
            a.rol(rax, 7)?;
            a.set_label(&mut less)?;
            a.adc(rax, rsi)?;
            a.dec(ecx)?;
            a.prefetcht0(byte_ptr(rbp - 64))?;
            a.jnz(top)?;
            a.hlt()
        });
    }
}

#[test]
fn rounding_and_sticky_flags_are_the_guests() {
    let m = all(|a| {
        a.mov(rbp, DATA)?;
        a.mov(r14, MMIO)?;
        // Round up, all masked.
        a.mov(dword_ptr(rbp), 0x5f80)?;
        a.ldmxcsr(dword_ptr(rbp))?;
        a.mov(eax, 1)?;
        a.cvtsi2sd(xmm0, eax)?;
        a.mov(eax, 3)?;
        a.cvtsi2sd(xmm1, eax)?;
        a.mov(ecx, dword_ptr(r14))?;
        a.mov(dword_ptr(r14), ecx)?;
        a.divsd(xmm0, xmm1)?;
        a.stmxcsr(dword_ptr(rbp + 4))?;
        a.movq(rbx, xmm0)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rbx), 0x3fd5_5555_5555_5556);
    assert_eq!(m.read(DATA + 4, 4), 0x5fa0);
}

#[test]
fn a_cache_that_is_full_gives_up_what_is_oldest() {
    // 600 blocks, twice: more than the smallest cache holds.
    let m = all(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 2)?;
        a.set_label(&mut top)?;
        for n in 0..600 {
            let mut next = a.create_label();
            a.add(eax, n)?;
            a.cmp(eax, 1000 * n)?;
            a.jb(next)?;
            a.xor(ebx, eax)?;
            a.set_label(&mut next)?;
        }
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(reg(&m, Gpr::Rax), 2 * 600 * 599 / 2);
}
