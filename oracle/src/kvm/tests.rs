//! The fixed set of system-mode states, and cases that once differed.

use std::path::Path;
use std::time::Duration;

use super::{End, Options, Oracle, parse, print, replay};

/// A fixed set: enough that every group comes up hundreds of times, few enough for seconds.
const STATES: u64 = 20_000;

#[test]
fn doppel_agrees_with_kvm() {
    let mut oracle = match Oracle::new() {
        Ok(oracle) => oracle,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let options = Options {
        time: Duration::from_secs(300),
        cases: STATES,
        seed: 2026,
        only: None,
        failures: 20,
    };
    let report = oracle.run(&options);
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.total() > STATES / 2, "{report}");
}

/// The cases of `cases/system/*.txt`, whose outcome is stored: no KVM is needed.
#[test]
fn stored_cases_end_as_they_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/system");
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder is in the repository") {
        let path = entry.expect("its entries can be read").path();
        let text = std::fs::read_to_string(&path).expect("a text file");
        for line in text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            count += 1;
            if let Err(why) = replay(line) {
                failures.push(format!("{}: {why}", path.display()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count > 100, "{count} cases");
}

/// The text form gives back what it was made of.
#[test]
fn the_text_form_round_trips() {
    let common = super::generate::Common {
        cr4: 0xfbf,
        vm86: true,
        legacy_paging: true,
    };
    let mut doppel = super::Doppel::new().expect("the host has memory for a test");
    for seed in 0..200 {
        for (group, _) in super::GROUPS {
            let case = super::generate::case(group, seed, common);
            let outcome = doppel.run(&case, &case.ram()).outcome;
            let line = print(&case, &outcome);
            let (again, expected) = parse(&line).expect("what was printed can be read");
            assert_eq!(print(&again, &expected), line);
            assert_eq!(again.ram(), case.ram());
        }
    }
}

/// A stored outcome that is not Doppel's is found.
#[test]
fn a_wrong_outcome_is_found() {
    let common = super::generate::Common {
        cr4: 0,
        vm86: false,
        legacy_paging: false,
    };
    let mut doppel = super::Doppel::new().expect("the host has memory for a test");
    let case = super::generate::case("flags", 5, common);
    let outcome = doppel.run(&case, &case.ram()).outcome;
    assert_eq!(replay(&print(&case, &outcome)), Ok(()));
    let mut other = outcome.clone();
    other.st.gpr[3] ^= 1;
    assert!(replay(&print(&case, &other)).is_err());
    let mut other = outcome;
    other.mem.push((0x1_5000, vec![0xa5]));
    assert!(replay(&print(&case, &other)).is_err());
}

/// The rules let hardly anything else pass: Doppel's own outcome with one register spoiled is a failure.
#[test]
fn the_rules_do_not_explain_a_wrong_register() {
    use super::explain::{Seen, Why, explain};
    let common = super::generate::Common {
        cr4: 0xfbf,
        vm86: false,
        legacy_paging: false,
    };
    let mut doppel = super::Doppel::new().expect("the host has memory for a test");
    // No rule is about one of these alone.
    let spoil: [fn(&mut x86::CpuState); 4] = [
        |st| st.gpr[3] ^= 1,
        |st| st.cr3 ^= 8,
        |st| st.seg[3].base ^= 0x10,
        |st| st.gpr[8] ^= 1 << 40,
    ];
    let (mut found, mut explained) = (0, Vec::new());
    for seed in 0..300 {
        for (group, _) in super::GROUPS {
            let case = super::generate::case(group, seed, common);
            let answer = doppel.run(&case, &case.ram());
            if answer.outcome.end != End::Done {
                continue;
            }
            for spoil in spoil {
                let mut kvm = answer.outcome.clone();
                spoil(&mut kvm.st);
                let list = super::compare::differences(&case, &answer.outcome, &kvm);
                let seen = Seen {
                    case: &case,
                    doppel: &answer,
                    kvm: &kvm,
                    list: &list,
                    mmio: false,
                    after: doppel.ram(),
                };
                match explain(&seen) {
                    Why::Unknown => found += 1,
                    Why::Known(why) if !list.is_empty() => explained.push(why),
                    Why::Known(_) | Why::Skip(_) => {}
                }
            }
        }
    }
    assert!(found > 10_000, "{found}");
    assert!(
        explained.len() * 1000 < found,
        "{} of {found} explained: {explained:?}",
        explained.len()
    );
}

/// Every row of `system_cases.txt` names a test that the sources have.
#[test]
fn every_system_case_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut missing = Vec::new();
    let cases = super::system_cases();
    for case in &cases {
        if !has_test(&root.join(case.krate).join("src"), case.test) {
            missing.push(format!("{}: {}::{}", case.what, case.krate, case.test));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(cases.len() > 140, "{}", cases.len());
    assert!(!has_test(
        &root.join("system/src"),
        "far::tests::call::no_such_test"
    ));
}

/// Whether a module's file, or for an inline `tests` module its parent's, has the test.
fn has_test(src: &Path, test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else {
        return false;
    };
    let path = module.replace("::", "/");
    let inline = path.strip_suffix("/tests").unwrap_or(&path);
    let places = [
        format!("{path}.rs"),
        format!("{path}/mod.rs"),
        format!("{inline}.rs"),
        format!("{inline}/mod.rs"),
    ];
    places
        .iter()
        .filter_map(|place| std::fs::read_to_string(src.join(place)).ok())
        .any(|text| {
            let head = format!("fn {name}()");
            text.match_indices("#[test]")
                .any(|(at, _)| text[at..].lines().take(4).any(|line| line.contains(&head)))
        })
}
