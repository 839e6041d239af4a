//! What the x87 instructions do, apart from finding their operands.

use std::cmp::Ordering;

use super::{INDEFINITE, X87, sw};
use crate::float::flags::{DE, IE, OE, PE, UE};
use crate::float::{
    self, Class, Env, F32, F64, F80, Float, IntKind, Out, Rounding, SinCos, Unpacked, bcd_store,
    compare, convert, remainder, to_int,
};

/// The two-operand arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arith {
    Add,
    Sub,
    /// Operands swapped.
    SubR,
    Mul,
    Div,
    /// Operands swapped.
    DivR,
}

impl Arith {
    fn run(self, env: &Env, a: Unpacked, b: Unpacked) -> Out<F80> {
        match self {
            Self::Add => float::add(env, a, b),
            Self::Sub => float::sub(env, a, b),
            Self::SubR => float::sub(env, b, a),
            Self::Mul => float::mul(env, a, b),
            Self::Div => float::div(env, a, b),
            Self::DivR => float::div(env, b, a),
        }
    }
}

/// A two-operand transcendental: result of ST(0) and ST(1) to ST(1), pop.
pub(crate) type Binary = fn(&Env, Unpacked, Unpacked) -> Out<F80>;

/// A one-operand function of ST(0) that may refuse the operand as too large.
pub(crate) type Circular = fn(&Env, Unpacked) -> Option<Out<F80>>;

/// EFLAGS bits that FCOMI sets.
const CF: u32 = 1;
const PF: u32 = 1 << 2;
const ZF: u32 = 1 << 6;

impl X87 {
    /// `ST(dst) = ST(dst) op operand`, the operand taken from ST(src) or memory.
    pub(crate) fn arith(
        &mut self,
        op: Arith,
        dst: usize,
        operand: Result<Unpacked, usize>,
        pop: bool,
    ) {
        let empty = self.is_empty(dst) || operand.is_err_and(|src| self.is_empty(src));
        if empty {
            if self.stack_fault(false) {
                self.set_st(dst, INDEFINITE);
                if pop {
                    self.pop();
                }
            }
            return;
        }
        let b = operand.unwrap_or_else(|src| self.st(src).unpack());
        let out = op.run(&self.env(), self.st(dst).unpack(), b);
        if self.raise(out.flags, out.up) {
            self.set_st(dst, out.value);
            if pop {
                self.pop();
            }
        }
    }

    /// `ST(0) = f(ST(0))`.
    pub(crate) fn unary(&mut self, f: impl FnOnce(&Env, Unpacked) -> Out<F80>) {
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, INDEFINITE);
            }
            return;
        }
        let out = f(&self.env(), self.st(0).unpack());
        if self.raise(out.flags, out.up) {
            self.set_st(0, out.value);
        }
    }

    /// FABS and FCHS: they look at nothing but the sign.
    pub(crate) fn change_sign(&mut self, f: impl FnOnce(u16) -> u16) {
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, INDEFINITE);
            }
            return;
        }
        self.set_flag(sw::C1, false);
        let a = self.st(0);
        self.set_st(0, F80::new(f(a.se), a.sig));
    }

    /// `ST(1) = f(ST(0), ST(1))`, pop.
    pub(crate) fn binary_pop(&mut self, f: Binary) {
        if self.is_empty(0) || self.is_empty(1) {
            if self.stack_fault(false) {
                self.set_st(1, INDEFINITE);
                self.pop();
            }
            return;
        }
        let out = f(&self.env(), self.st(0).unpack(), self.st(1).unpack());
        if self.raise(out.flags, out.up) {
            self.set_st(1, out.value);
            self.pop();
        }
    }

    /// FSCALE.
    pub(crate) fn scale(&mut self) {
        if self.is_empty(0) || self.is_empty(1) {
            if self.stack_fault(false) {
                self.set_st(0, INDEFINITE);
            }
            return;
        }
        let out = float::scale(&self.env(), self.st(0).unpack(), self.st(1).unpack());
        if self.raise(out.flags, out.up) {
            self.set_st(0, out.value);
        }
    }

    /// FPREM and FPREM1.
    pub(crate) fn partial_remainder(&mut self, nearest: bool) {
        self.set_flag(sw::C2, false);
        if self.is_empty(0) || self.is_empty(1) {
            if self.stack_fault(false) {
                self.set_st(0, INDEFINITE);
            }
            return;
        }
        let out = remainder(
            &self.env(),
            self.st(0).unpack(),
            self.st(1).unpack(),
            nearest,
        );
        if !self.raise(out.flags, out.up) {
            return;
        }
        let r = out.value;
        self.set_st(0, r.value);
        self.set_flag(sw::C2, r.partial);
        if let Some(quotient) = r.quotient {
            self.set_flag(sw::C0, quotient & 4 != 0);
            self.set_flag(sw::C3, quotient & 2 != 0);
            self.set_flag(sw::C1, quotient & 1 != 0);
        }
    }

    /// Whether ST(0) is there and there is room for a push; answers a stack fault with two indefinites.
    fn room_to_spread(&mut self) -> bool {
        let underflow = self.is_empty(0);
        if !underflow && self.is_empty(7) {
            return true;
        }
        if self.stack_fault(!underflow) {
            self.set_st(0, INDEFINITE);
            self.push(INDEFINITE);
        }
        false
    }

    /// FXTRACT.
    pub(crate) fn extract(&mut self) {
        if !self.room_to_spread() {
            return;
        }
        let out = float::extract(&self.env(), self.st(0).unpack());
        if self.raise(out.flags, out.up) {
            let (exponent, significand) = out.value;
            self.set_st(0, exponent);
            self.push(significand);
        }
    }

    /// FSIN and FCOS.
    pub(crate) fn circular(&mut self, f: Circular) {
        self.set_flag(sw::C2, false);
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, INDEFINITE);
            }
            return;
        }
        match f(&self.env(), self.st(0).unpack()) {
            Some(out) => {
                if self.raise(out.flags, out.up) {
                    self.set_st(0, out.value);
                }
            }
            None => self.out_of_range(),
        }
    }

    /// The operand is 2^63 or more: C2 tells so, nothing is pushed.
    fn out_of_range(&mut self) {
        self.set_flag(sw::C2, true);
        self.set_flag(sw::C1, false);
    }

    /// FPTAN.
    pub(crate) fn tangent(&mut self) {
        self.set_flag(sw::C2, false);
        if !self.room_to_spread() {
            return;
        }
        match float::fptan(&self.env(), self.st(0).unpack()) {
            Some(out) => {
                if self.raise(out.flags, out.up) {
                    self.set_st(0, out.value);
                    // A NaN comes twice.
                    let nan = out.value.unpack().is_nan();
                    self.push(if nan { out.value } else { F80::ONE });
                }
            }
            None => self.out_of_range(),
        }
    }

    /// FSINCOS.
    pub(crate) fn sin_cos(&mut self) {
        self.set_flag(sw::C2, false);
        if !self.room_to_spread() {
            return;
        }
        match float::fsincos(&self.env(), self.st(0).unpack()) {
            Some(out) => {
                if self.raise(out.flags, out.up) {
                    let SinCos { sin, cos } = out.value;
                    self.set_st(0, sin);
                    self.push(cos);
                }
            }
            None => self.out_of_range(),
        }
    }

    /// Pushes what a load converted.
    pub(crate) fn load(&mut self, out: Out<F80>) {
        if !self.is_empty(7) {
            if self.stack_fault(true) {
                self.push(INDEFINITE);
            }
            return;
        }
        // A denormal is loaded even where DE is unmasked.
        if self.raise(out.flags, false) || out.flags & IE == 0 {
            self.push(out.value);
        }
    }

    /// FLD ST(i).
    pub(crate) fn load_register(&mut self, i: usize) {
        let underflow = self.is_empty(i);
        if underflow || !self.is_empty(7) {
            if self.stack_fault(!underflow) {
                self.push(INDEFINITE);
            }
            return;
        }
        self.set_flag(sw::C1, false);
        self.push(self.st(i));
    }

    /// One of the constants, given as its truncated significand's next bits decide: `above` tells that the constant is
    /// above the value rounded to nearest.
    pub(crate) fn load_constant(&mut self, nearest: F80, above: Option<bool>) {
        // Constants are rounded by RC since the 387 (SDM 1, 8.3.8); all six are positive.
        let value = match (self.env().rounding, above) {
            (Rounding::Up, Some(true)) => F80::new(nearest.se, nearest.sig + 1),
            (Rounding::Down | Rounding::Zero, Some(false)) => F80::new(nearest.se, nearest.sig - 1),
            _ => nearest,
        };
        self.load(Out::new(value, 0));
    }

    /// FST and FSTP to memory in format `F`: what to store, if anything.
    pub(crate) fn store_float<F: Float>(&mut self, pop: bool) -> Option<F> {
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                return None;
            }
            self.pop_if(pop);
            return Some(F::DEFAULT_NAN);
        }
        let out = convert::<F>(&self.env(), self.st(0).unpack());
        let mut flags = out.flags & !DE;
        // An overflow or underflow that isn't masked leaves memory and stack alone (SDM 1, 8.5.4 and 8.5.5): nothing is
        // rounded then.
        let stored = self.env().masked(flags & (OE | UE));
        if !stored {
            flags &= !PE;
        }
        if !self.raise(flags, stored && out.up) || !stored {
            return None;
        }
        self.pop_if(pop);
        Some(out.value)
    }

    /// FST m32.
    pub(crate) fn store32(&mut self, pop: bool) -> Option<F32> {
        self.store_float(pop)
    }

    /// FST m64.
    pub(crate) fn store64(&mut self, pop: bool) -> Option<F64> {
        self.store_float(pop)
    }

    /// FSTP m80: a copy.
    pub(crate) fn store80(&mut self) -> Option<F80> {
        let value = if self.is_empty(0) {
            if !self.stack_fault(false) {
                return None;
            }
            INDEFINITE
        } else {
            self.set_flag(sw::C1, false);
            self.st(0)
        };
        self.pop();
        Some(value)
    }

    /// FIST, FISTP and, with `rounding` given, FISTTP.
    pub(crate) fn store_int(
        &mut self,
        kind: IntKind,
        rounding: Option<Rounding>,
        pop: bool,
    ) -> Option<u64> {
        let indefinite = kind.indefinite();
        self.store_converted(pop, indefinite, |env, a| {
            to_int(&a, rounding.unwrap_or(env.rounding), kind)
        })
    }

    /// FBSTP.
    pub(crate) fn store_bcd(&mut self) -> Option<[u8; 10]> {
        self.store_converted(true, float::BCD_INDEFINITE, |env, a| {
            bcd_store(&a, env.rounding)
        })
    }

    fn store_converted<T>(
        &mut self,
        pop: bool,
        indefinite: T,
        f: impl FnOnce(&Env, Unpacked) -> Out<T>,
    ) -> Option<T> {
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                return None;
            }
            self.pop_if(pop);
            return Some(indefinite);
        }
        let out = f(&self.env(), self.st(0).unpack());
        if !self.raise(out.flags, out.up) {
            return None;
        }
        self.pop_if(pop);
        Some(out.value)
    }

    fn pop_if(&mut self, pop: bool) {
        if pop {
            self.pop();
        }
    }

    /// FST ST(i) and FSTP ST(i).
    pub(crate) fn store_register(&mut self, i: usize, pop: bool) {
        let value = if self.is_empty(0) {
            if !self.stack_fault(false) {
                return;
            }
            INDEFINITE
        } else {
            self.set_flag(sw::C1, false);
            self.st(0)
        };
        self.set_st(i, value);
        self.pop_if(pop);
    }

    /// FXCH.
    pub(crate) fn exchange(&mut self, i: usize) {
        self.set_flag(sw::C1, false);
        if self.is_empty(0) || self.is_empty(i) {
            if !self.stack_fault(false) {
                return;
            }
            for n in [0, i] {
                if self.is_empty(n) {
                    self.set_st(n, INDEFINITE);
                }
            }
        }
        let (a, b) = (self.st(0), self.st(i));
        self.set_st(0, b);
        self.set_st(i, a);
    }

    /// FCMOVcc.
    pub(crate) fn conditional_move(&mut self, i: usize, condition: bool) {
        if self.is_empty(0) || self.is_empty(i) {
            if self.stack_fault(false) {
                self.set_st(0, INDEFINITE);
            }
            return;
        }
        if condition {
            self.set_st(0, self.st(i));
        }
    }

    /// Compares ST(0) with an operand (from memory or ST(src)). False where an unmasked exception stops the instruction.
    fn compare_with(
        &mut self,
        operand: Result<Unpacked, usize>,
        signalling: bool,
    ) -> (Option<Ordering>, bool) {
        if self.is_empty(0) || operand.is_err_and(|src| self.is_empty(src)) {
            return (None, self.stack_fault(false));
        }
        let b = operand.unwrap_or_else(|src| self.st(src).unpack());
        let (order, flags) = compare(&self.st(0).unpack(), &b, signalling);
        (order, self.raise(flags, false))
    }

    /// FCOM, FUCOM, FICOM and FTST: the order goes to C3, C2, C0. So it does under an unmasked exception, which only
    /// keeps the instruction from popping; the SDM has it otherwise for the unordered result, CPUs don't.
    pub(crate) fn compare(
        &mut self,
        operand: Result<Unpacked, usize>,
        signalling: bool,
        pops: u32,
    ) {
        let (order, go_on) = self.compare_with(operand, signalling);
        let bits = match order {
            Some(Ordering::Greater) => 0,
            Some(Ordering::Less) => sw::C0,
            Some(Ordering::Equal) => sw::C3,
            None => sw::C3 | sw::C2 | sw::C0,
        };
        self.sw = self.sw & !(sw::C3 | sw::C2 | sw::C0) | bits;
        if go_on {
            for _ in 0..pops {
                self.pop();
            }
        }
    }

    /// FCOMI and FUCOMI: the order as ZF, PF, CF. An unmasked exception keeps it from popping, as with FCOM.
    pub(crate) fn compare_to_flags(&mut self, i: usize, signalling: bool, pop: bool) -> u32 {
        let (order, go_on) = self.compare_with(Err(i), signalling);
        self.pop_if(pop && go_on);
        match order {
            Some(Ordering::Greater) => 0,
            Some(Ordering::Less) => CF,
            Some(Ordering::Equal) => ZF,
            None => ZF | PF | CF,
        }
    }

    /// FXAM.
    pub(crate) fn examine(&mut self) {
        let a = self.st(0);
        let u = a.unpack();
        let class = match u.class {
            _ if self.is_empty(0) => sw::C3 | sw::C0,
            Class::Unsupported => 0,
            Class::Quiet | Class::Signalling => sw::C0,
            Class::Finite if u.denormal => sw::C3 | sw::C2,
            Class::Finite => sw::C2,
            Class::Infinite => sw::C2 | sw::C0,
            Class::Zero => sw::C3,
        };
        self.sw = self.sw & !(sw::C3 | sw::C2 | sw::C0) | class;
        self.set_flag(sw::C1, a.sign());
    }

    /// FFREE and FFREEP.
    pub(crate) fn release(&mut self, i: usize, pop: bool) {
        self.free(i);
        self.pop_if(pop);
        self.set_flag(sw::C1, false);
    }

    /// D9 D8+i, an FSTP that finds an empty ST(0) no fault: it pops and stores nothing then.
    pub(crate) fn store_no_fault(&mut self, i: usize) {
        self.set_flag(sw::C1, false);
        if !self.is_empty(0) {
            self.set_st(i, self.st(0));
        }
        self.pop();
    }

    /// FINCSTP and FDECSTP: TOP moves, tags don't.
    pub(crate) fn rotate(&mut self, by: usize) {
        self.set_top(self.top() + by);
        self.set_flag(sw::C1, false);
    }
}
