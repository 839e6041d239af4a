//! Seeded random numbers, and the operands that find bugs: boundaries, few bits, neighbours, special floats.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Integers at the edges of the widths.
const EDGES: [u64; 22] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0x81,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0x8001,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x8000_0000_0000_0001,
    u64::MAX,
];

impl Random {
    /// A generator.
    pub const fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give the same numbers, shifted.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        z = (z ^ (z >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Self(z ^ (z >> 33))
    }

    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "an iterator could end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of a list's elements.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// An integer: anything, or small, at an edge, of few bits, sign-extended, a repeated byte.
    pub fn integer(&mut self) -> u64 {
        match self.below(12) {
            0 => self.below(16),
            1 => self.below(256),
            2 => self.pick(&EDGES),
            3 => self
                .pick(&EDGES)
                .wrapping_add(self.below(5))
                .wrapping_sub(2),
            4 => 1 << self.below(64),
            5 => u64::MAX >> self.below(64),
            6 => self.next() as i32 as u64,
            7 => u64::from(self.next() as u32),
            8 => (self.next() & 0xff) * 0x0101_0101_0101_0101,
            9 => (self.next() as i64 >> self.below(64)) as u64,
            _ => self.next(),
        }
    }

    /// A significand's fraction of `bits` bits: random, or with few bits, or near its limits.
    fn fraction(&mut self, bits: u32) -> u64 {
        let mask = u64::MAX >> (64 - bits);
        let value = match self.below(8) {
            0 => 0,
            1 => mask,
            2 => 1 << self.below(bits.into()),
            3 => mask << self.below(bits.into()),
            4 => self.next() << self.below(bits.into()),
            _ => self.next(),
        };
        let value = match self.below(8) {
            0 => value ^ 1,
            1 => value.wrapping_add(1),
            2 => value.wrapping_sub(1),
            _ => value,
        };
        value & mask
    }

    /// A biased exponent up to `max` (all ones): mostly around one, sometimes at the ends or anywhere.
    fn exponent(&mut self, max: u64) -> u64 {
        let bias = max / 2;
        match self.below(16) {
            0..=5 => bias - 8 + self.below(16),
            6..=8 => bias - bias.min(70) + self.below(2 * bias.min(70)),
            9 => self.below(4),
            10 => max - self.below(4),
            11 => 0,
            12 => max,
            13 => bias / 2 + self.below(5),
            14 => bias + bias / 2 + self.below(5),
            _ => self.below(max + 1),
        }
    }

    /// A binary16.
    pub fn f16(&mut self) -> u16 {
        (self.below(2) << 15 | self.exponent(0x1f) << 10 | self.fraction(10)) as u16
    }

    /// A binary32.
    pub fn f32(&mut self) -> u32 {
        (self.below(2) << 31 | self.exponent(0xff) << 23 | self.fraction(23)) as u32
    }

    /// A binary64.
    pub fn f64(&mut self) -> u64 {
        self.below(2) << 63 | self.exponent(0x7ff) << 52 | self.fraction(52)
    }

    /// An x87 register's ten bytes. One in 32 lacks the integer bit that it should have.
    pub fn f80(&mut self) -> [u8; 10] {
        let exponent = self.exponent(0x7fff);
        let mut significand = self.fraction(63);
        if exponent != 0 || self.one_in(4) {
            significand |= 1 << 63;
        }
        if self.one_in(32) {
            significand &= u64::MAX >> 1;
        }
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&((self.below(2) << 15 | exponent) as u16).to_le_bytes());
        bytes
    }

    /// Sixteen bytes for a vector register, in lanes of some type; `lanes` says which type to favour.
    pub fn vector(&mut self, lanes: Lanes) -> [u8; 16] {
        let mut bytes = [0; 16];
        let kind = if self.one_in(2) {
            lanes
        } else {
            self.pick(&Lanes::ALL)
        };
        let chunks = |bytes: &mut [u8; 16], size: usize, mut f: Box<dyn FnMut() -> u64 + '_>| {
            for lane in bytes.chunks_exact_mut(size) {
                lane.copy_from_slice(&f().to_le_bytes()[..size]);
            }
        };
        match kind {
            Lanes::Raw => chunks(&mut bytes, 8, Box::new(|| self.next())),
            Lanes::Bytes => chunks(&mut bytes, 1, Box::new(|| self.integer())),
            Lanes::Words => chunks(&mut bytes, 2, Box::new(|| self.integer())),
            Lanes::Dwords => chunks(&mut bytes, 4, Box::new(|| self.integer())),
            Lanes::Qwords => chunks(&mut bytes, 8, Box::new(|| self.integer())),
            Lanes::F16 => chunks(&mut bytes, 2, Box::new(|| self.f16().into())),
            Lanes::F32 => chunks(&mut bytes, 4, Box::new(|| self.f32().into())),
            Lanes::F64 => chunks(&mut bytes, 8, Box::new(|| self.f64())),
            Lanes::Text => chunks(&mut bytes, 1, Box::new(|| self.below(5))),
        }
        if self.one_in(16) {
            let (low, high) = bytes.split_at_mut(8);
            high.copy_from_slice(low);
        }
        bytes
    }
}

/// What a vector's lanes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// Random bits.
    Raw,
    /// Integers of 8 bits.
    Bytes,
    /// Integers of 16 bits.
    Words,
    /// Integers of 32 bits.
    Dwords,
    /// Integers of 64 bits.
    Qwords,
    /// binary16.
    F16,
    /// binary32.
    F32,
    /// binary64.
    F64,
    /// A few small bytes with zeros between them: strings for PCMPxSTRx.
    Text,
}

impl Lanes {
    const ALL: [Self; 8] = [
        Self::Raw,
        Self::Bytes,
        Self::Words,
        Self::Dwords,
        Self::Qwords,
        Self::F32,
        Self::F64,
        Self::Text,
    ];
}
