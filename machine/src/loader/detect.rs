//! Which protocol a file speaks, and what it is when it speaks none.

use std::fmt;
use std::str::FromStr;

use super::bytes::Bytes;
use super::error::Problem;
use super::{bzimage, multiboot1, multiboot2, pvh};

/// How a kernel is loaded and entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// The first of the others, in this order, that the file speaks.
    #[default]
    Auto,
    /// Linux's boot protocol: a bzImage (vmlinuz, memtest86+).
    Linux,
    /// An ELF file with a multiboot 2 header.
    Multiboot2,
    /// A file with a multiboot 1 header.
    Multiboot,
    /// An ELF file with Xen's PVH entry note (vmlinux).
    Pvh,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Linux => "linux",
            Self::Multiboot2 => "multiboot2",
            Self::Multiboot => "multiboot",
            Self::Pvh => "pvh",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [
            Self::Auto,
            Self::Linux,
            Self::Multiboot2,
            Self::Multiboot,
            Self::Pvh,
        ];
        all.into_iter().find(|p| p.to_string() == text).ok_or_else(|| {
            format!("unknown protocol '{text}'; there are linux, multiboot2, multiboot, pvh and auto")
        })
    }
}

/// Settles [`Protocol::Auto`], and refuses a protocol that the file does not speak.
pub(super) fn detect(file: &[u8], asked: Protocol) -> Result<Protocol, Problem> {
    if file.is_empty() {
        return Err(Problem::Empty);
    }
    let speaks = |protocol| match protocol {
        Protocol::Auto => None,
        Protocol::Linux => bzimage::recognise(file),
        Protocol::Multiboot2 => multiboot2::recognise(file),
        Protocol::Multiboot => multiboot1::recognise(file),
        Protocol::Pvh => pvh::recognise(file),
    };
    let why = match asked {
        Protocol::Auto => {
            let order = [
                Protocol::Linux,
                Protocol::Multiboot2,
                Protocol::Multiboot,
                Protocol::Pvh,
            ];
            return order
                .into_iter()
                .find(|&p| speaks(p).is_some())
                .ok_or_else(|| foreign(file));
        }
        _ if speaks(asked).is_some() => return Ok(asked),
        Protocol::Linux => "it has no Linux setup header (AA55h at 1FEh, HdrS at 202h)",
        Protocol::Multiboot2 => "its first 32 KiB hold no multiboot 2 header",
        Protocol::Multiboot => "its first 8 KiB hold no multiboot header",
        Protocol::Pvh => "it is no x86 ELF file with a Xen PHYS32_ENTRY note",
    };
    Err(Problem::OtherProtocol { asked, why })
}

/// What an unloadable file seems to be.
fn foreign(file: &[u8]) -> Problem {
    const UNPACK: &str = "unpack it and give what was in it";
    const DISK: &str = "give it as a disk (doppel run FILE) or with --cdrom";
    /// Offset, what stands there, what it is, what to do.
    const KNOWN: &[(u64, &[u8], &str, &str)] = &[
        (0, b"\x1f\x8b", "a gzip-compressed file", UNPACK),
        (0, b"\xfd7zXZ\0", "an xz-compressed file", UNPACK),
        (0, b"\x28\xb5\x2f\xfd", "a zstd-compressed file", UNPACK),
        (0, b"BZh", "a bzip2-compressed file", UNPACK),
        (0, b"\x02\x21\x4c\x18", "an lz4-compressed file", UNPACK),
        (0, b"\x04\x22\x4d\x18", "an lz4-compressed file", UNPACK),
        (0, b"!<arch>\n", "an archive (a Debian package?)", UNPACK),
        (
            0,
            b"0707",
            "a cpio archive",
            "an initramfs goes with --initrd",
        ),
        (0x8001, b"CD001", "a CD image", DISK),
        (0, b"QFI\xfb", "a qcow2 disk image", DISK),
        (0, b"conectix", "a VHD disk image", DISK),
        (
            0x38,
            b"ARM\x64",
            "a kernel for 64-bit ARM",
            "give one for x86 or x86-64",
        ),
        (0, b"#!", "a script", "give the kernel itself"),
        (
            0,
            b"MZ",
            "an EFI or Windows program",
            "start it from a disk with UEFI firmware (--firmware)",
        ),
        (0x1fe, b"\x55\xaa", "a boot sector or disk image", DISK),
    ];
    let elf =
        "give a kernel with a PVH note (Linux: CONFIG_PVH) or a multiboot header, or a bzImage";
    let (looks_like, hint) = if file.starts_with(b"\x7fELF") {
        match (Bytes(file).u8(5), Bytes(file).u16(18)) {
            (Some(1), Some(3 | 62)) => (
                "an ELF file with neither a PVH note nor a multiboot header",
                elf,
            ),
            _ => (
                "an ELF file for another processor",
                "give one for x86 or x86-64",
            ),
        }
    } else {
        let known = KNOWN
            .iter()
            .find(|(at, magic, ..)| Bytes(file).slice(*at, magic.len() as u64) == Some(magic));
        known.map_or(
            (
                "an unknown kind of file",
                "give a bzImage (vmlinuz), an ELF file with a PVH note, or a multiboot kernel",
            ),
            |&(_, _, what, hint)| (what, hint),
        )
    };
    Problem::Foreign { looks_like, hint }
}

#[cfg(test)]
mod tests {
    use super::{Protocol, detect};

    fn message(file: &[u8], asked: Protocol) -> String {
        detect(file, asked).unwrap_err().to_string()
    }

    #[test]
    fn foreign_files_are_named() {
        let mut iso = vec![0; 0x9000];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        assert!(message(&iso, Protocol::Auto).contains("a CD image"));
        assert!(message(b"\x1f\x8b\x08", Protocol::Auto).contains("gzip"));
        assert!(message(b"hello", Protocol::Auto).contains("unknown kind"));
        assert!(message(b"", Protocol::Auto).contains("empty"));
        assert!(message(b"\x7fELF\x02\x01\x01", Protocol::Auto).contains("another processor"));
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_refused() {
        for p in ["linux", "multiboot2", "multiboot", "pvh"] {
            let protocol: Protocol = p.parse().unwrap();
            let text = message(b"hello", protocol);
            assert!(text.contains(&format!("does not speak {p}:")), "{text}");
        }
        assert!("uefi".parse::<Protocol>().is_err());
    }
}
