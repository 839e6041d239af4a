//! Differences with a reason: where KVM's emulator is wrong or stops short, with the manual's place that says so.
//! "SDM" is the Intel manual of 2024; volume 3's chapter numbers.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};
use system::testing::{access, gate};
use x86::{Seg, attr, cr0, cr4, flags, vector};

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
        (self.differs("rip") || self.raised().is_some())
            .then(|| handler(self.kvm))
            .flatten()
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

    /// Whether KVM raised a fault of an access that Doppel did not.
    fn kvm_faulted(&self) -> bool {
        self.raised().is_none() && (12..=14).any(|v| self.kvm_raised(v))
    }

    /// Whether one side did not get to the first exception's handler: it faulted on the way.
    fn lost_delivery(&self) -> bool {
        self.kvm.end != End::Done
            || self.doppel.outcome.end != End::Done
            || self.doppel.exceptions.len() > 1
            || self.kvm_vector() != self.raised()
            || handler(&self.doppel.outcome) != self.raised()
    }

    /// Whether exceptions push on the current stack, and it is not a flat 32-bit one.
    fn odd_stack(&self) -> bool {
        let ss = self.seg(Seg::Ss);
        let bits = ss.base != 0
            || !self.case.st.long_mode() && ss.attr & (attr::DB | attr::DC) != attr::DB;
        self.same_stack() && !self.case.st.code64() && bits
    }

    /// Whether an instruction's push has another width than the stack pointer.
    fn odd_push(&self, i: &Instruction) -> bool {
        let stack = match () {
            () if self.case.st.code64() => 8,
            () if self.seg(Seg::Ss).attr & attr::DB != 0 => 4,
            () => 2,
        };
        let operand = match i.code() {
            Code::Enterw_imm16_imm8 => 2,
            Code::Enterd_imm16_imm8 => 4,
            _ => 8,
        };
        operand != stack
    }

    /// Whether a difference lies in memory just below the stack pointer, wherever its page is mapped.
    fn near_stack(&self, d: &Difference) -> bool {
        let wide = self.case.st.code64() || self.seg(Seg::Ss).attr & attr::DB != 0;
        let sp = self.case.st.gpr[4] & if wide { u64::MAX } else { 0xffff };
        let base = if self.case.st.code64() {
            0
        } else {
            self.seg(Seg::Ss).base
        };
        let top = base.wrapping_add(sp);
        d.at().is_some_and(|at| {
            let below = top.wrapping_sub(at) & 0xfff;
            (1..=16).contains(&below)
        })
    }

    /// Whether a memory operand's address does not fit its size.
    fn misaligned(&self, i: &Instruction) -> bool {
        let mut factory = iced_x86::InstructionInfoFactory::new();
        let st = &self.case.st;
        factory.info(i).used_memory().iter().any(|m| {
            let lin = m.virtual_address(0, |register, _, _| {
                if register.is_segment_register() {
                    let n = register as usize - Register::ES as usize;
                    return Some(if st.code64() && n < 4 {
                        0
                    } else {
                        st.seg[n].base
                    });
                }
                let full = register.full_register() as usize - Register::RAX as usize;
                let bits = register.size() as u32 * 8;
                st.gpr.get(full).map(|v| v & (u64::MAX >> (64 - bits)))
            });
            let size = m.memory_size().size().max(2);
            // The base of SGDT and SIDT is a double word behind the limit.
            let (first, power) = match i.mnemonic() {
                M::Sgdt | M::Sidt => (2, 4),
                _ => (0, 1_u64 << size.ilog2()),
            };
            lin.is_none_or(|lin| lin.wrapping_add(first) & (power - 1) != 0)
        })
    }

    /// Whether an operand's segment takes no stores.
    fn read_only_operand(&self, i: &Instruction) -> bool {
        let mut factory = iced_x86::InstructionInfoFactory::new();
        factory.info(i).used_memory().iter().any(|m| {
            let n = m.segment() as usize - Register::ES as usize;
            let a = self.case.st.seg[n].attr;
            a & attr::CODE != 0 || a & attr::RW == 0
        })
    }

    /// Whether the source of a MOV to a control or debug register has bits 63:32.
    fn high_half(&self, i: &Instruction) -> bool {
        let n = i.op1_register();
        let found = (0..16).find(|k| n == Register::RAX + *k);
        found.is_some_and(|k| self.case.st.gpr[k as usize] >> 32 != 0)
    }

    /// Whether the instruction has written over itself.
    fn overwrote_itself(&self) -> bool {
        let st = &self.case.st;
        let base = if st.code64() { 0 } else { st.seg[1].base };
        let entry = if st.cr4 & cr4::PAE != 0 { 8 } else { 4 };
        (0_u64..).zip(&self.case.code).any(|(n, byte)| {
            let lin = base.wrapping_add(st.rip).wrapping_add(n);
            let at = if st.cr0 & cr0::PG == 0 {
                lin
            } else {
                // The generator's page table, for all its code.
                let table = place::TABLES + 0x2000 + (lin >> 12 & 0xff) * entry;
                word(self.after, table as usize) & 0x3_f000 | lin & 0xfff
            };
            self.after.get(at as usize).is_some_and(|b| b != byte)
        })
    }

    /// The count of a repeated string instruction.
    fn count(&self, i: &Instruction) -> u64 {
        let count = self.case.st.gpr[1];
        match address_size(i) {
            16 => count & 0xffff,
            32 => count & 0xffff_ffff,
            _ => count,
        }
    }

    /// The port of a port instruction.
    fn port(&self, i: &Instruction) -> u64 {
        match (i.mnemonic(), i.op0_kind(), i.op1_kind()) {
            (M::In, _, OpKind::Immediate8) | (M::Out, OpKind::Immediate8, _) => {
                u64::from(i.immediate8())
            }
            _ => self.case.st.gpr[2] & 0xffff,
        }
    }

    /// Whether an access to a port needs the second byte of the bitmap's word, and that lies beyond the TSS.
    fn bitmap_ends(&self, i: &Instruction) -> bool {
        let port = self.port(i);
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

/// The vector whose handler's first instruction was the last one.
fn handler(outcome: &Outcome) -> Option<u8> {
    let st = &outcome.st;
    let base = if st.code64() { 0 } else { st.seg[1].base };
    let n = st.rip.wrapping_add(base).wrapping_sub(place::HANDLERS + 1);
    (outcome.end == End::Done && n < 64).then_some(n as u8)
}

fn word(ram: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|n| ram[at + n]))
}

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
            let undeliverable = !seen.plain_gate(vector::UD) || seen.wild_inner_stack();
            outside_real && is_far(i) && (other || undeliverable)
        }
        // Nor are frames of outer procedures.
        M::Enter if i.immediate8_2nd() & 31 != 0 => {
            let other = seen.kvm_vector() == Some(vector::UD)
                || seen.kvm.end == End::Shutdown(vector::UD, 0);
            let undeliverable = !seen.plain_gate(vector::UD) || seen.wild_inner_stack();
            outside_real && (other || undeliverable)
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

/// Whether it accesses two places.
fn two_accesses(i: &Instruction) -> bool {
    let mut factory = iced_x86::InstructionInfoFactory::new();
    factory.info(i).used_memory().len() > 1
}
/// A known difference.
struct Rule {
    /// Whether it is about this case.
    when: fn(&Seen<'_>, &Instruction) -> bool,
    /// Which of the case's differences it accounts for. What no rule accounts for is a failure.
    covers: fn(&Seen<'_>, &Difference) -> bool,
    /// The reason.
    why: &'static str,
}

const fn rule(
    when: fn(&Seen<'_>, &Instruction) -> bool,
    covers: fn(&Seen<'_>, &Difference) -> bool,
    why: &'static str,
) -> Rule {
    Rule { when, covers, why }
}

/// The two took different ways: no difference means anything on its own.
fn all(_: &Seen<'_>, _: &Difference) -> bool {
    true
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

/// Known differences.
const RULES: &[Rule] = &[
    rule(
        |s, _| s.wild_delivery(),
        // Where that leads elsewhere, some other instruction is run.
        |s, d| delivery(s, d) || s.lost_delivery(),
        "delivery: KVM does not check the gate and its target (SDM 3, 6.12.1)",
    ),
    rule(
        |s, _| s.raised().is_some(),
        |_, d| d.accessed_flag(),
        "accessed flags after a fault: both allowed (SDM 3, 4.8)",
    ),
    rule(
        |s, _| s.raised().is_some() && !s.case.st.real_mode() && s.case.st.rflags & flags::AC != 0,
        |_, d| d.what == "rflags" && d.xor() == Some(flags::AC),
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
        all,
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
            let unknown = s.kvm.st.cr4 & !super::doppel::model().cr4() != 0;
            writes && unknown && s.raised() == Some(vector::GP)
        },
        all,
        "MOV CR4: KVM takes bits that CPUID does not tell of (SDM 3, 2.5: reserved)",
    ),
    rule(
        |s, i| {
            matches!(i.op0_register(), Register::DR4 | Register::DR5)
                && s.high_half(i)
                && s.raised() == Some(vector::GP)
        },
        all,
        "MOV DR4, DR5 in 64-bit mode: KVM does not check the upper half (SDM 2, MOV DR: #GP(0))",
    ),
    rule(
        |s, i| port_io(i) && s.raised() == Some(vector::GP) && s.bitmap_ends(i),
        all,
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
        all,
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
        |s, d| d.at().is_some() || s.kvm_faulted(),
        "far CALL between compatibility and 64-bit mode: KVM pushes as the new mode does (SDM 2, CALL: CS comes after)",
    ),
    rule(
        |s, i| {
            i.mnemonic() == M::Mov
                && i.op0_register() == Register::CR0
                && s.high_half(i)
                && s.raised() == Some(vector::GP)
        },
        all,
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
        all,
        "read-modify-write in a read-only segment: KVM reads first, faults on that and shuts down (SDM 3, 5.5: #GP)",
    ),
    rule(
        |s, i| {
            let class = [vector::SS, vector::GP, vector::PF];
            s.raised().is_some_and(|v| class.contains(&v))
                && s.kvm_vector().is_some_and(|v| class.contains(&v))
                && two_accesses(i)
        },
        all,
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
            // Across two pages: which one's lack is found first.
            let (a, b) = (s.doppel.outcome.st.cr2, s.kvm.st.cr2);
            s.raised() == Some(vector::PF)
                && s.kvm_vector() == Some(vector::PF)
                && several_accesses(i)
                && a.abs_diff(b) < 0x10
        },
        |_, d| d.at().is_some() || d.what == "cr2",
        "read-modify-write across pages: KVM reads both before it writes (SDM 3, table 6-2: implementation-dependent)",
    ),
    rule(
        |s, i| {
            let page = s.kvm_vector() == Some(vector::PF)
                || matches!(s.kvm.end, End::Shutdown(vector::PF, _));
            matches!(s.raised(), Some(vector::GP | vector::SS))
                && page
                && (several_accesses(i) || stores_16(i))
                && s.read_only_operand(i)
        },
        all,
        "read-modify-write, or SLDT and its kin, in a read-only segment: KVM reads first and faults on that (SDM 3, 5.5: #GP)",
    ),
    rule(
        |s, i| {
            i.is_invalid() && s.raised() == Some(vector::UD) && (12..=14).any(|v| s.kvm_raised(v))
        },
        all,
        "KVM checks privilege and operands of an encoding that does not exist (SDM 3, table 6-2: #UD first)",
    ),
    rule(
        |s, _| s.raised().is_some() && s.wild_inner_stack(),
        |s, d| delivery(s, d) || s.lost_delivery(),
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
        all,
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
                && matches!(s.kvm_vector(), Some(vector::SS | vector::PF))
        },
        all,
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
            let down = s.seg(Seg::Ss).attr & (attr::CODE | attr::DC) == attr::DC
                && edges[0].contains(&s.case.st.gpr[4]);
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
        all,
        "a fetch: KVM looks up RIP without CS.base (SDM 3, 3.4 and 4.7)",
    ),
    rule(
        |s, _| s.case.repeats && s.raised().is_none() && s.overwrote_itself(),
        all,
        "REP over its own code: KVM fetches it again to see that the count is 0 (SDM 2, REP: no fetch between iterations)",
    ),
    rule(
        |s, i| {
            let ins = matches!(i.mnemonic(), M::Insb | M::Insw | M::Insd);
            let edge = !(0x200..0xfe00).contains(&(s.case.st.gpr[7] & 0xffff));
            let wraps = s.raised().is_none() && !s.case.st.code64() && edge;
            ins && s.case.repeats && (wraps || matches!(s.raised(), Some(vector::PF | vector::GP)))
        },
        |s, d| {
            s.raised().is_some()
                || s.kvm_faulted()
                || d.at().is_some()
                || matches!(&*d.what, "rcx" | "rdi")
        },
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
            i.mnemonic() == M::Wrmsr
                && s.raised() == Some(vector::GP)
                && s.case.st.cpl() == 0
                && bad_msr_value(&s.case.st)
        },
        all,
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
        |_, d| match d.at() {
            Some(_) => d.doppel.len() <= 4,
            None => d.within(0xffff),
        },
        "16-bit SHLD, SHRD by more than 16: undefined (SDM 2, SHLD)",
    ),
    rule(
        |_, i| matches!(i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16),
        |s, d| d.accessed_flag() || s.raised() == Some(vector::PF),
        "LGDT, LIDT with 16-bit operands: KVM does not read the sixth byte (SDM 2, LGDT: m16&32)",
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
        all,
        "LLDT: KVM takes a selector with TI (SDM 2, LLDT: #GP(selector))",
    ),
    rule(
        |s, i| {
            i.mnemonic() == M::Ltr
                && s.raised() == Some(vector::GP)
                && s.case.st.long_mode()
                && s.kvm.st.tr.attr & (attr::S | attr::TYPE) == 3
        },
        all,
        "LTR in long mode: KVM takes a 16-bit TSS (SDM 3, table 3-2: reserved)",
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
        all,
        "LTR, LLDT in 64-bit mode: KVM does not look at the type in the descriptor's upper half (SDM 3, figure 8-4: 0)",
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
        all,
        "64-bit mode: KVM heeds CS, DS, ES and SS overrides where an address is not canonical (SDM 1, 3.4.2.1: ignored)",
    ),
    rule(
        |s, i| {
            let size = match i.mnemonic() {
                M::Out => i.op1_register().size() as u64,
                M::Outsb | M::Outsw | M::Outsd => i.memory_size().size() as u64,
                _ => return false,
            };
            s.port(i) + size > 0x1_0000
        },
        |_, d| d.what == "outs",
        "ports beyond FFFFh: KVM does not split the access",
    ),
];

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

fn port_io(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd
    )
}

/// Stores of a selector or the machine status word, which are 16 bits wide in memory.
fn stores_16(i: &Instruction) -> bool {
    let selector = matches!(i.mnemonic(), M::Sldt | M::Str | M::Smsw)
        || i.mnemonic() == M::Mov && i.op1_register().is_segment_register();
    selector && i.op0_kind() == OpKind::Memory
}

/// The address size of a string instruction.
fn address_size(i: &Instruction) -> u32 {
    (0..i.op_count())
        .find_map(|n| match i.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(16),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(32),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(64),
            _ => None,
        })
        .unwrap_or(0)
}

/// Whether WRMSR's value is one that the MSR cannot hold: a reserved memory type, an address that is not canonical.
fn bad_msr_value(st: &x86::CpuState) -> bool {
    use x86::msr as m;
    let value = st.gpr[2] << 32 | st.gpr[0] & 0xffff_ffff;
    match st.gpr[1] as u32 {
        m::PAT => !value
            .to_le_bytes()
            .iter()
            .all(|t| matches!(t, 0 | 1 | 4..=7)),
        m::LSTAR
        | m::CSTAR
        | m::FS_BASE
        | m::GS_BASE
        | m::KERNEL_GS_BASE
        | m::SYSENTER_ESP
        | m::SYSENTER_EIP => (value.cast_signed() << 16 >> 16).cast_unsigned() != value,
        _ => false,
    }
}

impl Difference {
    /// The address, if it is one of memory.
    fn at(&self) -> Option<u64> {
        let at = self.what.strip_prefix('@')?;
        u64::from_str_radix(at, 16).ok()
    }

    fn values(&self) -> Option<(u64, u64)> {
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        number(&self.doppel).zip(number(&self.other))
    }

    /// The bits that differ in a register, or in bytes of memory that are few enough.
    fn xor(&self) -> Option<u64> {
        self.values().map(|(a, b)| a ^ b)
    }

    /// A register that differs in these bits only.
    fn within(&self, bits: u64) -> bool {
        self.at().is_none() && self.xor().is_some_and(|x| x & !bits == 0)
    }

    fn upper_half_cleared(&self) -> bool {
        self.values().is_some_and(|(a, b)| b == a & 0xffff_ffff)
    }

    /// The accessed flag of a page-table entry.
    fn accessed_flag(&self) -> bool {
        self.page_flags(0x20)
    }

    /// Some of these flags in the first byte of a page-table entry.
    fn page_flags(&self, flags: u64) -> bool {
        let entry = self
            .at()
            .is_some_and(|at| at >= place::TABLES && at & 3 == 0);
        entry && self.doppel.len() == 2 && self.xor().is_some_and(|x| x & !flags == 0)
    }

    /// The accessed bit of a descriptor.
    fn accessed_bit(&self) -> bool {
        let entry = self
            .at()
            .is_some_and(|at| (place::GDT..place::TSS).contains(&at) && at & 7 == 5);
        entry && self.doppel.len() == 2 && self.xor() == Some(1)
    }
}

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
    let mut rest: Vec<_> = seen.list.iter().collect();
    let mut first = None;
    for rule in RULES.iter().filter(|r| (r.when)(seen, &instruction)) {
        let before = rest.len();
        rest.retain(|d| !(rule.covers)(seen, d));
        if rest.len() < before {
            first.get_or_insert(rule.why);
        }
    }
    match first {
        Some(why) if rest.is_empty() => Why::Known(why),
        _ => Why::Unknown,
    }
}
