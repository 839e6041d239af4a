//! PUSH, POP and what else moves the stack pointer without a helper.

use iced_x86::Register;
use ir::{HelperId, Mem, OpCode, Operand, Width};
use x86::{Gpr, Seg};

use super::operand::{segment, width_of};
use super::{Flow, Lift, Lifter};

const SP: Operand = Operand::Reg(Gpr::Rsp);

impl Lifter<'_> {
    /// The memory operand for `size` bytes at the stack pointer plus `disp`.
    pub(super) fn stack_mem(&mut self, disp: i32, size: u32, write: bool) -> Mem {
        let ea = self.simple(Gpr::Rsp, disp, self.mode.stack(), Seg::Ss);
        self.place(ea, size, write)
    }

    /// Moves the stack pointer, as wide as SS.B says.
    pub(super) fn add_sp(&mut self, bytes: i32) {
        let w = self.mode.stack();
        let mem = Mem {
            addr: w,
            ..Mem::at(SP, bytes)
        };
        self.b.lea(w, SP, mem);
    }

    /// Pushes a value that occupies `w` on the stack.
    pub(super) fn push_value(&mut self, w: Width, value: Operand) {
        self.push_part(w, w, value);
    }

    /// Takes `room` from the stack and writes the value's low `w`.
    fn push_part(&mut self, room: Width, w: Width, value: Operand) {
        let bytes = i32::from(room.bytes());
        let mem = self.stack_mem(-bytes, u32::from(w.bytes()), true);
        self.b.store(w, mem, value);
        self.add_sp(-bytes);
    }

    /// The width of what the instruction pushes or pops.
    fn stack_width(&self) -> Width {
        width_of(self.insn.stack_pointer_increment().unsigned_abs() as usize)
    }

    pub(super) fn push(&mut self) -> Lift {
        let w = self.stack_width();
        if let Some(seg) = segment(self.insn.op0_register()) {
            let value = self.b.temp();
            self.b.call(
                HelperId::ReadSeg,
                value,
                Operand::Imm(seg as i64),
                Operand::None,
                Operand::None,
            );
            // A 32-bit push of a selector leaves the upper half of its slot alone; a 64-bit one writes zeros there.
            let part = if w == Width::B32 { Width::B16 } else { w };
            self.push_part(w, part, value);
        } else {
            let value = self.read(0, w);
            self.push_value(w, value);
        }
        Ok(Flow::Next)
    }

    pub(super) fn pop(&mut self) -> Lift {
        let w = self.stack_width();
        let bytes = u32::from(w.bytes());
        if let Some(seg) = segment(self.insn.op0_register()) {
            let mem = self.stack_mem(0, 2, false);
            let selector = self.b.temp();
            self.b.load(Width::B16, selector, mem);
            self.load_segment(seg, selector, true);
            self.add_sp(bytes as i32);
            return Ok(self.after_load_segment(seg));
        }
        let mem = self.stack_mem(0, bytes, false);
        if self.is_mem(0) {
            let value = self.b.temp();
            self.b.load(w, value, mem);
            let dst = self.pop_destination(bytes);
            self.b.store(w, dst, value);
            self.add_sp(bytes as i32);
        } else if self.reg(0) == SP {
            let value = self.b.temp();
            self.b.load(w, value, mem);
            self.add_sp(bytes as i32);
            self.b.mov(w, SP, value);
        } else {
            let dst = self.reg(0);
            self.b.load(w, dst, mem);
            self.add_sp(bytes as i32);
        }
        Ok(Flow::Next)
    }

    /// POP's memory destination: its address is computed with the stack pointer already moved.
    fn pop_destination(&mut self, bytes: u32) -> Mem {
        let mut ea = self.ea();
        if matches!(self.insn.memory_base(), Register::RSP | Register::ESP) {
            let w = self.mode.stack();
            let moved = self.b.temp();
            self.b.lea(
                w,
                moved,
                Mem {
                    addr: w,
                    ..Mem::at(SP, bytes as i32)
                },
            );
            ea.mem.base = moved;
            if w == Width::B16 {
                let (high, low, whole) =
                    (self.b.temp(), self.zext(Width::B16, moved), self.b.temp());
                self.b
                    .quiet(OpCode::And, Width::B32, high, SP, Operand::Imm(!0xffff));
                self.b.quiet(OpCode::Or, Width::B32, whole, high, low);
                ea.mem.base = whole;
            }
        }
        self.place(ea, bytes, true)
    }

    pub(super) fn pushf(&mut self) -> Lift {
        let w = self.stack_width();
        let image = self.b.temp();
        let size = Operand::Imm(i64::from(w.bytes()));
        self.b.call(
            HelperId::PushfImage,
            image,
            Operand::None,
            Operand::None,
            size,
        );
        self.push_value(w, image);
        Ok(Flow::Next)
    }

    pub(super) fn popf(&mut self) -> Lift {
        let w = self.stack_width();
        let bytes = i32::from(w.bytes());
        let mem = self.stack_mem(0, bytes as u32, false);
        let image = self.b.temp();
        self.b.load(w, image, mem);
        self.b.call(
            HelperId::Popf,
            Operand::None,
            image,
            Operand::None,
            Operand::Imm(i64::from(bytes)),
        );
        self.add_sp(bytes);
        Ok(Flow::Leave)
    }

    /// PUSHA (as a push) and POPA.
    pub(super) fn all_registers(&mut self, helper: HelperId) -> Lift {
        let bytes = self.insn.stack_pointer_increment().unsigned_abs() / 8;
        self.b.call(
            helper,
            Operand::None,
            Operand::None,
            Operand::None,
            Operand::Imm(i64::from(bytes)),
        );
        Ok(Flow::Next)
    }

    pub(super) fn enter(&mut self) -> Lift {
        use iced_x86::Code;
        let bytes = match self.insn.code() {
            Code::Enterw_imm16_imm8 => 2,
            Code::Enterd_imm16_imm8 => 4,
            _ => 8,
        };
        let size = Operand::Imm(i64::from(self.insn.immediate16()));
        let level = Operand::Imm(i64::from(self.insn.immediate8_2nd()));
        self.b.call(
            HelperId::Enter,
            Operand::None,
            size,
            level,
            Operand::Imm(bytes),
        );
        Ok(Flow::Next)
    }

    pub(super) fn leave(&mut self) -> Lift {
        use iced_x86::Code;
        let w = match self.insn.code() {
            Code::Leavew => Width::B16,
            Code::Leaved => Width::B32,
            _ => Width::B64,
        };
        let stack = self.mode.stack();
        let ea = self.simple(Gpr::Rbp, 0, stack, Seg::Ss);
        let mem = self.place(ea, u32::from(w.bytes()), false);
        let frame = self.b.temp();
        self.b.load(w, frame, mem);
        let above = Mem {
            addr: stack,
            ..Mem::at(Operand::Reg(Gpr::Rbp), i32::from(w.bytes()))
        };
        self.b.lea(stack, SP, above);
        self.b.mov(w, Operand::Reg(Gpr::Rbp), frame);
        Ok(Flow::Next)
    }
}
