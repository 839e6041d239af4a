//! Several of Debian's packages with all that they need, kept in the cache, and their files in an initramfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, checksum};
use crate::cpio::Cpio;
use crate::deb::{self, Content};
use crate::error::GuestError;
use crate::fetch;

/// Packages for amd64 that are wanted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageSet {
    /// The set's folder in the cache.
    pub name: &'static str,
    /// The packages' names; what they depend on need not be named.
    pub packages: &'static [&'static str],
}

impl Cache {
    /// The package files of a set and of all its dependencies, sorted; fetched if one is missing or damaged.
    ///
    /// # Errors
    /// A [`GuestError`] that says why they cannot be had.
    pub fn packages(&self, set: &PackageSet) -> Result<Vec<PathBuf>, GuestError> {
        if let Some(debs) = self.good_packages(set) {
            return Ok(debs);
        }
        if self.is_offline() {
            let why = "they are not whole in the cache, and nothing is to be fetched";
            return Err(self.no_packages(set, why.into()));
        }
        let progress = self.progress();
        let _lock = self.lock(&progress)?;
        // Another process may have done it meanwhile.
        if let Some(debs) = self.good_packages(set) {
            return Ok(debs);
        }
        let fetched = fetch::fetch_all(self, set, &progress)?;
        let folder = self.packages_folder(set);
        self.install_packages(set, &fetched)
            .map_err(Self::cache_error(&folder))
    }

    pub(crate) fn no_packages(&self, set: &PackageSet, why: String) -> GuestError {
        GuestError::Packages {
            what: set.packages.join(", "),
            why,
        }
    }

    fn packages_folder(&self, set: &PackageSet) -> PathBuf {
        self.folder().join("packages").join(set.name)
    }

    fn packages_record(&self, set: &PackageSet) -> PathBuf {
        self.packages_folder(set).with_extension("sum")
    }

    /// What is in the cache, if it is what the record says, and that of this set.
    fn good_packages(&self, set: &PackageSet) -> Option<Vec<PathBuf>> {
        let record = fs::read_to_string(self.packages_record(set)).ok()?;
        let mut lines = record.lines();
        if lines.next()? != set.packages.join(" ") {
            return None;
        }
        let folder = self.packages_folder(set);
        let file = |line: &str| {
            let (sum, name) = line.split_once(' ')?;
            let path = folder.join(name);
            (checksum(&path).ok()? == sum).then_some(path)
        };
        lines.map(file).collect()
    }

    /// Moves packages to their folder. The caller holds the lock.
    fn install_packages(&self, set: &PackageSet, fetched: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
        let (folder, record) = (self.packages_folder(set), self.packages_record(set));
        // Without a record whatever is in the folder does not count: it is written last.
        for gone in [fs::remove_file(&record), fs::remove_dir_all(&folder)] {
            gone.or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            })?;
        }
        fs::create_dir_all(&folder)?;
        let mut text = set.packages.join(" ") + "\n";
        let mut debs = Vec::new();
        for from in fetched {
            let name = from.file_name().unwrap_or_default();
            let to = folder.join(name);
            fs::rename(from, &to)?;
            text += &format!("{} {}\n", checksum(&to)?, name.to_string_lossy());
            debs.push(to);
        }
        let unfinished = record.with_extension("new");
        fs::write(&unfinished, text)?;
        fs::rename(unfinished, record)?;
        Ok(debs)
    }
}

impl Cpio {
    /// Adds a package's files and links whose path, without the leading slash, is to be kept. `usr/` and the root are
    /// made one, whichever of them the release's packages use: the archive gets a link `usr` to its root.
    ///
    /// # Errors
    /// The package cannot be read.
    pub fn package(&mut self, deb: &Path, keep: impl Fn(&str) -> bool) -> io::Result<&mut Self> {
        for (path, content) in deb::contents(deb, keep)? {
            let path = path.strip_prefix("usr/").unwrap_or(&path);
            match content {
                Content::File { permissions, bytes } => self.file(path, permissions, &bytes),
                Content::Link(to) => self.link(path, &to),
            };
        }
        Ok(self.usr_is_root())
    }
}

#[cfg(test)]
mod tests {
    use super::PackageSet;
    use crate::cache::Cache;
    use crate::cpio::Cpio;
    use crate::cpio::tests::read;
    use crate::deb::tests::{Folder, package};
    use crate::decompress::tests::xz;
    use std::fs;

    const SET: PackageSet = PackageSet {
        name: "test",
        packages: &["one", "two"],
    };

    #[test]
    fn packages_are_kept_and_damage_is_found() {
        let folder = Folder::new("set");
        let cache = Cache::at(folder.0.join("cache")).offline();
        let error = cache.packages(&SET).unwrap_err().to_string();
        assert!(error.contains("one, two"), "{error}");

        let fetched = ["one.deb", "two.deb"].map(|name| {
            let path = folder.0.join(name);
            fs::write(&path, name).unwrap();
            path
        });
        let debs = cache.install_packages(&SET, &fetched).unwrap();
        assert_eq!(cache.packages(&SET).unwrap(), debs);
        assert_eq!(fs::read(&debs[1]).unwrap(), b"two.deb");

        let more = PackageSet {
            packages: &["one", "two", "three"],
            ..SET
        };
        assert!(cache.packages(&more).is_err(), "another set of that name");
        fs::write(&debs[1], "twO.deb").unwrap();
        assert!(cache.packages(&SET).is_err(), "a changed file");
        fs::remove_file(&debs[1]).unwrap();
        assert!(cache.packages(&SET).is_err(), "a missing file");
    }

    #[test]
    fn usr_and_the_root_are_one() {
        let folder = Folder::new("usr");
        let files: &[(&str, &[u8])] = &[
            ("lib/libc.so.6", b"c"),
            ("usr/bin/x", b"x"),
            ("usr/share/doc/x", b"no"),
            ("usr/lib/liby.so@", b"libc.so.6"),
        ];
        let deb = folder.0.join("x.deb");
        fs::write(&deb, package(files, xz, ".xz")).unwrap();
        let mut cpio = Cpio::new();
        for _ in 0..2 {
            cpio.package(&deb, |path| !path.contains("share/")).unwrap();
        }
        let entries = read(&cpio.finish());
        let names: Vec<_> = entries.iter().map(|e| e.0.as_str()).collect();
        let first = ["lib", "lib/libc.so.6", "bin", "bin/x", "lib/liby.so", "usr"];
        assert_eq!(names[..6], first);
        assert_eq!(names.iter().filter(|n| **n == "usr").count(), 1);
        assert_eq!(
            (entries[5].1, entries[5].2.as_slice()),
            (0o120_777, &b"."[..])
        );
    }
}
