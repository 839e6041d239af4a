//! The dispatch: one row a mnemonic, each naming the function that states its meaning.

use iced_x86::{Code, Mnemonic as M};
use ir::{Cond, HelperId as H, OpCode as O, StringKind, Width};
use x86::{Seg, vector as exception};

use super::{Flow, Lift, Lifter, UD, vector, x87};

impl Lifter<'_> {
    /// Appends the meaning of the instruction in hand.
    pub(super) fn instruction(&mut self) -> Lift {
        match self.insn.mnemonic() {
            // Moves.
            M::Mov => self.mov(),
            M::Movnti => self.move_integer(),
            M::Movzx => self.extend(O::Zext),
            M::Movsx | M::Movsxd => self.extend(O::Sext),
            M::Cbw => self.widen_ax(Width::B16, Width::B8),
            M::Cwde => self.widen_ax(Width::B32, Width::B16),
            M::Cdqe => self.widen_ax(Width::B64, Width::B32),
            M::Cwd => self.sign_to_dx(Width::B16),
            M::Cdq => self.sign_to_dx(Width::B32),
            M::Cqo => self.sign_to_dx(Width::B64),
            M::Lea => self.lea(),
            M::Xchg => self.xchg(),
            M::Xadd => self.xadd(),
            M::Cmpxchg => self.cmpxchg(),
            M::Cmpxchg8b => self.cmpxchg_pair(Width::B32),
            M::Cmpxchg16b => self.cmpxchg_pair(Width::B64),
            M::Bswap => self.bswap(),
            M::Movbe => self.movbe(),
            M::Xlatb => self.xlat(),
            M::Cmova
            | M::Cmovae
            | M::Cmovb
            | M::Cmovbe
            | M::Cmove
            | M::Cmovg
            | M::Cmovge
            | M::Cmovl
            | M::Cmovle
            | M::Cmovne
            | M::Cmovno
            | M::Cmovnp
            | M::Cmovns
            | M::Cmovo
            | M::Cmovp
            | M::Cmovs => self.cmov(),
            M::Seta
            | M::Setae
            | M::Setb
            | M::Setbe
            | M::Sete
            | M::Setg
            | M::Setge
            | M::Setl
            | M::Setle
            | M::Setne
            | M::Setno
            | M::Setnp
            | M::Setns
            | M::Seto
            | M::Setp
            | M::Sets => self.setcc(),

            // Arithmetic and logic.
            M::Add => self.binary(O::Add),
            M::Adc => self.binary(O::Adc),
            M::Sub => self.binary(O::Sub),
            M::Sbb => self.binary(O::Sbb),
            M::And => self.binary(O::And),
            M::Or => self.binary(O::Or),
            M::Xor => self.binary(O::Xor),
            M::Adcx => self.binary(O::Adcx),
            M::Adox => self.binary(O::Adox),
            M::Cmp => self.compare(O::Sub),
            M::Test => self.compare(O::And),
            M::Inc => self.unary(O::Inc),
            M::Dec => self.unary(O::Dec),
            M::Neg => self.unary(O::Neg),
            M::Not => self.unary(O::Not),
            M::Mul => self.multiply(O::MulU),
            M::Imul => self.imul(),
            M::Mulx => self.mulx(),
            M::Div => self.divide(O::DivU),
            M::Idiv => self.divide(O::DivS),
            M::Aaa => self.decimal(0),
            M::Aas => self.decimal(1),
            M::Daa => self.decimal(2),
            M::Das => self.decimal(3),
            M::Aam => self.decimal(4),
            M::Aad => self.decimal(5),

            // Shifts and rotates.
            M::Shl | M::Sal => self.binary(O::Shl),
            M::Shr => self.binary(O::Shr),
            M::Sar => self.binary(O::Sar),
            M::Rol => self.binary(O::Rol),
            M::Ror => self.binary(O::Ror),
            M::Rcl => self.binary(O::Rcl),
            M::Rcr => self.binary(O::Rcr),
            M::Shld => self.double_shift(O::Shld),
            M::Shrd => self.double_shift(O::Shrd),
            M::Shlx => self.quiet_shift(O::Shl),
            M::Shrx => self.quiet_shift(O::Shr),
            M::Sarx => self.quiet_shift(O::Sar),
            M::Rorx => self.quiet_shift(O::Ror),

            // Bits.
            M::Bt => self.bit_test(O::Bt),
            M::Bts => self.bit_test(O::Bts),
            M::Btr => self.bit_test(O::Btr),
            M::Btc => self.bit_test(O::Btc),
            M::Bsf => self.scan(O::Bsf),
            M::Bsr => self.scan(O::Bsr),
            M::Tzcnt => self.count(O::Tzcnt),
            M::Lzcnt => self.count(O::Lzcnt),
            M::Popcnt => self.count(O::Popcnt),
            M::Blsi => self.count(O::Blsi),
            M::Blsmsk => self.count(O::Blsmsk),
            M::Blsr => self.count(O::Blsr),
            M::Andn => self.three(O::Andn),
            M::Bextr => self.three(O::Bextr),
            M::Bzhi => self.three(O::Bzhi),
            M::Pdep => self.three(O::Pdep),
            M::Pext => self.three(O::Pext),
            M::Crc32 => self.crc32(),
            M::Rdrand => self.random(0),
            M::Rdseed => self.random(1),

            // Flags.
            M::Clc => self.set_carry(false),
            M::Stc => self.set_carry(true),
            M::Cmc => self.cmc(),
            M::Cld => self.set_direction(false),
            M::Std => self.set_direction(true),
            M::Lahf => self.lahf(),
            M::Sahf => self.sahf(),
            M::Salc => self.salc(),
            M::Cli => self.cli(),
            M::Sti => self.sti(),
            M::Clac => self.set_ac(false),
            M::Stac => self.set_ac(true),

            // Stack.
            M::Push => self.push(),
            M::Pop => self.pop(),
            M::Pushf | M::Pushfd | M::Pushfq => self.pushf(),
            M::Popf | M::Popfd | M::Popfq => self.popf(),
            M::Pusha | M::Pushad => self.all_registers(H::Pusha),
            M::Popa | M::Popad => self.all_registers(H::Popa),
            M::Enter => self.enter(),
            M::Leave => self.leave(),

            // Control.
            M::Jmp => self.jmp(),
            M::Call => self.call(),
            M::Ret => self.ret(),
            M::Retf => self.retf(),
            M::Ja
            | M::Jae
            | M::Jb
            | M::Jbe
            | M::Je
            | M::Jg
            | M::Jge
            | M::Jl
            | M::Jle
            | M::Jne
            | M::Jno
            | M::Jnp
            | M::Jns
            | M::Jo
            | M::Jp
            | M::Js => self.jcc(),
            M::Loop => self.loop_(None),
            M::Loope => self.loop_(Some(Cond::E)),
            M::Loopne => self.loop_(Some(Cond::Ne)),
            M::Jcxz | M::Jecxz | M::Jrcxz => self.jcxz(),
            M::Int => self.soft_int(self.insn.immediate8(), 0),
            M::Int3 => self.soft_int(exception::BP, 1),
            M::Int1 => self.soft_int(exception::DB, 2),
            M::Into => self.into(),
            M::Iret => self.transfer(H::Iret, 2),
            M::Iretd => self.transfer(H::Iret, 4),
            M::Iretq => self.transfer(H::Iret, 8),
            M::Syscall => self.syscall(),
            M::Sysret => self.system_return(H::Sysret, 4),
            M::Sysretq => self.system_return(H::Sysret, 8),
            M::Sysenter => self.sysenter(),
            M::Sysexit => self.system_return(H::Sysexit, 4),
            M::Sysexitq => self.system_return(H::Sysexit, 8),
            M::Ud0 | M::Ud1 | M::Ud2 => Err(UD),

            // Strings. MOVSD and CMPSD are also SSE2's.
            M::Movsb | M::Movsw | M::Movsq => self.string(StringKind::Movs),
            M::Movsd if self.insn.code() == Code::Movsd_m32_m32 => self.string(StringKind::Movs),
            M::Cmpsb | M::Cmpsw | M::Cmpsq => self.string(StringKind::Cmps),
            M::Cmpsd if self.insn.code() == Code::Cmpsd_m32_m32 => self.string(StringKind::Cmps),
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => self.string(StringKind::Stos),
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => self.string(StringKind::Lods),
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => self.string(StringKind::Scas),
            M::Insb | M::Insw | M::Insd => self.string(StringKind::Ins),
            M::Outsb | M::Outsw | M::Outsd => self.string(StringKind::Outs),

            // Segments and descriptor tables.
            M::Lds => self.load_far(Seg::Ds),
            M::Les => self.load_far(Seg::Es),
            M::Lfs => self.load_far(Seg::Fs),
            M::Lgs => self.load_far(Seg::Gs),
            M::Lss => self.load_far(Seg::Ss),
            M::Lgdt => self.load_table(H::Lgdt),
            M::Lidt => self.load_table(H::Lidt),
            M::Sgdt => self.store_table(H::Sgdt),
            M::Sidt => self.store_table(H::Sidt),
            M::Lldt => self.load_system(H::Lldt),
            M::Ltr => self.load_system(H::Ltr),
            M::Sldt => self.store_system(H::Sldt),
            M::Str => self.store_system(H::Str),
            M::Smsw => self.store_system(H::Smsw),
            M::Lmsw => self.lmsw(),
            M::Lar => self.look(H::Lar),
            M::Lsl => self.look(H::Lsl),
            M::Verr => self.verify(0),
            M::Verw => self.verify(1),
            M::Arpl => self.arpl(),
            M::Bound => self.bound(),
            M::Rdfsbase => self.segment_base(Seg::Fs, false),
            M::Rdgsbase => self.segment_base(Seg::Gs, false),
            M::Wrfsbase => self.segment_base(Seg::Fs, true),
            M::Wrgsbase => self.segment_base(Seg::Gs, true),
            M::Swapgs => self.swapgs(),

            // System. Those that serialise end the block, so that code another CPU changed is seen.
            M::Clts => self.plain_privileged(H::Clts, Flow::Leave),
            M::Cpuid => self.plain(H::Cpuid, 0, Flow::Leave),
            M::Rdmsr => self.plain_privileged(H::Rdmsr, Flow::Next),
            M::Wrmsr => self.plain_privileged(H::Wrmsr, Flow::Leave),
            M::Rdtsc => self.plain(H::Rdtsc, 0, Flow::Next),
            M::Rdtscp => self.plain(H::Rdtsc, 1, Flow::Next),
            M::Rdpmc => self.plain(H::Rdpmc, 0, Flow::Next),
            M::Rdpid => self.rdpid(),
            M::Xgetbv => self.extended_control(false),
            M::Xsetbv => self.extended_control(true),
            M::Rdpkru => self.protection_keys(H::Rdpkru),
            M::Wrpkru => self.protection_keys(H::Wrpkru),
            M::Invlpg => self.invlpg(),
            M::Invpcid => self.invpcid(),
            M::Invd | M::Wbinvd | M::Wbnoinvd => self.plain_privileged(H::Wbinvd, Flow::Leave),
            M::Hlt => self.plain_privileged(H::Hlt, Flow::Leave),
            M::Monitor => self.monitor(),
            M::Mwait => self.mwait(),
            M::In => self.input(),
            M::Out => self.output(),

            // Order and caches.
            M::Lfence | M::Sfence | M::Mfence => self.fence(),
            M::Clflush | M::Clflushopt | M::Clwb => self.touch(),
            M::Nop => self.nop(),
            // Prefetches are these for the decoder.
            M::Reservednop => self.prefetch(),

            // State images, and what else of vectors and x87 is not one op.
            M::Fxsave | M::Fxsave64 => self.fx_state(H::Fxsave),
            M::Fxrstor | M::Fxrstor64 => self.fx_state(H::Fxrstor),
            M::Xsave | M::Xsave64 => self.extended_state(H::Xsave, 0),
            M::Xsaveopt | M::Xsaveopt64 => self.extended_state(H::Xsave, 1),
            M::Xsavec | M::Xsavec64 => self.extended_state(H::Xsave, 2),
            M::Xsaves | M::Xsaves64 => self.extended_state(H::Xsave, 3),
            M::Xrstor | M::Xrstor64 => self.extended_state(H::Xrstor, 0),
            M::Xrstors | M::Xrstors64 => self.extended_state(H::Xrstor, 1),
            M::Ldmxcsr | M::Vldmxcsr => self.ldmxcsr(),
            M::Stmxcsr | M::Vstmxcsr => self.stmxcsr(),
            M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => self.mask_mov(),
            M::Vmaskmovps | M::Vpmaskmovd => self.mask_elements(Width::B32),
            M::Vmaskmovpd | M::Vpmaskmovq => self.mask_elements(Width::B64),
            M::Vgatherdps | M::Vpgatherdd => self.gather(Width::B32, Width::B32),
            M::Vgatherdpd | M::Vpgatherdq => self.gather(Width::B64, Width::B32),
            M::Vgatherqps | M::Vpgatherqd => self.gather(Width::B32, Width::B64),
            M::Vgatherqpd | M::Vpgatherqq => self.gather(Width::B64, Width::B64),
            M::Vscatterdps | M::Vpscatterdd => self.masked_elements(Width::B32, Width::B32, true),
            M::Vscatterdpd | M::Vpscatterdq => self.masked_elements(Width::B64, Width::B32, true),
            M::Vscatterqps | M::Vpscatterqd => self.masked_elements(Width::B32, Width::B64, true),
            M::Vscatterqpd | M::Vpscatterqq => self.masked_elements(Width::B64, Width::B64, true),
            M::Vzeroupper | M::Vzeroall => self.zero_uppers(),
            M::Emms => self.emms(),
            M::Wait => self.wait(),

            _ if x87::is_x87(self.insn.code()) => self.x87(),
            _ if vector::is_vector(&self.insn) => self.vector(),
            _ => Err(UD),
        }
    }
}
