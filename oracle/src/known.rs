//! Differences that are known and explained: a table with reasons. Each row excuses only what it names.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

use crate::case::{Case, NO_FAULT, Outcome};
use crate::codes::Vendor;
use crate::generate::{base_of, linear, value};
use crate::layout;

/// What differs, as bits.
pub mod kind {
    /// The exception.
    pub const VECTOR: u32 = 1 << 0;
    /// Its error code.
    pub const ERROR: u32 = 1 << 1;
    /// The faulting address.
    pub const CR2: u32 = 1 << 2;
    /// The next instruction's address.
    pub const IP: u32 = 1 << 3;
    /// A general register.
    pub const GPR: u32 = 1 << 4;
    /// RFLAGS.
    pub const FLAGS: u32 = 1 << 5;
    /// A segment register.
    pub const SEG: u32 = 1 << 6;
    /// XMM registers, MXCSR.
    pub const SSE: u32 = 1 << 7;
    /// x87 registers, control word.
    pub const X87: u32 = 1 << 8;
    /// Status and tag word.
    pub const TAGS: u32 = 1 << 9;
    /// Memory.
    pub const MEMORY: u32 = 1 << 10;
}

const FAULT: u32 = kind::VECTOR | kind::ERROR | kind::CR2;
const ALL: u32 = u32::MAX;

/// A difference to be judged.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The case.
    pub case: &'a Case,
    /// Its instruction.
    pub insn: &'a Instruction,
    /// The host's outcome.
    pub host: &'a Outcome,
    /// The engine's.
    pub ours: &'a Outcome,
    /// What differs.
    pub kinds: u32,
}

/// One explained difference.
pub struct Known {
    /// Why it is no error of the engine.
    pub reason: &'static str,
    /// AMD's CPUs only: an Intel host must agree with the engine.
    pub amd: bool,
    /// What may differ.
    kinds: u32,
    test: fn(&Seen) -> bool,
}

/// #GP and #SS.
const GP: u32 = 13;
const SS: u32 = 12;
const PF: u32 = 14;

/// The table.
pub const KNOWN: &[Known] = &[
    Known {
        reason: "RETF and IRET read several words; which of them is read first, and whether all are before any is looked \
                 at, is not architectural",
        amd: false,
        kinds: FAULT,
        test: |s| {
            is_far_return(s.insn) && matches!(s.host.vector, PF | SS) && s.ours.vector != NO_FAULT
        },
    },
    Known {
        reason: "IRETQ with a bad SS and a bad RIP: Intel looks at SS first (SDM vol. 2, IRET), AMD at RIP",
        amd: true,
        kinds: FAULT,
        test: |s| is_far_return(s.insn) && (s.host.vector, s.host.error) == (GP, 0),
    },
    Known {
        reason: "a null selector with an RPL in a data segment register: the host's kernel returned from an exception or \
                 interrupt meanwhile, and IRET to an outer level clears it",
        amd: false,
        kinds: kind::SEG,
        test: |s| {
            let mut pairs = s.host.seg.iter().zip(&s.ours.seg);
            (s.host.fs_base, s.host.gs_base) == (s.ours.fs_base, s.ours.gs_base)
                && pairs.all(|(host, ours)| host == ours || (*host == 0 && *ours < 4))
        },
    },
    Known {
        reason: "an operand of more than 8 bytes: which of its parts is accessed first is not architectural",
        amd: false,
        kinds: FAULT,
        test: |s| {
            let large = matches!(s.insn.memory_size().size(), 0 | 9..);
            // Of a part that is beyond the segment's limit, and one whose page is missing, either may be seen first.
            let order = s.case.bits != 64
                && matches!(
                    (s.host.vector, s.ours.vector),
                    (PF, GP | SS) | (GP | SS, PF)
                );
            large && (order || (s.host.vector, s.ours.vector) == (PF, PF) && within(s, 832))
        },
    },
    Known {
        reason: "ENTER and PUSHA that fault may have written below the stack pointer: they push before they commit ESP",
        amd: false,
        kinds: kind::MEMORY,
        test: |s| {
            matches!(s.insn.mnemonic(), M::Enter | M::Pusha | M::Pushad)
                && s.host.vector != NO_FAULT
        },
    },
    Known {
        reason: "REP CMPS and SCAS that fault: Intel restores RFLAGS (SDM vol. 2, REP), AMD leaves the last comparison's",
        amd: true,
        kinds: kind::FLAGS,
        test: |s| is_string_compare(s.insn) && s.host.vector != NO_FAULT,
    },
    Known {
        reason: "CVTxx2PI, CVTPI2xx and MASKMOVQ that fault: AMD has gone over to MMX state before, Intel does so with \
                 the result",
        amd: true,
        kinds: kind::TAGS | kind::CR2,
        test: |s| {
            use M::{Cvtpd2pi, Cvtpi2pd, Cvtpi2ps, Cvtps2pi, Cvttpd2pi, Cvttps2pi, Maskmovq};
            let mmx = matches!(
                s.insn.mnemonic(),
                Cvtps2pi | Cvttps2pi | Cvtpd2pi | Cvttpd2pi | Cvtpi2ps | Cvtpi2pd | Maskmovq
            );
            mmx && s.host.vector != NO_FAULT
                && s.host.fx.ftw() == 0xff
                && s.host.fx.fsw() & 0x3800 == 0
        },
    },
    Known {
        reason: "MASKMOVDQU and MASKMOVQ that fault: whether CR2 is the operand's address or that of its first byte with \
                 a set mask bit is not architectural",
        amd: false,
        kinds: kind::CR2,
        test: |s| {
            matches!(s.insn.mnemonic(), M::Maskmovq | M::Maskmovdqu)
                && s.host.cr2.abs_diff(s.ours.cr2) < 16
        },
    },
    Known {
        reason: "POPA that faults: AMD has loaded the registers before the fault; the manual has them loaded or not",
        amd: true,
        kinds: kind::GPR,
        test: |s| matches!(s.insn.mnemonic(), M::Popa | M::Popad) && s.host.vector != NO_FAULT,
    },
    Known {
        reason: "a transfer from 64-bit to compatibility mode: upper halves of registers are undefined (SDM vol. 1, \
                 3.4.1.1); AMD clears RSP's",
        amd: true,
        kinds: kind::GPR,
        test: |s| {
            let same = s
                .host
                .gpr
                .iter()
                .zip(&s.ours.gpr)
                .all(|(a, b)| a & 0xffff_ffff == b & 0xffff_ffff);
            s.case.bits == 64 && s.host.seg[1] != layout::sel::CODE64 && same
        },
    },
    Known {
        reason: "SHA instructions: Intel wants their memory operand aligned (SDM vol. 2, table 2-21, type 4), AMD does not",
        amd: true,
        kinds: ALL,
        test: |s| {
            format!("{:?}", s.insn.mnemonic()).starts_with("Sha")
                && s.ours.vector == GP
                && misaligned(s)
        },
    },
    Known {
        reason: "RETF from compatibility to 64-bit mode: AMD adds its immediate to all of RSP",
        amd: true,
        kinds: kind::GPR,
        test: |s| {
            s.insn.mnemonic() == M::Retf
                && s.case.bits != 64
                && s.host.seg[1] == layout::sel::CODE64
        },
    },
    Known {
        reason: "CVTPI2PS from memory with a pending x87 exception: Intel raises #MF (SDM vol. 2, CVTPI2PS), AMD does not look",
        amd: true,
        kinds: ALL,
        test: |s| {
            s.insn.mnemonic() == M::Cvtpi2ps
                && s.insn.op1_kind() == OpKind::Memory
                && s.ours.vector == 16
        },
    },
    Known {
        reason: "FS and GS in 64-bit code: AMD wants the offset canonical, too, before the base is added",
        amd: true,
        kinds: FAULT,
        test: |s| {
            s.case.bits == 64
                && (s.host.vector, s.ours.vector) == (GP, PF)
                && non_canonical_offset(s)
        },
    },
    Known {
        reason: "far CALL that faults: AMD has written below the stack pointer before it looks at the target's limit",
        amd: true,
        kinds: kind::MEMORY,
        test: |s| s.insn.mnemonic() == M::Call && s.host.vector != NO_FAULT,
    },
    Known {
        reason: "UD0 and UD1: Intel's have a ModR/M byte, which must be fetched with what it asks for; AMD's have none",
        amd: true,
        kinds: FAULT,
        test: |s| {
            matches!(s.insn.mnemonic(), M::Ud0 | M::Ud1)
                && s.host.vector == 6
                && matches!(s.ours.vector, PF | GP)
        },
    },
    Known {
        reason: "an undefined instruction that is cut off: how much of it is fetched before #UD is not architectural",
        amd: false,
        kinds: FAULT,
        test: |s| {
            s.insn.is_invalid()
                && matches!((s.host.vector, s.ours.vector), (6, PF | GP) | (PF | GP, 6))
        },
    },
    Known {
        reason: "a taken branch whose last byte is its segment's last: Zen 5 raises #GP now and then, and not when the \
                 case is repeated",
        amd: true,
        kinds: ALL,
        test: |s| {
            let last = s.case.code_offset() + u64::from(s.case.len) == layout::CODE_LEN;
            let branch = s.insn.flow_control() == iced_x86::FlowControl::ConditionalBranch;
            last && branch && s.case.bits == 32 && (s.host.vector, s.host.error) == (GP, 0)
        },
    },
    Known {
        reason: "a random address where the child has memory of its own: its stack, its libraries",
        amd: false,
        kinds: ALL,
        test: |s| {
            let elsewhere = layout::arena_offset(s.ours.cr2).is_none();
            let own = (0x5000_0000_0000..0x7fff_ffff_f000).contains(&s.ours.cr2);
            (s.host.vector, s.ours.vector) == (NO_FAULT, PF) && elsewhere && own
        },
    },
    Known {
        reason: "LDS and its kin, far JMP and CALL read two parts: whether both are inside the limit is asked before \
                 either is read, or not",
        amd: false,
        kinds: FAULT,
        test: |s| {
            let far = matches!(
                s.insn.mnemonic(),
                M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss
            ) || s.insn.is_jmp_far_indirect()
                || s.insn.is_call_far_indirect();
            far && matches!((s.host.vector, s.ours.vector), (PF, GP | SS))
        },
    },
    Known {
        reason: "XSAVE and its kin: whether the header is read before the area is written is not architectural",
        amd: false,
        kinds: kind::ERROR | kind::CR2,
        test: |s| format!("{:?}", s.insn.mnemonic()).starts_with("Xsave") && within(s, 832),
    },
    Known {
        reason: "MOVS whose operands overlap where their pointers don't say so (one page at two addresses, garbage above \
                 short pointers): the host's fast strings copy more than an element at once (SDM vol. 3, 10.4.2.5)",
        amd: false,
        kinds: kind::MEMORY,
        test: |s| {
            let [Some(to), Some(from)] = [0, 1].map(|n| linear(s.case, s.insn, n)) else {
                return false;
            };
            let offsets = [from, to].map(layout::arena_offset);
            // 16-bit pointers: AMD compares whole registers, whatever is above the pointers in them.
            let same = s.case.gpr[7].wrapping_sub(s.case.gpr[6]) == to.wrapping_sub(from)
                && to.abs_diff(from) < layout::ARENA as u64;
            matches!(s.insn.mnemonic(), M::Movsb | M::Movsw | M::Movsd | M::Movsq)
                && !same
                && matches!(offsets, [Some(a), Some(b)] if a.abs_diff(b) < 64)
        },
    },
    Known {
        reason: "MOVSXD with a 16-bit operand: Intel reads 16 bits of memory (SDM vol. 2), AMD 32",
        amd: true,
        kinds: ALL,
        test: |s| {
            s.insn.code() == Code::Movsxd_r16_rm16
                && s.host.vector != NO_FAULT
                && s.ours.vector != GP
        },
    },
    Known {
        reason: "POP of a segment register: whether all of the stack's word is read or 16 bits of it is not architectural",
        amd: false,
        kinds: ALL,
        test: |s| {
            let pop = s.insn.mnemonic() == M::Pop && s.insn.op0_register().is_segment_register();
            pop && matches!(s.host.vector, PF | SS) && s.ours.vector != s.host.vector
        },
    },
    Known {
        reason: "PUSH of a segment register, 32 bits wide: Intel writes 16 (SDM vol. 2, PUSH), AMD zero-extends",
        amd: true,
        kinds: kind::MEMORY | kind::CR2,
        test: |s| s.insn.mnemonic() == M::Push && s.insn.op0_register().is_segment_register(),
    },
    Known {
        reason: "ARPL: whether its read already asks for write permission is not architectural",
        amd: false,
        kinds: ALL,
        test: |s| {
            let written = s.ours.vector == GP || s.ours.vector == PF && s.ours.error & 2 != 0;
            s.insn.mnemonic() == M::Arpl && written && matches!(s.host.vector, PF | NO_FAULT)
        },
    },
    Known {
        reason: "REP INS and OUTS without I/O permission: AMD raises #GP even when the count is 0",
        amd: true,
        kinds: FAULT | kind::IP,
        test: |s| is_port_string(s.insn) && s.ours.vector == NO_FAULT && s.host.vector == GP,
    },
    Known {
        reason: "near CALL to a bad target with a bad stack: which exception comes first is not architectural",
        amd: false,
        kinds: FAULT,
        test: |s| {
            s.insn.mnemonic() == M::Call
                && s.ours.vector == GP
                && matches!(s.host.vector, SS | PF | 17)
        },
    },
    Known {
        reason: "far CALL between 64-bit and compatibility mode: AMD pushes with the new mode's stack address size",
        amd: true,
        kinds: ALL,
        test: |s| far_call_changes_mode(s),
    },
    Known {
        reason: "an access that wraps at 4 GiB in a flat 32-bit segment: the limit check is implementation-specific (SDM \
                 vol. 3, 5.3)",
        amd: false,
        kinds: ALL,
        test: |s| {
            s.case.bits != 64
                && matches!(s.host.vector, GP | SS)
                && s.ours.vector != s.host.vector
                && wraps(s)
        },
    },
    Known {
        reason: "a pending x87 exception and a bad memory operand: #MF and #PF, #GP, #SS are of one class (SDM vol. 3, \
                 table 6-2), their order is not architectural",
        amd: false,
        kinds: FAULT,
        test: |s| {
            let memory = |vector| matches!(vector, GP | SS | PF);
            s.host.vector == 16 && memory(s.ours.vector)
                || s.ours.vector == 16 && memory(s.host.vector)
        },
    },
    Known {
        reason: "MASKMOVQ and MASKMOVDQU where no mask bit is set: faults are implementation-dependent (SDM vol. 2)",
        amd: false,
        kinds: ALL,
        test: |s| {
            let maskmov = matches!(s.insn.mnemonic(), M::Maskmovq | M::Maskmovdqu);
            maskmov && matches!(s.host.vector, PF | GP | SS) && zero_mask(s)
        },
    },
    Known {
        reason: "a misaligned operand beyond SS's limit: #GP and #SS are of one class, their order is not architectural",
        amd: false,
        kinds: kind::VECTOR,
        test: |s| (s.host.vector, s.ours.vector) == (GP, SS) && misaligned(s),
    },
];

/// The row that explains a difference.
pub fn known(seen: &Seen, vendor: Vendor) -> Option<usize> {
    KNOWN.iter().position(|row| {
        (!row.amd || vendor == Vendor::Amd) && seen.kinds & !row.kinds == 0 && (row.test)(seen)
    })
}

/// The memory operand's linear address.
fn operand(s: &Seen) -> Option<u64> {
    (0..s.insn.op_count())
        .find(|n| s.insn.op_kind(*n) == OpKind::Memory)
        .and_then(|n| linear(s.case, s.insn, n))
}

fn misaligned(s: &Seen) -> bool {
    let name = format!("{:?}", s.insn.mnemonic());
    let to = if name.starts_with("Xsave") || name.starts_with("Xrstor") {
        64
    } else {
        16
    };
    operand(s).is_some_and(|lin| lin % to != 0)
}

/// Both faulting addresses lie in the first `len` bytes of the operand; 16-bit addresses may wrap in it.
fn within(s: &Seen, len: u64) -> bool {
    let inside = |cr2: u64, lin: u64| {
        let distance = cr2.wrapping_sub(lin);
        distance < len || (s.case.bits != 64 && distance & 0xffff < len)
    };
    operand(s).is_some_and(|lin| inside(s.host.cr2, lin) && inside(s.ours.cr2, lin))
}

/// What BT and its kin with a register add to the address: a signed bit offset.
fn bit_distance(s: &Seen) -> i64 {
    let string = matches!(s.insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && s.insn.op1_kind() == OpKind::Register;
    if !string {
        return 0;
    }
    let bits = 8 * s.insn.memory_size().size() as u32;
    let bit = (value(s.case, s.insn.op1_register()) << (64 - bits)) as i64 >> (64 - bits);
    (bit >> bits.trailing_zeros()) * i64::from(bits / 8)
}

/// The offset from FS.base or GS.base is not canonical.
fn non_canonical_offset(s: &Seen) -> bool {
    let base = base_of(s.case, s.insn.memory_segment());
    let canonical = |v: u64| (v << 16) as i64 >> 16 == v as i64;
    let offset = |lin: u64| lin.wrapping_sub(base).wrapping_add_signed(bit_distance(s));
    base != 0 && operand(s).is_some_and(|lin| !canonical(offset(lin)))
}

fn is_string_compare(insn: &Instruction) -> bool {
    use M::{Cmpsb, Cmpsd, Cmpsq, Cmpsw, Scasb, Scasd, Scasq, Scasw};
    matches!(
        insn.mnemonic(),
        Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq
    )
}

fn is_port_string(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd
    )
}

/// Where a far CALL leads, if that is not the mode that it comes from.
fn far_call_changes_mode(s: &Seen) -> bool {
    let selector = match s.insn.code() {
        Code::Call_ptr1616 | Code::Call_ptr1632 => s.insn.far_branch_selector(),
        Code::Call_m1616 | Code::Call_m1632 => {
            let offset = if s.insn.code() == Code::Call_m1616 {
                2
            } else {
                4
            };
            let Some(at) =
                operand(s).and_then(|lin| layout::arena_offset(lin.wrapping_add(offset)))
            else {
                return false;
            };
            let mut bytes = [0; 2];
            s.case.peek(&layout::template(), at, &mut bytes);
            u16::from_le_bytes(bytes)
        }
        _ => return false,
    };
    (layout::segment(selector).attr & x86::attr::L != 0) != (s.case.bits == 64)
}

/// The operand, or the stack's word, reaches beyond 4 GiB.
fn wraps(s: &Seen) -> bool {
    let beyond = |lin: u64, base: u64, size: u64| {
        let lin = lin.wrapping_add_signed(bit_distance(s));
        (lin.wrapping_sub(base) & 0xffff_ffff) + size.max(1) > 1 << 32
    };
    let size = s.insn.memory_size().size() as u64;
    let memory = (0..s.insn.op_count()).any(|n| {
        let segment = if s.insn.op_kind(n) == OpKind::Memory {
            s.insn.memory_segment()
        } else {
            Register::ES
        };
        linear(s.case, s.insn, n).is_some_and(|lin| {
            beyond(lin, base_of(s.case, segment), size)
                || beyond(lin, base_of(s.case, s.insn.memory_segment()), size)
        })
    });
    let sp = value(s.case, Register::ESP);
    let bp = value(s.case, Register::EBP);
    let near_end = |p: u64| p.wrapping_sub(256) & 0xffff_ffff > 0xffff_fdff;
    let frame = matches!(s.insn.mnemonic(), M::Enter | M::Leave) && near_end(bp);
    memory || frame || s.insn.is_stack_instruction() && near_end(sp)
}

fn zero_mask(s: &Seen) -> bool {
    let (register, fx) = (s.insn.op2_register(), &s.case.fx);
    let mask = if register.is_mm() {
        let top = usize::from(fx.fsw() >> 11 & 7);
        &fx.st((register.number() + 8 - top) & 7)[..8]
    } else {
        fx.xmm(register.number())
    };
    // Nothing to write in the page where the host faulted.
    let Some(lin) = operand_of_string(s) else {
        return false;
    };
    let there =
        |n: usize| s.host.vector != PF || (lin.wrapping_add(n as u64) ^ s.host.cr2) >> 12 == 0;
    mask.iter()
        .enumerate()
        .all(|(n, b)| b & 0x80 == 0 || !there(n))
}

fn is_far_return(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), M::Retf | M::Iret | M::Iretd | M::Iretq)
}

/// The linear address of an implicit operand at rDI.
fn operand_of_string(s: &Seen) -> Option<u64> {
    linear(s.case, s.insn, 0)
}
