//! Runs random blocks before and after the passes and compares what the program could see. Tests only.
//!
//! What it could see: each access's address, width and value, and all registers and flags at every op that may fault or
//! leave. Flags that an op does not want are filled with noise where the contract allows it, differently in each run.

use x86::Gpr;

use crate::arb::{Rng, any_imm};
use crate::block::{Block, Builder, Op};
use crate::helper::{HelperId, Jump};
use crate::operand::{Cond, FlagSet, Mem, Operand, Width};
use crate::ops::OpCode;
use crate::opt::{Switches, run};
use crate::verify::verify;

/// Sticky mixing, for flags (whose exact meaning no pass looks at) and memory's contents.
fn mix(values: &[u64]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for v in values {
        hash = (hash ^ v)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23);
    }
    Rng::new(hash).next()
}

struct Machine {
    regs: [u64; 16],
    /// RFLAGS bits.
    flags: u64,
    temps: Vec<u64>,
    noise: Rng,
    /// Loads' values differ from access to access: memory is a stream.
    accesses: u64,
    seen: Vec<String>,
    /// The block was left before its end.
    left: bool,
}

impl Machine {
    fn get(&self, operand: Operand, width: Width) -> u64 {
        let value = match operand {
            Operand::Reg(g) => self.regs[g as usize],
            Operand::High(g) => self.regs[g as usize] >> 8,
            Operand::Temp(t) => self.temps[usize::from(t.0)],
            Operand::Imm(n) => n as u64,
            Operand::Pc(n) => 0x7000_1234_5678u64.wrapping_add_signed(n.into()),
            _ => 0,
        };
        value & width.mask()
    }

    fn set(&mut self, operand: Operand, width: Width, value: u64) {
        let value = value & width.mask();
        match operand {
            Operand::Reg(g) => {
                let reg = &mut self.regs[g as usize];
                *reg = if width >= Width::B32 {
                    value
                } else {
                    *reg & !width.mask() | value
                };
            }
            Operand::High(g) => {
                let reg = &mut self.regs[g as usize];
                *reg = *reg & !0xff00 | value << 8;
            }
            // No pass may look at a temporary's bits beyond those written.
            Operand::Temp(t) => {
                self.temps[usize::from(t.0)] = value | self.noise.next() & !width.mask()
            }
            _ => {}
        }
    }

    fn address(&self, mem: &Mem) -> u64 {
        let index = self.get(mem.index, Width::B64) << mem.scale;
        self.get(mem.base, Width::B64)
            .wrapping_add(index)
            .wrapping_add_signed(mem.disp.into())
            & mem.addr.mask()
    }

    fn cond(&self, cond: Cond) -> bool {
        mix(&[self.flags & cond.flags().rflags(), cond as u64]) & 1 == 0
    }

    fn write_flags(&mut self, op: &Op, values: u64, defined: FlagSet) {
        if op.flags.is_empty() {
            return;
        }
        let noise = self.noise.next();
        let wanted = op.flags.intersection(defined).rflags();
        let all = defined.rflags();
        self.flags = self.flags & !all | values & wanted | noise & all & !wanted;
    }

    fn see(&mut self, what: &str, numbers: &[u64]) {
        self.seen.push(format!(
            "{what} {numbers:x?} flags {:x} regs {:x?}",
            self.flags, self.regs
        ));
    }

    fn step(&mut self, op: &Op) {
        let w = op.width;
        let args = [op.a, op.b, op.c]
            .into_iter()
            .enumerate()
            .map(|(i, o)| self.get(o, crate::effect::arg_width(op, i)));
        let args: Vec<u64> = args.collect();
        let (a, b) = (args[0], args[1]);
        let address = op.mem.as_ref().map_or(0, |m| self.address(m));
        let sub_width = || Width::ALL[op.sub as usize];
        let sext = |v: u64, from: Width| ((v << (64 - from.bits())) as i64) >> (64 - from.bits());
        let count = b as u32 & if w == Width::B64 { 63 } else { 31 };
        let carry = self.flags & FlagSet::C.rflags();
        let result = match op.code {
            OpCode::Insn => return,
            OpCode::Mov => a,
            OpCode::Zext => a & sub_width().mask(),
            OpCode::Sext => sext(a, sub_width()) as u64,
            OpCode::Lea => address,
            OpCode::Select => {
                if self.cond(op.cond()) {
                    a
                } else {
                    b
                }
            }
            OpCode::Setcc => self.cond(op.cond()).into(),
            OpCode::Bswap => a.swap_bytes() >> (64 - w.bits()),
            OpCode::Add => a.wrapping_add(b),
            OpCode::Adc => a.wrapping_add(b).wrapping_add(carry),
            OpCode::Sub => a.wrapping_sub(b),
            OpCode::And => a & b,
            OpCode::Or => a | b,
            OpCode::Xor => a ^ b,
            OpCode::Inc => a.wrapping_add(1),
            OpCode::Dec => a.wrapping_sub(1),
            OpCode::Neg => a.wrapping_neg(),
            OpCode::Not => !a,
            OpCode::Imul => a.wrapping_mul(b),
            OpCode::Shl => a << count,
            OpCode::Shr => a >> count,
            OpCode::Sar => (sext(a, w) >> count) as u64,
            OpCode::Cmc => {
                self.write_flags(op, self.flags ^ FlagSet::C.rflags(), FlagSet::C);
                return;
            }
            OpCode::GetFlags => self.flags & u64::from(op.sub),
            OpCode::SetFlags => {
                self.write_flags(op, a, op.defines());
                return;
            }
            OpCode::MulU => {
                let product = u128::from(a) * u128::from(b);
                self.set(op.dst2, w, (product >> w.bits()) as u64);
                product as u64
            }
            OpCode::Load | OpCode::Rmw => {
                self.see("access", &[address, w as u64, a, b]);
                self.accesses += 1;
                let old = mix(&[address, self.accesses]);
                self.write_flags(op, mix(&[old & w.mask(), a, b]), op.defines());
                self.set(op.dst, w, old);
                return;
            }
            OpCode::Store => {
                self.see("store", &[address, w as u64, a]);
                return;
            }
            OpCode::Call => {
                self.see("call", &args);
                self.regs[0] = mix(&self.regs);
                self.flags = mix(&self.regs) & FlagSet::ALL.rflags();
                self.set(op.dst, w, mix(&args));
                return;
            }
            OpCode::SideExit => {
                self.left = self.cond(op.cond());
                self.see("way out", &[self.left.into(), a]);
                return;
            }
            OpCode::Expect => {
                self.left = a != b;
                self.see("way on", &[a, b]);
                return;
            }
            OpCode::Branch | OpCode::JumpTo => {
                let taken = op.code == OpCode::Branch && self.cond(op.cond());
                self.see("end", &[taken.into(), a, b]);
                return;
            }
            other => panic!("no meaning given to {other:?}"),
        };
        if !(op.code.counted() && count == 0) {
            let commutes = matches!(
                op.code,
                OpCode::Add | OpCode::And | OpCode::Or | OpCode::Xor
            );
            let (x, y) = if commutes && b < a { (b, a) } else { (a, b) };
            let values = mix(&[
                op.code as u64,
                w as u64,
                x,
                y,
                if op.code == OpCode::Adc { carry } else { 0 },
            ]);
            self.write_flags(op, values, op.defines());
        }
        self.set(op.dst, w, result);
    }
}

fn seen(block: &Block, input: u64, noise: u64) -> Vec<String> {
    let mut rng = Rng::new(input);
    let mut machine = Machine {
        regs: std::array::from_fn(|_| rng.next()),
        flags: rng.next() & FlagSet::ALL.rflags(),
        temps: vec![0; block.temps.into()],
        noise: Rng::new(noise),
        accesses: 0,
        seen: Vec::new(),
        left: false,
    };
    for op in &block.ops {
        machine.step(op);
        if machine.left {
            break;
        }
    }
    machine.seen
}

/// Makes blocks that the verifier accepts: in each instruction first what may fault, then what changes registers.
struct Maker {
    rng: Rng,
    builder: Builder,
    /// Temporaries of the current instruction and how much of them is written.
    temps: Vec<(Operand, Width)>,
}

impl Maker {
    /// Few registers, so that they meet.
    fn reg(&mut self) -> Operand {
        Operand::Reg(self.rng.pick(&Gpr::ALL[..5]))
    }

    fn source(&mut self, width: Width) -> Operand {
        let fitting: Vec<_> = self
            .temps
            .iter()
            .filter(|t| t.1 >= width)
            .map(|t| t.0)
            .collect();
        match self.rng.below(7) {
            0..=2 if !fitting.is_empty() => self.rng.pick(&fitting),
            3 => Operand::Imm(any_imm(&mut self.rng)),
            4 => Operand::Imm(self.rng.below(70) as i64),
            5 if width == Width::B8 => Operand::High(self.rng.pick(&Gpr::ALL[..4])),
            _ => self.reg(),
        }
    }

    fn mem(&mut self) -> Mem {
        let addr = self
            .rng
            .pick(&[Width::B16, Width::B32, Width::B64, Width::B64]);
        let part = |maker: &mut Self| match maker.source(addr) {
            part @ (Operand::Reg(_) | Operand::Temp(_)) => part,
            _ => Operand::None,
        };
        let (base, index) = (part(self), part(self));
        let index = if self.rng.one_in(2) {
            index
        } else {
            Operand::None
        };
        let scale = if index.is_some() {
            self.rng.below(4) as u8
        } else {
            0
        };
        let disp = if self.rng.one_in(2) {
            self.rng.below(64) as i32 - 32
        } else {
            any_imm(&mut self.rng) as i32
        };
        let base = if self.rng.one_in(20) {
            Operand::Pc(disp)
        } else {
            base
        };
        Mem {
            base,
            index,
            scale,
            addr,
            ..Mem::at(Operand::None, disp)
        }
    }

    fn width(&mut self) -> Width {
        self.rng.pick(&[
            Width::B8,
            Width::B16,
            Width::B32,
            Width::B32,
            Width::B64,
            Width::B64,
            Width::B64,
        ])
    }

    /// An op that only computes, its result going to a temporary or a register, flags wanted or not.
    fn compute(&mut self, into_temp: bool) {
        use OpCode as C;
        let codes = [
            C::Mov,
            C::Mov,
            C::Mov,
            C::Zext,
            C::Sext,
            C::Lea,
            C::Lea,
            C::Select,
            C::Setcc,
            C::Bswap,
            C::Add,
            C::Add,
            C::Adc,
            C::Sub,
            C::Sub,
            C::And,
            C::Or,
            C::Xor,
            C::Inc,
            C::Dec,
            C::Neg,
            C::Not,
            C::Imul,
            C::Shl,
            C::Shr,
            C::Sar,
            C::MulU,
            C::GetFlags,
            C::SetFlags,
            C::Cmc,
        ];
        let code = self.rng.pick(&codes);
        if into_temp && matches!(code, C::SetFlags | C::Cmc) {
            return;
        }
        let mut op = Op::new(code, self.width());
        match code {
            C::Lea | C::Bswap => op.width = op.width.max(Width::B16),
            C::Setcc => op.width = Width::B8,
            C::GetFlags | C::SetFlags | C::Cmc => op.width = Width::B64,
            _ => {}
        }
        op.sub = match code {
            C::Zext | C::Sext => self.rng.below(op.width as usize + 1) as u32,
            C::Select | C::Setcc => self.rng.below(16) as u32,
            C::GetFlags | C::SetFlags => self.rng.pick(&[0xd5, 0x8d5, 0x801]),
            _ => 0,
        };
        if code == C::Lea {
            op.mem = Some(self.mem());
        }
        if into_temp || self.rng.one_in(2) {
            op.flags = FlagSet::NONE;
        }
        let mut slots = [Operand::None; 3];
        for (i, slot) in slots.iter_mut().take(code.info().args.into()).enumerate() {
            *slot = self.source(crate::effect::arg_width(&op, i));
        }
        [op.a, op.b, op.c] = slots;
        if code.info().dsts > 0 {
            op.dst = match self.rng.below(8) {
                _ if into_temp => self.builder.temp(),
                0 if op.width == Width::B8 => Operand::High(self.rng.pick(&Gpr::ALL[..4])),
                1 => Operand::None,
                _ => self.reg(),
            };
        }
        if code.info().dsts > 1 && self.rng.one_in(2) {
            op.dst2 = self.builder.temp();
        }
        self.push(op);
    }

    fn push(&mut self, op: Op) {
        self.temps.extend(
            [op.dst, op.dst2]
                .into_iter()
                .filter(|d| d.temp().is_some())
                .map(|d| (d, op.width)),
        );
        self.builder.push(op);
    }

    fn access(&mut self) {
        let mem = self.mem();
        let width = self.width();
        let mut op = Op {
            dst: self.builder.temp(),
            mem: Some(mem),
            ..Op::new(OpCode::Load, width)
        };
        if self.rng.one_in(8) {
            op.dst = self.reg();
        }
        self.push(op);
    }

    /// An instruction that may leave the block.
    fn side_exit(&mut self, at: u32) {
        self.builder.insn(at, 1);
        self.temps.clear();
        let cond = self.rng.pick(&Cond::ALL);
        self.builder.push(Op {
            a: Operand::Pc(90),
            sub: cond as u32,
            ..Op::new(OpCode::SideExit, Width::B64)
        });
    }

    fn instruction(&mut self, at: u32) {
        self.builder.insn(at, 1);
        self.temps.clear();
        let mut committed = false;
        for _ in 0..self.rng.below(4) {
            if self.rng.one_in(3) && !committed {
                self.access();
                committed = self
                    .builder
                    .ops()
                    .last()
                    .is_some_and(|op| op.dst.temp().is_none());
            } else {
                self.compute(true);
            }
        }
        match self.rng.below(6) {
            _ if committed => {}
            0 => {
                let (mem, width) = (self.mem(), self.width());
                let a = self.source(width);
                self.builder.store(width, mem, a);
            }
            1 => {
                let (mem, width) = (self.mem(), self.width());
                let alu = self
                    .rng
                    .pick(&[OpCode::Mov, OpCode::Add, OpCode::Xor, OpCode::Shl]);
                let a = self.source(width);
                let dst = self.builder.temp();
                self.temps.push((dst, width));
                self.builder.rmw(alu, width, mem, dst, a, Operand::None);
            }
            2 if self.rng.one_in(4) => {
                let (a, b) = (self.source(Width::B64), self.source(Width::B64));
                let dst = self.builder.temp();
                self.temps.push((dst, Width::B64));
                self.builder.call(HelperId::Lar, dst, a, b, Operand::None);
            }
            _ => {}
        }
        for _ in 0..self.rng.below(4) {
            let into_temp = self.rng.one_in(3);
            self.compute(into_temp);
        }
        // What lifters end instructions with: the result goes where it belongs.
        if let Some(&(temp, width)) = self.temps.last() {
            if self.rng.one_in(2) {
                let dst = self.reg();
                self.builder.mov(width, dst, temp);
            }
        }
    }
}

fn random_block(seed: u64) -> Block {
    let mut maker = Maker {
        rng: Rng::new(seed),
        builder: Builder::new(),
        temps: Vec::new(),
    };
    let insns = 1 + maker.rng.below(8) as u32;
    for at in 0..insns {
        if maker.rng.one_in(6) {
            maker.side_exit(at);
        } else {
            maker.instruction(at);
        }
    }
    if maker.rng.one_in(2) {
        let cond = maker.rng.pick(&Cond::ALL);
        maker.builder.branch(cond, 100, insns as i32);
    } else {
        maker.builder.insn(insns, 2);
        maker.temps.clear();
        let a = maker.source(Width::B64);
        maker.builder.jump_to(Width::B64, a, Jump::Jmp);
    }
    maker.builder.finish()
}

#[test]
fn passes_keep_what_the_program_sees() {
    let passes = [
        "dead_flags",
        "const_fold",
        "merge_addr",
        "coalesce",
        "dead_code",
        "all",
    ];
    let mut changed = [0; 6];
    for seed in 0..6000 {
        let block = random_block(seed);
        verify(&block).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{block}"));
        let before = seen(&block, seed, 1);
        for (pass, changed) in passes.iter().zip(&mut changed) {
            let mut after = block.clone();
            run(&mut after, Switches::named(pass).unwrap());
            verify(&after).unwrap_or_else(|e| panic!("seed {seed} {pass}: {e}\n{block}\n{after}"));
            *changed += u32::from(after != block);
            for input in [seed, seed + 1_000_000] {
                let before = if input == seed {
                    before.clone()
                } else {
                    seen(&block, input, 1)
                };
                let after_seen = seen(&after, input, 2);
                let differs = before.iter().zip(&after_seen).find(|(b, a)| b != a);
                assert!(
                    differs.is_none() && before.len() == after_seen.len(),
                    "seed {seed} {pass}: {differs:#?}\n{block}\n{after}"
                );
            }
        }
    }
    // A pass that does nothing would pass the comparison too.
    for (pass, changed) in passes.iter().zip(changed) {
        assert!(
            changed > 300,
            "{pass} changed only {changed} of 6000 blocks"
        );
    }
}
