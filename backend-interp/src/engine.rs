//! The run loop: find or make the block at RIP, run handlers until they need something, see to it.

use std::time::Instant;

use frontend_x86::{End, Features, Limits, Mode};
use ir::opt::Switches;
use softmmu::{CodeSpan, Fault};
use system::{Engine, Exit, Vcpu};
use x86::{Exception, LinAddr, PAGE_SIZE, PhysAddr, Seg};

use crate::block::{Block, Cache, Key, SINGLE};
use crate::code::{LOp, REST, exit, word};
use crate::host::{self, Stubs};
use crate::lower::lower_by;

/// Guest instructions in a block at most.
const MAX_INSNS: u32 = 64;
/// Bytes that are fetched for a block at most; more than [`MAX_INSNS`] instructions rarely take.
const MAX_BYTES: usize = 400;
/// Bytes of ops in the cache before it is emptied, if nothing else is asked for.
pub const MAX_CACHE: usize = 96 << 20;

/// What the engine has done, for `--stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Blocks lifted and lowered.
    pub blocks: u64,
    /// Guest instructions in them.
    pub insns: u64,
    /// Guest bytes in them.
    pub bytes: u64,
    /// Handlers made for them.
    pub handlers: u64,
    /// Nanoseconds that took.
    pub translate_ns: u64,
    /// Times that handlers came back to the run loop, by [`exit`] code.
    pub exits: [u64; 6],
    /// Blocks dropped because their code changed.
    pub invalidations: u64,
    /// Times the cache was emptied because it was full.
    pub flushes: u64,
    /// Exceptions delivered.
    pub exceptions: u64,
}

/// The interpreter: blocks are lifted, optimised and lowered once, and run from the cache.
pub struct Interp {
    features: Features,
    switches: Switches,
    portable: bool,
    cache: Cache,
    max_cache: usize,
    stubs: Stubs,
    rest: Box<[LOp; REST]>,
    /// A block that can't be kept: its code is not in RAM.
    transient: Option<Box<Block>>,
    spare: Option<ir::Block>,
    code_epoch: u64,
    stats: Stats,
    counting: bool,
    run_ns: u64,
}

/// Where the next block comes from.
#[derive(Clone, Copy)]
enum Found {
    Cached(Key),
    Transient,
}

impl Interp {
    /// An engine for a CPU with these features.
    pub fn new(features: Features) -> Self {
        Self {
            features,
            switches: Switches::ALL,
            portable: false,
            cache: Cache::default(),
            max_cache: MAX_CACHE,
            stubs: Stubs::default(),
            rest: Box::new([LOp::FILL; REST]),
            transient: None,
            spare: None,
            code_epoch: 0,
            stats: Stats::default(),
            counting: false,
            run_ns: 0,
        }
    }

    /// Counts handlers and instructions run, at a small cost. Before anything has run.
    pub fn set_counting(&mut self, on: bool) {
        self.counting = on;
    }

    /// Bytes of ops in the cache before it is emptied.
    pub fn set_max_cache(&mut self, bytes: usize) {
        self.max_cache = bytes;
    }

    /// Chooses the IR passes; none is needed for right results.
    pub fn set_passes(&mut self, switches: Switches) {
        self.switches = switches;
    }

    /// Leaves the host's vector unit and x87 alone: crate `portable` does all, as on hosts of other architectures.
    /// Before anything has run.
    pub fn set_portable(&mut self, on: bool) {
        self.portable = on;
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        Stats {
            invalidations: self.cache.invalidations,
            ..self.stats
        }
    }

    /// Blocks in the cache, and the bytes of their ops.
    pub fn cached(&self) -> (usize, usize) {
        (self.cache.len(), self.cache.bytes())
    }

    /// Finds or makes the block at RIP. Fetch faults come back as exceptions.
    fn find(&mut self, v: &mut Vcpu, mode: Mode, single: bool) -> Result<Found, Exception> {
        let cs = v.seg(Seg::Cs);
        let flat = mode.code64();
        if !flat && v.st.rip > u64::from(cs.limit) {
            return Err(Exception::GP0);
        }
        let mut lin = v.st.rip;
        if !flat {
            lin = cs.base.wrapping_add(lin) & 0xffff_ffff;
        } else if !v.is_canonical(lin) {
            return Err(Exception::GP0);
        }
        let page = v.mmu.fetch_page(LinAddr(lin)).map_err(fetch_fault)?;
        let phys = page.page.0 | lin & x86::PAGE_MASK;
        let key = Key {
            phys,
            mode: mode.bits() | if single { SINGLE } else { 0 },
        };
        if let Some(block) = self.cache.get(key) {
            let limit = v.st.seg[1].limit;
            let inside = flat
                || limit == u32::MAX
                || v.st.rip + block.bytes.len() as u64 - 1 <= u64::from(limit);
            // A block that no longer stands may end before the second page: that must not be touched then.
            if inside
                && (!block.stale && settled(v, block) || refreshed(v, block))
                && same_second(v, block, lin)
            {
                return Ok(Found::Cached(key));
            }
        }
        self.make(v, mode, key, lin, page.ram)
    }

    /// Lifts, optimises and lowers the block at a linear address.
    fn make(
        &mut self,
        v: &mut Vcpu,
        mode: Mode,
        key: Key,
        lin: u64,
        ram: bool,
    ) -> Result<Found, Exception> {
        let start = Instant::now();
        if self.cache.bytes() > self.max_cache {
            self.cache.clear();
            self.stats.flushes += 1;
        }
        let page_offset = (key.phys & x86::PAGE_MASK) as u32;
        let mut bytes = [0; MAX_BYTES + 16];
        let in_page = (PAGE_SIZE as usize - page_offset as usize).min(MAX_BYTES);
        let to_limit = if mode.code64() {
            usize::MAX
        } else {
            usize::try_from(u64::from(v.st.seg[1].limit) + 1 - v.st.rip).unwrap_or(usize::MAX)
        };
        let first = in_page.min(to_limit);
        let mut stamps = [softmmu::CodeStamp::default(); 2];
        let mut kept = ram;
        let mut available = v
            .mmu
            .fetch_bytes(LinAddr(lin), &mut bytes[..first])
            .map_err(fetch_fault)?;
        let max_insns = if key.mode & SINGLE != 0 { 1 } else { MAX_INSNS };
        let mut limits = Limits {
            max_insns,
            page: in_page as u32,
            branches: 0,
        };
        let mut second = None;
        let mut lifted = self.lift(&bytes[..available], &limits, mode);
        if let End::FetchFault(_) = lifted.end {
            if available >= to_limit {
                return Err(Exception::GP0);
            }
            // The first instruction reaches into the next page: that page is fetched only now that it is needed.
            let next = (lin & !x86::PAGE_MASK).wrapping_add(PAGE_SIZE);
            let next = if mode.code64() {
                next
            } else {
                next & 0xffff_ffff
            };
            let page = v.mmu.fetch_page(LinAddr(next)).map_err(fetch_fault)?;
            kept &= page.ram;
            second = Some(page.page.0);
            let more = 15.min(to_limit - available);
            available += v
                .mmu
                .fetch_bytes(LinAddr(next), &mut bytes[available..available + more])
                .map_err(fetch_fault)?;
            limits.max_insns = 1;
            lifted = self.lift(&bytes[..available], &limits, mode);
            if let End::FetchFault(_) = lifted.end {
                return Err(Exception::GP0);
            }
        }
        let mut block = lifted.block;
        // Mark first, then look again: a store in between is either seen here or changes the generation.
        if kept {
            let span = CodeSpan {
                start: PhysAddr(key.phys),
                second: second.map(PhysAddr),
                len: block.len.into(),
            };
            match span.mark(&mut v.mmu) {
                Some(marked) => stamps = marked,
                None => kept = false,
            }
            let mut again = [0; MAX_BYTES + 16];
            let whole = &mut again[..block.len as usize];
            if span.read(v.mmu.ram(), whole) && *whole != bytes[..block.len as usize] {
                self.spare = Some(block);
                return self.make(v, mode, key, lin, ram);
            }
        }
        ir::opt::run(&mut block, self.switches);
        let mut lowered = loop {
            match lower_by(&block, mode, &mut self.stubs, self.portable) {
                Some(lowered) => break lowered,
                None if limits.max_insns > 1 => {
                    limits.max_insns = (limits.max_insns.min(block.insns) / 2).max(1);
                    block = self.lift(&bytes[..available], &limits, mode).block;
                    ir::opt::run(&mut block, self.switches);
                }
                None => {
                    tracing::warn!("no handlers for the instruction at {lin:#x}: it is #UD");
                    return Err(Exception::UD);
                }
            }
        };
        self.stats.blocks += 1;
        self.stats.insns += u64::from(block.insns);
        self.stats.bytes += u64::from(block.len);
        self.stats.handlers += lowered.ops.len() as u64;
        if self.counting {
            let handlers = lowered
                .ops
                .iter()
                .filter(|op| op.len & crate::code::FILLER == 0)
                .count();
            let first = LOp {
                run: crate::handlers::system::count,
                imm: handlers as i64,
                disp: block.insns as i32,
                len: 0,
                ..LOp::FILL
            };
            lowered.ops.insert(0, first);
        }
        let code = &bytes[..block.len as usize];
        let mut made = Block::new(key, lowered, page_offset, mode, code);
        made.second = second;
        made.stamps = stamps;
        self.spare = Some(block);
        self.stats.translate_ns += start.elapsed().as_nanos() as u64;
        if kept {
            self.cache.insert(made);
            Ok(Found::Cached(key))
        } else {
            self.transient = Some(made);
            Ok(Found::Transient)
        }
    }

    fn lift(&mut self, bytes: &[u8], limits: &Limits, mode: Mode) -> frontend_x86::Lifted {
        let builder = self
            .spare
            .take()
            .map_or_else(ir::Builder::new, ir::Builder::recycle);
        frontend_x86::lift_into(builder, bytes, limits, mode, &self.features)
    }

    /// Looks for changed code if anybody has written to code since the last look.
    fn check_code(&mut self, v: &mut Vcpu) {
        v.mmu.take_code_hit();
        let epoch = v.mmu.ram().code_epoch();
        if epoch != self.code_epoch {
            self.code_epoch = epoch;
            let ram = std::sync::Arc::clone(v.mmu.ram());
            self.cache.check_pages(&ram);
        }
    }

    /// Runs handlers from a block on until they come back.
    fn run_block(&mut self, v: &mut Vcpu, found: Found, mode: Mode) -> u32 {
        let entry = match found {
            Found::Cached(key) => self.cache.get(key).map(|b| b.entry()),
            Found::Transient => self.transient.as_deref().map(Block::entry),
        };
        let Some(mut op) = entry else {
            return exit::NEXT;
        };
        v.engine[word::MODE] = mode.bits();
        v.engine[word::JUMPS] = self.cache.jumps().as_ptr().addr() as u64;
        v.engine[word::REST] = self.rest.as_ptr().addr() as u64;
        loop {
            let code = (op.run)(v, op);
            if code != exit::CONTINUE {
                self.stats.exits[code as usize % 6] += 1;
                return code;
            }
            op = crate::code::continued(v);
        }
    }

    /// Runs chained blocks until the budget is used up or something is to be done.
    fn chained(&mut self, v: &mut Vcpu, mode: Mode) -> Result<(), Exception> {
        let mut found = self.find(v, mode, false)?;
        loop {
            let code = self.run_block(v, found, mode);
            match code {
                exit::LINK | exit::INDIRECT => {
                    let place = v.engine[if code == exit::LINK {
                        word::LINK
                    } else {
                        word::SITE
                    }];
                    if v.mmu.ram().code_epoch() != self.code_epoch {
                        return Ok(());
                    }
                    let drops = self.cache.drops;
                    found = self.find(v, mode, false)?;
                    // Making room may have dropped the block that the link belongs to.
                    if drops == self.cache.drops
                        && let Found::Cached(key) = found
                        && self.cache.get(key).is_some_and(|b| settled_for_good(b))
                    {
                        let (rip, map_gen) = (v.st.rip, v.mmu.generation(v.st.rip));
                        if code == exit::LINK {
                            self.cache.link(place, key, rip, map_gen);
                        } else {
                            self.cache.know(place, key, rip, map_gen);
                        }
                    }
                }
                exit::FAULT => return Err(v.exception.take().unwrap_or(Exception::UD)),
                exit::AGAIN => {
                    v.interrupt_repeat();
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }
}

impl Interp {
    /// Runs one instruction by itself, with the debug traps and shadows around it.
    fn step(&mut self, v: &mut Vcpu, mode: Mode) -> Result<(), Exception> {
        let step = v.begin_instruction()?;
        let found = self.find(v, mode, true)?;
        let budget = v.budget;
        // Nothing may follow the one block.
        v.engine[word::END] = v.retired + 1;
        v.budget = 1;
        let code = self.run_block(v, found, mode);
        let done = 1 - v.budget;
        v.budget = budget - done;
        v.retired += done.cast_unsigned();
        match code {
            exit::FAULT => {
                let e = v.exception.take().unwrap_or(Exception::UD);
                if e.is_trap() {
                    v.after_instruction(step);
                }
                Err(e)
            }
            exit::AGAIN => {
                v.interrupt_repeat();
                v.after_instruction(step);
                Ok(())
            }
            _ => {
                v.after_instruction(step);
                Ok(())
            }
        }
    }

    /// Runs on from an instruction boundary: one step, or blocks as far as they chain. `left` is what may still be done.
    fn go(&mut self, v: &mut Vcpu, left: u64) -> Result<(), Exception> {
        self.check_code(v);
        let mode = Mode::of(&v.st);
        v.event_mask = v.event_mask();
        if v.needs_step() || left <= u64::from(MAX_INSNS) {
            return self.step(v, mode);
        }
        // Chained blocks stop behind the one that uses the budget up: short of the last few, which are stepped.
        let budget = i64::try_from(left - u64::from(MAX_INSNS)).unwrap_or(i64::MAX);
        v.budget = budget;
        v.engine[word::END] = v.retired.wrapping_add(budget.cast_unsigned());
        let result = self.chained(v, mode);
        v.retired = v.engine[word::END].wrapping_sub(v.budget.cast_unsigned());
        result
    }
}

impl Engine for Interp {
    fn name(&self) -> &'static str {
        "interp"
    }

    fn run(&mut self, v: &mut Vcpu, budget: u64) -> Exit {
        let start = Instant::now();
        enter(v);
        let why = system::run(v, budget, |v, left| {
            let result = self.go(v, left);
            self.stats.exceptions += u64::from(result.is_err());
            result
        });
        host::fetch_mxcsr_flags(v);
        v.sync_flags();
        self.run_ns += start.elapsed().as_nanos() as u64;
        why
    }

    fn advance(&mut self, v: &mut Vcpu, limit: u64) -> Result<(), Exception> {
        enter(v);
        let result = self.go(v, limit.max(1));
        host::fetch_mxcsr_flags(v);
        v.sync_flags();
        result
    }

    fn report(&self, v: &Vcpu) -> Vec<String> {
        let s = self.stats();
        let per = |a: u64, b: u64| a as f64 / b.max(1) as f64;
        let (handlers, begun) = (v.engine[word::HANDLERS], v.engine[word::INSNS]);
        let ns = self.run_ns.saturating_sub(s.translate_ns);
        vec![
            format!(
                "instructions {} in {:.3} s: {:.2} ns each",
                v.retired,
                ns as f64 / 1e9,
                per(ns, v.retired)
            ),
            format!(
                "handlers {handlers}: {:.2} per instruction",
                per(handlers, begun)
            ),
            format!(
                "blocks {} ({} instructions, {} bytes, {} handlers) made in {:.3} s: {:.2} us each; cached {} ({} KiB)",
                s.blocks,
                s.insns,
                s.bytes,
                s.handlers,
                s.translate_ns as f64 / 1e9,
                per(s.translate_ns, s.blocks) / 1e3,
                self.cache.len(),
                self.cache.bytes() / 1024
            ),
            format!(
                "exits: link {} indirect {} fault {} next {} again {}; exceptions {}; stale blocks {}; cache flushes {}",
                s.exits[1],
                s.exits[2],
                s.exits[3],
                s.exits[4],
                s.exits[5],
                s.exceptions,
                s.invalidations,
                s.flushes
            ),
            format!("TLB misses {}", v.mmu.fills()),
        ]
    }

    fn forget(&mut self, v: &mut Vcpu) {
        self.cache.clear();
        self.transient = None;
        self.code_epoch = v.mmu.ram().code_epoch();
    }
}

/// What other Rust code left in the host's floating-point registers is not the guest's.
fn enter(v: &mut Vcpu) {
    let before = v.st.mxcsr;
    host::fetch_mxcsr_flags(v);
    v.st.mxcsr = before;
    crate::x87::enter(v);
}

/// A fetch that failed, as the exception that it raises.
fn fetch_fault(f: Fault) -> Exception {
    system::fault(f)
}

/// Whether a block's second page is still mapped behind its first.
fn same_second(v: &mut Vcpu, block: &Block, lin: u64) -> bool {
    let next = LinAddr((lin & !x86::PAGE_MASK).wrapping_add(PAGE_SIZE));
    block
        .second
        .is_none_or(|second| v.mmu.fetch_page(next).is_ok_and(|p| p.page.0 == second))
}

/// Whether no store to the block's code can have gone unseen.
fn settled_for_good(block: &Block) -> bool {
    block.stamps.iter().all(|stamp| stamp.is_trusted())
}

/// Whether the block may be entered: other vCPUs may still hold write permissions from before its pages became code.
fn settled(v: &Vcpu, block: &mut Block) -> bool {
    block
        .span()
        .is_current(&v.mmu, &mut block.stamps, &block.bytes)
}

/// Makes a stale block good again if its bytes are the same after all.
fn refreshed(v: &mut Vcpu, block: &mut Block) -> bool {
    let span = block.span();
    let Some(stamps) = span.mark(&mut v.mmu) else {
        return false;
    };
    block.stamps = stamps;
    block.stale = !span.holds(&v.mmu, &block.bytes);
    !block.stale
}
