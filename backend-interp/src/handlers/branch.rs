//! Ends of blocks: direct, conditional and indirect jumps, calls and returns, with chaining.
//!
//! A terminal is followed by one more op that never runs: its `imm` points to the block's links (direct) or to its
//! inline cache (indirect).
#![expect(
    unsafe_code,
    reason = "links are reached by pointer from the op behind the terminal"
)]
// UNSAFETY: links and caches live beside the ops in their block; an index into a table would cost a load and a check.

use ir::{Cond, OpCode};
use system::{FlagOp, Vcpu};
use x86::Gpr;

use crate::code::{Int, LOp, Link, Site, exit, go, word};
use crate::handlers::alu::{self, Alu};
use crate::handlers::memory::{leave_at, slow_load, slow_store};

/// The block's links.
#[inline(always)]
fn link<'a>(op: &LOp, slot: usize) -> &'a Link {
    let links = op.next().imm.cast_unsigned() as usize as *const Link;
    // SAFETY: lowering put a pointer to the block's link array (as many as the terminal has exits) into the op behind
    // the terminal, and the array lives as long as the op.
    unsafe { &*links.wrapping_add(slot) }
}

/// The block's inline cache.
#[inline(always)]
fn site<'a>(op: &LOp) -> &'a Site {
    let site = op.next().imm.cast_unsigned() as usize as *const Site;
    // SAFETY: as in `link`.
    unsafe { &*site }
}

/// Whether the run loop must look at something before the next block.
#[inline(always)]
fn interrupted(v: &Vcpu) -> bool {
    v.budget <= 0 || v.events.pending() & v.event_mask != 0
}

/// Goes on at a link's target.
#[inline(always)]
fn follow(v: &mut Vcpu, op: &LOp, link: &Link) -> u32 {
    v.st.rip = v.st.rip.wrapping_add_signed(i64::from(link.delta)) & link.mask;
    v.budget -= i64::from(op.ord) + 1;
    if let Some(target) = link.target
        && (link.same_page || (link.map_gen == v.mmu.generation(v.st.rip) && link.rip == v.st.rip))
        && !interrupted(v)
    {
        return go!(v, target);
    }
    unresolved(v, link)
}

#[cold]
#[inline(never)]
fn unresolved(v: &mut Vcpu, link: &Link) -> u32 {
    v.engine[word::LINK] = std::ptr::from_ref(link).addr() as u64;
    if interrupted(v) {
        exit::NEXT
    } else {
        exit::LINK
    }
}

/// Goes on at a RIP that is known to be allowed.
#[inline(always)]
fn arrive(v: &mut Vcpu, op: &LOp, rip: u64) -> u32 {
    v.st.rip = rip;
    v.budget -= i64::from(op.ord) + 1;
    let site = site(op);
    let map_gen = v.mmu.generation(rip);
    if !interrupted(v) {
        let e = &site.entries[0];
        if e.rip == rip
            && e.map_gen == map_gen
            && let Some(target) = e.target
        {
            return go!(v, target);
        }
        let e = &site.entries[1];
        if e.rip == rip
            && e.map_gen == map_gen
            && let Some(target) = e.target
        {
            return go!(v, target);
        }
        let e = &site.entries[2];
        if e.rip == rip
            && e.map_gen == map_gen
            && let Some(target) = e.target
        {
            return go!(v, target);
        }
        let e = &site.entries[3];
        if e.rip == rip
            && e.map_gen == map_gen
            && let Some(target) = e.target
        {
            return go!(v, target);
        }
    }
    unknown(v, site)
}

#[cold]
#[inline(never)]
fn unknown(v: &mut Vcpu, site: &Site) -> u32 {
    v.engine[word::SITE] = std::ptr::from_ref(site).addr() as u64;
    if interrupted(v) {
        return exit::NEXT;
    }
    // The table of all recent targets, before the run loop is asked.
    match crate::code::jump_target(v) {
        Some(target) => go!(v, target),
        None => exit::INDIRECT,
    }
}

/// JMP.
pub extern "C" fn jump(v: &mut Vcpu, op: &LOp) -> u32 {
    follow(v, op, link(op, 0))
}

/// Jcc with flags of unknown origin.
pub extern "C" fn branch<const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    if v.flags.cond(Cond::ALL[CC as usize & 15], v.st.rflags) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// Whether a condition holds after a - b (CMP) at the operands' width.
#[inline(always)]
fn holds_sub<T: Int, const CC: u8>(a: T, b: T) -> bool {
    let sign = |x: u64| T::cut(x).signed() < 0;
    match Cond::ALL[CC as usize & 15] {
        Cond::E => a == b,
        Cond::Ne => a != b,
        Cond::B => a < b,
        Cond::Ae => a >= b,
        Cond::Be => a <= b,
        Cond::A => a > b,
        Cond::L => a.signed() < b.signed(),
        Cond::Ge => a.signed() >= b.signed(),
        Cond::Le => a.signed() <= b.signed(),
        Cond::G => a.signed() > b.signed(),
        Cond::S => sign(a.wide().wrapping_sub(b.wide())),
        Cond::Ns => !sign(a.wide().wrapping_sub(b.wide())),
        other => system::holds(
            other,
            system::sub_flags(a.wide(), b.wide(), false, T::WIDTH),
        ),
    }
}

/// Whether a condition holds after a logic operation with this result.
#[inline(always)]
fn holds_logic<T: Int, const CC: u8>(r: T) -> bool {
    match Cond::ALL[CC as usize & 15] {
        Cond::E | Cond::Be => r.wide() == 0,
        Cond::Ne | Cond::A => r.wide() != 0,
        Cond::S | Cond::L => r.signed() < 0,
        Cond::Ns | Cond::Ge => r.signed() >= 0,
        Cond::O | Cond::B => false,
        Cond::No | Cond::Ae => true,
        Cond::Le => r.signed() <= 0,
        Cond::G => r.signed() > 0,
        Cond::P => (r.wide() as u8).count_ones() & 1 == 0,
        Cond::Np => (r.wide() as u8).count_ones() & 1 != 0,
    }
}

/// Jcc after a CMP or SUB of this width earlier in the block.
pub extern "C" fn branch_sub<T: Int, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    if holds_sub::<T, CC>(T::cut(v.flags.a), T::cut(v.flags.b)) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// Jcc after a logic operation of this width earlier in the block.
pub extern "C" fn branch_logic<T: Int, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    if holds_logic::<T, CC>(T::cut(v.flags.a)) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// CMP a, b and Jcc.
pub extern "C" fn cmp_rr_branch<T: Int, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a), T::get(v, op.b));
    alu::note::<T, alu::Sub>(v, a, b, false);
    if holds_sub::<T, CC>(a, b) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// CMP a, constant (in `disp`) and Jcc.
pub extern "C" fn cmp_ri_branch<T: Int, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a), T::cut(i64::from(op.disp).cast_unsigned()));
    alu::note::<T, alu::Sub>(v, a, b, false);
    if holds_sub::<T, CC>(a, b) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// TEST a, b and Jcc.
pub extern "C" fn test_rr_branch<T: Int, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a), T::get(v, op.b));
    alu::note::<T, alu::And>(v, a, b, false);
    if holds_logic::<T, CC>(T::cut(a.wide() & b.wide())) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// TEST a, constant (in `disp`) and Jcc.
pub extern "C" fn test_ri_branch<T: Int, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a), T::cut(i64::from(op.disp).cast_unsigned()));
    alu::note::<T, alu::And>(v, a, b, false);
    if holds_logic::<T, CC>(T::cut(a.wide() & b.wide())) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// d = a op constant (in `disp`) and Jcc: loop counters.
pub extern "C" fn alu_ri_branch<T: Int, K: Alu, const CC: u8>(v: &mut Vcpu, op: &LOp) -> u32 {
    let (a, b) = (T::get(v, op.a), T::cut(i64::from(op.disp).cast_unsigned()));
    alu::note::<T, K>(v, a, b, false);
    T::put(v, op.d, T::cut(K::compute(a.wide(), b.wide(), false)));
    if v.flags.cond(Cond::ALL[CC as usize & 15], v.st.rflags) {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// Jump if the field `a` isn't zero.
pub extern "C" fn branch_nz<T: Int>(v: &mut Vcpu, op: &LOp) -> u32 {
    if T::get(v, op.a).wide() != 0 {
        return follow(v, op, link(op, 0));
    }
    follow(v, op, link(op, 1))
}

/// Canonical whatever CR4.LA57 says.
#[inline(always)]
fn in_48_bits(rip: u64) -> bool {
    ((rip.cast_signed() << 16) >> 16).cast_unsigned() == rip
}

/// Jump to the offset in `a`. With `CHECKED` the offset is compared with CS.limit and the run loop finds the block.
pub extern "C" fn jump_to<T: Int, const CHECKED: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let rip = T::get(v, op.a).wide();
    if CHECKED {
        return jump_checked(v, op, rip);
    }
    if T::BITS == 64 && !in_48_bits(rip) {
        return jump_checked(v, op, rip);
    }
    arrive(v, op, rip)
}

#[inline(never)]
fn jump_checked(v: &mut Vcpu, op: &LOp, rip: u64) -> u32 {
    if !allowed(v, rip) {
        return crate::handlers::memory::raise(v, op, x86::Exception::GP0);
    }
    v.st.rip = rip;
    v.budget -= i64::from(op.ord) + 1;
    exit::NEXT
}

/// CALL rel in 64-bit mode: pushes block start + `imm`, follows link 0.
pub extern "C" fn call64(v: &mut Vcpu, op: &LOp) -> u32 {
    let top = v.st.gpr[Gpr::Rsp as usize].wrapping_sub(8);
    let back = v.st.rip.wrapping_add_signed(op.imm);
    if u64::try_store(v, top, back) {
        v.st.gpr[Gpr::Rsp as usize] = top;
        return follow(v, op, link(op, 0));
    }
    call64_cold(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn call64_cold(v: &mut Vcpu, op: &LOp) -> u32 {
    let top = v.st.gpr[Gpr::Rsp as usize].wrapping_sub(8);
    let back = v.st.rip.wrapping_add_signed(op.imm);
    if !slow_store(v, op, top, 8, back) {
        return exit::FAULT;
    }
    v.st.gpr[Gpr::Rsp as usize] = top;
    if v.mmu.code_hit != 0 {
        v.events.raise(system::event::CODE);
    }
    follow(v, op, link(op, 0))
}

/// RET in 64-bit mode; `imm` is what RSP gains.
pub extern "C" fn ret64(v: &mut Vcpu, op: &LOp) -> u32 {
    let top = v.st.gpr[Gpr::Rsp as usize];
    if let Some(rip) = u64::try_load(v, top)
        && in_48_bits(rip)
    {
        v.st.gpr[Gpr::Rsp as usize] = top.wrapping_add_signed(op.imm);
        return arrive(v, op, rip);
    }
    ret64_cold(v, op)
}

#[cold]
#[inline(never)]
extern "C" fn ret64_cold(v: &mut Vcpu, op: &LOp) -> u32 {
    let top = v.st.gpr[Gpr::Rsp as usize];
    let Some(rip) = slow_load(v, op, top, 8) else {
        return exit::FAULT;
    };
    if !v.is_canonical(rip) {
        return crate::handlers::memory::raise(v, op, x86::Exception::GP0);
    }
    v.st.gpr[Gpr::Rsp as usize] = top.wrapping_add_signed(op.imm);
    arrive(v, op, rip)
}

/// Leaves the block for the run loop at `imm` bytes from its start.
pub extern "C" fn exit_next(v: &mut Vcpu, op: &LOp) -> u32 {
    let delta = op.imm.cast_unsigned();
    leave_at(v, op, delta, u32::from(op.ord) + 1);
    exit::NEXT
}

/// Leaves the block for the run loop before this instruction (the block was cut).
pub extern "C" fn exit_before(v: &mut Vcpu, op: &LOp) -> u32 {
    leave_at(v, op, op.imm.cast_unsigned(), u32::from(op.ord));
    exit::NEXT
}

/// Leaves the block for the run loop; a helper has set RIP.
pub extern "C" fn exit_helper(v: &mut Vcpu, op: &LOp) -> u32 {
    v.budget -= i64::from(op.ord) + 1;
    exit::NEXT
}

/// Whether a flag-writing op leaves flags that [`branch_sub`] or [`branch_logic`] can read.
pub fn static_flags(code: OpCode) -> Option<FlagOp> {
    match code {
        OpCode::Sub => Some(FlagOp::Sub),
        OpCode::And | OpCode::Or | OpCode::Xor => Some(FlagOp::Logic),
        _ => None,
    }
}

/// #GP(0) unless a near transfer may go to the offset `a`; with `IF`, only when `b` isn't zero.
pub extern "C" fn check_pc<T: Int, const IF: bool>(v: &mut Vcpu, op: &LOp) -> u32 {
    let rip = T::get(v, op.a).wide();
    if (IF && u64::get(v, op.b) == 0) || allowed(v, rip) {
        return crate::code::next!(v, op);
    }
    crate::handlers::memory::raise(v, op, x86::Exception::GP0)
}

/// Whether a near transfer may go to an offset.
fn allowed(v: &Vcpu, rip: u64) -> bool {
    if v.st.code64() {
        v.is_canonical(rip)
    } else {
        rip <= u64::from(v.st.seg[1].limit)
    }
}
