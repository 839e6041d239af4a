//! Blocks that check themselves: found, made, put in line with the other versions of their place.

use frontend_x86::{Limits, constants};
use ir::{Block, OpCode};
use softmmu::GuestRam;
use system::Vcpu;
use translation::{BlockId, Key};
use x86::{Exception, PhysAddr};

use crate::core::{Code, Core, Found, Making, Refused, mode_of};
use crate::vary;
use crate::x64::emit::Check;
use crate::x64::flags::Desc;
use crate::x64::frame::Frame;

/// What a block is made from.
#[derive(Clone, Copy)]
pub struct Source {
    pub wanted: Key,
    pub flags: Option<Desc>,
    /// Physical address of the second page, if its first instruction reaches there.
    pub second: Option<u64>,
    pub limits: Limits,
    /// Bytes that may be taken from the first page.
    pub in_page: usize,
}

/// How many instructions there are up to the first that may store: what it stores may be the code behind it.
fn until_store(block: &Block) -> u32 {
    let mut insns = 0;
    for op in &block.ops {
        insns += u32::from(op.code == OpCode::Insn);
        if ir::may_store(op) {
            break;
        }
    }
    insns.max(1)
}

impl Core {
    /// As [`Core::find`], for a place whose blocks check themselves. What is found is the first version: it knows the
    /// way to the one that memory holds.
    pub fn find_checked(
        &mut self,
        v: &mut Vcpu,
        frame: &mut Frame,
        wanted: Key,
        flags: Option<Desc>,
    ) -> Result<Found, Exception> {
        let versions = self.changing.versions(&wanted);
        let now = versions.iter().find(|id| self.holds(v, **id));
        if now.is_none() {
            if !self.changing.may_add(&wanted) {
                self.give_up(wanted);
                return Ok(Found::Interpret);
            }
            if self.make(v, frame, wanted, flags)? == Found::Interpret {
                return Ok(Found::Interpret);
            }
        }
        let Some(&first) = self.changing.versions(&wanted).first() else {
            return Ok(Found::Interpret);
        };
        // All have the same pages: see `Core::line_up`.
        self.know_pages(frame, first);
        Ok(Found::Block(first))
    }

    /// Whether memory holds what a checked block was made from.
    fn holds(&self, v: &mut Vcpu, id: BlockId) -> bool {
        if !self.second_is_mapped(v, id) {
            return false;
        }
        let info = self.blocks.get(id);
        let mut now = [0; crate::changing::MAX_BYTES + 16];
        let Some(now) = now.get_mut(..info.bytes.len()) else {
            return false;
        };
        info.span().read(v.mmu.ram(), now) && self.accepts(id, now)
    }

    /// Whether a checked block is a translation of these bytes.
    fn accepts(&self, id: BlockId, bytes: &[u8]) -> bool {
        let info = self.blocks.get(id);
        let Some(checked) = &info.own.checked else {
            return false;
        };
        bytes.len() == info.bytes.len()
            && bytes
                .iter()
                .zip(&*info.bytes)
                .enumerate()
                .all(|(n, (a, b))| a == b || checked.fields.iter().any(|f| f.range().contains(&n)))
    }

    /// Makes one more version. `block` is what the bytes were lifted to.
    pub fn make_checked(
        &mut self,
        v: &mut Vcpu,
        source: Source,
        mut block: Block,
        bytes: &[u8],
    ) -> Found {
        let wanted = source.wanted;
        let mode = mode_of(wanted.mode);
        let mut limits = source.limits;
        let insns = until_store(&block);
        if insns < block.insns {
            limits.max_insns = insns;
            block = self.lift(bytes, &limits, mode).block;
        }
        let Some(bytes) = bytes.get(..block.len as usize) else {
            return Found::Interpret;
        };
        let ram = v.mmu.ram();
        let host = [Some(wanted.phys), source.second]
            .map(|at| at.map_or(Some(0), |at| ram.host_address(PhysAddr(at))));
        let [Some(first), Some(second)] = host else {
            return Found::Interpret;
        };
        let split = source.in_page.min(bytes.len());
        let last = self.blocks.find(wanted);
        let last = last.or_else(|| self.blocks.find(Key { flags: 0, ..wanted }));
        if let Some(last) = last {
            self.changing
                .changed(&wanted, &self.blocks.get(last).bytes, bytes);
        }
        ir::opt::run(&mut block, self.switches);
        let constants = constants(bytes, mode, &self.features);
        let apart = |at: u32, size: u32| at as usize >= split || (at + size) as usize <= split;
        let varying: Vec<_> = constants
            .into_iter()
            .filter(|c| self.changing.varies(&wanted, *c) && apart(c.at, c.size))
            .collect();
        let general = vary::generalise(
            bytes,
            &varying,
            |_| true,
            |bytes| {
                let mut block = self.lift(bytes, &limits, mode).block;
                ir::opt::run(&mut block, self.switches);
                block
            },
        );
        let mut check = Check {
            host: [first, second],
            split,
            bytes,
            fields: &[],
        };
        let mut made = Err(Refused::Ever);
        if let Some((block, fields)) = &general {
            check.fields = fields;
            made = self.install_checked(ram, block, source, check);
        }
        if made == Err(Refused::Ever) {
            check.fields = &[];
            made = self.install_checked(ram, &block, source, check);
        }
        self.spare = Some(block);
        match made {
            Ok(id) => {
                self.line_up(wanted, id);
                Found::Block(id)
            }
            Err(refused) => self.refused(refused, wanted),
        }
    }

    fn install_checked(
        &mut self,
        ram: &GuestRam,
        block: &Block,
        source: Source,
        check: Check<'_>,
    ) -> Result<BlockId, Refused> {
        let making = Making {
            wanted: source.wanted,
            flags: source.flags,
            second: source.second,
            stamps: None,
            check: Some(check),
            parts: &[],
        };
        let code = Code::Block { block, keep: false };
        self.install(Some(ram), code, making, check.bytes)
    }

    /// Puts a new version behind the others of its key, and in the place of those that it serves for too. There is but
    /// one where the code lies on two pages, since the second may be another for each.
    fn line_up(&mut self, key: Key, id: BlockId) {
        let fresh = self.blocks.get(id);
        let two_pages = fresh.second.is_some();
        let replaces = |old: BlockId| {
            let old = self.blocks.get(old);
            two_pages || old.second.is_some() || self.accepts(id, &old.bytes)
        };
        let gone: Vec<BlockId> = self
            .changing
            .versions(&key)
            .iter()
            .copied()
            .filter(|old| replaces(*old))
            .collect();
        self.changing.add(&key, id, |old| gone.contains(&old));
        if let Some(&first) = self.changing.versions(&key).first() {
            for old in gone {
                self.replace(old, first);
            }
        }
        self.chain(&key);
    }

    /// Makes each version of a key lead to the next when memory holds other code than its own.
    pub(crate) fn chain(&mut self, key: &Key) {
        let list = self.changing.versions(key);
        for (n, id) in list.iter().enumerate() {
            let own = &self.blocks.get(*id).own;
            let next = list
                .get(n + 1)
                .map_or(own.stale, |next| self.blocks.get(*next).own.entry);
            if let Some(checked) = &own.checked {
                self.memory.retarget(checked.fail, next);
            }
        }
    }
}
