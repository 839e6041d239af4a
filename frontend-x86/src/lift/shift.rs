//! Double shifts and the flagless BMI2 shifts; the plain ones are binary operations.

use ir::{Op, OpCode, Operand};

use super::{Flow, Lift, Lifter};

impl Lifter<'_> {
    /// SHLD, SHRD.
    pub(super) fn double_shift(&mut self, code: OpCode) -> Lift {
        let (w, src) = (self.width(0), self.reg(1));
        let count = self.read(2, w);
        if self.is_mem(0) {
            let mem = self.mem_rmw(w);
            self.b.rmw(code, w, mem, Operand::None, src, count);
        } else {
            let dst = self.reg(0);
            self.b.push(Op {
                dst,
                a: dst,
                b: src,
                c: count,
                ..Op::new(code, w)
            });
        }
        Ok(Flow::Next)
    }

    /// SHLX, SHRX, SARX, RORX.
    pub(super) fn quiet_shift(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        let value = self.read(1, w);
        let count = self.read(2, w);
        let dst = self.reg(0);
        self.b.quiet(code, w, dst, value, count);
        Ok(Flow::Next)
    }
}
