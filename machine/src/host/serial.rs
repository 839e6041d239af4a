//! What can be behind a serial port: the terminal, a file, a unix socket, nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::escape::{Escape, EscapeFilter, HELP};
use super::link::HostLink;
use super::queue::{ByteQueue, spawn_writer};
use crate::devices::uart::SerialPort;
use crate::inbox::Inbox;
use crate::requests::MachineRequest;
use crate::sink::{ByteSink, NullSink};

/// Typed or sent bytes that may wait for the guest.
const INPUT: usize = 64 << 10;

/// Why a serial port's back end can't be set up.
#[derive(Debug, Error)]
pub enum SerialError {
    /// The file can't be written.
    #[error("cannot write the serial port's file {0}: {1}; check the folder and its permissions")]
    File(PathBuf, #[source] io::Error),
    /// The socket can't be made.
    #[error(
        "cannot listen on the serial port's socket {0}: {1}; choose another path or remove what is there"
    )]
    Socket(PathBuf, #[source] io::Error),
    /// A thread can't be started.
    #[error("cannot start a thread for a serial port: {0}; the host is out of resources")]
    Thread(#[source] io::Error),
}

/// Reads `from` until it ends, and feeds the guest. The end of the input is nobody's hang-up.
fn feed(mut from: impl Read, input: &Inbox<u8>) {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => buffer[..count]
                .iter()
                .for_each(|&byte| input.push_wait(byte)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// As [`feed`] for a raw terminal: looks for Ctrl-A x, also while the guest takes nothing; what is typed beyond the
/// queue's room is lost.
fn feed_typed(mut from: impl Read, input: &Inbox<u8>, link: &HostLink) {
    let mut filter = EscapeFilter::default();
    let mut buffer = [0; 256];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        for &byte in &buffer[..count] {
            match filter.feed(byte) {
                Escape::Nothing => {}
                Escape::Byte(byte) => {
                    input.push(byte);
                }
                Escape::Both(first, second) => {
                    input.push(first);
                    input.push(second);
                }
                Escape::Quit => link.request(MachineRequest::Quit),
                Escape::Help => {
                    // The terminal is raw: a line needs its return. Nobody needs help on a stderr that is gone.
                    let _ = io::stderr().write_all(format!("\r\ndoppel: {HELP}\r\n").as_bytes());
                }
            }
        }
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), SerialError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map(|_| ())
        .map_err(SerialError::Thread)
}

/// The device's end of stdout, and its queue to drain before the process ends. A stdout that fails is a host error.
pub fn stdout_sink(link: &HostLink) -> Result<ByteQueue, SerialError> {
    let (queue, link) = (ByteQueue::new(), link.clone());
    spawn_writer("stdout", queue.clone(), io::stdout(), move |error| {
        link.error(format!(
            "cannot write to stdout: {error}; the guest's output has nowhere to go"
        ));
    })
    .map_err(SerialError::Thread)?;
    Ok(queue)
}

/// Stdin and stdout. On a raw terminal (`typed`) Ctrl-A x asks for the end of the machine; making the terminal raw is
/// the caller's. Drain the queue before the process ends.
pub fn stdio(link: &HostLink, typed: bool) -> Result<(SerialPort, ByteQueue), SerialError> {
    let queue = stdout_sink(link)?;
    let input = Inbox::new(INPUT);
    let (to, link) = (input.clone(), link.clone());
    thread("stdin", move || {
        let stdin = io::stdin().lock();
        if typed {
            feed_typed(stdin, &to, &link)
        } else {
            feed(stdin, &to)
        }
    })?;
    Ok((
        SerialPort {
            output: Box::new(queue.sink()),
            input,
        },
        queue,
    ))
}

/// Output to a file, made anew; no input. Drain the queue before the process ends.
pub fn file(path: &Path, link: &HostLink) -> Result<(SerialPort, ByteQueue), SerialError> {
    let out = File::create(path).map_err(|error| SerialError::File(path.into(), error))?;
    let (queue, link, name) = (ByteQueue::new(), link.clone(), path.to_path_buf());
    spawn_writer("serial-file", queue.clone(), out, move |error| {
        link.error(format!(
            "cannot write the serial port's file {}: {error}; make room",
            name.display()
        ));
    })
    .map_err(SerialError::Thread)?;
    Ok((
        SerialPort {
            output: Box::new(queue.sink()),
            input: Inbox::new(1),
        },
        queue,
    ))
}

/// A port with nothing behind it.
pub fn null() -> SerialPort {
    SerialPort {
        output: Box::new(NullSink),
        input: Inbox::new(1),
    }
}

/// The device's end of a socket: bytes go to whoever is connected, or nowhere.
#[derive(Debug, Default)]
struct Client(std::sync::Arc<parking_lot::Mutex<Option<ByteQueue>>>);

impl ByteSink for Client {
    fn put(&mut self, byte: u8) -> bool {
        match &*self.0.lock() {
            Some(queue) => queue.sink().put(byte),
            None => true,
        }
    }
}

/// Listens on a unix socket; one client at a time is the port's other side. A stale socket is replaced.
pub fn unix(path: &Path) -> Result<SerialPort, SerialError> {
    let failed = |error| SerialError::Socket(path.into(), error);
    let listener = match UnixListener::bind(path) {
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() =>
        {
            std::fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    let input = Inbox::new(INPUT);
    let client = Client::default();
    let (to, current) = (input.clone(), std::sync::Arc::clone(&client.0));
    thread("serial-socket", move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let Ok(out) = stream.try_clone() else {
                continue;
            };
            let queue = ByteQueue::new();
            if spawn_writer("serial-socket", queue.clone(), out, |_| ()).is_ok() {
                *current.lock() = Some(queue.clone());
                feed(stream, &to);
                *current.lock() = None;
                queue.close();
            }
        }
    })?;
    Ok(SerialPort {
        output: Box::new(client),
        input,
    })
}

#[cfg(test)]
mod tests {
    use super::{feed, feed_typed, file, unix};
    use crate::host::HostLink;
    use crate::inbox::Inbox;
    use crate::requests::{MachineRequest, MachineRequests};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    /// A path of this test's own.
    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("doppel-{name}-{}", std::process::id()))
    }

    fn drain(inbox: &Inbox<u8>) -> Vec<u8> {
        std::iter::from_fn(|| inbox.pop()).collect()
    }

    #[test]
    fn end_of_stdin_is_no_hang_up() {
        let input = Inbox::new(16);
        feed(&b"bye\n"[..], &input);
        assert_eq!(drain(&input), b"bye\n", "the input ended, and that was all");
    }

    #[test]
    fn ctrl_a_x_quits_even_if_the_guest_takes_nothing() {
        let (input, link) = (Inbox::new(2), HostLink::default());
        let requests = Arc::new(MachineRequests::new(Vec::new()));
        link.attach(&requests);
        feed_typed(&b"abcdef\x01x"[..], &input, &link);
        assert_eq!(requests.take(), Some(MachineRequest::Quit));
        assert_eq!(drain(&input), b"ab");
    }

    #[test]
    fn a_file_gets_every_byte() {
        let path = temporary("serial-file");
        let (mut port, queue) = file(&path, &HostLink::default()).expect("a file");
        b"hello".iter().for_each(|&b| assert!(port.output.put(b)));
        assert!(queue.drain(Duration::from_secs(60)));
        assert_eq!(std::fs::read(&path).expect("readable"), b"hello");
        std::fs::remove_file(&path).expect("removable");
        let missing = file(&path.join("x"), &HostLink::default());
        assert!(missing.is_err_and(|e| e.to_string().contains("check the folder")));
    }

    #[test]
    fn a_socket_serves_one_client_after_another() {
        let path = temporary("serial-socket");
        let mut port = unix(&path).expect("a socket");
        assert!(unix(&path).is_err(), "somebody is listening there");
        assert!(port.output.put(b'-'), "with nobody there it is dropped");
        for round in 0..2u8 {
            let mut client = UnixStream::connect(&path).expect("connected");
            client.write_all(&[b'a' + round]).expect("sent");
            let got = loop {
                match port.input.pop() {
                    Some(byte) => break byte,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(got, b'a' + round);
            // The client's byte is here, so the sink knows the client.
            assert!(port.output.put(b'A' + round));
            let mut byte = [0];
            client.read_exact(&mut byte).expect("answered");
            assert_eq!(byte, [b'A' + round]);
        }
        std::fs::remove_file(&path).expect("removable");
    }
}
