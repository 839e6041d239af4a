//! What each fast x87 instruction does, given that nothing stands in its way.
#![expect(unsafe_code, reason = "operations of the host's x87 on memory")]
// UNSAFETY: operands are registers in the context, or guest memory at a host address that the TLB has just given.

use std::marker::PhantomData;

use ir::Cond;
use system::Vcpu;

use super::host::{self, Binary};
use super::kept;
use crate::code::{Int, LOp};

/// Condition codes and fields of the status word.
pub mod sw {
    /// Condition code 0.
    pub const C0: u16 = 1 << 8;
    /// Condition code 1.
    pub const C1: u16 = 1 << 9;
    /// Condition code 2.
    pub const C2: u16 = 1 << 10;
    /// Condition code 3.
    pub const C3: u16 = 1 << 14;
    /// The stack's top.
    pub const TOP: u16 = 7 << 11;
    /// The six exceptions.
    pub const FLAGS: u16 = 0x3f;
    /// What says that an exception is pending: ES and B.
    pub const PENDING: u16 = 1 << 7 | 1 << 15;
}

const CONDITION: u16 = sw::C0 | sw::C2 | sw::C3;

/// An instruction without a memory operand.
pub trait Register {
    /// The stack registers that must be full, ST(0) lowest; `i` is the one that the instruction names.
    fn full(i: u16) -> u8;
    /// ST(7) must be empty.
    const ROOM: bool = false;
    /// It sets the instruction pointer.
    const POINTERS: bool = true;
    /// It works with round-to-nearest only.
    const NEAREST: bool = false;
    /// The host's control word matters.
    const HOST: bool = true;
    /// Does it.
    fn run(v: &mut Vcpu, op: &LOp);
}

/// An instruction that reads memory.
pub trait FromMemory {
    /// Bytes of the operand.
    const BYTES: u64;
    /// It pushes; else ST(0) must be full.
    const PUSH: bool = false;
    /// Does it.
    ///
    /// # Safety
    /// `m` points to the operand's bytes.
    unsafe fn run(v: &mut Vcpu, m: *mut u8);
}

/// An instruction that stores ST(0).
pub trait ToMemory {
    /// Bytes of the operand.
    const BYTES: u64;
    /// It pops.
    const POP: bool;
    /// Stores `*a`, returns the status word.
    ///
    /// # Safety
    /// `a` points to a register of the context, `m` to memory for the operand.
    unsafe fn run(a: *mut u8, m: *mut u8) -> u16;
}

/// The index of ST(0).
#[inline(always)]
pub fn top(v: &Vcpu) -> u32 {
    u32::get(v, kept::TOP)
}

#[inline(always)]
fn set_top(v: &mut Vcpu, top: u32) {
    let top = top & 7;
    let at = std::ptr::from_mut(v)
        .wrapping_byte_add(usize::from(kept::TOP))
        .cast::<u32>();
    // SAFETY: half of the engine's word.
    unsafe { at.write(top) };
    v.st.fpu.fsw = v.st.fpu.fsw & !sw::TOP | (top as u16) << 11;
}

/// Takes TOP over from FSW.
pub fn find_top(v: &mut Vcpu) {
    set_top(v, v.st.fpu.top().into());
}

#[inline(always)]
fn index(v: &Vcpu, i: u16) -> usize {
    top(v).wrapping_add(i.into()) as usize & 7
}

/// ST(i).
#[inline(always)]
pub fn st(v: &mut Vcpu, i: u16) -> *mut u8 {
    let n = index(v, i);
    v.st.fpu.regs.as_mut_ptr().cast::<u8>().wrapping_add(n * 16)
}

/// Takes the flags and, of the condition codes, those in `codes` from the host's status word.
#[inline(always)]
pub fn note(v: &mut Vcpu, status: u16, codes: u16) {
    u16::put(v, kept::FLAGS, status & sw::FLAGS);
    v.st.fpu.fsw = v.st.fpu.fsw & !codes | status & (codes | sw::FLAGS);
}

#[inline(always)]
fn clear_c1(v: &mut Vcpu) {
    v.st.fpu.fsw &= !sw::C1;
}

/// Drops ST(0).
#[inline(always)]
pub fn pop(v: &mut Vcpu) {
    let top = top(v);
    v.st.fpu.ftw &= !(1 << (top & 7));
    set_top(v, top + 1);
}

/// Makes a full register on top.
#[inline(always)]
fn push(v: &mut Vcpu) {
    let top = (top(v) + 7) & 7;
    v.st.fpu.ftw |= 1 << top;
    set_top(v, top);
}

/// ST(0) = ST(0) op ST(i).
pub struct ToTop<K>(PhantomData<K>);
/// ST(i) = ST(i) op ST(0), and with `POP` a pop.
pub struct ToSti<K, const POP: bool>(PhantomData<K>);

impl<K: Binary> Register for ToTop<K> {
    fn full(i: u16) -> u8 {
        1 << (i & 7) | 1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        let (a, b) = (st(v, 0), st(v, op.a));
        // SAFETY: both are registers of the context.
        let status = unsafe { K::registers(a, b) };
        note(v, status, sw::C1);
    }
}

impl<K: Binary, const POP: bool> Register for ToSti<K, POP> {
    fn full(i: u16) -> u8 {
        1 << (i & 7) | 1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        let (a, b) = (st(v, op.a), st(v, 0));
        // SAFETY: both are registers of the context.
        let status = unsafe { K::registers(a, b) };
        note(v, status, sw::C1);
        if POP {
            pop(v);
        }
    }
}

/// FCOM and FUCOM of ST(i) with up to two pops.
pub struct Compare<const SIGNALLING: bool, const POPS: u8>;
/// FCOMI and FUCOMI.
pub struct CompareFlags<const SIGNALLING: bool, const POP: bool>;

#[inline(always)]
fn compared<const SIGNALLING: bool>(v: &mut Vcpu, i: u16) -> u16 {
    let (a, b) = (st(v, 0), st(v, i));
    // SAFETY: both are registers of the context.
    unsafe { host::compare::<SIGNALLING>(a, b) }
}

impl<const SIGNALLING: bool, const POPS: u8> Register for Compare<SIGNALLING, POPS> {
    fn full(i: u16) -> u8 {
        1 << (i & 7) | 1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        let status = compared::<SIGNALLING>(v, op.a);
        clear_c1(v);
        note(v, status, CONDITION);
        for _ in 0..POPS {
            pop(v);
        }
    }
}

impl<const SIGNALLING: bool, const POP: bool> Register for CompareFlags<SIGNALLING, POP> {
    fn full(i: u16) -> u8 {
        1 << (i & 7) | 1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        let status = compared::<SIGNALLING>(v, op.a);
        clear_c1(v);
        note(v, status, 0);
        // C0, C2 and C3 stand where SAHF wants CF, PF and ZF.
        let flags = u64::from((status & CONDITION) >> 8);
        v.st.rflags = (v.st.rflags & !x86::flags::STATUS) | flags;
        v.flags.kind = system::LazyFlags::KNOWN.kind;
        if POP {
            pop(v);
        }
    }
}

/// FTST, FSQRT, FRNDINT.
pub struct Test;
/// See [`Test`].
pub struct Sqrt;
/// See [`Test`].
pub struct Round;

impl Register for Test {
    fn full(_i: u16) -> u8 {
        1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        let a = st(v, 0);
        // SAFETY: a register of the context.
        let status = unsafe { host::test(a) };
        clear_c1(v);
        note(v, status, CONDITION);
    }
}

impl Register for Sqrt {
    fn full(_i: u16) -> u8 {
        1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        let a = st(v, 0);
        // SAFETY: a register of the context.
        let status = unsafe { host::sqrt(a) };
        note(v, status, sw::C1);
    }
}

impl Register for Round {
    fn full(_i: u16) -> u8 {
        1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        let a = st(v, 0);
        // SAFETY: a register of the context.
        let status = unsafe { host::round(a) };
        note(v, status, sw::C1);
    }
}

/// FCHS (`FLIP`) and FABS.
pub struct Sign<const FLIP: bool>;

impl<const FLIP: bool> Register for Sign<FLIP> {
    const HOST: bool = false;

    fn full(_i: u16) -> u8 {
        1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        clear_c1(v);
        let n = index(v, 0);
        let register = &mut v.st.fpu.regs[n];
        // As 16 bytes: a byte written would hold up the load of the whole that follows.
        let value = u128::from_le_bytes(*register);
        let sign = 1 << 79;
        *register = (if FLIP { value ^ sign } else { value & !sign }).to_le_bytes();
    }
}

/// FXAM.
pub struct Examine;

impl Register for Examine {
    const HOST: bool = false;

    fn full(_i: u16) -> u8 {
        0
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        let n = index(v, 0);
        let value = u128::from_le_bytes(v.st.fpu.regs[n]);
        let (significand, exponent) = (value as u64, (value >> 64) as u16 & 0x7fff);
        let class = match exponent {
            _ if v.st.fpu.ftw >> n & 1 == 0 => sw::C3 | sw::C0,
            0 if significand == 0 => sw::C3,
            0 => sw::C3 | sw::C2,
            _ if significand >> 63 == 0 => 0,
            0x7fff if significand << 1 == 0 => sw::C2 | sw::C0,
            0x7fff => sw::C0,
            _ => sw::C2,
        };
        let sign = if value >> 79 & 1 != 0 { sw::C1 } else { 0 };
        v.st.fpu.fsw = v.st.fpu.fsw & !(CONDITION | sw::C1) | class | sign;
    }
}

/// FLD ST(i).
pub struct LoadSti;

impl Register for LoadSti {
    const ROOM: bool = true;
    const HOST: bool = false;

    fn full(i: u16) -> u8 {
        1 << (i & 7)
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        clear_c1(v);
        let value = v.st.fpu.regs[index(v, op.a)];
        push(v);
        let n = index(v, 0);
        v.st.fpu.regs[n] = value;
    }
}

/// FST ST(i), FSTP ST(i).
pub struct StoreSti<const POP: bool>;

impl<const POP: bool> Register for StoreSti<POP> {
    const HOST: bool = false;

    fn full(_i: u16) -> u8 {
        1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        clear_c1(v);
        let n = index(v, op.a);
        v.st.fpu.regs[n] = v.st.fpu.regs[index(v, 0)];
        v.st.fpu.ftw |= 1 << n;
        if POP {
            pop(v);
        }
    }
}

/// FXCH.
pub struct Exchange;

impl Register for Exchange {
    const HOST: bool = false;

    fn full(i: u16) -> u8 {
        1 << (i & 7) | 1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        clear_c1(v);
        let (a, b) = (index(v, 0), index(v, op.a));
        let (x, y) = (v.st.fpu.regs[a], v.st.fpu.regs[b]);
        v.st.fpu.regs[a] = y;
        v.st.fpu.regs[b] = x;
    }
}

/// FCMOVcc.
pub struct Move<const CC: u8>;

impl<const CC: u8> Register for Move<CC> {
    const HOST: bool = false;

    fn full(i: u16) -> u8 {
        1 << (i & 7) | 1
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        if v.flags.cond(Cond::ALL[CC as usize & 15], v.st.rflags) {
            let n = index(v, 0);
            v.st.fpu.regs[n] = v.st.fpu.regs[index(v, op.a)];
        }
    }
}

/// FLD1 and its kin: sign and exponent, significand of the value that round-to-nearest gives.
pub struct Constant<const HIGH: u16, const SIGNIFICAND: u64>;

impl<const HIGH: u16, const SIGNIFICAND: u64> Register for Constant<HIGH, SIGNIFICAND> {
    const ROOM: bool = true;
    const HOST: bool = false;
    const NEAREST: bool = true;

    fn full(_i: u16) -> u8 {
        0
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        clear_c1(v);
        push(v);
        let n = index(v, 0);
        v.st.fpu.regs[n] = (u128::from(HIGH) << 64 | u128::from(SIGNIFICAND)).to_le_bytes();
    }
}

/// FINCSTP (1) and FDECSTP (7).
pub struct Rotate<const BY: u16>;

impl<const BY: u16> Register for Rotate<BY> {
    const HOST: bool = false;

    fn full(_i: u16) -> u8 {
        0
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        clear_c1(v);
        set_top(v, top(v) + u32::from(BY));
    }
}

/// FFREE and FFREEP.
pub struct Free<const POP: bool>;

impl<const POP: bool> Register for Free<POP> {
    const HOST: bool = false;

    fn full(_i: u16) -> u8 {
        0
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, op: &LOp) {
        let n = index(v, op.a);
        v.st.fpu.ftw &= !(1 << n);
        if POP {
            pop(v);
        }
        clear_c1(v);
    }
}

/// FNSTSW AX.
pub struct StatusToAx;

impl Register for StatusToAx {
    const POINTERS: bool = false;
    const HOST: bool = false;

    fn full(_i: u16) -> u8 {
        0
    }

    #[inline(always)]
    fn run(v: &mut Vcpu, _op: &LOp) {
        v.st.gpr[0] = v.st.gpr[0] & !0xffff | u64::from(v.st.fpu.fsw);
    }
}

macro_rules! arith_memory {
    ($($name:ident $function:ident $bytes:literal;)*) => {$(
        /// Arithmetic on ST(0) and a memory operand.
        pub struct $name<K>(PhantomData<K>);

        impl<K: Binary> FromMemory for $name<K> {
            const BYTES: u64 = $bytes;

            #[inline(always)]
            unsafe fn run(v: &mut Vcpu, m: *mut u8) {
                let a = st(v, 0);
                // SAFETY: a register of the context, and the caller's operand.
                let status = unsafe { K::$function(a, m) };
                note(v, status, sw::C1);
            }
        }
    )*};
}

arith_memory! {
    ArithM32 m32 4;
    ArithM64 m64 8;
    ArithI16 i16 2;
    ArithI32 i32 4;
}

macro_rules! compare_memory {
    ($($name:ident $function:ident $bytes:literal;)*) => {$(
        /// Comparison of ST(0) with a memory operand.
        pub struct $name<const POP: bool>;

        impl<const POP: bool> FromMemory for $name<POP> {
            const BYTES: u64 = $bytes;

            #[inline(always)]
            unsafe fn run(v: &mut Vcpu, m: *mut u8) {
                let a = st(v, 0);
                // SAFETY: a register of the context, and the caller's operand.
                let status = unsafe { host::$function(a, m) };
                clear_c1(v);
                note(v, status, CONDITION);
                if POP {
                    pop(v);
                }
            }
        }
    )*};
}

compare_memory! {
    CompareM32 compare_m32 4;
    CompareM64 compare_m64 8;
    CompareI16 compare_i16 2;
    CompareI32 compare_i32 4;
}

macro_rules! load_memory {
    ($($name:ident $function:ident $bytes:literal;)*) => {$(
        /// Load of a memory operand.
        pub struct $name;

        impl FromMemory for $name {
            const BYTES: u64 = $bytes;
            const PUSH: bool = true;

            #[inline(always)]
            unsafe fn run(v: &mut Vcpu, m: *mut u8) {
                push(v);
                let a = st(v, 0);
                // SAFETY: a register of the context, and the caller's operand.
                let status = unsafe { host::$function(a, m) };
                clear_c1(v);
                note(v, status, 0);
            }
        }
    )*};
}

load_memory! {
    LoadM32 load_m32 4;
    LoadM64 load_m64 8;
    LoadM80 load_m80 10;
    LoadI16 load_i16 2;
    LoadI32 load_i32 4;
    LoadI64 load_i64 8;
}

macro_rules! store_memory {
    ($($name:ident $function:ident $bytes:literal;)*) => {$(
        /// Store of ST(0).
        pub struct $name<const POP: bool>;

        impl<const POP_: bool> ToMemory for $name<POP_> {
            const BYTES: u64 = $bytes;
            const POP: bool = POP_;

            #[inline(always)]
            unsafe fn run(a: *mut u8, m: *mut u8) -> u16 {
                // SAFETY: the caller's promise.
                unsafe { host::$function(a, m) }
            }
        }
    )*};
}

store_memory! {
    StoreM32 store_m32 4;
    StoreM64 store_m64 8;
    StoreM80 store_m80 10;
    StoreI16 store_i16 2;
    StoreI32 store_i32 4;
    StoreI64 store_i64 8;
    ChopI16 chop_i16 2;
    ChopI32 chop_i32 4;
    ChopI64 chop_i64 8;
}
