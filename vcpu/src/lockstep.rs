//! Two engines in lock-step (`--verify`): one leads and owns the devices, the other follows on what the first got from
//! them, and wherever both have come equally far they must be the same.
//!
//! ```text
//! leader's vCPUs ──Tap──► board        the tap notes all that comes from outside in the Log
//!       │ turns, up to INTERVAL instructions; blocks are chained as always
//! follower's vCPUs ◄─Tap── Log         the same turns on a copy of RAM
//!       └─ compare: equal ─► the pages written go to a third copy, the last equal point
//!                   not ──► both go back to it; runs of half the length find the first instruction after which they
//!                           differ; what may differ (undefined flags, images of the x87 pointers) is made equal, all
//!                           else is reported
//! ```
//! Instructions are counted as time, vCPUs take turns on one thread. When something is run again the leader, too, is fed
//! from the log: devices never go back.

mod compare;
mod log;
mod report;
mod tap;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use frontend_x86::Features;
use softmmu::{Bus, GuestRam, Mmu, RamError};
use system::{CpuModel, Current, Engine, Events, Exit, Platform, Vcpu, event};
use x86::{CpuState, PAGE_SIZE, PhysAddr};

use crate::Cpu;
use compare::Differences;
pub use log::Log;
pub use report::Difference;
use report::Undefined;
pub use tap::Tap;
use turn::{Runner, Turn};

/// Instructions between two comparisons, about.
const INTERVAL: u64 = 1 << 17;
/// Turns between two comparisons at most.
const TURNS: usize = 1 << 12;
/// Where a difference is looked for first.
const FIRST: u64 = 1 << 10;
/// Instructions that a report lists before the one that differs: if it goes wrong when it runs alone, and if not.
const TRACES: [u64; 2] = [20, 80];

/// A vCPU's state at the last point where both sides were equal.
#[derive(Clone)]
struct Saved {
    st: CpuState,
    retired: u64,
    delivered: u64,
    random: u64,
    pending_debug: u64,
    pauses: u32,
}

impl Saved {
    fn of(v: &Vcpu, delivered: u64) -> Self {
        Self {
            st: v.st.clone(),
            retired: v.retired,
            delivered,
            random: v.random,
            pending_debug: v.pending_debug,
            pauses: v.pauses,
        }
    }

    fn restore(&self, v: &mut Vcpu) -> u64 {
        v.load_state(self.st.clone());
        v.retired = self.retired;
        v.random = self.random;
        v.pending_debug = self.pending_debug;
        v.pauses = self.pauses;
        self.delivered
    }
}

/// One of the two sides: the leader's or the follower's.
struct Side {
    ram: Arc<GuestRam>,
    tap: Arc<Tap>,
    delivered: Vec<u64>,
    saved: Vec<Saved>,
}

/// The last point where both sides were equal.
#[derive(Clone, Copy, Default)]
struct Base {
    /// The turn in which it lies.
    turn: usize,
    /// The turn in which the last probe ended.
    reached: usize,
    cursor: usize,
    a20: bool,
}

/// Two sides and what is known of both.
pub struct Lockstep {
    leader: Side,
    follower: Side,
    /// The follower's vCPUs.
    cpus: Vec<Cpu>,
    events: Vec<Arc<Events>>,
    /// RAM at the last equal point.
    shadow: GuestRam,
    /// Pages that either side may have written since.
    touched: BTreeSet<u64>,
    log: Arc<Log>,
    turns: Vec<Turn>,
    base: Base,
    pending: u64,
    features: Features,
    names: [&'static str; 2],
    /// Comparisons made; differences in undefined flags, in images of AF, and of the x87 pointers.
    counts: [u64; 4],
    /// Which status flags were undefined where the follower's vCPUs last stopped.
    undefined: Vec<Undefined>,
}

/// What a [`Lockstep`] is made from.
pub struct LockstepConfig {
    /// The leader's RAM, still untouched.
    pub ram: Arc<GuestRam>,
    /// Its size in bytes.
    pub mem: u64,
    /// The CPU model of both.
    pub model: Arc<CpuModel>,
    /// What the board's devices do to RAM, and the A20 gate, is noted here.
    pub log: Arc<Log>,
    /// The board.
    pub board: Arc<dyn Platform>,
    /// The event words of the leader's vCPUs.
    pub events: Vec<Arc<Events>>,
    /// The leader's engine's name.
    pub leader: &'static str,
    /// The follower's engines, one a vCPU.
    pub engines: Vec<Box<dyn Engine>>,
}

impl Lockstep {
    /// A follower for the leader that is told of.
    pub fn new(config: LockstepConfig) -> Result<Self, RamError> {
        let ram = Arc::new(GuestRam::new(config.mem)?);
        let shadow = GuestRam::new(config.mem)?;
        config.ram.set_dirty_log(true);
        ram.set_dirty_log(true);
        let cpus = config.engines.len();
        let undefined = vec![Undefined::default(); cpus];
        let events: Vec<_> = (0..cpus).map(|_| Arc::new(Events::default())).collect();
        let kicked = events.clone();
        ram.set_kick(Box::new(move |cpu| {
            if let Some(events) = kicked.get(cpu) {
                events.raise(event::CODE);
            }
        }));
        let tap = |ram: &Arc<GuestRam>, events: &[Arc<Events>], live| {
            let (log, board) = (Arc::clone(&config.log), Arc::clone(&config.board));
            Arc::new(Tap::new(log, board, Arc::clone(ram), events.to_vec(), live))
        };
        let leader = Side {
            tap: tap(&config.ram, &config.events, true),
            ram: config.ram,
            delivered: vec![0; cpus],
            saved: Vec::new(),
        };
        let follower = Side {
            tap: tap(&ram, &events, false),
            ram,
            delivered: vec![0; cpus],
            saved: Vec::new(),
        };
        let name = config.engines.first().map_or("nobody", |e| e.name());
        let cpus = config
            .engines
            .into_iter()
            .enumerate()
            .map(|(index, engine)| {
                let bus = Arc::clone(&follower.tap) as Arc<dyn Bus>;
                let platform = Arc::clone(&follower.tap) as Arc<dyn Platform>;
                let width = config.model.maxphyaddr();
                let mut mmu = Mmu::new(index, Arc::clone(&follower.ram), bus, width);
                mmu.park();
                let events = Arc::clone(&events[index]);
                let model = Arc::clone(&config.model);
                Cpu::new(Vcpu::new(index, model, mmu, events, platform), engine)
            })
            .collect();
        let names = if name == config.leader {
            ["leader", "follower"]
        } else {
            [config.leader, name]
        };
        Ok(Self {
            leader,
            follower,
            cpus,
            events: config.events,
            shadow,
            touched: BTreeSet::new(),
            log: config.log,
            turns: Vec::new(),
            base: Base::default(),
            pending: 0,
            features: Features::new(&config.model.features_iced()),
            names,
            counts: [0; 4],
            undefined,
        })
    }

    /// What stands between the leader's vCPUs and the board.
    pub fn tap(&self) -> Arc<Tap> {
        Arc::clone(&self.leader.tap)
    }

    /// Makes the follower what the leader is, after a loader or a reset has changed vCPUs and RAM. Everything before
    /// has been compared.
    pub fn follow(&mut self, leaders: &mut [Cpu]) {
        for (n, (leader, follower)) in leaders.iter_mut().zip(&mut self.cpus).enumerate() {
            leader.vcpu.mmu.park();
            Saved::of(&leader.vcpu, self.leader.delivered[n]).restore(&mut follower.vcpu);
            self.follower.delivered[n] = self.leader.delivered[n];
            follower.engine.forget(&mut follower.vcpu);
        }
        self.follower.ram.set_a20(self.leader.ram.a20());
        self.collect();
        let mut bytes = [0; PAGE_SIZE as usize];
        for &page in &self.touched {
            if compare::read(&self.leader.ram, page, &mut bytes) {
                // Both have the leader's layout.
                let _ = self.follower.ram.load_bytes(PhysAddr(page), &bytes);
            }
        }
        self.commit(leaders, None);
    }

    /// Has vCPU `index` of the leader take a turn of `budget` instructions, the raw TSC at its start being `tsc`, and
    /// compares when enough has gathered.
    pub fn turn(
        &mut self,
        leaders: &mut [Cpu],
        index: usize,
        budget: u64,
        tsc: u64,
    ) -> Result<Exit, Box<Difference>> {
        let leader = &mut leaders[index];
        let start = leader.vcpu.retired;
        let tsc_base = tsc.wrapping_sub(start);
        let exit = on(
            leader,
            &mut self.leader.delivered[index],
            tsc_base,
            None,
            |r| r.lead(&self.log, budget),
        );
        let end = leader.vcpu.retired;
        self.turns.push(Turn {
            cpu: index,
            tsc_base,
            start,
            end,
            delivered: self.leader.delivered[index],
            log_end: self.log.len(),
        });
        self.pending += end - start;
        if self.pending >= INTERVAL || self.turns.len() >= TURNS || self.log.is_full() {
            self.check(leaders)?;
        }
        Ok(exit)
    }

    /// Has the follower catch up, and compares.
    pub fn check(&mut self, leaders: &mut [Cpu]) -> Result<(), Box<Difference>> {
        if self.turns.is_empty() {
            return Ok(());
        }
        for (leader, follower) in leaders.iter().zip(&mut self.cpus) {
            if leader.vcpu.warned.len() != follower.vcpu.warned.len() {
                // One warning is enough.
                follower.vcpu.warned.clone_from(&leader.vcpu.warned);
            }
        }
        self.undefined.fill(Undefined::default());
        let ran = follow(
            &mut self.cpus,
            &mut self.follower,
            &self.turns,
            &self.features,
            &mut self.undefined,
        );
        let Some(first) = self.compare(leaders, ran) else {
            self.commit(leaders, None);
            return Ok(());
        };
        let excused = |&(cpu, diff): &(usize, u64)| diff & !self.undefined[cpu].0 == 0;
        if first.flags.iter().all(excused) && self.even_out_images(leaders, &first) {
            self.commit(leaders, None);
            return Ok(());
        }
        // The board's events belong to what comes later.
        let up: Vec<u32> = self.events.iter().map(|e| e.pending()).collect();
        self.events.iter().for_each(|e| e.lower(u32::MAX));
        self.leader.tap.set_live(false);
        self.narrow(leaders, &first)?;
        self.leader.tap.set_live(true);
        for (events, bits) in self.events.iter().zip(up) {
            events.raise(bits);
        }
        Ok(())
    }

    /// Gives the follower the leader's status flags where they differ.
    fn even_out(&mut self, leaders: &[Cpu], found: &Differences) {
        for &(cpu, diff) in &found.flags {
            self.counts[1] += 1;
            let (from, to) = (&leaders[cpu].vcpu, &mut self.cpus[cpu].vcpu);
            to.set_rflags(to.rflags() & !diff | from.rflags() & diff);
        }
    }

    /// If status flags that are known to be undefined, and images of AF, are all that differs: gives the follower the
    /// leader's.
    fn even_out_images(&mut self, leaders: &[Cpu], found: &Differences) -> bool {
        let (from, to) = (&self.leader.ram, &self.follower.ram);
        if found.more {
            return false;
        }
        let differ = if found.memory {
            compare::bytes(from, to, &self.touched)
        } else {
            Vec::new()
        };
        let image = |&at: &u64| {
            let (a, b) = (from.read_u32(PhysAddr(at)), to.read_u32(PhysAddr(at)));
            matches!((a, b), (Ok(a), Ok(b)) if at % 4 == 0 && compare::was_image(a, b))
        };
        if !differ.iter().all(image) {
            return false;
        }
        let copied = differ.iter().all(|&at| {
            from.read_u8(PhysAddr(at))
                .and_then(|value| to.write_u8(PhysAddr(at), value))
                .is_ok()
        });
        for &(cpu, register) in &found.images {
            self.cpus[cpu].vcpu.st.gpr[register] = leaders[cpu].vcpu.st.gpr[register];
        }
        self.counts[2] += (differ.len() + found.images.len()) as u64;
        self.even_out(leaders, found);
        copied
    }

    /// Gives the follower's RAM the leader's bytes at these addresses, if nothing else differs.
    fn even_out_memory(&mut self, at: &[u64]) -> bool {
        let (from, to) = (&self.leader.ram, &self.follower.ram);
        let differ = compare::bytes(from, to, &self.touched);
        if !differ.iter().all(|byte| at.contains(byte)) {
            return false;
        }
        self.counts[3] += 1;
        differ.iter().all(|&byte| {
            from.read_u8(PhysAddr(byte))
                .and_then(|value| to.write_u8(PhysAddr(byte), value))
                .is_ok()
        })
    }

    /// What `--stats` tells.
    pub fn report(&self) -> String {
        format!(
            "verify: compared {} times; made equal: undefined flags {} times, AF where flags were saved {} times, x87 \
             pointers {} times",
            self.counts[0], self.counts[1], self.counts[2], self.counts[3]
        )
    }

    /// Finds the first instruction after which the sides differ. If that is only in what is undefined, and so all the
    /// way to the interval's end, there is no difference.
    fn narrow(&mut self, leaders: &mut [Cpu], first: &Differences) -> Result<(), Box<Difference>> {
        let mut excuses = false;
        loop {
            let total = self.pending;
            match self.probe(leaders, total) {
                None if !excuses => return Err(self.vanished(leaders, first)),
                Some(found)
                    if !found.flags.is_empty() || !self.even_out_images(leaders, &found) => {}
                _ => {
                    self.commit(leaders, None);
                    return Ok(());
                }
            }
            // The first is near more often than not.
            let (mut low, mut high) = (0, FIRST.min(total));
            while high < total && self.probe(leaders, high).is_none() {
                (low, high) = (high, (high * 4).min(total));
            }
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if self.probe(leaders, middle).is_some() {
                    high = middle;
                } else {
                    low = middle;
                }
            }
            self.probe(leaders, low);
            let cpu = self.next();
            let v = &self.cpus[cpu].vcpu;
            let insn = report::instruction(v, &self.features);
            let pointers = insn.map_or_else(Vec::new, |insn| report::x87_pointers(&insn, v));
            let before = self.undefined[cpu].0;
            let Some(found) = self.probe(leaders, high) else {
                return Err(self.vanished(leaders, first));
            };
            // What an instruction in front left may show only now: a shift by 0 keeps it, and engines make a whole of several.
            let undefined = self.undefined[cpu].0;
            let excused = |&(index, diff): &(usize, u64)| index == cpu && diff & !undefined == 0;
            // SYSCALL stores an image of what it changes itself.
            let images = (before | undefined) & x86::flags::AF != 0;
            if found.flags.iter().all(excused)
                && (images || found.only_flags())
                && self.even_out_images(leaders, &found)
            {
                excuses = true;
                self.commit(leaders, Some(high));
                continue;
            }
            if found.only_memory() && self.even_out_memory(&pointers) {
                excuses = true;
                self.commit(leaders, Some(high));
                continue;
            }
            return Err(self.difference(leaders, cpu, [low, high], &found));
        }
    }

    /// Runs both sides `count` instructions on from the last equal point, the whole interval if it is `pending`, and
    /// compares.
    fn probe(&mut self, leaders: &mut [Cpu], count: u64) -> Option<Differences> {
        self.rollback(leaders);
        let (first, whole) = (self.base.turn, count == self.pending);
        let turns = &self.turns;
        let (turn, led) = run(leaders, &mut self.leader, turns, first, count, whole, None);
        self.base.reached = turn;
        self.undefined.fill(Undefined::default());
        let watch = Some((&self.features, &mut self.undefined[..]));
        let (cpus, side) = (&mut self.cpus, &mut self.follower);
        let (_, followed) = run(cpus, side, turns, first, count, whole, watch);
        self.compare(leaders, led.and(followed))
    }

    /// The vCPU whose instruction comes next after a probe.
    fn next(&self) -> usize {
        self.turns
            .iter()
            .skip(self.base.reached)
            .find(|turn| turn.end > self.cpus[turn.cpu].vcpu.retired)
            .map_or(0, |turn| turn.cpu)
    }

    /// Notes the pages written since it was asked last.
    fn collect(&mut self) {
        let touched = &mut self.touched;
        for ram in [&self.leader.ram, &self.follower.ram] {
            // The vCPUs are parked: they synchronise before they run again.
            ram.take_dirty(|page| {
                touched.insert(page.0);
            });
        }
    }

    /// How the sides differ, if they do; `ran` is what went wrong on the way.
    fn compare(&mut self, leaders: &[Cpu], ran: Result<(), String>) -> Option<Differences> {
        self.counts[0] += 1;
        self.collect();
        let pairs = leaders
            .iter()
            .zip(&self.cpus)
            .map(|(a, b)| (&*a.vcpu, &*b.vcpu));
        let states = compare::vcpus(pairs, self.names);
        let pages = compare::pages(
            &self.leader.ram,
            &self.follower.ram,
            &self.touched,
            self.names,
        );
        if states.is_none() && pages.is_none() && ran.is_ok() {
            return None;
        }
        let mut found = states.unwrap_or_default();
        found.memory = pages.is_some();
        found.more |= ran.is_err();
        found.text.push_str(&pages.unwrap_or_default());
        if let Err(text) = ran {
            found.text.push_str("  ");
            found.text.push_str(&text);
            found.text.push('\n');
        }
        Some(found)
    }

    /// Both sides are equal here: `count` instructions after the last such point, or at the interval's end.
    fn commit(&mut self, leaders: &[Cpu], count: Option<u64>) {
        for (leader, follower) in leaders.iter().zip(&mut self.cpus) {
            let (from, to) = (&leader.vcpu.st.fpu, &mut follower.vcpu.st.fpu);
            // Not compared, but images hold them.
            (to.fop, to.fcs, to.fds) = (from.fop, from.fcs, from.fds);
            (to.fip, to.fdp) = (from.fip, from.fdp);
        }
        let mut bytes = [0; PAGE_SIZE as usize];
        for &page in &self.touched {
            if compare::read(&self.leader.ram, page, &mut bytes) {
                // It has the leader's layout.
                let _ = self.shadow.load_bytes(PhysAddr(page), &bytes);
            }
        }
        self.touched.clear();
        for (side, cpus) in [
            (&mut self.leader, leaders),
            (&mut self.follower, &self.cpus),
        ] {
            side.saved.clear();
            for (cpu, delivered) in cpus.iter().zip(&side.delivered) {
                side.saved.push(Saved::of(&cpu.vcpu, *delivered));
            }
        }
        let a20 = self.leader.ram.a20();
        if let Some(count) = count {
            self.pending -= count;
            self.base = Base {
                turn: self.base.reached,
                reached: self.base.reached,
                cursor: self.follower.tap.cursor(),
                a20,
            };
            return;
        }
        self.pending = 0;
        self.turns.clear();
        self.log.clear();
        self.base = Base {
            a20,
            ..Base::default()
        };
        self.leader.tap.seek(0);
        self.follower.tap.seek(0);
    }

    /// Brings both sides back to the last equal point.
    fn rollback(&mut self, leaders: &mut [Cpu]) {
        self.collect();
        let mut bytes = [0; PAGE_SIZE as usize];
        for &page in &self.touched {
            if compare::read(&self.shadow, page, &mut bytes) {
                for ram in [&self.leader.ram, &self.follower.ram] {
                    // They have the same layout.
                    let _ = ram.load_bytes(PhysAddr(page), &bytes);
                }
            }
        }
        for (side, cpus) in [
            (&mut self.leader, leaders),
            (&mut self.follower, &mut self.cpus),
        ] {
            side.ram.set_a20(self.base.a20);
            side.tap.seek(self.base.cursor);
            for ((saved, cpu), delivered) in side.saved.iter().zip(cpus).zip(&mut side.delivered) {
                *delivered = saved.restore(&mut cpu.vcpu);
            }
        }
    }

    /// A difference that came once and not again.
    fn vanished(&mut self, leaders: &[Cpu], first: &Differences) -> Box<Difference> {
        let v = &leaders[self.turns.last().map_or(0, |turn| turn.cpu)].vcpu;
        let text = format!(
            "{} and {} differed once after {} instructions, and did not when they ran them again: code that had been \
             translated before is suspect\n{}",
            self.names[0], self.names[1], self.pending, first.text
        );
        Box::new(Difference {
            cpu: v.index,
            retired: v.retired,
            rip: v.st.rip,
            alone: false,
            text,
        })
    }

    /// Describes a difference between instructions `low` and `high` after the last equal point.
    fn difference(
        &mut self,
        leaders: &mut [Cpu],
        cpu: usize,
        [low, high]: [u64; 2],
        found: &Differences,
    ) -> Box<Difference> {
        // Does it go wrong by itself?
        self.probe(leaders, low);
        let at = self.base.reached;
        let (_, led) = run(leaders, &mut self.leader, &self.turns, at, 1, false, None);
        let (_, followed) = run(
            &mut self.cpus,
            &mut self.follower,
            &self.turns,
            at,
            1,
            false,
            None,
        );
        let alone = self.compare(leaders, led.and(followed)).is_some();
        // What led to it, as the follower ran it.
        let start = low.saturating_sub(TRACES[usize::from(!alone)]);
        self.probe(leaders, start);
        let mut trace = String::new();
        for _ in start..low {
            let v = &self.cpus[self.next()].vcpu;
            trace.push_str(&format!(
                "  vCPU {} {}\n",
                v.index,
                report::line(v, &self.features)
            ));
            let at = self.base.reached;
            let (turn, _) = run(
                &mut self.cpus,
                &mut self.follower,
                &self.turns,
                at,
                1,
                false,
                None,
            );
            self.base.reached = turn;
        }
        let alone_text = if alone {
            ""
        } else {
            "but not when it runs alone: one of those before it goes wrong in a block of several\n"
        };
        self.probe(leaders, low);
        let v = &self.cpus[cpu].vcpu;
        let (retired, rip) = (v.retired, v.st.rip);
        let mut codes = String::new();
        for (name, cpu) in [
            (self.names[0], &leaders[cpu]),
            (self.names[1], &self.cpus[cpu]),
        ] {
            if let Some(code) = cpu.engine.code(&cpu.vcpu) {
                codes.push_str(&format!("{name}'s host code:\n{code}"));
            }
        }
        let mut text = format!(
            "{} and {} differ after instruction {} of vCPU {cpu}, {} instructions after they were last compared equal:\n  {}\n{alone_text}\
             IR:\n{}\n{codes}{}the follower ran before it:\n{trace}before:\n{}\n",
            self.names[0],
            self.names[1],
            retired + 1,
            high,
            report::line(v, &self.features),
            report::ir(v, &self.features).trim_end(),
            found.text,
            v.dump(),
        );
        self.probe(leaders, high);
        for (name, v) in [
            (self.names[0], &leaders[cpu].vcpu),
            (self.names[1], &self.cpus[cpu].vcpu),
        ] {
            text.push_str(&format!("{name} after it:\n{}\n", v.dump()));
        }
        Box::new(Difference {
            cpu,
            retired,
            rip,
            alone,
            text,
        })
    }
}

/// Takes turns again from turn `first` on, `count` instructions, or (`whole`) all there are. Returns the turn in which
/// it ended, and what went otherwise than the first time; and which status flags are undefined then, if that is watched.
fn run(
    cpus: &mut [Cpu],
    side: &mut Side,
    turns: &[Turn],
    first: usize,
    count: u64,
    whole: bool,
    mut watch: Option<(&Features, &mut [Undefined])>,
) -> (usize, Result<(), String>) {
    let mut left = count;
    for (number, turn) in turns.iter().enumerate().skip(first) {
        if left == 0 && !whole {
            return (number, Ok(()));
        }
        let cpu = &mut cpus[turn.cpu];
        let retired = cpu.vcpu.retired;
        let todo = turn.end.saturating_sub(retired);
        let limit = if whole {
            turn.end
        } else {
            retired + todo.min(left)
        };
        let delivered = &mut side.delivered[turn.cpu];
        let watch = watch.as_mut().map(|(f, all)| (*f, &mut all[turn.cpu]));
        let result = on(cpu, delivered, turn.tsc_base, watch, |r| {
            r.replay(&side.tap, turn, limit)
        });
        left = left.saturating_sub(todo);
        if result.is_err() || limit < turn.end {
            return (number, result);
        }
    }
    (turns.len(), Ok(()))
}

/// Takes all turns again, and tells which status flags are undefined at each vCPU's end, as far as that can be seen from
/// its last instructions.
fn follow(
    cpus: &mut [Cpu],
    side: &mut Side,
    turns: &[Turn],
    features: &Features,
    undefined: &mut [Undefined],
) -> Result<(), String> {
    let mut last = vec![usize::MAX; cpus.len()];
    for (number, turn) in turns.iter().enumerate() {
        if turn.end > turn.start {
            last[turn.cpu] = number;
        }
    }
    for (number, turn) in turns.iter().enumerate() {
        let delivered = &mut side.delivered[turn.cpu];
        let undefined = &mut undefined[turn.cpu];
        let watch = (last[turn.cpu] == number).then_some((features, undefined));
        on(&mut cpus[turn.cpu], delivered, turn.tsc_base, watch, |r| {
            r.replay(&side.tap, turn, turn.end)
        })?;
    }
    Ok(())
}

/// Lets a vCPU run on this thread.
fn on<R>(
    cpu: &mut Cpu,
    delivered: &mut u64,
    tsc_base: u64,
    watch: Option<(&Features, &mut Undefined)>,
    f: impl FnOnce(&mut Runner<'_>) -> R,
) -> R {
    let v = &mut *cpu.vcpu;
    let _current = Current::enter(v);
    v.tsc_base = Some(tsc_base);
    v.mmu.sync();
    let start = Instant::now();
    let result = f(&mut Runner {
        v,
        engine: cpu.engine.as_mut(),
        delivered,
        watch,
    });
    cpu.times.run += start.elapsed();
    cpu.vcpu.mmu.park();
    result
}
