//! An image under construction: bytes at offsets, written to guest memory at once or not at all.

use x86::Exception;

use super::layout::MAX_IMAGE;
use crate::Vcpu;

/// Bytes of the largest image.
const MAX: usize = MAX_IMAGE as usize;
/// Pieces that an image can have.
const PIECES: usize = 16;

/// An image of which only the pieces that were put into it are written.
pub struct Area {
    bytes: [u8; MAX],
    pieces: [(usize, usize); PIECES],
    count: usize,
}

impl Area {
    /// An image without any piece.
    pub fn new() -> Self {
        Self {
            bytes: [0; MAX],
            pieces: [(0, 0); PIECES],
            count: 0,
        }
    }

    /// Opens `len` zero bytes at an offset to be filled and written. A piece that follows the last joins it.
    pub fn piece(&mut self, offset: usize, len: usize) -> &mut [u8] {
        match self.pieces[..self.count].last_mut() {
            Some((_, end)) if *end == offset => *end = offset + len,
            _ => {
                self.pieces[self.count] = (offset, offset + len);
                self.count += 1;
            }
        }
        &mut self.bytes[offset..offset + len]
    }

    /// Writes all pieces to linear address `lin`, after every page has been found writable.
    pub fn commit(&self, v: &mut Vcpu, lin: u64) -> Result<(), Exception> {
        let at = |offset: usize| lin.wrapping_add(offset as u64);
        let pieces = &self.pieces[..self.count];
        if pieces.len() > 1 {
            for (start, end) in pieces {
                v.probe_write(at(*start), (end - start) as u64)?;
            }
        }
        for (start, end) in pieces {
            v.write_bytes(at(*start), &self.bytes[*start..*end])?;
        }
        Ok(())
    }
}

/// Little-endian stores and loads at a byte offset.
pub fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&value);
}

/// The `N` bytes at an offset.
pub fn get<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[offset + i])
}
