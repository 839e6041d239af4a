//! Instructions on flags alone.

use ir::{FlagSet, HelperId, Op, OpCode, Operand, Width};
use x86::{Gpr, flags};

use super::{Flow, Lift, Lifter, UD};

/// What LAHF and SAHF move.
const LOW: u64 = flags::SF | flags::ZF | flags::AF | flags::PF | flags::CF;

impl Lifter<'_> {
    /// CLC, STC.
    pub(super) fn set_carry(&mut self, on: bool) -> Lift {
        let a = Operand::Imm(i64::from(on));
        self.b.push(Op {
            a,
            sub: flags::CF as u32,
            flags: FlagSet::C,
            ..Op::new(OpCode::SetFlags, Width::B64)
        });
        Ok(Flow::Next)
    }

    pub(super) fn cmc(&mut self) -> Lift {
        self.b.push(Op::new(OpCode::Cmc, Width::B64));
        Ok(Flow::Next)
    }

    /// CLD, STD.
    pub(super) fn set_direction(&mut self, down: bool) -> Lift {
        self.b.push(Op {
            sub: u32::from(down),
            ..Op::new(OpCode::SetDf, Width::B64)
        });
        Ok(Flow::Next)
    }

    pub(super) fn lahf(&mut self) -> Lift {
        let (status, image) = (self.b.temp(), self.b.temp());
        self.b.push(Op {
            dst: status,
            sub: LOW as u32,
            ..Op::new(OpCode::GetFlags, Width::B64)
        });
        self.b.quiet(
            OpCode::Or,
            Width::B64,
            image,
            status,
            Operand::Imm(flags::FIXED as i64),
        );
        self.b.mov(Width::B8, Operand::High(Gpr::Rax), image);
        Ok(Flow::Next)
    }

    pub(super) fn sahf(&mut self) -> Lift {
        let image = self.zext(Width::B8, Operand::High(Gpr::Rax));
        let wanted = FlagSet::from_rflags(LOW);
        self.b.push(Op {
            a: image,
            sub: LOW as u32,
            flags: wanted,
            ..Op::new(OpCode::SetFlags, Width::B64)
        });
        Ok(Flow::Next)
    }

    /// SALC: AL = CF ? FFh : 0.
    pub(super) fn salc(&mut self) -> Lift {
        let carry = self.b.temp();
        self.b.push(Op {
            dst: carry,
            sub: ir::Cond::B as u32,
            ..Op::new(OpCode::Setcc, Width::B8)
        });
        self.b.quiet(
            OpCode::Neg,
            Width::B8,
            Operand::Reg(Gpr::Rax),
            carry,
            Operand::None,
        );
        Ok(Flow::Next)
    }

    pub(super) fn cli(&mut self) -> Lift {
        self.b.call(
            HelperId::Cli,
            Operand::None,
            Operand::None,
            Operand::None,
            Operand::None,
        );
        Ok(Flow::Next)
    }

    pub(super) fn sti(&mut self) -> Lift {
        self.b.call(
            HelperId::Sti,
            Operand::None,
            Operand::None,
            Operand::None,
            Operand::None,
        );
        Ok(Flow::Leave)
    }

    /// CLAC, STAC: #UD outside CPL 0.
    pub(super) fn set_ac(&mut self, on: bool) -> Lift {
        if self.mode.cpl() != 0 {
            return Err(UD);
        }
        self.b.call(
            HelperId::SetAc,
            Operand::None,
            Operand::Imm(i64::from(on)),
            Operand::None,
            Operand::None,
        );
        Ok(Flow::Leave)
    }
}
