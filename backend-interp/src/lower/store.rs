//! Stores and read-modify-writes of memory, locked and not.

use ir::{Op, OpCode, Operand, Width};

use super::Lower;
use super::select::{by_alu, by_flag, by_width};
use crate::code::{Handler, LOp};
use crate::handlers::memory::{self, by_address};
use crate::handlers::{alu, bits, shift};

impl Lower<'_> {
    pub(super) fn store(&mut self, at: usize, op: &Op) -> Option<()> {
        let address = self.address(at, &op.mem?, op.width.bytes().into())?;
        if let Operand::Imm(imm) = op.a {
            let run = by_width!(op.width, |T| by_address!(
                address.idx,
                address.a32,
                with_store::<T, memory::StoreImm>
            ));
            self.push(LOp {
                run,
                a: address.scale.into(),
                imm,
                ..self.with_address(address)
            });
            return Some(());
        }
        let a = self.field(at, op.a)?;
        let run = by_width!(op.width, |T| by_address!(
            address.idx,
            address.a32,
            with_store::<T, memory::StoreReg>
        ));
        self.push(LOp {
            run,
            a,
            ..self.with_address(address)
        });
        Some(())
    }

    pub(super) fn rmw(&mut self, at: usize, op: &Op) -> Option<()> {
        let mem = op.mem?;
        let (w, alu_op, wanted) = (op.width, op.alu(), !op.flags.is_empty());
        let address = self.address(at, &mem, w.bytes().into())?;
        if let (Operand::Imm(imm), Operand::None, false) = (op.a, op.dst, mem.lock) {
            let run = by_width!(w, |T| by_alu!(alu_op, |K| by_flag!(
                wanted,
                |F| by_address!(address.idx, address.a32, with_rmw::<T, alu::RmwImm<K, F>>)
            )));
            if let Some(run) = run {
                self.push(LOp {
                    run,
                    a: address.scale.into(),
                    imm,
                    ..self.with_address(address)
                });
                return Some(());
            }
        }
        let a = self.field(at, op.a)?;
        let b = self.field(at, op.b)?;
        let d = self.dest(at, op.dst)?;
        let run = self.rmw_handler(alu_op, w, wanted, mem.lock, address.idx, address.a32);
        if let Some(run) = run {
            self.push(LOp {
                run,
                a,
                d,
                ..self.with_address(address)
            });
            return Some(());
        }
        // Shifts, rotates and double shifts: load with write intent, shift, store. They cannot be locked.
        let size = w.bytes();
        let probe: [Handler; 4] = [
            memory::probe_write::<false, false>,
            memory::probe_write::<true, false>,
            memory::probe_write::<false, true>,
            memory::probe_write::<true, true>,
        ];
        let run = memory::pick(address.idx, address.a32, probe);
        self.push(LOp {
            run,
            d: size.into(),
            ..self.with_address(address)
        });
        let old = self.slot(at, 0)?;
        let new = self.slot(at, 0)?;
        let run = by_width!(w, |T| by_address!(
            address.idx,
            address.a32,
            with_load::<T, memory::LoadTo>
        ));
        self.push(LOp {
            run,
            d: old,
            ..self.with_address(address)
        });
        let run = shift_handler(alu_op, w, wanted)?;
        let (second, third) = if matches!(alu_op, OpCode::Shld | OpCode::Shrd) {
            (a, b)
        } else {
            (a, a)
        };
        self.push(LOp {
            run,
            a: old,
            b: second,
            c: third,
            d: new,
            ..self.blank()
        });
        let run = by_width!(w, |T| by_address!(
            address.idx,
            address.a32,
            with_store::<T, memory::StoreReg>
        ));
        self.push(LOp {
            run,
            a: new,
            ..self.with_address(address)
        });
        if op.dst != Operand::None {
            let run: Handler = by_width!(w, |T| alu::mov::<T>);
            self.push(LOp {
                run,
                a: old,
                d,
                ..self.blank()
            });
        }
        Some(())
    }

    fn rmw_handler(
        &self,
        code: OpCode,
        w: Width,
        wanted: bool,
        lock: bool,
        idx: bool,
        a32: bool,
    ) -> Option<Handler> {
        use bits::change::{FLIP, RESET, SET};
        if lock || code == OpCode::Mov {
            return by_width!(w, |T| match code {
                OpCode::Mov => Some(by_address!(
                    idx,
                    a32,
                    with_locked::<T, alu::RmwReg<alu::Xchg, false>>
                )),
                OpCode::Inc => Some(by_address!(
                    idx,
                    a32,
                    with_locked::<T, alu::RmwReg<alu::Inc, true>>
                )),
                OpCode::Dec => Some(by_address!(
                    idx,
                    a32,
                    with_locked::<T, alu::RmwReg<alu::Dec, true>>
                )),
                OpCode::Not => Some(by_address!(
                    idx,
                    a32,
                    with_locked::<T, alu::RmwReg<alu::Not, false>>
                )),
                OpCode::Neg => Some(by_address!(idx, a32, with_locked::<T, alu::RmwNeg<true>>)),
                OpCode::Bts => Some(by_address!(
                    idx,
                    a32,
                    with_locked::<T, bits::BitRmw<SET, true>>
                )),
                OpCode::Btr => Some(by_address!(
                    idx,
                    a32,
                    with_locked::<T, bits::BitRmw<RESET, true>>
                )),
                OpCode::Btc => Some(by_address!(
                    idx,
                    a32,
                    with_locked::<T, bits::BitRmw<FLIP, true>>
                )),
                _ => by_alu!(code, |K| by_address!(
                    idx,
                    a32,
                    with_locked::<T, alu::RmwReg<K, true>>
                )),
            });
        }
        by_width!(w, |T| by_flag!(wanted, |F| match code {
            OpCode::Inc => Some(by_address!(
                idx,
                a32,
                with_rmw::<T, alu::RmwReg<alu::Inc, F>>
            )),
            OpCode::Dec => Some(by_address!(
                idx,
                a32,
                with_rmw::<T, alu::RmwReg<alu::Dec, F>>
            )),
            OpCode::Not => Some(by_address!(
                idx,
                a32,
                with_rmw::<T, alu::RmwReg<alu::Not, F>>
            )),
            OpCode::Neg => Some(by_address!(idx, a32, with_rmw::<T, alu::RmwNeg<F>>)),
            OpCode::Bts => Some(by_address!(idx, a32, with_rmw::<T, bits::BitRmw<SET, F>>)),
            OpCode::Btr => Some(by_address!(idx, a32, with_rmw::<T, bits::BitRmw<RESET, F>>)),
            OpCode::Btc => Some(by_address!(idx, a32, with_rmw::<T, bits::BitRmw<FLIP, F>>)),
            _ => by_alu!(code, |K| by_address!(
                idx,
                a32,
                with_rmw::<T, alu::RmwReg<K, F>>
            )),
        }))
    }
}

/// Shifts of a loaded value for the read-modify-write of memory.
fn shift_handler(code: OpCode, w: Width, wanted: bool) -> Option<Handler> {
    use shift::kind::{RCL, RCR, ROL, ROR, SAR, SHL, SHR};
    Some(by_width!(w, |T| by_flag!(wanted, |F| match code {
        OpCode::Shl => shift::shift_rr::<T, SHL, F>,
        OpCode::Shr => shift::shift_rr::<T, SHR, F>,
        OpCode::Sar => shift::shift_rr::<T, SAR, F>,
        OpCode::Rol => shift::rotate_rr::<T, ROL, F>,
        OpCode::Ror => shift::rotate_rr::<T, ROR, F>,
        OpCode::Rcl => shift::rotate_rr::<T, RCL, F>,
        OpCode::Rcr => shift::rotate_rr::<T, RCR, F>,
        OpCode::Shld => shift::double_shift::<T, true, F>,
        OpCode::Shrd => shift::double_shift::<T, false, F>,
        _ => return None,
    })))
}
