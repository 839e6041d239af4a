//! From named registers to the state that a case starts from: reserved bits cleared, impossible states refused.

use system::CpuModel;
use system::cpuid::Feature;
use x86::{CpuState, MXCSR_MASK, Seg, Segment, attr, cr0, flags, msr};

use super::board::{APIC_BASE_RESET, apic_base_mask};
use super::check;
use super::register::{Register, Value};

/// Which of a register's names the case has used.
#[derive(Debug, Default)]
pub struct Names {
    /// General registers by their 32-bit names, a bit each.
    pub low: u16,
    pub eip: bool,
    pub eflags: bool,
    /// MM registers.
    pub mm: bool,
    /// The widest name of each vector register, in bytes.
    pub vec: [u8; 32],
    /// MSRs that have other names too.
    pub alias: Vec<u32>,
}

/// Where a case starts.
#[derive(Debug)]
pub struct Start {
    pub st: CpuState,
    pub tsc: u64,
    pub cr8: u8,
    pub apic_base: u64,
    /// MSRs to be written by the rules of WRMSR.
    pub msrs: Vec<(u32, u64)>,
    pub names: Names,
}

/// A segment register as the case gives it.
#[derive(Clone, Copy)]
enum Given {
    Nothing,
    Selector(u16),
    Whole(Segment),
}

/// The registers named so far.
#[derive(Default)]
struct Seen {
    slots: [u64; 3],
    msrs: Vec<u32>,
}

impl Seen {
    /// Notes a register; false if it was there.
    fn add(&mut self, register: Register) -> bool {
        if let Register::Msr(n) = register {
            let new = !self.msrs.contains(&n);
            self.msrs.push(n);
            return new;
        }
        let slot = register.slot().unwrap_or(0);
        let word = &mut self.slots[slot as usize / 64];
        let new = *word & 1 << (slot % 64) == 0;
        *word |= 1 << (slot % 64);
        new
    }

    fn any(&self, slots: std::ops::Range<u32>) -> bool {
        slots
            .into_iter()
            .any(|s| self.slots[s as usize / 64] & 1 << (s % 64) != 0)
    }
}

/// Builds the state. The error says what is wrong with it.
pub fn start(model: &CpuModel, regs: &[(Register, Value)]) -> Result<Start, String> {
    let mut st = CpuState::reset();
    st.gpr[2] = u64::from(model.signature());
    let mut start = Start {
        st,
        tsc: 0,
        cr8: 0,
        apic_base: APIC_BASE_RESET,
        msrs: Vec::new(),
        names: Names::default(),
    };
    let mut seen = Seen::default();
    let mut segments = [Given::Nothing; 6];
    for (register, value) in regs {
        if !seen.add(*register) {
            return Err(format!("{register} is named twice"));
        }
        start.set(model, *register, value, &mut segments)?;
    }
    if seen.any(64..72) && seen.any(72..80) {
        return Err("st and mm registers are the same ones: name either".to_owned());
    }
    start.names.mm = seen.any(72..80);
    start.fix(model, &segments)?;
    start.stack_order(regs);
    check::check(&start.st, model)?;
    Ok(start)
}

impl Start {
    fn set(
        &mut self,
        model: &CpuModel,
        register: Register,
        value: &Value,
        segments: &mut [Given; 6],
    ) -> Result<(), String> {
        let st = &mut self.st;
        match (register, value) {
            (_, Value::Bytes(bytes)) if register.bytes() == Some(bytes.len()) => {
                self.set_bytes(register, bytes)
            }
            (Register::Seg(seg), Value::Number(n)) => {
                let selector =
                    u16::try_from(*n).map_err(|_| format!("{register}: {n} is no selector"))?;
                segments[seg as usize] = Given::Selector(selector);
            }
            (Register::Seg(seg), Value::Segment(s)) => segments[seg as usize] = Given::Whole(*s),
            (Register::Ldtr, Value::Segment(s)) => st.ldtr = *s,
            (Register::Tr, Value::Segment(s)) => st.tr = *s,
            (Register::Gdtr, Value::Table(t)) => st.gdtr = *t,
            (Register::Idtr, Value::Table(t)) => st.idtr = *t,
            (Register::Shadow, Value::Shadow(s)) => st.shadow = *s,
            (_, Value::Number(n)) if is_number(register) => {
                if register.bits() < 64 && n >> register.bits() != 0 {
                    return Err(format!(
                        "{register}: {n:#x} does not fit into its {} bits",
                        register.bits()
                    ));
                }
                self.set_number(model, register, *n)?;
            }
            _ => return Err(format!("{register} must be {}", wanted(register))),
        }
        Ok(())
    }

    fn set_number(&mut self, model: &CpuModel, register: Register, n: u64) -> Result<(), String> {
        let st = &mut self.st;
        match register {
            Register::Gpr(r) => st.gpr[usize::from(r & 15)] = n,
            Register::Gpr32(r) => {
                st.gpr[usize::from(r & 15)] = n;
                self.names.low |= 1 << (r & 15);
            }
            Register::Rip => st.rip = n,
            Register::Eip => {
                st.rip = n;
                self.names.eip = true;
            }
            Register::Rflags => st.rflags = n,
            Register::Eflags => {
                st.rflags = n;
                self.names.eflags = true;
            }
            Register::Cr(0) => st.cr0 = n,
            Register::Cr(2) => st.cr2 = n,
            Register::Cr(3) => st.cr3 = n,
            Register::Cr(4) => st.cr4 = n,
            Register::Cr(_) => self.cr8 = (n & 15) as u8,
            Register::Xcr0 => st.xcr0 = n,
            Register::Dr(6) => st.dr6 = n,
            Register::Dr(7) => st.dr7 = n,
            Register::Dr(d) => st.dr[usize::from(d & 3)] = n,
            Register::Efer => st.efer = n,
            Register::Pkru => st.pkru = n as u32,
            Register::Tsc => self.tsc = n,
            Register::Msr(number) => self.set_msr(model, number, n)?,
            Register::Fcw => st.fpu.fcw = n as u16,
            Register::Fsw => st.fpu.fsw = n as u16,
            Register::Ftw => st.fpu.ftw = n as u8,
            Register::Fop => st.fpu.fop = n as u16,
            Register::Fip => st.fpu.fip = n,
            Register::Fdp => st.fpu.fdp = n,
            Register::Mxcsr => st.mxcsr = n as u32,
            Register::K(k) => st.k[usize::from(k & 7)] = n,
            _ => {}
        }
        Ok(())
    }

    fn set_bytes(&mut self, register: Register, bytes: &[u8]) {
        match register {
            Register::Xmm(n) | Register::Ymm(n) | Register::Zmm(n) => {
                let n = usize::from(n & 31);
                if bytes.len() > usize::from(self.names.vec[n]) {
                    self.names.vec[n] = bytes.len() as u8;
                    self.st.vec[n][..bytes.len()].copy_from_slice(bytes);
                }
            }
            // In the place of R0-R7 until TOP is known, see `stack_order`.
            Register::St(n) => self.st.fpu.regs[usize::from(n & 7)][..10].copy_from_slice(bytes),
            Register::Mm(n) => {
                let r = &mut self.st.fpu.regs[usize::from(n & 7)];
                r[..8].copy_from_slice(bytes);
                // As every MMX instruction leaves it.
                r[8..10].copy_from_slice(&[0xff; 2]);
            }
            _ => {}
        }
    }

    /// Puts ST(0) to ST(7) where TOP says. MM registers are the physical ones already.
    fn stack_order(&mut self, regs: &[(Register, Value)]) {
        if !regs.iter().any(|(r, _)| matches!(r, Register::St(_))) {
            return;
        }
        let top = usize::from(self.st.fpu.top());
        self.st.fpu.regs.rotate_right(top);
    }

    fn set_msr(&mut self, model: &CpuModel, number: u32, n: u64) -> Result<(), String> {
        let st = &mut self.st;
        match number {
            msr::TSC => self.tsc = n,
            msr::EFER => st.efer = n,
            msr::TSC_ADJUST if model.has(Feature::TscAdjust) => st.msr.tsc_adjust = n,
            msr::BIOS_SIGN_ID => st.msr.bios_sign_id = n,
            msr::APIC_BASE if model.has(Feature::Apic) => {
                self.apic_base = n & apic_base_mask(model.maxphyaddr())
            }
            // Errors are recorded by the CPU, not by software.
            0x400..=0x427 if model.has(Feature::Mca) => {
                st.msr.mc_banks[(number - msr::MC0_CTL) as usize] = n
            }
            _ => self.msrs.push((number, n & msr_mask(model, number))),
        }
        if matches!(number, msr::TSC | msr::EFER | msr::FS_BASE | msr::GS_BASE) {
            self.names.alias.push(number);
        }
        Ok(())
    }

    /// Clears reserved bits, sets those that are always one, and fills in what follows from other registers.
    fn fix(&mut self, model: &CpuModel, segments: &[Given; 6]) -> Result<(), String> {
        let st = &mut self.st;
        st.rflags = st.rflags & flags::WRITABLE | flags::FIXED;
        st.cr0 = st.cr0 & cr0::DEFINED | cr0::ET;
        st.cr3 &= (1 << model.maxphyaddr()) - 1;
        st.cr4 &= model.cr4();
        st.efer &= model.efer();
        st.xcr0 = if model.xcr0() == 0 {
            x86::xcr0::X87
        } else {
            st.xcr0 & model.xcr0()
        };
        st.dr6 = st.dr6 & 0xe00f | 0xffff_0ff0;
        st.dr7 = st.dr7 & 0xffff_23ff | 0x400;
        st.mxcsr &= MXCSR_MASK;
        let fpu = &mut st.fpu;
        fpu.fcw = fpu.fcw & 0x1f3f | 0x40;
        fpu.fop &= 0x7ff;
        // ES and B say whether an unmasked exception waits.
        fpu.fsw &= !0x8080;
        if fpu.fsw & 0x3f & !fpu.fcw != 0 {
            fpu.fsw |= 0x8080;
        }
        for (seg, given) in Seg::ALL.into_iter().zip(segments) {
            self.fix_segment(seg, *given)?;
        }
        let st = &mut self.st;
        for (segment, busy) in [(&mut st.ldtr, 0), (&mut st.tr, 2)] {
            segment.attr &= SEGMENT_ATTR;
            if segment.attr & attr::UNUSABLE == 0 && segment.attr & attr::S == 0 {
                // A TSS in TR is busy: loading it makes it so.
                segment.attr |= busy;
            }
        }
        Ok(())
    }

    fn fix_segment(&mut self, seg: Seg, given: Given) -> Result<(), String> {
        let st = &mut self.st;
        let place = &mut st.seg[seg as usize];
        let vm86 = st.cr0 & cr0::PE != 0 && st.rflags & flags::VM != 0;
        let real = st.cr0 & cr0::PE == 0;
        match given {
            Given::Selector(_) if !vm86 && !real => {
                return Err(format!(
                    "{}: a selector alone is for real mode and VM86; give sel, base, limit and attr",
                    Register::Seg(seg)
                ));
            }
            Given::Selector(selector) => *place = real_segment(seg, selector, vm86),
            Given::Whole(segment) => *place = segment,
            Given::Nothing if vm86 => *place = real_segment(seg, place.selector, vm86),
            Given::Nothing => {}
        }
        place.attr &= SEGMENT_ATTR;
        if place.attr & attr::UNUSABLE == 0 && place.attr & attr::S != 0 {
            // Loading a segment register sets the descriptor's accessed bit.
            place.attr |= attr::ACCESSED;
        }
        Ok(())
    }
}

/// The bits of a segment's attributes.
const SEGMENT_ATTR: u32 = 0x1_f0ff;

/// What real mode and VM86 make of a selector.
fn real_segment(seg: Seg, selector: u16, vm86: bool) -> Segment {
    let mut segment = Segment::real(selector);
    if vm86 {
        segment.attr |= attr::DPL;
    } else if seg == Seg::Cs {
        // As after RESET.
        segment.attr |= attr::CODE;
    }
    segment
}

/// What software may change in IA32_MISC_ENABLE.
const MISC_ENABLE_WRITABLE: u64 = 1 << 0
    | 1 << 3
    | 1 << 9
    | 1 << 10
    | 1 << 16
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 34
    | 1 << 37
    | 1 << 38
    | 1 << 39;

/// The bits that an MSR has, where it has fewer than 64.
fn msr_mask(model: &CpuModel, number: u32) -> u64 {
    let physical = (1 << model.maxphyaddr()) - 1;
    match number {
        msr::FMASK | msr::SYSENTER_CS | msr::TSC_AUX => 0xffff_ffff,
        msr::XSS => model.xss(),
        msr::PAT => 0x0707_0707_0707_0707,
        msr::DEBUGCTL => 3,
        msr::MCG_STATUS => 7,
        msr::MTRR_DEF_TYPE => 0xcff,
        0x200..=0x20f if number & 1 == 0 => physical & !0xf00,
        0x200..=0x20f => physical & !0x7ff,
        msr::SPEC_CTRL => {
            1 | if model.has(Feature::Stibp) { 2 } else { 0 }
                | if model.has(Feature::Ssbd) { 4 } else { 0 }
        }
        msr::MISC_ENABLE => MISC_ENABLE_WRITABLE,
        _ => u64::MAX,
    }
}

fn is_number(register: Register) -> bool {
    let other = matches!(
        register,
        Register::Ldtr | Register::Tr | Register::Gdtr | Register::Idtr | Register::Shadow
    );
    register.bytes().is_none() && !other
}

/// What a register's value looks like, for messages.
fn wanted(register: Register) -> String {
    match register {
        Register::Seg(_) => "a selector or {\"sel\",\"base\",\"limit\",\"attr\"}".to_owned(),
        Register::Ldtr | Register::Tr => "{\"sel\",\"base\",\"limit\",\"attr\"}".to_owned(),
        Register::Gdtr | Register::Idtr => "{\"base\",\"limit\"}".to_owned(),
        Register::Shadow => "\"none\", \"sti\" or \"movss\"".to_owned(),
        _ => match register.bytes() {
            Some(n) => format!("a string of {n} bytes in lower-case hex"),
            None => "a number from 0 to 2^64-1 or \"0x...\"".to_owned(),
        },
    }
}

/// The register's wish, for whoever reads values.
pub fn expectation(register: Register) -> String {
    format!("{register} must be {}", wanted(register))
}
