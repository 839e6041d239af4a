//! Chooses the handler of one op by its operation, width and operand forms.

use ir::{Exit as IrExit, FlagSet, HelperId, Masked, Op, OpCode, Operand, VecInsn, Width};
use system::{FlagOp, offset};

use super::Lower;
use crate::code::{Handler, LOp};
use crate::handlers::memory::{self, by_address};
use crate::handlers::system::VecOp;
use crate::handlers::{alu, bits, branch, shift, system as sys};

/// Expands an expression once per width, with the integer type under a name.
macro_rules! by_width {
    ($width:expr, |$t:ident| $e:expr) => {
        match $width {
            ir::Width::B8 => {
                type $t = u8;
                $e
            }
            ir::Width::B16 => {
                type $t = u16;
                $e
            }
            ir::Width::B32 => {
                type $t = u32;
                $e
            }
            ir::Width::B64 => {
                type $t = u64;
                $e
            }
        }
    };
}

/// Expands an expression once per two-operand operation.
macro_rules! by_alu {
    ($code:expr, |$k:ident| $e:expr) => {
        match $code {
            ir::OpCode::Add => {
                type $k = $crate::handlers::alu::Add;
                Some($e)
            }
            ir::OpCode::Adc => {
                type $k = $crate::handlers::alu::Adc;
                Some($e)
            }
            ir::OpCode::Sub => {
                type $k = $crate::handlers::alu::Sub;
                Some($e)
            }
            ir::OpCode::Sbb => {
                type $k = $crate::handlers::alu::Sbb;
                Some($e)
            }
            ir::OpCode::And => {
                type $k = $crate::handlers::alu::And;
                Some($e)
            }
            ir::OpCode::Or => {
                type $k = $crate::handlers::alu::Or;
                Some($e)
            }
            ir::OpCode::Xor => {
                type $k = $crate::handlers::alu::Xor;
                Some($e)
            }
            _ => None,
        }
    };
}

/// Expands an expression once per condition.
macro_rules! by_cond {
    ($cond:expr, |$cc:ident| $e:expr) => {
        match $cond as u8 & 15 {
            0 => {
                const $cc: u8 = 0;
                $e
            }
            1 => {
                const $cc: u8 = 1;
                $e
            }
            2 => {
                const $cc: u8 = 2;
                $e
            }
            3 => {
                const $cc: u8 = 3;
                $e
            }
            4 => {
                const $cc: u8 = 4;
                $e
            }
            5 => {
                const $cc: u8 = 5;
                $e
            }
            6 => {
                const $cc: u8 = 6;
                $e
            }
            7 => {
                const $cc: u8 = 7;
                $e
            }
            8 => {
                const $cc: u8 = 8;
                $e
            }
            9 => {
                const $cc: u8 = 9;
                $e
            }
            10 => {
                const $cc: u8 = 10;
                $e
            }
            11 => {
                const $cc: u8 = 11;
                $e
            }
            12 => {
                const $cc: u8 = 12;
                $e
            }
            13 => {
                const $cc: u8 = 13;
                $e
            }
            14 => {
                const $cc: u8 = 14;
                $e
            }
            _ => {
                const $cc: u8 = 15;
                $e
            }
        }
    };
}

/// One of two handlers by a flag.
macro_rules! by_flag {
    ($wanted:expr, |$f:ident| $e:expr) => {
        if $wanted {
            const $f: bool = true;
            $e
        } else {
            const $f: bool = false;
            $e
        }
    };
}

pub(super) use {by_alu, by_cond, by_flag, by_width};

impl Lower<'_> {
    /// Lowers the op at `at` (and those that fuse with it). Returns how many IR ops that were.
    pub(super) fn op(&mut self, at: usize) -> Option<usize> {
        let op = &self.ops[at];
        if op.code == OpCode::Insn {
            self.insn(op);
            return Some(1);
        }
        if let Some(taken) = self.x87_memory(at).or_else(|| self.vec_with_memory(at)) {
            return Some(taken);
        }
        if let Some(taken) = self.fused(at) {
            return Some(taken);
        }
        let before = self.flags;
        self.flags = None;
        self.single_op(at, op)?;
        self.flags = match branch::static_flags(op.code) {
            Some(left) if !op.flags.is_empty() => Some((left, op.width)),
            _ if op.defines().is_empty() || op.flags.is_empty() && !op.code.info().effect => before,
            _ => None,
        };
        Some(1)
    }

    pub(super) fn single_op(&mut self, at: usize, op: &Op) -> Option<()> {
        let w = op.width;
        let wanted = !op.flags.is_empty();
        match op.code {
            OpCode::Insn => {}
            OpCode::Mov => self.mov(at, w, op.dst, op.a)?,
            OpCode::Zext | OpCode::Sext => self.extend(at, op)?,
            OpCode::Lea => self.lea(at, op)?,
            OpCode::Select => {
                let (a, b, d) = (
                    self.field(at, op.a)?,
                    self.field(at, op.b)?,
                    self.dest(at, op.dst)?,
                );
                let run: Handler = by_cond!(op.sub, |CC| by_width!(w, |T| bits::select::<T, CC>
                    as Handler));
                self.push(LOp {
                    run,
                    a,
                    b,
                    d,
                    ..self.blank()
                });
            }
            OpCode::Setcc => {
                let d = self.dest(at, op.dst)?;
                let run: Handler = by_cond!(op.sub, |CC| bits::setcc::<CC>);
                self.push(LOp {
                    run,
                    d,
                    ..self.blank()
                });
            }
            OpCode::Bswap => {
                let (a, d) = (self.field(at, op.a)?, self.dest(at, op.dst)?);
                let run: Handler = by_width!(w, |T| alu::bswap::<T>);
                self.push(LOp {
                    run,
                    a,
                    d,
                    ..self.blank()
                });
            }
            OpCode::Add
            | OpCode::Adc
            | OpCode::Sub
            | OpCode::Sbb
            | OpCode::And
            | OpCode::Or
            | OpCode::Xor => {
                self.alu(at, op)?;
            }
            OpCode::Inc | OpCode::Dec | OpCode::Not => {
                let (a, d) = (self.field(at, op.a)?, self.dest(at, op.dst)?);
                let run: Handler = by_width!(w, |T| by_flag!(wanted, |F| match op.code {
                    OpCode::Inc => alu::ri::<T, alu::Inc, F>,
                    OpCode::Dec => alu::ri::<T, alu::Dec, F>,
                    _ => alu::ri::<T, alu::Not, F>,
                }));
                self.push(LOp {
                    run,
                    a,
                    d,
                    ..self.blank()
                });
            }
            OpCode::Neg => {
                let (a, d) = (self.field(at, op.a)?, self.dest(at, op.dst)?);
                let run: Handler = by_width!(w, |T| by_flag!(wanted, |F| alu::neg::<T, F>));
                self.push(LOp {
                    run,
                    a,
                    d,
                    ..self.blank()
                });
            }
            OpCode::Shl | OpCode::Shr | OpCode::Sar => self.shift(at, op)?,
            OpCode::Rol | OpCode::Ror | OpCode::Rcl | OpCode::Rcr => self.rotate(at, op)?,
            OpCode::Shld | OpCode::Shrd => {
                let (a, b, c) = (
                    self.field(at, op.a)?,
                    self.field(at, op.b)?,
                    self.field(at, op.c)?,
                );
                let d = self.dest(at, op.dst)?;
                let left = op.code == OpCode::Shld;
                let run: Handler = by_width!(w, |T| by_flag!(wanted, |F| if left {
                    shift::double_shift::<T, true, F>
                } else {
                    shift::double_shift::<T, false, F>
                }));
                self.push(LOp {
                    run,
                    a,
                    b,
                    c,
                    d,
                    ..self.blank()
                });
            }
            OpCode::MulU | OpCode::MulS => {
                let (a, b) = (self.field(at, op.a)?, self.field(at, op.b)?);
                let (d, c) = (self.dest(at, op.dst)?, self.dest(at, op.dst2)?);
                let signed = op.code == OpCode::MulS;
                let run: Handler = by_width!(w, |T| by_flag!(wanted, |F| if signed {
                    bits::mul::<T, true, F>
                } else {
                    bits::mul::<T, false, F>
                }));
                self.push(LOp {
                    run,
                    a,
                    b,
                    c,
                    d,
                    ..self.blank()
                });
            }
            OpCode::Imul => {
                let a = self.field(at, op.a)?;
                if let Operand::Imm(imm) = op.b {
                    let d = self.dest(at, op.dst)?;
                    let run: Handler =
                        by_width!(w, |T| by_flag!(wanted, |F| bits::imul_ri::<T, F>));
                    self.push(LOp {
                        run,
                        a,
                        d,
                        imm,
                        ..self.blank()
                    });
                } else {
                    let (b, d) = (self.field(at, op.b)?, self.dest(at, op.dst)?);
                    let run: Handler = by_width!(w, |T| by_flag!(wanted, |F| bits::imul::<T, F>));
                    self.push(LOp {
                        run,
                        a,
                        b,
                        d,
                        ..self.blank()
                    });
                }
            }
            OpCode::DivU | OpCode::DivS => {
                let (a, b, c) = (
                    self.field(at, op.a)?,
                    self.field(at, op.b)?,
                    self.field(at, op.c)?,
                );
                let (d, d2) = (self.dest(at, op.dst)?, self.dest(at, op.dst2)?);
                let signed = op.code == OpCode::DivS;
                let run: Handler = by_width!(w, |T| if signed {
                    bits::div::<T, true>
                } else {
                    bits::div::<T, false>
                });
                self.push(LOp {
                    run,
                    a,
                    b,
                    c,
                    d,
                    imm: d2.into(),
                    ..self.blank()
                });
            }
            OpCode::Bt | OpCode::Bts | OpCode::Btr | OpCode::Btc => self.bit_test(at, op)?,
            OpCode::Bsf
            | OpCode::Bsr
            | OpCode::Tzcnt
            | OpCode::Lzcnt
            | OpCode::Popcnt
            | OpCode::Andn
            | OpCode::Bextr
            | OpCode::Blsi
            | OpCode::Blsmsk
            | OpCode::Blsr
            | OpCode::Bzhi
            | OpCode::Pdep
            | OpCode::Pext => self.bit_function(at, op)?,
            OpCode::Adcx | OpCode::Adox => {
                let (a, b, d) = (
                    self.field(at, op.a)?,
                    self.field(at, op.b)?,
                    self.dest(at, op.dst)?,
                );
                let carry = op.code == OpCode::Adcx;
                let run: Handler = by_width!(w, |T| if carry {
                    bits::add_with_flag::<T, { x86::flags::CF }>
                } else {
                    bits::add_with_flag::<T, { x86::flags::OF }>
                });
                self.push(LOp {
                    run,
                    a,
                    b,
                    d,
                    ..self.blank()
                });
            }
            OpCode::Crc32 => {
                let (a, b, d) = (
                    self.field(at, op.a)?,
                    self.field(at, op.b)?,
                    self.dest(at, op.dst)?,
                );
                let from = Width::ALL[(op.sub & 3) as usize];
                let run: Handler = by_width!(from, |T| bits::crc32::<T>);
                self.push(LOp {
                    run,
                    a,
                    b,
                    d,
                    ..self.blank()
                });
            }
            OpCode::GetFlags => {
                let d = self.dest(at, op.dst)?;
                self.push(LOp {
                    run: bits::get_flags,
                    d,
                    imm: op.sub.into(),
                    ..self.blank()
                });
            }
            OpCode::SetFlags => {
                let imm = i64::from(op.sub);
                if let Operand::Imm(value) = op.a {
                    self.push(LOp {
                        run: bits::set_flags_imm,
                        disp: value as i32,
                        imm,
                        ..self.blank()
                    });
                } else {
                    let a = self.field(at, op.a)?;
                    self.push(LOp {
                        run: bits::set_flags,
                        a,
                        imm,
                        ..self.blank()
                    });
                }
            }
            OpCode::Cmc => self.push(LOp {
                run: bits::cmc,
                ..self.blank()
            }),
            OpCode::Load => {
                let address = self.address(at, &op.mem?, w.bytes().into())?;
                let d = self.dest(at, op.dst)?;
                let run = by_width!(w, |T| by_address!(
                    address.idx,
                    address.a32,
                    with_load::<T, memory::LoadTo>
                ));
                self.push(LOp {
                    run,
                    d,
                    ..self.with_address(address)
                });
            }
            OpCode::Store => self.store(at, op)?,
            OpCode::Rmw => self.rmw(at, op)?,
            OpCode::Cmpxchg => {
                let address = self.address(at, &op.mem?, w.bytes().into())?;
                let (a, new) = (self.field(at, op.a)?, self.field(at, op.b)?);
                let old = self.dest(at, op.dst)?;
                let run = by_width!(w, |T| {
                    let table: [Handler; 4] = [
                        memory::cmpxchg::<T, false, false>,
                        memory::cmpxchg::<T, true, false>,
                        memory::cmpxchg::<T, false, true>,
                        memory::cmpxchg::<T, true, true>,
                    ];
                    memory::pick(address.idx, address.a32, table)
                });
                let imm = i64::from(old) << 32 | i64::from(address.scale);
                self.push(LOp {
                    run,
                    a,
                    d: new,
                    imm,
                    ..self.with_address(address)
                });
            }
            OpCode::CmpxchgPair => {
                let address = self.address(at, &op.mem?, 1)?;
                let table: [Handler; 4] = [
                    memory::cmpxchg_pair::<false, false>,
                    memory::cmpxchg_pair::<true, false>,
                    memory::cmpxchg_pair::<false, true>,
                    memory::cmpxchg_pair::<true, true>,
                ];
                let run = memory::pick(address.idx, address.a32, table);
                self.push(LOp {
                    run,
                    d: w.bytes().into(),
                    ..self.with_address(address)
                });
            }
            OpCode::SegLin => {
                let (a, b) = (self.field(at, op.a)?, self.field(at, op.b)?);
                let write = matches!(op.c, Operand::Imm(n) if n != 0);
                let d = self.dest(at, op.dst)?;
                let imm = i64::from(op.sub) | i64::from(write) << 8 | i64::from(w as u8) << 16;
                self.push(LOp {
                    run: sys::seglin,
                    a,
                    b,
                    d,
                    imm,
                    ..self.blank()
                });
            }
            OpCode::ProbeWrite => {
                if let Operand::Imm(masked) = op.a {
                    return self.vec_move_masked(at, op, 0, Masked::decode(masked));
                }
                let size = w.bytes().into();
                let address = self.address(at, &op.mem?, 1)?;
                let table: [Handler; 4] = [
                    memory::probe_write::<false, false>,
                    memory::probe_write::<true, false>,
                    memory::probe_write::<false, true>,
                    memory::probe_write::<true, true>,
                ];
                let run = memory::pick(address.idx, address.a32, table);
                self.push(LOp {
                    run,
                    d: size,
                    ..self.with_address(address)
                });
            }
            OpCode::String => self.push(LOp {
                run: sys::string,
                imm: op.sub.into(),
                ..self.blank()
            }),
            OpCode::VecLoad | OpCode::VecStore => self.vec_move(at, op)?,
            OpCode::Vec => self.vec(at, op)?,
            OpCode::X87 => self.x87(at, op)?,
            OpCode::Call => {
                let (a, b, c) = (
                    self.field(at, op.a)?,
                    self.field(at, op.b)?,
                    self.field(at, op.c)?,
                );
                let d = self.dest(at, op.dst)?;
                HelperId::from_index(op.sub)?;
                self.push(LOp {
                    run: sys::call,
                    a,
                    b,
                    c,
                    d,
                    imm: op.sub.into(),
                    ..self.blank()
                });
            }
            OpCode::Raise => {
                let imm = match op.a {
                    Operand::Imm(error) => error,
                    _ => -1,
                };
                self.last(LOp {
                    run: sys::raise_static,
                    a: op.sub as u16,
                    imm,
                    ..self.blank()
                });
            }
            OpCode::CheckPc => {
                let a = self.field(at, op.a)?;
                let b = if op.b == Operand::None {
                    None
                } else {
                    Some(self.field(at, op.b)?)
                };
                let run: Handler = by_width!(w, |T| if b.is_some() {
                    branch::check_pc::<T, true>
                } else {
                    branch::check_pc::<T, false>
                });
                self.push(LOp {
                    run,
                    a,
                    b: b.unwrap_or(offset::ZERO as u16),
                    ..self.blank()
                });
            }
            OpCode::SetDf => self.push(LOp {
                run: sys::set_df,
                imm: op.sub.into(),
                ..self.blank()
            }),
            OpCode::Fence => self.push(LOp {
                run: sys::fence,
                ..self.blank()
            }),
            OpCode::Prefetch => {}
            OpCode::Jump => {
                let exit = self.exit(op.a, w)?;
                self.terminal(
                    LOp {
                        run: branch::jump,
                        ..self.blank()
                    },
                    &[exit],
                );
            }
            // Blocks with ways out in their midst are the translator's: `Limits::branches`.
            OpCode::SideExit | OpCode::Expect => return None,
            OpCode::Branch => {
                let exits = [self.exit(op.a, w)?, self.exit(op.b, w)?];
                let run = self.branch_handler(op.sub);
                self.terminal(
                    LOp {
                        run,
                        ..self.blank()
                    },
                    &exits,
                );
            }
            OpCode::BranchNz => {
                let exits = [self.exit(op.a, w)?, self.exit(op.b, w)?];
                let a = self.field(at, op.c)?;
                let run: Handler = by_width!(w, |T| branch::branch_nz::<T>);
                self.terminal(
                    LOp {
                        run,
                        a,
                        ..self.blank()
                    },
                    &exits,
                );
            }
            OpCode::JumpTo => {
                let a = self.field(at, op.a)?;
                let run = self.jump_handler(w);
                self.out.site = true;
                self.terminal(
                    LOp {
                        run,
                        a,
                        ..self.blank()
                    },
                    &[],
                );
            }
            OpCode::Exit => match IrExit::from_index(op.sub)? {
                IrExit::Next => {
                    let Operand::Pc(delta) = op.a else {
                        return None;
                    };
                    self.last(LOp {
                        run: branch::exit_next,
                        imm: delta.into(),
                        ..self.blank()
                    });
                }
                IrExit::Helper => self.last(LOp {
                    run: branch::exit_helper,
                    ..self.blank()
                }),
            },
        }
        Some(())
    }

    /// An indirect jump: checked against CS.limit unless the segment is flat.
    pub(super) fn jump_handler(&self, w: Width) -> Handler {
        let checked = !self.mode.code64() && !self.mode.flat_cs();
        match (w, checked) {
            (Width::B64, _) => branch::jump_to::<u64, false>,
            (Width::B32, false) => branch::jump_to::<u32, false>,
            (Width::B32, true) => branch::jump_to::<u32, true>,
            (_, false) => branch::jump_to::<u16, false>,
            (_, true) => branch::jump_to::<u16, true>,
        }
    }

    /// Jcc by what is known of the flags.
    fn branch_handler(&self, cond: u32) -> Handler {
        match self.flags {
            Some((FlagOp::Sub, w)) => {
                by_cond!(cond, |CC| by_width!(w, |T| branch::branch_sub::<T, CC>))
            }
            Some((FlagOp::Logic, w)) => {
                by_cond!(cond, |CC| by_width!(w, |T| branch::branch_logic::<T, CC>))
            }
            _ => by_cond!(cond, |CC| branch::branch::<CC>),
        }
    }

    pub(super) fn mov(&mut self, at: usize, w: Width, dst: Operand, a: Operand) -> Option<()> {
        match a {
            Operand::Imm(imm) => {
                let d = self.dest(at, dst)?;
                let run: Handler = by_width!(w, |T| alu::mov_imm::<T>);
                self.push(LOp {
                    run,
                    d,
                    imm,
                    ..self.blank()
                });
            }
            Operand::Pc(delta) => {
                let d = self.dest(at, dst)?;
                let run: Handler = by_width!(w, |T| alu::mov_pc::<T>);
                self.push(LOp {
                    run,
                    d,
                    imm: delta.into(),
                    ..self.blank()
                });
            }
            _ => {
                let a = self.field(at, a)?;
                let d = self.dest(at, dst)?;
                let run: Handler = by_width!(w, |T| alu::mov::<T>);
                self.push(LOp {
                    run,
                    a,
                    d,
                    ..self.blank()
                });
            }
        }
        Some(())
    }

    fn extend(&mut self, at: usize, op: &Op) -> Option<()> {
        let a = self.field(at, op.a)?;
        let d = self.dest(at, op.dst)?;
        let from = Width::ALL[(op.sub & 3) as usize];
        let zero = op.code == OpCode::Zext;
        let run: Handler = by_width!(from, |S| by_width!(op.width, |D| if zero {
            alu::zext::<D, S>
        } else {
            alu::sext::<D, S>
        }));
        self.push(LOp {
            run,
            a,
            d,
            ..self.blank()
        });
        Some(())
    }

    fn lea(&mut self, at: usize, op: &Op) -> Option<()> {
        let mem = op.mem?;
        if mem.base == Operand::None && mem.index == Operand::None {
            let value = i64::from(mem.disp) & mem.addr.mask().cast_signed();
            return self.mov(at, op.width, op.dst, Operand::Imm(value));
        }
        let address = self.address(
            at,
            &ir::Mem {
                seg: ir::SegBase::None,
                align: 1,
                ..mem
            },
            1,
        )?;
        let d = self.dest(at, op.dst)?;
        let run = by_width!(op.width, |T| {
            let table: [Handler; 4] = [
                memory::lea::<T, false, false>,
                memory::lea::<T, true, false>,
                memory::lea::<T, false, true>,
                memory::lea::<T, true, true>,
            ];
            memory::pick(address.idx, address.a32, table)
        });
        self.push(LOp {
            run,
            d,
            ..self.with_address(address)
        });
        Some(())
    }

    fn alu(&mut self, at: usize, op: &Op) -> Option<()> {
        let wanted = !op.flags.is_empty();
        let a = self.field(at, op.a)?;
        let quiet = op.dst == Operand::None;
        let (run, b, imm): (Handler, u16, i64) = if let Operand::Imm(imm) = op.b {
            let run = by_width!(op.width, |T| by_alu!(op.code, |K| if quiet {
                alu::flags_ri::<T, K> as Handler
            } else if wanted {
                alu::ri::<T, K, true>
            } else {
                alu::ri::<T, K, false>
            }))?;
            (run, offset::ZERO as u16, imm)
        } else {
            let b = self.field(at, op.b)?;
            let run = by_width!(op.width, |T| by_alu!(op.code, |K| if quiet {
                alu::flags_rr::<T, K> as Handler
            } else if wanted {
                alu::rr::<T, K, true>
            } else {
                alu::rr::<T, K, false>
            }))?;
            (run, b, 0)
        };
        let d = self.dest(at, op.dst)?;
        self.push(LOp {
            run,
            a,
            b,
            d,
            imm,
            ..self.blank()
        });
        Some(())
    }

    fn shift(&mut self, at: usize, op: &Op) -> Option<()> {
        let wanted = !op.flags.is_empty();
        let a = self.field(at, op.a)?;
        let mask = if op.width == Width::B64 { 63 } else { 31 };
        if let Operand::Imm(count) = op.b
            && count & mask != 0
        {
            let d = self.dest(at, op.dst)?;
            let run: Handler = by_width!(op.width, |T| by_flag!(wanted, |F| match op.code {
                OpCode::Shl => shift::shift_ri::<T, { shift::kind::SHL }, F>,
                OpCode::Shr => shift::shift_ri::<T, { shift::kind::SHR }, F>,
                _ => shift::shift_ri::<T, { shift::kind::SAR }, F>,
            }));
            self.push(LOp {
                run,
                a,
                d,
                imm: count & mask,
                ..self.blank()
            });
            return Some(());
        }
        let b = self.field(at, op.b)?;
        let d = self.dest(at, op.dst)?;
        let run: Handler = by_width!(op.width, |T| by_flag!(wanted, |F| match op.code {
            OpCode::Shl => shift::shift_rr::<T, { shift::kind::SHL }, F>,
            OpCode::Shr => shift::shift_rr::<T, { shift::kind::SHR }, F>,
            _ => shift::shift_rr::<T, { shift::kind::SAR }, F>,
        }));
        self.push(LOp {
            run,
            a,
            b,
            d,
            ..self.blank()
        });
        Some(())
    }

    fn rotate(&mut self, at: usize, op: &Op) -> Option<()> {
        let wanted = !op.flags.is_empty();
        let a = self.field(at, op.a)?;
        if let (Operand::Imm(imm), false, OpCode::Rol | OpCode::Ror) = (op.b, wanted, op.code) {
            let count = imm & if op.width == Width::B64 { 63 } else { 31 };
            let d = self.dest(at, op.dst)?;
            let run: Handler = by_width!(op.width, |T| if op.code == OpCode::Rol {
                shift::rotate_ri_quiet::<T, { shift::kind::ROL }>
            } else {
                shift::rotate_ri_quiet::<T, { shift::kind::ROR }>
            });
            self.push(LOp {
                run,
                a,
                d,
                imm: count,
                ..self.blank()
            });
            return Some(());
        }
        let b = self.field(at, op.b)?;
        let d = self.dest(at, op.dst)?;
        let run: Handler = by_width!(op.width, |T| by_flag!(wanted, |F| match op.code {
            OpCode::Rol => shift::rotate_rr::<T, { shift::kind::ROL }, F>,
            OpCode::Ror => shift::rotate_rr::<T, { shift::kind::ROR }, F>,
            OpCode::Rcl => shift::rotate_rr::<T, { shift::kind::RCL }, F>,
            _ => shift::rotate_rr::<T, { shift::kind::RCR }, F>,
        }));
        self.push(LOp {
            run,
            a,
            b,
            d,
            ..self.blank()
        });
        Some(())
    }

    fn bit_test(&mut self, at: usize, op: &Op) -> Option<()> {
        use bits::change::{FLIP, NONE, RESET, SET};
        let wanted = !op.flags.is_empty();
        let a = self.field(at, op.a)?;
        if let Operand::Imm(imm) = op.b {
            let d = self.dest(at, op.dst)?;
            let run: Handler = by_width!(op.width, |T| by_flag!(wanted, |F| match op.code {
                OpCode::Bts => bits::bt_ri::<T, SET, F>,
                OpCode::Btr => bits::bt_ri::<T, RESET, F>,
                OpCode::Btc => bits::bt_ri::<T, FLIP, F>,
                _ => bits::bt_ri::<T, NONE, F>,
            }));
            self.push(LOp {
                run,
                a,
                d,
                imm,
                ..self.blank()
            });
            return Some(());
        }
        let b = self.field(at, op.b)?;
        let d = self.dest(at, op.dst)?;
        let run: Handler = by_width!(op.width, |T| by_flag!(wanted, |F| match op.code {
            OpCode::Bts => bits::bt_rr::<T, SET, F>,
            OpCode::Btr => bits::bt_rr::<T, RESET, F>,
            OpCode::Btc => bits::bt_rr::<T, FLIP, F>,
            _ => bits::bt_rr::<T, NONE, F>,
        }));
        self.push(LOp {
            run,
            a,
            b,
            d,
            ..self.blank()
        });
        Some(())
    }

    fn bit_function(&mut self, at: usize, op: &Op) -> Option<()> {
        use bits::function as f;
        let wanted = !op.flags.is_empty();
        let (a, b) = (self.field(at, op.a)?, self.field(at, op.b)?);
        let d = self.dest(at, op.dst)?;
        let run: Handler = by_width!(op.width, |T| by_flag!(wanted, |F| match op.code {
            OpCode::Bsf => bits::bit_function::<T, { f::BSF }, F>,
            OpCode::Bsr => bits::bit_function::<T, { f::BSR }, F>,
            OpCode::Tzcnt => bits::bit_function::<T, { f::TZCNT }, F>,
            OpCode::Lzcnt => bits::bit_function::<T, { f::LZCNT }, F>,
            OpCode::Popcnt => bits::bit_function::<T, { f::POPCNT }, F>,
            OpCode::Andn => bits::bit_function::<T, { f::ANDN }, F>,
            OpCode::Bextr => bits::bit_function::<T, { f::BEXTR }, F>,
            OpCode::Blsi => bits::bit_function::<T, { f::BLSI }, F>,
            OpCode::Blsmsk => bits::bit_function::<T, { f::BLSMSK }, F>,
            OpCode::Blsr => bits::bit_function::<T, { f::BLSR }, F>,
            OpCode::Bzhi => bits::bit_function::<T, { f::BZHI }, F>,
            OpCode::Pdep => bits::bit_function::<T, { f::PDEP }, F>,
            _ => bits::bit_function::<T, { f::PEXT }, F>,
        }));
        self.push(LOp {
            run,
            a,
            b,
            d,
            ..self.blank()
        });
        Some(())
    }

    /// Boxes the description of a vector or x87 instruction; returns the pointer to it.
    pub(super) fn describe(&mut self, at: usize, op: &Op, with_stub: bool) -> Option<i64> {
        let insn = VecInsn::decode(op.sub)?;
        let code = insn.code;
        let mut fields = [0; 4];
        for (field, operand) in fields[1..].iter_mut().zip([op.a, op.b, op.c]) {
            if !matches!(operand, Operand::Imm(_) | Operand::None) {
                *field = self.field(at, operand)?;
            }
        }
        fields[0] = match op.dst {
            Operand::VecTemp(_) | Operand::Temp(_) => self.dest(at, op.dst)?,
            other => self.dest(at, other)?,
        };
        let args = [op.a, op.b, op.c];
        let fp = super::vector::uses_mxcsr(code);
        let stub = if with_stub {
            self.stubs.get(insn, op.dst, args, fields, fp)
        } else {
            None
        };
        let writes_flags = crate::host::writes_flags(code);
        let boxed = Box::new(VecOp {
            insn,
            stub,
            dst: op.dst,
            args,
            fields,
            writes_flags,
        });
        let at = std::ptr::from_ref(boxed.as_ref()).addr() as i64;
        self.out.vec_ops.push(boxed);
        Some(at)
    }
}

/// All flags that an op defines are wanted or none: handlers know nothing between.
pub(super) fn any(flags: FlagSet) -> bool {
    !flags.is_empty()
}
