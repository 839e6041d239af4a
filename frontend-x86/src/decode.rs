//! One instruction's bytes become one decoded instruction, with what Intel CPUs do at the edges.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction,
};

use x86::flags;

use crate::features::Features;
use crate::mode::Mode;

/// The longest instruction (SDM vol. 2, 2.3.11).
pub(crate) const MAX_LEN: usize = 15;

/// What bytes decode to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An instruction of the guest's CPU. Its IP is the `delta` given.
    Insn(Instruction),
    /// An undefined one of this many bytes: #UD.
    Undefined(u32),
    /// More than 15 bytes: #GP(0).
    TooLong,
    /// The bytes end inside the instruction: fetching the next one faults.
    MoreBytes,
}

/// A decoder of the guest's CPU, for one instruction.
pub(crate) fn decoder<'a>(
    bytes: &'a [u8],
    delta: u32,
    mode: Mode,
    features: &Features,
) -> Decoder<'a> {
    // F3 90 is PAUSE, but XCHG with REX.B: the decoder makes PAUSE of both unless told not to.
    let mut options = DecoderOptions::FORCE_RESERVED_NOP | DecoderOptions::NO_PAUSE;
    if !features.has(CpuidFeature::BMI1) {
        options |= DecoderOptions::NO_MPFX_0FBC;
    }
    if !features.has(CpuidFeature::LZCNT) {
        options |= DecoderOptions::NO_MPFX_0FBD;
    }
    let window = &bytes[..bytes.len().min(MAX_LEN)];
    Decoder::with_ip(mode.code().bits(), window, u64::from(delta), options)
}

fn raw(bytes: &[u8], delta: u32, mode: Mode, features: &Features) -> (Instruction, DecoderError) {
    let mut decoder = decoder(bytes, delta, mode, features);
    let insn = decoder.decode();
    (insn, decoder.last_error())
}

/// Decodes the instruction at the start of `bytes`, which lies `delta` bytes after its block's start.
///
/// An instruction that the features leave out, that the mode forbids altogether or whose LOCK prefix is misplaced is
/// undefined.
pub fn decode(bytes: &[u8], delta: u32, mode: Mode, features: &Features) -> Decoded {
    let (insn, error) = raw(bytes, delta, mode, features);
    match error {
        DecoderError::None => {}
        DecoderError::NoMoreBytes if hopeless(bytes, delta, mode, features) => {
            return Decoded::Undefined(bytes.len() as u32);
        }
        DecoderError::NoMoreBytes => return Decoded::MoreBytes,
        _ if insn.len() >= MAX_LEN && too_long(bytes, delta, mode, features) => {
            return Decoded::TooLong;
        }
        _ => return Decoded::Undefined(insn.len().max(1) as u32),
    }
    let vex = insn.encoding() != EncodingKind::Legacy;
    if insn.code() == Code::INVALID
        || (vex && (mode.real() || mode.vm86()))
        || !features.allow(insn.code())
    {
        return Decoded::Undefined(insn.len() as u32);
    }
    Decoded::Insn(insn)
}

/// Whether no byte that may follow makes an instruction of these: the decoder wants a ModR/M byte even after opcodes that
/// are undefined without one, and hardware does not fetch it.
fn hopeless(bytes: &[u8], delta: u32, mode: Mode, features: &Features) -> bool {
    if bytes.is_empty() || bytes.len() >= MAX_LEN {
        return false;
    }
    let mut some = without_lock(bytes, mode);
    some.push(0);
    let last = some.len() - 1;
    (0..=u8::MAX).all(|next| {
        some[last] = next;
        raw(&some, delta, mode, features).1 == DecoderError::InvalidInstruction
    })
}

/// The bytes without LOCK prefixes, which are looked at when the whole instruction has been fetched.
fn without_lock(bytes: &[u8], mode: Mode) -> Vec<u8> {
    let opcode = bytes
        .iter()
        .position(|b| !is_prefix(*b, mode))
        .unwrap_or(bytes.len());
    let (prefixes, rest) = bytes.split_at(opcode);
    prefixes
        .iter()
        .copied()
        .filter(|b| *b != 0xf0)
        .chain(rest.iter().copied())
        .collect()
}

fn is_prefix(b: u8, mode: Mode) -> bool {
    matches!(
        b,
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
    ) || (mode.code64() && b & 0xf0 == 0x40)
}

/// Whether an encoding that the decoder refused after 15 bytes is refused for its length: with fewer prefixes it would
/// be an instruction that reaches beyond the 15th byte.
fn too_long(bytes: &[u8], delta: u32, mode: Mode, features: &Features) -> bool {
    match bytes[..MAX_LEN].iter().position(|b| !is_prefix(*b, mode)) {
        None => true,
        Some(opcode) => {
            let shorter = without_lock(&bytes[opcode.saturating_sub(4).max(1)..MAX_LEN], mode);
            let error = raw(&shorter, delta, mode, features).1;
            error == DecoderError::NoMoreBytes && !hopeless(&shorter, delta, mode, features)
        }
    }
}

/// The status flags of a set of iced's [`iced_x86::RflagsBits`], as bits of RFLAGS.
pub fn status_flags(bits: u32) -> u64 {
    use iced_x86::RflagsBits as R;
    [
        (R::CF, flags::CF),
        (R::PF, flags::PF),
        (R::AF, flags::AF),
        (R::ZF, flags::ZF),
        (R::SF, flags::SF),
        (R::OF, flags::OF),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .fold(0, |sum, (_, flag)| sum | flag)
}

#[cfg(test)]
mod tests {
    use super::{Decoded, decode};
    use crate::{Features, Mode};
    use iced_x86::Code;

    fn code(bytes: &[u8], mode: Mode) -> Decoded {
        decode(bytes, 0, mode, &Features::v2_plus())
    }

    fn is(bytes: &[u8], mode: Mode, want: Code) {
        match code(bytes, mode) {
            Decoded::Insn(i) => assert_eq!(i.code(), want, "{bytes:x?}"),
            other => panic!("{bytes:x?}: {other:?}"),
        }
    }

    #[test]
    fn length_limit() {
        let m = Mode::long64();
        let mut nop = [0x66; 16];
        nop[14] = 0x90;
        assert!(matches!(code(&nop[..15], m), Decoded::Insn(i) if i.len() == 15));
        assert_eq!(code(&[0x66; 14], m), Decoded::MoreBytes);
        assert_eq!(code(&[0x66; 15], m), Decoded::TooLong);
        nop[14] = 0x66;
        nop[15] = 0x90;
        assert_eq!(code(&nop, m), Decoded::TooLong);
        let mut ud = [0x66; 16];
        ud[14] = 0x0e;
        assert_eq!(code(&ud, m), Decoded::Undefined(15));
        let mut imm = [0x66; 18];
        imm[13] = 0x81;
        imm[14] = 0xc0;
        assert_eq!(code(&imm, m), Decoded::TooLong);
        assert_eq!(code(&imm[..15], m), Decoded::TooLong);
    }

    #[test]
    fn undocumented_encodings_decode_as_hardware_does() {
        let (m, p) = (Mode::long64(), Mode::flat32());
        is(&[0xd0, 0xf0], m, Code::Sal_rm8_1);
        is(&[0xf6, 0xc8, 1], m, Code::Test_rm8_imm8_F6r1);
        is(&[0xd9, 0xd8], m, Code::Fstpnce_sti);
        is(&[0xdf, 0xc0], m, Code::Ffreep_sti);
        is(&[0xdc, 0xd0], m, Code::Fcom_st0_sti_DCD0);
        is(&[0xd6], p, Code::Salc);
        is(&[0x82, 0xc0, 1], p, Code::Add_rm8_imm8_82);
        is(&[0xf1], m, Code::Int1);
        is(&[0x0f, 0xff, 0xc0], m, Code::Ud0_r32_rm32);
        is(&[0x0f, 0xb9, 0xc0], m, Code::Ud1_r32_rm32);
        is(&[0x66, 0xe9, 0, 0, 0, 0], m, Code::Jmp_rel32_64);
        for nop in [
            &[0xf3, 0x0f, 0x1e, 0xfa][..],
            &[0x0f, 0x1a, 0xc0],
            &[0x0f, 0x18, 0x00],
            &[0xf3, 0x48, 0x0f, 0x1e, 0xc8],
        ] {
            assert!(
                matches!(code(nop, m), Decoded::Insn(i) if i.len() == nop.len()),
                "{nop:x?}"
            );
        }
    }

    #[test]
    fn what_the_cpu_lacks_is_undefined() {
        let (m, r) = (Mode::long64(), Mode::real16());
        assert_eq!(code(&[0xd6], m), Decoded::Undefined(1));
        assert_eq!(
            code(&[0xc5, 0xf8, 0x58, 0xc0], m),
            Decoded::Undefined(4),
            "AVX"
        );
        assert_eq!(
            code(&[0xf0, 0x01, 0xc0], m),
            Decoded::Undefined(3),
            "LOCK with a register"
        );
        assert_eq!(
            code(&[0xf0, 0x8b, 0x00], m),
            Decoded::Undefined(3),
            "LOCK MOV"
        );
        assert_eq!(
            code(&[0xf0, 0x0f, 0x20, 0xc0], m),
            Decoded::Undefined(4),
            "LOCK MOV CR0"
        );
        assert_eq!(
            code(&[0x0f, 0x24, 0xc0], r),
            Decoded::Undefined(3),
            "test registers"
        );
        // BLSR with VEX, fine in protected mode only.
        let blsr = [0xc4, 0xe2, 0x78, 0xf3, 0xc8];
        assert!(matches!(code(&blsr, Mode::flat32()), Decoded::Insn(_)));
        assert_eq!(code(&blsr, r), Decoded::Undefined(5));
        let mut old = Features::v2_plus();
        old.set(iced_x86::CpuidFeature::LZCNT, false);
        match decode(&[0xf3, 0x0f, 0xbd, 0xc1], 0, m, &old) {
            Decoded::Insn(i) => assert_eq!(i.code(), Code::Bsr_r32_rm32),
            other => panic!("{other:?}"),
        }
    }
}
