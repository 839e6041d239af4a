//! Code whose accesses hop from page to page: it is made again, to go by the TLB.
//!
//! A page cache is cheapest where a register stays on a page, and dear where it does not: the miss is a mispredicted
//! branch and a call. Of the misses that the TLB answers, one in [`HOPS`] is looked at. Where those follow each other
//! quickly, the block that is seen twice gets the TLB's look-up in place.
//!
//! Where 64-bit user code is seen to hop in large pages, its loads look first into a small table of those ([`By::Large`]): the host has
//! it in its first cache, where it does not have the TLB's entries for as many small ones. It is filled by looks at what it
//! misses; a block that often misses for good goes by the TLB alone from then on.

use std::time::{Duration, Instant};

use translation::{BlockId, Info, Key};
use x86::AddressMap;

use crate::core::{Core, Own};

/// Misses per look.
pub const HOPS: i32 = 1024;
/// Misses that are further apart on average cost less than the look-ups in their place would.
const APART: Duration = Duration::from_nanos(60);
/// Looks that a block is seen at before it is made again.
const SEEN: u8 = 2;

/// Misses of the table of large pages per look.
pub const LARGE_HOPS: i32 = 128;
/// As [`APART`], for those of them that are not in large pages.
const LARGE_APART: Duration = Duration::from_nanos(25);
/// Looks that a block is seen at before it does without large pages.
const LARGE_SEEN: u8 = 4;

/// How the accesses of a block find memory, but for those by the stack pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum By {
    /// By the page that their register was last used for.
    #[default]
    Page,
    /// By the TLB.
    Tlb,
    /// Loads of 64-bit user code by the table of large pages, the rest by the TLB.
    Large,
}

/// The places whose accesses hop.
#[derive(Default)]
pub struct Hops {
    /// For all places, if it is not [`By::Page`]: for tests.
    pub always: By,
    places: AddressMap<(u64, u64), By>,
}

impl Hops {
    pub fn clear(&mut self) {
        self.places.clear();
    }

    /// How the accesses of a block are to go.
    pub fn by(&self, key: &Key) -> By {
        if self.always != By::Page {
            return self.always;
        }
        let place = self.places.get(&(key.lin, key.phys));
        place.copied().unwrap_or_default()
    }

    /// Whether a block does not go as it is to.
    pub fn outdated(&self, info: &Info<Own>) -> bool {
        info.own.by != self.by(&info.key)
    }
}

/// Whether the misses since the last look were close to each other; `large`: those of the table of large pages.
pub fn close(last: &mut Option<Instant>, large: bool) -> bool {
    let now = Instant::now();
    let last = last.replace(now);
    let near = if large {
        LARGE_APART * LARGE_HOPS.unsigned_abs()
    } else {
        APART * HOPS.unsigned_abs()
    };
    last.is_some_and(|last| now.duration_since(last) < near)
}

/// How accesses should go that go in a way and miss there, and at how many looks that must be seen.
fn better(by: By, large: bool) -> Option<(By, u8)> {
    match by {
        By::Page if large => Some((By::Large, SEEN)),
        By::Page => Some((By::Tlb, SEEN)),
        By::Large if !large => Some((By::Tlb, LARGE_SEEN)),
        By::Tlb | By::Large => None,
    }
}

impl Core {
    /// A look at the miss that came from the code before this address, one of many that were close to each other. `large`: in a
    /// large page.
    pub fn hop(&mut self, ret: u64, large: bool) {
        let offset = self.memory.offset(ret);
        let Some(id) = offset.and_then(|at| self.block_at(at.wrapping_sub(1))) else {
            return;
        };
        let ord = self.side(ret).map(|(_, side)| side.ord);
        let info = self.blocks.get_mut(id);
        if info.stale || info.own.checked.is_some() {
            return;
        }
        // A trace's part, and the block that it was made from.
        let trace = info.own.trace.as_ref();
        let traced = trace.map(|trace| ord.and_then(|ord| trace.part(ord)).unwrap_or(info.key));
        let key = traced.unwrap_or(info.key);
        let now = traced.map_or(info.own.by, |key| self.hops.by(&key));
        let Some((by, seen)) = better(now, large) else {
            return;
        };
        info.own.hops = info.own.hops.saturating_add(1);
        if info.own.hops < seen {
            return;
        }
        self.hops.places.insert((key.lin, key.phys), by);
        if traced.is_none() {
            return self.make_again(id);
        }
        self.drop_traces(id);
        if let Some(block) = self.blocks.find(key) {
            self.make_again(block);
        }
    }

    /// Whoever enters the block looks for a better one.
    pub(crate) fn make_again(&mut self, id: BlockId) {
        self.blocks.get_mut(id).stale = true;
        self.unlink(id);
    }
}
