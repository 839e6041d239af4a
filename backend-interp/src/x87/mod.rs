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

/// What a memory form's `imm` holds beside the index's scale in its low two bits.
pub mod packed {
    /// The address is cut to 32 bits.
    pub const A32: i64 = 1 << 4;
    /// 64-bit code: the instruction pointer is not cut to 32 bits.
    pub const CODE64: i64 = 1 << 5;
    /// The linear address is the operand's offset; else that lies in the field `a`.
    pub const LINEAR: i64 = 1 << 6;
    /// Where the segment register's number begins.
    pub const SEGMENT: u32 = 16;
}

/// Notes which flags the host's status word holds, before blocks run: other code of the process may have left some.
pub fn enter(v: &mut Vcpu) {
    #[cfg(target_arch = "x86_64")]
    {
        v.engine[crate::code::word::X87] = u64::from(host::flags());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = v;
}
