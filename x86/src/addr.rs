//! Address newtypes: an effective, a linear and a physical address are never mixed up.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::{Add, Sub};

/// Bytes in the smallest page (SDM vol. 3, 5.1.1).
pub const PAGE_SIZE: u64 = 4096;
/// The bits of an address that lie inside a 4 KiB page.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address of the first byte of the 4 KiB page that holds this address.
            pub const fn page(self) -> Self {
                Self(self.0 & !PAGE_MASK)
            }

            /// The distance in bytes from the start of the 4 KiB page.
            pub const fn page_offset(self) -> u64 {
                self.0 & PAGE_MASK
            }

            /// This address plus `bytes`, modulo 2^64 as the CPU's adders do.
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, ":{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl Add<u64> for $name {
            type Output = Self;
            fn add(self, bytes: u64) -> Self {
                Self(self.0 + bytes)
            }
        }

        impl Sub for $name {
            type Output = u64;
            fn sub(self, other: Self) -> u64 {
                self.0 - other.0
            }
        }
    };
}

address! {
    /// An offset inside a segment, as the instruction's operand gives it.
    EffAddr, "eff"
}
address! {
    /// Segment base plus effective address: what paging translates.
    LinAddr, "lin"
}
address! {
    /// What paging yields: a place in RAM or in a device.
    PhysAddr, "phys"
}

/// A table by addresses, or by keys made of them.
pub type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// A hasher for addresses: one multiplication a word, whose upper bits then stir the lower ones.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }
}
