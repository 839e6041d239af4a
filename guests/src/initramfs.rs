//! A root file system in memory: busybox under all its names, and a script that is process 1.

use crate::cpio::Cpio;

/// What process 1 does after the usual file systems are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// Prints a greeting and gives a shell on the console, on which Ctrl-C works; powers off when it ends.
    Shell {
        /// Lines to print first.
        greeting: String,
    },
    /// Runs these shell commands, then powers off.
    Script(String),
}

/// Names to link if busybox does not show its own.
const COMMON: &str = "sh ash mount umount cat ls cp mv rm mkdir ln echo grep sed head tail uname dmesg ps top free \
    date sleep hostname setsid cttyhack poweroff reboot vi more less find wc sort true false test env clear";

/// The programs that a busybox executable has: their names stand in it, sorted, each ended by a zero.
fn applets(busybox: &[u8]) -> Vec<&str> {
    let starts = b"[\0[[\0";
    let table = busybox
        .windows(starts.len())
        .position(|w| w == starts)
        .and_then(|at| busybox.get(at..));
    let is_name = |name: &&str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"[_-.".contains(&b))
    };
    let mut names: Vec<&str> = Vec::new();
    let table = table
        .unwrap_or_default()
        .split(|b| *b == 0)
        .map_while(|n| str::from_utf8(n).ok());
    for name in table.take_while(is_name) {
        if names.last().is_some_and(|last| *last >= name) {
            break; // no longer sorted: something else
        }
        names.push(name);
    }
    let usable = ["sh", "mount", "poweroff"]
        .iter()
        .all(|n| names.contains(n));
    if usable {
        names
    } else {
        COMMON.split_whitespace().collect()
    }
}

/// Quotes text for the shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The script that is process 1.
fn init_script(init: &Init) -> String {
    let body = match init {
        // cttyhack opens the console's real device as controlling terminal, without which Ctrl-C is just a byte.
        Init::Shell { greeting } => format!(
            "printf '%s\\n' {}\ncd /root\nPS1='\\w # ' setsid cttyhack sh\necho 'The machine is switched off.'\n",
            quote(greeting)
        ),
        Init::Script(commands) => format!("{commands}\n"),
    };
    format!(
        "#!/bin/sh\n\
         export PATH=/bin HOME=/root TERM=\"${{TERM:-vt100}}\"\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev 2>/dev/null\n\
         mount -t tmpfs tmp /tmp\n\
         hostname doppel\n\
         {body}\
         poweroff -f\n"
    )
}

/// Builds the initramfs, an uncompressed cpio archive: the same bytes for the same input.
pub fn initramfs(busybox: &[u8], init: &Init) -> Vec<u8> {
    initramfs_with(busybox, init, |_| {})
}

/// As [`initramfs`], with more files: `add` gets the archive before it ends.
pub fn initramfs_with(busybox: &[u8], init: &Init, add: impl FnOnce(&mut Cpio)) -> Vec<u8> {
    let mut c = Cpio::new();
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        c.dir(dir);
    }
    // The kernel opens it for process 1 before anything is mounted.
    c.char_device("dev/console", 0o600, 5, 1);
    c.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    c.file("etc/group", 0o644, b"root:x:0:\n");
    c.file("bin/busybox", 0o755, busybox);
    for name in applets(busybox).into_iter().filter(|n| *n != "busybox") {
        c.link(&format!("bin/{name}"), "busybox");
    }
    c.file("init", 0o755, init_script(init).as_bytes());
    add(&mut c);
    c.finish()
}

#[cfg(test)]
mod tests {
    use super::{Init, applets, initramfs, initramfs_with};
    use crate::cpio::tests::read;

    #[test]
    fn names_come_from_the_executable() {
        let fake = b"\x7fELF..[\0[[\0ash\0mount\0poweroff\0sh\0true\0\0other\0";
        assert_eq!(
            applets(fake),
            ["[", "[[", "ash", "mount", "poweroff", "sh", "true"]
        );
        assert!(applets(b"[\0[[\0b\0a\0").contains(&"cttyhack"));
        assert!(applets(b"").contains(&"poweroff"));
    }

    #[test]
    fn shell() {
        let init = Init::Shell {
            greeting: "It's here.".into(),
        };
        let archive = initramfs(b"binary", &init);
        assert_eq!(archive, initramfs(b"binary", &init));
        let entries = read(&archive);
        let get = |name: &str| entries.iter().find(|e| e.0 == name).unwrap();
        assert_eq!(
            (get("bin/busybox").1, get("bin/busybox").2.as_slice()),
            (0o100_755, &b"binary"[..])
        );
        assert_eq!(
            (get("bin/sh").1, get("bin/sh").2.as_slice()),
            (0o120_777, &b"busybox"[..])
        );
        let script = String::from_utf8(get("init").2.clone()).unwrap();
        assert!(script.contains(r"'It'\''s here.'"), "{script}");
        assert!(script.starts_with("#!/bin/sh\n") && script.ends_with("poweroff -f\n"));
        assert_eq!(get("init").1, 0o100_755);
    }

    #[test]
    fn script_and_extra_files() {
        let archive = initramfs_with(b"binary", &Init::Script("echo @@DONE".into()), |c| {
            c.file("opt/load", 0o755, b"x");
        });
        let entries = read(&archive);
        let init = entries.iter().find(|e| e.0 == "init").unwrap();
        assert!(
            str::from_utf8(&init.2)
                .unwrap()
                .contains("\necho @@DONE\npoweroff")
        );
        assert!(entries.iter().any(|e| e.0 == "opt/load"));
    }
}
