//! AES-NI, PCLMULQDQ and the SHA extensions.

use iced_x86::Code as C;

use super::lanes::{Lane, array, blocks};
use super::{Kernel, Table};

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, 4.2).
pub(super) const fn gf_mul(a: u8, b: u8) -> u8 {
    let (mut product, mut a, mut i) = (0, a, 0);
    while i < 8 {
        if b >> i & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ (if a & 0x80 != 0 { 0x1B } else { 0 });
        i += 1;
    }
    product
}

/// The S-box (FIPS 197, 5.1.1): the inverse in GF(2^8), then an affine map.
const fn s_box() -> [u8; 256] {
    let mut table = [0x63; 256];
    // 3 generates the field's group; its inverse is F6h.
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p = gf_mul(p, 3);
        q = gf_mul(q, 0xF6);
        let spread = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4);
        table[p as usize] = spread ^ 0x63;
        if p == 1 {
            return table;
        }
    }
}

const fn inverse(table: [u8; 256]) -> [u8; 256] {
    let mut result = [0; 256];
    let mut i = 0;
    while i < 256 {
        result[table[i] as usize] = i as u8;
        i += 1;
    }
    result
}

static S_BOX: [u8; 256] = s_box();
static INVERSE_S_BOX: [u8; 256] = inverse(s_box());

/// Rows rotate left by their number; the state is in columns.
fn shift_rows(s: [u8; 16]) -> [u8; 16] {
    std::array::from_fn(|i| s[(i + 4 * (i % 4)) % 16])
}

fn inverse_shift_rows(s: [u8; 16]) -> [u8; 16] {
    std::array::from_fn(|i| s[(i + 12 * (i % 4)) % 16])
}

/// Each column times a circulant matrix whose first row is `m`.
fn mix_columns(s: [u8; 16], m: [u8; 4]) -> [u8; 16] {
    std::array::from_fn(|i| {
        (0..4).fold(0, |sum, k| {
            sum ^ gf_mul(m[(4 + k - i % 4) % 4], s[i & !3 | k])
        })
    })
}

const MIX: [u8; 4] = [2, 3, 1, 1];
const INVERSE_MIX: [u8; 4] = [14, 11, 13, 9];

/// Runs a round on each 16-byte state of `a` and adds the round key `b`.
fn round(d: &mut [u8], a: &[u8], b: &[u8], f: impl Fn([u8; 16]) -> [u8; 16]) {
    blocks(d, a, b, |d, a, b| {
        let state = u128::from_le_bytes(f(array(a))) ^ u128::get(b, 0);
        state.put(d, 0);
    });
}

fn encrypt(s: [u8; 16]) -> [u8; 16] {
    shift_rows(s).map(|byte| S_BOX[usize::from(byte)])
}

fn decrypt(s: [u8; 16]) -> [u8; 16] {
    inverse_shift_rows(s).map(|byte| INVERSE_S_BOX[usize::from(byte)])
}

fn key_assist(d: &mut [u8], b: &[u8], rcon: u8) {
    for half in 0..2 {
        let word = u32::get(b, 2 * half + 1);
        let substituted =
            u32::from_le_bytes(word.to_le_bytes().map(|byte| S_BOX[usize::from(byte)]));
        substituted.put(d, 2 * half);
        (substituted.rotate_right(8) ^ u32::from(rcon)).put(d, 2 * half + 1);
    }
}

/// Product of two polynomials over GF(2).
fn carryless(a: u64, b: u64) -> u128 {
    (0..64).fold(0, |sum, i| {
        sum ^ (u128::from(a) << i) & u128::from(b >> i & 1).wrapping_neg()
    })
}

fn clmul(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    blocks(d, a, b, |d, a, b| {
        let (x, y) = (
            u64::get(a, usize::from(imm & 1)),
            u64::get(b, usize::from(imm >> 4 & 1)),
        );
        carryless(x, y).put(d, 0);
    });
}

/// The four dwords, the highest first: the order in which SHA's documents name them.
fn words(bytes: &[u8]) -> [u32; 4] {
    std::array::from_fn(|i| u32::get(bytes, 3 - i))
}

fn put_words(d: &mut [u8], words: [u32; 4]) {
    for (i, word) in words.into_iter().enumerate() {
        word.put(d, 3 - i);
    }
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

fn sha1_rounds(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    let (f, k): (fn(u32, u32, u32) -> u32, u32) = match imm & 3 {
        0 => (choose, 0x5A82_7999),
        1 => (|x, y, z| x ^ y ^ z, 0x6ED9_EBA1),
        2 => (majority, 0x8F1B_BCDC),
        _ => (|x, y, z| x ^ y ^ z, 0xCA62_C1D6),
    };
    let [mut a, mut b_, mut c, mut dd] = words(a);
    // The first word has E added already.
    let mut e = 0u32;
    for w in words(b) {
        let next = f(b_, c, dd)
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(w)
            .wrapping_add(e)
            .wrapping_add(k);
        (e, dd, c, b_, a) = (dd, c, b_.rotate_left(30), a, next);
    }
    put_words(d, [a, b_, c, dd]);
}

fn sha1_next_e(d: &mut [u8], a: &[u8], b: &[u8]) {
    let [w0, w1, w2, w3] = words(b);
    put_words(
        d,
        [w0.wrapping_add(words(a)[0].rotate_left(30)), w1, w2, w3],
    );
}

fn sha1_message1(d: &mut [u8], a: &[u8], b: &[u8]) {
    let ([w0, w1, w2, w3], [w4, w5, ..]) = (words(a), words(b));
    put_words(d, [w2 ^ w0, w3 ^ w1, w4 ^ w2, w5 ^ w3]);
}

fn sha1_message2(d: &mut [u8], a: &[u8], b: &[u8]) {
    let ([a0, a1, a2, a3], [_, w13, w14, w15]) = (words(a), words(b));
    let w16 = (a0 ^ w13).rotate_left(1);
    put_words(
        d,
        [
            w16,
            (a1 ^ w14).rotate_left(1),
            (a2 ^ w15).rotate_left(1),
            (a3 ^ w16).rotate_left(1),
        ],
    );
}

fn sha256_rounds(d: &mut [u8], src2: &[u8], wk: &[u8]) {
    let [mut c, mut dd, mut g, mut h] = words(d);
    let [mut a, mut b, mut e, mut f] = words(src2);
    for i in 0..2 {
        let t1 = choose(e, f, g)
            .wrapping_add(e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
            .wrapping_add(u32::get(wk, i))
            .wrapping_add(h);
        let t2 = majority(a, b, c)
            .wrapping_add(a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22));
        (h, g, f, e, dd, c, b, a) = (g, f, e, t1.wrapping_add(dd), c, b, a, t1.wrapping_add(t2));
    }
    put_words(d, [a, b, e, f]);
}

fn sha256_message1(d: &mut [u8], a: &[u8], b: &[u8]) {
    let sigma = |w: u32| w.rotate_right(7) ^ w.rotate_right(18) ^ w >> 3;
    for i in 0..4 {
        let next = if i < 3 {
            u32::get(a, i + 1)
        } else {
            u32::get(b, 0)
        };
        u32::get(a, i).wrapping_add(sigma(next)).put(d, i);
    }
}

fn sha256_message2(d: &mut [u8], a: &[u8], b: &[u8]) {
    let sigma = |w: u32| w.rotate_right(17) ^ w.rotate_right(19) ^ w >> 10;
    let w16 = u32::get(a, 0).wrapping_add(sigma(u32::get(b, 2)));
    let w17 = u32::get(a, 1).wrapping_add(sigma(u32::get(b, 3)));
    let w18 = u32::get(a, 2).wrapping_add(sigma(w16));
    let w19 = u32::get(a, 3).wrapping_add(sigma(w17));
    put_words(d, [w19, w18, w17, w16]);
}

pub(super) fn rows(t: &mut Table) {
    t.xmm(
        C::Aesenc_xmm_xmmm128,
        Kernel::Two(|d, a, b| round(d, a, b, |s| mix_columns(encrypt(s), MIX))),
    );
    t.xmm(
        C::Aesenclast_xmm_xmmm128,
        Kernel::Two(|d, a, b| round(d, a, b, encrypt)),
    );
    t.xmm(
        C::Aesdec_xmm_xmmm128,
        Kernel::Two(|d, a, b| round(d, a, b, |s| mix_columns(decrypt(s), INVERSE_MIX))),
    );
    t.xmm(
        C::Aesdeclast_xmm_xmmm128,
        Kernel::Two(|d, a, b| round(d, a, b, decrypt)),
    );
    t.xmm(
        C::Aesimc_xmm_xmmm128,
        Kernel::Two(|d, _, b| d.copy_from_slice(&mix_columns(array(b), INVERSE_MIX))),
    );
    t.xmm(
        C::Aeskeygenassist_xmm_xmmm128_imm8,
        Kernel::Imm(|d, _, b, imm| key_assist(d, b, imm)),
    );
    t.xmm(C::Pclmulqdq_xmm_xmmm128_imm8, Kernel::Imm(clmul));
    t.xmm(C::Sha1rnds4_xmm_xmmm128_imm8, Kernel::Imm(sha1_rounds));
    t.xmm(C::Sha1nexte_xmm_xmmm128, Kernel::Two(sha1_next_e));
    t.xmm(C::Sha1msg1_xmm_xmmm128, Kernel::Two(sha1_message1));
    t.xmm(C::Sha1msg2_xmm_xmmm128, Kernel::Two(sha1_message2));
    t.xmm(
        C::Sha256rnds2_xmm_xmmm128,
        Kernel::Special(|ops| sha256_rounds(&mut ops.dst, &ops.src1, &ops.xmm0)),
    );
    t.xmm(C::Sha256msg1_xmm_xmmm128, Kernel::Two(sha256_message1));
    t.xmm(C::Sha256msg2_xmm_xmmm128, Kernel::Two(sha256_message2));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_s_box_entries() {
        // FIPS 197, figure 7.
        assert_eq!((S_BOX[0], S_BOX[0x53], S_BOX[0xFF]), (0x63, 0xED, 0x16));
        assert_eq!(INVERSE_S_BOX[0xED], 0x53);
    }

    #[test]
    fn rows_and_columns_have_inverses() {
        let state: [u8; 16] = std::array::from_fn(|i| (i * 17 + 3) as u8);
        assert_eq!(inverse_shift_rows(shift_rows(state)), state);
        assert_eq!(mix_columns(mix_columns(state, MIX), INVERSE_MIX), state);
    }
}
