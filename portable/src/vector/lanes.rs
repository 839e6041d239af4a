//! Lanes of any type in slices of bytes.

use crate::float::{F32, F64};

/// A lane type: little-endian in the register.
pub(crate) trait Lane: Copy {
    /// Bytes.
    const SIZE: usize;
    /// Lane `i`.
    fn get(bytes: &[u8], i: usize) -> Self;
    /// Writes lane `i`.
    fn put(self, bytes: &mut [u8], i: usize);
}

macro_rules! lane {
    ($($type:ty),*) => {$(
        impl Lane for $type {
            const SIZE: usize = size_of::<$type>();

            #[inline]
            fn get(bytes: &[u8], i: usize) -> Self {
                let at = i * Self::SIZE;
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(&bytes[at..at + Self::SIZE]);
                Self::from_le_bytes(array)
            }

            #[inline]
            fn put(self, bytes: &mut [u8], i: usize) {
                let at = i * Self::SIZE;
                bytes[at..at + Self::SIZE].copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

lane!(u8, i8, u16, i16, u32, i32, u64, i64, u128);

impl Lane for F32 {
    const SIZE: usize = 4;

    #[inline]
    fn get(bytes: &[u8], i: usize) -> Self {
        Self(u32::get(bytes, i))
    }

    #[inline]
    fn put(self, bytes: &mut [u8], i: usize) {
        self.0.put(bytes, i);
    }
}

impl Lane for F64 {
    const SIZE: usize = 8;

    #[inline]
    fn get(bytes: &[u8], i: usize) -> Self {
        Self(u64::get(bytes, i))
    }

    #[inline]
    fn put(self, bytes: &mut [u8], i: usize) {
        self.0.put(bytes, i);
    }
}

/// `d[i] = f(a[i], b[i])`.
#[inline]
pub(crate) fn map2<T: Lane>(d: &mut [u8], a: &[u8], b: &[u8], f: impl Fn(T, T) -> T) {
    for i in 0..d.len() / T::SIZE {
        f(T::get(a, i), T::get(b, i)).put(d, i);
    }
}

/// `d[i] = f(b[i])`, lane types of any sizes: as many as fill `d`.
#[inline]
pub(crate) fn map1<S: Lane, D: Lane>(d: &mut [u8], b: &[u8], f: impl Fn(S) -> D) {
    for i in 0..d.len() / D::SIZE {
        f(S::get(b, i)).put(d, i);
    }
}

/// Runs `f` on each 16-byte block (an MMX register is one of 8): most instructions that cross lanes don't cross blocks.
#[inline]
pub(crate) fn blocks(d: &mut [u8], a: &[u8], b: &[u8], f: impl Fn(&mut [u8], &[u8], &[u8])) {
    for ((d, a), b) in d.chunks_mut(16).zip(a.chunks(16)).zip(b.chunks(16)) {
        f(d, a, b);
    }
}

/// The low 16 bytes as an array; shorter slices are extended with zeros.
#[inline]
pub(crate) fn array(bytes: &[u8]) -> [u8; 16] {
    let mut array = [0; 16];
    let len = bytes.len().min(16);
    array[..len].copy_from_slice(&bytes[..len]);
    array
}
