//! The table of cases: modes, exceptions delivered and not, repeats, HLT, shutdown, and the forms of every register.

use super::{answer, difference, exec};

/// What each mode needs beside what a case names. Code lies where RIP leads.
const REAL: &str = r#""cs":0,"rip":"0x100","rsp":"0x1000""#;
const VM86: &str = r#""cr0":"0x31","rflags":"0x23002","cs":0,"ss":0,"rip":"0x100","rsp":"0x1000""#;
const FPU: &str = r#""cs":0,"rip":"0x100","cr0":"0x30","cr4":"0x600","fcw":895"#;
const FLAT: &str = r#""cr0":"0x33","cr4":"0x600","fcw":895,"ftw":0,"rip":"0x10000","rsp":"0x20000",
    "cs":{"sel":8,"base":0,"limit":"0xffffffff","attr":"0xc09b"},"ss":{"sel":16,"base":0,"limit":"0xffffffff","attr":"0xc093"},
    "ds":{"sel":16,"base":0,"limit":"0xffffffff","attr":"0xc093"},"es":{"sel":16,"base":0,"limit":"0xffffffff","attr":"0xc093"},
    "gdtr":{"base":"0x3000","limit":255},"idtr":{"base":"0x4000","limit":2047}"#;
const LONG: &str = r#""cr0":"0x80010033","cr3":"0x1000","cr4":"0x620","efer":"0xd01","fcw":895,"ftw":0,
    "rip":"0x10000","rsp":"0x20000",
    "cs":{"sel":8,"base":0,"limit":"0xffffffff","attr":"0xa09b"},"ss":{"sel":16,"base":0,"limit":"0xffffffff","attr":"0xc093"},
    "gdtr":{"base":"0x3000","limit":255},"idtr":{"base":"0x4000","limit":4095}"#;
/// 1000h, 2000h: the first GiB at itself. 3000h: a GDT with 64-bit code at 8, 32-bit data at 16, code at 24.
/// 4060h, 40e0h: long mode's gates 6 and 14, to 8:500h and 8:600h.
const TABLES: &str = r#"[4096,"0720000000000000"],[8192,"8700000000000000"],
    [12296,"ffff000000 9aaf00"],[12304,"ffff00000092cf00"],[12312,"ffff0000009acf00"],
    [16480,"0005080000 8e0000 0000000000000000"],[16608,"0006080000 8e0000 0000000000000000"]"#;

/// A line: a mode's registers, more of them, code, more memory, and the rest.
fn line(mode: &str, regs: &str, code: &str, mem: &str, rest: &str) -> String {
    let at = if mode.contains("\"0x100\"") {
        256
    } else {
        65536
    };
    let join = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!(",{text}")
        }
    };
    let tables = if mode == LONG {
        join(TABLES)
    } else {
        String::new()
    };
    format!(
        r#"{{"regs":{{{mode}{}}},"mem":[[{at},"{code}"]{tables}{}]{}}}"#,
        join(regs),
        join(mem),
        join(rest)
    )
}

struct Row {
    name: &'static str,
    mode: &'static str,
    regs: &'static str,
    code: &'static str,
    mem: &'static str,
    rest: &'static str,
    expected: &'static str,
}

const fn row(
    name: &'static str,
    mode: &'static str,
    regs: &'static str,
    code: &'static str,
    mem: &'static str,
    rest: &'static str,
    expected: &'static str,
) -> Row {
    Row {
        name,
        mode,
        regs,
        code,
        mem,
        rest,
        expected,
    }
}

const TABLE: &[Row] = &[
    row(
        "mov al, 5",
        REAL,
        "",
        "b005",
        "",
        "",
        r#"{"id":null,"regs":{"rax":5,"rip":258,"tsc":1},"mem":[],"retired":1,"exit":"steps","exception":null,"delivered":[]}"#,
    ),
    row(
        "no steps",
        REAL,
        "",
        "b005",
        "",
        r#""steps":0"#,
        r#"{"regs":{},"retired":0,"exit":"steps"}"#,
    ),
    row(
        "names of 32 bits are answered",
        REAL,
        r#""eax":1,"r9d":2"#,
        "6640",
        "",
        "",
        r#"{"regs":{"eax":2,"rip":258,"tsc":1},"mem":[]}"#,
    ),
    row(
        "eip and eflags",
        "\"cs\":0,\"eip\":256,\"eflags\":2",
        r#""eax":4294967295"#,
        "6640",
        r#"[256,"6640"]"#,
        "",
        r#"{"regs":{"eax":0,"eip":258,"eflags":86,"tsc":1}}"#,
    ),
    row(
        "push ax",
        REAL,
        r#""rax":"0x1234""#,
        "50",
        "",
        "",
        r#"{"regs":{"rip":257,"rsp":4094,"tsc":1},"mem":[[4094,"3412"]]}"#,
    ),
    row(
        "bytes that stay the same are no change",
        REAL,
        r#""rax":"0x1234""#,
        "50",
        r#"[4094,"3400"]"#,
        "",
        r#"{"mem":[[4095,"12"]]}"#,
    ),
    row(
        "the VGA window is RAM like any other",
        REAL,
        r#""es":"0xa000","rax":7"#,
        "26a20000",
        "",
        "",
        r#"{"regs":{"rip":260,"tsc":1},"mem":[[655360,"07"]]}"#,
    ),
    row(
        "a repeat is one step",
        REAL,
        r#""rcx":3,"rdi":4095,"rax":170,"es":256"#,
        "f3aa",
        "",
        "",
        r#"{"regs":{"rcx":0,"rdi":4098,"rip":258,"tsc":1},"mem":[[8191,"aaaaaa"]],"retired":1}"#,
    ),
    row(
        "a long repeat too",
        FLAT,
        r#""rcx":"0x40000","rdi":"0x100000","rax":1"#,
        "f3aa",
        "",
        "",
        r#"{"regs":{"rcx":0,"rdi":1310720,"rip":65538,"tsc":1},"retired":1}"#,
    ),
    row(
        "hlt",
        REAL,
        "",
        "f4",
        "",
        r#""steps":9"#,
        r#"{"regs":{"rip":257,"tsc":1},"retired":1,"exit":"halt"}"#,
    ),
    row(
        "hlt as the last step",
        REAL,
        "",
        "90f4",
        "",
        r#""steps":2"#,
        r#"{"retired":2,"exit":"halt"}"#,
    ),
    row(
        "int 21h is delivered in its own step",
        REAL,
        "",
        "cd21",
        r#"[132,"00050000"]"#,
        "",
        r#"{"regs":{"rsp":4090,"rip":1280,"tsc":1},"mem":[[4090,"0201"],[4094,"02"]],"retired":1,"exit":"steps",
            "delivered":[{"vector":33,"error":null,"cr2":null,"soft":true}]}"#,
    ),
    row(
        "int 21h, not delivered",
        REAL,
        "",
        "cd21",
        "",
        r#""deliver":false,"steps":3"#,
        r#"{"regs":{"rip":258},"mem":[],"retired":0,"exit":"exception",
            "exception":{"vector":33,"error":null,"cr2":null,"soft":true},"delivered":[]}"#,
    ),
    row(
        "int3, not delivered",
        REAL,
        "",
        "90cc",
        "",
        r#""deliver":false,"steps":3"#,
        r#"{"regs":{"rip":258,"tsc":1},"retired":1,"exception":{"vector":3,"error":null,"cr2":null,"soft":true}}"#,
    ),
    row(
        "int1, not delivered",
        LONG,
        "",
        "f1",
        "",
        r#""deliver":false"#,
        r#"{"regs":{"rip":65537},"exception":{"vector":1,"error":null,"cr2":null,"soft":true}}"#,
    ),
    row(
        "into without overflow",
        REAL,
        "",
        "ce",
        "",
        r#""deliver":false"#,
        r#"{"regs":{"rip":257,"tsc":1},"retired":1,"exit":"steps"}"#,
    ),
    row(
        "into with overflow",
        REAL,
        r#""rflags":"0x802""#,
        "ce",
        r#"[16,"00050000"]"#,
        "",
        r#"{"regs":{"rsp":4090,"rip":1280,"tsc":1},"delivered":[{"vector":4,"error":null,"cr2":null,"soft":true}]}"#,
    ),
    row(
        "a division by zero stays where it is",
        REAL,
        "",
        "f7f1",
        "",
        r#""deliver":false"#,
        r#"{"regs":{},"retired":0,"exit":"exception","exception":{"vector":0,"error":null,"cr2":null,"soft":false}}"#,
    ),
    row(
        "its delivery is a step",
        REAL,
        "",
        "f7f1",
        r#"[0,"00050000"],[1280,"40"]"#,
        r#""steps":2"#,
        r#"{"regs":{"rax":1,"rsp":4090,"rip":1281,"tsc":1},"retired":1,"exit":"steps",
            "delivered":[{"vector":0,"error":null,"cr2":null,"soft":false}]}"#,
    ),
    row(
        "real mode has no error codes",
        REAL,
        "",
        "a1ffff",
        "",
        r#""deliver":false"#,
        r#"{"regs":{},"exception":{"vector":13,"error":null,"cr2":null,"soft":false}}"#,
    ),
    row(
        "in",
        REAL,
        "",
        "ed",
        "",
        "",
        r#"{"regs":{"rax":65535,"rip":257,"tsc":1}}"#,
    ),
    row(
        "out",
        REAL,
        "",
        "ee",
        "",
        "",
        r#"{"regs":{"rip":257,"tsc":1},"mem":[]}"#,
    ),
    row(
        "reads outside RAM",
        FLAT,
        "",
        "a100000040",
        "",
        "",
        r#"{"regs":{"rax":4294967295,"rip":65541,"tsc":1}}"#,
    ),
    row(
        "writes outside RAM",
        FLAT,
        "",
        "a300000040",
        "",
        "",
        r#"{"regs":{"rip":65541,"tsc":1},"mem":[]}"#,
    ),
    row(
        "rdtsc",
        REAL,
        r#""tsc":"0x100000000","rdx":0"#,
        "900f31",
        "",
        r#""steps":2"#,
        r#"{"regs":{"rax":1,"rdx":1,"rip":259,"tsc":4294967298}}"#,
    ),
    row(
        "single step: the trap is a step of its own",
        REAL,
        r#""rflags":"0x102""#,
        "9090",
        r#"[4,"00050000"]"#,
        "",
        r#"{"regs":{"rip":257,"tsc":1},"delivered":[],"exit":"steps"}"#,
    ),
    row(
        "single step, delivered",
        REAL,
        r#""rflags":"0x102""#,
        "9090",
        r#"[4,"00050000"]"#,
        r#""steps":2"#,
        r#"{"regs":{"rsp":4090,"rip":1280,"rflags":2,"dr6":4294922224,"tsc":1},"retired":1,
            "delivered":[{"vector":1,"error":null,"cr2":null,"soft":false}]}"#,
    ),
    row(
        "single step, not delivered",
        REAL,
        r#""rflags":"0x102""#,
        "9090",
        "",
        r#""steps":2,"deliver":false"#,
        r#"{"regs":{"rip":257,"tsc":1},"retired":1,"exit":"exception",
            "exception":{"vector":1,"error":null,"cr2":null,"soft":false}}"#,
    ),
    row(
        "a code breakpoint is a fault",
        FLAT,
        r#""dr0":"0x10001","dr7":1"#,
        "9090",
        "",
        r#""steps":5,"deliver":false"#,
        r#"{"regs":{"rip":65537,"tsc":1},"exception":{"vector":1,"error":null,"cr2":null,"soft":false}}"#,
    ),
    row(
        "a data breakpoint is a trap",
        FLAT,
        r#""dr1":"0x30000","dr7":"0xd00008""#,
        "c6050000030001",
        "",
        r#""steps":5,"deliver":false"#,
        r#"{"regs":{"rip":65543,"tsc":1},"mem":[[196608,"01"]],"retired":1,
            "exception":{"vector":1,"error":null,"cr2":null,"soft":false}}"#,
    ),
    row(
        "sti casts a shadow",
        REAL,
        "",
        "fb",
        "",
        "",
        r#"{"regs":{"rip":257,"rflags":514,"tsc":1,"shadow":"sti"}}"#,
    ),
    row(
        "a shadow ends",
        REAL,
        r#""shadow":"movss""#,
        "90",
        "",
        "",
        r#"{"regs":{"rip":257,"tsc":1,"shadow":"none"}}"#,
    ),
    row(
        "mov ss holds a trap back",
        REAL,
        r#""rflags":"0x102","rax":1"#,
        "8ed09090",
        "",
        r#""steps":9,"deliver":false"#,
        r#"{"regs":{"ss":1,"rip":259,"tsc":2},"retired":2,
            "exception":{"vector":1,"error":null,"cr2":null,"soft":false}}"#,
    ),
    row(
        "segments are integers in real mode",
        REAL,
        r#""rax":"0x1234""#,
        "8ed8",
        "",
        "",
        r#"{"regs":{"rip":258,"ds":4660,"tsc":1}}"#,
    ),
    row(
        "and in VM86",
        VM86,
        r#""rax":"0x1234""#,
        "8ee0",
        "",
        "",
        r#"{"regs":{"rip":258,"fs":4660,"tsc":1}}"#,
    ),
    row(
        "VM86: cli with IOPL 3",
        VM86,
        r#""rax":1"#,
        "fb",
        "",
        "",
        r#"{"regs":{"rip":257,"rflags":143874,"tsc":1,"shadow":"sti"}}"#,
    ),
    row(
        "VM86: hlt is privileged",
        VM86,
        "",
        "f4",
        "",
        r#""deliver":false"#,
        r#"{"regs":{},"exception":{"vector":13,"error":0,"cr2":null,"soft":false}}"#,
    ),
    row(
        "protected mode begins",
        REAL,
        r#""rax":"0x11","cr0":"0x10""#,
        "0f22c0",
        "",
        "",
        r#"{"regs":{"rip":259,"cr0":17,"tsc":1}}"#,
    ),
    row(
        "segments are objects in protected mode",
        FLAT,
        r#""rax":24"#,
        "8ee8",
        r#"[12312,"ffff12005092cf00"]"#,
        "",
        r#"{"regs":{"rip":65538,"gs":{"sel":24,"base":5242898,"limit":4294967295,"attr":49299},"tsc":1},
            "mem":[[12317,"93"]]}"#,
    ),
    row(
        "a null selector",
        FLAT,
        r#""rax":3"#,
        "8ed8",
        "",
        "",
        r#"{"regs":{"rip":65538,"ds":{"sel":3,"base":0,"limit":0,"attr":65536},"tsc":1}}"#,
    ),
    row(
        "a segment that is not present",
        FLAT,
        r#""rax":24"#,
        "8ed8",
        r#"[12312,"ffff00000012cf00"]"#,
        r#""deliver":false"#,
        r#"{"regs":{},"exception":{"vector":11,"error":24,"cr2":null,"soft":false}}"#,
    ),
    row(
        "lgdt",
        FLAT,
        r#""rax":"0x5000""#,
        "0f0110",
        r#"[20480,"341278563412"]"#,
        "",
        r#"{"regs":{"rip":65539,"gdtr":{"base":305419896,"limit":4660},"tsc":1}}"#,
    ),
    row(
        "#UD through a gate of long mode",
        LONG,
        "",
        "0f0b",
        "",
        "",
        r#"{"regs":{"rsp":131032,"rip":1280},
            "mem":[[4096,"27"],[8192,"e7"],[12301,"9b"],[131034,"01"],[131040,"08"],[131048,"02"],[131050,"01"],
                [131058,"02"],[131064,"10"]],
            "retired":0,"delivered":[{"vector":6,"error":null,"cr2":null,"soft":false}]}"#,
    ),
    row(
        "a page fault",
        LONG,
        "",
        "48a100000040000000 00",
        "",
        "",
        r#"{"regs":{"rsp":131024,"rip":1536,"cr2":1073741824},"retired":0,
            "delivered":[{"vector":14,"error":0,"cr2":1073741824,"soft":false}]}"#,
    ),
    row(
        "a page fault, not delivered",
        LONG,
        "",
        "48a300000040000000 00",
        "",
        r#""deliver":false"#,
        r#"{"regs":{},"exception":{"vector":14,"error":2,"cr2":1073741824,"soft":false}}"#,
    ),
    row(
        "a gate that is missing: double fault, shutdown",
        LONG,
        "",
        "f7f1",
        "",
        r#""steps":5"#,
        r#"{"retired":0,"exit":"shutdown","exception":null,"delivered":[]}"#,
    ),
    row(
        "accessed and dirty bits are changes",
        "\"cr0\":\"0x80000011\",\"cr3\":\"0x5000\",\"cs\":{\"sel\":8,\"base\":0,\"limit\":65535,\"attr\":\"0x9b\"},\"rip\":0",
        r#""rax":1,"rbx":12288"#,
        "",
        r#"[20480,"07600000"],[24576,"03700000"],[24588,"03800000"],[28672,"8807"]"#,
        "",
        r#"{"regs":{"rip":2,"tsc":1},"mem":[[20480,"27"],[24576,"23"],[24588,"63"],[32768,"01"]]}"#,
    ),
    row(
        "st registers count from the top",
        FPU,
        r#""fsw":"0x1800","ftw":8,"st0":"00000000000000c0ff3f""#,
        "d9e8",
        "",
        "",
        r#"{"regs":{"rip":258,"tsc":1,"fsw":4096,"ftw":12,"fip":256,
            "st0":"0000000000000080ff3f","st1":"00000000000000c0ff3f"}}"#,
    ),
    row(
        "mm registers by their numbers",
        FPU,
        r#""fsw":"0x3800","mm3":"0102030405060708""#,
        "0feff8 0ffedb",
        "",
        r#""steps":2"#,
        r#"{"regs":{"rip":262,"tsc":2,"fsw":0,"mm3":"020406080a0c0e10"}}"#,
    ),
    row(
        "xmm registers",
        FLAT,
        r#""xmm1":"01000000020000000300000004000000""#,
        "660ffec9",
        "",
        "",
        r#"{"regs":{"rip":65540,"tsc":1,"xmm1":"02000000040000000600000008000000"}}"#,
    ),
    row(
        "the widest name wins and is answered",
        FLAT,
        r#""xmm1":"ffffffffffffffffffffffffffffffff","ymm1":"0100000002000000030000000400000000000000000000000000000000000007""#,
        "660ffec9",
        "",
        "",
        r#"{"regs":{"rip":65540,"tsc":1,"ymm1":"0200000004000000060000000800000000000000000000000000000000000007"}}"#,
    ),
    row(
        "cr8",
        LONG,
        r#""rax":7"#,
        "440f22c0",
        "",
        "",
        r#"{"regs":{"rip":65540,"cr8":7,"tsc":1}}"#,
    ),
    row(
        "wrmsr",
        LONG,
        r#""rcx":"0xc0000081","rax":5,"rdx":1"#,
        "0f30",
        "",
        "",
        r#"{"regs":{"rip":65538,"tsc":1,"msr:0xc0000081":4294967301}}"#,
    ),
    row(
        "rdmsr of what the case says",
        LONG,
        r#""rcx":"0x176","msr:0x176":"0x123456789","rdx":0"#,
        "0f32",
        "",
        "",
        r#"{"regs":{"rax":591751049,"rdx":1,"rip":65538,"tsc":1}}"#,
    ),
    row(
        "an MSR with another name",
        LONG,
        r#""msr:0xc0000100":4,"rcx":"0xc0000100","rax":9,"rdx":0"#,
        "0f30",
        "",
        "",
        r#"{"regs":{"rip":65538,"fs":{"sel":0,"base":9,"limit":65535,"attr":147},"tsc":1,"msr:0xc0000100":9}}"#,
    ),
    row(
        "reserved bits are cleared",
        REAL,
        r#""rflags":"0xffffffff0000002a","dr6":0,"cr8":255,"fcw":65535,"mxcsr":4294967295"#,
        "9c",
        "",
        "",
        r#"{"regs":{"rip":257,"rsp":4094,"tsc":1},"mem":[[4094,"02"]]}"#,
    ),
];

/// TABLE without the blanks that make long hex readable.
fn unblank(text: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for c in text.chars() {
        if c == '"' {
            inside = !inside;
        }
        if !(inside && c == ' ') {
            out.push(c);
        }
    }
    out
}

#[test]
fn the_table() {
    let mut exec = exec();
    let mut wrong = String::new();
    for row in TABLE {
        let line = unblank(&line(row.mode, row.regs, row.code, row.mem, row.rest));
        let got = answer(&mut exec, &line);
        if got["error"].is_string() {
            wrong += &format!("{}: {got}\n", row.name);
        } else if let Some(text) = difference(&got, &unblank(row.expected)) {
            wrong += &format!("{}: {text}\n", row.name);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
