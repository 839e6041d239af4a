//! x87: one op an instruction, its memory operand split off.

use iced_x86::{Code, Mnemonic, OpCodeOperandKind, OpCodeTableKind};
use ir::{HelperId, Op, OpCode, Operand, Width};
use x86::Gpr;

use super::{Flow, Lift, Lifter, NM};

const NONE: Operand = Operand::None;

/// Whether the opcode is one of D8-DF.
pub(super) fn is_x87(code: Code) -> bool {
    let info = code.op_code();
    let first = if info.op_code_len() == 2 {
        info.op_code() >> 8
    } else {
        info.op_code()
    };
    info.table() == OpCodeTableKind::Normal && (0xd8..=0xdf).contains(&first)
}

/// Whether the instruction writes memory.
fn stores(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp | M::Fnstcw | M::Fnstsw
    )
}

impl Lifter<'_> {
    /// FWAIT: #NM by CR0.MP and CR0.TS together, then #MF when one is pending.
    pub(super) fn wait(&mut self) -> Lift {
        if self.mode.mp() && self.mode.ts() {
            return Err(NM);
        }
        self.b.call(HelperId::FpuCheck, NONE, NONE, NONE, NONE);
        Ok(Flow::Next)
    }

    pub(super) fn x87(&mut self) -> Lift {
        if self.mode.em() || self.mode.ts() {
            return Err(NM);
        }
        match self.insn.mnemonic() {
            Mnemonic::Fnstenv => return self.x87_image(HelperId::Fnstenv, true),
            Mnemonic::Fldenv => return self.x87_image(HelperId::Fldenv, false),
            Mnemonic::Fnsave => return self.x87_image(HelperId::Fnsave, true),
            Mnemonic::Frstor => return self.x87_image(HelperId::Frstor, false),
            // 8087 and 287 control: nothing since.
            Mnemonic::Fneni | Mnemonic::Fndisi | Mnemonic::Fnsetpm => return Ok(Flow::Next),
            _ => {}
        }
        let flags = self.flags();
        let op = Op {
            sub: self.insn.code() as u32,
            flags,
            ..Op::new(OpCode::X87, Width::B64)
        };
        if self.insn.op_count() > 0 && self.is_mem(0) {
            self.x87_memory(op);
        } else if self.insn.code() == Code::Fnstsw_AX {
            self.b.push(Op {
                dst: Operand::Reg(Gpr::Rax),
                width: Width::B16,
                ..op
            });
        } else {
            self.b.push(Op {
                a: self.x87_register(),
                ..op
            });
        }
        Ok(Flow::Next)
    }

    /// The stack register that the instruction names beside ST(0).
    fn x87_register(&self) -> Operand {
        let info = self.insn.op_code();
        (0..self.insn.op_count())
            .find(|&n| info.op_kind(n) == OpCodeOperandKind::sti_opcode)
            .map_or(NONE, |n| {
                Operand::Imm(self.insn.op_register(n).number() as i64)
            })
    }

    fn x87_memory(&mut self, op: Op) {
        let bytes = self.insn.memory_size().size() as u32;
        let ea = self.ea();
        let offset = if ea.mem.addr == Width::B64 {
            self.offset(ea)
        } else {
            let offset = self.b.temp();
            self.b.lea(ea.mem.addr, offset, ea.mem);
            // The data pointer has no upper bits of what the temporary held before.
            self.zext(ea.mem.addr, offset)
        };
        let (b, c) = (offset, Operand::Imm(ea.seg as i64));
        let size = Operand::Imm(i64::from(bytes));
        if stores(self.insn.mnemonic()) {
            let mem = self.place(ea, bytes, true);
            // The op pops and sets the status word: the store after it must not fault.
            match Width::from_bytes(bytes as u8) {
                Some(w) => self.probe(w, mem),
                None => {
                    self.probe(Width::B64, mem);
                    let end = self.plus(mem, bytes as i32 - 8);
                    self.probe(Width::B64, end);
                }
            }
            let dst = self.b.vec_temp();
            self.b.push(Op { dst, b, c, ..op });
            self.b.push(Op {
                a: dst,
                b: size,
                mem: Some(mem),
                ..Op::new(OpCode::VecStore, Width::B64)
            });
        } else {
            let mem = self.place(ea, bytes, false);
            let a = self.b.vec_temp();
            self.b.push(Op {
                dst: a,
                a: size,
                mem: Some(mem),
                ..Op::new(OpCode::VecLoad, Width::B64)
            });
            self.b.push(Op { a, b, c, ..op });
        }
    }

    /// FNSTENV, FLDENV, FNSAVE, FRSTOR. The loads wait for pending exceptions, the stores don't.
    fn x87_image(&mut self, helper: HelperId, write: bool) -> Lift {
        if !write {
            self.b.call(HelperId::FpuCheck, NONE, NONE, NONE, NONE);
        }
        let bytes = self.insn.memory_size().size() as u32;
        let opsize = match bytes {
            14 | 94 => 2,
            _ => 4,
        };
        let address = self.linear_operand(bytes, write);
        self.b
            .call(helper, NONE, address, NONE, Operand::Imm(opsize));
        Ok(Flow::Next)
    }
}
