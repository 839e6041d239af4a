//! What people are shown of the cache: names for perf, listings of blocks, which slow ops run.

use std::collections::HashMap;
use std::fmt;

use frontend_x86::Mode;
use system::Vcpu;
use translation::Info;

use crate::core::{Core, Own, mode_of};
use crate::dump::Names;

/// Blocks that a report lists.
const MAX_LISTINGS: usize = 3;

impl Core {
    /// Tells perf of the stubs, each of which ends where the next one begins.
    pub fn tell_stubs(&self) {
        let Some(perf) = &self.perf else { return };
        let mut stubs = self.stubs.names().to_vec();
        stubs.sort_by_key(|(_, at)| *at);
        let end = self.memory.kept();
        let ends = stubs.iter().skip(1).map(|(_, at)| *at).chain([end]);
        for ((name, at), end) in stubs.iter().zip(ends) {
            let mut code = vec![0; end.saturating_sub(*at) as usize];
            self.memory.read(*at, &mut code);
            perf.add(
                self.memory.address(*at),
                &code,
                &format_args!("doppel:{name}"),
            );
        }
    }

    /// The stubs by name.
    pub(crate) fn names(&self) -> Names {
        let stubs = self.stubs.names();
        Names {
            stubs: stubs
                .map(|(name, at)| (name, self.memory.address(at)))
                .into(),
            parts: Vec::new(),
        }
    }

    /// The blocks that hold the instruction at RIP, as text: it alone first, then the last made.
    pub fn listing(&self, v: &Vcpu) -> Option<String> {
        let (lin, mode, names) = (v.st.rip, Mode::of(&v.st), self.names());
        let holds = |info: &&Info<Own>| {
            lin.wrapping_sub(info.key.lin) < info.bytes.len() as u64
                && mode_of(info.key.mode) == mode
        };
        let mut found: Vec<_> = self.blocks.iter().rev().filter(holds).collect();
        found.sort_by_key(|info| info.own.insns > 1);
        let listings: Vec<_> = found
            .into_iter()
            .take(MAX_LISTINGS)
            .map(|info| {
                let own = &info.own;
                let [hot, cold] = [info.hot, info.cold].map(|(at, len)| {
                    let mut bytes = vec![0; len as usize];
                    self.memory.read(at, &mut bytes);
                    bytes
                });
                let (hot, cold) = (
                    (self.memory.address(info.hot.0), hot.as_slice()),
                    (self.memory.address(info.cold.0), cold.as_slice()),
                );
                let head = crate::dump::head(info.key.lin, own.flags);
                let stale = if info.stale { ", stale" } else { "" };
                let code = crate::dump::code(hot, cold, &names);
                format!("{head}, {} instructions{stale}\n{code}", own.insns)
            })
            .collect();
        (!listings.is_empty()).then(|| listings.concat())
    }
}

/// How often slow ops have run, by what they are, the most frequent first.
pub fn slow_kinds(kinds: HashMap<(ir::OpCode, u32), u64>) -> Vec<(String, u64)> {
    let mut kinds: Vec<_> = kinds
        .into_iter()
        .map(|((code, sub), runs)| {
            let name = match code {
                ir::OpCode::Call => {
                    ir::HelperId::from_index(sub).map_or("?".into(), |h| h.name().into())
                }
                ir::OpCode::Vec | ir::OpCode::X87 => {
                    ir::VecInsn::decode(sub).map_or("?".into(), |insn| format!("{:?}", insn.code))
                }
                ir::OpCode::String => ir::StringOp::decode(sub).map_or("?".into(), |s| {
                    format!("{} {}", s.rep.name(), s.kind.name()).trim().into()
                }),
                other => other.info().name.into(),
            };
            (name, runs)
        })
        .collect();
    kinds.sort_by_key(|(_, runs)| std::cmp::Reverse(*runs));
    kinds
}

/// A block's name for perf: the guest's address and mode.
pub struct Name(pub u64, pub Mode);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bits, cpl) = (self.1.code().bits(), self.1.cpl());
        write!(f, "guest{bits}-cpl{cpl}:{:#x}", self.0)
    }
}

/// The op that an instruction is left to the interpreter for, most likely: a helper's call, or else the last one.
pub fn unusual(ops: &[ir::Op]) -> (ir::OpCode, u32) {
    use ir::OpCode as C;
    let known = |code| {
        matches!(
            code,
            C::Insn | C::Mov | C::Lea | C::Load | C::Store | C::Jump | C::Exit
        )
    };
    let op = ops.iter().find(|op| !known(op.code)).or(ops.last());
    op.map_or((C::Insn, 0), |op| {
        let told = matches!(op.code, C::Call | C::Vec | C::X87 | C::String);
        (op.code, if told { op.sub } else { 0 })
    })
}
