//! Cases of all kinds as they go over the pipe, and what makes the pipe a good one: order, isolation, no surprises.

mod cases;
mod errors;
mod random;

use serde_json::Value;
use system::CpuModel;

use super::{Exec, serve};

fn exec() -> Exec {
    Exec::new(CpuModel::default())
}

/// The answer to a line.
fn answer(exec: &mut Exec, line: &str) -> Value {
    let mut out = Vec::new();
    exec.answer(line.as_bytes(), &mut out);
    serde_json::from_slice(&out)
        .unwrap_or_else(|e| panic!("{line}: {e}: {}", String::from_utf8_lossy(&out)))
}

/// How an answer differs from what it should be. Only the members that `expected` names count.
fn difference(got: &Value, expected: &str) -> Option<String> {
    let expected: Value =
        serde_json::from_str(expected).unwrap_or_else(|e| panic!("{expected}: {e}"));
    let (key, wanted) = expected
        .as_object()
        .expect("an object")
        .iter()
        .find(|(key, value)| got[*key] != **value)?;
    Some(format!("{key}\n  got    {}\n  wanted {wanted}", got[key]))
}

#[test]
fn lines_are_answered_in_order_and_blank_ones_skipped() {
    let input = "{\"id\":1}\n\n  \t\r\n{\"id\":[2,\"\\u00e9\"]}\r\nnonsense\n{\"id\":3,\"regs\":{\"rax\":-1}}\n{\"id\":1e400}";
    let mut out = Vec::new();
    serve(&mut exec(), input.as_bytes(), &mut out).expect("memory does not fail");
    let text = String::from_utf8(out).expect("UTF-8");
    let ids: Vec<&str> = text
        .lines()
        .map(|l| {
            l.split(",\"regs\"")
                .next()
                .and_then(|l| l.split(",\"error\"").next())
                .expect("an id")
        })
        .collect();
    assert_eq!(
        ids,
        [
            "{\"id\":1",
            "{\"id\":[2,\"\\u00e9\"]",
            "{\"id\":null",
            "{\"id\":3",
            "{\"id\":1e400"
        ]
    );
    let errors: Vec<bool> = text.lines().map(|l| l.contains("\"error\":\"")).collect();
    assert_eq!(errors, [false, false, true, true, false]);
}

/// A reader that hands out one line at a time and looks at what was answered before each.
struct Dialogue<'a> {
    lines: std::vec::IntoIter<&'static str>,
    answered: &'a std::cell::RefCell<Vec<u8>>,
    given: usize,
}

impl std::io::Read for Dialogue<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let answers = self
            .answered
            .borrow()
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        assert_eq!(
            answers, self.given,
            "all lines so far are answered before more is waited for"
        );
        let Some(line) = self.lines.next() else {
            return Ok(0);
        };
        self.given += line.matches('\n').count();
        buffer[..line.len()].copy_from_slice(line.as_bytes());
        Ok(line.len())
    }
}

struct Sink<'a>(&'a std::cell::RefCell<Vec<u8>>);

impl std::io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn answers_are_out_before_more_input_is_waited_for() {
    let answered = std::cell::RefCell::new(Vec::new());
    let lines = vec!["{}\n{}\n", "{\"id\"", ":4}\n", "{}\n"].into_iter();
    serve(
        &mut exec(),
        Dialogue {
            lines,
            answered: &answered,
            given: 0,
        },
        Sink(&answered),
    )
    .expect("no failure");
    assert_eq!(answered.borrow().iter().filter(|b| **b == b'\n').count(), 4);
}

struct Broken;

impl std::io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_output_is_an_error() {
    let result = serve(&mut exec(), &b"{}\n"[..], Broken);
    assert!(
        matches!(result, Err(super::ServeError::Write(_))),
        "{result:?}"
    );
}
