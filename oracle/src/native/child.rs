//! The forked child: it lays each case out, lets the host CPU run the one instruction, and reports what it did.
//!
//! It allocates nothing: it may have been forked from a process with threads.
#![expect(unsafe_code, reason = "any instruction is run on any state")]
// UNSAFETY: running an unknown instruction is what this process is for. It is the harness's own, maps its memory at
// fixed addresses, and dies alone when an instruction destroys it.

use std::sync::atomic::Ordering;

use super::shared::{BATCH, Shared, Slot, wait, wake};
use super::stubs::{State, Stubs};
use super::{ALIAS0, COMPAT, LDT, Setup};
use crate::case::{CODE_BYTES, Case, Change, Ending, Fx, NO_FAULT, Outcome};
use crate::layout::{
    self, ALIASES, ARENA, CODE, CODE_LEN, EXIT_LEN, FILLER, STATE, STUBS, WRITABLE, way_back,
};

const SIGNALS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGBUS,
    libc::SIGTRAP,
];
const TF: u64 = 0x100;

/// Where the harness's state is in this process.
fn state() -> *mut State {
    STATE as usize as *mut State
}

/// Notes what the running instruction did, and goes on at the way back with all registers as they are.
extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // No thread-local storage here: FS may be the case's.
    // SAFETY: the kernel passes the interrupted context, which nobody else uses meanwhile.
    let gregs = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // SAFETY: mapped before handlers were installed; the interrupted code is behind its last use of it.
    let state = unsafe { &mut *state() };
    if state.running == 0 {
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(98) };
    }
    let flags = gregs[libc::REG_EFL as usize].cast_unsigned();
    let rip = gregs[libc::REG_RIP as usize].cast_unsigned();
    let vector = gregs[libc::REG_TRAPNO as usize] as u32;
    state.more_flags |= flags & TF;
    gregs[libc::REG_EFL as usize] = (flags & !TF).cast_signed();
    if vector == 1 && rip == layout::EXIT {
        // The instruction has set TF: the trap came behind the way back's jump.
        return;
    }
    state.running = 0;
    state.vector = vector;
    state.error = gregs[libc::REG_ERR as usize] as u32;
    state.cr2 = gregs[libc::REG_CR2 as usize].cast_unsigned();
    state.rip = rip;
    let selectors = gregs[libc::REG_CSGSFS as usize].cast_unsigned();
    state.seg[1] = selectors as u16;
    gregs[libc::REG_RIP as usize] = layout::EXIT.cast_signed();
    gregs[libc::REG_CSGSFS as usize] =
        (selectors & !0xffff | u64::from(layout::sel::CODE64)).cast_signed();
}

/// mmap at a fixed address where nothing is yet.
fn map_at(at: u64, len: usize, prot: i32, fd: i32, offset: usize) -> bool {
    let anonymous = if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE | anonymous;
    let address = at as usize as *mut libc::c_void;
    // SAFETY: MAP_FIXED_NOREPLACE touches no mapping that exists.
    let got = unsafe { libc::mmap(address, len, prot, flags, fd, offset as libc::off_t) };
    got == address
}

fn memfd(len: u64) -> i32 {
    // SAFETY: a C string that lives for ever.
    let fd = unsafe { libc::memfd_create(c"oracle".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: no memory is involved.
    if fd < 0 || unsafe { libc::ftruncate(fd, len as libc::off_t) } != 0 {
        -1
    } else {
        fd
    }
}

/// The child's view of the arena and the code, and what it knows of them.
struct Child<'a> {
    setup: &'a Setup,
    /// The arena as it is, writable throughout.
    arena: &'a mut [u64; ARENA / 8],
    /// The arena as it would be if the instruction wrote nothing.
    expected: [u64; ARENA / 8],
    code: &'a mut [u8; CODE_LEN as usize],
    /// What lies in the code region now: offset, bytes, width.
    laid: (u64, [u8; CODE_BYTES], u8, u8),
}

/// Maps everything at its place. `Err` is the step that failed.
fn prepare(shared: &Shared, setup: &Setup) -> Result<(), u32> {
    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
    let mut abilities = 0;
    let arena = memfd(ARENA as u64);
    let code = memfd(CODE_LEN);
    if arena < 0 || code < 0 {
        return Err(1);
    }
    for (n, base) in ALIASES.into_iter().enumerate() {
        let mapped = map_at(base, WRITABLE, RW, arena, 0)
            && map_at(
                base + WRITABLE as u64,
                ARENA - WRITABLE,
                libc::PROT_READ,
                arena,
                WRITABLE,
            );
        // Low addresses may be the administrator's to forbid (vm.mmap_min_addr).
        match (n, mapped) {
            (0, true) => abilities |= ALIAS0,
            (0, false) => {}
            (_, true) => {}
            (_, false) => return Err(2),
        }
    }
    if !map_at(super::ARENA_DOOR, ARENA, RW, arena, 0)
        || !map_at(super::CODE_DOOR, CODE_LEN as usize, RW, code, 0)
    {
        return Err(3);
    }
    if !CODE
        .into_iter()
        .all(|base| map_at(base, CODE_LEN as usize, RX, code, 0))
    {
        return Err(4);
    }
    if !map_at(STATE, 0x1000, RW, -1, 0) || !map_at(STUBS, 0x1000, RW, -1, 0) {
        return Err(5);
    }
    let stubs = STUBS as usize as *mut u8;
    // SAFETY: just mapped; the code is shorter than a page.
    unsafe { std::ptr::copy_nonoverlapping(setup.code.as_ptr(), stubs, setup.code.len()) };
    // SAFETY: the page just written.
    if unsafe { libc::mprotect(stubs.cast(), 0x1000, RX) } != 0 {
        return Err(6);
    }
    if lar(layout::sel::CODE32) {
        abilities |= COMPAT;
    }
    if layout::LDT
        .iter()
        .enumerate()
        .all(|(n, entry)| install(n, entry))
    {
        abilities |= LDT;
    }
    shared.abilities.store(abilities, Ordering::Release);
    Ok(())
}

/// Whether there is such a code segment for user mode.
fn lar(selector: u16) -> bool {
    let found: u8;
    // SAFETY: LAR and SETZ change a register and flags only.
    unsafe {
        std::arch::asm!("lar {t:e}, {s:e}", "setz {f}", t = out(reg) _, s = in(reg) u32::from(selector),
            f = out(reg_byte) found, options(nomem, nostack));
    }
    found != 0
}

fn install(n: usize, entry: &layout::LdtEntry) -> bool {
    /// struct user_desc of asm/ldt.h.
    #[repr(C)]
    struct UserDesc {
        number: u32,
        base: u32,
        limit: u32,
        bits: u32,
    }
    let bits = u32::from(entry.big)
        | entry.contents << 1
        | u32::from(entry.restricted) << 3
        | u32::from(entry.pages) << 4
        | u32::from(!entry.present) << 5;
    let desc = UserDesc {
        number: n as u32,
        base: entry.base,
        limit: entry.limit,
        bits,
    };
    let at = &raw const desc;
    // SAFETY: writes an entry of this process's LDT, which it uses for cases only.
    unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, at, size_of::<UserDesc>()) == 0 }
}

/// Makes sure that code written through another mapping is what will be fetched: IRET is the serialising instruction
/// that a hypervisor doesn't intercept (SDM vol. 3, 10.3 and 13.6).
fn serialise() {
    // SAFETY: returns to the next instruction with the same stack and flags.
    unsafe {
        std::arch::asm!(
            "mov {t:e}, ss",
            "mov {s}, rsp",
            "push {t}",
            "push {s}",
            "pushfq",
            "mov {t:e}, cs",
            "push {t}",
            "lea {t}, [rip + 2f]",
            "push {t}",
            "iretq",
            "2:",
            t = out(reg) _,
            s = out(reg) _,
        );
    }
}

/// Installs the handlers, on a stack of their own.
fn catch_signals(stack: &mut [u8]) -> bool {
    let alternate = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: stack.len(),
    };
    // SAFETY: the stack lives as long as the process.
    if unsafe { libc::sigaltstack(&raw const alternate, std::ptr::null_mut()) } != 0 {
        return false;
    }
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    SIGNALS.iter().all(|signal| {
        // SAFETY: the handler touches its context and the harness's state only.
        unsafe { libc::sigaction(*signal, &raw const action, std::ptr::null_mut()) == 0 }
    })
}

/// What the child does from its first moment to its end.
pub(super) fn main(shared: &mut Shared, setup: &Setup, stack: &mut [u8]) -> ! {
    // SAFETY: asks to die with the parent.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let prepared =
        prepare(shared, setup).and_then(|()| if catch_signals(stack) { Ok(()) } else { Err(7) });
    shared
        .failed
        .store(prepared.err().unwrap_or(0), Ordering::Release);
    shared
        .ready
        .store(if prepared.is_ok() { 1 } else { 2 }, Ordering::Release);
    wake(&shared.ready);
    if prepared.is_err() {
        // SAFETY: ends the process.
        unsafe { libc::_exit(97) };
    }
    let (own_fs_base, own_gs_base): (u64, u64);
    // SAFETY: the parent has seen that the kernel allows these instructions.
    unsafe {
        std::arch::asm!("rdfsbase {}", "rdgsbase {}", out(reg) own_fs_base, out(reg) own_gs_base,
            options(nomem, nostack));
    }
    // SAFETY: mapped by `prepare`, used by this process alone.
    let own = unsafe { &mut *state() };
    (own.own_fs_base, own.own_gs_base, own.own_mxcsr) = (own_fs_base, own_gs_base, 0x1f80);
    own.exit = layout::EXIT;
    // SAFETY: mapped by `prepare` with this length and more alignment; aliases are written by instructions only.
    let arena = unsafe { &mut *(super::ARENA_DOOR as usize as *mut [u64; ARENA / 8]) };
    // SAFETY: likewise.
    let code = unsafe { &mut *(super::CODE_DOOR as usize as *mut [u8; CODE_LEN as usize]) };
    code.fill(FILLER);
    for (word, bytes) in arena.iter_mut().zip(setup.template.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    let mut child = Child {
        setup,
        arena,
        expected: [0; ARENA / 8],
        code,
        laid: (0, [0; CODE_BYTES], 0, 0),
    };
    child.expected.copy_from_slice(child.arena);
    loop {
        let done = shared.done.load(Ordering::Acquire);
        if shared.request.load(Ordering::Acquire) == done {
            wait(&shared.request, done, 10_000);
            continue;
        }
        let slot = &mut shared.slots[done as usize % 2];
        let Slot {
            count,
            start,
            cases,
            outcomes,
            changes,
        } = slot;
        for n in *start as usize..(*count as usize).min(BATCH) {
            shared.current.store(n as u32, Ordering::Release);
            child.run(&cases[n], &mut outcomes[n], &mut changes[n]);
        }
        shared.done.store(done + 1, Ordering::Release);
        wake(&shared.done);
    }
}

impl Child<'_> {
    fn lay_code(&mut self, case: &Case) {
        let at = case.code_offset();
        let wanted = (at, case.code, case.len, case.bits);
        if wanted == self.laid {
            return;
        }
        let old = self.laid.0 as usize;
        let end = self.code.len();
        let room = old + CODE_BYTES + EXIT_LEN as usize;
        self.code[old.min(end)..room.min(end)].fill(FILLER);
        let (way_back, len) = way_back(case.bits);
        for (n, byte) in case.bytes().iter().chain(&way_back[..len]).enumerate() {
            if let Some(place) = self.code.get_mut(at as usize + n) {
                *place = *byte;
            }
        }
        self.laid = wanted;
        serialise();
    }

    fn lay_memory(&mut self, case: &Case) {
        for (at, bytes) in case.laid() {
            for (n, byte) in bytes.iter().enumerate() {
                let (word, shift) = ((at + n) / 8, (at + n) % 8 * 8);
                let value = self.arena[word] & !(0xff << shift) | u64::from(*byte) << shift;
                self.arena[word] = value;
                self.expected[word] = value;
            }
        }
    }

    /// The arena's template again, where the case or the instruction has changed it.
    fn undo(&mut self, case: &Case, changes: &[Change]) {
        let mut restore = |word: usize| {
            let bytes = &self.setup.template[word * 8..word * 8 + 8];
            let value = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            self.arena[word] = value;
            self.expected[word] = value;
        };
        for (at, bytes) in case.laid() {
            (at / 8..(at + bytes.len()).div_ceil(8)).for_each(&mut restore);
        }
        changes.iter().for_each(|c| restore(c.word as usize));
    }

    fn run(&mut self, case: &Case, out: &mut Outcome, changes: &mut [Change]) {
        self.lay_code(case);
        self.lay_memory(case);
        let loads = case.bits != 64 || case.seg != Case::new(64, &[]).seg;
        let stub = match (case.bits, loads) {
            (64, false) => self.setup.stubs.plain,
            (64, true) => self.setup.stubs.segments,
            _ => self.setup.stubs.far,
        };
        // SAFETY: as in `main`.
        let st = unsafe { &mut *state() };
        st.target = if case.bits == 64 {
            case.ip
        } else {
            case.ip & 0xffff_ffff | u64::from(case.seg[1]) << 32
        };
        (st.vector, st.error, st.cr2, st.more_flags) = (NO_FAULT, 0, 0, 0);
        st.rip = case.lin() + u64::from(case.len);
        st.seg[1] = case.seg[1];
        st.running = 1;
        // SAFETY: `Stubs::plain` and its sisters are functions of this type; what runs in between is the case's matter.
        let call =
            unsafe { std::mem::transmute::<usize, extern "sysv64" fn(*const Case)>(stub as usize) };
        call(case);
        // SAFETY: as above; the stub and the handler have written it.
        let st = unsafe { &mut *state() };
        st.running = 0;
        out.fx = st.fx;
        out.uppers = st.uppers;
        out.wide = st.wide;
        out.gpr = st.gpr;
        out.rflags = st.rflags | st.more_flags;
        (out.fs_base, out.gs_base) = (st.fs_base, st.gs_base);
        out.seg = st.seg;
        (out.vector, out.error, out.cr2) = (st.vector, st.error, st.cr2);
        out.ip = st.rip;
        if st.vector == NO_FAULT {
            out.ip = case.next_ip();
        }
        let mut count = 0;
        for (word, (is, was)) in self
            .arena
            .iter()
            .zip(&self.expected)
            .take(WRITABLE / 8)
            .enumerate()
        {
            if is != was {
                changes[count] = Change {
                    word: word as u64,
                    value: *is,
                };
                count += 1;
            }
        }
        out.changes = count as u32;
        out.ending = Ending::Done;
        self.undo(case, &changes[..count]);
    }
}

// The image of FXSAVE64 begins a case: the stubs rely on its alignment.
const _: () = assert!(
    std::mem::offset_of!(Case, fx) % 16 == 0 && align_of::<Fx>() == 16 && align_of::<Stubs>() <= 16
);
