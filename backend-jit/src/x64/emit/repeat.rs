//! Loops of one block: the checks of their accesses before the loop, not in it.
//!
//! Where a block jumps to itself and the address of each access moves by the same number of bytes with each iteration (or
//! not at all), one look at the TLB says how often the block can run before an access leaves its page. That many
//! iterations run in a copy of the block without checks and without a look at the event word:
//!
//! ```text
//! hot   entry:  the block, with its checks; jumps back to `back`
//!       top:    the block without; counts down in the midst, where the flags are dead; jumps back to `top`
//! cold  back:   every few times to `ready`, else to `entry`
//!       ready:  finds the pages; how many iterations? if only a few: to `entry`
//!       last:   what follows the count in the last iteration; jumps back to `ready`
//! ```
//! The pages' addends and the count are in registers that the block does not name: `ready` saves them, each way out brings them
//! back.

use std::mem::offset_of;

use iced_x86::{Code, Mnemonic};
use ir::{Access, Cond, Mem, MemUse, Op, OpCode, Operand, SegBase, Width};
use softmmu::TlbEntry;
use system::FlagOp;
use x86::Gpr;

use super::{Emit, merge};
use crate::x64::asm::{self, Alu, Label, Reg, Rm, Section, Shift};
use crate::x64::flags::{Desc, Src, State};
use crate::x64::frame::{Frame, S0, S1, SAVED, field, home};

/// A line of the host's instruction cache: a short loop across two may take half as long again.
const LINE: u32 = 64;
/// The longest range of one check, in bytes.
const RANGE: i64 = 1024;
/// Each page must be good for more iterations than this.
const FEW: i32 = 3;
/// Iterations without a look at the event word at most: no more than a page of the longest strides needs.
const MOST: u64 = 1023;
/// Ways back by `entry` before the next attempt, unless the last one was good for [`MANY`] iterations.
const PATIENCE: i32 = 15;
const MANY: i32 = 48;

/// How a register changes in an iteration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Motion {
    /// By a constant, which may be 0.
    By(i64),
    Any,
}

/// Accesses that move together.
struct Range {
    base: Operand,
    index: Operand,
    scale: u8,
    /// From the first to behind the last byte, from where the registers say at the start of an iteration.
    low: i64,
    high: i64,
    write: bool,
    /// `low` is a multiple of this.
    align: i64,
    /// What it moves by in an iteration.
    stride: i64,
    /// What the addend is added to already.
    folded: Folded,
    /// The register with the addend.
    addend: Reg,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Folded {
    Nothing,
    Base,
    Index,
}

/// A loop's accesses and registers.
pub(super) struct Plan {
    ranges: Vec<Range>,
    /// Ops that access, in order, and their ranges.
    members: Vec<(u32, u8)>,
    /// Counts the iterations that are left.
    count: Reg,
    /// What ends the loop, if that can be foreseen.
    end: Option<End>,
}

/// A loop that ends when a register, which moves by a power of two, comes to equal something that doesn't change.
#[derive(Clone, Copy)]
struct End {
    gpr: Gpr,
    step: i64,
    /// `Reg` or `Imm`.
    at: Src,
}

impl End {
    /// `state`: where the flags of the loop's branch are, which is taken until they say "equal".
    fn of(state: State, motions: &[Motion; 16]) -> Option<Self> {
        let State::Desc(desc) = state else {
            return None;
        };
        let (gpr, at) = match (desc.op, desc.a) {
            (FlagOp::Sub, Src::Reg(g)) => (g, desc.b),
            (FlagOp::Logic | FlagOp::Inc | FlagOp::Dec, Src::Reg(g))
            | (FlagOp::Sub, Src::Plus(g))
            | (FlagOp::Add, Src::Minus(g)) => (g, Src::Imm(0)),
            _ => return None,
        };
        let Motion::By(step) = motions[gpr as usize] else {
            return None;
        };
        let still = match at {
            Src::Reg(g) => motions[g as usize] == Motion::By(0),
            _ => true,
        };
        let known = step.unsigned_abs().is_power_of_two() && step.abs() <= RANGE;
        (still && known && desc.width == Width::B64).then_some(Self { gpr, step, at })
    }
}

/// Whether an instruction made of such ops can neither fault, but for its accesses, nor leave the code.
fn harmless(op: &Op) -> bool {
    use OpCode as C;
    match op.code {
        C::Insn
        | C::Mov
        | C::Zext
        | C::Sext
        | C::Lea
        | C::Select
        | C::Setcc
        | C::Bswap
        | C::Add
        | C::Adc
        | C::Sub
        | C::Sbb
        | C::And
        | C::Or
        | C::Xor
        | C::Inc
        | C::Dec
        | C::Neg
        | C::Not
        | C::Shl
        | C::Shr
        | C::Sar
        | C::Rol
        | C::Ror
        | C::Shld
        | C::Shrd
        | C::MulU
        | C::MulS
        | C::Imul
        | C::Adcx
        | C::Adox
        | C::Bt
        | C::Bts
        | C::Btr
        | C::Btc
        | C::Bsf
        | C::Bsr
        | C::Tzcnt
        | C::Lzcnt
        | C::Popcnt
        | C::Andn
        | C::Bextr
        | C::Blsi
        | C::Blsmsk
        | C::Blsr
        | C::Bzhi
        | C::Pdep
        | C::Pext
        | C::Crc32
        | C::Load
        | C::Store
        | C::Rmw
        | C::VecLoad
        | C::VecStore => true,
        // These name registers that are not their operands.
        C::Vec => Code::try_from(op.sub as usize).is_ok_and(|code| {
            use Mnemonic as M;
            !matches!(
                code.mnemonic(),
                M::Pcmpestri
                    | M::Pcmpestri64
                    | M::Pcmpestrm
                    | M::Pcmpestrm64
                    | M::Pcmpistri
                    | M::Pcmpistrm
                    | M::Vpcmpestri
                    | M::Vpcmpestri64
                    | M::Vpcmpestrm
                    | M::Vpcmpestrm64
                    | M::Vpcmpistri
                    | M::Vpcmpistrm
            )
        }),
        _ => false,
    }
}

fn motion(motions: &[Motion; 16], operand: Operand) -> Motion {
    match operand {
        Operand::None | Operand::Imm(_) | Operand::Pc(_) => Motion::By(0),
        Operand::Reg(g) => motions[g as usize],
        _ => Motion::Any,
    }
}

/// The byte that an operand adds when it has moved by so much.
fn moved(by: &[i64; 16], operand: Operand) -> i64 {
    match operand {
        Operand::Reg(g) => by[g as usize],
        _ => 0,
    }
}

impl Plan {
    /// What the body of a loop (without the branch) needs. `None`: it is not one of these.
    /// `until_equal`: where the flags are that the branch takes until they say so.
    fn of(body: &[Op], flags: Option<Desc>, until_equal: Option<State>) -> Option<Self> {
        let mut motions = [Motion::By(0); 16];
        let mut named = [false; 16];
        let mut name = |operand| {
            if let Operand::Reg(g) | Operand::High(g) = operand {
                named[g as usize] = true;
            }
        };
        if let Some(desc) = flags {
            for src in [desc.a, desc.b] {
                if let Src::Reg(g) | Src::Minus(g) | Src::Plus(g) = src {
                    name(Operand::Reg(g));
                }
            }
        }
        for op in body {
            if !harmless(op) {
                return None;
            }
            ir::effect::reads(op).into_iter().for_each(&mut name);
            let step = merge::step(op);
            for dst in [op.dst, op.dst2] {
                name(dst);
                if let Operand::Reg(g) | Operand::High(g) = dst {
                    let motion = &mut motions[g as usize];
                    *motion = match (*motion, step) {
                        (Motion::By(sum), Some((_, by))) => Motion::By(sum.checked_add(by)?),
                        _ => Motion::Any,
                    };
                }
            }
        }
        let mut plan = Self {
            ranges: Vec::new(),
            members: Vec::new(),
            count: 0,
            end: until_equal.and_then(|state| End::of(state, &motions)),
        };
        let mut by = [0; 16];
        for (n, op) in body.iter().enumerate() {
            if let Some(mem) = op.mem.filter(|_| op.code != OpCode::Lea) {
                plan.member(n, op, &mem, &motions, &by)?;
            }
            if let Some((g, step)) = merge::step(op) {
                by[g as usize] += step;
            }
        }
        let mut free = Gpr::ALL.iter().filter(|g| !named[**g as usize]);
        let mut register = || {
            free.find_map(|g| match home(*g) {
                Rm::R(r) => Some(r),
                Rm::M(_) => None,
            })
        };
        plan.count = register()?;
        for range in &mut plan.ranges {
            range.addend = register()?;
            if range.stride % range.align != 0 {
                return None;
            }
        }
        (plan.ranges.len() < SAVED).then_some(plan)
    }

    /// Notes an access.
    fn member(
        &mut self,
        n: usize,
        op: &Op,
        mem: &Mem,
        motions: &[Motion; 16],
        by: &[i64; 16],
    ) -> Option<()> {
        let simple = mem.seg == SegBase::None
            && mem.addr == Width::B64
            && mem.access == Access::Data
            && !mem.lock;
        let (Motion::By(base), Motion::By(index)) =
            (motion(motions, mem.base), motion(motions, mem.index))
        else {
            return None;
        };
        let stride = base.checked_add(index.checked_mul(1 << mem.scale)?)?;
        if !simple || stride.abs() > RANGE || (mem.base == mem.index && mem.base.is_some()) {
            return None;
        }
        let size = i64::from(merge::size(op)?);
        let offset = i64::from(mem.disp)
            .checked_add(moved(by, mem.base))?
            .checked_add(moved(by, mem.index).checked_mul(1 << mem.scale)?)?;
        let align = i64::from(mem.align).max(1);
        let write = op.code.info().mem != MemUse::Read;
        let end = offset + size;
        // Downwards to a multiple of the greatest alignment.
        let join = |r: &Range| {
            let most = r.align.max(align);
            let fixed = if align > r.align { offset } else { r.low };
            let low = r.low.min(offset);
            let low = low - (low - fixed).rem_euclid(most);
            let together = (offset - r.low) % r.align.min(align) == 0;
            (together && r.high.max(end) - low <= RANGE).then_some((low, most))
        };
        for (number, r) in self.ranges.iter_mut().enumerate() {
            if (r.base, r.index, r.scale) != (mem.base, mem.index, mem.scale) {
                continue;
            }
            if let Some((low, most)) = join(r) {
                r.low = low;
                r.high = r.high.max(end);
                r.align = most;
                r.write |= write;
                self.members.push((n as u32, number as u8));
                return Some(());
            }
        }
        let in_register = |operand| match operand {
            Operand::Reg(g) => matches!(home(g), Rm::R(_)),
            _ => false,
        };
        let folded = if mem.index == Operand::None {
            if in_register(mem.base) || base != 0 {
                Folded::Nothing
            } else {
                Folded::Base
            }
        } else if index == 0 && (base != 0 || !in_register(mem.index)) {
            Folded::Index
        } else if !in_register(mem.index) {
            return None;
        } else if base == 0 {
            Folded::Base
        } else {
            Folded::Nothing
        };
        self.members.push((n as u32, self.ranges.len() as u8));
        self.ranges.push(Range {
            base: mem.base,
            index: mem.index,
            scale: mem.scale,
            low: offset,
            high: end,
            write,
            align,
            stride,
            folded,
            addend: 0,
        });
        Some(())
    }

    /// The registers that it takes, and where they are saved.
    fn taken(&self) -> impl Iterator<Item = (Reg, asm::Mem)> {
        let place = |n: usize| field(offset_of!(Frame, saved) + n * 8);
        std::iter::once(self.count)
            .chain(self.ranges.iter().map(|r| r.addend))
            .enumerate()
            .map(move |(n, reg)| (reg, place(n)))
    }

    fn of_op(&self, op: usize) -> Option<&Range> {
        let n = self
            .members
            .binary_search_by_key(&(op as u32), |m| m.0)
            .ok()?;
        self.ranges.get(usize::from(self.members[n].1))
    }
}

impl Emit<'_> {
    /// Makes `here` the place of an access of a loop whose checks are before it. `None`: no such loop is being emitted.
    pub(super) fn unchecked(&mut self, mem: &Mem) -> Option<()> {
        let op = self.accessing();
        let range = self.repeat.as_ref()?.of_op(op)?;
        let (addend, folded, disp) = (range.addend, range.folded, mem.disp);
        let index = match self.place(mem.index) {
            Some(Rm::R(r)) if folded != Folded::Index => Some((r, mem.scale)),
            _ => None,
        };
        if folded == Folded::Base {
            self.here = asm::Mem {
                base: addend,
                index,
                disp,
            };
            return Some(());
        }
        let (first, second) = match self.place(mem.base)? {
            Rm::R(base) => (addend, base),
            memory @ Rm::M(_) => {
                self.a.load(Width::B64, S0, memory);
                (S0, addend)
            }
        };
        let sum = asm::Mem {
            base: first,
            index: Some((second, 0)),
            disp,
        };
        self.here = if index.is_some() {
            self.a.lea(Width::B64, S0, sum);
            asm::Mem {
                base: S0,
                index,
                disp: 0,
            }
        } else {
            sum
        };
        Some(())
    }

    /// Emits the branch of a block that it may jump to itself by, and the loop without checks. `None`: it is no such block,
    /// and nothing was emitted.
    pub(super) fn loop_branch(&mut self, op: &Op, cond: Cond) -> Option<()> {
        let start = Operand::Pc(0);
        let (stay, leave) = match (op.a == start, op.b == start) {
            (true, false) => (cond, op.b),
            (false, true) => (cond.negate(), op.a),
            _ => return None,
        };
        let again = match (self.state, self.cx.flags) {
            (State::Desc(now), Some(entry)) => now == entry,
            (State::Memory | State::Host, None) => true,
            _ => false,
        };
        let one_page = self.cx.guards[1].is_none();
        if !again || !one_page || !self.cx.merge || self.cx.check.is_some() || op.width != Width::B64 {
            return None;
        }
        let body = self.ops.len() - 1;
        let plan = Plan::of(
            &self.ops[..body],
            self.cx.flags,
            (stay == Cond::Ne).then_some(self.state),
        )?;
        let leave = self.exit_target(leave, op.width)?;
        let calm = super::needs(self.block, Vec::new(), false);
        if !calm[0].is_empty() {
            return None;
        }
        let count_at = (0..body)
            .rev()
            .find(|n| self.ops[*n].code == OpCode::Insn && calm[*n].is_empty())?;

        let mark = self.mark();
        let compared = self.compared();
        let need = std::mem::replace(&mut self.need, calm);
        self.repeat = Some(plan);
        let done = self.two_loops(op.cond(), stay, leave, count_at);
        self.repeat = None;
        self.need = need;
        if done.is_none() {
            self.take_back(&mark);
            self.compared = compared.map(|c| self.rearmed(c));
            self.align = super::ALIGN;
        }
        done
    }

    fn two_loops(&mut self, cond: Cond, stay: Cond, leave: u64, count_at: usize) -> Option<()> {
        let calls = [self.sides.len(), self.slow.len(), self.indirects.len()];
        let (back, ready, again) = (self.a.label(), self.a.label(), self.a.label());
        let (top, last) = (self.a.label(), self.a.label());
        self.a.jcc(stay, back);
        self.way_out(leave, |e, stub| e.a.jmp(stub));
        self.a.section(Section::Cold);
        self.loop_back(back, ready);
        self.loop_ready(ready, again, top)?;

        self.a.section(Section::Hot);
        self.align = LINE;
        while self.a.here() % LINE != 0 {
            self.a.byte(0x90);
        }
        self.a.bind(top);
        self.loop_part(0, count_at)?;
        let plan = self.repeat.as_ref()?;
        let (count, foreseen) = (plan.count, plan.end.is_some());
        let end = self.ops.len() - 1;
        let rest = &self.ops[count_at..end];
        let compares = rest.iter().all(|op| {
            op.dst == Operand::None && op.dst2 == Operand::None && op.mem.is_none()
        });
        self.a.alu_imm(Alu::Sub, Width::B64, Rm::R(count), 1);
        if foreseen && compares {
            self.a.jcc(Cond::Ae, top);
            self.a.jmp(last);
        } else if foreseen {
            self.a.jcc(Cond::B, last);
            self.loop_part(count_at, end)?;
            self.a.jmp(top);
        } else {
            self.a.jcc(Cond::B, last);
            self.loop_part(count_at, end)?;
            self.condition(cond);
            self.a.jcc(stay, top);
            self.loop_uncount();
            self.restore();
            self.way_out(leave, |e, stub| e.a.jmp(stub));
        }

        self.a.section(Section::Cold);
        self.a.bind(last);
        self.loop_part(count_at, end)?;
        self.condition(cond);
        let on = self.a.label();
        self.a.jcc(stay, on);
        let (state, hf) = (self.state, self.hf);
        self.restore();
        self.cold_exit(leave, false);
        (self.state, self.hf) = (state, hf);
        self.a.bind(on);
        if self.state == State::Host {
            self.spill();
        }
        self.a.jmp(again);
        self.a.section(Section::Hot);
        // The guest's registers are not where Rust code would look for them.
        let same = calls == [self.sides.len(), self.slow.len(), self.indirects.len()];
        same.then_some(())
    }

    /// Emits instructions, from one on where nobody looks at the flags.
    fn loop_part(&mut self, from: usize, to: usize) -> Option<()> {
        self.state = State::Memory;
        self.hf = false;
        self.forget_checks();
        let mut at = from;
        while at < to {
            let end = self.instruction_end(at).min(to);
            self.instruction(at, end)?;
            at = end;
        }
        self.at = to;
        Some(())
    }

    /// The way back of the loop with checks.
    fn loop_back(&mut self, back: Label, ready: Label) {
        let (state, hf, compared) = (self.state, self.hf, self.compared());
        self.a.bind(back);
        self.compared = compared.map(|c| self.rearmed(c));
        if self.state == State::Host {
            self.spill();
        }
        let patience = Rm::M(field(offset_of!(Frame, patience)));
        self.a.alu_imm(Alu::Sub, Width::B32, patience, 1);
        self.a.jcc(Cond::B, ready);
        self.a.jmp(self.entry);
        (self.state, self.hf) = (state, hf);
    }

    /// Finds the pages, and the number of iterations.
    fn loop_ready(&mut self, ready: Label, again: Label, top: Label) -> Option<()> {
        let w = Width::B64;
        let plan = self.repeat.take()?;
        let odd = self.a.label();
        self.a.bind(ready);
        for (reg, place) in plan.taken() {
            self.a.store(w, place, reg);
        }
        self.a.bind(again);
        let patience = field(offset_of!(Frame, patience));
        self.a.store_imm(Width::B32, Rm::M(patience), PATIENCE);
        self.look_at_events(odd);
        self.a.mov_imm(plan.count, MOST);
        for range in &plan.ranges {
            let length = range.high - range.low;
            let first = Mem {
                index: range.index,
                scale: range.scale,
                disp: i32::try_from(range.low).ok()?,
                ..Mem::at(range.base, 0)
            };
            self.address_into(&first, S0, w)?;
            self.by_tlb(length as u32, range.write, range.align as u32, odd);
            let found = asm::Mem::at(S1, TlbEntry::OFFSET_ADDEND as i32);
            self.a.load(w, range.addend, Rm::M(found));
            self.fold(range)?;
            if range.stride == 0 {
                continue;
            }
            // How often it fits into what is left of the page.
            let left = if range.stride > 0 {
                self.a.mov_imm(S1, (4096 - length) as u64);
                self.a.alu(Alu::Sub, w, S1, Rm::R(S0));
                S1
            } else {
                S0
            };
            let step = range.stride.unsigned_abs();
            self.a.shift_imm(
                Shift::Shr,
                w,
                Rm::R(left),
                step.next_power_of_two().trailing_zeros() as u8,
            );
            self.a.alu(Alu::Cmp, w, left, Rm::R(plan.count));
            self.a.cmov(w, Cond::B, plan.count, Rm::R(left));
        }
        if let Some(end) = plan.end {
            self.loop_end(&end, plan.count)?;
        }
        if self.cx.count {
            // All of them at once; what is not used is given back.
            let insns = u64::from(self.block.insns);
            let budget = Rm::M(field(offset_of!(Frame, budget)));
            self.a.load(w, S0, budget);
            self.a.shift_imm(
                Shift::Sar,
                w,
                Rm::R(S0),
                insns.next_power_of_two().trailing_zeros() as u8,
            );
            self.a.alu_imm(Alu::Sub, w, Rm::R(S0), 1);
            self.a.alu(Alu::Cmp, w, S0, Rm::R(plan.count));
            self.a.cmov(w, Cond::L, plan.count, Rm::R(S0));
        }
        self.a.alu_imm(Alu::Cmp, w, Rm::R(plan.count), FEW);
        self.a.jcc(if self.cx.count { Cond::L } else { Cond::B }, odd);
        // A loop that was long will be long.
        self.a.alu_imm(Alu::Cmp, w, Rm::R(plan.count), MANY);
        self.a.alu(Alu::Sbb, Width::B32, S1, Rm::R(S1));
        self.a.alu_imm(Alu::And, Width::B32, Rm::R(S1), PATIENCE);
        self.a.store(Width::B32, patience, S1);
        if self.cx.count {
            self.a.lea(w, S0, asm::Mem::at(plan.count, 1));
            self.a
                .imul_imm(w, S0, Rm::R(S0), i32::from(self.block.insns as u16));
            let budget = Rm::M(field(offset_of!(Frame, budget)));
            self.a.alu_to(Alu::Sub, w, budget, S0);
        }
        self.a.jmp(top);
        self.a.bind(odd);
        self.repeat = Some(plan);
        self.restore();
        self.a.jmp(self.entry);
        Some(())
    }

    /// Bounds the count of iterations but the last by what is left to the loop's end.
    fn loop_end(&mut self, end: &End, count: Reg) -> Option<()> {
        let w = Width::B64;
        let moves = self.place(Operand::Reg(end.gpr))?;
        let at = match end.at {
            Src::Reg(g) => self.place(Operand::Reg(g))?,
            Src::Imm(n) => {
                self.a.mov_imm(S0, i64::from(n).cast_unsigned());
                Rm::R(S0)
            }
            Src::Minus(_) | Src::Plus(_) => return None,
        };
        let (from, to) = if end.step > 0 { (moves, at) } else { (at, moves) };
        self.a.load(w, S1, to);
        self.a.alu(Alu::Sub, w, S1, from);
        let step = end.step.unsigned_abs();
        // What it steps over, or away from, is far away; so is what it is at.
        let never = self.a.label();
        if step > 1 {
            self.a.test_imm(Width::B32, Rm::R(S1), step as i32 - 1);
            self.a.jcc(Cond::Ne, never);
            self.a
                .shift_imm(Shift::Shr, w, Rm::R(S1), step.trailing_zeros() as u8);
        }
        self.a.lea(w, S1, asm::Mem::at(S1, -1));
        self.a.alu(Alu::Cmp, w, S1, Rm::R(count));
        self.a.cmov(w, Cond::B, count, Rm::R(S1));
        self.a.bind(never);
        Some(())
    }

    /// Adds to an addend what does not move.
    fn fold(&mut self, range: &Range) -> Option<()> {
        let w = Width::B64;
        let to = range.addend;
        match range.folded {
            Folded::Nothing => {}
            Folded::Base => match self.constant(range.base) {
                Some(n) => {
                    self.a.mov_imm(S1, n.cast_unsigned());
                    self.a.alu(Alu::Add, w, to, Rm::R(S1));
                }
                None if range.base.is_some() => {
                    let base = self.place(range.base)?;
                    self.a.alu(Alu::Add, w, to, base);
                }
                None => {}
            },
            Folded::Index => {
                let index = self.register(w, S1, range.index)?;
                let sum = asm::Mem {
                    base: to,
                    index: Some((index, range.scale)),
                    disp: 0,
                };
                self.a.lea(w, to, sum);
            }
        }
        Some(())
    }

    /// Gives back the instructions that the loop without checks was not needed for. Flags are brought into memory.
    fn loop_uncount(&mut self) {
        let Some(plan) = self.repeat.as_ref().filter(|_| self.cx.count) else {
            return;
        };
        let count = plan.count;
        if self.state == State::Host {
            self.spill();
        }
        self.hf = false;
        let w = Width::B64;
        let insns = i32::from(self.block.insns as u16);
        self.a.lea(w, S0, asm::Mem::at(count, 1));
        self.a.imul_imm(w, S0, Rm::R(S0), insns);
        let budget = Rm::M(field(offset_of!(Frame, budget)));
        self.a.alu_to(Alu::Add, w, budget, S0);
    }

    /// Brings back the registers that the loop took. Keeps flags.
    fn restore(&mut self) {
        let taken: Vec<_> = self.repeat.iter().flat_map(Plan::taken).collect();
        for (reg, place) in taken {
            self.a.load(Width::B64, reg, Rm::M(place));
        }
    }
}
