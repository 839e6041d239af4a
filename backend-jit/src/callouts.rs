//! The Rust functions that translated code calls, through the stubs of `x64::runtime`.
#![expect(unsafe_code, reason = "translated code passes the frame by address")]
// UNSAFETY: the frame and what it points to are handed over by machine code.

use frontend_x86::Mode;
use system::{FlagOp, LazyFlags, Vcpu, flag_kind};
use translation::BlockId;
use x86::{Activity, Exception, LinAddr, Shadow};

use backend_interp::{Left, fetch_mxcsr};
use ir::{Exit, HelperId, Width};
use softmmu::{Place, line_mask};

use crate::core::{Core, Side, code_segment, key, linear_ip, mode_of};
use crate::hops::{HOPS, LARGE_HOPS, close};
use crate::local::Local;
use crate::x64::emit::suitable;
use crate::x64::emit::system::Args;
use crate::x64::faults;
use crate::x64::frame::{Frame, leave};
use crate::x64::known;
use crate::x64::runtime::{Callouts, unpacked};
use crate::x87 as registers;

/// All of them.
pub const ALL: Callouts = Callouts {
    read,
    write,
    commit,
    window,
    hop,
    slow,
    direct,
    image,
    x87,
};

/// What a frame leads to.
fn parts<'a>(frame: *mut Frame) -> (&'a mut Frame, &'a mut Vcpu, &'a mut Local) {
    // SAFETY: the engine put its frame's address into RSP when it entered the code that calls.
    let f = unsafe { &mut *frame };
    // SAFETY: the engine, which waits for the code to come back, has put the address of the vCPU it was given there.
    let v = unsafe { &mut *f.vcpu };
    // SAFETY: as above, of its own part for the vCPU, which it does not use meanwhile.
    let local = unsafe { &mut *f.local };
    (f, v, local)
}

/// Brings RIP and flags to the start of the instruction at a call, and the budget to what is left then.
fn to_instruction(f: &mut Frame, v: &mut Vcpu, core: &Core, ret: u64) -> Option<Side> {
    let (id, side) = core.side(ret)?;
    to_side(f, v, core, id, side);
    Some(side)
}

/// As [`to_instruction`], for an instruction that is known.
fn to_side(f: &mut Frame, v: &mut Vcpu, core: &Core, id: BlockId, side: Side) {
    let info = core.blocks.get(id);
    v.st.rip = info.key.ip().wrapping_add_signed(i64::from(side.delta));
    if let Some(desc) = side.flags {
        v.flags = desc.evaluate(v);
    }
    if info.key.mode & key::COUNT != 0 {
        f.budget += i64::from(info.own.insns) - i64::from(side.ord);
    }
}

/// Brings what [`leave::INTERPRET`] needs up to date.
pub fn interpret(f: &mut Frame, v: &mut Vcpu, core: &Core) {
    if f.ret == 0 {
        // An access through a window, which has seen to it.
        return;
    }
    let known = to_instruction(f, v, core, f.ret);
    debug_assert!(known.is_some(), "a call without a side table entry");
}

extern "sysv64" fn read(frame: *mut Frame) {
    let (f, v, local) = parts(frame);
    local.counts.reads += 1;
    let result = access(f, v, local, false);
    finish(f, v, local, result);
}

extern "sysv64" fn hop(frame: *mut Frame) {
    let (f, v, local) = parts(frame);
    let missed = f.large.left < 0;
    f.hops = HOPS;
    f.large.left = LARGE_HOPS;
    // Supervisor code would find there what EFLAGS.AC or the half forbids it; other code does not look.
    let user = v.st.cpl() == 3 && v.st.code64();
    let addend = user.then(|| v.mmu.large(f.lin)).flatten();
    if let Some(addend) = addend {
        f.large.put(f.lin, addend);
    }
    let again = missed && addend.is_some();
    if !again && close(&mut local.last_hop, missed) {
        local.shared.lock().hop(f.ret, addend.is_some());
    }
}

extern "sysv64" fn write(frame: *mut Frame) {
    let (f, v, local) = parts(frame);
    local.counts.writes += 1;
    let result = access(f, v, local, true);
    finish(f, v, local, result);
}

/// What an access came to.
enum Outcome {
    /// A host address.
    At(u64),
    /// The bounce buffer.
    Bounce,
    Interpret,
}

fn access(f: &mut Frame, v: &mut Vcpu, local: &Local, write: bool) -> Result<Outcome, Exception> {
    let (size, align) = unpacked(f.packed);
    let lin = f.lin;
    // The common case needs no side table.
    if lin & align == 0
        && v.check_canonical(lin, size, false).is_ok()
        && let Ok(Place::Ram(at)) = v.mmu.place(LinAddr(lin), size, write)
    {
        return Ok(Outcome::At(at));
    }
    let side = local.shared.lock().side(f.ret);
    let kind = side.map(|(_, s)| s.kind).unwrap_or_default();
    if lin & align != 0 && !kind.locked {
        // CPUs look at this before they look for #SS.
        return Err(Exception::GP0);
    }
    v.check_canonical(lin, size, kind.stack)?;
    if lin & align != 0 {
        return Ok(Outcome::Interpret);
    }
    let place = v
        .mmu
        .place(LinAddr(lin), size, write)
        .map_err(system::fault)?;
    match place {
        Place::Ram(at) => return Ok(Outcome::At(at)),
        Place::Code => return Ok(Outcome::Interpret),
        Place::Slow if kind.locked => return Ok(Outcome::Interpret),
        // The code behind must not run on as it was.
        Place::Slow if write && hits_code(v, lin, size) => return Ok(Outcome::Interpret),
        Place::Slow => {}
    }
    let mut bytes = [0; 64];
    let part = &mut bytes[..size as usize];
    if write {
        v.probe_write(lin, size)?;
        if kind.rmw {
            v.read_bytes(lin, part)?;
        }
        f.split.clear();
        f.commit_lin = lin;
        f.commit_size = size;
    } else {
        v.read_bytes(lin, part)?;
    }
    for (word, bytes) in f.bounce.0.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    if write {
        // Behind the jump back: see `Stubs::write`.
        f.ret += 5;
    }
    Ok(Outcome::Bounce)
}

/// Whether a store across two pages, which [`softmmu::Mmu::place`] says nothing about, goes to translated bytes.
fn hits_code(v: &Vcpu, lin: u64, size: u64) -> bool {
    let first = x86::PAGE_SIZE - (lin & x86::PAGE_MASK);
    if size <= first {
        return false;
    }
    let mask = if v.st.code64() { u64::MAX } else { 0xffff_ffff };
    let parts = [
        (lin, line_mask(lin, size)),
        (lin.wrapping_add(first) & mask, line_mask(0, size - first)),
    ];
    parts.into_iter().any(|(lin, lines)| {
        v.mmu
            .translate_debug(LinAddr(lin))
            .is_some_and(|at| v.mmu.ram().code_lines(at) & lines != 0)
    })
}

fn finish(f: &mut Frame, v: &mut Vcpu, local: &Local, result: Result<Outcome, Exception>) {
    f.follow(&v.mmu);
    match result {
        Ok(Outcome::At(at)) => f.lin = at,
        Ok(Outcome::Bounce) => f.lin = std::ptr::from_ref(&f.bounce.0).addr() as u64,
        Ok(Outcome::Interpret) => {
            f.lin = 0;
            f.exit = leave::INTERPRET;
        }
        Err(e) => {
            f.lin = 0;
            f.exit = leave::FAULT;
            to_instruction(f, v, &local.shared.lock(), f.ret);
            v.exception = Some(e);
        }
    }
}

extern "sysv64" fn commit(frame: *mut Frame) {
    let (f, v, _) = parts(frame);
    let mut bytes = [0; 64];
    for (bytes, word) in bytes.chunks_exact_mut(8).zip(f.bounce.0) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let size = (f.commit_size as usize).min(64);
    let written = v.write_bytes(f.commit_lin, &bytes[..size]);
    debug_assert!(written.is_ok(), "probed before");
    f.follow(&v.mmu);
}

/// An access that faulted, most likely through a window: on return `ret` is 0 where the interpreter is to do the instruction.
extern "sysv64" fn window(frame: *mut Frame) {
    let (f, v, local) = parts(frame);
    let fault = f.fault;
    if let Some(lin) = f.astray(&fault, f.fault_scratch[1])
        && let Some(cold) = local.shared.lock().cold_way(fault.pc)
    {
        // As where the check ends: RCX, which it may have used, in r11.
        f.fault_scratch = [v.st.gpr[x86::Gpr::Rcx as usize], lin];
        f.ret = cold;
        local.counts.astray += 1;
        return;
    }
    f.ret = fault.pc;
    let user = mode_of(f.running).cpl() == 3;
    let lin = fault
        .address
        .wrapping_sub(local.windows.address(user))
        .try_into();
    let mut core = local.shared.lock();
    let view = core.view(fault.pc).map(|(id, view)| (id, *view));
    drop(core);
    let Some((id, view)) = view else {
        panic!("translated code faulted, and not in guest memory: {fault:x?}");
    };
    // What reads, changes and writes is a write from the start, also where the host does it in pieces: a page that may not be
    // written is not to look accessed.
    let write = fault.is_write || view.side.kind.rmw;
    if let Ok(lin) = lin
        && fault.is_page
        && local.windows.again(fault.pc, lin)
        && let Ok(Place::Ram(_)) = v.mmu.place(LinAddr(lin.into()), 1, write)
        && local.windows.show(v, user, lin, write)
    {
        f.follow(&v.mmu);
        return;
    }
    f.follow(&v.mmu);
    let mut core = local.shared.lock();
    core.failed(fault.pc);
    if view.host_flags {
        v.flags = LazyFlags {
            kind: flag_kind(FlagOp::Image, Width::B64),
            c: 0,
            a: f.host_flags & x86::flags::STATUS,
            b: 0,
        };
    }
    to_side(f, v, &core, id, view.side);
    (f.exit, f.ret) = (leave::INTERPRET, 0);
}

extern "sysv64" fn image(frame: *mut Frame) {
    let (_, v, _) = parts(frame);
    v.flags = LazyFlags {
        kind: flag_kind(FlagOp::Image, Width::B64),
        c: 0,
        a: v.status(),
        b: 0,
    };
}

extern "sysv64" fn x87(frame: *mut Frame) {
    let (f, v, _) = parts(frame);
    registers::load(f, v);
}

extern "sysv64" fn slow(frame: *mut Frame) -> u32 {
    let (f, v, local) = parts(frame);
    local.counts.slow_runs += 1;
    let (end, count) = (local.end, local.count);
    let Some(slow) = local.slow(f.info) else {
        debug_assert!(false, "no slow op {:#x}", f.info);
        return 1;
    };
    let (lin, mode, insns) = (slow.ip, slow.mode, i64::from(slow.insns));
    v.st.rip = lin;
    if let Some(desc) = slow.flags {
        v.flags = desc.evaluate(v);
    }
    v.st.mxcsr = f.mxcsr;
    if slow.x87 {
        registers::store(f, v);
    }
    if count {
        let done = f.budget + insns - i64::from(slow.ord);
        v.retired = end.wrapping_sub(done.cast_unsigned());
    }
    const PLENTY: i64 = 1 << 40;
    v.budget = PLENTY;
    let Some((fragment, fragments)) = local.fragment(f.info) else {
        tracing::warn!("no handlers for the instruction at {lin:#x}: it is #UD");
        to_instruction(f, v, &local.shared.lock(), f.ret);
        v.exception = Some(Exception::UD);
        f.exit = leave::FAULT;
        return 1;
    };
    let left = fragments.run(v, fragment);
    let done = i64::from(slow.ord) + PLENTY - v.budget;
    let next = lin.wrapping_add(u64::from(slow.len));
    fetch_mxcsr(v);
    f.mxcsr = v.st.mxcsr;
    f.take_bases(v);
    f.follow(&v.mmu);
    f.event_mask = v.event_mask();
    let unmasked = unmasked(v);
    let closed = closed(f, v, local);
    f.exit = match left {
        Left::Done if v.mmu.code_hit == 0 && !closed && unmasked == mode & key::ANY_UNMASKED => {
            return 0;
        }
        Left::Done => {
            v.st.rip = if v.st.code64() {
                next
            } else {
                next & 0xffff_ffff
            };
            leave::NEXT
        }
        Left::Fault => leave::FAULT,
        Left::Next => leave::NEXT,
        Left::Again => leave::AGAIN,
    };
    if count {
        let done = if left == Left::Done { done + 1 } else { done };
        f.budget += insns - done;
    }
    u32::from(f.exit != leave::NEXT || !resume(f, v, local))
}

extern "sysv64" fn direct(frame: *mut Frame) -> u32 {
    let (f, v, local) = parts(frame);
    local.counts.slow_runs += 1;
    let (end, count) = (local.end, local.count);
    let Some(slow) = local.slow(f.info) else {
        debug_assert!(false, "no slow op {:#x}", f.info);
        return 1;
    };
    let (ord, flags) = (i64::from(slow.ord), slow.flags);
    let len = u64::from(slow.len);
    let Some(what) = slow.direct else {
        debug_assert!(false, "a direct op without its helper");
        return 1;
    };
    let insns = i64::from(slow.insns);
    let mask = if v.st.code64() { u64::MAX } else { 0xffff_ffff };
    v.ip = slow.ip & mask;
    v.next_ip = v.ip.wrapping_add(len) & mask;
    v.st.rip = v.ip;
    if let Some(desc) = flags {
        v.flags = desc.evaluate(v);
    }
    if count {
        let left = f.budget + insns - ord;
        v.retired = end.wrapping_sub(left.cast_unsigned());
    }
    let [a, b, c] = match what.args {
        Args::Constant(args) => args,
        Args::Frame => f.args,
    };
    let result = system::helper(what.helper)(v, a, b, c);
    f.take_bases(v);
    f.follow(&v.mmu);
    f.event_mask = v.event_mask();
    let mut done = ord + 1;
    f.exit = match (result, what.exit) {
        (Err(e), _) => {
            // A task switch that fails late has moved it.
            v.st.rip = v.ip;
            v.exception = Some(e);
            done = ord;
            leave::FAULT
        }
        (Ok(value), None) if matches!(what.args, Args::Frame) => {
            if what.helper == HelperId::LoadSeg {
                known::learn(f, v, a);
            }
            f.args[0] = value;
            f.look = u32::from(!goes_on(f, v, local));
            return 0;
        }
        (Ok(_), None) if v.mmu.code_hit == 0 && !closed(f, v, local) => return 0,
        (Ok(_), Some(Exit::Helper)) => leave::NEXT,
        (Ok(_), _) => {
            v.st.rip = v.next_ip;
            leave::NEXT
        }
    };
    if count {
        f.budget += insns - done;
    }
    u32::from(f.exit != leave::NEXT || !resume(f, v, local))
}

/// Whether the next instruction is one of the same mode that nothing holds up, events apart.
fn goes_on(f: &Frame, v: &mut Vcpu, local: &Local) -> bool {
    let mode = Mode::of(&v.st);
    let mode = mode.bits() | state_bits(v) | local.windows.bit(v, mode);
    v.mmu.code_hit == 0
        && mode == f.running & !(key::COUNT | key::SINGLE)
        && v.st.shadow == Shadow::None
        && v.st.activity == Activity::Active
        && !v.needs_step()
}

/// Whether the code that runs goes through a window that is not up to date any more.
fn closed(f: &Frame, v: &Vcpu, local: &Local) -> bool {
    f.running & key::WINDOW != 0 && local.windows.bit(v, mode_of(f.running)) == 0
}

/// Goes on at RIP without a way back to the run loop, where that would find nothing to do: the jump cache knows the code,
/// and the call returns to it.
fn resume(f: &mut Frame, v: &mut Vcpu, local: &mut Local) -> bool {
    let quiet = v.events.pending() & f.event_mask == 0
        && v.mmu.code_hit == 0
        && v.mmu.ram().code_epoch() == local.code_epoch;
    // Counted runs stop where the interpreter would.
    if !quiet || local.count || v.st.activity != Activity::Active {
        return false;
    }
    if v.st.shadow == Shadow::Sti {
        // Nothing waits that it would hold up.
        v.st.shadow = Shadow::None;
    }
    if v.needs_step() {
        return false;
    }
    let mode = Mode::of(&v.st);
    let (set, window) = (usize::from(mode.cpl() == 3), local.windows.bit(v, mode));
    let whole = mode.bits() | state_bits(v) | window;
    let tag = local.tag(f, code_segment(v, whole), whole);
    if tag == 0 && f.modes[set] != whole {
        return false;
    }
    let rip = tag | if tag == 0 { v.st.rip } else { linear_ip(v) };
    let Some(code) = f
        .jump(Frame::jump_set(mode), rip)
        .filter(|_| suitable(mode))
    else {
        return false;
    };
    if window != 0 {
        faults::set_gs(local.windows.address(set == 1));
    }
    local.counts.resumed += 1;
    f.running = whole;
    f.tag = tag;
    f.ret = code;
    true
}

/// What a block's mode holds of the state beside the frontend's bits: [`key::ANY_UNMASKED`] and [`key::LEGACY`].
pub fn state_bits(v: &Vcpu) -> u64 {
    let legacy = v.st.efer & x86::efer::LMA == 0;
    unmasked(v) | if legacy { key::LEGACY } else { 0 }
}

/// Which units the guest has unmasked a floating-point exception of: [`key::ANY_UNMASKED`].
pub fn unmasked(v: &Vcpu) -> u64 {
    const MASKS: u32 = 0x1f80;
    let mut bits = 0;
    if v.st.mxcsr & MASKS != MASKS {
        bits |= key::UNMASKED;
    }
    // While the host has the registers nothing is unmasked, neither there nor in the old ones here.
    if registers::unmasked(&v.st.fpu) {
        bits |= key::X87_UNMASKED;
    }
    bits
}

/// Where translated code finds what the guest's TSC follows from; 0: nowhere.
pub fn ticks(v: &Vcpu) -> u64 {
    let counted = v.tsc_base.is_some() || v.fixed_tsc.is_some();
    let ticks = v.platform.ticks().filter(|_| !counted);
    ticks.map_or(0, |t| std::ptr::from_ref(t).addr() as u64)
}
