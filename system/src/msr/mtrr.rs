//! MTRRs and PAT: stored and checked, of no effect on memory that is always coherent (SDM vol. 3, 13.11 and 13.12).

use x86::msr;

use super::{Read, Refused, Write, check, needs};
use crate::Vcpu;
use crate::cpuid::Feature;

/// Variable ranges.
const VARIABLE: u32 = 8;
/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write-combining.
const CAP: u64 = VARIABLE as u64 | 1 << 8 | 1 << 10;

const VAR_FIRST: u32 = msr::MTRR_PHYSBASE0;
const VAR_LAST: u32 = msr::MTRR_PHYSBASE0 + 2 * VARIABLE - 1;
const FIX4K_LAST: u32 = msr::MTRR_FIX4K_C0000 + 7;

/// The index of a fixed-range MTRR in its array.
fn fixed(number: u32) -> Option<usize> {
    match number {
        msr::MTRR_FIX64K_00000 => Some(0),
        msr::MTRR_FIX16K_80000 => Some(1),
        msr::MTRR_FIX16K_A0000 => Some(2),
        msr::MTRR_FIX4K_C0000..=FIX4K_LAST => Some(3 + (number - msr::MTRR_FIX4K_C0000) as usize),
        _ => None,
    }
}

/// UC, WC, WT, WP, WB.
fn mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// The same and UC-.
fn pat_type(kind: u8) -> bool {
    mtrr_type(kind) || kind == 7
}

pub fn read(v: &Vcpu, number: u32) -> Read {
    let m = &v.st.msr;
    if number == msr::PAT {
        needs(v, Feature::Pat)?;
        return Ok(m.pat);
    }
    if let Some(n) = fixed(number) {
        needs(v, Feature::Mtrr)?;
        return Ok(m.mtrr_fixed[n]);
    }
    let value = match number {
        msr::MTRRCAP => CAP,
        msr::MTRR_DEF_TYPE => m.mtrr_def_type,
        VAR_FIRST..=VAR_LAST => m.mtrr_var[(number - VAR_FIRST) as usize],
        _ => return Err(Refused::Unknown),
    };
    needs(v, Feature::Mtrr)?;
    Ok(value)
}

pub fn write(v: &mut Vcpu, number: u32, value: u64) -> Write {
    if number == msr::PAT {
        needs(v, Feature::Pat)?;
        check(value.to_le_bytes().into_iter().all(pat_type))?;
        v.st.msr.pat = value;
        return Ok(());
    }
    if let Some(n) = fixed(number) {
        needs(v, Feature::Mtrr)?;
        check(value.to_le_bytes().into_iter().all(mtrr_type))?;
        v.st.msr.mtrr_fixed[n] = value;
        return Ok(());
    }
    let beyond = value >> v.model.maxphyaddr() != 0;
    let kind = value.to_le_bytes()[0];
    match number {
        msr::MTRRCAP => {
            needs(v, Feature::Mtrr)?;
            return Err(Refused::Value);
        }
        msr::MTRR_DEF_TYPE => {
            needs(v, Feature::Mtrr)?;
            check(value & !0xcff == 0 && mtrr_type(kind))?;
            v.st.msr.mtrr_def_type = value;
        }
        VAR_FIRST..=VAR_LAST => {
            needs(v, Feature::Mtrr)?;
            let mask = (number - VAR_FIRST) & 1 != 0;
            check(!beyond)?;
            check(if mask {
                value & 0x7ff == 0
            } else {
                value & 0xf00 == 0 && mtrr_type(kind)
            })?;
            v.st.msr.mtrr_var[(number - VAR_FIRST) as usize] = value;
        }
        _ => return Err(Refused::Unknown),
    }
    Ok(())
}
