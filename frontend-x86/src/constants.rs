//! Where constants lie in code: what a translation may read from there instead of taking it for granted.

use iced_x86::Decoder;

use crate::decode::{Decoded, decode, decoder};
use crate::features::Features;
use crate::mode::Mode;

/// An immediate or a displacement in an instruction's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Offset of its first byte from the start of the code.
    pub at: u32,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u32,
}

/// The constants of the instructions in `bytes`, up to the first that is undefined or cut off.
pub fn constants(bytes: &[u8], mode: Mode, features: &Features) -> Vec<Constant> {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(rest) = bytes.get(start..)
        && let Decoded::Insn(insn) = decode(rest, start as u32, mode, features)
    {
        let mut again: Decoder<'_> = decoder(rest, start as u32, mode, features);
        let _ = again.decode();
        let places = again.get_constant_offsets(&insn);
        let all = [
            (places.displacement_offset(), places.displacement_size()),
            (places.immediate_offset(), places.immediate_size()),
            (places.immediate_offset2(), places.immediate_size2()),
        ];
        for (at, size) in all {
            if matches!(size, 1 | 2 | 4 | 8) {
                found.push(Constant {
                    at: (start + at) as u32,
                    size: size as u32,
                });
            }
        }
        start += insn.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Constant, constants};
    use crate::{Features, Mode};

    #[test]
    fn immediates_and_displacements_are_found() {
        let code = [
            0xb8, 1, 2, 3, 4, // mov eax, imm32
            0x81, 0x43, 7, 1, 0, 0, 0, // add dword [rbx+7], 1
            0x48, 0xb9, 1, 2, 3, 4, 5, 6, 7, 8, // mov rcx, imm64
            0x01, 0xc8, // add eax, ecx
            0x75, 0x05, // jne
            0xb8, 1, 2, // cut off
        ];
        let found = constants(&code, Mode::long64(), &Features::v2_plus());
        let wanted = [(1, 4), (7, 1), (8, 4), (14, 8), (25, 1)];
        assert_eq!(found, wanted.map(|(at, size)| Constant { at, size }));
    }
}
