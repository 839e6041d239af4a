//! SSE instructions pass through: the same instruction, its memory operand where the guest's lies on the host.

use std::sync::OnceLock;

use iced_x86::{
    Code, Encoder, EncodingKind, Instruction, OpCodeOperandKind as K, OpKind, Register,
};
use ir::{Op, OpCode, Operand, VecInsn, Width};
use x86::Gpr;

use super::{Emit, Kind};
use crate::x64::asm::Rm;
use crate::x64::flags::State;
use crate::x64::frame::S1;

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
                K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y
            )
        });
        let known = matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
        Facts {
            plain: !mmx && !vsib && known && backend_interp::on_host(code),
            float: backend_interp::uses_mxcsr(code),
        }
    })
}

impl Emit<'_> {
    /// The code that an op names, if its instruction can be copied.
    fn vec_code(&self, op: &Op) -> Option<Code> {
        let code = VecInsn::decode(op.sub)
            .filter(|i| i.mask == 0)
            .map(|i| i.code)?;
        let facts = facts(code);
        (facts.plain && (!facts.float || self.cx.host_float)).then_some(code)
    }

    /// A load, with the instruction that takes it as its memory operand.
    pub(super) fn vec_load(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let next = self.ops.get(at + 1).filter(|_| at + 1 < to).copied()?;
        if op.b.is_some() || next.code != OpCode::Vec || ![next.a, next.b, next.c].contains(&op.dst)
        {
            return None;
        }
        let Operand::Imm(size) = op.a else {
            return None;
        };
        self.vec_code(&next)?;
        self.access(&op.mem?, u32::try_from(size).ok()?, false, Kind::default())?;
        self.at = at + 1;
        self.vec(&next, Some(op.dst))?;
        Some(2)
    }

    /// A store of a register's low bytes.
    pub(super) fn vec_store(&mut self, op: &Op) -> Option<()> {
        let (Operand::Vec(r), Operand::Imm(size)) = (op.a, op.b) else {
            return None;
        };
        if r >= 16 || op.c.is_some() {
            return None;
        }
        let (prefix, opcode): (Option<u8>, u8) = match size {
            4 => (Some(0xf3), 0x11),
            8 => (None, 0x13),
            16 | 32 => (None, 0x11),
            _ => return None,
        };
        self.writing(&op.mem?, size as u32, Kind::default(), |e| {
            let here = e.here;
            if size == 32 {
                e.a.vmovups(true, true, r, here);
            } else {
                e.a.two_byte(Width::B32, prefix, opcode, r, Rm::M(here));
            }
            Some(())
        })
    }

    /// An instruction whose result goes to memory, with the store behind it.
    pub(super) fn vec_to_memory(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let store = self.ops.get(at + 1).filter(|_| at + 1 < to).copied()?;
        if store.code != OpCode::VecStore || store.a != op.dst || store.c.is_some() {
            return None;
        }
        let Operand::Imm(size) = store.b else {
            return None;
        };
        self.vec_code(op)?;
        let op = *op;
        self.writing(
            &store.mem?,
            u32::try_from(size).ok()?,
            Kind::default(),
            |e| e.vec(&op, Some(op.dst)),
        )?;
        Some(2)
    }

    /// Copies an instruction; `memory` is the operand that S0 points to.
    pub(super) fn vec(&mut self, op: &Op, memory: Option<Operand>) -> Option<()> {
        let code = self.vec_code(op)?;
        let info = code.op_code();
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let operands = [op.dst, op.a, op.b, op.c];
        let mut next = usize::from(op.dst == Operand::None);
        let mut result = None;
        for n in 0..info.op_count() {
            let operand = *operands.get(next)?;
            let written = next == 0;
            next += 1;
            let kind = info.op_kind(n);
            if Some(operand) == memory {
                instruction.set_op_kind(n, OpKind::Memory);
                instruction.set_memory_base(GPR32[usize::from(self.here.base)].full_register());
                if let Some((index, scale)) = self.here.index {
                    instruction.set_memory_index(GPR32[usize::from(index)].full_register());
                    instruction.set_memory_index_scale(1 << scale);
                }
                if self.here.disp != 0 {
                    instruction.set_memory_displacement64(self.here.disp as i64 as u64);
                    instruction.set_memory_displ_size(8);
                }
                continue;
            }
            match operand {
                Operand::Imm(value) => {
                    instruction.set_op_kind(n, OpKind::Immediate8);
                    instruction.set_immediate8(value as u8);
                }
                Operand::Vec(r) if r < 16 => {
                    instruction.set_op_kind(n, OpKind::Register);
                    let wide = matches!(
                        kind,
                        K::ymm_reg
                            | K::ymm_or_mem
                            | K::ymm_vvvv
                            | K::ymm_rm
                            | K::ymm_is4
                            | K::ymm_is5
                    );
                    let first = if wide { Register::YMM0 } else { Register::XMM0 };
                    instruction.set_op_register(n, first + u32::from(r));
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
