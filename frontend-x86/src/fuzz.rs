//! Fuzzing entry: any bytes as code, in any mode.

use ir::Block;

use crate::{End, Features, Limits, Mode, ModeParts, lift};

/// Lifts the bytes after the first eight, which choose the mode and the limits; panics when a rule is broken. Returns
/// the block, so that callers can check more of it.
pub fn fuzz(bytes: &[u8]) -> Block {
    let Some((head, code)) = bytes.split_at_checked(8) else {
        return Block::default();
    };
    let pick = |n: usize, bit: u32| head[n] >> bit & 1 != 0;
    let base = match head[0] & 3 {
        0 => Mode::real16(),
        1 => Mode::flat32(),
        2 => Mode::long64(),
        _ => Mode::real16().with(|p| (p.protected, p.vm86, p.cpl) = (true, true, 3)),
    };
    let mode = base.with(|p: &mut ModeParts| {
        if p.protected && !p.vm86 {
            p.cpl = head[0] >> 2 & 3;
        }
        p.em = pick(1, 0);
        p.ts = pick(1, 1);
        p.mp = pick(1, 2);
        p.osfxsr = !pick(1, 3);
        p.osxsave = !pick(1, 4);
        p.fsgsbase = !pick(1, 5);
        p.pke = !pick(1, 6);
        p.avx = p.osxsave && !pick(1, 7);
        if p.code != crate::CodeSize::B64 {
            p.flat_cs ^= pick(2, 0);
            p.flat_ss ^= pick(2, 1);
            p.flat_ds ^= pick(2, 2);
            p.flat_es ^= pick(2, 3);
            p.cs_limit = [
                crate::CsLimit::Small,
                crate::CsLimit::Word,
                crate::CsLimit::Full,
            ][usize::from(head[3] % 3)];
            if pick(2, 4) {
                p.stack = if p.stack == ir::Width::B32 {
                    ir::Width::B16
                } else {
                    ir::Width::B32
                };
            }
        }
    });
    let limits = Limits {
        max_insns: u32::from(head[4]),
        page: u32::from(u16::from_le_bytes([head[5], head[6]])),
        branches: u32::from(head[3] >> 2),
    };
    let lifted = lift(code, &limits, mode, &Features::v3_plus());
    if matches!(lifted.end, End::FetchFault(_)) {
        assert!(lifted.block.ops.is_empty());
        return lifted.block;
    }
    if let Err(error) = ir::verify::verify(&lifted.block) {
        panic!("{mode:?}\n{}\n{error}", lifted.block);
    }
    let text = lifted.block.to_string();
    match ir::text::parse(&text) {
        Ok(again) => assert_eq!(again, lifted.block, "{text}"),
        Err(error) => panic!("{text}\n{error:?}"),
    }
    assert!(lifted.block.insns <= limits.max_insns.max(1));
    let ways_out = lifted.block.ops.iter();
    let ways_out = ways_out.filter(|op| op.code == ir::OpCode::SideExit);
    assert!(ways_out.count() <= limits.branches as usize);
    lifted.block
}
