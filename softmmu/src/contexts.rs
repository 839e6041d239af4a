//! The TLB of one vCPU: tables by address space and privilege, and what each flush must drop.
//!
//! ```text
//! linear bit 63 = 0:  a set of tables per context (up to 16: CR3 base, PCID, PKRU), chosen by pointer
//! linear bit 63 = 1:  one set shared by all contexts; translations in it that aren't the same in all of them
//!                     ("local": not global, or user pages under protection keys) go at every context switch
//! ```
//! Each set has three tables, by [`MmuIndex`]. Bits of CR0, CR4 and EFER that change what entries permit are not
//! part of the key: a change of one flushes everything, as most of them must by the SDM (vol. 3, 5.10.4.1).
//!
//! For engines that link translated blocks across pages, a context's *generation* is another number after each event
//! by which a translation that instructions were fetched through may have gone, and is the old one when the guest comes
//! back to an address space in which nothing has gone since. In a kernel's part of the address space ([`is_kernels`]) there is
//! one generation for all contexts, as long as instructions were fetched through shared translations only: its links survive
//! every switch.
//!
//! Without PCIDs a CR3 write flushes all that isn't global (5.10.4.1), so then one context is renamed each time
//! and keeps its global translations, also below bit 63: that serves 32-bit guests.

use crate::fast::TableBox;
use crate::tlb::{Cold, Scope, TlbEntry, TlbTable};

/// Address spaces that are remembered.
const CONTEXTS: usize = 16;

/// Whose rights an entry's tags stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MmuIndex {
    /// User mode.
    User = 0,
    /// Supervisor mode with SMAP enforced.
    SuperSmap = 1,
    /// Supervisor mode without: CR4.SMAP is 0, or EFLAGS.AC is 1 and the access is explicit.
    Super = 2,
}

impl MmuIndex {
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// What tells address spaces apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Key {
    /// `PagingState::cr3_base`; 0 with paging off.
    pub(crate) base: u64,
    pub(crate) pcid: u16,
    /// 0 unless protection keys are in force.
    pub(crate) pkru: u32,
}

/// A set of linear pages, by hash: it may hold more than was put in.
#[derive(Clone, Default)]
struct Filter([u64; 16]);

impl Filter {
    fn place(lin: u64) -> (usize, u64) {
        let page = lin >> 12;
        let hash = page ^ page >> 10 ^ page >> 21;
        ((hash >> 6 & 15) as usize, 1 << (hash & 63))
    }

    fn add(&mut self, lin: u64) {
        let (word, bit) = Self::place(lin);
        self.0[word] |= bit;
    }

    fn has(&self, lin: u64) -> bool {
        let (word, bit) = Self::place(lin);
        self.0[word] & bit != 0
    }
}

/// The last GiB of 32 bits by page: a kernel fetches from more pages than a [`Filter`] tells apart, and invalidates its
/// temporary mappings all the time.
struct KernelPages(Box<[u64; 4096]>);

impl KernelPages {
    fn place(lin: u64) -> (usize, u64) {
        let page = lin >> 12;
        ((page >> 6 & 0xfff) as usize, 1 << (page & 63))
    }
}

type Tables = [Option<TableBox>; MmuIndex::COUNT];

fn each(tables: &mut Tables) -> impl Iterator<Item = &mut TableBox> {
    tables.iter_mut().flatten()
}

/// An address space.
#[derive(Default)]
struct Context {
    key: Key,
    /// Its tables may hold something.
    live: bool,
    last_used: u64,
    generation: u64,
    low: Tables,
    /// Pages below bit 63 that instructions were fetched from; cleared with the tables only.
    fetched: Filter,
}

impl Context {
    fn clear(&mut self) {
        each(&mut self.low).for_each(|table| table.clear());
        self.fetched = Filter::default();
    }

    /// Drops what isn't global. With `links`, those through global pages stay good, whether they are still in the tables or not.
    fn clear_local(&mut self, links: bool) {
        let mut left = links;
        each(&mut self.low).for_each(|table| left |= table.clear_local());
        if !left {
            self.fetched = Filter::default();
        }
    }
}

/// All tables of a vCPU.
pub(crate) struct Tlb {
    contexts: Vec<Context>,
    current: usize,
    high: Tables,
    /// As `Context::fetched`, for the shared tables.
    high_fetched: Filter,
    /// Pages of a kernel's part outside long mode that instructions were fetched from in any context.
    kernel_fetched: KernelPages,
    long_mode: bool,
    /// The generation of a kernel's part, unless `high_local`.
    high_generation: u64,
    /// Instructions were fetched there through a translation that isn't the same in all contexts.
    high_local: bool,
    /// Counts switches, for choosing the context to give up.
    clock: u64,
    /// The last generation given out.
    generations: u64,
}

fn is_high(lin: u64) -> bool {
    lin >> 63 != 0
}

/// Whether a kernel is expected at a linear address: the upper half of long mode's, the last GiB of others.
pub const fn is_kernels(lin: u64, long_mode: bool) -> bool {
    lin >> 63 != 0 || (!long_mode && lin >= 0xc000_0000)
}

impl Tlb {
    pub(crate) fn new() -> Self {
        let first = Context {
            live: true,
            generation: 1,
            ..Context::default()
        };
        let mut contexts = Vec::with_capacity(CONTEXTS);
        contexts.push(first);
        Self {
            contexts,
            current: 0,
            high: Tables::default(),
            high_fetched: Filter::default(),
            kernel_fetched: KernelPages(Box::new([0; 4096])),
            long_mode: false,
            high_generation: 2,
            high_local: false,
            clock: 0,
            generations: 2,
        }
    }

    /// The current context's generation.
    pub(crate) fn generation(&self) -> u64 {
        self.contexts[self.current].generation
    }

    /// The generation of a kernel's part.
    pub(crate) fn high_generation(&self) -> u64 {
        if self.high_local {
            self.generation()
        } else {
            self.high_generation
        }
    }

    /// The current tables for one index: below bit 63, above.
    pub(crate) fn tables(&self, index: MmuIndex) -> [Option<&TableBox>; 2] {
        let slot = index as usize;
        [
            self.contexts[self.current].low[slot].as_ref(),
            self.high[slot].as_ref(),
        ]
    }

    pub(crate) fn table_mut(&mut self, index: MmuIndex, lin: u64) -> Option<&mut TlbTable> {
        let set = if is_high(lin) {
            &mut self.high
        } else {
            &mut self.contexts[self.current].low
        };
        set[index as usize].as_deref_mut()
    }

    /// Enters a translation; true if a new table had to be made for it. `shared`: the same in all address spaces.
    pub(crate) fn put(
        &mut self,
        index: MmuIndex,
        lin: u64,
        entry: TlbEntry,
        cold: Cold,
        shared: bool,
    ) -> bool {
        let context = &mut self.contexts[self.current];
        let (set, fetched) = if is_high(lin) {
            (&mut self.high, &mut self.high_fetched)
        } else {
            (&mut context.low, &mut context.fetched)
        };
        if crate::tlb::tag::is_some(entry.exec_tag) {
            if is_kernels(lin, self.long_mode) && !is_high(lin) {
                let (word, bit) = KernelPages::place(lin);
                self.kernel_fetched.0[word] |= bit;
            } else {
                fetched.add(lin);
            }
            self.high_local |= is_kernels(lin, self.long_mode) && !shared;
        }
        let slot = &mut set[index as usize];
        let fresh = slot.is_none();
        slot.get_or_insert_with(TableBox::new)
            .put(entry, cold, !shared);
        fresh
    }

    fn renew(&mut self, context: usize) {
        self.generations += 1;
        self.contexts[context].generation = self.generations;
    }

    fn renew_all(&mut self) {
        (0..self.contexts.len()).for_each(|context| self.renew(context));
    }

    fn renew_high(&mut self) {
        self.generations += 1;
        self.high_generation = self.generations;
    }

    /// Drops what only the current context may use. `high_fetched` stays: links of other contexts may still stand.
    fn clear_high_local(&mut self) {
        each(&mut self.high).for_each(|table| {
            table.clear_local();
        });
    }

    /// Drops everything and goes to `key`.
    pub(crate) fn flush_all(&mut self, key: Key, long_mode: bool) {
        self.long_mode = long_mode;
        for context in &mut self.contexts {
            context.clear();
            context.live = false;
        }
        each(&mut self.high).for_each(|table| table.clear());
        self.high_fetched = Filter::default();
        self.kernel_fetched.0.fill(0);
        self.high_local = false;
        self.renew_high();
        self.renew_all();
        self.contexts[self.current].key = key;
        self.contexts[self.current].live = true;
    }

    /// Goes to another address space; nothing that is still valid there is lost.
    pub(crate) fn switch(&mut self, key: Key) {
        if self.contexts[self.current].key == key {
            return;
        }
        self.clear_high_local();
        if !self.long_mode {
            // Which pages of a kernel's part were fetched is the context's own knowledge.
            self.renew_high();
        }
        self.clock += 1;
        self.contexts[self.current].last_used = self.clock;
        if let Some(known) = self
            .contexts
            .iter()
            .position(|context| context.live && context.key == key)
        {
            self.current = known;
            return;
        }
        self.current = if let Some(free) = self.contexts.iter().position(|context| !context.live) {
            free
        } else if self.contexts.len() < CONTEXTS {
            self.contexts.push(Context::default());
            self.contexts.len() - 1
        } else {
            let oldest = self
                .contexts
                .iter()
                .enumerate()
                .min_by_key(|(_, context)| context.last_used);
            oldest.map_or(0, |(index, _)| index)
        };
        let current = self.current;
        let context = &mut self.contexts[current];
        context.clear();
        context.key = key;
        context.live = true;
        self.renew(current);
    }

    /// MOV to CR3 without PCIDs: all but global translations go, whatever the new base.
    pub(crate) fn reload(&mut self, key: Key) {
        self.flush_non_global();
        self.contexts[self.current].key = key;
    }

    /// INVPCID type 3: all but global translations of all address spaces.
    pub(crate) fn flush_non_global(&mut self) {
        for (index, context) in self.contexts.iter_mut().enumerate() {
            if index == self.current {
                context.clear_local(!self.long_mode);
            } else {
                context.clear();
                context.live = false;
            }
        }
        self.clear_high_local();
        self.renew_all();
    }

    /// MOV to CR3 with PCIDs, INVPCID type 1: all but global translations of a PCID.
    pub(crate) fn flush_pcid(&mut self, pcid: u16) {
        for index in 0..self.contexts.len() {
            if self.contexts[index].key.pcid == pcid {
                self.contexts[index].clear_local(!self.long_mode);
                self.renew(index);
            }
        }
        if self.contexts[self.current].key.pcid == pcid {
            self.clear_high_local();
        }
    }

    /// Whether instructions may have been fetched through the page of `lin` in a context.
    fn may_be_linked(&self, context: usize, lin: u64) -> bool {
        let context = &self.contexts[context];
        let (set, fetched) = if is_high(lin) {
            (&self.high, self.high_fetched.has(lin))
        } else if is_kernels(lin, self.long_mode) {
            let (word, bit) = KernelPages::place(lin);
            (&context.low, self.kernel_fetched.0[word] & bit != 0)
        } else {
            (&context.low, context.fetched.has(lin))
        };
        fetched || set.iter().flatten().any(|table| table.may_be_large(lin))
    }

    /// INVLPG: the page in the current PCID, and global translations of it in all (SDM vol. 3, 5.10.4.1).
    pub(crate) fn invlpg(&mut self, lin: u64) {
        let pcid = self.contexts[self.current].key.pcid;
        // Outside long mode what was fetched there has a generation of its own, unless contexts differ in it.
        let apart = is_kernels(lin, self.long_mode) && !is_high(lin) && !self.high_local;
        for index in 0..self.contexts.len() {
            if !apart && self.may_be_linked(index, lin) {
                self.renew(index);
            }
            let context = &mut self.contexts[index];
            let scope = if context.key.pcid == pcid {
                Scope::All
            } else {
                Scope::Global
            };
            if !is_high(lin) {
                each(&mut context.low).for_each(|table| table.drop_page(lin, scope));
            }
        }
        if is_kernels(lin, self.long_mode) && self.may_be_linked(self.current, lin) {
            self.renew_high();
        }
        if is_high(lin) {
            each(&mut self.high).for_each(|table| table.drop_page(lin, Scope::All));
        }
    }

    /// INVPCID type 0: the page in one PCID, unless global.
    pub(crate) fn flush_address(&mut self, pcid: u16, lin: u64) {
        for index in 0..self.contexts.len() {
            if self.contexts[index].key.pcid != pcid {
                continue;
            }
            if self.may_be_linked(index, lin) {
                self.renew(index);
            }
            if !is_high(lin) {
                each(&mut self.contexts[index].low)
                    .for_each(|table| table.drop_page(lin, Scope::NonGlobal));
            }
        }
        if is_high(lin) && self.contexts[self.current].key.pcid == pcid {
            each(&mut self.high).for_each(|table| table.drop_page(lin, Scope::NonGlobal));
        }
    }

    /// Calls `f` with every table of every context.
    pub(crate) fn every_table(&mut self, mut f: impl FnMut(&mut TlbTable)) {
        for context in &mut self.contexts {
            each(&mut context.low).for_each(|table| f(table));
        }
        each(&mut self.high).for_each(|table| f(table));
    }
}
