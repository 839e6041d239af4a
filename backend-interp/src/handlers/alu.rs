//! Arithmetic and logic: one type an operation, from which the register, memory and locked forms all come.

use std::marker::PhantomData;

use system::{FlagOp, LazyFlags, Vcpu, flag_kind};

use crate::code::{Int, LOp, next};
use crate::handlers::memory::{Loaded, Modified};

/// Which lazy flags an operation leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// The operands.
    Operands(FlagOp),
    /// The result.
    Result(FlagOp),
    /// The result, and CF as it was.
    KeepCarry(FlagOp),
    /// None: flags stay.
    Nothing,
}

/// A two-operand operation.
pub trait Alu {
    /// What flags follow from.
    const LEAVES: Leaves;
    /// It adds the carry flag.
    const CARRY: bool = false;
    /// The result.
    fn compute(a: u64, b: u64, carry: bool) -> u64;
}

macro_rules! alu {
    ($($name:ident $leaves:expr, $carry:literal, |$a:ident, $b:ident, $c:ident| $result:expr;)*) => {$(
        /// The operation of that name.
        pub struct $name;

        impl Alu for $name {
            const LEAVES: Leaves = $leaves;
            const CARRY: bool = $carry;

            #[inline(always)]
            fn compute($a: u64, $b: u64, $c: bool) -> u64 {
                $result
            }
        }
    )*};
}

alu! {
    Add Leaves::Operands(FlagOp::Add), false, |a, b, _c| a.wrapping_add(b);
    Adc Leaves::Operands(FlagOp::Adc), true, |a, b, c| a.wrapping_add(b).wrapping_add(u64::from(c));
    Sub Leaves::Operands(FlagOp::Sub), false, |a, b, _c| a.wrapping_sub(b);
    Sbb Leaves::Operands(FlagOp::Sbb), true, |a, b, c| a.wrapping_sub(b).wrapping_sub(u64::from(c));
    And Leaves::Result(FlagOp::Logic), false, |a, b, _c| a & b;
    Or Leaves::Result(FlagOp::Logic), false, |a, b, _c| a | b;
    Xor Leaves::Result(FlagOp::Logic), false, |a, b, _c| a ^ b;
    Inc Leaves::KeepCarry(FlagOp::Inc), false, |a, _b, _c| a.wrapping_add(1);
    Dec Leaves::KeepCarry(FlagOp::Dec), false, |a, _b, _c| a.wrapping_sub(1);
    Not Leaves::Nothing, false, |a, _b, _c| !a;
    Xchg Leaves::Nothing, false, |_a, b, _c| b;
}

/// CF as the operation sees it; false for those that do not look.
#[inline(always)]
fn carry_in<K: Alu>(v: &Vcpu) -> bool {
    K::CARRY && v.flags.carry(v.st.rflags)
}

/// Notes the flags of an operation.
#[inline(always)]
pub fn note<T: Int, K: Alu>(v: &mut Vcpu, a: T, b: T, carry: bool) {
    match K::LEAVES {
        Leaves::Operands(op) => {
            v.flags.kind = flag_kind(op, T::WIDTH);
            if K::CARRY {
                v.flags.c = u32::from(carry);
            }
            v.flags.a = a.wide();
            v.flags.b = b.wide();
        }
        Leaves::Result(op) => {
            v.flags.kind = flag_kind(op, T::WIDTH);
            v.flags.a = T::cut(K::compute(a.wide(), b.wide(), carry)).wide();
        }
        Leaves::KeepCarry(op) => {
            let kept = v.flags.carry(v.st.rflags);
            v.flags = LazyFlags {
                kind: flag_kind(op, T::WIDTH),
                c: u32::from(kept),
                a: T::cut(K::compute(a.wide(), b.wide(), carry)).wide(),
                b: 0,
            };
        }
        Leaves::Nothing => {}
    }
}

/// The result of an operation; its flags are noted if they are wanted.
#[inline(always)]
fn apply<T: Int, K: Alu, const F: bool>(v: &mut Vcpu, a: T, b: T) -> T {
    let carry = carry_in::<K>(v);
    let result = T::cut(K::compute(a.wide(), b.wide(), carry));
    if F {
        note::<T, K>(v, a, b, carry);
    }
    result
}

/// d = a op b.
pub extern "C" fn rr<T: Int, K: Alu, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let result = apply::<T, K, F>(v, T::get(v, op.a), T::get(v, op.b));
    T::put(v, op.d, result);
    next!(v, op)
}

/// d = a op imm.
pub extern "C" fn ri<T: Int, K: Alu, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let result = apply::<T, K, F>(v, T::get(v, op.a), T::cut(op.imm.cast_unsigned()));
    T::put(v, op.d, result);
    next!(v, op)
}

/// Flags of a op b.
pub extern "C" fn flags_rr<T: Int, K: Alu>(v: &mut Vcpu, op: &LOp) -> u32 {
    let carry = carry_in::<K>(v);
    note::<T, K>(v, T::get(v, op.a), T::get(v, op.b), carry);
    next!(v, op)
}

/// Flags of a op imm.
pub extern "C" fn flags_ri<T: Int, K: Alu>(v: &mut Vcpu, op: &LOp) -> u32 {
    let carry = carry_in::<K>(v);
    note::<T, K>(v, T::get(v, op.a), T::cut(op.imm.cast_unsigned()), carry);
    next!(v, op)
}

/// d = a op [mem].
pub struct RegMem<K, const F: bool>(PhantomData<K>);

impl<T: Int, K: Alu, const F: bool> Loaded<T> for RegMem<K, F> {
    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        let result = apply::<T, K, F>(v, T::get(v, op.a), value);
        T::put(v, op.d, result);
    }
}

/// d = [mem] op a, for the operations that do not commute.
pub struct MemReg<K, const F: bool>(PhantomData<K>);

impl<T: Int, K: Alu, const F: bool> Loaded<T> for MemReg<K, F> {
    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        let result = apply::<T, K, F>(v, value, T::get(v, op.a));
        T::put(v, op.d, result);
    }
}

/// Flags of [mem] op imm; the scale is in `a`.
pub struct MemImmFlags<K>(PhantomData<K>);

impl<T: Int, K: Alu> Loaded<T> for MemImmFlags<K> {
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        u32::from(op.a)
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        let carry = carry_in::<K>(v);
        note::<T, K>(v, value, T::cut(op.imm.cast_unsigned()), carry);
    }
}

/// [mem] = [mem] op a; the scale is in `imm`.
pub struct RmwReg<K, const F: bool>(PhantomData<K>);

impl<T: Int, K: Alu, const F: bool> Modified<T> for RmwReg<K, F> {
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        op.imm as u32
    }

    #[inline(always)]
    fn input(v: &Vcpu, op: &LOp) -> (T, bool) {
        (T::get(v, op.a), carry_in::<K>(v))
    }

    #[inline(always)]
    fn value(old: T, (b, carry): (T, bool)) -> T {
        T::cut(K::compute(old.wide(), b.wide(), carry))
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, old: T, (b, carry): (T, bool)) {
        if F {
            note::<T, K>(v, old, b, carry);
        }
        T::put(v, op.d, old);
    }
}

/// [mem] = [mem] op imm; the scale is in `a`. The old value isn't wanted.
pub struct RmwImm<K, const F: bool>(PhantomData<K>);

impl<T: Int, K: Alu, const F: bool> Modified<T> for RmwImm<K, F> {
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        u32::from(op.a)
    }

    #[inline(always)]
    fn input(v: &Vcpu, op: &LOp) -> (T, bool) {
        (T::cut(op.imm.cast_unsigned()), carry_in::<K>(v))
    }

    #[inline(always)]
    fn value(old: T, (b, carry): (T, bool)) -> T {
        T::cut(K::compute(old.wide(), b.wide(), carry))
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, _op: &LOp, old: T, (b, carry): (T, bool)) {
        if F {
            note::<T, K>(v, old, b, carry);
        }
    }
}

/// d = a.
pub extern "C" fn mov<T: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    let value = T::get(v, op.a);
    T::put(v, op.d, value);
    next!(v, op)
}

/// d = imm.
pub extern "C" fn mov_imm<T: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    T::put(v, op.d, T::cut(op.imm.cast_unsigned()));
    next!(v, op)
}

/// d = RIP of the block's start + imm.
pub extern "C" fn mov_pc<T: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    let value = v.st.rip.wrapping_add_signed(op.imm);
    T::put(v, op.d, T::cut(value));
    next!(v, op)
}

/// d = a zero-extended.
pub extern "C" fn zext<D: Int, S: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    let value = S::get(v, op.a).wide();
    D::put(v, op.d, D::cut(value));
    next!(v, op)
}

/// d = a sign-extended.
pub extern "C" fn sext<D: Int, S: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    let value = S::get(v, op.a).signed().cast_unsigned();
    D::put(v, op.d, D::cut(value));
    next!(v, op)
}

/// d = -a.
pub extern "C" fn neg<T: Int, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let result = apply::<T, Sub, F>(v, T::cut(0), T::get(v, op.a));
    T::put(v, op.d, result);
    next!(v, op)
}

/// d = a with its bytes reversed (16 bits: as the hardware does, not the manual's "undefined").
pub extern "C" fn bswap<T: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    let value = T::get(v, op.a).wide().swap_bytes() >> (64 - T::BITS);
    T::put(v, op.d, T::cut(value));
    next!(v, op)
}

/// [mem] = -[mem].
pub struct RmwNeg<const F: bool>;

impl<T: Int, const F: bool> Modified<T> for RmwNeg<F> {
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        op.imm as u32
    }

    #[inline(always)]
    fn input(_v: &Vcpu, _op: &LOp) -> (T, bool) {
        (T::cut(0), false)
    }

    #[inline(always)]
    fn value(old: T, _input: (T, bool)) -> T {
        T::cut(old.wide().wrapping_neg())
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, old: T, (zero, _): (T, bool)) {
        if F {
            note::<T, Sub>(v, zero, old, false);
        }
        T::put(v, op.d, old);
    }
}
