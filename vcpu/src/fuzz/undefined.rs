//! What two engines may choose differently: flags that the instructions since the last comparison leave undefined, and the
//! x87's pointers to its last instruction.

use frontend_x86::status_flags;
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic as M};
use system::Vcpu;
use x86::{CpuState, LinAddr, Seg, attr, flags};

/// What one instruction does with them.
#[derive(Clone, Copy, Default)]
pub struct Effects {
    read: u64,
    defined: u64,
    undefined: u64,
    /// It is an x87 instruction.
    x87: bool,
    /// It may show or copy the pointers.
    image: bool,
    /// The length of a repeated string instruction, otherwise 0.
    pub repeated: usize,
}

/// What is undefined along a run.
#[derive(Default)]
pub struct Undefined {
    flags: u64,
    pointers: bool,
    spread: bool,
}

impl From<bool> for Undefined {
    /// Nothing is, but something may have been looked at.
    fn from(spread: bool) -> Self {
        Self {
            spread,
            ..Self::default()
        }
    }
}

impl Undefined {
    /// Whether something undefined was looked at, so that anything may differ.
    pub fn spread(&self) -> bool {
        self.spread
    }

    /// Takes what is undefined from the other state.
    pub fn settle(&self, st: &mut CpuState, from: &CpuState) {
        st.rflags = st.rflags & !self.flags | from.rflags & self.flags;
        if self.pointers {
            let (to, from) = (&mut st.fpu, &from.fpu);
            (to.fop, to.fip, to.fdp) = (from.fop, from.fip, from.fdp);
            (to.fcs, to.fds) = (from.fcs, from.fds);
        }
    }

    /// What the instruction that is next will do.
    pub fn effects(v: &Vcpu) -> Effects {
        let bits = match (
            v.st.code64(),
            v.st.seg[Seg::Cs as usize].attr & attr::DB != 0,
        ) {
            (true, _) => 64,
            (_, true) => 32,
            _ => 16,
        };
        Effects::of(&Decoder::new(bits, &code(v, v.st.rip), DecoderOptions::NONE).decode())
    }

    /// The instruction has completed.
    pub fn after(&mut self, effects: Effects) {
        self.spread |= self.flags & effects.read != 0;
        self.flags = self.flags & !effects.defined | effects.undefined;
        self.spread |= self.pointers && effects.image;
        self.pointers |= effects.x87;
    }
}

/// The bytes of an instruction, as far as they are mapped.
pub fn code(v: &Vcpu, rip: u64) -> Vec<u8> {
    let lin = |n: u64| {
        if v.st.code64() {
            rip.wrapping_add(n)
        } else {
            let base = v.st.seg[Seg::Cs as usize].base;
            base.wrapping_add(rip).wrapping_add(n) & 0xffff_ffff
        }
    };
    (0..15)
        .map_while(|n| {
            let at = v.mmu.translate_debug(LinAddr(lin(n)))?;
            v.mmu.ram().read_u8(at).ok()
        })
        .collect()
}

impl Effects {
    fn of(insn: &Instruction) -> Self {
        let mut undefined = status_flags(insn.rflags_undefined());
        match insn.mnemonic() {
            // All CPUs clear it.
            M::And | M::Or | M::Xor | M::Test => undefined &= !flags::AF,
            _ => {}
        }
        let defined =
            status_flags(insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set())
                & !undefined;
        let mut read = status_flags(insn.rflags_read());
        // Flags go to memory or RCX-like places as a whole.
        if matches!(
            insn.mnemonic(),
            M::Pushf
                | M::Pushfd
                | M::Pushfq
                | M::Int
                | M::Int1
                | M::Int3
                | M::Into
                | M::Syscall
                | M::Call
                | M::Jmp
                | M::Iret
                | M::Iretd
                | M::Iretq
        ) && !insn.is_jmp_near_indirect()
            && !insn.is_call_near()
            && !insn.is_jmp_short_or_near()
            && !insn.is_call_near_indirect()
        {
            read = flags::STATUS;
        }
        let x87 = insn.cpuid_features().contains(&CpuidFeature::FPU);
        let image = matches!(
            insn.mnemonic(),
            M::Fnstenv
                | M::Fnsave
                | M::Fxsave
                | M::Fxsave64
                | M::Xsave
                | M::Xsave64
                | M::Xsavec
                | M::Xsavec64
                | M::Xsaveopt
                | M::Xsaveopt64
                | M::Xsaves
                | M::Xsaves64
        );
        Self {
            read,
            defined,
            undefined,
            x87,
            image,
            repeated: if (insn.has_rep_prefix() || insn.has_repne_prefix())
                && insn.is_string_instruction()
            {
                insn.len()
            } else {
                0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Effects, flags};
    use iced_x86::{Decoder, DecoderOptions};

    fn effects(bytes: &[u8]) -> Effects {
        Effects::of(&Decoder::new(64, bytes, DecoderOptions::NONE).decode())
    }

    #[test]
    fn flags_are_undefined_where_the_sdm_says_so() {
        // imul eax, ecx; shl eax, 4; and eax, ecx; inc eax; jc; pushfq; jmp rax.
        let e = effects(&[0x0f, 0xaf, 0xc1]);
        assert_eq!(e.undefined, flags::SF | flags::ZF | flags::AF | flags::PF);
        assert_eq!(e.defined, flags::CF | flags::OF);
        assert_eq!(effects(&[0xc1, 0xe0, 4]).undefined, flags::AF | flags::OF);
        assert_eq!(effects(&[0x21, 0xc8]).undefined, 0);
        assert_eq!(effects(&[0xff, 0xc0]).defined & flags::CF, 0);
        assert_eq!(effects(&[0x72, 0]).read, flags::CF);
        assert_eq!(effects(&[0x9c]).read, flags::STATUS);
        assert_eq!(effects(&[0xff, 0xe0]).read, 0);
    }
}
