//! What holds between any two instructions, whatever a guest has done.

use system::{CpuModel, LazyFlags, Vcpu};
use x86::{Activity, CpuState, MXCSR_MASK, cr0, cr4, efer, flags};

use crate::exec::check;

/// Says what is wrong with a vCPU that has just come back from its engine.
pub fn check(v: &Vcpu) -> Result<(), String> {
    if v.exception.is_some() {
        return Err(format!("an exception was left behind: {:?}", v.exception));
    }
    if v.zero != 0 {
        return Err(format!("zero is {:#x}", v.zero));
    }
    if v.flags.kind != LazyFlags::KNOWN.kind {
        return Err(format!("flags were not written down: {:?}", v.flags));
    }
    paging(v)?;
    masks(&v.st, &v.model)?;
    if v.st.activity == Activity::Shutdown {
        // A task switch that failed late leaves segment registers that were not loaded yet; nothing runs with them.
        return Ok(());
    }
    check::check(&v.st, &v.model)
}

/// The MMU knows what the registers say.
fn paging(v: &Vcpu) -> Result<(), String> {
    let (st, m) = (&v.st, v.mmu.state());
    // What translations depend on, and no more: the MMU is not told of CR0.TS.
    let (bits0, bits4) = (
        cr0::PG | cr0::WP,
        cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::PKE | cr4::LA57,
    );
    let bits = efer::LMA | efer::NXE;
    let differ = (m.cr0 ^ st.cr0) & bits0
        | (m.cr4 ^ st.cr4) & bits4
        | (m.efer ^ st.efer) & bits
        | m.cr3 ^ st.cr3;
    if differ != 0 || m.pkru != st.pkru || m.pdptes != st.pdpte {
        return Err(format!(
            "the MMU has another paging state ({differ:#x}): {m:x?}"
        ));
    }
    if m.cpl != st.cpl() || m.ac != (st.rflags & flags::AC != 0) {
        return Err(format!(
            "the MMU works at level {} with AC {}, not {}",
            m.cpl,
            m.ac,
            st.cpl()
        ));
    }
    Ok(())
}

/// No register has a bit that it does not have.
fn masks(st: &CpuState, model: &CpuModel) -> Result<(), String> {
    let physical = (1_u64 << model.maxphyaddr()) - 1;
    let mut rules = vec![
        ("rflags", st.rflags & !flags::WRITABLE, flags::FIXED),
        ("cr0", st.cr0 & (!cr0::DEFINED | cr0::ET), cr0::ET),
        ("cr3", st.cr3 & !physical, 0),
        ("cr4", st.cr4 & !model.cr4(), 0),
        ("efer", st.efer & !model.efer(), 0),
        ("xcr0", st.xcr0 & !(model.xcr0() | 1), 0),
        ("dr6", st.dr6 & 0xffff_ffff_ffff_1ff0, 0xffff_0ff0),
        ("dr7", st.dr7 & 0xffff_ffff_0000_dc00, 0x400),
        ("mxcsr", u64::from(st.mxcsr & !MXCSR_MASK), 0),
        ("fcw", u64::from(st.fpu.fcw & !0x1f3f), 0x40),
        ("fop", u64::from(st.fpu.fop & !0x7ff), 0),
        ("xss", st.msr.xss & !model.xss(), 0),
        ("fmask", st.msr.fmask >> 32, 0),
        ("sysenter_cs", st.msr.sysenter_cs >> 32, 0),
        ("tsc_aux", st.msr.tsc_aux >> 32, 0),
        ("debugctl", st.msr.debugctl & !3, 0),
        ("pat", st.msr.pat & 0xf8f8_f8f8_f8f8_f8f8, 0),
        ("kernel_gs_base", non_canonical(st.msr.kernel_gs_base), 0),
        ("lstar", non_canonical(st.msr.lstar), 0),
        ("cstar", non_canonical(st.msr.cstar), 0),
        ("sysenter_eip", non_canonical(st.msr.sysenter_eip), 0),
        ("sysenter_esp", non_canonical(st.msr.sysenter_esp), 0),
    ];
    let pending = st.fpu.fsw & 0x3f & !st.fpu.fcw != 0;
    let summary = if pending { 0x8080 } else { 0 };
    rules.push(("fsw's ES and B", u64::from(st.fpu.fsw & 0x8080), summary));
    for r in &st.fpu.regs {
        rules.push((
            "beyond an FPU register",
            r[10..].iter().map(|b| u64::from(*b)).sum(),
            0,
        ));
    }
    let width = if model.xcr0() & x86::xcr0::ZMM_HI256 != 0 {
        64
    } else if model.xcr0() & x86::xcr0::AVX != 0 {
        32
    } else {
        16
    };
    for r in &st.vec {
        rules.push((
            "beyond a vector register",
            r[width..].iter().map(|b| u64::from(*b)).sum(),
            0,
        ));
    }
    for pdpte in st.pdpte {
        if pdpte & 1 != 0 && st.cr0 & cr0::PG != 0 && !st.long_mode() {
            rules.push(("pdpte", pdpte & (!physical | 0x1e6), 0));
        }
    }
    match rules.iter().find(|(_, is, should)| is != should) {
        Some((name, is, should)) => Err(format!("{name}: {is:#x} instead of {should:#x}")),
        None => Ok(()),
    }
}

/// Not 0 unless an address is canonical with 57 bits: LA57 may have been on when it was written.
fn non_canonical(address: u64) -> u64 {
    let top = address.cast_signed() >> 56;
    u64::from(top != 0 && top != -1)
}
