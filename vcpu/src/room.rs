//! How much of the host's memory engines may use: tried before they are made, so that a host with little of it (`ulimit -v`)
//! gets smaller caches, not an end in the midst of things.

use softmmu::room;

use crate::engines::{EngineKind, EngineOptions, Windows};

const MIB: u64 = 1 << 20;
/// What a machine needs besides engines: devices, files on their way, the stacks of its threads.
const MACHINE: u64 = 32 * MIB;
/// What a vCPU needs with any engine: stack, TLBs, frame.
const CPU: u64 = 20 * MIB;
/// Bytes for each byte of code: two mappings, and the tables about it.
const CODE: u64 = 3;
/// What translation takes meanwhile.
const TRANSLATOR: u64 = 8 * MIB;
/// The smallest code cache that is any use.
const MIN_CODE: usize = 1 << 20;
/// The smallest cache of the interpreter's blocks.
const MIN_BLOCKS: usize = 4 << 20;

/// Bytes that engines need for so many vCPUs.
fn needs(kind: EngineKind, cpus: u64, code: usize, blocks: usize) -> u64 {
    let blocks = blocks as u64;
    match kind {
        EngineKind::Interp => cpus * (CPU + blocks),
        // The translator's own interpreter rarely has much to do.
        EngineKind::Jit => cpus * CPU + blocks + CODE * code as u64 + TRANSLATOR,
    }
}

/// What fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    kind: EngineKind,
    code: usize,
    blocks: usize,
}

/// The first of ever smaller plans that is given room: smaller caches, then the interpreter.
fn choose(first: Plan, cpus: u64, fits: impl Fn(u64) -> bool) -> Option<Plan> {
    let fit = |plan: &Plan| fits(MACHINE + needs(plan.kind, cpus, plan.code, plan.blocks));
    let mut plan = first;
    loop {
        if fit(&plan) {
            return Some(plan);
        }
        if plan.kind == EngineKind::Jit && plan.code > MIN_CODE {
            plan.code = (plan.code / 2).max(MIN_CODE);
            plan.blocks = (plan.blocks / 2).max(MIN_BLOCKS);
        } else if plan.blocks > MIN_BLOCKS {
            plan.blocks = (plan.blocks / 2).max(MIN_BLOCKS);
        } else if plan.kind == EngineKind::Jit {
            plan.kind = EngineKind::Interp;
        } else {
            return None;
        }
    }
}

/// Fits an engine for so many vCPUs to the host's memory, with a warning where something had to be given up.
///
/// # Errors
/// How many MiB at least should be free, where nothing fits.
pub fn fit(kind: EngineKind, options: &mut EngineOptions, cpus: usize) -> Result<EngineKind, u64> {
    let first = Plan {
        kind,
        code: options
            .code_cache
            .unwrap_or(backend_jit::Options::default().code_cache),
        blocks: options.blocks.unwrap_or(backend_interp::MAX_CACHE),
    };
    let cpus = cpus as u64;
    let Some(plan) = choose(first, cpus, room) else {
        let least = needs(EngineKind::Interp, cpus, 0, MIN_BLOCKS) + MACHINE;
        return Err(least / MIB);
    };
    if plan != first {
        let with = match plan.kind {
            EngineKind::Jit if plan.code < first.code => {
                format!("a code cache of {} MiB", plan.code as u64 / MIB)
            }
            EngineKind::Interp if kind == EngineKind::Jit => "the interpreter".to_owned(),
            _ => format!(
                "{} MiB for the interpreter's blocks",
                plan.blocks as u64 / MIB
            ),
        };
        tracing::warn!("the host has little memory left: going on with {with}");
        options.code_cache = Some(plan.code);
        options.blocks = Some(plan.blocks);
        // They take 8 GiB of address space.
        options.windows = Windows::Never;
    }
    Ok(plan.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_room_means_less_and_never_more_than_there_is() {
        for kind in EngineKind::ALL {
            let first = Plan {
                kind,
                code: 64 << 20,
                blocks: 96 << 20,
            };
            for cpus in [1, 4, 64] {
                let mut before: Option<Plan> = None;
                for room in (0..8192).map(|n| n * MIB) {
                    let plan = choose(first, cpus, |bytes| bytes <= room);
                    if let Some(plan) = plan {
                        assert!(MACHINE + needs(plan.kind, cpus, plan.code, plan.blocks) <= room);
                        assert!(plan.code >= MIN_CODE && plan.blocks >= MIN_BLOCKS);
                    }
                    if let Some(before) = before {
                        let plan = plan.expect("what fitted fits");
                        assert!(plan.code >= before.code || plan.kind != before.kind);
                        assert!(before.kind == plan.kind || before.kind == EngineKind::Interp);
                    }
                    before = plan;
                }
                assert_eq!(before, Some(first));
            }
        }
    }

    #[test]
    fn the_host_that_runs_this_has_room() {
        let mut options = EngineOptions::default();
        assert_eq!(fit(EngineKind::Jit, &mut options, 1), Ok(EngineKind::Jit));
        assert_eq!(options.code_cache, None);
        assert!(!room(u64::MAX), "nobody has");
    }
}
