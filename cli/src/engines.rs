//! Engines by name: choosing one, and `doppel engines`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use vcpu::EngineKind;

use crate::Outcome;
use crate::failure::{Failure, status};

/// Those that are not built yet.
const LATER: [(&str, &str); 2] = [
    (
        "patch",
        "scan and patch: lowest translation cost, on x86-64 hosts",
    ),
    ("kvm", "/dev/kvm: hardware speed"),
];

/// The engine that `--engine` names; `auto` comes with the line that says what was chosen and why.
pub fn choose(name: &str) -> Result<(EngineKind, Option<String>), Failure> {
    if name == "auto" {
        let engine = EngineKind::auto();
        let why = match engine {
            EngineKind::Jit => "the fastest that runs here",
            EngineKind::Interp => "this host's CPU lacks what the translator needs",
        };
        return Ok((
            engine,
            Some(format!(
                "engine {engine}: {why}; --engine NAME chooses (doppel engines lists them)"
            )),
        ));
    }
    if let Ok(engine) = name.parse() {
        return Ok((engine, None));
    }
    if LATER.iter().any(|(later, _)| *later == name) {
        return Err(Failure::Usage(format!(
            "--engine {name} is not built yet; use --engine interp"
        )));
    }
    Err(Failure::Usage(format!(
        "--engine {name}: there is no such engine; there are auto, interp, patch, jit and kvm"
    )))
}

/// The engine that `--verify` names.
pub fn follower(name: &str) -> Result<EngineKind, Failure> {
    if let Ok(engine) = name.parse() {
        return Ok(engine);
    }
    let names: Vec<&str> = EngineKind::ALL.iter().map(|e| e.name()).collect();
    let names = names.join(" or ");
    if LATER.iter().any(|(later, _)| *later == name) {
        return Err(Failure::Usage(format!(
            "--verify {name} is not built yet; --verify takes {names}"
        )));
    }
    Err(Failure::Usage(format!(
        "--verify {name}: there is no such engine to compare with; --verify takes {names}"
    )))
}

/// Lists the engines on stdout.
pub fn engines() -> Outcome {
    crate::stdout::require()?;
    let mut text = String::new();
    for engine in EngineKind::ALL {
        let mark = if engine == EngineKind::auto() {
            "works (auto)"
        } else {
            "works"
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<8}{mark:<16}{}",
            engine.name(),
            engine.description()
        );
    }
    for (name, description) in LATER {
        let _ = writeln!(
            text,
            "{name:<8}{:<16}{description}{}",
            "not built yet",
            if name == "kvm" { kvm() } else { "" }
        );
    }
    print(&text)?;
    Ok(status::DONE)
}

/// Whether this host has KVM.
fn kvm() -> &'static str {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => " (/dev/kvm is here)",
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => " (this host has no /dev/kvm)",
        Err(_) => " (/dev/kvm is here, but not for you)",
    }
}

/// Writes to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| {
            Failure::Host(format!(
                "cannot write to stdout: {e}; send it somewhere that takes it"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn names() {
        let (engine, line) = choose("auto").expect("auto is there");
        assert!(line.expect("it says so").contains(engine.name()));
        assert!(matches!(choose("interp"), Ok((_, None))));
        assert!(
            choose("kvm")
                .expect_err("later")
                .to_string()
                .contains("not built yet")
        );
        assert!(
            choose("qemu")
                .expect_err("unknown")
                .to_string()
                .contains("there are auto, interp")
        );
    }
}
