//! `doppel exec`: cases from stdin, answers to stdout.

use system::CpuModel;
use vcpu::exec::{Exec, ServeError, serve};

use crate::Outcome;
use crate::args::ExecArgs;
use crate::failure::{Failure, status};

/// Answers lines until there are no more.
pub fn exec(args: &ExecArgs) -> Outcome {
    let (engine, _) = crate::engines::choose(&args.engine)?;
    let model = model(&args.cpu)?;
    crate::stdout::require()?;
    let mut exec = Exec::with_engine(model, engine);
    match serve(&mut exec, std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => Ok(status::DONE),
        Err(ServeError::Read(e)) => Err(Failure::Host(format!(
            "cannot read cases from stdin: {e}; give it a pipe or a file"
        ))),
        Err(ServeError::Write(e)) => Err(Failure::Host(format!(
            "cannot write answers to stdout: {e}; whoever reads them has gone"
        ))),
    }
}

/// The CPU that `--cpu` names.
pub fn model(text: &str) -> Result<CpuModel, Failure> {
    CpuModel::parse(text).map_err(|e| Failure::Usage(format!("--cpu {text}: {e}")))
}
