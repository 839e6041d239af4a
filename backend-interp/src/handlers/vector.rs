//! Vector loads, stores and the operations that read memory, in one handler each; comparisons that write flags.
//!
//! Operations between registers need no handler: [`crate::host`] assembles one for each instruction and its operands.
#![expect(
    unsafe_code,
    reason = "vector fields of the context, instructions on guest memory"
)]
// UNSAFETY: fields are offsets that lowering made; guest memory is at the host address that the TLB has just given.

use system::Vcpu;
use x86::{Exception, LinAddr};

use crate::code::{Handler, Int, LOp, exit, next};
use crate::handlers::memory::{after_slow_store, ea, load_bytes, pick, raise, store_bytes};

/// Ops behind an operation with memory that do the same in plain steps, and itself. A constant: a distance read from
/// the op would hold up all that follows.
pub const WITH_MEMORY: u16 = 3;

/// `bits`, one less than the alignment, are clear in the address.
#[inline(always)]
fn aligned(lin: u64, bits: u16) -> bool {
    lin as u8 & bits as u8 == 0
}

/// 16 bytes for a vector field.
#[cfg(target_arch = "x86_64")]
type Lanes = std::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Lanes = u128;

/// Reads 16 bytes of the context.
#[inline(always)]
fn get(v: &Vcpu, offset: u16) -> Lanes {
    let at = std::ptr::from_ref(v)
        .wrapping_byte_add(usize::from(offset))
        .cast::<Lanes>();
    // SAFETY: lowering makes offsets of vector fields only, which have 64 bytes.
    unsafe { at.read_unaligned() }
}

/// Writes 16 bytes of the context, as one store: a load of all of them would wait long for two.
#[inline(always)]
fn put(v: &mut Vcpu, offset: u16, value: Lanes) {
    let at = std::ptr::from_mut(v)
        .wrapping_byte_add(usize::from(offset))
        .cast::<Lanes>();
    // SAFETY: as in `get`.
    unsafe { at.write_unaligned(value) }
}

/// Loads `SIZE` bytes and zeros the rest.
#[inline(always)]
fn try_load<const SIZE: u64>(v: &Vcpu, lin: u64) -> Option<Lanes> {
    #[cfg(target_arch = "x86_64")]
    {
        let m = v.mmu.hit_read(LinAddr(lin), SIZE)?;
        // SAFETY: the TLB vouches for the bytes.
        Some(unsafe { x86_64::load::<SIZE>(m) })
    }
    #[cfg(not(target_arch = "x86_64"))]
    match SIZE {
        4 => u32::try_load(v, lin).map(u128::from),
        8 => u64::try_load(v, lin).map(u128::from),
        _ => v.mmu.try_load128(LinAddr(lin)),
    }
}

/// Loads `SIZE` (4, 8, 16) bytes to the field `d`, and zeros up to 16. `a` is the alignment less one.
pub extern "C" fn load<const SIZE: u64, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if aligned(lin, op.a)
        && let Some(value) = try_load::<SIZE>(v, lin)
    {
        put(v, op.d, value);
        return next!(v, op);
    }
    load_cold::<SIZE, IDX, A32>(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn load_cold<const SIZE: u64, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if !aligned(lin, op.a) {
        return raise(v, op, Exception::GP0);
    }
    if !load_bytes(v, op, lin, op.d, SIZE as u32) {
        return exit::FAULT;
    }
    if SIZE < 16 {
        u64::put(v, op.d + 8, 0);
    }
    next!(v, op)
}

/// Loads `SIZE` (4, 8, 16, 32, 64) bytes to the register `d`, and zeros the rest of its 64.
pub extern "C" fn load_vex<const SIZE: u64, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if aligned(lin, op.a) && try_load_vex::<SIZE>(v, lin, op.d) {
        return next!(v, op);
    }
    load_vex_cold::<SIZE, IDX, A32>(v, op)
}

/// Zeros what a register has from byte `FROM` on.
#[inline(always)]
fn clear<const FROM: u16>(v: &mut Vcpu, d: u16) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2, which every x86-64 host has.
    let zero = unsafe { std::arch::x86_64::_mm_setzero_si128() };
    #[cfg(not(target_arch = "x86_64"))]
    let zero: Lanes = 0;
    for at in (FROM..64).step_by(16) {
        put(v, d + at, zero);
    }
}

/// `false`: nothing happened, the slow way is to be taken.
#[inline(always)]
fn try_load_vex<const SIZE: u64>(v: &mut Vcpu, lin: u64, d: u16) -> bool {
    if SIZE <= 16 {
        let Some(value) = try_load::<SIZE>(v, lin) else {
            return false;
        };
        put(v, d, value);
        clear::<16>(v, d);
        return true;
    }
    let Some(m) = v.mmu.hit_read(LinAddr(lin), SIZE) else {
        return false;
    };
    let at = std::ptr::from_mut(v).wrapping_byte_add(usize::from(d));
    copy32(m, at.cast());
    if SIZE == 64 {
        copy32(m.wrapping_add(32), at.cast::<u8>().wrapping_add(32));
    } else {
        clear::<32>(v, d);
    }
    true
}

/// Copies 32 bytes between guest memory, for which the TLB has vouched, and a vector field of the context.
#[inline(always)]
fn copy32(from: *const u8, to: *mut u8) {
    // SAFETY: both have 32 bytes and don't overlap; guest memory may change meanwhile, which the volatile halves bear.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("movups {a}, xmmword ptr [{from}]", "movups {b}, xmmword ptr [{from} + 16]",
            "movups xmmword ptr [{to}], {a}", "movups xmmword ptr [{to} + 16], {b}", a = out(xmm_reg) _,
            b = out(xmm_reg) _, from = in(reg) from, to = in(reg) to, options(nostack, preserves_flags));
        #[cfg(not(target_arch = "x86_64"))]
        for i in 0..32 {
            to.add(i).write(from.add(i).read_volatile());
        }
    }
}

#[cold]
#[inline(never)]
extern "C" fn load_vex_cold<const SIZE: u64, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if !aligned(lin, op.a) {
        return raise(v, op, Exception::GP0);
    }
    if !load_bytes(v, op, lin, op.d, SIZE as u32) {
        return exit::FAULT;
    }
    for at in (SIZE.next_multiple_of(8)..64).step_by(8) {
        u64::put(v, op.d + at as u16, 0);
    }
    next!(v, op)
}

/// VZEROUPPER, VZEROALL: `imm` is the code.
pub extern "C" fn zero_uppers(v: &mut Vcpu, op: &LOp) -> u32 {
    if op.imm == iced_x86::Code::VEX_Vzeroupper as i64 {
        let count = if v.st.code64() { 16 } else { 8 };
        for register in &mut v.st.vec[..count] {
            register[16..].fill(0);
        }
    } else {
        system::clear_uppers(v, iced_x86::Code::VEX_Vzeroall);
    }
    next!(v, op)
}

/// Loads 8 bytes to the lower or upper half of the field `d` (MOVLPS, MOVHPS).
pub extern "C" fn load_half<const UPPER: bool, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(m) = v
        .mmu
        .hit_read(LinAddr(ea::<IDX, A32>(v, op, op.imm as u32)), 8)
    {
        // SAFETY: the TLB vouches for the bytes.
        let value = unsafe { x86_64::load_half::<UPPER>(get(v, op.d), m) };
        put(v, op.d, value);
        return next!(v, op);
    }
    load_half_cold::<UPPER, IDX, A32>(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn load_half_cold<const UPPER: bool, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    let at = if UPPER { op.d + 8 } else { op.d };
    if load_bytes(v, op, lin, at, 8) {
        next!(v, op)
    } else {
        exit::FAULT
    }
}

/// Stores `SIZE` (32, 64) bytes of the field `a`. `d` is the alignment less one.
pub extern "C" fn store_wide<const SIZE: u32, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if aligned(lin, op.d)
        && let Some(m) = v.mmu.hit_write(LinAddr(lin), SIZE.into())
    {
        let at = std::ptr::from_ref(v)
            .wrapping_byte_add(usize::from(op.a))
            .cast::<u8>();
        copy32(at, m);
        if SIZE == 64 {
            copy32(at.wrapping_add(32), m.wrapping_add(32));
        }
        return next!(v, op);
    }
    store_cold::<SIZE, IDX, A32>(v, op)
}

/// Stores the first `SIZE` (4, 8, 16) bytes of the field `a`. `d` is the alignment less one.
pub extern "C" fn store<const SIZE: u32, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if aligned(lin, op.d) {
        let done = match SIZE {
            4 => u32::try_store(v, lin, u32::get(v, op.a)),
            8 => u64::try_store(v, lin, u64::get(v, op.a)),
            _ => {
                let value = u128::from(u64::get(v, op.a)) | u128::from(u64::get(v, op.a + 8)) << 64;
                v.mmu.try_store128(LinAddr(lin), value)
            }
        };
        if done {
            return next!(v, op);
        }
    }
    store_cold::<SIZE, IDX, A32>(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn store_cold<const SIZE: u32, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if !aligned(lin, op.d) {
        return raise(v, op, Exception::GP0);
    }
    if store_bytes(v, op, lin, op.a, SIZE) {
        after_slow_store(v, op)
    } else {
        exit::FAULT
    }
}

macro_rules! forms {
    ($idx:expr, $a32:expr, $f:ident, $t:expr) => {
        Some(pick(
            $idx,
            $a32,
            [
                $f::<{ $t }, false, false>,
                $f::<{ $t }, true, false>,
                $f::<{ $t }, false, true>,
                $f::<{ $t }, true, true>,
            ],
        ))
    };
}

/// The handler of a load of `size` bytes that zeros the rest.
pub fn load_of(size: i64, idx: bool, a32: bool) -> Option<Handler> {
    match size {
        4 => forms!(idx, a32, load, 4),
        8 => forms!(idx, a32, load, 8),
        16 => forms!(idx, a32, load, 16),
        32 => forms!(idx, a32, load_vex, 32),
        64 => forms!(idx, a32, load_vex, 64),
        _ => None,
    }
}

/// The handler of a load of `size` bytes to a register of which the rest becomes zero.
pub fn load_vex_of(size: i64, idx: bool, a32: bool) -> Option<Handler> {
    match size {
        4 => forms!(idx, a32, load_vex, 4),
        8 => forms!(idx, a32, load_vex, 8),
        16 => forms!(idx, a32, load_vex, 16),
        32 => forms!(idx, a32, load_vex, 32),
        64 => forms!(idx, a32, load_vex, 64),
        _ => None,
    }
}

/// The handler of a load of one half.
pub fn load_half_of(upper: bool, idx: bool, a32: bool) -> Option<Handler> {
    if upper {
        forms!(idx, a32, load_half, true)
    } else {
        forms!(idx, a32, load_half, false)
    }
}

/// The handler of a store of `size` bytes.
pub fn store_of(size: i64, idx: bool, a32: bool) -> Option<Handler> {
    match size {
        4 => forms!(idx, a32, store, 4),
        8 => forms!(idx, a32, store, 8),
        16 => forms!(idx, a32, store, 16),
        32 => forms!(idx, a32, store_wide, 32),
        64 => forms!(idx, a32, store_wide, 64),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86_64::{compare_registers, with_memory_of};

/// There is none on other hosts.
#[cfg(not(target_arch = "x86_64"))]
pub fn with_memory_of(_code: iced_x86::Code, _plain: bool) -> Option<Handler> {
    None
}

/// There is none on other hosts.
#[cfg(not(target_arch = "x86_64"))]
pub fn compare_registers(_code: iced_x86::Code) -> Option<Handler> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::__m128i;

    use iced_x86::Code;
    use system::Vcpu;
    use x86::LinAddr;

    use super::{WITH_MEMORY, aligned, get, put};
    use crate::code::{Handler, LOp, go, next};
    use crate::handlers::memory::ea;
    use crate::handlers::system as sys;

    /// Loads `SIZE` bytes and zeros the rest.
    ///
    /// # Safety
    /// `m` points to that many bytes.
    #[inline(always)]
    pub unsafe fn load<const SIZE: u64>(m: *mut u8) -> __m128i {
        let value;
        // SAFETY (all three): SSE2, which every x86-64 host has; the caller vouches for the bytes.
        match SIZE {
            // SAFETY: as said.
            4 => unsafe {
                asm!("movss {}, dword ptr [{}]", out(xmm_reg) value, in(reg) m,
                    options(readonly, nostack, preserves_flags));
            },
            // SAFETY: as said.
            8 => unsafe {
                asm!("movsd {}, qword ptr [{}]", out(xmm_reg) value, in(reg) m,
                    options(readonly, nostack, preserves_flags));
            },
            // SAFETY: as said.
            _ => unsafe {
                asm!("movups {}, xmmword ptr [{}]", out(xmm_reg) value, in(reg) m,
                    options(readonly, nostack, preserves_flags));
            },
        }
        value
    }

    /// Replaces one half of `a`.
    ///
    /// # Safety
    /// `m` points to eight bytes.
    #[inline(always)]
    pub unsafe fn load_half<const UPPER: bool>(a: __m128i, m: *mut u8) -> __m128i {
        let mut a = a;
        if UPPER {
            // SAFETY: as in `load`.
            unsafe {
                asm!("movhps {}, qword ptr [{}]", inout(xmm_reg) a, in(reg) m,
                    options(readonly, nostack, preserves_flags));
            }
        } else {
            // SAFETY: as in `load`.
            unsafe {
                asm!("movlps {}, qword ptr [{}]", inout(xmm_reg) a, in(reg) m,
                    options(readonly, nostack, preserves_flags));
            }
        }
        a
    }

    /// The address: `PLAIN` without index in 64 bits, else with what `imm` says: bit 4 cuts it to 32 bits.
    #[inline(always)]
    fn address<const PLAIN: bool>(v: &Vcpu, op: &LOp) -> u64 {
        if PLAIN {
            return ea::<false, false>(v, op, 0);
        }
        let lin = ea::<true, false>(v, op, op.imm as u32);
        if op.imm & 1 << 4 == 0 {
            lin
        } else {
            lin & 0xffff_ffff
        }
    }

    /// The guest's MXCSR controls are as the host's.
    #[inline(always)]
    fn usual(v: &Vcpu) -> bool {
        v.st.mxcsr & !0x3f == x86::MXCSR_RESET
    }

    /// An operation on a register and memory.
    trait WithMemory {
        /// Bytes of the memory operand.
        const BYTES: u64;
        /// It depends on MXCSR.
        const FLOAT: bool;
        /// Does it.
        ///
        /// # Safety
        /// `m` points to the operand, aligned if it has 16 bytes; the host has the instruction.
        unsafe fn run(a: __m128i, m: *mut u8) -> __m128i;
    }

    /// d = d op memory, aligned to `a` + 1; when something is in the way, the plain ops behind do it.
    extern "C" fn with_memory<K: WithMemory, const PLAIN: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
        let lin = address::<PLAIN>(v, op);
        if aligned(lin, op.a)
            && (!K::FLOAT || usual(v))
            && let Some(m) = v.mmu.hit_read(LinAddr(lin), K::BYTES)
        {
            // SAFETY: the TLB vouches for the bytes; host and guest addresses agree in their low bits.
            let value = unsafe { K::run(get(v, op.d), m) };
            put(v, op.d, value);
            return go!(v, op.ahead(WITH_MEMORY));
        }
        next!(v, op)
    }

    /// CF, PF and ZF of a comparison; the other status flags are clear.
    #[inline(always)]
    fn put_flags(v: &mut Vcpu, cf: u8, pf: u8, zf: u8) {
        let flags = u64::from(cf) | u64::from(pf) << 2 | u64::from(zf) << 6;
        v.st.rflags = v.st.rflags & !x86::flags::STATUS | flags;
        v.flags.kind = system::LazyFlags::KNOWN.kind;
    }

    trait Comparison {
        const BYTES: u64;
        /// CF, PF, ZF.
        fn registers(a: __m128i, b: __m128i) -> (u8, u8, u8);
        /// # Safety
        /// `m` points to the operand.
        unsafe fn memory(a: __m128i, m: *mut u8) -> (u8, u8, u8);
    }

    /// Compares the fields `a` and `b`; `imm` describes the instruction for the slow way.
    extern "C" fn compare<K: Comparison>(v: &mut Vcpu, op: &LOp) -> u32 {
        if usual(v) {
            let (cf, pf, zf) = K::registers(get(v, op.a), get(v, op.b));
            put_flags(v, cf, pf, zf);
            return next!(v, op);
        }
        sys::vec_portable(v, op)
    }

    /// Compares the field `d` with memory; the slow way as in `with_memory`.
    extern "C" fn compare_memory<K: Comparison, const PLAIN: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
        let lin = address::<PLAIN>(v, op);
        if usual(v)
            && let Some(m) = v.mmu.hit_read(LinAddr(lin), K::BYTES)
        {
            // SAFETY: the TLB vouches for the bytes.
            let (cf, pf, zf) = unsafe { K::memory(get(v, op.d), m) };
            put_flags(v, cf, pf, zf);
            return go!(v, op.ahead(WITH_MEMORY));
        }
        next!(v, op)
    }

    macro_rules! comparisons {
        ($($code:ident $mnemonic:literal $bytes:literal $size:literal;)*) => {
            $(
                #[expect(non_camel_case_types, reason = "the decoder's names")]
                struct $code;

                impl Comparison for $code {
                    const BYTES: u64 = $bytes;

                    #[inline(always)]
                    fn registers(a: __m128i, b: __m128i) -> (u8, u8, u8) {
                        let (cf, pf, zf): (u8, u8, u8);
                        // SAFETY: SSE2, which every x86-64 host has, on registers.
                        unsafe {
                            asm!(concat!($mnemonic, " {a}, {b}"), "setb {cf}", "setp {pf}", "sete {zf}",
                                a = in(xmm_reg) a, b = in(xmm_reg) b, cf = out(reg_byte) cf, pf = out(reg_byte) pf,
                                zf = out(reg_byte) zf, options(nomem, nostack));
                        }
                        (cf, pf, zf)
                    }

                    #[inline(always)]
                    unsafe fn memory(a: __m128i, m: *mut u8) -> (u8, u8, u8) {
                        let (cf, pf, zf): (u8, u8, u8);
                        // SAFETY: as above; the caller vouches for the operand.
                        unsafe {
                            asm!(concat!($mnemonic, " {a}, ", $size, " ptr [{m}]"), "setb {cf}", "setp {pf}", "sete {zf}",
                                a = in(xmm_reg) a, m = in(reg) m, cf = out(reg_byte) cf, pf = out(reg_byte) pf,
                                zf = out(reg_byte) zf, options(readonly, nostack));
                        }
                        (cf, pf, zf)
                    }
                }
            )*

            /// COMISS and its kin between registers.
            pub fn compare_registers(code: Code) -> Option<Handler> {
                match code {
                    $(Code::$code => Some(compare::<$code>),)*
                    _ => None,
                }
            }

            fn compare_memory_of(code: Code, plain: bool) -> Option<Handler> {
                match code {
                    $(Code::$code if plain => Some(compare_memory::<$code, true>),)*
                    $(Code::$code => Some(compare_memory::<$code, false>),)*
                    _ => None,
                }
            }
        };
    }

    comparisons! {
        Comiss_xmm_xmmm32 "comiss" 4 "dword";
        Comisd_xmm_xmmm64 "comisd" 8 "qword";
        Ucomiss_xmm_xmmm32 "ucomiss" 4 "dword";
        Ucomisd_xmm_xmmm64 "ucomisd" 8 "qword";
    }

    macro_rules! operations {
        ($($float:literal $bytes:literal $size:literal { $($code:ident $mnemonic:literal)* })*) => {
            $($(
                #[expect(non_camel_case_types, reason = "the decoder's names")]
                struct $code;

                impl WithMemory for $code {
                    const BYTES: u64 = $bytes;
                    const FLOAT: bool = $float;

                    #[inline(always)]
                    unsafe fn run(a: __m128i, m: *mut u8) -> __m128i {
                        let mut a = a;
                        // SAFETY: the caller vouches for the operand and the host.
                        unsafe {
                            asm!(concat!($mnemonic, " {a}, ", $size, " ptr [{m}]"), a = inout(xmm_reg) a,
                                m = in(reg) m, options(readonly, nostack, preserves_flags));
                        }
                        a
                    }
                }
            )*)*

            /// The handler of an operation whose second operand is in memory.
            pub fn with_memory_of(code: Code, plain: bool) -> Option<Handler> {
                if !crate::host::host_has(code) {
                    return None;
                }
                match code {
                    $($(Code::$code if plain => Some(with_memory::<$code, true>),)*)*
                    $($(Code::$code => Some(with_memory::<$code, false>),)*)*
                    _ => compare_memory_of(code, plain),
                }
            }
        };
    }

    operations! {
        true 4 "dword" {
            Addss_xmm_xmmm32 "addss" Subss_xmm_xmmm32 "subss" Mulss_xmm_xmmm32 "mulss" Divss_xmm_xmmm32 "divss"
            Minss_xmm_xmmm32 "minss" Maxss_xmm_xmmm32 "maxss" Sqrtss_xmm_xmmm32 "sqrtss"
            Cvtss2sd_xmm_xmmm32 "cvtss2sd" Cvtsi2sd_xmm_rm32 "cvtsi2sd" Cvtsi2ss_xmm_rm32 "cvtsi2ss"
        }
        true 8 "qword" {
            Addsd_xmm_xmmm64 "addsd" Subsd_xmm_xmmm64 "subsd" Mulsd_xmm_xmmm64 "mulsd" Divsd_xmm_xmmm64 "divsd"
            Minsd_xmm_xmmm64 "minsd" Maxsd_xmm_xmmm64 "maxsd" Sqrtsd_xmm_xmmm64 "sqrtsd"
            Cvtsd2ss_xmm_xmmm64 "cvtsd2ss" Cvtsi2sd_xmm_rm64 "cvtsi2sd" Cvtsi2ss_xmm_rm64 "cvtsi2ss"
            Cvtps2pd_xmm_xmmm64 "cvtps2pd" Cvtdq2pd_xmm_xmmm64 "cvtdq2pd"
        }
        true 16 "xmmword" {
            Addps_xmm_xmmm128 "addps" Addpd_xmm_xmmm128 "addpd" Subps_xmm_xmmm128 "subps" Subpd_xmm_xmmm128 "subpd"
            Mulps_xmm_xmmm128 "mulps" Mulpd_xmm_xmmm128 "mulpd" Divps_xmm_xmmm128 "divps" Divpd_xmm_xmmm128 "divpd"
            Minps_xmm_xmmm128 "minps" Minpd_xmm_xmmm128 "minpd" Maxps_xmm_xmmm128 "maxps" Maxpd_xmm_xmmm128 "maxpd"
            Sqrtps_xmm_xmmm128 "sqrtps" Sqrtpd_xmm_xmmm128 "sqrtpd" Cvtdq2ps_xmm_xmmm128 "cvtdq2ps"
            Cvtps2dq_xmm_xmmm128 "cvtps2dq" Cvttps2dq_xmm_xmmm128 "cvttps2dq" Cvtpd2ps_xmm_xmmm128 "cvtpd2ps"
        }
        false 16 "xmmword" {
            Andps_xmm_xmmm128 "andps" Andpd_xmm_xmmm128 "andpd" Andnps_xmm_xmmm128 "andnps"
            Andnpd_xmm_xmmm128 "andnpd" Orps_xmm_xmmm128 "orps" Orpd_xmm_xmmm128 "orpd" Xorps_xmm_xmmm128 "xorps"
            Xorpd_xmm_xmmm128 "xorpd" Pand_xmm_xmmm128 "pand" Pandn_xmm_xmmm128 "pandn" Por_xmm_xmmm128 "por"
            Pxor_xmm_xmmm128 "pxor" Paddb_xmm_xmmm128 "paddb" Paddw_xmm_xmmm128 "paddw" Paddd_xmm_xmmm128 "paddd"
            Paddq_xmm_xmmm128 "paddq" Psubb_xmm_xmmm128 "psubb" Psubw_xmm_xmmm128 "psubw" Psubd_xmm_xmmm128 "psubd"
            Psubq_xmm_xmmm128 "psubq" Paddusb_xmm_xmmm128 "paddusb" Paddusw_xmm_xmmm128 "paddusw"
            Psubusb_xmm_xmmm128 "psubusb" Psubusw_xmm_xmmm128 "psubusw" Paddsw_xmm_xmmm128 "paddsw"
            Psubsw_xmm_xmmm128 "psubsw" Pcmpeqb_xmm_xmmm128 "pcmpeqb" Pcmpeqw_xmm_xmmm128 "pcmpeqw"
            Pcmpeqd_xmm_xmmm128 "pcmpeqd" Pcmpgtb_xmm_xmmm128 "pcmpgtb" Pcmpgtw_xmm_xmmm128 "pcmpgtw"
            Pcmpgtd_xmm_xmmm128 "pcmpgtd" Pminub_xmm_xmmm128 "pminub" Pmaxub_xmm_xmmm128 "pmaxub"
            Pminsw_xmm_xmmm128 "pminsw" Pmaxsw_xmm_xmmm128 "pmaxsw" Pmullw_xmm_xmmm128 "pmullw"
            Pmulhw_xmm_xmmm128 "pmulhw" Pmulhuw_xmm_xmmm128 "pmulhuw" Pmuludq_xmm_xmmm128 "pmuludq"
            Pmaddwd_xmm_xmmm128 "pmaddwd" Psadbw_xmm_xmmm128 "psadbw" Pavgb_xmm_xmmm128 "pavgb"
            Pavgw_xmm_xmmm128 "pavgw" Packsswb_xmm_xmmm128 "packsswb" Packssdw_xmm_xmmm128 "packssdw"
            Packuswb_xmm_xmmm128 "packuswb" Punpcklbw_xmm_xmmm128 "punpcklbw" Punpcklwd_xmm_xmmm128 "punpcklwd"
            Punpckldq_xmm_xmmm128 "punpckldq" Punpcklqdq_xmm_xmmm128 "punpcklqdq"
            Punpckhbw_xmm_xmmm128 "punpckhbw" Punpckhwd_xmm_xmmm128 "punpckhwd" Punpckhdq_xmm_xmmm128 "punpckhdq"
            Punpckhqdq_xmm_xmmm128 "punpckhqdq" Unpcklps_xmm_xmmm128 "unpcklps" Unpcklpd_xmm_xmmm128 "unpcklpd"
            Unpckhps_xmm_xmmm128 "unpckhps" Unpckhpd_xmm_xmmm128 "unpckhpd" Pshufb_xmm_xmmm128 "pshufb"
            Pmulld_xmm_xmmm128 "pmulld" Pminsd_xmm_xmmm128 "pminsd" Pmaxsd_xmm_xmmm128 "pmaxsd"
            Pminud_xmm_xmmm128 "pminud" Pmaxud_xmm_xmmm128 "pmaxud" Pcmpeqq_xmm_xmmm128 "pcmpeqq"
        }
    }
}
