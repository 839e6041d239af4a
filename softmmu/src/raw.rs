//! Accesses to guest RAM that other threads access at the same time: the one place that touches its bytes.
//!
//! Guest RAM is shared by vCPU threads and device threads without locks, as on the real bus. Rust's plain
//! loads and stores would be data races, so every access here is one machine instruction in inline assembly
//! (x86-64 hosts) or a relaxed atomic (other hosts, per byte where it isn't aligned). Host addresses are plain
//! integers: RAM comes from `mmap`, its provenance is exposed once in `map.rs`.
#![expect(unsafe_code, reason = "guest RAM is raw shared memory")]
// UNSAFETY: Every function takes host addresses that the caller has checked to lie inside the RAM mapping.

/// Declares a load and a store of one width; the address is `base + offset`, added by the load unit.
macro_rules! scalar {
    ($load:ident, $store:ident, $ty:ty, $atomic:ident, $load_asm:literal, $store_asm:literal, $class:ident) => {
        /// Loads one little-endian value from `base + offset`, of any alignment.
        ///
        /// # Safety
        /// All of its bytes lie inside a live RAM mapping.
        #[inline(always)]
        pub(crate) unsafe fn $load(base: u64, offset: u64) -> $ty {
            #[cfg(target_arch = "x86_64")]
            {
                let value: $ty;
                // SAFETY: one load from mapped memory (the caller's promise); no stack, no flags.
                unsafe {
                    core::arch::asm!($load_asm, v = out($class) value, b = in(reg) base, o = in(reg) offset,
                        options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let address = base.wrapping_add(offset);
                if address % size_of::<$ty>() as u64 == 0 {
                    let place = core::ptr::with_exposed_provenance_mut(address as usize);
                    // SAFETY: mapped (the caller's promise) and aligned (just tested).
                    let place = unsafe { core::sync::atomic::$atomic::from_ptr(place) };
                    <$ty>::from_le(place.load(core::sync::atomic::Ordering::Relaxed))
                } else {
                    let mut bytes = [0; size_of::<$ty>()];
                    // SAFETY: mapped (the caller's promise).
                    unsafe { bytewise::read(address, &mut bytes) };
                    <$ty>::from_le_bytes(bytes)
                }
            }
        }

        /// Stores one little-endian value at `base + offset`, of any alignment.
        ///
        /// # Safety
        /// All of its bytes lie inside a live RAM mapping.
        #[inline(always)]
        pub(crate) unsafe fn $store(base: u64, offset: u64, value: $ty) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: one store to mapped memory (the caller's promise); no stack, no flags.
            unsafe {
                core::arch::asm!($store_asm, v = in($class) value, b = in(reg) base, o = in(reg) offset,
                    options(nostack, preserves_flags));
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let address = base.wrapping_add(offset);
                if address % size_of::<$ty>() as u64 == 0 {
                    let place = core::ptr::with_exposed_provenance_mut(address as usize);
                    // SAFETY: mapped (the caller's promise) and aligned (just tested).
                    let place = unsafe { core::sync::atomic::$atomic::from_ptr(place) };
                    place.store(value.to_le(), core::sync::atomic::Ordering::Relaxed);
                } else {
                    // SAFETY: mapped (the caller's promise).
                    unsafe { bytewise::write(address, &value.to_le_bytes()) };
                }
            }
        }
    };
}

scalar!(
    load8,
    store8,
    u8,
    AtomicU8,
    "mov {v}, byte ptr [{b} + {o}]",
    "mov byte ptr [{b} + {o}], {v}",
    reg_byte
);
scalar!(
    load16,
    store16,
    u16,
    AtomicU16,
    "movzx {v:e}, word ptr [{b} + {o}]",
    "mov word ptr [{b} + {o}], {v:x}",
    reg
);
scalar!(
    load32,
    store32,
    u32,
    AtomicU32,
    "mov {v:e}, dword ptr [{b} + {o}]",
    "mov dword ptr [{b} + {o}], {v:e}",
    reg
);
scalar!(
    load64,
    store64,
    u64,
    AtomicU64,
    "mov {v}, qword ptr [{b} + {o}]",
    "mov qword ptr [{b} + {o}], {v}",
    reg
);

/// Loads 16 bytes: one access on x86-64 (which is atomic where aligned, as on CPUs with AVX), two elsewhere.
///
/// # Safety
/// All 16 bytes at `base + offset` lie inside a live RAM mapping.
#[inline(always)]
pub(crate) unsafe fn load128(base: u64, offset: u64) -> u128 {
    #[cfg(target_arch = "x86_64")]
    {
        let value: core::arch::x86_64::__m128i;
        // SAFETY: one load from mapped memory (the caller's promise); no stack, no flags.
        unsafe {
            core::arch::asm!("movdqu {v}, xmmword ptr [{b} + {o}]", v = out(xmm_reg) value, b = in(reg) base,
                o = in(reg) offset, options(nostack, preserves_flags, readonly));
        }
        // SAFETY: two plain 16-byte types.
        unsafe { core::mem::transmute::<core::arch::x86_64::__m128i, u128>(value) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // SAFETY: the lower half of the caller's 16 bytes.
        let low = unsafe { load64(base, offset) };
        // SAFETY: the upper half of the caller's 16 bytes.
        let high = unsafe { load64(base, offset.wrapping_add(8)) };
        u128::from(low) | u128::from(high) << 64
    }
}

/// Stores 16 bytes, as [`load128`] loads them.
///
/// # Safety
/// All 16 bytes at `base + offset` lie inside a live RAM mapping.
#[inline(always)]
pub(crate) unsafe fn store128(base: u64, offset: u64, value: u128) {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: two plain 16-byte types.
        let value = unsafe { core::mem::transmute::<u128, core::arch::x86_64::__m128i>(value) };
        // SAFETY: one store to mapped memory (the caller's promise); no stack, no flags.
        unsafe {
            core::arch::asm!("movdqu xmmword ptr [{b} + {o}], {v}", v = in(xmm_reg) value, b = in(reg) base,
                o = in(reg) offset, options(nostack, preserves_flags));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // SAFETY: the lower half of the caller's 16 bytes.
        unsafe { store64(base, offset, value as u64) };
        // SAFETY: the upper half of the caller's 16 bytes.
        unsafe { store64(base, offset.wrapping_add(8), (value >> 64) as u64) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod bytewise {
    //! Unaligned accesses of other hosts, byte by byte.
    use core::sync::atomic::{AtomicU8, Ordering};

    /// # Safety
    /// `bytes.len()` bytes at `address` lie inside a live RAM mapping.
    pub(super) unsafe fn read(address: u64, bytes: &mut [u8]) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            let place = core::ptr::with_exposed_provenance_mut(address as usize + i);
            // SAFETY: mapped (the caller's promise); a byte is always aligned.
            *byte = unsafe { AtomicU8::from_ptr(place) }.load(Ordering::Relaxed);
        }
    }

    /// # Safety
    /// `bytes.len()` bytes at `address` lie inside a live RAM mapping.
    pub(super) unsafe fn write(address: u64, bytes: &[u8]) {
        for (i, &byte) in bytes.iter().enumerate() {
            let place = core::ptr::with_exposed_provenance_mut(address as usize + i);
            // SAFETY: mapped (the caller's promise); a byte is always aligned.
            unsafe { AtomicU8::from_ptr(place) }.store(byte, Ordering::Relaxed);
        }
    }
}

/// From this length on a string instruction beats the loop of 8-byte moves.
const LONG: usize = 128;

/// Copies guest bytes out.
///
/// # Safety
/// `out.len()` bytes at `address` lie inside a live RAM mapping; `out` isn't guest RAM.
pub(crate) unsafe fn copy_out(address: u64, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if out.len() >= LONG {
        // SAFETY: reads the caller's mapped bytes, writes all of `out`; DF is clear by the ABI.
        unsafe {
            core::arch::asm!("rep movsb", inout("rcx") out.len() => _, inout("rsi") address => _,
                inout("rdi") out.as_mut_ptr() => _, options(nostack, preserves_flags));
        }
        return;
    }
    let mut at = 0;
    let mut words = out.chunks_exact_mut(8);
    for word in &mut words {
        // SAFETY: inside the caller's mapped bytes.
        let value = unsafe { load64(address, at) };
        word.copy_from_slice(&value.to_le_bytes());
        at += 8;
    }
    for byte in words.into_remainder() {
        // SAFETY: inside the caller's mapped bytes.
        *byte = unsafe { load8(address, at) };
        at += 1;
    }
}

/// Copies bytes into guest RAM.
///
/// # Safety
/// `bytes.len()` bytes at `address` lie inside a live RAM mapping; `bytes` isn't guest RAM.
pub(crate) unsafe fn copy_in(address: u64, bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= LONG {
        // SAFETY: writes the caller's mapped bytes, reads all of `bytes`; DF is clear by the ABI.
        unsafe {
            core::arch::asm!("rep movsb", inout("rcx") bytes.len() => _, inout("rsi") bytes.as_ptr() => _,
                inout("rdi") address => _, options(nostack, preserves_flags));
        }
        return;
    }
    let mut at = 0;
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        let value = word
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte));
        // SAFETY: inside the caller's mapped bytes.
        unsafe { store64(address, at, value) };
        at += 8;
    }
    for &byte in rest {
        // SAFETY: inside the caller's mapped bytes.
        unsafe { store8(address, at, byte) };
        at += 1;
    }
}

/// Loads an element of 1, 2, 4 or 8 bytes, zero-extended.
///
/// # Safety
/// `size` bytes at `address` lie inside a live RAM mapping.
#[inline]
pub(crate) unsafe fn load_sized(address: u64, size: u32) -> u64 {
    match size {
        // SAFETY: the caller's promise, for each width.
        1 => u64::from(unsafe { load8(address, 0) }),
        // SAFETY: as above.
        2 => u64::from(unsafe { load16(address, 0) }),
        // SAFETY: as above.
        4 => u64::from(unsafe { load32(address, 0) }),
        // SAFETY: as above.
        8 => unsafe { load64(address, 0) },
        _ => {
            let mut bytes = [0; 8];
            let size = size.min(8) as usize;
            // SAFETY: as above.
            unsafe { copy_out(address, &mut bytes[..size]) };
            u64::from_le_bytes(bytes)
        }
    }
}

/// Stores the low `size` bytes of `value`.
///
/// # Safety
/// `size` bytes at `address` lie inside a live RAM mapping.
#[inline]
pub(crate) unsafe fn store_sized(address: u64, size: u32, value: u64) {
    match size {
        // SAFETY: the caller's promise, for each width.
        1 => unsafe { store8(address, 0, value as u8) },
        // SAFETY: as above.
        2 => unsafe { store16(address, 0, value as u16) },
        // SAFETY: as above.
        4 => unsafe { store32(address, 0, value as u32) },
        // SAFETY: as above.
        8 => unsafe { store64(address, 0, value) },
        _ => {
            let size = size.min(8) as usize;
            // SAFETY: as above.
            unsafe { copy_in(address, &value.to_le_bytes()[..size]) };
        }
    }
}

/// Whether a locked access of `size` bytes at `address` can be one host instruction: on x86-64 anything inside a
/// cache line (a lock across two is a split lock, which hosts throttle or refuse), elsewhere what is aligned.
pub(crate) fn can_lock(address: u64, size: u32) -> bool {
    if cfg!(target_arch = "x86_64") {
        address % 64 + u64::from(size) <= 64
    } else {
        address.is_multiple_of(u64::from(size))
    }
}

/// Declares the locked operations of one width.
macro_rules! locked {
    ($cas:ident, $swap:ident, $add:ident, $ty:ty, $atomic:ident, $acc:tt, $cas_asm:tt, $swap_asm:tt,
        $add_asm:literal, $class:ident) => {
        /// # Safety
        /// The bytes lie inside a live RAM mapping and satisfy [`can_lock`].
        #[inline]
        unsafe fn $cas(address: u64, expected: $ty, new: $ty) -> $ty {
            #[cfg(target_arch = "x86_64")]
            {
                let old: $ty;
                // SAFETY: one locked instruction on mapped memory.
                unsafe {
                    core::arch::asm!($cas_asm, n = in($class) new, p = in(reg) address,
                        inout($acc) expected => old, options(nostack));
                }
                old
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                use core::sync::atomic::Ordering::SeqCst;
                let place = core::ptr::with_exposed_provenance_mut(address as usize);
                // SAFETY: mapped and aligned, the caller's promise.
                let place = unsafe { core::sync::atomic::$atomic::from_ptr(place) };
                match place.compare_exchange(expected.to_le(), new.to_le(), SeqCst, SeqCst) {
                    Ok(old) | Err(old) => <$ty>::from_le(old),
                }
            }
        }

        /// # Safety
        /// As for the compare-exchange.
        #[inline]
        unsafe fn $swap(address: u64, new: $ty) -> $ty {
            #[cfg(target_arch = "x86_64")]
            {
                let old: $ty;
                // SAFETY: one instruction with an implied lock on mapped memory.
                unsafe {
                    core::arch::asm!($swap_asm, n = inout($class) new => old, p = in(reg) address,
                        options(nostack, preserves_flags));
                }
                old
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let place = core::ptr::with_exposed_provenance_mut(address as usize);
                // SAFETY: mapped and aligned, the caller's promise.
                let place = unsafe { core::sync::atomic::$atomic::from_ptr(place) };
                <$ty>::from_le(place.swap(new.to_le(), core::sync::atomic::Ordering::SeqCst))
            }
        }

        /// # Safety
        /// As for the compare-exchange.
        #[inline]
        unsafe fn $add(address: u64, addend: $ty) -> $ty {
            #[cfg(target_arch = "x86_64")]
            {
                let old: $ty;
                // SAFETY: one locked instruction on mapped memory.
                unsafe {
                    core::arch::asm!($add_asm, n = inout($class) addend => old, p = in(reg) address,
                        options(nostack));
                }
                old
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let mut seen = 0;
                loop {
                    // SAFETY: the caller's promise.
                    let old = unsafe { $cas(address, seen, seen.wrapping_add(addend)) };
                    if old == seen {
                        return old;
                    }
                    seen = old;
                }
            }
        }
    };
}

locked!(
    cas8,
    swap8,
    add8,
    u8,
    AtomicU8,
    "al",
    "lock cmpxchg byte ptr [{p}], {n}",
    "xchg byte ptr [{p}], {n}",
    "lock xadd byte ptr [{p}], {n}",
    reg_byte
);
locked!(
    cas16,
    swap16,
    add16,
    u16,
    AtomicU16,
    "ax",
    "lock cmpxchg word ptr [{p}], {n:x}",
    "xchg word ptr [{p}], {n:x}",
    "lock xadd word ptr [{p}], {n:x}",
    reg
);
locked!(
    cas32,
    swap32,
    add32,
    u32,
    AtomicU32,
    "eax",
    "lock cmpxchg dword ptr [{p}], {n:e}",
    "xchg dword ptr [{p}], {n:e}",
    "lock xadd dword ptr [{p}], {n:e}",
    reg
);
locked!(
    cas64,
    swap64,
    add64,
    u64,
    AtomicU64,
    "rax",
    "lock cmpxchg qword ptr [{p}], {n}",
    "xchg qword ptr [{p}], {n}",
    "lock xadd qword ptr [{p}], {n}",
    reg
);

/// Locked compare-exchange of 1, 2, 4 or 8 bytes; the value found.
///
/// # Safety
/// `size` is one of these, the bytes lie inside a live RAM mapping and satisfy [`can_lock`].
#[inline]
pub(crate) unsafe fn compare_exchange(address: u64, size: u32, expected: u64, new: u64) -> u64 {
    match size {
        // SAFETY: the caller's promise, for each width.
        1 => u64::from(unsafe { cas8(address, expected as u8, new as u8) }),
        // SAFETY: as above.
        2 => u64::from(unsafe { cas16(address, expected as u16, new as u16) }),
        // SAFETY: as above.
        4 => u64::from(unsafe { cas32(address, expected as u32, new as u32) }),
        // SAFETY: as above.
        _ => unsafe { cas64(address, expected, new) },
    }
}

/// Locked exchange of 1, 2, 4 or 8 bytes; the value found.
///
/// # Safety
/// As for [`compare_exchange`].
#[inline]
pub(crate) unsafe fn swap(address: u64, size: u32, new: u64) -> u64 {
    match size {
        // SAFETY: the caller's promise, for each width.
        1 => u64::from(unsafe { swap8(address, new as u8) }),
        // SAFETY: as above.
        2 => u64::from(unsafe { swap16(address, new as u16) }),
        // SAFETY: as above.
        4 => u64::from(unsafe { swap32(address, new as u32) }),
        // SAFETY: as above.
        _ => unsafe { swap64(address, new) },
    }
}

/// Locked addition to 1, 2, 4 or 8 bytes; the value found.
///
/// # Safety
/// As for [`compare_exchange`].
#[inline]
pub(crate) unsafe fn fetch_add(address: u64, size: u32, addend: u64) -> u64 {
    match size {
        // SAFETY: the caller's promise, for each width.
        1 => u64::from(unsafe { add8(address, addend as u8) }),
        // SAFETY: as above.
        2 => u64::from(unsafe { add16(address, addend as u16) }),
        // SAFETY: as above.
        4 => u64::from(unsafe { add32(address, addend as u32) }),
        // SAFETY: as above.
        _ => unsafe { add64(address, addend) },
    }
}

/// Whether the host has a 16-byte compare-exchange.
pub(crate) fn has_cas128() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("cmpxchg16b")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Locked compare-exchange of 16 aligned bytes; the value found. Without the host's instruction the loads and
/// stores are plain: the caller holds the exclusive lock, which keeps other 16-byte operations out.
///
/// # Safety
/// The bytes lie inside a live RAM mapping; `address` is a multiple of 16.
pub(crate) unsafe fn compare_exchange128(address: u64, expected: u128, new: u128) -> u128 {
    #[cfg(target_arch = "x86_64")]
    if has_cas128() {
        let (low, high): (u64, u64);
        // SAFETY: one locked instruction on mapped, aligned memory (the caller's promise) that the host has (just
        // tested). RBX, which it takes an operand in, is the compiler's and gets its value back.
        unsafe {
            core::arch::asm!("xchg {b}, rbx", "lock cmpxchg16b xmmword ptr [rdi]", "mov rbx, {b}",
                b = inout(reg) new as u64 => _, in("rcx") (new >> 64) as u64, in("rdi") address,
                inout("rax") expected as u64 => low, inout("rdx") (expected >> 64) as u64 => high,
                options(nostack));
        }
        return u128::from(low) | u128::from(high) << 64;
    }
    // SAFETY: mapped, the caller's promise.
    let old = unsafe { load128(address, 0) };
    if old == expected {
        // SAFETY: mapped, the caller's promise.
        unsafe { store128(address, 0, new) };
    }
    old
}

/// REP MOVS: `count` elements from `source` to `target`, one after the other, also where they overlap.
///
/// # Safety
/// `size` is 1, 2, 4 or 8. The addresses are those of the first elements; all elements, upwards from there or
/// downwards if `backward`, lie inside live RAM mappings.
pub(crate) unsafe fn move_elements(
    target: u64,
    source: u64,
    size: u32,
    count: u64,
    backward: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if !backward {
        macro_rules! rep {
            ($asm:literal) => {
                // SAFETY: reads and writes the caller's mapped elements; DF is clear by the ABI.
                unsafe {
                    core::arch::asm!($asm, inout("rcx") count => _, inout("rsi") source => _,
                        inout("rdi") target => _, options(nostack, preserves_flags));
                }
            };
        }
        match size {
            1 => rep!("rep movsb"),
            2 => rep!("rep movsw"),
            4 => rep!("rep movsd"),
            _ => rep!("rep movsq"),
        }
        return;
    }
    let step = if backward {
        u64::from(size).wrapping_neg()
    } else {
        u64::from(size)
    };
    let mut at = 0u64;
    for _ in 0..count {
        // SAFETY: one of the caller's mapped elements.
        let value = unsafe { load_sized(source.wrapping_add(at), size) };
        // SAFETY: one of the caller's mapped elements.
        unsafe { store_sized(target.wrapping_add(at), size, value) };
        at = at.wrapping_add(step);
    }
}

/// REP STOS: `count` elements of `value`.
///
/// # Safety
/// As for [`move_elements`].
pub(crate) unsafe fn fill_elements(target: u64, size: u32, count: u64, value: u64, backward: bool) {
    #[cfg(target_arch = "x86_64")]
    if !backward {
        macro_rules! rep {
            ($asm:literal) => {
                // SAFETY: writes the caller's mapped elements; DF is clear by the ABI.
                unsafe {
                    core::arch::asm!($asm, inout("rcx") count => _, in("rax") value, inout("rdi") target => _,
                        options(nostack, preserves_flags));
                }
            };
        }
        match size {
            1 => rep!("rep stosb"),
            2 => rep!("rep stosw"),
            4 => rep!("rep stosd"),
            _ => rep!("rep stosq"),
        }
        return;
    }
    let step = if backward {
        u64::from(size).wrapping_neg()
    } else {
        u64::from(size)
    };
    let mut at = target;
    for _ in 0..count {
        // SAFETY: one of the caller's mapped elements.
        unsafe { store_sized(at, size, value) };
        at = at.wrapping_add(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Host memory standing in for a RAM mapping.
    fn arena() -> (Vec<u64>, u64) {
        let mut words = vec![0u64; 64];
        let address = words.as_mut_ptr().expose_provenance() as u64;
        (words, address)
    }

    #[test]
    fn every_width_and_alignment_round_trips() {
        let (_words, base) = arena();
        for offset in 0..40u64 {
            for size in 1..=8u32 {
                let value = 0x8877_6655_4433_2211u64.rotate_left(offset as u32)
                    & (u64::MAX >> (64 - 8 * size));
                // SAFETY: inside the arena.
                unsafe { store_sized(base + offset, size, value) };
                // SAFETY: inside the arena.
                assert_eq!(unsafe { load_sized(base + offset, size) }, value);
            }
            let value = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeffu128 + u128::from(offset);
            // SAFETY: inside the arena.
            unsafe { store128(base, offset, value) };
            // SAFETY: inside the arena.
            assert_eq!(unsafe { load128(base, offset) }, value);
        }
    }

    #[test]
    fn locked_operations_return_what_was_there() {
        let (_words, base) = arena();
        for size in [1, 2, 4, 8] {
            let mask = u64::MAX >> (64 - 8 * size);
            for offset in [0, 1, 3, 8] {
                let place = base.next_multiple_of(64) + offset;
                assert!(!cfg!(target_arch = "x86_64") || can_lock(place, size));
                if !can_lock(place, size) {
                    continue;
                }
                // SAFETY: inside the arena, inside a line.
                unsafe { store_sized(place, size, 5) };
                // SAFETY: as above.
                assert_eq!(unsafe { compare_exchange(place, size, 4, 9) }, 5);
                // SAFETY: as above.
                assert_eq!(unsafe { compare_exchange(place, size, 5, mask) }, 5);
                // SAFETY: as above.
                assert_eq!(unsafe { fetch_add(place, size, 3) }, mask);
                // SAFETY: as above.
                assert_eq!(unsafe { swap(place, size, 7) }, 2);
                // SAFETY: as above.
                assert_eq!(unsafe { load_sized(place, size) }, 7);
            }
        }
        let place = base.next_multiple_of(16);
        // SAFETY: inside the arena, aligned.
        unsafe { store128(place, 0, 1 << 100) };
        // SAFETY: as above.
        assert_eq!(unsafe { compare_exchange128(place, 0, 3) }, 1 << 100);
        // SAFETY: as above.
        assert_eq!(unsafe { compare_exchange128(place, 1 << 100, 3) }, 1 << 100);
        // SAFETY: as above.
        assert_eq!(unsafe { load128(place, 0) }, 3);
    }

    #[test]
    fn strings_move_element_by_element() {
        for size in [1u32, 2, 4, 8] {
            for backward in [false, true] {
                for shift in [-8i64, -1, 0, 1, 3, 8] {
                    let (_words, base) = arena();
                    let mut model: Vec<u8> = (0..=255).collect();
                    // SAFETY: inside the arena.
                    unsafe { copy_in(base, &model) };
                    let (count, source) = (9usize, if backward { 120i64 } else { 40 });
                    let target = source + shift;
                    let step = i64::from(size) * if backward { -1 } else { 1 };
                    for i in 0..count as i64 {
                        let (s, t) = ((source + i * step) as usize, (target + i * step) as usize);
                        model.copy_within(s..s + size as usize, t);
                    }
                    let (t, s) = (base + target as u64, base + source as u64);
                    // SAFETY: all elements lie inside the arena.
                    unsafe { move_elements(t, s, size, count as u64, backward) };
                    let mut got = vec![0; 256];
                    // SAFETY: inside the arena.
                    unsafe { copy_out(base, &mut got) };
                    assert_eq!(
                        got, model,
                        "size {size}, backward {backward}, shift {shift}"
                    );
                    // SAFETY: all elements lie inside the arena.
                    unsafe {
                        fill_elements(s, size, count as u64, 0x0102_0304_0506_0708, backward)
                    };
                    for i in 0..count as i64 {
                        let at = (source + i * step) as usize;
                        let value = 0x0102_0304_0506_0708u64.to_le_bytes();
                        model[at..at + size as usize].copy_from_slice(&value[..size as usize]);
                    }
                    // SAFETY: inside the arena.
                    unsafe { copy_out(base, &mut got) };
                    assert_eq!(got, model);
                }
            }
        }
    }
}
