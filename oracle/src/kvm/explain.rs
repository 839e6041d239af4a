//! Differences with a reason: where KVM's emulator is wrong or stops short, with the manual's place that says so.
//! "SDM" is the Intel manual of 2024; volume 3's chapter numbers.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};
use system::testing::{access, gate};
use x86::{Seg, attr, cr4, flags, vector};

use super::case::{Case, End, Outcome, RAM};
use super::compare::{Difference, decode};
use super::doppel::Answer;
use super::generate::{KERNEL_STACK, index, kernel_code, place};

/// What both made of a case.
pub struct Seen<'a> {
    /// The case.
    pub case: &'a Case,
    /// Doppel's answer.
    pub doppel: &'a Answer,
    /// KVM's.
    pub kvm: &'a Outcome,
    /// Where they differ.
    pub list: &'a [Difference],
    /// Whether it accessed device memory.
    pub mmio: bool,
    /// RAM as Doppel left it.
    pub after: &'a [u8],
}

/// A verdict on a difference.
pub enum Why {
    /// KVM does not have the instruction (outside level 0 it says #UD then).
    Skip(&'static str),
    /// The reason is known.
    Known(&'static str),
    /// A failure.
    Unknown,
}

impl Seen<'_> {
    /// The first exception that Doppel raised.
    fn raised(&self) -> Option<u8> {
        self.doppel.exceptions.first().map(|e| e.vector)
    }

    /// The vector whose handler's first instruction KVM has just run, if it is one of the generator's handlers.
    fn kvm_vector(&self) -> Option<u8> {
        let st = &self.kvm.st;
        let lin = st
            .rip
            .wrapping_add(if st.code64() { 0 } else { st.seg[1].base });
        (self.kvm.end == End::Done)
            .then(|| lin.wrapping_sub(place::HANDLERS + 1))
            .filter(|n| *n < 64 && (self.differs("rip") || self.raised().is_some()))
            .map(|n| n as u8)
    }

    /// Whether KVM went by way of an exception: into its handler, or into what a gate that is not plain makes of it.
    fn kvm_raised(&self, vector: u8) -> bool {
        self.kvm_vector() == Some(vector)
            || matches!(self.kvm.end, End::Shutdown(v, _) if v == vector)
            || !self.plain_gate(vector)
            || self.wild_inner_stack()
    }

    fn differs(&self, what: &str) -> bool {
        self.list.iter().any(|d| d.what == what)
    }

    fn only(&self, names: &[&str]) -> bool {
        self.list.iter().all(|d| names.contains(&d.what.as_str()))
    }

    /// Whether all differences lie in page tables and are accessed flags.
    fn accessed_flags_only(&self) -> bool {
        self.list.iter().all(|d| {
            let at = d
                .what
                .strip_prefix('@')
                .and_then(|at| u64::from_str_radix(at, 16).ok());
            let bytes = |text: &str| u64::from_str_radix(text, 16).ok();
            at.is_some_and(|at| at >= place::TABLES && at & 3 == 0)
                && bytes(&d.doppel)
                    .zip(bytes(&d.other))
                    .is_some_and(|(a, b)| a < 0x100 && (a ^ b) == 0x20)
        })
    }

    /// Whether all differences lie in memory before a page's end, within an operand's length.
    fn ends_a_page(&self) -> bool {
        let at = |d: &Difference| {
            d.what
                .strip_prefix('@')
                .and_then(|at| u64::from_str_radix(at, 16).ok())
        };
        self.list
            .iter()
            .all(|d| at(d).is_some_and(|at| at & 0xfff >= 0xff0))
    }

    /// Whether an access to a port needs the second byte of the bitmap's word, and that lies beyond the TSS.
    fn bitmap_ends(&self, i: &Instruction) -> bool {
        let port = match (i.mnemonic(), i.op0_kind(), i.op1_kind()) {
            (M::In, _, OpKind::Immediate8) => u64::from(i.immediate8()),
            (M::Out, OpKind::Immediate8, _) => u64::from(i.immediate8()),
            _ => self.case.st.gpr[2] & 0xffff,
        };
        let ram = self.case.ram();
        let at = place::TSS as usize + 0x66;
        let map = u64::from(u16::from_le_bytes([ram[at], ram[at + 1]]));
        map + port / 8 + 1 > u64::from(self.case.st.tr.limit)
    }

    /// Whether the gate of a vector is the ordinary one to the ordinary handler, on the ordinary stack.
    fn plain_gate(&self, vector: u8) -> bool {
        // The instruction or an earlier delivery may have written to the tables.
        self.plain_gate_in(&self.case.ram(), vector) && self.plain_gate_in(self.after, vector)
    }

    fn plain_gate_in(&self, ram: &[u8], vector: u8) -> bool {
        let st = &self.case.st;
        if st.real_mode() {
            return usize::from(vector) * 4 + 3 <= usize::from(st.idtr.limit) && st.idtr.base == 0;
        }
        let size = if st.long_mode() { 16 } else { 8 };
        let at = usize::from(vector) * size;
        if at + size - 1 > usize::from(st.idtr.limit) || st.idtr.base != place::IDT {
            return false;
        }
        let at = place::IDT as usize + at;
        // The upper half of a 64-bit gate: the offset's, and what is reserved.
        let upper = st.long_mode() && word(ram, at + 8) != 0;
        if upper
            || word(ram, place::GDT as usize + usize::from(index::KERNEL_CS) * 8)
                != kernel_code(st.long_mode())
        {
            return false;
        }
        let raw = word(ram, at);
        let offset = place::HANDLERS + u64::from(vector);
        [access::INT, access::TRAP].into_iter().any(|kind| {
            [0, attr::DPL]
                .into_iter()
                .any(|dpl| raw == gate(index::KERNEL_CS << 3, offset, kind | dpl, 0))
        })
    }

    /// Whether a delivery went through something else than plain gates.
    fn wild_delivery(&self) -> bool {
        let e = &self.doppel.exceptions;
        e.iter().any(|e| !self.plain_gate(e.vector))
            || self.kvm_vector().is_some_and(|v| !self.plain_gate(v))
    }

    fn seg(&self, seg: Seg) -> &x86::Segment {
        &self.case.st.seg[seg as usize]
    }

    /// A delivery that stays on the stack where it is.
    fn same_stack(&self) -> bool {
        !self.case.st.real_mode() && self.case.st.cpl() == 0
    }

    /// The stack of such a delivery, as a linear address.
    fn stack(&self) -> u64 {
        let ss = self.seg(Seg::Ss);
        let sp = self.case.st.gpr[4];
        if self.case.st.code64() {
            sp
        } else {
            ss.base.wrapping_add(sp) & 0xffff_ffff
        }
    }

    /// Whether delivery to level 0 finds another stack in the TSS than the ordinary one.
    fn wild_inner_stack(&self) -> bool {
        let st = &self.case.st;
        if st.real_mode() || st.cpl() == 0 {
            return false;
        }
        let ram = self.case.ram();
        let at = place::TSS as usize + 4;
        let top = place::STACKS + 0xf00;
        if st.long_mode() {
            return word(&ram, at) != top;
        }
        let ss = u64::from(index::KERNEL_SS << 3);
        let stack = word(
            &ram,
            place::GDT as usize + usize::from(index::KERNEL_SS) * 8,
        );
        word(&ram, at) & 0xffff_ffff_ffff != ss << 32 | top || stack != KERNEL_STACK
    }

    fn has_prefix(&self, byte: u8) -> bool {
        let prefixes = [
            0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
        ];
        self.case
            .code
            .iter()
            .take_while(|b| prefixes.contains(b))
            .any(|b| *b == byte)
    }

    /// The REX prefix of 64-bit code.
    fn rex(&self) -> u8 {
        let prefixes = [
            0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
        ];
        match self.case.code.iter().find(|b| !prefixes.contains(b)) {
            Some(rex @ 0x40..=0x4f) if self.case.st.code64() => *rex,
            _ => 0,
        }
    }
}

fn word(ram: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|n| ram[at + n]))
}

type Rule = (fn(&Seen<'_>, &Instruction) -> bool, &'static str);

/// Whether KVM's emulator lacks the instruction: it exits, or says #UD outside level 0, or has only part of it.
fn missing(seen: &Seen<'_>, i: &Instruction) -> bool {
    let st = &seen.case.st;
    let outside_real = !st.real_mode();
    match i.mnemonic() {
        M::Lar
        | M::Lsl
        | M::Verr
        | M::Verw
        | M::Arpl
        | M::Bound
        | M::Daa
        | M::Das
        | M::Aaa
        | M::Aas
        | M::Int1 => true,
        M::Stac | M::Clac | M::Xgetbv | M::Xsetbv | M::Monitor | M::Mwait | M::Ud0 | M::Ud1 => true,
        // Its software interrupts and IRET are for real mode.
        M::Int | M::Int3 | M::Into | M::Iret | M::Iretd | M::Iretq => outside_real,
        // Returns to an outer level and gates are not there.
        M::Retf | M::Call | M::Jmp => {
            let other = seen.kvm_vector() == Some(vector::UD)
                || seen.kvm.end == End::Shutdown(vector::UD, 0);
            let unsaid = seen.raised().is_none() || other || !seen.plain_gate(vector::UD);
            outside_real && unsaid && is_far(i)
        }
        // After these it does not stop before the next instruction.
        M::Swapgs => true,
        _ if [[0x0f, 0x01, 0xf8].as_slice(), &[0x0f, 0x07]]
            .iter()
            .any(|end| seen.case.code.ends_with(end)) =>
        {
            true
        }
        M::Sysret | M::Sysretq => true,
        // It runs them without CR4.FSGSBASE.
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => st.cr4 & cr4::FSGSBASE == 0,
        _ if matches!(seen.case.code[..], [.., 0x0f, 0xae, 0xc0..=0xdf]) => {
            st.cr4 & cr4::FSGSBASE == 0
        }
        _ => false,
    }
}

fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far()
        || i.is_call_far()
        || i.is_jmp_far_indirect()
        || i.is_call_far_indirect()
        || i.mnemonic() == M::Retf
}

/// Whether an instruction reads and writes memory, or accesses two places.
fn several_accesses(i: &Instruction) -> bool {
    let mut factory = iced_x86::InstructionInfoFactory::new();
    let info = factory.info(i);
    let used = info.used_memory();
    used.len() > 1
        || used.iter().any(|m| {
            matches!(
                m.access(),
                iced_x86::OpAccess::ReadWrite | iced_x86::OpAccess::ReadCondWrite
            )
        })
}

fn invalid(i: &Instruction) -> bool {
    i.is_invalid()
}

/// Known differences.
const RULES: &[Rule] = &[
    (
        |s, _| s.wild_delivery(),
        "delivery: KVM does not check the gate and its target (SDM 3, 6.12.1)",
    ),
    (
        |s, _| s.raised().is_some() && s.accessed_flags_only(),
        "accessed flags after a fault: both allowed (SDM 3, 4.8 and 4.10.2.3)",
    ),
    (
        |s, _| s.raised().is_some() && s.case.st.rflags & flags::AC != 0 && s.differs("rflags"),
        "delivery: KVM clears AC (SDM 3, 6.12.1.3: TF, VM, RF and NT)",
    ),
    (
        |s, _| {
            let ss = s.seg(Seg::Ss);
            let bits = ss.base != 0
                || !s.case.st.long_mode() && ss.attr & (attr::DB | attr::DC) != attr::DB;
            s.raised().is_some() && s.same_stack() && !s.case.st.code64() && bits
        },
        "delivery: KVM ignores SS.base and SS.B on the same stack (SDM 3, 6.12.1)",
    ),
    (
        |s, _| s.raised().is_some() && s.case.st.real_mode() && s.case.st.gpr[4] > 0xffff,
        "delivery in real mode: KVM clears the upper half of ESP (SDM 2, INT n: Push)",
    ),
    (
        |s, _| s.raised() == Some(vector::AC),
        "KVM checks no alignment (SDM 3, 6.15, interrupt 17)",
    ),
    (
        |_, i| i.mnemonic() == M::Enter,
        "ENTER: KVM pushes by the stack's size, not the operand's (SDM 2, ENTER)",
    ),
    (
        |s, i| matches!(i.mnemonic(), M::Aam | M::Aad) && s.only(&["rflags"]),
        "AAM, AAD: KVM takes SF from AH (SDM 2, AAM: according to AL)",
    ),
    (
        |s, i| {
            let writes = i.mnemonic() == M::Mov
                && i.op0_kind() == OpKind::Register
                && i.op0_register() == Register::CR4;
            writes && s.kvm.st.cr4 & !super::doppel::model().cr4() != 0
        },
        "MOV CR4: KVM takes bits that CPUID does not tell of (SDM 3, 2.5: reserved)",
    ),
    (
        |s, i| {
            let n = i.op1_register();
            let high =
                (0..16).any(|k| n == Register::RAX + k && s.case.st.gpr[k as usize] >> 32 != 0);
            matches!(i.op0_register(), Register::DR4 | Register::DR5) && high
        },
        "MOV DR4, DR5 in 64-bit mode: KVM does not check the upper half (SDM 2, MOV DR: #GP(0))",
    ),
    (
        |s, i| {
            let io = matches!(
                i.mnemonic(),
                M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd
            );
            io && s.raised() == Some(vector::GP) && s.bitmap_ends(i)
        },
        "ports: KVM needs one byte of the bitmap to lie in the TSS, not two (SDM 1, 19.5.2)",
    ),
    (
        |s, i| i.mnemonic() == M::Movsxd && s.has_prefix(0x66),
        "MOVSXD with 66h: KVM reads 32 bits (SDM 2, MOVSXD r16, r/m16)",
    ),
    (
        |s, i| {
            i.mnemonic() == M::Pop
                && i.op0_register().is_segment_register()
                && s.raised() == Some(vector::SS)
        },
        "POP Sreg: KVM reads 16 bits of the stack's entry (SDM 2, POP: by operand size)",
    ),
    (
        |s, i| {
            let to64 =
                s.kvm.st.seg[1].attr & attr::L != 0 && s.case.st.long_mode() && !s.case.st.code64();
            i.is_call_far_indirect() | i.is_call_far() && to64 && s.raised() == Some(vector::SS)
        },
        "far CALL from compatibility to 64-bit mode: KVM pushes as 64-bit code does (SDM 2, CALL: room is checked first)",
    ),
    (
        |s, i| {
            let n = i.op1_register();
            let high =
                (0..16).any(|k| n == Register::RAX + k && s.case.st.gpr[k as usize] >> 32 != 0);
            i.mnemonic() == M::Mov && i.op0_register() == Register::CR0 && high
        },
        "MOV CR0 in 64-bit mode: KVM ignores the upper half (SDM 2, MOV CR: #GP(0) for bits 63:32)",
    ),
    (
        |s, i| {
            matches!(i.op0_register(), Register::DR5 | Register::DR7)
                && s.only(&["dr7"])
                && (s.doppel.outcome.st.dr7 ^ s.kvm.st.dr7) == 1 << 11
        },
        "MOV DR7: KVM keeps bit 11 without RTM (SDM 3, 18.2.4)",
    ),
    (
        |s, i| {
            let count = match i.mnemonic() {
                _ if i.op0_register() == Register::None && i.op1_register() == Register::None => 1,
                _ => s.case.st.gpr[1] & 0xffff,
            };
            matches!(
                i.mnemonic(),
                M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd
            ) && s.case.repeats
                && count == 0
                && s.raised().is_none()
        },
        "REP INS, REP OUTS with a count of 0: KVM checks the port's permission (SDM 2, REP: nothing is done)",
    ),
    (
        |s, i| {
            let string = matches!(
                i.mnemonic(),
                M::Scasb
                    | M::Scasw
                    | M::Scasd
                    | M::Scasq
                    | M::Cmpsb
                    | M::Cmpsw
                    | M::Cmpsd
                    | M::Cmpsq
            );
            string
                && s.case.repeats
                && s.raised().is_some()
                && s.list
                    .iter()
                    .all(|d| d.what == "rflags" || d.what.starts_with('@'))
        },
        "REP CMPS, REP SCAS that faults: KVM keeps the last iteration's flags (SDM 2, REP: restored to before the instruction)",
    ),
    (
        |s, i| {
            s.case.st.real_mode()
                && matches!(i.mnemonic(), M::Int | M::Into | M::Int3)
                && s.raised() == Some(vector::GP)
        },
        "INT n in real mode: KVM does not check the IDT's limit (SDM 2, INT n)",
    ),
    (
        |s, i| i.mnemonic() == M::Syscall && s.only(&["r11"]) && s.case.st.rflags & flags::RF != 0,
        "SYSCALL: whether R11 has RF (SDM 2, SYSCALL: R11 := RFLAGS)",
    ),
    (
        |s, i| is_far(i) && s.raised().is_some() && s.list.iter().all(|d| d.what.starts_with('@')),
        "far transfers that fault: KVM pushes, or sets the accessed flag, before it checks (SDM 2, CALL)",
    ),
    (
        |s, _| s.raised() == Some(vector::PF) && s.ends_a_page(),
        "a store across pages that faults: KVM writes the first page's part (SDM 3, 6.5: faults restart)",
    ),
    (
        |s, i| {
            let page = matches!(s.kvm.end, End::Shutdown(vector::PF, _));
            s.raised() == Some(vector::GP)
                && s.doppel.outcome.end == End::Done
                && page
                && several_accesses(i)
        },
        "read-modify-write in a read-only segment: KVM reads first, faults on that and shuts down (SDM 3, 5.5.1: #GP)",
    ),
    (
        |s, i| {
            let class = [vector::SS, vector::GP, vector::PF];
            let several = several_accesses(i);
            s.raised().is_some_and(|v| class.contains(&v))
                && s.kvm_vector().is_some_and(|v| class.contains(&v))
                && several
        },
        "which of an instruction's accesses faults first (SDM 3, table 6-2: implementation-dependent)",
    ),
    (
        |s, i| invalid(i) && s.raised() == Some(vector::UD) && (12..=14).any(|v| s.kvm_raised(v)),
        "KVM checks privilege and operands of an encoding that does not exist (SDM 3, table 6-2: #UD first)",
    ),
    (
        |s, _| s.raised().is_some() && s.wild_inner_stack(),
        "delivery: KVM does not check the inner stack (SDM 3, 6.12.1)",
    ),
    (
        |s, _| {
            let at = s.stack();
            let low = s.case.st.real_mode() && s.case.st.gpr[4] & 0xffff < 16;
            let beyond = s.case.st.gpr[4] > u64::from(s.seg(Seg::Ss).limit)
                || at < 0x1000
                || at > RAM as u64;
            s.raised().is_some() && (low || s.same_stack() && beyond)
        },
        "delivery: KVM shuts down where pushing faults (SDM 3, 6.15, interrupt 8)",
    ),
    (
        |s, i| {
            s.case.st.real_mode()
                && matches!(i.mnemonic(), M::Int | M::Into | M::Int3)
                && s.has_prefix(0x66)
        },
        "INT n in real mode with 66h: KVM pushes 32 bits (SDM 2, INT n: Push (FLAGS[15:0]))",
    ),
    (
        |s, i| s.rex() & 4 != 0 && i.mnemonic() == M::Mov && s.kvm_raised(vector::UD),
        "MOV Sreg: KVM heeds REX.R (SDM 2, 2.2.1.2: ignored)",
    ),
    (
        |s, i| {
            let store = matches!(i.mnemonic(), M::Sldt | M::Str | M::Smsw | M::Mov);
            let faults = (12..=14).any(|v| s.kvm_raised(v)) || s.kvm_vector() == Some(vector::DF);
            store
                && i.op0_kind() == OpKind::Memory
                && (s.rex() & 8 != 0 || s.accessed_flags_only() || faults)
        },
        "SLDT, STR, SMSW, MOV from Sreg to memory: KVM writes more than 16 bits (SDM 2, SLDT)",
    ),
    (
        |s, _| {
            matches!(
                (s.doppel.outcome.end, s.kvm.end),
                (End::Shutdown(..), End::Shutdown(..))
            )
        },
        "both shut down: KVM names the last exception on the way, not the first",
    ),
    (
        |s, _| {
            let edges = [
                0xffff_fff0..=0xffff_ffff,
                0x7fff_ffff_fff0..=0x7fff_ffff_ffff,
            ];
            let down = s.seg(Seg::Ss).attr & (attr::CODE | attr::DC) == attr::DC
                && edges[0].contains(&s.case.st.gpr[4]);
            let there = s.kvm_vector() == Some(vector::PF)
                && edges.iter().any(|edge| edge.contains(&s.kvm.st.cr2));
            matches!(s.raised(), Some(vector::GP | vector::SS)) && (there || down)
        },
        "an operand across 4 GiB or the last canonical address: KVM does not check its last byte (SDM 3, 5.3; SDM 1, 3.3.7.1)",
    ),
    (
        |s, i| {
            let table = matches!(i.mnemonic(), M::Sgdt | M::Sidt | M::Lgdt | M::Lidt);
            table && s.kvm.st.rip == s.case.st.rip && s.kvm.end == End::Done
        },
        "SGDT and its kin on device memory: KVM stays there",
    ),
    (
        |s, _| {
            let based = s.case.st.seg[1].base != 0 && !s.case.st.code64();
            let others = s
                .list
                .iter()
                .all(|d| d.what == "cr2" || d.what.starts_with('@'));
            let same = s.raised() == Some(vector::PF) && others;
            s.kvm.st.cr2 == s.case.st.rip && (same || based && s.kvm_vector() == Some(vector::PF))
        },
        "a fetch: KVM looks up RIP without CS.base (SDM 3, 3.4 and 4.7)",
    ),
    (
        |s, i| {
            let ins = matches!(i.mnemonic(), M::Insb | M::Insw | M::Insd);
            let edge = !(0x200..0xfe00).contains(&(s.case.st.gpr[7] & 0xffff));
            let wraps = s.raised().is_none() && !s.case.st.code64() && edge;
            ins && s.case.repeats && (wraps || matches!(s.raised(), Some(vector::PF | vector::GP)))
        },
        "REP INS around the end of a segment or a page: KVM writes several iterations at once (SDM 2, REP: one after another)",
    ),
    (
        |s, i| {
            i.mnemonic() == M::Cmpxchg
                && s.case.st.code64()
                && i.op0_register().is_gpr32()
                && s.list.len() == 1
        },
        "CMPXCHG r32 that fails: KVM clears the register's upper half; host CPUs do not",
    ),
    (
        |s, i| {
            i.mnemonic() == M::Wrmsr
                && s.raised() == Some(vector::GP)
                && s.kvm_vector() != Some(vector::GP)
        },
        "WRMSR: KVM takes a reserved PAT type or a non-canonical address (SDM 2, WRMSR; SDM 3, 12.12.4)",
    ),
    (
        |s, i| {
            let count = u32::from(s.case.code.last().copied().unwrap_or(0)) & 31;
            let by_cl = s.case.st.gpr[1] & 31 > 16;
            matches!(i.mnemonic(), M::Shld | M::Shrd)
                && (count > 16 || by_cl)
                && s.raised().is_none()
        },
        "16-bit SHLD, SHRD by more than 16: undefined (SDM 2, SHLD)",
    ),
    (
        |s, i| {
            matches!(i.mnemonic(), M::Lgdt | M::Lidt)
                && (s.accessed_flags_only() || s.raised() == Some(vector::PF))
        },
        "LGDT, LIDT with 16-bit operands: KVM does not read the sixth byte (SDM 2, LGDT: m16&32)",
    ),
    (
        |s, i| matches!(i.mnemonic(), M::Ltr | M::Lldt) && s.raised() == Some(vector::GP),
        "LTR, LLDT: KVM's error code is 0 for a selector with TI (SDM 2, LTR: #GP(selector))",
    ),
    (
        |s, i| {
            i.has_rep_prefix() | i.has_repne_prefix()
                && s.case.st.code64()
                && s.case.st.gpr[1] as u32 == 0
        },
        "REP with ECX = 0 and 32-bit addresses: KVM clears the registers' upper halves (SDM 2, REP: nothing is done)",
    ),
    (
        |s, _| {
            s.case.st.code64()
                && [0x26, 0x2e, 0x36, 0x3e]
                    .into_iter()
                    .any(|byte| s.has_prefix(byte))
                && matches!(s.raised(), Some(vector::GP | vector::SS))
        },
        "64-bit mode: KVM heeds CS, DS, ES and SS overrides (SDM 1, 3.3.7.1: ignored)",
    ),
    (
        |s, i| matches!(i.mnemonic(), M::Out | M::Outsb | M::Outsw | M::Outsd) && s.differs("outs"),
        "ports beyond FFFFh: KVM does not split the access",
    ),
];

/// Looks for a reason.
pub fn explain(seen: &Seen<'_>) -> Why {
    let instruction = decode(seen.case);
    if seen.mmio {
        return Why::Skip(
            "an operand in device memory: KVM begins such an instruction again for each access",
        );
    }
    if seen.doppel.outcome.end == End::Endless || seen.kvm.end == End::Endless {
        return Why::Skip("the handler faults for ever");
    }
    if missing(seen, &instruction) {
        return Why::Skip("the emulator lacks the instruction or stops after the next");
    }
    match RULES.iter().find(|(rule, _)| rule(seen, &instruction)) {
        Some((_, why)) => Why::Known(why),
        None => Why::Unknown,
    }
}
