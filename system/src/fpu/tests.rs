//! Operands in, results out, and which exception each refusal is.

use std::sync::Arc;

use iced_x86::Code;
use ir::{Operand, Temp, VecTemp};
use x86::{Exception, Gpr, Seg, cr0, cr4, vector};

use super::*;
use crate::testing::Machine;
use crate::{CpuModel, offset};

const NONE: Operand = Operand::None;

fn machine() -> Machine {
    let mut m = Machine::long(3, true);
    m.v.st.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    m.v.st.fpu = x86::Fpu::RESET;
    m
}

fn run(m: &mut Machine, code: Code, dst: Operand, args: [Operand; 3]) -> Result<(), Exception> {
    let field = |o: Operand| match o {
        Operand::Temp(t) => offset::temp(usize::from(t.0)) as u16,
        Operand::VecTemp(t) => offset::vec_temp(usize::from(t.0)) as u16,
        _ => 0,
    };
    vec_portable(
        &mut m.v,
        ir::VecInsn::plain(code),
        dst,
        args,
        [field(dst), field(args[0]), field(args[1]), field(args[2])],
    )
}

fn run_x87(
    m: &mut Machine,
    code: Code,
    dst: Operand,
    args: [Operand; 3],
) -> Result<bool, Exception> {
    x87(
        &mut m.v,
        code,
        dst,
        args,
        [
            offset::vec_temp(2) as u16,
            offset::vec_temp(1) as u16,
            offset::temp(5) as u16,
            0,
        ],
    )
}

fn set32(bytes: &mut [u8; 64], lanes: [u32; 4]) {
    for (i, lane) in lanes.into_iter().enumerate() {
        bytes[i * 4..i * 4 + 4].copy_from_slice(&lane.to_le_bytes());
    }
}

fn get32(bytes: &[u8; 64]) -> [u32; 4] {
    std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|j| bytes[i * 4 + j])))
}

#[test]
fn vector_operands_and_upper_halves() {
    let mut m = machine();
    m.v.st.vec[3] = [0x77; 64];
    set32(&mut m.v.st.vec[3], [1, 2, 3, 4]);
    set32(&mut m.v.vec_temps[5], [10, 20, 30, u32::MAX]);
    let memory = Operand::VecTemp(VecTemp(5));
    assert_eq!(
        run(
            &mut m,
            Code::Paddd_xmm_xmmm128,
            Operand::Vec(3),
            [memory, NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(get32(&m.v.st.vec[3]), [11, 22, 33, 3]);
    assert_eq!(
        m.v.st.vec[3][16..],
        [0x77; 48],
        "legacy SSE leaves the upper part"
    );
    // MOVSS from memory clears the rest, from a register it doesn't.
    assert_eq!(
        run(
            &mut m,
            Code::Movss_xmm_xmmm32,
            Operand::Vec(3),
            [Operand::Vec(4), NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(get32(&m.v.st.vec[3]), [0, 22, 33, 3]);
    assert_eq!(
        run(
            &mut m,
            Code::Movss_xmm_xmmm32,
            Operand::Vec(3),
            [memory, NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(get32(&m.v.st.vec[3]), [10, 0, 0, 0]);
    let imm = Operand::Imm(0x1b);
    assert_eq!(
        run(
            &mut m,
            Code::Pshufd_xmm_xmmm128_imm8,
            Operand::Vec(6),
            [memory, imm, NONE]
        ),
        Ok(())
    );
    assert_eq!(get32(&m.v.st.vec[6]), [u32::MAX, 30, 20, 10]);
    assert_eq!(
        run(
            &mut m,
            Code::Pslld_xmm_imm8,
            Operand::Vec(6),
            [Operand::Imm(4), NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(get32(&m.v.st.vec[6]), [0xffff_fff0, 480, 320, 160]);
}

#[test]
fn general_registers_and_temporaries() {
    let mut m = machine();
    m.v.st.gpr[Gpr::Rbx as usize] = 0xffff_ffff_ffff_fffe;
    let rbx = Operand::Reg(Gpr::Rbx);
    assert_eq!(
        run(
            &mut m,
            Code::Cvtsi2sd_xmm_rm64,
            Operand::Vec(1),
            [rbx, NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(m.v.st.vec[1][..8], (-2.0f64).to_le_bytes());
    let rdi = Operand::Reg(Gpr::Rdi);
    m.v.st.gpr[Gpr::Rdi as usize] = u64::MAX;
    assert_eq!(
        run(
            &mut m,
            Code::Cvttsd2si_r32_xmmm64,
            rdi,
            [Operand::Vec(1), NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(
        m.v.st.gpr[Gpr::Rdi as usize],
        0xffff_fffe,
        "32 bits clear the upper half"
    );
    m.v.temps[9] = 0x1234;
    let temp = Operand::Temp(Temp(9));
    assert_eq!(
        run(
            &mut m,
            Code::Pinsrw_xmm_r32m16_imm8,
            Operand::Vec(1),
            [temp, Operand::Imm(1), NONE]
        ),
        Ok(())
    );
    assert_eq!(m.v.st.vec[1][2..4], [0x34, 0x12]);
    assert_eq!(
        run(
            &mut m,
            Code::Pextrb_r32m8_xmm_imm8,
            temp,
            [Operand::Vec(1), Operand::Imm(3), NONE]
        ),
        Ok(())
    );
    assert_eq!(m.v.temps[9], 0x12);
    m.v.st.vec[2] = [0; 64];
    m.v.st.vec[2][5] = 0x80;
    assert_eq!(
        run(
            &mut m,
            Code::Pmovmskb_r32_xmm,
            rdi,
            [Operand::Vec(2), NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(m.v.st.gpr[Gpr::Rdi as usize], 0x20);
}

#[test]
fn implicit_operands_and_flags() {
    let mut m = machine();
    m.v.st.vec[1][..16].copy_from_slice(b"aeiou\0..........");
    m.v.st.vec[2][..16].copy_from_slice(b"xyzu\0...........");
    let args = [Operand::Vec(2), Operand::Imm(0), NONE];
    m.v.st.gpr[Gpr::Rcx as usize] = u64::MAX;
    assert_eq!(
        run(
            &mut m,
            Code::Pcmpistri_xmm_xmmm128_imm8,
            Operand::Vec(1),
            args
        ),
        Ok(())
    );
    assert_eq!(m.v.st.gpr[Gpr::Rcx as usize], 3);
    assert_eq!(
        m.v.status(),
        x86::flags::CF | x86::flags::ZF | x86::flags::SF
    );
    assert_eq!(
        run(
            &mut m,
            Code::Pcmpistrm_xmm_xmmm128_imm8,
            Operand::Vec(1),
            args
        ),
        Ok(())
    );
    assert_eq!(
        m.v.st.vec[0][..16],
        [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    m.v.st.vec[0] = [0x80; 64];
    m.v.st.vec[0][1] = 0;
    m.v.st.vec[7] = [7; 64];
    assert_eq!(
        run(
            &mut m,
            Code::Pblendvb_xmm_xmmm128,
            Operand::Vec(7),
            [Operand::Vec(2), NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(m.v.st.vec[7][..4], [b'x', 7, b'z', b'u']);
    assert_eq!(
        run(
            &mut m,
            Code::Ptest_xmm_xmmm128,
            Operand::Vec(0),
            [Operand::Vec(9), NONE, NONE]
        ),
        Ok(())
    );
    let both = x86::flags::ZF | x86::flags::CF;
    assert_eq!(
        m.v.status(),
        both,
        "source 0: nothing in both, nothing outside"
    );
}

#[test]
fn mmx_registers_are_the_x87s() {
    let mut m = machine();
    m.v.st.fpu.fsw = 5 << 11;
    m.v.vec_temps[1][..8].copy_from_slice(&0x0102_0304_0506_0708u64.to_le_bytes());
    let args = [Operand::VecTemp(VecTemp(1)), NONE, NONE];
    assert_eq!(
        run(&mut m, Code::Movq_mm_mmm64, Operand::Mmx(2), args),
        Ok(())
    );
    let fpu = &m.v.st.fpu;
    assert_eq!((fpu.fsw, fpu.ftw), (0, 0xff));
    assert_eq!(
        fpu.regs[2],
        [8, 7, 6, 5, 4, 3, 2, 1, 0xff, 0xff, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        run(
            &mut m,
            Code::Paddb_mm_mmm64,
            Operand::Mmx(2),
            [Operand::Mmx(2), NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(m.v.st.fpu.regs[2][..8], [16, 14, 12, 10, 8, 6, 4, 2]);
    // A register that is only read keeps its exponent.
    m.v.st.fpu.regs[3][8] = 0x11;
    assert_eq!(
        run(
            &mut m,
            Code::Pmovmskb_r32_mm,
            Operand::Reg(Gpr::Rax),
            [Operand::Mmx(3), NONE, NONE]
        ),
        Ok(())
    );
    assert_eq!(m.v.st.fpu.regs[3][8], 0x11);
    assert_eq!(emms(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(m.v.st.fpu.ftw, 0);
}

#[test]
fn simd_exceptions() {
    let mut m = machine();
    m.v.st.mxcsr = 0x1f80 & !0x200;
    set32(&mut m.v.st.vec[1], [0x3f80_0000, 0, 0, 0]);
    let args = [Operand::Vec(2), NONE, NONE];
    assert_eq!(
        run(&mut m, Code::Divss_xmm_xmmm32, Operand::Vec(1), args),
        Err(Exception::XM)
    );
    assert_eq!(
        (m.v.st.mxcsr, get32(&m.v.st.vec[1])[0]),
        (0x1d84, 0x3f80_0000)
    );
    m.v.st.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(
        run(&mut m, Code::Divss_xmm_xmmm32, Operand::Vec(1), args),
        Err(Exception::UD)
    );
    m.v.st.mxcsr = 0x1f80;
    assert_eq!(
        run(&mut m, Code::Divss_xmm_xmmm32, Operand::Vec(1), args),
        Ok(())
    );
    assert_eq!(
        (m.v.st.mxcsr, get32(&m.v.st.vec[1])[0]),
        (0x1f84, 0x7f80_0000)
    );
    assert_eq!(
        run(
            &mut m,
            Code::EVEX_Vdpbf16ps_xmm_k1z_xmm_xmmm128b32,
            Operand::Vec(1),
            args
        ),
        Err(Exception::UD)
    );
}

#[test]
fn mxcsr_loads_and_stores() {
    let mut m = machine();
    assert_eq!(ldmxcsr(&mut m.v, 0xffff_ffff_0000_9fc0, 0, 0), Ok(0));
    assert_eq!(stmxcsr(&mut m.v, 0, 0, 0), Ok(0x9fc0));
    assert_eq!(ldmxcsr(&mut m.v, 0x1_0000, 0, 0), Err(Exception::GP0));
    m.v.st.cr0 |= cr0::TS;
    assert_eq!(stmxcsr(&mut m.v, 0, 0, 0), Err(Exception::NM));
    m.v.st.cr4 &= !cr4::OSFXSR;
    assert_eq!(ldmxcsr(&mut m.v, 0x1f80, 0, 0), Err(Exception::UD));
}

#[test]
fn masked_moves_write_all_or_nothing() {
    let mut m = machine();
    for i in 0..16 {
        m.v.st.vec[1][i] = 0x10 + i as u8;
        m.v.st.vec[2][i] = if [0, 1, 5, 15].contains(&i) {
            0x80
        } else {
            0x7f
        };
        m.write(0x3_0000 + i as u64, 1, 0xcc);
    }
    assert_eq!(mask_mov(&mut m.v, 0x3_0000, 1, 2), Ok(0));
    assert_eq!(m.read(0x3_0000, 8), 0xcccc_15cc_cccc_1110);
    assert_eq!(m.read(0x3_0008, 8), 0x1fcc_cccc_cccc_cccc);
    // The last byte lies where nothing is mapped.
    let before = m.snapshot();
    let e = mask_mov(&mut m.v, 0x3fff_fff1, 1, 2).expect_err("1 GiB is the end");
    assert_eq!((e.vector, e.cr2), (vector::PF, Some(0x4000_0000)));
    assert!(m.snapshot() == before);
    m.v.st.fpu.regs[4][..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    m.v.st.fpu.regs[5][..8].copy_from_slice(&[0xff, 0, 0xff, 0, 0, 0, 0, 0]);
    m.v.st.fpu.regs[5][9] = 0xff;
    assert_eq!(mask_mov(&mut m.v, 0x3_0000, 4, 0x105), Ok(0));
    assert_eq!(m.read(0x3_0000, 8), 0xcccc_15cc_cc03_1101);
    assert_eq!(m.v.st.fpu.ftw, 0xff, "an MMX instruction");
}

/// The c argument for four dwords at DS, indices of 32 bits times 4.
fn four_dwords() -> u64 {
    let what = ir::Elements {
        width: ir::Width::B32,
        count: 4,
        seg: Seg::Ds as u8,
        addr: ir::Width::B64,
        index: ir::Width::B32,
        scale: 2,
    };
    assert_eq!(ir::Elements::decode(what.encode() as u64), what);
    what.encode() as u64
}

/// Register 2 as a mask of dwords.
fn set_mask(m: &mut Machine, lanes: &[usize]) {
    m.v.st.vec[2] = [0x7f; 64];
    for lane in lanes {
        m.v.st.vec[2][lane * 4 + 3] = 0x80;
    }
}

#[test]
fn masked_elements_alone_are_accessed() {
    let mut m = Machine::protected(0);
    m.enable_paging();
    // The page at 31000h is not there.
    m.page(0x3_1000, 0);
    for i in 0..4 {
        m.write(0x3_0ff0 + 4 * i, 4, 0x1000 + i);
    }
    m.v.st.vec[1] = [0xee; 64];
    let (at, b) = (0x3_0ff8, 1 | 2 << 8);
    set_mask(&mut m, &[0, 1]);
    assert_eq!(mask_load(&mut m.v, at, b, four_dwords()), Ok(0));
    assert_eq!(get32(&m.v.st.vec[1])[..4], [0x1002, 0x1003, 0, 0]);
    assert_eq!(m.v.st.vec[1][16..], [0; 48]);
    m.v.st.vec[1][0] = 0x77;
    assert_eq!(mask_store(&mut m.v, at, b, four_dwords()), Ok(0));
    assert_eq!(m.read(at, 8), 0x1003_0000_1077);
    set_mask(&mut m, &[1, 2]);
    m.v.st.vec[1] = [0xee; 64];
    let before = m.snapshot();
    for helper in [mask_load, mask_store] {
        let e = helper(&mut m.v, at, b, four_dwords()).expect_err("the third is not there");
        assert_eq!((e.vector, e.cr2), (vector::PF, Some(0x3_1000)));
        assert!(m.snapshot() == before, "then the second is not done");
    }
}

#[test]
fn gathers_go_on_where_they_faulted() {
    let mut m = machine();
    m.write(0x3_0000, 4, 0xaaaa);
    m.write(0x3_0040, 4, 0xbbbb);
    m.v.st.vec[1] = [0xee; 64];
    // Indices 0, (masked out), 16, far beyond what is mapped.
    for (lane, index) in [0, 5, 16, 0x1000_0000_u32].into_iter().enumerate() {
        m.v.st.vec[3][lane * 4..lane * 4 + 4].copy_from_slice(&index.to_le_bytes());
    }
    set_mask(&mut m, &[0, 2, 3]);
    let b = 1 | 2 << 8 | 3 << 16;
    let e = gather(&mut m.v, 0x3_0000, b, four_dwords()).expect_err("not mapped");
    assert_eq!((e.vector, e.cr2), (vector::PF, Some(0x4003_0000)));
    assert_eq!(
        get32(&m.v.st.vec[1])[..4],
        [0xaaaa, 0xeeee_eeee, 0xbbbb, 0xeeee_eeee]
    );
    assert_eq!(get32(&m.v.st.vec[2])[..3], [0; 3]);
    assert_eq!(
        m.v.st.vec[2][15], 0x80,
        "the one that faulted is still wanted"
    );
    m.v.st.vec[3][12..16].copy_from_slice(&(-4i32).to_le_bytes());
    m.write(0x2_fff0, 4, 0xcccc);
    assert_eq!(gather(&mut m.v, 0x3_0000, b, four_dwords()), Ok(0));
    assert_eq!(
        get32(&m.v.st.vec[1])[..4],
        [0xaaaa, 0xeeee_eeee, 0xbbbb, 0xcccc]
    );
    assert_eq!((m.v.st.vec[1][16], m.v.st.vec[2]), (0, [0; 64]));
}

#[test]
fn upper_halves_are_cleared_of_the_registers_that_there_are() {
    let mut m = machine();
    m.v.st.vec = [[1; 64]; 32];
    assert!(!clear_uppers(&mut m.v, Code::Emms));
    assert!(clear_uppers(&mut m.v, Code::VEX_Vzeroupper));
    assert_eq!(
        (m.v.st.vec[15][15], m.v.st.vec[15][16], m.v.st.vec[16][16]),
        (1, 0, 1)
    );
    assert!(clear_uppers(&mut m.v, Code::VEX_Vzeroall));
    assert_eq!((m.v.st.vec[15][15], m.v.st.vec[16][0]), (0, 1));
    let mut p = Machine::protected(0);
    p.v.st.vec = [[1; 64]; 32];
    assert!(clear_uppers(&mut p.v, Code::VEX_Vzeroupper));
    assert_eq!((p.v.st.vec[7][16], p.v.st.vec[8][16]), (0, 1));
}

#[test]
fn x87_operands_and_pointers() {
    let mut m = machine();
    m.v.ip = 0x1234_5678_9abc;
    m.v.temps[5] = 0x7777;
    m.v.vec_temps[1][..8].copy_from_slice(&1.5f64.to_le_bytes());
    let memory = [
        Operand::VecTemp(VecTemp(1)),
        Operand::Temp(Temp(5)),
        Operand::Imm(Seg::Ds as i64),
    ];
    assert_eq!(run_x87(&mut m, Code::Fld_m64fp, NONE, memory), Ok(true));
    assert_eq!((m.v.st.fpu.top(), m.v.st.fpu.ftw), (7, 0x80));
    assert_eq!((m.v.st.fpu.fip, m.v.st.fpu.fdp), (0x1234_5678_9abc, 0x7777));
    assert_eq!(
        (m.v.st.fpu.fcs, m.v.st.fpu.fds),
        (0, 0),
        "the default model keeps no selectors"
    );
    assert_eq!(
        run_x87(
            &mut m,
            Code::Fadd_st0_sti,
            NONE,
            [Operand::Imm(0), NONE, NONE]
        ),
        Ok(true)
    );
    let dst = Operand::VecTemp(VecTemp(2));
    let place = [NONE, Operand::Temp(Temp(5)), Operand::Imm(Seg::Ss as i64)];
    assert_eq!(run_x87(&mut m, Code::Fstp_m32fp, dst, place), Ok(true));
    assert_eq!(m.v.vec_temps[2][..4], 3.0f32.to_le_bytes());
    assert_eq!(
        run_x87(&mut m, Code::Fnstsw_AX, Operand::Reg(Gpr::Rax), [NONE; 3]),
        Ok(true)
    );
    assert_eq!(m.v.st.gpr[0] & 0xffff, u64::from(m.v.st.fpu.fsw));
    m.v.model = Arc::new(CpuModel::parse("default,-zero-fcs-fds").expect("it exists"));
    assert_eq!(run_x87(&mut m, Code::Fld_m64fp, NONE, memory), Ok(true));
    assert_eq!(m.v.st.fpu.fcs, m.v.seg(Seg::Cs).selector);
    assert_eq!(m.v.st.fpu.fds, m.v.seg(Seg::Ds).selector);
    assert_eq!(run_x87(&mut m, Code::Fldz, NONE, [NONE; 3]), Ok(true));
    m.v.set_status(x86::flags::STATUS, x86::flags::STATUS);
    assert_eq!(
        run_x87(
            &mut m,
            Code::Fcomi_st0_sti,
            NONE,
            [Operand::Imm(1), NONE, NONE]
        ),
        Ok(true)
    );
    assert_eq!(m.v.status(), x86::flags::CF, "0 is below 1.5");
}

#[test]
fn unmasked_x87_exceptions() {
    let mut m = machine();
    // A store from an empty stack, unmasked: nothing is to be stored, and the next waiting instruction faults.
    m.v.st.fpu.fcw = 0x37e;
    let dst = Operand::VecTemp(VecTemp(2));
    let before = m.v.vec_temps[2];
    assert_eq!(run_x87(&mut m, Code::Fstp_m64fp, dst, [NONE; 3]), Ok(false));
    assert_eq!(m.v.vec_temps[2], before);
    assert_eq!(m.v.st.fpu.fsw & 0x80ff, 0x80c1);
    assert_eq!(
        run_x87(&mut m, Code::Fld1, NONE, [NONE; 3]),
        Err(Exception::MF)
    );
    assert_eq!(fpu_check(&mut m.v, 0, 0, 0), Err(Exception::MF));
    assert_eq!(
        run_x87(&mut m, Code::Fnstcw_m2byte, dst, [NONE; 3]),
        Ok(true),
        "it doesn't wait"
    );
    // Without CR0.NE the wait is ignored and the exception stays.
    m.v.st.cr0 &= !cr0::NE;
    assert_eq!(fpu_check(&mut m.v, 0, 0, 0), Ok(0));
    assert_eq!(run_x87(&mut m, Code::Fld1, NONE, [NONE; 3]), Ok(true));
    assert_eq!(m.v.st.fpu.fsw & 0x80c1, 0x80c1);
    assert_eq!(run_x87(&mut m, Code::Fnclex, NONE, [NONE; 3]), Ok(true));
    assert_eq!(m.v.st.fpu.fsw & 0x80ff, 0);
}
