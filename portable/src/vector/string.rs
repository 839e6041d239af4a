//! SSE4.2's string comparisons and CRC32.

use iced_x86::Code as C;

use super::lanes::Lane;
use super::{Kernel, Table, VecOperands};

/// CRC-32C of `bytes` low bytes of `data`, continued from `crc` (polynomial 11EDC6F41h, bit-reflected).
pub fn crc32(crc: u32, data: u64, bytes: u32) -> u32 {
    (0..bytes).fold(crc, |crc, i| {
        let mixed = crc ^ (data >> (8 * i)) as u32 & 0xFF;
        (0..8).fold(mixed, |crc, _| {
            crc >> 1 ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

/// Elements as integers that compare as the immediate says.
struct Elements {
    values: [i32; 16],
    /// Elements before the end of the string.
    valid: usize,
    /// All elements: 8 or 16.
    count: usize,
}

impl Elements {
    /// Elements of `bytes`; the string ends at `length` or, without one, at the first zero.
    fn new(bytes: &[u8], imm: u8, length: Option<usize>) -> Self {
        let count = if imm & 1 != 0 { 8 } else { 16 };
        let mut values = [0; 16];
        for (i, value) in values.iter_mut().enumerate().take(count) {
            *value = match imm & 3 {
                0 => u8::get(bytes, i).into(),
                1 => u16::get(bytes, i).into(),
                2 => i8::get(bytes, i).into(),
                _ => i16::get(bytes, i).into(),
            };
        }
        let valid = length
            .unwrap_or_else(|| {
                values[..count]
                    .iter()
                    .position(|&v| v == 0)
                    .unwrap_or(count)
            })
            .min(count);
        Self {
            values,
            valid,
            count,
        }
    }

    fn strings(&self) -> &[i32] {
        &self.values[..self.valid]
    }
}

/// The aggregation: bit j tells about element j of `b` (SDM 1, table 4-7 of volume 2, section 4.1).
fn aggregate(a: &Elements, b: &Elements, imm: u8) -> u32 {
    let n = a.count;
    let bit = |j: usize| match imm >> 2 & 3 {
        0 => j < b.valid && a.strings().contains(&b.values[j]),
        1 => {
            // Pairs of lower and upper bounds; an odd one out is no pair.
            j < b.valid
                && a.strings()
                    .chunks_exact(2)
                    .any(|pair| pair[0] <= b.values[j] && b.values[j] <= pair[1])
        }
        2 => match (j < a.valid, j < b.valid) {
            (true, true) => a.values[j] == b.values[j],
            (one, other) => one == other,
        },
        // A substring at j: beyond its end everything matches, beyond the end of `b` nothing does.
        _ => (0..n - j).all(|i| i >= a.valid || j + i < b.valid && a.values[i] == b.values[j + i]),
    };
    (0..n).fold(0, |bits, j| bits | u32::from(bit(j)) << j)
}

/// The common part: IntRes2 and the flags.
fn compare(ops: &mut VecOperands, lengths: Option<(usize, usize)>) -> (u32, usize) {
    let imm = ops.imm;
    let a = Elements::new(&ops.dst, imm, lengths.map(|l| l.0));
    let b = Elements::new(&ops.src1, imm, lengths.map(|l| l.1));
    let bits = aggregate(&a, &b, imm);
    let all = (1u32 << a.count) - 1;
    let result = match imm >> 4 & 3 {
        1 => bits ^ all,
        3 => bits ^ ((1 << b.valid) - 1),
        _ => bits,
    };
    let flag = |on: bool, bit: u32| if on { 1 << bit } else { 0 };
    ops.flags_out = Some(
        flag(result != 0, 0)
            | flag(b.valid < b.count, 6)
            | flag(a.valid < a.count, 7)
            | flag(result & 1 != 0, 11),
    );
    (result, a.count)
}

fn index(ops: &mut VecOperands, lengths: Option<(usize, usize)>) {
    let (result, count) = compare(ops, lengths);
    ops.gpr_out = match result {
        0 => count as u64,
        _ if ops.imm & 0x40 != 0 => 31 - u64::from(result.leading_zeros()),
        _ => result.trailing_zeros().into(),
    };
}

fn mask(ops: &mut VecOperands, lengths: Option<(usize, usize)>) {
    let (result, count) = compare(ops, lengths);
    ops.xmm0[..16].fill(0);
    if ops.imm & 0x40 == 0 {
        result.put(&mut ops.xmm0, 0);
        return;
    }
    let size = 16 / count;
    for (i, byte) in ops.xmm0[..16].iter_mut().enumerate() {
        *byte = if result >> (i / size) & 1 != 0 {
            0xFF
        } else {
            0
        };
    }
}

/// Explicit lengths from EAX and EDX: their magnitudes, cut off at the number of elements by [`Elements::new`].
fn lengths32(ops: &VecOperands) -> Option<(usize, usize)> {
    let length = |v: u64| (v as i32).unsigned_abs() as usize;
    Some((length(ops.rax), length(ops.rdx)))
}

/// The same from RAX and RDX.
fn lengths64(ops: &VecOperands) -> Option<(usize, usize)> {
    let length = |v: u64| (v as i64).unsigned_abs().min(16) as usize;
    Some((length(ops.rax), length(ops.rdx)))
}

pub(super) fn rows(t: &mut Table) {
    t.xmm(
        C::Pcmpestri_xmm_xmmm128_imm8,
        Kernel::Special(|ops| index(ops, lengths32(ops))),
    );
    t.xmm(
        C::Pcmpestri64_xmm_xmmm128_imm8,
        Kernel::Special(|ops| index(ops, lengths64(ops))),
    );
    t.xmm(
        C::Pcmpestrm_xmm_xmmm128_imm8,
        Kernel::Special(|ops| mask(ops, lengths32(ops))),
    );
    t.xmm(
        C::Pcmpestrm64_xmm_xmmm128_imm8,
        Kernel::Special(|ops| mask(ops, lengths64(ops))),
    );
    t.xmm(
        C::Pcmpistri_xmm_xmmm128_imm8,
        Kernel::Special(|ops| index(ops, None)),
    );
    t.xmm(
        C::Pcmpistrm_xmm_xmmm128_imm8,
        Kernel::Special(|ops| mask(ops, None)),
    );
    macro_rules! crc {
        ($($code:ident $bytes:literal;)*) => {
            $(t.xmm(C::$code, Kernel::Special(|ops| {
                ops.gpr_out = crc32(ops.gpr_out as u32, ops.gpr_in, $bytes).into();
            }));)*
        };
    }
    crc! {
        Crc32_r32_rm8 1;
        Crc32_r64_rm8 1;
        Crc32_r32_rm16 2;
        Crc32_r32_rm32 4;
        Crc32_r64_rm64 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        let crc = b"123456789"
            .iter()
            .fold(!0, |crc, &byte| crc32(crc, byte.into(), 1));
        assert_eq!(!crc, 0xE306_9283);
    }

    #[test]
    fn finds_a_substring() {
        let mut ops = VecOperands {
            imm: 0x0C,
            ..VecOperands::default()
        };
        ops.dst[..3].copy_from_slice(b"abc");
        ops.src1[..16].copy_from_slice(b"xxabxxabcxxxxxab");
        index(&mut ops, None);
        assert_eq!(ops.gpr_out, 6);
        assert_eq!(ops.flags_out, Some(1 | 1 << 7));
    }
}
