//! String instructions: by the page where memory is plain RAM, element by element where it is not.
//!
//! Registers are brought up to date after every element or page, so that a fault or an event in the middle leaves what
//! the manual says (SDM vol. 2, REP): the instruction begins again with what is left. Overlapping moves copy element
//! after element, patterns included. A count of zero changes nothing at all.

mod ports;
#[cfg(test)]
mod tests;

use ir::{Rep, StringKind, StringOp, Width};
use softmmu::{AccessKind, HostRun, Privilege, Run};
use x86::{Exception, Gpr, LinAddr, Seg, cr0, flags};

use crate::{FlagOp, LazyFlags, Vcpu, fault, flag_kind};

/// Iterations after which a REP instruction lets its engine look around.
const ITERATIONS: u64 = 1 << 16;

/// How far a string instruction got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringOutcome {
    /// It is completed: the next instruction follows.
    Done,
    /// It did at least one iteration and isn't completed: an event or a trap waits. The engine goes to the boundary
    /// with RIP at this instruction and runs it again later.
    Again,
}

/// One string instruction while it runs.
#[derive(Clone, Copy)]
struct Job {
    op: StringOp,
    /// Element size in bytes.
    size: u64,
    /// The bits of an address or count.
    mask: u64,
    backward: bool,
    source: Seg,
    /// Alignment checks are on (CR0.AM, RFLAGS.AC, privilege level 3).
    aligned: bool,
}

/// Runs a string instruction, REP included.
pub fn string(v: &mut Vcpu, op: StringOp) -> Result<StringOutcome, Exception> {
    let job = Job {
        op,
        size: u64::from(op.width.bytes()),
        mask: op.addr.mask(),
        backward: v.st.rflags & flags::DF != 0,
        source: Seg::from_index(usize::from(op.seg)).unwrap_or(Seg::Ds),
        aligned: v.st.cr0 & cr0::AM != 0 && v.st.rflags & flags::AC != 0 && v.st.cpl() == 3,
    };
    let before = v.flags;
    let result = job.run(v);
    if result.is_err() && matches!(op.kind, StringKind::Cmps | StringKind::Scas) {
        // SDM vol. 2, REP: after a fault the flags are those from before the instruction.
        v.flags = before;
    }
    result
}

impl Job {
    fn run(&self, v: &mut Vcpu) -> Result<StringOutcome, Exception> {
        if self.op.rep == Rep::None {
            self.step(v, 1)?;
            return Ok(StringOutcome::Done);
        }
        // Single step traps after every iteration.
        let mut left = if v.st.rflags & flags::TF != 0 {
            1
        } else {
            ITERATIONS
        };
        loop {
            let count = self.register(v, Gpr::Rcx);
            if count == 0 {
                return Ok(StringOutcome::Done);
            }
            let (done, equal) = self.step(v, count.min(left))?;
            self.set_register(v, Gpr::Rcx, count - done);
            let ended = match (self.op.kind, self.op.rep) {
                (StringKind::Cmps | StringKind::Scas, Rep::Rep) => !equal,
                (StringKind::Cmps | StringKind::Scas, Rep::Repne) => equal,
                _ => false,
            };
            if ended || count == done {
                return Ok(StringOutcome::Done);
            }
            left = left.saturating_sub(done);
            if v.st.dr7 & 0xff != 0 {
                v.collect_watch_hits();
            }
            if left == 0 || v.pending_debug & 0xf != 0 || v.events.pending() & v.event_mask != 0 {
                return Ok(StringOutcome::Again);
            }
        }
    }

    /// Does between one and `max` iterations, count register excepted. Returns how many, and for comparisons whether
    /// the last was of equals.
    fn step(&self, v: &mut Vcpu, max: u64) -> Result<(u64, bool), Exception> {
        match self.op.kind {
            StringKind::Movs => self.movs(v, max),
            StringKind::Stos => self.stos(v, max),
            StringKind::Lods => self.lods(v, max),
            StringKind::Cmps => self.cmps(v, max),
            StringKind::Scas => self.scas(v, max),
            StringKind::Ins => self.ins(v),
            StringKind::Outs => self.outs(v),
        }
    }

    fn movs(&self, v: &mut Vcpu, max: u64) -> Result<(u64, bool), Exception> {
        let source = self.run_at(v, self.source, Gpr::Rsi, max, AccessKind::Read)?;
        // What a single element raises, its read raises before its write.
        let runs = match source {
            Run::Ram(source) => match self.run_at(v, Seg::Es, Gpr::Rdi, max, AccessKind::Write)? {
                Run::Ram(target) => Some((source, target)),
                Run::Single => None,
            },
            Run::Single => None,
        };
        let done = if let Some((source, target)) = runs {
            let n = source.count().min(target.count());
            v.mmu.copy_run(&target, &source, n);
            n
        } else {
            let from = self.lin(v, self.source, Gpr::Rsi, false)?;
            let value = v.read(from, self.size as u32)?;
            let to = self.lin(v, Seg::Es, Gpr::Rdi, true)?;
            v.write(to, self.size as u32, value)?;
            1
        };
        self.advance(v, Gpr::Rsi, done);
        self.advance(v, Gpr::Rdi, done);
        Ok((done, false))
    }

    fn stos(&self, v: &mut Vcpu, max: u64) -> Result<(u64, bool), Exception> {
        let value = self.accumulator(v);
        let done = match self.run_at(v, Seg::Es, Gpr::Rdi, max, AccessKind::Write)? {
            Run::Ram(target) => {
                v.mmu.fill_run(&target, target.count(), value);
                target.count()
            }
            Run::Single => {
                let to = self.lin(v, Seg::Es, Gpr::Rdi, true)?;
                v.write(to, self.size as u32, value)?;
                1
            }
        };
        self.advance(v, Gpr::Rdi, done);
        Ok((done, false))
    }

    fn lods(&self, v: &mut Vcpu, max: u64) -> Result<(u64, bool), Exception> {
        // Only the last element stays.
        let (value, done) = match self.run_at(v, self.source, Gpr::Rsi, max, AccessKind::Read)? {
            Run::Ram(source) => (v.mmu.run_load(&source, source.count() - 1), source.count()),
            Run::Single => {
                let from = self.lin(v, self.source, Gpr::Rsi, false)?;
                (v.read(from, self.size as u32)?, 1)
            }
        };
        let rax = &mut v.st.gpr[Gpr::Rax as usize];
        *rax = match self.op.width {
            Width::B8 | Width::B16 => (*rax & !self.op.width.mask()) | value,
            Width::B32 | Width::B64 => value,
        };
        self.advance(v, Gpr::Rsi, done);
        Ok((done, false))
    }

    fn cmps(&self, v: &mut Vcpu, max: u64) -> Result<(u64, bool), Exception> {
        let source = self.run_at(v, self.source, Gpr::Rsi, max, AccessKind::Read)?;
        let runs = match source {
            Run::Ram(source) => match self.run_at(v, Seg::Es, Gpr::Rdi, max, AccessKind::Read)? {
                Run::Ram(target) => Some((source, target)),
                Run::Single => None,
            },
            Run::Single => None,
        };
        let (done, a, b) = if let Some((source, target)) = runs {
            let n = source.count().min(target.count());
            self.compare(n, |i| {
                (v.mmu.run_load(&source, i), v.mmu.run_load(&target, i))
            })
        } else {
            let from = self.lin(v, self.source, Gpr::Rsi, false)?;
            let a = v.read(from, self.size as u32)?;
            let to = self.lin(v, Seg::Es, Gpr::Rdi, false)?;
            (1, a, v.read(to, self.size as u32)?)
        };
        v.flags = LazyFlags {
            kind: flag_kind(FlagOp::Sub, self.op.width),
            c: 0,
            a,
            b,
        };
        self.advance(v, Gpr::Rsi, done);
        self.advance(v, Gpr::Rdi, done);
        Ok((done, a == b))
    }

    fn scas(&self, v: &mut Vcpu, max: u64) -> Result<(u64, bool), Exception> {
        let a = self.accumulator(v);
        let (done, a, b) = match self.run_at(v, Seg::Es, Gpr::Rdi, max, AccessKind::Read)? {
            Run::Ram(target) => self.compare(target.count(), |i| (a, v.mmu.run_load(&target, i))),
            Run::Single => {
                let at = self.lin(v, Seg::Es, Gpr::Rdi, false)?;
                (1, a, v.read(at, self.size as u32)?)
            }
        };
        v.flags = LazyFlags {
            kind: flag_kind(FlagOp::Sub, self.op.width),
            c: 0,
            a,
            b,
        };
        self.advance(v, Gpr::Rdi, done);
        Ok((done, a == b))
    }

    /// Compares up to `n` pairs until the repeat prefix ends it. Returns how many, and the last pair.
    fn compare(&self, n: u64, pair: impl Fn(u64) -> (u64, u64)) -> (u64, u64, u64) {
        let until_equal = self.op.rep == Rep::Repne;
        let mut i = 0;
        loop {
            let (a, b) = pair(i);
            i += 1;
            if i >= n || (a == b) == until_equal {
                return (i, a, b);
            }
        }
    }

    /// The elements at a pointer that can be had in one go: in one page of RAM and one segment, without a wrap.
    /// Raises what the first of them raises.
    fn run_at(
        &self,
        v: &mut Vcpu,
        seg: Seg,
        pointer: Gpr,
        max: u64,
        kind: AccessKind,
    ) -> Result<Run, Exception> {
        let write = kind == AccessKind::Write;
        let lin = self.lin(v, seg, pointer, write)?;
        if max == 1 {
            return Ok(Run::Single);
        }
        let offset = self.register(v, pointer);
        let before_wrap = if self.backward {
            (offset / self.size).saturating_add(1)
        } else {
            (self.mask - offset) / self.size
        };
        let size = self.size as u32;
        let run = v
            .mmu
            .string_run(
                LinAddr(lin),
                size,
                max.min(before_wrap),
                self.backward,
                kind,
                Privilege::Current,
            )
            .map_err(fault)?;
        if let Run::Ram(run) = run {
            if !self.inside(v, seg, offset, &run, write) {
                return Ok(Run::Single);
            }
        }
        Ok(run)
    }

    /// Whether all elements of a run lie in the segment.
    fn inside(&self, v: &Vcpu, seg: Seg, offset: u64, run: &HostRun, write: bool) -> bool {
        let bytes = run.count() * self.size;
        let lowest = if self.backward {
            offset - (bytes - self.size)
        } else {
            offset
        };
        v.linear(seg, lowest, bytes, write).is_ok()
    }

    /// The linear address of the element at a pointer, checked.
    fn lin(&self, v: &Vcpu, seg: Seg, pointer: Gpr, write: bool) -> Result<u64, Exception> {
        let lin = v.linear(seg, self.register(v, pointer), self.size, write)?;
        if self.aligned && lin & (self.size - 1) != 0 {
            return Err(Exception::AC0);
        }
        Ok(lin)
    }

    /// AL, AX, EAX or RAX.
    fn accumulator(&self, v: &Vcpu) -> u64 {
        v.st.gpr[Gpr::Rax as usize] & self.op.width.mask()
    }

    /// A pointer or the count, cut to the address size.
    fn register(&self, v: &Vcpu, register: Gpr) -> u64 {
        v.st.gpr[register as usize] & self.mask
    }

    fn set_register(&self, v: &mut Vcpu, register: Gpr, value: u64) {
        let gpr = &mut v.st.gpr[register as usize];
        *gpr = match self.op.addr {
            Width::B8 | Width::B16 => (*gpr & !0xffff) | (value & 0xffff),
            Width::B32 | Width::B64 => value & self.mask,
        };
    }

    /// Moves a pointer by `n` elements.
    fn advance(&self, v: &mut Vcpu, pointer: Gpr, n: u64) {
        let distance = n * self.size;
        let old = self.register(v, pointer);
        let new = if self.backward {
            old.wrapping_sub(distance)
        } else {
            old.wrapping_add(distance)
        };
        self.set_register(v, pointer, new);
    }
}
