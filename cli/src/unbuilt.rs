//! What the command line knows and this version does not do yet: a usage error that says so.

use crate::args::RunArgs;
use crate::failure::Failure;

/// A command that isn't built.
pub fn command(name: &str) -> Failure {
    Failure::Usage(format!("doppel {name} is not built yet"))
}

/// An option, or a value of one, that isn't built.
fn option(what: &str, instead: &str) -> Failure {
    let instead = if instead.is_empty() {
        String::new()
    } else {
        format!("; {instead}")
    };
    Failure::Usage(format!("{what} is not built yet{instead}"))
}

/// An option's value that doesn't exist.
fn unknown(option: &str, value: &str, known: &str) -> Failure {
    Failure::Usage(format!(
        "{option} {value}: there is no such value; {option} takes {known}"
    ))
}

/// Refuses what isn't built.
pub fn check(args: &RunArgs) -> Result<(), Failure> {
    const KERNEL: &str = "load a kernel directly with --kernel FILE";
    let absent = [
        (
            args.boot_disk.is_some(),
            "booting from a disk image",
            KERNEL,
        ),
        (
            !args.disk.is_empty(),
            "--disk",
            "give the guest an --initrd",
        ),
        (args.cdrom.is_some(), "--cdrom", KERNEL),
        (args.floppy.is_some(), "--floppy", KERNEL),
        (args.boot.is_some(), "--boot", KERNEL),
        (args.firmware != "builtin", "--firmware FILE", KERNEL),
        (args.monitor.is_some(), "--monitor", ""),
        (!args.screenshot.is_empty(), "--screenshot", ""),
        (args.gdb.is_some(), "--gdb", ""),
        (args.resume.is_some(), "--resume", ""),
    ];
    for (given, what, instead) in absent {
        if given {
            return Err(option(what, instead));
        }
    }
    net(&args.net)?;
    display(&args.display)?;
    if args.kernel.is_none() {
        return Err(Failure::Usage(
            "nothing to boot: firmware that boots from disks is not built yet; load a kernel with --kernel FILE, \
             or try doppel demo"
                .to_owned(),
        ));
    }
    Ok(())
}

fn net(text: &str) -> Result<(), Failure> {
    match text {
        "none" | "user" => Ok(()),
        _ if text.starts_with("user,") || text.starts_with("tap=") => Err(option(
            &format!("--net {text}"),
            "there is no network card; leave it out",
        )),
        _ => Err(unknown("--net", text, "none, user or tap=NAME")),
    }
}

fn display(text: &str) -> Result<(), Failure> {
    match text {
        "none" => Ok(()),
        "text" => Err(option(
            "--display text",
            "use the serial port: --append console=ttyS0",
        )),
        _ if text.starts_with("vnc=") || text.starts_with("web=") => Err(option(
            &format!("--display {text}"),
            "use the serial port: --append console=ttyS0",
        )),
        _ => Err(unknown(
            "--display",
            text,
            "none, text, vnc=ADDR:PORT or web=ADDR:PORT",
        )),
    }
}
