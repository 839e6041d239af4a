//! Lowers vector instructions: moves by themselves, operations with the load before them, the rest by host stubs.

use iced_x86::Code;
use ir::{Masked, Mem, Op, OpCode, Operand, VecInsn, Width};

use super::Lower;
use super::address::Address;
use crate::code::{Handler, LOp};
use crate::handlers::vector::{self, WITH_MEMORY};
use crate::handlers::{masked, memory, system as sys};

/// What an instruction with a memory source does to its destination.
enum Load {
    /// Takes the bytes and clears the rest of the 16.
    Whole(i64),
    /// Takes the bytes and clears the rest of the register.
    Vex(i64),
    Lower,
    Upper,
}

fn load_form(code: Code) -> Option<Load> {
    Some(match code {
        Code::Movaps_xmm_xmmm128
        | Code::Movups_xmm_xmmm128
        | Code::Movapd_xmm_xmmm128
        | Code::Movupd_xmm_xmmm128
        | Code::Movdqa_xmm_xmmm128
        | Code::Movdqu_xmm_xmmm128
        | Code::Lddqu_xmm_m128
        | Code::Movntdqa_xmm_m128 => Load::Whole(16),
        Code::Movsd_xmm_xmmm64 | Code::Movq_xmm_xmmm64 | Code::Movq_xmm_rm64 => Load::Whole(8),
        Code::Movss_xmm_xmmm32 | Code::Movd_xmm_rm32 => Load::Whole(4),
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => Load::Lower,
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => Load::Upper,
        Code::VEX_Vmovaps_ymm_ymmm256
        | Code::VEX_Vmovups_ymm_ymmm256
        | Code::VEX_Vmovapd_ymm_ymmm256
        | Code::VEX_Vmovupd_ymm_ymmm256
        | Code::VEX_Vmovdqa_ymm_ymmm256
        | Code::VEX_Vmovdqu_ymm_ymmm256
        | Code::VEX_Vlddqu_ymm_m256
        | Code::VEX_Vmovntdqa_ymm_m256 => Load::Vex(32),
        Code::VEX_Vmovaps_xmm_xmmm128
        | Code::VEX_Vmovups_xmm_xmmm128
        | Code::VEX_Vmovapd_xmm_xmmm128
        | Code::VEX_Vmovupd_xmm_xmmm128
        | Code::VEX_Vmovdqa_xmm_xmmm128
        | Code::VEX_Vmovdqu_xmm_xmmm128
        | Code::VEX_Vlddqu_xmm_m128
        | Code::VEX_Vmovntdqa_xmm_m128 => Load::Vex(16),
        Code::VEX_Vmovsd_xmm_m64 | Code::VEX_Vmovq_xmm_xmmm64 | Code::VEX_Vmovq_xmm_rm64 => {
            Load::Vex(8)
        }
        Code::VEX_Vmovss_xmm_m32 | Code::VEX_Vmovd_xmm_rm32 => Load::Vex(4),
        _ => return None,
    })
}

/// Whether the instruction's result or flags depend on MXCSR: floating-point arithmetic, conversion, comparison.
pub(crate) fn uses_mxcsr(code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic());
    // No SSE instruction begins with a V.
    let name = match name.strip_prefix('V') {
        Some(rest) => {
            let mut rest = rest.to_owned();
            rest[..1].make_ascii_uppercase();
            rest
        }
        None => name,
    };
    let tails = ["ps", "pd", "ss", "sd"];
    let arithmetic = [
        "Add", "Sub", "Mul", "Div", "Sqrt", "Max", "Min", "Cmp", "Round", "Dp", "Haddp", "Hsubp",
        "Fmadd", "Fmsub", "Fnmadd", "Fnmsub", "Getexp", "Getmant", "Rndscale", "Reduce", "Range",
        "Scalef", "Fixupimm",
    ];
    let float =
        tails.iter().any(|t| name.ends_with(t)) && arithmetic.iter().any(|a| name.starts_with(a));
    float
        || name.starts_with("Cvt")
        || name.starts_with("Comis")
        || name.starts_with("Ucomis")
        || name.starts_with("Fpclass")
}

impl Lower<'_> {
    /// A vector's address, and what the handler itself checks of its alignment, as a mask.
    fn vec_address(&mut self, at: usize, mem: &Mem, size: u32) -> Option<(Address, u16)> {
        if self.mode.align_check() {
            return Some((self.address(at, mem, size)?, 0));
        }
        Some((
            self.plain_address(at, mem)?,
            u16::from(mem.align).max(1) - 1,
        ))
    }

    /// VecLoad, VecStore.
    pub(super) fn vec_move(&mut self, at: usize, op: &Op) -> Option<()> {
        let load = op.code == OpCode::VecLoad;
        let (size, masked) = if load { (op.a, op.b) } else { (op.b, op.c) };
        let Operand::Imm(size) = size else {
            return None;
        };
        if let Operand::Imm(masked) = masked {
            return self.vec_move_masked(at, op, size, Masked::decode(masked));
        }
        if matches!(size, 4 | 8 | 16 | 32 | 64) {
            let (address, align) = self.vec_address(at, &op.mem?, size as u32)?;
            let (idx, a32) = (address.idx, address.a32);
            if load {
                let (run, d) = (vector::load_of(size, idx, a32)?, self.dest(at, op.dst)?);
                self.push(LOp {
                    run,
                    a: align,
                    d,
                    ..self.with_address(address)
                });
            } else {
                let (run, a) = (vector::store_of(size, idx, a32)?, self.field(at, op.a)?);
                self.push(LOp {
                    run,
                    a,
                    d: align,
                    ..self.with_address(address)
                });
            }
            return Some(());
        }
        let address = self.address(at, &op.mem?, size as u32)?;
        let (run, a, d): (Handler, u16, u16) = if load {
            let table: [Handler; 4] = [
                memory::vec_load::<false, false>,
                memory::vec_load::<true, false>,
                memory::vec_load::<false, true>,
                memory::vec_load::<true, true>,
            ];
            (
                memory::pick(address.idx, address.a32, table),
                size as u16,
                self.dest(at, op.dst)?,
            )
        } else {
            let table: [Handler; 4] = [
                memory::vec_store::<false, false>,
                memory::vec_store::<true, false>,
                memory::vec_store::<false, true>,
                memory::vec_store::<true, true>,
            ];
            (
                memory::pick(address.idx, address.a32, table),
                self.field(at, op.a)?,
                size as u16,
            )
        };
        self.push(LOp {
            run,
            a,
            d,
            ..self.with_address(address)
        });
        Some(())
    }

    /// VecLoad, VecStore and ProbeWrite of what a mask chooses.
    pub(super) fn vec_move_masked(
        &mut self,
        at: usize,
        op: &Op,
        size: i64,
        elements: Masked,
    ) -> Option<()> {
        let mem = op.mem?;
        // With a segment, the handler makes an address of each element's offset.
        let address = self.plain_address(at, &mem)?;
        let align = u16::from(mem.align).max(1) - 1;
        let (idx, a32) = (address.idx, address.a32);
        let (run, a, d) = match op.code {
            OpCode::VecLoad => (
                masked::handler(true, idx, a32),
                align,
                self.dest(at, op.dst)?,
            ),
            OpCode::VecStore => {
                let from = self.field(at, op.a)?;
                (masked::handler(false, idx, a32), from, align)
            }
            _ => (masked::probe_handler(idx, a32), 0, align),
        };
        let imm = i64::from(address.scale) | size << 48;
        let what = masked::pack(elements);
        self.push(LOp {
            run,
            a,
            d,
            imm: imm | what,
            ..self.with_address(address)
        });
        Some(())
    }

    /// A load and the vector instruction that alone reads what it loads. Returns how many ops that were.
    pub(super) fn vec_with_memory(&mut self, at: usize) -> Option<usize> {
        let (load, user) = (self.ops[at], *self.same_insn(at, 1)?);
        let size = match (load.code, load.dst, load.a) {
            (OpCode::VecLoad, Operand::VecTemp(t), Operand::Imm(size))
                if self.vec_temps[usize::from(t.0)].1 == at as u32 + 1 =>
            {
                size
            }
            (OpCode::Load, _, _) if self.single(load.dst) => load.width.bytes().into(),
            _ => return None,
        };
        if self.exact || user.code != OpCode::Vec || user.a != load.dst || user.b.is_some() {
            return None;
        }
        if !matches!(user.dst, Operand::Vec(_)) {
            return None;
        }
        // What EVEX adds, and masked loads, go by stubs.
        let code = Code::try_from(user.sub as usize).ok()?;
        if load.code == OpCode::VecLoad && load.b.is_some() {
            return None;
        }
        let mem = load.mem?;
        if let Some(form) = load_form(code) {
            if matches!(form, Load::Whole(n) | Load::Vex(n) if n != size) {
                return None;
            }
            let (address, align) = self.vec_address(at, &mem, size as u32)?;
            let (idx, a32) = (address.idx, address.a32);
            let run = match form {
                Load::Whole(n) => vector::load_of(n, idx, a32)?,
                Load::Vex(n) => vector::load_vex_of(n, idx, a32)?,
                Load::Lower => vector::load_half_of(false, idx, a32)?,
                Load::Upper => vector::load_half_of(true, idx, a32)?,
            };
            let d = self.dest(at, user.dst)?;
            self.push(LOp {
                run,
                a: align,
                d,
                ..self.with_address(address)
            });
            return Some(2);
        }
        vector::with_memory_of(code, true)?;
        if mem.addr == Width::B16 || self.mode.align_check() {
            return None;
        }
        let (address, a) = self.vec_address(at, &mem, size as u32)?;
        let run = vector::with_memory_of(code, !address.idx && !address.a32)?;
        let place = self.out.ops.len();
        let d = self.dest(at, user.dst)?;
        let imm = i64::from(address.scale) | i64::from(address.a32) << 4;
        self.push(LOp {
            run,
            a,
            d,
            imm,
            ..self.with_address(address)
        });
        self.single_op(at, &load)?;
        self.single_op(at + 1, &user)?;
        if self.out.ops.len() != place + usize::from(WITH_MEMORY) {
            self.out.ops.remove(place);
        }
        Some(2)
    }

    /// A vector instruction on registers and temporaries.
    pub(super) fn vec(&mut self, at: usize, op: &Op) -> Option<()> {
        let code = VecInsn::decode(op.sub)?.code;
        if !self.exact && matches!(code, Code::VEX_Vzeroupper | Code::VEX_Vzeroall) {
            let run = vector::zero_uppers as Handler;
            let imm = i64::from(op.sub);
            self.push(LOp {
                run,
                imm,
                ..self.blank()
            });
            return Some(());
        }
        let imm = self.describe(at, op, !self.exact)?;
        let what = self.out.vec_ops.last()?;
        let (fields, code) = (what.fields, what.insn.code);
        if !self.exact
            && matches!(op.a, Operand::Vec(_))
            && let Some(run) = vector::compare_registers(code)
        {
            self.push(LOp {
                run,
                a: fields[0],
                b: fields[1],
                imm,
                ..self.blank()
            });
            return Some(());
        }
        let run = match what.stub {
            None => sys::vec_portable,
            Some(stub) => match crate::host::as_handler(stub) {
                Some(run) => run,
                None if uses_mxcsr(code) => sys::vec_stub_fp,
                None => sys::vec_stub,
            },
        };
        self.push(LOp {
            run,
            imm,
            ..self.blank()
        });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::uses_mxcsr;
    use iced_x86::Code;

    #[test]
    fn integer_minimum_and_moves_do_not_depend_on_mxcsr() {
        for code in [
            Code::Minss_xmm_xmmm32,
            Code::Cvttsd2si_r32_xmmm64,
            Code::Cmppd_xmm_xmmm128_imm8,
            Code::VEX_Vfmadd132ss_xmm_xmm_xmmm32,
            Code::VEX_Vaddsubps_ymm_ymm_ymmm256,
            Code::VEX_Vcvtph2ps_xmm_xmmm64,
        ] {
            assert!(uses_mxcsr(code), "{code:?}");
        }
        for code in [
            Code::Pminsd_xmm_xmmm128,
            Code::Movsd_xmm_xmmm64,
            Code::Pcmpeqd_xmm_xmmm128,
            Code::VEX_Vpmaxsd_xmm_xmm_xmmm128,
            Code::VEX_Vmaskmovps_xmm_xmm_m128,
        ] {
            assert!(!uses_mxcsr(code), "{code:?}");
        }
    }
}
