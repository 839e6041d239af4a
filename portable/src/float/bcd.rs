//! Packed decimal as FBLD and FBSTP know it: 18 digits and a sign (SDM 1, 4.7).

use super::flags::IE;
use super::{Env, F80, IntKind, Out, Rounding, Unpacked, from_u64, to_int};

/// What FBSTP stores for a value that doesn't fit.
pub const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF];

/// The value of ten bytes; always exact. Nibbles above nine, undefined by the SDM, count with their value.
pub fn bcd_load(bytes: [u8; 10]) -> F80 {
    let magnitude = bytes[..9].iter().rev().fold(0u64, |value, byte| {
        value * 100 + u64::from(byte >> 4) * 10 + u64::from(byte & 15)
    });
    let env = Env {
        precision: 64,
        ..Env::from_cw(0x37F)
    };
    let mut value = from_u64::<F80>(&env, magnitude).value;
    value.se |= u16::from(bytes[9] >> 7) << 15;
    value
}

/// Rounds to 18 digits; the indefinite and IE where they don't suffice.
pub fn bcd_store(a: &Unpacked, rounding: Rounding) -> Out<[u8; 10]> {
    let magnitude = Unpacked { sign: false, ..*a };
    // Directed rounding depends on the sign that the magnitude has lost.
    let direction = match rounding {
        Rounding::Down if a.sign => Rounding::Up,
        Rounding::Up if a.sign => Rounding::Down,
        other => other,
    };
    let int = to_int(&magnitude, direction, IntKind::I64);
    if int.flags & IE != 0 || int.value >= 1_000_000_000_000_000_000 {
        return Out::new(BCD_INDEFINITE, IE);
    }
    let mut bytes = [0; 10];
    let mut rest = int.value;
    for byte in &mut bytes[..9] {
        *byte = (rest % 10) as u8 | ((rest / 10 % 10) as u8) << 4;
        rest /= 100;
    }
    bytes[9] = if a.sign { 0x80 } else { 0 };
    int.map(|_| bytes)
}

#[cfg(test)]
mod tests {
    use super::super::Float;
    use super::*;

    #[test]
    fn eighteen_digits_and_no_more() {
        let digits = [0x18, 0x90, 0x67, 0x45, 0x23, 0x01, 0x89, 0x67, 0x45, 0x80];
        let value = bcd_load(digits);
        assert!(value.sign());
        assert_eq!(
            bcd_store(&value.unpack(), Rounding::Nearest),
            Out::new(digits, 0)
        );
        let env = Env::from_cw(0x37F);
        let too_large = from_u64::<F80>(&env, 1_000_000_000_000_000_000).value;
        assert_eq!(
            bcd_store(&too_large.unpack(), Rounding::Nearest),
            Out::new(BCD_INDEFINITE, IE)
        );
    }
}
