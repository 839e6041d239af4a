//! One test a rule. Each says which file breaks it and what to do.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a source file may have; tables and tests excepted.
const MAX_LINES: usize = 1000;

/// Which crates a crate may use (docs/ARCHITECTURE.md, "Crates").
const EDGES: &[(&str, &[&str])] = &[
    ("x86", &[]),
    ("portable", &[]),
    ("ir", &["x86"]),
    ("frontend-x86", &["x86", "ir"]),
    ("softmmu", &["x86"]),
    ("system", &["x86", "ir", "softmmu", "portable"]),
    (
        "backend-interp",
        &["x86", "ir", "frontend-x86", "softmmu", "system", "portable"],
    ),
    ("translation", &["x86", "softmmu"]),
    (
        "backend-jit",
        &[
            "x86",
            "ir",
            "frontend-x86",
            "softmmu",
            "system",
            "translation",
            "backend-interp",
        ],
    ),
    (
        "vcpu",
        &[
            "x86",
            "ir",
            "frontend-x86",
            "softmmu",
            "system",
            "backend-interp",
            "backend-jit",
        ],
    ),
    (
        "machine",
        &["x86", "frontend-x86", "softmmu", "system", "vcpu"],
    ),
    ("guests", &[]),
    (
        "oracle",
        &[
            "x86",
            "ir",
            "frontend-x86",
            "softmmu",
            "system",
            "backend-interp",
            "backend-jit",
            "vcpu",
        ],
    ),
    (
        "cli",
        &["x86", "softmmu", "system", "vcpu", "machine", "guests"],
    ),
    ("benches", &["guests"]),
    ("tidy", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_path_buf()
}

fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                visit(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    visit(&root(), &mut files);
    files
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| {
            let text = fs::read_to_string(&p).expect("a source file is UTF-8");
            (
                p.strip_prefix(root())
                    .expect("below the root")
                    .to_path_buf(),
                text,
            )
        })
        .collect()
}

fn complain(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests")
        || path
            .file_stem()
            .is_some_and(|s| s.to_string_lossy().contains("test"))
}

fn is_table(text: &str) -> bool {
    text.lines().next().is_some_and(|l| l.contains("table"))
}

#[test]
fn files_are_of_readable_size() {
    let broken: Vec<_> = sources()
        .iter()
        .filter(|(p, text)| !is_test(p) && !is_table(text) && text.lines().count() > MAX_LINES)
        .map(|(p, text)| {
            format!(
                "{}: {} lines; split it by idea",
                p.display(),
                text.lines().count()
            )
        })
        .collect();
    complain("a source file has at most 1000 lines", &broken);
}

#[test]
fn files_begin_with_what_they_are() {
    let broken: Vec<_> = sources()
        .iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(p, _)| format!("{}: begin with a `//!` line", p.display()))
        .collect();
    complain("a source file begins with its tagline", &broken);
}

/// Files that more than one row of a table names in its first column.
fn listed_twice(document: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut twice = Vec::new();
    for row in document.lines().filter_map(|l| l.strip_prefix("| ")) {
        let files = row.split('|').next().unwrap_or_default();
        for file in files.split('`').skip(1).step_by(2) {
            if !seen.insert(file) {
                twice.push(format!("{file}: has two rows in docs/UNSAFE.md"));
            }
        }
    }
    twice
}

#[test]
fn the_rule_of_rows_sees_what_breaks_it() {
    let rows = "| `a.rs`, `b.rs` | x | y |\n| `c.rs` | `a.rs` | y |\n";
    assert_eq!(listed_twice(rows), [""; 0]);
    let twice = listed_twice(&format!("{rows}| `b.rs` | z | z |\n"));
    assert_eq!(twice, ["b.rs: has two rows in docs/UNSAFE.md"]);
}

#[test]
fn unsafe_code_stands_in_named_files() {
    let list = fs::read_to_string(root().join("docs/UNSAFE.md")).unwrap_or_default();
    let mut broken = listed_twice(&list);
    for (path, text) in sources() {
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let has = code.clone().any(|l| {
            l.contains("unsafe {") || l.contains("unsafe fn") || l.contains("unsafe impl")
        });
        if !has || is_test(&path) || path.starts_with("tidy") {
            continue;
        }
        if !text.contains("UNSAFETY:") {
            broken.push(format!(
                "{}: say after `// UNSAFETY:` why it needs unsafe code",
                path.display()
            ));
        }
        if !list.contains(&*path.to_string_lossy()) {
            broken.push(format!("{}: list it in docs/UNSAFE.md", path.display()));
        }
    }
    complain("unsafe code is kept in few named files", &broken);
}

/// The workspace's crates: folder and manifest.
fn manifests() -> Vec<(String, String)> {
    let workspace =
        fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let (_, members) = workspace.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("the list's end");
    members
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|name| {
            let manifest = root().join(name).join("Cargo.toml");
            let text = fs::read_to_string(manifest).expect("a member has a manifest");
            (name.to_owned(), text)
        })
        .collect()
}

/// What is wrong with the edges of these crates.
fn broken_edges(crates: &[(String, String)], edges: &[(&str, &[&str])]) -> Vec<String> {
    let ours = |key: &str| crates.iter().any(|(name, _)| name == key);
    let mut broken = Vec::new();
    for (name, manifest) in crates {
        let Some((_, allowed)) = edges.iter().find(|(n, _)| n == name) else {
            broken.push(format!(
                "{name} has no row: add one here and in docs/ARCHITECTURE.md"
            ));
            continue;
        };
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line == "[dependencies]";
            }
            let key = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if in_dependencies && ours(key) && !allowed.contains(&key) {
                broken.push(format!("{name} uses {key}"));
            }
        }
    }
    for (name, _) in edges {
        if !ours(name) {
            broken.push(format!("{name} has a row, but is no crate"));
        }
    }
    broken
}

#[test]
fn crates_use_only_what_they_may() {
    let broken = broken_edges(&manifests(), EDGES);
    complain("crate edges are those of docs/ARCHITECTURE.md", &broken);
}

#[test]
fn the_rule_of_edges_sees_what_breaks_it() {
    let manifest = |uses: &str| format!("[dependencies]\n{uses}.workspace = true\n");
    let crates = [
        ("low".into(), manifest("libc")),
        ("high".into(), manifest("low")),
    ];
    let none: &[&str] = &[];
    assert_eq!(
        broken_edges(&crates, &[("low", none), ("high", &["low"])]),
        none
    );
    assert_eq!(
        broken_edges(&crates, &[("low", none), ("high", none)]),
        ["high uses low"]
    );
    let unlisted = broken_edges(&crates, &[("low", none)]);
    assert!(unlisted[0].starts_with("high has no row"), "{unlisted:?}");
    let gone = broken_edges(&crates[..1], &[("low", none), ("high", none)]);
    assert_eq!(gone, ["high has a row, but is no crate"]);
}

#[test]
fn one_program_is_what_cargo_run_starts() {
    let starts: Vec<_> = manifests()
        .into_iter()
        .filter(|(_, manifest)| manifest.lines().any(|l| l.starts_with("default-run")))
        .collect();
    let names: Vec<_> = starts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["cli"],
        "`cargo run` in the workspace starts doppel: its manifest alone has `default-run`"
    );
    assert!(starts[0].1.contains("\ndefault-run = \"doppel\"\n"));
}

#[test]
fn documents_name_files_that_exist() {
    let mut files = Vec::new();
    visit(&root(), &mut files);
    let mut broken = Vec::new();
    for path in files
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
    {
        let text = fs::read_to_string(path).expect("a document is UTF-8");
        for word in text.split(|c: char| c.is_whitespace() || "`()[],;:".contains(c)) {
            let looks_like_path =
                word.contains('/') && (word.ends_with(".rs") || word.ends_with(".md"));
            let plain = !word.contains(['*', '{', '<', '$'])
                && !word.starts_with("http")
                && !word.starts_with('/');
            if looks_like_path && plain {
                let beside = path.parent().expect("a file has a folder").join(word);
                if !root().join(word).exists() && !beside.exists() {
                    broken.push(format!("{}: {word} does not exist", path.display()));
                }
            }
        }
    }
    complain("paths in documents exist", &broken);
}

#[test]
fn nothing_is_left_lying_about() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("tidy") {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            for word in [
                "TODO",
                "FIXME",
                "XXX",
                "HACK",
                "dbg!(",
                "todo!(",
                "unimplemented!(",
            ] {
                if line.contains(word) {
                    broken.push(format!("{}:{}: {word}", path.display(), n + 1));
                }
            }
        }
    }
    complain("no leftovers", &broken);
}
