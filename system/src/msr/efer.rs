//! IA32_EFER (SDM vol. 3, 2.2.1 and 10.8.5).

use x86::{cr0, efer};

use super::{Write, check, misc_enable};
use crate::Vcpu;

pub fn write(v: &mut Vcpu, value: u64) -> Write {
    let old = v.st.efer;
    check(value & !v.model.efer() == 0)?;
    check((value ^ old) & efer::LME == 0 || v.st.cr0 & cr0::PG == 0)?;
    check(value & efer::NXE == 0 || v.st.msr.misc_enable & misc_enable::XD_DISABLE == 0)?;
    // LMA follows CR0.PG and LME; what is written there is ignored.
    let new = (value & !efer::LMA) | (old & efer::LMA);
    v.mmu.write_efer(new);
    v.st.efer = new;
    Ok(())
}
