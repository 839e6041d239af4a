//! File tests of traces: `tests/join/*.ir`, the parts and what they become. `BLESS=1 cargo test -p ir` accepts what comes out.
//!
//! A case is a line `# what it shows`, then parts, each begun by a line `part BY` (its distance from the trace's start; `guarded`
//! behind it) and ended, but for the last, by a line `leave ORD TARGET`; a line `=>`; the trace, or `none`.
#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test")]

use std::fmt::Write as _;
use std::path::Path;

use ir::Block;
use ir::join::{Leave, append, renumber};
use ir::opt::{Switches, run};
use ir::text::parse;
use ir::verify::verify;

fn joined(input: &str) -> String {
    let mut trace = Block::default();
    for part in input.split("part ").skip(1) {
        let (head, rest) = part.split_once('\n').unwrap();
        let (by, guarded) = match head.split_once(' ') {
            Some((by, _)) => (by, true),
            None => (head, false),
        };
        let (text, leave) = match rest.split_once("leave ") {
            Some((text, leave)) => {
                let (ord, target) = leave.trim().split_once(' ').unwrap();
                let (ord, target) = (ord.parse().unwrap(), target.parse().unwrap());
                (text, Some(Leave { ord, target }))
            }
            None => (rest, None),
        };
        let block = parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        verify(&block).unwrap_or_else(|e| panic!("{e}\n{block}"));
        let before = trace.clone();
        if !append(&mut trace, &block, by.parse().unwrap(), guarded, leave) {
            assert_eq!(trace, before, "it changed all the same");
            return "none\n".to_owned();
        }
    }
    run(&mut trace, Switches::ALL);
    renumber(&mut trace);
    let text = trace.to_string();
    verify(&trace).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(parse(&text).as_ref(), Ok(&trace), "it does not come back");
    text
}

#[test]
fn files() {
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/join/join.ir");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut out = String::new();
    let mut cases = 0;
    for case in text.split("# ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (input, _) = rest.split_once("=>\n").unwrap();
        let end = if cases == 0 { "" } else { "\n" };
        let _ = write!(out, "{end}# {title}\n{input}=>\n{}", joined(input));
        cases += 1;
    }
    assert!(cases >= 6, "{cases} cases");
    if bless {
        std::fs::write(&path, &out).unwrap();
    }
    assert!(out == text || bless, "BLESS=1 accepts this:\n{out}");
}
