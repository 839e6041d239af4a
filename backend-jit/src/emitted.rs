//! What the emitter makes of some code, or of a trace through it, without an engine around it: for the file tests of emission.

use std::fmt::Write;

use frontend_x86::{Features, Limits, Mode};
use ir::opt::Switches;
use translation::{BlockId, CodeMemory, Key};
use x86::AddressMap;

use crate::callouts;
use crate::core::{MAX_BRANCHES, MAX_INSNS};
use crate::dump::{Names, lines};
use crate::hops::By;
use crate::trace::{Plan, Source};
use crate::x64::asm::{Asm, Section};
use crate::x64::emit::{Context, Part, Parts, emit, segmented};
use crate::x64::runtime::{self, Vectors};

/// Linear address that the guest's code is translated for.
const LIN: u64 = 0x40_1000;

/// The host code of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Guest bytes that it stands for.
    pub guest: u32,
    /// Bytes of what always runs.
    pub hot: u32,
    /// Bytes of the rest.
    pub cold: u32,
    /// Both as text: offsets, names of stubs.
    pub text: String,
}

/// How a block finds guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// By the page last used.
    Pages,
    /// By the TLB.
    Tlb,
    /// Loads by the table of large pages.
    Large,
    /// Through a window.
    Window,
}

impl Memory {
    fn by(self) -> By {
        match self {
            Self::Pages | Self::Window => By::Page,
            Self::Tlb => By::Tlb,
            Self::Large => By::Large,
        }
    }
}

/// A block that is part of a trace.
#[derive(Clone, Debug)]
pub struct TracePart {
    /// Where it begins, from the trace's start.
    pub by: i32,
    /// The guest's code from there on.
    pub code: Vec<u8>,
    /// By which of its instructions (from 0) the trace leaves it, and where to (from the trace's start).
    pub leave: Option<(u32, i32)>,
}

/// Translates a block that the page table of blocks knows, and whose flags are in memory, or where its own jump to itself
/// leaves them. `None`: this host cannot, or the interpreter must run it.
pub fn emitted(code: &[u8], mode: Mode, features: &Features, way: Memory) -> Option<Emitted> {
    let limits = Limits {
        max_insns: MAX_INSNS,
        page: code.len() as u32,
        branches: MAX_BRANCHES,
    };
    let mut block = frontend_x86::lift(code, &limits, mode, features).block;
    ir::opt::run(&mut block, Switches::ALL);
    whole(&block, block.len, &[], mode, features, way)
}

/// Translates blocks that lead to one another as one; the last one leads to the first where it is left for offset 0. `None`
/// also when they make no trace.
pub fn emitted_trace(
    parts: &[TracePart],
    mode: Mode,
    features: &Features,
    way: Memory,
) -> Option<Emitted> {
    let lin = |by: i32| LIN.wrapping_add_signed(by.into());
    let sources = parts.iter().map(|part| Source {
        id: BlockId(0),
        key: Key {
            lin: lin(part.by),
            cs: 0,
            phys: lin(part.by),
            mode: mode.bits(),
            flags: 0,
        },
        bytes: &part.code,
        leave: part.leave.map(|(ord, to)| (ord, lin(to))),
    });
    let closed = parts.last()?.leave.is_some_and(|(_, to)| to == 0);
    let plan = Plan::of(sources, closed, 0, *features, Switches::ALL)?;
    let (block, count) = plan.translate()?;
    let guards = plan.guarded().enumerate().map(|(n, guarded)| Part {
        guards: [guarded.then_some((n + 1, n as u32 + 2)), None],
        by: way.by(),
    });
    let guest: usize = parts[..count].iter().map(|part| part.code.len()).sum();
    let guards: Vec<Part> = guards.collect();
    whole(&block, guest as u32, &guards, mode, features, way)
}

/// What becomes of a block, which is some bytes of guest code.
fn whole(
    block: &ir::Block,
    guest: u32,
    trace: &[Part],
    mode: Mode,
    features: &Features,
    way: Memory,
) -> Option<Emitted> {
    let blind = AddressMap::default();
    let mut memory = CodeMemory::new(1 << 16).ok()?;
    let stubs = runtime::build(&mut memory, &callouts::ALL, Vectors::of(features))?;
    let mut context = Context {
        mode,
        key: 0,
        ip: LIN,
        cs: segmented(mode).then_some((0x1230, 0xffff)),
        flags: None,
        count: false,
        id: 0,
        first: [0; 3],
        guards: [Some((0, 1)), None],
        merge: true,
        by: way.by(),
        window: (way == Memory::Window).then_some(&blind),
        host_float: true,
        host_x87: true,
        check: None,
        parts: trace,
    };
    let mut asm = Asm::default();
    let mut compiled = emit(&mut asm, &stubs, block, context, Parts::default()).ok()?;
    // What a loop is when it has come round.
    let again = compiled
        .exits
        .iter()
        .find(|e| e.target == LIN && !e.unmerged);
    if let Some(flags) = again.and_then(|e| e.flags) {
        context.flags = Some(flags);
        compiled = emit(&mut asm, &stubs, block, context, Parts::default()).ok()?;
    }
    let lens = (asm.len(Section::Hot), asm.len(Section::Cold));
    let (hot, cold) = memory.alloc(lens.0, lens.1, compiled.align)?;
    let (hot_bytes, cold_bytes) = asm.link(hot, cold);
    let parts = [
        ("hot", memory.address(hot), hot_bytes),
        ("cold", memory.address(cold), cold_bytes),
    ];
    let stubs = stubs.names().map(|(name, at)| (name, memory.address(at)));
    let names = Names {
        stubs: stubs.into(),
        parts: parts
            .map(|(name, at, bytes)| (name, at, bytes.len() as u64))
            .into(),
    };
    let mut text = String::new();
    for (name, start, bytes) in parts {
        for (at, line) in lines(start, bytes, &names) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {name}+{:<3x} {line}", at - start);
        }
    }
    Some(Emitted {
        guest,
        hot: lens.0,
        cold: lens.1,
        text,
    })
}
