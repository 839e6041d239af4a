//! MMX, SSE and AVX: one function for nearly all of them, driven by the decoder's description of the operands.

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};
use ir::{HelperId, Mem, Op, OpCode, Operand, Width};
use x86::{Gpr, Seg};

use super::operand::{gpr, width_of};
use super::{Flow, Lift, Lifter, NM, UD};

const NONE: Operand = Operand::None;

/// Whether an operand is, or could be where it is in memory, an MMX, XMM, YMM, ZMM or mask register.
pub(super) fn is_vector(insn: &Instruction) -> bool {
    has(insn, Register::is_mm)
        || has_xmm(insn)
        || has(insn, Register::is_ymm)
        || has(insn, Register::is_zmm)
        || has(insn, Register::is_k)
}

/// Whether the instruction has a VEX or EVEX prefix.
pub(super) fn is_vex(insn: &Instruction) -> bool {
    matches!(insn.encoding(), EncodingKind::VEX | EncodingKind::EVEX)
}

fn has_xmm(insn: &Instruction) -> bool {
    use OpCodeOperandKind as K;
    let info = insn.op_code();
    (0..info.op_count()).any(|n| matches!(info.op_kind(n), K::xmm_reg | K::xmm_rm | K::xmm_or_mem))
}

fn has(insn: &Instruction, which: impl Fn(Register) -> bool) -> bool {
    (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Register && which(insn.op_register(n)))
}

/// Whether the instruction's memory operand must be aligned to its size: with VEX only the moves that say so.
fn aligned(insn: &Instruction, bytes: u32) -> bool {
    use Mnemonic as M;
    if is_vex(insn) {
        return matches!(
            insn.mnemonic(),
            M::Vmovaps
                | M::Vmovapd
                | M::Vmovdqa
                | M::Vmovdqa32
                | M::Vmovdqa64
                | M::Vmovntps
                | M::Vmovntpd
                | M::Vmovntdq
                | M::Vmovntdqa
        );
    }
    let unaligned = matches!(
        insn.mnemonic(),
        M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Lddqu
            | M::Pcmpestri
            | M::Pcmpestrm
            | M::Pcmpistri
            | M::Pcmpistrm
            | M::Pcmpestri64
            | M::Pcmpestrm64
    );
    bytes == 16 && !unaligned
}

/// Stores that copy the register's low bytes.
fn plain_store(code: Code) -> bool {
    matches!(
        code,
        Code::Movaps_xmmm128_xmm
            | Code::Movups_xmmm128_xmm
            | Code::Movapd_xmmm128_xmm
            | Code::Movupd_xmmm128_xmm
            | Code::Movdqa_xmmm128_xmm
            | Code::Movdqu_xmmm128_xmm
            | Code::Movntps_m128_xmm
            | Code::Movntpd_m128_xmm
            | Code::Movntdq_m128_xmm
            | Code::Movss_xmmm32_xmm
            | Code::Movsd_xmmm64_xmm
            | Code::Movlps_m64_xmm
            | Code::Movlpd_m64_xmm
            | Code::Movq_xmmm64_xmm
            | Code::Movd_rm32_xmm
            | Code::Movq_rm64_xmm
            | Code::VEX_Vmovaps_xmmm128_xmm
            | Code::VEX_Vmovaps_ymmm256_ymm
            | Code::VEX_Vmovups_xmmm128_xmm
            | Code::VEX_Vmovups_ymmm256_ymm
            | Code::VEX_Vmovapd_xmmm128_xmm
            | Code::VEX_Vmovapd_ymmm256_ymm
            | Code::VEX_Vmovupd_xmmm128_xmm
            | Code::VEX_Vmovupd_ymmm256_ymm
            | Code::VEX_Vmovdqa_xmmm128_xmm
            | Code::VEX_Vmovdqa_ymmm256_ymm
            | Code::VEX_Vmovdqu_xmmm128_xmm
            | Code::VEX_Vmovdqu_ymmm256_ymm
            | Code::VEX_Vmovntps_m128_xmm
            | Code::VEX_Vmovntps_m256_ymm
            | Code::VEX_Vmovntpd_m128_xmm
            | Code::VEX_Vmovntpd_m256_ymm
            | Code::VEX_Vmovntdq_m128_xmm
            | Code::VEX_Vmovntdq_m256_ymm
            | Code::VEX_Vmovss_m32_xmm
            | Code::VEX_Vmovsd_m64_xmm
            | Code::VEX_Vmovlps_m64_xmm
            | Code::VEX_Vmovlpd_m64_xmm
            | Code::VEX_Vmovq_xmmm64_xmm
            | Code::VEX_Vmovd_rm32_xmm
            | Code::VEX_Vmovq_rm64_xmm
            | Code::EVEX_Vmovaps_xmmm128_k1z_xmm
            | Code::EVEX_Vmovaps_ymmm256_k1z_ymm
            | Code::EVEX_Vmovaps_zmmm512_k1z_zmm
            | Code::EVEX_Vmovups_xmmm128_k1z_xmm
            | Code::EVEX_Vmovups_ymmm256_k1z_ymm
            | Code::EVEX_Vmovups_zmmm512_k1z_zmm
            | Code::EVEX_Vmovapd_xmmm128_k1z_xmm
            | Code::EVEX_Vmovapd_ymmm256_k1z_ymm
            | Code::EVEX_Vmovapd_zmmm512_k1z_zmm
            | Code::EVEX_Vmovupd_xmmm128_k1z_xmm
            | Code::EVEX_Vmovupd_ymmm256_k1z_ymm
            | Code::EVEX_Vmovupd_zmmm512_k1z_zmm
            | Code::EVEX_Vmovdqa32_xmmm128_k1z_xmm
            | Code::EVEX_Vmovdqa32_ymmm256_k1z_ymm
            | Code::EVEX_Vmovdqa32_zmmm512_k1z_zmm
            | Code::EVEX_Vmovdqa64_xmmm128_k1z_xmm
            | Code::EVEX_Vmovdqa64_ymmm256_k1z_ymm
            | Code::EVEX_Vmovdqa64_zmmm512_k1z_zmm
            | Code::EVEX_Vmovdqu8_xmmm128_k1z_xmm
            | Code::EVEX_Vmovdqu8_ymmm256_k1z_ymm
            | Code::EVEX_Vmovdqu8_zmmm512_k1z_zmm
            | Code::EVEX_Vmovdqu16_xmmm128_k1z_xmm
            | Code::EVEX_Vmovdqu16_ymmm256_k1z_ymm
            | Code::EVEX_Vmovdqu16_zmmm512_k1z_zmm
            | Code::EVEX_Vmovdqu32_xmmm128_k1z_xmm
            | Code::EVEX_Vmovdqu32_ymmm256_k1z_ymm
            | Code::EVEX_Vmovdqu32_zmmm512_k1z_zmm
            | Code::EVEX_Vmovdqu64_xmmm128_k1z_xmm
            | Code::EVEX_Vmovdqu64_ymmm256_k1z_ymm
            | Code::EVEX_Vmovdqu64_zmmm512_k1z_zmm
            | Code::EVEX_Vmovntps_m128_xmm
            | Code::EVEX_Vmovntps_m256_ymm
            | Code::EVEX_Vmovntps_m512_zmm
            | Code::EVEX_Vmovntpd_m128_xmm
            | Code::EVEX_Vmovntpd_m256_ymm
            | Code::EVEX_Vmovntpd_m512_zmm
            | Code::EVEX_Vmovntdq_m128_xmm
            | Code::EVEX_Vmovntdq_m256_ymm
            | Code::EVEX_Vmovntdq_m512_zmm
            | Code::EVEX_Vmovss_m32_k1_xmm
            | Code::EVEX_Vmovsd_m64_k1_xmm
            | Code::EVEX_Vmovlps_m64_xmm
            | Code::EVEX_Vmovlpd_m64_xmm
            | Code::EVEX_Vmovq_xmmm64_xmm
            | Code::EVEX_Vmovd_rm32_xmm
            | Code::EVEX_Vmovq_rm64_xmm
    )
}

/// A memory operand of a vector instruction.
#[derive(Clone, Copy)]
struct Place {
    mem: Mem,
    bytes: u32,
    /// A packed [`ir::Masked`], or none.
    masked: Operand,
}

/// The width of an operand that is a general register when it isn't in memory (`bytes` of it), or a mask register.
fn general(kind: OpCodeOperandKind, bytes: u32) -> Option<Width> {
    use OpCodeOperandKind as K;
    match kind {
        K::r8_or_mem => Some(Width::B8),
        K::r16_or_mem => Some(Width::B16),
        K::r32_or_mem => Some(Width::B32),
        K::r64_or_mem => Some(Width::B64),
        K::k_or_mem => Some(width_of(bytes as usize)),
        _ => None,
    }
}

impl Lifter<'_> {
    /// CR0.EM and CR4.OSFXSR, of VEX instructions XCR0 and CR4.OSXSAVE, decide between #UD and life; CR0.TS raises #NM.
    pub(super) fn vector_available(&self, xmm: bool) -> Result<(), super::Trap> {
        let available = if super::evex::needs_avx512(&self.insn) {
            self.mode.avx512()
        } else if is_vex(&self.insn) {
            self.mode.avx()
        } else {
            !self.mode.em() && (!xmm || self.mode.osfxsr())
        };
        if !available {
            return Err(UD);
        }
        if self.mode.ts() { Err(NM) } else { Ok(()) }
    }

    /// MMX state is the x87's: a pending exception comes first.
    fn fpu_check(&mut self) {
        self.b.call(HelperId::FpuCheck, NONE, NONE, NONE, NONE);
    }

    pub(super) fn vector(&mut self) -> Lift {
        let code = self.insn.code();
        let mmx = has(&self.insn, Register::is_mm);
        self.vector_available(has_xmm(&self.insn))?;
        if mmx || code == Code::Cvtpi2ps_xmm_mmm64 {
            self.fpu_check();
        }
        let flags = self.flags();
        let mut op = Op {
            sub: super::evex::decorated(&self.insn).encode(),
            flags,
            ..Op::new(OpCode::Vec, Width::B64)
        };
        let mut slots = [NONE; 4];
        let mut store = None;
        for n in 0..self.insn.op_count().min(4) {
            slots[n as usize] = match self.insn.op_kind(n) {
                OpKind::Register => self.vector_register(n, &mut op),
                OpKind::Memory if n == 0 => {
                    if plain_store(code) {
                        return self.plain_store();
                    }
                    let (place, value) = self.vector_destination(mmx, &mut op);
                    store = Some(place);
                    value
                }
                OpKind::Memory => self.vector_source(n, &mut op),
                _ => Operand::Imm(i64::from(self.insn.immediate(n) as u8)),
            };
        }
        let [dst, a, b, c] = slots;
        self.b.push(Op { dst, a, b, c, ..op });
        if let Some(place) = store {
            self.store_vector(place, dst);
        }
        Ok(Flow::Next)
    }

    fn vector_register(&self, n: u32, op: &mut Op) -> Operand {
        let register = self.insn.op_register(n);
        if register.is_xmm() || register.is_ymm() || register.is_zmm() {
            Operand::Vec(register.number() as u8)
        } else if register.is_k() {
            Operand::Mask(register.number() as u8)
        } else if register.is_mm() {
            Operand::Mmx(register.number() as u8)
        } else {
            op.width = width_of(register.size());
            gpr(register)
        }
    }

    /// The memory operand with the alignment that is wanted of it, its bytes, and how it is masked.
    fn vector_mem(&mut self, write: bool) -> Place {
        let bytes = self.insn.memory_size().size() as u32;
        let align = if aligned(&self.insn, bytes) {
            bytes as u8
        } else {
            1
        };
        let (mem, masked) = match super::evex::masked(&self.insn, write) {
            None => (self.mem(bytes, write), NONE),
            Some(masked) => self.masked_mem(masked, write),
        };
        let mem = Mem { align, ..mem };
        Place { mem, bytes, masked }
    }

    fn vector_source(&mut self, n: u32, op: &mut Op) -> Operand {
        let Place { mem, bytes, masked } = self.vector_mem(false);
        if let Some(w) = general(self.insn.op_code().op_kind(n), bytes) {
            op.width = w;
            let value = self.b.temp();
            self.b.load(width_of(bytes as usize), value, mem);
            return value;
        }
        let value = self.b.vec_temp();
        let a = Operand::Imm(i64::from(bytes));
        self.b.push(Op {
            dst: value,
            a,
            b: masked,
            mem: Some(mem),
            ..Op::new(OpCode::VecLoad, Width::B64)
        });
        value
    }

    /// Where the result goes before it is stored. An MMX op changes the tag word, VCVTPS2PH MXCSR's flags: their stores
    /// must not fault after it.
    fn vector_destination(&mut self, mmx: bool, op: &mut Op) -> (Place, Operand) {
        let place = self.vector_mem(true);
        let Place { mem, bytes, masked } = place;
        if masked != NONE && super::evex::faults_whole(&self.insn) {
            let whole = self.mem(bytes, true);
            self.probe_all(whole, bytes);
        } else if mmx || self.insn.mnemonic() == Mnemonic::Vcvtps2ph {
            if masked == NONE {
                self.probe_all(mem, bytes);
            } else {
                self.b.push(Op {
                    a: masked,
                    mem: Some(mem),
                    ..Op::new(OpCode::ProbeWrite, Width::B64)
                });
            }
        }
        match general(self.insn.op_code().op_kind(0), bytes) {
            Some(w) => {
                op.width = w;
                (place, self.b.temp())
            }
            None if self.insn.op1_register().is_k() => {
                op.width = width_of(bytes as usize);
                (place, self.b.temp())
            }
            None => (place, self.b.vec_temp()),
        }
    }

    /// Raises what a write of some bytes would raise.
    fn probe_all(&mut self, mem: Mem, bytes: u32) {
        self.probe(width_of(bytes.min(8) as usize), mem);
        if bytes > 8 {
            let end = self.plus(mem, bytes as i32 - 8);
            self.probe(Width::B64, end);
        }
    }

    fn store_vector(&mut self, place: Place, value: Operand) {
        let Place { mem, bytes, masked } = place;
        if matches!(value, Operand::Temp(_)) {
            self.b.store(width_of(bytes as usize), mem, value);
        } else {
            let b = Operand::Imm(bytes.into());
            self.b.push(Op {
                a: value,
                b,
                c: masked,
                mem: Some(mem),
                ..Op::new(OpCode::VecStore, Width::B64)
            });
        }
    }

    fn plain_store(&mut self) -> Lift {
        let place = self.vector_mem(true);
        let value = Operand::Vec(self.insn.op1_register().number() as u8);
        self.store_vector(place, value);
        Ok(Flow::Next)
    }

    pub(super) fn emms(&mut self) -> Lift {
        self.vector_available(false)?;
        self.fpu_check();
        self.b.call(HelperId::Emms, NONE, NONE, NONE, NONE);
        Ok(Flow::Next)
    }

    pub(super) fn ldmxcsr(&mut self) -> Lift {
        self.vector_available(true)?;
        let value = self.read(0, Width::B32);
        let value = self.zext(Width::B32, value);
        let vex = self.mxcsr_by_vex();
        self.b.call(HelperId::Ldmxcsr, NONE, value, vex, NONE);
        Ok(Flow::Next)
    }

    pub(super) fn stmxcsr(&mut self) -> Lift {
        self.vector_available(true)?;
        let value = self.b.temp();
        let vex = self.mxcsr_by_vex();
        self.b.call(HelperId::Stmxcsr, value, NONE, vex, NONE);
        self.write(0, Width::B32, value);
        Ok(Flow::Next)
    }

    fn mxcsr_by_vex(&self) -> Operand {
        if is_vex(&self.insn) {
            Operand::Imm(1)
        } else {
            NONE
        }
    }

    /// MASKMOVQ, MASKMOVDQU, VMASKMOVDQU.
    pub(super) fn mask_mov(&mut self) -> Lift {
        let mmx = self.insn.op1_register().is_mm();
        self.vector_available(!mmx)?;
        if mmx {
            self.fpu_check();
        }
        let addr = match self.insn.op0_kind() {
            OpKind::MemorySegDI => Width::B16,
            OpKind::MemorySegEDI => Width::B32,
            _ => Width::B64,
        };
        let ea = self.simple(Gpr::Rdi, 0, addr, self.data_segment(Register::None));
        debug_assert!(ea.seg != Seg::Ss || !self.mode.code64());
        let address = self.linear(ea, if mmx { 8 } else { 16 }, true);
        let (data, mask) = (
            self.insn.op1_register().number(),
            self.insn.op2_register().number(),
        );
        let kind = if mmx { 0x100 } else { 0 };
        self.b.call(
            HelperId::MaskMov,
            NONE,
            address,
            Operand::Imm(data as i64),
            Operand::Imm(mask as i64 | kind),
        );
        Ok(Flow::Next)
    }
}
