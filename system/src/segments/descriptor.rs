//! Descriptors as the tables hold them: fetching, fields, the accessed and busy bits (SDM vol. 3, 3.4.5 and 3.5).

use softmmu::Privilege;
use x86::{Exception, LinAddr, Segment, attr};

use crate::{Vcpu, fault};

/// Types of system descriptors (SDM vol. 3, table 3-2).
pub(crate) mod kind {
    pub(crate) const TSS16: u32 = 1;
    pub(crate) const LDT: u32 = 2;
    pub(crate) const TSS16_BUSY: u32 = 3;
    pub(crate) const CALL16: u32 = 4;
    pub(crate) const TASK_GATE: u32 = 5;
    pub(crate) const INT16: u32 = 6;
    pub(crate) const TRAP16: u32 = 7;
    pub(crate) const TSS: u32 = 9;
    pub(crate) const TSS_BUSY: u32 = 11;
    pub(crate) const CALL: u32 = 12;
    pub(crate) const INT: u32 = 14;
    pub(crate) const TRAP: u32 = 15;
    /// The bit by which a busy TSS differs from an available one.
    pub(crate) const BUSY: u32 = 2;
}

/// An 8-byte descriptor (or the lower half of a 16-byte one) and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) selector: u16,
    /// Linear address in the GDT or LDT.
    pub(crate) lin: u64,
    pub(crate) raw: u64,
}

/// The error code that names a selector.
pub(crate) fn error_code(selector: u16) -> u32 {
    u32::from(selector & 0xfffc)
}

/// Whether a selector is one of the four null selectors.
pub(crate) fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// The requested privilege level.
pub(crate) fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// A segment register after a null selector was loaded; `dpl` is the new CPL when it is SS.
pub(crate) fn null_segment(selector: u16, dpl: u8) -> Segment {
    Segment {
        base: 0,
        limit: 0,
        attr: attr::UNUSABLE | u32::from(dpl) << attr::DPL_SHIFT,
        selector,
    }
}

/// A segment register loaded in real mode: only selector and base change, so that a larger limit stays ("unreal mode").
pub(crate) fn real_segment(old: &Segment, selector: u16) -> Segment {
    if old.attr & attr::UNUSABLE != 0 {
        return Segment::real(selector);
    }
    Segment {
        base: u64::from(selector) << 4,
        selector,
        attr: old.attr | attr::P,
        ..*old
    }
}

/// A segment register loaded in virtual-8086 mode.
pub(crate) fn vm86_segment(selector: u16) -> Segment {
    let segment = Segment::real(selector);
    Segment {
        attr: segment.attr | attr::DPL,
        ..segment
    }
}

impl Descriptor {
    pub(crate) fn attr(&self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    pub(crate) fn base(&self) -> u64 {
        (self.raw >> 16 & 0xff_ffff) | (self.raw >> 56) << 24
    }

    /// The limit in bytes, granularity applied.
    pub(crate) fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.has(attr::G) {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    pub(crate) fn has(&self, mask: u32) -> bool {
        self.attr() & mask == mask
    }

    pub(crate) fn dpl(&self) -> u8 {
        ((self.attr() & attr::DPL) >> attr::DPL_SHIFT) as u8
    }

    pub(crate) fn present(&self) -> bool {
        self.has(attr::P)
    }

    pub(crate) fn is_system(&self) -> bool {
        !self.has(attr::S)
    }

    /// The type field; of a system descriptor one of [`kind`].
    pub(crate) fn kind(&self) -> u32 {
        self.attr() & attr::TYPE
    }

    pub(crate) fn is_code(&self) -> bool {
        self.has(attr::S | attr::CODE)
    }

    pub(crate) fn is_conforming(&self) -> bool {
        self.has(attr::S | attr::CODE | attr::DC)
    }

    /// Data, or code that can be read.
    pub(crate) fn is_readable(&self) -> bool {
        !self.is_system() && (!self.has(attr::CODE) || self.has(attr::RW))
    }

    pub(crate) fn is_writable_data(&self) -> bool {
        self.has(attr::S | attr::RW) && !self.has(attr::CODE)
    }

    /// An available or busy TSS of either size.
    pub(crate) fn is_tss(&self) -> bool {
        self.is_system()
            && matches!(
                self.kind(),
                kind::TSS16 | kind::TSS16_BUSY | kind::TSS | kind::TSS_BUSY
            )
    }

    /// A TSS that a task runs in, or is nested below one that does.
    pub(crate) fn is_busy(&self) -> bool {
        self.kind() & kind::BUSY != 0
    }

    /// The register that holds this descriptor under `selector`.
    pub(crate) fn segment(&self, selector: u16) -> Segment {
        let accessed = if self.is_system() { 0 } else { attr::ACCESSED };
        Segment {
            base: self.base(),
            limit: self.limit(),
            attr: self.attr() | accessed,
            selector,
        }
    }
}

impl Vcpu {
    /// Fetches the descriptor that a selector names. `None`: it lies beyond its table's limit.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Exception> {
        let (base, limit) = if selector & 4 == 0 {
            (self.st.gdtr.base, u32::from(self.st.gdtr.limit))
        } else if self.st.ldtr.attr & attr::UNUSABLE == 0 {
            (self.st.ldtr.base, self.st.ldtr.limit)
        } else {
            return Ok(None);
        };
        let index = u32::from(selector & 0xfff8);
        if index + 7 > limit {
            return Ok(None);
        }
        let lin = self.table_address(base, u64::from(index));
        let raw = self.read_system(lin, 8)?;
        Ok(Some(Descriptor { selector, lin, raw }))
    }

    /// The upper half of a 16-byte descriptor. `None`: it lies beyond its table's limit.
    pub(crate) fn descriptor_high(
        &mut self,
        descriptor: &Descriptor,
    ) -> Result<Option<u64>, Exception> {
        let limit = if descriptor.selector & 4 == 0 {
            u32::from(self.st.gdtr.limit)
        } else {
            self.st.ldtr.limit
        };
        if u32::from(descriptor.selector & 0xfff8) + 15 > limit {
            return Ok(None);
        }
        self.read_system(descriptor.lin.wrapping_add(8), 8)
            .map(Some)
    }

    /// A linear address in a system table: 32 bits wide outside long mode.
    pub(crate) fn table_address(&self, base: u64, offset: u64) -> u64 {
        let lin = base.wrapping_add(offset);
        if self.st.long_mode() {
            lin
        } else {
            lin & 0xffff_ffff
        }
    }

    /// Sets the accessed bit of a code or data descriptor in its table.
    pub(crate) fn mark_accessed(&mut self, descriptor: &Descriptor) -> Result<(), Exception> {
        if descriptor.has(attr::ACCESSED) {
            return Ok(());
        }
        self.modify_descriptor(descriptor.lin, |attr| attr | u64::from(attr::ACCESSED))
    }

    /// Sets or clears the busy bit of a TSS descriptor in the GDT.
    pub(crate) fn mark_busy(&mut self, lin: u64, busy: bool) -> Result<(), Exception> {
        let bit = u64::from(kind::BUSY);
        self.modify_descriptor(lin, |attr| if busy { attr | bit } else { attr & !bit })
    }

    /// Changes the access byte of a descriptor atomically, as an implicit supervisor access.
    fn modify_descriptor(&mut self, lin: u64, f: impl FnMut(u64) -> u64) -> Result<(), Exception> {
        let lin = self.table_address(lin, 5);
        self.mmu
            .rmw_locked_as(LinAddr(lin), 1, Privilege::Implicit, f)
            .map(|_| ())
            .map_err(fault)
    }
}
