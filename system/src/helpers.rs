//! The table of helpers that IR may call: every [`HelperId`] and the function behind it.

use ir::HelperId;
use x86::Exception;

use crate::{Vcpu, control, delivery, far, fpu, images, misc, msr, ports, segments};

/// A helper: the op's a, b, c in (zero when absent), the op's dst out. When it raises an exception it has changed
/// nothing that the guest sees, but for what the manual lets an instruction commit before its fault.
pub type Helper = fn(&mut Vcpu, u64, u64, u64) -> Result<u64, Exception>;

/// The function behind a helper's name.
pub fn helper(id: HelperId) -> Helper {
    match id {
        HelperId::FarJump => far::far_jump,
        HelperId::FarCall => far::far_call,
        HelperId::FarRet => far::far_ret,
        HelperId::Iret => far::iret,
        HelperId::SoftInt => delivery::soft_int,
        HelperId::Syscall => far::syscall,
        HelperId::Sysret => far::sysret,
        HelperId::Sysenter => far::sysenter,
        HelperId::Sysexit => far::sysexit,

        HelperId::LoadSeg => segments::load_seg,
        HelperId::ReadSeg => segments::read_seg,
        HelperId::Lgdt => control::lgdt,
        HelperId::Lidt => control::lidt,
        HelperId::Lldt => segments::lldt,
        HelperId::Ltr => segments::ltr,
        HelperId::Sgdt => control::sgdt,
        HelperId::Sidt => control::sidt,
        HelperId::Sldt => segments::sldt,
        HelperId::Str => segments::str,
        HelperId::Smsw => control::smsw,
        HelperId::Lmsw => control::lmsw,
        HelperId::Lar => segments::lar,
        HelperId::Lsl => segments::lsl,
        HelperId::Verify => segments::verify,
        HelperId::Arpl => segments::arpl,

        HelperId::ReadCr => control::read_cr,
        HelperId::WriteCr => control::write_cr,
        HelperId::ReadDr => crate::debug::read_dr,
        HelperId::WriteDr => crate::debug::write_dr,
        HelperId::Clts => control::clts,
        HelperId::Cpuid => control::cpuid,
        HelperId::Rdmsr => msr::rdmsr,
        HelperId::Wrmsr => msr::wrmsr,
        HelperId::Rdtsc => control::rdtsc,
        HelperId::Rdpmc => control::rdpmc,
        HelperId::Rdpid => control::rdpid,
        HelperId::Xgetbv => control::xgetbv,
        HelperId::Xsetbv => control::xsetbv,
        HelperId::Rdpkru => control::rdpkru,
        HelperId::Wrpkru => control::wrpkru,
        HelperId::Swapgs => control::swapgs,
        HelperId::ReadSegBase => control::read_seg_base,
        HelperId::WriteSegBase => control::write_seg_base,
        HelperId::Invlpg => control::invlpg,
        HelperId::Invpcid => control::invpcid,
        HelperId::Wbinvd => control::wbinvd,

        HelperId::Cli => control::cli,
        HelperId::Sti => control::sti,
        HelperId::PushfImage => control::pushf_image,
        HelperId::Popf => control::popf,
        HelperId::SetAc => control::set_ac,
        HelperId::Hlt => control::hlt,
        HelperId::Monitor => control::monitor,
        HelperId::Mwait => control::mwait,
        HelperId::Pause => control::pause,

        HelperId::In => ports::port_in,
        HelperId::Out => ports::port_out,

        HelperId::Enter => misc::enter,
        HelperId::Pusha => misc::pusha,
        HelperId::Popa => misc::popa,
        HelperId::Bound => misc::bound,
        HelperId::Bcd => misc::bcd,
        HelperId::Random => misc::random,

        HelperId::FpuCheck => fpu::fpu_check,
        HelperId::Fxsave => images::fxsave,
        HelperId::Fxrstor => images::fxrstor,
        HelperId::Xsave => images::xsave,
        HelperId::Xrstor => images::xrstor,
        HelperId::Stmxcsr => fpu::stmxcsr,
        HelperId::Ldmxcsr => fpu::ldmxcsr,
        HelperId::Fnstenv => images::fnstenv,
        HelperId::Fldenv => images::fldenv,
        HelperId::Fnsave => images::fnsave,
        HelperId::Frstor => images::frstor,
        HelperId::MaskMov => fpu::mask_mov,
        HelperId::Emms => fpu::emms,
        HelperId::Into => misc::into,
        HelperId::MaskLoad => fpu::mask_load,
        HelperId::MaskStore => fpu::mask_store,
        HelperId::Gather => fpu::gather,
        HelperId::GatherMasked => fpu::gather_masked,
        HelperId::Scatter => fpu::scatter,
    }
}
