//! What fuzzing has found, each as the shortest program that shows it.

use system::CpuModel;
use x86::TableReg;

use crate::exec::{Case, End, Exec, Outcome};

/// So many steps that blocks are chained; the programs end in HLT.
const CHAINED: u64 = 1000;

fn run(case: &Case) -> Outcome {
    ir::verify::enable(true);
    Exec::new(CpuModel::default())
        .run(case)
        .expect("the case is one")
}

fn long(code: &[u8]) -> Case {
    Case::long(code).steps(CHAINED)
}

#[test]
fn a_string_downwards_from_the_last_byte() {
    // std; rep lodsb: the number of elements below the pointer overflowed.
    let case = Case::long(&[0xfd, 0xf3, 0xac])
        .reg("rsi", u64::MAX)
        .reg("rcx", 5)
        .steps(2)
        .deliver(false);
    let fault = run(&case).exception.expect("nothing is mapped there");
    assert_eq!((fault.vector, fault.cr2), (14, Some(u64::MAX)));
}

#[test]
fn a_helper_that_stores_over_the_next_instruction() {
    // sgdt [rip]; mov al, 2; hlt: the limit and the base become mov al, 1; hlt.
    let code = [
        0x0f, 0x01, 0x05, 0, 0, 0, 0, 0xb0, 2, 0xf4, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xf4,
    ];
    let case = long(&code).reg(
        "gdtr",
        TableReg {
            base: 0xf4,
            limit: 0x01b0,
        },
    );
    let outcome = run(&case);
    assert_eq!(
        (outcome.number("rax"), outcome.retired, outcome.end),
        (Some(1), 3, End::Halt)
    );
}

#[test]
fn a_store_over_the_instruction_that_hides_its_register() {
    // xadd [rip], eax; mov eax, 0: the next instruction becomes HLT, so that EAX is what XADD left.
    let code = [0x0f, 0xc1, 0x05, 0, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xf4];
    let outcome = run(&long(&code).reg("rax", 0x9090_90f4 - 0xb8));
    assert_eq!(
        (outcome.number("rax"), outcome.retired, outcome.end),
        (Some(0xb8), 2, End::Halt)
    );
}

#[test]
fn a_store_over_the_instruction_that_hides_its_flags() {
    // add dword [rip], eax; add ecx, ecx: the next instruction becomes HLT, so that the flags are those of the sum.
    let code = [0x01, 0x05, 0, 0, 0, 0, 0x01, 0xc9, 0x90, 0x90, 0xf4];
    let outcome = run(&long(&code).reg("rax", 0xff90_90f4_u64.wrapping_sub(0x9090_c901)));
    // FF9090F4h: sign, an odd number of ones in the low byte, no carry.
    assert_eq!(
        (outcome.number("rflags"), outcome.retired, outcome.end),
        (Some(0x82), 2, End::Halt)
    );
}
