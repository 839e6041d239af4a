//! The table of translated blocks: by key, by guest page, by place in code memory.

use softmmu::{CodeHit, CodeSpan, CodeStamp, GuestRam};
use x86::{AddressMap, PAGE_SIZE, PhysAddr};

/// What a block is found by: everything its code depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Linear address of the first byte: instruction addresses are constants in the code.
    pub lin: u64,
    /// Physical address of the first byte.
    pub phys: u64,
    /// The frontend's mode bits, and the engine's in bits 63:32.
    pub mode: u64,
    /// Where the status flags are on entry, as the engine packs that; 0: in the context.
    pub flags: u64,
}

/// A block's number. Numbers are not used again before [`Blocks::clear`].
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

/// All blocks of a code cache.
pub struct Blocks<T> {
    all: Vec<Info<T>>,
    by_key: AddressMap<Key, BlockId>,
    pages: AddressMap<u64, Page>,
    /// Blocks that became stale, ever.
    pub invalidations: u64,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            by_key: AddressMap::default(),
            pages: AddressMap::default(),
            invalidations: 0,
        }
    }
}

impl<T> Blocks<T> {
    /// Blocks made since the table was last cleared.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The block of a key.
    pub fn find(&self, key: Key) -> Option<BlockId> {
        self.by_key.get(&key).copied()
    }

    /// A block by number.
    pub fn get(&self, id: BlockId) -> &Info<T> {
        &self.all[id.0 as usize]
    }

    /// A block by number.
    pub fn get_mut(&mut self, id: BlockId) -> &mut Info<T> {
        &mut self.all[id.0 as usize]
    }

    /// All blocks, in the order in which they were made.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Info<T>> {
        self.all.iter()
    }

    /// The number that the next block will have.
    pub fn next_id(&self) -> BlockId {
        BlockId(self.all.len() as u32)
    }

    /// Puts in a block, in the order in which `CodeMemory` has given room; one with the same key is not found any more.
    pub fn insert(&mut self, info: Info<T>) -> BlockId {
        let id = self.next_id();
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
                .last()
                .is_none_or(|last| last.hot.0 < info.hot.0 && last.cold.0 >= info.cold.0),
            "not in the order of CodeMemory::alloc"
        );
        self.all.push(info);
        id
    }

    /// The block whose code holds an offset.
    pub fn at(&self, offset: u32) -> Option<BlockId> {
        let within = |(start, len): (u32, u32)| offset.wrapping_sub(start) < len;
        // Hot parts ascend, cold parts descend.
        let hot = self.all.partition_point(|info| info.hot.0 <= offset);
        let cold = self.all.partition_point(|info| info.cold.0 > offset);
        if let Some(n) = hot.checked_sub(1).filter(|n| within(self.all[*n].hot)) {
            return Some(BlockId(n as u32));
        }
        let info = self.all.get(cold)?;
        within(info.cold).then_some(BlockId(cold as u32))
    }

    /// Forgets all blocks.
    pub fn clear(&mut self) {
        let invalidations = self.invalidations;
        *self = Self {
            invalidations,
            ..Self::default()
        };
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
        page.generation = ram.code_generation(hit.page);
        let all = &self.all;
        let stale = page
            .blocks
            .extract_if(.., |id| {
                all[id.0 as usize].span().lines(hit.page) & hit.lines != 0
            })
            .collect();
        self.make_stale(stale, &mut f);
    }

    fn make_stale(&mut self, hit: Vec<BlockId>, f: &mut impl FnMut(BlockId)) {
        for id in hit {
            let info = &mut self.all[id.0 as usize];
            if !info.stale {
                info.stale = true;
                self.invalidations += 1;
                f(id);
            }
        }
    }

    /// A stale block's code turned out to be the same: it may run again, from the stamps on that it has now.
    pub fn refresh(&mut self, id: BlockId) {
        let info = &mut self.all[id.0 as usize];
        info.stale = false;
        for (phys, stamp) in [Some(info.key.phys), info.second]
            .into_iter()
            .zip(info.stamps)
        {
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
