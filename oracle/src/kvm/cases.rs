//! The list of system-mode cases and their tests, for docs/ISA.md.

/// A row of `system_cases.txt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemCase {
    /// The heading above it.
    pub section: &'static str,
    /// What is pinned.
    pub what: &'static str,
    /// The crate that has the test.
    pub krate: &'static str,
    /// The test's path in the crate.
    pub test: &'static str,
}

/// The rows in order.
///
/// # Panics
/// When the file has a row that is not `case | crate | test`; a test looks at all of them.
pub fn system_cases() -> Vec<SystemCase> {
    let mut section = "";
    let mut rows = Vec::new();
    for line in include_str!("../../system_cases.txt")
        .lines()
        .map(str::trim)
    {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(heading) = line.strip_suffix(':').filter(|_| !line.contains('|')) {
            section = heading;
            continue;
        }
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let &[what, krate, test] = fields.as_slice() else {
            panic!("not `case | crate | test`: {line}")
        };
        assert!(![what, krate, test].contains(&""), "an empty field: {line}");
        rows.push(SystemCase {
            section,
            what,
            krate,
            test,
        });
    }
    rows
}

/// The list as Markdown: a table a section.
pub fn system_cases_markdown() -> String {
    let mut text = String::new();
    let mut section = "";
    for case in system_cases() {
        if case.section != section {
            section = case.section;
            text += &format!("\n### {section}\n\n| case | test |\n|---|---|\n");
        }
        text += &format!("| {} | `{}::{}` |\n", case.what, case.krate, case.test);
    }
    text
}
