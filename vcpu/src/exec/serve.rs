//! Lines in, lines out: each is answered in order, and what is answered is out before the next is waited for.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use super::run::Exec;

/// Why [`serve`] ended before its input did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Reading failed.
    #[error("reading cases failed: {0}")]
    Read(io::Error),
    /// Writing failed.
    #[error("writing answers failed: {0}")]
    Write(io::Error),
}

/// Bytes that are read and written at once.
const BUFFER: usize = 1 << 16;

/// Answers cases until the input ends.
///
/// # Errors
/// When reading or writing fails. A line that is no case gets an answer that says so.
pub fn serve(exec: &mut Exec, input: impl Read, output: impl Write) -> Result<(), ServeError> {
    let mut input = BufReader::with_capacity(BUFFER, input);
    let mut output = BufWriter::with_capacity(BUFFER, output);
    let mut line = Vec::new();
    let mut answer = Vec::new();
    loop {
        if !input.buffer().contains(&b'\n') {
            output.flush().map_err(ServeError::Write)?;
        }
        line.clear();
        if input
            .read_until(b'\n', &mut line)
            .map_err(ServeError::Read)?
            == 0
        {
            return output.flush().map_err(ServeError::Write);
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        answer.clear();
        exec.answer(&line, &mut answer);
        answer.push(b'\n');
        output.write_all(&answer).map_err(ServeError::Write)?;
    }
}
