//! RDTSC without Rust code: the stub that computes the guest's count from the host's, by the numbers of `system::ticks`.

use std::mem::offset_of;

use ir::Cond;
use ir::Width::{B8, B32, B64};
use system::Vcpu;
use system::ticks::Ticks;
use x86::{CpuState, Msrs};

use super::asm::{Alu, Asm, Mem, R11, R14, RAX, RDX, Rm, Shift};
use super::frame::Frame;
use super::runtime::under;

const MSR: usize = offset_of!(Vcpu, st) + offset_of!(CpuState, msr);
/// IA32_TSC_AUX in the vCPU.
pub const TSC_AUX: usize = MSR + offset_of!(Msrs, tsc_aux);

/// EDX:EAX = the count, CF clear; CF set where the numbers don't tell. r11, r14 lost; rax and rdx, too, in either case.
pub fn stub(a: &mut Asm) {
    let unknown = a.label();
    let number = |offset: usize| Rm::M(Mem::at(R14, offset as i32));
    a.load(B64, R14, Rm::M(under(8, offset_of!(Frame, ticks))));
    a.test(B64, Rm::R(R14), R14);
    a.jcc(Cond::E, unknown);
    a.load(B64, R11, number(offset_of!(Ticks, sequence)));
    a.test_imm(B8, Rm::R(R11), 1);
    a.jcc(Cond::Ne, unknown);
    a.raw(&[0x0f, 0x31]); // RDTSC
    a.shift_imm(Shift::Shl, B64, Rm::R(RDX), 32);
    a.alu(Alu::Or, B64, RAX, Rm::R(RDX));
    a.alu(Alu::Sub, B64, RAX, number(offset_of!(Ticks, base)));
    a.alu(Alu::Cmp, B64, RAX, number(offset_of!(Ticks, window)));
    a.jcc(Cond::Ae, unknown);
    a.group3(B64, 4, number(offset_of!(Ticks, rate))); // MUL
    a.shift_double(true, B64, Rm::R(RAX), RDX, 32);
    a.alu(Alu::Add, B64, RAX, number(offset_of!(Ticks, nanos)));
    a.alu(Alu::Cmp, B64, R11, number(offset_of!(Ticks, sequence)));
    a.jcc(Cond::Ne, unknown);
    a.load(B64, R14, Rm::M(under(8, offset_of!(Frame, vcpu))));
    a.alu(
        Alu::Add,
        B64,
        RAX,
        number(MSR + offset_of!(Msrs, tsc_offset)),
    );
    a.load(B64, RDX, Rm::R(RAX));
    a.shift_imm(Shift::Shr, B64, Rm::R(RDX), 32);
    a.load(B32, RAX, Rm::R(RAX));
    a.byte(0xf8); // CLC
    a.ret();
    a.bind(unknown);
    a.byte(0xf9); // STC
    a.ret();
}
