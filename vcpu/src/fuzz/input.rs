//! The input as a source of decisions: bytes off the front, zeros when it has ended.

/// What is left of an input.
pub struct Input<'a> {
    rest: &'a [u8],
    /// What stands in for randomness where single bytes of input would be wasted.
    noise: u64,
}

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        let noise = data.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { rest: data, noise }
    }

    /// Nothing is left.
    pub fn ended(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        *byte
    }

    /// The low bytes of a number, lowest first.
    pub fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |value, n| value | u64::from(self.byte()) << (8 * n))
    }

    /// True for about `n` of 256 bytes; false when the input has ended.
    pub fn chance(&mut self, n: u8) -> bool {
        !self.ended() && self.byte() >= 255 - n
    }

    /// Below `n`, which is at most 256.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        if from.len() > 256 {
            return from[self.number(2) as usize % from.len()];
        }
        from[self.below(from.len())]
    }

    /// 64 bits that depend on the whole input and take nothing from it (splitmix64).
    pub fn noise(&mut self) -> u64 {
        self.noise = self.noise.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.noise;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
