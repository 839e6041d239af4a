//! Which states no CPU can be in (SDM vol. 3, 27.3.1 lists most of them).

use system::CpuModel;
use system::cpuid::Feature;
use x86::{CpuState, Seg, Segment, Shadow, attr, cr0, cr4, efer, flags, xcr0};

use super::register::Register;

type Check = Result<(), String>;

fn require(good: bool, text: impl FnOnce() -> String) -> Check {
    if good { Ok(()) } else { Err(text()) }
}

/// Refuses impossible states. Reserved bits are clear already.
pub fn check(st: &CpuState, model: &CpuModel) -> Check {
    control(st)?;
    let addresses = Addresses {
        bits: if model.has(Feature::La57) { 57 } else { 48 },
    };
    for seg in Seg::ALL {
        let name = Register::Seg(seg);
        let s = &st.seg[seg as usize];
        if st.vm86() {
            vm86_segment(name, s)?;
        } else {
            segment(name, seg, s)?;
        }
        if matches!(seg, Seg::Fs | Seg::Gs) {
            addresses.base(name, s.base)?;
        } else {
            let unusable = s.attr & attr::UNUSABLE != 0;
            require(unusable || s.base >> 32 == 0, || {
                format!("{name}: its base has 32 bits, {:#x} is more", s.base)
            })?;
        }
    }
    privilege(st)?;
    system_segments(st)?;
    addresses.base(Register::Ldtr, st.ldtr.base)?;
    addresses.base(Register::Tr, st.tr.base)?;
    addresses.base(Register::Gdtr, st.gdtr.base)?;
    addresses.base(Register::Idtr, st.idtr.base)?;
    if st.code64() {
        // RIP may stand behind the last canonical address: the fetch then faults.
        let top = st.rip.cast_signed() >> addresses.bits;
        require(top == 0 || top == -1, || {
            format!("rip: {:#x} is not canonical", st.rip)
        })?;
    } else {
        require(st.rip >> 32 == 0, || {
            format!("rip: {:#x} is above FFFFFFFFh outside 64-bit code", st.rip)
        })?;
    }
    Ok(())
}

fn control(st: &CpuState) -> Check {
    let pe = st.cr0 & cr0::PE != 0;
    let pg = st.cr0 & cr0::PG != 0;
    let lme = st.efer & efer::LME != 0;
    let vm = st.rflags & flags::VM != 0;
    let rule = |good: bool, text: &str| require(good, || text.to_owned());
    rule(pe || !pg, "cr0: PG (bit 31) needs PE (bit 0)")?;
    rule(
        st.cr0 & cr0::NW == 0 || st.cr0 & cr0::CD != 0,
        "cr0: NW (bit 29) needs CD (bit 30)",
    )?;
    rule(
        st.long_mode() == (lme && pg),
        "efer: LMA (bit 10) is set exactly when LME (bit 8) and cr0's PG (bit 31) are",
    )?;
    rule(
        !st.long_mode() || st.cr4 & cr4::PAE != 0,
        "cr4: long mode needs PAE (bit 5)",
    )?;
    rule(
        st.cr4 & cr4::PCIDE == 0 || st.long_mode(),
        "cr4: PCIDE (bit 17) needs long mode",
    )?;
    rule(!vm || pe, "rflags: VM (bit 17) needs cr0's PE (bit 0)")?;
    rule(
        !vm || !st.long_mode(),
        "rflags: there is no virtual-8086 mode (VM, bit 17) in long mode",
    )?;
    rule(st.xcr0 & xcr0::X87 != 0, "xcr0: bit 0 is always set")?;
    rule(
        st.xcr0 & xcr0::AVX == 0 || st.xcr0 & xcr0::SSE != 0,
        "xcr0: AVX (bit 2) needs SSE (bit 1)",
    )?;
    let avx512 = xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM;
    rule(
        st.xcr0 & avx512 == 0 || st.xcr0 & (avx512 | xcr0::AVX) == avx512 | xcr0::AVX,
        "xcr0: the AVX-512 bits (5 to 7) are set together, and need AVX (bit 2)",
    )?;
    rule(
        st.shadow != Shadow::Sti || st.rflags & flags::IF != 0,
        "shadow: STI leaves rflags' IF (bit 9) set",
    )
}

fn limit(name: Register, s: &Segment) -> Check {
    let good = if s.attr & attr::G != 0 {
        s.limit & 0xfff == 0xfff
    } else {
        s.limit <= 0xf_ffff
    };
    require(good, || {
        let unit = if s.attr & attr::G != 0 {
            "whole pages, as attr's G (bit 15) is set"
        } else {
            "at most FFFFFh, as attr's G (bit 15) is clear"
        };
        format!("{name}: limit {:#x} in bytes must be {unit}", s.limit)
    })
}

fn segment(name: Register, seg: Seg, s: &Segment) -> Check {
    if s.attr & attr::UNUSABLE != 0 {
        return require(seg != Seg::Cs, || {
            "cs: it is never unusable (attr, bit 16)".to_owned()
        });
    }
    require(s.has(attr::P), || {
        format!("{name}: a loaded segment is present (attr, bit 7)")
    })?;
    require(s.has(attr::S), || {
        format!("{name}: it holds code or data (attr, bit 4)")
    })?;
    limit(name, s)?;
    let (code, writable) = (s.attr & attr::CODE != 0, s.attr & attr::RW != 0);
    match seg {
        // Real mode's data segment stays in CS after the switch to protected mode.
        Seg::Cs => require(
            code || (writable && s.attr & attr::DC == 0 && s.dpl() == 0),
            || "cs: it holds a code segment (attr, bit 3)".to_owned(),
        ),
        Seg::Ss => require(!code && writable, || {
            "ss: it holds writable data (attr, bits 3 and 1)".to_owned()
        }),
        _ => require(!code || writable, || {
            format!("{name}: code in it is readable (attr, bit 1)")
        }),
    }
}

fn vm86_segment(name: Register, s: &Segment) -> Check {
    let good = s.base == u64::from(s.selector) << 4 && s.limit == 0xffff && s.attr == 0xf3;
    require(good, || {
        format!("{name}: in virtual-8086 mode base is sel*16, limit FFFFh and attr F3h")
    })
}

fn privilege(st: &CpuState) -> Check {
    if st.vm86() {
        return Ok(());
    }
    let (cs, ss) = (&st.seg[Seg::Cs as usize], &st.seg[Seg::Ss as usize]);
    if st.real_mode() {
        return require(cs.dpl() == 0 && ss.dpl() == 0, || {
            "cs and ss have privilege level 0 (attr, bits 5 and 6) in real mode".to_owned()
        });
    }
    let conforming = cs.has(attr::CODE | attr::DC);
    require(
        if conforming {
            cs.dpl() <= ss.dpl()
        } else {
            cs.dpl() == ss.dpl()
        },
        || {
            format!(
                "cs: its privilege level {} (attr, bits 5 and 6) does not go with ss's {}, the current one",
                cs.dpl(),
                ss.dpl()
            )
        },
    )?;
    require(!st.long_mode() || !cs.has(attr::L | attr::DB), || {
        "cs: L and D (attr, bits 13 and 14) are not both set".to_owned()
    })
}

fn system_segments(st: &CpuState) -> Check {
    let tr = &st.tr;
    require(tr.attr & attr::UNUSABLE == 0, || {
        "tr: it is never unusable (attr, bit 16)".to_owned()
    })?;
    require(tr.has(attr::P) && !tr.has(attr::S), || {
        "tr: it holds a present TSS (attr, bits 7 and 4)".to_owned()
    })?;
    require(
        tr.kind() == 11 || (tr.kind() == 3 && !st.long_mode()),
        || {
            let sixteen = if st.long_mode() {
                ""
            } else {
                " or 3, a 16-bit one"
            };
            format!("tr: its type (attr, bits 0 to 3) is 11, a busy TSS{sixteen}")
        },
    )?;
    limit(Register::Tr, tr)?;
    let ldtr = &st.ldtr;
    if ldtr.attr & attr::UNUSABLE != 0 {
        return Ok(());
    }
    require(
        ldtr.has(attr::P) && !ldtr.has(attr::S) && ldtr.kind() == 2,
        || "ldtr: it holds a present LDT (attr 82h), or is unusable (attr, bit 16)".to_owned(),
    )?;
    limit(Register::Ldtr, ldtr)
}

/// Linear addresses of this many bits.
struct Addresses {
    bits: u32,
}

impl Addresses {
    fn base(&self, name: Register, base: u64) -> Check {
        let top = base.cast_signed() >> (self.bits - 1);
        require(top == 0 || top == -1, || {
            format!("{name}: base {base:#x} is not canonical")
        })
    }
}
