//! A difference as text: the instruction, its bytes and IR, what led to it, what differs, both states.

use std::fmt::{self, Write};

use frontend_x86::{Decoded, Features, Limits, Mode, decode, lift, status_flags};
use iced_x86::{Formatter, Instruction, IntelFormatter, MemorySize, Register};
use system::Vcpu;
use x86::{LinAddr, Seg};

/// Two engines did not do the same.
#[derive(Debug)]
pub struct Difference {
    /// The vCPU whose instruction it was.
    pub cpu: usize,
    /// Instructions that this vCPU had completed before it.
    pub retired: u64,
    /// RIP of the instruction.
    pub rip: u64,
    /// The instruction goes wrong when it runs alone, too. If not, the fault lies in one of up to 64 before it, in a block
    /// of several.
    pub alone: bool,
    /// All there is to say, several lines.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The bytes at RIP, as far as they can be read.
fn code(v: &Vcpu) -> Vec<u8> {
    let lin = if v.st.code64() {
        v.st.rip
    } else {
        v.st.seg[Seg::Cs as usize].base.wrapping_add(v.st.rip) & 0xffff_ffff
    };
    (0..15)
        .map_while(|n| {
            let at = v.mmu.translate_debug(LinAddr(lin.wrapping_add(n)))?;
            v.mmu.ram().read_u8(at).ok()
        })
        .collect()
}

/// The instruction at RIP.
pub fn instruction(v: &Vcpu, features: &Features) -> Option<Instruction> {
    match decode(&code(v), 0, Mode::of(&v.st), features) {
        Decoded::Insn(mut insn) => {
            insn.set_ip(v.st.rip);
            Some(insn)
        }
        _ => None,
    }
}

/// Where a vCPU stands: RIP, bytes, disassembly.
pub fn line(v: &Vcpu, features: &Features) -> String {
    let mut bytes = code(v);
    let mode = Mode::of(&v.st);
    let text = match decode(&bytes, 0, mode, features) {
        Decoded::Insn(insn) => {
            bytes.truncate(insn.len());
            let mut decoder = iced_x86::Decoder::with_ip(
                mode.code().bits(),
                &bytes,
                v.st.rip,
                iced_x86::DecoderOptions::NONE,
            );
            let mut text = String::new();
            IntelFormatter::new().format(&decoder.decode(), &mut text);
            text
        }
        other => format!("({other:?})"),
    };
    let bytes = bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x} ");
        text
    });
    format!("{:#018x}: {bytes:<31} {text}", v.st.rip)
}

/// The IR of the instruction at RIP.
pub fn ir(v: &Vcpu, features: &Features) -> String {
    let limits = Limits {
        branches: 0,
        max_insns: 1,
        page: u32::MAX,
    };
    let lifted = lift(&code(v), &limits, Mode::of(&v.st), features);
    lifted.block.to_string()
}

/// By how much an instruction that begins in this state shifts, if CL says that.
fn shift_by_cl(insn: &Instruction, st: &x86::CpuState) -> Option<u64> {
    use iced_x86::Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    let shift = matches!(
        insn.mnemonic(),
        Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shr | Shld | Shrd
    );
    let by_cl = (0..insn.op_count()).any(|n| insn.op_register(n) == Register::CL);
    let wide = insn.op0_register().size() == 8 || insn.memory_size().size() == 8;
    (shift && by_cl).then_some(st.gpr[1] & if wide { 0x3f } else { 0x1f })
}

/// Where an instruction that is about to run stores the addresses and the opcode of the last x87 instruction (FIP, FDP,
/// FOP), which engines need not agree on: physical addresses of bytes.
pub fn x87_pointers(insn: &Instruction, v: &Vcpu) -> Vec<u64> {
    use iced_x86::Mnemonic as M;
    let fields = match insn.mnemonic() {
        M::Fxsave
        | M::Fxsave64
        | M::Xsave
        | M::Xsave64
        | M::Xsavec
        | M::Xsavec64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsaves
        | M::Xsaves64 => 6..24,
        M::Fnstenv | M::Fnsave
            if matches!(
                insn.memory_size(),
                MemorySize::FpuEnv14 | MemorySize::FpuState94
            ) =>
        {
            6..14
        }
        M::Fnstenv | M::Fnsave => 12..28,
        _ => return Vec::new(),
    };
    let register = |register: Register, _, _| {
        if register.is_segment_register() {
            return Some(v.st.seg[register.number()].base);
        }
        let whole = v.st.gpr[register.full_register().number()];
        Some(match register.size() {
            2 => whole & 0xffff,
            4 => whole & 0xffff_ffff,
            _ => whole,
        })
    };
    let Some(base) = insn.virtual_address(0, 0, register) else {
        return Vec::new();
    };
    let mask = if v.st.code64() { u64::MAX } else { 0xffff_ffff };
    fields
        .filter_map(|n| v.mmu.translate_debug(LinAddr(base.wrapping_add(n) & mask)))
        .map(|at| at.0)
        .collect()
}

/// Which status flags are undefined, as far as the instructions tell that were seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undefined(pub u64);

impl Undefined {
    /// What they are when the instruction that begins in this state is completed.
    pub fn after(self, v: &Vcpu, features: &Features) -> Self {
        let Some(insn) = instruction(v, features) else {
            return self;
        };
        // By 0 a shift leaves all flags as they were, by 1 it defines OF.
        let defined = match shift_by_cl(&insn, &v.st) {
            Some(0) => return self,
            Some(1) => x86::flags::OF,
            _ => 0,
        };
        let kept = self.0 & !status_flags(insn.rflags_modified());
        Self(kept | status_flags(insn.rflags_undefined()) & !defined)
    }
}

#[cfg(test)]
mod tests {
    use super::{Undefined, x87_pointers};
    use frontend_x86::Features;
    use iced_x86::{Decoder, DecoderOptions};
    use system::testing::{Machine, START};
    use x86::{PhysAddr, flags};

    #[test]
    fn what_the_manual_leaves_undefined() {
        let mut m = Machine::long(0, true);
        let features = Features::new(&m.v.model.features_iced());
        let mut after = |bytes: &[u8], rcx: u64, before: u64| {
            m.v.st.gpr[1] = rcx;
            let at = PhysAddr(START);
            m.ram.write(at, bytes).expect("RAM");
            Undefined(before).after(&m.v, &features).0
        };
        let (af, of, all) = (flags::AF, flags::OF, flags::STATUS);
        assert_eq!(after(&[0x01, 0xd8], 0, all), 0, "add eax, ebx");
        assert_eq!(after(&[0x21, 0xd8], 0, 0), af, "and eax, ebx");
        assert_eq!(after(&[0xd1, 0xe0], 0, all), af, "shl eax, 1");
        assert_eq!(after(&[0xd3, 0xe0], 5, 0), af | of, "shl eax, cl");
        assert_eq!(after(&[0xd3, 0xe0], 1, all), af, "shl eax, cl by 1");
        for before in [0, af, all] {
            let none = "shl eax, cl by 32 does nothing";
            assert_eq!(after(&[0xd3, 0xe0], 32, before), before, "{none}");
            assert_eq!(after(&[0xeb, 0], 0, before), before, "jmp");
        }
        assert_eq!(after(&[0x48, 0xd3, 0xe0], 32, 0), af | of, "shl rax, cl");
        let product = flags::SF | flags::ZF | flags::AF | flags::PF;
        assert_eq!(after(&[0xf7, 0xe3], 0, all), product, "mul ebx");
        assert_eq!(after(&[0xff, 0xc0], 0, all), flags::CF, "inc eax");
        let one = flags::STATUS & !flags::ZF;
        assert_eq!(after(&[0x0f, 0xbc, 0xc3], 0, 0), one, "bsf eax, ebx");
    }

    #[test]
    fn where_images_have_pointers() {
        let m = Machine::long(0, true);
        let at = |bytes: &[u8]| {
            let insn = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
            x87_pointers(&insn, &m.v)
        };
        let rsp = m.v.st.gpr[4];
        let whole: Vec<u64> = (rsp + 6..rsp + 24).collect();
        assert_eq!(at(&[0x48, 0x0f, 0xae, 0x04, 0x24]), whole, "fxsave64 [rsp]");
        assert_eq!(at(&[0x48, 0x0f, 0xc7, 0x24, 0x24]), whole, "xsavec64 [rsp]");
        let whole: Vec<u64> = (rsp + 12..rsp + 28).collect();
        assert_eq!(at(&[0xd9, 0x34, 0x24]), whole, "fnstenv [rsp]");
        assert_eq!(at(&[0xdd, 0x1c, 0x24]), [0; 0], "fstp [rsp]");
    }
}
