//! VEX forms: most are an SSE operation with a destination of its own, on 16 or 32 bytes. This finds which.

use std::collections::HashMap;

use iced_x86::{Code, CpuidFeature, EncodingKind, OpCodeOperandKind as K};

use super::{Form, Kernel, Row, Table};

/// Rows that have no SSE form to be derived from.
pub(super) trait Vex {
    /// A row: bytes of the vectors and of what the kernel writes.
    fn vex(&mut self, code: Code, len: u8, active: u8, form: Form, kernel: Kernel);
    /// A row that writes `active` bytes and clears the rest.
    fn vex_zero(&mut self, code: Code, len: u8, active: u8, kernel: Kernel);
}

impl Vex for Table {
    fn vex(&mut self, code: Code, len: u8, active: u8, form: Form, kernel: Kernel) {
        self.put(
            code,
            Row {
                len,
                active,
                zero_rest: false,
                form,
                kernel,
            },
        );
    }

    fn vex_zero(&mut self, code: Code, len: u8, active: u8, kernel: Kernel) {
        self.put(
            code,
            Row {
                len,
                active,
                zero_rest: true,
                form: Form::Vex,
                kernel,
            },
        );
    }
}

/// Operand kinds without what VEX adds: the operand in VEX.vvvv, the one in the immediate, and the length.
pub(super) fn plain(code: Code) -> Vec<K> {
    code.op_code()
        .op_kinds()
        .iter()
        .filter(|kind| {
            !matches!(
                kind,
                K::xmm_vvvv | K::ymm_vvvv | K::zmm_vvvv | K::xmm_is4 | K::ymm_is4
            )
        })
        .map(|kind| match kind {
            // A mask is a vector of sign bits.
            K::ymm_reg | K::zmm_reg | K::k_reg => K::xmm_reg,
            K::ymm_or_mem | K::ymm_rm | K::xmm_rm | K::mem | K::zmm_or_mem | K::zmm_rm => {
                K::xmm_or_mem
            }
            kind => *kind,
        })
        .collect()
}

pub(super) fn name(code: Code) -> String {
    format!("{:?}", code.mnemonic()).to_lowercase()
}

/// Instructions that read their first operand and don't write it.
fn reads_first(name: &str) -> bool {
    name.starts_with("vptest")
        || name.starts_with("vcomis")
        || name.starts_with("vucomis")
        || name.starts_with("vpcmpestr")
        || name.starts_with("vpcmpistr")
}

/// Extensions whose rows are derived.
fn derived(code: Code) -> bool {
    use CpuidFeature as F;
    let known = |f: &F| {
        matches!(
            f,
            F::AVX | F::AVX2 | F::AES | F::PCLMULQDQ | F::VAES | F::VPCLMULQDQ | F::GFNI
        )
    };
    code.op_code().encoding() == EncodingKind::VEX && code.cpuid_features().iter().all(known)
}

/// Adds a row for each VEX form of an instruction that has one already.
pub(super) fn derive(t: &mut Table) {
    let legacy: HashMap<(String, Vec<K>), Row> = Code::values()
        .filter_map(|code| Some(((name(code), plain(code)), t.0[code as usize]?)))
        .filter(|(_, row)| row.form == Form::Legacy && row.len == 16)
        .collect();
    for code in Code::values().filter(|&code| derived(code)) {
        let name = name(code);
        let Some(short) = name.strip_prefix('v') else {
            continue;
        };
        let Some(row) = legacy.get(&(short.to_owned(), plain(code))) else {
            continue;
        };
        if t.0[code as usize].is_some() || short == "maskmovdqu" {
            continue;
        }
        let kinds = code.op_code().op_kinds();
        let wide = kinds
            .iter()
            .any(|kind| matches!(kind, K::ymm_reg | K::ymm_vvvv | K::ymm_or_mem | K::ymm_rm));
        let own = kinds
            .iter()
            .any(|kind| matches!(kind, K::xmm_vvvv | K::ymm_vvvv));
        let times = if wide { 2 } else { 1 };
        t.put(
            code,
            Row {
                len: row.len * times,
                active: row.active * times,
                form: match () {
                    () if reads_first(&name) => Form::VexReads,
                    () if own => Form::VexOwn,
                    () => Form::Vex,
                },
                ..*row
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VecOperands, execute};
    use iced_x86::Code as C;

    #[test]
    fn a_scalar_keeps_the_first_source_and_clears_the_rest() {
        let mut ops = VecOperands {
            dst: [0x11; 64],
            src1: [0x22; 64],
            ..VecOperands::default()
        };
        ops.src1[..4].copy_from_slice(&1.0f32.to_le_bytes());
        ops.src2[..4].copy_from_slice(&2.0f32.to_le_bytes());
        let mut mxcsr = 0x1F80;
        execute(C::VEX_Vaddss_xmm_xmm_xmmm32, &mut ops, &mut mxcsr).unwrap();
        assert_eq!(ops.dst[..4], 3.0f32.to_le_bytes());
        assert_eq!(
            (ops.dst[4], ops.dst[15], ops.dst[16], ops.dst[63]),
            (0x22, 0x22, 0, 0)
        );
    }

    #[test]
    fn both_halves_narrow_into_one() {
        let mut ops = VecOperands {
            dst: [0x11; 64],
            ..VecOperands::default()
        };
        for (i, lane) in ops.src1[..32].chunks_mut(8).enumerate() {
            lane.copy_from_slice(&(i as f64).to_le_bytes());
        }
        let mut mxcsr = 0x1F80;
        execute(C::VEX_Vcvtpd2dq_xmm_ymmm256, &mut ops, &mut mxcsr).unwrap();
        assert_eq!(
            (ops.dst[0], ops.dst[4], ops.dst[12], ops.dst[16]),
            (0, 1, 3, 0)
        );
    }

    #[test]
    fn comparisons_leave_their_first_operand() {
        let mut ops = VecOperands {
            dst: [0x11; 64],
            src1: [0x22; 64],
            ..VecOperands::default()
        };
        let mut mxcsr = 0x1F80;
        execute(C::VEX_Vptest_ymm_ymmm256, &mut ops, &mut mxcsr).unwrap();
        assert_eq!((ops.dst, ops.flags_out), ([0x11; 64], Some(1 << 6)));
    }
}
