//! Where each state component lies in an XSAVE area (SDM vol. 1, 13.4; Intel's offsets).

use x86::xcr0;

/// Bytes of the legacy region (FXSAVE's image).
pub const LEGACY: u32 = 512;
/// Bytes of the legacy region and the XSAVE header: where extended components begin.
pub const EXTENDED: u32 = 576;
/// Bytes of the largest image: standard format, with PKRU.
pub const MAX_IMAGE: u32 = 2704;
/// XCOMP_BV's bit that says "compacted format".
pub const COMPACTED: u64 = 1 << 63;

/// A state component beyond x87 and SSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its bit number in XCR0.
    pub number: u32,
    /// Bytes.
    pub size: u32,
    /// Offset in the standard format.
    pub offset: u32,
    /// Whether it begins at a multiple of 64 bytes in the compacted format.
    pub aligned: bool,
}

impl Component {
    /// Its bit in XCR0.
    pub const fn bit(&self) -> u64 {
        1 << self.number
    }
}

const fn component(bit: u64, size: u32, offset: u32) -> Component {
    Component {
        number: bit.trailing_zeros(),
        size,
        offset,
        aligned: false,
    }
}

/// The user components that Doppel knows, in order.
pub const COMPONENTS: [Component; 5] = [
    component(xcr0::AVX, 256, 576),
    component(xcr0::OPMASK, 64, 1088),
    component(xcr0::ZMM_HI256, 512, 1152),
    component(xcr0::HI16_ZMM, 1024, 1664),
    component(xcr0::PKRU, 8, 2688),
];

/// The component with a number, if it is one beyond x87 and SSE.
pub fn by_number(number: u32) -> Option<Component> {
    COMPONENTS.into_iter().find(|c| c.number == number)
}

/// Bytes of a standard-format area that holds `bits`.
pub fn standard_size(bits: u64) -> u32 {
    COMPONENTS
        .iter()
        .filter(|c| bits & c.bit() != 0)
        .map(|c| c.offset + c.size)
        .max()
        .unwrap_or(EXTENDED)
}

/// Bytes of a compacted area that holds `bits`.
pub fn compacted_size(bits: u64) -> u32 {
    COMPONENTS
        .iter()
        .filter(|c| bits & c.bit() != 0)
        .fold(EXTENDED, |end, c| if c.aligned { end.next_multiple_of(64) } else { end } + c.size)
}

/// Where a component lies in a compacted area that holds `bits`.
pub fn compacted_offset(component: &Component, bits: u64) -> u32 {
    let start = compacted_size(bits & (component.bit() - 1));
    if component.aligned {
        start.next_multiple_of(64)
    } else {
        start
    }
}

#[cfg(test)]
mod tests {
    use super::{COMPONENTS, by_number, compacted_offset, compacted_size, standard_size};

    #[test]
    fn sizes() {
        assert_eq!(standard_size(3), 576);
        assert_eq!(standard_size(7), 832);
        assert_eq!(standard_size(0xe7), 2688);
        assert_eq!(standard_size(0x203), 2696);
        assert_eq!(compacted_size(3), 576);
        assert_eq!(compacted_size(0x203), 584);
        assert_eq!(compacted_size(0x2e7), 576 + 256 + 64 + 512 + 1024 + 8);
        let pkru = by_number(9).expect("PKRU");
        assert_eq!(compacted_offset(&pkru, 0x207), 832);
        assert_eq!(by_number(2), Some(COMPONENTS[0]));
        assert_eq!(by_number(3), None);
    }
}
