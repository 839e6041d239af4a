//! The fuzz target with seeded inputs: the seeds are fixed, more of them make a longer run.

use super::super::fuzz;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// How many inputs: `DOPPEL_TEST_ROUNDS` times as many as usual, and others.
fn rounds(usual: usize) -> (usize, u64) {
    let times = std::env::var("DOPPEL_TEST_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    (usual * times, times as u64)
}

#[test]
fn random_code_in_every_mode() {
    let (rounds, seed) = rounds(600);
    let mut random = Random(seed);
    for _ in 0..rounds {
        let len = 1 + random.below(64);
        let mut data = vec![random.next() as u8 | 1];
        data.extend((0..len).map(|_| random.next() as u8));
        fuzz(&data);
    }
}

#[test]
fn random_lines() {
    const SEEDS: [&str; 6] = [
        r#"{"id":1,"regs":{"rax":5,"cs":0,"rip":"0x100"},"mem":[[256,"f3aa"]],"steps":3,"deliver":false}"#,
        r#"{"regs":{"cr0":"0x80000011","cr4":32,"efer":"0x500","cr3":4096},"mem":[[4096,"0720"]]}"#,
        r#"{"regs":{"st0":"00000000000000000000","xmm3":"00112233445566778899aabbccddeeff","k1":7,"shadow":"movss"}}"#,
        r#"{"regs":{"ds":{"sel":8,"base":0,"limit":4095,"attr":"0x93"},"gdtr":{"base":1,"limit":2},"msr:0x277":6}}"#,
        r#"{"ram":65536,"mem":[[65535,"90"],[0,""]],"steps":1000}"#,
        r#"{"regs":{"rflags":"0x20002","cr0":17,"rip":0},"mem":[[983040,"cd03cc"]],"steps":4}"#,
    ];
    let (rounds, seed) = rounds(300);
    let mut random = Random(!seed);
    for round in 0..rounds {
        let mut data = vec![0];
        for _ in 0..3 {
            let mut line = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
            for _ in 0..round % 5 {
                let at = random.below(line.len());
                match random.below(4) {
                    0 => line[at] = random.next() as u8,
                    1 => drop(line.remove(at)),
                    2 => line.insert(at, b"0\"{}[],:x9-"[random.below(11)]),
                    _ => line.truncate(at.max(1)),
                }
                if line.is_empty() {
                    break;
                }
            }
            data.extend_from_slice(&line);
            data.push(b'\n');
        }
        fuzz(&data);
    }
}
