//! Memory order between vCPUs on threads of their own: small programs whose outcomes are counted, and those that x86
//! forbids (SDM vol. 3, 10.2) must not be among them.
//!
//! ```text
//! round i:   slot i:  x ......64 y ......128  a thread's two results i
//! batch:     all vCPUs go through the slots side by side, and wait for each other every few rounds; the host then looks
//! ```
//! What is written is new in each batch, so that nothing has to be cleared. Two kinds of programs show that this can
//! fail: one whose outcome x86 allows and CPUs show (a store waits in a store buffer while a later load is made), and
//! programs with what they must not do (stores the wrong way round, an increment that is not locked).
//!
//! The loops are hot: with traces they are translated again as a whole, and so are the ways through the waits.
//!
//! `DOPPEL_LITMUS_ROUNDS=100000000 cargo test --release -p vcpu --test litmus -- --nocapture` takes minutes.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module by itself"
)]

use std::sync::{Arc, Barrier, Mutex, PoisonError};

use backend_jit::{Jit, Tracing};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmmu::GuestRam;
use system::testing::{Machine, START};
use system::{Exit, event};
use vcpu::{Cpu, EngineKind, EngineOptions};
use x86::{CpuState, Gpr, PhysAddr, cr4};

/// Rounds of a batch.
const BATCH: u64 = 4096;
/// The slots: x, y and a place across two lines (in each sixteenth slot across two pages).
const SLOTS: u64 = 0x20_0000;
const SLOT: u64 = 256;
const Y: i32 = 64;
const SPLIT: i32 = 252;
/// Results of the first vCPU, and how far the next one's are.
const RESULTS: u64 = 0x31_0000;
const RESULTS_EACH: u64 = BATCH * 16;
/// How far each vCPU has come, a line each.
const PROGRESS: u64 = 0x38_0000;
/// Their stacks, a page each.
const STACKS: u64 = 0x39_0000;
/// More batches than that make a long run.
const LONG: u64 = 1000;
/// Batches in which a control must have shown what it is there for.
const CONTROL_BATCHES: u64 = 4000;

/// What a vCPU does in a round: RBX and RBP are the values to write, x is at RDI, its results are RAX and RDX.
type Body = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// What came of a round.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// The values written.
    new: [u64; 2],
    results: [[u64; 2]; 4],
    /// What is in x and y at the end, where the test asks for it.
    last: [u64; 2],
}

impl Round {
    /// Which results are of this round.
    fn saw(&self, cpu: usize) -> [bool; 2] {
        self.results[cpu].map(|value| self.new.contains(&value))
    }
}

struct Litmus {
    name: &'static str,
    bodies: &'static [Body],
    /// Rounds after which vCPUs wait for each other.
    together: u64,
    /// The host looks at x and y.
    last: bool,
    forbidden: fn(&Round) -> bool,
}

/// Loads of [x] and [y], stores of RBX there.
fn load_x(a: &mut CodeAssembler, to: AsmRegister64) -> Result<(), IcedError> {
    a.mov(to, qword_ptr(rdi))
}

fn load_y(a: &mut CodeAssembler, to: AsmRegister64) -> Result<(), IcedError> {
    a.mov(to, qword_ptr(rdi + Y))
}

fn store_x(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(qword_ptr(rdi), rbx)
}

fn store_y(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(qword_ptr(rdi + Y), rbx)
}

/// The flag was seen, what was written before it was not.
fn late(r: &Round) -> bool {
    r.saw(1) == [true, false]
}

/// Neither vCPU saw the other's store.
fn both_early(r: &Round) -> bool {
    !r.saw(0)[0] && !r.saw(1)[0]
}

/// Both locked additions found the same.
fn lost(r: &Round) -> bool {
    r.results[0][0] == r.results[1][0]
}

const READ_FLAG: Body = |a| {
    load_y(a, rax)?;
    load_x(a, rdx)
};

const TESTS: &[Litmus] = &[
    Litmus {
        name: "MP",
        bodies: &[
            |a| {
                store_x(a)?;
                store_y(a)
            },
            READ_FLAG,
        ],
        together: 32,
        last: false,
        forbidden: late,
    },
    Litmus {
        name: "MP, parts of a vector",
        bodies: &[
            |a| {
                a.movq(xmm1, rbx)?;
                a.movups(xmmword_ptr(rdi), xmm1)?;
                a.movq(qword_ptr(rdi + Y), xmm1)
            },
            |a| {
                load_y(a, rax)?;
                a.movups(xmm2, xmmword_ptr(rdi))?;
                a.movq(rdx, xmm2)
            },
        ],
        together: 32,
        last: false,
        forbidden: late,
    },
    Litmus {
        name: "CoRR",
        bodies: &[store_x, |a| {
            load_x(a, rax)?;
            load_x(a, rdx)
        }],
        together: 32,
        last: false,
        forbidden: late,
    },
    Litmus {
        name: "SB with MFENCE",
        bodies: &[
            |a| {
                store_x(a)?;
                a.mfence()?;
                load_y(a, rax)
            },
            |a| {
                store_y(a)?;
                a.mfence()?;
                load_x(a, rax)
            },
        ],
        together: 32,
        last: false,
        forbidden: both_early,
    },
    Litmus {
        name: "SB, locked",
        bodies: &[
            |a| {
                a.mov(rdx, rbx)?;
                a.xchg(qword_ptr(rdi), rdx)?;
                load_y(a, rax)
            },
            |a| {
                store_y(a)?;
                a.lock().or(dword_ptr(rsp - 64), 0)?;
                load_x(a, rax)
            },
        ],
        together: 32,
        last: false,
        forbidden: both_early,
    },
    Litmus {
        name: "LB",
        bodies: &[
            |a| {
                load_x(a, rax)?;
                store_y(a)
            },
            |a| {
                load_y(a, rax)?;
                store_x(a)
            },
        ],
        together: 32,
        last: false,
        forbidden: |r| r.saw(0)[0] && r.saw(1)[0],
    },
    Litmus {
        name: "2+2W",
        bodies: &[
            |a| {
                store_x(a)?;
                a.mov(qword_ptr(rdi + Y), rbp)
            },
            |a| {
                store_y(a)?;
                a.mov(qword_ptr(rdi), rbp)
            },
        ],
        together: 32,
        last: true,
        forbidden: |r| r.last == [r.new[0]; 2],
    },
    Litmus {
        name: "IRIW",
        bodies: &[
            store_x,
            store_y,
            |a| {
                load_x(a, rax)?;
                load_y(a, rdx)
            },
            READ_FLAG,
        ],
        together: 512,
        last: false,
        forbidden: |r| r.saw(2) == [true, false] && r.saw(3) == [true, false],
    },
    Litmus {
        name: "locked",
        bodies: &[
            |a| {
                a.mov(eax, 1)?;
                a.lock().xadd(qword_ptr(rdi), rax)
            },
            |a| {
                let (mut again, mut done) = (a.create_label(), a.create_label());
                load_x(a, rax)?;
                a.set_label(&mut again)?;
                a.lea(rdx, qword_ptr(rax + 1))?;
                a.lock().cmpxchg(qword_ptr(rdi), rdx)?;
                a.je(done)?;
                a.jmp(again)?;
                a.set_label(&mut done)?;
                a.nop()
            },
        ],
        together: 32,
        last: false,
        forbidden: lost,
    },
    Litmus {
        name: SPLIT_LOCK,
        bodies: &[ADD_SPLIT, ADD_SPLIT],
        together: 32,
        last: false,
        // Both halves count the same.
        forbidden: |r| {
            let torn = |n: usize| r.results[n][0] >> 32 != r.results[n][0] & 0xffff_ffff;
            lost(r) || torn(0) || torn(1)
        },
    },
    Litmus {
        name: "MP, non-temporal",
        bodies: &[
            |a| {
                a.movnti(qword_ptr(rdi), rbx)?;
                a.sfence()?;
                store_y(a)
            },
            READ_FLAG,
        ],
        together: 32,
        last: false,
        forbidden: late,
    },
    Litmus {
        name: "MP, non-temporal vector",
        bodies: &[
            |a| {
                a.movq(xmm1, rbx)?;
                a.movntdq(xmmword_ptr(rdi), xmm1)?;
                a.sfence()?;
                store_y(a)
            },
            READ_FLAG,
        ],
        together: 32,
        last: false,
        forbidden: late,
    },
];

/// The interpreter does these additions: the loop is left at each.
const SPLIT_LOCK: &str = "split lock";

const ADD_SPLIT: Body = |a| {
    a.mov(rax, 0x1_0000_0001_u64)?;
    a.lock().xadd(qword_ptr(rdi + SPLIT), rax)
};

/// What x86 allows and CPUs do, and what goes wrong by itself: their outcomes must be seen.
const CONTROLS: &[Litmus] = &[
    Litmus {
        name: "SB without a fence",
        bodies: &[
            |a| {
                store_x(a)?;
                load_y(a, rax)
            },
            |a| {
                store_y(a)?;
                load_x(a, rax)
            },
        ],
        together: 32,
        last: false,
        forbidden: both_early,
    },
    Litmus {
        name: "MP with the stores the wrong way round",
        bodies: &[
            |a| {
                store_y(a)?;
                delay(a)?;
                store_x(a)
            },
            READ_FLAG,
        ],
        together: 32,
        last: false,
        forbidden: late,
    },
    Litmus {
        name: "additions that are not locked",
        bodies: &[ADD_PLAINLY, ADD_PLAINLY],
        together: 32,
        last: false,
        forbidden: lost,
    },
];

const ADD_PLAINLY: Body = |a| {
    load_x(a, rax)?;
    a.lea(rdx, qword_ptr(rax + 1))?;
    delay(a)?;
    a.mov(qword_ptr(rdi), rdx)
};

/// Some nanoseconds, so that there is something to be seen even where CPUs are seldom at the same place.
fn delay(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for _ in 0..16 {
        a.imul_3(r11, r11, 3)?;
    }
    Ok(())
}

/// The program of vCPU `index` of `count`: `BATCH` rounds, a wait for the others at the start and every `together`.
/// RDI, RSI, RBX, RBP as for a [`Body`]; R8 is its progress, ECX the rounds left, R10 what the jitter comes from.
fn program(test: &Litmus, index: usize) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    let (mut round, mut jitter, mut on) = (a.create_label(), a.create_label(), a.create_label());
    let progress = |n: usize| PROGRESS + 64 * n as u64;
    let assembled = (|| {
        a.set_label(&mut round)?;
        a.test(ecx, test.together as i32 - 1)?;
        a.jne(on)?;
        a.inc(r8)?;
        a.mov(qword_ptr(progress(index)), r8)?;
        for other in (0..test.bodies.len()).filter(|n| *n != index) {
            let (mut wait, mut there) = (a.create_label(), a.create_label());
            a.set_label(&mut wait)?;
            a.cmp(qword_ptr(progress(other)), r8)?;
            a.jae(there)?;
            a.pause()?;
            a.jmp(wait)?;
            a.set_label(&mut there)?;
            a.nop()?;
        }
        a.set_label(&mut on)?;
        // A delay of up to 63 turns, different ones on each vCPU: they fall behind and catch up.
        a.imul_3(r10d, r10d, 1_664_525 + 8 * index as i32)?;
        a.add(r10d, 1_013_904_223)?;
        a.mov(eax, r10d)?;
        a.shr(eax, 26)?;
        a.set_label(&mut jitter)?;
        a.sub(eax, 1)?;
        a.jns(jitter)?;
        (test.bodies[index])(&mut a)?;
        a.mov(qword_ptr(rsi), rax)?;
        a.mov(qword_ptr(rsi + 8), rdx)?;
        a.add(rdi, SLOT as i32)?;
        a.add(rsi, 16)?;
        a.sub(ecx, 1)?;
        a.jne(round)?;
        a.hlt()?;
        a.assemble(START + 0x1000 * index as u64)
    })();
    assembled.expect("the program assembles")
}

/// The state of vCPU `index` at a batch's start.
fn start(first: &CpuState, index: usize, epoch: u64, together: u64) -> CpuState {
    let mut st = first.clone();
    st.cr4 |= cr4::OSFXSR;
    st.rip = START + 0x1000 * index as u64;
    let mut set = |gpr: Gpr, value: u64| st.gpr[gpr as usize] = value;
    set(Gpr::Rdi, SLOTS);
    set(Gpr::Rsi, RESULTS + RESULTS_EACH * index as u64);
    set(Gpr::Rbx, 2 * epoch);
    set(Gpr::Rbp, 2 * epoch + 1);
    set(Gpr::Rcx, BATCH);
    set(Gpr::Rsp, STACKS + 0x1000 * (index as u64 + 1));
    // So often has it waited before.
    set(Gpr::R8, (epoch - 1) * (BATCH / together));
    set(
        Gpr::R10,
        epoch.wrapping_mul(0x9e37_79b9).wrapping_add(index as u64),
    );
    st
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Counts the forbidden outcomes of a batch.
fn look(test: &Litmus, ram: &GuestRam, epoch: u64, bytes: &mut Vec<u8>) -> u64 {
    let cpus = test.bodies.len();
    let results = cpus * RESULTS_EACH as usize;
    bytes.resize(results, 0);
    ram.read(PhysAddr(RESULTS), bytes).expect("RAM");
    let mut count = 0;
    for n in 0..BATCH as usize {
        let mut round = Round {
            new: [2 * epoch, 2 * epoch + 1],
            results: [[0; 2]; 4],
            last: [0; 2],
        };
        for (cpu, of) in round.results.iter_mut().enumerate().take(cpus) {
            let at = cpu * RESULTS_EACH as usize + n * 16;
            *of = [word(bytes, at), word(bytes, at + 8)];
        }
        if test.last {
            let mut slot = [0; Y as usize + 8];
            ram.read(PhysAddr(SLOTS + SLOT * n as u64), &mut slot)
                .expect("RAM");
            round.last = [word(&slot, 0), word(&slot, Y as usize)];
        }
        count += u64::from((test.forbidden)(&round));
    }
    count
}

/// Binds the thread to a host CPU of its own, as far as there are enough: neighbours on one CPU never meet.
fn spread(index: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|n| allowed.is_set(*n))
        .collect();
    let mut one = CpuSet::new();
    one.set(cpus[index % cpus.len()]);
    // Where that is forbidden, the scheduler will spread them now and then.
    let _ = sched_setaffinity(None, &one);
}

/// How programs are run.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way {
    engine: EngineKind,
    traces: Tracing,
}

impl Way {
    /// All engines, and with traces those that have them; only what emits code where the run is long, and then also with the traces
    /// that a thread makes when it finds them.
    fn all(long: bool) -> Vec<Self> {
        let mut all: Vec<Self> = EngineKind::ALL
            .into_iter()
            .filter(|engine| !long || *engine == EngineKind::auto())
            .map(|engine| Self {
                engine,
                traces: Tracing::Off,
            })
            .collect();
        if EngineKind::auto() == EngineKind::Jit {
            let traces: &[Tracing] = if long {
                &[Tracing::Eager, Tracing::On]
            } else {
                &[Tracing::Eager]
            };
            all.extend(traces.iter().map(|traces| Self {
                engine: EngineKind::Jit,
                traces: *traces,
            }));
        }
        all
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, traces {:?}", self.engine, self.traces)
    }
}

/// What came of a run.
struct Outcome {
    rounds: u64,
    /// Those with the forbidden outcome.
    count: u64,
    traces: u64,
}

/// Runs `batches` of a test, fewer if `until` has enough.
fn run(test: &Litmus, way: Way, batches: u64, until: u64) -> Outcome {
    let first = Machine::long(0, true);
    let ram = Arc::clone(&first.ram);
    let cpus = test.bodies.len();
    let mut machines: Vec<Machine> = (1..cpus).map(|n| first.beside(n)).collect();
    machines.insert(0, first);
    let told: Vec<_> = machines.iter().map(|m| Arc::clone(&m.events)).collect();
    ram.set_kick(Box::new(move |cpu| told[cpu].raise(event::CODE)));
    let initial = machines[0].v.st.clone();
    // One cache for all.
    let options = EngineOptions {
        traces: way.traces,
        ..EngineOptions::default()
    };
    let features = Features::new(&machines[0].v.model.features_iced());
    for index in 0..cpus {
        let code = program(test, index);
        ram.load_bytes(PhysAddr(START + 0x1000 * index as u64), &code)
            .expect("RAM");
    }
    let barrier = Barrier::new(cpus);
    let done = Mutex::new((0, 0));
    std::thread::scope(|scope| {
        for (index, machine) in machines.into_iter().enumerate() {
            let (ram, barrier, done, initial) = (&ram, &barrier, &done, &initial);
            let options = &options;
            scope.spawn(move || {
                spread(index);
                let engine = way.engine.create(&machine.v.model, options);
                let mut cpu = Cpu::new(machine.v, engine);
                let mut bytes = Vec::new();
                for epoch in 1..=batches {
                    cpu.vcpu
                        .load_state(start(initial, index, epoch, test.together));
                    barrier.wait();
                    let exit = vcpu::turn(&mut cpu, 1 << 40, 0);
                    if exit != Exit::Halted {
                        // The others wait for this one for ever.
                        eprintln!("{}: {exit:?}\n{}", test.name, cpu.vcpu.dump());
                        std::process::abort();
                    }
                    barrier.wait();
                    if index == 0 {
                        let count = look(test, ram, epoch, &mut bytes);
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        *done = (epoch * BATCH, done.1 + count);
                    }
                    barrier.wait();
                    if done.lock().unwrap_or_else(PoisonError::into_inner).1 >= until {
                        break;
                    }
                }
            });
        }
    });
    let (rounds, count) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // What shares the cache counts for all.
    let shares = backend_jit::Options {
        cache: options.cache.clone(),
        ..backend_jit::Options::default()
    };
    let traces = match way.traces {
        Tracing::Off => 0,
        _ => Jit::new(features, shares).counts().traces,
    };
    Outcome {
        rounds,
        count,
        traces,
    }
}

fn rounds() -> u64 {
    let asked = std::env::var("DOPPEL_LITMUS_ROUNDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

#[test]
fn what_x86_forbids_is_not_seen() {
    let batches = rounds().div_ceil(BATCH);
    for way in Way::all(batches > LONG) {
        let mut all = 0;
        for test in TESTS {
            let time = std::time::Instant::now();
            let Outcome {
                rounds,
                count,
                traces,
            } = run(test, way, batches, u64::MAX);
            println!(
                "{way}: {}: {count} of {rounds} rounds, {traces} traces, {:.1?}",
                test.name,
                time.elapsed()
            );
            assert_eq!(count, 0, "{way}: {}: {rounds} rounds", test.name);
            all += traces;
        }
        // How many there are of one program depends on who comes by first; what the thread finds, on time.
        if way.traces == Tracing::Eager {
            assert!(all >= TESTS.len() as u64, "{way}: {all} traces");
        }
    }
}

#[test]
fn what_goes_wrong_is_seen() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: one CPU shows no order");
        return;
    }
    let all = rounds().div_ceil(BATCH);
    for way in Way::all(all > LONG) {
        for control in CONTROLS {
            // A long run tells how often.
            let (batches, until) = if all > LONG {
                (all, u64::MAX)
            } else {
                (CONTROL_BATCHES, 1)
            };
            let Outcome { rounds, count, .. } = run(control, way, batches, until);
            println!("{way}: {}: {count} of {rounds} rounds", control.name);
            assert_ne!(count, 0, "{way}: {}: not in {rounds} rounds", control.name);
        }
    }
}
