//! Addition to division, logic, and decimal arithmetic.

use ir::{FlagSet, HelperId, Op, OpCode, Operand, Width};
use x86::Gpr;

use super::{Flow, Lift, Lifter};

const AX: Operand = Operand::Reg(Gpr::Rax);
const DX: Operand = Operand::Reg(Gpr::Rdx);

impl Lifter<'_> {
    /// dst = dst op src: ADD to XOR, shifts and rotates (whose count is the source).
    pub(super) fn binary(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        if self.is_mem(0) {
            let src = self.read(1, w);
            let mem = self.mem_rmw(w);
            self.b.rmw(code, w, mem, Operand::None, src, Operand::None);
        } else {
            let (src, dst) = (self.read(1, w), self.reg(0));
            self.b.binary(code, w, dst, dst, src);
        }
        Ok(Flow::Next)
    }

    /// CMP, TEST: flags only.
    pub(super) fn compare(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        let a = self.read(0, w);
        let b = self.read(1, w);
        self.b.binary(code, w, Operand::None, a, b);
        Ok(Flow::Next)
    }

    /// dst = op dst: INC, DEC, NEG, NOT.
    pub(super) fn unary(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        if self.is_mem(0) {
            let mem = self.mem_rmw(w);
            self.b
                .rmw(code, w, mem, Operand::None, Operand::None, Operand::None);
        } else {
            let dst = self.reg(0);
            self.b.unary(code, w, dst, dst);
        }
        Ok(Flow::Next)
    }

    /// The upper half of the accumulator pair: AH or (R/E)DX.
    fn upper(w: Width) -> Operand {
        if w == Width::B8 {
            Operand::High(Gpr::Rax)
        } else {
            DX
        }
    }

    /// MUL, one-operand IMUL.
    pub(super) fn multiply(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        let b = self.read(0, w);
        self.b.push(Op {
            dst: AX,
            dst2: Self::upper(w),
            a: AX,
            b,
            ..Op::new(code, w)
        });
        Ok(Flow::Next)
    }

    pub(super) fn imul(&mut self) -> Lift {
        let w = self.width(0);
        match self.insn.op_count() {
            1 => return self.multiply(OpCode::MulS),
            2 => {
                let (src, dst) = (self.read(1, w), self.reg(0));
                self.b.binary(OpCode::Imul, w, dst, dst, src);
            }
            _ => {
                let (src, dst) = (self.read(1, w), self.reg(0));
                let factor = self.imm(2, w);
                self.b.binary(OpCode::Imul, w, dst, src, factor);
            }
        }
        Ok(Flow::Next)
    }

    /// DIV, IDIV.
    pub(super) fn divide(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        let c = self.read(0, w);
        let upper = Self::upper(w);
        self.b.push(Op {
            dst: AX,
            dst2: upper,
            a: AX,
            b: upper,
            c,
            ..Op::new(code, w)
        });
        Ok(Flow::Next)
    }

    /// MULX: the high half goes to the first operand; into one register, the low half goes nowhere.
    pub(super) fn mulx(&mut self) -> Lift {
        let w = self.width(0);
        let b = self.read(2, w);
        let (dst2, low) = (self.reg(0), self.reg(1));
        let dst = if low == dst2 { Operand::None } else { low };
        self.b.push(Op {
            dst,
            dst2,
            a: DX,
            b,
            flags: FlagSet::NONE,
            ..Op::new(OpCode::MulU, w)
        });
        Ok(Flow::Next)
    }

    /// AAA to AAD: `which` numbers them as [`HelperId::Bcd`] does.
    pub(super) fn decimal(&mut self, which: i64) -> Lift {
        let base = if which >= 4 {
            Operand::Imm(i64::from(self.insn.immediate8()))
        } else {
            Operand::None
        };
        self.b.call(
            HelperId::Bcd,
            Operand::None,
            Operand::Imm(which),
            base,
            Operand::None,
        );
        Ok(Flow::Next)
    }
}
