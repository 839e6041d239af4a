//! Blocks in the cache, found by physical address and mode, linked to one another, dropped when their code changes.
#![expect(
    unsafe_code,
    reason = "blocks refer to one another by pointers that the cache keeps consistent"
)]
// UNSAFETY: links are followed by handlers without the cache's help, so they are pointers. Each is registered with its
// target, which takes them down before it goes.

use frontend_x86::Mode;
use softmmu::{CodeSpan, CodeStamp, GuestRam};
use x86::{AddressMap, PAGE_SIZE, PhysAddr};

use crate::code::{JUMPS, Known, LOp, Link, Site, jump_index};
use crate::handlers::system::VecOp;
use crate::lower::Lowered;

/// Engine bits in a block's mode: a block of one instruction that is never chained to.
pub const SINGLE: u64 = 1 << 32;

/// What a block is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Physical address of the first byte.
    pub phys: u64,
    /// [`Mode`] bits and engine bits.
    pub mode: u64,
}

/// A lowered block. Its address and its ops' are stable until it is dropped.
pub struct Block {
    /// What it is found by.
    pub key: Key,
    /// The handlers.
    ops: Box<[LOp]>,
    /// Its direct exits.
    links: Box<[Link]>,
    /// The block each of them leads to.
    leads: [*mut Block; 2],
    /// Its indirect exit's cache, if it has one.
    site: Option<Box<Site>>,
    /// What ops point to.
    #[expect(clippy::vec_box, reason = "ops hold the descriptions' addresses")]
    _vec_ops: Vec<Box<VecOp>>,
    /// Who leads here.
    incoming: Vec<Lead>,
    /// The code that it was made from.
    pub bytes: Box<[u8]>,
    /// Physical address of the second page's first byte, when its code crosses into one.
    pub second: Option<u64>,
    /// When the bytes were marked as code, in the first page and in the second.
    pub stamps: [CodeStamp; 2],
    /// Its code may have changed: links do not lead here, and it must be compared before it is used.
    pub stale: bool,
}

/// A pointer to a block's first op that must go when the block does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lead {
    Link(*mut Block, usize),
    Site(*mut Block, usize),
    Jump(usize),
}

impl Block {
    /// Builds a block from what lowering made.
    pub fn new(
        key: Key,
        lowered: Lowered,
        page_offset: u32,
        mode: Mode,
        bytes: &[u8],
    ) -> Box<Self> {
        let flat = mode.code64() || mode.flat_cs();
        let chained = key.mode & SINGLE == 0;
        let links: Box<[Link]> = lowered
            .exits
            .iter()
            .map(|exit| {
                let target = i64::from(page_offset) + i64::from(exit.delta);
                let mask = exit.width.mask();
                let whole = mask > 0xffff;
                Link {
                    target: None,
                    same_page: whole && (0..PAGE_SIZE.cast_signed()).contains(&target),
                    allowed: chained && flat && whole,
                    delta: exit.delta,
                    map_gen: 0,
                    rip: 0,
                    owner: key,
                    mask,
                }
            })
            .collect();
        let site = lowered.site.then(|| {
            Box::new(Site {
                entries: [Known::EMPTY; 4],
                victim: 0,
                allowed: chained && flat,
                owner: key,
            })
        });
        let mut ops = lowered.ops.into_boxed_slice();
        if let Some(filler) = ops.last_mut() {
            if !links.is_empty() {
                filler.imm = links.as_ptr().addr() as i64;
            } else if let Some(site) = &site {
                filler.imm = std::ptr::from_ref(site.as_ref()).addr() as i64;
            }
        }
        Box::new(Self {
            key,
            ops,
            links,
            leads: [std::ptr::null_mut(); 2],
            site,
            _vec_ops: lowered.vec_ops,
            incoming: Vec::new(),
            bytes: bytes.into(),
            second: None,
            stamps: [CodeStamp::default(); 2],
            stale: false,
        })
    }

    /// The first handler.
    pub fn entry(&self) -> &'static LOp {
        let first = self.ops.as_ptr();
        // SAFETY: a block has at least one op; the reference is used while the block is in the cache only, since
        // dropping a block takes down every link to it, and is not done while handlers run.
        unsafe { &*first }
    }

    /// Where its guest code lies.
    pub fn span(&self) -> CodeSpan {
        CodeSpan {
            start: PhysAddr(self.key.phys),
            second: self.second.map(PhysAddr),
            len: self.bytes.len() as u64,
        }
    }

    fn holds_link(&self, at: u64) -> Option<usize> {
        self.links
            .iter()
            .position(|l| std::ptr::from_ref(l).addr() as u64 == at)
    }

    fn holds_site(&self, at: u64) -> bool {
        self.site
            .as_deref()
            .is_some_and(|s| std::ptr::from_ref(s).addr() as u64 == at)
    }
}

// SAFETY: a block belongs to its cache (or to the engine itself), and so do the blocks that its pointers lead to.
unsafe impl Send for Block {}

/// Blocks of one page.
#[derive(Default)]
struct Page {
    blocks: Vec<*mut Block>,
    /// The page's generation when it was last looked at.
    generation: u32,
}

/// All blocks of one vCPU.
#[derive(Default)]
pub struct Cache {
    blocks: AddressMap<Key, Box<Block>>,
    pages: AddressMap<u64, Page>,
    jumps: Option<Box<[Known; JUMPS]>>,
    /// Ops in all blocks.
    ops: usize,
    /// Blocks dropped because their code changed, ever.
    pub invalidations: u64,
    /// Changes whenever a block goes, and its links with it.
    pub drops: u64,
}

// SAFETY: the pointers lead to blocks that the cache itself owns; nothing else holds them.
unsafe impl Send for Cache {}

impl Cache {
    /// The jump cache.
    pub fn jumps(&mut self) -> &mut [Known; JUMPS] {
        self.jumps
            .get_or_insert_with(|| Box::new([Known::EMPTY; JUMPS]))
    }

    /// Blocks now.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes that the ops take.
    pub fn bytes(&self) -> usize {
        self.ops * size_of::<LOp>()
    }

    /// The block of a key.
    pub fn get(&mut self, key: Key) -> Option<&mut Block> {
        self.blocks.get_mut(&key).map(Box::as_mut)
    }

    /// Puts in a block whose pages' generations are in its stamps.
    pub fn insert(&mut self, mut block: Box<Block>) -> &mut Block {
        self.remove(block.key);
        let at = std::ptr::from_mut(block.as_mut());
        self.ops += block.ops.len();
        let pages = [Some(block.key.phys), block.second];
        for (phys, stamp) in pages.into_iter().zip(block.stamps) {
            let Some(phys) = phys else { continue };
            let page = self.pages.entry(phys / PAGE_SIZE).or_default();
            if page.blocks.is_empty() {
                page.generation = stamp.generation;
            }
            page.blocks.push(at);
        }
        let key = block.key;
        self.blocks.entry(key).insert_entry(block).into_mut()
    }

    /// Drops a block and every link to and from it.
    pub fn remove(&mut self, key: Key) {
        let Some(mut block) = self.blocks.remove(&key) else {
            return;
        };
        self.drops += 1;
        let at = std::ptr::from_mut(block.as_mut());
        self.ops -= block.ops.len();
        self.unlink(&mut block);
        for phys in [Some(block.key.phys), block.second].into_iter().flatten() {
            if let Some(page) = self.pages.get_mut(&(phys / PAGE_SIZE)) {
                page.blocks.retain(|b| *b != at);
                if page.blocks.is_empty() {
                    self.pages.remove(&(phys / PAGE_SIZE));
                }
            }
        }
        // Its own exits are registered with their targets.
        let outgoing = block.leads.into_iter().chain(
            block
                .site
                .iter()
                .flat_map(|s| s.entries.iter().map(|k| k.block as *mut Block)),
        );
        for target in outgoing
            .filter(|t| !t.is_null() && *t != at)
            .collect::<Vec<_>>()
        {
            // SAFETY: a target that was dropped has taken its pointer down, so this one is in the cache.
            let target = unsafe { &mut *target };
            target
                .incoming
                .retain(|lead| !matches!(lead, Lead::Link(b, _) | Lead::Site(b, _) if *b == at));
        }
    }

    /// Takes down every link to a block.
    fn unlink(&mut self, block: &mut Block) {
        let own = std::ptr::from_mut(block);
        let entry = std::ptr::from_ref(block.entry());
        let leads_here =
            |target: Option<&'static LOp>| target.is_some_and(|t| std::ptr::eq(t, entry));
        for lead in std::mem::take(&mut block.incoming) {
            match lead {
                Lead::Jump(n) => {
                    let known = &mut self.jumps()[n];
                    if leads_here(known.target) {
                        *known = Known::EMPTY;
                    }
                }
                Lead::Link(from, slot) if from == own => {
                    block.links[slot].target = None;
                    block.leads[slot & 1] = std::ptr::null_mut();
                }
                Lead::Site(from, n) if from == own => {
                    if let Some(site) = block.site.as_deref_mut() {
                        site.entries[n & 3] = Known::EMPTY;
                    }
                }
                Lead::Link(from, slot) => {
                    // SAFETY: a dropped block has taken its leads off its targets' lists, so `from` is in the cache.
                    let from = unsafe { &mut *from };
                    if let Some(link) = from.links.get_mut(slot)
                        && leads_here(link.target)
                    {
                        link.target = None;
                        from.leads[slot & 1] = std::ptr::null_mut();
                    }
                }
                Lead::Site(from, n) => {
                    // SAFETY: as for links.
                    let from = unsafe { &mut *from };
                    if let Some(site) = from.site.as_deref_mut()
                        && leads_here(site.entries[n & 3].target)
                    {
                        site.entries[n & 3] = Known::EMPTY;
                    }
                }
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let (invalidations, drops) = (self.invalidations, self.drops + 1);
        *self = Self {
            jumps: self.jumps.take(),
            invalidations,
            drops,
            ..Self::default()
        };
        *self.jumps() = [Known::EMPTY; JUMPS];
    }

    /// Looks for pages that were written where they hold code; their blocks become stale.
    pub fn check_pages(&mut self, ram: &GuestRam) {
        let mut hit = Vec::new();
        for (number, page) in &mut self.pages {
            let generation = ram.code_generation(PhysAddr(number * PAGE_SIZE));
            if generation != page.generation {
                page.generation = generation;
                hit.extend_from_slice(&page.blocks);
            }
        }
        for block in hit {
            // SAFETY: pages list only blocks that are in the cache.
            let block = unsafe { &mut *block };
            if block.stale {
                // Nothing leads to it since it became so.
                continue;
            }
            block.stale = true;
            self.invalidations += 1;
            self.unlink(block);
        }
    }

    /// Notes where the link at address `at`, which a handler just reported, leads.
    pub fn link(&mut self, at: u64, target: Key, rip: u64, map_gen: u64) {
        let link = at as usize as *const Link;
        // SAFETY: a block that has just run is in the cache still, and its links with it: the caller saw that no block
        // has gone since (`drops`).
        let from = unsafe { &*link }.owner;
        let Some(to) = self.get(target).map(std::ptr::from_mut) else {
            return;
        };
        let Some(block) = self.get(from) else { return };
        let from = std::ptr::from_mut(block);
        // SAFETY: just found in the cache.
        let found = unsafe { &*to };
        let (entry, crosses) = (found.entry(), found.second.is_some());
        let Some(slot) = block.holds_link(at) else {
            return;
        };
        let link = &mut block.links[slot];
        if !link.allowed {
            return;
        }
        let known = block.leads[slot & 1] == to;
        let old = block.leads[slot & 1];
        (link.target, link.rip, link.map_gen) = (Some(entry), rip, map_gen);
        // The page behind depends on the address and the mapping, whatever page the jump stays in.
        link.same_page &= !crosses;
        block.leads[slot & 1] = to;
        if !known {
            self.note(to, Lead::Link(from, slot));
            if !old.is_null() {
                // SAFETY: a target that was dropped has taken its pointer down.
                unsafe { &mut *old }
                    .incoming
                    .retain(|lead| *lead != Lead::Link(from, slot));
            }
        }
    }

    /// Notes a target of the inline cache at address `at`, which a handler just reported, and in the jump cache.
    pub fn know(&mut self, at: u64, target: Key, rip: u64, map_gen: u64) {
        let site = at as usize as *const Site;
        // SAFETY: as in `link`.
        let from = unsafe { &*site }.owner;
        let Some(to) = self.get(target).map(std::ptr::from_mut) else {
            return;
        };
        // SAFETY: just found in the cache.
        let entry = unsafe { &*to }.entry();
        let known = Known {
            rip,
            map_gen,
            mode: target.mode,
            target: Some(entry),
            block: to.addr(),
        };
        let index = jump_index(rip);
        let jump = &mut self.jumps()[index];
        let same = jump.target.is_some_and(|t| std::ptr::eq(t, entry));
        *jump = known;
        if !same {
            self.note(to, Lead::Jump(index));
        }
        let Some(block) = self.get(from) else { return };
        let from = std::ptr::from_mut(block);
        if !block.holds_site(at) {
            return;
        }
        let Some(site) = block.site.as_deref_mut().filter(|s| s.allowed) else {
            return;
        };
        let n = usize::from(site.victim & 3);
        site.victim = (site.victim + 1) & 3;
        let old = site.entries[n].block as *mut Block;
        site.entries[n] = known;
        if old != to {
            self.note(to, Lead::Site(from, n));
            if !old.is_null() {
                // SAFETY: a target that was dropped has taken its entry down.
                unsafe { &mut *old }
                    .incoming
                    .retain(|lead| *lead != Lead::Site(from, n));
            }
        }
    }

    fn note(&mut self, to: *mut Block, lead: Lead) {
        // SAFETY: the callers found `to` in the cache.
        let to = unsafe { &mut *to };
        to.incoming.push(lead);
        if to.incoming.len() > 64 && to.incoming.len().is_power_of_two() {
            to.incoming.sort_unstable_by_key(|lead| match lead {
                Lead::Link(b, n) => (0, b.addr(), *n),
                Lead::Site(b, n) => (1, b.addr(), *n),
                Lead::Jump(n) => (2, 0, *n),
            });
            to.incoming.dedup();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts in a block at a physical address that ends in an indirect jump; returns the address of its inline cache.
    fn insert(cache: &mut Cache, phys: u64) -> (Key, u64) {
        let mode = Mode::of(&x86::CpuState::reset());
        let key = Key {
            phys,
            mode: mode.bits(),
        };
        let lowered = Lowered {
            ops: vec![LOp::FILL; 2],
            site: true,
            ..Lowered::default()
        };
        let mut block = Block::new(key, lowered, 0, mode, &[0xc3]);
        let site = block.site.as_deref_mut().expect("one was asked for");
        site.allowed = true;
        let at = std::ptr::from_ref(site).addr() as u64;
        cache.insert(block);
        (key, at)
    }

    #[test]
    fn nobody_knows_a_block_that_is_gone() {
        let mut cache = Cache::default();
        let (from, site) = insert(&mut cache, 0x1000);
        let targets: Vec<Key> = (2..8)
            .map(|n| insert(&mut cache, n * 0x1000 + n).0)
            .collect();
        // More of them than the inline cache holds.
        for target in &targets {
            cache.know(site, *target, target.phys, 1);
        }
        cache.remove(from);
        for target in targets {
            let block = cache.get(target).expect("it was put in");
            let sites = block
                .incoming
                .iter()
                .filter(|lead| matches!(lead, Lead::Site(..)));
            assert_eq!(sites.count(), 0, "{target:x?}");
        }
        assert_eq!(cache.drops, 1);
    }
}
