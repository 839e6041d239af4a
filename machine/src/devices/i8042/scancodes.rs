//! Keys and the three scancode sets (IBM PS/2 hardware interface technical reference, keyboard section).

/// A key, named by its set 1 make code: the code itself, or E0xxh for a key with the E0h prefix. Pause is E11Dh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyCode(pub u16);

impl KeyCode {
    /// The Pause key, which has a sequence of its own and no break code.
    pub const PAUSE: Self = Self(0xe11d);
    /// The Print Screen key.
    pub const PRINT_SCREEN: Self = Self(0xe037);

    /// The key as its prefix (`None` for a key without) and its code.
    fn parts(self) -> (bool, u8) {
        let [code, prefix] = self.0.to_le_bytes();
        (prefix != 0, code & 0x7f)
    }
}

/// The keyboard controller's translation of set 2 to set 1, for codes up to 7Fh.
const SET2_TO_SET1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
    0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03,
    0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06,
    0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09,
    0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c,
    0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f,
    0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46,
    0x54, //
];

/// Set 1 codes (E0h-prefixed ones from 100h on) whose set 3 code isn't their set 2 code.
const SET3_EXCEPTIONS: &[(u16, u8)] = &[
    (0x01, 0x08),
    (0x3b, 0x07),
    (0x3c, 0x0f),
    (0x3d, 0x17),
    (0x3e, 0x1f),
    (0x3f, 0x27),
    (0x40, 0x2f),
    (0x41, 0x37),
    (0x42, 0x3f),
    (0x43, 0x47),
    (0x44, 0x4f),
    (0x57, 0x56),
    (0x58, 0x5e),
    (0x46, 0x5f),
    (0x3a, 0x14),
    (0x1d, 0x11),
    (0x38, 0x19),
    (0x2b, 0x5c),
    (0x45, 0x76),
    (0x37, 0x7e),
    (0x4a, 0x84),
    (0x4e, 0x7c),
    (0x137, 0x57),
    (0x138, 0x39),
    (0x11d, 0x58),
    (0x15b, 0x8b),
    (0x15c, 0x8c),
    (0x15d, 0x8d),
    (0x152, 0x67),
    (0x153, 0x64),
    (0x14b, 0x61),
    (0x147, 0x6e),
    (0x14f, 0x65),
    (0x148, 0x63),
    (0x150, 0x60),
    (0x149, 0x6f),
    (0x151, 0x6d),
    (0x14d, 0x6a),
    (0x135, 0x77),
    (0x11c, 0x79),
];

/// What the controller makes of a byte from the keyboard when it translates; break prefixes are its caller's.
pub(super) fn translate(byte: u8) -> u8 {
    match byte {
        0x83 => 0x41,
        0x84 => 0x54,
        _ => SET2_TO_SET1.get(usize::from(byte)).copied().unwrap_or(byte),
    }
}

/// The set 2 code of a set 1 code.
fn set2_of(set1: u8) -> u8 {
    match set1 {
        // F7 and SysRq lie above 7Fh.
        0x41 => 0x83,
        0x54 => 0x84,
        _ => SET2_TO_SET1
            .iter()
            .position(|&code| code == set1)
            .unwrap_or(0) as u8,
    }
}

/// The bytes a keyboard in scancode set `set` (1, 2, 3) sends when `key` goes down or up.
pub(super) fn encode(key: KeyCode, pressed: bool, set: u8) -> Vec<u8> {
    let (extended, code) = key.parts();
    match (key, set) {
        (KeyCode::PAUSE, 1) if pressed => return vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
        (KeyCode::PAUSE, 2) if pressed => {
            return vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77];
        }
        (KeyCode::PAUSE, 3) => {
            return if pressed {
                vec![0x62]
            } else {
                vec![0xf0, 0x62]
            };
        }
        (KeyCode::PAUSE, _) => return Vec::new(),
        (KeyCode::PRINT_SCREEN, 1) if pressed => return vec![0xe0, 0x2a, 0xe0, 0x37],
        (KeyCode::PRINT_SCREEN, 1) => return vec![0xe0, 0xb7, 0xe0, 0xaa],
        (KeyCode::PRINT_SCREEN, 2) if pressed => return vec![0xe0, 0x12, 0xe0, 0x7c],
        (KeyCode::PRINT_SCREEN, 2) => return vec![0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12],
        _ => {}
    }
    let mut bytes = Vec::new();
    if set == 3 {
        let name = u16::from(code) | u16::from(extended) << 8;
        let exception = SET3_EXCEPTIONS.iter().find(|&&(set1, _)| set1 == name);
        if !pressed {
            bytes.push(0xf0);
        }
        bytes.push(exception.map_or_else(|| set2_of(code), |&(_, set3)| set3));
        return bytes;
    }
    if extended {
        bytes.push(0xe0);
    }
    if set == 1 {
        bytes.push(code | if pressed { 0 } else { 0x80 });
    } else {
        if !pressed {
            bytes.push(0xf0);
        }
        bytes.push(set2_of(code));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{KeyCode, encode, translate};

    #[test]
    fn set_2_translated_is_set_1_for_every_key() {
        for code in (1..0x7f)
            .chain([0xe01c, 0xe048, 0xe05b])
            .filter(|&c| c != 0x80)
        {
            for pressed in [true, false] {
                let key = KeyCode(code);
                let mut broken = false;
                let mut translated = Vec::new();
                for byte in encode(key, pressed, 2) {
                    if byte == 0xf0 {
                        broken = true;
                    } else {
                        translated.push(translate(byte) | if broken { 0x80 } else { 0 });
                        broken = false;
                    }
                }
                assert_eq!(translated, encode(key, pressed, 1), "{key:x?}");
            }
        }
    }

    #[test]
    fn known_codes() {
        assert_eq!(encode(KeyCode(0x1e), true, 2), [0x1c], "A");
        assert_eq!(encode(KeyCode(0x1e), false, 2), [0xf0, 0x1c]);
        assert_eq!(encode(KeyCode(0xe048), true, 2), [0xe0, 0x75], "up");
        assert_eq!(encode(KeyCode(0x41), true, 2), [0x83], "F7");
        assert_eq!(
            encode(KeyCode(0x1d), false, 3),
            [0xf0, 0x11],
            "left control"
        );
        assert_eq!(encode(KeyCode::PAUSE, true, 2).len(), 8);
        assert!(encode(KeyCode::PAUSE, false, 2).is_empty());
    }
}
