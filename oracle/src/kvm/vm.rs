//! KVM's answer to a case: one VM, one vCPU, single step.
#![expect(unsafe_code, reason = "guest memory is shared with the kernel")]
// UNSAFETY: the memory that KVM's memory slot lies on is mapped here, and its size and place are told to the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvm_bindings::{
    CpuId, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_VCPUEVENT_VALID_SHADOW, Msrs,
    kvm_cpuid_entry2, kvm_guest_debug, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};
use system::CpuModel;
use x86::{CpuState, Segment, attr, msr};

use super::case::{Case, End, Outcome, RAM};
use super::doppel::MAX_REPEATS;

/// What KVM made of a case.
pub enum Answer {
    /// It ran; whether it accessed device memory.
    Ran(Box<Outcome>, bool),
    /// It could not be run, and why.
    Skipped(&'static str),
}

/// Exits of one case at most: a handler that faults on device memory makes them for ever.
const MAX_EXITS: usize = 4 * MAX_REPEATS;

/// MSRs that a case may set.
const MSRS: [u32; 9] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::FMASK,
    msr::KERNEL_GS_BASE,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::PAT,
];

fn msr_values(st: &CpuState) -> [u64; 9] {
    let m = &st.msr;
    [
        m.star,
        m.lstar,
        m.cstar,
        m.fmask,
        m.kernel_gs_base,
        m.sysenter_cs,
        m.sysenter_esp,
        m.sysenter_eip,
        m.pat,
    ]
}

/// A mapping that lives as long as the VM.
struct Pages(*mut u8);

impl Pages {
    fn new() -> Result<Self, String> {
        // SAFETY: a fresh anonymous mapping touches nothing that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                RAM,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            Err("no memory for KVM's guest".into())
        } else {
            Ok(Self(at.cast()))
        }
    }

    /// The guest's memory; only while no vCPU runs, as the borrow says.
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is RAM bytes long, lives as long as self, and KVM writes it in KVM_RUN only.
        unsafe { std::slice::from_raw_parts_mut(self.0, RAM) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.cast(), RAM) };
    }
}

/// Wakes a vCPU that stays in KVM_RUN: it faults for ever.
struct Watchdog {
    runs: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

extern "C" fn nothing(_: libc::c_int) {}

impl Watchdog {
    /// Watches the calling thread. `runs` is odd while it is in KVM_RUN.
    fn new() -> Self {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: sigaction is plain data; all zeros is a valid value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // SAFETY: the handler does nothing and is a function of the right type; no SA_RESTART, so that KVM_RUN returns.
        unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
        // SAFETY: no precondition.
        let target = unsafe { libc::pthread_self() };
        let runs = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, ended) = (Arc::clone(&runs), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut last = 0;
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(10));
                let now = seen.load(Ordering::SeqCst);
                if now == last && now % 2 == 1 {
                    // SAFETY: the target owns this watchdog and joins it before it ends.
                    unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                }
                last = now;
            }
        });
        Self {
            runs,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A VM with one vCPU.
pub struct Vm {
    vcpu: VcpuFd,
    _vm: VmFd,
    pages: Pages,
    watchdog: Watchdog,
    sregs: kvm_sregs,
    /// The MSRs as they are in the vCPU.
    msrs: [u64; 9],
    debug: [u64; 6],
    model: Arc<CpuModel>,
}

impl Vm {
    /// A VM for a CPU of this model. The error says why there is none.
    pub fn new(model: Arc<CpuModel>) -> Result<Self, String> {
        let kvm = Kvm::new().map_err(|e| format!("/dev/kvm: {e}"))?;
        let wanted =
            SyncReg::Register as i32 | SyncReg::SystemRegister as i32 | SyncReg::VcpuEvents as i32;
        if kvm.check_extension_int(Cap::SyncRegs) & wanted != wanted {
            return Err("KVM has no KVM_CAP_SYNC_REGS".into());
        }
        let vm = kvm.create_vm().map_err(|e| format!("KVM_CREATE_VM: {e}"))?;
        let pages = Pages::new()?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: 0,
            memory_size: RAM as u64,
            userspace_addr: pages.0.addr() as u64,
            flags: 0,
        };
        // SAFETY: the region is the whole mapping, which outlives the VM's use: `pages` is dropped with it.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|e| format!("KVM_SET_USER_MEMORY_REGION: {e}"))?;
        let mut vcpu = vm
            .create_vcpu(0)
            .map_err(|e| format!("KVM_CREATE_VCPU: {e}"))?;
        vcpu.set_cpuid2(&cpuid(&model)?)
            .map_err(|e| format!("KVM_SET_CPUID2: {e}"))?;
        let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        vcpu.set_guest_debug(&kvm_guest_debug {
            control,
            ..Default::default()
        })
        .map_err(|e| format!("KVM_SET_GUEST_DEBUG: {e}"))?;
        let sregs = vcpu
            .get_sregs()
            .map_err(|e| format!("KVM_GET_SREGS: {e}"))?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        vcpu.set_sync_valid_reg(SyncReg::VcpuEvents);
        let mut vm = Self {
            vcpu,
            _vm: vm,
            pages,
            watchdog: Watchdog::new(),
            sregs,
            msrs: [u64::MAX; 9],
            debug: [0; 6],
            model,
        };
        vm.probe()?;
        Ok(vm)
    }

    /// The CR4 bits that both KVM and the model accept.
    pub fn cr4(&mut self) -> u64 {
        let mut accepted = 0;
        for bit in (0..24)
            .map(|n| 1 << n)
            .filter(|bit| self.model.cr4() & bit != 0)
        {
            let sregs = kvm_sregs {
                cr4: bit,
                ..self.sregs
            };
            if self.vcpu.set_sregs(&sregs).is_ok() {
                accepted |= bit;
            }
        }
        let _ = self.vcpu.set_sregs(&self.sregs);
        accepted
    }

    /// Whether KVM keeps RFLAGS.VM: one that runs on page tables alone may not.
    pub fn has_vm86(&mut self) -> bool {
        let mut st = CpuState::reset();
        st.seg = [Segment::real(0); 6];
        for s in &mut st.seg {
            s.attr |= attr::DPL;
        }
        st.cr0 |= x86::cr0::PE;
        st.rflags |= x86::flags::VM;
        st.rip = 0x1000;
        let case = Case {
            group: "probe".into(),
            st,
            mem: vec![(0x1000, vec![0x90; 4])],
            code: Vec::new(),
            repeats: false,
        };
        match self.run(&case, &case.ram()) {
            Answer::Ran(out, _) => out.end == End::Done && out.st.rflags & x86::flags::VM != 0,
            Answer::Skipped(_) => false,
        }
    }

    /// Whether KVM runs code under 32-bit paging outside long mode.
    pub fn has_legacy_paging(&mut self) -> bool {
        let mut st = CpuState::reset();
        st.seg = [Segment::real(0); 6];
        st.seg[1].attr |= attr::CODE;
        st.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::ET;
        st.cr3 = 0x2000;
        st.rip = 0x1000;
        let mem = vec![
            (0x1000, vec![0x90; 4]),
            (0x2000, vec![7, 0x30, 0, 0]),
            (0x3004, vec![7, 0x10, 0, 0]),
        ];
        let case = Case {
            group: "probe".into(),
            st,
            mem,
            code: Vec::new(),
            repeats: false,
        };
        matches!(self.run(&case, &case.ram()), Answer::Ran(out, _) if out.end == End::Done && out.st.rip == 0x1001)
    }

    /// Whether one NOP can be stepped over.
    fn probe(&mut self) -> Result<(), String> {
        let mut st = CpuState::reset();
        st.seg = [Segment::real(0); 6];
        st.seg[1].attr |= attr::CODE;
        st.rip = 0x1000;
        let case = Case {
            group: "probe".into(),
            st,
            mem: vec![(0x1000, vec![0x90; 4])],
            code: Vec::new(),
            repeats: false,
        };
        match self.run(&case, &case.ram()) {
            Answer::Ran(out, _) if out.end == End::Done && out.st.rip == 0x1001 => Ok(()),
            Answer::Ran(..) => Err("KVM's single step does not work".into()),
            Answer::Skipped(why) => Err(format!("KVM's single step does not work: {why}")),
        }
    }

    /// RAM as the last run left it.
    pub fn ram(&mut self) -> &[u8] {
        self.pages.bytes()
    }

    /// Lays RAM down; pages that are as they should be are not touched.
    fn lay(&mut self, before: &[u8]) {
        for (old, new) in self.pages.bytes().chunks_mut(4096).zip(before.chunks(4096)) {
            if old != new {
                old.copy_from_slice(new);
            }
        }
    }

    fn load(&mut self, case: &Case) -> Result<(), &'static str> {
        let st = &case.st;
        let values = msr_values(st);
        if values != self.msrs {
            let entries: Vec<_> = MSRS
                .iter()
                .zip(values)
                .map(|(index, data)| kvm_msr_entry {
                    index: *index,
                    data,
                    ..Default::default()
                })
                .collect();
            let msrs = Msrs::from_entries(&entries).map_err(|_| "too many MSRs")?;
            match self.vcpu.set_msrs(&msrs) {
                Ok(n) if n == entries.len() => self.msrs = values,
                _ => {
                    self.msrs = [u64::MAX; 9];
                    return Err("KVM_SET_MSRS refused");
                }
            }
        }
        let debug = [st.dr[0], st.dr[1], st.dr[2], st.dr[3], st.dr6, st.dr7];
        if debug != self.debug {
            let mut regs = self
                .vcpu
                .get_debug_regs()
                .map_err(|_| "KVM_GET_DEBUGREGS failed")?;
            regs.db = st.dr;
            (regs.dr6, regs.dr7) = (st.dr6, st.dr7);
            self.vcpu
                .set_debug_regs(&regs)
                .map_err(|_| "KVM_SET_DEBUGREGS refused")?;
            self.debug = debug;
        }
        let sync_sregs = to_sregs(st, &self.sregs);
        let sync = self.vcpu.sync_regs_mut();
        sync.regs = to_regs(st);
        sync.sregs = sync_sregs;
        sync.events = Default::default();
        sync.events.flags = KVM_VCPUEVENT_VALID_SHADOW;
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        self.vcpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
        Ok(())
    }

    /// Runs a case; `before` is its RAM.
    pub fn run(&mut self, case: &Case, before: &[u8]) -> Answer {
        self.lay(before);
        self.vcpu.set_kvm_immediate_exit(0);
        if let Err(why) = self.load(case) {
            return Answer::Skipped(why);
        }
        let mut outs = Vec::new();
        let (mut repeats, mut exits, mut mmio) = (0, 0, false);
        let end = loop {
            exits += 1;
            if exits > MAX_EXITS {
                break End::Endless;
            }
            self.watchdog.runs.fetch_add(1, Ordering::SeqCst);
            let exit = self.vcpu.run();
            self.watchdog.runs.fetch_add(1, Ordering::SeqCst);
            let completed = match exit {
                Ok(VcpuExit::Debug(_) | VcpuExit::Hlt) => true,
                Ok(VcpuExit::IoIn(_, data)) => {
                    data.fill(0xff);
                    false
                }
                Ok(VcpuExit::MmioRead(_, data)) => {
                    data.fill(0xff);
                    mmio = true;
                    false
                }
                // The instruction is complete but for what the exit asks for: KVM_RUN shall only finish that.
                Ok(VcpuExit::IoOut(port, data)) => {
                    let mut value = [0; 4];
                    let size = data.len().min(4);
                    value[..size].copy_from_slice(&data[..size]);
                    outs.push((port, size as u8, u32::from_le_bytes(value)));
                    self.vcpu.set_kvm_immediate_exit(1);
                    false
                }
                Ok(VcpuExit::MmioWrite(..)) => {
                    mmio = true;
                    self.vcpu.set_kvm_immediate_exit(1);
                    false
                }
                Ok(VcpuExit::Shutdown) => {
                    let e = self.vcpu.sync_regs().events.exception;
                    break End::Shutdown(e.nr, e.error_code);
                }
                Ok(VcpuExit::InternalError) => return Answer::Skipped("KVM_EXIT_INTERNAL_ERROR"),
                Ok(VcpuExit::FailEntry(..)) => return Answer::Skipped("KVM_EXIT_FAIL_ENTRY"),
                Ok(_) => return Answer::Skipped("an exit that is not expected"),
                Err(e) if e.errno() == libc::EINTR => {
                    if self.vcpu.get_kvm_run().immediate_exit == 0 {
                        break End::Endless;
                    }
                    self.vcpu.set_kvm_immediate_exit(0);
                    true
                }
                Err(e) if e.errno() == libc::EINVAL => {
                    return Answer::Skipped("KVM_RUN refused the state");
                }
                Err(_) => return Answer::Skipped("KVM_RUN failed"),
            };
            if completed {
                repeats += 1;
                let now = self.vcpu.sync_regs();
                let here =
                    now.regs.rip == case.st.rip && now.sregs.cs.selector == case.st.seg[1].selector;
                let inside = case.repeats && here;
                if !inside || repeats == MAX_REPEATS {
                    break End::Done;
                }
            }
        };
        match self.outcome(case, end, outs) {
            Ok(outcome) => Answer::Ran(Box::new(outcome), mmio),
            Err(why) => Answer::Skipped(why),
        }
    }

    fn outcome(
        &mut self,
        case: &Case,
        end: End,
        outs: Vec<(u16, u8, u32)>,
    ) -> Result<Outcome, &'static str> {
        let mut st = case.st.clone();
        let sync = self.vcpu.sync_regs();
        from_regs(&sync.regs, &mut st);
        from_sregs(&sync.sregs, &mut st);
        // HLT leaves a vCPU without interrupt controller halted.
        let _ = self.vcpu.set_mp_state(kvm_mp_state { mp_state: 0 });
        if matches!(case.group.as_str(), "msr" | "syscall") {
            let list: Vec<_> = MSRS
                .iter()
                .map(|index| kvm_msr_entry {
                    index: *index,
                    ..Default::default()
                })
                .collect();
            let mut msrs = Msrs::from_entries(&list).map_err(|_| "too many MSRs")?;
            self.vcpu
                .get_msrs(&mut msrs)
                .map_err(|_| "KVM_GET_MSRS failed")?;
            let m = &mut st.msr;
            let places = [
                &mut m.star,
                &mut m.lstar,
                &mut m.cstar,
                &mut m.fmask,
                &mut m.kernel_gs_base,
                &mut m.sysenter_cs,
                &mut m.sysenter_esp,
                &mut m.sysenter_eip,
                &mut m.pat,
            ];
            for ((place, entry), known) in
                places.into_iter().zip(msrs.as_slice()).zip(&mut self.msrs)
            {
                *place = entry.data;
                *known = entry.data;
            }
        }
        if case.group == "control" {
            let regs = self
                .vcpu
                .get_debug_regs()
                .map_err(|_| "KVM_GET_DEBUGREGS failed")?;
            st.dr = regs.db;
            (st.dr6, st.dr7) = (regs.dr6, regs.dr7);
            self.debug = [u64::MAX; 6];
        }
        Ok(Outcome {
            end,
            st,
            outs,
            mem: Vec::new(),
        })
    }
}

/// The model's CPUID leaves.
fn cpuid(model: &CpuModel) -> Result<CpuId, String> {
    let dynamic = system::cpuid::Dynamic {
        apic_enabled: true,
        code64: true,
        ..Default::default()
    };
    let mut entries = Vec::new();
    for leaf in (0..=0xd).chain(0x8000_0000..=0x8000_0008) {
        let [eax, ebx, ecx, edx] = model.cpuid(leaf, 0, &dynamic);
        let flags = u32::from(matches!(leaf, 4 | 7 | 0xb | 0xd));
        entries.push(kvm_cpuid_entry2 {
            function: leaf,
            index: 0,
            flags,
            eax,
            ebx,
            ecx,
            edx,
            padding: [0; 3],
        });
    }
    CpuId::from_entries(&entries).map_err(|_| "too many CPUID entries".into())
}

fn to_segment(s: &Segment) -> kvm_segment {
    let bit = |mask: u32| u8::from(s.attr & mask != 0);
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (s.attr & attr::TYPE) as u8,
        present: bit(attr::P),
        dpl: s.dpl(),
        db: bit(attr::DB),
        s: bit(attr::S),
        l: bit(attr::L),
        g: bit(attr::G),
        avl: bit(attr::AVL),
        unusable: bit(attr::UNUSABLE),
        padding: 0,
    }
}

fn from_segment(s: &kvm_segment) -> Segment {
    let bit = |set: u8, mask: u32| if set != 0 { mask } else { 0 };
    let attr = u32::from(s.type_) & attr::TYPE
        | u32::from(s.dpl) << attr::DPL_SHIFT
        | bit(s.present, attr::P)
        | bit(s.s, attr::S)
        | bit(s.db, attr::DB)
        | bit(s.l, attr::L)
        | bit(s.g, attr::G)
        | bit(s.avl, attr::AVL)
        | bit(s.unusable, attr::UNUSABLE);
    Segment {
        base: s.base,
        limit: s.limit,
        attr,
        selector: s.selector,
    }
}

fn to_regs(st: &CpuState) -> kvm_regs {
    let g = &st.gpr;
    kvm_regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: st.rip,
        rflags: st.rflags,
    }
}

fn from_regs(r: &kvm_regs, st: &mut CpuState) {
    st.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    st.rip = r.rip;
    st.rflags = r.rflags;
}

fn to_sregs(st: &CpuState, base: &kvm_sregs) -> kvm_sregs {
    let mut s = *base;
    let [es, cs, ss, ds, fs, gs] = std::array::from_fn(|n| to_segment(&st.seg[n]));
    (s.es, s.cs, s.ss, s.ds, s.fs, s.gs) = (es, cs, ss, ds, fs, gs);
    s.ldt = to_segment(&st.ldtr);
    s.tr = to_segment(&st.tr);
    (s.gdt.base, s.gdt.limit) = (st.gdtr.base, st.gdtr.limit);
    (s.idt.base, s.idt.limit) = (st.idtr.base, st.idtr.limit);
    (s.cr0, s.cr2, s.cr3, s.cr4, s.efer) = (st.cr0, st.cr2, st.cr3, st.cr4, st.efer);
    s.interrupt_bitmap = [0; 4];
    s
}

fn from_sregs(s: &kvm_sregs, st: &mut CpuState) {
    st.seg = [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs].map(from_segment);
    st.ldtr = from_segment(&s.ldt);
    st.tr = from_segment(&s.tr);
    (st.gdtr.base, st.gdtr.limit) = (s.gdt.base, s.gdt.limit);
    (st.idtr.base, st.idtr.limit) = (s.idt.base, s.idt.limit);
    (st.cr0, st.cr2, st.cr3, st.cr4, st.efer) = (s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
}
