//! The op table: every op's name, operands and effects. Enum, printer, parser, verifier and passes come from it.

use crate::operand::FlagSet;

/// What an op's `sub` field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sub {
    /// Nothing (zero).
    None,
    /// A [`crate::Cond`].
    Cond,
    /// A [`crate::Width`]: the source's width.
    Width,
    /// An [`OpCode`] of the table's arithmetic part.
    Alu,
    /// A [`crate::HelperId`].
    Helper,
    /// A [`crate::VecInsn`]: which vector or x87 instruction (an `iced_x86::Code`), and what EVEX adds to it.
    Code,
    /// A segment register (`x86::Seg`).
    Seg,
    /// A [`crate::Exit`].
    Exit,
    /// A [`crate::Jump`].
    Jump,
    /// A [`crate::Hint`].
    Hint,
    /// A [`crate::StringOp`].
    String,
    /// A plain number.
    Number,
}

/// How an op uses its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemUse {
    /// It has none.
    None,
    /// It computes the address and does not access it.
    Address,
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It reads and writes, with write permission checked first.
    ReadWrite,
}

/// What a row of the table says.
#[derive(Clone, Copy, Debug)]
pub struct OpInfo {
    /// Name in the text form.
    pub name: &'static str,
    /// Results that the op may have (0, 1, 2).
    pub dsts: u8,
    /// Operands `a`, `b`, `c` that the op may have (0..=3).
    pub args: u8,
    /// Its memory operand.
    pub mem: MemUse,
    /// The meaning of `sub`.
    pub sub: Sub,
    /// The flags that it writes when they are wanted.
    pub defines: FlagSet,
    /// The flags that it reads, beside those of a `Cond`.
    pub uses: FlagSet,
    /// It may raise an exception or leave the block other than at its end.
    pub faults: bool,
    /// It has an effect beside its results and flags: it must stay though nobody uses them.
    pub effect: bool,
    /// It ends a block.
    pub terminal: bool,
}

impl OpInfo {
    /// An op that only computes.
    const fn plain(name: &'static str, dsts: u8, args: u8) -> Self {
        Self {
            name,
            dsts,
            args,
            mem: MemUse::None,
            sub: Sub::None,
            defines: FlagSet::NONE,
            uses: FlagSet::NONE,
            faults: false,
            effect: false,
            terminal: false,
        }
    }
}

macro_rules! ops {
    ($( $(#[$doc:meta])* $code:ident $name:literal
        dsts $dsts:literal args $args:literal
        $(mem $mem:ident)? $(sub $sub:ident)? $(defines $def:ident)? $(uses $use:ident)?
        $(; $($attr:ident)*)? ,)*) => {
        /// What an op does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum OpCode { $( $(#[$doc])* $code, )* }

        impl OpCode {
            /// All of them, in table order.
            pub const ALL: &'static [Self] = &[$(Self::$code,)*];

            /// The op's row.
            pub const fn info(self) -> &'static OpInfo {
                &INFO[self as usize]
            }
        }

        static INFO: &[OpInfo] = &[$(
            OpInfo {
                $( mem: MemUse::$mem, )?
                $( sub: Sub::$sub, )?
                $( defines: FlagSet::$def, )?
                $( uses: FlagSet::$use, )?
                $( $( $attr: true, )* )?
                ..OpInfo::plain($name, $dsts, $args)
            },
        )*];
    };
}

ops! {
    // Structure.
    /// An instruction begins: `a` = Imm(offset from the block's start), `sub` = its length in bytes, perhaps with
    /// [`crate::PART`].
    Insn "insn" dsts 0 args 1 sub Number; effect,

    // Moves.
    /// dst = a.
    Mov "mov" dsts 1 args 1,
    /// dst = a zero-extended from width `sub`.
    Zext "zext" dsts 1 args 1 sub Width,
    /// dst = a sign-extended from width `sub`.
    Sext "sext" dsts 1 args 1 sub Width,
    /// dst = the effective address (segment not added), cut to the address size and the op's width.
    Lea "lea" dsts 1 args 0 mem Address,
    /// dst = cond ? a : b. (CMOVcc; a 32-bit one clears the upper half either way.)
    Select "select" dsts 1 args 2 sub Cond,
    /// dst = cond ? 1 : 0, width 8.
    Setcc "setcc" dsts 1 args 0 sub Cond,
    /// dst = a with its bytes in reverse order.
    Bswap "bswap" dsts 1 args 1,

    // Arithmetic. With dst None only the flags are wanted (CMP, TEST).
    /// dst = a + b.
    Add "add" dsts 1 args 2 defines ALL,
    /// dst = a + b + CF.
    Adc "adc" dsts 1 args 2 defines ALL uses C,
    /// dst = a - b.
    Sub "sub" dsts 1 args 2 defines ALL,
    /// dst = a - b - CF.
    Sbb "sbb" dsts 1 args 2 defines ALL uses C,
    /// dst = a & b. AF is cleared.
    And "and" dsts 1 args 2 defines ALL,
    /// dst = a | b. AF is cleared.
    Or "or" dsts 1 args 2 defines ALL,
    /// dst = a ^ b. AF is cleared.
    Xor "xor" dsts 1 args 2 defines ALL,
    /// dst = a + 1; CF stays.
    Inc "inc" dsts 1 args 1 defines NOT_C,
    /// dst = a - 1; CF stays.
    Dec "dec" dsts 1 args 1 defines NOT_C,
    /// dst = 0 - a.
    Neg "neg" dsts 1 args 1 defines ALL,
    /// dst = !a.
    Not "not" dsts 1 args 1,
    /// dst = a << b. The count is b mod 32 (mod 64 at width 64); a count of 0 leaves all flags as they are.
    Shl "shl" dsts 1 args 2 defines ALL,
    /// dst = a >> b, zeros in. Count as Shl.
    Shr "shr" dsts 1 args 2 defines ALL,
    /// dst = a >> b, sign bits in. Count as Shl.
    Sar "sar" dsts 1 args 2 defines ALL,
    /// dst = a rotated left. Count masked as Shl, then taken mod the width; flags change when the masked count isn't 0.
    Rol "rol" dsts 1 args 2 defines CO,
    /// dst = a rotated right. Count as Rol.
    Ror "ror" dsts 1 args 2 defines CO,
    /// dst = a rotated left through CF. Count masked as Shl, then mod width + 1.
    Rcl "rcl" dsts 1 args 2 defines CO uses C,
    /// dst = a rotated right through CF. Count as Rcl.
    Rcr "rcr" dsts 1 args 2 defines CO uses C,
    /// dst = a << c with bits of b shifted in. Count as Shl.
    Shld "shld" dsts 1 args 3 defines ALL,
    /// dst = a >> c with bits of b shifted in. Count as Shl.
    Shrd "shrd" dsts 1 args 3 defines ALL,
    /// dst, dst2 = low and high half of the unsigned product a * b.
    MulU "mulu" dsts 2 args 2 defines ALL,
    /// dst, dst2 = low and high half of the signed product a * b.
    MulS "muls" dsts 2 args 2 defines ALL,
    /// dst = low half of the signed product a * b (IMUL with two or three operands).
    Imul "imul" dsts 1 args 2 defines ALL,
    /// dst, dst2 = quotient and remainder of b:a (b high) by c, unsigned. #DE when c is 0 or the quotient does not fit.
    DivU "divu" dsts 2 args 3; faults,
    /// dst, dst2 = quotient and remainder of b:a (b high) by c, signed. #DE as DivU.
    DivS "divs" dsts 2 args 3; faults,

    // Bits.
    /// CF = bit (b mod width) of a.
    Bt "bt" dsts 0 args 2 defines C,
    /// As Bt; dst = a with the bit set.
    Bts "bts" dsts 1 args 2 defines C,
    /// As Bt; dst = a with the bit clear.
    Btr "btr" dsts 1 args 2 defines C,
    /// As Bt; dst = a with the bit complemented.
    Btc "btc" dsts 1 args 2 defines C,
    /// dst = index of the lowest one bit of a; when a is 0, ZF is set and dst = b (the old value).
    Bsf "bsf" dsts 1 args 2 defines ALL,
    /// dst = index of the highest one bit of a; when a is 0, ZF is set and dst = b (the old value).
    Bsr "bsr" dsts 1 args 2 defines ALL,
    /// dst = trailing zero bits of a.
    Tzcnt "tzcnt" dsts 1 args 1 defines ALL,
    /// dst = leading zero bits of a.
    Lzcnt "lzcnt" dsts 1 args 1 defines ALL,
    /// dst = one bits of a.
    Popcnt "popcnt" dsts 1 args 1 defines ALL,
    /// dst = !a & b.
    Andn "andn" dsts 1 args 2 defines ALL,
    /// dst = bits of a from b[7:0], b[15:8] of them.
    Bextr "bextr" dsts 1 args 2 defines ALL,
    /// dst = lowest one bit of a.
    Blsi "blsi" dsts 1 args 1 defines ALL,
    /// dst = a up to its lowest one bit.
    Blsmsk "blsmsk" dsts 1 args 1 defines ALL,
    /// dst = a without its lowest one bit.
    Blsr "blsr" dsts 1 args 1 defines ALL,
    /// dst = a with the bits from b[7:0] up cleared.
    Bzhi "bzhi" dsts 1 args 2 defines ALL,
    /// dst = low bits of a deposited where b has ones.
    Pdep "pdep" dsts 1 args 2,
    /// dst = bits of a where b has ones, gathered low.
    Pext "pext" dsts 1 args 2,
    /// dst = a + b + CF, only CF written.
    Adcx "adcx" dsts 1 args 2 defines C uses C,
    /// dst = a + b + OF, only OF written.
    Adox "adox" dsts 1 args 2 defines O uses O,
    /// dst = CRC32C of a (32 bits) with the `sub`-wide b appended.
    Crc32 "crc32" dsts 1 args 2 sub Width,

    // Flags as data.
    /// dst = RFLAGS & `sub`, status flags computed (width 64).
    GetFlags "getflags" dsts 1 args 0 sub Number uses ALL,
    /// The status flags in the mask `sub` (RFLAGS bits, status flags only) take their values from a.
    SetFlags "setflags" dsts 0 args 1 sub Number defines ALL,
    /// CF = !CF.
    Cmc "cmc" dsts 0 args 0 defines C uses C,

    // Memory. The width is the access's size.
    /// dst = [mem].
    Load "load" dsts 1 args 0 mem Read; faults,
    /// [mem] = a.
    Store "store" dsts 0 args 1 mem Write; faults effect,
    /// Old = [mem]; [mem] = `sub` op (old, a, b); dst = old. For Mov (XCHG) and the arithmetic ops; one op so that
    /// write permission is checked before the read, and `mem.lock` makes it atomic. Flags as the `sub` op's.
    Rmw "rmw" dsts 1 args 2 mem ReadWrite sub Alu defines ALL; faults effect,
    /// If [mem] == a then [mem] = b. dst = the old value; flags as of SUB a, old.
    Cmpxchg "cmpxchg" dsts 1 args 2 mem ReadWrite defines ALL; faults effect,
    /// CMPXCHG8B (width 32), CMPXCHG16B (width 64) with EDX:EAX, ECX:EBX; ZF only.
    CmpxchgPair "cmpxchgpair" dsts 0 args 0 mem ReadWrite defines Z; faults effect,
    /// dst = linear address of `size` (Imm b) bytes at offset a of segment `sub`; c is Imm(1) for a write. Checks type,
    /// limit and null selector: #GP(0), or #SS(0) for SS. The width is the address size. In 64-bit mode (for helpers that
    /// want a linear address) it adds FS.base or GS.base alone and checks that all bytes are canonical.
    SegLin "seglin" dsts 1 args 3 sub Seg; faults,
    /// Raises #GP(0)/#SS(0) unless a write to [mem] of op width would succeed; touches nothing. Before what commits
    /// several things of which a later one may fault.
    ProbeWrite "probewrite" dsts 0 args 1 mem Write; faults effect,
    /// A string instruction, REP included; may leave the block at its own address when an event is pending.
    String "string" dsts 0 args 0 sub String defines ALL; faults effect,

    // Vector and x87: one op an instruction, its memory operand split off into vload and vstore.
    /// dst (VecTemp, low `a` = Imm bytes) = [mem]. With b, an Imm([`crate::Masked`]), elements that it leaves out are not
    /// accessed and hold anything.
    VecLoad "vecload" dsts 1 args 2 mem Read; faults,
    /// [mem] = low `b` (Imm) bytes of a. With c, an Imm([`crate::Masked`]), elements that it leaves out are not accessed.
    VecStore "vecstore" dsts 0 args 3 mem Write; faults effect,
    /// The vector instruction `sub` with explicit operands dst, a, b, c in the manual's order (dst is also the first
    /// source where the instruction reads it); an imm8 is the last of them.
    Vec "vec" dsts 1 args 3 sub Code defines ALL; faults effect,
    /// The x87 (or MMX state) instruction `sub`; a = its memory source (VecTemp) or Imm(stack register); dst = VecTemp
    /// of what it stores, or Reg(Rax) for FNSTSW AX. FIP, FCS come from the insn marker, b = linear offset of the
    /// memory operand for FDP, c = Imm(its segment). When an unmasked exception suppresses a store, the op commits what
    /// the FPU reports and leaves the block at the next instruction, so that the store after it does not happen.
    X87 "x87" dsts 1 args 3 sub Code defines ALL; faults effect,

    // System.
    /// dst = helper(a, b, c).
    Call "call" dsts 1 args 3 sub Helper; faults effect,
    /// Raises the exception with vector `sub`; a = Imm(error code) or None.
    Raise "raise" dsts 0 args 1 sub Number; faults effect terminal,
    /// Orders memory accesses (MFENCE and the like).
    Fence "fence" dsts 0 args 0; effect,

    // Ends of blocks. Their width is the instruction pointer's, to which offsets are cut: 64 bits in 64-bit mode; else
    // 16 for transfers with 16-bit operands, 32 for the others.
    /// Go on at a = Pc(offset).
    Jump "jump" dsts 0 args 1; effect terminal,
    /// Go on at a = Pc(offset) if the condition holds, else at b = Pc(offset).
    Branch "branch" dsts 0 args 2 sub Cond; effect terminal,
    /// Go on at a = Pc(offset) if c isn't zero at the op's width, else at b = Pc(offset) (JRCXZ, LOOP).
    BranchNz "branchnz" dsts 0 args 3; effect terminal,
    /// Go on at the offset a (op width: 16, 32 or 64 bits); #GP(0) when it is not canonical or beyond CS.limit.
    JumpTo "jumpto" dsts 0 args 1 sub Jump; faults effect terminal,
    /// Leave the block as [`crate::Exit`] says; for `Next` a = Pc(offset) is where to go on.
    Exit "exit" dsts 0 args 1 sub Exit; effect terminal,

    // Later additions.
    /// #GP(0) unless the offset a (op width) is one that a near transfer may go to: canonical in 64-bit mode, within
    /// CS.limit otherwise. With b given, only when b isn't zero (64 bits). Before what commits and then jumps.
    CheckPc "checkpc" dsts 0 args 2; faults,
    /// RFLAGS.DF = `sub` (0 or 1): CLD, STD.
    SetDf "setdf" dsts 0 args 0 sub Number; effect,
    /// Leave the block for a = Pc(offset) if the condition holds, else go on with the next instruction in it. Width as of
    /// the ends of blocks.
    SideExit "sideexit" dsts 0 args 1 sub Cond; faults effect,
    /// The line of [mem] will be used as `sub` says: a hint, which never faults.
    Prefetch "prefetch" dsts 0 args 0 mem Address sub Hint; effect,
    /// Leave the block as `jumpto` does for the offset a unless it is b = Pc(offset), where the next instruction in the block
    /// is.
    Expect "expect" dsts 0 args 2 sub Jump; faults effect,
}

impl OpCode {
    /// Whether the op shifts or rotates by a count that, when zero, leaves the flags as they are.
    pub const fn counted(self) -> bool {
        matches!(
            self,
            Self::Shl
                | Self::Shr
                | Self::Sar
                | Self::Rol
                | Self::Ror
                | Self::Rcl
                | Self::Rcr
                | Self::Shld
                | Self::Shrd
        )
    }

    /// Whether the op may stand in an [`OpCode::Rmw`]'s `sub`.
    pub const fn rmw(self) -> bool {
        matches!(
            self,
            Self::Mov
                | Self::Add
                | Self::Adc
                | Self::Sub
                | Self::Sbb
                | Self::And
                | Self::Or
                | Self::Xor
                | Self::Inc
                | Self::Dec
                | Self::Neg
                | Self::Not
                | Self::Bts
                | Self::Btr
                | Self::Btc
        ) || self.counted()
    }

    /// The op with the given table position.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(index).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::OpCode;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_rows_in_order() {
        let names: HashSet<_> = OpCode::ALL.iter().map(|c| c.info().name).collect();
        assert_eq!(names.len(), OpCode::ALL.len());
        for (i, code) in OpCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, i);
        }
    }
}
