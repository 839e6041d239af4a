//! Places whose code keeps changing, or lies among data that does: what was seen of each, and its checked translations.
//!
//! ```text
//! tracked    stores to the code's lines are noticed; the block is compared before it runs again
//!    │       after some rounds of that:
//! checked    the block compares its own code on entry (`x64/emit/check.rs`), stores are nobody's business. Constants
//!    │       seen to change are read from the code. For other changes there are several versions, tried in turn.
//!    │       when there get too many:
//! the interpreter's
//! ```

use frontend_x86::Constant;
use translation::{BlockId, Key};
use x86::AddressMap;

/// What a place gets before it is checked: for a block that was stale but the same after all, and for one that changed.
const SAME: u8 = 1;
const CHANGED: u8 = 2;
const LIMIT: u8 = 8;

/// Versions of a block at a time, and ever made.
const MAX_VERSIONS: usize = 8;
const MAX_MADE: u8 = 32;

/// Guest instructions in a checked block at most, and bytes to take them from.
pub const MAX_INSNS: u32 = 32;
pub const MAX_BYTES: usize = 128;

#[derive(Default)]
struct Place {
    troubles: u8,
    made: u8,
    /// The bytes that have changed.
    varying: u128,
}

/// See the module's text.
#[derive(Default)]
pub struct Changing {
    /// Every place is taken for one that has always changed, in all its bytes: for tests.
    pub always: bool,
    places: AddressMap<(u64, u64), Place>,
    versions: AddressMap<Key, Vec<BlockId>>,
}

impl Changing {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self {
            always: self.always,
            ..Self::default()
        };
    }

    /// The blocks of a region of code memory are gone. Returns the keys of those versions.
    pub fn forget_region(&mut self, region: usize) -> Vec<Key> {
        let mut keys = Vec::new();
        let places = &mut self.places;
        self.versions.retain(|key, list| {
            let before = list.len();
            list.retain(|id| id.region() != region);
            let gone = before - list.len();
            if gone != 0 {
                keys.push(*key);
                // They may be made again, and are not new versions then.
                if let Some(place) = places.get_mut(&(key.lin, key.phys)) {
                    place.made = place.made.saturating_sub(gone as u8);
                }
            }
            !list.is_empty()
        });
        keys
    }

    /// Forgets the places that have no versions.
    pub fn forget_idle(&mut self) {
        let used = self.versions.keys().map(|key| (key.lin, key.phys));
        let used: AddressMap<(u64, u64), ()> = used.map(|place| (place, ())).collect();
        self.places.retain(|place, _| used.contains_key(place));
    }

    fn place(&mut self, key: &Key) -> &mut Place {
        self.places.entry((key.lin, key.phys)).or_default()
    }

    /// Whether the blocks of a place check themselves.
    pub fn checked(&self, key: &Key) -> bool {
        let place = self.places.get(&(key.lin, key.phys));
        self.always || place.is_some_and(|p| p.troubles >= LIMIT)
    }

    /// A block whose lines were written turned out to be the same.
    pub fn same(&mut self, key: &Key) {
        let place = self.place(key);
        place.troubles = place.troubles.saturating_add(SAME);
    }

    /// The code of a block has become other code.
    pub fn changed(&mut self, key: &Key, old: &[u8], new: &[u8]) {
        let place = self.place(key);
        place.troubles = place.troubles.saturating_add(CHANGED);
        for (n, _) in old
            .iter()
            .zip(new)
            .enumerate()
            .take(MAX_BYTES)
            .filter(|(_, (old, new))| old != new)
        {
            place.varying |= 1 << n;
        }
    }

    /// Whether a byte of a constant has changed.
    pub fn varies(&self, key: &Key, constant: Constant) -> bool {
        let place = self.places.get(&(key.lin, key.phys));
        let bytes = ((1u128 << constant.size) - 1).checked_shl(constant.at);
        self.always || place.is_some_and(|p| p.varying & bytes.unwrap_or(0) != 0)
    }

    /// The checked blocks of a key, in the order in which they are tried.
    pub fn versions(&self, key: &Key) -> &[BlockId] {
        self.versions.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether one more may be made, which is then expected.
    pub fn may_add(&mut self, key: &Key) -> bool {
        let room = self.versions(key).len() < MAX_VERSIONS;
        let place = self.place(key);
        place.made = place.made.saturating_add(1);
        room && place.made <= MAX_MADE
    }

    /// Adds a version, in place of those that `replaces` says, which are returned.
    pub fn add(
        &mut self,
        key: &Key,
        id: BlockId,
        mut replaces: impl FnMut(BlockId) -> bool,
    ) -> Vec<BlockId> {
        // What made room for it may have forgotten the place, which had none.
        let place = self.place(key);
        place.troubles = place.troubles.max(LIMIT);
        let list = self.versions.entry(*key).or_default();
        let gone = list.extract_if(.., |old| replaces(*old)).collect();
        list.push(id);
        gone
    }
}

#[cfg(test)]
mod tests {
    use translation::{BlockId, Key};

    use super::Changing;

    #[test]
    fn what_has_versions_checks_itself() {
        let mut changing = Changing::default();
        let key = Key {
            lin: 0x1000,
            cs: 0,
            phys: 0x1000,
            mode: 0,
            flags: 0,
        };
        while !changing.checked(&key) {
            changing.changed(&key, &[0], &[1]);
        }
        // Room was made for its first version.
        changing.forget_idle();
        changing.add(&key, BlockId(0), |_| false);
        assert!(changing.checked(&key));
        changing.forget_idle();
        assert!(changing.checked(&key));
    }
}
