//! What translated code reaches through its one reserved register: RSP points to a [`Frame`], the stack for calls of Rust
//! code lies below it.
//!
//! ```text
//! guest   rax rcx rdx rbx rbp rsi rdi r8 r9 r10 r12 r13   the same host register
//!         rsp                                            r15
//!         r11 r14 r15                                    Frame::home
//!         xmm0-15, ymm, zmm                              the same host register
//!         zmm16-31 k0-7                                  the same while Frame::high_live
//! scratch r14 (addresses), r11
//! ```
#![expect(unsafe_code, reason = "the stack and the frame are one mapping")]
// UNSAFETY: the frame must lie just above a stack of its own, which only mmap gives.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem::{offset_of, size_of};

use softmmu::Mmu;
use system::{LazyFlags, Vcpu};
use x86::{Gpr, Seg};

use super::asm::{Mem, R11, R14, R15, RSP, Reg, Rm};
use super::emit::segmented;
use super::known::{KNOWN, Known};
pub use super::large::Large;
use super::split::Split;

/// Scratch: addresses.
pub const S0: Reg = R14;
/// Scratch.
pub const S1: Reg = R11;

/// Integer temporaries of a block.
pub const TEMPS: usize = 128;
/// Entries of a jump cache: a kernel's system calls return to some thousand places.
pub const JUMPS: usize = 16384;
/// Slots of [`Frame::pages`] for a program's part of the address space, which are emptied with each address space.
const LOW_PAGES: usize = 1024;
/// Slots for a kernel's part.
const HIGH_PAGES: usize = 8192;
/// Guest registers that a loop without checks may take.
pub const SAVED: usize = 12;
/// Entries of a page cache: one for each register that an access may be based on, and others.
pub const CACHED: usize = 24;
/// Entries for constant addresses of user code, by page.
const CONSTANTS: usize = 32;

/// A guest address, linear and with [`Frame::tag`], and the code for it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Jump {
    pub rip: u64,
    pub code: u64,
}

impl Jump {
    /// What a slot holds that no jump finds: an address of another pair of slots.
    pub fn none(slot: usize) -> Self {
        let rip = if slot / 2 == Frame::jump_slot(0) / 2 {
            2
        } else {
            0
        };
        Self { rip, code: 0 }
    }

    /// Empties a cache.
    pub fn empty(slots: &mut [Self; JUMPS]) {
        for (n, jump) in slots.iter_mut().enumerate() {
            *jump = Self::none(n);
        }
    }
}

/// The translation last used through a base register.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PageCache {
    /// Minus the linear page that may be read: an address is added, which LEA does without a change of flags.
    pub read_minus: u64,
    /// Host address minus linear address.
    pub read_addend: u64,
    /// Minus the linear page that may be written.
    pub write_minus: u64,
    /// See `read_addend`.
    pub write_addend: u64,
}

impl PageCache {
    /// Offsets of the negated page and the addend for loads or for stores.
    pub const fn fields(write: bool) -> (usize, usize) {
        if write {
            (
                offset_of!(Self, write_minus),
                offset_of!(Self, write_addend),
            )
        } else {
            (offset_of!(Self, read_minus), offset_of!(Self, read_addend))
        }
    }
}

/// The page that empty entries name, canonical in no paging mode, but for the bits that are chosen by chance: a comparison of
/// distances cannot be made to fail for all addresses. Their addend leads to a page that the host has not: see `astray.rs`.
const NO_PAGE: u64 = 0x4000_0000_0000_0000;
/// The bits that are chosen.
const BY_CHANCE: u64 = 0x3fff_ffff_ffff_f000;

/// A segment register outside 64-bit code.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Bounds {
    pub base: u64,
    /// Offsets may be read, and written, below these; 0 where there is more to it.
    pub read_end: u64,
    pub write_end: u64,
}

impl Bounds {
    fn of(segment: &x86::Segment, protected: bool) -> Self {
        use x86::attr::{CODE, DC, RW, UNUSABLE};
        let is = |bits| segment.attr & bits != 0;
        let end = u64::from(segment.limit) + 1;
        let down = !is(CODE) && is(DC);
        let hidden = protected && is(CODE) && !is(RW);
        let read = !(is(UNUSABLE) || down || hidden);
        let fixed = protected && (is(CODE) || !is(RW));
        let write = read && !fixed;
        Self {
            base: segment.base,
            read_end: if read { end } else { 0 },
            write_end: if write { end } else { 0 },
        }
    }
}

/// An exception that the host's CPU has raised in translated code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Fault {
    /// Where.
    pub pc: u64,
    /// The address that was accessed, if it was a page fault.
    pub address: u64,
    pub is_page: bool,
    pub is_write: bool,
}

/// A buffer for any access: instructions that want alignment find it.
#[repr(C, align(64))]
pub struct Bounce(pub [u64; 8]);

/// See the module's text.
#[repr(C, align(64))]
pub struct Frame {
    // What hot code names most has the first 128 bytes: a displacement of one byte reaches them.
    /// The vCPU's event word, and which of its bits stop it.
    pub event_word: u64,
    pub event_mask: u32,
    pub mxcsr: u32,
    pub flags: LazyFlags,
    /// Guest r11, r14, r15.
    pub home: [u64; 3],
    /// The page caches of the stack pointer, supervisor's and user's.
    pub stack: [PageCache; 2],

    pub vcpu: *mut Vcpu,
    /// The vCPU's part of the engine.
    pub local: *mut crate::local::Local,
    pub host_rsp: u64,
    /// Instructions that may still be completed, where they are counted.
    pub budget: i64,
    /// A linear address, and what comes back for it.
    pub lin: u64,
    pub packed: u32,
    /// Why translated code was left; see [`leave`].
    pub exit: u32,
    /// More about that.
    pub info: u32,
    pub host_default_mxcsr: u32,
    /// Where the call that is under way came from, or where to go.
    pub ret: u64,
    /// RFLAGS of the host across a call.
    pub host_flags: u64,
    /// The store that [`Frame::bounce`] holds.
    pub commit_lin: u64,
    pub commit_size: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// Not 0: the guest's x87 registers are in the host's x87, and the context's are old.
    pub x87_live: u32,
    /// Not 0: the guest's ZMM16-31 and mask registers are in the host's, and the context's are old.
    pub high_live: u32,
    /// What FRSTOR loads and FNSAVE stores.
    pub x87_image: [u8; 112],
    pub temps: [u64; TEMPS],
    /// What the registers hold for the guest that a loop without checks took.
    pub saved: [u64; SAVED],
    /// Ways back of loops with checks until one is tried without.
    pub patience: u32,
    /// Where a string instruction in place goes, and what its source register is afterwards.
    pub string: [u64; 2],
    /// Where an access is made that cannot be made in place.
    pub bounce: Bounce,
    pub cached: [[PageCache; CACHED]; 2],
    pub constants: [PageCache; CONSTANTS],
    /// Addends that checks of ranges found by the TLB, for each register.
    pub addends: [u64; 16],
    /// Misses of page caches until one is looked at: see `Core::hop`.
    pub hops: i32,
    /// For each linear page (by hash, low and high half): the number of the page pair that it is known to stand for.
    pub pages: [u32; LOW_PAGES + HIGH_PAGES],
    /// Those of supervisor code, of user code, and of code that is not flat, whatever its level: see `Emit::leave_to`.
    pub jumps: [[Jump; JUMPS]; 3],
    /// What the first two are good for: the modes of supervisor and of user code.
    pub modes: [u64; 2],
    /// The mode of the code that runs.
    pub running: u64,
    /// The host addresses of RAM and of its first page's code lines.
    pub ram: u64,
    pub lines: u64,
    pub data_gen: u64,
    pub map_gen: u64,
    pub map_gen_high: u64,
    /// `Mmu::inline_tables`.
    pub tlb: [u64; 3],
    /// The bits that are zero in the distance of an access from its page, for alignments of 1 to 64: see
    /// `emit/keep.rs`.
    pub odd: [u64; 7],
    /// The address of [`system::ticks::Ticks`], or 0.
    pub ticks: u64,
    /// Where an access on two pages of RAM is made.
    pub split: Split,
    /// The segment registers, by number, outside 64-bit code.
    pub bounds: [Bounds; 6],
    /// What the addresses of the jump caches hold beside the linear address, in their upper half, where code is not flat: see
    /// `Local::tag`.
    pub tag: u64,
    /// Arguments of a helper that is called in the midst of an instruction; the first is its result afterwards.
    pub args: [u64; 3],
    /// Not 0 behind such a call: the next instruction is not to be gone on with before a look at mode and code.
    pub look: u32,
    /// What selectors stand for, outside long mode: see `x64/known.rs`.
    pub known: [Known; KNOWN],
    /// The windows of supervisor and user code: `data_gen` as long as they are up to date, where they are.
    pub open: [u64; 2],
    pub views: [u64; 2],
    /// Bit 63: code outside long mode may keep any page that it uses in the page caches. It may not while EFLAGS.AC lets a
    /// supervisor use user pages: they would still be there when it does not.
    pub keeps_pages: u64,
    /// Start and length of code memory; the stub that is gone on with where an access through a window faults, and where that was:
    /// see `x64/faults.rs`.
    pub code: [u64; 2],
    pub fault_stub: u64,
    pub fault: Fault,
    /// What r11 and r14 were there.
    pub fault_scratch: [u64; 2],
    /// The large pages that user code may read.
    pub large: Large,
    /// The page that empty entries name: see [`NO_PAGE`].
    no_page: u64,
    /// The addend of empty entries.
    pub no_addend: u64,
    /// Where it leads to: a page that may not be accessed.
    nowhere: u64,
}

/// Why translated code was left.
pub mod leave {
    /// `info` is the number of an exit that leads nowhere yet.
    pub const LINK: u32 = 1;
    /// `ret` is an address that the jump cache does not know; `info` the number of the exit.
    pub const INDIRECT: u32 = 2;
    /// `exception` is to be delivered.
    pub const FAULT: u32 = 3;
    /// RIP is exact: look at events and go on.
    pub const NEXT: u32 = 4;
    /// As NEXT, in the midst of a repeated instruction.
    pub const AGAIN: u32 = 5;
    /// RIP is exact, and its instruction is to be interpreted.
    pub const INTERPRET: u32 = 6;
    /// `info` is the number of a block whose code may have changed.
    pub const STALE: u32 = 7;
    /// An event is up, or the budget used up, at the start of the block `info`.
    pub const POLL: u32 = 8;
    /// The page of block `info` is not known to be mapped where the block thinks.
    pub const PAGE: u32 = 9;
}

const STACK: usize = 1 << 20;

/// A frame and its stack.
pub struct Area {
    base: *mut u8,
    size: usize,
    frame: *mut Frame,
}

// SAFETY: the mapping belongs to the area alone.
unsafe impl Send for Area {}

impl Area {
    /// A fresh frame.
    ///
    /// # Errors
    /// The host's, when it has no memory.
    pub fn new() -> std::io::Result<Self> {
        let size = (STACK + size_of::<Frame>()).next_multiple_of(4096);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the lowest page of the mapping just made: a guard.
        unsafe { libc::mprotect(base, 4096, libc::PROT_NONE) };
        let base = base.cast::<u8>();
        let frame = base.wrapping_add(STACK).cast::<Frame>();
        let mut area = Self { base, size, frame };
        let f = area.get();
        f.nowhere = base.addr() as u64;
        f.no_page = NO_PAGE | RandomState::new().build_hasher().finish() & BY_CHANCE;
        for (n, bits) in f.odd.iter_mut().enumerate() {
            *bits = !x86::PAGE_MASK | ((1 << n) - 1);
        }
        f.modes = [u64::MAX; 2];
        f.large.empty();
        f.host_default_mxcsr = x86::MXCSR_RESET;
        f.forget_data();
        f.forget_jumps();
        Ok(area)
    }

    /// The frame.
    pub fn get(&mut self) -> &mut Frame {
        // SAFETY: inside the mapping, 64-aligned since STACK is; zero bytes are a valid frame; translated code, which
        // uses it too, does not run while Rust code of the engine holds this reference.
        unsafe { &mut *self.frame }
    }

    /// The frame's address.
    pub fn pointer(&self) -> *mut Frame {
        self.frame
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

impl Frame {
    /// Empties the page caches. What they name from now on is a page that was last in one of them, or else that of an address;
    /// `None`: one that code outside 64-bit mode cannot access. For tests, which go where nobody comes by chance.
    pub fn go_astray(&mut self, how: Option<(u64, usize)>) {
        let Some((otherwise, turn)) = how else {
            self.no_page = NO_PAGE;
            return self.forget_data();
        };
        let caches = self.cached.as_flattened().iter();
        let caches = caches.chain(&self.constants).chain(&self.stack);
        let known: Vec<u64> = caches
            .flat_map(|entry| [entry.read_minus, entry.write_minus])
            .map(u64::wrapping_neg)
            .filter(|page| *page != self.no_page)
            .collect();
        let page = known.get(turn % known.len().max(1));
        self.no_page = page.copied().unwrap_or(otherwise & !x86::PAGE_MASK);
        self.forget_data();
    }

    /// What the address in S0 of an access that has faulted was before the addend was added, if it went where empty entries lead.
    pub fn astray(&self, fault: &Fault, scratch: u64) -> Option<u64> {
        let there = fault.is_page && fault.address.wrapping_sub(self.nowhere) < x86::PAGE_SIZE;
        there.then(|| scratch.wrapping_sub(self.no_addend))
    }

    /// Empties the page caches.
    pub fn forget_data(&mut self) {
        self.no_addend = self.nowhere.wrapping_sub(self.no_page);
        let addend = self.no_addend;
        let minus = self.no_page.wrapping_neg();
        let empty = PageCache {
            read_minus: minus,
            read_addend: addend,
            write_minus: minus,
            write_addend: addend,
        };
        self.cached = [[empty; CACHED]; 2];
        self.constants = [empty; CONSTANTS];
        self.stack = [empty; 2];
    }

    /// Empties the jump caches.
    pub fn forget_jumps(&mut self) {
        for set in &mut self.jumps {
            Jump::empty(set);
        }
    }

    /// Brings what translated code keeps of the MMU up to date: after anything that may have changed translations.
    pub fn follow(&mut self, mmu: &Mmu) {
        self.tlb = mmu.inline_tables();
        let state = mmu.state();
        let open = state.ac && state.cr4 & x86::cr4::SMAP != 0;
        self.keeps_pages = u64::from(!open && !state.long_mode()) << 63;
        if self.data_gen != mmu.data_gen {
            self.data_gen = mmu.data_gen;
            self.forget_data();
            self.large.forget();
        }
        if self.map_gen != mmu.map_gen {
            self.map_gen = mmu.map_gen;
            self.pages[..LOW_PAGES].fill(0);
        }
        if self.map_gen_high != mmu.map_gen_high {
            self.map_gen_high = mmu.map_gen_high;
            self.pages[LOW_PAGES..].fill(0);
        }
    }

    /// The slot of [`Frame::pages`] for a linear address.
    pub fn page_slot(lin: u64, long_mode: bool) -> usize {
        let page = (lin >> 12) as usize;
        if softmmu::is_kernels(lin, long_mode) {
            LOW_PAGES + (page ^ page >> 13) % HIGH_PAGES
        } else {
            (page ^ page >> 10) % LOW_PAGES
        }
    }

    /// The jump cache of code in a mode.
    pub fn jump_set(mode: frontend_x86::Mode) -> usize {
        if segmented(mode) {
            2
        } else {
            usize::from(mode.cpl() == 3)
        }
    }

    /// The slot of the jump caches for a guest address. What does not fit there any more goes to the other one of its pair.
    pub fn jump_slot(rip: u64) -> usize {
        ((rip ^ rip >> 12) & (JUMPS as u64 - 1)) as usize
    }

    /// The code that a jump cache has for an address.
    pub fn jump(&self, set: usize, rip: u64) -> Option<u64> {
        let slot = Self::jump_slot(rip);
        let pair = [slot, slot ^ 1].map(|slot| self.jumps[set][slot]);
        pair.iter().find(|j| j.rip == rip).map(|j| j.code)
    }

    /// Puts an address into a jump cache.
    pub fn put_jump(&mut self, set: usize, jump: Jump) {
        let slot = Self::jump_slot(jump.rip);
        let jumps = &mut self.jumps[set];
        let old = std::mem::replace(&mut jumps[slot], jump);
        let other = &mut jumps[slot ^ 1];
        let moves = old.rip != jump.rip && Self::jump_slot(old.rip) == slot;
        if moves {
            *other = old;
        } else if other.rip == jump.rip {
            *other = Jump::none(slot ^ 1);
        }
    }

    /// Takes a linear address out of the jump caches, whatever its tag.
    pub fn drop_jump(&mut self, lin: u64) {
        let slot = Self::jump_slot(lin);
        for set in &mut self.jumps {
            for slot in [slot, slot ^ 1] {
                if (set[slot].rip ^ lin) << 32 == 0 {
                    set[slot] = Jump::none(slot);
                }
            }
        }
    }

    /// Takes the segment bases that translated code adds.
    pub fn take_bases(&mut self, v: &Vcpu) {
        self.fs_base = v.seg(Seg::Fs).base;
        self.gs_base = v.seg(Seg::Gs).base;
        if !v.st.code64() {
            let protected = v.st.cr0 & x86::cr0::PE != 0 && !v.st.vm86();
            for (bounds, segment) in self.bounds.iter_mut().zip(&v.st.seg) {
                *bounds = Bounds::of(segment, protected);
            }
        }
    }
}

/// Where a guest register lives.
pub fn home(g: Gpr) -> Rm {
    match g {
        Gpr::Rsp => Rm::R(R15),
        Gpr::R11 => Rm::M(field(offset_of!(Frame, home))),
        Gpr::R14 => Rm::M(field(offset_of!(Frame, home) + 8)),
        Gpr::R15 => Rm::M(field(offset_of!(Frame, home) + 16)),
        _ => Rm::R(g as u8),
    }
}

/// A field of the frame as translated code sees it.
pub const fn field(offset: usize) -> Mem {
    Mem::at(RSP, offset as i32)
}

/// Where the frame keeps a segment's base that is part of addresses.
pub fn base(seg: Seg) -> Option<Mem> {
    match seg {
        Seg::Fs => Some(field(offset_of!(Frame, fs_base))),
        Seg::Gs => Some(field(offset_of!(Frame, gs_base))),
        _ => None,
    }
}

/// A temporary.
pub const fn temp(n: usize) -> Mem {
    field(offset_of!(Frame, temps) + n * 8)
}

/// The page cache entry `n` of user (`user`) or supervisor code.
pub const fn cached(user: bool, n: usize) -> usize {
    if n == Gpr::Rsp as usize {
        return offset_of!(Frame, stack) + user as usize * size_of::<PageCache>();
    }
    offset_of!(Frame, cached) + (user as usize * CACHED + n) * size_of::<PageCache>()
}

/// Bytes from one entry of [`Frame::pages`] to the next.
pub const PAGE_SLOT: usize = size_of::<u32>();

/// The page cache entry of a constant address of user code.
pub const fn constant(lin: u64) -> usize {
    let page = (lin >> 12) as usize;
    offset_of!(Frame, constants) + (page ^ page >> 5) % CONSTANTS * size_of::<PageCache>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three addresses that have the same slot, and one that has its neighbour.
    const SAME: [u64; 3] = [0x40, 0x400_0040, 0x800_0040];
    const NEXT: u64 = 0x41;

    fn put(f: &mut Frame, rip: u64) {
        f.put_jump(0, Jump { rip, code: !rip });
    }

    #[test]
    fn two_jumps_share_a_slot_and_the_last_are_kept() {
        let mut area = Area::new().expect("memory");
        let f = area.get();
        let [a, b, c] = SAME;
        assert!(
            SAME.iter()
                .all(|rip| Frame::jump_slot(*rip) == Frame::jump_slot(a))
        );
        assert_eq!(Frame::jump_slot(NEXT), Frame::jump_slot(a) ^ 1);
        assert_eq!(f.jump(0, a), None);
        put(f, a);
        put(f, b);
        assert_eq!([f.jump(0, a), f.jump(0, b)], [Some(!a), Some(!b)]);
        put(f, c);
        assert_eq!(
            [a, b, c].map(|rip| f.jump(0, rip).is_some()),
            [false, true, true]
        );
        put(f, NEXT);
        assert_eq!(
            [b, c, NEXT].map(|rip| f.jump(0, rip).is_some()),
            [false, true, true]
        );
        assert_eq!(f.jump(1, c), None);
    }

    #[test]
    fn a_jump_that_is_put_again_stands_once() {
        let mut area = Area::new().expect("memory");
        let f = area.get();
        let [a, b, _] = SAME;
        // It has moved aside, and comes back with other code.
        put(f, a);
        put(f, b);
        f.put_jump(0, Jump { rip: a, code: 7 });
        assert_eq!([f.jump(0, a), f.jump(0, b)], [Some(7), Some(!b)]);
        f.drop_jump(a);
        assert_eq!([f.jump(0, a), f.jump(0, b)], [None, Some(!b)]);
        f.drop_jump(b);
        f.put_jump(0, Jump { rip: a, code: 8 });
        f.drop_jump(a);
        assert_eq!(f.jump(0, a), None);
    }

    #[test]
    fn empty_slots_are_nobodys() {
        let mut area = Area::new().expect("memory");
        let f = area.get();
        for rip in 0..8 {
            assert_eq!(f.jump(0, rip), None, "{rip}");
            put(f, rip);
            assert_eq!(f.jump(0, rip), Some(!rip));
            f.drop_jump(rip);
            assert_eq!(f.jump(0, rip), None, "{rip}");
        }
    }
}
