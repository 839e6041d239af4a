//! cpio archives in the "newc" form (cpio(5)), the one that Linux unpacks as its initramfs.

use std::collections::BTreeSet;

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// File type bits of a mode (inode(7)).
mod kind {
    pub(super) const CHAR: u32 = 0o020_000;
    pub(super) const DIR: u32 = 0o040_000;
    pub(super) const FILE: u32 = 0o100_000;
    pub(super) const LINK: u32 = 0o120_000;
}

/// An archive under construction. Everything belongs to root and is dated 1970, so that the same calls give the same
/// bytes. Folders must come before what is in them; `dir` adds the ones above by itself.
#[derive(Clone, Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
    dirs: BTreeSet<String>,
}

impl Cpio {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), body: &[u8]) {
        let links = if mode & kind::DIR == kind::DIR { 2 } else { 1 };
        let fields = [
            self.inode,
            mode,
            0, // owner
            0, // group
            links,
            0, // time
            body.len() as u32,
            0, // major and minor number of the device it is on
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // no checksum in this form
        ];
        self.inode += 1;
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(body);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds the folders above a path.
    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
    }

    /// A folder; one that is there already is left alone.
    pub fn dir(&mut self, path: &str) -> &mut Self {
        let path = path.trim_matches('/');
        if !path.is_empty() && !self.dirs.contains(path) {
            self.parents(path);
            self.dirs.insert(path.to_owned());
            self.entry(path, kind::DIR | 0o755, (0, 0), &[]);
        }
        self
    }

    /// A regular file of less than 4 GiB with these permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, body: &[u8]) -> &mut Self {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, kind::FILE | permissions & 0o7777, (0, 0), body);
        self
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, kind::LINK | 0o777, (0, 0), target.as_bytes());
        self
    }

    /// Makes `usr` a link to the root, if nothing is there yet.
    pub(crate) fn usr_is_root(&mut self) -> &mut Self {
        if self.dirs.insert("usr".to_owned()) {
            self.entry("usr", kind::LINK | 0o777, (0, 0), b".");
        }
        self
    }

    /// A character device.
    pub fn char_device(
        &mut self,
        path: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> &mut Self {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, kind::CHAR | permissions & 0o7777, (major, minor), &[]);
        self
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Cpio;

    /// Reads an archive back: name, mode, contents; the trailer ends it.
    pub(crate) fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let at = 6 + n * 8;
                u32::from_str_radix(str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap()
            };
            let (mode, len, name_len) = (field(1), field(6) as usize, field(11) as usize);
            let name = str::from_utf8(&bytes[110..110 + name_len - 1])
                .unwrap()
                .to_owned();
            let body = (110 + name_len).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name, mode, bytes[body..body + len].to_vec()));
            bytes = &bytes[(body + len).next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut c = Cpio::new();
        c.file("/a/b/c", 0o755, b"hello")
            .link("a/l", "b/c")
            .dir("a")
            .char_device("dev/null", 0o666, 1, 3);
        let bytes = c.finish();
        assert_eq!(bytes.len() % 512, 0);
        let entries = read(&bytes);
        let short: Vec<_> = entries.iter().map(|(n, m, _)| (n.as_str(), *m)).collect();
        let want = [
            ("a", 0o040_755),
            ("a/b", 0o040_755),
            ("a/b/c", 0o100_755),
            ("a/l", 0o120_777),
            ("dev", 0o040_755),
            ("dev/null", 0o020_666),
        ];
        assert_eq!(short, want);
        assert_eq!(
            (entries[2].2.as_slice(), entries[3].2.as_slice()),
            (&b"hello"[..], &b"b/c"[..])
        );
    }
}
