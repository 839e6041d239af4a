//! Blocks as text, for whoever works on the translator: IR and host code.

use std::fmt::Write;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, SymbolResolver,
    SymbolResult,
};

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
    /// Whether anything may be shown.
    pub fn on(&self) -> bool {
        self.ir || self.asm
    }

    /// Whether the block of `len` bytes at `lin` is to be shown.
    pub fn wants(&self, lin: u64, len: u64) -> bool {
        self.on() && self.filter.is_none_or(|at| at.wrapping_sub(lin) < len)
    }

    /// A block as text; its hot and its cold code with their addresses.
    pub fn block(
        &self,
        lin: u64,
        flags: Option<Desc>,
        ir: &ir::Block,
        hot: (u64, &[u8]),
        cold: (u64, &[u8]),
        names: &Names,
    ) -> String {
        let mut text = head(lin, flags);
        text.push('\n');
        // Writing to a string does not fail.
        if self.ir {
            let _ = writeln!(text, "{ir}");
        }
        if self.asm {
            text.push_str(&code(hot, cold, names));
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
pub fn code(hot: (u64, &[u8]), cold: (u64, &[u8]), names: &Names) -> String {
    let mut text = String::new();
    for (name, (at, bytes)) in [("hot", hot), ("cold", cold)] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name}, {} bytes:", bytes.len());
        for (address, line) in lines(at, bytes, names) {
            let _ = writeln!(text, "    {address:x}  {line}");
        }
    }
    text
}

/// Host instructions with their addresses.
pub fn lines(at: u64, bytes: &[u8], names: &Names) -> Vec<(u64, String)> {
    let mut formatter = IntelFormatter::with_options(Some(Box::new(names.clone())), None);
    Decoder::with_ip(64, bytes, at, DecoderOptions::NONE)
        .into_iter()
        .map(|instruction| {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            (instruction.ip(), line)
        })
        .collect()
}

/// What branches lead to: stubs, and parts of the code that are named.
#[derive(Clone, Default)]
pub struct Names {
    /// Name and address.
    pub stubs: Vec<(&'static str, u64)>,
    /// Name, address and length: what lies in one is told by its distance from the start.
    pub parts: Vec<(&'static str, u64, u64)>,
}

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _: u32,
        _: Option<u32>,
        address: u64,
        _: u32,
    ) -> Option<SymbolResult<'_>> {
        if instruction.flow_control() == FlowControl::Next {
            return None;
        }
        let stub = self.stubs.iter().find(|(_, at)| *at == address);
        let name = match stub {
            Some((name, _)) => format!("doppel:{name}"),
            None => {
                let inside = |(_, at, len): &&(_, u64, u64)| address.wrapping_sub(*at) < *len;
                let (name, at, _) = self.parts.iter().find(inside)?;
                format!("{name}+{:x}", address - at)
            }
        };
        Some(SymbolResult::with_string(address, name))
    }
}

#[cfg(test)]
mod tests {
    use super::{Dump, Names};

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
            (0x8000, &[0xe8, 0xfb, 0x0f, 0, 0, 0xeb, 0xf9]),
            &Names {
                stubs: vec![("read", 0x9000)],
                parts: vec![("cold", 0x8000, 7)],
            },
        );
        for line in [
            "7000  nop\n",
            "8000  call doppel:read\n",
            "8005  jmp short cold+0\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
