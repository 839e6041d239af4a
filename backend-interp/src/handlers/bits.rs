//! Bit tests and scans, BMI, CRC32, conditions as data, flags as data.

use ir::Cond;
use system::{FlagOp, LazyFlags, Vcpu, flag_kind, result_flags};
use x86::flags::{CF, SF, STATUS, ZF};

use crate::code::{Int, LOp, next};
use crate::handlers::memory::Modified;

/// Which change BT's kin make.
pub mod change {
    /// BT.
    pub const NONE: u8 = 0;
    /// BTS.
    pub const SET: u8 = 1;
    /// BTR.
    pub const RESET: u8 = 2;
    /// BTC.
    pub const FLIP: u8 = 3;
}

#[inline(always)]
fn changed<const K: u8>(a: u64, bit: u64) -> u64 {
    match K {
        change::SET => a | 1 << bit,
        change::RESET => a & !(1 << bit),
        change::FLIP => a ^ 1 << bit,
        _ => a,
    }
}

/// Sets CF and leaves the other flags.
#[inline(never)]
fn set_carry(v: &mut Vcpu, carry: bool) {
    v.set_status(CF, if carry { CF } else { 0 });
}

fn bit_test<T: Int, const K: u8, const F: bool>(v: &mut Vcpu, op: &LOp, index: u64) {
    let a = T::get(v, op.a).wide();
    let bit = index & u64::from(T::BITS - 1);
    if F {
        set_carry(v, a >> bit & 1 != 0);
    }
    if K != change::NONE {
        T::put(v, op.d, T::cut(changed::<K>(a, bit)));
    }
}

/// CF = bit b of a; d = a changed.
pub extern "C" fn bt_rr<T: Int, const K: u8, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let index = T::get(v, op.b).wide();
    bit_test::<T, K, F>(v, op, index);
    next!(v, op)
}

/// CF = bit imm of a; d = a changed.
pub extern "C" fn bt_ri<T: Int, const K: u8, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    bit_test::<T, K, F>(v, op, op.imm.cast_unsigned());
    next!(v, op)
}

/// BTS and its kin in memory; the bit's number is in the field `a`.
pub struct BitRmw<const K: u8, const F: bool>;

impl<T: Int, const K: u8, const F: bool> Modified<T> for BitRmw<K, F> {
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        op.imm as u32
    }

    #[inline(always)]
    fn input(v: &Vcpu, op: &LOp) -> (T, bool) {
        (T::get(v, op.a), false)
    }

    #[inline(always)]
    fn value(old: T, (bit, _): (T, bool)) -> T {
        T::cut(changed::<K>(
            old.wide(),
            bit.wide() & u64::from(T::BITS - 1),
        ))
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, old: T, (bit, _): (T, bool)) {
        if F {
            set_carry(
                v,
                old.wide() >> (bit.wide() & u64::from(T::BITS - 1)) & 1 != 0,
            );
        }
        T::put(v, op.d, old);
    }
}

/// One-operand and two-operand bit functions.
pub mod function {
    /// BSF.
    pub const BSF: u8 = 0;
    /// BSR.
    pub const BSR: u8 = 1;
    /// TZCNT.
    pub const TZCNT: u8 = 2;
    /// LZCNT.
    pub const LZCNT: u8 = 3;
    /// POPCNT.
    pub const POPCNT: u8 = 4;
    /// ANDN.
    pub const ANDN: u8 = 5;
    /// BEXTR.
    pub const BEXTR: u8 = 6;
    /// BLSI.
    pub const BLSI: u8 = 7;
    /// BLSMSK.
    pub const BLSMSK: u8 = 8;
    /// BLSR.
    pub const BLSR: u8 = 9;
    /// BZHI.
    pub const BZHI: u8 = 10;
    /// PDEP.
    pub const PDEP: u8 = 11;
    /// PEXT.
    pub const PEXT: u8 = 12;
}

fn deposit(mut source: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        if source & 1 != 0 {
            result |= bit;
        }
        source >>= 1;
        mask ^= bit;
    }
    result
}

fn extract(source: u64, mut mask: u64) -> u64 {
    let (mut result, mut at) = (0, 0);
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        if source & bit != 0 {
            result |= 1 << at;
        }
        at += 1;
        mask ^= bit;
    }
    result
}

/// A bit function's result and status flags. What the manual leaves undefined is as Intel's CPUs do it.
pub fn compute<T: Int>(function: u8, a: u64, b: u64) -> (u64, u64) {
    let bits = u64::from(T::BITS);
    let flag = |condition: bool, flag: u64| if condition { flag } else { 0 };
    let logic = |r: u64| result_flags(r, T::WIDTH) & (SF | ZF);
    match function {
        function::BSF | function::BSR => {
            let found = if function == function::BSF {
                u64::from(a.trailing_zeros())
            } else {
                63 - u64::from(a.leading_zeros().min(63))
            };
            if a == 0 { (b, ZF) } else { (found, 0) }
        }
        function::TZCNT => {
            let r = u64::from(a.trailing_zeros()).min(bits);
            (r, flag(a == 0, CF) | flag(r == 0, ZF))
        }
        function::LZCNT => {
            let r = u64::from(a.leading_zeros()) - (64 - bits);
            (r, flag(a == 0, CF) | flag(r == 0, ZF))
        }
        function::POPCNT => (u64::from(a.count_ones()), flag(a == 0, ZF)),
        function::ANDN => {
            let r = !a & b;
            (r, logic(r))
        }
        function::BEXTR => {
            let (start, len) = (b & 0xff, b >> 8 & 0xff);
            let shifted = if start >= bits {
                0
            } else {
                (a & T::WIDTH.mask()) >> start
            };
            let r = if len >= 64 {
                shifted
            } else {
                shifted & ((1 << len) - 1)
            };
            (r, flag(r == 0, ZF))
        }
        function::BLSI => {
            let r = a & a.wrapping_neg();
            (r, logic(r) | flag(a != 0, CF))
        }
        function::BLSMSK => {
            let r = a ^ a.wrapping_sub(1);
            (r, (logic(r) & SF) | flag(a == 0, CF))
        }
        function::BLSR => {
            let r = a & a.wrapping_sub(1);
            (r, logic(r) | flag(a == 0, CF))
        }
        function::BZHI => {
            let n = b & 0xff;
            let r = if n >= bits { a } else { a & ((1 << n) - 1) };
            (r, logic(r) | flag(n >= bits, CF))
        }
        function::PDEP => (deposit(a, b), 0),
        _ => (extract(a, b), 0),
    }
}

/// d = function(a, b) with flags.
pub extern "C" fn bit_function<T: Int, const K: u8, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a).wide(), T::get(v, op.b).wide());
    let (result, flags) = compute::<T>(K, a, b);
    if F && K != function::PDEP && K != function::PEXT {
        v.st.rflags = (v.st.rflags & !STATUS) | flags;
        v.flags = LazyFlags::KNOWN;
    }
    T::put(v, op.d, T::cut(result));
    next!(v, op)
}

/// ADCX (`FLAG` = CF) and ADOX (`FLAG` = OF).
pub extern "C" fn add_with_flag<T: Int, const FLAG: u64>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a).wide(), T::get(v, op.b).wide());
    let sum = u128::from(a) + u128::from(b) + u128::from(v.status() & FLAG != 0);
    let carry = sum >> T::BITS != 0;
    v.set_status(FLAG, if carry { FLAG } else { 0 });
    T::put(v, op.d, T::cut(sum as u64));
    next!(v, op)
}

/// CRC32C of `a` (32 bits) with the bytes of a `T`.
pub extern "C" fn crc32<T: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    let mut crc = u32::get(v, op.a);
    let value = T::get(v, op.b).wide();
    for byte in 0..T::BYTES {
        crc ^= (value >> (8 * byte)) as u32 & 0xff;
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    u64::put(v, op.d, u64::from(crc));
    next!(v, op)
}

/// d = condition ? 1 : 0.
pub extern "C" fn setcc<const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let holds = v.flags.cond(Cond::ALL[CC as usize & 15], v.st.rflags);
    u8::put(v, op.d, u8::from(holds));
    next!(v, op)
}

/// d = condition ? a : b.
pub extern "C" fn select<T: Int, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let holds = v.flags.cond(Cond::ALL[CC as usize & 15], v.st.rflags);
    let value = T::get(v, if holds { op.a } else { op.b });
    T::put(v, op.d, value);
    next!(v, op)
}

/// d = RFLAGS & imm.
pub extern "C" fn get_flags(v: &mut Vcpu, op: &LOp) -> u32 {
    let value = v.rflags() & op.imm.cast_unsigned();
    u64::put(v, op.d, value);
    next!(v, op)
}

/// The status flags in imm take their values from a.
pub extern "C" fn set_flags(v: &mut Vcpu, op: &LOp) -> u32 {
    let value = u64::get(v, op.a);
    v.set_status(op.imm.cast_unsigned() & STATUS, value);
    next!(v, op)
}

/// The status flags in imm take their values from the constant in `disp`.
pub extern "C" fn set_flags_imm(v: &mut Vcpu, op: &LOp) -> u32 {
    v.set_status(op.imm.cast_unsigned() & STATUS, op.disp as u64);
    next!(v, op)
}

/// CF = !CF.
pub extern "C" fn cmc(v: &mut Vcpu, op: &LOp) -> u32 {
    let carry = v.flags.carry(v.st.rflags);
    set_carry(v, !carry);
    next!(v, op)
}

/// d, d2 (`c`) = a * b, unsigned or signed; CF and OF when the high half says more than the low one.
pub extern "C" fn mul<T: Int, const SIGNED: bool, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a), T::get(v, op.b));
    let (low, high, carry) = if SIGNED {
        let p = i128::from(a.signed()) * i128::from(b.signed());
        let low = T::cut(p as u64);
        (
            low,
            T::cut((p >> T::BITS) as u64),
            p != i128::from(low.signed()),
        )
    } else {
        let p = u128::from(a.wide()) * u128::from(b.wide());
        let high = T::cut((p >> T::BITS) as u64);
        (T::cut(p as u64), high, high.wide() != 0)
    };
    if F {
        v.flags = LazyFlags {
            kind: flag_kind(FlagOp::Mul, T::WIDTH),
            c: u32::from(carry),
            a: low.wide(),
            b: 0,
        };
    }
    T::put(v, op.d, low);
    T::put(v, op.c, high);
    next!(v, op)
}

/// d = low half of a * b, signed.
pub extern "C" fn imul<T: Int, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let low = imul_value::<T, F>(v, T::get(v, op.a), T::get(v, op.b));
    T::put(v, op.d, low);
    next!(v, op)
}

/// d = low half of a * imm, signed.
pub extern "C" fn imul_ri<T: Int, const F: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let low = imul_value::<T, F>(v, T::get(v, op.a), T::cut(op.imm.cast_unsigned()));
    T::put(v, op.d, low);
    next!(v, op)
}

#[inline(always)]
fn imul_value<T: Int, const F: bool>(v: &mut Vcpu, a: T, b: T) -> T {
    let p = i128::from(a.signed()) * i128::from(b.signed());
    let low = T::cut(p as u64);
    if F {
        let carry = p != i128::from(low.signed());
        v.flags = LazyFlags {
            kind: flag_kind(FlagOp::Mul, T::WIDTH),
            c: u32::from(carry),
            a: low.wide(),
            b: 0,
        };
    }
    low
}

/// d, d2 (`imm`) = b:a / c; the remainder's place is in `imm`. #DE when the quotient does not fit.
pub extern "C" fn div<T: Int, const SIGNED: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (low, high, by) = (T::get(v, op.a), T::get(v, op.b), T::get(v, op.c));
    if !SIGNED && T::BITS == 64 && high.wide() == 0 && by.wide() != 0 {
        T::put(v, op.d, T::cut(low.wide() / by.wide()));
        T::put(v, op.imm as u16, T::cut(low.wide() % by.wide()));
        return next!(v, op);
    }
    match quotient::<T, SIGNED>(low.wide(), high.wide(), by) {
        Some((q, r)) => {
            T::put(v, op.d, T::cut(q));
            T::put(v, op.imm as u16, T::cut(r));
            next!(v, op)
        }
        None => crate::handlers::memory::raise(v, op, x86::Exception::DE),
    }
}

#[inline]
fn quotient<T: Int, const SIGNED: bool>(low: u64, high: u64, by: T) -> Option<(u64, u64)> {
    let bits = T::BITS;
    if by.wide() == 0 {
        return None;
    }
    if bits < 64 {
        let dividend = low | high << bits;
        if SIGNED {
            let shift = 64 - 2 * bits;
            let dividend = (dividend << shift).cast_signed() >> shift;
            let q = dividend.checked_div(by.signed())?;
            let r = dividend.wrapping_rem(by.signed());
            return (T::cut(q.cast_unsigned()).signed() == q)
                .then_some((q.cast_unsigned(), r.cast_unsigned()));
        }
        let (q, r) = (dividend / by.wide(), dividend % by.wide());
        return (q <= T::WIDTH.mask()).then_some((q, r));
    }
    if SIGNED {
        let dividend = (u128::from(high) << 64 | u128::from(low)).cast_signed();
        let divisor = i128::from(by.signed());
        let q = dividend.checked_div(divisor)?;
        let r = dividend.wrapping_rem(divisor);
        let q64 = i64::try_from(q).ok()?;
        return Some((q64.cast_unsigned(), r as u64));
    }
    if high >= by.wide() {
        return None;
    }
    Some(crate::host::div128(high, low, by.wide()))
}
