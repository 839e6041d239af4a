//! Loads that find large pages by their table.

use backend_jit::{By, Jit, Options};
use frontend_x86::Features;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use system::testing::{Machine, START, TABLES};
use system::{Engine, Exit};
use x86::{Gpr, LinAddr, PhysAddr};

use crate::support::{machine_at, reg};

/// A large page of linear addresses, and the two that RAM has for it.
const LARGE: u64 = 2 << 20;
const AT: u64 = 3 * LARGE;
const FIRST: u64 = LARGE;
const SECOND: u64 = 0;
/// Its entry in the page directory.
const ENTRY: u64 = TABLES + 0x2000 + 3 * 8;
/// Offsets of pages that the program does not go through.
const ALONE: [u64; 3] = [0x18_0000, 0x18_1008, 0x18_2010];

/// Goes through pages of the large one, again and again; then loads from R8 to R9, and stays there.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut each, mut end) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(rsi, AT)?;
    a.mov(ebx, 20)?;
    a.set_label(&mut top)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut each)?;
    a.add(rax, qword_ptr(rsi + rcx))?;
    a.xor(rdx, qword_ptr(rsi + rcx + 64))?;
    a.movups(xmm1, xmmword_ptr(rsi + rcx + 16))?;
    a.pxor(xmm0, xmm1)?;
    a.add(rcx, 0x1008)?;
    a.cmp(ecx, 0x2_0000)?;
    a.jb(each)?;
    a.dec(ebx)?;
    a.jnz(top)?;
    a.mov(r9, qword_ptr(r8))?;
    a.set_label(&mut end)?;
    a.jmp(end)
}

/// Instructions that are more than it has.
const PLENTY: u64 = 20_000;

/// User code, with all of RAM's free words holding their address.
fn machine() -> Machine {
    let m = machine_at(3, &program);
    for at in (FIRST..FIRST + LARGE).step_by(8) {
        m.ram.write_u64(PhysAddr(at), at).expect("RAM");
    }
    for at in ALONE {
        m.ram.write_u64(PhysAddr(SECOND + at), at).expect("RAM");
    }
    m.ram.write_u64(PhysAddr(ENTRY), FIRST | 0x87).expect("RAM");
    m
}

fn engine(m: &Machine, by: By) -> Jit {
    let features = Features::new(&m.v.model.features_iced());
    let options = Options {
        by,
        ..Options::default()
    };
    Jit::new(features, options)
}

/// What the program loads from an offset of the large page.
fn loaded(m: &mut Machine, jit: &mut Jit, offset: u64) -> u64 {
    m.v.st.rip = START;
    m.v.st.gpr[Gpr::R8 as usize] = AT + offset;
    assert_eq!(jit.run(&mut m.v, PLENTY), Exit::Budget);
    reg(m, Gpr::R9)
}

#[test]
fn a_large_page_is_known_whole_until_it_is_flushed() {
    let mut m = machine();
    let mut jit = engine(&m, By::Large);
    assert_eq!(loaded(&mut m, &mut jit, ALONE[0]), FIRST + ALONE[0]);
    // Nobody was told, and what is known of the page is known of all of it.
    m.ram
        .write_u64(PhysAddr(ENTRY), SECOND | 0x87)
        .expect("RAM");
    assert_eq!(loaded(&mut m, &mut jit, ALONE[1]), FIRST + ALONE[1]);
    m.v.mmu.invlpg(LinAddr(AT + 0x12_3456));
    assert_eq!(loaded(&mut m, &mut jit, ALONE[1]), ALONE[1]);
    assert_eq!(loaded(&mut m, &mut jit, ALONE[2]), ALONE[2]);
    // Only a part of it may be read now.
    let table = TABLES + 0x3000;
    for n in 0..512 {
        let rights = if n < 0x180 { 0x87 & !0x80 } else { 0 };
        let page = SECOND + n * 0x1000;
        m.ram
            .write_u64(PhysAddr(table + n * 8), page | rights)
            .expect("RAM");
    }
    m.ram.write_u64(PhysAddr(ENTRY), table | 7).expect("RAM");
    m.v.mmu.invlpg(LinAddr(AT));
    m.v.st.gpr[Gpr::R9 as usize] = 77;
    m.v.st.rip = START;
    m.v.st.gpr[Gpr::R8 as usize] = AT + ALONE[0];
    assert_eq!(jit.run(&mut m.v, PLENTY), Exit::Halted);
    assert_eq!((m.v.st.cr2, reg(&m, Gpr::R9)), (AT + ALONE[0], 77));
}

#[test]
fn an_access_beyond_a_large_page_is_on_the_next() {
    let mut m = machine();
    let mut jit = engine(&m, By::Large);
    let next = PhysAddr(ENTRY + 8);
    m.ram.write_u64(next, SECOND | 0x87).expect("RAM");
    m.ram
        .write_u64(PhysAddr(SECOND), 0x1111_2222_3333_4444)
        .expect("RAM");
    // Its last bytes, and four on each side.
    assert_eq!(loaded(&mut m, &mut jit, LARGE - 8), FIRST + LARGE - 8);
    let both = (FIRST + LARGE - 8) >> 32 | 0x3333_4444 << 32;
    assert_eq!(loaded(&mut m, &mut jit, LARGE - 4), both);
}

#[test]
fn the_sums_are_as_without() {
    let mut first = machine();
    let mut jit = engine(&first, By::Page);
    loaded(&mut first, &mut jit, 0);
    let mut m = machine();
    let mut jit = engine(&m, By::Large);
    loaded(&mut m, &mut jit, 0);
    assert!(reg(&m, Gpr::Rax) != 0 && m.v.st.vec[0][0] == 0);
    assert!(m.v.st == first.v.st, "{}\n{}", m.v.dump(), first.v.dump());
}
