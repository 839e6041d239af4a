//! The code cache: finds and makes blocks.

mod install;

use std::sync::Arc;
use std::time::Instant;

use frontend_x86::{End, Features, Limits, Mode};
use ir::opt::Switches;
use softmmu::{CodeHits, CodeSpan, CodeStamp, Fault};
use system::Vcpu;
use translation::{BlockId, Blocks, ByRegion, CodeMemory, Key, Perf};
use x86::{AddressMap, Exception, LinAddr, PAGE_SIZE, PhysAddr, Seg};

use crate::changing::{self, Changing};
use crate::checked::Source;
use crate::copies::{Copies, Original};
use crate::dump::Dump;
use crate::hops::{By, Hops};
use crate::links::Exit;
use crate::pages::PageNumbers;
use crate::shared::{Epochs, Gone};
use crate::trace::{Trace, Traces};
use crate::x64::asm::Asm;
use crate::x64::emit::system::Direct;
use crate::x64::emit::{self, Check, Field, Indirect, Kind};
use crate::x64::flags::Desc;
use crate::x64::frame::{Frame, Jump, TEMPS};
use crate::x64::runtime::Stubs;

/// Guest instructions in a block at most.
pub const MAX_INSNS: u32 = 64;
/// Conditional branches forward that a block goes on behind at most.
pub const MAX_BRANCHES: u32 = 6;
const MAX_BYTES: usize = 400;

/// Blocks of one place that differ in where they find the flags.
const MAX_VARIANTS: u8 = 4;

/// The engine's bits in a block's mode.
pub mod key {
    /// One instruction, never linked.
    pub const SINGLE: u64 = 1 << 32;
    /// Instructions are counted.
    pub const COUNT: u64 = 1 << 33;
    /// Floating-point exceptions are unmasked.
    pub const UNMASKED: u64 = 1 << 34;
    /// The x87's are, or one is pending.
    pub const X87_UNMASKED: u64 = 1 << 40;
    /// Accesses are checked one by one.
    pub const UNMERGED: u64 = 1 << 41;
    /// Not long mode.
    pub const LEGACY: u64 = 1 << 42;
    /// Accesses go through the vCPU's window.
    pub const WINDOW: u64 = 1 << 43;
    /// Either.
    pub const ANY_UNMASKED: u64 = UNMASKED | X87_UNMASKED;
}

/// What a call from translated code needs to know of its place.
#[derive(Clone, Copy)]
pub struct Side {
    /// Offset of the return address.
    pub at: u32,
    pub delta: i32,
    pub ord: u16,
    pub flags: Option<Desc>,
    pub kind: Kind,
}

/// An access through a window.
#[derive(Clone, Copy)]
pub struct View {
    /// Offset of its code; all that lies before the next one's is its own.
    pub at: u32,
    /// The host's flags are the guest's.
    pub host_flags: bool,
    pub side: Side,
    /// How often it could not be made through the window.
    pub failed: u8,
}

/// The engine's part of a block.
pub struct Own {
    pub entry: u32,
    /// How its accesses find memory.
    pub by: By,
    /// How often a miss of its page caches, or of the table of large pages, was looked at.
    pub hops: u8,
    pub guarded: u32,
    /// Where the entry leads when the check fails and there is no other version.
    pub stale: u32,
    pub flags: Option<Desc>,
    pub insns: u16,
    pub flags_dead: bool,
    /// It has a loop without checks.
    pub repeats: bool,
    /// It compares its code on entry.
    pub checked: Option<Checked>,
    /// The exits that are linked here.
    pub incoming: Vec<u32>,
    /// How often a look found it: see `trace.rs`.
    pub heat: u8,
    /// It is a trace.
    pub trace: Option<Trace>,
    /// The traces that it is a part of.
    pub traces: Vec<BlockId>,
    /// The number of the first instruction of each part, as emitted.
    pub begins: Vec<u16>,
    sides: Box<[Side]>,
    /// One of them is not to go through it after all.
    pub(crate) outdated: bool,
    /// Its accesses through a window, in order.
    pub(crate) views: Box<[View]>,
    /// The pages that a jump from elsewhere must know: slot and number.
    pub pages: [Option<(usize, u32)>; 2],
}

/// What a block that compares its code needs.
pub struct Checked {
    /// The displacement of the jump that is taken when the code differs.
    pub fail: u32,
    /// What is read, not compared.
    pub fields: Box<[Field]>,
}

/// An instruction for the interpreter.
pub struct Slow {
    pub site: Site,
    /// The op that the interpreter is needed for.
    pub op: (ir::OpCode, u32),
    /// The ops.
    pub from: Arc<(ir::Block, Mode)>,
}

/// Where it is.
#[derive(Clone, Copy)]
pub struct Site {
    pub len: u8,
    pub ord: u16,
    pub flags: Option<Desc>,
    /// It looks at x87 registers, or changes them.
    pub x87: bool,
    /// It is a helper's call and nothing else.
    pub direct: Option<Direct>,
    /// Its instruction pointer, its block's mode, and how many instructions that has.
    pub ip: u64,
    pub mode: u64,
    pub insns: u16,
}

/// What a block's code is made for.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    pub wanted: Key,
    pub flags: Option<Desc>,
    pub second: Option<u64>,
    pub stamps: Option<[CodeStamp; 2]>,
    pub check: Option<Check<'a>>,
    /// See [`emit::Context::parts`].
    pub parts: &'a [emit::Part],
}

/// What has been done, for `--stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub blocks: u64,
    pub insns: u64,
    pub bytes: u64,
    pub hot: u64,
    pub cold: u64,
    pub translate_ns: u64,
    pub slow_sites: u64,
    pub variants: u64,
    /// Regions whose blocks were dropped for new ones.
    pub reclaimed: u64,
    /// Blocks that compare their code on entry.
    pub checked: u64,
    /// Instructions that do not go through windows any more.
    pub blind: u64,
    /// Accesses that go through a window.
    pub windowed: u64,
}

/// What a block's code comes from.
#[derive(Clone, Copy)]
pub enum Code<'a> {
    /// Its ops; `keep` an original for copies.
    Block { block: &'a ir::Block, keep: bool },
    /// A copy; with `block`, of which emission must make the same.
    Original {
        original: &'a Original,
        block: Option<&'a ir::Block>,
    },
}

/// Why a block was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It cannot be.
    Ever,
    /// There is no room until other vCPUs have left the code that is to go.
    Now,
}

/// Where the next code comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Block(BlockId),
    /// The interpreter must run what is there.
    Interpret,
}

/// See the module's text.
pub struct Core {
    pub memory: CodeMemory,
    pub stubs: Stubs,
    pub blocks: Blocks<Own>,
    pub exits: ByRegion<Exit>,
    pub indirects: ByRegion<(BlockId, Indirect)>,
    pub slow: ByRegion<Arc<Slow>>,
    pub stats: Stats,
    /// What is to be shown of blocks.
    pub dump: Dump,
    /// Where perf is told of code.
    pub perf: Option<Arc<Perf>>,
    pub features: Features,
    pub switches: Switches,
    asm: Asm,
    parts: emit::Parts,
    pub spare: Option<ir::Block>,
    pub(crate) pages: PageNumbers,
    pub(crate) variants: AddressMap<(u64, u64), u8>,
    pub changing: Changing,
    pub(crate) unsuitable: AddressMap<Key, ()>,
    code_epoch: u64,
    /// The vCPU that has last looked at code or made some.
    last: usize,
    pub(crate) hops: Hops,
    pub copies: Copies,
    /// The linear addresses of instructions that do not go through a window.
    pub(crate) blind: AddressMap<u64, ()>,
    pub(crate) epochs: Arc<Epochs>,
    /// Rises when a region is retired.
    pub(crate) generation: u64,
    /// The generation that each region was last retired in, and whether its blocks are still there.
    pub(crate) retired: Box<[(u64, bool)]>,
    /// Blocks that nobody may enter by a jump cache any more.
    pub gone: Gone,
    renumbered: u64,
    pub(crate) traces: Traces,
}

impl Core {
    pub fn new(memory: CodeMemory, stubs: Stubs, features: Features, epochs: Arc<Epochs>) -> Self {
        let regions = memory.regions();
        Self {
            memory,
            stubs,
            blocks: Blocks::new(regions),
            exits: ByRegion::new(regions),
            indirects: ByRegion::new(regions),
            slow: ByRegion::new(regions),
            stats: Stats::default(),
            dump: Dump::default(),
            perf: None,
            features,
            switches: Switches::ALL,
            asm: Asm::default(),
            parts: emit::Parts::default(),
            spare: None,
            pages: PageNumbers::default(),
            variants: AddressMap::default(),
            changing: Changing::default(),
            unsuitable: AddressMap::default(),
            code_epoch: 0,
            last: 0,
            hops: Hops::default(),
            copies: Copies::default(),
            blind: AddressMap::default(),
            epochs,
            generation: 0,
            retired: vec![(0, false); regions].into(),
            gone: Gone::new(),
            renumbered: 0,
            traces: Traces::default(),
        }
    }

    /// Finds or makes the block at RIP, for flags in memory, or also where `flags` says. Fetch faults come back as
    /// exceptions.
    pub fn find(
        &mut self,
        v: &mut Vcpu,
        frame: &mut Frame,
        mode: u64,
        flags: Option<Desc>,
    ) -> Result<Found, Exception> {
        if mode_of(mode).code64() {
            if !v.is_canonical(v.st.rip) {
                return Err(Exception::GP0);
            }
        } else if v.st.rip > u64::from(v.seg(Seg::Cs).limit) {
            return Err(Exception::GP0);
        }
        let (lin, cs) = (linear_ip(v), code_segment(v, mode));
        let page = v.mmu.fetch_page(LinAddr(lin)).map_err(fault)?;
        frame.follow(&v.mmu);
        let phys = page.page.0 | lin & x86::PAGE_MASK;
        let plain = Key {
            lin,
            cs,
            phys,
            mode,
            flags: 0,
        };
        if !page.ram || self.unsuitable.contains_key(&plain) {
            return Ok(Found::Interpret);
        }
        let packed = flags.map_or(0, |d| d.pack());
        let mut wanted = plain;
        let mut there;
        if packed == 0 {
            there = self.blocks.find(plain);
        } else {
            let exact = Key {
                flags: packed,
                ..plain
            };
            if let Some(id) = self.blocks.find(exact) {
                (wanted, there) = (exact, Some(id));
            } else {
                there = self.blocks.find(plain);
                if there.is_none_or(|id| !self.blocks.get(id).own.flags_dead) {
                    make_room(&mut self.variants);
                    let made = self.variants.entry((lin, phys)).or_insert(0);
                    if *made < MAX_VARIANTS {
                        *made += 1;
                        (wanted, there) = (exact, None);
                    }
                }
            }
        }
        if self.changing.checked(&wanted) {
            return self.find_checked(v, frame, wanted, flags.filter(|_| wanted.flags != 0));
        }
        if let Some(id) = there
            && self.usable(v, id)
        {
            self.know_pages(frame, id);
            return Ok(Found::Block(id));
        }
        let flags = if wanted.flags == 0 { None } else { flags };
        let found = self.make(v, frame, wanted, flags)?;
        if let Found::Block(id) = found {
            self.know_pages(frame, id);
        }
        Ok(found)
    }

    /// Whether a block is what memory holds; makes a stale one good again if it is.
    fn usable(&mut self, v: &mut Vcpu, id: BlockId) -> bool {
        if !self.second_is_mapped(v, id) {
            return false;
        }
        let info = self.blocks.get_mut(id);
        let span = info.span();
        let waiting = info.stamps.iter().fold(0, |all, s| all | s.waiting);
        if waiting & 1 << v.mmu.cpu() != 0 {
            // Another vCPU made it: this one's stores to it must be noticed before it runs it.
            v.mmu.sync();
        }
        if !info.stale && span.is_current(&v.mmu, &mut info.stamps, &info.bytes) {
            return true;
        }
        // Only a stale block is to be made again.
        let info = self.blocks.get(id);
        !self.hops.outdated(info) && !info.own.outdated && self.refreshed(v, id)
    }

    /// Whether the page behind the first is the one that the block's code goes on in, if it does.
    pub fn second_is_mapped(&self, v: &mut Vcpu, id: BlockId) -> bool {
        let info = self.blocks.get(id);
        let next = LinAddr((info.key.lin & !x86::PAGE_MASK).wrapping_add(PAGE_SIZE));
        info.second
            .is_none_or(|second| v.mmu.fetch_page(next).is_ok_and(|p| p.page.0 == second))
    }

    fn refreshed(&mut self, v: &mut Vcpu, id: BlockId) -> bool {
        let info = self.blocks.get_mut(id);
        let span = info.span();
        let Some(stamps) = span.mark(&mut v.mmu) else {
            return false;
        };
        info.stamps = stamps;
        if !span.holds(&v.mmu, &info.bytes) {
            return false;
        }
        let key = info.key;
        self.blocks.refresh(id);
        self.changing.same(&key);
        true
    }

    /// Whether no store to the block's code can have gone unseen.
    pub fn settled_for_good(&self, id: BlockId) -> bool {
        let info = self.blocks.get(id);
        !info.stale && info.stamps.iter().all(|stamp| stamp.is_trusted())
    }

    /// Notes that the pages of a block just looked up are mapped where it thinks.
    pub fn know_pages(&self, frame: &mut Frame, id: BlockId) {
        for (slot, number) in self.blocks.get(id).own.pages.iter().flatten() {
            frame.pages[*slot] = *number;
        }
    }

    /// Puts a block that was found for RIP into the jump cache.
    pub fn know(&self, frame: &mut Frame, id: BlockId) {
        if self.settled_for_good(id) {
            let key = &self.blocks.get(id).key;
            let (set, rip) = (Frame::jump_set(mode_of(key.mode)), frame.tag | key.lin);
            let code = self.memory.address(self.blocks.get(id).own.guarded);
            frame.put_jump(set, Jump { rip, code });
        }
    }

    /// What is to be done for a block that was not made.
    pub fn refused(&mut self, refused: Refused, wanted: Key) -> Found {
        if refused == Refused::Ever {
            self.give_up(wanted);
        }
        Found::Interpret
    }

    /// Rises when a region is retired.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a region was retired after a generation.
    pub fn retired_since(&self, region: usize, generation: u64) -> bool {
        self.retired.get(region).is_some_and(|r| r.0 > generation)
    }

    /// Rises when page numbers are given anew: what frames have of them is worth nothing.
    pub fn renumbered(&self) -> u64 {
        self.renumbered
    }

    /// Page numbers start again once nobody holds any.
    pub(crate) fn renumber(&mut self) {
        if self.pages.start_again() {
            self.renumbered += 1;
        }
    }

    /// There is no translating what a key stands for, as long as this is remembered.
    pub fn give_up(&mut self, wanted: Key) {
        make_room(&mut self.unsuitable);
        self.unsuitable.insert(Key { flags: 0, ..wanted }, ());
    }

    /// Holds the page numbers of a block.
    fn hold_pages(&mut self, key: &Key, second: Option<u64>) -> Option<[Option<(usize, u32)>; 2]> {
        let long_mode = key.mode & key::LEGACY == 0;
        let first = self.pages.hold(key.lin, key.phys, long_mode)?;
        let Some(phys) = second else {
            return Some([Some(first), None]);
        };
        let next = key.lin.wrapping_add(PAGE_SIZE);
        let second = self.pages.hold(next, phys, long_mode);
        if second.is_none() {
            self.pages.release(key.lin, key.phys);
        }
        Some([Some(first), Some(second?)])
    }

    /// They are held once less.
    pub(crate) fn release_pages(&mut self, key: &Key, second: Option<u64>) {
        self.pages.release(key.lin, key.phys);
        if let Some(phys) = second {
            self.pages.release(key.lin.wrapping_add(PAGE_SIZE), phys);
        }
    }

    /// Looks for code that was changed up to an epoch, by a vCPU that last looked at another one and has made these
    /// stores to code since.
    pub fn check_code(&mut self, v: &Vcpu, hits: CodeHits, seen: u64, epoch: u64) {
        let cpu = v.mmu.cpu();
        // Nobody else has looked, made blocks or written to code in between.
        let alone = self.code_epoch == seen && std::mem::replace(&mut self.last, cpu) == cpu;
        if epoch <= self.code_epoch {
            return;
        }
        let ram = v.mmu.ram();
        let mut hit = Vec::new();
        match hits.exactly(epoch.wrapping_sub(seen)).filter(|_| alone) {
            Some(hits) => {
                for one in hits {
                    self.blocks.check_lines(ram, *one, |id| hit.push(id));
                }
            }
            None => self.blocks.check_pages(ram, |id| hit.push(id)),
        }
        self.code_epoch = epoch;
        for id in hit {
            self.unlink(id);
        }
    }

    /// Translates the block of a key.
    pub fn make(
        &mut self,
        v: &mut Vcpu,
        frame: &mut Frame,
        wanted: Key,
        flags: Option<Desc>,
    ) -> Result<Found, Exception> {
        let start = Instant::now();
        let mode = mode_of(wanted.mode);
        let lin = wanted.lin;
        let checked = self.changing.checked(&wanted);
        let (max_bytes, max_insns) = if checked {
            (changing::MAX_BYTES, changing::MAX_INSNS)
        } else {
            (MAX_BYTES, MAX_INSNS)
        };
        let copied = !checked && !self.dump.on() && Copies::suit(&wanted);
        let to_limit = if mode.code64() {
            usize::MAX
        } else {
            let end = u64::from(v.seg(Seg::Cs).limit) + 1;
            usize::try_from(end.saturating_sub(v.st.rip)).unwrap_or(usize::MAX)
        };
        let in_page = ((PAGE_SIZE - (lin & x86::PAGE_MASK)) as usize).min(max_bytes);
        let in_page = in_page.min(to_limit);
        let mut bytes = [0; MAX_BYTES + 16];
        let mut available = v
            .mmu
            .fetch_bytes(LinAddr(lin), &mut bytes[..in_page])
            .map_err(fault)?;
        let single = wanted.mode & key::SINGLE != 0;
        let mut original = None;
        if copied {
            let by = self.hops.by(&wanted);
            original = self.copies.find(&wanted, by, &bytes[..available]);
            if let Some(original) = original.as_ref().filter(|_| !ir::verify::enabled()) {
                let code = Code::Original {
                    original,
                    block: None,
                };
                let found = self.place(v, frame, code, wanted, flags, None, &original.bytes);
                self.stats.translate_ns += start.elapsed().as_nanos() as u64;
                return Ok(found);
            }
        }
        let mut limits = Limits {
            max_insns: if single { 1 } else { max_insns },
            page: in_page as u32,
            branches: if single || checked { 0 } else { MAX_BRANCHES },
        };
        let mut second = None;
        let mut lifted = self.lift(&bytes[..available], &limits, mode);
        if let End::FetchFault(_) = lifted.end {
            if available >= to_limit {
                return Err(Exception::GP0);
            }
            // The first instruction reaches into the next page: that page is fetched only now that it is needed.
            let next = (lin & !x86::PAGE_MASK).wrapping_add(PAGE_SIZE);
            if !mode.code64() && next > 0xffff_ffff {
                return Ok(Found::Interpret);
            }
            let page = v.mmu.fetch_page(LinAddr(next)).map_err(fault)?;
            if !page.ram {
                return Ok(Found::Interpret);
            }
            second = Some(page.page.0);
            let more = 15.min(to_limit - available);
            available += v
                .mmu
                .fetch_bytes(LinAddr(next), &mut bytes[available..available + more])
                .map_err(fault)?;
            limits.max_insns = 1;
            lifted = self.lift(&bytes[..available], &limits, mode);
            if let End::FetchFault(_) = lifted.end {
                return Err(Exception::GP0);
            }
        }
        while usize::from(lifted.block.temps) > TEMPS && limits.max_insns > 1 {
            limits.max_insns = (lifted.block.insns / 2).max(1);
            self.spare = Some(lifted.block);
            lifted = self.lift(&bytes[..available], &limits, mode);
        }
        if checked {
            let source = Source {
                wanted,
                flags,
                second,
                limits,
                in_page,
            };
            let found = self.make_checked(v, source, lifted.block, &bytes[..available]);
            self.stats.translate_ns += start.elapsed().as_nanos() as u64;
            return Ok(found);
        }
        let mut block = lifted.block;
        let bytes = &bytes[..block.len as usize];
        ir::opt::run(&mut block, self.switches);
        let code = match &original {
            Some(original) => Code::Original {
                original,
                block: Some(&block),
            },
            None => Code::Block {
                block: &block,
                keep: copied && second.is_none() && self.copies.seen_elsewhere(&wanted),
            },
        };
        let found = self.place(v, frame, code, wanted, flags, second, bytes);
        self.spare = Some(block);
        self.stats.translate_ns += start.elapsed().as_nanos() as u64;
        Ok(found)
    }

    /// Installs a block that was made of these bytes, if memory still holds them.
    fn place(
        &mut self,
        v: &mut Vcpu,
        frame: &mut Frame,
        code: Code<'_>,
        wanted: Key,
        flags: Option<Desc>,
        second: Option<u64>,
        bytes: &[u8],
    ) -> Found {
        let span = CodeSpan {
            start: PhysAddr(wanted.phys),
            second: second.map(PhysAddr),
            len: bytes.len() as u64,
        };
        self.last = v.mmu.cpu();
        // Mark first, then look again: a store in between is either seen here or changes the generation.
        let Some(stamps) = span.mark(&mut v.mmu) else {
            return Found::Interpret;
        };
        frame.follow(&v.mmu);
        if !span.holds(&v.mmu, bytes) {
            return Found::Interpret;
        }
        let making = Making {
            wanted,
            flags,
            second,
            stamps: Some(stamps),
            check: None,
            parts: &[],
        };
        match self.install(Some(v.mmu.ram()), code, making, bytes) {
            Ok(id) => Found::Block(id),
            Err(refused) => self.refused(refused, wanted),
        }
    }

    pub fn lift(&mut self, bytes: &[u8], limits: &Limits, mode: Mode) -> frontend_x86::Lifted {
        let builder = self
            .spare
            .take()
            .map_or_else(ir::Builder::new, ir::Builder::recycle);
        frontend_x86::lift_into(builder, bytes, limits, mode, &self.features)
    }

    /// The block whose code holds an offset.
    pub(crate) fn block_at(&self, at: u32) -> Option<BlockId> {
        self.blocks.at(self.memory.region_at(at), at)
    }

    /// The access through a window at an address.
    pub fn view(&mut self, pc: u64) -> Option<(BlockId, &mut View)> {
        let at = self.memory.offset(pc)?;
        let id = self.block_at(at)?;
        let views = &mut self.blocks.get_mut(id).own.views;
        let n = views.partition_point(|view| view.at <= at).checked_sub(1)?;
        Some((id, &mut views[n]))
    }

    /// An access could not be made through the window: where that goes on, it will not be tried any more.
    pub fn failed(&mut self, pc: u64) {
        const ENOUGH: u8 = 3;
        let Some((id, view)) = self.view(pc) else {
            return;
        };
        view.failed = view.failed.saturating_add(1);
        let (failed, delta) = (view.failed, view.side.delta);
        let info = self.blocks.get_mut(id);
        if failed >= ENOUGH && !info.own.outdated && info.own.checked.is_none() {
            info.own.outdated = true;
            let lin = info.key.lin.wrapping_add_signed(i64::from(delta));
            make_room(&mut self.blind);
            self.blind.insert(lin, ());
            self.stats.blind += 1;
            self.make_again(id);
        }
    }

    /// What is known of the place that a call came from.
    pub fn side(&self, ret: u64) -> Option<(BlockId, Side)> {
        let at = self.memory.offset(ret)?;
        let id = self.block_at(at.wrapping_sub(1))?;
        let sides = &self.blocks.get(id).own.sides;
        let n = sides.binary_search_by_key(&at, |s| s.at).ok()?;
        Some((id, sides[n]))
    }
}

/// Bounds what is remembered of places without blocks: the guest could go on making them.
pub fn make_room<K, V>(notes: &mut AddressMap<K, V>) {
    const MAX_NOTES: usize = 1 << 17;
    if notes.len() >= MAX_NOTES {
        notes.clear();
    }
}

/// The frontend's mode of a block's.
pub fn mode_of(mode: u64) -> Mode {
    Mode::from_bits(mode & 0xffff_ffff)
}

/// The linear address of the instruction at RIP.
pub fn linear_ip(v: &Vcpu) -> u64 {
    if v.st.code64() {
        v.st.rip
    } else {
        v.seg(Seg::Cs).base.wrapping_add(v.st.rip) & 0xffff_ffff
    }
}

/// [`Key::cs`] of code in a mode.
pub fn code_segment(v: &Vcpu, mode: u64) -> u64 {
    if emit::segmented(mode_of(mode)) {
        let cs = v.seg(Seg::Cs);
        cs.base & 0xffff_ffff | u64::from(cs.limit) << 32
    } else {
        0
    }
}

fn fault(f: Fault) -> Exception {
    system::fault(f)
}
