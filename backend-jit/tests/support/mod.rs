//! Programs for the translator: machines that run them, and all the ways to run them.

use backend_interp::Interp;
use backend_jit::{By, Jit, Options, Tracing, Windows};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{HANDLER, Machine, START};
use system::{Engine, Exit};
use x86::{Gpr, PhysAddr, cr4};

/// Where programs keep data.
pub const DATA: u64 = START + 0x3000;

/// A way to run a program.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Interp,
    /// So many instructions at a time, so many bytes for code.
    Jit(u64, usize),
    /// As `Jit`, with blocks that check themselves and read their constants.
    Changing(u64, usize),
    /// As `Jit`, with accesses by the TLB.
    Hops(u64, usize),
    /// As `Jit`, with loads by the table of large pages.
    Large(u64, usize),
    /// As `Jit`, with traces of all that runs twice.
    Traces(u64, usize),
    /// As `Jit`, with 32-bit code through windows.
    Windows(u64, usize),
    /// As `Jit`, with page caches that are empty at each entry and seem to know a page that is used.
    Astray(u64, usize),
}

impl Way {
    /// Whether it counts instructions.
    pub fn counts(self) -> bool {
        matches!(self, Self::Jit(piece, _) | Self::Traces(piece, _) if piece < 1 << 36)
    }
}

pub const WAYS: [Way; 17] = [
    Way::Interp,
    // Not counted.
    Way::Jit(1 << 40, 1 << 24),
    Way::Jit(1 << 40, 1 << 16),
    Way::Jit(1 << 30, 1 << 24),
    Way::Jit(1, 1 << 20),
    Way::Jit(70, 1 << 20),
    Way::Jit(333, 1 << 20),
    Way::Changing(1 << 40, 1 << 24),
    Way::Changing(1 << 40, 1 << 16),
    Way::Changing(333, 1 << 20),
    Way::Hops(1 << 40, 1 << 20),
    Way::Large(1 << 40, 1 << 20),
    Way::Traces(1 << 40, 1 << 24),
    Way::Traces(1 << 40, 1 << 16),
    Way::Traces(333, 1 << 20),
    // Nothing but 32-bit code is concerned.
    Way::Windows(1 << 40, 1 << 20),
    Way::Astray(1 << 40, 1 << 20),
];

/// A 64-bit machine at CPL 0 with the program at [`START`]; every handler is a HLT.
pub fn machine(program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    machine_at(0, program)
}

/// As [`machine`], at a CPL.
pub fn machine_at(
    cpl: u8,
    program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Machine {
    ir::verify::enable(true);
    let mut m = Machine::long(cpl, true);
    let mut st = m.v.st.clone();
    st.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    m.v.load_state(st);
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    program(&mut a).expect("the program assembles");
    let bytes = a.assemble(START).expect("the program fits");
    m.ram
        .write(PhysAddr(START), &bytes)
        .and_then(|()| m.ram.fill(PhysAddr(HANDLER), 256, 0xf4))
        .expect("RAM");
    m
}

pub fn run(m: &mut Machine, way: Way) {
    let features = Features::new(&m.v.model.features_iced());
    let (mut engine, piece): (Box<dyn Engine>, _) = match way {
        Way::Interp => (Box::new(Interp::new(features)), 1 << 40),
        Way::Jit(piece, code_cache)
        | Way::Changing(piece, code_cache)
        | Way::Traces(piece, code_cache)
        | Way::Hops(piece, code_cache)
        | Way::Large(piece, code_cache)
        | Way::Windows(piece, code_cache)
        | Way::Astray(piece, code_cache) => {
            let options = Options {
                code_cache,
                single: true,
                changing: matches!(way, Way::Changing(..)),
                by: match way {
                    Way::Hops(..) => By::Tlb,
                    Way::Large(..) => By::Large,
                    _ => By::Page,
                },
                astray: matches!(way, Way::Astray(..)),
                traces: match way {
                    Way::Traces(..) => Tracing::Eager,
                    _ => Tracing::Off,
                },
                windows: if matches!(way, Way::Windows(..)) {
                    Windows::Always
                } else {
                    Windows::Never
                },
                ..Options::default()
            };
            (Box::new(Jit::new(features, options)), piece)
        }
    };
    for _ in 0..1_000_000 {
        let before = m.v.retired;
        match engine.run(&mut m.v, piece) {
            Exit::Halted => return,
            exit => assert_eq!(
                (exit, m.v.retired),
                (Exit::Budget, before + piece),
                "{way:?}"
            ),
        }
    }
    panic!("{way:?} does not come to its HLT");
}

/// Runs a program in all ways; they end in the same state, which is returned.
pub fn all(program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    all_at(0, program)
}

/// As [`all`], at a CPL.
pub fn all_at(cpl: u8, program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    alike(|| machine_at(cpl, &program))
}

/// Runs machines that are made alike in all ways; they end in the same state, which is returned.
pub fn alike(make: impl Fn() -> Machine) -> Machine {
    let mut first: Option<Machine> = None;
    for way in WAYS {
        let mut m = make();
        run(&mut m, way);
        let Some(first) = &first else {
            first = Some(m);
            continue;
        };
        assert!(
            m.v.st == first.v.st,
            "{way:?} ends otherwise:\n{}\n{}",
            m.v.dump(),
            first.v.dump()
        );
        assert!(!way.counts() || m.v.retired == first.v.retired, "{way:?}");
        let page = |m: &Machine| {
            let mut bytes = vec![0; 0x2000];
            m.ram.read(PhysAddr(DATA), &mut bytes).expect("RAM");
            bytes
        };
        assert!(page(&m) == page(first), "{way:?} leaves other data");
    }
    first.expect("there is a way")
}

pub fn reg(m: &Machine, gpr: Gpr) -> u64 {
    m.v.st.gpr[gpr as usize]
}
