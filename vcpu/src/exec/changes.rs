//! Which registers differ from the case's start, by the names that the case used.

use system::Vcpu;
use x86::{CpuState, Msrs, Seg, msr};

use super::board::Board;
use super::register::{Register, Value};
use super::start::Names;

/// What a run began with.
pub struct Before {
    pub st: CpuState,
    pub tsc: u64,
    pub cr8: u8,
    pub apic_base: u64,
}

/// The registers that have changed, in the order of the names' table.
pub fn registers(
    before: &Before,
    v: &mut Vcpu,
    board: &Board,
    names: &Names,
) -> Vec<(Register, Value)> {
    let mut out = List {
        old: &before.st,
        new: &v.st,
        names,
        list: Vec::new(),
    };
    out.integer();
    out.segments();
    out.control(before, v, board);
    let tsc = v.tsc();
    out.number(Register::Tsc, before.tsc, tsc);
    out.msrs();
    out.number(
        Register::Msr(msr::APIC_BASE),
        before.apic_base,
        board.apic_base(),
    );
    out.aliases(before.tsc, tsc);
    out.fpu();
    out.vectors();
    if before.st.shadow != v.st.shadow {
        out.list
            .push((Register::Shadow, Value::Shadow(v.st.shadow)));
    }
    out.list
}

struct List<'a> {
    old: &'a CpuState,
    new: &'a CpuState,
    names: &'a Names,
    list: Vec<(Register, Value)>,
}

impl List<'_> {
    fn number(&mut self, register: Register, old: u64, new: u64) {
        if old != new {
            self.list.push((register, Value::Number(new)));
        }
    }

    /// A register with a 32-bit name, if the case used that and the value fits.
    fn halved(&mut self, whole: Register, low: Register, used: bool, old: u64, new: u64) {
        self.number(if used && new >> 32 == 0 { low } else { whole }, old, new);
    }

    fn integer(&mut self) {
        let (old, new, names) = (self.old, self.new, self.names);
        for n in 0..16 {
            let used = names.low >> n & 1 != 0;
            let index = usize::from(n);
            self.halved(
                Register::Gpr(n),
                Register::Gpr32(n),
                used,
                old.gpr[index],
                new.gpr[index],
            );
        }
        self.halved(Register::Rip, Register::Eip, names.eip, old.rip, new.rip);
        self.halved(
            Register::Rflags,
            Register::Eflags,
            names.eflags,
            old.rflags,
            new.rflags,
        );
    }

    fn segments(&mut self) {
        let selectors = self.new.real_mode() || self.new.vm86();
        for seg in Seg::ALL {
            let segment = self.new.seg[seg as usize];
            if segment != self.old.seg[seg as usize] {
                let value = if selectors {
                    Value::Number(u64::from(segment.selector))
                } else {
                    Value::Segment(segment)
                };
                self.list.push((Register::Seg(seg), value));
            }
        }
        for (register, old, new) in [
            (Register::Ldtr, self.old.ldtr, self.new.ldtr),
            (Register::Tr, self.old.tr, self.new.tr),
        ] {
            if old != new {
                self.list.push((register, Value::Segment(new)));
            }
        }
        for (register, old, new) in [
            (Register::Gdtr, self.old.gdtr, self.new.gdtr),
            (Register::Idtr, self.old.idtr, self.new.idtr),
        ] {
            if old != new {
                self.list.push((register, Value::Table(new)));
            }
        }
    }

    fn control(&mut self, before: &Before, v: &Vcpu, board: &Board) {
        let (old, new) = (self.old, self.new);
        self.number(Register::Cr(0), old.cr0, new.cr0);
        self.number(Register::Cr(2), old.cr2, new.cr2);
        self.number(Register::Cr(3), old.cr3, new.cr3);
        self.number(Register::Cr(4), old.cr4, new.cr4);
        self.number(
            Register::Cr(8),
            u64::from(before.cr8),
            u64::from(board.cr8()),
        );
        self.number(Register::Xcr0, old.xcr0, new.xcr0);
        for n in 0..4 {
            self.number(
                Register::Dr(n),
                old.dr[usize::from(n)],
                new.dr[usize::from(n)],
            );
        }
        self.number(Register::Dr(6), old.dr6, new.dr6);
        self.number(Register::Dr(7), old.dr7, new.dr7);
        self.number(Register::Efer, old.efer, new.efer);
        self.number(Register::Pkru, u64::from(old.pkru), u64::from(v.st.pkru));
    }

    fn msrs(&mut self) {
        if self.old.msr == self.new.msr {
            return;
        }
        for number in numbered() {
            if let (Some(old), Some(new)) = (
                msr_value(&self.old.msr, number),
                msr_value(&self.new.msr, number),
            ) {
                self.number(Register::Msr(number), old, new);
            }
        }
    }

    /// MSRs with other names, under the numbers that the case used.
    fn aliases(&mut self, old_tsc: u64, tsc: u64) {
        let (old, new) = (self.old, self.new);
        for &number in &self.names.alias {
            let base = |st: &CpuState, seg: Seg| st.seg[seg as usize].base;
            let (before, after) = match number {
                msr::TSC => (old_tsc, tsc),
                msr::EFER => (old.efer, new.efer),
                msr::FS_BASE => (base(old, Seg::Fs), base(new, Seg::Fs)),
                msr::GS_BASE => (base(old, Seg::Gs), base(new, Seg::Gs)),
                _ => continue,
            };
            self.number(Register::Msr(number), before, after);
        }
    }

    fn fpu(&mut self) {
        let (old, new) = (&self.old.fpu, &self.new.fpu);
        if old == new {
            return;
        }
        for (register, old, new) in [
            (Register::Fcw, old.fcw, new.fcw),
            (Register::Fsw, old.fsw, new.fsw),
            (Register::Ftw, u16::from(old.ftw), u16::from(new.ftw)),
            (Register::Fop, old.fop, new.fop),
        ] {
            self.number(register, u64::from(old), u64::from(new));
        }
        self.number(Register::Fip, old.fip, new.fip);
        self.number(Register::Fdp, old.fdp, new.fdp);
        // What x87 instructions leave may have no MM form.
        let mut changed = new
            .regs
            .iter()
            .zip(&old.regs)
            .filter(|(new, old)| new != old);
        let mm = self.names.mm && changed.all(|(new, _)| new[8..10] == [0xff; 2]);
        let (old_top, new_top) = if mm { (0, 0) } else { (old.top(), new.top()) };
        let len = if mm { 8 } else { 10 };
        for n in 0..8 {
            let old = &old.regs[usize::from((n + old_top) & 7)][..len];
            let new = &new.regs[usize::from((n + new_top) & 7)][..len];
            if old != new {
                let register = if mm { Register::Mm(n) } else { Register::St(n) };
                self.list.push((register, Value::Bytes(new.to_vec())));
            }
        }
    }

    fn vectors(&mut self) {
        self.number(
            Register::Mxcsr,
            u64::from(self.old.mxcsr),
            u64::from(self.new.mxcsr),
        );
        if self.old.vec != self.new.vec {
            for n in 0..32_u8 {
                let (old, new) = (&self.old.vec[usize::from(n)], &self.new.vec[usize::from(n)]);
                let Some(last) = (0..64).rev().find(|i| old[*i] != new[*i]) else {
                    continue;
                };
                let width = usize::from(self.names.vec[usize::from(n)]).max(last + 1);
                let (register, width) = match width {
                    0..=16 => (Register::Xmm(n), 16),
                    17..=32 => (Register::Ymm(n), 32),
                    _ => (Register::Zmm(n), 64),
                };
                self.list
                    .push((register, Value::Bytes(new[..width].to_vec())));
            }
        }
        for n in 0..8 {
            self.number(
                Register::K(n),
                self.old.k[usize::from(n)],
                self.new.k[usize::from(n)],
            );
        }
    }
}

/// MSRs with a place of their own in the state.
const SINGLE: [u32; 19] = [
    msr::TSC_ADJUST,
    msr::SPEC_CTRL,
    msr::BIOS_SIGN_ID,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::MCG_STATUS,
    msr::MCG_CTL,
    msr::MISC_ENABLE,
    msr::DEBUGCTL,
    msr::PAT,
    msr::MTRR_DEF_TYPE,
    msr::XSS,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::FMASK,
    msr::KERNEL_GS_BASE,
    msr::TSC_AUX,
];

/// The fixed-range MTRRs in the order of the state.
const FIXED: [u32; 11] = {
    let mut all = [0; 11];
    [all[0], all[1], all[2]] = [
        msr::MTRR_FIX64K_00000,
        msr::MTRR_FIX16K_80000,
        msr::MTRR_FIX16K_A0000,
    ];
    let mut n = 0;
    while n < 8 {
        all[3 + n as usize] = msr::MTRR_FIX4K_C0000 + n;
        n += 1;
    }
    all
};

fn numbered() -> impl Iterator<Item = u32> {
    let variable = msr::MTRR_PHYSBASE0..msr::MTRR_PHYSBASE0 + 16;
    let banks = msr::MC0_CTL..msr::MC0_CTL + 40;
    SINGLE.into_iter().chain(FIXED).chain(variable).chain(banks)
}

/// What RDMSR would read.
fn msr_value(m: &Msrs, number: u32) -> Option<u64> {
    let at = |list: &[u64], first: u32| list.get(number.checked_sub(first)? as usize).copied();
    Some(match number {
        msr::TSC_ADJUST => m.tsc_adjust,
        msr::SPEC_CTRL => m.spec_ctrl,
        msr::BIOS_SIGN_ID => m.bios_sign_id,
        msr::SYSENTER_CS => m.sysenter_cs,
        msr::SYSENTER_ESP => m.sysenter_esp,
        msr::SYSENTER_EIP => m.sysenter_eip,
        msr::MCG_STATUS => m.mcg_status,
        msr::MCG_CTL => m.mcg_ctl,
        msr::MISC_ENABLE => m.misc_enable,
        msr::DEBUGCTL => m.debugctl,
        msr::PAT => m.pat,
        msr::MTRR_DEF_TYPE => m.mtrr_def_type,
        msr::XSS => m.xss,
        msr::STAR => m.star,
        msr::LSTAR => m.lstar,
        msr::CSTAR => m.cstar,
        msr::FMASK => m.fmask,
        msr::KERNEL_GS_BASE => m.kernel_gs_base,
        msr::TSC_AUX => m.tsc_aux,
        _ => {
            if let Some(n) = FIXED.iter().position(|f| *f == number) {
                return Some(m.mtrr_fixed[n]);
            }
            return at(&m.mtrr_var, msr::MTRR_PHYSBASE0).or_else(|| at(&m.mc_banks, msr::MC0_CTL));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{msr_value, numbered};
    use x86::{CpuState, Msrs};

    #[test]
    fn every_msr_of_the_state_is_looked_at() {
        let mut msrs = CpuState::reset().msr;
        let mut left = Vec::new();
        // Every word of the structure, in turn, but `tsc_offset`, which is no register.
        let words = size_of::<Msrs>() / 8;
        assert_eq!(
            numbered().count(),
            words - 1,
            "a new MSR: add it to the table"
        );
        for number in numbered() {
            if msr_value(&msrs, number).is_none() {
                left.push(number);
            }
        }
        assert!(left.is_empty(), "{left:x?}");
        msrs.mc_banks[39] = 5;
        msrs.mtrr_var[15] = 6;
        msrs.mtrr_fixed[10] = 7;
        assert_eq!(msr_value(&msrs, 0x427), Some(5));
        assert_eq!(msr_value(&msrs, 0x20f), Some(6));
        assert_eq!(msr_value(&msrs, 0x26f), Some(7));
        assert_eq!(msr_value(&msrs, 0x428), None);
    }
}
