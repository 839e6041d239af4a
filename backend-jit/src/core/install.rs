//! A block's code comes to its place: emission, links, side tables.

use std::io::Write;
use std::sync::Arc;

use frontend_x86::Mode;
use softmmu::GuestRam;
use translation::{BlockId, Info, Key};

use super::{Checked, Code, Core, Making, Own, Refused, Side, Site, Slow, View, key, mode_of};
use crate::copies::SlowPart;
use crate::links::Exit;
use crate::report::{Name, unusual};
use crate::x64::asm::Section;
use crate::x64::emit::{self, Context};

impl Core {
    /// Emits a block's code and puts it in its place. Without `ram`, only if there is room.
    pub fn install(
        &mut self,
        ram: Option<&GuestRam>,
        code: Code<'_>,
        making: Making<'_>,
        bytes: &[u8],
    ) -> Result<BlockId, Refused> {
        let Making {
            wanted,
            flags,
            second,
            stamps,
            check,
            parts: trace,
        } = making;
        let mode = mode_of(wanted.mode);
        let lin = wanted.lin;
        let mut asm = std::mem::take(&mut self.asm);
        let mut tried = false;
        let pages = match self.hold_pages(&wanted, second) {
            Some(pages) => pages,
            None => {
                // All numbers were used up: from the start again when the last holder is gone.
                if ram.is_some() {
                    self.clear();
                }
                return Err(Refused::Now);
            }
        };
        let (compiled, place, context) = loop {
            while self.retired[self.memory.region()].1 {
                if ram.is_none_or(|ram| !self.turn(ram)) {
                    self.asm = asm;
                    self.release_pages(&wanted, second);
                    return Err(Refused::Now);
                }
            }
            let region = self.memory.region();
            let context = Context {
                mode,
                key: wanted.mode & !mode.bits() & !(key::UNMERGED | key::WINDOW),
                ip: wanted.ip(),
                cs: emit::segmented(mode).then_some((wanted.cs as u32, (wanted.cs >> 32) as u32)),
                flags,
                count: wanted.mode & key::COUNT != 0,
                id: self.blocks.next_id(region).0,
                first: [
                    self.exits.next(region),
                    self.indirects.next(region),
                    self.slow.next(region),
                ],
                guards: pages,
                merge: wanted.mode & (key::UNMERGED | key::SINGLE) == 0,
                by: self.hops.by(&wanted),
                window: (wanted.mode & key::WINDOW != 0).then_some(&self.blind),
                host_float: wanted.mode & key::UNMASKED == 0,
                host_x87: wanted.mode & key::X87_UNMASKED == 0,
                check,
                parts: trace,
            };
            let parts = std::mem::take(&mut self.parts);
            let emitted = match code {
                Code::Block { block, .. } => {
                    emit::emit(&mut asm, &self.stubs, block, context, parts)
                }
                Code::Original { original, .. } => Ok(original.copy(&mut asm, &context, parts)),
            };
            let Ok(compiled) = emitted else {
                self.asm = asm;
                self.release_pages(&wanted, second);
                return Err(Refused::Ever);
            };
            let lens = (asm.len(Section::Hot), asm.len(Section::Cold));
            if let Some(place) = self.memory.alloc(lens.0, lens.1, compiled.align) {
                break (compiled, place, context);
            }
            if std::mem::replace(&mut tried, true) {
                self.asm = asm;
                self.release_pages(&wanted, second);
                return Err(Refused::Ever);
            }
            if ram.is_none_or(|ram| !self.turn(ram)) {
                self.asm = asm;
                self.release_pages(&wanted, second);
                return Err(Refused::Now);
            }
        };
        let region = self.memory.region();
        let (hot, cold) = place;
        let lens = (asm.len(Section::Hot), asm.len(Section::Cold));
        if let Code::Original {
            block: Some(block), ..
        } = code
        {
            self.copies
                .check(&self.stubs, block, context, &mut asm, place);
        }
        let (hot_bytes, cold_bytes) = asm.link(hot, cold);
        self.memory.write(hot, hot_bytes);
        self.memory.write(cold, cold_bytes);
        if let Code::Block { block, .. } = code
            && self.dump.wants(lin, bytes.len() as u64)
        {
            let code = (self.memory.address(hot), hot_bytes);
            let side = (self.memory.address(cold), cold_bytes);
            let names = self.names();
            let text = self.dump.block(lin, flags, block, code, side, &names);
            // Who cannot be shown it (a full disk) still has the guest run.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        if let Some(perf) = &self.perf {
            let name = Name(lin, mode);
            let name = format!("{}{name}", if trace.is_empty() { "" } else { "trace:" });
            perf.add(self.memory.address(hot), hot_bytes, &name);
            perf.add(
                self.memory.address(cold),
                cold_bytes,
                &format_args!("{name}.cold"),
            );
        }
        let at = |label| asm.resolve(label, hot, cold);
        let id = self.blocks.next_id(region);
        for e in &compiled.exits {
            let exit = Exit {
                block: id,
                hot: hot + e.hot,
                stub: cold + e.stub,
                target: e.target,
                flags: e.flags,
                direct: e.direct,
                careless: e.careless,
                ord: e.ord,
                mode: if e.unmerged {
                    wanted.mode | key::UNMERGED
                } else {
                    wanted.mode & !key::UNMERGED
                },
                link: None,
            };
            self.exits.push(region, exit);
        }
        for indirect in &compiled.indirects {
            self.indirects.push(region, (id, *indirect));
        }
        let insns = match code {
            Code::Block { block, .. } => block.insns,
            Code::Original { original, .. } => original.insns,
        };
        let first_slow = context.first[2];
        for (n, slow) in compiled.slow.iter().enumerate() {
            let (op, len, from) = match code {
                Code::Block { block, .. } => slow_part(block, slow, mode),
                Code::Original { original, .. } => original.slow[n].clone(),
            };
            let site = Site {
                len,
                ord: slow.ord,
                flags: slow.flags,
                x87: slow.x87,
                direct: slow.direct,
                ip: wanted.ip().wrapping_add_signed(i64::from(slow.delta)),
                mode: wanted.mode,
                insns: insns as u16,
            };
            let slow = Slow { site, op, from };
            self.slow.push(region, Arc::new(slow));
        }
        self.stats.slow_sites += compiled.slow.len() as u64;
        let sides: Box<[Side]> = {
            let mut sides: Vec<Side> = compiled
                .sides
                .iter()
                .map(|s| Side {
                    at: at(s.at),
                    delta: s.delta,
                    ord: s.ord,
                    flags: s.flags,
                    kind: s.kind,
                })
                .collect();
            sides.sort_unstable_by_key(|s| s.at);
            sides.into()
        };
        let views = compiled.views.iter().map(|view| View {
            at: at(view.at),
            host_flags: view.host_flags,
            side: Side {
                at: at(view.at),
                delta: view.delta,
                ord: view.ord,
                flags: view.flags,
                kind: view.kind,
            },
            failed: 0,
        });
        let views = views.collect();
        let entry = at(compiled.entry);
        let own = Own {
            entry,
            by: self.hops.by(&wanted),
            hops: 0,
            guarded: at(compiled.guarded),
            stale: at(compiled.stale),
            // One that takes flags from anywhere serves all.
            flags: flags.filter(|_| !compiled.flags_dead),
            insns: insns as u16,
            flags_dead: compiled.flags_dead,
            repeats: compiled.repeats,
            checked: check.zip(compiled.fail).map(|(check, fail)| Checked {
                fail: cold + fail,
                fields: check.fields.into(),
            }),
            incoming: Vec::new(),
            heat: 0,
            trace: None,
            traces: Vec::new(),
            begins: compiled.begins.clone(),
            sides,
            views,
            outdated: false,
            pages,
        };
        if let Code::Block { block, keep: true } = code {
            let slow = (first_slow..self.slow.next(region))
                .filter_map(|n| self.slow.get(n))
                .map(|slow| (slow.op, slow.site.len, Arc::clone(&slow.from)))
                .collect();
            self.copies.keep(
                &self.stubs,
                block,
                &wanted,
                &context,
                &asm,
                place,
                bytes,
                slow,
            );
        }
        self.asm = asm;
        self.parts = compiled.recycle();
        let key = if own.flags_dead {
            Key { flags: 0, ..wanted }
        } else {
            wanted
        };
        self.stats.variants += u64::from(key.flags != 0);
        self.stats.windowed += own.views.len() as u64;
        self.stats.checked += u64::from(own.checked.is_some());
        self.stats.blocks += 1;
        self.copies.copied += u64::from(matches!(code, Code::Original { .. }));
        self.stats.insns += u64::from(insns);
        self.stats.bytes += bytes.len() as u64;
        self.stats.hot += u64::from(lens.0);
        self.stats.cold += u64::from(lens.1);
        // One that takes flags from anywhere is instead of one that doesn't, too.
        let olds = [Some(key), Some(wanted).filter(|w| *w != key)]
            .map(|key| key.and_then(|key| self.blocks.find(key)));
        self.blocks.insert(
            region,
            Info {
                key,
                bytes: bytes.into(),
                second,
                tracked: stamps.is_some(),
                stamps: stamps.unwrap_or_default(),
                stale: false,
                cold: (cold, lens.1),
                hot: (hot, lens.0),
                own,
            },
        );
        for old in olds.into_iter().flatten() {
            self.blocks.forget_key(old);
            if self.blocks.get(old).own.checked.is_some() {
                continue;
            }
            if *self.blocks.get(old).bytes != *bytes {
                self.changing
                    .changed(&wanted, &self.blocks.get(old).bytes, bytes);
            }
            self.replace(old, id);
        }
        Ok(id)
    }
}

/// An instruction of a block for the interpreter.
fn slow_part(block: &ir::Block, slow: &emit::Slow, mode: Mode) -> SlowPart {
    let ops = &block.ops[slow.ops.0 as usize..slow.ops.1 as usize];
    let mut own = ops.to_vec();
    // As an instruction by itself.
    ir::join::shift(&mut own, -slow.delta);
    let part = ir::Block {
        ops: own,
        len: block.len,
        insns: 1,
        temps: block.temps,
        vec_temps: block.vec_temps,
    };
    let len = (ops[0].sub & 15) as u8;
    (unusual(ops), len, Arc::new((part, mode)))
}
