//! Every vector instruction against the host CPU: registers, memory, flags and MXCSR, with exceptions unmasked too.
use iced_x86::{Code, CpuidFeature, Instruction, OpCodeOperandKind as K, Register};
use portable::vector::{Fault, VecOperands, covers, execute};

use crate::host::{
    Differences, Random, Resume, Stub, catch_float_exceptions, encode, instruction, rounds,
};

/// What a stub reads and writes; R11 points here, RDI at `mem`.
#[repr(C, align(64))]
#[derive(Clone)]
struct Frame {
    resume: Resume,
    mem: [u8; 32],
    vec: [[u8; 32]; 5],
    mm: [u64; 4],
    rax: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    flags: u64,
    mxcsr: u32,
    default_mxcsr: u32,
}

const MEM: i64 = 32;
const VEC: i64 = 64;
const MM: i64 = 224;
const RAX: i64 = 256;
const RCX: i64 = 264;
const RDX: i64 = 272;
const RSI: i64 = 280;
const FLAGS: i64 = 288;
const MXCSR: i64 = 296;
const DEFAULT_MXCSR: i64 = 300;

/// CF PF AF ZF SF OF.
const STATUS_FLAGS: u64 = 0x8D5;

/// Registers by operand: vectors 1 to 3, RCX as destination, RSI as source.
fn register(i: usize, kind: K) -> Register {
    match kind {
        K::xmm_reg | K::xmm_rm | K::xmm_or_mem | K::xmm_vvvv | K::xmm_is4 => {
            Register::XMM1 + i as u32
        }
        K::ymm_reg | K::ymm_rm | K::ymm_or_mem | K::ymm_vvvv | K::ymm_is4 => {
            Register::YMM1 + i as u32
        }
        K::mm_reg | K::mm_rm | K::mm_or_mem => Register::MM1 + i as u32,
        K::r8_or_mem => Register::SIL,
        K::r16_or_mem => Register::SI,
        K::r32_reg | K::r32_rm | K::r32_or_mem if i == 0 => Register::ECX,
        K::r64_reg | K::r64_rm | K::r64_or_mem if i == 0 => Register::RCX,
        K::r32_reg | K::r32_rm | K::r32_or_mem => Register::ESI,
        K::r64_reg | K::r64_rm | K::r64_or_mem => Register::RSI,
        other => panic!("operand kind {other:?}"),
    }
}

fn is_mask(kind: K) -> bool {
    matches!(kind, K::k_reg | K::k_rm | K::k_vvvv | K::k_or_mem)
}

struct Case {
    stub: Stub,
    resume: u64,
    insn: Instruction,
}

fn case(code: Code, mem: bool, imm: u8) -> Case {
    use iced_x86::code_asm::{
        CodeAssembler, dword_ptr, mm1, mm2, mm3, ptr, qword_ptr, r11, rax, rcx, rdi, rdx, rsi,
    };
    use iced_x86::code_asm::{xmm0, xmm1, xmm2, xmm3, xmm4, ymm0, ymm1, ymm2, ymm3, ymm4};
    let avx = is_x86_feature_detected!("avx");
    let (xmms, ymms) = (
        [xmm0, xmm1, xmm2, xmm3, xmm4],
        [ymm0, ymm1, ymm2, ymm3, ymm4],
    );
    let insn = instruction(code, mem.then_some(0), imm, register).unwrap();
    let head = || -> Result<Vec<u8>, iced_x86::IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.mov(r11, rdi)?;
        a.lea(rdi, qword_ptr(r11 + MEM))?;
        for i in 0..5 {
            let at = ptr(r11 + (VEC + 32 * i as i64));
            if avx {
                a.vmovups(ymms[i], at)?;
            } else {
                a.movups(xmms[i], at)?;
            }
        }
        for (i, mm) in [mm1, mm2, mm3].into_iter().enumerate() {
            a.movq(mm, qword_ptr(r11 + (MM + 8 + 8 * i as i64)))?;
        }
        a.mov(rax, qword_ptr(r11 + RAX))?;
        a.mov(rcx, qword_ptr(r11 + RCX))?;
        a.mov(rdx, qword_ptr(r11 + RDX))?;
        a.mov(rsi, qword_ptr(r11 + RSI))?;
        a.push(qword_ptr(r11 + FLAGS))?;
        a.popfq()?;
        a.ldmxcsr(dword_ptr(r11 + MXCSR))?;
        a.assemble(0)
    };
    let tail = || -> Result<Vec<u8>, iced_x86::IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.stmxcsr(dword_ptr(r11 + MXCSR))?;
        a.ldmxcsr(dword_ptr(r11 + DEFAULT_MXCSR))?;
        a.mov(qword_ptr(r11 + RCX), rcx)?;
        a.pushfq()?;
        a.pop(rcx)?;
        a.mov(qword_ptr(r11 + FLAGS), rcx)?;
        for i in 0..5 {
            let at = ptr(r11 + (VEC + 32 * i as i64));
            if avx {
                a.vmovups(at, ymms[i])?;
            } else {
                a.movups(at, xmms[i])?;
            }
        }
        if avx {
            a.vzeroupper()?;
        }
        for (i, mm) in [mm1, mm2, mm3].into_iter().enumerate() {
            a.movq(qword_ptr(r11 + (MM + 8 + 8 * i as i64)), mm)?;
        }
        a.emms()?;
        a.ret()?;
        a.assemble(0)
    };
    let mut bytes = head().unwrap();
    encode(&mut bytes, &insn);
    let at = bytes.len() as u64;
    bytes.extend(tail().unwrap());
    let stub = Stub::new(&bytes);
    let resume = stub.address() + at;
    Case { stub, resume, insn }
}

fn mxcsr(r: &mut Random) -> u32 {
    let masks = match r.below(4) {
        0 => r.next() as u32 & 0x3F,
        1 => 0x3F & !(1 << r.below(6)),
        _ => 0x3F,
    };
    let bit = |r: &mut Random, n: u32| if r.one_in(4) { 1 << n } else { 0 };
    let flags = if r.one_in(2) {
        0
    } else {
        r.next() as u32 & 0x3F
    };
    masks << 7 | (r.below(4) as u32) << 13 | bit(r, 6) | bit(r, 15) | flags
}

/// A vector of singles, doubles, small bytes or anything.
fn vector(r: &mut Random, kind: u64) -> [u8; 32] {
    let mut v = [0; 32];
    match kind {
        0..=2 => v
            .chunks_mut(4)
            .for_each(|c| c.copy_from_slice(&r.f32().to_le_bytes())),
        3..=5 => v
            .chunks_mut(8)
            .for_each(|c| c.copy_from_slice(&r.f64().to_le_bytes())),
        6 => v.fill_with(|| r.below(4) as u8),
        7 => v
            .chunks_mut(8)
            .for_each(|c| c.copy_from_slice(&r.below(80).to_le_bytes())),
        // Half floats: few bits, so that each class comes often.
        9 => v.chunks_mut(2).for_each(|c| {
            let half = r.below(2) << 15 | r.exponent(0x1F) << 10 | r.fraction(10);
            c.copy_from_slice(&(half as u16).to_le_bytes());
        }),
        8 => v.chunks_mut(2).for_each(|c| {
            let word = [0u16, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7F, 0x80, 0xFF][r.below(8) as usize];
            c.copy_from_slice(&word.to_le_bytes());
        }),
        _ => v.fill_with(|| r.next() as u8),
    }
    v
}

/// Operands of the same kind; lanes are often close to each other in exponent, or equal.
fn vectors(r: &mut Random, kind: u64) -> [[u8; 32]; 6] {
    let mut all: [[u8; 32]; 6] = std::array::from_fn(|_| vector(r, kind));
    if r.one_in(3) {
        // Sign, exponent and the first fraction bits of another lane.
        let size = if kind <= 2 { 4 } else { 8 };
        for i in (0..32).step_by(size) {
            let (from, to) = (r.below(6) as usize, r.below(6) as usize);
            let whole = r.one_in(3);
            for k in (0..size).filter(|&k| whole || k >= size / 2) {
                all[to][i + k] = all[from][i + k];
            }
            all[to][i + size - 1] ^= (r.below(2) << 7) as u8;
        }
    }
    all
}

fn length(r: &mut Random) -> u64 {
    match r.below(4) {
        0 => r.next(),
        1 => (r.below(40) as i64 - 20) as u64,
        2 => u64::from((r.below(40) as i32 - 20) as u32),
        _ => r.below(17) | r.next() << 32,
    }
}

fn approximate(code: Code) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Rcpps
            | M::Rcpss
            | M::Rsqrtps
            | M::Rsqrtss
            | M::Vrcpps
            | M::Vrcpss
            | M::Vrsqrtps
            | M::Vrsqrtss
    )
}

/// Whether two approximations can both be within 1.5 * 2^-12; around the smallest normal number one may flush.
fn close(a: [u8; 32], b: [u8; 32]) -> bool {
    let lane = |v: [u8; 32], i: usize| f32::from_le_bytes(v[4 * i..4 * i + 4].try_into().unwrap());
    (0..8).all(|i| {
        let (x, y) = (lane(a, i), lane(b, i));
        let (wide_x, wide_y) = (f64::from(x), f64::from(y));
        x.to_bits() == y.to_bits()
            || (wide_x - wide_y).abs() <= wide_x.abs() * 3.0 / 4096.0
            || x.abs() <= 1.2e-38
                && y.abs() <= 1.2e-38
                && x.is_sign_negative() == y.is_sign_negative()
    })
}

/// The operands that the library gets for a frame.
fn operands(case: &Case, mem: bool, frame: &Frame) -> VecOperands {
    let info = case.insn.op_code();
    let wide = |bytes: &[u8; 32]| {
        let mut v = [0; 64];
        v[..32].copy_from_slice(bytes);
        v
    };
    let mm = |n: usize| {
        let mut v = [0; 64];
        v[..8].copy_from_slice(&frame.mm[n].to_le_bytes());
        v
    };
    let mut ops = VecOperands {
        xmm0: wide(&frame.vec[0]),
        src_is_mem: mem,
        gpr_out: frame.rcx,
        rax: frame.rax,
        rdx: frame.rdx,
        imm: case.insn.immediate8(),
        ..VecOperands::default()
    };
    let memory = wide(&frame.mem);
    for (i, &kind) in info.op_kinds().iter().enumerate() {
        let value = match kind {
            K::seg_rDI => memory,
            K::mem | K::xmm_or_mem | K::ymm_or_mem | K::mm_or_mem if mem => memory,
            K::xmm_reg | K::xmm_rm | K::xmm_or_mem | K::xmm_vvvv | K::xmm_is4 => {
                wide(&frame.vec[1 + i])
            }
            K::ymm_reg | K::ymm_rm | K::ymm_or_mem | K::ymm_vvvv | K::ymm_is4 => {
                wide(&frame.vec[1 + i])
            }
            K::mm_reg | K::mm_rm | K::mm_or_mem => mm(1 + i),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem if mem => {
                ops.gpr_in = u64::from_le_bytes(memory[..8].try_into().unwrap());
                continue;
            }
            K::imm8 => continue,
            _ => {
                if i > 0 {
                    ops.gpr_in = frame.rsi;
                }
                continue;
            }
        };
        match i {
            0 => ops.dst = value,
            1 => ops.src1 = value,
            2 => ops.src2 = value,
            _ => ops.src3 = value,
        }
    }
    ops
}

/// Puts the library's results where the instruction has its operands.
fn commit(case: &Case, mem: bool, frame: &mut Frame, ops: &VecOperands) {
    let code = case.insn.code();
    let size = case.insn.memory_size().size();
    if let Some(flags) = ops.flags_out {
        frame.flags = frame.flags & !STATUS_FLAGS | u64::from(flags);
    }
    match case.insn.op_code().op_kind(0) {
        K::seg_rDI => {
            for i in (0..16).filter(|i| ops.gpr_out >> i & 1 != 0) {
                frame.mem[i] = ops.dst[i];
            }
        }
        K::mem | K::xmm_or_mem | K::ymm_or_mem | K::mm_or_mem
            if mem && case.insn.op_kind(0) == iced_x86::OpKind::Memory =>
        {
            frame.mem[..size].copy_from_slice(&ops.dst[..size])
        }
        K::r32_or_mem | K::r64_or_mem if mem => {
            frame.mem[..size].copy_from_slice(&ops.gpr_out.to_le_bytes()[..size]);
        }
        K::xmm_reg
        | K::xmm_rm
        | K::xmm_or_mem
        | K::ymm_reg
        | K::ymm_rm
        | K::ymm_or_mem
        | K::xmm_vvvv
        | K::ymm_vvvv => {
            assert_eq!(ops.dst[32..], [0; 32], "nothing comes from nowhere");
            frame.vec[1].copy_from_slice(&ops.dst[..32]);
        }
        K::mm_reg | K::mm_rm | K::mm_or_mem => {
            frame.mm[1] = u64::from_le_bytes(ops.dst[..8].try_into().unwrap());
        }
        _ => frame.rcx = ops.gpr_out,
    }
    let name = format!("{:?}", code.mnemonic());
    if name.contains("cmpestri") || name.contains("cmpistri") {
        frame.rcx = ops.gpr_out;
    } else if name.contains("cmpestrm") || name.contains("cmpistrm") {
        frame.vec[0].copy_from_slice(&ops.xmm0[..32]);
    }
}

fn show(f: &Frame) -> String {
    let hex = |v: [u8; 32]| {
        v.iter()
            .rev()
            .fold(String::new(), |s, b| s + &format!("{b:02x}"))
    };
    let memory = hex(f.mem);
    format!(
        "vec={} {} {} {} {} mm={:016x} {:016x} mem={memory} rax={:x} rcx={:x} rdx={:x} rsi={:x} fl={:x} mxcsr={:04x} {}",
        hex(f.vec[0]),
        hex(f.vec[1]),
        hex(f.vec[2]),
        hex(f.vec[3]),
        hex(f.vec[4]),
        f.mm[1],
        f.mm[2],
        f.rax,
        f.rcx,
        f.rdx,
        f.rsi,
        f.flags & STATUS_FLAGS,
        f.mxcsr,
        if f.resume.taken != 0 { "#XM" } else { "" },
    )
}

fn differences(ours: &Frame, host: &Frame) -> bool {
    ours.vec != host.vec
        || ours.mm != host.mm
        || ours.mem != host.mem
        || ours.rcx != host.rcx
        || ours.mxcsr != host.mxcsr
        || ours.resume.taken != host.resume.taken
        || (ours.flags ^ host.flags) & STATUS_FLAGS != 0
}

fn compare(code: Code, count: u64) -> Differences {
    let mut r = Random::new(code as u64);
    let mut found = Differences::default();
    let info = code.op_code();
    let kinds = info.op_kinds();
    let only_memory = kinds.contains(&K::mem);
    let either = kinds.iter().any(|kind| {
        matches!(
            kind,
            K::xmm_or_mem
                | K::ymm_or_mem
                | K::mm_or_mem
                | K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
        )
    });
    let forms: &[bool] = match () {
        () if only_memory => &[true],
        () if either => &[false, true],
        () => &[false],
    };
    let immediates: Vec<u8> = if kinds.contains(&K::imm8) {
        (0..=255).collect()
    } else {
        vec![0]
    };
    for &mem in forms {
        for &imm in &immediates {
            let case = case(code, mem, imm);
            let share = count.div_ceil(immediates.len() as u64 * forms.len() as u64);
            for _ in 0..share {
                let kind = r.below(12);
                let v = vectors(&mut r, kind);
                let gpr = |r: &mut Random| (r.next() as i64 >> r.below(64)) as u64;
                let before = Frame {
                    resume: Resume::new(case.resume),
                    mem: v[5],
                    vec: [v[0], v[1], v[2], v[3], v[4]],
                    mm: [0, 8, 0, 8].map(|at| {
                        let source = v[if at == 0 { 1 } else { 2 }];
                        u64::from_le_bytes(source[at..at + 8].try_into().unwrap())
                    }),
                    rax: length(&mut r),
                    rcx: r.next(),
                    rdx: length(&mut r),
                    rsi: gpr(&mut r),
                    flags: r.next() & STATUS_FLAGS | 2,
                    mxcsr: mxcsr(&mut r),
                    default_mxcsr: 0x1F80,
                };
                let mut host = before.clone();
                case.stub.call(&mut host);
                let mut ours = before.clone();
                let mut ops = operands(&case, mem, &before);
                match execute(code, &mut ops, &mut ours.mxcsr) {
                    Ok(()) => commit(&case, mem, &mut ours, &ops),
                    Err(Fault::Exception { .. }) => ours.resume.taken = 1,
                    Err(Fault::Unknown) => panic!("{code:?} isn't covered"),
                }
                if approximate(code) && close(ours.vec[1], host.vec[1]) {
                    ours.vec[1] = host.vec[1];
                }
                if differences(&ours, &host) {
                    found.add(|| {
                        format!(
                            "mem={mem} imm={imm:02x}\n      in   {}\n      host {}\n      ours {}",
                            show(&before),
                            show(&host),
                            show(&ours)
                        )
                    });
                }
            }
        }
    }
    found
}

/// Whether the host has all that the instruction needs.
fn host_has(code: Code) -> bool {
    code.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::SSE3 => is_x86_feature_detected!("sse3"),
        CpuidFeature::SSSE3 => is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        CpuidFeature::AES => is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::SHA => is_x86_feature_detected!("sha"),
        CpuidFeature::GFNI => is_x86_feature_detected!("gfni"),
        CpuidFeature::AVX => is_x86_feature_detected!("avx"),
        CpuidFeature::AVX2 => is_x86_feature_detected!("avx2"),
        CpuidFeature::FMA => is_x86_feature_detected!("fma"),
        CpuidFeature::F16C => is_x86_feature_detected!("f16c"),
        CpuidFeature::VAES => is_x86_feature_detected!("vaes"),
        CpuidFeature::VPCLMULQDQ => is_x86_feature_detected!("vpclmulqdq"),
        _ => true,
    })
}

#[test]
fn all_instructions() {
    catch_float_exceptions();
    let only = std::env::var("DOPPEL_TEST_ONLY").ok();
    let all: Vec<_> = Code::values()
        // The oracle compares what AVX-512 has: there is a generator for it.
        .filter(|&code| covers(code) && !code.op_code().op_kinds().iter().any(|k| is_mask(*k)))
        .filter(|code| {
            only.as_ref()
                .is_none_or(|only| format!("{code:?}").starts_with(only.as_str()))
        })
        .collect();
    let skipped: Vec<_> = all.iter().filter(|&&code| !host_has(code)).collect();
    if !skipped.is_empty() {
        eprintln!("the host lacks {skipped:?}");
    }
    let results = all
        .into_iter()
        .filter(|&code| host_has(code))
        .map(|code| (format!("{code:?}"), compare(code, rounds(10_000))))
        .collect();
    Differences::report(results);
}
