//! The x87 on the host's x87: one handler an instruction, for as long as nothing exceptional is the case.
//!
//! The guest's registers stay in the context. A handler loads its operands onto the host's empty stack, does the one
//! operation, takes the status word and stores the result. It does so when all exceptions are masked, none is
//! pending, no register is empty that must be full and the other way round, and memory operands hit the TLB. Whatever
//! else comes goes to [`system::x87`], which is exact and slow: register forms call it themselves, memory forms go on
//! with the plain ops that lowering has put behind them.
//!
//! Exception flags are sticky in the host's status word. Clearing them is slow, so they stay there: the flags that an
//! operation leaves are the guest's new ones as long as the host's were a part of the guest's before. The engine
//! keeps a copy of the host's, and they are cleared when it holds one that the guest's lacks.

#[cfg(target_arch = "x86_64")]
mod handlers;
#[cfg(target_arch = "x86_64")]
mod host;
mod select;
#[cfg(target_arch = "x86_64")]
mod traits;

use system::Vcpu;

pub use select::{from_memory, register, to_memory};

/// A fast handler that loads and the plain ops behind it: offset, load, operation. The distance is a constant, since one
/// read from the op would hold up all that follows.
pub const FROM_MEMORY: u16 = 4;
/// A fast handler that stores and the plain ops behind it: offset, two probes, operation, store.
pub const TO_MEMORY: u16 = 6;

/// What a memory form's `imm` holds beside the index's scale in its low two bits.
pub mod packed {
    /// The address is cut to 32 bits.
    pub const A32: i64 = 1 << 4;
    /// 64-bit code: the instruction pointer is not cut to 32 bits.
    pub const CODE64: i64 = 1 << 5;
    /// The linear address is the operand's offset; else that lies in the field `a`.
    pub const LINEAR: i64 = 1 << 6;
    /// Where the byte offset of the segment's selector begins.
    pub const SELECTOR: u32 = 16;
}

/// What the engine's word for the x87 holds: byte offsets in the context, to be read and written at these widths only,
/// since a wider access would wait for the narrower ones before it.
#[cfg(target_arch = "x86_64")]
mod kept {
    use std::mem::offset_of;
    use system::Vcpu;

    const WORD: usize = offset_of!(Vcpu, engine) + 8 * crate::code::word::X87;
    /// 16 bits: the exception flags that the host's status word holds.
    pub const FLAGS: u16 = WORD as u16;
    /// 16 bits: ones where FCS and FDS are kept, else zero.
    pub const SELECTORS: u16 = WORD as u16 + 2;
    /// 32 bits: a copy of TOP. What depends on FSW itself waits for the status word of the operation before; the copy
    /// is compared with FSW, which a predicted branch waits for, while operands are found without it.
    pub const TOP: u16 = WORD as u16 + 4;
}

/// Notes which flags the host's status word holds, before blocks run: other code of the process may have left some.
pub fn enter(v: &mut Vcpu) {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::code::Int;
        let selectors = !v.model.has(system::cpuid::Feature::ZeroFcsFds);
        u16::put(v, kept::FLAGS, host::flags());
        u16::put(v, kept::SELECTORS, if selectors { 0xffff } else { 0 });
        traits::find_top(v);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = v;
}
