//! CMPXCHG8B and CMPXCHG16B in place: of all flags they change ZF alone.

use std::mem::offset_of;

use ir::{Cond, Op, Width};
use system::LazyFlags;
use x86::flags::ZF;

use super::{Emit, Kind};
use crate::x64::asm::{Alu, Rm, Shift};
use crate::x64::flags::State;
use crate::x64::frame::{Frame, S1, field};

impl Emit<'_> {
    /// The comparison of EDX:EAX or RDX:RAX, which the host has in the same registers.
    pub(super) fn cmpxchg_pair(&mut self, op: &Op) -> Option<()> {
        let mem = op.mem?;
        let w = op.width;
        // An image of the flags, in which ZF can be replaced; it is good for a fault too.
        self.host_flags();
        self.state = State::Host;
        // The operands of a comparison would be no image.
        self.compared = None;
        self.spill();
        self.hf = false;
        self.forget_checks();
        let kind = Kind {
            rmw: true,
            locked: mem.lock,
            ..Kind::default()
        };
        self.writing(&mem, 2 * u32::from(w.bytes()), kind, |e| {
            if mem.lock {
                e.a.lock();
            }
            e.a.two_byte(w, None, 0xc7, 1, Rm::M(e.here));
            Some(())
        })?;
        // The commit of a bounced store keeps the host's flags.
        self.a.setcc(Cond::E, Rm::R(S1));
        self.a.movzx(Width::B8, S1, Rm::R(S1));
        let image = Rm::M(field(offset_of!(Frame, flags) + offset_of!(LazyFlags, a)));
        let d = Width::B32;
        self.a
            .shift_imm(Shift::Shl, d, Rm::R(S1), ZF.trailing_zeros() as u8);
        self.a.alu_imm(Alu::And, d, image, !(ZF as i32));
        self.a.alu_to(Alu::Or, d, image, S1);
        Some(())
    }
}
