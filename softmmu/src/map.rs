//! Host memory behind guest RAM: a memfd mapped shared, so that it counts as shared memory and can be mapped again.
#![expect(unsafe_code, reason = "mmap and memfd_create are C calls")]
// UNSAFETY: The mapping is made, advised and unmapped by raw system calls; nothing else is unsafe here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use crate::ram::RamError;
use crate::raw;

/// Whether the host would give this many bytes of address space and memory besides all that it has given.
pub fn room(bytes: u64) -> bool {
    let Ok(size) = usize::try_from(bytes) else {
        return false;
    };
    let (rights, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size, rights, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the mapping just made, which nobody has used.
    unsafe { libc::munmap(at, size) };
    true
}

/// A mapping of `len` bytes of zeros that lives until it is dropped.
#[derive(Debug)]
pub(crate) struct HostMap {
    base: NonNull<u8>,
    len: u64,
    fd: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed as `raw.rs` says.
unsafe impl Send for HostMap {}
// SAFETY: as above: every access through a shared reference is one of `raw.rs`'s race-proof accesses.
unsafe impl Sync for HostMap {}

impl HostMap {
    /// Maps `len` bytes (not 0, a multiple of 4 KiB). Host memory is taken page by page when it is touched.
    pub(crate) fn new(len: u64) -> Result<Self, RamError> {
        let failed = |call| RamError::Host {
            call,
            len,
            source: io::Error::last_os_error(),
        };
        let size = usize::try_from(len).map_err(|_| RamError::Size { size: len })?;
        let offset = libc::off_t::try_from(len).map_err(|_| RamError::Size { size: len })?;
        // SAFETY: a C string that lives for ever, and valid flags.
        let fd = unsafe { libc::memfd_create(c"doppel-ram".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(failed("memfd_create"));
        }
        // SAFETY: just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: no memory is involved.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), offset) } != 0 {
            return Err(failed("ftruncate"));
        }
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that is that long.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                protection,
                flags,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| failed("mmap"))?;
        // Hints only (large pages, no core dumps of guests): a kernel without them is fine.
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
            // SAFETY: the whole of the mapping just made; neither advice changes its contents.
            unsafe { libc::madvise(base.as_ptr().cast(), size, advice) };
        }
        base.as_ptr().expose_provenance();
        Ok(Self { base, len, fd })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The host address of the first byte.
    #[inline]
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The file behind it.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The host address of `len` bytes at `offset`. Panics if they aren't inside: offsets come from page frames,
    /// never from the guest.
    #[inline]
    fn at(&self, offset: u64, len: u64) -> u64 {
        assert!(
            len <= self.len && offset <= self.len - len,
            "an offset outside guest RAM"
        );
        self.address() + offset
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) {
        let address = self.at(offset, out.len() as u64);
        // SAFETY: inside the mapping (just checked); `out` is a Rust slice and so not guest RAM.
        unsafe { raw::copy_out(address, out) };
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let address = self.at(offset, bytes.len() as u64);
        // SAFETY: inside the mapping (just checked); `bytes` is a Rust slice and so not guest RAM.
        unsafe { raw::copy_in(address, bytes) };
    }

    /// Loads 1 to 8 bytes, zero-extended.
    #[inline]
    pub(crate) fn load(&self, offset: u64, size: u32) -> u64 {
        let address = self.at(offset, u64::from(size.min(8)));
        // SAFETY: inside the mapping (just checked).
        unsafe { raw::load_sized(address, size) }
    }

    /// Stores the low 1 to 8 bytes of `value`.
    #[inline]
    pub(crate) fn store(&self, offset: u64, size: u32, value: u64) {
        let address = self.at(offset, u64::from(size.min(8)));
        // SAFETY: inside the mapping (just checked).
        unsafe { raw::store_sized(address, size, value) };
    }

    /// Locked compare-exchange of 1, 2, 4 or 8 bytes that `raw::can_lock`; the value found.
    #[inline]
    pub(crate) fn compare_exchange(&self, offset: u64, size: u32, expected: u64, new: u64) -> u64 {
        let address = self.at(offset, u64::from(size));
        assert!(
            matches!(size, 1 | 2 | 4 | 8) && raw::can_lock(address, size),
            "no host instruction can lock this"
        );
        // SAFETY: inside the mapping, of a size and place that can be locked (just checked).
        unsafe { raw::compare_exchange(address, size, expected, new) }
    }

    /// Locked exchange; sizes and places as for the compare-exchange.
    #[inline]
    pub(crate) fn swap(&self, offset: u64, size: u32, new: u64) -> u64 {
        let address = self.at(offset, u64::from(size));
        assert!(
            matches!(size, 1 | 2 | 4 | 8) && raw::can_lock(address, size),
            "no host instruction can lock this"
        );
        // SAFETY: inside the mapping, of a size and place that can be locked (just checked).
        unsafe { raw::swap(address, size, new) }
    }

    /// Locked addition; sizes and places as for the compare-exchange.
    #[inline]
    pub(crate) fn fetch_add(&self, offset: u64, size: u32, addend: u64) -> u64 {
        let address = self.at(offset, u64::from(size));
        assert!(
            matches!(size, 1 | 2 | 4 | 8) && raw::can_lock(address, size),
            "no host instruction can lock this"
        );
        // SAFETY: inside the mapping, of a size and place that can be locked (just checked).
        unsafe { raw::fetch_add(address, size, addend) }
    }

    /// Locked compare-exchange of 16 aligned bytes; the value found.
    pub(crate) fn compare_exchange128(&self, offset: u64, expected: u128, new: u128) -> u128 {
        let address = self.at(offset, 16);
        assert!(address.is_multiple_of(16), "CMPXCHG16B of unaligned memory");
        // SAFETY: inside the mapping and aligned (just checked).
        unsafe { raw::compare_exchange128(address, expected, new) }
    }

    /// Whether [`HostMap::compare_exchange`] may be used there.
    #[inline]
    pub(crate) fn can_lock(&self, offset: u64, size: u32) -> bool {
        raw::can_lock(self.address() + offset, size)
    }

    /// Checks a string of elements and gives the offset of its lowest byte's host address base.
    fn string(&self, first: u64, size: u32, count: u64, backward: bool) -> Option<u64> {
        assert!(
            matches!(size, 1 | 2 | 4 | 8),
            "no string element has this size"
        );
        let rest = u64::from(size)
            .checked_mul(count.checked_sub(1)?)
            .expect("a string longer than RAM");
        let lowest = if backward {
            first.checked_sub(rest).expect("a string below RAM")
        } else {
            first
        };
        self.at(lowest, rest + u64::from(size));
        Some(self.address() + first)
    }

    /// REP MOVS between two strings; `target` and `source` are the offsets of their first elements.
    pub(crate) fn move_elements(
        &self,
        target: u64,
        source: u64,
        size: u32,
        count: u64,
        backward: bool,
    ) {
        let Some(target) = self.string(target, size, count, backward) else {
            return;
        };
        let Some(source) = self.string(source, size, count, backward) else {
            return;
        };
        // SAFETY: both strings lie inside the mapping and the size is legal (`string` has checked).
        unsafe { raw::move_elements(target, source, size, count, backward) };
    }

    /// REP STOS; `target` is the offset of the first element.
    pub(crate) fn fill_elements(
        &self,
        target: u64,
        size: u32,
        count: u64,
        value: u64,
        backward: bool,
    ) {
        let Some(target) = self.string(target, size, count, backward) else {
            return;
        };
        // SAFETY: the string lies inside the mapping and the size is legal (`string` has checked).
        unsafe { raw::fill_elements(target, size, count, value, backward) };
    }
}

impl Drop for HostMap {
    fn drop(&mut self) {
        // SAFETY: this mapping, whole, made by `new`; whoever holds addresses into it holds the GuestRam.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len as usize) };
    }
}

/// A zeroed slice of atomics. Large ones come from the kernel as untouched zero pages, so that per-page tables
/// cost memory only for the pages that are used.
pub(crate) fn zeroed<T: ZeroAtomic>(len: usize) -> Box<[T]> {
    let slice = Box::<[T]>::new_zeroed_slice(len);
    // SAFETY: for every `ZeroAtomic` all-zero bytes are a valid value.
    unsafe { slice.assume_init() }
}

/// Types for which all-zero bytes are a value.
///
/// # Safety
/// Implemented for integers' atomics, and structs of them, only.
pub(crate) unsafe trait ZeroAtomic {}
// SAFETY: an integer in an UnsafeCell.
unsafe impl ZeroAtomic for std::sync::atomic::AtomicU8 {}
// SAFETY: a struct of such integers.
unsafe impl ZeroAtomic for crate::track::Page {}
// SAFETY: an integer in an UnsafeCell.
unsafe impl ZeroAtomic for std::sync::atomic::AtomicU64 {}
