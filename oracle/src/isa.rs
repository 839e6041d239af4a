//! docs/ISA.md: what is implemented, how often it was compared, what is not compared and why. Made from the code's own
//! tables and the counts of a long run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use frontend_x86::Features;
use iced_x86::{Code, CpuidFeature as F, Mnemonic as M};

use crate::codes::{AMD_REASONS, excluded};
use crate::known::KNOWN;
use crate::sweep::{Count, Counts};
use crate::undefined::{ALWAYS, BY_COUNT, OTHERS};

/// Reads what [`counts_text`] writes.
///
/// # Errors
/// The line that isn't understood.
pub fn parse_counts(text: &str) -> Result<Counts, String> {
    let mut counts = Counts::new();
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
        let (Some(name), Some(a), Some(b), Some(c), Some(faults)) =
            (fields.first(), number(1), number(2), number(3), number(4))
        else {
            return Err(format!("not understood: {line}"));
        };
        counts.insert(
            (*name).into(),
            Count {
                states: [a, b, c],
                faults,
                ..Count::default()
            },
        );
    }
    Ok(counts)
}

/// Counts as text, a line each.
pub fn counts_text(counts: &Counts, how: &str) -> String {
    let mut text =
        format!("# {how}\n# code, states in 64-, 32- and 16-bit code, exceptions among them\n");
    for (name, count) in counts {
        let [a, b, c] = count.states;
        let _ = writeln!(text, "{name} {a} {b} {c} {}", count.faults);
    }
    text
}

/// The family of a code, for the reader's eyes.
fn family(code: Code) -> &'static str {
    use M as N;
    let features = code.cpuid_features();
    let has = |f: F| features.contains(&f);
    for (feature, name) in [
        (F::FPU, "x87"),
        (F::FPU287, "x87"),
        (F::FPU387, "x87"),
        (F::AVX512_VBMI, "AVX-512 extensions"),
        (F::AVX512_VBMI2, "AVX-512 extensions"),
        (F::AVX512_IFMA, "AVX-512 extensions"),
        (F::AVX512_VNNI, "AVX-512 extensions"),
        (F::AVX512_BITALG, "AVX-512 extensions"),
        (F::AVX512_VPOPCNTDQ, "AVX-512 extensions"),
        (F::AVX512CD, "AVX-512CD"),
        (F::AVX512DQ, "AVX-512DQ"),
        (F::AVX512BW, "AVX-512BW"),
        (F::AVX512F, "AVX-512F"),
        // EVEX forms of VAES and its kin.
        (F::AVX512VL, "AVX-512 extensions"),
        (F::FMA, "FMA"),
        (F::F16C, "F16C"),
        (F::AVX2, "AVX2"),
        (F::VAES, "AES"),
        (F::VPCLMULQDQ, "PCLMULQDQ"),
        (F::GFNI, "GFNI"),
        (F::AVX, "AVX"),
        (F::SHA, "SHA"),
        (F::AES, "AES"),
        (F::PCLMULQDQ, "PCLMULQDQ"),
        (F::SSE4_2, "SSE4.2"),
        (F::SSE4_1, "SSE4.1"),
        (F::SSSE3, "SSSE3"),
        (F::SSE3, "SSE3"),
        (F::SSE2, "SSE2"),
        (F::SSE, "SSE"),
        (F::MMX, "MMX"),
        (F::BMI1, "BMI1, BMI2, LZCNT, POPCNT, ADX, MOVBE"),
        (F::BMI2, "BMI1, BMI2, LZCNT, POPCNT, ADX, MOVBE"),
        (F::LZCNT, "BMI1, BMI2, LZCNT, POPCNT, ADX, MOVBE"),
        (F::POPCNT, "BMI1, BMI2, LZCNT, POPCNT, ADX, MOVBE"),
        (F::ADX, "BMI1, BMI2, LZCNT, POPCNT, ADX, MOVBE"),
        (F::MOVBE, "BMI1, BMI2, LZCNT, POPCNT, ADX, MOVBE"),
        (F::FXSR, "State images (FXSAVE, XSAVE)"),
        (F::XSAVE, "State images (FXSAVE, XSAVE)"),
        (F::XSAVEC, "State images (FXSAVE, XSAVE)"),
        (F::XSAVEOPT, "State images (FXSAVE, XSAVE)"),
        (F::XSAVES, "State images (FXSAVE, XSAVE)"),
    ] {
        if has(feature) {
            return name;
        }
    }
    let info = code.op_code();
    match code.mnemonic() {
        _ if code.mnemonic() == N::Nop || code.mnemonic() == N::Reservednop => "Hints and fences",
        N::Add
        | N::Adc
        | N::Sub
        | N::Sbb
        | N::And
        | N::Or
        | N::Xor
        | N::Cmp
        | N::Test
        | N::Inc
        | N::Dec
        | N::Neg
        | N::Not
        | N::Mul
        | N::Imul
        | N::Div
        | N::Idiv
        | N::Xadd
        | N::Aaa
        | N::Aas
        | N::Daa
        | N::Das
        | N::Aam
        | N::Aad => "Arithmetic and logic",
        N::Shl
        | N::Sal
        | N::Shr
        | N::Sar
        | N::Rol
        | N::Ror
        | N::Rcl
        | N::Rcr
        | N::Shld
        | N::Shrd => "Shifts and rotates",
        N::Bt | N::Bts | N::Btr | N::Btc | N::Bsf | N::Bsr => "Bit tests and scans",
        N::Push
        | N::Pop
        | N::Pusha
        | N::Pushad
        | N::Popa
        | N::Popad
        | N::Enter
        | N::Leave
        | N::Pushf
        | N::Pushfd
        | N::Pushfq
        | N::Popf
        | N::Popfd
        | N::Popfq => "Stack",
        N::Clc | N::Stc | N::Cmc | N::Cld | N::Std | N::Lahf | N::Sahf | N::Salc => "Flags",
        N::Mfence
        | N::Lfence
        | N::Sfence
        | N::Prefetchw
        | N::Prefetchnta
        | N::Prefetcht0
        | N::Clflush
        | N::Clflushopt
        | N::Clwb
        | N::Pause
        | N::Prefetchwt1
        | N::Cldemote
        | N::Prefetch => "Hints and fences",
        _ if is_prefetch(code) || code.mnemonic() == N::Cldemote => "Hints and fences",
        _ if is_string(code) => "Strings",
        N::Bound => "Control transfer",
        N::Wait => "x87",
        _ if info.is_privileged() => "Privileged: refused to user mode",
        N::Lds
        | N::Les
        | N::Lfs
        | N::Lgs
        | N::Lss
        | N::Lar
        | N::Lsl
        | N::Verr
        | N::Verw
        | N::Arpl
        | N::Rdfsbase
        | N::Rdgsbase
        | N::Wrfsbase
        | N::Wrgsbase
        | N::Sgdt
        | N::Sidt
        | N::Sldt
        | N::Str
        | N::Smsw => "Segmentation",
        _ if is_control(code) => "Control transfer",
        N::Mov
        | N::Movzx
        | N::Movsx
        | N::Movsxd
        | N::Lea
        | N::Xchg
        | N::Cmpxchg
        | N::Cmpxchg8b
        | N::Cmpxchg16b
        | N::Bswap
        | N::Xlatb
        | N::Cbw
        | N::Cwde
        | N::Cdqe
        | N::Cwd
        | N::Cdq
        | N::Cqo
        | N::Movnti => "Moves",
        _ if format!("{:?}", code.mnemonic()).starts_with("Cmov") => "Moves",
        _ if format!("{:?}", code.mnemonic()).starts_with("Set") => "Moves",
        N::Ud0 | N::Ud1 | N::Ud2 => "Undefined by definition",
        _ => "Others",
    }
}

fn is_prefetch(code: Code) -> bool {
    format!("{:?}", code.mnemonic()).starts_with("Prefetch")
}

fn is_string(code: Code) -> bool {
    use iced_x86::OpCodeOperandKind as K;
    let kinds = code.op_code().op_kinds();
    kinds.iter().any(|k| matches!(k, K::seg_rSI | K::es_rDI))
}

fn is_control(code: Code) -> bool {
    use iced_x86::FlowControl as Flow;
    let undefined = matches!(code.mnemonic(), M::Ud0 | M::Ud1 | M::Ud2);
    !undefined && code.flow_control() != Flow::Next
}

#[derive(Default)]
struct Row {
    names: BTreeSet<String>,
    forms: u64,
    count: Count,
    silent: u64,
}

/// Thousands apart by spaces.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(c);
    }
    text
}

fn families(counts: &Counts, text: &mut String) {
    let features = Features::new(&crate::doppel::model().features_iced());
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for code in Code::values().filter(|c| features.allow(*c)) {
        let info = code.op_code();
        let real = info.is_instruction() && !info.fwait() && code.mnemonic() != M::INVALID;
        if !real || excluded(code).is_some() {
            continue;
        }
        let count = counts
            .get(&format!("{code:?}"))
            .copied()
            .unwrap_or_default();
        let row = rows.entry(family(code)).or_default();
        row.names
            .insert(format!("{:?}", code.mnemonic()).to_uppercase());
        row.forms += 1;
        // The decoder gives hints the reserved NOP's name.
        let hint = family(code) == "Hints and fences" || code.mnemonic() == M::Cldemote;
        row.silent += u64::from(count.total() == 0 && !hint && !is_prefetch(code));
        row.count.add(&count);
    }
    let _ = writeln!(
        text,
        "| family | forms | 64-bit | 32-bit | 16-bit | of these exceptions | instructions |"
    );
    let _ = writeln!(text, "|---|---|---|---|---|---|---|");
    for (name, row) in &rows {
        let [a, b, c] = row.count.states.map(grouped);
        let names: Vec<&str> = row.names.iter().map(String::as_str).collect();
        let silent = if row.silent == 0 {
            String::new()
        } else {
            format!(" ({} left out on AMD)", row.silent)
        };
        let _ = writeln!(
            text,
            "| {name} | {}{silent} | {a} | {b} | {c} | {} | {} |",
            row.forms,
            grouped(row.count.faults),
            names.join(" ")
        );
    }
    for (name, what) in [
        ("sequences", "Several instructions in a row"),
        ("undefined", "Random bytes that are no instruction: #UD"),
    ] {
        if let Some(count) = counts.get(name) {
            let [a, b, c] = count.states.map(grouped);
            let _ = writeln!(
                text,
                "| {what} | | {a} | {b} | {c} | {} | |",
                grouped(count.faults)
            );
        }
    }
}

/// The names of flags in a mask.
fn flags(mask: u64) -> String {
    let all = [
        (0, "CF"),
        (2, "PF"),
        (4, "AF"),
        (6, "ZF"),
        (7, "SF"),
        (11, "OF"),
    ];
    let names: Vec<&str> = all
        .iter()
        .filter(|(bit, _)| mask >> bit & 1 != 0)
        .map(|(_, name)| *name)
        .collect();
    names.join(" ")
}

/// The document.
pub fn markdown(counts: &Counts, run: &str) -> String {
    let mut text = String::from(
        "# What is implemented, and how often it was compared\n\n\
         Made by `cargo run -p oracle --release -- isa > docs/ISA.md`; do not edit.\n\n\
         The default CPU is x86-64-v3 with the extensions below; those of AVX-512 only where the host has all of them, else by \
         `--cpu v4` or `+avx512f` and the like. What it lacks raises #UD.\n\n\
         ## User-mode instructions, compared with the host CPU\n\n\
         The same bytes on the same registers, flags, x87, MMX, SSE, AVX and AVX-512 state and memory, once on the host CPU in a child \
         process and once on the interpreter, by itself and as part of a chained block: every register, every defined \
         flag, every byte of memory and the exception with its error code and address must agree. 16-bit code is \
         16-bit protected mode, by an LDT entry. Repeat with\n\
         `cargo run -p oracle --release -- long --seconds 1200 --seed 1 --counts oracle/counts.txt`.\n\n",
    );
    let total: u64 = counts.values().map(Count::total).sum();
    let _ = writeln!(
        text,
        "States compared in the last long run: {} (`{}`).\n",
        grouped(total),
        run.trim_start_matches(['#', ' '])
    );
    families(counts, &mut text);

    text += "\n### Implemented, not compared\n\n| instructions | why |\n|---|---|\n";
    let features = Features::new(&crate::doppel::model().features_iced());
    let mut reasons: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for code in Code::values().filter(|c| features.allow(*c) && c.op_code().is_instruction()) {
        if let Some(reason) = excluded(code).filter(|_| code.mnemonic() != M::INVALID) {
            reasons
                .entry(reason)
                .or_default()
                .insert(format!("{:?}", code.mnemonic()).to_uppercase());
        }
    }
    for (reason, names) in &reasons {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let _ = writeln!(text, "| {} | {reason} |", names.join(" "));
    }
    text += "| FIP, FDP, FOP of the x87 | AMD stores them only with an exception |\n";

    text +=
        "\n### Undefined by the manual, masked\n\n| instructions | flags | when |\n|---|---|---|\n";
    for row in ALWAYS.iter().chain(BY_COUNT) {
        let names: Vec<String> = row
            .mnemonics
            .iter()
            .map(|m| format!("{m:?}").to_uppercase())
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            names.join(" "),
            flags(row.flags),
            row.reason
        );
    }
    text += "\nBeside flags:\n\n";
    for reason in OTHERS {
        let _ = writeln!(text, "- {reason}");
    }

    text += "\n### Where the host differs and is not followed\n\n\
             Doppel's CPU is GenuineIntel. On an AMD host these are left out of the comparison:\n\n";
    for reason in AMD_REASONS {
        let _ = writeln!(text, "- {reason}");
    }
    text += "\nThese are compared but for what they name; \"AMD\" means that an Intel host must agree:\n\n";
    for row in KNOWN {
        let _ = writeln!(
            text,
            "- {}{}",
            row.reason,
            if row.amd { " (AMD)" } else { "" }
        );
    }

    text += "\n## System-mode cases\n";
    text += &crate::kvm::system_cases_markdown();
    text
}

#[cfg(test)]
mod tests {
    use super::{counts_text, grouped, markdown, parse_counts};
    use crate::{Count, Counts};

    #[test]
    fn counts_come_back() {
        let mut counts = Counts::new();
        counts.insert(
            "Add_rm8_r8".into(),
            Count {
                states: [1, 2, 3],
                faults: 4,
                ..Count::default()
            },
        );
        let text = counts_text(&counts, "a test");
        assert_eq!(parse_counts(&text), Ok(counts));
        assert!(parse_counts("Add 1 2").is_err());
    }

    #[test]
    fn the_document_names_everything() {
        let text = markdown(&Counts::new(), "# a run");
        for word in [
            "CMPXCHG16B",
            "PCMPESTRI",
            "FYL2XP1",
            "CPUID",
            "SHA256RNDS2",
            "GenuineIntel",
            "XSAVEC",
        ] {
            assert!(text.contains(word), "{word}");
        }
        assert!(
            !text.contains("| Others |"),
            "a family without a name:\n{text}"
        );
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
