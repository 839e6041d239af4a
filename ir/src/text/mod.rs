//! The text form of a block: what `--dump ir` shows and what tests are written in. It round-trips everything.
//!
//! ```text
//! block temps=3 vtemps=1
//!   insn +0 len=4
//!   %0 = load.64 [rbx+rcx*4+0x10]
//!   rax = add.64 rax, %0 {oszapc}
//!   insn +4 len=5
//!   %1 = rmw.64 add lock [fs:rbx], rcx {oszapc}
//!   rcx = mov.64 %1
//!   insn +9 len=2
//!   branch e pc+23, pc+11
//! ```
//!
//! The grammar, one op a line, `;` begins a comment, blank lines mean nothing:
//!
//! ```text
//! block   := "block" "temps=" N "vtemps=" N ["len=" N] ["insns=" N]   then op lines
//! op      := [dst ["," dst2] "="] NAME ["." bits] [sub] [mem] [a ["," b ["," c]]] ["{" flags "}"]
//! bits    := 8 | 16 | 32 | 64           left out where it is always the same (call, jump, setcc, ...)
//! sub     := by the op's row: a condition (e), "from." bits, an op (add), a helper (cpuid), an iced Code
//!            (Addps_xmm_xmmm128), a segment (ds), next | helper, jmp | call | ret, "#" N, or for `string`
//!            [rep | repne] KIND "." bits ["a16" | "a32"] segment "len=" N
//! mem     := { "lock" | "stack" | "user" | "system" | "a16" | "a32" | "align=" N }
//!            "[" ["fs:" | "gs:"] [base] ["+" index "*" factor] [("+" | "-") N] "]"   followed by "," when operands follow
//! operand := rax..r15 (the low part that the width says) | ah ch dh bh | %N | [-]N | pc±N | vN | mmN | kN | %vN | _ (none)
//! flags   := letters of oszapc: the flags that are wanted; left out when none is
//! insn    := "insn" "+" N "len=" N
//! ```
//!
//! Numbers are decimal or 0x hexadecimal. `len` and `insns` of the block line stand there only where they differ from
//! what the `insn` lines say.

mod parse;
mod print;

pub use parse::{ParseError, parse};

use crate::block::Op;
use crate::helper::StringOp;
use crate::operand::{Cond, Width};
use crate::ops::OpCode;
use x86::Seg;

/// Names of the general registers, by encoding.
const GPRS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Names of bits 15:8 of the first four.
const HIGHS: [&str; 4] = ["ah", "ch", "dh", "bh"];

/// Names of the segment registers, by encoding.
const SEGS: [(&str, Seg); 6] = [
    ("es", Seg::Es),
    ("cs", Seg::Cs),
    ("ss", Seg::Ss),
    ("ds", Seg::Ds),
    ("fs", Seg::Fs),
    ("gs", Seg::Gs),
];

/// Names of the conditions, by encoding.
const CONDS: [&str; 16] = [
    "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g",
];

const _: () = assert!(CONDS.len() == Cond::ALL.len());

/// The width that an op has when the text gives none; `None` where it must be given.
fn natural_width(code: OpCode, sub: u32) -> Option<Width> {
    use OpCode as C;
    match code {
        C::Setcc => Some(Width::B8),
        C::String => StringOp::decode(sub).map(|s| s.width),
        C::Insn
        | C::GetFlags
        | C::SetFlags
        | C::SetDf
        | C::Cmc
        | C::VecLoad
        | C::VecStore
        | C::Vec
        | C::X87
        | C::Call
        | C::Raise
        | C::Fence
        | C::Prefetch
        | C::Jump
        | C::Branch
        | C::SideExit
        | C::Exit => Some(Width::B64),
        _ => None,
    }
}

/// The arguments that the text of this op may have: its row's.
fn max_args(op: &Op) -> usize {
    usize::from(op.code.info().args)
}

/// Fuzz target: any bytes parse or fail without a panic, and what parses prints to something that parses to the same.
///
/// # Panics
/// When the round trip fails, which is a bug of this module.
pub fn fuzz_parse(data: &[u8]) {
    let Ok(block) = parse(&String::from_utf8_lossy(data)) else {
        return;
    };
    let printed = block.to_string();
    match parse(&printed) {
        Ok(again) => assert_eq!(again, block, "{printed}"),
        Err(e) => panic!("{e}\n{printed}"),
    }
    // The verifier sees hostile blocks nowhere else; its verdict is of no interest.
    let _ = crate::verify::verify(&block);
}

#[cfg(test)]
mod tests {
    use super::{fuzz_parse, parse};
    use crate::arb::{Rng, any_block};

    #[test]
    fn random_blocks_round_trip() {
        let mut rng = Rng::new(0x7e87);
        for round in 0..2000 {
            let block = any_block(&mut rng);
            let text = block.to_string();
            match parse(&text) {
                Ok(again) => assert_eq!(again, block, "round {round}:\n{text}"),
                Err(e) => panic!("round {round}: {e}\n{text}"),
            }
        }
    }

    #[test]
    fn the_example_is_canonical() {
        let text = "\
block temps=3 vtemps=1
  insn +0 len=4
  %0 = load.64 [rbx+rcx*4+0x10]
  rax = add.64 rax, %0 {oszapc}
  insn +4 len=5
  %1 = rmw.64 add lock [fs:rbx], rcx {oszapc}
  rcx = mov.64 %1
  insn +9 len=2
  %2 = seglin.32 ds ecx, 4, 1
  %v0 = vecload stack align=16 [pc+100-8], 0x10
  v1 = vec Addps_xmm_xmmm128 v1, %v0
  string repne scas.16 a32 ds len=3 {z}
  ah = setcc ne
  raise #13 0
  branch e pc+23, pc+11
"
        .replace("ecx", "rcx");
        let block = parse(&text).unwrap();
        assert_eq!(block.to_string(), text);
        assert_eq!(
            (block.len, block.insns, block.temps, block.vec_temps),
            (11, 3, 3, 1)
        );
    }

    #[test]
    fn errors_say_where_and_what() {
        let cases = [
            ("blok", "1:1: expected `block`, found `blok`"),
            (
                "block temps=1 vtemps=0\n  frob.8 rax",
                "2:3: expected an op's name, found `frob`",
            ),
            (
                "block temps=1 vtemps=0\n  rax = add rax, 1",
                "2:12: expected a width (add.8, .16, .32, .64)",
            ),
            (
                "block temps=1 vtemps=0\n  rax = add.7 rax, 1",
                "2:13: expected a width (8, 16, 32, 64), found `7`",
            ),
            (
                "block temps=1 vtemps=0\n  rax = add.8 rax, eax",
                "2:20: expected an operand, found `eax`",
            ),
            (
                "block temps=1 vtemps=0\n  rax = not.8 rax, 1",
                "2:20: expected the end of the line: the op has no more operands, found `1`",
            ),
            (
                "block temps=1 vtemps=0\n  rax = load.8 rax",
                "2:16: expected a memory operand, found `rax`",
            ),
            (
                "block temps=1 vtemps=0\n  rax = setcc zz",
                "2:15: expected a condition, found `zz`",
            ),
            (
                "block temps=1 vtemps=0\n  call frob",
                "2:8: expected a helper, found `frob`",
            ),
            (
                "block temps=1 vtemps=0\n  rax, rcx = mov.8 1",
                "2:3: expected at most 1 results of mov, found `rax`",
            ),
            (
                "block temps=1 vtemps=0\n  rax = add.8 rax, 1 {q}",
                "2:23: expected flags",
            ),
            (
                "block temps=1 vtemps=0\n  rax = mov.8 0x10000000000000000",
                "2:15: expected a number of 64 bits",
            ),
            (
                "block temps=70000 vtemps=0",
                "1:13: expected a number up to 65535",
            ),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(expected),
                "{text:?}\n  gave {error}\n  not  {expected}"
            );
        }
    }

    /// Bytes of a real text with some changed, doubled or dropped: deeper than noise gets.
    #[test]
    fn damaged_text_never_panics() {
        let mut rng = Rng::new(0xf422);
        for _ in 0..3000 {
            let mut bytes = any_block(&mut rng).to_string().into_bytes();
            for _ in 0..=rng.below(6) {
                let at = rng.below(bytes.len());
                match rng.below(4) {
                    0 => bytes[at] = rng.next() as u8,
                    1 => bytes[at] = b"[]{}+-*%,.=#:x0 \n;_"[rng.below(19)],
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, bytes[rng.below(bytes.len())]),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            fuzz_parse(&bytes);
        }
        for len in 0..200 {
            let noise: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
            fuzz_parse(&noise);
        }
    }
}
