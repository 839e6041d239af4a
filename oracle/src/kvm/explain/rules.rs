//! The table of known differences: which case each rule is about, what it accounts for, and the manual's place.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};
use x86::{Seg, attr, cr0, cr4, flags, vector};

use super::super::case::{End, RAM};
use super::super::compare::Difference;
use super::super::doppel;
use super::super::generate::place;
use super::{
    NAMES, Seen, access, address_size, bad_msr_value, decode, is_far, port_io, several_accesses,
    stores_16, two_accesses, word,
};

/// A known difference.
pub(super) struct Rule {
    /// Whether it is about this case.
    pub(super) when: fn(&Seen<'_>, &Instruction) -> bool,
    /// Which of the case's differences it accounts for. What no rule accounts for is a failure.
    pub(super) covers: fn(&Seen<'_>, &Difference) -> bool,
    /// The reason.
    pub(super) why: &'static str,
}

const fn rule(
    when: fn(&Seen<'_>, &Instruction) -> bool,
    covers: fn(&Seen<'_>, &Difference) -> bool,
    why: &'static str,
) -> Rule {
    Rule { when, covers, why }
}

/// Anything, where the two took different ways: no difference means anything on its own.
fn all(s: &Seen<'_>, d: &Difference) -> bool {
    s.parted() || delivery(s, d)
}

fn memory(_: &Seen<'_>, d: &Difference) -> bool {
    d.at().is_some()
}

/// Memory and the stack pointer.
fn pushed(_: &Seen<'_>, d: &Difference) -> bool {
    d.at().is_some() || d.what == "rsp"
}

/// What a delivery can change: also by the faults met on its way.
fn delivery(_: &Seen<'_>, d: &Difference) -> bool {
    d.at().is_some()
        || matches!(&*d.what, "rip" | "rsp" | "rflags" | "cr2" | "end")
        || d.what.starts_with("cs.")
        || d.what.starts_with("ss.")
}

/// The same, and what an instruction loads into a table's register if it does not fault.
fn table_or_delivery(s: &Seen<'_>, d: &Difference) -> bool {
    let tables = ["gdtr.", "idtr.", "ldtr.", "tr."];
    delivery(s, d) || tables.iter().any(|name| d.what.starts_with(name))
}

/// The same, and the registers of a string instruction.
fn string_or_delivery(s: &Seen<'_>, d: &Difference) -> bool {
    let instruction = decode(s.case);
    delivery(s, d) || address_size(&instruction) != 0 && matches!(&*d.what, "rcx" | "rsi" | "rdi")
}

/// Known differences.
pub(super) const RULES: &[Rule] = &[
    rule(
        |s, _| s.wild_delivery(),
        // Where that leads elsewhere, some other instruction is run.
        |s, d| delivery(s, d) || s.lost_delivery() && s.parted(),
        "delivery: KVM does not check the gate and its target (SDM 3, 6.12.1)",
    ),
    rule(
        |s, _| s.raised().is_some(),
        |_, d| d.accessed_flag(),
        "accessed flags after a fault: both allowed (SDM 3, 4.8)",
    ),
    rule(
        |s, _| s.raised().is_some() && !s.case.st.real_mode() && s.case.st.rflags & flags::AC != 0,
        |s, d| {
            // RFLAGS, and its third byte as a second delivery pushes it.
            let again = s.doppel.exceptions.len() > 1 && d.at().is_some() && d.doppel.len() == 2;
            d.what == "rflags" && d.xor() == Some(flags::AC)
                || again && d.xor() == Some(flags::AC >> 16)
        },
        "delivery: KVM clears AC (SDM 3, 6.12.1.3: TF, VM, RF and NT)",
    ),
    rule(
        |s, _| s.raised().is_some() && s.odd_stack(),
        pushed,
        "delivery: KVM ignores SS.base and SS.B on the same stack (SDM 3, 6.12.1)",
    ),
    rule(
        |s, _| s.raised().is_some() && s.odd_stack() && s.lost_delivery(),
        all,
        "delivery: KVM ignores SS.base, SS.B and the limit on the same stack, and faults or does not (SDM 3, 6.12.1)",
    ),
    rule(
        |s, _| s.raised().is_some() && s.case.st.real_mode() && s.case.st.gpr[4] > 0xffff,
        |s, d| d.what == "rsp" && s.kvm.st.gpr[4] == s.doppel.outcome.st.gpr[4] & 0xffff,
        "delivery in real mode: KVM clears the upper half of ESP (SDM 2, INT n: Push)",
    ),
    rule(
        |s, i| {
            let st = &s.case.st;
            let on = st.cr0 & cr0::AM != 0 && st.rflags & flags::AC != 0 && st.cpl() == 3;
            s.raised() == Some(vector::AC) && on && s.misaligned(i)
        },
        all,
        "KVM checks no alignment (SDM 3, 6.15, interrupt 17)",
    ),
    rule(
        |s, i| i.mnemonic() == M::Enter && s.raised().is_none() && s.odd_push(i),
        |_, d| d.at().is_some() || matches!(&*d.what, "rsp" | "rbp"),
        "ENTER: KVM pushes by the stack's size, not the operand's (SDM 2, ENTER)",
    ),
    rule(
        |s, i| {
            let faults = |v| matches!(v, Some(vector::SS | vector::PF));
            i.mnemonic() == M::Enter
                && (faults(s.raised())
                    || s.odd_push(i) && (faults(s.kvm_vector()) || s.lost_delivery()))
        },
        |s, d| delivery(s, d) || d.what == "rbp",
        "ENTER: KVM does not check the final stack pointer (SDM 2, ENTER: #SS, #PF)",
    ),
    rule(
        |s, i| i.mnemonic() == M::Enter && s.raised().is_none(),
        |_, d| d.page_flags(0x60),
        "ENTER: KVM does not look at the final stack pointer's page (SDM 2, ENTER: #PF)",
    ),
    rule(
        |_, i| matches!(i.mnemonic(), M::Aam | M::Aad),
        |s, d| {
            let st = &s.doppel.outcome.st;
            let al = st.gpr[0] as u8;
            let right = (st.rflags & flags::SF != 0) == (al >> 7 != 0)
                && (st.rflags & flags::ZF != 0) == (al == 0);
            d.what == "rflags" && right && d.within(flags::SF | flags::ZF)
        },
        "AAM, AAD: KVM takes SF and ZF from the whole accumulator (SDM 2, AAM: according to AL)",
    ),
    rule(
        |s, i| {
            let writes = i.mnemonic() == M::Mov
                && i.op0_kind() == OpKind::Register
                && i.op0_register() == Register::CR4;
            let unknown = s.kvm.st.cr4 & !doppel::model().cr4() != 0;
            writes && unknown && s.raised() == Some(vector::GP)
        },
        |s, d| delivery(s, d) || d.what == "cr4",
        "MOV CR4: KVM takes bits that CPUID does not tell of (SDM 3, 2.5: reserved)",
    ),
    rule(
        |s, i| {
            matches!(i.op0_register(), Register::DR4 | Register::DR5)
                && s.high_half(i)
                && s.raised() == Some(vector::GP)
        },
        |s, d| delivery(s, d) || matches!(&*d.what, "dr6" | "dr7"),
        "MOV DR4, DR5 in 64-bit mode: KVM does not check the upper half (SDM 2, MOV DR: #GP(0))",
    ),
    rule(
        |s, i| port_io(i) && s.raised() == Some(vector::GP) && s.bitmap_ends(i),
        |s, d| string_or_delivery(s, d) || matches!(&*d.what, "rax" | "outs"),
        "ports: KVM needs one byte of the bitmap to lie in the TSS, not two (SDM 1, 19.5.2)",
    ),
    rule(
        |s, i| {
            let wide = i.mnemonic() == M::Movsxd && i.op0_register().is_gpr16();
            wide && i.op1_kind() == OpKind::Memory && s.raised().is_none()
        },
        |s, d| s.kvm_faulted() || d.accessed_flag(),
        "MOVSXD with 66h: KVM reads 32 bits (SDM 2, MOVSXD r16, r/m16)",
    ),
    rule(
        |s, i| {
            i.mnemonic() == M::Pop
                && i.op0_register().is_segment_register()
                && i.stack_pointer_increment() > 2
                && s.raised() == Some(vector::SS)
        },
        |s, d| {
            let register = decode(s.case).op0_register();
            let name = format!("{register:?}.").to_lowercase();
            delivery(s, d) || d.what.starts_with(&name)
        },
        "POP Sreg: KVM reads 16 bits of the stack's entry (SDM 2, POP: by operand size)",
    ),
    rule(
        |s, i| {
            let to64 =
                s.kvm.st.seg[1].attr & attr::L != 0 && s.case.st.long_mode() && !s.case.st.code64();
            (i.is_call_far_indirect() || i.is_call_far()) && to64 && s.raised() == Some(vector::SS)
        },
        all,
        "far CALL from compatibility to 64-bit mode: KVM pushes as 64-bit code does (SDM 2, CALL: room is checked first)",
    ),
    rule(
        |s, i| {
            let long = |st: &x86::CpuState| st.seg[1].attr & attr::L;
            let switch = s.case.st.long_mode() && long(&s.doppel.outcome.st) != long(&s.case.st);
            (i.is_call_far_indirect() || i.is_call_far()) && switch && s.raised().is_none()
        },
        |s, d| {
            // A 16-bit stack pointer wraps round, the new mode's does not, or the other way round.
            let wrapped = d.what == "rsp" && d.xor().is_some_and(|x| x & 0xffff == 0);
            d.at().is_some() || wrapped || s.kvm_faulted()
        },
        "far CALL between compatibility and 64-bit mode: KVM pushes as the new mode does (SDM 2, CALL: CS comes after)",
    ),
    rule(
        |s, i| {
            i.mnemonic() == M::Mov
                && i.op0_register() == Register::CR0
                && s.high_half(i)
                && s.raised() == Some(vector::GP)
        },
        |s, d| delivery(s, d) || d.what == "cr0",
        "MOV CR0 in 64-bit mode: KVM ignores the upper half (SDM 2, MOV CR: #GP(0) for bits 63:32)",
    ),
    rule(
        |_, i| matches!(i.op0_register(), Register::DR5 | Register::DR7),
        |s, d| d.what == "dr7" && d.xor() == Some(1 << 11) && s.kvm.st.dr7 >> 11 & 1 != 0,
        "MOV DR7: KVM keeps bit 11 without RTM (SDM 3, 18.2.4)",
    ),
    rule(
        |s, i| {
            let empty = s.case.repeats && s.count(i) == 0;
            port_io(i) && empty && s.raised().is_none()
        },
        |s, d| s.kvm_raised(vector::GP) || d.accessed_flag(),
        "REP INS, REP OUTS with a count of 0: KVM checks the port's permission (SDM 2, REP: nothing is done)",
    ),
    rule(
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
            string && s.case.repeats && s.raised().is_some()
        },
        |_, d| {
            // RFLAGS, and the two bytes of it that are pushed.
            d.what == "rflags" && d.within(flags::STATUS) || d.at().is_some() && d.doppel.len() <= 4
        },
        "REP CMPS, REP SCAS that faults: KVM keeps the last iteration's flags (SDM 2, REP: restored to before the instruction)",
    ),
    rule(
        |s, i| {
            let vector = match i.mnemonic() {
                M::Int => i.immediate8(),
                M::Int3 => vector::BP,
                M::Into => vector::OF,
                _ => return false,
            };
            let inside = usize::from(vector) * 4 + 3 <= usize::from(s.case.st.idtr.limit);
            s.case.st.real_mode() && s.raised() == Some(vector::GP) && !inside
        },
        all,
        "INT n in real mode: KVM does not check the IDT's limit (SDM 2, INT n)",
    ),
    rule(
        |s, i| i.mnemonic() == M::Syscall && s.case.st.rflags & flags::RF != 0,
        |s, d| d.what == "r11" && d.xor() == Some(flags::RF) && s.kvm.st.gpr[11] & flags::RF == 0,
        "SYSCALL: R11 is RFLAGS with RF (SDM 2, SYSCALL); AMD's manual and KVM clear RF there",
    ),
    rule(
        |s, i| is_far(i) && s.raised().is_some(),
        |s, d| s.near_stack(d) || d.accessed_bit(),
        "far transfers that fault: KVM pushes, or sets the accessed flag, before it checks (SDM 2, CALL)",
    ),
    rule(
        // The fault is at the second page's beginning.
        |s, _| s.raised() == Some(vector::PF) && s.kvm.st.cr2 & 0xfff == 0,
        |_, d| d.at().is_some_and(|at| at & 0xfff >= 0xff0),
        "a store across pages that faults: KVM writes the first page's part (SDM 3, 6.5: faults restart)",
    ),
    rule(
        |s, i| {
            let page = matches!(s.kvm.end, End::Shutdown(vector::PF, _));
            s.raised() == Some(vector::GP)
                && s.doppel.outcome.end == End::Done
                && page
                && several_accesses(i)
        },
        delivery,
        "read-modify-write in a read-only segment: KVM reads first, faults on that and shuts down (SDM 3, 5.5: #GP)",
    ),
    rule(
        |s, i| {
            let class = [vector::SS, vector::GP, vector::PF];
            s.raised().is_some_and(|v| class.contains(&v))
                && (s.kvm_vector().is_some_and(|v| class.contains(&v)) || s.kvm_page_fault())
                && two_accesses(i)
        },
        string_or_delivery,
        "which of an instruction's accesses faults first (SDM 3, table 6-2: implementation-dependent)",
    ),
    rule(
        |s, i| {
            // A read alone faults where it is not present, the write that follows where it is read-only.
            s.raised() == Some(vector::PF)
                && s.kvm_vector() == Some(vector::PF)
                && several_accesses(i)
                && s.doppel.outcome.st.cr2 & !0xf == s.kvm.st.cr2 & !0xf
        },
        memory,
        "read-modify-write: KVM reads first, and says so in the error code (SDM 3, 4.7: W/R)",
    ),
    rule(
        |s, i| {
            // The first page takes no stores; the second one cannot even be read.
            let (a, b) = (s.doppel.outcome.st.cr2, s.kvm.st.cr2);
            s.raised() == Some(vector::PF)
                && s.kvm_vector() == Some(vector::PF)
                && (several_accesses(i) || stores_16(i))
                && b & 0xfff == 0
                && (1..0x10).contains(&b.wrapping_sub(a))
        },
        |_, d| d.at().is_some() || d.what == "cr2",
        "read-modify-write, or SLDT and its kin, across pages: KVM reads both before it writes (SDM 3, table 6-2: implementation-dependent)",
    ),
    rule(
        |s, i| {
            s.raised() == Some(vector::PF)
                && (several_accesses(i) || stores_16(i))
                && s.kvm.st.cr2 & 0xfff == 0
                && s.kvm.st.cr2 == s.doppel.outcome.st.cr2
        },
        |_, d| d.page_flags(0x60),
        "read-modify-write, or SLDT and its kin, across pages: KVM faults on reading the second, the first is not dirty (SDM 3, 4.8)",
    ),
    rule(
        |s, i| {
            matches!(s.raised(), Some(vector::GP | vector::SS))
                && s.kvm_page_fault()
                && (several_accesses(i) || stores_16(i))
                && s.read_only_operand(i)
        },
        delivery,
        "read-modify-write, or SLDT and its kin, in a read-only segment: KVM reads first and faults on that (SDM 3, 5.5: #GP)",
    ),
    rule(
        |s, i| {
            i.is_invalid() && s.raised() == Some(vector::UD) && (12..=14).any(|v| s.kvm_raised(v))
        },
        delivery,
        "KVM checks privilege and operands of an encoding that does not exist (SDM 3, table 6-2: #UD first)",
    ),
    rule(
        |s, _| s.raised().is_some() && s.wild_inner_stack(),
        |s, d| delivery(s, d) || s.lost_delivery() && s.parted(),
        "delivery: KVM does not check the inner stack (SDM 3, 6.12.1)",
    ),
    rule(
        |s, _| {
            let at = s.stack();
            let low = s.case.st.real_mode() && s.case.st.gpr[4] & 0xffff < 16;
            let beyond = s.case.st.gpr[4] > u64::from(s.seg(Seg::Ss).limit)
                || at < 0x1000
                || at > RAM as u64;
            s.raised().is_some() && (low || s.same_stack() && beyond) && s.lost_delivery()
        },
        all,
        "delivery: KVM shuts down where pushing faults (SDM 3, 6.15, interrupt 8)",
    ),
    rule(
        |s, i| {
            s.case.st.real_mode()
                && matches!(i.mnemonic(), M::Int | M::Into | M::Int3)
                && s.has_prefix(0x66)
        },
        |s, d| d.at().is_some() || d.what == "rsp" || s.case.st.gpr[4] & 0xffff < 12,
        "INT n in real mode with 66h: KVM pushes 32 bits (SDM 2, INT n: Push (FLAGS[15:0]))",
    ),
    rule(
        |s, i| {
            let segment = [i.op0_register(), i.op1_register()]
                .iter()
                .any(|r| r.is_segment_register());
            s.rex() & 4 != 0 && i.mnemonic() == M::Mov && segment && s.kvm_raised(vector::UD)
        },
        all,
        "MOV Sreg: KVM heeds REX.R (SDM 2, 2.2.1.2: ignored)",
    ),
    rule(
        |s, i| stores_16(i) && s.rex() & 8 != 0,
        memory,
        "SLDT, STR, MOV from Sreg to memory with REX.W: KVM writes more than 16 bits (SDM 2, SLDT)",
    ),
    rule(
        |s, i| stores_16(i) && s.kvm_faulted() && i.op0_kind() == OpKind::Memory,
        delivery,
        "SLDT, STR, SMSW, MOV from Sreg to memory: KVM checks more than 16 bits (SDM 2, SLDT)",
    ),
    rule(
        |_, i| stores_16(i),
        |_, d| d.accessed_flag(),
        "SLDT, STR, SMSW, MOV from Sreg to memory: KVM walks for more than 16 bits (SDM 2, SLDT)",
    ),
    rule(
        |s, i| {
            let prevented = s.case.st.cr4 & cr4::UMIP != 0 && s.case.st.cpl() != 0;
            stores_16(i)
                && prevented
                && s.raised() == Some(vector::GP)
                && (s.kvm_vector() == Some(vector::SS) || s.kvm_page_fault())
        },
        delivery,
        "SLDT, STR, SMSW under UMIP: KVM reads the operand first (SDM 3, table 6-2: implementation-dependent)",
    ),
    rule(
        |s, _| {
            let last = matches!(
                s.kvm.end,
                End::Shutdown(vector::DF | vector::TS..=vector::PF, _)
            );
            last && matches!(s.doppel.outcome.end, End::Shutdown(..))
        },
        all,
        "both shut down: KVM names the last exception on the way, not the first",
    ),
    rule(
        |s, _| {
            let edges = [
                0xffff_fff0..=0xffff_ffff,
                0x7fff_ffff_fff0..=0x7fff_ffff_ffff,
            ];
            // An expand-down stack: what is pushed or popped there.
            let down = s.seg(Seg::Ss).attr & (attr::CODE | attr::DC) == attr::DC
                && [&s.case.st, &s.kvm.st]
                    .iter()
                    .any(|st| edges[0].contains(&st.gpr[4]));
            let there = s.kvm_vector() == Some(vector::PF)
                && edges.iter().any(|edge| edge.contains(&s.kvm.st.cr2));
            matches!(s.raised(), Some(vector::GP | vector::SS)) && (there || down)
        },
        all,
        "an operand across 4 GiB or the last canonical address: KVM does not check its last byte (SDM 3, 5.3; SDM 1, 3.3.7.1)",
    ),
    rule(
        |s, i| {
            let table = matches!(i.mnemonic(), M::Sgdt | M::Sidt | M::Lgdt | M::Lidt);
            table && s.kvm.st.rip == s.case.st.rip && s.kvm.end == End::Done
        },
        all,
        "SGDT and its kin on device memory: KVM stays there",
    ),
    rule(
        |s, _| {
            let based = s.case.st.seg[1].base != 0 && !s.case.st.code64();
            let others = s.list.iter().all(|d| d.what == "cr2" || d.at().is_some());
            let same = s.raised() == Some(vector::PF) && others;
            s.kvm.st.cr2 == s.case.st.rip && (same || based && s.kvm_vector() == Some(vector::PF))
        },
        delivery,
        "a fetch: KVM looks up RIP without CS.base (SDM 3, 3.4 and 4.7)",
    ),
    rule(
        |s, _| s.case.repeats && s.raised().is_none() && s.overwrote_itself(),
        |s, d| all(s, d) || string_or_delivery(s, d),
        "REP over its own code: KVM fetches it again when the count is 0, Doppel at times between iterations (SDM 2, REP: both may be)",
    ),
    rule(
        |s, i| {
            let ins = matches!(i.mnemonic(), M::Insb | M::Insw | M::Insd);
            let edge = !(0x200..0xfe00).contains(&(s.case.st.gpr[7] & 0xffff));
            let wraps = s.raised().is_none() && !s.case.st.code64() && edge;
            ins && s.case.repeats && (wraps || matches!(s.raised(), Some(vector::PF | vector::GP)))
        },
        string_or_delivery,
        "REP INS around the end of a segment or a page: KVM writes several iterations at once (SDM 2, REP: one after another)",
    ),
    rule(
        |s, i| {
            i.mnemonic() == M::Cmpxchg
                && s.case.st.code64()
                && i.op0_register().is_gpr32()
                && s.doppel.outcome.st.rflags & flags::ZF == 0
        },
        // The destination: what it held, or that without its upper half. RAX is not a destination that can fail.
        |s, d| {
            let at = NAMES.iter().position(|name| *name == d.what);
            at.is_some_and(|n| {
                let old = s.case.st.gpr[n];
                s.doppel.outcome.st.gpr[n] == old && s.kvm.st.gpr[n] == old & 0xffff_ffff
            })
        },
        "CMPXCHG r32 that fails: KVM clears the register's upper half; host CPUs do not",
    ),
    rule(
        |s, i| {
            matches!(i.mnemonic(), M::Bsf | M::Bsr)
                && s.case.st.code64()
                && i.op0_register().is_gpr32()
                && s.raised().is_none()
                && s.doppel.outcome.st.rflags & flags::ZF != 0
        },
        |s, d| {
            let register = decode(s.case).op0_register().full_register();
            let name = format!("{register:?}").to_lowercase();
            d.what == name && d.upper_half_cleared()
        },
        "BSF, BSR r32 of 0: KVM may clear the register's upper half (SDM 2, BSF: undefined)",
    ),
    rule(
        |s, i| {
            i.mnemonic() == M::Wrmsr
                && s.raised() == Some(vector::GP)
                && s.case.st.cpl() == 0
                && bad_msr_value(&s.case.st)
        },
        |s, d| {
            let segment = matches!(&*d.what, "fs.base" | "gs.base" | "kernel_gs_base");
            let entry = matches!(&*d.what, "pat" | "lstar" | "cstar");
            delivery(s, d) || segment || entry || d.what.starts_with("sysenter_e")
        },
        "WRMSR: KVM takes a reserved PAT type or a non-canonical address (SDM 2, WRMSR; SDM 3, 12.12.4)",
    ),
    rule(
        |s, i| {
            let count = match i.op2_kind() {
                OpKind::Immediate8 => u64::from(i.immediate8()),
                _ => s.case.st.gpr[1],
            };
            let small = i.op1_register().is_gpr16();
            matches!(i.mnemonic(), M::Shld | M::Shrd)
                && small
                && count & 31 > 16
                && s.raised().is_none()
        },
        |s, d| match d.at() {
            Some(_) => d.doppel.len() <= 4,
            None => {
                let register = decode(s.case).op0_register().full_register();
                let name = format!("{register:?}").to_lowercase();
                d.within(0xffff) && (d.what == "rflags" || d.what == name)
            }
        },
        "16-bit SHLD, SHRD by more than 16: undefined (SDM 2, SHLD)",
    ),
    rule(
        |_, i| matches!(i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16),
        |s, d| d.accessed_flag() || s.raised() == Some(vector::PF) && table_or_delivery(s, d),
        "LGDT, LIDT with 16-bit operands: KVM does not read the sixth byte (SDM 2, LGDT: m16&32)",
    ),
    rule(
        |s, i| {
            matches!(i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16)
                && matches!(s.raised(), Some(vector::GP | vector::SS))
                && s.ends_after(i, 5)
        },
        table_or_delivery,
        "LGDT, LIDT with 16-bit operands: KVM does not check the sixth byte (SDM 2, LGDT: m16&32)",
    ),
    rule(
        |s, i| {
            let local = s.doppel.exceptions.first().and_then(|e| e.error);
            i.mnemonic() == M::Ltr
                && s.raised() == Some(vector::GP)
                && local.is_some_and(|error| error & 4 != 0)
        },
        memory,
        "LTR: KVM's error code is 0 for a selector with TI (SDM 2, LTR: #GP(selector))",
    ),
    rule(
        |s, i| {
            let local = s.doppel.exceptions.first().and_then(|e| e.error);
            i.mnemonic() == M::Lldt
                && s.raised() == Some(vector::GP)
                && local.is_some_and(|error| error & 4 != 0)
        },
        table_or_delivery,
        "LLDT: KVM takes a selector with TI (SDM 2, LLDT: #GP(selector))",
    ),
    rule(
        |s, i| {
            let first = s.doppel.exceptions.first().and_then(|e| e.error);
            let at = place::GDT + u64::from(first.unwrap_or(0) & 0xfff8);
            let kind = word(&s.case.ram(), at as usize) >> 40 & 0x1f;
            i.mnemonic() == M::Ltr
                && s.raised() == Some(vector::GP)
                && s.case.st.long_mode()
                && s.case.st.gdtr.base == place::GDT
                && kind == u64::from(access::TSS16 & (attr::S | attr::TYPE))
        },
        table_or_delivery,
        "LTR in long mode: KVM takes a 16-bit TSS, or says #NP of it (SDM 3, table 3-2: reserved)",
    ),
    rule(
        |s, i| {
            let upper = s.doppel.exceptions.first().and_then(|e| e.error);
            let at = place::GDT + u64::from(upper.unwrap_or(0) & 0xfff8) + 8;
            matches!(i.mnemonic(), M::Ltr | M::Lldt)
                && s.raised() == Some(vector::GP)
                && s.case.st.code64()
                && s.case.st.gdtr.base == place::GDT
                && word(&s.case.ram(), at as usize) >> 40 & 0x1f != 0
        },
        table_or_delivery,
        "LTR, LLDT in 64-bit mode: KVM does not look at the type in the descriptor's upper half (SDM 3, figure 8-4: 0)",
    ),
    rule(
        |s, i| {
            let first = s.doppel.exceptions.first().and_then(|e| e.error);
            let at = first.unwrap_or(0) & 0xfff8;
            let limit = u32::from(s.case.st.gdtr.limit);
            matches!(i.mnemonic(), M::Ltr | M::Lldt)
                && s.raised() == Some(vector::GP)
                && s.case.st.code64()
                && (at + 7..at + 15).contains(&limit)
        },
        table_or_delivery,
        "LTR, LLDT in 64-bit mode: KVM takes an upper half beyond the GDT's limit (SDM 2, LLDT: #GP(selector))",
    ),
    rule(
        |s, i| {
            let string = i.has_rep_prefix() || i.has_repne_prefix();
            string && s.case.st.code64() && address_size(i) == 32 && s.count(i) == 0
        },
        |_, d| matches!(&*d.what, "rcx" | "rsi" | "rdi") && d.upper_half_cleared(),
        "REP with ECX = 0 and 32-bit addresses: KVM clears upper halves, as it says Intel's CPUs do; not in SDM 2, REP",
    ),
    rule(
        |s, _| {
            let class = [Some(vector::GP), Some(vector::SS)];
            let ignored = [0x26, 0x2e, 0x36, 0x3e];
            s.case.st.code64()
                && ignored.into_iter().any(|byte| s.has_prefix(byte))
                && class.contains(&s.raised())
                && class.contains(&s.kvm_vector())
                && s.raised() != s.kvm_vector()
        },
        delivery,
        "64-bit mode: KVM heeds CS, DS, ES and SS overrides where an address is not canonical (SDM 1, 3.4.2.1: ignored)",
    ),
    rule(
        // The case's instruction, or what a handler that was written over begins with.
        |s, _| s.kvm.outs != s.split_outs(),
        |s, d| d.what == "outs" && s.doppel.outcome.outs == s.split_outs(),
        "ports beyond FFFFh: KVM does not split the access",
    ),
    rule(
        |s, i| {
            i.code() == Code::Cmpxchg16b_m128
                && s.raised() == Some(vector::GP)
                && s.kvm_vector() == Some(vector::SS)
                && s.misaligned(i)
        },
        delivery,
        "CMPXCHG16B at an address neither aligned nor canonical: #GP or #SS first (SDM 3, table 6-2: implementation-dependent)",
    ),
];
