//! Bit tests, bit scans, bit manipulation (BMI), CRC32, random numbers.

use ir::{HelperId, Mem, Op, OpCode, Operand, Width};
use x86::Seg;

use super::{Flow, Lift, Lifter};

impl Lifter<'_> {
    /// BT, BTS, BTR, BTC.
    pub(super) fn bit_test(&mut self, code: OpCode) -> Lift {
        let (w, bit) = (self.width(0), self.read(1, self.width(0)));
        if !self.is_mem(0) {
            let a = self.reg(0);
            let dst = if code == OpCode::Bt { Operand::None } else { a };
            self.b.push(Op {
                dst,
                a,
                b: bit,
                ..Op::new(code, w)
            });
            return Ok(Flow::Next);
        }
        let write = code != OpCode::Bt;
        let mem = if matches!(bit, Operand::Imm(_)) {
            self.mem(u32::from(w.bytes()), write)
        } else {
            self.bit_string(w, bit, write)
        };
        if write {
            let mem = Mem {
                lock: self.insn.has_lock_prefix(),
                ..mem
            };
            self.b.rmw(code, w, mem, Operand::None, bit, Operand::None);
        } else {
            let value = self.b.temp();
            self.b.load(w, value, mem);
            self.b.push(Op {
                a: value,
                b: bit,
                ..Op::new(code, w)
            });
        }
        Ok(Flow::Next)
    }

    /// The element of a bit string in memory that holds a signed bit offset (SDM vol. 2, BT).
    fn bit_string(&mut self, w: Width, bit: Operand, write: bool) -> Mem {
        let wide = if w == Width::B64 {
            bit
        } else {
            let wide = self.b.temp();
            self.b.extend(OpCode::Sext, Width::B64, w, wide, bit);
            wide
        };
        let element = self.b.temp();
        self.b.quiet(
            OpCode::Sar,
            Width::B64,
            element,
            wide,
            Operand::Imm(i64::from(w.bits().trailing_zeros())),
        );
        let mut ea = self.ea();
        let mut hidden = false;
        if ea.mem.index != Operand::None || matches!(ea.mem.base, Operand::Pc(_)) {
            let start = self.offset(ea);
            hidden = ea.seg == Seg::Ss && self.mode.code64();
            ea.mem = Mem {
                addr: ea.mem.addr,
                ..Mem::at(start, 0)
            };
        }
        ea.mem.index = element;
        ea.mem.scale = w.bytes().trailing_zeros() as u8;
        if hidden {
            // The base no longer tells that a bad address is #SS.
            let start = self.linear(ea, u32::from(w.bytes()), write);
            return Mem::at(start, 0);
        }
        self.place(ea, u32::from(w.bytes()), write)
    }

    /// BSF, BSR. A zero source leaves the whole destination register alone, its upper half too.
    pub(super) fn scan(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        let (mut src, dst) = (self.read(1, w), self.reg(0));
        let mut op_width = w;
        if w == Width::B32 {
            src = self.zext(w, src);
            op_width = Width::B64;
        }
        self.b.binary(code, op_width, dst, src, dst);
        Ok(Flow::Next)
    }

    /// dst = op src: POPCNT, LZCNT, TZCNT, BLSI, BLSMSK, BLSR.
    pub(super) fn count(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        let (src, dst) = (self.read(1, w), self.reg(0));
        self.b.unary(code, w, dst, src);
        Ok(Flow::Next)
    }

    /// dst = op (src1, src2): ANDN, BEXTR, BZHI, PDEP, PEXT.
    pub(super) fn three(&mut self, code: OpCode) -> Lift {
        let w = self.width(0);
        let a = self.read(1, w);
        let b = self.read(2, w);
        let dst = self.reg(0);
        self.b.binary(code, w, dst, a, b);
        Ok(Flow::Next)
    }

    pub(super) fn crc32(&mut self) -> Lift {
        let from = self.width(1);
        let (b, dst) = (self.read(1, from), self.reg(0));
        self.b.push(Op {
            dst,
            a: dst,
            b,
            sub: from as u32,
            ..Op::new(OpCode::Crc32, Width::B32)
        });
        Ok(Flow::Next)
    }

    /// RDRAND (0), RDSEED (1).
    pub(super) fn random(&mut self, which: i64) -> Lift {
        let (w, dst, value) = (self.width(0), self.reg(0), self.b.temp());
        let size = Operand::Imm(i64::from(w.bytes()));
        self.b.call(
            HelperId::Random,
            value,
            Operand::Imm(which),
            Operand::None,
            size,
        );
        self.b.mov(w, dst, value);
        Ok(Flow::Next)
    }
}
