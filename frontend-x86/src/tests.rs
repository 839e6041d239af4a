//! Tests over whole tables: every instruction of the default CPU, in every mode, and random bytes.

use std::collections::BTreeSet;

use iced_x86::{
    Code, Encoder, Instruction, MemorySize, OpCodeOperandKind as K, OpKind, Register as R,
};
use ir::{Op, OpCode};

use crate::{End, Features, Limits, Mode, fuzz, lift};

const ALL: Limits = Limits {
    max_insns: 1,
    page: 4096,
    branches: 0,
};

/// How the memory operand of a built instruction looks.
#[derive(Clone, Copy, PartialEq)]
enum Address {
    /// None where the instruction has a register form.
    Register,
    /// Base, index, displacement.
    Full,
    /// Through the stack pointer.
    Stack,
    /// FS override.
    Fs,
    /// Displacement only, RIP-relative in 64-bit code.
    Displacement,
    /// 16-bit address in 32-bit code, 32-bit in the others.
    Other,
}

const ADDRESSES: [Address; 6] = [
    Address::Register,
    Address::Full,
    Address::Stack,
    Address::Fs,
    Address::Displacement,
    Address::Other,
];

fn set_memory(i: &mut Instruction, bits: u32, address: Address) {
    let (mut base, mut index) = match (bits, address == Address::Other) {
        (64, false) => (R::RBX, R::R9),
        (16, false) | (32, true) => (R::BX, R::SI),
        _ => (R::EBX, R::ESI),
    };
    let (mut disp, mut size) = (0x12, 1);
    match address {
        Address::Stack if bits == 64 => (base, index) = (R::RSP, R::None),
        Address::Stack if bits == 32 => (base, index) = (R::ESP, R::None),
        Address::Stack => (base, index) = (R::BP, R::DI),
        Address::Fs => i.set_segment_prefix(R::FS),
        Address::Displacement if bits == 64 => {
            (base, index, disp, size) = (R::RIP, R::None, 0x1000, 8)
        }
        Address::Displacement => (base, index, disp, size) = (R::None, R::None, 0x1000, bits / 8),
        _ => {}
    }
    i.set_memory_base(base);
    i.set_memory_index(index);
    i.set_memory_displacement64(disp);
    i.set_memory_displ_size(size);
}

/// An encoding of `code`, if there is one of this shape.
fn build(code: Code, bits: u32, address: Address) -> Option<Vec<u8>> {
    let info = code.op_code();
    if !info.is_instruction() || !info.is_available_in_mode(bits) {
        return None;
    }
    let mut i = Instruction::default();
    i.set_code(code);
    let mut has_memory = false;
    let mut immediates = 0;
    for n in 0..info.op_count() {
        let mut reg = |r: R| {
            i.set_op_kind(n, OpKind::Register);
            i.set_op_register(n, r);
        };
        let either = |r: R| {
            if address == Address::Register {
                Some(r)
            } else {
                None
            }
        };
        let register = match info.op_kind(n) {
            K::r8_or_mem => either(R::DH),
            K::r16_or_mem => either(R::CX),
            K::r32_or_mem => either(R::ECX),
            K::r64_or_mem => either(R::R10),
            K::mm_or_mem => either(R::MM2),
            K::xmm_or_mem => either(R::XMM3),
            K::ymm_or_mem => either(R::YMM3),
            K::xmm_vvvv => Some(R::XMM2),
            K::ymm_vvvv => Some(R::YMM2),
            K::xmm_is4 => Some(R::XMM4),
            K::ymm_is4 => Some(R::YMM4),
            K::ymm_reg | K::ymm_rm => Some(R::YMM1),
            K::mem | K::mem_offs => None,
            K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y => None,
            K::r8_reg | K::r8_opcode => Some(R::BL),
            K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => Some(R::DX),
            K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode => Some(R::EDX),
            K::r32_vvvv => Some(R::ESI),
            K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode => Some(R::RDX),
            K::r64_vvvv => Some(R::RSI),
            K::seg_reg => Some(R::DS),
            K::mm_reg | K::mm_rm => Some(R::MM1),
            K::xmm_reg | K::xmm_rm => Some(R::XMM1),
            K::cr_reg => Some(R::CR0),
            K::dr_reg => Some(R::DR0),
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
            K::sti_opcode => Some(R::ST3),
            kind => {
                let by_bits = |k16, k32, k64| match bits {
                    16 => k16,
                    32 => k32,
                    _ => k64,
                };
                let op = match kind {
                    K::imm8 if immediates > 0 => OpKind::Immediate8_2nd,
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
                    K::seg_rSI => by_bits(
                        OpKind::MemorySegSI,
                        OpKind::MemorySegESI,
                        OpKind::MemorySegRSI,
                    ),
                    K::es_rDI => {
                        by_bits(OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI)
                    }
                    K::seg_rDI => by_bits(
                        OpKind::MemorySegDI,
                        OpKind::MemorySegEDI,
                        OpKind::MemorySegRDI,
                    ),
                    K::seg_rBX_al => OpKind::Memory,
                    _ => return None,
                };
                i.set_op_kind(n, op);
                match op {
                    OpKind::Immediate8 => i.set_immediate8(1),
                    OpKind::Immediate8_2nd => i.set_immediate8_2nd(1),
                    OpKind::Immediate8to16 => i.set_immediate8to16(-3),
                    OpKind::Immediate8to32 => i.set_immediate8to32(-3),
                    OpKind::Immediate8to64 => i.set_immediate8to64(-3),
                    OpKind::Immediate16 => i.set_immediate16(0x1234),
                    OpKind::Immediate32 => i.set_immediate32(0x1234_5678),
                    OpKind::Immediate32to64 => i.set_immediate32to64(-0x1234),
                    OpKind::Immediate64 => i.set_immediate64(0x1234_5678_9abc_def0),
                    OpKind::NearBranch16 => i.set_near_branch16(0x20),
                    OpKind::NearBranch32 => i.set_near_branch32(0x20),
                    OpKind::NearBranch64 => i.set_near_branch64(0x20),
                    OpKind::FarBranch16 | OpKind::FarBranch32 => {
                        i.set_far_branch_selector(8);
                        i.set_far_branch32(0x10);
                    }
                    OpKind::Memory => {
                        i.set_memory_base(match bits {
                            16 => R::BX,
                            32 => R::EBX,
                            _ => R::RBX,
                        });
                        i.set_memory_index(R::AL);
                    }
                    _ => {}
                }
                immediates += u32::from(kind == K::imm8 || kind == K::imm16);
                continue;
            }
        };
        match register {
            Some(r) => reg(r),
            None => {
                has_memory = true;
                i.set_op_kind(n, OpKind::Memory);
                if info.op_kind(n) == K::mem_offs {
                    i.set_memory_displ_size(bits / 8);
                    i.set_memory_displacement64(0x1234_5678_9abc & (u64::MAX >> (64 - bits)));
                } else {
                    set_memory(&mut i, bits, address);
                }
                let vsib = match info.op_kind(n) {
                    K::mem_vsib32x | K::mem_vsib64x => Some(R::XMM6),
                    K::mem_vsib32y | K::mem_vsib64y => Some(R::YMM6),
                    _ => None,
                };
                if let Some(index) = vsib {
                    i.set_memory_index(index);
                    if i.memory_base() == R::RIP {
                        i.set_memory_base(R::None);
                        i.set_memory_displ_size(8);
                    }
                }
            }
        }
    }
    // A shape without effect on the encoding is built once.
    if !has_memory && address != Address::Register {
        return None;
    }
    let mut encoder = Encoder::new(bits);
    encoder.encode(&i, 0).ok()?;
    Some(encoder.take_buffer())
}

fn modes() -> Vec<(u32, Mode)> {
    let v86 = |p: &mut crate::ModeParts| (p.protected, p.vm86, p.cpl) = (true, true, 3);
    vec![
        (64, Mode::long64().with(|p| p.avx = true)),
        (64, Mode::long64().with(|p| p.cpl = 3)),
        (64, Mode::long64().with(|p| (p.ts, p.mp) = (true, true))),
        (32, Mode::flat32().with(|p| p.avx = true)),
        (
            32,
            Mode::flat32().with(|p| {
                (p.flat_ds, p.flat_ss, p.cs_limit) = (false, false, crate::CsLimit::Small)
            }),
        ),
        (16, Mode::real16()),
        (16, Mode::real16().with(|p| p.protected = true)),
        (16, Mode::real16().with(v86)),
    ]
}

fn is_ud(op: &Op) -> bool {
    op.code == OpCode::Raise && op.sub == u32::from(x86::vector::UD)
}

/// Instructions of the default CPU that raise #UD, or that there is nothing to lift of, each with its reason.
fn never_lifted(code: Code) -> Option<&'static str> {
    let name = format!("{code:?}");
    let starts = |p: &str| name.starts_with(p);
    Some(match code {
        Code::Ud0 => "AMD's UD0 without ModR/M",
        Code::Ud0_r16_rm16 | Code::Ud0_r32_rm32 | Code::Ud0_r64_rm64 => "undefined by definition",
        Code::Ud1_r16_rm16 | Code::Ud1_r32_rm32 | Code::Ud1_r64_rm64 | Code::Ud2 => {
            "undefined by definition"
        }
        Code::INVALID => "what undefined bytes decode to",
        Code::Popw_CS => "8086 only: 0F is the two-byte escape",
        Code::Mov_r32_tr | Code::Mov_tr_r32 => "386 and 486 test registers",
        _ if starts("Declare") || starts("Zero_bytes") => "assembler pseudo-instruction",
        _ if starts("F") && code.op_code().mnemonic_waits() => "WAIT and another instruction",
        _ => return None,
    })
}

trait Waits {
    fn mnemonic_waits(&self) -> bool;
}

impl Waits for iced_x86::OpCodeInfo {
    /// FSTCW and the like: 9B before the opcode, which decodes as two instructions.
    fn mnemonic_waits(&self) -> bool {
        self.fwait()
    }
}

#[test]
fn every_instruction_of_the_default_cpu_is_lifted() {
    ir::verify::enable(true);
    let features = Features::v3_plus();
    let mut missing = BTreeSet::new();
    let mut unbuilt = BTreeSet::new();
    let mut lifted = 0;
    for code in Code::values() {
        if !features.allow(code) || never_lifted(code).is_some() {
            continue;
        }
        let (mut built, mut alive) = (false, false);
        for (bits, mode) in modes() {
            for address in ADDRESSES {
                let Some(bytes) = build(code, bits, address) else {
                    continue;
                };
                let result = lift(&bytes, &ALL, mode, &features);
                if matches!(result.end, End::FetchFault(_)) {
                    // AMD's 16-bit near branches in 64-bit code are longer here.
                    assert_eq!((bits, bytes[0]), (64, 0x66), "{code:?} {bytes:x?}");
                    continue;
                }
                built = true;
                if let Err(error) = ir::verify::verify(&result.block) {
                    panic!(
                        "{code:?} {bytes:x?} in {mode:?}:\n{}\n{error}",
                        result.block
                    );
                }
                assert_eq!(result.block.len as usize, bytes.len(), "{code:?}");
                if !result.block.ops.iter().any(is_ud) {
                    alive = true;
                    lifted += 1;
                }
            }
        }
        if !built {
            unbuilt.insert(format!("{code:?}"));
        } else if !alive {
            missing.insert(format!("{code:?}"));
        }
    }
    assert!(missing.is_empty(), "not lifted: {missing:?}");
    assert!(unbuilt.is_empty(), "no encoding: {unbuilt:?}");
    assert!(lifted > 10_000, "{lifted}");
}

#[test]
fn refused_instructions_are_refused() {
    let features = Features::v2_plus();
    for code in Code::values().filter(|&c| features.allow(c)) {
        if never_lifted(code) != Some("undefined by definition") {
            continue;
        }
        if let Some(bytes) = build(code, 64, Address::Register) {
            let block = lift(&bytes, &ALL, Mode::long64(), &features).block;
            assert!(block.ops.iter().any(is_ud), "{code:?}");
        }
    }
}

/// A seeded generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn random_bytes_lift_to_valid_blocks() {
    let mut random = Random(1);
    let mut ops = 0;
    for _ in 0..60_000 {
        let len = 8 + random.next() as usize % 40;
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        ops += fuzz(&bytes).ops.len();
    }
    assert!(ops > 200_000, "{ops}");
}

#[test]
fn blocks_end_where_they_must() {
    let features = Features::v2_plus();
    let go = |bytes: &[u8], max_insns, page| {
        lift(
            bytes,
            &Limits {
                max_insns,
                page,
                branches: 0,
            },
            Mode::long64(),
            &features,
        )
    };
    let nops = [0x90; 8];
    let cut = go(&nops, 3, 8);
    assert_eq!((cut.end, cut.block.len, cut.block.insns), (End::Cut, 3, 3));
    let page = go(&nops, 100, 5);
    assert_eq!(
        (page.end, page.block.len, page.block.insns),
        (End::Cut, 5, 5)
    );
    let short = go(&[0x90, 0x48], 100, 2);
    assert_eq!((short.end, short.block.len), (End::Cut, 1));
    let first = go(&[0x48, 0x81], 100, 2);
    assert_eq!((first.end, first.block.ops.len()), (End::FetchFault(2), 0));
    assert_eq!(go(&[], 100, 0).end, End::FetchFault(0));
    // Begins in the page, ends beyond it.
    let over = go(&[0x90, 0x48, 0x01, 0xd8, 0x90], 100, 2);
    assert_eq!(
        (over.end, over.block.len, over.block.insns),
        (End::Cut, 4, 2)
    );
    assert_eq!(go(&[0x90, 0xc3, 0x90], 100, 3).end, End::Transfer);
    assert_eq!(go(&[0x90, 0x0f, 0x0b, 0x90], 100, 4).end, End::Raise);
    let sti = go(&[0xfb, 0x90], 100, 2);
    assert_eq!((sti.end, sti.block.len), (End::Transfer, 1));
}

#[test]
fn operands_are_aligned_where_the_instruction_says_so() {
    let features = Features::v3_plus();
    let mode = Mode::long64().with(|p| p.avx = true);
    let mut seen = 0;
    for code in Code::values().filter(|&c| features.allow(c)) {
        let Some(bytes) = build(code, 64, Address::Full) else {
            continue;
        };
        let block = lift(&bytes, &ALL, mode, &features).block;
        let size = code.op_code().memory_size();
        let aligned = block
            .ops
            .iter()
            .any(|op| op.mem.is_some_and(|m| usize::from(m.align) == size.size()));
        let float = [
            MemorySize::Packed128_Float32,
            MemorySize::Packed128_Float64,
            MemorySize::Packed256_Float32,
            MemorySize::Packed256_Float64,
        ];
        if float.contains(&size)
            && block
                .ops
                .iter()
                .any(|op| matches!(op.code, OpCode::VecLoad | OpCode::VecStore))
        {
            // SSE wants alignment unless told otherwise, AVX only where told so.
            let name = format!("{code:?}");
            let (sse, avx) = (!name.starts_with("Movup"), ["VEX_Vmovap", "VEX_Vmovnt"]);
            let wanted = if name.starts_with("VEX_") {
                avx.iter().any(|start| name.starts_with(start))
            } else {
                sse
            };
            assert_eq!(aligned, wanted, "{code:?}");
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
}
