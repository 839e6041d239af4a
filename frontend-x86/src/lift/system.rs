//! System instructions: privilege and mode checked here where the mode decides, the rest done by helpers.

use iced_x86::{Code, Mnemonic, Register};
use ir::{HelperId, OpCode, Operand, Width};
use x86::{Gpr, Seg};

use super::operand::width_of;
use super::{Flow, GP0, Lift, Lifter, NM, UD};

const NONE: Operand = Operand::None;
const AX: Operand = Operand::Reg(Gpr::Rax);

impl Lifter<'_> {
    /// A helper without arguments but `a`.
    pub(super) fn plain(&mut self, helper: HelperId, a: i64, flow: Flow) -> Lift {
        self.b.call(helper, NONE, Operand::Imm(a), NONE, NONE);
        Ok(flow)
    }

    /// As `plain`, #GP(0) outside CPL 0.
    pub(super) fn plain_privileged(&mut self, helper: HelperId, flow: Flow) -> Lift {
        self.privileged()?;
        self.plain(helper, 0, flow)
    }

    /// MOV to and from control registers.
    pub(super) fn mov_control(&mut self) -> Lift {
        let write = self.insn.op0_register().is_cr();
        let (control, reg) = if write { (0, 1) } else { (1, 0) };
        let number = self.insn.op_register(control).number() as i64;
        if !(matches!(number, 0 | 2 | 3 | 4) || (number == 8 && self.mode.code64())) {
            return Err(UD);
        }
        self.privileged()?;
        self.move_special(write, reg, number, HelperId::ReadCr, HelperId::WriteCr)
    }

    /// MOV to and from debug registers. Whether DR4 and DR5 exist is CR4.DE's, and so the helper's, to say.
    pub(super) fn mov_debug(&mut self) -> Lift {
        let write = self.insn.op0_register().is_dr();
        let (control, reg) = if write { (0, 1) } else { (1, 0) };
        let number = self.insn.op_register(control).number() as i64;
        if number > 7 {
            return Err(UD);
        }
        self.privileged()?;
        self.move_special(write, reg, number, HelperId::ReadDr, HelperId::WriteDr)
    }

    fn move_special(
        &mut self,
        write: bool,
        n: u32,
        number: i64,
        get: HelperId,
        set: HelperId,
    ) -> Lift {
        let (w, reg, number) = (self.width(n), self.reg(n), Operand::Imm(number));
        if write {
            let value = self.zext(w, reg);
            self.b.call(set, NONE, number, value, NONE);
            Ok(Flow::Leave)
        } else {
            let value = self.b.temp();
            self.b.call(get, value, number, NONE, NONE);
            self.b.mov(w, reg, value);
            Ok(Flow::Next)
        }
    }

    pub(super) fn lmsw(&mut self) -> Lift {
        self.privileged()?;
        let value = self.read(0, Width::B16);
        let value = self.zext(Width::B16, value);
        self.b.call(HelperId::Lmsw, NONE, value, NONE, NONE);
        Ok(Flow::Leave)
    }

    /// INVLPG. Nothing is accessed: neither a segment's limit nor a non-canonical address is a fault.
    pub(super) fn invlpg(&mut self) -> Lift {
        self.privileged()?;
        let ea = self.ea();
        let offset = self.offset(ea);
        let mut address = self.zext(ea.mem.addr, offset);
        let code64 = self.mode.code64();
        if !code64 || matches!(ea.seg, Seg::Fs | Seg::Gs) {
            let (base, sum) = (self.b.temp(), self.b.temp());
            let seg = Operand::Imm(ea.seg as i64);
            self.b.call(HelperId::ReadSegBase, base, seg, NONE, NONE);
            self.b.quiet(OpCode::Add, Width::B64, sum, base, address);
            address = if code64 {
                sum
            } else {
                self.zext(Width::B32, sum)
            };
        }
        self.b.call(HelperId::Invlpg, NONE, address, NONE, NONE);
        Ok(Flow::Leave)
    }

    pub(super) fn invpcid(&mut self) -> Lift {
        self.privileged()?;
        let (w, kind) = (self.width(0), self.reg(0));
        let kind = self.zext(w, kind);
        let descriptor = self.linear_operand(16, false);
        self.b.call(HelperId::Invpcid, NONE, kind, descriptor, NONE);
        Ok(Flow::Leave)
    }

    /// SWAPGS: 64-bit mode only, which the decoder has seen to.
    pub(super) fn swapgs(&mut self) -> Lift {
        self.plain_privileged(HelperId::Swapgs, Flow::Next)
    }

    /// SYSRET: 64-bit mode only; SYSEXIT: protected mode; both CPL 0.
    pub(super) fn system_return(&mut self, helper: HelperId, bytes: i64) -> Lift {
        if helper == HelperId::Sysret && !self.mode.code64() {
            return Err(UD);
        }
        if self.mode.real() || self.mode.cpl() != 0 {
            return Err(GP0);
        }
        self.transfer(helper, bytes)
    }

    pub(super) fn sysenter(&mut self) -> Lift {
        if self.mode.real() {
            return Err(GP0);
        }
        self.transfer(HelperId::Sysenter, 0)
    }

    pub(super) fn rdpid(&mut self) -> Lift {
        let (dst, value) = (self.reg(0), self.b.temp());
        self.b.call(HelperId::Rdpid, value, NONE, NONE, NONE);
        self.b.mov(self.mode.ip(), dst, value);
        Ok(Flow::Next)
    }

    /// XGETBV, XSETBV: #UD without CR4.OSXSAVE.
    pub(super) fn extended_control(&mut self, write: bool) -> Lift {
        if !self.mode.osxsave() {
            return Err(UD);
        }
        if write {
            return self.plain_privileged(HelperId::Xsetbv, Flow::Leave);
        }
        self.plain(HelperId::Xgetbv, 0, Flow::Next)
    }

    /// RDPKRU, WRPKRU: #UD without CR4.PKE.
    pub(super) fn protection_keys(&mut self, helper: HelperId) -> Lift {
        if !self.mode.pke() {
            return Err(UD);
        }
        self.plain(helper, 0, Flow::Next)
    }

    /// MONITOR: the address is checked and translated as a load's.
    pub(super) fn monitor(&mut self) -> Lift {
        if self.mode.cpl() != 0 {
            return Err(UD);
        }
        let addr = match self.insn.code() {
            Code::Monitorw => Width::B16,
            Code::Monitord => Width::B32,
            _ => Width::B64,
        };
        let ea = self.simple(Gpr::Rax, 0, addr, self.data_segment(Register::None));
        let address = self.linear(ea, 1, false);
        self.b.call(HelperId::Monitor, NONE, address, NONE, NONE);
        Ok(Flow::Next)
    }

    pub(super) fn mwait(&mut self) -> Lift {
        if self.mode.cpl() != 0 {
            return Err(UD);
        }
        self.plain(HelperId::Mwait, 0, Flow::Leave)
    }

    /// A port number: DX or an immediate.
    fn port(&mut self, n: u32) -> Operand {
        if self.insn.op_register(n) == Register::DX
            && self.insn.op_kind(n) == iced_x86::OpKind::Register
        {
            self.zext(Width::B16, Operand::Reg(Gpr::Rdx))
        } else {
            Operand::Imm(i64::from(self.insn.immediate8()))
        }
    }

    pub(super) fn input(&mut self) -> Lift {
        let w = width_of(self.insn.op0_register().size());
        let (port, value) = (self.port(1), self.b.temp());
        self.b.call(
            HelperId::In,
            value,
            port,
            NONE,
            Self::size(w.bytes().into()),
        );
        self.b.mov(w, AX, value);
        Ok(Flow::Next)
    }

    pub(super) fn output(&mut self) -> Lift {
        let w = width_of(self.insn.op1_register().size());
        let port = self.port(0);
        let value = self.zext(w, AX);
        self.b.call(
            HelperId::Out,
            NONE,
            port,
            value,
            Self::size(w.bytes().into()),
        );
        Ok(Flow::Next)
    }

    /// LFENCE, SFENCE, MFENCE.
    pub(super) fn fence(&mut self) -> Lift {
        self.b.push(ir::Op::new(OpCode::Fence, Width::B64));
        Ok(Flow::Next)
    }

    /// FXSAVE, FXRSTOR: #NM by CR0.EM or CR0.TS.
    pub(super) fn fx_state(&mut self, helper: HelperId) -> Lift {
        if self.mode.em() || self.mode.ts() {
            return Err(NM);
        }
        let bytes = match self.insn.code() {
            Code::Fxsave64_m512byte | Code::Fxrstor64_m512byte => 8,
            _ => 4,
        };
        let address = self.linear_operand(512, helper == HelperId::Fxsave);
        self.b
            .call(helper, NONE, address, NONE, Operand::Imm(bytes));
        Ok(Flow::Next)
    }

    /// The XSAVE family: #UD without CR4.OSXSAVE, #NM by CR0.TS; XSAVES and XRSTORS at CPL 0.
    pub(super) fn extended_state(&mut self, helper: HelperId, variant: i64) -> Lift {
        if !self.mode.osxsave() {
            return Err(UD);
        }
        let supervisor = matches!(
            self.insn.mnemonic(),
            Mnemonic::Xsaves | Mnemonic::Xsaves64 | Mnemonic::Xrstors | Mnemonic::Xrstors64
        );
        if supervisor {
            self.privileged()?;
        }
        if self.mode.ts() {
            return Err(NM);
        }
        let bytes = match self.insn.mnemonic() {
            Mnemonic::Xsave64
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xsavec64
            | Mnemonic::Xsaves64
            | Mnemonic::Xrstor64
            | Mnemonic::Xrstors64 => 8,
            _ => 4,
        };
        // Legacy region and header; how much follows them only the helper knows.
        let address = self.linear_operand(576, helper == HelperId::Xsave);
        self.b.call(
            helper,
            NONE,
            address,
            Operand::Imm(variant),
            Operand::Imm(bytes),
        );
        Ok(Flow::Next)
    }
}
