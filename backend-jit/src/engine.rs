//! The run loop: finds the code at RIP, enters it, and sees to what it was left for.
#![expect(unsafe_code, reason = "translated code is called")]
// UNSAFETY: entering emitted code is a call of an address.

use std::sync::Arc;
use std::time::Instant;

use backend_interp::Interp;
use frontend_x86::{Features, Mode};
use system::{Engine, Exit, Vcpu};
use translation::{BlockId, CodeMemory, Perf};
use x86::Exception;

use crate::callouts;
use crate::core::{Core, Found, MAX_INSNS, code_segment, key, mode_of};
use crate::hops::By;
use crate::local::Local;
use crate::report::slow_kinds;
use crate::shared::{Cache, Shared};
use crate::trace::Tracing;
use crate::windows::{Use, Windows};
use crate::x64::emit::suitable;
use crate::x64::faults;
use crate::x64::frame::{Area, Frame, Jump, leave};
use crate::x64::runtime::{self, Vectors};

/// How the engine is to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of code memory.
    pub code_cache: usize,
    /// Bytes of blocks that the interpreter keeps for what is not translated.
    pub blocks: usize,
    /// Single instructions are translated too, instead of interpreted: for tests.
    pub single: bool,
    /// All code is treated as code that keeps changing: for tests.
    pub changing: bool,
    /// How all accesses find memory, if not by page: for tests.
    pub by: By,
    /// Whenever code is entered the page caches are empty, and name a page that was in one of them: for tests.
    pub astray: bool,
    /// Whether there are traces.
    pub traces: Tracing,
    /// Whether 32-bit code goes through windows of guest memory.
    pub windows: Use,
    /// What is shown of the blocks made.
    pub dump: crate::Dump,
    /// Where perf is told of translated code.
    pub perf: Option<Arc<Perf>>,
    /// Whom the code is shared with: the engines that have a clone of this.
    pub cache: Cache,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            code_cache: 64 << 20,
            blocks: backend_interp::MAX_CACHE,
            single: false,
            changing: false,
            by: By::Page,
            astray: false,
            traces: Tracing::Off,
            windows: Use::Never,
            dump: crate::Dump::default(),
            perf: None,
            cache: Cache::default(),
        }
    }
}

/// The translator, with the interpreter for what it leaves.
pub struct Jit {
    interp: Interp,
    /// `None`: the host lacks something, and everything is interpreted.
    machine: Option<(Box<Local>, Area)>,
    /// Single instructions are translated too.
    single: bool,
    /// All that runs is followed.
    eager: bool,
    /// The thread for hot code is wanted.
    traced: bool,
    exits: [u64; 10],
    exceptions: u64,
    run_ns: u64,
}

/// What a [`Jit`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks translated.
    pub blocks: u64,
    /// Those among them that compare their code on entry.
    pub checked: u64,
    /// Regions of code memory whose blocks were dropped.
    pub reclaimed: u64,
    /// Blocks that had to be compared since a store hit their code's lines.
    pub stale: u64,
    /// Stores for which Rust code was called.
    pub slow_writes: u64,
    /// Returns to the interpreter for an instruction.
    pub interpreted: u64,
    /// Accesses that found the page which empty page caches name.
    pub astray: u64,
    /// Accesses that were translated to go through a window, and how often one has faulted there.
    pub windowed: u64,
    /// See `windowed`.
    pub window_faults: u64,
    /// Traces made, and those among them that went again.
    pub traces: u64,
    /// See `traces`.
    pub lost_traces: u64,
}

/// What became of a run of translated code.
enum Ran {
    /// Look at events and mode.
    Look,
    /// Interpret the instruction at RIP.
    Interpret,
}

impl Jit {
    /// An engine for a CPU with these features.
    pub fn new(features: Features, options: Options) -> Self {
        let single = options.single;
        let mut interp = Interp::new(features);
        interp.set_max_cache(options.blocks);
        let traced = options.traces == Tracing::On;
        let eager = options.traces == Tracing::Eager;
        let machine = Self::machine(features, options);
        if machine.is_none() {
            tracing::warn!("this host cannot run translated code: interpreting");
        }
        Self {
            interp,
            machine,
            single,
            eager,
            traced,
            exits: [0; 10],
            exceptions: 0,
            run_ns: 0,
        }
    }

    fn machine(features: Features, options: Options) -> Option<(Box<Local>, Area)> {
        if !available() {
            return None;
        }
        let cache = options.cache.clone();
        let shared = cache.get(|| {
            let mut memory = CodeMemory::new(options.code_cache).ok()?;
            let stubs = runtime::build(&mut memory, &callouts::ALL, Vectors::of(&features))?;
            Some(Shared::new(|epochs| {
                let mut core = Core::new(memory, stubs, features, epochs);
                core.dump = options.dump;
                core.perf = options.perf;
                core.tell_stubs();
                core.traces.how = options.traces;
                core.changing.always = options.changing;
                core.hops.always = options.by;
                core
            }))
        })?;
        let mut windows = options.windows;
        if windows != Use::Never && !faults::available() {
            tracing::warn!(
                "no windows of guest memory on a host without FSGSBASE: going by the TLB"
            );
            windows = Use::Never;
        }
        faults::install().ok()?;
        let mut area = Area::new().ok()?;
        let core = shared.lock();
        let frame = area.get();
        frame.code = [core.memory.address(0), core.memory.size().into()];
        frame.fault_stub = core.memory.address(core.stubs.window);
        drop(core);
        let mut local = Box::new(Local::new(shared, Windows::new(windows)));
        local.astray = options.astray.then_some(0);
        Some((local, area))
    }

    /// Runs translated code from RIP on until it needs something else.
    fn translated(&mut self, v: &mut Vcpu, mode: Mode, bits: u64) -> Result<Ran, Exception> {
        let Some((local, area)) = &mut self.machine else {
            return Ok(Ran::Interpret);
        };
        let shared = Arc::clone(&local.shared);
        let pointer = area.pointer();
        let frame = area.get();
        frame.vcpu = std::ptr::from_mut(v);
        frame.local = std::ptr::from_mut::<Local>(local);
        frame.event_word = v.events.word().as_ptr().addr() as u64;
        frame.event_mask = v.event_mask();
        frame.mxcsr = v.st.mxcsr;
        frame.take_bases(v);
        (frame.ram, frame.lines) = v.mmu.ram().line_words();
        frame.ticks = callouts::ticks(v);
        let seat = Arc::as_ptr(&v.events).addr();
        if self.traced && local.seated != seat {
            local.seated = seat;
            if let Some(tier) = shared.tier() {
                tier.seat(local.cpu, &v.events);
            }
        }
        frame.follow(&v.mmu);
        let window = local.windows.consider(v, mode);
        let mut whole = mode.bits() | bits | callouts::state_bits(v) | window;
        let mut set = usize::from(mode.cpl() == 3);
        frame.running = whole;
        frame.tag = local.tag(frame, code_segment(v, whole), whole);
        if frame.tag == 0 && frame.modes[set] != whole {
            frame.modes[set] = whole;
            Jump::empty(&mut frame.jumps[set]);
        }
        let mut core = shared.lock();
        let Found::Block(mut id) = core.find(v, frame, whole, None)? else {
            return Ok(Ran::Interpret);
        };
        if bits & key::SINGLE == 0 {
            core.know(frame, id);
        }
        loop {
            let frame = area.get();
            let own = &core.blocks.get(id).own;
            let code = core.memory.address(own.entry);
            let enter = core.memory.address(core.stubs.enter) as usize as *const ();
            frame.follow(&v.mmu);
            if whole & key::WINDOW != 0 {
                let mode = mode_of(whole);
                if local.windows.bit(v, mode) == 0 {
                    // Making the block has closed it.
                    return Ok(Ran::Look);
                }
                faults::set_gs(local.windows.address(mode.cpl() == 3));
            }
            (frame.open, frame.views) = local.windows.told();
            if let Some(turn) = &mut local.astray {
                *turn = turn.wrapping_add(1);
                let otherwise = v.st.gpr[*turn % v.st.gpr.len()];
                frame.go_astray(v.st.code64().then_some((otherwise, *turn)));
            }
            faults::enter(pointer);
            local.enter(&core, frame);
            drop(core);
            // SAFETY: `runtime::build` put a function of this type there.
            let enter = unsafe {
                std::mem::transmute::<*const (), extern "sysv64" fn(*mut Frame, u64)>(enter)
            };
            enter(pointer, code);
            faults::enter(std::ptr::null_mut());
            let frame = area.get();
            core = shared.lock();
            shared.epochs.leave(local.cpu);
            v.st.mxcsr = frame.mxcsr;
            // It may have gone on in another mode.
            whole = frame.running;
            let mode = mode_of(whole);
            set = usize::from(mode.cpl() == 3);
            let why = frame.exit;
            self.exits[why as usize % 10] += 1;
            let found = match why {
                leave::LINK => {
                    let exit = core.exits.get(frame.info).copied();
                    let exit = exit.expect("code names its own exits");
                    v.st.rip = exit.target;
                    if local.count && frame.budget <= 0 {
                        return Ok(Ran::Look);
                    }
                    let number = frame.info;
                    // Numbers are good until a region is dropped.
                    let reclaimed = core.stats.reclaimed;
                    let found = core.find(v, frame, exit.mode, exit.flags)?;
                    if let Found::Block(to) = found
                        && core.stats.reclaimed == reclaimed
                        && core.settled_for_good(to)
                    {
                        core.link(number, to);
                        if core.record(local.cpu, exit.block, exit.ord, exit.target, to)
                            || (self.eager && core.sampled(local.cpu, to))
                        {
                            Jump::empty(&mut frame.jumps[set]);
                        }
                    }
                    found
                }
                leave::INDIRECT => {
                    let exit = core.indirects.get(frame.info).copied();
                    let (block, indirect) = exit.expect("code names its own exits");
                    v.st.rip = frame.ret;
                    if frame.tag != 0 {
                        let base = v.seg(x86::Seg::Cs).base;
                        v.st.rip = frame.ret.wrapping_sub(base) & 0xffff_ffff;
                    }
                    let inside = if mode.code64() {
                        v.is_canonical(v.st.rip)
                    } else {
                        v.st.rip <= u64::from(v.seg(x86::Seg::Cs).limit)
                    };
                    if !inside {
                        let info = core.blocks.get(block);
                        v.st.rip = info.key.ip().wrapping_add_signed(i64::from(indirect.delta));
                        let rsp = &mut v.st.gpr[x86::Gpr::Rsp as usize];
                        *rsp = rsp.wrapping_add_signed(-i64::from(indirect.released));
                        if local.count {
                            // The instruction is not done.
                            frame.budget += 1;
                        }
                        return Err(Exception::GP0);
                    }
                    if local.count && frame.budget <= 0 {
                        return Ok(Ran::Look);
                    }
                    let rip = v.st.rip;
                    let reclaimed = core.stats.reclaimed;
                    let found = core.find(v, frame, whole, None)?;
                    if let Found::Block(to) = found {
                        if core.stats.reclaimed == reclaimed
                            && core.record(local.cpu, block, indirect.ord, rip, to)
                        {
                            Jump::empty(&mut frame.jumps[set]);
                        }
                        core.know(frame, to);
                    }
                    found
                }
                leave::STALE | leave::POLL | leave::PAGE => {
                    let info = core.blocks.get(BlockId(frame.info));
                    v.st.rip = info.key.ip();
                    let (flags, its_mode) = (info.own.flags, info.key.mode);
                    if let Some(desc) = flags {
                        v.flags = desc.evaluate(v);
                    }
                    if why == leave::POLL {
                        // A trace may be longer than what is left.
                        let left = i64::from(MAX_INSNS) + 1..i64::from(info.own.insns);
                        let short = local.count && left.contains(&frame.budget);
                        if short && v.events.pending() & frame.event_mask == 0 {
                            return Ok(Ran::Interpret);
                        }
                        if core.sampled(local.cpu, BlockId(frame.info)) {
                            Jump::empty(&mut frame.jumps[set]);
                        }
                        if let Some(tier) = &core.traces.tier {
                            tier.wake();
                        }
                        return Ok(Ran::Look);
                    }
                    if local.count && frame.budget <= 0 {
                        return Ok(Ran::Look);
                    }
                    if why == leave::STALE && v.mmu.ram().code_epoch() != local.code_epoch {
                        return Ok(Ran::Look);
                    }
                    let found = core.find(v, frame, its_mode, flags)?;
                    // It may have been the jump cache that knew a block which was replaced.
                    if let Found::Block(to) = found
                        && why == leave::STALE
                        && flags.is_none()
                        && (frame.modes[set] == its_mode || frame.tag != 0 && whole == its_mode)
                    {
                        core.know(frame, to);
                    }
                    found
                }
                leave::FAULT => return Err(v.exception.take().unwrap_or(Exception::UD)),
                leave::AGAIN => {
                    v.interrupt_repeat();
                    return Ok(Ran::Look);
                }
                leave::INTERPRET => {
                    callouts::interpret(frame, v, &core);
                    return Ok(Ran::Interpret);
                }
                _ => return Ok(Ran::Look),
            };
            match found {
                Found::Block(next) => id = next,
                Found::Interpret => return Ok(Ran::Interpret),
            }
        }
    }

    /// Runs on from an instruction boundary, at most `left` instructions.
    fn go(&mut self, v: &mut Vcpu, left: u64) -> Result<(), Exception> {
        self.check_code(v);
        let mode = Mode::of(&v.st);
        if self.machine.is_none() || !suitable(mode) {
            return self.interp.advance(v, left);
        }
        if v.needs_step() {
            return self.interp.advance(v, 1);
        }
        let mut bits = 0;
        let mut budget = i64::MAX / 2;
        if left < 1 << 36 {
            bits |= key::COUNT;
            budget = left.cast_signed();
            if self.single && left == 1 {
                bits |= key::SINGLE;
            }
            if left <= u64::from(MAX_INSNS) && bits & key::SINGLE == 0 {
                return self.interp.advance(v, 1);
            }
        }
        if let Some((local, area)) = &mut self.machine {
            local.cpu = v.mmu.cpu();
            local.count = bits & key::COUNT != 0;
            local.end = v.retired.wrapping_add(budget.cast_unsigned());
            area.get().budget = budget;
        }
        let ran = self.translated(v, mode, bits);
        if let Some((local, area)) = &mut self.machine {
            crate::x87::store(area.get(), v);
            if local.count {
                v.retired = local.end.wrapping_sub(area.get().budget.cast_unsigned());
            }
        }
        match ran? {
            Ran::Look => Ok(()),
            Ran::Interpret if bits != 0 => self.interp.advance(v, 1),
            // Where instructions aren't counted, one block of the interpreter's.
            Ran::Interpret => self.interp.advance(v, u64::from(MAX_INSNS) + 1),
        }
    }

    /// What has been done so far, by all that share the code; nothing where the host cannot run translated code.
    pub fn counts(&self) -> Counts {
        let Some((local, _)) = &self.machine else {
            return Counts::default();
        };
        let core = local.shared.lock();
        Counts {
            blocks: core.stats.blocks,
            checked: core.stats.checked,
            reclaimed: core.stats.reclaimed,
            stale: core.blocks.invalidations,
            slow_writes: local.counts.writes,
            interpreted: self.exits[leave::INTERPRET as usize],
            astray: local.counts.astray,
            window_faults: local.windows.counts.faults,
            windowed: core.stats.windowed,
            traces: core.traces.stats.made,
            lost_traces: core.traces.stats.lost,
        }
    }

    /// Looks into the cache.
    #[cfg(test)]
    pub(crate) fn with_core(&mut self, look: impl FnOnce(&Core, &Frame)) {
        if let Some((local, area)) = &mut self.machine {
            let shared = Arc::clone(&local.shared);
            let core = shared.lock();
            // As when it goes on.
            local.enter(&core, area.get());
            shared.epochs.leave(local.cpu);
            look(&core, area.get());
        }
    }

    fn check_code(&mut self, v: &mut Vcpu) {
        let Some((local, _)) = &mut self.machine else {
            return;
        };
        v.mmu.take_code_hit();
        let epoch = v.mmu.ram().code_epoch();
        let hits = v.mmu.take_hits();
        if epoch != local.code_epoch {
            let seen = std::mem::replace(&mut local.code_epoch, epoch);
            local.shared.lock().check_code(v, hits, seen, epoch);
        }
    }
}

/// Whether this host's CPU runs what the translator emits.
pub fn available() -> bool {
    ["bmi1", "bmi2", "lzcnt", "popcnt", "sse4.2"]
        .iter()
        .all(|f| host_has(f))
}

/// Whether the host CPU has a feature.
fn host_has(feature: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        match feature {
            "bmi1" => is_x86_feature_detected!("bmi1"),
            "bmi2" => is_x86_feature_detected!("bmi2"),
            "lzcnt" => is_x86_feature_detected!("lzcnt"),
            "popcnt" => is_x86_feature_detected!("popcnt"),
            _ => is_x86_feature_detected!("sse4.2"),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = feature;
        false
    }
}

impl Engine for Jit {
    fn name(&self) -> &'static str {
        "jit"
    }

    fn run(&mut self, v: &mut Vcpu, budget: u64) -> Exit {
        let start = Instant::now();
        backend_interp::enter(v);
        let why = system::run(v, budget, |v, left| {
            let result = self.go(v, left);
            self.exceptions += u64::from(result.is_err());
            result
        });
        v.sync_flags();
        self.run_ns += start.elapsed().as_nanos() as u64;
        why
    }

    fn advance(&mut self, v: &mut Vcpu, limit: u64) -> Result<(), Exception> {
        backend_interp::enter(v);
        let result = self.go(v, limit.max(1));
        v.sync_flags();
        result
    }

    fn report(&self, v: &Vcpu) -> Vec<String> {
        let Some((local, _)) = &self.machine else {
            return self.interp.report(v);
        };
        let core = local.shared.lock();
        let (s, c) = (core.stats, local.counts);
        let w = local.windows.counts;
        let per = |a: u64, b: u64| a as f64 / b.max(1) as f64;
        let (hot, cold) = core.memory.used();
        let e = self.exits;
        let kinds: Vec<String> = slow_kinds(local.kinds())
            .into_iter()
            .take(12)
            .map(|(name, runs)| format!("{name} {runs}"))
            .collect();
        let mut lines = vec![
            format!("slow ops most run: {}", kinds.join(", ")),
            format!("ran {:.3} s", self.run_ns as f64 / 1e9),
            format!(
                "blocks {} ({} instructions, {} guest bytes) made in {:.3} s: {:.2} us an instruction; {} for flags in registers; {} copied from {} originals ({} others differ by place)",
                s.blocks,
                s.insns,
                s.bytes,
                s.translate_ns as f64 / 1e9,
                per(s.translate_ns, s.insns) / 1e3,
                s.variants,
                core.copies.copied,
                core.copies.kept,
                core.copies.unlike,
            ),
            format!(
                "host code {} bytes hot ({:.2} a guest byte), {} cold ({:.2}); cache {} KiB of {} KiB in {} regions, reclaimed {}",
                s.hot,
                per(s.hot, s.bytes),
                s.cold,
                per(s.cold, s.bytes),
                (hot + cold) / 1024,
                core.memory.size() / 1024,
                core.memory.regions(),
                s.reclaimed
            ),
            core.traces.report(),
            format!(
                "{} blocks that check themselves; exits: link {} indirect {} fault {} next {} again {} interpret {} stale {} poll {} page {}; exceptions {}; stale blocks {}",
                s.checked,
                e[1],
                e[2],
                e[3],
                e[4],
                e[5],
                e[6],
                e[7],
                e[8],
                e[9],
                self.exceptions,
                core.blocks.invalidations
            ),
            format!(
                "slow ops {} at {} places, {} went on elsewhere; slow reads {} writes {}; TLB misses {}",
                c.slow_runs,
                s.slow_sites,
                c.resumed,
                c.reads,
                c.writes,
                v.mmu.fills()
            ),
        ];
        if local.windows.any() {
            lines.push(format!(
                "windows opened {}, pages shown {}, faults {}; instructions that go by the TLB after all {}",
                w.opened, w.shown, w.faults, s.blind
            ));
        }
        if v.mmu.cpu() != 0 {
            // They are about what all share.
            lines.drain(2..5);
        }
        lines
    }

    fn code(&self, v: &Vcpu) -> Option<String> {
        let (local, _) = self.machine.as_ref()?;
        local.shared.lock().listing(v)
    }

    fn forget(&mut self, v: &mut Vcpu) {
        self.interp.forget(v);
        if let Some((local, area)) = &mut self.machine {
            local.shared.lock().clear();
            area.get().pages.fill(0);
        }
        self.check_code(v);
    }
}
