//! The engines by name, and which one `auto` means.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use backend_interp::Interp;
use backend_jit::Jit;
pub use backend_jit::{Cache, Dump, Perf, PerfFormat, Tracing, Windows};
use frontend_x86::Features;
use system::{CpuModel, Engine};

/// An engine as `--engine` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// The interpreter.
    Interp,
    /// The translator.
    Jit,
}

impl EngineKind {
    /// All that are built.
    pub const ALL: [Self; 2] = [Self::Interp, Self::Jit];

    /// What `--engine auto` picks on this host.
    pub fn auto() -> Self {
        if backend_jit::available() {
            Self::Jit
        } else {
            Self::Interp
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interp => "interp",
            Self::Jit => "jit",
        }
    }

    /// One sentence for lists.
    pub fn description(self) -> &'static str {
        match self {
            Self::Interp => {
                "interpreter: lowers each block once; runs on any host, and is what others are checked against"
            }
            Self::Jit => {
                "translator: each block becomes host code, with the guest's registers in the host's"
            }
        }
    }

    /// An engine of this kind for one vCPU of a model.
    pub fn create(self, model: &CpuModel, options: &EngineOptions) -> Box<dyn Engine> {
        match self {
            Self::Interp => {
                let mut engine = Interp::new(Features::new(&model.features_iced()));
                engine.set_counting(options.stats);
                engine.set_max_cache(options.blocks.unwrap_or(backend_interp::MAX_CACHE));
                Box::new(engine)
            }
            Self::Jit => {
                let features = Features::new(&model.features_iced());
                let whole = backend_jit::Options::default();
                let jit = backend_jit::Options {
                    single: options.single,
                    windows: options.windows,
                    dump: options.dump,
                    perf: options.perf.clone(),
                    cache: options.cache.clone(),
                    traces: options.traces,
                    code_cache: options.code_cache.unwrap_or(whole.code_cache),
                    blocks: options.blocks.unwrap_or(whole.blocks),
                    ..whole
                };
                Box::new(Jit::new(features, jit))
            }
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|e| e.name() == name).ok_or(())
    }
}

/// What every engine can be told.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Count for `--stats`, at a small cost.
    pub stats: bool,
    /// Translate single instructions too, where it would be quicker to interpret them: for tests.
    pub single: bool,
    /// Whether the translator's 32-bit code goes through windows of guest memory.
    pub windows: Windows,
    /// What the translator shows of blocks.
    pub dump: Dump,
    /// Where perf is told of translated code.
    pub perf: Option<Arc<Perf>>,
    /// Bytes of the translator's code cache; `None`: its own choice.
    pub code_cache: Option<usize>,
    /// Bytes of the interpreter's blocks for each vCPU; `None`: its own choice.
    pub blocks: Option<usize>,
    /// Whether the translator makes traces of hot code.
    pub traces: Tracing,
    /// The cache itself: the vCPUs of a machine are created with the same options, and share it.
    pub cache: Cache,
}
