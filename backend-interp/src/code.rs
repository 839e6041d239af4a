//! Lowered code: an array of handlers with their operands, and how one handler goes on to the next.
//!
//! A handler is a function of the vCPU and its own [`LOp`]; it ends in a tail call of the next one. Stable Rust does not
//! promise that such calls become jumps, but LLVM makes them in optimised builds (a test runs 10^8 handlers on a small
//! stack); builds with debug assertions return the next op to a loop instead. Each way out of a handler must end in its
//! own call: an op pointer chosen from data makes every load of the next handler wait for that data.
#![expect(
    unsafe_code,
    reason = "handlers address the context by offset and follow op pointers"
)]
// UNSAFETY: operands are byte offsets into `Vcpu`, checked when a block is lowered; reaching them through references
// would cost a bounds check and a match per operand, which is what an interpreter's speed is made of.

use system::Vcpu;

/// Why a run of handlers ended; what the run loop has to do.
pub mod exit {
    /// (Debug builds only) go on with the op in the engine's `NEXT` word.
    pub const CONTINUE: u32 = 0;
    /// A link in the engine's `LINK` word has no target yet; RIP is where to go on.
    pub const LINK: u32 = 1;
    /// An indirect jump whose target is not in the jump cache; RIP is the target, `SITE` the op's cache.
    pub const INDIRECT: u32 = 2;
    /// The vCPU's `exception` is to be delivered; RIP is the instruction's (or the next one's, for traps).
    pub const FAULT: u32 = 3;
    /// Look at events, take a fresh block key and go on at RIP.
    pub const NEXT: u32 = 4;
    /// As NEXT; the last instruction's repetition goes on (RIP is its own address).
    pub const AGAIN: u32 = 5;
    /// A fragment has ended (see `fragment`).
    pub const DONE: u32 = 6;
}

/// What the engine keeps in `Vcpu::engine`.
pub mod word {
    /// The next op, in debug builds.
    pub const NEXT: usize = 0;
    /// The unresolved link.
    pub const LINK: usize = 1;
    /// The indirect jump's inline cache.
    pub const SITE: usize = 2;
    /// Handlers run, when they are counted.
    pub const HANDLERS: usize = 3;
    /// `Vcpu::retired` as it will be when the budget is used up.
    pub const END: usize = 4;
    /// The jump cache's table.
    pub const JUMPS: usize = 5;
    /// The mode that runs.
    pub const MODE: usize = 6;
    /// The array for the rest of an instruction that wrote to code.
    pub const REST: usize = 7;
    /// Instructions begun, when handlers are counted.
    pub const INSNS: usize = 8;
    /// What the fast x87 keeps; see `x87::kept`.
    pub const X87: usize = 9;
}

/// A handler.
pub type Handler = extern "C" fn(&mut Vcpu, &LOp) -> u32;

/// One lowered op. Operands are byte offsets from the start of [`Vcpu`] unless the handler says otherwise.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LOp {
    /// What runs.
    pub run: Handler,
    /// Destination.
    pub d: u16,
    /// First source.
    pub a: u16,
    /// Second source, or the base of an address.
    pub b: u16,
    /// Third source, or the index of an address.
    pub c: u16,
    /// Displacement.
    pub disp: i32,
    /// The instruction's offset from the block's start.
    pub pc: u16,
    /// The instruction's length, and the flags [`LAST`] and [`FILLER`].
    pub len: u8,
    /// The instruction's number in the block.
    pub ord: u8,
    /// Constant, pointer, or scale.
    pub imm: i64,
}

const _: () = assert!(size_of::<LOp>() == 32);

/// A handler for places that hold no op yet.
extern "C" fn nothing(_v: &mut Vcpu, _op: &LOp) -> u32 {
    exit::NEXT
}

/// The op that a handler returned [`exit::CONTINUE`] for.
pub fn continued(v: &Vcpu) -> &'static LOp {
    let next = v.engine[word::NEXT] as usize as *const LOp;
    // SAFETY: `go!` put the address of a live op there just before it returned CONTINUE.
    unsafe { &*next }
}

/// In [`LOp::len`]: the op ends its block.
pub const LAST: u8 = 0x80;
/// In [`LOp::len`]: another op behind the last one holds a pointer for it.
pub const FILLER: u8 = 0x40;

impl LOp {
    /// An op that ends the run.
    pub const FILL: Self = Self {
        run: nothing,
        d: 0,
        a: 0,
        b: 0,
        c: 0,
        disp: 0,
        pc: 0,
        len: LAST,
        ord: 0,
        imm: 0,
    };

    /// The instruction's length in bytes.
    #[inline(always)]
    pub fn length(&self) -> u64 {
        u64::from(self.len & 15)
    }

    /// The op that follows.
    #[inline(always)]
    pub fn next(&self) -> &Self {
        let next = std::ptr::from_ref(self).wrapping_add(1);
        // SAFETY: every lowered block ends in a terminal handler, which does not ask for its successor, so that the
        // op behind any other one is part of the same array.
        unsafe { &*next }
    }
}

impl LOp {
    /// The op `n` places behind.
    #[inline(always)]
    pub fn ahead(&self, n: u16) -> &Self {
        let op = std::ptr::from_ref(self).wrapping_add(usize::from(n));
        // SAFETY: only handlers whose lowering counted the ops of their instruction ask for one behind those; as in
        // `next`, there is one.
        unsafe { &*op }
    }
}

/// Calls a handler: a jump in optimised builds, a return to the run loop in others.
macro_rules! go {
    ($v:expr, $op:expr) => {{
        let op: &$crate::code::LOp = $op;
        if cfg!(debug_assertions) {
            $v.engine[$crate::code::word::NEXT] = std::ptr::from_ref(op).addr() as u64;
            $crate::code::exit::CONTINUE
        } else {
            (op.run)($v, op)
        }
    }};
}

/// Ends a handler by going on with the op behind it.
macro_rules! next {
    ($v:expr, $op:expr) => {
        $crate::code::go!($v, $op.next())
    };
}

pub(crate) use {go, next};

/// An integer type as handlers read and write it in the context.
pub trait Int: Copy + Eq + Ord + 'static {
    /// The IR's name of it.
    const WIDTH: ir::Width;
    /// Size in bytes.
    const BYTES: u32 = Self::WIDTH.bytes() as u32;
    /// Size in bits.
    const BITS: u32 = Self::WIDTH.bits();
    /// Reads the operand at a byte offset.
    fn get(v: &Vcpu, offset: u16) -> Self;
    /// Writes the operand at a byte offset, as a register write of this width does: 32 bits clear the upper half.
    fn put(v: &mut Vcpu, offset: u16, value: Self);
    /// Zero-extended.
    fn wide(self) -> u64;
    /// Sign-extended.
    fn signed(self) -> i64;
    /// The low part.
    fn cut(value: u64) -> Self;
    /// Loads through the TLB if the page is there.
    fn try_load(v: &Vcpu, lin: u64) -> Option<Self>;
    /// Stores through the TLB if the page is there.
    fn try_store(v: &Vcpu, lin: u64, value: Self) -> bool;
}

macro_rules! int {
    ($type:ident, $signed:ident, $width:ident, $put:ident, $load:ident, $store:ident) => {
        impl Int for $type {
            const WIDTH: ir::Width = ir::Width::$width;

            #[inline(always)]
            fn get(v: &Vcpu, offset: u16) -> Self {
                let at = std::ptr::from_ref(v)
                    .wrapping_byte_add(usize::from(offset))
                    .cast::<Self>();
                // SAFETY: lowering makes offsets of fields inside the context only, and any bits are an integer.
                unsafe { at.read_unaligned() }
            }

            #[inline(always)]
            fn put(v: &mut Vcpu, offset: u16, value: Self) {
                let at = std::ptr::from_mut(v)
                    .wrapping_byte_add(usize::from(offset))
                    .cast::<$put>();
                // SAFETY: as in `get`; a 32-bit operand lies in a field of 64 bits.
                unsafe { at.write_unaligned($put::from(value)) }
            }

            #[inline(always)]
            fn wide(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn signed(self) -> i64 {
                i64::from(self as $signed)
            }

            #[inline(always)]
            fn cut(value: u64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn try_load(v: &Vcpu, lin: u64) -> Option<Self> {
                v.mmu.$load(x86::LinAddr(lin))
            }

            #[inline(always)]
            fn try_store(v: &Vcpu, lin: u64, value: Self) -> bool {
                v.mmu.$store(x86::LinAddr(lin), value)
            }
        }
    };
}

int!(u8, i8, B8, u8, try_load8, try_store8);
int!(u16, i16, B16, u16, try_load16, try_store16);
int!(u32, i32, B32, u64, try_load32, try_store32);
int!(u64, i64, B64, u64, try_load64, try_store64);

/// Where a direct jump goes: empty until its target is known.
pub struct Link {
    /// The target's first op.
    pub target: Option<&'static LOp>,
    /// The target lies in the block's own page: no mapping can come between.
    pub same_page: bool,
    /// It may be filled in: outside flat segments the target depends on more than the block's key.
    pub allowed: bool,
    /// The target's distance from the block's start.
    pub delta: i32,
    /// For links to another page: the address space in which the target was looked up, and its RIP (the block may be
    /// mapped at several addresses).
    pub map_gen: u64,
    /// See `map_gen`.
    pub rip: u64,
    /// The block that holds the link.
    pub owner: crate::block::Key,
    /// What RIP is cut to.
    pub mask: u64,
}

/// One entry of an indirect jump's inline cache, or of the jump cache.
#[derive(Clone, Copy)]
pub struct Known {
    /// The target's RIP.
    pub rip: u64,
    /// The address space in which the target was looked up.
    pub map_gen: u64,
    /// The mode (for the jump cache; an inline cache's is its block's).
    pub mode: u64,
    /// The target's first op.
    pub target: Option<&'static LOp>,
    /// The address of the target's block.
    pub block: usize,
}

impl Known {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        rip: 0,
        map_gen: 0,
        mode: 0,
        target: None,
        block: 0,
    };
}

/// The inline cache of one indirect jump.
pub struct Site {
    /// The targets.
    pub entries: [Known; 4],
    /// The entry to replace next.
    pub victim: u8,
    /// It may be filled.
    pub allowed: bool,
    /// The block that holds it.
    pub owner: crate::block::Key,
}

/// Entries of the jump cache, a power of two.
pub const JUMPS: usize = 4096;

/// Where in the jump cache a RIP belongs.
#[inline(always)]
pub fn jump_index(rip: u64) -> usize {
    ((rip ^ rip >> 12) & (JUMPS as u64 - 1)) as usize
}

/// The target of an indirect jump to RIP, if the jump cache knows it.
#[inline]
pub fn jump_target(v: &Vcpu) -> Option<&'static LOp> {
    let table = v.engine[word::JUMPS] as usize as *const [Known; JUMPS];
    // SAFETY: the engine put the address of its table there before it ran the block, and keeps the table.
    let table = unsafe { &*table };
    let known = &table[jump_index(v.st.rip)];
    let hit = known.rip == v.st.rip
        && known.map_gen == v.mmu.generation(v.st.rip)
        && known.mode == v.engine[word::MODE];
    if hit { known.target } else { None }
}

/// Ops of the longest rest of an instruction, its exit included.
pub const REST: usize = 40;

/// Copies the ops behind `op` that belong to its instruction to the engine's scratch array, with `leave` behind them.
pub fn copy_rest(v: &Vcpu, op: &LOp, leave: Handler) -> &'static LOp {
    let rest = v.engine[word::REST] as usize as *mut [LOp; REST];
    // SAFETY: the engine put the address of its array there before it ran the block, keeps the array, and lets nobody
    // else use it; ops in it run at most once before it is written again.
    let rest = unsafe { &mut *rest };
    let mut from = op;
    let mut n = 0;
    while n < REST - 2 && from.len & LAST == 0 && from.next().ord == op.ord {
        from = from.next();
        rest[n] = *from;
        n += 1;
        if from.len & FILLER != 0 {
            rest[n] = *from.next();
        }
    }
    if from.len & LAST == 0 {
        rest[n] = LOp { run: leave, ..*op };
    }
    &rest[0]
}
