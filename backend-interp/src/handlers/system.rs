//! Helper calls, string instructions, exceptions, vector and x87 instructions.
#![expect(
    unsafe_code,
    reason = "helpers, stubs and their descriptions are reached by pointers in ops"
)]
// UNSAFETY: an op has room for one pointer to what it calls; a table of them would cost a load per call.

use ir::{HelperId, StringOp};
use system::{Helper, StringOutcome, Vcpu};
use x86::Exception;

use crate::code::{Int, LOp, exit, next, word};
use crate::handlers::memory::{leave_at, raise};
use crate::host::{self, Stub};

/// Tells helpers where they are: the instruction's address, the next one's, and the instructions completed.
pub fn locate(v: &mut Vcpu, op: &LOp) {
    let mask = if v.st.code64() { u64::MAX } else { 0xffff_ffff };
    v.ip = v.st.rip.wrapping_add(u64::from(op.pc)) & mask;
    v.next_ip = v.ip.wrapping_add(op.length()) & mask;
    v.retired = v.engine[word::END]
        .wrapping_sub(v.budget.cast_unsigned())
        .wrapping_add(u64::from(op.ord));
}

/// d = helper(a, b, c); `imm` is the helper.
pub extern "C" fn call(v: &mut Vcpu, op: &LOp) -> u32 {
    // Images, descriptor tables and far pointers may be stored where code is.
    if called(v, op) {
        crate::handlers::memory::after_slow_store(v, op)
    } else {
        exit::FAULT
    }
}

#[inline(never)]
fn called(v: &mut Vcpu, op: &LOp) -> bool {
    locate(v, op);
    let (a, b, c) = (u64::get(v, op.a), u64::get(v, op.b), u64::get(v, op.c));
    let id = HelperId::from_index(op.imm as u32).unwrap_or(HelperId::Pause);
    let images = touches_mxcsr(id);
    if images {
        host::fetch_mxcsr_flags(v);
    }
    let helper: Helper = system::helper(id);
    match helper(v, a, b, c) {
        Ok(value) => {
            u64::put(v, op.d, value);
            true
        }
        Err(e) => {
            // Not `raise`: a task switch that fails late has moved `ip` into the new task.
            v.st.rip = v.ip;
            v.budget -= i64::from(op.ord);
            v.exception = Some(e);
            false
        }
    }
}

/// Helpers that read or write MXCSR; while blocks run, its sticky flags may be in the host's register.
fn touches_mxcsr(id: HelperId) -> bool {
    use HelperId::{Fxrstor, Fxsave, Ldmxcsr, Stmxcsr, Xrstor, Xsave};
    matches!(id, Fxsave | Fxrstor | Xsave | Xrstor | Stmxcsr | Ldmxcsr)
}

/// A string instruction; `imm` is its encoding.
pub extern "C" fn string(v: &mut Vcpu, op: &LOp) -> u32 {
    match ran_string(v, op) {
        0 => crate::handlers::memory::after_slow_store(v, op),
        code => code,
    }
}

#[inline(never)]
fn ran_string(v: &mut Vcpu, op: &LOp) -> u32 {
    locate(v, op);
    let Some(what) = StringOp::decode(op.imm as u32) else {
        raise(v, op, Exception::UD);
        return exit::FAULT;
    };
    match system::string(v, what) {
        Ok(StringOutcome::Done) => 0,
        Ok(StringOutcome::Again) => {
            leave_at(v, op, u64::from(op.pc), u32::from(op.ord));
            exit::AGAIN
        }
        Err(e) => {
            raise(v, op, e);
            exit::FAULT
        }
    }
}

/// Raises exception `a` with error code `imm` (negative: none).
pub extern "C" fn raise_static(v: &mut Vcpu, op: &LOp) -> u32 {
    let vector = op.a as u8;
    let exception = match u32::try_from(op.imm) {
        Ok(error) => Exception::with_error(vector, error),
        Err(_) => Exception::new(vector),
    };
    raise(v, op, exception)
}

/// A vector or x87 instruction as the handlers see it.
pub struct VecOp {
    /// Which instruction.
    pub insn: ir::VecInsn,
    /// Host code for it, where there is some.
    pub stub: Option<Stub>,
    /// The operands, for the portable version.
    pub dst: ir::Operand,
    /// See `dst`.
    pub args: [ir::Operand; 3],
    /// Where vector temporaries among the operands lie, and integer ones.
    pub fields: [u16; 4],
    /// It writes RFLAGS' status flags.
    pub writes_flags: bool,
}

fn vec_op<'a>(op: &LOp) -> &'a VecOp {
    let at = op.imm.cast_unsigned() as usize as *const VecOp;
    // SAFETY: lowering put a pointer to one of the block's boxed descriptions into the op; it lives as long as the op.
    unsafe { &*at }
}

/// A vector instruction by its host stub; no MXCSR in it.
pub extern "C" fn vec_stub(v: &mut Vcpu, op: &LOp) -> u32 {
    let what = vec_op(op);
    if let Some(stub) = what.stub {
        let flags = host::call(stub, v);
        if what.writes_flags {
            host_flags(v, flags);
        }
    }
    next!(v, op)
}

/// A vector instruction by its host stub when MXCSR's controls are as the host's are, else portably.
pub extern "C" fn vec_stub_fp(v: &mut Vcpu, op: &LOp) -> u32 {
    if v.st.mxcsr & !0x3f != x86::MXCSR_RESET {
        return vec_portable(v, op);
    }
    vec_stub(v, op)
}

#[inline(never)]
fn host_flags(v: &mut Vcpu, flags: u64) {
    v.st.rflags = (v.st.rflags & !x86::flags::STATUS) | (flags & x86::flags::STATUS);
    v.flags = system::LazyFlags::KNOWN;
}

/// A vector instruction in portable Rust.
pub extern "C" fn vec_portable(v: &mut Vcpu, op: &LOp) -> u32 {
    if ran_portable(v, op) {
        next!(v, op)
    } else {
        exit::FAULT
    }
}

#[inline(never)]
fn ran_portable(v: &mut Vcpu, op: &LOp) -> bool {
    locate(v, op);
    let what = vec_op(op);
    host::fetch_mxcsr_flags(v);
    let done = system::vec_portable(v, what.insn, what.dst, what.args, what.fields);
    host::drop_mxcsr_flags();
    match done {
        Ok(()) => true,
        Err(e) => {
            raise(v, op, e);
            false
        }
    }
}

/// Nothing: fills up what another handler jumps over.
pub extern "C" fn nop(v: &mut Vcpu, op: &LOp) -> u32 {
    next!(v, op)
}

/// An x87 instruction. When an unmasked exception took its result's place, the store behind it does not happen.
pub extern "C" fn x87(v: &mut Vcpu, op: &LOp) -> u32 {
    match ran_x87(v, op) {
        0 => next!(v, op),
        1 => crate::handlers::memory::leave_after(v, op),
        _ => exit::FAULT,
    }
}

#[inline(never)]
fn ran_x87(v: &mut Vcpu, op: &LOp) -> u32 {
    locate(v, op);
    let what = vec_op(op);
    match system::x87(v, what.insn.code, what.dst, what.args, what.fields) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(e) => {
            raise(v, op, e);
            2
        }
    }
}

/// d = linear address of `b` bytes at offset `a` of a segment; `imm` = segment | write << 8 | address width << 16.
pub extern "C" fn seglin(v: &mut Vcpu, op: &LOp) -> u32 {
    if has_linear(v, op) {
        next!(v, op)
    } else {
        exit::FAULT
    }
}

#[inline(never)]
fn has_linear(v: &mut Vcpu, op: &LOp) -> bool {
    let seg = x86::Seg::from_index(op.imm as usize & 7).unwrap_or(x86::Seg::Ds);
    let write = op.imm >> 8 & 1 != 0;
    let width = ir::Width::ALL[(op.imm >> 16) as usize & 3];
    let (at, size) = (u64::get(v, op.a) & width.mask(), u64::get(v, op.b));
    match v.linear(seg, at, size, write) {
        Ok(lin) => {
            u64::put(v, op.d, lin);
            true
        }
        Err(e) => {
            raise(v, op, e);
            false
        }
    }
}

/// MFENCE and its kin: earlier stores of this vCPU are seen before its later loads.
pub extern "C" fn fence(v: &mut Vcpu, op: &LOp) -> u32 {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    next!(v, op)
}

/// RFLAGS.DF = imm.
pub extern "C" fn set_df(v: &mut Vcpu, op: &LOp) -> u32 {
    let set = if op.imm == 0 { 0 } else { x86::flags::DF };
    v.st.rflags = (v.st.rflags & !x86::flags::DF) | set;
    next!(v, op)
}

/// Counts the block's handlers (`imm`) and instructions (`disp`), for `--stats`. A block that is left early counts whole.
pub extern "C" fn count(v: &mut Vcpu, op: &LOp) -> u32 {
    v.engine[word::HANDLERS] += op.imm.cast_unsigned();
    v.engine[word::INSNS] += u64::from(op.disp.cast_unsigned());
    next!(v, op)
}
