//! The whole command line, those parts included that are refused because they aren't built yet.

use clap::{Args, Parser, Subcommand};

use crate::values;

/// A PC in software.
#[derive(Debug, Parser)]
#[command(
    name = "doppel",
    version,
    about = "A PC in software: boots x86 and x86-64 guests on a machine without VT-x.\n\n\
             Without a command it is `doppel demo`: Debian's kernel with a shell on your terminal.",
    after_help = "Exit status: odd ones are the guest's (--debug-exit); 0 powered off or quit, 2 usage, 4 the host \
                  failed, 6 triple fault under --no-reboot, 8 a bug of Doppel's.",
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a machine
    Run(Box<RunArgs>),
    /// Run single cases: one JSON object per line in, one per line out
    Exec(ExecArgs),
    /// Boot Debian's cloud kernel with a shell on your terminal
    Demo,
    /// Measure the engines (not built yet)
    Bench,
    /// List the engines and whether they work here
    Engines,
    /// Look whether this host has what Doppel wants
    Doctor,
    /// Talk to a running machine (not built yet)
    Ctl(CtlArgs),
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// auto or interp
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: String,
    /// The CPU: max (the default), v1, v2, v3 or v4, and features with + or -
    #[arg(
        long,
        value_name = "MODEL,+f,-f",
        default_value = "default",
        allow_hyphen_values = true
    )]
    pub cpu: String,
}

#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The machine's monitor socket, and a command
    #[arg(
        value_name = "SOCKET COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "With a serial port on your terminal, Ctrl-A x quits and Ctrl-A h lists the other keys."
)]
pub struct RunArgs {
    /// A disk image to boot from (not built yet)
    #[arg(value_name = "DISK")]
    pub boot_disk: Option<String>,
    /// auto or interp (patch, jit and kvm are not built yet)
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: String,
    /// Virtual CPUs, 1 to 64
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::cpus)]
    pub cpus: usize,
    /// Memory: N[K|M|G], a plain N is MiB
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = values::mem)]
    pub mem: u64,
    /// The CPU: max (the default), v1, v2, v3 or v4, and features with + or -
    #[arg(
        long,
        value_name = "MODEL,+f,-f",
        default_value = "default",
        allow_hyphen_values = true
    )]
    pub cpu: String,
    /// A kernel to load: bzImage, ELF with a PVH note, multiboot (protocol=linux|pvh|multiboot|multiboot2 chooses)
    #[arg(long, value_name = "FILE[,protocol=P]")]
    pub kernel: Option<String>,
    /// The kernel's initrd; multiboot: "FILE args,FILE args"
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<String>,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub append: String,
    /// builtin or FILE (not built yet)
    #[arg(long, value_name = "FIRMWARE", default_value = "builtin")]
    pub firmware: String,
    /// FILE[,if=virtio|ide|ahci][,format=raw|qcow2][,readonly][,snapshot] (not built yet)
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<String>,
    /// A CD image (not built yet)
    #[arg(long, value_name = "FILE")]
    pub cdrom: Option<String>,
    /// A floppy image (not built yet)
    #[arg(long, value_name = "FILE")]
    pub floppy: Option<String>,
    /// What to boot from: c, d, a or n (not built yet)
    #[arg(long, value_name = "c|d|a|n")]
    pub boot: Option<String>,
    /// none or user (no network card is built yet)
    #[arg(long, value_name = "NET", default_value = "user")]
    pub net: String,
    /// none (text, vnc= and web= are not built yet)
    #[arg(long, value_name = "DISPLAY", default_value = "none")]
    pub display: String,
    /// stdio, file:PATH, unix:PATH or none; up to four, COM1 first [default: stdio]
    #[arg(long, value_name = "SERIAL")]
    pub serial: Vec<String>,
    /// unix:PATH (not built yet)
    #[arg(long, value_name = "unix:PATH")]
    pub monitor: Option<String>,
    /// FILE.png@SECONDS (not built yet)
    #[arg(long, value_name = "FILE.png@SECONDS")]
    pub screenshot: Vec<String>,
    /// ADDR:PORT (not built yet)
    #[arg(long, value_name = "ADDR:PORT")]
    pub gdb: Option<String>,
    /// A port: writing v to it ends Doppel with status ((v<<1)|1)&255
    #[arg(long, value_name = "PORT", value_parser = values::port)]
    pub debug_exit: Option<u16>,
    /// The test ports of qemu's pc-testdev
    #[arg(long)]
    pub test_device: bool,
    /// End on reset (status 0) and triple fault (status 6)
    #[arg(long)]
    pub no_reboot: bool,
    /// Have a second engine (interp or jit) do the same, and stop at the first difference; implies --icount
    #[arg(long, value_name = "ENGINE")]
    pub verify: Option<String>,
    /// How the jit engine finds guest memory: tlb, or shadow, with which 32-bit programs that compute get it mapped as they see
    /// it (the default)
    #[arg(long, value_name = "tlb|shadow")]
    pub mmu: Option<String>,
    /// Lost timer ticks: catchup, drop or slew
    #[arg(long, value_name = "catchup|drop|slew", default_value = "catchup")]
    pub ticks: String,
    /// An instruction is a nanosecond, and virtual CPUs take turns: two runs are the same
    #[arg(long)]
    pub icount: bool,
    /// What RDRAND starts from
    #[arg(long, value_name = "N", value_parser = values::number)]
    pub seed: Option<u64>,
    /// Room for the translator's code, of each CPU: 1M to 1G
    #[arg(long, value_name = "SIZE", value_parser = values::code_cache)]
    pub code_cache: Option<u64>,
    /// Hot code is translated again, across its blocks: on or off (off with --icount)
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"])]
    pub traces: String,
    /// Say at the end what the engines have done
    #[arg(long)]
    pub stats: bool,
    /// Show what the translator makes of the guest's code, on stderr
    #[arg(long, value_name = "ir,asm", value_delimiter = ',', value_parser = ["ir", "asm"])]
    pub dump: Vec<String>,
    /// Show only the code around this linear address
    #[arg(long, value_name = "ADDR", value_parser = values::number)]
    pub filter: Option<u64>,
    /// Tell Linux's perf of translated code: /tmp/perf-PID.map, or ./jit-PID.dump for `perf inject --jit`
    #[arg(
        long,
        value_name = "map|jitdump",
        value_enum,
        hide_possible_values = true
    )]
    pub perf: Option<PerfFormat>,
    /// Go on from a snapshot (not built yet)
    #[arg(long, value_name = "FILE")]
    pub resume: Option<String>,
}

/// What `--perf` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PerfFormat {
    /// A map of symbols.
    Map,
    /// A dump of the code.
    Jitdump,
}

impl From<PerfFormat> for vcpu::PerfFormat {
    fn from(format: PerfFormat) -> Self {
        match format {
            PerfFormat::Map => Self::Map,
            PerfFormat::Jitdump => Self::Jitdump,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, Command};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let cli = Cli::try_parse_from(["doppel", "run", "--kernel", "vmlinuz"]).expect("good");
        let Some(Command::Run(run)) = cli.command else {
            panic!("run")
        };
        assert_eq!(
            (run.engine.as_str(), run.cpus, run.mem),
            ("auto", 1, 512 << 20)
        );
        assert_eq!(
            (run.net.as_str(), run.display.as_str(), run.ticks.as_str()),
            ("user", "none", "catchup")
        );
        assert_eq!(
            (run.firmware.as_str(), run.append.as_str()),
            ("builtin", "")
        );
        assert!(run.serial.is_empty() && run.debug_exit.is_none() && !run.no_reboot);
        assert!(
            Cli::try_parse_from(["doppel"])
                .expect("good")
                .command
                .is_none()
        );
    }

    #[test]
    fn values_that_begin_with_a_hyphen() {
        let line = [
            "doppel", "run", "--append", "-s quiet", "--cpu", "-nx", "disk.img",
        ];
        let Some(Command::Run(run)) = Cli::try_parse_from(line).expect("good").command else {
            panic!("run")
        };
        assert_eq!((run.append.as_str(), run.cpu.as_str()), ("-s quiet", "-nx"));
        assert_eq!(run.boot_disk.as_deref(), Some("disk.img"));
    }
}
