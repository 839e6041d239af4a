//! The child's machine code: load a case's registers and go to its instruction; come back from it and store them.

use std::mem::offset_of;

use iced_x86::code_asm::{
    AsmRegister16, AsmRegisterK, AsmRegisterYmm, AsmRegisterZmm, CodeAssembler, ax, ds, dword_ptr,
    eax, es, fs, gs, k0, k1, k2, k3, k4, k5, k6, k7, ptr, qword_ptr, r8, r9, r10, r11, r12, r13,
    r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp, ss, word_ptr, ymm0, ymm1, ymm2, ymm3, ymm4,
    ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15,
};
use iced_x86::{IcedError, code_asm::AsmRegister64, code_asm::AsmRegisterSegment};

use crate::case::{Case, Fx, Uppers, Wide};
use crate::layout::{self, STATE, STUBS, sel};

/// What the harness keeps at [`STATE`]; its stack is below the end of the same page.
#[repr(C)]
pub(super) struct State {
    /// Address of the way back, for 64-bit code: at [`layout::STATE`] itself.
    pub(super) exit: u64,
    pad0: [u64; 7],
    pub(super) fx: Fx,
    pub(super) uppers: Uppers,
    pub(super) wide: Wide,
    pub(super) gpr: [u64; 16],
    pub(super) rflags: u64,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub(super) seg: [u16; 6],
    pad: u32,
    /// The child's own.
    saved_rsp: u64,
    pub(super) own_fs_base: u64,
    pub(super) own_gs_base: u64,
    pub(super) own_mxcsr: u32,
    pad2: u32,
    /// Where to: the address, or offset and selector.
    pub(super) target: u64,
    pub(super) target_cs: u64,
    /// An instruction is running, so that a signal is its fault.
    pub(super) running: u32,
    pub(super) vector: u32,
    pub(super) error: u32,
    pad3: u32,
    pub(super) cr2: u64,
    pub(super) rip: u64,
    pub(super) more_flags: u64,
}

/// Addresses of the stubs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stubs {
    /// fn(&Case): 64-bit code, segment registers as they are.
    pub(super) plain: u64,
    /// fn(&Case): 64-bit code, segment registers loaded.
    pub(super) segments: u64,
    /// fn(&Case): a far jump to 32- or 16-bit code, segment registers loaded.
    pub(super) far: u64,
}

fn state(field: usize) -> u64 {
    STATE + field as u64
}

const GPRS: [AsmRegister64; 16] = [
    rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15,
];
const YMMS: [AsmRegisterYmm; 16] = [
    ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14,
    ymm15,
];
const KS: [AsmRegisterK; 8] = [k0, k1, k2, k3, k4, k5, k6, k7];

/// Whether the host has what [`Wide`] holds, and instructions that move all of it.
fn avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

fn zmm(n: usize) -> AsmRegisterZmm {
    let register = iced_x86::Register::ZMM0 + n as u32;
    iced_x86::code_asm::get_zmm(register).expect("there are 32")
}

const SEGS: [AsmRegisterSegment; 6] = [es, iced_x86::code_asm::cs, ss, ds, fs, gs];
const SELECTOR: AsmRegister16 = ax;

fn entry(segments: bool, bases: bool, far: bool) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    for r in [rbx, rbp, r12, r13, r14, r15] {
        a.push(r)?;
    }
    a.pushfq()?;
    a.mov(qword_ptr(state(offset_of!(State, saved_rsp))), rsp)?;
    a.fxrstor64(ptr(rdi + offset_of!(Case, fx)))?;
    if is_x86_feature_detected!("avx") {
        for (n, ymm) in YMMS.into_iter().enumerate() {
            let upper = ptr(rdi + (offset_of!(Case, uppers) + n * 16));
            a.vinsertf128(ymm, ymm, upper, 1)?;
        }
    }
    if avx512() {
        for n in 0..16 {
            let upper = offset_of!(Case, wide) + offset_of!(Wide, uppers) + n * 32;
            a.vinsertf64x4(zmm(n), zmm(n), ptr(rdi + upper), 1)?;
            let high = offset_of!(Case, wide) + offset_of!(Wide, high) + n * 64;
            a.vmovups(zmm(n + 16), ptr(rdi + high))?;
        }
        for (n, k) in KS.into_iter().enumerate() {
            let at = offset_of!(Case, wide) + offset_of!(Wide, k) + n * 8;
            a.kmovq(k, qword_ptr(rdi + at))?;
        }
    }
    if segments {
        for n in [0, 3, 4, 5, 2] {
            a.mov(SELECTOR, word_ptr(rdi + offset_of!(Case, seg) + n * 2))?;
            a.mov(SEGS[n], eax)?;
        }
    }
    if bases {
        a.mov(rax, qword_ptr(rdi + offset_of!(Case, fs_base)))?;
        a.wrfsbase(rax)?;
        a.mov(rax, qword_ptr(rdi + offset_of!(Case, gs_base)))?;
        a.wrgsbase(rax)?;
    }
    a.push(qword_ptr(rdi + offset_of!(Case, rflags)))?;
    a.popfq()?;
    for (n, r) in GPRS.iter().enumerate() {
        if *r != rdi {
            a.mov(*r, qword_ptr(rdi + offset_of!(Case, gpr) + n * 8))?;
        }
    }
    a.mov(rdi, qword_ptr(rdi + offset_of!(Case, gpr) + 7 * 8))?;
    let target = state(offset_of!(State, target)) as u32;
    // JMP [target], or JMP FAR [target].
    a.db(&[0xff, if far { 0x2c } else { 0x24 }, 0x25])?;
    a.db(&target.to_le_bytes())?;
    a.assemble(STUBS)
}

fn exit() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    for (n, r) in GPRS.iter().enumerate() {
        a.mov(qword_ptr(state(offset_of!(State, gpr) + n * 8)), *r)?;
    }
    a.mov(rsp, STATE + 0x1000)?;
    a.pushfq()?;
    a.pop(rax)?;
    a.mov(qword_ptr(state(offset_of!(State, rflags))), rax)?;
    a.push(2)?;
    a.popfq()?;
    a.fxsave64(ptr(state(offset_of!(State, fx))))?;
    if avx512() {
        let wide = offset_of!(State, wide);
        for n in 0..16 {
            let upper = state(wide + offset_of!(Wide, uppers) + n * 32);
            a.vextractf64x4(ptr(upper), zmm(n), 1)?;
            let high = state(wide + offset_of!(Wide, high) + n * 64);
            a.vmovups(ptr(high), zmm(n + 16))?;
        }
        for (n, k) in KS.into_iter().enumerate() {
            let at = state(wide + offset_of!(Wide, k) + n * 8);
            a.kmovq(qword_ptr(at), k)?;
        }
    }
    if is_x86_feature_detected!("avx") {
        for (n, ymm) in YMMS.into_iter().enumerate() {
            let upper = ptr(state(offset_of!(State, uppers) + n * 16));
            a.vextractf128(upper, ymm, 1)?;
        }
        a.vzeroupper()?;
    }
    a.rdfsbase(rax)?;
    a.mov(qword_ptr(state(offset_of!(State, fs_base))), rax)?;
    a.rdgsbase(rax)?;
    a.mov(qword_ptr(state(offset_of!(State, gs_base))), rax)?;
    for n in [0, 2, 3, 4, 5] {
        a.mov(eax, SEGS[n])?;
        a.mov(word_ptr(state(offset_of!(State, seg) + n * 2)), SELECTOR)?;
    }
    // The child's own state again.
    a.xor(eax, eax)?;
    for segment in [es, ds, fs, gs] {
        a.mov(segment, eax)?;
    }
    a.mov(eax, u32::from(sel::DATA))?;
    a.mov(ss, eax)?;
    a.mov(rax, qword_ptr(state(offset_of!(State, own_fs_base))))?;
    a.wrfsbase(rax)?;
    a.mov(rax, qword_ptr(state(offset_of!(State, own_gs_base))))?;
    a.wrgsbase(rax)?;
    a.ldmxcsr(dword_ptr(state(offset_of!(State, own_mxcsr))))?;
    a.mov(rsp, qword_ptr(state(offset_of!(State, saved_rsp))))?;
    a.popfq()?;
    for r in [r15, r14, r13, r12, rbp, rbx] {
        a.pop(r)?;
    }
    a.ret()?;
    a.assemble(STUBS)
}

/// The code to lay at [`STUBS`], and where its parts lie.
pub(super) fn build() -> Result<(Vec<u8>, Stubs), IcedError> {
    let mut code = Vec::new();
    let mut add = |bytes: Vec<u8>| {
        code.resize(code.len().next_multiple_of(64), 0xcc);
        let at = STUBS + code.len() as u64;
        code.extend(bytes);
        at
    };
    assert_eq!(add(exit()?), layout::EXIT, "the way back comes first");
    let stubs = Stubs {
        plain: add(entry(false, true, false)?),
        segments: add(entry(true, true, false)?),
        far: add(entry(true, false, true)?),
    };
    Ok((code, stubs))
}
