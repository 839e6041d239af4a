//! FNSTENV, FLDENV, FNSAVE and FRSTOR: `portable` knows the layouts, this the memory (SDM vol. 1, 8.1.10).

use portable::x87::Layout;
use x86::Exception;

use super::x87_available;
use crate::Vcpu;
use crate::fpu::{keep, load};

/// The layout by mode and operand size.
fn layout(v: &Vcpu, size: u64) -> Layout {
    Layout {
        wide: size != 2,
        real: v.st.real_mode() || v.st.vm86(),
    }
}

/// FNSTENV to linear address `a`, operand size `c`; then all exceptions are masked.
pub fn fnstenv(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    x87_available(v)?;
    let layout = layout(v, c);
    let mut x = load(&v.st.fpu);
    let mut bytes = [0; 28];
    x.store_env(layout, &mut bytes);
    v.write_bytes(a, &bytes[..layout.env_len()])?;
    x.mask_all();
    keep(v, &x);
    Ok(0)
}

/// FLDENV from linear address `a`, operand size `c`.
pub fn fldenv(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    x87_available(v)?;
    let layout = layout(v, c);
    let mut bytes = [0; 28];
    v.read_bytes(a, &mut bytes[..layout.env_len()])?;
    let mut x = load(&v.st.fpu);
    x.load_env(layout, &bytes);
    keep(v, &x);
    Ok(0)
}

/// FNSAVE to linear address `a`, operand size `c`; then FNINIT.
pub fn fnsave(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    x87_available(v)?;
    let layout = layout(v, c);
    let mut x = load(&v.st.fpu);
    let mut bytes = [0; 108];
    x.store_all(layout, &mut bytes);
    v.write_bytes(a, &bytes[..layout.save_len()])?;
    x.init();
    keep(v, &x);
    Ok(0)
}

/// FRSTOR from linear address `a`, operand size `c`.
pub fn frstor(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    x87_available(v)?;
    let layout = layout(v, c);
    let mut bytes = [0; 108];
    v.read_bytes(a, &mut bytes[..layout.save_len()])?;
    let mut x = load(&v.st.fpu);
    x.load_all(layout, &bytes);
    keep(v, &x);
    Ok(0)
}
