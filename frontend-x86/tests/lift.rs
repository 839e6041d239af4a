//! File tests of the lift stage: bytes and the IR that they become. `DOPPEL_ACCEPT=1 cargo test -p frontend-x86` rewrites
//! the expectations.

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use frontend_x86::{CsLimit, Features, Limits, Mode, lift};

    fn mode(name: &str) -> Mode {
        match name {
            "long64" => Mode::long64(),
            "user64" => Mode::long64().with(|p| p.cpl = 3),
            "flat32" => Mode::flat32(),
            // Nothing flat, the code segment below 64 KiB.
            "seg32" => Mode::flat32().with(|p| {
                (p.flat_cs, p.flat_ss, p.flat_ds, p.flat_es) = (false, false, false, false);
                p.cs_limit = CsLimit::Small;
            }),
            "real16" => Mode::real16(),
            "vm86" => Mode::real16().with(|p| (p.protected, p.vm86, p.cpl) = (true, true, 3)),
            // With AVX on, and the features for it.
            "avx64" => Mode::long64().with(|p| p.avx = true),
            "avx32" => Mode::flat32().with(|p| p.avx = true),
            "noavx64" => Mode::long64(),
            "nofpu64" => Mode::long64().with(|p| p.ts = true),
            _ => panic!("no mode {name:?}"),
        }
    }

    /// The text of a file with every expectation as the lifter has it. A case is a line `MODE BYTES ; COMMENT` at the
    /// start of a line (`MODE/N` where the block may go on behind N branches); its block, indented, follows; everything else stays.
    fn actual(text: &str) -> String {
        let mut out = String::new();
        for line in text.lines().filter(|l| !l.starts_with([' ', '\t'])) {
            writeln!(out, "{line}").expect("strings grow");
            let case = line.split(';').next().unwrap_or("").trim();
            let mut words = case.split_whitespace();
            let Some(name) = words.next().filter(|w| !w.starts_with('#')) else {
                continue;
            };
            let (name, branches) = name.split_once('/').unwrap_or((name, "0"));
            let branches = branches.parse().expect("a number of branches");
            let bytes: Vec<u8> = words
                .map(|w| {
                    u8::from_str_radix(w, 16).unwrap_or_else(|_| panic!("byte {w:?} in {line:?}"))
                })
                .collect();
            let limits = Limits {
                max_insns: 100,
                page: bytes.len() as u32,
                branches,
            };
            let features = if name.contains("avx") {
                Features::v3_plus()
            } else {
                Features::v2_plus()
            };
            let lifted = lift(&bytes, &limits, mode(name), &features);
            ir::verify::verify(&lifted.block).unwrap_or_else(|e| panic!("{line}: {e}"));
            for op in lifted.block.to_string().lines() {
                writeln!(out, "    {op}").expect("strings grow");
            }
            writeln!(out, "    ; {:?}", lifted.end).expect("strings grow");
        }
        out
    }

    #[test]
    fn lifts_as_the_files_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lift");
        let accept = std::env::var_os("DOPPEL_ACCEPT").is_some_and(|v| v == "1");
        let mut cases = 0;
        for entry in std::fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("its entries are readable").path();
            let expected = std::fs::read_to_string(&path).expect("its files are text");
            let actual = actual(&expected);
            cases += actual.matches("\n    ; ").count();
            if actual != expected {
                if accept {
                    std::fs::write(&path, &actual).expect("the file can be written");
                } else {
                    let line = actual
                        .lines()
                        .zip(expected.lines())
                        .position(|(a, e)| a != e);
                    panic!(
                        "{}: differs at line {:?}\n{actual}",
                        path.display(),
                        line.map(|l| l + 1)
                    );
                }
            }
        }
        assert!(cases > 100, "{cases} cases");
    }
}
