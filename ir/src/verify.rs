//! The verifier: what every block promises to engines and passes.
//!
//! 1. The first op is an `insn` marker; markers ascend without overlap, none is longer than 15 bytes, and the block's
//!    `len` and `insns` are what they say. In a trace a marker with `part` may be anywhere, 2 GiB around the start.
//! 2. There is exactly one terminal, the last op.
//! 3. An op has the results, operands and memory operand that its row in the table asks for, each of a kind that the op
//!    can use; `sub` means something; the width is one that the op has; AH..BH stand only where 8 bits are meant.
//! 4. A temporary is written once, before it is read, and its number is below the block's count.
//! 5. The flags wanted of an op are among those that it defines.
//! 6. An address's scale, size, alignment and parts are those of x86; only a read-modify-write is locked.
//! 7. `pc` stands where an address makes sense: as a jump's target, an address's base, a value moved, stored, checked or
//!    given to a helper (return addresses, FDP).
//! 8. An instruction that faults has changed nothing: within one instruction, no op that may fault follows one that wrote
//!    a register, a flag, memory or a device. Exceptions:
//!    - a write after `probewrite` in the same instruction: it was found possible before anything was committed;
//!    - `jumpto` and `expect` after `checkpc` in the same instruction, for the same reason;
//!    - helpers and x87 instructions that only look (`read_cr`, `fpu_check`, FNSTSW, ...) count as writing nothing but
//!      their result;
//!    - a vector instruction whose result is a temporary counts as writing nothing: of MXCSR's sticky flags, which it may
//!      have set when a store after it faults, the same instruction sets the same ones again.
//!
//! `enable` (or the environment's `DOPPEL_VERIFY_IR=1`) makes [`crate::opt::run`] verify after each pass.

use std::fmt::{self, Display, Formatter};
use std::sync::atomic::{AtomicU8, Ordering};

use iced_x86::Code;

use crate::block::{Block, GUARD, MARKS, Op, PART};
use crate::effect::{arg_width, commits};
use crate::evex::VecInsn;
use crate::helper::{Exit, HelperId, Hint, Jump, StringOp};
use crate::operand::{Mem, Operand, Width};
use crate::ops::{MemUse, OpCode, Sub};

const UNKNOWN: u8 = 2;

static ENABLED: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Turns verification between stages on or off for the process.
pub fn enable(on: bool) {
    ENABLED.store(u8::from(on), Ordering::Relaxed);
}

/// Whether stages verify what they made. Off, unless the environment has `DOPPEL_VERIFY_IR=1` or [`enable`] was called.
pub fn enabled() -> bool {
    match ENABLED.load(Ordering::Relaxed) {
        UNKNOWN => {
            let on = std::env::var_os("DOPPEL_VERIFY_IR").is_some_and(|v| v == "1");
            enable(on);
            on
        }
        state => state == 1,
    }
}

/// A rule that a block breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The op's position; the number of ops when the block as a whole is wrong.
    pub op: usize,
    /// The op's text; empty when the block as a whole is wrong.
    pub text: String,
    /// What is wrong.
    pub what: String,
}

impl Display for VerifyError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            write!(f, "IR block: {}", self.what)
        } else {
            write!(f, "IR op {} `{}`: {}", self.op, self.text, self.what)
        }
    }
}

impl std::error::Error for VerifyError {}

type Check = Result<(), String>;

/// Checks a block against the rules above.
///
/// # Errors
/// The first op that breaks a rule, and how.
pub fn verify(block: &Block) -> Result<(), VerifyError> {
    let mut state = State {
        temps: vec![false; usize::from(block.temps)],
        vec_temps: vec![false; usize::from(block.vec_temps)],
        ..State::default()
    };
    let last = block.ops.len().wrapping_sub(1);
    for (i, op) in block.ops.iter().enumerate() {
        state
            .op(op)
            .and_then(|()| match (op.code.info().terminal, i == last) {
                (true, false) => Err("a terminal before the block's end".into()),
                (false, true) => Err("the block's last op is no terminal".into()),
                _ => Ok(()),
            })
            .map_err(|what| VerifyError {
                op: i,
                text: op.to_string(),
                what,
            })?;
    }
    let whole = |what: String| {
        Err(VerifyError {
            op: block.ops.len(),
            text: String::new(),
            what,
        })
    };
    if block.ops.is_empty() {
        return whole("it has no ops".into());
    }
    if (block.len, block.insns) != (state.end as u32, state.insns) {
        return whole(format!(
            "len={} insns={}, but its markers say len={} insns={}",
            block.len, block.insns, state.end, state.insns
        ));
    }
    Ok(())
}

#[derive(Default)]
struct State {
    temps: Vec<bool>,
    vec_temps: Vec<bool>,
    insns: u32,
    /// The block's offset after the last marker's instruction.
    end: i64,
    /// It is a trace: one of its markers began another part.
    parts: bool,
    /// The current instruction has changed something.
    committed: bool,
    /// It has probed a write.
    probed: bool,
    /// It has checked a jump's target.
    checked: bool,
}

fn ensure(ok: bool, what: impl FnOnce() -> String) -> Check {
    if ok { Ok(()) } else { Err(what()) }
}

impl State {
    fn op(&mut self, op: &Op) -> Check {
        let info = op.code.info();
        if op.code == OpCode::Insn {
            return self.insn(op);
        }
        ensure(self.insns > 0, || "before the first insn marker".into())?;
        ensure(widths(op.code) & 1 << op.width as u8 != 0, || {
            format!("{} has no width {}", info.name, op.width.bits())
        })?;
        sub(op)?;
        ensure(
            info.defines.contains(op.flags) && op.alu().info().defines.contains(op.flags),
            || format!("it does not define all flags of {{{:?}}}", op.flags),
        )?;
        ensure(
            op.mem.is_some() == (info.mem != MemUse::None),
            || match op.mem {
                Some(_) => "it takes no memory operand".into(),
                None => "its memory operand is missing".into(),
            },
        )?;
        if let Some(mem) = &op.mem {
            self.mem(op, mem)?;
        }
        self.args(op)?;
        self.commit(op)?;
        self.results(op)
    }

    fn insn(&mut self, op: &Op) -> Check {
        let Operand::Imm(delta) = op.a else {
            return Err("its offset is no constant".into());
        };
        let (len, part) = (op.sub & !MARKS, op.sub & PART != 0);
        ensure(len <= 15, || format!("an instruction of {len} bytes"))?;
        ensure(!part || self.insns > 0, || {
            "the next part of nothing".into()
        })?;
        ensure(part || op.sub & GUARD == 0, || "a guard of no part".into())?;
        self.parts |= part;
        let range = if self.parts {
            i64::from(i32::MIN)..=i64::from(i32::MAX)
        } else {
            0..=i64::from(u32::MAX)
        };
        ensure(range.contains(&delta), || {
            "its offset is out of range".into()
        })?;
        ensure(self.insns == 0 || part || delta >= self.end, || {
            format!("it begins before the one before ends (+{})", self.end)
        })?;
        self.end = delta + i64::from(len);
        ensure(self.parts || u32::try_from(self.end).is_ok(), || {
            "its end is out of range".into()
        })?;
        self.insns += 1;
        self.committed = false;
        self.probed = false;
        self.checked = false;
        Ok(())
    }

    fn commit(&mut self, op: &Op) -> Check {
        let info = op.code.info();
        let writes = matches!(info.mem, MemUse::Write | MemUse::ReadWrite);
        let excused = (self.checked && matches!(op.code, OpCode::JumpTo | OpCode::Expect))
            || (self.probed && writes);
        ensure(!(self.committed && info.faults) || excused, || {
            "it may fault after the instruction has changed registers, flags, memory or devices"
                .into()
        })?;
        self.committed |= commits(op);
        self.probed |= op.code == OpCode::ProbeWrite;
        self.checked |= op.code == OpCode::CheckPc;
        Ok(())
    }

    fn read(&self, operand: Operand) -> Check {
        let (written, index) = match operand {
            Operand::Temp(t) => (&self.temps, t.0),
            Operand::VecTemp(t) => (&self.vec_temps, t.0),
            _ => return Ok(()),
        };
        match written.get(usize::from(index)) {
            None => Err(format!("{operand} is beyond the block's count")),
            Some(false) => Err(format!("{operand} is read before it is written")),
            Some(true) => Ok(()),
        }
    }

    fn write(&mut self, operand: Operand) -> Check {
        let (written, index) = match operand {
            Operand::Temp(t) => (&mut self.temps, t.0),
            Operand::VecTemp(t) => (&mut self.vec_temps, t.0),
            _ => return Ok(()),
        };
        match written.get_mut(usize::from(index)) {
            None => Err(format!("{operand} is beyond the block's count")),
            Some(true) => Err(format!("{operand} is written twice")),
            Some(fresh) => {
                *fresh = true;
                Ok(())
            }
        }
    }

    fn mem(&self, op: &Op, mem: &Mem) -> Check {
        ensure(
            matches!(
                mem.base,
                Operand::None | Operand::Reg(_) | Operand::Temp(_) | Operand::Pc(_)
            ),
            || format!("{} as a base", mem.base),
        )?;
        ensure(
            matches!(
                mem.index,
                Operand::None | Operand::Reg(_) | Operand::Temp(_)
            ),
            || format!("{} as an index", mem.index),
        )?;
        self.read(mem.base)?;
        self.read(mem.index)?;
        ensure(
            mem.scale <= 3 && (mem.index.is_some() || mem.scale == 0),
            || format!("scale {}", mem.scale),
        )?;
        ensure(mem.addr != Width::B8, || "an address of 8 bits".into())?;
        ensure(mem.align.is_power_of_two(), || {
            format!("alignment {}", mem.align)
        })?;
        ensure(!mem.lock || op.code.info().mem == MemUse::ReadWrite, || {
            "lock without a read-modify-write".into()
        })
    }

    fn args(&self, op: &Op) -> Check {
        let (least, most) = arg_count(op);
        for (slot, arg) in [op.a, op.b, op.c].into_iter().enumerate() {
            let name = ["a", "b", "c"][slot];
            let needed = least & 1 << slot != 0;
            ensure(!needed || arg.is_some(), || {
                format!("its operand {name} is missing")
            })?;
            ensure(arg == Operand::None || most & 1 << slot != 0, || {
                format!("it takes no operand {name}")
            })?;
            ensure(arg == Operand::None || arg_kind(op, slot, arg), || {
                format!("{arg} as its operand {name}")
            })?;
            self.read(arg)?;
        }
        Ok(())
    }

    fn results(&mut self, op: &Op) -> Check {
        let count = usize::from(op.code.info().dsts);
        for (slot, dst) in [op.dst, op.dst2].into_iter().enumerate() {
            ensure(dst == Operand::None || slot < count, || {
                format!("it has {count} results")
            })?;
            ensure(dst_kind(op, dst), || format!("{dst} as a result"))?;
            self.write(dst)?;
        }
        let two = op.dst.is_some() && op.dst == op.dst2;
        ensure(!two, || "two results in one place".into())
    }
}

/// The widths that an op has, as a set of bits by [`Width`].
fn widths(code: OpCode) -> u8 {
    use OpCode as C;
    const B8: u8 = 1;
    const B16: u8 = 2;
    const B32: u8 = 4;
    const B64: u8 = 8;
    match code {
        C::Setcc => B8,
        C::Insn
        | C::GetFlags
        | C::SetFlags
        | C::SetDf
        | C::Cmc
        | C::Call
        | C::Raise
        | C::Fence
        | C::Prefetch => B64,
        C::CmpxchgPair
        | C::Crc32
        | C::Andn
        | C::Bextr
        | C::Blsi
        | C::Blsmsk
        | C::Blsr
        | C::Bzhi
        | C::Pdep
        | C::Pext
        | C::Adcx
        | C::Adox => B32 | B64,
        C::Lea
        | C::SegLin
        | C::CheckPc
        | C::JumpTo
        | C::Jump
        | C::Branch
        | C::SideExit
        | C::Expect
        | C::BranchNz
        | C::Exit
        | C::Bswap => B16 | B32 | B64,
        _ => B8 | B16 | B32 | B64,
    }
}

fn sub(op: &Op) -> Check {
    let n = op.sub;
    let known = match op.code.info().sub {
        Sub::None => n == 0,
        Sub::Cond => n < 16,
        Sub::Width => n < 4,
        Sub::Alu => OpCode::from_index(n).is_some_and(OpCode::rmw),
        Sub::Helper => HelperId::from_index(n).is_some(),
        Sub::Code => VecInsn::decode(n).is_some_and(|insn| insn.code != Code::INVALID),
        Sub::Seg => n < 6,
        Sub::Exit => Exit::from_index(n).is_some(),
        Sub::Jump => Jump::from_index(n).is_some(),
        Sub::Hint => Hint::from_index(n).is_some(),
        Sub::String => {
            StringOp::decode(n).is_some_and(|s| s.width == op.width && s.addr != Width::B8)
        }
        Sub::Number => match op.code {
            OpCode::Raise => n < 32,
            OpCode::SetDf => n < 2,
            _ => true,
        },
    };
    ensure(known, || format!("sub {n:#x} means nothing here"))?;
    ensure(
        !matches!(op.code, OpCode::Zext | OpCode::Sext) || n <= op.width as u32,
        || "it widens to something narrower".into(),
    )
}

/// The arguments that an op must have, and those that it may have: bits 0..=2 for a, b, c.
fn arg_count(op: &Op) -> (u8, u8) {
    use OpCode as C;
    let row = (1u8 << op.code.info().args) - 1;
    match op.code {
        // Of the arithmetic op's operands the memory is the first.
        C::Rmw if op.alu() == C::Mov => (1, 1),
        C::Rmw => {
            let args = (1u8 << op.alu().info().args.saturating_sub(1)) - 1;
            (args, args)
        }
        C::Exit if op.sub == Exit::Next as u32 => (1, 1),
        C::Exit => (0, 0),
        C::SegLin => (3, row),
        C::CheckPc => (1, row),
        C::Vec | C::X87 | C::Call | C::Raise => (0, row),
        C::VecLoad => (1, row),
        C::ProbeWrite => (0, row),
        C::VecStore => (3, row),
        _ => (row, row),
    }
}

/// Whether an operand of this kind may be argument `slot`.
fn arg_kind(op: &Op, slot: usize, arg: Operand) -> bool {
    use OpCode as C;
    match op.code {
        C::Jump | C::Branch | C::SideExit | C::Exit => return matches!(arg, Operand::Pc(_)),
        C::BranchNz if slot < 2 => return matches!(arg, Operand::Pc(_)),
        C::Expect if slot == 1 => return matches!(arg, Operand::Pc(_)),
        C::Raise | C::VecLoad | C::ProbeWrite => return matches!(arg, Operand::Imm(_)),
        C::VecStore if slot > 0 => return matches!(arg, Operand::Imm(_)),
        C::SegLin if slot > 0 => return matches!(arg, Operand::Imm(_)),
        C::Vec => return !matches!(arg, Operand::Pc(_)),
        C::VecStore => {
            return matches!(
                arg,
                Operand::Vec(_) | Operand::Mmx(_) | Operand::Mask(_) | Operand::VecTemp(_)
            );
        }
        _ => {}
    }
    match arg {
        Operand::None | Operand::Reg(_) | Operand::Temp(_) | Operand::Imm(_) => true,
        Operand::High(g) => (g as u8) < 4 && arg_width(op, slot) == Width::B8,
        Operand::Pc(_) => matches!(op.code, C::Mov | C::Store | C::Call | C::X87 | C::CheckPc),
        Operand::VecTemp(_) => op.code == C::X87 && slot == 0,
        Operand::Vec(_) | Operand::Mmx(_) | Operand::Mask(_) => false,
    }
}

/// Whether an operand of this kind may be a result.
fn dst_kind(op: &Op, dst: Operand) -> bool {
    let vector = op.code == OpCode::Vec;
    match dst {
        Operand::None => true,
        Operand::Reg(_) | Operand::Temp(_) => op.code != OpCode::VecLoad,
        Operand::High(g) => (g as u8) < 4 && op.width == Width::B8 && op.code != OpCode::VecLoad,
        Operand::VecTemp(_) => vector || matches!(op.code, OpCode::VecLoad | OpCode::X87),
        Operand::Vec(_) | Operand::Mmx(_) | Operand::Mask(_) => vector,
        Operand::Imm(_) | Operand::Pc(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::verify;
    use crate::text::parse;

    fn verdict(ops: &str) -> String {
        let text = format!("block temps=2 vtemps=1\n{ops}");
        match verify(&parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))) {
            Ok(()) => "ok".into(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn sound_blocks_pass() {
        for ops in [
            "insn +0 len=2\njump pc+2",
            "insn +0 len=1\n%0 = load.64 stack [rsp]\ncheckpc.64 %0\nrsp = add.64 rsp, 8\njumpto.64 ret %0",
            "insn +0 len=1\nsetdf #1\njump pc+1",
            "insn +0 len=3\nprobewrite.32 [rdi+4]\nstore.32 [rdi], rax\nstore.32 [rdi+4], rdx\njump pc+3",
            "insn +0 len=3\n%0 = call read_cr 0\nstore.32 [rdi], %0\njump pc+3",
            "insn +0 len=2\nah = xor.8 ah, bh {oszapc}\ninsn +2 len=2\nrax = zext.32 from.8 ah\njump pc+4",
            "insn +0 len=2\n%0 = rmw.32 shld [rdi], rax, rcx {oszapc}\njump pc+2",
            "insn +0 len=2\n%0 = rmw.32 inc lock [rdi] {oszap}\njump pc+2",
            "insn +0 len=4\n%v0 = vecload [rdi], 16\nv1 = vec Addps_xmm_xmmm128 v1, %v0\njump pc+4",
            "insn +0 len=2\nrax, rdx = divu.32 rax, rdx, rcx\njump pc+2",
            "insn +0 len=2\ncall cpuid\nexit next pc+2",
            "insn +0 len=2\ncall far_ret 0, _, 8\nexit helper",
            "insn +0 len=2\nraise #6",
            "insn +0 len=2\nsideexit ne pc+9\ninsn +2 len=2\njump pc+4",
        ] {
            assert_eq!(verdict(ops), "ok", "{ops}");
        }
    }

    #[test]
    fn each_rule_is_seen() {
        for (ops, expected) in [
            ("", "it has no ops"),
            ("jump pc+2", "before the first insn marker"),
            ("insn +0 len=2", "the block's last op is no terminal"),
            (
                "insn +0 len=2\njump pc+2\njump pc+2",
                "a terminal before the block's end",
            ),
            ("insn +0 len=16\njump pc+2", "an instruction of 16 bytes"),
            (
                "insn +4 len=2\ninsn +5 len=1\njump pc+2",
                "it begins before the one before ends (+6)",
            ),
            (
                "insn +0 len=1\nsetcc.16 e\njump pc+2",
                "setcc has no width 16",
            ),
            (
                "insn +0 len=1\nrax = zext.8 from.32 rax\njump pc+2",
                "it widens to something narrower",
            ),
            (
                "insn +0 len=1\nrax = rmw.8 popcnt [rbx], rax\njump pc+2",
                "sub ",
            ),
            ("insn +0 len=1\nraise #99", "sub 0x63 means nothing here"),
            (
                "insn +0 len=1\nrax = inc.8 rax {c}\njump pc+2",
                "it does not define all flags of {c}",
            ),
            (
                "insn +0 len=1\nrax = rmw.8 not [rbx] {z}\njump pc+2",
                "it does not define all flags of {z}",
            ),
            (
                "insn +0 len=1\nrax = add.8 rax\njump pc+2",
                "its operand b is missing",
            ),
            (
                "insn +0 len=1\nrax = rmw.8 inc [rbx], rax\njump pc+2",
                "it takes no operand a",
            ),
            (
                "insn +0 len=1\nrax = add.8 rax, v1\njump pc+2",
                "v1 as its operand b",
            ),
            (
                "insn +0 len=1\nrax = add.64 rax, pc+1\njump pc+2",
                "pc+1 as its operand b",
            ),
            (
                "insn +0 len=1\nrax = add.16 rax, ah\njump pc+2",
                "ah as its operand b",
            ),
            (
                "insn +0 len=1\nah = add.16 rax, rax\njump pc+2",
                "ah as a result",
            ),
            (
                "insn +0 len=1\n3 = add.16 rax, rax\njump pc+2",
                "3 as a result",
            ),
            (
                "insn +0 len=1\nrax, rax = mulu.16 rax, rax\njump pc+2",
                "two results in one place",
            ),
            ("insn +0 len=1\nbranch e pc+1, rax", "rax as its operand b"),
            (
                "insn +0 len=2\nsideexit e pc+9",
                "the block's last op is no terminal",
            ),
            ("insn +0 len=2\nsideexit e rax", "rax as its operand a"),
            (
                "insn +0 len=2\nrax = mov.64 1\nsideexit e pc+9\njump pc+2",
                "it may fault after",
            ),
            ("insn +0 len=1\nexit next", "its operand a is missing"),
            (
                "insn +0 len=1\nrax = mov.8 %0\njump pc+2",
                "%0 is read before it is written",
            ),
            (
                "insn +0 len=1\nrax = load.8 [%0]\njump pc+2",
                "%0 is read before it is written",
            ),
            (
                "insn +0 len=1\n%0 = mov.8 1\n%0 = mov.8 1\njump pc+2",
                "%0 is written twice",
            ),
            (
                "insn +0 len=1\n%2 = mov.8 1\njump pc+2",
                "%2 is beyond the block's count",
            ),
            (
                "insn +0 len=1\n%v1 = vecload [rax], 16\njump pc+2",
                "%v1 is beyond the block's count",
            ),
            (
                "insn +0 len=1\nrax = load.8 lock [rax]\njump pc+2",
                "lock without a read-modify-write",
            ),
            (
                "insn +0 len=1\nrax = load.8 align=3 [rax]\njump pc+2",
                "alignment 3",
            ),
            (
                "insn +0 len=1\nrax = load.8 [rbx+pc+1*2]\njump pc+2",
                "pc+1 as an index",
            ),
            (
                "insn +0 len=1\nrsp = sub.64 rsp, 8\nstore.64 [rsp], rax\njump pc+2",
                "it may fault after",
            ),
            (
                "insn +0 len=1\nsub.64 rsp, 8 {z}\nrax = load.64 [rsp]\njump pc+2",
                "it may fault after",
            ),
            (
                "insn +0 len=1\n%0 = load.64 [rsp]\nrsp = add.64 rsp, 8\njumpto.64 ret %0",
                "it may fault after",
            ),
            (
                "insn +0 len=1\nstore.64 [rsi], 8\nstore.64 [rsp], rax\njump pc+2",
                "it may fault after",
            ),
            (
                "insn +0 len=1\n%0 = call in 0x60, _, 1\nstore.64 [rsp], %0\njump pc+2",
                "it may fault after",
            ),
        ] {
            let verdict = verdict(ops);
            assert!(
                verdict.contains(expected),
                "{ops}\n  gave {verdict}\n  not  {expected}"
            );
        }
        let short = parse("block temps=0 vtemps=0 len=9\ninsn +0 len=2\njump pc+2").unwrap();
        assert!(
            verify(&short)
                .unwrap_err()
                .to_string()
                .contains("its markers say len=2 insns=1")
        );
    }
}
