//! Which blocks that jump to themselves can run without checks, and what they need for it.

use std::mem::offset_of;

use iced_x86::{Code, Mnemonic};
use ir::{Access, Mem, MemUse, Op, OpCode, Operand, SegBase, Width};
use system::FlagOp;
use x86::Gpr;

use super::super::merge;
use crate::x64::asm::{self, Reg, Rm};
use crate::x64::flags::{Desc, Src, State};
use crate::x64::frame::{Frame, SAVED, field, home};

/// The longest range of one check, in bytes.
const RANGE: i64 = 1024;

/// How a register changes in an iteration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Motion {
    /// By a constant, which may be 0.
    By(i64),
    /// Its low half by a constant, and the upper becomes zero.
    Low(i64),
    Any,
}

/// Accesses that move together.
pub(super) struct Range {
    pub(super) base: Operand,
    pub(super) index: Operand,
    pub(super) scale: u8,
    /// From the first to behind the last byte, from where the registers say at the start of an iteration.
    pub(super) low: i64,
    pub(super) high: i64,
    pub(super) write: bool,
    /// `low` is a multiple of this.
    pub(super) align: i64,
    /// What it moves by in an iteration.
    pub(super) stride: i64,
    /// What the addend is added to already.
    pub(super) folded: Folded,
    /// The register with the addend.
    pub(super) addend: Reg,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Folded {
    Nothing,
    Base,
    Index,
}

/// A loop's accesses and registers.
pub(in super::super) struct Plan {
    pub(super) ranges: Vec<Range>,
    /// Ops that access, in order, and their ranges.
    pub(super) members: Vec<(u32, u8)>,
    /// Counts the iterations that are left.
    pub(super) count: Reg,
    /// What ends the loop, if that can be foreseen.
    pub(super) end: Option<End>,
}

/// A loop that ends when a register, which moves by a power of two, comes to equal something that doesn't change.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) gpr: Gpr,
    pub(super) width: Width,
    pub(super) step: i64,
    /// `Reg` or `Imm`.
    pub(super) at: Src,
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
        let step = match (motions[gpr as usize], desc.width) {
            (Motion::By(step), Width::B64) | (Motion::Low(step), Width::B32) => step,
            _ => return None,
        };
        let still = match at {
            Src::Reg(g) => motions[g as usize] == Motion::By(0),
            _ => true,
        };
        let known = step.unsigned_abs().is_power_of_two() && step.abs() <= RANGE;
        let width = desc.width;
        (still && known).then_some(Self {
            gpr,
            width,
            step,
            at,
        })
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
        | C::Prefetch
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
    pub(super) fn of(body: &[Op], flags: Option<Desc>, until_equal: Option<State>) -> Option<Self> {
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
            let steps = [Width::B64, Width::B32].map(|w| merge::step(op, w));
            for dst in [op.dst, op.dst2] {
                name(dst);
                if let Operand::Reg(g) | Operand::High(g) = dst {
                    let motion = &mut motions[g as usize];
                    *motion = match (*motion, steps) {
                        (Motion::By(sum), [Some((_, by)), _]) => Motion::By(sum.checked_add(by)?),
                        (Motion::By(0), [_, Some((_, by))]) => Motion::Low(by),
                        (Motion::Low(sum), [_, Some((_, by))]) => Motion::Low(sum.checked_add(by)?),
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
            if let Some(mem) = op.mem.filter(|_| op.code.info().mem != MemUse::Address) {
                plan.member(n, op, &mem, &motions, &by)?;
            }
            if let Some((g, step)) = merge::step(op, Width::B64) {
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
    pub(super) fn taken(&self) -> impl Iterator<Item = (Reg, asm::Mem)> {
        let place = |n: usize| field(offset_of!(Frame, saved) + n * 8);
        std::iter::once(self.count)
            .chain(self.ranges.iter().map(|r| r.addend))
            .enumerate()
            .map(move |(n, reg)| (reg, place(n)))
    }

    pub(super) fn of_op(&self, op: usize) -> Option<&Range> {
        let n = self
            .members
            .binary_search_by_key(&(op as u32), |m| m.0)
            .ok()?;
        self.ranges.get(usize::from(self.members[n].1))
    }
}
