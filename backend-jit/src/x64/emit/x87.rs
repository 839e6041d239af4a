//! x87 instructions pass through, too: the guest's register stack is the host's.
//!
//! It is *live* there from the first such instruction on, across blocks and calls of Rust code, which has no use for the
//! x87, until somebody wants to see it in the context ([`crate::x87`]). A block looks once whether it is. All of it is
//! for code with all exceptions masked: none is ever pending on the host.

use std::mem::offset_of;

use iced_x86::{Code, OpCodeOperandKind as K};
use ir::{HelperId, Op, OpCode, Operand, VecInsn, Width};
use x86::Gpr;

use super::{Emit, Kind, reads};
use crate::x64::asm::{Alu, Asm, Mem, RSP, Rm, Section};
use crate::x64::flags::State;
use crate::x64::frame::{Frame, S1, field};

/// What an instruction is to the translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// It has no memory operand, and has nothing to do with flags.
    Register,
    /// FCMOVcc: reads flags.
    Move,
    /// FCOMI and its like: writes flags.
    Compare,
    /// FNSTSW AX.
    StatusToAx,
    /// It reads memory.
    Load,
    /// FLDCW.
    LoadControl,
    /// It writes memory.
    Store,
}

/// The instructions that are copied. Those that the interpreter computes by series of its own are not among them, nor
/// those that hand out the pointers of the last instruction.
fn form(code: Code) -> Option<Form> {
    use Code as C;
    Some(match code {
        C::Fadd_st0_sti
        | C::Fmul_st0_sti
        | C::Fsub_st0_sti
        | C::Fsubr_st0_sti
        | C::Fdiv_st0_sti
        | C::Fdivr_st0_sti
        | C::Fadd_sti_st0
        | C::Fmul_sti_st0
        | C::Fsub_sti_st0
        | C::Fsubr_sti_st0
        | C::Fdiv_sti_st0
        | C::Fdivr_sti_st0
        | C::Faddp_sti_st0
        | C::Fmulp_sti_st0
        | C::Fsubp_sti_st0
        | C::Fsubrp_sti_st0
        | C::Fdivp_sti_st0
        | C::Fdivrp_sti_st0
        | C::Fcom_st0_sti
        | C::Fcom_st0_sti_DCD0
        | C::Fcomp_st0_sti
        | C::Fcomp_st0_sti_DCD8
        | C::Fcomp_st0_sti_DED0
        | C::Fcompp
        | C::Fucom_st0_sti
        | C::Fucomp_st0_sti
        | C::Fucompp
        | C::Ftst
        | C::Fxam
        | C::Fsqrt
        | C::Frndint
        | C::Fscale
        | C::Fxtract
        | C::Fprem
        | C::Fprem1
        | C::Fchs
        | C::Fabs
        | C::Fld_sti
        | C::Fst_sti
        | C::Fstp_sti
        | C::Fstp_sti_DFD0
        | C::Fstp_sti_DFD8
        | C::Fxch_st0_sti
        | C::Fxch_st0_sti_DDC8
        | C::Fxch_st0_sti_DFC8
        | C::Fld1
        | C::Fldz
        | C::Fldl2t
        | C::Fldl2e
        | C::Fldpi
        | C::Fldlg2
        | C::Fldln2
        | C::Fincstp
        | C::Fdecstp
        | C::Ffree_sti
        | C::Ffreep_sti
        | C::Fnop
        | C::Fnclex => Form::Register,
        C::Fcmovb_st0_sti
        | C::Fcmovnb_st0_sti
        | C::Fcmove_st0_sti
        | C::Fcmovne_st0_sti
        | C::Fcmovbe_st0_sti
        | C::Fcmovnbe_st0_sti
        | C::Fcmovu_st0_sti
        | C::Fcmovnu_st0_sti => Form::Move,
        C::Fcomi_st0_sti | C::Fcomip_st0_sti | C::Fucomi_st0_sti | C::Fucomip_st0_sti => {
            Form::Compare
        }
        C::Fnstsw_AX => Form::StatusToAx,
        C::Fadd_m32fp
        | C::Fmul_m32fp
        | C::Fsub_m32fp
        | C::Fsubr_m32fp
        | C::Fdiv_m32fp
        | C::Fdivr_m32fp
        | C::Fadd_m64fp
        | C::Fmul_m64fp
        | C::Fsub_m64fp
        | C::Fsubr_m64fp
        | C::Fdiv_m64fp
        | C::Fdivr_m64fp
        | C::Fiadd_m16int
        | C::Fimul_m16int
        | C::Fisub_m16int
        | C::Fisubr_m16int
        | C::Fidiv_m16int
        | C::Fidivr_m16int
        | C::Fiadd_m32int
        | C::Fimul_m32int
        | C::Fisub_m32int
        | C::Fisubr_m32int
        | C::Fidiv_m32int
        | C::Fidivr_m32int
        | C::Fcom_m32fp
        | C::Fcomp_m32fp
        | C::Fcom_m64fp
        | C::Fcomp_m64fp
        | C::Ficom_m16int
        | C::Ficomp_m16int
        | C::Ficom_m32int
        | C::Ficomp_m32int
        | C::Fld_m32fp
        | C::Fld_m64fp
        | C::Fld_m80fp
        | C::Fild_m16int
        | C::Fild_m32int
        | C::Fild_m64int => Form::Load,
        C::Fldcw_m2byte => Form::LoadControl,
        C::Fst_m32fp
        | C::Fstp_m32fp
        | C::Fst_m64fp
        | C::Fstp_m64fp
        | C::Fstp_m80fp
        | C::Fist_m16int
        | C::Fistp_m16int
        | C::Fist_m32int
        | C::Fistp_m32int
        | C::Fistp_m64int
        | C::Fisttp_m16int
        | C::Fisttp_m32int
        | C::Fisttp_m64int
        | C::Fnstcw_m2byte
        | C::Fnstsw_m2byte => Form::Store,
        _ => return None,
    })
}

/// Emits an instruction, for stack register `i` or a memory operand.
fn encode(a: &mut Asm, code: Code, i: u8, memory: Mem) {
    let info = code.op_code();
    let opcode = info.op_code();
    if info.op_code_len() == 2 {
        return a.raw(&[(opcode >> 8) as u8, opcode as u8 + i]);
    }
    let group = info.group_index().max(0) as u8;
    a.x87(opcode as u8, group, memory);
}

/// Whether interpreting some ops may look at x87 or MMX registers, or change them.
pub(super) fn concerns_x87(ops: &[Op]) -> bool {
    use HelperId as H;
    let helpers = [
        H::FpuCheck,
        H::Fxsave,
        H::Fxrstor,
        H::Xsave,
        H::Xrstor,
        H::Fnstenv,
        H::Fldenv,
        H::Fnsave,
        H::Frstor,
        H::MaskMov,
        H::Emms,
    ];
    ops.iter().any(|op| match op.code {
        OpCode::X87 => true,
        OpCode::Call => helpers.iter().any(|h| *h as u32 == op.sub),
        OpCode::Vec => VecInsn::decode(op.sub).is_none_or(|VecInsn { code, .. }| {
            let info = code.op_code();
            (0..info.op_count())
                .any(|n| matches!(info.op_kind(n), K::mm_or_mem | K::mm_reg | K::mm_rm))
        }),
        _ => [op.dst, op.dst2, op.a, op.b, op.c]
            .iter()
            .any(|o| matches!(o, Operand::Mmx(_))),
    })
}

impl Emit<'_> {
    /// FWAIT, and the look for pending exceptions before other instructions: there are none.
    pub(super) fn wait(&self, op: &Op) -> Option<()> {
        (op.sub == HelperId::FpuCheck as u32 && self.cx.host_x87).then_some(())
    }

    /// An instruction with an x87 op at `at`.
    pub(super) fn x87(&mut self, from: usize, to: usize, at: usize) -> Option<()> {
        if !self.cx.host_x87 {
            return None;
        }
        let op = self.ops[at];
        let code = Code::try_from(op.sub as usize).ok()?;
        let form = form(code)?;
        let memory = matches!(form, Form::Load | Form::LoadControl | Form::Store);
        // Brought in line with the way in the cold section.
        if form == Form::LoadControl {
            self.at = from;
            self.spill();
            self.hf = false;
        }
        self.at = from;
        self.x87_live();
        let data_pointer = self.data_pointer(from, at);
        let mut n = from;
        while n < at {
            let before = self.ops[n];
            let skip = match before.code {
                OpCode::Insn => true,
                OpCode::Lea | OpCode::Zext | OpCode::Mov => data_pointer.contains(&n),
                // The access itself is the probe.
                OpCode::ProbeWrite => form == Form::Store,
                OpCode::VecLoad => memory && n + 1 == at && before.dst == op.a,
                _ => false,
            };
            let mut done = 1;
            if !skip {
                self.at = n;
                done = self.op(n, at)?;
                if done != 1 && before.code != OpCode::Lea {
                    return None;
                }
            }
            n += done;
        }
        self.at = at;
        let mut next = at + 1;
        match form {
            Form::Load | Form::LoadControl => {
                let load = self.ops[at - 1];
                let (OpCode::VecLoad, Operand::Imm(size)) = (load.code, load.a) else {
                    return None;
                };
                self.at = at - 1;
                let size = u32::try_from(size).ok()?;
                self.access(&load.mem?, size, false, Kind::default())?;
                self.at = at;
                if form == Form::LoadControl {
                    self.load_control(from, at + 1)?;
                } else {
                    self.copy(code, 0);
                }
            }
            Form::Store => {
                let store = self.ops.get(next).filter(|_| next < to).copied()?;
                let Operand::Imm(size) = store.b else {
                    return None;
                };
                if store.code != OpCode::VecStore || store.a != op.dst {
                    return None;
                }
                next += 1;
                let size = u32::try_from(size).ok()?;
                self.writing(&store.mem?, size, Kind::default(), |e| {
                    e.copy(code, 0);
                    Some(())
                })?;
            }
            Form::Register | Form::Move | Form::Compare | Form::StatusToAx => {
                let i = match op.a {
                    Operand::Imm(i) => (i & 7) as u8,
                    _ => 0,
                };
                match form {
                    Form::Move => self.host_flags(),
                    Form::Compare if op.flags.is_empty() => self.clobber(),
                    // All of them are written.
                    Form::Compare => self.state = State::Memory,
                    Form::StatusToAx => self.preserve(Operand::Reg(Gpr::Rax)),
                    _ => {}
                }
                self.copy(code, i);
                if form == Form::Compare {
                    self.flags_set(&op, None);
                }
            }
        }
        // A jump, where the block ends here.
        while next < to {
            self.at = next;
            next += self.op(next, to)?;
        }
        Some(())
    }

    fn copy(&mut self, code: Code, i: u8) {
        encode(self.a, code, i, self.here);
    }

    /// Makes sure that the registers are live. r14, r11 and the host's flags may be lost.
    fn x87_live(&mut self) {
        if std::mem::replace(&mut self.x87_live, true) {
            return;
        }
        self.live(offset_of!(Frame, x87_live), self.stubs.x87);
    }

    /// Has the stub `load` bring registers into the host's unless the frame's word at `live` says that they are there.
    /// r14, r11 and the host's flags may be lost.
    pub(super) fn live(&mut self, live: usize, load: u32) {
        self.clobber();
        self.a.alu_imm(Alu::Cmp, Width::B32, Rm::M(field(live)), 0);
        let (dead, done) = (self.a.label(), self.a.label());
        self.a.jcc(ir::Cond::E, dead);
        self.a.bind(done);
        let old = self.a.section(Section::Cold);
        self.a.bind(dead);
        self.a.call(load);
        self.a.jmp(done);
        self.a.section(old);
    }

    /// The ops before the x87 op at `at`, the last one first, that only make its data pointer, which is not kept.
    fn data_pointer(&self, from: usize, at: usize) -> Vec<usize> {
        // Looks at temporaries that don't count.
        let mut idle = Vec::new();
        let mut skipped = Vec::new();
        if let Operand::Temp(t) = self.ops[at].b {
            idle.push(t);
        }
        for n in (from..at).rev() {
            let op = &self.ops[n];
            let (OpCode::Lea | OpCode::Zext | OpCode::Mov, Operand::Temp(t)) = (op.code, op.dst)
            else {
                continue;
            };
            let inputs: Vec<_> = reads(op).iter().filter_map(|r| r.temp()).collect();
            let looks = idle.iter().chain(&inputs).filter(|u| **u == t).count();
            if looks != 0 && usize::from(self.uses[usize::from(t.0)]) == looks {
                skipped.push(n);
                idle.extend(inputs);
            }
        }
        skipped
    }

    /// FLDCW of the word that was found, and the instruction by the interpreter where it unmasks something.
    fn load_control(&mut self, from: usize, to: usize) -> Option<()> {
        // By a copy, since memory may change in between.
        let word = offset_of!(Frame, x87_image) as i32;
        self.a.movzx(Width::B16, S1, Rm::M(self.here));
        self.a.store(Width::B32, Mem::at(RSP, word), S1);
        self.a.group3(Width::B32, 2, Rm::R(S1));
        self.a.test_imm(Width::B32, Rm::R(S1), 0x3f);
        let (unmasks, done) = (self.a.label(), self.a.label());
        self.a.jcc(ir::Cond::Ne, unmasks);
        // FLDCW [rsp + disp32].
        self.a.raw(&[0xd9, 0xac, 0x24]);
        self.a.raw(&word.to_le_bytes());
        self.a.bind(done);
        let old = self.a.section(Section::Cold);
        self.a.bind(unmasks);
        self.slow_op(from, to).ok()?;
        // It comes back here only if nothing is unmasked after all.
        self.a.call(self.stubs.x87);
        self.x87_live = true;
        self.a.jmp(done);
        self.a.section(old);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Form, encode, form};
    use crate::x64::asm::{Asm, Mem};
    use crate::x64::emit::{Context, Parts, emit};
    use crate::x64::frame::S0;
    use crate::x64::runtime::Stubs;
    use frontend_x86::{Features, Limits, Mode};
    use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpCodeOperandKind, Register};

    /// The inner loop of an n-body simulation, as a compiler for 32-bit code makes it.
    const LOOP: &[u8] = &[
        0xdd, 0x47, 0xc8, 0xdc, 0x26, 0xdd, 0x47, 0xd0, 0xdc, 0x66, 0x08, 0xd9, 0xc2, 0xd8, 0xcb,
        0xde, 0xc1, 0xd9, 0xee, 0xdf, 0xe9, 0xdb, 0xc1, 0xd9, 0xfa, 0xdd, 0x54, 0x24, 0x08, 0xdb,
        0x7f, 0xe0, 0xd9, 0x6c, 0x24, 0x10, 0x9b, 0xdd, 0x5e, 0xf0, 0xdf, 0xe0, 0x39, 0xf0, 0x75,
        0xd0,
    ];

    #[test]
    fn nothing_of_a_loop_is_left_to_the_interpreter() {
        for host_x87 in [true, false] {
            let mode = Mode::flat32();
            let limits = Limits {
                max_insns: 64,
                page: 4096,
                branches: 0,
            };
            let mut block = frontend_x86::lift(LOOP, &limits, mode, &Features::v3_plus()).block;
            ir::opt::run(&mut block, ir::opt::Switches::ALL);
            let mut asm = Asm::default();
            let context = Context {
                window: None,
                mode,
                key: 0,
                ip: 0x8000,
                cs: None,
                flags: None,
                count: false,
                id: 0,
                first: [0; 3],
                guards: [None; 2],
                host_float: true,
                host_x87,
                merge: true,
                by: crate::hops::By::Page,
                check: None,
                parts: &[],
            };
            let made = emit(
                &mut asm,
                &Stubs::default(),
                &block,
                context,
                Parts::default(),
            );
            let Ok(made) = made else {
                panic!("it is suitable");
            };
            let (hot, _) = asm.link(0, 0x10000);
            let code: Vec<_> = Decoder::new(64, hot, DecoderOptions::NONE)
                .into_iter()
                .collect();
            // Nor is the data pointer made for nothing.
            let mut instructions = code.iter();
            let sixth = instructions.nth(6).map(|i| i.mnemonic());
            assert_eq!(sixth == Some(Mnemonic::Lea), host_x87);
            let flags = std::mem::offset_of!(crate::x64::frame::Frame, flags)
                + std::mem::offset_of!(system::LazyFlags, a);
            let places = std::mem::offset_of!(crate::x64::frame::Frame, addends);
            let places = places..places + 16 * 8;
            let stores = code
                .iter()
                .filter(|i| i.code() == Code::Mov_rm64_r64)
                // But for the flags, which are saved before the first access, and places that a check has found.
                .filter(|i| i.memory_displacement64() != flags as u64)
                .filter(|i| !places.contains(&(i.memory_displacement64() as usize)))
                .count();
            assert_eq!(stores, 0);
            // FLDCW has a way for what unmasks exceptions.
            let (slow, own) = if host_x87 { (1, 16) } else { (17, 0) };
            assert_eq!(made.slow.len(), slow);
            let x87 = |m: Mnemonic| format!("{m:?}").starts_with('F');
            let copied = code.iter().filter(|i| x87(i.mnemonic())).count();
            assert_eq!(copied, own);
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_as_the_same() {
        let mut seen = 0;
        for code in Code::values() {
            let Some(form) = form(code) else { continue };
            seen += 1;
            let info = code.op_code();
            let indexed =
                (0..info.op_count()).any(|n| info.op_kind(n) == OpCodeOperandKind::sti_opcode);
            for i in 0..if indexed { 8 } else { 1 } {
                let mut a = Asm::default();
                encode(&mut a, code, i, Mem::at(S0, 0));
                let bytes = a.link(0, 0).0;
                let len = bytes.len();
                let got = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
                assert_eq!((got.code(), got.len()), (code, len));
                let memory = matches!(form, Form::Load | Form::LoadControl | Form::Store);
                if memory {
                    assert_eq!(got.memory_base(), Register::R14);
                    assert_eq!(got.memory_displacement64(), 0);
                } else if indexed {
                    let named = (0..got.op_count())
                        .find(|&n| info.op_kind(n) == OpCodeOperandKind::sti_opcode)
                        .map(|n| got.op_register(n).number());
                    assert_eq!(named, Some(usize::from(i)));
                }
            }
        }
        assert!(seen > 120, "{seen}");
    }
}
