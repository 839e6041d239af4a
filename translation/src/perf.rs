//! What Linux's perf names translated code by: a map of symbols, or a dump of the code itself.
//!
//! perf finds `/tmp/perf-PID.map` by its name, and `jit-PID.dump` by a mapping of it that the process has made, which it
//! records like any other. Formats: tools/perf/Documentation/jit-interface.txt and jitdump-specification.txt of Linux.
#![expect(unsafe_code, reason = "the dump is found by a mapping of it")]
// UNSAFETY: mapping a file and reading the clock that perf's events have are calls of the C library.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Which of perf's two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerfFormat {
    /// `/tmp/perf-PID.map`, which `perf report` looks into by itself.
    Map,
    /// `jit-PID.dump`, for `perf inject --jit`: with the code, so that `perf annotate` can show it.
    Jitdump,
}

/// The file that is written, by all threads of the process.
#[derive(Debug)]
pub struct Perf {
    format: PerfFormat,
    path: PathBuf,
    /// The file and how many pieces of code are in it; `None` when the host has refused to take more.
    file: Mutex<Option<(File, u64)>>,
    _marker: Option<Marker>,
}

/// "JiTD" as the host's word: readers tell the byte order by it.
const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER: u32 = 40;
/// ELF's number for x86-64.
const EM_X86_64: u32 = 62;
/// Record: a piece of code.
const LOAD: u32 = 0;
/// Bytes of such a record before the name.
const LOAD_HEADER: usize = 56;

impl Perf {
    /// Creates the file for this process: where perf looks for it, or in `folder`.
    ///
    /// # Errors
    /// The host's, with the file's path.
    pub fn create(format: PerfFormat, folder: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let pid = std::process::id();
        let path = match format {
            PerfFormat::Map => PathBuf::from(format!("/tmp/perf-{pid}.map")),
            PerfFormat::Jitdump => folder.join(format!("jit-{pid}.dump")),
        };
        Self::open(format, &path).map_err(|e| (path, e))
    }

    fn open(format: PerfFormat, path: &Path) -> io::Result<Self> {
        // What a process of the same number has left; a link that somebody else put there is not followed.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        let _marker = if format == PerfFormat::Jitdump {
            file.write_all(&header(now()))?;
            Some(Marker::new(&file)?)
        } else {
            None
        };
        Ok(Self {
            format,
            path: path.to_path_buf(),
            file: Mutex::new(Some((file, 0))),
            _marker,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that `code` is executed at `address` from now on, and its name.
    pub fn add(&self, address: u64, code: &[u8], name: &dyn Display) {
        if code.is_empty() {
            return;
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((to, count)) = file.as_mut() else {
            return;
        };
        // One write each: nothing is lost when the process is killed.
        let written = match self.format {
            PerfFormat::Map => {
                to.write_all(format!("{address:x} {:x} {name}\n", code.len()).as_bytes())
            }
            PerfFormat::Jitdump => to.write_all(&load(now(), address, code, *count, name)),
        };
        *count += 1;
        if written.is_err() {
            *file = None;
        }
    }

    /// Whether the host has taken all of it.
    pub fn complete(&self) -> bool {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.is_some()
    }
}

/// The dump's first bytes.
fn header(time: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER as usize);
    let pid = std::process::id();
    for word in [MAGIC, VERSION, HEADER, EM_X86_64, 0, pid] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(time.to_ne_bytes());
    // No flags: times are of the monotonic clock.
    bytes.extend(0u64.to_ne_bytes());
    bytes
}

/// A piece of code in the dump.
fn load(time: u64, address: u64, code: &[u8], index: u64, name: &dyn Display) -> Vec<u8> {
    let name = name.to_string();
    let size = LOAD_HEADER + name.len() + 1 + code.len();
    let mut bytes = Vec::with_capacity(size);
    let pid = std::process::id();
    for word in [LOAD, size as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(time.to_ne_bytes());
    // Maps belong to the process: any thread of it will do.
    for word in [pid, pid] {
        bytes.extend(word.to_ne_bytes());
    }
    for word in [address, address, code.len() as u64, index] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.extend(code);
    bytes
}

/// The clock that `perf record -k mono` stamps events with, in nanoseconds.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is there to be written.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A mapping of the dump that perf finds among its records; nobody reads it.
#[derive(Debug)]
struct Marker(*mut libc::c_void);

/// Bytes of it.
const MARKER: usize = 4096;

// SAFETY: the mapping is never looked at; it only goes with this object.
unsafe impl Send for Marker {}
// SAFETY: as above.
unsafe impl Sync for Marker {}

impl Marker {
    fn new(file: &File) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let (null, rights) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_EXEC);
        let fd = file.as_raw_fd();
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing that exists.
        let map = unsafe { libc::mmap(null, MARKER, rights, libc::MAP_PRIVATE, fd, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(map))
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.0, MARKER) };
    }
}

#[cfg(test)]
mod tests {
    use super::{EM_X86_64, HEADER, LOAD, LOAD_HEADER, MAGIC, Perf, PerfFormat};

    fn word(bytes: &[u8], at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(word)
    }

    fn half(bytes: &[u8], at: usize) -> u32 {
        word(&[&bytes[at..at + 4], &[0; 4]].concat(), 0) as u32
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("doppel-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_map_has_a_line_for_each_piece() {
        let path = scratch("map");
        let perf = Perf::open(PerfFormat::Map, &path).expect("a file");
        perf.add(0x7f00_1000, &[0x90; 0x20], &"first one");
        perf.add(0x7f00_2000, &[], &"nothing");
        perf.add(0x7f00_3000, &[0xc3], &"second");
        let text = std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(text, "7f001000 20 first one\n7f003000 1 second\n");
        assert!(perf.complete());
        // A new one begins anew.
        drop(perf);
        drop(Perf::open(PerfFormat::Map, &path).expect("a file"));
        assert_eq!(std::fs::read(&path).expect("it is there"), [0; 0]);
        std::fs::remove_file(path).expect("it is there");
    }

    #[test]
    fn a_dump_reads_back() {
        let path = scratch("dump");
        let perf = Perf::open(PerfFormat::Jitdump, &path).expect("a file");
        let pieces: [(u64, &[u8], &str); 2] = [(0x7f00_1000, &[0x90, 0xc3], "a"), (1, &[7], "bcd")];
        for (address, code, name) in pieces {
            perf.add(address, code, &name);
        }
        let bytes = std::fs::read(&path).expect("it is there");
        assert_eq!((half(&bytes, 0), half(&bytes, 4)), (MAGIC, 1));
        assert_eq!((half(&bytes, 8), half(&bytes, 12)), (HEADER, EM_X86_64));
        assert_eq!(half(&bytes, 20), std::process::id());
        let (mut at, mut last) = (HEADER as usize, word(&bytes, 24));
        for (n, (address, code, name)) in pieces.into_iter().enumerate() {
            let record = &bytes[at..];
            assert_eq!(half(record, 0), LOAD);
            at += half(record, 4) as usize;
            assert!(word(record, 8) >= last, "times go on");
            last = word(record, 8);
            assert_eq!((word(record, 24), word(record, 32)), (address, address));
            assert_eq!(
                (word(record, 40), word(record, 48)),
                (code.len() as u64, n as u64)
            );
            let text = LOAD_HEADER + name.len();
            assert_eq!(&record[LOAD_HEADER..text], name.as_bytes());
            assert_eq!(record[text], 0);
            assert_eq!(&record[text + 1..text + 1 + code.len()], code);
        }
        assert_eq!(at, bytes.len());
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
        let marker = maps
            .lines()
            .find(|l| l.ends_with(&*path.to_string_lossy()))
            .expect("perf finds it by a mapping");
        assert!(marker.contains(" r-xp "), "{marker}");
        std::fs::remove_file(path).expect("it is there");
    }
}
