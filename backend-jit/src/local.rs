//! What one vCPU has for itself of the translator, next to its frame: slow ops as it runs them, what it has seen of the
//! shared tables.

use std::collections::HashMap;
use std::sync::Arc;

use backend_interp::{Fragment, Fragments};
use translation::{index_of, region_of};

use crate::core::{Core, Site, Slow, mode_of};
use crate::shared::Shared;
use crate::windows::Windows;
use crate::x64::emit::segmented;
use crate::x64::frame::Frame;

/// A slow op, with the handlers for it if it has run.
struct Own {
    slow: Arc<Slow>,
    fragment: Option<Fragment>,
    runs: u64,
}

/// What the vCPU has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub slow_runs: u64,
    /// Slow ops that changed the mode or went elsewhere, and after which the code went on directly.
    pub resumed: u64,
    pub reads: u64,
    pub writes: u64,
    /// Accesses to the page that empty page caches name.
    pub astray: u64,
}

/// See the module's text.
pub struct Local {
    pub shared: Arc<Shared>,
    pub cpu: usize,
    pub counts: Counts,
    /// `Vcpu::retired` as it will be when the budget is used up.
    pub end: u64,
    pub count: bool,
    /// The state of the guest's code that was last looked at.
    pub code_epoch: u64,
    /// When a miss of its page caches was last looked at.
    pub last_hop: Option<std::time::Instant>,
    /// The events that the thread for hot code was told of; only compared.
    pub seated: usize,
    /// Where 32-bit code may access memory without a check.
    pub windows: Windows,
    /// See `Options::astray`: how often that was done.
    pub astray: Option<usize>,
    fragments: Fragments,
    /// By region and number.
    slow: Vec<Vec<Option<Box<Own>>>>,
    kinds: HashMap<(ir::OpCode, u32), u64>,
    /// What it has seen.
    generation: u64,
    renumbered: u64,
    gone: u64,
    /// Code segment, mode, tag.
    tags: [(u64, u64, u32); TAGS],
    last_tag: u32,
}

/// Pairs of code segment and mode that keep their tag.
const TAGS: usize = 512;

impl Local {
    pub fn new(shared: Arc<Shared>, windows: Windows) -> Self {
        Self {
            shared,
            cpu: 0,
            counts: Counts::default(),
            end: 0,
            count: false,
            code_epoch: 0,
            last_hop: None,
            seated: 0,
            windows,
            astray: None,
            fragments: Fragments::default(),
            slow: Vec::new(),
            kinds: HashMap::new(),
            generation: 0,
            renumbered: 0,
            gone: 0,
            tags: [(0, 0, 0); TAGS],
            last_tag: 0,
        }
    }

    /// What tells apart the code of a mode and a code segment ([`translation::Key::cs`]) in the jump caches, in the upper
    /// half; 0 for flat code, which has caches of its own ([`Frame::modes`]).
    pub fn tag(&mut self, frame: &mut Frame, cs: u64, mode: u64) -> u64 {
        if !segmented(mode_of(mode)) {
            return 0;
        }
        let hash = (cs ^ cs >> 32 ^ mode).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let known = &mut self.tags[(hash >> 32) as usize % TAGS];
        if (known.0, known.1) != (cs, mode) || known.2 == 0 {
            if self.last_tag == u32::MAX {
                self.tags = [(0, 0, 0); TAGS];
                self.last_tag = 0;
                frame.forget_jumps();
            }
            self.last_tag += 1;
            self.tags[(hash >> 32) as usize % TAGS] = (cs, mode, self.last_tag);
            return u64::from(self.last_tag) << 32;
        }
        u64::from(known.2) << 32
    }

    /// A slow op by number, which is to run.
    pub fn slow(&mut self, number: u32) -> Option<Site> {
        let own = self.own(number)?;
        own.runs += 1;
        Some(own.slow.site)
    }

    fn own(&mut self, number: u32) -> Option<&mut Own> {
        let (region, index) = (region_of(number), index_of(number));
        if self.slow.len() <= region {
            self.slow.resize_with(region + 1, Vec::new);
        }
        let all = &mut self.slow[region];
        if all.len() <= index {
            all.resize_with(index + 1, || None);
        }
        if all[index].is_none() {
            let slow = Arc::clone(self.shared.lock().slow.get(number)?);
            all[index] = Some(Box::new(Own {
                slow,
                fragment: None,
                runs: 0,
            }));
        }
        all[index].as_deref_mut()
    }

    /// The handlers of a slow op.
    pub fn fragment(&mut self, number: u32) -> Option<(&Fragment, &mut Fragments)> {
        self.own(number)?;
        let own = self.slow[region_of(number)][index_of(number)].as_deref_mut()?;
        if own.fragment.is_none() {
            let from = &own.slow.from;
            own.fragment = self.fragments.make(&from.0, &from.0.ops, from.1);
        }
        Some((own.fragment.as_ref()?, &mut self.fragments))
    }

    /// How often slow ops have run, by what they are.
    pub fn kinds(&self) -> HashMap<(ir::OpCode, u32), u64> {
        let mut kinds = self.kinds.clone();
        for own in self.slow.iter().flatten().flatten() {
            *kinds.entry(own.slow.op).or_default() += own.runs;
        }
        kinds
    }

    /// Makes ready to enter translated code: forgets what is not there any more. The lock is held, and the vCPU counts
    /// as inside from here on.
    pub fn enter(&mut self, core: &Core, frame: &mut Frame) {
        let generation = core.generation();
        if generation != self.generation {
            for (region, slow) in self.slow.iter_mut().enumerate() {
                if core.retired_since(region, self.generation) {
                    for own in slow.drain(..).flatten() {
                        *self.kinds.entry(own.slow.op).or_default() += own.runs;
                    }
                }
            }
            self.generation = generation;
            frame.forget_jumps();
            self.gone = core.gone.count();
        }
        if self.gone != core.gone.count() {
            match core.gone.since(self.gone) {
                Some(gone) => {
                    for lin in gone {
                        frame.drop_jump(lin);
                    }
                }
                None => frame.forget_jumps(),
            }
            self.gone = core.gone.count();
        }
        if self.renumbered != core.renumbered() {
            self.renumbered = core.renumbered();
            frame.pages.fill(0);
        }
        self.shared.epochs.enter(self.cpu, generation);
    }
}
