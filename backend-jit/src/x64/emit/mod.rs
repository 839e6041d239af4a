//! Translates a block of IR to host code, one pass over the ops.
//!
//! Instructions that no method here knows run as *slow ops*: the interpreter's handlers, called from the code. Whether an
//! instruction is known is found out by trying: what was emitted for it is taken back when one of its ops is not.

mod alu;
mod bits;
mod check;
mod exits;
mod flags;
mod helper;
mod hops;
mod keep;
mod memory;
mod merge;
mod pair;
mod part;
mod prefetch;
mod repeat;
mod segment;
mod strings;
mod syscall;
mod sysenter;
pub mod system;
mod vector;
mod window;
mod x87;

use ::system::FlagOp;
use frontend_x86::{CodeSize, CsLimit, Mode};
use ir::effect::{kills, reads};
use ir::{Block, FlagSet, Op, OpCode, OpInfo, Operand, Temp, Width};
use x86::{AddressMap, Gpr};

use super::asm::{Asm, Field as Noted, Label, Reg, Rm, Section};
use super::flags::{Compared, Desc, State};
use super::frame::{self, TEMPS, home};
use super::runtime::Stubs;
use crate::hops::By;

pub use check::{Check, Field};
pub use exits::{Exit, Indirect};
pub use part::Part;

/// What a block is translated for.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub mode: Mode,
    /// The engine's bits in the block's mode that blocks in other modes have too.
    pub key: u64,
    /// Instruction pointer of the first byte: the linear address where code is flat.
    pub ip: u64,
    /// Base and limit of the code segment where it is not.
    pub cs: Option<(u32, u32)>,
    /// Where the flags are on entry.
    pub flags: Option<Desc>,
    /// Count instructions and stop when the budget is used up.
    pub count: bool,
    /// The block's number.
    pub id: u32,
    /// The number of its first exit, indirect exit and slow op.
    pub first: [u32; 3],
    /// The place and value in the table of pages that an entry from another page checks: for each page of the code.
    pub guards: [Option<(usize, u32)>; 2],
    /// Accesses near each other may share a check.
    pub merge: bool,
    /// How accesses find memory.
    pub by: By,
    /// They go through a window, but for those of the instructions at these linear addresses.
    pub window: Option<&'a AddressMap<u64, ()>>,
    /// SSE instructions that depend on MXCSR may run on the host's.
    pub host_float: bool,
    /// x87 instructions may run on the host's.
    pub host_x87: bool,
    /// The block compares its code on entry.
    pub check: Option<Check<'a>>,
    /// What follows the first part of a trace.
    pub parts: &'a [Part],
}

/// What a call from translated code needs to know of its place.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// The return address.
    pub at: Label,
    /// Offset of the instruction from the block's start, and its number.
    pub delta: i32,
    pub ord: u16,
    /// Where the flags are.
    pub flags: Option<Desc>,
    pub kind: Kind,
}

/// What kind of access it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    /// Non-canonical addresses raise #SS.
    pub stack: bool,
    /// Reads what it writes.
    pub rmw: bool,
    /// Cannot be made in the bounce buffer.
    pub locked: bool,
    /// Not all of it may be accessed: where the TLB doesn't know it, the interpreter does the instruction.
    pub masked: bool,
}

/// An access through a window.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Where it is; what follows belongs to it, too.
    pub at: Label,
    /// The host's flags are the guest's.
    pub host_flags: bool,
    /// Offset of the instruction from the block's start, and its number.
    pub delta: i32,
    pub ord: u16,
    /// Where the flags are.
    pub flags: Option<Desc>,
    pub kind: Kind,
}

/// An instruction left to the interpreter.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// Its ops.
    pub ops: (u32, u32),
    /// Its offset from the block's start, and its number.
    pub delta: i32,
    pub ord: u16,
    /// Where the flags are.
    pub flags: Option<Desc>,
    /// It looks at x87 registers, or changes them.
    pub x87: bool,
    /// It is a helper's call, or one in its midst.
    pub direct: Option<system::Direct>,
}

/// Vectors that one block after the other is translated with.
#[derive(Default)]
pub struct Parts {
    sides: Vec<Side>,
    views: Vec<View>,
    exits: Vec<Exit>,
    indirects: Vec<Indirect>,
    slow: Vec<Slow>,
    need: Vec<FlagSet>,
    want: Vec<FlagSet>,
    uses: Vec<u8>,
    groups: merge::Groups,
}

/// A translated block, but for its place.
pub struct Compiled {
    pub entry: Label,
    pub guarded: Label,
    /// Where the entry is to lead while the guest's code may have changed.
    pub stale: Label,
    pub sides: Vec<Side>,
    pub views: Vec<View>,
    pub exits: Vec<Exit>,
    pub indirects: Vec<Indirect>,
    pub slow: Vec<Slow>,
    /// What the place of its hot part must be a multiple of.
    pub align: u32,
    /// It has a loop without checks.
    pub repeats: bool,
    /// Nobody looks at the flags that the block is entered with.
    pub flags_dead: bool,
    /// The number of the first instruction of each part of a trace but the first.
    pub begins: Vec<u16>,
    /// Place of the displacement of the jump that is taken when the check fails (offset in the cold section).
    pub fail: Option<u32>,
    rest: Parts,
}

impl Compiled {
    /// The same for a block that lies `moved` bytes further up, made with these vectors.
    pub fn copy(&self, moved: u64, mut parts: Parts) -> Self {
        parts.sides.clone_from(&self.sides);
        parts.exits.clone_from(&self.exits);
        parts.indirects.clone_from(&self.indirects);
        parts.slow.clone_from(&self.slow);
        for exit in &mut parts.exits {
            exit.target = exit.target.wrapping_add(moved);
        }
        Self {
            sides: std::mem::take(&mut parts.sides),
            // Copies are 64-bit code, which has none.
            views: std::mem::take(&mut parts.views),
            exits: std::mem::take(&mut parts.exits),
            indirects: std::mem::take(&mut parts.indirects),
            slow: std::mem::take(&mut parts.slow),
            rest: parts,
            begins: Vec::new(),
            ..*self
        }
    }

    /// About how much memory it takes, beside itself.
    pub fn size(&self) -> usize {
        size_of_val(&*self.sides)
            + size_of_val(&*self.exits)
            + size_of_val(&*self.indirects)
            + size_of_val(&*self.slow)
    }

    /// What the next block may be translated with.
    pub fn recycle(self) -> Parts {
        let mut parts = Parts {
            sides: self.sides,
            views: self.views,
            exits: self.exits,
            indirects: self.indirects,
            slow: self.slow,
            ..self.rest
        };
        parts.sides.clear();
        parts.views.clear();
        parts.exits.clear();
        parts.indirects.clear();
        parts.slow.clear();
        parts
    }
}

/// What the place of each block's hot part is a multiple of.
const ALIGN: u32 = 16;

/// Why a block cannot be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsuitable;

#[derive(Clone, Copy, Default)]
struct Insn {
    delta: i32,
    ord: u16,
}

pub(super) struct Emit<'a> {
    a: &'a mut Asm,
    stubs: &'a Stubs,
    ops: &'a [Op],
    block: &'a Block,
    cx: Context<'a>,
    user: bool,
    code64: bool,
    /// Where the guest's flags are.
    state: State,
    /// Host flags are the guest's.
    hf: bool,
    /// The host's x87 registers are the guest's.
    x87_live: bool,
    /// The host's ZMM16-31 and mask registers are the guest's.
    high_live: bool,
    /// Where the instruction at hand ends, if it may be done otherwise.
    apart: Option<Label>,
    /// It has called a helper.
    called: bool,
    /// The flags that are looked at from each op on.
    need: Vec<FlagSet>,
    /// Those of them that the block's own code looks at.
    want: Vec<FlagSet>,
    uses: Vec<u8>,
    at: usize,
    insn: Insn,
    sides: Vec<Side>,
    views: Vec<View>,
    exits: Vec<Exit>,
    indirects: Vec<Indirect>,
    slow: Vec<Slow>,
    entry: Label,
    /// Where the access at hand is made.
    here: super::asm::Mem,
    groups: merge::Groups,
    /// For each register, the range that has been checked.
    checked: [Option<merge::Checked>; 16],
    /// Where the entry is in hot code.
    /// What S0 holds.
    held: merge::Held,
    /// The loop whose copy without checks is being emitted.
    repeat: Option<repeat::Plan>,
    /// See [`Compiled::align`].
    align: u32,
    /// See [`Compiled::repeats`].
    repeats: bool,
    /// The temporary that holds an address in FS or GS, and the page cache entry for it.
    in_segment: Option<(Temp, usize)>,
    /// The temporary whose value S0 holds since a moment, and whether it has it, too.
    linear: Option<(Temp, u32, bool)>,
    /// What the host's flags can be saved by.
    compared: Option<Compared>,
    /// Where in hot code the host's flags are the guest's but for the carry.
    no_carry: Option<u32>,
    /// What kind of flags the frame holds, where that is known.
    stored: Option<(FlagOp, Width)>,
    /// Parts of a trace that are behind, and the number of the first instruction of each.
    part: usize,
    begins: Vec<u16>,
}

/// Whether blocks of a mode can be translated.
pub fn suitable(mode: Mode) -> bool {
    !mode.align_check()
}

/// Whether a mode's instruction pointers are no linear addresses, or have a limit.
pub fn segmented(mode: Mode) -> bool {
    match mode.code() {
        CodeSize::B64 => false,
        CodeSize::B32 => {
            !mode.flat_cs() || mode.cs_limit() != CsLimit::Full || mode.vm86() || mode.real()
        }
        CodeSize::B16 => true,
    }
}

/// Translates a block.
///
/// # Errors
/// When the interpreter must run it.
pub fn emit(
    a: &mut Asm,
    stubs: &Stubs,
    block: &Block,
    cx: Context<'_>,
    parts: Parts,
) -> Result<Compiled, Unsuitable> {
    if usize::from(block.temps) > TEMPS {
        return Err(Unsuitable);
    }
    a.clear();
    a.section(Section::Hot);
    let (guarded, stale, entry) = (a.label(), a.label(), a.label());
    let seen = |op: &OpInfo| op.faults || op.terminal;
    let (need, want) = looked_at(block, parts.need, parts.want, seen);
    let mut e = Emit {
        a,
        stubs,
        ops: &block.ops,
        block,
        cx,
        user: cx.mode.cpl() == 3,
        code64: cx.mode.code64(),
        state: cx.flags.map_or(State::Memory, State::Desc),
        hf: false,
        x87_live: false,
        high_live: false,
        apart: None,
        called: false,
        need,
        want,
        uses: uses(block, parts.uses),
        at: 0,
        insn: Insn::default(),
        sides: parts.sides,
        views: parts.views,
        exits: parts.exits,
        indirects: parts.indirects,
        slow: parts.slow,
        entry,
        here: super::asm::Mem::at(frame::S0, 0),
        groups: parts.groups.of(
            if cx.merge { &block.ops } else { &[] },
            if cx.mode.code64() {
                Width::B64
            } else {
                Width::B32
            },
        ),
        checked: [None; 16],
        held: merge::Held::default(),
        repeat: None,
        align: ALIGN,
        repeats: false,
        in_segment: None,
        linear: None,
        compared: None,
        no_carry: None,
        stored: None,
        part: 0,
        begins: Vec::new(),
    };
    e.guard(guarded, stale);
    let fail = cx.check.as_ref().map(|check| e.check(check, stale));
    let polls = e.poll();
    e.instructions()?;
    // A stop at the entry would look at them.
    let stops = polls || fail.is_some();
    let flags_dead = !stops && e.need.first().is_none_or(|f| f.is_empty());
    Ok(Compiled {
        entry,
        guarded,
        stale,
        sides: e.sides,
        views: e.views,
        exits: e.exits,
        indirects: e.indirects,
        slow: e.slow,
        align: e.align,
        repeats: e.repeats,
        flags_dead,
        begins: e.begins,
        fail,
        rest: Parts {
            need: e.need,
            want: e.want,
            uses: e.uses,
            groups: e.groups,
            ..Parts::default()
        },
    })
}

/// The flags that are looked at from each op on: with `all`, by who comes to see the state at an op of this kind; and by
/// code alone.
fn looked_at(
    block: &Block,
    mut need: Vec<FlagSet>,
    mut want: Vec<FlagSet>,
    all: impl Fn(&OpInfo) -> bool,
) -> (Vec<FlagSet>, Vec<FlagSet>) {
    let (mut needed, mut wanted) = (FlagSet::NONE, FlagSet::NONE);
    // Behind the last op as at it.
    if all(OpCode::Jump.info()) {
        needed = FlagSet::ALL;
    }
    let at_guards = all(OpCode::SideExit.info());
    let len = block.ops.len() + 1;
    need.clear();
    want.clear();
    need.resize(len, needed);
    want.resize(len, wanted);
    for (i, op) in block.ops.iter().enumerate().rev() {
        let (killed, used) = (kills(op), op.uses());
        wanted = wanted.without(killed).union(used);
        needed = needed.without(killed).union(used);
        let guarded = op.code == OpCode::Insn && op.sub & ir::GUARD != 0;
        if all(op.code.info()) || (guarded && at_guards) {
            needed = FlagSet::ALL;
        }
        (need[i], want[i]) = (needed, wanted);
    }
    (need, want)
}

/// How often each temporary is read.
fn uses(block: &Block, mut uses: Vec<u8>) -> Vec<u8> {
    uses.clear();
    uses.resize(usize::from(block.temps), 0);
    for op in &block.ops {
        for operand in reads(op) {
            if let Operand::Temp(t) = operand {
                let n = &mut uses[usize::from(t.0)];
                *n = n.saturating_add(1);
            }
        }
    }
    uses
}

/// What an instruction that turns out to be unknown takes back.
struct Mark {
    asm: super::asm::Mark,
    flags: flags::Where,
    x87_live: bool,
    high_live: bool,
    lens: [usize; 5],
    checked: [Option<merge::Checked>; 16],
}

impl Emit<'_> {
    fn instructions(&mut self) -> Result<(), Unsuitable> {
        let mut at = 0;
        let mut first = true;
        while at < self.ops.len() {
            let end = self.instruction_end(at);
            if self.ops[at].code == OpCode::Insn {
                let Operand::Imm(delta) = self.ops[at].a else {
                    return Err(Unsuitable);
                };
                self.insn = Insn {
                    delta: delta as i32,
                    ord: self.insn.ord + u16::from(!first),
                };
                first = false;
                self.next_part(at);
            }
            let mark = self.mark();
            if self.instruction(at, end).is_none() {
                self.take_back(&mark);
                self.at = at;
                self.slow_op(at, end)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Where the ops of the next instruction begin.
    fn instruction_end(&self, at: usize) -> usize {
        (at + 1..self.ops.len())
            .find(|i| self.ops[*i].code == OpCode::Insn)
            .unwrap_or(self.ops.len())
    }

    fn mark(&self) -> Mark {
        Mark {
            asm: self.a.mark(),
            flags: self.flags(),
            x87_live: self.x87_live,
            high_live: self.high_live,
            checked: self.checked,
            lens: [
                self.sides.len(),
                self.exits.len(),
                self.indirects.len(),
                self.slow.len(),
                self.views.len(),
            ],
        }
    }

    /// Takes back what was emitted since.
    fn take_back(&mut self, mark: &Mark) {
        self.a.rewind(&mark.asm);
        self.set_flags(mark.flags);
        self.compared = None;
        self.no_carry = None;
        self.checked = mark.checked;
        self.x87_live = mark.x87_live;
        self.high_live = mark.high_live;
        self.apart = None;
        self.called = false;
        self.sides.truncate(mark.lens[0]);
        self.exits.truncate(mark.lens[1]);
        self.indirects.truncate(mark.lens[2]);
        self.slow.truncate(mark.lens[3]);
        self.views.truncate(mark.lens[4]);
    }

    /// Emits the ops of an instruction.
    fn instruction(&mut self, from: usize, to: usize) -> Option<()> {
        if let Some(n) = self.ops[from..to]
            .iter()
            .position(|op| op.code == OpCode::X87)
        {
            return self.x87(from, to, from + n);
        }
        self.at = from;
        self.linear = None;
        self.high_registers(from, to)?;
        let mut at = from;
        while at < to {
            self.at = at;
            if let Some(n) = self.ret_pattern(at, to) {
                at += n;
                continue;
            }
            at += self.op(at, to)?;
            self.joined(at);
        }
        self.after_helper(to);
        Some(())
    }

    /// Emits one op, or a load with the op that uses it; how many that were.
    fn op(&mut self, at: usize, to: usize) -> Option<usize> {
        use OpCode as C;
        // A copy of an op is a call of memcpy.
        let ops = self.ops;
        let op = &ops[at];
        match op.code {
            C::Insn => {}
            C::Mov => self.mov(op)?,
            C::Zext | C::Sext => self.extend(op)?,
            C::Lea if self.is_offset(at, to) => {
                self.at = at + 1;
                self.segment_linear(at + 1, to, op.mem.as_ref())?;
                return Some(2);
            }
            C::Lea => self.lea(op)?,
            C::Select => self.select(op)?,
            C::Setcc => self.setcc(op)?,
            C::Bswap => self.bswap(op)?,
            C::Add | C::Adc | C::Sub | C::Sbb | C::And | C::Or | C::Xor => self.arithmetic(op)?,
            C::Inc | C::Dec | C::Neg | C::Not => self.unary(op)?,
            C::Shl | C::Shr | C::Sar | C::Rol | C::Ror => self.shift(op)?,
            C::Shld | C::Shrd => self.shift_double(op)?,
            C::MulU | C::MulS => self.multiply(op, None)?,
            C::Imul => self.imul(op)?,
            C::Adcx | C::Adox => self.add_with(op, None)?,
            C::DivU | C::DivS => self.divide(op)?,
            C::Bt | C::Bts | C::Btr | C::Btc => self.bit_test(op)?,
            C::Bsf | C::Bsr | C::Tzcnt | C::Lzcnt | C::Popcnt => self.count(op)?,
            C::Andn | C::Bextr | C::Blsi | C::Blsmsk | C::Blsr | C::Bzhi | C::Pdep | C::Pext => {
                self.bmi(op)?;
            }
            C::Crc32 => self.crc32(op)?,
            C::Load => return self.load(at, to, op),
            C::Store => self.store(op)?,
            C::Rmw => self.rmw(op)?,
            C::Cmpxchg => self.cmpxchg(op)?,
            C::CmpxchgPair => self.cmpxchg_pair(op)?,
            C::SetDf => self.set_df(op.sub != 0),
            C::Exit => self.exit_next(op)?,
            C::ProbeWrite => self.probe(op)?,
            C::SegLin => self.segment_linear(at, to, None)?,
            C::VecLoad => return self.vec_load(at, to, op),
            C::VecStore => self.vec_store(op)?,
            C::Vec if self.for_memory(at, to, op) => {
                return self.vec_to_memory(at, to, op);
            }
            C::Vec => self.vec(op, None)?,
            C::Fence => self.a.raw(&[0x0f, 0xae, 0xf0]),
            C::Prefetch => self.prefetch(op)?,
            C::Call => match self.call(at, to, op) {
                Some(n) => return Some(n),
                None => self.wait(op)?,
            },
            C::String => self.string(at, to, op)?,
            C::CheckPc => self.check_pc(op)?,
            C::Jump => self.jump(op)?,
            C::Branch => self.branch(op)?,
            C::SideExit => self.side_exit(op)?,
            C::Expect => self.expect(op)?,
            C::BranchNz => self.branch_nz(op)?,
            C::JumpTo => self.jump_to(op, None)?,
            _ => return None,
        }
        Some(1)
    }

    /// Leaves an instruction to the interpreter.
    fn slow_op(&mut self, from: usize, to: usize) -> Result<(), Unsuitable> {
        if Self::leads_on(&self.ops[from..to]) {
            return Err(Unsuitable);
        }
        // Temporaries of the code are not the interpreter's.
        let mut own = Vec::new();
        for op in &self.ops[from..to] {
            for operand in reads(op) {
                if let Operand::Temp(t) = operand {
                    if !own.contains(&t) {
                        return Err(Unsuitable);
                    }
                }
            }
            own.extend([op.dst, op.dst2].iter().filter_map(|o| o.temp()));
        }
        let ops = &self.ops[from..to];
        let (x87, direct) = (x87::concerns_x87(ops), system::direct(ops));
        self.called = false;
        self.call_out(from, to, x87, direct);
        Ok(())
    }

    /// The end of what was made in place: who comes to `slow` has these ops done by the interpreter, and goes on at `done`, which
    /// is here.
    fn or_slow(&mut self, slow: Label, done: Label, from: usize, to: usize) -> Option<()> {
        self.a.bind(done);
        let old = self.a.section(Section::Cold);
        self.a.bind(slow);
        self.slow_op(from, to).ok()?;
        self.a.jmp(done);
        self.a.section(old);
        Some(())
    }

    /// Notes what the call just emitted needs to know.
    fn side(&mut self, kind: Kind) {
        let at = self.a.label();
        self.a.bind(at);
        let flags = self.described();
        self.sides.push(Side {
            at,
            delta: self.insn.delta,
            ord: self.insn.ord,
            flags,
            kind,
        });
    }

    // Operands.

    /// Where an operand is, if that can be named directly.
    fn place(&self, operand: Operand) -> Option<Rm> {
        match operand {
            Operand::Reg(g) => Some(home(g)),
            Operand::Temp(t) => Some(Rm::M(frame::temp(usize::from(t.0)))),
            _ => None,
        }
    }

    /// The instruction pointer that `Pc(delta)` stands for.
    fn pc(&self, delta: i32) -> u64 {
        let pc = self.cx.ip.wrapping_add_signed(i64::from(delta));
        if self.code64 { pc } else { pc & 0xffff_ffff }
    }

    /// A constant operand.
    fn constant(&self, operand: Operand) -> Option<i64> {
        match operand {
            Operand::Imm(n) => Some(n),
            Operand::Pc(delta) => Some(self.pc(delta).cast_signed()),
            _ => None,
        }
    }

    /// Notes that the constant just brought into a register is a linear address, if the operand says so.
    fn note_pc(&mut self, operand: Operand) {
        if let Operand::Pc(_) = operand {
            self.a.note(0, Noted::Address);
        }
    }

    /// A constant operand that an instruction of a width takes as it is.
    fn imm(&self, w: Width, operand: Operand) -> Option<i32> {
        let n = self.constant(operand)?;
        match w {
            Width::B8 => Some(i32::from(n as i8)),
            Width::B16 => Some(i32::from(n as i16)),
            Width::B32 => Some(n as i32),
            Width::B64 => i32::try_from(n).ok(),
        }
    }

    /// Brings an operand into a register; bits above the width are anything. Keeps flags.
    fn fetch(&mut self, w: Width, reg: Reg, operand: Operand) -> Option<()> {
        if let Some(n) = self.constant(operand) {
            self.a.mov_imm(reg, n.cast_unsigned() & w.mask());
            self.note_pc(operand);
        } else if let Operand::High(g) = operand {
            let Rm::R(r) = home(g) else { return None };
            self.a.rorx(Width::B64, reg, Rm::R(r), 8);
        } else {
            let place = self.place(operand)?;
            let wide = if w == Width::B64 {
                Width::B64
            } else {
                Width::B32
            };
            self.a.load(wide, reg, place);
        }
        Some(())
    }

    /// An operand in a register: its own, or the one given.
    fn register(&mut self, w: Width, reg: Reg, operand: Operand) -> Option<Reg> {
        match self.place(operand) {
            Some(Rm::R(r)) => Some(r),
            _ => {
                self.fetch(w, reg, operand)?;
                Some(reg)
            }
        }
    }

    /// An operand as register or memory; what is neither goes into the register given.
    fn source(&mut self, w: Width, reg: Reg, operand: Operand) -> Option<Rm> {
        match self.place(operand) {
            Some(place) => Some(place),
            None => {
                self.fetch(w, reg, operand)?;
                Some(Rm::R(reg))
            }
        }
    }

    /// The host register that a result can be computed in: the destination's own, or the one given.
    fn target(&self, dst: Operand, reg: Reg) -> Reg {
        match self.place(dst) {
            Some(Rm::R(r)) => r,
            _ => reg,
        }
    }

    /// Brings a result from where [`Emit::target`] said to the destination. At 32 bits the register's upper half must be
    /// zero. Keeps flags.
    fn finish(&mut self, w: Width, dst: Operand, reg: Reg) -> Option<()> {
        match dst {
            Operand::None => {}
            Operand::High(g) => {
                let Rm::R(r) = home(g) else { return None };
                self.a.rorx(Width::B64, r, Rm::R(r), 8);
                self.a.load(Width::B8, r, Rm::R(reg));
                self.a.rorx(Width::B64, r, Rm::R(r), 56);
            }
            Operand::Temp(_) => {
                let Some(Rm::M(m)) = self.place(dst) else {
                    return None;
                };
                self.a.store(Width::B64, m, reg);
            }
            Operand::Reg(g) => match home(g) {
                Rm::R(r) if r == reg => {}
                Rm::R(r) => self.a.load(w, r, Rm::R(reg)),
                Rm::M(m) => {
                    let w = if w == Width::B32 { Width::B64 } else { w };
                    self.a.store(w, m, reg);
                }
            },
            _ => return None,
        }
        Some(())
    }

    /// To be called before a guest register is written: what follows from its old value is saved if it is still needed.
    fn preserve(&mut self, dst: Operand) {
        if self.outlives(dst).is_some() {
            self.spill();
        }
    }

    /// As [`Emit::preserve`], before a move: where the host's flags are the guest's, and code will look at them, they serve.
    fn preserve_by_move(&mut self, dst: Operand) {
        if let Some((_, wanted)) = self.outlives(dst) {
            if wanted && self.hf {
                self.state = State::Host;
            } else {
                self.spill();
            }
        }
    }

    /// As [`Emit::preserve`], before a load, of which op `at` writes the register. What is returned goes to [`Emit::rescue`]
    /// when the place is found.
    fn preserve_by_load(&mut self, at: usize, dst: Operand) -> Option<Desc> {
        let now = std::mem::replace(&mut self.at, at);
        let outlives = self.outlives(dst);
        self.at = now;
        match outlives {
            Some((desc, true)) => return Some(desc),
            Some((_, false)) => self.spill(),
            None => {}
        }
        None
    }

    /// Behind the access of load op `at`: the flags from registers, one of which is about to be written, into the host's.
    /// S1 is lost.
    fn rescue(&mut self, at: usize, desc: Option<Desc>) {
        if let Some(desc) = desc {
            debug_assert_eq!(self.state, State::Desc(desc), "as it was before the access");
            self.host_flags_for(self.need[at + 1]);
            self.state = State::Host;
        }
    }

    /// The description of the flags, if it goes by a register that the op at hand writes and they are looked at afterwards; and
    /// whether by code.
    fn outlives(&mut self, dst: Operand) -> Option<(Desc, bool)> {
        let (Operand::Reg(g) | Operand::High(g)) = dst else {
            return None;
        };
        self.lose(dst);
        let State::Desc(desc) = self.state else {
            return None;
        };
        let killed = kills(&self.ops[self.at]);
        // Otherwise nobody will ask again once the register is written.
        let outlives = desc.uses(g) && !self.need[self.at + 1].without(killed).is_empty();
        outlives.then(|| (desc, !self.want[self.at + 1].without(killed).is_empty()))
    }

    fn gpr(operand: Operand) -> Option<Gpr> {
        match operand {
            Operand::Reg(g) => Some(g),
            _ => None,
        }
    }
}
