//! Numbers for pairs of linear and physical page: a jump into a block made for such a pair checks that
//! `Frame::pages` has the pair's number.

use x86::{AddressMap, PAGE_MASK};

use crate::x64::frame::Frame;

/// The last number that would take one byte in code: all take four, so that code can be copied for other pages.
const LAST_SHORT: u32 = 0x7f;

/// The pairs that blocks were made for. A number stands for the same pair for ever: a frame may still have it when the
/// last block of the pair is long gone.
#[derive(Default)]
pub struct PageNumbers {
    /// The number, and how many times it is held.
    held: AddressMap<(u64, u64), (u32, u32)>,
    last: u32,
}

impl PageNumbers {
    /// The slot of `Frame::pages` for the pages of two addresses and the pair's number, to be released again; `None`
    /// when there are no more numbers.
    pub fn hold(&mut self, lin: u64, phys: u64, long_mode: bool) -> Option<(usize, u32)> {
        let slot = Frame::page_slot(lin, long_mode);
        let pair = Self::pair(lin, phys);
        if let Some((number, count)) = self.held.get_mut(&pair) {
            *count += 1;
            return Some((slot, *number));
        }
        self.last = self.last.max(LAST_SHORT).checked_add(1)?;
        self.held.insert(pair, (self.last, 1));
        Some((slot, self.last))
    }

    /// One holder less.
    pub fn release(&mut self, lin: u64, phys: u64) {
        let pair = Self::pair(lin, phys);
        if let Some((_, count)) = self.held.get_mut(&pair) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&pair);
            }
        }
    }

    /// Gives numbers from the start again, if none are left and nobody holds any: true if so.
    pub fn start_again(&mut self) -> bool {
        let again = self.last == u32::MAX && self.held.is_empty();
        if again {
            self.last = 0;
        }
        again
    }

    fn pair(lin: u64, phys: u64) -> (u64, u64) {
        (lin & !PAGE_MASK, phys & !PAGE_MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::PageNumbers;

    #[test]
    fn a_number_is_never_another_pairs() {
        let mut pages = PageNumbers::default();
        let a = pages.hold(0x1000, 0x5000, true);
        assert_eq!(pages.hold(0x1fff, 0x5123, true), a);
        let b = pages.hold(0x1000, 0x6000, true);
        assert_ne!(a, b);
        pages.release(0x1000, 0x5000);
        assert_eq!(pages.hold(0x1000, 0x5000, true), a, "still held");
        pages.release(0x1000, 0x5000);
        pages.release(0x1000, 0x5000);
        let c = pages.hold(0x1000, 0x5000, true);
        assert!(c != a && c != b, "given up and back again");
        pages.last = u32::MAX;
        assert_eq!(pages.hold(0x1000, 0x6000, true), b);
        assert_eq!(pages.hold(0x9000, 0x6000, true), None);
        assert!(!pages.start_again(), "some are held");
        pages.release(0x1000, 0x5000);
        pages.release(0x1000, 0x6000);
        pages.release(0x1000, 0x6000);
        assert!(pages.start_again() && pages.hold(0x1000, 0x5000, true) == a);
    }
}
