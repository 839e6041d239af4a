//! Fuzz targets over code: no bytes that a guest executes can crash, hang or corrupt the emulator, and no two ways to
//! execute them may differ.
//!
//! An input is read as decisions: a CPU model, unusual pages and gates, then episodes. An episode is a mode with its
//! registers and a program, partly from a table of what is hard to get right, run for some thousand instructions in
//! what the episodes before have left of RAM.

mod board;
mod episode;
#[cfg(test)]
mod found;
mod input;
mod pair;
mod place;
mod program;
mod sane;
mod templates;
#[cfg(test)]
mod tests;
mod undefined;
mod world;

use std::sync::Arc;

use backend_interp::Interp;
use backend_jit::{By, Jit, Options, Tracing, Windows};
use frontend_x86::Features;
use ir::opt::Switches;
use softmmu::{Bus, GuestRam, Mmu};
use system::{Boundary, CpuModel, Engine, Events, Exit, Platform, Vcpu, event};
use x86::PhysAddr;

use board::Board;
use episode::Episode;
use input::Input;
use pair::Pair;
use world::World;

/// Episodes of one input, for each vCPU.
const EPISODES: usize = 4;
/// Exceptions and interrupts delivered in one episode.
const EVENTS: u32 = 200;
/// Calls of the engine in one episode that complete no instruction: a repeated string instruction of 2^64 rounds comes
/// back often.
const IDLE: u32 = 24;

/// What an input asks for.
struct Plan {
    model: Arc<CpuModel>,
    /// The engines' passes.
    passes: [Switches; 2],
    /// Instructions that one call may do.
    limits: [u64; 2],
    two: bool,
    world: World,
    pattern: [u8; 64],
    episodes: Vec<Episode>,
}

impl Plan {
    fn read(data: &[u8]) -> Self {
        ir::verify::enable(true);
        let mut input = Input::new(data);
        let model = match input.below(8) {
            0..4 => CpuModel::default(),
            4..7 => CpuModel::parse("default,+pku,+la57").unwrap_or_default(),
            _ => CpuModel::parse("v1").unwrap_or_default(),
        };
        let choice = input.byte();
        let passes = [0, 1].map(|n| {
            if choice >> n & 1 == 0 {
                Switches::ALL
            } else {
                Switches::NONE
            }
        });
        let two = choice & 4 != 0;
        let limits = [
            if choice & 8 == 0 {
                1 << 20
            } else {
                65 + u64::from(choice >> 4) * 16
            },
            if choice & 16 == 0 { 1 } else { 1 << 20 },
        ];
        let world = World::new(&mut input);
        let mut pattern = [0; 64];
        let code = program::write(&mut input, program::Place::level0(32, place::MMIO), 8);
        for (to, from) in pattern.iter_mut().zip(code) {
            *to = from;
        }
        let mut episodes = Vec::new();
        while episodes.is_empty() || !input.ended() && episodes.len() < 2 * EPISODES {
            episodes.push(Episode::read(&mut input, &model, &world));
        }
        Self {
            model: Arc::new(model),
            passes,
            limits,
            two,
            world,
            pattern,
            episodes,
        }
    }
}

/// What runs the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// The interpreter, with these passes over the IR.
    Interp(Switches),
    /// The translator, with so many bytes for its code; which of the seven kinds in [`Way::engine`].
    Jit(usize, usize),
}

impl Way {
    fn engine(self, model: &CpuModel) -> Box<dyn Engine> {
        let features = Features::new(&model.features_iced());
        match self {
            Self::Interp(passes) => {
                let mut engine = Interp::new(features);
                engine.set_passes(passes);
                Box::new(engine)
            }
            Self::Jit(code_cache, kind) => {
                let options = Options {
                    code_cache,
                    single: true,
                    by: match kind {
                        2 => By::Tlb,
                        6 => By::Large,
                        _ => By::Page,
                    },
                    changing: kind == 3,
                    traces: if kind == 4 {
                        Tracing::Eager
                    } else {
                        Tracing::Off
                    },
                    windows: if kind == 5 {
                        Windows::Always
                    } else {
                        Windows::Never
                    },
                    ..Options::default()
                };
                Box::new(Jit::new(features, options))
            }
        }
    }
}

/// A vCPU with its engine.
struct Cpu {
    v: Box<Vcpu>,
    engine: Box<dyn Engine>,
    events: Arc<Events>,
    board: Arc<Board>,
}

/// RAM and two vCPUs, of which the second may never run.
struct Machine {
    ram: Arc<GuestRam>,
    cpus: [Cpu; 2],
}

impl Machine {
    fn new(plan: &Plan, way: Way, loose: bool) -> Self {
        let ram = Arc::new(
            GuestRam::new(place::RAM).unwrap_or_else(|e| panic!("no memory for a fuzz input: {e}")),
        );
        let hole = place::MMIO as usize..0xc_0000;
        for (at, bytes) in [
            (0, &plan.world.contents()[..hole.start]),
            (hole.end as u64, &plan.world.contents()[hole.end..]),
        ] {
            lay(&ram, at, bytes);
        }
        let events = [0, 1].map(|_| Arc::new(Events::default()));
        let kicked = events.clone();
        ram.set_kick(Box::new(move |cpu| {
            if let Some(events) = kicked.get(cpu) {
                events.raise(event::CODE);
            }
        }));
        let board = Arc::new(Board::new(
            events.clone(),
            Arc::clone(&ram),
            plan.pattern,
            loose,
        ));
        let cpus = [0, 1].map(|index| {
            let bus = Arc::clone(&board) as Arc<dyn Bus>;
            let platform = Arc::clone(&board) as Arc<dyn Platform>;
            let mmu = Mmu::new(index, Arc::clone(&ram), bus, plan.model.maxphyaddr());
            let mut v = Vcpu::new(
                index,
                Arc::clone(&plan.model),
                mmu,
                Arc::clone(&events[index]),
                platform,
            );
            v.fixed_tsc = Some(0);
            v.mmu.park();
            Cpu {
                v,
                engine: way.engine(&plan.model),
                events: Arc::clone(&events[index]),
                board: Arc::clone(&board),
            }
        });
        Self { ram, cpus }
    }
}

fn lay(ram: &GuestRam, at: u64, bytes: &[u8]) {
    // Guests make holes where RAM was: programs are not laid down there then.
    let _ = ram.load_bytes(PhysAddr(at), bytes);
}

impl Cpu {
    /// Brings the vCPU to an episode's start.
    fn begin(&mut self, ram: &GuestRam, episode: &Episode) {
        for (at, bytes) in &episode.code {
            lay(ram, *at, bytes);
        }
        self.board
            .begin(self.v.index, &episode.interrupts, episode.nmi, episode.cr8);
        self.v.mmu.sync();
        let mut st = episode.st.clone();
        // A guest may have spoiled the table; an empty one is as good.
        st.pdpte = softmmu::read_pdptes(ram, st.cr3, self.v.model.maxphyaddr()).unwrap_or_default();
        if st.cr4 & x86::cr4::PAE == 0 || st.long_mode() || st.cr0 & x86::cr0::PG == 0 {
            st.pdpte = [0; 4];
        }
        self.v.load_state(st);
        self.v.random = 0x1234_5678;
        self.sane();
    }

    fn sane(&self) {
        if let Err(what) = sane::check(&self.v) {
            panic!("{what}\n{}", self.v.dump());
        }
    }

    /// One look at the boundary, and if an instruction is next, as many as `limit` allows. `None` at the end.
    fn advance(&mut self, limit: u64) -> Option<Progress> {
        match self.v.boundary() {
            Boundary::Run => {}
            Boundary::Delivered(_) => return Some(Progress::Event),
            Boundary::Halted | Boundary::WaitForSipi | Boundary::Shutdown | Boundary::Stop => {
                return None;
            }
        }
        match self.engine.advance(&mut self.v, limit) {
            Ok(()) => Some(Progress::Ran),
            Err(e) => self.v.raise(e).ok().map(|_| Progress::Event),
        }
    }

    /// Runs an episode piece by piece.
    fn run(&mut self, steps: u64, limit: u64) {
        let end = self.v.retired + steps;
        let (mut events, mut idle) = (0, 0);
        while self.v.retired < end && events < EVENTS && idle < IDLE {
            let before = self.v.retired;
            let left = limit.min(end - before);
            let Some(progress) = self.advance(left) else {
                break;
            };
            assert!(
                self.v.retired - before <= left,
                "{} instructions instead of {left}",
                self.v.retired - before
            );
            events += u32::from(progress == Progress::Event);
            idle += u32::from(progress == Progress::Ran && self.v.retired == before);
            self.sane();
        }
        self.v.mmu.park();
    }

    /// Runs an episode until it is told to stop.
    fn run_until_stopped(&mut self, steps: u64) {
        let exit = self.engine.run(&mut self.v, steps);
        self.v.mmu.park();
        self.sane();
        assert!(exit != Exit::Stop || self.events.pending() & event::STOP != 0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Ran,
    Event,
}

/// Runs arbitrary bytes as code, on one vCPU or on two over the same RAM, and looks at the state they leave.
///
/// # Panics
/// When a vCPU gets into a state that no CPU can be in: a bug. Any other panic is one too.
pub fn code(data: &[u8]) {
    let plan = Plan::read(data);
    run_code(&plan, Way::Interp(plan.passes[0]));
    run_code(&plan, jit(data));
}

/// Bytes of code memory for an input: some are soon full.
fn cache(data: &[u8]) -> usize {
    [1 << 16, 1 << 18, 1 << 20][data.len() % 3]
}

fn jit(data: &[u8]) -> Way {
    Way::Jit(cache(data), data.len() / 12 % 7)
}

fn run_code(plan: &Plan, way: Way) {
    let mut machine = Machine::new(plan, way, true);
    let ram = &machine.ram;
    let [first, second] = &mut machine.cpus;
    let limit = plan.limits[0];
    if !plan.two {
        for episode in &plan.episodes {
            first.begin(ram, episode);
            first.run(episode.steps, limit);
        }
        return;
    }
    for pair in plan.episodes.chunks(2) {
        second.events.lower(event::STOP);
        second.begin(ram, pair.last().unwrap_or(&pair[0]));
        first.begin(ram, &pair[0]);
        let stop = Stop(Arc::clone(&second.events));
        std::thread::scope(|scope| {
            scope.spawn(|| second.run_until_stopped(1 << 40));
            // Whether it ends or unwinds.
            let _stop = stop;
            first.run(pair[0].steps, limit);
        });
    }
}

/// Stops a vCPU when it goes.
struct Stop(Arc<Events>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.raise(event::STOP);
    }
}

/// Runs arbitrary bytes as code in two ways that must not differ: blocks that chain against single instructions, with
/// the passes over the IR and without them. Returns false if the input spoiled its paging structures, so that nothing
/// can be said: translations may then be kept or forgotten at any time.
///
/// # Panics
/// When states, exceptions or memory differ at any point where both can be seen: a bug.
pub fn compare(data: &[u8]) -> bool {
    let plan = Plan::read(data);
    let ways = plan.passes.map(Way::Interp);
    compare_ways(&plan, ways, plan.limits)
}

/// As [`compare`], with the translator as one way or both. Flags that the SDM leaves undefined may differ; returns false
/// also if the program then looked at one.
///
/// # Panics
/// As [`compare`].
pub fn engines(data: &[u8]) -> bool {
    let plan = Plan::read(data);
    let (interp, jit) = (Way::Interp(plan.passes[0]), jit(data));
    let ways = match data.len() / 3 % 4 {
        0 | 1 => [jit, interp],
        2 => [interp, jit],
        _ => [jit, jit],
    };
    compare_ways(&plan, ways, [plan.limits[0], 1])
}

fn compare_ways(plan: &Plan, ways: [Way; 2], limits: [u64; 2]) -> bool {
    let mut pair = Pair::new(plan, ways, limits);
    for episode in plan.episodes.iter().take(EPISODES) {
        if let Err(what) = pair.episode(episode) {
            if pair.excused() {
                return false;
            }
            panic!("{}", pair.report(&what));
        }
    }
    true
}
