//! The memory management unit of one vCPU: its paging state, its TLB, and what flushes what.
//!
//! Engines read the first fields in place; their offsets are constants of [`Mmu`]. The table of flushes follows
//! SDM vol. 3, 5.10.4.1; where less would do, what is simple is chosen:
//!
//! | event | what goes |
//! |---|---|
//! | MOV CR3, CR4.PCIDE = 0 | all but global translations |
//! | MOV CR3, CR4.PCIDE = 1, bit 63 clear | all but global translations of the new PCID |
//! | MOV CR3, CR4.PCIDE = 1, bit 63 set | nothing |
//! | WRPKRU, a change of CPL or EFLAGS.AC | nothing |
//! | a change of CR0.PG, WP, CR4.PSE, PAE, PGE, PCIDE, SMEP, SMAP, PKE, LA57, EFER.LMA, NXE | everything |
//! | INVLPG | the page in the current PCID and global translations of it, whatever its size |
//! | INVPCID | as its type says |
//! | A20, a page's attribute, the dirty log (through [`Mmu::sync`]) | everything |

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use x86::{LinAddr, PAGE_SIZE, PhysAddr, cr0, cr4, efer};

use crate::bus::Bus;
use crate::contexts::{Key, MmuIndex, Tlb, is_kernels};
use crate::fast::{TablePtr, table_pointer};
use crate::paging::{Access, AccessKind, BadPdpte, Fault, PagingMode, PagingState};
use crate::ram::{GuestRam, PageAttr};
use crate::tlb::{Cold, LARGE, TAG_MASK, TlbEntry, may_share, tag, tlb_index};
use crate::track::{CodeHits, CodeStamp, MAX_CPUS};
use crate::walk::{peek, read_pdptes, walk};
use crate::window::Shown;

/// With which rights an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// An explicit access at the current privilege level.
    Current,
    /// A user-mode access, whatever the CPL.
    User,
    /// An explicit supervisor-mode access, whatever the CPL (pushes to an inner level's stack).
    Supervisor,
    /// An implicit supervisor-mode access to a GDT, LDT, IDT or TSS.
    Implicit,
}

/// A data breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// First byte, aligned as the debug registers demand.
    pub lin: LinAddr,
    /// Bytes: 1, 2, 4 or 8.
    pub len: u8,
    /// Reads hit too, not only writes.
    pub on_read: bool,
}

impl Watch {
    /// Whether `len` bytes at `lin` touch it.
    fn touches(&self, lin: u64, len: u64) -> bool {
        lin.wrapping_sub(self.lin.0) < u64::from(self.len) || self.lin.0.wrapping_sub(lin) < len
    }
}

/// A place that an access was translated to; it lies in one page.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spot {
    /// Offset in the RAM mapping; meaningless for device memory.
    pub(crate) offset: u64,
    pub(crate) phys: PhysAddr,
    /// Bits of [`tag`].
    pub(crate) flags: u64,
}

/// One vCPU's view of memory. It belongs to the vCPU's thread; RAM is shared.
#[repr(C)]
pub struct Mmu {
    /// The tables of the current privilege: for linear addresses with bit 63 clear, and set.
    pub(crate) data: [TablePtr; 2],
    /// The same for each [`MmuIndex`].
    tables: [[TablePtr; 2]; MmuIndex::COUNT],
    /// Names the address space and what has been invalidated in it: as long as it is the same, links between
    /// translated blocks made through linear addresses of fetched pages are good (also after switching away and
    /// back). It says nothing of what pages contain.
    pub map_gen: u64,
    /// The same for a kernel's part of the address space ([`is_kernels`]): it does not change with the address space as
    /// long as instructions are fetched there through translations that all share. [`Mmu::generation`] picks one of the two.
    pub map_gen_high: u64,
    /// Rises with every change to any translation or write tag, evictions apart: who keeps a host address of data
    /// (a stack page) must look it up again when this changes.
    pub data_gen: u64,
    /// Not 0 after a slow-path store hit bytes marked as code; the engine clears it.
    pub code_hit: u32,
    /// The breakpoints hit since they were last taken, a bit each.
    pub watch_hits: u32,
    /// Where those stores were.
    pub(crate) hits: CodeHits,
    cpu: usize,
    index: MmuIndex,
    parked: bool,
    pub(crate) state: PagingState,
    watches: [Option<Watch>; 4],
    tlb: Tlb,
    ram: Arc<GuestRam>,
    bus: Arc<dyn Bus>,
    /// The epoch and the flushes that have been seen to.
    seen_epoch: u64,
    seen_flushes: u64,
    /// TLB fills since creation.
    fills: u64,
}

/// The bits of CR0, CR4 and EFER that decide what a TLB entry permits.
const CR0_BITS: u64 = cr0::PG | cr0::WP;
const CR4_BITS: u64 =
    cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::PKE | cr4::LA57;
const EFER_BITS: u64 = efer::LMA | efer::NXE;

impl Mmu {
    /// Offset of the current privilege's two table pointers.
    pub const OFFSET_DATA: usize = offset_of!(Self, data);
    /// Offset of the table pointers by index: two for each [`MmuIndex`].
    pub const OFFSET_TABLES: usize = offset_of!(Self, tables);
    /// Offset of the current [`MmuIndex`], one byte.
    pub const OFFSET_INDEX: usize = offset_of!(Self, index);
    /// Offset of the privilege level as [`Mmu::set_cpl`] was told it, one byte.
    pub const OFFSET_CPL: usize = offset_of!(Self, state) + offset_of!(PagingState, cpl);
    /// Offset of EFLAGS.AC as [`Mmu::set_ac`] was told it, one byte.
    pub const OFFSET_AC: usize = offset_of!(Self, state) + offset_of!(PagingState, ac);
    /// Offset of `map_gen`.
    pub const OFFSET_MAP_GEN: usize = offset_of!(Self, map_gen);
    /// Offset of `data_gen`.
    pub const OFFSET_DATA_GEN: usize = offset_of!(Self, data_gen);
    /// Offset of `code_hit`.
    pub const OFFSET_CODE_HIT: usize = offset_of!(Self, code_hit);
    /// Offset of `watch_hits`.
    pub const OFFSET_WATCH_HITS: usize = offset_of!(Self, watch_hits);

    /// Addresses of three tables: for user accesses to the lower half, for a supervisor's to the lower half and to the
    /// upper, as they are allowed while EFLAGS.AC is clear (so they are while it is set). They change with the address
    /// space, with paging state, and when a table is made.
    pub fn inline_tables(&self) -> [u64; 3] {
        let supervisor = if self.state.cr4 & cr4::SMAP != 0 {
            MmuIndex::SuperSmap
        } else {
            MmuIndex::Super
        };
        [(MmuIndex::User, 0), (supervisor, 0), (supervisor, 1)]
            .map(|(index, half)| self.tables[index as usize][half].addr() as u64)
    }

    /// The MMU of vCPU `cpu` (below [`MAX_CPUS`]; each index once) after RESET. `maxphyaddr`: 32 to 52.
    pub fn new(cpu: usize, ram: Arc<GuestRam>, bus: Arc<dyn Bus>, maxphyaddr: u8) -> Self {
        assert!(cpu < MAX_CPUS, "at most {MAX_CPUS} vCPUs");
        let mut mmu = Self {
            data: [table_pointer(None); 2],
            tables: [[table_pointer(None); 2]; MmuIndex::COUNT],
            map_gen: 0,
            map_gen_high: 0,
            data_gen: 0,
            code_hit: 0,
            watch_hits: 0,
            hits: CodeHits::default(),
            cpu,
            index: MmuIndex::Super,
            parked: true,
            state: PagingState::new(maxphyaddr),
            watches: [None; 4],
            tlb: Tlb::new(),
            ram,
            bus,
            seen_epoch: 0,
            seen_flushes: 0,
            fills: 0,
        };
        mmu.sync();
        mmu.refresh();
        mmu
    }

    /// The state that translations depend on.
    #[inline]
    pub fn state(&self) -> &PagingState {
        &self.state
    }

    /// Guest RAM.
    #[inline]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// What isn't RAM.
    #[inline]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// The vCPU's index.
    #[inline]
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// How often the TLB missed and was filled.
    pub fn fills(&self) -> u64 {
        self.fills
    }

    /// The index of explicit accesses at the current privilege.
    #[inline]
    pub fn index(&self) -> MmuIndex {
        self.index
    }

    /// The index of accesses with some rights.
    #[inline]
    pub fn index_of(&self, privilege: Privilege) -> MmuIndex {
        let explicit = if self.state.cr4 & cr4::SMAP != 0 && !self.state.ac {
            MmuIndex::SuperSmap
        } else {
            MmuIndex::Super
        };
        match privilege {
            Privilege::Current => self.index,
            Privilege::User => MmuIndex::User,
            Privilege::Supervisor => explicit,
            Privilege::Implicit if self.state.cr4 & cr4::SMAP != 0 => MmuIndex::SuperSmap,
            Privilege::Implicit => MmuIndex::Super,
        }
    }

    // Keeping what inline code reads up to date.

    /// Sets the index and the current tables after a change of CPL, AC or SMAP.
    #[inline]
    fn select(&mut self) {
        self.index = if self.state.cpl == 3 {
            MmuIndex::User
        } else {
            self.index_of(Privilege::Supervisor)
        };
        self.data = self.tables[self.index as usize];
    }

    /// Sets all pointers after a change of context, or when a table has been made.
    fn point(&mut self) {
        for index in [MmuIndex::User, MmuIndex::SuperSmap, MmuIndex::Super] {
            self.tables[index as usize] = self.tlb.tables(index).map(table_pointer);
        }
        self.select();
    }

    /// Sets all pointers and generations after a change of context or a flush.
    fn refresh(&mut self) {
        self.point();
        self.map_gen = self.tlb.generation();
        self.map_gen_high = self.tlb.high_generation();
        self.data_gen += 1;
    }

    /// What a link to instructions at a linear address is good for: see [`Mmu::map_gen`].
    #[inline(always)]
    pub fn generation(&self, lin: u64) -> u64 {
        if is_kernels(lin, self.state.long_mode()) {
            self.map_gen_high
        } else {
            self.map_gen
        }
    }

    fn key(&self) -> Key {
        Key {
            base: self.state.cr3_base().0,
            pcid: self.state.pcid(),
            pkru: if self.state.keys() {
                self.state.pkru
            } else {
                0
            },
        }
    }

    // Registers.

    /// Replaces all state and flushes everything: reset, snapshots, single cases. PDPTEs are taken as given.
    pub fn restore(&mut self, state: PagingState) {
        self.state = state;
        self.flush_all();
    }

    /// Takes over registers, after loading PDPTEs if `reload` says so and PAE paging is on.
    fn set_registers(
        &mut self,
        cr0: u64,
        cr4: u64,
        efer: u64,
        reload: bool,
    ) -> Result<(), BadPdpte> {
        let old = (
            self.state.cr0 & CR0_BITS,
            self.state.cr4 & CR4_BITS,
            self.state.efer & EFER_BITS,
        );
        let mut state = PagingState {
            cr0,
            cr4,
            efer,
            ..self.state.clone()
        };
        if state.mode() == PagingMode::Pae && reload {
            state.pdptes = read_pdptes(&self.ram, state.cr3, state.maxphyaddr)?;
        }
        self.state = state;
        if old != (cr0 & CR0_BITS, cr4 & CR4_BITS, efer & EFER_BITS) {
            self.flush_all();
        }
        Ok(())
    }

    /// MOV to CR0. The error is #GP(0) for a bad PDPTE; nothing has changed then.
    pub fn write_cr0(&mut self, value: u64) -> Result<(), BadPdpte> {
        self.write_cr0_efer(value, self.state.efer)
    }

    /// MOV to CR0 that enters or leaves long mode: EFER.LMA changes in the same step.
    pub fn write_cr0_efer(&mut self, value: u64, efer: u64) -> Result<(), BadPdpte> {
        let reload = (self.state.cr0 ^ value) & (cr0::PG | cr0::CD | cr0::NW) != 0;
        self.set_registers(value, self.state.cr4, efer, reload)
    }

    /// MOV to CR4. The error is #GP(0) for a bad PDPTE; nothing has changed then.
    pub fn write_cr4(&mut self, value: u64) -> Result<(), BadPdpte> {
        let reload = (self.state.cr4 ^ value) & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0;
        self.set_registers(self.state.cr0, value, self.state.efer, reload)
    }

    /// A new value of IA32_EFER.
    pub fn write_efer(&mut self, value: u64) {
        // Without a reload there is nothing that can fail.
        let done = self.set_registers(self.state.cr0, self.state.cr4, value, false);
        debug_assert!(done.is_ok());
    }

    /// MOV to CR3: `value` without bit 63, which is `noflush` (and counts with CR4.PCIDE only). The error is
    /// #GP(0) for a bad PDPTE; nothing has changed then.
    pub fn write_cr3(&mut self, value: u64, noflush: bool) -> Result<(), BadPdpte> {
        let mode = self.state.mode();
        if mode == PagingMode::Pae {
            self.state.pdptes = read_pdptes(&self.ram, value, self.state.maxphyaddr)?;
        }
        self.state.cr3 = value;
        if mode == PagingMode::Off {
            return Ok(());
        }
        let key = self.key();
        if self.state.cr4 & cr4::PCIDE == 0 {
            self.tlb.reload(key);
        } else {
            if !noflush {
                self.tlb.flush_pcid(key.pcid);
            }
            self.tlb.switch(key);
        }
        self.refresh();
        Ok(())
    }

    /// WRPKRU, XRSTOR: a new value of PKRU.
    pub fn set_pkru(&mut self, value: u32) {
        if self.state.pkru != value {
            self.state.pkru = value;
            if self.state.keys() {
                self.tlb.switch(self.key());
                self.refresh();
            }
        }
    }

    /// The current privilege level has changed.
    #[inline]
    pub fn set_cpl(&mut self, cpl: u8) {
        self.state.cpl = cpl;
        self.select();
    }

    /// EFLAGS.AC has changed.
    #[inline]
    pub fn set_ac(&mut self, ac: bool) {
        self.state.ac = ac;
        self.select();
    }

    // Invalidation.

    /// INVLPG.
    pub fn invlpg(&mut self, lin: LinAddr) {
        self.tlb.invlpg(lin.0);
        self.refresh();
    }

    /// INVPCID type 0: one page of one PCID, unless global.
    pub fn invpcid_address(&mut self, pcid: u16, lin: LinAddr) {
        self.tlb.flush_address(pcid, lin.0);
        self.refresh();
    }

    /// INVPCID type 1: one PCID, but global translations.
    pub fn invpcid_context(&mut self, pcid: u16) {
        self.tlb.flush_pcid(pcid);
        self.refresh();
    }

    /// INVPCID type 2: everything.
    pub fn invpcid_all(&mut self) {
        self.flush_all();
    }

    /// INVPCID type 3: everything but global translations.
    pub fn invpcid_all_non_global(&mut self) {
        self.tlb.flush_non_global();
        self.refresh();
    }

    /// Drops everything.
    pub fn flush_all(&mut self) {
        self.tlb.flush_all(self.key(), self.state.long_mode());
        self.refresh();
    }

    // Translations.

    /// The place of `lin` for an access with the rights of `index`, from the TLB or by a walk.
    #[inline]
    pub(crate) fn spot(
        &mut self,
        lin: u64,
        kind: AccessKind,
        index: MmuIndex,
    ) -> Result<Spot, Fault> {
        let base = self.ram.map().address();
        if let Some(table) = self.tlb.table_mut(index, lin) {
            let entry = table.entry(lin);
            let (found, addend) = match kind {
                AccessKind::Read => (entry.read_tag, entry.addend),
                AccessKind::Write => (entry.write_tag, entry.addend),
                AccessKind::Fetch => (entry.exec_tag, entry.addend),
            };
            if tag::names(found, lin) {
                let page = table.cold[tlb_index(lin)].page();
                return Ok(Spot {
                    offset: addend.wrapping_add(lin).wrapping_sub(base),
                    phys: PhysAddr(page | lin & !TAG_MASK),
                    flags: found & !TAG_MASK & !tag::PLACE,
                });
            }
        }
        self.fill(lin, kind, index)
    }

    /// Walks and enters what was found.
    #[cold]
    fn fill(&mut self, lin: u64, kind: AccessKind, index: MmuIndex) -> Result<Spot, Fault> {
        let access = |kind| Access {
            kind,
            user: index == MmuIndex::User,
            implicit: index == MmuIndex::SuperSmap,
        };
        let found = walk(&self.ram, &self.state, LinAddr(lin), access(kind))?;
        self.fills += 1;
        let page = lin & TAG_MASK;
        let permits =
            |kind| self.state.mode() == PagingMode::Off || found.permits(&self.state, access(kind));
        let watched = self
            .watches
            .iter()
            .flatten()
            .any(|watch| watch.touches(page, 4096));
        let mut data = if watched { tag::WATCH } else { 0 };
        let mut fetch = 0;
        let mut write = 0;
        // Whether an entry for stores may be made; without one the next store comes here and is told to the log.
        let mut writable = kind == AccessKind::Write || (found.dirty && permits(AccessKind::Write));
        let mut addend = 0u64.wrapping_sub(page);
        match self.ram.frame(found.page) {
            None => {
                data |= tag::MMIO;
                fetch |= tag::MMIO;
            }
            Some(frame) => {
                addend = (self.ram.map().address() + frame.offset()).wrapping_sub(page);
                let track = &self.ram.track;
                if self.ram.frame_attr(frame) == PageAttr::Rom {
                    write |= tag::ROM;
                } else if writable {
                    if kind == AccessKind::Write {
                        track.note_dirty(frame.index());
                    } else if track.logging() && !track.is_dirty(frame.index()) {
                        writable = false;
                    }
                    if writable && !track.claim_write(self.cpu, frame.index()) {
                        write |= tag::CODE;
                    }
                }
            }
        }
        let slot = tlb_index(lin);
        let place = if may_share(page) { tag::PLACE } else { 0 };
        let tags = |wanted, flags| {
            if wanted {
                tag::of(page, flags | place)
            } else {
                tag::none(slot)
            }
        };
        // The fetch tag is made for fetches only, so that the TLB knows through which pages code was reached; it is
        // kept when a page in use gets another right.
        let fetched = self.tlb.table_mut(index, lin).is_some_and(|table| {
            let old = table.entry(lin).exec_tag;
            tag::names(old, lin)
        });
        let entry = TlbEntry {
            read_tag: tags(kind == AccessKind::Read || permits(AccessKind::Read), data),
            write_tag: tags(writable, data | write),
            exec_tag: tags(
                kind == AccessKind::Fetch || fetched && permits(AccessKind::Fetch),
                fetch,
            ),
            addend,
        };
        let cold = Cold::new(lin, found.page.0, found.size, found.global);
        let shared = found.global && !(found.user && self.state.keys());
        if self.tlb.put(index, lin, entry, cold, shared) {
            self.point();
        }
        self.map_gen_high = self.tlb.high_generation();
        let flags = match kind {
            AccessKind::Read => data,
            AccessKind::Write => data | write,
            AccessKind::Fetch => fetch,
        };
        Ok(Spot {
            offset: addend
                .wrapping_add(lin)
                .wrapping_sub(self.ram.map().address()),
            phys: PhysAddr(found.page.0 | lin & !TAG_MASK),
            flags,
        })
    }

    /// Where `lin` lies, whoever may use it, without touching anything (debuggers).
    pub fn translate_debug(&self, lin: LinAddr) -> Option<PhysAddr> {
        peek(&self.ram, &self.state, lin).map(|found| PhysAddr(found.page.0 | lin.page_offset()))
    }

    // Windows.

    /// The index of data accesses by user code, or by supervisor code as long as EFLAGS.AC is clear.
    fn window_index(&self, user: bool) -> MmuIndex {
        if user {
            MmuIndex::User
        } else if self.state.cr4 & cr4::SMAP != 0 {
            MmuIndex::SuperSmap
        } else {
            MmuIndex::Super
        }
    }

    /// How a window of user or supervisor code may show the page of a linear address: as the TLB has it, where nothing about
    /// it is odd. It holds as long as [`Mmu::data_gen`] stays the same.
    pub fn shown(&mut self, lin: u32, user: bool) -> Option<Shown> {
        let (index, lin) = (self.window_index(user), u64::from(lin));
        let base = self.ram.map().address();
        let table = self.tlb.table_mut(index, lin)?;
        shown(table.entry(lin), lin, base)
    }

    /// All pages that [`Mmu::shown`] knows.
    pub fn all_shown(&mut self, user: bool, mut each: impl FnMut(u32, Shown)) {
        let index = self.window_index(user);
        let base = self.ram.map().address();
        if let Some(table) = self.tlb.table_mut(index, 0) {
            table.each(|lin, entry| {
                if let Ok(small) = u32::try_from(lin)
                    && let Some(shown) = shown(entry, lin, base)
                {
                    each(small, shown);
                }
            });
        }
    }

    // Large pages.

    /// Host address minus linear address, where the TLB knows `lin` as part of a large page, and all of the [`LARGE`] bytes
    /// around it may be read at the current privilege, in one piece of RAM. It holds as long as [`Mmu::data_gen`] stays the same.
    pub fn large(&self, lin: u64) -> Option<u64> {
        let table = self.tlb.tables(self.index)[usize::from(lin >> 63 != 0)]?;
        let (addend, page) = table.large_part(lin)?;
        let start = lin & !(LARGE - 1);
        let watched = self.watches.iter().flatten();
        if !self.ram.a20() || watched.into_iter().any(|watch| watch.touches(start, LARGE)) {
            return None;
        }
        let physical = page & !(LARGE - 1);
        let first = self.ram.frame(PhysAddr(physical))?.offset();
        let together = (0..LARGE).step_by(PAGE_SIZE as usize).all(|at| {
            let frame = self.ram.frame(PhysAddr(physical + at));
            frame.is_some_and(|frame| frame.offset() == first + at)
        });
        together.then_some(addend)
    }

    // Code.

    /// Marks bytes in one page as translated; None outside RAM (such code can't be kept). Mark first, then read
    /// (or read again) the bytes: a store that this doesn't see changes the generation. Until the stamp is
    /// settled (`GuestRam::is_settled`) compare the bytes each time before the translation is entered; once it
    /// is seen to be settled compare a last time, and from then on the generation is enough.
    pub fn mark_code(&mut self, addr: PhysAddr, len: u64) -> Option<CodeStamp> {
        let marked = self.ram.mark_code(self.cpu, addr, len)?;
        if marked.own_tags {
            let page = addr.page().0;
            self.tlb
                .every_table(|table| table.flag_code(|other| other == page));
            if let Some(frame) = self.ram.frame(addr) {
                self.ram.track.forget_writer(self.cpu, frame.index());
            }
            self.data_gen += 1;
        }
        Some(marked.stamp)
    }

    /// Whether no marked byte of the page has been written since the stamp.
    #[inline]
    pub fn code_valid(&self, addr: PhysAddr, stamp: CodeStamp) -> bool {
        self.ram.code_generation(addr) == stamp.generation
    }

    /// Whether memory still holds these bytes; they may cross pages only if these follow one another in memory.
    pub fn code_matches(&self, addr: PhysAddr, bytes: &[u8]) -> bool {
        let mut buffer = [0; 256];
        bytes.chunks(buffer.len()).zip(0u64..).all(|(chunk, i)| {
            let now = &mut buffer[..chunk.len()];
            self.ram.read(addr.wrapping_add(i * 256), now).is_ok() && now == chunk
        })
    }

    /// Whether a slow-path store has hit marked bytes since this was last asked. The engine must then leave the
    /// block it is in and check what it holds of the pages written.
    #[inline]
    pub fn take_code_hit(&mut self) -> bool {
        std::mem::take(&mut self.code_hit) != 0
    }

    /// The stores by this vCPU that hit marked bytes since this was last asked.
    #[inline]
    pub fn take_hits(&mut self) -> CodeHits {
        std::mem::take(&mut self.hits)
    }

    /// A store beside code was found to be possible at `lin`, in a frame of RAM: how the next ones there are made.
    /// Whether the lines of `mask` are still free of code then.
    pub(crate) fn beside_code(&mut self, lin: u64, frame: usize, mask: u64) -> bool {
        let track = &self.ram.track;
        let flags = if track.claim_write(self.cpu, frame) {
            0
        } else {
            track.claim_lines(self.cpu, frame);
            tag::TRACKED
        };
        let free = track.lines(frame) & mask == 0;
        if let Some(table) = self.tlb.table_mut(self.index, lin) {
            table.flag_writes(lin, flags);
        }
        free
    }

    /// Sees to what other threads have asked for: flushes after changes of A20, page attributes and the dirty
    /// log, drops write tags of pages that have become code. To be called before the next guest instruction when
    /// kicked (`GuestRam::set_kick`), and before running again after `park`.
    pub fn sync(&mut self) {
        let track = &self.ram.track;
        if self.parked {
            // From here on markers wait for this vCPU; what they did before is read below.
            track.publish(self.cpu, 0);
            fence(Ordering::SeqCst);
            self.parked = false;
        }
        let epoch = track.epoch();
        let flushes = track.flushes();
        if flushes != self.seen_flushes {
            self.seen_flushes = flushes;
            self.flush_all();
        } else if epoch != self.seen_epoch {
            let ram = Arc::clone(&self.ram);
            self.tlb
                .every_table(|table| table.flag_code(|page| ram.code_lines(PhysAddr(page)) != 0));
            self.data_gen += 1;
        }
        self.seen_epoch = epoch;
        self.ram.track.publish(self.cpu, epoch);
    }

    /// The vCPU won't run guest code (it halts, or has ended) until it has called `sync`: nobody waits for it.
    pub fn park(&mut self) {
        self.parked = true;
        self.ram.track.park(self.cpu);
    }

    // Data breakpoints.

    /// Sets or clears data breakpoint `n` (0 to 3). Its page takes the slow path from now on.
    pub fn set_watch(&mut self, n: usize, watch: Option<Watch>) {
        let Some(place) = self.watches.get_mut(n) else {
            return;
        };
        let old = std::mem::replace(place, watch);
        for watch in [old, watch].into_iter().flatten() {
            for lin in [
                watch.lin.0,
                watch
                    .lin
                    .0
                    .wrapping_add(u64::from(watch.len.saturating_sub(1))),
            ] {
                self.tlb.every_table(|table| table.drop_small(lin));
            }
        }
        self.data_gen += 1;
    }

    /// Records breakpoints that an access of `len` bytes in a watched page hits.
    #[cold]
    pub(crate) fn check_watches(&mut self, lin: u64, len: u64, kind: AccessKind) {
        for (n, watch) in self.watches.iter().enumerate() {
            let Some(watch) = watch else { continue };
            if watch.touches(lin, len) && (watch.on_read || kind == AccessKind::Write) {
                self.watch_hits |= 1 << n;
            }
        }
    }

    /// The breakpoints hit since the last call, bit n for number n (as in DR6).
    #[inline]
    pub fn take_watch_hits(&mut self) -> u8 {
        std::mem::take(&mut self.watch_hits) as u8
    }
}

/// What an entry permits at a linear address without a word.
fn shown(entry: &TlbEntry, lin: u64, base: u64) -> Option<Shown> {
    let page = lin & TAG_MASK;
    (entry.read_tag == page).then(|| Shown {
        offset: entry.addend.wrapping_add(page).wrapping_sub(base),
        write: entry.write_tag == page,
    })
}

impl Drop for Mmu {
    fn drop(&mut self) {
        self.ram.track.park(self.cpu);
    }
}
