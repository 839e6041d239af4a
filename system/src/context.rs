//! The vCPU context: architectural state, what engines keep beside it, and the memory accesses of helpers.
//!
//! Engines reach fields by byte offsets from the context's start ([`offset`]), general registers first. Invariants
//! between instructions: `st.rip` is the address of the current block's first instruction while a block runs and exact
//! otherwise; status flags are in `flags`, and in `st.rflags` only after [`Vcpu::sync_flags`]; `mmu` holds what
//! [`Vcpu::sync_mmu`] told it.

use std::sync::Arc;

use softmmu::{Fault, Mmu, PagingState, Privilege};
use x86::{Activity, CpuState, Exception, LinAddr, Seg, Segment, attr, cr0, flags};

use crate::cpuid::CpuModel;
use crate::lazy::LazyFlags;
use crate::{Events, Platform};

/// Temporaries that a block can hold at once.
pub const TEMPS: usize = 64;
/// Vector temporaries that a block can hold at once.
pub const VEC_TEMPS: usize = 8;

/// One virtual CPU as every software engine sees it.
#[repr(C, align(64))]
pub struct Vcpu {
    /// The architectural state.
    pub st: CpuState,
    /// Vector temporaries of the running block, aligned as registers are.
    pub vec_temps: [[u8; 64]; VEC_TEMPS],
    /// The lazily kept status flags.
    pub flags: LazyFlags,
    /// Always zero: the base or index that an address does not have.
    pub zero: u64,
    /// A place for results nobody wants.
    pub sink: u64,
    /// Instructions that the engine may still complete before it must return.
    pub budget: i64,
    /// Instructions completed since reset, but for those of the running block.
    pub retired: u64,
    /// RIP of the instruction that runs, for helpers.
    pub ip: u64,
    /// RIP of the instruction after it, for helpers.
    pub next_ip: u64,
    /// The events that make a running block stop: all but those that cannot be taken now (INTR with IF clear).
    pub event_mask: u32,
    /// Words that belong to the running engine.
    pub engine: [u64; 10],
    /// The exception that an op has raised, for the run loop to deliver.
    pub exception: Option<Exception>,
    /// Temporaries of the running block.
    pub temps: [u64; TEMPS],
    /// Paging and the TLB.
    pub mmu: Mmu,
    /// What the rest of the machine wants of this vCPU.
    pub events: Arc<Events>,
    /// The board.
    pub platform: Arc<dyn Platform>,
    /// What CPUID says, and which MSRs there are.
    pub model: Arc<CpuModel>,
    /// This vCPU's number, which is also its initial APIC id.
    pub index: usize,
    /// Debug exceptions that wait for the instruction's end (DR6 bits).
    pub pending_debug: u64,
    /// PAUSE instructions in a row.
    pub pauses: u32,
    /// The state of RDRAND and RDSEED.
    pub random: u64,
    /// MSRs that have been warned about once.
    pub warned: std::collections::HashSet<u32>,
    /// `Some` in `exec`: TSC = this + instructions completed, whatever the platform says.
    pub fixed_tsc: Option<u64>,
    /// `Some` where instructions are counted as time: the raw TSC = this + instructions completed.
    pub tsc_base: Option<u64>,
    /// What INT n, INT3, INTO and INT1 do.
    pub soft_ints: SoftInts,
}

/// What software interrupts do: machines let them be delivered, `exec` wants to know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SoftInts {
    /// They are delivered.
    #[default]
    Deliver,
    /// They are delivered, and their vectors noted here in order.
    Note(Vec<u8>),
    /// They are held back: the instruction raises its vector as an exception that nobody shall deliver, and notes it
    /// here. `next_ip` is the address behind it.
    Hold(Option<u8>),
}

/// Byte offsets from the context's start.
pub mod offset {
    use super::Vcpu;
    use std::mem::offset_of;
    use x86::{CpuState, Gpr, Seg, Segment};

    /// A general register.
    pub const fn gpr(register: Gpr) -> usize {
        offset_of!(Vcpu, st) + offset_of!(CpuState, gpr) + register as usize * 8
    }

    /// RIP.
    pub const RIP: usize = offset_of!(Vcpu, st) + offset_of!(CpuState, rip);
    /// [`Vcpu::zero`].
    pub const ZERO: usize = offset_of!(Vcpu, zero);
    /// [`Vcpu::sink`].
    pub const SINK: usize = offset_of!(Vcpu, sink);

    /// A segment's base.
    pub const fn seg_base(seg: Seg) -> usize {
        offset_of!(Vcpu, st)
            + offset_of!(CpuState, seg)
            + seg as usize * size_of::<Segment>()
            + offset_of!(Segment, base)
    }

    /// A temporary.
    pub const fn temp(n: usize) -> usize {
        offset_of!(Vcpu, temps) + n * 8
    }

    /// A vector temporary.
    pub const fn vec_temp(n: usize) -> usize {
        offset_of!(Vcpu, vec_temps) + n * 64
    }

    /// A vector register.
    pub const fn vec(n: usize) -> usize {
        offset_of!(Vcpu, st) + offset_of!(CpuState, vec) + n * 64
    }

    /// A mask register.
    pub const fn mask(k: usize) -> usize {
        offset_of!(Vcpu, st) + offset_of!(CpuState, k) + k * 8
    }
}

impl Vcpu {
    /// A vCPU after RESET. Application processors wait for a start-up IPI.
    pub fn new(
        index: usize,
        model: Arc<CpuModel>,
        mmu: Mmu,
        events: Arc<Events>,
        platform: Arc<dyn Platform>,
    ) -> Box<Self> {
        let mut vcpu = Box::new(Self {
            st: CpuState::reset(),
            flags: LazyFlags::KNOWN,
            zero: 0,
            sink: 0,
            budget: 0,
            retired: 0,
            ip: 0,
            next_ip: 0,
            event_mask: u32::MAX,
            engine: [0; 10],
            exception: None,
            temps: [0; TEMPS],
            vec_temps: [[0; 64]; VEC_TEMPS],
            mmu,
            events,
            platform,
            model,
            index,
            pending_debug: 0,
            pauses: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            warned: std::collections::HashSet::new(),
            fixed_tsc: None,
            tsc_base: None,
            soft_ints: SoftInts::Deliver,
        });
        vcpu.reset();
        vcpu
    }

    /// RESET: the state of SDM vol. 3, table 11-1; TLBs empty.
    pub fn reset(&mut self) {
        let mut st = CpuState::reset();
        st.gpr[2] = u64::from(self.model.signature());
        if self.index != 0 {
            st.activity = Activity::WaitForSipi;
        }
        self.load_state(st);
    }

    /// Replaces the whole architectural state.
    pub fn load_state(&mut self, st: CpuState) {
        self.st = st;
        self.flags = LazyFlags::KNOWN;
        self.exception = None;
        self.pending_debug = 0;
        self.pauses = 0;
        let state = self.paging_state();
        self.mmu.restore(state);
        self.sync_watches();
    }

    /// What paging depends on, from the architectural state.
    pub fn paging_state(&self) -> PagingState {
        let mut state = PagingState::new(self.model.maxphyaddr());
        state.cr0 = self.st.cr0;
        state.cr3 = self.st.cr3;
        state.cr4 = self.st.cr4;
        state.efer = self.st.efer;
        state.pkru = self.st.pkru;
        state.pdptes = self.st.pdpte;
        state.cpl = self.st.cpl();
        state.ac = self.st.rflags & flags::AC != 0;
        state.gib_pages = self.model.gib_pages();
        state
    }

    /// Tells the MMU the privilege level and AC, after anything that may have changed them.
    pub fn sync_mmu(&mut self) {
        self.mmu.set_cpl(self.st.cpl());
        self.mmu.set_ac(self.st.rflags & flags::AC != 0);
    }

    /// The six status flags as they are now.
    pub fn status(&self) -> u64 {
        self.flags.status(self.st.rflags)
    }

    /// Brings the status flags in `st.rflags` up to date.
    pub fn sync_flags(&mut self) {
        self.st.rflags = (self.st.rflags & !flags::STATUS) | self.status();
        self.flags = LazyFlags::KNOWN;
    }

    /// RFLAGS as software sees it.
    pub fn rflags(&self) -> u64 {
        (self.st.rflags & !flags::STATUS) | self.status() | flags::FIXED
    }

    /// Replaces RFLAGS and tells the MMU of a new AC or VM.
    pub fn set_rflags(&mut self, value: u64) {
        self.st.rflags = (value & flags::WRITABLE) | flags::FIXED;
        self.flags = LazyFlags::KNOWN;
        self.sync_mmu();
    }

    /// Replaces those status flags that are in `mask`.
    pub fn set_status(&mut self, mask: u64, value: u64) {
        self.sync_flags();
        self.st.rflags = (self.st.rflags & !mask) | (value & mask);
    }

    /// The guest's time-stamp counter.
    pub fn tsc(&self) -> u64 {
        match self.fixed_tsc {
            Some(start) => start.wrapping_add(self.retired),
            None => self.raw_tsc().wrapping_add(self.st.msr.tsc_offset),
        }
    }

    /// The count that all vCPUs share, without this one's offset.
    pub fn raw_tsc(&self) -> u64 {
        match self.tsc_base {
            Some(base) => base.wrapping_add(self.retired),
            None => self.platform.tsc(),
        }
    }

    /// The hidden and visible part of a segment register.
    pub fn seg(&self, seg: Seg) -> &Segment {
        &self.st.seg[seg as usize]
    }

    /// The privilege level of ordinary accesses is the current one; system structures are read as supervisor.
    pub fn linear(&self, seg: Seg, offset: u64, size: u64, write: bool) -> Result<u64, Exception> {
        let fault = if seg == Seg::Ss {
            Exception::SS0
        } else {
            Exception::GP0
        };
        let segment = self.seg(seg);
        if self.st.code64() {
            let base = if matches!(seg, Seg::Fs | Seg::Gs) {
                segment.base
            } else {
                0
            };
            let lin = base.wrapping_add(offset);
            return self
                .check_canonical(lin, size, seg == Seg::Ss)
                .map(|()| lin);
        }
        check_segment(
            segment,
            offset,
            size,
            write,
            self.st.cr0 & cr0::PE != 0 && !self.st.vm86(),
        )
        .map(|()| u64::from((segment.base.wrapping_add(offset)) as u32))
        .ok_or(fault)
    }

    /// Checks what the TLB cannot know of an access of `size` bytes: in long mode an address that is not canonical
    /// raises #GP(0), or #SS(0) through the stack's segment.
    #[inline]
    pub fn check_canonical(&self, lin: u64, size: u64, stack: bool) -> Result<(), Exception> {
        let last = lin.wrapping_add(size.saturating_sub(1));
        if !self.st.long_mode() || self.is_canonical(lin) && self.is_canonical(last) {
            Ok(())
        } else if stack {
            Err(Exception::SS0)
        } else {
            Err(Exception::GP0)
        }
    }

    /// Reads 1..=8 bytes at a linear address with the current privilege.
    pub fn read(&mut self, lin: u64, size: u32) -> Result<u64, Exception> {
        self.mmu
            .load(LinAddr(lin), size, Privilege::Current)
            .map_err(fault)
    }

    /// Writes 1..=8 bytes at a linear address with the current privilege.
    pub fn write(&mut self, lin: u64, size: u32, value: u64) -> Result<(), Exception> {
        self.mmu
            .store(LinAddr(lin), size, value, Privilege::Current)
            .map_err(fault)
    }

    /// Reads 1..=8 bytes of a system structure (GDT, IDT, TSS): an implicit supervisor access.
    pub fn read_system(&mut self, lin: u64, size: u32) -> Result<u64, Exception> {
        self.mmu
            .load(LinAddr(lin), size, Privilege::Implicit)
            .map_err(fault)
    }

    /// Writes 1..=8 bytes of a system structure.
    pub fn write_system(&mut self, lin: u64, size: u32, value: u64) -> Result<(), Exception> {
        self.mmu
            .store(LinAddr(lin), size, value, Privilege::Implicit)
            .map_err(fault)
    }

    /// Reads a run of bytes with the current privilege.
    pub fn read_bytes(&mut self, lin: u64, bytes: &mut [u8]) -> Result<(), Exception> {
        self.mmu
            .load_bytes(LinAddr(lin), bytes, Privilege::Current)
            .map_err(fault)
    }

    /// Writes a run of bytes with the current privilege, all or nothing.
    pub fn write_bytes(&mut self, lin: u64, bytes: &[u8]) -> Result<(), Exception> {
        self.mmu
            .store_bytes(LinAddr(lin), bytes, Privilege::Current)
            .map_err(fault)
    }

    /// Raises what a write of `len` bytes would raise.
    pub fn probe_write(&mut self, lin: u64, len: u64) -> Result<(), Exception> {
        self.mmu
            .probe_write(LinAddr(lin), len, Privilege::Current)
            .map_err(fault)
    }
}

/// A memory fault as the exception that it raises.
pub fn fault(fault: Fault) -> Exception {
    match fault {
        Fault::Page(f) => Exception::page_fault(f.lin.0, f.error),
    }
}

/// Checks an access of `size` bytes at `offset` outside 64-bit mode: usable, type (with `protected`), limit.
/// `None`: #GP(0), or #SS(0) through SS (SDM vol. 3, 5.3 and 5.5).
pub fn check_segment(
    segment: &Segment,
    offset: u64,
    size: u64,
    write: bool,
    protected: bool,
) -> Option<()> {
    if segment.attr & attr::UNUSABLE != 0 {
        return None;
    }
    let code = segment.attr & attr::CODE != 0;
    if protected {
        let allowed = match (code, write) {
            (true, true) => false,
            (true, false) => segment.attr & attr::RW != 0,
            (false, true) => segment.attr & attr::RW != 0,
            (false, false) => true,
        };
        if !allowed {
            return None;
        }
    }
    let offset = offset & 0xffff_ffff;
    let last = offset + size.max(1) - 1;
    let limit = u64::from(segment.limit);
    let inside = if !code && segment.attr & attr::DC != 0 {
        let top = if segment.attr & attr::DB != 0 {
            0xffff_ffff
        } else {
            0xffff
        };
        offset > limit && last <= top
    } else {
        last <= limit || (limit == 0xffff_ffff && size <= 1 << 16)
    };
    inside.then_some(())
}

impl std::fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "vCPU {} at {:#x}", self.index, self.st.rip)
    }
}
