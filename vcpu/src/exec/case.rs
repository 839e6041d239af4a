//! What goes in and what comes out: a case, its outcome, and the ways in which it can be refused.

use softmmu::RamError;
use x86::{Segment, TableReg, attr, cr0, cr4, efer};

use super::register::{Register, Value};

/// RAM of a case that doesn't say how much it wants, in bytes.
pub const DEFAULT_RAM: u64 = 16 << 20;

/// A state to start from and how far to go. Registers that it does not name have their values after RESET, RAM is
/// zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Registers.
    pub regs: Vec<(Register, Value)>,
    /// Bytes at physical addresses, laid down in order.
    pub mem: Vec<(u64, Vec<u8>)>,
    /// Bytes of RAM, a multiple of 4096.
    pub ram: u64,
    /// Instructions to complete, and exceptions to deliver.
    pub steps: u64,
    /// Deliver exceptions, or end at the first.
    pub deliver: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            regs: Vec::new(),
            mem: Vec::new(),
            ram: DEFAULT_RAM,
            steps: 1,
            deliver: true,
        }
    }
}

/// Where the constructors put code.
const CODE: u64 = 0x10_0000;
/// Where they put the stack pointer.
const STACK: u64 = 0x20_0000;
/// Where [`Case::long`] puts its page tables.
const TABLES: u64 = 0x1000;

impl Case {
    /// RESET, and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a register that [`Case::new`]'s or another constructor's state has otherwise, by a later value of it.
    ///
    /// # Panics
    /// When there is no register of this name.
    #[must_use]
    pub fn reg(mut self, name: &str, value: impl Into<Value>) -> Self {
        let register: Register = match name.parse() {
            Ok(register) => register,
            Err(_) => panic!("there is no register `{name}`"),
        };
        self.regs.retain(|(other, _)| {
            other.slot() != register.slot() || (register.slot().is_none() && *other != register)
        });
        self.regs.push((register, value.into()));
        self
    }

    /// Lays down bytes at a physical address.
    #[must_use]
    pub fn mem(mut self, at: u64, bytes: &[u8]) -> Self {
        self.mem.push((at, bytes.to_vec()));
        self
    }

    /// Sets the number of steps.
    #[must_use]
    pub fn steps(mut self, steps: u64) -> Self {
        self.steps = steps;
        self
    }

    /// Says whether exceptions are delivered.
    #[must_use]
    pub fn deliver(mut self, deliver: bool) -> Self {
        self.deliver = deliver;
        self
    }

    /// Real mode with all segments at 0; the code lies at 7C00h, the stack below it.
    pub fn real(code: &[u8]) -> Self {
        let mut case = Self::new()
            .reg("rip", 0x7c00)
            .reg("rsp", 0x7c00)
            .mem(0x7c00, code);
        for seg in ["es", "cs", "ss", "ds", "fs", "gs"] {
            case = case.reg(seg, 0);
        }
        case.reg("cr0", cr0::ET | cr0::NE).fpu()
    }

    /// Virtual-8086 mode with IOPL 3, otherwise as [`Case::real`].
    pub fn vm86(code: &[u8]) -> Self {
        Self::real(code)
            .reg("rflags", x86::flags::VM | x86::flags::IOPL)
            .reg("cr0", cr0::PE | cr0::ET | cr0::NE)
    }

    /// Flat 32-bit protected mode at privilege level 0, unpaged, SSE on; the code lies at 1 MiB, the stack below 2 MiB.
    pub fn protected(code: &[u8]) -> Self {
        Self::flat(code, attr::DB).reg("cr0", cr0::PE | cr0::ET | cr0::NE | cr0::MP)
    }

    /// 64-bit code at privilege level 0, the first GiB of memory mapped at itself for all levels, SSE on; the code lies
    /// at 1 MiB, the stack below 2 MiB, page tables from 1000h to 4000h.
    pub fn long(code: &[u8]) -> Self {
        let (pdpt, directory) = (TABLES + 0x1000, TABLES + 0x2000);
        // Present, writable, user; 2 MiB large; accessed and dirty, so that the CPU has nothing to set.
        let entries: Vec<u8> = (0..512_u64)
            .flat_map(|n| (n << 21 | 0xe7).to_le_bytes())
            .collect();
        Self::flat(code, attr::L)
            .mem(TABLES, &(pdpt | 0x27).to_le_bytes())
            .mem(pdpt, &(directory | 0x27).to_le_bytes())
            .mem(directory, &entries)
            .reg(
                "cr0",
                cr0::PE | cr0::ET | cr0::NE | cr0::MP | cr0::WP | cr0::PG,
            )
            .reg("cr3", TABLES)
            .reg("cr4", cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT)
            .reg("efer", efer::LME | efer::LMA | efer::SCE | efer::NXE)
    }

    fn flat(code: &[u8], size: u32) -> Self {
        let data = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G;
        let segment = |attr, selector| Segment {
            base: 0,
            limit: u32::MAX,
            attr,
            selector,
        };
        let mut case = Self::new()
            .reg("rip", CODE)
            .reg("rsp", STACK)
            .mem(CODE, code);
        for seg in ["es", "ss", "ds", "fs", "gs"] {
            case = case.reg(seg, segment(data | attr::DB, 16));
        }
        case.reg("cs", segment(data | attr::CODE | size, 8))
            .reg("gdtr", TableReg::default())
            .reg("idtr", TableReg::default())
            .reg("cr4", cr4::OSFXSR | cr4::OSXMMEXCPT)
            .fpu()
    }

    /// The FPU as FNINIT leaves it.
    fn fpu(self) -> Self {
        self.reg("fcw", 0x37f).reg("ftw", 0)
    }
}

/// An exception or a software interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its vector.
    pub vector: u8,
    /// Its error code, if it has one.
    pub error: Option<u32>,
    /// #PF's address.
    pub cr2: Option<u64>,
    /// INT n, INT3, INTO or INT1.
    pub soft: bool,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An exception or software interrupt came up and was not to be delivered.
    Exception,
    /// A triple fault.
    Shutdown,
    /// HLT completed.
    Halt,
    /// All steps are done.
    Steps,
}

impl End {
    /// Its name in the answer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exception => "exception",
            Self::Shutdown => "shutdown",
            Self::Halt => "halt",
            Self::Steps => "steps",
        }
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The registers whose values differ from the case's start.
    pub regs: Vec<(Register, Value)>,
    /// The maximal runs of bytes that differ from the case's start, ascending.
    pub mem: Vec<(u64, Vec<u8>)>,
    /// Instructions completed.
    pub retired: u64,
    /// Why it ended.
    pub end: End,
    /// The event that ended it, with [`End::Exception`].
    pub exception: Option<Event>,
    /// The events delivered, in order.
    pub delivered: Vec<Event>,
}

impl Outcome {
    /// A register's new value, if it has changed and is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A register's new value, if it has changed.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let wanted: Register = name.parse().ok()?;
        self.regs
            .iter()
            .find(|(register, _)| *register == wanted)
            .map(|(_, value)| value)
    }
}

/// Why a case could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It isn't one: what is wrong with it.
    #[error("{0}")]
    Case(String),
    /// The host has no memory for it.
    #[error(transparent)]
    Ram(#[from] RamError),
}
