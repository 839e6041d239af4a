//! Traces: hot code again, as one block that goes on through the branches, calls and returns that the program takes.
//!
//! ```text
//! sampled   where vCPUs look at their events, a block now and then is found to be hot
//! record    its exits are set back, so that the run loop sees which one it is left by; then those of the block found there; and
//!           so on, until it comes round, or to what cannot be part of a trace
//! Plan      the guest code of these blocks, which is lifted, joined and optimised without the lock (`tier.rs`)
//! commit    with the lock: all of them are still as they were, and the trace takes the place of the first one
//! ```
//! A trace has no guest code of its own. Its parts are blocks that are there and whose code is watched; when that of one may have
//! changed, or its region is dropped, the trace goes, and is not looked at again. It is keyed, linked, entered and left as its first
//! block was. Between parts on different pages it checks that the page is still mapped as it was (`emit/part.rs`).

use std::sync::Arc;

use frontend_x86::{End, Features, Limits};
use ir::join::{self, Leave};
use ir::opt::Switches;
use translation::{BlockId, Key};
use x86::AddressMap;

use crate::core::{Code, Core, MAX_BRANCHES, MAX_INSNS, Making, key, make_room, mode_of};
use crate::tier::Tier;
use crate::x64::emit::{Part, segmented};
use crate::x64::frame::TEMPS;

/// Looks that find a block before it is followed.
const HEAT: u8 = 2;
/// What a block that was followed has.
const TRIED: u8 = u8::MAX;
/// Blocks of a trace at most, and instructions from which on it takes no more.
const MAX_PARTS: usize = 24;
const MAX_INSNS_OF_TRACE: u32 = 300;
/// Exits to the run loop until the block that is followed must have been left.
const PATIENCE: u32 = 500;
/// Looks while a recording waits for its vCPU.
const LOOKS: u32 = 50;
/// Traces that are followed to find what they lead to.
const THROUGH: u32 = 8;
/// Indirect jumps that are followed.
const INDIRECT: u32 = 4;
/// How often the traces of a place may go because their code has changed.
const MAX_LOST: u8 = 4;

/// Whether there are traces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tracing {
    /// None.
    #[default]
    Off,
    /// Of hot code, made by a thread of their own.
    On,
    /// Of whatever runs twice, made at once: for tests.
    Eager,
}

/// A block that a recording has seen, and how it was left.
#[derive(Clone, Copy)]
struct Step {
    id: BlockId,
    ord: u16,
    target: u64,
}

/// What one vCPU does next.
struct Recording {
    cpu: usize,
    head: Key,
    steps: Vec<Step>,
    /// The block whose exit is waited for.
    at: BlockId,
    patience: u32,
    looks: u32,
    /// Traces that it may go through yet before it has a head.
    through: u32,
    /// Indirect jumps that it may yet see: for each, all that the vCPU knew of them is forgotten.
    indirect: u32,
}

/// A block that is to be part of a trace.
struct Planned {
    id: BlockId,
    key: Key,
    bytes: Box<[u8]>,
    /// Offset of its start from the trace's.
    by: i32,
    /// It is on another page than the one before.
    guarded: bool,
    leave: Option<Leave>,
}

/// A part of a trace as it was found.
pub struct Source<'a> {
    pub id: BlockId,
    pub key: Key,
    pub bytes: &'a [u8],
    /// By which of its instructions it was left, and where to (linear address).
    pub leave: Option<(u32, u64)>,
}

/// What a trace is to be made of.
pub struct Plan {
    parts: Vec<Planned>,
    /// The last part leads to the first.
    closed: bool,
    /// What may not have changed: see [`Core::generation`].
    generation: u64,
    features: Features,
    switches: Switches,
}

/// What has been done, for `--stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub made: u64,
    pub parts: u64,
    pub insns: u64,
    pub closed: u64,
    pub lost: u64,
    /// Recordings that led to none.
    pub vain: u64,
    pub looks: u64,
    /// Looks that found a trace.
    pub found: u64,
}

/// What a block has that is a trace.
pub struct Trace {
    /// The blocks that its parts but the first were made from.
    members: Vec<BlockId>,
    /// For each, the number of its first instruction, and its key.
    places: Vec<(u16, Key)>,
}

impl Trace {
    /// The key of the block that an instruction is from; `None`: the first.
    pub fn part(&self, ord: u16) -> Option<Key> {
        let n = self.places.partition_point(|(from, _)| *from <= ord);
        Some(self.places[n.checked_sub(1)?].1)
    }
}

/// What the cache knows of traces.
#[derive(Default)]
pub struct Traces {
    pub how: Tracing,
    /// Whom plans are given to; `None`: they are carried out at once.
    pub tier: Option<Arc<Tier>>,
    pub stats: Stats,
    recording: Option<Recording>,
    /// How often those of a place have gone.
    lost: AddressMap<(u64, u64), u8>,
}

impl Traces {
    /// For `--stats`.
    pub fn report(&self) -> String {
        let s = &self.stats;
        format!(
            "traces {} ({} blocks, {} instructions; {} come round), {} lost since their code changed or went, {} recordings in vain; looks {}, {} of them at traces",
            s.made, s.parts, s.insns, s.closed, s.lost, s.vain, s.looks, s.found
        )
    }

    /// Nothing that was seen of blocks holds any more.
    pub fn forget(&mut self) {
        self.recording = None;
    }

    /// Places whose traces were lost get another chance.
    pub fn start_again(&mut self) {
        self.forget();
        self.lost.clear();
    }
}

fn page(key: &Key) -> (u64, u64) {
    (key.lin & !x86::PAGE_MASK, key.phys & !x86::PAGE_MASK)
}

/// Whether addresses in code are linear ones, and whole: what the parts of a trace compare.
fn flat(key: &Key) -> bool {
    key.ip() == key.lin && !segmented(mode_of(key.mode))
}

impl Core {
    /// A look found a vCPU about to enter a block. True: it must meet no indirect jump that it knows, since it is followed.
    pub fn sampled(&mut self, cpu: usize, id: BlockId) -> bool {
        if self.traces.how == Tracing::Off {
            return false;
        }
        self.traces.stats.looks += 1;
        if let Some(tier) = &self.traces.tier {
            tier.looked();
        }
        if let Some(recording) = &mut self.traces.recording {
            recording.looks += 1;
            if recording.looks <= LOOKS {
                return false;
            }
            self.traces.recording = None;
            self.traces.stats.vain += 1;
        }
        let through = self.blocks.get(id).own.trace.is_some();
        if through {
            self.traces.stats.found += 1;
            if self.blocks.get(id).stale {
                return false;
            }
        } else if !self.heated(id) {
            return false;
        }
        self.traces.recording = Some(Recording {
            cpu,
            head: self.blocks.get(id).key,
            steps: Vec::new(),
            at: id,
            patience: PATIENCE,
            looks: 0,
            through: if through { THROUGH } else { 0 },
            indirect: INDIRECT,
        });
        self.unlink_exits(id) && !through
    }

    /// Counts a look at a block; whether it is to be followed now.
    fn heated(&mut self, id: BlockId) -> bool {
        let heat = match self.traces.how {
            Tracing::Eager => 1,
            _ => HEAT,
        };
        let own = &mut self.blocks.get_mut(id).own;
        if own.heat == TRIED || own.trace.is_some() {
            return false;
        }
        own.heat += 1;
        if own.heat < heat || !self.may_be_part(id) {
            return false;
        }
        let key = self.blocks.get(id).key;
        self.blocks.get_mut(id).own.heat = TRIED;
        let lost = self.traces.lost.get(&(key.lin, key.phys));
        lost.is_none_or(|lost| *lost < MAX_LOST)
    }

    fn may_be_part(&self, id: BlockId) -> bool {
        let info = self.blocks.get(id);
        self.settled_for_good(id)
            && !self.retired[id.region()].1
            && info.tracked
            && info.second.is_none()
            && flat(&info.key)
            && info.own.checked.is_none()
            && info.own.trace.is_none()
            // It has a loop without checks, which a trace would not have.
            && !info.own.repeats
            && info.key.mode & (key::SINGLE | key::UNMERGED | key::WINDOW) == 0
    }

    /// A vCPU has left a block by an instruction, and found another. True: as [`Core::sampled`] has it.
    pub fn record(
        &mut self,
        cpu: usize,
        from: BlockId,
        ord: u16,
        target: u64,
        to: BlockId,
    ) -> bool {
        let Some(recording) = &mut self.traces.recording else {
            return false;
        };
        if recording.cpu != cpu {
            return false;
        }
        if recording.at != from {
            recording.patience -= 1;
            if recording.patience == 0 {
                self.recorded();
            }
            return false;
        }
        recording.patience = PATIENCE;
        let is_trace = self.blocks.get(to).own.trace.is_some();
        if recording.through > 0 {
            recording.at = to;
            if is_trace {
                recording.through -= 1;
                if recording.through == 0 {
                    self.traces.recording = None;
                } else {
                    self.unlink_exits(to);
                }
                return false;
            }
            recording.through = 0;
            recording.head = self.blocks.get(to).key;
            if !self.heated(to) {
                self.traces.recording = None;
                return false;
            }
            return self.unlink_exits(to);
        }
        let head = recording.head;
        recording.steps.push(Step {
            id: from,
            ord,
            target,
        });
        recording.at = to;
        let known = recording.steps.iter().any(|step| step.id == to);
        let key = self.blocks.get(to).key;
        if known
            || recording.steps.len() >= MAX_PARTS
            || (key.lin, key.phys) == (head.lin, head.phys)
            || key.mode != head.mode
            || !self.may_be_part(to)
        {
            self.recorded();
            return false;
        }
        if !self.unlink_exits(to) {
            return false;
        }
        let recording = self.traces.recording.as_mut();
        if recording.is_some_and(|r| {
            r.indirect
                .checked_sub(1)
                .map(|left| r.indirect = left)
                .is_none()
        }) {
            // It is the last part.
            self.recorded();
            return false;
        }
        true
    }

    /// The recording is at its end: the trace is planned, and made if nobody else does that.
    fn recorded(&mut self) {
        let Some(recording) = self.traces.recording.take() else {
            return;
        };
        let Some(plan) = self.plan(&recording) else {
            self.traces.stats.vain += 1;
            return;
        };
        match &self.traces.tier {
            Some(tier) => tier.give(plan),
            None => {
                let made = plan.translate();
                self.commit(&plan, made);
            }
        }
    }

    fn plan(&self, recording: &Recording) -> Option<Plan> {
        let head = &recording.head;
        let last = &self.blocks.get(recording.at).key;
        let closed = (last.lin, last.phys, last.mode) == (head.lin, head.phys, head.mode);
        let seen = recording.steps.iter().any(|step| step.id == recording.at);
        let steps = recording.steps.iter();
        let mut all: Vec<(BlockId, Option<Step>)> = steps.map(|s| (s.id, Some(*s))).collect();
        // What it came to last belongs to it, too, unless it is there already.
        if !closed && !seen && last.mode == head.mode && self.may_be_part(recording.at) {
            all.push((recording.at, None));
        }
        if all.len() < 2 {
            return None;
        }
        let parts = all.into_iter().map_while(|(id, step)| {
            let info = self.blocks.get(id);
            self.may_be_part(id).then(|| Source {
                id,
                key: info.key,
                bytes: &info.bytes,
                leave: step.map(|step| (step.ord.into(), step.target)),
            })
        });
        Plan::of(
            parts,
            closed,
            self.generation(),
            self.features,
            self.switches,
        )
    }

    /// Puts a trace in its place, if all its parts are still what they were; `made`: its IR, and how many of the plan's parts that is
    /// made of.
    pub fn commit(&mut self, plan: &Plan, made: Option<(ir::Block, usize)>) {
        let id = made.and_then(|(block, count)| self.put(plan, &block, &plan.parts[..count]));
        if id.is_none() {
            self.traces.stats.vain += 1;
        }
    }

    fn put(&mut self, plan: &Plan, block: &ir::Block, parts: &[Planned]) -> Option<()> {
        // Numbers of blocks are used again.
        let same = self.generation() == plan.generation
            && parts
                .iter()
                .all(|part| self.may_be_part(part.id) && self.blocks.get(part.id).key == part.key);
        let (head, rest) = parts.split_first()?;
        if !same || self.blocks.find(head.key) != Some(head.id) {
            return None;
        }
        let wanted = head.key;
        let info = self.blocks.get(head.id);
        let (flags, stamps) = (info.own.flags, info.stamps);
        let emitted: Vec<Part> = rest
            .iter()
            .map(|part| {
                let own = &self.blocks.get(part.id).own;
                Part {
                    guards: if part.guarded { own.pages } else { [None; 2] },
                    by: own.by,
                }
            })
            .collect();
        let making = Making {
            wanted,
            flags,
            second: None,
            stamps: Some(stamps),
            check: None,
            parts: &emitted,
        };
        // Not worth the blocks of a region that would have to go.
        let code = Code::Block { block, keep: false };
        let id = self.install(None, code, making, &head.bytes).ok()?;
        for part in rest {
            self.blocks.get_mut(part.id).own.traces.push(id);
        }
        let own = &mut self.blocks.get_mut(id).own;
        let places = std::mem::take(&mut own.begins).into_iter();
        own.trace = Some(Trace {
            members: rest.iter().map(|part| part.id).collect(),
            places: places.zip(rest.iter().map(|part| part.key)).collect(),
        });
        let stats = &mut self.traces.stats;
        stats.made += 1;
        stats.parts += parts.len() as u64;
        stats.insns += u64::from(block.insns);
        stats.closed += u64::from(plan.closed && parts.len() == plan.parts.len());
        if let Some(tier) = &self.traces.tier {
            tier.made();
        }
        Some(())
    }

    /// Makes a block's direct exits lead to the run loop; whether it has indirect ones, too.
    fn unlink_exits(&mut self, id: BlockId) -> bool {
        let region = id.region();
        let all = self.exits.of(region);
        let from = all.partition_point(|exit| exit.block < id);
        let to = all.partition_point(|exit| exit.block <= id);
        for n in from..to {
            let number = self.exits.first(region) + n as u32;
            if let Some(link) = self.exits.get(number).and_then(|exit| exit.link) {
                let own = &mut self.blocks.get_mut(link.to).own;
                own.incoming.retain(|incoming| *incoming != number);
                self.set_back(number);
            }
        }
        let indirect = self.indirects.of(region);
        let first = indirect.partition_point(|(block, _)| *block < id);
        indirect.get(first).is_some_and(|(block, _)| *block == id)
    }

    /// Traces and their parts know one another.
    #[cfg(test)]
    pub fn look_at_traces(&self) {
        for region in 0..self.memory.regions() {
            for n in 0..self.blocks.of(region).len() as u32 {
                let id = BlockId(self.blocks.first(region).0 + n);
                let info = self.blocks.get(id);
                for trace in &info.own.traces {
                    let of = self.blocks.get(*trace).own.trace.as_ref();
                    let of = of.expect("a trace");
                    assert!(of.members.contains(&id), "a trace of something else");
                }
                let Some(trace) = &info.own.trace else {
                    continue;
                };
                assert!(!trace.members.is_empty() || info.stale);
                for member in &trace.members {
                    let member = self.blocks.get(*member);
                    assert!(!info.stale && member.own.traces.contains(&id));
                    assert!(trace.places.iter().any(|place| place.1 == member.key));
                }
            }
        }
    }

    /// The traces that a block is part of, or is, are not to be run any more.
    pub(crate) fn drop_traces(&mut self, id: BlockId) {
        let mut all = std::mem::take(&mut self.blocks.get_mut(id).own.traces);
        all.push(id);
        while let Some(id) = all.pop() {
            let info = self.blocks.get_mut(id);
            let Some(trace) = info.own.trace.as_mut() else {
                continue;
            };
            let members = std::mem::take(&mut trace.members);
            if members.is_empty() {
                continue;
            }
            info.stale = true;
            let (lin, phys) = (info.key.lin, info.key.phys);
            all.append(&mut info.own.traces);
            for member in members {
                let traces = &mut self.blocks.get_mut(member).own.traces;
                traces.retain(|trace| *trace != id);
            }
            self.blocks.forget_key(id);
            self.lead_away(id);
            self.traces.stats.lost += 1;
            make_room(&mut self.traces.lost);
            let lost = self.traces.lost.entry((lin, phys)).or_insert(0);
            *lost = lost.saturating_add(1);
        }
    }

    /// A block takes another one's place, with the same code: in traces, too.
    pub(crate) fn inherit_traces(&mut self, old: BlockId, new: BlockId) {
        let traces = std::mem::take(&mut self.blocks.get_mut(old).own.traces);
        for id in &traces {
            if let Some(trace) = &mut self.blocks.get_mut(*id).own.trace {
                for member in trace.members.iter_mut().filter(|member| **member == old) {
                    *member = new;
                }
            }
        }
        self.blocks.get_mut(new).own.traces.extend(traces);
    }
}

impl Plan {
    /// A trace of these parts; `None`: they are too far from each other.
    pub fn of<'a>(
        sources: impl IntoIterator<Item = Source<'a>>,
        closed: bool,
        generation: u64,
        features: Features,
        switches: Switches,
    ) -> Option<Self> {
        let mut parts: Vec<Planned> = Vec::new();
        for source in sources {
            let key = source.key;
            let head = parts.first().map_or(key, |part| part.key);
            let before = parts.last().map_or(key, |part| part.key);
            let far = |lin: u64| i32::try_from(lin.wrapping_sub(head.lin).cast_signed()).ok();
            let leave = match source.leave {
                Some((ord, target)) => Some(Leave {
                    ord,
                    target: far(target)?,
                }),
                None => None,
            };
            parts.push(Planned {
                id: source.id,
                key,
                bytes: source.bytes.into(),
                by: far(key.lin)?,
                guarded: page(&key) != page(&before),
                leave,
            });
        }
        Some(Self {
            parts,
            closed,
            generation,
            features,
            switches,
        })
    }

    /// Whether each part but the first is on another page than the one before.
    pub fn guarded(&self) -> impl Iterator<Item = bool> {
        self.parts.iter().skip(1).map(|part| part.guarded)
    }

    /// The trace as one block, and how many parts that has; `None`: it is no better than its parts.
    pub fn translate(&self) -> Option<(ir::Block, usize)> {
        let mode = mode_of(self.parts.first()?.key.mode);
        let mut trace = ir::Block::default();
        let mut count = 0;
        for part in &self.parts {
            let limits = Limits {
                max_insns: MAX_INSNS,
                page: part.bytes.len() as u32,
                branches: MAX_BRANCHES,
            };
            let lifted = frontend_x86::lift(&part.bytes, &limits, mode, &self.features);
            if matches!(lifted.end, End::FetchFault(_)) {
                return None;
            }
            if trace.insns + lifted.block.insns > MAX_INSNS_OF_TRACE {
                // The one before has led here.
                join::close(&mut trace, mode.ip(), part.by);
                break;
            }
            let last = count + 1 == self.parts.len();
            // A branch back to the start stays one.
            let ends = lifted.block.ops.last().map(|op| op.code);
            let whole = last
                && part.leave.is_none_or(|leave| {
                    leave.ord + 1 == lifted.block.insns && ends == Some(ir::OpCode::Branch)
                        || !self.closed
                });
            let leave = part.leave.filter(|_| !whole);
            let block = &lifted.block;
            count += 1;
            if !join::append(&mut trace, block, part.by, part.guarded, leave) {
                if !join::append(&mut trace, block, part.by, part.guarded, None) {
                    return None;
                }
                break;
            }
            if let (true, Some(leave)) = (last, leave) {
                join::close(&mut trace, mode.ip(), leave.target);
            }
        }
        ir::opt::run(&mut trace, self.switches);
        join::renumber(&mut trace);
        (count > 1 && usize::from(trace.temps) <= TEMPS).then_some((trace, count))
    }
}

#[cfg(test)]
mod tests {
    use translation::Key;

    use super::Trace;

    #[test]
    fn an_instruction_is_of_the_last_part_that_begins_with_it_or_before() {
        let key = |lin| Key {
            lin,
            cs: 0,
            phys: lin,
            mode: 0,
            flags: 0,
        };
        let trace = Trace {
            members: Vec::new(),
            places: vec![(3, key(0x1000)), (5, key(0x2000))],
        };
        let parts = [0, 2, 3, 4, 5, 9].map(|ord| trace.part(ord).map_or(0, |key| key.lin));
        assert_eq!(parts, [0, 0, 0x1000, 0x1000, 0x2000, 0x2000]);
    }
}
