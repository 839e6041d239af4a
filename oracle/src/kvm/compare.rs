//! What counts as the same answer.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use x86::{CpuState, Segment, attr, flags};

use super::case::{Case, End, Outcome, registers};

/// The case's instruction.
pub fn decode(case: &Case) -> Instruction {
    let st = &case.st;
    let bits = if st.code64() {
        64
    } else if st.real_mode() || st.vm86() || st.seg[1].attr & attr::DB == 0 {
        16
    } else {
        32
    };
    Decoder::with_ip(bits, &case.code, st.rip, DecoderOptions::NONE).decode()
}

/// The flags that are not compared after an instruction.
fn undefined(instruction: &Instruction) -> u64 {
    let mut mask = frontend_x86::status_flags(instruction.rflags_undefined());
    // Counts are not always known to the decoder: what a shift by more than one leaves in OF and AF is open.
    use Mnemonic as M;
    if matches!(
        instruction.mnemonic(),
        M::Shl | M::Shr | M::Sar | M::Sal | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    ) {
        mask |= flags::OF | flags::AF;
        // A count beyond the operand's size (8 and 16 bits) leaves CF open, for double shifts everything.
        mask |= flags::CF;
        if matches!(instruction.mnemonic(), M::Shld | M::Shrd) {
            mask |= flags::STATUS;
        }
    }
    mask
}

/// A segment register as it is compared: an unusable one is its selector and base.
fn comparable(s: &Segment) -> Segment {
    if s.attr & attr::UNUSABLE != 0 || s.attr & attr::P == 0 {
        Segment {
            base: s.base,
            limit: 0,
            attr: attr::UNUSABLE,
            selector: s.selector,
        }
    } else {
        Segment {
            attr: s.attr & 0xf0ff,
            ..*s
        }
    }
}

fn normalise(st: &CpuState, instruction: &Instruction) -> CpuState {
    let mut st = st.clone();
    st.rflags &= !(undefined(instruction) | flags::TF);
    if matches!(instruction.mnemonic(), Mnemonic::Rdtsc | Mnemonic::Rdtscp) {
        (st.gpr[0], st.gpr[2]) = (0, 0);
    }
    // A null SS in 64-bit mode has nothing but its DPL.
    if st.code64() && st.seg[2].selector & !3 == 0 {
        st.seg[2] = Segment {
            base: 0,
            limit: 0,
            attr: attr::UNUSABLE,
            selector: st.seg[2].selector,
        };
    }
    // KVM's own single step shows in DR6.BS.
    st.dr6 &= !(1 << 14);
    // The halves that are reserved keep what was written on some CPUs (SDM 4, 2.1).
    st.msr.fmask &= 0xffff_ffff;
    st.msr.sysenter_cs &= 0xffff_ffff;
    for s in st.seg.iter_mut().chain([&mut st.ldtr, &mut st.tr]) {
        *s = comparable(s);
    }
    st
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The register, `end`, `outs` or `@address`.
    pub what: String,
    /// Doppel's value.
    pub doppel: String,
    /// The other's value.
    pub other: String,
}

/// The differences of two answers' registers, ends and port writes.
pub fn differences(case: &Case, doppel: &Outcome, other: &Outcome) -> Vec<Difference> {
    let mut list = Vec::new();
    let mut add = |what: &str, doppel: String, other: String| {
        list.push(Difference {
            what: what.into(),
            doppel,
            other,
        })
    };
    if doppel.end != other.end {
        add(
            "end",
            format!("{:x?}", doppel.end),
            format!("{:x?}", other.end),
        );
        return list;
    }
    if doppel.outs != other.outs {
        add(
            "outs",
            format!("{:x?}", doppel.outs),
            format!("{:x?}", other.outs),
        );
    }
    if doppel.end != End::Done {
        return list;
    }
    let instruction = decode(case);
    let (a, b) = (
        normalise(&doppel.st, &instruction),
        normalise(&other.st, &instruction),
    );
    if a == b {
        return list;
    }
    let unpaired = registers(&a)
        .into_iter()
        .zip(registers(&b))
        .filter(|(a, b)| a.1 != b.1);
    for ((name, a), (_, b)) in unpaired {
        add(&name, format!("{a:x}"), format!("{b:x}"));
    }
    list
}

/// The differences of two memories, by runs of bytes.
pub fn memory_differences(doppel: &[u8], other: &[u8]) -> Vec<Difference> {
    if doppel == other {
        return Vec::new();
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    super::case::runs(doppel, other)
        .into_iter()
        .map(|(at, bytes)| Difference {
            what: format!("@{at:x}"),
            doppel: hex(&doppel[at as usize..at as usize + bytes.len()]),
            other: hex(&bytes),
        })
        .collect()
}
