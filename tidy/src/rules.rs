//! One test a rule. Each says which file breaks it and what to do.

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
    (
        "vcpu",
        &[
            "x86",
            "ir",
            "frontend-x86",
            "softmmu",
            "system",
            "backend-interp",
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
            "vcpu",
        ],
    ),
    (
        "cli",
        &["x86", "softmmu", "system", "vcpu", "machine", "guests"],
    ),
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

#[test]
fn unsafe_code_stands_in_named_files() {
    let list = fs::read_to_string(root().join("docs/UNSAFE.md")).unwrap_or_default();
    let mut broken = Vec::new();
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

#[test]
fn crates_use_only_what_they_may() {
    let names: Vec<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    let mut broken = Vec::new();
    for (name, allowed) in EDGES {
        let Ok(manifest) = fs::read_to_string(root().join(name).join("Cargo.toml")) else {
            continue;
        };
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line == "[dependencies]";
            }
            let key = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if in_dependencies && names.contains(&key) && !allowed.contains(&key) {
                broken.push(format!("{name} uses {key}"));
            }
        }
    }
    complain("crate edges are those of docs/ARCHITECTURE.md", &broken);
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
