//! Accesses near each other: one check for all that go through one register within a block.
//!
//! A register that only moves by constants (PUSH, POP, LEA) keeps its *epoch*; all its accesses in an epoch lie at known
//! distances. The first checks that the whole range lies in one page, the others only add the page's addend. Where the
//! range does not (or the page is none that may be accessed in place) the block is left for one of the same code without
//! merging, from this instruction on.

use std::mem::offset_of;

use ir::{Access, Mem, MemUse, Op, OpCode, Operand, SegBase, Width};
use softmmu::TlbEntry;
use x86::Gpr;

use super::{Emit, Kind};
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
    align: u32,
}

/// What has been checked.
#[derive(Clone, Copy)]
pub(super) struct Checked {
    epoch: u32,
    low: i64,
    high: i64,
    write: bool,
    /// `low` is a multiple of this.
    align: u32,
    /// The field of the frame that holds the page's addend; in 32-bit code, the place of `low`.
    addend: usize,
}

impl Checked {
    fn covers(&self, m: &Member, write: bool) -> bool {
        self.epoch == m.epoch
            && self.low <= m.offset
            && m.offset + i64::from(m.size) <= self.high
            && (self.write || !(write || m.write))
            && m.align <= self.align
            && (m.offset - self.low) % i64::from(m.align) == 0
    }
}

/// S0 holds the addend of a page cache entry (its offset) as long as [`asm::Asm::moment`] is this.
#[derive(Clone, Copy, Default)]
pub(super) struct Held {
    addend: usize,
    moment: u32,
}

/// The accesses of a block, in order.
#[derive(Default)]
pub(super) struct Groups {
    members: Vec<Member>,
}

impl Groups {
    /// Finds them, in the memory of earlier ones.
    /// `w`: the width of addresses.
    pub(super) fn of(self, ops: &[Op], w: Width) -> Self {
        let mut epochs = [0u32; 16];
        let mut moved = [0i64; 16];
        let mut members = self.members;
        members.clear();
        for (n, op) in ops.iter().enumerate() {
            if let Some((gpr, disp, size, write, align)) = plain(op, w) {
                members.push(Member {
                    op: n as u32,
                    gpr,
                    epoch: epochs[gpr as usize],
                    offset: moved[gpr as usize] + disp,
                    size,
                    write,
                    align,
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
            if let Some((gpr, by)) = step(op, w) {
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

/// Register, displacement, size, direction and alignment of an access that may be a member.
fn plain(op: &Op, w: Width) -> Option<(Gpr, i64, u32, bool, u32)> {
    let mem = op.mem?;
    let Operand::Reg(gpr) = mem.base else {
        return None;
    };
    let simple = mem.index == Operand::None
        && mem.seg == SegBase::None
        && mem.addr == w
        && mem.access == Access::Data
        && !mem.lock;
    let size = size(op)?;
    let write = op.code.info().mem != MemUse::Read;
    let align = u32::from(mem.align).max(1);
    simple.then_some((gpr, i64::from(mem.disp), size, write, align))
}

/// Bytes of a plain access.
pub(super) fn size(op: &Op) -> Option<u32> {
    let size = match op.code {
        OpCode::Load | OpCode::Store | OpCode::Rmw | OpCode::Cmpxchg => {
            return Some(op.width.bytes().into());
        }
        OpCode::VecLoad => op.a,
        OpCode::VecStore => op.b,
        _ => return None,
    };
    match size {
        Operand::Imm(n @ 1..=64) => Some(n as u32),
        _ => None,
    }
}

/// The register that an op of a width moves by a constant.
pub(super) fn step(op: &Op, w: Width) -> Option<(Gpr, i64)> {
    let Operand::Reg(g) = op.dst else { return None };
    if op.width != w {
        return None;
    }
    let by = match (op.code, op.mem, op.b) {
        (OpCode::Lea, Some(mem), _)
            if mem.base == op.dst
                && mem.index == Operand::None
                && mem.addr >= w
                && mem.seg == SegBase::None =>
        {
            i64::from(mem.disp)
        }
        (OpCode::Add, None, Operand::Imm(n)) if op.a == op.dst => n,
        (OpCode::Sub, None, Operand::Imm(n)) if op.a == op.dst => n.checked_neg()?,
        (OpCode::Inc, None, _) if op.a == op.dst => 1,
        (OpCode::Dec, None, _) if op.a == op.dst => -1,
        _ => return None,
    };
    i32::try_from(by).is_ok().then_some((g, by))
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

    /// The op whose access is being emitted: this one, or the store behind it.
    pub(super) fn accessing(&self) -> usize {
        if self.ops[self.at].mem.is_some() {
            self.at
        } else {
            self.at + 1
        }
    }

    /// Makes `here` the place of a member whose range has been checked, or checks it. `None`: it is to be checked alone.
    pub(super) fn merged(&mut self, mem: &Mem, size: u32, write: bool, kind: Kind) -> Option<()> {
        if !self.cx.merge || kind.locked {
            return None;
        }
        let op = self.accessing();
        let n = self.groups.at(op)?;
        let member = self.groups.members[n];
        if self.ops[op].mem.as_ref() != Some(mem) || member.size != size {
            return None;
        }
        let g = member.gpr as usize;
        if !self.checked[g].is_some_and(|c| c.covers(&member, write)) {
            // Who checks accesses, too, and would fault: see `astray.rs`.
            if kind.masked {
                return None;
            }
            self.check_group(n, mem.disp)?;
        }
        let Checked { addend, low, .. } = self.checked[g]?;
        if !self.code64 {
            self.hold(addend);
            self.here = asm::Mem::at(S0, (member.offset - low) as i32);
            return Some(());
        }
        match home(member.gpr) {
            Rm::R(r) => {
                self.hold(addend);
                self.here = asm::Mem {
                    base: S0,
                    index: Some((r, 0)),
                    disp: mem.disp,
                    gs: false,
                };
            }
            memory @ Rm::M(_) => {
                self.a.load(Width::B64, S0, memory);
                self.a.load(Width::B64, S1, Rm::M(field(addend)));
                self.a.lea(Width::B64, S0, asm::Mem::sum(S0, S1, 0));
                self.here = asm::Mem::at(S0, mem.disp);
            }
        }
        Some(())
    }

    /// Brings a field of the frame into S0, if it isn't there.
    fn hold(&mut self, addend: usize) {
        let moment = self.a.moment();
        if self.held.addend != addend || self.held.moment != moment {
            self.a.load(Width::B64, S0, Rm::M(field(addend)));
            let moment = self.a.moment();
            self.held = Held { addend, moment };
        }
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
            .any(|op| op.mem.is_some() && op.code.info().mem != MemUse::Address)
        {
            return None;
        }
        let (mut low, mut high) = (first.offset, first.offset + i64::from(first.size));
        let (mut write, mut align, mut count) = (first.write, first.align, 1);
        for m in &self.groups.members[n + 1..] {
            if m.gpr != first.gpr {
                continue;
            }
            if m.epoch != first.epoch {
                break;
            }
            let a = align.max(m.align);
            // Downwards to what is a multiple if the members are.
            let fixed = if m.align > align { m.offset } else { low };
            let mut l = low.min(m.offset);
            l -= (l - fixed).rem_euclid(i64::from(a));
            let h = high.max(m.offset + i64::from(m.size));
            let together = (m.offset - low) % i64::from(align.min(m.align)) == 0;
            if together && h - l <= RANGE {
                (low, high) = (l, h);
                write |= m.write;
                align = a;
                count += 1;
            }
        }
        if count < 2 {
            return None;
        }
        // From the register's value now.
        let start = i32::try_from(i64::from(disp) + low - first.offset).ok()?;
        let w = if self.code64 { Width::B64 } else { Width::B32 };
        let hops = self.hops(Operand::Reg(first.gpr), Operand::None);
        let kept = self.code64 && self.keeps(hops);
        if !kept {
            self.clobber();
        }
        let lowest = |e: &mut Self, to: asm::Reg| match home(first.gpr) {
            Rm::R(r) => e.a.lea(w, to, asm::Mem::at(r, start)),
            memory @ Rm::M(_) => {
                e.a.load(w, to, memory);
                e.a.lea(w, to, asm::Mem::at(to, start));
            }
        };
        let cache = cached(self.user, first.gpr as usize);
        let (minus, addend) = PageCache::fields(write);
        let minus = Rm::M(field(cache + minus));
        let addend = cache + addend;
        let (miss, here) = (self.a.label(), self.a.label());
        let length = (high - low) as i32;
        let mut holds = addend;
        if hops || !self.code64 {
            holds = offset_of!(Frame, addends) + first.gpr as usize * 8;
        }
        if hops {
            lowest(self, S0);
            let tag = self.by_tlb(length as u32, write, align, miss);
            let found = asm::Mem::at(S1, TlbEntry::OFFSET_ADDEND as i32);
            if self.code64 {
                self.a.load(Width::B64, S0, Rm::M(found));
            } else {
                self.a.alu(Alu::Add, Width::B64, S0, Rm::M(tag));
                self.a.alu(Alu::Add, Width::B64, S0, Rm::M(found));
            }
            self.a.bind(here);
            self.a.store(Width::B64, field(holds), S0);
        } else if !self.code64 {
            // The place itself is kept: an address wraps within 32 bits, one that is computed again would not.
            lowest(self, S0);
            self.a.load(Width::B64, S1, Rm::R(S0));
            self.a.alu(Alu::Add, Width::B64, S1, minus);
            self.in_page(S1, length as u32, align, miss);
            self.a.bind(here);
            self.a.alu(Alu::Add, Width::B64, S0, Rm::M(field(addend)));
            self.a.store(Width::B64, field(holds), S0);
        } else if kept {
            self.a.load(Width::B64, S1, minus);
            match home(first.gpr) {
                Rm::R(r) => self.a.lea(Width::B64, S0, asm::Mem::sum(S1, r, start)),
                memory @ Rm::M(_) => {
                    self.a.load(Width::B64, S0, memory);
                    self.a.lea(Width::B64, S0, asm::Mem::sum(S1, S0, start));
                }
            }
            self.range_kept(length as u32, align, miss);
            self.a.bind(here);
        } else {
            lowest(self, S1);
            self.a.alu(Alu::Add, Width::B64, S1, minus);
            self.in_page(S1, length as u32, align, miss);
            self.a.bind(here);
        }
        let old = self.a.section(Section::Cold);
        let flags = self.flags();
        let found = if kept {
            let label = self.a.label();
            self.a.bind(label);
            self.found_kept();
            self.a.jmp(here);
            label
        } else {
            here
        };
        self.a.bind(miss);
        if kept {
            self.missed_kept();
        }
        lowest(self, S0);
        let upper = !self.user;
        self.a
            .mov_imm(S1, u64::from(packed(cache, length as u32, align, upper)));
        self.a.call(if write {
            self.stubs.group_write
        } else {
            self.stubs.group_read
        });
        if hops {
            let odd = self.a.label();
            self.a.jcc(ir::Cond::B, odd);
            if self.code64 {
                self.a.load(Width::B64, S0, Rm::M(field(addend)));
            } else {
                lowest(self, S0);
                self.a.alu(Alu::Add, Width::B64, S0, Rm::M(field(addend)));
            }
            self.a.jmp(here);
            self.a.bind(odd);
        } else {
            if !self.code64 {
                lowest(self, S0);
            }
            self.a.jcc(ir::Cond::Ae, found);
        }
        self.leave_unmerged();
        self.a.section(old);
        self.set_flags(flags);
        if kept {
            self.stored = None;
        }
        self.checked[first.gpr as usize] = Some(Checked {
            epoch: first.epoch,
            low,
            high,
            write,
            align,
            addend: holds,
        });
        if hops || !self.code64 {
            let moment = self.a.moment();
            self.held = Held {
                addend: holds,
                moment,
            };
        }
        Some(())
    }

    /// Goes to `miss` unless an access of `size` bytes at this distance from a page's start is within the page and aligned.
    pub(super) fn in_page(&mut self, distance: asm::Reg, size: u32, align: u32, miss: asm::Label) {
        let mut last = 4096 - size as i32;
        if align > 1 {
            // What makes it odd comes to the top.
            let shift = align.trailing_zeros() as u8;
            self.a.rorx(Width::B64, distance, Rm::R(distance), shift);
            last >>= shift;
        }
        self.a.alu_imm(Alu::Cmp, Width::B64, Rm::R(distance), last);
        self.a.jcc(ir::Cond::A, miss);
    }

    /// Goes on with this instruction in a block that merges nothing. In the cold section.
    fn leave_unmerged(&mut self) {
        self.uncount();
        let flags = self.flags();
        self.cold_exit(self.pc(self.insn.delta), true);
        self.set_flags(flags);
    }
}
