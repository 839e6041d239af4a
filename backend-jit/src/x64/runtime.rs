//! The fixed stubs that translated code calls: entry and exit, TLB look-up, and the way to Rust code.

use std::mem::offset_of;

use frontend_x86::Features;
use iced_x86::Code;
use ir::Cond;
use ir::Width::{B8, B16, B32, B64};
use softmmu::{Mmu, TlbEntry};
use system::{FlagOp, LazyFlags, Vcpu, flag_kind, offset};
use translation::CodeMemory;
use x86::Gpr;

use super::asm::{
    Alu, Asm, Label, Mem, R11, R14, RAX, RCX, RDI, RDX, RSI, RSP, Rm, Section, Shift,
};
use super::frame::{Frame, PageCache, field, home, leave};
use super::known;
use super::split::{self, Ways};
use super::time;

/// Rust functions that stubs call.
pub struct Callouts {
    pub read: extern "sysv64" fn(*mut Frame),
    pub write: extern "sysv64" fn(*mut Frame),
    pub commit: extern "sysv64" fn(*mut Frame),
    /// An access through a window has faulted.
    pub window: extern "sysv64" fn(*mut Frame),
    /// Looks at one of many misses of page caches.
    pub hop: extern "sysv64" fn(*mut Frame),
    /// 0: go on.
    pub slow: extern "sysv64" fn(*mut Frame) -> u32,
    /// As `slow`, for a helper that has nothing to do with MXCSR or the x87.
    pub direct: extern "sysv64" fn(*mut Frame) -> u32,
    /// Brings `flags` into the form of an image of RFLAGS in its `a`.
    pub image: extern "sysv64" fn(*mut Frame),
    /// Prepares the x87 image to be loaded.
    pub x87: extern "sysv64" fn(*mut Frame),
}

/// The stubs' places in code memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stubs {
    /// `extern "sysv64" fn(frame, code)`.
    pub enter: u32,
    /// Leaves for each reason; r11d = info.
    pub link: u32,
    pub indirect: u32,
    pub stale: u32,
    pub poll: u32,
    pub page: u32,
    pub next: u32,
    /// r14 = linear address, r11d = [`packed`]; returns r14 = host address, r11 lost.
    pub read: u32,
    /// As `read`. When the access is to be made in the bounce buffer, returns 5 bytes behind.
    pub write: u32,
    /// As these, but nothing more is tried where the TLB does not know the range: then they return with CF set.
    pub group_read: u32,
    pub group_write: u32,
    /// As these, also for pages that are not to be cached.
    pub place_read: u32,
    pub place_write: u32,
    /// Writes the bounce buffer where it belongs; keeps flags and registers but r14.
    pub commit: u32,
    /// Gone on with where an access through a window has faulted: see `x64/faults.rs`.
    pub window: u32,
    /// Runs slow op r11d; loses r14, flags.
    pub slow: u32,
    /// As `slow`, by the helper itself.
    pub direct: u32,
    /// Brings the flags from memory into the host's; loses r11, r14.
    pub flags: u32,
    /// As `flags`, for those that are in memory as LAHF has them; loses r11 alone.
    pub lahf: u32,
    /// Called: leaves, for the instruction to be interpreted.
    pub interpret: u32,
    /// Brings the guest's x87 registers into the host's; loses r11, r14, the host's flags.
    pub x87: u32,
    /// Brings ZMM16-31 and the mask registers into the host's; loses r14.
    pub high: u32,
    /// Loads a segment register: see `known::stub`.
    pub load_seg: u32,
    /// RDTSC: see `time::stub`.
    pub ticks: u32,
    /// What the stubs keep of vector registers.
    pub vectors: Vectors,
}

impl Stubs {
    /// Each stub with its name.
    pub fn names(self) -> [(&'static str, u32); 24] {
        let Self {
            enter,
            link,
            indirect,
            stale,
            poll,
            page,
            next,
            read,
            write,
            group_read,
            group_write,
            place_read,
            place_write,
            commit,
            window,
            slow,
            direct,
            flags,
            lahf,
            interpret,
            x87,
            high,
            load_seg,
            ticks,
            vectors: _,
        } = self;
        [
            ("enter", enter),
            ("link", link),
            ("indirect", indirect),
            ("stale", stale),
            ("poll", poll),
            ("page", page),
            ("next", next),
            ("read", read),
            ("write", write),
            ("group_read", group_read),
            ("group_write", group_write),
            ("place_read", place_read),
            ("place_write", place_write),
            ("commit", commit),
            ("window", window),
            ("slow", slow),
            ("direct", direct),
            ("flags", flags),
            ("lahf", lahf),
            ("interpret", interpret),
            ("x87", x87),
            ("high", high),
            ("load_seg", load_seg),
            ("ticks", ticks),
        ]
    }
}

/// What `read` and `write` are told in r11d: offset of the page cache entry, size, alignment mask. `upper`: pages of the
/// lower half are not cached (supervisor code may use them while EFLAGS.AC is set only), outside long mode none are while it is
/// set.
pub fn packed(cache: usize, size: u32, align: u32, upper: bool) -> u32 {
    debug_assert!(cache < 1 << 16 && size < 256 && align <= 64);
    cache as u32 | size << 16 | (align.max(1) - 1) << 24 | u32::from(upper) << 31
}

/// The parts of [`packed`] that Rust code needs: size, alignment mask.
pub fn unpacked(packed: u32) -> (u64, u64) {
    (
        u64::from(packed >> 16 & 0xff),
        u64::from(packed >> 24 & 0x3f),
    )
}

const fn f(offset: usize) -> Mem {
    field(offset)
}

/// A frame field while `pushed` bytes lie above RSP.
pub(super) const fn under(pushed: i32, offset: usize) -> Mem {
    Mem::at(RSP, offset as i32 + pushed)
}

fn flag_words() -> [(usize, usize); 3] {
    let (from, to) = (offset_of!(Frame, flags), offset_of!(Vcpu, flags));
    [(from, to), (from + 8, to + 8), (from + 16, to + 16)]
}

const _: () = assert!(size_of::<LazyFlags>() == 24);

/// How the guest's vector registers lie in the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Vectors {
    /// Bytes of each that are there. 64: those of AVX-512, too, with ZMM16-31 and mask registers.
    bytes: u32,
    /// A VEX instruction clears what the guest's would.
    pub vex: bool,
}

impl Vectors {
    /// For a guest with these features. One without AVX-512 has nothing beyond YMM, which is zero in the context.
    pub fn of(features: &Features) -> Self {
        let has = |code| backend_interp::on_host(code);
        let guest = features.allow(Code::EVEX_Vmovups_zmm_k1z_zmmm512);
        let bytes = if guest && has(Code::EVEX_Vmovups_zmm_k1z_zmmm512) {
            64
        } else if has(Code::VEX_Vmovups_ymm_ymmm256) {
            32
        } else {
            16
        };
        Self {
            bytes,
            vex: !guest || bytes == 64,
        }
    }

    /// The guest's AVX-512 is the host's.
    pub fn avx512(self) -> bool {
        self.bytes == 64
    }
}

/// Guest registers into the context. r14, r11 lost.
fn save_all(a: &mut Asm, vectors: Vectors) {
    a.load(B64, R14, Rm::M(f(offset_of!(Frame, vcpu))));
    for g in Gpr::ALL {
        let to = Mem::at(R14, offset::gpr(g) as i32);
        match home(g) {
            Rm::R(r) => a.store(B64, to, r),
            from @ Rm::M(_) => {
                a.load(B64, R11, from);
                a.store(B64, to, R11);
            }
        }
    }
    for (from, to) in flag_words() {
        a.load(B64, R11, Rm::M(f(from)));
        a.store(B64, Mem::at(R14, to as i32), R11);
    }
    for n in 0..16 {
        let to = Mem::at(R14, offset::vec(n) as i32);
        match vectors.bytes {
            64 => a.evex_movups(true, n as u8, to),
            32 => a.vmovups(true, true, n as u8, to),
            _ => a.movups_store(to, n as u8),
        }
    }
    if vectors.avx512() {
        if_high_live(a, |a| high(a, true));
    }
    if vectors.bytes > 16 {
        // Code compiled for older hosts is slow with the upper halves in use.
        a.vzeroupper();
    }
}

/// ZMM16-31 and the mask registers into the context that r14 points to, or from there.
fn high(a: &mut Asm, store: bool) {
    for n in 16..32 {
        a.evex_movups(store, n as u8, Mem::at(R14, offset::vec(n) as i32));
    }
    for k in 0..8 {
        a.kmov(store, k, Mem::at(R14, offset::mask(k.into()) as i32));
    }
}

/// Emits what is to happen while they are in the host's registers. Flags lost.
fn if_high_live(a: &mut Asm, f: impl FnOnce(&mut Asm)) {
    let none = a.label();
    a.alu_imm(Alu::Cmp, B32, Rm::M(f_high_live()), 0);
    a.jcc(Cond::E, none);
    f(a);
    a.bind(none);
}

const fn f_high_live() -> Mem {
    f(offset_of!(Frame, high_live))
}

/// From here on they are in the context.
fn high_is_saved(a: &mut Asm, vectors: Vectors) {
    if vectors.avx512() {
        a.store_imm(B32, Rm::M(f_high_live()), 0);
    }
}

/// The vector registers. Where all upper halves are zero they are loaded by instructions that say so: a register whose
/// upper half the host thinks to be in use makes each SSE instruction that writes it wait for its old value.
fn load_vectors(a: &mut Asm, vectors: Vectors) {
    let at = |n: usize, upper: i32| Mem::at(R14, offset::vec(n) as i32 + upper);
    match vectors.bytes {
        64 => return load_widest(a),
        32 => {}
        _ => {
            for n in 0..16 {
                a.movups_load(n as u8, at(n, 0));
            }
            return;
        }
    }
    // Two chains, for latency's sake.
    for n in 0..16 {
        if n < 2 {
            a.vmovups(false, false, n as u8, at(n, 16));
        } else {
            a.vpor(n as u8 & 1, Rm::M(at(n, 16)));
        }
    }
    let (narrow, done) = (a.label(), a.label());
    a.vpor(0, Rm::R(1));
    a.vptest(0);
    a.jcc(Cond::E, narrow);
    for n in 0..16 {
        a.vmovups(false, true, n as u8, at(n, 0));
    }
    a.jmp(done);
    a.bind(narrow);
    for n in 0..16 {
        a.vmovups(false, false, n as u8, at(n, 0));
    }
    a.bind(done);
}

/// The same of 64 bytes: what has been in use most widely says how.
fn load_widest(a: &mut Asm) {
    let at = |n: usize| Mem::at(R14, offset::vec(n) as i32);
    let (xmm, ymm, done) = (a.label(), a.label(), a.label());
    a.evex_movups(false, 0, at(0));
    a.evex_movups(false, 1, at(1));
    for n in 2..16 {
        a.evex_por(n as u8 & 1, at(n));
    }
    // VPORQ zmm0, zmm0, zmm1; VEXTRACTI64X4 ymm1, zmm0, 1; VPTEST ymm1, ymm1.
    a.raw(&[0x62, 0xf1, 0xfd, 0x48, 0xeb, 0xc1]);
    a.raw(&[0x62, 0xf3, 0xfd, 0x48, 0x3b, 0xc1, 1]);
    a.raw(&[0xc4, 0xe2, 0x7d, 0x17, 0xc9]);
    a.jcc(Cond::E, ymm);
    for n in 0..16 {
        a.evex_movups(false, n as u8, at(n));
    }
    a.jmp(done);
    a.bind(ymm);
    // VEXTRACTI128 xmm1, ymm0, 1.
    a.raw(&[0xc4, 0xe3, 0x7d, 0x39, 0xc1, 1]);
    a.vptest(1);
    a.vzeroupper();
    a.jcc(Cond::E, xmm);
    for n in 0..16 {
        a.vmovups(false, true, n as u8, at(n));
    }
    a.jmp(done);
    a.bind(xmm);
    for n in 0..16 {
        a.vmovups(false, false, n as u8, at(n));
    }
    a.bind(done);
}

/// Guest registers out of the context, but for those that are there only while somebody uses them.
fn load_all(a: &mut Asm, vectors: Vectors) {
    a.load(B64, R14, Rm::M(f(offset_of!(Frame, vcpu))));
    load_vectors(a, vectors);
    for (to, from) in flag_words() {
        a.load(B64, R11, Rm::M(Mem::at(R14, from as i32)));
        a.store(B64, f(to), R11);
    }
    for g in Gpr::ALL {
        let from = Rm::M(Mem::at(R14, offset::gpr(g) as i32));
        match home(g) {
            Rm::R(r) => a.load(B64, r, from),
            Rm::M(to) => {
                a.load(B64, R11, from);
                a.store(B64, to, R11);
            }
        }
    }
}

/// As they were before [`save_all`]: within an instruction.
fn reload_all(a: &mut Asm, vectors: Vectors) {
    load_all(a, vectors);
    if vectors.avx512() {
        if_high_live(a, |a| high(a, false));
    }
}

fn mxcsr(a: &mut Asm, store: bool, offset: usize) {
    a.mxcsr(store, f(offset));
}

fn call_rust(a: &mut Asm, function: u64) {
    a.load(B64, RDI, Rm::R(RSP));
    a.mov_imm(RAX, function);
    a.call_rm(Rm::R(RAX));
}

/// Takes the return address off the stack into the frame. r11 lost.
fn take_return(a: &mut Asm) {
    a.pop(R11);
    a.store(B64, f(offset_of!(Frame, ret)), R11);
}

/// Builds the stubs at the start of code memory.
pub fn build(memory: &mut CodeMemory, callouts: &Callouts, vectors: Vectors) -> Option<Stubs> {
    let mut a = Asm::default();
    a.section(Section::Hot);
    let mut labels = Vec::new();
    let saved = a.label();

    // Entry.
    let enter = bound(&mut a);
    for r in [3, 5, 12, 13, 14, 15] {
        a.push(r);
    }
    a.store(B64, Mem::at(RDI, offset_of!(Frame, host_rsp) as i32), RSP);
    a.store(B64, Mem::at(RDI, offset_of!(Frame, ret) as i32), RSI);
    a.load(B64, RSP, Rm::R(RDI));
    high_is_saved(&mut a, vectors);
    load_all(&mut a, vectors);
    mxcsr(&mut a, false, offset_of!(Frame, mxcsr));
    a.jmp_rm(Rm::M(f(offset_of!(Frame, ret))));

    // Exits.
    let all = a.label();
    for code in [
        leave::LINK,
        leave::INDIRECT,
        leave::STALE,
        leave::POLL,
        leave::PAGE,
        leave::NEXT,
    ] {
        labels.push(bound(&mut a));
        a.store_imm(B32, Rm::M(f(offset_of!(Frame, exit))), code.cast_signed());
        a.jmp(all);
    }
    a.bind(all);
    a.store(B32, f(offset_of!(Frame, info)), R11);
    save_all(&mut a, vectors);
    mxcsr(&mut a, true, offset_of!(Frame, mxcsr));
    a.bind(saved);
    mxcsr(&mut a, false, offset_of!(Frame, host_default_mxcsr));
    a.load(B64, RSP, Rm::M(f(offset_of!(Frame, host_rsp))));
    for r in [15, 14, 13, 12, 5, 3] {
        a.pop(r);
    }
    a.ret();

    let hop = callouts.hop as usize as u64;
    let ask = |function: extern "sysv64" fn(*mut Frame)| Unknown::Ask(function as usize as u64);
    let read = lookup(&mut a, false, ask(callouts.read), hop, saved, vectors);
    let write = lookup(&mut a, true, ask(callouts.write), hop, saved, vectors);
    let group_read = lookup(&mut a, false, Unknown::NotCached, hop, saved, vectors);
    let group_write = lookup(&mut a, true, Unknown::NotCached, hop, saved, vectors);
    let place_read = lookup(&mut a, false, Unknown::Carry, hop, saved, vectors);
    let place_write = lookup(&mut a, true, Unknown::Carry, hop, saved, vectors);

    // The store in the bounce buffer. Flags and r11 stay.
    let commit = bound(&mut a);
    let rust = a.label();
    split::scatter(&mut a, rust);
    a.bind(rust);
    a.store(B64, under(8, offset_of!(Frame, lin)), R11);
    a.byte(0x9c); // PUSHFQ
    a.pop_mem(under(8, offset_of!(Frame, host_flags)));
    take_return(&mut a);
    save_all(&mut a, vectors);
    mxcsr(&mut a, true, offset_of!(Frame, mxcsr));
    mxcsr(&mut a, false, offset_of!(Frame, host_default_mxcsr));
    call_rust(&mut a, callouts.commit as usize as u64);
    mxcsr(&mut a, false, offset_of!(Frame, mxcsr));
    reload_all(&mut a, vectors);
    a.push_mem(f(offset_of!(Frame, host_flags)));
    a.byte(0x9d); // POPFQ
    a.load(B64, R11, Rm::M(f(offset_of!(Frame, lin))));
    a.jmp_rm(Rm::M(f(offset_of!(Frame, ret))));

    // An access through a window. Everything stays.
    let window = bound(&mut a);
    a.store(B64, f(offset_of!(Frame, fault_scratch)), R11);
    a.store(B64, f(offset_of!(Frame, fault_scratch) + 8), R14);
    a.byte(0x9c); // PUSHFQ
    a.pop_mem(f(offset_of!(Frame, host_flags)));
    save_all(&mut a, vectors);
    mxcsr(&mut a, true, offset_of!(Frame, mxcsr));
    mxcsr(&mut a, false, offset_of!(Frame, host_default_mxcsr));
    call_rust(&mut a, callouts.window as usize as u64);
    a.alu_imm(Alu::Cmp, B64, Rm::M(f(offset_of!(Frame, ret))), 0);
    a.jcc(Cond::E, saved);
    mxcsr(&mut a, false, offset_of!(Frame, mxcsr));
    reload_all(&mut a, vectors);
    a.push_mem(f(offset_of!(Frame, host_flags)));
    a.byte(0x9d); // POPFQ
    a.load(B64, R11, Rm::M(f(offset_of!(Frame, fault_scratch))));
    a.load(B64, R14, Rm::M(f(offset_of!(Frame, fault_scratch) + 8)));
    a.jmp_rm(Rm::M(f(offset_of!(Frame, ret))));

    // Slow ops.
    let slow = bound(&mut a);
    a.store(B32, under(8, offset_of!(Frame, info)), R11);
    take_return(&mut a);
    save_all(&mut a, vectors);
    high_is_saved(&mut a, vectors);
    mxcsr(&mut a, true, offset_of!(Frame, mxcsr));
    mxcsr(&mut a, false, offset_of!(Frame, host_default_mxcsr));
    call_rust(&mut a, callouts.slow as usize as u64);
    a.test(B32, Rm::R(RAX), RAX);
    a.jcc(Cond::Ne, saved);
    load_all(&mut a, vectors);
    mxcsr(&mut a, false, offset_of!(Frame, mxcsr));
    a.jmp_rm(Rm::M(f(offset_of!(Frame, ret))));

    let direct = bound(&mut a);
    a.store(B32, under(8, offset_of!(Frame, info)), R11);
    take_return(&mut a);
    save_all(&mut a, vectors);
    high_is_saved(&mut a, vectors);
    call_rust(&mut a, callouts.direct as usize as u64);
    let out = a.label();
    a.test(B32, Rm::R(RAX), RAX);
    a.jcc(Cond::Ne, out);
    load_all(&mut a, vectors);
    a.jmp_rm(Rm::M(f(offset_of!(Frame, ret))));
    a.bind(out);
    mxcsr(&mut a, true, offset_of!(Frame, mxcsr));
    a.jmp(saved);

    // The instruction at the call is to be interpreted.
    let interpret = bound(&mut a);
    take_return(&mut a);
    a.store_imm(
        B32,
        Rm::M(f(offset_of!(Frame, exit))),
        leave::INTERPRET.cast_signed(),
    );
    a.jmp(all);

    // The x87.
    let x87 = bound(&mut a);
    take_return(&mut a);
    save_all(&mut a, vectors);
    call_rust(&mut a, callouts.x87 as usize as u64);
    reload_all(&mut a, vectors);
    // FRSTOR [rsp + disp32].
    a.raw(&[0xdd, 0xa4, 0x24]);
    a.raw(&(offset_of!(Frame, x87_image) as i32).to_le_bytes());
    a.jmp_rm(Rm::M(f(offset_of!(Frame, ret))));

    // What AVX-512 has beyond ZMM0-15.
    let high_ = bound(&mut a);
    if vectors.avx512() {
        a.load(B64, R14, Rm::M(under(8, offset_of!(Frame, vcpu))));
        high(&mut a, false);
        a.store_imm(B32, Rm::M(under(8, offset_of!(Frame, high_live))), 1);
    }
    a.ret();

    let load_seg = bound(&mut a);
    known::stub(&mut a);

    let ticks = bound(&mut a);
    time::stub(&mut a);

    let flags = load_flags(&mut a, callouts.image as usize as u64, vectors);
    let lahf = bound(&mut a);
    let image = under(8, offset_of!(Frame, flags) + offset_of!(LazyFlags, a));
    flags_from(&mut a, image, LAHF_OF);

    let len = a.len(Section::Hot);
    let (hot, cold) = memory.alloc(len, 0, 16)?;
    let (bytes, _) = a.link(hot, cold);
    memory.write(hot, bytes);
    let at = |label: Label| a.resolve(label, hot, cold);
    let stubs = Stubs {
        enter: at(enter),
        link: at(labels[0]),
        indirect: at(labels[1]),
        stale: at(labels[2]),
        poll: at(labels[3]),
        page: at(labels[4]),
        next: at(labels[5]),
        read: at(read),
        write: at(write),
        group_read: at(group_read),
        group_write: at(group_write),
        place_read: at(place_read),
        place_write: at(place_write),
        commit: at(commit),
        window: at(window),
        slow: at(slow),
        direct: at(direct),
        flags: at(flags),
        lahf: at(lahf),
        interpret: at(interpret),
        x87: at(x87),
        high: at(high_),
        load_seg: at(load_seg),
        ticks: at(ticks),
        vectors,
    };
    memory.keep();
    Some(stubs)
}

fn bound(a: &mut Asm) -> Label {
    while !a.here().is_multiple_of(16) {
        a.byte(0xcc);
    }
    let label = a.label();
    a.bind(label);
    label
}

/// Offset of the TLB entry of the address in r14 from the table's start, into `to`: see `softmmu::tlb_index`.
pub fn tlb_entry(a: &mut Asm, to: super::asm::Reg) {
    a.rorx(B64, to, Rm::R(R14), 9);
    a.alu(Alu::Xor, B64, to, Rm::R(R14));
    a.shift_imm(Shift::Shr, B64, Rm::R(to), 12 - softmmu::ENTRY_SHIFT as u8);
    let mask = (softmmu::ENTRIES as i32 - 1) << softmmu::ENTRY_SHIFT;
    a.alu_imm(Alu::And, B32, Rm::R(to), mask);
}

/// The TLB entry of the address in r14, of the table for its half, into `to`; so many bytes are on the stack. RAX is lost.
pub(super) fn data_entry(a: &mut Asm, pushed: i32, to: super::asm::Reg) {
    a.load(B64, to, Rm::M(under(pushed, offset_of!(Frame, vcpu))));
    a.load(B64, RAX, Rm::R(R14));
    a.shift_imm(Shift::Shr, B64, Rm::R(RAX), 63);
    let table = Mem {
        base: to,
        index: Some((RAX, 3)),
        disp: (offset_of!(Vcpu, mmu) + Mmu::OFFSET_DATA) as i32,
        gs: false,
    };
    a.load(B64, to, Rm::M(table));
    tlb_entry(a, RAX);
    a.alu(Alu::Add, B64, to, Rm::R(RAX));
}

/// What a look-up does where the TLB does not know the range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// Calls a Rust function.
    Ask(u64),
    /// Returns with CF set.
    Carry,
    /// As `Carry`, also for pages that are not to be cached.
    NotCached,
}

/// The TLB behind the page caches, and the page walk behind that.
fn lookup(
    a: &mut Asm,
    write: bool,
    unknown: Unknown,
    hop: u64,
    saved: Label,
    vectors: Vectors,
) -> Label {
    let entry = bound(a);
    let (slow, fail, beside, sample) = (a.label(), a.label(), a.label(), a.label());
    for r in [RAX, RCX, RDX] {
        a.push(r);
    }
    let tag = TlbEntry::offset_tag(write);
    // Alignment.
    a.load(B32, RCX, Rm::R(R11));
    a.shift_imm(Shift::Shr, B32, Rm::R(RCX), 24);
    a.alu_imm(Alu::And, B32, Rm::R(RCX), 0x3f);
    a.test(B32, Rm::R(R14), RCX);
    a.jcc(Cond::Ne, slow);
    data_entry(a, 32, RCX);
    // The distance from its page: that of the access's end tells whether all of it is there.
    a.load(B64, RAX, Rm::R(R14));
    a.alu(Alu::Sub, B64, RAX, Rm::M(Mem::at(RCX, tag as i32)));
    a.load(B32, RDX, Rm::R(R11));
    a.shift_imm(Shift::Shr, B32, Rm::R(RDX), 16);
    a.movzx(B8, RDX, Rm::R(RDX));
    a.alu(Alu::Add, B64, RDX, Rm::R(RAX));
    a.alu_imm(Alu::Cmp, B64, Rm::R(RDX), 0x1000);
    let in_place = write && matches!(unknown, Unknown::Ask(_));
    let (fill, found, two) = (a.label(), a.label(), a.label());
    a.jcc(Cond::A, if unknown == Unknown::Carry { slow } else { two });
    if unknown != Unknown::Carry {
        a.alu_imm(Alu::Sub, B32, Rm::M(under(32, offset_of!(Frame, hops))), 1);
        a.jcc(Cond::S, sample);
    }
    a.bind(fill);
    a.load(B64, RAX, Rm::M(Mem::at(RCX, tag as i32)));
    a.load(
        B64,
        RDX,
        Rm::M(Mem::at(RCX, TlbEntry::OFFSET_ADDEND as i32)),
    );
    // Into the page cache, if it may.
    a.load(B32, RCX, Rm::R(R11));
    a.shift_imm(Shift::Shl, B64, Rm::R(RCX), 32);
    // Bit 63: upper half only, and this is the lower; or not now.
    a.alu_imm(Alu::Xor, B64, Rm::R(RCX), -1);
    a.alu(Alu::Or, B64, RCX, Rm::R(R14));
    a.alu(
        Alu::Or,
        B64,
        RCX,
        Rm::M(under(32, offset_of!(Frame, keeps_pages))),
    );
    // A group must be in the page cache.
    let group = unknown == Unknown::NotCached;
    let place = a.label();
    a.jcc(Cond::Ns, if group { slow } else { place });
    a.movzx(B16, RCX, Rm::R(R11));
    let (minus, addend) = PageCache::fields(write);
    a.group3(B64, 3, Rm::R(RAX)); // NEG
    for (offset, reg) in [(minus, RAX), (addend, RDX)] {
        a.store(
            B64,
            Mem {
                base: RSP,
                index: Some((RCX, 0)),
                disp: 32 + offset as i32,
                gs: false,
            },
            reg,
        );
    }
    a.bind(place);
    a.alu(Alu::Add, B64, R14, Rm::R(RDX));
    a.bind(found);
    for r in [RDX, RCX, RAX] {
        a.pop(r);
    }
    let callout = match unknown {
        Unknown::Ask(function) => Some(function),
        Unknown::Carry | Unknown::NotCached => None,
    };
    if callout.is_none() {
        a.byte(0xf8); // CLC
    }
    a.ret();
    // Not within a page that is known, without flags.
    a.bind(two);
    a.alu_imm(Alu::Cmp, B64, Rm::R(RAX), 0xfff);
    a.jcc(Cond::A, if in_place { beside } else { slow });
    let fill = group.then_some(fill);
    split::look(a, write, &Ways { found, fill, slow });
    if in_place {
        a.bind(beside);
        beside_code(a, slow);
    }

    // One of many: who is it?
    a.bind(sample);
    for r in [RDX, RCX, RAX] {
        a.pop(r);
    }
    a.store(B64, under(8, offset_of!(Frame, lin)), R14);
    a.store(B32, under(8, offset_of!(Frame, packed)), R11);
    take_return(a);
    save_all(a, vectors);
    call_rust(a, hop);
    reload_all(a, vectors);
    a.load(B64, R14, Rm::M(f(offset_of!(Frame, lin))));
    a.load(B32, R11, Rm::M(f(offset_of!(Frame, packed))));
    a.push_mem(f(offset_of!(Frame, ret)));
    a.jmp(entry);

    a.bind(slow);
    for r in [RDX, RCX, RAX] {
        a.pop(r);
    }
    let Some(callout) = callout else {
        a.byte(0xf9); // STC
        a.ret();
        return entry;
    };
    a.store(B64, under(8, offset_of!(Frame, lin)), R14);
    a.store(B32, under(8, offset_of!(Frame, packed)), R11);
    take_return(a);
    save_all(a, vectors);
    // Devices may compute with floating point.
    mxcsr(a, true, offset_of!(Frame, mxcsr));
    mxcsr(a, false, offset_of!(Frame, host_default_mxcsr));
    call_rust(a, callout);
    a.alu_imm(Alu::Cmp, B64, Rm::M(f(offset_of!(Frame, lin))), 0);
    a.jcc(Cond::E, fail);
    mxcsr(a, false, offset_of!(Frame, mxcsr));
    reload_all(a, vectors);
    a.load(B64, R14, Rm::M(f(offset_of!(Frame, lin))));
    a.jmp_rm(Rm::M(f(offset_of!(Frame, ret))));
    a.bind(fail);
    a.jmp(saved);
    entry
}

/// A store to a page that holds code: rcx is the TLB entry. Goes on at the place in RAM if there is
/// no code in the lines written.
fn beside_code(a: &mut Asm, slow: Label) {
    a.load(B64, RAX, Rm::R(R14));
    a.alu_imm(Alu::And, B64, Rm::R(RAX), -4096);
    let tracked = softmmu::tag::TRACKED as i32;
    a.alu_imm(Alu::Or, B64, Rm::R(RAX), tracked);
    // Complements the bit.
    a.bit_imm(B64, 7, Rm::R(RAX), softmmu::tag::ODD_BIT as u8);
    let tag = Mem::at(RCX, TlbEntry::OFFSET_WRITE_TAG as i32);
    a.alu(Alu::Cmp, B64, RAX, Rm::M(tag));
    a.jcc(Cond::Ne, slow);
    a.load(B32, RAX, Rm::R(R11));
    a.shift_imm(Shift::Shr, B32, Rm::R(RAX), 16);
    a.movzx(B8, RAX, Rm::R(RAX));
    a.load(B32, RDX, Rm::R(R14));
    a.alu_imm(Alu::And, B32, Rm::R(RDX), 0xfff);
    a.alu(Alu::Add, B32, RAX, Rm::R(RDX));
    a.alu_imm(Alu::Cmp, B32, Rm::R(RAX), 0x1000);
    a.jcc(Cond::A, slow);
    let addend = Mem::at(RCX, TlbEntry::OFFSET_ADDEND as i32);
    a.load(B64, RDX, Rm::M(addend));
    a.alu(Alu::Add, B64, RDX, Rm::R(R14));
    // The page's lines.
    a.load(B64, RAX, Rm::R(RDX));
    a.alu(Alu::Sub, B64, RAX, Rm::M(under(32, offset_of!(Frame, ram))));
    let (shr, shl) = (Shift::Shr, Shift::Shl);
    a.shift_imm(shr, B64, Rm::R(RAX), x86::PAGE_SIZE.trailing_zeros() as u8);
    a.shift_imm(shl, B64, Rm::R(RAX), softmmu::LINES_SHIFT as u8);
    a.alu(
        Alu::Add,
        B64,
        RAX,
        Rm::M(under(32, offset_of!(Frame, lines))),
    );
    a.load(B64, RAX, Rm::M(Mem::at(RAX, 0)));
    // That of the first byte, that of the last: there are no others, an access is no longer than a line.
    let line = softmmu::LINE_SIZE.trailing_zeros() as u8;
    a.load(B64, RCX, Rm::R(R14));
    a.shift_imm(shr, B64, Rm::R(RCX), line);
    a.bit_reg(B64, 4, Rm::R(RAX), RCX);
    a.jcc(Cond::B, slow);
    a.load(B32, RCX, Rm::R(R11));
    a.shift_imm(shr, B32, Rm::R(RCX), 16);
    a.movzx(B8, RCX, Rm::R(RCX));
    a.lea(
        B64,
        RCX,
        Mem {
            base: RCX,
            index: Some((R14, 0)),
            disp: -1,
            gs: false,
        },
    );
    a.shift_imm(shr, B64, Rm::R(RCX), line);
    a.bit_reg(B64, 4, Rm::R(RAX), RCX);
    a.jcc(Cond::B, slow);
    a.load(B64, R14, Rm::R(RDX));
    for r in [RDX, RCX, RAX] {
        a.pop(r);
    }
    a.ret();
}

/// Flags in the context's form to host flags: the common kinds by the operation itself, the rest by Rust code.
fn load_flags(a: &mut Asm, image: u64, vectors: Vectors) -> Label {
    let entry = bound(a);
    let flags = offset_of!(Frame, flags) + 8;
    let (kind, va, vb) = (
        Mem::at(RSP, flags as i32),
        Mem::at(RSP, (flags + offset_of!(LazyFlags, a)) as i32),
        Mem::at(RSP, (flags + offset_of!(LazyFlags, b)) as i32),
    );
    let lahf = flag_kind(FlagOp::Lahf, B64).cast_signed();
    let other = a.label();
    a.alu_imm(Alu::Cmp, B32, Rm::M(kind), lahf);
    a.jcc(Cond::Ne, other);
    flags_from(a, va, LAHF_OF);
    a.bind(other);
    for op in [FlagOp::Sub, FlagOp::Logic, FlagOp::Add] {
        for w in [B64, B32, B8, B16] {
            let next = a.label();
            a.alu_imm(Alu::Cmp, B32, Rm::M(kind), flag_kind(op, w).cast_signed());
            a.jcc(Cond::Ne, next);
            a.load(B64, R14, Rm::M(va));
            match op {
                FlagOp::Sub => a.alu(Alu::Cmp, w, R14, Rm::M(vb)),
                FlagOp::Add => a.alu(Alu::Add, w, R14, Rm::M(vb)),
                _ => a.test(w, Rm::R(R14), R14),
            }
            a.ret();
            a.bind(next);
        }
    }
    for op in [FlagOp::Dec, FlagOp::Inc] {
        for w in [B64, B32] {
            let next = a.label();
            a.alu_imm(Alu::Cmp, B32, Rm::M(kind), flag_kind(op, w).cast_signed());
            a.jcc(Cond::Ne, next);
            // From the value before; the carry first, which they keep.
            let dec = op == FlagOp::Dec;
            a.load(B64, R14, Rm::M(va));
            a.lea(B64, R14, Mem::at(R14, if dec { 1 } else { -1 }));
            let carry = Mem::at(RSP, (flags + offset_of!(LazyFlags, c)) as i32);
            a.bit_imm(B32, 4, Rm::M(carry), 0);
            a.incdec(w, Rm::R(R14), dec);
            a.ret();
            a.bind(next);
        }
    }
    for (op, shift) in [
        (FlagOp::Shl, Shift::Shl),
        (FlagOp::Shr, Shift::Shr),
        (FlagOp::Sar, Shift::Sar),
    ] {
        for w in [B64, B32] {
            let next = a.label();
            a.alu_imm(Alu::Cmp, B32, Rm::M(kind), flag_kind(op, w).cast_signed());
            a.jcc(Cond::Ne, next);
            a.load(B64, R14, Rm::M(va));
            a.load(B64, R11, Rm::R(RCX));
            a.load(B64, RCX, Rm::M(vb));
            a.shift_cl(shift, w, Rm::R(R14));
            a.load(B64, RCX, Rm::R(R11));
            a.ret();
            a.bind(next);
        }
    }
    let image_kind = flag_kind(FlagOp::Image, B64).cast_signed();
    let ready = a.label();
    a.alu_imm(Alu::Cmp, B32, Rm::M(kind), image_kind);
    a.jcc(Cond::E, ready);
    take_return(a);
    save_all(a, vectors);
    call_rust(a, image);
    reload_all(a, vectors);
    a.push_mem(f(offset_of!(Frame, ret)));
    a.bind(ready);
    flags_from(a, va, x86::flags::OF.trailing_zeros() as u8);
    entry
}

/// The bit of OF behind an image of LAHF: see [`FlagOp::Lahf`].
const LAHF_OF: u8 = 24;

/// The host's flags from the low byte of what is at a place, and from its bit for OF; returns.
fn flags_from(a: &mut Asm, at: Mem, overflow: u8) {
    // POPFQ would take several times as long.
    a.load(B64, R11, Rm::R(RAX));
    a.load(B32, RAX, Rm::M(at));
    a.bit_imm(B32, 4, Rm::R(RAX), overflow); // BT
    a.raw(&[0x88, 0xc4]); // MOV AH, AL
    a.setcc(Cond::B, Rm::R(RAX));
    a.alu_imm(Alu::Add, B8, Rm::R(RAX), 0x7f); // OF
    a.byte(0x9e); // SAHF
    a.load(B64, RAX, Rm::R(R11));
    a.ret();
}
