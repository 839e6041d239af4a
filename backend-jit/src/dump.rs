//! Blocks as text, for whoever works on the translator: IR and host code.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use crate::x64::flags::Desc;

/// What of which blocks is shown on stderr when they are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// The optimised IR.
    pub ir: bool,
    /// The host code, hot and cold.
    pub asm: bool,
    /// Only blocks that hold the instruction at this linear address.
    pub filter: Option<u64>,
}

impl Dump {
    /// Whether the block of `len` bytes at `lin` is to be shown.
    pub fn wants(&self, lin: u64, len: u64) -> bool {
        (self.ir || self.asm) && self.filter.is_none_or(|at| at.wrapping_sub(lin) < len)
    }

    /// A block as text; its hot and its cold code with their addresses.
    pub fn block(
        &self,
        lin: u64,
        flags: Option<Desc>,
        ir: &ir::Block,
        hot: (u64, &[u8]),
        cold: (u64, &[u8]),
    ) -> String {
        let mut text = head(lin, flags);
        text.push('\n');
        // Writing to a string does not fail.
        if self.ir {
            let _ = writeln!(text, "{ir}");
        }
        if self.asm {
            text.push_str(&code(hot, cold));
        }
        text
    }
}

/// What a block's text begins with.
pub fn head(lin: u64, flags: Option<Desc>) -> String {
    match flags {
        Some(desc) => format!("block {lin:#x}, flags by {desc:?}"),
        None => format!("block {lin:#x}"),
    }
}

/// A block's hot and cold code, with their addresses.
pub fn code(hot: (u64, &[u8]), cold: (u64, &[u8])) -> String {
    let mut text = String::new();
    for (name, (at, bytes)) in [("hot", hot), ("cold", cold)] {
        let _ = writeln!(text, "  {name}, {} bytes:", bytes.len());
        listing(&mut text, at, bytes);
    }
    text
}

fn listing(text: &mut String, at: u64, bytes: &[u8]) {
    let mut formatter = IntelFormatter::new();
    let mut line = String::new();
    for instruction in Decoder::with_ip(64, bytes, at, DecoderOptions::NONE) {
        line.clear();
        formatter.format(&instruction, &mut line);
        let _ = writeln!(text, "    {:x}  {line}", instruction.ip());
    }
}

#[cfg(test)]
mod tests {
    use super::Dump;

    #[test]
    fn the_filter_asks_for_the_block_around_an_address() {
        let dump = Dump {
            asm: true,
            filter: Some(0x1008),
            ..Dump::default()
        };
        assert!(dump.wants(0x1000, 9) && !dump.wants(0x1000, 8) && !dump.wants(0x1009, 50));
        assert!(!Dump::default().wants(0x1000, 9));
    }

    #[test]
    fn code_is_listed_with_its_addresses() {
        let dump = Dump {
            asm: true,
            ..Dump::default()
        };
        let text = dump.block(
            0x1000,
            None,
            &ir::Block::default(),
            (0x7000, &[0x90]),
            (0x8000, &[0xc3]),
        );
        assert!(
            text.contains("7000  nop") && text.contains("8000  ret"),
            "{text}"
        );
    }
}
