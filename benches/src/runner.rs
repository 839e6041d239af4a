//! Starts an emulator and takes the time between the lines that its guest prints.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::{Event, Outcome, event};

/// The name by which qemu's translator is asked for.
pub const QEMU: &str = "qemu";
/// qemu's program.
pub const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// One load under one emulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Seconds from marker to marker.
    pub wall: f64,
    /// CPU seconds of the emulator, all threads, user and system.
    pub cpu: f64,
    /// What came of it.
    pub outcome: Outcome,
}

/// The loads' runs by their names.
pub type Runs = BTreeMap<String, Run>;

/// The command that boots a guest: `engine` is [`QEMU`] or one of Doppel's engines.
pub fn command(engine: &str, doppel: &Path, kernel: &Path, initrd: &Path) -> Command {
    const APPEND: &str = "console=ttyS0 quiet panic=-1";
    let mut command;
    if engine == QEMU {
        command = Command::new(QEMU_PROGRAM);
        command.args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-nographic"]);
        command
            .args(["-no-reboot", "-nic", "none", "-kernel"])
            .arg(kernel);
        command.arg("-initrd").arg(initrd).args(["-append", APPEND]);
    } else {
        command = Command::new(doppel);
        command.args(["run", "--engine", engine, "--mem", "1024M", "--net", "none"]);
        command.args(["--no-reboot", "--kernel"]).arg(kernel);
        command
            .arg("--initrd")
            .arg(initrd)
            .args(["--append", APPEND]);
    }
    command
}

/// A process that does not outlive its owner.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// CPU seconds of a process so far, from the text of its `/proc/PID/stat` (proc(5)).
fn cpu_seconds(stat: &str, ticks_per_second: u64) -> Option<f64> {
    // The program's name, in parentheses, may hold anything; fields 14 and 15 are user and system time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / ticks_per_second as f64)
}

/// Runs an emulator to the guest's last line. `limit`: how long it may print nothing. `tell` gets each load that ends.
///
/// # Errors
/// What went wrong, with the guest's last words.
pub fn run(
    mut command: Command,
    limit: Duration,
    mut tell: impl FnMut(&str, &Run),
) -> Result<Runs, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn();
    let mut child = Guard(child.map_err(|e| format!("{program} cannot be started: {e}"))?);
    let Some(console) = child.0.stdout.take() else {
        return Err(format!("{program} has no output"));
    };
    let stat = format!("/proc/{}/stat", child.0.id());
    let ticks = rustix::param::clock_ticks_per_second();
    let cpu = || cpu_seconds(&fs::read_to_string(&stat).unwrap_or_default(), ticks);

    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            // The moment counts at which it was read.
            let line = String::from_utf8_lossy(&line).into_owned();
            if send.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });

    let mut runs = Runs::new();
    let mut other = Vec::new(); // what is no marker, since the last load began
    let mut begun = None;
    let mut times = None;
    let failed = |why: &str, other: &[String]| {
        let from = other.len().saturating_sub(10);
        let words = other.get(from..).unwrap_or_default().join("\n  ");
        Err(format!("{program} {why}; its last words:\n  {words}"))
    };
    loop {
        let (now, line) = match lines.recv_timeout(limit) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                return failed("printed nothing for too long", &other);
            }
            Err(RecvTimeoutError::Disconnected) => return failed("ended too early", &other),
        };
        match event(&line) {
            None => other.push(line),
            Some(Event::Begin(name)) => {
                other.clear();
                begun = cpu().map(|cpu| (name, now, cpu));
            }
            Some(Event::End(name)) => {
                times = match (begun.take(), cpu()) {
                    (Some((start, then, before)), Some(after)) if start == name => {
                        Some((name, (now - then).as_secs_f64(), after - before))
                    }
                    _ => return failed(&format!("ended {name} before it began"), &other),
                };
            }
            Some(Event::Sum(name, outcome)) => match times.take() {
                Some((ended, wall, cpu)) if ended == name => {
                    let run = Run { wall, cpu, outcome };
                    tell(&name, &run);
                    runs.insert(name, run);
                }
                _ => return failed(&format!("summed {name} before it ended"), &other),
            },
            Some(Event::Done) => return Ok(runs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{QEMU, command, cpu_seconds, run};
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn commands() {
        let [doppel, kernel, initrd] = ["d", "k", "i"].map(Path::new);
        let text = |engine| format!("{:?}", command(engine, doppel, kernel, initrd));
        assert!(text("jit").starts_with(r#""d" "run" "--engine" "jit""#));
        assert!(text(QEMU).contains(r#""-accel" "tcg" "-cpu" "max""#));
    }

    #[test]
    fn times_of_a_process() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_seconds(stat, 100), Some(3.0));
        assert_eq!(cpu_seconds("", 100), None);
    }

    #[test]
    fn a_run_is_read() {
        let sum = "5c".repeat(32);
        let script = format!(
            "echo boot; echo @@BEGIN a; echo x; echo @@END a; echo @@SUM a 0 9 {sum}; echo @@DONE"
        );
        let mut told = Vec::new();
        let runs = run(shell(&script), LONG, |name, _| told.push(name.to_owned())).unwrap();
        assert_eq!(told, ["a"]);
        assert_eq!(runs["a"].outcome.sum, sum);
        assert!(runs["a"].wall >= 0.0);
    }

    #[test]
    fn runs_that_fail() {
        let error = |script| run(shell(script), LONG, |_, _| ()).unwrap_err();
        let early = error("echo @@BEGIN a; echo oops");
        assert!(
            early.contains("too early") && early.contains("oops"),
            "{early}"
        );
        assert!(error("echo @@END a; sleep 50").contains("before it began"));
        assert!(run(Command::new("doppel-no-such-program"), LONG, |_, _| ()).is_err());
        let silent = run(shell("exec sleep 50"), Duration::from_millis(50), |_, _| ());
        assert!(silent.unwrap_err().contains("nothing for too long"));
    }
}
