//! GFNI: products and affine maps of bytes in GF(2^8).

use iced_x86::Code as C;

use super::crypto::gf_mul;
use super::lanes::map2;
use super::{Kernel, Table};

/// The inverse of `x`, 0 for 0: x^254.
fn inverse(x: u8) -> u8 {
    (0..253).fold(x, |power, _| gf_mul(power, x))
}

/// Each byte `x` of `a` as a bit vector times the 8x8 matrix in its quadword of `b`, plus the immediate. Row i of the matrix
/// is byte 7 - i.
fn affine(d: &mut [u8], a: &[u8], b: &[u8], imm: u8, first: impl Fn(u8) -> u8) {
    for (n, d) in d.iter_mut().enumerate() {
        let x = first(a[n]);
        let row = |i: usize| b[(n & !7) + 7 - i];
        *d = (0..8).fold(imm, |sum, i| {
            sum ^ (((row(i) & x).count_ones() & 1) as u8) << i
        });
    }
}

pub(super) fn rows(t: &mut Table) {
    t.xmm(
        C::Gf2p8mulb_xmm_xmmm128,
        Kernel::Two(|d, a, b| map2::<u8>(d, a, b, gf_mul)),
    );
    t.xmm(
        C::Gf2p8affineqb_xmm_xmmm128_imm8,
        Kernel::Imm(|d, a, b, imm| affine(d, a, b, imm, |x| x)),
    );
    t.xmm(
        C::Gf2p8affineinvqb_xmm_xmmm128_imm8,
        Kernel::Imm(|d, a, b, imm| affine(d, a, b, imm, inverse)),
    );
}

#[cfg(test)]
mod tests {
    use super::{affine, gf_mul, inverse};

    #[test]
    fn inverses() {
        assert_eq!(inverse(0), 0);
        for x in 1..=255 {
            assert_eq!(gf_mul(x, inverse(x)), 1);
        }
    }

    #[test]
    fn the_unit_matrix_changes_nothing() {
        let a: [u8; 16] = std::array::from_fn(|i| (i * 37) as u8);
        let unit = 0x0102_0408_1020_4080_u64.to_le_bytes();
        let b: [u8; 16] = std::array::from_fn(|i| unit[i % 8]);
        let mut d = [0; 16];
        affine(&mut d, &a, &b, 0, |x| x);
        assert_eq!(d, a);
    }
}
