//! Two machines with the same contents, run in different ways, compared wherever both have come equally far.

use std::collections::VecDeque;
use std::fmt::Write;

use system::{Boundary, Vcpu};
use x86::{CpuState, Exception, LinAddr, PhysAddr, Seg};

use super::episode::Episode;
use super::place::{self, root};
use super::undefined::{Undefined, code};
use super::{Cpu, EVENTS, IDLE, Machine, Plan, Way};

/// Instructions that a report lists.
const TRACE: usize = 24;
/// Pieces of one repeated string instruction.
const PIECES: u32 = 512;

/// Two machines.
pub struct Pair<'a> {
    /// Runs ahead, in chained blocks.
    a: Machine,
    /// Follows.
    b: Machine,
    plan: &'a Plan,
    ways: [Way; 2],
    limits: [u64; 2],
    /// Flags that the engines may have chosen differently since both were last compared.
    undefined: Undefined,
    /// A repeated instruction was too long for the second machine, which looks at events more often.
    impatient: bool,
    trace: VecDeque<String>,
}

impl<'a> Pair<'a> {
    /// Two machines for a plan: engines, and how many instructions a call of each may do.
    pub fn new(plan: &'a Plan, ways: [Way; 2], limits: [u64; 2]) -> Self {
        Self {
            a: Machine::new(plan, ways[0], false),
            b: Machine::new(plan, ways[1], false),
            plan,
            ways,
            limits,
            undefined: Undefined::default(),
            impatient: false,
            trace: VecDeque::new(),
        }
    }

    /// Runs one episode on both.
    pub fn episode(&mut self, episode: &Episode) -> Result<(), String> {
        for machine in [&mut self.a, &mut self.b] {
            machine.cpus[0].begin(&machine.ram, episode);
        }
        let end = self.a.cpus[0].v.retired + episode.steps;
        let (mut events, mut idle) = (0, 0);
        while self.a.cpus[0].v.retired < end && events < EVENTS && idle < IDLE {
            let (next, other) = (self.a.cpus[0].v.boundary(), self.b.cpus[0].v.boundary());
            if next != other {
                return Err(format!("at a boundary: {other:?} alone, {next:?} chained"));
            }
            match next {
                Boundary::Run => {}
                Boundary::Delivered(_) => {
                    self.same("after a delivery")?;
                    events += 1;
                    continue;
                }
                _ => break,
            }
            let a = &mut self.a.cpus[0];
            let before = a.v.retired;
            let limit = self.limits[0].min(end - before);
            let result = a.engine.advance(&mut a.v, limit);
            idle += u32::from(result.is_ok() && a.v.retired == before);
            let result = self.catch_up(result)?;
            self.same("after some instructions")?;
            if let Err(e) = result {
                let (raised, other) = (self.a.cpus[0].v.raise(e), self.b.cpus[0].v.raise(e));
                if raised != other {
                    return Err(format!("{e:?} led to {other:?} alone, {raised:?} chained"));
                }
                self.same("after an exception")?;
                events += 1;
                if raised.is_err() {
                    break;
                }
            }
            self.a.cpus[0].sane();
        }
        self.memory()
    }

    /// Runs the second machine as far as the first has come; the first one's result, and the second's.
    fn catch_up(&mut self, result: Result<(), Exception>) -> Result<Result<(), Exception>, String> {
        let target = self.a.cpus[0].v.retired;
        let mut first = true;
        let mut outcome = Ok(());
        while self.b.cpus[0].v.retired < target && outcome.is_ok() {
            self.step(
                self.limits[1].min(target - self.b.cpus[0].v.retired),
                &mut first,
                &mut outcome,
            )?;
        }
        // Then up to the exception, and through as many pieces of a repeated instruction.
        let mut pieces = 0;
        let mut before = self.b.cpus[0].v.st.clone();
        while outcome.is_ok()
            && pieces < PIECES
            && (result.is_err() || !self.alike())
            && self.b.cpus[0].v.retired == target
        {
            before = self.b.cpus[0].v.st.clone();
            self.step(1, &mut first, &mut outcome)?;
            pieces += 1;
        }
        self.impatient |= pieces == PIECES;
        let result = self.finish_repeat(result, &outcome)?;
        let (a, b) = (&self.a.cpus[0].v, &self.b.cpus[0].v);
        if outcome != result || b.retired != a.retired {
            return Err(format!(
                "{outcome:?} after {} instructions alone, {result:?} after {} chained\n{}",
                b.retired,
                a.retired,
                differences(&before, &a.st)
            ));
        }
        Ok(result)
    }

    /// Where pieces of a repeated instruction end is an engine's choice: if the second machine has got through one that
    /// the first is in, the first follows.
    fn finish_repeat(
        &mut self,
        mut result: Result<(), Exception>,
        outcome: &Result<(), Exception>,
    ) -> Result<Result<(), Exception>, String> {
        let (a, b) = (&mut self.a.cpus[0], &self.b.cpus[0].v);
        let (target, rip) = (b.retired, a.v.st.rip);
        let mut rounds = 0;
        while rounds < PIECES {
            let behind = a.v.retired + 1 == target || outcome.is_err() && a.v.retired == target;
            if result.is_err() || !behind || a.v.st.rip != rip {
                break;
            }
            if a.v.boundary() != Boundary::Run {
                return Err("an event chained, which was not seen alone".to_owned());
            }
            result = a.engine.advance(&mut a.v, 1);
            rounds += 1;
        }
        self.impatient |= rounds == PIECES;
        Ok(result)
    }

    fn step(
        &mut self,
        limit: u64,
        first: &mut bool,
        outcome: &mut Result<(), Exception>,
    ) -> Result<(), String> {
        let b = &mut self.b.cpus[0];
        if !std::mem::take(first) {
            let next = b.v.boundary();
            if next != Boundary::Run {
                return Err(format!("{next:?} alone, which was not seen chained"));
            }
        }
        let line = describe(b);
        let before = b.v.retired;
        let effects = Undefined::effects(&b.v);
        let (rip, bytes) = (b.v.st.rip, code(&b.v, b.v.st.rip));
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
        let mixed = self.mixed();
        let b = &mut self.b.cpus[0];
        *outcome = b.engine.advance(&mut b.v, limit);
        // One that stores over itself is another from its next piece on, and pieces are an engine's choice.
        let len = effects.repeated.min(bytes.len());
        self.impatient |= mixed && !code(&b.v, rip).starts_with(&bytes[..len]);
        if mixed && b.v.retired != before {
            self.undefined.after(effects);
        }
        Ok(())
    }

    /// Whether there is a choice of undefined flags: the translator leaves some instructions to the interpreter, which
    /// has its own.
    fn mixed(&self) -> bool {
        self.ways.iter().any(|way| matches!(way, Way::Jit(..)))
    }

    /// Whether the states are the same but for flags that are undefined.
    fn alike(&self) -> bool {
        let (a, b) = (&self.a.cpus[0].v.st, &self.b.cpus[0].v.st);
        if a == b {
            return true;
        }
        let mut settled = a.clone();
        self.undefined.settle(&mut settled, b);
        settled == *b
    }

    fn same(&mut self, when: &str) -> Result<(), String> {
        let alike = self.alike();
        let (a, b) = (&mut self.a.cpus[0].v, &self.b.cpus[0].v);
        // DR6 bits; the others are notes from one instruction to the boundary behind it.
        let [one, other] = [&**a, &**b].map(|v: &Vcpu| v.pending_debug & 0xe00f);
        if alike && one == other {
            self.undefined.settle(&mut a.st, &b.st);
            self.undefined = Undefined::from(self.undefined.spread());
            return Ok(());
        }
        Err(format!(
            "{when} states differ (pending debug traps {other:#x} alone, {one:#x} chained)"
        ))
    }

    /// Compares all of RAM.
    fn memory(&self) -> Result<(), String> {
        let (mut a, mut b) = ([0; 0x1000], [0; 0x1000]);
        for page in (0..place::RAM).step_by(0x1000) {
            let read = [
                self.a.ram.read(PhysAddr(page), &mut a),
                self.b.ram.read(PhysAddr(page), &mut b),
            ];
            if read[0] != read[1] {
                return Err(format!("the page at {page:#x} is RAM in one machine only"));
            }
            if a == b {
                continue;
            }
            if let Some(n) = (0..0x1000).find(|n| a[*n] != b[*n]) {
                let at = page + n as u64;
                return Err(format!(
                    "RAM at {at:#x} differs: {:#x} alone, {:#x} chained",
                    b[n], a[n]
                ));
            }
        }
        Ok(())
    }

    /// Whether an undefined flag was looked at, or an instruction was too long, or the paging structures are not what they were: then translations may be
    /// kept, or looked up again, at any moment, and both are right.
    pub fn excused(&self) -> bool {
        if self.undefined.spread() || self.impatient {
            return true;
        }
        let st = &self.a.cpus[0].v.st;
        let known = [0, root::LEVEL5, root::LEVEL4, root::BITS32, root::PAE];
        if !known.contains(&(st.cr3 & !0xfff)) {
            return true;
        }
        let start = self.plan.world.contents();
        (root::LEVEL5..root::END).step_by(4).any(|at| {
            let was = &start[at as usize..at as usize + 4];
            let was = was
                .iter()
                .rev()
                .fold(0, |value, b| value << 8 | u32::from(*b));
            // Accessed and dirty aside; they lie in the upper halves too, where nothing else is lost by it.
            self.a
                .ram
                .read_u32(PhysAddr(at))
                .is_ok_and(|now| (now ^ was) & !0x60 != 0)
        })
    }

    /// All that helps to see what went wrong.
    pub fn report(&self, what: &str) -> String {
        let [a, b] = [&self.a, &self.b].map(|m| &m.cpus[0].v);
        let mut text = format!(
            "{what}\nchained: {:?}, alone: {:?}\nran alone:\n",
            self.ways[0], self.ways[1]
        );
        for line in &self.trace {
            let _ = writeln!(text, "  {line}");
        }
        let _ = writeln!(
            text,
            "{}--- alone:\n{}\n--- chained:\n{}",
            differences(&b.st, &a.st),
            b.dump(),
            a.dump()
        );
        text
    }
}

/// Where a vCPU stands, and the bytes there.
fn describe(cpu: &mut Cpu) -> String {
    let v = &cpu.v;
    let lin = if v.st.code64() {
        v.st.rip
    } else {
        v.st.seg[Seg::Cs as usize].base.wrapping_add(v.st.rip) & 0xffff_ffff
    };
    let mut bytes = String::new();
    for n in 0..12 {
        match v
            .mmu
            .translate_debug(LinAddr(lin.wrapping_add(n)))
            .and_then(|at| v.mmu.ram().read_u8(at).ok())
        {
            Some(byte) => {
                let _ = write!(bytes, "{byte:02x} ");
            }
            None => bytes.push_str("-- "),
        }
    }
    format!(
        "{:#06x}:{:#x}: {bytes} n={}",
        v.st.seg[Seg::Cs as usize].selector,
        v.st.rip,
        v.retired
    )
}

/// The fields in which two states differ.
fn differences(alone: &CpuState, chained: &CpuState) -> String {
    let mut text = String::new();
    let (a, b) = (format!("{alone:#?}"), format!("{chained:#?}"));
    let mut context = VecDeque::new();
    for (x, y) in a.lines().zip(b.lines()) {
        if x.ends_with(['[', '{']) && x.starts_with("    ") && !x.starts_with("     ") {
            context.clear();
            context.push_back(x.trim().to_owned());
        }
        if x != y {
            let field = context.front().map_or("", String::as_str);
            let _ = writeln!(text, "  {field} {} alone, {} chained", x.trim(), y.trim());
        }
    }
    text
}
