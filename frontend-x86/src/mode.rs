//! Everything beside its bytes that changes what an instruction is translated to.

use ir::Width;
use x86::{CpuState, Seg, Segment, attr, cr0, cr4, flags, xcr0};

/// Default operand and address size of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CodeSize {
    /// Real mode, VM86, CS.D = 0.
    B16,
    /// CS.D = 1.
    B32,
    /// CS.L = 1 in long mode.
    B64,
}

impl CodeSize {
    /// The decoder's bitness: 16, 32, 64.
    pub const fn bits(self) -> u32 {
        16 << self as u8
    }
}

/// How far near transfers can go without a limit check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CsLimit {
    /// CS.limit is below FFFFh: every target is checked.
    Small,
    /// CS.limit is FFFFh or more: 16-bit offsets are always inside.
    Word,
    /// CS.limit is FFFFFFFFh.
    Full,
}

/// The parts of a [`Mode`], by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModeParts {
    /// CS.D and CS.L.
    pub code: CodeSize,
    /// SS.B: the width of the stack pointer. [`Width::B64`] in 64-bit mode.
    pub stack: Width,
    /// Current privilege level, 3 in VM86.
    pub cpl: u8,
    /// CR0.PE.
    pub protected: bool,
    /// RFLAGS.VM.
    pub vm86: bool,
    /// CS: base 0, limit 4 GiB - 1, readable. Always set in 64-bit mode, as the next three.
    pub flat_cs: bool,
    /// SS: base 0, limit 4 GiB - 1, writable.
    pub flat_ss: bool,
    /// DS likewise.
    pub flat_ds: bool,
    /// ES likewise.
    pub flat_es: bool,
    /// CS.limit; Full in 64-bit mode.
    pub cs_limit: CsLimit,
    /// CR0.EM.
    pub em: bool,
    /// CR0.TS.
    pub ts: bool,
    /// CR0.MP.
    pub mp: bool,
    /// CR4.OSFXSR.
    pub osfxsr: bool,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// CR4.FSGSBASE.
    pub fsgsbase: bool,
    /// CR4.PKE.
    pub pke: bool,
    /// CR0.AM, RFLAGS.AC and CPL 3: accesses check their alignment. For the engine; lifting does not depend on it.
    pub align_check: bool,
    /// CR4.OSXSAVE and XCR0 enable AVX.
    pub avx: bool,
    /// CR4.OSXSAVE and XCR0 enable AVX-512.
    pub avx512: bool,
}

/// The mode that a block is translated for, packed: part of the block's key. Bits 63:32 are zero, for engines to use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mode(u64);

macro_rules! bits {
    ($($name:ident = $bit:literal,)*) => {
        impl Mode {
            /// The mode with these parts.
            pub const fn new(parts: ModeParts) -> Self {
                let mut bits = parts.code as u64
                    | (parts.stack as u64) << 2
                    | (parts.cpl as u64 & 3) << 4
                    | (parts.cs_limit as u64) << 6;
                $( bits |= (parts.$name as u64) << $bit; )*
                Self(bits)
            }

            /// The parts by name.
            pub const fn parts(self) -> ModeParts {
                ModeParts {
                    code: self.code(),
                    stack: self.stack(),
                    cpl: self.cpl(),
                    cs_limit: self.cs_limit(),
                    $( $name: self.$name(), )*
                }
            }

            $(
                #[doc = concat!("See [`ModeParts::", stringify!($name), "`].")]
                pub const fn $name(self) -> bool {
                    self.0 >> $bit & 1 != 0
                }
            )*
        }
    };
}

bits! {
    protected = 8,
    vm86 = 9,
    flat_cs = 10,
    flat_ss = 11,
    flat_ds = 12,
    flat_es = 13,
    em = 14,
    ts = 15,
    mp = 16,
    osfxsr = 17,
    osxsave = 18,
    fsgsbase = 19,
    pke = 20,
    align_check = 21,
    avx = 22,
    avx512 = 23,
}

impl Mode {
    /// The mode that the CPU is in.
    pub fn of(st: &CpuState) -> Self {
        let code64 = st.code64();
        let (cs, ss) = (&st.seg[Seg::Cs as usize], &st.seg[Seg::Ss as usize]);
        let code = if code64 {
            CodeSize::B64
        } else if cs.attr & attr::DB != 0 {
            CodeSize::B32
        } else {
            CodeSize::B16
        };
        let flat_data = |seg: Seg| {
            let s = &st.seg[seg as usize];
            code64 || s.is_flat_data() || (s.is_flat() && st.real_mode())
        };
        let extended = |mask: u64| st.cr4 & cr4::OSXSAVE != 0 && st.xcr0 & mask == mask;
        const AVX: u64 = xcr0::SSE | xcr0::AVX;
        Self::new(ModeParts {
            code,
            stack: if code64 {
                Width::B64
            } else if ss.attr & attr::DB != 0 {
                Width::B32
            } else {
                Width::B16
            },
            cpl: st.cpl(),
            protected: !st.real_mode(),
            vm86: st.vm86(),
            flat_cs: code64 || (cs.is_flat() && (st.real_mode() || cs.attr & attr::RW != 0)),
            flat_ss: flat_data(Seg::Ss),
            flat_ds: flat_data(Seg::Ds),
            flat_es: flat_data(Seg::Es),
            cs_limit: Self::limit_class(cs, code64),
            em: st.cr0 & cr0::EM != 0,
            ts: st.cr0 & cr0::TS != 0,
            mp: st.cr0 & cr0::MP != 0,
            osfxsr: st.cr4 & cr4::OSFXSR != 0,
            osxsave: st.cr4 & cr4::OSXSAVE != 0,
            fsgsbase: st.cr4 & cr4::FSGSBASE != 0,
            pke: st.cr4 & cr4::PKE != 0,
            align_check: st.cr0 & cr0::AM != 0 && st.rflags & flags::AC != 0 && st.cpl() == 3,
            avx: extended(AVX),
            avx512: extended(AVX | xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM),
        })
    }

    fn limit_class(cs: &Segment, code64: bool) -> CsLimit {
        if code64 || cs.limit == u32::MAX {
            CsLimit::Full
        } else if cs.limit >= 0xffff {
            CsLimit::Word
        } else {
            CsLimit::Small
        }
    }

    /// What a kernel's 64-bit code runs in: CPL 0, SSE on. For tests and tools; CPL 3 with [`Mode::with`].
    pub const fn long64() -> Self {
        Self::new(ModeParts {
            code: CodeSize::B64,
            stack: Width::B64,
            cpl: 0,
            protected: true,
            vm86: false,
            flat_cs: true,
            flat_ss: true,
            flat_ds: true,
            flat_es: true,
            cs_limit: CsLimit::Full,
            em: false,
            ts: false,
            mp: true,
            osfxsr: true,
            osxsave: true,
            fsgsbase: true,
            pke: true,
            align_check: false,
            avx: false,
            avx512: false,
        })
    }

    /// Flat 32-bit protected mode at CPL 0, otherwise as [`Mode::long64`].
    pub const fn flat32() -> Self {
        Self::new(ModeParts {
            code: CodeSize::B32,
            stack: Width::B32,
            ..Self::long64().parts()
        })
    }

    /// Real mode with 64 KiB segments.
    pub const fn real16() -> Self {
        Self::new(ModeParts {
            code: CodeSize::B16,
            stack: Width::B16,
            protected: false,
            flat_cs: false,
            flat_ss: false,
            flat_ds: false,
            flat_es: false,
            cs_limit: CsLimit::Word,
            ..Self::long64().parts()
        })
    }

    /// This mode with changed parts.
    pub fn with(self, change: impl FnOnce(&mut ModeParts)) -> Self {
        let mut parts = self.parts();
        change(&mut parts);
        Self::new(parts)
    }

    /// The mode that [`Mode::bits`] was asked of.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The packed form.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Code size.
    pub const fn code(self) -> CodeSize {
        match self.0 & 3 {
            0 => CodeSize::B16,
            1 => CodeSize::B32,
            _ => CodeSize::B64,
        }
    }

    /// 64-bit code.
    pub const fn code64(self) -> bool {
        self.0 & 3 == CodeSize::B64 as u64
    }

    /// Width of the stack pointer.
    pub const fn stack(self) -> Width {
        Width::ALL[(self.0 >> 2 & 3) as usize]
    }

    /// Current privilege level.
    pub const fn cpl(self) -> u8 {
        (self.0 >> 4 & 3) as u8
    }

    /// CS.limit's class.
    pub const fn cs_limit(self) -> CsLimit {
        match self.0 >> 6 & 3 {
            0 => CsLimit::Small,
            1 => CsLimit::Word,
            _ => CsLimit::Full,
        }
    }

    /// Real-address mode.
    pub const fn real(self) -> bool {
        !self.protected()
    }

    /// Whether a segment register needs no limit, type or base treatment. FS and GS always need their base.
    pub const fn flat(self, seg: Seg) -> bool {
        match seg {
            Seg::Cs => self.flat_cs(),
            Seg::Ss => self.flat_ss(),
            Seg::Ds => self.flat_ds(),
            Seg::Es => self.flat_es(),
            Seg::Fs | Seg::Gs => false,
        }
    }

    /// Width of the instruction pointer: 64 bits in 64-bit code, else 32.
    pub const fn ip(self) -> Width {
        if self.code64() {
            Width::B64
        } else {
            Width::B32
        }
    }
}

impl std::fmt::Debug for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.parts().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{CodeSize, CsLimit, Mode};
    use ir::Width;
    use x86::{CpuState, Segment, attr, cr0, efer, flags};

    #[test]
    fn parts_survive_packing() {
        for mode in [
            Mode::long64(),
            Mode::flat32(),
            Mode::real16(),
            Mode::long64().with(|p| p.cpl = 3),
        ] {
            assert_eq!(Mode::new(mode.parts()), mode);
        }
        for bit in 8..24 {
            let mode = Mode(Mode::real16().0 ^ (1 << bit));
            assert_eq!(Mode::new(mode.parts()), mode, "bit {bit}");
        }
    }

    #[test]
    fn reset_is_real_mode() {
        let mode = Mode::of(&CpuState::reset());
        assert!(mode.real() && mode.cpl() == 0 && mode.code() == CodeSize::B16);
        assert_eq!((mode.stack(), mode.cs_limit()), (Width::B16, CsLimit::Word));
        assert!(!mode.flat_ds());
    }

    #[test]
    fn flatness_and_privilege_come_from_the_descriptors() {
        let mut st = CpuState::reset();
        st.cr0 |= cr0::PE;
        let data = attr::P | attr::S | attr::RW | attr::DB | attr::G;
        let flat = |attr| Segment {
            base: 0,
            limit: u32::MAX,
            attr,
            selector: 8,
        };
        st.seg = [flat(data); 6];
        st.seg[1] = flat(data | attr::CODE);
        let mode = Mode::of(&st);
        assert_eq!(mode.parts().code, CodeSize::B32);
        assert!(mode.flat_ds() && mode.flat_ss() && mode.flat_es() && mode.flat_cs());
        st.seg[3].attr &= !attr::RW;
        assert!(!Mode::of(&st).flat_ds(), "read-only data needs the check");
        st.seg[2].attr |= 3 << attr::DPL_SHIFT;
        assert_eq!(Mode::of(&st).cpl(), 3);
        st.efer = efer::LMA | efer::LME;
        st.seg[1].attr |= attr::L;
        let mode = Mode::of(&st);
        assert!(mode.code64() && mode.flat_ds() && mode.stack() == Width::B64);
        st.seg[1].attr &= !attr::L;
        st.rflags |= flags::VM;
        assert!(Mode::of(&st).vm86());
        assert_eq!(Mode::of(&st).cpl(), 3);
    }
}
