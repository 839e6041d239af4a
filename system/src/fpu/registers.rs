//! The x87 state as `portable` wants it, and back.

use portable::float::F80;
use portable::x87::X87;
use x86::Fpu;

use crate::Vcpu;
use crate::cpuid::Feature;

/// The x87 state for `portable`.
pub(crate) fn load(fpu: &Fpu) -> X87 {
    X87 {
        cw: fpu.fcw,
        sw: fpu.fsw,
        tw: fpu.ftw,
        regs: fpu
            .regs
            .map(|r| F80::from_bytes(std::array::from_fn(|i| r[i]))),
        fop: fpu.fop,
        fip: fpu.fip,
        fcs: fpu.fcs,
        fdp: fpu.fdp,
        fds: fpu.fds,
    }
}

/// Takes the state over. CPUs that no longer keep FCS and FDS hold zeros there.
pub(crate) fn keep(v: &mut Vcpu, x: &X87) {
    let selectors = !v.model.has(Feature::ZeroFcsFds);
    let mut regs = [[0; 16]; 8];
    for (slot, register) in regs.iter_mut().zip(x.regs) {
        slot[..10].copy_from_slice(&register.to_bytes());
    }
    v.st.fpu = Fpu {
        regs,
        fcw: x.cw,
        fsw: x.sw,
        ftw: x.tw,
        fop: x.fop,
        fip: x.fip,
        fcs: if selectors { x.fcs } else { 0 },
        fdp: x.fdp,
        fds: if selectors { x.fds } else { 0 },
    };
}
