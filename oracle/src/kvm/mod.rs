//! KVM's single step as the second oracle: system-mode states, one instruction each, compared with the interpreter.

mod case;
mod cases;
mod compare;
mod doppel;
mod explain;
mod generate;
mod insns;
mod paging;
mod vm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use case::{Case, End, Ram, parse, print};
pub use cases::{SystemCase, system_cases, system_cases_markdown};
use compare::Difference;
use doppel::Doppel;
pub use generate::GROUPS;
use vm::Vm;

use crate::Random;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long at most.
    pub time: Duration,
    /// Cases at most.
    pub cases: u64,
    /// Where it begins.
    pub seed: u64,
    /// Only this group.
    pub only: Option<String>,
    /// Failures after which it ends.
    pub failures: usize,
}

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// States compared, by group.
    pub compared: BTreeMap<&'static str, u64>,
    /// States that KVM could not run, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Differences in which KVM is wrong or the manual leaves both answers open, by reason.
    pub explained: BTreeMap<&'static str, u64>,
    /// Unexplained differences: one line each with group, seed and what differs.
    pub failures: Vec<String>,
    /// The time it took.
    pub time: Duration,
}

impl Report {
    /// States compared.
    pub fn total(&self) -> u64 {
        self.compared.values().sum()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        let sum = |map: &BTreeMap<&'static str, u64>| map.values().sum::<u64>();
        let rate = self.total() as f64 / self.time.as_secs_f64().max(1e-9);
        writeln!(
            f,
            "{} states compared in {:.1} s ({rate:.0} a second), {} skipped, {} differences explained, {} not",
            self.total(),
            self.time.as_secs_f64(),
            sum(&self.skipped),
            sum(&self.explained),
            self.failures.len()
        )?;
        for (title, map) in [
            ("compared", &self.compared),
            ("skipped", &self.skipped),
            ("explained", &self.explained),
        ] {
            for (what, count) in map {
                writeln!(f, "{title} {count:9} {what}")?;
            }
        }
        Ok(())
    }
}

/// Both machines.
pub struct Oracle {
    vm: Vm,
    doppel: Doppel,
    common: generate::Common,
    before: Option<Ram>,
}

/// The verdict on one case.
pub enum Verdict {
    /// Equal.
    Same,
    /// KVM did not run it.
    Skipped(&'static str),
    /// It differs for a known reason.
    Explained(&'static str),
    /// It differs.
    Differs(String),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Same => f.write_str("equal"),
            Self::Skipped(why) => write!(f, "not compared: {why}"),
            Self::Explained(why) => write!(f, "differs, explained: {why}"),
            Self::Differs(line) => f.write_str(line),
        }
    }
}

impl Oracle {
    /// Both machines; the error says why there is no KVM that works.
    pub fn new() -> Result<Self, String> {
        let mut vm = Vm::new(Arc::new(doppel::model()))?;
        let common = generate::Common {
            cr4: vm.cr4(),
            vm86: vm.has_vm86(),
            legacy_paging: vm.has_legacy_paging(),
        };
        Ok(Self {
            vm,
            doppel: Doppel::new()?,
            common,
            before: Some(Ram::new()),
        })
    }

    /// Runs the case of a group with a seed on both.
    pub fn check(&mut self, group: &str, seed: u64) -> Verdict {
        let case = generate::case(group, seed, self.common);
        self.check_case(&case, seed)
    }

    fn check_case(&mut self, case: &Case, seed: u64) -> Verdict {
        // Out of `self` for as long as its other fields are used.
        let mut ram = self.before.take().unwrap_or_else(Ram::new);
        let verdict = self.compare(case, seed, ram.of(case));
        self.before = Some(ram);
        verdict
    }

    fn compare(&mut self, case: &Case, seed: u64, before: &[u8]) -> Verdict {
        let doppel = self.doppel.run(case, before);
        let mut kvm = self.vm.run(case, before);
        let mut list = self.differences(case, &doppel, &kvm);
        let first = matches!(kvm, vm::Answer::Ran(_, true));
        if !list.is_empty() {
            // What an abandoned case left unfinished in the kernel can spoil the next one: a difference must repeat.
            kvm = self.vm.run(case, before);
            list = self.differences(case, &doppel, &kvm);
        }
        let (kvm, mmio) = match kvm {
            vm::Answer::Ran(outcome, mmio) => (*outcome, mmio || first),
            vm::Answer::Skipped(why) => return Verdict::Skipped(why),
        };
        if list.is_empty() {
            return Verdict::Same;
        }
        let seen = explain::Seen {
            case,
            doppel: &doppel,
            kvm: &kvm,
            list: &list,
            mmio,
            after: self.doppel.ram(),
        };
        match explain::explain(&seen) {
            explain::Why::Skip(why) => Verdict::Skipped(why),
            explain::Why::Known(why) => Verdict::Explained(why),
            explain::Why::Unknown => Verdict::Differs(describe(case, seed, &doppel, &list)),
        }
    }

    fn differences(
        &mut self,
        case: &Case,
        doppel: &doppel::Answer,
        kvm: &vm::Answer,
    ) -> Vec<Difference> {
        let vm::Answer::Ran(kvm, _) = kvm else {
            return Vec::new();
        };
        let mut list = compare::differences(case, &doppel.outcome, kvm);
        if doppel.outcome.end == End::Done {
            list.extend(compare::memory_differences(
                self.doppel.ram(),
                self.vm.ram(),
            ));
        }
        list
    }

    /// Doppel's answer to a case, as a line for the regression files.
    pub fn record(&mut self, group: &str, seed: u64) -> String {
        let case = generate::case(group, seed, self.common);
        let answer = self.doppel.run(&case, &case.ram());
        print(&case, &answer.outcome)
    }

    /// Cases on which both agree, `count` of each group, as lines for the regression files.
    pub fn keep(&mut self, count: usize, seed: u64) -> Vec<String> {
        let mut r = Random::new(seed);
        let mut lines = Vec::new();
        for (group, _) in GROUPS {
            let mut kept = 0;
            // Some groups are mostly what KVM lacks.
            for _ in 0..count * 50 {
                let seed = r.next();
                if kept < count && matches!(self.check(group, seed), Verdict::Same) {
                    lines.push(self.record(group, seed));
                    kept += 1;
                }
            }
        }
        lines
    }

    /// Runs random cases.
    pub fn run(&mut self, options: &Options) -> Report {
        let mut report = Report::default();
        let start = Instant::now();
        let mut r = Random::new(options.seed);
        let groups: Vec<_> = GROUPS
            .iter()
            .filter(|g| options.only.as_deref().is_none_or(|o| o == g.0))
            .collect();
        let total: u64 = groups.iter().map(|g| g.1).sum();
        for _ in 0..options.cases {
            if total == 0
                || start.elapsed() >= options.time
                || report.failures.len() >= options.failures
            {
                break;
            }
            let mut n = r.below(total);
            let mut name = "";
            for (group, weight) in &groups {
                name = group;
                if n < *weight {
                    break;
                }
                n -= weight;
            }
            match self.check(name, r.next()) {
                Verdict::Skipped(why) => {
                    *report.skipped.entry(why).or_default() += 1;
                    continue;
                }
                Verdict::Explained(why) => *report.explained.entry(why).or_default() += 1,
                Verdict::Differs(line) => report.failures.push(line),
                Verdict::Same => {}
            }
            *report.compared.entry(name).or_default() += 1;
        }
        report.time = start.elapsed();
        report
    }
}

fn describe(case: &Case, seed: u64, doppel: &doppel::Answer, list: &[Difference]) -> String {
    let instruction = compare::decode(case);
    let st = &case.st;
    let mode = match () {
        () if st.real_mode() => "real",
        () if st.vm86() => "vm86",
        () if st.code64() => "long",
        () if st.long_mode() => "compat",
        () => "protected",
    };
    let exceptions: Vec<_> = doppel
        .exceptions
        .iter()
        .map(|e| format!("{}({:x})", e.vector, e.error.unwrap_or(0)))
        .collect();
    let differences: Vec<_> = list
        .iter()
        .take(8)
        .map(|d| format!("{} {} {}", d.what, d.doppel, d.other))
        .collect();
    format!(
        "{}:{seed:#x} {mode} cpl {} cr0 {:x} cr4 {:x} efer {:x} rip {:x} `{instruction}` {} raised [{}]; differs (what, doppel, kvm): {}",
        case.group,
        st.cpl(),
        st.cr0,
        st.cr4,
        st.efer,
        st.rip,
        case.code
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>(),
        exceptions.join(" "),
        differences.join("; ")
    )
}

/// Runs one case from its stored text on Doppel alone. The error tells what differs from the stored outcome.
pub fn replay(line: &str) -> Result<(), String> {
    let (case, expected) = parse(line)?;
    let answer = Doppel::new()?.run(&case, &case.ram());
    let mut list = compare::differences(&case, &answer.outcome, &expected);
    if answer.outcome.mem != expected.mem && expected.end == End::Done {
        list.push(Difference {
            what: "memory".into(),
            doppel: format!("{:x?}", answer.outcome.mem),
            other: format!("{:x?}", expected.mem),
        });
    }
    if list.is_empty() {
        Ok(())
    } else {
        Err(describe(&case, 0, &answer, &list))
    }
}

#[cfg(test)]
mod tests;
