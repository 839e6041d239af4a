//! Shifts and rotates.

use system::{FlagOp, LazyFlags, Vcpu, flag_kind};
use x86::flags::{AF, CF, OF, STATUS};

use crate::code::{Int, LOp, next};

/// Which shift.
pub mod kind {
    /// SHL.
    pub const SHL: u8 = 0;
    /// SHR.
    pub const SHR: u8 = 1;
    /// SAR.
    pub const SAR: u8 = 2;
    /// ROL.
    pub const ROL: u8 = 3;
    /// ROR.
    pub const ROR: u8 = 4;
    /// RCL.
    pub const RCL: u8 = 5;
    /// RCR.
    pub const RCR: u8 = 6;
}

/// The count that counts: 5 bits of it, 6 at width 64.
#[inline(always)]
fn masked<T: Int>(count: u64) -> u64 {
    count & if T::BITS == 64 { 63 } else { 31 }
}

/// a << count, a >> count for a masked count that isn't 0.
#[inline(always)]
fn shifted<T: Int, const K: u8>(a: T, count: u64) -> T {
    T::cut(match K {
        kind::SHL => a.wide() << count,
        kind::SHR => a.wide() >> count,
        _ => (a.signed() >> count).cast_unsigned(),
    })
}

#[inline(always)]
fn note<T: Int, const K: u8>(v: &mut Vcpu, a: T, count: u64) {
    let op = match K {
        kind::SHL => FlagOp::Shl,
        kind::SHR => FlagOp::Shr,
        _ => FlagOp::Sar,
    };
    v.flags.kind = flag_kind(op, T::WIDTH);
    v.flags.a = a.wide();
    v.flags.b = count;
}

/// d = a shifted by imm, a masked count that isn't 0.
pub extern "C" fn shift_ri<T: Int, const K: u8, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let a = T::get(v, op.a);
    let count = op.imm.cast_unsigned() & 63;
    if F {
        note::<T, K>(v, a, count);
    }
    T::put(v, op.d, shifted::<T, K>(a, count));
    next!(v, op)
}

/// d = a shifted by b. A count of 0 leaves the flags alone, but still writes d (32 bits: the upper half is cleared).
pub extern "C" fn shift_rr<T: Int, const K: u8, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let a = T::get(v, op.a);
    let count = masked::<T>(u64::from(u8::get(v, op.b)));
    if F && count != 0 {
        note::<T, K>(v, a, count);
    }
    T::put(
        v,
        op.d,
        if count == 0 {
            a
        } else {
            shifted::<T, K>(a, count)
        },
    );
    next!(v, op)
}

/// The rotated value, and CF and OF after it. `count` is masked and not 0.
pub fn rotate(kind: u8, bits: u32, a: u64, count: u64, carry: bool) -> (u64, bool, bool) {
    let mask = u64::MAX >> (64 - bits);
    let top = |x: u64| x >> (bits - 1) & 1 != 0;
    let second = |x: u64| x >> (bits - 2) & 1 != 0;
    let n = u64::from(bits);
    match kind {
        kind::ROL => {
            let c = count % n;
            let r = if c == 0 {
                a
            } else {
                (a << c | a >> (n - c)) & mask
            };
            (r, r & 1 != 0, top(r) != (r & 1 != 0))
        }
        kind::ROR => {
            let c = count % n;
            let r = if c == 0 {
                a
            } else {
                (a >> c | a << (n - c)) & mask
            };
            (r, top(r), top(r) != second(r))
        }
        _ => {
            // Through CF: a rotation of width + 1 bits, CF on top.
            let wide = u128::from(a) | u128::from(carry) << bits;
            let total = n + 1;
            let c = count % total;
            let left = if kind == kind::RCL {
                c
            } else {
                (total - c) % total
            };
            let full = (1u128 << total) - 1;
            let r = if left == 0 {
                wide
            } else {
                (wide << left | wide >> (total - left)) & full
            };
            let (result, cf) = (r as u64 & mask, r >> bits & 1 != 0);
            let of = if kind == kind::RCL {
                top(result) != cf
            } else {
                top(result) != second(result)
            };
            (result, cf, of)
        }
    }
}

#[inline(never)]
fn rotate_value(v: &mut Vcpu, kind: u8, bits: u32, a: u64, count: u64, wanted: bool) -> u64 {
    let count = count & if bits == 64 { 63 } else { 31 };
    if count == 0 {
        return a;
    }
    let (result, cf, of) = rotate(kind, bits, a, count, v.flags.carry(v.st.rflags));
    if wanted {
        v.set_status(CF | OF, if cf { CF } else { 0 } | if of { OF } else { 0 });
    }
    result
}

/// d = a rotated by b.
pub extern "C" fn rotate_rr<T: Int, const K: u8, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, count) = (T::get(v, op.a).wide(), u64::from(u8::get(v, op.b)));
    let result = rotate_value(v, K, T::BITS, a, count, F);
    T::put(v, op.d, T::cut(result));
    next!(v, op)
}

/// d = a rotated left (ROL) or right (ROR) by imm; flags not wanted.
pub extern "C" fn rotate_ri_quiet<T: Int, const K: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let count = (op.imm.cast_unsigned() & 63) % u64::from(T::BITS);
    let left = if K == kind::ROL {
        count
    } else {
        (u64::from(T::BITS) - count) % u64::from(T::BITS)
    };
    let a = T::get(v, op.a).wide();
    let result = if left == 0 {
        a
    } else {
        a << left | a >> (u64::from(T::BITS) - left)
    };
    T::put(v, op.d, T::cut(result));
    next!(v, op)
}

/// The double shift's result and flags (SDM: counts beyond the width are undefined; they act as on Intel's CPUs at
/// width 16, where bits of `a` follow those of `b`).
pub fn double(left: bool, bits: u32, a: u64, b: u64, count: u64) -> (u64, u64) {
    let mask = u64::MAX >> (64 - bits);
    let n = u128::from(bits);
    let (a128, b128) = (u128::from(a & mask), u128::from(b & mask));
    let count32 = count as u32;
    let (result, cf) = if left {
        // a:b:a, of which the top `bits` after the shift are the result.
        let wide = a128 << (2 * n.min(40)) | b128 << n.min(40) | a128;
        if bits > 32 {
            let pair = a128 << 64 | b128;
            let shifted = pair << count32;
            ((shifted >> 64) as u64, (pair >> (128 - count32)) & 1 != 0)
        } else {
            let shifted = wide << count32;
            (
                ((shifted >> (2 * bits)) as u64) & mask,
                (wide >> (3 * bits - count32)) & 1 != 0,
            )
        }
    } else if bits > 32 {
        let pair = b128 << 64 | a128;
        ((pair >> count32) as u64, (pair >> (count32 - 1)) & 1 != 0)
    } else {
        let wide = a128 << (2 * bits) | b128 << bits | a128;
        (
            ((wide >> count32) as u64) & mask,
            (wide >> (count32 - 1)) & 1 != 0,
        )
    };
    let top = |x: u64| x >> (bits - 1) & 1 != 0;
    let flags = system::result_flags(
        result,
        ir::Width::from_bytes((bits / 8) as u8).unwrap_or(ir::Width::B64),
    ) | if cf { CF } else { 0 }
        | if top(result) == top(a) { 0 } else { OF };
    (result, flags)
}

#[inline(never)]
fn double_value(
    v: &mut Vcpu,
    left: bool,
    bits: u32,
    a: u64,
    b: u64,
    count: u64,
    wanted: bool,
) -> u64 {
    let count = count & if bits == 64 { 63 } else { 31 };
    if count == 0 {
        return a;
    }
    let (result, flags) = double(left, bits, a, b, count);
    if wanted {
        v.st.rflags = (v.st.rflags & !STATUS) | (flags & !AF);
        v.flags = LazyFlags::KNOWN;
    }
    result
}

/// d = a shifted by c, bits of b shifted in.
pub extern "C" fn double_shift<T: Int, const LEFT: bool, const F: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let (a, b) = (T::get(v, op.a).wide(), T::get(v, op.b).wide());
    let count = u64::from(u8::get(v, op.c));
    let result = double_value(v, LEFT, T::BITS, a, b, count, F);
    T::put(v, op.d, T::cut(result));
    next!(v, op)
}
