//! Random encodings of one of the decoder's codes: all operand forms, prefixes, immediates.

use iced_x86::{
    Code, CodeSize, Encoder, EncodingKind, Instruction, OpCodeOperandKind as K, OpKind,
    Register as R,
};

use super::Generator;
use crate::codes;
use crate::layout::{ALIASES, CODE, CODE_LEN, sel};

/// An instruction at its place.
#[derive(Clone, Debug)]
pub struct Encoding {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they decode to.
    pub insn: Instruction,
    /// 16, 32 or 64.
    pub bits: u8,
    /// CS.
    pub cs: u16,
    /// Offset in CS.
    pub ip: u64,
}

const PREFIXES: [u8; 11] = [
    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
];
const SEGMENTS: [R; 6] = [R::ES, R::CS, R::SS, R::DS, R::FS, R::GS];

fn register(from: R, n: u64) -> R {
    from + n as u32
}

impl Generator {
    /// An encoding of `code` that can be compared, if luck brings one.
    pub fn encoding(&mut self, code: Code, bits: u8) -> Option<Encoding> {
        for _ in 0..16 {
            let (cs, ip) = self.place_of_code(bits);
            let Some(bytes) = self.build(code, bits, ip) else {
                continue;
            };
            if let Some(encoding) = self.accept(bytes, bits, cs, ip) {
                return Some(encoding);
            }
        }
        None
    }

    /// Random bytes that decode to something comparable, or to nothing.
    pub fn noise(&mut self, bits: u8) -> Option<Encoding> {
        for _ in 0..64 {
            let (cs, ip) = self.place_of_code(bits);
            let mut bytes: Vec<u8> = (0..15).map(|_| self.random.next() as u8).collect();
            let prefixes = self.random.below(3) as usize;
            for byte in bytes.iter_mut().take(prefixes) {
                *byte = self.random.pick(&PREFIXES);
            }
            match self.random.below(3) {
                0 => bytes[prefixes] = 0x0f,
                1 if bits == 64 => bytes[prefixes] = 0x40 | bytes[prefixes] & 15,
                _ => {}
            }
            let insn = codes::decode(&bytes, bits, ip);
            if !insn.is_invalid() {
                bytes.truncate(insn.len());
            }
            if let Some(encoding) = self.accept(bytes, bits, cs, ip) {
                return Some(encoding);
            }
        }
        None
    }

    pub(super) fn accept(
        &mut self,
        bytes: Vec<u8>,
        bits: u8,
        cs: u16,
        ip: u64,
    ) -> Option<Encoding> {
        let insn = codes::decode(&bytes, bits, ip);
        if codes::unfit(&bytes, &insn, bits, self.vendor, &self.features).is_some() {
            return None;
        }
        if insn.is_invalid() && codes::cut_off(&bytes, bits)
            || !insn.is_invalid() && insn.len() != bytes.len()
        {
            return None;
        }
        Some(Encoding {
            bytes,
            insn,
            bits,
            cs,
            ip,
        })
    }

    /// CS and IP: mostly in a page's middle, sometimes across the two pages or cut off by the end of the second.
    fn place_of_code(&mut self, bits: u8) -> (u16, u64) {
        let r = &mut self.random;
        let offset = match r.below(64) {
            0..=1 => 0x1000 - 1 - r.below(14),
            2 => CODE_LEN - 1 - r.below(14),
            _ => 0x800 + r.below(0x400),
        };
        match bits {
            64 => (sel::CODE64, r.pick(&CODE) + offset),
            32 if self.abilities.ldt && r.one_in(12) => (6 << 3 | 7, offset),
            32 => (sel::CODE32, CODE[0] + offset),
            _ => (sel::CODE16, offset),
        }
    }

    pub(super) fn build(&mut self, code: Code, bits: u8, ip: u64) -> Option<Vec<u8>> {
        let info = code.op_code();
        if !info.is_available_in_mode(bits.into()) {
            return None;
        }
        let mut i = Instruction::default();
        i.set_code(code);
        i.set_code_size(match bits {
            64 => CodeSize::Code64,
            32 => CodeSize::Code32,
            _ => CodeSize::Code16,
        });
        let mut immediates = 0;
        for n in 0..info.op_count() {
            self.operand(&mut i, n, info.op_kind(n), bits, ip, &mut immediates)?;
        }
        let (simple, r) = (self.simple, &mut self.random);
        if !simple
            && info.can_use_lock_prefix()
            && r.one_in(if i.op0_kind() == OpKind::Register {
                64
            } else {
                6
            })
        {
            i.set_has_lock_prefix(true);
        }
        if !simple && (info.can_use_rep_prefix() || info.can_use_repne_prefix()) {
            match r.below(4) {
                0 => {}
                1 => i.set_has_repne_prefix(true),
                _ => i.set_has_rep_prefix(true),
            }
        }
        let evex = info.encoding() == EncodingKind::EVEX;
        if evex {
            self.decorate(&mut i);
        }
        let (simple, r) = (self.simple, &mut self.random);
        let mut encoder = Encoder::new(bits.into());
        if evex {
            encoder.set_evex_wig(r.below(2) as u32);
            encoder.set_evex_lig(r.below(4) as u32);
        }
        let vex = info.encoding() == EncodingKind::VEX;
        if vex {
            // Bits that the instruction ignores, and the longer prefix.
            encoder.set_vex_wig(r.below(2) as u32);
            encoder.set_vex_lig(r.below(2) as u32);
            encoder.set_prevent_vex2(r.one_in(4));
        }
        encoder.encode(&i, ip).ok()?;
        let mut bytes = encoder.take_buffer();
        if simple {
            return Some(bytes);
        }
        if evex && r.one_in(16) {
            // Other bits in the prefix: registers, the mask, broadcast and zeroing, lengths, maps.
            let at = codes::prefixes(&bytes, bits).len();
            bytes[at + 1 + r.below(3) as usize] ^= 1 << r.below(8);
        } else if vex && r.one_in(16) {
            // Other bits in the prefix: a register, the length, W, vvvv, sometimes another instruction.
            let at = codes::prefixes(&bytes, bits).len();
            let payload = at + 1 + usize::from(bytes[at] == 0xc4) * r.below(2) as usize;
            bytes[payload] ^= 1 << r.below(8);
        } else if r.one_in(if vex || evex { 32 } else { 8 }) {
            for _ in 0..=r.below(2) {
                bytes.insert(0, r.pick(&PREFIXES));
            }
        } else if bits == 64 && r.one_in(10) {
            // A REX prefix where there was none, or other bits in it.
            let at = codes::prefixes(&bytes, bits).len();
            match bytes[at] {
                0x40..=0x4f => bytes[at] ^= 1 << r.below(4),
                0xc4 | 0xc5 | 0x62 => {}
                _ => bytes.insert(at, 0x40 | r.below(16) as u8),
            }
        }
        if r.one_in(200) {
            // Up to and beyond 15 bytes.
            let prefix = r.pick(&[0x2e, 0x3e, 0x66]);
            while bytes.len() < 15 + r.below(2) as usize {
                bytes.insert(0, prefix);
            }
        }
        (bytes.len() <= 16).then_some(bytes)
    }

    fn operand(
        &mut self,
        i: &mut Instruction,
        n: u32,
        kind: K,
        bits: u8,
        ip: u64,
        immediates: &mut u32,
    ) -> Option<()> {
        let many = if bits == 64 { 16 } else { 8 };
        let evex = i.op_code().encoding() == EncodingKind::EVEX;
        // Vector registers.
        let all = if evex && bits == 64 { 32 } else { many };
        let r = &mut self.random;
        let any8 = |r: &mut crate::Random| {
            if bits == 64 {
                r.pick(&R_8_64)
            } else {
                register(R::AL, r.below(8))
            }
        };
        let reg = match kind {
            K::r8_reg | K::r8_opcode => Some(any8(r)),
            K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => {
                Some(register(R::AX, r.below(many)))
            }
            K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
                Some(register(R::EAX, r.below(many)))
            }
            K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
                Some(register(R::RAX, r.below(many)))
            }
            K::mm_reg | K::mm_rm => Some(register(R::MM0, r.below(8))),
            K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
                Some(register(R::XMM0, r.below(all)))
            }
            K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
                Some(register(R::YMM0, r.below(all)))
            }
            K::zmm_reg | K::zmm_rm | K::zmm_vvvv => Some(register(R::ZMM0, r.below(all))),
            K::k_reg | K::k_rm | K::k_vvvv => Some(register(R::K0, r.below(8))),
            K::k_or_mem if r.one_in(2) => Some(register(R::K0, r.below(8))),
            K::r8_or_mem if r.one_in(2) => Some(any8(r)),
            K::r16_or_mem if r.one_in(2) => Some(register(R::AX, r.below(many))),
            K::r32_or_mem if r.one_in(2) => Some(register(R::EAX, r.below(many))),
            K::r64_or_mem if r.one_in(2) => Some(register(R::RAX, r.below(many))),
            K::mm_or_mem if r.one_in(2) => Some(register(R::MM0, r.below(8))),
            K::xmm_or_mem if r.one_in(2) => Some(register(R::XMM0, r.below(all))),
            K::ymm_or_mem if r.one_in(2) => Some(register(R::YMM0, r.below(all))),
            K::zmm_or_mem if r.one_in(2) => Some(register(R::ZMM0, r.below(all))),
            K::seg_reg => Some(r.pick(&SEGMENTS)),
            K::cr_reg => Some(register(R::CR0, r.below(9))),
            K::dr_reg => Some(register(R::DR0, r.below(8))),
            K::es => Some(R::ES),
            K::cs => Some(R::CS),
            K::ss => Some(R::SS),
            K::ds => Some(R::DS),
            K::fs => Some(R::FS),
            K::gs => Some(R::GS),
            K::al => Some(R::AL),
            K::cl => Some(R::CL),
            K::ax => Some(R::AX),
            K::dx => Some(R::DX),
            K::eax => Some(R::EAX),
            K::rax => Some(R::RAX),
            K::st0 => Some(R::ST0),
            K::sti_opcode => Some(register(R::ST0, r.below(8))),
            _ => None,
        };
        if let Some(reg) = reg {
            i.set_op_kind(n, OpKind::Register);
            i.set_op_register(n, reg);
            return Some(());
        }
        let by_bits = |k16, k32, k64| match bits {
            16 => k16,
            32 => k32,
            _ => k64,
        };
        let op = match kind {
            K::mem
            | K::mem_mib
            | K::mem_mpx
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::k_or_mem
            | K::zmm_or_mem
            | K::ymm_or_mem => return self.memory(i, n, bits, ip),
            K::mem_vsib32x | K::mem_vsib64x => {
                let index = register(R::XMM0, r.below(all));
                return self.vsib(i, n, bits, index);
            }
            K::mem_vsib32y | K::mem_vsib64y => {
                let index = register(R::YMM0, r.below(all));
                return self.vsib(i, n, bits, index);
            }
            K::mem_vsib32z | K::mem_vsib64z => {
                let index = register(R::ZMM0, r.below(all));
                return self.vsib(i, n, bits, index);
            }
            K::mem_offs => {
                i.set_op_kind(n, OpKind::Memory);
                let at = r.pick(&ALIASES).wrapping_add(0x800 + r.below(0x1000));
                i.set_memory_displ_size(u32::from(bits) / 8);
                i.set_memory_displacement64(at & (u64::MAX >> (64 - bits)));
                self.override_segment(i);
                return Some(());
            }
            K::seg_rSI => by_bits(
                OpKind::MemorySegSI,
                OpKind::MemorySegESI,
                OpKind::MemorySegRSI,
            ),
            K::es_rDI => by_bits(OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI),
            K::seg_rDI => by_bits(
                OpKind::MemorySegDI,
                OpKind::MemorySegEDI,
                OpKind::MemorySegRDI,
            ),
            K::seg_rBX_al => {
                i.set_memory_base(match bits {
                    16 => R::BX,
                    32 => R::EBX,
                    _ => R::RBX,
                });
                i.set_memory_index(R::AL);
                OpKind::Memory
            }
            K::imm8 if *immediates > 0 => OpKind::Immediate8_2nd,
            K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
            K::imm8sex16 => OpKind::Immediate8to16,
            K::imm8sex32 => OpKind::Immediate8to32,
            K::imm8sex64 => OpKind::Immediate8to64,
            K::imm16 => OpKind::Immediate16,
            K::imm32 => OpKind::Immediate32,
            K::imm32sex64 => OpKind::Immediate32to64,
            K::imm64 => OpKind::Immediate64,
            K::br16_1 | K::br16_2 => OpKind::NearBranch16,
            K::br32_1 | K::br32_4 => OpKind::NearBranch32,
            K::br64_1 | K::br64_4 => OpKind::NearBranch64,
            K::farbr2_2 => OpKind::FarBranch16,
            K::farbr4_2 => OpKind::FarBranch32,
            _ => return None,
        };
        i.set_op_kind(n, op);
        let value = self.random.integer();
        match op {
            OpKind::Immediate8 if kind == K::imm8_const_1 => i.set_immediate8(1),
            OpKind::Immediate8 => i.set_immediate8(value as u8),
            OpKind::Immediate8_2nd => i.set_immediate8_2nd(value as u8),
            OpKind::Immediate8to16 => i.set_immediate8to16((value as i8).into()),
            OpKind::Immediate8to32 => i.set_immediate8to32((value as i8).into()),
            OpKind::Immediate8to64 => i.set_immediate8to64((value as i8).into()),
            OpKind::Immediate16 => i.set_immediate16(value as u16),
            OpKind::Immediate32 => i.set_immediate32(value as u32),
            OpKind::Immediate32to64 => i.set_immediate32to64((value as i32).into()),
            OpKind::Immediate64 => i.set_immediate64(value),
            OpKind::NearBranch16 => {
                let target = self.near_target(ip, kind == K::br16_1);
                i.set_near_branch16(target as u16);
            }
            OpKind::NearBranch32 => {
                let target = self.near_target(ip, kind == K::br32_1);
                i.set_near_branch32(target as u32);
            }
            OpKind::NearBranch64 => {
                let target = self.near_target(ip, kind == K::br64_1);
                i.set_near_branch64(target);
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                let (selector, offset) = self.far_target(bits);
                i.set_far_branch_selector(selector);
                if op == OpKind::FarBranch16 {
                    i.set_far_branch16(offset as u16);
                } else {
                    i.set_far_branch32(offset as u32);
                }
            }
            OpKind::Memory => self.override_segment(i),
            OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => {
                self.override_segment(i)
            }
            _ => {}
        }
        *immediates += u32::from(matches!(kind, K::imm8 | K::imm16));
        Some(())
    }

    /// What an EVEX prefix adds: mask, zeroing, broadcast, rounding, where the instruction can have it.
    fn decorate(&mut self, i: &mut Instruction) {
        let info = i.op_code();
        let (simple, r) = (self.simple, &mut self.random);
        let memory = (0..info.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let required = info.require_op_mask_register();
        if info.can_use_op_mask_register() && (required || !r.one_in(3)) {
            i.set_op_mask(register(R::K1, r.below(7)));
            let stores = i.op0_kind() == OpKind::Memory;
            if info.can_use_zeroing_masking() && !stores && r.one_in(2) {
                i.set_zeroing_masking(true);
            }
        }
        if memory {
            i.set_is_broadcast(!simple && info.can_broadcast() && r.one_in(3));
        } else if info.can_use_rounding_control() && r.one_in(3) {
            use iced_x86::RoundingControl as C;
            i.set_rounding_control(r.pick(&[
                C::RoundToNearest,
                C::RoundDown,
                C::RoundUp,
                C::RoundTowardZero,
            ]));
        } else if info.can_suppress_all_exceptions()
            && !info.can_use_rounding_control()
            && r.one_in(3)
        {
            i.set_suppress_all_exceptions(true);
        }
    }

    fn override_segment(&mut self, i: &mut Instruction) {
        if self.random.one_in(6) {
            i.set_segment_prefix(self.random.pick(&SEGMENTS));
        }
    }

    /// A memory operand with a vector of indices.
    fn vsib(&mut self, i: &mut Instruction, n: u32, bits: u8, index: R) -> Option<()> {
        let (simple, r) = (self.simple, &mut self.random);
        if simple {
            return None;
        }
        i.set_op_kind(n, OpKind::Memory);
        let address = if bits == 32 || bits == 16 || r.one_in(8) {
            32
        } else {
            64
        };
        let many = if bits == 64 { 16 } else { 8 };
        let first = if address == 64 { R::RAX } else { R::EAX };
        let full = address / 8;
        let base = if r.one_in(6) {
            R::None
        } else {
            register(first, r.below(many))
        };
        i.set_memory_base(base);
        i.set_memory_index(index);
        i.set_memory_index_scale(1 << r.below(4) as u32);
        let mask = if address == 64 { u64::MAX } else { 0xffff_ffff };
        let (size, disp) = match r.below(4) {
            0 if base != R::None => (0, 0),
            1 if base != R::None => (1, r.pick(&[1, 0x10, 0x7f, 0xffff_ffff_ffff_ff80])),
            2 => (full, r.next() as i32 as u64),
            _ => (full, r.next() & 0x3fff),
        };
        i.set_memory_displ_size(size);
        i.set_memory_displacement64(disp & mask);
        self.override_segment(i);
        Some(())
    }

    fn near_target(&mut self, ip: u64, short: bool) -> u64 {
        let r = &mut self.random;
        if self.simple {
            return ip.wrapping_sub(60 + r.below(60));
        }
        if short || r.one_in(2) {
            return ip.wrapping_add(r.below(220)).wrapping_sub(100);
        }
        match r.below(4) {
            0 => ip
                .wrapping_add(u64::from(r.next() as u32))
                .wrapping_sub(1 << 31),
            _ => ip & !0xfff | r.below(0x1000),
        }
    }

    fn memory(&mut self, i: &mut Instruction, n: u32, bits: u8, ip: u64) -> Option<()> {
        if self.simple {
            self.simple_memory(i, n, bits);
            return Some(());
        }
        let r = &mut self.random;
        i.set_op_kind(n, OpKind::Memory);
        let other = r.one_in(8);
        let address = match (bits, other) {
            (64, false) => 64,
            (64, true) | (32, false) | (16, true) => 32,
            _ => 16,
        };
        let small = r.pick(&[0, 1, 0x10, 0x7f]) as i64 * if r.one_in(2) { 1 } else { -1 };
        if address == 16 {
            let (base, index) = r.pick(&[
                (R::BX, R::SI),
                (R::BX, R::DI),
                (R::BP, R::SI),
                (R::BP, R::DI),
                (R::SI, R::None),
                (R::DI, R::None),
                (R::BP, R::None),
                (R::BX, R::None),
                (R::None, R::None),
            ]);
            i.set_memory_base(base);
            i.set_memory_index(index);
            let (size, disp) = match r.below(3) {
                _ if base == R::None => (2, ALIASES[0] + r.below(0x2800)),
                0 if base != R::BP || index != R::None => (0, 0),
                1 => (1, small as u64),
                _ => (2, r.next() & 0xffff),
            };
            i.set_memory_displ_size(size);
            i.set_memory_displacement64(disp & 0xffff);
            self.override_segment(i);
            return Some(());
        }
        let first = if address == 64 { R::RAX } else { R::EAX };
        let many = if bits == 64 { 16 } else { 8 };
        let full = address / 8;
        match r.below(8) {
            0 if bits == 64 => {
                // RIP-relative; from the low code region only the low arena is near, and so for the high ones.
                i.set_memory_base(if address == 64 { R::RIP } else { R::EIP });
                let near = if ip >> 32 == 0 {
                    ALIASES[1]
                } else {
                    ALIASES[3]
                };
                let at = near.wrapping_add(r.below(0x2800));
                i.set_memory_displ_size(full);
                i.set_memory_displacement64(if address == 64 { at } else { at & 0xffff_ffff });
            }
            1 => {
                let reach = if bits == 64 {
                    &ALIASES[..2]
                } else {
                    &ALIASES[..3]
                };
                let at = r.pick(reach) + r.below(0x2800);
                i.set_memory_displ_size(full);
                i.set_memory_displacement64(at);
            }
            form => {
                let base = if form == 2 {
                    R::None
                } else {
                    register(first, r.below(many))
                };
                let mut index = if form < 5 {
                    register(first, r.below(many))
                } else {
                    R::None
                };
                if index == R::RSP || index == R::ESP {
                    index = R::None;
                }
                if base == R::None && index == R::None {
                    return None;
                }
                i.set_memory_base(base);
                i.set_memory_index(index);
                i.set_memory_index_scale(1 << r.below(4) as u32);
                if index == R::None {
                    i.set_memory_index_scale(1);
                }
                let (size, disp) = match r.below(4) {
                    0 if base != R::None => (0, 0),
                    1 if base != R::None => (1, small as u64),
                    2 => (full, r.next() as i32 as u64),
                    _ => (full, r.next() & 0x3fff),
                };
                let mask = if address == 64 { u64::MAX } else { 0xffff_ffff };
                i.set_memory_displ_size(size);
                i.set_memory_displacement64(disp & mask);
            }
        }
        self.override_segment(i);
        Some(())
    }
}

const R_8_64: [R; 20] = [
    R::AL,
    R::CL,
    R::DL,
    R::BL,
    R::AH,
    R::CH,
    R::DH,
    R::BH,
    R::SPL,
    R::BPL,
    R::SIL,
    R::DIL,
    R::R8L,
    R::R9L,
    R::R10L,
    R::R11L,
    R::R12L,
    R::R13L,
    R::R14L,
    R::R15L,
];
