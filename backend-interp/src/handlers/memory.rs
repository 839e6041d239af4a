//! Memory accesses of handlers: address, inline TLB hit, and the slow paths with their faults.

use system::Vcpu;
use x86::{Exception, LinAddr};

use crate::code::{Handler, Int, LOp, exit, go, next};

/// The address `b + (c << scale) + disp`, cut to 32 bits with `A32`; without `IDX` there is no `c`.
#[inline(always)]
pub fn ea<const IDX: bool, const A32: bool>(v: &Vcpu, op: &LOp, scale: u32) -> u64 {
    let mut lin = u64::get(v, op.b).wrapping_add_signed(i64::from(op.disp));
    if IDX {
        lin = lin.wrapping_add(u64::get(v, op.c) << (scale & 3));
    }
    if A32 { lin & 0xffff_ffff } else { lin }
}

/// Leaves the block because the op at hand raised `exception`.
#[cold]
#[inline(never)]
pub fn raise(v: &mut Vcpu, op: &LOp, exception: Exception) -> u32 {
    leave_at(v, op, u64::from(op.pc), u32::from(op.ord));
    v.exception = Some(exception);
    exit::FAULT
}

/// Sets RIP to `delta` bytes behind the block's start, with `done` instructions of it complete.
pub fn leave_at(v: &mut Vcpu, _op: &LOp, delta: u64, done: u32) {
    let mask = if v.st.code64() { u64::MAX } else { 0xffff_ffff };
    v.st.rip = v.st.rip.wrapping_add(delta) & mask;
    v.budget -= i64::from(done);
}

/// Checks what the TLB cannot know.
pub fn canonical(v: &mut Vcpu, op: &LOp, lin: u64, size: u32) -> Result<(), Exception> {
    v.check_canonical(lin, size.into(), is_stack(op))
}

fn is_stack(op: &LOp) -> bool {
    use x86::Gpr::{Rbp, Rsp};
    let base = usize::from(op.b);
    base == system::offset::gpr(Rsp) || base == system::offset::gpr(Rbp)
}

/// A load that missed the TLB. `None`: the fault is noted, the handler returns [`exit::FAULT`].
#[cold]
#[inline(never)]
pub fn slow_load(v: &mut Vcpu, op: &LOp, lin: u64, size: u32) -> Option<u64> {
    let loaded = canonical(v, op, lin, size).and_then(|()| v.read(lin, size));
    match loaded {
        Ok(value) => Some(value),
        Err(e) => {
            raise(v, op, e);
            None
        }
    }
}

/// A store that missed the TLB. `false`: the fault is noted.
#[cold]
#[inline(never)]
pub fn slow_store(v: &mut Vcpu, op: &LOp, lin: u64, size: u32, value: u64) -> bool {
    let stored = canonical(v, op, lin, size).and_then(|()| v.write(lin, size, value));
    match stored {
        Ok(()) => true,
        Err(e) => {
            raise(v, op, e);
            false
        }
    }
}

/// Raises what a write would raise. `false`: the fault is noted.
#[inline(never)]
pub fn check_write(v: &mut Vcpu, op: &LOp, lin: u64, size: u32) -> bool {
    let checked = canonical(v, op, lin, size).and_then(|()| v.probe_write(lin, u64::from(size)));
    match checked {
        Ok(()) => true,
        Err(e) => {
            raise(v, op, e);
            false
        }
    }
}

/// Reads or writes a run of bytes (vectors). `false`: the fault is noted.
#[inline(never)]
pub fn load_bytes(v: &mut Vcpu, op: &LOp, lin: u64, at: u16, len: u32) -> bool {
    let mut bytes = [0; 64];
    let len = len.min(64);
    let part = &mut bytes[..len as usize];
    let loaded = canonical(v, op, lin, len).and_then(|()| v.read_bytes(lin, part));
    if let Err(e) = loaded {
        raise(v, op, e);
        return false;
    }
    for (i, word) in bytes[..len.div_ceil(8) as usize * 8]
        .chunks_exact(8)
        .enumerate()
    {
        let value = word.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
        u64::put(v, at + 8 * i as u16, value);
    }
    true
}

/// See [`load_bytes`].
#[inline(never)]
pub fn store_bytes(v: &mut Vcpu, op: &LOp, lin: u64, at: u16, len: u32) -> bool {
    let mut bytes = [0; 64];
    let len = len.min(64);
    for (i, byte) in bytes[..len as usize].iter_mut().enumerate() {
        *byte = u8::get(v, at + i as u16);
    }
    let part = &bytes[..len as usize];
    let stored = canonical(v, op, lin, len).and_then(|()| v.write_bytes(lin, part));
    if let Err(e) = stored {
        raise(v, op, e);
        return false;
    }
    true
}

/// Goes on after a slow store: if it hit code, the rest of the instruction runs and then the block is left, so that a
/// block that changes itself never runs its old bytes.
#[inline(always)]
pub fn after_slow_store(v: &mut Vcpu, op: &LOp) -> u32 {
    if v.mmu.code_hit == 0 {
        return next!(v, op);
    }
    rest_of_instruction(v, op)
}

#[cold]
#[inline(never)]
fn rest_of_instruction(v: &mut Vcpu, op: &LOp) -> u32 {
    v.events.raise(system::event::CODE);
    let rest = crate::code::copy_rest(v, op, leave_after);
    go!(v, rest)
}

/// Leaves the block behind the instruction of this op.
pub extern "C" fn leave_after(v: &mut Vcpu, op: &LOp) -> u32 {
    leave_at(v, op, u64::from(op.pc) + op.length(), u32::from(op.ord) + 1);
    exit::NEXT
}

/// What a handler does with a loaded value.
pub trait Loaded<T: Int> {
    /// Where the index's scale stands.
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        op.imm as u32
    }
    /// Completes the op.
    fn then(v: &mut Vcpu, op: &LOp, value: T);
}

/// A handler that loads a `T` and does `K` with it.
pub extern "C" fn with_load<T: Int, K: Loaded<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, K::scale(op));
    if let Some(value) = T::try_load(v, lin) {
        K::then(v, op, value);
        return next!(v, op);
    }
    with_load_cold::<T, K, IDX, A32>(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn with_load_cold<T: Int, K: Loaded<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, K::scale(op));
    match slow_load(v, op, lin, T::BYTES) {
        Some(value) => {
            K::then(v, op, T::cut(value));
            next!(v, op)
        }
        None => exit::FAULT,
    }
}

/// What a handler stores.
pub trait Stored<T: Int> {
    /// Where the index's scale stands.
    fn scale(op: &LOp) -> u32;
    /// The value.
    fn value(v: &Vcpu, op: &LOp) -> T;
    /// What follows a successful store.
    #[inline(always)]
    fn then(_v: &mut Vcpu, _op: &LOp) {}
}

/// A handler that stores what `K` says.
pub extern "C" fn with_store<T: Int, K: Stored<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, K::scale(op));
    if T::try_store(v, lin, K::value(v, op)) {
        K::then(v, op);
        return next!(v, op);
    }
    with_store_cold::<T, K, IDX, A32>(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn with_store_cold<T: Int, K: Stored<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, K::scale(op));
    let value = K::value(v, op).wide();
    if slow_store(v, op, lin, T::BYTES, value) {
        K::then(v, op);
        after_slow_store(v, op)
    } else {
        exit::FAULT
    }
}

/// What a handler makes of a value in memory.
pub trait Modified<T: Int> {
    /// Where the index's scale stands.
    fn scale(op: &LOp) -> u32;
    /// The other operand, and the carry for those that want it.
    fn input(v: &Vcpu, op: &LOp) -> (T, bool);
    /// The new value; pure, since an atomic update may try several times.
    fn value(old: T, input: (T, bool)) -> T;
    /// Flags and destination, once the new value is stored.
    fn then(v: &mut Vcpu, op: &LOp, old: T, input: (T, bool));
}

/// A handler that reads, modifies and writes memory without LOCK.
pub extern "C" fn with_rmw<T: Int, K: Modified<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, K::scale(op));
    if let Some(old) = T::try_load(v, lin) {
        let input = K::input(v, op);
        if T::try_store(v, lin, K::value(old, input)) {
            K::then(v, op, old, input);
            return next!(v, op);
        }
    }
    with_rmw_cold::<T, K, IDX, A32>(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn with_rmw_cold<T: Int, K: Modified<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let lin = ea::<IDX, A32>(v, op, K::scale(op));
    if !check_write(v, op, lin, T::BYTES) {
        return exit::FAULT;
    }
    let Some(old) = slow_load(v, op, lin, T::BYTES) else {
        return exit::FAULT;
    };
    let old = T::cut(old);
    let input = K::input(v, op);
    if !slow_store(v, op, lin, T::BYTES, K::value(old, input).wide()) {
        return exit::FAULT;
    }
    K::then(v, op, old, input);
    after_slow_store(v, op)
}

/// A handler that reads, modifies and writes memory in one atomic step.
pub extern "C" fn with_locked<T: Int, K: Modified<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> u32 {
    let old = locked_old::<T, K, IDX, A32>(v, op);
    match old {
        Some(old) => {
            let input = K::input(v, op);
            K::then(v, op, T::cut(old), input);
            after_slow_store(v, op)
        }
        None => exit::FAULT,
    }
}

#[inline(never)]
fn locked_old<T: Int, K: Modified<T>, const IDX: bool, const A32: bool>(
    v: &mut Vcpu,
    op: &LOp,
) -> Option<u64> {
    let lin = ea::<IDX, A32>(v, op, K::scale(op));
    let done = canonical(v, op, lin, T::BYTES).and_then(|()| {
        let input = K::input(v, op);
        v.mmu
            .rmw_locked(LinAddr(lin), T::BYTES, |old| {
                K::value(T::cut(old), input).wide()
            })
            .map_err(system::fault)
    });
    match done {
        Ok(old) => Some(old),
        Err(e) => {
            raise(v, op, e);
            None
        }
    }
}

/// Picks the address form of a memory handler: plain or indexed, 64 or 32 bits.
macro_rules! by_address {
    ($idx:expr, $a32:expr, $f:ident :: < $($t:ty),+ >) => {
        match ($idx, $a32) {
            (false, false) => $crate::handlers::memory::$f::<$($t),+, false, false> as $crate::code::Handler,
            (true, false) => $crate::handlers::memory::$f::<$($t),+, true, false>,
            (false, true) => $crate::handlers::memory::$f::<$($t),+, false, true>,
            (true, true) => $crate::handlers::memory::$f::<$($t),+, true, true>,
        }
    };
}
pub(crate) use by_address;

/// MOV register from memory.
pub struct LoadTo;

impl<T: Int> Loaded<T> for LoadTo {
    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        T::put(v, op.d, value);
    }
}

/// MOVZX from memory: loads a `T`, writes 64 bits (a 32-bit register's upper half is zero too).
pub struct LoadZext;

impl<T: Int> Loaded<T> for LoadZext {
    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        u64::put(v, op.d, value.wide());
    }
}

/// MOVZX to 16 bits.
pub struct LoadZext16;

impl<T: Int> Loaded<T> for LoadZext16 {
    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        u16::put(v, op.d, value.wide() as u16);
    }
}

/// MOVSX from memory to a `D`.
pub struct LoadSext<D>(std::marker::PhantomData<D>);

impl<T: Int, D: Int> Loaded<T> for LoadSext<D> {
    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        D::put(v, op.d, D::cut(value.signed().cast_unsigned()));
    }
}

/// MOV memory from the context field `a`.
pub struct StoreReg;

impl<T: Int> Stored<T> for StoreReg {
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        op.imm as u32
    }

    #[inline(always)]
    fn value(v: &Vcpu, op: &LOp) -> T {
        T::get(v, op.a)
    }
}

/// MOV memory from a constant; the scale is in `a`.
pub struct StoreImm;

impl<T: Int> Stored<T> for StoreImm {
    #[inline(always)]
    fn scale(op: &LOp) -> u32 {
        u32::from(op.a)
    }

    #[inline(always)]
    fn value(_v: &Vcpu, op: &LOp) -> T {
        T::cut(op.imm.cast_unsigned())
    }
}

/// PUSH: stores `a` and moves the stack pointer `b` by `disp`.
pub struct Push;

impl<T: Int> Stored<T> for Push {
    #[inline(always)]
    fn scale(_op: &LOp) -> u32 {
        0
    }

    #[inline(always)]
    fn value(v: &Vcpu, op: &LOp) -> T {
        T::get(v, op.a)
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp) {
        let top = u64::get(v, op.b).wrapping_add_signed(i64::from(op.disp));
        u64::put(v, op.b, if op.c == 0 { top } else { top & 0xffff_ffff });
    }
}

/// PUSH of a constant.
pub struct PushImm;

impl<T: Int> Stored<T> for PushImm {
    #[inline(always)]
    fn scale(_op: &LOp) -> u32 {
        0
    }

    #[inline(always)]
    fn value(_v: &Vcpu, op: &LOp) -> T {
        T::cut(op.imm.cast_unsigned())
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp) {
        <Push as Stored<T>>::then(v, op);
    }
}

/// POP: moves the stack pointer `b` by `imm`, then writes `d`.
pub struct Pop;

impl<T: Int> Loaded<T> for Pop {
    #[inline(always)]
    fn scale(_op: &LOp) -> u32 {
        0
    }

    #[inline(always)]
    fn then(v: &mut Vcpu, op: &LOp, value: T) {
        let top = u64::get(v, op.b).wrapping_add_signed(op.imm);
        u64::put(v, op.b, if op.c == 0 { top } else { top & 0xffff_ffff });
        T::put(v, op.d, value);
    }
}

/// The effective address as a value, cut to `T`.
pub extern "C" fn lea<T: Int, const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    T::put(v, op.d, T::cut(lin));
    next!(v, op)
}

/// The effective address modulo 2^16, cut to `T`.
pub extern "C" fn lea16<T: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<true, false>(v, op, op.imm as u32);
    T::put(v, op.d, T::cut(lin & 0xffff));
    next!(v, op)
}

/// Raises #GP(0) unless the address is a multiple of `d`.
pub extern "C" fn align_gp<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if lin & (u64::from(op.d) - 1) == 0 {
        return next!(v, op);
    }
    raise(v, op, Exception::GP0)
}

/// Raises #AC(0) unless the address is a multiple of `d` (CR0.AM and EFLAGS.AC at privilege level 3).
pub extern "C" fn align_ac<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if lin & (u64::from(op.d) - 1) == 0 {
        return next!(v, op);
    }
    // A bad address comes before a crooked one.
    let e = canonical(v, op, lin, u32::from(op.d))
        .err()
        .unwrap_or(Exception::AC0);
    raise(v, op, e)
}

/// Raises what a write of `d` bytes would raise.
pub extern "C" fn probe_write<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if check_write(v, op, lin, u32::from(op.d)) {
        next!(v, op)
    } else {
        exit::FAULT
    }
}

/// Loads `a` bytes to the vector field `d`.
pub extern "C" fn vec_load<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    match op.a {
        4 => {
            if let Some(value) = u32::try_load(v, lin) {
                u64::put(v, op.d, value.wide());
                return next!(v, op);
            }
        }
        8 => {
            if let Some(value) = u64::try_load(v, lin) {
                u64::put(v, op.d, value);
                return next!(v, op);
            }
        }
        16 => {
            if let Some(value) = v.mmu.try_load128(LinAddr(lin)) {
                u64::put(v, op.d, value as u64);
                u64::put(v, op.d + 8, (value >> 64) as u64);
                return next!(v, op);
            }
        }
        _ => {}
    }
    if load_bytes(v, op, lin, op.d, u32::from(op.a)) {
        next!(v, op)
    } else {
        exit::FAULT
    }
}

/// Stores `d` bytes from the vector field `a`.
pub extern "C" fn vec_store<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    let done = match op.d {
        4 => u32::try_store(v, lin, u32::get(v, op.a)),
        8 => u64::try_store(v, lin, u64::get(v, op.a)),
        16 => {
            let value = u128::from(u64::get(v, op.a)) | u128::from(u64::get(v, op.a + 8)) << 64;
            v.mmu.try_store128(LinAddr(lin), value)
        }
        _ => false,
    };
    if done {
        return next!(v, op);
    }
    if store_bytes(v, op, lin, op.a, u32::from(op.d)) {
        after_slow_store(v, op)
    } else {
        exit::FAULT
    }
}

/// CMPXCHG without LOCK is as good as with it.
pub extern "C" fn cmpxchg<T: Int, const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    if cmpxchg_done::<T, IDX, A32>(v, op) {
        after_slow_store(v, op)
    } else {
        exit::FAULT
    }
}

/// `a` is compared, the op's `d` is the new value; the scale is the low half of `imm`, the old value's place the upper.
#[inline(never)]
fn cmpxchg_done<T: Int, const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> bool {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    let (expected, new) = (T::get(v, op.a), T::get(v, op.d));
    let result = canonical(v, op, lin, T::BYTES).and_then(|()| {
        v.mmu
            .cmpxchg(LinAddr(lin), T::BYTES, expected.wide(), new.wide())
            .map_err(system::fault)
    });
    match result {
        Ok(old) => {
            v.flags = system::LazyFlags {
                kind: system::flag_kind(system::FlagOp::Sub, T::WIDTH),
                c: 0,
                a: expected.wide(),
                b: old,
            };
            T::put(v, (op.imm >> 32) as u16, T::cut(old));
            true
        }
        Err(e) => {
            raise(v, op, e);
            false
        }
    }
}

/// CMPXCHG8B (`d` = 4) and CMPXCHG16B (`d` = 8).
pub extern "C" fn cmpxchg_pair<const IDX: bool, const A32: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = ea::<IDX, A32>(v, op, op.imm as u32);
    if cmpxchg_pair_done(v, op, lin) {
        after_slow_store(v, op)
    } else {
        exit::FAULT
    }
}

#[inline(never)]
fn cmpxchg_pair_done(v: &mut Vcpu, op: &LOp, lin: u64) -> bool {
    use x86::Gpr::{Rax, Rbx, Rcx, Rdx};
    let wide = op.d == 8;
    let pair = |v: &Vcpu, high: x86::Gpr, low: x86::Gpr| {
        let (high, low) = (v.st.gpr[high as usize], v.st.gpr[low as usize]);
        if wide {
            u128::from(high) << 64 | u128::from(low)
        } else {
            u128::from((high & 0xffff_ffff) << 32 | (low & 0xffff_ffff))
        }
    };
    let (expected, new) = (pair(v, Rdx, Rax), pair(v, Rcx, Rbx));
    let result = canonical(v, op, lin, u32::from(op.d) * 2).and_then(|()| {
        if wide {
            v.mmu
                .cmpxchg16b(LinAddr(lin), expected, new)
                .map_err(system::fault)
        } else {
            v.mmu
                .cmpxchg(LinAddr(lin), 8, expected as u64, new as u64)
                .map(u128::from)
                .map_err(system::fault)
        }
    });
    match result {
        Ok(old) => {
            let equal = old == expected;
            if !equal {
                let (high, low) = if wide {
                    ((old >> 64) as u64, old as u64)
                } else {
                    ((old >> 32) as u64 & 0xffff_ffff, old as u64 & 0xffff_ffff)
                };
                v.st.gpr[Rdx as usize] = high;
                v.st.gpr[Rax as usize] = low;
            }
            v.set_status(x86::flags::ZF, if equal { x86::flags::ZF } else { 0 });
            true
        }
        Err(e) => {
            raise(v, op, e);
            false
        }
    }
}

/// Handlers by address form that no table above picks.
pub fn pick(idx: bool, a32: bool, table: [Handler; 4]) -> Handler {
    table[usize::from(idx) | usize::from(a32) << 1]
}
