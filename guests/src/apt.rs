//! apt with lists, state and cache of our own: the system's are neither read nor written, and no root is needed.
//! apt itself checks every list against the archive's signature and every package against the signed list.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::guest::Arch;

/// Lists younger than this are not fetched again while packages can be had by them.
const FRESH: Duration = Duration::from_secs(12 * 3600);
/// How often the progress of a download is looked at.
const POLL: Duration = Duration::from_millis(100);
/// The public part of the keys with which Debian signs, where a Debian system (and Ubuntu's package of that name)
/// keeps it.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt for one architecture.
pub(crate) struct Apt {
    folder: PathBuf,
    arch: Arch,
}

/// A package's file in the archive.
pub(crate) struct Download {
    /// Bytes.
    pub size: u64,
}

/// Why apt failed.
#[derive(Debug)]
pub(crate) enum AptError {
    /// There is no apt, or no Debian to get packages from: trying again is of no use.
    Impossible(String),
    /// apt said this.
    Failed(String),
}

impl From<io::Error> for AptError {
    fn from(error: io::Error) -> Self {
        Self::Impossible(error.to_string())
    }
}

impl Apt {
    /// Prepares the folder and apt's configuration in it.
    pub(crate) fn new(folder: &Path, arch: Arch) -> Result<Self, AptError> {
        let folder = folder.join(arch.name());
        for dir in ["lists/partial", "cache/archives/partial", "state"] {
            fs::create_dir_all(folder.join(dir))?;
        }
        fs::write(folder.join("status"), "")?;
        let text = |p: &Path| match p.to_str() {
            Some(t) if !t.contains(['"', '\n', '\\']) => Ok(t.to_owned()),
            _ => Err(AptError::Impossible(format!(
                "apt cannot use a folder named {}",
                p.display()
            ))),
        };
        let here = text(&folder)?;
        // apt reads APT_CONFIG first, then the system's parts, then Dir::Etc::main: ours comes last and wins, while
        // the system's proxy settings stay in force.
        let first = match std::env::var("APT_CONFIG") {
            Ok(users) if !users.contains(['"', '\n', '\\']) && Path::new(&users).exists() => {
                format!("#include \"{users}\";\n")
            }
            _ => String::new(),
        };
        let first = format!("{first}Dir::Etc::main \"{here}/main.conf\";\n");
        fs::write(folder.join("apt.conf"), first)?;
        fs::write(
            folder.join("main.conf"),
            configuration(&here, arch, &sources(&folder)?),
        )?;
        Ok(Self { folder, arch })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Whether the lists are there and not old.
    pub(crate) fn is_fresh(&self) -> bool {
        let age = fs::metadata(self.folder.join("updated"))
            .and_then(|m| m.modified())
            .map(|then| SystemTime::now().duration_since(then).unwrap_or_default());
        age.is_ok_and(|age| age < FRESH)
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self) -> Result<(), AptError> {
        let mut command = self.command("apt-get");
        command.args(["-q", "update"]);
        let (_, complaints) = run(&mut command, || ())?;
        // apt succeeds with a warning when it had to keep old lists.
        if complaints.contains("Failed to fetch") {
            return Err(AptError::Failed(summary(&complaints)));
        }
        Ok(fs::write(self.folder.join("updated"), "")?)
    }

    /// The first dependency of a package whose name begins with `prefix`.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<String, AptError> {
        let (out, _) = run(self.command("apt-cache").args(["depends", package]), || ())?;
        dependency(&out, prefix).ok_or_else(|| {
            AptError::Failed(format!(
                "{package} ({}) is in no package list",
                self.arch.name()
            ))
        })
    }

    /// What the archive says of a package's newest version.
    pub(crate) fn look_up(&self, package: &str) -> Result<Download, AptError> {
        let (out, _) = run(
            self.command("apt-get")
                .args(["--print-uris", "download", package]),
            || (),
        )?;
        let download = out.lines().find_map(uri_line);
        download.ok_or_else(|| {
            AptError::Failed(format!(
                "{package} ({}) is in no package list",
                self.arch.name()
            ))
        })
    }

    /// What the archive says of packages and all that they need on an empty system, together.
    pub(crate) fn look_up_all(&self, packages: &[&str]) -> Result<Download, AptError> {
        let (out, _) = run(self.install(packages).arg("--print-uris"), || ())?;
        let size = out.lines().filter_map(uri_line).map(|d| d.size).sum();
        Ok(Download { size })
    }

    /// Fetches packages and all that they need on an empty system into the empty folder `to`; their paths, sorted.
    pub(crate) fn download_all(
        &self,
        packages: &[&str],
        to: &Path,
        at: impl Fn(u64),
    ) -> Result<Vec<PathBuf>, AptError> {
        let partial = to.join("partial"); // apt wants it
        fs::create_dir_all(&partial)?;
        let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let size = || {
            let all = files(to).chain(files(&partial));
            all.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
        };
        let archives = format!("Dir::Cache::archives={}", to.display());
        let mut command = self.install(packages);
        command.args(["--download-only", "-o", &archives]);
        run(&mut command, || at(size()))?;
        let mut debs: Vec<PathBuf> = files(to)
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "deb"))
            .collect();
        debs.sort();
        if debs.is_empty() {
            return Err(AptError::Failed("apt-get left no package".into()));
        }
        Ok(debs)
    }

    /// The command that installs packages, to which an option must be added that keeps it from doing so.
    fn install(&self, packages: &[&str]) -> Command {
        let mut command = self.command("apt-get");
        // dpkg's lock is the system's, and nothing is installed.
        command.args(["-q", "-y", "--no-install-recommends"]);
        command
            .args(["-o", "Debug::NoLocking=1", "install"])
            .args(packages);
        command
    }

    /// Fetches a package's newest version into the empty folder `to`; its path. `at` is told how many bytes there are.
    pub(crate) fn download(
        &self,
        package: &str,
        to: &Path,
        at: impl Fn(u64),
    ) -> Result<PathBuf, AptError> {
        let size = || {
            fs::read_dir(to)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|e| e.metadata().ok())
                .map(|m| m.len())
        };
        let mut command = self.command("apt-get");
        command.args(["-q", "download", package]).current_dir(to);
        run(&mut command, || at(size().sum()))?;
        let deb = fs::read_dir(to)?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb"));
        deb.ok_or_else(|| AptError::Failed("apt-get left no package".into()))
    }
}

/// Where packages come from: the system's own sources on Debian, else Debian's public archive if its keys are there.
fn sources(folder: &Path) -> Result<String, AptError> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if release
        .lines()
        .any(|l| matches!(l, "ID=debian" | "ID=\"debian\""))
    {
        return Ok(String::new());
    }
    if !Path::new(DEBIAN_KEYRING).exists() {
        return Err(AptError::Impossible(format!(
            "this is no Debian system, and Debian's keys are not at {DEBIAN_KEYRING} (package debian-archive-keyring)"
        )));
    }
    let list = folder.join("sources.list");
    let line = |archive, suite| {
        format!("deb [signed-by={DEBIAN_KEYRING}] http://deb.debian.org/{archive} {suite} main\n")
    };
    fs::write(
        &list,
        [
            line("debian", "stable"),
            line("debian-security", "stable-security"),
        ]
        .concat(),
    )?;
    Ok(format!(
        "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\n",
        list.display()
    ))
}

/// The configuration that is read last.
fn configuration(here: &str, arch: Arch, sources: &str) -> String {
    let arch = arch.name();
    let system = if Path::new("/etc/apt/apt.conf").exists() {
        "#include \"/etc/apt/apt.conf\";\n"
    } else {
        ""
    };
    // The system's hooks would act on the system; without privileges there is no user to drop to; only the lists of
    // packages are of use.
    format!(
        "{system}\
         #clear APT::Update;\n\
         #clear DPkg::Pre-Invoke;\n\
         #clear DPkg::Post-Invoke;\n\
         #clear APT::Architectures;\n\
         #clear APT::Default-Release;\n\
         APT::Architecture \"{arch}\";\n\
         APT::Architectures {{ \"{arch}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Dir::State \"{here}/state\";\n\
         Dir::State::Lists \"{here}/lists\";\n\
         Dir::State::status \"{here}/status\";\n\
         Dir::Cache \"{here}/cache\";\n\
         Dir::Cache::archives \"{here}/cache/archives\";\n\
         Dir::Cache::pkgcache \"\";\n\
         Dir::Cache::srcpkgcache \"\";\n\
         Dir::Log \"{here}/state\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"1\";\n\
         Acquire::http::Timeout \"20\";\n\
         Acquire::https::Timeout \"20\";\n\
         Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11-icons-large::DefaultEnabled \"false\";\n\
         {sources}"
    )
}

/// Runs a program to its end, looking at its progress meanwhile; what it printed, and what it complained of.
fn run(command: &mut Command, watch: impl Fn()) -> Result<(String, String), AptError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            AptError::Impossible(match e.kind() {
                io::ErrorKind::NotFound => format!("there is no {program} on this machine"),
                _ => format!("{program} cannot be started: {e}"),
            })
        })?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (status, out, err) = thread::scope(|scope| {
        let out = scope.spawn(move || all(out.as_mut()));
        let err = scope.spawn(move || all(err.as_mut()));
        let status = loop {
            match child.try_wait() {
                Ok(None) => watch(),
                done => break done,
            }
            thread::sleep(POLL);
        };
        (
            status,
            out.join().unwrap_or_default(),
            err.join().unwrap_or_default(),
        )
    });
    match status? {
        Some(status) if status.success() => Ok((out, err)),
        _ => Err(AptError::Failed(match summary(&err) {
            empty if empty.is_empty() => format!("{program} failed"),
            said => said,
        })),
    }
}

/// Everything that a pipe yields.
fn all(pipe: Option<&mut impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error still says something.
        pipe.read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first of apt's complaints, without its letter.
fn summary(complaints: &str) -> String {
    let said = |letter| complaints.lines().find_map(move |l| l.strip_prefix(letter));
    let line = said("E: ")
        .or_else(|| said("W: "))
        .or_else(|| complaints.lines().next());
    let line = line
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .unwrap_or_default();
    if line.is_empty() {
        line
    } else {
        format!("apt-get: {line}")
    }
}

/// Finds a dependency in the output of `apt-cache depends`.
fn dependency(text: &str, prefix: &str) -> Option<String> {
    text.lines()
        .filter_map(|l| l.trim().trim_start_matches('|').strip_prefix("Depends: "))
        .map(|name| name.split(':').next().unwrap_or(name))
        .find(|name| name.starts_with(prefix) && !name.contains(['<', '>', ' ']))
        .map(str::to_owned)
}

/// Reads a line of `apt-get --print-uris`: 'URI' FILE SIZE HASH.
fn uri_line(line: &str) -> Option<Download> {
    let mut words = line.strip_prefix('\'')?.split(' ');
    let (_, _, size) = (words.next()?, words.next()?, words.next()?);
    Some(Download {
        size: size.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Arch, configuration, dependency, run, summary, uri_line};
    use std::process::Command;

    #[test]
    fn what_apt_prints() {
        let depends =
            "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n  Suggests: x\n";
        assert_eq!(
            dependency(depends, "linux-image-").as_deref(),
            Some("linux-image-6.1.0-9-cloud-amd64")
        );
        assert_eq!(
            dependency(" |Depends: xen-hypervisor-4.17-amd64\n", "xen-").as_deref(),
            Some("xen-hypervisor-4.17-amd64")
        );
        assert_eq!(dependency("  Depends: <virtual>\n", ""), None);
        let line = "'http://d/p/a_1.deb' a_1%3a1_amd64.deb 928188 SHA256:3d3f";
        assert_eq!(uri_line(line).unwrap().size, 928_188);
        assert!(uri_line("Reading...").is_none() && uri_line("E: no").is_none());
        assert_eq!(summary("W: a\nE: Unable to\n"), "apt-get: Unable to");
        assert_eq!(summary(""), "");
    }

    #[test]
    fn the_configuration_names_only_our_folders() {
        let text = configuration("/c/apt/i386", Arch::I386, "");
        assert!(text.contains("Dir::State::Lists \"/c/apt/i386/lists\";"));
        assert!(text.contains("APT::Architectures { \"i386\"; };"));
        let states = text
            .lines()
            .filter(|l| l.starts_with("Dir::State") || l.starts_with("Dir::Cache"));
        assert!(states.clone().count() >= 6);
        assert!(
            states
                .into_iter()
                .all(|l| l.contains("/c/apt/i386") || l.ends_with("\"\";"))
        );
    }

    #[test]
    fn failing_programs() {
        let e = run(&mut Command::new("doppel-no-such-program"), || ()).unwrap_err();
        assert!(
            format!("{e:?}").contains("there is no doppel-no-such-program"),
            "{e:?}"
        );
        let e = run(
            Command::new("sh").args(["-c", "echo E: broken >&2; exit 3"]),
            || (),
        )
        .unwrap_err();
        assert!(format!("{e:?}").contains("apt-get: broken"), "{e:?}");
    }
}
