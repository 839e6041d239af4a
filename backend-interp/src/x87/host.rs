//! One x87 operation on the host: operands in memory, result and status word back, the register stack empty around it.
#![expect(unsafe_code, reason = "the x87 has no intrinsics")]
// UNSAFETY: every function below is one asm block on memory that the caller vouches for. The stack of host registers
// is balanced inside each block, all of it is declared clobbered, and exceptions are masked in the control word, so
// that nothing of it shows in the status word but its flags and condition codes.

use std::arch::asm;

/// The control word that Rust code expects and FNINIT sets.
pub const DEFAULT_CW: u16 = 0x37f;

static CONTROL: u16 = DEFAULT_CW;

/// Runs an asm block that leaves the status word in AX.
macro_rules! x87 {
    ($($line:expr),+; $($name:ident = $value:expr),*) => {{
        let status: u16;
        // SAFETY: the callers' contract; see the head of this file.
        unsafe {
            asm!($($line,)+ $($name = in(reg) $value,)* out("ax") status,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack, preserves_flags));
        }
        status
    }};
}

/// What one operation is to the handlers; see [`super::handlers`].
pub trait Binary {
    /// `*a = *a op *b`, both ten bytes in the host's memory.
    ///
    /// # Safety
    /// Both point to at least ten bytes that may be read, `a`'s written.
    unsafe fn registers(a: *mut u8, b: *const u8) -> u16;
    /// `*a = *a op *m` for a float of four bytes.
    ///
    /// # Safety
    /// `a` as above, `m` points to the operand.
    unsafe fn m32(a: *mut u8, m: *const u8) -> u16;
    /// The same for a float of eight bytes.
    ///
    /// # Safety
    /// As above.
    unsafe fn m64(a: *mut u8, m: *const u8) -> u16;
    /// The same for an integer of two bytes.
    ///
    /// # Safety
    /// As above.
    unsafe fn i16(a: *mut u8, m: *const u8) -> u16;
    /// The same for an integer of four bytes.
    ///
    /// # Safety
    /// As above.
    unsafe fn i32(a: *mut u8, m: *const u8) -> u16;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident $pop:literal $float:literal $int:literal;)*) => {$(
        $(#[$doc])*
        pub struct $name;

        impl Binary for $name {
            #[inline(always)]
            unsafe fn registers(a: *mut u8, b: *const u8) -> u16 {
                x87!("fld tbyte ptr [{a}]", "fld tbyte ptr [{b}]", $pop, "fnstsw ax", "fstp tbyte ptr [{a}]";
                    a = a, b = b)
            }

            #[inline(always)]
            unsafe fn m32(a: *mut u8, m: *const u8) -> u16 {
                x87!("fld tbyte ptr [{a}]", concat!($float, " dword ptr [{m}]"), "fnstsw ax", "fstp tbyte ptr [{a}]";
                    a = a, m = m)
            }

            #[inline(always)]
            unsafe fn m64(a: *mut u8, m: *const u8) -> u16 {
                x87!("fld tbyte ptr [{a}]", concat!($float, " qword ptr [{m}]"), "fnstsw ax", "fstp tbyte ptr [{a}]";
                    a = a, m = m)
            }

            #[inline(always)]
            unsafe fn i16(a: *mut u8, m: *const u8) -> u16 {
                x87!("fld tbyte ptr [{a}]", concat!($int, " word ptr [{m}]"), "fnstsw ax", "fstp tbyte ptr [{a}]";
                    a = a, m = m)
            }

            #[inline(always)]
            unsafe fn i32(a: *mut u8, m: *const u8) -> u16 {
                x87!("fld tbyte ptr [{a}]", concat!($int, " dword ptr [{m}]"), "fnstsw ax", "fstp tbyte ptr [{a}]";
                    a = a, m = m)
            }
        }
    )*};
}

binary! {
    /// FADD.
    Add "faddp st(1), st" "fadd" "fiadd";
    /// FMUL.
    Mul "fmulp st(1), st" "fmul" "fimul";
    /// FSUB.
    Sub "fsubp st(1), st" "fsub" "fisub";
    /// FSUBR.
    SubR "fsubrp st(1), st" "fsubr" "fisubr";
    /// FDIV.
    Div "fdivp st(1), st" "fdiv" "fidiv";
    /// FDIVR.
    DivR "fdivrp st(1), st" "fdivr" "fidivr";
}

/// Compares `*a` with `*b`, ten bytes each; `SIGNALLING` as FCOM, else as FUCOM.
///
/// # Safety
/// Both point to at least ten bytes.
#[inline(always)]
pub unsafe fn compare<const SIGNALLING: bool>(a: *const u8, b: *const u8) -> u16 {
    if SIGNALLING {
        x87!("fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fcompp", "fnstsw ax"; a = a, b = b)
    } else {
        x87!("fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fucompp", "fnstsw ax"; a = a, b = b)
    }
}

/// What ten bytes in the host's memory go through in place, or beside an operand in guest memory.
macro_rules! on_memory {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),+) $($line:literal),+;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// The pointers lead to as many bytes as the instruction reads or writes.
        #[inline(always)]
        pub unsafe fn $name($($arg: *mut u8),+) -> u16 {
            x87!($($line),+; $($arg = $arg),+)
        }
    )*};
}

on_memory! {
    /// FSQRT of `*a`, in place.
    sqrt(a) "fld tbyte ptr [{a}]", "fsqrt", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FRNDINT of `*a`, in place.
    round(a) "fld tbyte ptr [{a}]", "frndint", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FTST of `*a`.
    test(a) "fld tbyte ptr [{a}]", "ftst", "fnstsw ax", "fstp st(0)";
    /// FCOM m32.
    compare_m32(a, m) "fld tbyte ptr [{a}]", "fcomp dword ptr [{m}]", "fnstsw ax";
    /// FCOM m64.
    compare_m64(a, m) "fld tbyte ptr [{a}]", "fcomp qword ptr [{m}]", "fnstsw ax";
    /// FICOM m16.
    compare_i16(a, m) "fld tbyte ptr [{a}]", "ficomp word ptr [{m}]", "fnstsw ax";
    /// FICOM m32.
    compare_i32(a, m) "fld tbyte ptr [{a}]", "ficomp dword ptr [{m}]", "fnstsw ax";
    /// FLD m32 to `*a`.
    load_m32(a, m) "fld dword ptr [{m}]", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FLD m64 to `*a`.
    load_m64(a, m) "fld qword ptr [{m}]", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FLD m80 to `*a`.
    load_m80(a, m) "fld tbyte ptr [{m}]", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FILD m16 to `*a`.
    load_i16(a, m) "fild word ptr [{m}]", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FILD m32 to `*a`.
    load_i32(a, m) "fild dword ptr [{m}]", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FILD m64 to `*a`.
    load_i64(a, m) "fild qword ptr [{m}]", "fnstsw ax", "fstp tbyte ptr [{a}]";
    /// FST m32 of `*a`.
    store_m32(a, m) "fld tbyte ptr [{a}]", "fstp dword ptr [{m}]", "fnstsw ax";
    /// FST m64 of `*a`.
    store_m64(a, m) "fld tbyte ptr [{a}]", "fstp qword ptr [{m}]", "fnstsw ax";
    /// FSTP m80 of `*a`.
    store_m80(a, m) "fld tbyte ptr [{a}]", "fstp tbyte ptr [{m}]", "fnstsw ax";
    /// FIST m16 of `*a`.
    store_i16(a, m) "fld tbyte ptr [{a}]", "fistp word ptr [{m}]", "fnstsw ax";
    /// FIST m32 of `*a`.
    store_i32(a, m) "fld tbyte ptr [{a}]", "fistp dword ptr [{m}]", "fnstsw ax";
    /// FISTP m64 of `*a`.
    store_i64(a, m) "fld tbyte ptr [{a}]", "fistp qword ptr [{m}]", "fnstsw ax";
    /// FISTTP m16 of `*a` (SSE3).
    chop_i16(a, m) "fld tbyte ptr [{a}]", "fisttp word ptr [{m}]", "fnstsw ax";
    /// FISTTP m32 of `*a` (SSE3).
    chop_i32(a, m) "fld tbyte ptr [{a}]", "fisttp dword ptr [{m}]", "fnstsw ax";
    /// FISTTP m64 of `*a` (SSE3).
    chop_i64(a, m) "fld tbyte ptr [{a}]", "fisttp qword ptr [{m}]", "fnstsw ax";
}

/// Loads a control word with all exceptions masked.
#[inline(always)]
pub fn control(cw: &u16) {
    debug_assert!(cw & 0x3f == 0x3f);
    let at = std::ptr::from_ref(cw);
    // SAFETY: FLDCW reads the two bytes of `cw`; the callers put the default back before other code runs.
    unsafe { asm!("fldcw word ptr [{}]", in(reg) at, options(nostack, readonly, preserves_flags)) };
}

/// Puts back what Rust code expects.
#[inline(always)]
pub fn default_control() {
    control(&CONTROL);
}

/// The exception flags that the host's status word holds.
pub fn flags() -> u16 {
    x87!("fnstsw ax";) & 0x3f
}

/// FNCLEX: slow.
pub fn clear_flags() {
    // SAFETY: it changes the status word only, whose flags nobody else reads.
    unsafe { asm!("fnclex", options(nostack, preserves_flags)) };
}
