//! `doppel run`: from options to a machine, and from how it ended to an exit status.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use machine::MachineRequest;
use machine::devices::uart::SerialPort;
use machine::host::{self, ByteQueue, HostLink};
use machine::loader::BootFiles;
use machine::machine::{Machine, MachineConfig, MachineError, Outcome as End};
use machine::tick::TickPolicy;
use vcpu::{Dump, EngineKind, EngineOptions, Perf, Tracing, Windows};

use crate::Outcome;
use crate::args::{PerfFormat, RunArgs};
use crate::failure::{Failure, status};
use crate::{engines, exec, say, stdout, terminal, unbuilt};

/// Serial ports that a PC has.
const PORTS: usize = 4;
/// How long the guest's last output may take to get out.
const DRAIN: Duration = Duration::from_secs(5);
/// More guest memory than this many times the host's can't be meant, and its tables would not fit either.
const OVERCOMMIT: u64 = 32;

/// What is behind a serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Serial {
    Stdio,
    File(String),
    Unix(String),
    None,
}

/// What the translator is to show.
fn dump(args: &RunArgs) -> Result<Dump, Failure> {
    let wants = |what: &str| args.dump.iter().any(|d| d == what);
    if args.filter.is_some() && args.dump.is_empty() {
        return Err(Failure::Usage(
            "--filter says which code to show: say what with --dump ir,asm".to_owned(),
        ));
    }
    Ok(Dump {
        ir: wants("ir"),
        asm: wants("asm"),
        filter: args.filter,
    })
}

/// The file that tells perf of translated code.
fn perf(format: Option<PerfFormat>) -> Result<Option<Arc<Perf>>, Failure> {
    let create = |format: PerfFormat| {
        let perf = Perf::create(format.into(), Path::new("."));
        perf.map(Arc::new)
            .map_err(|(path, e)| Failure::Host(format!("{}: {e}", path.display())))
    };
    format.map(create).transpose()
}

/// Runs a machine to its end.
pub fn run(args: RunArgs) -> Outcome {
    let (engine, chosen) = engines::choose(&args.engine)?;
    let verify = args.verify.as_deref().map(engines::follower).transpose()?;
    let model = exec::model(&args.cpu)?;
    let ticks = ticks(&args.ticks)?;
    let serial = serial(&args.serial)?;
    unbuilt::check(&args)?;
    let windows = windows(args.mmu.as_deref(), engine, verify.is_some())?;
    let dump = dump(&args)?;
    enough_memory(args.mem)?;
    let kernel = args.kernel.as_deref().unwrap_or_default();
    let boot = BootFiles::open(kernel, args.initrd.as_deref(), &args.append, args.mem)
        .map_err(load_failure)?;
    if serial.contains(&Serial::Stdio) {
        stdout::require()?;
    }
    if let Some(line) = chosen {
        say::say(&line);
    }
    let raw = serial.contains(&Serial::Stdio) && terminal::is_terminal();
    terminal::watch_signals()?;
    let link = HostLink::default();
    let (ports, queues) = open(&serial, &link, raw)?;
    let perf = perf(args.perf)?;
    let config = MachineConfig {
        engine,
        cpus: args.cpus,
        mem: args.mem,
        model,
        boot,
        serial: ports,
        debug_exit: args.debug_exit,
        test_device: args.test_device,
        no_reboot: args.no_reboot,
        ticks,
        seed: args.seed,
        icount: args.icount,
        verify,
        options: EngineOptions {
            stats: args.stats,
            windows,
            dump,
            perf: perf.clone(),
            code_cache: args.code_cache.map(|size| size as usize),
            traces: traces(&args),
            ..EngineOptions::default()
        },
    };
    let mut machine = Machine::new(config).map_err(machine_failure)?;
    link.attach(machine.board().requests());
    // Until here an error is told on a terminal as it was.
    if raw {
        terminal::make_raw()?;
    }
    let end = machine.run();
    for queue in queues {
        queue.drain(DRAIN);
    }
    terminal::restore();
    for line in machine.report() {
        say::say(&line);
    }
    if let Some(perf) = perf.filter(|perf| !perf.complete()) {
        let path = perf.path().display();
        say::say(&format!("{path} is cut short: the host has taken no more"));
    }
    let end = end.map_err(machine_failure)?;
    // The host may have failed while the last output was on its way.
    if let Some(MachineRequest::HostError(text)) = machine.board().requests().take() {
        return Err(Failure::Host(text));
    }
    Ok(match end {
        End::PowerOff | End::Quit => status::DONE,
        End::DebugExit(value) => guest_status(value),
        End::TripleFault(state) => {
            say::say(&format!("triple fault; the state of the vCPU:\n{state}"));
            status::TRIPLE_FAULT
        }
    })
}

/// Where they are made depends on the host's time, and where interrupts are taken depends on them: not where two runs must be the
/// same.
fn traces(args: &RunArgs) -> Tracing {
    if args.traces == "off" || (args.icount && args.verify.is_none()) {
        Tracing::Off
    } else {
        Tracing::On
    }
}

/// The exit status for a value written to the debug-exit port: always odd.
fn guest_status(value: u32) -> u8 {
    (value << 1 | 1).to_le_bytes()[0]
}

fn load_failure(e: machine::loader::LoadError) -> Failure {
    let text = e.to_string();
    if e.exit_status() == status::USAGE {
        Failure::Usage(text)
    } else {
        Failure::Host(text)
    }
}

fn machine_failure(e: MachineError) -> Failure {
    match e {
        MachineError::Load(e) => load_failure(e),
        MachineError::Board(e) => Failure::Usage(e.to_string()),
        MachineError::Differ(difference) => Failure::Bug(difference.to_string()),
        other => Failure::Host(other.to_string()),
    }
}

/// How the translator finds guest memory. What is checked goes through windows from the start, since their time does not come
/// where each comparison flushes.
fn windows(mmu: Option<&str>, engine: EngineKind, verified: bool) -> Result<Windows, Failure> {
    match mmu {
        None => Ok(Windows::Paying),
        Some("tlb") => Ok(Windows::Never),
        Some("shadow") if engine != EngineKind::Jit => Err(Failure::Usage(format!(
            "--mmu shadow: the {engine} engine has no windows; leave it out, or say --engine jit"
        ))),
        Some("shadow") if verified => Ok(Windows::Always),
        Some("shadow") => Ok(Windows::Paying),
        Some(other) => Err(Failure::Usage(format!(
            "--mmu {other}: there is no such value; --mmu takes tlb or shadow"
        ))),
    }
}

fn ticks(text: &str) -> Result<TickPolicy, Failure> {
    match text {
        "catchup" => Ok(TickPolicy::Catchup),
        "drop" => Ok(TickPolicy::Drop),
        "slew" => Ok(TickPolicy::Slew),
        _ => Err(Failure::Usage(format!(
            "--ticks {text}: there is no such value; --ticks takes catchup, drop or slew"
        ))),
    }
}

/// Reads `--serial`, each one a port from COM1 on.
fn serial(list: &[String]) -> Result<Vec<Serial>, Failure> {
    if list.is_empty() {
        return Ok(vec![Serial::Stdio]);
    }
    if list.len() > PORTS {
        return Err(Failure::Usage(format!(
            "--serial is there {} times; a PC has {PORTS} serial ports",
            list.len()
        )));
    }
    let ports: Vec<Serial> = list
        .iter()
        .map(|text| serial_port(text))
        .collect::<Result<_, _>>()?;
    if ports.iter().filter(|port| **port == Serial::Stdio).count() > 1 {
        return Err(Failure::Usage(
            "--serial stdio is there twice; there is only one stdin and stdout".to_owned(),
        ));
    }
    Ok(ports)
}

fn serial_port(text: &str) -> Result<Serial, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "--serial {text}: --serial takes stdio, file:PATH, unix:PATH or none"
        ))
    };
    match text.split_once(':') {
        None if text == "stdio" => Ok(Serial::Stdio),
        None if text == "none" => Ok(Serial::None),
        Some(("file", path)) if !path.is_empty() => Ok(Serial::File(path.to_owned())),
        Some(("unix", path)) if !path.is_empty() => Ok(Serial::Unix(path.to_owned())),
        _ => Err(wrong()),
    }
}

/// Opens what is behind the ports. The queues are to be drained at the end.
fn open(
    serial: &[Serial],
    link: &HostLink,
    raw: bool,
) -> Result<(Vec<Option<SerialPort>>, Vec<ByteQueue>), Failure> {
    let host = |e: host::SerialError| Failure::Host(e.to_string());
    let (mut ports, mut queues) = (Vec::new(), Vec::new());
    for port in serial {
        ports.push(match port {
            Serial::None => None,
            Serial::Unix(path) => Some(host::unix(Path::new(path)).map_err(host)?),
            Serial::File(path) => {
                let (port, queue) = host::file(Path::new(path), link).map_err(host)?;
                queues.push(queue);
                Some(port)
            }
            Serial::Stdio => {
                let (port, queue) = host::stdio(link, raw).map_err(host)?;
                queues.push(queue);
                Some(port)
            }
        });
    }
    Ok((ports, queues))
}

/// Refuses guest memory that the host can't even keep tables for.
fn enough_memory(mem: u64) -> Result<(), Failure> {
    let Some(host) = host_memory() else {
        return Ok(());
    };
    if mem / OVERCOMMIT > host {
        return Err(Failure::Host(format!(
            "guest memory of {} MiB: the host has {} MiB; choose a smaller --mem",
            mem >> 20,
            host >> 20
        )));
    }
    Ok(())
}

/// The host's memory in bytes.
pub fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::{Serial, guest_status, machine_failure, serial};
    use machine::machine::MachineError;
    use vcpu::lockstep::Difference;

    fn list(words: &[&str]) -> Result<Vec<Serial>, String> {
        serial(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn serial_ports() {
        assert_eq!(list(&[]), Ok(vec![Serial::Stdio]));
        let all = list(&["none", "stdio", "file:a:b", "unix:/tmp/s"]);
        assert_eq!(
            all,
            Ok(vec![
                Serial::None,
                Serial::Stdio,
                Serial::File("a:b".into()),
                Serial::Unix("/tmp/s".into())
            ])
        );
        for words in [
            &["stdio", "stdio"][..],
            &["file:"],
            &["tcp:1"],
            &[""],
            &["none"; 5],
        ] {
            assert!(list(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn engines_that_differ_are_a_bug() {
        let difference = Difference {
            cpu: 0,
            retired: 1,
            rip: 2,
            alone: true,
            text: "jit and interp differ".to_owned(),
        };
        let failure = machine_failure(MachineError::Differ(Box::new(difference)));
        assert_eq!(failure.status(), 8);
        assert_eq!(failure.to_string(), "jit and interp differ");
    }

    #[test]
    fn the_guest_s_statuses_are_odd() {
        for (value, status) in [
            (0, 1),
            (1, 3),
            (0x31, 0x63),
            (0x80, 1),
            (0x1ff, 0xff),
            (u32::MAX, 255),
        ] {
            assert_eq!(guest_status(value), status);
        }
    }
}
