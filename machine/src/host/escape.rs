//! Ctrl-A on a raw terminal: Ctrl-A x quits, Ctrl-A a is a Ctrl-A for the guest, Ctrl-A h tells so.

const CTRL_A: u8 = 1;

/// The keys.
pub const HELP: &str = "Ctrl-A x quits, Ctrl-A a sends Ctrl-A, Ctrl-A h shows this";

/// What a typed byte comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Nothing yet.
    Nothing,
    /// This byte for the guest.
    Byte(u8),
    /// These two for the guest: the sequence means nothing here.
    Both(u8, u8),
    /// The user wants to quit.
    Quit,
    /// The user wants to know the keys: show [`HELP`].
    Help,
}

/// Looks for escape sequences in what is typed.
#[derive(Clone, Copy, Debug, Default)]
pub struct EscapeFilter {
    after_ctrl_a: bool,
}

impl EscapeFilter {
    /// The next typed byte.
    pub fn feed(&mut self, byte: u8) -> Escape {
        if !std::mem::take(&mut self.after_ctrl_a) {
            self.after_ctrl_a = byte == CTRL_A;
            return if self.after_ctrl_a {
                Escape::Nothing
            } else {
                Escape::Byte(byte)
            };
        }
        match byte {
            b'x' | b'X' => Escape::Quit,
            b'h' | b'?' => Escape::Help,
            b'a' | CTRL_A => Escape::Byte(CTRL_A),
            _ => Escape::Both(CTRL_A, byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Escape, EscapeFilter};

    #[test]
    fn sequences() {
        let mut filter = EscapeFilter::default();
        let got: Vec<_> = b"a\x01\x01\x01bx\x01a\x01h\x01x"
            .iter()
            .map(|&b| filter.feed(b))
            .collect();
        let nothing = Escape::Nothing;
        let byte = Escape::Byte;
        assert_eq!(
            got,
            [
                byte(b'a'),
                nothing,
                byte(1),
                nothing,
                Escape::Both(1, b'b'),
                byte(b'x'),
                nothing,
                byte(1),
                nothing,
                Escape::Help,
                nothing,
                Escape::Quit
            ]
        );
    }
}
