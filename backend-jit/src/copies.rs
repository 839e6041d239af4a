//! Code that is mapped at many addresses, as shared libraries and position-independent programs are: translated for one
//! address, copied for the others.
//!
//! The second address that the same code is seen at makes an *original*: the block emitted once more, for an address of our
//! own, and kept unlinked with notes of what depends on the address ([`crate::x64::asm::Field`]). It is kept only if a copy for
//! the block's true address is what was just emitted for it, byte by byte: so who forgets a note loses speed, and no more.

use std::sync::Arc;

use ir::OpCode;
use translation::Key;
use x86::AddressMap;

use crate::core::{key, mode_of};
use crate::hops::By;
use crate::x64::asm::{Asm, Base, Saved};
use crate::x64::emit::{self, Compiled, Context};
use crate::x64::runtime::Stubs;

/// The address that originals are emitted for (the offset in the page is the block's), and numbers that take four bytes.
const LIN: u64 = 0x2aaa_5555_3000;
const NUMBERS: [u32; 4] = [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444];
const PAGE: (usize, u32) = (5, 0x5555_5555);

/// Addresses whose neighbourhood needs 8 bytes as a constant, and none that is negative.
const RANGE: std::ops::Range<u64> = 1 << 33..(1 << 47) - (1 << 33);

/// Bytes that originals may take.
const MOST: usize = 24 << 20;
/// Code that was seen once.
const MOST_SEEN: usize = 1 << 17;

/// An instruction for the interpreter: its op that is one, its length, its ops.
pub type SlowPart = ((OpCode, u32), u8, Arc<(ir::Block, frontend_x86::Mode)>);

/// See the module's text.
pub struct Original {
    pub bytes: Box<[u8]>,
    pub insns: u32,
    pub slow: Box<[SlowPart]>,
    code: Saved,
    base: Base,
    compiled: Compiled,
}

impl Original {
    /// What emission would have made of it in this context.
    pub fn copy(&self, asm: &mut Asm, context: &Context<'_>, parts: emit::Parts) -> Compiled {
        asm.load_saved(&self.code, &self.base, &base(context));
        let moved = context.ip.wrapping_sub(self.base.lin);
        self.compiled.copy(moved, parts)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.code.size() + self.compiled.size() + self.bytes.len()
    }
}

/// What code is an original for, but for its bytes: physical address, mode, flags, how it finds memory.
type Place = (u64, u64, u64, By);

/// See the module's text.
#[derive(Default)]
pub struct Copies {
    originals: AddressMap<Place, Arc<Original>>,
    size: usize,
    /// The linear address that code was seen at, by physical address.
    seen: AddressMap<u64, u64>,
    asm: Asm,
    parts: emit::Parts,
    /// Blocks that were copied.
    pub copied: u64,
    /// Originals made.
    pub kept: u64,
    /// Blocks that came out otherwise at another address.
    pub unlike: u64,
}

impl Copies {
    /// Whether blocks of a key can be copied, or originals.
    pub fn suit(wanted: &Key) -> bool {
        let mode = mode_of(wanted.mode);
        mode.code64()
            && mode.cpl() == 3
            && wanted.mode & (key::SINGLE | key::UNMERGED) == 0
            && RANGE.contains(&wanted.lin)
    }

    /// The original of a block that memory holds these bytes for.
    pub fn find(&self, wanted: &Key, by: By, bytes: &[u8]) -> Option<Arc<Original>> {
        let original = self.originals.get(&place(wanted, by))?;
        bytes
            .starts_with(&original.bytes)
            .then(|| Arc::clone(original))
    }

    /// Whether it is time to make one: the code was seen at another address before.
    pub fn seen_elsewhere(&mut self, wanted: &Key) -> bool {
        if self.seen.len() >= MOST_SEEN {
            self.seen.clear();
        }
        let first = *self.seen.entry(wanted.phys).or_insert(wanted.lin);
        first != wanted.lin
    }

    /// Panics unless emission makes of the block what the copy in `asm` is, which is linked.
    pub fn check(
        &mut self,
        stubs: &Stubs,
        block: &ir::Block,
        context: Context<'_>,
        asm: &mut Asm,
        at: (u32, u32),
    ) {
        let parts = std::mem::take(&mut self.parts);
        let emitted = emit::emit(&mut self.asm, stubs, block, context, parts);
        self.asm.link(at.0, at.1);
        asm.link(at.0, at.1);
        let (lin, same) = (context.ip, self.asm.same(asm));
        assert!(
            emitted.is_ok() && same,
            "the copy for {lin:#x} is another block"
        );
    }

    /// Makes an original of a block that was just emitted for `context` and lies linked at `at`; `made` is its code.
    #[expect(clippy::too_many_arguments, reason = "what a block is made of")]
    pub fn keep(
        &mut self,
        stubs: &Stubs,
        block: &ir::Block,
        wanted: &Key,
        context: &Context<'_>,
        made: &Asm,
        at: (u32, u32),
        bytes: &[u8],
        slow: Vec<SlowPart>,
    ) {
        let Context {
            check: None,
            guards: [Some(_), None],
            ..
        } = context
        else {
            return;
        };
        let elsewhere = Context {
            ip: LIN | wanted.lin & x86::PAGE_MASK,
            id: NUMBERS[0],
            first: [NUMBERS[1], NUMBERS[2], NUMBERS[3]],
            guards: [Some(PAGE), None],
            ..*context
        };
        let parts = std::mem::take(&mut self.parts);
        let Ok(compiled) = emit::emit(&mut self.asm, stubs, block, elsewhere, parts) else {
            return;
        };
        let code = self.asm.save();
        let old = base(&elsewhere);
        self.asm.load_saved(&code, &old, &base(context));
        self.asm.link(at.0, at.1);
        if !self.asm.same(made) {
            self.unlike += 1;
            self.parts = compiled.recycle();
            return;
        }
        let original = Original {
            bytes: bytes.into(),
            insns: block.insns,
            slow: slow.into(),
            code,
            base: old,
            compiled: compiled.copy(0, emit::Parts::default()),
        };
        self.parts = compiled.recycle();
        if self.size >= MOST {
            self.originals.clear();
            self.size = 0;
        }
        self.size += original.size();
        self.kept += 1;
        let place = place(wanted, context.by);
        if let Some(old) = self.originals.insert(place, Arc::new(original)) {
            self.size -= old.size();
        }
    }
}

fn place(wanted: &Key, by: By) -> Place {
    (wanted.phys, wanted.mode, wanted.flags, by)
}

fn base(context: &Context<'_>) -> Base {
    let [exits, indirects, slow] = context.first;
    Base {
        lin: context.ip,
        numbers: [context.id, exits, indirects, slow],
        page: context.guards[0].unwrap_or_default(),
    }
}
