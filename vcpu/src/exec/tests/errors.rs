//! What is refused, and with which words.

use super::{answer, exec};

const REFUSED: &[(&str, &str)] = &[
    ("[]", "not a JSON object"),
    ("{\"id\":1", "not a JSON object"),
    ("{} {}", "not a JSON object"),
    (r#"{"steps":-1}"#, "steps must be a number"),
    (r#"{"steps":1.0}"#, "steps must be a number"),
    (r#"{"steps":1e3}"#, "steps must be a number"),
    (
        r#"{"steps":18446744073709551616}"#,
        "steps must be a number",
    ),
    (r#"{"steps":"16"}"#, "steps must be a number"),
    (r#"{"steps":"0x"}"#, "steps must be a number"),
    (r#"{"steps":null}"#, "steps must be a number"),
    (r#"{"deliver":1}"#, "deliver must be true or false"),
    (
        r#"{"speed":1}"#,
        "there is no key \"speed\"; there are id, regs",
    ),
    (r#"{"steps":1,"steps":2}"#, "steps is there twice"),
    (r#"{"regs":[]}"#, "regs must be an object"),
    (r#"{"regs":{"rax":1,"eax":1}}"#, "eax is named twice"),
    (r#"{"regs":{"rip":1,"rip":1}}"#, "rip is named twice"),
    (
        r#"{"regs":{"msr:0x10a":1,"msr:0x10A":1}}"#,
        "msr:0x10a is named twice",
    ),
    (r#"{"regs":{"al":1}}"#, "there is no register \"al\""),
    (
        r#"{"regs":{"eax":"0x100000000"}}"#,
        "eax: 0x100000000 does not fit into its 32 bits",
    ),
    (
        r#"{"regs":{"ftw":256}}"#,
        "ftw: 0x100 does not fit into its 8 bits",
    ),
    (r#"{"regs":{"cs":65536}}"#, "cs: 65536 is no selector"),
    (
        r#"{"regs":{"cs":{"sel":8,"base":0,"limit":0}}}"#,
        "cs must be a selector or {\"sel\"",
    ),
    (
        r#"{"regs":{"cs":{"sel":8,"base":0,"limit":0,"attr":0,"x":1}}}"#,
        "cs must be a selector or {\"sel\"",
    ),
    (
        r#"{"regs":{"tr":8}}"#,
        "tr must be {\"sel\",\"base\",\"limit\",\"attr\"}",
    ),
    (
        r#"{"regs":{"gdtr":{"base":0,"limit":65536}}}"#,
        "gdtr must be {\"base\",\"limit\"}",
    ),
    (
        r#"{"regs":{"shadow":"nmi"}}"#,
        "shadow must be \"none\", \"sti\" or \"movss\"",
    ),
    (
        r#"{"regs":{"st0":"00"}}"#,
        "st0 must be a string of 10 bytes",
    ),
    (
        r#"{"regs":{"xmm0":"000102030405060708090A0B0C0D0E0F"}}"#,
        "xmm0 must be a string of 16 bytes in lower-case hex",
    ),
    (r#"{"regs":{"xmm0":1}}"#, "xmm0 must be a string"),
    (r#"{"regs":{"rax":"00"}}"#, "rax must be a number"),
    (
        r#"{"regs":{"st0":"00000000000000000000","mm1":"0000000000000000"}}"#,
        "st and mm registers are the same ones",
    ),
    (r#"{"mem":[[0]]}"#, "mem[0] must be [address, bytes]"),
    (
        r#"{"mem":[[0,"00"],[0,"0"]]}"#,
        "mem[1] must be [address, bytes]",
    ),
    (r#"{"mem":[[0,"00",1]]}"#, "mem[0] must be"),
    (r#"{"mem":{}}"#, "mem must be [[address, bytes], ...]"),
    (
        r#"{"mem":[[16777215,"0000"]]}"#,
        "mem[0]: 2 bytes at 0xffffff do not lie in RAM of 0x1000000 bytes",
    ),
    (
        r#"{"mem":[["0xffffffffffffffff","00"]]}"#,
        "mem[0]: 1 bytes at",
    ),
    (
        r#"{"ram":4096,"mem":[[4096,"00"]]}"#,
        "mem[0]: 1 bytes at 0x1000",
    ),
    (r#"{"ram":0}"#, "ram: 0 bytes"),
    (r#"{"ram":1000}"#, "ram: 1000 bytes"),
    (
        r#"{"ram":"0xfffffffffffff000"}"#,
        "ram: 18446744073709547520 bytes",
    ),
    (
        r#"{"regs":{"cr0":"0x80000000"}}"#,
        "cr0: PG (bit 31) needs PE",
    ),
    (
        r#"{"regs":{"cr0":"0x20000000"}}"#,
        "cr0: NW (bit 29) needs CD",
    ),
    (
        r#"{"regs":{"cr0":"0x80000001","efer":"0x100"}}"#,
        "efer: LMA",
    ),
    (r#"{"regs":{"efer":"0x500"}}"#, "efer: LMA"),
    (
        r#"{"regs":{"cr0":"0x80000001","efer":"0x500"}}"#,
        "cr4: long mode needs PAE",
    ),
    (r#"{"regs":{"cr4":"0x20000"}}"#, "cr4: PCIDE"),
    (
        r#"{"regs":{"rflags":"0x20000"}}"#,
        "rflags: VM (bit 17) needs",
    ),
    (
        r#"{"regs":{"cr0":"0x80000001","cr4":32,"efer":"0x500","rflags":"0x20000"}}"#,
        "there is no virtual-8086 mode",
    ),
    (r#"{"regs":{"xcr0":2}}"#, "xcr0: bit 0 is always set"),
    (r#"{"regs":{"shadow":"sti"}}"#, "shadow: STI leaves"),
    (
        r#"{"regs":{"cr0":1,"cs":8}}"#,
        "cs: a selector alone is for real mode and VM86",
    ),
    (
        r#"{"regs":{"cr0":1,"ss":{"sel":0,"base":0,"limit":65535,"attr":"0xf3"}}}"#,
        "cs: its privilege level 0",
    ),
    (
        r#"{"regs":{"ss":{"sel":0,"base":0,"limit":65535,"attr":"0xf3"}}}"#,
        "cs and ss have privilege level 0",
    ),
    (
        r#"{"regs":{"ds":{"sel":0,"base":0,"limit":1048576,"attr":"0x93"}}}"#,
        "ds: limit 0x100000 in bytes must be at most",
    ),
    (
        r#"{"regs":{"ds":{"sel":0,"base":0,"limit":1048576,"attr":"0x8093"}}}"#,
        "ds: limit 0x100000 in bytes must be whole",
    ),
    (
        r#"{"regs":{"ds":{"sel":0,"base":"0x100000000","limit":0,"attr":"0x93"}}}"#,
        "ds: its base has 32 bits",
    ),
    (
        r#"{"regs":{"fs":{"sel":0,"base":"0x800000000000","limit":0,"attr":"0x93"}}}"#,
        "fs: base 0x800000000000 is not canonical",
    ),
    (
        r#"{"regs":{"ds":{"sel":0,"base":0,"limit":0,"attr":"0x13"}}}"#,
        "ds: a loaded segment is present",
    ),
    (
        r#"{"regs":{"ds":{"sel":0,"base":0,"limit":0,"attr":"0x82"}}}"#,
        "ds: it holds code or data",
    ),
    (
        r#"{"regs":{"ds":{"sel":0,"base":0,"limit":0,"attr":"0x99"}}}"#,
        "ds: code in it is readable",
    ),
    (
        r#"{"regs":{"ss":{"sel":0,"base":0,"limit":0,"attr":"0x91"}}}"#,
        "ss: it holds writable data",
    ),
    (
        r#"{"regs":{"cs":{"sel":0,"base":0,"limit":0,"attr":"0x91"}}}"#,
        "cs: it holds a code segment",
    ),
    (
        r#"{"regs":{"cs":{"sel":0,"base":0,"limit":0,"attr":"0x10000"}}}"#,
        "cs: it is never unusable",
    ),
    (
        r#"{"regs":{"tr":{"sel":0,"base":0,"limit":0,"attr":"0x82"}}}"#,
        "tr: its type",
    ),
    (
        r#"{"regs":{"tr":{"sel":0,"base":0,"limit":0,"attr":"0x10000"}}}"#,
        "tr: it is never unusable",
    ),
    (
        r#"{"regs":{"ldtr":{"sel":0,"base":0,"limit":0,"attr":"0x8b"}}}"#,
        "ldtr: it holds a present LDT",
    ),
    (
        r#"{"regs":{"rip":"0x100000000"}}"#,
        "rip: 0x100000000 is above FFFFFFFFh",
    ),
    (
        r#"{"regs":{"cr0":"0x20001","rflags":"0x20000","ds":{"sel":1,"base":0,"limit":65535,"attr":"0xf3"}}}"#,
        "ds: in virtual-8086 mode base is sel*16",
    ),
    (
        r#"{"regs":{"msr:0xdeadbeef":0}}"#,
        "msr:0xdeadbeef: this CPU does not have it",
    ),
    (
        r#"{"regs":{"msr:0x10a":0}}"#,
        "msr:0x10a: no CPU has 0x0 in it",
    ),
    (
        r#"{"regs":{"msr:0xc0000082":"0x8000000000000000"}}"#,
        "msr:0xc0000082: no CPU has 0x8000000000000000",
    ),
    (
        r#"{"regs":{"msr:0x277":2}}"#,
        "msr:0x277: no CPU has 0x2 in it",
    ),
];

#[test]
fn wrong_lines_are_told_why() {
    let mut exec = exec();
    for (line, text) in REFUSED {
        let got = answer(&mut exec, line);
        let error = got["error"]
            .as_str()
            .unwrap_or_else(|| panic!("{line} is accepted: {got}"));
        assert!(
            error.starts_with(text) || error.contains(text),
            "{line}: {error}"
        );
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(got.as_object().map(serde_json::Map::len), Some(2));
    }
    // None of it has left anything behind.
    let got = answer(&mut exec, r#"{"id":"x","regs":{"cs":0,"rip":0}}"#);
    assert_eq!(got["id"], "x");
    assert_eq!(got["retired"], 1, "{got}");
}

#[test]
fn the_id_of_a_wrong_line_is_echoed() {
    let got = answer(&mut exec(), r#"{"steps":"many","id":{"a":[1.50,null]}}"#);
    assert_eq!(got["id"].to_string(), r#"{"a":[1.5,null]}"#);
    let mut out = Vec::new();
    exec().answer(b"{\"id\":7,\"mem\":[[0,\"\xff\"]]}", &mut out);
    assert_eq!(
        out,
        b"{\"id\":null,\"error\":\"not UTF-8 from byte 19 on\"}"
    );
}

#[test]
fn pae_s_page_directory_pointers_are_loaded_and_checked() {
    let regs = r#""regs":{"cr0":"0x80000011","cr4":32,"cr3":4096,"rip":0,"cs":{"sel":8,"base":0,"limit":65535,"attr":"0x9b"}}"#;
    let mut exec = exec();
    let bad = answer(
        &mut exec,
        &format!(r#"{{{regs},"mem":[[4096,"0300000000000000"]]}}"#),
    );
    assert_eq!(
        bad["error"],
        "cr3: it leads to a page-directory-pointer entry with reserved bits"
    );
    let good = answer(
        &mut exec,
        &format!(r#"{{{regs},"mem":[[4096,"0100000000000000"]],"deliver":false}}"#),
    );
    assert_eq!(good["exception"]["vector"], 14, "{good}");
}
