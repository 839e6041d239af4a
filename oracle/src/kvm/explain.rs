//! Differences with a reason: where KVM's emulator is wrong or stops short, with the manual's place that says so.
//! "SDM" is the Intel manual of 2024; volume 3's chapter numbers.

mod rules;

use iced_x86::{
    Code, Instruction, InstructionInfoFactory, Mnemonic as M, OpKind, Register, UsedMemory,
};
use system::testing::{access, gate};
use x86::{Seg, attr, cr0, cr4, vector};

use super::case::{Case, End, Outcome};
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

    /// Whether KVM raised #PF, also where its gate led on to another exception, or to the end.
    fn kvm_page_fault(&self) -> bool {
        let led_on = !self.plain_gate(vector::PF) && self.differs("cr2");
        self.kvm_vector() == Some(vector::PF)
            || matches!(self.kvm.end, End::Shutdown(vector::PF, _))
            || led_on
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

    /// Whether the two went on in different places, or came to the same one by other ways: other instructions were run.
    fn parted(&self) -> bool {
        let way = |d: &Difference| matches!(&*d.what, "rip" | "rsp" | "end" | "cs.sel" | "cs.base");
        self.list.iter().any(way)
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

    /// The linear address of a memory operand, if registers and bases tell it.
    fn linear(&self, m: &UsedMemory) -> Option<u64> {
        let st = &self.case.st;
        m.virtual_address(0, |register, _, _| {
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
        })
    }

    /// Whether a memory operand's address does not fit its size.
    fn misaligned(&self, i: &Instruction) -> bool {
        let mut factory = InstructionInfoFactory::new();
        factory.info(i).used_memory().iter().any(|m| {
            let size = m.memory_size().size().max(2);
            // The base of SGDT and SIDT is a double word behind the limit.
            let (first, power) = match i.mnemonic() {
                M::Sgdt | M::Sidt => (2, 4),
                _ => (0, 1_u64 << size.ilog2()),
            };
            self.linear(m)
                .is_none_or(|lin| lin.wrapping_add(first) & (power - 1) != 0)
        })
    }

    /// Whether an operand outside 64-bit mode has its first `len` bytes in the segment, and no more.
    fn ends_after(&self, i: &Instruction, len: u64) -> bool {
        let mut factory = InstructionInfoFactory::new();
        factory.info(i).used_memory().iter().any(|m| {
            let n = m.segment() as usize - Register::ES as usize;
            let s = &self.case.st.seg[n];
            let last = match s.attr & (attr::CODE | attr::DC | attr::DB) {
                attr::DC => 0xffff,
                a if a & attr::CODE == 0 && a & attr::DC != 0 => 0xffff_ffff,
                _ => u64::from(s.limit),
            };
            self.linear(m)
                .is_some_and(|lin| (lin.wrapping_sub(s.base) & 0xffff_ffff) + len == last + 1)
        })
    }

    /// What Doppel writes to ports where KVM writes beyond FFFFh in one access: byte by byte, round to port 0.
    fn split_outs(&self) -> Vec<(u16, u8, u32)> {
        let mut list = Vec::new();
        for &(port, size, value) in &self.kvm.outs {
            if u32::from(port) + u32::from(size) <= 0x1_0000 {
                list.push((port, size, value));
                continue;
            }
            for n in 0..size {
                let byte = value >> (n * 8) & 0xff;
                list.push((port.wrapping_add(n.into()), 1, byte));
            }
        }
        list
    }

    /// Whether an operand's segment takes no stores.
    fn read_only_operand(&self, i: &Instruction) -> bool {
        let mut factory = InstructionInfoFactory::new();
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
    let mut factory = InstructionInfoFactory::new();
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
    let mut factory = InstructionInfoFactory::new();
    factory.info(i).used_memory().len() > 1
}

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
    // The reason that is told is the one that accounts for the most.
    let mut most: (usize, &'static str) = (0, "");
    for rule in rules::RULES.iter().filter(|r| (r.when)(seen, &instruction)) {
        let before = rest.len();
        rest.retain(|d| !(rule.covers)(seen, d));
        if before - rest.len() > most.0 {
            most = (before - rest.len(), rule.why);
        }
    }
    if most.0 != 0 && rest.is_empty() {
        Why::Known(most.1)
    } else {
        Why::Unknown
    }
}
