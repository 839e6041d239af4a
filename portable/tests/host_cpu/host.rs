//! Running one instruction on the host CPU, and the random operands to run it with.
#![expect(
    unsafe_code,
    reason = "generated code is mapped and called: that is the point of comparing with the host"
)]
// UNSAFETY: the tests call machine code that they assembled themselves; the library under test has no unsafe code.

use iced_x86::{Code, OpKind};
use iced_x86::{Encoder, Instruction, MemoryOperand, OpCodeOperandKind, Register};

/// Executable memory with one function in it: `extern "sysv64" fn(frame)`.
pub struct Stub {
    code: *mut libc::c_void,
    len: usize,
}

impl Stub {
    /// Maps `bytes` executable.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().next_multiple_of(4096);
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a fresh anonymous mapping disturbs nothing.
        let code = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(code, libc::MAP_FAILED, "no memory for a stub");
        // SAFETY: the mapping is writable and at least as long.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), code.cast(), bytes.len()) };
        // SAFETY: the mapping is ours; it becomes read-only code.
        let result = unsafe { libc::mprotect(code, len, libc::PROT_READ | libc::PROT_EXEC) };
        assert_eq!(result, 0, "a stub can't be made executable");
        Self { code, len }
    }

    /// Address of the function.
    pub fn address(&self) -> u64 {
        self.code as u64
    }

    /// Calls the function with a pointer to `frame`.
    pub fn call<T>(&self, frame: &mut T) {
        // SAFETY: the mapping holds a function of this signature that obeys the System V ABI and touches only the frame.
        let function = unsafe {
            std::mem::transmute::<*mut libc::c_void, extern "sysv64" fn(*mut T)>(self.code)
        };
        function(frame);
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.code, self.len) };
    }
}

/// The instruction `code` with its memory operand at RDI + `mem`, the given register for each register operand
/// (`pick(operand index, kind)`), and `imm`. `None` where an operand kind isn't one that tests use.
pub fn instruction(
    code: Code,
    mem: Option<i64>,
    imm: u8,
    pick: impl Fn(usize, OpCodeOperandKind) -> Register,
) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let mut insn = Instruction::default();
    insn.set_code(code);
    let info = code.op_code();
    for (i, &kind) in info.op_kinds().iter().enumerate() {
        let memory = |insn: &mut Instruction| {
            let at = MemoryOperand::with_base_displ(Register::RDI, mem.unwrap_or(0));
            insn.set_op_kind(i as u32, OpKind::Memory);
            insn.set_memory_base(at.base);
            insn.set_memory_displacement64(at.displacement as u64);
            insn.set_memory_displ_size(8);
        };
        match kind {
            K::mem => memory(&mut insn),
            K::imm8 => {
                insn.set_op_kind(i as u32, OpKind::Immediate8);
                insn.set_immediate8(imm);
            }
            K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
                if mem.is_some() =>
            {
                memory(&mut insn);
            }
            K::seg_rDI => {
                insn.set_op_kind(i as u32, OpKind::MemorySegRDI);
            }
            _ => {
                insn.set_op_kind(i as u32, OpKind::Register);
                insn.set_op_register(i as u32, pick(i, kind));
            }
        }
    }
    Some(insn)
}

/// Appends the encoding of `insn`.
pub fn encode(bytes: &mut Vec<u8>, insn: &Instruction) {
    let mut encoder = Encoder::new(64);
    encoder
        .encode(insn, bytes.len() as u64)
        .unwrap_or_else(|error| panic!("{insn:?}: {error}"));
    bytes.extend(encoder.take_buffer());
}

/// Where a stub goes on after a floating-point exception; the first thing in the frame that R11 points at.
#[repr(C, align(32))]
#[derive(Clone)]
pub struct Resume {
    /// Address to go on at.
    pub address: u64,
    /// 1 if the exception came.
    pub taken: u64,
}

impl Resume {
    /// Go on at `address`.
    pub fn new(address: u64) -> Self {
        Self { address, taken: 0 }
    }
}

extern "C" fn on_float_exception(
    _: libc::c_int,
    _: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes the interrupted thread's context, which no one else uses meanwhile.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let frame = registers[libc::REG_R11 as usize] as *mut Resume;
    // SAFETY: floating-point exceptions are unmasked only inside stubs, which keep their frame in R11.
    let resume = unsafe { &mut *frame };
    resume.taken = 1;
    registers[libc::REG_RIP as usize] = resume.address as i64;
}

/// Makes a floating-point exception in a stub go on at its frame's [`Resume::address`].
pub fn catch_float_exceptions() {
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_float_exception as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler touches only the context and the stub's frame.
    let result = unsafe { libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0, "no handler for SIGFPE");
}

/// Rounds of a test: `default` times DOPPEL_TEST_ROUNDS.
pub fn rounds(default: u64) -> u64 {
    let factor = std::env::var("DOPPEL_TEST_ROUNDS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1);
    default * factor
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// Seeded, so that every run is the same; DOPPEL_TEST_SEED gives others.
    pub fn new(seed: u64) -> Self {
        let extra = std::env::var("DOPPEL_TEST_SEED")
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(0u64);
        Self(seed ^ extra.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A significand's fraction of `bits` bits: random, or with few bits, or near its limits.
    pub fn fraction(&mut self, bits: u32) -> u64 {
        let mask = u64::MAX >> (64 - bits);
        let value = match self.below(8) {
            0 => 0,
            1 => mask,
            2 => 1 << self.below(bits.into()),
            3 => mask << self.below(bits.into()),
            4 => mask >> self.below(bits.into()),
            5 => self.next() << (self.below(bits.into())),
            _ => self.next(),
        };
        let value = match self.below(8) {
            0 => value ^ 1,
            1 => value.wrapping_add(1),
            2 => value.wrapping_sub(1),
            _ => value,
        };
        value & mask
    }

    /// A biased exponent of a format with exponents up to `max` (all ones): around one, at the ends, or anywhere.
    pub fn exponent(&mut self, max: u64) -> u64 {
        let bias = max / 2;
        match self.below(16) {
            0..=6 => bias - 8 + self.below(16),
            7..=8 => bias - bias.min(70) + self.below(2 * bias.min(70)),
            9 => self.below(4),
            10 => max - self.below(4),
            11 => 0,
            12 => max,
            13 => bias / 2 + self.below(5),
            14 => bias + bias / 2 + self.below(5),
            _ => self.below(max + 1),
        }
    }

    /// A binary32.
    pub fn f32(&mut self) -> u32 {
        (self.below(2) << 31 | self.exponent(0xFF) << 23 | self.fraction(23)) as u32
    }

    /// A binary64.
    pub fn f64(&mut self) -> u64 {
        self.below(2) << 63 | self.exponent(0x7FF) << 52 | self.fraction(52)
    }

    /// An x87 register: sign and exponent, significand. One in 32 lacks the integer bit that it should have.
    pub fn f80(&mut self) -> (u16, u64) {
        let exponent = self.exponent(0x7FFF);
        let mut sig = self.fraction(63);
        if exponent != 0 || self.one_in(4) {
            sig |= 1 << 63;
        }
        if self.one_in(32) {
            sig &= u64::MAX >> 1;
        }
        ((self.below(2) << 15 | exponent) as u16, sig)
    }
}

/// Differences of one instruction: how many, and the first few in words.
#[derive(Default)]
pub struct Differences {
    count: u64,
    texts: Vec<String>,
}

impl Differences {
    /// Notes one.
    pub fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.texts.len() < 4 {
            self.texts.push(text());
        }
    }

    /// Fails the test if there were any.
    pub fn report(all: Vec<(String, Differences)>) {
        let mut failed = 0;
        for (name, differences) in all {
            if differences.count > 0 {
                failed += 1;
                eprintln!("{name}: {} differ", differences.count);
                for text in &differences.texts {
                    eprintln!("    {text}");
                }
            }
        }
        assert_eq!(failed, 0, "instructions differ from the host CPU");
    }
}
