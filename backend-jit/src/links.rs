//! How blocks lead to one another: direct exits linked and set back, blocks replaced, regions of code memory dropped.
//!
//! A block knows the exits that are linked to it, and an exit where it is linked to, so that either may go without the
//! other. Links are the only code that changes, while others may be running it (see `shared.rs`).

use softmmu::GuestRam;
use translation::{BlockId, region_of};

use crate::core::{Core, key};
use crate::x64::flags::Desc;

/// A direct exit.
#[derive(Clone, Copy)]
pub struct Exit {
    pub block: BlockId,
    /// Places of the displacements in hot code and in the stub.
    pub hot: u32,
    pub stub: u32,
    pub target: u64,
    pub flags: Option<Desc>,
    pub direct: bool,
    pub careless: bool,
    /// The mode of the block that it leads to.
    pub mode: u64,
    /// The number of the instruction that it is a way out of.
    pub ord: u16,
    pub link: Option<Link>,
}

/// Where an exit leads.
#[derive(Clone, Copy)]
pub struct Link {
    pub to: BlockId,
    /// The displacement that was changed, and where it led before.
    place: u32,
    back: u32,
}

impl Core {
    /// Makes an exit lead to a block that was found for it.
    pub fn link(&mut self, number: u32, to: BlockId) {
        let Some(exit) = self.exits.get(number).copied() else {
            return;
        };
        let (from, target) = (self.blocks.get(exit.block), self.blocks.get(to));
        if from.key.mode & key::SINGLE != 0
            || exit.mode != target.key.mode
            || from.key.cs != target.key.cs
            || exit.link.is_some()
        {
            return;
        }
        let trace = from.own.trace.as_ref();
        let here = trace.and_then(|t| t.part(exit.ord)).unwrap_or(from.key);
        let near = (here.lin ^ target.key.lin) & !x86::PAGE_MASK == 0
            && here.phys & !x86::PAGE_MASK == target.key.phys & !x86::PAGE_MASK
            && target.second.is_none();
        let own = &target.own;
        let goal = if near { own.entry } else { own.guarded };
        let same = exit.direct && own.flags == exit.flags;
        // Another page may come to hold other code, which looks at them.
        let dead = exit.careless && own.flags_dead && near;
        let link = if same || dead {
            let mut old = [0; 4];
            self.memory.read(exit.hot, &mut old);
            Link {
                to,
                place: exit.hot,
                back: u32::from_le_bytes(old).wrapping_add(exit.hot + 4),
            }
        } else if own.flags.is_none() {
            Link {
                to,
                place: exit.stub,
                // What leaves is right behind.
                back: exit.stub + 4,
            }
        } else {
            return;
        };
        self.memory.retarget(link.place, goal);
        self.blocks.get_mut(to).own.incoming.push(number);
        if let Some(exit) = self.exits.get_mut(number) {
            exit.link = Some(link);
        }
    }

    /// Makes an exit lead to its stub again. The block that it led to must forget it.
    pub(crate) fn set_back(&mut self, number: u32) {
        if let Some(link) = self.exits.get_mut(number).and_then(|e| e.link.take()) {
            self.memory.retarget(link.place, link.back);
        }
    }

    /// Whoever comes to a block asks for it anew; traces with it go.
    pub(crate) fn unlink(&mut self, id: BlockId) {
        self.lead_away(id);
        self.drop_traces(id);
    }

    /// As [`Core::unlink`], of the block alone.
    pub(crate) fn lead_away(&mut self, id: BlockId) {
        let info = self.blocks.get_mut(id);
        self.gone.add(info.key.lin);
        for number in std::mem::take(&mut info.own.incoming) {
            self.set_back(number);
        }
    }

    /// Whoever is linked to a block comes to another one that serves for the same key.
    pub fn replace(&mut self, old: BlockId, new: BlockId) {
        let info = self.blocks.get_mut(old);
        info.stale = true;
        self.gone.add(info.key.lin);
        if self.blocks.get(old).bytes == self.blocks.get(new).bytes {
            self.inherit_traces(old, new);
        }
        self.drop_traces(old);
        let may_link = self.settled_for_good(new);
        for number in std::mem::take(&mut self.blocks.get_mut(old).own.incoming) {
            self.set_back(number);
            if may_link {
                self.link(number, new);
            }
        }
    }

    /// Goes on to the region of code memory whose turn it is, and drops the blocks that are there; false when other
    /// vCPUs must leave their code first, which they are asked to.
    pub(crate) fn turn(&mut self, ram: &GuestRam) -> bool {
        let region = self.memory.next_region();
        if !self.retired[region].1 && !self.blocks.of(region).is_empty() {
            self.retire(region);
        }
        let (generation, there) = self.retired[region];
        if there {
            let waiting = self.epochs.before(generation);
            if waiting != 0 {
                ram.kick(waiting);
                return false;
            }
            self.drop_region(region);
            self.stats.reclaimed += 1;
        }
        self.memory.turn();
        if region == 0 {
            // Once around: what was guessed of places may be wrong by now, and not all of them have blocks.
            self.forget_guesses();
            self.changing.forget_idle();
        }
        true
    }

    /// Forgets all code, as far as nobody is in it.
    pub fn clear(&mut self) {
        for region in 0..self.memory.regions() {
            if !self.retired[region].1 {
                self.retire(region);
            }
            if self.epochs.before(self.retired[region].0) == 0 {
                self.drop_region(region);
            }
        }
        if !self.retired[self.memory.next_region()].1 {
            self.memory.turn();
        }
        self.forget_guesses();
        self.changing.clear();
    }

    /// Forgets what was found out about places, but for how their code changes.
    fn forget_guesses(&mut self) {
        self.unsuitable.clear();
        self.variants.clear();
        self.hops.clear();
        self.traces.start_again();
        self.blind.clear();
    }

    /// Nobody comes to a region's blocks any more who does not yet know of them: exits are set back, keys and versions
    /// forgotten.
    fn retire(&mut self, region: usize) {
        let outside = |number: &u32| region_of(*number) != region;
        let all = self.blocks.of(region).iter();
        let incoming: Vec<u32> = all
            .flat_map(|info| &info.own.incoming)
            .copied()
            .filter(outside)
            .collect();
        for number in incoming {
            self.set_back(number);
        }
        for info in self.blocks.of_mut(region) {
            info.own.incoming.retain(|number| !outside(number));
        }
        let first = self.blocks.first(region).0;
        for n in 0..self.blocks.of(region).len() as u32 {
            self.drop_traces(BlockId(first + n));
        }
        self.traces.forget();
        self.blocks.retire(region);
        for key in self.changing.forget_region(region) {
            self.chain(&key);
        }
        self.generation += 1;
        self.retired[region] = (self.generation, true);
    }

    /// Forgets a retired region's blocks.
    ///
    /// Nothing runs in it: each vCPU was seen outside of translated code since it was retired, and has then taken what
    /// leads there out of its jump caches. Numbers of its blocks, exits and slow ops stand in its own code only, and
    /// what the vCPU that is here has brought along from its code was looked up before.
    fn drop_region(&mut self, region: usize) {
        self.retired[region].1 = false;
        let links = self.exits.of(region).iter().filter_map(|exit| exit.link);
        let mut targets: Vec<BlockId> = links
            .map(|link| link.to)
            .filter(|to| to.region() != region)
            .collect();
        targets.sort_unstable();
        targets.dedup();
        for id in targets {
            let own = &mut self.blocks.get_mut(id).own;
            own.incoming.retain(|number| region_of(*number) != region);
        }
        for info in self.blocks.take(region) {
            self.release_pages(&info.key, info.second);
            self.variants.remove(&(info.key.lin, info.key.phys));
        }
        self.exits.take(region);
        self.indirects.take(region);
        self.slow.take(region);
        self.renumber();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use backend_interp::Interp;
    use frontend_x86::Features;
    use iced_x86::IcedError;
    use iced_x86::code_asm::*;
    use system::testing::{Machine, START};
    use system::{Engine, Exit, event};
    use x86::PhysAddr;

    use crate::core::Core;
    use crate::x64::frame::Frame;
    use crate::{Jit, Options, Tracing};

    const PLACES: u64 = 500;
    /// Bytes from one to the next.
    const STEP: u64 = 128;

    fn place(n: u64) -> u64 {
        START + n * STEP
    }

    /// One of the places that a program walks through: they jump to one another, call and return, and write to the
    /// constants of others, what was there before if `same`.
    fn code(n: u64, same: bool, random: &mut impl FnMut(u64) -> u64) -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        match n % 5 {
            // The constant of its ADD is what others write to.
            0 => a.add(ebx, 0x0102_0304)?,
            1 => {
                a.mov(edi, (place(random(PLACES / 5) * 5) + 2) as u32)?;
                if same {
                    a.mov(byte_ptr(rdi), 4)?;
                } else {
                    a.mov(byte_ptr(rdi), r8b)?;
                }
            }
            2 => a.call(place(PLACES))?,
            _ => a.cmp(ebx, r8d)?,
        }
        a.dec(ecx)?;
        a.jz(place(PLACES + 1))?;
        a.imul_3(r8d, r8d, 1_664_525)?;
        a.add(r8d, 0x3c6e_f35f)?;
        if n % 5 == 3 {
            a.mov(eax, r8d)?;
            a.shr(eax, 24)?;
            a.imul_3(eax, eax, STEP as i32)?;
            a.add(eax, START as i32)?;
            a.jmp(rax)?;
        } else {
            a.test(r8d, 1 << (8 + random(20)))?;
            a.jz(place(random(PLACES)))?;
            a.cmp(r8d, ebx)?;
            a.jb(place(random(PLACES)))?;
            a.jmp(place(random(PLACES)))?;
        }
        a.assemble(place(n))
    }

    fn machine(same: bool) -> Machine {
        let mut m = Machine::long(0, true);
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let lay = |at: u64, bytes: &[u8]| {
            assert!(bytes.len() as u64 <= STEP, "a place is too small");
            m.ram.write(PhysAddr(at), bytes).expect("RAM");
        };
        for n in 0..PLACES {
            lay(place(n), &code(n, same, &mut random).expect("it assembles"));
        }
        // ROL EBX, 1; RET; and HLT.
        lay(place(PLACES), &[0xd1, 0xc3, 0xc3]);
        lay(place(PLACES + 1), &[0xf4]);
        m.v.st.gpr[x86::Gpr::Rcx as usize] = 20_000;
        m
    }

    /// Whatever leads to a block leads to one that is there.
    fn look(core: &Core, frame: &Frame) {
        let place_of = |at: u32| {
            let mut rel = [0; 4];
            core.memory.read(at, &mut rel);
            at.wrapping_add(4).wrapping_add(u32::from_le_bytes(rel))
        };
        let within = |at: u32, (start, len): (u32, u32)| at.wrapping_sub(start) < len;
        let mut incoming = 0;
        for region in 0..core.memory.regions() {
            for (n, exit) in core.exits.of(region).iter().enumerate() {
                let number = core.exits.first(region) + n as u32;
                let from = core.blocks.get(exit.block);
                assert!(within(exit.hot, from.hot) && within(exit.stub, from.cold));
                let Some(link) = exit.link else {
                    let stub = !exit.direct || within(place_of(exit.hot), from.cold);
                    assert!(stub, "no way to the stub");
                    assert_eq!(place_of(exit.stub), exit.stub + 4, "a link nobody knows");
                    continue;
                };
                let to = core.blocks.get(link.to);
                let goal = place_of(link.place);
                assert!(
                    goal == to.own.entry || goal == to.own.guarded,
                    "it leads astray"
                );
                let trace = from.own.trace.as_ref();
                let here = trace.and_then(|t| t.part(exit.ord)).unwrap_or(from.key);
                let page = |key: &translation::Key| (key.lin >> 12, key.phys >> 12);
                assert!(
                    goal == to.own.guarded || page(&here) == page(&to.key),
                    "it leads past the guard"
                );
                let known = to.own.incoming.iter().filter(|n| **n == number);
                assert_eq!(known.count(), 1, "the block does not know its exit");
                incoming += 1;
            }
        }
        let known = core.blocks.iter().map(|info| info.own.incoming.len());
        assert_eq!(known.sum::<usize>(), incoming);
        core.look_at_traces();
        for info in core.blocks.iter() {
            let own = &info.own;
            if let Some(checked) = &own.checked {
                let goal = place_of(checked.fail);
                let version = core.block_at(goal).map(|id| core.blocks.get(id));
                let next = version.is_some_and(|to| goal == to.own.entry && to.key == info.key);
                assert!(goal == own.stale || next, "no way to the next version");
            }
            let there = core.retired.iter().any(|retired| retired.1);
            if !info.stale && own.checked.is_none() && !there {
                let found = core
                    .blocks
                    .find(info.key)
                    .map(|id| core.blocks.get(id).own.entry);
                assert_eq!(found, Some(own.entry));
            }
        }
        for jump in frame.jumps.as_flattened() {
            if jump.code != 0 {
                let at = core.memory.offset(jump.code).expect("in code memory");
                let id = core.block_at(at).expect("a block");
                let info = core.blocks.get(id);
                let lin = jump.rip & u64::from(u32::MAX) | info.key.lin >> 32 << 32;
                assert_eq!((info.own.guarded, info.key.lin), (at, lin));
            }
        }
    }

    #[test]
    fn nothing_leads_to_code_that_was_dropped() {
        let mut plain = machine(false);
        let features = Features::new(&plain.v.model.features_iced());
        assert_eq!(
            Interp::new(features).run(&mut plain.v, 1 << 40),
            Exit::Halted
        );
        for (changing, code_cache, piece, traces) in [
            (false, 1 << 16, 9_000, Tracing::Off),
            (false, 1 << 18, 9_000, Tracing::Off),
            (true, 1 << 16, 9_000, Tracing::Off),
            (true, 1 << 18, 1 << 37, Tracing::Off),
            (false, 1 << 17, 1 << 37, Tracing::Off),
            (false, 1 << 17, 9_000, Tracing::Eager),
            (false, 1 << 18, 1 << 37, Tracing::Eager),
            (true, 1 << 18, 9_000, Tracing::Eager),
        ] {
            let mut m = machine(false);
            let mut jit = Jit::new(
                features,
                Options {
                    code_cache,
                    changing,
                    traces,
                    ..Options::default()
                },
            );
            while jit.run(&mut m.v, piece) == Exit::Budget {
                jit.with_core(look);
            }
            jit.with_core(look);
            let counts = jit.counts();
            let reclaimed = counts.reclaimed;
            assert!(reclaimed > 10, "{reclaimed} of {code_cache}");
            if traces == Tracing::Eager && !changing {
                let (made, lost) = (counts.traces, counts.lost_traces);
                assert!(made > 20 && lost > 10 && lost <= made, "{made}, {lost}");
            }
            assert!(m.v.st == plain.v.st, "{}\n{}", m.v.dump(), plain.v.dump());
        }
    }

    #[test]
    fn vcpus_share_code_that_is_dropped_all_the_time() {
        let mut plain = machine(true);
        let features = Features::new(&plain.v.model.features_iced());
        let halted = Interp::new(features).run(&mut plain.v, 1 << 40);
        assert_eq!(halted, Exit::Halted);
        for (code_cache, traces) in [
            (1 << 16, Tracing::Off),
            (1 << 17, Tracing::Off),
            (1 << 17, Tracing::Eager),
            (1 << 17, Tracing::On),
        ] {
            let options = Options {
                code_cache,
                traces,
                ..Options::default()
            };
            let first = machine(true);
            let mut others: Vec<_> = (1..3).map(|n| first.beside(n)).collect();
            for other in &mut others {
                other.v.load_state(first.v.st.clone());
            }
            others.push(first);
            let told: Vec<_> = [2, 0, 1]
                .map(|n: usize| Arc::clone(&others[n].events))
                .into();
            let ram = Arc::clone(&others[0].ram);
            ram.set_kick(Box::new(move |cpu| told[cpu].raise(event::CODE)));
            let reclaimed = std::thread::scope(|scope| {
                let all: Vec<_> = others
                    .into_iter()
                    .map(|mut m| {
                        let mut jit = Jit::new(features, options.clone());
                        let expected = &plain.v.st;
                        scope.spawn(move || {
                            // A stack for each.
                            let down = 0x100 * m.v.mmu.cpu() as u64;
                            m.v.st.gpr[x86::Gpr::Rsp as usize] -= down;
                            let halted = jit.run(&mut m.v, 1 << 40);
                            m.v.mmu.park();
                            assert_eq!(halted, Exit::Halted);
                            m.v.st.gpr[x86::Gpr::Rsp as usize] += down;
                            assert_eq!(m.v.st.gpr, expected.gpr, "{}", m.v.dump());
                            jit.with_core(look);
                            jit.counts().reclaimed
                        })
                    })
                    .collect();
                all.into_iter()
                    .map(|thread| thread.join().expect("it ends well"))
                    .max()
            });
            assert!(reclaimed > Some(10), "{reclaimed:?} of {code_cache}");
        }
    }
}
