//! Integer operations that AVX-512 has and AVX2 has not.

use iced_x86::OpCodeOperandKind as K;

use super::super::lanes::{Lane, map1, map2};
use super::super::{Form, Kernel, VecOperands};
use super::Spec;

macro_rules! two {
    ($type:ty, $f:expr) => {
        Kernel::Two(|d, a, b| map2::<$type>(d, a, b, $f))
    };
}

macro_rules! one {
    ($type:ty, $f:expr) => {
        Kernel::Two(|d, _, b| map1::<$type, $type>(d, b, $f))
    };
}

macro_rules! by_imm {
    ($type:ty, $f:expr) => {
        Kernel::Imm(|d, a, _, imm| map1::<$type, $type>(d, a, |x| $f(x, u32::from(imm))))
    };
}

/// Lanes narrower than their source's.
macro_rules! narrow {
    ($from:ty, $to:ty, $f:expr) => {
        Kernel::Two(|d, _, b| map1::<$from, $to>(d, b, $f))
    };
}

/// Works on the destination's old lane and the sources'.
fn three<T: Lane>(ops: &mut VecOperands, f: impl Fn(T, T, T) -> T) {
    for i in 0..ops.active / T::SIZE {
        let value = f(
            T::get(&ops.dst, i),
            T::get(&ops.src1, i),
            T::get(&ops.src2, i),
        );
        value.put(&mut ops.dst, i);
    }
}

/// A lane's low bits as an index.
trait Index: Lane {
    fn index(self) -> usize;
}

macro_rules! index {
    ($($type:ty)*) => {$(
        impl Index for $type {
            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}

index!(u8 u16 u32 u64);

/// VPERMB and its kin: lanes of `b` chosen by those of `a`.
fn permute<T: Index>(d: &mut [u8], a: &[u8], b: &[u8]) {
    let lanes = d.len() / T::SIZE;
    for i in 0..lanes {
        T::get(b, T::get(a, i).index() % lanes).put(d, i);
    }
}

/// VPERMI2B and VPERMT2B and their kin: lanes of two tables chosen by an index, which the destination holds (`INDEX`)
/// or the first source.
fn permute_two<T: Index, const INDEX: bool>(ops: &mut VecOperands) {
    let (indices, low) = if INDEX {
        (ops.dst, ops.src1)
    } else {
        (ops.src1, ops.dst)
    };
    let lanes = ops.active / T::SIZE;
    for i in 0..lanes {
        let index = T::get(&indices, i).index() % (2 * lanes);
        let value = if index < lanes {
            T::get(&low, index)
        } else {
            T::get(&ops.src2, index - lanes)
        };
        value.put(&mut ops.dst, i);
    }
}

/// VALIGND and VALIGNQ: lanes from `imm` on of `a` above `b`.
fn align<T: Lane>(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    let lanes = d.len() / T::SIZE;
    let first = usize::from(imm) % lanes;
    for i in 0..lanes {
        let from = first + i;
        let value = if from < lanes {
            T::get(b, from)
        } else {
            T::get(a, from - lanes)
        };
        value.put(d, i);
    }
}

/// Each result bit is the immediate's bit that three bits number.
fn ternary(ops: &mut VecOperands) {
    let imm = ops.imm;
    three::<u64>(ops, |a, b, c| {
        (0..8u32)
            .filter(|n| imm >> n & 1 != 0)
            .map(|n| {
                let pick = |bit: u32, x: u64| if n >> bit & 1 != 0 { x } else { !x };
                pick(2, a) & pick(1, b) & pick(0, c)
            })
            .fold(0, |sum, term| sum | term)
    });
}

/// Which lanes before this one are equal to it.
fn conflicts<T: Lane + PartialEq>(d: &mut [u8], b: &[u8], bits: impl Fn(u64) -> T) {
    for i in 0..d.len() / T::SIZE {
        let value = T::get(b, i);
        let equal = (0..i)
            .filter(|j| T::get(b, *j) == value)
            .fold(0, |set, j| set | 1 << j);
        bits(equal).put(d, i);
    }
}

/// An integer comparison with one of eight predicates: all ones where it holds.
fn compare<T: Lane + Ord>(d: &mut [u8], a: &[u8], b: &[u8], predicate: u8) {
    for i in 0..d.len() / T::SIZE {
        let (x, y) = (T::get(a, i), T::get(b, i));
        let holds = match predicate & 3 {
            0 => x == y,
            1 => x < y,
            2 => x <= y,
            _ => false,
        } != (predicate & 4 != 0);
        d[i * T::SIZE..(i + 1) * T::SIZE].fill(if holds { 0xFF } else { 0 });
    }
}

/// VPTESTMx and VPTESTNMx: all ones where there are common bits, or none.
fn test<const N: usize>(d: &mut [u8], a: &[u8], b: &[u8], none: bool) {
    let pairs = a.chunks_exact(N).zip(b.chunks_exact(N));
    for (d, (a, b)) in d.chunks_exact_mut(N).zip(pairs) {
        let common = a.iter().zip(b).any(|(x, y)| x & y != 0);
        d.fill(if common == none { 0 } else { 0xFF });
    }
}

/// VPMADD52LUQ, VPMADD52HUQ: the low or high half of a product of 52 bits each is added.
fn multiply_add_52(ops: &mut VecOperands, high: bool) {
    const LOW: u64 = (1 << 52) - 1;
    three::<u64>(ops, |sum, x, y| {
        let product = u128::from(x & LOW) * u128::from(y & LOW);
        let part = if high {
            (product >> 52) as u64
        } else {
            product as u64 & LOW
        };
        sum.wrapping_add(part)
    });
}

fn sum_up(old: i32, added: i64, saturate: bool) -> i32 {
    let sum = i64::from(old) + added;
    if saturate {
        sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    } else {
        sum as i32
    }
}

/// VPDPBUSD(S): four products of unsigned and signed bytes are added to each doubleword.
fn dot_bytes(ops: &mut VecOperands, saturate: bool) {
    for i in 0..ops.active / 4 {
        let sum: i64 = (4 * i..4 * i + 4)
            .map(|n| i64::from(ops.src1[n]) * i64::from(ops.src2[n] as i8))
            .sum();
        sum_up(i32::get(&ops.dst, i), sum, saturate).put(&mut ops.dst, i);
    }
}

/// VPDPWSSD(S): the same with two products of words.
fn dot_words(ops: &mut VecOperands, saturate: bool) {
    for i in 0..ops.active / 4 {
        let sum: i64 = (2 * i..2 * i + 2)
            .map(|n| i64::from(i16::get(&ops.src1, n)) * i64::from(i16::get(&ops.src2, n)))
            .sum();
        sum_up(i32::get(&ops.dst, i), sum, saturate).put(&mut ops.dst, i);
    }
}

/// VPMULTISHIFTQB: eight bits of `b`'s quadword from where `a`'s byte says.
fn multishift(d: &mut [u8], a: &[u8], b: &[u8]) {
    for (i, d) in d.iter_mut().enumerate() {
        *d = u64::get(b, i / 8).rotate_right(u32::from(a[i] & 63)) as u8;
    }
}

/// VPSHUFBITQMB: the bit of `a`'s quadword that `b`'s byte numbers.
fn pick_bits(d: &mut [u8], a: &[u8], b: &[u8]) {
    for (i, d) in d.iter_mut().enumerate() {
        let bit = u64::get(a, i / 8) >> (b[i] & 63) & 1;
        *d = if bit != 0 { 0xFF } else { 0 };
    }
}

/// VDBPSADBW: sums of four differences, of `a`'s doublewords and of bytes of `b`, whose doublewords are shuffled first.
fn double_sums(d: &mut [u8], a: &[u8], b: &[u8], imm: u8) {
    let parts = d
        .chunks_exact_mut(16)
        .zip(a.chunks_exact(16))
        .zip(b.chunks_exact(16));
    for ((d, a), b) in parts {
        let mut shuffled = [0; 16];
        for i in 0..4 {
            u32::get(b, usize::from(imm >> (2 * i) & 3)).put(&mut shuffled, i);
        }
        for i in 0..8 {
            // Four results a quadword: the first two of its lower doubleword, the others of its upper one.
            let (from, with) = (i / 2 * 4, i / 4 * 8 + i % 4);
            let sum: u16 = (0..4)
                .map(|k| u16::from(a[from + k].abs_diff(shuffled[with + k])))
                .sum();
            sum.put(d, i);
        }
    }
}

/// The upper half of `high:low << n`, and the lower half of it shifted right.
macro_rules! funnel {
    ($type:ty) => {
        (
            |high: $type, low: $type, n: u32| {
                let n = n % <$type>::BITS;
                high << n | low.checked_shr(<$type>::BITS - n).unwrap_or(0)
            },
            |low: $type, high: $type, n: u32| {
                let n = n % <$type>::BITS;
                low >> n | high.checked_shl(<$type>::BITS - n).unwrap_or(0)
            },
        )
    };
}

/// Kernels of VPSHLDx (by an immediate and by a vector) and VPSHRDx.
fn funnels(name: &str) -> Option<Spec> {
    macro_rules! forms {
        ($type:ty, $left:literal, $left_by:literal, $right:literal, $right_by:literal) => {
            if name == $left {
                return Spec::new(
                    Form::VexOwn,
                    Kernel::Imm(|d, a, b, imm| {
                        map2::<$type>(d, a, b, |x, y| funnel!($type).0(x, y, imm.into()))
                    }),
                );
            } else if name == $right {
                return Spec::new(
                    Form::VexOwn,
                    Kernel::Imm(|d, a, b, imm| {
                        map2::<$type>(d, a, b, |x, y| funnel!($type).1(x, y, imm.into()))
                    }),
                );
            } else if name == $left_by {
                return Spec::new(
                    Form::Vex,
                    Kernel::Special(|ops| {
                        three::<$type>(ops, |x, y, n| funnel!($type).0(x, y, n as u32))
                    }),
                );
            } else if name == $right_by {
                return Spec::new(
                    Form::Vex,
                    Kernel::Special(|ops| {
                        three::<$type>(ops, |x, y, n| funnel!($type).1(x, y, n as u32))
                    }),
                );
            }
        };
    }
    forms!(u16, "vpshldw", "vpshldvw", "vpshrdw", "vpshrdvw");
    forms!(u32, "vpshldd", "vpshldvd", "vpshrdd", "vpshrdvd");
    forms!(u64, "vpshldq", "vpshldvq", "vpshrdq", "vpshrdvq");
    None
}

fn narrowing(name: &str) -> Option<Kernel> {
    Some(match name {
        "vpmovwb" => narrow!(u16, u8, |x| x as u8),
        "vpmovdb" => narrow!(u32, u8, |x| x as u8),
        "vpmovdw" => narrow!(u32, u16, |x| x as u16),
        "vpmovqb" => narrow!(u64, u8, |x| x as u8),
        "vpmovqw" => narrow!(u64, u16, |x| x as u16),
        "vpmovqd" => narrow!(u64, u32, |x| x as u32),
        "vpmovswb" => narrow!(i16, i8, |x| x.clamp(-0x80, 0x7F) as i8),
        "vpmovsdb" => narrow!(i32, i8, |x| x.clamp(-0x80, 0x7F) as i8),
        "vpmovsdw" => narrow!(i32, i16, |x| x.clamp(-0x8000, 0x7FFF) as i16),
        "vpmovsqb" => narrow!(i64, i8, |x| x.clamp(-0x80, 0x7F) as i8),
        "vpmovsqw" => narrow!(i64, i16, |x| x.clamp(-0x8000, 0x7FFF) as i16),
        "vpmovsqd" => narrow!(i64, i32, |x| x.clamp(i32::MIN.into(), i32::MAX.into())
            as i32),
        "vpmovuswb" => narrow!(u16, u8, |x| x.min(0xFF) as u8),
        "vpmovusdb" => narrow!(u32, u8, |x| x.min(0xFF) as u8),
        "vpmovusdw" => narrow!(u32, u16, |x| x.min(0xFFFF) as u16),
        "vpmovusqb" => narrow!(u64, u8, |x| x.min(0xFF) as u8),
        "vpmovusqw" => narrow!(u64, u16, |x| x.min(0xFFFF) as u16),
        "vpmovusqd" => narrow!(u64, u32, |x| x.min(0xFFFF_FFFF) as u32),
        _ => return None,
    })
}

fn into_masks(name: &str) -> Option<Kernel> {
    Some(match name {
        "vpcmpb" => Kernel::Imm(compare::<i8>),
        "vpcmpw" => Kernel::Imm(compare::<i16>),
        "vpcmpd" => Kernel::Imm(compare::<i32>),
        "vpcmpq" => Kernel::Imm(compare::<i64>),
        "vpcmpub" => Kernel::Imm(compare::<u8>),
        "vpcmpuw" => Kernel::Imm(compare::<u16>),
        "vpcmpud" => Kernel::Imm(compare::<u32>),
        "vpcmpuq" => Kernel::Imm(compare::<u64>),
        "vptestmb" => Kernel::Two(|d, a, b| test::<1>(d, a, b, false)),
        "vptestmw" => Kernel::Two(|d, a, b| test::<2>(d, a, b, false)),
        "vptestmd" => Kernel::Two(|d, a, b| test::<4>(d, a, b, false)),
        "vptestmq" => Kernel::Two(|d, a, b| test::<8>(d, a, b, false)),
        "vptestnmb" => Kernel::Two(|d, a, b| test::<1>(d, a, b, true)),
        "vptestnmw" => Kernel::Two(|d, a, b| test::<2>(d, a, b, true)),
        "vptestnmd" => Kernel::Two(|d, a, b| test::<4>(d, a, b, true)),
        "vptestnmq" => Kernel::Two(|d, a, b| test::<8>(d, a, b, true)),
        "vpshufbitqmb" => Kernel::Two(pick_bits),
        _ => return None,
    })
}

/// Kernels that see the destination's old value.
fn accumulating(name: &str) -> Option<fn(&mut VecOperands)> {
    Some(match name {
        "vpternlogd" | "vpternlogq" => ternary,
        "vpermi2b" => permute_two::<u8, true>,
        "vpermi2w" => permute_two::<u16, true>,
        "vpermi2d" | "vpermi2ps" => permute_two::<u32, true>,
        "vpermi2q" | "vpermi2pd" => permute_two::<u64, true>,
        "vpermt2b" => permute_two::<u8, false>,
        "vpermt2w" => permute_two::<u16, false>,
        "vpermt2d" | "vpermt2ps" => permute_two::<u32, false>,
        "vpermt2q" | "vpermt2pd" => permute_two::<u64, false>,
        "vpmadd52luq" => |ops| multiply_add_52(ops, false),
        "vpmadd52huq" => |ops| multiply_add_52(ops, true),
        "vpdpbusd" => |ops| dot_bytes(ops, false),
        "vpdpbusds" => |ops| dot_bytes(ops, true),
        "vpdpwssd" => |ops| dot_words(ops, false),
        "vpdpwssds" => |ops| dot_words(ops, true),
        _ => return None,
    })
}

/// Kernels of two sources, the second by an immediate or a lane.
fn binary(name: &str, kinds: &[K]) -> Option<Kernel> {
    let imm = kinds.contains(&K::imm8);
    Some(match name {
        "vpmaxsq" => two!(i64, |x, y| x.max(y)),
        "vpmaxuq" => two!(u64, |x, y| x.max(y)),
        "vpminsq" => two!(i64, |x, y| x.min(y)),
        "vpminuq" => two!(u64, |x, y| x.min(y)),
        "vpmullq" => two!(u64, u64::wrapping_mul),
        "vpsraq" if imm => by_imm!(i64, |x: i64, n: u32| x >> n.min(63)),
        "vpsraq" => Kernel::Two(|d, a, b| {
            let n = u64::get(b, 0).min(63);
            map1::<i64, i64>(d, a, |x| x >> n);
        }),
        "vpsravq" => two!(i64, |x, n| x >> (n as u64).min(63)),
        "vpsravw" => two!(i16, |x, n| x >> (n as u16).min(15)),
        "vpsllvw" => two!(u16, |x, n| x.checked_shl(n.into()).unwrap_or(0)),
        "vpsrlvw" => two!(u16, |x, n| x.checked_shr(n.into()).unwrap_or(0)),
        "vprold" => by_imm!(u32, |x: u32, n: u32| x.rotate_left(n % 32)),
        "vprolq" => by_imm!(u64, |x: u64, n: u32| x.rotate_left(n % 64)),
        "vprord" => by_imm!(u32, |x: u32, n: u32| x.rotate_right(n % 32)),
        "vprorq" => by_imm!(u64, |x: u64, n: u32| x.rotate_right(n % 64)),
        "vprolvd" => two!(u32, |x, n| x.rotate_left(n % 32)),
        "vprolvq" => two!(u64, |x, n| x.rotate_left((n % 64) as u32)),
        "vprorvd" => two!(u32, |x, n| x.rotate_right(n % 32)),
        "vprorvq" => two!(u64, |x, n| x.rotate_right((n % 64) as u32)),
        "vpermb" => Kernel::Two(permute::<u8>),
        "vpermw" => Kernel::Two(permute::<u16>),
        "vpermq" | "vpermpd" if !imm => Kernel::Two(permute::<u64>),
        "valignd" => Kernel::Imm(align::<u32>),
        "valignq" => Kernel::Imm(align::<u64>),
        "vpmultishiftqb" => Kernel::Two(multishift),
        "vdbpsadbw" => Kernel::Imm(double_sums),
        _ => return None,
    })
}

/// Kernels of one source.
fn unary(name: &str) -> Option<Kernel> {
    Some(match name {
        "vpabsq" => one!(i64, i64::wrapping_abs),
        "vplzcntd" => one!(u32, u32::leading_zeros),
        "vplzcntq" => one!(u64, |x| x.leading_zeros().into()),
        "vpopcntb" => one!(u8, |x| x.count_ones() as u8),
        "vpopcntw" => one!(u16, |x| x.count_ones() as u16),
        "vpopcntd" => one!(u32, u32::count_ones),
        "vpopcntq" => one!(u64, |x| x.count_ones().into()),
        "vpconflictd" => Kernel::Two(|d, _, b| conflicts::<u32>(d, b, |set| set as u32)),
        "vpconflictq" => Kernel::Two(|d, _, b| conflicts::<u64>(d, b, |set| set)),
        _ => return None,
    })
}

pub(super) fn kernel(name: &str, kinds: &[K]) -> Option<Spec> {
    if let Some(kernel) = accumulating(name) {
        return Spec::new(Form::Vex, Kernel::Special(kernel));
    }
    if let Some(kernel) = binary(name, kinds).or_else(|| into_masks(name)) {
        return Spec::new(Form::VexOwn, kernel);
    }
    if let Some(kernel) = unary(name).or_else(|| narrowing(name)) {
        return Spec::new(Form::Vex, kernel);
    }
    funnels(name)
}
