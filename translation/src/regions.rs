//! Things that go when their region of code memory is used anew, and the numbers that translated code names them by.

/// Regions that there can be: what a number's upper bits say.
pub const MAX_REGIONS: usize = 1 << (32 - SHIFT);
/// Bits of a number that count within the region. A region has fewer things than bytes, and at most 64 MiB of those
/// ([`CodeMemory`](crate::CodeMemory) has at least 16 regions of 1 GiB), each thing taking more than four of them.
const SHIFT: u32 = 24;

/// The region that a number belongs to.
pub fn region_of(number: u32) -> usize {
    (number >> SHIFT) as usize
}

/// Its place among those of its region.
pub fn index_of(number: u32) -> usize {
    (number & ((1 << SHIFT) - 1)) as usize
}

/// A list for each region. Numbers of a region are used again after [`ByRegion::take`].
#[derive(Debug)]
pub struct ByRegion<T>(Vec<Vec<T>>);

impl<T> ByRegion<T> {
    /// Empty lists for so many regions, at most [`MAX_REGIONS`].
    pub fn new(regions: usize) -> Self {
        Self((0..regions.min(MAX_REGIONS)).map(|_| Vec::new()).collect())
    }

    /// The number of a region's first thing.
    pub fn first(&self, region: usize) -> u32 {
        (region as u32) << SHIFT
    }

    /// The number that the next thing of a region will have.
    pub fn next(&self, region: usize) -> u32 {
        self.first(region) | self.0[region].len() as u32
    }

    /// Adds a thing and numbers it.
    pub fn push(&mut self, region: usize, thing: T) -> u32 {
        let number = self.next(region);
        debug_assert!(region_of(number) == region, "too many things in a region");
        self.0[region].push(thing);
        number
    }

    /// A thing by number.
    pub fn get(&self, number: u32) -> Option<&T> {
        self.0.get(region_of(number))?.get(index_of(number))
    }

    /// A thing by number.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.0.get_mut(region_of(number))?.get_mut(index_of(number))
    }

    /// The things of a region, in the order of their numbers.
    pub fn of(&self, region: usize) -> &[T] {
        self.0.get(region).map_or(&[], Vec::as_slice)
    }

    /// As [`ByRegion::of`].
    pub fn of_mut(&mut self, region: usize) -> &mut [T] {
        self.0.get_mut(region).map_or(&mut [], Vec::as_mut_slice)
    }

    /// Takes all things of a region out.
    pub fn take(&mut self, region: usize) -> Vec<T> {
        self.0
            .get_mut(region)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// All things, region by region.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::{ByRegion, region_of};

    #[test]
    fn a_region_is_emptied_alone() {
        let mut things = ByRegion::new(3);
        let a = things.push(0, 'a');
        let b = things.push(2, 'b');
        assert_eq!(things.next(2), b + 1);
        let c = things.push(2, 'c');
        assert_eq!((region_of(a), region_of(c)), (0, 2));
        assert_eq!(things.get(c), Some(&'c'));
        assert_eq!(things.take(2), ['b', 'c']);
        assert_eq!((things.get(b), things.get(a)), (None, Some(&'a')));
        assert_eq!(things.push(2, 'd'), b);
        assert_eq!(things.iter().collect::<String>(), "ad");
        assert_eq!(things.get(u32::MAX), None);
    }
}
