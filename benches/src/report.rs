//! The table, and whether all emulators came to the same results.

use std::fmt::Write;

use crate::runner::Runs;

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// A table in Markdown.
    pub table: String,
    /// What is wrong with results, a line for each load.
    pub wrong: Vec<String>,
}

/// Compares runs of `loads` under several emulators, the first of which the others are measured against.
pub fn report(loads: &[&str], engines: &[(String, Runs)]) -> Report {
    let mut table = String::from("| program |");
    let mut rule = String::from("|---|");
    for (index, (engine, _)) in engines.iter().enumerate() {
        write!(table, " {engine} | CPU |").ok();
        rule += "---|---|";
        if index > 0 {
            table += " times faster | by CPU |";
            rule += "---|---|";
        }
    }
    table += " results |\n";
    table += &rule;
    table += "---|\n";
    let mut wrong = Vec::new();
    for load in loads {
        let first = engines.first().and_then(|(_, runs)| runs.get(*load));
        write!(table, "| {load} |").ok();
        let mut faults = Vec::new();
        for (index, (engine, runs)) in engines.iter().enumerate() {
            let run = runs.get(*load);
            match run {
                None => {
                    faults.push(format!("{engine} did not run it"));
                    table += " - | - |";
                }
                Some(run) => {
                    write!(table, " {:.2} s | {:.2} s |", run.wall, run.cpu).ok();
                    if !run.outcome.is_good() {
                        let (status, bytes) = (run.outcome.status, run.outcome.bytes);
                        faults.push(format!("{engine}: status {status}, {bytes} bytes"));
                    } else if first.is_some_and(|f| f.outcome != run.outcome) {
                        faults.push(format!("{engine}'s result differs"));
                    }
                }
            }
            if index > 0 {
                match (first, run) {
                    (Some(first), Some(run)) => {
                        let (wall, cpu) = (first.wall / run.wall, first.cpu / run.cpu);
                        write!(table, " {wall:.1} | {cpu:.1} |").ok();
                    }
                    _ => table += " - | - |",
                }
            }
        }
        let results = match (faults.is_empty(), engines.len()) {
            (true, 0 | 1) => "not compared",
            (true, _) => "equal",
            (false, _) => "WRONG",
        };
        writeln!(table, " {results} |").ok();
        if !faults.is_empty() {
            wrong.push(format!("{load}: {}", faults.join(", ")));
        }
    }
    Report { table, wrong }
}

#[cfg(test)]
mod tests {
    use super::report;
    use crate::protocol::Outcome;
    use crate::runner::{Run, Runs};

    fn runs(runs: &[(&str, f64, u8, &str)]) -> Runs {
        let run = |(name, wall, status, sum): &(&str, f64, u8, &str)| {
            let outcome = Outcome {
                status: *status,
                bytes: 5,
                sum: (*sum).into(),
            };
            let run = Run {
                wall: *wall,
                cpu: wall / 2.0,
                outcome,
            };
            ((*name).to_owned(), run)
        };
        runs.iter().map(run).collect()
    }

    #[test]
    fn ratios_and_differences() {
        let qemu = runs(&[("a", 6.0, 0, "x"), ("b", 1.0, 0, "y"), ("d", 1.0, 3, "z")]);
        let jit = runs(&[
            ("a", 2.0, 0, "x"),
            ("b", 1.0, 0, "!"),
            ("c", 1.0, 0, "z"),
            ("d", 1.0, 3, "z"),
        ]);
        let engines = [("qemu".into(), qemu), ("jit".into(), jit)];
        let good = report(&["a"], &engines);
        assert_eq!(good.wrong, [""; 0]);
        let line = "| a | 6.00 s | 3.00 s | 2.00 s | 1.00 s | 3.0 | 3.0 | equal |\n";
        assert!(good.table.ends_with(line), "{}", good.table);
        let all = report(&["a", "b", "c", "d"], &engines);
        let wrong = [
            "b: jit's result differs",
            "c: qemu did not run it",
            "d: qemu: status 3, 5 bytes, jit: status 3, 5 bytes",
        ];
        assert_eq!(all.wrong, wrong);
        assert_eq!(all.table.matches("WRONG").count(), 3);
        let alone = report(&["a"], &engines[..1]);
        assert!(alone.table.contains("not compared") && alone.wrong.is_empty());
    }
}
