//! Differences that are known and explained: a table with reasons. Each row excuses only what it names.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

use crate::case::{Case, NO_FAULT, Outcome};
use crate::codes::Vendor;
use crate::generate::{base_of, linear, linear_element, value, vsib_size};
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

/// #GP, #SS, #PF and #AC.
const GP: u32 = 13;
const SS: u32 = 12;
const PF: u32 = 14;
const UD: u32 = 6;
const AC: u32 = 17;

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
            // Of a part that is beyond the segment's limit or not canonical, and one whose page is missing, either may
            // be seen first.
            let order = (s.case.bits != 64 || leaves_lower_half(s))
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
        test: faults_in_mmx_state,
    },
    Known {
        reason: "MASKMOVDQU and MASKMOVQ that fault: whether CR2 is the operand's address or that of its first byte with \
                 a set mask bit is not architectural",
        amd: false,
        kinds: kind::CR2,
        test: |s| {
            matches!(
                s.insn.mnemonic(),
                M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu
            ) && s.host.cr2.abs_diff(s.ours.cr2) < 16
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
        // MASKMOVQ has then gone over to MMX state, as with any fault.
        kinds: FAULT | kind::TAGS,
        test: |s| {
            s.case.bits == 64
                && s.host.vector == GP
                && matches!(s.ours.vector, PF | AC)
                && (s.kinds & kind::TAGS == 0 || faults_in_mmx_state(s))
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
        reason: "LOCK VERW of memory: AMD's CPUs whose microcode has VERW clear buffers do not look at LOCK",
        amd: true,
        kinds: ALL,
        test: |s| {
            let bytes = &s.case.code[..usize::from(s.case.len)];
            let verw = bytes
                .windows(3)
                .position(|w| w[..2] == [0x0f, 0x00] && w[2] >> 3 & 7 == 5 && w[2] >> 6 != 3);
            let locked = verw.is_some_and(|at| bytes[..at].contains(&0xf0));
            s.insn.is_invalid() && locked && s.ours.vector == 6
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
        reason: "a random address where the child has memory of its own: its stack, its libraries, the harness's pages",
        amd: false,
        kinds: ALL,
        test: |s| {
            let elsewhere = layout::arena_offset(s.ours.cr2).is_none();
            let own = (0x5000_0000_0000..0x7fff_ffff_f000).contains(&s.ours.cr2);
            // What was read there may have been a bad selector or target; ENTER reads frame pointers there, and then
            // writes elsewhere; gathers go on with the next element.
            let read = s.host.vector != PF
                || s.insn.is_vsib() && s.host.cr2 != s.ours.cr2
                || s.insn.mnemonic() == M::Enter && s.host.error & 2 != 0 && s.ours.error & 2 == 0;
            let harness = layout::HARNESS.contains(&s.ours.cr2) && read;
            s.ours.vector == PF && (s.host.vector == NO_FAULT && elsewhere && own || harness)
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
        test: |s| is_wide_segment_push(s.insn),
    },
    Known {
        reason: "PUSH of a segment register, 32 bits wide: AMD writes the upper 16, too, and faults when they are beyond \
                 the limit, in another page, or not aligned like the whole",
        amd: true,
        kinds: FAULT | kind::IP | kind::GPR | kind::MEMORY,
        test: |s| is_wide_segment_push(s.insn) && upper_half_faults(s),
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
                && matches!(s.host.vector, SS | PF | AC)
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
            let maskmov = matches!(
                s.insn.mnemonic(),
                M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu
            );
            maskmov && matches!(s.host.vector, PF | GP | SS) && zero_mask(s)
        },
    },
    Known {
        reason: "a misaligned operand beyond SS's limit: #GP and #SS are of one class, their order is not architectural",
        amd: false,
        kinds: kind::VECTOR,
        test: |s| (s.host.vector, s.ours.vector) == (GP, SS) && misaligned(s),
    },
    Known {
        reason: "VMASKMOVPS and its kin: whether an element that the mask leaves out must lie inside the segment's limit, or \
                 at a canonical address, is not architectural",
        amd: false,
        kinds: ALL,
        test: |s| {
            let masked = matches!(
                s.insn.mnemonic(),
                M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq
            );
            masked
                && matches!(s.host.vector, GP | SS)
                && matches!(s.ours.vector, PF | NO_FAULT)
                && leaves_out(s)
        },
    },
    Known {
        reason: "XSAVE, XRSTOR and their kin: whether bytes of the AVX component are touched that the instruction neither \
                 loads nor stores (in its initial configuration, or of YMM8-15 outside 64-bit mode) is not architectural",
        amd: false,
        kinds: ALL,
        test: |s| {
            let name = format!("{:?}", s.insn.mnemonic());
            let extended = |cr2: u64, lin: u64| {
                (576..832).contains(&(cr2.wrapping_sub(lin) & address_mask(s.insn)))
            };
            (name.starts_with("Xsave") || name.starts_with("Xrstor"))
                && s.case.gpr[0] & 4 != 0
                && s.ours.vector == NO_FAULT
                && match s.host.vector {
                    PF => operand(s).is_some_and(|lin| extended(s.host.cr2, lin)),
                    vector => matches!(vector, GP | SS) && s.case.bits != 64,
                }
        },
    },
    Known {
        reason: "VPERMQ and VPERMPD with VEX.W clear: Intel defines them with W set only (SDM vol. 2), AMD ignores it",
        amd: true,
        kinds: ALL,
        test: |s| {
            let bytes = s.case.bytes();
            let vex = &bytes[crate::codes::prefixes(bytes, s.case.bits).len()..];
            let permutes =
                matches!(vex, [0xc4, map, w, 0 | 1, ..] if map & 0x1f == 3 && w & 0x87 == 5);
            permutes && s.ours.vector == UD && s.host.vector != UD
        },
    },
    Known {
        reason: "VPEXTRD and VPINSRD with VEX.W outside 64-bit mode: Intel ignores it (SDM vol. 2), AMD raises #UD",
        amd: true,
        kinds: ALL,
        test: |s| {
            let bytes = s.case.bytes();
            let vex = &bytes[crate::codes::prefixes(bytes, s.case.bits).len()..];
            let dword = matches!(s.insn.mnemonic(), M::Vpextrd | M::Vpinsrd);
            let wide = matches!(vex, [0xc4, _, w, ..] if w & 0x80 != 0);
            dword && wide && s.case.bits != 64 && s.host.vector == UD && s.ours.vector != UD
        },
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

/// An instruction that goes over to MMX state has done so on the host before it faulted.
fn faults_in_mmx_state(s: &Seen) -> bool {
    use M::{Cvtpd2pi, Cvtpi2pd, Cvtpi2ps, Cvtps2pi, Cvttpd2pi, Cvttps2pi, Maskmovq};
    let mmx = matches!(
        s.insn.mnemonic(),
        Cvtps2pi | Cvttps2pi | Cvtpd2pi | Cvttpd2pi | Cvtpi2ps | Cvtpi2pd | Maskmovq
    );
    mmx && s.host.vector != NO_FAULT && s.host.fx.ftw() == 0xff && s.host.fx.fsw() & 0x3800 == 0
}

/// Whether the mask of VMASKMOVPS and its kin leaves an element out.
fn leaves_out(s: &Seen) -> bool {
    let mask = s.insn.op1_register();
    let size = match s.insn.mnemonic() {
        M::Vmaskmovps | M::Vpmaskmovd => 4,
        _ => 8,
    };
    (0..mask.size() / size).any(|n| crate::generate::lane(s.case, mask, n, size) >> 63 == 0)
}

fn misaligned(s: &Seen) -> bool {
    let name = format!("{:?}", s.insn.mnemonic());
    let to = if name.starts_with("Xsave") || name.starts_with("Xrstor") {
        64
    } else {
        s.insn.memory_size().size().max(16) as u64
    };
    operand(s).is_some_and(|lin| lin % to != 0)
}

/// Both faulting addresses lie in the first `len` bytes of the operand; 16- and 32-bit addresses may wrap in it.
fn within(s: &Seen, len: u64) -> bool {
    let wrap = address_mask(s.insn);
    let inside = |cr2: u64, lin: u64| cr2.wrapping_sub(lin) & wrap < len;
    operand(s).is_some_and(|lin| inside(s.host.cr2, lin) && inside(s.ours.cr2, lin))
}

/// The operand begins below 2^47 and ends above: the rest of it is not canonical.
fn leaves_lower_half(s: &Seen) -> bool {
    let len = match s.insn.memory_size().size() {
        0 => 832,
        len => len as u64,
    };
    operand(s).is_some_and(|lin| (1 << 47) - len < lin && lin < 1 << 47)
}

/// The bits of the memory operand's offset.
fn address_mask(insn: &Instruction) -> u64 {
    let registers = [insn.memory_base(), insn.memory_index()];
    let bytes = registers
        .iter()
        .map(|r| r.size())
        .find(|size| *size != 0)
        .unwrap_or(insn.memory_displ_size() as usize);
    u64::MAX >> (64 - 8 * bytes.clamp(2, 8))
}

/// PUSH of a segment register to 32 bits of stack.
fn is_wide_segment_push(insn: &Instruction) -> bool {
    insn.mnemonic() == M::Push
        && insn.op0_register().is_segment_register()
        && insn.stack_pointer_increment() == -4
}

/// The host's exception is about the upper half of the doubleword below the stack pointer.
fn upper_half_faults(s: &Seen) -> bool {
    let stack = layout::segment(s.case.seg[2]);
    let mask = if stack.attr & x86::attr::DB == 0 {
        0xffff
    } else {
        0xffff_ffff
    };
    let offset = s.case.gpr[4].wrapping_sub(4) & mask;
    let lin = stack.base.wrapping_add(offset) & 0xffff_ffff;
    match s.host.vector {
        PF => s.host.cr2.wrapping_sub(lin + 2) < 2,
        SS => {
            let down = stack.attr & (x86::attr::CODE | x86::attr::DC);
            let end = if down == x86::attr::DC {
                mask
            } else {
                stack.limit.into()
            };
            (offset + 2..offset + 4).contains(&(end + 1))
        }
        AC => lin % 4 == 2,
        _ => false,
    }
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

/// Addresses that operand `n` has: several only in a gather.
fn elements(insn: &Instruction, n: u32) -> usize {
    let index = insn.memory_index();
    match insn.op_kind(n) {
        OpKind::Memory if index.is_vector_register() => index.size() / vsib_size(insn),
        _ => 1,
    }
}

/// The offset from FS.base or GS.base, of the operand's first byte or its last, is not canonical.
fn non_canonical_offset(s: &Seen) -> bool {
    use OpKind::{Memory, MemorySegEDI, MemorySegESI, MemorySegRDI, MemorySegRSI};
    let segment = s.insn.memory_segment();
    let base = base_of(s.case, segment);
    let canonical = |v: u64| (v << 16) as i64 >> 16 == v as i64;
    let offset = |lin: u64| lin.wrapping_sub(base).wrapping_add_signed(bit_distance(s));
    let last = (s.insn.memory_size().size() as u64).saturating_sub(1);
    // Strings and MASKMOVDQU have the segment, too. Of a gather any element may be the one.
    let bad = |lin: u64| !canonical(offset(lin)) || !canonical(offset(lin) + last);
    let place = (0..s.insn.op_count()).find(|n| {
        matches!(
            s.insn.op_kind(*n),
            Memory | MemorySegEDI | MemorySegESI | MemorySegRDI | MemorySegRSI
        )
    });
    let any = place.is_some_and(|n| {
        (0..elements(s.insn, n))
            .any(|element| linear_element(s.case, s.insn, n, element).is_some_and(bad))
    });
    matches!(segment, Register::FS | Register::GS) && base != 0 && any
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
        // Of a gather any element may be the one.
        (0..elements(s.insn, n)).any(|element| {
            linear_element(s.case, s.insn, n, element).is_some_and(|lin| {
                beyond(lin, base_of(s.case, segment), size)
                    || beyond(lin, base_of(s.case, s.insn.memory_segment()), size)
            })
        })
    });
    let sp = value(s.case, Register::ESP);
    let bp = value(s.case, Register::EBP);
    let near_end = |p: u64| p.wrapping_sub(256) & 0xffff_ffff > 0xffff_fdff;
    let frame = matches!(s.insn.mnemonic(), M::Enter | M::Leave) && near_end(bp);
    memory || frame || end_of_frame_wraps(s) || s.insn.is_stack_instruction() && near_end(sp)
}

/// The word at ENTER's new stack pointer, which must be good for a push, begins below 4 GiB and ends above.
fn end_of_frame_wraps(s: &Seen) -> bool {
    let size = match s.insn.code() {
        Code::Enterw_imm16_imm8 => 2,
        Code::Enterd_imm16_imm8 => 4,
        _ => return false,
    };
    let pushes = 1 + u64::from(s.insn.immediate8_2nd() & 31);
    let down = pushes * size + u64::from(s.insn.immediate16());
    let end = value(s.case, Register::ESP).wrapping_sub(down) & 0xffff_ffff;
    end + size > 1 << 32
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

#[cfg(test)]
mod tests {
    use super::{AC, GP, PF, SS, Seen, kind, known};
    use crate::case::{Case, NO_FAULT, Outcome};
    use crate::codes::{Vendor, decode};

    const FAULT_OF_HOST_ONLY: u32 = kind::VECTOR | kind::IP | kind::GPR | kind::MEMORY;

    /// Whether a row for AMD hosts explains it; what such rows explain, no row does for an Intel host.
    fn explained(text: &str, host: (u32, u64), ours: (u32, u64), kinds: u32) -> bool {
        assert!(!judged(text, host, ours, kinds, Vendor::Intel), "{text}");
        judged(text, host, ours, kinds, Vendor::Amd)
    }

    fn judged(text: &str, host: (u32, u64), ours: (u32, u64), kinds: u32, vendor: Vendor) -> bool {
        let case = Case::parse(text).expect("a case");
        let insn = decode(case.bytes(), case.bits, case.ip);
        let outcome = |(vector, cr2)| Outcome {
            vector,
            cr2,
            ..Outcome::NONE
        };
        let (host, ours) = (outcome(host), outcome(ours));
        let seen = Seen {
            case: &case,
            insn: &insn,
            host: &host,
            ours: &ours,
            kinds,
        };
        known(&seen, vendor).is_some()
    }

    #[test]
    fn a_selector_pushed_as_32_bits_faults_by_its_upper_half_only() {
        let push =
            |text, host, cr2| explained(text, (host, cr2), (NO_FAULT, 0), FAULT_OF_HOST_ONLY);
        // Two bytes, then one, in the next page.
        assert!(push("32 0fa0 rsp=12347002", PF, 0x1234_7000));
        assert!(push("32 0fa0 rsp=12347001", PF, 0x1234_7000));
        assert!(!push("32 0fa0 rsp=12347003", PF, 0x1234_7000));
        assert!(!push("32 0fa0 rsp=12347000", PF, 0x1234_7000));
        // A limit of 7FEh.
        assert!(push("32 0fa0 ss=f rsp=800", SS, 0));
        assert!(push("32 0fa0 ss=f rsp=801", SS, 0));
        assert!(!push("32 0fa0 ss=f rsp=7ff", SS, 0));
        assert!(!push("32 0fa0 ss=f rsp=802", SS, 0));
        assert!(push("32 0fa0 rsp=12345282", AC, 0));
        assert!(!push("32 0fa0 rsp=12345281", AC, 0));
        // Nothing but that: not PUSH of other sizes, of other registers, nor another stack pointer.
        assert!(!push("32 660fa0 rsp=12347001", PF, 0x1234_7000));
        assert!(!push("64 0fa0 rsp=12347001", PF, 0x1234_7000));
        assert!(!push("32 50 rsp=12347001", PF, 0x1234_7000));
        let pushed = |kinds| explained("32 0fa0 rsp=12345200", (NO_FAULT, 0), (NO_FAULT, 0), kinds);
        assert!(pushed(kind::MEMORY) && !pushed(kind::GPR));
    }

    #[test]
    fn large_operands_at_the_end_of_the_lower_half() {
        let fldenv = |last: &str, host: u32, ours: u32, vendor: Vendor| {
            let text = format!("64 266642d924959a050000 rsp=0 r10=40001ffffffffe{last}");
            judged(
                &text,
                (host, 0x7fff_ffff_fffe),
                (ours, 0),
                kind::VECTOR,
                vendor,
            )
        };
        for vendor in [Vendor::Amd, Vendor::Intel] {
            // At 7FFFFFFFFFFEh, 7FFFFFFFFFF2h (its 14 bytes are canonical), and beyond.
            assert!(fldenv("99", PF, GP, vendor) && fldenv("99", GP, PF, vendor));
            assert!(!fldenv("96", PF, GP, vendor));
            assert!(!fldenv("9a", PF, GP, vendor));
            assert!(!fldenv("99", NO_FAULT, GP, vendor));
        }
    }

    #[test]
    fn enter_with_the_end_of_its_frame_at_4_gib() {
        let seen = |text: &str| {
            [Vendor::Amd, Vendor::Intel].map(|vendor| {
                judged(
                    text,
                    (SS, 0),
                    (PF, 0xffff_ffff),
                    kind::VECTOR | kind::MEMORY,
                    vendor,
                )
            })
        };
        // 31 pushes of 2 bytes and 50C3h more; a word at FFFFFFFFh, at FFFFFFFEh and at 0.
        assert_eq!(seen("32 66c8c350be rsp=5100 rbp=5128"), [true; 2]);
        assert_eq!(seen("32 66c8c350be rsp=50ff rbp=5128"), [false; 2]);
        assert_eq!(seen("32 66c8c350be rsp=5101 rbp=5128"), [false; 2]);
        assert_eq!(seen("32 c8fd5f00 rsp=6000 rbp=12345000"), [true; 2]);
        assert_eq!(seen("32 c8fc5f00 rsp=6000 rbp=12345000"), [false; 2]);
        assert_eq!(seen("32 50 rsp=6000"), [false; 2]);
    }

    #[test]
    fn enter_that_reads_the_harness() {
        let seen = |text: &str, host: u32, ours: u64| {
            let case = Case::parse(text).expect("a case");
            let insn = decode(case.bytes(), case.bits, case.ip);
            let fault = |error, cr2| Outcome {
                vector: PF,
                error,
                cr2,
                ..Outcome::NONE
            };
            let (host, ours) = (fault(host, 0x1233_dd03), fault(4, ours));
            let seen = Seen {
                case: &case,
                insn: &insn,
                host: &host,
                ours: &ours,
                kinds: kind::ERROR | kind::CR2 | kind::MEMORY,
            };
            known(&seen, Vendor::Intel).is_some()
        };
        let enter = "64 66c8e1820d rbp=2d3c6c7c";
        assert!(seen(enter, 6, 0x2d3c_6c7a));
        assert!(!seen(enter, 4, 0x2d3c_6c7a) && !seen(enter, 6, 0x2d3e_6c7a));
        assert!(!seen("64 ff30 rax=2d3c6c7a", 6, 0x2d3c_6c7a));
        // VPGATHERDD, that went on to 1233DD03h.
        let gather = "16 6762f27d4c90ac3577403efa rsp=0 k4=ffffffffffffffff";
        assert!(seen(gather, 4, 0x2d3d_b672) && !seen(gather, 4, 0x2d3e_b672));
        assert!(!seen(gather, 4, 0x1233_dd03));
    }

    #[test]
    fn offsets_of_fs_that_are_not_canonical() {
        // Where the first of these accesses leads.
        let lin = 0xffff_ffff_bc51_1963;
        let seen = |text: &str, host: u32, ours: u32| {
            explained(text, (host, lin), (ours, lin), kind::VECTOR)
        };
        // With a mask for MASKMOVDQU.
        let base = "fsbase=7fffffff0000 xmm6=ffffffffffffffffffffffffffffffff";
        let text = |bytes: &str, state: &str| format!("64 {bytes} rsp=0 {state} {base}");
        // LODSB, CMPSB, MASKMOVDQU, MOV.
        for (bytes, register) in [
            ("64ac", "rsi"),
            ("64a6", "rsi"),
            ("64660ff7d6", "rdi"),
            ("648b06", "rsi"),
        ] {
            let bad = text(bytes, &format!("{register}=ffff7fffbc521963"));
            assert!(seen(&bad, GP, PF) && seen(&bad, GP, AC), "{bad}");
            assert!(!seen(&bad, PF, GP) && !seen(&bad, GP, NO_FAULT), "{bad}");
            let good = text(bytes, &format!("{register}=ffff8fffbc521963"));
            assert!(!seen(&good, GP, PF), "{good}");
        }
        // MASKMOVQ is in MMX state then, which nothing else explains.
        let state = "64 643e0ff7e3 rsp=0 rdi=ffff7fff8ae06d19 fsbase=7fffffff0000 fsw=818";
        let case = Case::parse(&format!("{state} st2=0000000000000080f33f")).expect("a case");
        let insn = decode(case.bytes(), case.bits, case.ip);
        let mmx = |after: &str| {
            let fault = |vector| Outcome {
                vector,
                cr2: lin,
                ..Outcome::NONE
            };
            let (mut host, ours) = (fault(GP), fault(PF));
            host.fx = Case::parse(&format!("64 90 {after}")).expect("a case").fx;
            let seen = Seen {
                case: &case,
                insn: &insn,
                host: &host,
                ours: &ours,
                kinds: kind::VECTOR | kind::TAGS,
            };
            known(&seen, Vendor::Amd).is_some()
        };
        assert!(mmx("fsw=18 ftw=ff"));
        assert!(!mmx("fsw=818 ftw=ff") && !mmx("fsw=18 ftw=7f"));
        let end = |rcx: &str| format!("64 646681114f4f rcx={rcx} rsp=0 fsbase=ffffffffffff0000");
        assert!(seen(&end("7fffffffffff"), GP, PF));
        assert!(!seen(&end("7ffffffffffe"), GP, PF));
        // BTC's own bit offset counts; without FS nothing does.
        let btc = "64 644a0fbbb4d6fb160000 rsp=0 rsi=ffff81a32c78f2f0 fsbase=7e5a12345000";
        assert!(seen(btc, GP, AC));
        assert!(!seen("64 a6 rsp=0 rsi=ffff7fffbc521963", GP, PF));
    }
}
