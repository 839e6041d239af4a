//! Reads blocks from text.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::OnceLock;

use iced_x86::Code;
use x86::Gpr;

use super::print::counted;
use super::{CONDS, GPRS, HIGHS, SEGS, max_args, natural_width};
use crate::block::{Block, GUARD, MARKS, Op, PART};
use crate::evex::VecInsn;
use crate::helper::{Exit, HelperId, Hint, Jump, Rep, StringKind, StringOp};
use crate::operand::{Access, FlagSet, Mem, Operand, SegBase, Temp, VecTemp, Width};
use crate::ops::{MemUse, OpCode, Sub};

/// Text that isn't a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
    /// What would have been right there.
    pub expected: String,
    /// What is there; empty at the end of the line.
    pub found: String,
}

impl Display for ParseError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: expected {}, found ",
            self.line, self.column, self.expected
        )?;
        if self.found.is_empty() {
            f.write_str("the end of the line")
        } else {
            write!(f, "`{}`", self.found)
        }
    }
}

impl std::error::Error for ParseError {}

type Result<T> = std::result::Result<T, ParseError>;

/// Parses one block.
///
/// # Errors
/// The first place where the text isn't what the grammar says (see [`crate::text`]). A parsed block is well-formed text,
/// not more: [`crate::verify::verify`] says whether it makes sense.
pub fn parse(text: &str) -> Result<Block> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(i, line)| Cursor::new(line, i + 1))
        .filter(|c| !c.at_end());
    let mut head = lines.next().unwrap_or_else(|| Cursor::new("", 1));
    head.keyword("block")?;
    let mut block = Block {
        temps: head.field("temps")?,
        vec_temps: head.field("vtemps")?,
        ..Block::default()
    };
    let len: Option<u32> = head.optional_field("len")?;
    let insns: Option<u32> = head.optional_field("insns")?;
    head.end()?;
    for mut line in lines {
        block.ops.push(line.op()?);
    }
    let (counted_len, counted_insns) = counted(&block.ops);
    block.len = len.unwrap_or(counted_len);
    block.insns = insns.unwrap_or(counted_insns);
    Ok(block)
}

/// The iced codes by their names.
fn codes() -> &'static HashMap<String, Code> {
    static CODES: OnceLock<HashMap<String, Code>> = OnceLock::new();
    CODES.get_or_init(|| Code::values().map(|c| (format!("{c:?}"), c)).collect())
}

/// A place in a line.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn new(line: &'a str, number: usize) -> Self {
        let text = line.split(';').next().unwrap_or("");
        let mut cursor = Self {
            text,
            at: 0,
            line: number,
        };
        cursor.space();
        cursor
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.rest().bytes().next()
    }

    fn at_end(&self) -> bool {
        self.rest().is_empty()
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Moves over `count` bytes of ASCII.
    fn skip(&mut self, count: usize) {
        self.at += count;
        self.space();
    }

    fn error<T>(&self, expected: impl Into<String>) -> Result<T> {
        self.error_at(self.at, expected)
    }

    fn error_at<T>(&self, at: usize, expected: impl Into<String>) -> Result<T> {
        let rest = &self.text[at..];
        let word = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let shown = if word == 0 {
            rest.chars().next().map_or(0, char::len_utf8)
        } else {
            word
        };
        Err(ParseError {
            line: self.line,
            column: at + 1,
            expected: expected.into(),
            found: rest[..shown].into(),
        })
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = self.rest().starts_with(symbol);
        if found {
            self.skip(symbol.len());
        }
        found
    }

    fn want(&mut self, symbol: &str) -> Result<()> {
        if self.eat(symbol) {
            Ok(())
        } else {
            self.error(format!("`{symbol}`"))
        }
    }

    fn end(&self) -> Result<()> {
        if self.at_end() {
            Ok(())
        } else {
            self.error("the end of the line")
        }
    }

    /// The word here, not consumed: letters, digits and underscores.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        &rest[..rest
            .bytes()
            .position(|c| !c.is_ascii_alphanumeric() && c != b'_')
            .unwrap_or(rest.len())]
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.word() == word;
        if found {
            self.skip(word.len());
        }
        found
    }

    fn keyword(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) {
            Ok(())
        } else {
            self.error(format!("`{word}`"))
        }
    }

    /// The position of the word here in a list of names.
    fn choice<'n>(&mut self, what: &str, names: impl IntoIterator<Item = &'n str>) -> Result<u32> {
        let word = self.word();
        match names
            .into_iter()
            .position(|name| name == word && !name.is_empty())
        {
            Some(index) => {
                self.skip(word.len());
                Ok(index as u32)
            }
            None => self.error(what),
        }
    }

    /// An unsigned number.
    fn magnitude(&mut self) -> Result<u64> {
        let word = self.word();
        let parsed = match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        match parsed {
            Ok(n) => {
                self.skip(word.len());
                Ok(n)
            }
            Err(e) if *e.kind() == std::num::IntErrorKind::PosOverflow => {
                self.error("a number of 64 bits")
            }
            Err(_) => self.error("a number"),
        }
    }

    /// An unsigned number of type `T`.
    fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        let at = self.at;
        let n = self.magnitude()?;
        // The largest value of T is two to its bits minus one, all its types being unsigned.
        T::try_from(n).or_else(|_| {
            let max = u64::MAX >> (64 - 8 * size_of::<T>());
            self.error_at(at, format!("a number up to {max}"))
        })
    }

    /// A magnitude with a given sign as `T`.
    fn signed<T: TryFrom<i128>>(&mut self, negative: bool) -> Result<T> {
        let at = self.at;
        let n = i128::from(self.magnitude()?);
        T::try_from(if negative { -n } else { n }).or_else(|_| {
            self.error_at(
                at,
                format!("a signed number of {} bits", 8 * size_of::<T>()),
            )
        })
    }

    fn field<T: TryFrom<u64>>(&mut self, name: &str) -> Result<T> {
        self.keyword(name)?;
        self.want("=")?;
        self.number()
    }

    fn optional_field<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>> {
        if self.word() == name {
            self.field(name).map(Some)
        } else {
            Ok(None)
        }
    }

    fn width(&mut self) -> Result<Width> {
        let index = self.choice("a width (8, 16, 32, 64)", ["8", "16", "32", "64"])?;
        Ok(Width::ALL[index as usize])
    }

    fn seg(&mut self) -> Result<u32> {
        self.choice("a segment register", SEGS.iter().map(|s| s.0))
    }

    fn op(&mut self) -> Result<Op> {
        let before = self.at;
        let dsts = self.dsts()?;
        let name_at = self.at;
        let index = self.choice("an op's name", OpCode::ALL.iter().map(|c| c.info().name))?;
        let code = OpCode::ALL[index as usize];
        let info = code.info();
        let named = name_at + info.name.len();
        let given = dsts
            .iter()
            .rposition(|d| d.is_some())
            .map_or(0, |last| last + 1);
        if given > usize::from(info.dsts) {
            return self.error_at(
                before,
                format!("at most {} results of {}", info.dsts, info.name),
            );
        }
        let width = if self.text[named..].starts_with('.') {
            self.skip(1);
            Some(self.width()?)
        } else {
            None
        };
        let [dst, dst2] = dsts;
        let mut op = Op {
            dst,
            dst2,
            flags: FlagSet::NONE,
            ..Op::new(code, Width::B64)
        };
        if code == OpCode::Insn {
            let back = self.eat("-");
            if !back {
                self.want("+")?;
            }
            let delta = i64::from(self.number::<u32>()?);
            op.a = Operand::Imm(if back { -delta } else { delta });
            op.sub = self.field("len")?;
            if op.sub & MARKS != 0 {
                return self.error("a shorter instruction");
            }
            if self.eat("part") {
                op.sub |= PART;
                if self.eat("guarded") {
                    op.sub |= GUARD;
                }
            }
        } else {
            op.sub = self.sub(info.sub)?;
            let Some(width) = width.or_else(|| natural_width(code, op.sub)) else {
                return self.error_at(named, format!("a width ({}.8, .16, .32, .64)", info.name));
            };
            op.width = width;
            let mut more = true;
            if info.mem != MemUse::None {
                op.mem = Some(self.mem()?);
                more = self.eat(",");
                if more && info.args == 0 {
                    return self.error("the end of the line");
                }
            }
            if more && (op.mem.is_some() || !(self.at_end() || self.peek() == Some(b'{'))) {
                self.args(&mut op)?;
            }
            op.flags = self.flags()?;
        }
        if code == OpCode::Insn {
            op.width = width.unwrap_or(Width::B64);
        }
        self.end()?;
        Ok(op)
    }

    /// `dst =` or `dst, dst2 =`; nothing is consumed when the line doesn't begin so.
    fn dsts(&mut self) -> Result<[Operand; 2]> {
        let start = self.at;
        let certain = matches!(self.peek(), Some(b'%' | b'_'));
        let dst = match self.operand() {
            Ok(dst) => dst,
            Err(e) if certain => return Err(e),
            Err(_) => {
                self.at = start;
                return Ok([Operand::None; 2]);
            }
        };
        let dst2 = if self.eat(",") {
            self.operand()?
        } else {
            Operand::None
        };
        self.want("=")?;
        Ok([dst, dst2])
    }

    fn args(&mut self, op: &mut Op) -> Result<()> {
        let max = max_args(op);
        let mut slots = [&mut op.a, &mut op.b, &mut op.c].into_iter().take(max);
        loop {
            let Some(slot) = slots.next() else {
                return self.error("the end of the line: the op has no more operands");
            };
            *slot = self.operand()?;
            if !self.eat(",") {
                return Ok(());
            }
        }
    }

    fn flags(&mut self) -> Result<FlagSet> {
        let mut set = FlagSet::NONE;
        if self.eat("{") {
            while !self.eat("}") {
                let c = self.peek();
                match FlagSet::LETTERS.iter().find(|l| c == Some(l.0 as u8)) {
                    Some((_, flag)) => set = set.union(*flag),
                    None => return self.error("flags (letters of oszapc) and `}`"),
                }
                self.at += 1;
            }
        }
        Ok(set)
    }

    fn sub(&mut self, kind: Sub) -> Result<u32> {
        match kind {
            Sub::None => Ok(0),
            Sub::Cond => self.choice("a condition", CONDS),
            Sub::Width => {
                self.keyword("from")?;
                self.want(".")?;
                Ok(self.width()? as u32)
            }
            Sub::Alu => self.choice(
                "an arithmetic op",
                OpCode::ALL.iter().map(|c| c.info().name),
            ),
            Sub::Helper => self.choice("a helper", HelperId::ALL.iter().map(|h| h.name())),
            Sub::Code => {
                let word = self.word();
                match codes().get(word) {
                    Some(code) => {
                        self.skip(word.len());
                        let mut insn = VecInsn::plain(*code);
                        while self.eat("/") {
                            let suffix = self.word();
                            if !insn.add_suffix(suffix) {
                                return self.error("k1 to k7, z, rn, rd, ru, rz, sae or b");
                            }
                            self.skip(suffix.len());
                        }
                        Ok(insn.encode())
                    }
                    None => self.error("an instruction (iced_x86::Code)"),
                }
            }
            Sub::Seg => self.seg(),
            Sub::Exit => self.choice("an exit (next, helper)", Exit::ALL.iter().map(|e| e.name())),
            Sub::Jump => self.choice(
                "a jump (jmp, call, ret)",
                Jump::ALL.iter().map(|j| j.name()),
            ),
            Sub::Hint => self.choice(
                "a hint (nta, t0, t1, t2, w)",
                Hint::ALL.iter().map(|h| h.name()),
            ),
            Sub::String => self.string(),
            Sub::Number => {
                self.want("#")?;
                self.number()
            }
        }
    }

    fn string(&mut self) -> Result<u32> {
        let rep = self
            .choice("", Rep::ALL.iter().map(|r| r.name()))
            .unwrap_or(0);
        let kind = self.choice(
            "a string instruction",
            StringKind::ALL.iter().map(|k| k.name()),
        )?;
        self.want(".")?;
        let width = self.width()?;
        let addr = self.addr().unwrap_or(Width::B64);
        let seg = self.seg()?;
        let at = self.at;
        let len = self.field("len")?;
        let op = StringOp {
            kind: StringKind::ALL[kind as usize],
            rep: Rep::ALL[rep as usize],
            width,
            addr,
            seg: seg as u8,
            len,
        };
        match StringOp::decode(op.encode()) {
            Some(same) if same == op => Ok(op.encode()),
            _ => self.error_at(at, "a length that fits"),
        }
    }

    fn addr(&mut self) -> Option<Width> {
        let index = self.choice("", ["a16", "a32", "a64"]).ok()?;
        Some([Width::B16, Width::B32, Width::B64][index as usize])
    }

    fn operand(&mut self) -> Result<Operand> {
        match self.peek() {
            Some(b'%') => {
                self.at += 1;
                if self.peek() == Some(b'v') {
                    self.at += 1;
                    return Ok(Operand::VecTemp(VecTemp(self.number()?)));
                }
                return Ok(Operand::Temp(Temp(self.number()?)));
            }
            Some(b'-') => {
                self.skip(1);
                return Ok(Operand::Imm(self.signed(true)?));
            }
            Some(b'0'..=b'9') => return Ok(Operand::Imm(self.signed(false)?)),
            _ => {}
        }
        let word = self.word();
        let operand = match named(word) {
            Some(operand) => operand,
            None if word == "pc" => {
                self.skip(word.len());
                let negative = self.eat("-");
                if !negative {
                    self.want("+")?;
                }
                return Ok(Operand::Pc(self.signed(negative)?));
            }
            None => return self.error("an operand"),
        };
        self.skip(word.len());
        Ok(operand)
    }

    fn mem(&mut self) -> Result<Mem> {
        let mut mem = Mem::at(Operand::None, 0);
        loop {
            if let Some(addr) = self.addr() {
                mem.addr = addr;
            } else if self.eat_word("lock") {
                mem.lock = true;
            } else if self.eat_word("stack") {
                mem.stack = true;
            } else if self.eat_word("user") {
                mem.access = Access::User;
            } else if self.eat_word("system") {
                mem.access = Access::System;
            } else if let Some(align) = self.optional_field("align")? {
                mem.align = align;
            } else if self.eat("[") {
                break;
            } else {
                return self.error("a memory operand");
            }
        }
        for (name, seg) in [("fs:", SegBase::Fs), ("gs:", SegBase::Gs)] {
            if self.eat(name) {
                mem.seg = seg;
            }
        }
        let mut first = true;
        while first || !self.eat("]") {
            let negative = self.eat("-");
            if !(first || negative) {
                self.want("+")?;
            }
            let at = self.at;
            if negative || matches!(self.peek(), Some(b'0'..=b'9')) {
                mem.disp = self.signed(negative)?;
                self.want("]")?;
                break;
            }
            let operand = self.operand()?;
            if !matches!(operand, Operand::Reg(_) | Operand::Temp(_) | Operand::Pc(_)) {
                return self.error_at(at, "a register, a temporary, pc or a number");
            }
            if self.eat("*") {
                mem.scale = self.choice("a factor (1, 2, 4, 8)", ["1", "2", "4", "8"])? as u8;
                if mem.index.is_some() {
                    return self.error_at(at, "only one index");
                }
                mem.index = operand;
            } else if first {
                mem.base = operand;
            } else {
                return self.error("`*` and the index's factor");
            }
            first = false;
        }
        Ok(mem)
    }
}

/// The register (or `_`) of that name.
fn named(word: &str) -> Option<Operand> {
    if word == "_" {
        return Some(Operand::None);
    }
    if let Some(n) = GPRS.iter().position(|name| *name == word) {
        return Some(Operand::Reg(Gpr::ALL[n]));
    }
    if let Some(n) = HIGHS.iter().position(|name| *name == word) {
        return Some(Operand::High(Gpr::ALL[n]));
    }
    let numbered = |prefix: &str| {
        word.strip_prefix(prefix)
            .and_then(|digits| digits.parse::<u8>().ok())
    };
    // `mm` before any prefix of it; "v" and "k" begin no other register's name.
    if let Some(n) = numbered("mm") {
        return Some(Operand::Mmx(n));
    }
    if let Some(n) = numbered("v") {
        return Some(Operand::Vec(n));
    }
    numbered("k").map(Operand::Mask)
}
