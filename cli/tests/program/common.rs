//! The program as a user has it: started as a process, seen by its output and its status.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The program with arguments.
pub fn doppel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doppel"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Output {
    doppel(arguments).output().expect("doppel starts")
}

/// Runs it to its end with this on stdin.
pub fn run_with(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = doppel(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("doppel starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A program that ends early leaves this writer alone.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("doppel ends");
    writer.join().expect("the writer ends");
    output
}

/// What it said, and that nothing was odd about it: no panic, no backtrace, whole lines with its name.
pub fn words(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert!(
        !text.contains("panicked") && !text.contains("backtrace"),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.starts_with("doppel: ")),
        "{text}"
    );
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text
}

/// A file of this test's own, removed when it goes.
pub struct Temporary(PathBuf);

impl Temporary {
    /// A file with some bytes.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("doppel-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("a temporary file");
        Self(path)
    }

    /// Its name.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A multiboot kernel: 32-bit code, loaded to 1 MiB as it is.
pub fn kernel(code: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    const BASE: u32 = 0x10_0000;
    let words = [
        MAGIC,
        FLAGS,
        0u32.wrapping_sub(MAGIC + FLAGS),
        BASE,
        BASE,
        0,
        0,
        BASE + 32,
    ];
    let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend_from_slice(code);
    file
}

/// Code that writes text to COM1.
pub fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03];
    for byte in text.bytes() {
        // mov al, byte; out dx, al
        code.extend_from_slice(&[0xb0, byte, 0xee]);
    }
    code
}

/// Code that ends with a value at port F4h: mov al, value; out F4h, al; hlt.
pub fn exit(value: u8) -> Vec<u8> {
    vec![0xb0, value, 0xe6, 0xf4, 0xf4]
}
