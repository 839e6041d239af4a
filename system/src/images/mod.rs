//! The memory images of x87, MMX, SSE and extended state: FXSAVE, FNSAVE, and the XSAVE family.

mod area;
mod fsave;
mod fxsave;
pub mod layout;
#[cfg(test)]
mod tests;
mod xsave;

use x86::{Exception, cr0, cr4};

use crate::Vcpu;

pub use fsave::{fldenv, fnsave, fnstenv, frstor};
pub use fxsave::{fxrstor, fxsave};
pub use xsave::{in_use, xrstor, xsave};

/// #NM for x87 instructions and FXSAVE: CR0.EM or CR0.TS.
pub(crate) fn x87_available(v: &Vcpu) -> Result<(), Exception> {
    if v.st.cr0 & (cr0::EM | cr0::TS) != 0 {
        Err(Exception::NM)
    } else {
        Ok(())
    }
}

/// #UD or #NM for SSE instructions.
pub(crate) fn sse_available(v: &Vcpu) -> Result<(), Exception> {
    if v.st.cr0 & cr0::EM != 0 || v.st.cr4 & cr4::OSFXSR == 0 {
        Err(Exception::UD)
    } else if v.st.cr0 & cr0::TS != 0 {
        Err(Exception::NM)
    } else {
        Ok(())
    }
}
