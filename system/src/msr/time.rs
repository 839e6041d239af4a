//! IA32_TIME_STAMP_COUNTER, IA32_TSC_ADJUST and IA32_TSC_DEADLINE (SDM vol. 3, 18.17.3 and 11.5.4.1).

use x86::msr;

use super::{Read, Write, needs};
use crate::Vcpu;
use crate::cpuid::Feature;

pub fn read(v: &Vcpu, number: u32) -> Read {
    match number {
        msr::TSC => {
            needs(v, Feature::Tsc)?;
            Ok(v.tsc())
        }
        msr::TSC_ADJUST => {
            needs(v, Feature::TscAdjust)?;
            Ok(v.st.msr.tsc_adjust)
        }
        _ => {
            needs(v, Feature::TscDeadline)?;
            Ok(deadline(v))
        }
    }
}

pub fn write(v: &mut Vcpu, number: u32, value: u64) -> Write {
    match number {
        msr::TSC => {
            needs(v, Feature::Tsc)?;
            let delta = value.wrapping_sub(v.tsc());
            shift(v, delta);
        }
        msr::TSC_ADJUST => {
            needs(v, Feature::TscAdjust)?;
            let delta = value.wrapping_sub(v.st.msr.tsc_adjust);
            shift(v, delta);
        }
        _ => {
            needs(v, Feature::TscDeadline)?;
            arm(v, value);
        }
    }
    Ok(())
}

/// Moves the guest's TSC, and with it IA32_TSC_ADJUST. A deadline stays where it was on the guest's count.
fn shift(v: &mut Vcpu, delta: u64) {
    let armed = deadline(v);
    let m = &mut v.st.msr;
    m.tsc_offset = m.tsc_offset.wrapping_add(delta);
    m.tsc_adjust = m.tsc_adjust.wrapping_add(delta);
    if let Some(start) = &mut v.fixed_tsc {
        *start = start.wrapping_add(delta);
    }
    if armed != 0 {
        arm(v, armed);
    }
}

/// The armed deadline on the guest's count, or 0.
fn deadline(v: &Vcpu) -> u64 {
    match v.platform.tsc_deadline(v.index) {
        0 => 0,
        raw => raw.wrapping_add(v.st.msr.tsc_offset).max(1),
    }
}

/// Arms the deadline at a guest count, 0 disarms. One in the past expires at once, one too far away never.
fn arm(v: &mut Vcpu, guest: u64) {
    let raw = if guest == 0 {
        0
    } else {
        let now = v.raw_tsc();
        let ahead = guest.saturating_sub(now.wrapping_add(v.st.msr.tsc_offset));
        if ahead == 0 {
            now.max(1)
        } else {
            now.saturating_add(ahead)
        }
    };
    v.platform.set_tsc_deadline(v.index, raw);
}
