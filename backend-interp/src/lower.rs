//! Lowers a block of IR to handlers: operand fields, constants, fusion of what belongs together.

mod address;
mod fuse;
mod select;
mod store;
pub(crate) mod vector;
mod x87;

use ir::{Block, Op, OpCode, Operand, Width};
use system::{FlagOp, offset};
use x86::Gpr;

use crate::code::{FILLER, LAST, LOp};
use crate::handlers::branch;
use crate::handlers::system::VecOp;
use crate::host::Stubs;

/// A direct exit that the block will have.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Distance of the target from the block's start.
    pub delta: i32,
    /// Width of the instruction pointer.
    pub width: Width,
}

/// A lowered block before it has found its place in the cache.
#[derive(Default)]
pub struct Lowered {
    /// The handlers, with a filler behind a terminal that has exits.
    pub ops: Vec<LOp>,
    /// Direct exits, at most two.
    pub exits: Vec<Exit>,
    /// The terminal has an inline cache.
    pub site: bool,
    /// Descriptions that ops point to.
    #[expect(clippy::vec_box, reason = "ops hold the descriptions' addresses")]
    pub vec_ops: Vec<Box<VecOp>>,
}

/// The work of lowering one block.
pub struct Lower<'a> {
    ops: &'a [Op],
    mode: frontend_x86::Mode,
    stubs: &'a mut Stubs,
    /// Vector and x87 instructions are done by crate `portable` alone: what tests compare the others with.
    exact: bool,
    out: Lowered,
    /// For each temporary: its field, and the last op that reads it.
    temps: Vec<(u16, u32)>,
    /// How often each temporary is read.
    uses: Vec<u16>,
    /// The op from which each temporary slot is free.
    slots: [u32; system::TEMPS],
    vec_slots: [u32; system::VEC_TEMPS],
    vec_temps: Vec<(u16, u32)>,
    /// The instruction at hand.
    pc: u16,
    len: u8,
    ord: u8,
    started: bool,
    /// What left the flags, if an op of this block did so in a form that branches read directly.
    flags: Option<(FlagOp, Width)>,
}

/// Lowers a block. `None` when it needs more temporaries than there are: the caller cuts it shorter.
pub fn lower(block: &Block, mode: frontend_x86::Mode, stubs: &mut Stubs) -> Option<Lowered> {
    lower_by(block, mode, stubs, false)
}

/// Lowers a block; `exact` keeps the host's vector unit and x87 out of it.
pub fn lower_by(
    block: &Block,
    mode: frontend_x86::Mode,
    stubs: &mut Stubs,
    exact: bool,
) -> Option<Lowered> {
    let mut lower = Lower {
        ops: &block.ops,
        mode,
        stubs,
        exact,
        out: Lowered {
            ops: Vec::with_capacity(block.ops.len() + 2),
            ..Lowered::default()
        },
        temps: vec![(0, 0); usize::from(block.temps)],
        uses: vec![0; usize::from(block.temps)],
        slots: [0; system::TEMPS],
        vec_slots: [0; system::VEC_TEMPS],
        vec_temps: vec![(0, 0); usize::from(block.vec_temps)],
        pc: 0,
        len: 0,
        ord: 0,
        started: false,
        flags: None,
    };
    lower.count_uses();
    let mut at = 0;
    while at < lower.ops.len() {
        at += lower.op(at)?;
    }
    Some(lower.out)
}

impl Lower<'_> {
    fn count_uses(&mut self) {
        for (n, op) in self.ops.iter().enumerate() {
            let n = n as u32;
            let (base, index) = op
                .mem
                .map_or((Operand::None, Operand::None), |m| (m.base, m.index));
            for operand in [op.a, op.b, op.c, base, index, op.dst, op.dst2] {
                match operand {
                    Operand::Temp(t) => {
                        self.temps[usize::from(t.0)].1 = n;
                        self.uses[usize::from(t.0)] += 1;
                    }
                    Operand::VecTemp(t) => self.vec_temps[usize::from(t.0)].1 = n,
                    _ => {}
                }
            }
        }
        // Each temporary was counted once where it is written.
        for uses in &mut self.uses {
            *uses = uses.saturating_sub(1);
        }
    }

    /// Notes that an instruction begins; its ops carry its place.
    fn insn(&mut self, op: &Op) {
        let Operand::Imm(delta) = op.a else { return };
        if self.started {
            self.ord += 1;
        }
        self.started = true;
        self.pc = delta as u16;
        self.len = (op.sub & 15) as u8;
    }

    /// An empty op for the instruction at hand.
    fn blank(&self) -> LOp {
        LOp {
            run: branch::exit_before,
            d: offset::SINK as u16,
            a: offset::ZERO as u16,
            b: offset::ZERO as u16,
            c: offset::ZERO as u16,
            disp: 0,
            pc: self.pc,
            len: self.len,
            ord: self.ord,
            imm: 0,
        }
    }

    fn push(&mut self, op: LOp) {
        self.out.ops.push(op);
    }

    /// A free temporary slot that is kept until op `until` has run.
    fn slot(&mut self, now: usize, until: u32) -> Option<u16> {
        // A slot is free again behind the op that reads it last, not at it: its constants must not take its sources'.
        let free = self
            .slots
            .iter()
            .position(|free_at| *free_at <= now as u32)?;
        self.slots[free] = until.max(now as u32) + 1;
        Some(offset::temp(free) as u16)
    }

    /// The field of an operand that is read; constants are put into a temporary first.
    fn field(&mut self, now: usize, operand: Operand) -> Option<u16> {
        Some(match operand {
            Operand::None => offset::ZERO as u16,
            Operand::Reg(r) => offset::gpr(r) as u16,
            Operand::High(r) => offset::gpr(r) as u16 + 1,
            Operand::Temp(t) => self.temps[usize::from(t.0)].0,
            Operand::Imm(value) => {
                let d = self.slot(now, 0)?;
                let run = crate::handlers::alu::mov_imm::<u64>;
                self.push(LOp {
                    run,
                    d,
                    imm: value,
                    ..self.blank()
                });
                d
            }
            Operand::Pc(delta) => {
                let d = self.slot(now, 0)?;
                let run = if self.mode.code64() {
                    crate::handlers::alu::mov_pc::<u64>
                } else {
                    crate::handlers::alu::mov_pc::<u32>
                };
                self.push(LOp {
                    run,
                    d,
                    imm: delta.into(),
                    ..self.blank()
                });
                d
            }
            Operand::Vec(r) => offset::vec(r.into()) as u16,
            Operand::Mmx(r) => crate::host::host_mmx(r) as u16,
            Operand::VecTemp(t) => self.vec_temps[usize::from(t.0)].0,
            Operand::Mask(k) => offset::mask(k.into()) as u16,
        })
    }

    /// The field of an operand that is written; a fresh slot for a temporary.
    fn dest(&mut self, now: usize, operand: Operand) -> Option<u16> {
        Some(match operand {
            Operand::Temp(t) => {
                let until = self.temps[usize::from(t.0)].1;
                let slot = self.slot(now, until)?;
                self.temps[usize::from(t.0)].0 = slot;
                slot
            }
            Operand::VecTemp(t) => {
                let free = self
                    .vec_slots
                    .iter()
                    .position(|free_at| *free_at <= now as u32)?;
                self.vec_slots[free] = self.vec_temps[usize::from(t.0)].1.max(now as u32) + 1;
                let at = offset::vec_temp(free) as u16;
                self.vec_temps[usize::from(t.0)].0 = at;
                at
            }
            Operand::Reg(r) => offset::gpr(r) as u16,
            Operand::High(r) => offset::gpr(r) as u16 + 1,
            Operand::Vec(r) => offset::vec(r.into()) as u16,
            Operand::Mmx(r) => crate::host::host_mmx(r) as u16,
            Operand::Mask(k) => offset::mask(k.into()) as u16,
            Operand::None | Operand::Imm(_) | Operand::Pc(_) => offset::SINK as u16,
        })
    }

    /// The op `ahead` places behind `at`, if it belongs to the same instruction.
    fn same_insn(&self, at: usize, ahead: usize) -> Option<&Op> {
        let ops = self.ops.get(at + 1..=at + ahead)?;
        if ops.iter().any(|o| o.code == OpCode::Insn) {
            None
        } else {
            ops.last()
        }
    }

    /// Whether an operand is a temporary that only one op reads.
    fn single(&self, operand: Operand) -> bool {
        operand
            .temp()
            .is_some_and(|t| self.uses[usize::from(t.0)] == 1)
    }

    /// A terminal op followed by the filler that will point to its exits.
    fn terminal(&mut self, op: LOp, exits: &[Exit]) {
        self.push(LOp {
            len: op.len | LAST | FILLER,
            ..op
        });
        self.push(self.blank());
        self.out.exits = exits.to_vec();
    }

    /// A terminal op without exits of its own.
    fn last(&mut self, op: LOp) {
        self.push(LOp {
            len: op.len | LAST,
            ..op
        });
    }

    fn exit(&self, operand: Operand, width: Width) -> Option<Exit> {
        let Operand::Pc(delta) = operand else {
            return None;
        };
        let width = if width == Width::B64 && !self.mode.code64() {
            Width::B32
        } else {
            width
        };
        Some(Exit { delta, width })
    }

    /// RSP, if the stack pointer is 64 bits wide.
    fn is_rsp(&self, operand: Operand) -> bool {
        operand == Operand::Reg(Gpr::Rsp)
    }
}
