//! Cases as lines of JSON, and answers.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use x86::{Segment, Shadow, TableReg};

use super::case::{Case, Event, Outcome};
use super::register::{Register, Value};
use super::run::Exec;
use super::start::expectation;

/// The members of an object, as they were written.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A string, borrowed from the input where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// What is wrong, and the case's id if that could be read.
struct Refusal<'a> {
    id: Option<&'a RawValue>,
    error: String,
}

/// A line's id and case.
fn parse(line: &[u8]) -> Result<(Option<&RawValue>, Case), Refusal<'_>> {
    let refuse = |error: String| Refusal { id: None, error };
    let text = std::str::from_utf8(line)
        .map_err(|e| refuse(format!("not UTF-8 from byte {} on", e.valid_up_to())))?;
    let Object(members) =
        serde_json::from_str(text).map_err(|e| refuse(format!("not a JSON object: {e}")))?;
    let id = members
        .iter()
        .find(|(key, _)| key == "id")
        .map(|(_, value)| *value);
    match case(&members) {
        Ok(case) => Ok((id, case)),
        Err(error) => Err(Refusal { id, error }),
    }
}

fn case(members: &[(Cow<'_, str>, &RawValue)]) -> Result<Case, String> {
    let mut case = Case::new();
    for (n, (key, value)) in members.iter().enumerate() {
        if members[..n].iter().any(|(other, _)| other == key) {
            return Err(format!("{key} is there twice"));
        }
        match key.as_ref() {
            "id" => {}
            "regs" => case.regs = registers(value)?,
            "mem" => case.mem = memory(value)?,
            "ram" => case.ram = number(value).ok_or_else(|| wrong_number("ram"))?,
            "steps" => case.steps = number(value).ok_or_else(|| wrong_number("steps"))?,
            "deliver" => {
                case.deliver = match value.get() {
                    "true" => true,
                    "false" => false,
                    _ => return Err("deliver must be true or false".to_owned()),
                }
            }
            _ => {
                return Err(format!(
                    "there is no key {key:?}; there are id, regs, mem, ram, steps and deliver"
                ));
            }
        }
    }
    Ok(case)
}

fn wrong_number(name: &str) -> String {
    format!("{name} must be a number from 0 to 2^64-1 or \"0x...\"")
}

/// An integer from 0 to 2^64-1, or the same as "0x...".
fn number(value: &RawValue) -> Option<u64> {
    let text = value.get();
    if text.starts_with('"') {
        return hex_number(&string(value)?);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

fn hex_number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Name<'_>>(value.get())
        .ok()
        .map(|name| name.0)
}

/// Bytes from lower-case hex.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

fn memory(value: &RawValue) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let list: Vec<&RawValue> = serde_json::from_str(value.get())
        .map_err(|_| "mem must be [[address, bytes], ...]".to_owned())?;
    list.into_iter()
        .enumerate()
        .map(|(n, part)| {
            let wrong = || {
                format!(
                    "mem[{n}] must be [address, bytes]: a number and a string of lower-case hex"
                )
            };
            let (at, data): (&RawValue, &RawValue) =
                serde_json::from_str(part.get()).map_err(|_| wrong())?;
            let data = string(data)
                .and_then(|text| bytes(&text))
                .ok_or_else(wrong)?;
            Ok((number(at).ok_or_else(wrong)?, data))
        })
        .collect()
}

fn registers(value: &RawValue) -> Result<Vec<(Register, Value)>, String> {
    let Object(members) =
        serde_json::from_str(value.get()).map_err(|_| "regs must be an object".to_owned())?;
    members
        .into_iter()
        .map(|(name, value)| {
            let register: Register = name
                .parse()
                .map_err(|_| format!("there is no register {name:?}"))?;
            let value = register_value(register, value).ok_or_else(|| expectation(register))?;
            Ok((register, value))
        })
        .collect()
}

fn register_value(register: Register, value: &RawValue) -> Option<Value> {
    match register {
        Register::Gdtr | Register::Idtr => {
            let [base, limit] = members(value, ["base", "limit"])?;
            Some(Value::Table(TableReg {
                base,
                limit: u16::try_from(limit).ok()?,
            }))
        }
        Register::Ldtr | Register::Tr => segment(value),
        Register::Seg(_) if value.get().starts_with('{') => segment(value),
        Register::Shadow => Some(Value::Shadow(match string(value)?.as_ref() {
            "none" => Shadow::None,
            "sti" => Shadow::Sti,
            "movss" => Shadow::MovSs,
            _ => return None,
        })),
        _ if register.bytes().is_some() => {
            let data = bytes(&string(value)?)?;
            (register.bytes() == Some(data.len())).then_some(Value::Bytes(data))
        }
        _ => number(value).map(Value::Number),
    }
}

fn segment(value: &RawValue) -> Option<Value> {
    let [selector, base, limit, attr] = members(value, ["sel", "base", "limit", "attr"])?;
    Some(Value::Segment(Segment {
        base,
        limit: u32::try_from(limit).ok()?,
        attr: u32::try_from(attr).ok()?,
        selector: u16::try_from(selector).ok()?,
    }))
}

/// The numbers in an object that has exactly these members.
fn members<const N: usize>(value: &RawValue, names: [&str; N]) -> Option<[u64; N]> {
    let Object(members) = serde_json::from_str(value.get()).ok()?;
    if members.len() != N {
        return None;
    }
    let mut numbers = [0; N];
    for (name, place) in names.into_iter().zip(&mut numbers) {
        *place = number(members.iter().find(|(key, _)| key == name)?.1)?;
    }
    Some(numbers)
}

impl Exec {
    /// Runs the case on a line of JSON and appends the answer, without a line's end. Never fails: what is wrong with
    /// the line is the answer then.
    pub fn answer(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut text = String::new();
        match parse(line) {
            Err(refusal) => write_error(&mut text, refusal.id, &refusal.error),
            Ok((id, case)) => match self.run(&case) {
                Ok(outcome) => write_outcome(&mut text, id, &outcome),
                Err(error) => write_error(&mut text, id, &error.to_string()),
            },
        }
        out.extend_from_slice(text.as_bytes());
    }
}

fn write_error(out: &mut String, id: Option<&RawValue>, error: &str) {
    let quoted = serde_json::Value::from(error);
    put(
        out,
        format_args!("{{\"id\":{},\"error\":{quoted}}}", id_text(id)),
    );
}

fn id_text(id: Option<&RawValue>) -> &str {
    id.map_or("null", RawValue::get)
}

/// Writing to a string does not fail.
fn put(out: &mut String, text: fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok());
}

fn write_outcome(out: &mut String, id: Option<&RawValue>, outcome: &Outcome) {
    put(out, format_args!("{{\"id\":{},\"regs\":{{", id_text(id)));
    for (n, (register, value)) in outcome.regs.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        put(out, format_args!("{comma}\"{register}\":"));
        write_value(out, value);
    }
    out.push_str("},\"mem\":[");
    for (n, (at, bytes)) in outcome.mem.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        put(out, format_args!("{comma}[{at},"));
        write_bytes(out, bytes);
        out.push(']');
    }
    put(
        out,
        format_args!(
            "],\"retired\":{},\"exit\":\"{}\",\"exception\":",
            outcome.retired,
            outcome.end.name()
        ),
    );
    match &outcome.exception {
        Some(event) => write_event(out, event),
        None => out.push_str("null"),
    }
    out.push_str(",\"delivered\":[");
    for (n, event) in outcome.delivered.iter().enumerate() {
        if n != 0 {
            out.push(',');
        }
        write_event(out, event);
    }
    out.push_str("]}");
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Number(n) => put(out, format_args!("{n}")),
        Value::Bytes(bytes) => write_bytes(out, bytes),
        Value::Segment(s) => {
            let Segment {
                base,
                limit,
                attr,
                selector,
            } = s;
            put(
                out,
                format_args!(
                    "{{\"sel\":{selector},\"base\":{base},\"limit\":{limit},\"attr\":{attr}}}"
                ),
            );
        }
        Value::Table(TableReg { base, limit }) => {
            put(out, format_args!("{{\"base\":{base},\"limit\":{limit}}}"))
        }
        Value::Shadow(shadow) => out.push_str(match shadow {
            Shadow::None => "\"none\"",
            Shadow::Sti => "\"sti\"",
            Shadow::MovSs => "\"movss\"",
        }),
    }
}

fn write_bytes(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out.push('"');
}

fn write_event(out: &mut String, event: &Event) {
    let Event {
        vector,
        error,
        cr2,
        soft,
    } = event;
    put(out, format_args!("{{\"vector\":{vector},\"error\":"));
    match error {
        Some(error) => put(out, format_args!("{error}")),
        None => out.push_str("null"),
    }
    out.push_str(",\"cr2\":");
    match cr2 {
        Some(cr2) => put(out, format_args!("{cr2}")),
        None => out.push_str("null"),
    }
    put(out, format_args!(",\"soft\":{soft}}}"));
}

#[cfg(test)]
mod tests {
    use super::{bytes, hex_number};

    #[test]
    fn hex() {
        assert_eq!(bytes("00ff1a"), Some(vec![0, 255, 0x1a]));
        assert_eq!(bytes(""), Some(vec![]));
        for bad in ["0", "0g", "AB", "0x", " 1", "é"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!(hex_number("0xFFFFffffFFFFffff"), Some(u64::MAX));
        assert_eq!(hex_number("0x00000000000000000001"), Some(1));
        for bad in [
            "0x",
            "0x+1",
            "1",
            "0X1",
            "0x1_0",
            "0x10000000000000000",
            "-0x1",
            "",
        ] {
            assert_eq!(hex_number(bad), None, "{bad}");
        }
    }
}
