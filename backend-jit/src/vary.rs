//! Which constants of a block may be read from the guest's code at run time instead of being part of the translation.
//!
//! Found by trying: the code is lifted with two other values in the constant's place. If the two blocks of IR differ in
//! nothing but operands that hold just those values, in ops whose meaning does not depend on the value, then the block is
//! right for every value once these operands are read.

use frontend_x86::Constant;
use ir::{Block, OpCode, Operand, Temp, Width};

use crate::x64::emit::Field;

/// Constants of a block that are read at most.
const MAX_FIELDS: usize = 8;

/// The values tried: the top bit of every byte set in one, clear in the other.
const TRIED: [u64; 2] = [0xa5c3_96e1_8db7_d2b5, 0x3a59_2c7e_4d1b_5e37];

/// The value tried for the constant of a number, all different.
fn tried(which: usize, number: usize) -> u64 {
    TRIED[which] ^ (0x0202_0202_0202_0202 * (number as u64 % 16))
}

/// An operand that is a constant's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    A,
    B,
    Displacement,
}

/// Where a constant shows up: op, operand.
type Slots = Vec<(usize, Slot)>;

fn width(size: u32) -> Option<Width> {
    Width::ALL
        .into_iter()
        .find(|w| u32::from(w.bytes()) == size)
}

fn extended(value: u64, size: Width, signed: bool) -> i64 {
    let shift = 64 - size.bits();
    if signed {
        (value << shift).cast_signed() >> shift
    } else {
        (value << shift >> shift).cast_signed()
    }
}

/// Whether an op means the same whatever the value of the operand is.
fn uniform(op: &ir::Op, slot: Slot) -> bool {
    use OpCode as C;
    let arithmetic = matches!(
        op.alu(),
        C::Add | C::Adc | C::Sub | C::Sbb | C::And | C::Or | C::Xor
    );
    match slot {
        Slot::A => matches!(op.code, C::Mov | C::Store) || op.code == C::Rmw && arithmetic,
        Slot::B => op.code != C::Rmw && (arithmetic || op.code == C::Imul),
        // Beside a constant base there is no room for it in an address.
        Slot::Displacement => op.mem.is_some_and(|m| {
            let based = matches!(m.base, Operand::None | Operand::Reg(_) | Operand::Temp(_));
            based && m.index == Operand::None && m.addr >= Width::B32
        }),
    }
}

/// What an operand holds, and the same op without it.
fn without(op: &ir::Op, slot: Slot) -> Option<(i64, ir::Op)> {
    let mut rest = *op;
    let value = match slot {
        Slot::A => std::mem::replace(&mut rest.a, Operand::None),
        Slot::B => std::mem::replace(&mut rest.b, Operand::None),
        Slot::Displacement => {
            let mem = rest.mem.as_mut()?;
            Operand::Imm(i64::from(std::mem::take(&mut mem.disp)))
        }
    };
    match value {
        Operand::Imm(n) => Some((n, rest)),
        _ => None,
    }
}

/// The operands in which two blocks differ, if these hold the values `tried` of constant `number`; and how it is extended.
fn slots(one: &Block, two: &Block, size: Width, number: usize) -> Option<(Slots, bool)> {
    let head = |b: &Block| (b.ops.len(), b.len, b.insns, b.temps, b.vec_temps);
    if head(one) != head(two) {
        return None;
    }
    let mut found = Vec::new();
    let mut how = None;
    for (at, (a, b)) in one.ops.iter().zip(&two.ops).enumerate() {
        if a == b {
            continue;
        }
        let (slot, x, y) = [Slot::A, Slot::B, Slot::Displacement]
            .into_iter()
            .find_map(|slot| {
                let ((x, a), (y, b)) = (without(a, slot)?, without(b, slot)?);
                (a == b).then_some((slot, x, y))
            })?;
        let signed = [true, false].into_iter().find(|signed| {
            [x, y] == [0, 1].map(|which| extended(tried(which, number), size, *signed))
        })?;
        if !uniform(a, slot) || how.is_some_and(|how| how != signed) {
            return None;
        }
        how = Some(signed);
        found.push((at, slot));
    }
    Some((found, how.unwrap_or(false)))
}

fn put(bytes: &mut [u8], constant: Constant, value: u64) {
    let at = constant.at as usize;
    bytes[at..at + constant.size as usize]
        .copy_from_slice(&value.to_le_bytes()[..constant.size as usize]);
}

/// The code with its constants read at run time, as far as `varies` says that they change and that is possible; `None`:
/// none of them. `lift` translates bytes into IR.
pub fn generalise(
    bytes: &[u8],
    constants: &[Constant],
    varies: impl Fn(Constant) -> bool,
    mut lift: impl FnMut(&[u8]) -> Block,
) -> Option<(Block, Vec<Field>)> {
    let mut base = bytes.to_vec();
    let mut accepted: Vec<(Constant, Width)> = Vec::new();
    let mut blocks = |base: &[u8], constant: Constant, number: usize| {
        [0, 1].map(|which| {
            let mut bytes = base.to_vec();
            put(&mut bytes, constant, tried(which, number));
            lift(&bytes)
        })
    };
    for constant in constants.iter().filter(|c| varies(**c)) {
        let number = accepted.len();
        let Some(size) = width(constant.size) else {
            continue;
        };
        if number == MAX_FIELDS {
            break;
        }
        let [one, two] = blocks(&base, *constant, number);
        if slots(&one, &two, size, number).is_some() {
            put(&mut base, *constant, tried(0, number));
            accepted.push((*constant, size));
        }
    }
    // Again, now that all of them have the values tried: what the others are may matter.
    let mut result: Option<Block> = None;
    let mut fields = Vec::new();
    for (number, (constant, size)) in accepted.iter().enumerate() {
        let [one, two] = blocks(&base, *constant, number);
        let (slots, signed) = slots(&one, &two, *size, number)?;
        let block = result.get_or_insert(one);
        let temp = block.temps;
        block.temps += 1;
        for (at, slot) in slots {
            let op = block.ops.get_mut(at)?;
            let operand = Operand::Temp(Temp(temp));
            match slot {
                Slot::A => op.a = operand,
                Slot::B => op.b = operand,
                Slot::Displacement => {
                    let mem = op.mem.as_mut()?;
                    if mem.index != Operand::None {
                        // Two constants in one operand.
                        return None;
                    }
                    (mem.index, mem.scale, mem.disp) = (operand, 0, 0);
                }
            }
        }
        fields.push(Field {
            at: constant.at as u16,
            size: *size,
            signed,
            temp,
        });
    }
    fields.sort_unstable_by_key(|f| f.at);
    result.map(|block| (block, fields))
}

#[cfg(test)]
mod tests {
    use frontend_x86::{Features, Limits, Mode, constants, lift};
    use ir::{Operand, Width};

    use super::generalise;

    /// The constants that are read of code in which all vary: offset, size, sign-extended.
    fn read(code: &[u8]) -> Vec<(u16, Width, bool)> {
        let (mode, features) = (Mode::long64(), Features::v2_plus());
        let limits = Limits {
            max_insns: 64,
            page: code.len() as u32,
            branches: 0,
        };
        let found = generalise(
            code,
            &constants(code, mode, &features),
            |_| true,
            |bytes| {
                let mut block = lift(bytes, &limits, mode, &features).block;
                ir::opt::run(&mut block, ir::opt::Switches::ALL);
                block
            },
        );
        let Some((block, fields)) = found else {
            return Vec::new();
        };
        for field in &fields {
            let temp = Operand::Temp(ir::Temp(field.temp));
            assert!(
                block.ops.iter().any(|op| op.a == temp
                    || op.b == temp
                    || op.mem.is_some_and(|m| m.index == temp)),
                "{field:?} is read in vain"
            );
        }
        fields.iter().map(|f| (f.at, f.size, f.signed)).collect()
    }

    #[test]
    fn data_and_addresses_are_read() {
        let w = [Width::B8, Width::B16, Width::B32, Width::B64];
        // mov eax, imm32; ret
        assert_eq!(read(&[0xb8, 0, 0, 0, 0, 0xc3]).len(), 1);
        // mov rax, imm64; ret
        let long = [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xc3];
        assert_eq!(read(&long)[0].0..read(&long)[0].0 + 8, 2..10);
        // add rax, imm8, whose value 0 would be no addition; ret
        assert_eq!(read(&[0x48, 0x83, 0xc0, 0, 0xc3]), [(3, w[0], true)]);
        // mov rax, [rbx+disp32]; cmp dword [rax+disp8], imm32; ret
        let cache = [
            0x48, 0x8b, 0x83, 0, 1, 0, 0, 0x81, 0x78, 8, 1, 2, 3, 4, 0xc3,
        ];
        let fields = read(&cache);
        assert_eq!(fields.iter().map(|f| f.0).collect::<Vec<_>>(), [3, 9, 10]);
        assert!(fields[0].2 && fields[1].2, "displacements have a sign");
        // mov word [rbx], imm16; ret
        assert_eq!(read(&[0x66, 0xc7, 0x03, 1, 2, 0xc3])[0].1, w[1]);
    }

    #[test]
    fn what_the_meaning_depends_on_is_not_read() {
        for code in [
            &[0xc1, 0xe0, 5, 0xc3][..],         // shl eax, 5: none by 0
            &[0xe9, 1, 2, 0, 0],                // jmp
            &[0x75, 4],                         // jne
            &[0xc2, 8, 0],                      // ret 8
            &[0xcd, 0x80],                      // int 80h
            &[0x66, 0x0f, 0x70, 0xc1, 3, 0xc3], // pshufd
            &[0x8b, 0x44, 0x8b, 4, 0xc3],       // mov eax, [rbx+rcx*4+4]: both registers are taken
            &[0x8b, 0x05, 1, 0, 0, 0, 0xc3],    // mov eax, [rip+1]
            &[0x0f, 0xba, 0xe0, 3, 0xc3],       // bt eax, 3
        ] {
            assert_eq!(read(code), [], "{code:x?}");
        }
    }
}
