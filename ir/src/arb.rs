//! Random blocks made from the table, for tests: all that the text form can say, sense or not.

use iced_x86::Code;
use x86::Gpr;

use crate::block::{Block, Builder, Op};
use crate::helper::{Exit, HelperId, Hint, Jump, Rep, StringKind, StringOp};
use crate::operand::{Access, FlagSet, Mem, Operand, SegBase, Temp, VecTemp, Width};
use crate::ops::{MemUse, OpCode, Sub};

/// SplitMix64: small, seeded, good enough for tests.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A number of a random size, often at an edge.
pub(crate) fn any_imm(rng: &mut Rng) -> i64 {
    match rng.below(6) {
        0 => rng.pick(&[0, 1, -1, i64::MIN, i64::MAX, 9, 10, -10]),
        _ => rng.next() as i64 >> rng.below(64),
    }
}

fn any_operand(rng: &mut Rng) -> Operand {
    match rng.below(10) {
        0 => Operand::None,
        1 | 2 => Operand::Reg(rng.pick(&Gpr::ALL)),
        3 => Operand::High(rng.pick(&Gpr::ALL[..4])),
        4 => Operand::Temp(Temp(rng.next() as u16)),
        5 => Operand::Imm(any_imm(rng)),
        6 => Operand::Pc(any_imm(rng) as i32),
        7 => Operand::VecTemp(VecTemp(rng.below(9) as u16)),
        8 => Operand::Vec(rng.below(32) as u8),
        _ => rng.pick(&[Operand::Mmx(rng_low(rng.0)), Operand::Mask(rng_low(rng.0))]),
    }
}

fn rng_low(n: u64) -> u8 {
    (n & 7) as u8
}

fn any_mem(rng: &mut Rng) -> Mem {
    let parts = [
        Operand::Reg(rng.pick(&Gpr::ALL)),
        Operand::Temp(Temp(rng.below(100) as u16)),
        Operand::None,
    ];
    let index = rng.pick(&parts);
    Mem {
        seg: rng.pick(&[SegBase::None, SegBase::Fs, SegBase::Gs]),
        base: if rng.one_in(8) {
            Operand::Pc(any_imm(rng) as i32)
        } else {
            rng.pick(&parts)
        },
        index,
        scale: if index.is_some() {
            rng.below(4) as u8
        } else {
            0
        },
        disp: if rng.one_in(3) {
            0
        } else {
            any_imm(rng) as i32
        },
        addr: rng.pick(&[Width::B16, Width::B32, Width::B64]),
        stack: rng.one_in(4),
        align: 1 << rng.below(7),
        lock: rng.one_in(4),
        access: rng.pick(&[Access::Data, Access::User, Access::System]),
    }
}

fn any_sub(rng: &mut Rng, kind: Sub) -> u32 {
    let below = match kind {
        Sub::None => 1,
        Sub::Cond => 16,
        Sub::Width => 4,
        Sub::Alu => OpCode::ALL.len(),
        Sub::Helper => HelperId::ALL.len(),
        Sub::Code => Code::values().len(),
        Sub::Seg => 6,
        Sub::Exit => Exit::ALL.len(),
        Sub::Jump => Jump::ALL.len(),
        Sub::Hint => Hint::ALL.len(),
        Sub::String => {
            let op = StringOp {
                kind: rng.pick(StringKind::ALL),
                rep: rng.pick(Rep::ALL),
                width: rng.pick(&Width::ALL),
                addr: rng.pick(&[Width::B16, Width::B32, Width::B64]),
                seg: rng.below(6) as u8,
                len: rng.below(16) as u8,
            };
            return op.encode();
        }
        Sub::Number => return (rng.next() as u32) >> rng.below(32),
    };
    rng.below(below) as u32
}

fn any_op(rng: &mut Rng, code: OpCode) -> Op {
    let info = code.info();
    let mut op = Op {
        sub: any_sub(rng, info.sub),
        flags: info.defines.intersection(FlagSet::from_rflags(rng.next())),
        ..Op::new(code, rng.pick(&Width::ALL))
    };
    for (slot, dst) in [&mut op.dst, &mut op.dst2]
        .into_iter()
        .take(info.dsts.into())
        .enumerate()
    {
        if slot == 0 || rng.one_in(2) {
            *dst = any_operand(rng);
        }
    }
    for arg in [&mut op.a, &mut op.b, &mut op.c]
        .into_iter()
        .take(info.args.into())
    {
        *arg = any_operand(rng);
    }
    if info.mem != MemUse::None {
        op.mem = Some(any_mem(rng));
    }
    op
}

/// A block of any ops with any operands that their rows have room for.
pub(crate) fn any_block(rng: &mut Rng) -> Block {
    let mut builder = Builder::new();
    for i in 0..rng.below(6) as u32 {
        builder.insn(i * 5, rng.below(6) as u32);
        for _ in 0..rng.below(6) {
            let code = rng.pick(&OpCode::ALL[1..]);
            let op = any_op(rng, code);
            builder.push(op);
        }
    }
    let mut block = builder.finish();
    block.temps = rng.next() as u16;
    block.vec_temps = rng.below(10) as u16;
    if rng.one_in(8) {
        block.len = rng.next() as u32;
        block.insns = rng.next() as u32;
    }
    block
}
