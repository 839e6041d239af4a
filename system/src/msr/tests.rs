//! MSRs: values that are kept, values that are refused, and the arithmetic of time.

use std::sync::Arc;

use parking_lot::Mutex;
use softmmu::Bus;
use x86::{Exception, Gpr, PhysAddr, Seg, efer, msr};

use super::{rdmsr, read_msr, write_msr, wrmsr};
use crate::testing::Machine;
use crate::{CpuModel, MsrFault, Platform, event};

const GP: Exception = Exception::GP0;

/// A board with a clock, a deadline and an APIC base.
#[derive(Default)]
struct Clock {
    now: Mutex<u64>,
    deadline: Mutex<u64>,
    apic: Mutex<u64>,
}

impl Bus for Clock {
    fn mmio_read(&self, _cpu: usize, _addr: PhysAddr, _size: u8) -> u64 {
        0
    }
    fn mmio_write(&self, _cpu: usize, _addr: PhysAddr, _size: u8, _value: u64) {}
    fn pio_read(&self, _cpu: usize, _port: u16, _size: u8) -> u32 {
        0
    }
    fn pio_write(&self, _cpu: usize, _port: u16, _size: u8, _value: u32) {}
}

impl Platform for Clock {
    fn tsc(&self) -> u64 {
        *self.now.lock()
    }
    fn tsc_hz(&self) -> u64 {
        2_400_000_000
    }
    fn crystal_hz(&self) -> u64 {
        25_000_000
    }
    fn ack_interrupt(&self, _cpu: usize) -> Option<u8> {
        None
    }
    fn cr8(&self, _cpu: usize) -> u8 {
        0
    }
    fn set_cr8(&self, _cpu: usize, _value: u8) {}
    fn apic_msr_read(&self, _cpu: usize, number: u32) -> Result<u64, MsrFault> {
        if number == 0x8ff {
            Err(MsrFault)
        } else {
            Ok(*self.apic.lock())
        }
    }
    fn apic_msr_write(&self, _cpu: usize, number: u32, value: u64) -> Result<(), MsrFault> {
        if number == 0x802 {
            return Err(MsrFault);
        }
        *self.apic.lock() = value;
        Ok(())
    }
    fn tsc_deadline(&self, _cpu: usize) -> u64 {
        *self.deadline.lock()
    }
    fn set_tsc_deadline(&self, _cpu: usize, raw_tsc: u64) {
        *self.deadline.lock() = raw_tsc;
    }
    fn apic_init(&self, _cpu: usize) {}
}

fn machine() -> (Machine, Arc<Clock>) {
    let mut m = Machine::long(0, true);
    let clock = Arc::new(Clock::default());
    m.v.platform = Arc::clone(&clock) as Arc<dyn Platform>;
    (m, clock)
}

#[test]
fn plain_registers_keep_their_values() {
    let (mut m, _) = machine();
    let kernel = 0xffff_ffff_8000_0000;
    let cases = [
        (msr::STAR, u64::MAX),
        (msr::LSTAR, kernel),
        (msr::CSTAR, kernel),
        (msr::FMASK, 0xffff_ffff),
        (msr::KERNEL_GS_BASE, kernel),
        (msr::FS_BASE, 0x7fff_0000_0000),
        (msr::GS_BASE, kernel),
        (msr::TSC_AUX, 0xffff_ffff),
        (msr::SYSENTER_CS, 0xffff_ffff),
        (msr::SYSENTER_ESP, kernel),
        (msr::SYSENTER_EIP, kernel),
        (msr::PAT, 0x0006_0507_0401_0006),
        (msr::SPEC_CTRL, 7),
        (msr::XSS, 0),
        (msr::DEBUGCTL, 3),
        (msr::MCG_STATUS, 7),
        (msr::MCG_CTL, u64::MAX),
        (msr::MC0_CTL, u64::MAX),
        (msr::MC0_CTL + 36, u64::MAX),
        (msr::MTRR_DEF_TYPE, 0xc06),
        (msr::MTRR_PHYSBASE0, 0x3fff_ffff_f006),
        (msr::MTRR_PHYSBASE0 + 15, 0x3fff_ffff_f800),
        (msr::MTRR_FIX64K_00000, 0x0606_0606_0606_0606),
        (msr::MTRR_FIX4K_C0000 + 7, 0x0504_0100_0606_0606),
        (msr::MISC_ENABLE, 1 << 34 | 1 << 22 | 1 << 11 | 1 << 12),
    ];
    for (number, value) in cases {
        assert_eq!(write_msr(&mut m.v, number, value), Ok(()), "{number:#x}");
        assert_eq!(read_msr(&mut m.v, number), Ok(value), "{number:#x}");
    }
    assert_eq!(m.v.seg(Seg::Gs).base, kernel);
    assert!(m.v.warned.is_empty());
}

#[test]
fn bad_values_are_refused() {
    let (mut m, _) = machine();
    let cases = [
        (msr::LSTAR, 1 << 47),
        (msr::CSTAR, 1 << 47),
        (msr::FS_BASE, 1 << 63),
        (msr::KERNEL_GS_BASE, 1 << 47),
        (msr::SYSENTER_EIP, 1 << 47),
        (msr::TSC_AUX, 1 << 32),
        (msr::PAT, 2),
        (msr::PAT, 0x0800_0000_0000_0000),
        (msr::SPEC_CTRL, 8),
        (msr::PRED_CMD, 2),
        (msr::FLUSH_CMD, 2),
        (msr::XSS, 1),
        (msr::DEBUGCTL, 4),
        (msr::MCG_STATUS, 8),
        (msr::MCG_CTL, 1),
        (msr::MCG_CAP, 0),
        (msr::MC0_CTL + 1, 1),
        (msr::MC0_CTL + 2, 1),
        (msr::MTRRCAP, 0),
        (msr::MTRR_DEF_TYPE, 2),
        (msr::MTRR_DEF_TYPE, 0x106),
        (msr::MTRR_PHYSBASE0, 1 << 46),
        (msr::MTRR_PHYSBASE0, 0x107),
        (msr::MTRR_PHYSBASE0 + 1, 0x400),
        (msr::MTRR_FIX16K_80000, 3),
        (msr::ARCH_CAPABILITIES, 0),
        (msr::FEATURE_CONTROL, 5),
        (msr::PLATFORM_ID, 0),
        (msr::MISC_ENABLE, 1 << 63),
        (msr::EFER, 1 << 1),
        (msr::EFER, efer::LMA),
    ];
    for (number, value) in cases {
        assert_eq!(
            write_msr(&mut m.v, number, value),
            Err(GP),
            "{number:#x} {value:#x}"
        );
    }
    for number in [msr::PRED_CMD, msr::FLUSH_CMD, msr::BIOS_UPDT_TRIG] {
        assert_eq!(
            read_msr(&mut m.v, number),
            Err(GP),
            "{number:#x} is write-only"
        );
    }
    for number in [msr::PRED_CMD, msr::FLUSH_CMD] {
        assert_eq!(write_msr(&mut m.v, number, 1), Ok(()));
    }
    assert!(m.v.warned.is_empty(), "these MSRs are there");
}

#[test]
fn fixed_values() {
    let (mut m, _) = machine();
    let arch = m.v.model.arch_capabilities();
    for (number, value) in [
        (msr::MTRRCAP, 0x508),
        (msr::MCG_CAP, 0x0100_010a),
        (msr::ARCH_CAPABILITIES, arch),
        (msr::FEATURE_CONTROL, 1),
        (msr::MISC_ENABLE, 0x1801),
        (0xce, 24 << 8),
    ] {
        assert_eq!(read_msr(&mut m.v, number), Ok(value), "{number:#x}");
    }
}

#[test]
fn unknown_ones_fault_with_one_warning_each() {
    let (mut m, _) = machine();
    for number in [
        0x606,
        0x606,
        0xc001_0015,
        0x280,
        msr::MC0_CTL + 40,
        msr::MTRR_PHYSBASE0 + 16,
    ] {
        assert_eq!(read_msr(&mut m.v, number), Err(GP), "{number:#x}");
        assert_eq!(write_msr(&mut m.v, number, 0), Err(GP), "{number:#x}");
    }
    assert_eq!(m.v.warned.len(), 4, "AMD's range is no news");
    for number in 0x1_0000..0x2_0000 {
        assert_eq!(read_msr(&mut m.v, number), Err(GP));
    }
    assert!(m.v.warned.len() <= 256);
}

#[test]
fn registers_of_features_that_are_off() {
    let (mut m, _) = machine();
    m.v.model = Arc::new(
        CpuModel::parse("default,-lm,-arch-capabilities,-spec-ctrl,-x2apic,-tsc_adjust")
            .expect("all exist"),
    );
    for number in [
        msr::LSTAR,
        msr::FS_BASE,
        msr::ARCH_CAPABILITIES,
        msr::SPEC_CTRL,
        0x803,
        msr::TSC_ADJUST,
    ] {
        assert_eq!(read_msr(&mut m.v, number), Err(GP), "{number:#x}");
        assert_eq!(write_msr(&mut m.v, number, 0), Err(GP), "{number:#x}");
    }
    assert_eq!(write_msr(&mut m.v, msr::EFER, efer::LME), Err(GP));
}

#[test]
fn efer_keeps_lma() {
    let (mut m, _) = machine();
    let base = efer::LME | efer::SCE;
    assert_eq!(
        write_msr(&mut m.v, msr::EFER, efer::SCE),
        Err(GP),
        "LME can't change with paging on"
    );
    assert_eq!(write_msr(&mut m.v, msr::EFER, base | efer::NXE), Ok(()));
    assert_eq!(
        read_msr(&mut m.v, msr::EFER),
        Ok(base | efer::NXE | efer::LMA)
    );
    assert_eq!(m.v.mmu.state().efer, base | efer::NXE | efer::LMA);
    assert_eq!(write_msr(&mut m.v, msr::EFER, base), Ok(()));
    assert_eq!(write_msr(&mut m.v, msr::MISC_ENABLE, 1 << 34), Ok(()));
    assert_eq!(
        write_msr(&mut m.v, msr::EFER, base | efer::NXE),
        Err(GP),
        "XD is disabled"
    );
}

#[test]
fn instructions_check_the_level_and_halve_the_value() {
    let (mut m, _) = machine();
    m.v.st.gpr[Gpr::Rcx as usize] = 0xffff_ffff_0000_0000 | u64::from(msr::STAR);
    m.v.st.gpr[Gpr::Rax as usize] = 0xaaaa_aaaa_1111_2222;
    m.v.st.gpr[Gpr::Rdx as usize] = 0xbbbb_bbbb_3333_4444;
    assert_eq!(wrmsr(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(m.v.st.msr.star, 0x3333_4444_1111_2222);
    assert_eq!(rdmsr(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!((m.v.st.gpr[0], m.v.st.gpr[2]), (0x1111_2222, 0x3333_4444));
    let mut user = Machine::long(3, true);
    assert_eq!(rdmsr(&mut user.v, 0, 0, 0), Err(GP));
    assert_eq!(wrmsr(&mut user.v, 0, 0, 0), Err(GP));
    assert!(user.v.warned.is_empty());
}

#[test]
fn tsc_and_its_adjustment_move_together() {
    let (mut m, clock) = machine();
    *clock.now.lock() = 1000;
    assert_eq!(read_msr(&mut m.v, msr::TSC), Ok(1000));
    assert_eq!(write_msr(&mut m.v, msr::TSC, 200), Ok(()));
    assert_eq!(m.v.tsc(), 200);
    assert_eq!(
        read_msr(&mut m.v, msr::TSC_ADJUST),
        Ok(800u64.wrapping_neg())
    );
    assert_eq!(write_msr(&mut m.v, msr::TSC_ADJUST, 50), Ok(()));
    assert_eq!(m.v.tsc(), 1050);
    *clock.now.lock() = 1100;
    assert_eq!(m.v.tsc(), 1150);
    m.v.fixed_tsc = Some(7);
    m.v.retired = 3;
    assert_eq!(write_msr(&mut m.v, msr::TSC, 100), Ok(()));
    assert_eq!(m.v.tsc(), 100);
}

#[test]
fn deadlines_are_on_the_guests_count() {
    let (mut m, clock) = machine();
    *clock.now.lock() = 10_000;
    assert_eq!(write_msr(&mut m.v, msr::TSC, 1_000_000), Ok(()));
    assert_eq!(write_msr(&mut m.v, msr::TSC_DEADLINE, 1_000_500), Ok(()));
    assert_eq!(*clock.deadline.lock(), 10_500);
    assert_eq!(read_msr(&mut m.v, msr::TSC_DEADLINE), Ok(1_000_500));
    // Moving the TSC leaves the deadline where it is on the guest's count.
    assert_eq!(write_msr(&mut m.v, msr::TSC, 1_000_400), Ok(()));
    assert_eq!(*clock.deadline.lock(), 10_100);
    assert_eq!(read_msr(&mut m.v, msr::TSC_DEADLINE), Ok(1_000_500));
    // The past expires at once, the far future never, zero disarms.
    assert_eq!(write_msr(&mut m.v, msr::TSC_DEADLINE, 5), Ok(()));
    assert_eq!(*clock.deadline.lock(), 10_000);
    assert_eq!(write_msr(&mut m.v, msr::TSC_DEADLINE, u64::MAX), Ok(()));
    assert!(*clock.deadline.lock() > 1 << 63);
    assert_eq!(write_msr(&mut m.v, msr::TSC_DEADLINE, 0), Ok(()));
    assert_eq!(read_msr(&mut m.v, msr::TSC_DEADLINE), Ok(0));
}

#[test]
fn the_local_apic_answers_for_itself() {
    let (mut m, clock) = machine();
    m.v.event_mask = event::STOP;
    assert_eq!(write_msr(&mut m.v, msr::APIC_BASE, 0xfee0_0900), Ok(()));
    assert_eq!(m.v.event_mask, u32::MAX);
    assert_eq!(*clock.apic.lock(), 0xfee0_0900);
    assert_eq!(read_msr(&mut m.v, 0x808), Ok(0xfee0_0900));
    assert_eq!(read_msr(&mut m.v, 0x8ff), Err(GP));
    assert_eq!(write_msr(&mut m.v, 0x802, 0), Err(GP));
    assert!(
        m.v.warned.is_empty(),
        "the APIC's own refusal is no unknown MSR"
    );
}
