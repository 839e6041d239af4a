//! What no SSE instruction shows of the soft floats: fused multiply-add, half precision, unsigned integers. Compared with
//! the host's FMA, F16C and AVX-512 instructions, all exceptions masked.
use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, dword_ptr, ptr, qword_ptr, rax, rdi, xmm0, xmm1, xmm2};
use portable::float::flags::DE;
use portable::float::{Env, F16, F32, F64, Float, IntKind, Out, Rounding, convert, fma, to_int};

use crate::host::{Differences, Random, Stub, rounds};

#[repr(C, align(64))]
#[derive(Default)]
struct Frame {
    xmm: [[u64; 2]; 3],
    rax: u64,
    mxcsr: u32,
    default_mxcsr: u32,
}

const RAX: i64 = 48;
const MXCSR: i64 = 56;
const DEFAULT_MXCSR: i64 = 60;

/// A stub around one instruction on XMM0 to XMM2 and RAX.
fn stub(body: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Stub {
    let assemble = || -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.movups(xmm0, ptr(rdi))?;
        a.movups(xmm1, ptr(rdi + 16))?;
        a.movups(xmm2, ptr(rdi + 32))?;
        a.ldmxcsr(dword_ptr(rdi + MXCSR))?;
        body(&mut a)?;
        a.stmxcsr(dword_ptr(rdi + MXCSR))?;
        a.ldmxcsr(dword_ptr(rdi + DEFAULT_MXCSR))?;
        a.movups(ptr(rdi), xmm0)?;
        a.mov(qword_ptr(rdi + RAX), rax)?;
        a.ret()?;
        a.assemble(0)
    };
    Stub::new(&assemble().unwrap())
}

/// Runs the stub on low quadwords; gives XMM0's low quadword, RAX and the flags.
fn run(stub: &Stub, mxcsr: u32, operands: [u64; 3]) -> (u64, u64, u8) {
    let mut frame = Frame {
        mxcsr,
        default_mxcsr: 0x1F80,
        ..Frame::default()
    };
    frame.xmm = operands.map(|low| [low, 0]);
    stub.call(&mut frame);
    (frame.xmm[0][0], frame.rax, frame.mxcsr as u8 & 0x3F)
}

fn mxcsr(r: &mut Random) -> u32 {
    let bit = |r: &mut Random, n: u32| if r.one_in(4) { 1 << n } else { 0 };
    0x1F80 | (r.below(4) as u32) << 13 | bit(r, 6) | bit(r, 15)
}

/// Three operands of which the third is often near the product.
fn triple<F: Float>(r: &mut Random, next: impl Fn(&mut Random) -> F) -> [F; 3] {
    let (a, b, c) = (next(r), next(r), next(r));
    if r.one_in(2) {
        return [a, b, c];
    }
    let env = Env::from_mxcsr(0x1F80);
    let product: F = portable::float::mul(&env, a.unpack(), b.unpack().negated()).value;
    [a, b, product]
}

#[test]
fn fused_multiply_add() {
    if !is_x86_feature_detected!("fma") {
        eprintln!("skipped: the host has no FMA");
        return;
    }
    // The 213 form multiplies its second operand by its first: a NaN in the second comes out before one in the first.
    let single = stub(|a| a.vfmadd213ss(xmm0, xmm1, xmm2));
    let double = stub(|a| a.vfmadd213sd(xmm0, xmm1, xmm2));
    let mut r = Random::new(1);
    let mut found = Differences::default();
    for _ in 0..rounds(500_000) {
        let csr = mxcsr(&mut r);
        let env = Env::from_mxcsr(csr);
        let load = |v: [F32; 3]| v.map(|x| env.load(x));
        let v = triple(&mut r, |r| F32(r.f32()));
        let [a, b, c] = load(v);
        let ours: Out<F32> = fma(&env, b, a, c);
        let (low, _, flags) = run(&single, csr, v.map(|x| x.0.into()));
        if (u64::from(ours.value.0), ours.flags) != (low, flags) {
            found.add(|| format!("{csr:04x} {v:08x?} host {low:08x} {flags:02x} ours {ours:x?}"));
        }
        let v = triple(&mut r, |r| F64(r.f64()));
        let [a, b, c] = v.map(|x| env.load(x));
        let ours: Out<F64> = fma(&env, b, a, c);
        let (low, _, flags) = run(&double, csr, v.map(|x| x.0));
        if (ours.value.0, ours.flags) != (low, flags) {
            found.add(|| format!("{csr:04x} {v:016x?} host {low:016x} {flags:02x} ours {ours:x?}"));
        }
    }
    Differences::report(vec![("fma".into(), found)]);
}

#[test]
fn half_precision() {
    if !is_x86_feature_detected!("f16c") {
        eprintln!("skipped: the host has no F16C");
        return;
    }
    let widen = stub(|a| a.vcvtph2ps(xmm0, xmm0));
    // Bit 2 of the immediate: round by MXCSR.
    let narrow = stub(|a| a.vcvtps2ph(xmm0, xmm0, 4));
    let mut r = Random::new(2);
    let mut found = Differences::default();
    for bits in 0..=u16::MAX {
        // Halves know neither DAZ nor DE.
        let ours: Out<F32> = convert(&Env::from_mxcsr(0x1F80), F16(bits).unpack());
        let (low, _, flags) = run(&widen, 0x1F80, [bits.into(), 0, 0]);
        if (ours.value.0, ours.flags & !DE) != (low as u32, flags) {
            found.add(|| format!("{bits:04x} host {low:08x} {flags:02x} ours {ours:x?}"));
        }
    }
    for _ in 0..rounds(500_000) {
        let csr = mxcsr(&mut r);
        let mut bits = r.f32();
        if r.one_in(2) {
            // Exponents around those that a half has.
            bits = bits & 0x807F_FFFF | (r.below(48) as u32 + 100) << 23;
        }
        // FTZ doesn't apply to a half.
        let env = Env {
            ftz: false,
            ..Env::from_mxcsr(csr)
        };
        let ours: Out<F16> = convert(&env, env.load(F32(bits)));
        let (low, _, flags) = run(&narrow, csr, [bits.into(), 0, 0]);
        if (ours.value.0, ours.flags) != (low as u16, flags) {
            found.add(|| format!("{csr:04x} {bits:08x} host {low:04x} {flags:02x} ours {ours:x?}"));
        }
    }
    Differences::report(vec![("half precision".into(), found)]);
}

#[test]
fn unsigned_integers() {
    if !is_x86_feature_detected!("avx512f") {
        eprintln!("skipped: the host has no AVX-512");
        return;
    }
    use iced_x86::code_asm::eax;
    let to32 = stub(|a| a.vcvtsd2usi(eax, xmm0));
    let to64 = stub(|a| a.vcvttsd2usi(rax, xmm0));
    let mut r = Random::new(3);
    let mut found = Differences::default();
    for _ in 0..rounds(500_000) {
        let csr = mxcsr(&mut r);
        let env = Env::from_mxcsr(csr);
        let v = F64(r.f64());
        let a = env.load(v);
        for (stub, kind, rounding) in [
            (&to32, IntKind::U32, env.rounding),
            (&to64, IntKind::U64, Rounding::Zero),
        ] {
            let ours = to_int(&a, rounding, kind);
            let (_, result, flags) = run(stub, csr, [v.0, 0, 0]);
            if (ours.value, ours.flags) != (result, flags) {
                found.add(|| {
                    format!("{csr:04x} {v:x?} {kind:?} host {result:x} {flags:02x} ours {ours:x?}")
                });
            }
        }
    }
    Differences::report(vec![("unsigned".into(), found)]);
}
