//! The helpers that `call` may name, and the small enumerations in ops' `sub` fields.
//!
//! A helper is a big, rare thing: a Rust function of `system`, the same for all software engines. Its arguments are the
//! op's a, b, c as 64-bit values (zero when absent); it may raise an exception, and then has changed nothing.

use crate::operand::Width;

macro_rules! numbered {
    ($(#[$meta:meta])* $enum:ident { $( $(#[$doc:meta])* $name:ident = $text:literal, )* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $enum { $( $(#[$doc])* $name, )* }

        impl $enum {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in the text form.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The value an op's `sub` stands for.
            pub fn from_index(index: u32) -> Option<Self> {
                Self::ALL.get(usize::try_from(index).ok()?).copied()
            }
        }
    };
}

numbered! {
    /// A helper function. `opsize` arguments are bytes (2, 4, 8); "next" is RIP after the instruction.
    ///
    /// Helpers marked (RIP) set RIP themselves: the block ends with `exit helper`. Helpers marked (mode) may change
    /// what blocks are keyed by: the block ends with `exit next`.
    HelperId {
        // Far control transfers (RIP).
        /// JMP far: a = selector, b = offset, c = opsize. (RIP)
        FarJump = "far_jump",
        /// CALL far: a = selector, b = offset, c = opsize | instruction length << 8. (RIP)
        FarCall = "far_call",
        /// RET far: a = bytes to release, c = opsize. (RIP)
        FarRet = "far_ret",
        /// IRET: c = opsize. (RIP)
        Iret = "iret",
        /// INT n, INT3, INTO, INT1: a = vector, b = instruction length, c = kind (0 INT n, 1 INT3/INTO, 2 INT1). (RIP)
        SoftInt = "soft_int",
        /// SYSCALL: b = instruction length. (RIP)
        Syscall = "syscall",
        /// SYSRET: c = opsize. (RIP)
        Sysret = "sysret",
        /// SYSENTER. (RIP)
        Sysenter = "sysenter",
        /// SYSEXIT: c = opsize. (RIP)
        Sysexit = "sysexit",

        // Segments and tables.
        /// Loads segment register a (x86::Seg) with selector b; c = 1: MOV SS or POP SS, which set the shadow. (mode)
        LoadSeg = "load_seg",
        /// dst = selector of segment register a.
        ReadSeg = "read_seg",
        /// LGDT: a = limit, b = base. (checks privilege)
        Lgdt = "lgdt",
        /// LIDT: a = limit, b = base. (checks privilege)
        Lidt = "lidt",
        /// LLDT: a = selector.
        Lldt = "lldt",
        /// LTR: a = selector.
        Ltr = "ltr",
        /// SGDT: dst = base (a = 0) or limit (a = 1); checks UMIP.
        Sgdt = "sgdt",
        /// SIDT: as SGDT.
        Sidt = "sidt",
        /// SLDT: dst = selector; checks UMIP.
        Sldt = "sldt",
        /// STR: dst = selector; checks UMIP.
        Str = "str",
        /// SMSW: dst = CR0; checks UMIP.
        Smsw = "smsw",
        /// LMSW: a = value. (mode)
        Lmsw = "lmsw",
        /// LAR: a = selector, b = old destination, c = opsize; dst = new destination; ZF written. Both are the whole
        /// 64-bit register: the helper merges 16 bits, zero-extends 32, and returns b when the descriptor is refused.
        Lar = "lar",
        /// LSL: as LAR.
        Lsl = "lsl",
        /// VERR (c = 0), VERW (c = 1): a = selector; ZF written.
        Verify = "verify",
        /// ARPL: a = destination, b = source; dst = new destination; ZF written.
        Arpl = "arpl",

        // Control registers, MSRs, CPUID, time.
        /// dst = CRa (0, 2, 3, 4, 8); privilege checked.
        ReadCr = "read_cr",
        /// CRa = b. (mode)
        WriteCr = "write_cr",
        /// dst = DRa.
        ReadDr = "read_dr",
        /// DRa = b. (mode)
        WriteDr = "write_dr",
        /// CLTS. (mode)
        Clts = "clts",
        /// CPUID: reads EAX, ECX, writes EAX..EDX.
        Cpuid = "cpuid",
        /// RDMSR: reads ECX, writes EDX:EAX.
        Rdmsr = "rdmsr",
        /// WRMSR. (mode)
        Wrmsr = "wrmsr",
        /// RDTSC (a = 0), RDTSCP (a = 1): writes EDX:EAX (ECX).
        Rdtsc = "rdtsc",
        /// RDPMC.
        Rdpmc = "rdpmc",
        /// dst = IA32_TSC_AUX.
        Rdpid = "rdpid",
        /// XGETBV: reads ECX, writes EDX:EAX.
        Xgetbv = "xgetbv",
        /// XSETBV. (mode)
        Xsetbv = "xsetbv",
        /// RDPKRU.
        Rdpkru = "rdpkru",
        /// WRPKRU.
        Wrpkru = "wrpkru",
        /// SWAPGS.
        Swapgs = "swapgs",
        /// dst = FS.base (a = 4) or GS.base (a = 5); CR4.FSGSBASE is checked by the block's key.
        ReadSegBase = "read_seg_base",
        /// FS.base or GS.base (a) = b; #GP(0) when not canonical.
        WriteSegBase = "write_seg_base",
        /// INVLPG: a = linear address.
        Invlpg = "invlpg",
        /// INVPCID: a = type, b = linear address of the descriptor.
        Invpcid = "invpcid",
        /// INVD, WBINVD: privilege only.
        Wbinvd = "wbinvd",

        // Flags and interrupts.
        /// CLI.
        Cli = "cli",
        /// STI; sets the shadow when IF was 0.
        Sti = "sti",
        /// dst = the image that PUSHF of opsize c pushes; checks IOPL in VM86.
        PushfImage = "pushf_image",
        /// POPF: a = image, c = opsize. (mode)
        Popf = "popf",
        /// CLAC (a = 0), STAC (a = 1). (mode)
        SetAc = "set_ac",
        /// HLT.
        Hlt = "hlt",
        /// MONITOR: a = linear address.
        Monitor = "monitor",
        /// MWAIT.
        Mwait = "mwait",
        /// PAUSE: in a row, the core is given away.
        Pause = "pause",

        // Ports.
        /// dst = IN of c bytes from port a.
        In = "in",
        /// OUT of c bytes: b to port a.
        Out = "out",

        // Stack frames and the like.
        /// ENTER: a = frame size, b = nesting level, c = opsize.
        Enter = "enter",
        /// PUSHA: c = opsize.
        Pusha = "pusha",
        /// POPA: c = opsize.
        Popa = "popa",
        /// BOUND: a = index, b, c = bounds, all sign-extended.
        Bound = "bound",
        /// AAA, AAS, DAA, DAS (a = 0..3), AAM, AAD (a = 4, 5; b = base): AX and flags.
        Bcd = "bcd",
        /// RDRAND (a = 0), RDSEED (a = 1), c = opsize; dst = value; CF written, others cleared.
        Random = "random",

        // FPU, vector and extended state images.
        /// #MF when an unmasked x87 exception is pending (FWAIT and waiting instructions that aren't `x87` ops).
        FpuCheck = "fpu_check",
        /// FXSAVE: a = linear address, c = opsize (4 or 8).
        Fxsave = "fxsave",
        /// FXRSTOR: as FXSAVE.
        Fxrstor = "fxrstor",
        /// XSAVE, XSAVEOPT, XSAVEC, XSAVES: a = linear address, b = 0..3, c = opsize.
        Xsave = "xsave",
        /// XRSTOR, XRSTORS: a = linear address, b = 0..1, c = opsize.
        Xrstor = "xrstor",
        /// dst = MXCSR; b as for LDMXCSR.
        Stmxcsr = "stmxcsr",
        /// MXCSR = a; #GP(0) on reserved bits. b = 1: VLDMXCSR, for which CR0.EM and CR4.OSFXSR don't matter.
        Ldmxcsr = "ldmxcsr",
        /// FNSTENV: a = linear address, c = opsize.
        Fnstenv = "fnstenv",
        /// FLDENV: as FNSTENV.
        Fldenv = "fldenv",
        /// FNSAVE: as FNSTENV.
        Fnsave = "fnsave",
        /// FRSTOR: as FNSTENV.
        Frstor = "frstor",
        /// MASKMOVQ, MASKMOVDQU: a = linear address, b = data register, c = mask register (+100h: MMX).
        MaskMov = "mask_mov",
        /// EMMS.
        Emms = "emms",

        // Later additions.
        /// INTO: goes on after the instruction when OF is clear, else as SoftInt; b = instruction length. (RIP)
        Into = "into",
        /// VMASKMOVPS and its kin, loads: a = effective address, b = destination | mask register << 8, c = an
        /// [`Elements`]. What the mask leaves out is not accessed.
        MaskLoad = "mask_load",
        /// The same, stores: b = source | mask register << 8.
        MaskStore = "mask_store",
        /// VGATHERDPS and its kin: a = base + displacement, b = destination | mask register << 8 | index register << 16,
        /// c = an [`Elements`]. On a fault the elements before are done and their masks cleared.
        Gather = "gather",
        /// The same with an opmask: b = destination | mask register << 8 | index register << 16. What is done is cleared in
        /// the mask.
        GatherMasked = "gather_masked",
        /// VSCATTERDPS and its kin: as GatherMasked, b = source | mask register << 8 | index register << 16.
        Scatter = "scatter",
    }
}

/// How a vector lies in memory element by element: argument c of the helpers that access it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elements {
    /// An element's width.
    pub width: Width,
    /// How many there are.
    pub count: u8,
    /// The segment (`x86::Seg` number).
    pub seg: u8,
    /// Address size: B32, B64 (B16).
    pub addr: Width,
    /// Gather: an index's width.
    pub index: Width,
    /// Gather: log2 of the index's factor.
    pub scale: u8,
}

impl Elements {
    /// Packs it into a constant.
    pub fn encode(self) -> i64 {
        self.width as i64
            | (self.addr as i64) << 4
            | (self.index as i64) << 8
            | i64::from(self.scale & 3) << 12
            | i64::from(self.seg & 7) << 16
            | i64::from(self.count) << 24
    }

    /// Unpacks it.
    pub fn decode(value: u64) -> Self {
        let width = |shift: u32| Width::ALL[(value >> shift) as usize & 3];
        Self {
            width: width(0),
            addr: width(4),
            index: width(8),
            scale: (value >> 12) as u8 & 3,
            seg: (value >> 16) as u8 & 7,
            count: (value >> 24) as u8,
        }
    }
}

numbered! {
    /// How a block is left.
    Exit {
        /// Go on at `a` after looking at events and taking a fresh block key.
        Next = "next",
        /// Go on at RIP, which a helper has set.
        Helper = "helper",
    }
}

numbered! {
    /// What kind of indirect jump, for prediction.
    Jump {
        /// JMP.
        Jmp = "jmp",
        /// CALL.
        Call = "call",
        /// RET.
        Ret = "ret",
    }
}

numbered! {
    /// What a prefetch says about the use of the line.
    Hint {
        /// PREFETCHNTA.
        NonTemporal = "nta",
        /// PREFETCHT0.
        Level1 = "t0",
        /// PREFETCHT1.
        Level2 = "t1",
        /// PREFETCHT2.
        Level3 = "t2",
        /// PREFETCHW: it will be written.
        Write = "w",
    }
}

numbered! {
    /// Which string instruction.
    StringKind {
        /// MOVS.
        Movs = "movs",
        /// CMPS.
        Cmps = "cmps",
        /// STOS.
        Stos = "stos",
        /// LODS.
        Lods = "lods",
        /// SCAS.
        Scas = "scas",
        /// INS.
        Ins = "ins",
        /// OUTS.
        Outs = "outs",
    }
}

numbered! {
    /// A string instruction's repeat prefix.
    Rep {
        /// None.
        None = "",
        /// REP, REPE.
        Rep = "rep",
        /// REPNE.
        Repne = "repne",
    }
}

/// Everything a `string` op's `sub` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringOp {
    /// Which instruction.
    pub kind: StringKind,
    /// Repeat prefix.
    pub rep: Rep,
    /// Element width.
    pub width: Width,
    /// Address size: B16, B32, B64.
    pub addr: Width,
    /// The source's segment (`x86::Seg` number); the destination's is ES.
    pub seg: u8,
    /// Instruction length in bytes, for RIP after the last iteration.
    pub len: u8,
}

impl StringOp {
    /// Packs it into an op's `sub`.
    pub fn encode(self) -> u32 {
        self.kind as u32
            | (self.rep as u32) << 4
            | (self.width as u32) << 8
            | (self.addr as u32) << 12
            | u32::from(self.seg) << 16
            | u32::from(self.len) << 20
    }

    /// Unpacks an op's `sub`; `None` when no string op packs to it.
    pub fn decode(sub: u32) -> Option<Self> {
        let field = |shift: u32| (sub >> shift) & 0xf;
        let width = |shift| Width::ALL.get(field(shift) as usize).copied();
        let op = Self {
            kind: StringKind::from_index(field(0))?,
            rep: Rep::from_index(field(4))?,
            width: width(8)?,
            addr: width(12)?,
            seg: field(16) as u8,
            len: (sub >> 20) as u8,
        };
        (op.seg < 6 && sub >> 28 == 0).then_some(op)
    }
}
