//! `doppel exec` over pipes, and what the other small commands print.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::common::{doppel, run, run_with, words};
use serde_json::Value;

#[test]
fn a_dialogue_over_pipes() {
    let mut child = doppel(&["exec"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("doppel starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut ask = |line: &str| -> Value {
        stdin
            .write_all(line.as_bytes())
            .and_then(|()| stdin.write_all(b"\n\n"))
            .expect("doppel reads");
        let mut answer = String::new();
        stdout.read_line(&mut answer).expect("doppel answers");
        serde_json::from_str(&answer).expect("JSON")
    };
    // inc ax, cs at 0.
    let got =
        ask(r#"{"id":"first","regs":{"cs":0,"rip":"0x100","rax":65535},"mem":[["0x100","40"]]}"#);
    assert_eq!(got["id"], "first");
    assert_eq!(
        got["regs"],
        serde_json::json!({"rax": 0, "rip": 257, "rflags": 86, "tsc": 1})
    );
    let got = ask("what?");
    assert!(got["id"].is_null() && got["error"].is_string(), "{got}");
    let got = ask(r#"{"id":3,"regs":{"cs":0,"rip":0,"cr0":16},"mem":[[0,"cc"]],"deliver":false}"#);
    assert_eq!(
        got["exception"],
        serde_json::json!({"vector": 3, "error": null, "cr2": null, "soft": true})
    );
    drop(stdin);
    assert_eq!(child.wait().expect("doppel ends").code(), Some(0));
}

#[test]
fn the_model_is_the_option_s() {
    // crc32 eax, al is SSE4.2; aeskeygenassist is not in v2.
    let lines = concat!(
        r#"{"regs":{"cs":0,"rip":0,"cr0":16},"mem":[[0,"f20f38f0c0"]],"deliver":false}"#,
        "\n",
        r#"{"regs":{"cs":0,"rip":0,"cr0":16,"cr4":512},"mem":[[0,"660f3adfc101"]],"deliver":false}"#,
        "\n",
    );
    let vectors = |cpu: &str| -> Vec<Value> {
        let output = run_with(
            &["exec", "--engine", "interp", "--cpu", cpu],
            lines.as_bytes(),
        );
        assert_eq!(
            (output.status.code(), words(&output).as_str()),
            (Some(0), "")
        );
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines()
            .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["exception"]["vector"].clone())
            .collect()
    };
    assert_eq!(vectors("default"), [Value::Null, Value::Null]);
    assert_eq!(vectors("v2"), [Value::Null, 6.into()]);
    assert_eq!(vectors("v1"), [6, 6]);
}

#[test]
fn help_names_everything() {
    let output = run(&["run", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for option in [
        "engine",
        "cpus",
        "mem",
        "cpu",
        "kernel",
        "initrd",
        "append",
        "firmware",
        "disk",
        "cdrom",
        "floppy",
        "boot",
        "net",
        "display",
        "serial",
        "monitor",
        "screenshot",
        "gdb",
        "debug-exit",
        "test-device",
        "no-reboot",
        "verify",
        "mmu",
        "ticks",
        "icount",
        "seed",
        "code-cache",
        "stats",
        "dump",
        "filter",
        "resume",
    ] {
        assert!(text.contains(&format!("--{option}")), "{option}");
    }
    let text = String::from_utf8(run(&["--help"]).stdout).expect("UTF-8");
    for command in ["run", "exec", "demo", "bench", "engines", "doctor", "ctl"] {
        assert!(text.contains(&format!("\n  {command} ")), "{command}");
    }
}

#[test]
fn engines_and_doctor() {
    let output = run(&["engines"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        text.contains("interp  works ")
            && text.contains("works (auto)")
            && text.contains("kvm     not built yet"),
        "{text}"
    );
    let output = run(&["doctor"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("guest memory  ok"),
        "{output:?}"
    );
}
