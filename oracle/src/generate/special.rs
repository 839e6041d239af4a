//! What single instructions want of their state: quotients that fit, strings that end, targets that come back, images
//! that load.

use iced_x86::{FlowControl, Instruction, Mnemonic as M, OpKind, Register as R};

use super::state::{linear, set, value};
use super::{Encoding, Generator};
use crate::layout::{self, ALIASES, CODE, CODE_LEN, EXIT_LEN, sel};
use crate::{Case, case::FIXED_FLAGS};

/// Selectors worth loading: Linux's own, the LDT's, null, other RPLs, beyond the tables, system descriptors.
const SELECTORS: [u16; 30] = [
    0,
    3,
    sel::CODE32,
    sel::DATA,
    sel::CODE64,
    0x20,
    0x28,
    0x29,
    0x30,
    0x08,
    0x10,
    0x18,
    0x1b,
    0x43,
    0x53,
    0x63,
    0x4b,
    0x83,
    0xfff3,
    0x07,
    0x0f,
    0x17,
    0x1f,
    0x27,
    0x2f,
    0x37,
    0x3f,
    0x47,
    0x4f,
    0x57,
];

impl Generator {
    fn selector(&mut self) -> u16 {
        let list = if self.abilities.ldt {
            &SELECTORS[..]
        } else {
            &SELECTORS[..19]
        };
        match self.random.below(32) {
            0 => {
                let any = self.random.next() as u16;
                if any >> 3 == sel::CPU_NUMBER >> 3 {
                    0
                } else {
                    any
                }
            }
            _ => self.random.pick(list),
        }
    }

    /// Registers, before addresses are made of them.
    pub(super) fn before(&mut self, case: &mut Case, insn: &Instruction) {
        let r = &mut self.random;
        match insn.mnemonic() {
            M::Div | M::Idiv => self.dividend(case, insn),
            M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => {
                case.gpr[1] = r.pick(&[
                    0,
                    1,
                    2,
                    0x1_0000,
                    0x1_0001,
                    0x1_0000_0000,
                    0x1_0000_0001,
                    5,
                    u64::MAX,
                ]);
            }
            M::Shl
            | M::Shr
            | M::Sar
            | M::Sal
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd => {
                let count = if r.one_in(4) { r.next() } else { r.below(72) };
                set(case, R::CL, count);
            }
            M::Bt | M::Bts | M::Btr | M::Btc
                if insn.op1_kind() == OpKind::Register && !r.one_in(16) =>
            {
                set(
                    case,
                    insn.op1_register(),
                    r.below(0x4000).wrapping_sub(0x2000),
                );
            }
            M::Pcmpestri
            | M::Pcmpestrm
            | M::Pcmpestri64
            | M::Pcmpestrm64
            | M::Vpcmpestri
            | M::Vpcmpestrm
            | M::Vpcmpestri64
            | M::Vpcmpestrm64 => {
                for n in [0, 2] {
                    if !r.one_in(8) {
                        case.gpr[n] = r.below(40).wrapping_sub(20);
                    }
                }
            }
            M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xrstor
            | M::Xrstor64 => {
                // The host has more components than the guest.
                case.gpr[0] = r.next() << 32 | r.below(8);
                case.gpr[2] = r.next() << 32;
            }
            M::Mov | M::Lar | M::Lsl | M::Verr | M::Verw | M::Arpl => {
                for n in 0..insn.op_count() {
                    let loads =
                        insn.mnemonic() != M::Mov || insn.op0_register().is_segment_register();
                    if loads && insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_gpr()
                    {
                        let selector = self.selector();
                        set(
                            case,
                            insn.op_register(n),
                            u64::from(selector) | self.random.next() << 16,
                        );
                    }
                }
            }
            M::Wrfsbase | M::Wrgsbase if !r.one_in(4) => {
                set(case, insn.op0_register(), (r.next() as i64 >> 17) as u64);
            }
            M::Jmp | M::Call if insn.op0_kind() == OpKind::Register => {
                let target = self.target(case);
                set(case, insn.op0_register(), target);
            }
            _ => {}
        }
    }

    fn dividend(&mut self, case: &mut Case, insn: &Instruction) {
        let r = &mut self.random;
        let size = if insn.op0_kind() == OpKind::Register {
            insn.op0_register().size()
        } else {
            insn.memory_size().size()
        };
        let signed = insn.mnemonic() == M::Idiv;
        if r.one_in(4) {
            return;
        }
        let (low, high) = match size {
            1 => (R::AL, R::AH),
            2 => (R::AX, R::DX),
            4 => (R::EAX, R::EDX),
            _ => (R::RAX, R::RDX),
        };
        let negative = value(case, low) >> (size * 8 - 1) & 1 != 0;
        let top = match r.below(4) {
            0 => r.below(4),
            1 => r.next() >> r.below(64),
            _ if signed && negative => u64::MAX,
            _ => 0,
        };
        set(case, high, top);
    }

    /// Where a branch may lead, as an offset in CS: mostly into the code region.
    fn target(&mut self, case: &Case) -> u64 {
        let r = &mut self.random;
        let lin = match r.below(16) {
            0 => r.pick(&ALIASES) + r.below(0x3000),
            1 => r.integer(),
            2 => 0x8000_0000_0000,
            3 if case.bits == 64 => r.pick(&CODE) + r.below(CODE_LEN),
            _ => (case.lin() & !(CODE_LEN - 1)) + r.below(CODE_LEN),
        };
        lin.wrapping_sub(case.code_base())
    }

    /// Selector and offset of a far transfer.
    pub(super) fn far_target(&mut self, bits: u8) -> (u16, u64) {
        let code: &[u16] = if self.abilities.ldt {
            &[
                sel::CODE32,
                sel::CODE64,
                0x37,
                0x3f,
                sel::CODE32,
                sel::CODE64,
                0x21,
                0x30,
            ]
        } else {
            &[sel::CODE32, sel::CODE64]
        };
        let selector = if self.random.one_in(4) {
            self.selector()
        } else {
            self.random.pick(code)
        };
        let offset = match selector {
            0x37 | 0x3f => self.random.below(CODE_LEN),
            _ => CODE[0] + self.random.below(CODE_LEN),
        };
        let _ = bits;
        (
            selector,
            if self.random.one_in(16) {
                self.random.integer()
            } else {
                offset
            },
        )
    }

    /// Memory, and registers that are no addresses.
    pub(super) fn after(&mut self, case: &mut Case, insn: &Instruction) {
        match insn.mnemonic() {
            M::Cmpxchg if self.random.one_in(2) => self.expected(case, insn),
            M::Cmpxchg8b | M::Cmpxchg16b if self.random.one_in(2) => {
                let size = insn.memory_size().size() / 2;
                let mut image = case.gpr[0].to_le_bytes()[..size].to_vec();
                image.extend_from_slice(&case.gpr[2].to_le_bytes()[..size]);
                self.lay_at_operand(case, insn, 0, &image);
            }
            M::Ret => self.lay_on_stack(case, insn, |g, case| vec![g.target(case)]),
            M::Retf => self.lay_on_stack(case, insn, |g, case| {
                let (selector, offset) = g.far_target(case.bits);
                vec![offset, u64::from(selector) | g.random.next() << 16]
            }),
            M::Iret | M::Iretd | M::Iretq => self.lay_on_stack(case, insn, |g, case| {
                let (selector, offset) = g.far_target(case.bits);
                let flags = g.random.next() & 0x24_cfff | FIXED_FLAGS;
                let sp = g.place(8, case.bits.into());
                let ss = if g.random.one_in(4) {
                    g.selector()
                } else {
                    sel::DATA
                };
                vec![offset, selector.into(), flags, sp, ss.into()]
            }),
            M::Popf | M::Popfd | M::Popfq => self.lay_on_stack(case, insn, |g, _| {
                let trap = if g.random.one_in(64) { 0x100 } else { 0 };
                vec![g.random.next() & !0x100 | trap]
            }),
            M::Pop if insn.op0_register().is_segment_register() => {
                self.lay_on_stack(case, insn, |g, _| {
                    vec![u64::from(g.selector()) | g.random.next() << 16]
                })
            }
            M::Pop | M::Popa | M::Popad | M::Leave => self.lay_on_stack(case, insn, |g, _| {
                (0..8).map(|_| g.random.integer()).collect()
            }),
            M::Jmp | M::Call if insn.op0_kind() == OpKind::Memory => {
                self.branch_operand(case, insn)
            }
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
                let size = insn.op0_register().size();
                let mut image = self.random.next().to_le_bytes()[..size].to_vec();
                image.extend_from_slice(&self.selector().to_le_bytes());
                self.lay_at_operand(case, insn, 1, &image);
            }
            M::Mov
                if insn.op0_register().is_segment_register()
                    && insn.op1_kind() == OpKind::Memory =>
            {
                let image = self.selector().to_le_bytes();
                self.lay_at_operand(case, insn, 1, &image);
            }
            M::Lar | M::Lsl | M::Verr | M::Verw => {
                let image = self.selector().to_le_bytes();
                self.lay_at_operand(case, insn, insn.op_count() - 1, &image);
            }
            M::Arpl => {
                let image = self.selector().to_le_bytes();
                self.lay_at_operand(case, insn, 0, &image);
            }
            M::Bound => self.bounds(case, insn),
            M::Ldmxcsr | M::Vldmxcsr => {
                let mut image = self.mxcsr();
                if self.random.one_in(8) {
                    // Reserved bits; bit 17 is AMD's.
                    image |= 1 << self.random.pick(&[16, 18, 24, 31]);
                }
                self.lay_at_operand(case, insn, 0, &image.to_le_bytes());
            }
            M::Fldcw => {
                let image = (self.random.next() as u16
                    | if self.random.one_in(2) { 0x3f } else { 0 })
                .to_le_bytes();
                self.lay_at_operand(case, insn, 0, &image);
            }
            M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64 => self.state_image(case, insn),
            M::Fldenv | M::Frstor => {
                let image: Vec<u8> = (0..108).map(|_| self.random.next() as u8).collect();
                self.lay_at_operand(case, insn, 0, &image);
            }
            _ => {}
        }
    }

    fn expected(&mut self, case: &mut Case, insn: &Instruction) {
        let size = insn.op1_register().size();
        let accumulator = [R::AL, R::AX, R::EAX, R::RAX][size.trailing_zeros() as usize];
        if insn.op0_kind() == OpKind::Register {
            set(case, accumulator, value(case, insn.op0_register()));
        } else {
            let image = value(case, accumulator).to_le_bytes();
            self.lay_at_operand(case, insn, 0, &image[..size]);
        }
    }

    fn lay_at_operand(&mut self, case: &mut Case, insn: &Instruction, n: u32, bytes: &[u8]) {
        if let Some(at) = linear(case, insn, n).and_then(layout::arena_offset) {
            case.lay(at, bytes);
        }
    }

    /// Lays words of the stack's operand size at the top of the stack.
    fn lay_on_stack(
        &mut self,
        case: &mut Case,
        insn: &Instruction,
        words: impl FnOnce(&mut Self, &Case) -> Vec<u64>,
    ) {
        let words = words(self, case);
        let Some(at) = Self::stack_top(case) else {
            return;
        };
        let size = stack_size(insn, case.bits);
        let image: Vec<u8> = words
            .iter()
            .flat_map(|w| w.to_le_bytes()[..size].to_vec())
            .collect();
        case.lay(at, &image);
    }

    fn branch_operand(&mut self, case: &mut Case, insn: &Instruction) {
        let size = insn.memory_size().size();
        let far = insn.is_jmp_far_indirect() || insn.is_call_far_indirect();
        let image = if far {
            let (selector, offset) = self.far_target(case.bits);
            let mut image = offset.to_le_bytes()[..size - 2].to_vec();
            image.extend_from_slice(&selector.to_le_bytes());
            image
        } else {
            self.target(case).to_le_bytes()[..size].to_vec()
        };
        self.lay_at_operand(case, insn, 0, &image);
    }

    fn bounds(&mut self, case: &mut Case, insn: &Instruction) {
        let register = insn.op0_register();
        let index = value(case, register);
        let mut near = || index.wrapping_add(self.random.below(5)).wrapping_sub(2);
        let (lower, upper) = (near().wrapping_sub(1), near().wrapping_add(1));
        let size = register.size();
        let mut image = lower.to_le_bytes()[..size].to_vec();
        image.extend_from_slice(&upper.to_le_bytes()[..size]);
        self.lay_at_operand(case, insn, 1, &image);
    }

    /// An FXSAVE image, with an XSAVE header.
    fn state_image(&mut self, case: &mut Case, insn: &Instruction) {
        let mut donor = Case::new(64, &[]);
        self.fpu(&mut donor);
        let mut mxcsr = self.mxcsr();
        let r = &mut self.random;
        if r.one_in(12) {
            mxcsr |= 1 << r.pick(&[16, 18, 24, 31]);
        }
        donor.fx.set_mxcsr(mxcsr);
        for n in 0..16 {
            let bytes = r.vector(crate::Lanes::Raw);
            donor.fx.xmm_mut(n).copy_from_slice(&bytes);
        }
        let mut image = donor.fx.0.to_vec();
        for byte in &mut image[416..512] {
            *byte = r.next() as u8;
        }
        image.extend_from_slice(&[0; 64]);
        image[512] = r.below(8) as u8;
        if r.one_in(8) {
            // XCOMP_BV or what is reserved; XSTATE_BV's other bits are components that the host may have.
            let at = 520 + r.below(56) as usize;
            image[at] = r.next() as u8;
        }
        image.extend((0..256).map(|_| r.next() as u8));
        self.lay_at_operand(case, insn, 0, &image);
    }

    /// Whether the case is of no use: it would not come back from the host (a branch to itself or into the way back),
    /// or it asks for state components that the guest lacks.
    pub(super) fn useless(&self, case: &Case, encoding: &Encoding) -> bool {
        let insn = &encoding.insn;
        let name = insn.mnemonic();
        let images = [
            M::Xsave,
            M::Xsavec,
            M::Xsaveopt,
            M::Xrstor,
            M::Xsave64,
            M::Xsavec64,
            M::Xsaveopt64,
            M::Xrstor64,
        ];
        if images.contains(&name)
            && (case.gpr[0] & 0xffff_fff8 != 0 || case.gpr[2] & 0xffff_ffff != 0)
        {
            return true;
        }
        let call = matches!(name, M::Call) && (insn.is_call_far() || insn.is_call_far_indirect());
        if call && case.bits != 64 && case.gpr[4] as u16 <= 64 {
            // AMD pushes with the new mode's stack pointer: beyond 4 GiB the host's kernel doesn't know what to do.
            return true;
        }
        let reads_code = |n| {
            linear(case, insn, n)
                .is_some_and(|lin| CODE.iter().any(|base| lin.wrapping_sub(*base) < CODE_LEN))
        };
        if insn.flow_control() != FlowControl::Next && (0..insn.op_count()).any(reads_code) {
            return true;
        }
        let read = |lin: Option<u64>, size: usize| {
            let mut bytes = [0; 8];
            case.peek(
                &self.template,
                layout::arena_offset(lin?)?,
                &mut bytes[..size.min(8)],
            );
            Some(u64::from_le_bytes(bytes))
        };
        let stack = || {
            let at = Self::stack_top(case)?;
            read(Some(ALIASES[3] + at as u64), stack_size(insn, case.bits))
        };
        let target = match insn.flow_control() {
            FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception => return false,
            FlowControl::Return => stack(),
            _ => match insn.op0_kind() {
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    Some(insn.near_branch_target())
                }
                OpKind::FarBranch16 => Some(insn.far_branch16().into()),
                OpKind::FarBranch32 => Some(insn.far_branch32().into()),
                OpKind::Register => Some(value(case, insn.op0_register())),
                OpKind::Memory => read(linear(case, insn, 0), insn.memory_size().size()),
                _ => None,
            },
        };
        let Some(target) = target else { return false };
        let start = case.code_offset();
        let window = start..start + u64::from(case.len) + EXIT_LEN;
        // As any code segment has it, and as truncated by an operand size.
        [target, target & 0xffff_ffff, target & 0xffff]
            .iter()
            .any(|t| {
                [0, CODE[0]].iter().any(|base| {
                    let lin = t.wrapping_add(*base);
                    CODE.iter().any(|region| {
                        let offset = lin.wrapping_sub(*region);
                        offset < CODE_LEN && window.contains(&offset)
                    })
                })
            })
    }
}

/// Bytes of a word that an instruction pops.
fn stack_size(insn: &Instruction, bits: u8) -> usize {
    let name = format!("{:?}", insn.code());
    match insn.mnemonic() {
        M::Ret if name.starts_with("Retnw") => 2,
        M::Ret if name.starts_with("Retnd") => 4,
        M::Ret => 8,
        M::Retf if name.starts_with("Retfw") => 2,
        M::Retf if name.starts_with("Retfd") => 4,
        M::Retf => 8,
        M::Iret | M::Popf | M::Popa => 2,
        M::Iretd | M::Popfd | M::Popad => 4,
        M::Iretq | M::Popfq => 8,
        _ => (insn.stack_pointer_increment().unsigned_abs() as usize)
            .clamp(2, 8)
            .min(usize::from(bits) / 8),
    }
}
