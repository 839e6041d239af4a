//! Fuzz target: random lines, and random bytes as code in every mode. No input may panic, hang, or reach the next case.

use system::CpuModel;

use super::case::Case;
use super::run::Exec;

/// How often a case may call the engine.
const PATIENCE: u64 = 64;
/// Lines that one input may hold.
const LINES: usize = 32;

/// Runs arbitrary bytes: the first chooses between lines of JSON and code, and the mode of the code.
///
/// # Panics
/// When an answer is not JSON, or a case's outcome depends on what was run before: a bug.
pub fn fuzz(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let mut exec = Exec::new(CpuModel::default());
    exec.patience = PATIENCE;
    if choice & 1 == 0 {
        lines(&mut exec, rest);
    } else {
        code(&mut exec, choice, rest);
    }
}

fn lines(exec: &mut Exec, data: &[u8]) {
    for line in data.split(|b| *b == b'\n').take(LINES) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        exec.answer(line, &mut first);
        exec.answer(line, &mut second);
        assert_eq!(first, second, "a case sees the one before it");
        // An id goes back as it came, with numbers and escapes that nobody looks at.
        let answer: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&first);
        assert!(answer.is_ok(), "no JSON");
    }
}

fn code(exec: &mut Exec, choice: u8, data: &[u8]) {
    let seed = data.iter().fold(u64::from(choice), |hash, b| {
        (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    let bytes = &data[..data.len().min(256)];
    let mut case = match choice >> 1 & 3 {
        0 => Case::real(bytes),
        1 => Case::vm86(bytes),
        2 => Case::protected(bytes),
        _ => Case::long(bytes),
    };
    // Registers that lead somewhere, mostly.
    let mut word = seed;
    for name in ["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r15"] {
        word = word
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        let value = match word >> 60 {
            0..8 => word >> 20 & 0x1f_ffff,
            8..12 => word >> 40,
            _ => word,
        };
        case = case.reg(name, value);
    }
    case = case.steps(48).deliver(choice >> 3 & 1 != 0);
    let first = exec.run(&case);
    // Something else in between, in the same memory.
    let other = exec.run(
        &Case::real(&[0xf3, 0xaa])
            .reg("rcx", 0x100)
            .reg("rdi", seed & 0xffff),
    );
    assert!(other.is_ok());
    let second = exec.run(&case);
    match (first, second) {
        (Ok(first), Ok(second)) => assert_eq!(first, second, "a case sees the one before it"),
        (first, second) => {
            panic!("a state that the constructors made is refused: {first:?} {second:?}")
        }
    }
}
