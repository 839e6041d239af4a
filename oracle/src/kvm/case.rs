//! A system-mode case: one instruction in a whole system's state, and its text form for cases that stay.

use std::fmt::Write;

use x86::{CpuState, Segment, TableReg};

/// Bytes of RAM of a case, from physical address 0. Beyond it reads give all ones.
pub const RAM: usize = 0x4_0000;

/// The state before one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The generator's group.
    pub group: String,
    /// Registers.
    pub st: CpuState,
    /// What RAM holds beside zeros: physical address and bytes, later ones over earlier ones.
    pub mem: Vec<(u64, Vec<u8>)>,
    /// The instruction's bytes, for the tables of what is not compared.
    pub code: Vec<u8>,
    /// A repeated string instruction: it is run until RIP leaves it.
    pub repeats: bool,
}

impl Case {
    /// RAM's contents.
    pub fn ram(&self) -> Vec<u8> {
        let mut ram = vec![0; RAM];
        self.lay(&mut ram);
        ram
    }

    fn lay(&self, ram: &mut [u8]) {
        for (at, bytes) in &self.mem {
            let at = *at as usize;
            ram[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// RAM as one case after another wants it, without starting from zeros each time.
#[derive(Debug)]
pub struct Ram {
    bytes: Vec<u8>,
    /// A bit a page that is not all zeros.
    pages: u64,
}

impl Ram {
    /// Zeros.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; RAM],
            pages: 0,
        }
    }

    /// The contents of a case's RAM.
    pub fn of(&mut self, case: &Case) -> &[u8] {
        for page in (0..RAM / 4096).filter(|page| self.pages >> page & 1 != 0) {
            self.bytes[page * 4096..][..4096].fill(0);
        }
        self.pages = 0;
        for (at, bytes) in &case.mem {
            let (first, last) = (*at >> 12, (*at + bytes.len().max(1) as u64 - 1) >> 12);
            (first..=last).for_each(|page| self.pages |= 1 << page);
        }
        case.lay(&mut self.bytes);
        &self.bytes
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The instruction, or the first one of the handler that was entered for it, completed.
    Done,
    /// A triple fault, and the first exception (vector, error code).
    Shutdown(u8, u32),
    /// It never ended.
    Endless,
}

/// The state after the instruction. If it raised an exception, that was delivered and its handler's first instruction
/// run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Registers; of no meaning unless [`End::Done`].
    pub st: CpuState,
    /// Writes to ports: port, size, value.
    pub outs: Vec<(u16, u8, u32)>,
    /// Bytes that changed, as maximal runs.
    pub mem: Vec<(u64, Vec<u8>)>,
}

/// Names and values of the registers that are compared and stored.
pub fn registers(st: &CpuState) -> Vec<(String, u64)> {
    let mut list: Vec<(String, u64)> = GPRS
        .iter()
        .zip(st.gpr)
        .map(|(n, v)| ((*n).to_string(), v))
        .collect();
    let mut add = |name: &str, value: u64| list.push((name.to_string(), value));
    add("rip", st.rip);
    add("rflags", st.rflags);
    for (name, value) in [
        ("cr0", st.cr0),
        ("cr2", st.cr2),
        ("cr3", st.cr3),
        ("cr4", st.cr4),
        ("efer", st.efer),
        ("gdtr.base", st.gdtr.base),
        ("gdtr.limit", st.gdtr.limit.into()),
        ("idtr.base", st.idtr.base),
        ("idtr.limit", st.idtr.limit.into()),
        ("star", st.msr.star),
        ("lstar", st.msr.lstar),
        ("cstar", st.msr.cstar),
        ("fmask", st.msr.fmask),
        ("kernel_gs_base", st.msr.kernel_gs_base),
        ("sysenter_cs", st.msr.sysenter_cs),
        ("sysenter_esp", st.msr.sysenter_esp),
        ("sysenter_eip", st.msr.sysenter_eip),
        ("pat", st.msr.pat),
        ("dr0", st.dr[0]),
        ("dr1", st.dr[1]),
        ("dr2", st.dr[2]),
        ("dr3", st.dr[3]),
        ("dr6", st.dr6),
        ("dr7", st.dr7),
    ] {
        add(name, value);
    }
    for (name, s) in SEGS.iter().zip(st.seg.iter().chain([&st.ldtr, &st.tr])) {
        for (part, value) in [
            ("sel", s.selector.into()),
            ("base", s.base),
            ("limit", s.limit.into()),
            ("attr", u64::from(s.attr)),
        ] {
            add(&format!("{name}.{part}"), value);
        }
    }
    list
}

const GPRS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const SEGS: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];

/// Sets one register by the name that [`registers`] has for it.
fn set(st: &mut CpuState, name: &str, value: u64) -> Option<()> {
    if let Some(n) = GPRS.iter().position(|g| *g == name) {
        st.gpr[n] = value;
        return Some(());
    }
    if let Some((register, part)) = name.split_once('.') {
        let table = |t: &mut TableReg| match part {
            "base" => t.base = value,
            _ => t.limit = value as u16,
        };
        match register {
            "gdtr" => table(&mut st.gdtr),
            "idtr" => table(&mut st.idtr),
            _ => {
                let s: &mut Segment = match SEGS.iter().position(|s| *s == register)? {
                    6 => &mut st.ldtr,
                    7 => &mut st.tr,
                    n => &mut st.seg[n],
                };
                match part {
                    "sel" => s.selector = value as u16,
                    "base" => s.base = value,
                    "limit" => s.limit = value as u32,
                    "attr" => s.attr = value as u32,
                    _ => return None,
                }
            }
        }
        return Some(());
    }
    let field = match name {
        "rip" => &mut st.rip,
        "rflags" => &mut st.rflags,
        "cr0" => &mut st.cr0,
        "cr2" => &mut st.cr2,
        "cr3" => &mut st.cr3,
        "cr4" => &mut st.cr4,
        "efer" => &mut st.efer,
        "star" => &mut st.msr.star,
        "lstar" => &mut st.msr.lstar,
        "cstar" => &mut st.msr.cstar,
        "fmask" => &mut st.msr.fmask,
        "kernel_gs_base" => &mut st.msr.kernel_gs_base,
        "sysenter_cs" => &mut st.msr.sysenter_cs,
        "sysenter_esp" => &mut st.msr.sysenter_esp,
        "sysenter_eip" => &mut st.msr.sysenter_eip,
        "pat" => &mut st.msr.pat,
        "dr0" => &mut st.dr[0],
        "dr1" => &mut st.dr[1],
        "dr2" => &mut st.dr[2],
        "dr3" => &mut st.dr[3],
        "dr6" => &mut st.dr6,
        "dr7" => &mut st.dr7,
        _ => return None,
    };
    *field = value;
    Some(())
}

/// A state as the words that differ from another's.
fn words(st: &CpuState, from: &CpuState, out: &mut String) {
    for ((name, value), (_, old)) in registers(st).into_iter().zip(registers(from)) {
        if value != old {
            let _ = write!(out, " {name}={value:x}");
        }
    }
}

fn memory(mem: &[(u64, Vec<u8>)], out: &mut String) {
    for (at, bytes) in mem {
        let _ = write!(out, " @{at:x}=");
        // A run of one byte is told by its length.
        if bytes.len() > 8 && bytes.iter().all(|b| *b == bytes[0]) {
            let _ = write!(out, "{:02x}*{:x}", bytes[0], bytes.len());
        } else {
            out.extend(bytes.iter().map(|b| format!("{b:02x}")));
        }
    }
}

/// The case and what it must lead to, in one line: `group words -> end words`. Words of the case are what differs from
/// RESET, those of the outcome what differs from the case.
pub fn print(case: &Case, outcome: &Outcome) -> String {
    let mut line = case.group.clone();
    if case.repeats {
        line += " repeats";
    }
    line += " code=";
    line.extend(case.code.iter().map(|b| format!("{b:02x}")));
    words(&case.st, &CpuState::reset(), &mut line);
    memory(&case.mem, &mut line);
    line += " ->";
    match outcome.end {
        End::Done => {
            words(&outcome.st, &case.st, &mut line);
            for (port, size, value) in &outcome.outs {
                let _ = write!(line, " out={port:x}:{size:x}:{value:x}");
            }
            memory(&outcome.mem, &mut line);
        }
        End::Shutdown(vector, error) => line += &format!(" shutdown={vector:x}:{error:x}"),
        End::Endless => line += " endless",
    }
    line
}

fn parse_word(word: &str, st: &mut CpuState, mem: &mut Vec<(u64, Vec<u8>)>) -> Result<(), String> {
    let bad = || format!("not understood: {word}");
    let (name, value) = word.split_once('=').ok_or_else(bad)?;
    let hex = |text: &str| u64::from_str_radix(text, 16).map_err(|_| bad());
    let Some(at) = name.strip_prefix('@') else {
        return set(st, name, hex(value)?).ok_or_else(bad);
    };
    let bytes = match value.split_once('*') {
        Some((byte, count)) => vec![hex(byte)? as u8; hex(count)? as usize],
        None => {
            let digits = value
                .as_bytes()
                .chunks(2)
                .map(|two| std::str::from_utf8(two).map_err(|_| bad()));
            digits
                .map(|two| Ok(hex(two?)? as u8))
                .collect::<Result<_, String>>()?
        }
    };
    let at = hex(at)?;
    if at + bytes.len() as u64 > RAM as u64 {
        return Err(bad());
    }
    mem.push((at, bytes));
    Ok(())
}

/// Reads what [`print`] wrote.
pub fn parse(line: &str) -> Result<(Case, Outcome), String> {
    let (before, after) = line.split_once("->").ok_or("no ->")?;
    let mut before = before.split_whitespace();
    let group = before.next().ok_or("no group")?.to_string();
    let mut case = Case {
        group,
        st: CpuState::reset(),
        mem: Vec::new(),
        code: Vec::new(),
        repeats: false,
    };
    for word in before {
        if word == "repeats" {
            case.repeats = true;
        } else if let Some(code) = word.strip_prefix("code=") {
            let mut mem = Vec::new();
            parse_word(&format!("@0={code}"), &mut case.st, &mut mem)?;
            case.code = mem.pop().map_or(Vec::new(), |(_, bytes)| bytes);
        } else {
            parse_word(word, &mut case.st, &mut case.mem)?;
        }
    }
    let mut out = Outcome {
        end: End::Done,
        st: case.st.clone(),
        outs: Vec::new(),
        mem: Vec::new(),
    };
    for word in after.split_whitespace() {
        let numbers = |text: &str| -> Result<Vec<u64>, String> {
            text.split(':')
                .map(|n| u64::from_str_radix(n, 16).map_err(|e| format!("{text}: {e}")))
                .collect()
        };
        if word == "endless" {
            out.end = End::Endless;
        } else if let Some(rest) = word.strip_prefix("shutdown=") {
            match numbers(rest)?[..] {
                [vector, error] => out.end = End::Shutdown(vector as u8, error as u32),
                _ => return Err(format!("not understood: {word}")),
            }
        } else if let Some(rest) = word.strip_prefix("out=") {
            match numbers(rest)?[..] {
                [port, size, value] => out.outs.push((port as u16, size as u8, value as u32)),
                _ => return Err(format!("not understood: {word}")),
            }
        } else {
            parse_word(word, &mut out.st, &mut out.mem)?;
        }
    }
    Ok((case, out))
}

/// The maximal runs of bytes in which `after` differs from `before`.
pub fn runs(before: &[u8], after: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    if before == after {
        return runs;
    }
    for (page, (old, new)) in before.chunks(4096).zip(after.chunks(4096)).enumerate() {
        if old == new {
            continue;
        }
        for (at, (_, new)) in (page as u64 * 4096..)
            .zip(old.iter().zip(new))
            .filter(|(_, (old, new))| old != new)
        {
            match runs.last_mut() {
                Some((first, bytes)) if *first + bytes.len() as u64 == at => bytes.push(*new),
                _ => runs.push((at, vec![*new])),
            }
        }
    }
    runs
}
