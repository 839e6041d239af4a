//! Moves, broadcasts, insertions and extractions of AVX-512; compress, expand, blend.

use iced_x86::{Code, OpCodeOperandKind as K};

use super::super::lanes::Lane;
use super::super::{Form, Kernel, VecOperands};
use super::Spec;

fn copy(d: &mut [u8], _: &[u8], b: &[u8]) {
    d.copy_from_slice(&b[..d.len()]);
}

/// The first `N` bytes again and again.
fn groups<const N: usize>(d: &mut [u8], _: &[u8], b: &[u8]) {
    for chunk in d.chunks_exact_mut(N) {
        chunk.copy_from_slice(&b[..N]);
    }
}

/// `a` with `N` of its bytes replaced; the number of places is a power of two.
fn insert<const N: usize>(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    d.copy_from_slice(a);
    let at = usize::from(imm) & (d.len() / N - 1);
    d[at * N..(at + 1) * N].copy_from_slice(&b[..N]);
}

fn extract<const N: usize>(d: &mut [u8], _: &[u8], b: &[u8], imm: u8) {
    let at = usize::from(imm) & (b.len() / N - 1);
    d.copy_from_slice(&b[at * N..(at + 1) * N]);
}

/// VSHUFF32X4 and its kin: half of the 128-bit lanes from `a`, half from `b`, a field of the immediate for each.
fn shuffle_lanes(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    let count = d.len() / 16;
    let bits = count.trailing_zeros();
    for i in 0..count {
        let from = if i < count / 2 { a } else { b };
        let choice = usize::from(imm >> (i as u32 * bits)) & (count - 1);
        u128::get(from, choice).put(d, i);
    }
}

/// Chosen lanes of the source, close together.
fn compress<const N: usize>(ops: &mut VecOperands) {
    let mask = ops.mask;
    let chosen = (0..ops.active / N).filter(|i| mask >> i & 1 != 0);
    for (to, i) in chosen.enumerate() {
        ops.dst[to * N..(to + 1) * N].copy_from_slice(&ops.src1[i * N..(i + 1) * N]);
    }
}

/// Lanes from the first on, to the chosen places.
fn expand<const N: usize>(ops: &mut VecOperands) {
    let mask = ops.mask;
    let chosen = (0..ops.active / N).filter(|i| mask >> i & 1 != 0);
    for (from, i) in chosen.enumerate() {
        ops.dst[i * N..(i + 1) * N].copy_from_slice(&ops.src1[from * N..(from + 1) * N]);
    }
}

/// Every lane is the general register's low part.
fn from_register<T: Lane>(ops: &mut VecOperands, cut: impl Fn(u64) -> T) {
    let value = cut(ops.gpr_in);
    for i in 0..ops.active / T::SIZE {
        value.put(&mut ops.dst, i);
    }
}

/// Every lane is the mask.
fn from_mask<T: Lane>(ops: &mut VecOperands, cut: impl Fn(u64) -> T) {
    let value = cut(ops.k_src[0]);
    for i in 0..ops.active / T::SIZE {
        value.put(&mut ops.dst, i);
    }
}

/// All ones where the mask has a bit.
fn ones<const N: usize>(ops: &mut VecOperands) {
    for (i, lane) in ops.dst[..ops.active].chunks_exact_mut(N).enumerate() {
        lane.fill(if ops.k_src[0] >> i & 1 != 0 { 0xFF } else { 0 });
    }
}

/// An element from memory; what is beside it becomes zero.
fn load<const N: usize>(ops: &mut VecOperands) {
    ops.dst[..16].fill(0);
    ops.dst[..N].copy_from_slice(&ops.src1[..N]);
}

pub(super) fn kernel(name: &str, code: Code, len: usize) -> Option<Spec> {
    use Form::{Vex, VexOwn};
    let kinds = code.op_code().op_kinds();
    if let Some(rest) = name
        .strip_prefix("vmovss")
        .or_else(|| name.strip_prefix("vmovsd"))
    {
        if !rest.is_empty() {
            return None;
        }
        let bytes = if name == "vmovss" { 4 } else { 8 };
        let kernel = match (kinds.len(), bytes) {
            (3, _) => Kernel::Two(copy),
            (_, 4) => Kernel::Special(load::<4>),
            _ => Kernel::Special(load::<8>),
        };
        return Spec::new(if kinds.len() == 3 { VexOwn } else { Vex }, kernel);
    }
    let gpr = kinds
        .iter()
        .any(|k| matches!(k, K::r32_reg | K::r64_reg | K::r32_rm | K::r64_rm));
    match name {
        "vmovaps" | "vmovapd" | "vmovups" | "vmovupd" | "vmovdqa32" | "vmovdqa64" | "vmovdqu8"
        | "vmovdqu16" | "vmovdqu32" | "vmovdqu64" | "vpmovb2m" | "vpmovw2m" | "vpmovd2m"
        | "vpmovq2m" => Spec::new(Vex, Kernel::Two(copy)),
        "vpblendmb" | "vpblendmw" | "vpblendmd" | "vpblendmq" | "vblendmps" | "vblendmpd" => {
            Spec::new(VexOwn, Kernel::Two(copy))
        }
        "vpmovm2b" => Spec::new(Vex, Kernel::Special(ones::<1>)),
        "vpmovm2w" => Spec::new(Vex, Kernel::Special(ones::<2>)),
        "vpmovm2d" => Spec::new(Vex, Kernel::Special(ones::<4>)),
        "vpmovm2q" => Spec::new(Vex, Kernel::Special(ones::<8>)),
        "vpbroadcastmb2q" => Spec::new(
            Vex,
            Kernel::Special(|ops| from_mask(ops, |k| u64::from(k as u8))),
        ),
        "vpbroadcastmw2d" => Spec::new(
            Vex,
            Kernel::Special(|ops| from_mask(ops, |k| u32::from(k as u16))),
        ),
        "vpbroadcastb" if gpr => {
            Spec::new(Vex, Kernel::Special(|ops| from_register(ops, |r| r as u8)))
        }
        "vpbroadcastw" if gpr => {
            Spec::new(Vex, Kernel::Special(|ops| from_register(ops, |r| r as u16)))
        }
        "vpbroadcastd" if gpr => {
            Spec::new(Vex, Kernel::Special(|ops| from_register(ops, |r| r as u32)))
        }
        "vpbroadcastq" if gpr => Spec::new(Vex, Kernel::Special(|ops| from_register(ops, |r| r))),
        "vbroadcastf32x2" | "vbroadcasti32x2" => Spec::new(Vex, Kernel::Two(groups::<8>)),
        "vbroadcastf32x4" | "vbroadcasti32x4" | "vbroadcastf64x2" | "vbroadcasti64x2" => {
            Spec::new(Vex, Kernel::Two(groups::<16>))
        }
        "vbroadcastf32x8" | "vbroadcasti32x8" | "vbroadcastf64x4" | "vbroadcasti64x4" => {
            Spec::new(Vex, Kernel::Two(groups::<32>))
        }
        "vinsertf32x4" | "vinserti32x4" | "vinsertf64x2" | "vinserti64x2" => {
            Spec::new(VexOwn, Kernel::Imm(insert::<16>))
        }
        "vinsertf32x8" | "vinserti32x8" | "vinsertf64x4" | "vinserti64x4" => {
            Spec::new(VexOwn, Kernel::Imm(insert::<32>))
        }
        "vextractf32x4" | "vextracti32x4" | "vextractf64x2" | "vextracti64x2" => {
            Spec::new(Vex, Kernel::Imm(extract::<16>))
        }
        "vextractf32x8" | "vextracti32x8" | "vextractf64x4" | "vextracti64x4" => {
            Spec::new(Vex, Kernel::Imm(extract::<32>))
        }
        "vshuff32x4" | "vshufi32x4" | "vshuff64x2" | "vshufi64x2" => {
            Spec::new(VexOwn, Kernel::Imm(shuffle_lanes))
        }
        "vpcompressb" => whole(len, Kernel::Special(compress::<1>)),
        "vpcompressw" => whole(len, Kernel::Special(compress::<2>)),
        "vpcompressd" | "vcompressps" => whole(len, Kernel::Special(compress::<4>)),
        "vpcompressq" | "vcompresspd" => whole(len, Kernel::Special(compress::<8>)),
        "vpexpandb" => Spec::new(Vex, Kernel::Special(expand::<1>)),
        "vpexpandw" => Spec::new(Vex, Kernel::Special(expand::<2>)),
        "vpexpandd" | "vexpandps" => Spec::new(Vex, Kernel::Special(expand::<4>)),
        "vpexpandq" | "vexpandpd" => Spec::new(Vex, Kernel::Special(expand::<8>)),
        _ => None,
    }
}

/// What may be stored and yet is as wide as its source.
fn whole(len: usize, kernel: Kernel) -> Option<Spec> {
    Some(Spec {
        kernel,
        form: Form::Vex,
        part: Some((len, false)),
    })
}
