//! Which instructions are compared, and why the others are not.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic as M, OpKind,
};

use frontend_x86::Features;

const OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP | DecoderOptions::NO_PAUSE;

/// Decodes as an Intel CPU does, hints included.
pub fn decode(bytes: &[u8], bits: u8, ip: u64) -> Instruction {
    Decoder::with_ip(bits.into(), bytes, ip, OPTIONS).decode()
}

/// Whether the bytes end before the instruction does.
pub fn cut_off(bytes: &[u8], bits: u8) -> bool {
    let mut decoder = Decoder::new(bits.into(), bytes, OPTIONS);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}

/// Whose CPU the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Ours, too.
    Intel,
    /// Differs where [`AMD_REASONS`] and the table of known differences say.
    Amd,
}

impl Vendor {
    /// The host's vendor. Others than Intel are taken for AMD.
    #[cfg(target_arch = "x86_64")]
    pub fn host() -> Self {
        let leaf = std::arch::x86_64::__cpuid(0);
        if leaf.ebx == u32::from_le_bytes(*b"Genu") {
            Self::Intel
        } else {
            Self::Amd
        }
    }
}

/// Why an instruction has no place in the comparison, whatever its operands.
pub fn excluded(code: Code) -> Option<&'static str> {
    Some(match code.mnemonic() {
        M::Cpuid => "the guest's CPUID is its model's",
        M::Rdtsc | M::Rdtscp => "time",
        M::Rdpmc => "the host kernel's counters",
        M::Rdrand | M::Rdseed => "random by definition",
        M::Rdpid => "the host's processor number",
        M::Xgetbv => "the host's XCR0",
        M::Rdpkru | M::Wrpkru => "the host kernel's protection keys",
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => "the host kernel emulates it under UMIP",
        M::Syscall | M::Sysenter => "calls the host's kernel",
        M::Wbnoinvd | M::Monitor | M::Mwait => "#UD or #GP by the host's configuration",
        M::Ud0 if code == Code::Ud0 => "AMD's UD0 without ModR/M",
        M::INVALID => "undefined",
        _ => match code {
            Code::Popw_CS => "8086 only: 0F is the two-byte escape",
            Code::Mov_r32_tr | Code::Mov_tr_r32 => "386 and 486 test registers",
            Code::Frstpm | Code::Fstdw_AX | Code::Fstsg_AX => "287 only",
            _ if !code.op_code().is_instruction() => "assembler pseudo-instruction",
            _ if code.op_code().fwait() => "WAIT and another instruction",
            _ => return None,
        },
    })
}

/// Why these bytes can't be run on the host, or mean something else there.
pub fn unfit(
    bytes: &[u8],
    insn: &Instruction,
    bits: u8,
    vendor: Vendor,
    features: &Features,
) -> Option<&'static str> {
    if let Some(reason) = excluded(insn.code()).filter(|_| !insn.is_invalid()) {
        return Some(reason);
    }
    if !insn.is_invalid() && !features.allow(insn.code()) {
        return Some("an extension that the guest lacks");
    }
    if matches!(insn.mnemonic(), M::Loope | M::Loopne)
        && prefixes(bytes, bits)
            .iter()
            .any(|b| matches!(b, 0xf2 | 0xf3))
    {
        return Some("REP before LOOPcc is reserved (SDM vol. 2, 2.1.1)");
    }
    if insn.mnemonic() == M::Int && insn.immediate8() == 0x80 {
        return Some("calls the host's kernel");
    }
    if !insn.code().cpuid_features().iter().all(|f| host_has(*f)) {
        return Some("the host lacks it");
    }
    if vendor == Vendor::Amd {
        amd(bytes, insn, bits)
    } else {
        None
    }
}

/// The prefixes before an opcode: legacy ones, and in 64-bit code what looks like REX before another of them.
pub fn prefixes(bytes: &[u8], bits: u8) -> &[u8] {
    let legacy = |b: &u8| {
        matches!(
            b,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3
        )
    };
    let any = |b: &&u8| legacy(b) || bits == 64 && **b & 0xf0 == 0x40;
    let run = &bytes[..bytes.iter().take_while(any).count()];
    &run[..run.iter().rposition(legacy).map_or(0, |last| last + 1)]
}

/// Whether the opcode is a near branch's, in 64-bit code.
fn near(bytes: &[u8]) -> bool {
    let rest = &bytes[prefixes(bytes, 64).len()..];
    let rest = &rest[rest.iter().take_while(|b| *b & 0xf0 == 0x40).count()..];
    match rest {
        [0x0f, second, ..] => second & 0xf0 == 0x80,
        [first, ..] => {
            matches!(first, 0x70..=0x7f | 0xc2 | 0xc3 | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb | 0xff)
        }
        [] => false,
    }
}

const NEAR_66: &str =
    "66h before a near branch in 64-bit code: Intel ignores it, AMD truncates RIP";
const FAR_64: &str =
    "LSS, LFS, LGS, far JMP and CALL with REX.W: AMD has no 64-bit offset in a far pointer";
const SYSEXIT: &str = "SYSEXIT: AMD raises #UD in long mode";
const SYSRET: &str = "SYSRET in compatibility mode: AMD has it, Intel raises #UD";
const PREFETCH: &str = "0F 0D with a register operand: AMD raises #UD, Intel does nothing";
const INT1: &str = "INT1: KVM on AMD gives its guests #DB before it, not behind it";

/// What [`amd`] answers.
pub const AMD_REASONS: &[&str] = &[NEAR_66, FAR_64, SYSEXIT, SYSRET, PREFETCH, INT1];

/// Where AMD's CPUs do something else altogether: the engine does what Intel's do.
fn amd(bytes: &[u8], insn: &Instruction, bits: u8) -> Option<&'static str> {
    use iced_x86::FlowControl as Flow;
    let branch = !matches!(
        insn.flow_control(),
        Flow::Next | Flow::Interrupt | Flow::Exception
    );
    Some(match insn.code() {
        _ if bits == 64
            && (branch || insn.is_invalid())
            && prefixes(bytes, bits).contains(&0x66)
            && near(bytes) =>
        {
            NEAR_66
        }
        Code::Jmp_m1664
        | Code::Call_m1664
        | Code::Lss_r64_m1664
        | Code::Lfs_r64_m1664
        | Code::Lgs_r64_m1664 => FAR_64,
        Code::Sysexitd | Code::Sysexitq => SYSEXIT,
        Code::Sysretd | Code::Sysretq if bits != 64 => SYSRET,
        Code::Reservednop_rm16_r16_0F0D
        | Code::Reservednop_rm32_r32_0F0D
        | Code::Reservednop_rm64_r64_0F0D
            if insn.op0_kind() == OpKind::Register =>
        {
            PREFETCH
        }
        Code::Int1 => INT1,
        _ => return None,
    })
}

#[cfg(target_arch = "x86_64")]
fn host_has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let bit = |value: u32, n: u32| value >> n & 1 != 0;
    match feature {
        F::SSE3 => is_x86_feature_detected!("sse3"),
        F::SSSE3 => is_x86_feature_detected!("ssse3"),
        F::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        F::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        F::POPCNT => is_x86_feature_detected!("popcnt"),
        F::CMPXCHG16B => is_x86_feature_detected!("cmpxchg16b"),
        F::BMI1 => is_x86_feature_detected!("bmi1"),
        F::BMI2 => is_x86_feature_detected!("bmi2"),
        F::LZCNT => is_x86_feature_detected!("lzcnt"),
        F::ADX => is_x86_feature_detected!("adx"),
        F::MOVBE => is_x86_feature_detected!("movbe"),
        F::AES => is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        F::SHA => is_x86_feature_detected!("sha"),
        F::AVX => is_x86_feature_detected!("avx"),
        F::AVX2 => is_x86_feature_detected!("avx2"),
        F::FMA => is_x86_feature_detected!("fma"),
        F::F16C => is_x86_feature_detected!("f16c"),
        F::VAES => is_x86_feature_detected!("vaes"),
        F::VPCLMULQDQ => is_x86_feature_detected!("vpclmulqdq"),
        F::GFNI => is_x86_feature_detected!("gfni"),
        F::AVX512F => is_x86_feature_detected!("avx512f"),
        F::AVX512BW => is_x86_feature_detected!("avx512bw"),
        F::AVX512CD => is_x86_feature_detected!("avx512cd"),
        F::AVX512DQ => is_x86_feature_detected!("avx512dq"),
        F::AVX512VL => is_x86_feature_detected!("avx512vl"),
        F::AVX512_VBMI => is_x86_feature_detected!("avx512vbmi"),
        F::AVX512_VBMI2 => is_x86_feature_detected!("avx512vbmi2"),
        F::AVX512_IFMA => is_x86_feature_detected!("avx512ifma"),
        F::AVX512_VNNI => is_x86_feature_detected!("avx512vnni"),
        F::AVX512_BITALG => is_x86_feature_detected!("avx512bitalg"),
        F::AVX512_VPOPCNTDQ => is_x86_feature_detected!("avx512vpopcntdq"),
        F::XSAVE => is_x86_feature_detected!("xsave"),
        F::XSAVEOPT => is_x86_feature_detected!("xsaveopt"),
        F::XSAVEC => is_x86_feature_detected!("xsavec"),
        F::CLFLUSHOPT => bit(__cpuid_count(7, 0).ebx, 23),
        F::CLWB => bit(__cpuid_count(7, 0).ebx, 24),
        F::FSGSBASE => bit(__cpuid_count(7, 0).ebx, 0),
        F::CLFSH => bit(__cpuid(1).edx, 19),
        _ => true,
    }
}
