//! String instructions: one op each, repetition included.

use iced_x86::OpKind;
use ir::{Op, OpCode, Rep, StringKind, StringOp, Width};
use x86::Seg;

use super::operand::{segment, width_of};
use super::{Flow, Lift, Lifter};

impl Lifter<'_> {
    pub(super) fn string(&mut self, kind: StringKind) -> Lift {
        let insn = &self.insn;
        let addr = (0..insn.op_count()).find_map(|n| match insn.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => Some(Width::B16),
            OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(Width::B32),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(Width::B64),
            _ => None,
        });
        let compares = matches!(kind, StringKind::Cmps | StringKind::Scas);
        let rep = match (insn.has_rep_prefix(), insn.has_repne_prefix()) {
            (false, false) => Rep::None,
            (_, true) if compares => Rep::Repne,
            _ => Rep::Rep,
        };
        let seg = segment(insn.memory_segment()).unwrap_or(Seg::Ds);
        let seg = if self.mode.code64() && !matches!(seg, Seg::Fs | Seg::Gs) {
            Seg::Ds
        } else {
            seg
        };
        let op = StringOp {
            kind,
            rep,
            width: width_of(insn.memory_size().size()),
            addr: addr.unwrap_or(Width::B64),
            seg: seg as u8,
            len: insn.len() as u8,
        };
        let flags = self.flags();
        self.b.push(Op {
            sub: op.encode(),
            flags,
            ..Op::new(OpCode::String, op.width)
        });
        Ok(Flow::Next)
    }
}
