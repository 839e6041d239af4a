//! Instruction code to operation: operands from memory and registers, results back.

use iced_x86::Code;

use super::ops::Arith;
use super::{Layout, X87};
use crate::float::flags::DE;
use crate::float::{
    self, Env, F32, F64, F80, Float, IntKind, Out, Rounding, Unpacked, bcd_load, convert, from_i64,
    round_to_int,
};

/// What an instruction takes from and gives to the world outside the x87.
#[derive(Clone, Debug)]
pub struct Io {
    /// The i of ST(i), the instruction's register operand that isn't a fixed ST(0).
    pub sti: usize,
    /// In: the memory operand, from its lowest byte. Out: what is to be stored, [`Io::written`] bytes.
    pub mem: [u8; 108],
    /// Bytes of [`Io::mem`] to store; 0 for none (also after an unmasked exception).
    pub written: usize,
    /// EFLAGS, for FCMOVcc.
    pub eflags: u32,
    /// FCOMI family: the new ZF, PF and CF (OF, SF and AF become 0).
    pub flags_out: Option<u32>,
    /// FNSTSW AX: what goes to AX.
    pub ax: Option<u16>,
    /// Real or virtual-8086 mode, for the layout of FSTENV's and FSAVE's images.
    pub real_mode: bool,
}

impl Default for Io {
    fn default() -> Self {
        Self {
            sti: 0,
            mem: [0; 108],
            written: 0,
            eflags: 0,
            flags_out: None,
            ax: None,
            real_mode: false,
        }
    }
}

impl Io {
    fn bytes<const N: usize>(&self) -> [u8; N] {
        std::array::from_fn(|i| self.mem[i])
    }

    fn store(&mut self, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.mem[..bytes.len()].copy_from_slice(bytes);
            self.written = bytes.len();
        }
    }

    fn f32(&self) -> Unpacked {
        F32(u32::from_le_bytes(self.bytes())).unpack()
    }

    fn f64(&self) -> Unpacked {
        F64(u64::from_le_bytes(self.bytes())).unpack()
    }

    fn i16(&self) -> Out<F80> {
        integer(i16::from_le_bytes(self.bytes()).into())
    }

    fn i32(&self) -> Out<F80> {
        integer(i32::from_le_bytes(self.bytes()).into())
    }
}

/// Any integer fits 64 bits of significand.
fn integer(value: i64) -> Out<F80> {
    from_i64(&Env::from_cw(0x37F), value)
}

/// A float from memory, exactly.
fn extended(a: Unpacked) -> Out<F80> {
    convert(&Env::from_cw(0x37F), a)
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An unmasked exception is pending: #MF, or FERR# with CR0.NE = 0.
    Pending,
    /// No x87 instruction of this architecture.
    Unknown,
}

/// Whether the instruction first reports pending exceptions.
pub fn waits(code: Code) -> bool {
    !matches!(
        code,
        Code::Fninit
            | Code::Fnclex
            | Code::Fnstsw_AX
            | Code::Fnstsw_m2byte
            | Code::Fnstcw_m2byte
            | Code::Fnstenv_m14byte
            | Code::Fnstenv_m28byte
            | Code::Fnsave_m94byte
            | Code::Fnsave_m108byte
            | Code::Fneni
            | Code::Fndisi
            | Code::Fnsetpm
    )
}

/// Whether the instruction sets the last instruction pointer and opcode (and, with a memory operand, the data pointer):
/// all but the control instructions do (SDM 1, 8.1.8).
pub fn updates_pointers(code: Code) -> bool {
    waits(code)
        && !matches!(
            code,
            Code::Finit
                | Code::Fclex
                | Code::Fstsw_AX
                | Code::Fstsw_m2byte
                | Code::Fstcw_m2byte
                | Code::Fldcw_m2byte
                | Code::Fstenv_m14byte
                | Code::Fstenv_m28byte
                | Code::Fldenv_m14byte
                | Code::Fldenv_m28byte
                | Code::Fsave_m94byte
                | Code::Fsave_m108byte
                | Code::Frstor_m94byte
                | Code::Frstor_m108byte
                | Code::Feni
                | Code::Fdisi
                | Code::Fsetpm
                | Code::Wait
        )
}

/// log2(10), rounded to nearest.
const L2T: F80 = F80::new(0x4000, 0xD49A_784B_CD1B_8AFE);
/// log2(e).
const L2E: F80 = F80::new(0x3FFF, 0xB8AA_3B29_5C17_F0BC);
/// pi.
const PI: F80 = F80::new(0x4000, 0xC90F_DAA2_2168_C235);
/// log10(2).
const LG2: F80 = F80::new(0x3FFD, 0x9A20_9A84_FBCF_F799);
/// ln(2).
const LN2: F80 = F80::new(0x3FFE, 0xB172_17F7_D1CF_79AC);

/// Runs one x87 instruction.
///
/// # Errors
/// [`Fault::Pending`] before a waiting instruction, [`Fault::Unknown`] for any other instruction; nothing has changed
/// then. Exceptions that the instruction itself raises are recorded in the status word and no error.
pub fn execute(code: Code, x: &mut X87, io: &mut Io) -> Result<(), Fault> {
    use Code as C;
    if x.pending() && waits(code) {
        return Err(Fault::Pending);
    }
    io.written = 0;
    io.flags_out = None;
    io.ax = None;
    let i = io.sti & 7;
    if let Some((op, form)) = arithmetic(code) {
        match form {
            Form::M32 => x.arith(op, 0, Ok(io.f32()), false),
            Form::M64 => x.arith(op, 0, Ok(io.f64()), false),
            Form::I16 => x.arith(op, 0, Ok(io.i16().value.unpack()), false),
            Form::I32 => x.arith(op, 0, Ok(io.i32().value.unpack()), false),
            Form::ToTop => x.arith(op, 0, Err(i), false),
            Form::ToSti => x.arith(op, i, Err(0), false),
            Form::ToStiPop => x.arith(op, i, Err(0), true),
        }
        return Ok(());
    }
    let layout = |wide| Layout {
        wide,
        real: io.real_mode,
    };
    match code {
        C::Fld_m32fp => x.load(extended(io.f32())),
        C::Fld_m64fp => x.load(extended(io.f64())),
        C::Fld_m80fp => x.load(Out::new(F80::from_bytes(io.bytes()), 0)),
        C::Fild_m16int => x.load(io.i16()),
        C::Fild_m32int => x.load(io.i32()),
        C::Fild_m64int => x.load(integer(i64::from_le_bytes(io.bytes()))),
        C::Fbld_m80bcd => x.load(Out::new(bcd_load(io.bytes()), 0)),
        C::Fld_sti => x.load_register(i),
        C::Fld1 => x.load_constant(F80::ONE, None),
        C::Fldz => x.load_constant(F80::default(), None),
        C::Fldl2t => x.load_constant(L2T, Some(true)),
        C::Fldl2e => x.load_constant(L2E, Some(false)),
        C::Fldpi => x.load_constant(PI, Some(false)),
        C::Fldlg2 => x.load_constant(LG2, Some(false)),
        C::Fldln2 => x.load_constant(LN2, Some(false)),

        C::Fst_m32fp | C::Fstp_m32fp => {
            let out = x.store32(code == C::Fstp_m32fp);
            io.store(out.map(|v| v.0.to_le_bytes()).as_ref().map(|b| &b[..]));
        }
        C::Fst_m64fp | C::Fstp_m64fp => {
            let out = x.store64(code == C::Fstp_m64fp);
            io.store(out.map(|v| v.0.to_le_bytes()).as_ref().map(|b| &b[..]));
        }
        C::Fstp_m80fp => {
            let out = x.store80();
            io.store(out.map(F80::to_bytes).as_ref().map(|b| &b[..]));
        }
        C::Fbstp_m80bcd => {
            let out = x.store_bcd();
            io.store(out.as_ref().map(|b| &b[..]));
        }
        C::Fist_m16int => store_int(x, io, IntKind::I16, None, false),
        C::Fist_m32int => store_int(x, io, IntKind::I32, None, false),
        C::Fistp_m16int => store_int(x, io, IntKind::I16, None, true),
        C::Fistp_m32int => store_int(x, io, IntKind::I32, None, true),
        C::Fistp_m64int => store_int(x, io, IntKind::I64, None, true),
        C::Fisttp_m16int => store_int(x, io, IntKind::I16, Some(Rounding::Zero), true),
        C::Fisttp_m32int => store_int(x, io, IntKind::I32, Some(Rounding::Zero), true),
        C::Fisttp_m64int => store_int(x, io, IntKind::I64, Some(Rounding::Zero), true),
        C::Fst_sti => x.store_register(i, false),
        C::Fstp_sti | C::Fstp_sti_DFD0 | C::Fstp_sti_DFD8 => x.store_register(i, true),
        C::Fstpnce_sti => x.store_no_fault(i),
        C::Fxch_st0_sti | C::Fxch_st0_sti_DDC8 | C::Fxch_st0_sti_DFC8 => x.exchange(i),

        C::Fcmovb_st0_sti => x.conditional_move(i, io.eflags & CF != 0),
        C::Fcmove_st0_sti => x.conditional_move(i, io.eflags & ZF != 0),
        C::Fcmovbe_st0_sti => x.conditional_move(i, io.eflags & (CF | ZF) != 0),
        C::Fcmovu_st0_sti => x.conditional_move(i, io.eflags & PF != 0),
        C::Fcmovnb_st0_sti => x.conditional_move(i, io.eflags & CF == 0),
        C::Fcmovne_st0_sti => x.conditional_move(i, io.eflags & ZF == 0),
        C::Fcmovnbe_st0_sti => x.conditional_move(i, io.eflags & (CF | ZF) == 0),
        C::Fcmovnu_st0_sti => x.conditional_move(i, io.eflags & PF == 0),

        C::Fcom_m32fp => x.compare(Ok(io.f32()), true, 0),
        C::Fcomp_m32fp => x.compare(Ok(io.f32()), true, 1),
        C::Fcom_m64fp => x.compare(Ok(io.f64()), true, 0),
        C::Fcomp_m64fp => x.compare(Ok(io.f64()), true, 1),
        C::Ficom_m16int => x.compare(Ok(io.i16().value.unpack()), true, 0),
        C::Ficomp_m16int => x.compare(Ok(io.i16().value.unpack()), true, 1),
        C::Ficom_m32int => x.compare(Ok(io.i32().value.unpack()), true, 0),
        C::Ficomp_m32int => x.compare(Ok(io.i32().value.unpack()), true, 1),
        C::Fcom_st0_sti | C::Fcom_st0_sti_DCD0 => x.compare(Err(i), true, 0),
        C::Fcomp_st0_sti | C::Fcomp_st0_sti_DCD8 | C::Fcomp_st0_sti_DED0 => {
            x.compare(Err(i), true, 1)
        }
        C::Fcompp => x.compare(Err(1), true, 2),
        C::Fucom_st0_sti => x.compare(Err(i), false, 0),
        C::Fucomp_st0_sti => x.compare(Err(i), false, 1),
        C::Fucompp => x.compare(Err(1), false, 2),
        C::Ftst => x.compare(Ok(Unpacked::zero(false)), true, 0),
        C::Fcomi_st0_sti => io.flags_out = Some(x.compare_to_flags(i, true, false)),
        C::Fcomip_st0_sti => io.flags_out = Some(x.compare_to_flags(i, true, true)),
        C::Fucomi_st0_sti => io.flags_out = Some(x.compare_to_flags(i, false, false)),
        C::Fucomip_st0_sti => io.flags_out = Some(x.compare_to_flags(i, false, true)),
        C::Fxam => x.examine(),

        C::Fchs => x.change_sign(|se| se ^ 0x8000),
        C::Fabs => x.change_sign(|se| se & 0x7FFF),
        C::Fsqrt => x.unary(float::sqrt),
        C::Frndint => x.unary(|env, a| {
            let rounded: Out<F80> = round_to_int(a, env.rounding);
            rounded.with(if a.denormal { DE } else { 0 })
        }),
        C::F2xm1 => x.unary(float::f2xm1),
        C::Fyl2x => x.binary_pop(float::fyl2x),
        C::Fyl2xp1 => x.binary_pop(float::fyl2xp1),
        C::Fpatan => x.binary_pop(float::fpatan),
        C::Fptan => x.tangent(),
        C::Fsin => x.circular(float::fsin),
        C::Fcos => x.circular(float::fcos),
        C::Fsincos => x.sin_cos(),
        C::Fprem => x.partial_remainder(false),
        C::Fprem1 => x.partial_remainder(true),
        C::Fscale => x.scale(),
        C::Fxtract => x.extract(),

        C::Fincstp => x.rotate(1),
        C::Fdecstp => x.rotate(7),
        C::Ffree_sti => x.release(i, false),
        C::Ffreep_sti => x.release(i, true),
        C::Fnop | C::Wait | C::Fneni | C::Feni | C::Fndisi | C::Fdisi | C::Fnsetpm | C::Fsetpm => {}
        C::Fninit | C::Finit => x.init(),
        C::Fnclex | C::Fclex => x.clear_exceptions(),
        C::Fnstsw_AX | C::Fstsw_AX => io.ax = Some(x.sw),
        C::Fnstsw_m2byte | C::Fstsw_m2byte => io.store(Some(&x.sw.to_le_bytes())),
        C::Fnstcw_m2byte | C::Fstcw_m2byte => io.store(Some(&x.cw.to_le_bytes())),
        C::Fldcw_m2byte => x.set_cw(u16::from_le_bytes(io.bytes())),
        C::Fldenv_m14byte => x.load_env(layout(false), &io.mem),
        C::Fldenv_m28byte => x.load_env(layout(true), &io.mem),
        C::Fnstenv_m14byte | C::Fstenv_m14byte => store_env(x, io, layout(false)),
        C::Fnstenv_m28byte | C::Fstenv_m28byte => store_env(x, io, layout(true)),
        C::Frstor_m94byte => x.load_all(layout(false), &io.mem),
        C::Frstor_m108byte => x.load_all(layout(true), &io.mem),
        C::Fnsave_m94byte | C::Fsave_m94byte => save(x, io, layout(false)),
        C::Fnsave_m108byte | C::Fsave_m108byte => save(x, io, layout(true)),
        _ => return Err(Fault::Unknown),
    }
    Ok(())
}

const CF: u32 = 1;
const PF: u32 = 1 << 2;
const ZF: u32 = 1 << 6;

fn store_int(x: &mut X87, io: &mut Io, kind: IntKind, rounding: Option<Rounding>, pop: bool) {
    let out = x.store_int(kind, rounding, pop).map(u64::to_le_bytes);
    io.store(out.as_ref().map(|bytes| &bytes[..kind.bits as usize / 8]));
}

fn store_env(x: &mut X87, io: &mut Io, layout: Layout) {
    x.store_env(layout, &mut io.mem[..layout.env_len()]);
    io.written = layout.env_len();
    x.mask_all();
}

fn save(x: &mut X87, io: &mut Io, layout: Layout) {
    x.store_all(layout, &mut io.mem[..layout.save_len()]);
    io.written = layout.save_len();
    x.init();
}

/// Where the two operands of an arithmetic instruction are.
#[derive(Clone, Copy)]
enum Form {
    M32,
    M64,
    I16,
    I32,
    /// ST(0) op ST(i), to ST(0).
    ToTop,
    /// ST(i) op ST(0), to ST(i).
    ToSti,
    /// The same, then pop.
    ToStiPop,
}

fn arithmetic(code: Code) -> Option<(Arith, Form)> {
    use Arith::{Add, Div, DivR, Mul, Sub, SubR};
    use Code as C;
    Some(match code {
        C::Fadd_m32fp => (Add, Form::M32),
        C::Fmul_m32fp => (Mul, Form::M32),
        C::Fsub_m32fp => (Sub, Form::M32),
        C::Fsubr_m32fp => (SubR, Form::M32),
        C::Fdiv_m32fp => (Div, Form::M32),
        C::Fdivr_m32fp => (DivR, Form::M32),
        C::Fadd_m64fp => (Add, Form::M64),
        C::Fmul_m64fp => (Mul, Form::M64),
        C::Fsub_m64fp => (Sub, Form::M64),
        C::Fsubr_m64fp => (SubR, Form::M64),
        C::Fdiv_m64fp => (Div, Form::M64),
        C::Fdivr_m64fp => (DivR, Form::M64),
        C::Fiadd_m16int => (Add, Form::I16),
        C::Fimul_m16int => (Mul, Form::I16),
        C::Fisub_m16int => (Sub, Form::I16),
        C::Fisubr_m16int => (SubR, Form::I16),
        C::Fidiv_m16int => (Div, Form::I16),
        C::Fidivr_m16int => (DivR, Form::I16),
        C::Fiadd_m32int => (Add, Form::I32),
        C::Fimul_m32int => (Mul, Form::I32),
        C::Fisub_m32int => (Sub, Form::I32),
        C::Fisubr_m32int => (SubR, Form::I32),
        C::Fidiv_m32int => (Div, Form::I32),
        C::Fidivr_m32int => (DivR, Form::I32),
        C::Fadd_st0_sti => (Add, Form::ToTop),
        C::Fmul_st0_sti => (Mul, Form::ToTop),
        C::Fsub_st0_sti => (Sub, Form::ToTop),
        C::Fsubr_st0_sti => (SubR, Form::ToTop),
        C::Fdiv_st0_sti => (Div, Form::ToTop),
        C::Fdivr_st0_sti => (DivR, Form::ToTop),
        C::Fadd_sti_st0 => (Add, Form::ToSti),
        C::Fmul_sti_st0 => (Mul, Form::ToSti),
        C::Fsub_sti_st0 => (Sub, Form::ToSti),
        C::Fsubr_sti_st0 => (SubR, Form::ToSti),
        C::Fdiv_sti_st0 => (Div, Form::ToSti),
        C::Fdivr_sti_st0 => (DivR, Form::ToSti),
        C::Faddp_sti_st0 => (Add, Form::ToStiPop),
        C::Fmulp_sti_st0 => (Mul, Form::ToStiPop),
        C::Fsubp_sti_st0 => (Sub, Form::ToStiPop),
        C::Fsubrp_sti_st0 => (SubR, Form::ToStiPop),
        C::Fdivp_sti_st0 => (Div, Form::ToStiPop),
        C::Fdivrp_sti_st0 => (DivR, Form::ToStiPop),
        _ => return None,
    })
}
