//! Engines that agree, and engines that go wrong at one instruction, which must be the one that is found.

use std::sync::Arc;

use iced_x86::code_asm::*;
use softmmu::{Bus, GuestRam, Mmu};
use system::testing::{HANDLER, Machine, RAM, START};
use system::{CpuModel, Engine, Exit, Platform, Vcpu};
use x86::{CpuState, Exception, Gpr, PhysAddr, flags};

use super::{INTERVAL, Lockstep, LockstepConfig, Log};
use crate::{Cpu, EngineKind, EngineOptions};

/// The interrupt of the tests.
const VECTOR: u8 = 0x30;
/// What the program reads and writes: 4 KiB for each vCPU, and a page that all share.
const DATA: u64 = 0x3_0000;
const SHARED: u64 = 0x2_f000;
/// Instructions of a turn.
const TURN: u64 = 10_000;

/// Loops over arithmetic, memory, ports, the TSC, a call and undefined flags on the stack; 26 instructions a round.
fn program() -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64-bit code");
    let assembled = (|| {
        let (mut again, mut function) = (a.create_label(), a.create_label());
        a.sti()?;
        a.set_label(&mut again)?;
        a.add(rax, 3)?;
        a.imul_2(rbx, rax)?;
        a.mov(qword_ptr(rdi), rbx)?;
        a.add(rdi, 8)?;
        a.and(rdi, !0x1000)?;
        a.call(function)?;
        a.rdtsc()?;
        a.add(rsi, rax)?;
        a.mov(ecx, eax)?;
        a.rol(rbx, cl)?;
        a.lock().add(qword_ptr(SHARED), rbx)?;
        a.xor(rbp, qword_ptr(SHARED + 64))?;
        a.in_(al, 0x81)?;
        a.out(0x80, al)?;
        a.cmp(rbx, rax)?;
        a.adc(r8, rsi)?;
        a.test(r8, rsi)?;
        a.pushfq()?;
        a.pop(r9)?;
        a.add(r11, r9)?;
        a.xorps(xmm1, xmm2)?;
        a.fxsave64(ptr(rsp - 0x800))?;
        a.jmp(again)?;
        a.set_label(&mut function)?;
        a.lea(r10, qword_ptr(r10 + rdi * 2 + 1))?;
        a.movq(xmm2, r10)?;
        a.ret()?;
        a.assemble(START)
    })();
    assembled.expect("the program assembles")
}

/// What an engine does wrong.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Nothing,
    /// A bit of R14, which the program leaves alone.
    Register,
    /// A byte of RAM that it leaves alone.
    Memory,
    /// A bit of R14, if the instruction is one of several.
    Chained,
    /// These flags.
    Flags(u64),
    /// These flags, if it comes there from instructions in front.
    Late(u64),
    /// The address of the last x87 instruction.
    Fip,
    /// The x87 status word.
    Fsw,
}

/// An engine that does something wrong just after its `at`th instruction.
struct Faulty {
    engine: Box<dyn Engine>,
    wrong: Wrong,
    at: u64,
}

impl Engine for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn run(&mut self, _v: &mut Vcpu, _budget: u64) -> Exit {
        panic!("lock-step goes by pieces")
    }

    fn advance(&mut self, v: &mut Vcpu, limit: u64) -> Result<(), Exception> {
        let before = v.retired;
        if let Wrong::Late(mask) = self.wrong
            && limit > 1
            && (before + 1..before + limit).contains(&(self.at - 1))
        {
            while v.retired < self.at {
                self.engine.advance(v, self.at - v.retired)?;
            }
            let rflags = v.rflags();
            v.set_rflags(rflags ^ mask);
            return Ok(());
        }
        let chained = matches!(self.wrong, Wrong::Chained);
        let limit = if before < self.at && !chained {
            limit.min(self.at - before)
        } else {
            limit
        };
        self.engine.advance(v, limit)?;
        if chained && before + 1 < self.at && v.retired >= self.at {
            v.st.gpr[Gpr::R14 as usize] ^= 1;
        }
        if before < self.at && v.retired == self.at {
            match self.wrong {
                Wrong::Nothing | Wrong::Chained | Wrong::Late(_) => {}
                Wrong::Register => v.st.gpr[Gpr::R14 as usize] ^= 1 << 40,
                Wrong::Memory => v
                    .mmu
                    .ram()
                    .write(PhysAddr(SHARED + 0x800), &[1])
                    .expect("RAM"),
                Wrong::Fip => v.st.fpu.fip ^= 0x1234,
                Wrong::Fsw => v.st.fpu.fsw ^= 0x100,
                Wrong::Flags(mask) => {
                    let rflags = v.rflags();
                    v.set_rflags(rflags ^ mask);
                }
            }
        }
        Ok(())
    }

    fn report(&self, v: &Vcpu) -> Vec<String> {
        self.engine.report(v)
    }

    fn code(&self, v: &Vcpu) -> Option<String> {
        self.engine.code(v)
    }

    fn forget(&mut self, v: &mut Vcpu) {
        self.engine.forget(v);
    }
}

fn engine(kind: EngineKind, wrong: Wrong, at: u64) -> Box<dyn Engine> {
    let options = EngineOptions {
        single: true,
        ..EngineOptions::default()
    };
    let engine = kind.create(&CpuModel::default(), &options);
    Box::new(Faulty { engine, wrong, at })
}

/// Leader and follower over a board with an interrupt queue.
struct Rig {
    lockstep: Lockstep,
    cpus: Vec<Cpu>,
    log: Arc<Log>,
    ram: Arc<GuestRam>,
    machine: Machine,
    now: u64,
}

impl Rig {
    fn new(leaders: Vec<Box<dyn Engine>>, followers: Vec<Box<dyn Engine>>) -> Self {
        let machine = Machine::long(0, true);
        machine
            .ram
            .load_bytes(PhysAddr(START), &program())
            .expect("RAM");
        let handler = [0x49, 0xff, 0xc7, 0x48, 0xcf]; // inc r15; iretq
        let at = PhysAddr(HANDLER + u64::from(VECTOR));
        machine.ram.load_bytes(at, &handler).expect("RAM");
        let (ram, log) = (
            Arc::new(GuestRam::new(RAM).expect("memory for a test")),
            Arc::new(Log::default()),
        );
        let model = Arc::new(CpuModel::default());
        let mut events = vec![Arc::clone(&machine.events)];
        events.resize_with(leaders.len(), Arc::default);
        let lockstep = Lockstep::new(LockstepConfig {
            ram: Arc::clone(&ram),
            mem: RAM,
            model: Arc::clone(&model),
            log: Arc::clone(&log),
            board: Arc::clone(&machine.board) as Arc<dyn Platform>,
            events: events.clone(),
            leader: "leader",
            engines: followers,
        })
        .expect("memory for a test");
        let mut page = [0; 0x1000];
        for at in (0..RAM).step_by(0x1000) {
            if machine.ram.read(PhysAddr(at), &mut page).is_ok() && page != [0; 0x1000] {
                ram.load_bytes(PhysAddr(at), &page).expect("RAM");
            }
        }
        let start = machine.v.st.clone();
        let cpus = leaders
            .into_iter()
            .enumerate()
            .map(|(n, engine)| {
                let bus = lockstep.tap() as Arc<dyn Bus>;
                let mmu = Mmu::new(n, Arc::clone(&ram), bus, model.maxphyaddr());
                let (model, events) = (Arc::clone(&model), Arc::clone(&events[n]));
                let mut v = Vcpu::new(n, model, mmu, events, lockstep.tap());
                v.load_state(state(&start, n));
                Cpu::new(v, engine)
            })
            .collect();
        let mut rig = Self {
            lockstep,
            cpus,
            log,
            ram,
            machine,
            now: 0,
        };
        rig.lockstep.follow(&mut rig.cpus);
        rig
    }

    /// Takes turns until every vCPU has completed `count` instructions; an interrupt comes now and then.
    fn run(&mut self, count: u64) -> Result<(), Box<super::Difference>> {
        while self.cpus.iter().any(|cpu| cpu.vcpu.retired < count) {
            for n in 0..self.cpus.len() {
                let before = self.cpus[n].vcpu.retired;
                self.lockstep.turn(&mut self.cpus, n, TURN, self.now)?;
                self.now += self.cpus[n].vcpu.retired - before;
            }
            self.machine.board.interrupt(VECTOR);
        }
        self.lockstep.check(&mut self.cpus)
    }
}

fn state(start: &CpuState, n: usize) -> CpuState {
    let mut st = start.clone();
    st.gpr[Gpr::Rdi as usize] = DATA + n as u64 * 0x2000;
    st.gpr[Gpr::Rsp as usize] -= n as u64 * 0x400;
    st.activity = x86::Activity::Active;
    st.cr4 |= x86::cr4::OSFXSR;
    st
}

fn rig(leader: (EngineKind, Wrong, u64), follower: (EngineKind, Wrong, u64)) -> Rig {
    let make = |(kind, wrong, at)| vec![engine(kind, wrong, at)];
    Rig::new(make(leader), make(follower))
}

const RIGHT: (EngineKind, Wrong, u64) = (EngineKind::Interp, Wrong::Nothing, 0);

#[test]
fn engines_that_agree_are_left_alone() {
    for kind in EngineKind::ALL {
        let mut rig = rig((kind, Wrong::Nothing, 0), RIGHT);
        if let Err(difference) = rig.run(5 * INTERVAL) {
            panic!("{kind}: {difference}");
        }
        let v = &rig.cpus[0].vcpu;
        assert!(v.st.gpr[Gpr::R15 as usize] > 10, "interrupts were taken");
        assert!(rig.lockstep.counts[0] >= 5);
        assert!(!rig.machine.board.outs.lock().is_empty());
    }
}

#[test]
fn the_first_wrong_instruction_is_found() {
    for at in [1, 2, 63, 64, 65, 4321, TURN, TURN + 1, INTERVAL + 777] {
        for wrong in [Wrong::Register, Wrong::Memory] {
            let bad = (EngineKind::Interp, wrong, at);
            for (leader, follower) in [(bad, RIGHT), (RIGHT, bad)] {
                let mut rig = rig(leader, follower);
                let difference = rig.run(2 * INTERVAL).expect_err("it is wrong");
                assert_eq!(difference.retired + 1, at, "{wrong:?}\n{difference}");
                let text = difference.to_string();
                let what = match wrong {
                    Wrong::Register => "vCPU 0 r14: 0x",
                    _ => "1 bytes of the page at 0x2f000 differ, at 0x2f800",
                };
                assert!(text.contains(what), "{text}");
                assert!(text.contains("  insn +0 len="), "the IR: {text}");
                assert!(text.contains("follower ran before it"), "{text}");
            }
        }
    }
}

#[test]
fn a_report_has_the_translator_s_code() {
    // The IMUL of the 21st round.
    let bad = (EngineKind::Jit, Wrong::Register, 26 * 20 + 3);
    for (leader, follower, name) in [(bad, RIGHT, "leader's"), (RIGHT, bad, "faulty's")] {
        let difference = rig(leader, follower)
            .run(INTERVAL)
            .expect_err("it is wrong");
        let text = difference.to_string();
        let (_, code) = text
            .split_once(&format!("{name} host code:\nblock {:#x}", difference.rip))
            .unwrap_or_else(|| panic!("{text}"));
        let (code, _) = code
            .split_once("the follower ran")
            .expect("what comes next");
        for what in [", 1 instructions", "  hot, ", "  imul rbx,rax", "  cold, "] {
            assert!(code.contains(what), "{what:?}: {text}");
        }
        assert!(!text.contains(&format!(
            "{}'s host code",
            if name == "leader's" {
                "follower"
            } else {
                "leader"
            }
        )));
    }
}

#[test]
fn what_goes_wrong_in_blocks_only_is_found_nearby() {
    let at = 33_333;
    let bad = (EngineKind::Interp, Wrong::Chained, at);
    let difference = rig(bad, RIGHT).run(INTERVAL).expect_err("it is wrong");
    assert!(!difference.alone, "{difference}");
    let behind = difference.retired + 1 - at;
    assert!(behind <= 2 * 64, "{behind}: {difference}");
    assert!(
        difference
            .to_string()
            .contains("goes wrong in a block of several")
    );
    let bad = (EngineKind::Interp, Wrong::Register, at);
    assert!(
        rig(bad, RIGHT)
            .run(INTERVAL)
            .expect_err("it is wrong")
            .alone
    );
}

#[test]
fn the_translator_is_checked_too() {
    let wrong = (EngineKind::Jit, Wrong::Register, 60_000);
    let difference = rig(wrong, RIGHT).run(INTERVAL).expect_err("it is wrong");
    assert_eq!(difference.retired + 1, 60_000, "{difference}");
}

/// Instructions completed after the `nth` TEST of the program on an undisturbed vCPU.
fn after_test(nth: u64) -> u64 {
    1 + 26 * nth + 20
}

#[test]
fn undefined_flags_may_differ_and_defined_ones_may_not() {
    let at = after_test(40);
    // AF goes to the stack by PUSHF and on to R11.
    let bad = (EngineKind::Interp, Wrong::Flags(flags::AF), at);
    let mut one = rig(bad, RIGHT);
    if let Err(difference) = one.run(INTERVAL / 2) {
        panic!("{difference}");
    }
    assert!(one.lockstep.counts[1] > 0, "it was seen");
    for mask in [flags::ZF, flags::AF | flags::PF, flags::DF] {
        let bad = (EngineKind::Interp, Wrong::Flags(mask), at);
        let difference = rig(bad, RIGHT).run(INTERVAL / 2).expect_err("it is wrong");
        assert_eq!(difference.retired + 1, at, "{difference}");
        assert!(difference.to_string().contains("test"), "{difference}");
    }
}

#[test]
fn flags_may_have_become_undefined_before_the_instruction_that_shows_it() {
    // PUSHF, which follows TEST, changes none.
    let at = after_test(400) + 1;
    for (mask, right) in [(flags::AF, true), (flags::ZF, false)] {
        let mut rig = rig((EngineKind::Interp, Wrong::Late(mask), at), RIGHT);
        let checked = rig
            .lockstep
            .turn(&mut rig.cpus, 0, at, 0)
            .and_then(|_| rig.lockstep.check(&mut rig.cpus));
        assert_eq!(rig.cpus[0].vcpu.retired, at);
        assert_eq!(checked.is_ok(), right, "{checked:?}");
        assert_eq!(rig.lockstep.counts[1] > 0, right, "it was seen");
    }
}

#[test]
fn x87_pointers_may_differ_in_images_and_nothing_else_may() {
    let at = after_test(40);
    let mut one = rig((EngineKind::Interp, Wrong::Fip, at), RIGHT);
    if let Err(difference) = one.run(INTERVAL / 2) {
        panic!("{difference}");
    }
    assert!(one.lockstep.counts[3] > 0, "it was seen in an image");
    let bad = (EngineKind::Interp, Wrong::Fsw, at);
    let difference = rig(bad, RIGHT).run(INTERVAL / 2).expect_err("it is wrong");
    assert_eq!(difference.retired + 1, at, "{difference}");
}

#[test]
fn what_devices_write_reaches_the_follower() {
    for noted in [true, false] {
        let mut rig = rig(RIGHT, RIGHT);
        rig.run(1).expect("the same");
        let at = PhysAddr(SHARED + 64);
        if noted {
            rig.log.dma(at, &[1, 2, 3]);
        }
        rig.ram.write(at, &[1, 2, 3]).expect("RAM");
        // RBP is made of it.
        assert_eq!(rig.run(3 * TURN).is_ok(), noted);
    }
}

#[test]
fn a_full_log_ends_the_turn() {
    let mut rig = rig(RIGHT, RIGHT);
    let page = [0; 0x1000];
    for _ in 0..=(16 << 20) / page.len() {
        rig.log.dma(PhysAddr(SHARED + 0x1000), &page);
    }
    let turn = |rig: &mut Rig| {
        rig.lockstep
            .turn(&mut rig.cpus, 0, TURN, 0)
            .unwrap_or_else(|difference| panic!("{difference}"));
        (rig.cpus[0].vcpu.retired, rig.lockstep.counts[0])
    };
    assert_eq!(turn(&mut rig), (0, 1), "nothing but a comparison");
    assert_eq!(turn(&mut rig), (TURN, 1), "which has emptied it");
}

#[test]
fn each_vcpu_is_compared() {
    let engines = |wrong, at| {
        vec![
            engine(EngineKind::Jit, Wrong::Nothing, 0),
            engine(EngineKind::Interp, wrong, at),
        ]
    };
    let mut same = Rig::new(engines(Wrong::Nothing, 0), engines(Wrong::Nothing, 0));
    if let Err(difference) = same.run(INTERVAL) {
        panic!("{difference}");
    }
    let followers = engines(Wrong::Register, 54_321);
    let mut rig = Rig::new(engines(Wrong::Nothing, 0), followers);
    let difference = rig.run(INTERVAL).expect_err("it is wrong");
    assert_eq!(
        (difference.cpu, difference.retired + 1),
        (1, 54_321),
        "{difference}"
    );
}

#[test]
fn a_vcpu_that_does_something_else_on_the_bus_is_found() {
    // AL goes to port 80h, which the log has.
    struct Loud(Box<dyn Engine>);
    impl Engine for Loud {
        fn name(&self) -> &'static str {
            "loud"
        }
        fn run(&mut self, _v: &mut Vcpu, _budget: u64) -> Exit {
            panic!("lock-step goes by pieces")
        }
        fn advance(&mut self, v: &mut Vcpu, limit: u64) -> Result<(), Exception> {
            let before = v.retired;
            self.0.advance(v, limit)?;
            if before < 500 && v.retired >= 500 {
                v.platform.pio_write(0, 0x99, 1, 5);
            }
            Ok(())
        }
        fn report(&self, v: &Vcpu) -> Vec<String> {
            self.0.report(v)
        }
        fn forget(&mut self, v: &mut Vcpu) {
            self.0.forget(v);
        }
    }
    let loud = Box::new(Loud(engine(EngineKind::Interp, Wrong::Nothing, 0)));
    let mut rig = Rig::new(
        vec![engine(EngineKind::Interp, Wrong::Nothing, 0)],
        vec![loud],
    );
    let difference = rig.run(INTERVAL).expect_err("it is wrong");
    assert_eq!(difference.retired + 1, 500, "{difference}");
    let text = difference.to_string();
    assert!(text.contains("writes 0x5 to Port(99, 1)"), "{text}");
}
