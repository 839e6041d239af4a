//! What of AVX is not one `vec` op with its memory operand split off: elements under a mask, VZEROUPPER.

use iced_x86::EncodingKind;
use ir::{Elements, HelperId, Op, OpCode, Operand, Width};

use super::address::Ea;
use super::{Flow, Lift, Lifter, UD};

const NONE: Operand = Operand::None;

impl Lifter<'_> {
    /// VZEROUPPER, VZEROALL: a `vec` op without operands.
    pub(super) fn zero_uppers(&mut self) -> Lift {
        self.vector_available(true)?;
        self.b.push(Op {
            sub: self.insn.code() as u32,
            flags: ir::FlagSet::NONE,
            ..Op::new(OpCode::Vec, Width::B64)
        });
        Ok(Flow::Next)
    }

    /// The effective address, and how the elements lie there.
    pub(super) fn elements(&self, ea: &Ea, width: Width, bytes: usize) -> Elements {
        Elements {
            width,
            count: (bytes / usize::from(width.bytes())) as u8,
            seg: ea.seg as u8,
            addr: ea.mem.addr,
            index: Width::B32,
            scale: 0,
        }
    }

    /// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ.
    pub(super) fn mask_elements(&mut self, width: Width) -> Lift {
        self.vector_available(true)?;
        let store = self.is_mem(0);
        let ea = self.ea();
        let a = self.offset(ea);
        let vector = self.insn.op_register(if store { 2 } else { 0 });
        let mask = self.insn.op1_register().number();
        let c = self.elements(&ea, width, vector.size()).encode();
        let helper = if store {
            HelperId::MaskStore
        } else {
            HelperId::MaskLoad
        };
        let b = Operand::Imm((vector.number() | mask << 8) as i64);
        self.b.call(helper, NONE, a, b, Operand::Imm(c));
        Ok(Flow::Next)
    }

    /// VGATHERxxx, VPGATHERxx: elements of `width`, indices of `index`.
    pub(super) fn gather(&mut self, width: Width, index: Width) -> Lift {
        if self.insn.encoding() == EncodingKind::EVEX {
            return self.masked_elements(width, index, false);
        }
        self.vector_available(true)?;
        let (to, indices, mask) = (
            self.insn.op0_register().number(),
            self.insn.memory_index(),
            self.insn.op2_register().number(),
        );
        let from = indices.number();
        if to == from || to == mask || mask == from {
            return Err(UD);
        }
        let bytes = self.insn.op0_register().size();
        let (a, what) = self.indexed(width, index, bytes, indices);
        let b = Operand::Imm((to | mask << 8 | from << 16) as i64);
        self.b
            .call(HelperId::Gather, NONE, a, b, Operand::Imm(what.encode()));
        Ok(Flow::Next)
    }
}
