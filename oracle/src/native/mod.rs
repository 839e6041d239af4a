//! The host CPU's side: a child process that runs cases in batches, restarted when an instruction kills it.
#![expect(unsafe_code, reason = "fork, and memory shared with the child")]
// UNSAFETY: the child is made by fork, and batches lie in memory that both processes map.

mod child;
mod shared;
mod stubs;

use std::sync::atomic::Ordering;

use shared::{BATCH, Shared, Slot, wait, wake};
use stubs::Stubs;

use crate::case::{Case, Ending, Outcome, Result as CaseResult};
use crate::layout;

/// Where the child has the arena and the code writable throughout, for itself.
const ARENA_DOOR: u64 = 0x2d3c_6000;
const CODE_DOOR: u64 = 0x2d3d_a000;

const _: () = assert!(
    layout::HARNESS.start <= ARENA_DOOR && CODE_DOOR + layout::CODE_LEN <= layout::HARNESS.end
);

const ALIAS0: u32 = 1;
const COMPAT: u32 = 2;
const LDT: u32 = 4;

/// What this host's kernel lets the child do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The arena is mapped at the first of [`layout::ALIASES`], too.
    pub low: bool,
    /// There are compatibility-mode segments: 32-bit code runs.
    pub compat: bool,
    /// There is an LDT: other segments, and 16-bit code.
    pub ldt: bool,
}

/// What the child needs that must be made before it is forked.
struct Setup {
    code: Vec<u8>,
    stubs: Stubs,
    template: Vec<u8>,
}

/// The child process. Two batches can be under way: one runs while the other is filled or looked at.
pub struct Native {
    shared: *mut Shared,
    setup: Setup,
    stack: Vec<u8>,
    pid: libc::pid_t,
    /// Batches looked at.
    collected: u32,
    abilities: Abilities,
    /// Times that the child died or hung.
    pub deaths: u64,
}

// SAFETY: the mapping and the child belong to this value; nothing is tied to a thread.
unsafe impl Send for Native {}

impl Native {
    /// Cases in a batch at most.
    pub const BATCH: usize = BATCH;

    /// Starts the child. An error is a reason why this host can't be an oracle.
    pub fn start() -> Result<Self, String> {
        // SAFETY: getauxval only reads.
        let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
        if hwcap2 & 2 == 0 {
            return Err("the kernel does not allow WRFSBASE to user mode".into());
        }
        let (code, stubs) =
            stubs::build().map_err(|e| format!("the stubs can't be assembled: {e}"))?;
        assert!(code.len() < 0x1000, "the stubs fit into a page");
        let mut native = Self {
            shared: shared::map()?,
            setup: Setup {
                code,
                stubs,
                template: layout::template(),
            },
            stack: vec![0; 256 << 10],
            pid: -1,
            collected: 0,
            abilities: Abilities {
                low: false,
                compat: false,
                ldt: false,
            },
            deaths: 0,
        };
        native.fork()?;
        Ok(native)
    }

    /// What the kernel allows.
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped while this lives; the child writes only what is its turn to write, or atomic.
        unsafe { &*self.shared }
    }

    fn slot(&mut self, number: u32) -> &mut Slot {
        // SAFETY: the callers have seen that the child is not using this slot.
        unsafe { &mut (*self.shared).slots[number as usize % 2] }
    }

    fn fork(&mut self) -> Result<(), String> {
        self.shared().ready.store(0, Ordering::Release);
        // SAFETY: the child allocates nothing and never returns.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => {
                return Err(format!(
                    "no child process: {}",
                    std::io::Error::last_os_error()
                ));
            }
            0 => {
                // SAFETY: in the child; the parent touches only what is its turn.
                let shared = unsafe { &mut *self.shared };
                child::main(shared, &self.setup, &mut self.stack)
            }
            _ => self.pid = pid,
        }
        for _ in 0..100 {
            wait(&self.shared().ready, 0, 100);
            match self.shared().ready.load(Ordering::Acquire) {
                0 => {}
                1 => {
                    let bits = self.shared().abilities.load(Ordering::Acquire);
                    self.abilities = Abilities {
                        low: bits & ALIAS0 != 0,
                        compat: bits & COMPAT != 0,
                        ldt: bits & LDT != 0,
                    };
                    return Ok(());
                }
                _ => {
                    let step = self.shared().failed.load(Ordering::Acquire);
                    self.end();
                    return Err(format!("the child can't map its memory (step {step})"));
                }
            }
        }
        self.end();
        Err("the child does not start".into())
    }

    /// Kills the child and waits for its end.
    fn end(&mut self) {
        if self.pid > 0 {
            // SAFETY: our own child, not waited for yet.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            // SAFETY: the status isn't wanted.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
            self.pid = -1;
        }
    }

    /// The cases of the next batch, to be filled. Not while two batches are under way.
    pub fn cases(&mut self) -> &mut [Case] {
        let request = self.shared().request.load(Ordering::Acquire);
        assert!(request - self.collected < 2, "a slot is free");
        &mut self.slot(request).cases
    }

    /// Hands over the first `count` of [`Native::cases`].
    pub fn submit(&mut self, count: usize) {
        let request = self.shared().request.load(Ordering::Acquire);
        let slot = self.slot(request);
        (slot.count, slot.start) = (count.min(BATCH) as u32, 0);
        slot.outcomes[..count].fill(Outcome::NONE);
        self.shared().request.store(request + 1, Ordering::Release);
        wake(&self.shared().request);
    }

    /// Whether a batch has been submitted and not collected.
    pub fn under_way(&self) -> bool {
        self.shared().request.load(Ordering::Acquire) != self.collected
    }

    /// Waits for the oldest batch under way.
    ///
    /// # Errors
    /// When a child that died can't be replaced.
    pub fn collect(&mut self) -> Result<Batch<'_>, String> {
        let mine = self.collected;
        let mut last = (u32::MAX, u32::MAX);
        let mut idle = 0;
        while self.shared().done.load(Ordering::Acquire) == mine {
            wait(&self.shared().done, mine, 250);
            if self.shared().done.load(Ordering::Acquire) != mine {
                break;
            }
            let now = (mine, self.shared().current.load(Ordering::Acquire));
            idle = if now == last { idle + 1 } else { 0 };
            last = now;
            // SAFETY: our own child; the status isn't wanted.
            let dead =
                unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG) } == self.pid;
            if dead || idle >= 20 {
                if dead {
                    self.pid = -1;
                }
                self.end();
                self.deaths += 1;
                let current = now.1;
                let slot = self.slot(mine);
                slot.outcomes[current as usize].ending = Ending::Lost;
                slot.start = current + 1;
                self.fork()?;
            }
        }
        self.collected += 1;
        let slot = self.slot(mine);
        Ok(Batch { slot })
    }

    /// Runs one case.
    pub fn run_one(&mut self, case: &Case) -> Result<(Outcome, Vec<crate::case::Change>), String> {
        self.cases()[0] = *case;
        self.submit(1);
        let batch = self.collect()?;
        let (_, result) = batch.get(0);
        Ok((*result.out, result.changes.to_vec()))
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.end();
        shared::unmap(self.shared);
    }
}

/// A batch that has been run.
pub struct Batch<'a> {
    slot: &'a Slot,
}

impl Batch<'_> {
    /// How many cases it has.
    pub fn len(&self) -> usize {
        self.slot.count as usize
    }

    /// A case and what became of it.
    pub fn get(&self, n: usize) -> (&Case, CaseResult<'_>) {
        let out = &self.slot.outcomes[n];
        (
            &self.slot.cases[n],
            CaseResult {
                out,
                changes: &self.slot.changes[n][..out.changes as usize],
            },
        )
    }
}
