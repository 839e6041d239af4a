//! File tests of the passes: `tests/opt/*.ir`, a block before and after. `BLESS=1 cargo test -p ir` accepts what comes out.
//!
//! A file begins with `test opt PASS` (or `all`). A case is a line `# what it shows`, the input, a line `=>`, the output.
#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test")]

use std::fmt::Write as _;
use std::path::Path;

use ir::opt::{Switches, run};
use ir::text::parse;
use ir::verify::verify;

/// One case as it stands in the file.
struct Case<'a> {
    title: &'a str,
    /// The file's line on which the title stands, from 1.
    line: usize,
    input: String,
    expected: String,
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    let mut after = false;
    for (i, line) in text.lines().enumerate().skip(1) {
        if let Some(title) = line.strip_prefix("# ") {
            cases.push(Case {
                title,
                line: i + 1,
                input: String::new(),
                expected: String::new(),
            });
            after = false;
        } else if line == "=>" {
            after = true;
        } else if let (Some(case), false) = (cases.last_mut(), line.trim().is_empty()) {
            let part = if after {
                &mut case.expected
            } else {
                &mut case.input
            };
            part.push_str(line);
            part.push('\n');
        }
    }
    cases
}

#[test]
fn files() {
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/opt");
    let mut count = 0;
    let mut failures = String::new();
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "ir"))
    {
        let name = path.file_name().unwrap().to_string_lossy();
        let text = std::fs::read_to_string(path).unwrap();
        let header = text.lines().next().unwrap_or("");
        let switches = header.strip_prefix("test opt ").and_then(Switches::named);
        let switches = switches
            .unwrap_or_else(|| panic!("{name}:1: `test opt PASS` with a pass's name or `all`"));
        let mut blessed = format!("{header}\n");
        for case in cases(&text) {
            count += 1;
            let place = format!("{name}:{}: {}", case.line, case.title);
            let mut block =
                parse(&case.input).unwrap_or_else(|e| panic!("{place}\nin the case, {e}"));
            verify(&block).unwrap_or_else(|e| panic!("{place}\ninput: {e}"));
            run(&mut block, switches);
            verify(&block).unwrap_or_else(|e| panic!("{place}\noutput: {e}\n{block}"));
            let output = block.to_string();
            if output != case.expected {
                write!(
                    failures,
                    "\n{place}\n  expected\n{}  got\n{output}",
                    case.expected
                )
                .unwrap();
            }
            write!(blessed, "\n# {}\n{}=>\n{output}", case.title, case.input).unwrap();
        }
        if bless && blessed != text {
            std::fs::write(path, blessed).unwrap();
        }
    }
    assert!(count >= 10, "only {count} cases found");
    if !bless {
        assert!(
            failures.is_empty(),
            "{failures}\nIf this is right: BLESS=1 cargo test -p ir\n"
        );
    }
}
