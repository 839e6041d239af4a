//! CR0-CR8, XCR0, the descriptor-table registers, and the FS and GS bases (SDM vol. 3, 2.4-2.6).

use x86::{Exception, Gpr, Seg, attr, cr0, cr4, efer, xcr0};

use super::{canonical_base, edx_eax, low32, privileged, recheck_events, set_edx_eax};
use crate::Vcpu;
use crate::cpuid::Feature;
use crate::images;

/// MOV from CRn: the value of CR`a`.
pub fn read_cr(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    match a {
        0 => Ok(v.st.cr0),
        2 => Ok(v.st.cr2),
        3 => Ok(v.st.cr3),
        4 => Ok(v.st.cr4),
        8 => Ok(u64::from(v.platform.cr8(v.index))),
        _ => Err(Exception::UD),
    }
}

/// MOV to CRn: CR`a` = `b`.
pub fn write_cr(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    match a {
        0 => set_cr0(v, b)?,
        2 => v.st.cr2 = b,
        3 => set_cr3(v, b)?,
        4 => set_cr4(v, b)?,
        8 => {
            if b > 15 {
                return Err(Exception::GP0);
            }
            v.platform.set_cr8(v.index, b as u8);
            recheck_events(v);
        }
        _ => return Err(Exception::UD),
    }
    Ok(0)
}

/// Replaces CR0 with all the checks that MOV makes, entering and leaving long mode (SDM vol. 3, 10.8.5).
pub fn set_cr0(v: &mut Vcpu, value: u64) -> Result<(), Exception> {
    if value >> 32 != 0 {
        return Err(Exception::GP0);
    }
    let new = (value & cr0::DEFINED) | cr0::ET;
    let old = v.st.cr0;
    if new & cr0::PG != 0 && new & cr0::PE == 0 || new & cr0::NW != 0 && new & cr0::CD == 0 {
        return Err(Exception::GP0);
    }
    let mut new_efer = v.st.efer;
    let changed = old ^ new;
    if changed & cr0::PG != 0 {
        let long_code = v.seg(Seg::Cs).has(attr::L);
        if new & cr0::PG != 0 {
            if v.st.efer & efer::LME != 0 {
                // Types 1 and 3 are the 16-bit TSS.
                let tss16 = v.st.tr.attr & (attr::S | 0xd) == 1;
                if v.st.cr4 & cr4::PAE == 0 || long_code || tss16 {
                    return Err(Exception::GP0);
                }
                new_efer |= efer::LMA;
            }
        } else {
            if v.st.cr4 & cr4::PCIDE != 0 || v.st.code64() {
                return Err(Exception::GP0);
            }
            new_efer &= !efer::LMA;
        }
    }
    if new_efer != v.st.efer {
        v.mmu
            .write_cr0_efer(new, new_efer)
            .map_err(|_| Exception::GP0)?;
    } else if changed & !(cr0::TS | cr0::MP | cr0::EM | cr0::NE | cr0::AM) != 0 {
        v.mmu.write_cr0(new).map_err(|_| Exception::GP0)?;
    }
    v.st.cr0 = new;
    v.st.efer = new_efer;
    v.st.pdpte = v.mmu.state().pdptes;
    // PE decides what the privilege level is.
    v.sync_mmu();
    Ok(())
}

fn set_cr3(v: &mut Vcpu, value: u64) -> Result<(), Exception> {
    let pcide = v.st.cr4 & cr4::PCIDE != 0;
    let noflush = pcide && value >> 63 != 0;
    let value = if pcide { value & !(1 << 63) } else { value };
    if v.st.long_mode() && value >> v.model.maxphyaddr() != 0 {
        return Err(Exception::GP0);
    }
    v.mmu
        .write_cr3(value, noflush)
        .map_err(|_| Exception::GP0)?;
    v.st.cr3 = value;
    v.st.pdpte = v.mmu.state().pdptes;
    Ok(())
}

fn set_cr4(v: &mut Vcpu, value: u64) -> Result<(), Exception> {
    let old = v.st.cr4;
    if value & !v.model.cr4() != 0 {
        return Err(Exception::GP0);
    }
    if v.st.long_mode() {
        if value & cr4::PAE == 0 || (value ^ old) & cr4::LA57 != 0 {
            return Err(Exception::GP0);
        }
    }
    if value & !old & cr4::PCIDE != 0 && (!v.st.long_mode() || v.st.cr3 & 0xfff != 0) {
        return Err(Exception::GP0);
    }
    v.mmu.write_cr4(value).map_err(|_| Exception::GP0)?;
    v.st.cr4 = value;
    v.st.pdpte = v.mmu.state().pdptes;
    Ok(())
}

/// SMSW: CR0.
pub fn smsw(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    umip(v)?;
    Ok(v.st.cr0)
}

/// LMSW: PE, MP, EM and TS from `a`; PE can't be cleared.
pub fn lmsw(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    let low = cr0::MP | cr0::EM | cr0::TS;
    let new = (v.st.cr0 & !low) | (a & (low | cr0::PE));
    set_cr0(v, new)?;
    Ok(0)
}

/// CLTS.
pub fn clts(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    v.st.cr0 &= !cr0::TS;
    Ok(0)
}

/// XGETBV: XCR0, or with ECX = 1 the components of it that are in use.
pub fn xgetbv(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cr4 & cr4::OSXSAVE == 0 {
        return Err(Exception::UD);
    }
    let value = match low32(v, Gpr::Rcx) {
        0 => v.st.xcr0,
        1 if v.model.has(Feature::Xgetbv1) => v.st.xcr0 & images::in_use(v),
        _ => return Err(Exception::GP0),
    };
    set_edx_eax(v, value);
    Ok(0)
}

/// XSETBV.
pub fn xsetbv(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    if v.st.cr4 & cr4::OSXSAVE == 0 {
        return Err(Exception::UD);
    }
    privileged(v)?;
    let value = edx_eax(v);
    if low32(v, Gpr::Rcx) != 0 || !valid_xcr0(v, value) {
        return Err(Exception::GP0);
    }
    v.st.xcr0 = value;
    Ok(0)
}

/// SDM vol. 1, 13.3: which combinations XCR0 may hold.
fn valid_xcr0(v: &Vcpu, value: u64) -> bool {
    let avx512 = xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM;
    value & xcr0::X87 != 0
        && value & !v.model.xcr0() == 0
        && (value & xcr0::AVX == 0 || value & xcr0::SSE != 0)
        && (value & avx512 == 0 || value & (avx512 | xcr0::AVX) == avx512 | xcr0::AVX)
}

/// #GP(0) when user-mode instruction prevention is on.
fn umip(v: &Vcpu) -> Result<(), Exception> {
    if v.st.cr4 & cr4::UMIP != 0 {
        privileged(v)
    } else {
        Ok(())
    }
}

/// LGDT: limit `a`, base `b`.
pub fn lgdt(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    v.st.gdtr = table(v, a, b)?;
    Ok(0)
}

/// LIDT: limit `a`, base `b`.
pub fn lidt(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    v.st.idtr = table(v, a, b)?;
    Ok(0)
}

fn table(v: &Vcpu, limit: u64, base: u64) -> Result<x86::TableReg, Exception> {
    privileged(v)?;
    if v.st.code64() && !canonical_base(v, base) {
        return Err(Exception::GP0);
    }
    Ok(x86::TableReg {
        base,
        limit: limit as u16,
    })
}

/// SGDT: the base, or with `a` = 1 the limit.
pub fn sgdt(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    umip(v)?;
    Ok(if a == 0 {
        v.st.gdtr.base
    } else {
        u64::from(v.st.gdtr.limit)
    })
}

/// SIDT: the base, or with `a` = 1 the limit.
pub fn sidt(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    umip(v)?;
    Ok(if a == 0 {
        v.st.idtr.base
    } else {
        u64::from(v.st.idtr.limit)
    })
}

/// SWAPGS.
pub fn swapgs(v: &mut Vcpu, _a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    privileged(v)?;
    let gs = &mut v.st.seg[Seg::Gs as usize].base;
    std::mem::swap(gs, &mut v.st.msr.kernel_gs_base);
    Ok(0)
}

/// RDFSBASE, RDGSBASE: the base of segment register `a`.
pub fn read_seg_base(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    let seg = usize::try_from(a)
        .ok()
        .and_then(Seg::from_index)
        .ok_or(Exception::UD)?;
    Ok(v.seg(seg).base)
}

/// WRFSBASE, WRGSBASE: segment register `a`'s base = `b`.
pub fn write_seg_base(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    let seg = usize::try_from(a)
        .ok()
        .and_then(Seg::from_index)
        .ok_or(Exception::UD)?;
    if !canonical_base(v, b) {
        return Err(Exception::GP0);
    }
    v.st.seg[seg as usize].base = b;
    Ok(0)
}
