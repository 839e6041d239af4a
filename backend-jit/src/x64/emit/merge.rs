//! Accesses near each other: one check for all that go through one register within a block.
//!
//! A register that only moves by constants (PUSH, POP, LEA) keeps its *epoch*; all its accesses in an epoch lie at known
//! distances. The first checks that the whole range lies in one page, the others only add the page's addend. Where the
//! range does not (or the page is none that may be accessed in place) the block is left for one of the same code without
//! merging, from this instruction on.

use std::mem::offset_of;

use ir::{Access, Mem, MemUse, Op, OpCode, Operand, SegBase, Width};
use x86::Gpr;

use super::{Emit, Kind, exits};
use crate::x64::asm::{self, Alu, Rm, Section};
use crate::x64::frame::{Frame, PageCache, S0, S1, cached, field, home};
use crate::x64::runtime::packed;

/// The longest range of one check, in bytes.
const RANGE: i64 = 240;

/// A member of a group.
#[derive(Clone, Copy)]
struct Member {
    /// The op that accesses.
    op: u32,
    gpr: Gpr,
    epoch: u32,
    /// Distance of the first byte from the register's value at the epoch's start.
    offset: i64,
    size: u32,
    write: bool,
}

/// What has been checked.
#[derive(Clone, Copy)]
pub(super) struct Checked {
    epoch: u32,
    low: i64,
    high: i64,
    write: bool,
}

/// The accesses of a block, in order.
#[derive(Default)]
pub(super) struct Groups {
    members: Vec<Member>,
}

impl Groups {
    /// Finds them.
    pub(super) fn of(ops: &[Op]) -> Self {
        let mut epochs = [0u32; 16];
        let mut moved = [0i64; 16];
        let mut members = Vec::new();
        for (n, op) in ops.iter().enumerate() {
            if let Some((gpr, disp, size, write)) = plain(op) {
                members.push(Member {
                    op: n as u32,
                    gpr,
                    epoch: epochs[gpr as usize],
                    offset: moved[gpr as usize] + disp,
                    size,
                    write,
                });
            }
            match op.code {
                OpCode::Call | OpCode::String | OpCode::CmpxchgPair => {
                    epochs.iter_mut().for_each(|e| *e += 1);
                }
                // The lengths' result; RAX of a failed comparison.
                OpCode::Vec => epochs[Gpr::Rcx as usize] += 1,
                OpCode::Cmpxchg | OpCode::X87 => epochs[Gpr::Rax as usize] += 1,
                _ => {}
            }
            if let Some((gpr, by)) = step(op) {
                moved[gpr as usize] += by;
                continue;
            }
            for dst in [op.dst, op.dst2] {
                if let Operand::Reg(g) | Operand::High(g) = dst {
                    epochs[g as usize] += 1;
                    moved[g as usize] = 0;
                }
            }
        }
        Self { members }
    }

    fn at(&self, op: usize) -> Option<usize> {
        self.members
            .binary_search_by_key(&(op as u32), |m| m.op)
            .ok()
    }
}

/// Register, displacement, size and direction of an access that may be a member.
fn plain(op: &Op) -> Option<(Gpr, i64, u32, bool)> {
    let mem = op.mem?;
    let Operand::Reg(gpr) = mem.base else {
        return None;
    };
    let simple = mem.index == Operand::None
        && mem.seg == SegBase::None
        && mem.addr == Width::B64
        && mem.access == Access::Data
        && mem.align <= 1
        && !mem.lock;
    let size = match op.code {
        OpCode::Load | OpCode::Store | OpCode::Rmw | OpCode::Cmpxchg => op.width.bytes().into(),
        OpCode::VecLoad | OpCode::VecStore => {
            let size = if op.code == OpCode::VecLoad {
                op.a
            } else {
                op.b
            };
            match size {
                Operand::Imm(n @ 1..=64) => n as u32,
                _ => return None,
            }
        }
        _ => return None,
    };
    let write = op.code.info().mem != MemUse::Read;
    simple.then_some((gpr, i64::from(mem.disp), size, write))
}

/// The register that an op moves by a constant.
fn step(op: &Op) -> Option<(Gpr, i64)> {
    let Operand::Reg(g) = op.dst else { return None };
    if op.width != Width::B64 {
        return None;
    }
    match (op.code, op.mem, op.b) {
        (OpCode::Lea, Some(mem), _)
            if mem.base == op.dst
                && mem.index == Operand::None
                && mem.addr == Width::B64
                && mem.seg == SegBase::None =>
        {
            Some((g, i64::from(mem.disp)))
        }
        (OpCode::Add, None, Operand::Imm(n)) if op.a == op.dst && i32::try_from(n).is_ok() => {
            Some((g, n))
        }
        (OpCode::Sub, None, Operand::Imm(n)) if op.a == op.dst && i32::try_from(n).is_ok() => {
            Some((g, -n))
        }
        _ => None,
    }
}

impl Emit<'_> {
    /// Nothing that was checked is known any more.
    pub(super) fn forget_checks(&mut self) {
        self.checked = [None; 16];
    }

    /// Whether the page cache entry of a register holds the page of a range that was checked.
    pub(super) fn holds_checked(&self, g: Gpr) -> bool {
        self.checked[g as usize].is_some()
    }

    /// Makes `here` the place of a member whose range has been checked, or checks it. `None`: it is to be checked alone.
    pub(super) fn merged(&mut self, mem: &Mem, size: u32, write: bool, kind: Kind) -> Option<()> {
        if !self.cx.merge || kind.locked {
            return None;
        }
        let op = if self.ops[self.at].mem.is_some() {
            self.at
        } else {
            self.at + 1
        };
        let n = self.groups.at(op)?;
        let member = self.groups.members[n];
        if self.ops[op].mem.as_ref() != Some(mem) || member.size != size {
            return None;
        }
        let g = member.gpr as usize;
        let end = member.offset + i64::from(size);
        let covered = self.checked[g].is_some_and(|c| {
            c.epoch == member.epoch
                && c.low <= member.offset
                && end <= c.high
                && (c.write || !(write || member.write))
        });
        if !covered {
            self.check_group(n, mem.disp)?;
        }
        let write = self.checked[g].is_some_and(|c| c.write);
        let cache = cached(self.user, g);
        let addend = Rm::M(field(
            cache
                + if write {
                    offset_of!(PageCache, write_addend)
                } else {
                    offset_of!(PageCache, read_addend)
                },
        ));
        match home(member.gpr) {
            Rm::R(r) => {
                self.a.load(Width::B64, S0, addend);
                self.here = asm::Mem {
                    base: S0,
                    index: Some((r, 0)),
                    disp: mem.disp,
                };
            }
            memory @ Rm::M(_) => {
                self.clobber();
                self.a.load(Width::B64, S0, memory);
                self.a.alu(Alu::Add, Width::B64, S0, addend);
                self.here = asm::Mem::at(S0, mem.disp);
            }
        }
        Some(())
    }

    /// Checks the range of the members from the `n`th on.
    fn check_group(&mut self, n: usize, disp: i32) -> Option<()> {
        let first = self.groups.members[n];
        // What came before in its instruction may not be done twice.
        let before = self.ops[..first.op as usize]
            .iter()
            .rev()
            .take_while(|op| op.code != OpCode::Insn);
        if before
            .into_iter()
            .any(|op| op.mem.is_some() && op.code != OpCode::Lea)
        {
            return None;
        }
        let (mut low, mut high) = (first.offset, first.offset + i64::from(first.size));
        let (mut write, mut count) = (first.write, 1);
        for m in &self.groups.members[n + 1..] {
            if m.gpr != first.gpr {
                continue;
            }
            if m.epoch != first.epoch {
                break;
            }
            let (l, h) = (low.min(m.offset), high.max(m.offset + i64::from(m.size)));
            if h - l <= RANGE {
                (low, high) = (l, h);
                write |= m.write;
                count += 1;
            }
        }
        if count < 2 {
            return None;
        }
        // From the register's value now.
        let start = i32::try_from(i64::from(disp) + low - first.offset).ok()?;
        self.clobber();
        let base = match home(first.gpr) {
            Rm::R(r) => r,
            memory @ Rm::M(_) => {
                self.a.load(Width::B64, S0, memory);
                S0
            }
        };
        self.a.lea(Width::B64, S0, asm::Mem::at(base, start));
        let cache = cached(self.user, first.gpr as usize);
        let page = if write {
            offset_of!(PageCache, write_page)
        } else {
            offset_of!(PageCache, read_page)
        };
        let (miss, here) = (self.a.label(), self.a.label());
        let length = (high - low) as i32;
        self.a.load(Width::B64, S1, Rm::R(S0));
        self.a
            .alu(Alu::Sub, Width::B64, S1, Rm::M(field(cache + page)));
        self.a
            .alu_imm(Alu::Cmp, Width::B64, Rm::R(S1), 4096 - length);
        self.a.jcc(ir::Cond::A, miss);
        self.a.bind(here);
        let old = self.a.section(Section::Cold);
        self.a.bind(miss);
        let upper = self.code64 && !self.user;
        self.a
            .mov_imm(S1, u64::from(packed(cache, length as u32, 1, upper)));
        self.a.call(if write {
            self.stubs.group_write
        } else {
            self.stubs.group_read
        });
        self.a.jcc(ir::Cond::Ae, here);
        self.leave_unmerged();
        self.a.section(old);
        self.checked[first.gpr as usize] = Some(Checked {
            epoch: first.epoch,
            low,
            high,
            write,
        });
        Some(())
    }

    /// Goes on with this instruction in a block that merges nothing. In the cold section.
    fn leave_unmerged(&mut self) {
        if self.cx.count {
            let left = self.block.insns as i32 - i32::from(self.insn.ord);
            let budget = Rm::M(field(offset_of!(Frame, budget)));
            self.a.alu_imm(Alu::Add, Width::B64, budget, left);
        }
        let (state, hf) = (self.state, self.hf);
        self.spill();
        self.state = state;
        self.hf = hf;
        let number = self.cx.first[0] + self.exits.len() as u32;
        let unlinked = self.a.label();
        let place = self.a.jmp(unlinked);
        self.a.bind(unlinked);
        self.a.mov_imm(S1, u64::from(number));
        self.a.jmp(self.stubs.link);
        let target = self.pc(i32::from(self.insn.delta));
        self.exits.push(exits::Exit {
            hot: 0,
            stub: place,
            target,
            flags: None,
            direct: false,
            unmerged: true,
        });
    }
}
