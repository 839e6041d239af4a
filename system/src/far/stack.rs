//! Stack frames that are checked as a whole before the first byte is written, and pops that commit nothing.
//!
//! A frame may go to a stack that is not in SS yet (inner privilege levels), so that a fault leaves all as it was.

use softmmu::Privilege;
use x86::{Exception, LinAddr, Seg, Segment, attr, cr0};

use crate::{Vcpu, check_segment, fault};

/// The widest frame: SS, ESP, 31 parameters, CS, EIP of a call gate.
const ENTRIES: usize = 36;

/// How wide the stack pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackWidth {
    Sp16,
    Esp32,
    Rsp64,
}

impl StackWidth {
    /// Outside 64-bit mode the B bit of the stack segment decides.
    pub(crate) fn of(segment: &Segment) -> Self {
        if segment.attr & attr::DB != 0 {
            Self::Esp32
        } else {
            Self::Sp16
        }
    }

    fn mask(self) -> u64 {
        match self {
            Self::Sp16 => 0xffff,
            Self::Esp32 => 0xffff_ffff,
            Self::Rsp64 => u64::MAX,
        }
    }

    /// RSP after `value` was written to the stack pointer at this width.
    pub(crate) fn merge(self, old: u64, value: u64) -> u64 {
        match self {
            Self::Sp16 => old & !0xffff | value & 0xffff,
            Self::Esp32 => value & 0xffff_ffff,
            Self::Rsp64 => value,
        }
    }
}

/// A stack: a segment, its pointer, and how it may be accessed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    segment: Segment,
    width: StackWidth,
    privilege: Privilege,
    /// Raised when an access is outside the segment or not canonical.
    fault: Exception,
    /// Segment types are checked.
    protected: bool,
    rsp: u64,
}

impl Stack {
    /// The stack that SS and RSP form now.
    pub(crate) fn current(v: &Vcpu) -> Self {
        let segment = *v.seg(Seg::Ss);
        Self {
            segment,
            width: v.stack_width(),
            privilege: Privilege::Current,
            fault: Exception::SS0,
            protected: v.st.cr0 & cr0::PE != 0 && !v.st.vm86(),
            rsp: v.st.gpr[4],
        }
    }

    /// A stack of privilege level `cpl` that SS does not hold yet; `fault` tells that a push doesn't fit.
    pub(crate) fn inner(segment: Segment, rsp: u64, cpl: u8, fault: Exception) -> Self {
        let width = StackWidth::of(&segment);
        Self {
            segment,
            width,
            privilege: privilege(cpl),
            fault,
            protected: true,
            rsp,
        }
    }

    /// A stack of 64-bit mode at privilege level `cpl`.
    pub(crate) fn flat64(segment: Segment, rsp: u64, cpl: u8) -> Self {
        Self {
            segment,
            width: StackWidth::Rsp64,
            privilege: privilege(cpl),
            fault: Exception::SS0,
            protected: true,
            rsp,
        }
    }

    /// The stack pointer as it would be committed.
    pub(crate) fn rsp(&self) -> u64 {
        self.rsp
    }

    /// Moves the stack pointer over `bytes` without touching them.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.rsp = self.width.merge(self.rsp, self.rsp.wrapping_add(bytes));
    }

    /// The linear address of `size` bytes at the stack pointer.
    fn linear(&self, v: &Vcpu, size: u32, write: bool) -> Result<u64, Exception> {
        let size = u64::from(size);
        let offset = self.rsp & self.width.mask();
        if self.width == StackWidth::Rsp64 {
            let last = offset.wrapping_add(size - 1);
            return if v.is_canonical(offset) && v.is_canonical(last) {
                Ok(offset)
            } else {
                Err(self.fault)
            };
        }
        check_segment(&self.segment, offset, size, write, self.protected).ok_or(self.fault)?;
        Ok(u64::from(self.segment.base.wrapping_add(offset) as u32))
    }

    /// Pops `size` bytes.
    pub(crate) fn pop(&mut self, v: &mut Vcpu, size: u32) -> Result<u64, Exception> {
        let lin = self.linear(v, size, false)?;
        let value = v
            .mmu
            .load(LinAddr(lin), size, self.privilege)
            .map_err(fault)?;
        self.skip(u64::from(size));
        Ok(value)
    }
}

/// The privilege of explicit accesses at a level that may not be current yet.
fn privilege(cpl: u8) -> Privilege {
    if cpl == 3 {
        Privilege::User
    } else {
        Privilege::Supervisor
    }
}

/// Pushes that are not in memory yet.
pub(crate) struct Frame {
    stack: Stack,
    size: u32,
    len: usize,
    at: [u64; ENTRIES],
    values: [u64; ENTRIES],
}

impl Frame {
    /// A frame of `size`-byte (2, 4, 8) entries on a stack.
    pub(crate) fn new(stack: Stack, size: u32) -> Self {
        Self {
            stack,
            size,
            len: 0,
            at: [0; ENTRIES],
            values: [0; ENTRIES],
        }
    }

    /// Checks the next push against the segment and notes it.
    pub(crate) fn push(&mut self, v: &Vcpu, value: u64) -> Result<(), Exception> {
        self.stack.rsp = self.stack.width.merge(
            self.stack.rsp,
            self.stack.rsp.wrapping_sub(u64::from(self.size)),
        );
        self.at[self.len] = self.stack.linear(v, self.size, true)?;
        self.values[self.len] = value;
        self.len += 1;
        Ok(())
    }

    /// Writes the whole frame, or raises the page fault of the first push that can't be made, having written nothing.
    /// Returns the new stack pointer.
    pub(crate) fn store(&self, v: &mut Vcpu) -> Result<u64, Exception> {
        let size = u64::from(self.size);
        let contiguous = self.at[..self.len]
            .windows(2)
            .all(|pair| pair[1].wrapping_add(size) == pair[0]);
        if contiguous {
            let mut bytes = [0; ENTRIES * 8];
            let width = self.size as usize;
            for (slot, value) in bytes
                .chunks_exact_mut(width)
                .zip(self.values[..self.len].iter().rev())
            {
                slot.copy_from_slice(&value.to_le_bytes()[..width]);
            }
            let lowest = self.at[..self.len].last().copied().unwrap_or_default();
            let bytes = &bytes[..self.len * width];
            if let Err(lower) = v
                .mmu
                .store_bytes(LinAddr(lowest), bytes, self.stack.privilege)
            {
                self.probe(v)?;
                return Err(fault(lower));
            }
        } else {
            self.probe(v)?;
            for (lin, value) in self.at[..self.len].iter().zip(&self.values) {
                v.mmu
                    .store(LinAddr(*lin), self.size, *value, self.stack.privilege)
                    .map_err(fault)?;
            }
        }
        Ok(self.stack.rsp)
    }

    /// Raises the fault of the first push, in their order, that can't be made.
    fn probe(&self, v: &mut Vcpu) -> Result<(), Exception> {
        for lin in &self.at[..self.len] {
            v.mmu
                .probe_write(LinAddr(*lin), u64::from(self.size), self.stack.privilege)
                .map_err(fault)?;
        }
        Ok(())
    }
}

impl Vcpu {
    /// How wide pushes and pops move the stack pointer now.
    pub(crate) fn stack_width(&self) -> StackWidth {
        if self.st.code64() {
            StackWidth::Rsp64
        } else {
            StackWidth::of(self.seg(Seg::Ss))
        }
    }
}
