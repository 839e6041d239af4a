//! AVX-512 in blocks of many instructions: random ones, with masks over pages that are missing, must end as they do in the
//! interpreter, whatever of it is in the host's registers, or no longer is.
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::CpuModel;
use system::testing::Machine;
use x86::{PhysAddr, cr4, xcr0};

use crate::loops::{FRAMES, PAGES, Random, WINDOW, map};
use crate::support::{WAYS, machine, run};

/// A program: instructions in a loop, three times.
fn program(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let mut top = a.create_label();
    for (n, k) in [k1, k2, k3, k4, k5, k6, k7].into_iter().enumerate() {
        let mask = match random.below(4) {
            0 => u64::MAX >> random.below(64),
            1 => 1 << random.below(64),
            _ => random.next() & random.next(),
        };
        a.mov(rax, mask)?;
        a.kmovq(k, rax)?;
        a.vpbroadcastq(zmm(n as u64 + 1), rax)?;
        a.vpbroadcastq(zmm(n as u64 + 16), rax)?;
    }
    a.mov(rcx, 3_u64)?;
    for base in [rbx, rsi, rdi, r9, r14] {
        let page = WINDOW + random.below(PAGES) * 0x1000;
        // Often near the end of a page.
        let at = match random.below(3) {
            0 => 0x1000 - random.below(70),
            1 => 0xf80,
            _ => random.below(0x1000),
        };
        a.mov(base, page + at)?;
    }
    a.set_label(&mut top)?;
    for _ in 0..3 + random.below(20) {
        instruction(a, random)?;
    }
    a.dec(rcx)?;
    a.jne(top)?;
    a.hlt()
}

fn zmm(n: u64) -> AsmRegisterZmm {
    let register = iced_x86::Register::ZMM0 + n as u32;
    get_zmm(register).expect("there are 32")
}

fn ymm(n: u64) -> AsmRegisterYmm {
    let register = iced_x86::Register::YMM0 + n as u32;
    get_ymm(register).expect("there are 32")
}

fn xmm(n: u64) -> AsmRegisterXmm {
    let register = iced_x86::Register::XMM0 + n as u32;
    get_xmm(register).expect("there are 32")
}

fn instruction(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    // Mostly registers that are always there.
    let top = random.pick(&[16, 16, 32]);
    let (n, m, l) = (random.below(top), random.below(top), random.below(top));
    let (d, s, t) = (zmm(n), zmm(m), zmm(l));
    let (k, other) = (
        random.pick(&[k1, k2, k3, k4, k5, k6, k7]),
        random.pick(&[k0, k1, k2, k7]),
    );
    let base = random.pick(&[rbx, rsi, rdi, r9, r14]);
    let at = base + random.pick(&[0_i32, 64, -64, 32, 1, 200]);
    let low = n & 15;
    match random.below(36) {
        0 => a.vpaddd(d, s, t),
        1 => a.vpaddq(d.k1().z(), s, t),
        2 => a.vpxord(d.k2(), s, zmmword_ptr(at)),
        3 => a.vpaddd(d, s, dword_bcst(at)),
        4 => a.vmovdqu8(d.k3().z(), zmmword_ptr(at)),
        5 => a.vmovdqu8(zmmword_ptr(at).k4(), s),
        6 => a.vmovdqu64(d, zmmword_ptr(at)),
        7 => a.vmovdqu64(zmmword_ptr(at), s),
        8 => a.vmovdqu32(ymm(n), ymmword_ptr(at)),
        9 => a.vmovdqu32(ymmword_ptr(at), ymm(m)),
        10 => a.vpcmpub(k.k5(), s, zmmword_ptr(at), 1),
        11 => a.vpcmpeqb(k, ymm(m), ymm(l)),
        12 => a.kortestq(k, other),
        13 => a.kmovq(rax, k),
        14 => a.kmovd(k, eax),
        15 => a.kmovw(word_ptr(at), k),
        16 => a.kmovq(k, qword_ptr(at)),
        17 => a.vpternlogd(d, s, t, random.below(256) as i32),
        18 => a.vpermi2q(d.k6(), s, t),
        19 => a.vpcompressd(zmmword_ptr(at).k7(), s),
        20 => a.vpexpandd(d.k1().z(), zmmword_ptr(at)),
        21 => a.vaddps(d.k2(), s, t),
        22 => a.vcvtps2ph(ymmword_ptr(at).k3(), s, 0),
        23 => a.vpgatherdd(d.k4(), zmmword_ptr(base + zmm((n + 1) % top) * 1)),
        24 => a.vpscatterdd(zmmword_ptr(base + zmm(l) * 1).k5(), s),
        // AVX clears what lies beyond; SSE doesn't.
        25 => a.vpaddd(ymm(low), ymm(m & 15), ymm(l & 15)),
        26 => a.vmovups(xmm(low), xmmword_ptr(at)),
        27 => a.paddd(xmm(low), xmm(m & 15)),
        28 => a.movups(xmmword_ptr(at), xmm(low)),
        29 => a.vzeroupper(),
        // What the interpreter or a helper does.
        30 => {
            a.push(rcx)?;
            a.xor(ecx, ecx)?;
            a.xgetbv()?;
            a.pop(rcx)
        }
        31 => a.pause(),
        32 => a.vbroadcastf32x4(d.k6().z(), xmmword_ptr(at)),
        33 => a
            .vpcmpistri(xmm(low), xmm(m & 15), 0)
            .and_then(|()| a.mov(ecx, 1)),
        34 => a.add(qword_ptr(at), rax),
        _ => a.setc(byte_ptr(at)),
    }
}

#[test]
fn random_blocks_end_as_in_the_interpreter() {
    let model = CpuModel::parse("max,+avx512bw,+avx512vl,+avx512dq,+avx512vbmi2").expect("a model");
    for seed in 0..200 {
        let mut first: Option<Machine> = None;
        for way in WAYS {
            let mut m = machine(&|a| program(a, &mut Random(seed)));
            m.v.model = std::sync::Arc::new(model.clone());
            map(&mut m, &mut Random(seed ^ 0xaaaa));
            let mut st = m.v.st.clone();
            st.cr4 |= cr4::OSXSAVE;
            st.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
            st.xcr0 |= xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM;
            m.v.load_state(st);
            run(&mut m, way);
            let Some(first) = &first else {
                first = Some(m);
                continue;
            };
            let differs = m.v.st.vec.iter().zip(&first.v.st.vec);
            let registers: Vec<_> = differs.enumerate().filter(|(_, (a, b))| a != b).collect();
            assert!(
                m.v.st == first.v.st,
                "seed {seed}, {way:?} ends otherwise:\n{}\n{}\n{:x?}\n{:x?}\n{registers:x?}",
                m.v.dump(),
                first.v.dump(),
                m.v.st.k,
                first.v.st.k,
            );
            let bytes = |m: &Machine| {
                let mut bytes = vec![0; (PAGES * 0x1000) as usize];
                m.ram.read(PhysAddr(FRAMES), &mut bytes).expect("RAM");
                bytes
            };
            let (a, b) = (bytes(&m), bytes(first));
            let differs = a.iter().zip(&b).position(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {seed}, {way:?}: memory");
        }
    }
}
