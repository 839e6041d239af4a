//! The table of translated blocks: by key, by guest page, by place in code memory.

use std::hash::{Hash, Hasher};

use softmmu::{CodeHit, CodeSpan, CodeStamp, GuestRam};
use x86::{AddressMap, PAGE_SIZE, PhysAddr};

use crate::regions::{ByRegion, region_of};

/// What a block is found by: everything its code depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Linear address of the first byte: instruction addresses are constants in the code.
    pub lin: u64,
    /// Base (low half) and limit (high half) of the code segment, outside flat code: instruction pointers are constants in
    /// the code. 0: the instruction pointer is the linear address.
    pub cs: u64,
    /// Physical address of the first byte.
    pub phys: u64,
    /// The frontend's mode bits, and the engine's in bits 63:32.
    pub mode: u64,
    /// Where the status flags are on entry, as the engine packs that; 0: in the context.
    pub flags: u64,
}

impl Hash for Key {
    /// Each word costs a multiplication that waits for the one before: what seldom differs shares one.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.lin);
        state.write_u64(self.phys);
        state.write_u64(self.mode.rotate_left(13) ^ self.flags ^ self.cs.rotate_left(32));
    }
}

impl Key {
    /// The instruction pointer at the first byte.
    pub fn ip(&self) -> u64 {
        if self.cs == 0 {
            self.lin
        } else {
            self.lin.wrapping_sub(self.cs) & 0xffff_ffff
        }
    }
}

/// A block's number. Those of a region are used again after [`Blocks::take`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// What is known of any block.
#[derive(Debug)]
pub struct Info<T> {
    /// What it is found by.
    pub key: Key,
    /// The guest code that it was made from.
    pub bytes: Box<[u8]>,
    /// Physical address of the second page, when its code crosses into one.
    pub second: Option<u64>,
    /// Stores to its code are noticed.
    pub tracked: bool,
    /// When the bytes were marked as code, in the first page and in the second.
    pub stamps: [CodeStamp; 2],
    /// Its guest code may have changed: it must be compared before it runs again.
    pub stale: bool,
    /// Offset of its cold code, and the length: what side tables are searched by.
    pub cold: (u32, u32),
    /// Offset of its hot code, and the length.
    pub hot: (u32, u32),
    /// The engine's own part.
    pub own: T,
}

impl<T> Info<T> {
    /// Where its guest code lies.
    pub fn span(&self) -> CodeSpan {
        CodeSpan {
            start: PhysAddr(self.key.phys),
            second: self.second.map(PhysAddr),
            len: self.bytes.len() as u64,
        }
    }
}

struct Page {
    blocks: Vec<BlockId>,
    /// The page's generation when it was last looked at.
    generation: u32,
}

impl BlockId {
    /// The region that its code lies in.
    pub fn region(self) -> usize {
        region_of(self.0)
    }
}

/// All blocks of a code cache.
pub struct Blocks<T> {
    all: ByRegion<Info<T>>,
    by_key: AddressMap<Key, BlockId>,
    pages: AddressMap<u64, Page>,
    /// Blocks that became stale, ever.
    pub invalidations: u64,
}

impl<T> Blocks<T> {
    /// An empty table, for code memory of so many regions.
    pub fn new(regions: usize) -> Self {
        Self {
            all: ByRegion::new(regions),
            by_key: AddressMap::default(),
            pages: AddressMap::default(),
            invalidations: 0,
        }
    }

    /// The block of a key.
    pub fn find(&self, key: Key) -> Option<BlockId> {
        self.by_key.get(&key).copied()
    }

    /// A block by number.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, id: BlockId) -> &Info<T> {
        self.all.get(id.0).expect("a block by its number")
    }

    /// A block by number.
    ///
    /// # Panics
    /// When there is none.
    pub fn get_mut(&mut self, id: BlockId) -> &mut Info<T> {
        self.all.get_mut(id.0).expect("a block by its number")
    }

    /// All blocks; those of a region in the order in which they were made.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Info<T>> {
        self.all.iter()
    }

    /// The blocks of a region, in the order in which they were made.
    pub fn of(&self, region: usize) -> &[Info<T>] {
        self.all.of(region)
    }

    /// The number of a region's first block.
    pub fn first(&self, region: usize) -> BlockId {
        BlockId(self.all.first(region))
    }

    /// As [`Blocks::of`].
    pub fn of_mut(&mut self, region: usize) -> &mut [Info<T>] {
        self.all.of_mut(region)
    }

    /// The number that the next block of a region will have.
    pub fn next_id(&self, region: usize) -> BlockId {
        BlockId(self.all.next(region))
    }

    /// Puts in a block, in the order in which `CodeMemory` has given room; one with the same key is not found any more.
    pub fn insert(&mut self, region: usize, info: Info<T>) -> BlockId {
        let id = self.next_id(region);
        self.by_key.insert(info.key, id);
        for (phys, stamp) in [Some(info.key.phys), info.second]
            .into_iter()
            .zip(info.stamps)
        {
            let Some(phys) = phys.filter(|_| info.tracked) else {
                continue;
            };
            self.pages
                .entry(phys / PAGE_SIZE)
                .or_insert_with(|| Page {
                    blocks: Vec::new(),
                    generation: stamp.generation,
                })
                .blocks
                .push(id);
        }
        debug_assert!(
            self.all
                .of(region)
                .last()
                .is_none_or(|last| last.hot.0 < info.hot.0 && last.cold.0 >= info.cold.0),
            "not in the order of CodeMemory::alloc"
        );
        self.all.push(region, info);
        id
    }

    /// The block whose code holds an offset, which lies in this region.
    pub fn at(&self, region: usize, offset: u32) -> Option<BlockId> {
        let within = |(start, len): (u32, u32)| offset.wrapping_sub(start) < len;
        let all = self.all.of(region);
        let id = |n: usize| BlockId(self.all.first(region) + n as u32);
        // Hot parts ascend from a region's start, cold parts descend from its end.
        let last = all.last()?.hot;
        if offset < last.0 + last.1 {
            let after = all.partition_point(|info| info.hot.0 <= offset);
            let n = after.checked_sub(1)?;
            return within(all[n].hot).then(|| id(n));
        }
        let n = all.partition_point(|info| info.cold.0 > offset);
        within(all.get(n)?.cold).then(|| id(n))
    }

    /// The blocks of a region are not found by their keys any more.
    pub fn retire(&mut self, region: usize) {
        for info in self.all.of(region) {
            let id = self.by_key.get(&info.key);
            if id.is_some_and(|id| id.region() == region) {
                self.by_key.remove(&info.key);
            }
        }
    }

    /// Forgets the blocks of a retired region, and returns what was known of them.
    pub fn take(&mut self, region: usize) -> Vec<Info<T>> {
        let gone = self.all.take(region);
        let of_region = |id: &BlockId| id.region() == region;
        let mut pages: Vec<u64> = gone
            .iter()
            .flat_map(|info| [Some(info.key.phys), info.second])
            .flatten()
            .map(|phys| phys / PAGE_SIZE)
            .collect();
        pages.sort_unstable();
        pages.dedup();
        for number in pages {
            if let Some(page) = self.pages.get_mut(&number) {
                page.blocks.retain(|id| !of_region(id));
                if page.blocks.is_empty() {
                    self.pages.remove(&number);
                }
            }
        }
        gone
    }

    /// A block is not found by its key any more.
    pub fn forget_key(&mut self, id: BlockId) {
        let key = self.get(id).key;
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
    }

    /// Looks for pages that were written where they hold code; their blocks become stale, and `f` hears of each.
    pub fn check_pages(&mut self, ram: &GuestRam, mut f: impl FnMut(BlockId)) {
        let mut hit = Vec::new();
        for (number, page) in &mut self.pages {
            let generation = ram.code_generation(PhysAddr(number * PAGE_SIZE));
            if generation != page.generation {
                page.generation = generation;
                hit.append(&mut page.blocks);
            }
        }
        self.make_stale(hit, &mut f);
    }

    /// As [`Blocks::check_pages`], when what has been written since is known: only blocks with code in those lines
    /// become stale.
    pub fn check_lines(&mut self, ram: &GuestRam, hit: CodeHit, mut f: impl FnMut(BlockId)) {
        let number = hit.page.0 / PAGE_SIZE;
        let Some(page) = self.pages.get_mut(&number) else {
            return;
        };
        // Only this hit: there may be another that is not in the lines, to be looked for later.
        let generation = ram.code_generation(hit.page);
        if generation == page.generation.wrapping_add(1) {
            page.generation = generation;
        }
        let all = &self.all;
        let stale = page
            .blocks
            .extract_if(.., |id| {
                all.get(id.0)
                    .is_some_and(|info| info.span().lines(hit.page) & hit.lines != 0)
            })
            .collect();
        self.make_stale(stale, &mut f);
    }

    fn make_stale(&mut self, hit: Vec<BlockId>, f: &mut impl FnMut(BlockId)) {
        for id in hit {
            let Some(info) = self.all.get_mut(id.0) else {
                continue;
            };
            if !info.stale {
                info.stale = true;
                self.invalidations += 1;
                f(id);
            }
        }
    }

    /// A stale block's code turned out to be the same: it may run again, from the stamps on that it has now.
    pub fn refresh(&mut self, id: BlockId) {
        let info = self.get_mut(id);
        info.stale = false;
        let (key, second, stamps) = (info.key, info.second, info.stamps);
        for (phys, stamp) in [Some(key.phys), second].into_iter().zip(stamps) {
            let Some(phys) = phys else { continue };
            let page = self.pages.entry(phys / PAGE_SIZE).or_insert_with(|| Page {
                blocks: Vec::new(),
                generation: stamp.generation,
            });
            if !page.blocks.contains(&id) {
                page.blocks.push(id);
            }
        }
    }
}
