//! What AVX-512 adds: opmasks, broadcasts, rounding in the prefix, masked memory operands, gathers and scatters.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind as K, OpKind,
    Register, RoundingControl,
};
use ir::{Chosen, Elements, HelperId, Masked, Mem, Operand, Rounding, VecInsn, Width};
use x86::Seg;

use super::{Flow, Lift, Lifter, UD};

const NONE: Operand = Operand::None;

/// Whether XCR0 must have the AVX-512 components: EVEX prefixes, and the VEX instructions on mask registers.
pub(super) fn needs_avx512(insn: &Instruction) -> bool {
    insn.encoding() == EncodingKind::EVEX
        || insn.code().cpuid_features().iter().any(|f| {
            use CpuidFeature as F;
            matches!(f, F::AVX512F | F::AVX512BW | F::AVX512DQ)
        })
}

/// The instruction with what its EVEX prefix adds.
pub(super) fn decorated(insn: &Instruction) -> VecInsn {
    if insn.encoding() != EncodingKind::EVEX {
        return VecInsn::plain(insn.code());
    }
    VecInsn {
        code: insn.code(),
        mask: mask(insn),
        zeroing: insn.zeroing_masking(),
        rounding: match insn.rounding_control() {
            RoundingControl::None if insn.suppress_all_exceptions() => Rounding::Suppress,
            RoundingControl::None => Rounding::Mxcsr,
            RoundingControl::RoundToNearest => Rounding::Nearest,
            RoundingControl::RoundDown => Rounding::Down,
            RoundingControl::RoundUp => Rounding::Up,
            RoundingControl::RoundTowardZero => Rounding::Zero,
        },
        broadcast: insn.is_broadcast(),
    }
}

/// The opmask's number; 0: there is none.
fn mask(insn: &Instruction) -> u8 {
    match insn.op_mask() {
        Register::None => 0,
        register => register.number() as u8,
    }
}

/// Instructions whose memory operand is no vector of the destination's elements: a fault anywhere in it counts whatever
/// the mask (SDM vol. 2, 2.8, exception types with "NF").
fn whole(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Vpunpckhbw
            | M::Vpunpckhwd
            | M::Vpunpckhdq
            | M::Vpunpckhqdq
            | M::Vpunpcklbw
            | M::Vpunpcklwd
            | M::Vpunpckldq
            | M::Vpunpcklqdq
            | M::Vunpckhps
            | M::Vunpckhpd
            | M::Vunpcklps
            | M::Vunpcklpd
            | M::Vpacksswb
            | M::Vpackssdw
            | M::Vpackuswb
            | M::Vpackusdw
            | M::Vshufps
            | M::Vshufpd
            | M::Vshuff32x4
            | M::Vshuff64x2
            | M::Vshufi32x4
            | M::Vshufi64x2
            | M::Vpshufd
            | M::Vpshufb
            | M::Vpshufhw
            | M::Vpshuflw
            | M::Vpermilps
            | M::Vpermilpd
            | M::Vpermb
            | M::Vpermw
            | M::Vpermd
            | M::Vpermq
            | M::Vpermps
            | M::Vpermpd
            | M::Vpermi2b
            | M::Vpermi2w
            | M::Vpermi2d
            | M::Vpermi2q
            | M::Vpermi2ps
            | M::Vpermi2pd
            | M::Vpermt2b
            | M::Vpermt2w
            | M::Vpermt2d
            | M::Vpermt2q
            | M::Vpermt2ps
            | M::Vpermt2pd
            | M::Valignd
            | M::Valignq
            | M::Vpalignr
            | M::Vinsertf32x4
            | M::Vinsertf32x8
            | M::Vinsertf64x2
            | M::Vinsertf64x4
            | M::Vinserti32x4
            | M::Vinserti32x8
            | M::Vinserti64x2
            | M::Vinserti64x4
            | M::Vmovddup
            | M::Vmovshdup
            | M::Vmovsldup
            | M::Vpconflictd
            | M::Vpconflictq
            | M::Vdbpsadbw
            | M::Vpmultishiftqb
            | M::Vpmaddubsw
            | M::Vpmaddwd
            | M::Vgf2p8affineqb
            | M::Vgf2p8affineinvqb
    )
}

/// Masked stores for which a fault anywhere in the operand counts, as for [`whole`].
pub(super) fn faults_whole(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        insn.mnemonic(),
        M::Vextractf32x4
            | M::Vextractf32x8
            | M::Vextractf64x2
            | M::Vextractf64x4
            | M::Vextracti32x4
            | M::Vextracti32x8
            | M::Vextracti64x2
            | M::Vextracti64x4
    )
}

/// Shifts whose last operand is one count for all.
fn by_one_count(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        insn.mnemonic(),
        M::Vpsllw
            | M::Vpslld
            | M::Vpsllq
            | M::Vpsrlw
            | M::Vpsrld
            | M::Vpsrlq
            | M::Vpsraw
            | M::Vpsrad
            | M::Vpsraq
    ) && insn.op2_kind() == OpKind::Memory
}

/// Broadcasts of one element or several: of those, each is accessed for its own places.
fn several(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Vbroadcastf32x2
            | M::Vbroadcastf32x4
            | M::Vbroadcastf32x8
            | M::Vbroadcastf64x2
            | M::Vbroadcastf64x4
            | M::Vbroadcasti32x2
            | M::Vbroadcasti32x4
            | M::Vbroadcasti32x8
            | M::Vbroadcasti64x2
            | M::Vbroadcasti64x4
            | M::Vbroadcastss
            | M::Vbroadcastsd
            | M::Vpbroadcastb
            | M::Vpbroadcastw
            | M::Vpbroadcastd
            | M::Vpbroadcastq
    )
}

fn dense(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Vpcompressb
            | M::Vpcompressw
            | M::Vpcompressd
            | M::Vpcompressq
            | M::Vcompressps
            | M::Vcompresspd
            | M::Vpexpandb
            | M::Vpexpandw
            | M::Vpexpandd
            | M::Vpexpandq
            | M::Vexpandps
            | M::Vexpandpd
    )
}

/// Bytes of the destination vector.
fn destination(code: Code) -> usize {
    match code.op_code().op_kind(0) {
        K::zmm_reg => 64,
        K::ymm_reg => 32,
        _ => 16,
    }
}

/// How the mask bears on the memory operand; `None` where all of it is accessed.
pub(super) fn masked(insn: &Instruction, write: bool) -> Option<Masked> {
    let k = mask(insn);
    let mnemonic = insn.mnemonic();
    if insn.encoding() != EncodingKind::EVEX || k == 0 {
        return None;
    }
    if !write && (whole(mnemonic) || by_one_count(insn)) {
        return None;
    }
    let info = insn.op_code();
    let (all, one) = (info.memory_size(), info.broadcast_memory_size());
    let bytes = insn.memory_size().size();
    // Where an element can be broadcast that is what the mask's bits stand for; VPMULUDQ's is of two memory elements.
    let element = if info.can_broadcast() { one } else { all }
        .element_size()
        .max(1);
    let each = Masked {
        mask: k,
        count: (all.size() / element) as u8,
        size: element as u8,
        chosen: Chosen::Each,
        elements: 0,
        seg: None,
    };
    Some(if insn.is_broadcast() {
        Masked {
            size: bytes as u8,
            chosen: Chosen::Repeated,
            elements: 1,
            ..each
        }
    } else if several(mnemonic) {
        // The mask's bits stand for elements of the name's size.
        let element = match mnemonic {
            Mnemonic::Vbroadcastf32x2 | Mnemonic::Vbroadcasti32x2 => 4,
            _ => element,
        };
        Masked {
            count: (destination(insn.code()) / element) as u8,
            size: element as u8,
            chosen: Chosen::Repeated,
            elements: (bytes / element) as u8,
            ..each
        }
    } else if dense(mnemonic) {
        Masked {
            chosen: Chosen::Dense,
            ..each
        }
    } else {
        each
    })
}

impl Lifter<'_> {
    /// The memory operand of a masked access: where segments need a look, each element's offset does.
    pub(super) fn masked_mem(&mut self, masked: Masked, write: bool) -> (Mem, Operand) {
        let ea = self.ea();
        let flat = self.mode.code64() || (self.mode.flat(ea.seg) && !(write && ea.seg == Seg::Cs));
        if flat {
            let mem = self.place(ea, masked.size.into(), write);
            return (mem, Operand::Imm(masked.encode()));
        }
        let masked = Masked {
            seg: Some(ea.seg as u8),
            ..masked
        };
        (ea.mem, Operand::Imm(masked.encode()))
    }

    /// Gathers and scatters with an opmask: elements of `width`, indices of `index`.
    pub(super) fn masked_elements(&mut self, width: Width, index: Width, scatter: bool) -> Lift {
        self.vector_available(true)?;
        let k = mask(&self.insn);
        let vector = self.insn.op_register(u32::from(scatter));
        let indices = self.insn.memory_index();
        let (number, from) = (vector.number(), indices.number());
        if k == 0 || (!scatter && number == from) {
            return Err(UD);
        }
        let (a, what) = self.indexed(width, index, vector.size(), indices);
        let b = Operand::Imm((number | usize::from(k) << 8 | from << 16) as i64);
        let helper = if scatter {
            HelperId::Scatter
        } else {
            HelperId::GatherMasked
        };
        self.b.call(helper, NONE, a, b, Operand::Imm(what.encode()));
        Ok(Flow::Next)
    }

    /// The offset that a vector of indices is added to, and how the elements lie: as many as there are both of indices
    /// and in the vector of `bytes` bytes.
    pub(super) fn indexed(
        &mut self,
        width: Width,
        index: Width,
        bytes: usize,
        indices: Register,
    ) -> (Operand, Elements) {
        let mut ea = self.ea();
        let scale = ea.mem.scale;
        ea.mem.scale = 0;
        if self.insn.memory_base() == Register::None {
            ea.mem.addr = super::operand::width_of(self.insn.memory_displ_size() as usize);
        }
        let a = self.offset(ea);
        let count =
            (indices.size() / usize::from(index.bytes())).min(bytes / usize::from(width.bytes()));
        let what = Elements {
            index,
            scale,
            ..self.elements(&ea, width, count * usize::from(width.bytes()))
        };
        (a, what)
    }
}
