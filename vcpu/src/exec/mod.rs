//! Doppel as a CPU without a board: a state and some bytes in, what has changed out. `doppel exec` is this over JSON.
//!
//! ```
//! use vcpu::exec::{Case, End, Exec};
//!
//! let mut cpu = Exec::new(system::CpuModel::default());
//!
//! // add eax, ebx; push rax
//! let case = Case::long(&[0x01, 0xd8, 0x50]).reg("rax", 40).reg("rbx", 2).steps(2);
//! let outcome = cpu.run(&case)?;
//! assert_eq!(outcome.number("rax"), Some(42));
//! assert_eq!(outcome.mem, [(0x1f_fff8, vec![42])]);
//! assert_eq!((outcome.retired, outcome.end), (2, End::Steps));
//!
//! // mov eax, [0x40000000]: nothing is mapped there, and nobody handles the page fault.
//! let case = Case::long(&[0x8b, 0x04, 0x25, 0, 0, 0, 0x40]).deliver(false);
//! let fault = cpu.run(&case)?.exception.expect("a page fault");
//! assert_eq!((fault.vector, fault.cr2), (14, Some(0x4000_0000)));
//!
//! // The same in JSON: mov al, 5 where RESET leaves the CPU, but with CS at 0.
//! let mut answer = Vec::new();
//! cpu.answer(br#"{"id":1, "regs":{"cs":0,"rip":256}, "mem":[[256,"b005"]]}"#, &mut answer);
//! assert!(answer.starts_with(br#"{"id":1,"regs":{"rax":5,"rip":258,"tsc":1}"#));
//! # Ok::<(), vcpu::exec::ExecError>(())
//! ```
//!
//! There are no devices and no interrupts: IN and reads outside RAM give all ones, OUT and writes there vanish. RAM is
//! without holes. The TSC counts completed instructions. Cases do not see each other.

mod board;
mod case;
mod changes;
pub(crate) mod check;
mod fuzz;
mod json;
mod memory;
mod register;
mod run;
mod serve;
mod start;
#[cfg(test)]
mod tests;

pub use case::{Case, DEFAULT_RAM, End, Event, ExecError, Outcome};
pub use fuzz::fuzz;
pub use register::{Register, UnknownRegister, Value};
pub use run::Exec;
pub use serve::{ServeError, serve};
