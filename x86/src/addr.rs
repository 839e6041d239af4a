//! Address newtypes: an effective, a linear and a physical address are never mixed up.

use std::fmt;
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
