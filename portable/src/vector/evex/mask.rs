//! Instructions on mask registers.

use iced_x86::{Code, EncodingKind};

use super::super::vex::name;
use super::super::{Kernel, Table, VecOperands};

/// The low bits of a mask.
const fn cut<const BITS: u32>(k: u64) -> u64 {
    k & u64::MAX >> (64 - BITS)
}

/// `k_dst = f(a, b)`.
fn two<const BITS: u32>(ops: &mut VecOperands, f: impl Fn(u64, u64) -> u64) {
    ops.k_dst = cut::<BITS>(f(cut::<BITS>(ops.k_src[0]), cut::<BITS>(ops.k_src[1])));
}

/// ZF for no bit of `zero`, CF for none of `carry`.
fn flags<const BITS: u32>(ops: &mut VecOperands, zero: u64, carry: u64) {
    let (zf, cf) = (cut::<BITS>(zero) == 0, cut::<BITS>(carry) == 0);
    ops.flags_out = Some(u32::from(zf) << 6 | u32::from(cf));
}

/// The kernel of an instruction, by its name without the size.
fn kernel<const BITS: u32>(stem: &str, to_mask: bool) -> Option<fn(&mut VecOperands)> {
    Some(match stem {
        "kadd" => |ops| two::<BITS>(ops, u64::wrapping_add),
        "kand" => |ops| two::<BITS>(ops, |a, b| a & b),
        "kandn" => |ops| two::<BITS>(ops, |a, b| !a & b),
        "kor" => |ops| two::<BITS>(ops, |a, b| a | b),
        "kxor" => |ops| two::<BITS>(ops, |a, b| a ^ b),
        "kxnor" => |ops| two::<BITS>(ops, |a, b| !(a ^ b)),
        "knot" => |ops| two::<BITS>(ops, |a, _| !a),
        "kmov" if to_mask => |ops| two::<BITS>(ops, |a, _| a),
        "kmov" => |ops| ops.gpr_out = cut::<BITS>(ops.k_src[0]),
        "kshiftl" => |ops| {
            let n = u32::from(ops.imm);
            two::<BITS>(ops, |a, _| if n < BITS { a << n } else { 0 });
        },
        "kshiftr" => |ops| {
            let n = u32::from(ops.imm);
            two::<BITS>(ops, |a, _| if n < BITS { a >> n } else { 0 });
        },
        "kortest" => |ops| {
            let or = ops.k_dst | ops.k_src[0];
            flags::<BITS>(ops, or, !or);
        },
        "ktest" => |ops| {
            let (a, b) = (ops.k_dst, ops.k_src[0]);
            flags::<BITS>(ops, a & b, !a & b);
        },
        _ => return None,
    })
}

/// The lower halves of two masks, the first above the second.
fn unpack(ops: &mut VecOperands, bits: u32) {
    let low = u64::MAX >> (64 - bits);
    ops.k_dst = (ops.k_src[0] & low) << bits | ops.k_src[1] & low;
}

/// Adds a row for each instruction on mask registers.
pub(in super::super) fn rows(t: &mut Table) {
    for code in Code::values().filter(|c| c.op_code().encoding() == EncodingKind::VEX) {
        let name = name(code);
        if !name.starts_with('k') {
            continue;
        }
        let to_mask = code.op_code().op_kind(0) == iced_x86::OpCodeOperandKind::k_reg;
        let (stem, size) = name.split_at(name.len() - 1);
        let kernel = match (name.as_str(), size) {
            ("kunpckbw", _) => Some((|ops| unpack(ops, 8)) as fn(&mut VecOperands)),
            ("kunpckwd", _) => Some((|ops| unpack(ops, 16)) as fn(&mut VecOperands)),
            ("kunpckdq", _) => Some((|ops| unpack(ops, 32)) as fn(&mut VecOperands)),
            (_, "b") => kernel::<8>(stem, to_mask),
            (_, "w") => kernel::<16>(stem, to_mask),
            (_, "d") => kernel::<32>(stem, to_mask),
            _ => kernel::<64>(stem, to_mask),
        };
        let Some(kernel) = kernel else {
            continue;
        };
        t.xmm(code, Kernel::Special(kernel));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{VecOperands, execute};
    use iced_x86::Code as C;

    #[test]
    fn masks_are_combined() {
        let run = |code, imm, a, b| {
            let mut ops = VecOperands {
                k_dst: a,
                k_src: [a, b],
                imm,
                ..VecOperands::default()
            };
            let mut mxcsr = 0x1F80;
            execute(code, &mut ops, &mut mxcsr).unwrap();
            ops.k_dst
        };
        assert_eq!(run(C::VEX_Kandnw_kr_kr_kr, 0, 0xff00f, 0xffff), 0x0ff0);
        assert_eq!(run(C::VEX_Kunpckbw_kr_kr_kr, 0, 0x12, 0x134), 0x1234);
        assert_eq!(run(C::VEX_Kshiftlb_kr_kr_imm8, 4, 0x3f, 0), 0xf0);
        assert_eq!(run(C::VEX_Kshiftrq_kr_kr_imm8, 64, u64::MAX, 0), 0);
        let mut ops = VecOperands {
            k_dst: 0xf0,
            k_src: [0x0f, 0],
            ..VecOperands::default()
        };
        let mut mxcsr = 0x1F80;
        execute(C::VEX_Kortestb_kr_kr, &mut ops, &mut mxcsr).unwrap();
        assert_eq!((ops.flags_out, ops.k_dst), (Some(1), 0xf0));
    }
}
