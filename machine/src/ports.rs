//! Dispatch tables, built once: which device has which port, and which device memory.

use x86::PhysAddr;

use crate::device::{PortRange, Region};

/// Number of I/O ports.
const PORTS: usize = 0x1_0000;

/// The owner of each port.
#[derive(Debug)]
pub(crate) struct PortTable {
    /// 0: nobody; else the index of a range, plus one.
    owner: Box<[u8]>,
    ranges: Vec<(PortRange, usize)>,
}

impl PortTable {
    pub(crate) fn new() -> Self {
        Self {
            owner: vec![0; PORTS].into_boxed_slice(),
            ranges: Vec::new(),
        }
    }

    /// Gives `range` to `device`; the first port that somebody has already is the error.
    pub(crate) fn claim(&mut self, range: PortRange, device: usize) -> Result<(), u16> {
        let first = usize::from(range.first);
        let last = first + usize::from(range.count);
        if last > PORTS || self.ranges.len() >= usize::from(u8::MAX) {
            return Err(range.first);
        }
        if let Some(taken) = self.owner[first..last].iter().position(|&owner| owner != 0) {
            return Err(range.first + taken as u16);
        }
        self.ranges.push((range, device));
        self.owner[first..last].fill(self.ranges.len() as u8);
        Ok(())
    }

    /// How many of the ports from `first` on are free, at most `limit`.
    pub(crate) fn free(&self, first: u16, limit: u16) -> u16 {
        let free = self.owner[usize::from(first)..]
            .iter()
            .take(usize::from(limit))
            .take_while(|&&o| o == 0);
        free.count() as u16
    }

    /// The range that holds `port`, and its device.
    pub(crate) fn find(&self, port: u16) -> Option<&(PortRange, usize)> {
        let owner = self.owner[usize::from(port)];
        self.ranges.get(usize::from(owner.checked_sub(1)?))
    }

    /// All ranges.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &(PortRange, usize)> {
        self.ranges.iter()
    }
}

/// Device memory, ascending.
#[derive(Debug, Default)]
pub(crate) struct RegionTable(Vec<(Region, usize)>);

impl RegionTable {
    /// Gives `region` to `device`; `false` when it overlaps another.
    pub(crate) fn claim(&mut self, region: Region, device: usize) -> bool {
        let at = self.0.partition_point(|(r, _)| r.start < region.start);
        let end = |r: &Region| r.start.0 + r.len;
        let clear_below = at == 0 || end(&self.0[at - 1].0) <= region.start.0;
        let clear_above = self
            .0
            .get(at)
            .is_none_or(|(r, _)| end(&region) <= r.start.0);
        if clear_below && clear_above {
            self.0.insert(at, (region, device));
        }
        clear_below && clear_above
    }

    /// The device that has all `size` bytes at `addr`.
    pub(crate) fn find(&self, addr: PhysAddr, size: u8) -> Option<usize> {
        let at = self
            .0
            .partition_point(|(r, _)| r.start <= addr)
            .checked_sub(1)?;
        let (region, device) = self.0[at];
        let offset = addr.0 - region.start.0;
        (offset < region.len && region.len - offset >= u64::from(size)).then_some(device)
    }

    /// All regions.
    pub(crate) fn regions(&self) -> impl Iterator<Item = &(Region, usize)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::{PortTable, RegionTable};
    use crate::device::{PortRange, Region};
    use x86::PhysAddr;

    #[test]
    fn ports_have_one_owner() {
        let mut table = PortTable::new();
        assert_eq!(table.claim(PortRange::bytes(0x60, 1), 0), Ok(()));
        assert_eq!(table.claim(PortRange::bytes(0x5e, 4), 1), Err(0x60));
        assert_eq!(table.claim(PortRange::wide(0xfffe, 2), 2), Ok(()));
        assert_eq!(table.claim(PortRange::wide(0xffff, 2), 3), Err(0xffff));
        assert_eq!(table.find(0x60).map(|r| r.1), Some(0));
        assert_eq!(table.find(0xffff).map(|r| r.1), Some(2));
        assert!(table.find(0x61).is_none());
        assert_eq!(
            (
                table.free(0x5e, 4),
                table.free(0x61, 4),
                table.free(0xfffd, 4)
            ),
            (2, 4, 1)
        );
    }

    #[test]
    fn regions_are_found_by_any_whole_access() {
        let mut table = RegionTable::default();
        let region = |start, len| Region {
            start: PhysAddr(start),
            len,
        };
        assert!(table.claim(region(0x2000, 0x1000), 1));
        assert!(table.claim(region(0x1000, 0x100), 0));
        assert!(!table.claim(region(0x10ff, 2), 2));
        assert!(!table.claim(region(0x0, 0x1001), 2));
        assert_eq!(table.find(PhysAddr(0x10ff), 1), Some(0));
        assert_eq!(table.find(PhysAddr(0x10ff), 2), None);
        assert_eq!(table.find(PhysAddr(0x2ff8), 8), Some(1));
        assert_eq!(table.find(PhysAddr(0xfff), 1), None);
    }
}
