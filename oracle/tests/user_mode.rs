//! User-mode instructions against the host CPU: a sweep with fixed seeds, and cases that once differed.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[cfg(test)]
mod tests {
    use oracle::{Case, Kind, Oracle, Way};

    /// States of each form in each code width.
    const STATES: u64 = if cfg!(debug_assertions) { 24 } else { 240 };

    /// As many with the translator, which translates anew for each instruction.
    const TRANSLATED: u64 = if cfg!(debug_assertions) { 4 } else { 40 };

    /// The host's side, or why there is none.
    fn start() -> Option<Oracle> {
        Oracle::start(0)
            .map_err(|reason| eprintln!("skipped: {reason}"))
            .ok()
    }

    /// Every second instruction, with a child of its own.
    fn half(part: usize, translated: bool) -> (u64, u64, Vec<String>) {
        let Some(mut oracle) = start() else {
            return (0, 0, Vec::new());
        };
        let states = if translated { TRANSLATED } else { STATES };
        if translated {
            oracle = oracle.by(Kind::Translator);
        }
        let codes: Vec<_> = oracle.codes().into_iter().skip(part).step_by(2).collect();
        let widths = oracle.widths();
        let run = |oracle: &mut Oracle| {
            oracle.sweep(&codes, &widths, states, 1)?;
            oracle.noise(&widths, states * 20, 1 + part as u64)?;
            oracle.sequences(&widths, states * 100, 1 + part as u64)?;
            oracle.explain()
        };
        run(&mut oracle).expect("the child can be started again");
        let total = oracle.counts.values().map(oracle::Count::total).sum();
        let silent = oracle.counts.values().filter(|c| c.total() == 0).count() as u64;
        let lost: u64 = oracle.counts.values().map(|c| c.lost).sum();
        assert_eq!((silent, lost), (0, 0), "cases that did not come back");
        (
            total,
            oracle.counts.len() as u64,
            oracle.failures.iter().map(ToString::to_string).collect(),
        )
    }

    /// Compares all instructions, run by the translator or by the interpreter.
    fn every_instruction(translated: bool) {
        let other = std::thread::spawn(move || half(1, translated));
        let mine = half(0, translated);
        let other = other.join().expect("the other half ends");
        let failures: Vec<String> = mine.2.into_iter().chain(other.2).collect();
        assert!(
            failures.is_empty(),
            "{} differences:\n{}",
            failures.len(),
            failures.join("\n")
        );
        let (total, codes) = (mine.0 + other.0, mine.1 + other.1);
        eprintln!("{total} states of {codes} instruction forms agree");
        if total > 0 {
            assert!(codes > 1400, "only {codes} instruction forms were compared");
        }
    }

    #[test]
    fn every_instruction_agrees_with_the_host() {
        every_instruction(false);
    }

    #[test]
    fn every_translated_instruction_agrees_with_the_host() {
        every_instruction(true);
    }

    /// Where the host has AVX-512 nothing else runs what crate `portable` has of it.
    #[test]
    fn avx512_without_the_hosts_agrees_with_the_host() {
        let Some(oracle) = start() else { return };
        let mut oracle = oracle.by(Kind::Portable);
        let adds = |name: &str| {
            // Approximations differ between CPUs.
            (name.starts_with("EVEX_") || name.starts_with("VEX_K"))
                && !name.contains("rcp14")
                && !name.contains("rsqrt14")
        };
        let codes: Vec<_> = oracle
            .codes()
            .into_iter()
            .filter(|code| adds(&format!("{code:?}")))
            .collect();
        let widths = oracle.widths();
        oracle
            .sweep(&codes, &widths, TRANSLATED, 2)
            .expect("the child can be started again");
        oracle.explain().expect("the child can be started again");
        let failures: Vec<_> = oracle.failures.iter().map(ToString::to_string).collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(
            codes.len() > 1400 || !is_x86_feature_detected!("avx512vl"),
            "{}",
            codes.len()
        );
    }

    #[test]
    fn cases_that_once_differed_agree() {
        let Some(oracle) = start() else { return };
        known_cases(oracle);
        if let Some(oracle) = start() {
            known_cases(oracle.by(Kind::Translator));
        }
    }

    fn known_cases(mut oracle: Oracle) {
        let widths = oracle.widths();
        let mut count = 0;
        let mut failures = Vec::new();
        for line in include_str!("../cases/user.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let case = Case::parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            if !widths.contains(&case.bits) {
                continue;
            }
            count += 1;
            for way in [Way::Step, Way::Chained] {
                if let Some(text) = oracle
                    .check(&case, way)
                    .expect("the child can be started again")
                {
                    failures.push(format!("{way:?} {line}\n   {text}"));
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(count > 20 || widths.len() < 3, "{count}");
    }
}
