//! Machine-check banks: there to be set up and found empty (SDM vol. 3, 16.3).

use x86::msr;

use super::{Read, Refused, Write, check, needs};
use crate::Vcpu;
use crate::cpuid::Feature;

/// Banks, four registers each.
const BANKS: u32 = 10;
/// IA32_MCG_CAP: the banks, MCG_CTL is there, software error recovery.
const CAP: u64 = BANKS as u64 | 1 << 8 | 1 << 24;
const BANK_LAST: u32 = msr::MC0_CTL + 4 * BANKS - 1;

pub fn read(v: &Vcpu, number: u32) -> Read {
    let m = &v.st.msr;
    let value = match number {
        msr::MCG_CAP => CAP,
        msr::MCG_STATUS => m.mcg_status,
        msr::MCG_CTL => m.mcg_ctl,
        msr::MC0_CTL..=BANK_LAST => m.mc_banks[(number - msr::MC0_CTL) as usize],
        _ => return Err(Refused::Unknown),
    };
    needs(v, Feature::Mca)?;
    Ok(value)
}

pub fn write(v: &mut Vcpu, number: u32, value: u64) -> Write {
    let known = matches!(
        number,
        msr::MCG_CAP | msr::MCG_STATUS | msr::MCG_CTL | msr::MC0_CTL..=BANK_LAST
    );
    if !known {
        return Err(Refused::Unknown);
    }
    needs(v, Feature::Mca)?;
    match number {
        msr::MCG_STATUS => {
            check(value & !7 == 0)?;
            v.st.msr.mcg_status = value;
        }
        msr::MCG_CTL => {
            check(value == 0 || value == u64::MAX)?;
            v.st.msr.mcg_ctl = value;
        }
        msr::MC0_CTL..=BANK_LAST => {
            let index = number - msr::MC0_CTL;
            if index & 3 == 0 {
                // One bit an error source; those that a bank lacks read as they were written here.
                v.st.msr.mc_banks[index as usize] = value;
            } else {
                // STATUS, ADDR and MISC can only be cleared.
                check(value == 0)?;
                v.st.msr.mc_banks[index as usize] = 0;
            }
        }
        _ => return Err(Refused::Value),
    }
    Ok(())
}
