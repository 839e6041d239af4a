//! What the programs work on, made anew each time from a fixed seed by integer arithmetic: the same on every host.

/// A small random number generator (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }
}

/// Text of `len` bytes: lines of words, some of them far more frequent than others, and numbers.
pub fn text(len: usize) -> Vec<u8> {
    let mut random = Random(0x5EED);
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            let letters = 2 + random.below(9);
            (0..letters)
                .map(|_| {
                    b"etaoinshrdlucmfwypvbgkqj"[random.below(24).min(random.below(24)) as usize]
                })
                .collect()
        })
        .collect();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        for _ in 0..4 + random.below(12) {
            if random.below(12) == 0 {
                text.extend(random.below(100_000).to_string().bytes());
            } else {
                // Dividing makes a word's frequency fall with its number, as in a language.
                let index = random.below(4096) / (1 + random.below(64));
                text.extend(words.get(index as usize).into_iter().flatten());
            }
            text.push(b' ');
        }
        text.pop();
        text.push(b'\n');
    }
    text.truncate(len);
    text
}

/// About a sine: a parabola for each half period. `phase`: a period is 2^32; result within -32767 to 32767.
fn wave(phase: u32) -> i64 {
    let x = i64::from(phase >> 1 & 0x3FFF_FFFF) >> 15; // 0 to 32767 in half a period
    let y = (x * (32_767 - x)) >> 13;
    if phase >> 31 == 0 { y } else { -y }
}

/// A sound file (RIFF WAVE, 44.1 kHz, 16 bits, stereo) of so many seconds: decaying tones and noise.
pub fn sound(seconds: u32) -> Vec<u8> {
    const RATE: u32 = 44_100;
    let frames = seconds * RATE;
    let bytes = frames * 4;
    let mut out = Vec::with_capacity(44 + bytes as usize);
    out.extend(b"RIFF");
    out.extend((36 + bytes).to_le_bytes());
    out.extend(b"WAVEfmt ");
    out.extend(16u32.to_le_bytes());
    for field in [1u16, 2] {
        out.extend(field.to_le_bytes()); // PCM, channels
    }
    out.extend(RATE.to_le_bytes());
    out.extend((RATE * 4).to_le_bytes());
    for field in [4u16, 16] {
        out.extend(field.to_le_bytes()); // bytes a frame, bits a sample
    }
    out.extend(b"data");
    out.extend(bytes.to_le_bytes());

    let mut random = Random(0xA0D10);
    let mut tones = [(0u32, 0u32, 0i64); 4]; // phase, its step, loudness
    for frame in 0..frames {
        if frame % 7_350 == 0 {
            let hertz = 80 + random.below(1_800);
            let step = (u64::from(hertz) << 32) / u64::from(RATE);
            tones[(frame / 7_350 % 4) as usize] = (0, step as u32, 9_000);
        }
        let mut sides = [0, 0];
        for (index, (phase, step, loudness)) in tones.iter_mut().enumerate() {
            *phase = phase.wrapping_add(*step);
            let value = (wave(*phase) * *loudness) >> 15;
            sides[0] += value * (index as i64 + 1) / 4;
            sides[1] += value * (4 - index as i64) / 4;
            if frame % 16 == 0 {
                *loudness -= *loudness >> 9;
            }
        }
        for side in sides {
            let value = side + i64::from(random.below(300)) - 150;
            out.extend((value.clamp(-32_768, 32_767) as i16).to_le_bytes());
        }
    }
    out
}

/// A picture (binary PPM, 8 bits a colour) with slopes, edges and noise.
pub fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut random = Random(0x91C);
    let mut out = format!("P6\n{width} {height}\n255\n").into_bytes();
    for y in 0..height {
        for x in 0..width {
            let slope = wave(x << 22 ^ y << 21) >> 9;
            let edge = if (x / 37 + y / 53) % 3 == 0 { 60 } else { 0 };
            for colour in 0..3u32 {
                let slow = wave((x * (colour + 1) + y * 2) << 20) >> 10;
                let value = 110 + slope + edge + slow + i64::from(random.below(12));
                out.push(value.clamp(0, 255) as u8);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{picture, sound, text, wave};
    use std::collections::BTreeSet;

    #[test]
    fn sizes_and_headers() {
        let words = text(100_000);
        assert_eq!(words.len(), 100_000);
        assert_eq!(words, text(100_000));
        assert!(
            words
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b" \n".contains(b))
        );

        let wav = sound(2);
        assert_eq!(wav.len(), 44 + 2 * 44_100 * 4);
        assert_eq!(&wav[8..16], b"WAVEfmt ");
        assert_eq!(wav[40..44], (2u32 * 44_100 * 4).to_le_bytes());
        let samples: BTreeSet<_> = wav[44..].chunks(2).map(|c| [c[0], c[1]]).collect();
        assert!(samples.len() > 5_000, "{}", samples.len());

        let ppm = picture(256, 192);
        assert!(ppm.starts_with(b"P6\n256 192\n255\n"));
        assert_eq!(ppm.len(), 15 + 256 * 192 * 3);
        assert!(ppm[15..].iter().collect::<BTreeSet<_>>().len() > 100);
    }

    #[test]
    fn waves_are_symmetric_and_bounded() {
        let all = (0..=u32::MAX).step_by(65_521).map(wave);
        let (low, high) = all.fold((0, 0), |(l, h), v| (v.min(l), v.max(h)));
        assert!(
            (32_000..=32_768).contains(&high) && (-32_768..=-32_000).contains(&low),
            "{low} {high}"
        );
        assert_eq!(wave(1 << 30), -wave(3 << 30));
    }
}
