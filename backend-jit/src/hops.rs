//! Code whose accesses hop from page to page: it is made again, to go by the TLB.
//!
//! A page cache is cheapest where a register stays on a page, and dear where it does not: the miss is a mispredicted
//! branch and a call. Of the misses that the TLB answers, one in [`HOPS`] is looked at. Where those follow each other
//! quickly, the block that is seen twice gets the TLB's look-up in place.

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

/// The places that go by the TLB.
#[derive(Default)]
pub struct Hops {
    /// Every place is one of them: for tests.
    pub always: bool,
    places: AddressMap<(u64, u64), ()>,
}

impl Hops {
    pub fn clear(&mut self) {
        self.places.clear();
    }

    /// Whether a block is to go by the TLB.
    pub fn hop(&self, key: &Key) -> bool {
        self.always || self.places.contains_key(&(key.lin, key.phys))
    }

    /// Whether a block does not go as it is to.
    pub fn outdated(&self, info: &Info<Own>) -> bool {
        !info.own.tlb && self.hop(&info.key)
    }
}

/// Whether the misses since the last look were close to each other.
pub fn close(last: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let last = last.replace(now);
    last.is_some_and(|last| now.duration_since(last) < APART * HOPS.unsigned_abs())
}

impl Core {
    /// A look at the miss that came from the code before this address, one of many that were close to each other.
    pub fn hop(&mut self, ret: u64) {
        let offset = self.memory.offset(ret);
        let Some(id) = offset.and_then(|at| self.block_at(at.wrapping_sub(1))) else {
            return;
        };
        let ord = self.side(ret).map(|(_, side)| side.ord);
        let info = self.blocks.get_mut(id);
        if let Some(trace) = &info.own.trace {
            // Its part, where that is known to hop, and the block that it was made from.
            let part = ord.and_then(|ord| trace.part(ord));
            info.own.hops = info.own.hops.saturating_add(1);
            if info.own.hops >= SEEN && !info.stale {
                let key = part.unwrap_or(info.key);
                self.hops.places.insert((key.lin, key.phys), ());
                self.drop_traces(id);
                if let Some(block) = self.blocks.find(key) {
                    self.make_again(block);
                }
            }
            return;
        }
        if info.own.tlb || info.stale || info.own.checked.is_some() {
            return;
        }
        info.own.hops = info.own.hops.saturating_add(1);
        if info.own.hops >= SEEN {
            self.hops.places.insert((info.key.lin, info.key.phys), ());
            self.make_again(id);
        }
    }

    /// Whoever enters the block looks for a better one.
    pub(crate) fn make_again(&mut self, id: BlockId) {
        self.blocks.get_mut(id).stale = true;
        self.unlink(id);
    }
}
