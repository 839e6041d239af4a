//! Runs cases one after the other on one vCPU: lays down what a case names, steps, and finds what has changed.

use std::sync::Arc;

use softmmu::{Bus, Mmu, RamError};
use system::{Boundary, CpuModel, Current, Engine, Events, Platform, SoftInts, Vcpu, msr};
use x86::{Activity, Exception, PAGE_SIZE};

use super::board::Board;
use super::case::{Case, End, Event, ExecError, Outcome};
use super::changes::{self, Before};
use super::memory::{MAX_RAM, Memory};
use super::register::Register;
use super::start::{Start, start};
use crate::{EngineKind, EngineOptions};

/// Instructions that the engine may do before software interrupts are noted.
const CHUNK: u64 = 1 << 16;
/// Cases after which the engine forgets its code: so many blocks that nobody will need again cost more than they help.
const CASES: u32 = 1024;
/// What RDRAND starts from.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// A CPU that runs [`Case`]s.
pub struct Exec {
    model: Arc<CpuModel>,
    engine: Box<dyn Engine>,
    machine: Option<Machine>,
    /// Cases since the engine last forgot its code.
    cases: u32,
    /// How often the engine may be called for one case; fuzzing has no time for endless ones.
    pub(super) patience: u64,
}

/// The parts that last from case to case.
struct Machine {
    v: Box<Vcpu>,
    board: Arc<Board>,
    memory: Memory,
}

impl Machine {
    fn new(size: u64, model: &Arc<CpuModel>) -> Result<Self, RamError> {
        let memory = Memory::new(size)?;
        let board = Arc::new(Board::new(model.maxphyaddr()));
        let bus = Arc::clone(&board) as Arc<dyn Bus>;
        let mmu = Mmu::new(0, Arc::clone(memory.ram()), bus, model.maxphyaddr());
        let platform = Arc::clone(&board) as Arc<dyn Platform>;
        let v = Vcpu::new(
            0,
            Arc::clone(model),
            mmu,
            Arc::new(Events::default()),
            platform,
        );
        Ok(Self { v, board, memory })
    }
}

impl Exec {
    /// A CPU of this model on the engine that `auto` picks.
    pub fn new(model: CpuModel) -> Self {
        Self::with_engine(model, EngineKind::auto())
    }

    /// A CPU of this model on a given engine.
    pub fn with_engine(model: CpuModel, engine: EngineKind) -> Self {
        let engine = engine.create(&model, &EngineOptions::default());
        Self {
            model: Arc::new(model),
            engine,
            machine: None,
            cases: 0,
            patience: u64::MAX,
        }
    }

    /// The CPU's model.
    pub fn model(&self) -> &CpuModel {
        &self.model
    }

    /// Runs a case. What earlier cases did is no part of it.
    ///
    /// # Errors
    /// [`ExecError::Case`] if it is not one; [`ExecError::Ram`] if the host has no memory for it.
    pub fn run(&mut self, case: &Case) -> Result<Outcome, ExecError> {
        check_memory(case).map_err(ExecError::Case)?;
        let start = start(&self.model, &case.regs).map_err(ExecError::Case)?;
        let mut machine = match self.machine.take() {
            Some(machine) if machine.memory.size() == case.ram => machine,
            other => {
                drop(other);
                let mut machine = Machine::new(case.ram, &self.model)?;
                self.engine.forget(&mut machine.v);
                machine
            }
        };
        self.cases += 1;
        if self.cases == CASES {
            self.cases = 0;
            self.engine.forget(&mut machine.v);
        }
        let outcome = self.run_on(&mut machine, case, start);
        self.machine = Some(machine);
        outcome.map_err(ExecError::Case)
    }

    fn run_on(
        &mut self,
        machine: &mut Machine,
        case: &Case,
        start: Start,
    ) -> Result<Outcome, String> {
        let Machine { v, board, memory } = machine;
        memory.lay(&case.mem);
        let names = begin(v, board, memory, start, case.deliver)?;
        let before = Before {
            st: v.st.clone(),
            tsc: v.fixed_tsc.unwrap_or_default(),
            cr8: board.cr8(),
            apic_base: board.apic_base(),
        };
        let mut run = Run {
            engine: self.engine.as_mut(),
            left: case.steps,
            patience: self.patience,
            delivered: Vec::new(),
            exception: None,
        };
        let _current = Current::enter(v);
        let end = if case.deliver {
            run.delivering(v)
        } else {
            run.until_event(v)
        };
        let (exception, delivered) = (run.exception, run.delivered);
        Ok(Outcome {
            regs: changes::registers(&before, v, board, &names),
            mem: memory.changes(),
            retired: v.retired,
            end,
            exception,
            delivered,
        })
    }
}

/// Whether the case's RAM can be had and its bytes lie in it.
fn check_memory(case: &Case) -> Result<(), String> {
    let ram = case.ram;
    if ram == 0 || !ram.is_multiple_of(PAGE_SIZE) || ram > MAX_RAM {
        return Err(format!(
            "ram: {ram} bytes; it must be a multiple of 4096, not 0, and at most {MAX_RAM}"
        ));
    }
    for (n, (at, bytes)) in case.mem.iter().enumerate() {
        if at
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > ram)
        {
            let len = bytes.len();
            return Err(format!(
                "mem[{n}]: {len} bytes at {at:#x} do not lie in RAM of {ram:#x} bytes; ask for more (ram)"
            ));
        }
    }
    Ok(())
}

/// Brings the vCPU into the state that the case starts from.
fn begin(
    v: &mut Vcpu,
    board: &Board,
    memory: &Memory,
    start: Start,
    deliver: bool,
) -> Result<super::start::Names, String> {
    let Start {
        mut st,
        tsc,
        cr8,
        apic_base,
        msrs,
        names,
    } = start;
    let pae = st.cr0 & x86::cr0::PG != 0 && st.cr4 & x86::cr4::PAE != 0 && !st.long_mode();
    if pae {
        st.pdpte =
            softmmu::read_pdptes(memory.ram(), st.cr3, v.model.maxphyaddr()).map_err(|_| {
                "cr3: it leads to a page-directory-pointer entry with reserved bits".to_owned()
            })?;
    }
    v.mmu.sync();
    v.events.lower(u32::MAX);
    v.event_mask = u32::MAX;
    v.retired = 0;
    v.random = SEED;
    v.fixed_tsc = Some(tsc);
    v.soft_ints = if deliver {
        SoftInts::Note(Vec::new())
    } else {
        SoftInts::Hold(None)
    };
    v.load_state(st);
    board.set(cr8, apic_base);
    for (number, value) in msrs {
        // A case's mistake is told in the answer, not by a warning about the guest.
        let new = v.warned.insert(number);
        let done = msr::write_msr(v, number, value);
        if new {
            v.warned.remove(&number);
        }
        if done.is_err() {
            return Err(match msr::read_msr(v, number) {
                Ok(_) => format!("{}: no CPU has {value:#x} in it", Register::Msr(number)),
                Err(_) => format!("{}: this CPU does not have it", Register::Msr(number)),
            });
        }
    }
    v.event_mask = u32::MAX;
    Ok(names)
}

/// One case on its way.
struct Run<'a> {
    engine: &'a mut dyn Engine,
    left: u64,
    patience: u64,
    delivered: Vec<Event>,
    exception: Option<Event>,
}

impl Run<'_> {
    /// One or more instructions.
    fn advance(&mut self, v: &mut Vcpu) -> Result<(), Exception> {
        let before = v.retired;
        self.patience -= 1;
        let result = self.engine.advance(v, self.left.min(CHUNK));
        self.left = self.left.saturating_sub(v.retired.wrapping_sub(before));
        if let SoftInts::Note(noted) = &mut v.soft_ints {
            self.delivered.extend(noted.drain(..).map(soft));
        }
        result
    }

    /// Delivers whatever comes up.
    fn delivering(&mut self, v: &mut Vcpu) -> End {
        while self.left != 0 && self.patience != 0 {
            match v.boundary() {
                Boundary::Run => {}
                Boundary::Delivered(e) => {
                    self.deliver(&e);
                    continue;
                }
                Boundary::Shutdown => return End::Shutdown,
                Boundary::Halted | Boundary::WaitForSipi | Boundary::Stop => return End::Halt,
            }
            match self.advance(v) {
                Ok(()) if v.st.activity == Activity::Halted => {
                    // A trap that HLT itself caused wakes the CPU at once.
                    if self.left == 0 || v.pending_trap().is_none() {
                        return End::Halt;
                    }
                }
                Ok(()) => {}
                Err(e) => match v.raise(e) {
                    Ok(e) => self.deliver(&e),
                    Err(_) => return End::Shutdown,
                },
            }
        }
        End::Steps
    }

    fn deliver(&mut self, e: &Exception) {
        self.delivered.push(hard(e));
        self.left -= 1;
    }

    /// Ends at the first event.
    fn until_event(&mut self, v: &mut Vcpu) -> End {
        while self.left != 0 && self.patience != 0 {
            if let Err(e) = self.advance(v) {
                let event = match v.soft_ints {
                    SoftInts::Hold(Some(vector)) => {
                        v.st.rip = v.next_ip;
                        soft(vector)
                    }
                    _ => self.undelivered(v, &e),
                };
                self.exception = Some(event);
                return End::Exception;
            }
            if let Some(trap) = v.pending_trap() {
                self.exception = Some(self.undelivered(v, &trap));
                return End::Exception;
            }
            if v.st.activity == Activity::Halted {
                return End::Halt;
            }
        }
        End::Steps
    }

    /// An exception as it would be delivered; in real mode that is without error code.
    fn undelivered(&self, v: &Vcpu, e: &Exception) -> Event {
        let mut event = hard(e);
        if v.st.real_mode() {
            event.error = None;
        }
        event
    }
}

fn hard(e: &Exception) -> Event {
    Event {
        vector: e.vector,
        error: e.error,
        cr2: e.cr2,
        soft: false,
    }
}

fn soft(vector: u8) -> Event {
    Event {
        vector,
        error: None,
        cr2: None,
        soft: true,
    }
}
