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

/// The list as Markdown, a table a section, after what was compared with KVM.
pub fn system_cases_markdown() -> String {
    let mut text = String::from(
        "\nRandom systems, one instruction each, on KVM's single step and on the interpreter: a mode, segments with their \
         hidden parts, GDT, LDT, IDT, TSS with I/O bitmap, page tables with random rights, control registers. Registers, \
         hidden parts of segments, MSRs, memory with accessed, dirty and busy bits, port writes and the way through the \
         IDT must agree. Repeat with `cargo run -p oracle --release -- kvm --states 2300000 --seed 777`. The last long \
         run said:\n\n```\n",
    );
    text += include_str!("../../system_run.txt");
    text += "```\n\nThat KVM ran without VT-x, by its emulator: real mode, unpaged protected mode, compatibility mode, and 64-bit mode at level 0 under 4-level paging. It has no virtual-8086 mode, no 32-bit or PAE paging, no task switch, no gates in far transfers, no protected-mode INT n or IRET, and no SMEP, SMAP, PKU or PCID. Those the rows below pin, each by its test.\n";
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
