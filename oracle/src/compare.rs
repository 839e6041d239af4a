//! Two outcomes of one case: equal, but for what the manual leaves open.

use std::fmt::Write;

use iced_x86::Instruction;
use x86::flags::{AC, DF, ID, NT, STATUS, TF};

use crate::case::{Case, Change, GPR, NO_FAULT, Outcome, SEG};
use crate::codes::Vendor;
use crate::generate::linear;
use crate::known::{Seen, kind, known};
use crate::layout::{self, WRITABLE};
use crate::undefined::{Destination, Undefined, undefined};

/// RFLAGS bits that are compared. RF differs: the host's signal frame tells nothing of it.
const FLAGS: u64 = STATUS | DF | NT | AC | ID | TF;
const GP: u32 = 13;
const PF: u32 = 14;
/// #PF error code: present.
const PRESENT: u32 = 1;

/// Makes an outcome of what came after a branch: the INT3 or the fetch fault at its target is not its own.
pub fn landed(case: &Case, breakpoint: bool, out: &mut Outcome) {
    let own = breakpoint && out.ip == case.next_ip();
    if out.vector == 3 && !own {
        out.ip = out.ip.wrapping_sub(1);
        if layout::segment(out.seg[1]).attr & (x86::attr::DB | x86::attr::L) == 0 {
            out.ip &= 0xffff;
        }
    } else if matches!(out.vector, GP | PF) && out.ip.wrapping_sub(case.ip) >= u64::from(case.len) {
        // Fetched from where nothing is, or from beyond CS's limit.
    } else {
        return;
    }
    (out.vector, out.error, out.cr2) = (NO_FAULT, 0, 0);
}

/// Whether the case is one breakpoint instruction.
pub fn is_breakpoint(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    insn.mnemonic() == M::Int3 || (insn.mnemonic() == M::Int && insn.immediate8() == 3)
}

/// Distance in units of the last place between two x87 registers of one sign.
fn ulps(a: &[u8], b: &[u8]) -> u128 {
    let line = |v: &[u8]| {
        let significand = u64::from_le_bytes(v[..8].try_into().unwrap_or_default());
        let se = u16::from_le_bytes([v[8], v[9]]);
        (
            se >> 15,
            u128::from(se & 0x7fff) << 63 | u128::from(significand & u64::MAX >> 1),
        )
    };
    let ((sa, a), (sb, b)) = (line(a), line(b));
    if sa == sb || a | b == 0 {
        a.abs_diff(b)
    } else {
        u128::MAX
    }
}

/// Whether two binary32s are within 2 * 1.5 * 2^-12 of one another: each may be that far from the truth.
///
/// Tiny ones are zeros, and whether a result next to the smallest normal number is tiny depends on the implementation
/// (SDM vol. 2, RCPPS: for sources about 2^126).
fn close(a: u32, b: u32) -> bool {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let smallest = f32::MIN_POSITIVE..=f32::MIN_POSITIVE * (1.0 + 3.0 / 4096.0);
    let flushed = |zero: f32, other: f32| zero == 0.0 && smallest.contains(&other.abs());
    a == b
        || (a ^ b) >> 31 == 0 && (flushed(x, y) || flushed(y, x))
        || (x.is_finite()
            && y.is_finite()
            && (f64::from(x) - f64::from(y)).abs() <= f64::from(x).abs() * 3.0 / 4096.0)
}

fn same_lanes(a: &[u8], b: &[u8]) -> bool {
    let lane = |v: &[u8]| u32::from_le_bytes(v.try_into().unwrap_or_default());
    a.chunks_exact(4)
        .zip(b.chunks_exact(4))
        .all(|(a, b)| close(lane(a), lane(b)))
}

fn memory(template: &[u8], case: &Case, changes: &[Change]) -> Vec<u8> {
    let mut bytes = template[..WRITABLE].to_vec();
    for (at, laid) in case.laid() {
        let len = laid.len().min(WRITABLE.saturating_sub(at));
        bytes[at.min(WRITABLE)..][..len].copy_from_slice(&laid[..len]);
    }
    for c in changes {
        bytes[c.word as usize * 8..][..8].copy_from_slice(&c.value.to_le_bytes());
    }
    bytes
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Same,
    /// What a row of [`crate::known::KNOWN`] explains.
    Known(usize),
    /// What differs, host's value first.
    Different(String),
}

/// Compares; the text tells what differs, host's value first.
pub struct Compare {
    template: Vec<u8>,
    vendor: Vendor,
}

impl Compare {
    /// For a host of this vendor.
    pub fn new(vendor: Vendor) -> Self {
        Self {
            template: layout::template(),
            vendor,
        }
    }

    /// What differs between host and engine after a case; `insns` are its instructions, both outcomes have
    /// [`landed`].
    pub fn differences(
        &self,
        case: &Case,
        insns: &[Instruction],
        (host, host_memory): (&Outcome, &[Change]),
        (ours, our_memory): (&Outcome, &[Change]),
    ) -> Verdict {
        let mut open = Undefined::default();
        if host.vector == NO_FAULT {
            for insn in insns {
                let u = undefined(insn, case);
                open.flags |= u.flags;
                if insns.len() == 1 {
                    open = u;
                }
            }
        }
        let (mut text, mut note) = (String::new(), String::new());
        let mut kinds = 0;
        let mut differ = |kind: u32, name: &str, host: u64, ours: u64| {
            if host != ours {
                kinds |= kind;
                let _ = write!(text, " {name}={host:x}/{ours:x}");
            }
        };
        differ(
            kind::VECTOR,
            "vector",
            host.vector.into(),
            ours.vector.into(),
        );
        if host.vector != ours.vector {
            // Not compared, but worth knowing.
            for (name, out) in [("host", host), ("ours", ours)] {
                if out.vector != NO_FAULT {
                    let _ = write!(note, " ({name}: error {:x} cr2 {:x})", out.error, out.cr2);
                }
            }
        }
        if host.vector != NO_FAULT && host.vector == ours.vector {
            let kernel = host.cr2 >= 0x7fff_ffff_f000 && host.vector == PF;
            // Linux hides from user mode whether the kernel's pages are there.
            let mask = if kernel { !PRESENT } else { !0 };
            differ(
                kind::ERROR,
                "error",
                (host.error & mask).into(),
                (ours.error & mask).into(),
            );
            if host.vector == PF {
                differ(kind::CR2, "cr2", host.cr2, ours.cr2);
            }
        }
        differ(kind::IP, "ip", host.ip, ours.ip);
        let mask = if case.bits == 64 {
            u64::MAX
        } else {
            0xffff_ffff
        };
        for (n, name) in GPR.iter().enumerate().take(case.registers()) {
            let mut mask = mask;
            if let Some(Destination::Register(r)) = open.destination {
                if r.full_register().number() == n {
                    mask &= !(u64::MAX >> (64 - 8 * r.size()));
                }
            }
            differ(kind::GPR, name, host.gpr[n] & mask, ours.gpr[n] & mask);
        }
        differ(
            kind::FLAGS,
            "rflags",
            host.rflags & FLAGS & !open.flags,
            ours.rflags & FLAGS & !open.flags,
        );
        for (n, name) in SEG.iter().enumerate() {
            differ(kind::SEG, name, host.seg[n].into(), ours.seg[n].into());
        }
        if case.bits == 64 {
            differ(kind::SEG, "fsbase", host.fs_base, ours.fs_base);
            differ(kind::SEG, "gsbase", host.gs_base, ours.gs_base);
        }
        differ(
            kind::SSE,
            "mxcsr",
            host.fx.mxcsr().into(),
            ours.fx.mxcsr().into(),
        );
        differ(kind::X87, "fcw", host.fx.fcw().into(), ours.fx.fcw().into());
        let c1 = open.transcendental || (open.c1 && self.vendor == Vendor::Amd);
        let status = if c1 { !0x200 } else { !0 };
        differ(
            kind::TAGS,
            "fsw",
            (host.fx.fsw() & status).into(),
            (ours.fx.fsw() & status).into(),
        );
        for (n, (a, b)) in host.wide.k.iter().zip(&ours.wide.k).enumerate() {
            if a != b {
                differ(kind::SSE, &format!("k{n}"), *a, *b);
            }
        }
        differ(
            kind::TAGS,
            "ftw",
            host.fx.ftw().into(),
            ours.fx.ftw().into(),
        );
        for i in 0..8 {
            let (a, b) = (host.fx.physical(i), ours.fx.physical(i));
            if a != b && !(open.transcendental && ulps(a, b) <= 1) {
                kinds |= kind::X87;
                let _ = write!(text, " R{i}={}/{}", hex(a), hex(b));
            }
        }
        for n in 0..case.registers() {
            let (a, b) = (host.fx.xmm(n), ours.fx.xmm(n));
            if a != b && !(open.approximate && same_lanes(a, b)) {
                kinds |= kind::SSE;
                let _ = write!(text, " xmm{n}={}/{}", hex(a), hex(b));
            }
            let (a, b) = (&host.uppers[n], &ours.uppers[n]);
            if a != b && !(open.approximate && same_lanes(a, b)) {
                kinds |= kind::SSE;
                let _ = write!(text, " upper{n}={}/{}", hex(a), hex(b));
            }
        }
        for n in 0..case.registers() {
            let (a, b) = (&host.wide.uppers[n], &ours.wide.uppers[n]);
            if a != b && !(open.approximate && same_lanes(a, b)) {
                kinds |= kind::SSE;
                let _ = write!(text, " zupper{n}={}/{}", hex(a), hex(b));
            }
        }
        for n in 0..16 {
            let (a, b) = (&host.wide.high[n], &ours.wide.high[n]);
            if a != b && !(open.approximate && same_lanes(a, b)) {
                kinds |= kind::SSE;
                let _ = write!(text, " zmm{}={}/{}", n + 16, hex(a), hex(b));
            }
        }
        if host_memory != our_memory {
            if self.memory_differences(case, insns, &open, host_memory, our_memory, &mut text) {
                kinds |= kind::MEMORY;
            }
        }
        if kinds == 0 {
            return Verdict::Same;
        }
        let seen = Seen {
            case,
            insn: &insns[0],
            host,
            ours,
            kinds,
        };
        match known(&seen, self.vendor).filter(|_| insns.len() == 1) {
            Some(n) => Verdict::Known(n),
            None => Verdict::Different(text + &note),
        }
    }

    fn memory_differences(
        &self,
        case: &Case,
        insns: &[Instruction],
        open: &Undefined,
        host: &[Change],
        ours: &[Change],
        text: &mut String,
    ) -> bool {
        let mut host = memory(&self.template, case, host);
        let mut ours = memory(&self.template, case, ours);
        let at = insns
            .iter()
            .find_map(|insn| (0..insn.op_count()).find_map(|n| linear(case, insn, n)))
            .and_then(layout::arena_offset);
        if let Some(at) = at {
            let whole = match open.destination {
                Some(Destination::Memory(len)) => Some((0, len)),
                _ => None,
            };
            for (from, to) in open.image.iter().copied().chain(whole) {
                for place in at + from..at + to {
                    if place < WRITABLE {
                        (host[place], ours[place]) = (0, 0);
                    }
                }
            }
        }
        let (mut place, mut found) = (0, false);
        while place < WRITABLE {
            if host[place] == ours[place] {
                place += 1;
                continue;
            }
            let len = (place..WRITABLE)
                .take_while(|p| host[*p] != ours[*p])
                .count();
            let shown = len.min(32);
            let _ = write!(
                text,
                " m{place:x}={}/{}",
                hex(&host[place..place + shown]),
                hex(&ours[place..place + shown])
            );
            place += len;
            found = true;
        }
        found
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{Compare, Verdict, close, landed};
    use crate::case::{Case, Change, Fx, NO_FAULT, Outcome};
    use crate::codes::{Vendor, decode};

    fn compare(bytes: &[u8], change: impl Fn(&mut Outcome, &mut Vec<Change>)) -> Verdict {
        let case = Case::new(64, bytes);
        let insn = decode(bytes, 64, case.ip);
        let host = Outcome {
            ip: case.next_ip(),
            ..Outcome::NONE
        };
        let (mut ours, mut memory) = (host, Vec::new());
        change(&mut ours, &mut memory);
        Compare::new(Vendor::Intel).differences(&case, &[insn], (&host, &[]), (&ours, &memory))
    }

    #[test]
    fn every_part_of_the_state_counts() {
        let add = [0x48, 0x01, 0xd8];
        assert_eq!(compare(&add, |_, _| {}), Verdict::Same);
        type Alter = fn(&mut Outcome);
        let changes: [(&str, Alter); 19] = [
            ("vector", |o| o.vector = 6),
            ("ip", |o| o.ip += 1),
            ("rax", |o| o.gpr[0] = 1),
            ("r15", |o| o.gpr[15] = 1 << 63),
            ("rflags", |o| o.rflags = 1),
            ("rflags", |o| o.rflags = 1 << 10),
            ("gs", |o| o.seg[5] = 0x2b),
            ("fsbase", |o| o.fs_base = 1),
            ("mxcsr", |o| o.fx.set_mxcsr(0x1f81)),
            ("fcw", |o| o.fx.set_fcw(0x37e)),
            ("fsw", |o| o.fx.set_fsw(1)),
            ("ftw", |o| o.fx.set_ftw(1)),
            ("R7", |o| o.fx.st_mut(7)[9] = 1),
            ("xmm15", |o| o.fx.xmm_mut(15)[15] = 1),
            ("upper15", |o| o.uppers[15][15] = 1),
            ("zupper15", |o| o.wide.uppers[15][31] = 1),
            ("zmm31", |o| o.wide.high[15][63] = 1),
            ("k7", |o| o.wide.k[7] = 1 << 63),
            ("xmm0", |o| o.fx.xmm_mut(0)[0] = 1),
        ];
        for (name, change) in changes {
            match compare(&add, |o, _| change(o)) {
                Verdict::Different(text) => {
                    assert!(text.contains(&format!(" {name}=")), "{name}: {text}")
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        let memory = compare(&add, |_, m| m.push(Change { word: 3, value: 1 }));
        assert!(matches!(memory, Verdict::Different(text) if text.contains(" m18=")));
    }

    #[test]
    fn undefined_flags_do_not_count() {
        // AND leaves AF undefined, and nothing else.
        let and = [0x48, 0x21, 0xd8];
        assert_eq!(compare(&and, |o, _| o.rflags = 0x10), Verdict::Same);
        assert_ne!(compare(&and, |o, _| o.rflags = 0x14), Verdict::Same);
        // Unless it faulted.
        let case = Case::new(64, &and);
        let insn = decode(&and, 64, case.ip);
        let host = Outcome {
            vector: 14,
            ..Outcome::NONE
        };
        let ours = Outcome {
            rflags: 0x10,
            ..host
        };
        let verdict =
            Compare::new(Vendor::Intel).differences(&case, &[insn], (&host, &[]), (&ours, &[]));
        assert!(matches!(verdict, Verdict::Different(_)));
    }

    #[test]
    fn approximations_are_near() {
        // RCPSS XMM0, XMM0.
        let rcpss = [0xf3, 0x0f, 0x53, 0xc0];
        let one =
            |o: &mut Outcome, bits: u32| o.fx.xmm_mut(0)[..4].copy_from_slice(&bits.to_le_bytes());
        let case = Case::new(64, &rcpss);
        let insn = decode(&rcpss, 64, case.ip);
        let mut host = Outcome {
            ip: case.next_ip(),
            fx: Fx::INIT,
            ..Outcome::NONE
        };
        one(&mut host, 1.0_f32.to_bits());
        for (value, same) in [
            (1.0007_f32, true),
            (0.9993, true),
            (1.0008, false),
            (-1.0, false),
        ] {
            let mut ours = host;
            one(&mut ours, value.to_bits());
            let verdict =
                Compare::new(Vendor::Intel).differences(&case, &[insn], (&host, &[]), (&ours, &[]));
            assert_eq!(verdict == Verdict::Same, same, "{value}");
        }
        // The reciprocal of 2^126 may have been flushed.
        assert!(close(0x8000_0000, 0x8080_0000) && close(0x0080_0bff, 0));
        assert!(!close(0x8000_0000, 0x0080_0000) && !close(0x0080_1801, 0));
        assert!(!close(0, 0x007f_ffff));
    }

    #[test]
    fn traps_behind_a_branch_are_not_its_own() {
        let case = Case::new(64, &[0xeb, 0x10]);
        let mut out = Outcome {
            vector: 3,
            ip: case.ip + 0x13,
            seg: case.seg,
            ..Outcome::NONE
        };
        landed(&case, false, &mut out);
        assert_eq!((out.vector, out.ip), (NO_FAULT, case.ip + 0x12));
        let mut out = Outcome {
            vector: 14,
            error: 0x14,
            ip: 0x1234,
            cr2: 0x1234,
            seg: case.seg,
            ..Outcome::NONE
        };
        landed(&case, false, &mut out);
        assert_eq!((out.vector, out.error, out.cr2), (NO_FAULT, 0, 0));
        let mut out = Outcome {
            vector: 14,
            error: 4,
            ip: case.ip,
            cr2: 0x1234,
            seg: case.seg,
            ..Outcome::NONE
        };
        landed(&case, false, &mut out);
        assert_eq!(out.vector, 14);
    }
}
