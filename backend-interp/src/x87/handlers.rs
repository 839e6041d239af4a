//! The handlers of fast x87 instructions: whether the fast way is open, and what follows the operation.
#![expect(unsafe_code, reason = "guest memory is handed to the host's x87")]
// UNSAFETY: the TLB gives a host address for exactly the bytes asked for; it is used at once.

use system::Vcpu;
use x86::{LinAddr, Seg};

use super::host::{self, DEFAULT_CW};
use super::traits::{FromMemory, Register, ToMemory, find_top, note, pop, st, sw, top};
use super::{FROM_MEMORY, TO_MEMORY, kept, packed};
use crate::code::{Int, LOp, go, next};
use crate::handlers::memory::ea;
use crate::handlers::system as sys;

/// The host's flags that the guest's lack.
#[inline(always)]
fn stale(v: &Vcpu) -> u16 {
    u16::get(v, kept::FLAGS) & !v.st.fpu.fsw & sw::FLAGS
}

/// Nothing stands in the way, and the host's control word is the guest's.
#[inline(always)]
fn open(v: &Vcpu) -> bool {
    let fpu = &v.st.fpu;
    let top = (top(v) as u16) << 11;
    (fpu.fcw ^ DEFAULT_CW) | ((fpu.fsw ^ top) & (sw::PENDING | sw::TOP)) | stale(v) == 0
}

/// Nothing stands in the way but the control word, old flags of the host or an old TOP.
#[inline(always)]
fn nearly_open(v: &Vcpu) -> bool {
    let fpu = &v.st.fpu;
    fpu.fcw & sw::FLAGS == sw::FLAGS && fpu.fsw & sw::PENDING == 0
}

/// Makes the host's x87 like the guest's; [`host::default_control`] undoes it.
fn prepare(v: &mut Vcpu) {
    if stale(v) != 0 {
        host::clear_flags();
        u16::put(v, kept::FLAGS, 0);
    }
    host::control(&v.st.fpu.fcw);
}

/// All registers in `full` are full, and with `room` ST(7) is empty.
#[inline(always)]
fn fits(v: &Vcpu, full: u8, room: bool) -> bool {
    let tags = v.st.fpu.ftw.rotate_right(top(v));
    tags & full == full && !(room && tags & 0x80 != 0)
}

/// FIP and FCS; `disp` is -1 in 64-bit code, else 0.
#[inline(always)]
fn pointers(v: &mut Vcpu, op: &LOp, code64: bool) {
    let ip = v.st.rip.wrapping_add(u64::from(op.pc));
    v.st.fpu.fip = if code64 { ip } else { ip & 0xffff_ffff };
    v.st.fpu.fcs = v.st.seg[Seg::Cs as usize].selector & u16::get(v, kept::SELECTORS);
}

/// FIP, FCS, FDP and FDS.
#[inline(always)]
fn memory_pointers(v: &mut Vcpu, op: &LOp, lin: u64) {
    pointers(v, op, op.imm & packed::CODE64 != 0);
    let selector = u16::get(v, (op.imm >> packed::SELECTOR) as u16);
    v.st.fpu.fdp = if op.imm & packed::LINEAR != 0 {
        lin
    } else {
        u64::get(v, op.a)
    };
    v.st.fpu.fds = selector & u16::get(v, kept::SELECTORS);
}

#[inline(always)]
fn address(v: &Vcpu, op: &LOp) -> u64 {
    let lin = ea::<true, false>(v, op, op.imm as u32);
    if op.imm & packed::A32 != 0 {
        lin & 0xffff_ffff
    } else {
        lin
    }
}

/// An instruction without a memory operand; `a` is its stack register, `imm` its description for the slow way.
pub extern "C" fn register<K: Register>(v: &mut Vcpu, op: &LOp) -> u32 {
    if open(v) && fits(v, K::full(op.a), K::ROOM) {
        K::run(v, op);
        if K::POINTERS {
            pointers(v, op, op.disp != 0);
        }
        return next!(v, op);
    }
    register_otherwise::<K>(v, op)
}

#[inline(never)]
extern "C" fn register_otherwise<K: Register>(v: &mut Vcpu, op: &LOp) -> u32 {
    find_top(v);
    let rounds = !K::NEAREST || v.st.fpu.fcw & 0xc00 == 0;
    if nearly_open(v) && rounds && fits(v, K::full(op.a), K::ROOM) {
        if K::HOST {
            prepare(v);
        }
        K::run(v, op);
        if K::HOST {
            host::default_control();
        }
        if K::POINTERS {
            pointers(v, op, op.disp != 0);
        }
        return next!(v, op);
    }
    sys::x87(v, op)
}

/// An instruction that reads memory; the slow way is the ops behind.
pub extern "C" fn from_memory<K: FromMemory>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = address(v, op);
    if open(v)
        && fits(v, u8::from(!K::PUSH), K::PUSH)
        && let Some(m) = v.mmu.hit_read(LinAddr(lin), K::BYTES)
    {
        // SAFETY: the TLB vouches for the bytes.
        unsafe { K::run(v, m) };
        memory_pointers(v, op, lin);
        return go!(v, op.ahead(FROM_MEMORY));
    }
    from_memory_otherwise::<K>(v, op)
}

#[inline(never)]
extern "C" fn from_memory_otherwise<K: FromMemory>(v: &mut Vcpu, op: &LOp) -> u32 {
    find_top(v);
    let lin = address(v, op);
    if nearly_open(v)
        && fits(v, u8::from(!K::PUSH), K::PUSH)
        && let Some(m) = v.mmu.hit_read(LinAddr(lin), K::BYTES)
    {
        prepare(v);
        // SAFETY: the TLB vouches for the bytes.
        unsafe { K::run(v, m) };
        host::default_control();
        memory_pointers(v, op, lin);
        return go!(v, op.ahead(FROM_MEMORY));
    }
    next!(v, op)
}

/// Stores and what follows.
///
/// # Safety
/// `m` points to memory for the operand.
#[inline(always)]
unsafe fn stored<K: ToMemory>(v: &mut Vcpu, m: *mut u8) {
    let a = st(v, 0);
    // SAFETY: a register of the context, and the caller's operand.
    let status = unsafe { K::run(a, m) };
    note(v, status, sw::C1);
    if K::BYTES == 10 {
        // A plain copy.
        v.st.fpu.fsw &= !sw::C1;
    }
    if K::POP {
        pop(v);
    }
}

/// An instruction that stores ST(0); the slow way is the ops behind.
pub extern "C" fn to_memory<K: ToMemory>(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = address(v, op);
    if open(v)
        && fits(v, 1, false)
        && let Some(m) = v.mmu.hit_write(LinAddr(lin), K::BYTES)
    {
        // SAFETY: the TLB vouches for the bytes.
        unsafe { stored::<K>(v, m) };
        memory_pointers(v, op, lin);
        return go!(v, op.ahead(TO_MEMORY));
    }
    to_memory_otherwise::<K>(v, op)
}

#[inline(never)]
extern "C" fn to_memory_otherwise<K: ToMemory>(v: &mut Vcpu, op: &LOp) -> u32 {
    find_top(v);
    let lin = address(v, op);
    if nearly_open(v)
        && fits(v, 1, false)
        && let Some(m) = v.mmu.hit_write(LinAddr(lin), K::BYTES)
    {
        prepare(v);
        // SAFETY: the TLB vouches for the bytes.
        unsafe { stored::<K>(v, m) };
        host::default_control();
        memory_pointers(v, op, lin);
        return go!(v, op.ahead(TO_MEMORY));
    }
    next!(v, op)
}

/// FLDCW. The slow way where exceptions become pending, or may have been.
pub extern "C" fn load_control(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = address(v, op);
    if nearly_open(v)
        && let Some(value) = u16::try_load(v, lin)
    {
        let cw = value & 0x1f3f | 0x40;
        if v.st.fpu.fsw & !cw & sw::FLAGS == 0 {
            v.st.fpu.fcw = cw;
            return go!(v, op.ahead(FROM_MEMORY));
        }
    }
    next!(v, op)
}

/// FNSTCW.
pub extern "C" fn store_control(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = address(v, op);
    if nearly_open(v) && u16::try_store(v, lin, v.st.fpu.fcw) {
        return go!(v, op.ahead(TO_MEMORY));
    }
    next!(v, op)
}

/// FNSTSW m16.
pub extern "C" fn store_status(v: &mut Vcpu, op: &LOp) -> u32 {
    let lin = address(v, op);
    if nearly_open(v) && u16::try_store(v, lin, v.st.fpu.fsw) {
        return go!(v, op.ahead(TO_MEMORY));
    }
    next!(v, op)
}
