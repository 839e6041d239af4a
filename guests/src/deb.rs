//! Debian packages (deb(5)): an ar archive with a tar archive in it. Only the files asked for are read.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use crate::decompress;

/// No file that we want is larger.
const LIMIT: u64 = 256 << 20;
/// Symbolic links that are followed in a row.
const LINKS: usize = 4;

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Finds the tar archive with the package's files and unpacks it as a stream.
fn data(deb: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut deb = BufReader::new(deb);
    let mut magic = [0; 8];
    deb.read_exact(&mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(invalid("it is no Debian package".into()));
    }
    loop {
        // name 16, time 12, owner 6, group 6, mode 8, size 10, "`\n"
        let mut header = [0; 60];
        deb.read_exact(&mut header)
            .map_err(|_| invalid("the package holds no data.tar".into()))?;
        let (name, rest) = header.split_at(16);
        let size = rest
            .get(32..42)
            .and_then(|s| str::from_utf8(s).ok())
            .and_then(|s| s.trim_end().parse::<u64>().ok());
        let size = size.filter(|_| rest.ends_with(b"`\n"));
        let size = size.ok_or_else(|| invalid("the package's ar archive is damaged".into()))?;
        if name.starts_with(b"data.tar") {
            return decompress::reader(BufReader::new(deb.take(size)));
        }
        // Members begin at even offsets.
        let skip = size.next_multiple_of(2);
        if io::copy(&mut deb.by_ref().take(skip), &mut io::sink())? != skip {
            return Err(invalid("the package is cut off".into()));
        }
    }
}

/// Whether a path in an archive is the one asked for; a `*` in the pattern stands for any part of a file's name.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            let middle = path
                .strip_prefix(start)
                .and_then(|rest| rest.strip_suffix(end));
            middle.is_some_and(|m| !m.is_empty() && !m.contains('/'))
        }
        None => path == pattern,
    }
}

/// A path as archives name it, without the leading `./`.
fn plain(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.trim_start_matches("./").trim_matches('/').to_owned()
}

/// Where a symbolic link at `path` leads.
fn target(path: &str, link: &Path) -> String {
    let link = link.to_string_lossy();
    if link.starts_with('/') {
        return link.trim_matches('/').to_owned();
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A file that is looked for.
struct Search {
    /// Its possible paths, the best first.
    patterns: Vec<String>,
    /// Which of them has been found, and the contents.
    found: Option<(usize, Vec<u8>)>,
    /// Which of them is a symbolic link, and to what.
    link: Option<(usize, String)>,
}

impl Search {
    /// Which of the patterns a path matches, if that is better than what is there already.
    fn rank(&self, path: &str) -> Option<usize> {
        let rank = self.patterns.iter().position(|p| matches(p, path))?;
        self.found
            .as_ref()
            .is_none_or(|(best, _)| rank < *best)
            .then_some(rank)
    }
}

/// Reads files from a package. `wanted` has for each file its possible paths (see `Package::members`); the result
/// has a place for each, `None` for what is not there.
pub(crate) fn extract(deb: &Path, wanted: &[&[&str]]) -> io::Result<Vec<Option<Vec<u8>>>> {
    let search = |patterns: &&[&str]| Search {
        patterns: patterns.iter().map(|p| (*p).to_owned()).collect(),
        found: None,
        link: None,
    };
    let mut searches: Vec<Search> = wanted.iter().map(search).collect();
    for _ in 0..=LINKS {
        scan(deb, &mut searches)?;
        let mut again = false;
        for s in &mut searches {
            let better =
                |(rank, _): &(usize, String)| s.found.as_ref().is_none_or(|(best, _)| rank < best);
            if let Some((_, to)) = s.link.take().filter(better) {
                s.patterns = vec![to];
                s.found = None;
                again = true;
            }
        }
        if !again {
            break;
        }
    }
    Ok(searches
        .into_iter()
        .map(|s| s.found.map(|(_, bytes)| bytes))
        .collect())
}

/// Goes through a package once, until nothing better can come.
fn scan(deb: &Path, searches: &mut [Search]) -> io::Result<()> {
    let mut archive = tar::Archive::new(data(File::open(deb)?)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = plain(&entry.path()?);
        let Some((search, rank)) = searches
            .iter_mut()
            .find_map(|s| s.rank(&path).map(|rank| (s, rank)))
        else {
            continue;
        };
        let kind = entry.header().entry_type();
        if let (true, Some(link)) = (kind.is_symlink() || kind.is_hard_link(), entry.link_name()?) {
            let to = if kind.is_symlink() {
                target(&path, &link)
            } else {
                plain(&link)
            };
            search.link = Some((rank, to));
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        if entry.size() > LIMIT {
            return Err(invalid(format!("{path} has {} bytes", entry.size())));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        search.found = Some((rank, bytes));
        // What follows is usually far larger than what we want.
        if searches
            .iter()
            .all(|s| s.found.as_ref().is_some_and(|(rank, _)| *rank == 0))
        {
            break;
        }
    }
    Ok(())
}

/// What a package puts at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A regular file.
    File { permissions: u32, bytes: Vec<u8> },
    /// A symbolic link. A hard link is one to the absolute path of its file.
    Link(String),
}

/// Reads all files and links of a package whose path, without the leading slash, is to be kept: in the package's order.
pub(crate) fn contents(
    deb: &Path,
    keep: impl Fn(&str) -> bool,
) -> io::Result<Vec<(String, Content)>> {
    let mut archive = tar::Archive::new(data(File::open(deb)?)?);
    let mut found = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = plain(&entry.path()?);
        if !keep(&path) {
            continue;
        }
        let kind = entry.header().entry_type();
        let content = match (kind, entry.link_name()?) {
            (tar::EntryType::Symlink, Some(to)) => Content::Link(to.to_string_lossy().into_owned()),
            (tar::EntryType::Link, Some(to)) => Content::Link(format!("/{}", plain(&to))),
            _ if !kind.is_file() => continue,
            _ if entry.size() > LIMIT => {
                return Err(invalid(format!("{path} has {} bytes", entry.size())));
            }
            _ => {
                let permissions = entry.header().mode()? & 0o7777;
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                Content::File { permissions, bytes }
            }
        };
        found.push((path, content));
    }
    Ok(found)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Content, contents, extract};
    use crate::decompress::tests::{gz, sample, xz, zst};
    use std::fs;
    use std::path::PathBuf;

    /// A package with these files; a name that ends in `@` is a symbolic link to the contents.
    pub(crate) fn package(
        files: &[(&str, &[u8])],
        pack: fn(&[u8]) -> Vec<u8>,
        ending: &str,
    ) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            if let Some(name) = name.strip_suffix('@') {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, str::from_utf8(bytes).unwrap())
                    .unwrap();
            } else {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, format!("./{name}"), *bytes)
                    .unwrap();
            }
        }
        let data = pack(&tar.into_inner().unwrap());
        let mut deb = b"!<arch>\n".to_vec();
        let data_name = format!("data.tar{ending}");
        for (name, bytes) in [
            ("debian-binary", &b"2.0\n"[..]),
            ("control.tar", b"odd"),
            (&data_name, &data),
        ] {
            deb.extend(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                    0,
                    0,
                    0,
                    100_644,
                    bytes.len()
                )
                .bytes(),
            );
            deb.extend(bytes);
            deb.resize(deb.len().next_multiple_of(2), b'\n');
        }
        deb
    }

    /// A folder of this test's own, removed at the end.
    pub(crate) struct Folder(pub PathBuf);

    impl Folder {
        pub(crate) fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("doppel-guests-{}-{name}", std::process::id()));
            fs::remove_dir_all(&path).ok();
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn files_come_out() {
        let folder = Folder::new("deb");
        let path = folder.0.join("x.deb");
        let kernel = sample(70_000);
        let files: &[(&str, &[u8])] = &[
            ("boot/config-6", b"no"),
            ("boot/vmlinuz-6.1", &kernel),
            ("usr/a/link@", b"../b/real"),
            ("usr/b/real", b"here"),
        ];
        let wanted: &[&[&str]] = &[
            &["boot/vmlinuz-*"],
            &["old/link", "usr/a/link"],
            &["absent"],
        ];
        for (pack, ending) in [
            (gz as fn(&[u8]) -> Vec<u8>, ".gz"),
            (xz, ".xz"),
            (zst, ".zst"),
            (<[u8]>::to_vec, ""),
        ] {
            fs::write(&path, package(files, pack, ending)).unwrap();
            let found = extract(&path, wanted).unwrap();
            assert_eq!(
                found,
                [Some(kernel.clone()), Some(b"here".to_vec()), None],
                "{ending}"
            );
        }
    }

    #[test]
    fn the_first_name_is_the_best() {
        let folder = Folder::new("best");
        let path = folder.0.join("x.deb");
        let files: &[(&str, &[u8])] = &[
            ("b/x-4.config", b"no"),
            ("b/second", b"2"),
            ("b/x-4.gz", b"gz"),
            ("b/first", b"1"),
        ];
        fs::write(&path, package(files, gz, ".gz")).unwrap();
        let wanted: &[&[&str]] = &[&["b/first", "b/second"], &["b/x-*.gz"], &["none", "b/x-*g"]];
        let found = extract(&path, wanted).unwrap();
        assert_eq!(
            found,
            [
                Some(b"1".to_vec()),
                Some(b"gz".to_vec()),
                Some(b"no".to_vec())
            ]
        );
    }

    #[test]
    fn a_link_to_itself_ends() {
        let folder = Folder::new("loop");
        let path = folder.0.join("x.deb");
        fs::write(&path, package(&[("a@", b"a")], gz, ".gz")).unwrap();
        assert_eq!(extract(&path, &[&["a"]]).unwrap(), [None]);
    }

    #[test]
    fn damaged_packages() {
        let folder = Folder::new("bad");
        let path = folder.0.join("x.deb");
        let whole = package(&[("a", &sample(5000))], xz, ".xz");
        for len in [0, 5, 40, 100, 200, whole.len() - 1000] {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(extract(&path, &[&["a"]]).is_err(), "{len}");
        }
        fs::write(&path, b"<html>not found</html>").unwrap();
        assert!(
            extract(&path, &[&["a"]])
                .unwrap_err()
                .to_string()
                .contains("no Debian package")
        );
    }

    #[test]
    fn all_that_is_kept() {
        let folder = Folder::new("contents");
        let path = folder.0.join("x.deb");
        let files: &[(&str, &[u8])] = &[
            ("usr/bin/x", b"program"),
            ("usr/share/doc/x", b"no"),
            ("usr/bin/y@", b"x"),
        ];
        fs::write(&path, package(files, xz, ".xz")).unwrap();
        let program = Content::File {
            permissions: 0o644,
            bytes: b"program".to_vec(),
        };
        assert_eq!(
            contents(&path, |p| !p.starts_with("usr/share/")).unwrap(),
            [
                ("usr/bin/x".into(), program),
                ("usr/bin/y".into(), Content::Link("x".into()))
            ]
        );
    }
}
