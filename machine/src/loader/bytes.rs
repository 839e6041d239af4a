//! Little-endian fields at checked offsets: how every header is read and every table written.

use super::error::Problem;

/// A file's bytes; reads outside them are `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// `len` bytes from `at`.
    pub(super) fn slice(self, at: u64, len: u64) -> Option<&'a [u8]> {
        let end = at.checked_add(len)?;
        self.0
            .get(usize::try_from(at).ok()?..usize::try_from(end).ok()?)
    }

    fn array<const N: usize>(self, at: u64) -> Option<[u8; N]> {
        self.slice(at, N as u64)?.try_into().ok()
    }

    /// The byte at `at`.
    pub(super) fn u8(self, at: u64) -> Option<u8> {
        self.array(at).map(u8::from_le_bytes)
    }

    /// The 16-bit field at `at`.
    pub(super) fn u16(self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    /// The 32-bit field at `at`.
    pub(super) fn u32(self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// The 64-bit field at `at`.
    pub(super) fn u64(self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The bytes' number.
    pub(super) fn len(self) -> u64 {
        self.0.len() as u64
    }

    /// `len` bytes from `at`, or the problem that the file ends before `what` does.
    pub(super) fn need(self, at: u64, len: u64, what: &'static str) -> Result<&'a [u8], Problem> {
        self.slice(at, len).ok_or(Problem::Truncated {
            what,
            need: at.saturating_add(len),
            have: self.len(),
        })
    }
}

/// A table under construction: grows as fields are put into it.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub Vec<u8>);

impl Table {
    /// A table of `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Overwrites the bytes from `at`, growing the table as far as needed.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        if let Some(to) = self.0.get_mut(at..end) {
            to.copy_from_slice(bytes);
        }
    }

    /// Puts a 16-bit field.
    pub(super) fn u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    /// Puts a 32-bit field.
    pub(super) fn u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    /// Puts a 64-bit field.
    pub(super) fn u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// Appends bytes and returns the offset they got.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let at = self.0.len();
        self.0.extend_from_slice(bytes);
        at
    }

    /// Appends a string and its terminating zero, and returns its offset. A string ends at its first zero.
    pub(super) fn append_str(&mut self, text: &str) -> usize {
        let text = text.split('\0').next().unwrap_or_default();
        let at = self.append(text.as_bytes());
        self.0.push(0);
        at
    }

    /// Pads with zeros to a multiple of `to`.
    pub(super) fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Table};

    #[test]
    fn reads_stop_at_the_end() {
        let b = Bytes(&[1, 2, 3, 4, 5]);
        assert_eq!(b.u32(1), Some(0x0504_0302));
        assert_eq!(b.u32(2), None);
        assert_eq!(b.u16(u64::MAX), None);
        assert_eq!(b.slice(5, 0), Some(&[][..]));
    }

    #[test]
    fn a_table_grows_and_aligns() {
        let mut t = Table::zeros(2);
        t.u32(4, 0x1122_3344);
        assert_eq!(t.0, [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(t.append_str("a\0b"), 8);
        t.align(8);
        assert_eq!(t.0.len(), 16);
    }
}
