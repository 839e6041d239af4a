//! The files of `--kernel` and `--initrd`: read once, loaded at every start and reset of the machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::claims::Claims;
use super::detect::{Protocol, detect};
use super::error::{LoadError, Problem};
use super::{Environment, GuestMemory, Loaded, bzimage, multiboot1, multiboot2, pvh};

/// An initrd or a multiboot module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// The file, as the user named it.
    pub file: String,
    /// Its command line for the kernel: the file's name and the arguments after it.
    pub command_line: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// A kernel with all that goes with it, ready to be loaded any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel's file, as the user named it.
    pub name: String,
    /// The kernel.
    pub kernel: Vec<u8>,
    /// The protocol to speak: never [`Protocol::Auto`] after [`BootFiles::open`].
    pub protocol: Protocol,
    /// The initrd, or the modules.
    pub modules: Vec<Module>,
    /// The text of `--append`.
    pub append: String,
}

impl BootFiles {
    /// Reads what the options name. `kernel` is `FILE[,protocol=P]`; `initrd` is a file, or with multiboot
    /// `FILE args,FILE args` (with PVH either: a list only when no file has that whole name). `limit` is the number of
    /// bytes of RAM: a file larger than that is not read.
    ///
    /// # Errors
    /// A [`LoadError`] if a file cannot be read, or the kernel's protocol is unknown or not the one asked for.
    pub fn open(
        kernel: &str,
        initrd: Option<&str>,
        append: &str,
        limit: u64,
    ) -> Result<Self, LoadError> {
        let (name, asked) = match kernel.rsplit_once(",protocol=") {
            Some((name, p)) => (name, p.parse().map_err(|why| Problem::Usage(why).of(name))?),
            None => (kernel, Protocol::Auto),
        };
        let bytes = read(name, limit).map_err(|p| p.of(name))?;
        let protocol = detect(&bytes, asked).map_err(|p| p.of(name))?;
        let modules = initrd.map_or(Ok(Vec::new()), |text| modules(text, protocol, limit))?;
        Ok(Self {
            name: name.to_owned(),
            kernel: bytes,
            protocol,
            modules,
            append: append.to_owned(),
        })
    }

    /// Lays the kernel and what goes with it into RAM.
    ///
    /// # Errors
    /// A [`LoadError`] if a file is damaged, does not fit, or wants what direct loading does not give. RAM may have
    /// been written then.
    pub fn load(
        &self,
        env: &Environment,
        memory: &mut dyn GuestMemory,
    ) -> Result<Loaded, LoadError> {
        let protocol = detect(&self.kernel, self.protocol).map_err(|p| p.of(&self.name))?;
        let mut claims = Claims::new(&env.map, memory);
        let entry = match protocol {
            Protocol::Linux => bzimage::load(self, env, &mut claims),
            Protocol::Multiboot2 => multiboot2::load(self, env, &mut claims),
            Protocol::Multiboot => multiboot1::load(self, env, &mut claims),
            Protocol::Pvh => pvh::load(self, env, &mut claims),
            Protocol::Auto => Err(Problem::Malformed("its protocol is unknown")),
        };
        let done = entry.and_then(|entry| {
            claims.write_bios_data()?;
            Ok(Loaded { protocol, entry })
        });
        done.map_err(|p| p.of(&self.name))
    }

    /// A multiboot kernel's command line: its file name, a space, then `--append`.
    pub(super) fn multiboot_command_line(&self) -> String {
        format!("{} {}", self.name, self.append)
    }
}

/// Reads a whole file of at most `limit` bytes.
fn read(name: &str, limit: u64) -> Result<Vec<u8>, Problem> {
    let file = File::open(name).map_err(Problem::Unreadable)?;
    let size = file.metadata().map_err(Problem::Unreadable)?.len();
    let too_large = |size| Problem::TooLarge {
        what: "a file of this size",
        end: size,
        have: limit,
    };
    if size > limit {
        return Err(too_large(size));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // A pipe has no size beforehand, and a file may grow.
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Problem::Unreadable)?;
    if bytes.is_empty() {
        return Err(Problem::Empty);
    }
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Reads what `--initrd` names.
fn modules(text: &str, protocol: Protocol, limit: u64) -> Result<Vec<Module>, LoadError> {
    let single = match protocol {
        Protocol::Multiboot | Protocol::Multiboot2 => false,
        Protocol::Pvh => Path::new(text).exists(),
        Protocol::Linux | Protocol::Auto => true,
    };
    let items = if single {
        vec![(text, text)]
    } else {
        module_list(text)?
    };
    let mut left = limit;
    let mut modules = Vec::new();
    for (file, command_line) in items {
        let bytes = read(file, left).map_err(|p| p.of(file))?;
        left -= bytes.len() as u64;
        modules.push(Module {
            file: file.to_owned(),
            command_line: command_line.to_owned(),
            bytes,
        });
    }
    Ok(modules)
}

/// Splits `FILE args,FILE args` into files and command lines.
fn module_list(text: &str) -> Result<Vec<(&str, &str)>, LoadError> {
    let item = |item: &'_ str| -> Option<(usize, usize)> {
        let item = item.trim_start();
        let file = item.split(' ').next()?;
        (!file.is_empty()).then_some((file.len(), item.len()))
    };
    text.split(',')
        .map(|part| {
            let (file, whole) = item(part).ok_or_else(|| {
                Problem::Usage(
                    "--initrd takes FILE args,FILE args: between two commas a file is missing"
                        .into(),
                )
                .of(text)
            })?;
            let part = part.get(part.len() - whole..).unwrap_or(part);
            Ok((part.get(..file).unwrap_or(part), part))
        })
        .collect()
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{BootFiles, module_list};

    #[test]
    fn module_lists() {
        let list = module_list("a/b one two, c,d x=1").unwrap();
        assert_eq!(list, [("a/b", "a/b one two"), ("c", "c"), ("d", "d x=1")]);
        for bad in ["", "a,,b", "a, ", ","] {
            assert_eq!(module_list(bad).unwrap_err().exit_status(), 2, "{bad:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_used() {
        let open = |kernel: &str| BootFiles::open(kernel, None, "", 1 << 20).unwrap_err();
        let e = open("/nonexistent/vmlinuz");
        assert!(e.to_string().contains("No such file"), "{e}");
        assert_eq!(e.exit_status(), 4);
        assert!(open("/").to_string().contains("irectory"));
        assert!(open("/dev/null").to_string().contains("empty"));
        assert!(open("/dev/zero").to_string().contains("--mem"));
        assert_eq!(open("/dev/zero,protocol=bios").exit_status(), 2);
    }
}
