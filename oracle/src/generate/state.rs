//! Random states: registers at random, then those that form addresses solved for a place in the arena.

use iced_x86::{Instruction, MemorySize, OpKind, Register as R};

use super::{Encoding, Generator};
use crate::layout::{self, ALIASES, ARENA, sel};
use crate::random::Lanes;
use crate::{Case, case::FIXED_FLAGS};

/// Arithmetic flags and DF.
const FREE_FLAGS: u64 = 0x8d5;
const DF: u64 = 0x400;
const ID: u64 = 1 << 21;
/// Alignment checks: Linux has CR0.AM set.
const AC: u64 = 1 << 18;

/// Lane `n` of `size` bytes of a vector register, sign-extended.
pub fn lane(case: &Case, r: R, n: usize, size: usize) -> u64 {
    let at = n * size;
    let number = r.number();
    let part = match (number, at) {
        (16.., _) => &case.wide.high[number - 16][at..],
        (_, 0..16) => &case.fx.xmm(number)[at..],
        (_, 16..32) => &case.uppers[number][at - 16..],
        _ => &case.wide.uppers[number][at - 32..],
    };
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&part[..size]);
    let shift = 64 - 8 * size as u32;
    (i64::from_le_bytes(bytes) << shift >> shift) as u64
}

/// The value of a general register operand, zero-extended.
pub fn value(case: &Case, r: R) -> u64 {
    let full = case.gpr[r.full_register().number()];
    match r.size() {
        1 if matches!(r, R::AH | R::CH | R::DH | R::BH) => full >> 8 & 0xff,
        1 => full & 0xff,
        2 => full & 0xffff,
        4 => full & 0xffff_ffff,
        _ => full,
    }
}

/// Sets a register's low part; what lies above is left.
pub(super) fn set(case: &mut Case, r: R, value: u64) {
    let mask = u64::MAX >> (64 - 8 * r.size().clamp(1, 8));
    let shift = if matches!(r, R::AH | R::CH | R::DH | R::BH) {
        8
    } else {
        0
    };
    let full = &mut case.gpr[r.full_register().number()];
    *full = *full & !(mask << shift) | (value & mask) << shift;
}

/// Base of a segment as the case has it.
pub fn base_of(case: &Case, segment: R) -> u64 {
    match (case.bits, segment) {
        (64, R::FS) => case.fs_base,
        (64, R::GS) => case.gs_base,
        (64, _) => 0,
        (_, R::ES) => layout::segment(case.seg[0]).base,
        (_, R::CS) => layout::segment(case.seg[1]).base,
        (_, R::SS) => layout::segment(case.seg[2]).base,
        (_, R::FS) => layout::segment(case.seg[4]).base,
        (_, R::GS) => layout::segment(case.seg[5]).base,
        _ => layout::segment(case.seg[3]).base,
    }
}

/// Linear address of an instruction's operand (a gather's first element); `None` if it has no memory operand there.
pub fn linear(case: &Case, insn: &Instruction, n: u32) -> Option<u64> {
    linear_element(case, insn, n, 0)
}

/// Linear address of a gather's element.
pub fn linear_element(case: &Case, insn: &Instruction, n: u32, element: usize) -> Option<u64> {
    let lin = insn.virtual_address(n, element, |r, element, size| {
        Some(if r.is_vector_register() {
            lane(case, r, element, size)
        } else if r.is_segment_register() {
            base_of(case, r)
        } else if r.is_ip() {
            0
        } else {
            value(case, r)
        })
    })?;
    Some(if case.bits == 64 {
        lin
    } else {
        lin & 0xffff_ffff
    })
}

/// Lanes that suit an instruction.
fn lanes(insn: &Instruction) -> Lanes {
    use MemorySize as S;
    match insn.memory_size() {
        S::Packed256_Float32 | S::Packed128_Float32 | S::Packed64_Float32 | S::Float32 => {
            return Lanes::F32;
        }
        S::Packed256_Float64 | S::Packed128_Float64 | S::Float64 => return Lanes::F64,
        S::Packed128_UInt8 | S::Packed128_Int8 | S::Packed64_UInt8 | S::Packed64_Int8 => {
            return Lanes::Bytes;
        }
        S::Packed256_UInt8 | S::Packed256_Int8 => return Lanes::Bytes,
        S::Packed128_UInt16 | S::Packed128_Int16 | S::Packed64_UInt16 | S::Packed64_Int16 => {
            return Lanes::Words;
        }
        S::Packed256_UInt16 | S::Packed256_Int16 => return Lanes::Words,
        S::Packed128_UInt32 | S::Packed128_Int32 | S::Packed64_UInt32 | S::Packed64_Int32 => {
            return Lanes::Dwords;
        }
        S::Packed256_UInt32 | S::Packed256_Int32 => return Lanes::Dwords,
        S::Packed256_UInt64 | S::Packed256_Int64 => return Lanes::Qwords,
        S::Packed64_Float16 | S::Packed128_Float16 => return Lanes::F16,
        _ => {}
    }
    // AVX-512's sizes and broadcasts, by the element.
    let size = format!("{:?}", insn.memory_size());
    if insn.encoding() == iced_x86::EncodingKind::EVEX {
        let tails = [
            ("Float32", Lanes::F32),
            ("Float64", Lanes::F64),
            ("Float16", Lanes::F16),
            ("Int8", Lanes::Bytes),
            ("Int16", Lanes::Words),
            ("Int32", Lanes::Dwords),
            ("Int64", Lanes::Qwords),
        ];
        if let Some((_, lanes)) = tails.iter().find(|(tail, _)| size.ends_with(tail)) {
            return *lanes;
        }
    }
    let name = format!("{:?}", insn.mnemonic());
    match &name[name.len() - 2..] {
        "ps" | "ss" => Lanes::F32,
        "pd" | "sd" => Lanes::F64,
        _ if name.contains("cmpestr") || name.contains("cmpistr") => Lanes::Text,
        _ => Lanes::Raw,
    }
}

impl Generator {
    pub(super) fn state(&mut self, encoding: &Encoding) -> Case {
        let Encoding {
            bytes,
            insn,
            bits,
            cs,
            ip,
        } = encoding;
        let mut case = Case::new(*bits, bytes);
        (case.seg[1], case.ip) = (*cs, *ip);
        let r = &mut self.random;
        for gpr in &mut case.gpr {
            *gpr = r.integer();
        }
        case.rflags = FIXED_FLAGS | r.next() & FREE_FLAGS;
        if r.one_in(4) {
            case.rflags |= DF;
        }
        if r.one_in(4) {
            case.rflags |= ID;
        }
        if r.one_in(24) && checks_alignment(insn) {
            case.rflags |= AC;
        }
        self.segments(&mut case);
        let floats = insn
            .code()
            .cpuid_features()
            .iter()
            .any(|f| format!("{f:?}").starts_with("FPU"));
        if floats || mnemonic_touches_fpu(insn) || self.random.one_in(16) {
            self.fpu(&mut case);
        }
        let lanes = lanes(insn);
        for n in 0..if *bits == 64 { 16 } else { 8 } {
            let bytes = self.random.vector(lanes);
            case.fx.xmm_mut(n).copy_from_slice(&bytes);
            if self.avx && !self.random.one_in(8) {
                case.uppers[n] = self.random.vector(lanes);
            }
        }
        self.wide(&mut case, lanes);
        let mxcsr = self.mxcsr();
        case.fx.set_mxcsr(mxcsr);
        self.stack_pointer(&mut case);
        self.before(&mut case, insn);
        self.string_pointers(&mut case, insn);
        self.solve(&mut case, insn);
        self.lay_operands(&mut case, insn, lanes);
        self.after(&mut case, insn);
        case
    }

    /// What AVX-512 adds. Masks have few bits, or lack few, or are anything.
    pub(super) fn wide(&mut self, case: &mut Case, lanes: Lanes) {
        if !self.avx512 {
            return;
        }
        for n in 0..case.registers() {
            if !self.random.one_in(8) {
                for half in case.wide.uppers[n].chunks_exact_mut(16) {
                    half.copy_from_slice(&self.random.vector(lanes));
                }
            }
        }
        for register in &mut case.wide.high {
            for part in register.chunks_exact_mut(16) {
                part.copy_from_slice(&self.random.vector(lanes));
            }
        }
        let r = &mut self.random;
        for k in &mut case.wide.k {
            *k = match r.below(8) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << r.below(64),
                3 => !(1 << r.below(16)),
                4 => u64::MAX >> r.below(64),
                5 => r.next() & r.next() & r.next(),
                _ => r.next(),
            };
        }
    }

    fn segments(&mut self, case: &mut Case) {
        let (r, ldt) = (&mut self.random, self.abilities.ldt);
        let data: &[u16] = if ldt {
            &[7, 15, 23, 31, 39, 79, sel::DATA, 0]
        } else {
            &[sel::DATA, 0]
        };
        if case.bits == 64 {
            case.fs_base = r.pick(&[
                0,
                ALIASES[1],
                ALIASES[3],
                0x1000,
                0xffff_ffff_ffff_0000,
                0x7fff_ffff_0000,
            ]);
            case.gs_base = r.next() >> 17;
            if r.one_in(16) {
                for n in [0, 3, 4, 5] {
                    case.seg[n] = r.pick(data);
                }
            }
            return;
        }
        for n in [0, 3] {
            if r.one_in(8) {
                case.seg[n] = r.pick(data);
            }
        }
        for n in [4, 5] {
            case.seg[n] = r.pick(data);
        }
        if ldt && r.one_in(12) {
            case.seg[2] = r.pick(&[7, 15, 23, 31, 79]);
        }
    }

    pub(super) fn mxcsr(&mut self) -> u32 {
        let r = &mut self.random;
        let masks = match r.below(6) {
            0 => r.next() as u32 & 0x1f80,
            1 => 0x1f80 & !(0x80 << r.below(6)),
            _ => 0x1f80,
        };
        let controls = if r.one_in(2) {
            0
        } else {
            r.next() as u32 & 0xe040
        };
        let flags = if r.one_in(2) {
            0
        } else {
            r.next() as u32 & 0x3f
        };
        masks | controls | flags
    }

    pub(super) fn fpu(&mut self, case: &mut Case) {
        let r = &mut self.random;
        let masks = match r.below(4) {
            0 => r.next() as u16 & 0x3f,
            1 => 0x3f & !(1 << r.below(6)),
            _ => 0x3f,
        };
        let fcw = (r.below(4) << 10 | r.below(4) << 8) as u16 | masks | 0x40;
        let mut flags = if r.one_in(2) {
            0
        } else {
            r.next() as u16 & 0x3f & masks
        };
        if r.one_in(24) {
            // One is pending: the next instruction that waits raises #MF.
            flags |= r.next() as u16 & 0x3f & !masks;
        }
        let mut fsw = r.next() as u16 & 0x7f00 & if r.one_in(2) { 0x3800 } else { 0xffff } | flags;
        if r.one_in(4) {
            fsw |= 0x40;
        }
        let top = usize::from(fsw >> 11 & 7);
        case.fx.set_fcw(fcw);
        case.fx.set_fsw(fsw);
        case.fx.summarise();
        case.fx.set_ftw(match r.below(8) {
            0 => r.next() as u8,
            1 => 0xff,
            2 => 0,
            // Room for a push.
            _ => !(1 << ((top + 7) & 7)),
        });
        let mut exponent = 0;
        for i in 0..8 {
            let mut bytes = r.f80();
            // Half of the neighbours have nearby exponents, so that sums cancel and quotients are small.
            if i > 0 && r.one_in(2) {
                let near = (exponent + r.below(130) as i32 - 65).clamp(0, 0x7fff) as u16;
                bytes[8] = near as u8;
                bytes[9] = bytes[9] & 0x80 | (near >> 8) as u8;
            }
            exponent = i32::from(u16::from_le_bytes([bytes[8], bytes[9]]) & 0x7fff);
            case.fx.st_mut(i).copy_from_slice(&bytes);
        }
        if r.one_in(4) {
            let same: [u8; 10] = case.fx.st(0).try_into().unwrap_or_default();
            case.fx.st_mut(1).copy_from_slice(&same);
            case.fx.st_mut(1)[9] ^= (r.below(2) << 7) as u8;
        }
    }

    /// A linear address for an operand of `size` bytes: mostly inside the writable pages, sometimes across or beyond
    /// their borders, rarely anywhere. `width` bits of address reach it.
    pub(super) fn place(&mut self, size: u64, width: u32) -> u64 {
        let low = usize::from(!self.abilities.low);
        let r = &mut self.random;
        let reach = match width {
            16 => 0..=low,
            32 => low..=2,
            _ => low..=3,
        };
        let base = r.pick(&ALIASES[reach]);
        let size = size.max(1);
        let inside = |r: &mut crate::Random| 0x20 + r.below(0x1f00);
        let offset = match r.below(64) {
            0..=35 => inside(r) & !(size.next_power_of_two().min(64) - 1),
            36..=51 => inside(r),
            // Across the two pages.
            52..=54 => 0x1000_u64.wrapping_sub(r.below(size + 1)),
            // Across the borders of what is writable and of what is mapped.
            55..=57 => 0x2000_u64.wrapping_sub(r.below(size + 1)),
            58 => 0x3000_u64.wrapping_sub(r.below(size + 1)),
            59 => 0_u64.wrapping_sub(r.below(size + 1)),
            60 => 0x2000 + r.below(0x1000),
            61 => 0x3000 + r.below(0x1000),
            62 => inside(r) & !0xf,
            _ => return r.integer(),
        };
        base.wrapping_add(offset)
    }

    fn stack_pointer(&mut self, case: &mut Case) {
        let segment = layout::segment(case.seg[2]);
        let width = match case.bits {
            64 => 64,
            _ if segment.attr & x86::attr::DB != 0 => 32,
            _ => 16,
        };
        let base = if case.bits == 64 { 0 } else { segment.base };
        let lin = if base != 0 {
            ALIASES[1] + 0x20 + self.random.below(0x1fc0)
        } else {
            self.place(8, width)
        };
        let aligned = if self.random.one_in(4) { lin } else { lin & !7 };
        let sp = aligned.wrapping_sub(base);
        case.gpr[4] = match width {
            64 => sp,
            32 => sp & 0xffff_ffff,
            _ => sp & 0xffff | self.random.next() & 0xffff_0000,
        };
        if self.random.one_in(2) {
            // A frame for LEAVE and ENTER.
            case.gpr[5] = case.gpr[4].wrapping_add(8 * self.random.below(32));
        }
    }

    fn string_pointers(&mut self, case: &mut Case, insn: &Instruction) {
        for n in 0..insn.op_count() {
            let (pointer, segment) = match insn.op_kind(n) {
                OpKind::MemorySegSI => (R::SI, insn.memory_segment()),
                OpKind::MemorySegESI => (R::ESI, insn.memory_segment()),
                OpKind::MemorySegRSI => (R::RSI, insn.memory_segment()),
                OpKind::MemorySegDI => (R::DI, insn.memory_segment()),
                OpKind::MemorySegEDI => (R::EDI, insn.memory_segment()),
                OpKind::MemorySegRDI => (R::RDI, insn.memory_segment()),
                OpKind::MemoryESDI => (R::DI, R::ES),
                OpKind::MemoryESEDI => (R::EDI, R::ES),
                OpKind::MemoryESRDI => (R::RDI, R::ES),
                _ => continue,
            };
            let base = base_of(case, segment);
            let size = insn.memory_size().size() as u64;
            let lin = self.reach(base, size, pointer.size() as u32 * 8);
            set(case, pointer, lin.wrapping_sub(base));
        }
        if insn.has_rep_prefix() || insn.has_repne_prefix() {
            let count = self.random.below(24);
            let whole = !self.random.one_in(16);
            let width = [R::CX, R::ECX, R::RCX][(insn_address_size(insn, case.bits) / 32) as usize];
            if whole {
                set(case, width, count);
            }
        }
    }

    /// A place that addresses of this width reach from a segment's base.
    fn reach(&mut self, base: u64, size: u64, width: u32) -> u64 {
        if base == 0 || width == 64 {
            return self.place(size, width);
        }
        if base == layout::CODE[0] {
            return base + self.random.below(layout::CODE_LEN);
        }
        // The LDT's segments begin in the arena; limits and borders lie around its ends.
        match self.random.below(12) {
            0 => base.wrapping_add(self.random.integer()),
            1 => ALIASES[1] + 0x800 + self.random.below(4),
            2 => ALIASES[1] + 0x921 + self.random.below(4),
            3 => ALIASES[1] + 0x1000 + self.random.below(8),
            _ => ALIASES[1] + 0x130 + self.random.below(0x1ec0),
        }
    }

    /// Sets the registers of a memory operand's address so that it lies where it can be compared.
    fn solve(&mut self, case: &mut Case, insn: &Instruction) {
        if !(0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory)
            || self.random.one_in(100)
        {
            return;
        }
        if insn.memory_index().is_vector_register() {
            self.solve_vsib(case, insn);
            return;
        }
        let (base, index, scale) = (
            insn.memory_base(),
            insn.memory_index(),
            insn.memory_index_scale(),
        );
        let width = insn_address_size(insn, case.bits);
        let segment = insn.memory_segment();
        let size = match insn.memory_size() {
            MemorySize::Unknown => 64,
            size => size.size() as u64,
        };
        let own = matches!(segment, R::FS | R::GS) && case.bits == 64;
        if own && (base == R::None || base.is_ip()) && index == R::None {
            // Only the segment can move.
            let lin = self.place(size, 64);
            let at = lin.wrapping_sub(insn.memory_displacement64());
            let at = ((at << 16) as i64 >> 16) as u64;
            if segment == R::FS {
                case.fs_base = at;
            } else {
                case.gs_base = at;
            }
            return;
        }
        let segment_base = base_of(case, segment);
        let lin = self.reach(segment_base, size, width);
        let mask = u64::MAX >> (64 - width);
        let goal = lin
            .wrapping_sub(segment_base)
            .wrapping_sub(insn.memory_displacement64())
            & mask;
        if index == R::AL {
            // XLATB.
            set(case, base, goal.wrapping_sub(case.gpr[0] & 0xff));
        } else if base != R::None && !base.is_ip() && base == index {
            let factor = u64::from(scale) + 1;
            let value = if factor % 2 == 0 {
                goal / 2
            } else {
                goal.wrapping_mul(inverse(factor))
            };
            set(case, base, value);
        } else if base != R::None && !base.is_ip() {
            let indexed = if index == R::None {
                0
            } else {
                value(case, index).wrapping_mul(scale.into())
            };
            set(case, base, goal.wrapping_sub(indexed));
        } else if index != R::None {
            let high = self.random.next();
            set(
                case,
                index,
                (goal / u64::from(scale)) | high & !(mask / u64::from(scale)),
            );
        }
    }

    /// The same for a vector of indices: they are small, so that the elements lie near one another, and now and then one
    /// lies anywhere.
    fn solve_vsib(&mut self, case: &mut Case, insn: &Instruction) {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let scale = u64::from(insn.memory_index_scale());
        let width = insn_address_size(insn, case.bits);
        let segment_base = base_of(case, insn.memory_segment());
        let lin = self.reach(segment_base, 8, width);
        let goal = lin
            .wrapping_sub(segment_base)
            .wrapping_sub(insn.memory_displacement64());
        let size = vsib_size(insn);
        let first = if base == R::None { goal / scale } else { 0 };
        let r = &mut self.random;
        let spread = r.pick(&[4, 0x40, 0x400]);
        let wild = r.one_in(6);
        let mut lanes = [0; 64];
        for slot in lanes.chunks_exact_mut(size) {
            let mut value = first.wrapping_add(r.below(spread)).wrapping_sub(spread / 2);
            if wild && r.one_in(6) {
                value = r.integer();
            }
            slot.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        match index.number() {
            n @ 16.. => case.wide.high[n - 16] = lanes,
            n => {
                case.fx.xmm_mut(n).copy_from_slice(&lanes[..16]);
                if self.avx {
                    case.uppers[n].copy_from_slice(&lanes[16..32]);
                }
                if self.avx512 {
                    case.wide.uppers[n].copy_from_slice(&lanes[32..]);
                }
            }
        }
        if base != R::None {
            set(case, base, goal);
        }
    }

    /// Lays bytes that suit the instruction where its operands are.
    fn lay_operands(&mut self, case: &mut Case, insn: &Instruction, lanes: Lanes) {
        let mut seen = None;
        for n in 0..insn.op_count() {
            let Some(lin) = linear(case, insn, n) else {
                continue;
            };
            if seen == Some(lin) {
                continue;
            }
            seen = Some(lin);
            let Some(at) = layout::arena_offset(lin) else {
                continue;
            };
            if insn.op_kind(n) == OpKind::Memory {
                let bytes = self.operand_bytes(insn, lanes);
                case.lay(at, &bytes);
            } else {
                // A string: few different bytes, on both sides.
                let element = insn.memory_size().size().max(1);
                let kinds = 1 + self.random.below(3);
                let mut bytes = [0; 96];
                for chunk in bytes.chunks_mut(element) {
                    let byte = if self.random.one_in(12) {
                        self.random.next()
                    } else {
                        self.random.below(kinds)
                    };
                    chunk.fill(byte as u8);
                }
                case.lay(at.saturating_sub(48), &bytes);
            }
        }
    }

    fn operand_bytes(&mut self, insn: &Instruction, lanes: Lanes) -> Vec<u8> {
        let size = insn.memory_size();
        let r = &mut self.random;
        match size {
            MemorySize::Float80 => return r.f80().to_vec(),
            MemorySize::Float32 => return r.f32().to_le_bytes().to_vec(),
            MemorySize::Float64 => return r.f64().to_le_bytes().to_vec(),
            MemorySize::Bcd if !r.one_in(8) => {
                let mut bytes: Vec<u8> = (0..10)
                    .map(|_| (r.below(10) | r.below(10) << 4) as u8)
                    .collect();
                bytes[9] = (r.below(2) << 7) as u8;
                return bytes;
            }
            _ => {}
        }
        match size.size() {
            1..=8 => r.integer().to_le_bytes().to_vec(),
            _ => (0..4).flat_map(|_| r.vector(lanes)).collect(),
        }
    }

    /// Offset in the arena of the stack's top, if it is there.
    pub(super) fn stack_top(case: &Case) -> Option<usize> {
        let segment = layout::segment(case.seg[2]);
        let lin = if case.bits == 64 {
            case.gpr[4]
        } else if segment.attr & x86::attr::DB != 0 {
            segment.base + (case.gpr[4] & 0xffff_ffff)
        } else {
            segment.base + (case.gpr[4] & 0xffff)
        };
        layout::arena_offset(lin).filter(|at| *at < ARENA)
    }
}

/// Whether the engine checks the alignment of all that the instruction accesses: not of what helpers and x87 and MMX
/// instructions access in parts.
fn checks_alignment(insn: &Instruction) -> bool {
    use iced_x86::CpuidFeature as F;
    use iced_x86::Mnemonic as M;
    let parts = matches!(
        insn.mnemonic(),
        M::Enter
            | M::Leave
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Retf
            | M::Pusha
            | M::Pushad
            | M::Popa
            | M::Popad
            | M::Bound
            | M::Arpl
            | M::Cmpxchg8b
            | M::Lds
            | M::Les
            | M::Lfs
            | M::Lgs
            | M::Lss
    );
    let far = insn.is_jmp_far()
        || insn.is_call_far()
        || insn.is_jmp_far_indirect()
        || insn.is_call_far_indirect();
    let other = insn.code().cpuid_features().iter().any(|f| {
        matches!(
            f,
            F::FPU
                | F::FPU287
                | F::FPU387
                | F::MMX
                | F::SSE
                | F::SSE2
                | F::FXSR
                | F::XSAVE
                | F::XSAVEC
                | F::XSAVEOPT
                | F::AVX
                | F::AVX2
                | F::FMA
                | F::F16C
                | F::VAES
                | F::VPCLMULQDQ
                | F::AVX512BW
                | F::AVX512DQ
        )
    }) || insn.encoding() == iced_x86::EncodingKind::EVEX;
    !parts && !far && !other && !insn.op0_register().is_segment_register()
}

/// Bits of the address that an instruction's memory operands or count register have.
pub fn insn_address_size(insn: &Instruction, bits: u8) -> u32 {
    let mut width = None;
    for n in 0..insn.op_count() {
        width = match insn.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(16),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(32),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(64),
            OpKind::Memory => {
                let (base, index) = (insn.memory_base(), insn.memory_index());
                let register = match (base, index) {
                    (R::None, index) if !index.is_vector_register() => index,
                    _ => base,
                };
                Some(match register {
                    R::None => insn.memory_displ_size().max(2) * 8,
                    R::AL => u32::from(bits),
                    r => r.size() as u32 * 8,
                })
            }
            _ => width,
        };
    }
    width.unwrap_or(bits.into()).clamp(16, 64)
}

/// Bytes of an index of a gather.
pub fn vsib_size(insn: &Instruction) -> usize {
    use iced_x86::OpCodeOperandKind as K;
    let wide = insn
        .op_code()
        .op_kinds()
        .iter()
        .any(|kind| matches!(kind, K::mem_vsib64x | K::mem_vsib64y | K::mem_vsib64z));
    if wide { 8 } else { 4 }
}

/// Inverse of an odd number modulo 2^64.
fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    for _ in 0..6 {
        x = x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x)));
    }
    x
}

/// MMX registers are the FPU's, and the state images hold them.
fn mnemonic_touches_fpu(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    let mmx = (0..insn.op_count())
        .any(|n| insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_mm());
    mmx || matches!(
        insn.mnemonic(),
        M::Emms
            | M::Wait
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xrstor
            | M::Xrstor64
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn odd_numbers_have_inverses() {
        for odd in [3_u64, 5, 9] {
            assert_eq!(super::inverse(odd).wrapping_mul(odd), 1);
        }
    }
}
