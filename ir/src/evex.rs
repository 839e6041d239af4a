//! What EVEX adds to a vector instruction, packed beside its code; how masked vectors lie in memory.

use iced_x86::Code;

/// Bits of an op's `sub` that hold the code.
const CODE_BITS: u32 = 13;

/// What an EVEX prefix says of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Rounding {
    /// Nothing: MXCSR's direction, exceptions as MXCSR says.
    #[default]
    Mxcsr,
    /// To nearest, exceptions suppressed, as of all that follow.
    Nearest,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// Towards zero.
    Zero,
    /// MXCSR's direction.
    Suppress,
}

impl Rounding {
    const ALL: [Self; 6] = [
        Self::Mxcsr,
        Self::Nearest,
        Self::Down,
        Self::Up,
        Self::Zero,
        Self::Suppress,
    ];
    const NAMES: [&'static str; 6] = ["", "rn", "rd", "ru", "rz", "sae"];
}

/// The instruction of a `vec` op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VecInsn {
    /// Which instruction.
    pub code: Code,
    /// The mask register k1-k7 that chooses the destination's elements; 0: all of them.
    pub mask: u8,
    /// Elements that the mask leaves out become zero; else they stay.
    pub zeroing: bool,
    /// Rounding, and whether exceptions are suppressed.
    pub rounding: Rounding,
    /// The memory operand is one element, for all places.
    pub broadcast: bool,
}

impl VecInsn {
    /// An instruction with nothing added.
    pub const fn plain(code: Code) -> Self {
        Self {
            code,
            mask: 0,
            zeroing: false,
            rounding: Rounding::Mxcsr,
            broadcast: false,
        }
    }

    /// Packs it into an op's `sub`: the code itself where nothing is added.
    pub const fn encode(self) -> u32 {
        self.code as u32
            | (self.mask as u32) << CODE_BITS
            | (self.zeroing as u32) << 16
            | (self.rounding as u32) << 17
            | (self.broadcast as u32) << 20
    }

    /// Unpacks an op's `sub`; `None` when no instruction packs to it.
    pub fn decode(sub: u32) -> Option<Self> {
        let code = Code::try_from((sub & ((1 << CODE_BITS) - 1)) as usize).ok()?;
        let insn = Self {
            code,
            mask: (sub >> CODE_BITS & 7) as u8,
            zeroing: sub >> 16 & 1 != 0,
            rounding: *Rounding::ALL.get((sub >> 17 & 7) as usize)?,
            broadcast: sub >> 20 & 1 != 0,
        };
        (sub >> 21 == 0).then_some(insn)
    }

    /// What stands behind the code in the text form: `/k1`, `/z`, `/rn`, `/b`.
    pub(crate) fn suffixes(self) -> Vec<String> {
        let mut list = Vec::new();
        if self.mask != 0 {
            list.push(format!("k{}", self.mask));
        }
        if self.zeroing {
            list.push("z".into());
        }
        if self.rounding != Rounding::Mxcsr {
            list.push(Rounding::NAMES[self.rounding as usize].into());
        }
        if self.broadcast {
            list.push("b".into());
        }
        list
    }

    /// Adds what a suffix says. `false`: there is no such suffix.
    pub(crate) fn add_suffix(&mut self, word: &str) -> bool {
        if word.is_empty() {
            return false;
        }
        let rounding = Rounding::NAMES.iter().position(|name| *name == word);
        match (word, rounding) {
            ("z", _) => self.zeroing = true,
            ("b", _) => self.broadcast = true,
            (_, Some(n)) => self.rounding = Rounding::ALL[n],
            _ => match word.strip_prefix('k').and_then(|n| n.parse().ok()) {
                Some(n @ 1..=7) => self.mask = n,
                _ => return false,
            },
        }
        true
    }
}

/// Which elements of a masked memory operand are accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Chosen {
    /// Element i, where bit i of the mask is set.
    Each,
    /// Each of the few that there are, where any of the bits is set whose places a broadcast repeats it to.
    Repeated,
    /// As many from the first on as bits are set (compress, expand).
    Dense,
}

/// A masked memory operand: the last argument of a `vecload` or `vecstore` that accesses not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Masked {
    /// The mask register, k1-k7.
    pub mask: u8,
    /// How many of its bits count.
    pub count: u8,
    /// Bytes of an element.
    pub size: u8,
    /// Which elements are accessed.
    pub chosen: Chosen,
    /// How many elements the operand has, of [`Chosen::Repeated`]: a power of two.
    pub elements: u8,
    /// The segment (`x86::Seg` number) that each element's offset, which the memory operand gives, goes through; `None`
    /// where the operand says the whole address.
    pub seg: Option<u8>,
}

impl Masked {
    /// Packs it into a constant.
    pub fn encode(self) -> i64 {
        i64::from(self.mask)
            | i64::from(self.count) << 8
            | i64::from(self.size) << 16
            | (self.chosen as i64) << 24
            | self.seg.map_or(0, |seg| i64::from(seg) + 1) << 28
            | i64::from(self.elements) << 32
    }

    /// Unpacks it.
    pub fn decode(value: i64) -> Self {
        let seg = (value >> 28) as u8 & 7;
        Self {
            mask: value as u8 & 7,
            count: (value >> 8) as u8,
            size: (value >> 16) as u8,
            chosen: match value >> 24 & 3 {
                0 => Chosen::Each,
                1 => Chosen::Repeated,
                _ => Chosen::Dense,
            },
            seg: seg.checked_sub(1),
            elements: (value >> 32) as u8,
        }
    }

    /// The accessed elements as bits, for a value of the mask register.
    pub fn elements(self, k: u64) -> u64 {
        let low = |n: u32| if n < 64 { (1 << n) - 1 } else { u64::MAX };
        let bits = k & low(self.count.into());
        match self.chosen {
            Chosen::Each => bits,
            Chosen::Repeated => {
                // Each half of the places holds the same elements as the other.
                let mut bits = bits;
                for n in [32, 16, 8, 4, 2, 1] {
                    if n >= u32::from(self.elements) {
                        bits |= bits >> n;
                    }
                }
                bits & low(self.elements.into())
            }
            Chosen::Dense => low(bits.count_ones()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chosen, Masked, Rounding, VecInsn};
    use iced_x86::Code;

    #[test]
    fn instructions_go_round() {
        for code in Code::values() {
            assert_eq!(
                VecInsn::decode(code as u32),
                Some(VecInsn::plain(code)),
                "the code alone"
            );
        }
        for rounding in Rounding::ALL {
            let insn = VecInsn {
                mask: 5,
                zeroing: true,
                rounding,
                broadcast: true,
                ..VecInsn::plain(Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er)
            };
            assert_eq!(VecInsn::decode(insn.encode()), Some(insn));
            let mut again = VecInsn::plain(insn.code);
            assert!(insn.suffixes().iter().all(|s| again.add_suffix(s)));
            assert_eq!(again, insn);
        }
        assert_eq!(VecInsn::decode(u32::MAX), None);
        assert!(!VecInsn::plain(Code::Nopd).add_suffix("k8"));
    }

    #[test]
    fn masks_choose() {
        let each = Masked {
            mask: 3,
            count: 4,
            size: 8,
            chosen: Chosen::Each,
            elements: 0,
            seg: Some(5),
        };
        assert_eq!(Masked::decode(each.encode()), each);
        let dense = Chosen::Dense;
        let of = |chosen| Masked {
            chosen,
            count: 64,
            seg: None,
            ..each
        };
        assert_eq!(Masked::decode(of(dense).encode()), of(dense));
        assert_eq!(each.elements(0xf5), 5);
        let repeated = |elements| Masked {
            elements,
            ..of(Chosen::Repeated)
        };
        assert_eq!(Masked::decode(repeated(8).encode()), repeated(8));
        let chosen = |elements, k| repeated(elements).elements(k);
        assert_eq!((chosen(1, 0xf0), chosen(1, 0)), (1, 0));
        assert_eq!((chosen(4, 0x82), chosen(4, 1 << 62)), (10, 4));
        assert_eq!(chosen(32, 1 << 33 | 1), 3);
        assert_eq!(of(dense).elements(0b1011_0000), 7);
        assert_eq!(of(dense).elements(u64::MAX), u64::MAX);
    }
}
