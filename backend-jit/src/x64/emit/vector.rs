//! SSE, AVX and AVX-512 instructions pass through: the same instruction, its memory operand where the guest's lies on the host.

use std::mem::offset_of;
use std::sync::OnceLock;

use iced_x86::{
    Code, Encoder, EncodingKind, Instruction, OpCodeOperandKind as K, OpKind, Register,
    RoundingControl,
};
use ir::{FlagSet, Masked, Op, OpCode, Operand, Rounding, VecInsn, Width};
use x86::Gpr;

use super::{Emit, Kind};
use crate::x64::asm::{Label, Rm};
use crate::x64::flags::State;
use crate::x64::frame::{Frame, S1};

const GPR32: [Register; 16] = [
    Register::EAX,
    Register::ECX,
    Register::EDX,
    Register::EBX,
    Register::ESP,
    Register::EBP,
    Register::ESI,
    Register::EDI,
    Register::R8D,
    Register::R9D,
    Register::R10D,
    Register::R11D,
    Register::R12D,
    Register::R13D,
    Register::R14D,
    Register::R15D,
];

/// What is to be known of an instruction before it is copied.
#[derive(Clone, Copy)]
struct Facts {
    /// The host has it, and it has nothing to do with MMX.
    plain: bool,
    /// It depends on MXCSR.
    float: bool,
}

fn facts(code: Code) -> Facts {
    static TABLE: OnceLock<Vec<OnceLock<Facts>>> = OnceLock::new();
    let table = TABLE.get_or_init(|| (0..Code::values().len()).map(|_| OnceLock::new()).collect());
    let Some(slot) = table.get(code as usize) else {
        return Facts {
            plain: false,
            float: false,
        };
    };
    *slot.get_or_init(|| {
        let info = code.op_code();
        let mmx = (0..info.op_count())
            .any(|n| matches!(info.op_kind(n), K::mm_or_mem | K::mm_reg | K::mm_rm));
        let vsib = (0..info.op_count()).any(|n| {
            matches!(
                info.op_kind(n),
                K::mem_vsib32x
                    | K::mem_vsib64x
                    | K::mem_vsib32y
                    | K::mem_vsib64y
                    | K::mem_vsib32z
                    | K::mem_vsib64z
            )
        });
        let known = matches!(
            code.encoding(),
            EncodingKind::Legacy | EncodingKind::VEX | EncodingKind::EVEX
        );
        Facts {
            plain: !mmx && !vsib && known && backend_interp::on_host(code),
            float: backend_interp::uses_mxcsr(code),
        }
    })
}

/// An instruction with what an EVEX prefix adds.
fn decorated(insn: VecInsn) -> Instruction {
    let mut instruction = Instruction::default();
    instruction.set_code(insn.code);
    if insn.mask != 0 {
        instruction.set_op_mask(Register::K0 + u32::from(insn.mask));
        instruction.set_zeroing_masking(insn.zeroing);
    }
    instruction.set_rounding_control(match insn.rounding {
        Rounding::Mxcsr | Rounding::Suppress => RoundingControl::None,
        Rounding::Nearest => RoundingControl::RoundToNearest,
        Rounding::Down => RoundingControl::RoundDown,
        Rounding::Up => RoundingControl::RoundUp,
        Rounding::Zero => RoundingControl::RoundTowardZero,
    });
    instruction.set_suppress_all_exceptions(insn.rounding == Rounding::Suppress);
    instruction
}

/// Whether an op names ZMM16-31 or a mask register.
fn names_high(op: &Op) -> bool {
    let high = |operand: &Operand| matches!(operand, Operand::Vec(16..) | Operand::Mask(_));
    [op.dst, op.a, op.b, op.c].iter().any(high)
        || match op.code {
            OpCode::Vec => VecInsn::decode(op.sub).is_none_or(|insn| insn.mask != 0),
            OpCode::VecLoad => op.b.is_some(),
            OpCode::VecStore => op.c.is_some(),
            _ => false,
        }
}

/// What an access is, by what its op says of a mask.
fn masked(operand: Operand) -> Option<Kind> {
    let Operand::Imm(packed) = operand else {
        return Some(Kind::default());
    };
    // With a segment, the address is none yet.
    Masked::decode(packed).seg.is_none().then_some(Kind {
        masked: true,
        ..Kind::default()
    })
}

/// A store of a register's low bytes, perhaps masked.
fn evex_store(size: i64, masked: Operand) -> Option<VecInsn> {
    use Code as C;
    let (mask, element) = match masked {
        Operand::Imm(packed) => {
            let masked = Masked::decode(packed);
            (masked.mask, masked.size)
        }
        _ => (0, 4),
    };
    let code = match (size, element) {
        (4, 4) => C::EVEX_Vmovss_m32_k1_xmm,
        (8, 8) => C::EVEX_Vmovsd_m64_k1_xmm,
        (8, _) if mask == 0 => C::EVEX_Vmovsd_m64_k1_xmm,
        (16, 1) => C::EVEX_Vmovdqu8_xmmm128_k1z_xmm,
        (16, 2) => C::EVEX_Vmovdqu16_xmmm128_k1z_xmm,
        (16, 4) => C::EVEX_Vmovdqu32_xmmm128_k1z_xmm,
        (16, 8) => C::EVEX_Vmovdqu64_xmmm128_k1z_xmm,
        (32, 1) => C::EVEX_Vmovdqu8_ymmm256_k1z_ymm,
        (32, 2) => C::EVEX_Vmovdqu16_ymmm256_k1z_ymm,
        (32, 4) => C::EVEX_Vmovdqu32_ymmm256_k1z_ymm,
        (32, 8) => C::EVEX_Vmovdqu64_ymmm256_k1z_ymm,
        (64, 1) => C::EVEX_Vmovdqu8_zmmm512_k1z_zmm,
        (64, 2) => C::EVEX_Vmovdqu16_zmmm512_k1z_zmm,
        (64, 4) => C::EVEX_Vmovdqu32_zmmm512_k1z_zmm,
        (64, 8) => C::EVEX_Vmovdqu64_zmmm512_k1z_zmm,
        _ => return None,
    };
    Some(VecInsn {
        mask,
        ..VecInsn::plain(code)
    })
}

impl Emit<'_> {
    /// What an op names, if it can be copied.
    fn vec_insn(&self, op: &Op) -> Option<VecInsn> {
        let insn = VecInsn::decode(op.sub)?;
        let facts = facts(insn.code);
        let vectors = self.stubs.vectors;
        let same = match insn.code.encoding() {
            EncodingKind::VEX => vectors.vex,
            EncodingKind::EVEX => vectors.avx512(),
            _ => true,
        };
        (same && facts.plain && (!facts.float || self.cx.host_float)).then_some(insn)
    }

    /// Sees to it that ZMM16-31 and the mask registers are in the host's, if the instruction names any.
    pub(super) fn high_registers(&mut self, from: usize, to: usize) -> Option<()> {
        if !self.ops[from..to].iter().any(names_high) {
            return Some(());
        }
        if !self.stubs.vectors.avx512() {
            return None;
        }
        if std::mem::replace(&mut self.high_live, true) {
            return Some(());
        }
        self.live(offset_of!(Frame, high_live), self.stubs.high);
        Some(())
    }

    /// The way of an access that an opmask has a part in, where the page cache doesn't know its page: what the mask leaves
    /// out must not fault, and only the interpreter looks at it. In the cold section; S0 and S1 are as the stubs want them.
    pub(super) fn masked_miss(&mut self, write: bool, found: Label) -> Option<()> {
        self.a.call(if write {
            self.stubs.place_write
        } else {
            self.stubs.place_read
        });
        self.a.jcc(ir::Cond::Ae, found);
        let from = self.ops[..=self.at]
            .iter()
            .rposition(|op| op.code == OpCode::Insn)?;
        let to = (self.at..self.ops.len())
            .find(|n| self.ends(*n))
            .unwrap_or(self.ops.len());
        let (high, at) = (self.high_live, self.at);
        self.at = from;
        self.slow_op(from, to).ok()?;
        self.at = at;
        if std::mem::replace(&mut self.high_live, high) != high {
            self.a.call(self.stubs.high);
        }
        let joined = self.a.label();
        self.a.jmp(joined);
        self.apart.replace(joined).is_none().then_some(())
    }

    /// Whether op `at` is behind an instruction, or behind all of the block's last one but what leaves the block.
    fn ends(&self, at: usize) -> bool {
        self.ops
            .get(at)
            .is_none_or(|op| op.code == OpCode::Insn || op.code.info().terminal)
    }

    /// Before op `at`: the end of an instruction that may have been done by [`Emit::masked_miss`].
    pub(super) fn joined(&mut self, at: usize) {
        if self.ends(at)
            && let Some(label) = self.apart.take()
        {
            self.a.bind(label);
        }
    }

    /// A load, with the instruction that takes it as its memory operand.
    pub(super) fn vec_load(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let next = self.ops.get(at + 1).filter(|_| at + 1 < to).copied()?;
        if next.code != OpCode::Vec || ![next.a, next.b, next.c].contains(&op.dst) {
            return None;
        }
        let Operand::Imm(size) = op.a else {
            return None;
        };
        self.vec_insn(&next)?;
        let kind = masked(op.b)?;
        self.access(&op.mem?, u32::try_from(size).ok()?, false, kind)?;
        self.at = at + 1;
        self.vec(&next, Some(op.dst))?;
        Some(2)
    }

    /// A store of a register's low bytes.
    pub(super) fn vec_store(&mut self, op: &Op) -> Option<()> {
        let (Operand::Vec(r), Operand::Imm(size)) = (op.a, op.b) else {
            return None;
        };
        let kind = masked(op.c)?;
        if r >= 16 || kind.masked || size == 64 {
            if !self.stubs.vectors.avx512() {
                return None;
            }
            let insn = evex_store(size, op.c)?;
            let store = Op {
                dst: op.dst,
                a: op.a,
                sub: insn.encode(),
                flags: FlagSet::NONE,
                ..Op::new(OpCode::Vec, Width::B64)
            };
            return self.writing(&op.mem?, size as u32, kind, |e| {
                e.copied(insn, &store, Some(Operand::None))
            });
        }
        // MOVAPS where nobody else looks at the alignment.
        let whole = if op.mem?.align > 1 && self.cx.window.is_some() {
            0x29
        } else {
            0x11
        };
        let (prefix, opcode): (Option<u8>, u8) = match size {
            4 => (Some(0xf3), 0x11),
            8 => (None, 0x13),
            16 | 32 => (None, whole),
            _ => return None,
        };
        self.writing(&op.mem?, size as u32, kind, |e| {
            let here = e.here;
            if size == 32 {
                // VMOVUPS or VMOVAPS of 32 bytes.
                e.a.vex(Width::B32, 1, 4, opcode, r, 0, Rm::M(here));
            } else {
                e.a.two_byte(Width::B32, prefix, opcode, r, Rm::M(here));
            }
            Some(())
        })
    }

    /// Whether an instruction's result goes to memory and only there.
    pub(super) fn for_memory(&self, at: usize, to: usize, op: &Op) -> bool {
        let stored = |next: &Op| next.code == OpCode::Store && next.a == op.dst;
        // A mask register's store is another instruction than its move.
        matches!(op.dst, Operand::VecTemp(_))
            || matches!((op.dst, op.a), (Operand::Temp(_), Operand::Mask(_)))
                && at + 1 < to
                && self.ops.get(at + 1).is_some_and(stored)
    }

    /// An instruction whose result goes to memory, with the store behind it.
    pub(super) fn vec_to_memory(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let store = self.ops.get(at + 1).filter(|_| at + 1 < to).copied()?;
        if store.a != op.dst {
            return None;
        }
        let (size, kind) = match (store.code, store.b) {
            (OpCode::VecStore, Operand::Imm(size)) => (u32::try_from(size).ok()?, masked(store.c)?),
            (OpCode::Store, _) => (store.width.bytes().into(), Kind::default()),
            _ => return None,
        };
        self.vec_insn(op)?;
        let op = *op;
        self.writing(&store.mem?, size, kind, |e| e.vec(&op, Some(op.dst)))?;
        Some(2)
    }

    /// Copies an instruction; `memory` is the operand that S0 points to.
    pub(super) fn vec(&mut self, op: &Op, memory: Option<Operand>) -> Option<()> {
        self.copied(self.vec_insn(op)?, op, memory)
    }

    fn copied(&mut self, insn: VecInsn, op: &Op, memory: Option<Operand>) -> Option<()> {
        let code = insn.code;
        let info = code.op_code();
        let mut instruction = decorated(insn);
        let operands = [op.dst, op.a, op.b, op.c];
        let mut next = usize::from(op.dst == Operand::None && memory != Some(Operand::None));
        let mut result = None;
        for n in 0..info.op_count() {
            let operand = *operands.get(next)?;
            let written = next == 0;
            next += 1;
            let kind = info.op_kind(n);
            if Some(operand) == memory {
                let window = self.here.gs;
                instruction.set_op_kind(n, OpKind::Memory);
                // A window's addresses have 32 bits.
                let name = |r| {
                    let r = GPR32[usize::from(r)];
                    if window { r } else { r.full_register() }
                };
                instruction.set_memory_base(name(self.here.base));
                if let Some((index, scale)) = self.here.index {
                    instruction.set_memory_index(name(index));
                    instruction.set_memory_index_scale(1 << scale);
                }
                if window {
                    instruction.set_segment_prefix(Register::GS);
                }
                if self.here.disp != 0 {
                    instruction.set_memory_displacement64(if window {
                        self.here.disp as u32 as u64
                    } else {
                        self.here.disp as i64 as u64
                    });
                    instruction.set_memory_displ_size(if window { 4 } else { 8 });
                }
                instruction.set_is_broadcast(insn.broadcast);
                continue;
            }
            match operand {
                Operand::Imm(value) => {
                    instruction.set_op_kind(n, OpKind::Immediate8);
                    instruction.set_immediate8(value as u8);
                }
                Operand::Vec(r) => {
                    instruction.set_op_kind(n, OpKind::Register);
                    let first = match kind {
                        K::ymm_reg
                        | K::ymm_or_mem
                        | K::ymm_vvvv
                        | K::ymm_rm
                        | K::ymm_is4
                        | K::ymm_is5 => Register::YMM0,
                        K::zmm_reg | K::zmm_or_mem | K::zmm_vvvv | K::zmm_rm => Register::ZMM0,
                        _ => Register::XMM0,
                    };
                    instruction.set_op_register(n, first + u32::from(r));
                }
                Operand::Mask(k) => {
                    instruction.set_op_kind(n, OpKind::Register);
                    instruction.set_op_register(n, Register::K0 + u32::from(k));
                }
                Operand::Reg(_) | Operand::Temp(_) => {
                    let wide = matches!(kind, K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_vvvv);
                    let small = matches!(
                        kind,
                        K::r32_or_mem
                            | K::r32_reg
                            | K::r32_rm
                            | K::r16_or_mem
                            | K::r8_or_mem
                            | K::r16_rm
                    );
                    if !wide && !small {
                        return None;
                    }
                    let reg = if written {
                        self.preserve(operand);
                        let to = self.target(operand, S1);
                        result = Some((operand, to, wide));
                        to
                    } else {
                        self.register(Width::B64, S1, operand)?
                    };
                    let table = GPR32[usize::from(reg)];
                    let name = if wide { table.full_register() } else { table };
                    instruction.set_op_kind(n, OpKind::Register);
                    instruction.set_op_register(n, name);
                }
                _ => return None,
            }
        }
        if next < 4 && operands[next..].iter().any(|o| o.is_some()) {
            return None;
        }
        if matches!(
            code,
            Code::Pcmpestri_xmm_xmmm128_imm8
                | Code::Pcmpestri64_xmm_xmmm128_imm8
                | Code::Pcmpistri_xmm_xmmm128_imm8
        ) {
            self.preserve(Operand::Reg(Gpr::Rcx));
        }
        if !op.flags.is_empty() && self.state == State::Host {
            // It writes all of them.
            self.state = State::Memory;
        }
        let mut encoder = Encoder::new(64);
        encoder.encode(&instruction, 0).ok()?;
        self.a.raw(&encoder.take_buffer());
        if let Some((dst, reg, wide)) = result {
            let w = if wide { Width::B64 } else { Width::B32 };
            self.finish(w, dst, reg)?;
        }
        if backend_interp::writes_flags(code) {
            if op.flags.is_empty() {
                self.hf = false;
            } else {
                self.flags_set(op, None);
            }
        }
        Some(())
    }
}
